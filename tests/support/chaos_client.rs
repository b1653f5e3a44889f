//! The clients of a chaos run: each sends its calls as they were drawn, well or badly, and writes down how they ended.

use std::collections::HashMap;
use std::io::{Read as _, Write as _};
use std::net::{Shutdown, SocketAddr};
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use socket2::SockRef;

use super::chaos::{BLOCK, BODY_BYTES_MAX, CALLERS, Call, Doing, Draw, SERVERS, TIMEOUT, Verdict};
use super::chaos_wire::{Answer, Lost, Wire, events};
use super::gateway::{Gateway, PATIENCE, Who};
use super::mcp::{LEGACY, MODERN};
use super::oracle::{Claim, Due, End};

/// What all clients of one run share.
pub(crate) struct Clients {
    seed: u64,
    address: SocketAddr,
    policy: Option<String>,
    /// For each caller one token of each kind.
    tokens: Vec<Tokens>,
    next: AtomicU64,
    last: u64,
}

struct Tokens {
    good: String,
    expired: String,
    forged: String,
    foreign: String,
}

/// One client: its kept connection and its sessions.
struct Client<'a> {
    clients: &'a Clients,
    kept: Option<Wire>,
    /// Session ids by caller and server.
    sessions: HashMap<(usize, usize), String>,
    claims: Vec<Claim>,
}

/// A request, ready to be sent.
struct Request {
    head: Vec<u8>,
    body: Vec<u8>,
}

impl Clients {
    /// Clients for the calls from `first` to before `last`.
    pub(crate) fn new(seed: u64, gateway: &Gateway, policy: Option<String>, calls: std::ops::Range<u64>) -> Self {
        let paths = SERVERS.map(|server| gateway.url(&format!("/s/{server}/mcp")));
        let audience: Vec<&str> = paths.iter().map(String::as_str).collect();
        let tokens = |(subject, agent, tasks): (&'static str, &'static str, &'static [&'static str])| {
            let who = Who { subject, agent: Some(agent), tasks, expires_s: 7_200 };
            let good = gateway.token_for(&who, &audience);
            // The last letter of a signature may hold bits that are not looked at; the first never does.
            let at = good.rfind('.').map_or(0, |dot| dot + 1);
            let other = if good[at..].starts_with('A') { "B" } else { "A" };
            let forged = format!("{}{other}{}", &good[..at], &good[at + 1..]);
            let foreign = gateway.token_for(&who, &["http://elsewhere.test/mcp"]);
            let expired = gateway.token_for(&Who { expires_s: -120, ..who }, &audience);
            Tokens { good, expired, forged, foreign }
        };
        let tokens = CALLERS.into_iter().map(tokens).collect();
        Self { seed, address: gateway.address, policy, tokens, next: AtomicU64::new(calls.start), last: calls.end }
    }

    /// Makes all calls, as so many clients at a time; what they know of them.
    pub(crate) fn run(&self, clients: usize) -> Vec<Claim> {
        thread::scope(|scope| {
            let all: Vec<_> = (0..clients).map(|_| scope.spawn(|| Client::new(self).work())).collect();
            all.into_iter().flat_map(|client| client.join().expect("a client does not panic")).collect()
        })
    }

    /// A good call, as an end to compare with.
    pub(crate) fn call_well(&self, call: &Call) -> Claim {
        let mut client = Client::new(self);
        client.whole(call);
        client.claims.pop().expect("it made one call")
    }
}

impl<'a> Client<'a> {
    fn new(clients: &'a Clients) -> Self {
        Self { clients, kept: None, sessions: HashMap::new(), claims: Vec::new() }
    }

    fn work(mut self) -> Vec<Claim> {
        loop {
            let first = self.clients.next.fetch_add(BLOCK, Ordering::Relaxed);
            if first >= self.clients.last {
                return self.claims;
            }
            let calls: Vec<Call> = (first..first + BLOCK).map(|number| Call::of(self.clients.seed, number)).collect();
            if calls[0].doing == Doing::Pipelined {
                self.pipelined(&calls);
                continue;
            }
            for call in &calls {
                match call.doing {
                    doing if doing.is_whole() => self.whole(call),
                    doing if doing.may_arrive() => self.unheard(call),
                    Doing::GoneAtOnce | Doing::GoneInHead | Doing::GoneInBody | Doing::ResetInBody => self.part(call),
                    _ => self.refused(call),
                }
            }
        }
    }

