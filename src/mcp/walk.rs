//! Steps through the members of an object and the elements of an array, in text that the scanner has accepted. On other
//! text a walk ends early; it never reads outside of it.

use crate::base::span::Span;
use crate::jsonrpc::text;

/// The members of the object that is the text at `value`: its name (between the quotes) and its value, as places in
/// `bytes`. Nothing when it is no object.
pub(crate) fn members(bytes: &[u8], value: Span) -> Members<'_> {
    let object = value.of(bytes).first() == Some(&b'{');
    let end = if object { value.end as usize } else { value.start as usize };
    Members { bytes: &bytes[..end], at: value.start as usize + usize::from(object) }
}

/// The elements of the array that is the text at `value`, as places in `bytes`. Nothing when it is no array.
pub(crate) fn elements(bytes: &[u8], value: Span) -> Elements<'_> {
    let array = value.of(bytes).first() == Some(&b'[');
    let end = if array { value.end as usize } else { value.start as usize };
    Elements { bytes: &bytes[..end], at: value.start as usize + usize::from(array) }
}

/// The value of the member `name` of the object at `value`.
pub(crate) fn member(bytes: &[u8], value: Span, name: &str) -> Option<Span> {
    members(bytes, value).find(|(key, _)| text::same_text(key.of(bytes), name.as_bytes())).map(|(_, value)| value)
}

/// The place between the quotes, when the text at `value` is a string.
pub(crate) fn string(bytes: &[u8], value: Span) -> Option<Span> {
    let raw = value.of(bytes);
    (raw.len() >= 2 && raw[0] == b'"').then(|| Span::new(value.start as usize + 1, value.end as usize - 1))
}

/// All of `bytes`, without the blanks around.
pub(crate) fn whole(bytes: &[u8]) -> Span {
    let start = skip_blanks(bytes, 0);
    let end = bytes.iter().rposition(|byte| !is_blank(*byte)).map_or(start, |last| last + 1);
    Span::new(start, end.max(start))
}

pub(crate) struct Members<'a> {
    bytes: &'a [u8],
    at: usize,
}

pub(crate) struct Elements<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl Iterator for Members<'_> {
    type Item = (Span, Span);

    fn next(&mut self) -> Option<(Span, Span)> {
        let start = skip_comma(self.bytes, self.at);
        if self.bytes.get(start) != Some(&b'"') {
            return None;
        }
        let end = value_end(self.bytes, start)?;
        let colon = skip_blanks(self.bytes, end);
        if self.bytes.get(colon) != Some(&b':') {
            return None;
        }
        let value = skip_blanks(self.bytes, colon + 1);
        self.at = value_end(self.bytes, value)?;
        Some((Span::new(start + 1, end - 1), Span::new(value, self.at)))
    }
}

impl Iterator for Elements<'_> {
    type Item = Span;

    fn next(&mut self) -> Option<Span> {
        let start = skip_comma(self.bytes, self.at);
        if matches!(self.bytes.get(start), None | Some(b']')) {
            return None;
        }
        self.at = value_end(self.bytes, start)?;
        Some(Span::new(start, self.at))
    }
}

/// One past the value that starts at `start`.
fn value_end(bytes: &[u8], start: usize) -> Option<usize> {
    match *bytes.get(start)? {
        b'"' => string_end(bytes, start),
        b'{' | b'[' => container_end(bytes, start),
        b'}' | b']' | b',' | b':' => None,
        _ => {
            let ends = |byte: &u8| is_blank(*byte) || matches!(byte, b',' | b'}' | b']');
            Some(bytes[start..].iter().position(ends).map_or(bytes.len(), |length| start + length))
        }
    }
}

fn string_end(bytes: &[u8], start: usize) -> Option<usize> {
    let mut at = start + 1;
    loop {
        at += memchr::memchr2(b'"', b'\\', bytes.get(at..)?)?;
        if bytes[at] == b'"' {
            return Some(at + 1);
        }
        at += 2;
    }
}

