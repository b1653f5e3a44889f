//! What a keeper writes to an https server, and when it writes nothing.

use std::io::{ErrorKind, Read as _};
use std::net::TcpListener;
use std::path::Path;
use std::sync::mpsc;

use super::*;
use crate::config::snapshot::Prepared;
use crate::config::{Settings, Source, load};
use crate::plane::certs::Certs;
use crate::plane::start::first_snapshot;
use crate::policy::needs::CountSecret;

struct Nothing;

impl Source for Nothing {
    fn var(&self, _: &str) -> Option<String> {
        None
    }

    fn file(&self, _: &Path) -> std::io::Result<String> {
        Err(ErrorKind::NotFound.into())
    }
}

/// A server's place, and a gateway that knows it, with or without what it takes to speak TLS to it.
fn gateway(with_tls: bool) -> (TcpListener, Arc<Settings>, Arc<Control>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("https://{}/mcp", listener.local_addr().unwrap());
    let text = format!("auth: {{ anonymous: allow }}\nservers: {{ a: {{ url: '{url}' }} }}\n");
    let settings = Arc::new(load(&text, Path::new("."), &Nothing).unwrap().settings);
    let tls = if with_tls { Certs::load(&settings).unwrap().1 } else { Arc::default() };
    let prepared = Arc::new(Prepared::new(&settings));
    let snapshot = first_snapshot(&settings, &prepared, tls, CountSecret::fixed()).unwrap();
    (listener, settings, Arc::new(Control::new(snapshot, 1).unwrap()))
}

/// Surveys with a caller's token.
fn survey(settings: &Settings, state: &Arc<ServerState>, control: &Arc<Control>) -> bool {
    let shown = Shown::new(&[("authorization", b"Bearer planted")], 7).unwrap();
    let (news, _heard) = mpsc::channel();
    survey_as(&settings.servers[0], state, control, &news, shown).is_ok()
}

fn nobody_came(listener: &TcpListener) -> bool {
    listener.set_nonblocking(true).unwrap();
    listener.accept().is_err_and(|error| error.kind() == ErrorKind::WouldBlock)
}

#[test]
fn an_https_server_is_greeted_in_tls() {
    let (listener, settings, control) = gateway(true);
    let state = control.snapshot.load().states[0].clone();
    let greeted = std::thread::spawn(move || {
        let mut first = [0; 3];
        listener.accept().unwrap().0.read_exact(&mut first).unwrap();
        first
    });
    assert!(!survey(&settings, &state, &control));
    // A handshake record (RFC 8446, 5.1).
    assert_eq!(greeted.join().unwrap(), [22, 3, 1]);
}

#[test]
fn without_tls_nothing_is_written() {
    let (listener, settings, control) = gateway(false);
    let state = control.snapshot.load().states[0].clone();
    assert!(!survey(&settings, &state, &control));
    assert!(nobody_came(&listener));
}

/// Between a reload and its end it is another server's: neither its certificates are used, nor is it asked without.
#[test]
fn a_server_that_is_another_by_now_is_written_nothing() {
    let (listener, settings, control) = gateway(true);
    let known = control.snapshot.load().states[0].clone();
    let other = Arc::new(ServerState::new(known.digest, known.instances.clone()).unwrap());
    assert!(!survey(&settings, &other, &control));
    assert!(nobody_came(&listener));
    known.end();
    assert!(!survey(&settings, &known, &control));
    assert!(nobody_came(&listener));
}
