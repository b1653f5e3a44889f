//! What clients and browsers learn of the gateway before, and instead of, being let in: documents, challenges, scopes,
//! audiences, preflights, and where old clients are sent.

use std::time::SystemTime;

use serde_json::{Value, json};

use crate::support::gateway::{Gateway, ISSUER, Setup, Who};
use crate::support::http::{Response, Wire};
use crate::support::mcp::{Post, open_session, session_request};
use crate::support::oracle;
use crate::support::upstream::{Plan, Upstream};

const PATH: &str = "/.well-known/oauth-protected-resource";
const PAGE: &str = "https://app.example";

fn ask(gateway: &Gateway, method: &str, target: &str, fields: &str) -> Response {
    let request = format!("{method} {target} HTTP/1.1\r\nhost: {}\r\n{fields}\r\n", gateway.address);
    let mut wire = Wire::to(gateway.address);
    if method != "HEAD" {
        return wire.ask(request.as_bytes());
    }
    wire.send(request.as_bytes());
    Response { head: wire.head().expect("an answer"), body: Vec::new() }
}

/// Two servers with one tool each, both behind `/mcp` and the second alone behind `/two`; calls of `pay` need scopes.
fn house() -> (Setup, [Upstream; 2]) {
    let servers = [Plan::tools(&["echo"]).start(), Plan::tools(&["pay", "look"]).start()];
    let setup = Setup::new()
        .server("one", &servers[0].url())
        .server("two", &servers[1].url())
        .set("/endpoints", json!({ "/mcp": { "servers": ["one", "two"] }, "/two": { "servers": ["two"] } }))
        .tokens("deny")
        .set("/auth/scopes", json!(["mcp:tools", "offline_access"]))
        .set("/origins", json!([PAGE]))
        .rule(json!({ "id": "open", "permit": ["one/*", "two/look", "*!*"] }))
        .rule(json!({ "id": "pay", "permit": ["two/pay"], "scopes": ["pay:write", "mcp:tools"] }))
        .rule(json!({ "id": "small", "permit": ["*/pay"], "scopes": ["accounts"] }))
        .rule(json!({ "id": "tried", "permit": ["*/pay"], "scopes": ["nobody"], "mode": "shadow" }));
    (setup, servers)
}

/// A token of `ada` with these scopes, good at these paths.
fn scoped(gateway: &Gateway, scope: &str, paths: &[&str]) -> String {
    let audience: Vec<String> = paths.iter().map(|path| gateway.url(path)).collect();
    signed(gateway, &json!({ "aud": audience, "scope": scope }))
}

/// One that says this beside what every good token says.
fn signed(gateway: &Gateway, more: &Value) -> String {
    let header = json!({ "alg": "ES256", "typ": "at+jwt", "kid": gateway.key_id() });
    gateway.sign(&header.to_string(), &claims(more).to_string())
}

fn claims(more: &Value) -> Value {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).expect("the clock is set").as_secs();
    let mut all = json!({ "iss": ISSUER, "sub": "ada", "client_id": "agent-1", "iat": now - 60, "exp": now + 600 });
    for (name, value) in more.as_object().expect("claims are an object") {
        all[name] = value.clone();
    }
    all
}

