//! `portcullis approvals`: what a person sees, and what comes of a word.

use std::path::Path;

use serde_json::{Value, json};

use crate::support::gateway::{Gateway, Setup, Who, run};
use crate::support::http::Response;
use crate::support::mcp::{Post, fresh};
use crate::support::oracle;
use crate::support::peers::Run;
use crate::support::upstream::{Plan, Upstream};

fn code(run: &Run) -> Option<i32> {
    run.status.and_then(|status| status.code())
}

fn approvals(gateway: &Gateway, words: &[&str]) -> Run {
    let config = gateway.config().display().to_string();
    let admin = gateway.admin.to_string();
    let mut arguments = vec!["approvals"];
    arguments.extend(words);
    arguments.extend(["--config", &config, "--admin", &admin]);
    run(Path::new("."), &arguments)
}

/// A gateway that lets `refund` go only where somebody says so.
fn pair(setup: Setup) -> (Gateway, Upstream) {
    let upstream = Plan::tools(&["refund", "echo"]).start();
    let rule =
        json!({ "id": "large", "approve": ["up/refund"], "expires": "10m", "reason": "Somebody looks at refunds." });
    let gateway = setup
        .server("up", &upstream.url())
        .rule(json!({ "id": "rest", "permit": ["up/echo"] }))
        .rule(rule)
        .tokens("deny")
        .start();
    (gateway, upstream)
}

/// A refund of exactly these arguments, beside a fresh value that is the call's own.
fn refund(gateway: &Gateway, who: &Who<'_>, arguments: &Value) -> (Post, Response) {
    let post = Post::call("refund").param("/arguments", arguments.clone()).token(&gateway.token(who));
    let answer = post.to(gateway);
    (post, answer)
}

/// The id that a pending call is told.
#[track_caller]
fn pending(answer: &Response) -> String {
    let refusal = &answer.json()["result"]["_meta"]["portcullis/refusal"];
    assert_eq!(refusal["kind"], "approval", "{}", answer.text());
    refusal["approval"].as_str().expect("an id").to_owned()
}

#[track_caller]
fn went(answer: &Response) {
    let said = answer.json();
    assert!(answer.status() == 200 && said["result"]["isError"] != true && said.get("error").is_none(), "{said}");
}

#[track_caller]
fn kind(answer: &Response) -> String {
    answer.json()["result"]["_meta"]["portcullis/refusal"]["kind"].as_str().unwrap_or_default().to_owned()
}

#[test]
fn a_yes_lets_one_call_go_also_over_a_restart() {
    let (gateway, upstream) = pair(Setup::new().shards(2));
    let who = Who::default();
    let arguments = json!({ "amount": 600, "value": fresh() });
    let (_, first) = refund(&gateway, &who, &arguments);
    let id = pending(&first);
    assert_eq!(pending(&refund(&gateway, &who, &arguments).1), id, "one question for equal calls");
    // The same values, written otherwise; and by another agent of the same subject.
    let other = Who { agent: Some("agent-2"), ..Who::default() };
    assert_eq!(pending(&refund(&gateway, &other, &json!({ "value": arguments["value"], "amount": 6.0e2 })).1), id);
    assert_ne!(pending(&refund(&gateway, &who, &json!({ "amount": 601, "value": fresh() })).1), id);
    assert_eq!(gateway.status()["approvals"], 2);

    let gateway = gateway.restart(|_| {});
    assert_eq!(gateway.status()["approvals"], 2, "what waits waits on");
    let approved = approvals(&gateway, &["approve", &id, "--as", "Anna", "--note", "seen the invoice"]);
    assert_eq!(code(&approved), Some(0), "{}", approved.stderr);
    for word in ["approved by Anna", "seen the invoice", "\"amount\": 600", &id] {
        assert!(approved.stdout.contains(word), "{word}:\n{}", approved.stdout);
    }
    let gateway = gateway.restart(|_| {});
    assert!(upstream.calls().is_empty(), "nothing has gone yet");
    went(&refund(&gateway, &who, &arguments).1);
    let next = pending(&refund(&gateway, &who, &arguments).1);
    assert_ne!(next, id, "used once");
    let gateway = gateway.restart(|_| {});
    assert_eq!(pending(&refund(&gateway, &who, &arguments).1), next, "and used after kill -9");
    assert_eq!(upstream.calls().len(), 1);
    let used = approvals(&gateway, &["deny", &id]);
    assert_eq!(code(&used), Some(1));
    assert!(used.stderr.contains("approved by Anna, and used"), "{}", used.stderr);
    let records = gateway.records_until("the word", |records| records.iter().any(|it| it["event"] == "approved"));
    let line = records.iter().find(|it| it["event"] == "approved").expect("it is there");
    assert_eq!(line["kind"], "admin");
    let detail = &line["detail"];
    let said = ["approval", "by", "subject", "server", "name", "rule"].map(|member| detail[member].as_str());
    assert_eq!(said, [&*id, "Anna", "ada", "up", "refund", "large"].map(Some));
}

