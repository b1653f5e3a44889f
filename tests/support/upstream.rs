//! A server that remembers everything it was sent, answers both eras by default, and misbehaves as it is told.

use std::collections::HashMap;
use std::io::{Read as _, Write as _};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use socket2::{Domain, SockRef, Socket, Type};

use super::gateway::PATIENCE;
use super::mcp::{MODERN, VERSION_KEY};

/// What a script did with a request.
pub(crate) enum Acted {
    /// Answered it, in whatever way.
    Done,
    /// Nothing: the server answers as servers do.
    Default,
}

/// Which eras it speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Eras {
    Both,
    Modern,
    Legacy,
}

/// One request, as it arrived whole.
#[derive(Clone, Debug)]
pub(crate) struct Seen {
    /// Number of the connection it came on.
    pub(crate) connection: usize,
    /// How many came on that connection before it.
    pub(crate) nth: usize,
    pub(crate) http: String,
    /// The request target, as it was written.
    pub(crate) target: String,
    /// Names in lower case.
    pub(crate) fields: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
    /// The body as JSON; null where it is none.
    pub(crate) message: Value,
    /// It was turned away unread: its session is not known here.
    pub(crate) refused: bool,
}

impl Seen {
    /// The JSON-RPC method; empty for an answer, or none.
    pub(crate) fn method(&self) -> &str {
        self.message["method"].as_str().unwrap_or_default()
    }

    /// `params.name`.
    pub(crate) fn name(&self) -> &str {
        self.message["params"]["name"].as_str().unwrap_or_default()
    }

    /// The caller's fresh value, in the arguments of a tool call.
    pub(crate) fn value(&self) -> &str {
        self.message["params"]["arguments"]["value"].as_str().unwrap_or_default()
    }

    /// The request's id.
    pub(crate) fn id(&self) -> &Value {
        &self.message["id"]
    }

    /// The value of a field; empty when it is not there.
    pub(crate) fn field(&self, name: &str) -> &str {
        let found = self.fields.iter().find(|(field, _)| field == name);
        found.map_or("", |(_, value)| value)
    }

    /// Whether it is a modern request.
    pub(crate) fn is_modern(&self) -> bool {
        self.message["params"]["_meta"].get(VERSION_KEY).is_some()
    }

    /// Whether it is this tool being called.
    pub(crate) fn calls(&self, tool: &str) -> bool {
        self.method() == "tools/call" && self.name() == tool
    }
}

/// The connection a request came on: what goes back.
pub(crate) struct Out<'a> {
    socket: &'a TcpStream,
    shared: &'a Shared,
    open: bool,
    /// A reset is to be its last word.
    reset: bool,
}

