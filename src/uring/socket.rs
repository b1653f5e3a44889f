//! TCP: listeners, connects, and sockets whose two directions may be in use at the same time.

use std::cell::{Cell, RefCell, UnsafeCell};
use std::fs::File;
use std::future::{Future, poll_fn};
use std::io;
use std::mem;
use std::net::SocketAddr;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use monoio::buf::{IoBuf, IoBufMut};
use monoio::io::{AsyncReadRent, AsyncWriteRent, CancelableAsyncReadRent, Canceller};
use monoio::net::{TcpListener, TcpStream};
use rustix::io::{Errno, FdFlags};
use rustix::ioctl;
use rustix::net::{RecvFlags, SendFlags, Shutdown};
use socket2::{Domain, Protocol, TcpKeepalive, Type};

use crate::base::limits::{KEEPALIVE_IDLE_MS, KEEPALIVE_PROBE_MS, KEEPALIVE_PROBES};
use crate::base::time::Moment;
use crate::uring::buffer::Buffer;
use crate::uring::ring::{spawn, take_turns};
use crate::uring::spin;
use crate::uring::wait::{Act, Due, Timers};

/// How to listen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Options {
    /// SO_REUSEPORT: several shards listen on one address, and the kernel spreads connections over them.
    pub reuse_port: bool,
    /// Connections the kernel keeps until they are accepted; it has a limit of its own, `net.core.somaxconn`.
    pub backlog: u16,
}

impl Default for Options {
    fn default() -> Self {
        Self { reuse_port: true, backlog: 4096 }
    }
}

/// Opens a listening socket; needs no runtime, so that a start can fail before any shard runs. Port 0 is a free one.
///
/// # Errors
/// The address is in use, not ours, or not allowed.
pub fn listen(addr: SocketAddr, options: Options) -> io::Result<std::net::TcpListener> {
    let socket = socket2::Socket::new(Domain::for_address(addr), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(options.reuse_port)?;
    // Linux hands this option down to accepted sockets: one call here instead of one per connection.
    socket.set_tcp_nodelay(true)?;
    // Handed down too: a client that vanished without a word is noticed.
    socket.set_tcp_keepalive(&keepalive())?;
    socket.bind(&addr.into())?;
    socket.listen(options.backlog.into())?;
    Ok(socket.into())
}

/// Three unanswered probes after some silence, and the connection is over.
fn keepalive() -> TcpKeepalive {
    TcpKeepalive::new()
        .with_time(Duration::from_millis(KEEPALIVE_IDLE_MS))
        .with_interval(Duration::from_millis(KEEPALIVE_PROBE_MS))
        .with_retries(KEEPALIVE_PROBES)
}

/// A listening socket of this shard.
pub struct Listener {
    listener: TcpListener,
    local_addr: SocketAddr,
    stopped: Cell<bool>,
    /// A descriptor to let go of when there is no other: without one, those that wait could not even be told to go.
    spare: RefCell<Option<File>>,
}

impl Listener {
    /// [`listen`] and [`Listener::from_std`].
    ///
    /// # Errors
    /// The address is in use, not ours, or not allowed.
    ///
    /// # Panics
    /// Outside `Driver::run`, as everything here.
    pub fn bind(addr: SocketAddr, options: Options) -> io::Result<Self> {
        Self::from_std(listen(addr, options)?)
    }

    /// Takes over a socket that [`listen`] opened.
    ///
    /// # Errors
    /// What fcntl(2), getsockname(2) or epoll_ctl(2) says.
    pub fn from_std(listener: std::net::TcpListener) -> io::Result<Self> {
        listener.set_nonblocking(monoio::utils::is_legacy())?;
        let local_addr = listener.local_addr()?;
        let (stopped, spare) = (Cell::new(false), RefCell::new(File::open(SPARE).ok()));
        Ok(Self { listener: TcpListener::from_std(listener)?, local_addr, stopped, spare })
    }

    /// Where it listens; with the port that was chosen for port 0.
    #[must_use]
    pub fn local_addr(&self) -> SocketAddr {
        self.local_addr
    }

    /// The next connection. Await it to its end and from one task only: what ends it early is [`Listener::stop`].
    ///
    /// # Errors
    /// After `stop`. Otherwise what concerns one connection (ECONNABORTED) or the lack of descriptors or memory
    /// (EMFILE, ENFILE, ENOBUFS, ENOMEM). With no descriptor left io_uring answers at once, connection or not:
    /// [`Listener::turn_away`], and sleep before the next try.
    pub async fn accept(&self) -> io::Result<(Socket, SocketAddr)> {
        let (stream, peer_addr) = self.listener.accept().await?;
        if monoio::utils::is_legacy() {
            take_turns().await;
        }
        let socket = Socket::new(stream, peer_addr);
        // io_uring's accept in monoio does not ask for it, and children of the plane must not inherit connections.
        rustix::io::fcntl_setfd(socket.inner.wire.fd(), FdFlags::CLOEXEC)?;
        Ok((socket, peer_addr))
    }

    /// With no descriptor left: accepts and closes what waits, at most `count` connections, so that clients see an end
    /// instead of silence. Says how many they were. Waits for nothing; no accept may be pending.
    pub fn turn_away(&self, count: usize) -> usize {
        let fd = self.fd();
        drop(self.spare.take());
        let mut gone = 0;
        // An accept that must not wait: the listener waits otherwise where io_uring drives it.
        if rustix::io::ioctl_fionbio(fd, true).is_ok() {
            while gone < count && rustix::net::accept(fd).is_ok() {
                gone += 1;
            }
            let _ = rustix::io::ioctl_fionbio(fd, monoio::utils::is_legacy());
        }
        // Somebody else may have been faster; then it is tried again the next time.
        self.spare.replace(File::open(SPARE).ok());
        gone
    }

    /// Ends a pending accept and refuses every later one, idempotently. What the kernel had not handed out is reset.
    pub fn stop(&self) {
        if !self.stopped.replace(true) {
            // Cannot fail on a listening socket of ours.
            let _ = rustix::net::shutdown(self.fd(), Shutdown::Both);
        }
    }

    fn fd(&self) -> BorrowedFd<'_> {
        // SAFETY: the listener owns the descriptor, and outlives this borrow.
        // JUSTIFICATION: monoio lends its descriptors only as raw numbers.
        unsafe { BorrowedFd::borrow_raw(self.listener.as_raw_fd()) }
    }

    /// Whether [`Listener::stop`] was called: an error of `accept` then is the end.
    #[must_use]
    pub fn is_stopped(&self) -> bool {
        self.stopped.get()
    }
}

