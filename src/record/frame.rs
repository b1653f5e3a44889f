//! One record as bytes: a length, a kind, fixed numbers, then texts with their lengths. The shard only copies; JSON is
//! made by whoever reads.

use crate::base::ids::ShardId;
use crate::base::limits::{
    OUTCOME_BYTES_MAX, RECORD_BYTES_MAX, RECORD_DETAIL_BYTES_MAX, RECORD_RULES_MAX, RECORD_TEXT_BYTES_MAX,
};

use super::Seq;
use super::put::Put;

/// Bytes of the length in front of each frame.
pub const LENGTH_BYTES: usize = 4;

/// What was decided about one request. Texts longer than `RECORD_TEXT_BYTES_MAX` are cut and marked.
#[derive(Clone, Copy, Debug, Default)]
pub struct Decision<'a> {
    /// Wall clock, milliseconds since 1970.
    pub unix_ms: u64,
    /// Issuer of the caller's token; empty for `anonymous` and for a caller that is not known.
    pub issuer: &'a str,
    /// The caller's subject; empty when it is not known.
    pub subject: &'a str,
    /// The client acting for the subject; empty when the token names none.
    pub agent: &'a str,
    /// The active task; empty for none.
    pub task: &'a str,
    /// The JSON-RPC method, or the HTTP method of a stream request.
    pub method: &'a str,
    /// The server's configured name.
    pub server: &'a str,
    /// Tool, prompt or resource, by its upstream name.
    pub target: &'a str,
    /// Which of the three `target` is.
    pub kind: TargetKind,
    /// The answer.
    pub verdict: Verdict,
    /// Why, one word.
    pub reason: &'a str,
    /// Ids of the deciding rules; at most `RECORD_RULES_MAX` are kept.
    pub rules: &'a [&'a str],
    /// First six bytes of the policy's hash.
    pub policy: [u8; 6],
    /// Trace id of the caller's context (W3C Trace Context), zero for none.
    pub trace: [u8; 16],
    /// Protocol revision, e.g. `2026-07-28`; empty when it was not reached.
    pub protocol: &'a str,
    /// Keyed digest of all arguments, zero for none (see [`super::keyed`]).
    pub arguments: [u8; 16],
    /// What only some decisions have, as members of JSON (see [`super::detail`]); at most `RECORD_DETAIL_BYTES_MAX`.
    pub detail: &'a [u8],
    /// Something was left out already.
    pub cut: bool,
}

/// What a decision has for itself, as in [`Decision`].
#[derive(Clone, Copy, Debug, Default)]
pub struct Own<'a> {
    /// Wall clock, milliseconds since 1970.
    pub unix_ms: u64,
    /// Trace id of the caller's context, zero for none.
    pub trace: [u8; 16],
    /// Keyed digest of all arguments, zero for none.
    pub arguments: [u8; 16],
    /// What only some decisions have.
    pub detail: &'a [u8],
    /// Something was left out already.
    pub cut: bool,
}

/// All the rest of a decision, which many have in common, as it stands in their frames.
#[derive(Debug, Default)]
pub struct Alike {
    bytes: Vec<u8>,
    /// Whether something of it was cut.
    cut: bool,
}

/// What a record's target is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(u8)]
pub enum TargetKind {
    /// The method has none.
    #[default]
    None,
    /// A tool.
    Tool,
    /// A prompt.
    Prompt,
    /// A resource, by URI.
    Resource,
}

/// The answer of a decision.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(u8)]
pub enum Verdict {
    /// The call may go.
    Permit,
    /// It may not.
    #[default]
    Refuse,
    /// It waits for somebody's approval.
    Pending,
}

/// What became of a call that was let go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// Wall clock, milliseconds since 1970.
    pub unix_ms: u64,
    /// How it ended.
    pub status: Status,
    /// HTTP status given to the client; 0 when nothing could be given.
    pub http: u16,
    /// The tool said `isError: true`.
    pub is_error: bool,
    /// JSON-RPC error code of the answer, 0 for none.
    pub code: i64,
    /// From the head's last byte to the answer's last byte, microseconds.
    pub total_us: u64,
    /// Of these, until the server's answer began, microseconds.
    pub upstream_us: u64,
    /// Bytes of the request body.
    pub request_bytes: u64,
    /// Bytes of the answer body.
    pub answer_bytes: u64,
}

