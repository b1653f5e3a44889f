//! A connection, plain or encrypted.
//!
//! Records must be sent in the order they were encrypted in. So all of them go through one queue of the session, and
//! one writer at a time empties it; what comes up while receiving joins the queue, and is sent by whoever sends at
//! that moment, or at once when nobody does and the kernel takes it without waiting, or else with the next send.

use std::cell::{Cell, RefCell};
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::ops::ControlFlow;
use std::rc::Rc;
use std::sync::{Arc, OnceLock};

use rustls::client::UnbufferedClientConnection;
use rustls::server::{ClientHello, ResolvesServerCert, ServerConfig, UnbufferedServerConnection};
use rustls::sign::CertifiedKey;

use crate::base::limits::{
    BUFFER_BYTES, TLS_HANDSHAKE_BYTES_MAX, TLS_INCOMING_BYTES_MAX, TLS_LOOKS_MAX, TLS_PIECE_BYTES,
    TLS_REFUSED_DRAIN_BYTES_MAX, WAITING_BYTES,
};
use crate::base::time::Moment;
use crate::tls::config::ClientSide;
use crate::tls::fault::TlsFault;
use crate::tls::session::{Moved, Session, Side, Step};
use crate::uring::buffer::{Buffer, Pool};
use crate::uring::socket::{Given, Peek, Socket};
use crate::uring::wait::Timers;

/// A connection, plain or encrypted. Clones are the same connection.
///
/// Dropped without [`Stream::shutdown`], an encrypted one ends without a farewell, and what the peer has of a message
/// does not look complete to it.
#[derive(Clone)]
pub struct Stream {
    kind: Kind,
}

#[derive(Clone)]
enum Kind {
    Plain(Socket),
    Tls(Rc<Tls>),
}

/// A connection between two shards, with what TLS knows of it.
pub struct Parts {
    given: Given,
    tls: Option<TlsParts>,
}

struct TlsParts {
    session: Moved,
    server_name: Option<Box<str>>,
    client_verified: bool,
}

struct Tls {
    socket: Socket,
    session: RefCell<Session>,
    /// A receive is in flight.
    receiving: Cell<bool>,
    /// A send is in flight.
    writing: Cell<bool>,
    server_name: Option<Rc<str>>,
    client_verified: bool,
}

impl Stream {
    /// Bytes as they are.
    #[must_use]
    pub fn plain(socket: Socket) -> Self {
        Self { kind: Kind::Plain(socket) }
    }

    /// The server's side of a handshake over `socket`, which is whoever calls this to set a deadline for. After a
    /// failed one the peer has got its alert.
    ///
    /// # Errors
    /// `Protocol` for whatever the client does wrong, or for which it is refused; `Cut` when it leaves, or the deadline
    /// came.
    pub async fn accept(socket: Socket, config: &Arc<ServerConfig>, buffers: &Pool) -> Result<Self, TlsFault> {
        // rustls hands the name to whoever chooses the certificate, and to nobody else.
        let asked = Arc::new(Asked { resolver: config.cert_resolver.clone(), name: OnceLock::new() });
        let mut config = ServerConfig::clone(config);
        config.cert_resolver = asked.clone();
        let server = UnbufferedServerConnection::new(Arc::new(config)).map_err(TlsFault::Config)?;
        let session = Session::new(Side::Server(server), buffers);
        let session = Box::pin(handshake(&socket, session, TLS_HANDSHAKE_BYTES_MAX)).await?;
        let client_verified = session.has_peer_certificate();
        let server_name = asked.name.get().map(|name| Rc::from(&**name));
        Ok(Self::tls(socket, session, server_name, client_verified))
    }

    /// The client's side of a handshake over `socket`, which is whoever calls this to set a deadline for.
    ///
    /// # Errors
    /// `Protocol` for whatever the server does wrong, or for which we refuse it or it refuses us; `Cut` when it leaves,
    /// or the deadline came.
    pub async fn connect(socket: Socket, side: &ClientSide, buffers: &Pool) -> Result<Self, TlsFault> {
        let client = UnbufferedClientConnection::new(side.config.clone(), side.name.clone());
        let session = Session::new(Side::Client(client.map_err(TlsFault::Config)?), buffers);
        let session = Box::pin(handshake(&socket, session, TLS_INCOMING_BYTES_MAX)).await?;
        Ok(Self::tls(socket, session, None, false))
    }

