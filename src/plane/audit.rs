//! The record as JSON lines: one object per line, schema version in `v`. Readers see nothing else, whatever the form on
//! disk.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};

use jiff::Timestamp;
use serde_json::{Map, Value};

use crate::record::frame::{Decision, Frame, Outcome, Status, TargetKind, Verdict};

/// Version of the lines' schema.
pub const VERSION: u64 = 1;

/// Ending of the log's files.
const ENDING: &str = ".jsonl";

/// A frame as one line, with its newline.
pub fn write_line(out: &mut Vec<u8>, frame: &Frame<'_>) {
    let mut line = Map::new();
    let mut put = |key: &str, value: Value| line.insert(key.to_owned(), value);
    put("v", VERSION.into());
    match frame {
        Frame::Decision { shard, seq, decision, rules, cut } => {
            put("kind", "decision".into());
            put("time", time(decision.unix_ms));
            put("seq", seq.0.into());
            put("shard", shard.0.into());
            write_decision(&mut line, decision, rules, *cut);
        }
        Frame::Outcome { shard, seq, outcome } => {
            put("kind", "outcome".into());
            put("time", time(outcome.unix_ms));
            put("seq", seq.0.into());
            put("shard", shard.0.into());
            write_outcome(&mut line, outcome);
        }
    }
    push(out, &Value::Object(line));
}

/// An event of the gateway's own life: start, stop.
pub fn write_life(out: &mut Vec<u8>, unix_ms: u64, event: &str, detail: Value) {
    let line = serde_json::json!({
        "v": VERSION, "kind": "life", "time": time(unix_ms), "event": event, "detail": detail,
    });
    push(out, &line);
}

fn write_decision(line: &mut Map<String, Value>, decision: &Decision<'_>, rules: &[&str], cut: bool) {
    let mut put = |key: &str, value: Value| line.insert(key.to_owned(), value);
    let text = |text: &str| if text.is_empty() { Value::Null } else { Value::from(text) };
    put("issuer", text(decision.issuer));
    put("subject", text(decision.subject));
    put("agent", text(decision.agent));
    put("task", text(decision.task));
    put("method", text(decision.method));
    put("server", text(decision.server));
    match decision.kind {
        TargetKind::None => None,
        TargetKind::Tool => put("tool", text(decision.target)),
        TargetKind::Prompt => put("prompt", text(decision.target)),
        TargetKind::Resource => put("resource", text(decision.target)),
    };
    let verdict = match decision.verdict {
        Verdict::Permit => "permit",
        Verdict::Refuse => "refuse",
    };
    put("verdict", verdict.into());
    put("reason", text(decision.reason));
    put("rules", rules.to_vec().into());
    put("policy", hex(&decision.policy).into());
    put("mode", "enforce".into());
    put("protocol", text(decision.protocol));
    put("trace", if decision.trace == [0; 16] { Value::Null } else { hex(&decision.trace).into() });
    if cut {
        put("cut", true.into());
    }
}

fn write_outcome(line: &mut Map<String, Value>, outcome: &Outcome) {
    let mut put = |key: &str, value: Value| line.insert(key.to_owned(), value);
    put("status", word(outcome.status).into());
    put("http", outcome.http.into());
    put("is_error", outcome.is_error.into());
    put("code", if outcome.code == 0 { Value::Null } else { outcome.code.into() });
    put("total_us", outcome.total_us.into());
    put("upstream_us", outcome.upstream_us.into());
    put("request_bytes", outcome.request_bytes.into());
    put("answer_bytes", outcome.answer_bytes.into());
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

/// One line. Beyond what JSON demands, everything is escaped that could move a cursor, hide text or fake a line in
/// whatever shows it.
fn push(out: &mut Vec<u8>, line: &Value) {
    for letter in line.to_string().chars() {
        if letter.is_control() || hides(letter) {
            let mut units = [0; 2];
            for unit in letter.encode_utf16(&mut units) {
                out.extend_from_slice(format!("\\u{unit:04x}").as_bytes());
            }
        } else {
            out.extend_from_slice(letter.encode_utf8(&mut [0; 4]).as_bytes());
        }
    }
    out.push(b'\n');
}

/// Line and paragraph separators, bidirectional marks, tag characters, the byte order mark.
fn hides(letter: char) -> bool {
    matches!(letter,
        '\u{061c}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}'
        | '\u{e0000}'..='\u{e007f}')
}

fn time(unix_ms: u64) -> Value {
    let ms = i64::try_from(unix_ms).unwrap_or(i64::MAX);
    Timestamp::from_millisecond(ms).map_or(Value::Null, |time| format!("{time:.3}").into())
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
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
    format!("audit-{unix_ms:015}-{n:04}{ENDING}")
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
        write_line(&mut out, &frame);
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
