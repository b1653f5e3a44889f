//! A canned MCP server: one thread, epoll, both eras, the same answers every time.

use std::collections::HashSet;
use std::fs::File;
use std::io::{self, BufWriter, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::Context as _;
use serde::Deserialize;
use serde_json::value::RawValue;
use serde_json::{Value, json};

use crate::cli::Upstream;
use crate::net::{self, Interest, Poll};
use crate::traffic::{Calls, LEGACY, MODERN, padding};

const TICK: Duration = Duration::from_millis(100);
const READ_BYTES: usize = 16 << 10;
const REQUEST_BYTES_MAX: usize = 8 << 20;
const FIELDS_MAX: usize = 64;
const PAGE_TOOLS: usize = 500;
/// Keys of what is polled: connections from 0, listeners from here.
const LISTENERS: usize = usize::MAX / 2;
const STDIN: usize = usize::MAX - 1;
const LEGACY_VERSIONS: [&str; 3] = ["2025-03-26", "2025-06-18", LEGACY];
/// What says who calls: a credential, and the field in which `loadtest extras` has a claim told.
const SHOWS: [&str; 2] = ["authorization", "x-user"];
const SERVER_INFO: &str = concat!(r#"{"name":"canned","version":""#, env!("CARGO_PKG_VERSION"), r#""}"#);

/// `loadtest upstream`.
pub(crate) fn command(options: &Upstream, stop: &AtomicBool) -> anyhow::Result<bool> {
    if let Some(core) = options.core {
        net::stay_on(core)?;
    }
    let mut server = Server::bind(options)?;
    let ports: Vec<String> = server.ports()?.iter().map(u16::to_string).collect();
    println!("listening {}", ports.join(" "));
    server.run(stop)?;
    Ok(true)
}

/// The server.
pub(crate) struct Server {
    poll: Poll,
    listeners: Vec<TcpListener>,
    lines: Vec<Option<Line>>,
    free: Vec<usize>,
    responder: Responder,
}

/// A connection.
struct Line {
    socket: TcpStream,
    input: Vec<u8>,
    out: Vec<u8>,
    sent: usize,
    ends: bool,
}

/// Requests in, answers out.
struct Responder {
    answer_bytes: usize,
    events: u32,
    lie_every: u64,
    tools: Vec<String>,
    calls: u64,
    /// Those of them that had a field of [`SHOWS`].
    shown: u64,
    connections: u64,
    sessions: HashSet<String>,
    fresh: Calls,
    ledger: Option<BufWriter<File>>,
    padding: String,
    /// Whether there are streams without an end: sessions' own, and subscriptions.
    streams: bool,
}

/// What the head of a request says.
#[derive(Debug, Default)]
struct Head<'a> {
    method: &'a str,
    path: &'a str,
    end: usize,
    length: usize,
    version: Option<&'a str>,
    mcp_method: Option<&'a str>,
    mcp_name: Option<&'a str>,
    session: Option<&'a str>,
    shows: bool,
    close: bool,
}

#[derive(Deserialize)]
struct Message<'a> {
    #[serde(borrow, default)]
    id: Option<&'a RawValue>,
    #[serde(borrow, default)]
    method: Option<&'a str>,
    #[serde(borrow, default)]
    params: Option<Params<'a>>,
}

#[derive(Default, Deserialize)]
struct Params<'a> {
    #[serde(borrow, default)]
    name: Option<&'a str>,
    #[serde(borrow, default)]
    cursor: Option<&'a str>,
    #[serde(borrow, default, rename = "protocolVersion")]
    version: Option<&'a str>,
    #[serde(borrow, default)]
    arguments: Option<Arguments<'a>>,
    #[serde(borrow, default, rename = "_meta")]
    meta: Option<Meta<'a>>,
}

#[derive(Deserialize)]
struct Arguments<'a> {
    #[serde(borrow, default)]
    message: Option<&'a RawValue>,
}

#[derive(Default, Deserialize)]
struct Meta<'a> {
    #[serde(borrow, default, rename = "io.modelcontextprotocol/protocolVersion")]
    version: Option<&'a str>,
    #[serde(borrow, default, rename = "progressToken")]
    token: Option<&'a RawValue>,
}

