//! What a chaos run draws: for each call who calls what, how its client behaves, and how its server does. A draw depends
//! on the seed and the call's number alone, so that both sides, and a replay, draw the same.

use std::time::Duration;

use super::mcp::fresh;

/// The servers behind the gateway.
pub(crate) const SERVERS: [&str; 3] = ["a", "b", "c"];
/// How long the gateway lets a server take for a call.
pub(crate) const TIMEOUT: Duration = Duration::from_millis(1500);
/// A request body that the gateway takes, bytes.
pub(crate) const BODY_BYTES_MAX: usize = 256 * 1024;
/// Calls in a row that one client takes on; pipelined together, where they are.
pub(crate) const BLOCK: u64 = 4;

/// Callers: subject, agent, and the tasks their tokens name.
pub(crate) const CALLERS: [(&str, &str, &[&str]); 5] = [
    ("ada", "agent-1", &[]),
    ("ada", "agent-2", &["research"]),
    ("bob", "agent-1", &["support"]),
    ("cyd", "agent-3", &["research", "support"]),
    ("dan", "agent-1", &["research"]),
];

/// A row of how often each of a kind is drawn.
pub(crate) type Odds<T> = (T, u32);

/// A tool, and what the policy says to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Tool {
    /// Everybody's.
    Echo,
    /// Of the task `research`.
    Read,
    /// Of the task `support`.
    Refund,
    /// Of no rule.
    Secret,
    /// Forbidden, with a reason.
    Frozen,
    /// Not offered.
    Absent,
}

/// How a client behaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Doing {
    /// One request, one answer.
    Plain,
    /// Four requests at once on one connection.
    Pipelined,
    /// The request in several pieces.
    Split,
    /// The same, with pauses.
    Slow,
    /// A chunked body, with extensions and trailers.
    Chunked,
    /// `Expect: 100-continue`.
    Expect,
    /// Reads the answer a little at a time.
    SlowRead,
    /// Cancels the call with a notification, which its server does not heed, and waits for the answer.
    Cancel,
    /// Closes its half after the request.
    HalfClose,
    /// Comes and goes.
    GoneAtOnce,
    /// Leaves within the head.
    GoneInHead,
    /// Leaves within the body.
    GoneInBody,
    /// Leaves before the answer.
    GoneAfter,
    /// Leaves within the answer.
    GoneInAnswer,
    /// Resets the connection before the answer.
    Reset,
    /// Resets the connection within the body.
    ResetInBody,
    /// An MCP header that tells another story than the body.
    WrongHeader,
    /// An MCP header is missing.
    NoHeader,
    /// A head that is none.
    BadHead,
    /// A body that is none.
    BadBody,
    /// A token that has ended.
    ExpiredToken,
    /// A token whose signature is not right.
    ForgedToken,
    /// A token for somebody else.
    ForeignToken,
    /// No token.
    NoToken,
    /// Another caller's session.
    ForeignSession,
    /// A session that was ended.
    DeadSession,
    /// A body beyond the limit.
    TooLarge,
    /// A path where there is nothing.
    WrongPath,
}

/// How a server behaves when a call has reached it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Serving {
    /// A JSON answer.
    Json,
    /// The same, chunked.
    Chunked,
    /// The same, ended by the connection's end.
    UntilClose,
    /// An event stream with progress.
    Stream,
    /// A JSON answer, after a while.
    Delayed,
    /// A JSON answer, byte by byte.
    Trickled,
    /// A JSON answer in several writes.
    Split,
    /// An answer of up to 300 KiB.
    Huge,
    /// Some interim answers, then the answer.
    Interim,
    /// A JSON answer, and the end of the connection.
    CloseAfter,
    /// A JSON answer, and the end of the connection after some idle time.
    CloseIdle,
    /// A JSON answer, and a second one, of somebody else, behind it.
    Extra,
    /// A JSON-RPC error.
    Error,
    /// A result that says `isError`.
    ToolError,
    /// An error before the body was read.
    Early,
    /// The end of the connection instead of an answer.
    CloseBefore,
    /// The end of the connection within the answer.
    CloseDuring,
    /// A reset, before the answer or within it.
    Reset,
    /// A huge answer that ends in the middle.
    HugeCut,
    /// A Content-Length that is too small.
    LengthShort,
    /// A Content-Length that is too large, and the end of the connection.
    LengthLong,
    /// Content-Length and Transfer-Encoding.
    BothLengths,
    /// A chunk whose size is none, or a wrong one.
    BadChunk,
    /// A status that is none, or one that is no answer.
    BadStatus,
    /// Too many interim answers.
    Flood,
    /// An answer to no request that there is.
    WrongId,
    /// Somebody else's answer, whole.
    ForeignId,
    /// An event stream that ends too early.
    StreamCut,
    /// An event stream with somebody else's answer.
    StreamForeign,
    /// Nothing.
    Never,
}

