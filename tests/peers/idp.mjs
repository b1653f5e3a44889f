// A real identity provider on `oidc-provider`, for the gateway to trust and for the SDKs' clients to log in at.
//
// Told by IDP, JSON, every member optional:
//   path: the issuer's path, "/realms/agents" (none by default)
//   tls: {cert, key}: PEM files; the issuer is then at https://localhost:PORT3 (else http://127.0.0.1:PORT)
//   alg: what tokens are signed with (RS256)
//   ttl: seconds that an access token lasts (300)
//   scopes: what may be asked for (["mcp:tools", "mcp:write"])
//   opaque: resources whose access tokens are opaque; true for all (none)
//   resource: the resource of a request that names none
//   resources: false: RFC 8707 is not spoken here: tokens are for `resource`, whatever is asked for
//   claims: what every access token says beside ({})
//   clients: registered clients, as RFC 7591 writes them, beside SERVICE and GATEWAY below
//   cimd: {cert, key}: PEM files; a client's metadata document is served at https://localhost:PORT2/client.json, and
//     the provider believes it with NODE_EXTRA_CA_CERTS (switched off without)
//   dcr: false: nobody registers here
//   redirect: the redirect URI in that document
// Prints `listening PORT`.
//
// Beside the provider's own paths, for tests:
//   GET  /test/state            {issuer, keys: [kid, …] first signs, cimd, client, gateway}
//   GET  /test/seen             every request so far: {method, path, form, authorization, at}
//   POST /test/rotate           {publish: true}: a new key that does not sign yet; {sign: kid} signs from now on;
//                               {drop: kid}; {}: a new one signs at once, and all others are dropped
//   POST /test/token            {sub, client_id, aud, scope, ttl, typ, alg, kid, claims, header}: an access token signed with a
//                               key of ours ({token}); what is left out is as the provider would write it; null: not there
//   POST /test/opaque           {sub, client_id, aud, scope, ttl}: an opaque one, which introspection knows ({token})
//   POST /test/revoke           {token}: an opaque one is one no more
//   POST /test/fault            {path, times, status, body, headers, delay_ms, hang}: what the next requests of this path meet
import { readFileSync } from 'node:fs';
import { createServer } from 'node:http';
import { createServer as createTlsServer } from 'node:https';
import { setTimeout as sleep } from 'node:timers/promises';
import { exportJWK, generateKeyPair, importJWK, jwtVerify, createLocalJWKSet, SignJWT } from 'jose';
import { errors, Provider } from 'oidc-provider';

const told = JSON.parse(process.env.IDP ?? '{}');
const EXCHANGE = 'urn:ietf:params:oauth:grant-type:token-exchange';
const ACCESS_TOKEN = 'urn:ietf:params:oauth:token-type:access_token';
const SEEN_MAX = 20_000;
const ALG = told.alg ?? 'RS256';
const TTL = told.ttl ?? 300;
const SCOPES = told.scopes ?? ['mcp:tools', 'mcp:write'];
const machine = { grant_types: ['client_credentials'], redirect_uris: [], response_types: [] };
/** A program that calls in its own name. */
const SERVICE = { ...machine, client_id: 'service', client_secret: 'service-secret', scope: SCOPES.join(' ') };
/** The gateway: it introspects, exchanges, and has tokens of its own. */
const GATEWAY = { ...machine, client_id: 'gateway', client_secret: 'gateway-secret', grant_types: ['client_credentials', EXCHANGE] };

// Keys: the first signs.

const keys = [];
async function addKey(first) {
  const { privateKey } = await generateKeyPair(ALG, { extractable: true, modulusLength: 2048 });
  const key = { ...(await exportJWK(privateKey)), kid: `k-${Math.random().toString(36).slice(2, 10)}`, alg: ALG, use: 'sig' };
  if (first) keys.unshift(key);
  else keys.push(key);
  return key.kid;
}
const publicHalf = ({ kty, n, e, crv, x, y, kid, alg, use }) => ({ kty, n, e, crv, x, y, kid, alg, use });

