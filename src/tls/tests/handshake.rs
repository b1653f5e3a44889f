//! Who may shake hands with whom.

use std::io::{Read, Write};
use std::net::TcpListener;
use std::sync::Arc;
use std::thread;

use rustls::client::{Resumption, UnbufferedClientConnection};
use rustls::server::UnbufferedServerConnection;
use rustls::{CertificateError, HandshakeKind, ServerConnection};

use super::*;
use crate::tls::der;
use crate::tls::fault::TlsFault;
use crate::tls::session::{Session, Side, Step};

/// A client and our server in one room, without a network between them.
pub(super) struct Table {
    client: ClientConnection,
    pub(super) server: Session,
}

impl Table {
    pub(super) fn new(client: ClientConfig, name: &str, server: &Arc<ServerConfig>, buffers: &Pool) -> Self {
        let name = ServerName::try_from(name.to_owned()).unwrap();
        let client = ClientConnection::new(Arc::new(client), name).unwrap();
        let server = UnbufferedServerConnection::new(server.clone()).unwrap();
        Self { client, server: Session::new(Side::Server(server), buffers) }
    }

    fn client_says(&mut self) -> Vec<u8> {
        let mut bytes = Vec::new();
        while self.client.wants_write() {
            self.client.write_tls(&mut bytes).unwrap();
        }
        bytes
    }

    fn tell_server(&mut self, bytes: &[u8]) -> Result<Step, TlsFault> {
        let mut landing = self.server.landing(bytes.len(), 64 * 1024)?;
        assert!(landing.extend_from_slice(bytes));
        self.server.landed(landing);
        self.server.advance(None)
    }

    /// What the client thinks of what the server says.
    fn tell_client(&mut self) -> Result<(), rustls::Error> {
        if let Some(bytes) = self.server.take_outgoing() {
            let mut rest = &bytes[..];
            while !rest.is_empty() {
                self.client.read_tls(&mut rest).unwrap();
                self.client.process_new_packets()?;
            }
        }
        Ok(())
    }

    /// To the end, from where they are.
    pub(super) fn finish(&mut self) -> Result<(), TlsFault> {
        while self.client.is_handshaking() || self.client.wants_write() {
            let bytes = self.client_says();
            self.tell_server(&bytes)?;
            self.tell_client().map_err(TlsFault::Protocol)?;
        }
        assert!(!self.server.is_handshaking());
        Ok(())
    }

    fn shown(&self) -> CertificateDer<'static> {
        self.client.peer_certificates().unwrap()[0].clone()
    }
}

/// [T2] The certificate follows the name, the first answers for none and for unknown ones.
#[test]
fn certificates_by_name() {
    let authority = Authority::new("root");
    let names: [&[&str]; 5] = [
        &["first.example.com"],
        &["*.example.com", "*.b.example.com"],
        &["exact.example.com", "Mixed.Example.Com"],
        &["exact.example.com", "192.0.2.7"],
        &["xn--mnchen-3ya.example"],
    ];
    let issued: Vec<Issued> = names.iter().map(|names| authority.issue(names)).collect();
    let pems: Vec<Pem<'_>> = issued.iter().map(Issued::pem).collect();
    let server = server_config(&pems, None, ClientCert::None).unwrap();
    let check = |name: &str, want: usize| {
        for versions in [TLS12, TLS13] {
            let mut client = peer_client(&authority, versions, None);
            // What is shown is looked at here, whatever name it is for.
            client.dangerous().set_certificate_verifier(Arc::new(Anything));
            let mut table = Table::new(client, name, &server, &pool());
            table.finish().unwrap();
            assert_eq!(table.shown(), issued[want].chain()[0], "{name}");
        }
    };
    check("first.example.com", 0);
    check("FIRST.example.com", 0);
    check("any.example.com", 1);
    check("x.b.example.com", 1);
    check("exact.example.com", 2);
    check("EXACT.EXAMPLE.COM", 2);
    check("mixed.example.com", 2);
    check("xn--mnchen-3ya.example", 4);
    check("b.example.com", 1);
    for unknown in ["example.com", "x.y.example.com", "other.example", "192.0.2.7", "a.xn--mnchen-3ya.example"] {
        check(unknown, 0);
    }
}