/// Whether the system here lacks something (descriptors, memory, and of a connect to `to` source ports), as opposed to one
/// connection that failed.
#[must_use]
pub fn is_short(fault: &io::Error, to: SocketAddr) -> bool {
    let short = [Errno::MFILE, Errno::NFILE, Errno::NOBUFS, Errno::NOMEM];
    // Of the other family it says that there is none of it here at all.
    let ports = to.is_ipv4().then_some(Errno::ADDRNOTAVAIL);
    short.iter().chain(&ports).any(|errno| fault.raw_os_error() == Some(errno.raw_os_error()))
}

/// asm-generic/ioctls.h; the same on all of Linux but for architectures that io_uring is not used on.
const TIOCOUTQ: ioctl::Opcode = 0x5411;

/// Whatever can always be opened.
const SPARE: &str = "/dev/null";

/// A connection. Clones are the same connection; it closes when the last of them, and everything in flight, is gone.
#[derive(Clone)]
pub struct Socket {
    inner: Rc<Inner>,
}

pub(super) struct Inner {
    wire: Rc<Wire>,
    peer_addr: SocketAddr,
    /// Its receiving half was shut down, by us.
    deaf: Cell<bool>,
    /// What ends a receive without ending the connection; kept between two, because making one allocates.
    canceller: RefCell<Option<Canceller>>,
    /// What is due on it.
    due: Due,
    /// A receive that was begun before anybody waited for it; here while nobody does.
    ahead: RefCell<Option<Box<Ahead>>>,
}

/// What operations need of a connection: the part that lives as long as any of them.
struct Wire {
    stream: UnsafeCell<TcpStream>,
    shut: Cell<bool>,
    /// epoll drives it.
    legacy: bool,
}

