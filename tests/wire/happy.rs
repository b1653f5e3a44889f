//! Well-behaved clients and servers, in both eras and on both drivers.

use serde_json::{Value, json};

use crate::support::gateway::{Gateway, Setup, eventually};
use crate::support::http::Wire;
use crate::support::mcp::{LEGACY, MODERN, Post, VERSION_KEY, names, open_session, session_request, text_of, tools};
use crate::support::oracle;
use crate::support::upstream::{Eras, Plan, Upstream, definition};

fn pair(setup: Setup) -> (Gateway, Upstream) {
    let upstream = Plan::tools(&["echo", "add"]).start();
    let gateway = setup.server("up", &upstream.url()).open().start();
    (gateway, upstream)
}

fn modern_round(gateway: &Gateway, upstream: &Upstream) {
    let discover = Post::modern("server/discover", json!({})).to(gateway).json();
    assert_eq!(discover["result"]["resultType"], "complete", "{discover}");
    assert_eq!(tools(gateway, |post| post), ["echo", "add"]);
    for id in [json!(7), json!("seven"), json!(9_007_199_254_740_993_u64), json!(0), json!("")] {
        Post::call("echo").id(id).echoed(gateway);
    }
    let prompt = Post::modern("prompts/get", json!({ "name": "greet" })).to(gateway).json();
    assert_eq!(prompt["result"]["messages"][0]["content"]["text"], "hi", "{prompt}");
    let resource = Post::modern("resources/read", json!({ "uri": "note://open" })).to(gateway).json();
    assert_eq!(resource["result"]["contents"][0]["text"], "words", "{resource}");
    let lists = [("prompts/list", "prompts", "name"), ("resources/list", "resources", "uri")];
    for (method, list, key) in lists {
        assert_eq!(names(&Post::modern(method, json!({})).to(gateway), list, key).len(), 2);
    }
    let seen = upstream.wait("a call", |seen| seen.calls("echo"));
    let said = ["mcp-protocol-version", "mcp-method", "mcp-name"].map(|name| seen.field(name));
    assert_eq!(said, [MODERN, "tools/call", "echo"]);
}

fn legacy_round(gateway: &Gateway) {
    let session = open_session(gateway, |post| post);
    let ask = |method: &str, params: Value| Post::legacy(&session, method, params).to(gateway);
    assert_eq!(names(&ask("tools/list", json!({})), "tools", "name"), ["echo", "add"]);
    Post::legacy_call(&session, "echo").echoed(gateway);
    assert_eq!(ask("ping", json!({})).json()["result"], json!({}));
    let prompt = ask("prompts/get", json!({ "name": "greet" })).json();
    assert_eq!(prompt["result"]["messages"][0]["content"]["text"], "hi", "{prompt}");
    let read = ask("resources/read", json!({ "uri": "note://open" })).json();
    assert_eq!(read["result"]["contents"][0]["text"], "words", "{read}");
    let gone = Wire::to(gateway.address).ask(&session_request(gateway, "DELETE", "/mcp", &session, ""));
    assert_eq!(gone.status(), 204, "{}", gone.text());
}

#[test]
fn a_modern_client() {
    let (gateway, upstream) = pair(Setup::new());
    modern_round(&gateway, &upstream);
    oracle::check(&gateway, &[("up", &upstream)]);
}

#[test]
fn a_legacy_client() {
    let (gateway, upstream) = pair(Setup::new());
    legacy_round(&gateway);
    oracle::check(&gateway, &[("up", &upstream)]);
}

#[test]
fn the_same_on_epoll() {
    let (gateway, upstream) = pair(Setup::new().flag("--driver=epoll").shards(2));
    assert!(gateway.banner.contains("epoll"), "{}", gateway.banner);
    modern_round(&gateway, &upstream);
    legacy_round(&gateway);
    oracle::check(&gateway, &[("up", &upstream)]);
}

/// What a shard may do instead of sleeping changes nothing of what is served, ends by itself, and by a reload.
#[test]
fn a_shard_that_looks_for_more() {
    for driver in ["auto", "epoll"] {
        let (gateway, upstream) = pair(Setup::new().driver(driver).set("/spin_us", json!(1_000)));
        modern_round(&gateway, &upstream);
        legacy_round(&gateway);
        sleeps(&gateway);
        gateway.configure(|config| config["spin_us"] = json!(0));
        gateway.reload();
        Post::call("echo").echoed(&gateway);
        oracle::check(&gateway, &[("up", &upstream)]);
    }
}

