//! The gateway's streams: what servers tell on the way to clients, through logs that outlive connections; and what ends
//! a message's work.

use portcullis::base::ids::ShardId;
use portcullis::ledger::asks::Ask;
use portcullis::mcp::input;
use portcullis::session::outlet::{Bounds, EventId, Outlet, Taken};
use portcullis::session::way::{In, Reach};

use super::client::FOREIGN;
use super::event::{ConnNo, Event, Happening, Message, OutletNo, Reply, TaskNo, Token, UpNo, Word};
use super::gateway::{Feeder, Known, Out, Reader, TOKEN_LEEWAY_S, Work, digest};
use super::oracle::Nonce;
use super::world::{SERVERS, World};

impl World {
    /// A stream is asked for: one that goes on, or the session's own.
    pub(super) fn get(&mut self, number: ConnNo, shard: usize, session: Known, after: Option<Vec<u8>>) {
        let after = after.and_then(|text| EventId::parse(&text));
        let there = after.map_or(session.home, |id| id.shard.index());
        if there != shard {
            // The connection moves, and the request is read again from its head.
            self.seen.handed_over += 1;
            let Some(conn) = self.conns.get_mut(&number) else { return };
            conn.shard = there % self.gateway.shards.len();
            return self.after(0, Event::Request(number));
        }
        let Some(id) = after else { return self.listen_at_home(number, shard, session) };
        let mine = |out: &Out| out.session.key.nonce == session.key.nonce && out.streams.contains(&id.stream);
        let found = self.gateway.shards[shard].outlets.iter().find(|(_, out)| mine(out)).map(|(outlet, _)| *outlet);
        let resumed = found.and_then(|outlet| {
            let out = self.gateway.outlet(shard, outlet)?;
            out.outlet.resume(id.stream, id.seq).ok().map(|resumed| (outlet, resumed))
        });
        let Some((outlet, resumed)) = resumed else {
            self.seen.replay_refused += 1;
            self.torn(number);
            return self.reply(number, Reply::StreamGone);
        };
        if resumed.spent {
            // Its client has all of it, and must not ask for ever after.
            self.seen.spent += 1;
            let now = self.now.mono;
            self.gateway.outlet(shard, outlet).into_iter().for_each(|out| out.outlet.detach(resumed.tap, now));
            return self.reply(number, Reply::StreamGone);
        }
        self.seen.resumed += 1;
        if resumed.torn {
            self.seen.torn += 1;
            self.torn(number);
        }
        let came = self.fresh();
        if let Some(out) = self.gateway.outlet(shard, outlet) {
            out.taps.insert(number, Reader { tap: resumed.tap, due: false, came });
        }
        self.reply(number, Reply::Stream);
        self.poll(shard, outlet);
        self.kick(shard, outlet);
    }

    /// Whoever listens here cannot be sure to get everything.
    fn torn(&mut self, conn: ConnNo) {
        let Some(conn) = self.conns.get(&conn) else { return };
        if let Some(call) = conn.listener.and_then(|it| self.listeners[it].call) {
            self.oracle.taint(call);
        } else if let Some(session) = conn.session {
            self.oracle.unclean(self.sessions[session].nonce);
        }
    }

    fn listen_at_home(&mut self, number: ConnNo, shard: usize, session: Known) {
        self.seen.listened += 1;
        let outlet = match self.gateway.shards[shard].homes.get(&session.key.nonce) {
            Some(outlet) => *outlet,
            None => self.new_outlet(shard, session, None, 0, 0),
        };
        self.attach(number, shard, outlet);
        for server in 0..SERVERS {
            self.feed(shard, outlet, server);
        }
    }