/// Each endpoint has its document, in the place that is its own, for everybody and by every page's leave.
#[test]
fn documents() {
    let (setup, [one, two]) = house();
    let gateway = setup.start();
    let reached = [
        ("", "/mcp", json!(["mcp:tools", "pay:write", "accounts"])),
        ("/mcp", "/mcp", json!(["mcp:tools", "pay:write", "accounts"])),
        ("/two", "/two", json!(["mcp:tools", "pay:write", "accounts"])),
        ("/s/two/mcp", "/s/two/mcp", json!(["mcp:tools", "pay:write", "accounts"])),
        // `small` is about any server.
        ("/s/one/mcp", "/s/one/mcp", json!(["mcp:tools", "accounts"])),
    ];
    for (place, path, scopes) in reached {
        for fields in
            ["", "origin: https://anybody.example\r\n", "origin: null\r\n", "authorization: Bearer nonsense\r\n"]
        {
            let answer = ask(&gateway, "GET", &format!("{PATH}{place}"), fields);
            assert_eq!((answer.status(), answer.field("content-type")), (200, "application/json"), "{place} {fields}");
            assert_eq!(answer.field("access-control-allow-origin"), "*");
            assert_eq!(answer.field("cache-control"), "public, max-age=300");
            let document = answer.json();
            assert_eq!((&document["resource"], &document["scopes_supported"]), (&json!(gateway.url(path)), &scopes));
            assert_eq!(document["bearer_methods_supported"], json!(["header"]));
            assert!(document["resource_name"].is_string() && document["authorization_servers"].is_array());
        }
        let head = ask(&gateway, "HEAD", &format!("{PATH}{place}"), "");
        let whole = ask(&gateway, "GET", &format!("{PATH}{place}"), "");
        assert_eq!((head.status(), head.field("content-length")), (200, whole.field("content-length")));
        let refused = ask(&gateway, "POST", &format!("{PATH}{place}"), "content-length: 0\r\n");
        assert_eq!((refused.status(), refused.field("allow")), (405, "GET, HEAD"));
        // To read is free; anything else is asked by pages on the list alone.
        let foreign = ask(
            &gateway,
            "POST",
            &format!("{PATH}{place}"),
            "origin: https://anybody.example\r\ncontent-length: 0\r\n",
        );
        assert_eq!(foreign.status(), 403);
    }
    for place in ["/", "/none", "/mcp/", "/s/none/mcp", "/two/x", "mcp"] {
        assert_eq!(ask(&gateway, "GET", &format!("{PATH}{place}"), "").status(), 404, "{place}");
    }
    for other in
        ["/.well-known/oauth-authorization-server", "/.well-known/openid-configuration", "/authorize", "/register"]
    {
        assert_eq!(ask(&gateway, "GET", other, "").status(), 404, "{other}");
    }
    let twice = "origin: https://a.example\r\norigin: https://a.example\r\n";
    assert_eq!(ask(&gateway, "GET", PATH, twice).status(), 403);
    let host = format!("GET {PATH} HTTP/1.1\r\nhost: evil.example\r\n\r\n");
    assert_eq!(Wire::to(gateway.address).ask(host.as_bytes()).status(), 403);
    oracle::check(&gateway, &[("one", &one), ("two", &two)]);
}

/// An endpoint at the very root: its document is at the well-known place itself, and a token may write its URL with the
/// slash or without.
#[test]
fn the_root_is_an_endpoint_too() {
    let upstream = Plan::tools(&["echo"]).start();
    let setup = Setup::new().server("up", &upstream.url()).open().tokens("deny");
    let endpoints = json!({ "/mcp": { "servers": ["up"] }, "/": { "servers": ["up"] } });
    let gateway = setup.set("/endpoints", endpoints).start();
    let document = ask(&gateway, "GET", PATH, "").json();
    assert_eq!(document["resource"], gateway.url("/"));
    assert_eq!(document.get("scopes_supported"), None);
    assert_eq!(ask(&gateway, "GET", &format!("{PATH}/mcp"), "").json()["resource"], gateway.url("/mcp"));
    let refused = Post::call("echo").at("/").to(&gateway);
    assert_eq!(refused.field("www-authenticate"), format!("Bearer resource_metadata=\"{}\"", gateway.url(PATH)));
    for audience in ["/", ""] {
        let token = gateway.token_for(&Who::default(), &[&gateway.url(audience)]);
        Post::call("echo").at("/").token(&token).echoed(&gateway);
        assert_eq!(Post::call("echo").token(&token).to(&gateway).status(), 401);
    }
    oracle::check(&gateway, &[("up", &upstream)]);
}