/// Of a quarter of a second in which nothing comes, it spends the least part awake.
fn sleeps(gateway: &Gateway) {
    let ran = || {
        let tasks = std::fs::read_dir(format!("/proc/{}/task", gateway.pid())).expect("it runs");
        let times = tasks.filter_map(|task| std::fs::read_to_string(task.ok()?.path().join("schedstat")).ok());
        times.filter_map(|times| times.split(' ').next()?.parse::<u64>().ok()).sum::<u64>()
    };
    eventually("it sleeps", || {
        let before = ran();
        std::thread::sleep(std::time::Duration::from_millis(250));
        ran() - before < 100_000_000
    });
}

#[test]
fn the_servers_own_path_is_always_there() {
    let (one, two) = (Plan::tools(&["a"]).start(), Plan::tools(&["b"]).start());
    let gateway = Setup::new()
        .server("one", &one.url())
        .server("two", &two.url())
        .open()
        .set("/endpoints", json!({ "/mcp": { "servers": ["one"] }, "/deep/er": { "servers": ["two"] } }))
        .start();
    for (path, tool) in [("/mcp", "a"), ("/s/one/mcp", "a"), ("/s/two/mcp", "b"), ("/deep/er", "b")] {
        assert_eq!(tools(&gateway, |post| post.at(path)), [tool], "{path}");
        Post::call(tool).at(path).echoed(&gateway);
    }
    oracle::check(&gateway, &[("one", &one), ("two", &two)]);
}

/// What is forwarded is what was received: odd spacing, order, numbers that no double holds, escapes of all kinds.
#[test]
fn bytes_are_forwarded_as_they_came() {
    let (gateway, upstream) = pair(Setup::new());
    let post = Post::call("echo");
    let value = &post.value;
    let odd = format!(
        "{{ \"params\":\t{{\"arguments\" : {{\"n\": 12345678901234567890123, \"f\":1.00e+2,\r\n \"z\":-0,\
         \"value\" :\"{value}\",\
         \"s\":\"\\u00e9\\/\\ud83d\\ude00 é\",\"b\":1,\"a\":[ ]}},\"name\":\"echo\",\"x-unknown\":null,\"_meta\":{{\
         \"{VERSION_KEY}\":\"{MODERN}\",\"io.modelcontextprotocol/clientCapabilities\":{{}}}}}},\n\
         \"method\":\"tools/call\",\"id\":9007199254740993,\"jsonrpc\":\"2.0\" }}  "
    );
    let answer = post.body(odd.as_bytes()).to(&gateway);
    assert_eq!(answer.status(), 200, "{}", answer.text());
    assert!(answer.text().contains("9007199254740993"), "{}", answer.text());
    assert_eq!(upstream.wait("the call", |seen| seen.calls("echo")).body, odd.as_bytes());
    oracle::check(&gateway, &[("up", &upstream)]);
}

/// And what is answered is what the server wrote.
#[test]
fn answers_come_as_they_were_written() {
    let odd = " {\"result\" : {\"resultType\":\"complete\",\"content\":[],\"big\":123456789012345678901234567890,\
               \"e\":1E-7,\"s\":\"\\u0041\\/\"},\r\n\"id\": 1 ,\"jsonrpc\":\"2.0\"}\n";
    let upstream = Plan::tools(&["odd"])
        .script(move |seen, out| {
            if !seen.calls("odd") {
                return crate::support::upstream::Acted::Default;
            }
            out.json_bytes(200, "x-internal: secret\r\nset-cookie: a=b\r\n", odd.as_bytes());
            crate::support::upstream::Acted::Done
        })
        .start();
    let gateway = Setup::new().server("up", &upstream.url()).open().start();
    let answer = Post::call("odd").to(&gateway);
    assert_eq!(answer.text(), odd);
    assert_eq!((answer.field("x-internal"), answer.field("set-cookie")), ("", ""), "a server's fields stay behind");
    oracle::check(&gateway, &[("up", &upstream)]);
}

