//! One session's events on their way to its client, through however many connections: what was not sent waits, what
//! was sent is kept for a while, and each event goes out on one stream only.
//!
//! A stream is what the client resumes: it begins with a connection and goes on with the next one that names its last
//! event (`Last-Event-ID`). A tap is a connection that reads. The newest tap gets what is new.

use std::collections::VecDeque;

use smallvec::SmallVec;
use thiserror::Error;

use crate::base::ids::ShardId;
use crate::base::limits::{OUTLET_STREAMS_MAX, OUTLET_TAPS_MAX};
use crate::base::time::Moment;
use crate::http::sse::{self, Event};

/// The id of an event towards a client. As text it is `SHARD-STREAM-SEQ`, numbers to the base 36, one way to write each.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct EventId {
    /// Where its log is.
    pub shard: ShardId,
    /// Unique on that shard, over restarts too.
    pub stream: u64,
    /// Its place in the log, from 1; 0 stands before the first.
    pub seq: u64,
}

/// An event's id as text.
pub type EventIdText = SmallVec<[u8; EVENT_ID_BYTES_MAX]>;

/// How much a log may hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bounds {
    /// Not sent: with so many bytes, or events, there is no room for more. One event always fits an empty log.
    pub waiting_bytes: usize,
    /// See there.
    pub waiting_events: usize,
    /// Sent, and kept to be sent again: the latest events, at most so many bytes.
    pub kept_bytes: usize,
    /// And so many events. With none nothing can be resumed, and events have no ids.
    pub kept_events: usize,
}

/// Names a tap of one outlet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct TapKey(u64);

/// What there was for a tap.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Taken {
    /// Everything there is at the moment.
    All,
    /// There is more at once.
    More,
    /// Everything, and nothing more will come on this connection: the tap is gone, its response ends cleanly.
    End,
    /// The tap is gone: another connection has its stream, or nothing is kept any more. Its response ends.
    Gone,
}

/// A stream that goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Resumed {
    /// The connection it goes on with.
    pub tap: TapKey,
    /// Some of what came after the last event that the client saw is kept no more.
    pub torn: bool,
    /// There is nothing on it any more, and never will be.
    pub spent: bool,
}

/// Why a stream does not go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum ResumeFault {
    /// There was no such stream, or it is forgotten, or the event is none of its own.
    #[error("no such stream, or no such event on it")]
    Unknown,
}

/// A log of events, and the connections that read it.
#[derive(Debug)]
pub struct Outlet {
    shard: ShardId,
    bounds: Bounds,
    log: VecDeque<Entry>,
    /// The first entry's place.
    first: u64,
    /// How many entries, from the first on, were sent.
    sent: usize,
    sent_bytes: usize,
    waiting_bytes: usize,
    /// In the order in which they came; the last one gets what is new.
    taps: SmallVec<[Tap; 1]>,
    /// The latest streams.
    streams: VecDeque<Stream>,
    next_tap: u64,
    state: State,
    /// Since when nobody reads.
    alone_since: Option<Moment>,
}

#[derive(Debug)]
struct Entry {
    /// The stream it was sent on; meaningless until it was.
    stream: u64,
    /// `None` when it was taken back.
    data: Option<Box<[u8]>>,
}

#[derive(Debug)]
struct Tap {
    key: TapKey,
    stream: u64,
    /// The next entry to look at.
    next: u64,
}

#[derive(Debug)]
struct Stream {
    id: u64,
    /// Where it began, and the last event sent on it.
    from: u64,
    last: u64,
    /// The last of its events that is kept no more.
    lost: u64,
}

#[derive(Debug)]
enum State {
    /// More may come.
    Open,
    /// The server hung up on purpose; it goes on there.
    HungUp { retry: Option<u64>, at: Box<[u8]> },
    /// Nothing more comes.
    Finished,
    /// Nothing is kept any more.
    Shut,
}

impl Outlet {
    /// An empty log of `shard`, which nobody reads.
    #[must_use]
    pub fn new(shard: ShardId, bounds: Bounds, now: Moment) -> Self {
        Self {
            shard,
            bounds,
            log: VecDeque::new(),
            first: 1,
            sent: 0,
            sent_bytes: 0,
            waiting_bytes: 0,
            taps: SmallVec::new(),
            streams: VecDeque::new(),
            next_tap: 0,
            state: State::Open,
            alone_since: Some(now),
        }
    }