impl Out<'_> {
    /// Sends exactly these bytes.
    pub(crate) fn write(&mut self, bytes: impl AsRef<[u8]>) {
        self.open &= self.socket.write_all(bytes.as_ref()).is_ok();
    }

    /// Whether somebody takes what is sent, as far as is known.
    pub(crate) fn is_open(&self) -> bool {
        self.open
    }

    /// Sends a JSON answer.
    pub(crate) fn json(&mut self, status: u16, fields: &str, body: &Value) {
        self.json_bytes(status, fields, body.to_string().as_bytes());
    }

    /// Sends these bytes as a JSON answer.
    pub(crate) fn json_bytes(&mut self, status: u16, fields: &str, body: &[u8]) {
        let length = body.len();
        let head = format!(
            "HTTP/1.1 {status} Status\r\ncontent-type: application/json\r\n{fields}content-length: {length}\r\n\r\n"
        );
        self.write([head.as_bytes(), body].concat());
    }

    /// Sends a status without a body.
    pub(crate) fn empty(&mut self, status: u16) {
        let length = if status == 204 { "" } else { "content-length: 0\r\n" };
        self.write(format!("HTTP/1.1 {status} Status\r\n{length}\r\n"));
    }

    /// Begins an event stream.
    pub(crate) fn stream(&mut self) {
        self.write("HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n");
    }

    /// Sends one event.
    pub(crate) fn event(&mut self, message: &Value) {
        self.event_bytes(&format!("event: message\ndata: {message}\n\n"));
    }

    /// Sends these bytes of an event stream, in a chunk of their own.
    pub(crate) fn event_bytes(&mut self, bytes: &str) {
        self.write(format!("{:x}\r\n{bytes}\r\n", bytes.len()));
    }

    /// Ends an event stream as it should be.
    pub(crate) fn stream_end(&mut self) {
        self.write("0\r\n\r\n");
    }

    /// Closes the connection.
    pub(crate) fn close(&mut self) {
        let _ = self.socket.shutdown(Shutdown::Both);
        self.open = false;
    }

    /// Resets the connection.
    pub(crate) fn reset(&mut self) {
        let linger = SockRef::from(self.socket).set_linger(Some(Duration::ZERO));
        linger.expect("a TCP socket has this option");
        self.open = false;
        self.reset = true;
    }

    /// Waits until the gateway closes the connection; `false` when it does not for so long.
    pub(crate) fn gone(&mut self, within: Duration) -> bool {
        let _ = self.socket.set_read_timeout(Some(within));
        let gone = matches!(self.socket.read(&mut [0; 256]), Ok(0)) || self.broken();
        let _ = self.socket.set_read_timeout(None);
        self.open &= !gone;
        gone
    }

    /// The connection itself, for events that other requests bring about.
    pub(crate) fn keep(&self) -> TcpStream {
        self.socket.try_clone().expect("a descriptor is left")
    }

    /// The tools that are offered now.
    pub(crate) fn tools(&self) -> Vec<Value> {
        self.shared.state().tools.clone()
    }

    fn broken(&self) -> bool {
        self.socket.take_error().is_ok_and(|error| error.is_some())
    }

    /// Says that this request was turned away unread: it does not count as executed.
    pub(crate) fn refused(&self, seen: &Seen) {
        let mut state = self.shared.state();
        let ours = |other: &&mut Seen| (other.connection, other.nth) == (seen.connection, seen.nth);
        if let Some(seen) = state.seen.iter_mut().rev().find(ours) {
            seen.refused = true;
        }
    }

    /// Whether a request's session is known here.
    pub(crate) fn knows(&self, seen: &Seen) -> bool {
        self.shared.state().sessions.get(seen.field("mcp-session-id")) == Some(&true)
    }

    /// Writes a word down for the test to wait for.
    pub(crate) fn note(&self, word: impl Into<String>) {
        self.shared.note(word.into());
    }

    /// Whether the test lets scripts go on past `gate`.
    pub(crate) fn passes(&self, gate: &str) -> bool {
        self.shared.state().gates.iter().any(|open| open == gate)
    }

    /// Lets scripts go on past `gate` from now on.
    pub(crate) fn lets_pass(&self, gate: &str) {
        self.shared.state().gates.push(gate.into());
        self.shared.changed.notify_all();
    }

    /// Waits until the test lets scripts go on past `gate`.
    pub(crate) fn pass(&self, gate: &str) {
        let until = Instant::now() + PATIENCE;
        self.shared.wait(until, |state| state.gates.iter().any(|open| open == gate));
    }
}

type Script = dyn Fn(&Seen, &mut Out<'_>) -> Acted + Send + Sync;

#[derive(Default)]
struct State {
    seen: Vec<Seen>,
    notes: Vec<String>,
    gates: Vec<String>,
    tools: Vec<Value>,
    /// Sessions given out, and whether they are still alive.
    sessions: HashMap<String, bool>,
    streams: Vec<mpsc::Sender<String>>,
    /// Whose streams have begun: a session, or the id of a subscription.
    listeners: Vec<String>,
    /// Open connections, by number.
    sockets: HashMap<usize, TcpStream>,
}

struct Shared {
    state: Mutex<State>,
    changed: Condvar,
    script: Box<Script>,
    hasty: Box<Script>,
    eras: Eras,
    connections: AtomicUsize,
    stop: AtomicBool,
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(|held| held.into_inner())
    }

    fn note(&self, word: String) {
        self.state().notes.push(word);
        self.changed.notify_all();
    }

    /// Waits until `so`; whether it came to be.
    fn wait(&self, until: Instant, so: impl Fn(&State) -> bool) -> bool {
        let mut state = self.state();
        while !so(&state) {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return false;
            }
            state = self.changed.wait_timeout(state, left).unwrap_or_else(|held| held.into_inner()).0;
        }
        true
    }
}

/// A server being put together.
pub(crate) struct Plan {
    tools: Vec<Value>,
    eras: Eras,
    script: Box<Script>,
    hasty: Box<Script>,
}

impl Plan {
    /// With these tools, well behaved, in both eras.
    pub(crate) fn tools(names: &[&str]) -> Self {
        let tools = names.iter().map(|name| definition(name)).collect();
        Self {
            tools,
            eras: Eras::Both,
            script: Box::new(|_, _| Acted::Default),
            hasty: Box::new(|_, _| Acted::Default),
        }
    }

