//! Calls that somebody has to say yes to: asked for once, decided by a person, good for one repetition of the very same
//! call.

use std::fs;
use std::thread;

use serde_json::{Value, json};

use crate::support::gateway::{Gateway, Setup, Who, eventually};
use crate::support::http::{Response, Wire};
use crate::support::mcp::{Post, open_session, text_of, tools};
use crate::support::oracle;
use crate::support::upstream::{Plan, Upstream};

fn house(rule: &Value, change: impl Fn(Setup) -> Setup) -> (Gateway, Upstream) {
    let upstream = Plan::tools(&["pay", "echo"]).start();
    let setup = Setup::new().server("up", &upstream.url()).tokens("deny").rule(rule.clone());
    (change(setup).start(), upstream)
}

/// Asks the admin listener, as whoever may read the state folder.
#[track_caller]
fn admin(gateway: &Gateway, method: &str, path: &str, body: &Value) -> Response {
    let state = gateway.config().parent().expect("it is in a folder").join("state");
    let token = fs::read_to_string(state.join("admin.token")).expect("it is made at start");
    let body = if body.is_null() { String::new() } else { body.to_string() };
    let head = format!(
        "{method} {path} HTTP/1.1\r\nhost: {}\r\nauthorization: Bearer {}\r\ncontent-type: application/json\r\n\
         content-length: {}\r\n\r\n{body}",
        gateway.admin,
        token.trim(),
        body.len()
    );
    Wire::to(gateway.admin).ask(head.as_bytes())
}

#[track_caller]
fn decide(gateway: &Gateway, id: &str, word: &str) {
    let answer = admin(gateway, "POST", &format!("/approvals/{id}/{word}"), &json!({ "by": "kim" }));
    assert_eq!(answer.status(), 200, "{}", answer.text());
}

/// The id of the approval that a call waits for.
#[track_caller]
fn pending(response: &Response) -> String {
    assert_eq!(response.status(), 200, "{}", response.text());
    let answer = response.json();
    assert_eq!(answer["result"]["isError"], true, "{answer}");
    let detail = &answer["result"]["_meta"]["portcullis/refusal"];
    assert_eq!(detail["kind"], "approval", "{answer}");
    let id = detail["approval"].as_str().unwrap_or_default().to_owned();
    assert!(id.starts_with("ap-") && text_of(&answer).contains(&id), "{answer}");
    id
}

#[track_caller]
fn is_denied(response: &Response, id: &str) {
    let answer = response.json();
    let detail = &answer["result"]["_meta"]["portcullis/refusal"];
    assert_eq!((&detail["kind"], &detail["approval"]), (&json!("denied"), &json!(id)), "{answer}");
    assert!(text_of(&answer).contains("was denied"), "{answer}");
}

fn token(gateway: &Gateway, subject: &str) -> String {
    gateway.token(&Who { subject, ..Who::default() })
}

#[test]
fn a_yes_is_good_for_one_repetition_of_the_very_same_call() {
    let rule = json!({ "id": "asks", "approve": ["up/pay"], "reason": "Money leaves." });
    let (gateway, upstream) = house(&rule, |setup| setup.shards(2));
    let (ada, bob) = (token(&gateway, "ada"), token(&gateway, "bob"));
    assert_eq!(tools(&gateway, |post| post.token(&ada)), ["pay"], "an approve shows what it is about");
    let pay = Post::call("pay").param("/arguments/amount", json!(12.5)).token(&ada);
    let first = pay.to(&gateway);
    let id = pending(&first);
    assert!(text_of(&first.json()).starts_with("Refused by policy: 'pay' has to be approved by a person first."));
    assert!(text_of(&first.json()).ends_with("Money leaves."));
    assert_eq!(pending(&pay.to(&gateway)), id, "asked once for equal repetitions");
    // The same value, written otherwise, is the same call; another value, subject or place is another.
    let same = pay.clone().body(String::from_utf8(pay.body_bytes()).expect("text").replace("12.5", "1.25e1"));
    assert_eq!(pending(&same.to(&gateway)), id);
    let other = pay.clone().param("/arguments/amount", json!(12.6));
    assert_ne!(pending(&other.to(&gateway)), id);
    let anothers = pay.clone().without("authorization").token(&bob);
    assert_ne!(pending(&anothers.to(&gateway)), id);
    let shown = admin(&gateway, "GET", &format!("/approvals/{id}"), &Value::Null).json();
    assert!(shown.to_string().contains("12.5"), "{shown}");
    decide(&gateway, &id, "approve");
    pending(&other.to(&gateway));
    pending(&anothers.to(&gateway));
    let workers: Vec<_> = (0..8)
        .map(|_| {
            let (address, post) = (gateway.address, same.bytes(&gateway));
            thread::spawn(move || Wire::to(address).ask(&post).json())
        })
        .collect();
    let answers: Vec<Value> = workers.into_iter().map(|worker| worker.join().expect("no panic")).collect();
    assert_eq!(answers.iter().filter(|answer| answer["result"]["isError"] == false).count(), 1, "{answers:#?}");
    assert_eq!(upstream.calls().len(), 1);
    assert_ne!(pending(&pay.to(&gateway)), id, "used up");
    let records = gateway.records_until("the permit", |all| {
        oracle::of_kind(all, "decision").any(|decision| decision["verdict"] == "permit")
    });
    let permit = oracle::of_kind(&records, "decision").find(|decision| decision["verdict"] == "permit");
    let permit = permit.expect("it was found a moment ago");
    assert_eq!((&permit["approval"]["id"], &permit["approval"]["by"]), (&json!(id), &json!("kim")), "{permit}");
    // Two shards write, and the record keeps each one's order alone: what came first is not told by place.
    let asked = oracle::of_kind(&records, "decision")
        .find(|decision| decision["verdict"] == "pending" && decision["approval"]["id"] == json!(id));
    let asked = asked.expect("the question is in the record");
    assert_eq!((&asked["reason"], &asked["rules"]), (&json!("approval"), &json!(["asks"])));
}

