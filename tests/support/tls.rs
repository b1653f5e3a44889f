//! Certificates as a test needs them, clients that speak TLS, and a server's TLS in front of a server that has none.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread;
use std::time::Duration;

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair, KeyUsagePurpose, SanType,
    date_time_ymd,
};
use rustix::event::{PollFd, PollFlags, poll};
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::ring::default_provider;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::server::WebPkiClientVerifier;
use rustls::{
    CertificateError, ClientConfig, ClientConnection, DigitallySignedStruct, Error, HandshakeKind, RootCertStore,
    ServerConfig, ServerConnection, SignatureScheme, StreamOwned, SupportedProtocolVersion, version,
};
use serde_json::{Value, json};

use super::gateway::PATIENCE;
use super::http::Wire;

/// TLS 1.2 alone.
pub(crate) const TLS12: &[&SupportedProtocolVersion] = &[&version::TLS12];
/// TLS 1.3 alone.
pub(crate) const TLS13: &[&SupportedProtocolVersion] = &[&version::TLS13];
const BOTH: &[&SupportedProtocolVersion] = &[&version::TLS13, &version::TLS12];

const PIECE_BYTES: usize = 16 * 1024;
const LOOK: Duration = Duration::from_millis(50);

/// Somebody who issues certificates.
pub(crate) struct Authority {
    issuer: CertifiedIssuer<'static, KeyPair>,
}

/// A certificate and its key, as PEM.
#[derive(Clone)]
pub(crate) struct Issued {
    pub(crate) cert: String,
    pub(crate) key: String,
}

/// PEM files in a folder.
pub(crate) struct Shelf {
    folder: tempfile::TempDir,
}

/// How a client shakes hands.
#[derive(Clone)]
pub(crate) struct Client {
    config: ClientConfig,
    name: ServerName<'static>,
}

impl Authority {
    pub(crate) fn new(name: &str) -> Self {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        params.distinguished_name.push(DnType::CommonName, name);
        let key = KeyPair::generate().expect("a key can be made");
        Self { issuer: CertifiedIssuer::self_signed(params, key).expect("an authority signs itself") }
    }

    /// Its own certificate.
    pub(crate) fn pem(&self) -> String {
        self.issuer.pem()
    }

    /// For these names, or addresses, and any use.
    pub(crate) fn issue(&self, names: &[&str]) -> Issued {
        self.sign(Self::params(names))
    }

    /// The same, expired for years.
    pub(crate) fn issue_expired(&self, names: &[&str]) -> Issued {
        let mut params = Self::params(names);
        params.not_before = date_time_ymd(2000, 1, 1);
        params.not_after = date_time_ymd(2010, 1, 1);
        self.sign(params)
    }

    /// A client that trusts it alone, asks for no name and minds none, and can do TLS 1.3 and 1.2.
    pub(crate) fn client(&self) -> Client {
        self.client_in(BOTH)
    }

    /// The same, in these versions only.
    pub(crate) fn client_in(&self, versions: &[&'static SupportedProtocolVersion]) -> Client {
        let builder = ClientConfig::builder_with_provider(Arc::new(default_provider()));
        let builder = builder.with_protocol_versions(versions).expect("the provider has them");
        let config = builder.dangerous().with_custom_certificate_verifier(self.any_name()).with_no_client_auth();
        Client { config, name: ServerName::IpAddress(std::net::Ipv4Addr::LOCALHOST.into()) }
    }

    fn params(names: &[&str]) -> CertificateParams {
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let mut params = CertificateParams::new(names).expect("the names are names");
        // Some clients want it (RFC 5280, 4.2.1.1).
        params.use_authority_key_identifier_extension = true;
        assert!(params.subject_alt_names.iter().all(|it| matches!(it, SanType::DnsName(_) | SanType::IpAddress(_))));
        params
    }

    fn sign(&self, params: CertificateParams) -> Issued {
        let key = KeyPair::generate().expect("a key can be made");
        let cert = params.signed_by(&key, &self.issuer).expect("an authority signs");
        Issued { cert: cert.pem(), key: key.serialize_pem() }
    }

    fn roots(&self) -> Arc<RootCertStore> {
        let mut roots = RootCertStore::empty();
        roots.add(self.issuer.der().clone()).expect("an authority is one");
        Arc::new(roots)
    }

    fn any_name(&self) -> Arc<AnyName> {
        let inner = WebPkiServerVerifier::builder_with_provider(self.roots(), Arc::new(default_provider()));
        Arc::new(AnyName(inner.build().expect("there is a root")))
    }
}

impl Issued {
    /// The certificate as it shows in a handshake.
    pub(crate) fn leaf(&self) -> CertificateDer<'static> {
        CertificateDer::from_pem_slice(self.cert.as_bytes()).expect("it is PEM")
    }

