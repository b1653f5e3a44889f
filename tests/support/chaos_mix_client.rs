//! The clients of a hunt for mix-ups: all at once, all with the same ids, each writing down what it was told, by whom,
//! and in answer to what.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::chaos::{BLOCK, CALLERS, Draw, SERVERS};
use super::chaos_mix::{Answering, Deed, ID, Mix, REVISIONS, heard};
use super::chaos_wire::{Answer, Event, Lost, Wire, events};
use super::gateway::{Gateway, PATIENCE, Who};
use super::mcp::{MODERN, fresh};
use super::oracle::{Claim, Due, End, Heard};

/// What all clients of one run share.
pub(crate) struct MixClients {
    seed: u64,
    address: SocketAddr,
    /// All servers are behind one endpoint; else each has its own.
    merged: bool,
    /// By caller.
    tokens: Vec<String>,
    next: AtomicU64,
    last: u64,
    /// Sessions that somebody has: caller, server, id.
    board: Mutex<Vec<(usize, usize, String)>>,
}

/// What clients know.
#[derive(Default)]
pub(crate) struct Known {
    pub(crate) claims: Vec<Claim>,
    pub(crate) heard: Vec<Heard>,
    /// Ids under which questions came.
    pub(crate) questions: Vec<u64>,
    /// Calls whose question was answered rightly.
    pub(crate) answered: Vec<String>,
    pub(crate) faults: Vec<String>,
    pub(crate) counts: HashMap<&'static str, usize>,
}

/// One client: its kept connection and its session.
struct Client<'a> {
    clients: &'a MixClients,
    who: usize,
    draw: Draw,
    kept: Option<Wire>,
    session: Option<Session>,
    known: Known,
}

struct Session {
    id: String,
    tag: String,
    server: usize,
    revision: &'static str,
    own: Option<Own>,
    /// Messages of its own stream that were heard.
    heard: u64,
    /// An earlier request with the same id may still be under way.
    unsure: bool,
}

/// A session's own stream.
struct Own {
    wire: Wire,
    decoded: Vec<u8>,
    last: Option<String>,
}

/// A call under way.
struct Going {
    wire: Wire,
    server: usize,
    begun: Instant,
    /// Messages of its stream that were heard.
    heard: u64,
    last: Option<String>,
    /// Under which id its question came, and who is asked for.
    question: Option<u64>,
    resumed: bool,
    /// The last answer's head said that the connection ends.
    closes: bool,
}

/// How a stream ended.
enum Stream {
    Answer(Value),
    /// As it should, without the answer.
    Ended,
    /// After as many messages as were wanted.
    Enough,
}

impl MixClients {
    /// Clients for so many calls.
    pub(crate) fn new(seed: u64, gateway: &Gateway, calls: u64) -> Self {
        Self::at(seed, gateway, calls, false)
    }

    /// The same, whose servers are all behind `/mcp`, under names with the server's in front.
    pub(crate) fn merged(seed: u64, gateway: &Gateway, calls: u64) -> Self {
        Self::at(seed, gateway, calls, true)
    }

    fn at(seed: u64, gateway: &Gateway, calls: u64, merged: bool) -> Self {
        let paths = SERVERS.map(|server| gateway.url(&path(merged, server)));
        let audience: Vec<&str> = paths.iter().map(String::as_str).collect();
        let token = |(subject, agent, _): (&'static str, &'static str, &'static [&'static str])| {
            gateway.token_for(&Who { subject, agent: Some(agent), tasks: &[], expires_s: 7_200 }, &audience)
        };
        let tokens = CALLERS.into_iter().map(token).collect();
        let (address, next) = (gateway.address, AtomicU64::new(0));
        Self { seed, address, merged, tokens, next, last: calls, board: Mutex::default() }
    }

    /// Makes all calls, as so many clients at once; what they know then.
    pub(crate) fn run(&self, clients: usize) -> Known {
        let mut known = Known::default();
        thread::scope(|scope| {
            let begin = |number| {
                let work = move || Client::new(self, number).work();
                thread::Builder::new()
                    .stack_size(STACK_BYTES)
                    .spawn_scoped(scope, work)
                    .expect("a thread can be started")
            };
            let all: Vec<_> = (0..clients).map(begin).collect();
            for client in all {
                known.add(client.join().expect("a client does not panic"));
            }
        });
        known
    }

    fn board(&self) -> std::sync::MutexGuard<'_, Vec<(usize, usize, String)>> {
        self.board.lock().unwrap_or_else(|held| held.into_inner())
    }

    /// The head of a request, up to its length.
    fn head(&self, who: usize, server: usize, http: &str, fields: &str) -> String {
        let (path, token, address) = (path(self.merged, SERVERS[server]), &self.tokens[who], self.address);
        format!(
            "{http} {path} HTTP/1.1\r\nhost: {address}\r\ncontent-type: application/json\r\n\
             accept: application/json, text/event-stream\r\nauthorization: Bearer {token}\r\n{fields}"
        )
    }

    /// The server that a call is for, in a session of `server`'s.
    fn server_of(&self, mix: &Mix, server: usize) -> usize {
        if self.merged { Draw::of(self.seed, mix.number, 9).below(SERVERS.len()) } else { server }
    }

    /// What its tool is called here.
    fn tool(&self, mix: &Mix, server: usize) -> String {
        if self.merged { format!("{}__{}", SERVERS[server], mix.tool()) } else { mix.tool().to_owned() }
    }

    fn wire(&self) -> Wire {
        let mut wire = Wire::to(self.address);
        let _ = wire.socket.set_read_timeout(Some(PATIENT));
        wire.until = Some(Instant::now() + PATIENT);
        wire
    }

    /// One exchange on a connection of its own.
    fn ask(&self, who: usize, server: usize, http: &str, fields: &str, body: &str) -> Result<Answer, Lost> {
        let mut wire = self.wire();
        let head = self.head(who, server, http, fields);
        wire.send(format!("{head}content-length: {}\r\n\r\n{body}", body.len()).as_bytes());
        wire.answer()
    }
}