/// What a token is to have is named at once; a sentence says what is wrong with the one that came.
#[test]
fn challenges_name_scopes_and_faults() {
    let (setup, [one, two]) = house();
    let gateway = setup.start();
    let start = format!("Bearer resource_metadata=\"{}\", scope=\"mcp:tools\"", gateway.url(&format!("{PATH}/two")));
    let challenge = |post: Post| {
        let answer = post.at("/two").to(&gateway);
        assert_eq!(answer.status(), 401, "{}", answer.text());
        answer.field("www-authenticate").to_owned()
    };
    assert_eq!(challenge(Post::call("look")), start);
    let expired = gateway.token_for(&Who { expires_s: -600, ..Who::default() }, &[&gateway.url("/two")]);
    let said = "The bearer token is not valid here: the token has expired.";
    let want = format!("{start}, error=\"invalid_token\", error_description=\"{said}\"");
    assert_eq!(challenge(Post::call("look").token(&expired)), want);
    let said = "Authorization must be one 'Bearer' credential.";
    let want = format!("{start}, error=\"invalid_token\", error_description=\"{said}\"");
    assert_eq!(challenge(Post::call("look").field("authorization", "Basic YTpi")), want);
    oracle::check(&gateway, &[("one", &one), ("two", &two)]);
}

/// [K12] One challenge names all that a call needs, whichever part of it is missing, and never more than once.
#[test]
fn a_step_up_names_every_scope_in_order() {
    let (setup, [one, two]) = house();
    let gateway = setup.start();
    let document = gateway.url(&format!("{PATH}/mcp"));
    // Both permits apply, so the scopes of both are needed; what all tokens are to have comes first.
    let want = format!(
        "Bearer resource_metadata=\"{document}\", error=\"insufficient_scope\", scope=\"mcp:tools accounts pay:write\", \
         error_description=\"The token lacks a scope that this needs; the WWW-Authenticate field names all of them.\""
    );
    for scope in
        ["", "accounts", "pay:write mcp:tools", "mcp:tools", "PAY:WRITE accounts mcp:tools", "pay:write accounts"]
    {
        let token = scoped(&gateway, scope, &["/mcp"]);
        let answer = Post::call("two__pay").token(&token).to(&gateway);
        assert_eq!((answer.status(), answer.field("www-authenticate")), (403, want.as_str()), "{scope}");
        let error = &answer.json()["error"];
        assert!(error["code"].is_i64() && answer.json()["id"].is_string() || answer.json()["id"].is_number());
        // A browser is told too.
        let paged = Post::call("two__pay").token(&token).field("origin", PAGE).to(&gateway);
        assert_eq!((paged.status(), paged.field("access-control-allow-origin")), (403, PAGE));
    }
    let token = scoped(&gateway, "accounts x pay:write mcp:tools", &["/mcp", "/s/two/mcp"]);
    Post::call("two__pay").token(&token).echoed(&gateway);
    // Elsewhere the same, with that place's own document.
    let poor = scoped(&gateway, "accounts", &["/s/two/mcp"]);
    let answer = Post::call("pay").at("/s/two/mcp").token(&poor).to(&gateway);
    assert!(answer.field("www-authenticate").contains(&format!("\"{}\"", gateway.url(&format!("{PATH}/s/two/mcp")))));
    // What no scope can cure is no challenge.
    let answer = Post::call("two__none").token(&poor).to(&gateway);
    assert_eq!(answer.status(), 401);
    let answer = Post::call("two__none").token(&token).to(&gateway);
    assert_eq!((answer.status(), answer.field("www-authenticate")), (200, ""));
    // Within a session of the handshake era as well.
    let token = scoped(&gateway, "accounts", &["/mcp"]);
    let session = open_session(&gateway, |post| post.token(&token));
    let answer = Post::legacy_call(&session, "two__pay").token(&token).to(&gateway);
    assert_eq!((answer.status(), answer.field("www-authenticate")), (403, want.as_str()));
    oracle::check(&gateway, &[("one", &one), ("two", &two)]);
}

