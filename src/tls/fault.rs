//! Everything that can be wrong with a certificate, a handshake or an encrypted connection.

use std::io;

/// What is wrong.
#[derive(Clone, Debug, thiserror::Error)]
pub enum TlsFault {
    /// The text is no PEM (RFC 7468), or a block in it is cut.
    #[error("the text is not PEM")]
    NotPem,
    /// There is no certificate in the text.
    #[error("there is no certificate in it")]
    NoCertificate,
    /// There is no private key in the text.
    #[error("there is no private key in it")]
    NoKey,
    /// A certificate cannot be read.
    #[error("the certificate cannot be read: {0}")]
    BadCertificate(rustls::Error),
    /// The private key cannot be read, or is of a kind that is not supported.
    #[error("the private key cannot be used: {0}")]
    BadKey(rustls::Error),
    /// The private key belongs to another certificate.
    #[error("the private key does not fit the certificate")]
    KeyMismatch,
    /// A listener without a certificate.
    #[error("there is no certificate to answer with")]
    NoPair,
    /// More pairs than `CERTIFICATES_MAX`.
    #[error("there are too many certificates")]
    TooManyPairs,
    /// Client certificates are asked for, and nobody is trusted to issue them.
    #[error("client certificates are asked for, but no authority is named that issues them")]
    NoClientAuthority,
    /// Nobody is trusted, so no server could be.
    #[error("no authority is trusted")]
    NoRoots,
    /// Two settings that rustls refuses together, or a provider that lacks what we ask of it.
    #[error("the configuration cannot be made: {0}")]
    Config(rustls::Error),
    /// The name is neither a host name nor an address.
    #[error("the name is neither a host name nor an address")]
    BadName,
    /// What the peer sent breaks the protocol, or what it is does not satisfy us; or the other way round.
    #[error("{0}")]
    Protocol(rustls::Error),
    /// The connection ended before the handshake did, or without the farewell that says it is complete
    /// (RFC 8446, 6.1).
    #[error("the connection was cut")]
    Cut,
    /// A handshake larger than we hold for it.
    #[error("the peer's handshake is too large")]
    TooLarge,
    /// The shard has no buffer left.
    #[error("no buffer is left")]
    NoBuffer,
    /// Something was to be sent after the farewell.
    #[error("this side has ended the connection")]
    Ended,
    /// The connection failed below TLS.
    #[error("{}", io::Error::from(*.0))]
    Io(io::ErrorKind),
}

impl TlsFault {
    /// Whether the two did not come to trust each other, as opposed to a connection that failed below TLS, or a lack of
    /// ours.
    #[must_use]
    pub fn is_untrusted(&self) -> bool {
        matches!(self, Self::Protocol(_) | Self::TooLarge | Self::BadName)
    }
}

impl From<TlsFault> for io::Error {
    fn from(fault: TlsFault) -> Self {
        let kind = match &fault {
            TlsFault::Cut => io::ErrorKind::UnexpectedEof,
            TlsFault::NoBuffer => io::ErrorKind::OutOfMemory,
            TlsFault::Ended => io::ErrorKind::BrokenPipe,
            TlsFault::Io(kind) => *kind,
            _ => io::ErrorKind::InvalidData,
        };
        Self::new(kind, fault)
    }
}