    /// In these eras only.
    pub(crate) fn eras(mut self, eras: Eras) -> Self {
        self.eras = eras;
        self
    }

    /// With this tool definition too.
    pub(crate) fn tool(mut self, definition: Value) -> Self {
        self.tools.push(definition);
        self
    }

    /// Asked first about every request.
    pub(crate) fn script(mut self, script: impl Fn(&Seen, &mut Out<'_>) -> Acted + Send + Sync + 'static) -> Self {
        self.script = Box::new(script);
        self
    }

    /// Asked about every request when its head is there, before its body is read. One that it answers is in no ledger,
    /// and its connection is closed with the body unread.
    pub(crate) fn hasty(mut self, script: impl Fn(&Seen, &mut Out<'_>) -> Acted + Send + Sync + 'static) -> Self {
        self.hasty = Box::new(script);
        self
    }

    /// On a port of its own.
    pub(crate) fn start(self) -> Upstream {
        Reserved::new().start(self)
    }
}

/// A port that nobody listens on yet, and nobody else gets: connecting is refused.
pub(crate) struct Reserved {
    socket: Socket,
    pub(crate) address: SocketAddr,
}

impl Reserved {
    pub(crate) fn new() -> Self {
        Self::at(([127, 0, 0, 1], 0).into())
    }

    /// A port that another server had a moment ago.
    pub(crate) fn at(address: SocketAddr) -> Self {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket can be made");
        socket.set_reuse_address(true).expect("a socket has this option");
        let until = Instant::now() + PATIENCE;
        while let Err(fault) = socket.bind(&address.into()) {
            assert!(Instant::now() < until, "{address} cannot be bound: {fault}");
            thread::sleep(Duration::from_millis(5));
        }
        let address = socket.local_addr().ok().and_then(|it| it.as_socket()).expect("a bound socket has an address");
        Self { socket, address }
    }

    /// The URL it will have.
    pub(crate) fn url(&self) -> String {
        format!("http://{}/mcp", self.address)
    }

    /// Takes hardly a byte that its server does not read: a long request stands still until somebody does.
    pub(crate) fn narrow(self) -> Self {
        self.socket.set_recv_buffer_size(1).expect("a socket has this option");
        self
    }

    /// Whoever connects from now on waits, until it starts.
    pub(crate) fn clogged(self) -> Clogged {
        self.socket.listen(0).expect("a bound socket can listen");
        let mut kept = Vec::new();
        while let Ok(socket) = TcpStream::connect_timeout(&self.address, Duration::from_millis(300)) {
            kept.push(socket);
        }
        Clogged { reserved: self, kept }
    }

    /// Opens for business.
    pub(crate) fn start(self, plan: Plan) -> Upstream {
        let Plan { tools, eras, script, hasty } = plan;
        let shared = Arc::new(Shared {
            state: Mutex::new(State { tools, ..State::default() }),
            changed: Condvar::new(),
            script,
            hasty,
            eras,
            connections: AtomicUsize::new(0),
            stop: AtomicBool::new(false),
        });
        self.socket.listen(128).expect("a bound socket can listen");
        let listener: TcpListener = self.socket.into();
        let here = shared.clone();
        thread::spawn(move || {
            for socket in listener.incoming().map_while(Result::ok) {
                if here.stop.load(Ordering::Acquire) {
                    break;
                }
                let shared = here.clone();
                thread::spawn(move || connection(&shared, &socket));
            }
        });
        Upstream { address: self.address, shared }
    }
}

/// A port where whoever connects waits.
pub(crate) struct Clogged {
    reserved: Reserved,
    kept: Vec<TcpStream>,
}

impl Clogged {
    /// Whoever waits gets in.
    pub(crate) fn start(self, plan: Plan) -> Upstream {
        drop(self.kept);
        self.reserved.start(plan)
    }
}

/// A running server; takes no more connections and requests when dropped.
pub(crate) struct Upstream {
    address: SocketAddr,
    shared: Arc<Shared>,
}

impl Upstream {
    /// Its MCP endpoint.
    pub(crate) fn url(&self) -> String {
        format!("http://{}/mcp", self.address)
    }

    /// Where it listens.
    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// All requests so far, in the order in which they were complete.
    pub(crate) fn seen(&self) -> Vec<Seen> {
        self.shared.state().seen.clone()
    }

    /// The tool calls among them: the ledger.
    pub(crate) fn calls(&self) -> Vec<Seen> {
        self.seen().into_iter().filter(|seen| seen.method() == "tools/call").collect()
    }

    /// Waits for a request.
    #[track_caller]
    pub(crate) fn wait(&self, what: &str, so: impl Fn(&Seen) -> bool) -> Seen {
        let came = self.shared.wait(Instant::now() + PATIENCE, |state| state.seen.iter().any(&so));
        assert!(came, "the server never saw {what}: {:?}", self.methods());
        self.seen().into_iter().rev().find(so).expect("it was there a moment ago")
    }

    /// Waits for a word of a script.
    #[track_caller]
    pub(crate) fn noted(&self, word: &str) {
        let came = self.shared.wait(Instant::now() + PATIENCE, |state| state.notes.iter().any(|it| it == word));
        assert!(came, "the script never noted {word:?}: {:?}", self.notes());
    }

    /// The words of scripts so far.
    pub(crate) fn notes(&self) -> Vec<String> {
        self.shared.state().notes.clone()
    }

    /// Lets scripts go on past `gate`.
    pub(crate) fn open(&self, gate: &str) {
        self.shared.state().gates.push(gate.to_owned());
        self.shared.changed.notify_all();
    }

    /// Offers these tools from now on, and says so to whoever listens.
    pub(crate) fn change_tools(&self, names: &[&str]) {
        self.change_definitions(names.iter().map(|name| definition(name)).collect());
    }

    /// The same, of tools that are defined so.
    pub(crate) fn change_definitions(&self, tools: Vec<Value>) {
        self.shared.state().tools = tools;
        self.say(&json!({ "jsonrpc": "2.0", "method": "notifications/tools/list_changed" }));
    }

    /// Sends a message on every open stream.
    pub(crate) fn say(&self, message: &Value) {
        self.shared.state().streams.retain(|stream| stream.send(message.to_string()).is_ok());
    }

    /// Waits until somebody listens: a session, or a subscription with this id, as JSON.
    #[track_caller]
    pub(crate) fn heard_by(&self, whose: &str) {
        let came =
            self.shared.wait(Instant::now() + PATIENCE, |state| state.listeners.iter().any(|known| known == whose));
        assert!(came, "{whose} never listened: {:?}", self.shared.state().listeners);
    }

    /// How many have listened until now.
    pub(crate) fn listeners(&self) -> usize {
        self.shared.state().listeners.len()
    }

    /// Streams that are open at this moment.
    pub(crate) fn open_streams(&self) -> usize {
        self.shared.state().streams.len()
    }

    /// Forgets every session, as a restart would.
    pub(crate) fn forget_sessions(&self) {
        self.shared.state().sessions.clear();
    }

    /// Session ids given out and not ended.
    pub(crate) fn sessions(&self) -> Vec<String> {
        let state = self.shared.state();
        state.sessions.iter().filter(|(_, alive)| **alive).map(|(id, _)| id.clone()).collect()
    }

    fn methods(&self) -> Vec<String> {
        self.seen().iter().map(|seen| format!("{} {}", seen.http, seen.method())).collect()
    }
}

impl Drop for Upstream {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Release);
        self.shared.changed.notify_all();
        // As when its process ends.
        for socket in self.shared.state().sockets.values() {
            let _ = socket.shutdown(Shutdown::Both);
        }
        // The listening thread wakes up, sees that it is over, and closes the port.
        let _ = TcpStream::connect_timeout(&self.address, Duration::from_millis(100));
    }
}