/// Several audiences only where they are written, for one endpoint or for all of them.
#[test]
fn audiences() {
    let upstream = Plan::tools(&["echo"]).start();
    let setup = Setup::new().server("up", &upstream.url()).open().tokens("deny");
    let list = ["api://tools", "11111111-2222-3333-4444-555555555555"];
    let endpoints = json!({ "/mcp": { "servers": ["up"] }, "/own": { "servers": ["up"], "audience": list },
        "/one": { "servers": ["up"], "audience": "api://one" } });
    let mut gateway = setup.set("/endpoints", endpoints).start();
    let good = |gateway: &Gateway, audience: Value, places: &[&str]| {
        let token = signed(gateway, &json!({ "aud": audience }));
        for path in ["/mcp", "/own", "/one", "/s/up/mcp"] {
            let answer = Post::call("echo").at(path).token(&token).to(gateway);
            let want = if places.contains(&path) { 200 } else { 401 };
            assert_eq!(answer.status(), want, "{audience} {path}: {}", answer.text());
        }
    };
    good(&gateway, json!(gateway.url("/mcp")), &["/mcp"]);
    good(&gateway, json!(list[0]), &["/own"]);
    good(&gateway, json!([list[1], "else"]), &["/own"]);
    // Its own URL is not what it is called there.
    good(&gateway, json!(gateway.url("/own")), &[]);
    good(&gateway, json!("api://one"), &["/one"]);
    good(&gateway, json!(["api://one", list[0], gateway.url("/s/up/mcp")]), &["/one", "/own", "/s/up/mcp"]);
    for wrong in ["api://tools/", "API://tools", "api://tool", "api://tools api://one", ""] {
        good(&gateway, json!(wrong), &[]);
    }
    // The document names the URL that clients use: what the issuer makes of it is between the two of us.
    let document = ask(&gateway, "GET", &format!("{PATH}/own"), "").json();
    assert_eq!(document["resource"], gateway.url("/own"));
    // What a process that is killed has not written down by then is lost.
    oracle::check(&gateway, &[("up", &upstream)]);
    // An issuer's own is good for all endpoints but those.
    gateway = gateway.restart(|config| config["auth"]["issuers"][0]["audience"] = json!(["api://all", "api://tools"]));
    good(&gateway, json!("api://all"), &["/mcp", "/s/up/mcp"]);
    good(&gateway, json!("api://tools"), &["/mcp", "/own", "/s/up/mcp"]);
    good(&gateway, json!("api://one"), &["/one"]);
    good(&gateway, json!(gateway.url("/mcp")), &[]);
    oracle::check(&gateway, &[("up", &upstream)]);
}

/// A change of an audience is one of who may call: at once, also for whom is here already.
#[test]
fn an_audience_that_changes() {
    let upstream = Plan::tools(&["echo"]).start();
    let setup = Setup::new().server("up", &upstream.url()).open().tokens("deny");
    let gateway = setup.set("/endpoints", json!({ "/own": { "servers": ["up"], "audience": "api://a" } })).start();
    let token = signed(&gateway, &json!({ "aud": "api://a" }));
    Post::call("echo").at("/own").token(&token).echoed(&gateway);
    gateway.configure(|config| config["endpoints"]["/own"]["audience"] = json!("api://b"));
    assert_eq!(gateway.reload()["ok"], true);
    assert_eq!(Post::call("echo").at("/own").token(&token).to(&gateway).status(), 401);
    let token = signed(&gateway, &json!({ "aud": "api://b" }));
    Post::call("echo").at("/own").token(&token).echoed(&gateway);
    oracle::check(&gateway, &[("up", &upstream)]);
}