    fn new_outlet(&mut self, shard: usize, session: Known, call: Option<Token>, server: usize, epoch: u32) -> OutletNo {
        let number = self.fresh();
        let id = ShardId(u16::try_from(shard).expect("few shards"));
        let feeders = if call.is_none() { vec![Feeder::default(); SERVERS] } else { Vec::new() };
        let outlet = Outlet::new(id, BOUNDS, self.now.mono);
        let out = Out { outlet, session, taps: Default::default(), call, server, epoch, feeders, streams: Vec::new() };
        self.gateway.shards[shard].outlets.insert(number, out);
        if call.is_none() {
            self.gateway.shards[shard].homes.insert(session.key.nonce, number);
        }
        number
    }

    /// A new stream reads this log.
    fn attach(&mut self, number: ConnNo, shard: usize, outlet: OutletNo) {
        let came = self.fresh();
        let it = &mut self.gateway.shards[shard];
        let stream = it.next_stream;
        it.next_stream += 1;
        let Some(out) = it.outlets.get_mut(&outlet) else { return };
        let tap = out.outlet.attach(stream);
        out.streams.push(stream);
        let mut primed = Vec::new();
        out.outlet.prime(tap, 1_000, &mut primed);
        out.taps.insert(number, Reader { tap, due: false, came });
        self.reply(number, Reply::Stream);
        self.reply(number, Reply::Events(primed));
        self.kick(shard, outlet);
    }

    /// Sees to it that each server's own stream of a session is read.
    pub(super) fn feed(&mut self, shard: usize, outlet: OutletNo, server: usize) {
        self.read_mail(shard);
        let Some(out) = self.gateway.outlet(shard, outlet) else { return };
        let session = out.session;
        let Some(feeder) = out.feeders.get_mut(server).filter(|feeder| !feeder.off && feeder.task.is_none()) else {
            return;
        };
        // Its number is known before it is made: it may be over at once.
        feeder.task = Some(TaskNo::MAX);
        let task = self.message(shard, session, server, None, Work::Feed { outlet }, Reach::Newest);
        let lives = self.gateway.tasks.contains_key(&task);
        if let Some(out) = self.gateway.outlet(shard, outlet) {
            out.feeders[server].task = lives.then_some(task);
        }
    }

    /// A call's stream that its server left is fetched, when its client comes back.
    fn poll(&mut self, shard: usize, outlet: OutletNo) {
        let Some(out) = self.gateway.outlet(shard, outlet) else { return };
        let (session, server, epoch) = (out.session, out.server, out.epoch);
        let Some(token) = out.call.filter(|_| out.outlet.is_hung_up()) else { return };
        self.seen.polled += 1;
        self.message(shard, session, server, None, Work::Poll { outlet, token }, Reach::Epoch(epoch));
    }

    /// Where at the server a stream goes on.
    pub(super) fn resumes(&mut self, number: TaskNo, what: Message) -> Message {
        let Message::Get { session, .. } = what else { return what };
        let task = &self.gateway.tasks[&number];
        let (shard, server) = (task.shard, task.server);
        let after = match task.work {
            Work::Feed { outlet } => {
                let after = self.gateway.outlet(shard, outlet).and_then(|out| out.feeders[server].last);
                self.seen.fed_again += u64::from(after.is_some());
                after
            }
            Work::Poll { outlet, .. } => {
                let at = self.gateway.outlet(shard, outlet).and_then(|out| out.outlet.go_on());
                at.map(|at| read_place(&at))
            }
            _ => None,
        };
        Message::Get { session, after }
    }

    /// Something of a server's answer is on its way to the gateway.
    pub(super) fn word(&mut self, number: UpNo, word: Word) {
        let ms = self.latency();
        let now = self.now.mono;
        let Some(up) = self.gateway.ups.get_mut(&number) else { return };
        up.arrives = up.arrives.max(now.plus_ms(ms));
        let at = up.arrives;
        self.at(at, Event::Word(number, word));
    }

