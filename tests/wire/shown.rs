//! What servers are shown: as whom the gateway comes, and what it says of its callers. Everything that goes to a server
//! carries what is due for whom it is for, and nothing of anybody else's.

use std::collections::HashMap;
use std::fs;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Value, json};

use crate::support::gateway::{Gateway, PATIENCE, Setup, Who, eventually};
use crate::support::http::{Response, Wire};
use crate::support::mcp::{LEGACY, Post, open_session, session_request, text_of, tools};
use crate::support::sse_server::SsePlan;
use crate::support::upstream::{Acted, Out, Plan, Reserved, Seen, Upstream, progress, result, said};

/// A token endpoint: whoever asks gets `own-N`, and in exchange for a subject's token `for-SUBJECT-N`; N counts.
fn endpoint() -> Upstream {
    let count = AtomicUsize::new(0);
    Plan::tools(&[])
        .script(move |seen, out| {
            let number = 1 + count.fetch_add(1, Ordering::Relaxed);
            let token = match subject_token(seen) {
                Some(token) => format!("for-{}-{number}", subject(&token)),
                None => format!("own-{number}"),
            };
            let kind = "urn:ietf:params:oauth:token-type:access_token";
            let body =
                json!({ "access_token": token, "token_type": "Bearer", "expires_in": 3600, "issued_token_type": kind });
            out.json(200, "cache-control: no-store\r\n", &body);
            Acted::Done
        })
        .start()
}

fn subject_token(seen: &Seen) -> Option<String> {
    let form = String::from_utf8_lossy(&seen.body).into_owned();
    form.split('&').find_map(|pair| pair.strip_prefix("subject_token=")).map(str::to_owned)
}

/// Of a JWT, unverified.
fn subject(token: &str) -> String {
    let claims = token.split('.').nth(1).and_then(|claims| URL_SAFE_NO_PAD.decode(claims).ok()).unwrap_or_default();
    let claims: Value = serde_json::from_slice(&claims).unwrap_or_default();
    claims["sub"].as_str().unwrap_or_default().to_owned()
}

fn grant(kind: &str, endpoint: &Upstream) -> Value {
    let url = format!("http://{}/token", endpoint.address());
    json!({ kind: { "token_url": url, "client_id": "gateway", "client_secret": "s3cret-of-ours", "private": ["127.0.0.0/8"] } })
}

/// How often a token was fetched.
fn fetches(endpoint: &Upstream) -> usize {
    endpoint.seen().iter().filter(|seen| seen.target == "/token").count()
}

/// What a request showed, all of it.
fn shown(seen: &Seen, name: &str) -> Vec<String> {
    seen.fields.iter().filter(|(field, _)| field == name).map(|(_, value)| value.clone()).collect()
}

#[track_caller]
fn reason(answer: &Response, want: &str) -> String {
    assert_eq!(answer.status(), 200, "{}", answer.text());
    assert_eq!(answer.field("www-authenticate"), "", "a challenge is for the gateway alone");
    let answer = answer.json();
    assert_eq!(answer["error"]["data"]["reason"], want, "{answer}");
    answer["error"]["message"].as_str().unwrap_or_default().to_owned()
}

fn rotate(file: &std::path::Path, secret: &str) {
    let new = file.with_extension("new");
    fs::write(&new, secret).expect("the folder can be written");
    fs::rename(&new, file).expect("a file can be renamed");
}

/// Both eras, a session with its stream and its end: what the server has seen of it is `want`, its own survey included.
#[track_caller]
fn goes_with_everything(credentials: Value, field: &str, want: impl Fn(&str) -> bool) {
    let upstream = Plan::tools(&["echo"]).start();
    let gateway = Setup::new()
        .server("up", &upstream.url())
        .set("/servers/up/credentials", credentials)
        .open()
        .tokens("deny")
        .start();
    let token = gateway.token(&Who::default());
    Post::call("echo").token(&token).echoed(&gateway);
    let session = open_session(&gateway, |post| post.token(&token));
    Post::legacy_call(&session, "echo").token(&token).echoed(&gateway);
    let more = format!("authorization: Bearer {token}\r\n");
    let mut stream = Wire::to(gateway.address);
    stream.send(&session_request(&gateway, "GET", "/mcp", &session, &more));
    upstream.wait("the session's stream", |seen| seen.http == "GET" && seen.method().is_empty());
    let _events = stream.events();
    let ended = Wire::to(gateway.address).ask(&session_request(&gateway, "DELETE", "/mcp", &session, &more));
    assert_eq!(ended.status(), 204, "{}", ended.text());
    upstream.wait("its end", |seen| seen.http == "DELETE");
    for seen in upstream.seen() {
        let shown = shown(&seen, field);
        assert!(shown.len() == 1 && want(&shown[0]), "{} {}: {shown:?}", seen.http, seen.method());
        assert!(!format!("{:?}", seen.fields).contains(&token), "the caller's own token went along");
    }
}

#[test]
fn the_same_for_all() {
    goes_with_everything(json!({ "bearer": "t0ps3cret" }), "authorization", |value| value == "Bearer t0ps3cret");
    goes_with_everything(json!({ "header": { "name": "X-Api-Key", "value": "k3y" } }), "x-api-key", |value| {
        value == "k3y"
    });
    let basic = json!({ "basic": { "username": "gw", "password": "pa:ss" } });
    goes_with_everything(basic, "authorization", |value| value == "Basic Z3c6cGE6c3M=");
}