/// A token without `typ` is good only where the issuer's are said to have none; the word itself is no type.
#[test]
fn tokens_without_a_type() {
    let upstream = Plan::tools(&["echo"]).start();
    let setup = || Setup::new().server("up", &upstream.url()).open().tokens("deny");
    let status = |gateway: &Gateway, typ: Option<&str>, more: Value| {
        let mut header = json!({ "alg": "ES256", "kid": gateway.key_id() });
        if let Some(typ) = typ {
            header["typ"] = json!(typ);
        }
        let token = gateway.sign(&header.to_string(), &claims(&more).to_string());
        Post::call("echo").token(&token).to(gateway).status()
    };
    let plain = setup().start();
    let here = |gateway: &Gateway| json!({ "aud": gateway.url("/mcp") });
    assert_eq!([None, Some("none"), Some("JWT")].map(|typ| status(&plain, typ, here(&plain))), [401, 401, 200]);
    let none = setup().set("/auth/issuers/0/typ", json!(["none"])).start();
    assert_eq!([None, Some("none"), Some("JWT")].map(|typ| status(&none, typ, here(&none))), [200, 401, 401]);
    assert_eq!(status(&none, Some(""), here(&none)), 401);
    // What bears the marks of an ID token is one, with a type or without.
    for mark in ["nonce", "at_hash", "c_hash"] {
        let mut claims = here(&none);
        claims[mark] = json!("x");
        assert_eq!(status(&none, None, claims), 401, "{mark}");
    }
    oracle::check(&none, &[]);
}

/// A page on the list may ask whatever clients ask; one that is not is told nothing.
#[test]
fn preflights() {
    let (setup, [one, two]) = house();
    let gateway = setup.start();
    let wish = "access-control-request-method: POST\r\naccess-control-request-headers: authorization,content-type\r\n";
    for path in ["/mcp", "/two", "/s/one/mcp"] {
        let answer = ask(&gateway, "OPTIONS", path, &format!("origin: {PAGE}\r\n{wish}"));
        assert_eq!((answer.status(), answer.field("access-control-allow-origin")), (204, PAGE), "{path}");
        assert_eq!(answer.field("access-control-allow-methods"), "GET, POST, DELETE");
        assert_eq!((answer.field("access-control-max-age"), answer.field("vary")), ("7200", "origin"));
        assert_eq!(answer.field("access-control-allow-credentials"), "");
        let names: Vec<&str> = answer.field("access-control-allow-headers").split(", ").collect();
        for name in [
            "authorization",
            "content-type",
            "mcp-protocol-version",
            "mcp-session-id",
            "mcp-method",
            "mcp-name",
            "last-event-id",
            "traceparent",
            "portcullis-task",
            "accept",
        ] {
            assert!(names.contains(&name), "{name}: {names:?}");
        }
        assert!(!names.contains(&"*"));
        for origin in ["https://anybody.example", "null", "https://app.example:444", "http://app.example"] {
            let answer = ask(&gateway, "OPTIONS", path, &format!("origin: {origin}\r\n{wish}"));
            assert_eq!((answer.status(), answer.field("access-control-allow-origin")), (403, ""), "{origin}");
        }
    }
    // The fields of tools are named one by one; what is no name of one is not repeated.
    let wish = "access-control-request-method: POST\r\naccess-control-request-headers: mcp-param-region, Mcp-Param-X,x-evil,mcp-param-a b\r\n";
    let answer = ask(&gateway, "OPTIONS", "/mcp", &format!("origin: {PAGE}\r\n{wish}"));
    let names = answer.field("access-control-allow-headers");
    assert!(names.ends_with(", mcp-param-region, Mcp-Param-X"), "{names}");
    // Without a page, or a wish, it is a method like any that is not served.
    for fields in ["", "origin: https://app.example\r\n", "access-control-request-method: POST\r\n"] {
        let answer = ask(&gateway, "OPTIONS", "/mcp", fields);
        assert_eq!((answer.status(), answer.field("allow")), (405, "GET, POST, DELETE"), "{fields}");
    }
    // Documents are for every page, with the fields that clients send along.
    let wish = "access-control-request-method: GET\r\naccess-control-request-headers: mcp-protocol-version\r\n";
    for origin in [PAGE, "https://anybody.example", "null"] {
        let answer = ask(&gateway, "OPTIONS", &format!("{PATH}/two"), &format!("origin: {origin}\r\n{wish}"));
        assert_eq!((answer.status(), answer.field("access-control-allow-origin")), (204, "*"), "{origin}");
        assert_eq!(answer.field("access-control-allow-methods"), "GET, HEAD");
        assert!(answer.field("access-control-allow-headers").contains("mcp-protocol-version"));
    }
    assert_eq!(ask(&gateway, "OPTIONS", "/none", &format!("origin: {PAGE}\r\n{wish}")).status(), 404);
    oracle::check(&gateway, &[("one", &one), ("two", &two)]);
}

