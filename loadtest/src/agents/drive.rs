//! The fleet at work: one thread, each agent with one connection and one request at a time. When a request is due is
//! settled by chance and pace alone; no answer, however late, moves the next one (open loop), and times count from there.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::ensure;

use crate::net::{self, Interest, Poll};
use crate::reply::Reader;
use crate::traffic::Era;

use super::credentials::Tokens;
use super::draw::Draw;
use super::options::Plan;
use super::progress::Progress;
use super::request::{self, Answer, Mark, Speaker};
use super::stream::{Heard, Stream};
use super::tally::{Gauges, Tally};
use super::wire::{Endpoint, Wire};

/// Nobody sleeps longer, so that timeouts and the wish to stop are seen.
const TICK: Duration = Duration::from_millis(50);
/// Chance may draw none at all.
const PAUSE_MIN: Duration = Duration::from_micros(1);
/// Whoever wants to stop does not want to wait.
const FAREWELL_CUT: Duration = Duration::from_secs(2);
const READ_BYTES: usize = 32 << 10;
/// The report's curves have so many points at most.
const BINS_MAX: u32 = 600;

/// Works as planned; ends early where `stop` says so.
pub(super) fn drive(
    plan: &Plan,
    endpoint: &Endpoint,
    tokens: &Tokens,
    progress: &mut Progress,
    stop: &AtomicBool,
) -> anyhow::Result<Outcome> {
    net::sharpen_timers();
    let mut fleet = Drive::new(plan, endpoint, tokens)?;
    fleet.run(progress, stop)?;
    Ok(Outcome { tally: fleet.tally, start: fleet.start, cut: fleet.cut })
}

/// What came of it.
pub(super) struct Outcome {
    pub(super) tally: Tally,
    pub(super) start: Instant,
    /// Ended from outside.
    pub(super) cut: bool,
}

struct Drive<'a> {
    plan: &'a Plan,
    endpoint: &'a Endpoint,
    tokens: &'a Tokens,
    poll: Poll,
    agents: Vec<Agent>,
    /// Agents without a request under way, by when their next one is due.
    due: BinaryHeap<Reverse<(Instant, usize)>>,
    /// The operations each era draws from, up to which sum of weights.
    draws: [Vec<(u64, usize)>; 2],
    /// The tally's numbers of the mix, and of the other requests.
    labels: Vec<usize>,
    others: Others,
    tally: Tally,
    draw: Draw,
    next_id: u64,
    start: Instant,
    opens: Instant,
    closes: Instant,
    draining: bool,
    cut: bool,
}

struct Others {
    /// By era.
    open: [usize; 2],
    initialized: usize,
    close: usize,
    stream: [usize; 2],
}

struct Agent {
    era: Era,
    wants_stream: bool,
    identity: usize,
    wire: Option<Wire>,
    /// What the poll was told of it.
    writing: bool,
    reader: Reader,
    stream: Option<Stream>,
    session: Option<String>,
    open: bool,
    /// Requests left of this session or piece of work.
    left: u32,
    flight: Option<Flight>,
    next: Instant,
    idle_since: Instant,
}

