//! The streams and results of the modern era: a client gets what its request opted in to and policy lets it have, each
//! message where it belongs, and nothing else, whatever the server sends.

use std::time::Duration;

use serde_json::{Value, json};

use crate::support::gateway::{Gateway, Setup, Who, eventually};
use crate::support::http::Events;
use crate::support::mcp::{Post, fresh, text_of, tools};
use crate::support::oracle;
use crate::support::upstream::{Acted, Out, Plan, Seen, Upstream, definition, progress, result, said};

const SUBSCRIPTION: &str = "io.modelcontextprotocol/subscriptionId";

/// A notification, as part of this subscription; of none where it is null.
fn note(method: &str, mut params: Value, subscription: &Value) -> Value {
    if !subscription.is_null() {
        params["_meta"] = json!({ SUBSCRIPTION: subscription });
    }
    json!({ "jsonrpc": "2.0", "method": method, "params": params })
}

fn tools_changed(subscription: &Value) -> Value {
    note("notifications/tools/list_changed", json!({}), subscription)
}

/// The acknowledgement of a listen, honouring these filters.
fn acknowledged(seen: &Seen, filters: &Value) -> Value {
    note("notifications/subscriptions/acknowledged", json!({ "notifications": filters }), seen.id())
}

/// The result that ends a listen.
fn ended(id: &Value) -> Value {
    json!({ "jsonrpc": "2.0", "id": id, "result": { "resultType": "complete", "_meta": { SUBSCRIPTION: id } } })
}