/// The form in which a call's id is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Id {
    /// 1, as most calls at the same time.
    One,
    /// Its own number.
    Number,
    /// A text.
    Text,
    /// A number that no float holds.
    Big,
}

/// One call, as drawn.
#[derive(Clone, Debug)]
pub(crate) struct Call {
    pub(crate) number: u64,
    /// What it alone carries; ends in its number.
    pub(crate) value: String,
    /// Index into [`CALLERS`].
    pub(crate) who: usize,
    /// The task that the caller names, and whether it does so in the message.
    pub(crate) named: Option<(&'static str, bool)>,
    pub(crate) modern: bool,
    /// Index into [`SERVERS`].
    pub(crate) server: usize,
    pub(crate) tool: Tool,
    pub(crate) id: Id,
    /// Bytes of an argument that is there for its length.
    pub(crate) pad: usize,
    /// On a connection of its own.
    pub(crate) alone: bool,
    pub(crate) doing: Doing,
    pub(crate) serving: Serving,
}

/// Numbers from a seed (splitmix64).
#[derive(Clone, Debug)]
pub(crate) struct Draw(u64);

/// What policy must say to a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    Permit,
    /// Refused as if it did not exist.
    Hidden,
    /// Refused with a reason.
    Forbidden,
    /// The task named cannot be the active one.
    BadTask,
}

impl Draw {
    /// The numbers of one call; `which` tells the users of one call apart.
    pub(crate) fn of(seed: u64, number: u64, which: u64) -> Self {
        Self(mix(seed ^ mix(number.wrapping_mul(8).wrapping_add(which))))
    }

    pub(crate) fn number(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        mix(self.0)
    }

    /// Below `bound`, which is not 0.
    pub(crate) fn below(&mut self, bound: usize) -> usize {
        usize::try_from(self.number() % bound as u64).expect("it is below a usize")
    }

    /// From `range`'s start to below its end.
    pub(crate) fn within(&mut self, range: std::ops::Range<usize>) -> usize {
        range.start + self.below(range.end - range.start)
    }

    pub(crate) fn chance(&mut self, percent: usize) -> bool {
        self.below(100) < percent
    }

    pub(crate) fn one_of<T: Copy>(&mut self, all: &[T]) -> T {
        all[self.below(all.len())]
    }

    /// One of them, as often as their weights say.
    pub(crate) fn among<T: Copy>(&mut self, odds: &[Odds<T>]) -> T {
        let total: u32 = odds.iter().map(|(_, weight)| weight).sum();
        let mut left = u32::try_from(self.below(total as usize)).expect("it is below a u32");
        for (what, weight) in odds {
            if left < *weight {
                return *what;
            }
            left -= weight;
        }
        unreachable!("the weights add up to their sum")
    }

    /// Places at which to cut `length` bytes, in order.
    pub(crate) fn cuts(&mut self, length: usize, pieces: usize) -> Vec<usize> {
        let mut cuts: Vec<usize> = (1..pieces).map(|_| self.below(length.max(1))).collect();
        cuts.push(length);
        cuts.sort_unstable();
        cuts
    }
}