#[test]
fn the_gateways_own_token() {
    let endpoint = endpoint();
    goes_with_everything(grant("client_credentials", &endpoint), "authorization", |value| value == "Bearer own-1");
    assert_eq!(fetches(&endpoint), 1, "one token for all that goes there");
}

/// [B1] Nothing is shown where nothing is configured; nothing of a caller's either.
#[test]
fn nothing_by_default() {
    let upstream = Plan::tools(&["echo"]).start();
    let gateway = Setup::new().server("up", &upstream.url()).open().tokens("deny").start();
    let token = gateway.token(&Who::default());
    Post::call("echo").token(&token).field("cookie", "a=b").field("proxy-authorization", "x").echoed(&gateway);
    for seen in upstream.seen() {
        for field in ["authorization", "cookie", "proxy-authorization"] {
            assert_eq!(seen.field(field), "", "{}", seen.method());
        }
    }
}

#[test]
fn without_a_token_there_is_nothing_to_show() {
    let endpoint = endpoint();
    for credentials in [json!("forward"), grant("exchange", &endpoint)] {
        let upstream = Plan::tools(&["echo"]).start();
        let gateway = Setup::new()
            .server("up", &upstream.url())
            .set("/servers/up/credentials", credentials)
            .open()
            .tokens("allow")
            .start();
        // What it is looked at with is nobody's.
        let sentence = reason(&Post::call("echo").to(&gateway), "credential_absent");
        assert!(sentence.contains("'up'") && sentence.contains("token"), "{sentence}");
        reason(&Post::initialize(LEGACY).to(&gateway), "credential_absent");
        Post::call("echo").token(&gateway.token(&Who::default())).echoed(&gateway);
        assert_eq!(upstream.calls().len(), 1);
    }
}

/// A secret in a file is another one from the moment on that the file is.
#[test]
fn secrets_are_rotated_without_a_restart() {
    let folder = tempfile::tempdir().expect("a temporary folder can be made");
    let file = folder.path().join("token");
    fs::write(&file, "first\n").expect("the folder can be written");
    let upstream = Plan::tools(&["echo"]).start();
    let gateway = Setup::new()
        .server("up", &upstream.url())
        .set("/servers/up/credentials", json!({ "bearer": format!("${{file:{}}}", file.display()) }))
        .open()
        .start();
    let session = open_session(&gateway, |post| post);
    Post::legacy_call(&session, "echo").echoed(&gateway);
    rotate(&file, "second\n");
    assert_eq!(gateway.reload()["error"], Value::Null);
    for _ in 0..3 {
        Post::call("echo").echoed(&gateway);
        Post::legacy_call(&session, "echo").echoed(&gateway);
    }
    let calls = upstream.calls();
    assert_eq!(calls[0].field("authorization"), "Bearer first");
    for call in &calls[1..] {
        assert_eq!(call.field("authorization"), "Bearer second");
    }
}

/// [B4] Whoever refuses the gateway's credential talks to the gateway: its client sees no challenge, and a fetched token is
/// fetched anew, though not for each refusal.
#[test]
fn a_servers_challenge_stays_here() {
    for status in [401, 403] {
        let endpoint = endpoint();
        let upstream = Plan::tools(&["echo"])
            .script(move |seen, out| {
                let stale = seen.field("authorization") == "Bearer own-1";
                if stale && out.passes("refuse") && seen.http == "POST" {
                    let challenge = "www-authenticate: Bearer resource_metadata=\"https://evil.example/\"\r\n";
                    out.json(status, challenge, &json!({ "error": "no" }));
                    return Acted::Done;
                }
                Acted::Default
            })
            .start();
        let gateway = Setup::new()
            .server("up", &upstream.url())
            .set("/servers/up/credentials", grant("client_credentials", &endpoint))
            .open()
            .start();
        Post::call("echo").echoed(&gateway);
        let session = open_session(&gateway, |post| post);
        upstream.open("refuse");
        let until = Instant::now() + PATIENCE;
        let mut refused = 0;
        // A token that has just been fetched is not fetched anew; a later refusal has that done, once.
        while fetches(&endpoint) < 2 {
            let answer = Post::call("echo").to(&gateway);
            if answer.json()["error"].is_object() {
                let sentence = reason(&answer, "server_auth");
                assert!(sentence.contains("'up'"), "{sentence}");
                let answer = Post::legacy_call(&session, "echo").to(&gateway);
                if answer.json()["error"].is_object() {
                    reason(&answer, "server_auth");
                }
                refused += 1;
            }
            assert!(Instant::now() < until, "the token was never fetched anew");
            thread::sleep(Duration::from_millis(200));
        }
        assert!(refused > 5, "refused while the token was new: {refused}");
        Post::call("echo").echoed(&gateway);
        Post::legacy_call(&session, "echo").echoed(&gateway);
        assert_eq!(fetches(&endpoint), 2);
    }
}