impl Known {
    fn add(&mut self, other: Self) {
        self.claims.extend(other.claims);
        self.heard.extend(other.heard);
        self.questions.extend(other.questions);
        self.answered.extend(other.answered);
        self.faults.extend(other.faults);
        for (what, count) in other.counts {
            *self.counts.entry(what).or_default() += count;
        }
    }

    fn count(&mut self, what: &'static str) {
        *self.counts.entry(what).or_default() += 1;
    }

    /// A message that came where those of `owner` come; its place there.
    fn hear(&mut self, owner: &str, event: &Event, message: &Value) {
        let text = text_of(message).unwrap_or_default();
        let (of, place) = heard(text.split(' ').next().unwrap_or_default()).unwrap_or_default();
        let heard = Heard { owner: owner.to_owned(), of, place, event: event.id.clone() };
        self.heard.push(heard);
    }
}

impl<'a> Client<'a> {
    fn new(clients: &'a MixClients, number: usize) -> Self {
        let draw = Draw::of(clients.seed, number as u64, 7);
        Self { clients, who: number % CALLERS.len(), draw, kept: None, session: None, known: Known::default() }
    }

    fn work(mut self) -> Known {
        loop {
            let first = self.clients.next.fetch_add(BLOCK, Ordering::Relaxed);
            if first >= self.clients.last {
                self.leave_session(true);
                return self.known;
            }
            let calls: Vec<Mix> = (first..first + BLOCK).map(|number| Mix::of(self.clients.seed, number)).collect();
            if calls[0].deed == Deed::Batch {
                self.batch(&calls);
                continue;
            }
            for mix in &calls {
                if mix.modern { self.modern(mix) } else { self.legacy(mix) }
            }
        }
    }

    // ---- calls ------------------------------------------------------------------------------------------------

    fn modern(&mut self, mix: &Mix) {
        let drawn = self.draw.below(SERVERS.len());
        let server = self.clients.server_of(mix, drawn);
        let mut going = self.going(mix.alone || mix.deed == Deed::Left, server);
        let request = self.request(mix, server);
        going.wire.send(&request);
        if mix.deed == Deed::Left {
            thread::sleep(Duration::from_millis(mix.delay));
            let due = if mix.deed == Deed::Hidden { Due::RefusalOrNothing } else { Due::PermitOrNothing };
            return self.claim(mix, &going, due, End::Left);
        }
        let end = self.read(mix, &mut going, None);
        self.ended(mix, going, end);
    }

