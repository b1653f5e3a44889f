//! The catalogue: all pages of it, without what cannot be used, and always the server's current one.

use serde_json::{Value, json};

use crate::support::gateway::{Setup, eventually};
use crate::support::mcp::{Post, names, open_session, tools};
use crate::support::oracle;
use crate::support::upstream::{Acted, Plan, definition, result};

#[test]
fn all_pages_are_one_list() {
    let upstream = Plan::tools(&[])
        .script(|seen, out| {
            if seen.method() != "tools/list" {
                return Acted::Default;
            }
            let page =
                seen.message["params"]["cursor"].as_str().map_or(0, |cursor| cursor.parse::<u32>().unwrap_or(99));
            let items: Vec<Value> = (0..3).map(|n| definition(&format!("t{}", page * 3 + n))).collect();
            let mut list = json!({ "tools": items, "ttlMs": 60_000, "cacheScope": "public" });
            if page < 4 {
                list["nextCursor"] = json!((page + 1).to_string());
            }
            out.json(200, "", &result(seen, list));
            Acted::Done
        })
        .start();
    let gateway = Setup::new().server("up", &upstream.url()).open().start();
    let want: Vec<String> = (0..15).map(|n| format!("t{n}")).collect();
    let list = Post::modern("tools/list", json!({})).to(&gateway);
    assert_eq!(names(&list, "tools", "name"), want);
    assert_eq!(list.json()["result"].get("nextCursor"), None);
    Post::call("t14").echoed(&gateway);
    // There is one page, so nobody was given a cursor.
    let cursor = Post::modern("tools/list", json!({ "cursor": "2" })).to(&gateway);
    assert_eq!((cursor.status(), &cursor.json()["error"]["code"]), (200, &json!(-32_602)), "{}", cursor.text());
    oracle::check(&gateway, &[("up", &upstream)]);
}

#[test]
fn what_cannot_be_used_is_left_out() {
    let mut big = definition("big");
    big["description"] = json!("x".repeat(65 * 1024));
    let mut twin = definition("fine");
    twin["description"] = json!("a second one of that name");
    let upstream = Plan::tools(&["fine", ""]).tool(big).tool(twin).tool(definition("also-fine")).start();
    let gateway = Setup::new().server("up", &upstream.url()).open().start();
    assert_eq!(tools(&gateway, |post| post), ["fine", "also-fine"]);
    let list = Post::modern("tools/list", json!({})).to(&gateway).json();
    assert_eq!(list["result"]["tools"][0]["description"], "The tool fine", "the first of a name stays");
    assert_eq!(Post::call("big").to(&gateway).json()["error"]["code"], -32_602);
    oracle::check(&gateway, &[("up", &upstream)]);
}

/// Definitions are shown as the server wrote them, unknown members and all.
#[test]
fn definitions_are_shown_as_written() {
    let odd = json!({
        "name": "odd", "inputSchema": { "type": "object", "$comment": "1e400", "minProperties": 0 },
        "x-vendor": [1, { "deep": null }], "annotations": { "readOnlyHint": true }, "_meta": { "k": "v" },
    });
    let upstream = Plan::tools(&[]).tool(odd.clone()).start();
    let gateway = Setup::new().server("up", &upstream.url()).open().start();
    assert_eq!(Post::modern("tools/list", json!({})).to(&gateway).json()["result"]["tools"], json!([odd]));
    oracle::check(&gateway, &[("up", &upstream)]);
}

