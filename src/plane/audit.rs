//! The record as JSON lines: one object per line, schema version in `v`. Readers see nothing else, whatever the form on
//! disk.

use std::borrow::Cow;
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};

use jiff::Timestamp;
use serde_json::Value;

use crate::base::ids::ShardId;
use crate::base::limits::{LOG_COMMON_BYTES_MAX, LOG_COMMON_PAIRS};
use crate::record::Seq;
use crate::record::frame::{Common, Decided, Decision, Outcome, Status, TargetKind, Verdict, Written};
use crate::record::json::{self, hex, name, number, text};
use crate::record::keyed::{Keys, Name};
use crate::record::put::Put;

/// Version of the lines' schema.
pub const VERSION: u64 = 1;

/// Ending of the log's files.
const ENDING: &str = ".jsonl";

/// Renders records as lines. Most of a line stands in others too, and is kept as text: what lines begin with for as long
/// as a second lasts, what decisions have in common for as long as there is room for it.
#[derive(Debug, Default)]
pub struct Lines {
    /// When the process began: sequence numbers start anew with each.
    run: u64,
    second: Option<u64>,
    text: String,
    /// What lines of this second begin with.
    decision_head: Vec<u8>,
    outcome_head: Vec<u8>,
    commons: Commons,
    /// The last ending of a call, and what it is as text.
    ending: Option<(Ending, Vec<u8>)>,
    /// By which callers are written, where they are not written as they are.
    keys: Option<Keys>,
}

/// How a call ended, as far as many end alike.
type Ending = (ShardId, Status, u16, bool, i64);

/// What decisions have in common, as it stands in frames and as text: pairs, of which a newcomer takes the place of the
/// older one.
#[derive(Debug, Default)]
struct Commons {
    pairs: Vec<[Kept; 2]>,
    /// One that is too long to be kept.
    long: Kept,
}

/// Bytes as they stand in a frame, and behind them the text they make.
#[derive(Debug, Default)]
struct Kept {
    both: Vec<u8>,
    bytes: usize,
}

/// All of a line but its head, what it has in common with others, and its detail: names, quotes, numbers at their longest.
const OWN_BYTES_MAX: usize = 512;

impl Lines {
    /// Lines of the process that began at this time, milliseconds since 1970. With `keys`, subjects and agents are
    /// written as keyed digests.
    #[must_use]
    pub fn new(run: u64, keys: Option<Keys>) -> Self {
        Self { run, keys, ..Self::default() }
    }

    /// A frame as one line, with its newline.
    pub fn write(&mut self, out: &mut Vec<u8>, written: &Written<'_>) {
        match written {
            Written::Decision(decided) => self.write_decision(out, decided),
            Written::Outcome { shard, seq, outcome } => self.write_outcome(out, *shard, *seq, outcome),
        }
    }

    fn write_decision(&mut self, out: &mut Vec<u8>, decided: &Decided<'_>) {
        self.at(decided.unix_ms);
        let keys = self.keys.as_ref();
        let common = self.commons.text(decided.common.bytes(), |out| write_common(out, decided.common, keys));
        let head = &self.decision_head;
        within(out, head.len() + common.len() + decided.detail.len(), |put| {
            begin(put, head, decided.unix_ms, decided.seq);
            put.array(b",\"shard\":");
            put.number(decided.shard.0.into());
            put.bytes(common);
            digits(put, &decided.trace);
            if decided.arguments != [0; 16] {
                put.array(b",\"arguments_digest\":");
                digits(put, &decided.arguments);
            }
            put.bytes(decided.detail);
            if decided.cut {
                put.array(b",\"cut\":true");
            }
            put.array(b"}\n");
        });
    }

