//! A client that sends exactly the bytes it is told to, and says exactly what came back: status, fields, body, and
//! whether the body ended as its framing promised.

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{IpAddr, Shutdown, SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use rustls::{ClientConnection, StreamOwned};
use serde_json::Value;
use socket2::{Domain, SockRef, Socket, Type};

use super::gateway::PATIENCE;

const PIECE_BYTES: usize = 16 * 1024;

/// One connection.
#[derive(Debug)]
pub(crate) struct Wire {
    line: Line,
    /// Received and not taken yet.
    bytes: Vec<u8>,
}

/// What carries the bytes.
#[derive(Debug)]
enum Line {
    Plain(TcpStream),
    Tls(Box<StreamOwned<ClientConnection, TcpStream>>),
}

/// The connection ended before what was being read did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Cut {
    /// What had come of it.
    pub(crate) had: Vec<u8>,
}

/// Status and fields of an answer.
#[derive(Clone, Debug)]
pub(crate) struct Head {
    pub(crate) status: u16,
    /// Names in lower case.
    pub(crate) fields: Vec<(String, String)>,
    /// The head as it came.
    pub(crate) bytes: Vec<u8>,
}

/// A whole answer.
#[derive(Clone, Debug)]
pub(crate) struct Response {
    pub(crate) head: Head,
    pub(crate) body: Vec<u8>,
}

/// One event of a stream; a block of comments only has neither field.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Event {
    pub(crate) id: Option<String>,
    pub(crate) name: Option<String>,
    pub(crate) data: Option<String>,
}

/// An event stream being read.
#[derive(Debug)]
pub(crate) struct Events {
    wire: Wire,
    body: BodyReader,
    decoded: Vec<u8>,
}

#[derive(Debug)]
enum BodyReader {
    Length(usize),
    Chunked,
    UntilClose,
    Done,
}

impl Head {
    /// The value of a field; empty when it is not there.
    pub(crate) fn field(&self, name: &str) -> &str {
        let found = self.fields.iter().find(|(field, _)| field == name);
        found.map_or("", |(_, value)| value)
    }

    fn parse(bytes: Vec<u8>) -> Self {
        let text = String::from_utf8(bytes.clone()).expect("a head is ASCII");
        let mut lines = text.split("\r\n");
        let first = lines.next().unwrap_or_default();
        let status = first.strip_prefix("HTTP/1.1 ").and_then(|rest| rest.get(..3)?.parse().ok());
        let status = status.unwrap_or_else(|| panic!("no status line: {first:?}"));
        let field = |line: &str| {
            let (name, value) = line.split_once(':').unwrap_or_else(|| panic!("no field: {line:?}"));
            (name.to_ascii_lowercase(), value.trim().to_owned())
        };
        let fields = lines.filter(|line| !line.is_empty()).map(field).collect();
        Self { status, fields, bytes }
    }

    fn body(&self) -> BodyReader {
        let (length, coding) = (self.field("content-length"), self.field("transfer-encoding"));
        match (length, coding) {
            _ if self.status < 200 || self.status == 204 => BodyReader::Done,
            ("", "chunked") => BodyReader::Chunked,
            ("", "") => BodyReader::UntilClose,
            (length, "") => BodyReader::Length(length.parse().expect("a length is a number")),
            both => panic!("an answer with both lengths: {both:?}"),
        }
    }
}

impl Response {
    /// Its status.
    pub(crate) fn status(&self) -> u16 {
        self.head.status
    }

    /// The value of a field; empty when it is not there.
    pub(crate) fn field(&self, name: &str) -> &str {
        self.head.field(name)
    }

    /// Its body as JSON.
    #[track_caller]
    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|fault| panic!("{fault}: {}", self.text()))
    }

    /// Its body as text.
    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }
}

impl Line {
    fn socket(&self) -> &TcpStream {
        match self {
            Self::Plain(socket) => socket,
            Self::Tls(stream) => &stream.sock,
        }
    }

    fn write_all(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        match self {
            Self::Plain(socket) => socket.write_all(bytes),
            // It hides failures of the socket until the next write.
            Self::Tls(stream) => stream.write_all(bytes).and_then(|()| stream.flush()),
        }
    }

    /// `Ok(0)` is a proper end: with TLS, one that was announced.
    fn read(&mut self, piece: &mut [u8]) -> std::io::Result<usize> {
        match self {
            Self::Plain(socket) => socket.read(piece),
            Self::Tls(stream) => stream.read(piece),
        }
    }
}

