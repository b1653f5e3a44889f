//! The record as JSON lines: one object per line, schema version in `v`. Readers see nothing else, whatever the form on
//! disk.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};

use jiff::Timestamp;
use serde_json::Value;

use crate::record::frame::{Decision, Frame, Outcome, Status, TargetKind, Verdict};

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
}

impl Lines {
    /// Lines of the process that began at this time, milliseconds since 1970.
    #[must_use]
    pub fn new(run: u64) -> Self {
        Self { run, ..Self::default() }
    }

    /// A frame as one line, with its newline.
    pub fn write(&mut self, out: &mut Vec<u8>, frame: &Frame<'_>) {
        match frame {
            Frame::Decision { shard, seq, decision, rules, cut } => {
                self.begin(out, "decision", decision.unix_ms);
                number(out, "seq", seq.0);
                number(out, "shard", shard.0.into());
                write_decision(out, decision, rules, *cut);
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

    /// What a person has decided: an approval, a revocation.
    pub fn write_admin(&mut self, out: &mut Vec<u8>, unix_ms: u64, event: &str, detail: &Value) {
        self.write_event(out, "admin", unix_ms, event, detail);
    }

    fn write_event(&mut self, out: &mut Vec<u8>, kind: &str, unix_ms: u64, event: &str, detail: &Value) {
        self.begin(out, kind, unix_ms);
        text(out, "event", event);
        name(out, "detail");
        string_safe(out, &detail.to_string());
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

fn write_decision(out: &mut Vec<u8>, decision: &Decision<'_>, rules: &[&str], cut: bool) {
    for (key, value) in [
        ("issuer", decision.issuer),
        ("subject", decision.subject),
        ("agent", decision.agent),
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
    };
    text(out, "verdict", verdict);
    text(out, "reason", decision.reason);
    name(out, "rules");
    out.push(b'[');
    for (index, rule) in rules.iter().enumerate() {
        if index > 0 {
            out.push(b',');
        }
        string(out, rule);
    }
    out.push(b']');
    hex(out, "policy", &decision.policy);
    text(out, "mode", "enforce");
    text(out, "protocol", decision.protocol);
    hex(out, "trace", &decision.trace);
    if cut {
        flag(out, "cut", true);
    }
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

fn name(out: &mut Vec<u8>, name: &str) {
    out.extend_from_slice(b",\"");
    out.extend_from_slice(name.as_bytes());
    out.extend_from_slice(b"\":");
}

/// A member with a text; `null` for none.
fn text(out: &mut Vec<u8>, key: &str, value: &str) {
    name(out, key);
    if value.is_empty() {
        out.extend_from_slice(b"null");
    } else {
        string(out, value);
    }
}

fn number(out: &mut Vec<u8>, key: &str, value: u64) {
    name(out, key);
    out.extend_from_slice(itoa::Buffer::new().format(value).as_bytes());
}

fn flag(out: &mut Vec<u8>, key: &str, value: bool) {
    name(out, key);
    out.extend_from_slice(if value { b"true" } else { b"false" });
}

/// A member with hexadecimal digits; `null` for all zero, which stands for none.
fn hex(out: &mut Vec<u8>, key: &str, bytes: &[u8]) {
    name(out, key);
    if bytes.iter().all(|byte| *byte == 0) {
        return out.extend_from_slice(b"null");
    }
    let digit = |nibble: u8| b"0123456789abcdef"[usize::from(nibble)];
    out.push(b'"');
    out.extend(bytes.iter().flat_map(|byte| [digit(byte >> 4), digit(byte & 15)]));
    out.push(b'"');
}

fn string(out: &mut Vec<u8>, value: &str) {
    let plain = |byte: &u8| matches!(byte, b' '..=b'~') && !matches!(byte, b'"' | b'\\');
    if value.as_bytes().iter().all(plain) {
        out.push(b'"');
        out.extend_from_slice(value.as_bytes());
        out.push(b'"');
    } else {
        string_safe(out, &Value::from(value).to_string());
    }
}

/// JSON text, with everything escaped beyond what JSON demands that could move a cursor, hide text or fake a line in
/// whatever shows it. Outside of strings JSON has none of these letters.
fn string_safe(out: &mut Vec<u8>, json: &str) {
    for letter in json.chars() {
        if letter.is_control() || hides(letter) {
            let mut units = [0; 2];
            for unit in letter.encode_utf16(&mut units) {
                out.extend_from_slice(format!("\\u{unit:04x}").as_bytes());
            }
        } else {
            out.extend_from_slice(letter.encode_utf8(&mut [0; 4]).as_bytes());
        }
    }
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

/// Line and paragraph separators, bidirectional marks, tag characters, the byte order mark.
fn hides(letter: char) -> bool {
    matches!(letter,
        '\u{061c}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}'
        | '\u{e0000}'..='\u{e007f}')
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
        assert!(text.trim_end().chars().all(|c| !c.is_control() && !hides(c)), "{text}");
        let back: Value = serde_json::from_str(&text).unwrap();
        assert_eq!(back["tool"], target);
        assert_eq!(back["subject"], "a\0b");
        assert_eq!(back["time"], "1970-01-01T00:00:00.000Z");
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
