//! The tasks extension: a call that became a task is its caller's alone, under a name that only this gateway can read,
//! and the server hears the name it gave.

use serde_json::{Value, json};

use crate::support::gateway::{Gateway, Setup, Who, eventually};
use crate::support::http::Response;
use crate::support::mcp::{Post, fresh, names, open_session};
use crate::support::oracle;
use crate::support::upstream::{Acted, Out, Plan, Seen, Upstream, result};

const EXTENSION: &str = "io.modelcontextprotocol/tasks";
const SUBSCRIPTION: &str = "io.modelcontextprotocol/subscriptionId";

/// What a client declares that understands tasks.
fn able() -> Value {
    json!({ "elicitation": {}, "extensions": { EXTENSION: {} } })
}

/// The server's own id of the task that a call became.
fn own_id(value: &str) -> String {
    format!("own/\"{value}\"\u{e9}")
}

/// The state of a task, as this server tells it.
fn state(id: &Value, more: &Value) -> Value {
    let mut state = json!({
        "status": "working", "createdAt": "2026-08-01T00:00:00Z", "lastUpdatedAt": "2026-08-01T00:00:00Z",
        "ttlMs": null, "taskId": id,
    });
    for (name, value) in more.as_object().expect("an object") {
        state[name] = value.clone();
    }
    state
}

/// `work` becomes a task; `work-events` tells so with events; `big` is one whose state is long; `other` is answered
/// about as another task; `asks` and `roams` wait for input.
fn plan(extended: bool) -> Plan {
    Plan::tools(&["work", "work-events", "big", "other", "asks", "roams", "echo"]).script(move |seen, out| {
        match seen.method() {
            "server/discover" => {
                let mut capabilities = json!({ "tools": { "listChanged": true }, "tasks": { "list": {} } });
                if extended {
                    capabilities["extensions"] = json!({ EXTENSION: {}, "a/b": {} });
                }
                let mut answer =
                    result(seen, json!({ "supportedVersions": ["2026-07-28"], "capabilities": capabilities }));
                answer["result"]["ttlMs"] = json!(0);
                answer["result"]["cacheScope"] = json!("private");
                if seen.field("tracestate") == "events=1" {
                    out.stream();
                    out.event(&answer);
                    out.stream_end();
                } else {
                    out.json(200, "", &answer);
                }
            }
            "tools/call" if seen.name() != "echo" => {
                let id = json!(format!("{}|{}", seen.name(), own_id(seen.value())));
                let mut answer = result(seen, state(&id, &json!({})));
                answer["result"]["resultType"] = json!("task");
                if seen.name() == "work-events" {
                    out.stream();
                    out.event(&answer);
                    out.stream_end();
                } else {
                    out.json(200, "", &answer);
                }
            }
            "tasks/get" => out.json(200, "", &polled(seen)),
            "tasks/update" | "tasks/cancel" => out.json(200, "", &result(seen, json!({}))),
            _ => return Acted::Default,
        }
        Acted::Done
    })
}

fn polled(seen: &Seen) -> Value {
    let id = &seen.message["params"]["taskId"];
    let kind = id.as_str().and_then(|id| id.split('|').next()).unwrap_or_default();
    let ask = |request: Value| json!({ "status": "input_required", "inputRequests": { "k": request } });
    let text = "x".repeat(300_000);
    result(
        seen,
        match kind {
            "big" => state(
                id,
                &json!({ "status": "completed", "result": { "content": [{ "type": "text", "text": text }] } }),
            ),
            "other" => state(&json!("other|another"), &json!({})),
            "asks" => state(id, &ask(json!({ "method": "elicitation/create", "params": { "message": "?" } }))),
            "roams" => state(id, &ask(json!({ "method": "roots/list" }))),
            _ => state(id, &json!({})),
        },
    )
}

