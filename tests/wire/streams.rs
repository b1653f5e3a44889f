//! Event streams: answers that come as events, a session's own stream, subscriptions, and what servers ask of clients.

use std::time::Duration;

use serde_json::{Value, json};

use crate::support::gateway::{Gateway, Setup, eventually};
use crate::support::http::{Events, Wire};
use crate::support::mcp::{Post, open_session, session_request, text_of, tools};
use crate::support::oracle;
use crate::support::upstream::{Acted, Plan, Upstream, progress, said};

/// `steps` tells of its progress and answers; `ask` asks for input first; `hold` waits to be let go.
fn upstream() -> Upstream {
    Plan::tools(&["steps", "ask", "hold", "echo"])
        .script(|seen, out| {
            if seen.calls("steps") {
                out.stream();
                for step in 1..=3 {
                    out.event(&progress(seen, step));
                }
                out.event_bytes(": a comment\n\n");
                out.event(&said(seen, seen.value()));
                out.stream_end();
            } else if seen.calls("ask") {
                out.stream();
                out.event(&json!({ "jsonrpc": "2.0", "id": "ask-1", "method": "elicitation/create", "params": {
                    "message": "Colour?", "requestedSchema": { "type": "object", "properties": {} },
                }}));
                out.pass("answered");
                out.event(&said(seen, seen.value()));
                out.stream_end();
            } else if seen.calls("hold") {
                out.stream();
                out.event(&progress(seen, 1));
                let gone = out.gone(Duration::from_millis(400));
                out.note(format!("{} {gone}", seen.value()));
                if !gone {
                    out.event(&said(seen, seen.value()));
                    out.stream_end();
                }
            } else {
                return Acted::Default;
            }
            Acted::Done
        })
        .start()
}

fn pair() -> (Gateway, Upstream) {
    let upstream = upstream();
    let gateway = Setup::new().server("up", &upstream.url()).open().start();
    (gateway, upstream)
}

fn with_progress(post: Post) -> Post {
    post.param("/_meta/progressToken", json!("p1"))
}

#[test]
fn progress_and_then_the_answer() {
    let (gateway, upstream) = pair();
    let session = open_session(&gateway, |post| post);
    for post in [with_progress(Post::call("steps")), with_progress(Post::legacy_call(&session, "steps"))] {
        let (messages, end) = post.stream(&gateway).rest();
        let steps: Vec<&Value> = messages.iter().filter_map(|it| it["params"].get("progress")).collect();
        assert_eq!(steps, [&json!(1), &json!(2), &json!(3)], "{messages:?}");
        assert!(messages[..3].iter().all(|it| it["params"]["progressToken"] == "p1"));
        assert_eq!((messages.len(), text_of(&messages[3])), (4, post.value.as_str()), "{messages:?}");
        // A stream that has ended as it should leaves its connection for the next request.
        let mut wire = end.expect("the stream ends cleanly");
        let next = Post::call("echo");
        next.is_echoed(&wire.ask(&next.bytes(&gateway)));
    }
    oracle::check(&gateway, &[("up", &upstream)]);
}

/// A server's events are parsed and written anew: however they are cut and spelt, the client sees the same messages.
#[test]
fn events_in_odd_shapes() {
    let upstream = Plan::tools(&["odd"])
        .script(|seen, out| {
            if !seen.calls("odd") {
                return Acted::Default;
            }
            out.stream();
            let answer = said(seen, seen.value()).to_string();
            let (first, second) = answer.split_at(answer.find(',').expect("a member ends"));
            let text = format!(
                ": hi\r\n\r\nevent:message\r\ndata: {first}\r\ndata: {second}\r\nx-unknown: y\r\n\r\n\
                 data: {{\"jsonrpc\":\"2.0\",\"id\":1,\"result\":{{\"late\":true}}}}\n\n"
            );
            for byte in text.as_bytes().chunks(7) {
                out.event_bytes(std::str::from_utf8(byte).expect("ASCII"));
            }
            out.stream_end();
            Acted::Done
        })
        .start();
    let gateway = Setup::new().server("up", &upstream.url()).open().start();
    let post = Post::call("odd");
    let (messages, end) = post.stream(&gateway).rest();
    assert!(end.is_ok());
    assert_eq!((messages.len(), text_of(&messages[0])), (1, post.value.as_str()), "nothing after the answer");
    oracle::check(&gateway, &[("up", &upstream)]);
}

