//! Servers behind TLS, as the gateway meets them.

use std::net::SocketAddr;

use serde_json::{Value, json};

use crate::support::gateway::{Gateway, Setup, eventually};
use crate::support::mcp::{Post, open_session, text_of, tools};
use crate::support::oracle;
use crate::support::tls::{Authority, Issued, Manner, Shelf, Terminator};
use crate::support::upstream::{Acted, Plan, Upstream, progress, said};

const LONG_BYTES: usize = 300 * 1024;
const PAD_BYTES: usize = 1_000_000;

/// A gateway, and a server that it reaches by TLS alone.
struct Home {
    gateway: Gateway,
    upstream: Upstream,
    front: Terminator,
    authority: Authority,
}

fn home() -> Home {
    home_with(|setup, _| setup, |authority| Manner::Polite(authority.issue(&["up.test"]).server(None)))
}

/// The server shows what it likes; the gateway wants a certificate of `authority` for `up.test`.
fn home_with(change: impl FnOnce(Setup, &Shelf) -> Setup, manner: impl FnOnce(&Authority) -> Manner) -> Home {
    let (authority, shelf) = (Authority::new("servers"), Shelf::new());
    let upstream = upstream();
    let front = Terminator::start(upstream.address(), manner(&authority));
    let tls = json!({ "ca": shelf.put("ca.pem", &authority.pem()), "name": "up.test" });
    let setup = Setup::new().open().set("/servers/up", json!({ "url": front.url(), "tls": tls }));
    let gateway = change(setup, &shelf).start();
    Home { gateway, upstream, front, authority }
}

fn upstream() -> Upstream {
    Plan::tools(&["echo", "flow", "long", "until-close", "events-until-close"])
        .script(|seen, out| {
            let head = |media: &str| format!("HTTP/1.1 200 OK\r\ncontent-type: {media}\r\nconnection: close\r\n\r\n");
            if seen.calls("flow") {
                out.stream();
                out.event(&progress(seen, 1));
                out.event(&said(seen, seen.value()));
                out.stream_end();
            } else if seen.calls("long") {
                out.json(200, "", &said(seen, &format!("{}{}", "x".repeat(LONG_BYTES), seen.value())));
            } else if seen.calls("until-close") {
                out.write(format!("{}{}", head("application/json"), said(seen, seen.value())));
                out.close();
            } else if seen.calls("events-until-close") {
                out.write(format!("{}data: {}\n\n", head("text/event-stream"), progress(seen, 1)));
                out.close();
            } else {
                return Acted::Default;
            }
            Acted::Done
        })
        .start()
}

impl Home {
    #[track_caller]
    fn checked(&self) -> Vec<Value> {
        oracle::check(&self.gateway, &[("up", &self.upstream)])
    }

    /// Ends what is open, and shows this certificate from now on.
    fn show(&self, issued: &Issued) {
        self.front.change(Manner::Polite(issued.server(None)));
    }
}

/// A server of a given authority is met in both eras; the plane reads its catalogue the same way; it is asked for by its
/// name, and offered HTTP/1.1; and a connection carries one call after another.
#[test]
fn a_server_behind_tls() {
    let home = home();
    assert!(home.gateway.banner.contains("reachable, MCP"), "{}", home.gateway.banner);
    assert_eq!(tools(&home.gateway, |post| post).len(), 5);
    let before = home.front.shakes().len();
    for _ in 0..5 {
        Post::call("echo").echoed(&home.gateway);
    }
    let large = Post::call("echo").param("/arguments/pad", json!("p".repeat(PAD_BYTES)));
    large.echoed(&home.gateway);
    let long = Post::call("long");
    let answer = long.to(&home.gateway).json();
    assert!(text_of(&answer).len() == LONG_BYTES + 32 && text_of(&answer).ends_with(&long.value));
    let session = open_session(&home.gateway, |post| post);
    Post::legacy_call(&session, "echo").echoed(&home.gateway);
    for flow in [Post::call("flow"), Post::legacy_call(&session, "flow")] {
        let (messages, end) = flow.param("/_meta/progressToken", json!("p")).stream(&home.gateway).rest();
        assert!(end.is_ok() && messages.len() == 2, "{messages:?}");
    }
    let shakes = home.front.shakes();
    let new = &shakes[before..];
    assert!(new.len() <= 3, "eleven requests of one shard, one after another, and so many connections: {new:?}");
    for shake in &shakes {
        assert!(shake.done && shake.name.as_deref() == Some("up.test"), "{shake:?}");
        assert_eq!(shake.protocol.as_deref(), Some(&b"http/1.1"[..]));
    }
    let connections: Vec<usize> = home.upstream.calls().iter().take(5).map(|seen| seen.connection).collect();
    assert_eq!(connections, [connections[0]; 5], "kept and used again");
    home.checked();
}

