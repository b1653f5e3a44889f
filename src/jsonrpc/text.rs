//! JSON strings: unescaping for those who need the text, escaping for those who write one.

use smallvec::SmallVec;

use super::scan::ScanFault;

/// The text of a JSON string, given the bytes inside its quotes: `inside` itself when it has no escapes, else
/// unescaped into `scratch` (cleared first).
///
/// # Errors
/// What the scanner would have said. Bytes from a span of an accepted message are never refused.
pub fn unescape<'a>(inside: &'a [u8], scratch: &'a mut Vec<u8>) -> Result<&'a str, ScanFault> {
    if !has_escape(inside) {
        return str::from_utf8(inside).map_err(|_| ScanFault::InvalidUtf8);
    }
    scratch.clear();
    decode(inside, |bytes| scratch.extend_from_slice(bytes))?;
    str::from_utf8(scratch).map_err(|_| ScanFault::InvalidUtf8)
}

/// Whether the bytes inside a string's quotes say something else than they spell.
#[must_use]
pub fn has_escape(inside: &[u8]) -> bool {
    // Most names are so short that a search is longer on its way than at its work.
    if inside.len() <= 16 { inside.contains(&b'\\') } else { memchr::memchr(b'\\', inside).is_some() }
}

/// Whether two strings, given as the bytes inside their quotes, are the same text.
#[must_use]
pub fn same_text(one: &[u8], other: &[u8]) -> bool {
    if !has_escape(one) && !has_escape(other) {
        return one == other;
    }
    let unescaped = |inside: &[u8]| {
        let mut text = SmallVec::<[u8; 256]>::new();
        decode(inside, |bytes| text.extend_from_slice(bytes)).ok().map(|()| text)
    };
    // Two strings that are none are not the same string.
    unescaped(one).is_some_and(|one| unescaped(other).as_ref() == Some(&one))
}

/// The bytes between the quotes of a string as written; `raw` itself when it has none.
#[must_use]
pub fn inside(raw: &[u8]) -> &[u8] {
    raw.strip_prefix(b"\"").and_then(|rest| rest.strip_suffix(b"\"")).unwrap_or(raw)
}

/// Appends `text` as a JSON string, with its quotes. Escapes what RFC 8259 section 7 demands and nothing else.
pub fn write_string(out: &mut Vec<u8>, text: &str) {
    const HEX: &[u8; 16] = b"0123456789abcdef";
    let bytes = text.as_bytes();
    out.reserve(bytes.len() + 2);
    out.push(b'"');
    let mut kept = 0;
    for (at, &byte) in bytes.iter().enumerate() {
        if byte >= 0x20 && byte != b'"' && byte != b'\\' {
            continue;
        }
        out.extend_from_slice(&bytes[kept..at]);
        kept = at + 1;
        match byte {
            b'"' | b'\\' => out.extend_from_slice(&[b'\\', byte]),
            b'\n' => out.extend_from_slice(b"\\n"),
            b'\r' => out.extend_from_slice(b"\\r"),
            b'\t' => out.extend_from_slice(b"\\t"),
            _ => {
                let (high, low) = (usize::from(byte >> 4), usize::from(byte & 15));
                out.extend_from_slice(&[b'\\', b'u', b'0', b'0', HEX[high], HEX[low]]);
            }
        }
    }
    out.extend_from_slice(&bytes[kept..]);
    out.push(b'"');
}

/// What `\` and this byte mean, but for `\u`.
pub(super) fn short_escape(byte: u8) -> Option<u8> {
    Some(match byte {
        b'"' | b'\\' | b'/' => byte,
        b'b' => 0x08,
        b'f' => 0x0c,
        b'n' => b'\n',
        b'r' => b'\r',
        b't' => b'\t',
        _ => return None,
    })
}

/// Value of a hexadecimal digit.
#[inline]
pub(super) fn hex_digit(byte: u8) -> Option<u16> {
    let value = HEX_VALUES[usize::from(byte)];
    (value < 16).then_some(u16::from(value))
}

/// The code unit that four hexadecimal digits spell.
#[inline]
pub(super) fn code_unit(digits: &[u8; 4]) -> Option<u16> {
    let [a, b, c, d] = digits.map(|byte| u16::from(HEX_VALUES[usize::from(byte)]));
    (a | b | c | d < 16).then_some(a << 12 | b << 8 | c << 4 | d)
}

/// The character of a surrogate pair; `low` alone when there is no `high` (zero).
#[inline]
pub(super) fn character(high: u16, low: u16) -> Option<char> {
    if high == 0 {
        return char::from_u32(u32::from(low));
    }
    char::decode_utf16([high, low]).next()?.ok()
}

