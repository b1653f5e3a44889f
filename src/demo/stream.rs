//! The record as a person reads it while it happens: one line per decision, with its outcome when that comes soon, else
//! shown at once and again when it ends. A machine without wires; `mod.rs` gives it a thread and a terminal.

use std::collections::{HashMap, VecDeque};
use std::fmt::Write as _;

use jiff::Timestamp;

use crate::base::limits::{DEMO_LINES_MAX, DEMO_OUTCOME_MS_MAX};
use crate::plane::audit;
use crate::record::frame::{Decision, Frame, Outcome, Status, TargetKind, Verdict};

/// Shard and number of a decision.
type Key = (u16, u64);

/// A frame that has left the ring.
#[derive(Clone, Debug)]
pub(super) enum Event {
    Decided(Key, Decided),
    Ended(Key, Outcome),
}

/// What a line says of a decision.
#[derive(Clone, Debug)]
pub(super) struct Decided {
    unix_ms: u64,
    subject: String,
    agent: String,
    task: String,
    target: String,
    permit: bool,
    why: String,
}

/// The lines to come.
#[derive(Debug)]
pub(super) struct Lines {
    colour: bool,
    /// Permits whose outcome may come any moment, with the moment after which it is not waited for, oldest first.
    waiting: VecDeque<(u64, Key, Decided)>,
    /// Permits shown without outcome.
    running: HashMap<Key, Decided>,
}

const DIM: &str = "\x1b[2m";
const GREEN: &str = "\x1b[32m";
const RED: &str = "\x1b[31m";
const YELLOW: &str = "\x1b[33m";
const PLAIN: &str = "\x1b[0m";

/// The columns' names, in the widths of [`Lines::line`].
pub(super) const HEADING: &str = "UTC       SUBJECT  AGENT          TASK            WHAT                                VERDICT  BY, AND WHAT CAME OF IT";

impl Event {
    pub(super) fn of(frame: &Frame<'_>) -> Self {
        match frame {
            Frame::Decision { shard, seq, decision, rules, .. } => Self::Decided(
                (shard.0, seq.0),
                Decided {
                    unix_ms: decision.unix_ms,
                    subject: visible(decision.subject),
                    agent: visible(decision.agent),
                    task: visible(decision.task),
                    target: target(decision),
                    permit: decision.verdict == Verdict::Permit,
                    why: why(decision, rules),
                },
            ),
            Frame::Outcome { shard, seq, outcome } => Self::Ended((shard.0, seq.0), *outcome),
        }
    }
}

impl Lines {
    pub(super) fn new(colour: bool) -> Self {
        Self { colour, waiting: VecDeque::new(), running: HashMap::new() }
    }

    /// Takes an event; appends what can be shown now.
    pub(super) fn heard(&mut self, event: Event, now_ms: u64, out: &mut String) {
        match event {
            Event::Decided(_, decided) if !decided.permit => self.line(out, &decided, None),
            Event::Decided(key, decided) => {
                if self.waiting.len() >= DEMO_LINES_MAX {
                    self.show_oldest(out);
                }
                self.waiting.push_back((now_ms + DEMO_OUTCOME_MS_MAX, key, decided));
            }
            Event::Ended(key, outcome) => {
                let at = self.waiting.iter().position(|(_, waiting, _)| *waiting == key);
                let waited = at.and_then(|at| self.waiting.remove(at)).map(|(_, _, decided)| decided);
                // Shown before, when it was decided; now is when it ended.
                let shown = || Some(Decided { unix_ms: outcome.unix_ms, ..self.running.remove(&key)? });
                if let Some(decided) = waited.or_else(shown) {
                    self.line(out, &decided, Some(&ended(&outcome)));
                }
            }
        }
    }

    /// Shows what has waited long enough.
    pub(super) fn tick(&mut self, now_ms: u64, out: &mut String) {
        while self.due().is_some_and(|due| due <= now_ms) {
            self.show_oldest(out);
        }
    }

    /// When `tick` has something to do.
    pub(super) fn due(&self) -> Option<u64> {
        self.waiting.front().map(|(due, ..)| *due)
    }