/// Two owners' worth of tokens and two tasks; everybody may call everything, and elicitation alone may be asked.
fn guarded(upstreams: &[(&str, &Upstream)]) -> Gateway {
    let setup = Setup::new().tokens("deny").task("research").task("support");
    let setup = upstreams.iter().fold(setup, |setup, (name, upstream)| setup.server(name, &upstream.url()));
    setup.rule(json!({ "id": "all", "permit": ["*/*", "*!elicitation"] })).start()
}

fn open() -> (Gateway, Upstream) {
    let upstream = plan(true).start();
    let gateway = Setup::new().server("up", &upstream.url()).open().start();
    (gateway, upstream)
}

fn traced(post: Post) -> Post {
    post.field("traceparent", &format!("00-{}-00f067aa0ba902b7-01", fresh()))
}

fn tasks(method: &str, id: &str) -> Post {
    traced(Post::modern(&format!("tasks/{method}"), json!({ "taskId": id })).declaring(able()).id(9))
}

/// Calls a tool that becomes a task; the client's name for it, and the server's.
#[track_caller]
fn begin(gateway: &Gateway, tool: &str, change: impl Fn(Post) -> Post) -> (String, String) {
    let post = change(Post::call(tool).declaring(able()));
    let answer = post.to(gateway);
    let text = answer.text();
    let json = text.split("data: ").last().and_then(|text| text.lines().next()).unwrap_or_default();
    let answer: Value = serde_json::from_str(json).unwrap_or_else(|fault| panic!("{fault}: {text}"));
    assert_eq!(answer["result"]["resultType"], "task", "{answer}");
    let id = answer["result"]["taskId"].as_str().unwrap_or_default().to_owned();
    assert!(!id.is_empty() && id.len() <= 512, "{answer}");
    assert!(id.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte)), "fit for a header: {id}");
    assert!(!text.contains("own/"), "the server's own name is not told: {text}");
    (id, format!("{tool}|{}", own_id(&post.value)))
}

/// So many decisions are like this, once all of them are in the record.
#[track_caller]
fn decided(gateway: &Gateway, count: usize, like: impl Fn(&Value) -> bool) {
    let found = |records: &[Value]| oracle::of_kind(records, "decision").filter(|it| like(it)).count();
    let records = gateway.records_until("all decisions", |records| found(records) >= count);
    assert_eq!(found(&records), count);
}

#[test]
fn a_tasks_life() {
    let (gateway, upstream) = open();
    for tool in ["work", "work-events"] {
        let (id, own) = begin(&gateway, tool, |post| post);
        let polled = tasks("get", &id).to(&gateway);
        assert_eq!((polled.status(), &polled.json()["id"]), (200, &json!(9)), "{}", polled.text());
        let task = &polled.json()["result"];
        assert_eq!((&task["taskId"], &task["status"]), (&json!(id), &json!("working")), "{}", polled.text());
        let seen =
            upstream.wait("the poll", |seen| seen.method() == "tasks/get" && seen.message["params"]["taskId"] == *own);
        // Not fit for a field as it is, so it goes encoded (MCP 2026-07-28 basic/transports/streamable-http).
        let field = seen
            .field("mcp-name")
            .strip_prefix("=?base64?")
            .and_then(|rest| rest.strip_suffix("?="))
            .unwrap_or_default();
        assert_eq!(base64(field), own.as_bytes(), "{}", seen.field("mcp-name"));

        let answers = json!({ "k": { "action": "accept", "content": { "n": 1 } } });
        let update = tasks("update", &id).param("/inputResponses", answers.clone());
        assert_eq!(update.to(&gateway).json()["result"], json!({ "resultType": "complete" }));
        let seen = upstream
            .wait("the update", |seen| seen.method() == "tasks/update" && seen.message["params"]["taskId"] == *own);
        assert_eq!(seen.message["params"]["inputResponses"], answers);
        assert!(!String::from_utf8_lossy(&seen.body).contains(&id), "nor is the client's name told to the server");

        assert_eq!(tasks("cancel", &id).to(&gateway).status(), 200);
        upstream.wait("the cancel", |seen| seen.method() == "tasks/cancel" && seen.message["params"]["taskId"] == *own);
    }
    oracle::check(&gateway, &[("up", &upstream)]);
    for method in ["tasks/get", "tasks/update", "tasks/cancel"] {
        decided(&gateway, 2, |it| it["method"] == method && it["verdict"] == "permit");
    }
}

