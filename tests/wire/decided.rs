//! What stands between a call and its server when many come at once, when time passes between its first byte and its last,
//! and when somebody said yes to another one.

use std::fs;
use std::thread;

use serde_json::{Value, json};

use crate::support::gateway::{Gateway, Setup, Who, eventually, run};
use crate::support::http::{Response, Wire};
use crate::support::mcp::{Post, open_session, tools};
use crate::support::oracle;
use crate::support::upstream::{Plan, Upstream};

/// Calls at once.
const CROWD: usize = 64;
/// What a token's end is forgiven, seconds.
const LEEWAY_S: i64 = 30;

fn house(names: &[&str], rules: &[Value]) -> (Gateway, Upstream) {
    let upstream = Plan::tools(names).start();
    let setup = Setup::new().server("up", &upstream.url()).tokens("deny").shards(2).task("one").task("two");
    let setup = rules.iter().fold(setup, |setup, rule| setup.rule(rule.clone()));
    (setup.start(), upstream)
}

fn ada(gateway: &Gateway) -> String {
    gateway.token(&Who::default())
}

#[track_caller]
fn kind(response: &Response) -> String {
    let answer = response.json();
    answer["result"]["_meta"]["portcullis/refusal"]["kind"].as_str().unwrap_or_default().to_owned()
}

fn reached(upstream: &Upstream, tool: &str) -> usize {
    upstream.calls().iter().filter(|call| call.name() == tool).count()
}

/// As somebody who may read the state folder.
#[track_caller]
fn approve(gateway: &Gateway, id: &str) {
    let state = gateway.config().parent().expect("it is in a folder").join("state");
    let token = fs::read_to_string(state.join("admin.token")).expect("it is made at start");
    let head = format!(
        "POST /approvals/{id}/approve HTTP/1.1\r\nhost: {}\r\nauthorization: Bearer {}\r\n\
         content-type: application/json\r\ncontent-length: 12\r\n\r\n{{\"by\":\"kim\"}}",
        gateway.admin,
        token.trim()
    );
    let answer = Wire::to(gateway.admin).ask(head.as_bytes());
    assert_eq!(answer.status(), 200, "{}", answer.text());
}

/// The id of the approval that a call waits for.
#[track_caller]
fn pending(response: &Response) -> String {
    assert_eq!(kind(response), "approval", "{}", response.text());
    let answer = response.json();
    answer["result"]["_meta"]["portcullis/refusal"]["approval"].as_str().unwrap_or_default().to_owned()
}

/// All at once, on connections of their own; how many were let go.
fn crowd(gateway: &Gateway, posts: &[Post]) -> usize {
    let asked: Vec<_> = posts
        .iter()
        .map(|post| {
            let (address, bytes) = (gateway.address, post.bytes(gateway));
            thread::spawn(move || Wire::to(address).ask(&bytes).json())
        })
        .collect();
    let answers: Vec<Value> = asked.into_iter().map(|worker| worker.join().expect("no panic")).collect();
    assert!(answers.iter().all(|answer| answer["result"].is_object()), "{answers:#?}");
    answers.iter().filter(|answer| answer["result"]["isError"] != true).count()
}

