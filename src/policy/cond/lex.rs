//! Words of a condition, as CEL has them: names, numbers, texts with CEL's escapes, signs.

use super::fault::{Fault, fault};

/// One word of a condition and where it stands, in bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Token {
    pub(super) word: Word,
    pub(super) start: usize,
    pub(super) end: usize,
}

/// A word of a condition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Word {
    /// A name, or one of CEL's own words (`in`, `true`, …).
    Name,
    /// A number as JSON writes it.
    Number,
    /// A text, without its quotes and escapes.
    Text(Box<str>),
    /// One of the signs below.
    Sign(&'static str),
    /// After the last word.
    End,
}

/// Reads the word at or after byte `from`.
pub(super) fn next(text: &str, from: usize) -> Result<Token, Fault> {
    let start = blank(text, from);
    let token = |word, end| Ok(Token { word, start, end });
    let rest = &text[start..];
    let Some(first) = rest.chars().next() else {
        return token(Word::End, start);
    };
    if let Some((open, raw)) = quote(rest) {
        let (inside, end) = string(text, start, open, raw)?;
        return token(Word::Text(inside), end);
    }
    if first.is_ascii_digit() {
        return token(Word::Number, number(text, start)?);
    }
    if first.is_ascii_alphabetic() || first == '_' {
        let length = rest.find(|c: char| !c.is_ascii_alphanumeric() && c != '_').unwrap_or(rest.len());
        return token(Word::Name, start + length);
    }
    if let Some((sign, problem, hint)) = FOREIGN.iter().find(|(sign, ..)| rest.starts_with(sign)) {
        return Err(fault(start, format!("`{sign}` {problem}"), *hint));
    }
    if let Some(sign) = SIGNS.iter().find(|sign| rest.starts_with(**sign)) {
        return token(Word::Sign(sign), start + sign.len());
    }
    Err(match first {
        '=' => fault(start, "`=` compares nothing", "write =="),
        '&' | '|' => fault(start, format!("`{first}` is not understood"), format!("write {first}{first}")),
        first => stranger(text, start, first),
    })
}

/// The first byte at or after `from` that is neither blank nor in a comment.
fn blank(text: &str, from: usize) -> usize {
    let mut at = from;
    loop {
        let rest = &text[at..];
        let word = rest.trim_start_matches([' ', '\t', '\n', '\r', '\x0c']);
        at += rest.len() - word.len();
        if !word.starts_with("//") {
            return at;
        }
        at += word.find('\n').unwrap_or(word.len());
    }
}

fn stranger(text: &str, at: usize, first: char) -> Fault {
    match first {
        '“' | '”' | '„' | '‘' | '’' => fault(at, "a typographic quote", "write \" or '"),
        '≤' | '≥' | '≠' => fault(at, format!("`{first}` is no sign"), "write <=, >= or !="),
        first if first.is_control() => fault(at, "a control character", ""),
        first if first.is_alphabetic() => {
            let end = text[at..].find(|c: char| !c.is_alphanumeric()).map_or(text.len(), |length| at + length);
            let problem = format!("`{}` is no name: names are a-z, A-Z, 0-9 and _", &text[at..end]);
            fault(at, problem, "in a path, write [\"…\"]; a text stands in quotes")
        }
        first => fault(at, format!("`{first}` has no meaning here"), ""),
    }
}

// ---- numbers --------------------------------------------------------------------------------------------------
/// Where the number that starts at `start` ends.
fn number(text: &str, start: usize) -> Result<usize, Fault> {
    let rest = &text[start..];
    let digits = |text: &str| text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let mut length = digits(rest);
    if rest.starts_with("0x") || rest.starts_with("0X") {
        return Err(fault(start, "a hexadecimal number", "write it with digits 0-9"));
    }
    if length > 1 && rest.starts_with('0') {
        return Err(fault(start, "a number does not begin with 0", "leave the zeros out, or write a text: \"007\""));
    }
    if rest[length..].starts_with('.') {
        let fraction = digits(&rest[length + 1..]);
        if fraction == 0 {
            return Err(fault(start + length + 1, "digits are missing behind the point", ""));
        }
        length += 1 + fraction;
    }
    if rest[length..].starts_with(['e', 'E']) {
        let signed = usize::from(rest[length + 1..].starts_with(['+', '-']));
        let exponent = digits(&rest[length + 1 + signed..]);
        if exponent == 0 {
            return Err(fault(start + length + 1 + signed, "digits of the exponent are missing", ""));
        }
        length += 1 + signed + exponent;
    }
    match rest[length..].chars().next() {
        Some('u' | 'U') => Err(fault(start + length, "numbers have no types", "leave the `u` out")),
        Some('_') => Err(fault(start + length, "`_` within a number", "leave it out")),
        Some(c) if c.is_alphanumeric() => {
            Err(fault(start + length, format!("`{c}` within a number"), "a text stands in quotes"))
        }
        _ => Ok(start + length),
    }
}

