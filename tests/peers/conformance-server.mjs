// The server behind the gateway in the conformance tests: both eras at one URL, with every
// fixture that the server scenarios of @modelcontextprotocol/conformance ask for.
//
//   node conformance-server.mjs [PORT]      prints `listening PORT`, serves http://127.0.0.1:PORT/mcp
//   node conformance-server.mjs stdio       serves over its pipes
//
// Modern requests (2026-07-28) go to `createMcpHandler`; legacy ones to one transport per
// session, with an event store, so that streams can be resumed. Handlers are written once:
// what a modern tool answers with `inputRequired`, the SDK asks a legacy client directly.
import { randomBytes, randomUUID } from 'node:crypto';
import { createServer } from 'node:http';
import { setTimeout as sleep } from 'node:timers/promises';
import {
  localhostHostValidation, localhostOriginValidation, NodeStreamableHTTPServerTransport, toNodeHandler, toWebRequest
} from '@modelcontextprotocol/node';
import {
  acceptedContent, CLIENT_CAPABILITIES_META_KEY, completable, createMcpHandler, createRequestStateCodec, fromJsonSchema,
  inputRequired, inputResponse, isInitializeRequest, isLegacyRequest, McpServer, ResourceTemplate
} from '@modelcontextprotocol/server';
import { serveStdio } from '@modelcontextprotocol/server/stdio';
import { z } from 'zod';
import { Events } from './events.mjs';

const RED_PIXEL = 'iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mP8z8DwHwAFBQIAX8jx0gAAAABJRU5ErkJggg==';
const SILENT_WAV = 'UklGRiYAAABXQVZFZm10IBAAAAABAAEAQB8AAAB9AAACABAAZGF0YQIAAAAAAA==';
const RETRY_MS = 100;
const WATCHED = 'note://watched';

const text = value => ({ content: [{ type: 'text', text: value }] });
const userText = value => ({ role: 'user', content: { type: 'text', text: value } });
const object = (properties, required = Object.keys(properties)) => ({ type: 'object', properties, required });
const string = { type: 'string' };

// What the scenarios change at run time, and clients are told about.
const world = { extraTool: false, extras: new Set(), extraPrompt: false, cancelled: new Set() };
const state = createRequestStateCodec({ key: randomBytes(32) });

/** A form of `name: schema` pairs, as an input request. */
const ask = (message, properties) => inputRequired.elicit({ message, requestedSchema: object(properties) });
const sample = (prompt, maxTokens) =>
  inputRequired.createMessage({ messages: [{ role: 'user', content: { type: 'text', text: prompt } }], maxTokens });
/** Answers `want` if it is there, else asks again with `requests`. */
const once = (want, requests, answer) => (want === undefined ? inputRequired({ inputRequests: requests }) : text(answer(want)));

function contentTools(tool) {
  tool('test_simple_text', 'Plain text', {}, () => text('This is a simple text response for testing.'));
  tool('test_image_content', 'An image', {}, () => ({ content: [{ type: 'image', data: RED_PIXEL, mimeType: 'image/png' }] }));
  tool('test_audio_content', 'A sound', {}, () => ({ content: [{ type: 'audio', data: SILENT_WAV, mimeType: 'audio/wav' }] }));
  tool('test_embedded_resource', 'An embedded resource', {}, () => ({
    content: [{ type: 'resource', resource: { uri: 'test://embedded-resource', mimeType: 'text/plain', text: 'This is an embedded resource content.' } }]
  }));
  tool('test_multiple_content_types', 'Text, image and resource', {}, () => ({
    content: [
      { type: 'text', text: 'Multiple content types test:' },
      { type: 'image', data: RED_PIXEL, mimeType: 'image/png' },
      { type: 'resource', resource: { uri: 'test://mixed-content-resource', mimeType: 'application/json', text: '{"test":"data","value":123}' } }
    ]
  }));
  tool('test_error_handling', 'Always fails', {}, () => { throw new Error('This tool intentionally returns an error for testing'); });
}

