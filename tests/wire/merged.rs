//! Several servers behind one endpoint: a message reaches the server that it is for, under that server's own names, and
//! no other; what is hidden, or nobody's, is one and the same however it is spelled.

use std::collections::HashSet;
use std::thread;

use rustix::process::Signal;
use serde_json::{Value, json};

use crate::support::gateway::{Gateway, Setup, Who, eventually};
use crate::support::http::{Response, Wire};
use crate::support::mcp::{LEGACY, MODERN, Post, VERSION_KEY, fresh, open_session, session_request, text_of, tools};
use crate::support::oracle;
use crate::support::sse_server::SsePlan;
use crate::support::upstream::{Acted, Eras, Plan, Reserved, Seen, Upstream, definition, introduced, result, said};

const TASKS: &str = "io.modelcontextprotocol/tasks";
/// Connections enough that each of two shards gets some.
const CONNECTIONS: usize = 12;

/// A server whose resources have a scheme and a name of its own, and whose tool `whoami` says which it is.
fn plan(name: &'static str) -> Plan {
    Plan::tools(&["echo", "whoami", "secret"]).script(move |seen, out| {
        let uri = &seen.message["params"]["uri"];
        let list = match seen.method() {
            "resources/list" => json!({ "resources": [
                { "uri": format!("{name}://open"), "name": "open" }, { "uri": "note://both", "name": "both" },
            ]}),
            "resources/templates/list" => {
                json!({ "resourceTemplates": [{ "uriTemplate": format!("{name}://of/{{x}}"), "name": "of" }] })
            }
            "prompts/get" => {
                let text = json!({ "type": "text", "text": name });
                json!({ "messages": [{ "role": "user", "content": text }] })
            }
            "completion/complete" => json!({ "completion": { "values": [name] } }),
            "resources/read" if uri.as_str().is_some_and(|uri| uri.ends_with("missing")) => {
                let error = json!({ "code": -32_002, "message": "Resource not found", "data": { "uri": uri } });
                out.json(200, "", &json!({ "jsonrpc": "2.0", "id": seen.id(), "error": error }));
                return Acted::Done;
            }
            "resources/read" => json!({ "contents": [{ "uri": uri, "text": name }] }),
            "tools/call" if seen.name() == "whoami" => json!({ "content": [{ "type": "text", "text": name }] }),
            _ => return Acted::Default,
        };
        let mut answer = result(seen, list);
        if seen.is_modern() && seen.method() != "tools/call" {
            answer["result"]["ttlMs"] = json!(60_000);
            answer["result"]["cacheScope"] = json!("public");
        }
        out.json(200, "", &answer);
        Acted::Done
    })
}

fn behind(setup: Setup, servers: &[(&str, &Upstream)]) -> Setup {
    servers.iter().fold(setup, |setup, (name, upstream)| setup.server(name, &upstream.url()))
}

fn pair() -> (Gateway, Upstream, Upstream) {
    let (docs, mail) = (plan("docs").start(), plan("mail").start());
    let gateway = behind(Setup::new(), &[("docs", &docs), ("mail", &mail)]).open().shards(2).start();
    (known(gateway), docs, mail)
}

/// Once it knows all its servers.
fn known(gateway: Gateway) -> Gateway {
    eventually("all servers are known", || {
        let ask = format!("GET /status HTTP/1.1\r\nhost: {}\r\nconnection: close\r\n\r\n", gateway.admin);
        let status = Wire::to(gateway.admin).ask(ask.as_bytes()).json();
        status["servers"].as_array().is_some_and(|servers| servers.iter().all(|server| server["known"] == true))
    });
    gateway
}

/// What a caller of either era asks.
fn ask(era: &str, gateway: &Gateway, method: &str, params: Value) -> Value {
    if era == "modern" {
        return Post::modern(method, params).to(gateway).json();
    }
    let session = open_session(gateway, |post| post);
    Post::legacy(&session, method, params).to(gateway).json()
}

/// The same at an endpoint where names are as they are: the first server has those that both have.
fn bare() -> (Gateway, Upstream, Upstream) {
    let (docs, mail) = (plan("docs").start(), plan("mail").tool(definition("only")).start());
    let gateway = behind(Setup::new(), &[("docs", &docs), ("mail", &mail)])
        .set("/endpoints", json!({ "/mcp": { "servers": ["docs", "mail"], "names": "bare" } }))
        .rule(json!({ "id": "most", "permit": ["*/echo", "*/whoami", "*/only", "*!*"] }))
        .start();
    (known(gateway), docs, mail)
}

/// The handshakes of this client, not those of the gateway's own survey.
fn handshakes(upstream: &Upstream) -> Vec<Seen> {
    let ours = |seen: &Seen| seen.message["params"]["clientInfo"]["name"] == "test";
    upstream.seen().into_iter().filter(|seen| seen.method() == "initialize" && ours(seen)).collect()
}

fn told(upstream: &Upstream, method: &str) -> Vec<Seen> {
    upstream.seen().into_iter().filter(|seen| seen.method() == method && !seen.refused).collect()
}

/// Each call is at its own server, under that one's name, and nothing else of it has changed.
#[test]
fn a_call_reaches_its_server() {
    let (gateway, docs, mail) = pair();
    let session = open_session(&gateway, |post| post);
    let mut values = Vec::new();
    for (server, upstream, other) in [("docs", &docs, &mail), ("mail", &mail, &docs)] {
        let tool = format!("{server}__echo");
        for post in [Post::call(&tool), Post::legacy_call(&session, &tool)] {
            post.echoed(&gateway);
            let seen = upstream.wait("the call", |seen| seen.value() == post.value);
            let sent = String::from_utf8(post.body_bytes()).expect("a body is text");
            let want = sent.replacen(&format!("\"{tool}\""), "\"echo\"", 1);
            assert_eq!(String::from_utf8(seen.body.clone()).expect("so is this"), want);
            assert_eq!(seen.field("mcp-name"), if seen.is_modern() { "echo" } else { "" });
            assert!(other.calls().is_empty() || other.calls().iter().all(|call| call.value() != post.value));
            values.push((server, post.value));
        }
    }
    let records = oracle::check(&gateway, &[("docs", &docs), ("mail", &mail)]);
    for (server, value) in &values {
        let decision = oracle::decision(&records, value);
        assert_eq!((&decision["server"], &decision["tool"]), (&json!(server), &json!("echo")), "by upstream names");
    }
}