impl Call {
    /// The call of that number.
    pub(crate) fn of(seed: u64, number: u64) -> Self {
        let pipelined = Draw::of(seed, number / BLOCK, 1).chance(6);
        let mut draw = Draw::of(seed, number, 2);
        let doing = draw.among(DOINGS);
        let doing = if pipelined { Doing::Pipelined } else { doing };
        let serving = draw.among(SERVINGS);
        let who = draw.below(CALLERS.len());
        let modern = match doing {
            Doing::WrongHeader | Doing::NoHeader => true,
            Doing::ForeignSession | Doing::DeadSession | Doing::Cancel => false,
            _ => draw.chance(65),
        };
        let named = draw.chance(50).then(|| (draw.one_of(&["research", "support"]), draw.chance(50)));
        let pad = match draw.below(40) {
            0 => draw.within(20_000..120_000),
            1..5 => draw.within(500..9_000),
            _ => draw.below(200),
        };
        Self {
            number,
            value: value(seed, number),
            who,
            // Most callers have one task and need not name it.
            named: named.filter(|_| CALLERS[who].2.len() > 1 || draw.chance(10)),
            modern,
            server: draw.below(SERVERS.len()),
            tool: draw.among(TOOLS),
            // In a session no id is used twice (MCP 2025-11-25 basic, "Requests").
            id: match draw.among(IDS) {
                Id::One | Id::Big if !modern => Id::Number,
                id => id,
            },
            // So long that it is not read on the way to the answer; but within what may be sent.
            pad: if serving == Serving::Early { draw.within(100_000..200_000) } else { pad },
            alone: draw.chance(25),
            doing,
            serving,
        }
    }

    /// The call that carries `value`; `None` where no call of this run does.
    pub(crate) fn carrying(seed: u64, value: &str) -> Option<Self> {
        let number = u64::from_str_radix(value.get(16..32)?, 16).ok()?;
        (self::value(seed, number) == value).then(|| Self::of(seed, number))
    }

    /// The id as it is written.
    pub(crate) fn id_text(&self) -> String {
        match self.id {
            Id::One => "1".into(),
            Id::Number => self.number.to_string(),
            Id::Text => format!("\"id-{}\"", if self.modern { self.number % 7 } else { self.number }),
            Id::Big => "9007199254740993".into(),
        }
    }

    /// The task that a permit must name.
    pub(crate) fn task(&self) -> Option<&'static str> {
        match (self.named, CALLERS[self.who].2) {
            (Some((task, _)), _) => Some(task),
            (None, [task]) => Some(task),
            _ => None,
        }
    }

    /// What policy must say.
    pub(crate) fn verdict(&self) -> Verdict {
        if self.named.is_some_and(|(task, _)| !CALLERS[self.who].2.contains(&task)) {
            return Verdict::BadTask;
        }
        match (self.tool, self.task()) {
            (Tool::Echo, _) | (Tool::Read, Some("research")) | (Tool::Refund, Some("support")) => Verdict::Permit,
            (Tool::Frozen, _) => Verdict::Forbidden,
            _ => Verdict::Hidden,
        }
    }

    /// Its draws beyond these, one stream of numbers for each side.
    pub(crate) fn more(&self, seed: u64, which: u64) -> Draw {
        Draw::of(seed, self.number, 3 + which)
    }
}

impl Tool {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Echo => "echo",
            Self::Read => "read",
            Self::Refund => "refund",
            Self::Secret => "secret",
            Self::Frozen => "frozen",
            Self::Absent => "absent",
        }
    }
}

impl Doing {
    /// Whether the whole of a well-formed request is sent, and its answer waited for.
    pub(crate) fn is_whole(self) -> bool {
        matches!(
            self,
            Self::Plain
                | Self::Pipelined
                | Self::Split
                | Self::Slow
                | Self::Chunked
                | Self::Expect
                | Self::SlowRead
                | Self::Cancel
        )
    }

    /// Whether a well-formed request may have reached the gateway whole, though nobody may wait for its answer.
    pub(crate) fn may_arrive(self) -> bool {
        self.is_whole() || matches!(self, Self::HalfClose | Self::GoneAfter | Self::GoneInAnswer | Self::Reset)
    }
}

impl Serving {
    /// What a call that waits may end with, in words of `End::word`.
    pub(crate) fn ends(self) -> &'static [&'static str] {
        match self {
            Self::Json
            | Self::Chunked
            | Self::UntilClose
            | Self::Stream
            | Self::Delayed
            | Self::Trickled
            | Self::Split
            | Self::Huge
            | Self::Interim
            | Self::CloseAfter
            | Self::CloseIdle
            | Self::Extra
            | Self::ToolError => &["echo"],
            Self::Error => &["error"],
            Self::Early => &["error", "server_cut"],
            Self::CloseBefore | Self::CloseDuring | Self::Reset | Self::LengthLong => &["server_cut"],
            Self::StreamCut | Self::StreamForeign => &["server_cut"],
            Self::HugeCut => &["cut"],
            Self::LengthShort
            | Self::BothLengths
            | Self::BadChunk
            | Self::BadStatus
            | Self::Flood
            | Self::WrongId
            | Self::ForeignId => &["server_invalid"],
            Self::Never => &["server_timeout"],
        }
    }

    /// Whether it answers as it should.
    pub(crate) fn is_good(self) -> bool {
        self.ends() == ["echo"]
    }
}

