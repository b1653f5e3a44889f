//! The servers of a hunt for mix-ups. Each call is answered as its draw says, and everything that is said on the way is
//! marked with whose it is. What can only come from a mix-up is written down at once: a call in another session than its
//! client's, an answer to another question, a cancellation by somebody else.

use std::collections::{HashMap, HashSet};
use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use socket2::{Domain, Socket, Type};

use super::chaos::SERVERS;
use super::chaos_mix::{Answering, Deed, Forgets, Form, Mix, said};
use super::chaos_server::{chunked, event, head_of, with_length};
use super::mcp::{MODERN, VERSION_KEY};
use super::oracle::Entry;

/// Servers under one roof, whose sessions, questions and events all have the same names.
pub(crate) struct MixServers {
    addresses: Vec<SocketAddr>,
    shared: Arc<Shared>,
}

struct Shared {
    seed: u64,
    world: Mutex<World>,
    stop: AtomicBool,
}

#[derive(Default)]
struct World {
    ledger: Vec<Entry>,
    faults: Vec<String>,
    /// How many messages were said, by their owner.
    said: HashMap<String, u64>,
    /// Calls that found their session forgotten once.
    forgotten: HashSet<String>,
    /// What came as answers to the questions that were put, by the values of their calls.
    questions: HashMap<String, Vec<String>>,
    /// Whose sessions there have been, by server.
    tags: HashSet<String>,
    counts: HashMap<&'static str, usize>,
}

/// One server's sessions.
#[derive(Default)]
struct Place {
    sessions: Mutex<HashMap<String, Arc<Session>>>,
    given: AtomicUsize,
}

#[derive(Default)]
struct Session {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    /// Whose it is, once its client has said so.
    tag: Option<String>,
    /// It was opened for a call that had found another forgotten: to forget it too would be too much.
    fresh: bool,
    over: bool,
    /// The session's own stream: its messages, how many were written, and where to.
    log: Vec<String>,
    written: usize,
    own: Option<TcpStream>,
    /// Of a stream that the server has hung up on: its events.
    rest: Option<Vec<String>>,
    /// Questions, by their ids; the calls that they belong to.
    asked: Vec<String>,
    answered: HashSet<u64>,
    cancelled: HashSet<String>,
}

/// A connection from the gateway.
struct Line<'a> {
    socket: &'a TcpStream,
    bytes: Vec<u8>,
}

/// A request from the gateway.
struct Request {
    http: String,
    session: String,
    last_event: String,
    message: Value,
}

impl MixServers {
    /// Starts all of them, each on a port of its own.
    pub(crate) fn start(seed: u64) -> Self {
        let shared = Arc::new(Shared { seed, world: Mutex::default(), stop: AtomicBool::new(false) });
        let addresses = (0..SERVERS.len()).map(|server| listen(&shared, server)).collect();
        Self { addresses, shared }
    }

    /// The endpoint of one.
    pub(crate) fn url(&self, server: usize) -> String {
        format!("http://{}/mcp", self.addresses[server])
    }

    /// Every call that was executed.
    pub(crate) fn ledger(&self) -> Vec<Entry> {
        self.shared.world().ledger.clone()
    }

    /// What they have noticed.
    pub(crate) fn faults(&self) -> Vec<String> {
        self.shared.world().faults.clone()
    }

    /// How many messages were said, by their owner.
    pub(crate) fn said(&self) -> HashMap<String, u64> {
        self.shared.world().said.clone()
    }

    /// What came as answers to the questions that were put, by the values of their calls.
    pub(crate) fn questions(&self) -> HashMap<String, Vec<String>> {
        self.shared.world().questions.clone()
    }

    /// What happened how often.
    pub(crate) fn counts(&self) -> HashMap<&'static str, usize> {
        self.shared.world().counts.clone()
    }
}

impl Drop for MixServers {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Release);
        for address in &self.addresses {
            // The listening thread wakes up and sees that it is over.
            let _ = TcpStream::connect_timeout(address, Duration::from_millis(200));
        }
    }
}