    fn private(&self) -> PrivateKeyDer<'static> {
        PrivateKeyDer::from_pem_slice(self.key.as_bytes()).expect("it is PEM")
    }

    /// How a server shakes hands that is this, and asks for certificates of `clients`.
    pub(crate) fn server(&self, clients: Option<&Authority>) -> Arc<ServerConfig> {
        let provider = Arc::new(default_provider());
        let builder = ServerConfig::builder_with_provider(provider.clone());
        let builder = builder.with_protocol_versions(BOTH).expect("the provider has both");
        let builder = match clients {
            None => builder.with_no_client_auth(),
            Some(authority) => {
                let verifier = WebPkiClientVerifier::builder_with_provider(authority.roots(), provider);
                builder.with_client_cert_verifier(verifier.build().expect("there is a root"))
            }
        };
        let mut config = builder.with_single_cert(vec![self.leaf()], self.private()).expect("the pair fits");
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Arc::new(config)
    }
}

impl Shelf {
    pub(crate) fn new() -> Self {
        Self { folder: tempfile::tempdir().expect("a temporary folder can be made") }
    }

    /// Where a file is, or would be.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Makes a folder in it.
    pub(crate) fn folder(&self, name: &str) {
        fs::create_dir(self.path(name)).expect("the temporary folder can be written");
    }

    /// Writes a file in place; where it is.
    pub(crate) fn put(&self, name: &str, text: &str) -> PathBuf {
        let path = self.path(name);
        fs::write(&path, text).expect("the temporary folder can be written");
        path
    }

    /// Writes a file aside and moves it in place.
    pub(crate) fn replace(&self, name: &str, text: &str) {
        let aside = self.put("aside", text);
        fs::rename(aside, self.path(name)).expect("the temporary folder can be written");
    }

    /// Writes a pair; the block of a configuration that names it.
    pub(crate) fn pair(&self, name: &str, issued: &Issued) -> Value {
        let cert = self.put(&format!("{name}.pem"), &issued.cert);
        let key = self.put(&format!("{name}.key"), &issued.key);
        json!({ "cert": cert, "key": key })
    }
}

impl Client {
    /// Asks for this name.
    pub(crate) fn name(mut self, name: &str) -> Self {
        self.name = ServerName::try_from(name.to_owned()).expect("it is a name");
        self
    }

    /// Shows this certificate when it is asked for one, whoever is said to be trusted.
    pub(crate) fn showing(mut self, issued: &Issued) -> Self {
        let provider = default_provider();
        let key = provider.key_provider.load_private_key(issued.private()).expect("the key can be used");
        let pair = rustls::sign::CertifiedKey::new(vec![issued.leaf()], key);
        self.config.client_auth_cert_resolver = Arc::new(Shows(Arc::new(pair)));
        self
    }

    /// Offers these protocols.
    pub(crate) fn protocols(mut self, protocols: &[&str]) -> Self {
        self.config.alpn_protocols = protocols.iter().map(|it| it.as_bytes().to_vec()).collect();
        self
    }

    /// Would send early data where a ticket allows it.
    pub(crate) fn eager(mut self) -> Self {
        self.config.enable_early_data = true;
        self
    }

    /// A session that has said nothing yet.
    pub(crate) fn session(&self) -> ClientConnection {
        ClientConnection::new(Arc::new(self.config.clone()), self.name.clone()).expect("the configuration is sound")
    }

    /// Shakes hands.
    ///
    /// # Errors
    /// In whatever words the client learns that it is refused. In TLS 1.3 a client whose certificate is refused learns
    /// that only when it reads.
    pub(crate) fn connect(&self, address: SocketAddr) -> Result<Wire, String> {
        let mut socket = dial(address);
        let mut session = self.session();
        session.complete_io(&mut socket).map_err(|fault| fault.to_string())?;
        Ok(Wire::encrypted(StreamOwned::new(session, socket)))
    }

    /// The same, with its first words in pieces: `cut` is given them as they would be sent.
    pub(crate) fn connect_in_pieces(
        &self,
        address: SocketAddr,
        cut: impl FnOnce(&[u8]) -> Vec<Vec<u8>>,
    ) -> Result<Wire, String> {
        let mut socket = dial(address);
        let mut session = self.session();
        let mut hello = Vec::new();
        session.write_tls(&mut hello).expect("a vector takes it");
        let pieces = cut(&hello);
        let last = pieces.len() - 1;
        for (number, piece) in pieces.iter().enumerate() {
            socket.write_all(piece).map_err(|fault| fault.to_string())?;
            if number < last {
                // Long enough, most of the time, for the other side to look at what it has.
                thread::sleep(Duration::from_micros(500));
            }
        }
        session.complete_io(&mut socket).map_err(|fault| fault.to_string())?;
        Ok(Wire::encrypted(StreamOwned::new(session, socket)))
    }