/// Names beyond ASCII: in a header they are encoded, in a pattern they are themselves.
#[test]
fn names_beyond_ascii() {
    let upstream = Plan::tools(&["工具", "naïve name"]).start();
    let gateway =
        Setup::new().server("up", &upstream.url()).rule(json!({ "id": "some", "permit": ["up/工*"] })).start();
    assert_eq!(tools(&gateway, |post| post), ["工具"]);
    let call = |name: &str, header: &str| Post::call(name).without("mcp-name").field("mcp-name", header);
    let encoded = "=?base64?5bel5YW3?=";
    call("工具", encoded).echoed(&gateway);
    assert_eq!(upstream.wait("the call", |seen| seen.calls("工具")).field("mcp-name"), encoded);
    let wrong = call("工具", "=?base64?5bel?=").to(&gateway);
    assert_eq!((wrong.status(), &wrong.json()["error"]["code"]), (400, &json!(-32_020)), "{}", wrong.text());
    let session = open_session(&gateway, |post| post);
    Post::legacy_call(&session, "工具").echoed(&gateway);
    let hidden = Post::legacy_call(&session, "naïve name").to(&gateway);
    assert_eq!(hidden.json()["error"]["code"], -32_602);
    oracle::check(&gateway, &[("up", &upstream)]);
}

/// A URI is judged as written and in its normal form: a permit needs both.
#[test]
fn uris_do_not_wander() {
    let upstream = Plan::tools(&[]).start();
    let gateway = Setup::new()
        .server("up", &upstream.url())
        .rule(json!({ "id": "public", "permit": ["up!resource:file:///srv/public/*"] }))
        .rule(json!({ "id": "secret", "forbid": ["up!resource:*/secret"] }))
        .start();
    let read = |uri: &str| {
        let answer = Post::modern("resources/read", json!({ "uri": uri })).to(&gateway).json();
        answer.get("result").is_some()
    };
    assert!(read("file:///srv/public/a.txt"));
    for uri in [
        "file:///srv/private",
        "file:///srv/public/../private",
        "file:///srv/public/%2e%2e/private",
        "file:///srv/public/./../private",
        "file:///srv/public/x/secret",
        "file:///srv/public/x/%73ecret",
        "FILE:///srv/public/../secret",
    ] {
        assert!(!read(uri), "{uri}");
    }
    let reached = upstream.seen().into_iter().filter(|seen| seen.method() == "resources/read").count();
    assert_eq!(reached, 1);
    oracle::check(&gateway, &[("up", &upstream)]);
}

/// What a method answers that this server, or this revision, does not have.
#[test]
fn methods_that_do_not_exist() {
    let upstream = Plan::tools(&["echo"]).start();
    let gateway = Setup::new().server("up", &upstream.url()).open().start();
    let session = open_session(&gateway, |post| post);
    for method in ["no/such", "server/discover", "subscriptions/listen", "tasks/get", "roots/list"] {
        let answer = Post::legacy(&session, method, json!({})).to(&gateway);
        assert_eq!(
            (answer.status(), &answer.json()["error"]["code"]),
            (200, &json!(-32_601)),
            "{method}: {}",
            answer.text()
        );
    }
    for method in ["initialize", "logging/setLevel", "resources/subscribe", "tasks/list", "sampling/createMessage"] {
        let answer = Post::modern(method, json!({})).to(&gateway);
        assert_eq!(
            (answer.status(), &answer.json()["error"]["code"]),
            (404, &json!(-32_601)),
            "{method}: {}",
            answer.text()
        );
    }
    let unknown = upstream.seen().into_iter().filter(|seen| seen.method().starts_with("no/")).count();
    assert_eq!(unknown, 0);
    oracle::check(&gateway, &[("up", &upstream)]);
}

/// A server that was down comes back with other tools: what is shown is what it has now.
#[test]
fn a_server_that_comes_back_changed() {
    let first = Plan::tools(&["old"]).start();
    let gateway = Setup::new().server("up", &first.url()).open().start();
    assert_eq!(tools(&gateway, |post| post), ["old"]);
    let address = first.address();
    drop(first);
    let second = crate::support::upstream::Reserved::at(address).start(Plan::tools(&["new"]));
    eventually("the new list is there", || tools(&gateway, |post| post) == ["new"]);
    Post::call("new").echoed(&gateway);
    oracle::check(&gateway, &[("up", &second)]);
}