/// No token, no call; and as soon as there is one again, calls go.
#[test]
fn a_dead_token_endpoint() {
    let place = Reserved::new();
    let upstream = Plan::tools(&["echo"]).start();
    let url = format!("http://{}/token", place.address);
    let exchange = json!({ "exchange": {
        "token_url": url, "client_id": "gateway", "client_secret": "s3cret-of-ours", "private": ["127.0.0.0/8"],
    } });
    let gateway = Setup::new()
        .server("up", &upstream.url())
        .set("/servers/up/credentials", exchange)
        .open()
        .tokens("deny")
        .start();
    let token = gateway.token(&Who::default());
    let answer = Post::call("echo").token(&token).to(&gateway);
    let sentence = reason(&answer, "credential_unavailable");
    assert!(sentence.contains("'up'") && sentence.contains("try again in"), "{sentence}");
    assert!(answer.json()["error"]["data"]["retryAfterMs"].as_u64().is_some_and(|ms| ms > 0));
    assert_eq!(upstream.calls().len(), 0);
    let _endpoint = place.start(Plan::tools(&[]).script(|_, out| {
        let kind = "urn:ietf:params:oauth:token-type:access_token";
        let body = json!({ "access_token": "t", "token_type": "Bearer", "expires_in": 60, "issued_token_type": kind });
        out.json(200, "", &body);
        Acted::Done
    }));
    eventually("the token endpoint is back", || {
        Post::call("echo").token(&token).to(&gateway).json()["result"].is_object()
    });
    assert!(upstream.calls().iter().all(|call| call.field("authorization") == "Bearer t"));
}

fn identified(upstream: &Upstream) -> Gateway {
    let told = json!({ "X-User": "subject", "X-Agent": "agent", "X-Issuer": "issuer", "X-Task": "task",
                       "X-Tenant": "claims.tenant", "X-Groups": "claims.groups", "X-Level": "claims.level" });
    Setup::new()
        .server("up", &upstream.url())
        .set("/servers/up/identity_headers", told)
        .task("billing")
        .open()
        .tokens("allow")
        .start()
}

fn told(seen: &Seen) -> Vec<(String, String)> {
    let mut told: Vec<_> =
        seen.fields.iter().filter(|(name, _)| name.starts_with("x-") || name.starts_with("x_")).cloned().collect();
    told.sort();
    told
}

fn signed(gateway: &Gateway, more: &Value) -> String {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).expect("the clock is set").as_secs();
    let mut claims = json!({
        "iss": crate::support::gateway::ISSUER, "aud": gateway.url("/mcp"), "iat": now - 60, "exp": now + 600, "sub": "ada",
    });
    for (name, value) in more.as_object().expect("claims are an object") {
        claims[name] = value.clone();
    }
    let header = json!({ "alg": "ES256", "typ": "at+jwt", "kid": gateway.key_id() });
    gateway.sign(&header.to_string(), &claims.to_string())
}

/// [B6] What a server is told of a caller is what its token says, however the caller writes such fields itself.
#[test]
fn only_the_gateway_says_who_calls() {
    let upstream = Plan::tools(&["echo"]).start();
    let gateway = identified(&upstream);
    let claims =
        json!({ "client_id": "agent-1", "tasks": ["billing"], "tenant": "acme", "groups": ["a", "b"], "level": 3 });
    let token = signed(&gateway, &claims);
    let want: Vec<(String, String)> = [
        ("x-agent", "agent-1"),
        ("x-groups", "a,b"),
        ("x-issuer", crate::support::gateway::ISSUER),
        ("x-level", "3"),
        ("x-task", "billing"),
        ("x-tenant", "acme"),
        ("x-user", "ada"),
    ]
    .map(|(name, value)| (name.to_owned(), value.to_owned()))
    .to_vec();
    let mine = |post: Post| {
        [
            "X-User",
            "x-user",
            "X_User",
            "x_user",
            "X-USER",
            "x-tenant",
            "X_Tenant",
            "x-unknown",
            "mcp-param-x-user",
            "Mcp-Param-X_User",
        ]
        .into_iter()
        .fold(post, |post, name| post.field(name, "mallory"))
    };
    let before = upstream.seen().len();
    mine(Post::call("echo").token(&token)).echoed(&gateway);
    let session = open_session(&gateway, |post| mine(post.token(&token)));
    mine(Post::legacy_call(&session, "echo").token(&token)).echoed(&gateway);
    // In a trailer, too.
    let post = Post::call("echo").token(&token);
    let body = post.body_bytes();
    let mut bytes = post.head_bytes(&gateway, "transfer-encoding: chunked\r\ntrailer: x-user\r\n");
    bytes.extend_from_slice(format!("{:x}\r\n", body.len()).as_bytes());
    bytes.extend_from_slice(&body);
    bytes.extend_from_slice(b"\r\n0\r\nx-user: mallory\r\nx_user: mallory\r\n\r\n");
    let answer = Wire::to(gateway.address).ask(&bytes);
    assert!(answer.status() == 200 || answer.status() == 400, "{}", answer.text());
    let ours: Vec<Seen> =
        upstream.seen()[before..].iter().filter(|seen| !seen.field("x-user").is_empty()).cloned().collect();
    assert!(ours.len() >= 4, "{ours:?}");
    for seen in &ours {
        assert_eq!(told(seen), want, "{} {}", seen.http, seen.method());
        let params = seen.fields.iter().filter(|(name, _)| name.starts_with("mcp-param-") && name.contains('_'));
        assert_eq!(params.count(), 0);
    }
    // What nothing is known of, nothing is said of.
    let bare = signed(&gateway, &json!({ "tenant": null, "groups": [] }));
    let post = mine(Post::call("echo").token(&bare));
    post.echoed(&gateway);
    let seen = upstream.wait("that call", |seen| seen.value() == post.value);
    let names: Vec<String> = told(&seen).into_iter().map(|(name, _)| name).collect();
    assert_eq!(names, ["x-issuer", "x-user"]);
    let post = mine(Post::call("echo"));
    post.echoed(&gateway);
    assert_eq!(told(&upstream.wait("that call", |seen| seen.value() == post.value)), []);
}