    /// Tries to shake hands, and waits for a word; why there is none.
    #[track_caller]
    pub(crate) fn refused(&self, address: SocketAddr) -> String {
        let mut socket = dial(address);
        let mut session = self.session();
        loop {
            match session.complete_io(&mut socket) {
                Ok(_) => {}
                Err(fault) => return fault.to_string(),
            }
            assert!(!session.wants_write());
            match session.reader().read(&mut [0]) {
                Err(fault) if fault.kind() == std::io::ErrorKind::WouldBlock => {
                    assert!(session.wants_read(), "the handshake is done, and nothing comes");
                }
                other => panic!("not refused: {other:?}"),
            }
        }
    }
}

/// A connection that nobody has said anything on.
pub(crate) fn dial(address: SocketAddr) -> TcpStream {
    let socket = TcpStream::connect_timeout(&address, PATIENCE).expect("somebody listens");
    socket.set_nodelay(true).expect("a TCP socket has this option");
    socket.set_read_timeout(Some(PATIENCE)).expect("a TCP socket has this option");
    socket
}

/// The same handshake bytes in records of these lengths; the last one takes what is left.
pub(crate) fn in_records(hello: &[u8], lengths: impl IntoIterator<Item = usize>) -> Vec<u8> {
    let (head, mut rest) = hello.split_at(5);
    let mut out = Vec::new();
    let mut record = |piece: &[u8]| {
        out.extend_from_slice(&head[..3]);
        out.extend_from_slice(&u16::try_from(piece.len()).expect("a record is short").to_be_bytes());
        out.extend_from_slice(piece);
    };
    for length in lengths {
        if rest.is_empty() {
            break;
        }
        let (piece, after) = rest.split_at(length.min(rest.len()));
        rest = after;
        record(piece);
    }
    if !rest.is_empty() {
        record(rest);
    }
    out
}

/// A server's TLS, in front of one that has none.
pub(crate) struct Terminator {
    pub(crate) address: SocketAddr,
    shared: Arc<Shared>,
}

/// How a terminator treats whoever connects.
#[derive(Clone)]
pub(crate) enum Manner {
    /// Shakes hands, and ends what its server ends with a farewell.
    Polite(Arc<ServerConfig>),
    /// Shakes hands, and ends without one.
    Rude(Arc<ServerConfig>),
    /// Says this, whatever it hears.
    Plain(&'static str),
}

/// One handshake that a terminator took part in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Shake {
    /// Whether it came about.
    pub(crate) done: bool,
    /// It was a resumption.
    pub(crate) resumed: bool,
    /// The name that was asked for.
    pub(crate) name: Option<String>,
    /// The certificate that was shown.
    pub(crate) shown: Option<CertificateDer<'static>>,
    /// The protocol agreed on.
    pub(crate) protocol: Option<Vec<u8>>,
}

struct Shared {
    inner: SocketAddr,
    manner: Mutex<Manner>,
    stop: AtomicBool,
    open: Mutex<Vec<TcpStream>>,
    shakes: Mutex<Vec<Shake>>,
    /// Bytes of requests that got through.
    passed: AtomicUsize,
}

impl Terminator {
    /// In front of `inner`.
    pub(crate) fn start(inner: SocketAddr, manner: Manner) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = listener.local_addr().expect("it is bound");
        let shared = Arc::new(Shared {
            inner,
            manner: Mutex::new(manner),
            stop: AtomicBool::new(false),
            open: Mutex::default(),
            shakes: Mutex::default(),
            passed: AtomicUsize::new(0),
        });
        let here = shared.clone();
        thread::spawn(move || {
            for socket in listener.incoming().map_while(Result::ok) {
                if here.stop.load(Ordering::Acquire) {
                    break;
                }
                let shared = here.clone();
                held(&shared.open).extend(socket.try_clone());
                thread::spawn(move || shared.serve(socket));
            }
        });
        Self { address, shared }
    }

    /// Its MCP endpoint.
    pub(crate) fn url(&self) -> String {
        format!("https://{}/mcp", self.address)
    }

    /// Ends what is open, and treats new ones like this.
    pub(crate) fn change(&self, manner: Manner) {
        *held(&self.shared.manner) = manner;
        self.end_all();
    }

    /// Handshakes so far, in the order in which they ended.
    pub(crate) fn shakes(&self) -> Vec<Shake> {
        held(&self.shared.shakes).clone()
    }

    /// Bytes of requests that were decrypted.
    pub(crate) fn passed(&self) -> usize {
        self.shared.passed.load(Ordering::Acquire)
    }

    /// Ends what is open.
    pub(crate) fn end_all(&self) {
        for socket in held(&self.shared.open).drain(..) {
            let _ = socket.shutdown(Shutdown::Both);
        }
    }
}