    fn show_oldest(&mut self, out: &mut String) {
        let Some((_, key, decided)) = self.waiting.pop_front() else { return };
        self.line(out, &decided, Some("under way"));
        if self.running.len() < DEMO_LINES_MAX {
            self.running.insert(key, decided);
        }
    }

    fn line(&self, out: &mut String, decided: &Decided, outcome: Option<&str>) {
        let paint = |colour: &'static str| if self.colour { colour } else { "" };
        let millis = i64::try_from(decided.unix_ms).unwrap_or(i64::MAX);
        let time = Timestamp::from_millisecond(millis).unwrap_or_default().strftime("%H:%M:%S").to_string();
        let (verdict, colour) = if decided.permit { ("permit", GREEN) } else { ("refuse", RED) };
        let dash = |text: &str| if text.is_empty() { "-".to_owned() } else { text.to_owned() };
        // Writing to a String cannot fail.
        let _ = write!(
            out,
            "{}{time}{}  {:<7}  {:<13}  {:<14}  {:<34}  {}{verdict}{}   {}",
            paint(DIM),
            paint(PLAIN),
            dash(&decided.subject),
            dash(&decided.agent),
            dash(&decided.task),
            dash(&decided.target),
            paint(colour),
            paint(PLAIN),
            decided.why,
        );
        if let Some(outcome) = outcome {
            let colour = if outcome.starts_with(|c: char| c.is_ascii_digit()) { DIM } else { YELLOW };
            let _ = write!(out, ", {}{outcome}{}", paint(colour), paint(PLAIN));
        }
        out.push('\n');
    }
}

/// What a decision was about, as a rule's pattern would name it.
fn target(decision: &Decision<'_>) -> String {
    let (server, target) = (decision.server, visible(decision.target));
    match decision.kind {
        TargetKind::Tool => format!("{server}/{target}"),
        TargetKind::Prompt => format!("{server}!prompt:{target}"),
        TargetKind::Resource => format!("{server}!resource:{target}"),
        TargetKind::None if server.is_empty() => String::new(),
        TargetKind::None => format!("{server} {}", visible(decision.method)),
    }
}

fn why(decision: &Decision<'_>, rules: &[&str]) -> String {
    match (decision.reason, rules) {
        ("no_match", _) => "no rule permits it".to_owned(),
        ("auth", _) => "no valid token".to_owned(),
        ("task", _) => "not a task of this token".to_owned(),
        ("permit", []) => "no rule needed".to_owned(),
        (reason, []) => visible(reason),
        (_, rules) => rules.join(", "),
    }
}

fn ended(outcome: &Outcome) -> String {
    let took = format!("{}.{} ms", outcome.total_us / 1000, outcome.total_us % 1000 / 100);
    match (outcome.status, outcome.code) {
        (Status::Ok, _) if outcome.is_error => format!("the tool says no, {took}"),
        (Status::Ok, _) => took,
        (status, 0) => format!("{}, {took}", audit::word(status)),
        (status, code) => format!("{} {code}, {took}", audit::word(status)),
    }
}

