// A server of the TypeScript SDK that asks for tokens: of one issuer, and meant for it. Its tool `whoami` says whose it saw.
//
// Told by PROTECTED, JSON: issuer, audience. Prints `listening PORT`, serves http://127.0.0.1:PORT/mcp.
import { createMcpExpressApp, requireBearerAuth } from '@modelcontextprotocol/express';
import { toNodeHandler } from '@modelcontextprotocol/node';
import { createMcpHandler, McpServer } from '@modelcontextprotocol/server';
import { createRemoteJWKSet, jwtVerify } from 'jose';

const told = JSON.parse(process.env.PROTECTED);
const keys = createRemoteJWKSet(new URL(`${told.issuer}/jwks`));

const verifier = {
  async verifyAccessToken(token) {
    const { payload } = await jwtVerify(token, keys, { issuer: told.issuer, audience: told.audience, typ: 'at+jwt' });
    return { token, clientId: payload.client_id, scopes: payload.scope.split(' '), expiresAt: payload.exp, extra: payload };
  }
};

const handler = createMcpHandler(() => {
  const server = new McpServer({ name: 'protected', version: '1' });
  server.registerTool('whoami', { description: 'Whose token came with the call' }, ctx => ({
    content: [{ type: 'text', text: JSON.stringify(ctx.http.authInfo.extra) }]
  }));
  return server;
});
const serve = toNodeHandler(handler);
const app = createMcpExpressApp();
app.all('/mcp', requireBearerAuth({ verifier, requiredScopes: ['mcp:tools'] }), (req, res) => serve(req, res, req.body));
const listening = app.listen(0, '127.0.0.1', () => console.log(`listening ${listening.address().port}`));
if (process.env.PEER_HELD) process.stdin.resume().on('end', () => process.exit(0));