#[test]
fn a_no_refuses_repetitions_until_it_expires() {
    let rule = json!({ "id": "asks", "approve": ["up/pay"], "expires": "2s" });
    let (gateway, upstream) = house(&rule, |setup| setup);
    let ada = token(&gateway, "ada");
    let pay = Post::call("pay").token(&ada);
    let id = pending(&pay.to(&gateway));
    decide(&gateway, &id, "deny");
    is_denied(&pay.to(&gateway), &id);
    eventually("it is asked anew", || {
        let answer = pay.to(&gateway).json();
        let detail = &answer["result"]["_meta"]["portcullis/refusal"];
        detail["kind"] == "approval" && detail["approval"] != json!(id)
    });
    // Nor does a question wait for ever.
    let id = pending(&pay.to(&gateway));
    eventually("it has expired", || pending(&pay.to(&gateway)) != id);
    assert!(upstream.calls().is_empty());
}

#[test]
fn what_was_decided_outlives_a_kill_and_is_used_once_for_all_that() {
    let rule = json!({ "id": "asks", "approve": ["up/pay"] });
    let (gateway, upstream) = house(&rule, |setup| setup);
    let pay = Post::call("pay");
    let id = pending(&pay.clone().token(&token(&gateway, "ada")).to(&gateway));
    let gateway = gateway.restart(|_| {});
    let again = |gateway: &Gateway| pay.clone().token(&token(gateway, "ada")).to(gateway);
    assert_eq!(pending(&again(&gateway)), id);
    decide(&gateway, &id, "approve");
    let gateway = gateway.restart(|_| {});
    assert_eq!(again(&gateway).json()["result"]["isError"], false);
    let gateway = gateway.restart(|_| {});
    assert_ne!(pending(&again(&gateway)), id);
    assert_eq!(upstream.calls().len(), 1);
}

#[test]
fn a_repetition_is_decided_anew_limits_included() {
    let upstream = Plan::tools(&["pay"]).start();
    let gateway = Setup::new()
        .server("up", &upstream.url())
        .tokens("deny")
        .rule(json!({ "id": "few", "permit": ["up/pay"], "limits": [{ "calls": 1, "per": "1h" }] }))
        .rule(json!({ "id": "asks", "approve": ["up/pay"], "when": "args.amount > 500" }))
        .start();
    let ada = token(&gateway, "ada");
    let pay = |amount: u32| Post::call("pay").param("/arguments/amount", json!(amount)).token(&ada);
    let large = pay(501);
    // What waits takes no place.
    for _ in 0..3 {
        pending(&large.to(&gateway));
    }
    let id = pending(&large.to(&gateway));
    decide(&gateway, &id, "approve");
    pay(5).echoed(&gateway);
    let answer = large.to(&gateway).json();
    assert_eq!(answer["result"]["_meta"]["portcullis/refusal"]["kind"], "limit", "{answer}");
    assert_eq!(upstream.calls().len(), 1);
    // An unknown operand asks nobody.
    let untold = Post::call("pay").token(&ada).to(&gateway).json();
    assert_ne!(untold["result"]["_meta"]["portcullis/refusal"]["kind"], "approval", "{untold}");
}

#[test]
fn what_is_no_tool_waits_as_an_error() {
    let rule = json!({ "id": "asks", "approve": ["up!prompt:greet", "up!resource:note://open"] });
    let (gateway, upstream) = house(&rule, |setup| setup);
    let ada = token(&gateway, "ada");
    let session = open_session(&gateway, |post| post.token(&ada));
    let get = Post::modern("prompts/get", json!({ "name": "greet" })).token(&ada);
    let read = Post::legacy(&session, "resources/read", json!({ "uri": "note://open" })).token(&ada);
    for post in [get, read] {
        let answer = post.to(&gateway);
        assert_eq!(answer.status(), 200, "{}", answer.text());
        let answer = answer.json();
        assert_eq!(answer["error"]["code"], -31_403, "{answer}");
        let id = answer["error"]["data"]["portcullis/refusal"]["approval"].as_str().unwrap_or_default().to_owned();
        assert!(answer["error"]["message"].as_str().is_some_and(|it| it.contains(&id)), "{answer}");
        decide(&gateway, &id, "approve");
        assert!(post.to(&gateway).json()["result"].is_object());
    }
    assert_eq!(upstream.seen().iter().filter(|seen| seen.method() == "prompts/get").count(), 1);
}
