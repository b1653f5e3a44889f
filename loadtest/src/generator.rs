//! Sends calls and checks the answers: one thread, many connections, one call in flight on each.

use std::collections::{BTreeMap, VecDeque};
use std::io::{self, Read as _, Write as _};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use serde_json::{Value, json};

use crate::answer::Checker;
use crate::cli::{Calls as CallOptions, Run};
use crate::measure::{Cpu, Faults, Latency, Schedule, micros};
use crate::net::{Interest, Poll};
use crate::reply::Reader;
use crate::traffic::{Call, Calls, Era, Shape, Target, Template};
use crate::wire::Wire;
use crate::{exchange, net};

/// Nobody sleeps longer, so that timeouts and the wish to stop are seen.
const TICK: Duration = Duration::from_millis(50);
const READ_BYTES: usize = 16 << 10;

/// How calls follow each other.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Pace {
    /// Each on the answer to the last one of its connection.
    Closed,
    /// On a schedule, whatever becomes of the earlier ones.
    Open(Schedule),
}

/// A run.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    pub(crate) shape: Shape,
    /// Of several callers: each call has the next one, whatever connection it is on; empty to send the shape's own.
    pub(crate) tokens: Vec<String>,
    /// Each connection keeps to one of them.
    pub(crate) stay: bool,
    pub(crate) connections: u32,
    pub(crate) pace: Pace,
    pub(crate) warmup: Duration,
    pub(crate) window: Duration,
    /// The most calls to send.
    pub(crate) count: u64,
    pub(crate) timeout: Duration,
    pub(crate) faults_max: u64,
}

/// What came of it.
#[derive(Debug)]
pub(crate) struct Outcome {
    /// Calls sent, in warm-up and window.
    pub(crate) sent: u64,
    /// Right answers, in warm-up, window and after it.
    pub(crate) answered: u64,
    /// Right answers within the window.
    pub(crate) in_window: u64,
    /// How long the window was.
    pub(crate) window: Duration,
    /// Open loop: calls that were due in the window and could not even be sent.
    pub(crate) unsent: u64,
    /// Closed loop: from sending. Open loop: from the scheduled instant.
    pub(crate) latency: Latency,
    /// From sending.
    pub(crate) service: Latency,
    pub(crate) faults: Faults,
    /// Ended early, by too many faults or from outside.
    pub(crate) cut: bool,
}

/// The window's two ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mark {
    Start,
    End,
}

/// `loadtest run`.
pub(crate) fn command(run: &Run, stop: &Arc<AtomicBool>) -> anyhow::Result<bool> {
    if let Some(core) = run.core {
        net::stay_on(core)?;
    }
    let plan = plan(run)?;
    let mut cpu = (Cpu::default(), Cpu::default());
    let read = || Cpu::read(&run.pid, "shard-");
    read()?;
    let outcome = send(&plan, stop, &mut |mark| match mark {
        Mark::Start => cpu.0 = read().unwrap_or_default(),
        Mark::End => cpu.1 = read().unwrap_or_default(),
    })?;
    let mut report = report(&plan, &run.calls, &outcome);
    if !run.pid.is_empty() {
        let used = cpu.1.since(&cpu.0);
        let each = |nanos: u64| micros(nanos.checked_div(outcome.in_window).unwrap_or(0));
        let threads: BTreeMap<&String, f64> = used.threads.iter().map(|(name, ran)| (name, each(*ran))).collect();
        report["cpu_us_per_call"] =
            json!({ "process": each(used.whole), "shard_threads": each(used.serving), "threads": threads });
    }
    println!("{report:#}");
    Ok(outcome.faults.total == 0 && !outcome.cut)
}

/// Runs `plan`; `at` is told when the window opens and closes.
pub(crate) fn send(plan: &Plan, stop: &AtomicBool, at: &mut dyn FnMut(Mark)) -> anyhow::Result<Outcome> {
    net::sharpen_timers();
    let mut generator = Generator::open(plan)?;
    generator.run(stop, at)?;
    generator.close();
    Ok(generator.outcome)
}

impl Plan {
    fn callers(&self) -> anyhow::Result<Vec<Template>> {
        // Sessions have one caller each.
        anyhow::ensure!(self.tokens.is_empty() || self.shape.era == Era::Modern, "several callers, in sessions");
        let call = |token: &String| Shape { token: Some(token.clone()), ..self.shape.clone() }.call(None);
        self.tokens.iter().map(call).collect()
    }
}