fn base64(text: &str) -> Vec<u8> {
    use base64::Engine as _;
    base64::engine::general_purpose::STANDARD.decode(text).unwrap_or_else(|fault| panic!("{fault}: {text}"))
}

/// [S8] Subject, agent, task and server all belong to it; whoever lacks one gets what an invented id gets.
#[test]
fn a_task_is_its_callers_alone() {
    let (one, other) = (plan(true).start(), plan(true).start());
    let gateway = guarded(&[("one", &one), ("other", &other)]);
    let audience = [gateway.url("/s/one/mcp"), gateway.url("/s/other/mcp")];
    let audience: Vec<&str> = audience.iter().map(String::as_str).collect();
    let token = |subject, agent, tasks| gateway.token_for(&Who { subject, agent, tasks, ..Who::default() }, &audience);
    let mine = token("ada", Some("agent-1"), &["research"]);
    let at = |post: Post, path: &str, token: &str| post.at(path).token(token).to(&gateway);
    let (id, own) = begin(&gateway, "work", |post| post.at("/s/one/mcp").token(&mine));
    assert_eq!(at(tasks("get", &id), "/s/one/mcp", &mine).json()["result"]["taskId"], json!(id));
    // Another token of the same three is as good.
    let again = token("ada", Some("agent-1"), &["research", "support"]);
    let named = at(tasks("get", &id).field("portcullis-task", "research"), "/s/one/mcp", &again);
    assert_eq!(named.json()["result"]["taskId"], json!(id));

    let polls =
        |upstream: &Upstream| upstream.seen().into_iter().filter(|seen| seen.method().starts_with("tasks/")).count();
    let before = polls(&one);
    for method in ["get", "update", "cancel"] {
        let unknown = at(tasks(method, "786512e2-9e0d-44bd-8f29-789f320fe840"), "/s/one/mcp", &mine);
        assert_eq!((unknown.status(), &unknown.json()["error"]["code"]), (200, &json!(-32_602)), "{}", unknown.text());
        let mut changed = id.clone().into_bytes();
        changed[40] = if changed[40] == b'A' { b'B' } else { b'A' };
        let changed = String::from_utf8(changed).expect("ASCII");
        let alike = |what: &str, answer: Response| {
            assert_eq!(answer.head.bytes, unknown.head.bytes, "{method}, {what}");
            assert_eq!(answer.text(), unknown.text(), "{method}, {what}");
        };
        let strangers = [
            ("another subject", token("bob", Some("agent-1"), &["research"])),
            ("another agent", token("ada", Some("agent-2"), &["research"])),
            ("no agent", token("ada", None, &["research"])),
            ("another task", token("ada", Some("agent-1"), &["support"])),
            ("no task", token("ada", Some("agent-1"), &[])),
            ("several tasks", again.clone()),
        ];
        for (what, token) in strangers {
            alike(what, at(tasks(method, &id), "/s/one/mcp", &token));
        }
        alike("the other task", at(tasks(method, &id).field("portcullis-task", "support"), "/s/one/mcp", &again));
        alike("another server", at(tasks(method, &id), "/s/other/mcp", &mine));
        alike("changed", at(tasks(method, &changed), "/s/one/mcp", &mine));
        alike(
            "the server's own",
            at(tasks(method, &own).without("mcp-name").field("mcp-name", &encoded(&own)), "/s/one/mcp", &mine),
        );
        alike("too long", at(tasks(method, &"A".repeat(4000)), "/s/one/mcp", &mine));
        alike("none", at(tasks(method, "").without("mcp-name").field("mcp-name", ""), "/s/one/mcp", &mine));
    }
    assert_eq!((polls(&one), polls(&other)), (before, 0), "no server heard of it");
    oracle::check(&gateway, &[("one", &one), ("other", &other)]);
    // Each is on record.
    decided(&gateway, 3 * 13, |it| it["verdict"] == "refuse" && it["reason"] == "no_match");
}