    /// A connection with a new stream, which nobody had before on this shard. It gets what was never sent, and what is
    /// new. With too many connections the oldest has to go.
    pub fn attach(&mut self, stream: u64) -> TapKey {
        let from = self.first + self.sent as u64 - 1;
        if self.streams.len() >= OUTLET_STREAMS_MAX {
            self.streams.pop_front();
        }
        self.streams.push_back(Stream { id: stream, from, last: from, lost: 0 });
        self.tap(stream, from + 1)
    }

    /// A connection with which `stream` goes on behind event `seq`: it gets what was sent on that stream since, on no
    /// other, then as [`Outlet::attach`]. A connection that still has the stream loses it.
    ///
    /// # Errors
    /// [`ResumeFault::Unknown`].
    pub fn resume(&mut self, stream: u64, seq: u64) -> Result<Resumed, ResumeFault> {
        let known = self.streams.iter().find(|known| known.id == stream && (known.from..=known.last).contains(&seq));
        let known = known.ok_or(ResumeFault::Unknown)?;
        let torn = known.lost > seq;
        let spent = self.is_finished() && !self.waits() && known.last <= seq;
        self.taps.retain(|tap| tap.stream != stream);
        Ok(Resumed { tap: self.tap(stream, seq + 1), torn, spent })
    }

    fn tap(&mut self, stream: u64, next: u64) -> TapKey {
        if self.taps.len() >= OUTLET_TAPS_MAX {
            self.taps.remove(0);
        }
        let key = TapKey(self.next_tap);
        self.next_tap += 1;
        self.taps.push(Tap { key, stream, next });
        self.alone_since = None;
        key
    }

    /// The connection has ended. What it took counts as sent.
    pub fn detach(&mut self, tap: TapKey, now: Moment) {
        self.taps.retain(|known| known.key != tap);
        if self.taps.is_empty() && self.alone_since.is_none() {
            self.alone_since = Some(now);
        }
    }

    /// A message of the server. Says whether there is room for another one; whoever feeds the log stops when there is
    /// not, because what is pushed nevertheless is taken.
    pub fn push(&mut self, message: &[u8]) -> bool {
        if matches!(self.state, State::Shut) {
            return true;
        }
        self.log.push_back(Entry { stream: 0, data: Some(message.into()) });
        self.waiting_bytes += cost(Some(message));
        self.room()
    }

    /// Whether the server may be read on.
    #[must_use]
    pub fn room(&self) -> bool {
        self.waiting_bytes < self.bounds.waiting_bytes && self.log.len() - self.sent < self.bounds.waiting_events
    }

    /// Nothing more comes: taps end once they have everything.
    pub fn finish(&mut self) {
        if !matches!(self.state, State::Shut) {
            self.state = State::Finished;
        }
    }

    /// The server hung up on purpose (MCP 2025-11-25 basic/transports, SEP-1699): taps end once they have everything,
    /// and say when to come back, in `retry` milliseconds; the server's stream goes on behind its event `at`.
    pub fn hang_up(&mut self, retry: Option<u64>, at: &[u8]) {
        if !matches!(self.state, State::Shut) {
            self.state = State::HungUp { retry, at: at.into() };
        }
    }

    /// Where the server's stream goes on, if it hung up; the log is open again then, and whoever asked feeds it.
    pub fn go_on(&mut self) -> Option<Box<[u8]>> {
        match std::mem::replace(&mut self.state, State::Open) {
            State::HungUp { at, .. } => Some(at),
            other => {
                self.state = other;
                None
            }
        }
    }

    /// Nothing is kept any more: what is here is dropped, and what still comes.
    pub fn shut(&mut self) {
        self.state = State::Shut;
        self.log = VecDeque::new();
        (self.sent, self.sent_bytes, self.waiting_bytes) = (0, 0, 0);
        self.taps.clear();
        self.streams.clear();
    }