    /// A well-formed request whose answer is waited for.
    fn whole(&mut self, call: &Call) {
        let request = self.request(call, None);
        let mut draw = call.more(self.clients.seed, 1);
        let mut wire = self.wire(call.alone || call.doing == Doing::SlowRead);
        let mut early = None;
        match call.doing {
            Doing::Split => wire.send_in_pieces(&request.bytes(), &mut draw, 6, 0..300),
            Doing::Slow => wire.send_in_pieces(&request.bytes(), &mut draw, 9, 500..6_000),
            Doing::Chunked => wire.send(&request.chunked(&mut draw)),
            Doing::Expect => {
                wire.send(&request.head_with("expect: 100-continue\r\n"));
                early = wire.go_ahead();
                if early.is_none() {
                    wire.send(&request.body);
                }
            }
            Doing::SlowRead => {
                // With small buffers in between, the gateway notices it.
                let _ = SockRef::from(&wire.socket).set_recv_buffer_size(4 * 1024);
                wire.slow = true;
                wire.send(&request.bytes());
            }
            Doing::Cancel => {
                wire.send(&request.bytes());
                self.cancel(call);
            }
            _ => wire.send(&request.bytes()),
        }
        let begun = Instant::now();
        let answer = early.unwrap_or_else(|| wire.answer());
        self.ended(call, due(call), answer, begun, Some(wire));
    }

    /// Four at once; where one ends the connection, the ones behind it were not heard.
    fn pipelined(&mut self, calls: &[Call]) {
        let bytes: Vec<u8> = calls.iter().flat_map(|call| self.request(call, None).bytes()).collect();
        let mut draw = calls[0].more(self.clients.seed, 1);
        let mut wire = self.wire(calls[0].alone);
        let pieces = draw.within(1..7);
        // More than the sockets hold: what reads the answers must not wait for what writes.
        let mut writer = wire.socket.try_clone().expect("a descriptor is free");
        thread::scope(|scope| {
            scope.spawn(move || {
                let mut start = 0;
                for end in draw.cuts(bytes.len(), pieces) {
                    let _ = writer.write_all(&bytes[start..end]);
                    start = end;
                }
            });
            let mut open = true;
            for call in calls {
                let begun = Instant::now();
                if !open {
                    self.claims.push(self.claim(call, unsure(due(call)), End::Left, begun));
                    continue;
                }
                let answer = wire.answer();
                open = answer.as_ref().is_ok_and(|answer| !answer.closes);
                self.ended(call, due(call), answer, begun, None);
            }
            // Ends the writer too.
            let _ = wire.socket.shutdown(Shutdown::Both);
        });
    }

    /// A whole request whose client leaves in some way before the end.
    fn unheard(&mut self, call: &Call) {
        let request = self.request(call, None);
        let mut draw = call.more(self.clients.seed, 1);
        let mut wire = self.wire(true);
        wire.send(&request.bytes());
        let begun = Instant::now();
        let due = unsure(due(call));
        match call.doing {
            Doing::HalfClose => {
                let _ = wire.socket.shutdown(Shutdown::Write);
                let answer = wire.answer();
                return self.ended(call, due, answer, begun, None);
            }
            Doing::GoneInAnswer => {
                let mut some = vec![0; draw.within(1..40_000)];
                let _ = wire.socket.read(&mut some);
            }
            _ => thread::sleep(Duration::from_micros(draw.below(30_000) as u64)),
        }
        if call.doing == Doing::Reset {
            wire.reset();
        }
        self.claims.push(self.claim(call, due, End::Left, begun));
    }

