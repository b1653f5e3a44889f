//! One record as bytes: a length, a kind, fixed numbers, then texts with their lengths. The shard only copies; JSON is
//! made by whoever reads.

use crate::base::ids::ShardId;
use crate::base::limits::{
    OUTCOME_BYTES_MAX, RECORD_BYTES_MAX, RECORD_DETAIL_BYTES_MAX, RECORD_RULES_MAX, RECORD_TEXT_BYTES_MAX,
};

use super::Seq;

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

/// One frame, read back. Texts borrow from the frame.
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

/// What is left of a frame behind its length.
#[must_use]
pub fn rest_of(length: [u8; LENGTH_BYTES]) -> usize {
    (u32::from_le_bytes(length) as usize).saturating_sub(LENGTH_BYTES)
}

pub(super) fn write_decision(out: &mut Vec<u8>, shard: ShardId, seq: Seq, decision: &Decision<'_>) {
    begin(out, KIND_DECISION, shard, seq, decision.unix_ms);
    out.push(decision.kind as u8);
    out.push(decision.verdict as u8);
    out.extend_from_slice(&decision.policy);
    out.extend_from_slice(&decision.trace);
    out.extend_from_slice(&decision.arguments);
    let flags = out.len();
    out.push(0);
    let mut cut = decision.cut || decision.rules.len() > RECORD_RULES_MAX;
    cut |= write_detail(out, decision.detail);
    for text in texts(decision) {
        cut |= write_text(out, text);
    }
    for rule in decision.rules.iter().take(RECORD_RULES_MAX) {
        cut |= write_text(out, rule);
    }
    out[flags] = u8::from(cut);
    end(out);
}

pub(super) fn write_outcome(out: &mut Vec<u8>, shard: ShardId, seq: Seq, outcome: &Outcome) {
    begin(out, KIND_OUTCOME, shard, seq, outcome.unix_ms);
    out.push(outcome.status as u8);
    out.push(u8::from(outcome.is_error));
    out.extend_from_slice(&outcome.http.to_le_bytes());
    out.extend_from_slice(&outcome.code.to_le_bytes());
    for number in [outcome.total_us, outcome.upstream_us, outcome.request_bytes, outcome.answer_bytes] {
        out.extend_from_slice(&number.to_le_bytes());
    }
    debug_assert!(out.len() <= OUTCOME_BYTES_MAX);
    end(out);
}

/// A frame without its length. `None` for what no writer of ours wrote.
#[must_use]
pub fn read(bytes: &[u8]) -> Option<Frame<'_>> {
    let mut cursor = Cursor { bytes };
    let kind = cursor.byte()?;
    let shard = ShardId(u16::from_le_bytes(cursor.array()?));
    let seq = Seq(cursor.number()?);
    let unix_ms = cursor.number()?;
    match kind {
        KIND_DECISION => read_decision(&mut cursor, shard, seq, unix_ms),
        KIND_OUTCOME => read_outcome(&mut cursor, shard, seq, unix_ms),
        _ => None,
    }
}

fn read_decision<'a>(cursor: &mut Cursor<'a>, shard: ShardId, seq: Seq, unix_ms: u64) -> Option<Frame<'a>> {
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
    let trace = cursor.array()?;
    let arguments = cursor.array()?;
    let cut = cursor.byte()? != 0;
    let length = u16::from_le_bytes(cursor.array()?);
    let detail = cursor.take(usize::from(length))?;
    let mut decision =
        Decision { unix_ms, kind, verdict, policy, trace, arguments, detail, cut, ..Decision::default() };
    for slot in texts_mut(&mut decision) {
        *slot = cursor.text()?;
    }
    let mut rules = Vec::new();
    while let Some(rule) = cursor.text() {
        rules.push(rule);
    }
    Some(Frame::Decision { shard, seq, decision, rules, cut })
}

fn read_outcome<'a>(cursor: &mut Cursor<'a>, shard: ShardId, seq: Seq, unix_ms: u64) -> Option<Frame<'a>> {
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
    let outcome = Outcome {
        unix_ms,
        status,
        http,
        is_error,
        code,
        total_us: cursor.number()?,
        upstream_us: cursor.number()?,
        request_bytes: cursor.number()?,
        answer_bytes: cursor.number()?,
    };
    Some(Frame::Outcome { shard, seq, outcome })
}

