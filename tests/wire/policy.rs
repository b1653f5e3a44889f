//! What is permitted is there; what is not does not exist, unless its rule gives a reason.

use serde_json::{Value, json};

use crate::support::gateway::{Gateway, Setup, Who};
use crate::support::http::Response;
use crate::support::mcp::{Post, names, open_session, text_of, tools};
use crate::support::oracle;
use crate::support::upstream::{Plan, Upstream};

/// Two tasks, a hidden tool, and one that is visible but forbidden with a reason.
fn pair() -> (Gateway, Upstream) {
    let upstream = Plan::tools(&["read", "refund", "hidden", "frozen"]).start();
    let gateway = Setup::new()
        .server("up", &upstream.url())
        .tokens("deny")
        .task("research")
        .task("support")
        .rule(json!({ "id": "everyone", "permit": ["up/frozen", "up!prompt:greet", "up!resource:note://open"] }))
        .rule(json!({ "id": "research-reads", "tasks": ["research"], "permit": ["up/read"] }))
        .rule(json!({ "id": "refunds", "tasks": ["support"], "permit": ["up/refund"] }))
        .rule(json!({ "id": "freeze", "forbid": ["up/frozen"], "reason": "Frozen until the audit is over." }))
        .start();
    (gateway, upstream)
}