/// A tool of that name that takes any arguments.
pub(crate) fn definition(name: &str) -> Value {
    json!({ "name": name, "description": format!("The tool {name}"), "inputSchema": { "type": "object" } })
}

/// The answer to a request.
pub(crate) fn result(seen: &Seen, mut result: Value) -> Value {
    if seen.is_modern() {
        result["resultType"] = json!("complete");
    }
    json!({ "jsonrpc": "2.0", "id": seen.id(), "result": result })
}

/// A tool's answer that says `text`.
pub(crate) fn said(seen: &Seen, text: &str) -> Value {
    result(seen, json!({ "content": [{ "type": "text", "text": text }], "isError": false }))
}

/// A progress notification for a request that asked for it.
pub(crate) fn progress(seen: &Seen, step: u32) -> Value {
    let token = &seen.message["params"]["_meta"]["progressToken"];
    json!({
        "jsonrpc": "2.0", "method": "notifications/progress",
        "params": { "progressToken": token, "progress": step, "total": 3 },
    })
}

fn connection(shared: &Shared, socket: &TcpStream) {
    let number = shared.connections.fetch_add(1, Ordering::Relaxed);
    let _ = socket.set_nodelay(true);
    if let Ok(socket) = socket.try_clone() {
        shared.state().sockets.insert(number, socket);
    }
    let mut bytes = Vec::new();
    let mut nth = 0;
    while let Some(mut seen) = read_request(shared, socket, &mut bytes) {
        if shared.stop.load(Ordering::Acquire) {
            break;
        }
        seen.connection = number;
        seen.nth = nth;
        nth += 1;
        // In the ledger before anything is answered.
        shared.state().seen.push(seen.clone());
        shared.changed.notify_all();
        let mut out = Out { socket, shared, open: true, reset: false };
        if let Acted::Default = (shared.script)(&seen, &mut out) {
            answer(&seen, &mut out);
        }
        if out.reset {
            shared.state().sockets.remove(&number);
            return;
        }
        if !out.open {
            break;
        }
    }
    shared.state().sockets.remove(&number);
    let _ = socket.shutdown(Shutdown::Both);
}