impl Server {
    pub(crate) fn bind(options: &Upstream) -> anyhow::Result<Self> {
        let poll = Poll::new()?;
        let mut listeners = Vec::new();
        for number in 0..options.servers {
            let port =
                if options.port == 0 { 0 } else { options.port.checked_add(number).context("ports end there")? };
            let address = SocketAddr::new(options.address, port);
            let listener = net::listen(address).with_context(|| format!("listening on {address}"))?;
            poll.add(&listener, LISTENERS + usize::from(number), Interest::Read)?;
            listeners.push(listener);
        }
        if options.until_stdin_ends {
            poll.add(io::stdin(), STDIN, Interest::Read).context("standard input cannot be watched")?;
        }
        let ledger = options.ledger.as_ref().map(|file| {
            File::create(file).map(BufWriter::new).with_context(|| format!("the ledger {}", file.display()))
        });
        let responder = Responder {
            answer_bytes: options.answer_bytes,
            events: options.events,
            lie_every: options.lie_every,
            tools: (0..options.tools).map(|number| format!("tool-{number:04}")).collect(),
            calls: 0,
            shown: 0,
            connections: 0,
            sessions: HashSet::new(),
            fresh: Calls::new(),
            ledger: ledger.transpose()?,
            padding: padding(options.answer_bytes),
            streams: options.streams,
        };
        Ok(Self { poll, listeners, lines: Vec::new(), free: Vec::new(), responder })
    }

    /// One for each server that it plays.
    pub(crate) fn ports(&self) -> io::Result<Vec<u16>> {
        self.listeners.iter().map(|listener| Ok(listener.local_addr()?.port())).collect()
    }

    /// Serves until `stop`, or the end of standard input where that was asked for.
    pub(crate) fn run(&mut self, stop: &AtomicBool) -> anyhow::Result<()> {
        let mut keys = Vec::new();
        let mut piece = vec![0; READ_BYTES];
        while !stop.load(Ordering::Relaxed) {
            self.poll.wait(TICK, &mut keys)?;
            if keys.is_empty() {
                self.responder.flush()?;
            }
            for key in keys.drain(..) {
                match key {
                    STDIN => {
                        if io::stdin().read(&mut piece)? == 0 {
                            return self.responder.flush();
                        }
                    }
                    key if key >= LISTENERS => self.accept(key - LISTENERS)?,
                    key => self.serve(key, &mut piece),
                }
            }
        }
        self.responder.flush()
    }

    fn accept(&mut self, server: usize) -> io::Result<()> {
        loop {
            let (socket, _) = match self.listeners[server].accept() {
                Ok(accepted) => accepted,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                // The other side was quicker in closing than we in accepting, or files have run out for the moment.
                Err(_) => return Ok(()),
            };
            socket.set_nonblocking(true)?;
            socket.set_nodelay(true)?;
            let key = self.free.pop().unwrap_or_else(|| {
                self.lines.push(None);
                self.lines.len() - 1
            });
            self.poll.add(&socket, key, Interest::Read)?;
            self.responder.connections += 1;
            self.lines[key] = Some(Line { socket, input: Vec::new(), out: Vec::new(), sent: 0, ends: false });
        }
    }

    fn serve(&mut self, key: usize, piece: &mut [u8]) {
        let Some(line) = self.lines.get_mut(key).and_then(Option::as_mut) else { return };
        let waiting = line.sent < line.out.len();
        let alive = line.read(piece, &mut self.responder) && line.flush();
        let waits = line.sent < line.out.len();
        let over = !alive || (line.ends && !waits);
        let interest = if waits { Interest::ReadWrite } else { Interest::Read };
        let known = waiting == waits || self.poll.modify(&line.socket, key, interest).is_ok();
        if over || !known {
            self.lines[key] = None;
            self.free.push(key);
        }
    }
}

