//! tls: encrypted connections, driven by hand over the shard's buffers.
//! Colour: shard. Owns: TLS sessions of connections, and the configurations they are made from.
//! Not here: files (the plane reads them), which listener or server wants TLS (config), what the bytes mean.
//! Start at `stream::Stream`.
//! Spec: RFC 8446 (TLS 1.3), RFC 5246 (TLS 1.2), RFC 7301 (ALPN), RFC 6066 (server name).

pub mod config;
pub mod der;
pub mod fault;
mod session;
pub mod stream;
mod tickets;

pub use fault::TlsFault;

#[cfg(test)]
mod tests;
