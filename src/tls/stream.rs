//! A connection, plain or encrypted.

use std::future::Future;
use std::io;
use std::pin::Pin;

use crate::base::time::Moment;
use crate::uring::buffer::Buffer;
use crate::uring::socket::{Peek, Socket};
use crate::uring::wait::Timers;

/// A connection, plain or encrypted. Clones are the same connection.
#[derive(Clone)]
pub struct Stream {
    socket: Socket,
}

impl Stream {
    /// Without TLS.
    #[must_use]
    pub fn plain(socket: Socket) -> Self {
        Self { socket }
    }
    /// x
    #[must_use]
    pub fn socket(&self) -> &Socket {
        &self.socket
    }
    /// x
    pub async fn recv(&self, buffer: Buffer) -> (io::Result<usize>, Buffer) {
        self.socket.recv(buffer).await
    }
    /// x
    pub async fn recv_until(&self, buffer: Buffer, timers: &Timers, until: Moment) -> (io::Result<usize>, Buffer) {
        self.socket.recv_until(buffer, timers, until).await
    }
    /// x
    pub async fn send(&self, buffer: Buffer) -> (io::Result<()>, Buffer) {
        self.socket.send(buffer).await
    }
    /// x
    pub fn readable(&self) -> Pin<Box<dyn Future<Output = io::Result<()>>>> {
        Box::pin(self.socket.readable())
    }
    /// x
    #[must_use]
    pub fn peek_state(&self) -> Peek {
        self.socket.peek_state()
    }
    /// x
    pub fn shutdown_write(&self) {
        self.socket.shutdown_write();
    }
    /// x
    pub fn shutdown(&self) {
        self.socket.shutdown();
    }
    /// x
    pub fn release(&self) {}
    /// x
    pub async fn accept(s: Socket, _c: &std::sync::Arc<rustls::ServerConfig>, _b: &crate::uring::buffer::Pool) -> Result<Self, super::TlsFault> {
        Ok(Self::plain(s))
    }
    /// x
    pub async fn connect(s: Socket, _c: &super::config::ClientSide, _b: &crate::uring::buffer::Pool) -> Result<Self, super::TlsFault> {
        Ok(Self::plain(s))
    }
    /// x
    #[must_use]
    pub fn client_verified(&self) -> bool {
        false
    }
    /// x
    #[must_use]
    pub fn server_name(&self) -> Option<std::rc::Rc<str>> {
        None
    }
    /// x
    #[must_use]
    pub fn is_tls(&self) -> bool {
        false
    }
}