/// How a call ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Status {
    /// Answered with a result.
    Ok,
    /// Answered with a JSON-RPC error.
    Error,
    /// The server could not be reached; nothing was sent.
    Unreachable,
    /// No answer in time; whether it was executed is not known.
    Timeout,
    /// The connection ended in the middle; whether it was executed is not known.
    Cut,
    /// The server's answer was not acceptable and was withheld.
    Invalid,
    /// The caller left; the server was told.
    Cancelled,
    /// The stream ended before the answer; its client resumes it on another (MCP 2025-11-25 basic/transports).
    Detached,
}

/// One frame as it comes from the ring: read as far as every reader needs it.
#[derive(Clone, Copy, Debug)]
pub enum Written<'a> {
    /// A decision.
    Decision(Decided<'a>),
    /// An outcome.
    Outcome {
        /// Shard of its decision.
        shard: ShardId,
        /// Number of its decision.
        seq: Seq,
        /// Everything else.
        outcome: Outcome,
    },
}

/// What a decision has for itself, as in [`Decision`].
#[derive(Clone, Copy, Debug)]
pub struct Decided<'a> {
    /// Its shard.
    pub shard: ShardId,
    /// Its number.
    pub seq: Seq,
    /// When.
    pub unix_ms: u64,
    /// Id of its trace, zero for none.
    pub trace: [u8; 16],
    /// Digest of its arguments, zero for none.
    pub arguments: [u8; 16],
    /// Whether something was cut.
    pub cut: bool,
    /// Members of JSON.
    pub detail: &'a [u8],
    /// All the rest.
    pub common: Common<'a>,
}

/// What a decision has in common with every other one of the same caller about the same thing, as it stands in its
/// frame: everything that [`Decided`] does not name.
#[derive(Clone, Copy, Debug)]
pub struct Common<'a>(&'a [u8]);

/// One frame, all of it. Texts borrow from the frame.
#[derive(Clone, Debug)]
#[expect(clippy::large_enum_variant, reason = "one at a time, taken apart at once")]
pub enum Frame<'a> {
    /// A decision.
    Decision {
        /// Its shard.
        shard: ShardId,
        /// Its number.
        seq: Seq,
        /// Everything else but the rules.
        decision: Decision<'a>,
        /// The rules.
        rules: Vec<&'a str>,
        /// Whether a text was cut.
        cut: bool,
    },
    /// An outcome.
    Outcome {
        /// Shard of its decision.
        shard: ShardId,
        /// Number of its decision.
        seq: Seq,
        /// Everything else.
        outcome: Outcome,
    },
}

const KIND_DECISION: u8 = 1;
const KIND_OUTCOME: u8 = 2;

/// Texts of a decision beside its rules.
const TEXTS: usize = 9;
/// What frames of both kinds begin with, behind their length: kind, shard, number, time.
const BEGIN_BYTES: usize = 1 + 2 + 8 + 8;
/// What a decision has for itself: this, trace, arguments, whether it is cut; and the length of what is common.
const OWN_BYTES: usize = BEGIN_BYTES + 16 + 16 + 1 + 2;
/// What is common, without texts and rules: target's kind, verdict, policy, the texts' lengths.
const COMMON_FIXED_BYTES: usize = 2 + 6 + 2 * TEXTS;
/// An outcome, behind its length.
const OUTCOME_BYTES: usize = BEGIN_BYTES + 2 + 2 + 8 + 4 * 8;

/// Writes a decision behind the place of its length: what it has for itself, what it has in common with others (who
/// keeps that as text finds it again by its bytes), and its detail.
pub(super) fn write_decision(put: &mut Put<'_>, shard: ShardId, seq: Seq, decision: &Decision<'_>) {
    let Decision { unix_ms, trace, arguments, detail, cut, .. } = *decision;
    let own = Own { unix_ms, trace, arguments, detail, cut };
    write_with(put, shard, seq, &own, |put| write_common(put, decision));
}

