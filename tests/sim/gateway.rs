//! The gateway: shards, what they share, and what is written down. It drives the real machines as `gateway` does, with
//! the network between two steps.

use std::collections::{BTreeMap, VecDeque};

use portcullis::base::ids::ShardId;
use portcullis::base::time::{Moment, Now};
use portcullis::identity::caller::Owner;
use portcullis::ledger::Ledger;
use portcullis::ledger::asks::{Ask, Asks};
use portcullis::mcp::revision::Revision;
use portcullis::session::ledger::{Bounds, Claim, Opened, SessionKey, Terms, Upstream, Visit};
use portcullis::session::outlet::{Outlet, TapKey};
use portcullis::session::owner::{SealingKey, SessionFault, SessionSeal, endpoint_hash, open, seal};
use portcullis::session::way::{Claimed, Do, In, Reach, Visited, Way, WayFault};

use crate::support::chaos::Draw;

use super::client::Request;
use super::event::{ConnNo, Event, Message, OutletNo, Reply, TaskNo, Token, UpNo, Word};
use super::oracle::Nonce;
use super::store::Store;
use super::world::World;

pub(super) struct Gateway {
    /// How often it was started.
    pub(super) life: u32,
    pub(super) ledger: Ledger,
    pub(super) asks: Asks,
    pub(super) shards: Vec<Shard>,
    pub(super) tasks: BTreeMap<TaskNo, Task>,
    pub(super) ups: BTreeMap<UpNo, Up>,
    pub(super) store: Store,
    key: [SealingKey; 1],
    bounds: Bounds,
}

/// One shard.
#[derive(Default)]
pub(super) struct Shard {
    /// Sessions that ended elsewhere.
    mail: Vec<Nonce>,
    pub(super) views: BTreeMap<Nonce, View>,
    pub(super) outlets: BTreeMap<OutletNo, Out>,
    pub(super) homes: BTreeMap<Nonce, OutletNo>,
    /// Calls under way, by session and the client's id.
    pub(super) calls: BTreeMap<(Nonce, u64), TaskNo>,
    pub(super) next_stream: u64,
    pub(super) next_minted: u64,
}

/// A session as a shard knows it.
pub(super) struct View {
    upstreams: Vec<Upstream>,
    /// When the ledger last heard that it is in use; by the clock that nobody sets.
    touched: Moment,
}

/// What a message needs on its way.
pub(super) struct Task {
    pub(super) shard: usize,
    pub(super) session: Known,
    pub(super) server: usize,
    pub(super) conn: Option<ConnNo>,
    pub(super) work: Work,
    pub(super) up: Option<UpNo>,
    way: Option<Way>,
    upstream: Option<Upstream>,
    lead: u32,
    waited: bool,
    /// Its session had ended before it came.
    doomed: bool,
    /// It is to be given up instead of being sent: a session that it opens meanwhile is for others.
    pub(super) stop: Option<Reply>,
}

/// A session whose id was opened.
#[derive(Clone, Copy, Debug)]
pub(super) struct Known {
    pub(super) key: SessionKey,
    pub(super) terms: Terms,
    pub(super) home: usize,
}

#[derive(Clone, Debug)]
pub(super) enum Work {
    Begin,
    Call {
        token: Token,
        id: u64,
    },
    Level {
        level: u8,
    },
    Answer {
        ask: Ask,
        token: Token,
    },
    Cancel {
        id: u64,
    },
    /// A session's own stream at a server.
    Feed {
        outlet: OutletNo,
    },
    /// A call's stream that its server left to be fetched.
    Poll {
        outlet: OutletNo,
        token: Token,
    },
}

/// An answer of a server that is still coming.
pub(super) struct Up {
    pub(super) task: TaskNo,
    /// Nothing overtakes on a connection.
    pub(super) arrives: Moment,
    /// Where its events go.
    pub(super) outlet: Option<OutletNo>,
    /// What the kernel holds while nobody reads.
    pub(super) held: VecDeque<Word>,
    pub(super) last: Option<(u64, u64)>,
    pub(super) answered: bool,
}

