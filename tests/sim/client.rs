//! Clients: what they do, what they see, and what they know.

use portcullis::identity::caller::Owner;

use crate::support::chaos::Draw;

use super::event::{ConnNo, Event, Reply, Token};
use super::oracle::Nonce;
use super::world::{SERVERS, World};

pub(super) struct Client {
    pub(super) owner: Owner,
    pub(super) token_until_s: u64,
    /// Indices into the world's sessions.
    pub(super) sessions: Vec<usize>,
}

/// A session as its client knows it.
pub(super) struct Session {
    pub(super) client: usize,
    pub(super) id: String,
    pub(super) nonce: Nonce,
    /// The client was told that it is over.
    pub(super) over: bool,
    next_id: u64,
    /// Calls without an answer, with their ids and servers.
    running: Vec<(Token, u64, usize)>,
    /// Questions it was shown.
    asked: Vec<(u64, Token)>,
    answered: Vec<u64>,
}

/// A stream of events as its client knows it.
pub(super) struct Listener {
    pub(super) session: usize,
    /// The call that it answers; `None` for a session's own.
    pub(super) call: Option<Token>,
    pub(super) conn: Option<ConnNo>,
    /// The id of the last event it got.
    pub(super) last: Option<Vec<u8>>,
    unread: Vec<u8>,
    /// The notifications it got, in order.
    got: Vec<Token>,
    resuming: bool,
    pub(super) done: bool,
}

/// A connection with one request, and then its answer.
pub(super) struct Conn {
    pub(super) client: usize,
    pub(super) session: Option<usize>,
    pub(super) shard: usize,
    pub(super) life: u32,
    /// The client is there.
    pub(super) open: bool,
    pub(super) request: Request,
    pub(super) listener: Option<usize>,
    /// Nothing overtakes on a connection.
    pub(super) arrives: portcullis::base::time::Moment,
}

#[derive(Clone, Debug)]
pub(super) enum Request {
    Begin,
    Call { session: String, server: usize, token: Token, id: u64 },
    Level { session: String, server: usize, level: u8 },
    Answer { session: String, minted: u64, token: Token },
    Cancel { session: String, server: usize, id: u64 },
    Get { session: String, after: Option<Vec<u8>> },
    Delete { session: String },
}

impl Request {
    pub(super) fn session(&self) -> Option<&str> {
        match self {
            Self::Begin => None,
            Self::Call { session, .. }
            | Self::Level { session, .. }
            | Self::Answer { session, .. }
            | Self::Cancel { session, .. }
            | Self::Get { session, .. }
            | Self::Delete { session } => Some(session),
        }
    }
}

impl Client {
    pub(super) fn new(which: usize, draw: &mut Draw) -> Self {
        let mut owner = [0; 16];
        owner[..8].copy_from_slice(&draw.number().to_le_bytes());
        owner[8] = u8::try_from(which).expect("few clients");
        Self { owner: Owner(owner), token_until_s: 0, sessions: Vec::new() }
    }
}

impl World {
    /// A client does something, and will again.
    pub(super) fn client(&mut self, which: usize) {
        if self.healed {
            return;
        }
        let pause = match self.draw.below(100) {
            0..=69 => self.draw.number() % 120,
            70..=95 => self.draw.number() % 3_000,
            _ => self.draw.number() % 400_000,
        };
        self.after(pause, Event::Client(which));
        if self.clients[which].token_until_s <= self.now_s() && self.draw.chance(70) {
            self.clients[which].token_until_s = self.now_s() + 60 + self.draw.number() % 900;
        }
        let live: Vec<usize> =
            self.clients[which].sessions.iter().copied().filter(|it| !self.sessions[*it].over).collect();
        if live.is_empty() || self.draw.below(100) < 4 {
            let request = Request::Begin;
            self.open_conn(which, None, request, None);
            return;
        }
        let session = self.draw.one_of(&live);
        match self.draw.below(100) {
            0..=54 => self.call(which, session),
            55..=66 => self.listen(which, session, None),
            67..=70 => self.end(which, session),
            71..=77 => self.cancel(which, session),
            78..=87 => self.cut_one(which),
            88..=91 => self.set_level(which, session),
            92..=95 => self.answer_again(which, session),
            96..=97 if self.draw.chance(50) => self.ask_again(which),
            96..=97 => self.try_foreign(which),
            _ => self.try_ended(which),
        }
    }