    /// Gives the connection away, to be taken by [`Stream::from_parts`] on another shard. Nothing may be in flight but
    /// `wait`, which holds the stored wait of [`Stream::readable`] if there is one, and ends here; no clone may be left.
    ///
    /// # Errors
    /// Both come back as they were when the process may open no more files. `None`, and the connection is over, when
    /// there was a clone, or it is one that we began.
    pub fn into_parts<W>(self, wait: W) -> Result<Parts, Option<(Self, W)>> {
        let Ok(given) = self.socket().give() else { return Err(Some((self, wait))) };
        // Not before: the end of a wait ends its connection otherwise.
        drop(wait);
        match self.kind {
            Kind::Plain(_) => Ok(Parts { given, tls: None }),
            Kind::Tls(tls) => {
                let tls = Rc::try_unwrap(tls).ok().and_then(TlsParts::of).ok_or(None)?;
                Ok(Parts { given, tls: Some(tls) })
            }
        }
    }

    /// Goes on with a connection that another shard has given away.
    ///
    /// # Errors
    /// What epoll_ctl(2) says; `OutOfMemory` where the pool has no room for what has come.
    pub fn from_parts(parts: Parts, buffers: &Pool) -> io::Result<Self> {
        let socket = Socket::take(parts.given)?;
        let Some(TlsParts { session, server_name, client_verified }) = parts.tls else {
            return Ok(Self::plain(socket));
        };
        let session = Session::arrive(session, buffers).ok_or(io::ErrorKind::OutOfMemory)?;
        Ok(Self::tls(socket, session, server_name.map(Rc::from), client_verified))
    }

    /// The socket below, for deadlines and addresses. What is sent or received on it goes past the encryption.
    #[must_use]
    pub fn socket(&self) -> &Socket {
        match &self.kind {
            Kind::Plain(socket) => socket,
            Kind::Tls(tls) => &tls.socket,
        }
    }

    /// Whether it is encrypted.
    #[must_use]
    pub fn is_tls(&self) -> bool {
        matches!(self.kind, Kind::Tls(_))
    }

    /// Receives some bytes behind those that `buffer` holds already. One receive at a time; a send may be in flight
    /// beside it.
    ///
    /// `Ok(0)` is the end that the peer has announced: close_notify, or without TLS the end of its direction. An end
    /// of the connection without the former is `UnexpectedEof`, our own [`Stream::shutdown`] included: a message that
    /// was cut must not look complete (RFC 8446, 6.1). The error is `StorageFull` when `buffer` has no room,
    /// `OutOfMemory` when the pool has none (nothing is lost), `InvalidData` when the peer breaks the protocol.
    pub async fn recv(&self, buffer: Buffer) -> (io::Result<usize>, Buffer) {
        match &self.kind {
            Kind::Plain(socket) => socket.recv(buffer).await,
            // In a box, so that plain connections need no room for it; so below.
            Kind::Tls(tls) => Box::pin(tls.recv(buffer, None)).await,
        }
    }

    /// As [`Stream::recv`], but gives the buffer back at `until` when nothing has come: the error is then `TimedOut`,
    /// and the connection goes on.
    pub async fn recv_until(&self, buffer: Buffer, timers: &Timers, until: Moment) -> (io::Result<usize>, Buffer) {
        match &self.kind {
            Kind::Plain(socket) => socket.recv_until(buffer, timers, until).await,
            Kind::Tls(tls) => Box::pin(tls.recv(buffer, Some((timers, until)))).await,
        }
    }

    /// Begins the next receive now, so that [`Stream::peek_state`] costs no system call until then: for a connection that
    /// is kept for later. Does nothing where the connection is encrypted, or `buffers` are short.
    pub fn recv_ahead(&self, buffers: &Pool) {
        let Kind::Plain(socket) = &self.kind else { return };
        let room = socket.spare_buffer().filter(|_| buffers.is_roomy());
        if let Some(room) = room.or_else(|| buffers.is_roomy().then(|| buffers.get(BUFFER_BYTES)).flatten()) {
            socket.recv_ahead(room);
        }
    }