/// A stream's log, and who reads and feeds it.
pub(super) struct Out {
    pub(super) outlet: Outlet,
    pub(super) session: Known,
    pub(super) taps: BTreeMap<ConnNo, Reader>,
    /// The call it answers; `None` for a session's own.
    pub(super) call: Option<Token>,
    pub(super) server: usize,
    pub(super) epoch: u32,
    /// Of a session's own: who feeds it, and the last event of each server.
    pub(super) feeders: Vec<Feeder>,
    pub(super) streams: Vec<u64>,
}

pub(super) struct Reader {
    pub(super) tap: TapKey,
    /// It is about to be written to.
    pub(super) due: bool,
    /// A later one has a greater number.
    pub(super) came: u64,
}

#[derive(Clone, Default)]
pub(super) struct Feeder {
    pub(super) task: Option<TaskNo>,
    pub(super) last: Option<(u64, u64)>,
    pub(super) off: bool,
}

impl Gateway {
    pub(super) fn new(draw: &mut Draw, now: Now) -> Self {
        let idle_s = draw.one_of(&[300, 1_800, 7_200]);
        let bounds = Bounds {
            sessions_max: draw.within(2..12),
            per_owner_max: draw.within(1..5),
            idle_s,
            lifetime_s: idle_s * draw.one_of(&[1, 3, 8]),
        };
        let shards = draw.within(1..5);
        Self {
            life: 0,
            ledger: Ledger::new(bounds),
            asks: Asks::new(),
            shards: (0..shards).map(|which| Shard::new(which, now)).collect(),
            tasks: BTreeMap::new(),
            ups: BTreeMap::new(),
            store: Store::new(),
            key: [SealingKey::derive(&[7; 32])],
            bounds,
        }
    }

    pub(super) fn lifetime_s(&self) -> u64 {
        self.bounds.lifetime_s
    }

    /// Everything that a process has is gone; what is on the disk is read. Whether that was torn.
    pub(super) fn restart(&mut self, now: Now) -> bool {
        self.life += 1;
        self.shards = (0..self.shards.len()).map(|which| Shard::new(which, now)).collect();
        (self.tasks, self.ups) = (BTreeMap::new(), BTreeMap::new());
        self.asks = Asks::new();
        self.ledger = Ledger::new(self.bounds);
        self.store.restore(&self.ledger)
    }

    pub(super) fn outlet(&mut self, shard: usize, outlet: OutletNo) -> Option<&mut Out> {
        self.shards[shard].outlets.get_mut(&outlet)
    }
}

impl Shard {
    fn new(which: usize, now: Now) -> Self {
        let next_minted = (which as u64) << 44 | (now.unix_ms & ((1 << 44) - 1));
        Self { next_stream: now.unix_ms, next_minted, ..Self::default() }
    }
}

