//! What children write on their standard error, on its way to the log: a line at a time, cut to a bound, without what
//! could pass for the gateway's own lines, and only so much of it. It is log text, and no sign of an error (MCP
//! basic/transports, "stdio").

use std::fmt::Write as _;
use std::time::{Duration, Instant};

use crate::base::limits::{STDIO_LOG_LINE_BYTES_MAX, STDIO_LOG_LINES_MAX, STDIO_LOG_LINES_PER_S};

/// One child's standard error.
#[derive(Debug)]
pub(super) struct Chatter {
    line: Vec<u8>,
    cut: bool,
    /// Lines that may be written at once.
    credit: u32,
    since: Instant,
    left_out: u64,
}

impl Chatter {
    pub(super) fn new(now: Instant) -> Self {
        Self { line: Vec::new(), cut: false, credit: STDIO_LOG_LINES_MAX, since: now, left_out: 0 }
    }

    /// The next bytes; `each` gets the lines that go to the log, and before them how many had to be left out.
    pub(super) fn push(&mut self, bytes: &[u8], now: Instant, mut each: impl FnMut(u64, &str)) {
        for piece in bytes.split_inclusive(|byte| *byte == b'\n') {
            let text = piece.strip_suffix(b"\n").unwrap_or(piece);
            let room = STDIO_LOG_LINE_BYTES_MAX - self.line.len();
            self.cut |= text.len() > room;
            self.line.extend_from_slice(&text[..text.len().min(room)]);
            if text.len() < piece.len() {
                self.end(now, &mut each);
            }
        }
    }

    /// Nothing more comes: the last line has no end.
    pub(super) fn finish(&mut self, now: Instant, mut each: impl FnMut(u64, &str)) {
        self.end(now, &mut each);
    }

    fn end(&mut self, now: Instant, each: &mut impl FnMut(u64, &str)) {
        let (line, cut) = (std::mem::take(&mut self.line), std::mem::take(&mut self.cut));
        let line = line.trim_ascii_end();
        if line.is_empty() {
            return;
        }
        self.earn(now);
        if self.credit == 0 {
            self.left_out += 1;
            return;
        }
        self.credit -= 1;
        let mut text = shown(line);
        if cut {
            text.push_str(" […]");
        }
        each(std::mem::take(&mut self.left_out), &text);
    }

    fn earn(&mut self, now: Instant) {
        let passed = now.saturating_duration_since(self.since);
        let earned = passed.as_millis() * u128::from(STDIO_LOG_LINES_PER_S) / 1000;
        if earned > 0 {
            self.credit =
                STDIO_LOG_LINES_MAX.min(self.credit.saturating_add(u32::try_from(earned).unwrap_or(u32::MAX)));
            self.since = if self.credit == STDIO_LOG_LINES_MAX {
                now
            } else {
                self.since
                    + Duration::from_millis(
                        u64::try_from(earned).unwrap_or(0) * 1000 / u64::from(STDIO_LOG_LINES_PER_S),
                    )
            };
        }
    }
}

/// A text of somebody else's as a log may show it: what moves a terminal's cursor, hides letters or turns them round is
/// written as its number.
fn shown(text: &[u8]) -> String {
    let mut out = String::with_capacity(text.len());
    for letter in String::from_utf8_lossy(text).chars() {
        let hides = matches!(letter,
            '\u{061c}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}'
            | '\u{e0000}'..='\u{e007f}');
        match letter {
            '\t' => out.push(' '),
            letter if letter.is_control() || hides => {
                // Writing to a string cannot fail.
                let _ = write!(out, "{}", letter.escape_unicode());
            }
            letter => out.push(letter),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(chatter: &mut Chatter, bytes: &[u8], now: Instant) -> Vec<(u64, String)> {
        let mut lines = Vec::new();
        chatter.push(bytes, now, |left_out, line| lines.push((left_out, line.to_owned())));
        lines
    }

    #[test]
    fn lines_cannot_pass_for_others() {
        let now = Instant::now();
        let mut chatter = Chatter::new(now);
        assert_eq!(said(&mut chatter, b"one\ntw", now), [(0, "one".to_owned())]);
        assert_eq!(said(&mut chatter, b"o\r\n\n  \n", now), [(0, "two".to_owned())]);
        let tricks = "a\u{1b}[2Jb\rc\u{202e}d\u{2028}e\u{7f}f\tg\n";
        let want = "a\\u{1b}[2Jb\\u{d}c\\u{202e}d\\u{2028}e\\u{7f}f g";
        assert_eq!(said(&mut chatter, tricks.as_bytes(), now), [(0, want.to_owned())]);
        assert_eq!(said(&mut chatter, b"\xff\n", now), [(0, "\u{fffd}".to_owned())]);
        let long = vec![b'x'; 3 * STDIO_LOG_LINE_BYTES_MAX];
        assert!(said(&mut chatter, &long, now).is_empty());
        let line = &said(&mut chatter, b"\n", now)[0].1;
        assert!(line.len() < STDIO_LOG_LINE_BYTES_MAX + 10 && line.ends_with("x […]"), "{line}");
    }

    #[test]
    fn a_flood_is_counted_and_left_out() {
        let now = Instant::now();
        let mut chatter = Chatter::new(now);
        let flood = b"x\n".repeat(1000);
        assert_eq!(said(&mut chatter, &flood, now).len(), STDIO_LOG_LINES_MAX as usize);
        let later = now + Duration::from_millis(1000);
        let lines = said(&mut chatter, &flood, later);
        assert_eq!(lines.len(), STDIO_LOG_LINES_PER_S as usize);
        assert_eq!(lines[0].0, 1000 - u64::from(STDIO_LOG_LINES_MAX));
        assert!(lines[1..].iter().all(|(left_out, _)| *left_out == 0));
    }
}
