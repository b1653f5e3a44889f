//! The record as its readers see it.

use serde_json::{Value, json};

use crate::support::gateway::{Setup, Who};
use crate::support::http::Wire;
use crate::support::mcp::{Post, open_session, tools};
use crate::support::oracle;
use crate::support::upstream::{Acted, Plan};

/// [P4] The decision names all that it was made of, the outcome all that came of it.
#[test]
fn a_call_leaves_one_decision_and_one_outcome() {
    let upstream = Plan::tools(&["echo"]).start();
    let gateway = Setup::new()
        .server("up", &upstream.url())
        .tokens("deny")
        .task("research")
        .rule(json!({ "id": "base", "permit": ["up/e*"] }))
        .rule(json!({ "id": "task", "tasks": ["research"], "permit": ["up/echo"] }))
        .start();
    let token = gateway.token(&Who { tasks: &["research"], ..Who::default() });
    let (yes, no) = (Post::call("echo").token(&token), Post::call("other").token(&token));
    yes.echoed(&gateway);
    no.to(&gateway);
    let records = oracle::check_with(&gateway, &[("up", &upstream)], &[&no]);
    let decision = oracle::decision(&records, &yes.value);
    let want = json!({
        "v": 1, "kind": "decision", "subject": "ada", "agent": "agent-1", "task": "research", "method": "tools/call",
        "server": "up", "tool": "echo", "verdict": "permit", "reason": "permit", "rules": ["base", "task"],
        "mode": "enforce", "protocol": "2026-07-28", "issuer": "https://issuer.test", "trace": yes.value,
    });
    for (key, value) in want.as_object().expect("an object") {
        assert_eq!(&decision[key], value, "{key}: {decision}");
    }
    assert!(decision["time"].as_str().is_some_and(|time| time.ends_with('Z') && time.starts_with("20")), "{decision}");
    let policy = decision["policy"].as_str().unwrap_or_default();
    assert!(gateway.banner.contains(policy) && policy.len() == 12, "{policy}");
    let outcome = oracle::outcome(&records, &yes.value);
    let shown = (&outcome["status"], &outcome["http"], &outcome["is_error"], &outcome["code"]);
    assert_eq!(shown, (&json!("ok"), &json!(200), &json!(false), &Value::Null), "{outcome}");
    assert_eq!(outcome["request_bytes"], yes.body_bytes().len());
    assert!(outcome["answer_bytes"].as_u64().is_some_and(|bytes| bytes > 50), "{outcome}");
    assert!(
        outcome["total_us"].as_u64() >= outcome["upstream_us"].as_u64() && outcome["upstream_us"] != 0,
        "{outcome}"
    );
    let refused = oracle::decision(&records, &no.value);
    assert_eq!(
        (&refused["verdict"], &refused["reason"], &refused["rules"]),
        (&json!("refuse"), &json!("no_match"), &json!([]))
    );
    assert_eq!(refused["tool"], "other");
}

#[test]
fn how_calls_end_is_told_apart() {
    let upstream = Plan::tools(&["fails", "errs", "fine"])
        .script(|seen, out| {
            let body = match seen.name() {
                _ if seen.method() != "tools/call" => return Acted::Default,
                "fails" => json!({ "result": { "content": [], "isError": true, "resultType": "complete" } }),
                "errs" => json!({ "error": { "code": -32_050, "message": "no" } }),
                _ => return Acted::Default,
            };
            let mut body = body;
            body["jsonrpc"] = json!("2.0");
            body["id"] = seen.id().clone();
            out.json(200, "", &body);
            Acted::Done
        })
        .start();
    let gateway = Setup::new().server("up", &upstream.url()).open().start();
    let calls = ["fine", "fails", "errs"].map(Post::call);
    let answers = calls.each_ref().map(|call| call.to(&gateway).json());
    assert_eq!((&answers[1]["result"]["isError"], &answers[2]["error"]["code"]), (&json!(true), &json!(-32_050)));
    let records = oracle::check(&gateway, &[("up", &upstream)]);
    let ends = calls.each_ref().map(|call| {
        let outcome = oracle::outcome(&records, &call.value);
        (outcome["status"].clone(), outcome["is_error"].clone(), outcome["code"].clone())
    });
    assert_eq!(
        ends,
        [
            (json!("ok"), json!(false), Value::Null),
            (json!("ok"), json!(true), Value::Null),
            (json!("error"), json!(false), json!(-32_050)),
        ]
    );
}