fn container_end(bytes: &[u8], start: usize) -> Option<usize> {
    let mut depth = 0_usize;
    let mut at = start;
    loop {
        match *bytes.get(at)? {
            b'"' => {
                at = string_end(bytes, at)?;
                continue;
            }
            b'{' | b'[' => depth += 1,
            b'}' | b']' => {
                depth -= 1;
                if depth == 0 {
                    return Some(at + 1);
                }
            }
            _ => {}
        }
        at += 1;
    }
}

fn skip_comma(bytes: &[u8], at: usize) -> usize {
    let at = skip_blanks(bytes, at);
    if bytes.get(at) == Some(&b',') { skip_blanks(bytes, at + 1) } else { at }
}

fn skip_blanks(bytes: &[u8], at: usize) -> usize {
    at + bytes[at.min(bytes.len())..].iter().take_while(|byte| is_blank(**byte)).count()
}

fn is_blank(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t' | b'\n' | b'\r')
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::Value;

    use super::*;

    fn listed(json: &str) -> Vec<(&str, &str)> {
        let bytes = json.as_bytes();
        let text = |span: Span| std::str::from_utf8(span.of(bytes)).unwrap();
        members(bytes, whole(bytes)).map(|(key, value)| (text(key), text(value))).collect()
    }

    #[test]
    fn members_in_order() {
        assert_eq!(
            listed(r#" {"a":1 , "b\"}":[1,{"x":"]}"}],"c":{"d":[]}, "e":"\\" ,"f":-1.5e3,"g":null} "#),
            [
                ("a", "1"),
                (r#"b\"}"#, r#"[1,{"x":"]}"}]"#),
                ("c", r#"{"d":[]}"#),
                ("e", r#""\\""#),
                ("f", "-1.5e3"),
                ("g", "null")
            ]
        );
        assert_eq!(listed("{}"), []);
        assert_eq!(listed("[1]"), []);
        let json = br#"{"a":1,"\u0062":"x"}"#;
        assert_eq!(member(json, whole(json), "b").map(|span| span.of(json)), Some(&b"\"x\""[..]));
        assert_eq!(member(json, whole(json), "c"), None);
    }

    #[test]
    fn broken_text_ends_the_walk() {
        for json in
            ["{", "{\"a", "{\"a\\", "{\"a\"", "{\"a\":", "{\"a\":}", "{\"a\":[", "{\"a\":\"", "{a:1}", "", "{\"a\"1}"]
        {
            assert_eq!(listed(json), [], "{json}");
        }
    }

    proptest! {
        #[test]
        fn agrees_with_serde_json(keys in proptest::collection::btree_map("[a-z\"\\\\é]{0,3}", ".{0,6}", 0..5)) {
            let json = serde_json::to_string(&keys).unwrap();
            let whole_value = format!("[{json},{json}]");
            let bytes = whole_value.as_bytes();
            let parts: Vec<Span> = elements(bytes, whole(bytes)).collect();
            prop_assert_eq!(parts.len(), 2);
            for part in parts {
                let parse = |raw: &[u8]| serde_json::from_slice::<Value>(raw).unwrap();
                let found: Vec<_> = members(bytes, part)
                    .map(|(key, value)| {
                        let quoted = Span::new(key.start as usize - 1, key.end as usize + 1);
                        (parse(quoted.of(bytes)), parse(value.of(bytes)))
                    })
                    .collect();
                let value = |text: &String| Value::from(text.as_str());
                let want: Vec<_> = keys.iter().map(|(k, v)| (value(k), value(v))).collect();
                prop_assert_eq!(found, want);
            }
        }

        #[test]
        fn never_reads_outside(bytes in proptest::collection::vec(any::<u8>(), 0..40)) {
            let mut json = b"{\"".to_vec();
            json.extend(bytes);
            let _ = members(&json, whole(&json)).count() + elements(&json, whole(&json)).count();
        }
    }
}