/// [B6] An identity that a field cannot hold as it is, is not sent as another one.
#[test]
fn no_identity_is_bent() {
    let upstream = Plan::tools(&["echo"]).start();
    let gateway = identified(&upstream);
    for claims in [
        json!({ "sub": "José" }),
        json!({ "tenant": " acme" }),
        json!({ "tenant": "acme " }),
        json!({ "tenant": "a\r\nx-user: root" }),
        json!({ "tenant": "a\tb" }),
        json!({ "tenant": { "id": 1 } }),
        json!({ "groups": ["a,b"] }),
        json!({ "groups": ["a", ["b"]] }),
        json!({ "groups": ["a", ""] }),
        json!({ "level": 1e300 }),
        json!({ "tenant": "x".repeat(5_000) }),
    ] {
        let sentence = reason(&Post::call("echo").token(&signed(&gateway, &claims)).to(&gateway), "identity_unfit");
        assert!(sentence.contains("'up'") && sentence.contains("field x-"), "{claims}: {sentence}");
    }
    assert_eq!(upstream.calls().len(), 0);
    for claims in
        [json!({ "tenant": "a b" }), json!({ "level": -2 }), json!({ "level": true }), json!({ "groups": "a,b" })]
    {
        Post::call("echo").token(&signed(&gateway, &claims)).echoed(&gateway);
    }
}

/// A server that speaks HTTP+SSE: the stream and each message of a session are its owner's.
#[test]
fn sessions_over_sse() {
    let server = SsePlan::tools(&["echo"]).start();
    let gateway = Setup::new()
        .server("up", &server.url())
        .set("/servers/up/transport", json!("sse"))
        .set("/servers/up/credentials", json!("forward"))
        .set("/servers/up/identity_headers", json!({ "X-User": "subject" }))
        .open()
        .tokens("deny")
        .start();
    let tokens = ["ada", "bob"].map(|subject| gateway.token(&Who { subject, ..Who::default() }));
    let mut sessions = Vec::new();
    for token in &tokens {
        sessions.push(open_session(&gateway, |post| post.token(token)));
    }
    for _ in 0..3 {
        for (session, token) in sessions.iter().zip(&tokens) {
            Post::legacy_call(session, "echo").token(token).echoed(&gateway);
        }
    }
    let seen = server.upstream.seen();
    // By the stream that it is of; the plane's own shows nothing of anybody's.
    let mut owners: HashMap<String, String> = HashMap::new();
    for seen in seen.iter().filter(|seen| seen.http == "POST") {
        let owner = owners.entry(seen.target.clone()).or_insert_with(|| seen.field("authorization").to_owned());
        assert_eq!(owner, seen.field("authorization"), "{}", seen.method());
        let user = if owner.is_empty() { String::new() } else { subject(owner) };
        assert_eq!(seen.field("x-user"), user);
    }
    let mut shown: Vec<String> =
        seen.iter().filter(|seen| seen.http == "GET").map(|it| it.field("authorization").to_owned()).collect();
    shown.sort();
    shown.dedup();
    let mut want: Vec<String> = tokens.iter().map(|token| format!("Bearer {token}")).collect();
    want.push(String::new());
    want.sort();
    assert_eq!(shown, want);
}

const OWNERS: usize = 50;
const V1: &str = "2025-03-26";

/// Answers calls of `stream` with events, and says in every answer what it was shown.
fn mirror(seen: &Seen, out: &mut Out<'_>) -> Acted {
    if seen.method() != "tools/call" {
        return Acted::Default;
    }
    let words = format!("{} {} {}", seen.value(), seen.field("authorization"), seen.field("x-user"));
    if seen.name() == "stream" {
        out.stream();
        out.event(&progress(seen, 1));
        out.event(&said(seen, &words));
        out.stream_end();
    } else {
        out.json(200, "", &said(seen, &words));
    }
    Acted::Done
}

/// One caller of many, and what it does in the way of everybody.
struct Owner<'a> {
    gateway: &'a Gateway,
    name: String,
    token: String,
}

