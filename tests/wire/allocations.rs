//! A call that policy lets go without limits allocates nothing once its connection is warm: the library's own gateway,
//! in this process, whose shard's thread is asked how often it went to the allocator.

use std::fs;
use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::thread;
use std::time::{Instant, SystemTime};

use portcullis::base::glob::Glob;
use portcullis::config::{self, Loaded, Source};
use portcullis::identity::mint::{Grant, MintKey};
use portcullis::plane::start::{Gateway, Options};
use ring::rand::SystemRandom;
use serde_json::{Value, json};

use crate::support::counting;
use crate::support::gateway::{ISSUER, PATIENCE};
use crate::support::http::Wire;
use crate::support::mcp::{CAPABILITIES_KEY, LEGACY, MODERN, VERSION_KEY};
use crate::support::upstream::Plan;

/// So many calls in a row without a single allocation. A few, because a machine that is busy with other things makes some
/// calls wait so long that the gateway looks whether their client is still there, which does allocate.
const CALLS: usize = 25;
const SHARD: &str = "shard-0";

struct Files;

impl Source for Files {
    fn var(&self, _: &str) -> Option<String> {
        None
    }

    fn file(&self, path: &Path) -> io::Result<String> {
        fs::read_to_string(path)
    }

    fn list(&self, _: &Path, _: &Glob) -> io::Result<Vec<String>> {
        Ok(Vec::new())
    }
}

/// Where it listens, and a token that it takes.
struct Place {
    address: SocketAddr,
    token: String,
}

impl Place {
    fn post(&self, fields: &str, message: &Value) -> Vec<u8> {
        let (Self { address, token }, body) = (self, message.to_string());
        format!(
            "POST /mcp HTTP/1.1\r\nhost: {address}\r\nauthorization: Bearer {token}\r\ncontent-type: application/json\r\n\
             accept: application/json, text/event-stream\r\n{fields}content-length: {}\r\n\r\n{body}",
            body.len()
        )
        .into_bytes()
    }

    fn modern(&self) -> Vec<u8> {
        let meta = json!({ VERSION_KEY: MODERN, CAPABILITIES_KEY: {} });
        let params = json!({ "name": "echo", "arguments": { "value": "v" }, "_meta": meta });
        let fields = format!("mcp-protocol-version: {MODERN}\r\nmcp-method: tools/call\r\nmcp-name: echo\r\n");
        self.post(&fields, &json!({ "jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": params }))
    }

    fn list(&self) -> Vec<u8> {
        let params = json!({ "_meta": { VERSION_KEY: MODERN, CAPABILITIES_KEY: {} } });
        let fields = format!("mcp-protocol-version: {MODERN}\r\nmcp-method: tools/list\r\n");
        self.post(&fields, &json!({ "jsonrpc": "2.0", "id": 1, "method": "tools/list", "params": params }))
    }

    /// A call in a session that this opens.
    fn legacy(&self) -> Vec<u8> {
        let mut wire = Wire::to(self.address);
        let client = json!({ "name": "test", "version": "1" });
        let params = json!({ "protocolVersion": LEGACY, "capabilities": {}, "clientInfo": client });
        let opens = json!({ "jsonrpc": "2.0", "id": 0, "method": "initialize", "params": params });
        let opened = wire.ask(&self.post("", &opens));
        assert_eq!(opened.status(), 200, "{}", opened.text());
        let session = opened.field("mcp-session-id");
        let fields = format!("mcp-session-id: {session}\r\nmcp-protocol-version: {LEGACY}\r\n");
        let ready = json!({ "jsonrpc": "2.0", "method": "notifications/initialized" });
        assert_eq!(wire.ask(&self.post(&fields, &ready)).status(), 202);
        let params = json!({ "name": "echo", "arguments": { "value": "v" } });
        self.post(&fields, &json!({ "jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": params }))
    }
}

/// How often the shard goes to the allocator during [`CALLS`] calls; each is answered with a result that has `member`.
fn asked(wire: &mut Wire, call: &[u8], member: &str) -> u64 {
    let before = counting::asked(SHARD).unwrap_or(0);
    for _ in 0..CALLS {
        let answer = wire.ask(call);
        assert_eq!(answer.status(), 200, "{}", answer.text());
        assert_eq!(answer.field("content-type"), "application/json");
        assert!(answer.json()["result"][member].is_array(), "{}", answer.text());
    }
    counting::asked(SHARD).expect("it has served calls") - before
}

/// The least of several such runs of calls, none if there is such a one.
fn least(place: &Place, call: &[u8]) -> u64 {
    let mut wire = Wire::to(place.address);
    let (mut least, until) = (u64::MAX, Instant::now() + PATIENCE);
    while least > 0 && Instant::now() < until {
        least = least.min(asked(&mut wire, call, "content"));
    }
    least
}

#[test]
fn a_call_without_limits_allocates_nothing() {
    counting::begin();
    let (folder, random) = (tempfile::tempdir().unwrap(), SystemRandom::new());
    let key = MintKey::generate(&random).unwrap();
    let keys = folder.path().join("jwks.json");
    fs::write(&keys, key.key_set()).unwrap();
    let server = Plan::tools(&["echo", "add"]).start();
    let rules: Vec<Value> = (0..20)
        .map(|number| match number {
            0 => json!({ "id": "all", "permit": ["up/*"] }),
            1 => json!({ "id": "small", "permit": ["up/add"], "when": "args.value < 10" }),
            _ => json!({ "id": format!("other-{number}"), "permit": [format!("up/x{number}-*")] }),
        })
        .collect();
    let text = json!({
        "listen": "127.0.0.1:0",
        "shards": 1,
        "state": folder.path().join("state"),
        "auth": { "issuers": [{ "issuer": ISSUER, "jwks": { "file": keys }, "algorithms": ["ES256"] }] },
        "servers": { "up": { "url": server.url() } },
        "policy": { "rules": rules },
        "audit": { "dir": folder.path().join("audit") },
    });
    let Loaded { settings, .. } = config::load(&text.to_string(), folder.path(), &Files).unwrap();
    let gateway = Gateway::start(settings, Options::default()).unwrap();
    let address = gateway.settings.listen[0].address;
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs();
    let audience = format!("http://{address}/mcp");
    let grant = Grant {
        issuer: ISSUER,
        audience: &[&audience],
        subject: "alice",
        agent: Some("agent"),
        tasks: &[],
        issued_at: now - 60,
        expires: now + 3600,
    };
    let place = Place { address, token: key.mint(&grant, &random).unwrap() };
    assert_eq!(least(&place, &place.modern()), 0, "of {CALLS} modern calls");
    assert_eq!(least(&place, &place.legacy()), 0, "of {CALLS} calls of a session");
    let lists = asked(&mut Wire::to(address), &place.list(), "tools");
    assert!(lists >= CALLS as u64, "a list is put together anew each time, and {CALLS} of them asked {lists} times");
    let handle = gateway.handle();
    let ended = thread::spawn(move || gateway.wait());
    handle.stop();
    ended.join().unwrap().unwrap();
}