/// On a modern stream a server's request, and an answer to somebody else, are dropped.
#[test]
fn what_does_not_belong_on_a_modern_stream() {
    let upstream = Plan::tools(&["stray"])
        .script(|seen, out| {
            if !seen.calls("stray") {
                return Acted::Default;
            }
            out.stream();
            out.event(&json!({ "jsonrpc": "2.0", "id": 9, "method": "elicitation/create", "params": {} }));
            out.event(&json!({ "jsonrpc": "2.0", "id": 777, "result": { "stolen": true } }));
            out.event(&json!({ "jsonrpc": "2.0", "id": "1", "result": { "stolen": true } }));
            out.event(&said(seen, seen.value()));
            out.stream_end();
            Acted::Done
        })
        .start();
    let gateway = Setup::new().server("up", &upstream.url()).open().start();
    let post = Post::call("stray");
    let (messages, _) = post.stream(&gateway).rest();
    assert_eq!((messages.len(), text_of(&messages[0])), (1, post.value.as_str()), "{messages:?}");
    oracle::check(&gateway, &[("up", &upstream)]);
}

#[test]
fn a_modern_client_that_leaves_cancels() {
    let (gateway, upstream) = pair();
    let post = with_progress(Post::call("hold"));
    let mut events = post.stream(&gateway);
    assert_eq!(events.message()["params"]["progress"], 1);
    drop(events);
    upstream.noted(&format!("{} true", post.value));
    let records = oracle::check(&gateway, &[("up", &upstream)]);
    assert_eq!(oracle::outcome(&records, &post.value)["status"], "cancelled");
}

/// The same before anything came back.
#[test]
fn a_modern_client_that_leaves_early_cancels() {
    let upstream = Plan::tools(&["silent"])
        .script(|seen, out| {
            if !seen.calls("silent") {
                return Acted::Default;
            }
            let gone = out.gone(Duration::from_secs(10));
            out.note(format!("{} {gone}", seen.value()));
            Acted::Done
        })
        .start();
    let gateway = Setup::new().server("up", &upstream.url()).open().start();
    let post = Post::call("silent");
    let wire = post.begin(&gateway);
    upstream.wait("the call", |seen| seen.calls("silent"));
    drop(wire);
    upstream.noted(&format!("{} true", post.value));
    let records = oracle::check(&gateway, &[("up", &upstream)]);
    assert_eq!(oracle::outcome(&records, &post.value)["status"], "cancelled");
}

#[test]
fn a_legacy_client_that_leaves_cancels_nothing() {
    let (gateway, upstream) = pair();
    let session = open_session(&gateway, |post| post);
    let post = with_progress(Post::legacy_call(&session, "hold"));
    let mut events = post.stream(&gateway);
    assert_eq!(events.message()["params"]["progress"], 1);
    drop(events);
    upstream.noted(&format!("{} false", post.value));
    let records = oracle::check(&gateway, &[("up", &upstream)]);
    assert_eq!(oracle::outcome(&records, &post.value)["status"], "ok");
}