    /// And is there.
    pub(super) fn arrived(&mut self, number: UpNo, word: Word) {
        let Some(up) = self.gateway.ups.get(&number) else { return };
        let (task, outlet) = (up.task, up.outlet);
        let shard = self.gateway.tasks.get(&task).map_or(0, |task| task.shard);
        let room = outlet.and_then(|it| self.gateway.outlet(shard, it)).is_none_or(|out| out.outlet.room());
        if !room || !self.gateway.ups[&number].held.is_empty() {
            self.seen.held_back += 1;
            if let Some(up) = self.gateway.ups.get_mut(&number) {
                up.held.push_back(word);
            }
            return;
        }
        self.read_word(number, task, word);
    }

    fn read_word(&mut self, number: UpNo, task: TaskNo, word: Word) {
        match word {
            Word::Unknown => {
                self.gateway.ups.remove(&number);
                self.forgotten(task);
            }
            Word::NoStream => {
                self.gateway.ups.remove(&number);
                self.way(task, In::Answered);
                self.no_stream(task);
            }
            Word::Accepted => {
                self.gateway.ups.remove(&number);
                self.way(task, In::Answered);
                self.accepted(task);
            }
            Word::Json(token) => {
                self.gateway.ups.remove(&number);
                self.way(task, In::Answered);
                self.seen.answered += 1;
                self.give_up(task, Reply::Answer(token));
            }
            Word::Begin => {
                self.way(task, In::Answered);
                self.begin_stream(number, task);
            }
            Word::Event(flow, seq, what) => self.event(number, task, flow, seq, what),
            Word::End => self.stream_over(number, task, true),
            Word::Cut => {
                let begun = self.gateway.ups.get(&number).is_some_and(|up| up.answered);
                if begun {
                    return self.stream_over(number, task, false);
                }
                self.gateway.ups.remove(&number);
                self.way(task, In::Answered);
                self.give_up(task, Reply::Fault);
            }
        }
    }

    /// The server does not know the session: what was read of its old stream there is of no use.
    fn forgotten(&mut self, number: TaskNo) {
        let Some(task) = self.gateway.tasks.get_mut(&number) else { return };
        task.up = None;
        let (shard, server, nonce) = (task.shard, task.server, task.session.key.nonce);
        if let Work::Feed { outlet } = task.work {
            self.oracle.unclean(nonce);
            if let Some(out) = self.gateway.outlet(shard, outlet) {
                out.feeders[server].last = None;
            }
        }
        self.way(number, In::Forgotten);
    }

    fn accepted(&mut self, number: TaskNo) {
        let Some(task) = self.gateway.tasks.get(&number) else { return };
        let (key, work) = (task.session.key, task.work.clone());
        if let Work::Level { level } = work {
            self.gateway.ledger.set_level(&key, level);
            if !self.oracle.is_over(&key.nonce) && self.gateway.ledger.touch(&key, self.now.unix_s()) {
                self.oracle.levels.insert(key.nonce, level);
            }
            self.journal_soon();
        }
        self.give_up(number, Reply::Accepted);
    }

    fn no_stream(&mut self, number: TaskNo) {
        let Some(task) = self.gateway.tasks.get(&number) else { return };
        let (shard, server) = (task.shard, task.server);
        if let Work::Feed { outlet } = task.work
            && let Some(out) = self.gateway.outlet(shard, outlet)
        {
            out.feeders[server].off = true;
        }
        self.give_up(number, Reply::Fault);
    }

