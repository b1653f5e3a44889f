//! The servers of a chaos run: each call is treated as its draw says, and is written into the ledger once its whole
//! body has been read.

use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use serde_json::{Value, json};
use socket2::{Domain, SockRef, Socket, Type};

use super::chaos::{Call, Draw, SERVERS, SERVINGS, Serving, TIMEOUT, Tool, value};
use super::mcp::{MODERN, VERSION_KEY};
use super::oracle::Entry;

/// Servers under one roof.
pub(crate) struct Servers {
    addresses: Vec<SocketAddr>,
    shared: Arc<Shared>,
}

struct Shared {
    seed: u64,
    ledger: Mutex<Vec<Entry>>,
    /// How often each way of serving was met.
    served: Vec<AtomicUsize>,
    sessions: AtomicUsize,
    stop: AtomicBool,
}

/// A connection from the gateway.
struct Line<'a> {
    socket: &'a TcpStream,
    /// Received and not taken yet.
    bytes: Vec<u8>,
    /// How long it may be idle before it is closed.
    idle: Duration,
}

/// A request from the gateway.
struct Request {
    http: String,
    message: Value,
}

impl Servers {
    /// Starts all of them, each on a port of its own.
    pub(crate) fn start(seed: u64) -> Self {
        let shared = Arc::new(Shared {
            seed,
            ledger: Mutex::default(),
            served: SERVINGS.iter().map(|_| AtomicUsize::new(0)).collect(),
            sessions: AtomicUsize::new(0),
            stop: AtomicBool::new(false),
        });
        let addresses = (0..SERVERS.len()).map(|server| listen(&shared, server)).collect();
        Self { addresses, shared }
    }

    /// The endpoint of one.
    pub(crate) fn url(&self, server: usize) -> String {
        format!("http://{}/mcp", self.addresses[server])
    }

    /// Every call whose body was read, in the order in which they were complete.
    pub(crate) fn ledger(&self) -> Vec<Entry> {
        self.shared.ledger().clone()
    }

    /// How often each way of serving was met.
    pub(crate) fn served(&self) -> Vec<(Serving, usize)> {
        let counts = self.shared.served.iter().map(|count| count.load(Ordering::Relaxed));
        SERVINGS.iter().map(|(serving, _)| *serving).zip(counts).collect()
    }
}

impl Drop for Servers {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Release);
        for address in &self.addresses {
            // The listening thread wakes up and sees that it is over.
            let _ = TcpStream::connect_timeout(address, Duration::from_millis(200));
        }
    }
}

impl Shared {
    fn ledger(&self) -> std::sync::MutexGuard<'_, Vec<Entry>> {
        self.ledger.lock().unwrap_or_else(|held| held.into_inner())
    }

    fn count(&self, serving: Serving) {
        let row = SERVINGS.iter().position(|(row, _)| *row == serving).expect("every way has its odds");
        self.served[row].fetch_add(1, Ordering::Relaxed);
    }
}

fn listen(shared: &Arc<Shared>, server: usize) -> SocketAddr {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket can be made");
    let any: SocketAddr = (Ipv4Addr::LOCALHOST, 0).into();
    socket.bind(&any.into()).expect("loopback has a free port");
    socket.listen(1024).expect("a bound socket can listen");
    let listener: TcpListener = socket.into();
    let address = listener.local_addr().expect("a bound socket has an address");
    let shared = shared.clone();
    thread::spawn(move || {
        for socket in listener.incoming().map_while(Result::ok) {
            if shared.stop.load(Ordering::Acquire) {
                break;
            }
            let shared = shared.clone();
            let thread = thread::Builder::new().stack_size(STACK_BYTES);
            thread.spawn(move || connection(&shared, server, &socket)).expect("a thread can be started");
        }
    });
    address
}

fn connection(shared: &Shared, server: usize, socket: &TcpStream) {
    let _ = socket.set_nodelay(true);
    let mut line = Line { socket, bytes: Vec::new(), idle: PATIENT };
    while let Some(request) = line.request(shared) {
        let keep = match request.message["method"].as_str() {
            Some("tools/call") => call(shared, server, &request.message, &mut line),
            method => manners(shared, &request, method.unwrap_or_default(), &mut line),
        };
        if !keep || shared.stop.load(Ordering::Acquire) {
            break;
        }
    }
    let _ = socket.shutdown(Shutdown::Both);
}

