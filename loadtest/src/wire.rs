//! The client's side of a connection, plain or encrypted, and a certificate for servers that nobody else trusts.

use std::fmt;
use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, bail};
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};

use crate::net;
use crate::reply::Reader;
use crate::traffic::Target;

/// What both sides need.
pub(crate) struct Trust {
    pub(crate) certificate: String,
    pub(crate) key: String,
    client: Trusting,
}

/// A client that believes one certificate.
#[derive(Clone)]
pub(crate) struct Trusting(Arc<ClientConfig>);

/// An encrypted connection.
pub(crate) type Secured = StreamOwned<ClientConnection, TcpStream>;

/// A connection.
pub(crate) enum Wire {
    Plain(TcpStream),
    Secured(Box<Secured>),
}

impl Trust {
    pub(crate) fn new() -> anyhow::Result<Self> {
        let made = rcgen::generate_simple_self_signed(vec!["127.0.0.1".to_owned()]).context("a certificate")?;
        let mut roots = RootCertStore::empty();
        roots.add(made.cert.der().clone()).context("a certificate")?;
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let client = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .context("TLS")?
            .with_root_certificates(roots)
            .with_no_client_auth();
        let client = Trusting(Arc::new(client));
        Ok(Self { certificate: made.cert.pem(), key: made.signing_key.serialize_pem(), client })
    }

    /// What clients need alone.
    pub(crate) fn client(&self) -> Trusting {
        self.client.clone()
    }

    /// The handshake, to its end.
    pub(crate) fn connect(&self, socket: TcpStream) -> anyhow::Result<Secured> {
        self.client.connect(socket)
    }
}

impl Trusting {
    fn connect(&self, mut socket: TcpStream) -> anyhow::Result<Secured> {
        let name = ServerName::try_from("127.0.0.1").context("a name")?;
        let mut session = ClientConnection::new(Arc::clone(&self.0), name).context("TLS")?;
        while session.is_handshaking() {
            session.complete_io(&mut socket).context("handshake")?;
        }
        Ok(StreamOwned::new(session, socket))
    }
}

impl fmt::Debug for Trusting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Trusting")
    }
}

impl Wire {
    /// A connection that blocks, for `patience` at most in each call; encrypted where the target is.
    pub(crate) fn connect(target: &Target, patience: Duration) -> anyhow::Result<Self> {
        let socket = net::connect(target.address, patience).context("connecting")?;
        Ok(match &target.trusting {
            None => Self::Plain(socket),
            Some(trusting) => Self::Secured(Box::new(trusting.connect(socket)?)),
        })
    }

    pub(crate) fn set_nonblocking(&self, nonblocking: bool) -> io::Result<()> {
        self.socket().set_nonblocking(nonblocking)
    }

    /// Whether there is more to read that has left the socket already, so that nobody would tell.
    pub(crate) fn has_more(&self) -> bool {
        match self {
            Self::Plain(_) => false,
            Self::Secured(stream) => !stream.conn.wants_read(),
        }
    }

    /// The version of TLS, where there is any.
    pub(crate) fn version(&self) -> Option<String> {
        match self {
            Self::Plain(_) => None,
            Self::Secured(stream) => stream.conn.protocol_version().map(|version| format!("{version:?}")),
        }
    }

    fn socket(&self) -> &TcpStream {
        match self {
            Self::Plain(socket) => socket,
            Self::Secured(stream) => &stream.sock,
        }
    }
}

impl Read for Wire {
    fn read(&mut self, piece: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Plain(socket) => socket.read(piece),
            Self::Secured(stream) => stream.read(piece),
        }
    }
}

impl Write for Wire {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Plain(socket) => socket.write(bytes),
            Self::Secured(stream) => stream.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match self {
            Self::Plain(socket) => socket.flush(),
            Self::Secured(stream) => stream.flush(),
        }
    }
}

impl AsFd for Wire {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket().as_fd()
    }
}

/// As `exchange::exchange`, in small pieces.
pub(crate) fn exchange(stream: &mut Secured, request: &[u8]) -> anyhow::Result<Reader> {
    stream.write_all(request).context("sending")?;
    let mut reader = Reader::default();
    let mut piece = [0; 4096];
    loop {
        let read = stream.read(&mut piece).context("waiting for an answer")?;
        if read == 0 {
            bail!("the connection ended before the answer did");
        }
        reader.input().extend_from_slice(&piece[..read]);
        if reader.advance()? {
            return Ok(reader);
        }
    }
}