struct Generator<'a> {
    plan: &'a Plan,
    poll: Poll,
    lines: Vec<Line>,
    /// Lines without a call in flight, the longest idle first.
    idle: VecDeque<usize>,
    /// A call of each caller, where there are several.
    callers: Vec<Template>,
    calls: Calls,
    checker: Checker,
    start: Instant,
    /// Calls of the schedule that were sent.
    scheduled: u64,
    phase: Phase,
    outcome: Outcome,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Phase {
    Warmup,
    Window,
    Drain,
}

/// A connection.
struct Line {
    socket: Wire,
    session: Option<String>,
    template: Template,
    tenth: Option<Template>,
    out: Vec<u8>,
    sent: usize,
    reader: Reader,
    flight: Option<Flight>,
}

#[derive(Clone, Copy)]
struct Flight {
    call: Call,
    due: Instant,
    sent: Instant,
}

impl<'a> Generator<'a> {
    fn open(plan: &'a Plan) -> anyhow::Result<Self> {
        let poll = Poll::new()?;
        let mut lines = Vec::new();
        for key in 0..plan.connections as usize {
            let line =
                Line::open(plan).with_context(|| format!("connection {} to {}", key + 1, plan.shape.target.host));
            let line = line?;
            poll.add(&line.socket, key, Interest::Read)?;
            lines.push(line);
        }
        Ok(Self {
            plan,
            poll,
            idle: (0..lines.len()).collect(),
            lines,
            callers: plan.callers()?,
            calls: Calls::new(),
            checker: Checker::new(plan.shape.events),
            start: Instant::now(),
            scheduled: 0,
            phase: Phase::Warmup,
            outcome: Outcome::new(),
        })
    }

    fn run(&mut self, stop: &AtomicBool, at: &mut dyn FnMut(Mark)) -> anyhow::Result<()> {
        let mut keys = Vec::new();
        let mut piece = vec![0; READ_BYTES];
        self.start = Instant::now();
        let (opens, closes) = (self.start + self.plan.warmup, self.start + self.plan.warmup + self.plan.window);
        let mut opened = opens;
        let mut look = self.start;
        loop {
            let now = Instant::now();
            let spent = self.outcome.sent >= self.plan.count && self.idle.len() == self.lines.len();
            let ends = spent || self.outcome.cut;
            if self.phase == Phase::Warmup && (now >= opens || ends) {
                self.phase = Phase::Window;
                at(Mark::Start);
                opened = Instant::now();
            }
            if self.phase == Phase::Window && (now >= closes || ends) {
                // What was due until now may still go.
                self.dispatch(closes.min(now));
                self.phase = Phase::Drain;
                self.outcome.window = opened.elapsed();
                at(Mark::End);
                self.count_unsent(now);
            }
            if self.phase == Phase::Drain && (self.idle.len() == self.lines.len() || self.outcome.cut) {
                // All calls may have been sent between two looks.
                self.outcome.cut |= self.outcome.faults.total > self.plan.faults_max;
                return Ok(());
            }
            if now >= look {
                look = now + TICK;
                self.outcome.cut |= stop.load(Ordering::Relaxed) || self.outcome.faults.total > self.plan.faults_max;
                self.time_out(now);
            }
            self.dispatch(now);
            self.poll.wait(self.patience(now, opens, closes), &mut keys)?;
            for key in &keys {
                self.serve(*key, &mut piece);
            }
        }
    }

    /// Sends what is due on lines that are free.
    fn dispatch(&mut self, now: Instant) {
        while self.phase != Phase::Drain && !self.outcome.cut && self.outcome.sent < self.plan.count {
            let due = match self.plan.pace {
                Pace::Closed => now,
                Pace::Open(schedule) => self.start + schedule.due(self.scheduled),
            };
            if due > now {
                return;
            }
            let Some(key) = self.idle.pop_front() else { return };
            self.scheduled += 1;
            self.begin(key, due);
        }
    }

    fn begin(&mut self, key: usize, due: Instant) {
        let call = self.calls.next().expect("calls do not end");
        let line = &mut self.lines[key];
        line.out.clear();
        line.sent = 0;
        let turn = if self.plan.stay { key } else { usize::try_from(self.outcome.sent).unwrap_or(0) };
        let turn = turn.checked_rem(self.callers.len());
        let tenth = line.tenth.as_ref().filter(|_| self.outcome.sent % 10 == 9);
        let own = tenth.unwrap_or(&line.template);
        turn.and_then(|turn| self.callers.get(turn)).unwrap_or(own).write(call, &mut line.out);
        line.flight = Some(Flight { call, due, sent: Instant::now() });
        self.outcome.sent += 1;
        self.flush(key);
    }