/// A connection between two shards: nothing reads or writes it, and any thread may hold it.
#[derive(Debug)]
pub struct Given {
    fd: OwnedFd,
    peer_addr: SocketAddr,
    deaf: bool,
}

impl Given {
    /// The other end.
    #[must_use]
    pub fn peer_addr(&self) -> SocketAddr {
        self.peer_addr
    }
}

/// What a look at a connection that should be quiet shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Peek {
    /// Nothing to read, and the peer is there.
    Quiet,
    /// Bytes wait to be received.
    Bytes,
    /// The peer has closed its direction, or the connection failed; or we shut it down.
    Closed,
}

impl Socket {
    /// Connects to `addr`, and gives up at `deadline`.
    ///
    /// # Errors
    /// `TimedOut` at the deadline; otherwise the reason for which the connection was refused.
    pub async fn connect(addr: SocketAddr, timers: &Timers, deadline: Moment) -> io::Result<Self> {
        let kind = Type::STREAM.nonblocking();
        let socket = socket2::Socket::new(Domain::for_address(addr), kind, Some(Protocol::TCP))?;
        socket.set_tcp_nodelay(true)?;
        socket.set_tcp_keepalive(&keepalive())?;
        // monoio's own connect cannot be ended without leaking its descriptor; a poll can, from outside.
        let under_way = match socket.connect(&addr.into()) {
            Ok(()) => false,
            Err(fault) if fault.raw_os_error() == Some(Errno::INPROGRESS.raw_os_error()) => true,
            Err(fault) => return Err(fault),
        };
        let socket = Self::new(TcpStream::from_std(socket.into())?, addr);
        if under_way {
            socket.connected(timers, deadline).await?;
        }
        if socket.is_connected_to_itself() {
            return Err(io::ErrorKind::ConnectionRefused.into());
        }
        // On a non-blocking socket io_uring answers EAGAIN instead of waiting; epoll needs it to be one.
        if !monoio::utils::is_legacy() {
            rustix::io::ioctl_fionbio(socket.inner.wire.fd(), false)?;
        }
        Ok(socket)
    }

    /// Two sockets that are connected to each other, and to nothing else. They have no address.
    ///
    /// # Errors
    /// No descriptor or no memory is left.
    pub fn pair() -> io::Result<(Self, Self)> {
        let (one, other) = socket2::Socket::pair(Domain::UNIX, Type::STREAM, None)?;
        Ok((Self::of_pair(one.into())?, Self::of_pair(other.into())?))
    }

    /// A socket, and what it is connected to: for a child, or another thread. That end is blocking, and closed on exec.
    ///
    /// # Errors
    /// No descriptor or no memory is left.
    pub fn half() -> io::Result<(Self, OwnedFd)> {
        let (one, other) = socket2::Socket::pair(Domain::UNIX, Type::STREAM, None)?;
        Ok((Self::of_pair(one.into())?, other.into()))
    }

    /// One end of a pair that somebody else made.
    ///
    /// # Errors
    /// What fcntl(2) or epoll_ctl(2) says.
    pub fn of_pair(fd: OwnedFd) -> io::Result<Self> {
        // As for a connect: epoll needs it to be non-blocking, io_uring needs it not to be.
        rustix::io::ioctl_fionbio(&fd, monoio::utils::is_legacy())?;
        Self::adopt(fd, ([0, 0, 0, 0], 0).into())
    }

    /// A connection that another shard gave away, on this one.
    ///
    /// # Errors
    /// What epoll_ctl(2) says.
    pub fn take(given: Given) -> io::Result<Self> {
        let socket = Self::adopt(given.fd, given.peer_addr)?;
        socket.inner.deaf.set(given.deaf);
        Ok(socket)
    }

    /// A socket that somebody else made, in the mode that the driver needs.
    pub(super) fn adopt(fd: OwnedFd, peer_addr: SocketAddr) -> io::Result<Self> {
        Ok(Self::new(TcpStream::from_std(fd.into())?, peer_addr))
    }