fn who<'a>(tasks: &'a [&'a str]) -> Who<'a> {
    Who { tasks, ..Who::default() }
}

/// Two answers that differ in the name alone that was asked for.
#[track_caller]
fn alike(hidden: &Response, unknown: &Response, names: (&str, &str)) {
    assert_eq!(hidden.head.bytes, unknown.head.bytes);
    assert_eq!(hidden.text().replace(names.0, names.1), unknown.text());
}

#[test]
fn lists_show_what_calls_allow() {
    let (gateway, upstream) = pair();
    let seen = |tasks: &[&str]| {
        let token = gateway.token(&who(tasks));
        tools(&gateway, |post| post.token(&token))
    };
    assert_eq!(seen(&["research"]), ["read", "frozen"]);
    assert_eq!(seen(&["support"]), ["refund", "frozen"]);
    assert_eq!(seen(&[]), ["frozen"]);
    assert_eq!(seen(&["nothing-we-know"]), ["frozen"]);
    assert_eq!(seen(&["research", "support"]), ["frozen"], "several tasks and none named");
    let token = gateway.token(&who(&[]));
    let prompts = Post::modern("prompts/list", json!({})).token(&token).to(&gateway);
    assert_eq!(names(&prompts, "prompts", "name"), ["greet"]);
    let resources = Post::modern("resources/list", json!({})).token(&token).to(&gateway);
    assert_eq!(names(&resources, "resources", "uri"), ["note://open"]);
    let session = open_session(&gateway, |post| post.token(&token));
    let legacy = Post::legacy(&session, "tools/list", json!({})).token(&token).to(&gateway);
    assert_eq!(names(&legacy, "tools", "name"), ["frozen"]);
    oracle::check(&gateway, &[("up", &upstream)]);
}

/// [P1] What is permitted to one task is not to another.
#[test]
fn what_a_task_allows_goes_through_and_nothing_else() {
    let (gateway, upstream) = pair();
    let token = gateway.token(&who(&["research"]));
    Post::call("read").token(&token).echoed(&gateway);
    for name in ["refund", "hidden", "no-such"] {
        let answer = Post::call(name).token(&token).to(&gateway);
        assert_eq!((answer.status(), &answer.json()["error"]["code"]), (200, &json!(-32_602)), "{}", answer.text());
    }
    let other = gateway.token(&who(&["support"]));
    Post::call("refund").token(&other).echoed(&gateway);
    let reached: Vec<String> = upstream.calls().iter().map(|call| call.name().to_owned()).collect();
    assert_eq!(reached, ["read", "refund"]);
    oracle::check(&gateway, &[("up", &upstream)]);
}

#[test]
fn hidden_and_unknown_are_answered_alike() {
    let (gateway, upstream) = pair();
    let token = gateway.token(&who(&["research"]));
    let session = open_session(&gateway, |post| post.token(&token));
    let tool = |name: &str| json!({ "name": name, "arguments": {} });
    let reference = |kind: &str, key: &str, name: &str| json!({ "ref": { "type": kind, key: name }, "argument": { "name": "a", "value": "" } });
    let cases: [(&str, [Value; 2], (&str, &str)); 6] = [
        ("tools/call", [tool("hidden"), tool("absent")], ("hidden", "absent")),
        ("tools/call", [tool("refund"), tool("absent")], ("refund", "absent")),
        ("prompts/get", [json!({ "name": "plot" }), json!({ "name": "void" })], ("plot", "void")),
        ("resources/read", [json!({ "uri": "note://shut" }), json!({ "uri": "note://void" })], ("shut", "void")),
        (
            "completion/complete",
            [reference("ref/prompt", "name", "plot"), reference("ref/prompt", "name", "void")],
            ("plot", "void"),
        ),
        (
            "completion/complete",
            [reference("ref/resource", "uri", "note://shut"), reference("ref/resource", "uri", "note://void")],
            ("shut", "void"),
        ),
    ];
    for (method, [hidden, unknown], names) in cases {
        let modern = |params: &Value| Post::modern(method, params.clone()).token(&token).to(&gateway);
        alike(&modern(&hidden), &modern(&unknown), names);
        assert!(modern(&hidden).json()["error"]["code"].is_i64(), "{method}");
        let legacy = |params: &Value| Post::legacy(&session, method, params.clone()).token(&token).to(&gateway);
        alike(&legacy(&hidden), &legacy(&unknown), names);
    }
    assert!(
        upstream.seen().iter().all(|seen| !["tools/call", "prompts/get", "resources/read"].contains(&seen.method()))
    );
    oracle::check(&gateway, &[("up", &upstream)]);
}

#[test]
fn a_missing_resource_says_so_in_its_eras_words() {
    let (gateway, upstream) = pair();
    let token = gateway.token(&who(&[]));
    let modern = Post::modern("resources/read", json!({ "uri": "note://shut" })).token(&token).to(&gateway).json();
    assert_eq!((&modern["error"]["code"], &modern["error"]["data"]["uri"]), (&json!(-32_602), &json!("note://shut")));
    let session = open_session(&gateway, |post| post.token(&token));
    let legacy = Post::legacy(&session, "resources/read", json!({ "uri": "note://shut" })).token(&token).to(&gateway);
    assert_eq!(legacy.json()["error"]["code"], -32_002, "{}", legacy.text());
    oracle::check(&gateway, &[("up", &upstream)]);
}

#[test]
fn a_forbid_with_a_reason_can_be_read() {
    let (gateway, upstream) = pair();
    let token = gateway.token(&who(&["research"]));
    let session = open_session(&gateway, |post| post.token(&token));
    let modern = Post::call("frozen").token(&token);
    let legacy = Post::legacy_call(&session, "frozen").token(&token);
    for (post, kind) in [(&modern, json!("complete")), (&legacy, Value::Null)] {
        let answer = post.to(&gateway);
        assert_eq!(answer.status(), 200);
        let answer = answer.json();
        assert_eq!(answer["result"]["isError"], true, "{answer}");
        assert_eq!(answer["result"]["resultType"], kind, "{answer}");
        assert!(text_of(&answer).contains("Frozen until the audit is over."), "{answer}");
        assert_eq!(answer["result"]["_meta"]["portcullis/refusal"]["kind"], "forbid", "{answer}");
    }
    assert!(upstream.calls().is_empty());
    let records = oracle::check_with(&gateway, &[("up", &upstream)], &[&modern, &legacy]);
    for post in [modern, legacy] {
        let decision = oracle::decision(&records, &post.value);
        assert_eq!((&decision["verdict"], &decision["reason"]), (&json!("refuse"), &json!("forbid")));
        assert!(decision["rules"].as_array().is_some_and(|rules| rules.contains(&json!("freeze"))), "{decision}");
    }
}

#[test]
fn several_tasks_and_the_one_that_is_named() {
    let (gateway, upstream) = pair();
    let token = gateway.token(&who(&["research", "support"]));
    let call = |tool: &str| Post::call(tool).token(&token);
    call("read").field("portcullis-task", "research").echoed(&gateway);
    call("refund").param("/_meta/portcullis~1task", json!("support")).echoed(&gateway);
    call("refund")
        .field("portcullis-task", "support")
        .param("/_meta/portcullis~1task", json!("support"))
        .echoed(&gateway);
    let unnamed = call("read");
    let none = unnamed.to(&gateway);
    assert_eq!(none.json()["error"]["code"], -32_602, "none is named: {}", none.text());
    let listed = |task: &str| tools(&gateway, |post| post.token(&token).field("portcullis-task", task));
    assert_eq!(
        (listed("research"), listed("support")),
        (vec!["read".to_owned(), "frozen".to_owned()], vec!["refund".to_owned(), "frozen".to_owned()],)
    );
    let records = oracle::check_with(&gateway, &[("up", &upstream)], &[&unnamed]);
    let tasks: Vec<&Value> = oracle::of_kind(&records, "decision").map(|decision| &decision["task"]).collect();
    assert_eq!(tasks, [&json!("research"), &json!("support"), &json!("support"), &Value::Null]);
}

/// Whatever is wrong with a task that is named, the answer is the same.
#[test]
fn a_task_that_cannot_be_the_active_one() {
    let (gateway, upstream) = pair();
    let (both, one) = (gateway.token(&who(&["research", "support"])), gateway.token(&who(&["research"])));
    let call = |token: &str| Post::call("read").token(token);
    let wrong = [
        call(&both).field("portcullis-task", "no-such-task"),
        call(&one).field("portcullis-task", "support"),
        call(&both).field("portcullis-task", "research").param("/_meta/portcullis~1task", json!("support")),
        call(&both).field("portcullis-task", "research").field("portcullis-task", "research"),
        call(&both).field("portcullis-task", ""),
        call(&both).param("/_meta/portcullis~1task", json!(7)),
        call(&both).param("/_meta/portcullis~1task", json!("")),
    ];
    let mut answers: Vec<String> = Vec::new();
    for post in wrong {
        let answer = post.to(&gateway);
        assert_eq!((answer.status(), &answer.json()["error"]["code"]), (400, &json!(-32_602)), "{}", answer.text());
        answers.push(answer.text());
    }
    answers.dedup();
    assert_eq!(answers.len(), 1, "one answer for every cause");
    assert!(upstream.calls().is_empty());
    call(&one).field("portcullis-task", "research").echoed(&gateway);
    oracle::check(&gateway, &[("up", &upstream)]);
}

/// A forbid that is bound to a task applies while it may be the active one.
#[test]
fn a_forbid_bound_to_a_task() {
    let upstream = Plan::tools(&["read"]).start();
    let gateway = Setup::new()
        .server("up", &upstream.url())
        .tokens("deny")
        .task("a")
        .task("b")
        .open()
        .rule(json!({ "id": "not-in-b", "tasks": ["b"], "forbid": ["up/*"] }))
        .start();
    let call = |tasks: &[&str]| Post::call("read").token(&gateway.token(&who(tasks)));
    call(&["a"]).echoed(&gateway);
    call(&[]).echoed(&gateway);
    call(&["a", "b"]).field("portcullis-task", "a").echoed(&gateway);
    for refused in [call(&["b"]), call(&["a", "b"]), call(&["a", "b"]).field("portcullis-task", "b")] {
        assert_eq!(refused.to(&gateway).json()["error"]["code"], -32_602);
    }
    assert_eq!(upstream.calls().len(), 3);
    oracle::check(&gateway, &[("up", &upstream)]);
}

#[test]
fn without_a_policy_nothing_is_there() {
    let upstream = Plan::tools(&["read"]).start();
    let gateway = Setup::new().server("up", &upstream.url()).start();
    assert!(tools(&gateway, |post| post).is_empty());
    assert_eq!(Post::call("read").to(&gateway).json()["error"]["code"], -32_602);
    assert!(upstream.calls().is_empty());
    oracle::check(&gateway, &[("up", &upstream)]);
}

/// Names are compared byte for byte, whatever escapes spell them.
#[test]
fn a_name_spelt_with_escapes_is_that_name() {
    let (gateway, upstream) = pair();
    let token = gateway.token(&who(&["research"]));
    let spelt = |name: &str, header: &str| {
        let post = Post::call(header).token(&token);
        let body = String::from_utf8(post.body_bytes()).expect("JSON is UTF-8");
        post.clone().body(body.replace(&format!("\"name\":\"{header}\""), &format!("\"name\":\"{name}\"")))
    };
    let post = spelt("\\u0072ead", "read");
    post.is_echoed(&post.to(&gateway));
    let hidden = spelt("h\\u0069dden", "hidden").to(&gateway);
    assert_eq!(hidden.json()["error"]["code"], -32_602, "{}", hidden.text());
    let other_case = Post::call("READ").token(&token).to(&gateway);
    assert_eq!(other_case.json()["error"]["code"], -32_602);
    // The header tells one story, the body another.
    let lie = spelt("hidden", "read").to(&gateway);
    assert_eq!((lie.status(), &lie.json()["error"]["code"]), (400, &json!(-32_020)), "{}", lie.text());
    let reached: Vec<String> = upstream.calls().iter().map(|call| call.name().to_owned()).collect();
    assert_eq!(reached, ["read"]);
    oracle::check(&gateway, &[("up", &upstream)]);
}
