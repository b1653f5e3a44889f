//! Whom a gateway talks to beside clients and servers: a collector of telemetry, a token endpoint, an issuer's keys.

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use anyhow::Context as _;

/// More than the gateway sends at once.
const REQUEST_BYTES_MAX: usize = 16 << 20;
const FIELDS_MAX: usize = 64;
const READ_BYTES: usize = 64 << 10;
/// Of a token that is handed out; signed ones are about as long.
const TOKEN_CHARACTERS: usize = 640;

/// Answers until this process ends.
pub(crate) struct Sink {
    pub(crate) port: u16,
    taken: Arc<Taken>,
}

/// What has come so far.
#[derive(Debug, Default)]
struct Taken {
    spans: AtomicU64,
    metrics: AtomicU64,
    tokens: AtomicU64,
    keys: AtomicU64,
    /// Requests that were for none of these.
    odd: AtomicU64,
    /// The key set that is given out.
    key_set: Mutex<Vec<u8>>,
}

impl Sink {
    /// One on a port of its own, on this thread's core.
    pub(crate) fn start() -> anyhow::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").context("a port for collector and token endpoint")?;
        let port = listener.local_addr()?.port();
        let taken = Arc::<Taken>::default();
        let shared = Arc::clone(&taken);
        let accept = move || {
            for socket in listener.incoming().flatten() {
                let taken = Arc::clone(&shared);
                // Refused threads are refused connections: the gateway says so.
                let _ = std::thread::Builder::new().name("sink".to_owned()).spawn(move || serve(socket, &taken));
            }
        };
        std::thread::Builder::new().name("sink".to_owned()).spawn(accept).context("a thread")?;
        Ok(Self { port, taken })
    }

    /// From now on these are the issuer's keys, at `/keys`; there are none before.
    pub(crate) fn give(&self, key_set: Vec<u8>) {
        if let Ok(mut given) = self.taken.key_set.lock() {
            *given = key_set;
        }
    }

    /// Spans that have come.
    pub(crate) fn spans(&self) -> u64 {
        self.taken.spans.load(Ordering::Relaxed)
    }

    /// Times that metrics have come.
    pub(crate) fn metrics(&self) -> u64 {
        self.taken.metrics.load(Ordering::Relaxed)
    }

    /// Tokens that were handed out.
    pub(crate) fn tokens(&self) -> u64 {
        self.taken.tokens.load(Ordering::Relaxed)
    }

    /// Times that the keys were asked for.
    pub(crate) fn keys(&self) -> u64 {
        self.taken.keys.load(Ordering::Relaxed)
    }

    /// Requests that nobody expected.
    pub(crate) fn odd(&self) -> u64 {
        self.taken.odd.load(Ordering::Relaxed)
    }
}

/// One connection, to its end.
fn serve(mut socket: TcpStream, taken: &Taken) {
    let _ = socket.set_nodelay(true);
    let (mut input, mut piece) = (Vec::new(), vec![0; READ_BYTES]);
    while input.len() <= REQUEST_BYTES_MAX {
        match request(&input) {
            Ok(Some((path, body, end))) => {
                let answer = taken.answer(path, body);
                if socket.write_all(&answer).is_err() {
                    return;
                }
                input.drain(..end);
                continue;
            }
            Ok(None) => {}
            Err(()) => {
                taken.odd.fetch_add(1, Ordering::Relaxed);
                return;
            }
        }
        match socket.read(&mut piece) {
            Ok(0) => return,
            Ok(read) => input.extend_from_slice(&piece[..read]),
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(_) => return,
        }
    }
}

/// Target, body and how many bytes both took.
type Whole<'a> = (&'a str, &'a [u8], usize);

/// Path, body and end of the first request in `input`, once it is whole.
fn request(input: &[u8]) -> Result<Option<Whole<'_>>, ()> {
    let mut fields = [httparse::EMPTY_HEADER; FIELDS_MAX];
    let mut request = httparse::Request::new(&mut fields);
    let httparse::Status::Complete(head) = request.parse(input).map_err(|_| ())? else { return Ok(None) };
    let mut length = 0;
    for field in request.headers.iter() {
        if field.name.eq_ignore_ascii_case("content-length") {
            length = std::str::from_utf8(field.value).ok().and_then(|text| text.parse().ok()).ok_or(())?;
        }
        if field.name.eq_ignore_ascii_case("transfer-encoding") || length > REQUEST_BYTES_MAX {
            return Err(());
        }
    }
    let path = request.path.ok_or(())?;
    Ok(input.get(head..head + length).map(|body| (path, body, head + length)))
}