/// The texts of a decision, in the order of the frame.
fn texts<'a>(decision: &Decision<'a>) -> [&'a str; 9] {
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

fn texts_mut<'d, 'a>(decision: &'d mut Decision<'a>) -> [&'d mut &'a str; 9] {
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

fn begin(out: &mut Vec<u8>, kind: u8, shard: ShardId, seq: Seq, unix_ms: u64) {
    out.extend_from_slice(&[0; LENGTH_BYTES]);
    out.push(kind);
    out.extend_from_slice(&shard.0.to_le_bytes());
    out.extend_from_slice(&seq.0.to_le_bytes());
    out.extend_from_slice(&unix_ms.to_le_bytes());
}

fn end(out: &mut [u8]) {
    let length = u32::try_from(out.len()).expect("RECORD_BYTES_MAX is far below 4 GiB");
    out[..LENGTH_BYTES].copy_from_slice(&length.to_le_bytes());
}

/// Writes members behind their length; says whether they found no room.
fn write_detail(out: &mut Vec<u8>, detail: &[u8]) -> bool {
    let kept = if detail.len() <= RECORD_DETAIL_BYTES_MAX { detail } else { &[] };
    let length = u16::try_from(kept.len()).expect("RECORD_DETAIL_BYTES_MAX fits 16 bits");
    out.extend_from_slice(&length.to_le_bytes());
    out.extend_from_slice(kept);
    kept.len() < detail.len()
}

/// Writes a text behind its length; says whether it had to be cut.
fn write_text(out: &mut Vec<u8>, text: &str) -> bool {
    let kept = &text[..text.floor_char_boundary(RECORD_TEXT_BYTES_MAX)];
    let length = u16::try_from(kept.len()).expect("RECORD_TEXT_BYTES_MAX fits 16 bits");
    out.extend_from_slice(&length.to_le_bytes());
    out.extend_from_slice(kept.as_bytes());
    kept.len() < text.len()
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

    fn text(&mut self) -> Option<&'a str> {
        let length = u16::from_le_bytes(self.array()?);
        std::str::from_utf8(self.take(usize::from(length))?).ok()
    }
}

const _: () = assert!(
    (9 + RECORD_RULES_MAX) * (RECORD_TEXT_BYTES_MAX + 2) + RECORD_DETAIL_BYTES_MAX + 96 <= RECORD_BYTES_MAX,
    "a frame with every text at its bound"
);

#[cfg(test)]
mod tests {
    use super::*;

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
        let mut bytes = Vec::new();
        write_decision(&mut bytes, ShardId(3), Seq(41), &decision);
        let length = rest_of(bytes[..LENGTH_BYTES].try_into().unwrap());
        assert_eq!(length, bytes.len() - LENGTH_BYTES);
        let Some(Frame::Decision { shard, seq, decision: back, rules, cut }) = read(&bytes[LENGTH_BYTES..]) else {
            panic!("not a decision");
        };
        assert_eq!((shard, seq, cut), (ShardId(3), Seq(41), true));
        assert_eq!(rules, ["reads", "all"]);
        assert_eq!(back.agent.len(), RECORD_TEXT_BYTES_MAX);
        assert_eq!((back.subject, back.target, back.trace), ("alice", "search", [9; 16]));
        assert_eq!((back.verdict, back.arguments, back.detail), (Verdict::Pending, [8; 16], &b",\"a\":1"[..]));
    }

    #[test]
    fn verdicts_come_back() {
        for verdict in [Verdict::Permit, Verdict::Refuse, Verdict::Pending] {
            let mut bytes = Vec::new();
            let detail = vec![b' '; RECORD_DETAIL_BYTES_MAX + 1];
            let decision = Decision { verdict, detail: &detail, ..Decision::default() };
            write_decision(&mut bytes, ShardId(0), Seq(0), &decision);
            let Some(Frame::Decision { decision: back, cut, .. }) = read(&bytes[LENGTH_BYTES..]) else {
                panic!("not a decision");
            };
            assert_eq!((back.verdict, back.detail.len(), cut), (verdict, 0, true));
        }
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
        let mut bytes = Vec::new();
        write_outcome(&mut bytes, ShardId(1), Seq(2), &outcome);
        assert!(bytes.len() <= OUTCOME_BYTES_MAX);
        let Some(Frame::Outcome { seq, outcome: back, .. }) = read(&bytes[LENGTH_BYTES..]) else {
            panic!("not an outcome");
        };
        assert_eq!((seq, back), (Seq(2), outcome));
    }
}