    /// A server answers with events: a call's go through a log of their own.
    fn begin_stream(&mut self, number: UpNo, task_no: TaskNo) {
        let Some(task) = self.gateway.tasks.get(&task_no) else { return };
        let (shard, session, server, epoch, conn) = (task.shard, task.session, task.server, task.epoch(), task.conn);
        let call = if let Work::Call { token, .. } = task.work { Some(token) } else { None };
        if let Some(up) = self.gateway.ups.get_mut(&number) {
            up.answered = true;
        }
        let (Some(call), Some(conn)) = (call, conn) else {
            let outlet = self.gateway.ups.get(&number).and_then(|up| up.outlet);
            if outlet.is_some_and(|outlet| self.gateway.outlet(shard, outlet).is_none()) {
                // Nobody waits for it any more.
                self.gateway.ups.remove(&number);
                self.over(task_no);
            }
            return;
        };
        let outlet = self.new_outlet(shard, session, Some(call), server, epoch);
        if let Some(up) = self.gateway.ups.get_mut(&number) {
            up.outlet = Some(outlet);
        }
        if self.oracle.is_over(&session.key.nonce) {
            // The letter may have been read before this log was there.
            self.oracle.taint(call);
        }
        if self.conns.contains_key(&conn) {
            self.attach(conn, shard, outlet);
        } else {
            self.oracle.taint(call);
        }
    }

    fn event(&mut self, number: UpNo, task_no: TaskNo, flow: u64, seq: u64, what: Happening) {
        let Some(up) = self.gateway.ups.get_mut(&number) else { return };
        up.last = Some((flow, seq));
        let Some((outlet, task)) = up.outlet.zip(self.gateway.tasks.get(&task_no)) else { return };
        let (shard, session, server, epoch) = (task.shard, task.session, task.server, task.epoch());
        let feeds = matches!(task.work, Work::Feed { .. });
        if feeds && let Some(out) = self.gateway.outlet(shard, outlet) {
            out.feeders[server].last = Some((flow, seq));
        }
        let text = match what {
            Happening::Prime => return,
            Happening::Note(token) => {
                if feeds {
                    self.oracle.home(token);
                }
                format!("n{token}")
            }
            Happening::Answer(token) => {
                self.seen.answered += 1;
                format!("a{token}")
            }
            Happening::Ask { raw, token } => {
                let Some(minted) = self.ask(shard, session, server, epoch, raw) else { return };
                format!("q{minted},{token}")
            }
            Happening::Withdrawn { raw } => {
                let raw = raw.to_string();
                let minted = self.gateway.asks.withdraw(session.key.nonce, digest(server), epoch, raw.as_bytes());
                let Some(minted) = minted else { return };
                self.seen.ask_withdrawn += 1;
                format!("w{minted}")
            }
        };
        if let Some(out) = self.gateway.outlet(shard, outlet) {
            out.outlet.push(text.as_bytes());
            if matches!(what, Happening::Answer(_)) {
                out.outlet.finish();
            }
        }
        if matches!(what, Happening::Answer(_)) {
            self.gateway.ups.remove(&number);
            self.over(task_no);
        }
        self.kick(shard, outlet);
    }

    /// A server asks: under an id that the client has not seen, and never will again.
    fn ask(&mut self, shard: usize, session: Known, server: usize, epoch: u32, raw: u64) -> Option<u64> {
        let it = &mut self.gateway.shards[shard];
        let minted = it.next_minted;
        it.next_minted += 1;
        let ask = Ask {
            server: digest(server),
            epoch,
            id: raw.to_string().into_bytes().into(),
            kind: Some(input::Ask::Roots),
            token: None,
            approval: None,
            until: self.now.mono.plus_ms(ASK_MS),
        };
        let room = self.gateway.asks.put(session.key.nonce, minted, ask);
        self.seen.ask_refused += u64::from(!room);
        room.then_some(minted)
    }

    /// A client has answered: to the one server that asked, in the session it asked in.
    pub(super) fn answer_of_client(&mut self, conn: ConnNo, shard: usize, session: Known, minted: u64, token: Token) {
        let Some(ask) = self.gateway.asks.take(session.key.nonce, minted, self.now.mono) else {
            match (token, self.oracle.was_answered(token)) {
                (FOREIGN, _) => self.seen.ask_foreign += 1,
                (_, true) => self.seen.ask_second += 1,
                _ => self.seen.ask_late += 1,
            }
            return self.reply(conn, Reply::Accepted);
        };
        self.oracle.taken(token);
        let server = (0..SERVERS).find(|server| digest(*server) == ask.server).expect("one of ours");
        let reach = Reach::Epoch(ask.epoch);
        self.message(shard, session, server, Some(conn), Work::Answer { ask, token }, reach);
    }

