//! A connection of a chaos run's client: what is sent may be anything, and what comes back is told whatever it is.

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value;
use socket2::SockRef;

use super::chaos::Draw;
use super::gateway::PATIENCE;
use super::oracle::End;

/// A connection to the gateway.
pub(crate) struct Wire {
    pub(crate) socket: TcpStream,
    /// Received and not taken yet.
    bytes: Vec<u8>,
    /// Reads little at a time.
    pub(crate) slow: bool,
    /// Until when it waits, whatever else comes meanwhile.
    pub(crate) until: Option<Instant>,
}

/// The head of an answer.
pub(crate) struct Begun {
    pub(crate) status: u16,
    /// The gateway will close the connection.
    pub(crate) closes: bool,
    pub(crate) events: bool,
    pub(crate) session: Option<String>,
    /// The body's length; `None` where it comes in chunks.
    length: Option<usize>,
}

/// A whole answer.
pub(crate) struct Answer {
    pub(crate) status: u16,
    /// The gateway will close the connection.
    pub(crate) closes: bool,
    pub(crate) events: bool,
    pub(crate) session: Option<String>,
    pub(crate) body: Vec<u8>,
}

/// One event of a stream, or one block of it that is none.
#[derive(Debug, Default)]
pub(crate) struct Event {
    pub(crate) id: Option<String>,
    /// Empty where there is none.
    pub(crate) data: String,
}

/// What came in place of a whole answer.
#[derive(Debug)]
pub(crate) enum Lost {
    /// The end of the connection; and what had come.
    Closed(Vec<u8>),
    Hung,
    Garbled(String),
}

impl Wire {
    /// Connects.
    pub(crate) fn to(address: SocketAddr) -> Self {
        let socket = TcpStream::connect_timeout(&address, PATIENCE).expect("the gateway listens");
        socket.set_nodelay(true).expect("a TCP socket has this option");
        socket.set_read_timeout(Some(PATIENCE)).expect("a TCP socket has this option");
        socket.set_write_timeout(Some(PATIENCE)).expect("a TCP socket has this option");
        Self { socket, bytes: Vec::new(), slow: false, until: None }
    }

    /// Where the gateway has closed, reading will tell.
    pub(crate) fn send(&mut self, bytes: &[u8]) {
        let _ = self.socket.write_all(bytes);
    }

    /// In fewer than `most` pieces, with such pauses between them.
    pub(crate) fn send_in_pieces(
        &mut self,
        bytes: &[u8],
        draw: &mut Draw,
        most: usize,
        pause_us: std::ops::Range<usize>,
    ) {
        let pieces = draw.within(1..most);
        let mut start = 0;
        for end in draw.cuts(bytes.len(), pieces) {
            self.send(&bytes[start..end]);
            thread::sleep(Duration::from_micros(draw.within(pause_us.clone()) as u64));
            start = end;
        }
    }

    /// Closing it will be a reset.
    pub(crate) fn reset(&self) {
        let _ = SockRef::from(&self.socket).set_linger(Some(Duration::ZERO));
    }

    /// Waits for `100 Continue`; gives what came instead.
    pub(crate) fn go_ahead(&mut self) -> Option<Result<Answer, Lost>> {
        match self.head() {
            Ok(head) if head.starts_with("HTTP/1.1 100 ") => None,
            Ok(head) => Some(Begun::of(&head).and_then(|begun| self.rest(begun))),
            Err(lost) => Some(Err(lost)),
        }
    }

    /// The next answer, whole.
    pub(crate) fn answer(&mut self) -> Result<Answer, Lost> {
        let begun = self.begin()?;
        self.rest(begun)
    }

    /// The head of the next answer.
    pub(crate) fn begin(&mut self) -> Result<Begun, Lost> {
        Begun::of(&self.head()?)
    }

    fn head(&mut self) -> Result<String, Lost> {
        loop {
            if let Some(end) = memchr::memmem::find(&self.bytes, b"\r\n\r\n") {
                let head = self.bytes.drain(..end + 4).collect();
                return String::from_utf8(head).map_err(|fault| Lost::Garbled(fault.to_string()));
            }
            if !self.more()? {
                return Err(Lost::Closed(std::mem::take(&mut self.bytes)));
            }
        }
    }

    /// The body behind a head.
    pub(crate) fn rest(&mut self, begun: Begun) -> Result<Answer, Lost> {
        let Begun { status, closes, events, session, length } = begun;
        let mut body = Vec::new();
        match length {
            Some(length) => body = self.take(length)?,
            None => {
                while let Some(piece) = self.piece().map_err(|lost| lost.behind(&body))? {
                    body.extend_from_slice(&piece);
                }
            }
        }
        Ok(Answer { status, closes, events, session, body })
    }