    /// Only part of a request.
    fn part(&mut self, call: &Call) {
        let request = self.request(call, None);
        let mut draw = call.more(self.clients.seed, 1);
        let mut wire = self.wire(true);
        let head = request.head_with("").len();
        let end = match call.doing {
            Doing::GoneAtOnce => 0,
            Doing::GoneInHead => draw.within(1..head),
            _ => draw.within(head..head + request.body.len()),
        };
        let bytes = request.bytes();
        wire.send_in_pieces(&bytes[..end.min(bytes.len() - 1)], &mut draw, 2, 0..2_000);
        if call.doing == Doing::ResetInBody {
            wire.reset();
        }
        self.claims.push(self.claim(call, Due::Nothing, End::Left, Instant::now()));
    }

    /// A request that is wrong, or of nobody.
    fn refused(&mut self, call: &Call) {
        let mut draw = call.more(self.clients.seed, 1);
        let session = match call.doing {
            Doing::ForeignSession => {
                // The neighbour's; of another agent at the least.
                let other = (call.who + 1) % CALLERS.len();
                Some(self.session(other, call.server))
            }
            Doing::DeadSession => Some(self.dead_session(call)),
            _ => None,
        };
        let mut request = self.request(call, session);
        let mut wire = self.wire(call.alone);
        match call.doing {
            Doing::BadHead => request.spoil_head(&mut draw),
            Doing::BadBody => request.spoil_body(&mut draw),
            Doing::TooLarge => request.grow(),
            _ => {}
        }
        // What cannot be told from a next request must not be one.
        let raw = if call.doing == Doing::BadHead { request.head_and_body() } else { request.bytes() };
        wire.send(&raw);
        let begun = Instant::now();
        let answer = wire.answer();
        let wire = (call.doing != Doing::BadHead).then_some(wire);
        self.ended(call, Due::Nothing, answer, begun, wire);
    }

    /// Writes down how a call ended; keeps the connection if it can be used again.
    fn ended(&mut self, call: &Call, due: Due, answer: Result<Answer, Lost>, begun: Instant, wire: Option<Wire>) {
        let keep = answer.as_ref().is_ok_and(|answer| !answer.closes);
        let end = call.end_of(answer);
        if end == End::Rejected(404) {
            self.sessions.remove(&(call.who, call.server));
        }
        self.claims.push(self.claim(call, due, end, begun));
        if keep && !call.alone {
            self.kept = wire.filter(|wire| !wire.slow);
        }
    }

    fn claim(&self, call: &Call, due: Due, end: End, begun: Instant) -> Claim {
        let (subject, agent, _) = CALLERS[call.who];
        Claim {
            value: call.value.clone(),
            subject: subject.into(),
            agent: Some(agent.into()),
            task: call.task().map(str::to_owned),
            server: SERVERS[call.server].into(),
            tool: call.tool.name().into(),
            policy: self.clients.policy.clone(),
            due,
            end,
            took: begun.elapsed(),
            // A machine that does other things too may be late, but not by so much.
            within: TIMEOUT * 5 / 2 + PATIENCE / 2,
        }
    }

    fn wire(&mut self, alone: bool) -> Wire {
        let kept = if alone { None } else { self.kept.take() };
        kept.unwrap_or_else(|| Wire::to(self.clients.address))
    }

    fn session(&mut self, who: usize, server: usize) -> String {
        if let Some(session) = self.sessions.get(&(who, server)) {
            return session.clone();
        }
        let session = self.open_session(who, server);
        self.sessions.insert((who, server), session.clone());
        session
    }

    fn open_session(&self, who: usize, server: usize) -> String {
        let body = json!({ "jsonrpc": "2.0", "id": "init", "method": "initialize", "params": {
            "protocolVersion": LEGACY, "capabilities": {}, "clientInfo": { "name": "chaos", "version": "1" },
        }});
        let answer = self.ask(who, server, "POST", "", &body.to_string());
        let session = answer.session.expect("a session has an id");
        let fields = format!("mcp-session-id: {session}\r\nmcp-protocol-version: {LEGACY}\r\n");
        let told = json!({ "jsonrpc": "2.0", "method": "notifications/initialized" });
        assert_eq!(self.ask(who, server, "POST", &fields, &told.to_string()).status, 202);
        session
    }