impl World {
    /// A request is read by the shard that its connection is at.
    pub(super) fn request(&mut self, number: ConnNo) {
        let Some(conn) = self.conns.get(&number).filter(|conn| conn.life == self.gateway.life) else { return };
        let (shard, request, owner) = (conn.shard, conn.request.clone(), self.clients[conn.client].owner);
        if self.clients[conn.client].token_until_s + TOKEN_LEEWAY_S <= self.now_s() {
            self.seen.token_expired += 1;
            return self.reply(number, Reply::TokenExpired);
        }
        if let Request::Begin = request {
            let begun = self.begins(shard, number, owner);
            return self.shake(begun);
        }
        let was_over = request.session().and_then(|id| self.nonce_of(id)).is_some_and(|it| self.oracle.is_over(&it));
        let opened = request.session().map(|id| self.open_session(shard, id, owner));
        let known = match opened {
            Some(Ok(known)) => known,
            Some(Err(fault)) => return self.unopened(number, fault),
            None => return self.reply(number, Reply::Refused),
        };
        assert!(!was_over, "an ended session is open to its owner");
        match request {
            Request::Begin => {}
            Request::Delete { .. } => self.end_session(number, known),
            Request::Get { after, .. } => self.get(number, shard, known, after),
            Request::Answer { minted, token, .. } => self.answer_of_client(number, shard, known, minted, token),
            Request::Call { server, token, id, .. } => {
                if self.gateway.shards[shard].calls.contains_key(&(known.key.nonce, id)) {
                    return self.reply(number, Reply::Refused);
                }
                self.oracle.permit(token, owner);
                let task = self.message(shard, known, server, Some(number), Work::Call { token, id }, Reach::Newest);
                if self.gateway.tasks.contains_key(&task) {
                    self.gateway.shards[shard].calls.insert((known.key.nonce, id), task);
                }
            }
            Request::Level { server, level, .. } => {
                self.message(shard, known, server, Some(number), Work::Level { level }, Reach::Newest);
            }
            Request::Cancel { server, id, .. } => {
                self.message(shard, known, server, Some(number), Work::Cancel { id }, Reach::Newest);
                self.cancel_everywhere(known.key.nonce, id);
            }
        }
    }

    /// The session of an id, for its owner; asks the ledger when it is new to the shard, or was long unused.
    fn open_session(&mut self, shard: usize, id: &str, owner: Owner) -> Result<Known, SessionFault> {
        let session = open(&self.gateway.key, id.as_bytes())?.owned_by(&owner, endpoint_hash("/mcp"))?;
        let known = known(&session);
        self.read_mail(shard);
        let now_s = self.now_s();
        if let Some(view) = self.gateway.shards[shard].views.get_mut(&known.key.nonce) {
            if self.now.mono.since(view.touched).as_secs() < self.gateway.bounds.touch_s() {
                return Ok(known);
            }
            view.touched = self.now.mono;
            if self.gateway.ledger.touch(&known.key, now_s) {
                self.journal_soon();
                return Ok(known);
            }
            self.gateway.shards[shard].views.remove(&known.key.nonce);
            return Err(SessionFault::Ended);
        }
        let visit = self.gateway.ledger.visit(&known.key, known.terms, now_s);
        self.journal_soon();
        let upstreams = match visit {
            Visit::Known(it) => {
                let level = self.oracle.levels.get(&known.key.nonce);
                assert!(level.is_none_or(|level| it.level == Some(*level)), "a session has forgotten its level");
                it.upstreams.into_vec()
            }
            Visit::Lost => {
                self.seen.lost += 1;
                Vec::new()
            }
            Visit::Ended => return Err(SessionFault::Ended),
            Visit::Full => return Err(SessionFault::NoRoom),
        };
        self.gateway.shards[shard].views.insert(known.key.nonce, View { upstreams, touched: self.now.mono });
        Ok(known)
    }

    fn unopened(&mut self, conn: ConnNo, fault: SessionFault) {
        let count = match fault {
            SessionFault::Foreign => &mut self.seen.foreign_refused,
            SessionFault::NoRoom => &mut self.seen.lost_full,
            _ => &mut self.seen.ended_refused,
        };
        *count += 1;
        self.reply(conn, if fault == SessionFault::NoRoom { Reply::Refused } else { Reply::Unknown });
    }

    /// A message of a session, on its way to a server.
    pub(super) fn message(
        &mut self,
        shard: usize,
        session: Known,
        server: usize,
        conn: Option<ConnNo>,
        work: Work,
        reach: Reach,
    ) -> TaskNo {
        let view = self.gateway.shards[shard].views.get(&session.key.nonce);
        let seen = view.map(|view| view.at(server).map_or(0, |upstream| upstream.epoch));
        let upstream = view.and_then(|view| view.at(server)).cloned();
        let (way, first) = Way::new(seen, reach, self.now.mono.plus_ms(WAIT_MS_MAX));
        let doomed = self.oracle.is_over(&session.key.nonce);
        let task = Task { way: Some(way), upstream, doomed, ..Task::new(shard, session, server, conn, work) };
        let number = self.fresh();
        self.gateway.tasks.insert(number, task);
        self.proceed(number, first);
        number
    }