/// A second connection to the same server resumes the first one's session.
#[test]
fn a_connection_is_resumed() {
    let home = home();
    Post::call("echo").echoed(&home.gateway);
    // The same server, after it has closed all it had.
    eventually("a handshake is a resumption", || {
        home.front.end_all();
        Post::call("echo").to(&home.gateway);
        home.front.shakes().iter().any(|shake| shake.resumed)
    });
}

/// Whom the gateway does not believe to be its server gets not one byte of a request: the wrong name, a stranger's
/// certificate, one that has expired, and plain HTTP where TLS should be. The caller reads that the server is not what it
/// should be, the record that it was not reached.
#[test]
fn a_server_that_is_not_the_one() {
    let home = home();
    Post::call("echo").echoed(&home.gateway);
    let passed = |front: &Terminator| front.passed();
    let refused = |what: &str| {
        let (before, shakes) = (passed(&home.front), home.front.shakes().len());
        let post = Post::call("echo");
        let answer = post.to(&home.gateway);
        assert_eq!(answer.status(), 200, "{what}: {}", answer.text());
        let answer = answer.json();
        assert_eq!(answer["error"]["code"], -32_603, "{what}: {answer}");
        assert_eq!(answer["error"]["data"]["reason"], "server_tls", "{what}: {answer}");
        assert_eq!(answer["id"], 1, "{what}");
        assert_eq!(passed(&home.front), before, "{what}: something was sent");
        let records = home.gateway.records_until("its outcome", |records| {
            let count = |kind| oracle::of_kind(records, kind).count();
            let decided = oracle::of_kind(records, "decision").any(|it| it["trace"] == *post.value);
            decided && count("outcome") == count("decision")
        });
        assert_eq!(oracle::outcome(&records, &post.value)["status"], "unreachable", "{what}");
        let new = &home.front.shakes()[shakes..];
        assert!(new.iter().all(|shake| !shake.done), "{what}: {new:?}");
    };
    home.show(&home.authority.issue(&["other.test", "127.0.0.1"]));
    refused("another name");
    home.show(&Authority::new("servers").issue(&["up.test"]));
    refused("a stranger's");
    home.show(&home.authority.issue_expired(&["up.test"]));
    refused("an expired one");
    home.front.change(Manner::Plain("HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\n\r\n"));
    refused("plain HTTP");
    assert_eq!(home.upstream.calls().len(), 1);
    home.show(&home.authority.issue(&["up.test"]));
    Post::call("echo").echoed(&home.gateway);
    home.checked();
}

/// A server that nobody trusts from the start has no catalogue, and the screen says why; `/status` too.
#[test]
fn a_server_that_is_never_believed() {
    let home = home_with(|setup, _| setup, |_| Manner::Polite(Authority::new("x").issue(&["up.test"]).server(None)));
    assert!(home.gateway.banner.contains("not reachable"), "{}", home.gateway.banner);
    let answer = Post::call("echo").to(&home.gateway);
    assert!(answer.json()["error"]["code"] == -32_603, "{}", answer.text());
    assert_eq!(home.front.passed(), 0, "something was sent");
    assert!(home.upstream.seen().is_empty());
    home.checked();
}

