//! upstream: the other side of a call.
//! Colour: shard. Owns: this shard's connections to servers, and the one way to send something there.
//! Not here: what the bytes mean, who may send them (a `Clearance` proves it), name resolution, retries of calls.
//! Start at `exchange::Upstreams::exchange`.
//! Spec: RFC 9112 (HTTP/1.1) as a client; MCP basic/transports.

pub mod breaker;
mod bridge;
pub mod dial;
pub mod exchange;
pub mod inbox;
mod lines;
pub mod pick;
pub mod pair;
pub mod pool;
pub mod shown;
pub mod state;

/// What went wrong between us and a server. The caller learns only the kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum UpstreamFault {
    /// None of its addresses accepts a connection; nothing was sent.
    #[error("the server cannot be reached")]
    Unreachable,
    /// It did not prove by TLS who it is; nothing was sent.
    #[error("the server's TLS handshake failed")]
    Untrusted,
    /// Its name has no address at the moment; nothing was sent.
    #[error("the server's name does not resolve")]
    NoAddress,
    /// No buffer is free; nothing was sent.
    #[error("no memory is free for this call")]
    NoBuffer,
    /// No answer within the call's time; the server may have executed it.
    #[error("the server did not answer in time")]
    Timeout,
    /// The connection ended before the answer did; the server may have executed the call.
    #[error("the server closed the connection before it had answered")]
    Cut,
    /// What came back is not an HTTP answer we accept.
    #[error("the server's answer is not acceptable HTTP")]
    BadAnswer,
    /// Its breaker is open, for so long at least; nothing was sent.
    #[error("the server is not asked at the moment, because it did not answer")]
    Unhealthy {
        /// Milliseconds.
        retry_ms: u64,
    },
    /// We ended it: the caller left, or the gateway is stopping.
    #[error("the call was abandoned")]
    Abandoned,
    /// The same, before anything was sent.
    #[error("the call was withdrawn")]
    Withdrawn,
}

impl UpstreamFault {
    /// Whether it is certain that nothing was sent.
    #[must_use]
    pub fn is_unsent(self) -> bool {
        match self {
            Self::Unreachable | Self::Untrusted | Self::NoAddress | Self::NoBuffer => true,
            Self::Unhealthy { .. } | Self::Withdrawn => true,
            Self::Timeout | Self::Cut | Self::BadAnswer | Self::Abandoned => false,
        }
    }
}