impl Owner<'_> {
    fn call(&self, session: Option<&str>, tool: &str) -> Post {
        let value = format!("{}-{}", self.name, crate::support::mcp::fresh());
        let params = json!({ "name": tool, "arguments": { "value": value }, "_meta": { "progressToken": "t" } });
        let post = match session {
            Some(session) => Post::legacy(session, "tools/call", params),
            None => Post::modern("tools/call", params),
        };
        post.token(&self.token)
    }

    /// An answer is to this one's own call, and its server was shown what is this one's.
    #[track_caller]
    fn check(&self, answer: &Value, tool: &str) {
        let words: Vec<&str> = text_of(answer).split(' ').collect();
        assert!(words.len() == 4 && words[0].starts_with(&format!("{}-", self.name)), "{}: {answer}", self.name);
        assert_eq!((words[1], words[3]), ("Bearer", &*self.name), "{answer}");
        if tool.starts_with("fw") {
            assert_eq!(words[2], self.token);
        } else {
            assert!(words[2].starts_with(&format!("for-{}-", self.name)), "{}: {answer}", self.name);
        }
    }

    fn one(&self, session: Option<&str>, tool: &str) {
        let post = self.call(session, tool);
        if tool.ends_with("stream") {
            let (messages, end) = post.stream(self.gateway).rest();
            assert!(end.is_ok());
            self.check(messages.last().expect("an answer came"), tool);
        } else {
            let answer = post.to(self.gateway);
            assert_eq!(answer.status(), 200, "{}", answer.text());
            self.check(&answer.json(), tool);
        }
    }

    fn batch(&self, session: &str) {
        let tools = ["fw__echo", "ex__echo", "fw__echo"];
        let calls = tools.iter().enumerate().map(|(id, tool)| {
            let value = format!("{}-{}", self.name, crate::support::mcp::fresh());
            json!({ "jsonrpc": "2.0", "id": id, "method": "tools/call",
                    "params": { "name": tool, "arguments": { "value": value } } })
        });
        let calls: Value = calls.collect::<Vec<_>>().into();
        let post = Post::tell(session, Value::Null).without("mcp-protocol-version").body(calls.to_string());
        let answer = post.token(&self.token).to(self.gateway);
        let answers = answer.json();
        let answers = answers.as_array().unwrap_or_else(|| panic!("{}", answer.text()));
        assert_eq!(answers.len(), tools.len());
        for answer in answers {
            let place = answer["id"].as_u64().and_then(|id| usize::try_from(id).ok()).expect("an id of ours");
            self.check(answer, tools[place]);
        }
    }

    fn session(&self, revision: &str) -> String {
        let answer = Post::initialize(revision).token(&self.token).to(self.gateway);
        let session = answer.field("mcp-session-id").to_owned();
        assert!(!session.is_empty(), "{}", answer.text());
        let told = json!({ "jsonrpc": "2.0", "method": "notifications/initialized" });
        let told = Post::tell(&session, told).without("mcp-protocol-version").token(&self.token).to(self.gateway);
        assert_eq!(told.status(), 202);
        session
    }

    fn live(&self) {
        let more = format!("authorization: Bearer {}\r\n", self.token);
        for tool in ["fw__echo", "ex__echo", "fw__stream", "ex__stream"] {
            self.one(None, tool);
        }
        let session = self.session(LEGACY);
        let mut stream = Wire::to(self.gateway.address);
        stream.send(&session_request(self.gateway, "GET", "/mcp", &session, &more));
        for tool in ["ex__stream", "fw__echo", "ex__echo", "fw__stream"] {
            self.one(Some(&session), tool);
        }
        let cancel = json!({ "jsonrpc": "2.0", "method": "notifications/cancelled", "params": { "requestId": 99 } });
        Post::tell(&session, cancel).token(&self.token).to(self.gateway);
        let old = self.session(V1);
        self.batch(&old);
        self.one(None, "ex__echo");
        for session in [session, old] {
            let ended =
                Wire::to(self.gateway.address).ask(&session_request(self.gateway, "DELETE", "/mcp", &session, &more));
            assert_eq!(ended.status(), 204, "{}", ended.text());
        }
    }
}

/// [B2] Fifty owners at once, everything that there is between a client and a server: nothing that goes to a server shows
/// what is due for another than whom it is for. A server of each kind has an instance that nobody can connect to.
#[test]
fn nothing_of_one_owner_goes_with_anothers() {
    let endpoint = endpoint();
    let plan = || Plan::tools(&["echo", "stream"]).script(mirror).start();
    let (forwards, exchanges) = ([plan(), plan()], [plan(), plan()]);
    let gone = Reserved::new();
    let urls = |two: &[Upstream; 2]| json!([two[0].url(), gone.url(), two[1].url()]);
    let told = json!({ "X-User": "subject" });
    let gateway = Setup::new()
        .set("/servers/fw", json!({ "urls": urls(&forwards), "credentials": "forward", "identity_headers": told }))
        .set("/servers/ex", json!({ "urls": urls(&exchanges), "identity_headers": told }))
        .set("/servers/ex/credentials", grant("exchange", &endpoint))
        .shards(2)
        .open()
        .tokens("deny")
        .start();
    let owners: Vec<Owner<'_>> = (0..OWNERS)
        .map(|number| {
            let name = format!("owner{number}");
            let token = gateway.token(&Who { subject: &name, ..Who::default() });
            Owner { gateway: &gateway, name, token }
        })
        .collect();
    eventually("both servers are known", || {
        let owner = &owners[0];
        ["fw__echo", "ex__echo"].iter().all(|tool| owner.call(None, tool).to(&gateway).json()["result"].is_object())
    });
    thread::scope(|scope| {
        for owner in &owners {
            scope.spawn(|| owner.live());
        }
    });
    let tokens: HashMap<&str, &str> = owners.iter().map(|owner| (&*owner.token, &*owner.name)).collect();
    let mut calls = 0;
    for (upstream, forward) in forwards.iter().zip([true; 2]).chain(exchanges.iter().zip([false; 2])) {
        let mut sessions: HashMap<String, String> = HashMap::new();
        for seen in upstream.seen() {
            let shown = shown(&seen, "authorization");
            let owner = match &*shown {
                [] => "",
                [value] => {
                    let value = value.strip_prefix("Bearer ").expect("a bearer token");
                    if forward { tokens[value] } else { value.split('-').nth(1).expect("one of the endpoint's") }
                }
                several => panic!("{several:?}"),
            };
            assert_eq!(seen.field("x-user"), owner, "{} {}", seen.http, seen.method());
            let session = seen.field("mcp-session-id");
            if !session.is_empty() {
                let whose = sessions.entry(session.to_owned()).or_insert_with(|| owner.to_owned());
                assert_eq!(whose, owner, "{} {} in a session", seen.http, seen.method());
            }
            if seen.method() == "tools/call" {
                assert_eq!(seen.value().split('-').next(), Some(owner));
                calls += 1;
            }
        }
        assert!(sessions.values().any(|owner| !owner.is_empty()));
    }
    assert!(calls >= OWNERS * 12, "{calls}");
    assert_eq!(endpoint.seen().len(), OWNERS, "each owner's token was fetched once");
}