impl Line {
    /// Whether the connection goes on.
    fn read(&mut self, piece: &mut [u8], responder: &mut Responder) -> bool {
        match self.socket.read(piece) {
            Ok(0) => return false,
            Ok(read) => self.input.extend_from_slice(&piece[..read]),
            Err(error) => return matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted),
        }
        let mut used = 0;
        while used < self.input.len() && !self.ends {
            let rest = &self.input[used..];
            let head = match parse(rest) {
                Ok(Some(head)) => head,
                Ok(None) => break,
                Err(()) => {
                    plain(&mut self.out, 400);
                    self.ends = true;
                    break;
                }
            };
            let Some(body) = rest.get(head.end..head.end + head.length) else { break };
            used += head.end + head.length;
            self.ends = head.close;
            let before = self.out.len();
            responder.respond(&head, body, &mut self.out);
            if responder.events > 0 && before == 0 {
                // Each event leaves on its own, as it would where they come one after the other.
                let mut ends = event_ends(&self.out);
                ends.pop();
                for end in ends {
                    if self.sent >= end || !self.flush_to(end) {
                        break;
                    }
                }
            }
        }
        self.input.drain(..used);
        if self.input.is_empty() && responder.streams {
            // Thousands of connections may be silent from now on.
            self.input = Vec::new();
        }
        self.input.len() <= REQUEST_BYTES_MAX
    }

    fn flush_to(&mut self, end: usize) -> bool {
        match self.socket.write(&self.out[self.sent..end]) {
            Ok(written) => {
                self.sent += written;
                self.sent == end
            }
            Err(_) => false,
        }
    }

    /// Whether the connection goes on.
    fn flush(&mut self) -> bool {
        while self.sent < self.out.len() {
            match self.socket.write(&self.out[self.sent..]) {
                Ok(written) => self.sent += written,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return true,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => return false,
            }
        }
        self.out.clear();
        self.sent = 0;
        true
    }
}

impl Responder {
    fn respond(&mut self, head: &Head<'_>, body: &[u8], out: &mut Vec<u8>) {
        match (head.method, head.path) {
            ("GET", "/tally") => {
                let Self { calls, shown, connections, .. } = self;
                let tally = json!({ "calls": calls, "shown": shown, "connections": connections });
                json_answer(out, 200, None, &tally.to_string());
            }
            ("POST", _) => self.post(head, body, out),
            ("GET", _) if self.streams => {
                let known = head.session.is_some_and(|session| self.sessions.contains(session));
                if known { event_head(out) } else { plain(out, 404) }
            }
            ("DELETE", _) => {
                let known = head.session.is_some_and(|session| self.sessions.remove(session));
                plain(out, if known { 200 } else { 404 });
            }
            _ => plain(out, 405),
        }
    }