    /// Gives the connection away. From then on this handle and its clones are ends that were shut down, and whatever is
    /// done to them does nothing to the connection: no deadline or drain of this shard ends what is another's. A stored
    /// wait ([`Socket::readable`]) may be dropped then, and only then; nothing else may be in flight.
    ///
    /// # Errors
    /// The process may open no more files; nothing has changed then.
    pub fn give(&self) -> io::Result<Given> {
        // A second descriptor, because the first is closed by its driver in its own time.
        let fd = rustix::io::fcntl_dupfd_cloexec(self.inner.wire.fd(), 0)?;
        self.inner.wire.shut.set(true);
        Ok(Given { fd, peer_addr: self.inner.peer_addr, deaf: self.inner.deaf.get() })
    }

    /// Receives some bytes behind those that `buffer` holds already. `Ok(0)` is the end of the peer's direction, or
    /// our own [`Socket::shutdown`]. One receive at a time; a send may be in flight beside it.
    ///
    /// The error is `StorageFull` when `buffer` has no room, else the connection's end.
    pub async fn recv(&self, buffer: Buffer) -> (io::Result<usize>, Buffer) {
        let begun = self.inner.ahead.borrow().as_ref().is_some_and(|ahead| ahead.begun) && buffer.spare() > 0;
        match begun.then(|| self.inner.ahead.take()).flatten() {
            Some(ahead) => {
                let (ahead, result, got) = ahead.land().await;
                self.inner.arrived(ahead, result, got, buffer)
            }
            None => self.inner.wire.receive(buffer).await,
        }
    }

    /// Begins the next [`Socket::recv`] now, into `buffer`: until somebody waits for it, [`Socket::peek_state`] tells what
    /// came without asking the kernel, as of the last time that the ring was looked at, once [`Socket::is_watched`]; before
    /// that it asks. Nothing else may be received meanwhile. The connection keeps a buffer from then on.
    pub fn recv_ahead(&self, buffer: Buffer) {
        if !self.is_shutdown() {
            let ahead = self.inner.ahead.take();
            let mut ahead = ahead.unwrap_or_else(|| Ahead::new(self.inner.wire.clone()));
            ahead.begin(buffer);
            self.inner.ahead.replace(Some(ahead));
        }
    }

    /// The buffer that [`Socket::recv_ahead`] can be given once more, where there is one.
    #[must_use]
    pub fn spare_buffer(&self) -> Option<Buffer> {
        self.inner.ahead.borrow_mut().as_mut()?.spare.take()
    }

    /// As [`Socket::recv`], but gives the buffer back at `until` when nothing has come: the error is then `TimedOut`,
    /// and the connection goes on. What arrives in the very moment of giving up is received, not lost.
    pub async fn recv_until(&self, mut buffer: Buffer, timers: &Timers, until: Moment) -> (io::Result<usize>, Buffer) {
        let Some((bytes, begin, end)) = buffer.lend_spare() else {
            return (Err(io::ErrorKind::StorageFull.into()), buffer);
        };
        let handle = self.inner.canceller.borrow_mut().get_or_insert_with(Canceller::new).handle();
        let flight = InFlight::new(&self.inner.wire);
        // Given up from outside: the epoll driver ends it at once, io_uring with an answer of its own.
        let alarm = timers.give_up(self, until);
        let receive = self.inner.wire.stream_mut().cancelable_read(bytes.slice_mut(begin..end), handle);
        let (result, slice) = receive.await;
        drop(alarm);
        self.inner.wire.landed(flight).await;
        buffer.restore(slice.into_inner());
        let result = result.map_err(|fault| {
            if fault.raw_os_error() == Some(Errno::CANCELED.raw_os_error()) {
                io::ErrorKind::TimedOut.into()
            } else {
                fault
            }
        });
        (result, buffer)
    }

    /// Sends everything that `buffer` holds, in as many sends as it takes. One send at a time; a receive may be in
    /// flight beside it. The buffer comes back as it was.
    ///
    /// After an error nobody knows how much of it the peer has seen. Never raises SIGPIPE.
    pub async fn send(&self, buffer: Buffer) -> (io::Result<()>, Buffer) {
        let len = buffer.len();
        self.send_slice(buffer, 0, len).await
    }