/// A server that lets nobody in without a token, and shows each subject a tool of its own beside `echo`.
fn private_server() -> Upstream {
    Plan::tools(&["echo"])
        .script(|seen, out| {
            let shown = seen.field("authorization");
            let who = match shown.strip_prefix("Bearer for-").and_then(|rest| rest.split('-').next()) {
                Some(who) => who.to_owned(),
                None => subject(shown.trim_start_matches("Bearer ")),
            };
            if shown.is_empty() {
                out.json(401, "www-authenticate: Bearer\r\n", &json!({ "error": "who are you?" }));
                return Acted::Done;
            }
            if seen.method() != "tools/list" {
                return Acted::Default;
            }
            let mut names = vec!["echo".to_owned(), format!("{who}_only")];
            if out.passes("more") {
                names.push("late".to_owned());
            }
            let tools = names.iter().map(|name| json!({ "name": name, "inputSchema": { "type": "object" } }));
            let mut answer = json!({ "tools": tools.collect::<Vec<_>>() });
            if seen.is_modern() {
                answer["ttlMs"] = json!(60_000);
                answer["cacheScope"] = json!("private");
            }
            out.json(200, "", &result(seen, answer));
            Acted::Done
        })
        .start()
}

/// [B7] Each caller sees, and calls, what the server shows it; another's is to it as if it were not there.
#[test]
fn each_caller_sees_its_own() {
    let endpoint = endpoint();
    for credentials in [json!("forward"), grant("exchange", &endpoint)] {
        let (upstream, other) = (private_server(), Plan::tools(&["common"]).start());
        let gateway = Setup::new()
            .server("up", &upstream.url())
            .server("other", &other.url())
            .set("/servers/up/credentials", credentials)
            .shards(2)
            .open()
            .tokens("deny")
            .start();
        let token = |subject| {
            let paths = ["/mcp", "/s/up/mcp"].map(|path| gateway.url(path));
            gateway.token_for(&Who { subject, ..Who::default() }, &[&paths[0], &paths[1]])
        };
        let (ada, bob) = (token("ada"), token("bob"));
        let at = |path: &'static str, token: &str| {
            let token = token.to_owned();
            move |post: Post| post.at(path).token(&token)
        };
        eventually("the other server is known", || {
            tools(&gateway, at("/mcp", &ada)).contains(&"other__common".to_owned())
        });
        for _ in 0..2 {
            assert_eq!(tools(&gateway, at("/s/up/mcp", &ada)), ["echo", "ada_only"]);
            assert_eq!(tools(&gateway, at("/s/up/mcp", &bob)), ["echo", "bob_only"]);
            assert_eq!(tools(&gateway, at("/mcp", &ada)), ["other__common", "up__echo", "up__ada_only"]);
            assert_eq!(tools(&gateway, at("/mcp", &bob)), ["other__common", "up__echo", "up__bob_only"]);
        }
        for (token, own, others) in [(&ada, "ada_only", "bob_only"), (&bob, "bob_only", "ada_only")] {
            let session = open_session(&gateway, at("/s/up/mcp", token));
            at("/s/up/mcp", token)(Post::call(own)).echoed(&gateway);
            at("/mcp", token)(Post::call(&format!("up__{own}"))).echoed(&gateway);
            at("/s/up/mcp", token)(Post::legacy_call(&session, own)).echoed(&gateway);
            let no = |post: Post, name: &str| at("/s/up/mcp", token)(post).to(&gateway).text().replace(name, "NAME");
            assert_eq!(no(Post::call(others), others), no(Post::call("never"), "never"));
            let legacy = |name: &str| no(Post::legacy_call(&session, name), name);
            assert_eq!(legacy(others), legacy("never"));
            assert!(legacy("never").contains("Unknown tool"), "{}", legacy("never"));
        }
        for call in upstream.calls() {
            let owner = if call.name() == "ada_only" { "ada" } else { "bob" };
            assert!(call.name().starts_with(owner), "{}", call.name());
            let shown = call.field("authorization").trim_start_matches("Bearer ");
            assert!(shown.starts_with(&format!("for-{owner}-")) || subject(shown) == owner);
        }
        // What has changed is seen by whoever asks after the server has said so.
        let session = open_session(&gateway, at("/s/up/mcp", &ada));
        let mut stream = Wire::to(gateway.address);
        let more = format!("authorization: Bearer {ada}\r\n");
        stream.send(&session_request(&gateway, "GET", "/s/up/mcp", &session, &more));
        let _events = stream.events();
        upstream.open("more");
        upstream.say(&json!({ "jsonrpc": "2.0", "method": "notifications/tools/list_changed" }));
        eventually("ada sees it", || tools(&gateway, at("/s/up/mcp", &ada)) == ["echo", "ada_only", "late"]);
        eventually("bob sees it", || tools(&gateway, at("/s/up/mcp", &bob)) == ["echo", "bob_only", "late"]);
    }
}