    fn post(&mut self, head: &Head<'_>, body: &[u8], out: &mut Vec<u8>) {
        let Ok(message) = serde_json::from_slice::<Message<'_>>(body) else {
            return error(out, 400, "null", -32_700, "not JSON-RPC");
        };
        let (Some(method), id) = (message.method, message.id.map(RawValue::get)) else { return plain(out, 202) };
        let params = message.params.unwrap_or_default();
        let meta = params.meta.as_ref();
        let modern = meta.and_then(|meta| meta.version);
        let Some(id) = id else { return plain(out, 202) };
        if let Some(version) = modern {
            if version != MODERN {
                return error(out, 400, id, -32_022, "unsupported protocol version");
            }
            let named = head.version == modern && head.mcp_method == Some(method);
            if !named || (method == "tools/call" && head.mcp_name != params.name) {
                return error(out, 400, id, -32_020, "header and body do not agree");
            }
        } else if method != "initialize" && !head.session.is_some_and(|session| self.sessions.contains(session)) {
            let status = if head.session.is_some() { 404 } else { 400 };
            return error(out, status, id, -32_000, "no such session");
        }
        match (method, modern.is_some()) {
            ("tools/call", modern) => {
                self.shown += u64::from(head.shows);
                self.call(id, &params, modern, out);
            }
            ("tools/list", modern) => self.list(id, params.cursor, modern, out),
            ("server/discover", true) => discover(id, out),
            ("subscriptions/listen", true) if self.streams => subscribe(id, out),
            ("initialize", false) => self.initialize(id, params.version, out),
            ("ping", false) => result(out, None, id, "{}"),
            (_, true) => error(out, 404, id, -32_601, "no such method"),
            (_, false) => error(out, 200, id, -32_601, "no such method"),
        }
    }

    fn call(&mut self, id: &str, params: &Params<'_>, modern: bool, out: &mut Vec<u8>) {
        let message = params.arguments.as_ref().and_then(|arguments| arguments.message).map(RawValue::get);
        // Its quotes are ours too, and what is inside is escaped already.
        let text = message.and_then(|text| text.strip_prefix('"')?.strip_suffix('"'));
        let known = params.name.is_some_and(|name| name == "echo" || self.tools.iter().any(|tool| tool == name));
        let (Some(text), true) = (text, known) else {
            return error(out, 200, id, -32_602, "no such tool, or no message");
        };
        self.calls += 1;
        if let Some(ledger) = &mut self.ledger {
            let era = if modern { "modern" } else { "legacy" };
            // A full disk shows when the ledger is flushed.
            let _ = writeln!(ledger, "{era}\t{id}\t{text}");
        }
        let lie = self.lie_every > 0 && self.calls.is_multiple_of(self.lie_every);
        let text = if lie { "0000000000000000" } else { text };
        let more = if modern {
            format!(r#","resultType":"complete","_meta":{{"io.modelcontextprotocol/serverInfo":{SERVER_INFO}}}"#)
        } else {
            String::new()
        };
        let (open, close) = (r#"{"jsonrpc":"2.0","id":"#, format!("\"}}]{more}}}}}"));
        let content = r#","result":{"content":[{"type":"text","text":""#;
        let bare = open.len() + id.len() + content.len() + text.len() + 2 + close.len();
        let pad = &self.padding[..self.answer_bytes.saturating_sub(bare)];
        let token = params.meta.as_ref().and_then(|meta| meta.token).map(RawValue::get);
        let parts = [open, id, content, text, "; ", pad, &close];
        if self.events > 0 {
            return event_answer(out, self.events, token, &parts);
        }
        answer_head(out, 200, Some("application/json"), None, bare + pad.len());
        for part in parts {
            out.extend_from_slice(part.as_bytes());
        }
    }

    fn list(&self, id: &str, cursor: Option<&str>, modern: bool, out: &mut Vec<u8>) {
        let from: usize = cursor.and_then(|cursor| cursor.parse().ok()).unwrap_or(0);
        let names = std::iter::once("echo").chain(self.tools.iter().map(String::as_str));
        let page: Vec<Value> = names.skip(from).take(PAGE_TOOLS).map(tool).collect();
        let mut list = json!({ "tools": page });
        if from + PAGE_TOOLS <= self.tools.len() {
            list["nextCursor"] = (from + PAGE_TOOLS).to_string().into();
        }
        if modern {
            list["resultType"] = "complete".into();
            list["ttlMs"] = 3_600_000.into();
            list["cacheScope"] = "public".into();
        }
        result(out, None, id, &list.to_string());
    }

    fn initialize(&mut self, id: &str, asked: Option<&str>, out: &mut Vec<u8>) {
        let version = LEGACY_VERSIONS.into_iter().find(|version| Some(*version) == asked).unwrap_or(LEGACY);
        let [first, second] = [self.fresh.next(), self.fresh.next()].map(|call| call.map_or(0, |call| call.value));
        let session = format!("{first:016x}{second:016x}");
        let body =
            format!(r#"{{"protocolVersion":"{version}","capabilities":{{"tools":{{}}}},"serverInfo":{SERVER_INFO}}}"#);
        result(out, Some(&session), id, &body);
        self.sessions.insert(session);
    }

    fn flush(&mut self) -> anyhow::Result<()> {
        self.ledger.as_mut().map_or(Ok(()), |ledger| ledger.flush().context("the ledger"))
    }
}

fn discover(id: &str, out: &mut Vec<u8>) {
    let body = format!(
        r#"{{"resultType":"complete","supportedVersions":["{MODERN}"],"capabilities":{{"tools":{{}}}},"ttlMs":3600000,"cacheScope":"public","_meta":{{"io.modelcontextprotocol/serverInfo":{SERVER_INFO}}}}}"#
    );
    result(out, None, id, &body);
}

/// A stream that begins with its acknowledgement, and then is silent until somebody ends it.
fn subscribe(id: &str, out: &mut Vec<u8>) {
    event_head(out);
    let acknowledged = [
        r#"{"jsonrpc":"2.0","method":"notifications/subscriptions/acknowledged","params":{"notifications":{"toolsListChanged":true},"_meta":{"io.modelcontextprotocol/subscriptionId":"#,
        id,
        "}}}",
    ];
    event(out, &acknowledged);
}

fn tool(name: &str) -> Value {
    json!({
        "name": name,
        "description": "Answers with its message.",
        "inputSchema": {
            "type": "object",
            "properties": { "message": { "type": "string" }, "note": { "type": "string" } },
            "required": ["message"],
        },
    })
}

fn result(out: &mut Vec<u8>, session: Option<&str>, id: &str, result: &str) {
    json_answer(out, 200, session, &format!(r#"{{"jsonrpc":"2.0","id":{id},"result":{result}}}"#));
}

fn error(out: &mut Vec<u8>, status: u16, id: &str, code: i32, message: &str) {
    let body = format!(r#"{{"jsonrpc":"2.0","id":{id},"error":{{"code":{code},"message":"{message}"}}}}"#);
    json_answer(out, status, None, &body);
}

fn json_answer(out: &mut Vec<u8>, status: u16, session: Option<&str>, body: &str) {
    answer_head(out, status, Some("application/json"), session, body.len());
    out.extend_from_slice(body.as_bytes());
}

fn plain(out: &mut Vec<u8>, status: u16) {
    answer_head(out, status, None, None, 0);
}

fn event_answer(out: &mut Vec<u8>, events: u32, token: Option<&str>, result: &[&str]) {
    event_head(out);
    for number in 1..events {
        let progress = [
            r#"{"jsonrpc":"2.0","method":"notifications/progress","params":{"progressToken":"#,
            token.unwrap_or("0"),
            &format!(r#","progress":{number},"total":{events}}}}}"#),
        ];
        event(out, &progress);
    }
    event(out, result);
    out.extend_from_slice(b"0\r\n\r\n");
}

fn event_head(out: &mut Vec<u8>) {
    out.extend_from_slice(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nCache-Control: no-cache\r\nTransfer-Encoding: chunked\r\n\r\n");
}

/// One event in a chunk of its own.
fn event(out: &mut Vec<u8>, data: &[&str]) {
    let (open, close) = ("event: message\ndata: ", "\n\n");
    let length = open.len() + data.iter().map(|part| part.len()).sum::<usize>() + close.len();
    out.extend_from_slice(format!("{length:x}\r\n").as_bytes());
    for part in [&[open], data, &[close, "\r\n"]].into_iter().flatten() {
        out.extend_from_slice(part.as_bytes());
    }
}

/// Where each event's chunk ends.
fn event_ends(out: &[u8]) -> Vec<usize> {
    memchr::memmem::find_iter(out, b"\n\n\r\n").map(|at| at + 4).collect()
}

fn answer_head(out: &mut Vec<u8>, status: u16, kind: Option<&str>, session: Option<&str>, length: usize) {
    let line = match status {
        200 => "HTTP/1.1 200 OK\r\n",
        202 => "HTTP/1.1 202 Accepted\r\n",
        404 => "HTTP/1.1 404 Not Found\r\n",
        405 => "HTTP/1.1 405 Method Not Allowed\r\nAllow: POST, DELETE\r\n",
        _ => "HTTP/1.1 400 Bad Request\r\n",
    };
    let length = length.to_string();
    let mut write = |parts: &[&str]| parts.iter().for_each(|part| out.extend_from_slice(part.as_bytes()));
    write(&[line]);
    if let Some(kind) = kind {
        write(&["Content-Type: ", kind, "\r\n"]);
    }
    if let Some(session) = session {
        write(&["Mcp-Session-Id: ", session, "\r\n"]);
    }
    write(&["Content-Length: ", &length, "\r\n\r\n"]);
}

fn parse(bytes: &[u8]) -> Result<Option<Head<'_>>, ()> {
    let mut fields = [httparse::EMPTY_HEADER; FIELDS_MAX];
    let mut request = httparse::Request::new(&mut fields);
    let end = match request.parse(bytes).map_err(|_| ())? {
        httparse::Status::Complete(end) => end,
        httparse::Status::Partial => return Ok(None),
    };
    let mut head = Head { method: request.method.ok_or(())?, path: request.path.ok_or(())?, end, ..Head::default() };
    for field in request.headers.iter() {
        let is = |name: &str| field.name.eq_ignore_ascii_case(name);
        let text = std::str::from_utf8(field.value).map_err(|_| ())?;
        match field.name.len() {
            14 if is("content-length") => head.length = text.parse().map_err(|_| ())?,
            14 if is("mcp-session-id") => head.session = Some(text),
            20 if is("mcp-protocol-version") => head.version = Some(text),
            10 if is("mcp-method") => head.mcp_method = Some(text),
            8 if is("mcp-name") => head.mcp_name = Some(text),
            13 | 6 if SHOWS.into_iter().any(is) => head.shows = true,
            10 if is("connection") => head.close = text.eq_ignore_ascii_case("close"),
            // Gateways and proxies that have the whole body say how long it is.
            17 if is("transfer-encoding") => return Err(()),
            _ => {}
        }
    }
    if head.length > REQUEST_BYTES_MAX { Err(()) } else { Ok(Some(head)) }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::thread;

    use super::*;
    use crate::generator::{Outcome, Pace, Plan, send};
    use crate::measure::Schedule;
    use crate::traffic::{Era, Shape, Target};

    fn options(events: u32, lie_every: u64) -> Upstream {
        Upstream {
            address: [127, 0, 0, 1].into(),
            port: 0,
            servers: 1,
            tools: 1_200,
            answer_bytes: 600,
            events,
            ledger: None,
            lie_every,
            streams: false,
            core: None,
            until_stdin_ends: false,
        }
    }

    fn plan(era: Era, events: u32, pace: Pace) -> Plan {
        Plan {
            shape: Shape {
                target: Target::local(0, "/mcp"),
                era,
                tool: "echo".to_owned(),
                tenth: None,
                token: None,
                body_bytes: 350,
                events,
            },
            tokens: Vec::new(),
            stay: false,
            connections: 7,
            pace,
            warmup: Duration::from_millis(20),
            window: Duration::from_millis(120),
            count: 2_000,
            timeout: Duration::from_secs(5),
            faults_max: 100,
        }
    }

    #[test]
    fn it_is_several_servers() {
        let (tallies, ..) = with_servers(&Upstream { servers: 3, ..options(0, 0) }, |ports| {
            assert_eq!(ports.iter().collect::<HashSet<_>>().len(), 3);
            ports.iter().map(|port| crate::exchange::tally(*port)).collect::<Vec<_>>()
        });
        assert!(tallies.iter().all(|tally| matches!(tally, Ok(0))), "{tallies:?}");
    }

    /// Load against the canned server, both in this process; the outcome, and the calls that arrived.
    fn with_server<T>(options: &Upstream, act: impl FnOnce(u16) -> T) -> (T, u64, usize) {
        with_servers(options, |ports| act(ports[0]))
    }

    fn with_servers<T>(options: &Upstream, act: impl FnOnce(&[u16]) -> T) -> (T, u64, usize) {
        let options = options.clone();
        let stop = Arc::new(AtomicBool::new(false));
        let ended = Arc::clone(&stop);
        let (tell, hear) = std::sync::mpsc::channel();
        let serving = thread::spawn(move || {
            let mut server = Server::bind(&options).expect("a free port");
            tell.send(server.ports().expect("ports")).expect("somebody listens");
            server.run(&ended).expect("it serves");
            (server.responder.calls, server.responder.sessions.len())
        });
        let ports = hear.recv().expect("ports");
        let outcome = act(&ports);
        stop.store(true, Ordering::Relaxed);
        let (calls, sessions) = serving.join().expect("it ends");
        (outcome, calls, sessions)
    }

    fn run(mut plan: Plan, options: &Upstream) -> (Outcome, u64, usize) {
        with_server(options, |port| {
            plan.shape.target = Target::local(port, "/mcp");
            send(&plan, &AtomicBool::new(false), &mut |_| {}).expect("it runs")
        })
    }

    #[track_caller]
    fn check(era: Era, events: u32, pace: Pace) {
        let (outcome, calls, sessions) = run(plan(era, events, pace), &options(events, 0));
        assert_eq!(outcome.faults.total, 0, "{}", outcome.faults.describe());
        assert!(outcome.in_window > 0 && outcome.latency.count() > 0);
        assert_eq!((outcome.sent, outcome.answered), (calls, calls));
        assert!(outcome.sent <= 2_000, "bounded");
        assert_eq!(sessions, 0, "all sessions were ended");
        assert!(!outcome.cut);
    }

    #[test]
    fn closed_loops() {
        check(Era::Modern, 0, Pace::Closed);
        check(Era::Legacy, 0, Pace::Closed);
        check(Era::Modern, 10, Pace::Closed);
        check(Era::Legacy, 2, Pace::Closed);
    }

    #[test]
    fn open_loops() {
        check(Era::Modern, 0, Pace::Open(Schedule::new(2_000)));
        check(Era::Legacy, 3, Pace::Open(Schedule::new(1_000)));
    }

    #[test]
    fn an_answer_is_as_long_as_asked() {
        let (length, ..) = with_server(&options(0, 0), |port| {
            let mut shape = plan(Era::Modern, 0, Pace::Closed).shape;
            shape.target = Target::local(port, "/mcp");
            let (mut socket, template, _) = crate::exchange::open(&shape, Duration::from_secs(5)).expect("it opens");
            crate::exchange::exchange(&mut socket, &template.bytes).expect("it answers").body().len()
        });
        assert_eq!(length, 600);
    }

    #[test]
    fn lies_are_noticed() {
        let (outcome, ..) = run(plan(Era::Modern, 0, Pace::Closed), &options(0, 50));
        assert!(outcome.faults.total > 0);
        assert!(outcome.faults.describe().contains("answer to another request"), "{}", outcome.faults.describe());
        // Few enough to be reached in the window however slow the machine is.
        let impatient = Plan { faults_max: 3, ..plan(Era::Modern, 0, Pace::Closed) };
        let (outcome, ..) = run(impatient, &options(0, 1));
        assert!(outcome.cut, "too many faults end a run");
    }

    #[test]
    fn a_server_that_is_not_there() {
        let port = net::free_port().expect("a port");
        let mut plan = plan(Era::Modern, 0, Pace::Closed);
        plan.shape.target = Target::local(port, "/mcp");
        assert!(send(&plan, &AtomicBool::new(false), &mut |_| {}).is_err());
    }

    fn ask(responder: &mut Responder, request: &str) -> (u16, Value) {
        let head = parse(request.as_bytes()).expect("a request").expect("a whole one");
        let mut out = Vec::new();
        responder.respond(&head, &request.as_bytes()[head.end..], &mut out);
        let text = String::from_utf8(out).expect("ASCII");
        let (head, body) = text.split_once("\r\n\r\n").expect("a head");
        let status = head[9..12].parse().expect("a status");
        (status, if body.is_empty() { Value::Null } else { serde_json::from_str(body).expect("JSON") })
    }

    fn post(fields: &str, body: &str) -> String {
        format!("POST /mcp HTTP/1.1\r\n{fields}Content-Length: {}\r\n\r\n{body}", body.len())
    }

    #[test]
    fn both_eras_are_spoken() {
        let mut server = Server::bind(&options(0, 0)).expect("a free port");
        let responder = &mut server.responder;
        let meta = r#""_meta":{"io.modelcontextprotocol/protocolVersion":"2026-07-28"}"#;
        let fields = "MCP-Protocol-Version: 2026-07-28\r\nMcp-Method: server/discover\r\n";
        let discover = format!(r#"{{"jsonrpc":"2.0","id":"a","method":"server/discover","params":{{{meta}}}}}"#);
        let (status, answer) = ask(responder, &post(fields, &discover));
        assert_eq!((status, &answer["id"]), (200, &json!("a")));
        assert_eq!(answer["result"]["supportedVersions"], json!(["2026-07-28"]));
        assert_eq!(ask(responder, &post("", &discover)).1["error"]["code"], json!(-32_020));

        let list = r#"{"jsonrpc":"2.0","id":1,"method":"tools/list","params":{"cursor":"1000"}}"#;
        assert_eq!(ask(responder, &post("", list)).0, 400, "a session is needed");
        assert_eq!(ask(responder, &post("Mcp-Session-Id: x\r\n", list)).0, 404);
        let initialize = r#"{"jsonrpc":"2.0","id":1,"method":"initialize","params":{"protocolVersion":"2025-06-18"}}"#;
        let (_, answer) = ask(responder, &post("", initialize));
        assert_eq!(answer["result"]["protocolVersion"], json!("2025-06-18"));
        let session = responder.sessions.iter().next().expect("a session").clone();
        let fields = format!("Mcp-Session-Id: {session}\r\n");
        let (_, answer) = ask(responder, &post(&fields, list));
        assert_eq!(answer["result"]["tools"].as_array().map(Vec::len), Some(201));
        assert_eq!(answer["result"].get("nextCursor"), None);
        let notification = r#"{"jsonrpc":"2.0","method":"notifications/initialized"}"#;
        assert_eq!(ask(responder, &post(&fields, notification)).0, 202);
        assert_eq!(ask(responder, "GET /mcp HTTP/1.1\r\n\r\n").0, 405);
        assert_eq!(ask(responder, &format!("DELETE /mcp HTTP/1.1\r\n{fields}\r\n")).0, 200);
        assert_eq!(ask(responder, &post(&fields, list)).0, 404, "an ended session");
    }

    #[test]
    fn streams_are_there_where_asked() {
        let mut without = Server::bind(&options(0, 0)).expect("a free port");
        let mut with = Server::bind(&Upstream { streams: true, ..options(0, 0) }).expect("a free port");
        let listen = r#"{"jsonrpc":"2.0","id":"s-1","method":"subscriptions/listen","params":{"_meta":{"io.modelcontextprotocol/protocolVersion":"2026-07-28"},"notifications":{"toolsListChanged":true}}}"#;
        let listen = post("MCP-Protocol-Version: 2026-07-28\r\nMcp-Method: subscriptions/listen\r\n", listen);
        assert_eq!(ask(&mut without.responder, &listen).0, 404);
        let answer = |server: &mut Server, request: &str| {
            let head = parse(request.as_bytes()).expect("a request").expect("a whole one");
            let mut out = Vec::new();
            server.responder.respond(&head, &request.as_bytes()[head.end..], &mut out);
            String::from_utf8(out).expect("ASCII")
        };
        let text = answer(&mut with, &listen);
        assert!(text.contains("text/event-stream") && text.contains(r#"subscriptionId":"s-1""#), "{text}");
        assert!(!text.ends_with("0\r\n\r\n"), "it goes on");
        let own = |session: &str| format!("GET /mcp HTTP/1.1\r\nMcp-Session-Id: {session}\r\n\r\n");
        with.responder.sessions.insert("known".to_owned());
        assert!(answer(&mut with, &own("known")).contains("text/event-stream"));
        assert!(answer(&mut with, &own("other")).starts_with("HTTP/1.1 404 "));
        assert!(answer(&mut without, &own("known")).starts_with("HTTP/1.1 405 "));
    }

    #[test]
    fn a_modern_call_must_agree_with_its_head() {
        let mut server = Server::bind(&options(0, 0)).expect("a free port");
        let call = r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"_meta":{"io.modelcontextprotocol/protocolVersion":"2026-07-28"},"name":"echo","arguments":{"message":"a\"b"}}}"#;
        let fields = "MCP-Protocol-Version: 2026-07-28\r\nMcp-Method: tools/call\r\nMcp-Name: ";
        let (_, answer) = ask(&mut server.responder, &post(&format!("{fields}echo\r\n"), call));
        let text = answer["result"]["content"][0]["text"].as_str().expect("a text");
        assert!(text.starts_with("a\"b; "), "{text}");
        assert_eq!(ask(&mut server.responder, &post(&format!("{fields}other\r\n"), call)).0, 400);
        assert_eq!(server.responder.calls, 1);
    }
}