/// [P4] Every call, read, get, subscribe and refusal is a decision; lists, pings, handshakes and notifications are not.
#[test]
fn what_is_a_decision() {
    let upstream = Plan::tools(&["echo"]).start();
    let gateway = Setup::new().server("up", &upstream.url()).open().start();
    tools(&gateway, |post| post);
    Post::modern("server/discover", json!({})).to(&gateway);
    let session = open_session(&gateway, |post| post);
    Post::legacy(&session, "ping", json!({})).to(&gateway);
    Post::legacy(&session, "tools/list", json!({})).to(&gateway);
    let judged = [
        ("tools/call", json!({ "name": "echo" }), "tool", "echo"),
        ("prompts/get", json!({ "name": "greet" }), "prompt", "greet"),
        ("resources/read", json!({ "uri": "note://open" }), "resource", "note://open"),
        ("resources/subscribe", json!({ "uri": "note://open" }), "resource", "note://open"),
    ];
    for (method, params, _, _) in &judged {
        assert_eq!(Post::legacy(&session, method, params.clone()).to(&gateway).status(), 200);
    }
    let records =
        gateway.records_until("all four outcomes", |records| oracle::of_kind(records, "outcome").count() == 4);
    oracle::check_record(&records);
    let decisions: Vec<&Value> = oracle::of_kind(&records, "decision").collect();
    assert_eq!(decisions.len(), judged.len(), "{decisions:#?}");
    for (decision, (method, _, kind, target)) in decisions.iter().zip(&judged) {
        assert_eq!((&decision["method"], &decision[kind]), (&json!(method), &json!(target)), "{decision}");
        assert_eq!((&decision["subject"], &decision["protocol"]), (&json!("anonymous"), &json!("2025-11-25")));
    }
}

/// No field forges a line, and no argument, result, token or session is in it.
#[test]
fn nothing_leaks_into_the_record() {
    let upstream = Plan::tools(&["echo"]).start();
    let gateway = Setup::new().server("up", &upstream.url()).open().tokens("deny").start();
    let nasty = "line\n{\"kind\":\"decision\"}\u{1b}[2J\u{2028}\u{202e}";
    let token = gateway.token(&Who { subject: nasty, ..Who::default() });
    let call = Post::call("echo").token(&token).param("/arguments/secret", json!("planted-secret"));
    call.echoed(&gateway);
    let records = oracle::check(&gateway, &[("up", &upstream)]);
    assert_eq!(oracle::decision(&records, &call.value)["subject"], nasty);
    let text: String = std::fs::read_dir(gateway.audit())
        .expect("the folder is there")
        .filter_map(Result::ok)
        .filter_map(|entry| std::fs::read_to_string(entry.path()).ok())
        .collect();
    assert!(!text.contains("planted-secret") && !text.contains(&token));
    assert!(text.chars().all(|c| c == '\n' || !c.is_control()), "a control character in the log");
    assert!(!text.contains(['\u{2028}', '\u{202e}']));
}

/// [P4] A life line at start, one at the end, and the export works while it runs and after.
#[test]
fn the_record_outlives_the_process() {
    let upstream = Plan::tools(&["echo"]).start();
    let gateway = Setup::new().server("up", &upstream.url()).open().start();
    let calls: Vec<Post> = (0..20).map(|_| Post::call("echo")).collect();
    for call in &calls {
        call.echoed(&gateway);
    }
    let gateway = gateway.restart(|_| {});
    let lives = |records: &[Value]| oracle::of_kind(records, "life").count();
    let records = gateway.records_until("both starts", |records| lives(records) >= 2);
    let known = calls.iter().filter(|call| records.iter().any(|it| it["trace"] == call.value.as_str())).count();
    // The process was killed, not stopped: what its plane had drained by then is there, and no line is torn.
    assert!(known <= calls.len());
    oracle::check_record(&records);
}

/// What a known caller is refused before there is anything to decide on is written down too.
#[test]
fn refusals_of_a_known_caller_leave_a_note() {
    let upstream = Plan::tools(&["echo"]).start();
    let gateway = Setup::new().server("up", &upstream.url()).tokens("deny").start();
    let token = gateway.token(&Who::default());
    let mut wire = Wire::to(gateway.address);
    let host = gateway.address;
    wire.send(format!("GET /mcp HTTP/1.1\r\nhost: {host}\r\nauthorization: Bearer {token}\r\n\r\n").as_bytes());
    assert_eq!(wire.head().expect("an answer").status, 405, "no stream there, which is no refusal");
    Post::legacy_call("forged", "echo").token(&token).to(&gateway);
    Post::call("echo").token(&token).body("{").to(&gateway);
    Post::call("echo").token(&token).field("mcp-name", "other").to(&gateway);
    Post::modern("no/such", json!({})).token(&token).to(&gateway);
    let mut reasons = ["session", "json", "header", "method"];
    reasons.sort_unstable();
    let records = gateway.records_until("four notes", |records| {
        records.iter().filter(|it| it["kind"] == "decision").count() == reasons.len()
    });
    let notes: Vec<&Value> = records.iter().filter(|it| it["kind"] == "decision").collect();
    let mut told: Vec<&str> = notes.iter().filter_map(|it| it["reason"].as_str()).collect();
    told.sort_unstable();
    assert_eq!(told, reasons);
    for note in notes {
        assert_eq!(
            (&note["verdict"], &note["subject"], &note["server"]),
            (&json!("refuse"), &json!("ada"), &json!("up"))
        );
    }
    assert!(upstream.calls().is_empty(), "nothing of it reached the server");
    oracle::check(&gateway, &[("up", &upstream)]);
}