/// The same, of what is known already.
pub(super) fn write_alike(put: &mut Put<'_>, shard: ShardId, seq: Seq, own: &Own<'_>, alike: &Alike) {
    write_with(put, shard, seq, own, |put| {
        put.bytes(&alike.bytes);
        alike.cut
    });
}

/// `common` puts what is common, and says whether something of it was cut.
#[inline]
fn write_with(put: &mut Put<'_>, shard: ShardId, seq: Seq, own: &Own<'_>, common: impl FnOnce(&mut Put<'_>) -> bool) {
    let detail = if own.detail.len() <= RECORD_DETAIL_BYTES_MAX { own.detail } else { &[] };
    let Some(place) = put.place::<OWN_BYTES>() else { return };
    let before = put.len();
    let cut = common(put) | own.cut | (detail.len() < own.detail.len());
    let mut head = Put::new(place);
    begin(&mut head, KIND_DECISION, shard, seq, own.unix_ms);
    head.array(&own.trace);
    head.array(&own.arguments);
    head.array(&[u8::from(cut)]);
    head.array(&length(put.len() - before));
    put.bytes(detail);
}

/// What many decisions have in common; whether something of it was cut.
fn write_common(put: &mut Put<'_>, decision: &Decision<'_>) -> bool {
    let rules = decision.rules.get(..RECORD_RULES_MAX).unwrap_or(decision.rules);
    let mut cut = rules.len() < decision.rules.len();
    let Some(fixed) = put.place::<COMMON_FIXED_BYTES>() else { return cut };
    let mut fixed = Put::new(fixed);
    fixed.array(&[decision.kind as u8, decision.verdict as u8]);
    fixed.array(&decision.policy);
    for text in texts(decision) {
        let kept = kept(text);
        cut |= kept.len() < text.len();
        fixed.array(&length(kept.len()));
        put.bytes(kept);
    }
    for rule in rules {
        let kept = kept(rule);
        cut |= kept.len() < rule.len();
        put.array(&length(kept.len()));
        put.bytes(kept);
    }
    cut
}

impl Alike {
    /// What this decision has in common with others, in the place of what was here.
    pub(super) fn keep(&mut self, room: &mut [u8], decision: &Decision<'_>) {
        let mut put = Put::new(room);
        self.cut = write_common(&mut put, decision);
        let len = put.len();
        self.bytes.clear();
        self.bytes.extend_from_slice(room.get(..len).unwrap_or_default());
    }

    /// How much it is, bytes.
    #[must_use]
    pub fn len(&self) -> usize {
        self.bytes.len()
    }

    /// Whether nothing was kept yet.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }
}

pub(super) fn write_outcome(put: &mut Put<'_>, shard: ShardId, seq: Seq, outcome: &Outcome) {
    let mut own = [0; OUTCOME_BYTES];
    let mut fixed = Put::new(&mut own);
    begin(&mut fixed, KIND_OUTCOME, shard, seq, outcome.unix_ms);
    fixed.array(&[outcome.status as u8, u8::from(outcome.is_error)]);
    fixed.array(&outcome.http.to_le_bytes());
    fixed.array(&outcome.code.to_le_bytes());
    for number in [outcome.total_us, outcome.upstream_us, outcome.request_bytes, outcome.answer_bytes] {
        fixed.array(&number.to_le_bytes());
    }
    debug_assert_eq!(fixed.len(), OUTCOME_BYTES);
    put.array(&own);
}

/// A frame without its length, taken apart as far as every reader needs it. `None` for what no writer of ours wrote.
#[must_use]
pub fn read(bytes: &[u8]) -> Option<Written<'_>> {
    let mut cursor = Cursor { bytes };
    let kind = cursor.byte()?;
    let shard = ShardId(u16::from_le_bytes(cursor.array()?));
    let seq = Seq(cursor.number()?);
    let unix_ms = cursor.number()?;
    match kind {
        KIND_DECISION => {
            let (trace, arguments) = (cursor.array()?, cursor.array()?);
            let cut = cursor.byte()? != 0;
            let common = Common(cursor.behind_length()?);
            let detail = cursor.bytes;
            Some(Written::Decision(Decided { shard, seq, unix_ms, trace, arguments, cut, detail, common }))
        }
        KIND_OUTCOME => {
            let outcome = read_outcome(&mut cursor, unix_ms)?;
            Some(Written::Outcome { shard, seq, outcome })
        }
        _ => None,
    }
}