impl Wire {
    /// Connects.
    pub(crate) fn to(address: SocketAddr) -> Self {
        let socket = TcpStream::connect_timeout(&address, PATIENCE).expect("the gateway listens");
        socket.set_nodelay(true).expect("a TCP socket has this option");
        Self { line: Line::Plain(socket), bytes: Vec::new() }
    }

    /// Connects from this address of this machine.
    pub(crate) fn from(source: IpAddr, address: SocketAddr) -> Self {
        let socket = Socket::new(Domain::for_address(address), Type::STREAM, None).expect("a socket can be made");
        socket.bind(&SocketAddr::new(source, 0).into()).expect("the address is this machine's");
        socket.connect(&address.into()).expect("the gateway listens");
        socket.set_tcp_nodelay(true).expect("a TCP socket has this option");
        Self { line: Line::Plain(socket.into()), bytes: Vec::new() }
    }

    /// Goes on encrypted, on a connection whose handshake is done.
    pub(crate) fn encrypted(stream: StreamOwned<ClientConnection, TcpStream>) -> Self {
        Self { line: Line::Tls(Box::new(stream)), bytes: Vec::new() }
    }

    /// What TLS knows about it.
    #[track_caller]
    pub(crate) fn tls(&mut self) -> &mut ClientConnection {
        match &mut self.line {
            Line::Tls(stream) => &mut stream.conn,
            Line::Plain(_) => panic!("this connection is not encrypted"),
        }
    }

    /// Announces, encrypted, that nothing more comes from here; the connection below stays.
    #[track_caller]
    pub(crate) fn farewell(&mut self) {
        self.tls().send_close_notify();
        let _ = self.line.write_all(&[]);
    }

    /// Reads to the end; whether it was announced.
    pub(crate) fn ends_announced(&mut self) -> bool {
        self.line.socket().set_read_timeout(Some(PATIENCE)).expect("a TCP socket has this option");
        let mut piece = [0; PIECE_BYTES];
        loop {
            match self.line.read(&mut piece) {
                Ok(0) => return true,
                Ok(n) => self.bytes.extend_from_slice(&piece[..n]),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(_) => return false,
            }
        }
    }