function streamTools(tool) {
  tool('test_tool_with_logging', 'Three log messages', {}, async (_, { mcpReq }) => {
    for (const line of ['Tool execution started', 'Tool processing data', 'Tool execution completed']) {
      await mcpReq.log('info', line);
      await sleep(50);
    }
    return text('logged');
  });
  tool('test_logging_tool', 'Logs only when the request asks for it', {}, async (_, { mcpReq }) => {
    await mcpReq.log('info', 'asked for');
    return text('logged');
  });
  tool('test_tool_with_progress', 'Progress 0, 50, 100', {}, async (_, { mcpReq }) => {
    for (const progress of [0, 50, 100]) {
      await report(mcpReq, progress, 100);
      await sleep(50);
    }
    return text('done');
  });
  tool('test_reconnection', 'Closes its stream before it answers', {}, async (_, { http }) => {
    http?.closeSSE?.();
    await sleep(100);
    return text('answered after the stream was closed');
  });
  tool('test_streaming_elicitation', 'Asks within a stream', {}, (_, { mcpReq }) =>
    once(acceptedContent(mcpReq.inputResponses, 'name'), { name: ask('Your name?', { name: string }) }, it => `Hello, ${it.name}!`));
}

async function report(mcpReq, progress, total) {
  const progressToken = mcpReq._meta?.progressToken;
  if (progressToken !== undefined) {
    await mcpReq.notify({ method: 'notifications/progress', params: { progressToken, progress, total } });
  }
}

/** The tools that ask the client in the middle of a call: legacy scenarios. */
function askingTools(tool) {
  tool('test_sampling', 'Asks the model', { prompt: z.string() }, ({ prompt }, { mcpReq }) => {
    const answer = inputResponse(mcpReq.inputResponses, 'answer');
    return once(answer.result, { answer: sample(prompt, 100) }, it => `LLM response: ${JSON.stringify(it.content)}`);
  });
  tool('test_missing_capability', 'Needs sampling', {}, (_, { mcpReq }) =>
    once(inputResponse(mcpReq.inputResponses, 'answer').result, { answer: sample('Anything', 10) }, () => 'sampled'));
  const elicits = (name, description, message, properties, input = {}) =>
    tool(name, description, input, (args, { mcpReq }) => {
      const answer = inputResponse(mcpReq.inputResponses, 'form');
      if (answer.kind !== 'elicit') {
        const requestedSchema = object(properties, name === 'test_elicitation' ? Object.keys(properties) : []);
        return inputRequired({ inputRequests: { form: inputRequired.elicit({ message: args.message ?? message, requestedSchema }) } });
      }
      return text(`Elicitation completed: action=${answer.action}, content=${JSON.stringify(answer.content ?? {})}`);
    });
  elicits('test_elicitation', 'Asks the user', '', {
    username: { type: 'string', description: "User's response" }, email: { type: 'string', description: "User's email address" }
  }, { message: z.string() });
  elicits('test_elicitation_sep1034_defaults', 'A form with defaults', 'Please check the defaults', {
    name: { type: 'string', default: 'John Doe' }, age: { type: 'integer', default: 30 }, score: { type: 'number', default: 95.5 },
    status: { type: 'string', enum: ['active', 'inactive', 'pending'], default: 'active' }, verified: { type: 'boolean', default: true }
  });
  const options = ['option1', 'option2', 'option3'];
  const titled = ['First', 'Second', 'Third'].map((title, i) => ({ const: `value${i + 1}`, title: `${title} Option` }));
  elicits('test_elicitation_sep1330_enums', 'A form with every kind of choice', 'Please choose', {
    untitledSingle: { type: 'string', enum: options },
    titledSingle: { type: 'string', oneOf: titled },
    legacyEnum: { type: 'string', enum: ['opt1', 'opt2', 'opt3'], enumNames: ['Option One', 'Option Two', 'Option Three'] },
    untitledMulti: { type: 'array', items: { type: 'string', enum: options } },
    titledMulti: { type: 'array', items: { anyOf: titled } }
  });
}