    /// A server's stream has ended, on purpose or not.
    fn stream_over(&mut self, number: UpNo, task_no: TaskNo, clean: bool) {
        let Some(up) = self.gateway.ups.remove(&number) else { return };
        let Some(task) = self.gateway.tasks.get(&task_no) else { return };
        let (shard, server, work) = (task.shard, task.server, task.work.clone());
        let life = self.gateway.life;
        match work {
            Work::Feed { outlet } => {
                self.over(task_no);
                self.after(RETRY_MS, Event::Feed { shard, outlet, server, life });
            }
            Work::Call { token, .. } | Work::Poll { token, .. } => {
                self.over(task_no);
                let Some(outlet) = up.outlet else { return };
                let Some(out) = self.gateway.outlet(shard, outlet) else { return };
                match up.last.filter(|_| clean) {
                    Some((flow, seq)) => {
                        out.outlet.hang_up(Some(RETRY_MS), format!("{flow}:{seq}").as_bytes());
                        self.seen.hung_up += 1;
                    }
                    None => {
                        out.outlet.push(b"e0");
                        out.outlet.finish();
                        self.oracle.taint(token);
                    }
                }
                self.kick(shard, outlet);
            }
            _ => {}
        }
    }

    /// A task has taken too long, or cannot be done: its client hears so, on whichever way is open.
    pub(super) fn give_up(&mut self, number: TaskNo, reply: Reply) {
        let Some(task) = self.gateway.tasks.get(&number) else { return };
        let (shard, conn, work) = (task.shard, task.conn, task.work.clone());
        let up = task.up.and_then(|up| self.gateway.ups.remove(&up));
        match work {
            Work::Feed { outlet } => {
                let (server, life) = (task.server, self.gateway.life);
                let fails = !matches!(reply, Reply::Unknown | Reply::Refused);
                if fails && self.gateway.outlet(shard, outlet).is_some_and(|out| !out.feeders[server].off) {
                    self.after(RETRY_MS, Event::Feed { shard, outlet, server, life });
                }
            }
            Work::Poll { outlet, token } => self.fail_stream(shard, outlet, token, b"e0"),
            Work::Call { token, .. } => match up.and_then(|up| up.outlet) {
                Some(outlet) => {
                    let text: &[u8] = if matches!(reply, Reply::Cancelled) { b"c0" } else { b"e0" };
                    self.fail_stream(shard, outlet, token, text);
                }
                None => conn.into_iter().for_each(|conn| self.reply(conn, reply.clone())),
            },
            _ => conn.into_iter().for_each(|conn| self.reply(conn, reply.clone())),
        }
        self.over(number);
    }

    fn fail_stream(&mut self, shard: usize, outlet: OutletNo, token: Token, text: &[u8]) {
        self.oracle.taint(token);
        if let Some(out) = self.gateway.outlet(shard, outlet) {
            out.outlet.push(text);
            out.outlet.finish();
        }
        self.kick(shard, outlet);
    }

    /// A task is over; what names it forgets it.
    fn over(&mut self, number: TaskNo) {
        let Some(task) = self.gateway.tasks.remove(&number) else { return };
        let it = &mut self.gateway.shards[task.shard];
        match task.work {
            Work::Call { id, .. } => {
                it.calls.remove(&(task.session.key.nonce, id));
            }
            Work::Feed { outlet } => {
                if let Some(out) = it.outlets.get_mut(&outlet) {
                    out.feeders[task.server].task = None;
                }
            }
            _ => {}
        }
    }