    /// The next event of a stream that comes in chunks; `None` at its proper end. `decoded` holds what came too early.
    pub(crate) fn event(&mut self, decoded: &mut Vec<u8>) -> Result<Option<Event>, Lost> {
        loop {
            if let Some(end) = memchr::memmem::find(decoded, b"\n\n") {
                let block: Vec<u8> = decoded.drain(..end + 2).collect();
                return Ok(Some(Event::of(&String::from_utf8_lossy(&block))));
            }
            match self.piece()? {
                Some(piece) => decoded.extend_from_slice(&piece),
                None if decoded.is_empty() => return Ok(None),
                None => return Err(Lost::Garbled(String::from_utf8_lossy(decoded).into_owned())),
            }
        }
    }

    /// One chunk; `None` for the last.
    fn piece(&mut self) -> Result<Option<Vec<u8>>, Lost> {
        let line = self.chunk_line()?;
        let size = usize::from_str_radix(&line, 16).map_err(|_| Lost::Garbled(format!("chunk {line:?}")))?;
        let mut piece = self.take(size + 2)?;
        if !piece.ends_with(b"\r\n") {
            return Err(Lost::Garbled("a chunk without its end".into()));
        }
        piece.truncate(size);
        Ok((size > 0).then_some(piece))
    }

    fn chunk_line(&mut self) -> Result<String, Lost> {
        loop {
            if let Some(end) = memchr::memmem::find(&self.bytes, b"\r\n") {
                let line: Vec<u8> = self.bytes.drain(..end + 2).collect();
                return Ok(String::from_utf8_lossy(&line[..end]).into_owned());
            }
            if !self.more()? {
                return Err(Lost::Closed(std::mem::take(&mut self.bytes)));
            }
        }
    }

    fn take(&mut self, length: usize) -> Result<Vec<u8>, Lost> {
        while self.bytes.len() < length {
            if !self.more()? {
                return Err(Lost::Closed(std::mem::take(&mut self.bytes)));
            }
        }
        Ok(self.bytes.drain(..length).collect())
    }

    /// Receives more; `false` at the end, however the connection ended.
    fn more(&mut self) -> Result<bool, Lost> {
        let mut piece = [0; 32 * 1024];
        let most = if self.slow { 2 * 1024 } else { piece.len() };
        if self.slow {
            thread::sleep(Duration::from_micros(300));
        }
        loop {
            if self.until.is_some_and(|until| Instant::now() > until) {
                return Err(Lost::Hung);
            }
            match self.socket.read(&mut piece[..most]) {
                Ok(0) => return Ok(false),
                Ok(n) => {
                    self.bytes.extend_from_slice(&piece[..n]);
                    return Ok(true);
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                    return Err(Lost::Hung);
                }
                Err(_) => return Ok(false),
            }
        }
    }
}

impl Begun {
    fn of(head: &str) -> Result<Self, Lost> {
        let garbled = || Lost::Garbled(head.to_owned());
        let status = head.strip_prefix("HTTP/1.1 ").and_then(|rest| rest.get(..3)?.parse().ok()).ok_or_else(garbled)?;
        let field = |name: &str| {
            let line = head.split("\r\n").find_map(|line| line.split_once(": ").filter(|(field, _)| *field == name));
            line.map(|(_, value)| value.to_owned())
        };
        let length = match (field("content-length"), field("transfer-encoding")) {
            (Some(length), None) => Some(length.parse().map_err(|_| garbled())?),
            (None, Some(coding)) if coding == "chunked" => None,
            (None, None) if status == 202 || status == 204 => Some(0),
            _ => return Err(garbled()),
        };
        Ok(Self {
            status,
            closes: field("connection").is_some_and(|value| value == "close"),
            events: field("content-type").is_some_and(|value| value == "text/event-stream"),
            session: field("mcp-session-id"),
            length,
        })
    }
}

impl Event {
    fn of(block: &str) -> Self {
        let mut event = Self::default();
        let mut data = Vec::new();
        for line in block.lines() {
            let (name, value) = line.split_once(':').unwrap_or((line, ""));
            let value = value.strip_prefix(' ').unwrap_or(value);
            match name {
                "id" => event.id = Some(value.to_owned()),
                "data" => data.push(value),
                _ => {}
            }
        }
        event.data = data.join("\n");
        event
    }
}

impl Lost {
    /// With what had come before it.
    fn behind(self, had: &[u8]) -> Self {
        match self {
            Self::Closed(rest) => Self::Closed([had, &rest].concat()),
            other => other,
        }
    }
}

impl From<Lost> for End {
    fn from(lost: Lost) -> Self {
        match lost {
            Lost::Closed(_) => Self::Cut,
            Lost::Hung => Self::Hung,
            Lost::Garbled(what) => Self::Garbled(what),
        }
    }
}

/// The messages of a whole event stream.
pub(crate) fn events(body: &[u8]) -> Vec<serde_json::Result<Value>> {
    let text = String::from_utf8_lossy(body);
    let data = text.split("\n\n").map(|block| Event::of(block).data).filter(|data| !data.trim().is_empty());
    data.map(|data| serde_json::from_str(&data)).collect()
}