/// The value of a call: a word that nobody guesses, and its number.
pub(crate) fn value(seed: u64, number: u64) -> String {
    format!("{:016x}{number:016x}", mix(mix(seed).wrapping_add(number)) | 1)
}

/// The seed of this run: that of `PORTCULLIS_CHAOS_SEED`, or one that nobody had before.
pub(crate) fn seed() -> u64 {
    let given = std::env::var("PORTCULLIS_CHAOS_SEED").ok();
    let given = given.map(|text| text.parse().unwrap_or_else(|_| panic!("PORTCULLIS_CHAOS_SEED={text} is no number")));
    given.unwrap_or_else(|| u64::from_str_radix(&fresh()[..12], 16).expect("digits"))
}

/// The calls of the long run: `PORTCULLIS_CHAOS_CALLS`, or what CI has time for.
pub(crate) fn calls() -> u64 {
    let given = std::env::var("PORTCULLIS_CHAOS_CALLS").ok();
    given.map_or(20_000, |text| text.parse().unwrap_or_else(|_| panic!("PORTCULLIS_CHAOS_CALLS={text} is no number")))
}

fn mix(mut x: u64) -> u64 {
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

/// The odds of each way a client behaves.
pub(crate) const DOINGS: &[Odds<Doing>] = &[
    (Doing::Plain, 430),
    (Doing::Split, 60),
    (Doing::Slow, 20),
    (Doing::Chunked, 50),
    (Doing::Expect, 40),
    (Doing::SlowRead, 30),
    (Doing::Cancel, 20),
    (Doing::HalfClose, 20),
    (Doing::GoneAtOnce, 10),
    (Doing::GoneInHead, 20),
    (Doing::GoneInBody, 20),
    (Doing::GoneAfter, 30),
    (Doing::GoneInAnswer, 20),
    (Doing::Reset, 20),
    (Doing::ResetInBody, 15),
    (Doing::WrongHeader, 30),
    (Doing::NoHeader, 20),
    (Doing::BadHead, 40),
    (Doing::BadBody, 40),
    (Doing::ExpiredToken, 15),
    (Doing::ForgedToken, 15),
    (Doing::ForeignToken, 15),
    (Doing::NoToken, 15),
    (Doing::ForeignSession, 20),
    (Doing::DeadSession, 12),
    (Doing::TooLarge, 12),
    (Doing::WrongPath, 15),
];

/// The odds of each way a server behaves.
pub(crate) const SERVINGS: &[Odds<Serving>] = &[
    (Serving::Json, 300),
    (Serving::Chunked, 40),
    (Serving::UntilClose, 20),
    (Serving::Stream, 80),
    (Serving::Delayed, 30),
    (Serving::Trickled, 20),
    (Serving::Split, 40),
    (Serving::Huge, 20),
    (Serving::Interim, 20),
    (Serving::CloseAfter, 20),
    (Serving::CloseIdle, 20),
    (Serving::Extra, 30),
    (Serving::Error, 20),
    (Serving::ToolError, 20),
    (Serving::Early, 20),
    (Serving::CloseBefore, 20),
    (Serving::CloseDuring, 20),
    (Serving::Reset, 20),
    (Serving::HugeCut, 15),
    (Serving::LengthShort, 15),
    (Serving::LengthLong, 15),
    (Serving::BothLengths, 15),
    (Serving::BadChunk, 15),
    (Serving::BadStatus, 15),
    (Serving::Flood, 15),
    (Serving::WrongId, 15),
    (Serving::ForeignId, 20),
    (Serving::StreamCut, 15),
    (Serving::StreamForeign, 15),
    (Serving::Never, 12),
];

const TOOLS: &[Odds<Tool>] =
    &[(Tool::Echo, 70), (Tool::Read, 12), (Tool::Refund, 12), (Tool::Secret, 3), (Tool::Frozen, 3), (Tool::Absent, 3)];

const IDS: &[Odds<Id>] = &[(Id::One, 55), (Id::Number, 20), (Id::Text, 20), (Id::Big, 5)];