/// A server that asks for the gateway's certificate gets it, and does not serve a gateway that has none.
#[test]
fn the_gateways_own_certificate() {
    let clients = Authority::new("clients");
    let mine = clients.issue(&["gateway"]);
    let with = home_with(
        |setup, shelf| {
            let pair = shelf.pair("own", &mine);
            setup.set("/servers/up/tls/cert", pair["cert"].clone()).set("/servers/up/tls/key", pair["key"].clone())
        },
        |authority| Manner::Polite(authority.issue(&["up.test"]).server(Some(&clients))),
    );
    Post::call("echo").echoed(&with.gateway);
    let shakes = with.front.shakes();
    assert!(shakes.iter().all(|shake| shake.shown == Some(mine.leaf())), "{shakes:?}");
    with.checked();
    let without =
        home_with(|setup, _| setup, |authority| Manner::Polite(authority.issue(&["up.test"]).server(Some(&clients))));
    assert!(without.gateway.banner.contains("not reachable"), "{}", without.gateway.banner);
    assert!(Post::call("echo").to(&without.gateway).json()["error"].is_object());
    assert!(without.upstream.seen().is_empty());
    without.checked();
}

/// An answer that ends with its connection is whole when that end was announced, and cut when it was not: anybody on the
/// wire can cut.
#[test]
fn a_cut_is_no_end() {
    let home = home();
    let certificate = home.authority.issue(&["up.test"]);
    for _ in 0..3 {
        let post = Post::call("until-close");
        post.echoed(&home.gateway);
        home.front.change(Manner::Rude(certificate.server(None)));
        let post = Post::call("until-close");
        let answer = post.to(&home.gateway).json();
        assert_eq!(answer["error"]["data"]["reason"], "server_cut", "{answer}");
        let (messages, _) =
            Post::call("events-until-close").param("/_meta/progressToken", json!("p")).stream(&home.gateway).rest();
        let last = messages.last().expect("an error at least");
        assert_eq!(last["error"]["data"]["reason"], "server_cut", "{last}");
        // A length tells the end well enough.
        Post::call("echo").echoed(&home.gateway);
        home.show(&certificate);
    }
    let records = home.checked();
    let cut = oracle::of_kind(&records, "outcome").filter(|outcome| outcome["status"] == "cut").count();
    assert_eq!(cut, 6);
}

/// The authorities that servers are checked against change on disk: what was trusted is not any more, and the other way
/// round, for new connections.
#[test]
fn authorities_change() {
    let (old, new, shelf) = (Authority::new("old"), Authority::new("new"), Shelf::new());
    let upstream = upstream();
    let front = Terminator::start(upstream.address(), Manner::Polite(old.issue(&["up.test"]).server(None)));
    let tls = json!({ "ca": shelf.put("ca.pem", &old.pem()), "name": "up.test" });
    let gateway = Setup::new().open().set("/servers/up", json!({ "url": front.url(), "tls": tls })).start();
    Post::call("echo").echoed(&gateway);
    shelf.replace("ca.pem", &new.pem());
    eventually("the old authority is not believed", || {
        front.end_all();
        Post::call("echo").to(&gateway).json()["error"]["data"]["reason"] == "server_tls"
    });
    front.change(Manner::Polite(new.issue(&["up.test"]).server(None)));
    Post::call("echo").echoed(&gateway);
    oracle::check(&gateway, &[("up", &upstream)]);
}

/// `https` where only plain HTTP listens, and `http` where TLS does: neither is taken for the other.
#[test]
fn the_scheme_counts() {
    let home = home();
    let plain: SocketAddr = home.front.address;
    let gateway = Setup::new().open().server("up", &format!("http://{plain}/mcp")).start();
    let answer = Post::call("echo").to(&gateway);
    assert!(answer.json()["error"].is_object(), "{}", answer.text());
    assert!(home.upstream.calls().is_empty());
    let secure = format!("https://{}/mcp", home.upstream.address());
    let gateway = Setup::new().open().server("up", &secure).start();
    assert!(!gateway.banner.contains("reachable, MCP"), "{}", gateway.banner);
}
