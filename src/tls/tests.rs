//! The room as its users see it, against rustls on blocking sockets in a thread; most tests on both drivers.

use std::future::Future;
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::mpsc;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair};
use rustls::crypto::ring::default_provider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, ServerConfig, ServerConnection, StreamOwned};
use rustls::{SupportedProtocolVersion, version};

use super::config::{ClientCert, ClientSide, Pem, Roots, client_config, server_config, server_name};
use super::fault::TlsFault;
use super::stream::Stream;
use crate::base::time::Moment;
use crate::uring::buffer::{Buffer, Pool};
use crate::uring::ring::{Choice, Driver, spawn};
use crate::uring::socket::{Listener, Options, Peek, Socket};
use crate::uring::wait::{Timers, clock};

/// An authority, and what it issued.
struct Authority {
    issuer: CertifiedIssuer<'static, KeyPair>,
}

/// A certificate and its key, as PEM.
#[derive(Clone)]
struct Issued {
    cert: String,
    key: String,
}

impl Authority {
    fn new(name: &str) -> Self {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, name);
        let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        Self { issuer }
    }

    fn pem(&self) -> String {
        self.issuer.pem()
    }

    fn issue(&self, names: &[&str]) -> Issued {
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let mut params = CertificateParams::new(names).unwrap();
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        let key = KeyPair::generate().unwrap();
        let cert = params.signed_by(&key, &self.issuer).unwrap();
        Issued { cert: cert.pem(), key: key.serialize_pem() }
    }

    fn roots(&self) -> RootCertStore {
        let mut roots = RootCertStore::empty();
        roots.add(self.issuer.der().clone()).unwrap();
        roots
    }
}

impl Issued {
    fn pem(&self) -> Pem<'_> {
        Pem { cert: self.cert.as_bytes(), key: self.key.as_bytes() }
    }

    fn chain(&self) -> Vec<CertificateDer<'static>> {
        CertificateDer::pem_slice_iter(self.cert.as_bytes()).map(Result::unwrap).collect()
    }

    fn private(&self) -> PrivateKeyDer<'static> {
        PrivateKeyDer::from_pem_slice(self.key.as_bytes()).unwrap()
    }
}

const TLS12: &[&SupportedProtocolVersion] = &[&version::TLS12];
const TLS13: &[&SupportedProtocolVersion] = &[&version::TLS13];