/** Multi round-trip requests (SEP-2322). */
function roundTripTools(tool) {
  const name = { user_name: ask('What is your name?', { name: string }) };
  const named = responses => acceptedContent(responses, 'user_name', z.object({ name: z.string() }));
  const confirm = { confirm: ask('Please confirm', { ok: { type: 'boolean' } }) };
  const roots = { client_roots: inputRequired.listRoots() };

  tool('test_input_required_result_elicitation', 'One question', {}, (_, { mcpReq }) =>
    once(named(mcpReq.inputResponses), name, it => `Hello, ${it.name}!`));
  tool('test_input_required_result_sampling', 'One sampling', {}, (_, { mcpReq }) =>
    once(inputResponse(mcpReq.inputResponses, 'capital_question').result,
      { capital_question: sample('What is the capital of France?', 100) }, it => JSON.stringify(it.content)));
  tool('test_input_required_result_list_roots', 'One look at the roots', {}, (_, { mcpReq }) =>
    once(inputResponse(mcpReq.inputResponses, 'client_roots').roots, roots, it => it.map(root => root.uri).join(' ')));
  const stateful = (toolName, done) => tool(toolName, 'A question with state', {}, async (_, { mcpReq }) =>
    mcpReq.requestState() !== undefined && acceptedContent(mcpReq.inputResponses, 'confirm')
      ? text(done)
      : inputRequired({ inputRequests: confirm, requestState: await state.mint({ for: toolName }) }));
  stateful('test_input_required_result_request_state', 'state-ok');
  stateful('test_input_required_result_tampered_state', 'integrity-ok');
  tool('test_input_required_result_multiple_inputs', 'Three questions at once', {}, async (_, { mcpReq }) => {
    const got = key => inputResponse(mcpReq.inputResponses, key).kind !== 'missing';
    if (['user_name', 'greeting', 'client_roots'].every(got)) return text('all three');
    const inputRequests = { ...name, greeting: sample('Generate a greeting', 50), ...roots };
    return inputRequired({ inputRequests, requestState: await state.mint({ for: 'multiple' }) });
  });
  tool('test_input_required_result_multi_round', 'Two questions, one after the other', {}, async (_, { mcpReq }) => {
    const before = mcpReq.requestState();
    const first = acceptedContent(mcpReq.inputResponses, 'step1');
    const second = acceptedContent(mcpReq.inputResponses, 'step2');
    if (before?.round === 2 && second) return text(`${before.name} likes ${second.color}`);
    const inputRequests = before?.round === 1 && first
      ? { step2: ask('Step 2: What is your favorite color?', { color: string }) }
      : { step1: ask('Step 1: What is your name?', { name: string }) };
    const next = 'step2' in inputRequests ? { round: 2, name: first.name } : { round: 1 };
    return inputRequired({ inputRequests, requestState: await state.mint(next) });
  });
  tool('test_input_required_result_capabilities', 'Asks only what the client can answer', {}, (_, { mcpReq }) => {
    if (mcpReq.inputResponses) return text('answered');
    const can = mcpReq.envelope?.[CLIENT_CAPABILITIES_META_KEY] ?? {};
    return inputRequired({ inputRequests: {
      ...(can.elicitation && name), ...(can.sampling && { greeting: sample('Generate a greeting', 50) }), ...(can.roots && roots)
    } });
  });
}