    fn legacy(&mut self, mix: &Mix) {
        if !self.needs(mix) {
            return;
        }
        let server = self.session.as_ref().map_or(0, |session| session.server);
        let server = self.clients.server_of(mix, server);
        let begun = Instant::now();
        loop {
            let mut going = self.going(mix.alone || matches!(mix.deed, Deed::Left | Deed::CutForGood), server);
            let request = self.request(mix, server);
            going.wire.send(&request);
            let end = match mix.deed {
                Deed::Left => {
                    thread::sleep(Duration::from_millis(mix.delay));
                    self.claim(mix, &going, Due::PermitOrNothing, End::Left);
                    return self.leave_session(mix.number.is_multiple_of(2));
                }
                Deed::EndedAmid => {
                    self.leave_session(true);
                    let end = self.read(mix, &mut going, None);
                    let end = if let End::Foreign(_) | End::Garbled(_) | End::Hung = end { end } else { End::Left };
                    return self.claim(mix, &going, Due::PermitOrNothing, end);
                }
                Deed::CutForGood => {
                    let end = self.read(mix, &mut going, Some(mix.cut_after));
                    let end = if let End::Cut = end { End::Left } else { end };
                    self.claim(mix, &going, Due::Permit, end);
                    return self.leave_session(mix.number.is_multiple_of(2));
                }
                Deed::Cut => self.read(mix, &mut going, Some(mix.cut_after)),
                Deed::Heard | Deed::HeardCut => self.hearing(mix, &mut going),
                _ => self.read(mix, &mut going, None),
            };
            let unsure = self.session.as_ref().is_some_and(|session| session.unsure);
            if unsure && end == End::Rejected(400) && begun.elapsed() < PATIENCE {
                // The request before it is not quite over.
                self.known.count("ids still under way");
                self.keep(mix, going);
                thread::sleep(Duration::from_millis(5));
                continue;
            }
            let special = matches!(mix.deed, Deed::Cancel) || going.resumed;
            if let Some(session) = &mut self.session {
                session.unsure = special;
            }
            let over = matches!(end, End::Rejected(_) | End::Cut | End::Hung | End::Garbled(_));
            self.ended(mix, going, end);
            if mix.deed == Deed::Ended {
                self.once_more(mix);
            } else if over {
                self.leave_session(true);
            }
            return;
        }
    }

    fn ended(&mut self, mix: &Mix, going: Going, end: End) {
        let due = if mix.deed == Deed::Hidden { Due::Refusal } else { Due::Permit };
        let whole = matches!(end, End::Echo(_) | End::Resumed(_) | End::Refused);
        self.claim(mix, &going, due, end);
        if whole {
            self.keep(mix, going);
        }
    }

    fn keep(&mut self, mix: &Mix, going: Going) {
        if !mix.alone && !going.closes && !matches!(mix.deed, Deed::Cut | Deed::Cancel) {
            self.kept = Some(going.wire);
        }
    }

    /// Four calls in one message. Its requests have ids of their own, since they must.
    fn batch(&mut self, calls: &[Mix]) {
        if !self.needs(&calls[0]) {
            return;
        }
        let Some(session) = &self.session else { return };
        let server = session.server;
        let fields = format!("{}traceparent: {}\r\n", session.fields(), trace(&calls[0].value));
        let tool = |mix: &Mix| self.clients.tool(mix, self.clients.server_of(mix, server));
        let messages: Vec<String> = calls.iter().map(|mix| message(mix, &tool(mix), &session.tag)).collect();
        let body = format!("[{}]", messages.join(","));
        let mut going = self.going(false, server);
        let head = self.clients.head(self.who, server, "POST", &fields);
        going.wire.send(format!("{head}content-length: {}\r\n\r\n{body}", body.len()).as_bytes());
        let answers = match going.wire.answer() {
            Ok(answer) => answers(&answer),
            Err(lost) => Err(End::from(lost)),
        };
        let answers = match answers {
            Ok(answers) => answers,
            Err(end) => {
                for mix in calls {
                    going.server = self.clients.server_of(mix, server);
                    self.claim(mix, &going, Due::PermitOrNothing, end.clone());
                }
                return self.leave_session(true);
            }
        };
        let (notes, answers): (Vec<Value>, Vec<Value>) = answers.into_iter().partition(|it| !it["method"].is_null());
        for note in notes {
            // One stream for all: whose it is, says its text only.
            let text = text_of(&note).unwrap_or_default();
            let owner = text.split(' ').nth(1).and_then(|it| it.strip_prefix("a:")).unwrap_or_default().to_owned();
            if calls.iter().all(|mix| mix.value != owner) {
                self.known.faults.push(format!("[P3] in the batch of {}: {note}", calls[0].value));
            }
            self.known.hear(&owner, &Event::default(), &note);
        }
        for mix in calls {
            let mut own = answers.iter().filter(|answer| answer["id"] == mix.id());
            let end = match (own.next(), own.next()) {
                (Some(answer), None) => meaning(mix, 200, answer),
                (None, _) => End::Garbled(format!("no answer in {answers:?}")),
                (Some(_), Some(_)) => End::Foreign(format!("two answers in {answers:?}")),
            };
            going.server = self.clients.server_of(mix, server);
            self.claim(mix, &going, Due::Permit, end);
        }
        if answers.len() != calls.len() {
            self.known.faults.push(format!("[P3] {} answers to {} calls: {answers:?}", answers.len(), calls.len()));
        }
        self.kept = Some(going.wire);
    }