    fn dead_session(&self, call: &Call) -> String {
        let session = self.open_session(call.who, call.server);
        let fields = format!("mcp-session-id: {session}\r\nmcp-protocol-version: {LEGACY}\r\n");
        let ended = self.ask(call.who, call.server, "DELETE", &fields, "").status;
        assert!((200..300).contains(&ended), "a session can be ended: {ended}");
        session
    }

    fn cancel(&mut self, call: &Call) {
        let session = self.session(call.who, call.server);
        let fields = format!("mcp-session-id: {session}\r\nmcp-protocol-version: {LEGACY}\r\n");
        let id = call.id_text();
        let body =
            format!("{{\"jsonrpc\":\"2.0\",\"method\":\"notifications/cancelled\",\"params\":{{\"requestId\":{id}}}}}");
        assert_eq!(self.ask(call.who, call.server, "POST", &fields, &body).status, 202);
    }

    /// One exchange that nothing is wrong with.
    fn ask(&self, who: usize, server: usize, http: &str, fields: &str, body: &str) -> Answer {
        let Clients { address, tokens, .. } = self.clients;
        let mut wire = Wire::to(*address);
        let (server, token, length) = (SERVERS[server], &tokens[who].good, body.len());
        wire.send(
            format!(
                "{http} /s/{server}/mcp HTTP/1.1\r\nhost: {address}\r\ncontent-type: application/json\r\n\
                 accept: application/json, text/event-stream\r\nauthorization: Bearer {token}\r\n{fields}\
                 content-length: {length}\r\n\r\n{body}"
            )
            .as_bytes(),
        );
        wire.answer().unwrap_or_else(|lost| panic!("{http} {body} {fields}: {:?}", End::from(lost)))
    }

    /// The request of a call, in a session of its caller's or in the one given.
    fn request(&mut self, call: &Call, session: Option<String>) -> Request {
        let Clients { address, tokens, .. } = self.clients;
        let (server, tool, id, value) = (SERVERS[call.server], call.tool.name(), call.id_text(), &call.value);
        let path = if call.doing == Doing::WrongPath { "nothing" } else { "mcp" };
        let mut head = format!(
            "POST /s/{server}/{path} HTTP/1.1\r\nhost: {address}\r\ncontent-type: application/json\r\n\
             accept: application/json, text/event-stream\r\ntraceparent: 00-{value}-00f067aa0ba902b7-01\r\n"
        );
        let tokens = &tokens[call.who];
        match call.doing {
            Doing::NoToken => {}
            doing => {
                let token = match doing {
                    Doing::ExpiredToken => &tokens.expired,
                    Doing::ForgedToken => &tokens.forged,
                    Doing::ForeignToken => &tokens.foreign,
                    _ => &tokens.good,
                };
                head += &format!("authorization: Bearer {token}\r\n");
            }
        }
        let mut meta = format!("\"progressToken\":\"{value}\"");
        match call.named {
            Some((task, true)) => meta += &format!(",\"portcullis/task\":\"{task}\""),
            Some((task, false)) => head += &format!("portcullis-task: {task}\r\n"),
            None => {}
        }
        if call.modern {
            head += &modern_fields(call, &mut call.more(self.clients.seed, 2));
            meta += &format!(
                ",\"io.modelcontextprotocol/protocolVersion\":\"{MODERN}\",\
                 \"io.modelcontextprotocol/clientCapabilities\":{{}}"
            );
        } else {
            let session = session.unwrap_or_else(|| self.session(call.who, call.server));
            head += &format!("mcp-session-id: {session}\r\nmcp-protocol-version: {LEGACY}\r\n");
        }
        let pad = "p".repeat(call.pad);
        let body = format!(
            "{{\"jsonrpc\":\"2.0\",\"id\":{id},\"method\":\"tools/call\",\"params\":{{\"name\":\"{tool}\",\
             \"arguments\":{{\"value\":\"{value}\",\"pad\":\"{pad}\"}},\"_meta\":{{{meta}}}}}}}"
        );
        Request { head: head.into_bytes(), body: body.into_bytes() }
    }
}