impl Shared {
    fn world(&self) -> MutexGuard<'_, World> {
        self.world.lock().unwrap_or_else(|held| held.into_inner())
    }

    fn fault(&self, fault: String) {
        self.world().faults.push(fault);
    }

    fn count(&self, what: &'static str) {
        *self.world().counts.entry(what).or_default() += 1;
    }

    /// The text of the next message of `owner`, about the call `value`.
    fn mark(&self, owner: &str, value: &str) -> String {
        let mut world = self.world();
        let place = world.said.entry(owner.to_owned()).or_default();
        let text = format!("{} a:{value}", said(owner, *place));
        *place += 1;
        text
    }
}

impl Place {
    fn sessions(&self) -> MutexGuard<'_, HashMap<String, Arc<Session>>> {
        self.sessions.lock().unwrap_or_else(|held| held.into_inner())
    }

    fn session(&self, id: &str) -> Option<Arc<Session>> {
        self.sessions().get(id).cloned()
    }

    fn forget(&self, id: &str) {
        if let Some(session) = self.sessions().remove(id) {
            session.end();
        }
    }
}

impl Session {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(|held| held.into_inner())
    }

    fn end(&self) {
        let mut state = self.state();
        state.over = true;
        if let Some(own) = state.own.take() {
            let _ = own.shutdown(Shutdown::Both);
        }
        drop(state);
        self.changed.notify_all();
    }

    /// A message for the session's own stream.
    fn push(&self, message: &Value) {
        let mut state = self.state();
        state.log.push(message.to_string());
        state.write_own();
    }

    /// Ends the connection of the session's own stream; what was written arrives.
    fn cut_own(&self) {
        if let Some(own) = self.state().own.take() {
            let _ = own.shutdown(Shutdown::Both);
        }
    }

    /// Waits until `so`; whether it came to be.
    fn wait(&self, within: Duration, so: impl Fn(&State) -> bool) -> bool {
        let until = Instant::now() + within;
        let mut state = self.state();
        while !so(&state) {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() || state.over {
                return false;
            }
            state = self.changed.wait_timeout(state, left).unwrap_or_else(|held| held.into_inner()).0;
        }
        true
    }
}

impl State {
    fn write_own(&mut self) {
        let Some(mut own) = self.own.as_ref() else { return };
        let unwritten = self.log[self.written..].iter().zip(self.written + 1..);
        let text: String = unwritten.map(|(data, id)| format!("id: {id}\n{}", event(data))).collect();
        if !text.is_empty() {
            let _ = own.write_all(chunked(text.as_bytes(), &[text.len()]).as_bytes());
            self.written = self.log.len();
        }
    }
}

fn listen(shared: &Arc<Shared>, server: usize) -> SocketAddr {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket can be made");
    let any: SocketAddr = (Ipv4Addr::LOCALHOST, 0).into();
    socket.bind(&any.into()).expect("loopback has a free port");
    socket.listen(4096).expect("a bound socket can listen");
    let listener: TcpListener = socket.into();
    let address = listener.local_addr().expect("a bound socket has an address");
    let (shared, place) = (shared.clone(), Arc::new(Place::default()));
    thread::spawn(move || {
        for socket in listener.incoming().map_while(Result::ok) {
            if shared.stop.load(Ordering::Acquire) {
                break;
            }
            let (shared, place) = (shared.clone(), place.clone());
            let thread = thread::Builder::new().stack_size(STACK_BYTES);
            let work = move || connection(&shared, &place, server, &socket);
            thread.spawn(work).expect("a thread can be started");
        }
    });
    address
}

fn connection(shared: &Shared, place: &Place, server: usize, socket: &TcpStream) {
    let _ = socket.set_nodelay(true);
    let mut line = Line { socket, bytes: Vec::new() };
    while let Some(request) = line.request() {
        let goes_on = match request.http.as_str() {
            "GET" => own_stream(shared, place, &request, &mut line),
            "DELETE" => {
                let known = place.session(&request.session).is_some();
                place.forget(&request.session);
                line.write(format!("HTTP/1.1 {} Status\r\ncontent-length: 0\r\n\r\n", if known { 200 } else { 404 }));
                true
            }
            _ => post(shared, place, server, &request, &mut line),
        };
        if !goes_on || shared.stop.load(Ordering::Acquire) {
            break;
        }
    }
    let _ = socket.shutdown(Shutdown::Both);
}

