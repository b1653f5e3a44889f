// Stands in front of a merged endpoint that prefixes names, and lets a client that knows one server's own names use it:
// adds `PREFIX__` to the tools and prompts a client names, takes it off the names in lists, and leaves everything else as
// it is. What it does to a message is all that tells a prefixing endpoint from one that does not.
//
//   PEER_TARGET=http://127.0.0.1:PORT/mcp PEER_PREFIX=server node prefix-shim.mjs
import { createServer, request } from 'node:http';

const target = new URL(process.env.PEER_TARGET);
const prefix = `${process.env.PEER_PREFIX}__`;

const add = (holder, key) => {
  if (typeof holder?.[key] === 'string') holder[key] = prefix + holder[key];
};

/** A client's message, with the name it is about. */
function asked(message) {
  const { method, params } = message;
  if (method === 'tools/call' || method === 'prompts/get') add(params, 'name');
  if (method === 'completion/complete' && params?.ref?.type === 'ref/prompt') add(params.ref, 'name');
  return message;
}

/** A server's message: its own entries of a list, under its own names. */
function answered(message) {
  for (const kind of ['tools', 'prompts']) {
    const list = message.result?.[kind];
    if (!Array.isArray(list)) continue;
    message.result[kind] = list.filter(it => it.name.startsWith(prefix)).map(it => ({ ...it, name: it.name.slice(prefix.length) }));
  }
  return message;
}

/** JSON text through `change`; what is no JSON goes as it is. */
function through(text, change) {
  let message;
  try {
    message = JSON.parse(text);
  } catch {
    return text;
  }
  const named = JSON.stringify(message);
  const changed = JSON.stringify(Array.isArray(message) ? message.map(change) : change(message));
  // Untouched to the byte where there is nothing to do.
  return changed === named ? text : changed;
}

const body = async stream => {
  const pieces = [];
  for await (const piece of stream) pieces.push(piece);
  return Buffer.concat(pieces);
};

const decode = value => {
  const match = /^=\?base64\?(.*)\?=$/.exec(value);
  return match ? Buffer.from(match[1], 'base64').toString('utf8') : value;
};
const plain = /^[\x21-\x7e](?:[\x20-\x7e]*[\x21-\x7e])?$/;
const encode = value =>
  plain.test(value) && !/^=\?.*\?=$/.test(value) ? value : `=?base64?${Buffer.from(value, 'utf8').toString('base64')}?=`;

const server = createServer(async (asking, answering) => {
  const sent = await body(asking);
  const changed = Buffer.from(through(sent.toString('utf8'), asked), 'utf8');
  const headers = { ...asking.headers };
  const here = `127.0.0.1:${server.address().port}`;
  // Its own names are the gateway's; all others are for the gateway to refuse.
  for (const name of [here, here.replace('127.0.0.1', 'localhost')]) {
    if (headers.host === name) headers.host = target.host;
    if (headers.origin === `http://${name}`) headers.origin = target.origin;
  }
  const text = sent.toString('utf8');
  const named = /"method"\s*:\s*"(?:tools\/call|prompts\/get)"/.test(text);
  // A name that contradicts its body has to go on doing so.
  if (named && headers['mcp-name'] !== undefined && changed.length !== sent.length) {
    headers['mcp-name'] = encode(prefix + decode(headers['mcp-name']));
  }
  delete headers['transfer-encoding'];
  if (sent.length > 0) headers['content-length'] = String(changed.length);
  const ahead = request({ host: target.hostname, port: target.port, path: target.pathname, method: asking.method, headers });
  ahead.on('error', () => answering.destroy());
  answering.on('close', () => ahead.destroy());
  ahead.on('response', async answer => {
    const media = answer.headers['content-type'] ?? '';
    const back = { ...answer.headers };
    if (media.startsWith('application/json')) {
      const changed = Buffer.from(through((await body(answer)).toString('utf8'), answered), 'utf8');
      delete back['transfer-encoding'];
      back['content-length'] = String(changed.length);
      answering.writeHead(answer.statusCode, back);
      answering.end(changed);
    } else if (media.startsWith('text/event-stream')) {
      answering.writeHead(answer.statusCode, back);
      answering.flushHeaders();
      let rest = '';
      answer.setEncoding('utf8');
      answer.on('data', piece => {
        const lines = (rest + piece).split('\n');
        rest = lines.pop();
        for (const line of lines) {
          const data = /^data: ?(.*?)\r?$/.exec(line);
          answering.write(`${data ? `data: ${through(data[1], answered)}` : line}\n`);
        }
      });
      answer.on('end', () => answering.end(rest));
      answer.on('error', () => answering.destroy());
    } else {
      answering.writeHead(answer.statusCode, back);
      answer.pipe(answering);
    }
  });
  ahead.end(changed);
});
server.on('clientError', (_, socket) => socket.end('HTTP/1.1 400 Bad Request\r\n\r\n'));
server.listen(0, '127.0.0.1', () => console.log(`listening ${server.address().port}`));
if (process.env.PEER_HELD) process.stdin.on('end', () => process.exit(0)).resume();