impl Line<'_> {
    /// The next request, whole. `None` at the end, and where it was answered before it was read.
    fn request(&mut self, shared: &Shared) -> Option<Request> {
        let _ = self.socket.set_read_timeout(Some(self.idle));
        self.idle = PATIENT;
        let end = loop {
            if let Some(end) = self.bytes.windows(4).position(|four| four == b"\r\n\r\n") {
                break end + 4;
            }
            self.more()?;
        };
        let _ = self.socket.set_read_timeout(Some(PATIENT));
        let head = String::from_utf8(self.bytes[..end].to_vec()).expect("the gateway writes ASCII heads");
        let field = |name: &str| {
            let line = head.split("\r\n").find_map(|line| line.strip_prefix(name)?.strip_prefix(": "));
            line.unwrap_or_default()
        };
        let drawn = field("traceparent").get(3..35).and_then(|value| Call::carrying(shared.seed, value));
        if let Some(call) = drawn.filter(|call| call.serving == Serving::Early) {
            shared.count(Serving::Early);
            let error = json!({ "code": -32_051, "message": format!("too large, v:{}", call.value) });
            let id: Value = serde_json::from_str(&call.id_text()).expect("ids are JSON");
            let body = json!({ "jsonrpc": "2.0", "id": id, "error": error }).to_string();
            self.write(head_of(413, &format!("connection: close\r\ncontent-length: {}\r\n", body.len())) + &body);
            return None;
        }
        let whole = end + field("content-length").parse().unwrap_or(0);
        while self.bytes.len() < whole {
            self.more()?;
        }
        let message = serde_json::from_slice(&self.bytes[end..whole]).unwrap_or_default();
        self.bytes.drain(..whole);
        Some(Request { http: head.split(' ').next().unwrap_or_default().to_owned(), message })
    }

    fn more(&mut self) -> Option<()> {
        let mut piece = [0; 16 * 1024];
        let mut socket = self.socket;
        match socket.read(&mut piece) {
            Ok(n) if n > 0 => self.bytes.extend_from_slice(&piece[..n]),
            _ => return None,
        }
        Some(())
    }

    fn write(&mut self, bytes: impl AsRef<[u8]>) {
        let mut socket = self.socket;
        let _ = socket.write_all(bytes.as_ref());
    }

    fn write_in_pieces(&mut self, bytes: &[u8], cuts: &[usize], pause: Duration) {
        let mut start = 0;
        for end in cuts {
            self.write(&bytes[start..*end]);
            thread::sleep(pause);
            start = *end;
        }
    }

    fn reset(&self) {
        let _ = SockRef::from(self.socket).set_linger(Some(Duration::ZERO));
    }

    fn until_gone(&mut self) {
        let _ = self.socket.set_read_timeout(Some(TIMEOUT * 8));
        while self.more().is_some() {}
    }
}

/// What is no call of a tool, and is always answered well.
fn manners(shared: &Shared, request: &Request, method: &str, line: &mut Line<'_>) -> bool {
    let message = &request.message;
    let id = &message["id"];
    if request.http != "POST" {
        let status = if request.http == "DELETE" { 200 } else { 405 };
        line.write(format!("HTTP/1.1 {status} Status\r\ncontent-length: 0\r\n\r\n"));
        return true;
    }
    if id.is_null() {
        line.write("HTTP/1.1 202 Accepted\r\ncontent-length: 0\r\n\r\n");
        return true;
    }
    let modern = is_modern(message);
    let mut fields = String::new();
    let mut result = match method {
        "server/discover" => json!({ "supportedVersions": [MODERN], "capabilities": { "tools": {} } }),
        "initialize" => {
            let number = shared.sessions.fetch_add(1, Ordering::Relaxed);
            fields = format!("mcp-session-id: session-{number}\r\n");
            json!({
                "protocolVersion": message["params"]["protocolVersion"], "capabilities": { "tools": {} },
                "serverInfo": { "name": "chaos", "version": "1" },
            })
        }
        "tools/list" => {
            let offered = [Tool::Echo, Tool::Read, Tool::Refund, Tool::Secret, Tool::Frozen].map(Tool::name);
            let tools: Vec<Value> =
                offered.iter().map(|name| json!({ "name": name, "inputSchema": { "type": "object" } })).collect();
            json!({ "tools": tools })
        }
        _ => {
            let error = json!({ "code": -32_601, "message": "Method not found" });
            let body = json!({ "jsonrpc": "2.0", "id": id, "error": error }).to_string();
            line.write(head_of(200, &format!("content-length: {}\r\n", body.len())) + &body);
            return true;
        }
    };
    if modern {
        for (key, value) in
            [("resultType", json!("complete")), ("ttlMs", json!(60_000)), ("cacheScope", json!("public"))]
        {
            result[key] = value;
        }
    }
    let body = json!({ "jsonrpc": "2.0", "id": id, "result": result }).to_string();
    line.write(head_of(200, &format!("{fields}content-length: {}\r\n", body.len())) + &body);
    true
}

