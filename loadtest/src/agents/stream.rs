//! An event stream that an agent holds open: its events are counted, and not kept.

use std::io;
use std::net::TcpStream;
use std::time::{Duration, Instant};

use super::wire::{Endpoint, Wire};

const HEAD_BYTES_MAX: usize = 64 << 10;
const FIELDS_MAX: usize = 64;

/// A stream, asked for or open.
pub(super) struct Stream {
    wire: Wire,
    /// What has come of its head.
    head: Vec<u8>,
    open: bool,
    asked: Instant,
}

/// What has come.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Heard {
    Nothing,
    /// It is open after so long, and so many events came with that.
    Opened(Duration, u64),
    Events(u64),
    /// It was open, and the other side ended it.
    Ended,
    /// With this status, or not as an event stream.
    Refused(u16),
    Failed(String),
}

impl Stream {
    /// Asks for it.
    pub(super) fn open(endpoint: &Endpoint, number: usize, write: impl FnOnce(&mut Vec<u8>)) -> io::Result<Self> {
        let mut wire = Wire::open(endpoint, number)?;
        write(wire.output());
        Ok(Self { wire, head: Vec::new(), open: false, asked: Instant::now() })
    }

    pub(super) fn socket(&self) -> &TcpStream {
        &self.wire.socket
    }

    pub(super) fn waits(&self) -> bool {
        self.wire.waits()
    }

    pub(super) fn is_open(&self) -> bool {
        self.open
    }

    /// Whether it was asked for too long ago.
    pub(super) fn is_late(&self, now: Instant, patience: Duration) -> bool {
        !self.open && now.saturating_duration_since(self.asked) > patience
    }

    pub(super) fn advance(&mut self, piece: &mut [u8]) -> Heard {
        let mut input = Vec::new();
        let ended = match self.wire.advance(piece, &mut input) {
            Ok(ended) => ended,
            Err(_) if self.open => return Heard::Ended,
            Err(error) => return Heard::Failed(error.to_string()),
        };
        let heard = if self.open { Heard::Events(events(&input)) } else { self.begin(&input) };
        match heard {
            Heard::Events(0) | Heard::Nothing if ended && self.open => Heard::Ended,
            Heard::Nothing if ended => Heard::Failed("the connection ended before the stream began".to_owned()),
            Heard::Events(0) => Heard::Nothing,
            heard => heard,
        }
    }

    fn begin(&mut self, input: &[u8]) -> Heard {
        self.head.extend_from_slice(input);
        let mut fields = [httparse::EMPTY_HEADER; FIELDS_MAX];
        let mut response = httparse::Response::new(&mut fields);
        let end = match response.parse(&self.head) {
            Ok(httparse::Status::Complete(end)) => end,
            Ok(httparse::Status::Partial) if self.head.len() < HEAD_BYTES_MAX => return Heard::Nothing,
            _ => return Heard::Failed("not an HTTP response".to_owned()),
        };
        let status = response.code.unwrap_or(0);
        let is_stream = response.headers.iter().any(|field| {
            field.name.eq_ignore_ascii_case("content-type") && field.value.starts_with(b"text/event-stream")
        });
        if status != 200 || !is_stream {
            return Heard::Refused(status);
        }
        self.open = true;
        let count = events(&self.head[end..]);
        self.head = Vec::new();
        Heard::Opened(self.asked.elapsed(), count)
    }
}

/// Lines of data; one that comes in two pieces may be missed or not, it is only counted.
fn events(bytes: &[u8]) -> u64 {
    memchr::memmem::find_iter(bytes, b"data:").count() as u64
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;
    use std::net::TcpListener;

    use super::*;

    /// What is heard where the server sends these pieces, one after the other, and closes.
    fn heard(pieces: &[&str]) -> Vec<Heard> {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let port = listener.local_addr().expect("an address").port();
        let endpoint = Endpoint::parse(&format!("http://127.0.0.1:{port}/")).expect("a URL");
        let mut stream =
            Stream::open(&endpoint, 0, |out| out.extend_from_slice(b"GET / HTTP/1.1\r\n\r\n")).expect("a socket");
        let (mut server, _) = listener.accept().expect("a connection");
        let mut all = Vec::new();
        let until = Instant::now() + Duration::from_secs(20);
        let mut pieces = pieces.iter();
        let mut next = true;
        loop {
            if next {
                match pieces.next() {
                    Some(piece) => server.write_all(piece.as_bytes()).expect("it is open"),
                    None => server.shutdown(std::net::Shutdown::Write).expect("it is open"),
                }
                next = false;
            }
            match stream.advance(&mut [0; 4096]) {
                Heard::Nothing => std::thread::sleep(Duration::from_millis(1)),
                heard => {
                    let over = !matches!(heard, Heard::Opened(..) | Heard::Events(_));
                    all.push(match heard {
                        Heard::Opened(_, count) => Heard::Opened(Duration::ZERO, count),
                        heard => heard,
                    });
                    if over {
                        return all;
                    }
                    next = true;
                }
            }
            assert!(Instant::now() < until, "{all:?}");
        }
    }

    #[test]
    fn a_stream_from_its_head_to_its_end() {
        let head = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n";
        let all = heard(&[&format!("{head}8\r\ndata: 1\n\r\n"), "8\r\ndata: 2\n\r\n"]);
        assert_eq!(all, [Heard::Opened(Duration::ZERO, 1), Heard::Events(1), Heard::Ended]);
    }

    #[test]
    fn no_stream() {
        assert_eq!(heard(&["HTTP/1.1 405 No\r\nContent-Length: 0\r\n\r\n"]), [Heard::Refused(405)]);
        let json = "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{}";
        assert_eq!(heard(&[json]), [Heard::Refused(200)]);
        assert!(matches!(heard(&["SSH\r\n\r\n"])[..], [Heard::Failed(_)]));
    }
}