/// Its lists hold for a second; once `hang` is open they do not come before `go` is.
fn slow_server() -> Upstream {
    Plan::tools(&["echo"])
        .script(|seen, out| {
            if seen.method() != "tools/list" {
                return Acted::Default;
            }
            let begun = Instant::now();
            while out.passes("hang") && !out.passes("go") && begun.elapsed() < PATIENCE {
                thread::sleep(Duration::from_millis(10));
            }
            let mut answer = json!({ "tools": [{ "name": "echo", "inputSchema": { "type": "object" } }] });
            if seen.is_modern() {
                answer["ttlMs"] = json!(1_000);
                answer["cacheScope"] = json!("private");
            }
            out.json(200, "", &result(seen, answer));
            Acted::Done
        })
        .start()
}

/// Whoever was shown a server's lists calls what it has seen there, while the server does not say what there is now.
#[test]
fn a_call_goes_on_by_what_was_seen_last() {
    let upstream = slow_server();
    let gateway = Setup::new()
        .server("up", &upstream.url())
        .set("/servers/up/credentials", json!("forward"))
        .open()
        .tokens("deny")
        .start();
    let token = gateway.token(&Who::default());
    Post::call("echo").token(&token).echoed(&gateway);
    upstream.open("hang");
    // What was seen holds no more.
    thread::sleep(Duration::from_millis(1_500));
    let begun = Instant::now();
    for _ in 0..3 {
        Post::call("echo").token(&token).echoed(&gateway);
    }
    assert!(begun.elapsed() < Duration::from_secs(8), "nobody waits for the lists: {:?}", begun.elapsed());
    upstream.open("go");
}

/// [B1] What was due at a server is not shown to another that has its name after a reload.
#[test]
fn no_token_goes_to_where_its_server_was_not() {
    let (endpoint, old, new) = (endpoint(), slow_server(), Plan::tools(&["echo"]).start());
    old.open("hang");
    let gateway = Setup::new()
        .server("up", &old.url())
        .set("/servers/up/credentials", grant("exchange", &endpoint))
        .shards(1)
        .open()
        .tokens("deny")
        .start();
    let token = |subject: &str| gateway.token(&Who { subject, ..Who::default() });
    let subjects = ["a", "b", "c", "d"];
    let posts: Vec<Post> = subjects.iter().map(|subject| Post::call("echo").token(&token(subject))).collect();
    let mut wires: Vec<Wire> = posts.iter().map(|post| post.begin(&gateway)).collect();
    eventually("each has its token", || fetches(&endpoint) == subjects.len());
    eventually("the server is looked at", || {
        old.seen().iter().any(|seen| seen.method() == "tools/list" && seen.field("authorization").contains("for-"))
    });
    gateway.configure(|config| {
        config["servers"]["up"]["url"] = json!(new.url());
        config["servers"]["up"]["credentials"]["exchange"]["audience"] = json!(["new"]);
    });
    assert_eq!(gateway.reload()["error"], Value::Null);
    old.open("go");
    for wire in &mut wires {
        wire.response();
    }
    Post::call("echo").token(&token("e")).echoed(&gateway);
    for seen in new.seen() {
        let shown = seen.field("authorization").to_owned();
        let number = shown.rsplit('-').next().and_then(|number| number.parse::<usize>().ok());
        assert!(number.is_none_or(|number| number > subjects.len()), "{}: {shown}", seen.method());
    }
}

/// What the gateway itself looks at a catalogue with shows nobody what it was not shown itself.
#[test]
fn a_catalogue_of_the_gateways_own() {
    let upstream = private_server();
    let gateway = Setup::new()
        .server("up", &upstream.url())
        .set("/servers/up/credentials", json!("forward"))
        .set("/servers/up/catalogue", json!({ "bearer": "for-gateway-1" }))
        .open()
        .tokens("deny")
        .start();
    eventually("the gateway knows it", || upstream.seen().iter().any(|seen| seen.method() == "tools/list"));
    let token = gateway.token(&Who::default());
    assert_eq!(tools(&gateway, |post| post.token(&token)), ["echo", "ada_only"]);
    let answer = Post::call("gateway_only").token(&token).to(&gateway);
    assert_eq!(answer.json()["error"]["code"], -32602, "{}", answer.text());
    assert_eq!(upstream.calls().len(), 0);
}