/// A name as it stands in a field that cannot hold it (MCP 2026-07-28 basic/transports/streamable-http).
fn encoded(name: &str) -> String {
    use base64::Engine as _;
    format!("=?base64?{}?=", base64::engine::general_purpose::STANDARD.encode(name))
}

#[test]
fn a_task_outlives_a_restart() {
    let upstream = plan(true).start();
    let gateway = guarded(&[("up", &upstream)]);
    let who = Who { tasks: &["research"], ..Who::default() };
    let (id, _) = begin(&gateway, "work", |post| post.token(&gateway.token(&who)));
    let gateway = gateway.restart(|config| {
        // The same tasks, numbered otherwise.
        config["policy"]["tasks"] = json!({ "a-new-one": "First.", "research": "A task.", "support": "A task." });
    });
    let token = gateway.token(&who);
    let known = || Post::modern("tools/list", json!({})).token(&token).to(&gateway).status() == 200;
    eventually("the catalogue is known", known);
    let polled = tasks("get", &id).token(&token).to(&gateway);
    assert_eq!(polled.json()["result"]["taskId"], json!(id), "{}", polled.text());
}

/// A request that does not declare the extension neither gets a task nor asks after one.
#[test]
fn a_caller_that_knows_no_tasks() {
    let (gateway, upstream) = open();
    let (id, _) = begin(&gateway, "work", |post| post);
    let withheld = |post: &Post| {
        let text = post.to(&gateway).text();
        assert!(text.contains("\"server_invalid\"") && !text.contains("own/"), "{text}");
    };
    for tool in ["work", "work-events"] {
        withheld(&Post::call(tool));
        withheld(&Post::call(tool).declaring(json!({ "extensions": { EXTENSION: null, "a/b": {} } })));
    }
    let needed = json!({ "requiredCapabilities": { "extensions": { EXTENSION: {} } } });
    let listen = Post::modern("subscriptions/listen", json!({ "notifications": { "taskIds": [id] } }));
    let polls = ["get", "update", "cancel"].map(|method| tasks(method, &id).declaring(json!({ "tasks": {} })));
    for post in polls.into_iter().chain([listen]) {
        let refused = post.to(&gateway);
        let error = &refused.json()["error"];
        assert_eq!((refused.status(), &error["code"], &error["data"]), (400, &json!(-32_021), &needed), "{error}");
    }
    let heard = upstream.seen().into_iter().filter(|seen| seen.method().starts_with("tasks/"));
    assert_eq!(heard.count(), 0);
    oracle::check(&gateway, &[("up", &upstream)]);
    decided(&gateway, 4, |it| it["reason"] == "capability");
}

/// Only a tool call becomes a task.
#[test]
fn what_is_no_tool_call_does_not_become_a_task() {
    let upstream = Plan::tools(&["echo"])
        .script(|seen, out| {
            if seen.method() != "prompts/get" {
                return Acted::Default;
            }
            let mut answer = result(seen, state(&json!("own/1"), &json!({})));
            answer["result"]["resultType"] = json!("task");
            out.json(200, "", &answer);
            Acted::Done
        })
        .start();
    let gateway = Setup::new().server("up", &upstream.url()).open().start();
    let answer = Post::modern("prompts/get", json!({ "name": "greet" })).declaring(able()).to(&gateway).json();
    assert_eq!(answer["error"]["data"]["reason"], "server_invalid", "{answer}");
}

/// A long answer goes on as it comes, so a task in one cannot be renamed: it is cut off, and is no answer.
#[test]
fn a_long_task_is_cut_off() {
    let upstream = Plan::tools(&["work"])
        .script(|seen, out| {
            if seen.method() != "tools/call" {
                return Acted::Default;
            }
            let long = json!({ "statusMessage": "x".repeat(200_000) });
            let mut answer = result(seen, state(&json!("own/1"), &long));
            answer["result"]["resultType"] = json!("task");
            out.json(200, "", &answer);
            Acted::Done
        })
        .start();
    let gateway = Setup::new().server("up", &upstream.url()).open().start();
    let answer = Post::call("work").declaring(able()).begin(&gateway).try_response();
    assert!(answer.is_err(), "{:?}", answer.map(|answer| answer.body.len()));
    oracle::check(&gateway, &[("up", &upstream)]);
}