fn read_request(shared: &Shared, socket: &TcpStream, bytes: &mut Vec<u8>) -> Option<Seen> {
    let mut piece = [0; 16 * 1024];
    let mut reader = socket;
    let mut more = |bytes: &mut Vec<u8>| match reader.read(&mut piece) {
        Ok(n) if n > 0 => bytes.extend_from_slice(&piece[..n]),
        _ => bytes.clear(),
    };
    let end = loop {
        if let Some(end) = bytes.windows(4).position(|four| four == b"\r\n\r\n") {
            break end + 4;
        }
        more(bytes);
        if bytes.is_empty() {
            return None;
        }
    };
    let head = String::from_utf8(bytes[..end].to_vec()).expect("the gateway writes ASCII heads");
    let mut lines = head.split("\r\n");
    let mut first = lines.next()?.split(' ');
    let (http, target) = (first.next()?.to_owned(), first.next()?.to_owned());
    let fields: Vec<(String, String)> = lines
        .filter_map(|line| line.split_once(':'))
        .map(|(name, value)| (name.to_ascii_lowercase(), value.trim().to_owned()))
        .collect();
    let mut seen =
        Seen { connection: 0, nth: 0, http, target, fields, body: Vec::new(), message: Value::Null, refused: false };
    if let Acted::Done = (shared.hasty)(&seen, &mut Out { socket, shared, open: true, reset: false }) {
        return None;
    }
    let length = seen.field("content-length").parse().unwrap_or(0);
    let whole: usize = end + length;
    while bytes.len() < whole {
        more(bytes);
        if bytes.is_empty() {
            return None;
        }
    }
    seen.body = bytes[end..whole].to_vec();
    bytes.drain(..whole);
    seen.message = serde_json::from_slice(&seen.body).unwrap_or_default();
    Some(seen)
}

fn answer(seen: &Seen, out: &mut Out<'_>) {
    let eras = out.shared.eras;
    if !speaks(eras, seen) {
        let code = if seen.is_modern() { -32_600 } else { -32_022 };
        let body = json!({ "jsonrpc": "2.0", "id": seen.id(), "error": {
            "code": code, "message": "not this era", "data": { "supported": [MODERN], "requested": "?" },
        }});
        return out.json(400, "", &body);
    }
    let session = seen.field("mcp-session-id");
    if !session.is_empty() && out.shared.state().sessions.get(session) != Some(&true) {
        let body =
            json!({ "jsonrpc": "2.0", "id": null, "error": { "code": -32_001, "message": "Session not found" } });
        out.refused(seen);
        return out.json(404, "", &body);
    }
    match seen.http.as_str() {
        "GET" => listen(out, seen, false),
        "DELETE" => {
            out.shared.state().sessions.insert(session.to_owned(), false);
            out.empty(204);
        }
        _ if seen.message.get("id").is_none() || seen.method().is_empty() => out.empty(202),
        _ => match seen.method() {
            "initialize" => initialize(seen, out),
            "subscriptions/listen" => listen(out, seen, true),
            "tools/call" => out.json(200, "", &said(seen, seen.value())),
            method => {
                let body = standard(seen, method, &out.shared.state().tools);
                out.json(200, "", &body);
            }
        },
    }
}

fn speaks(eras: Eras, seen: &Seen) -> bool {
    match eras {
        Eras::Both => true,
        Eras::Modern => seen.is_modern() || seen.http != "POST",
        Eras::Legacy => !seen.is_modern(),
    }
}