impl Drop for Terminator {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Release);
        self.end_all();
        // The listening thread wakes up, sees that it is over, and closes the port.
        let _ = TcpStream::connect_timeout(&self.address, Duration::from_millis(100));
    }
}

impl Shared {
    fn serve(&self, mut outer: TcpStream) {
        let _ = outer.set_nodelay(true);
        let manner = held(&self.manner).clone();
        let (config, polite) = match manner {
            Manner::Polite(config) => (config, true),
            Manner::Rude(config) => (config, false),
            Manner::Plain(words) => {
                let _ = outer.read(&mut [0; PIECE_BYTES]);
                let _ = outer.write_all(words.as_bytes());
                let _ = outer.shutdown(Shutdown::Write);
                let _ = outer.read(&mut [0; PIECE_BYTES]);
                return;
            }
        };
        let mut session = ServerConnection::new(config).expect("the configuration is sound");
        let mut done = true;
        while done && session.is_handshaking() {
            done = session.complete_io(&mut outer).is_ok();
        }
        held(&self.shakes).push(Shake {
            done,
            resumed: session.handshake_kind() == Some(HandshakeKind::Resumed),
            name: session.server_name().map(str::to_owned),
            shown: session.peer_certificates().and_then(|all| all.first()).map(|it| it.clone().into_owned()),
            protocol: session.alpn_protocol().map(<[u8]>::to_vec),
        });
        let Ok(inner) = TcpStream::connect_timeout(&self.inner, PATIENCE) else { return };
        if done {
            let _ = self.carry(session, &mut outer, &inner, polite);
        }
        let _ = inner.shutdown(Shutdown::Both);
        let _ = outer.shutdown(Shutdown::Both);
    }

    /// Bytes both ways, until one side ends.
    fn carry(
        &self,
        mut session: ServerConnection,
        outer: &mut TcpStream,
        inner: &TcpStream,
        polite: bool,
    ) -> std::io::Result<()> {
        let _ = inner.set_nodelay(true);
        let mut piece = [0; PIECE_BYTES];
        let (mut read_inner, mut write_inner) = (inner, inner);
        loop {
            // What came with the end of the handshake is here already.
            let state = session.process_new_packets().map_err(std::io::Error::other)?;
            let mut left = state.plaintext_bytes_to_read();
            while left > 0 {
                let take = session.reader().read(&mut piece[..left.min(PIECE_BYTES)])?;
                self.passed.fetch_add(take, Ordering::AcqRel);
                write_inner.write_all(&piece[..take])?;
                left -= take;
            }
            while session.wants_write() {
                session.write_tls(outer)?;
            }
            if state.peer_has_closed() {
                return Ok(());
            }
            let (from_client, from_server) = ready(outer, inner)?;
            if from_server {
                match read_inner.read(&mut piece)? {
                    0 => {
                        if polite {
                            session.send_close_notify();
                            session.write_tls(outer)?;
                        }
                        return outer.shutdown(Shutdown::Write);
                    }
                    n => session.writer().write_all(&piece[..n])?,
                }
            }
            if from_client && session.read_tls(outer)? == 0 {
                return Ok(());
            }
        }
    }
}

fn ready(outer: &TcpStream, inner: &TcpStream) -> std::io::Result<(bool, bool)> {
    let mut both = [PollFd::new(outer, PollFlags::IN), PollFd::new(inner, PollFlags::IN)];
    let wait = rustix::event::Timespec::try_from(LOOK).expect("a short time");
    poll(&mut both, Some(&wait))?;
    Ok((!both[0].revents().is_empty(), !both[1].revents().is_empty()))
}

fn held<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(|held| held.into_inner())
}

/// Trusts an authority's certificates, whatever name they are for.
#[derive(Debug)]
struct AnyName(Arc<WebPkiServerVerifier>);

impl ServerCertVerifier for AnyName {
    fn verify_server_cert(
        &self,
        cert: &CertificateDer<'_>,
        chain: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        match self.0.verify_server_cert(cert, chain, name, ocsp, now) {
            Err(Error::InvalidCertificate(
                CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. },
            )) => Ok(ServerCertVerified::assertion()),
            other => other,
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.0.verify_tls12_signature(message, cert, signed)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.0.verify_tls13_signature(message, cert, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.supported_verify_schemes()
    }
}

/// Shows its certificate, whoever is said to be trusted.
#[derive(Debug)]
struct Shows(Arc<rustls::sign::CertifiedKey>);

impl rustls::client::ResolvesClientCert for Shows {
    fn resolve(&self, _: &[&[u8]], _: &[SignatureScheme]) -> Option<Arc<rustls::sign::CertifiedKey>> {
        Some(self.0.clone())
    }

    fn has_certs(&self) -> bool {
        true
    }
}
