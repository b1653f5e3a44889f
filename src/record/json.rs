//! The record's JSON: everything escaped beyond what JSON demands that could move a cursor, hide text or fake a line in
//! whatever shows it.

use serde_json::Value;

use super::put::hex_of;

/// A comma, a name, and the colon behind it. The name is one of ours: nothing in it needs an escape.
pub fn name(out: &mut Vec<u8>, name: &str) {
    out.extend_from_slice(b",\"");
    out.extend_from_slice(name.as_bytes());
    out.extend_from_slice(b"\":");
}

/// A member with a text; `null` for none.
pub fn text(out: &mut Vec<u8>, key: &str, value: &str) {
    name(out, key);
    if value.is_empty() {
        out.extend_from_slice(b"null");
    } else {
        string(out, value);
    }
}

/// A member with a number.
pub fn number(out: &mut Vec<u8>, key: &str, value: u64) {
    name(out, key);
    out.extend_from_slice(itoa::Buffer::new().format(value).as_bytes());
}

/// A member that is true or false.
pub fn flag(out: &mut Vec<u8>, key: &str, value: bool) {
    name(out, key);
    out.extend_from_slice(if value { b"true" } else { b"false" });
}

/// A member with a list of texts.
pub fn texts<'a>(out: &mut Vec<u8>, key: &str, values: impl IntoIterator<Item = &'a str>) {
    name(out, key);
    out.push(b'[');
    for (index, value) in values.into_iter().enumerate() {
        if index > 0 {
            out.push(b',');
        }
        string(out, value);
    }
    out.push(b']');
}

/// A member with hexadecimal digits; `null` for all zero, which stands for none.
pub fn hex(out: &mut Vec<u8>, key: &str, bytes: &[u8]) {
    name(out, key);
    if bytes.iter().all(|byte| *byte == 0) {
        return out.extend_from_slice(b"null");
    }
    out.push(b'"');
    digits(out, bytes);
    out.push(b'"');
}

/// Two hexadecimal digits for each byte.
pub fn digits(out: &mut Vec<u8>, bytes: &[u8]) {
    out.extend(bytes.iter().flat_map(|byte| hex_of(*byte)));
}

/// A text, with its quotes.
pub fn string(out: &mut Vec<u8>, value: &str) {
    let plain = |byte: &u8| matches!(byte, b' '..=b'~') && !matches!(byte, b'"' | b'\\');
    if value.as_bytes().iter().all(plain) {
        out.push(b'"');
        out.extend_from_slice(value.as_bytes());
        out.push(b'"');
    } else {
        safe(out, &Value::from(value).to_string());
    }
}

/// JSON text without blanks around its tokens. Outside of strings JSON has none of the letters that are escaped here.
pub fn safe(out: &mut Vec<u8>, json: &str) {
    for letter in json.chars() {
        put(out, letter);
    }
}

/// JSON text as somebody wrote it: the same, without the blanks around its tokens.
pub fn compact(out: &mut Vec<u8>, json: &str) {
    let (mut inside, mut escaped) = (false, false);
    for letter in json.chars() {
        if !inside && matches!(letter, ' ' | '\t' | '\n' | '\r') {
            continue;
        }
        match letter {
            '"' if !escaped => inside = !inside,
            _ => {}
        }
        escaped = inside && letter == '\\' && !escaped;
        put(out, letter);
    }
}

fn put(out: &mut Vec<u8>, letter: char) {
    if !letter.is_control() && !hides(letter) {
        return out.extend_from_slice(letter.encode_utf8(&mut [0; 4]).as_bytes());
    }
    let mut units = [0; 2];
    for unit in letter.encode_utf16(&mut units) {
        out.extend_from_slice(format!("\\u{unit:04x}").as_bytes());
    }
}

/// Line and paragraph separators, bidirectional marks, tag characters, the byte order mark.
#[must_use]
pub fn hides(letter: char) -> bool {
    matches!(letter,
        '\u{061c}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}'
        | '\u{e0000}'..='\u{e007f}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blanks_between_tokens_go_and_texts_stay() {
        let check = |json: &str, want: &str| {
            let mut out = Vec::new();
            compact(&mut out, json);
            assert_eq!(String::from_utf8(out).unwrap(), want);
        };
        check("{ \"a b\" :\n[1 , 2.50 ] }", r#"{"a b":[1,2.50]}"#);
        check(r#" "x \" \\" "#, r#""x \" \\""#);
        check(r#"["\\", " ]"]"#, r#"["\\"," ]"]"#);
        check("\"a\u{202e}b\u{e0041}\"", "\"a\\u202eb\\udb40\\udc41\"");
    }
}