    fn flush(&mut self, key: usize) {
        let line = &mut self.lines[key];
        match line.flush() {
            Ok(true) => {}
            Ok(false) => {
                if let Err(error) = self.poll.modify(&line.socket, key, Interest::ReadWrite) {
                    self.fail(key, &error);
                }
            }
            // Whatever the other side said before it closed is still to be read.
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => {}
            Err(error) => self.fail(key, &error),
        }
    }

    fn serve(&mut self, key: usize, piece: &mut [u8]) {
        let line = &mut self.lines[key];
        if line.sent < line.out.len() {
            self.flush(key);
            let line = &self.lines[key];
            if line.sent == line.out.len() && self.poll.modify(&line.socket, key, Interest::Read).is_err() {
                self.fail(key, &"epoll");
            }
        }
        loop {
            self.receive(key, piece);
            if !self.lines[key].socket.has_more() {
                return;
            }
        }
    }

    fn receive(&mut self, key: usize, piece: &mut [u8]) {
        let line = &mut self.lines[key];
        match line.socket.read(piece) {
            Ok(0) if line.flight.is_some() => self.fail(key, &"the connection ended before the answer did"),
            // Closed while idle: its right.
            Ok(0) => self.reopen(key),
            Ok(read) => {
                line.reader.input().extend_from_slice(&piece[..read]);
                if line.flight.is_none() {
                    return self.fail(key, &"bytes that nobody asked for");
                }
                match line.reader.advance() {
                    Ok(true) => self.finish(key),
                    Ok(false) => {}
                    Err(fault) => self.fail(key, &fault),
                }
            }
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => {}
            Err(error) => self.fail(key, &error),
        }
    }

    /// An answer is whole.
    fn finish(&mut self, key: usize) {
        let done = Instant::now();
        let line = &mut self.lines[key];
        let Some(flight) = line.flight.take() else { return };
        let reader = &line.reader;
        let verdict = self.checker.check(flight.call, reader.status(), reader.kind(), reader.body());
        let closes = reader.closes();
        line.reader.clear();
        match verdict {
            Ok(()) => self.count(flight, done),
            Err(wrong) => self.outcome.faults.note(wrong),
        }
        if closes {
            return self.reopen(key);
        }
        self.idle.push_back(key);
        if matches!(self.plan.pace, Pace::Closed) {
            self.dispatch(done);
        }
    }

    fn count(&mut self, flight: Flight, done: Instant) {
        self.outcome.answered += 1;
        if self.phase == Phase::Window {
            self.outcome.in_window += 1;
        }
        let measured = match self.plan.pace {
            Pace::Closed => self.phase == Phase::Window,
            // All that were due in the window, however late they are.
            Pace::Open(_) => self.in_window(flight.due),
        };
        if measured {
            self.outcome.latency.record(done - flight.due);
            self.outcome.service.record(done - flight.sent);
        }
    }

    fn in_window(&self, due: Instant) -> bool {
        let opens = self.start + self.plan.warmup;
        due >= opens && due < opens + self.plan.window
    }

    /// Calls that are due and still wait for a connection took at least until now: left out, a stall would not be seen.
    fn count_unsent(&mut self, now: Instant) {
        let Pace::Open(schedule) = self.plan.pace else { return };
        if self.outcome.sent >= self.plan.count {
            return;
        }
        let opens = schedule.before(self.plan.warmup);
        for index in self.scheduled.max(opens)..schedule.before(self.plan.warmup + self.plan.window) {
            let late = now.saturating_duration_since(self.start + schedule.due(index));
            self.outcome.unsent += 1;
            self.outcome.latency.record(late);
        }
    }

    fn time_out(&mut self, now: Instant) {
        for key in 0..self.lines.len() {
            let late = |flight: Flight| now.saturating_duration_since(flight.sent) > self.plan.timeout;
            if self.lines[key].flight.is_some_and(late) {
                self.fail(key, &format!("no answer within {} ms", self.plan.timeout.as_millis()));
            }
        }
    }

    fn fail(&mut self, key: usize, fault: &dyn ToString) {
        self.outcome.faults.note(fault.to_string());
        self.reopen(key);
    }

    /// A new connection in place of one that ended.
    fn reopen(&mut self, key: usize) {
        self.idle.retain(|idle| *idle != key);
        let patience = self.outcome.faults.total <= self.plan.faults_max;
        match Line::open(self.plan) {
            Ok(line) if patience && self.poll.add(&line.socket, key, Interest::Read).is_ok() => {
                self.lines[key] = line;
            }
            Ok(_) => self.outcome.cut = true,
            Err(error) => {
                self.outcome.faults.note(format!("reconnecting: {error:#}"));
                self.outcome.cut = true;
            }
        }
        self.idle.push_back(key);
    }