#[derive(Clone, Copy)]
struct Flight {
    step: Step,
    mark: Mark,
    due: Instant,
    sent: Instant,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Step {
    /// `initialize`, or `server/discover`.
    Open,
    Initialized,
    /// One of the mix.
    Ask(usize),
    Close,
}

impl<'a> Drive<'a> {
    fn new(plan: &'a Plan, endpoint: &'a Endpoint, tokens: &'a Tokens) -> anyhow::Result<Self> {
        let span = plan.warmup + plan.window;
        let mut tally = Tally::new(Duration::from_secs(1).max(span / BINS_MAX));
        let labels = plan.mix.iter().map(|operation| tally.label(&operation.label)).collect();
        let others = Others {
            open: [tally.label("server/discover"), tally.label("initialize")],
            initialized: tally.follower("notifications/initialized"),
            close: tally.follower("DELETE session"),
            stream: [tally.follower("subscriptions/listen"), tally.follower("GET stream")],
        };
        let start = Instant::now();
        let mut fleet = Self {
            plan,
            endpoint,
            tokens,
            poll: Poll::new()?,
            agents: Vec::new(),
            due: BinaryHeap::new(),
            draws: [Era::Modern, Era::Legacy].map(|era| draws(plan, era)),
            labels,
            others,
            tally,
            draw: Draw::new(plan.seed),
            next_id: 1,
            start,
            opens: start + plan.warmup,
            closes: start + span,
            draining: false,
            cut: false,
        };
        for number in 0..plan.agents {
            let agent = Agent::new(plan, number, start);
            let draws = &fleet.draws[era_index(agent.era)];
            ensure!(!draws.is_empty(), "the mix has nothing for agents that speak {:?}", agent.era);
            fleet.due.push(Reverse((agent.next, fleet.agents.len())));
            fleet.agents.push(agent);
        }
        Ok(fleet)
    }

    fn run(&mut self, progress: &mut Progress, stop: &AtomicBool) -> anyhow::Result<()> {
        let (mut keys, mut piece) = (Vec::new(), vec![0; READ_BYTES]);
        let mut look = self.start;
        loop {
            let now = Instant::now();
            if now >= look {
                look = now + TICK;
                self.look(now, progress, stop);
            }
            self.dispatch(now);
            if now >= self.closes && !self.draining {
                self.drain(now);
            }
            if self.draining && (now > self.closes + self.farewell() || self.is_done()) {
                self.settle(now);
                return Ok(());
            }
            self.poll.wait(self.patience(now, look), &mut keys)?;
            for key in &keys {
                // Each agent has two connections.
                let agent = key / 2;
                if key % 2 == 0 { self.serve(agent, &mut piece) } else { self.hear(agent, &mut piece) }
            }
        }
    }

    /// Whether all that was due has had its answer.
    fn is_done(&self) -> bool {
        let waits = self.due.peek().is_some_and(|Reverse((due, _))| *due < self.closes);
        !waits && self.agents.iter().all(|agent| agent.flight.is_none())
    }

    /// What needs to be seen now and then, not at once.
    fn look(&mut self, now: Instant, progress: &mut Progress, stop: &AtomicBool) {
        if !self.cut && stop.load(Ordering::Relaxed) {
            self.cut = true;
            self.closes = self.closes.min(now);
        }
        for key in 0..self.agents.len() {
            self.time_out(key, now);
        }
        let gauges = self.gauges();
        self.tally.roll(now - self.start, gauges);
        let moment = now - self.start;
        if progress.is_due(moment) {
            let bin = self.tally.recent(gauges);
            progress.show(moment, self.plan, &bin, &self.tokens.refreshed());
        }
    }

    fn gauges(&self) -> Gauges {
        let count = |which: &dyn Fn(&&Agent) -> bool| {
            u32::try_from(self.agents.iter().filter(which).count()).unwrap_or(u32::MAX)
        };
        Gauges {
            in_flight: count(&|agent| agent.flight.is_some()),
            sessions: count(&|agent| agent.open && agent.session.is_some()),
            streams: count(&|agent| agent.stream.as_ref().is_some_and(Stream::is_open)),
        }
    }

    /// How long answers are waited for after the end.
    fn farewell(&self) -> Duration {
        if self.cut { self.plan.timeout.min(FAREWELL_CUT) } else { self.plan.timeout }
    }

    fn patience(&self, now: Instant, look: Instant) -> Duration {
        let until = match self.due.peek() {
            Some(Reverse((due, _))) if *due < self.closes => look.min(*due),
            _ if !self.draining => look.min(self.closes),
            _ => look,
        };
        until.saturating_duration_since(now)
    }