    /// Connects from another address of this machine.
    pub(crate) fn from_to(from: [u8; 4], address: SocketAddr) -> Self {
        let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).expect("a socket");
        socket.bind(&SocketAddr::from((from, 0)).into()).expect("all of 127/8 is this machine");
        socket.connect_timeout(&address.into(), PATIENCE).expect("the gateway listens");
        socket.set_tcp_nodelay(true).expect("a TCP socket has this option");
        Self { line: Line::Plain(socket.into()), bytes: Vec::new() }
    }

    /// Sends exactly these bytes. A connection that the other side has closed is no fault here: reading will tell.
    pub(crate) fn send(&mut self, bytes: &[u8]) {
        let _ = self.line.write_all(bytes);
    }

    /// Sends; `false` when the other side has closed the connection.
    pub(crate) fn try_send(&mut self, bytes: &[u8]) -> bool {
        self.line.socket().set_write_timeout(Some(PATIENCE)).expect("a TCP socket has this option");
        self.line.write_all(bytes).is_ok()
    }

    /// Everything that still comes, up to the end of the connection.
    pub(crate) fn rest(&mut self) -> Vec<u8> {
        while self.receive(PATIENCE) {}
        std::mem::take(&mut self.bytes)
    }

    /// Ends this side's half.
    pub(crate) fn close_half(&self) {
        let _ = self.line.socket().shutdown(Shutdown::Write);
    }

    /// Takes its leave with a reset: no goodbye, and what is under way is thrown away.
    pub(crate) fn reset(self) {
        let linger = SockRef::from(self.line.socket()).set_linger(Some(Duration::ZERO));
        linger.expect("a TCP socket has this option");
    }

    /// Sends, and reads the one answer.
    #[track_caller]
    pub(crate) fn ask(&mut self, bytes: &[u8]) -> Response {
        self.send(bytes);
        self.response()
    }

    /// Reads one whole answer.
    #[track_caller]
    pub(crate) fn response(&mut self) -> Response {
        match self.try_response() {
            Ok(response) => response,
            Err(cut) => panic!("the answer was cut: {:?}", String::from_utf8_lossy(&cut.had)),
        }
    }

    /// Reads one answer; of one that is cut, what had come.
    pub(crate) fn try_response(&mut self) -> Result<Response, Cut> {
        self.try_response_to(false)
    }

    /// The same; the answer to a HEAD has no body, whatever it announces.
    pub(crate) fn try_response_to(&mut self, head_request: bool) -> Result<Response, Cut> {
        let head = self.head()?;
        let mut reader = if head_request { BodyReader::Done } else { head.body() };
        let mut body = Vec::new();
        loop {
            match self.piece(&mut reader) {
                Ok(Some(piece)) => body.extend_from_slice(&piece),
                Ok(None) => return Ok(Response { head, body }),
                Err(_) => return Err(Cut { had: body }),
            }
        }
    }

    /// Reads one head.
    pub(crate) fn head(&mut self) -> Result<Head, Cut> {
        loop {
            if let Some(end) = self.bytes.windows(4).position(|four| four == b"\r\n\r\n") {
                let rest = self.bytes.split_off(end + 4);
                return Ok(Head::parse(std::mem::replace(&mut self.bytes, rest)));
            }
            if !self.receive(PATIENCE) {
                return Err(Cut { had: std::mem::take(&mut self.bytes) });
            }
        }
    }

    /// The head that comes next, which stays to be read.
    #[track_caller]
    pub(crate) fn peek_head(&mut self) -> Head {
        let head = self.head().expect("an answer begins");
        self.bytes.splice(..0, head.bytes.iter().copied());
        head
    }

    /// Whether anything has come, be it the end, after `patience` at most.
    pub(crate) fn comes(&mut self, patience: Duration) -> bool {
        self.line.socket().set_read_timeout(Some(patience)).expect("a TCP socket has this option");
        let got = self.line.socket().peek(&mut [0]);
        !self.bytes.is_empty() || !got.is_err_and(|error| is_timeout(error.kind()))
    }

    /// Goes on as an event stream, whose head comes next.
    #[track_caller]
    pub(crate) fn events(mut self) -> Events {
        let head = self.head().expect("an answer begins");
        assert_eq!((head.status, head.field("content-type")), (200, "text/event-stream"), "{self:?}");
        let body = head.body();
        Events { wire: self, body, decoded: Vec::new() }
    }

    /// Whether the other side ends the connection, without another byte, within `patience`.
    pub(crate) fn at_end(&mut self, patience: Duration) -> bool {
        self.bytes.is_empty() && !self.receive(patience) && self.bytes.is_empty()
    }

    /// What comes next, as it comes.
    #[track_caller]
    pub(crate) fn more(&mut self) -> Vec<u8> {
        assert!(!self.bytes.is_empty() || self.receive(PATIENCE), "nothing more comes");
        std::mem::take(&mut self.bytes)
    }

    /// Whether the other side keeps the connection, and says nothing, for `while_`.
    pub(crate) fn quiet(&mut self, while_: Duration) -> bool {
        self.line.socket().set_read_timeout(Some(while_)).expect("a TCP socket has this option");
        let got = self.line.socket().peek(&mut [0]);
        self.bytes.is_empty() && got.is_err_and(|error| is_timeout(error.kind()))
    }

    /// Receives more; `false` at the end of the connection, however it ended.
    fn receive(&mut self, patience: Duration) -> bool {
        let until = Instant::now() + patience;
        let mut piece = [0; PIECE_BYTES];
        loop {
            let left = until.saturating_duration_since(Instant::now());
            assert!(
                !left.is_zero(),
                "nothing came in {patience:?}; before that: {:?}",
                String::from_utf8_lossy(&self.bytes)
            );
            self.line.socket().set_read_timeout(Some(left)).expect("a TCP socket has this option");
            match self.line.read(&mut piece) {
                Ok(0) => return false,
                Ok(n) => {
                    self.bytes.extend_from_slice(&piece[..n]);
                    return true;
                }
                Err(error) if is_timeout(error.kind()) || error.kind() == ErrorKind::Interrupted => {}
                Err(_) => return false,
            }
        }
    }

    /// The next piece of a body; `None` at its proper end.
    fn piece(&mut self, reader: &mut BodyReader) -> Result<Option<Vec<u8>>, Cut> {
        match reader {
            BodyReader::Done | BodyReader::Length(0) => Ok(None),
            BodyReader::Length(left) => {
                if self.bytes.is_empty() && !self.receive(PATIENCE) {
                    return Err(Cut { had: Vec::new() });
                }
                let take = self.bytes.len().min(*left);
                *left -= take;
                Ok(Some(self.bytes.drain(..take).collect()))
            }
            BodyReader::UntilClose => {
                if self.bytes.is_empty() && !self.receive(PATIENCE) {
                    *reader = BodyReader::Done;
                    return Ok(None);
                }
                Ok(Some(std::mem::take(&mut self.bytes)))
            }
            BodyReader::Chunked => {
                let chunk = self.chunk()?;
                if chunk.is_empty() {
                    *reader = BodyReader::Done;
                    return Ok(None);
                }
                Ok(Some(chunk))
            }
        }
    }

    /// One chunk; the last one is empty.
    fn chunk(&mut self) -> Result<Vec<u8>, Cut> {
        let cut = || Cut { had: Vec::new() };
        let line_end = loop {
            match self.bytes.windows(2).position(|two| two == b"\r\n") {
                Some(end) => break end,
                None if self.receive(PATIENCE) => {}
                None => return Err(cut()),
            }
        };
        let size = std::str::from_utf8(&self.bytes[..line_end]).ok().and_then(|it| usize::from_str_radix(it, 16).ok());
        let size = size.unwrap_or_else(|| panic!("no chunk size: {:?}", &self.bytes[..line_end]));
        let (start, end) = (line_end + 2, line_end + 2 + size);
        while self.bytes.len() < end + 2 {
            if !self.receive(PATIENCE) {
                return Err(cut());
            }
        }
        assert_eq!(&self.bytes[end..end + 2], b"\r\n", "a chunk, or the trailers, end with CR LF");
        let rest = self.bytes.split_off(end + 2);
        let chunk = std::mem::replace(&mut self.bytes, rest);
        Ok(chunk[start..end].to_vec())
    }
}