/// [E10] What is odd in a body stays so; only the name is another.
#[test]
fn nothing_else_changes() {
    let (gateway, docs, _mail) = pair();
    let odd = |name: &str, value: &str| {
        format!(
            "{{ \"params\":\t{{\"arguments\" : {{\"n\": 12345678901234567890123, \"f\":1.00e+2,\r\n \"z\":-0,\"value\" \
             :\"{value}\",\"name\":\"docs__echo\",\"s\":\"\\u00e9\\/\\ud83d\\ude00 é\"}},\"name\" : {name},\"x\":null,\
             \"_meta\":{{\"{VERSION_KEY}\":\"{MODERN}\",\"io.modelcontextprotocol/clientCapabilities\":{{}}}}}},\n\
             \"method\":\"tools/call\",\"id\":9007199254740993,\"jsonrpc\":\"2.0\" }}  "
        )
    };
    let spelled = [r#""docs__echo""#, r#""docs\u005f_echo""#, r#""\u0064ocs__echo""#, r#""docs__ech\u006f""#];
    for name in spelled {
        let post = Post::call("docs__echo");
        let answer = post.clone().body(odd(name, &post.value)).to(&gateway);
        assert_eq!((answer.status(), text_of(&answer.json())), (200, &*post.value), "{}", answer.text());
        let seen = docs.wait("the call", |seen| seen.value() == post.value);
        assert_eq!(String::from_utf8(seen.body.clone()).expect("text"), odd(r#""echo""#, &post.value));
        assert_eq!(seen.field("mcp-name"), "echo");
    }
    // The header may come in base64, and must say the same as the body.
    let post = Post::call("docs__echo").without("mcp-name").field("mcp-name", "=?base64?ZG9jc19fZWNobw==?=");
    post.echoed(&gateway);
    assert_eq!(docs.wait("the call", |seen| seen.value() == post.value).field("mcp-name"), "echo");
    let upstream_name = Post::call("docs__echo").without("mcp-name").field("mcp-name", "echo").to(&gateway);
    assert_eq!((upstream_name.status(), &upstream_name.json()["error"]["code"]), (400, &json!(-32_020)));
}

/// Two servers with one name, each the other's double; at a bare endpoint the first has it.
#[test]
fn one_name_at_two_servers() {
    let (gateway, docs, mail) = pair();
    let session = open_session(&gateway, |post| post);
    for server in ["docs", "mail"] {
        let tool = format!("{server}__whoami");
        for post in [Post::call(&tool), Post::legacy_call(&session, &tool)] {
            assert_eq!(text_of(&post.to(&gateway).json()), server);
        }
    }
    oracle::check(&gateway, &[("docs", &docs), ("mail", &mail)]);

    let (gateway, docs, mail) = bare();
    let session = open_session(&gateway, |post| post);
    for post in [Post::call("whoami"), Post::legacy_call(&session, "whoami")] {
        assert_eq!(text_of(&post.to(&gateway).json()), "docs");
    }
    for post in [Post::call("only"), Post::legacy_call(&session, "only")] {
        post.echoed(&gateway);
        let seen = mail.wait("the call", |seen| seen.value() == post.value);
        assert_eq!(seen.body, post.body_bytes(), "a bare name is the server's own");
    }
    assert!(mail.calls().iter().all(|call| call.name() == "only"), "{:?}", mail.calls());
    oracle::check(&gateway, &[("docs", &docs), ("mail", &mail)]);
}

/// The answer without what the caller wrote: the same for all that is not there.
fn without_name(answer: &Response, name: &str) -> (u16, String) {
    let said = answer.text();
    assert!(said.contains(name.trim_matches('"')), "the caller's own spelling: {said}");
    (answer.status(), said.replace(name, "NAME"))
}

/// A hidden tool is unknown, however it is spelled: no byte tells, and no server hears of it.
#[test]
fn hidden_by_any_name() {
    let (docs, mail) = (plan("docs").start(), plan("mail").start());
    let setup = || {
        behind(Setup::new(), &[("docs", &docs), ("mail", &mail)])
            .rule(json!({ "id": "some", "permit": ["docs/echo", "docs/whoami", "mail/whoami"] }))
            .rule(json!({ "id": "none", "forbid": ["mail/echo"] }))
    };
    let bare = json!({ "/mcp": { "servers": ["docs", "mail"], "names": "bare" } });
    for gateway in [setup().start(), setup().set("/endpoints", bare).start()].map(known) {
        let session = open_session(&gateway, |post| post);
        let mut answers = HashSet::new();
        for name in SPELLINGS {
            for post in [Post::call(name), Post::legacy_call(&session, name)] {
                // Some are nothing that a field could hold as it is.
                let plain = name.is_ascii() && name.trim() == *name;
                let post = if plain { post } else { post.without("mcp-name").field("mcp-name", &encoded(name)) };
                answers.insert(without_name(&post.to(&gateway), name));
            }
        }
        for (raw, means) in [
            (r#""\u0064ocs__secret""#, "docs__secret"),
            (r#""docs\u005f\u005fsecret""#, "docs__secret"),
            (r#""docs__s\u0065cret""#, "docs__secret"),
            (r#""s\u0065cret""#, "secret"),
        ] {
            for post in [Post::call(means), Post::legacy_call(&session, means)] {
                let body = String::from_utf8(post.body_bytes()).expect("text").replace(&format!("\"{means}\""), raw);
                answers.insert(without_name(&post.body(body).to(&gateway), means));
            }
        }
        assert_eq!(answers.len(), 1, "one answer in both eras and for every cause: {answers:#?}");
        assert!(
            answers.iter().all(|(status, text)| *status == 200 && text.contains("Unknown tool: NAME")),
            "{answers:?}"
        );
        let records = gateway.records();
        let refused: Vec<&Value> = oracle::of_kind(&records, "decision").collect();
        assert!(refused.iter().all(|it| it["verdict"] != "permit"));
    }
    assert!(docs.calls().is_empty() && mail.calls().is_empty(), "{:?} {:?}", docs.calls(), mail.calls());
    assert!(handshakes(&docs).is_empty() && handshakes(&mail).is_empty(), "nor was a session opened for it");
}

fn encoded(name: &str) -> String {
    use base64::Engine as _;
    format!("=?base64?{}?=", base64::engine::general_purpose::STANDARD.encode(name))
}

/// Nobody's call is on record with no server, a server's with its own.
#[test]
fn records_name_the_server() {
    let (gateway, docs, mail) = pair();
    let (nobodys, its) = (Post::call("evil__echo"), Post::call("mail__nothing"));
    assert!(nobodys.to(&gateway).text().contains("Unknown tool: evil__echo"));
    assert!(its.to(&gateway).text().contains("Unknown tool: mail__nothing"));
    let records = oracle::check_with(&gateway, &[("docs", &docs), ("mail", &mail)], &[&nobodys, &its]);
    let of = |post: &Post| {
        let decision = oracle::decision(&records, &post.value);
        (decision["server"].as_str().unwrap_or_default().to_owned(), decision["tool"].clone())
    };
    assert_eq!(of(&nobodys), (String::new(), json!("evil__echo")));
    assert_eq!(of(&its), ("mail".to_owned(), json!("nothing")));
    assert_eq!(Post::call("docs__echo").without("mcp-name").to(&gateway).status(), 400);
    gateway.records_until("a note of no server", |records| {
        records.iter().any(|it| it["reason"] == "header" && it["server"].as_str().unwrap_or_default().is_empty())
    });
}

/// Prompts and completions go the way of tools, resources by their URI: as it is where that leads to its server, with the
/// server's name in front where another would get it.
#[test]
fn prompts_resources_and_completions() {
    let (gateway, docs, mail) = pair();
    for era in ["modern", "legacy"] {
        for server in ["docs", "mail"] {
            let got = ask(era, &gateway, "prompts/get", json!({ "name": format!("{server}__greet") }));
            assert_eq!(got["result"]["messages"][0]["content"]["text"], server, "{got}");
            let complete = |reference: Value| {
                let argument = json!({ "name": "x", "value": "" });
                let got = ask(era, &gateway, "completion/complete", json!({ "ref": reference, "argument": argument }));
                got["result"]["completion"]["values"][0].clone()
            };
            assert_eq!(complete(json!({ "type": "ref/prompt", "name": format!("{server}__greet") })), server);
            assert_eq!(complete(json!({ "type": "ref/resource", "uri": format!("{server}://of/{{x}}") })), server);
            for uri in [
                format!("{server}://open"),
                format!("{server}://of/7"),
                format!("{server}://never-listed"),
                format!("mcp+{server}:note://both"),
                format!("mcp+{server}:{server}://open"),
            ] {
                let read = ask(era, &gateway, "resources/read", json!({ "uri": uri }));
                let content = &read["result"]["contents"][0];
                assert_eq!((&content["text"], &content["uri"]), (&json!(server), &json!(uri)), "{era}: {read}");
            }
        }
        let shared = ask(era, &gateway, "resources/read", json!({ "uri": "note://both" }));
        assert_eq!(shared["result"]["contents"][0]["text"], "docs", "the first that lists it");
        let unknown = ask(era, &gateway, "prompts/get", json!({ "name": "greet" }));
        assert_eq!(unknown["error"]["message"], "Unknown prompt: greet");
    }
    let seen = mail.wait("the read", |seen| seen.method() == "resources/read" && seen.is_modern());
    assert_eq!(seen.field("mcp-name"), seen.message["params"]["uri"].as_str().unwrap_or_default());
    assert!(docs.seen().iter().all(|seen| !String::from_utf8_lossy(&seen.body).contains("mcp+")));
    oracle::check(&gateway, &[("docs", &docs), ("mail", &mail)]);
}

/// An error of the server's names the resource as its client does.
#[test]
fn an_error_names_the_clients_uri() {
    let (gateway, _docs, mail) = pair();
    for era in ["modern", "legacy"] {
        let uri = "mcp+mail:note://missing";
        let error = ask(era, &gateway, "resources/read", json!({ "uri": uri }));
        assert_eq!(
            (&error["error"]["code"], &error["error"]["data"]["uri"]),
            (&json!(-32_002), &json!(uri)),
            "{error}"
        );
    }
    assert!(told(&mail, "resources/read").iter().all(|seen| seen.message["params"]["uri"] == "note://missing"));
}

/// A session begins without any server, which hear of it when there is something for them.
#[test]
fn sessions_open_when_they_are_needed() {
    let (gateway, docs, mail) = pair();
    let session = open_session(&gateway, |post| post);
    assert_eq!(Post::legacy(&session, "ping", json!({})).to(&gateway).json()["result"], json!({}));
    assert_eq!(
        Post::legacy(&session, "logging/setLevel", json!({ "level": "error" })).to(&gateway).json()["result"],
        json!({})
    );
    assert!(handshakes(&docs).is_empty() && handshakes(&mail).is_empty());
    thread::scope(|scope| {
        for n in 0..CONNECTIONS {
            let (gateway, session) = (&gateway, &session);
            scope.spawn(move || Post::legacy_call(session, "docs__echo").id(n).echoed(gateway));
        }
    });
    let shaken = handshakes(&docs);
    assert_eq!((shaken.len(), handshakes(&mail).len()), (1, 0), "one handshake, with the one that is called");
    assert_eq!(shaken[0].message["params"]["capabilities"], json!({ "elicitation": {} }), "as that client");
    let initialized = |upstream: &Upstream| {
        let told = told(upstream, "notifications/initialized");
        told.iter().filter(|seen| upstream.sessions().contains(&seen.field("mcp-session-id").to_owned())).count()
    };
    assert_eq!(
        (initialized(&docs) >= 1, told(&docs, "logging/setLevel").len()),
        (true, 1),
        "and brought to where it is"
    );
    assert_eq!(told(&docs, "ping").len(), 0);
    Post::legacy_call(&session, "mail__echo").echoed(&gateway);
    assert_eq!(handshakes(&mail).len(), 1);

    // What concerns all of them is told to all that are open.
    let changed = json!({ "jsonrpc": "2.0", "method": "notifications/roots/list_changed" });
    assert_eq!(Post::tell(&session, changed).to(&gateway).status(), 202);
    let level = Post::legacy(&session, "logging/setLevel", json!({ "level": "debug" })).id("lv").to(&gateway).json();
    assert_eq!(level, json!({ "jsonrpc": "2.0", "id": "lv", "result": {} }));
    for upstream in [&docs, &mail] {
        let seen = upstream.wait("the level", |seen| seen.message["params"]["level"] == "debug");
        let changed = upstream.wait("that roots changed", |seen| seen.method() == "notifications/roots/list_changed");
        let own = upstream.wait("the call", |seen| seen.calls("echo")).field("mcp-session-id").to_owned();
        assert_eq!((seen.field("mcp-session-id"), changed.field("mcp-session-id")), (&*own, &*own));
    }
    let bad = Post::legacy(&session, "logging/setLevel", json!({ "level": "loud" })).to(&gateway).json();
    assert_eq!(bad["error"]["code"], -32_602);

    // Over is over, everywhere.
    let theirs: Vec<String> = [&docs, &mail]
        .map(|upstream| upstream.wait("the call", |seen| seen.calls("echo")).field("mcp-session-id").to_owned())
        .into();
    let gone = Wire::to(gateway.address).ask(&session_request(&gateway, "DELETE", "/mcp", &session, ""));
    assert_eq!(gone.status(), 204, "{}", gone.text());
    for (upstream, theirs) in [&docs, &mail].into_iter().zip(theirs) {
        assert!(!upstream.sessions().contains(&theirs), "the server's session is over too");
    }
    assert_eq!(Post::legacy_call(&session, "docs__echo").to(&gateway).status(), 404);
    oracle::check(&gateway, &[("docs", &docs), ("mail", &mail)]);
}

/// One of them has forgotten its session: that alone is opened again, with what the client had set and subscribed to
/// there.
#[test]
fn a_forgotten_session_is_opened_again() {
    let (gateway, docs, mail) = pair();
    let session = open_session(&gateway, |post| post);
    for uri in ["docs://open", "mail://open", "mcp+mail:note://both"] {
        let post = Post::legacy(&session, "resources/subscribe", json!({ "uri": uri }));
        assert_eq!(post.to(&gateway).json()["result"], json!({}), "{uri}");
    }
    Post::legacy_call(&session, "docs__echo").echoed(&gateway);
    Post::legacy_call(&session, "mail__echo").echoed(&gateway);
    mail.forget_sessions();
    Post::legacy_call(&session, "mail__echo").echoed(&gateway);
    Post::legacy_call(&session, "docs__echo").echoed(&gateway);
    assert_eq!((handshakes(&docs).len(), handshakes(&mail).len()), (1, 2));
    let own = mail.wait("the call", |seen| seen.calls("echo")).field("mcp-session-id").to_owned();
    let again = told(&mail, "resources/subscribe");
    let again: HashSet<&str> = again
        .iter()
        .filter(|seen| seen.field("mcp-session-id") == own)
        .map(|seen| seen.message["params"]["uri"].as_str().unwrap_or_default())
        .collect();
    assert_eq!(again, HashSet::from(["mail://open", "note://both"]), "its own, by its own names");
    assert_eq!(told(&docs, "resources/subscribe").len(), 1);
    let off = Post::legacy(&session, "resources/unsubscribe", json!({ "uri": "mail://open" })).to(&gateway);
    assert_eq!(off.json()["result"], json!({}));
    assert_eq!(told(&mail, "resources/unsubscribe").len(), 1);
    oracle::check(&gateway, &[("docs", &docs), ("mail", &mail)]);
}

/// What a session has subscribed to is sent again by the rules of today, and to no other server than it was for.
#[test]
fn subscriptions_are_weighed_before_they_are_sent_again() {
    let (docs, mail) = (plan("docs").start(), plan("mail").start());
    let gateway = behind(Setup::new(), &[("docs", &docs), ("mail", &mail)])
        .set("/endpoints", json!({ "/mcp": { "servers": ["docs", "mail"] } }))
        .rule(json!({ "id": "all", "permit": ["*/*", "*!*"] }))
        .start();
    let gateway = known(gateway);
    let session = open_session(&gateway, |post| post);
    for uri in ["docs://open", "mail://open", "mcp+docs:note://both"] {
        let post = Post::legacy(&session, "resources/subscribe", json!({ "uri": uri }));
        assert_eq!(post.to(&gateway).json()["result"], json!({}), "{uri}");
    }
    gateway.configure(|config| {
        config["endpoints"]["/mcp"] = json!({ "servers": ["docs"], "names": "bare" });
        config["policy"]["rules"][0]["permit"] = json!(["*/*", "docs!resource:note://*", "mail!*"]);
    });
    assert_eq!(gateway.reload()["ok"], true);
    let before = told(&docs, "resources/subscribe").len();
    docs.forget_sessions();
    Post::legacy_call(&session, "echo").echoed(&gateway);
    let again: Vec<Seen> = told(&docs, "resources/subscribe").split_off(before);
    let again: Vec<&Value> = again.iter().map(|seen| &seen.message["params"]["uri"]).collect();
    assert_eq!(again, [&json!("note://both")]);
}

/// A process that was killed knew of no server's session what the ledger does not.
#[test]
fn a_session_survives_a_kill() {
    let (gateway, docs, mail) = pair();
    let session = open_session(&gateway, |post| post);
    Post::legacy_call(&session, "docs__echo").echoed(&gateway);
    thread::sleep(std::time::Duration::from_millis(1_500));
    gateway.signal(Signal::KILL);
    let gateway = gateway.restart(|_| {});
    Post::legacy_call(&session, "docs__echo").echoed(&gateway);
    Post::legacy_call(&session, "mail__echo").echoed(&gateway);
    assert_eq!((handshakes(&docs).len(), handshakes(&mail).len()), (1, 1), "the one was remembered, the other opened");
    assert_eq!(handshakes(&mail)[0].message["params"]["capabilities"], json!({ "elicitation": {} }));
}

/// Questions of two servers at once, under one id of theirs: each gets its own answer.
#[test]
fn two_servers_ask_at_once() {
    let asks = |name: &'static str| {
        Plan::tools(&["ask", "whoami"]).script(move |seen, out| {
            if seen.calls("ask") {
                out.stream();
                out.event(&json!({ "jsonrpc": "2.0", "id": "q", "method": "elicitation/create", "params": {
                    "message": name, "requestedSchema": { "type": "object", "properties": {} },
                }}));
                out.pass("answered");
                out.event(&said(seen, seen.value()));
                out.stream_end();
                return Acted::Done;
            }
            if seen.id() == "q" && seen.method().is_empty() {
                out.note(seen.message["result"]["content"]["for"].to_string());
                out.lets_pass("answered");
            }
            Acted::Default
        })
    };
    let (docs, mail) = (asks("docs").start(), asks("mail").start());
    let gateway = known(behind(Setup::new(), &[("docs", &docs), ("mail", &mail)]).open().shards(2).start());
    let session = open_session(&gateway, |post| post);
    let calls = ["docs", "mail"].map(|server| Post::legacy_call(&session, &format!("{server}__ask")).id(server));
    let mut streams = calls.each_ref().map(|post| post.stream(&gateway));
    let questions: Vec<Value> = streams
        .iter_mut()
        .map(|events| {
            loop {
                let event = events.next().expect("it is not cut").expect("it goes on");
                if let Some(data) = event.data.filter(|data| !data.is_empty()) {
                    break serde_json::from_str(&data).expect("a message");
                }
            }
        })
        .collect();
    assert_ne!(questions[0]["id"], questions[1]["id"]);
    for (question, server) in questions.iter().zip(["docs", "mail"]).rev() {
        assert_eq!(question["params"]["message"], server);
        let answer = json!({ "jsonrpc": "2.0", "id": question["id"], "result": { "action": "accept", "content": { "for": server } } });
        assert_eq!(Post::tell(&session, answer.clone()).to(&gateway).status(), 202);
        assert_eq!(Post::tell(&session, answer).to(&gateway).status(), 202, "a second one goes nowhere");
    }
    for (events, post) in streams.into_iter().zip(&calls) {
        let (messages, _) = events.rest();
        assert_eq!(text_of(messages.last().expect("an answer")), post.value);
    }
    assert_eq!((docs.notes(), mail.notes()), (vec!["\"docs\"".to_owned()], vec!["\"mail\"".to_owned()]));
    oracle::check(&gateway, &[("docs", &docs), ("mail", &mail)]);
}

/// A cancellation names no server; the one that has the request hears of it, in the session that it came in.
#[test]
fn a_cancellation_reaches_its_server() {
    let holds = || {
        Plan::tools(&["hold", "echo"]).script(|seen, out| {
            if seen.calls("hold") {
                out.pass(&seen.id().to_string());
                return Acted::Default;
            }
            if seen.method() == "notifications/cancelled" {
                out.lets_pass(&seen.message["params"]["requestId"].to_string());
            }
            Acted::Default
        })
    };
    let (docs, mail) = (holds().start(), holds().start());
    let gateway = known(behind(Setup::new(), &[("docs", &docs), ("mail", &mail)]).open().shards(2).start());
    let session = open_session(&gateway, |post| post);
    Post::legacy_call(&session, "docs__echo").echoed(&gateway);
    for round in 0..4 {
        let post = Post::legacy_call(&session, "mail__hold").id(format!("h{round}"));
        let mut wire = post.begin(&gateway);
        mail.wait("the call", |seen| seen.value() == post.value);
        let note = json!({ "jsonrpc": "2.0", "method": "notifications/cancelled", "params": { "requestId": format!("h{round}") } });
        assert_eq!(Post::tell(&session, note.clone()).to(&gateway).status(), 202);
        let heard = mail.wait("the cancellation", |seen| seen.message == note);
        assert_eq!(
            heard.field("mcp-session-id"),
            mail.wait("the call", |seen| seen.calls("hold")).field("mcp-session-id")
        );
        wire.response();
    }
    assert!(told(&docs, "notifications/cancelled").is_empty());
    oracle::check(&gateway, &[("docs", &docs), ("mail", &mail)]);
}

/// One that is not there costs its own part, and says so; what it would have had is no secret to who may use it, and
/// nothing to who may not.
#[test]
fn a_dead_server_is_named() {
    let (docs, dead) = (plan("docs").start(), Reserved::new());
    let mut setup = behind(Setup::new(), &[("docs", &docs)]).server("dead", &dead.url());
    setup = setup.tokens("deny").rule(json!({ "id": "docs", "permit": ["docs/*"] }));
    let gateway = setup.task("all").rule(json!({ "id": "all", "permit": ["dead/*"], "tasks": ["all"] })).start();
    println!("{}", gateway.banner);
    let token = gateway.token(&Who { tasks: &["all"], ..Who::default() });
    let plain = gateway.token(&Who::default());
    let call = |tool: &str, token: &str, task: bool| {
        let post = Post::call(tool).token(token);
        let post = if task { post.field("portcullis-task", "all") } else { post };
        post.to(&gateway)
    };
    let answer = call("dead__echo", &token, true);
    assert_eq!(
        (answer.status(), &answer.json()["error"]["message"]),
        (503, &json!("The server 'dead' has not been reached yet; try again."))
    );
    let hidden = call("dead__echo", &plain, false);
    assert_eq!(hidden.json()["error"]["message"], "Unknown tool: dead__echo", "{}", hidden.text());
    assert_eq!(text_of(&call("docs__whoami", &plain, false).json()), "docs");
}

/// One that was there and is not any more: not sent, said so, and the others work.
#[test]
fn a_server_that_went_away() {
    let (gateway, docs, mail) = pair();
    let session = open_session(&gateway, |post| post);
    Post::legacy_call(&session, "mail__echo").echoed(&gateway);
    drop(mail);
    let calls: [&dyn Fn() -> Post; 2] = [&|| Post::call("mail__echo"), &|| Post::legacy_call(&session, "mail__echo")];
    for call in calls {
        // The last kept connection may be found out by a call.
        eventually("nobody is there", || {
            let data = call().to(&gateway).json()["error"]["data"].clone();
            assert_eq!(data["server"], "mail", "{data}");
            assert!(["unreachable", "server_cut"].iter().any(|known| data["reason"] == *known), "{data}");
            data["reason"] == "unreachable"
        });
    }
    Post::call("docs__echo").echoed(&gateway);
    Post::legacy_call(&session, "docs__echo").echoed(&gateway);
    oracle::check(&gateway, &[("docs", &docs)]);
}

/// Those that speak the caller's era are there, the others are not.
#[test]
fn a_caller_sees_its_era() {
    let new = Plan::tools(&["echo"]).eras(Eras::Modern).start();
    let old = Plan::tools(&["echo"]).eras(Eras::Legacy).start();
    let gateway = known(behind(Setup::new(), &[("new", &new), ("old", &old)]).open().start());
    let session = open_session(&gateway, |post| post);
    Post::call("new__echo").echoed(&gateway);
    Post::legacy_call(&session, "old__echo").echoed(&gateway);
    for post in [Post::call("old__echo"), Post::legacy_call(&session, "new__echo")] {
        let error = post.to(&gateway).json();
        assert_eq!(error["error"]["message"], format!("Unknown tool: {}", post.tool()), "{error}");
    }
    assert!(old.seen().iter().all(|seen| seen.method() == "server/discover" || !seen.is_modern()));
    oracle::check(&gateway, &[("new", &new), ("old", &old)]);
}

/// A server speaks its revision, whichever its client has settled on with the gateway; and one without sessions none.
#[test]
fn servers_of_other_revisions() {
    let fixed = |revision: &'static str, session: &'static str| {
        Plan::tools(&["echo"]).eras(Eras::Legacy).script(move |seen, out| {
            if seen.method() != "initialize" {
                return Acted::Default;
            }
            let mut answer = introduced(seen);
            answer["result"]["protocolVersion"] = json!(revision);
            out.json(200, session, &answer);
            Acted::Done
        })
    };
    let (old, none) = (fixed("2025-03-26", "").start(), fixed(LEGACY, "").start());
    let gateway = known(behind(Setup::new(), &[("old", &old), ("none", &none)]).open().start());
    let session = open_session(&gateway, |post| post);
    for (tool, upstream, version) in [("old__echo", &old, ""), ("none__echo", &none, LEGACY)] {
        let post = Post::legacy_call(&session, tool);
        post.echoed(&gateway);
        let seen = upstream.wait("the call", |seen| seen.value() == post.value);
        let said = ["mcp-session-id", "mcp-protocol-version"].map(|field| seen.field(field).to_owned());
        assert_eq!(said, [String::new(), version.to_owned()], "as the server has it");
        Post::legacy_call(&session, tool).echoed(&gateway);
        assert_eq!(handshakes(upstream).len(), 1, "a handshake for all that follows");
    }
    // A client without a session: each message stands alone, and the handshake is the gateway's.
    Post::legacy_call("", "none__echo").without("mcp-session-id").echoed(&gateway);
    oracle::check(&gateway, &[("old", &old), ("none", &none)]);
}

/// The messages of a batch go their own ways.
#[test]
fn a_batch_for_two_servers() {
    let (gateway, docs, mail) = pair();
    let answer = Post::initialize("2025-03-26").to(&gateway);
    let session = answer.field("mcp-session-id").to_owned();
    assert_eq!(answer.json()["result"]["protocolVersion"], "2025-03-26");
    let ask = |id: &str, method: &str, params: Value| json!({ "jsonrpc": "2.0", "id": id, "method": method, "params": params });
    let value = fresh();
    let batch = json!([
        ask("a", "tools/call", json!({ "name": "docs__whoami", "arguments": { "value": value } })),
        ask("b", "ping", json!({})),
        { "jsonrpc": "2.0", "method": "notifications/roots/list_changed" },
        ask("c", "tools/call", json!({ "name": "mail__whoami", "arguments": { "value": value } })),
        ask("d", "tools/call", json!({ "name": "whoami", "arguments": {} })),
        ask("e", "resources/read", json!({ "uri": "mcp+mail:note://both" })),
    ]);
    let post = Post::tell(&session, Value::Null).without("mcp-protocol-version").body(batch.to_string());
    let answers = post.to(&gateway).json();
    let short: Vec<Value> = answers
        .as_array()
        .expect("an array")
        .iter()
        .map(|answer| {
            let said = [
                &answer["result"]["content"][0]["text"],
                &answer["result"]["contents"][0]["uri"],
                &answer["error"]["message"],
                &answer["result"],
            ];
            json!([answer["id"], said.into_iter().find(|it| !it.is_null())])
        })
        .collect();
    assert_eq!(
        json!(short),
        json!([["a", "docs"], ["b", {}], ["c", "mail"], ["d", "Unknown tool: whoami"], ["e", "mcp+mail:note://both"],])
    );
    assert_eq!(
        (told(&docs, "notifications/roots/list_changed").len(), told(&mail, "notifications/roots/list_changed").len()),
        (1, 0)
    );
}

/// `Mcp-Param-*` fields are those of the tool that is meant.
#[test]
fn parameter_headers_are_checked_against_the_right_tool() {
    let routed = |header: &str| {
        json!({
            "name": "routed", "inputSchema": { "type": "object", "properties": { "region": { "type": "string", "x-mcp-header": header } } },
        })
    };
    let docs = Plan::tools(&[]).tool(routed("Region")).start();
    let mail = Plan::tools(&[]).tool(routed("Place")).start();
    let gateway = known(behind(Setup::new(), &[("docs", &docs), ("mail", &mail)]).open().start());
    let call = |tool: &str| Post::call(tool).param("/arguments/region", json!("eu"));
    call("docs__routed").field("mcp-param-region", "eu").echoed(&gateway);
    call("mail__routed").field("mcp-param-place", "eu").echoed(&gateway);
    for wrong in [
        call("docs__routed").field("mcp-param-place", "eu"),
        call("docs__routed"),
        call("mail__routed").field("mcp-param-region", "eu"),
    ] {
        assert_eq!(wrong.to(&gateway).status(), 400);
    }
    oracle::check(&gateway, &[("docs", &docs), ("mail", &mail)]);
}

/// A task is at the server that made it, whatever it is called there.
#[test]
fn a_task_is_at_its_server() {
    let works = |name: &'static str| {
        Plan::tools(&["work"]).script(move |seen, out| {
            let state = json!({
                "status": "working", "createdAt": "2026-08-01T00:00:00Z", "lastUpdatedAt": "2026-08-01T00:00:00Z",
                "ttlMs": null, "taskId": "t-1", "statusMessage": name,
            });
            let mut answer = result(seen, state);
            match seen.method() {
                "server/discover" => {
                    let capabilities = json!({ "tools": {}, "extensions": { TASKS: {} } });
                    answer = result(seen, json!({ "supportedVersions": [MODERN], "capabilities": capabilities, "ttlMs": 0, "cacheScope": "private" }));
                }
                "tools/call" => answer["result"]["resultType"] = json!("task"),
                "tasks/get" => {}
                _ => return Acted::Default,
            }
            out.json(200, "", &answer);
            Acted::Done
        })
    };
    let (docs, mail) = (works("docs").start(), works("mail").start());
    let gateway = known(behind(Setup::new(), &[("docs", &docs), ("mail", &mail)]).open().start());
    let able = || json!({ "extensions": { TASKS: {} } });
    for server in ["docs", "mail"] {
        let made = Post::call(&format!("{server}__work")).declaring(able()).to(&gateway).json();
        let handle = made["result"]["taskId"].as_str().unwrap_or_else(|| panic!("no task: {made}")).to_owned();
        let state = Post::modern("tasks/get", json!({ "taskId": handle })).declaring(able()).to(&gateway).json();
        assert_eq!(
            (&state["result"]["taskId"], &state["result"]["statusMessage"]),
            (&json!(handle), &json!(server)),
            "{state}"
        );
    }
    let unknown = Post::modern("tasks/get", json!({ "taskId": "t-1" })).declaring(able()).to(&gateway).json();
    assert_eq!(unknown["error"]["message"], "Unknown task", "{unknown}");
    assert_eq!((told(&docs, "tasks/get").len(), told(&mail, "tasks/get").len()), (1, 1));
    oracle::check(&gateway, &[("docs", &docs), ("mail", &mail)]);
}

/// What is inside a task goes by the client's names: in its state, and in what its server says of it unasked.
#[test]
fn resources_of_a_task_lead_back() {
    let state = |status: &str| {
        let link = json!({ "type": "resource_link", "uri": "note://both", "name": "both" });
        json!({
            "status": status, "createdAt": "2026-08-01T00:00:00Z", "lastUpdatedAt": "2026-08-01T00:00:00Z",
            "ttlMs": null, "taskId": "t-1", "result": { "content": [link] },
        })
    };
    let works = |name: &'static str| {
        Plan::tools(&["work"]).script(move |seen, out| {
            let mut answer = result(seen, state("completed"));
            match seen.method() {
                "server/discover" => {
                    let capabilities = json!({ "tools": {}, "resources": {}, "extensions": { TASKS: {} } });
                    let said = json!({ "supportedVersions": [MODERN], "capabilities": capabilities });
                    answer = result(seen, said);
                }
                "resources/list" => {
                    let own = json!({ "uri": format!("{name}://open"), "name": "open" });
                    let both = json!({ "uri": "note://both", "name": "both" });
                    answer = result(seen, json!({ "resources": [own, both] }));
                }
                "tools/call" => answer["result"]["resultType"] = json!("task"),
                "tasks/get" => {}
                _ => return Acted::Default,
            }
            answer["result"]["ttlMs"] = json!(0);
            answer["result"]["cacheScope"] = json!("private");
            out.json(200, "", &answer);
            Acted::Done
        })
    };
    let (docs, mail) = (works("docs").start(), works("mail").start());
    let gateway = known(behind(Setup::new(), &[("docs", &docs), ("mail", &mail)]).open().start());
    let able = || json!({ "extensions": { TASKS: {} } });
    for (server, upstream, want) in [("docs", &docs, "note://both"), ("mail", &mail, "mcp+mail:note://both")] {
        let made = Post::call(&format!("{server}__work")).declaring(able()).to(&gateway).json();
        let handle = made["result"]["taskId"].as_str().unwrap_or_else(|| panic!("no task: {made}")).to_owned();
        let got = Post::modern("tasks/get", json!({ "taskId": handle })).declaring(able()).to(&gateway).json();
        assert_eq!(got["result"]["result"]["content"][0]["uri"], want, "{got}");
        assert_eq!(got["result"]["taskId"], *handle);
        let listen = json!({ "notifications": { "taskIds": [handle] } });
        let listen = Post::modern("subscriptions/listen", listen).declaring(able()).id(server);
        let mut events = listen.stream(&gateway);
        assert_eq!(events.message()["params"]["notifications"]["taskIds"], json!([handle]));
        upstream.heard_by(&json!(server).to_string());
        upstream.say(&json!({ "jsonrpc": "2.0", "method": "notifications/tasks", "params": state("completed") }));
        let told = events.message();
        assert_eq!(told["params"]["result"]["content"][0]["uri"], want, "{told}");
        assert_eq!(told["params"]["taskId"], *handle);
    }
}

/// One server of HTTP+SSE among others: its stream is on one shard, and whatever is for it moves there.
#[test]
fn a_server_of_the_old_transport_among_others() {
    let old = SsePlan::tools(&["echo"]).start();
    let docs = plan("docs").start();
    let gateway = known(behind(Setup::new(), &[("docs", &docs)]).server("old", &old.url()).open().shards(2).start());
    let session = open_session(&gateway, |post| post);
    let mut wires: Vec<Wire> = (0..CONNECTIONS).map(|_| Wire::to(gateway.address)).collect();
    let before = old.opened();
    for tool in ["old__echo", "docs__echo", "old__echo"] {
        for wire in &mut wires {
            let post = Post::legacy_call(&session, tool);
            post.is_echoed(&wire.ask(&post.bytes(&gateway)));
        }
    }
    assert_eq!(old.opened(), before + 1, "one stream for the session");
    let changed = json!({ "jsonrpc": "2.0", "method": "notifications/roots/list_changed" });
    for wire in &mut wires {
        assert_eq!(wire.ask(&Post::tell(&session, changed.clone()).bytes(&gateway)).status(), 202);
    }
    assert_eq!(told(&docs, "notifications/roots/list_changed").len(), CONNECTIONS);
    let delete = session_request(&gateway, "DELETE", "/mcp", &session, "");
    assert_eq!(wires[0].ask(&delete).status(), 204);
}

/// The servers' own paths are what they were.
#[test]
fn a_servers_own_path_has_its_own_names() {
    let (gateway, docs, mail) = pair();
    for server in ["docs", "mail"] {
        let path = format!("/s/{server}/mcp");
        assert_eq!(tools(&gateway, |post| post.at(&path)), ["echo", "whoami", "secret"]);
        let post = Post::call("whoami").at(&path);
        assert_eq!(text_of(&post.to(&gateway).json()), server);
        let prefixed = Post::call(&format!("{server}__whoami")).at(&path).to(&gateway).json();
        assert_eq!(prefixed["error"]["message"], format!("Unknown tool: {server}__whoami"));
    }
    oracle::check(&gateway, &[("docs", &docs), ("mail", &mail)]);
}

/// While one is not known, what nobody lists goes to nobody: it may be that one's.
#[test]
fn a_uri_is_not_guessed_at() {
    let (docs, dead) = (plan("docs").start(), Reserved::new());
    let gateway = behind(Setup::new(), &[("docs", &docs)]).server("dead", &dead.url()).open().start();
    for era in ["modern", "legacy"] {
        let read = |uri: &str| ask(era, &gateway, "resources/read", json!({ "uri": uri }));
        assert_eq!(read("docs://open")["result"]["contents"][0]["text"], "docs");
        let guess = read("dead://open");
        assert_eq!(guess["error"]["message"], "The server 'dead' has not been reached yet; try again.", "{guess}");
        assert_eq!(read("mcp+docs:dead://open")["result"]["contents"][0]["text"], "docs", "said outright");
    }
    assert_eq!(told(&docs, "resources/read").len(), 4);
}

/// A server's own user interface knows its tools by their own names, and nothing else does (MCP Apps).
#[test]
fn an_app_calls_by_bare_names() {
    let app = |name: &str| json!({ "name": name, "inputSchema": { "type": "object" }, "_meta": { "ui": { "resourceUri": "ui://docs/x" } } });
    let docs = Plan::tools(&["plain", "secret"]).tool(app("refresh")).tool(app("both")).tool(app("hidden")).start();
    let mail = Plan::tools(&["both"]).start();
    let gateway = behind(Setup::new(), &[("docs", &docs), ("mail", &mail)])
        .rule(json!({ "id": "most", "permit": ["*/refresh", "*/both", "*/plain"] }))
        .start();
    let gateway = known(gateway);
    let session = open_session(&gateway, |post| post);
    for post in [Post::call("refresh"), Post::legacy_call(&session, "refresh")] {
        post.echoed(&gateway);
        assert_eq!(docs.wait("the call", |seen| seen.value() == post.value).body, post.body_bytes());
    }
    for name in ["plain", "both", "secret", "hidden", "nothing"] {
        for post in [Post::call(name), Post::legacy_call(&session, name)] {
            assert_eq!(post.to(&gateway).json()["error"]["message"], format!("Unknown tool: {name}"));
        }
    }
    assert!(mail.calls().is_empty());
    oracle::check(&gateway, &[("docs", &docs), ("mail", &mail)]);
}

/// URIs in answers lead back to the server that wrote them, in short answers, in long ones and in events; nothing else
/// in them changes.
#[test]
fn links_lead_back() {
    let links = |events: bool| {
        Plan::tools(&["link"]).script(move |seen, out| {
            if seen.method() == "resources/list" {
                let resources = json!([{ "uri": "note://both", "name": "both" }]);
                let mut answer = result(seen, json!({ "resources": resources }));
                answer["result"]["ttlMs"] = json!(60_000);
                answer["result"]["cacheScope"] = json!("public");
                out.json(200, "", &answer);
                return Acted::Done;
            }
            if !seen.calls("link") {
                return Acted::Default;
            }
            let length = seen.message["params"]["arguments"]["length"].as_u64().unwrap_or(0);
            let long = "x".repeat(usize::try_from(length).expect("a length that fits"));
            let answer = linked(seen, "note://both", &long);
            if events {
                out.stream();
                out.event_bytes(&format!(
                    "data: {answer}

"
                ));
                out.stream_end();
            } else {
                out.json_bytes(200, "", answer.as_bytes());
            }
            Acted::Done
        })
    };
    let (docs, mail) = (links(false).start(), links(false).start());
    let chat = links(true).start();
    let servers = [("docs", &docs), ("mail", &mail), ("chat", &chat)];
    let gateway = known(behind(Setup::new(), &servers).open().start());
    let session = open_session(&gateway, |post| post);
    for (server, uri) in [("chat", "note://both"), ("docs", "mcp+docs:note://both"), ("mail", "mcp+mail:note://both")] {
        for length in [0, 200_000] {
            let tool = format!("{server}__link");
            for post in [Post::call(&tool), Post::legacy_call(&session, &tool)] {
                let post = post.param("/arguments/length", json!(length));
                let seen = Seen { message: serde_json::from_slice(&post.body_bytes()).expect("JSON"), ..blank() };
                let got = if server == "chat" {
                    let mut messages = post.stream(&gateway).rest().0;
                    messages.pop().expect("an answer").to_string()
                } else {
                    post.to(&gateway).text()
                };
                let want = linked(&seen, uri, &"x".repeat(length));
                let want = if server == "chat" { parsed(&want).to_string() } else { want };
                assert_eq!(got.len(), want.len(), "{server} {length}: {}", &got[..got.len().min(600)]);
                assert_eq!(got, want);
            }
        }
    }
    oracle::check(&gateway, &servers);
}

fn parsed(text: &str) -> Value {
    serde_json::from_str(text).expect("JSON")
}

fn blank() -> Seen {
    Seen {
        connection: 0,
        nth: 0,
        http: String::new(),
        target: String::new(),
        fields: Vec::new(),
        body: Vec::new(),
        message: Value::Null,
        refused: false,
    }
}

/// A tool's answer with that URI in all places of one, and as text, where it is none of the gateway's.
fn linked(seen: &Seen, uri: &str, long: &str) -> String {
    let kind = if seen.is_modern() { r#""resultType":"complete","# } else { "" };
    let link = format!(r#"{{"type":"resource_link","name":"n", "uri":"{uri}"}}"#);
    let inside = format!(r#"{{"type":"resource","resource":{{"uri": "{uri}","text":"t"}}}}"#);
    let text = format!(r#"{{"type":"text","text":"note://both {long}"}}"#);
    let content = format!(r#"[ {link},{text},{inside}],"structuredContent":{{"uri":"note://both"}} "#);
    format!(r#"{{"jsonrpc":"2.0", "id":{},"result":{{{kind}"content":{content}}}}}"#, seen.id())
}

/// A server that wants no session with this client costs its own calls, not the client's session.
#[test]
fn a_server_that_opens_no_session() {
    let shut = Plan::tools(&["echo"]).script(|seen, out| {
        if seen.method() == "initialize" && seen.message["params"]["clientInfo"]["name"] == "test" {
            out.empty(403);
            return Acted::Done;
        }
        Acted::Default
    });
    let (shut, docs) = (shut.start(), plan("docs").start());
    let gateway = known(behind(Setup::new(), &[("shut", &shut), ("docs", &docs)]).open().start());
    let session = open_session(&gateway, |post| post);
    let error = Post::legacy_call(&session, "shut__echo").to(&gateway);
    assert_eq!((error.status(), &error.json()["error"]["data"]["server"]), (200, &json!("shut")), "{}", error.text());
    assert_eq!(error.json()["error"]["message"], "The server 'shut' opens no session; the call was not sent.");
    Post::legacy_call(&session, "docs__echo").echoed(&gateway);
    assert!(shut.calls().is_empty());
    oracle::check(&gateway, &[("shut", &shut), ("docs", &docs)]);
}

/// What is not there for the caller, and what it is not called.
const SPELLINGS: &[&str] = &[
    "docs__nothing",
    "nothing",
    "docs__secret",
    "secret",
    "mail__secret",
    "mail__echo",
    "docs____secret",
    "DOCS__secret",
    "docs__SECRET",
    "docs_secret",
    "docs__secret ",
    " docs__secret",
    "__secret",
    "docs__docs__secret",
    "mail__docs__secret",
    "mail__docs__whoami",
    "docs__mail__whoami",
    "evil__whoami",
    "evil__secret",
    "docs%5f%5fsecret",
    "docs__",
    "__",
    "docs",
    "docs__s\u{435}cret",
    "docs\u{ff3f}\u{ff3f}secret",
    "doc__ssecret",
];