    /// A call in the session that has been ended.
    fn once_more(&mut self, mix: &Mix) {
        let Some(session) = self.session.take() else { return };
        let (id, tag, server, revision) = (session.id.clone(), session.tag.clone(), session.server, session.revision);
        self.session = Some(session);
        self.leave_session(true);
        let mut again = mix.clone();
        let tool = self.clients.tool(mix, server);
        again.value = format!("{}ffff{}", &fresh()[..16], &mix.value[20..]);
        let fields = format!("{}traceparent: {}\r\n", session_fields(&id, revision), trace(&again.value));
        let answer = self.clients.ask(self.who, server, "POST", &fields, &message(&again, &tool, &tag));
        let status = answer.map_or(0, |answer| answer.status);
        if status != 404 {
            self.known.faults.push(format!("[P1] a call in an ended session was answered {status}: {}", mix.value));
        }
    }

    // ---- answers ----------------------------------------------------------------------------------------------

    /// Reads to the answer, coming back for it wherever the stream ends before. With `cut_after` the stream is cut
    /// behind so many messages.
    fn read(&mut self, mix: &Mix, going: &mut Going, cut_after: Option<u64>) -> End {
        let begun = match going.wire.begin() {
            Ok(begun) => begun,
            Err(lost) => return lost.into(),
        };
        going.closes = begun.closes;
        let status = begun.status;
        if !begun.events {
            return match going.wire.rest(begun) {
                Ok(answer) if answer.body.is_empty() => End::Rejected(status),
                Ok(answer) => serde_json::from_slice(&answer.body)
                    .map_or_else(|fault| End::Garbled(fault.to_string()), |it| meaning(mix, status, &it)),
                Err(lost) => lost.into(),
            };
        }
        let mut cut_after = cut_after;
        for _ in 0..RESUMES_MAX {
            match self.events(mix, going, cut_after.take()) {
                Ok(Stream::Answer(answer)) => {
                    let end = meaning(mix, status, &answer);
                    return match end {
                        End::Echo(value) if going.resumed => End::Resumed(value),
                        end => end,
                    };
                }
                // Nobody waits for an answer to what was taken back.
                Ok(Stream::Ended) if mix.deed == Deed::Cancel => return End::TakenBack,
                Ok(Stream::Enough) if mix.deed == Deed::CutForGood => return End::Cut,
                Ok(Stream::Ended | Stream::Enough) if !mix.modern => {
                    if let Err(end) = self.resume(mix, going) {
                        return end;
                    }
                }
                Ok(_) => return End::Cut,
                Err(lost) => return lost.into(),
            }
        }
        End::Garbled("it never comes to the end".into())
    }

    /// Comes back for the rest of a stream.
    fn resume(&mut self, mix: &Mix, going: &mut Going) -> Result<(), End> {
        let (Some(session), Some(last)) = (&self.session, &going.last) else { return Err(End::Cut) };
        if mix.number.is_multiple_of(3) {
            going.wire.reset();
        }
        going.wire = self.clients.wire();
        let fields = format!("{}last-event-id: {last}\r\n\r\n", session.fields());
        going.wire.send(self.clients.head(self.who, session.server, "GET", &fields).as_bytes());
        going.resumed = true;
        self.known.count("streams resumed");
        match going.wire.begin() {
            Ok(begun) if begun.status == 200 && begun.events => Ok(()),
            Ok(begun) => Err(End::Garbled(format!("a stream that goes on: {}", begun.status))),
            Err(lost) => Err(lost.into()),
        }
    }

    /// Reads events up to the answer, the end, or as many messages as are wanted.
    fn events(&mut self, mix: &Mix, going: &mut Going, enough: Option<u64>) -> Result<Stream, Lost> {
        let mut decoded = Vec::new();
        let mut answer = None;
        while let Some(event) = going.wire.event(&mut decoded)? {
            if event.id.is_some() {
                going.last.clone_from(&event.id);
            }
            if event.data.is_empty() {
                continue;
            }
            let message: Value = serde_json::from_str(&event.data).map_err(|it| Lost::Garbled(it.to_string()))?;
            if message["method"].is_null() {
                if answer.replace(message).is_some() {
                    return Err(Lost::Garbled(format!("a second answer: {}", event.data)));
                }
                continue;
            }
            self.known.hear(&mix.value, &event, &message);
            going.heard += 1;
            let token = &message["params"]["progressToken"];
            if !token.is_null() && *token != ID {
                self.known.faults.push(format!("[P3] {} was told {message}", mix.value));
            }
            self.is_asked(mix, going, &message);
            if mix.deed == Deed::Cancel && going.heard == 1 {
                self.cancel(mix);
            }
            if enough.is_some_and(|enough| going.heard >= enough) && going.last.is_some() {
                return Ok(Stream::Enough);
            }
        }
        Ok(answer.map_or(Stream::Ended, Stream::Answer))
    }