/// Writes the call down and treats it as drawn; whether the connection goes on.
fn call(shared: &Shared, server: usize, message: &Value, line: &mut Line<'_>) -> bool {
    let text = |at: &str| message.pointer(at).and_then(Value::as_str).unwrap_or_default().to_owned();
    let entry =
        Entry { server: SERVERS[server].into(), tool: text("/params/name"), value: text("/params/arguments/value") };
    let drawn = Call::carrying(shared.seed, &entry.value);
    shared.ledger().push(entry);
    // One that nobody has drawn stands in the ledger; the oracle will say what it thinks of that.
    let Some(call) = drawn else { return false };
    shared.count(call.serving);
    let mut draw = call.more(shared.seed, 0);
    let reply = Reply {
        id: message["id"].clone(),
        modern: is_modern(message),
        value: &call.value,
        // The neighbour's: another caller's, most of the time.
        foreign: &value(shared.seed, call.number ^ 1),
    };
    let serving = call.serving;
    match serving {
        Serving::Json | Serving::Chunked | Serving::UntilClose | Serving::Delayed | Serving::Trickled => {
            plain(serving, &reply, line, &mut draw)
        }
        Serving::Split | Serving::Huge | Serving::Interim | Serving::CloseAfter | Serving::CloseIdle => {
            plain(serving, &reply, line, &mut draw)
        }
        Serving::Extra | Serving::Error | Serving::ToolError => plain(serving, &reply, line, &mut draw),
        Serving::Stream | Serving::StreamCut | Serving::StreamForeign => stream(serving, &reply, line, &mut draw),
        Serving::CloseBefore | Serving::CloseDuring | Serving::Reset | Serving::HugeCut | Serving::LengthLong => {
            cut(serving, &reply, line, &mut draw)
        }
        Serving::Never => {
            line.until_gone();
            false
        }
        Serving::Early => false,
        _ => wrong(serving, &reply, line, &mut draw),
    }
}

/// The parts of an answer.
struct Reply<'a> {
    id: Value,
    modern: bool,
    value: &'a str,
    foreign: &'a str,
}

impl Reply<'_> {
    fn result(&self, id: &Value, value: &str, pad: usize, is_error: bool) -> String {
        let modern = if self.modern { ",\"resultType\":\"complete\"" } else { "" };
        let pad = "x".repeat(pad);
        format!(
            "{{\"jsonrpc\":\"2.0\",\"id\":{id},\"result\":{{\"content\":[{{\"type\":\"text\",\"text\":\"v:{value}\"}},\
             {{\"type\":\"text\",\"text\":\"{pad}\"}}],\"isError\":{is_error}{modern}}}}}"
        )
    }

    fn good(&self, pad: usize) -> String {
        self.result(&self.id, self.value, pad, false)
    }

    /// A whole HTTP answer.
    fn whole(&self, pad: usize) -> String {
        with_length(&self.good(pad))
    }

    /// A whole HTTP answer to somebody else, under the id that most calls have.
    fn stolen(&self) -> String {
        with_length(&self.result(&json!(1), self.foreign, 0, false))
    }

    fn progress(&self, step: usize) -> String {
        let message = json!({
            "jsonrpc": "2.0", "method": "notifications/progress",
            "params": { "progressToken": self.value, "progress": step, "total": 4 },
        });
        event(&message.to_string())
    }
}

