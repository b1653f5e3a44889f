//! Where in the file the characters of a text stand, for faults that point inside it: the ways to spell a text (YAML 1.2,
//! 7.3 and 8.1) read once more, with an eye on the places. Which of them it is, is told by what comes out.

use std::ops::Range;

/// The place of character `offset` (from 0) of `text`, or of its end: how many lines below the value's own, and how many
/// characters behind its start, or on another line behind that line's. `spelt` is where in `file` the value is written.
/// `None` where what comes before the character is not written there.
pub(crate) fn place(file: &str, spelt: &Range<usize>, text: &str, offset: usize) -> Option<(usize, usize)> {
    let written = file.get(spelt.clone()).filter(|written| !written.is_empty())?;
    // The empty lines that a block begins with are not in it.
    let body = text.trim_start_matches('\n');
    let (text, offset) = (body, offset.checked_sub(text.len() - body.len())?);
    let indent = file[..spelt.start].chars().rev().take_while(|c| !is_break(*c)).count();
    let ways: [fn(&str, usize) -> Option<Spelt>; 5] =
        [|it, _| quoted(it, '"'), |it, _| quoted(it, '\''), |it, _| Some(flow(it, 0, None)), literal, folded];
    let read: Vec<Spelt> = ways.iter().filter_map(|way| way(written, indent)).collect();
    let ends = |spelt: &&Spelt| spelt.text().trim_end_matches('\n') == text.trim_end_matches('\n');
    let begins = |spelt: &&Spelt| spelt.0.iter().map(|(c, _)| *c).take(offset).eq(text.chars().take(offset));
    let spelt = read.iter().find(ends).or_else(|| read.iter().find(begins)).filter(begins)?;
    let at = spelt.place(offset)?;
    let before = &written[..at];
    let lines = before.replace("\r\n", "\n").chars().filter(|c| is_break(*c)).count();
    let last = before.rfind(is_break).map_or(0, |at| at + 1);
    Some((lines, before[last..].chars().count()))
}

/// The characters of a text, each with the byte that it begins at, and the byte behind the last.
#[derive(Default)]
struct Spelt(Vec<(char, usize)>, usize);

impl Spelt {
    fn push(&mut self, c: char, from: usize, to: usize) {
        self.0.push((c, from));
        self.1 = to;
    }

    fn text(&self) -> String {
        self.0.iter().map(|(c, _)| *c).collect()
    }

    fn place(&self, offset: usize) -> Option<usize> {
        let end = (offset == self.0.len()).then_some(self.1);
        self.0.get(offset).map(|(_, at)| *at).or(end)
    }

    /// Takes blanks off the end, but none before `kept`.
    fn trim(&mut self, kept: usize) {
        while self.0.len() > kept && self.0.last().is_some_and(|(c, _)| is_blank(*c)) {
            self.1 = self.0.pop().map_or(self.1, |(_, at)| at);
        }
    }
}

fn quoted(written: &str, quote: char) -> Option<Spelt> {
    let inner = written.strip_prefix(quote)?.strip_suffix(quote)?;
    Some(flow(inner, quote.len_utf8(), Some(quote)))
}

/// Text whose lines are folded, plain or in quotes; it begins at byte `base`.
fn flow(written: &str, base: usize, quote: Option<char>) -> Spelt {
    let mut out = Spelt(Vec::new(), base);
    let (mut at, mut kept) = (0, 0);
    while let Some(c) = written[at..].chars().next() {
        let from = base + at;
        at += c.len_utf8();
        match c {
            c if is_break(c) => {
                at -= c.len_utf8();
                out.trim(kept);
                let (breaks, next) = skip_breaks(written, at);
                match breaks {
                    1 => out.push(' ', from, base + next),
                    breaks => (1..breaks).for_each(|_| out.push('\n', from, base + next)),
                }
                at = next;
                kept = out.0.len();
            }
            '\\' if quote == Some('"') => {
                let (escaped, len) = escape(&written[at..]);
                at += len;
                match escaped {
                    Some(c) => out.push(c, from, base + at),
                    // An escaped line break is none.
                    None => at = skip_breaks(written, at).1,
                }
                kept = out.0.len();
            }
            '\'' if quote == Some('\'') => {
                at += usize::from(written[at..].starts_with('\''));
                out.push(c, from, base + at);
            }
            c => out.push(c, from, base + at),
        }
    }
    out
}

/// How many line breaks there are from here on, blanks between them left out; and where the text goes on.
fn skip_breaks(text: &str, from: usize) -> (usize, usize) {
    let (mut at, mut breaks) = (from, 0);
    while let Some(c) = text[at..].chars().next().filter(|c| is_break(*c) || is_blank(*c)) {
        at += if text[at..].starts_with("\r\n") { 2 } else { c.len_utf8() };
        breaks += usize::from(is_break(c));
    }
    (breaks, at)
}

/// What an escape of double quotes stands for (YAML 1.2, 5.7), and its length behind the backslash; `None` for an escaped
/// line break.
fn escape(rest: &str) -> (Option<char>, usize) {
    let Some(c) = rest.chars().next() else {
        return (None, 0);
    };
    let hex = |len: usize| {
        let digits = rest.get(1..=len).and_then(|digits| u32::from_str_radix(digits, 16).ok());
        (Some(digits.and_then(char::from_u32).unwrap_or('\u{fffd}')), if digits.is_some() { len + 1 } else { 1 })
    };
    let plain = match c {
        '0' => '\0',
        'a' => '\x07',
        'b' => '\x08',
        't' | '\t' => '\t',
        'n' => '\n',
        'v' => '\x0b',
        'f' => '\x0c',
        'r' => '\r',
        'e' => '\x1b',
        'N' => '\u{85}',
        '_' => '\u{a0}',
        'L' => '\u{2028}',
        'P' => '\u{2029}',
        'x' => return hex(2),
        'u' => return hex(4),
        'U' => return hex(8),
        c if is_break(c) => return (None, 0),
        c => c,
    };
    (Some(plain), c.len_utf8())
}

