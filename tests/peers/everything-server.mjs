// @modelcontextprotocol/server-everything over Streamable HTTP, on loopback and a free port.
// By itself it binds every interface and names the port it was told, not the one it got.
//
//   node everything-server.mjs [PORT]       prints `listening PORT`, serves http://127.0.0.1:PORT/mcp
import { Server } from 'node:net';

const listen = Server.prototype.listen;
Server.prototype.listen = function (port, ...rest) {
  const told = rest.find(it => typeof it === 'function');
  return listen.call(this, Number(port), '127.0.0.1', () => {
    told?.();
    process.stdout.write(`listening ${this.address().port}\n`);
  });
};
// The test that started us holds the other end: when it is gone, however it went, so are we.
if (process.env.PEER_HELD) process.stdin.resume().on('end', () => process.exit(0));
console.log = console.error;
process.env.PORT = process.argv[2] ?? '0';
await import('@modelcontextprotocol/server-everything/dist/transports/streamableHttp.js');