/// Answers that are good, and errors that are answers.
fn plain(serving: Serving, reply: &Reply<'_>, line: &mut Line<'_>, draw: &mut Draw) -> bool {
    let (whole, pad) = (reply.whole(draw.below(300)), draw.within(66_000..300_000));
    match serving {
        Serving::Chunked => {
            let body = reply.good(draw.below(2_000));
            let cuts = draw.cuts(body.len(), 4);
            line.write(head_of(200, "transfer-encoding: chunked\r\n") + &chunked(body.as_bytes(), &cuts) + "0\r\n\r\n");
        }
        Serving::UntilClose => {
            line.write(head_of(200, "") + &reply.good(draw.below(300)));
            return false;
        }
        Serving::Delayed => {
            thread::sleep(Duration::from_millis(draw.within(5..80) as u64));
            line.write(whole);
        }
        Serving::Trickled => {
            let cuts: Vec<usize> = (1..=whole.len()).collect();
            line.write_in_pieces(whole.as_bytes(), &cuts, Duration::ZERO);
        }
        Serving::Split => {
            let cuts = draw.cuts(whole.len(), 5);
            line.write_in_pieces(whole.as_bytes(), &cuts, Duration::from_micros(draw.below(900) as u64));
        }
        Serving::Huge if draw.chance(50) => line.write(reply.whole(pad)),
        Serving::Huge => {
            let body = reply.good(pad);
            let cuts = draw.cuts(body.len(), 12);
            line.write(head_of(200, "transfer-encoding: chunked\r\n") + &chunked(body.as_bytes(), &cuts) + "0\r\n\r\n");
        }
        Serving::Interim => {
            let count = draw.within(1..9);
            line.write("HTTP/1.1 103 Early Hints\r\nlink: </x>\r\n\r\n".repeat(count) + &whole);
        }
        Serving::CloseAfter => {
            line.write(whole);
            return false;
        }
        Serving::CloseIdle => {
            line.write(whole);
            line.idle = Duration::from_millis(draw.within(1..60) as u64);
        }
        // Short enough to come with the first read, or so long that it takes more than one.
        Serving::Extra => {
            let pad = if draw.chance(50) { draw.below(1_000) } else { draw.within(12_000..64_000) };
            line.write(reply.whole(pad) + &reply.stolen());
        }
        Serving::Error => {
            let error = json!({ "code": -32_050, "message": format!("v:{}", reply.value) });
            line.write(with_length(&json!({ "jsonrpc": "2.0", "id": reply.id, "error": error }).to_string()));
        }
        Serving::ToolError => line.write(with_length(&reply.result(&reply.id, reply.value, 0, true))),
        _ => line.write(whole),
    }
    true
}

/// Event streams.
fn stream(serving: Serving, reply: &Reply<'_>, line: &mut Line<'_>, draw: &mut Draw) -> bool {
    let steps = draw.within(1..5);
    line.write("HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n");
    let mut text: String = (0..steps).map(|step| reply.progress(step)).collect();
    if serving == Serving::Stream {
        text += &event(&reply.good(draw.below(5_000)));
    } else if serving == Serving::StreamForeign {
        text += &event(&reply.result(&json!("foreign"), reply.foreign, 0, false));
    }
    let cuts = draw.cuts(text.len(), 5);
    let pause = Duration::from_micros(draw.below(2_000) as u64);
    let mut start = 0;
    for end in cuts {
        line.write(chunked(&text.as_bytes()[start..end], &[end - start]));
        thread::sleep(pause);
        start = end;
    }
    match serving {
        Serving::StreamCut if draw.chance(50) => {
            line.write(chunked(b"data: {\"jso", &[11]));
            return false;
        }
        Serving::StreamCut if draw.chance(30) => {
            line.reset();
            return false;
        }
        _ => line.write("0\r\n\r\n"),
    }
    true
}