impl Line<'_> {
    /// The next request, whole; `None` at the end.
    fn request(&mut self) -> Option<Request> {
        let end = loop {
            if let Some(end) = memchr::memmem::find(&self.bytes, b"\r\n\r\n") {
                break end + 4;
            }
            self.more()?;
        };
        let head = String::from_utf8(self.bytes[..end].to_vec()).expect("the gateway writes ASCII heads");
        let field = |name: &str| {
            let line = head.split("\r\n").find_map(|line| line.strip_prefix(name)?.strip_prefix(": "));
            line.unwrap_or_default().to_owned()
        };
        let whole = end + field("content-length").parse().unwrap_or(0);
        while self.bytes.len() < whole {
            self.more()?;
        }
        let message = serde_json::from_slice(&self.bytes[end..whole]).unwrap_or_default();
        self.bytes.drain(..whole);
        let http = head.split(' ').next().unwrap_or_default().to_owned();
        Some(Request { http, session: field("mcp-session-id"), last_event: field("last-event-id"), message })
    }

    fn more(&mut self) -> Option<()> {
        let mut piece = [0; 4 * 1024];
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

    fn begin_stream(&mut self) {
        self.write(STREAM_HEAD);
    }

    fn event(&mut self, data: &str) {
        let text = event(data);
        self.write(chunked(text.as_bytes(), &[text.len()]));
    }

    /// Until the gateway closes the connection.
    fn until_gone(&mut self) {
        while self.more().is_some() {}
    }

    fn error(&mut self, status: u16, id: &Value, message: &str) {
        let error = json!({ "code": -32_001, "message": message });
        let body = json!({ "jsonrpc": "2.0", "id": id, "error": error }).to_string();
        self.write(head_of(status, &format!("content-length: {}\r\n", body.len())) + &body);
    }
}

/// A GET: the session's own stream, or the rest of one that the server had hung up on. Whether the connection goes on.
fn own_stream(shared: &Shared, place: &Place, request: &Request, line: &mut Line<'_>) -> bool {
    let Some(session) = place.session(&request.session) else {
        line.error(404, &Value::Null, "Session not found");
        return true;
    };
    if let Some(last) = request.last_event.strip_prefix("p-") {
        let Some(rest) = session.state().rest.take() else {
            line.error(400, &Value::Null, "no such event");
            return true;
        };
        line.begin_stream();
        let seen: usize = last.parse().unwrap_or(0);
        for data in rest.iter().skip(seen) {
            line.event(data);
        }
        line.write("0\r\n\r\n");
        shared.count("polled");
        return true;
    }
    let mut state = session.state();
    if let Ok(seen) = request.last_event.parse::<usize>() {
        if seen > state.log.len() {
            drop(state);
            shared.fault(format!("[P3] an event of another session: {seen} in {}", request.session));
            line.error(400, &Value::Null, "no such event");
            return true;
        }
        state.written = seen;
        shared.count("resumed at the server");
    }
    line.begin_stream();
    if let Some(before) = state.own.replace(line.socket.try_clone().expect("a descriptor is free")) {
        let _ = before.shutdown(Shutdown::Both);
    }
    state.write_own();
    drop(state);
    line.until_gone();
    let mut state = session.state();
    let here = line.socket.peer_addr().ok();
    if state.own.as_ref().is_some_and(|own| own.peer_addr().ok() == here) {
        state.own = None;
    }
    false
}