/// Hands the unescaped text to `put`, run by run.
fn decode(inside: &[u8], mut put: impl FnMut(&[u8])) -> Result<(), ScanFault> {
    let mut rest = inside;
    while let Some(at) = memchr::memchr(b'\\', rest) {
        put(&rest[..at]);
        rest = &rest[at + 1..];
        let (&kind, after) = rest.split_first().ok_or(ScanFault::BadEscape)?;
        rest = after;
        if kind != b'u' {
            put(&[short_escape(kind).ok_or(ScanFault::BadEscape)?]);
            continue;
        }
        let mut unit = take_unit(&mut rest)?;
        let mut high = 0;
        if (0xd800..0xdc00).contains(&unit) {
            rest = rest.strip_prefix(b"\\u").ok_or(ScanFault::LoneSurrogate)?;
            high = unit;
            unit = take_unit(&mut rest)?;
        }
        let character = character(high, unit).ok_or(ScanFault::LoneSurrogate)?;
        put(character.encode_utf8(&mut [0; 4]).as_bytes());
    }
    put(rest);
    Ok(())
}

fn take_unit(rest: &mut &[u8]) -> Result<u16, ScanFault> {
    let (digits, after) = rest.split_first_chunk().ok_or(ScanFault::BadEscape)?;
    *rest = after;
    code_unit(digits).ok_or(ScanFault::BadEscape)
}

/// The value of each byte as a hexadecimal digit; 255 where it is none.
const HEX_VALUES: [u8; 256] = {
    let mut values = [255; 256];
    let mut digit = 0;
    while digit < 16 {
        values[b"0123456789abcdef"[digit as usize] as usize] = digit;
        values[b"0123456789ABCDEF"[digit as usize] as usize] = digit;
        digit += 1;
    }
    values
};

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn check(inside: &str, want: Result<&str, ScanFault>) {
        assert_eq!(unescape(inside.as_bytes(), &mut b"old".to_vec()), want, "{inside}");
    }

    #[test]
    fn unescape_says_what_is_meant() {
        check("", Ok(""));
        check("plain é", Ok("plain é"));
        check(r#"\"\\\/\b\f\n\r\t"#, Ok("\"\\/\u{8}\u{c}\n\r\t"));
        check(r"a\u0041\u00e9\u20acz", Ok("aAé€z"));
        check(r"\ud834\udd1e!", Ok("\u{1d11e}!"));
        check(r"\uD834\uDD1E", Ok("\u{1d11e}"));
        check(r"tools\/call", Ok("tools/call"));
        check(r"\u0000", Ok("\0"));
        check(r"\ud834", Err(ScanFault::LoneSurrogate));
        check(r"\ud834\n", Err(ScanFault::LoneSurrogate));
        check(r"\ud834\u0041", Err(ScanFault::LoneSurrogate));
        check(r"\udd1e", Err(ScanFault::LoneSurrogate));
        check(r"\x", Err(ScanFault::BadEscape));
        check("\\", Err(ScanFault::BadEscape));
        check(r"\u12", Err(ScanFault::BadEscape));
        check(r"\u12g4", Err(ScanFault::BadEscape));
        assert_eq!(unescape(b"\xff", &mut Vec::new()), Err(ScanFault::InvalidUtf8));
        assert_eq!(unescape(b"\\n\xff", &mut Vec::new()), Err(ScanFault::InvalidUtf8));
    }

    #[test]
    fn texts_are_compared_unescaped() {
        assert!(same_text(b"a", b"a") && same_text(br"\u0061", b"a") && same_text(br"a\/b", b"a/b"));
        assert!(!same_text(b"a", b"A") && !same_text(br"\u0062", b"a") && !same_text(br"\x", br"\x"));
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(text in any::<String>()) {
            let mut out = Vec::new();
            write_string(&mut out, &text);
            prop_assert_eq!(&serde_json::from_slice::<String>(&out).unwrap(), &text);
            let mut scratch = Vec::new();
            prop_assert_eq!(unescape(inside(&out), &mut scratch).unwrap(), &text);
        }

        #[test]
        fn unescape_agrees_with_serde_json(text in r#"([a-z"é€]|\\["\\/bfnrtux]|\\u[0-9a-fA-F]{4}|\\ud[89ab]00\\ud[c-f]ff){0,8}"#) {
            let whole = format!("\"{text}\"");
            let mut scratch = Vec::new();
            let ours = unescape(text.as_bytes(), &mut scratch).ok();
            if let Ok(theirs) = serde_json::from_str::<String>(&whole) {
                prop_assert_eq!(ours, Some(theirs.as_str()));
            } else if !text.contains('"') {
                prop_assert_eq!(ours, None);
            }
        }
    }
}