    fn call(&mut self, which: usize, session: usize) {
        let token = self.fresh();
        let server = self.draw.below(SERVERS);
        let it = &mut self.sessions[session];
        // Each session counts for itself, so ids meet those of others.
        let (nonce, id, text) = (it.nonce, it.next_id, it.id.clone());
        it.next_id += 1;
        it.running.push((token, id, server));
        self.oracle.calls(token, nonce);
        let listener = self.listeners.len();
        self.listeners.push(Listener::new(session, Some(token)));
        let request = Request::Call { session: text, server, token, id };
        let conn = self.open_conn(which, Some(session), request, Some(listener));
        self.listeners[listener].conn = Some(conn);
    }

    /// Opens the session's own stream; goes on with the last one where that can be named.
    fn listen(&mut self, which: usize, session: usize, listener: Option<usize>) {
        let listener = listener.unwrap_or_else(|| {
            self.listeners.push(Listener::new(session, None));
            self.listeners.len() - 1
        });
        let after = self.listeners[listener].last.clone();
        let request = Request::Get { session: self.sessions[session].id.clone(), after: after.clone() };
        let conn = self.open_conn(which, Some(session), request, Some(listener));
        let it = &mut self.listeners[listener];
        (it.conn, it.resuming, it.unread) = (Some(conn), after.is_some(), Vec::new());
    }

    pub(super) fn end(&mut self, which: usize, session: usize) {
        let request = Request::Delete { session: self.sessions[session].id.clone() };
        self.open_conn(which, Some(session), request, None);
    }

    fn cancel(&mut self, which: usize, session: usize) {
        let it = &self.sessions[session];
        let (text, next) = (it.id.clone(), it.next_id);
        let running = it.running.clone();
        if next == 0 {
            return;
        }
        let (id, server) = match running.is_empty() {
            true => (self.draw.number() % next, self.draw.below(SERVERS)),
            false => {
                let (token, id, server) = self.draw.one_of(&running);
                if let Some(call) = self.oracle.calls.get_mut(&token) {
                    (call.cancel_asked, call.tainted) = (true, true);
                }
                (id, server)
            }
        };
        self.open_conn(which, Some(session), Request::Cancel { session: text, server, id }, None);
    }

    fn set_level(&mut self, which: usize, session: usize) {
        let level = u8::try_from(self.draw.below(8)).expect("few levels");
        let server = self.draw.below(SERVERS);
        let request = Request::Level { session: self.sessions[session].id.clone(), server, level };
        self.open_conn(which, Some(session), request, None);
    }

    /// The network between a client and the gateway breaks, or the client walks away.
    fn cut_one(&mut self, which: usize) {
        let open: Vec<ConnNo> =
            self.conns.iter().filter(|(_, conn)| conn.client == which && conn.open).map(|(it, _)| *it).collect();
        if !open.is_empty() {
            let conn = self.draw.one_of(&open);
            self.break_conn(conn);
        }
    }

    /// An answer that was given already, or one to somebody else's question.
    fn answer_again(&mut self, which: usize, session: usize) {
        let others: Vec<(u64, Token)> = self.sessions.iter().flat_map(|it| it.asked.clone()).collect();
        if others.is_empty() {
            return;
        }
        let (minted, token) = self.draw.one_of(&others);
        let mine = self.sessions[session].asked.contains(&(minted, token));
        if mine && !self.sessions[session].answered.contains(&minted) {
            return self.give_answer(session, minted, token);
        }
        // Somebody else's carries a value that must never arrive.
        let token = if mine { token } else { FOREIGN };
        let request = Request::Answer { session: self.sessions[session].id.clone(), minted, token };
        self.open_conn(which, Some(session), request, None);
    }

    fn try_foreign(&mut self, which: usize) {
        let others: Vec<usize> = (0..self.sessions.len()).filter(|it| self.sessions[*it].client != which).collect();
        if others.is_empty() {
            return;
        }
        let session = self.sessions[self.draw.one_of(&others)].id.clone();
        let request =
            if self.draw.chance(50) { Request::Get { session, after: None } } else { Request::Delete { session } };
        self.open_conn(which, None, request, None);
    }

    /// A stream of which its client has everything, or should not have any more.
    fn ask_again(&mut self, which: usize) {
        let over = |it: &usize| {
            let it = &self.listeners[*it];
            let session = &self.sessions[it.session];
            it.done && it.conn.is_none() && it.call.is_some() && it.last.is_some() && session.client == which
        };
        let listeners: Vec<usize> = (0..self.listeners.len()).filter(over).collect();
        if !listeners.is_empty() {
            let listener = self.draw.one_of(&listeners);
            self.listen(which, self.listeners[listener].session, Some(listener));
        }
    }