    fn write_outcome(&mut self, out: &mut Vec<u8>, shard: ShardId, seq: Seq, outcome: &Outcome) {
        self.at(outcome.unix_ms);
        let ending: Ending = (shard, outcome.status, outcome.http, outcome.is_error, outcome.code);
        let (_, text) = match &mut self.ending {
            Some(known) if known.0 == ending => known,
            other => other.insert((ending, ending_text(ending))),
        };
        let head = &self.outcome_head;
        within(out, head.len() + text.len(), |put| {
            begin(put, head, outcome.unix_ms, seq);
            put.bytes(text);
            put.array(b",\"total_us\":");
            put.number(outcome.total_us);
            put.array(b",\"upstream_us\":");
            put.number(outcome.upstream_us);
            put.array(b",\"request_bytes\":");
            put.number(outcome.request_bytes);
            put.array(b",\"answer_bytes\":");
            put.number(outcome.answer_bytes);
            put.array(b"}\n");
        });
    }

    /// An event of the gateway's own life: start, stop.
    pub fn write_life(&mut self, out: &mut Vec<u8>, unix_ms: u64, event: &str, detail: &Value) {
        self.write_event(out, "life", unix_ms, event, detail);
    }

    /// A change of what calls are decided by: a definition that is new, has changed, or was approved.
    pub fn write_policy(&mut self, out: &mut Vec<u8>, unix_ms: u64, event: &str, detail: &Value) {
        self.write_event(out, "policy", unix_ms, event, detail);
    }

    /// What somebody did through the admin listener or the command line: an approval, a revocation. Its `subject` and
    /// `agent`, if it has them, are those of `issuer`, and are written as those of decisions are.
    pub fn write_admin(&mut self, out: &mut Vec<u8>, unix_ms: u64, event: &str, detail: &Value) {
        let Some(keys) = &self.keys else { return self.write_event(out, "admin", unix_ms, event, detail) };
        let mut detail = detail.clone();
        let issuer = detail["issuer"].as_str().unwrap_or_default().to_owned();
        for (member, kind) in [("subject", Name::Subject), ("agent", Name::Agent)] {
            let name = detail.get_mut(member).filter(|name| name.is_string());
            if let Some(name) = name {
                *name = Value::from(keyed(keys, kind, &issuer, name.as_str().unwrap_or_default()));
            }
        }
        self.write_event(out, "admin", unix_ms, event, &detail);
    }

    fn write_event(&mut self, out: &mut Vec<u8>, kind: &str, unix_ms: u64, event: &str, detail: &Value) {
        self.begin(out, kind, unix_ms);
        text(out, "event", event);
        name(out, "detail");
        json::safe(out, &detail.to_string());
        out.extend_from_slice(b"}\n");
    }

    fn begin(&mut self, out: &mut Vec<u8>, kind: &str, unix_ms: u64) {
        self.at(unix_ms);
        out.extend_from_slice(&self.head(kind));
        within(out, 0, |put| {
            put.thousandths(unix_ms);
            put.array(b"Z\"");
        });
    }

    /// Has what lines of this moment begin with.
    #[inline]
    fn at(&mut self, unix_ms: u64) {
        let second = unix_ms / 1000;
        if self.second != Some(second) {
            self.second = Some(second);
            let time = i64::try_from(second).ok().and_then(|second| Timestamp::from_second(second).ok());
            self.text = time.map_or_else(String::new, |time| time.strftime("%Y-%m-%dT%H:%M:%S").to_string());
            (self.decision_head, self.outcome_head) = (self.head("decision"), self.head("outcome"));
        }
    }

    /// What a line begins with, up to the fraction of the second.
    fn head(&self, kind: &str) -> Vec<u8> {
        format!("{{\"v\":{VERSION},\"run\":{},\"kind\":\"{kind}\",\"time\":\"{}.", self.run, self.text).into_bytes()
    }
}