/// Nothing of the caller's head goes on but what MCP defines.
#[test]
fn credentials_and_strange_fields_stay_behind() {
    let upstream = Plan::tools(&["echo"]).start();
    let gateway = Setup::new().server("up", &upstream.url()).open().tokens("deny").start();
    let token = gateway.token(&crate::support::gateway::Who::default());
    let post = Post::call("echo").token(&token);
    let strange =
        ["cookie", "x-forwarded-for", "forwarded", "x-user", "proxy-authorization", "baggage", "origin-agent"];
    let post = strange.iter().fold(post, |post, name| post.field(name, "planted"));
    post.echoed(&gateway);
    let seen = upstream.wait("the call", |seen| seen.calls("echo"));
    let planted: Vec<_> = seen.fields.iter().filter(|(_, value)| value.contains("planted")).collect();
    assert!(planted.is_empty(), "{planted:?}");
    assert_eq!(seen.field("authorization"), "");
    assert_eq!(seen.field("host"), upstream.url().split('/').nth(2).unwrap_or_default());
    assert_eq!(seen.field("accept-encoding"), "identity");
    assert!(seen.field("traceparent").contains(&post.value));
    let export = gateway.records_until("the call", |records| !records.is_empty());
    assert!(!format!("{export:?}").contains(&token), "a token in the record");
    oracle::check(&gateway, &[("up", &upstream)]);
}

/// Each side's era is its own: a client of the era that a server lacks is told so in a form that it understands.
#[test]
fn an_era_that_the_server_lacks() {
    let (old, new) = (Plan::tools(&["t"]).eras(Eras::Legacy).start(), Plan::tools(&["t"]).eras(Eras::Modern).start());
    let gateway = Setup::new().server("old", &old.url()).server("new", &new.url()).open().start();
    let refused = Post::call("t").at("/s/old/mcp").to(&gateway);
    assert_eq!(refused.status(), 400, "{}", refused.text());
    let code = refused.json()["error"]["code"].as_i64();
    assert!(code.is_some_and(|code| !(-32_099..=-32_020).contains(&code)), "no modern error: {}", refused.text());
    let refused = Post::initialize(LEGACY).at("/s/new/mcp").to(&gateway);
    assert_eq!((refused.status(), &refused.json()["error"]["code"]), (400, &json!(-32_022)), "{}", refused.text());
    Post::call("t").at("/s/new/mcp").echoed(&gateway);
    let session = open_session(&gateway, |post| post.at("/s/old/mcp"));
    Post::legacy_call(&session, "t").at("/s/old/mcp").echoed(&gateway);
    oracle::check(&gateway, &[("old", &old), ("new", &new)]);
}

/// `Mcp-Param-…` headers that a tool's schema declares must agree with the arguments, and go on.
#[test]
fn declared_parameter_headers() {
    let mut routed = definition("routed");
    routed["inputSchema"]["properties"] = json!({ "region": { "type": "string", "x-mcp-header": "Region" } });
    let mut invalid = definition("invalid");
    invalid["inputSchema"]["properties"] = json!({ "x": { "type": "number", "x-mcp-header": "X" } });
    let upstream = Plan::tools(&[]).tool(routed).tool(invalid).start();
    let gateway = Setup::new().server("up", &upstream.url()).open().start();
    assert_eq!(tools(&gateway, |post| post), ["routed"], "a tool with a bad annotation is left out");
    let call = || Post::call("routed").param("/arguments/region", json!("eu"));
    call().field("mcp-param-region", "eu").echoed(&gateway);
    assert_eq!(upstream.wait("the call", |seen| seen.calls("routed")).field("mcp-param-region"), "eu");
    let before = upstream.calls().len();
    for wrong in [call(), call().field("mcp-param-region", "us")] {
        let refused = wrong.to(&gateway);
        assert_eq!((refused.status(), &refused.json()["error"]["code"]), (400, &json!(-32_020)), "{}", refused.text());
    }
    assert_eq!(upstream.calls().len(), before, "a refused call went on");
    assert_eq!(text_of(&call().field("mcp-param-region", "eu").to(&gateway).json()).len(), 32);
    oracle::check(&gateway, &[("up", &upstream)]);
}