/// The fields that a modern call repeats of its body; wrong or missing where that was drawn.
fn modern_fields(call: &Call, draw: &mut Draw) -> String {
    let mut fields = vec![
        ("mcp-protocol-version", MODERN.to_owned()),
        ("mcp-method", "tools/call".to_owned()),
        ("mcp-name", call.tool.name().to_owned()),
    ];
    let one = draw.below(3);
    match call.doing {
        Doing::WrongHeader => {
            let others: [&[&str]; 3] =
                [&["2025-11-25", "1.0", ""], &["tools/list", "Tools/Call", "ping"], &["other", "ECHO", "=?base64?x?="]];
            fields[one].1 = draw.one_of(others[one]).to_owned();
        }
        Doing::NoHeader => {
            // Without the version it might pass for another era's; without these two it is just wrong.
            fields.remove(one.max(1));
        }
        _ => {}
    }
    fields.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect()
}

/// What must become of a well-formed call.
fn due(call: &Call) -> Due {
    if call.verdict() == Verdict::Permit { Due::Permit } else { Due::Refusal }
}

/// The same, where nobody knows whether it was heard.
fn unsure(due: Due) -> Due {
    match due {
        Due::Permit => Due::PermitOrNothing,
        Due::Refusal => Due::RefusalOrNothing,
        other => other,
    }
}

impl Call {
    /// How it ended, by what came back.
    fn end_of(&self, answer: Result<Answer, Lost>) -> End {
        let answer = match answer {
            Ok(answer) => answer,
            Err(Lost::Closed(had)) => return self.stranger(&had).map_or(End::Cut, End::Foreign),
            Err(lost) => return lost.into(),
        };
        if let Some(other) = self.stranger(&answer.body) {
            return End::Foreign(other);
        }
        let messages = if answer.events { events(&answer.body) } else { vec![serde_json::from_slice(&answer.body)] };
        let mut last = Value::Null;
        for message in messages {
            let Ok(message) = message else {
                return End::Garbled(String::from_utf8_lossy(&answer.body).into_owned());
            };
            let token = &message["params"]["progressToken"];
            if !token.is_null() && *token != self.value.as_str() {
                return End::Foreign(message.to_string());
            }
            last = message;
        }
        self.meaning(&answer, &last)
    }

    fn meaning(&self, answer: &Answer, message: &Value) -> End {
        let (id, error) = (&message["id"], &message["error"]);
        let code = error["code"].as_i64().unwrap_or_default();
        let reason = error["data"]["reason"].as_str();
        let known = id.is_null() && answer.status >= 400 || self.id_text() == format!("{id}");
        let text = message["result"]["content"][0]["text"].as_str();
        match (answer.status, text, reason) {
            _ if !known => End::Foreign(message.to_string()),
            (200, Some(text), _) => match text.strip_prefix("v:") {
                Some(value) => End::Echo(value.to_owned()),
                // A refusal that its rule gives a reason for.
                None => End::Refused,
            },
            (200, None, Some(reason)) if code == -32_603 => End::Fault(reason.to_owned()),
            (_, None, _) if matches!(code, -32_050 | -32_051) => End::Error(code),
            (200, None, _) if code == -32_602 => End::Refused,
            (400, None, _) if code == -32_602 && self.verdict() == Verdict::BadTask => End::Refused,
            (status @ 400..600, None, _) if code != 0 => End::Rejected(status),
            _ => End::Garbled(format!("{} {message}", answer.status)),
        }
    }

    /// A value in an answer that is not this call's.
    fn stranger(&self, bytes: &[u8]) -> Option<String> {
        let found = memchr::memmem::find_iter(bytes, b"v:").filter_map(|at| bytes.get(at + 2..at + 34));
        let mut values = found.filter(|value| value.iter().all(u8::is_ascii_hexdigit));
        values.find(|value| *value != self.value.as_bytes()).map(|value| String::from_utf8_lossy(value).into_owned())
    }
}