fn initialize(seen: &Seen, out: &mut Out<'_>) {
    let id = format!("up-{}-{}", seen.connection, seen.nth);
    out.shared.state().sessions.insert(id.clone(), true);
    out.json(200, &format!("mcp-session-id: {id}\r\n"), &introduced(seen));
}

/// The answer to `initialize`.
pub(crate) fn introduced(seen: &Seen) -> Value {
    result(
        seen,
        json!({
            "protocolVersion": seen.message["params"]["protocolVersion"],
            "capabilities": capabilities(),
            "serverInfo": { "name": "recorder", "version": "1" },
        }),
    )
}

fn capabilities() -> Value {
    json!({ "tools": { "listChanged": true }, "prompts": {}, "resources": { "subscribe": true }, "completions": {}, "logging": {} })
}

/// The answer to a request that is neither the handshake nor a call of a tool.
pub(crate) fn standard(seen: &Seen, method: &str, tools: &[Value]) -> Value {
    let answer = |mut body: Value| {
        if seen.is_modern() {
            body["ttlMs"] = json!(60_000);
            body["cacheScope"] = json!("public");
        }
        result(seen, body)
    };
    let params = &seen.message["params"];
    match method {
        "server/discover" => answer(json!({
            "supportedVersions": [MODERN], "capabilities": capabilities(),
            "_meta": { "io.modelcontextprotocol/serverInfo": { "name": "recorder", "version": "1" } },
        })),
        "tools/list" => answer(json!({ "tools": tools })),
        "prompts/list" => answer(
            json!({ "prompts": [{ "name": "greet", "description": "Says hello" }, { "name": "plot", "description": "A plan" }] }),
        ),
        "resources/list" => answer(json!({ "resources": [
            { "uri": "note://open", "name": "open" }, { "uri": "note://shut", "name": "shut" },
        ]})),
        "resources/templates/list" => {
            answer(json!({ "resourceTemplates": [{ "uriTemplate": "note://{x}", "name": "n" }] }))
        }
        "resources/read" => answer(json!({ "contents": [{ "uri": params["uri"], "text": "words" }] })),
        "prompts/get" => {
            result(seen, json!({ "messages": [{ "role": "user", "content": { "type": "text", "text": "hi" } }] }))
        }
        "completion/complete" => result(seen, json!({ "completion": { "values": ["one"] } })),
        "ping" | "logging/setLevel" | "resources/subscribe" | "resources/unsubscribe" => result(seen, json!({})),
        _ => json!({ "jsonrpc": "2.0", "id": seen.id(), "error": { "code": -32_601, "message": "Method not found" } }),
    }
}

/// A session's own stream, or a subscription: goes on until somebody closes it.
fn listen(out: &mut Out<'_>, seen: &Seen, subscribes: bool) {
    let subscription = Some(seen).filter(|_| subscribes);
    let (tell, told) = mpsc::channel::<String>();
    out.stream();
    if let Some(seen) = subscription {
        let mut acknowledged = json!({
            "jsonrpc": "2.0", "method": "notifications/subscriptions/acknowledged",
            "params": { "notifications": seen.message["params"]["notifications"] },
        });
        acknowledged["params"]["_meta"] = json!({ "io.modelcontextprotocol/subscriptionId": seen.id() });
        out.event(&acknowledged);
    }
    let whose = if subscribes { seen.id().to_string() } else { seen.field("mcp-session-id").to_owned() };
    let mut state = out.shared.state();
    state.streams.push(tell);
    state.listeners.push(whose);
    drop(state);
    out.shared.changed.notify_all();
    loop {
        match told.recv_timeout(Duration::from_millis(20)) {
            Ok(message) => {
                let mut message: Value = serde_json::from_str(&message).expect("the test sends JSON");
                if let Some(seen) = subscription {
                    message["params"]["_meta"] = json!({ "io.modelcontextprotocol/subscriptionId": seen.id() });
                }
                out.event(&message);
            }
            Err(_) if out.shared.stop.load(Ordering::Acquire) => break,
            Err(_) => {}
        }
        let mut socket = out.socket;
        let _ = socket.set_read_timeout(Some(Duration::from_millis(1)));
        match socket.read(&mut [0; 64]) {
            Ok(0) => break,
            Err(error) if !matches!(error.kind(), std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut) => {
                break;
            }
            _ => {}
        }
    }
    drop(told);
    out.note("stream closed");
    out.close();
}