impl Commons {
    /// The text that these bytes make: what `make` appends, unless it is known.
    fn text(&mut self, bytes: &[u8], make: impl FnOnce(&mut Vec<u8>)) -> &[u8] {
        if self.pairs.is_empty() {
            self.pairs.resize_with(LOG_COMMON_PAIRS, Default::default);
        }
        // The length is not 0, and a power of two.
        let at = place(bytes) & (self.pairs.len() - 1);
        let [one, other] = &mut self.pairs[at];
        if one.is_of(bytes) {
            return one.text();
        }
        std::mem::swap(one, other);
        if !one.is_of(bytes) {
            one.both.clear();
            one.both.extend_from_slice(bytes);
            one.bytes = bytes.len();
            make(&mut one.both);
            if one.both.len() > LOG_COMMON_BYTES_MAX {
                self.long = std::mem::take(one);
                return self.long.text();
            }
        }
        one.text()
    }
}

impl Kept {
    #[inline]
    fn is_of(&self, bytes: &[u8]) -> bool {
        self.bytes > 0 && self.both.get(..self.bytes) == Some(bytes)
    }

    fn text(&self) -> &[u8] {
        self.both.get(self.bytes..).unwrap_or_default()
    }
}

/// A number that differs for most bytes that differ. Who makes two alike has their text made anew each time.
fn place(bytes: &[u8]) -> usize {
    const ODD: u64 = 0x9e37_79b9_7f4a_7c15;
    let mut lanes = [bytes.len() as u64, 1, 2, 3];
    let mut mix = |block: &[u8; 32]| {
        for (lane, word) in lanes.iter_mut().zip(block.as_chunks().0) {
            *lane = (*lane ^ u64::from_le_bytes(*word)).wrapping_mul(ODD);
            *lane ^= *lane >> 32;
        }
    };
    let (blocks, rest) = bytes.as_chunks();
    blocks.iter().for_each(&mut mix);
    let mut last = [0; 32];
    if let Some(last) = last.get_mut(..rest.len()) {
        last.copy_from_slice(rest);
    }
    mix(&last);
    let mixed = lanes.into_iter().fold(0, |mixed: u64, lane| (mixed.rotate_left(23) ^ lane).wrapping_mul(ODD));
    usize::try_from(mixed >> 32).unwrap_or_default()
}

/// Appends what `write` puts: `bytes`, and as much again as a line has of its own.
#[inline]
fn within(out: &mut Vec<u8>, bytes: usize, write: impl FnOnce(&mut Put<'_>)) {
    let before = out.len();
    out.resize(before + bytes + OWN_BYTES_MAX, 0);
    let mut put = Put::new(&mut out[before..]);
    write(&mut put);
    let after = before + put.len();
    out.truncate(after);
}

/// A line's head and its end of the time, and the number of its decision.
#[inline]
fn begin(put: &mut Put<'_>, head: &[u8], unix_ms: u64, seq: Seq) {
    put.bytes(head);
    put.thousandths(unix_ms);
    put.array(b"Z\",\"seq\":");
    put.number(seq.0);
}

/// Hexadecimal digits, with their quotes; `null` for all zero, which stands for none.
#[inline]
fn digits(put: &mut Put<'_>, bytes: &[u8; 16]) {
    if *bytes == [0; 16] {
        return put.array(b"null");
    }
    put.array(b"\"");
    put.hex(bytes);
    put.array(b"\"");
}

/// The members that decisions have in common, up to the name of the trace's.
fn write_common(out: &mut Vec<u8>, common: Common<'_>, keys: Option<&Keys>) {
    // What no writer of ours wrote is a decision that says nothing.
    let (decision, rules) = common.read().unwrap_or_default();
    let Decision { issuer, .. } = decision;
    text(out, "issuer", issuer);
    text(out, "subject", &called(keys, Name::Subject, issuer, decision.subject));
    text(out, "agent", &called(keys, Name::Agent, issuer, decision.agent));
    text(out, "task", decision.task);
    text(out, "method", decision.method);
    text(out, "server", decision.server);
    match decision.kind {
        TargetKind::None => {}
        TargetKind::Tool => text(out, "tool", decision.target),
        TargetKind::Prompt => text(out, "prompt", decision.target),
        TargetKind::Resource => text(out, "resource", decision.target),
    }
    let verdict = match decision.verdict {
        Verdict::Permit => "permit",
        Verdict::Refuse => "refuse",
        Verdict::Pending => "pending",
    };
    text(out, "verdict", verdict);
    text(out, "reason", decision.reason);
    json::texts(out, "rules", rules.iter().copied());
    hex(out, "policy", &decision.policy);
    text(out, "mode", "enforce");
    text(out, "protocol", decision.protocol);
    name(out, "trace");
}

/// What a call's ending is as members, behind its number.
fn ending_text((shard, status, http, is_error, code): Ending) -> Vec<u8> {
    let mut out = Vec::new();
    number(&mut out, "shard", shard.0.into());
    text(&mut out, "status", word(status));
    number(&mut out, "http", http.into());
    json::flag(&mut out, "is_error", is_error);
    name(&mut out, "code");
    if code == 0 {
        out.extend_from_slice(b"null");
    } else {
        out.extend_from_slice(itoa::Buffer::new().format(code).as_bytes());
    }
    out
}

/// How a caller's name is written.
fn called<'a>(keys: Option<&Keys>, kind: Name, issuer: &str, name: &'a str) -> Cow<'a, str> {
    match keys.filter(|_| !name.is_empty()) {
        Some(keys) => Cow::Owned(keyed(keys, kind, issuer, name)),
        None => Cow::Borrowed(name),
    }
}