    /// Begins what is due, of agents that are free.
    fn dispatch(&mut self, now: Instant) {
        while let Some(Reverse((due, key))) = self.due.peek().copied() {
            if due > now || due >= self.closes {
                return;
            }
            self.due.pop();
            if self.agents[key].idle_since <= due && self.measured(due) {
                let late = u64::try_from((Instant::now() - due).as_nanos()).unwrap_or(u64::MAX);
                self.tally.lag.saturating_record(late);
            }
            self.begin(key, due);
        }
    }

    fn begin(&mut self, key: usize, due: Instant) {
        let pause = self.pause();
        let agent = &mut self.agents[key];
        agent.next = due + pause;
        if agent.open {
            let era = era_index(agent.era);
            let draws = &self.draws[era];
            let most = draws.last().map_or(1, |(sum, _)| *sum);
            let ball = self.draw.below(most);
            let chosen = draws.iter().find(|(sum, _)| ball < *sum).map_or(0, |(_, at)| *at);
            let again = agent.wants_stream && agent.stream.is_none() && !self.tally.without_streams[era];
            if again {
                self.listen(key);
            }
            self.ask(key, Step::Ask(chosen), due);
        } else {
            // A new agent, for all the other side knows.
            agent.forget();
            self.ask(key, Step::Open, due);
        }
    }

    fn ask(&mut self, key: usize, step: Step, due: Instant) {
        let mark = self.mark();
        let agent = &mut self.agents[key];
        agent.flight = Some(Flight { step, mark, due, sent: Instant::now() });
        agent.reader.clear();
        if agent.wire.is_none() {
            let opened = Wire::open(self.endpoint, key);
            let opened =
                opened.and_then(|wire| self.poll.add(&wire.socket, 2 * key, Interest::ReadWrite).map(|()| wire));
            match opened {
                Ok(wire) => agent.wire = Some(wire),
                Err(error) => return self.fail(key, &error.to_string(), false),
            }
            agent.writing = true;
        }
        let token = self.tokens.get(agent.identity);
        let speaker = Speaker {
            endpoint: self.endpoint,
            era: agent.era,
            token: token.as_deref(),
            session: agent.session.as_deref(),
        };
        let Some(wire) = &mut agent.wire else { return };
        let out = wire.output();
        match step {
            Step::Open => request::open(speaker, mark, out),
            Step::Initialized => request::initialized(speaker, out),
            Step::Ask(at) => self.plan.mix[at].write(speaker, mark, out),
            Step::Close => request::close(speaker, out),
        }
        self.serve(key, &mut [0; 512]);
    }

    fn mark(&mut self) -> Mark {
        self.next_id += 1;
        Mark { id: self.next_id, value: self.draw.number() }
    }

    /// Something happens on an agent's connection.
    fn serve(&mut self, key: usize, piece: &mut [u8]) {
        let agent = &mut self.agents[key];
        let Some(wire) = &mut agent.wire else { return };
        let ended = match wire.advance(piece, agent.reader.input()) {
            Ok(ended) => ended,
            Err(error) => return self.fail(key, &error.to_string(), false),
        };
        if agent.flight.is_none() {
            // To close while nothing is under way is the other side's right; to speak is not.
            let unasked = !agent.reader.input().is_empty();
            if ended || unasked {
                agent.wire = None;
                agent.reader.clear();
            }
            return;
        }
        let waits = wire.waits();
        if waits != agent.writing {
            agent.writing = waits;
            let interest = if waits { Interest::ReadWrite } else { Interest::Read };
            if let Err(error) = self.poll.modify(&wire.socket, 2 * key, interest) {
                return self.fail(key, &error.to_string(), false);
            }
        }
        match agent.reader.advance() {
            Ok(true) => self.finish(key, ended),
            Ok(false) if ended => self.fail(key, "the connection ended before the answer did", false),
            Ok(false) => {}
            Err(fault) => self.fail(key, &fault.to_string(), false),
        }
    }

