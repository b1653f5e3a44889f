//! TLS: a certificate for the gateway that nobody else trusts, and the client's side.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::sync::Arc;

use anyhow::{Context as _, bail};
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};

use crate::reply::Reader;

/// What both sides need.
pub(super) struct Trust {
    pub(super) certificate: String,
    pub(super) key: String,
    client: Arc<ClientConfig>,
}

/// An encrypted connection.
pub(super) type Secured = StreamOwned<ClientConnection, TcpStream>;

impl Trust {
    pub(super) fn new() -> anyhow::Result<Self> {
        let made = rcgen::generate_simple_self_signed(vec!["127.0.0.1".to_owned()]).context("a certificate")?;
        let mut roots = RootCertStore::empty();
        roots.add(made.cert.der().clone()).context("a certificate")?;
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let client = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .context("TLS")?
            .with_root_certificates(roots)
            .with_no_client_auth();
        Ok(Self { certificate: made.cert.pem(), key: made.signing_key.serialize_pem(), client: Arc::new(client) })
    }

    /// The handshake, to its end.
    pub(super) fn connect(&self, mut socket: TcpStream) -> anyhow::Result<Secured> {
        let name = ServerName::try_from("127.0.0.1").context("a name")?;
        let mut session = ClientConnection::new(Arc::clone(&self.client), name).context("TLS")?;
        while session.is_handshaking() {
            session.complete_io(&mut socket).context("handshake")?;
        }
        Ok(StreamOwned::new(session, socket))
    }
}

/// As `exchange::exchange`.
pub(super) fn exchange(stream: &mut Secured, request: &[u8]) -> anyhow::Result<Reader> {
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