/// Trusts everybody.
#[derive(Debug)]
struct Anything;

impl rustls::client::danger::ServerCertVerifier for Anything {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: rustls::pki_types::UnixTime,
    ) -> Result<rustls::client::danger::ServerCertVerified, rustls::Error> {
        Ok(rustls::client::danger::ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signed: &rustls::DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
        let algorithms = default_provider().signature_verification_algorithms;
        rustls::crypto::verify_tls12_signature(message, cert, signed, &algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signed: &rustls::DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
        let algorithms = default_provider().signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, cert, signed, &algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<rustls::SignatureScheme> {
        default_provider().signature_verification_algorithms.supported_schemes()
    }
}

/// The records that hello may come in: one for each of these lengths of the message.
fn in_records(hello: &[u8], lengths: impl IntoIterator<Item = usize>) -> Vec<u8> {
    let (header, mut message) = hello.split_at(5);
    assert_eq!((header[0], usize::from(u16::from_be_bytes([header[3], header[4]]))), (22, message.len()));
    let mut records = Vec::new();
    for length in lengths {
        let (now, later) = message.split_at(length.min(message.len()));
        records.extend_from_slice(&[22, 3, 1]);
        records.extend_from_slice(&u16::try_from(now.len()).unwrap().to_be_bytes());
        records.extend_from_slice(now);
        message = later;
    }
    assert!(message.is_empty());
    records
}

/// [T1] However the first hello is cut, into packets or into records, the certificate and the rule for client
/// certificates are the same.
#[test]
fn a_hello_in_pieces_is_the_same_hello() {
    let authority = Authority::new("root");
    let (first, second) = (authority.issue(&["first.example.com"]), authority.issue(&["second.example.com"]));
    let ca = authority.pem();
    let pairs = [first.pem(), second.pem()];
    let server = server_config(&pairs, Some(ca.as_bytes()), ClientCert::Require).unwrap();
    let mut whole_lengths = Vec::new();
    for versions in [TLS12, TLS13] {
        let known = peer_client(&authority, versions, Some(&first));
        let nobody = peer_client(&authority, versions, None);
        let check = |pieces: &dyn Fn(&[u8]) -> Vec<Vec<u8>>| {
            let mut table = Table::new(known.clone(), "second.example.com", &server, &pool());
            let hello = table.client_says();
            for piece in pieces(&hello) {
                table.tell_server(&piece).unwrap();
            }
            table.tell_client().unwrap();
            table.finish().unwrap();
            assert_eq!(table.shown(), second.chain()[0]);
            assert!(table.server.has_peer_certificate());

            let mut table = Table::new(nobody.clone(), "second.example.com", &server, &pool());
            let hello = table.client_says();
            for piece in pieces(&hello) {
                table.tell_server(&piece).unwrap();
            }
            table.tell_client().unwrap();
            let refused = table.finish().unwrap_err();
            assert!(refused.is_untrusted(), "{refused}");
            hello.len()
        };
        let whole = check(&|hello| vec![hello.to_vec()]);
        for at in 1..whole {
            // Hellos differ in length by nothing, but be sure.
            check(&|hello| vec![hello[..at].to_vec(), hello[at.min(hello.len())..].to_vec()]);
            check(&|hello| vec![in_records(hello, [at.min(hello.len() - 6), usize::MAX])]);
        }
        check(&|hello| hello.chunks(1).map(<[u8]>::to_vec).collect());
        check(&|hello| vec![in_records(hello, vec![1; hello.len() - 5])]);
        check(&|hello| in_records(hello, vec![1; hello.len() - 5]).chunks(7).map(<[u8]>::to_vec).collect());
        whole_lengths.push(whole);
    }
    assert!(whole_lengths.iter().all(|length| *length > 100), "{whole_lengths:?}");
}

/// [T2] [T3] The rule for client certificates is the listener's, whatever name is asked for; one that is shown and
/// does not hold is never taken for none.
#[test]
fn client_certificates() {
    let (ours, theirs) = (Authority::new("ours"), Authority::new("theirs"));
    let server_cert = ours.issue(&["server.example.com"]);
    let (good, bad) = (ours.issue(&["agent"]), theirs.issue(&["agent"]));
    let ca = ours.pem();
    let config = |client| server_config(&[server_cert.pem()], Some(ca.as_bytes()), client).unwrap();
    let check = |rule: ClientCert, shown: Option<&Issued>, want: Result<bool, bool>| {
        for versions in [TLS12, TLS13] {
            for name in ["server.example.com", "unknown.example.com", "192.0.2.1"] {
                let mut client = peer_client(&ours, versions, shown);
                client.dangerous().set_certificate_verifier(Arc::new(Anything));
                let mut table = Table::new(client, name, &config(rule), &pool());
                let got = table.finish();
                let got = got.map(|()| table.server.has_peer_certificate()).map_err(|fault| fault.is_untrusted());
                assert_eq!(got, want, "{rule:?} {name}");
                if want.is_err() {
                    assert!(table.server.encrypt(b"secret").is_err(), "nothing goes to who was refused");
                    assert!(table.server.is_handshaking());
                }
            }
        }
    };
    check(ClientCert::Require, Some(&good), Ok(true));
    check(ClientCert::Require, None, Err(true));
    check(ClientCert::Request, Some(&good), Ok(true));
    check(ClientCert::Request, None, Ok(false));
    check(ClientCert::None, Some(&good), Ok(false));
    check(ClientCert::None, Some(&bad), Ok(false));
    // rustls' client shows nothing to who does not name its authority, so it is made to.
    for rule in [ClientCert::Require, ClientCert::Request] {
        for versions in [TLS12, TLS13] {
            let mut client = peer_client(&ours, versions, Some(&bad));
            client.client_auth_cert_resolver = Arc::new(Insistent(client.client_auth_cert_resolver));
            let mut table = Table::new(client, "server.example.com", &config(rule), &pool());
            let fault = table.finish().unwrap_err();
            assert!(fault.is_untrusted(), "{rule:?}: {fault}");
            assert!(table.server.encrypt(b"secret").is_err());
        }
    }
}

/// Shows its certificate to everybody.
#[derive(Debug)]
struct Insistent(Arc<dyn rustls::client::ResolvesClientCert>);

impl rustls::client::ResolvesClientCert for Insistent {
    fn resolve(&self, _: &[&[u8]], schemes: &[rustls::SignatureScheme]) -> Option<Arc<rustls::sign::CertifiedKey>> {
        self.0.resolve(&[], schemes)
    }

    fn has_certs(&self) -> bool {
        true
    }
}

/// A refused client learns why: its alert is not overtaken by a reset.
#[test]
fn a_refused_client_learns_why() {
    on_both(|| {
        Box::pin(async {
            let (ours, pool, listener) = (Authority::new("ours"), pool(), listener());
            let issued = ours.issue(&["server.example.com"]);
            let config = server_config(&[issued.pem()], Some(ours.pem().as_bytes()), ClientCert::Require).unwrap();
            for versions in [TLS12, TLS13] {
                let (addr, peer) = (listener.local_addr(), peer_client(&ours, versions, None));
                let client = thread::spawn(move || {
                    let mut client = dial(addr, peer, "server.example.com");
                    // With TLS 1.3 it thinks for a moment that it is in, and sends much at once.
                    let _ = client.write_all(&pattern(30_000));
                    client.read(&mut [0; 100]).unwrap_err().to_string()
                });
                let (socket, _) = listener.accept().await.unwrap();
                let fault = Stream::accept(socket, &config, &pool).await.err().unwrap();
                assert!(fault.is_untrusted(), "{fault}");
                let heard = join(client).await;
                assert!(heard.contains("CertificateRequired"), "{heard}");
                assert_eq!(pool.lent(), 0);
            }
        })
    });
}

/// [T3] Only HTTP/1.1 is spoken, and who wants nothing else is told so; who does not ask is served.
#[test]
fn one_protocol() {
    let authority = Authority::new("root");
    let issued = authority.issue(&["one.example.com"]);
    let server = server_config(&[issued.pem()], None, ClientCert::None).unwrap();
    let check = |offered: &[&str], want: Option<Option<&[u8]>>| {
        for versions in [TLS12, TLS13] {
            let mut client = peer_client(&authority, versions, None);
            client.alpn_protocols = offered.iter().map(|name| name.as_bytes().to_vec()).collect();
            let mut table = Table::new(client, "one.example.com", &server, &pool());
            let done = table.finish();
            assert_eq!(done.ok().map(|()| table.client.alpn_protocol()), want, "{offered:?}");
        }
    };
    check(&[], Some(None));
    check(&["http/1.1"], Some(Some(b"http/1.1")));
    check(&["h2", "http/1.1"], Some(Some(b"http/1.1")));
    check(&["h2"], None);
    check(&["http/1.0"], None);
}

/// [T3] TLS 1.1 and older are refused (RFC 8996), and so is what is no TLS at all.
#[test]
fn old_versions_are_refused() {
    let authority = Authority::new("root");
    let issued = authority.issue(&["one.example.com"]);
    let server = server_config(&[issued.pem()], None, ClientCert::None).unwrap();
    for (minor, refused) in [(0, true), (1, true), (2, true), (3, false)] {
        let mut table = Table::new(peer_client(&authority, TLS12, None), "one.example.com", &server, &pool());
        let result = table.tell_server(&old_hello(minor));
        assert_eq!(result.is_err(), refused, "3.{minor}");
        let said = table.server.take_outgoing().unwrap();
        // protocol_version (RFC 5246, 7.2.2), or our own hello.
        assert_eq!(said[0], if refused { 21 } else { 22 });
        assert!(!refused || said[5..] == [2, 70], "{:?}", &said[..]);
    }
    for nonsense in [&b"GET / HTTP/1.1\r\nhost: x\r\n\r\n"[..], b"\x80\x2e\x01\x03\x01\x00\x15", &[22; 64], &[0; 64]] {
        let mut table = Table::new(peer_client(&authority, TLS12, None), "one.example.com", &server, &pool());
        assert!(table.tell_server(nonsense).is_err());
    }
}

/// A hello as clients before TLS 1.3 send it (RFC 5246, 7.4.1.2).
fn old_hello(minor: u8) -> Vec<u8> {
    let mut body = vec![3, minor];
    body.extend_from_slice(&[7; 32]);
    // No session, three suites, no compression.
    body.extend_from_slice(&[0, 0, 6, 0xc0, 0x2b, 0xc0, 0x2f, 0xc0, 0x23, 1, 0]);
    // Groups, signatures, point formats, extended master secret.
    let extensions = [0, 10, 0, 4, 0, 2, 0, 23, 0, 13, 0, 4, 0, 2, 4, 3, 0, 11, 0, 2, 1, 0, 0, 23, 0, 0];
    body.extend_from_slice(&[0, u8::try_from(extensions.len()).unwrap()]);
    body.extend_from_slice(&extensions);
    let length = u8::try_from(body.len()).unwrap();
    let mut hello = vec![22, 3, 1, 0, length + 4, 1, 0, 0, length];
    hello.extend_from_slice(&body);
    hello
}

/// [T3] A client that resumes is offered no early data, and none is taken. Tickets end with the configuration that
/// they come from.
#[test]
fn tickets() {
    let (ours, other) = (Authority::new("ours"), Authority::new("other"));
    let (issued, agent) = (ours.issue(&["one.example.com"]), ours.issue(&["agent"]));
    let (ca, other_ca) = (ours.pem(), other.pem());
    let before = server_config(&[issued.pem()], Some(ca.as_bytes()), ClientCert::Require).unwrap();
    let after = server_config(&[issued.pem()], Some(other_ca.as_bytes()), ClientCert::Require).unwrap();
    for versions in [TLS12, TLS13] {
        let mut client = peer_client(&ours, versions, Some(&agent));
        client.client_auth_cert_resolver = Arc::new(Insistent(client.client_auth_cert_resolver));
        client.resumption = Resumption::in_memory_sessions(8);
        client.enable_early_data = true;
        let shake = |config: &Arc<ServerConfig>| {
            let mut table = Table::new(client.clone(), "one.example.com", config, &pool());
            assert!(table.client.early_data().is_none(), "early data was offered");
            table.finish().map(|()| (table.client.handshake_kind(), table.server.has_peer_certificate()))
        };
        assert_eq!(shake(&before).unwrap(), (Some(HandshakeKind::Full), true));
        for _ in 0..3 {
            assert_eq!(shake(&before).unwrap(), (Some(HandshakeKind::Resumed), true));
        }
        assert!(shake(&after).unwrap_err().is_untrusted(), "the other authority has not issued it");
    }
}

/// Our client resumes, each thread for itself.
#[test]
fn our_client_resumes() {
    let authority = Authority::new("root");
    let issued = authority.issue(&["one.example.com"]);
    let server = Arc::new(peer_server(&issued, rustls::DEFAULT_VERSIONS));
    let config = client_config(Roots::Given(authority.pem().as_bytes()), None).unwrap();
    let other = client_config(Roots::Given(authority.pem().as_bytes()), None).unwrap();
    let shake = |config: &Arc<ClientConfig>| {
        let name = ServerName::try_from("one.example.com").unwrap();
        let mut client = ClientConnection::new(config.clone(), name).unwrap();
        let mut server = ServerConnection::new(server.clone()).unwrap();
        while client.is_handshaking() || server.is_handshaking() || server.wants_write() {
            let mut bytes = Vec::new();
            while client.wants_write() {
                client.write_tls(&mut bytes).unwrap();
            }
            server.read_tls(&mut &bytes[..]).unwrap();
            server.process_new_packets().unwrap();
            bytes.clear();
            while server.wants_write() {
                server.write_tls(&mut bytes).unwrap();
            }
            client.read_tls(&mut &bytes[..]).unwrap();
            client.process_new_packets().unwrap();
        }
        client.handshake_kind().unwrap()
    };
    assert_eq!(shake(&config), HandshakeKind::Full);
    assert_eq!(shake(&config), HandshakeKind::Resumed);
    assert_eq!(shake(&other), HandshakeKind::Full, "another configuration has its own");
    thread::scope(|scope| scope.spawn(|| assert_eq!(shake(&config), HandshakeKind::Full)).join().unwrap());
    assert_eq!(shake(&config), HandshakeKind::Resumed);
}

/// A server is believed for its name, by its authority, in its time; it is shown our certificate.
#[test]
fn servers_are_known() {
    on_both(|| {
        Box::pin(async {
            let (ours, theirs) = (Authority::new("ours"), Authority::new("theirs"));
            let (good, foreign) = (ours.issue(&["server.example.com"]), theirs.issue(&["server.example.com"]));
            let (timers, pool) = (timers(), pool());
            let check = async |server: &Issued, name: &str, want: Option<fn(&CertificateError) -> bool>| {
                let listener = TcpListener::bind("127.0.0.1:0").unwrap();
                let addr = listener.local_addr().unwrap();
                let config = Arc::new(peer_server(server, rustls::DEFAULT_VERSIONS));
                let thread = thread::spawn(move || {
                    let (mut socket, _) = listener.accept().unwrap();
                    let mut server = ServerConnection::new(config).unwrap();
                    while server.is_handshaking() {
                        server.complete_io(&mut socket).map_err(|error| error.to_string())?;
                    }
                    Ok::<_, String>(())
                });
                let roots = ours.pem();
                let side = ClientSide {
                    config: client_config(Roots::Given(roots.as_bytes()), None).unwrap(),
                    name: server_name(name).unwrap(),
                };
                let socket = Socket::connect(addr, &timers, clock().mono.plus_ms(10_000)).await.unwrap();
                let result = Stream::connect(socket, &side, &pool).await;
                let heard = join(thread).await;
                match (result.err(), want) {
                    (None, None) => assert_eq!(heard, Ok(())),
                    (Some(fault), Some(is)) => {
                        assert!(fault.is_untrusted());
                        let TlsFault::Protocol(rustls::Error::InvalidCertificate(why)) = &fault else {
                            panic!("{fault}")
                        };
                        assert!(is(why), "{why:?}");
                        assert!(heard.unwrap_err().contains("alert"), "the server is told");
                    }
                    (got, _) => panic!("{name}: {got:?}"),
                }
            };
            check(&good, "server.example.com", None).await;
            check(&good, "Server.Example.COM", None).await;
            check(&foreign, "server.example.com", Some(|why| matches!(why, CertificateError::UnknownIssuer))).await;
            let other: fn(&CertificateError) -> bool = |why| {
                matches!(why, CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. })
            };
            check(&good, "other.example.com", Some(other)).await;
            check(&good, "127.0.0.1", Some(other)).await;
            let expired = ours.issue_until(&["server.example.com"], 2001);
            let late: fn(&CertificateError) -> bool =
                |why| matches!(why, CertificateError::Expired | CertificateError::ExpiredContext { .. });
            check(&expired, "server.example.com", Some(late)).await;
        })
    });
}

/// What is wrong with files is found when they are loaded, and said.
#[test]
fn faults_of_files() {
    let authority = Authority::new("root");
    let (one, two) = (authority.issue(&["one.example.com"]), authority.issue(&["two.example.com"]));
    let check = |cert: &str, key: &str, want: &str| {
        let pem = Pem { cert: cert.as_bytes(), key: key.as_bytes() };
        let fault = server_config(&[pem], None, ClientCert::None).unwrap_err();
        assert!(fault.to_string().contains(want), "{fault}");
        let roots = authority.pem();
        let fault = client_config(Roots::Given(roots.as_bytes()), Some(pem)).unwrap_err();
        assert!(fault.to_string().contains(want), "{fault}");
        assert!(!format!("{fault:?} {fault}").contains("PRIVATE KEY"));
    };
    check("", &one.key, "no certificate in it");
    check(&one.key, &one.key, "no certificate in it");
    check(&one.cert, "", "no private key in it");
    check(&one.cert, &one.cert, "no private key in it");
    check(&one.cert, &two.key, "does not fit");
    check(&one.cert[..one.cert.len() / 2], &one.key, "not PEM");
    check(&one.cert, &one.key[..one.key.len() / 2], "not PEM");
    let broken = one.cert.replacen("MII", "AAA", 1);
    assert_ne!(broken, one.cert);
    check(&broken, &one.key, "the certificate cannot be read");
    let odd = "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n";
    check(&one.cert, odd, "the private key cannot be used");

    let none = server_config(&[], None, ClientCert::None).unwrap_err();
    assert!(matches!(none, TlsFault::NoPair));
    let nobody = server_config(&[one.pem()], None, ClientCert::Request).unwrap_err();
    assert!(matches!(nobody, TlsFault::NoClientAuthority));
    assert!(matches!(client_config(Roots::System(&[]), None).unwrap_err(), TlsFault::NoRoots));
    assert!(client_config(Roots::System(&one.chain()), None).is_ok());
    for bad in ["", "a b", "-", "[::1", "a..b"] {
        assert!(server_name(bad).is_err(), "{bad}");
    }
    assert!(server_name("[::1]").is_ok() && server_name("::1").is_ok() && server_name("a.b").is_ok());
}

#[test]
fn what_a_certificate_says() {
    let authority = Authority::new("root");
    let issued = authority.issue_until(&["a.example", "*.B.example", "192.0.2.1"], 2049);
    let leaf = &issued.chain()[0];
    assert_eq!(der::dns_names(leaf), ["a.example", "*.b.example"]);
    assert_eq!(der::not_after(leaf), Some(2_493_072_000));
    assert_eq!(der::not_after(&authority.issue_until(&["a"], 2051).chain()[0]), Some(2_556_144_000), "a longer form");
    assert_eq!(super::super::config::expires(issued.cert.as_bytes()), Some(2_493_072_000));
    assert!(der::dns_names(authority.issuer.der()).is_empty());
    // No part of it, and nothing that a byte was changed in, is more than wrong.
    for at in 0..leaf.len() {
        let _ = (der::dns_names(&leaf[..at]), der::not_after(&leaf[..at]));
        for change in [0, 0x7f, 0x80, 0x84, 0xff] {
            let mut changed = leaf.to_vec();
            changed[at] = change;
            let _ = (der::dns_names(&changed), der::not_after(&changed));
        }
    }
}

/// A ticket in many records, looked at in the middle: rustls remembers places in what it was given, and a send or a
/// receive in flight beside it must not take that away.
#[test]
fn a_ticket_in_pieces() {
    let authority = Authority::new("root");
    let issued = authority.issue(&["one.example.com"]);
    let mut config = peer_server(&issued, TLS13);
    config.max_fragment_size = Some(32);
    config.send_tls13_tickets = 1;
    let config = Arc::new(config);
    let roots = authority.pem();
    let client_config = client_config(Roots::Given(roots.as_bytes()), None).unwrap();
    let mut cut = 1;
    let mut done = false;
    while !done {
        let mut server = ServerConnection::new(config.clone()).unwrap();
        let client = UnbufferedClientConnection::new(client_config.clone(), server_name("one.example.com").unwrap());
        let mut client = Session::new(Side::Client(client.unwrap()), &pool());
        let feed = |client: &mut Session, bytes: &[u8]| {
            let mut landing = client.landing(bytes.len(), 64 * 1024).unwrap();
            assert!(landing.extend_from_slice(bytes));
            // In flight, as a receive would be, while something is sent.
            client.encrypt(b"meanwhile").ok();
            client.landed(landing);
            client.advance(None).unwrap()
        };
        client.advance(None).unwrap();
        let mut bytes = Vec::new();
        while server.is_handshaking() {
            let said = client.take_outgoing().unwrap();
            server.read_tls(&mut &said[..]).unwrap();
            server.process_new_packets().unwrap();
            bytes.clear();
            while server.wants_write() {
                server.write_tls(&mut bytes).unwrap();
            }
            if server.is_handshaking() {
                feed(&mut client, &bytes);
            }
        }
        assert!(bytes.len() > 3 * 32, "the ticket, in records of 32 bytes: {}", bytes.len());
        let (first, rest) = bytes.split_at(cut.min(bytes.len() - 1));
        assert_eq!(feed(&mut client, first), Step::Blocked);
        client.encrypt(b"now").unwrap();
        assert_eq!(client.advance(None).unwrap(), Step::Blocked);
        assert_eq!(feed(&mut client, rest), Step::Blocked);
        server.writer().write_all(b"at last").unwrap();
        let mut more = Vec::new();
        server.write_tls(&mut more).unwrap();
        assert_eq!(feed(&mut client, &more), Step::Waiting);
        let said = client.take_outgoing().unwrap();
        server.read_tls(&mut &said[..]).unwrap();
        server.process_new_packets().unwrap();
        let mut heard = Vec::new();
        let _ = server.reader().read_to_end(&mut heard);
        assert!(heard.ends_with(b"meanwhilenowmeanwhilemeanwhile"), "{}", String::from_utf8_lossy(&heard));
        done = cut >= bytes.len() - 1;
        cut += 1;
    }
}