// One store for every provider that there is one after another: a token outlives a rotation.

const store = new Map();
const grants = new Map();
class Adapter {
  constructor(model) { this.model = model; }
  key(id) { return `${this.model}:${id}`; }
  async upsert(id, payload, expiresIn) {
    store.set(this.key(id), { payload, ends: expiresIn ? Date.now() + expiresIn * 1000 : Infinity });
    if (payload.grantId) grants.set(payload.grantId, [...(grants.get(payload.grantId) ?? []), this.key(id)]);
  }
  async find(id) {
    const held = store.get(this.key(id));
    return held && held.ends > Date.now() ? held.payload : undefined;
  }
  #by(member, value) {
    for (const [key, { payload, ends }] of store) {
      if (key.startsWith(`${this.model}:`) && payload[member] === value && ends > Date.now()) return payload;
    }
    return undefined;
  }
  async findByUid(uid) { return this.#by('uid', uid); }
  async findByUserCode(code) { return this.#by('userCode', code); }
  async consume(id) { store.get(this.key(id)).payload.consumed = Math.floor(Date.now() / 1000); }
  async destroy(id) { store.delete(this.key(id)); }
  async revokeByGrantId(grant) {
    for (const key of grants.get(grant) ?? []) store.delete(key);
    grants.delete(grant);
  }
}

// The provider.

const opaque = resource => told.opaque === true || (told.opaque ?? []).includes(resource);
const resourceInfo = resource => ({
  scope: SCOPES.join(' '),
  audience: told.resources === false ? told.resource : resource,
  accessTokenTTL: TTL,
  accessTokenFormat: opaque(resource) ? 'opaque' : 'jwt',
  ...(!opaque(resource) && { jwt: { sign: { alg: ALG } } })
});

function makeProvider() {
  const provider = new Provider(issuer, {
    adapter: Adapter,
    clients: [SERVICE, GATEWAY, ...(told.clients ?? [])],
    clientAuthMethods: ['client_secret_basic', 'client_secret_post', 'private_key_jwt', 'none'],
    cookies: { keys: ['a key for cookies'] },
    fetch: (url, options) => {
      // The client's document is on loopback, where the provider would rather not look.
      delete options.dispatcher;
      return fetch(url, options);
    },
    findAccount: (ctx, id) => ({ accountId: id, claims: () => ({ sub: id }) }),
    extraTokenClaims: (ctx, token) => ({
      ...told.claims,
      ...(ctx?.oidc?.params?.grant_type === EXCHANGE && { act: { sub: ctx.oidc.client.clientId } })
    }),
    features: {
      clientCredentials: { enabled: true },
      clientIdMetadataDocument: { enabled: cimd !== null, ack: 'draft-02' },
      devInteractions: { enabled: true },
      introspection: { enabled: true },
      registration: { enabled: told.dcr !== false },
      revocation: { enabled: true },
      resourceIndicators: {
        enabled: true,
        defaultResource: (ctx, client, oneOf) => oneOf?.[0] ?? (told.resources === false ? told.resource : told.resource ?? []),
        getResourceServerInfo: (ctx, resource) => resourceInfo(resource),
        useGrantedResource: () => true
      }
    },
    issueRefreshToken: (ctx, client, code) => client.grantTypeAllowed('refresh_token') && code.scopes.has('offline_access'),
    jwks: { keys },
    pkce: { required: () => true },
    rotateRefreshToken: true,
    scopes: ['openid', 'offline_access', ...SCOPES],
    ttl: { AccessToken: TTL, ClientCredentials: TTL, Grant: 3600, Interaction: 600, Session: 3600 }
  });
  provider.registerGrantType(EXCHANGE, exchange(provider), ['subject_token', 'subject_token_type', 'audience', 'resource', 'scope', 'requested_token_type', 'actor_token', 'actor_token_type'], ['audience', 'resource']);
  return provider;
}

/** RFC 8693, for access tokens of our own. */
const exchange = provider => async function handler(ctx) {
  const { params, client } = ctx.oidc;
  if (params.subject_token_type !== ACCESS_TOKEN) throw new errors.InvalidRequest('subject_token_type');
  const subject = await whose(provider, params.subject_token);
  const target = [params.resource ?? params.audience].flat()[0];
  if (!target) throw new errors.InvalidRequest('an audience or a resource is needed');
  const scope = params.scope ?? SCOPES.join(' ');
  if (scope.split(' ').some(one => !SCOPES.includes(one))) throw new errors.InvalidScope('unknown scope', scope);
  const token = new provider.AccessToken({ client, accountId: subject, scope, gty: 'token_exchange' });
  token.resourceServer = new provider.ResourceServer(target, resourceInfo(target));
  ctx.body = {
    access_token: await token.save(), issued_token_type: ACCESS_TOKEN, token_type: 'Bearer', expires_in: TTL, scope
  };
};

async function whose(provider, token) {
  if (token.split('.').length === 3) {
    const keySet = createLocalJWKSet({ keys: keys.map(publicHalf) });
    const verified = await jwtVerify(token, keySet, { issuer }).catch(fault => { throw new errors.InvalidGrant(fault.code); });
    return verified.payload.sub;
  }
  const found = await provider.AccessToken.find(token);
  if (!found) throw new errors.InvalidGrant('no such token');
  return found.accountId;
}

// What tests ask for.

const seen = [];
const faults = [];
const now = () => Math.floor(Date.now() / 1000);
const signingKey = kid => keys.find(key => key.kid === kid) ?? keys[0];

const TESTS = {
  'GET state': async () => ({ issuer, keys: keys.map(key => key.kid), cimd, client: SERVICE, gateway: GATEWAY }),
  'GET seen': async () => seen,
  'POST rotate': async ({ publish, sign, drop }) => {
    if (publish) await addKey(false);
    else if (sign) keys.unshift(...keys.splice(keys.findIndex(key => key.kid === sign), 1));
    else if (drop) keys.splice(keys.findIndex(key => key.kid === drop), 1);
    else {
      await addKey(true);
      keys.length = 1;
    }
    provider = makeProvider();
    return { keys: keys.map(key => key.kid) };
  },
  'POST token': async ({ sub = 'alice', client_id = 'service', aud, scope = SCOPES.join(' '), ttl = TTL, typ = 'at+jwt', alg, kid, claims, header }) => {
    const key = signingKey(kid);
    const all = { jti: Math.random().toString(36).slice(2), sub, client_id, aud: aud ?? told.resource, scope, iss: issuer, iat: now(), exp: now() + ttl, ...told.claims, ...claims };
    const present = object => Object.fromEntries(Object.entries(object).filter(([, value]) => value !== null && value !== undefined));
    const signer = new SignJWT(present(all)).setProtectedHeader(present({ alg: alg ?? key.alg, typ, kid: key.kid, ...header }));
    return { token: await signer.sign(await importJWK(key, key.alg)) };
  },
  'POST opaque': async ({ sub = 'alice', client_id = 'service', aud, scope = SCOPES.join(' '), ttl = TTL }) => {
    const client = await provider.Client.find(client_id);
    const token = new provider.AccessToken({ client, accountId: sub, scope, gty: 'test', extra: told.claims, expiresIn: ttl });
    const target = aud ?? told.resource;
    if (target) {
      const info = { ...resourceInfo(target), accessTokenFormat: 'opaque', accessTokenTTL: ttl };
      delete info.jwt;
      token.resourceServer = new provider.ResourceServer(target, info);
    }
    return { token: await token.save() };
  },
  'POST revoke': async ({ token }) => {
    const found = await provider.AccessToken.find(token) ?? await provider.ClientCredentials.find(token);
    await found?.destroy();
    return { revoked: found !== undefined };
  },
  'POST fault': async fault => {
    faults.push({ times: 1, ...fault });
    return {};
  }
};

async function body(req) {
  const pieces = [];
  for await (const piece of req) pieces.push(piece);
  return Buffer.concat(pieces).toString();
}

async function faulty(req, res) {
  const path = req.url.split('?')[0];
  const fault = faults.find(it => it.path === path && it.times > 0);
  if (!fault) return false;
  fault.times -= 1;
  if (fault.delay_ms) await sleep(fault.delay_ms);
  if (fault.hang) return true;
  if (fault.status === undefined && fault.body === undefined) return false;
  res.writeHead(fault.status ?? 200, { 'content-type': 'application/json', ...fault.headers });
  res.end(typeof fault.body === 'string' ? fault.body : JSON.stringify(fault.body ?? {}));
  return true;
}

/** The provider reads forms by itself, unless somebody has done so before it. */
async function look(req, path) {
  const form = /x-www-form-urlencoded/.test(req.headers['content-type'] ?? '');
  if (form) req.body = await body(req);
  if (req.method === 'POST' && path.endsWith('/reg')) {
    // What a client says it will ask for is no bound here: it steps up later.
    const { scope, ...client } = JSON.parse(await body(req));
    req.body = JSON.stringify(client);
  }
  if (seen.length < SEEN_MAX) {
    const fields = form ? [...new URLSearchParams(req.body)] : undefined;
    seen.push({ method: req.method, path, form: fields, authorization: req.headers.authorization, at: Date.now() });
  }
}

function serve(req, res) {
  answer(req, res).catch(fault => {
    console.error(fault);
    if (!res.headersSent) res.writeHead(500);
    res.end();
  });
}

async function answer(req, res) {
  const test = TESTS[`${req.method} ${req.url.replace('/test/', '')}`];
  if (req.url.startsWith('/test/')) {
    const found = test ? await test(JSON.parse(await body(req) || '{}')) : null;
    const text = JSON.stringify(found);
    res.writeHead(test ? 200 : 404, { 'content-type': 'application/json', 'content-length': Buffer.byteLength(text) });
    res.end(text);
    return;
  }
  // With a path, RFC 8414 wants it behind the well-known part.
  const behind = ['/.well-known/oauth-authorization-server', '/.well-known/openid-configuration'].find(it => mount && req.url === `${it}${mount}`);
  const asked = req.url;
  if (behind) req.url = `${mount}${behind}`;
  await look(req, asked);
  if (await faulty({ url: asked }, res)) return;
  if (mount) {
    if (!req.url.startsWith(`${mount}/`)) {
      res.writeHead(404).end();
      return;
    }
    req.originalUrl = req.url;
    req.url = req.url.slice(mount.length);
  }
  provider.callback()(req, res);
}

function listen(server) {
  return new Promise(done => server.listen(0, '127.0.0.1', () => done(server.address().port)));
}
const pair = ({ cert, key }) => ({ cert: readFileSync(cert), key: readFileSync(key) });

/** A client that says itself what it is. */
async function clientDocument() {
  if (!told.cimd) return null;
  const server = createTlsServer(pair(told.cimd), (req, res) => {
    res.writeHead(req.url === '/client.json' ? 200 : 404, { 'content-type': 'application/json' });
    res.end(JSON.stringify({
      client_id: url, client_name: 'a client with a document', application_type: 'native', redirect_uris: [told.redirect],
      grant_types: ['authorization_code', 'refresh_token'], response_types: ['code'], token_endpoint_auth_method: 'none'
    }));
  });
  const url = `https://localhost:${await listen(server)}/client.json`;
  return url;
}

const mount = told.path ?? '';
const cimd = await clientDocument();
await addKey(true);
const port = await listen(createServer(serve));
const tls = told.tls && await listen(createTlsServer(pair(told.tls), serve));
const issuer = `${tls ? `https://localhost:${tls}` : `http://127.0.0.1:${port}`}${mount}`;
let provider = makeProvider();
console.log(`listening ${port}`);
// Nobody outlives whoever started them.
if (process.env.PEER_HELD) process.stdin.resume().on('end', () => process.exit(0));