/// [D2] 64 at once, of both eras, over two shards, before and after a kill: not one more than there is room for, and
/// `once` however a number or text is spelled.
#[test]
fn a_crowd_gets_what_there_is_and_no_more() {
    let limit = |id: &str, limit: Value| json!({ "id": id, "permit": [format!("up/{id}")], "limits": [limit] });
    let rules = [
        limit("once", json!({ "once": "args.invoice" })),
        limit("calls", json!({ "calls": 5, "per": "1h", "by": "all" })),
        limit("sum", json!({ "sum": "args.amount", "max": 10, "per": "1h" })),
    ];
    let (gateway, upstream) = house(&["once", "calls", "sum"], &rules);
    let token = ada(&gateway);
    let session = open_session(&gateway, |post| post.token(&token));
    let number = |nth: usize| ["7", "7.0", "0.7e1", "70E-1"][nth % 4];
    let posts = |tool: &str, token: &str, session: Option<&str>| -> Vec<Post> {
        let post = |nth: usize| {
            let post = match session {
                Some(session) if nth % 2 == 1 => Post::legacy_call(session, tool).id(nth),
                _ => Post::call(tool),
            };
            let post =
                post.param("/arguments/invoice", json!("INVOICE")).param("/arguments/amount", json!(3)).token(token);
            let text = String::from_utf8(post.body_bytes()).expect("JSON is UTF-8");
            post.body(
                text.replace("\"INVOICE\"", number(nth)).replace("invoice", ["invoice", "\\u0069nvoice"][nth / 2 % 2]),
            )
        };
        (0..CROWD).map(post).collect()
    };
    for (tool, room) in [("once", 1), ("calls", 5), ("sum", 3)] {
        assert_eq!(crowd(&gateway, &posts(tool, &token, Some(&session))), room, "{tool}");
        assert_eq!(reached(&upstream, tool), room, "{tool}");
    }
    // What is left of the sum is 1.
    let rest = Post::call("sum").param("/arguments/amount", json!(1)).token(&token);
    rest.echoed(&gateway);
    oracle::check(&gateway, &[("up", &upstream)]);
    let gateway = gateway.restart(|_| {});
    let token = ada(&gateway);
    for tool in ["once", "calls", "sum"] {
        assert_eq!(crowd(&gateway, &posts(tool, &token, None)), 0, "{tool} after a kill");
    }
    assert_eq!(upstream.calls().len(), 1 + 5 + 3 + 1);
}

/// [D2] `once` is about values: no spelling of one opens it a second time, of whatever type.
#[test]
fn once_is_once_by_every_spelling() {
    let rule = json!({ "id": "once", "permit": ["up/pay"], "limits": [{ "once": "args.invoice" }] });
    let (gateway, upstream) = house(&["pay"], &[rule]);
    let token = ada(&gateway);
    let session = open_session(&gateway, |post| post.token(&token));
    let zeros = format!("7.{}", "0".repeat(300));
    let spellings: [&[&str]; 4] = [
        &["\"i-1\"", "\"i\\u002d1\"", "\"\\u0069-1\"", "\"\\u0069\\u002D\\u0031\""],
        &["\"i/\u{e9}\"", "\"i\\/\u{e9}\"", "\"i/\\u00e9\"", "\"i\\/\\u00E9\""],
        &["7", "7.0", "70e-1", "0.7E1", "0.07e+2", &zeros],
        &["0", "-0", "0.0", "0e5", "-0.0e-5"],
    ];
    let mut sent = Vec::new();
    for (nth, invoice) in spellings.concat().iter().enumerate() {
        let text = |post: &Post| String::from_utf8(post.body_bytes()).expect("JSON is UTF-8");
        for post in [Post::call("pay"), Post::legacy_call(&session, "pay").id(nth)] {
            let post = post.param("/arguments/invoice", json!("HERE")).token(&token);
            let body = text(&post).replace("\"HERE\"", invoice);
            sent.push(post.body(body));
        }
    }
    assert_eq!(crowd(&gateway, &sent), spellings.len());
    // What is no text and no number is another value, and no less once.
    let odd = ["[\"i-1\"]", "{\"i\":[1,2]}", "true", "null"];
    let again = ["[ \"\\u0069-1\" ]", "{\"\\u0069\":[1.0,0.2e1]}", " true ", "null"];
    let odd = [odd, again].concat().into_iter().map(|invoice| {
        let post = Post::call("pay").param("/arguments/invoice", json!("HERE")).token(&token);
        let body = String::from_utf8(post.body_bytes()).expect("JSON is UTF-8").replace("\"HERE\"", invoice);
        post.body(body)
    });
    assert_eq!(crowd(&gateway, &odd.collect::<Vec<_>>()), 4);
    assert_eq!(kind(&Post::call("pay").token(&token).to(&gateway)), "unknown", "without one");
    assert_eq!(reached(&upstream, "pay"), spellings.len() + 4);
    oracle::check(&gateway, &[("up", &upstream)]);
}

