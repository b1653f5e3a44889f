//! Listeners with TLS, as their clients see them.

use std::io::{Read as _, Write as _};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use portcullis::base::limits;
use rustls::HandshakeKind;
use rustls::pki_types::CertificateDer;
use serde_json::{Value, json};

use crate::support::gateway::{Gateway, PATIENCE, Setup, eventually, run};
use crate::support::http::Wire;
use crate::support::mcp::{LEGACY, Post, session_request, text_of};
use crate::support::oracle;
use crate::support::tls::{Authority, Client, Issued, Shelf, TLS12, TLS13, dial, in_records};
use crate::support::upstream::{Acted, Plan, Upstream, progress, said};

/// What is held back of an answer for as long as a client may cancel.
const ANSWER_BYTES: usize = 300 * 1024;
/// The largest body that is accepted.
const BODY_BYTES: usize = 1 << 20;

/// A gateway with TLS, and all that clients of it need.
struct House {
    gateway: Gateway,
    upstream: Upstream,
    authority: Authority,
    shelf: Shelf,
    /// Those of its listener, in the order of its configuration.
    certificates: Vec<Issued>,
}

/// Certificates for these names each, one after another, and anonymous callers who may do everything.
fn house(names: &[&[&str]], change: impl FnOnce(Setup, &Shelf) -> Setup) -> House {
    let authority = Authority::new("servers");
    let shelf = Shelf::new();
    let certificates: Vec<Issued> = names.iter().map(|names| authority.issue(names)).collect();
    let pairs = certificates.iter().enumerate().map(|(number, issued)| shelf.pair(&format!("c{number}"), issued));
    let listen = json!([{ "address": "127.0.0.1:0", "tls": { "certificates": pairs.collect::<Vec<Value>>() } }]);
    let upstream = upstream();
    let setup = Setup::new().server("up", &upstream.url()).open().set("/listen", listen);
    let gateway = change(setup, &shelf).start();
    House { gateway, upstream, authority, shelf, certificates }
}

/// One certificate, for `gate.test`.
fn plain_house() -> House {
    house(&[&["gate.test"]], |setup, _| setup)
}

fn upstream() -> Upstream {
    Plan::tools(&["echo", "flow", "long", "wait"])
        .script(|seen, out| {
            if seen.calls("flow") {
                out.stream();
                for step in 1..=3 {
                    out.event(&progress(seen, step));
                }
                out.event(&said(seen, seen.value()));
                out.stream_end();
            } else if seen.calls("long") {
                out.json(200, "", &said(seen, &format!("{}{}", "x".repeat(ANSWER_BYTES), seen.value())));
            } else if seen.calls("wait") {
                out.note("waiting");
                if out.gone(PATIENCE) {
                    out.note("cancelled");
                }
            } else {
                return Acted::Default;
            }
            Acted::Done
        })
        .start()
}

impl House {
    fn connect(&self, client: &Client) -> Wire {
        client.connect(self.gateway.address).unwrap_or_else(|fault| panic!("no handshake: {fault}"))
    }

    /// Calls, and gets the call's own answer.
    #[track_caller]
    fn echoes(&self, wire: &mut Wire) {
        let post = Post::call("echo");
        post.is_echoed(&wire.ask(&post.bytes(&self.gateway)));
    }

    fn checked(&self) {
        oracle::check(&self.gateway, &[("up", &self.upstream)]);
    }
}

fn shown(wire: &mut Wire) -> CertificateDer<'static> {
    wire.tls().peer_certificates().expect("a server shows one")[0].clone().into_owned()
}