/// A task without a name, or with one that cannot be sealed, is none.
#[test]
fn a_task_that_cannot_be_named_is_withheld() {
    let upstream = Plan::tools(&["work"])
        .script(|seen, out| {
            if seen.method() != "tools/call" {
                return Acted::Default;
            }
            let id = &seen.message["params"]["arguments"]["id"];
            let mut answer = result(seen, state(id, &json!({})));
            answer["result"]["resultType"] = json!("task");
            out.json(200, "", &answer);
            Acted::Done
        })
        .start();
    let gateway = Setup::new().server("up", &upstream.url()).open().start();
    let call = |id: Value| Post::call("work").declaring(able()).param("/arguments/id", id).to(&gateway).json();
    for id in [json!(""), json!(7), Value::Null, json!("x".repeat(257))] {
        let answer = call(id.clone());
        assert_eq!(answer["error"]["data"]["reason"], "server_invalid", "{id}: {answer}");
    }
    assert_eq!(call(json!("x".repeat(256)))["result"]["resultType"], "task");
    oracle::check(&gateway, &[("up", &upstream)]);
}

#[test]
fn the_state_of_a_task() {
    let upstream = plan(true).start();
    let gateway = guarded(&[("up", &upstream)]);
    let token = gateway.token(&Who::default());
    let poll = |tool: &str, declared: Value| {
        let (id, _) = begin(&gateway, tool, |post| post.token(&token));
        let answer = tasks("get", &id).declaring(declared).token(&token).to(&gateway);
        assert!(!answer.text().contains("own/"), "{}", answer.text());
        (answer.json(), json!(id))
    };
    // A long one is renamed too.
    let (answer, id) = poll("big", able());
    let text = &answer["result"]["result"]["content"][0]["text"];
    assert_eq!((&answer["result"]["taskId"], text.as_str().map(str::len)), (&id, Some(300_000)));
    // One about another task is withheld.
    let (answer, _) = poll("other", able());
    assert_eq!(answer["error"]["data"]["reason"], "server_invalid", "{answer}");
    // What it asks of the client is what policy lets it ask and the client can do.
    let (answer, id) = poll("asks", able());
    let asked = &answer["result"]["inputRequests"]["k"]["method"];
    assert_eq!((&answer["result"]["taskId"], asked), (&id, &json!("elicitation/create")), "{answer}");
    let (answer, _) = poll("asks", json!({ "extensions": { EXTENSION: {} } }));
    assert_eq!(answer["error"]["data"]["reason"], "server_invalid", "{answer}");
    let (answer, _) = poll("roams", json!({ "roots": {}, "extensions": { EXTENSION: {} } }));
    assert_eq!(answer["error"]["code"], -31_403, "{answer}");
    oracle::check(&gateway, &[("up", &upstream)]);
}

/// `Mcp-Name` says the same as `taskId`, by the client's name.
#[test]
fn a_tasks_header_and_body_agree() {
    let (gateway, upstream) = open();
    let (id, _) = begin(&gateway, "work", |post| post);
    let (other, _) = begin(&gateway, "work", |post| post);
    for method in ["get", "update", "cancel"] {
        let bare = tasks(method, &id).without("mcp-name");
        let doubled = tasks(method, &id).field("mcp-name", &id);
        for post in [bare.clone(), bare.field("mcp-name", &other), doubled] {
            let refused = post.to(&gateway);
            assert_eq!(
                (refused.status(), &refused.json()["error"]["code"]),
                (400, &json!(-32_020)),
                "{}",
                refused.text()
            );
        }
    }
    // Nor is there a second name for a careless parser to find.
    let twin = tasks("get", &id).param("/taskid", json!(other)).to(&gateway);
    assert_eq!((twin.status(), &twin.json()["error"]["code"]), (400, &json!(-32_600)), "{}", twin.text());
    let missing = Post::modern("tasks/get", json!({})).declaring(able()).to(&gateway);
    assert_eq!((missing.status(), &missing.json()["error"]["code"]), (400, &json!(-32_602)), "{}", missing.text());
    assert_eq!(upstream.seen().iter().filter(|seen| seen.method().starts_with("tasks/")).count(), 0);
}