    /// A message's way goes on.
    pub(super) fn way(&mut self, number: TaskNo, input: In) {
        let now = self.now.mono;
        let Some(task) = self.gateway.tasks.get_mut(&number) else { return };
        let Some(way) = &mut task.way else { return };
        let next = way.step(input, now);
        self.proceed(number, next);
    }

    fn proceed(&mut self, number: TaskNo, next: Do) {
        match next {
            Do::Visit => self.visit(number),
            Do::Claim { stale } => self.claim(number, stale),
            Do::Open => self.shake(number),
            Do::Wait => {
                if let Some(task) = self.gateway.tasks.get_mut(&number) {
                    task.waited = true;
                    self.seen.waited += 1;
                    self.after(portcullis::base::limits::WAY_WAIT_MS, Event::Way(number, In::Time));
                }
            }
            Do::Send { epoch } => self.send(number, epoch),
            Do::Deliver => {}
            Do::Refuse(fault) => self.refuse(number, fault),
        }
    }

    /// What was asked of the ledger is known to the task a moment later: others are at it meanwhile.
    fn soon(&mut self, number: TaskNo, input: In) {
        let ms = if self.draw.chance(70) { 0 } else { self.draw.number() % 12 };
        self.after(ms, Event::Way(number, input));
    }

    fn visit(&mut self, number: TaskNo) {
        let Some(task) = self.gateway.tasks.get_mut(&number) else { return };
        let (shard, session, server) = (task.shard, task.session, task.server);
        let visit = self.gateway.ledger.visit(&session.key, session.terms, self.now.unix_s());
        let input = match visit {
            Visit::Known(known) => {
                let view = View { upstreams: known.upstreams.into_vec(), touched: self.now.mono };
                task.upstream = view.at(server).cloned();
                let epoch = task.upstream.as_ref().map_or(0, |upstream| upstream.epoch);
                self.gateway.shards[shard].views.insert(session.key.nonce, view);
                Visited::Known { epoch }
            }
            Visit::Lost => {
                self.seen.lost += 1;
                let view = View { upstreams: Vec::new(), touched: self.now.mono };
                self.gateway.shards[shard].views.insert(session.key.nonce, view);
                Visited::Lost
            }
            Visit::Ended => Visited::Ended,
            Visit::Full => Visited::Full,
        };
        self.journal_soon();
        self.soon(number, In::Visited(input));
    }

    fn claim(&mut self, number: TaskNo, stale: u32) {
        let Some(task) = self.gateway.tasks.get_mut(&number) else { return };
        let claim = self.gateway.ledger.claim(&task.session.key, digest(task.server), stale, self.now);
        let input = match claim {
            Claim::Open(upstream) => {
                let epoch = upstream.epoch;
                if std::mem::take(&mut task.waited) {
                    self.seen.waited_for += 1;
                }
                task.upstream = Some(upstream.clone());
                let (shard, nonce) = (task.shard, task.session.key.nonce);
                self.learn(shard, nonce, upstream);
                Claimed::Open { epoch }
            }
            Claim::Lead { epoch } => {
                task.lead = epoch;
                self.oracle.leads(task.session.key.nonce, task.server, epoch, self.now.mono);
                Claimed::Lead
            }
            Claim::Wait => Claimed::Wait,
            Claim::Ended => Claimed::Ended,
        };
        self.journal_soon();
        self.soon(number, In::Claimed(input));
    }

    fn learn(&mut self, shard: usize, nonce: Nonce, upstream: Upstream) {
        if let Some(view) = self.gateway.shards[shard].views.get_mut(&nonce) {
            let newer = view.upstreams.iter().any(|it| it.server == upstream.server && it.epoch > upstream.epoch);
            if !newer {
                view.upstreams.retain(|known| known.server != upstream.server);
                view.upstreams.push(upstream);
            }
        }
    }