/// Everything that works without TLS works with it, in both versions and both eras: calls, event streams, a large body,
/// a large answer, a session.
#[test]
fn calls_in_both_eras() {
    let house = plain_house();
    let gateway = &house.gateway;
    for versions in [TLS12, TLS13] {
        let mut wire = house.connect(&house.authority.client_in(versions).name("gate.test"));
        house.echoes(&mut wire);
        let large = Post::call("echo").param("/arguments/pad", json!("p".repeat(BODY_BYTES - 4096)));
        large.is_echoed(&wire.ask(&large.bytes(gateway)));
        let long = Post::call("long");
        let answer = wire.ask(&long.bytes(gateway));
        assert!(text_of(&answer.json()).len() == ANSWER_BYTES + 32 && answer.text().contains(&long.value));
        let flow = Post::call("flow").param("/_meta/progressToken", json!("p"));
        wire.send(&flow.bytes(gateway));
        let (messages, end) = wire.events().rest();
        assert_eq!((messages.len(), text_of(&messages[3])), (4, flow.value.as_str()));
        let mut wire = end.expect("the stream ends as it should");
        // The same connection, in the other era.
        let opened = wire.ask(&Post::initialize(LEGACY).bytes(gateway));
        let session = opened.field("mcp-session-id").to_owned();
        assert!(!session.is_empty(), "{}", opened.text());
        let told = Post::tell(&session, json!({ "jsonrpc": "2.0", "method": "notifications/initialized" }));
        assert_eq!(wire.ask(&told.bytes(gateway)).status(), 202);
        for pad in [0, BODY_BYTES - 4096] {
            let call = Post::legacy_call(&session, "echo").param("/arguments/pad", json!("p".repeat(pad)));
            call.is_echoed(&wire.ask(&call.bytes(gateway)));
        }
        let flow = Post::legacy_call(&session, "flow").param("/_meta/progressToken", json!("p"));
        wire.send(&flow.bytes(gateway));
        let (messages, end) = wire.events().rest();
        assert!(end.is_ok() && messages.len() == 4, "{messages:?}");
    }
    let mut wire = house.connect(&house.authority.client());
    let head = Post::call("echo").head_bytes(gateway, &format!("content-length: {}\r\n", BODY_BYTES + 1));
    assert_eq!(wire.ask(&head).status(), 413);
    assert!(wire.ends_announced(), "it says that nothing more comes");
    house.checked();
}

/// Streams that stay, and connections that say nothing for a while, go on encrypted.
#[test]
fn what_lasts() {
    let house = plain_house();
    let gateway = &house.gateway;
    let mut quiet = house.connect(&house.authority.client());
    house.echoes(&mut quiet);
    let filter = json!({ "notifications": { "toolsListChanged": true } });
    let mut wire = house.connect(&house.authority.client());
    wire.send(&Post::modern("subscriptions/listen", filter).id("sub").bytes(gateway));
    let mut subscription = wire.events();
    assert_eq!(subscription.message()["method"], "notifications/subscriptions/acknowledged");
    let mut wire = house.connect(&house.authority.client());
    let opened = wire.ask(&Post::initialize(LEGACY).bytes(gateway));
    wire.send(&session_request(gateway, "GET", "/mcp", opened.field("mcp-session-id"), ""));
    let mut own = wire.events();
    // The plane listens too.
    eventually("all streams are open", || house.upstream.open_streams() >= 3);
    for _ in 0..3 {
        thread::sleep(Duration::from_millis(limits::IDLE_AFTER_MS + 50));
        house.upstream.change_tools(&["echo", "flow", "long", "wait"]);
        for stream in [&mut subscription, &mut own] {
            assert_eq!(stream.message()["method"], "notifications/tools/list_changed");
        }
        house.echoes(&mut quiet);
    }
    // A client that leaves a stream ends it at the server.
    let mut left = subscription.into_wire();
    left.farewell();
    drop(own);
    eventually("both are closed", || {
        house.upstream.notes().iter().filter(|note| *note == "stream closed").count() >= 2
    });
    house.checked();
}

/// Requests one after another on one connection, sent before the first answer, and by a client that splits them in odd
/// records.
#[test]
fn requests_in_odd_records() {
    let house = plain_house();
    let mut wire = house.connect(&house.authority.client());
    let posts: Vec<Post> = (0..20).map(|_| Post::call("echo")).collect();
    let bytes: Vec<u8> = posts.iter().flat_map(|post| post.bytes(&house.gateway)).collect();
    for piece in bytes.chunks(997) {
        wire.send(piece);
    }
    for post in &posts {
        post.is_echoed(&wire.response());
    }
    house.checked();
}

