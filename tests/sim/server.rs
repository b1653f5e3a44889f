//! Servers: they keep sessions or none, are slow, tell and ask, forget, and die.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use portcullis::base::limits::SESSION_ASKS_MAX;

use crate::support::chaos::Draw;

use super::event::{Event, FlowNo, Happening, Message, TaskNo, Token, UpNo, Word};
use super::oracle::Nonce;
use super::world::World;

pub(super) struct Server {
    /// Sessions that it remembers; `None` when it keeps none.
    sessions: Option<BTreeMap<Box<[u8]>, Held>>,
    flows: BTreeMap<FlowNo, Flow>,
    down: bool,
    /// It forgets a session as soon as it was opened, now and then.
    careless: bool,
}

/// A session of a server.
struct Held {
    nonce: Nonce,
    flow: FlowNo,
    next_raw: u64,
    /// What it asked and nobody has answered.
    open: BTreeSet<u64>,
    /// Nobody knows of it any more but the server, and that could not be helped.
    orphan: bool,
    /// The journal's mark at which the gateway knew of it.
    mark: u64,
}

/// A stream of events: of a call, or of a session itself.
struct Flow {
    session: Box<[u8]>,
    nonce: Option<Nonce>,
    /// The call it answers, with the client's id.
    call: Option<(Token, u64)>,
    script: VecDeque<Step>,
    /// What was told, with its places from 1.
    told: Vec<Happening>,
    /// Where it is told, and how much was.
    up: Option<(UpNo, usize)>,
    /// How much was told to anybody.
    sent: usize,
}

#[derive(Clone, Copy)]
enum Step {
    Note,
    Ask,
    HangUp,
    Answer,
}

impl Server {
    pub(super) fn new(draw: &mut Draw) -> Self {
        let sessions = draw.chance(90).then(BTreeMap::new);
        Self { sessions, flows: BTreeMap::new(), down: false, careless: draw.chance(10) }
    }

    fn lives(&self, id: &[u8]) -> bool {
        self.sessions.as_ref().is_some_and(|sessions| sessions.contains_key(id))
    }

    /// The gateway knows of this session, safely when `mark` is kept.
    pub(super) fn kept(&mut self, id: &[u8], mark: u64) {
        if let Some(held) = self.sessions.as_mut().and_then(|sessions| sessions.get_mut(id)) {
            held.mark = mark;
        }
    }

    /// The gateway was killed: sessions that it may not know of any more are nobody's.
    pub(super) fn gateway_killed(&mut self, kept: u64, lives: impl Fn(Nonce) -> bool) {
        for held in self.sessions.iter_mut().flat_map(BTreeMap::values_mut) {
            held.orphan |= held.mark > kept || !lives(held.nonce);
            held.mark = 0;
        }
    }

    /// Sessions that should have been ended, and were not.
    pub(super) fn left(&self) -> Vec<String> {
        let sessions = self.sessions.iter().flatten().filter(|(_, held)| !held.orphan);
        sessions.map(|(id, _)| String::from_utf8_lossy(id).into_owned()).collect()
    }
}

impl World {
    /// A handshake is read by a server.
    pub(super) fn handshake(&mut self, task: TaskNo, server: usize, life: u32) {
        let slow = self.fault(40);
        let ms = if slow { self.draw.number() % 16_000 } else { self.latency() };
        let Some(key) =
            self.gateway.tasks.get(&task).map(|task| task.session.key).filter(|_| !self.servers[server].down)
        else {
            return self.after(ms, Event::Shaken { task, server, opened: None, declined: false });
        };
        assert_eq!(life, self.gateway.life, "numbers are given once");
        if self.fault(10) {
            return self.after(ms, Event::Shaken { task, server, opened: None, declined: true });
        }
        let number = self.fresh();
        let flow = self.fresh();
        let id: Box<[u8]> = if self.servers[server].sessions.is_some() {
            format!("s{number}").into_bytes().into()
        } else {
            Box::default()
        };
        let it = &mut self.servers[server];
        if let Some(sessions) = &mut it.sessions {
            let held =
                Held { nonce: key.nonce, flow, next_raw: 1, open: BTreeSet::new(), orphan: false, mark: u64::MAX };
            sessions.insert(id.clone(), held);
            it.flows.insert(flow, Flow::new(&id, Some(key.nonce), None, []));
        }
        if self.fault(20) {
            // The answer is lost, and with it the only word of this session.
            self.orphan(server, Some(&id));
            return self.after(ms, Event::Shaken { task, server, opened: None, declined: false });
        }
        if self.servers[server].careless && self.fault(300) {
            self.forget(server, &id);
        }
        self.after(ms, Event::Shaken { task, server, opened: Some(id), declined: false });
    }