impl Events {
    /// The next event that is one; comments are passed over, for so long. `None` at the stream's proper end.
    #[track_caller]
    pub(crate) fn next(&mut self) -> Result<Option<Event>, Cut> {
        let until = Instant::now() + 6 * PATIENCE;
        loop {
            assert!(Instant::now() < until, "nothing but comments comes");
            if let Some(event) = self.take_block() {
                if event != Event::default() {
                    return Ok(Some(event));
                }
            } else {
                match self.wire.piece(&mut self.body)? {
                    Some(piece) => self.decoded.extend_from_slice(&piece),
                    None => return Ok(None),
                }
            }
        }
    }

    /// The next message.
    #[track_caller]
    pub(crate) fn message(&mut self) -> Value {
        loop {
            let event = self.next().expect("the stream is not cut").expect("the stream goes on");
            if let Some(data) = event.data.filter(|data| !data.is_empty()) {
                return serde_json::from_str(&data).unwrap_or_else(|fault| panic!("{fault}: {data}"));
            }
        }
    }

    /// Everything up to the end: messages, and whether the end was a proper one.
    pub(crate) fn rest(mut self) -> (Vec<Value>, Result<Wire, Cut>) {
        let mut messages = Vec::new();
        loop {
            match self.next() {
                Ok(Some(event)) => {
                    let data = event.data.unwrap_or_default();
                    if !data.is_empty() {
                        messages.push(serde_json::from_str(&data).unwrap_or_else(|fault| panic!("{fault}: {data}")));
                    }
                }
                Ok(None) => return (messages, Ok(self.wire)),
                Err(cut) => return (messages, Err(cut)),
            }
        }
    }

    /// Whether anything has come, be it the end, after `patience` at most.
    pub(crate) fn comes(&mut self, patience: Duration) -> bool {
        !self.decoded.is_empty() || self.wire.comes(patience)
    }

    /// The connection, in the middle of the stream; events that were not asked for yet come first, without framing.
    pub(crate) fn into_wire(mut self) -> Wire {
        self.decoded.append(&mut self.wire.bytes);
        Wire { bytes: self.decoded, ..self.wire }
    }

    fn take_block(&mut self) -> Option<Event> {
        let end = self.decoded.windows(2).position(|two| two == b"\n\n")?;
        let rest = self.decoded.split_off(end + 2);
        let block = String::from_utf8(std::mem::replace(&mut self.decoded, rest)).expect("events are UTF-8");
        let mut event = Event::default();
        for line in block.lines() {
            let (name, value) = line.split_once(':').unwrap_or((line, ""));
            let value = value.strip_prefix(' ').unwrap_or(value);
            match name {
                "id" => event.id = Some(value.to_owned()),
                "event" => event.name = Some(value.to_owned()),
                "data" => match &mut event.data {
                    Some(data) => {
                        data.push('\n');
                        data.push_str(value);
                    }
                    None => event.data = Some(value.to_owned()),
                },
                _ => {}
            }
        }
        Some(event)
    }
}

fn is_timeout(kind: ErrorKind) -> bool {
    matches!(kind, ErrorKind::WouldBlock | ErrorKind::TimedOut)
}