    /// The session's own stream and the call's answer, in whichever order they come.
    fn hearing(&mut self, mix: &Mix, going: &mut Going) -> End {
        let due = 2 * mix.steps;
        let cut_after = (mix.deed == Deed::HeardCut).then_some(mix.cut_after);
        let before = if cut_after.is_some() { self.hear_own(mix, going, mix.cut_after) } else { Ok(()) };
        if cut_after.is_some() && before.is_ok() {
            self.cut_own(mix);
        }
        let end = self.read(mix, going, None);
        if !matches!(end, End::Echo(_)) {
            return end;
        }
        let after = self.hear_own(mix, going, due);
        if let Err(fault) = before.and(after) {
            self.known.faults.push(format!("[P7] the own stream of {}: {fault}", mix.value));
            self.leave_session(true);
        }
        end
    }

    /// Reads the session's own stream until `due` messages about this call were heard.
    fn hear_own(&mut self, mix: &Mix, going: &mut Going, due: u64) -> Result<(), String> {
        let until = Instant::now() + PATIENT;
        while going.heard < due {
            let message = self.next_own(until)?;
            let text = text_of(&message).unwrap_or_default();
            if text.split(' ').nth(1).and_then(|it| it.strip_prefix("a:")) != Some(&mix.value) {
                return Err(format!("{message} was heard"));
            }
            going.heard += 1;
            self.is_asked(mix, going, &message);
        }
        Ok(())
    }

    /// The next message of the session's own stream.
    fn next_own(&mut self, until: Instant) -> Result<Value, String> {
        let mut ends = 0;
        while Instant::now() < until {
            let session = self.session.as_mut().ok_or("there is no session")?;
            let own = session.own.as_mut().ok_or("there is no stream")?;
            own.wire.until = Some(until);
            match own.wire.event(&mut own.decoded) {
                Ok(Some(event)) => {
                    if event.id.is_some() {
                        own.last.clone_from(&event.id);
                    }
                    if event.data.is_empty() {
                        continue;
                    }
                    let message = serde_json::from_str(&event.data).map_err(|fault| fault.to_string())?;
                    session.heard += 1;
                    let tag = session.tag.clone();
                    self.known.hear(&tag, &event, &message);
                    return Ok(message);
                }
                // It may end at any time, and goes on with another connection.
                Ok(None) => {
                    ends += 1;
                    self.open_own()?;
                }
                Err(lost) => {
                    return Err(format!("{lost:?} behind {:?}, {} heard, {ends} ends", own.last, session.heard));
                }
            }
        }
        let heard = self.session.as_ref().map_or(0, |session| session.heard);
        Err(format!("nothing more comes: {heard} heard, {ends} ends"))
    }

    fn cut_own(&mut self, mix: &Mix) {
        let own = self.session.as_mut().and_then(|session| session.own.as_mut());
        if let Some(own) = own.filter(|_| mix.number.is_multiple_of(2)) {
            own.wire.reset();
        }
        self.known.count("own streams cut");
        if let Err(fault) = self.open_own() {
            self.known.faults.push(format!("[P7] the own stream of {}: {fault}", mix.value));
        }
    }

    /// Opens the session's own stream, or goes on with it.
    fn open_own(&mut self) -> Result<(), String> {
        let session = self.session.as_mut().ok_or("there is no session")?;
        let last = session.own.take().and_then(|own| own.last);
        let field = last.as_ref().map_or(String::new(), |last| format!("last-event-id: {last}\r\n"));
        let mut wire = self.clients.wire();
        let fields = format!("{}{field}\r\n", session.fields());
        wire.send(self.clients.head(self.who, session.server, "GET", &fields).as_bytes());
        match wire.begin() {
            Ok(begun) if begun.status == 200 && begun.events => {}
            Ok(begun) => return Err(format!("GET was answered {} behind {last:?}", begun.status)),
            Err(lost) => return Err(format!("{lost:?} to GET behind {last:?}")),
        }
        session.own = Some(Own { wire, decoded: Vec::new(), last });
        Ok(())
    }

