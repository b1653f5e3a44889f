// Gets itself a token for an MCP server through the TypeScript SDK, as a person or as a program, and calls its tools.
//
// node oauth_client.mjs '{"url": "http://…/mcp", "calls": [{"name": "echo", "arguments": {…}}, …], "redirect": "http://…/cb",
//                         "era": "legacy" | "modern" | "auto", "cimd": "https://…/client.json",
//                         "machine": {"id": "…", "secret": "…", "issuer": "…"}}'
//
// Without `machine` a person logs in: `redirect` is where the browser comes back to, and nobody listens there. `cimd` is
// the client's id where the server has use for that. Prints {client, tokens: [claims, …], logins, texts: [text of each call]}.
import { Client, ClientCredentialsProvider, StreamableHTTPClientTransport, UnauthorizedError } from '@modelcontextprotocol/client';

const spec = JSON.parse(process.argv[2]);
const MODES = { legacy: 'legacy', modern: { pin: '2026-07-28' }, auto: 'auto' };
const HOPS_MAX = 20;
const out = { client: null, tokens: [], logins: 0, texts: [] };

/** What a browser and the person in front of it do: every form is sent, until the way leads back to the client. */
async function approve(start) {
  const jar = new Map();
  let url = new URL(start);
  let form;
  for (let hop = 0; hop < HOPS_MAX; hop += 1) {
    const cookie = [...jar].map(([name, value]) => `${name}=${value}`).join('; ');
    const answer = await fetch(url, { redirect: 'manual', method: form ? 'POST' : 'GET', body: form, headers: { cookie } });
    for (const line of answer.headers.getSetCookie()) {
      const [, name, value] = /^([^=]+)=([^;]*)/.exec(line);
      jar.set(name, value);
    }
    form = undefined;
    const location = answer.headers.get('location');
    if (location) {
      url = new URL(location, url);
      if (url.href.startsWith(spec.redirect)) return url;
      continue;
    }
    const page = await answer.text();
    const [, action] = /<form[^>]* action="([^"]+)"/.exec(page) ?? [];
    const [, prompt] = /name="prompt" value="([^"]+)"/.exec(page) ?? [];
    if (!action) throw new Error(`${answer.status} ${url}: ${page.slice(0, 400)}`);
    url = new URL(action, url);
    form = new URLSearchParams({ prompt, login: 'alice', password: 'x' });
  }
  throw new Error('no way back');
}

const claims = token => JSON.parse(Buffer.from(token.split('.')[1], 'base64url'));
const kept = {};
let back;
const person = {
  redirectUrl: spec.redirect,
  clientMetadataUrl: spec.cimd,
  clientMetadata: {
    client_name: 'a test', redirect_uris: [spec.redirect], grant_types: ['authorization_code', 'refresh_token'],
    response_types: ['code'], token_endpoint_auth_method: 'none'
  },
  clientInformation: () => kept.client,
  saveClientInformation: client => { kept.client = client; },
  tokens: () => kept.tokens,
  saveTokens: tokens => {
    kept.tokens = tokens;
    out.tokens.push(claims(tokens.access_token));
  },
  codeVerifier: () => kept.verifier,
  saveCodeVerifier: verifier => { kept.verifier = verifier; },
  discoveryState: () => kept.discovered,
  saveDiscoveryState: state => { kept.discovered = state; },
  state: () => 'a-state',
  async redirectToAuthorization(url) {
    out.logins += 1;
    back = await approve(url);
  }
};

function machine({ id, secret, issuer }) {
  const provider = new ClientCredentialsProvider({ clientId: id, clientSecret: secret, scope: spec.scope, expectedIssuer: issuer });
  const save = provider.saveTokens.bind(provider);
  provider.saveTokens = tokens => {
    out.tokens.push(claims(tokens.access_token));
    return save(tokens);
  };
  return provider;
}

const authProvider = spec.machine ? machine(spec.machine) : person;
let transport;

async function connected() {
  const client = new Client({ name: 'portcullis-oauth-peer', version: '1' }, { versionNegotiation: { mode: MODES[spec.era ?? 'auto'] } });
  transport = new StreamableHTTPClientTransport(new URL(spec.url), { authProvider });
  await client.connect(transport);
  return client;
}

/** Does it, and once more where somebody had to log in for it. */
async function loggedIn(act) {
  try {
    return await act();
  } catch (fault) {
    if (!(fault instanceof UnauthorizedError)) throw fault;
    await transport.finishAuth(back.searchParams);
    return act();
  }
}

const client = await loggedIn(connected);
for (const call of spec.calls) {
  const result = await loggedIn(() => client.callTool(call));
  out.texts.push(result.content.map(it => it.text).join(''));
}
await client.close();
out.client = spec.machine?.id ?? kept.client.client_id;
console.log(JSON.stringify(out));
process.exit(0);