/// A text of somebody else's as it may stand in a terminal: nothing in it moves the cursor, colours or hides.
fn visible(text: &str) -> String {
    const CHARS_MAX: usize = 60;
    let mut out = String::with_capacity(text.len().min(CHARS_MAX));
    for letter in text.chars().take(CHARS_MAX) {
        // Debug's escapes cover controls, separators, bidirectional and other marks without a shape.
        match letter {
            '"' | '\'' | '\\' => out.push(letter),
            letter => out.extend(letter.escape_debug()),
        }
    }
    if text.chars().nth(CHARS_MAX).is_some() {
        out.push('…');
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::ids::ShardId;
    use crate::record::Seq;

    fn decision(verdict: Verdict, target: &'static str) -> Decision<'static> {
        Decision {
            unix_ms: 1_700_000_000_123,
            subject: "alice",
            agent: "research-bot",
            task: "research",
            method: "tools/call",
            server: "docs",
            target,
            kind: TargetKind::Tool,
            verdict,
            reason: if verdict == Verdict::Permit { "permit" } else { "no_match" },
            ..Decision::default()
        }
    }

    fn decided(seq: u64, decision: Decision<'static>, rules: Vec<&'static str>) -> Event {
        Event::of(&Frame::Decision { shard: ShardId(0), seq: Seq(seq), decision, rules, cut: false })
    }

    fn outcome(seq: u64) -> Event {
        let outcome = Outcome {
            unix_ms: 1_700_000_009_999,
            status: Status::Ok,
            http: 200,
            is_error: false,
            code: 0,
            total_us: 3_140,
            upstream_us: 0,
            request_bytes: 0,
            answer_bytes: 0,
        };
        Event::of(&Frame::Outcome { shard: ShardId(0), seq: Seq(seq), outcome })
    }

    #[test]
    fn a_permit_is_one_line_with_its_outcome() {
        let (mut lines, mut out) = (Lines::new(false), String::new());
        lines.heard(decided(1, decision(Verdict::Permit, "search"), vec!["research-reads"]), 0, &mut out);
        assert_eq!((out.as_str(), lines.due()), ("", Some(DEMO_OUTCOME_MS_MAX)));
        lines.heard(outcome(1), 3, &mut out);
        let want = "22:13:20  alice    research-bot   research        docs/search                         \
                    permit   research-reads, 3.1 ms\n";
        assert_eq!((out.as_str(), lines.due()), (want, None));
        assert_eq!(HEADING.find("VERDICT"), want.find("permit"));
        assert_eq!(HEADING.find("BY, "), want.find("research-reads"));
    }

    #[test]
    fn a_long_call_is_shown_twice() {
        let (mut lines, mut out) = (Lines::new(false), String::new());
        lines.heard(decided(1, decision(Verdict::Permit, "search"), vec!["r"]), 0, &mut out);
        lines.tick(DEMO_OUTCOME_MS_MAX - 1, &mut out);
        assert_eq!(out, "");
        lines.tick(DEMO_OUTCOME_MS_MAX, &mut out);
        lines.heard(outcome(1), 9_000, &mut out);
        lines.heard(outcome(1), 9_001, &mut out);
        let ends: Vec<&str> = out.lines().map(|line| line.rsplit(", ").next().unwrap()).collect();
        assert_eq!(ends, ["under way", "3.1 ms"]);
        let times: Vec<&str> = out.lines().map(|line| &line[..8]).collect();
        assert_eq!(times, ["22:13:20", "22:13:29"]);
    }

    #[test]
    fn a_refusal_waits_for_nothing() {
        let (mut lines, mut out) = (Lines::new(true), String::new());
        lines.heard(decided(1, decision(Verdict::Refuse, "drop"), vec![]), 0, &mut out);
        assert!(out.contains("\x1b[31mrefuse\x1b[0m   no rule permits it\n"), "{out:?}");
    }

    #[test]
    fn nobody_else_writes_to_the_terminal() {
        let (mut lines, mut out) = (Lines::new(false), String::new());
        let target = "x\x1b[2J\n\u{202e}y\u{200b}";
        lines.heard(decided(1, decision(Verdict::Refuse, target), vec![]), 0, &mut out);
        assert_eq!(out.matches('\n').count(), 1);
        assert!(out.contains("docs/x\\u{1b}[2J\\n\\u{202e}y\\u{200b}"), "{out}");
        assert_eq!(visible(&"a".repeat(99)).chars().count(), 61);
    }

    #[test]
    fn what_is_held_is_bounded() {
        let (mut lines, mut out) = (Lines::new(false), String::new());
        for seq in 0..3 * DEMO_LINES_MAX as u64 {
            lines.heard(decided(seq, decision(Verdict::Permit, "search"), vec!["r"]), 0, &mut out);
        }
        assert_eq!((lines.waiting.len(), lines.running.len()), (DEMO_LINES_MAX, DEMO_LINES_MAX));
    }
}