    /// Sends the bytes `from..to` of what `buffer` holds; otherwise as [`Socket::send`].
    pub async fn send_slice(&self, mut buffer: Buffer, from: usize, to: usize) -> (io::Result<()>, Buffer) {
        if from > to || to > buffer.len() {
            return (Err(io::ErrorKind::InvalidInput.into()), buffer);
        }
        let (mut bytes, start) = buffer.lend();
        let (mut next, end) = (start + from, start + to);
        let mut result = Ok(());
        let flight = InFlight::new(&self.inner.wire);
        while next < end && result.is_ok() {
            let (sent, slice) = self.inner.wire.stream_mut().write(bytes.slice(next..end)).await;
            bytes = slice.into_inner();
            match sent {
                Ok(0) => result = Err(io::ErrorKind::WriteZero.into()),
                Ok(sent) => next += sent,
                Err(fault) => result = Err(fault),
            }
        }
        self.inner.wire.landed(flight).await;
        buffer.restore(bytes);
        (result, buffer)
    }

    /// Waits until there is something to receive, be it the end, without receiving it. The future owns its share of
    /// the socket and is meant to be kept, polled by the task that also receives. Dropped while it waits, it shuts
    /// the socket down: the wait would keep the connection open otherwise.
    pub fn readable(&self) -> impl Future<Output = io::Result<()>> + 'static {
        let socket = self.clone();
        async move {
            let flight = InFlight::new(&socket.inner.wire);
            let result = socket.inner.wire.stream().readable(false).await;
            socket.inner.wire.landed(flight).await;
            result
        }
    }

    /// Whether [`Socket::peek_state`] knows without asking the kernel.
    #[must_use]
    pub fn is_watched(&self) -> bool {
        self.inner.ahead.borrow().as_ref().is_some_and(|ahead| ahead.begun && ahead.is_out())
    }

    /// Looks, without waiting, what there is to receive. One system call, but after [`Socket::recv_ahead`].
    #[must_use]
    pub fn peek_state(&self) -> Peek {
        if let Some(ahead) = self.inner.ahead.borrow_mut().as_mut()
            && let Some(state) = ahead.look()
        {
            return state;
        }
        let mut byte = [0u8; 1];
        match rustix::net::recv(self.inner.wire.fd(), &mut byte[..], RecvFlags::PEEK | RecvFlags::DONTWAIT) {
            Ok((_, 0)) => Peek::Closed,
            Ok(_) => Peek::Bytes,
            Err(Errno::AGAIN | Errno::INTR) => Peek::Quiet,
            Err(_) => Peek::Closed,
        }
    }

    /// Receives what has come already, behind what `buffer` holds. Not while a receive is in flight.
    ///
    /// # Errors
    /// `WouldBlock` when nothing has; otherwise as [`Socket::recv`].
    pub fn try_recv(&self, buffer: &mut Buffer) -> io::Result<usize> {
        let (mut bytes, begin, end) = buffer.lend_spare().ok_or(io::ErrorKind::StorageFull)?;
        bytes.resize(end, 0);
        let received = rustix::net::recv(self.inner.wire.fd(), &mut bytes[begin..end], RecvFlags::DONTWAIT);
        bytes.truncate(begin + received.as_ref().map_or(0, |(_, received)| *received));
        buffer.restore(bytes);
        Ok(received?.1)
    }

    /// Sends as much of `bytes` as can be sent without waiting, and says how much that was. Not while a send is in
    /// flight.
    ///
    /// # Errors
    /// `WouldBlock` when nothing can; otherwise the connection's end.
    pub fn try_send(&self, bytes: &[u8]) -> io::Result<usize> {
        Ok(rustix::net::send(self.inner.wire.fd(), bytes, SendFlags::DONTWAIT | SendFlags::NOSIGNAL)?)
    }

    /// Throws away a little of what has come, without waiting; `false` at the end of the peer's direction.
    pub(super) fn discard(&self) -> bool {
        let received = rustix::net::recv(self.inner.wire.fd(), &mut [0; 16][..], RecvFlags::DONTWAIT);
        !matches!(received, Ok((_, 0)))
    }

    /// Tells the peer that nothing more comes from here; receiving goes on.
    pub fn shutdown_write(&self) {
        if !self.is_shutdown() {
            // A connection that has ended already needs no telling.
            let _ = rustix::net::shutdown(self.inner.wire.fd(), Shutdown::Write);
        }
    }

    /// Receives nothing more but what has arrived already; sending goes on.
    pub fn shutdown_read(&self) {
        if !self.is_shutdown() {
            self.inner.deaf.set(true);
            let _ = rustix::net::shutdown(self.inner.wire.fd(), Shutdown::Read);
        }
    }

    /// What was sent must be acknowledged within so many milliseconds, else the connection is over (TCP_USER_TIMEOUT,
    /// RFC 5482); 0 leaves it to TCP, which takes a quarter of an hour.
    pub fn acknowledged_within(&self, ms: u32) {
        let _ = rustix::net::sockopt::set_tcp_user_timeout(self.inner.wire.fd(), ms);
    }

    /// Bytes sent that the peer has not acknowledged, or that have not even left.
    #[must_use]
    pub fn unacknowledged(&self) -> usize {
        // SAFETY: SIOCOUTQ (TIOCOUTQ) writes one int, which is what this getter has room for.
        // JUSTIFICATION: rustix has no function of its own for it; once for each large request.
        let queued = unsafe { ioctl::ioctl(self.inner.wire.fd(), ioctl::Getter::<{ TIOCOUTQ }, i32>::new()) };
        queued.map_or(0, |queued| usize::try_from(queued).unwrap_or(0))
    }

    /// Ends both directions; idempotent. Everything in flight ends: receives and waits with the end of the stream,
    /// sends with EPIPE.
    pub fn shutdown(&self) {
        self.inner.shutdown();
    }

    /// Whether this side was shut down, or the connection given away.
    #[must_use]
    pub fn is_shutdown(&self) -> bool {
        self.inner.wire.shut.get()
    }

    /// Whether [`Socket::shutdown_read`] was called: what there is to receive then tells nothing about the peer.
    #[must_use]
    pub fn is_deaf(&self) -> bool {
        self.inner.deaf.get()
    }

    /// The other end.
    #[must_use]
    pub fn peer_addr(&self) -> SocketAddr {
        self.inner.peer_addr
    }

    #[cfg(test)]
    pub(crate) fn fd(&self) -> BorrowedFd<'_> {
        self.inner.wire.fd()
    }

    #[inline]
    pub(super) fn due(&self) -> &Due {
        &self.inner.due
    }

    #[inline]
    pub(super) fn shared(&self) -> &Rc<Inner> {
        &self.inner
    }

    fn new(stream: TcpStream, peer_addr: SocketAddr) -> Self {
        let (stream, legacy) = (UnsafeCell::new(stream), monoio::utils::is_legacy());
        let wire = Rc::new(Wire { stream, shut: Cell::new(false), legacy });
        let (deaf, canceller, ahead) = (Cell::new(false), RefCell::new(None), RefCell::new(None));
        Self { inner: Rc::new(Inner { wire, peer_addr, deaf, canceller, due: Due::default(), ahead }) }
    }

    /// Waits for the connect that is under way.
    async fn connected(&self, timers: &Timers, deadline: Moment) -> io::Result<()> {
        let guard = timers.deadline(self, deadline);
        let flight = InFlight::new(&self.inner.wire);
        let polled = self.inner.wire.stream().writable(false).await;
        flight.landed();
        if guard.disarm() {
            return Err(io::ErrorKind::TimedOut.into());
        }
        polled?;
        Ok(rustix::net::sockopt::socket_error(self.inner.wire.fd())??)
    }

    /// TCP lets a connect to a closed port of this machine meet itself, when the kernel happens to choose that port
    /// for our end (RFC 9293, 3.5: simultaneous open).
    fn is_connected_to_itself(&self) -> bool {
        let local = rustix::net::getsockname(self.inner.wire.fd()).ok();
        local.and_then(|local| SocketAddr::try_from(local).ok()) == Some(self.inner.peer_addr)
    }
}