/** Changes that subscribers hear of. */
function changingTools(tool, server, era) {
  tool('test_trigger_tool_change', 'Adds or removes a tool', {}, () => {
    toggleTool();
    return text(`extra tool: ${world.extraTool}`);
  });
  tool('test_trigger_prompt_change', 'Adds or removes a prompt', {}, () => {
    world.extraPrompt = !world.extraPrompt;
    modern.notify.promptsChanged();
    if (era === 'legacy') server.sendPromptListChanged();
    return text(`extra prompt: ${world.extraPrompt}`);
  });
  if (era !== 'legacy' && !world.extraTool) return;
  const extra = tool('test_extra_tool', 'Comes and goes', {}, () => text('here'));
  if (era === 'legacy') {
    if (!world.extraTool) extra.disable();
    world.extras.add(extra);
  }
}

/** Every session has the other tool, or none: the SDK tells each that it came or went. */
function toggleTool() {
  world.extraTool = !world.extraTool;
  modern.notify.toolsChanged();
  for (const extra of world.extras) world.extraTool ? extra.enable() : extra.disable();
}

/** Schemas that a gateway has to hand on unchanged, and one whose argument is mirrored in a header. */
function schemaTools(server) {
  const keep = fromJsonSchema({
    $schema: 'https://json-schema.org/draft/2020-12/schema',
    type: 'object',
    $defs: { address: { $anchor: 'addressDef', type: 'object', properties: { street: string, city: string } } },
    properties: {
      name: string, address: { $ref: '#/$defs/address' }, contactMethod: { type: 'string', enum: ['phone', 'email'] }, phone: string, email: string
    },
    allOf: [{ anyOf: [{ required: ['phone'] }, { required: ['email'] }] }],
    if: { properties: { contactMethod: { const: 'phone' } }, required: ['contactMethod'] },
    then: { required: ['phone'] },
    else: { required: ['email'] },
    additionalProperties: false
  });
  server.registerTool('json_schema_2020_12_tool', { description: 'Tool with JSON Schema 2020-12 features', inputSchema: keep },
    args => text(JSON.stringify(args)));
  const mirrored = fromJsonSchema(object({ region: { type: 'string', 'x-mcp-header': 'Region' }, query: string }, ['region']));
  server.registerTool('test_header_mirrored', { description: 'Its region goes into a header', inputSchema: mirrored },
    ({ region }) => text(`region ${region}`));
}

/** The tools that the other servers have too, for the client scripts. */
function peerTools(tool, server, era) {
  tool('echo', 'Says it back', { text: z.string() }, it => text(it.text));
  tool('add', 'Adds two numbers', { a: z.number(), b: z.number() }, ({ a, b }) => text(String(a + b)));
  tool('fail', 'Always fails', {}, () => { throw new Error('failed on purpose'); });
  tool('secret', 'A tool that policies hide', {}, () => text('leaked'));
  tool('slow', 'Takes steps, tells of each', { steps: z.number().int(), step_ms: z.number().int(), label: z.string().default('') },
    async ({ steps, step_ms, label }, { mcpReq }) => {
      mcpReq.signal.addEventListener('abort', () => world.cancelled.add(label));
      for (let step = 1; step <= steps; step += 1) {
        await sleep(step_ms, undefined, { signal: mcpReq.signal });
        await report(mcpReq, step, steps);
      }
      return text(`took ${steps} steps`);
    });
  tool('was_cancelled', 'Whether the slow call of that label was cancelled', { label: z.string() },
    ({ label }) => text(String(world.cancelled.has(label))));
  tool('elicit', 'Asks for a colour', {}, (_, { mcpReq }) =>
    once(acceptedContent(mcpReq.inputResponses, 'colour'), { colour: ask('Which colour?', { colour: string }) }, it => `chose ${it.colour}`));
  tool('elicit_url', 'Sends the user to a page', {}, (_, { mcpReq }) => {
    const went = inputResponse(mcpReq.inputResponses, 'page');
    const page = inputRequired.elicitUrl({ message: 'Please sign', url: 'https://sign.test/1' });
    return went.kind === 'elicit' ? text(`page: ${went.action}`) : inputRequired({ inputRequests: { page } });
  });
  tool('sample', 'Asks the model', {}, (_, { mcpReq }) =>
    once(inputResponse(mcpReq.inputResponses, 'answer').result, { answer: sample('a question', 10) }, it => `model: ${[it.content].flat()[0].text}`));
  tool('roots', 'Asks for the roots', {}, (_, { mcpReq }) =>
    once(inputResponse(mcpReq.inputResponses, 'roots').roots, { roots: inputRequired.listRoots() }, it => it.map(root => root.uri).join(' ')));
  tool('log', 'One message of each of four levels', {}, async (_, { mcpReq }) => {
    for (const level of ['debug', 'info', 'warning', 'error']) await mcpReq.log(level, `a message of level ${level}`);
    return text('logged');
  });
  tool('hang_up', 'Closes its stream before it answers', {}, async (_, { http }) => {
    http?.closeSSE?.();
    await sleep(300);
    return text('answered later');
  });
  tool('touch', 'Tells those who watch the note', {}, async () => {
    modern.notify.resourceUpdated(WATCHED);
    if (server.watches) await server.server.sendResourceUpdated({ uri: WATCHED });
    return text('touched');
  });
  tool('toggle', 'Another tool comes or goes', {}, () => {
    toggleTool();
    return text('toggled');
  });
}

