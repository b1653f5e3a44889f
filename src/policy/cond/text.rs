//! Texts as they stand in JSON: with escapes in them, which are undone where they are looked at.

use std::cmp::Ordering;

use smallvec::SmallVec;

/// A text that a message or a condition holds. Two are equal, and ordered, by what they say, however it is escaped.
#[derive(Clone, Copy, Debug)]
pub enum Text<'a> {
    /// As it stands.
    Plain(&'a str),
    /// What stands between the quotes of a JSON string, with escapes in it.
    Escaped(&'a str),
}

impl<'a> Text<'a> {
    /// What stands between the quotes of a JSON string; `None` where it is not UTF-8.
    #[must_use]
    pub fn inside(raw: &'a [u8]) -> Option<Self> {
        let text = str::from_utf8(raw).ok()?;
        Some(if memchr::memchr(b'\\', raw).is_some() { Self::Escaped(text) } else { Self::Plain(text) })
    }

    /// Its code points, one after the other.
    #[must_use]
    pub fn letters(self) -> Letters<'a> {
        match self {
            Self::Plain(rest) => Letters { rest, escaped: false },
            Self::Escaped(rest) => Letters { rest, escaped: true },
        }
    }

    /// How many code points it has.
    #[must_use]
    pub fn size(self) -> u64 {
        let count = match self {
            Self::Plain(text) => text.chars().count(),
            Self::Escaped(_) => self.letters().count(),
        };
        count as u64
    }

    /// Calls `then` with the text itself. Allocates for one with escapes that is longer than 256 bytes.
    pub fn with_str<R>(self, then: impl FnOnce(&str) -> R) -> R {
        match self {
            Self::Plain(text) => then(text),
            Self::Escaped(_) => {
                let mut plain = SmallVec::<[u8; PLAIN_BYTES]>::new();
                self.feed(&mut |run| plain.extend_from_slice(run));
                // Made of whole code points.
                then(str::from_utf8(&plain).unwrap_or_default())
            }
        }
    }

    /// Whether it begins with this one.
    #[must_use]
    pub fn starts_with(self, other: Text<'_>) -> bool {
        match (self, other) {
            (Self::Plain(text), Text::Plain(other)) => text.starts_with(other),
            _ => self.letters().behind(other).is_some(),
        }
    }

    /// Whether it ends with this one.
    #[must_use]
    pub fn ends_with(self, other: Text<'_>) -> bool {
        self.with_str(|text| other.with_str(|other| text.ends_with(other)))
    }

    /// Whether this one is somewhere in it.
    #[must_use]
    pub fn contains(self, other: Text<'_>) -> bool {
        self.with_str(|text| other.with_str(|other| memchr::memmem::find(text.as_bytes(), other.as_bytes()).is_some()))
    }

    /// What stands between the separators: one text more than there are separators. An empty one separates nothing.
    #[must_use]
    pub fn split(self, separator: &'a str) -> Split<'a> {
        Split { rest: Some(self), separator }
    }

    /// Feeds what it says to `out`, run by run.
    pub fn feed(self, out: &mut dyn FnMut(&[u8])) {
        let text = match self {
            Self::Plain(text) => return out(text.as_bytes()),
            Self::Escaped(text) => text,
        };
        let mut letters = Letters { rest: text, escaped: true };
        while let Some(at) = memchr::memchr(b'\\', letters.rest.as_bytes()) {
            let (run, rest) = letters.rest.split_at(at);
            out(run.as_bytes());
            letters.rest = rest;
            if let Some(letter) = letters.next() {
                out(letter.encode_utf8(&mut [0; 4]).as_bytes());
            }
        }
        out(letters.rest.as_bytes());
    }
}

impl PartialEq for Text<'_> {
    fn eq(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Plain(one), Self::Plain(other)) => one == other,
            // No escape is shorter than what it says.
            (Self::Escaped(one), Self::Plain(other)) | (Self::Plain(other), Self::Escaped(one))
                if one.len() < other.len() =>
            {
                false
            }
            _ => self.letters().eq(other.letters()),
        }
    }
}

