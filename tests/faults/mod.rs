//! What goes wrong around a gateway: servers, clients, the clock, the kernel, the process itself. Whoever called gets a
//! prompt and correct error, never a wrong answer; a call is written at most once; afterwards all is as it was before.

use serde_json::{Value, json};

use crate::support::gateway::{Gateway, Setup};
use crate::support::http::Response;
use crate::support::mcp::Post;
use crate::support::upstream::{Acted, Out, Plan, Seen, Upstream, said};

mod client;
mod clock;
mod descriptors;
mod matrix;
mod panic;
mod sandbox;
mod server;
mod vanished;

/// The `timeout` of the server in these tests; what is prompt is over before it.
const TIMEOUT: &str = "1500ms";
/// Both drivers: the kernel's best, and what is there everywhere.
const DRIVERS: [&str; 2] = ["auto", "epoll"];

/// What a tool does to its caller.
pub(super) type Act = fn(&Seen, &mut Out<'_>);

/// A server whose tools do what `acts` says; `echo` is well behaved.
pub(super) fn server(acts: &'static [(&'static str, Act)]) -> (Gateway, Upstream) {
    server_within(TIMEOUT, acts)
}

/// The same with another `timeout`.
pub(super) fn server_within(timeout: &str, acts: &'static [(&'static str, Act)]) -> (Gateway, Upstream) {
    let names: Vec<&str> = acts.iter().map(|(name, _)| *name).chain(["echo"]).collect();
    let upstream = Plan::tools(&names)
        .script(move |seen, out| {
            if seen.method() != "tools/call" {
                return Acted::Default;
            }
            match acts.iter().find(|(name, _)| *name == seen.name()) {
                Some((_, act)) => {
                    act(seen, out);
                    Acted::Done
                }
                None => Acted::Default,
            }
        })
        .start();
    let gateway = Setup::new().server("up", &upstream.url()).set("/servers/up/timeout", json!(timeout)).open().start();
    (gateway, upstream)
}

pub(super) fn head(fields: &str) -> String {
    format!("HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n{fields}\r\n")
}

pub(super) fn answer(seen: &Seen) -> String {
    said(seen, seen.value()).to_string()
}

/// An answer of more than `bytes`, its id last.
pub(super) fn long(seen: &Seen, bytes: usize, id: &Value) -> String {
    let pad: Vec<Value> = (0..bytes / 40).map(|n| json!({ "n": n, "pad": "x".repeat(24) })).collect();
    let result = json!({ "content": [{ "type": "text", "text": seen.value() }], "pad": pad, "resultType": "complete" });
    format!("{{\"jsonrpc\":\"2.0\",\"result\":{result},\"id\":{id}}}")
}

/// The one error that a caller gets for a server's fault, with its reason for programs.
#[track_caller]
pub(super) fn faulted(post: &Post, response: &Response, reason: &str) {
    assert_eq!((response.status(), response.field("content-type")), (200, "application/json"), "{}", response.text());
    let body = response.json();
    let error = &body["error"];
    assert_eq!((&error["code"], &error["data"]["reason"]), (&json!(-32_603), &json!(reason)), "{body}");
    assert_eq!(body["id"], *post.request_id(), "{body}");
    assert!(body.get("result").is_none() && !response.text().contains(&post.value), "{body}");
    let message = error["message"].as_str().unwrap_or_default();
    assert!(message.ends_with('.') && message.len() > 20, "{message}");
}