impl<'a> Written<'a> {
    /// All of it.
    #[must_use]
    pub fn frame(&self) -> Option<Frame<'a>> {
        match self {
            Self::Outcome { shard, seq, outcome } => {
                Some(Frame::Outcome { shard: *shard, seq: *seq, outcome: *outcome })
            }
            Self::Decision(decided) => {
                let Decided { shard, seq, unix_ms, trace, arguments, cut, detail, common } = *decided;
                let (decision, rules) = common.read()?;
                let decision = Decision { unix_ms, trace, arguments, cut, detail, ..decision };
                Some(Frame::Decision { shard, seq, decision, rules, cut })
            }
        }
    }
}

impl<'a> Common<'a> {
    /// As it stands in the frame.
    #[must_use]
    pub fn bytes(self) -> &'a [u8] {
        self.0
    }

    /// A decision that has only this, and its rules.
    #[must_use]
    pub fn read(self) -> Option<(Decision<'a>, Vec<&'a str>)> {
        let mut cursor = Cursor { bytes: self.0 };
        let kind = match cursor.byte()? {
            0 => TargetKind::None,
            1 => TargetKind::Tool,
            2 => TargetKind::Prompt,
            _ => TargetKind::Resource,
        };
        let verdict = match cursor.byte()? {
            0 => Verdict::Permit,
            2 => Verdict::Pending,
            _ => Verdict::Refuse,
        };
        let policy = cursor.array()?;
        let mut decision = Decision { kind, verdict, policy, ..Decision::default() };
        let lengths: [[u8; 2]; TEXTS] = [(); TEXTS].map(|()| cursor.array().unwrap_or_default());
        for (slot, length) in texts_mut(&mut decision).into_iter().zip(lengths) {
            *slot = std::str::from_utf8(cursor.take(u16::from_le_bytes(length).into())?).ok()?;
        }
        let mut rules = Vec::new();
        while let Some(rule) = cursor.behind_length() {
            rules.push(std::str::from_utf8(rule).ok()?);
        }
        Some((decision, rules))
    }
}

fn read_outcome(cursor: &mut Cursor<'_>, unix_ms: u64) -> Option<Outcome> {
    let status = match cursor.byte()? {
        0 => Status::Ok,
        1 => Status::Error,
        2 => Status::Unreachable,
        3 => Status::Timeout,
        4 => Status::Cut,
        5 => Status::Invalid,
        6 => Status::Cancelled,
        _ => Status::Detached,
    };
    let is_error = cursor.byte()? != 0;
    let http = u16::from_le_bytes(cursor.array()?);
    let code = i64::from_le_bytes(cursor.array()?);
    Some(Outcome {
        unix_ms,
        status,
        http,
        is_error,
        code,
        total_us: cursor.number()?,
        upstream_us: cursor.number()?,
        request_bytes: cursor.number()?,
        answer_bytes: cursor.number()?,
    })
}

/// The texts of a decision, in the order of the frame.
fn texts<'a>(decision: &Decision<'a>) -> [&'a str; TEXTS] {
    [
        decision.issuer,
        decision.subject,
        decision.agent,
        decision.task,
        decision.method,
        decision.server,
        decision.target,
        decision.reason,
        decision.protocol,
    ]
}