/// [T2] The certificate follows the name that is asked for; the first answers for no name and for unknown ones.
#[test]
fn certificates_by_name() {
    let house = house(&[&["first.test"], &["second.test", "also.test"], &["*.wild.test"]], |setup, _| setup);
    for versions in [TLS12, TLS13] {
        let check = |name: &str, want: usize| {
            let mut wire = house.connect(&house.authority.client_in(versions).name(name));
            assert_eq!(shown(&mut wire), house.certificates[want].leaf(), "{name}");
            house.echoes(&mut wire);
        };
        check("first.test", 0);
        check("second.test", 1);
        check("ALSO.test", 1);
        check("a.wild.test", 2);
        check("a.b.wild.test", 0);
        check("wild.test", 0);
        check("unknown.test", 0);
        // No name at all.
        check("127.0.0.1", 0);
    }
    house.checked();
}

/// [O3] A connection is not good for a Host that is not on the list, and says so in a way that a client understands.
#[test]
fn a_host_that_is_not_ours() {
    let house = plain_house();
    let mut wire = house.connect(&house.authority.client().name("gate.test"));
    house.echoes(&mut wire);
    let text = String::from_utf8(Post::call("echo").bytes(&house.gateway)).expect("a request is ASCII");
    let host = format!("host: {}", house.gateway.address);
    let answer = wire.ask(text.replace(&host, "host: other.test").as_bytes());
    assert_eq!(answer.status(), 421, "{}", answer.text());
    assert!(wire.ends_announced());
    assert_eq!(house.upstream.calls().len(), 1);
    house.checked();
}

/// A listener that asks for clients' certificates.
fn asking(wanted: &str, clients: &Authority) -> House {
    house(&[&["a.test"], &["b.test"]], |setup, shelf| {
        let authority = shelf.put("clients.pem", &clients.pem());
        setup
            .set("/listen/0/tls/client_ca", json!(authority))
            .set("/listen/0/tls/client_certificate", json!(wanted))
            .set("/hosts", json!(["a.test", "b.test", "127.0.0.1"]))
    })
}

fn with_host(gateway: &Gateway, host: &str) -> Vec<u8> {
    let text = String::from_utf8(Post::call("echo").bytes(gateway)).expect("a request is ASCII");
    text.replace(&format!("host: {}", gateway.address), &format!("host: {host}")).into_bytes()
}

/// [T2] Whoever has shown a certificate is bound to the name that the handshake was for: another Host is another
/// listener's business, even one that is served here.
#[test]
fn a_verified_client_keeps_to_its_name() {
    let clients = Authority::new("clients");
    let house = asking("request", &clients);
    let mine = clients.issue(&["me"]);
    for versions in [TLS12, TLS13] {
        let client = house.authority.client_in(versions).name("a.test");
        let check = |client: &Client, host: &str, want: u16| {
            let answer = house.connect(client).ask(&with_host(&house.gateway, host));
            assert_eq!(answer.status(), want, "{host}: {}", answer.text());
        };
        let verified = client.clone().showing(&mine);
        check(&verified, "a.test", 200);
        check(&verified, "A.TEST", 200);
        check(&verified, "b.test", 421);
        check(&verified, "127.0.0.1", 421);
        check(&client, "b.test", 200);
        check(&verified.name("b.test"), "b.test", 200);
    }
    house.checked();
}

/// [T2] [T3] The rule about clients' certificates is the listener's, whatever name is asked for; one that does not hold
/// ends the connection, and never counts as none.
#[test]
fn clients_certificates() {
    let (clients, strangers) = (Authority::new("clients"), Authority::new("clients"));
    let (mine, expired) = (clients.issue(&["me"]), clients.issue_expired(&["me"]));
    let forged = strangers.issue(&["me"]);
    for wanted in ["require", "request"] {
        let house = asking(wanted, &clients);
        for (versions, name) in [(TLS12, "a.test"), (TLS13, "b.test"), (TLS12, "unknown.test"), (TLS13, "127.0.0.1")] {
            let client = house.authority.client_in(versions).name(name);
            let host = if name == "unknown.test" { "a.test" } else { name };
            let served = |client: &Client, want: u16| {
                let answer = house.connect(client).ask(&with_host(&house.gateway, host));
                assert_eq!(answer.status(), want, "{wanted}, {name}: {}", answer.text());
            };
            let refused = |client: &Client| {
                let words = client.refused(house.gateway.address);
                assert!(words.contains("fatal alert"), "{wanted}, {name}: {words}");
            };
            // An unknown name is nobody's Host.
            served(&client.clone().showing(&mine), if name == "unknown.test" { 421 } else { 200 });
            refused(&client.clone().showing(&forged));
            refused(&client.clone().showing(&expired));
            match wanted {
                "require" => refused(&client),
                _ => served(&client, 200),
            }
        }
        house.checked();
    }
}