/// The lines of a block, each without its indentation: its characters, and the byte it begins at.
fn lines(written: &str, indent: usize) -> Vec<(&str, usize)> {
    let mut out = Vec::new();
    let mut at = 0;
    while at < written.len() {
        let end = written[at..].find(is_break).map_or(written.len(), |end| at + end);
        // The first line begins behind its indentation.
        let indented =
            if at == 0 { 0 } else { written[at..end].bytes().take(indent).take_while(|b| *b == b' ').count() };
        out.push((&written[at + indented..end], at + indented));
        at = end + if written[end..].starts_with("\r\n") { 2 } else { 1 };
    }
    out
}

/// A block with `|`.
fn literal(written: &str, indent: usize) -> Option<Spelt> {
    let mut out = Spelt::default();
    for (line, from) in lines(written, indent) {
        line.char_indices().for_each(|(at, c)| out.push(c, from + at, from + at + c.len_utf8()));
        out.push('\n', from + line.len(), from + line.len() + 1);
    }
    Some(out)
}

/// A block with `>`: a line break between two lines that are not indented further is a blank, more of them are one less.
fn folded(written: &str, indent: usize) -> Option<Spelt> {
    let mut out = Spelt::default();
    let (mut breaks, mut further) = (0, false);
    for (line, from) in lines(written, indent) {
        if !line.is_empty() {
            let indented = line.starts_with(is_blank);
            let here = from.saturating_sub(1);
            match breaks {
                0 => {}
                breaks if further || indented => (0..breaks).for_each(|_| out.push('\n', here, from)),
                1 => out.push(' ', here, from),
                breaks => (1..breaks).for_each(|_| out.push('\n', here, from)),
            }
            line.char_indices().for_each(|(at, c)| out.push(c, from + at, from + at + c.len_utf8()));
            (breaks, further) = (0, indented);
        }
        breaks += 1;
    }
    Some(out)
}

fn is_break(c: char) -> bool {
    matches!(c, '\n' | '\r')
}

fn is_blank(c: char) -> bool {
    matches!(c, ' ' | '\t')
}

#[cfg(test)]
mod tests {
    use crate::config::raw;

    /// Where `needle` is found in the value of `a`, and what stands there in the file.
    #[track_caller]
    fn check(file: &str, needle: &str, want: (usize, usize)) {
        let root = raw::parse(file).unwrap_or_else(|fault| panic!("{fault}"));
        let node = root.get("a").expect("the key");
        let text = node.text().expect("a text");
        let at = text.find(needle).unwrap_or_else(|| panic!("{needle} is not in {text:?}"));
        let place = node.at.inside(file, text, text[..at].chars().count());
        assert_eq!((place.line, place.column), want, "{file}");
    }

    #[test]
    fn plain_texts() {
        check("a: x && yé < z", "x", (1, 4));
        check("a: x && yé < z", "z", (1, 14));
        check("b: 1\na:\n   x &&\n     y <\n\n  z # end\n", "y", (4, 6));
        check("b: 1\na:\n   x &&\n     y <\n\n  z # end\n", "z", (6, 3));
        check("{a: x &&\r\n  y}", "y", (2, 3));
    }

    #[test]
    fn quoted_texts() {
        check(r#"a: "x \"y\" \t z""#, "y", (1, 9));
        check(r#"a: "x \"y\" \t z""#, "z", (1, 16));
        check(r#"a: "\x41\u00e9\U0001F600 z""#, "z", (1, 26));
        check("a: 'x ''y'' z'", "z", (1, 13));
        check("a: 'x\n  y\n\n   z'", "z", (4, 4));
        check("a: \"x \\\n   y\"", "y", (2, 4));
        check("a: \"x\n   y\"", "y", (2, 4));
        check("{\"a\": \"\\\"s\\\" in z\"}", "z", (1, 17));
    }

    #[test]
    fn blocks() {
        check("a: |\n  x &&\n    y &&\n\n  z\nb: 1\n", "x", (2, 3));
        check("a: |\n  x &&\n    y &&\n\n  z\nb: 1\n", "y", (3, 5));
        check("a: |-\n  x &&\n    y &&\n\n  z", "z", (5, 3));
        check("a: |2-\n   x\n  y\n", "y", (3, 3));
        check("a: | # why\n\n  \"x\" in\n  y\n", "y", (4, 3));
        check("a: >\n  x &&\n  y &&\n\n  z\nb: 1\n", "y", (3, 3));
        check("a: >-\n  x &&\n  y &&\n\n  z\nb: 1\n", "z", (5, 3));
        check("a: >\n  x\n    more\n  z\n", "z", (4, 3));
    }

    #[test]
    fn the_end_is_a_place_too() {
        let file = "a: 'x''y'\n";
        let root = raw::parse(file).expect("it parses");
        let node = root.get("a").expect("the key");
        assert_eq!(node.at.inside(file, "x'y", 3).column, 9);
        assert_eq!(node.at.inside(file, "x'y", 4).column, 4, "there is no such character");
        assert_eq!(node.at.inside(file, "other", 3).column, 4, "it is not written here");
        assert_eq!(node.at.inside(file, "x'other", 2).column, 8, "what comes before it is");
    }
}