/// Whether the connection goes on.
fn post(shared: &Shared, place: &Place, server: usize, request: &Request, line: &mut Line<'_>) -> bool {
    let message = &request.message;
    let (id, method) = (&message["id"], message["method"].as_str().unwrap_or_default());
    let modern = message["params"]["_meta"].get(VERSION_KEY).is_some();
    let session = place.session(&request.session);
    if !modern && method != "initialize" && session.is_none() {
        line.error(404, &Value::Null, "Session not found");
        return true;
    }
    if method.is_empty() || id.is_null() {
        if let Some(session) = session {
            heed(shared, &session, message);
        }
        line.write("HTTP/1.1 202 Accepted\r\ncontent-length: 0\r\n\r\n");
        return true;
    }
    if method == "tools/call" {
        return call(shared, place, server, request, session.as_deref(), line);
    }
    let mut fields = String::new();
    if method == "initialize" {
        let name = format!("session-{}", place.given.fetch_add(1, Ordering::Relaxed));
        place.sessions().insert(name.clone(), Arc::default());
        fields = format!("mcp-session-id: {name}\r\n");
        shared.count("sessions");
    }
    if let (Some(session), "resources/subscribe") = (&session, method) {
        let tag = message["params"]["uri"].as_str().and_then(|uri| uri.strip_prefix("tag://"));
        let again = !shared.world().tags.insert(format!("{server} {}", tag.unwrap_or_default()));
        let mut state = session.state();
        state.fresh = again;
        let before = state.tag.replace(tag.unwrap_or_default().to_owned());
        drop(state);
        if before.is_some_and(|before| Some(before.as_str()) != tag) {
            shared.fault(format!("[P3] a session of two clients: {}", request.session));
        }
    }
    let body = standard(message, method, modern).to_string();
    line.write(head_of(200, &format!("{fields}content-length: {}\r\n", body.len())) + &body);
    true
}

/// A notification, or an answer.
fn heed(shared: &Shared, session: &Session, message: &Value) {
    let mut state = session.state();
    let tag = state.tag.clone().unwrap_or_default();
    if message["method"] == "notifications/cancelled" {
        let reason = message["params"]["reason"].as_str().unwrap_or_default();
        let (owner, value) = reason.split_once(' ').unwrap_or_default();
        if owner != tag {
            shared.fault(format!("[P3] {reason:?} was cancelled in the session of {tag}"));
        }
        state.cancelled.insert(value.to_owned());
    }
    if message["method"].is_null() {
        let text = ["/result/content/text", "/error/message"].iter().find_map(|at| message.pointer(at)?.as_str());
        let text = text.unwrap_or_default();
        let id = message["id"].as_u64();
        let asked = id.and_then(|id| state.asked.get(usize::try_from(id).ok()?).cloned());
        match (&asked, id) {
            (Some(value), Some(id)) => {
                if text != format!("r:{value}") {
                    shared.fault(format!("[P3] {text:?} as an answer to the question of {value}"));
                }
                if !state.answered.insert(id) {
                    shared.fault(format!("[P2] {text:?} as another answer to the question of {value}"));
                }
                if let Some(question) = shared.world().questions.get_mut(value) {
                    question.push(text.to_owned());
                }
            }
            _ => shared.fault(format!("[P3] an answer to no question of {tag}: {message}")),
        }
    }
    drop(state);
    session.changed.notify_all();
}

fn standard(message: &Value, method: &str, modern: bool) -> Value {
    let id = &message["id"];
    let capabilities = json!({ "tools": {}, "logging": {}, "resources": { "subscribe": true } });
    let mut result = match method {
        "server/discover" => json!({ "supportedVersions": [MODERN], "capabilities": capabilities }),
        "initialize" => json!({
            "protocolVersion": message["params"]["protocolVersion"], "capabilities": capabilities,
            "serverInfo": { "name": "mix", "version": "1" },
        }),
        "tools/list" => {
            let tool = |name: &str| json!({ "name": name, "inputSchema": { "type": "object" } });
            json!({ "tools": [tool("echo"), tool("secret")] })
        }
        "resources/list" => json!({ "resources": [] }),
        "resources/templates/list" => json!({ "resourceTemplates": [{ "uriTemplate": "tag://{tag}", "name": "tag" }] }),
        "resources/subscribe" | "ping" | "logging/setLevel" => json!({}),
        _ => {
            let error = json!({ "code": -32_601, "message": "Method not found" });
            return json!({ "jsonrpc": "2.0", "id": id, "error": error });
        }
    };
    if modern {
        let more = [("resultType", json!("complete")), ("ttlMs", json!(60_000)), ("cacheScope", json!("public"))];
        for (key, value) in more {
            result[key] = value;
        }
    }
    json!({ "jsonrpc": "2.0", "id": id, "result": result })
}