/// A server whose subscriptions go as `listen` says, once per stream; the plane's own go as they usually do.
fn subscribed(listen: impl Fn(&Seen, &mut Out<'_>) + Send + Sync + 'static) -> (Gateway, Upstream) {
    let upstream = Plan::tools(&["echo"])
        .script(move |seen, out| {
            if seen.method() != "subscriptions/listen" || seen.field("tracestate") != "ours=1" {
                return Acted::Default;
            }
            out.stream();
            listen(seen, out);
            Acted::Done
        })
        .start();
    let gateway = Setup::new()
        .server("up", &upstream.url())
        .rule(json!({ "id": "some", "permit": ["up/*", "up!resource:note://open"] }))
        .start();
    (gateway, upstream)
}

fn listen(id: impl Into<Value>, filters: Value) -> Post {
    let post = Post::modern("subscriptions/listen", json!({ "notifications": filters })).id(id);
    post.field("traceparent", &format!("00-{}-00f067aa0ba902b7-01", fresh())).field("tracestate", "ours=1")
}

/// Everything up to a proper end.
#[track_caller]
fn whole(events: Events) -> Vec<Value> {
    let (messages, end) = events.rest();
    assert!(end.is_ok(), "the stream was cut after {messages:#?}");
    messages
}

/// [S7] Of what a server honours its client hears what it asked for and may read.
#[test]
fn an_acknowledgement_says_what_was_asked_for_may_be_read_and_is_honoured() {
    let (gateway, upstream) = subscribed(|seen, out| {
        let everything = json!({
            "toolsListChanged": true, "promptsListChanged": true, "resourcesListChanged": true, "later": [1],
            "resourceSubscriptions": ["note://shut", "note://open", "note://other"], "taskIds": ["t"],
        });
        out.event(&acknowledged(seen, &everything));
        out.event(&ended(seen.id()));
        out.stream_end();
    });
    let wanted = json!({ "toolsListChanged": true, "promptsListChanged": false,
        "resourceSubscriptions": ["note://open", "note://shut"] });
    let post = listen("s", wanted);
    let messages = whole(post.stream(&gateway));
    let served = json!({ "toolsListChanged": true, "resourceSubscriptions": ["note://open"] });
    let acknowledgement =
        note("notifications/subscriptions/acknowledged", json!({ "notifications": served }), &json!("s"));
    assert_eq!(messages, [acknowledgement, ended(&json!("s"))]);
    let seen = upstream.wait("the subscription", |seen| seen.id() == "s");
    assert_eq!(seen.message["params"]["notifications"]["resourceSubscriptions"], json!(["note://open"]));

    // A server that honours less.
    let (gateway, _upstream) = subscribed(|seen, out| {
        out.event(&acknowledged(seen, &json!({ "toolsListChanged": false })));
        out.event(&ended(seen.id()));
        out.stream_end();
    });
    let messages = whole(listen(4, json!({ "toolsListChanged": true })).stream(&gateway));
    assert_eq!(messages[0]["params"]["notifications"], json!({}), "{messages:#?}");
}

#[test]
fn nothing_comes_before_the_acknowledgement_and_it_comes_once() {
    let (gateway, upstream) = subscribed(|seen, out| {
        out.event(&tools_changed(seen.id()));
        out.event(&progress(seen, 1));
        let honoured = acknowledged(seen, &json!({ "toolsListChanged": true }));
        out.event(&honoured);
        out.event(&honoured);
        out.event(&tools_changed(seen.id()));
        out.event(&ended(seen.id()));
        out.stream_end();
    });
    let post = listen("s", json!({ "toolsListChanged": true }));
    let id = json!("s");
    let messages = whole(post.stream(&gateway));
    assert_eq!(messages.len(), 3, "{messages:#?}");
    assert_eq!(messages[0]["method"], "notifications/subscriptions/acknowledged");
    assert_eq!(messages[1..], [tools_changed(&id), ended(&id)]);
    assert_eq!((gateway.counted("server_early"), gateway.counted("server_second")), (2, 1));
    oracle::check(&gateway, &[("up", &upstream)]);
}

/// The id of the subscription, with its JSON type: what has another is somebody else's, what has none is given it.
#[test]
fn every_message_belongs_to_its_subscription() {
    let (gateway, upstream) = subscribed(|seen, out| {
        let twin = match seen.id() {
            Value::String(text) => json!(text.parse::<u64>().expect("a number")),
            number => json!(number.to_string()),
        };
        out.event(&acknowledged(seen, &json!({ "toolsListChanged": true, "resourceSubscriptions": ["note://open"] })));
        for foreign in [twin, json!("another"), json!({}), json!(true)] {
            out.event(&tools_changed(&foreign));
        }
        out.event(&tools_changed(&Value::Null));
        out.event(&json!({ "jsonrpc": "2.0", "method": "notifications/tools/list_changed" }));
        let mut updated = note("notifications/resources/updated", json!({ "uri": "note://open" }), &Value::Null);
        updated["params"]["_meta"] = json!({ "more": 1 });
        out.event(&updated);
        out.event(&ended(seen.id()));
        out.stream_end();
    });
    for id in [json!(7), json!("7")] {
        let wanted = json!({ "toolsListChanged": true, "resourceSubscriptions": ["note://open"] });
        let messages = whole(listen(id.clone(), wanted).stream(&gateway));
        let mut updated = note("notifications/resources/updated", json!({ "uri": "note://open" }), &id);
        updated["params"]["_meta"]["more"] = json!(1);
        assert_eq!(messages[1..], [tools_changed(&id), tools_changed(&id), updated, ended(&id)], "{messages:#?}");
    }
    oracle::check(&gateway, &[("up", &upstream)]);
}

/// [S7] Other kinds, other ids, requests and answers: none of it goes on.
#[test]
fn what_was_not_asked_for_is_not_on_a_subscription() {
    let (gateway, upstream) = subscribed(|seen, out| {
        let id = seen.id();
        out.event(&acknowledged(seen, &seen.message["params"]["notifications"]));
        for (method, params) in [
            ("notifications/prompts/list_changed", json!({})),
            ("notifications/resources/list_changed", json!({})),
            ("notifications/resources/updated", json!({ "uri": "note://shut" })),
            ("notifications/resources/updated", json!({ "uri": 1 })),
            ("notifications/progress", json!({ "progressToken": "p1", "progress": 1 })),
            ("notifications/message", json!({ "level": "emergency", "data": 1 })),
            ("notifications/tasks", json!({ "taskId": "t", "status": "working" })),
            ("notifications/cancelled", json!({ "requestId": "s" })),
            ("notifications/elicitation/complete", json!({ "elicitationId": "e" })),
            ("notifications/of/our/own", json!({})),
        ] {
            out.event(&note(method, params, id));
        }
        out.event(&json!({ "jsonrpc": "2.0", "id": "s", "method": "elicitation/create", "params": {} }));
        out.event(&ended(&json!("somebody else's")));
        out.event(&json!({ "jsonrpc": "2.0", "id": null, "error": { "code": -32_603, "message": "?" } }));
        out.event(&note("notifications/resources/updated", json!({ "uri": "note://open" }), id));
        out.event(&ended(id));
        out.stream_end();
    });
    let wanted = json!({ "toolsListChanged": true, "resourceSubscriptions": ["note://open"] });
    let post = listen("s", wanted)
        .param("/_meta/progressToken", json!("p1"))
        .param("/_meta/io.modelcontextprotocol~1logLevel", json!("debug"));
    let messages = whole(post.stream(&gateway));
    let id = json!("s");
    let updated = note("notifications/resources/updated", json!({ "uri": "note://open" }), &id);
    assert_eq!(messages[1..], [updated, ended(&id)], "{messages:#?}");
    for (name, dropped) in [("unasked", 5), ("hidden", 2), ("malformed", 2), ("requests", 1), ("foreign", 3)] {
        assert_eq!(gateway.counted(&format!("server_{name}")), dropped, "{name}");
    }
    oracle::check(&gateway, &[("up", &upstream)]);
}

/// However the server ends it, its client gets the result that says so, once, and then the end of the stream.
#[test]
fn a_subscription_ends_with_its_result() {
    let (gateway, upstream) = subscribed(|seen, out| {
        out.event(&acknowledged(seen, &json!({ "toolsListChanged": true })));
        let id = seen.id();
        match id.as_str().unwrap_or_default() {
            "twice" => {
                out.event(&ended(id));
                out.event(&ended(id));
                out.event(&tools_changed(id));
            }
            "unmarked" => {
                out.event(&json!({ "jsonrpc": "2.0", "id": id, "result": { "resultType": "complete" } }));
                out.event(&ended(id));
            }
            "odd" => out.event(&json!({ "jsonrpc": "2.0", "id": id, "result": {} })),
            _ => {}
        }
        out.stream_end();
    });
    for id in ["twice", "unmarked", "odd", "silent"] {
        let (messages, end) = listen(id, json!({ "toolsListChanged": true })).stream(&gateway).rest();
        assert_eq!(messages[1..], [ended(&json!(id))], "{id}");
        // It ended as it should, so its connection carries another request.
        let mut wire = end.unwrap_or_else(|cut| panic!("{id}: cut after {cut:?}"));
        let next = Post::call("echo");
        next.is_echoed(&wire.ask(&next.bytes(&gateway)));
    }
    oracle::check(&gateway, &[("up", &upstream)]);
    // An error is one.
    let (gateway, upstream) = subscribed(|seen, out| {
        out.event(&json!({ "jsonrpc": "2.0", "id": seen.id(), "error": { "code": -32_603, "message": "no" } }));
        out.stream_end();
    });
    let messages = whole(listen("s", json!({})).stream(&gateway));
    assert_eq!((messages.len(), &messages[0]["error"]["code"]), (1, &json!(-32_603)), "{messages:#?}");
    oracle::check(&gateway, &[("up", &upstream)]);
}

/// A server that breaks off has not ended it: no result, and the connection ends.
#[test]
fn a_subscription_that_breaks_has_no_result() {
    let (gateway, upstream) = subscribed(|seen, out| {
        out.event(&acknowledged(seen, &json!({ "toolsListChanged": true })));
        out.close();
    });
    let (messages, end) = listen("s", json!({ "toolsListChanged": true })).stream(&gateway).rest();
    assert_eq!(messages.len(), 1, "{messages:#?}");
    assert!(end.is_err(), "an end would say that it is over");
    oracle::check(&gateway, &[("up", &upstream)]);
}

/// [S5] To close the stream is to cancel, and the server notices once.
#[test]
fn a_client_that_leaves_is_noticed_once() {
    let upstream = Plan::tools(&["hold"])
        .script(|seen, out| {
            let ours = seen.field("tracestate") == "ours=1" || seen.calls("hold");
            if !ours {
                return Acted::Default;
            }
            out.stream();
            if seen.calls("hold") {
                out.event(&progress(seen, 1));
            } else {
                out.event(&acknowledged(seen, &json!({ "toolsListChanged": true })));
            }
            let gone = out.gone(Duration::from_secs(15));
            out.note(format!("{} {gone}", seen.method()));
            Acted::Done
        })
        .start();
    let gateway = Setup::new().server("up", &upstream.url()).open().start();
    let call = Post::call("hold").param("/_meta/progressToken", json!(1));
    for (method, post) in
        [("subscriptions/listen", listen("s", json!({ "toolsListChanged": true }))), ("tools/call", call.clone())]
    {
        let mut events = post.stream(&gateway);
        assert!(events.message()["method"].is_string());
        drop(events);
        upstream.noted(&format!("{method} true"));
    }
    let records = oracle::check(&gateway, &[("up", &upstream)]);
    assert_eq!(oracle::outcome(&records, &call.value)["status"], "cancelled");
    // Nothing else tells the server of it, and nothing is tried again.
    let ours = upstream.seen().into_iter().filter(|seen| seen.field("tracestate") == "ours=1" || seen.calls("hold"));
    assert_eq!(ours.count(), 2);
    assert!(upstream.seen().iter().all(|seen| seen.method() != "notifications/cancelled"));
    assert_eq!(upstream.notes().iter().filter(|note| note.ends_with("true")).count(), 2);
}

/// `talk` says a good deal before and behind its answer.
fn talkative() -> (Gateway, Upstream) {
    let upstream = Plan::tools(&["talk", "echo"])
        .script(|seen, out| {
            if !seen.calls("talk") {
                return Acted::Default;
            }
            out.stream();
            for level in ["debug", "info", "notice", "warning", "error", "critical", "alert", "emergency", "loud"] {
                out.event(&note("notifications/message", json!({ "level": level, "data": "x" }), &Value::Null));
            }
            let with_token = |token: Value| {
                note("notifications/progress", json!({ "progressToken": token, "progress": 1 }), &Value::Null)
            };
            for token in [json!("p1"), json!(1), json!("1"), json!("p2"), Value::Null] {
                out.event(&with_token(token));
            }
            for method in
                ["tools/list_changed", "resources/updated", "subscriptions/acknowledged", "tasks", "cancelled"]
            {
                let params = json!({ "uri": "note://open", "taskId": "t", "notifications": {}, "requestId": 1 });
                out.event(&note(&format!("notifications/{method}"), params, &Value::Null));
            }
            out.event(&json!({ "jsonrpc": "2.0", "id": 1, "method": "sampling/createMessage", "params": {} }));
            out.event(&json!({ "jsonrpc": "2.0", "id": 1, "method": "ping" }));
            out.event(&json!({ "jsonrpc": "2.0", "id": "1", "result": { "resultType": "complete" } }));
            // Its ids are nobody's affair: the stream cannot be resumed.
            out.event_bytes(&format!("id: up-1\nretry: 10\nevent: message\ndata: {}\n\n", said(seen, seen.value())));
            out.event(&said(seen, "another answer"));
            out.event(&note("notifications/message", json!({ "level": "emergency", "data": "late" }), &Value::Null));
            out.stream_end();
            Acted::Done
        })
        .start();
    (Gateway::behind(&upstream), upstream)
}

impl Gateway {
    /// Everybody may do everything at this one server.
    fn behind(upstream: &Upstream) -> Self {
        Setup::new().server("up", &upstream.url()).open().start()
    }
}

/// [S2] [S7] Log messages from its level on, its own progress, and nothing behind the answer.
#[test]
fn before_an_answer_comes_what_its_request_opted_in_to() {
    let (gateway, upstream) = talkative();
    let level = "/_meta/io.modelcontextprotocol~1logLevel";
    let token = "/_meta/progressToken";
    let all = ["debug", "info", "notice", "warning", "error", "critical", "alert", "emergency"];
    for (post, levels, tokens) in [
        (Post::call("talk"), &all[8..], &[][..]),
        (Post::call("talk").param(level, json!("debug")), &all[..], &[]),
        (Post::call("talk").param(level, json!("error")), &all[4..], &[]),
        (Post::call("talk").param(level, json!("emergency")), &all[7..], &[]),
        (Post::call("talk").param(token, json!("p1")), &[], &[json!("p1")]),
        (Post::call("talk").param(token, json!(1)), &[], &[json!(1)]),
        (Post::call("talk").param(token, json!("1")).param(level, json!("alert")), &all[6..], &[json!("1")]),
    ] {
        let mut messages = whole(post.stream(&gateway));
        let answer = messages.pop().unwrap_or_default();
        assert_eq!(text_of(&answer), post.value, "{messages:#?}");
        let heard: Vec<&Value> = messages.iter().filter_map(|it| it["params"].get("level")).collect();
        assert_eq!(heard, levels.iter().map(|level| json!(level)).collect::<Vec<_>>().iter().collect::<Vec<_>>());
        let progress: Vec<&Value> = messages.iter().filter_map(|it| it["params"].get("progressToken")).collect();
        assert_eq!(progress, tokens.iter().collect::<Vec<_>>());
        assert_eq!(messages.len(), levels.len() + tokens.len(), "and nothing else: {messages:#?}");
    }
    let count = |name: &str| gateway.counted(&format!("server_{name}"));
    // Of each of seven streams two requests, and an answer to somebody else; where there is a token, four others.
    assert_eq!((count("requests"), count("foreign")), (2 * 7, 7 + 4 * 3));
    let refused = Post::call("talk").param(level, json!("loud")).to(&gateway);
    assert_eq!((refused.status(), &refused.json()["error"]["code"]), (400, &json!(-32_602)), "{}", refused.text());
    oracle::check(&gateway, &[("up", &upstream)]);
}

/// A modern stream cannot be resumed, so it has no event ids.
#[test]
fn a_servers_event_ids_stay_behind() {
    let (gateway, _upstream) = talkative();
    let mut events = Post::call("talk").stream(&gateway);
    while let Some(event) = events.next().expect("the stream is not cut") {
        assert_eq!(event.id, None, "{event:?}");
    }
}

/// What a list's change does for the list does not depend on who was told.
#[test]
fn a_change_that_is_told_beside_an_answer_is_heard_by_the_gateway() {
    let upstream = Plan::tools(&["grow"])
        .script(|seen, out| {
            match seen.method() {
                "tools/list" if out.passes("grown") => {
                    let mut list = result(seen, json!({ "tools": [definition("grow"), definition("grown")] }));
                    list["result"]["ttlMs"] = json!(60_000);
                    list["result"]["cacheScope"] = json!("public");
                    out.json(200, "", &list);
                }
                // Nobody is told by a subscription.
                "subscriptions/listen" => {
                    out.stream();
                    out.event(&acknowledged(seen, &json!({})));
                    out.gone(Duration::from_secs(30));
                }
                "tools/call" => {
                    out.pass("grown");
                    out.stream();
                    out.event(&tools_changed(&Value::Null));
                    out.event(&said(seen, seen.value()));
                    out.stream_end();
                }
                _ => return Acted::Default,
            }
            Acted::Done
        })
        .start();
    let gateway = Gateway::behind(&upstream);
    upstream.open("grown");
    let post = Post::call("grow");
    let messages = whole(post.stream(&gateway));
    assert_eq!((messages.len(), text_of(&messages[0])), (1, &*post.value), "{messages:#?}");
    eventually("the new list is there", || tools(&gateway, |post| post) == ["grow", "grown"]);
}

/// Spelt as nobody would spell it, so that any rewriting would show.
const ODD: &str = "{ \"resultType\":\"input_required\",\"inputRequests\" : {\"k\":{\"params\":{\"message\":\"\\u003f\",\
                   \"requestedSchema\":{\"type\":\"object\",\"properties\":{\"n\":{\"default\":1.50E+2}}}},\
                   \"method\":\"elicitation\\/create\"} },\"requestState\":\"opa\\u0071ue==\",\"x\":12345678901234567890123}";

/// A server whose tools ask for input first, once with events and once with JSON; `retry` answers what was answered.
fn asking() -> Upstream {
    Plan::tools(&["ask", "ask-events"])
        .script(|seen, out| {
            if seen.method() != "tools/call" {
                return Acted::Default;
            }
            if seen.message["params"].get("inputResponses").is_some() {
                return Acted::Default;
            }
            let whole = format!("{{\"jsonrpc\":\"2.0\",\"result\":{ODD},\"id\":{}}}", seen.id());
            if seen.calls("ask") {
                out.json_bytes(200, "", whole.as_bytes());
            } else {
                out.stream();
                out.event_bytes(&format!("event: message\ndata: {whole}\n\n"));
                out.stream_end();
            }
            Acted::Done
        })
        .start()
}

/// The same call again, with answers; byte for byte as this text has it.
fn answering(post: &Post, id: u64) -> Post {
    let again = Post::call(post.tool()).id(id);
    let body = String::from_utf8(again.body_bytes()).expect("a body is text");
    let more = "\"requestState\" :\"opa\\u0071ue==\", \"inputResponses\":{\"k\":{\"action\":\"accept\",\"content\":{\"n\":1.50E+2}}},";
    let body = body.replace("\"params\":{", &format!("\"params\":{{{more}"));
    again.body(body)
}

#[test]
fn input_is_asked_for_and_given_byte_for_byte() {
    let upstream = asking();
    let gateway = Gateway::behind(&upstream);
    for tool in ["ask", "ask-events"] {
        let post = Post::call(tool);
        let response = post.to(&gateway);
        let whole = format!("{{\"jsonrpc\":\"2.0\",\"result\":{ODD},\"id\":1}}");
        assert!(response.text().contains(&whole), "{tool}: {}", response.text());
        let retry = answering(&post, 2);
        retry.is_echoed(&retry.to(&gateway));
        let reached = upstream.wait("the retry", |seen| seen.value() == retry.value);
        assert_eq!(String::from_utf8(reached.body), String::from_utf8(retry.body_bytes()));
        // Each was decided on, and has its record.
        let records = oracle::check(&gateway, &[("up", &upstream)]);
        for call in [&post, &retry] {
            assert_eq!(oracle::decision(&records, &call.value)["verdict"], "permit");
            assert_eq!(oracle::outcome(&records, &call.value)["status"], "ok");
        }
    }
}

/// [E12] What was asked for gives no right to answer: a retry is a call like any other.
#[test]
fn a_retry_is_decided_afresh() {
    let upstream = asking();
    let gateway = Setup::new()
        .server("up", &upstream.url())
        .tokens("deny")
        .task("research")
        .task("support")
        .rule(json!({ "id": "research-asks", "tasks": ["research"], "permit": ["up/ask", "up!elicitation"] }))
        .start();
    let who = |tasks| Who { tasks, ..Who::default() };
    let token = gateway.token(&who(&["research"]));
    let post = Post::call("ask").token(&token);
    assert_eq!(post.to(&gateway).json()["result"]["resultType"], "input_required");
    let retry = answering(&post, 2).token(&token);
    retry.is_echoed(&retry.to(&gateway));
    // Under another task.
    let other = answering(&post, 3).token(&gateway.token(&who(&["support"])));
    assert_eq!(other.to(&gateway).json()["error"]["code"], -32_602);
    oracle::check_with(&gateway, &[("up", &upstream)], &[&other]);
    // Without the rule.
    let gateway = gateway.restart(|config| config["policy"]["rules"] = json!([]));
    let token = gateway.token(&who(&["research"]));
    let late = answering(&post, 4).token(&token);
    eventually("the catalogue is known", || Post::call("ask").token(&token).to(&gateway).status() == 200);
    assert_eq!(late.to(&gateway).json()["error"]["code"], -32_602);
    let records =
        gateway.records_until("the refusal", |records| records.iter().any(|it| it["trace"] == late.value.as_str()));
    for call in [&other, &late] {
        assert_eq!(oracle::decision(&records, &call.value)["verdict"], "refuse");
        assert!(upstream.calls().iter().all(|seen| seen.value() != call.value));
    }
}

/// [S7] A result only asks for what its request declared that the client can do.
#[test]
fn what_a_request_did_not_declare_is_not_asked_of_it() {
    let upstream = Plan::tools(&["ask"])
        .script(|seen, out| {
            let ask = match seen.message["params"]["arguments"]["ask"].as_str() {
                Some("form") => json!({ "method": "elicitation/create", "params": { "message": "?" } }),
                Some("url") => {
                    json!({ "method": "elicitation/create", "params": { "mode": "url", "url": "http://x" } })
                }
                Some("roots") => json!({ "method": "roots/list" }),
                Some("sampling") => json!({ "method": "sampling/createMessage", "params": { "messages": [] } }),
                Some("tools") => json!({ "method": "sampling/createMessage", "params": { "tools": [] } }),
                Some(_) => json!({ "method": "tools/call" }),
                None if seen.method() == "completion/complete" => json!({ "method": "roots/list" }),
                None => return Acted::Default,
            };
            let result = json!({ "resultType": "input_required", "inputRequests": { "k": ask }, "requestState": "s" });
            let whole = json!({ "jsonrpc": "2.0", "id": seen.id(), "result": result });
            if seen.message["params"]["arguments"]["events"] == true {
                out.stream();
                out.event(&whole);
                out.stream_end();
            } else {
                out.json(200, "", &whole);
            }
            Acted::Done
        })
        .start();
    let gateway = Gateway::behind(&upstream);
    let check = |ask: &str, declared: Value, allowed: bool| {
        for events in [false, true] {
            let post = Post::call("ask").param("/arguments/ask", json!(ask)).param("/arguments/events", json!(events));
            let post = post.declaring(declared.clone());
            let answer = if events { whole(post.stream(&gateway)).remove(0) } else { post.to(&gateway).json() };
            let reason = if allowed { Value::Null } else { json!("server_invalid") };
            assert_eq!(answer["error"]["data"]["reason"], reason, "{ask} {declared}: {answer}");
            assert_eq!(answer["result"]["resultType"] == "input_required", allowed, "{ask} {declared}: {answer}");
        }
    };
    let all = json!({ "roots": {}, "sampling": { "tools": {} }, "elicitation": { "form": {}, "url": {} } });
    for ask in ["form", "url", "roots", "sampling", "tools"] {
        check(ask, all.clone(), true);
        check(ask, json!({}), false);
    }
    check("nonsense", all.clone(), false);
    check("form", json!({ "elicitation": {} }), true);
    check("url", json!({ "elicitation": {} }), false);
    check("form", json!({ "elicitation": { "url": {} } }), false);
    check("sampling", json!({ "sampling": {} }), true);
    check("tools", json!({ "sampling": {} }), false);
    check("roots", json!({ "roots": null }), false);
    // And only of the three methods that can be asked again.
    let completion =
        json!({ "ref": { "type": "ref/prompt", "name": "greet" }, "argument": { "name": "a", "value": "" } });
    let answer = Post::modern("completion/complete", completion).declaring(all).to(&gateway).json();
    assert_eq!(answer["error"]["data"]["reason"], "server_invalid", "{answer}");
    oracle::check(&gateway, &[("up", &upstream)]);
}

/// A server that needs a capability says so itself.
#[test]
fn a_servers_word_on_what_it_needs_goes_through() {
    let upstream = Plan::tools(&["needy"])
        .script(|seen, out| {
            if !seen.calls("needy") {
                return Acted::Default;
            }
            let data = json!({ "requiredCapabilities": { "sampling": {} } });
            let error = json!({ "code": -32_021, "message": "sampling is needed", "data": data });
            out.json(400, "", &json!({ "jsonrpc": "2.0", "id": seen.id(), "error": error }));
            Acted::Done
        })
        .start();
    let gateway = Gateway::behind(&upstream);
    let answer = Post::call("needy").to(&gateway);
    let error = &answer.json()["error"];
    assert_eq!((answer.status(), &error["code"]), (400, &json!(-32_021)));
    assert_eq!(error["data"]["requiredCapabilities"], json!({ "sampling": {} }));
    oracle::check(&gateway, &[("up", &upstream)]);
}
