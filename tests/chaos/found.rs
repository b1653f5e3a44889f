//! What chaos runs have found in the gateway, each as small as it could be made.

use serde_json::json;

use crate::support::gateway::Setup;
use crate::support::mcp::{Post, open_session, text_of};
use crate::support::oracle;
use crate::support::upstream::{Acted, Plan, said};

/// [P3] A second answer that arrives when the first has been passed on already: it was there before the next request was
/// written, so it is no answer to it, and that request must not get it.
#[test]
fn an_answer_that_was_there_before_its_request() {
    let upstream = Plan::tools(&["echo", "talkative"])
        .script(|seen, out| {
            if !seen.calls("talkative") {
                return Acted::Default;
            }
            out.json(200, "", &said(seen, seen.value()));
            out.pass(seen.value());
            out.json(200, "", &said(seen, "stolen"));
            out.note(seen.value());
            Acted::Done
        })
        .start();
    let gateway = Setup::new().server("up", &upstream.url()).open().start();
    let mut wrong = Vec::new();
    for _ in 0..20 {
        let (first, next) = (Post::call("talkative"), Post::call("echo"));
        for post in [&first, &next] {
            let answer = post.to(&gateway).json();
            if text_of(&answer) != post.value {
                wrong.push(answer);
            }
            if post.value == first.value {
                // The answer has been passed on, and its connection is kept, when the second one comes.
                upstream.open(&first.value);
                upstream.noted(&first.value);
            }
        }
    }
    assert!(wrong.is_empty(), "{} of 40 calls got somebody else's answer: {}", wrong.len(), wrong[0]);
    oracle::check(&gateway, &[("up", &upstream)]);
}

/// [P7] A server asks in a session that it has just had opened anew. The answer comes on any connection, so on a shard
/// too that has not heard of the new one, and is to arrive all the same.
#[test]
fn an_answer_where_the_session_is_not_known_yet() {
    let upstream = Plan::tools(&["asking"])
        .script(|seen, out| {
            if seen.method().is_empty() && seen.id() == 7 {
                out.note(seen.message["result"]["content"]["value"].as_str().unwrap_or_default());
            }
            if !seen.calls("asking") || !out.knows(seen) {
                return Acted::Default;
            }
            let params = json!({ "message": "?", "requestedSchema": { "type": "object", "properties": {} } });
            out.stream();
            out.event(&json!({ "jsonrpc": "2.0", "id": 7, "method": "elicitation/create", "params": params }));
            out.pass(seen.value());
            out.event(&said(seen, seen.value()));
            out.stream_end();
            Acted::Done
        })
        .start();
    let gateway = Setup::new().server("up", &upstream.url()).open().shards(2).start();
    for round in 0..8 {
        let session = open_session(&gateway, |post| post);
        // Both shards know the session as it was.
        for id in 0..8 {
            Post::legacy(&session, "ping", json!({})).id(id).to(&gateway);
        }
        upstream.forget_sessions();
        let call = Post::legacy_call(&session, "asking").id(100);
        let mut events = call.stream(&gateway);
        let asked = events.message();
        let value = format!("answer {round}");
        let result = json!({ "action": "accept", "content": { "value": value } });
        let answer = json!({ "jsonrpc": "2.0", "id": asked["id"], "result": result });
        let told = Post::tell(&session, answer).to(&gateway);
        assert_eq!(told.status(), 202, "{}", told.text());
        upstream.noted(&value);
        upstream.open(&call.value);
        assert_eq!(text_of(&events.message()), call.value);
    }
    oracle::check(&gateway, &[("up", &upstream)]);
}