impl Inner {
    #[inline]
    pub(super) fn due(&self) -> &Due {
        &self.due
    }

    /// Its time is up.
    pub(super) fn act(&self, act: Act) {
        match act {
            Act::Shutdown => self.shutdown(),
            Act::GiveUp => self.cancel(),
        }
    }

    fn cancel(&self) {
        // Dropped with it, so that an idle connection keeps none.
        if let Some(canceller) = self.canceller.borrow_mut().take() {
            let _ = canceller.cancel();
        }
    }

    fn shutdown(&self) {
        self.wire.shutdown();
        // Nothing in flight is dropped: what was begun ahead ends by itself now, and somebody sees it end.
        if let Some(ahead) = self.ahead.take().filter(|ahead| ahead.begun) {
            spawn(async move {
                let _ = ahead.land().await;
            });
        }
    }

    /// What a receive that was begun ahead has brought, as if it had been begun now: into `buffer`.
    fn arrived(
        &self,
        mut ahead: Box<Ahead>,
        result: io::Result<usize>,
        got: Buffer,
        mut buffer: Buffer,
    ) -> (io::Result<usize>, Buffer) {
        if buffer.is_empty() && buffer.capacity() <= got.capacity() {
            // One is as good as the other.
            ahead.spare = Some(buffer);
            self.ahead.replace(Some(ahead));
            return (result, got);
        }
        let fits = got.len().min(buffer.spare());
        let _ = buffer.extend_from_slice(&got[..fits]);
        ahead.keep(got, fits);
        self.ahead.replace(Some(ahead));
        (result.map(|_| fits), buffer)
    }
}

