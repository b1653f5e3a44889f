//! Keys that come and go while callers are at work: nobody's good token is refused for it, and what was let in by a key
//! that is gone, or not to be believed any more, ends.

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use portcullis::identity::mint::{Grant, MintKey};
use ring::rand::SystemRandom;
use serde_json::{Value, json};

use crate::support::gateway::{Gateway, ISSUER, Setup, eventually};
use crate::support::http::{Events, Wire};
use crate::support::mcp::{Post, open_session, session_request};
use crate::support::oracle;
use crate::support::upstream::{Plan, Upstream};

/// A place where keys are published; without any, it says that it cannot.
struct Keys {
    address: SocketAddr,
    set: Arc<Mutex<Option<String>>>,
    stops: Arc<AtomicBool>,
}

impl Keys {
    fn new(keys: &[&MintKey]) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("loopback has a free port");
        let address = listener.local_addr().expect("it is bound");
        let (set, stops) = (Arc::new(Mutex::new(None)), Arc::new(AtomicBool::new(false)));
        let (shown, ends) = (set.clone(), stops.clone());
        thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                if ends.load(Ordering::Acquire) {
                    return;
                }
                let shown = shown.clone();
                thread::spawn(move || serve(&stream, &shown));
            }
        });
        let all = Self { address, set, stops };
        all.publish(keys);
        all
    }

    fn publish(&self, keys: &[&MintKey]) {
        let sets = keys.iter().map(|key| serde_json::from_str::<Value>(&key.key_set()).expect("a key set is JSON"));
        let keys: Vec<Value> = sets.map(|set| set["keys"][0].clone()).collect();
        let set = json!({ "keys": keys }).to_string();
        *self.set.lock().unwrap_or_else(PoisonError::into_inner) = Some(set);
    }

    /// It cannot be had any more.
    fn withdraw(&self) {
        *self.set.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }
}

impl Drop for Keys {
    fn drop(&mut self) {
        self.stops.store(true, Ordering::Release);
        // The accept that it waits in.
        let _ = TcpStream::connect(self.address);
    }
}

fn serve(stream: &TcpStream, set: &Mutex<Option<String>>) -> Option<()> {
    let mut lines = BufReader::new(stream).lines();
    loop {
        while !lines.next()?.ok()?.is_empty() {}
        let set = set.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let (status, set) = set.map_or((500, String::new()), |set| (200, set));
        let head =
            format!("HTTP/1.1 {status} X\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n", set.len());
        let mut stream = stream;
        stream.write_all(format!("{head}{set}").as_bytes()).ok()?;
    }
}

fn key() -> MintKey {
    MintKey::generate(&SystemRandom::new()).expect("a key can be made")
}

/// A gateway that looks at these keys once a second.
fn pair(keys: &Keys, stale: &str, servers: usize) -> (Gateway, Upstream) {
    let upstream = Plan::tools(&["echo"]).start();
    let url = format!("http://{}/jwks", keys.address);
    let issuer = json!({
        "issuer": ISSUER, "algorithms": ["ES256"], "private": ["127.0.0.0/8"],
        "jwks": { "url": url, "refresh": "1s", "stale": stale },
    });
    let names = ["up", "down"].map(|name| (name, upstream.url()));
    let setup = names.iter().take(servers).fold(Setup::new(), |setup, (name, url)| setup.server(name, url));
    let served: Vec<&str> = names.iter().take(servers).map(|(name, _)| *name).collect();
    let setup = setup.set("/endpoints", json!({ "/mcp": { "servers": served, "sse": servers == 1 } }));
    let auth = json!({ "anonymous": "deny", "issuers": [issuer] });
    (setup.open().shards(2).set("/auth", auth).start(), upstream)
}

fn token(gateway: &Gateway, key: &MintKey, subject: &str) -> String {
    let now = SystemTime::UNIX_EPOCH.elapsed().expect("the clock is set").as_secs();
    let grant = Grant {
        issuer: ISSUER,
        audience: &[&gateway.url("/mcp")],
        subject,
        agent: Some("agent-1"),
        tasks: &[],
        // Before the keys were looked at last, whatever the machine was busy with.
        issued_at: now - 120,
        expires: now + 600,
    };
    key.mint(&grant, &SystemRandom::new()).expect("the random source works")
}

