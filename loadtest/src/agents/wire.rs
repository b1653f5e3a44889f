//! Connections that never block, with TLS where the URL says so.

use std::io::{self, ErrorKind, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream, ToSocketAddrs as _};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail, ensure};
use rustix::net::{AddressFamily, SocketFlags, SocketType};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore};

use crate::net;
use crate::reply::Reader;

/// Where systems keep the certificates they trust.
const SYSTEM_CAS: [&str; 4] = [
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/ssl/cert.pem",
];

/// Where requests go.
#[derive(Clone, Debug)]
pub(super) struct Endpoint {
    address: SocketAddr,
    /// As the `Host` field says it.
    pub(super) host: String,
    pub(super) path: String,
    /// Whom the certificate is for.
    name: Option<ServerName<'static>>,
    config: Option<Arc<ClientConfig>>,
}

/// A connection.
pub(super) struct Wire {
    pub(super) socket: TcpStream,
    tls: Option<Box<ClientConnection>>,
    out: Vec<u8>,
    sent: usize,
    connected: bool,
}

impl Endpoint {
    /// From `http://` or `https://HOST:PORT/PATH`; [`Endpoint::trust`] before an `https` one is used.
    pub(super) fn parse(url: &str) -> anyhow::Result<Self> {
        let (secure, rest) = match (url.strip_prefix("http://"), url.strip_prefix("https://")) {
            (Some(rest), _) => (false, rest),
            (_, Some(rest)) => (true, rest),
            _ => bail!("{url}: starts with neither http:// nor https://"),
        };
        let (host, path) = rest.find('/').map_or((rest, "/"), |slash| rest.split_at(slash));
        let clean = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_graphic());
        ensure!(clean(host) && clean(path) && !host.contains('@'), "{url}: no host, or blanks, or a user");
        let has_port = host.rsplit(']').next().is_some_and(|end| end.contains(':'));
        let named = if has_port { host.to_owned() } else { format!("{host}:{}", if secure { 443 } else { 80 }) };
        let addresses = named.to_socket_addrs().with_context(|| format!("{host} does not resolve"))?;
        let address = addresses.into_iter().next().with_context(|| format!("{host} has no address"))?;
        let bare = if has_port { host.rsplit_once(':').map_or(host, |(bare, _)| bare) } else { host };
        let bare = bare.trim_start_matches('[').trim_end_matches(']').to_owned();
        let name = if secure { Some(ServerName::try_from(bare).with_context(|| url.to_owned())?) } else { None };
        Ok(Self { address, host: host.to_owned(), path: path.to_owned(), name, config: None })
    }

    /// The same, with the certificates it may show: those of `ca`, or the system's.
    pub(super) fn trust(mut self, ca: Option<&Path>) -> anyhow::Result<Self> {
        if self.name.is_none() {
            return Ok(self);
        }
        let found = SYSTEM_CAS.iter().map(Path::new).find(|file| file.is_file());
        let file = ca.or(found).context("no certificates to trust: --ca FILE")?;
        let mut roots = RootCertStore::empty();
        for certificate in CertificateDer::pem_file_iter(file).with_context(|| file.display().to_string())? {
            let certificate = certificate.with_context(|| file.display().to_string())?;
            // Systems keep some that rustls does not take.
            let taken = roots.add(certificate);
            if ca.is_some() {
                taken.with_context(|| file.display().to_string())?;
            }
        }
        ensure!(!roots.is_empty(), "{}: no certificates", file.display());
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config =
            ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().context("TLS")?;
        self.config = Some(Arc::new(config.with_root_certificates(roots).with_no_client_auth()));
        Ok(self)
    }

    pub(super) fn is_local(&self) -> bool {
        self.address.ip().is_loopback()
    }
}