    /// Nobody will ever end this session.
    pub(super) fn orphan(&mut self, server: usize, id: Option<&[u8]>) {
        let held = id.and_then(|id| self.servers[server].sessions.as_mut()?.get_mut(id));
        if let Some(held) = held {
            held.orphan = true;
        }
    }

    /// A message is read by a server.
    pub(super) fn message_at_server(&mut self, up: UpNo, server: usize, what: Message) {
        if self.servers[server].down {
            return self.word(up, Word::Cut);
        }
        let id = what.session().to_vec();
        let keeps = self.servers[server].sessions.is_some();
        if keeps && !self.servers[server].lives(&id) {
            return self.word(up, Word::Unknown);
        }
        let nonce = self.servers[server].sessions.as_ref().and_then(|it| it.get(&*id)).map(|held| held.nonce);
        // What a gateway sent that has died since is no use of the one that lives.
        if let Some(nonce) = nonce.filter(|_| self.gateway.ups.contains_key(&up)) {
            let servers = &self.servers;
            self.oracle.serves(nonce, server, &id, |other| servers[server].lives(other));
        }
        match what {
            Message::Call { token, id: call, session } => self.execute(up, server, session, nonce, token, call),
            Message::Level { .. } => self.word(up, Word::Accepted),
            Message::Answer { raw, token, .. } => {
                self.oracle.ask_answered(token, server, &id, &raw);
                self.seen.ask_answered += 1;
                let raw = String::from_utf8_lossy(&raw).parse::<u64>().expect("its own");
                if let Some(held) = self.servers[server].sessions.as_mut().and_then(|it| it.get_mut(&*id)) {
                    held.open.remove(&raw);
                }
                self.word(up, Word::Accepted);
            }
            Message::Cancelled { id: call, .. } => {
                self.cancelled_at_server(server, &id, call);
                self.word(up, Word::Accepted);
            }
            Message::Get { after, .. } => self.get_at_server(up, server, &id, after),
        }
    }

    fn execute(&mut self, up: UpNo, server: usize, session: Box<[u8]>, nonce: Option<Nonce>, token: Token, id: u64) {
        self.oracle.executed(token, nonce);
        self.seen.executed += 1;
        if self.fault(15) {
            return self.word(up, Word::Cut);
        }
        let streams = self.draw.chance(50);
        let mut script: Vec<Step> = Vec::new();
        if streams {
            let steps = self.draw.below(9);
            for _ in 0..steps {
                script.push(match self.draw.below(10) {
                    0..=6 => Step::Note,
                    7..=8 if nonce.is_some() => Step::Ask,
                    9 if nonce.is_some() => Step::HangUp,
                    _ => Step::Note,
                });
            }
        }
        script.push(Step::Answer);
        let mut flow = Flow::new(&session, nonce, Some((token, id)), script);
        let number = self.fresh();
        if streams {
            self.word(up, Word::Begin);
            flow.told.push(Happening::Prime);
            self.word(up, Word::Event(number, 1, Happening::Prime));
            flow.up = Some((up, 1));
        } else {
            flow.up = Some((up, 0));
        }
        self.servers[server].flows.insert(number, flow);
        let ms = self.slowness();
        self.after(ms, Event::Flow { server, flow: number });
    }

    /// What a server takes for a step of its work, milliseconds: now and then longer than a call may take.
    fn slowness(&mut self) -> u64 {
        match self.draw.below(200) {
            0 if !self.healed => self.draw.number() % 60_000,
            1..=40 => self.draw.number() % 2_000,
            _ => self.draw.number() % 60,
        }
    }

