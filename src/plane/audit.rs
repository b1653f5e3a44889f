//! The record as JSON lines: one object per line, schema version in `v`. Readers see nothing else, whatever the form on
//! disk.

use std::borrow::Cow;
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};

use jiff::Timestamp;
use serde_json::Value;

use crate::record::frame::{Decision, Frame, Outcome, Status, TargetKind, Verdict};
use crate::record::json::{self, flag, hex, name, number, text};
use crate::record::keyed::{Keys, Name};

/// Version of the lines' schema.
pub const VERSION: u64 = 1;

/// Ending of the log's files.
const ENDING: &str = ".jsonl";

/// Renders records as lines. Holds the text of the last second, since most records share theirs with the one before.
#[derive(Debug, Default)]
pub struct Lines {
    /// When the process began: sequence numbers start anew with each.
    run: u64,
    second: Option<u64>,
    text: String,
    /// By which callers are written, where they are not written as they are.
    keys: Option<Keys>,
}

impl Lines {
    /// Lines of the process that began at this time, milliseconds since 1970. With `keys`, subjects and agents are
    /// written as keyed digests.
    #[must_use]
    pub fn new(run: u64, keys: Option<Keys>) -> Self {
        Self { run, keys, ..Self::default() }
    }

    /// A frame as one line, with its newline.
    pub fn write(&mut self, out: &mut Vec<u8>, frame: &Frame<'_>) {
        match frame {
            Frame::Decision { shard, seq, decision, rules, cut } => {
                self.begin(out, "decision", decision.unix_ms);
                number(out, "seq", seq.0);
                number(out, "shard", shard.0.into());
                write_decision(out, decision, rules, *cut, self.keys.as_ref());
            }
            Frame::Outcome { shard, seq, outcome } => {
                self.begin(out, "outcome", outcome.unix_ms);
                number(out, "seq", seq.0);
                number(out, "shard", shard.0.into());
                write_outcome(out, outcome);
            }
        }
        out.extend_from_slice(b"}\n");
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
        out.extend_from_slice(b"{\"v\":");
        out.extend_from_slice(itoa::Buffer::new().format(VERSION).as_bytes());
        number(out, "run", self.run);
        text(out, "kind", kind);
        name(out, "time");
        if self.second != Some(unix_ms / 1000) {
            self.second = Some(unix_ms / 1000);
            let time = i64::try_from(unix_ms / 1000).ok().and_then(|second| Timestamp::from_second(second).ok());
            self.text = time.map_or_else(String::new, |time| time.strftime("%Y-%m-%dT%H:%M:%S").to_string());
        }
        out.push(b'"');
        out.extend_from_slice(self.text.as_bytes());
        out.push(b'.');
        for place in [100, 10, 1] {
            out.extend_from_slice(itoa::Buffer::new().format(unix_ms / place % 10).as_bytes());
        }
        out.extend_from_slice(b"Z\"");
    }
}

fn write_decision(out: &mut Vec<u8>, decision: &Decision<'_>, rules: &[&str], cut: bool, keys: Option<&Keys>) {
    for (key, value) in [
        ("issuer", decision.issuer),
        ("subject", &called(keys, Name::Subject, decision.issuer, decision.subject)),
        ("agent", &called(keys, Name::Agent, decision.issuer, decision.agent)),
        ("task", decision.task),
        ("method", decision.method),
        ("server", decision.server),
    ] {
        text(out, key, value);
    }
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
    hex(out, "trace", &decision.trace);
    if decision.arguments != [0; 16] {
        hex(out, "arguments_digest", &decision.arguments);
    }
    out.extend_from_slice(decision.detail);
    if cut {
        flag(out, "cut", true);
    }
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

fn write_outcome(out: &mut Vec<u8>, outcome: &Outcome) {
    text(out, "status", word(outcome.status));
    number(out, "http", outcome.http.into());
    flag(out, "is_error", outcome.is_error);
    name(out, "code");
    if outcome.code == 0 {
        out.extend_from_slice(b"null");
    } else {
        out.extend_from_slice(itoa::Buffer::new().format(outcome.code).as_bytes());
    }
    number(out, "total_us", outcome.total_us);
    number(out, "upstream_us", outcome.upstream_us);
    number(out, "request_bytes", outcome.request_bytes);
    number(out, "answer_bytes", outcome.answer_bytes);
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
    use crate::base::ids::ShardId;
    use crate::record::Seq;

    use super::*;

    #[test]
    fn no_field_can_forge_a_line() {
        let target = "x\n{\"v\":1}\r\u{1b}[2J\u{7f}\u{2028}\u{202e}\u{e0041}";
        let decision = Decision { target, kind: TargetKind::Tool, subject: "a\0b", ..Decision::default() };
        let mut out = Vec::new();
        let frame = Frame::Decision { shard: ShardId(0), seq: Seq(0), decision, rules: vec!["r"], cut: false };
        Lines::default().write(&mut out, &frame);
        let text = String::from_utf8(out).unwrap();
        assert_eq!(text.matches('\n').count(), 1);
        assert!(text.trim_end().chars().all(|c| !c.is_control() && !json::hides(c)), "{text}");
        let back: Value = serde_json::from_str(&text).unwrap();
        assert_eq!(back["tool"], target);
        assert_eq!(back["subject"], "a\0b");
        assert_eq!(back["time"], "1970-01-01T00:00:00.000Z");
    }

    #[test]
    fn what_only_some_have_stands_behind_the_rest() {
        let detail = b",\"approval\":{\"id\":\"ap-1\"}";
        let decision = Decision { verdict: Verdict::Pending, arguments: [0xab; 16], detail, ..Decision::default() };
        let mut out = Vec::new();
        let frame = Frame::Decision { shard: ShardId(0), seq: Seq(0), decision, rules: vec![], cut: true };
        Lines::default().write(&mut out, &frame);
        let line: Value = serde_json::from_slice(&out).unwrap();
        assert_eq!((&line["verdict"], &line["approval"]["id"]), (&"pending".into(), &"ap-1".into()));
        assert_eq!((&line["arguments_digest"], &line["cut"]), (&"ab".repeat(16).into(), &true.into()));
    }

    #[test]
    fn callers_can_be_written_under_a_key() {
        let keys = Keys::derive(&[7; 32]);
        let mut lines = Lines::new(0, Some(keys));
        let mut line = |write: &dyn Fn(&mut Lines, &mut Vec<u8>)| {
            let mut out = Vec::new();
            write(&mut lines, &mut out);
            serde_json::from_slice::<Value>(&out).unwrap()
        };
        let decided = |issuer, subject, agent| {
            let decision = Decision { issuer, subject, agent, ..Decision::default() };
            Frame::Decision { shard: ShardId(0), seq: Seq(0), decision, rules: vec![], cut: false }
        };
        let one = line(&|lines, out| lines.write(out, &decided("i", "alice", "alice")));
        let subject = one["subject"].as_str().unwrap();
        assert!(subject.starts_with("keyed:") && subject.len() == 38, "{one}");
        assert_ne!(one["subject"], one["agent"]);
        let other = line(&|lines, out| lines.write(out, &decided("j", "alice", "")));
        assert_ne!(one["subject"], other["subject"]);
        assert_eq!(other["agent"], Value::Null);
        let detail = serde_json::json!({ "issuer": "i", "subject": "alice", "by": "bob" });
        let admin = line(&|lines, out| lines.write_admin(out, 0, "revoked", &detail));
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