/// [D3] A yes is for one call: not for other arguments, another task, tool, subject or era's spelling of it; the same
/// numbers spelled otherwise are the same call; used once, however many ask at once; and not after it expired.
#[test]
fn a_yes_to_one_call_opens_no_other() {
    let rule = json!({ "id": "asks", "approve": ["up/pay", "up/wire"], "expires": "1h" });
    let (gateway, upstream) = house(&["pay", "wire"], &[rule]);
    let token = gateway.token(&Who { tasks: &["one", "two"], ..Who::default() });
    let bob = gateway.token(&Who { subject: "bob", tasks: &["one", "two"], ..Who::default() });
    let call = |tool: &str, task: &str, token: &str, amount: &str, more: &str| {
        let post = Post::modern("tools/call", json!({ "name": tool, "arguments": "HERE" }));
        let text = String::from_utf8(post.body_bytes()).expect("JSON is UTF-8");
        let arguments = format!("{{\"amount\":{amount},\"to\":{{\"iban\":\"X1\"{more}}}}}");
        post.body(text.replace("\"HERE\"", &arguments)).field("portcullis-task", task).token(token)
    };
    let asked = call("pay", "one", &token, "2", "");
    let id = pending(&asked.to(&gateway));
    for spelled in ["2.0", "0.2e1", "20E-1", "2e0"] {
        assert_eq!(pending(&call("pay", "one", &token, spelled, "").to(&gateway)), id, "{spelled}");
    }
    approve(&gateway, &id);
    let others = [
        ("a little more", call("pay", "one", &token, "2.0000000000000000000000000000000000001", "")),
        ("much more", call("pay", "one", &token, "2e300", "")),
        ("as text", call("pay", "one", &token, "\"2\"", "")),
        ("in a list", call("pay", "one", &token, "[2]", "")),
        ("another sign", call("pay", "one", &token, "-2", "")),
        ("something inside", call("pay", "one", &token, "2", ",\"x\":null")),
        ("another key's case", call("pay", "one", &token, "2", ",\"IBAN\":\"X2\"")),
        ("another task", call("pay", "two", &token, "2", "")),
        ("another tool", call("wire", "one", &token, "2", "")),
        ("somebody else", call("pay", "one", &bob, "2", "")),
    ];
    for (what, post) in &others {
        assert_ne!(pending(&post.to(&gateway)), id, "{what}");
    }
    for twice in
        [call("pay", "one", &token, "2,\"amount\":3", ""), call("pay", "one", &token, "2", ",\"ib\\u0061n\":\"X2\"")]
    {
        assert_eq!(twice.to(&gateway).status(), 400);
    }
    assert!(upstream.calls().is_empty());
    let crowd = crowd(&gateway, &vec![call("pay", "one", &token, "2.00", ""); CROWD]);
    assert_eq!((crowd, upstream.calls().len()), (1, 1));
    assert_ne!(pending(&asked.to(&gateway)), id, "it is used up");
    assert_eq!(upstream.calls().len(), 1);
}

/// [D3] What was said yes to and not used in time is asked anew.
#[test]
fn a_yes_does_not_last() {
    let rule = json!({ "id": "asks", "approve": ["up/pay"], "expires": "2s" });
    let (gateway, upstream) = house(&["pay"], &[rule]);
    let post = Post::call("pay").token(&ada(&gateway));
    let id = pending(&post.to(&gateway));
    approve(&gateway, &id);
    thread::sleep(std::time::Duration::from_millis(2_500));
    assert_ne!(pending(&post.to(&gateway)), id);
    assert!(upstream.calls().is_empty());
}

/// A request whose last bytes come when `meanwhile` is over.
fn slowly(gateway: &Gateway, post: &Post, meanwhile: impl FnOnce()) -> Response {
    let bytes = post.bytes(gateway);
    let (first, last) = bytes.split_at(bytes.len() - 5);
    let mut wire = Wire::to(gateway.address);
    wire.send(first);
    // It is being read before anything changes.
    Post::call("echo").token(&ada(gateway)).echoed(gateway);
    meanwhile();
    wire.send(last);
    wire.response()
}