impl Eq for Text<'_> {}

impl Ord for Text<'_> {
    fn cmp(&self, other: &Self) -> Ordering {
        match (self, other) {
            (Self::Plain(one), Self::Plain(other)) => one.cmp(other),
            // UTF-8 orders bytes as it orders code points.
            _ => self.letters().cmp(other.letters()),
        }
    }
}

impl PartialOrd for Text<'_> {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

/// The code points of a text.
#[derive(Clone, Debug)]
pub struct Letters<'a> {
    rest: &'a str,
    escaped: bool,
}

impl<'a> Letters<'a> {
    /// What is left behind `other`, if they begin with it.
    fn behind(mut self, other: Text<'_>) -> Option<&'a str> {
        other.letters().all(|letter| self.next() == Some(letter)).then_some(self.rest)
    }
}

impl Iterator for Letters<'_> {
    type Item = char;

    #[inline]
    fn next(&mut self) -> Option<char> {
        let mut left = self.rest.chars();
        let letter = left.next()?;
        self.rest = left.as_str();
        if letter == '\\' && self.escaped {
            // A backslash that begins no escape stands for itself; the scanner lets none through.
            let Some((letter, bytes)) = escape(self.rest) else { return Some('\\') };
            self.rest = self.rest.get(bytes..).unwrap_or_default();
            return Some(letter);
        }
        Some(letter)
    }
}

/// What the escape says whose backslash `rest` follows, and how many bytes it has (RFC 8259, 7).
fn escape(rest: &str) -> Option<(char, usize)> {
    let bytes = rest.as_bytes();
    let letter = match bytes.first()? {
        b'b' => '\u{8}',
        b'f' => '\u{c}',
        b'n' => '\n',
        b'r' => '\r',
        b't' => '\t',
        byte @ (b'"' | b'\\' | b'/') => char::from(*byte),
        b'u' => {
            let high = unit(bytes.get(1..5)?)?;
            if let Some(letter) = char::from_u32(high) {
                return Some((letter, 5));
            }
            let low = unit(bytes.get(5..11)?.strip_prefix(b"\\u")?)?;
            let pair = (0xd800..0xdc00).contains(&high) && (0xdc00..0xe000).contains(&low);
            let code = pair.then(|| 0x1_0000 + ((high - 0xd800) << 10) + (low - 0xdc00))?;
            return Some((char::from_u32(code)?, 11));
        }
        _ => return None,
    };
    Some((letter, 1))
}

/// The code unit that hexadecimal digits spell.
fn unit(digits: &[u8]) -> Option<u32> {
    digits.iter().try_fold(0, |sum, &digit| Some(sum << 4 | char::from(digit).to_digit(16)?))
}

/// The texts between separators.
#[derive(Clone, Debug)]
pub struct Split<'a> {
    rest: Option<Text<'a>>,
    separator: &'a str,
}

impl<'a> Iterator for Split<'a> {
    type Item = Text<'a>;

    fn next(&mut self) -> Option<Text<'a>> {
        let rest = self.rest.take()?;
        if self.separator.is_empty() {
            return Some(rest);
        }
        match rest {
            Text::Plain(text) => {
                let Some((piece, behind)) = text.split_once(self.separator) else { return Some(rest) };
                self.rest = Some(Text::Plain(behind));
                Some(Text::Plain(piece))
            }
            Text::Escaped(text) => {
                let mut letters = rest.letters();
                loop {
                    if let Some(behind) = letters.clone().behind(Text::Plain(self.separator)) {
                        self.rest = Some(Text::Escaped(behind));
                        let piece = text.get(..text.len() - letters.rest.len());
                        return Some(Text::Escaped(piece.unwrap_or_default()));
                    }
                    if letters.next().is_none() {
                        return Some(rest);
                    }
                }
            }
        }
    }
}