    /// A handshake leaves for the task's server.
    fn shake(&mut self, number: TaskNo) {
        let Some(task) = self.gateway.tasks.get(&number) else { return };
        let (server, life) = (task.server, self.gateway.life);
        let ms = self.latency();
        if self.fault(20) {
            return self.after(ms, Event::Shaken { task: number, server, opened: None, declined: false });
        }
        self.after(ms, Event::Handshake { task: number, server, life });
    }

    /// What came of a handshake.
    pub(super) fn shaken(&mut self, number: TaskNo, server: usize, opened: Option<Box<[u8]>>, declined: bool) {
        let Some(task) = self.gateway.tasks.get(&number) else {
            // Who wanted it died.
            return self.orphan(server, opened.as_deref());
        };
        let (key, lead, shard) = (task.session.key, task.lead, task.shard);
        if matches!(task.work, Work::Begin) {
            return self.begun(number, opened);
        }
        self.oracle.led(key.nonce, server, lead);
        let Some(id) = opened else {
            self.gateway.ledger.not_opened(&key, digest(server), lead);
            return self.way(number, if declined { In::Declined } else { In::Unreachable });
        };
        let upstream = Upstream {
            server: digest(server),
            instance: 0,
            epoch: lead,
            revision: Revision::R2025_06_18,
            id: id.clone(),
        };
        let kept = self.gateway.ledger.opened(&key, upstream.clone());
        self.journal_soon();
        let input = match kept {
            Opened::Kept => {
                let count = if self.oracle.was_used(key.nonce, server) {
                    &mut self.seen.reopened
                } else {
                    &mut self.seen.opened_late
                };
                *count += 1;
                self.servers[server].kept(&id, self.gateway.store.mark());
                self.learn(shard, key.nonce, upstream.clone());
                if let Some(task) = self.gateway.tasks.get_mut(&number) {
                    task.upstream = Some(upstream);
                }
                In::Opened { epoch: lead }
            }
            Opened::Overtaken => {
                self.seen.overtaken += 1;
                self.delete(server, id);
                In::Overtaken
            }
            Opened::Ended => {
                self.seen.ended_meanwhile += 1;
                self.delete(server, id);
                In::Ended
            }
        };
        self.way(number, input);
    }

    /// A client wants a session.
    fn begins(&mut self, shard: usize, conn: ConnNo, owner: Owner) -> TaskNo {
        let mut nonce = [0; 16];
        nonce[..8].copy_from_slice(&self.draw.number().to_le_bytes());
        nonce[8..].copy_from_slice(&self.draw.number().to_le_bytes());
        let terms = Terms {
            endpoint: endpoint_hash("/mcp"),
            revision: Revision::R2025_06_18,
            capabilities: 0,
            issued_s: self.now_s(),
        };
        let session = Known { key: SessionKey { owner, nonce }, terms, home: shard };
        self.oracle.began(nonce, owner);
        let number = self.fresh();
        self.gateway.tasks.insert(number, Task::new(shard, session, 0, Some(conn), Work::Begin));
        number
    }

