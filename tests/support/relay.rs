//! A hop of TCP in between: it can cut a connection in the middle of an event stream, and lead to another place from one
//! moment on. It has seen the session and the resumptions that went past.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread;

const READ_BYTES: usize = 16 * 1024;
/// A line that is longer holds no field that is looked for.
const LINE_BYTES_MAX: usize = 64 * 1024;
/// An empty line, of both kinds: behind an event, and behind a head.
const EMPTY_LINES: [&[u8]; 2] = [b"\n\n", b"\n\r\n"];

/// A running hop; ended, with its connections, when dropped.
pub(crate) struct Relay {
    address: SocketAddr,
    shared: Arc<Shared>,
}

struct Shared {
    target: Mutex<SocketAddr>,
    /// After the next event that holds this, its connection is cut.
    cut: Mutex<Option<Vec<u8>>>,
    cuts: AtomicUsize,
    session: Mutex<Option<String>>,
    /// Values of `Last-Event-ID`.
    resumed: Mutex<Vec<String>>,
    /// Both ends of every connection.
    live: Mutex<Vec<TcpStream>>,
    over: AtomicBool,
}

impl Relay {
    /// One that leads to `target`.
    pub(crate) fn to(target: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("loopback has a free port");
        let address = listener.local_addr().expect("a bound socket has an address");
        let shared = Arc::new(Shared {
            target: Mutex::new(target),
            cut: Mutex::default(),
            cuts: AtomicUsize::new(0),
            session: Mutex::default(),
            resumed: Mutex::default(),
            live: Mutex::default(),
            over: AtomicBool::new(false),
        });
        let here = Arc::clone(&shared);
        thread::spawn(move || {
            for client in listener.incoming().map_while(Result::ok) {
                if here.over.load(Ordering::Acquire) {
                    break;
                }
                join(client, &here);
            }
        });
        Self { address, shared }
    }

    /// A URL that leads through it.
    pub(crate) fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    /// Connections from now on go there; those there are have ended when this returns, as with a server that is gone.
    pub(crate) fn aim(&self, target: SocketAddr) {
        *held(&self.shared.target) = target;
        held(&self.shared.live).drain(..).for_each(|socket| end(&socket));
    }

    /// Cuts the connection on which the next event with `words` goes to the client, right behind that event.
    pub(crate) fn cut_after(&self, words: &str) {
        *held(&self.shared.cut) = Some(words.as_bytes().to_vec());
    }

    /// So many connections it has cut.
    pub(crate) fn cuts(&self) -> usize {
        self.shared.cuts.load(Ordering::Acquire)
    }

    /// The session that was named last.
    pub(crate) fn session(&self) -> Option<String> {
        held(&self.shared.session).clone()
    }

    /// The events after which clients asked for the rest.
    pub(crate) fn resumed(&self) -> Vec<String> {
        held(&self.shared.resumed).clone()
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.shared.over.store(true, Ordering::Release);
        // The listener looks up once more.
        let _ = TcpStream::connect(self.address);
        held(&self.shared.live).iter().for_each(end);
    }
}

/// Starts the two directions of one connection. Where nobody listens, the client is hung up on.
fn join(client: TcpStream, shared: &Arc<Shared>) {
    let target = *held(&shared.target);
    let Ok(server) = TcpStream::connect(target) else { return };
    let copies = [&client, &server, &client, &server].map(TcpStream::try_clone);
    let [Ok(mine), Ok(theirs), Ok(client_end), Ok(server_end)] = copies else { return };
    for socket in [&client, &server] {
        let _ = socket.set_nodelay(true);
    }
    held(&shared.live).extend([client_end, server_end]);
    let (up, down) = (Arc::clone(shared), Arc::clone(shared));
    thread::spawn(move || {
        upward(mine, &theirs, &up);
        end(&theirs);
    });
    thread::spawn(move || {
        downward(server, &client, &down);
        end(&client);
    });
}

fn upward(mut client: TcpStream, mut server: &TcpStream, shared: &Shared) {
    let mut piece = vec![0; READ_BYTES];
    let mut line = Vec::new();
    while let Ok(count @ 1..) = client.read(&mut piece) {
        for byte in &piece[..count] {
            match byte {
                b'\n' => noted(std::mem::take(&mut line), shared),
                _ if line.len() < LINE_BYTES_MAX => line.push(*byte),
                _ => {}
            }
        }
        if server.write_all(&piece[..count]).is_err() {
            break;
        }
    }
}

fn noted(line: Vec<u8>, shared: &Shared) {
    let Ok(line) = String::from_utf8(line) else { return };
    let Some((name, value)) = line.split_once(':') else { return };
    let value = value.trim().to_owned();
    if name.eq_ignore_ascii_case("mcp-session-id") {
        *held(&shared.session) = Some(value);
    } else if name.eq_ignore_ascii_case("last-event-id") {
        held(&shared.resumed).push(value);
    }
}

fn downward(mut server: TcpStream, mut client: &TcpStream, shared: &Shared) {
    let mut piece = vec![0; READ_BYTES];
    // What went by since the last event's end: the words may come in parts.
    let mut event = Vec::new();
    while let Ok(count @ 1..) = server.read(&mut piece) {
        let before = event.len();
        event.extend_from_slice(&piece[..count]);
        let cut = cut_at(&mut event, before, shared);
        if client.write_all(&piece[..cut.unwrap_or(count)]).is_err() || cut.is_some() {
            break;
        }
    }
    end(&server);
}

/// Where in the newest piece, which begins at `before`, the connection is to be cut. Forgets events that went by whole.
fn cut_at(event: &mut Vec<u8>, before: usize, shared: &Shared) -> Option<usize> {
    let mut words = held(&shared.cut);
    let mut start = 0;
    while let Some(end) = end_of_event(event, start) {
        if words.as_ref().is_some_and(|words| found(&event[start..end], words).is_some()) {
            *words = None;
            shared.cuts.fetch_add(1, Ordering::AcqRel);
            return Some(end - before);
        }
        start = end;
    }
    event.drain(..start.max(event.len().saturating_sub(LINE_BYTES_MAX)));
    None
}

fn end_of_event(text: &[u8], start: usize) -> Option<usize> {
    EMPTY_LINES.iter().filter_map(|line| Some(start + found(&text[start..], line)? + line.len())).min()
}

fn found(text: &[u8], words: &[u8]) -> Option<usize> {
    text.windows(words.len()).position(|at| at == words)
}

fn end(socket: &TcpStream) {
    let _ = socket.shutdown(Shutdown::Both);
}

fn held<T>(value: &Mutex<T>) -> MutexGuard<'_, T> {
    value.lock().unwrap_or_else(|held| held.into_inner())
}