/// How a caller's name is written under a key: by what no name of an issuer's would be taken for.
fn keyed(keys: &Keys, kind: Name, issuer: &str, name: &str) -> String {
    let mut digits = b"keyed:".to_vec();
    json::digits(&mut digits, &keys.caller(kind, issuer, name));
    String::from_utf8(digits).unwrap_or_default()
}

/// The word for an outcome's status.
#[must_use]
pub fn word(status: Status) -> &'static str {
    match status {
        Status::Ok => "ok",
        Status::Error => "error",
        Status::Unreachable => "unreachable",
        Status::Timeout => "timeout",
        Status::Cut => "cut",
        Status::Invalid => "invalid",
        Status::Cancelled => "cancelled",
        Status::Detached => "detached",
    }
}

/// The log's files in `dir`, oldest first: their names sort by time.
///
/// # Errors
/// When the folder cannot be read.
pub fn files(dir: &Path) -> std::io::Result<Vec<PathBuf>> {
    let mut files: Vec<PathBuf> = fs::read_dir(dir)?
        .filter_map(|entry| entry.ok().map(|entry| entry.path()))
        .filter(|path| {
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            name.starts_with("audit-") && name.ends_with(ENDING)
        })
        .collect();
    files.sort();
    Ok(files)
}

/// The name of a file begun at `unix_ms`, the `n`th of its process.
#[must_use]
pub fn file_name(unix_ms: u64, n: u32) -> String {
    format!("audit-{unix_ms:015}-{n:08}{ENDING}")
}