    /// The server has answered `initialize`, or has not.
    fn begun(&mut self, number: TaskNo, opened: Option<Box<[u8]>>) {
        let Some(mut task) = self.gateway.tasks.remove(&number) else { return };
        let Some(conn) = task.conn else { return };
        let Some(id) = opened else { return self.reply(conn, Reply::Fault) };
        let (key, now_s) = (task.session.key, self.now_s());
        task.session.terms.issued_s = now_s;
        let upstream =
            Upstream { server: digest(0), instance: 0, epoch: 1, revision: Revision::R2025_06_18, id: id.clone() };
        let before = self.gateway.ledger.len();
        let entered = self.gateway.ledger.enter(key, task.session.terms, b"{}", Some(upstream), now_s);
        self.journal_soon();
        if let Err(fault) = entered {
            match fault {
                portcullis::session::ledger::LedgerFault::OwnerFull => self.seen.capped += 1,
                _ => self.seen.full += 1,
            }
            self.delete(0, id);
            return self.reply(conn, Reply::Refused);
        }
        self.seen.made_room += u64::from(self.gateway.ledger.len() <= before);
        self.seen.opened += 1;
        self.servers[0].kept(&id, self.gateway.store.mark());
        let sealed = SessionSeal {
            node: 0,
            home: ShardId(u16::try_from(task.shard).expect("few shards")),
            owner: key.owner,
            endpoint_hash: task.session.terms.endpoint,
            revision: task.session.terms.revision,
            capabilities: 0,
            issued_at: now_s,
            nonce16: key.nonce,
        };
        let mut nonce = [0; 12];
        nonce[..8].copy_from_slice(&self.fresh().to_le_bytes());
        let id = seal(&self.gateway.key[0], &sealed, nonce);
        self.reply(conn, Reply::Session(id));
    }

    /// The message leaves for its server.
    fn send(&mut self, number: TaskNo, epoch: u32) {
        let life = self.gateway.life;
        let stop = self.gateway.tasks.get(&number).and_then(|task| task.stop.clone());
        if let Some(reply) = stop {
            return self.give_up(number, reply);
        }
        let up = self.fresh();
        let now = self.now.mono;
        let Some(task) = self.gateway.tasks.get_mut(&number) else { return };
        let Some(upstream) = task.upstream.clone().filter(|upstream| upstream.epoch == epoch) else {
            panic!("a session is sent to whose id is not known")
        };
        let (nonce, server) = (task.session.key.nonce, task.server);
        self.oracle.sends(life, nonce, server, epoch, &upstream.id, task.doomed);
        task.up = Some(up);
        let what = task.work.message(&upstream.id);
        let outlet = match task.work {
            Work::Feed { outlet } | Work::Poll { outlet, .. } => Some(outlet),
            _ => None,
        };
        let fresh = Up { task: number, arrives: now, outlet, held: VecDeque::new(), last: None, answered: false };
        self.gateway.ups.insert(up, fresh);
        let what = self.resumes(number, what);
        if !matches!(self.gateway.tasks[&number].work, Work::Feed { .. }) {
            self.after(TIMEOUT_MS, Event::Timeout(number));
        }
        if self.fault(15) {
            // Cut on the way: whether it was read is not known here, and it was not.
            return self.word(up, Word::Cut);
        }
        let ms = self.latency();
        self.after(ms, Event::Message { up, server, what });
    }

    /// The message did not get to its server.
    fn refuse(&mut self, number: TaskNo, fault: WayFault) {
        let Some(task) = self.gateway.tasks.get(&number) else { return };
        let count = match fault {
            WayFault::Ended => &mut self.seen.ended_refused,
            WayFault::Full => &mut self.seen.lost_full,
            WayFault::Forgotten => &mut self.seen.forgotten_twice,
            WayFault::Declined => &mut self.seen.declined,
            WayFault::Unreachable => &mut self.seen.unreachable,
            WayFault::Late => &mut self.seen.waited_out,
            WayFault::Gone => &mut self.seen.epoch_gone,
            WayFault::OutOfTurn => panic!("the driver is out of turn: {:?}", task.work),
        };
        *count += 1;
        let reply = match fault {
            WayFault::Ended | WayFault::Forgotten | WayFault::Declined => Reply::Unknown,
            WayFault::Full => Reply::Refused,
            WayFault::Unreachable | WayFault::Late => Reply::Fault,
            WayFault::Gone | WayFault::OutOfTurn => Reply::Accepted,
        };
        self.give_up(number, reply);
    }