    /// Sends everything that `buffer` holds. One send at a time; a receive may be in flight beside it. The buffer
    /// comes back as it was.
    ///
    /// After an error nobody knows how much of it the peer has seen. `OutOfMemory` is a pool with no room to encrypt
    /// in. Never raises SIGPIPE.
    pub async fn send(&self, buffer: Buffer) -> (io::Result<()>, Buffer) {
        let len = buffer.len();
        match &self.kind {
            Kind::Plain(socket) => socket.send_slice(buffer, 0, len).await,
            Kind::Tls(tls) => Box::pin(tls.send(buffer, 0, len)).await,
        }
    }

    /// Sends the bytes `from..to` of what `buffer` holds; otherwise as [`Stream::send`].
    pub async fn send_slice(&self, buffer: Buffer, from: usize, to: usize) -> (io::Result<()>, Buffer) {
        match &self.kind {
            Kind::Plain(socket) => socket.send_slice(buffer, from, to).await,
            Kind::Tls(tls) => Box::pin(tls.send(buffer, from, to)).await,
        }
    }

    /// Waits until there is something to receive, be it the end, without receiving it. The future owns its share of
    /// the connection and is meant to be kept, polled by the task that also receives. Dropped while it waits, it shuts
    /// the connection down.
    pub fn readable(&self) -> impl Future<Output = io::Result<()>> + 'static {
        let kind = self.kind.clone();
        async move {
            match kind {
                Kind::Plain(socket) => socket.readable().await,
                Kind::Tls(tls) => Box::pin(Tls::readable(tls)).await,
            }
        }
    }

    /// Looks, without waiting, what there is to receive. Encrypted, what has come is decrypted and kept for the next
    /// receive: `Bytes` are bytes of the peer's, not the protocol's own. While a receive is in flight there is nothing
    /// beside it, and the connection is `Quiet`; `Bytes` is also a peer that says nothing at length, or a pool without
    /// room to look.
    #[must_use]
    pub fn peek_state(&self) -> Peek {
        match &self.kind {
            Kind::Plain(socket) => socket.peek_state(),
            // Where nothing can be found out, whoever counts on quiet must not get it.
            Kind::Tls(tls) => tls.look().unwrap_or(if tls.receiving.get() { Peek::Quiet } else { Peek::Bytes }),
        }
    }

    /// Tells the peer that nothing more comes from here; receiving goes on. Encrypted, the farewell comes first, if it
    /// can be sent without waiting.
    pub fn shutdown_write(&self) {
        if let Kind::Tls(tls) = &self.kind {
            tls.farewell();
        }
        self.socket().shutdown_write();
    }

    /// Ends both directions; idempotent. Encrypted, the farewell comes first, if it can be sent without waiting.
    /// Everything in flight ends.
    pub fn shutdown(&self) {
        if let Kind::Tls(tls) = &self.kind
            && !tls.socket.is_shutdown()
        {
            tls.farewell();
        }
        self.socket().shutdown();
    }

    /// Lets go of what an idle connection does not need. An encrypted one has given back each buffer as soon as it was
    /// empty, so only what is owed to the peer or to us is left, and stays.
    pub fn release(&self) {
        if let Kind::Tls(tls) = &self.kind {
            tls.flush_now();
        }
    }

    /// The name that the client asked for (RFC 6066, 3), in lower case.
    #[must_use]
    pub fn server_name(&self) -> Option<Rc<str>> {
        match &self.kind {
            Kind::Plain(_) => None,
            Kind::Tls(tls) => tls.server_name.clone(),
        }
    }

    /// Whether the client has shown a certificate of an authority that its listener trusts.
    #[must_use]
    pub fn client_verified(&self) -> bool {
        match &self.kind {
            Kind::Plain(_) => false,
            Kind::Tls(tls) => tls.client_verified,
        }
    }

    fn tls(socket: Socket, session: Session, server_name: Option<Rc<str>>, client_verified: bool) -> Self {
        let (receiving, writing) = (Cell::new(false), Cell::new(false));
        let session = RefCell::new(session);
        Self { kind: Kind::Tls(Rc::new(Tls { socket, session, receiving, writing, server_name, client_verified })) }
    }
}