/// Executes a call, unless its session is to be forgotten first; whether the connection goes on.
fn call(
    shared: &Shared,
    place: &Place,
    server: usize,
    request: &Request,
    session: Option<&Session>,
    line: &mut Line<'_>,
) -> bool {
    let message = &request.message;
    let text = |at: &str| message.pointer(at).and_then(Value::as_str).unwrap_or_default().to_owned();
    let value = text("/params/arguments/value");
    let entry = Entry { server: SERVERS[server].into(), tool: text("/params/name"), value: value.clone() };
    let drawn = Mix::carrying(shared.seed, &value);
    let forgets = drawn.as_ref().map_or(Forgets::Nothing, |mix| mix.forgets);
    let forgetful = matches!(forgets, Forgets::Before | Forgets::Mumbling);
    let first = forgetful && session.is_some_and(|session| !std::mem::take(&mut session.state().fresh));
    if first && shared.world().forgotten.insert(value.clone()) {
        place.forget(&request.session);
        shared.count("forgotten before");
        match forgets {
            Forgets::Before => line.error(404, &Value::Null, "Session not found"),
            _ => line.error(400, &Value::Null, "Bad Request: No valid session ID provided"),
        }
        return true;
    }
    shared.world().ledger.push(entry);
    let tag = session.map(|session| session.state().tag.clone().unwrap_or_default()).unwrap_or_default();
    if tag != text("/params/arguments/tag") {
        shared.fault(format!("[P3] {value} came in the session of {tag:?}: {message}"));
    }
    // One that nobody has drawn stands in the ledger; the oracle will say what it thinks of that.
    let Some(mix) = drawn else { return false };
    let mut going = Going { shared, mix: &mix, session, tag: &tag, message, line };
    let goes_on = going.serve();
    if forgets == Forgets::After && session.is_some() {
        place.forget(&request.session);
        shared.count("forgotten after");
    }
    goes_on
}

/// A call under way.
struct Going<'a, 'b> {
    shared: &'a Shared,
    mix: &'a Mix,
    session: Option<&'a Session>,
    tag: &'a str,
    message: &'a Value,
    line: &'a mut Line<'b>,
}

impl Going<'_, '_> {
    fn serve(&mut self) -> bool {
        thread::sleep(Duration::from_millis(self.mix.delay));
        match (self.mix.deed, self.session) {
            (Deed::Heard | Deed::HeardCut, Some(session)) => self.announce(session),
            (Deed::Asked(answering), Some(session)) => self.ask(session, answering),
            (Deed::Cancel, Some(session)) => self.cancellable(session),
            (_, Some(session)) if self.mix.form == Form::Polled => self.polled(session),
            _ if self.mix.form == Form::Json => self.json(),
            _ => {
                self.line.begin_stream();
                self.progress();
                self.answer()
            }
        }
    }

    fn json(&mut self) -> bool {
        let body = self.result();
        self.line.write(with_length(&body));
        true
    }

    /// The answer as the end of a stream.
    fn answer(&mut self) -> bool {
        let body = self.result();
        self.line.event(&body);
        self.line.write("0\r\n\r\n");
        true
    }

    fn result(&self) -> String {
        let content = json!([{ "type": "text", "text": format!("v:{}", self.mix.value) }]);
        let mut result = json!({ "content": content, "isError": false });
        if self.mix.modern {
            result["resultType"] = json!("complete");
        }
        json!({ "jsonrpc": "2.0", "id": self.message["id"], "result": result }).to_string()
    }

    fn step(&self, step: u64) -> String {
        let token = &self.message["params"]["_meta"]["progressToken"];
        let text = self.shared.mark(&self.mix.value, &self.mix.value);
        let params = json!({ "progressToken": token, "progress": step + 1, "message": text });
        json!({ "jsonrpc": "2.0", "method": "notifications/progress", "params": params }).to_string()
    }

    fn progress(&mut self) {
        for step in 0..self.mix.steps {
            let text = self.step(step);
            self.line.event(&text);
            if self.mix.delay > 0 {
                thread::sleep(Duration::from_millis(1));
            }
        }
    }