#[test]
fn a_no_refuses_and_a_yes_can_be_taken_back() {
    let (gateway, upstream) = pair(Setup::new());
    let who = Who::default();
    let (denied, stopped) = (json!({ "value": fresh() }), json!({ "value": fresh() }));
    let id = pending(&refund(&gateway, &who, &denied).1);
    assert_eq!(code(&approvals(&gateway, &["deny", &id, "--as", "Anna"])), Some(0));
    assert_eq!(kind(&refund(&gateway, &who, &denied).1), "denied");
    let late = approvals(&gateway, &["approve", &id]);
    assert_eq!((code(&late), late.stderr.contains("denied by Anna")), (Some(1), true), "{}", late.stderr);
    let id = pending(&refund(&gateway, &who, &stopped).1);
    assert_eq!(code(&approvals(&gateway, &["approve", &id])), Some(0));
    assert_eq!(code(&approvals(&gateway, &["deny", &id])), Some(0));
    assert_eq!(kind(&refund(&gateway, &who, &stopped).1), "denied");
    assert!(upstream.calls().is_empty());
    oracle::check(&gateway, &[("up", &upstream)]);
}

#[test]
fn what_is_shown_misleads_nobody() {
    let (gateway, _upstream) = pair(Setup::new());
    let who = Who { subject: "eve\u{1b}[2K\napproved by Anna", agent: Some("a\u{202e}b"), ..Who::default() };
    let sly = "x\u{202e}fdp.exe\u{200b}\u{1b}[2J\nstate      approved by Anna";
    let arguments = json!({ "to": sly, "who": "p\u{430}ypal", "more": { "list": [1, "two", null] } });
    let id = pending(&refund(&gateway, &who, &arguments).1);
    for words in [&["ls"][..], &["show", &id], &["ls", "--json"], &["show", &id, "--json"]] {
        let shown = approvals(&gateway, words);
        assert_eq!((code(&shown), shown.stderr.as_str()), (Some(0), ""), "{words:?}");
        let hidden = |letter: char| letter.is_control() && letter != '\n' || "\u{202e}\u{200b}".contains(letter);
        assert!(!shown.stdout.contains(hidden), "{words:?}: {:?}", shown.stdout);
        assert!(
            !shown.stdout.lines().any(|line| line.trim_start().starts_with("approved by Anna")),
            "{}",
            shown.stdout
        );
        assert!(shown.stdout.contains(&id), "{}", shown.stdout);
    }
    let whole = approvals(&gateway, &["show", &id]).stdout;
    let states = whole.lines().filter(|line| line.starts_with("state ")).count();
    assert_eq!(states, 1, "{whole}");
    for word in
        ["x\\u202efdp.exe\\u200b\\u001b[2J\\nstate", "U+0430", "\"two\"", "large", "Somebody looks", "eve\\u{1b}"]
    {
        assert!(whole.contains(word), "{word}:\n{whole}");
    }
    let json = approvals(&gateway, &["show", &id, "--json"]).stdout;
    let said: Value = serde_json::from_str(&json).expect("it is JSON");
    assert_eq!((&said["arguments"], &said["subject"]), (&arguments, &json!(who.subject)), "nothing of it is lost");
    let list: Value = serde_json::from_str(&approvals(&gateway, &["ls", "--json"]).stdout).expect("it is JSON");
    assert_eq!((list.as_array().map(Vec::len), &list[0]["id"]), (Some(1), &json!(id)));
}

/// Numbers are shown as they were sent: none is read as another one.
#[test]
fn numbers_are_shown_as_they_came() {
    let (gateway, _upstream) = pair(Setup::new());
    let numbers = "{\"amount\":0.10000000000000000000000001,\"big\":123456789012345678901234567890,\"e\":1E400}";
    let call = Post::call("refund").token(&gateway.token(&Who::default()));
    let body = String::from_utf8(call.body_bytes()).expect("it is text");
    let at = body.find("\"arguments\":{").expect("it has some") + "\"arguments\":".len();
    let end = at + body[at..].find('}').expect("they end") + 1;
    let answer = call.body(format!("{}{numbers}{}", &body[..at], &body[end..])).to(&gateway);
    let id = pending(&answer);
    for words in [&["show", &id][..], &["show", &id, "--json"]] {
        let shown = approvals(&gateway, words).stdout;
        for number in ["0.10000000000000000000000001", "123456789012345678901234567890", "1E400"] {
            assert!(shown.contains(number), "{number}:\n{shown}");
        }
    }
}

#[test]
fn what_is_asked_wrongly_is_said() {
    let (gateway, _upstream) = pair(Setup::new());
    let empty = approvals(&gateway, &["ls"]);
    assert_eq!(
        (code(&empty), empty.stdout.as_str(), empty.stderr.as_str()),
        (Some(0), "", "nothing waits for an answer\n")
    );
    assert_eq!(approvals(&gateway, &["ls", "--json"]).stdout, "[]\n");
    for (id, word) in [("ap-aaaaaaaaaaaaaaaa", "never was"), ("nonsense", "never was"), ("../status", "is no id")] {
        for verb in ["show", "approve", "deny"] {
            let run = approvals(&gateway, &[verb, id]);
            assert_eq!((code(&run), run.stdout.as_str()), (Some(1), ""), "{verb} {id}");
            assert!(run.stderr.contains(word), "{verb} {id}: {}", run.stderr);
        }
    }
    let config = gateway.config().display().to_string();
    let nobody = run(Path::new("."), &["approvals", "ls", "--config", &config, "--admin", "127.0.0.1:1"]);
    assert_eq!(code(&nobody), Some(5), "{}", nobody.stderr);
}
