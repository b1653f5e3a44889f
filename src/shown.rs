//! Texts of others, for a terminal: nothing in them moves a cursor, hides, turns the direction of what stands beside it,
//! or passes for a line of ours.

use std::collections::BTreeSet;
use std::fmt::Write as _;

use portcullis::mcp::pin::hides;

pub(crate) use portcullis::plane::pins::show::plain;

/// The same, of so many letters at most; what is left out is marked.
pub(crate) fn cut(text: &str, letters: usize) -> String {
    let text = plain(text);
    if text.chars().count() <= letters {
        return text;
    }
    text.chars().take(letters.saturating_sub(1)).chain(['…']).collect()
}

/// A JSON text, laid out. Numbers stand as they were written; strings are decoded, and then escaped only where a person
/// would not see what is there.
pub(crate) fn json(text: &str) -> String {
    let mut out = String::with_capacity(text.len() * 2);
    let (mut depth, mut at) = (0_usize, 0);
    let bytes = text.as_bytes();
    let line = |out: &mut String, depth: usize| {
        out.push('\n');
        (0..depth).for_each(|_| out.push_str("  "));
    };
    while let Some(byte) = bytes.get(at) {
        match byte {
            b'"' => {
                let end = string_end(bytes, at);
                write_string(&mut out, &text[at..end]);
                at = end;
                continue;
            }
            b'{' | b'[' => {
                let next =
                    bytes[at + 1..].iter().position(|byte| !byte.is_ascii_whitespace()).map(|skip| at + 1 + skip);
                let close = next.filter(|next| matches!(bytes[*next], b'}' | b']'));
                out.push(char::from(*byte));
                if let Some(close) = close {
                    out.push(char::from(bytes[close]));
                    at = close + 1;
                    continue;
                }
                depth += 1;
                line(&mut out, depth);
            }
            b'}' | b']' => {
                depth = depth.saturating_sub(1);
                line(&mut out, depth);
                out.push(char::from(*byte));
            }
            b',' => {
                out.push(',');
                line(&mut out, depth);
            }
            b':' => out.push_str(": "),
            byte if byte.is_ascii_graphic() => out.push(char::from(*byte)),
            // Blanks between tokens; nothing else stands outside of strings.
            _ => {}
        }
        at += 1;
    }
    out
}

/// The letters outside of ASCII that a person sees in a JSON text, each once: some look like others.
pub(crate) fn foreign(text: &str) -> Vec<char> {
    let shown = json(text);
    let letters: BTreeSet<char> = shown.chars().filter(|letter| !letter.is_ascii()).collect();
    letters.into_iter().collect()
}

/// Behind the closing quote of the string that begins at `at`.
fn string_end(bytes: &[u8], at: usize) -> usize {
    let mut end = at + 1;
    while let Some(byte) = bytes.get(end) {
        match byte {
            b'"' => return end + 1,
            b'\\' => end += 2,
            _ => end += 1,
        }
    }
    bytes.len()
}

fn write_string(out: &mut String, literal: &str) {
    // Half a pair of surrogates is no text: it stays as it was written, which is ASCII.
    let written = serde_json::from_str::<String>(literal).and_then(|text| serde_json::to_string(&text));
    for letter in written.as_deref().unwrap_or(literal).chars() {
        if hides(letter) {
            for unit in letter.encode_utf16(&mut [0; 2]) {
                let _ = write!(out, "\\u{unit:04x}");
            }
        } else {
            out.push(letter);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_stand_as_written_and_hidden_letters_as_escapes() {
        let text = r#"{"a":1.50e3 ,"n":123456789012345678901234567890.10,"b":[],"c":{ },"d":["x",null]}"#;
        let want = "{\n  \"a\": 1.50e3,\n  \"n\": 123456789012345678901234567890.10,\n  \"b\": [],\n  \"c\": {},\n  \"d\": [\n    \"x\",\n    null\n  ]\n}";
        assert_eq!(json(text), want);
        let sly = "{\"p\":\"\\u002e\\u002e/x \u{202e}txt\u{200b}\u{1b}[2K\\n\\ud800 \\\"{[,:\"}";
        let shown = json(sly);
        assert_eq!(shown, "{\n  \"p\": \"\\u002e\\u002e/x \\u202etxt\\u200b\\u001b[2K\\n\\ud800 \\\"{[,:\"\n}");
        let whole = json("{\"p\":\"\\u002e\\u002e/x \u{202e}t\\u200b\"}");
        assert_eq!(whole, "{\n  \"p\": \"../x \\u202et\\u200b\"\n}");
        assert!(json("{\"cut").starts_with("{\n  \"cut"));
    }

    #[test]
    fn letters_that_look_like_others_are_named() {
        assert_eq!(foreign("{\"p\":\"p\\u0430ypal\"}"), ['\u{430}']);
        assert!(foreign("{\"p\":\"paypal \\u200b\"}").is_empty(), "that one is shown as an escape");
    }

    #[test]
    fn what_is_long_is_cut() {
        assert_eq!((cut("abc", 3), cut("abcd", 3), cut("a\nb", 9)), ("abc".into(), "ab…".into(), "a\\u{a}b".into()));
    }
}
