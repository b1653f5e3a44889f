//! How a world begins, what each event does, and how it ends.

use portcullis::session::ledger::SessionKey;

use super::event::{ConnNo, Event, Reply};
use super::world::{SERVERS, World};

impl World {
    /// Everybody wakes.
    pub(super) fn begin(&mut self) {
        for client in 0..self.clients.len() {
            let ms = self.draw.number() % 50;
            self.after(ms, Event::Client(client));
        }
        (0..SERVERS).for_each(|server| self.after(10, Event::Server(server)));
        self.after(0, Event::Tick { life: 0 });
        self.plan_restart();
    }

    fn plan_restart(&mut self) {
        let most = if self.bad_disk { 15_000 } else { 60_000 };
        let ms = 1_000 + self.draw.number() % most;
        let killed = self.draw.chance(60);
        self.after(ms, Event::Restart { killed });
    }

    /// One event.
    pub(super) fn happen(&mut self, event: Event) {
        let now_life = self.gateway.life;
        match event {
            Event::Client(which) => self.client(which),
            Event::AnswerAsk { listener, minted, token } => {
                self.give_answer(self.listeners[listener].session, minted, token);
            }
            Event::Return { listener } => self.come_back(listener),
            Event::Break(conn) => self.break_conn(conn),
            Event::Request(conn) => self.request(conn),
            Event::Gone(conn) => self.gone(conn),
            Event::Reply(conn, reply) => self.receive(conn, reply),
            Event::EndKept { conn, mark } => self.end_kept(conn, mark),
            Event::Way(task, input) => self.way(task, input),
            Event::Handshake { task, server, life } => self.handshake(task, server, life),
            Event::Shaken { task, server, opened, declined } => self.shaken(task, server, opened, declined),
            Event::Message { up, server, what } => self.message_at_server(up, server, what),
            Event::Delete { server, id } => self.deleted(server, &id),
            Event::Timeout(task) => self.stop(task, Reply::Fault),
            Event::CancelCut(task) => self.stop(task, Reply::Cancelled),
            Event::Flow { server, flow } => self.flow(server, flow),
            Event::Server(server) => self.server(server),
            Event::Word(up, word) => self.arrived(up, word),
            Event::Tap { shard, outlet, conn, life } if life == now_life => self.tap(shard, outlet, conn),
            Event::Feed { shard, outlet, server, life } if life == now_life => self.feed(shard, outlet, server),
            Event::Tick { life } if life == now_life => self.tick(),
            Event::Journal { life } if life == now_life => self.journal(),
            Event::Written { life } if life == now_life => self.gateway.store.written(&self.gateway.ledger),
            Event::Restart { killed } => self.restart(killed),
            Event::Tap { .. }
            | Event::Feed { .. }
            | Event::Tick { .. }
            | Event::Journal { .. }
            | Event::Written { .. } => {}
        }
    }

    /// Something leaves for a client.
    pub(super) fn reply(&mut self, number: ConnNo, reply: Reply) {
        let ms = self.latency();
        let now = self.now.mono;
        let Some(conn) = self.conns.get_mut(&number) else { return };
        conn.arrives = conn.arrives.max(now.plus_ms(ms));
        let at = conn.arrives;
        self.at(at, Event::Reply(number, reply));
    }

    fn end_kept(&mut self, conn: ConnNo, mark: u64) {
        if self.conns.get(&conn).is_none_or(|conn| conn.life != self.gateway.life) {
            return;
        }
        if self.gateway.ledger.is_kept(mark) {
            return self.reply(conn, Reply::Ended);
        }
        self.after(10, Event::EndKept { conn, mark });
    }

    fn tick(&mut self) {
        self.look_after();
        let reads = self.gateway.shards.iter().flat_map(|it| it.outlets.values()).any(|out| !out.taps.is_empty());
        let ms = if reads { 1_000 } else { 5_000 };
        let ms = if self.healed { self.quiet_ms } else { ms };
        let life = self.gateway.life;
        self.after(ms, Event::Tick { life });
    }