    /// Appends what is due for a tap, as events, about `max` bytes at most but at least one event.
    pub fn take(&mut self, tap: TapKey, max: usize, out: &mut Vec<u8>) -> Taken {
        let Some(place) = self.taps.iter().position(|known| known.key == tap) else { return Taken::Gone };
        let newest = place + 1 == self.taps.len();
        let (stream, end) = (self.taps[place].stream, out.len().saturating_add(max));
        let mut seq = self.taps[place].next.max(self.first);
        let mut more = false;
        while let Some(entry) = usize::try_from(seq - self.first).ok().and_then(|at| self.log.get_mut(at)) {
            let fresh = seq - self.first >= self.sent as u64;
            if fresh && !newest {
                break;
            }
            if out.len() >= end {
                more = true;
                break;
            }
            if fresh {
                entry.stream = stream;
                let bytes = cost(entry.data.as_deref());
                self.sent += 1;
                self.sent_bytes += bytes;
                self.waiting_bytes -= bytes;
            }
            if let Some(data) = entry.data.as_deref().filter(|_| entry.stream == stream) {
                let id = EventId { shard: self.shard, stream, seq }.text();
                let id = (self.bounds.kept_events > 0).then_some(&*id);
                let event = Event { id, name: Some(b"message"), data: Some(data), retry: None };
                let _ = sse::write_event(out, &event);
                if let Some(known) = self.streams.iter_mut().find(|known| known.id == stream) {
                    known.last = known.last.max(seq);
                }
            }
            seq += 1;
        }
        self.taps[place].next = seq;
        self.trim(self.bounds.kept_bytes);
        if more { Taken::More } else { self.ending(place, out) }
    }

    /// What becomes of a tap that has everything.
    fn ending(&mut self, place: usize, out: &mut Vec<u8>) -> Taken {
        match &self.state {
            State::Open => return Taken::All,
            State::HungUp { retry: Some(retry), .. } => {
                let _ = sse::write_event(out, &Event { retry: Some(*retry), ..Event::default() });
            }
            _ => {}
        }
        self.taps.remove(place);
        Taken::End
    }

    /// Appends the event by which a client can come back before it got any (MCP 2025-11-25 basic/transports), in
    /// `retry` milliseconds. To be written first.
    pub fn prime(&self, tap: TapKey, retry: u64, out: &mut Vec<u8>) {
        if let Some(known) = self.taps.iter().find(|known| known.key == tap) {
            let id = EventId { shard: self.shard, stream: known.stream, seq: known.next - 1 }.text();
            let event = Event { id: Some(&id), name: None, data: Some(b""), retry: Some(retry) };
            let _ = sse::write_event(out, &event);
        }
    }

    /// Takes back what waits and is not to be sent after all.
    pub fn retain_waiting(&mut self, mut keep: impl FnMut(&[u8]) -> bool) {
        for entry in self.log.iter_mut().skip(self.sent) {
            if entry.data.as_deref().is_some_and(|data| !keep(data)) {
                self.waiting_bytes -= cost(entry.data.take().as_deref()) - cost(None);
            }
        }
    }

    /// Keeps at most `bytes` of what was sent: the latest, and what the newest tap has still to get again.
    pub fn trim(&mut self, bytes: usize) {
        while self.sent > 0 && (self.sent_bytes > bytes || self.sent > self.bounds.kept_events) {
            let due = |entry: &Entry| {
                let newest = self.taps.last();
                newest.is_some_and(|tap| tap.stream == entry.stream && tap.next <= self.first)
            };
            if self.log.front().is_some_and(due) {
                break;
            }
            let Some(entry) = self.log.pop_front() else { break };
            if entry.data.is_some()
                && let Some(known) = self.streams.iter_mut().find(|known| known.id == entry.stream)
            {
                known.lost = self.first;
            }
            self.sent_bytes -= cost(entry.data.as_deref());
            self.sent -= 1;
            self.first += 1;
        }
        if self.log.is_empty() {
            self.log = VecDeque::new();
        }
    }

    /// Whether there is something to send, whoever takes it.
    #[must_use]
    pub fn waits(&self) -> bool {
        self.log.len() > self.sent
    }

    /// What it holds, bytes.
    #[must_use]
    pub fn held(&self) -> usize {
        self.sent_bytes + self.waiting_bytes
    }

    /// Whether a tap is the one that gets what is new.
    #[must_use]
    pub fn is_newest(&self, tap: TapKey) -> bool {
        self.taps.last().is_some_and(|newest| newest.key == tap)
    }

    /// How many connections read.
    #[must_use]
    pub fn taps(&self) -> usize {
        self.taps.len()
    }

    /// Since when nobody reads; `None` while somebody does.
    #[must_use]
    pub fn alone_since(&self) -> Option<Moment> {
        self.alone_since.filter(|_| self.taps.is_empty())
    }