    /// A session that its client knows to be over.
    fn try_ended(&mut self, which: usize) {
        let mine = self.clients[which].sessions.iter().copied();
        let over: Vec<usize> = mine.filter(|it| self.sessions[*it].over).collect();
        if !over.is_empty() {
            let session = self.draw.one_of(&over);
            self.call(which, session);
        }
    }

    /// A client answers what it was asked.
    pub(super) fn give_answer(&mut self, session: usize, minted: u64, token: Token) {
        let it = &mut self.sessions[session];
        it.answered.push(minted);
        let (which, text) = (it.client, it.id.clone());
        self.open_conn(which, Some(session), Request::Answer { session: text, minted, token }, None);
    }

    fn open_conn(
        &mut self,
        client: usize,
        session: Option<usize>,
        request: Request,
        listener: Option<usize>,
    ) -> ConnNo {
        let number = self.fresh();
        let shard = self.draw.below(self.gateway.shards.len());
        let (life, arrives) = (self.gateway.life, self.now.mono);
        self.conns.insert(number, Conn { client, session, shard, life, open: true, request, listener, arrives });
        let ms = self.latency();
        if self.fault(20) {
            // It breaks before the gateway has read it.
            self.after(ms, Event::Break(number));
        } else {
            self.after(ms, Event::Request(number));
        }
        number
    }

    /// A connection ends under both its ends; the gateway notices later.
    pub(super) fn break_conn(&mut self, number: ConnNo) {
        let Some(conn) = self.conns.get_mut(&number).filter(|conn| conn.open) else { return };
        conn.open = false;
        let (listener, session) = (conn.listener, conn.session);
        // One that vanished is written to for a while.
        let ms = 1 + if self.fault(250) { self.draw.number() % 30_000 } else { self.latency() };
        self.after(ms, Event::Gone(number));
        let Some(listener) = listener else { return };
        let it = &mut self.listeners[listener];
        it.conn = None;
        if it.done {
            return;
        }
        if it.last.is_none() {
            // Nothing to come back with: what was on the way is lost.
            if it.call.is_none() {
                let nonce = self.sessions[session.expect("a stream has a session")].nonce;
                self.oracle.unclean(nonce);
            }
            it.done = true;
            return;
        }
        let ms = match self.draw.below(10) {
            0..=7 => self.draw.number() % 5_000,
            _ => self.draw.number() % 150_000,
        };
        self.after(ms, Event::Return { listener });
    }

    /// A client comes back to a stream.
    pub(super) fn come_back(&mut self, listener: usize) {
        let it = &self.listeners[listener];
        let session = it.session;
        if it.done || it.conn.is_some() {
            return;
        }
        if self.sessions[session].over {
            self.oracle.unclean(self.sessions[session].nonce);
            self.listeners[listener].done = true;
            return;
        }
        self.listen(self.sessions[session].client, session, Some(listener));
    }

    /// Something arrives at a client.
    pub(super) fn receive(&mut self, number: ConnNo, reply: Reply) {
        let Some(conn) = self.conns.get(&number).filter(|conn| conn.open) else { return };
        let (client, session, listener) = (conn.client, conn.session, conn.listener);
        match reply {
            Reply::Stream => return,
            Reply::Events(bytes) => {
                let listener = listener.expect("only who listens gets events");
                self.listeners[listener].unread.extend_from_slice(&bytes);
                return self.read_events(listener);
            }
            _ => {}
        }
        self.conns.get_mut(&number).expect("it is there").open = false;
        let ms = self.latency();
        self.after(ms, Event::Gone(number));
        let again = matches!(reply, Reply::End | Reply::TokenExpired);
        match reply {
            Reply::Session(id) => self.has_session(client, id),
            Reply::Answer(token) => {
                let call = listener.and_then(|it| self.listeners[it].call).expect("only a call is answered");
                self.oracle.answered(token, call);
                self.seen.answered_json += 1;
            }
            Reply::Ended => {
                let session = session.expect("only a session ends");
                self.oracle.end_answered(&self.sessions[session].nonce, self.gateway.store.kept);
                self.seen.gone += 1;
                self.sessions[session].over = true;
            }
            Reply::Unknown => {
                if let Some(session) = session {
                    self.sessions[session].over = true;
                }
            }
            Reply::Cancelled => {
                let call = listener.and_then(|it| self.listeners[it].call).expect("only a call is cancelled");
                self.oracle.cancelled(call);
                self.seen.cancelled += 1;
            }
            Reply::TokenExpired => self.clients[client].token_until_s = self.now_s() + 300,
            _ => {}
        }
        self.conn_over(session, listener, again);
    }

