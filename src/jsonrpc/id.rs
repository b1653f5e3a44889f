//! Request ids, compared as the wire wrote them. An id is echoed byte for byte: 2^53+1 comes back unchanged.

use super::scan::{Kind, Member, ScanFault};
use super::text;
use crate::base::limits::ID_BYTES_MAX;
use crate::base::span::Span;

/// A string or an integer (MCP: never null; JSON-RPC 2.0 section 4: numbers without fraction), where it stands in
/// its message. At most [`ID_BYTES_MAX`] bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Id {
    /// As written: with quotes for a string.
    pub span: Span,
    /// Whether it is a string.
    pub is_string: bool,
}

impl Id {
    /// The id as written in `bytes`, the message it was read from.
    #[must_use]
    pub fn raw(self, bytes: &[u8]) -> &[u8] {
        self.span.of(bytes)
    }

    /// Whether `other`, an id as written elsewhere, is this one.
    #[must_use]
    pub fn is(self, bytes: &[u8], other: &[u8]) -> bool {
        same(self.raw(bytes), other)
    }

    /// The id that `member` holds.
    pub(super) fn of(bytes: &[u8], member: Member) -> Result<Self, ScanFault> {
        check(member.value.of(bytes), member.kind)?;
        Ok(Self { span: member.value, is_string: member.kind == Kind::String })
    }
}

/// Whether two ids as written are one: strings after unescaping, integers digit by digit. A string is never an
/// integer: `"1"` is not `1`.
#[must_use]
pub fn same(one: &[u8], other: &[u8]) -> bool {
    match (one.first(), other.first()) {
        (Some(b'"'), Some(b'"')) => text::same_text(text::inside(one), text::inside(other)),
        (Some(b'"'), _) | (_, Some(b'"')) | (None, _) => false,
        _ => one == other,
    }
}

/// Refuses what is no id: `raw` is one well-formed value of that kind.
pub(super) fn check(raw: &[u8], kind: Kind) -> Result<(), ScanFault> {
    let digits = raw.strip_prefix(b"-").unwrap_or(raw);
    match kind {
        Kind::String | Kind::Number if raw.len() > ID_BYTES_MAX => Err(ScanFault::IdTooLong),
        Kind::String => Ok(()),
        Kind::Number if digits.iter().all(u8::is_ascii_digit) => Ok(()),
        _ => Err(ScanFault::IdInvalid),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_equal_as_written() {
        for (one, other, want) in [
            ("1", "1", true),
            ("1", "2", false),
            ("1", "1.0", false),
            ("0", "-0", false),
            ("\"1\"", "1", false),
            ("1", "\"1\"", false),
            ("9007199254740993", "9007199254740993", true),
            ("9007199254740993", "9007199254740992", false),
            (r#""a""#, r#""\u0061""#, true),
            (r#""a/b""#, r#""a\/b""#, true),
            (r#""a""#, r#""b""#, false),
            (r#""""#, r#""""#, true),
            ("", "", false),
        ] {
            assert_eq!(same(one.as_bytes(), other.as_bytes()), want, "{one} {other}");
        }
    }

    #[test]
    fn only_strings_and_integers_are_ids() {
        for (raw, kind, want) in [
            ("0", Kind::Number, Ok(())),
            ("-12", Kind::Number, Ok(())),
            ("1.0", Kind::Number, Err(ScanFault::IdInvalid)),
            ("1e3", Kind::Number, Err(ScanFault::IdInvalid)),
            ("null", Kind::Null, Err(ScanFault::IdInvalid)),
            ("true", Kind::True, Err(ScanFault::IdInvalid)),
            ("[]", Kind::Array, Err(ScanFault::IdInvalid)),
            (r#""""#, Kind::String, Ok(())),
        ] {
            assert_eq!(check(raw.as_bytes(), kind), want, "{raw}");
        }
        assert_eq!(check(&[b'1'; ID_BYTES_MAX], Kind::Number), Ok(()));
        assert_eq!(check(&[b'1'; ID_BYTES_MAX + 1], Kind::Number), Err(ScanFault::IdTooLong));
    }
}