    /// Whether its last event is in the log.
    #[must_use]
    pub fn is_finished(&self) -> bool {
        matches!(self.state, State::Finished)
    }

    /// Whether its server hung up on purpose.
    #[must_use]
    pub fn is_hung_up(&self) -> bool {
        matches!(self.state, State::HungUp { .. })
    }

    /// Whether nothing is kept any more.
    #[must_use]
    pub fn is_shut(&self) -> bool {
        matches!(self.state, State::Shut)
    }
}

/// What an event costs to hold, bytes.
fn cost(data: Option<&[u8]>) -> usize {
    size_of::<Entry>() + data.map_or(0, <[u8]>::len)
}

impl EventId {
    /// The id that this is the text of; no two texts are one id.
    #[must_use]
    pub fn parse(text: &[u8]) -> Option<Self> {
        let mut parts = text.splitn(3, |byte| *byte == b'-');
        let mut part = || parts.next().and_then(number);
        let shard = ShardId(u16::try_from(part()?).ok()?);
        Some(Self { shard, stream: part()?, seq: part()? })
    }

    /// As text: visible ASCII, at most `EVENT_ID_BYTES_MAX` bytes.
    #[must_use]
    pub fn text(&self) -> EventIdText {
        let mut text = EventIdText::new();
        for (part, number) in [u64::from(self.shard.0), self.stream, self.seq].into_iter().enumerate() {
            if part > 0 {
                text.push(b'-');
            }
            write_number(&mut text, number);
        }
        text
    }
}

fn number(text: &[u8]) -> Option<u64> {
    if text.is_empty() || text.len() > 1 && text[0] == b'0' {
        return None;
    }
    text.iter().try_fold(0_u64, |number, byte| {
        let digit = DIGITS.iter().position(|digit| digit == byte)?;
        number.checked_mul(36)?.checked_add(digit as u64)
    })
}

fn write_number(text: &mut EventIdText, number: u64) {
    let start = text.len();
    let mut left = number;
    loop {
        text.push(DIGITS[usize::try_from(left % 36).unwrap_or_default()]);
        left /= 36;
        if left == 0 {
            break;
        }
    }
    text[start..].reverse();
}

const DIGITS: &[u8; 36] = b"0123456789abcdefghijklmnopqrstuvwxyz";