fn texts_mut<'d, 'a>(decision: &'d mut Decision<'a>) -> [&'d mut &'a str; TEXTS] {
    [
        &mut decision.issuer,
        &mut decision.subject,
        &mut decision.agent,
        &mut decision.task,
        &mut decision.method,
        &mut decision.server,
        &mut decision.target,
        &mut decision.reason,
        &mut decision.protocol,
    ]
}

#[inline]
fn begin(put: &mut Put<'_>, kind: u8, shard: ShardId, seq: Seq, unix_ms: u64) {
    put.array(&[kind]);
    put.array(&shard.0.to_le_bytes());
    put.array(&seq.0.to_le_bytes());
    put.array(&unix_ms.to_le_bytes());
}

/// What is written of a text.
#[inline]
fn kept(text: &str) -> &[u8] {
    match text.len() {
        0..=RECORD_TEXT_BYTES_MAX => text.as_bytes(),
        _ => &text.as_bytes()[..text.floor_char_boundary(RECORD_TEXT_BYTES_MAX)],
    }
}

/// The length of something that all bounds together keep below 64 KiB.
#[inline]
fn length(bytes: usize) -> [u8; 2] {
    u16::try_from(bytes).unwrap_or(u16::MAX).to_le_bytes()
}

struct Cursor<'a> {
    bytes: &'a [u8],
}

impl<'a> Cursor<'a> {
    fn take(&mut self, n: usize) -> Option<&'a [u8]> {
        let (head, tail) = self.bytes.split_at_checked(n)?;
        self.bytes = tail;
        Some(head)
    }

    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        self.take(N)?.try_into().ok()
    }

    fn byte(&mut self) -> Option<u8> {
        self.array::<1>().map(|[byte]| byte)
    }

    fn number(&mut self) -> Option<u64> {
        self.array().map(u64::from_le_bytes)
    }

    fn behind_length(&mut self) -> Option<&'a [u8]> {
        let length = u16::from_le_bytes(self.array()?);
        self.take(usize::from(length))
    }
}

/// What decisions have in common, every text at its bound.
const COMMON_BYTES_MAX: usize = COMMON_FIXED_BYTES + (TEXTS + RECORD_RULES_MAX) * (RECORD_TEXT_BYTES_MAX + 2);

const _: () = assert!(COMMON_BYTES_MAX <= u16::MAX as usize, "its length fits");
const _: () = assert!(
    LENGTH_BYTES + OWN_BYTES + COMMON_BYTES_MAX + RECORD_DETAIL_BYTES_MAX <= RECORD_BYTES_MAX,
    "a frame with every text at its bound"
);
const _: () = assert!(LENGTH_BYTES + OUTCOME_BYTES <= OUTCOME_BYTES_MAX, "an outcome has its room");

#[cfg(test)]
mod tests {
    use super::*;

    fn written(write: impl FnOnce(&mut Put<'_>)) -> Vec<u8> {
        let mut room = vec![0; RECORD_BYTES_MAX];
        let mut put = Put::new(&mut room);
        write(&mut put);
        let len = put.len();
        room.truncate(len);
        room
    }

    fn whole(bytes: &[u8]) -> Option<Frame<'_>> {
        read(bytes)?.frame()
    }

    #[test]
    fn a_decision_comes_back_as_it_was_written() {
        let long = "x".repeat(RECORD_TEXT_BYTES_MAX + 1);
        let decision = Decision {
            unix_ms: 7,
            issuer: "https://issuer.example",
            subject: "alice",
            agent: &long,
            method: "tools/call",
            server: "docs",
            target: "search",
            kind: TargetKind::Tool,
            verdict: Verdict::Pending,
            reason: "permit",
            rules: &["reads", "all"],
            policy: [1, 2, 3, 4, 5, 6],
            trace: [9; 16],
            arguments: [8; 16],
            detail: b",\"a\":1",
            protocol: "2026-07-28",
            ..Decision::default()
        };
        let bytes = written(|put| write_decision(put, ShardId(3), Seq(41), &decision));
        let Some(Frame::Decision { shard, seq, decision: back, rules, cut }) = whole(&bytes) else {
            panic!("not a decision");
        };
        assert_eq!((shard, seq, cut), (ShardId(3), Seq(41), true));
        assert_eq!(rules, ["reads", "all"]);
        assert_eq!(back.agent.len(), RECORD_TEXT_BYTES_MAX);
        assert_eq!((back.subject, back.target, back.trace), ("alice", "search", [9; 16]));
        assert_eq!((back.verdict, back.arguments, back.detail), (Verdict::Pending, [8; 16], &b",\"a\":1"[..]));
    }

