//! The bare hop: one shard on the gateway's own ring, buffers and heads, which forwards each request and its answer byte
//! for byte. Nobody is asked who they are, nothing is read but how long a message is, nothing is bounded, timed, judged or
//! written down. So it is nothing to run anywhere, and the floor that `loadtest compare` measures the gateway by.
//!
//! `bare-hop PORT` forwards to that port of this machine, and prints `listening PORT`. It ends when its standard input does.

use std::cell::RefCell;
use std::io::{self, Read as _};
use std::net::SocketAddr;
use std::process::ExitCode;
use std::rc::Rc;

use portcullis::base::limits::{BUFFER_BYTES, WAITING_BYTES};
use portcullis::http::head::{Framing, Method, Progress, RequestHead, ResponseHead};
use portcullis::uring::buffer::{Buffer, Pool};
use portcullis::uring::cpu;
use portcullis::uring::ring::{Choice, Driver, spawn};
use portcullis::uring::socket::{Listener, Options, Socket};
use portcullis::uring::wait::Timers;

/// What all buffers together may have.
const BUDGET_BYTES: usize = 256 << 20;
const CONNECT_MS_MAX: u64 = 5_000;

fn main() -> ExitCode {
    match std::env::args().nth(1).and_then(|port| port.parse().ok()) {
        Some(port) => match run(port) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                eprintln!("error: {error}");
                ExitCode::FAILURE
            }
        },
        None => {
            eprintln!("usage: bare-hop PORT");
            ExitCode::FAILURE
        }
    }
}

fn run(port: u16) -> Result<(), Box<dyn std::error::Error>> {
    let _ = cpu::raise_file_limit();
    let driver = Driver::probe(Choice::Auto)?;
    eprintln!("{driver}");
    std::thread::spawn(until_stdin_ends);
    cpu::name_thread("shard-0");
    let upstream = SocketAddr::from(([127, 0, 0, 1], port));
    Ok(driver.run(listen(upstream))??)
}

/// Whoever started this has ended, or wishes it to.
fn until_stdin_ends() {
    let mut bytes = [0; 64];
    while matches!(io::stdin().read(&mut bytes), Ok(read) if read > 0) {}
    std::process::exit(0);
}

/// What all connections share.
struct Hop {
    buffers: Pool,
    timers: Timers,
    upstream: SocketAddr,
    /// Connections to the server without a call in flight; the last one used goes first.
    idle: RefCell<Vec<Socket>>,
}

async fn listen(upstream: SocketAddr) -> io::Result<()> {
    let listener = Listener::bind(SocketAddr::from(([127, 0, 0, 1], 0)), Options::default())?;
    println!("listening {}", listener.local_addr().port());
    let timers = Timers::new();
    spawn(timers.clone().run());
    let hop = Rc::new(Hop { buffers: Pool::new(BUDGET_BYTES), timers, upstream, idle: RefCell::default() });
    loop {
        let (client, _) = listener.accept().await?;
        let hop = Rc::clone(&hop);
        spawn(async move {
            // An end between two requests is the usual one; any other shows at the client.
            let _ = hop.serve(client).await;
        });
    }
}

impl Hop {
    /// One request after the other, until something is not as it should be.
    async fn serve(&self, client: Socket) -> io::Result<()> {
        let (mut request, mut answer) = (RequestHead::new(), ResponseHead::new());
        loop {
            let sent = self.buffers.get(WAITING_BYTES).ok_or_else(out_of_memory)?;
            let sent = message(&client, sent, |bytes| match request.parse(bytes) {
                Ok(Progress::Complete) => end(request.end, request.framing),
                Ok(Progress::Partial) => Ok(None),
                Err(fault) => Err(io::Error::other(fault)),
            })
            .await?;
            let idle = self.idle.borrow_mut().pop();
            let server = match idle {
                Some(server) => server,
                None => self.connect().await?,
            };
            landed(server.send(sent).await)?;
            let got = self.buffers.get(BUFFER_BYTES).ok_or_else(out_of_memory)?;
            let got = message(&server, got, |bytes| match answer.parse(bytes, Method::Post) {
                Ok(Progress::Complete) => end(answer.end, answer.framing),
                Ok(Progress::Partial) => Ok(None),
                Err(fault) => Err(io::Error::other(fault)),
            })
            .await?;
            if answer.keep_alive {
                self.idle.borrow_mut().push(server);
            }
            landed(client.send(got).await)?;
        }
    }

    async fn connect(&self) -> io::Result<Socket> {
        let until = self.timers.now().mono.plus_ms(CONNECT_MS_MAX);
        Socket::connect(self.upstream, &self.timers, until).await
    }
}

/// Receives until a message is whole: `end` says where it ends, once its head is there.
async fn message(
    socket: &Socket,
    mut buffer: Buffer,
    mut end: impl FnMut(&[u8]) -> io::Result<Option<usize>>,
) -> io::Result<Buffer> {
    let mut length = None;
    loop {
        if buffer.spare() == 0
            && !buffer.reserve(length.unwrap_or(buffer.len() * 2).saturating_sub(buffer.len()).max(1))
        {
            return Err(out_of_memory());
        }
        let (read, received) = socket.recv(buffer).await;
        buffer = received;
        if read? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        if length.is_none() {
            length = end(&buffer)?;
        }
        match length {
            Some(length) if buffer.len() == length => return Ok(buffer),
            Some(length) if buffer.len() > length => return Err(io::Error::other("more than was asked for")),
            _ => {}
        }
    }
}

/// Where the body behind a head ends.
fn end(head: usize, framing: Framing) -> io::Result<Option<usize>> {
    match framing {
        Framing::None => Ok(Some(head)),
        Framing::Length(length) => Ok(usize::try_from(length).ok().and_then(|length| head.checked_add(length))),
        Framing::Chunked | Framing::UntilClose => Err(io::Error::other("a body without a length")),
    }
}

/// The buffer of a send goes back to the pool, whatever came of it.
fn landed((result, _): (io::Result<()>, Buffer)) -> io::Result<()> {
    result
}

fn out_of_memory() -> io::Error {
    io::ErrorKind::OutOfMemory.into()
}