impl Request {
    /// The head, with these fields at its end.
    fn head_with(&self, last: &str) -> Vec<u8> {
        let length = format!("content-length: {}\r\n{last}\r\n", self.body.len());
        [&self.head, length.as_bytes()].concat()
    }

    fn bytes(&self) -> Vec<u8> {
        [&self.head_with(""), &self.body[..]].concat()
    }

    /// As it is: the head has its end already.
    fn head_and_body(&self) -> Vec<u8> {
        [&self.head[..], &self.body].concat()
    }

    fn chunked(&self, draw: &mut Draw) -> Vec<u8> {
        let mut out = [&self.head[..], b"transfer-encoding: chunked\r\n\r\n"].concat();
        let pieces = draw.within(1..9);
        let cuts = draw.cuts(self.body.len(), pieces);
        let mut start = 0;
        for end in cuts {
            if end > start {
                let extension = draw.one_of(&["", "", ";a=b", ";x=\"y\""]);
                out.extend_from_slice(format!("{:x}{extension}\r\n", end - start).as_bytes());
                out.extend_from_slice(&self.body[start..end]);
                out.extend_from_slice(b"\r\n");
            }
            start = end;
        }
        out.extend_from_slice(draw.one_of(&["0\r\n\r\n", "0\r\nx-last: 1\r\n\r\n"]).as_bytes());
        out
    }

    /// Ends the head in one of the ways in which none may end.
    fn spoil_head(&mut self, draw: &mut Draw) {
        let length = self.body.len();
        let good = format!("content-length: {length}\r\n");
        let bad = match draw.below(13) {
            0 => format!("{good}transfer-encoding: chunked\r\n"),
            1 => format!("transfer-encoding: chunked\r\n{good}"),
            2 => format!("{good}{good}"),
            3 => format!("content-length: +{length}\r\n"),
            4 => format!("content-length : {length}\r\n"),
            5 => format!("{good}x-a: b\r\n c\r\n"),
            6 => "transfer-encoding: xchunked\r\n".to_owned(),
            7 => format!("{good}host: elsewhere.test\r\n"),
            8 => format!("{good}x-long: {}\r\n", "l".repeat(9_000)),
            9 => format!("{good}x-nul: a\0b\r\n"),
            10 => format!("{good}x-bare: a\n"),
            11 => format!("{good}{}", "x: y\r\n".repeat(120)),
            _ => format!("{good}connection: mcp-name, authorization\r\n"),
        };
        self.head.extend_from_slice(bad.as_bytes());
        self.head.extend_from_slice(b"\r\n");
    }

    /// Makes the body something that is no message.
    fn spoil_body(&mut self, draw: &mut Draw) {
        let text = String::from_utf8_lossy(&self.body).into_owned();
        let again = |from: &str, to: &str| text.replacen(from, to, 1).into_bytes();
        self.body = match draw.below(11) {
            0 => self.body[..draw.within(1..self.body.len())].to_vec(),
            1 => again("\"params\":{", "\"params\":{\"name\":\"secret\","),
            2 => again("\"params\":{", "\"params\":{\"Name\":\"secret\","),
            3 => format!("[{text}]").into_bytes(),
            4 => [b"\xef\xbb\xbf", &self.body[..]].concat(),
            5 => [&self.body[..], b"{}"].concat(),
            6 => again("\"id\":", "\"id\":null,\"x\":"),
            7 => again("\"id\":", "\"id\":2,\"id\":"),
            8 => again("\"arguments\":{", &format!("\"arguments\":{{\"deep\":{}{},", "[".repeat(80), "]".repeat(80))),
            9 => {
                let at = text.find("\"pad\":\"").expect("there is one") + 7;
                [&self.body[..at], b"\xff\xfe", &self.body[at..]].concat()
            }
            _ => again("\"arguments\":{", "\"arguments\":{\"value\":\"other\","),
        };
    }

    /// Makes the body larger than may be.
    fn grow(&mut self) {
        let end = self.body.len() - 1;
        let pad = format!(",\"more\":\"{}\"}}", "m".repeat(BODY_BYTES_MAX));
        self.body.truncate(end);
        self.body.extend_from_slice(pad.as_bytes());
    }
}