/// [I5] Once, by its own client, wherever the answer comes in.
#[test]
fn a_server_asks_and_is_answered() {
    let (gateway, upstream) = pair();
    let session = open_session(&gateway, |post| post);
    let post = Post::legacy_call(&session, "ask");
    let mut events = post.stream(&gateway);
    let asked = events.message();
    // Under an id of the gateway's own: several servers share one client.
    assert_eq!(asked["method"], "elicitation/create", "{asked}");
    assert!(asked["id"].as_u64().is_some_and(|id| id < 1 << 53), "{asked}");
    let mut reply = json!({ "jsonrpc": "2.0", "id": asked["id"], "result": { "action": "accept", "content": {} } });
    let told = Post::tell(&session, reply.clone()).to(&gateway);
    assert_eq!((told.status(), told.text()), (202, String::new()));
    let reached = upstream.wait("the reply", |seen| seen.message.get("result").is_some());
    // A second one, one to nothing, and another session's are taken and go nowhere.
    let other = open_session(&gateway, |post| post);
    for (session, id) in
        [(&session, &asked["id"]), (&session, &json!(7)), (&session, &json!("ask-1")), (&other, &asked["id"])]
    {
        let vain = json!({ "jsonrpc": "2.0", "id": id, "result": { "action": "decline" } });
        assert_eq!(Post::tell(session, vain).to(&gateway).status(), 202);
    }
    assert_eq!(gateway.counted("answers_dropped"), 4);
    reply["id"] = json!("ask-1");
    assert_eq!(reached.message, reply, "with the server's own id");
    let replies = upstream.seen().into_iter().filter(|seen| seen.message.get("result").is_some());
    assert_eq!(replies.count(), 1);
    upstream.open("answered");
    assert_eq!(text_of(&events.message()), post.value);
    assert!(events.rest().1.is_ok());
    oracle::check(&gateway, &[("up", &upstream)]);
}

#[test]
fn a_server_that_may_not_ask() {
    let upstream = upstream();
    let gateway = Setup::new()
        .server("up", &upstream.url())
        .rule(json!({ "id": "tools", "permit": ["up/*", "up!sampling", "up!roots"] }))
        .start();
    let session = open_session(&gateway, |post| post);
    let post = Post::legacy_call(&session, "ask");
    let events = post.stream(&gateway);
    // The server is told at once, and need not wait for a person who was never asked.
    let refusal = upstream.wait("a refusal", |seen| seen.message.get("error").is_some());
    assert_eq!(refusal.message["id"], "ask-1");
    assert_eq!(
        refusal.field("mcp-session-id"),
        upstream.wait("the call", |it| it.calls("ask")).field("mcp-session-id")
    );
    upstream.open("answered");
    let (messages, end) = events.rest();
    assert!(end.is_ok());
    assert_eq!((messages.len(), text_of(&messages[0])), (1, post.value.as_str()), "{messages:?}");
    oracle::check(&gateway, &[("up", &upstream)]);
}

/// The same where the server asks inside its result.
#[test]
fn a_modern_server_that_may_not_ask() {
    let plan = || {
        Plan::tools(&["ask"]).script(|seen, out| {
            if !seen.calls("ask") {
                return Acted::Default;
            }
            let ask = json!({ "method": "elicitation/create", "params": { "message": "?", "requestedSchema": {} } });
            let result = json!({ "resultType": "input_required", "inputRequests": { "k": ask }, "requestState": "s" });
            out.json(200, "", &json!({ "jsonrpc": "2.0", "id": seen.id(), "result": result }));
            Acted::Done
        })
    };
    let (open, shut) = (plan().start(), plan().start());
    let gateway = Setup::new()
        .server("open", &open.url())
        .server("shut", &shut.url())
        .rule(json!({ "id": "tools", "permit": ["*/*", "open!elicitation"] }))
        .start();
    let asked = Post::call("ask").at("/s/open/mcp").to(&gateway).json();
    assert_eq!(asked["result"]["resultType"], "input_required", "{asked}");
    let refused = Post::call("ask").at("/s/shut/mcp").to(&gateway).json();
    assert!(refused["error"]["code"].is_i64() && refused.get("result").is_none(), "{refused}");
    oracle::check(&gateway, &[("open", &open), ("shut", &shut)]);
}

fn session_stream(gateway: &Gateway, session: &str) -> Events {
    let mut wire = Wire::to(gateway.address);
    wire.send(&session_request(gateway, "GET", "/mcp", session, ""));
    wire.events()
}