    /// An answer is whole.
    fn finish(&mut self, key: usize, ended: bool) {
        let done = Instant::now();
        let agent = &mut self.agents[key];
        let Some(flight) = agent.flight.take() else { return };
        let reader = std::mem::take(&mut agent.reader);
        if ended || reader.closes() {
            agent.wire = None;
        }
        let answer = Answer { status: reader.status(), kind: reader.kind(), body: reader.body() };
        let verdict = match flight.step {
            Step::Open => request::opened(flight.mark, answer),
            Step::Ask(at) => self.plan.mix[at].judge(flight.mark, answer),
            Step::Initialized | Step::Close if (200..300).contains(&answer.status) => Ok(()),
            // A server may not let clients end sessions.
            Step::Close if matches!(answer.status, 404 | 405) => Ok(()),
            Step::Initialized | Step::Close => Err(format!("status {}", answer.status)),
        };
        let label = self.label(key, flight.step);
        let measured = self.measured(flight.due);
        match &verdict {
            Ok(()) => {
                self.tally.right(label, done - flight.due, done - flight.sent, measured);
                if self.measured(done) {
                    self.tally.arrived(label);
                }
            }
            Err(words) => self.tally.wrong(label, words, None, measured),
        }
        if answer.status == 401 {
            self.tokens.refused(self.agents[key].identity);
        }
        let lost = answer.status == 404 && self.agents[key].session.is_some();
        if flight.step == Step::Open && verdict.is_ok() {
            self.agents[key].session = reader.session().map(str::to_owned);
        }
        let mut reader = reader;
        reader.clear();
        self.agents[key].reader = reader;
        self.go_on(key, flight.step, verdict.is_ok(), lost, done);
    }

    /// What an agent does after an answer.
    fn go_on(&mut self, key: usize, step: Step, right: bool, lost: bool, now: Instant) {
        let agent = &mut self.agents[key];
        match step {
            Step::Open if right && agent.era == Era::Legacy => return self.ask(key, Step::Initialized, now),
            Step::Open | Step::Initialized => {
                agent.open = right;
                agent.left = self.plan.calls;
                if right && agent.wants_stream && !self.tally.without_streams[era_index(agent.era)] {
                    self.listen(key);
                }
            }
            Step::Ask(_) => {
                agent.left = agent.left.saturating_sub(1);
                // The session is not known any more.
                agent.open &= !lost;
            }
            Step::Close => agent.forget(),
        }
        self.rest(key, now);
    }

    /// Nothing is under way: waits for what is due next, or ends its session.
    fn rest(&mut self, key: usize, now: Instant) {
        let agent = &mut self.agents[key];
        let over = agent.left == 0 || (self.draining && agent.next >= self.closes);
        if agent.open && over {
            if agent.session.is_some() {
                agent.open = false;
                return self.ask(key, Step::Close, now);
            }
            agent.forget();
        }
        agent.idle_since = now;
        self.due.push(Reverse((agent.next, key)));
    }

    /// A request that had no whole answer.
    fn fail(&mut self, key: usize, words: &str, late: bool) {
        let now = Instant::now();
        let agent = &mut self.agents[key];
        agent.wire = None;
        agent.reader.clear();
        let Some(flight) = agent.flight.take() else { return };
        if let Step::Ask(_) = flight.step {
            agent.left = agent.left.saturating_sub(1);
        } else {
            agent.forget();
        }
        let label = self.label(key, flight.step);
        let waited = late.then(|| now - flight.due);
        self.tally.wrong(label, words, waited, self.measured(flight.due));
        // Where nobody listens, nobody can be told that a session ends.
        let agent = &mut self.agents[key];
        if agent.left == 0 || (self.draining && agent.next >= self.closes) {
            agent.forget();
        }
        self.rest(key, now);
    }

    fn time_out(&mut self, key: usize, now: Instant) {
        let patience = self.plan.timeout;
        if self.agents[key].flight.is_some_and(|flight| now.saturating_duration_since(flight.sent) > patience) {
            self.fail(key, &format!("no answer within {} ms", patience.as_millis()), true);
        }
        let agent = &mut self.agents[key];
        if agent.stream.as_ref().is_some_and(|stream| stream.is_late(now, patience)) {
            agent.stream = None;
            let label = self.others.stream[era_index(agent.era)];
            self.tally.wrong(label, &format!("no answer within {} ms", patience.as_millis()), None, self.measured(now));
        }
    }