impl Parts {
    /// The other end.
    #[must_use]
    pub fn peer_addr(&self) -> SocketAddr {
        self.given.peer_addr()
    }
}

impl TlsParts {
    fn of(tls: Tls) -> Option<Self> {
        let Tls { session, server_name, client_verified, .. } = tls;
        let session = session.into_inner().leave()?;
        Some(Self { session, server_name: server_name.as_deref().map(Box::from), client_verified })
    }
}

impl Tls {
    async fn recv(&self, mut buffer: Buffer, until: Option<(&Timers, Moment)>) -> (io::Result<usize>, Buffer) {
        if buffer.spare() == 0 {
            return (Err(io::ErrorKind::StorageFull.into()), buffer);
        }
        loop {
            let step = self.session.borrow_mut().advance(Some(&mut buffer));
            self.flush_now();
            match step {
                Ok(Step::Got(got)) => return (Ok(got), buffer),
                Ok(Step::Ended) => return (Ok(0), buffer),
                Ok(Step::Waiting | Step::Blocked) => {}
                Err(fault) => return (Err(fault.into()), buffer),
            }
            let landing = self.session.borrow().landing(buffer.spare(), TLS_INCOMING_BYTES_MAX);
            let landing = match landing {
                Ok(landing) => landing,
                Err(fault) => return (Err(fault.into()), buffer),
            };
            let flight = Flag::raise(&self.receiving);
            let (result, landing) = match until {
                None => self.socket.recv(landing).await,
                Some((timers, until)) => self.socket.recv_until(landing, timers, until).await,
            };
            drop(flight);
            if let ControlFlow::Break(fault) = self.landed(result, landing) {
                return (Err(fault), buffer);
            }
        }
    }

    /// Takes what was received; breaks where that was nothing. The end without a farewell is for `advance` to tell.
    fn landed(&self, result: io::Result<usize>, landing: Buffer) -> ControlFlow<io::Error> {
        let mut session = self.session.borrow_mut();
        match result {
            Ok(0) => session.cut(),
            Ok(_) => session.landed(landing),
            Err(fault) => return ControlFlow::Break(fault),
        }
        ControlFlow::Continue(())
    }

    async fn send(&self, buffer: Buffer, from: usize, to: usize) -> (io::Result<()>, Buffer) {
        if from > to || to > buffer.len() {
            return (Err(io::ErrorKind::InvalidInput.into()), buffer);
        }
        for piece in buffer[from..to].chunks(TLS_PIECE_BYTES) {
            let encrypted = self.session.borrow_mut().encrypt(piece);
            let sent = match encrypted {
                Ok(()) => self.flush().await,
                Err(fault) => Err(fault.into()),
            };
            if let Err(fault) = sent {
                return (Err(fault), buffer);
            }
        }
        (Ok(()), buffer)
    }

    /// Sends what is queued, and what joins it meanwhile.
    async fn flush(&self) -> io::Result<()> {
        let flight = Flag::raise(&self.writing);
        loop {
            let Some(records) = self.session.borrow_mut().take_outgoing() else { break };
            self.socket.send(records).await.0?;
        }
        drop(flight);
        Ok(())
    }

    /// Sends what is queued as far as that goes without waiting, unless it is being sent. The rest stays in the queue;
    /// a connection that has failed shows it elsewhere.
    fn flush_now(&self) {
        if self.writing.get() {
            return;
        }
        let mut session = self.session.borrow_mut();
        while let Some(records) = session.outgoing() {
            let Ok(sent) = self.socket.try_send(records) else { break };
            records.consume(sent);
            if records.is_empty() {
                session.take_outgoing();
            }
        }
    }

    async fn readable(tls: Rc<Self>) -> io::Result<()> {
        loop {
            if tls.session.borrow().has_news() {
                return Ok(());
            }
            tls.socket.readable().await?;
            // A receive that is in flight by now gets it; a pool without room is the receiver's to find out.
            if tls.look() != Some(Peek::Quiet) {
                return Ok(());
            }
        }
    }