    /// The ledger has changed: its journal is taken soon.
    pub(super) fn journal_soon(&mut self) {
        if !std::mem::replace(&mut self.gateway.store.due, true) {
            let life = self.gateway.life;
            self.after(20, Event::Journal { life });
        }
    }

    fn journal(&mut self) {
        let life = self.gateway.life;
        let anew = self.draw.below(20) == 0;
        if !self.gateway.store.take(&self.gateway.ledger, anew) {
            return self.after(20, Event::Journal { life });
        }
        self.seen.compacted += u64::from(anew);
        // A disk that hangs holds up everything behind it.
        let ms = if self.fault(if self.bad_disk { 300 } else { 30 }) {
            self.draw.number() % 40_000
        } else {
            self.draw.number() % 15
        };
        self.after(ms, Event::Written { life });
    }

    /// The gateway dies, or stops when everything is written, and starts again.
    fn restart(&mut self, killed: bool) {
        if self.healed {
            return;
        }
        self.plan_restart();
        if killed {
            self.seen.killed += 1;
            self.seen.journal_lost += u64::from(self.gateway.store.crash(&mut self.draw));
        } else {
            self.gateway.store.flush(&self.gateway.ledger);
            self.seen.restarted += 1;
        }
        let kept = self.gateway.store.kept;
        self.oracle.killed(kept);
        // What had just ended by itself was to be told to its servers by the next sweep, which does not come.
        let (ledger, oracle, now_s) = (&self.gateway.ledger, &self.oracle, self.now.unix_s());
        let lives = |nonce| {
            let owner = oracle.owner(&nonce).expect("servers open sessions for clients");
            ledger.touch(&SessionKey { owner, nonce }, now_s)
        };
        self.servers.iter_mut().for_each(|server| server.gateway_killed(kept, lives));
        self.seen.journal_torn += u64::from(self.gateway.restart(self.now));
        let conns: Vec<ConnNo> = self.conns.keys().copied().collect();
        conns.into_iter().for_each(|conn| self.break_conn(conn));
        let life = self.gateway.life;
        self.after(0, Event::Tick { life });
    }

    /// Nothing goes wrong any more. Who reads a stream that nothing befell must get all of it.
    pub(super) fn heal(&mut self) {
        self.healed = true;
        self.heal_servers();
        self.run_for(200_000);
        for session in 0..self.sessions.len() {
            let listens = |it: &super::client::Listener| {
                it.session == session && it.call.is_none() && it.conn.is_some() && !it.done
            };
            if !self.sessions[session].over
                && self.listeners.iter().any(listens)
                && self.oracle.home_is_whole(self.sessions[session].nonce)
            {
                self.seen.homes_whole += 1;
            }
        }
    }

    /// Everybody goes: some say so, some do not. In the end nothing is left.
    pub(super) fn settle(&mut self) {
        for session in 0..self.sessions.len() {
            if !self.sessions[session].over && self.draw.chance(50) {
                let which = self.sessions[session].client;
                self.clients[which].token_until_s = u64::MAX / 2;
                self.end(which, session);
            }
        }
        self.run_for(60_000);
        let conns: Vec<ConnNo> = self.conns.keys().copied().collect();
        self.listeners.iter_mut().for_each(|it| it.done = true);
        conns.into_iter().for_each(|conn| self.break_conn(conn));
        self.quiet_ms = 120_000;
        self.run_for((self.gateway.lifetime_s() + 900) * 1_000);
        let left = |name: &str, count: usize| assert_eq!(count, 0, "{name} are left at the end");
        left("messages", self.gateway.tasks.len());
        left("answers", self.gateway.ups.len());
        left("questions", self.gateway.asks.len());
        left("sessions", self.gateway.ledger.len());
        left("connections", self.conns.len());
        for shard in &self.gateway.shards {
            left("streams", shard.outlets.len() + shard.homes.len());
            left("sessions of a shard", shard.views.len());
            left("calls", shard.calls.len());
        }
        for server in &self.servers {
            assert_eq!(server.left(), Vec::<String>::new(), "sessions of a server are left at the end");
        }
    }

    fn run_for(&mut self, ms: u64) {
        let until = self.now.mono.plus_ms(ms);
        while self.next(Some(until)) {}
        self.pass(until);
    }
}