/// [D4] [P1] A call is decided when it is whole: by the rules, the revocations and the clock of then.
#[test]
fn a_slow_body_is_decided_at_its_end() {
    let rules = [json!({ "id": "open", "permit": ["up/*"] })];
    let (gateway, upstream) = house(&["echo", "slow"], &rules);
    let token = ada(&gateway);
    let session = open_session(&gateway, |post| post.token(&token));
    let came = |post: &Post| upstream.calls().iter().any(|call| call.value() == post.value);
    // A reload that forbids it.
    for post in [Post::call("slow").token(&token), Post::legacy_call(&session, "slow").token(&token)] {
        let answer = slowly(&gateway, &post, || {
            gateway.configure(|config| config["policy"]["rules"][0]["permit"] = json!(["up/echo"]));
            assert_eq!(gateway.reload()["failed"], 0);
        });
        assert_eq!(answer.json()["error"]["code"], -32_602, "{}", answer.text());
        assert!(!came(&post));
        gateway.configure(|config| config["policy"]["rules"][0]["permit"] = json!(["up/*"]));
        assert_eq!(gateway.reload()["failed"], 0);
    }
    // Its token's end.
    let short = gateway.token(&Who { subject: "eve", expires_s: 3 - LEEWAY_S, ..Who::default() });
    let probe = Post::call("echo").token(&short);
    probe.echoed(&gateway);
    let post = Post::call("slow").token(&short);
    let answer = slowly(&gateway, &post, || {
        eventually("the token has ended", || probe.to(&gateway).status() == 401);
    });
    assert_eq!((answer.status(), came(&post)), (401, false), "{}", answer.text());
    // A revocation of the agent.
    let other = gateway.token(&Who { subject: "bob", agent: Some("agent-9"), ..Who::default() });
    let post = Post::call("slow").token(&other);
    let answer = slowly(&gateway, &post, || {
        let (config, admin) = (gateway.config().display().to_string(), gateway.admin.to_string());
        let words = ["revoke", "--agent", "agent-9", "--config", &config, "--admin", &admin];
        let run = run(std::path::Path::new("."), &words);
        assert!(run.status.is_some_and(|status| status.success()), "{}", run.stderr);
    });
    assert_eq!((answer.status(), came(&post)), (401, false), "{}", answer.text());
}

/// [D1] The header and `_meta` name the same task, or the call is none: neither of them wins.
#[test]
fn two_tasks_are_no_task() {
    let rules = [
        json!({ "id": "one", "permit": ["up/pay"], "tasks": ["one"] }),
        json!({ "id": "two", "permit": ["up/read"], "tasks": ["two"] }),
        json!({ "id": "not-in-two", "forbid": ["up/pay"], "tasks": ["two"] }),
    ];
    let (gateway, upstream) = house(&["pay", "read"], &rules);
    let token = gateway.token(&Who { tasks: &["one", "two"], ..Who::default() });
    let session = open_session(&gateway, |post| post.token(&token));
    let calls = || [Post::call("pay").token(&token), Post::legacy_call(&session, "pay").token(&token)];
    let meta = |post: Post, task: Value| post.param("/_meta/portcullis~1task", task);
    for (header, inside) in [
        ("one", json!("two")),
        ("two", json!("one")),
        ("one", json!("")),
        ("one", json!(["one"])),
        ("one", json!("One")),
    ] {
        for post in calls() {
            let answer = meta(post, inside.clone()).field("portcullis-task", header).to(&gateway);
            assert!(answer.json()["error"].is_object(), "{header} {inside}: {}", answer.text());
        }
    }
    for header in ["one, two", "two", "ONE", "\u{6f}ne\u{a0}", "three"] {
        for post in calls() {
            let answer = post.field("portcullis-task", header).to(&gateway);
            assert_ne!(answer.json()["result"]["isError"], false, "{header}: {}", answer.text());
        }
    }
    for post in calls() {
        let answer = post.clone().field("portcullis-task", "one").field("portcullis-task", "one").to(&gateway);
        assert!(answer.json()["error"].is_object(), "{}", answer.text());
        assert!(post.to(&gateway).json()["error"].is_object(), "one of two, not told which");
    }
    assert!(upstream.calls().is_empty(), "{:?}", upstream.calls());
    for post in calls() {
        meta(post, json!("one")).field("portcullis-task", "one").echoed(&gateway);
    }
}