    // ---- questions --------------------------------------------------------------------------------------------

    /// Answers what a server asks, in the way that was drawn.
    fn is_asked(&mut self, mix: &Mix, going: &mut Going, message: &Value) {
        let Deed::Asked(answering) = mix.deed else { return };
        if mix.asks_apart && going.question.is_none() && message["id"].is_null() {
            // The question comes on the other stream, which nobody reads otherwise.
            if going.heard == mix.steps {
                let heard = std::mem::replace(&mut going.heard, 0);
                let due = if answering == Answering::Late { 2 } else { 1 };
                if let Err(fault) = self.hear_own(mix, going, due) {
                    self.known.faults.push(format!("[P7] the question of {}: {fault}", mix.value));
                }
                going.heard = heard;
            }
            return;
        }
        let taken_back = message["method"] == "notifications/cancelled";
        if taken_back && message["params"]["requestId"].as_u64() != going.question {
            self.known.faults.push(format!("[P3] {} was asked {:?}, not {message}", mix.value, going.question));
        }
        if let Some(id) = message["id"].as_u64() {
            going.question = Some(id);
            self.known.questions.push(id);
        }
        let (Some(id), Some(session)) = (going.question, &self.session) else { return };
        let (server, tag) = (session.server, session.id.clone());
        let value = &mix.value;
        match answering {
            Answering::Late if !taken_back => {}
            Answering::Late => self.answer(server, self.who, &tag, id, &format!("l:{value}")),
            Answering::Right | Answering::Twice => {
                self.answer(server, self.who, &tag, id, &format!("r:{value}"));
                if answering == Answering::Twice {
                    self.answer(server, self.who, &tag, id, &format!("2:{value}"));
                }
                self.known.answered.push(value.clone());
            }
            Answering::Elsewhere => {
                let other = {
                    let board = self.clients.board();
                    let place = if board.is_empty() { 0 } else { self.draw.below(board.len()) };
                    board.get(place).filter(|(.., id)| *id != tag).cloned()
                };
                if let Some((who, server, id_of_other)) = other {
                    self.answer(server, who, &id_of_other, id, &format!("f:{value}"));
                }
                self.answer(server, self.who, &tag, id, &format!("r:{value}"));
                self.known.answered.push(value.clone());
            }
        }
    }

    fn answer(&mut self, server: usize, who: usize, session: &str, id: u64, text: &str) {
        let result = json!({ "action": "accept", "role": "user", "model": "m", "content": { "text": text } });
        let body = json!({ "jsonrpc": "2.0", "id": id, "result": result }).to_string();
        let fields = session_fields(session, "");
        match self.clients.ask(who, server, "POST", &fields, &body) {
            Ok(answer) if answer.status == 202 => {}
            // Somebody else's session may have ended meanwhile.
            Ok(answer) if answer.status == 404 && text.starts_with("f:") => {}
            Ok(answer) => {
                let said = String::from_utf8_lossy(&answer.body);
                self.known.faults.push(format!("[P7] the answer {text} was answered {}: {said}", answer.status));
            }
            Err(lost) => self.known.faults.push(format!("[P5] the answer {text}: {lost:?}")),
        }
    }

    fn cancel(&mut self, mix: &Mix) {
        let Some(session) = &self.session else { return };
        let reason = format!("{} {}", session.tag, mix.value);
        let params = json!({ "requestId": ID, "reason": reason });
        let body = json!({ "jsonrpc": "2.0", "method": "notifications/cancelled", "params": params });
        let told = self.clients.ask(self.who, session.server, "POST", &session.fields(), &body.to_string());
        if !told.as_ref().is_ok_and(|answer| answer.status == 202) {
            let status = told.map(|answer| answer.status);
            self.known.faults.push(format!("[P5] the cancellation of {}: {status:?}", mix.value));
        }
    }

    // ---- sessions ---------------------------------------------------------------------------------------------