    /// A connection has ended in an orderly way.
    fn conn_over(&mut self, session: Option<usize>, listener: Option<usize>, again: bool) {
        let Some(listener) = listener else { return };
        let it = &mut self.listeners[listener];
        it.conn = None;
        if it.done {
            return;
        }
        if again && (it.last.is_some() || it.call.is_none()) {
            let ms = self.draw.number() % 3_000;
            return self.after(ms, Event::Return { listener });
        }
        it.done = true;
        let (call, nonce) = (it.call, session.map(|it| self.sessions[it].nonce));
        match (call, session) {
            (Some(token), Some(session)) => self.sessions[session].running.retain(|(it, _, _)| *it != token),
            _ => nonce.into_iter().for_each(|nonce| self.oracle.unclean(nonce)),
        }
    }

    fn has_session(&mut self, client: usize, id: String) {
        let nonce = self.nonce_of(&id).expect("the gateway's own id opens");
        self.clients[client].sessions.push(self.sessions.len());
        self.sessions.push(Session {
            client,
            id,
            nonce,
            over: false,
            next_id: 0,
            running: Vec::new(),
            asked: Vec::new(),
            answered: Vec::new(),
        });
    }

    /// Reads what has come on a stream, event by event.
    fn read_events(&mut self, listener: usize) {
        loop {
            let it = &mut self.listeners[listener];
            let Some(end) = it.unread.windows(2).position(|two| two == b"\n\n") else { return };
            let event: Vec<u8> = it.unread.drain(..end + 2).collect();
            let event = String::from_utf8(event).expect("events are text");
            let field = |name: &str| event.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "));
            if let Some(id) = field("id") {
                it.last = Some(id.as_bytes().to_vec());
            }
            let data = field("data").unwrap_or_default().to_owned();
            if data.is_empty() {
                continue;
            }
            self.seen.resumed_with_events += u64::from(std::mem::take(&mut it.resuming));
            self.happened(listener, &data);
        }
    }

    fn happened(&mut self, listener: usize, data: &str) {
        let session = self.listeners[listener].session;
        let (nonce, call) = (self.sessions[session].nonce, self.listeners[listener].call);
        let (kind, rest) = data.split_at(1);
        let mut numbers = rest.split(',').map(|number| number.parse::<u64>().expect("events carry numbers"));
        let first = numbers.next().unwrap_or_default();
        match kind {
            "n" => {
                self.oracle.noted(first, nonce);
                self.listeners[listener].got.push(first);
                self.seen.noted += 1;
            }
            "q" => {
                let token = numbers.next().expect("a question has two");
                self.oracle.shown(token, nonce);
                self.seen.shown += 1;
                self.sessions[session].asked.push((first, token));
                let ms = if self.draw.chance(85) { self.draw.number() % 4_000 } else { self.draw.number() % 150_000 };
                self.after(ms, Event::AnswerAsk { listener, minted: first, token });
            }
            "a" => {
                let call = call.expect("only a call's stream has an answer");
                self.oracle.answered(first, call);
                self.seen.answered_event += 1;
                if self.oracle.stream_ended(call, &self.listeners[listener].got) {
                    self.seen.streams_whole += 1;
                }
                self.listeners[listener].done = true;
                self.sessions[session].running.retain(|(it, _, _)| *it != call);
            }
            "c" => {
                self.oracle.cancelled(call.expect("only a call is cancelled"));
                self.seen.cancelled += 1;
                self.listeners[listener].done = true;
            }
            "e" => self.listeners[listener].done = true,
            "w" => {}
            _ => panic!("no such event: {data}"),
        }
    }
}

impl Listener {
    fn new(session: usize, call: Option<Token>) -> Self {
        Self {
            session,
            call,
            conn: None,
            last: None,
            unread: Vec::new(),
            got: Vec::new(),
            resuming: false,
            done: false,
        }
    }
}

/// In an answer to what another session was asked.
pub(super) const FOREIGN: Token = 0;