/// Prints every whole line of the record in `dir`. A last line torn by a crash is left out; says how many were.
///
/// # Errors
/// What reading or writing says.
pub fn export(dir: &Path, out: &mut impl Write) -> std::io::Result<usize> {
    let mut torn = 0;
    for path in files(dir)? {
        let mut reader = BufReader::new(fs::File::open(path)?);
        let mut line = Vec::new();
        while reader.read_until(b'\n', &mut line)? > 0 {
            if line.last() == Some(&b'\n') {
                out.write_all(&line)?;
            } else {
                torn += 1;
            }
            line.clear();
        }
    }
    out.flush()?;
    Ok(torn)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A decision's line.
    fn line(lines: &mut Lines, decision: &Decision<'_>) -> String {
        let (writer, mut reader) = crate::record::ring(ShardId(7));
        writer.refused(decision).unwrap();
        let mut out = Vec::new();
        reader.drain(usize::MAX, |written| lines.write(&mut out, written));
        String::from_utf8(out).unwrap()
    }

    fn read(line: &str) -> Value {
        serde_json::from_str(line).unwrap()
    }

    #[test]
    fn no_field_can_forge_a_line() {
        let target = "x\n{\"v\":1}\r\u{1b}[2J\u{7f}\u{2028}\u{202e}\u{e0041}";
        let decision =
            Decision { target, kind: TargetKind::Tool, subject: "a\0b", rules: &["r"], ..Decision::default() };
        let text = line(&mut Lines::default(), &decision);
        assert_eq!(text.matches('\n').count(), 1);
        assert!(text.trim_end().chars().all(|c| !c.is_control() && !json::hides(c)), "{text}");
        let back = read(&text);
        assert_eq!(back["tool"], target);
        assert_eq!(back["subject"], "a\0b");
        assert_eq!(back["time"], "1970-01-01T00:00:00.000Z");
    }

    #[test]
    fn what_only_some_have_stands_behind_the_rest() {
        let detail = b",\"approval\":{\"id\":\"ap-1\"}";
        let decision =
            Decision { verdict: Verdict::Pending, arguments: [0xab; 16], detail, cut: true, ..Decision::default() };
        let line = read(&line(&mut Lines::default(), &decision));
        assert_eq!((&line["verdict"], &line["approval"]["id"]), (&"pending".into(), &"ap-1".into()));
        assert_eq!((&line["arguments_digest"], &line["cut"]), (&"ab".repeat(16).into(), &true.into()));
    }

    /// A line has every member, in this order.
    #[test]
    fn lines_are_these_to_the_letter() {
        let mut lines = Lines::new(17, None);
        let decision = Decision {
            unix_ms: 1_795_406_986_143,
            issuer: "https://issuer.example",
            subject: "al\"ice",
            task: "load",
            method: "tools/call",
            server: "docs",
            target: "search",
            kind: TargetKind::Tool,
            verdict: Verdict::Permit,
            reason: "permit",
            rules: &["reads", "all"],
            policy: [1, 2, 3, 4, 5, 0xef],
            trace: [0x1f; 16],
            protocol: "2026-07-28",
            ..Decision::default()
        };
        let want = "{\"v\":1,\"run\":17,\"kind\":\"decision\",\"time\":\"2026-11-23T04:09:46.143Z\",\"seq\":0,\"shard\":7,\
            \"issuer\":\"https://issuer.example\",\"subject\":\"al\\\"ice\",\"agent\":null,\"task\":\"load\",\
            \"method\":\"tools/call\",\"server\":\"docs\",\"tool\":\"search\",\"verdict\":\"permit\",\"reason\":\"permit\",\
            \"rules\":[\"reads\",\"all\"],\"policy\":\"0102030405ef\",\"mode\":\"enforce\",\"protocol\":\"2026-07-28\",\
            \"trace\":\"1f1f1f1f1f1f1f1f1f1f1f1f1f1f1f1f\"}\n";
        // The second time by what was kept of the first.
        assert_eq!([line(&mut lines, &decision), line(&mut lines, &decision)], [want, want]);
        let outcome = Outcome {
            unix_ms: 1_795_406_986_007,
            status: Status::Error,
            http: 200,
            is_error: false,
            code: -32602,
            total_us: 10,
            upstream_us: 9,
            request_bytes: 350,
            answer_bytes: u64::MAX,
        };
        let mut out = Vec::new();
        for outcome in [outcome, outcome, Outcome { code: 0, is_error: true, ..outcome }] {
            lines.write(&mut out, &Written::Outcome { shard: ShardId(1), seq: Seq(100), outcome });
        }
        let want = |ending: &str| {
            format!(
                "{{\"v\":1,\"run\":17,\"kind\":\"outcome\",\"time\":\"2026-11-23T04:09:46.007Z\",\"seq\":100,\"shard\":1,\
                 \"status\":\"error\",\"http\":200,{ending},\"total_us\":10,\"upstream_us\":9,\"request_bytes\":350,\
                 \"answer_bytes\":18446744073709551615}}\n"
            )
        };
        let [first, last] = ["\"is_error\":false,\"code\":-32602", "\"is_error\":true,\"code\":null"].map(want);
        assert_eq!(String::from_utf8(out).unwrap(), format!("{first}{first}{last}"));
    }

    /// More of them than are kept, in every order, some too long to be kept: each line is its own decision's.
    #[test]
    fn a_line_never_has_what_another_decision_is() {
        let (mut lines, mut fresh) = (Lines::default(), 0);
        let long = "n".repeat(LOG_COMMON_BYTES_MAX / 2);
        for round in 0..4usize {
            for n in 0..3 * LOG_COMMON_PAIRS {
                let n = n * (2 * round + 1) % (3 * LOG_COMMON_PAIRS);
                let (subject, agent) = (format!("s{n}"), format!("a{}", n % 7));
                let (issuer, task) = if n.is_multiple_of(64) { (&*long, &long[n % 5..]) } else { ("i", "") };
                let decision = Decision {
                    issuer,
                    task,
                    subject: &subject,
                    agent: &agent,
                    reason: "forbid",
                    ..Decision::default()
                };
                let back = read(&line(&mut lines, &decision));
                let task = if task.is_empty() { Value::Null } else { task[..task.len().min(2048)].into() };
                assert_eq!((&back["subject"], &back["agent"]), (&subject.into(), &agent.into()));
                assert_eq!((&back["issuer"], &back["task"]), (&issuer.into(), &task));
                fresh += 1;
            }
        }
        let kept: usize = lines.commons.pairs.iter().flatten().map(|kept| kept.both.len()).sum();
        assert!(fresh > 2 * LOG_COMMON_PAIRS && kept <= 2 * LOG_COMMON_PAIRS * LOG_COMMON_BYTES_MAX);
    }

    #[test]
    fn callers_can_be_written_under_a_key() {
        let keys = Keys::derive(&[7; 32]);
        let mut lines = Lines::new(0, Some(keys));
        let mut decided = |issuer, subject, agent| {
            read(&line(&mut lines, &Decision { issuer, subject, agent, ..Decision::default() }))
        };
        let one = decided("i", "alice", "alice");
        let subject = one["subject"].as_str().unwrap();
        assert!(subject.starts_with("keyed:") && subject.len() == 38, "{one}");
        assert_ne!(one["subject"], one["agent"]);
        let other = decided("j", "alice", "");
        assert_ne!(one["subject"], other["subject"]);
        assert_eq!(other["agent"], Value::Null);
        let detail = serde_json::json!({ "issuer": "i", "subject": "alice", "by": "bob" });
        let mut out = Vec::new();
        lines.write_admin(&mut out, 0, "revoked", &detail);
        let admin: Value = serde_json::from_slice(&out).unwrap();
        assert_eq!((&admin["kind"], &admin["detail"]["subject"]), (&"admin".into(), &one["subject"]));
        assert_eq!(admin["detail"]["by"], "bob");
    }

    #[test]
    fn a_torn_line_is_left_out() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join(file_name(2, 0)), "{\"b\":1}\n{\"c\"").unwrap();
        fs::write(folder.path().join(file_name(1, 0)), "{\"a\":1}\n").unwrap();
        fs::write(folder.path().join("notes.txt"), "no").unwrap();
        let mut out = Vec::new();
        assert_eq!(export(folder.path(), &mut out).unwrap(), 1);
        assert_eq!(out, b"{\"a\":1}\n{\"b\":1}\n");
    }
}