    /// Whether there is a session that the call can be made in.
    fn needs(&mut self, mix: &Mix) -> bool {
        let suits = |revision: &str| match mix.deed {
            Deed::Batch => revision == REVISIONS[0],
            // It has no elicitation yet.
            Deed::Asked(_) => mix.heeds || revision != REVISIONS[0],
            _ => true,
        };
        if self.session.as_ref().is_some_and(|session| !suits(session.revision)) {
            self.leave_session(true);
        }
        if self.session.is_none() {
            let all: Vec<&'static str> = REVISIONS.into_iter().filter(|revision| suits(revision)).collect();
            let revision = self.draw.one_of(&all);
            if let Err(fault) = self.open_session(revision) {
                self.known.faults.push(format!("[P5] a session cannot be opened: {fault}"));
                return false;
            }
        }
        let has_own = self.session.as_ref().is_some_and(|session| session.own.is_some());
        if mix.needs_own()
            && !has_own
            && let Err(fault) = self.open_own()
        {
            self.known.faults.push(format!("[P5] its own stream cannot be opened: {fault}"));
            self.leave_session(true);
            return false;
        }
        true
    }

    fn open_session(&mut self, revision: &'static str) -> Result<(), String> {
        let server = self.draw.below(SERVERS.len());
        let capabilities = json!({ "elicitation": {}, "sampling": {} });
        let body = json!({ "jsonrpc": "2.0", "id": ID, "method": "initialize", "params": {
            "protocolVersion": revision, "capabilities": capabilities,
            "clientInfo": { "name": "mix", "version": "1" },
        }});
        let said = |answer: Result<Answer, Lost>, status: u16| match answer {
            Ok(answer) if answer.status == status => Ok(answer),
            Ok(answer) => Err(format!("{} {}", answer.status, String::from_utf8_lossy(&answer.body))),
            Err(lost) => Err(format!("{lost:?}")),
        };
        let opened = said(self.clients.ask(self.who, server, "POST", "", &body.to_string()), 200)?;
        let id = opened.session.ok_or("no id")?;
        let fields = session_fields(&id, revision);
        let told = json!({ "jsonrpc": "2.0", "method": "notifications/initialized" }).to_string();
        said(self.clients.ask(self.who, server, "POST", &fields, &told), 202)?;
        // By what it subscribes to, servers know it: that is brought along into a session that is opened anew.
        let tag = fresh();
        let uris = match self.clients.merged {
            true => SERVERS.map(|server| format!("mcp+{server}:tag://{tag}")).to_vec(),
            false => vec![format!("tag://{tag}")],
        };
        for uri in uris {
            let params = json!({ "uri": uri });
            let body = json!({ "jsonrpc": "2.0", "id": ID, "method": "resources/subscribe", "params": params });
            said(self.clients.ask(self.who, server, "POST", &fields, &body.to_string()), 200)?;
        }
        self.clients.board().push((self.who, server, id.clone()));
        self.session = Some(Session { id, tag, server, revision, own: None, heard: 0, unsure: false });
        self.known.count("sessions");
        Ok(())
    }

    /// Ends the session, or just turns away from it.
    fn leave_session(&mut self, end: bool) {
        let Some(session) = self.session.take() else { return };
        self.clients.board().retain(|(.., id)| *id != session.id);
        let Some(mut own) = session.own else {
            if end {
                self.delete(&session.id, session.server, session.revision);
            }
            return;
        };
        self.delete(&session.id, session.server, session.revision);
        // Its stream has nothing more to say, and ends.
        own.wire.until = Some(Instant::now() + PATIENT);
        loop {
            match own.wire.event(&mut own.decoded) {
                Ok(Some(event)) if event.data.is_empty() => {}
                Ok(Some(event)) => self.known.faults.push(format!("[P3] {} heard {event:?}", session.tag)),
                Ok(None) | Err(Lost::Closed(_)) => return,
                Err(lost) => return self.known.faults.push(format!("[P5] an ended session's stream: {lost:?}")),
            }
        }
    }

    fn delete(&mut self, id: &str, server: usize, revision: &str) {
        let until = Instant::now() + PATIENCE;
        loop {
            let answer = self.clients.ask(self.who, server, "DELETE", &session_fields(id, revision), "");
            match answer.map(|answer| answer.status) {
                Ok(200 | 204) => return,
                // It is over, but not written down yet.
                Ok(503) if Instant::now() < until => self.known.count("ends not written down yet"),
                Ok(404) if Instant::now() < until => return self.known.count("ended before"),
                other => return self.known.faults.push(format!("[P5] the end of a session: {other:?}")),
            }
        }
    }

    // ---- the rest ---------------------------------------------------------------------------------------------

    fn going(&mut self, alone: bool, server: usize) -> Going {
        let kept = if alone { None } else { self.kept.take() };
        let mut wire = kept.unwrap_or_else(|| self.clients.wire());
        let begun = Instant::now();
        wire.until = Some(begun + PATIENT);
        Going { wire, server, begun, heard: 0, last: None, question: None, resumed: false, closes: false }
    }