/// Answers whose connection ends too early.
fn cut(serving: Serving, reply: &Reply<'_>, line: &mut Line<'_>, draw: &mut Draw) -> bool {
    match serving {
        Serving::CloseDuring => {
            let whole = reply.whole(draw.below(300));
            line.write(&whole[..draw.within(1..whole.len())]);
        }
        Serving::Reset => {
            let whole = reply.whole(draw.below(300));
            line.write(&whole[..draw.within(0..whole.len())]);
            line.reset();
        }
        Serving::HugeCut => {
            // The gateway has passed on the first part of it by then.
            let whole = reply.whole(300_000);
            line.write(&whole[..draw.within(150_000..290_000)]);
        }
        Serving::LengthLong => {
            let body = reply.good(draw.below(300));
            line.write(head_of(200, &format!("content-length: {}\r\n", body.len() + draw.within(1..500))) + &body);
        }
        _ => {}
    }
    false
}

/// Answers that are none.
fn wrong(serving: Serving, reply: &Reply<'_>, line: &mut Line<'_>, draw: &mut Draw) -> bool {
    let body = reply.good(draw.below(300));
    let length = body.len();
    let whole = with_length(&body);
    let answer = match serving {
        Serving::LengthShort => {
            head_of(200, &format!("content-length: {}\r\n", length - draw.within(1..length.min(60)))) + &body
        }
        Serving::BothLengths => {
            let both = ["transfer-encoding: chunked\r\n".to_owned(), format!("content-length: {length}\r\n")];
            let fields = if draw.chance(50) { both.concat() } else { both.into_iter().rev().collect() };
            head_of(200, &fields) + &chunked(body.as_bytes(), &[length]) + "0\r\n\r\n"
        }
        Serving::BadChunk => {
            let size = draw.one_of(&["zz", "-5", "0x10", "5", " 8", "+8", ""]);
            head_of(200, "transfer-encoding: chunked\r\n") + &format!("{size}\r\n{body}\r\n0\r\n\r\n")
        }
        Serving::BadStatus => match draw.below(5) {
            0 => whole.replacen("200", "999", 1),
            1 => whole.replacen("200", "20", 1),
            2 => "HTTP/1.1 101 Switching Protocols\r\nupgrade: websocket\r\n\r\n".into(),
            3 => "HTTP/1.1 302 Found\r\nlocation: http://elsewhere.test/\r\ncontent-length: 0\r\n\r\n".into(),
            _ => whole.replacen("200", "500", 1).replacen("application/json", "text/html", 1),
        },
        Serving::Flood => "HTTP/1.1 100 Continue\r\n\r\n".repeat(draw.within(11..200)) + &whole,
        Serving::WrongId => {
            let id = draw.one_of(&["\"other\"", "777777777", "null", "1.0", "{}"]);
            let id: Value = serde_json::from_str(id).expect("ids are JSON");
            with_length(&reply.result(&id, reply.value, 0, false))
        }
        _ => with_length(&reply.result(&json!("foreign"), reply.foreign, draw.below(300), false)),
    };
    line.write(answer);
    // Whether the connection is usable is for the gateway to know.
    true
}

fn is_modern(message: &Value) -> bool {
    message["params"]["_meta"].get(VERSION_KEY).is_some()
}

/// An event that carries a message.
pub(super) fn event(message: &str) -> String {
    format!("event: message\ndata: {message}\n\n")
}

/// The head of a JSON answer.
pub(super) fn head_of(status: u16, fields: &str) -> String {
    format!("HTTP/1.1 {status} Status\r\ncontent-type: application/json\r\n{fields}\r\n")
}

/// A whole HTTP answer with this JSON.
pub(super) fn with_length(body: &str) -> String {
    head_of(200, &format!("content-length: {}\r\n", body.len())) + body
}

/// The bytes as chunks that end at `cuts`, without the last chunk.
pub(super) fn chunked(bytes: &[u8], cuts: &[usize]) -> String {
    let mut out = String::new();
    let mut start = 0;
    for end in cuts.iter().filter(|end| **end > 0) {
        let piece = &bytes[start..*end];
        if !piece.is_empty() {
            out += &format!("{:x}\r\n{}\r\n", piece.len(), String::from_utf8_lossy(piece));
        }
        start = *end;
    }
    out
}

const STACK_BYTES: usize = 256 * 1024;
/// For longer no connection is left idle.
const PATIENT: Duration = Duration::from_secs(30);