#[test]
fn a_sessions_own_stream() {
    let upstream = upstream();
    let gateway = Setup::new().server("up", &upstream.url()).set("/limits/resume", json!("500ms")).open().start();
    let session = open_session(&gateway, |post| post);
    let mut events = session_stream(&gateway, &session);
    let theirs = upstream.wait("the GET", |seen| seen.http == "GET" && seen.field("last-event-id").is_empty());
    assert!(!theirs.field("mcp-session-id").is_empty());
    // The plane listens too: what is said goes to the streams that are open by then.
    eventually("both streams are open", || upstream.open_streams() >= 2);
    upstream
        .say(&json!({ "jsonrpc": "2.0", "method": "notifications/message", "params": { "level": "info", "data": 1 } }));
    assert_eq!(events.message()["params"]["data"], 1);
    // No answers on it (MCP 2025-11-25 basic/transports), and no updates of what may not be read.
    upstream.say(&json!({ "jsonrpc": "2.0", "id": 1, "result": {} }));
    upstream
        .say(&json!({ "jsonrpc": "2.0", "id": "s-1", "method": "elicitation/create", "params": { "message": "?" } }));
    let asked = events.message();
    assert_eq!(asked["method"], "elicitation/create");
    let answer = |id: &Value| json!({ "jsonrpc": "2.0", "id": id, "result": { "action": "cancel" } });
    assert_eq!(Post::tell(&session, answer(&asked["id"])).to(&gateway).status(), 202);
    assert_eq!(upstream.wait("the reply", |seen| seen.message.get("result").is_some()).message, answer(&json!("s-1")));
    // What it takes back is what the client was asked.
    upstream
        .say(&json!({ "jsonrpc": "2.0", "id": "s-2", "method": "elicitation/create", "params": { "message": "?" } }));
    let asked = events.message();
    let cancel =
        |id: &Value| json!({ "jsonrpc": "2.0", "method": "notifications/cancelled", "params": { "requestId": id } });
    upstream.say(&cancel(&json!("s-1")));
    upstream.say(&cancel(&json!("s-2")));
    assert_eq!(events.message(), cancel(&asked["id"]));
    assert_eq!(gateway.counted("withdrawals_late"), 1);
    drop(events);
    // It stays for a client that comes back, and then ends.
    upstream.noted("stream closed");
    oracle::check(&gateway, &[("up", &upstream)]);
}

#[test]
fn a_changed_list_is_seen_at_once() {
    let (gateway, upstream) = pair();
    let session = open_session(&gateway, |post| post);
    let mut events = session_stream(&gateway, &session);
    // The plane listens too: two streams are open before anything is said.
    eventually("both streams are open", || upstream.open_streams() >= 2);
    upstream.change_tools(&["steps", "brand-new"]);
    assert_eq!(events.message()["method"], "notifications/tools/list_changed");
    assert_eq!(tools(&gateway, |post| post), ["steps", "brand-new"]);
    Post::call("brand-new").echoed(&gateway);
    let gone = Post::call("echo").to(&gateway);
    assert_eq!(gone.json()["error"]["code"], -32_602, "{}", gone.text());
    oracle::check(&gateway, &[("up", &upstream)]);
}

/// Nobody has to listen: the plane does.
#[test]
fn a_changed_list_is_seen_by_those_who_were_not_told() {
    let (gateway, upstream) = pair();
    eventually("the plane listens", || upstream.open_streams() >= 1);
    upstream.change_tools(&["other"]);
    eventually("the new list is there", || tools(&gateway, |post| post) == ["other"]);
    oracle::check(&gateway, &[("up", &upstream)]);
}

