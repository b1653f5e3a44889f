//! The wires of the demo's servers: loopback, a thread per connection, blocking. Only the gateway is meant to call here.

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use ring::rand::{SecureRandom as _, SystemRandom};

use crate::base::limits::{
    BODY_BYTES_MAX, BUFFER_BYTES, DEMO_CONNECTIONS_MAX, HEAD_BYTES_MAX, IDLE_MS_MAX, STREAM_KEEPALIVE_MS,
};
use crate::gateway::refusal::{Kind, Refusal};
use crate::http::body::{self, BodyDecoder};
use crate::http::field::Known;
use crate::http::head::{Framing, Progress, RequestHead};
use crate::http::{reply, sse};
use crate::mcp::call::Given;
use crate::plane::PlaneFault;

use super::handler::{Asked, Body, Said, Server};

/// The path of both servers.
const PATH: &[u8] = b"/mcp";

/// A connection only parses and answers.
const STACK_BYTES: usize = 512 * 1024;

/// Serves on a free port of loopback until the process ends; says which.
///
/// # Errors
/// `PlaneFault::Listen`, `PlaneFault::System`.
pub(super) fn start(server: Server) -> Result<SocketAddr, PlaneFault> {
    let any = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    let fault = |error| PlaneFault::Listen { address: any, error };
    let listener = TcpListener::bind(any).map_err(fault)?;
    let address = listener.local_addr().map_err(fault)?;
    let name = format!("demo-{}", server.name());
    let spawn = |name: &str| std::thread::Builder::new().name(name.to_owned()).stack_size(STACK_BYTES);
    let connections = name.clone();
    let accept = move || {
        let server = Arc::new(Mutex::new(server));
        let open = Arc::new(AtomicUsize::new(0));
        for socket in listener.incoming().flatten() {
            if open.fetch_add(1, Ordering::Relaxed) >= DEMO_CONNECTIONS_MAX {
                open.fetch_sub(1, Ordering::Relaxed);
                continue;
            }
            let (server, counted) = (server.clone(), open.clone());
            let started = spawn(&connections).spawn(move || {
                // A connection that breaks has nobody to tell.
                let _ = Connection::new(socket, address).serve(&server);
                counted.fetch_sub(1, Ordering::Relaxed);
            });
            if started.is_err() {
                open.fetch_sub(1, Ordering::Relaxed);
            }
        }
    };
    spawn(&name).spawn(accept).map_err(|error| PlaneFault::System { what: "a thread", error })?;
    Ok(address)
}

struct Connection {
    socket: TcpStream,
    /// What a client of ours writes as Host.
    host: String,
    /// Received and not dealt with yet.
    bytes: Vec<u8>,
}

/// Why a connection ends.
enum End {
    /// The peer has closed, or what it sent cannot be read on.
    Done,
    Io,
}

impl From<std::io::Error> for End {
    fn from(_: std::io::Error) -> Self {
        Self::Io
    }
}

impl Connection {
    fn new(socket: TcpStream, address: SocketAddr) -> Self {
        Self { socket, host: address.to_string(), bytes: Vec::new() }
    }

    fn serve(mut self, server: &Mutex<Server>) -> Result<(), End> {
        self.socket.set_nodelay(true)?;
        self.socket.set_write_timeout(Some(Duration::from_millis(IDLE_MS_MAX)))?;
        let random = SystemRandom::new();
        let mut head = RequestHead::new();
        loop {
            self.socket.set_read_timeout(Some(Duration::from_millis(IDLE_MS_MAX)))?;
            if let Err(refusal) = self.head(&mut head)? {
                return self.refuse(&refusal);
            }
            let head_bytes: Vec<u8> = self.bytes.drain(..head.end).collect();
            if let Some(refusal) = self.unwelcome(&head, &head_bytes) {
                return self.refuse(&refusal);
            }
            if head.expect_continue {
                self.socket.write_all(b"HTTP/1.1 100 Continue\r\n\r\n")?;
            }
            let body = match self.body(head.framing)? {
                Ok(body) => body,
                Err(refusal) => return self.refuse(&refusal),
            };
            let mut fresh = [0; 16];
            random.fill(&mut fresh).map_err(|_| End::Io)?;
            let asked = asked(&head, &head_bytes, &body, fresh);
            let said = server.lock().unwrap_or_else(PoisonError::into_inner).answer(&asked);
            if let Body::Stream(first) = &said.body {
                return self.stream(first);
            }
            self.socket.write_all(&written(&said, head.keep_alive))?;
            if !head.keep_alive {
                return Ok(());
            }
        }
    }

    /// Reads up to the end of a head.
    fn head(&mut self, head: &mut RequestHead) -> Result<Result<(), Refusal>, End> {
        loop {
            match head.parse(&self.bytes) {
                Ok(Progress::Complete) => return Ok(Ok(())),
                Ok(Progress::Partial) if self.bytes.len() <= HEAD_BYTES_MAX => self.read()?,
                Ok(Progress::Partial) => return Ok(Err(Kind::HeadTooLarge.into())),
                Err(fault) => return Ok(Err(fault.into())),
            }
        }
    }