    /// `None` when nothing could be found out: a receive is in flight, or there is no room.
    fn look(&self) -> Option<Peek> {
        for _ in 0..TLS_LOOKS_MAX {
            let step = self.session.borrow_mut().advance(None);
            self.flush_now();
            match step {
                Ok(Step::Blocked | Step::Got(_)) => {}
                Ok(Step::Waiting) => return Some(Peek::Bytes),
                Ok(Step::Ended) => return Some(Peek::Closed),
                Err(TlsFault::NoBuffer) => return None,
                Err(_) => return Some(Peek::Closed),
            }
            if self.receiving.get() {
                return None;
            }
            let Ok(mut landing) = self.session.borrow().landing(WAITING_BYTES, TLS_INCOMING_BYTES_MAX) else {
                return None;
            };
            let result = self.socket.try_recv(&mut landing);
            match self.landed(result, landing) {
                ControlFlow::Continue(()) => {}
                ControlFlow::Break(fault) if fault.kind() == io::ErrorKind::WouldBlock => return Some(Peek::Quiet),
                ControlFlow::Break(fault) if fault.kind() == io::ErrorKind::Interrupted => {}
                ControlFlow::Break(_) => return Some(Peek::Closed),
            }
        }
        None
    }

    fn farewell(&self) {
        // A record that is on its way may be cut by what follows; nothing can be said behind it.
        if self.writing.get() {
            return;
        }
        // Whatever is wrong with the session, ending it is right.
        let _ = self.session.borrow_mut().farewell();
        self.flush_now();
    }
}

/// Drives the handshake to its end. The incoming bytes never exceed `most`.
async fn handshake(socket: &Socket, mut session: Session, most: usize) -> Result<Session, TlsFault> {
    loop {
        let step = session.advance(None);
        if let Some(records) = session.take_outgoing() {
            // An alert that cannot be sent any more changes nothing.
            if let (Err(fault), Ok(_)) = (socket.send(records).await.0, &step) {
                return Err(TlsFault::Io(fault.kind()));
            }
        }
        match step {
            Ok(_) if !session.is_handshaking() => return Ok(session),
            Ok(_) => {}
            Err(fault) => {
                part(socket, session).await;
                return Err(fault);
            }
        }
        let landing = session.landing(WAITING_BYTES, most)?;
        let (received, landing) = socket.recv(landing).await;
        match received {
            Ok(0) => session.cut(),
            Ok(_) => session.landed(landing),
            Err(fault) => return Err(TlsFault::Io(fault.kind())),
        }
    }
}

/// After a failed handshake: a connection closed with bytes unread is reset, and the reset overtakes the alert. So
/// the peer is let finish, within bounds.
async fn part(socket: &Socket, session: Session) {
    socket.shutdown_write();
    let Ok(mut landing) = session.landing(WAITING_BYTES, TLS_INCOMING_BYTES_MAX) else { return };
    drop(session);
    let mut left = TLS_REFUSED_DRAIN_BYTES_MAX;
    loop {
        landing.clear();
        let (received, back) = socket.recv(landing).await;
        landing = back;
        match received {
            Ok(received) if received > 0 && received < left => left -= received,
            _ => return,
        }
    }
}

/// Chooses as `resolver` does, and remembers the name that was asked for.
#[derive(Debug)]
struct Asked {
    resolver: Arc<dyn ResolvesServerCert>,
    name: OnceLock<Box<str>>,
}

impl ResolvesServerCert for Asked {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        if let Some(name) = hello.server_name() {
            // Asked a second time after a HelloRetryRequest; rustls has seen to it that the name is the same.
            self.name.get_or_init(|| name.to_ascii_lowercase().into());
        }
        self.resolver.resolve(hello)
    }
}

/// Up while an operation is in flight.
struct Flag<'a>(&'a Cell<bool>);

impl<'a> Flag<'a> {
    fn raise(flag: &'a Cell<bool>) -> Self {
        flag.set(true);
        Self(flag)
    }
}

impl Drop for Flag<'_> {
    fn drop(&mut self) {
        self.0.set(false);
    }
}