#[test]
fn a_subscription() {
    let upstream = upstream();
    let gateway = Setup::new()
        .server("up", &upstream.url())
        .rule(json!({ "id": "some", "permit": ["up/*", "up!resource:note://open"] }))
        .start();
    let wanted = json!({ "toolsListChanged": true, "resourceSubscriptions": ["note://open", "note://shut"] });
    let post = Post::modern("subscriptions/listen", json!({ "notifications": wanted })).id("sub-1");
    let mut events = post.stream(&gateway);
    let acknowledged = events.message();
    assert_eq!(acknowledged["method"], "notifications/subscriptions/acknowledged", "{acknowledged}");
    let id = |message: &Value| message["params"]["_meta"]["io.modelcontextprotocol/subscriptionId"].clone();
    assert_eq!(id(&acknowledged), "sub-1");
    let seen = upstream.wait("the subscription", |seen| seen.id() == "sub-1");
    let asked = &seen.message["params"]["notifications"]["resourceSubscriptions"];
    assert_eq!(asked, &json!(["note://open"]), "subscribing follows reading");
    let updated =
        |uri: &str| json!({ "jsonrpc": "2.0", "method": "notifications/resources/updated", "params": { "uri": uri } });
    upstream.say(&updated("note://shut"));
    upstream.say(&updated("note://open"));
    let message = events.message();
    assert_eq!((&message["params"]["uri"], id(&message)), (&json!("note://open"), json!("sub-1")), "{message}");
    upstream.change_tools(&["changed"]);
    assert_eq!(events.message()["method"], "notifications/tools/list_changed");
    assert_eq!(tools(&gateway, |post| post), ["changed"]);
    drop(events);
    oracle::check(&gateway, &[("up", &upstream)]);
}

/// The same for an answer that is no stream.
#[test]
fn a_legacy_client_that_leaves_early_cancels_nothing() {
    let upstream = Plan::tools(&["silent"])
        .script(|seen, out| {
            if seen.calls("silent") {
                let gone = out.gone(Duration::from_millis(400));
                out.note(format!("{} {gone}", seen.value()));
            }
            Acted::Default
        })
        .start();
    let gateway = Setup::new().server("up", &upstream.url()).open().start();
    let session = open_session(&gateway, |post| post);
    let post = Post::legacy_call(&session, "silent");
    let wire = post.begin(&gateway);
    upstream.wait("the call", |seen| seen.calls("silent"));
    drop(wire);
    upstream.noted(&format!("{} false", post.value));
    let records = oracle::check(&gateway, &[("up", &upstream)]);
    assert_eq!(oracle::outcome(&records, &post.value)["status"], "ok");
}

/// A legacy client cancels by saying so.
#[test]
fn a_cancellation_goes_to_the_same_session() {
    let (gateway, upstream) = pair();
    let (mine, other) = (open_session(&gateway, |post| post), open_session(&gateway, |post| post));
    Post::legacy_call(&mine, "echo").echoed(&gateway);
    Post::legacy_call(&other, "echo").echoed(&gateway);
    let note = json!({ "jsonrpc": "2.0", "method": "notifications/cancelled", "params": { "requestId": 1 } });
    assert_eq!(Post::tell(&mine, note.clone()).to(&gateway).status(), 202);
    let told = upstream.wait("the cancellation", |seen| seen.method() == "notifications/cancelled");
    assert_eq!(told.message, note);
    let call = upstream.wait("my call", |seen| seen.method() == "tools/call");
    let calls = upstream.calls();
    assert_eq!(told.field("mcp-session-id"), calls[0].field("mcp-session-id"));
    assert_ne!(told.field("mcp-session-id"), call.field("mcp-session-id"), "the last call was another session's");
    // A modern one does by leaving; what it says instead concerns nobody.
    let before = upstream.seen().len();
    let modern = Post::modern("notifications/cancelled", json!({ "requestId": 1 })).without_id().to(&gateway);
    assert_eq!((modern.status(), modern.text()), (202, String::new()));
    assert!(upstream.seen()[before..].iter().all(|seen| seen.method() != "notifications/cancelled"));
    oracle::check(&gateway, &[("up", &upstream)]);
}