/// A text with escapes that is no longer is unescaped on the stack.
const PLAIN_BYTES: usize = 256;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn plain(text: Text<'_>) -> String {
        text.with_str(str::to_owned)
    }

    #[test]
    fn escapes_say_what_they_say() {
        let check = |inside: &str, want: &str| {
            let text = Text::inside(inside.as_bytes()).unwrap();
            assert_eq!(plain(text), want, "{inside}");
            assert_eq!(text, Text::Plain(want), "{inside}");
            assert_eq!(text.letters().collect::<String>(), want, "{inside}");
            assert_eq!(text.size(), want.chars().count() as u64);
        };
        check("", "");
        check("plain é €", "plain é €");
        check(r"\u0061mount", "amount");
        check(r#"\"\\\/\b\f\n\r\t"#, "\"\\/\u{8}\u{c}\n\r\t");
        check(r"\ud83d\ude00!", "😀!");
        check(r"\uD83D\uDE00\u0000", "😀\0");
        check(r"\u00e9\u20ac", "é€");
        check(&format!(r"{}\u0061", "x".repeat(1000)), &format!("{}a", "x".repeat(1000)));
    }

    /// None of these comes from the scanner.
    #[test]
    fn what_is_no_escape_does_no_harm() {
        for inside in
            ["\\", "a\\", r"\x", r"\u", r"\u12", r"\u12g4", r"\ud83d", r"\ud83d\u0061", r"\ude00", r"\ud83dé\u"]
        {
            let text = Text::Escaped(inside);
            assert_eq!(plain(text), text.letters().collect::<String>());
            assert!(text.split("é").count() > 0 && text == text);
        }
        assert_eq!(Text::inside(&[0xff]), None);
    }

    #[test]
    fn texts_are_searched_unescaped() {
        let text = Text::Escaped(r"a\u0062c d\u0020e");
        assert!(text.starts_with(Text::Plain("abc")) && !text.starts_with(Text::Plain("b")));
        assert!(Text::Plain("abcd").starts_with(Text::Escaped(r"\u0061b")));
        assert!(text.ends_with(Text::Plain("d e")) && text.ends_with(Text::Escaped(r"\u0065")));
        assert!(text.contains(Text::Plain("bc d")) && !text.contains(Text::Plain("u0062")));
        assert_eq!(text.split(" ").collect::<Vec<_>>(), ["abc", "d", "e"].map(Text::Plain));
        assert_eq!(Text::Plain("a,,b,").split(",").collect::<Vec<_>>(), ["a", "", "b", ""].map(Text::Plain));
        assert_eq!(Text::Plain("").split(",").collect::<Vec<_>>(), [Text::Plain("")]);
        assert_eq!(Text::Plain("ab").split("").collect::<Vec<_>>(), [Text::Plain("ab")]);
        assert_eq!(Text::Escaped(r"\ud83d\ude00,").split("😀").count(), 2);
        assert!(Text::Plain("a") < Text::Escaped(r"\u0062") && Text::Escaped(r"\uffff") < Text::Plain("😀"));
    }

    proptest! {
        /// Escaped at random, a text is what it was.
        #[test]
        fn texts_agree_with_std(one in "[a-c, é😀\"\\\\]{0,8}", other in "[a-c, é😀]{0,3}", escapes: u8) {
            let escaped: String = one.chars().enumerate().map(|(at, letter)| {
                if escapes >> (at % 8) & 1 == 0 && !matches!(letter, '"' | '\\') { return letter.to_string(); }
                letter.encode_utf16(&mut [0; 2]).iter().map(|unit| format!("\\u{unit:04x}")).collect()
            }).collect();
            let text = Text::inside(escaped.as_bytes()).unwrap();
            let small = Text::Plain(&other);
            prop_assert_eq!(text, Text::Plain(&one));
            prop_assert_eq!(text.cmp(&small), one.cmp(&other));
            prop_assert_eq!(text.starts_with(small), one.starts_with(&other));
            prop_assert_eq!(text.ends_with(small), one.ends_with(&other));
            prop_assert_eq!(text.contains(small), one.contains(&other));
            prop_assert_eq!(small == text, one == other);
            if !other.is_empty() {
                let pieces: Vec<String> = text.split(&other).map(plain).collect();
                prop_assert_eq!(pieces, one.split(&*other).collect::<Vec<_>>());
            }
        }
    }
}