impl Wire {
    /// See [`Socket::recv`].
    async fn receive(&self, mut buffer: Buffer) -> (io::Result<usize>, Buffer) {
        let Some((bytes, begin, end)) = buffer.lend_spare() else {
            return (Err(io::ErrorKind::StorageFull.into()), buffer);
        };
        let flight = InFlight::new(self);
        let (result, slice) = self.stream_mut().read(bytes.slice_mut(begin..end)).await;
        self.landed(flight).await;
        buffer.restore(slice.into_inner());
        (result, buffer)
    }

    /// Under epoll, now and then lets others go first.
    #[inline]
    async fn landed(&self, flight: InFlight<'_>) {
        if self.legacy {
            take_turns().await;
        }
        flight.landed();
    }

    fn shutdown(&self) {
        if !self.shut.replace(true) {
            // ENOTCONN: the peer was faster, and everything has ended already.
            let _ = rustix::net::shutdown(self.fd(), Shutdown::Both);
        }
    }

    fn fd(&self) -> BorrowedFd<'_> {
        // SAFETY: the stream owns the descriptor and is neither replaced nor moved out while `self` is borrowed.
        // JUSTIFICATION: monoio lends its descriptors only as raw numbers.
        unsafe { BorrowedFd::borrow_raw(self.stream().as_raw_fd()) }
    }

    fn stream(&self) -> &TcpStream {
        // SAFETY: nothing ever writes to the stream: what takes `&mut` (below) only clones the shared descriptor in
        // it, on this one thread.
        // JUSTIFICATION: see `stream_mut`.
        unsafe { &*self.stream.get() }
    }

    #[expect(clippy::mut_from_ref, reason = "the two directions of a socket are independent")]
    fn stream_mut(&self) -> &mut TcpStream {
        // SAFETY: `read` and `write` use the reference for the length of the call, to clone the shared descriptor
        // into the operation, and never while the other one does: `Inner` is not `Sync`. monoio's own split halves
        // rest on the same.
        // JUSTIFICATION: a receive and a send in flight at once, which `&mut TcpStream` forbids; without it, two
        // descriptors (dup) per connection.
        unsafe { &mut *self.stream.get() }
    }
}

/// Receives begun ahead on one connection, one after the other: one task of work for all of them, so that none of them
/// costs an allocation.
struct Ahead {
    desk: Rc<Desk>,
    work: Pin<Box<dyn Future<Output = ()>>>,
    /// A receive was begun, and what came of it not taken.
    begun: bool,
    /// The last operation of this thread when it was begun: itself, or one before it.
    number: u64,
    /// For the next one.
    spare: Option<Buffer>,
}