    fn patience(&self, now: Instant, opens: Instant, closes: Instant) -> Duration {
        let mut until = now + TICK;
        match self.phase {
            Phase::Warmup => until = until.min(opens),
            Phase::Window => until = until.min(closes),
            Phase::Drain => {}
        }
        let waits = self.idle.is_empty() || self.phase == Phase::Drain || self.outcome.sent >= self.plan.count;
        if let (Pace::Open(schedule), false) = (self.plan.pace, waits) {
            until = until.min(self.start + schedule.due(self.scheduled));
        }
        until.saturating_duration_since(now)
    }

    /// Ends the sessions.
    fn close(&mut self) {
        if self.outcome.cut {
            return;
        }
        for line in &mut self.lines {
            let Some(session) = line.session.take() else { continue };
            let ended = line.socket.set_nonblocking(false).map_err(anyhow::Error::from);
            let ended = ended.and_then(|()| exchange::exchange(&mut line.socket, &self.plan.shape.delete(&session)));
            match ended {
                // A server need not let clients end sessions (405).
                Ok(answer) if matches!(answer.status(), 200..=299 | 405) => {}
                Ok(answer) => self.outcome.faults.note(format!("DELETE: status {}", answer.status())),
                Err(error) => self.outcome.faults.note(format!("DELETE: {error:#}")),
            }
        }
    }
}

impl Line {
    fn open(plan: &Plan) -> anyhow::Result<Self> {
        let mut socket = Wire::connect(&plan.shape.target, plan.timeout)?;
        let session = exchange::begin(&plan.shape, &mut socket)?;
        let template = plan.shape.call(session.as_deref())?;
        let tenth = plan.shape.tenth_call(session.as_deref())?;
        socket.set_nonblocking(true)?;
        let (out, reader) = (Vec::new(), Reader::default());
        Ok(Self { socket, session, template, tenth, out, sent: 0, reader, flight: None })
    }

    /// Whether all is written.
    fn flush(&mut self) -> io::Result<bool> {
        while self.sent < self.out.len() {
            match self.socket.write(&self.out[self.sent..]) {
                Ok(written) => self.sent += written,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(false),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(true)
    }
}

impl Outcome {
    fn new() -> Self {
        Self {
            sent: 0,
            answered: 0,
            in_window: 0,
            window: Duration::ZERO,
            unsent: 0,
            latency: Latency::new(),
            service: Latency::new(),
            faults: Faults::default(),
            cut: false,
        }
    }

    pub(crate) fn calls_per_second(&self) -> f64 {
        let seconds = self.window.as_secs_f64();
        if seconds > 0.0 { (self.in_window as f64 / seconds).round() } else { 0.0 }
    }
}

fn plan(run: &Run) -> anyhow::Result<Plan> {
    Ok(Plan {
        shape: Shape {
            target: Target::parse(&run.url)?,
            era: run.calls.era,
            tool: run.tool.clone(),
            tenth: None,
            token: run.token.clone(),
            body_bytes: run.calls.body_bytes,
            events: run.calls.events,
        },
        tokens: Vec::new(),
        stay: false,
        connections: run.connections,
        pace: run.rate.map_or(Pace::Closed, |rate| Pace::Open(Schedule::new(rate))),
        warmup: Duration::from_secs_f64(run.warmup),
        window: Duration::from_secs_f64(run.seconds),
        count: run.count,
        timeout: Duration::from_millis(run.calls.timeout_ms),
        faults_max: run.calls.faults_max,
    })
}

fn report(plan: &Plan, calls: &CallOptions, outcome: &Outcome) -> Value {
    let (pace, latency) = match plan.pace {
        Pace::Closed => ("closed", "latency_us"),
        Pace::Open(_) => ("open", "latency_us_from_schedule"),
    };
    let mut report = json!({
        "era": format!("{:?}", calls.era).to_lowercase(),
        "events": calls.events,
        "connections": plan.connections,
        "loop": pace,
        "seconds": outcome.window.as_secs_f64(),
        "calls_per_second": outcome.calls_per_second(),
        "sent": outcome.sent,
        "answered": outcome.answered,
        "faults": outcome.faults.total,
        "cut_short": outcome.cut,
    });
    report[latency] = outcome.latency.json();
    if matches!(plan.pace, Pace::Open(_)) {
        report["latency_us_from_sending"] = outcome.service.json();
        report["unsent"] = outcome.unsent.into();
    }
    if outcome.faults.total > 0 {
        report["fault_kinds"] = json!(outcome.faults.kinds);
    }
    report
}