// ---- texts ----------------------------------------------------------------------------------------------------
/// The quote that `rest` starts with, and whether escapes have no meaning behind it.
fn quote(rest: &str) -> Option<(char, bool)> {
    let (unprefixed, raw) = match rest.strip_prefix(['r', 'R']) {
        Some(inside) => (inside, true),
        None => (rest, false),
    };
    let open = unprefixed.chars().next().filter(|open| matches!(open, '"' | '\''))?;
    Some((open, raw))
}

/// The text in the quotes that open at `start`, and where it ends.
fn string(text: &str, start: usize, open: char, raw: bool) -> Result<(Box<str>, usize), Fault> {
    let mut at = start + 1 + usize::from(raw);
    if text[at..].starts_with(open) && text[at + 1..].starts_with(open) {
        return Err(fault(start, "texts in three quotes are not understood", "write \\n for a line's end"));
    }
    let mut inside = String::new();
    loop {
        let Some(c) = text[at..].chars().next() else {
            return Err(fault(start, "the quote that ends this text is missing", format!("write {open}")));
        };
        match c {
            c if c == open => return Ok((inside.into(), at + 1)),
            '\n' | '\r' => return Err(fault(at, "the line ends within a text", format!("write {open}, or \\n"))),
            '\\' if !raw => {
                let (meant, length) = escape(&text[at..]).map_err(|(problem, hint)| fault(at, problem, hint))?;
                inside.push(meant);
                at += length;
            }
            c => {
                inside.push(c);
                at += c.len_utf8();
            }
        }
    }
}

/// What the escape that `rest` starts with means, and its length in bytes.
fn escape(rest: &str) -> Result<(char, usize), (String, &'static str)> {
    let Some(kind) = rest[1..].chars().next() else {
        return Err(("nothing is escaped".into(), "write \\\\ for a backslash"));
    };
    let code = |radix: u32, from: usize, count: usize, digits: &str| {
        let spelt = rest.get(from..from + count).filter(|spelt| spelt.chars().all(|c| c.is_digit(radix)));
        let spelt = spelt.ok_or_else(|| (format!("{count} {digits} digits must stand here"), ""))?;
        let code = u32::from_str_radix(spelt, radix).ok().and_then(char::from_u32);
        let meant = code.ok_or_else(|| (format!("`{}` is no character", &rest[..from + count]), ""))?;
        Ok((meant, from + count))
    };
    let meant = match kind {
        'a' => '\x07',
        'b' => '\x08',
        'f' => '\x0c',
        'n' => '\n',
        'r' => '\r',
        't' => '\t',
        'v' => '\x0b',
        '\\' | '?' | '"' | '\'' | '`' => kind,
        'x' | 'X' => return code(16, 2, 2, "hexadecimal"),
        'u' => return code(16, 2, 4, "hexadecimal"),
        'U' => return code(16, 2, 8, "hexadecimal"),
        '0'..='3' => return code(8, 1, 3, "octal"),
        kind => {
            return Err((format!("`\\{kind}` is no escape"), "write \\\\ for a backslash, or r\"…\" around a pattern"));
        }
    };
    Ok((meant, 1 + kind.len_utf8()))
}

/// The longer ones first.
const SIGNS: &[&str] =
    &["&&", "||", "==", "!=", "<=", ">=", "!", "<", ">", "+", "-", "*", "(", ")", "[", "]", ",", "."];

/// What other languages write, and CEL beyond our part of it: asked before `SIGNS`.
const FOREIGN: &[(&str, &str, &str)] = &[
    ("===", "is not understood", "write =="),
    ("!==", "is not understood", "write !="),
    ("=~", "is not understood", "write .matches(\"…\")"),
    ("=>", "is not understood", "write >="),
    ("=<", "is not understood", "write <="),
    ("<>", "is not understood", "write !="),
    ("?", "is not understood", "write it with && and ||"),
    ("/", "is not understood: numbers are exact", "multiply the other side"),
    ("%", "is not understood", ""),
    (":", "is not understood", ""),
    ("{", "is not understood: there are no objects to write", ""),
    ("}", "is not understood: there are no objects to write", ""),
    ("`", "is no quote", "write \" or '"),
    (";", "is not understood", "write && between two conditions"),
];