/// What goes in and out of it.
#[derive(Default)]
struct Desk {
    room: Cell<Option<Buffer>>,
    came: Cell<Option<(io::Result<usize>, Buffer)>>,
}

impl Ahead {
    fn new(wire: Rc<Wire>) -> Box<Self> {
        let desk = Rc::new(Desk::default());
        let theirs = desk.clone();
        let work = async move {
            loop {
                let room = poll_fn(|_| theirs.room.take().map_or(Poll::Pending, Poll::Ready)).await;
                theirs.came.set(Some(wire.receive(room).await));
            }
        };
        Box::new(Self { desk, work: Box::pin(work), begun: false, number: 0, spare: None })
    }

    fn begin(&mut self, room: Buffer) {
        if !self.begun {
            self.begun = true;
            self.desk.room.set(Some(room));
            let _ = self.work.as_mut().poll(&mut Context::from_waker(Waker::noop()));
            self.number = OPERATIONS.with(|(begun, _)| begun.get());
        }
    }

    /// Whether the kernel has it: until the ring is entered, nothing that is begun sees anything, and under epoll nothing
    /// ever does by itself. One begun after it that has ended tells.
    fn is_out(&self) -> bool {
        !monoio::utils::is_legacy() && OPERATIONS.with(|(_, landed)| landed.get() > self.number)
    }

    /// What has come so far; `None` where that is not known.
    fn look(&mut self) -> Option<Peek> {
        if !self.begun {
            return None;
        }
        // Nobody has to be woken: whoever waits for it asks again.
        let came = self.poll(&mut Context::from_waker(Waker::noop()));
        let Poll::Ready((result, buffer)) = came else { return self.is_out().then_some(Peek::Quiet) };
        let state = if matches!(result, Ok(1..)) { Peek::Bytes } else { Peek::Closed };
        self.desk.came.set(Some((result, buffer)));
        Some(state)
    }

    /// Waits for its end.
    async fn land(mut self: Box<Self>) -> (Box<Self>, io::Result<usize>, Buffer) {
        let (result, buffer) = poll_fn(|cx| self.poll(cx)).await;
        self.begun = false;
        (self, result, buffer)
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<(io::Result<usize>, Buffer)> {
        if let Some(came) = self.desk.came.take() {
            return Poll::Ready(came);
        }
        let _ = self.work.as_mut().poll(cx);
        self.desk.came.take().map_or(Poll::Pending, Poll::Ready)
    }

    /// The first `taken` bytes of what came were taken: the rest is what comes next.
    fn keep(&mut self, mut got: Buffer, taken: usize) {
        got.consume(taken);
        if got.is_empty() {
            self.spare = Some(got);
        } else {
            self.begun = true;
            self.desk.came.set(Some((Ok(got.len()), got)));
        }
    }
}

/// Lives while an operation is in flight. Dropped before it landed, because somebody dropped its future, it shuts the
/// socket down: the kernel then ends the operation at once and lets go of descriptor and buffer, instead of whenever
/// the peer pleases.
struct InFlight<'a> {
    wire: &'a Wire,
    /// Its place among all operations of this thread.
    number: u64,
}

thread_local! {
    /// The operations of this thread so far, and the last of them that is known to have gone through the ring.
    static OPERATIONS: (Cell<u64>, Cell<u64>) = const { (Cell::new(0), Cell::new(0)) };
}

impl<'a> InFlight<'a> {
    /// An operation that is begun now.
    fn new(wire: &'a Wire) -> Self {
        let number = OPERATIONS.with(|(begun, _)| {
            begun.set(begun.get().wrapping_add(1));
            begun.get()
        });
        Self { wire, number }
    }
}

impl InFlight<'_> {
    fn landed(self) {
        spin::landed();
        // The ring takes them in the order in which they were begun: all before this one are with the kernel, too.
        OPERATIONS.with(|(_, landed)| landed.set(landed.get().max(self.number)));
        mem::forget(self);
    }
}

impl Drop for InFlight<'_> {
    fn drop(&mut self) {
        self.wire.shutdown();
    }
}