    /// A call has taken too long, or nobody wants it any more.
    pub(super) fn stop(&mut self, number: TaskNo, reply: Reply) {
        let Some(task) = self.gateway.tasks.get_mut(&number) else { return };
        self.seen.timed_out += u64::from(matches!(reply, Reply::Fault));
        if task.up.is_none() {
            task.stop = Some(reply);
            return;
        }
        self.give_up(number, reply);
    }

    /// A client wants a call to end: whichever shard has it gives its server a second.
    pub(super) fn cancel_everywhere(&mut self, nonce: Nonce, id: u64) {
        let calls = self.gateway.shards.iter().find_map(|shard| shard.calls.get(&(nonce, id)).copied());
        match calls {
            Some(task) => self.after(1_000, Event::CancelCut(task)),
            None => self.seen.cancelled_late += 1,
        }
    }

    /// Whoever reads this log is written to.
    pub(super) fn kick(&mut self, shard: usize, outlet: OutletNo) {
        let life = self.gateway.life;
        let Some(out) = self.gateway.outlet(shard, outlet) else { return };
        let due: Vec<ConnNo> = out.taps.iter_mut().filter(|(_, it)| !it.due).map(|(conn, _)| *conn).collect();
        out.taps.values_mut().for_each(|it| it.due = true);
        for conn in due {
            let ms = if self.draw.chance(80) { 0 } else { self.draw.number() % 400 };
            self.after(ms, Event::Tap { shard, outlet, conn, life });
        }
    }

    /// A connection is written to.
    pub(super) fn tap(&mut self, shard: usize, outlet: OutletNo, number: ConnNo) {
        let most = self.draw.one_of(&[1, 60, 4_096]);
        let Some(out) = self.gateway.outlet(shard, outlet) else { return };
        let newest = out.taps.values().map(|it| it.came).max();
        let Some(reader) = out.taps.get_mut(&number) else { return };
        reader.due = false;
        let (mut bytes, waited) = (Vec::new(), out.outlet.waits());
        let taken = out.outlet.take(reader.tap, most, &mut bytes);
        let old = Some(reader.came) != newest;
        assert!(!old || out.outlet.waits() == waited, "what is new went to an old connection");
        if !bytes.is_empty() {
            self.reply(number, Reply::Events(bytes));
        }
        match taken {
            Taken::All => {}
            Taken::More => self.kick(shard, outlet),
            Taken::End | Taken::Gone => self.end_tap(shard, outlet, number),
        }
        self.read_on(shard, outlet);
    }

    /// A connection's stream ends cleanly here.
    fn end_tap(&mut self, shard: usize, outlet: OutletNo, number: ConnNo) {
        let now = self.now.mono;
        if let Some(out) = self.gateway.outlet(shard, outlet)
            && let Some(reader) = out.taps.remove(&number)
        {
            out.outlet.detach(reader.tap, now);
        }
        self.reply(number, Reply::End);
    }

    /// There may be room for what a server had sent meanwhile.
    fn read_on(&mut self, shard: usize, outlet: OutletNo) {
        let feeding: Vec<UpNo> =
            self.gateway.ups.iter().filter(|(_, up)| up.outlet == Some(outlet)).map(|(number, _)| *number).collect();
        for number in feeding {
            while self.gateway.outlet(shard, outlet).is_none_or(|out| out.outlet.room()) {
                let Some(up) = self.gateway.ups.get_mut(&number) else { break };
                let Some(word) = up.held.pop_front() else { break };
                let task = up.task;
                self.read_word(number, task, word);
            }
        }
    }

    /// The gateway notices that a client has left.
    pub(super) fn gone(&mut self, number: ConnNo) {
        let Some(conn) = self.conns.remove(&number) else { return };
        if conn.life != self.gateway.life {
            return;
        }
        let now = self.now.mono;
        for shard in &mut self.gateway.shards {
            for out in shard.outlets.values_mut() {
                if let Some(reader) = out.taps.remove(&number) {
                    out.outlet.detach(reader.tap, now);
                }
            }
        }
    }

