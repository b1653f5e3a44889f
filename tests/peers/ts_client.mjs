// Drives one MCP server through a TypeScript client, and prints what happened as one JSON object.
//
//   node ts_client.mjs '{"url": "http://…/mcp", "era": "legacy" | "modern" | "auto", "sdk": 1 | 2, "token": "…",
//                        "headers": {…}, "steps": {…}, "more": […]}'
//
// `sdk` 1 is `@modelcontextprotocol/sdk`, 2 (the default) `@modelcontextprotocol/client`. `"transport": "sse"`
// speaks the deprecated HTTP+SSE instead of streamable HTTP. `steps` replaces single entries
// of STEPS below; null leaves a step out. `more` names entries of MORE, which are done in that order. `prefix` stands in
// front of every tool's name, `watched` is the URI of the watched resource, `root` its own, `tour` what the step of that name does. A step that needs
// something done to the world prints `waiting for WHAT` and waits for a line. The outcomes are those of py_client.py.
import { readFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { createInterface } from 'node:readline';

const STEPS = {
  call: { name: 'add', arguments: { a: 2, b: 3 } },
  hidden: { name: 'secret', arguments: {} },
  unknown: { name: 'no_such_tool', arguments: {} },
  fail: { name: 'fail', arguments: {} },
  progress: { name: 'slow', arguments: { steps: 3, step_ms: 20, label: 'progress' } },
  cancel: { name: 'slow', arguments: { steps: 100, step_ms: 100 }, probe: 'was_cancelled' },
  elicit: { name: 'elicit', arguments: {}, answer: { colour: 'blue' } },
  sample: { name: 'sample', arguments: {} },
  roots: { name: 'roots', arguments: {} },
  resume: { name: 'slow', arguments: { steps: 8, step_ms: 100, label: 'resume' } },
  touch: { name: 'touch', arguments: {} }
};
const MODES = { legacy: 'legacy', auto: 'auto', modern: { pin: '2026-07-28' } };
const STEP_TIMEOUT_MS = 60_000;
const PROBES_MAX = 40;
const LEVEL_KEY = 'io.modelcontextprotocol/logLevel';
const RECONNECT = { initialReconnectionDelay: 100, maxReconnectionDelay: 1000, reconnectionDelayGrowFactor: 1.5, maxRetries: 20 };

const spec = JSON.parse(process.argv[2]);
const steps = { ...STEPS, ...spec.steps };
const PREFIX = spec.prefix ?? '';
const WATCHED = spec.watched ?? 'note://watched';
const ROOT = spec.root ?? 'file:///work';
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
  client.callTool({ name: PREFIX + step.name, arguments: step.arguments }, ...(spec.sdk === 1 ? [undefined] : []), { timeout: STEP_TIMEOUT_MS, ...options });

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

/** What the client heard, and was asked. */
const heard = { asked: [], urls: [], logs: [], updated: 0, changed: 0 };

/** Both generations of the SDK, as the steps want them. */
async function sdk() {
  if (spec.sdk !== 1) {
    const { Client, SSEClientTransport, StreamableHTTPClientTransport } = await import('@modelcontextprotocol/client');
    const Transport = spec.transport === 'sse' ? SSEClientTransport : StreamableHTTPClientTransport;
    return { Client, Transport, schema: method => method, main: '@modelcontextprotocol/client' };
  }
  const { Client } = await import('@modelcontextprotocol/sdk/client/index.js');
  const { StreamableHTTPClientTransport } = await import('@modelcontextprotocol/sdk/client/streamableHttp.js');
  const types = await import('@modelcontextprotocol/sdk/types.js');
  const schemas = {
    'elicitation/create': types.ElicitRequestSchema, 'sampling/createMessage': types.CreateMessageRequestSchema,
    'roots/list': types.ListRootsRequestSchema, 'notifications/message': types.LoggingMessageNotificationSchema,
    'notifications/resources/updated': types.ResourceUpdatedNotificationSchema,
    'notifications/tools/list_changed': types.ToolListChangedNotificationSchema
  };
  return { Client, Transport: StreamableHTTPClientTransport, schema: method => schemas[method], main: '@modelcontextprotocol/sdk/client/index.js' };
}

function makeClient({ Client, schema }) {
  const client = new Client({ name: 'portcullis-ts-peer', version: '1' }, {
    capabilities: { elicitation: { form: {}, url: {} }, sampling: {}, roots: { listChanged: true } },
    versionNegotiation: { mode: MODES[spec.era] }
  });
  client.setRequestHandler(schema('elicitation/create'), ({ params }) => {
    heard.asked.push(params.message);
    if (params.mode === 'url') heard.urls.push(params.url);
    return { action: 'accept', ...(params.mode !== 'url' && { content: steps.elicit.answer }) };
  });
  client.setRequestHandler(schema('sampling/createMessage'), ({ params }) => {
    const content = { type: 'text', text: `heard ${[params.messages[0].content].flat()[0].text}` };
    return { role: 'assistant', model: 'none', content, stopReason: 'endTurn' };
  });
  client.setRequestHandler(schema('roots/list'), () => ({ roots: [{ uri: ROOT, name: 'work' }] }));
  client.setNotificationHandler(schema('notifications/message'), ({ params }) => void heard.logs.push(params.level));
  client.setNotificationHandler(schema('notifications/resources/updated'), () => void (heard.updated += 1));
  client.setNotificationHandler(schema('notifications/tools/list_changed'), () => void (heard.changed += 1));
  return client;
}

const stdin = createInterface({ input: process.stdin })[Symbol.asyncIterator]();
/** Asks whoever started us to do something to the world, and waits until it is done. */
async function arranged(what) {
  process.stdout.write(`waiting for ${what}\n`);
  await stdin.next();
}

async function until(what, so, ms = 20_000) {
  const end = Date.now() + ms;
  while (!so()) {
    if (Date.now() > end) throw new Error(`never: ${what}`);
    await sleep(10);
  }
}

const plain = (client, name, args = {}, options) => call(client, { name, arguments: args }, options);
const modern = client => (client.getProtocolEra?.() ?? 'legacy') === 'modern';

/** Runs `act` while updates of the watched resource and changes of the tools are told. */
async function told(client, act) {
  if (modern(client)) {
    const listening = await client.listen({ toolsListChanged: true, resourceSubscriptions: [WATCHED] });
    return act().finally(() => listening.close());
  }
  await client.subscribeResource({ uri: WATCHED });
  // The stream for what belongs to no request opens beside us.
  await until('a stream for messages', () => wire.some(line => line.http === 'GET' && line.status === 200));
  return act().finally(() => client.unsubscribeResource({ uri: WATCHED }).catch(() => {}));
}

/** Touches the resource until we hear of it: a stream may be on its way back. */
async function touchUntil(client, count) {
  for (let i = 0; i < 50 && heard.updated < count; i += 1) {
    await call(client, steps.touch);
    await until('an update', () => heard.updated >= count, 200).catch(() => {});
  }
  if (heard.updated < count) throw new Error(`heard of ${heard.updated} updates`);
}

/** An answer whose stream is cut after its first message, before us or behind the gateway. */
async function resumed(client, cut) {
  await arranged(`${cut} notifications/progress`);
  return withProgress(client, steps.resume);
}

/** The same of the stream for what belongs to no request. */
const resumedGet = (client, cut) => told(client, async () => {
  heard.updated = 0;
  await arranged(`${cut} notifications/resources/updated`);
  await call(client, steps.touch);
  await until('the first update', () => heard.updated === 1);
  await call(client, steps.touch);
  await until('the second update', () => heard.updated === 2);
  await sleep(200);
  return { updated: heard.updated };
});

/** One stop of a tour: a tool called, a resource read, a prompt got, an argument completed; by their exposed names. */
async function visit(client, { call: tool, read, prompt, complete }) {
  if (tool) return textOf(await client.callTool(tool, ...(spec.sdk === 1 ? [undefined] : []), { timeout: STEP_TIMEOUT_MS }));
  if (read) return JSON.stringify((await client.readResource({ uri: read })).contents);
  if (prompt) return JSON.stringify((await client.getPrompt(prompt)).messages);
  return JSON.stringify((await client.complete(complete)).completion.values);
}

const MORE = {
  sample: async client => answer(await call(client, steps.sample)),
  roots: async client => answer(await call(client, steps.roots)),
  url: async client => ({ ...answer(await plain(client, 'elicit_url')), urls: heard.urls }),
  log: async client => {
    heard.logs.length = 0;
    if (!modern(client)) await client.setLoggingLevel('warning');
    const result = await client.callTool({ name: `${PREFIX}log`, arguments: {}, ...(modern(client) && { _meta: { [LEVEL_KEY]: 'warning' } }) });
    return { ...answer(result), levels: heard.logs };
  },
  updated: client => told(client, async () => {
    heard.updated = 0;
    await call(client, steps.touch);
    await until('the update', () => heard.updated > 0);
    return { updated: heard.updated };
  }),
  changed: client => told(client, async () => {
    heard.changed = 0;
    await plain(client, 'toggle');
    await until('the change', () => heard.changed > 0);
    return { tools: (await client.listTools()).tools.map(tool => tool.name) };
  }),
  hang_up: async client => answer(await plain(client, 'hang_up')),
  resume: client => resumed(client, 'a cut at'),
  resume_get: client => resumedGet(client, 'a cut at'),
  behind: client => resumed(client, 'a cut behind at'),
  behind_get: client => resumedGet(client, 'a cut behind at'),
  restart: async client => {
    // In the modern era nobody takes a stream up again: who listened finds out, and listens anew.
    const watched = steps.touch && !modern(client);
    const act = async () => {
      heard.updated = 0;
      await arranged('another server');
      const result = answer(await call(client, steps.call));
      if (watched) await touchUntil(client, 1);
      return result;
    };
    return watched ? told(client, act) : act();
  },
  tour: async client => {
    const stops = [];
    for (const stop of spec.tour) stops.push(await outcome(async () => ({ text: await visit(client, stop) })));
    return { stops };
  },
  ended: async client => {
    await arranged('the end of the session');
    return answer(await call(client, steps.call));
  }
};

async function run() {
  const kind = await sdk();
  const out = { client: `typescript ${version(kind.main)}`, era: spec.era };
  const client = makeClient(kind);
  const headers = { ...spec.headers, ...(spec.token && { authorization: `Bearer ${spec.token}` }) };
  const transport = new kind.Transport(new URL(spec.url), { requestInit: { headers }, fetch: watched, reconnectionOptions: RECONNECT });
  out.connect = await outcome(async () => {
    await client.connect(transport, { timeout: STEP_TIMEOUT_MS });
    const protocol = client.getNegotiatedProtocolVersion?.() ?? transport.protocolVersion;
    return { protocol, server: client.getServerVersion()?.name, session: transport.sessionId !== undefined };
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
    if (steps.elicit) out.elicit = await outcome(async () => ({ ...answer(await call(client, steps.elicit)), asked: [...heard.asked] }));
    for (const name of spec.more ?? []) out[name] = await outcome(() => MORE[name](client));
    out.close = await outcome(async () => {
      if (transport.sessionId && !spec.more?.includes('ended')) await transport.terminateSession();
      await client.close();
    });
  }
  return { ...out, wire };
}

function version(entry) {
  const main = createRequire(import.meta.url).resolve(entry);
  return JSON.parse(readFileSync(`${main.split('/dist/')[0]}/package.json`, 'utf8')).version;
}

console.log(JSON.stringify(await run()));
process.exit(0);