function resources(server) {
  const fixed = (name, uri, mimeType, content) =>
    server.registerResource(name, uri, { description: `${name} fixture`, mimeType, cacheHint: { ttlMs: 60_000, cacheScope: 'public' } },
      () => ({ contents: [{ uri, mimeType, ...content }] }));
  fixed('static-text', 'test://static-text', 'text/plain', { text: 'This is the content of the static text resource.' });
  fixed('static-binary', 'test://static-binary', 'image/png', { blob: RED_PIXEL });
  fixed('note', WATCHED, 'text/plain', { text: 'a note' });
  fixed('watched', 'test://watched-resource', 'text/plain', { text: 'watched' });
  fixed('example', 'test://example-resource', 'text/plain', { text: 'example' });
  server.registerResource('template', new ResourceTemplate('test://template/{id}/data', { list: undefined }),
    { description: 'One record', mimeType: 'application/json' },
    (uri, { id }) => ({ contents: [{ uri: uri.href, mimeType: 'application/json', text: JSON.stringify({ id, templateTest: true, data: `Data for ID: ${id}` }) }] }));
}

function prompts(server) {
  const prompt = (name, description, args, get) =>
    server.registerPrompt(name, { description, ...(args && { argsSchema: z.object(args) }) }, get);
  const cities = start => ['paris', 'park', 'party', 'test'].filter(it => it.startsWith(start));
  prompt('test_simple_prompt', 'No arguments', undefined, () => ({ messages: [userText('This is a simple prompt for testing.')] }));
  prompt('test_prompt_with_arguments', 'Two arguments', { arg1: completable(z.string(), cities), arg2: z.string() },
    ({ arg1, arg2 }) => ({ messages: [userText(`Prompt with arguments: arg1='${arg1}', arg2='${arg2}'`)] }));
  prompt('test_prompt_with_embedded_resource', 'Embeds a resource', { resourceUri: z.string() }, ({ resourceUri }) => ({
    messages: [
      { role: 'user', content: { type: 'resource', resource: { uri: resourceUri, mimeType: 'text/plain', text: 'Embedded resource content for testing.' } } },
      userText('Please process the embedded resource above.')
    ]
  }));
  prompt('test_prompt_with_image', 'Shows an image', undefined, () => ({
    messages: [{ role: 'user', content: { type: 'image', data: RED_PIXEL, mimeType: 'image/png' } }, userText('Please analyze the image above.')]
  }));
  prompt('test_input_required_result_prompt', 'Asks before it answers', undefined, ({ mcpReq }) => {
    const got = acceptedContent(mcpReq.inputResponses, 'user_context');
    return got
      ? { messages: [userText(`Context: ${got.context}`)] }
      : inputRequired({ inputRequests: { user_context: ask('What context should the prompt use?', { context: string }) } });
  });
  if (world.extraPrompt) prompt('test_extra_prompt', 'Comes and goes', undefined, () => ({ messages: [userText('here')] }));
}