    /// A page in a browser may reach loopback, too; it has an Origin, or came by a name that was made to lead here.
    fn unwelcome(&self, head: &RequestHead, bytes: &[u8]) -> Option<Refusal> {
        if head.count(Known::Origin) > 0 {
            return Some(Kind::OriginUnknown.into());
        }
        if head.host.of(bytes) != self.host.as_bytes() {
            return Some(Kind::HostUnknown.into());
        }
        (head.path.of(bytes) != PATH).then(|| Kind::NotFound.into())
    }

    fn body(&mut self, framing: Framing) -> Result<Result<Vec<u8>, Refusal>, End> {
        let mut decoder = BodyDecoder::new(framing);
        let mut body = Vec::new();
        loop {
            let piece = match decoder.step(&self.bytes) {
                Ok(piece) => piece,
                Err(fault) => return Ok(Err(fault.into())),
            };
            body.extend_from_slice(piece.data.of(&self.bytes));
            self.bytes.drain(..piece.consumed);
            if body.len() > BODY_BYTES_MAX {
                return Ok(Err(Kind::BodyTooLarge.into()));
            }
            if piece.done {
                return Ok(Ok(body));
            }
            if piece.consumed == 0 || self.bytes.is_empty() {
                self.read()?;
            }
        }
    }

    fn read(&mut self) -> Result<(), End> {
        let mut piece = [0; BUFFER_BYTES];
        let n = self.socket.read(&mut piece)?;
        self.bytes.extend_from_slice(&piece[..n]);
        if n == 0 { Err(End::Done) } else { Ok(()) }
    }

    fn refuse(&mut self, refusal: &Refusal) -> Result<(), End> {
        let mut body = Vec::new();
        refusal.write_body(&mut body);
        let said = Said { status: refusal.status(), session: None, allow: refusal.allow, body: Body::Json(body) };
        self.socket.write_all(&written(&said, false))?;
        Ok(())
    }

    /// An event stream that says one thing and then only that it is still there, until the peer leaves.
    fn stream(&mut self, first: &[u8]) -> Result<(), End> {
        let mut out = Vec::new();
        reply::write_status(&mut out, 200);
        for (name, value) in
            [("content-type", "text/event-stream"), ("cache-control", "no-store"), ("x-accel-buffering", "no")]
        {
            let _ = reply::write_field(&mut out, name, value.as_bytes());
        }
        reply::finish(&mut out, Framing::Chunked);
        let mut event = Vec::new();
        let _ = sse::write_event(&mut event, &sse::Event { data: Some(first), ..sse::Event::default() });
        body::write_chunk(&mut out, &event);
        self.socket.write_all(&out)?;
        self.socket.set_read_timeout(Some(Duration::from_millis(STREAM_KEEPALIVE_MS)))?;
        loop {
            match self.socket.read(&mut [0; 64]) {
                // Nothing may follow a request whose answer is still coming; whoever sends something has lost track.
                Ok(_) => return Ok(()),
                Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                    let (mut comment, mut out) = (Vec::new(), Vec::new());
                    sse::write_comment(&mut comment, b"still here");
                    body::write_chunk(&mut out, &comment);
                    self.socket.write_all(&out)?;
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error.into()),
            }
        }
    }
}

fn asked<'a>(head: &RequestHead, bytes: &'a [u8], body: &'a [u8], fresh: [u8; 16]) -> Asked<'a> {
    let get = |known| (head.get(bytes, known), head.count(known));
    let (version, version_count) = get(Known::McpProtocolVersion);
    let (method, method_count) = get(Known::McpMethod);
    let (name, name_count) = get(Known::McpName);
    let (session, session_count) = get(Known::McpSessionId);
    let session_revision = None;
    Asked {
        method: head.method,
        given: Given {
            version,
            version_count,
            method,
            method_count,
            name,
            name_count,
            session,
            session_count,
            session_revision,
        },
        content_type: head.get(bytes, Known::ContentType),
        body,
        fresh,
    }
}

fn written(said: &Said, keep_alive: bool) -> Vec<u8> {
    let body: &[u8] = match &said.body {
        Body::Json(body) | Body::Stream(body) => body,
        Body::Empty => &[],
    };
    let mut out = Vec::with_capacity(256 + body.len());
    let field = |out: &mut Vec<u8>, name: &str, value: &[u8]| {
        // All values are our own.
        let _ = reply::write_field(out, name, value);
    };
    reply::write_status(&mut out, said.status);
    if !body.is_empty() {
        field(&mut out, "content-type", b"application/json");
    }
    if let Some(session) = &said.session {
        field(&mut out, "mcp-session-id", session.as_bytes());
    }
    if let Some(allow) = said.allow {
        field(&mut out, "allow", allow.as_bytes());
    }
    if !keep_alive {
        field(&mut out, "connection", b"close");
    }
    reply::finish(&mut out, Framing::Length(body.len() as u64));
    out.extend_from_slice(body);
    out
}