impl Wire {
    /// Begins to connect. On loopback from an address that `number` chooses: many connections to one port need several.
    pub(super) fn open(endpoint: &Endpoint, number: usize) -> io::Result<Self> {
        let v4 = endpoint.address.is_ipv4();
        let family = if v4 { AddressFamily::INET } else { AddressFamily::INET6 };
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let socket = rustix::net::socket_with(family, SocketType::STREAM, flags, None)?;
        if v4 && endpoint.is_local() {
            rustix::net::sockopt::set_socket_reuseaddr(&socket, true)?;
            let last = u8::try_from(1 + number % 16).unwrap_or(1);
            rustix::net::bind(&socket, &SocketAddr::from(([127, 0, 1, last], 0)))?;
        }
        match rustix::net::connect(&socket, &endpoint.address) {
            Ok(()) | Err(rustix::io::Errno::INPROGRESS) => {}
            Err(error) => return Err(error.into()),
        }
        let socket = TcpStream::from(socket);
        socket.set_nodelay(true)?;
        let tls = match (&endpoint.config, &endpoint.name) {
            (Some(config), Some(name)) => {
                let mut tls = ClientConnection::new(Arc::clone(config), name.clone()).map_err(io::Error::other)?;
                tls.set_buffer_limit(None);
                Some(Box::new(tls))
            }
            (None, Some(_)) => return Err(io::Error::other("TLS without certificates to trust")),
            _ => None,
        };
        Ok(Self { socket, tls, out: Vec::new(), sent: 0, connected: false })
    }

    /// Where to put what is to be sent.
    pub(super) fn output(&mut self) -> &mut Vec<u8> {
        if self.sent == self.out.len() {
            self.out.clear();
            self.sent = 0;
        }
        &mut self.out
    }

    /// Whether something waits for the socket to take it.
    pub(super) fn waits(&self) -> bool {
        !self.connected || self.sent < self.out.len() || self.tls.as_ref().is_some_and(|tls| tls.wants_write())
    }

    /// Sends what can be sent, and appends to `input` what has come; whether the other side has ended.
    pub(super) fn advance(&mut self, piece: &mut [u8], input: &mut Vec<u8>) -> io::Result<bool> {
        if !self.connected {
            if let Some(error) = self.socket.take_error()? {
                return Err(error);
            }
            match self.socket.peer_addr() {
                Ok(_) => self.connected = true,
                Err(error) if error.kind() == ErrorKind::NotConnected => return Ok(false),
                Err(error) => return Err(error),
            }
        }
        match self.send() {
            // Whatever the other side said before it closed is still to be read.
            Err(error) if error.kind() == ErrorKind::BrokenPipe => {}
            sent => sent?,
        }
        let ended = self.receive(piece, input)?;
        // A handshake answers.
        if !ended && self.waits() {
            self.send()?;
        }
        Ok(ended)
    }