    /// Letters of other shards, in front of everything else.
    pub(super) fn read_mail(&mut self, shard: usize) {
        for nonce in std::mem::take(&mut self.gateway.shards[shard].mail) {
            self.gateway.shards[shard].views.remove(&nonce);
            let of = |out: &Out| out.session.key.nonce == nonce;
            let outlets = &self.gateway.shards[shard].outlets;
            let ended: Vec<OutletNo> = outlets.iter().filter(|(_, out)| of(out)).map(|(number, _)| *number).collect();
            for outlet in ended {
                self.drop_outlet(shard, outlet);
            }
        }
    }

    /// A session has ended: every shard hears it, its servers do, and what they had asked is of no interest.
    pub(super) fn spread_end(&mut self, nonce: Nonce, upstreams: impl IntoIterator<Item = Upstream>) {
        self.gateway.shards.iter_mut().for_each(|shard| shard.mail.push(nonce));
        self.gateway.asks.forget(nonce);
        self.oracle.ended(nonce, self.gateway.store.mark());
        for upstream in upstreams {
            let server = (0..self.servers.len()).find(|server| digest(*server) == upstream.server);
            self.delete(server.expect("one of ours"), upstream.id);
        }
    }

    fn end_session(&mut self, conn: ConnNo, known: Known) {
        let ended = self.gateway.ledger.end(&known.key, known.terms, self.now.unix_s());
        self.spread_end(known.key.nonce, ended.upstreams);
        self.journal_soon();
        self.after(0, Event::EndKept { conn, mark: ended.mark });
    }

    /// A server's session is ended there, if the network lets it.
    pub(super) fn delete(&mut self, server: usize, id: Box<[u8]>) {
        if id.is_empty() {
            return;
        }
        if self.fault(30) {
            return self.orphan(server, Some(&id));
        }
        let ms = self.latency();
        self.after(ms, Event::Delete { server, id });
    }

    pub(super) fn nonce_of(&self, id: &str) -> Option<Nonce> {
        open(&self.gateway.key, id.as_bytes()).ok().map(|session| session.nonce16)
    }
}

impl View {
    fn at(&self, server: usize) -> Option<&Upstream> {
        self.upstreams.iter().find(|upstream| upstream.server == digest(server))
    }
}

impl Task {
    fn new(shard: usize, session: Known, server: usize, conn: Option<ConnNo>, work: Work) -> Self {
        Self {
            shard,
            session,
            server,
            conn,
            work,
            up: None,
            way: None,
            upstream: None,
            lead: 0,
            waited: false,
            doomed: false,
            stop: None,
        }
    }

    /// The epoch of the server's session it went to.
    pub(super) fn epoch(&self) -> u32 {
        self.upstream.as_ref().map_or(0, |upstream| upstream.epoch)
    }
}

impl Work {
    fn message(&self, session: &[u8]) -> Message {
        let session = session.into();
        match self {
            Self::Begin => unreachable!("a handshake goes its own way"),
            Self::Call { token, id } => Message::Call { session, token: *token, id: *id },
            Self::Level { .. } => Message::Level { session },
            Self::Answer { ask, token } => Message::Answer { session, raw: ask.id.clone(), token: *token },
            Self::Cancel { id } => Message::Cancelled { session, id: *id },
            Self::Feed { .. } | Self::Poll { .. } => Message::Get { session, after: None },
        }
    }
}

fn known(session: &SessionSeal) -> Known {
    Known {
        key: SessionKey { owner: session.owner, nonce: session.nonce16 },
        terms: Terms {
            endpoint: session.endpoint_hash,
            revision: session.revision,
            capabilities: session.capabilities,
            issued_s: session.issued_at,
        },
        home: session.home.index(),
    }
}

/// How the ledger knows a server.
pub(super) fn digest(server: usize) -> u64 {
    100 + server as u64
}

/// A message waits so long for a session that another opens.
const WAIT_MS_MAX: u64 = 20_000;
/// A call may take so long.
pub(super) const TIMEOUT_MS: u64 = 30_000;
pub(super) const TOKEN_LEEWAY_S: u64 = 30;