/// At a server without the extension its methods do not exist, and nobody listens to tasks.
#[test]
fn a_server_without_tasks() {
    let (extended, plain) = (plan(true).start(), plan(false).start());
    let gateway = Setup::new().server("one", &extended.url()).server("two", &plain.url()).open().start();
    let (id, _) = begin(&gateway, "work", |post| post.at("/s/one/mcp"));
    for method in ["get", "update", "cancel"] {
        for post in [tasks(method, &id), tasks(method, &id).declaring(json!({}))] {
            let answer = post.at("/s/two/mcp").to(&gateway);
            assert_eq!((answer.status(), &answer.json()["error"]["code"]), (404, &json!(-32_601)), "{}", answer.text());
        }
    }
    let wanted = json!({ "notifications": { "taskIds": [id], "toolsListChanged": true } });
    let listen = Post::modern("subscriptions/listen", wanted).declaring(able()).id("sub").at("/s/two/mcp");
    let mut events = listen.stream(&gateway);
    let acknowledged = events.message();
    assert_eq!(acknowledged["params"]["notifications"], json!({ "toolsListChanged": true }), "{acknowledged}");
    let seen = plain.wait("the subscription", |seen| seen.id() == "sub");
    assert_eq!(seen.message["params"]["notifications"]["taskIds"], json!([]));
    assert_eq!(plain.seen().iter().filter(|seen| seen.method().starts_with("tasks/")).count(), 0);
}

/// What a server says of itself: the extension is served, the tasks of 2025-11-25 are not.
#[test]
fn the_extension_is_declared_and_its_forerunner_is_not() {
    let (gateway, upstream) = open();
    for events in [false, true] {
        let post = Post::modern("server/discover", json!({}));
        let post = if events { post.field("tracestate", "events=1") } else { post };
        let answer = if events { post.stream(&gateway).rest().0.remove(0) } else { post.to(&gateway).json() };
        let capabilities = &answer["result"]["capabilities"];
        assert_eq!(capabilities.get("tasks"), None, "{answer}");
        assert_eq!(capabilities["extensions"], json!({ EXTENSION: {}, "a/b": {} }), "{answer}");
    }
    assert_eq!(names(&Post::modern("tools/list", json!({})).to(&gateway), "tools", "name").len(), 7);
    oracle::check(&gateway, &[("up", &upstream)]);
}

/// Its calls become tasks, and it tells of them on the subscription `sub`: of one that nobody asked for, of the two that
/// were, of none, and asks for what it may not and what it may.
fn telling() -> Upstream {
    let become_task = |seen: &Seen| {
        let mut answer = result(seen, state(&json!(own_id(seen.value())), &json!({})));
        answer["result"]["resultType"] = json!("task");
        answer
    };
    let discovered = |seen: &Seen| {
        let capabilities = json!({ "tools": {}, "extensions": { EXTENSION: {} } });
        let mut answer = result(seen, json!({ "supportedVersions": ["2026-07-28"], "capabilities": capabilities }));
        answer["result"]["ttlMs"] = json!(60_000);
        answer["result"]["cacheScope"] = json!("private");
        answer
    };
    let script = move |seen: &Seen, out: &mut Out<'_>| {
        match seen.method() {
            "server/discover" => out.json(200, "", &discovered(seen)),
            "tools/call" => out.json(200, "", &become_task(seen)),
            "subscriptions/listen" if seen.id() == "sub" => {
                out.stream();
                told(&seen.message["params"]["notifications"]["taskIds"]).iter().for_each(|it| out.event(it));
                out.stream_end();
            }
            _ => return Acted::Default,
        }
        Acted::Done
    };
    Plan::tools(&["work"]).script(script).start()
}

