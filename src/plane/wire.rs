//! A blocking connection of the plane's, plain or encrypted, on which everything ends at a moment that the caller says.

use std::io::{self, IoSlice, Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use rustls::ClientConnection;

use crate::base::limits::PLANE_FAREWELL_MS_MAX;
use crate::tls::config::ClientSide;

/// A connection to a server.
#[derive(Debug)]
pub(super) struct Wire {
    socket: TcpStream,
    tls: Option<Box<ClientConnection>>,
}

impl Wire {
    /// Over a socket that is connected; the handshake, where there is one, ends by `until`.
    ///
    /// # Errors
    /// Of the socket; `InvalidData` for a certificate that is not trusted, or another fault of the handshake.
    pub(super) fn new(socket: TcpStream, side: Option<&ClientSide>, until: Instant) -> io::Result<Self> {
        let _ = socket.set_nodelay(true);
        let Some(side) = side else { return Ok(Self { socket, tls: None }) };
        let mut tls = ClientConnection::new(side.config.clone(), side.name.clone()).map_err(io::Error::other)?;
        let mut timed = Timed { socket: &socket, until };
        while tls.is_handshaking() {
            if let Err(fault) = tls.complete_io(&mut timed) {
                // Its alert, if there is one; nobody waits for what comes of it.
                while tls.wants_write() && tls.write_tls(&mut timed).is_ok() {}
                return Err(fault);
            }
        }
        Ok(Self { socket, tls: Some(Box::new(tls)) })
    }

    /// To be waited on, unless there is more already.
    pub(super) fn socket(&self) -> &TcpStream {
        &self.socket
    }

    /// Whether decrypted bytes are here, which no wait on the socket would find.
    pub(super) fn has_more(&mut self) -> bool {
        let state = self.tls.as_mut().and_then(|tls| tls.process_new_packets().ok());
        state.is_some_and(|state| state.plaintext_bytes_to_read() > 0)
    }

    /// Reads once. `Some(0)` is the end, said by the server; `None` is a part of a record, or talk of the protocol's
    /// own.
    ///
    /// # Errors
    /// `TimedOut` or `WouldBlock` at `until`; `UnexpectedEof` for the end of an encrypted connection without a
    /// farewell; else what is wrong with the connection.
    pub(super) fn read_some(&mut self, into: &mut [u8], until: Instant) -> io::Result<Option<usize>> {
        let mut timed = Timed { socket: &self.socket, until };
        let Some(tls) = &mut self.tls else { return timed.read(into).map(Some) };
        if let Some(got) = decrypted(tls, into)? {
            return Ok(Some(got));
        }
        tls.read_tls(&mut timed)?;
        let processed = tls.process_new_packets();
        // Its alert, if it is wrong.
        while tls.wants_write() {
            tls.write_tls(&mut timed)?;
        }
        processed.map_err(|fault| io::Error::new(io::ErrorKind::InvalidData, fault))?;
        decrypted(tls, into)
    }

    /// Writes everything.
    ///
    /// # Errors
    /// `TimedOut` or `WouldBlock` at `until`; else what is wrong with the connection.
    pub(super) fn write_all(&mut self, mut bytes: &[u8], until: Instant) -> io::Result<()> {
        let mut timed = Timed { socket: &self.socket, until };
        let Some(tls) = &mut self.tls else { return timed.write_all(bytes) };
        while !bytes.is_empty() {
            // It takes as much as it has room for.
            let taken = tls.writer().write(bytes)?;
            bytes = &bytes[taken..];
            while tls.wants_write() {
                tls.write_tls(&mut timed)?;
            }
        }
        Ok(())
    }
}

impl Drop for Wire {
    /// A courtesy to the server, which would write down a connection that was cut.
    fn drop(&mut self) {
        if let Some(tls) = &mut self.tls {
            let until = Instant::now() + Duration::from_millis(PLANE_FAREWELL_MS_MAX);
            tls.send_close_notify();
            let _ = tls.write_tls(&mut Timed { socket: &self.socket, until });
        }
    }
}

/// What has been decrypted; `None` for nothing yet.
fn decrypted(tls: &mut ClientConnection, into: &mut [u8]) -> io::Result<Option<usize>> {
    match tls.reader().read(into) {
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(None),
        result => result.map(Some),
    }
}

/// A socket on which each read and write has what is left of the time.
struct Timed<'a> {
    socket: &'a TcpStream,
    until: Instant,
}

impl Timed<'_> {
    fn left(&self) -> io::Result<Option<Duration>> {
        let left = self.until.saturating_duration_since(Instant::now());
        if left.is_zero() { Err(io::ErrorKind::TimedOut.into()) } else { Ok(Some(left)) }
    }
}

impl Read for Timed<'_> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        self.socket.set_read_timeout(self.left()?)?;
        self.socket.read(into)
    }
}

impl Write for Timed<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.socket.set_write_timeout(self.left()?)?;
        self.socket.write(bytes)
    }

    fn write_vectored(&mut self, pieces: &[IoSlice<'_>]) -> io::Result<usize> {
        self.socket.set_write_timeout(self.left()?)?;
        self.socket.write_vectored(pieces)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
#[path = "wire_tests.rs"]
mod tests;