/// Streams of every kind, open.
fn streams(gateway: &Gateway, token: &str, merged: bool) -> Vec<(&'static str, Events)> {
    let field = format!("authorization: Bearer {token}\r\n");
    let session = open_session(gateway, |post| post.token(token));
    let mut own = Wire::to(gateway.address);
    own.send(&session_request(gateway, "GET", "/mcp", &session, &field));
    let wanted = json!({ "notifications": { "toolsListChanged": true } });
    let mut listens = Post::modern("subscriptions/listen", wanted).token(token).stream(gateway);
    assert_eq!(listens.message()["method"], "notifications/subscriptions/acknowledged");
    let mut all = vec![("a session's own", own.events()), ("a subscription", listens)];
    if !merged {
        let mut old = Wire::to(gateway.address);
        let head =
            format!("GET /mcp HTTP/1.1\r\nhost: {}\r\naccept: text/event-stream\r\n{field}\r\n", gateway.address);
        old.send(head.as_bytes());
        let mut old = old.events();
        let first = old.next().expect("it is a stream").expect("it goes on");
        assert_eq!(first.name.as_deref(), Some("endpoint"));
        all.push(("HTTP+SSE", old));
    }
    all
}

#[track_caller]
fn all_end(streams: Vec<(&'static str, Events)>, since: Instant) {
    for (what, events) in streams {
        let clean = events.rest().1.is_ok();
        println!("{what}: after {:?}, clean: {clean}", since.elapsed());
        // A second for the look at the keys, one for what follows from it; a busy machine gets a few.
        assert!(clean && since.elapsed() < Duration::from_secs(9), "{what}: {:?}", since.elapsed());
    }
}

fn rotated(servers: usize) {
    let (old, new) = (key(), key());
    let keys = Keys::new(&[&old]);
    let (gateway, upstream) = pair(&keys, "1h", servers);
    let tool = if servers == 1 { "echo" } else { "up__echo" };
    let (his, hers) = (token(&gateway, &old, "ada"), token(&gateway, &new, "bob"));
    let passes = |token: &str| {
        let answer = Post::call(tool).token(token).to(&gateway);
        assert_eq!(answer.status(), 200, "{}", answer.text());
    };
    passes(&his);
    let open = streams(&gateway, &his, servers > 1);
    // Both hold: nobody notices, and nobody's stream ends.
    keys.publish(&[&new, &old]);
    eventually("the new key is known", || {
        passes(&his);
        Post::call(tool).token(&hers).to(&gateway).status() == 200
    });
    let still = streams(&gateway, &hers, servers > 1);
    // The old one has served: what it let in ends, and what the new one let in does not.
    let since = Instant::now();
    keys.publish(&[&new]);
    all_end(open, since);
    let refused = Post::call(tool).token(&his).to(&gateway);
    assert_eq!(refused.status(), 401, "{}", refused.text());
    assert!(refused.field("www-authenticate").contains("error=\"invalid_token\""), "{:?}", refused.head);
    for _ in 0..4 {
        passes(&hers);
    }
    for (what, mut events) in still {
        assert!(!events.comes(Duration::from_millis(50)) || events.next().is_ok_and(|event| event.is_some()), "{what}");
    }
    oracle::check(&gateway, &[("up", &upstream)]);
}

#[test]
fn a_key_that_is_gone_ends_what_it_let_in() {
    rotated(1);
}

#[test]
fn and_so_at_several_servers() {
    rotated(2);
}

/// Keys that cannot be looked at again hold for as long as the operator allows, and then nobody can tell who calls.
#[test]
fn keys_that_are_too_old_are_not_believed() {
    let key = key();
    let keys = Keys::new(&[&key]);
    let (gateway, upstream) = pair(&keys, "4s", 1);
    let his = token(&gateway, &key, "ada");
    let answer = || Post::call("echo").token(&his).to(&gateway);
    assert_eq!(answer().status(), 200);
    let open = streams(&gateway, &his, false);
    let since = Instant::now();
    keys.withdraw();
    while since.elapsed() < Duration::from_secs(2) {
        assert_eq!(answer().status(), 200, "the last good keys hold for a while");
        thread::sleep(Duration::from_millis(50));
    }
    eventually("nobody can tell any more", || {
        let answer = answer();
        assert!([200, 503].contains(&answer.status()), "{}", answer.text());
        if answer.status() == 503 {
            assert!(answer.field("retry-after").parse::<u32>().is_ok_and(|it| it > 0), "{:?}", answer.head);
            assert!(answer.field("www-authenticate").is_empty(), "{:?}", answer.head);
        }
        answer.status() == 503
    });
    for (what, events) in open {
        assert!(events.rest().1.is_ok(), "{what}");
    }
    keys.publish(&[&key]);
    eventually("it is known again who calls", || answer().status() == 200);
    let records = oracle::check(&gateway, &[("up", &upstream)]);
    assert!(records.iter().any(|it| it["reason"] == "keys_unavailable"), "{records:#?}");
}
