//! Edits on a body whose other bytes leave as they came: numbers, key order and unknown members stay untouched.

use crate::base::span::Span;

/// Appends `body` to `out` with each span of `edits` replaced by its bytes. Spans are in rising order and do not
/// overlap; an empty span inserts before its place (two edits at one place come out in the order given).
///
/// # Panics
/// When the spans are out of order, overlap, or are not spans of this body: they are made by our own reader.
pub fn splice(body: &[u8], edits: &[(Span, &[u8])], out: &mut Vec<u8>) {
    out.reserve(spliced_len(body, edits));
    let mut kept = 0;
    for (span, new) in edits {
        assert!(span.start as usize >= kept, "edits come in rising order");
        out.extend_from_slice(&body[kept..span.start as usize]);
        out.extend_from_slice(new);
        kept = span.end as usize;
    }
    out.extend_from_slice(&body[kept..]);
}

/// Length in bytes of what [`splice`] will append.
#[must_use]
pub fn spliced_len(body: &[u8], edits: &[(Span, &[u8])]) -> usize {
    let gone: usize = edits.iter().map(|(span, _)| span.len()).sum();
    let new: usize = edits.iter().map(|(_, new)| new.len()).sum();
    (body.len() + new).saturating_sub(gone)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(body: &str, edits: &[(usize, usize, &str)], want: &str) {
        let edits: Vec<_> = edits.iter().map(|(start, end, new)| (Span::new(*start, *end), new.as_bytes())).collect();
        let mut out = b"head ".to_vec();
        splice(body.as_bytes(), &edits, &mut out);
        assert_eq!(String::from_utf8(out).unwrap(), format!("head {want}"));
        assert_eq!(spliced_len(body.as_bytes(), &edits), want.len());
    }

    #[test]
    fn edits_replace_insert_and_remove() {
        check("abcdef", &[], "abcdef");
        check("abcdef", &[(0, 1, "X")], "Xbcdef");
        check("abcdef", &[(5, 6, "")], "abcde");
        check("abcdef", &[(1, 1, "-"), (1, 3, "+"), (6, 6, "!")], "a-+def!");
        check("abcdef", &[(2, 2, "1"), (2, 2, "2")], "ab12cdef");
        check("", &[(0, 0, "x")], "x");
    }

    #[test]
    #[should_panic(expected = "rising order")]
    fn edits_out_of_order_are_our_own_fault() {
        check("abcdef", &[(3, 4, ""), (1, 2, "")], "");
    }
}