/// [T3] HTTP/1.1 is spoken, whatever else is offered; who offers only something else is told so. The preface of HTTP/2 is
/// no request.
#[test]
fn one_protocol() {
    let house = plain_house();
    for versions in [TLS12, TLS13] {
        let client = house.authority.client_in(versions);
        let mut wire = house.connect(&client.clone().protocols(&["h2", "http/1.1"]));
        assert_eq!(wire.tls().alpn_protocol(), Some(&b"http/1.1"[..]));
        house.echoes(&mut wire);
        let words = client.clone().protocols(&["h2"]).refused(house.gateway.address);
        assert!(words.contains("NoApplicationProtocol"), "{words}");
        let mut wire = house.connect(&client);
        wire.send(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0");
        let answer = wire.response();
        assert!(matches!(answer.status(), 400 | 505), "{}", answer.text());
        assert!(wire.ends_announced() && wire.rest().is_empty(), "one answer, and the end");
    }
    house.checked();
}

/// [T3] A ticket resumes a connection; none allows early data.
#[test]
fn no_early_data() {
    let house = plain_house();
    let client = house.authority.client_in(TLS13).name("gate.test").eager();
    // One session of rustls remembers tickets for the next.
    let mut wire = house.connect(&client);
    house.echoes(&mut wire);
    let mut session = client.session();
    assert!(session.early_data().is_none(), "the ticket offers early data");
    let mut socket = dial(house.gateway.address);
    while session.is_handshaking() {
        session.complete_io(&mut socket).expect("a ticket is no hindrance");
    }
    assert_eq!(session.handshake_kind(), Some(HandshakeKind::Resumed), "there was no ticket to resume with");
    assert!(!session.is_early_data_accepted());
    let mut wire = Wire::encrypted(rustls::StreamOwned::new(session, socket));
    house.echoes(&mut wire);
    house.checked();
}

/// [T3] A handshake has its time, wherever it stands, and a client that says nothing has no more.
#[test]
fn a_handshake_has_its_time() {
    let house = house(&[&["gate.test"]], |setup, _| setup.set("/limits/handshake", json!("400ms")));
    let mut hello = Vec::new();
    house.authority.client().session().write_tls(&mut hello).expect("a vector takes it");
    for part in [0, 1, hello.len() / 2, hello.len()] {
        let mut socket = dial(house.gateway.address);
        let begun = Instant::now();
        socket.write_all(&hello[..part]).expect("it listens");
        let mut answer = Vec::new();
        let end = socket.read_to_end(&mut answer);
        assert!(begun.elapsed() >= Duration::from_millis(390), "{part}: ended before its time: {end:?}");
        assert_eq!(answer.is_empty(), part < hello.len(), "{part}");
    }
    house.checked();
}

/// [T3] What a handshake's time is without a word of the operator's.
#[test]
fn the_time_that_is_promised() {
    assert_eq!(limits::HANDSHAKE_MS_MAX, 5_000);
}

/// A first message by hand, in the form of TLS 1.0 to 1.2: it offers no version but the one it is of.
fn old_hello(minor: u8) -> Vec<u8> {
    let mut body = vec![3, minor];
    body.extend_from_slice(&[7; 32]);
    // No session; ECDHE with ECDSA and RSA, AES-128 in GCM and CBC; no compression.
    body.extend_from_slice(&[0, 0, 8, 0xc0, 0x2b, 0xc0, 0x2f, 0xc0, 0x09, 0xc0, 0x13, 1, 0]);
    let extensions: &[u8] = &[
        0, 10, 0, 4, 0, 2, 0, 23, // Groups: secp256r1.
        0, 11, 0, 2, 1, 0, // Points: uncompressed.
        0, 13, 0, 6, 0, 4, 4, 3, 4, 1, // Signatures: ECDSA and RSA with SHA-256.
        0, 23, 0, 0, // Extended master secret.
    ];
    body.extend_from_slice(&u16::try_from(extensions.len()).expect("they are short").to_be_bytes());
    body.extend_from_slice(extensions);
    let mut hello = vec![22, 3, 1];
    hello.extend_from_slice(&u16::try_from(body.len() + 4).expect("it is short").to_be_bytes());
    hello.extend_from_slice(&[1, 0, 0, u8::try_from(body.len()).expect("it is short")]);
    hello.extend_from_slice(&body);
    hello
}

/// [T3] TLS 1.1 and older are refused (RFC 8996), and so is what is no TLS; the same hello in 1.2 is answered.
#[test]
fn old_versions_are_refused() {
    let house = plain_house();
    let answer = |bytes: &[u8]| {
        let mut socket = dial(house.gateway.address);
        socket.write_all(bytes).expect("it listens");
        let mut answer = [0; 7];
        let got = socket.read(&mut answer).expect("an answer, or an end");
        (got, answer)
    };
    const PROTOCOL_VERSION: u8 = 70;
    for minor in 0..3 {
        let (got, alert) = answer(&old_hello(minor));
        assert!(got == 7 && alert[0] == 21 && alert[6] == PROTOCOL_VERSION, "3.{minor}: {alert:?}");
    }
    let (_, hello) = answer(&old_hello(3));
    assert_eq!((hello[0], hello[5]), (22, 2), "a server's hello");
    let (got, alert) = answer(b"POST /mcp HTTP/1.1\r\nhost: localhost\r\ncontent-length: 0\r\n\r\n");
    assert!(got == 0 || alert[0] == 21, "{alert:?}");
    assert!(house.upstream.calls().is_empty());
    house.checked();
}

/// [T1] However the first message is cut, in packets or in records, the certificate is the same, and so is the rule about
/// clients' certificates.
#[test]
fn a_hello_in_pieces_is_the_same_hello() {
    let clients = Authority::new("clients");
    let house = asking("require", &clients);
    let mine = clients.issue(&["me"]);
    for versions in [TLS12, TLS13] {
        let bare = house.authority.client_in(versions).name("b.test");
        let client = bare.clone().showing(&mine);
        let mut hello = Vec::new();
        client.session().write_tls(&mut hello).expect("a vector takes it");
        let check = |what: &str, cut: &dyn Fn(&[u8]) -> Vec<Vec<u8>>| {
            let served = client.connect_in_pieces(house.gateway.address, cut);
            let mut wire = served.unwrap_or_else(|fault| panic!("{what}: {fault}"));
            assert_eq!(shown(&mut wire), house.certificates[1].leaf(), "{what}");
            let answer = wire.ask(&with_host(&house.gateway, "b.test"));
            assert_eq!(answer.status(), 200, "{what}: {}", answer.text());
            assert_eq!(wire.ask(&with_host(&house.gateway, "a.test")).status(), 421, "{what}");
            // In TLS 1.3 who has none learns it when it reads.
            let unknown = bare.connect_in_pieces(house.gateway.address, cut);
            let served = unknown.is_ok_and(|mut wire| {
                wire.send(&with_host(&house.gateway, "b.test"));
                wire.try_response().is_ok()
            });
            assert!(!served, "{what}: served without a certificate");
        };
        let last = hello.len() - 6;
        // Each boundary in one version, the ends and some between in the other.
        let step = if versions == TLS12 { 1 } else { 17 };
        for at in (1..=last).step_by(step) {
            check(&format!("packets at {at}"), &|hello| vec![hello[..at].to_vec(), hello[at..].to_vec()]);
            check(&format!("records at {at}"), &|hello| {
                let records = in_records(hello, [at]);
                vec![records[..at + 5].to_vec(), records[at + 5..].to_vec()]
            });
        }
        check("records of one byte", &|hello| vec![in_records(hello, (0..hello.len()).map(|_| 1))]);
        check("packets of seven bytes", &|hello| hello.chunks(7).map(<[u8]>::to_vec).collect());
        check("records of three in packets of two", &|hello| {
            in_records(hello, (0..hello.len()).map(|_| 3)).chunks(2).map(<[u8]>::to_vec).collect()
        });
    }
    house.checked();
}

/// [T4] Certificates change, in whatever order their files are written, under a storm of handshakes on all shards: none
/// fails, connections go on, and once the new one has been seen nobody sees the old one.
#[test]
fn certificates_change_under_load() {
    const SWAPS: usize = 5;
    let house = house(&[&["gate.test"]], |setup, _| setup.shards(2));
    let (stop, seen) = (AtomicBool::new(false), AtomicUsize::new(0));
    let client = house.authority.client().name("gate.test");
    let mut long_lived = house.connect(&client);
    let issued: Vec<Issued> = (0..SWAPS).map(|_| house.authority.issue(&["gate.test"])).collect();
    let leaves: Vec<CertificateDer<'static>> = house.certificates.iter().chain(&issued).map(Issued::leaf).collect();
    let (mut times, mut handshakes) = (Vec::new(), 0);
    thread::scope(|scope| {
        let storm = || {
            let mut count = 0;
            while !stop.load(Ordering::Acquire) {
                let before = seen.load(Ordering::Acquire);
                let mut wire = client.connect(house.gateway.address).expect("no handshake fails");
                let leaf = shown(&mut wire);
                let which = leaves.iter().position(|it| *it == leaf).expect("one of ours");
                // Two shards, two answers: never one that another handshake had seen replaced when this one began.
                assert!(which >= before, "certificate {which} after {before}");
                seen.fetch_max(which, Ordering::AcqRel);
                house.echoes(&mut wire);
                count += 1;
            }
            count
        };
        let storms = [scope.spawn(storm), scope.spawn(storm)];
        for (number, pair) in issued.iter().enumerate() {
            if number % 2 == 0 {
                house.shelf.replace("c0.key", &pair.key);
                house.shelf.replace("c0.pem", &pair.cert);
            } else {
                house.shelf.put("c0.pem", &pair.cert);
                house.shelf.put("c0.key", &pair.key);
            }
            let written = Instant::now();
            eventually("the new certificate is shown", || {
                house.echoes(&mut long_lived);
                seen.load(Ordering::Acquire) > number
            });
            times.push(written.elapsed());
        }
        stop.store(true, Ordering::Release);
        handshakes = storms.into_iter().map(|storm| storm.join().expect("the storm went well")).sum();
    });
    assert!(handshakes > SWAPS, "{handshakes}");
    // A machine that stands still for a moment is not the gateway's fault: the best of them tells.
    times.sort();
    assert!(times[0] <= Duration::from_secs(1), "{times:?}");
    assert_eq!(shown(&mut long_lived), leaves[0], "an old connection stays what it was");
    house.checked();
}

/// [T4] Half a change is none: while certificate and key do not fit each other, both stay as they were, and that is said
/// once.
#[test]
fn half_a_change_is_none() {
    let house = plain_house();
    let client = house.authority.client().name("gate.test");
    let (old, new) = (house.certificates[0].leaf(), house.authority.issue(&["gate.test"]));
    let says = |words: &str| eventually(words, || house.gateway.said(words) > 0);
    house.shelf.put("c0.pem", &new.cert);
    says("stay as they were");
    for _ in 0..3 {
        let mut wire = house.connect(&client);
        assert_eq!(shown(&mut wire), old);
        house.echoes(&mut wire);
    }
    house.shelf.put("c0.key", &new.key[..new.key.len() / 2]);
    // Longer than two looks.
    thread::sleep(Duration::from_millis(1_000));
    assert_eq!(shown(&mut house.connect(&client)), old);
    assert_eq!(house.gateway.said("stay as they were"), 1, "a fault is said once");
    house.shelf.put("c0.key", &new.key);
    says("are read again");
    eventually("the new certificate is shown", || shown(&mut house.connect(&client)) == new.leaf());
    house.checked();
}

/// [S5] A modern client that takes its leave while its call is under way cancels it, with a farewell that leaves the
/// connection below open, as with a cut.
#[test]
fn leaving_cancels() {
    let house = plain_house();
    type Leave = fn(Wire) -> Option<Wire>;
    let ways: [(&str, Leave); 3] = [
        ("a farewell", |mut wire| {
            wire.farewell();
            Some(wire)
        }),
        ("an end without farewell", |wire| {
            drop(wire);
            None
        }),
        ("a reset", |wire| {
            wire.reset();
            None
        }),
    ];
    for (number, (what, leave)) in ways.into_iter().enumerate() {
        let mut wire = house.connect(&house.authority.client());
        let post = Post::call("wait");
        wire.send(&post.bytes(&house.gateway));
        house.upstream.wait("the call", |seen| seen.value() == post.value);
        let kept = leave(wire);
        let count = || house.upstream.notes().iter().filter(|note| *note == "cancelled").count();
        eventually(&format!("{what} cancels"), || count() > number);
        let records = house
            .gateway
            .records_until("the outcome", |records| oracle::of_kind(records, "outcome").count() == number + 1);
        assert_eq!(oracle::outcome(&records, &post.value)["status"], "cancelled", "{what}");
        drop(kept);
    }
    house.checked();
}

/// A request whose end was not there when the connection was cut is none, however it was framed; with or without a
/// farewell.
#[test]
fn half_a_request_is_none() {
    let house = plain_house();
    let post = Post::call("echo");
    let body = post.body_bytes();
    let by_length = post.bytes(&house.gateway);
    let mut by_chunk = post.head_bytes(&house.gateway, "transfer-encoding: chunked\r\n");
    by_chunk.extend_from_slice(format!("{:x}\r\n", body.len()).as_bytes());
    by_chunk.extend_from_slice(&body);
    by_chunk.extend_from_slice(b"\r\n");
    for bytes in [&by_length[..by_length.len() - 1], &by_chunk, &by_length[..by_length.len() - body.len() - 2]] {
        for farewell in [false, true] {
            let mut wire = house.connect(&house.authority.client());
            wire.send(bytes);
            if farewell {
                wire.farewell();
            }
            wire.close_half();
            let answer = wire.try_response();
            assert!(answer.is_err() || answer.is_ok_and(|answer| answer.status() == 400));
        }
    }
    house.echoes(&mut house.connect(&house.authority.client()));
    assert_eq!(house.upstream.calls().len(), 1, "the whole one alone");
    house.checked();
}

/// A head that arrives with the client's farewell behind it is still answered: the client reads on.
#[test]
fn an_answer_after_the_clients_farewell() {
    let house = plain_house();
    let opened = house.connect(&house.authority.client()).ask(&Post::initialize(LEGACY).bytes(&house.gateway));
    let call = Post::legacy_call(opened.field("mcp-session-id"), "echo");
    let mut wire = house.connect(&house.authority.client());
    wire.send(&call.bytes(&house.gateway));
    wire.farewell();
    call.is_echoed(&wire.response());
    house.checked();
}

/// A gateway of shards with several listeners, one with TLS and one without, serves each in its own way.
#[test]
fn plain_beside_encrypted() {
    let authority = Authority::new("servers");
    let shelf = Shelf::new();
    let pair = shelf.pair("c", &authority.issue(&["gate.test"]));
    let upstream = upstream();
    // A port for the second one; the banner tells the first one's alone.
    let second = std::net::TcpListener::bind("127.0.0.1:0").and_then(|it| it.local_addr()).expect("a free port");
    let listen = json!(["127.0.0.1:0", { "address": second.to_string(), "tls": pair }]);
    let gateway = Setup::new().server("up", &upstream.url()).open().set("/listen", listen).shards(2).start();
    Post::call("echo").echoed(&gateway);
    let post = Post::call("echo");
    let bytes = String::from_utf8(post.bytes(&gateway)).expect("a request is ASCII");
    let bytes = bytes.replace(&gateway.address.to_string(), &second.to_string());
    let mut wire = authority.client().connect(second).expect("a handshake");
    post.is_echoed(&wire.ask(bytes.as_bytes()));
    let words = authority.client().refused(gateway.address);
    assert!(words.contains("corrupt message"), "{words}");
    oracle::check(&gateway, &[("up", &upstream)]);
}

/// Tools that others wrote come in as well: curl in both versions, and OpenSSL, which offers what it has.
#[test]
fn curl_and_openssl() {
    let house = plain_house();
    let root = house.shelf.put("root.pem", &house.authority.pem());
    let port = house.gateway.address.port();
    let post = Post::call("echo");
    let body = house.shelf.put("body.json", std::str::from_utf8(&post.body_bytes()).expect("JSON is UTF-8"));
    for version in ["--tlsv1.3", "--tls-max=1.2"] {
        let mut curl = Command::new("curl");
        curl.args(["-sS", "--max-time", "20", &version.replace("--tls-max=1.2", "--tlsv1.2")]);
        if version == "--tls-max=1.2" {
            curl.args(["--tls-max", "1.2"]);
        }
        curl.arg("--cacert").arg(&root).args(["--resolve", &format!("gate.test:{port}:127.0.0.1")]);
        curl.args(["-H", &format!("host: 127.0.0.1:{port}"), "-H", "content-type: application/json"]);
        curl.args(["-H", "mcp-protocol-version: 2026-07-28", "-H", "mcp-method: tools/call", "-H", "mcp-name: echo"]);
        curl.arg("--data-binary").arg(format!("@{}", body.display())).arg(format!("https://gate.test:{port}/mcp"));
        let Ok(run) = curl.output() else { return eprintln!("not tested: there is no curl") };
        let said = String::from_utf8_lossy(&run.stdout).into_owned();
        assert!(said.contains(&post.value), "{version}: {said} {}", String::from_utf8_lossy(&run.stderr));
    }
    for (flag, want) in [("-tls1_3", true), ("-tls1_2", true), ("-tls1_1", false)] {
        let mut openssl = Command::new("openssl");
        openssl.args(["s_client", "-connect", &house.gateway.address.to_string(), "-servername", "gate.test", flag]);
        openssl.args(["-verify_return_error", "-verify_hostname", "gate.test", "-cipher", "ALL:@SECLEVEL=0"]);
        openssl.args(["-alpn", "h2,http/1.1"]).arg("-CAfile").arg(&root).stdin(Stdio::null());
        let Ok(run) = openssl.output() else { return eprintln!("not tested: there is no openssl") };
        let said = String::from_utf8_lossy(&run.stdout).into_owned();
        assert_eq!(said.contains("ALPN protocol: http/1.1"), want, "{flag}: {said}");
        assert_eq!(said.contains("Verify return code: 0 (ok)") && run.status.success(), want, "{flag}: {said}");
    }
}

/// A drain ends encrypted connections as it ends others: what is under way is answered, idle ones get a farewell.
#[test]
fn a_drain_says_farewell() {
    let mut house = plain_house();
    let mut idle = house.connect(&house.authority.client());
    house.echoes(&mut idle);
    house.gateway.signal(rustix::process::Signal::TERM);
    assert!(idle.ends_announced(), "an idle connection ends with a farewell");
    assert!(house.gateway.ended(PATIENCE).success());
}

/// What the README shows is a configuration without a fault.
#[test]
fn the_example_of_the_readme() {
    let readme = include_str!("../../README.md");
    let part = readme.split("\n### TLS\n").nth(1).expect("the README has a part about TLS");
    let example = part.split("```yaml\n").nth(1).and_then(|rest| rest.split("```").next()).expect("with an example");
    let shelf = Shelf::new();
    shelf.folder("tls");
    shelf.pair("tls/pair", &Authority::new("servers").issue(&["tools.example.com"]));
    for (there, name) in [("tls/pair.pem", "tls/cert.pem"), ("tls/pair.key", "tls/key.pem")] {
        std::fs::rename(shelf.path(there), shelf.path(name)).expect("the temporary folder can be written");
    }
    shelf.put(
        "jwks.json",
        r#"{"keys":[{"kty":"OKP","crv":"Ed25519","x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}]}"#,
    );
    let rest = "auth: { issuers: [{ issuer: https://issuer.example, jwks: { file: ./jwks.json } }] }\n\
                servers: { everything: { url: 'http://127.0.0.1:3001/mcp' } }\n\
                policy: { rules: [{ id: open, permit: ['*/*'] }] }\n";
    shelf.put("portcullis.yaml", &format!("{example}{rest}"));
    let run = run(&shelf.path(""), &["check", "--strict", "--config", "portcullis.yaml"]);
    assert!(run.status.is_some_and(|status| status.success()), "{}{}", run.stdout, run.stderr);
}