    fn send(&mut self) -> io::Result<()> {
        let Self { socket, tls, out, sent, .. } = self;
        let mut write = |bytes: &[u8]| loop {
            match socket.write(bytes) {
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(None),
                written => return written.map(Some),
            }
        };
        let Some(tls) = tls else {
            while *sent < out.len() {
                let Some(written) = write(&out[*sent..])? else { return Ok(()) };
                *sent += written;
            }
            return Ok(());
        };
        if *sent < out.len() {
            tls.writer().write_all(&out[*sent..])?;
            *sent = out.len();
        }
        while tls.wants_write() {
            match tls.write_tls(&mut *socket) {
                Ok(_) => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    fn receive(&mut self, piece: &mut [u8], input: &mut Vec<u8>) -> io::Result<bool> {
        loop {
            let read = match &mut self.tls {
                None => self.socket.read(piece),
                Some(tls) => tls.read_tls(&mut self.socket),
            };
            match read {
                Ok(0) => return Ok(true),
                Ok(read) => match &mut self.tls {
                    None => {
                        input.extend_from_slice(&piece[..read]);
                        // Less than there was room for: no more is there, most likely.
                        if read < piece.len() {
                            return Ok(false);
                        }
                    }
                    Some(tls) => {
                        let state = tls.process_new_packets().map_err(io::Error::other)?;
                        let from = input.len();
                        input.resize(from + state.plaintext_bytes_to_read(), 0);
                        tls.reader().read_exact(&mut input[from..])?;
                        if state.peer_has_closed() {
                            return Ok(true);
                        }
                    }
                },
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(false),
                Err(error) => return Err(error),
            }
        }
    }
}

/// One request and its answer, outside of what is measured.
pub(super) fn exchange(endpoint: &Endpoint, request: &[u8], patience: Duration) -> anyhow::Result<Reader> {
    let mut poll = net::Poll::new()?;
    let mut wire = Wire::open(endpoint, 0)?;
    poll.add(&wire.socket, 0, net::Interest::ReadWrite)?;
    wire.output().extend_from_slice(request);
    let (mut reader, mut piece, mut keys) = (Reader::default(), [0; 4096], Vec::new());
    let until = Instant::now() + patience;
    loop {
        let left = until.saturating_duration_since(Instant::now());
        ensure!(!left.is_zero(), "no answer within {} s", patience.as_secs());
        poll.wait(left, &mut keys)?;
        let ended = wire.advance(&mut piece, reader.input())?;
        if reader.advance()? {
            return Ok(reader);
        }
        ensure!(!ended, "the connection ended before the answer did");
        let interest = if wire.waits() { net::Interest::ReadWrite } else { net::Interest::Read };
        poll.modify(&wire.socket, 0, interest)?;
    }
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    #[test]
    fn urls() {
        let plain = Endpoint::parse("http://127.0.0.1:81/s/echo/mcp").expect("a URL");
        assert_eq!((plain.address.port(), plain.path.as_str(), plain.is_local()), (81, "/s/echo/mcp", true));
        assert_eq!(Endpoint::parse("http://[::1]").expect("a URL").address.port(), 80);
        let secure = Endpoint::parse("https://127.0.0.1/mcp").expect("a URL");
        assert_eq!((secure.address.port(), secure.name.is_some()), (443, true));
        for wrong in ["127.0.0.1:80", "ftp://127.0.0.1/", "http:///mcp", "http://127.0.0.1/a b", "http://a@127.0.0.1/"]
        {
            assert!(Endpoint::parse(wrong).is_err(), "{wrong}");
        }
    }

    /// What is said once over a connection, with TLS or without.
    fn said(secure: bool) -> String {
        let made = rcgen::generate_simple_self_signed(vec!["127.0.0.1".to_owned()]).expect("a certificate");
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let port = listener.local_addr().expect("an address").port();
        let key = rustls::pki_types::PrivateKeyDer::try_from(made.signing_key.serialize_der()).expect("a key");
        let ca = std::env::temp_dir().join(format!("loadtest-wire-{port}.pem"));
        std::fs::write(&ca, made.cert.pem()).expect("the temporary folder can be written");
        let answer = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi";
        let serving = std::thread::spawn(move || {
            let (mut socket, _) = listener.accept().expect("a connection");
            let mut piece = [0; 64];
            if !secure {
                let read = socket.read(&mut piece).expect("a request");
                socket.write_all(answer).expect("it is open");
                return String::from_utf8_lossy(&piece[..read]).into_owned();
            }
            let provider = Arc::new(rustls::crypto::ring::default_provider());
            let config = rustls::ServerConfig::builder_with_provider(provider);
            let config = config.with_safe_default_protocol_versions().expect("TLS").with_no_client_auth();
            let config = config.with_single_cert(vec![made.cert.der().clone()], key).expect("a certificate");
            let session = rustls::ServerConnection::new(Arc::new(config)).expect("TLS");
            let mut stream = rustls::StreamOwned::new(session, socket);
            let read = stream.read(&mut piece).expect("a request");
            stream.write_all(answer).expect("it is open");
            stream.flush().expect("it is open");
            String::from_utf8_lossy(&piece[..read]).into_owned()
        });
        let scheme = if secure { "https" } else { "http" };
        let endpoint = Endpoint::parse(&format!("{scheme}://127.0.0.1:{port}/")).expect("a URL");
        let endpoint = endpoint.trust(Some(&ca)).expect("a certificate");
        let reader = exchange(&endpoint, b"GET / HTTP/1.1\r\n\r\n", Duration::from_secs(20)).expect("an answer");
        assert_eq!((reader.status(), reader.body()), (200, &b"hi"[..]));
        std::fs::remove_file(ca).expect("it is there");
        serving.join().expect("it ends")
    }

    #[test]
    fn plain_and_secure() {
        assert_eq!(said(false), "GET / HTTP/1.1\r\n\r\n");
        assert_eq!(said(true), "GET / HTTP/1.1\r\n\r\n");
    }

    #[test]
    fn a_port_nobody_listens_on() {
        let port = net::free_port().expect("a port");
        let endpoint = Endpoint::parse(&format!("http://127.0.0.1:{port}/")).expect("a URL");
        assert!(exchange(&endpoint, b"x", Duration::from_secs(20)).is_err());
    }
}
