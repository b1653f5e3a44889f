// A small MCP server on the TypeScript SDK 1.x: legacy, with sessions whose streams can be resumed.
//
//   node ts1_server.mjs [PORT]      prints `listening PORT`, serves http://127.0.0.1:PORT/mcp
import { randomUUID } from 'node:crypto';
import { createServer } from 'node:http';
import { json } from 'node:stream/consumers';
import { setTimeout as sleep } from 'node:timers/promises';
import { McpServer } from '@modelcontextprotocol/sdk/server/mcp.js';
import { StreamableHTTPServerTransport } from '@modelcontextprotocol/sdk/server/streamableHttp.js';
import {
  ElicitResultSchema, isInitializeRequest, ListRootsResultSchema, CreateMessageResultSchema, SubscribeRequestSchema,
  UnsubscribeRequestSchema
} from '@modelcontextprotocol/sdk/types.js';
import { z } from 'zod';
import { Events } from './events.mjs';

const RETRY_MS = 100;
const WATCHED = 'note://watched';
const text = value => ({ content: [{ type: 'text', text: value }] });
const cancelled = new Set();

function tools(server) {
  const tool = (name, description, inputSchema, run) => server.registerTool(name, { description, inputSchema }, run);
  tool('echo', 'Says it back', { text: z.string() }, it => text(it.text));
  tool('add', 'Adds two numbers', { a: z.number(), b: z.number() }, ({ a, b }) => text(String(a + b)));
  tool('fail', 'Always fails', {}, () => { throw new Error('failed on purpose'); });
  tool('secret', 'A tool that policies hide', {}, () => text('leaked'));
  tool('slow', 'Takes steps, tells of each', { steps: z.number().int(), step_ms: z.number().int(), label: z.string().default('') },
    async ({ steps, step_ms, label }, extra) => {
      extra.signal.addEventListener('abort', () => cancelled.add(label));
      const progressToken = extra._meta?.progressToken;
      for (let step = 1; step <= steps; step += 1) {
        await sleep(step_ms, undefined, { signal: extra.signal });
        if (progressToken === undefined) continue;
        await extra.sendNotification({ method: 'notifications/progress', params: { progressToken, progress: step, total: steps } });
      }
      return text(`took ${steps} steps`);
    });
  tool('was_cancelled', 'Whether the slow call of that label was cancelled', { label: z.string() },
    ({ label }) => text(String(cancelled.has(label))));
}

/** The tools that ask the client in the middle of a call. */
function askingTools(server) {
  const tool = (name, description, run) => server.registerTool(name, { description, inputSchema: {} }, (_, extra) => run(extra));
  const ask = (extra, params) => extra.sendRequest({ method: 'elicitation/create', params }, ElicitResultSchema);
  tool('elicit', 'Asks for a colour', async extra => {
    const requestedSchema = { type: 'object', properties: { colour: { type: 'string' } }, required: ['colour'] };
    return text(`chose ${(await ask(extra, { mode: 'form', message: 'Which colour?', requestedSchema })).content?.colour}`);
  });
  tool('elicit_url', 'Sends the user to a page', async extra => {
    const page = { mode: 'url', message: 'Please sign', url: 'https://sign.test/1', elicitationId: randomUUID() };
    return text(`page: ${(await ask(extra, page)).action}`);
  });
  tool('sample', 'Asks the model', async extra => {
    const messages = [{ role: 'user', content: { type: 'text', text: 'a question' } }];
    const got = await extra.sendRequest({ method: 'sampling/createMessage', params: { messages, maxTokens: 10 } }, CreateMessageResultSchema);
    return text(`model: ${got.content.text}`);
  });
  tool('roots', 'Asks for the roots', async extra =>
    text((await extra.sendRequest({ method: 'roots/list' }, ListRootsResultSchema)).roots.map(root => root.uri).join(' ')));
}

function tellingTools(server) {
  const tool = (name, description, run) => server.registerTool(name, { description, inputSchema: {} }, (_, extra) => run(extra));
  tool('log', 'One message of each of four levels', async ({ sessionId }) => {
    for (const level of ['debug', 'info', 'warning', 'error']) await server.sendLoggingMessage({ level, data: `level ${level}` }, sessionId);
    return text('logged');
  });
  tool('hang_up', 'Closes its stream before it answers', async extra => {
    extra.closeSSEStream?.();
    await sleep(300);
    return text('answered later');
  });
  tool('touch', 'Tells those who watch the note', async () => {
    if (server.watches) await server.server.sendResourceUpdated({ uri: WATCHED });
    return text('touched');
  });
  const extra = server.registerTool('extra', { description: 'Comes and goes', inputSchema: {} }, () => text('here'));
  extra.disable();
  tool('toggle', 'Another tool comes or goes', () => {
    // The SDK tells the client by itself.
    if (extra.enabled) extra.disable();
    else extra.enable();
    return text('toggled');
  });
}

function makeServer() {
  const server = new McpServer({ name: 'portcullis-ts1', version: '1.0.0' }, {
    capabilities: { tools: { listChanged: true }, resources: { subscribe: true }, logging: {} }
  });
  tools(server);
  askingTools(server);
  tellingTools(server);
  server.registerResource('note', WATCHED, { mimeType: 'text/plain' }, () => ({ contents: [{ uri: WATCHED, text: 'a note' }] }));
  server.registerPrompt('greet', { argsSchema: { name: z.string() } },
    ({ name }) => ({ messages: [{ role: 'user', content: { type: 'text', text: `Greet ${name}.` } }] }));
  for (const [schema, on] of [[SubscribeRequestSchema, true], [UnsubscribeRequestSchema, false]]) {
    server.server.setRequestHandler(schema, ({ params }) => {
      if (params.uri === WATCHED) server.watches = on;
      return {};
    });
  }
  return server;
}

const sessions = new Map();

async function serve(req, res) {
  const id = req.headers['mcp-session-id'];
  const body = req.method === 'POST' ? await json(req) : undefined;
  let transport = sessions.get(id);
  if (!transport && id) return refuse(res, 404, -32001, 'Session not found');
  if (!transport && !isInitializeRequest(body)) return refuse(res, 400, -32000, 'Bad Request: no session');
  if (!transport) {
    transport = new StreamableHTTPServerTransport({
      sessionIdGenerator: randomUUID,
      onsessioninitialized: minted => void sessions.set(minted, transport),
      onsessionclosed: minted => void sessions.delete(minted),
      eventStore: new Events(),
      retryInterval: RETRY_MS
    });
    await makeServer().connect(transport);
  }
  await transport.handleRequest(req, res, body);
}

function refuse(res, status, code, message) {
  res.writeHead(status, { 'content-type': 'application/json' }).end(JSON.stringify({ jsonrpc: '2.0', id: null, error: { code, message } }));
}

const http = createServer((req, res) => {
  serve(req, res).catch(fault => {
    console.error(fault);
    if (!res.headersSent) refuse(res, 500, -32603, 'Internal error');
  });
});
// The test that started us holds the other end: when it is gone, however it went, so are we.
if (process.env.PEER_HELD) process.stdin.resume().on('end', () => process.exit(0));
http.listen(Number(process.argv[2] ?? 0), '127.0.0.1', () => console.log(`listening ${http.address().port}`));