    /// A log nobody needs any more. What still feeds it is read to its end, or cut where it has none.
    pub(super) fn drop_outlet(&mut self, shard: usize, outlet: OutletNo) {
        let Some(mut out) = self.gateway.shards[shard].outlets.remove(&outlet) else { return };
        out.outlet.shut();
        assert_eq!(out.outlet.held(), 0, "what is shut holds nothing");
        match out.call {
            Some(token) => self.oracle.taint(token),
            None => {
                self.gateway.shards[shard].homes.remove(&out.session.key.nonce);
                self.oracle.unclean(out.session.key.nonce);
            }
        }
        for conn in out.taps.into_keys() {
            self.reply(conn, Reply::End);
        }
        let feeding: Vec<(UpNo, TaskNo)> = (self.gateway.ups.iter())
            .filter(|(_, up)| up.outlet == Some(outlet))
            .map(|(number, up)| (*number, up.task))
            .collect();
        for (number, task) in feeding {
            let feeds = self.gateway.tasks.get(&task).is_some_and(|task| matches!(task.work, Work::Feed { .. }));
            if feeds {
                self.gateway.ups.remove(&number);
                self.over(task);
            } else {
                self.read_on(shard, outlet);
            }
        }
    }

    /// Once a second, about: what is too old goes.
    pub(super) fn look_after(&mut self) {
        let (now, now_s) = (self.now.mono, self.now.unix_s());
        let parts = self.gateway.shards.len();
        for shard in 0..parts {
            self.read_mail(shard);
            let mut over = Vec::new();
            self.gateway.ledger.sweep(shard, parts, now_s, 64, |parting| over.push(parting));
            // The ledger's tables are hashed; what happens here depends on the seed alone.
            over.sort_by_key(|(key, _)| key.nonce);
            for (key, upstreams) in over {
                self.seen.idle_expired += 1;
                self.spread_end(key.nonce, upstreams);
            }
            let outlets: Vec<OutletNo> = self.gateway.shards[shard].outlets.keys().copied().collect();
            for outlet in outlets {
                self.look_after_outlet(shard, outlet);
            }
        }
        self.gateway.asks.sweep(now);
        self.journal_soon();
    }

    fn look_after_outlet(&mut self, shard: usize, outlet: OutletNo) {
        let (now, now_s) = (self.now.mono, self.now.unix_s());
        let Some(out) = self.gateway.outlet(shard, outlet) else { return };
        let (key, alone) = (out.session.key, out.outlet.alone_since());
        if alone.is_some_and(|since| now.since(since).as_millis() > RESUME_MS) {
            return self.drop_outlet(shard, outlet);
        }
        let taps: Vec<ConnNo> = out.taps.keys().copied().collect();
        if !taps.is_empty() {
            self.gateway.ledger.touch(&key, now_s);
        }
        for number in taps {
            let client = self.conns.get(&number).map(|conn| conn.client);
            let until = client.map_or(u64::MAX, |client| self.clients[client].token_until_s);
            if until + TOKEN_LEEWAY_S <= now_s {
                self.seen.stream_token_expired += 1;
                self.end_tap(shard, outlet, number);
            }
        }
    }
}

fn read_place(text: &[u8]) -> (u64, u64) {
    let text = std::str::from_utf8(text).expect("written here");
    let (flow, seq) = text.split_once(':').expect("written here");
    (flow.parse().expect("written here"), seq.parse().expect("written here"))
}

/// Small, so that logs are full now and then.
const BOUNDS: Bounds = Bounds { waiting_bytes: 400, waiting_events: 6, kept_bytes: 400, kept_events: 6 };
/// A stream that nobody reads is kept so long.
const RESUME_MS: u128 = 60_000;
const RETRY_MS: u64 = 500;
/// A client has so long to answer.
const ASK_MS: u64 = 60_000;