/// A blocking peer's configuration: what it trusts, which version it speaks, who it is.
fn peer_client(
    authority: &Authority,
    versions: &[&'static SupportedProtocolVersion],
    identity: Option<&Issued>,
) -> ClientConfig {
    let builder = ClientConfig::builder_with_provider(Arc::new(default_provider()));
    let builder = builder.with_protocol_versions(versions).unwrap().with_root_certificates(authority.roots());
    match identity {
        None => builder.with_no_client_auth(),
        Some(identity) => builder.with_client_auth_cert(identity.chain(), identity.private()).unwrap(),
    }
}

fn peer_server(identity: &Issued, versions: &[&'static SupportedProtocolVersion]) -> ServerConfig {
    let builder = ServerConfig::builder_with_provider(Arc::new(default_provider()));
    let builder = builder.with_protocol_versions(versions).unwrap().with_no_client_auth();
    builder.with_single_cert(identity.chain(), identity.private()).unwrap()
}

/// A blocking client's session on a connection to `addr`.
fn dial(addr: SocketAddr, config: ClientConfig, name: &str) -> StreamOwned<ClientConnection, TcpStream> {
    let socket = TcpStream::connect(addr).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    socket.set_write_timeout(Some(PATIENCE)).unwrap();
    let name = ServerName::try_from(name.to_owned()).unwrap();
    StreamOwned::new(ClientConnection::new(Arc::new(config), name).unwrap(), socket)
}

const PATIENCE: Duration = Duration::from_secs(20);

type Test = fn() -> Pin<Box<dyn Future<Output = ()>>>;

/// Runs `test` on each driver, on a thread of its own; one that hangs fails.
fn on_both(test: Test) {
    let mut drivers = vec![Driver::probe(Choice::Epoll).unwrap()];
    match Driver::probe(Choice::IoUring) {
        Ok(driver) => drivers.push(driver),
        Err(fault) => eprintln!("only half tested: {fault}"),
    }
    for driver in drivers {
        on(driver, test);
    }
}

fn on(driver: Driver, test: Test) {
    let (done, wait) = mpsc::channel();
    let name = driver.describe();
    let thread = thread::spawn(move || {
        driver.run(test()).unwrap();
        let _ = done.send(());
    });
    match wait.recv_timeout(Duration::from_secs(120)) {
        Err(mpsc::RecvTimeoutError::Timeout) => panic!("hangs on {name}"),
        _ => assert!(thread.join().is_ok(), "fails on {name}"),
    }
}

fn pool() -> Pool {
    Pool::new(64 * 1024 * 1024)
}

fn timers() -> Timers {
    let timers = Timers::new();
    spawn(timers.clone().run());
    timers
}

fn listener() -> Listener {
    Listener::bind("127.0.0.1:0".parse().unwrap(), Options::default()).unwrap()
}

fn buffer(pool: &Pool, bytes: &[u8]) -> Buffer {
    let mut buffer = pool.get(bytes.len()).unwrap();
    assert!(buffer.extend_from_slice(bytes));
    buffer
}

fn pattern(len: usize) -> Vec<u8> {
    (0..len).map(|at| u8::try_from(at * 7 % 251).unwrap()).collect()
}

/// Receives exactly `len` bytes, in buffers of `room`.
async fn receive(stream: &Stream, pool: &Pool, len: usize, room: usize) -> Vec<u8> {
    let mut all = Vec::new();
    let mut buffer = pool.get(room).unwrap();
    while all.len() < len {
        let (got, back) = stream.recv(buffer).await;
        buffer = back;
        let got = got.unwrap();
        assert_eq!(got, buffer.len());
        if got == 0 {
            break;
        }
        all.extend_from_slice(&buffer);
        buffer.clear();
    }
    all
}

/// The result of one receive.
async fn receive_once(stream: &Stream, pool: &Pool) -> io::Result<Vec<u8>> {
    let (got, buffer) = stream.recv(pool.get(4096).unwrap()).await;
    got.map(|_| buffer.to_vec())
}

async fn send(stream: &Stream, pool: &Pool, bytes: &[u8]) {
    stream.send(buffer(pool, bytes)).await.0.unwrap();
}

#[test]
fn both_versions_as_server_and_as_client() {
    on_both(|| {
        Box::pin(async {
            for versions in [TLS12, TLS13] {
                as_server(versions).await;
                as_client(versions).await;
            }
        })
    });
}

async fn as_server(versions: &'static [&'static SupportedProtocolVersion]) {
    let authority = Authority::new("root");
    let issued = authority.issue(&["one.example.com"]);
    let config = server_config(&[issued.pem()], None, ClientCert::None).unwrap();
    let (listener, pool) = (listener(), pool());
    let addr = listener.local_addr();
    let mut peer = peer_client(&authority, versions, None);
    peer.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    let client = thread::spawn(move || {
        let mut client = dial(addr, peer, "one.example.com");
        for len in LENGTHS {
            client.write_all(&pattern(*len)).unwrap();
            let mut back = vec![0; *len];
            client.read_exact(&mut back).unwrap();
            assert!(back == pattern(*len));
        }
        assert_eq!(client.conn.alpn_protocol(), Some(&b"http/1.1"[..]));
        client.conn.send_close_notify();
        client.flush().unwrap();
        let mut rest = Vec::new();
        assert_eq!(client.read_to_end(&mut rest).unwrap(), 0, "a clean end");
    });
    let (socket, _) = listener.accept().await.unwrap();
    let stream = Stream::accept(socket, &config, &pool).await.unwrap();
    assert!(stream.is_tls() && !stream.client_verified());
    assert_eq!(stream.server_name().as_deref(), Some("one.example.com"));
    for len in LENGTHS {
        let got = receive(&stream, &pool, *len, 16 * 1024).await;
        assert!(got == pattern(*len));
        send(&stream, &pool, &got).await;
    }
    assert_eq!(receive_once(&stream, &pool).await.unwrap(), b"", "a clean end");
    assert_eq!(receive_once(&stream, &pool).await.unwrap(), b"", "and again");
    stream.shutdown();
    client.join().unwrap();
    assert_eq!(pool.lent(), 0, "every buffer went back");
}

async fn as_client(versions: &'static [&'static SupportedProtocolVersion]) {
    let authority = Authority::new("root");
    let issued = authority.issue(&["server.example.com", "127.0.0.1"]);
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = listener.local_addr().unwrap();
    let mut peer = peer_server(&issued, versions);
    peer.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    let peer = Arc::new(peer);
    let server = thread::spawn(move || {
        for name in [Some("server.example.com"), None] {
            let (socket, _) = listener.accept().unwrap();
            socket.set_read_timeout(Some(PATIENCE)).unwrap();
            let mut server = StreamOwned::new(ServerConnection::new(peer.clone()).unwrap(), socket);
            for len in LENGTHS {
                let mut got = vec![0; *len];
                server.read_exact(&mut got).unwrap();
                server.write_all(&got).unwrap();
            }
            assert_eq!(server.conn.server_name(), name);
            assert_eq!(server.conn.alpn_protocol(), Some(&b"http/1.1"[..]));
            let mut rest = Vec::new();
            assert_eq!(server.read_to_end(&mut rest).unwrap(), 0, "a clean end");
        }
    });
    let (timers, pool) = (timers(), pool());
    let config = client_config(Roots::Given(authority.pem().as_bytes()), None).unwrap();
    for name in ["server.example.com", "127.0.0.1"] {
        let side = ClientSide { config: config.clone(), name: server_name(name).unwrap() };
        let socket = Socket::connect(addr, &timers, clock().mono.plus_ms(10_000)).await.unwrap();
        let stream = Stream::connect(socket, &side, &pool).await.unwrap();
        for len in LENGTHS {
            send(&stream, &pool, &pattern(*len)).await;
            assert!(receive(&stream, &pool, *len, 100_000).await == pattern(*len));
        }
        stream.shutdown();
    }
    server.join().unwrap();
    assert_eq!(pool.lent(), 0, "every buffer went back");
}

const LENGTHS: &[usize] = &[1, 100, 4_000, 4_096, 16_384, 16_385, 70_000, 300_000];
