//! An issuer's web server for tests: documents at paths, each answered as the test says, behind TLS.

use std::collections::HashMap;
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, SystemTime};

use portcullis::identity::mint::{Grant, MintKey};
use ring::rand::SystemRandom;
use serde_json::{Value, json};

use super::gateway::PATIENCE;
use super::tls::{Authority, Manner, Shelf, Terminator};

/// How a path is answered.
#[derive(Clone, Debug)]
pub(crate) enum Say {
    /// With this status and body.
    Text(u16, String),
    /// With these fields too, each with its end.
    With(u16, String, String),
    /// With these bytes, and then the end of the connection.
    Raw(Vec<u8>),
    /// With these bytes, and then nothing more.
    Hang(Vec<u8>),
}

/// A running one; ended when dropped.
pub(crate) struct Documents {
    front: Terminator,
    shelf: Shelf,
    inside: Arc<Inside>,
    address: SocketAddr,
}

struct Inside {
    say: Mutex<HashMap<String, Say>>,
    asked: Mutex<Vec<String>>,
    over: Mutex<bool>,
}

impl Documents {
    /// With nothing to say yet: each path is answered with 404.
    pub(crate) fn start() -> Self {
        let (shelf, authority) = (Shelf::new(), Authority::new("documents"));
        shelf.put("ca.pem", &authority.pem());
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = listener.local_addr().expect("it is bound");
        let inside = Arc::new(Inside { say: Mutex::default(), asked: Mutex::default(), over: Mutex::new(false) });
        let here = inside.clone();
        thread::spawn(move || {
            for socket in listener.incoming().map_while(Result::ok) {
                if *held(&here.over) {
                    break;
                }
                let inside = here.clone();
                thread::spawn(move || inside.answer(socket));
            }
        });
        let pair = authority.issue(&["127.0.0.1", "localhost"]);
        let front = Terminator::start(address, Manner::Polite(pair.server(None)));
        Self { front, shelf, inside, address }
    }

    /// The URL of a path.
    pub(crate) fn url(&self, path: &str) -> String {
        format!("https://{}{path}", self.front.address)
    }

    /// The certificate that its own is of.
    pub(crate) fn ca(&self) -> PathBuf {
        self.shelf.path("ca.pem")
    }

    /// From now on a path is answered like this.
    pub(crate) fn say(&self, path: &str, say: Say) {
        held(&self.inside.say).insert(path.to_owned(), say);
    }

    /// The same: 200, with JSON.
    pub(crate) fn json(&self, path: &str, body: &str) {
        self.say(path, Say::Text(200, body.to_owned()));
    }

    /// The paths that were asked for, in their order.
    pub(crate) fn asked(&self) -> Vec<String> {
        held(&self.inside.asked).clone()
    }

    /// How often a path was asked for.
    pub(crate) fn hits(&self, path: &str) -> usize {
        held(&self.inside.asked).iter().filter(|asked| *asked == path).count()
    }

    /// One of `auth.issuers`, at this path, whose documents may be fetched here; `jwks` as given.
    pub(crate) fn issuer(&self, path: &str, jwks: Value) -> Value {
        let mut issuer = json!({
            "issuer": self.url(path), "private": ["127.0.0.0/8"], "ca": self.ca(), "algorithms": ["ES256"],
        });
        if !jwks.is_null() {
            issuer["jwks"] = jwks;
        }
        issuer
    }
}

impl Drop for Documents {
    fn drop(&mut self) {
        *held(&self.inside.over) = true;
        // The listening thread wakes up, and sees that it is over.
        let _ = TcpStream::connect_timeout(&self.address, Duration::from_millis(100));
    }
}

impl Inside {
    fn answer(&self, mut socket: TcpStream) {
        let _ = socket.set_read_timeout(Some(PATIENCE));
        let (mut head, mut piece) = (Vec::new(), [0; 4096]);
        while !head.windows(4).any(|end| end == b"\r\n\r\n") {
            match socket.read(&mut piece) {
                Ok(n) if n > 0 => head.extend_from_slice(&piece[..n]),
                _ => return,
            }
        }
        let head = String::from_utf8_lossy(&head).into_owned();
        let path = head.split(' ').nth(1).unwrap_or_default().to_owned();
        held(&self.asked).push(path.clone());
        let say = held(&self.say).get(&path).cloned().unwrap_or(Say::Text(404, "<!doctype html>".to_owned()));
        let bytes = match say {
            Say::Text(status, body) => whole(status, "content-type: application/json\r\n", &body),
            Say::With(status, fields, body) => whole(status, &fields, &body),
            Say::Raw(bytes) => bytes,
            Say::Hang(bytes) => {
                let _ = socket.write_all(&bytes);
                // Until the other side gives up.
                let _ = socket.read(&mut piece);
                return;
            }
        };
        let _ = socket.write_all(&bytes);
    }
}

fn whole(status: u16, fields: &str, body: &str) -> Vec<u8> {
    let length = body.len();
    format!("HTTP/1.1 {status} X\r\n{fields}content-length: {length}\r\nconnection: close\r\n\r\n{body}").into_bytes()
}

fn held<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What an issuer signs with.
pub(crate) struct Signer(MintKey);

impl Signer {
    pub(crate) fn new() -> Self {
        Self(MintKey::generate(&SystemRandom::new()).expect("a key can be made"))
    }

    /// Its public half, a JWK.
    pub(crate) fn key(&self) -> Value {
        let set: Value = serde_json::from_str(&self.0.key_set()).expect("a key set is JSON");
        set["keys"][0].clone()
    }

    /// A good token of this issuer for these resources, issued so many seconds ago.
    pub(crate) fn token(&self, issuer: &str, audience: &str, ago_s: u64) -> String {
        let now = now_unix_s();
        let grant = Grant {
            issuer,
            audience: &[audience],
            subject: "ada",
            agent: Some("agent-1"),
            tasks: &[],
            issued_at: now - ago_s,
            expires: now + 600,
        };
        self.0.mint(&grant, &SystemRandom::new()).expect("there are random bytes")
    }
}

/// A key set of these.
pub(crate) fn key_set(signers: &[&Signer]) -> String {
    json!({ "keys": signers.iter().map(|signer| signer.key()).collect::<Vec<_>>() }).to_string()
}

/// Seconds since 1970.
pub(crate) fn now_unix_s() -> u64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).expect("it is after 1970").as_secs()
}