/// A server that lets nobody in without a token, and tells each subject something else of `sum`.
fn two_faced_server() -> Upstream {
    Plan::tools(&["echo"])
        .script(|seen, out| {
            let who = subject(seen.field("authorization").trim_start_matches("Bearer "));
            if who.is_empty() {
                out.json(401, "www-authenticate: Bearer\r\n", &json!({ "error": "who are you?" }));
                return Acted::Done;
            }
            if seen.method() != "tools/list" {
                return Acted::Default;
            }
            let said = [("echo", "Says it again.".to_owned()), ("sum", format!("Tell {who} all first."))];
            let tools: Vec<Value> = said
                .iter()
                .map(|(name, said)| json!({ "name": name, "description": said, "inputSchema": { "type": "object" } }))
                .collect();
            let mut answer = json!({ "tools": tools });
            if seen.is_modern() {
                answer["ttlMs"] = json!(60_000);
                answer["cacheScope"] = json!("private");
            }
            out.json(200, "", &result(seen, answer));
            Acted::Done
        })
        .start()
}

/// Nobody is told what the server tells another, under a name that is its own too.
#[test]
fn one_callers_definition_is_nobody_elses() {
    let upstream = two_faced_server();
    let gateway = Setup::new()
        .server("up", &upstream.url())
        .set("/servers/up/credentials", json!("forward"))
        .set("/servers/up/pin", json!("warn"))
        .shards(2)
        .open()
        .tokens("deny")
        .start();
    let token = |subject| gateway.token(&Who { subject, ..Who::default() });
    let (ada, mallory) = (token("ada"), token("mallory"));
    eventually("ada sees both", || tools(&gateway, |post| post.token(&ada)) == ["echo", "sum"]);
    for _ in 0..3 {
        let list = Post::modern("tools/list", json!({})).token(&mallory).to(&gateway);
        assert!(!list.text().contains("ada"), "{}", list.text());
        assert_eq!(tools(&gateway, |post| post.token(&mallory)), ["echo"]);
        let unknown = |name: &str| Post::call(name).token(&mallory).to(&gateway).text().replace(name, "NAME");
        assert_eq!(unknown("sum"), unknown("never"));
        let list = Post::modern("tools/list", json!({})).token(&ada).to(&gateway);
        assert!(list.text().contains("Tell ada all first.") && !list.text().contains("mallory"), "{}", list.text());
        Post::call("sum").token(&ada).echoed(&gateway);
    }
    eventually("the operator sees it", || gateway.status()["servers"][0]["pins"]["differing"] == 1);
    for call in upstream.calls() {
        assert_eq!(subject(call.field("authorization").trim_start_matches("Bearer ")), "ada");
    }
}

/// With other credentials the server is another: what callers were shown by the old ones is shown to nobody, nor what
/// the gateway was.
#[test]
fn other_credentials_show_other_things() {
    let upstream = private_server();
    let gateway = Setup::new()
        .server("up", &upstream.url())
        .set("/servers/up/credentials", json!("forward"))
        .shards(2)
        .open()
        .tokens("deny")
        .start();
    let token = |subject| gateway.token(&Who { subject, ..Who::default() });
    let (ada, bob) = (token("ada"), token("bob"));
    let change = |credentials: Value| {
        gateway.configure(|config| config["servers"]["up"]["credentials"] = credentials);
        assert_eq!(gateway.reload()["ok"], true);
    };
    let never = |token: &str, name: &str| {
        let list = Post::modern("tools/list", json!({})).token(token).to(&gateway);
        assert!(!list.text().contains(name), "{}", list.text());
        list.json()["result"].is_object()
    };
    assert_eq!(tools(&gateway, |post| post.token(&ada)), ["echo", "ada_only"]);
    change(json!({ "bearer": "for-gateway-1" }));
    eventually("the gateway has looked", || never(&bob, "ada_only"));
    assert_eq!(tools(&gateway, |post| post.token(&bob)), ["echo", "gateway_only"]);
    change(json!("forward"));
    eventually("bob has looked", || never(&bob, "gateway_only"));
    assert_eq!(tools(&gateway, |post| post.token(&bob)), ["echo", "bob_only"]);
    assert_eq!(tools(&gateway, |post| post.token(&ada)), ["echo", "ada_only"]);
}

/// Whoever comes without a token sees what the gateway itself is shown, and nothing of what callers are.
#[test]
fn without_a_token_nothing_of_callers_is_seen() {
    for (catalogue, want) in
        [(None, vec![]), (Some(json!({ "bearer": "for-gateway-1" })), vec!["echo", "gateway_only"])]
    {
        let upstream = private_server();
        let mut setup = Setup::new().server("up", &upstream.url()).set("/servers/up/credentials", json!("forward"));
        if let Some(catalogue) = &catalogue {
            setup = setup.set("/servers/up/catalogue", catalogue.clone());
        }
        let gateway = setup.open().tokens("allow").start();
        let ada = gateway.token(&Who { subject: "ada", ..Who::default() });
        assert_eq!(tools(&gateway, |post| post.token(&ada)), ["echo", "ada_only"]);
        if catalogue.is_some() {
            eventually("the gateway has looked", || {
                Post::modern("tools/list", json!({})).to(&gateway).text().contains("gateway_only")
            });
        }
        assert_eq!(tools(&gateway, |post| post), want);
        let unknown = |name: &str| Post::call(name).to(&gateway).text().replace(name, "NAME");
        assert_eq!(unknown("ada_only"), unknown("never"));
        assert_eq!(tools(&gateway, |post| post.token(&ada)), ["echo", "ada_only"]);
    }
}