/// [D5] However it is spelled and whatever comes with it, a hidden tool is answered like one that never was.
#[test]
fn hidden_is_hidden_by_every_spelling() {
    let [docs, mail] = [0, 1].map(|_| Plan::tools(&["echo", "secret", "asked"]).start());
    let gateway = Setup::new()
        .server("docs", &docs.url())
        .server("mail", &mail.url())
        .rule(json!({ "id": "echo", "permit": ["docs/echo"] }))
        .rule(json!({ "id": "never", "forbid": ["docs/secret"] }))
        .rule(json!({ "id": "asks", "approve": ["*/asked"], "who": "claims.level > 5" }))
        .rule(json!({ "id": "counts", "permit": ["mail/secret"], "who": "claims.level > 5", "limits": [{ "calls": 1 }],
            "when": "args.amount < 5", "reason": "A secret." }))
        .start();
    eventually("all servers are known", || tools(&gateway, |post| post) == ["docs__echo"]);
    let merged = open_session(&gateway, |post| post);
    let alone = open_session(&gateway, |post| post.at("/s/mail/mcp"));
    let mut names: Vec<String> = Vec::new();
    for tool in ["secret", "asked"] {
        names.extend([tool, "docs__", "mail__"].iter().zip(["", tool, tool]).map(|(a, b)| format!("{a}{b}")));
        for (a, b) in [
            ("docs__docs__", ""),
            ("mail__docs__", ""),
            ("docs/", ""),
            ("mail_", ""),
            ("__", ""),
            ("MAIL__", ""),
            ("mail__", " "),
            ("mail__ ", ""),
            ("mail__", "\u{200b}"),
            ("mail__", "__"),
            ("mail.", ""),
            ("\u{ff4d}ail__", ""),
        ] {
            names.push(format!("{a}{tool}{b}"));
        }
        names.push(format!("mail__{}", tool.to_uppercase()));
        names.push(format!("mail__{}", tool.replace('e', "\u{435}")));
    }
    let shape = |answer: &Response, name: &str| {
        let body = answer.text().replace(&Value::from(name).to_string()[1..name.len() + 1], "NAME");
        (answer.status(), body.replace(name, "NAME"))
    };
    let arguments = [json!({}), json!({ "amount": 1 }), json!({ "amount": "x" }), json!([1]), Value::Null];
    for (path, session) in [("/mcp", &merged), ("/s/mail/mcp", &alone)] {
        for arguments in &arguments {
            let modern = |name: &str| {
                let post = Post::modern("tools/call", json!({ "name": name, "arguments": arguments })).at(path);
                let plain = name.bytes().all(|byte| byte.is_ascii_graphic());
                if plain { post } else { post.without("mcp-name").field("mcp-name", &encoded(name)) }
            };
            let legacy = |name: &str| {
                Post::legacy(session, "tools/call", json!({ "name": name, "arguments": arguments })).at(path)
            };
            let none = [
                shape(&modern("never-was").to(&gateway), "never-was"),
                shape(&legacy("never-was").to(&gateway), "never-was"),
            ];
            for name in &names {
                let got = [shape(&modern(name).to(&gateway), name), shape(&legacy(name).to(&gateway), name)];
                assert_eq!(got, none, "{path} {name:?} {arguments}");
            }
        }
    }
    assert!(docs.calls().is_empty() && mail.calls().is_empty());
    oracle::check(&gateway, &[("docs", &docs), ("mail", &mail)]);
}

fn encoded(text: &str) -> String {
    use base64::Engine as _;
    format!("=?base64?{}?=", base64::engine::general_purpose::STANDARD.encode(text))
}