    /// Opens an agent's event stream.
    fn listen(&mut self, key: usize) {
        let mark = self.mark();
        let agent = &self.agents[key];
        let token = self.tokens.get(agent.identity);
        let speaker = Speaker {
            endpoint: self.endpoint,
            era: agent.era,
            token: token.as_deref(),
            session: agent.session.as_deref(),
        };
        let stream = Stream::open(self.endpoint, key, |out| request::stream(speaker, mark, out));
        let stream =
            stream.and_then(|stream| self.poll.add(stream.socket(), 2 * key + 1, Interest::ReadWrite).map(|()| stream));
        match stream {
            Ok(stream) => self.agents[key].stream = Some(stream),
            Err(error) => {
                let label = self.others.stream[era_index(agent.era)];
                self.tally.wrong(label, &error.to_string(), None, self.measured(Instant::now()));
            }
        }
    }

    /// Something happens on an agent's stream.
    fn hear(&mut self, key: usize, piece: &mut [u8]) {
        let now = Instant::now();
        let measured = self.measured(now);
        let agent = &mut self.agents[key];
        let (era, Some(stream)) = (era_index(agent.era), &mut agent.stream) else { return };
        let label = self.others.stream[era];
        let writing = stream.waits();
        let heard = stream.advance(piece);
        if writing && !stream.waits() && self.poll.modify(stream.socket(), 2 * key + 1, Interest::Read).is_err() {
            agent.stream = None;
            return;
        }
        match heard {
            Heard::Nothing => {}
            Heard::Events(count) => self.tally.stream_events += count,
            Heard::Opened(took, count) => {
                self.tally.right(label, took, took, measured);
                self.tally.stream_events += count;
            }
            Heard::Ended => {
                agent.stream = None;
                self.tally.streams_ended += 1;
            }
            Heard::Refused(status) => {
                agent.stream = None;
                if matches!(status, 405 | 501) || (status == 404 && agent.era == Era::Modern) {
                    self.tally.without_streams[era] = true;
                } else {
                    // Where it is the session that is not known, the agent opens another one.
                    agent.open &= status != 404;
                    self.tally.wrong(label, &format!("status {status}, or no event stream"), None, measured);
                }
            }
            Heard::Failed(words) => {
                agent.stream = None;
                self.tally.wrong(label, &words, None, measured);
            }
        }
    }

    /// The end of the window: who has nothing left to do ends its session. What was due and still waits for its agent
    /// goes on.
    fn drain(&mut self, now: Instant) {
        self.draining = true;
        self.tally.roll(now - self.start, self.gauges());
        self.tally.window = self.closes.saturating_duration_since(self.opens);
        for key in 0..self.agents.len() {
            if self.agents[key].flight.is_none() {
                self.rest(key, now);
            }
        }
    }

    /// The very end: what has no answer yet, and what could not even be sent.
    fn settle(&mut self, now: Instant) {
        // What it would have been is not settled; most of the mix stands for it.
        let likely = self.plan.mix.iter().zip(&self.labels).max_by_key(|(operation, _)| operation.weight);
        let likely = likely.map_or(0, |(_, label)| *label);
        for key in 0..self.agents.len() {
            if let Some(flight) = self.agents[key].flight.take() {
                let (label, waited) = (self.label(key, flight.step), now.saturating_duration_since(flight.due));
                let measured = self.measured(flight.due);
                self.tally.wrong(label, "no answer before the end", Some(waited), measured);
            }
            let mut next = self.agents[key].next;
            while next < self.closes {
                if self.measured(next) {
                    self.tally.unsent(likely, now.saturating_duration_since(next));
                }
                next += self.pause();
            }
        }
    }

    fn pause(&mut self) -> Duration {
        if self.plan.steady { self.plan.think } else { self.draw.pause(self.plan.think).max(PAUSE_MIN) }
    }

