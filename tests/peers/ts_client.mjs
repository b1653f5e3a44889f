// Drives one MCP server through the TypeScript client, and prints what happened as one JSON object.
//
//   node ts_client.mjs '{"url": "http://…/mcp", "era": "legacy" | "modern" | "auto", "token": "…", "headers": {…}, "steps": {…}}'
//
// `"transport": "sse"` speaks the deprecated HTTP+SSE instead of streamable HTTP.
// `steps` replaces single entries of STEPS below; null leaves a step out. The outcomes are those of py_client.py.
import { readFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { Client, SSEClientTransport, StreamableHTTPClientTransport } from '@modelcontextprotocol/client';

const STEPS = {
  call: { name: 'add', arguments: { a: 2, b: 3 } },
  hidden: { name: 'secret', arguments: {} },
  unknown: { name: 'no_such_tool', arguments: {} },
  fail: { name: 'fail', arguments: {} },
  progress: { name: 'slow', arguments: { steps: 3, step_ms: 20, label: 'progress' } },
  cancel: { name: 'slow', arguments: { steps: 100, step_ms: 100 }, probe: 'was_cancelled' },
  elicit: { name: 'elicit', arguments: {}, answer: { colour: 'blue' } }
};
const MODES = { legacy: 'legacy', auto: 'auto', modern: { pin: '2026-07-28' } };
const STEP_TIMEOUT_MS = 20_000;
const PROBES_MAX = 40;

const spec = JSON.parse(process.argv[2]);
const steps = { ...STEPS, ...spec.steps };
const wire = [];
const sleep = ms => new Promise(done => setTimeout(done, ms));
const textOf = result => (result.content ?? []).filter(it => it.type === 'text').map(it => it.text).join('\n');

/** Every exchange on the wire: what was asked, and what came back. */
async function watched(url, init) {
  const headers = new Headers(init?.headers);
  const body = typeof init?.body === 'string' ? JSON.parse(init.body) : undefined;
  const line = { http: init?.method ?? 'GET', method: body?.method ?? (body ? 'response' : null), headers: Object.fromEntries(headers) };
  if (line.headers.authorization) line.headers.authorization = 'Bearer …';
  wire.push(line);
  const response = await fetch(url, init);
  line.status = response.status;
  line.type = response.headers.get('content-type');
  return response;
}

async function outcome(act) {
  const start = performance.now();
  const rest = await act().catch(fault => ({
    ok: false, error: fault.name, code: fault.code, message: fault.message, data: fault.data
  }));
  return { ok: true, ...rest, ms: Math.round(performance.now() - start) };
}

const answer = result => ({ text: textOf(result), isError: result.isError === true });
const call = (client, step, options) =>
  client.callTool({ name: step.name, arguments: step.arguments }, { timeout: STEP_TIMEOUT_MS, ...options });

async function withProgress(client, step) {
  const notifications = [];
  const result = await call(client, step, { onprogress: it => notifications.push(it) });
  return { ...answer(result), notifications };
}

/** Cancels at the first progress, then asks the server (when it can tell) whether it noticed. */
async function cancelled(client, step) {
  const label = `cancel-${process.pid}-${Date.now()}`;
  const stop = new AbortController();
  const running = call(client, { ...step, arguments: { ...step.arguments, ...(step.probe && { label }) } }, {
    signal: stop.signal, onprogress: () => stop.abort('changed my mind')
  });
  const ended = await running.then(answer, fault => ({ error: fault.name, code: fault.code, message: fault.message }));
  const seen = step.probe ? await noticed(client, step.probe, label) : null;
  return { cancelled: stop.signal.aborted && 'message' in ended, ended, noticed: seen };
}

async function noticed(client, probe, label) {
  for (let i = 0; i < PROBES_MAX; i += 1) {
    const told = textOf(await call(client, { name: probe, arguments: { label } })).toLowerCase();
    if (told === 'true') return true;
    await sleep(50);
  }
  return false;
}

async function run() {
  const out = { client: `typescript ${version()}`, era: spec.era };
  const client = new Client({ name: 'portcullis-ts-peer', version: '1' }, {
    capabilities: { elicitation: {} }, versionNegotiation: { mode: MODES[spec.era] }
  });
  const asked = [];
  client.setRequestHandler('elicitation/create', request => {
    asked.push(request.params.message);
    return { action: 'accept', content: steps.elicit.answer };
  });
  const headers = { ...spec.headers, ...(spec.token && { authorization: `Bearer ${spec.token}` }) };
  const Transport = spec.transport === 'sse' ? SSEClientTransport : StreamableHTTPClientTransport;
  const transport = new Transport(new URL(spec.url), { requestInit: { headers }, fetch: watched });
  out.connect = await outcome(async () => {
    await client.connect(transport, { timeout: STEP_TIMEOUT_MS });
    return { protocol: client.getNegotiatedProtocolVersion(), server: client.getServerVersion()?.name, session: transport.sessionId !== undefined };
  });
  if (out.connect.ok) {
    out.list = await outcome(async () => ({ tools: (await client.listTools()).tools.map(tool => tool.name) }));
    out.resources = await outcome(async () => ({ uris: (await client.listResources()).resources.map(it => it.uri) }));
    out.prompts = await outcome(async () => ({ names: (await client.listPrompts()).prompts.map(it => it.name) }));
    for (const name of ['call', 'hidden', 'unknown', 'fail']) {
      if (steps[name]) out[name] = await outcome(async () => answer(await call(client, steps[name])));
    }
    if (steps.progress) out.progress = await outcome(() => withProgress(client, steps.progress));
    if (steps.cancel) out.cancel = await outcome(() => cancelled(client, steps.cancel));
    if (steps.elicit) out.elicit = await outcome(async () => ({ ...answer(await call(client, steps.elicit)), asked }));
    out.close = await outcome(async () => {
      if (transport.sessionId) await transport.terminateSession();
      await client.close();
    });
  }
  return { ...out, wire };
}

function version() {
  const main = createRequire(import.meta.url).resolve('@modelcontextprotocol/client');
  return JSON.parse(readFileSync(`${main.split('/dist/')[0]}/package.json`, 'utf8')).version;
}

console.log(JSON.stringify(await run()));
process.exit(0);