    /// Hangs up in the middle; the rest is for whoever comes back for it.
    fn polled(&mut self, session: &Session) -> bool {
        let mut events: Vec<String> = (0..self.mix.steps).map(|step| self.step(step)).collect();
        events.push(self.result());
        let before = (self.mix.steps / 2) as usize;
        session.state().rest = Some(events.clone());
        let mut text = "id: p-0\nretry: 5\ndata:\n\n".to_owned();
        for (place, data) in events.iter().take(before).enumerate() {
            text += &format!("id: p-{}\n{}", place + 1, event(data));
        }
        self.line.begin_stream();
        self.line.write(chunked(text.as_bytes(), &[text.len()]));
        self.line.write("0\r\n\r\n");
        self.shared.count("hung up");
        true
    }

    /// Messages on the session's own stream, some before and some after a while.
    fn announce(&mut self, session: &Session) -> bool {
        for half in 0..2 {
            for step in 0..self.mix.steps {
                let text = self.shared.mark(self.tag, &self.mix.value);
                let params = json!({ "uri": format!("tag://{}", self.tag), "message": text });
                session.push(&if step % 2 == 0 {
                    json!({ "jsonrpc": "2.0", "method": "notifications/resources/updated", "params": params })
                } else {
                    let params = json!({ "level": "error", "logger": "mix", "data": "x", "message": text });
                    json!({ "jsonrpc": "2.0", "method": "notifications/message", "params": params })
                });
            }
            if half == 0 {
                thread::sleep(Duration::from_millis(self.mix.delay));
                if self.mix.own_cut {
                    session.cut_own();
                    self.shared.count("own streams cut by their server");
                }
            }
        }
        self.json()
    }

    /// Asks its client, on one stream or the other.
    fn ask(&mut self, session: &Session, answering: Answering) -> bool {
        let (value, apart) = (&self.mix.value, self.mix.asks_apart);
        self.line.begin_stream();
        self.progress();
        let owner = if apart { self.tag } else { value };
        let text = self.shared.mark(owner, value);
        let id = {
            let mut state = session.state();
            state.asked.push(value.clone());
            state.asked.len() as u64 - 1
        };
        self.shared.world().questions.insert(value.clone(), Vec::new());
        let (method, params) = if self.mix.heeds {
            let text = json!({ "type": "text", "text": text });
            let messages = json!([{ "role": "user", "content": text }]);
            ("sampling/createMessage", json!({ "messages": messages, "maxTokens": 9 }))
        } else {
            (
                "elicitation/create",
                json!({ "message": text, "requestedSchema": { "type": "object", "properties": {} } }),
            )
        };
        self.say(session, &json!({ "jsonrpc": "2.0", "id": id, "method": method, "params": params }));
        if answering == Answering::Late {
            let reason = self.shared.mark(owner, value);
            let params = json!({ "requestId": id, "reason": reason });
            self.say(session, &json!({ "jsonrpc": "2.0", "method": "notifications/cancelled", "params": params }));
        } else if !session.wait(PATIENT, |state| state.answered.contains(&id)) {
            self.shared.fault(format!("[P7] nobody has answered the question of {value}"));
        }
        self.answer()
    }

    fn say(&mut self, session: &Session, message: &Value) {
        if self.mix.asks_apart {
            session.push(message);
        } else {
            self.line.event(&message.to_string());
        }
    }

    /// Waits for its cancellation, and heeds it or not.
    fn cancellable(&mut self, session: &Session) -> bool {
        self.line.begin_stream();
        self.progress();
        let came = session.wait(PATIENT, |state| state.cancelled.contains(&self.mix.value));
        if !came {
            self.shared.fault(format!("[P7] the server was not told that {} is cancelled", self.mix.value));
        }
        if self.mix.heeds {
            self.line.until_gone();
            return false;
        }
        self.answer()
    }
}

const STREAM_HEAD: &str = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n";
const STACK_BYTES: usize = 192 * 1024;
/// Whoever waits for a client waits so long.
const PATIENT: Duration = Duration::from_secs(60);