fn told(ids: &Value) -> Vec<Value> {
    let note = |method: &str, mut params: Value| {
        params["_meta"] = json!({ SUBSCRIPTION: "sub" });
        json!({ "jsonrpc": "2.0", "method": method, "params": params })
    };
    let changed = |id: &Value, more: Value| note("notifications/tasks", state(id, &more));
    let asking = |method: &str| {
        let requests = json!({ "k": { "method": method } });
        changed(&ids[0], json!({ "status": "input_required", "inputRequests": requests }))
    };
    let done = json!({ "content": [{ "type": "text", "text": ids[0] }] });
    vec![
        note("notifications/subscriptions/acknowledged", json!({ "notifications": { "taskIds": ids } })),
        changed(&json!("own/somebody else's"), json!({})),
        changed(&ids[1], json!({})),
        changed(&json!(7), json!({})),
        asking("roots/list"),
        asking("elicitation/create"),
        changed(&ids[0], json!({ "status": "completed", "result": done })),
    ]
}

/// A subscription to tasks: by the client's names on its side, by the server's on the other.
#[test]
fn tasks_are_listened_to() {
    let upstream = telling();
    let gateway = guarded(&[("up", &upstream)]);
    let (token, stranger) = (gateway.token(&Who::default()), gateway.token(&Who { subject: "eve", ..Who::default() }));
    let begin = |token: &str| {
        let post = Post::call("work").declaring(able()).token(token);
        let answer = post.to(&gateway).json();
        (answer["result"]["taskId"].clone(), own_id(&post.value))
    };
    let (one, own_one) = begin(&token);
    let (two, own_two) = begin(&token);
    let (theirs, _) = begin(&stranger);
    let wanted = json!({ "taskIds": [one, theirs, "no-such", two, own_one] });
    let listen = Post::modern("subscriptions/listen", json!({ "notifications": wanted })).declaring(able()).id("sub");
    let (messages, end) = listen.token(&token).stream(&gateway).rest();
    assert!(end.is_ok());
    let seen = upstream.wait("the subscription", |seen| seen.id() == "sub");
    assert_eq!(seen.message["params"]["notifications"], json!({ "taskIds": [own_one, own_two] }));
    assert_eq!(messages[0]["params"]["notifications"], json!({ "taskIds": [one, two] }), "{messages:#?}");
    let told: Vec<(&Value, &Value)> =
        messages[1..4].iter().map(|it| (&it["params"]["taskId"], &it["params"]["status"])).collect();
    let states = [(&two, &json!("working")), (&one, &json!("input_required")), (&one, &json!("completed"))];
    assert_eq!(told, states, "{messages:#?}");
    assert_eq!(messages[2]["params"]["inputRequests"]["k"]["method"], "elicitation/create", "{messages:#?}");
    assert!(messages[..4].iter().all(|it| it["params"]["_meta"][SUBSCRIPTION] == "sub"), "{messages:#?}");
    let last = &messages[4]["result"];
    assert_eq!(
        (messages.len(), &last["_meta"][SUBSCRIPTION], &last["resultType"]),
        (5, &json!("sub"), &json!("complete"))
    );
}

/// The tasks of a legacy session are not the extension's.
#[test]
fn a_legacy_session_has_no_tasks() {
    let (gateway, upstream) = open();
    let session = open_session(&gateway, |post| post);
    for method in ["tasks/get", "tasks/update", "tasks/cancel", "tasks/result", "tasks/list"] {
        let answer = Post::legacy(&session, method, json!({ "taskId": "t" })).to(&gateway);
        assert_eq!((answer.status(), &answer.json()["error"]["code"]), (200, &json!(-32_601)), "{method}");
    }
    oracle::check(&gateway, &[("up", &upstream)]);
}