impl Taken {
    fn answer(&self, path: &str, body: &[u8]) -> Vec<u8> {
        match path {
            "/v1/traces" => {
                self.spans.fetch_add(spans(body), Ordering::Relaxed);
                answer(200, "application/x-protobuf", b"")
            }
            "/v1/metrics" => {
                self.metrics.fetch_add(1, Ordering::Relaxed);
                answer(200, "application/x-protobuf", b"")
            }
            "/token" => {
                let number = self.tokens.fetch_add(1, Ordering::Relaxed);
                let token = format!("{number:0TOKEN_CHARACTERS$}");
                let kind = "urn:ietf:params:oauth:token-type:access_token";
                let text = format!(
                    r#"{{"access_token":"{token}","issued_token_type":"{kind}","token_type":"Bearer","expires_in":86400}}"#
                );
                answer(200, "application/json", text.as_bytes())
            }
            "/keys" => {
                let keys = self.key_set.lock().map(|keys| keys.clone()).unwrap_or_default();
                self.keys.fetch_add(1, Ordering::Relaxed);
                answer(if keys.is_empty() { 404 } else { 200 }, "application/jwk-set+json", &keys)
            }
            _ => {
                self.odd.fetch_add(1, Ordering::Relaxed);
                answer(404, "text/plain", b"")
            }
        }
    }
}

fn answer(status: u16, kind: &str, body: &[u8]) -> Vec<u8> {
    let words = if status == 200 { "OK" } else { "Not Found" };
    let head = format!("HTTP/1.1 {status} {words}\r\nContent-Type: {kind}\r\nContent-Length: {}\r\n\r\n", body.len());
    [head.as_bytes(), body].concat()
}

/// How many spans an `ExportTraceServiceRequest` has: `resource_spans` (1), `scope_spans` (2), `spans` (2).
fn spans(message: &[u8]) -> u64 {
    let inside = |message, number| parts(message).filter(move |part| part.0 == number).map(|part| part.1);
    let spans = inside(message, 1).flat_map(|resource| inside(resource, 2)).flat_map(|scope| inside(scope, 2));
    spans.count() as u64
}

/// The fields of a protobuf message that have a length: number and bytes. Ends where it cannot be read.
fn parts(message: &[u8]) -> impl Iterator<Item = (u64, &[u8])> {
    let mut rest = message;
    std::iter::from_fn(move || {
        loop {
            let tag = varint(&mut rest)?;
            let skipped = match tag & 7 {
                0 => varint(&mut rest).map(|_| 0)?,
                1 => 8,
                2 => {
                    let length = usize::try_from(varint(&mut rest)?).ok()?;
                    let (part, behind) = rest.split_at_checked(length)?;
                    rest = behind;
                    return Some((tag >> 3, part));
                }
                5 => 4,
                _ => return None,
            };
            rest = rest.get(skipped..)?;
        }
    })
}

fn varint(rest: &mut &[u8]) -> Option<u64> {
    let mut value = 0;
    for shift in (0..64).step_by(7) {
        let (byte, behind) = rest.split_first()?;
        *rest = behind;
        value |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_are_counted() {
        // Two spans of one field each, a scope before them; then a second resource without spans.
        let scope = [&[0x0a, 1, 0x00][..], &[0x12, 2, 0x08, 0x01], &[0x12, 9, 0x09, 1, 2, 3, 4, 5, 6, 7, 8]].concat();
        let mut resource = vec![0x12, u8::try_from(scope.len()).expect("it is short")];
        resource.extend_from_slice(&scope);
        let mut message = vec![0x0a, u8::try_from(resource.len()).expect("it is short")];
        message.extend_from_slice(&resource);
        message.extend_from_slice(&[0x0a, 0]);
        assert_eq!(spans(&message), 2);
        assert_eq!(spans(b""), 0);
        assert_eq!(spans(&message[..4]), 0, "half of one");
    }

    #[test]
    fn each_has_its_answer() {
        let sink = Sink::start().expect("a port");
        let mut socket = TcpStream::connect(("127.0.0.1", sink.port)).expect("a connection");
        let mut ask = |path: &str| {
            let request = format!("POST {path} HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\nab");
            let answer = crate::exchange::exchange(&mut socket, request.as_bytes()).expect("an answer");
            (answer.status(), answer.body().to_vec())
        };
        assert_eq!(ask("/v1/metrics").0, 200);
        assert_eq!(ask("/keys").0, 404);
        sink.give(b"{}".to_vec());
        assert_eq!(ask("/keys"), (200, b"{}".to_vec()));
        let (first, second) = (ask("/token").1, ask("/token").1);
        assert!(first != second && first.len() == second.len());
        assert_eq!(ask("/v1/logs").0, 404);
        assert_eq!((sink.metrics(), sink.keys(), sink.tokens(), sink.odd()), (1, 2, 2, 1));
    }
}