    /// A call's work goes on.
    pub(super) fn flow(&mut self, server: usize, number: FlowNo) {
        if self.servers[server].down {
            return;
        }
        let Some(flow) = self.servers[server].flows.get_mut(&number) else { return };
        let Some(step) = flow.script.pop_front() else { return };
        let Some((token, _)) = flow.call else { return };
        let json = flow.up.is_some_and(|(_, told)| told == 0);
        match step {
            Step::Answer if json => {
                let up = flow.up.map(|(up, _)| up).expect("it is told there");
                self.servers[server].flows.remove(&number);
                return self.word(up, Word::Json(token));
            }
            Step::Answer => self.tell(server, number, Happening::Answer(token)),
            Step::HangUp => {
                if let Some((up, _)) = flow.up.take() {
                    self.word(up, Word::End);
                }
            }
            Step::Note => self.note(server, number),
            Step::Ask => self.ask_of_server(server, number),
        }
        if self.fault(6)
            && let Some(flow) = self.servers[server].flows.get_mut(&number)
            && let Some((up, _)) = flow.up.take()
        {
            self.word(up, Word::Cut);
        }
        let ms = self.slowness();
        self.after(ms, Event::Flow { server, flow: number });
    }

    fn note(&mut self, server: usize, number: FlowNo) {
        let token = self.fresh();
        let flow = &self.servers[server].flows[&number];
        let call = flow.call.map(|(call, _)| call);
        let nonce = flow.nonce.or_else(|| call.and_then(|call| self.oracle.calls.get(&call)).map(|call| call.nonce));
        let Some(nonce) = nonce else { return };
        self.oracle.notes(token, nonce);
        if let Some(call) = call.and_then(|call| self.oracle.calls.get_mut(&call)) {
            call.told.push(token);
        }
        self.tell(server, number, Happening::Note(token));
    }

    fn ask_of_server(&mut self, server: usize, number: FlowNo) {
        let token = self.fresh();
        let it = &mut self.servers[server];
        let session = it.flows[&number].session.clone();
        let Some(held) = it.sessions.as_mut().and_then(|sessions| sessions.get_mut(&session)) else { return };
        let (raw, nonce) = (held.next_raw, held.nonce);
        held.next_raw += 1;
        held.open.insert(raw);
        self.oracle.asks(token, nonce, server, &session, raw);
        self.seen.asked += 1;
        self.tell(server, number, Happening::Ask { raw, token });
    }

    /// Something happens on a stream; who reads it hears it.
    fn tell(&mut self, server: usize, number: FlowNo, what: Happening) {
        if let Some(flow) = self.servers[server].flows.get_mut(&number) {
            flow.told.push(what);
        }
        self.catch_up(server, number);
    }

    fn catch_up(&mut self, server: usize, number: FlowNo) {
        loop {
            let Some(flow) = self.servers[server].flows.get_mut(&number) else { return };
            let Some((up, told)) = &mut flow.up else { return };
            let Some(what) = flow.told.get(*told).copied() else { return };
            *told += 1;
            flow.sent = flow.sent.max(*told);
            let (up, place) = (*up, *told as u64);
            self.word(up, Word::Event(number, place, what));
            if matches!(what, Happening::Answer(_)) {
                self.word(up, Word::End);
                self.servers[server].flows.remove(&number);
            }
        }
    }

    /// The session's own stream is asked for, or one that goes on.
    fn get_at_server(&mut self, up: UpNo, server: usize, session: &[u8], after: Option<(FlowNo, u64)>) {
        let home = self.servers[server].sessions.as_ref().and_then(|it| it.get(session)).map(|held| held.flow);
        let Some(home) = home else { return self.word(up, Word::NoStream) };
        let number = after.map_or(home, |(flow, _)| flow);
        let there = self.servers[server].flows.get(&number).is_some_and(|flow| *flow.session == *session);
        if !there {
            return self.word(up, Word::NoStream);
        }
        self.word(up, Word::Begin);
        let flow = self.servers[server].flows.get_mut(&number).expect("it is there");
        let told = after.map_or(flow.sent, |(_, seq)| usize::try_from(seq).expect("few events"));
        if let Some((old, _)) = flow.up.replace((up, told)) {
            self.word(old, Word::Cut);
        }
        self.catch_up(server, number);
    }

    fn cancelled_at_server(&mut self, server: usize, session: &[u8], id: u64) {
        let flows = &self.servers[server].flows;
        let of = |flow: &Flow| *flow.session == *session && flow.call.is_some_and(|(_, call)| call == id);
        // A server without sessions cannot tell callers apart.
        let found = flows.iter().find(|(_, flow)| !session.is_empty() && of(flow)).map(|(number, _)| *number);
        if let Some(number) = found.filter(|_| self.draw.chance(50)) {
            let flow = self.servers[server].flows.remove(&number);
            if let Some((up, _)) = flow.and_then(|flow| flow.up) {
                self.word(up, Word::Cut);
            }
        }
    }

