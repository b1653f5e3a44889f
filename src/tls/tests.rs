//! The room as its users see it, against rustls on blocking sockets in a thread; most tests on both drivers.

mod bounds;
mod handshake;
mod traffic;

use std::future::Future;
use std::io;
use std::net::{SocketAddr, TcpStream};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::mpsc;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair, date_time_ymd,
};
use rustls::crypto::ring::default_provider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{
    ClientConfig, ClientConnection, RootCertStore, ServerConfig, StreamOwned, SupportedProtocolVersion, version,
};

use super::config::{ClientCert, ClientSide, Pem, Roots, client_config, server_config, server_name};
use super::stream::Stream;
use crate::uring::buffer::{Buffer, Pool};
use crate::uring::ring::{Choice, Driver, sleep, spawn};
use crate::uring::socket::{Listener, Options, Socket};
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

    /// Valid from 2000 to the first day of this year.
    fn issue_until(&self, names: &[&str], year: i32) -> Issued {
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let mut params = CertificateParams::new(names).unwrap();
        params.not_before = date_time_ymd(2000, 1, 1);
        params.not_after = date_time_ymd(year, 1, 1);
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

/// Our own two ends of one connection: who connected, who accepted.
async fn pair(authority: &Authority, pool: &Pool, timers: &Timers) -> (Stream, Stream) {
    let issued = authority.issue(&["server.example.com"]);
    let config = server_config(&[issued.pem()], None, ClientCert::None).unwrap();
    let roots = Roots::Given(&authority.pem().into_bytes());
    let side =
        ClientSide { config: client_config(roots, None).unwrap(), name: server_name("server.example.com").unwrap() };
    let listener = listener();
    let (mine, theirs) = mpsc::channel();
    let connecting = {
        let (pool, timers, addr) = (pool.clone(), timers.clone(), listener.local_addr());
        async move {
            let socket = Socket::connect(addr, &timers, clock().mono.plus_ms(10_000)).await.unwrap();
            mine.send(Stream::connect(socket, &side, &pool).await.unwrap()).unwrap();
        }
    };
    spawn(connecting);
    let (socket, _) = listener.accept().await.unwrap();
    let server = Stream::accept(socket, &config, pool).await.unwrap();
    loop {
        if let Ok(client) = theirs.try_recv() {
            return (client, server);
        }
        sleep(Duration::from_millis(1)).await;
    }
}

/// Waits for something to become true.
async fn until(mut is: impl FnMut() -> bool) {
    let end = std::time::Instant::now() + PATIENCE;
    while !is() {
        assert!(std::time::Instant::now() < end, "it never came true");
        sleep(Duration::from_millis(1)).await;
    }
}

/// What a peer's thread came to; meanwhile this one runs, and what it dropped is closed.
async fn join<T>(thread: JoinHandle<T>) -> T {
    until(|| thread.is_finished()).await;
    thread.join().unwrap()
}