/// Every answer to a page on the list can be read by it; to nobody else one word of this is said.
#[test]
fn pages_read_their_answers() {
    let (setup, [one, two]) = house();
    let gateway = setup.start();
    let token = scoped(&gateway, "", &["/mcp"]);
    let readable = |answer: &Response| {
        let fields =
            ["access-control-allow-origin", "vary", "access-control-expose-headers"].map(|it| answer.field(it));
        assert_eq!(fields, [PAGE, "origin", "mcp-session-id, www-authenticate, retry-after"], "{}", answer.text());
        assert_eq!(answer.head.fields.iter().filter(|(name, _)| name == "access-control-allow-origin").count(), 1);
    };
    let page = |post: Post| post.token(&token).field("origin", PAGE);
    let session = page(Post::initialize("2025-11-25")).to(&gateway);
    readable(&session);
    let session = session.field("mcp-session-id").to_owned();
    let list = page(Post::modern("tools/list", json!({}))).to(&gateway);
    assert_eq!(list.status(), 200);
    readable(&list);
    let told =
        page(Post::tell(&session, json!({ "jsonrpc": "2.0", "method": "notifications/initialized" }))).to(&gateway);
    assert_eq!(told.status(), 202);
    readable(&told);
    let call = page(Post::call("one__echo")).to(&gateway);
    assert_eq!(call.status(), 200);
    readable(&call);
    for (post, status) in [
        (Post::call("one__echo").field("origin", PAGE), 401),
        (page(Post::call("two__pay")), 403),
        (page(Post::call("one__echo")).body("{"), 400),
        (page(Post::call("one__echo")).at("/none"), 404),
        (page(Post::call("one__echo")).without("content-type"), 415),
    ] {
        let answer = post.to(&gateway);
        assert_eq!(answer.status(), status, "{}", answer.text());
        readable(&answer);
    }
    let end = format!("authorization: Bearer {token}\r\norigin: {PAGE}\r\n");
    let ended = Wire::to(gateway.address).ask(&session_request(&gateway, "DELETE", "/mcp", &session, &end));
    assert_eq!(ended.status(), 204);
    readable(&ended);
    // The same connection for somebody else: nothing of the page before is left.
    let mut wire = Wire::to(gateway.address);
    readable(&wire.ask(&page(Post::call("one__echo")).bytes(&gateway)));
    for answer in [
        wire.ask(&Post::call("one__echo").token(&token).bytes(&gateway)),
        wire.ask(&Post::call("one__echo").bytes(&gateway)),
        wire.ask(b"nonsense\r\n\r\n"),
    ] {
        let fields =
            ["access-control-allow-origin", "vary", "access-control-expose-headers"].map(|it| answer.field(it));
        assert_eq!(fields, ["", "", ""], "{}", answer.text());
    }
    oracle::check(&gateway, &[("one", &one), ("two", &two)]);
}