    fn request(&self, mix: &Mix, server: usize) -> Vec<u8> {
        let mut fields = format!("traceparent: {}\r\n", trace(&mix.value));
        let tool = self.clients.tool(mix, server);
        let mut tag = "";
        if mix.modern {
            fields += &format!("mcp-protocol-version: {MODERN}\r\nmcp-method: tools/call\r\nmcp-name: {tool}\r\n");
        } else if let Some(session) = &self.session {
            fields += &session.fields();
            tag = &session.tag;
        }
        let body = message(mix, &tool, tag);
        let head = self.clients.head(self.who, server, "POST", &fields);
        format!("{head}content-length: {}\r\n\r\n{body}", body.len()).into_bytes()
    }

    fn claim(&mut self, mix: &Mix, going: &Going, due: Due, end: End) {
        let (subject, agent, _) = CALLERS[self.who];
        self.known.claims.push(Claim {
            value: mix.value.clone(),
            subject: subject.into(),
            agent: Some(agent.into()),
            task: None,
            server: SERVERS[going.server].into(),
            tool: mix.tool().into(),
            policy: None,
            due,
            end,
            took: going.begun.elapsed(),
            within: PATIENT,
        });
    }
}

impl Session {
    fn fields(&self) -> String {
        session_fields(&self.id, self.revision)
    }
}

/// Where a server's calls go.
fn path(merged: bool, server: &str) -> String {
    if merged { "/mcp".to_owned() } else { format!("/s/{server}/mcp") }
}

fn session_fields(id: &str, revision: &str) -> String {
    // The header came with the second of them.
    if revision.is_empty() || revision == REVISIONS[0] {
        return format!("mcp-session-id: {id}\r\n");
    }
    format!("mcp-session-id: {id}\r\nmcp-protocol-version: {revision}\r\n")
}

fn trace(value: &str) -> String {
    format!("00-{value}-00f067aa0ba902b7-01")
}

/// The call as a message; `tag` is empty outside of sessions.
fn message(mix: &Mix, tool: &str, tag: &str) -> String {
    let mut meta = json!({ "progressToken": ID, "traceparent": trace(&mix.value) });
    if mix.modern {
        meta["io.modelcontextprotocol/protocolVersion"] = json!(MODERN);
        meta["io.modelcontextprotocol/clientCapabilities"] = json!({});
    }
    let arguments = json!({ "value": mix.value, "tag": tag });
    let params = json!({ "name": tool, "arguments": arguments, "_meta": meta });
    json!({ "jsonrpc": "2.0", "id": mix.id(), "method": "tools/call", "params": params }).to_string()
}

/// Every text by which a message can say whose it is.
fn text_of(message: &Value) -> Option<&str> {
    let places = ["/params/message", "/params/messages/0/content/text", "/params/reason"];
    places.iter().find_map(|place| message.pointer(place)?.as_str())
}

/// The messages of an answer to a batch.
fn answers(answer: &Answer) -> Result<Vec<Value>, End> {
    if answer.status != 200 {
        return Err(End::Rejected(answer.status));
    }
    let garbled = |fault: serde_json::Error| End::Garbled(fault.to_string());
    if !answer.events {
        return serde_json::from_slice(&answer.body).map_err(garbled);
    }
    events(&answer.body).into_iter().collect::<Result<Vec<Value>, _>>().map_err(garbled)
}

/// How a call ended, by its answer.
fn meaning(mix: &Mix, status: u16, message: &Value) -> End {
    let code = message["error"]["code"].as_i64().unwrap_or_default();
    let text = message["result"]["content"][0]["text"].as_str();
    let id = &message["id"];
    if !(*id == mix.id() || id.is_null() && status >= 400) {
        return End::Foreign(message.to_string());
    }
    match (status, text, message["error"]["data"]["reason"].as_str()) {
        (200, Some(text), _) => match text.strip_prefix("v:") {
            Some(value) => End::Echo(value.to_owned()),
            None => End::Refused,
        },
        (200, None, Some("cancelled")) if mix.deed == Deed::Cancel => End::TakenBack,
        (200, None, Some(reason)) if code == -32_603 => End::Fault(reason.to_owned()),
        (200, None, _) if code == -32_602 => End::Refused,
        (status @ 400..600, None, _) if code != 0 => End::Rejected(status),
        _ => End::Garbled(format!("{status} {message}")),
    }
}

const STACK_BYTES: usize = 256 * 1024;
/// On a machine that has a thousand others to see to.
const PATIENT: Duration = Duration::from_secs(60);
/// So often a stream may end before its answer.
const RESUMES_MAX: usize = 16;