    /// The client's side wants the session to end.
    pub(super) fn deleted(&mut self, server: usize, id: &[u8]) {
        if self.servers[server].down {
            return self.orphan(server, Some(id));
        }
        self.forget(server, id);
    }

    /// A server knows nothing of this session any more.
    fn forget(&mut self, server: usize, id: &[u8]) {
        let it = &mut self.servers[server];
        let Some(held) = it.sessions.as_mut().and_then(|sessions| sessions.remove(id)) else { return };
        self.oracle.unclean(held.nonce);
        let it = &mut self.servers[server];
        if let Some((up, _)) = it.flows.remove(&held.flow).and_then(|flow| flow.up) {
            self.word(up, Word::End);
        }
        // Calls that are under way in it are finished, but nobody can come back to them.
    }

    /// A server does something by itself, and will again.
    pub(super) fn server(&mut self, server: usize) {
        if self.healed {
            return;
        }
        let ms = 1 + self.draw.number() % 150;
        self.after(ms, Event::Server(server));
        let it = &mut self.servers[server];
        if it.down {
            it.down = self.draw.below(10) > 0;
            return;
        }
        let ids: Vec<Box<[u8]>> = it.sessions.iter().flat_map(BTreeMap::keys).cloned().collect();
        match self.draw.below(100) {
            0..=1 => {
                let keeps = self.draw.chance(30);
                self.server_dies(server, keeps);
            }
            _ if ids.is_empty() => {}
            2..=5 => {
                self.seen.server_forgot += 1;
                let id = ids[self.draw.below(ids.len())].clone();
                self.forget(server, &id);
            }
            6..=45 => {
                let id = &ids[self.draw.below(ids.len())];
                let flow = self.servers[server].sessions.as_ref().map_or(0, |it| it[id].flow);
                let times = self.draw.one_of(&[1, 1, 1, 2, 5, 25]);
                match self.draw.below(100) {
                    0..=69 => (0..times).for_each(|_| self.note(server, flow)),
                    70..=98 => self.ask_of_server(server, flow),
                    _ => (0..SESSION_ASKS_MAX + 4).for_each(|_| self.ask_of_server(server, flow)),
                }
            }
            46..=50 => {
                let id = ids[self.draw.below(ids.len())].clone();
                self.withdraw(server, &id);
            }
            51..=53 => {
                // The connection of a session's own stream breaks.
                let id = &ids[self.draw.below(ids.len())];
                let flow = self.servers[server].sessions.as_ref().map_or(0, |it| it[id].flow);
                let up = self.servers[server].flows.get_mut(&flow).and_then(|flow| flow.up.take());
                up.into_iter().for_each(|(up, _)| self.word(up, Word::Cut));
            }
            _ => {}
        }
    }

    /// What was asked is of no interest any more.
    fn withdraw(&mut self, server: usize, id: &[u8]) {
        let Some(held) = self.servers[server].sessions.as_mut().and_then(|it| it.get_mut(id)) else { return };
        let Some(raw) = held.open.pop_first() else { return };
        let flow = held.flow;
        self.tell(server, flow, Happening::Withdrawn { raw });
    }

    fn server_dies(&mut self, server: usize, keeps: bool) {
        self.seen.server_restarted += 1;
        let it = &mut self.servers[server];
        it.down = true;
        let ups: Vec<UpNo> = it.flows.values_mut().filter_map(|flow| flow.up.take()).map(|(up, _)| up).collect();
        it.flows.retain(|_, flow| flow.call.is_none());
        for up in ups {
            self.word(up, Word::Cut);
        }
        let ids: Vec<Box<[u8]>> = self.servers[server].sessions.iter().flat_map(BTreeMap::keys).cloned().collect();
        if !keeps {
            ids.iter().for_each(|id| self.forget(server, id));
        }
    }

    /// Servers are up, and stay so.
    pub(super) fn heal_servers(&mut self) {
        self.servers.iter_mut().for_each(|server| server.down = false);
    }
}

impl Flow {
    fn new(
        session: &[u8],
        nonce: Option<Nonce>,
        call: Option<(Token, u64)>,
        script: impl IntoIterator<Item = Step>,
    ) -> Self {
        Self {
            session: session.into(),
            nonce,
            call,
            script: script.into_iter().collect(),
            told: Vec::new(),
            up: None,
            sent: 0,
        }
    }
}