/// Four digits of a shard, two of thirteen, and what stands between.
pub const EVENT_ID_BYTES_MAX: usize = 32;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::http::sse::EventParser;

    const SMALL: Bounds = Bounds { waiting_bytes: 400, waiting_events: 6, kept_bytes: 300, kept_events: 4 };
    const T0: Moment = Moment(0);

    #[test]
    fn what_is_not_kept_has_no_id() {
        let mut outlet = Outlet::new(ShardId(0), Bounds { kept_bytes: 0, kept_events: 0, ..SMALL }, T0);
        let tap = outlet.attach(1);
        outlet.push(b"a");
        let mut out = Vec::new();
        assert_eq!(outlet.take(tap, usize::MAX, &mut out), Taken::All);
        assert_eq!(out, b"event: message\ndata: a\n\n");
        assert_eq!(outlet.held(), 0);
    }

    fn outlet() -> Outlet {
        Outlet::new(ShardId(3), SMALL, T0)
    }

    /// What a tap gets now: (id, data) of each event, and how it goes on.
    fn take(outlet: &mut Outlet, tap: TapKey, max: usize) -> (Vec<(EventId, String)>, Taken) {
        let mut out = Vec::new();
        let taken = outlet.take(tap, max, &mut out);
        (read(&out), taken)
    }

    fn read(bytes: &[u8]) -> Vec<(EventId, String)> {
        let (mut parser, mut at, mut events) = (EventParser::new(), 0, Vec::new());
        while at < bytes.len() {
            at += parser.push(&bytes[at..]).unwrap();
            let event = parser.event();
            if parser.ready()
                && let (Some(id), Some(data)) = (event.id, event.data)
            {
                events.push((EventId::parse(id).unwrap(), String::from_utf8(data.to_vec()).unwrap()));
            }
        }
        events
    }

    #[track_caller]
    fn check(outlet: &mut Outlet, tap: TapKey, want: &[&str], taken: Taken) {
        let (events, got) = take(outlet, tap, usize::MAX);
        let data: Vec<&str> = events.iter().map(|(_, data)| &**data).collect();
        assert_eq!((&*data, got), (want, taken));
    }

    #[test]
    fn an_id_has_one_text() {
        let check = |shard: u16, stream: u64, seq: u64, want: &str| {
            let id = EventId { shard: ShardId(shard), stream, seq };
            assert_eq!(std::str::from_utf8(&id.text()), Ok(want));
            assert_eq!(EventId::parse(want.as_bytes()), Some(id));
        };
        check(0, 0, 0, "0-0-0");
        check(1, 36, 35, "1-10-z");
        check(u16::MAX, u64::MAX, u64::MAX, "1ekf-3w5e11264sgsf-3w5e11264sgsf");
        let others = ["", "0", "0-0", "0-0-0-0", "00-1-1", "0-01-1", "0-A-1", "1ekg-1-1", "0-3w5e11264sgsg-1", "0--1"];
        for text in others {
            assert_eq!(EventId::parse(text.as_bytes()), None, "{text}");
        }
    }

    #[test]
    fn what_nobody_reads_waits() {
        let mut outlet = outlet();
        assert_eq!(outlet.alone_since(), Some(T0));
        outlet.push(b"a");
        outlet.push(b"b");
        let tap = outlet.attach(7);
        check(&mut outlet, tap, &["a", "b"], Taken::All);
        outlet.push(b"c");
        check(&mut outlet, tap, &["c"], Taken::All);
        check(&mut outlet, tap, &[], Taken::All);
        outlet.detach(tap, Moment(5));
        assert_eq!(outlet.alone_since(), Some(Moment(5)));
        outlet.push(b"d");
        // Another stream: what was sent on the first is not for it.
        let tap = outlet.attach(8);
        check(&mut outlet, tap, &["d"], Taken::All);
    }

    #[test]
    fn a_stream_goes_on_where_its_client_left() {
        let mut outlet = outlet();
        let tap = outlet.attach(7);
        for message in ["a", "b", "c"] {
            outlet.push(message.as_bytes());
        }
        let (events, _) = take(&mut outlet, tap, usize::MAX);
        assert_eq!(events[0].0, EventId { shard: ShardId(3), stream: 7, seq: 1 });
        outlet.detach(tap, T0);
        outlet.push(b"d");
        let resumed = outlet.resume(7, 1).unwrap();
        assert!(!resumed.torn);
        check(&mut outlet, resumed.tap, &["b", "c", "d"], Taken::All);
        assert_eq!(outlet.resume(8, 1), Err(ResumeFault::Unknown));
        assert_eq!(outlet.resume(7, 9), Err(ResumeFault::Unknown));
        // Before its first event too.
        let again = outlet.resume(7, 0).unwrap();
        check(&mut outlet, resumed.tap, &[], Taken::Gone);
        check(&mut outlet, again.tap, &["a", "b", "c", "d"], Taken::All);
    }

    #[test]
    fn the_newest_connection_gets_what_is_new() {
        let mut outlet = outlet();
        let (one, two) = (outlet.attach(1), outlet.attach(2));
        outlet.push(b"a");
        check(&mut outlet, one, &[], Taken::All);
        check(&mut outlet, two, &["a"], Taken::All);
        assert!(outlet.is_newest(two) && !outlet.is_newest(one));
        outlet.detach(two, T0);
        assert!(outlet.is_newest(one));
        outlet.push(b"b");
        check(&mut outlet, one, &["b"], Taken::All);
        assert_eq!(outlet.alone_since(), None);
        // The second stream goes on with its own, and is the newest again.
        let two = outlet.resume(2, 0).unwrap().tap;
        outlet.push(b"c");
        check(&mut outlet, one, &[], Taken::All);
        check(&mut outlet, two, &["a", "c"], Taken::All);
        let one = outlet.resume(1, 0).unwrap().tap;
        check(&mut outlet, one, &["b"], Taken::All);
    }

    #[test]
    fn an_end_comes_after_everything() {
        let mut outlet = outlet();
        let tap = outlet.attach(1);
        outlet.push(b"a");
        outlet.push(b"b");
        outlet.finish();
        assert_eq!(take(&mut outlet, tap, 1).1, Taken::More);
        check(&mut outlet, tap, &["b"], Taken::End);
        check(&mut outlet, tap, &[], Taken::Gone);
        let again = outlet.resume(1, 1).unwrap();
        assert!(!again.spent);
        check(&mut outlet, again.tap, &["b"], Taken::End);
        assert!(outlet.resume(1, 2).unwrap().spent);
    }

    #[test]
    fn a_server_hangs_up() {
        let mut outlet = outlet();
        let tap = outlet.attach(1);
        let mut out = Vec::new();
        outlet.prime(tap, 500, &mut out);
        assert_eq!(std::str::from_utf8(&out), Ok("id: 3-1-0\nretry: 500\ndata: \n\n"));
        outlet.push(b"a");
        outlet.hang_up(Some(15), b"s-1");
        out.clear();
        assert_eq!(outlet.take(tap, usize::MAX, &mut out), Taken::End);
        assert_eq!(std::str::from_utf8(&out), Ok("id: 3-1-1\nevent: message\ndata: a\n\nretry: 15\n\n"));
        let tap = outlet.resume(1, 1).unwrap().tap;
        assert_eq!(outlet.go_on().as_deref(), Some(&b"s-1"[..]));
        assert_eq!(outlet.go_on(), None);
        check(&mut outlet, tap, &[], Taken::All);
        outlet.push(b"b");
        outlet.finish();
        check(&mut outlet, tap, &["b"], Taken::End);
    }

    #[test]
    fn a_full_log_says_so_and_a_long_one_forgets_what_was_sent() {
        let mut outlet = outlet();
        let tap = outlet.attach(1);
        let pushed = (1..=6).map(|_| outlet.push(b"x")).collect::<Vec<_>>();
        assert_eq!(pushed, [true, true, true, true, true, false]);
        let (events, _) = take(&mut outlet, tap, usize::MAX);
        assert_eq!(events.len(), 6);
        assert!(outlet.room());
        let resumed = outlet.resume(1, 1).unwrap();
        assert!(resumed.torn, "four of five are kept");
        assert_eq!(take(&mut outlet, resumed.tap, usize::MAX).0.len(), 4);
        assert!(!outlet.resume(1, 2).unwrap().torn);
        // One event always fits.
        assert!(!outlet.push(&[b'x'; 1000]));
        let tap = outlet.resume(1, 6).unwrap().tap;
        assert_eq!(take(&mut outlet, tap, usize::MAX).0.len(), 1);
        assert!(outlet.room() && outlet.held() == 0, "and is not kept when it is larger than what is kept");
    }

    #[test]
    fn what_waits_can_be_taken_back() {
        let mut outlet = outlet();
        let tap = outlet.attach(1);
        outlet.push(b"a");
        check(&mut outlet, tap, &["a"], Taken::All);
        for message in ["b", "c", "d"] {
            outlet.push(message.as_bytes());
        }
        outlet.retain_waiting(|data| data != b"c" && data != b"a");
        check(&mut outlet, tap, &["b", "d"], Taken::All);
        let tap = outlet.resume(1, 0).unwrap().tap;
        check(&mut outlet, tap, &["a", "b", "d"], Taken::All);
        outlet.shut();
        assert!(outlet.push(&[0; 5000]) && outlet.held() == 0);
        check(&mut outlet, tap, &[], Taken::Gone);
    }

    #[test]
    fn connections_and_streams_are_bounded() {
        let mut outlet = outlet();
        let first = outlet.attach(1);
        for stream in 2..200 {
            outlet.attach(stream);
        }
        assert_eq!((outlet.taps(), outlet.streams.len()), (OUTLET_TAPS_MAX, OUTLET_STREAMS_MAX));
        check(&mut outlet, first, &[], Taken::Gone);
    }

    /// What happens to an outlet, with one client that has several streams and loses connections.
    #[derive(Clone, Debug)]
    enum Step {
        Push(usize),
        Attach,
        /// The client of a stream comes back, knowing all but the last few of its events.
        Resume {
            stream: usize,
            unseen: usize,
        },
        Take {
            tap: usize,
            max: usize,
        },
        Detach(usize),
        HangUp,
        Trim(usize),
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            4 => (0..120_usize).prop_map(Step::Push),
            1 => Just(Step::Attach),
            2 => (0..8_usize, 0..3_usize).prop_map(|(stream, unseen)| Step::Resume { stream, unseen }),
            6 => (0..8_usize, 0..200_usize).prop_map(|(tap, max)| Step::Take { tap, max }),
            1 => (0..8_usize).prop_map(Step::Detach),
            1 => Just(Step::HangUp),
            1 => (0..400_usize).prop_map(Step::Trim),
        ]
    }

    #[derive(Default)]
    struct Client {
        /// Of each stream: what the client has seen of it, as (place, message).
        streams: Vec<Vec<(u64, usize)>>,
        /// Where each began, as it was primed.
        began: Vec<u64>,
        taps: Vec<(TapKey, usize)>,
    }

    impl Client {
        fn take(&mut self, outlet: &mut Outlet, tap: usize, max: usize) {
            let Some(&(key, stream)) = self.taps.get(tap) else { return };
            let (events, taken) = take(outlet, key, max);
            for (id, data) in events {
                assert_eq!((id.shard, id.stream), (ShardId(3), stream as u64), "only its own stream's events");
                let message = data.split(' ').next().unwrap().parse().unwrap();
                let seen = &mut self.streams[stream];
                assert!(seen.last().is_none_or(|last| last.0 < id.seq && last.1 < message), "in order, none twice");
                seen.push((id.seq, message));
            }
            if matches!(taken, Taken::End | Taken::Gone) {
                self.taps.remove(tap);
            }
        }
    }

    proptest! {
        /// Whatever happens, each message reaches its client once at most, in order and on one stream; all of them do
        /// where nothing was torn; and no more is held than the bounds say.
        #[test]
        fn each_message_goes_out_once(steps in prop::collection::vec(step(), 0..120)) {
            let (mut outlet, mut client, mut pushed, mut torn) = (outlet(), Client::default(), 0, false);
            for step in steps {
                match step {
                    Step::Push(length) if outlet.room() => {
                        outlet.push(format!("{pushed} {}", "x".repeat(length)).as_bytes());
                        pushed += 1;
                    }
                    Step::Attach if client.streams.len() < 8 => {
                        client.streams.push(Vec::new());
                        let stream = client.streams.len() - 1;
                        let tap = outlet.attach(stream as u64);
                        client.taps.push((tap, stream));
                        let mut primed = Vec::new();
                        outlet.prime(tap, 1, &mut primed);
                        client.began.push(read(&primed)[0].0.seq);
                    }
                    Step::Resume { stream, unseen } if stream < client.streams.len() => {
                        let seen = &mut client.streams[stream];
                        seen.truncate(seen.len().saturating_sub(unseen));
                        let last = seen.last().map_or(client.began[stream], |last| last.0);
                        if let Ok(resumed) = outlet.resume(stream as u64, last) {
                            torn |= resumed.torn;
                            client.taps.retain(|tap| tap.1 != stream);
                            client.taps.push((resumed.tap, stream));
                            outlet.go_on();
                        }
                    }
                    Step::Take { tap, max } => client.take(&mut outlet, tap, max),
                    Step::Detach(tap) if tap < client.taps.len() => outlet.detach(client.taps.remove(tap).0, T0),
                    Step::HangUp => outlet.hang_up(None, b"x"),
                    Step::Trim(bytes) => outlet.trim(bytes),
                    _ => {}
                }
                // What an older connection was to get again may be dropped for what is new.
                let late = |tap: &Tap| outlet.streams.iter().any(|it| it.id == tap.stream && it.lost >= tap.next);
                torn |= outlet.taps.iter().any(late);
                prop_assert!(outlet.waiting_bytes <= SMALL.waiting_bytes + 200);
                prop_assert_eq!(outlet.taps(), client.taps.len());
                let held: usize = outlet.log.iter().map(|entry| cost(entry.data.as_deref())).sum();
                prop_assert_eq!(held, outlet.held());
            }
            // In the end every client comes back for the rest.
            outlet.finish();
            client.taps.clear();
            for stream in 0..client.streams.len() {
                let last = client.streams[stream].last().map_or(client.began[stream], |last| last.0);
                let resumed = outlet.resume(stream as u64, last).unwrap();
                torn |= resumed.torn;
                client.taps = vec![(resumed.tap, stream)];
                client.take(&mut outlet, 0, usize::MAX);
            }
            let mut seen: Vec<usize> = client.streams.iter().flatten().map(|seen| seen.1).collect();
            seen.sort_unstable();
            prop_assert!(seen.windows(2).all(|two| two[0] < two[1]), "none twice");
            prop_assert!(torn || client.streams.is_empty() || seen.len() == pushed, "{seen:?} of {pushed}");
        }
    }
}