    fn label(&self, key: usize, step: Step) -> usize {
        match step {
            Step::Open => self.others.open[era_index(self.agents[key].era)],
            Step::Initialized => self.others.initialized,
            Step::Ask(at) => self.labels[at],
            Step::Close => self.others.close,
        }
    }

    fn measured(&self, due: Instant) -> bool {
        due >= self.opens && due < self.closes
    }
}

impl Agent {
    fn new(plan: &Plan, number: u32, start: Instant) -> Self {
        let spread = |share: f64| (f64::from(number + 1) * share).floor() - (f64::from(number) * share).floor() > 0.5;
        // Streams are spread over the agents of each era, not over all, or one era might have them all.
        let era = if spread(plan.legacy) { Era::Legacy } else { Era::Modern };
        let legacy_before = (f64::from(number) * plan.legacy).floor();
        let rank = if era == Era::Legacy { legacy_before } else { f64::from(number) - legacy_before };
        let wants_stream = ((rank + 1.0) * plan.streams).floor() - (rank * plan.streams).floor() > 0.5;
        let next = start + plan.ramp.mul_f64(f64::from(number) / f64::from(plan.agents));
        Self {
            era,
            wants_stream,
            identity: usize::try_from(number % plan.identities).unwrap_or(0),
            wire: None,
            writing: false,
            reader: Reader::default(),
            stream: None,
            session: None,
            open: false,
            left: plan.calls,
            flight: None,
            next,
            idle_since: start,
        }
    }