    #[test]
    fn what_was_kept_of_a_decision_is_written_as_it_was() {
        let long = "x".repeat(RECORD_TEXT_BYTES_MAX + 1);
        let mut alike = Alike::default();
        assert!(alike.is_empty());
        for (subject, rules) in [("alice", &["reads", "all"][..]), (&long, &["one"]), ("", &[])] {
            let decision = Decision { subject, rules, policy: [7; 6], verdict: Verdict::Permit, ..Decision::default() };
            alike.keep(&mut vec![0; RECORD_BYTES_MAX], &decision);
            for (n, detail) in [(1, &b",\"a\":1"[..]), (2, b"")] {
                let own = Own { unix_ms: u64::from(n), trace: [n; 16], arguments: [n; 16], detail, cut: false };
                let Own { unix_ms, trace, arguments, .. } = own;
                let decision = Decision { unix_ms, trace, arguments, detail, ..decision };
                let want = written(|put| write_decision(put, ShardId(1), Seq(2), &decision));
                assert_eq!(written(|put| write_alike(put, ShardId(1), Seq(2), &own, &alike)), want);
            }
        }
    }

    #[test]
    fn verdicts_come_back() {
        for verdict in [Verdict::Permit, Verdict::Refuse, Verdict::Pending] {
            let detail = vec![b' '; RECORD_DETAIL_BYTES_MAX + 1];
            let decision = Decision { verdict, detail: &detail, ..Decision::default() };
            let bytes = written(|put| write_decision(put, ShardId(0), Seq(0), &decision));
            let Some(Frame::Decision { decision: back, cut, .. }) = whole(&bytes) else {
                panic!("not a decision");
            };
            assert_eq!((back.verdict, back.detail.len(), cut), (verdict, 0, true));
        }
    }

    #[test]
    fn a_frame_with_every_text_at_its_bound_has_room() {
        let long = "\u{e9}".repeat(RECORD_TEXT_BYTES_MAX);
        let (rules, detail) = ([&*long; RECORD_RULES_MAX + 1], [b' '; RECORD_DETAIL_BYTES_MAX]);
        let mut decision = Decision { rules: &rules, detail: &detail, ..Decision::default() };
        texts_mut(&mut decision).into_iter().for_each(|text| *text = &long);
        let bytes = written(|put| write_decision(put, ShardId(0), Seq(0), &decision));
        let Some(Frame::Decision { decision: back, rules, cut, .. }) = whole(&bytes) else { panic!("not a decision") };
        assert!(texts(&back).iter().chain(&rules).all(|text| text.len() == RECORD_TEXT_BYTES_MAX) && cut);
        assert_eq!((rules.len(), back.detail.len()), (RECORD_RULES_MAX, RECORD_DETAIL_BYTES_MAX));
    }

    #[test]
    fn an_outcome_comes_back_and_fits_its_room() {
        let outcome = Outcome {
            unix_ms: u64::MAX,
            status: Status::Cut,
            http: 502,
            is_error: true,
            code: i64::MIN,
            total_us: 1,
            upstream_us: 2,
            request_bytes: 3,
            answer_bytes: 4,
        };
        let bytes = written(|put| write_outcome(put, ShardId(1), Seq(2), &outcome));
        assert!(LENGTH_BYTES + bytes.len() <= OUTCOME_BYTES_MAX);
        let Some(Frame::Outcome { seq, outcome: back, .. }) = whole(&bytes) else {
            panic!("not an outcome");
        };
        assert_eq!((seq, back), (Seq(2), outcome));
    }
}