/** A fresh server: one per modern request, one per legacy session. */
function makeServer({ era }) {
  const server = new McpServer({ name: 'portcullis-conformance', version: '1.0.0' }, {
    capabilities: {
      tools: { listChanged: true }, prompts: { listChanged: true }, resources: { subscribe: true, listChanged: true }, completions: {}, logging: {}
    },
    requestState: { verify: state.verify }
  });
  const tool = (name, description, args, run) => server.registerTool(name, { description, inputSchema: z.object(args) }, run);
  peerTools(tool, server, era);
  contentTools(tool);
  streamTools(tool);
  askingTools(tool);
  roundTripTools(tool);
  changingTools(tool, server, era);
  schemaTools(server);
  resources(server);
  prompts(server);
  if (era === 'legacy') {
    for (const [method, on] of [['resources/subscribe', true], ['resources/unsubscribe', false]]) {
      server.server.setRequestHandler(method, ({ params }) => {
        if (params.uri === WATCHED) server.watches = on;
        return {};
      });
    }
  }
  return server;
}

const sessions = new Map();

async function legacy(req, res, body) {
  const id = req.headers['mcp-session-id'];
  let transport = sessions.get(id);
  if (!transport && id) return refuse(res, 404, -32001, 'Session not found');
  if (!transport && !isInitializeRequest(body)) return refuse(res, 400, -32000, 'Bad Request: no session');
  if (!transport) {
    transport = new NodeStreamableHTTPServerTransport({
      sessionIdGenerator: randomUUID,
      onsessioninitialized: minted => void sessions.set(minted, transport),
      onsessionclosed: minted => void sessions.delete(minted),
      eventStore: new Events(),
      retryInterval: RETRY_MS
    });
    await makeServer({ era: 'legacy' }).connect(transport);
  }
  await transport.handleRequest(req, res, body);
}

function refuse(res, status, code, message) {
  res.writeHead(status, { 'content-type': 'application/json' }).end(JSON.stringify({ jsonrpc: '2.0', id: null, error: { code, message } }));
}

const modern = createMcpHandler(makeServer, { legacy: 'reject' });
const serveModern = toNodeHandler(modern);
const hostOk = localhostHostValidation();
const originOk = localhostOriginValidation();

async function serve(req, res) {
  if (!hostOk(req, res) || !originOk(req, res)) return;
  if (new URL(req.url, 'http://localhost').pathname !== '/mcp') return void res.writeHead(404).end();
  if (req.method !== 'POST') return legacy(req, res);
  let body;
  try {
    body = JSON.parse(await (await toWebRequest(req)).text());
  } catch {
    return refuse(res, 400, -32700, 'Parse error');
  }
  return (await isLegacyRequest(await toWebRequest(req, body))) ? legacy(req, res, body) : serveModern(req, res, body);
}

if (process.argv[2] === 'stdio') {
  // As a program: the pipes are all there is.
  console.log = console.error;
  serveStdio(makeServer);
} else {
  listen();
}

function listen() {
  const http = createServer((req, res) => {
    serve(req, res).catch(fault => {
      console.error(fault);
      if (!res.headersSent) refuse(res, 500, -32603, 'Internal error');
    });
  });
  // The test that started us holds the other end: when it is gone, however it went, so are we.
  if (process.env.PEER_HELD) process.stdin.resume().on('end', () => process.exit(0));
  http.listen(Number(process.argv[2] ?? 0), '127.0.0.1', () => console.log(`listening ${http.address().port}`));
}