    /// Its session and its connections are over.
    fn forget(&mut self) {
        self.wire = None;
        self.stream = None;
        self.session = None;
        self.open = false;
        self.reader.clear();
    }
}

fn era_index(era: Era) -> usize {
    usize::from(era == Era::Legacy)
}

fn draws(plan: &Plan, era: Era) -> Vec<(u64, usize)> {
    let mut sum = 0;
    let of_era = plan.mix.iter().enumerate().filter(|(_, operation)| operation.is_of(era));
    of_era
        .map(|(at, operation)| {
            sum += u64::from(operation.weight);
            (sum, at)
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::thread;

    use super::super::options::Fleet;
    use super::*;
    use crate::cli::Upstream;
    use crate::upstream::Server;

    /// A canned server in this process, until it is stopped.
    struct Canned {
        port: u16,
        stop: Arc<AtomicBool>,
        thread: Option<thread::JoinHandle<()>>,
    }

    impl Canned {
        fn start(lie_every: u64, streams: bool) -> Self {
            let options = Upstream {
                address: [127, 0, 0, 1].into(),
                port: 0,
                servers: 1,
                tools: 3,
                answer_bytes: 600,
                events: 0,
                ledger: None,
                lie_every,
                streams,
                core: None,
                until_stdin_ends: false,
            };
            let stop = Arc::new(AtomicBool::new(false));
            let ended = Arc::clone(&stop);
            let (tell, hear) = std::sync::mpsc::channel();
            let thread = thread::spawn(move || {
                let mut server = Server::bind(&options).expect("a free port");
                tell.send(server.ports().expect("ports")[0]).expect("somebody listens");
                server.run(&ended).expect("it serves");
            });
            Self { port: hear.recv().expect("a port"), stop, thread: Some(thread) }
        }

        fn end(&mut self) {
            self.stop.store(true, Ordering::Relaxed);
            if let Some(thread) = self.thread.take() {
                thread.join().expect("it ends");
            }
        }
    }

    impl Drop for Canned {
        fn drop(&mut self) {
            self.end();
        }
    }

    fn fleet(port: u16) -> Fleet {
        Fleet {
            url: Some(format!("http://127.0.0.1:{port}/mcp")),
            agents: Some(20),
            rate: Some(400.0),
            seconds: Some(1.0),
            warmup: Some(0.2),
            legacy: Some("50%".to_owned()),
            streams: Some("50%".to_owned()),
            calls: Some(4),
            mix: ["tools/call=8", "tools/list=1", "ping=1"].map(str::to_owned).to_vec(),
            ..Fleet::default()
        }
    }

    fn run(fleet: &Fleet) -> Outcome {
        let plan = fleet.settle().expect("a plan");
        let url = plan.url.clone().expect("a URL");
        let endpoint = Endpoint::parse(&url).expect("a URL");
        let tokens = Tokens::start(plan.tokens.clone(), plan.identities, &url).expect("no tokens");
        drive(&plan, &endpoint, &tokens, &mut Progress::new(true), &AtomicBool::new(false)).expect("it runs")
    }

    #[test]
    fn both_eras_with_sessions_and_streams() {
        let server = Canned::start(0, true);
        let Outcome { tally, cut, .. } = run(&fleet(server.port));
        assert_eq!((tally.kinds.len(), tally.outside, cut), (0, 0, false), "{:?}", tally.kinds);
        let right = |name: &str| tally.select(Some(name)).right;
        for name in ["tools/call", "tools/list", "ping", "initialize", "server/discover", "notifications/initialized"] {
            assert!(right(name) > 0, "{name}");
        }
        assert!(right("DELETE") > 0 && right("GET") > 0 && right("subscriptions/listen") > 0);
        // 400 a second on a schedule of chance; what follows an answer does not count.
        let all = tally.select(None);
        assert!((250..600).contains(&all.kept) && all.kept < all.right, "{} of {}", all.kept, all.right);
        assert!(tally.bins.iter().any(|bin| bin.gauges.sessions > 0 && bin.gauges.streams > 0));
    }

    #[test]
    fn wrong_answers_are_seen() {
        let server = Canned::start(10, true);
        let Outcome { tally, .. } = run(&fleet(server.port));
        let kinds: Vec<&str> = tally.kinds.keys().map(String::as_str).collect();
        assert_eq!(kinds, ["tools/call echo: an answer without what it has to contain"]);
        let share = tally.select(Some("tools/call")).error_share().expect("calls");
        assert!((0.05..0.2).contains(&share), "{share}");
    }

    #[test]
    fn a_server_without_streams_is_not_asked_again() {
        let server = Canned::start(0, false);
        let Outcome { tally, .. } = run(&fleet(server.port));
        assert_eq!((tally.without_streams, tally.kinds.len()), ([true, true], 0), "{:?}", tally.kinds);
    }

    #[test]
    fn a_server_that_goes_away_is_counted() {
        let mut server = Canned::start(0, true);
        let options = Fleet { seconds: Some(2.0), ..fleet(server.port) };
        let running = thread::spawn(move || run(&options));
        thread::sleep(Duration::from_millis(900));
        server.end();
        let Outcome { tally, .. } = running.join().expect("it runs to its end");
        let all = tally.select(None);
        assert!(all.right > 0 && all.wrong > 100, "{} and {}", all.right, all.wrong);
        assert!(tally.kinds.keys().any(|kind| kind.contains("refused")), "{:?}", tally.kinds);
        // The schedule went on: about as many as were asked for came to an end, right or wrong.
        assert!(all.kept + all.wrong > 400, "{} and {}", all.kept, all.wrong);
    }

    #[test]
    fn a_server_that_stalls_is_seen_by_all_that_were_due() {
        // Takes connections, and never answers.
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
        let port = listener.local_addr().expect("an address").port();
        let options = Fleet { timeout_ms: Some(300), streams: Some("0".to_owned()), steady: true, ..fleet(port) };
        let Outcome { tally, .. } = run(&options);
        let all = tally.select(None);
        assert_eq!(all.right, 0);
        // Twenty agents wait for 300 ms each time, but 400 a second were due in the window of a second.
        assert!((360..=440).contains(&all.wrong) && all.unsent > 0, "{} of which {}", all.wrong, all.unsent);
        assert!(all.quantile(1.0) > Duration::from_millis(600), "{:?}", all.quantile(1.0));
    }
}
