//! Text with holes: `*` is any run of characters, `/` too, and the only special one; the whole must match.

use memchr::memmem;

/// A compiled glob: the literal parts between its stars. One part means no star at all.
///
/// Every question here is answered in time linear in the texts involved: the parts are looked for from left to right,
/// each where it comes first, and nothing is ever tried twice.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Glob {
    parts: Box<[Box<str>]>,
}

impl Glob {
    /// A glob as written in a rule.
    #[must_use]
    pub fn new(text: &str) -> Self {
        Self::from_parts(text.split('*'))
    }

    /// A glob from the literals around its stars; a `*` inside a literal is only itself.
    ///
    /// # Panics
    /// Without any part.
    #[must_use]
    pub fn from_parts<'a>(parts: impl IntoIterator<Item = &'a str>) -> Self {
        let all: Vec<&str> = parts.into_iter().collect();
        assert!(!all.is_empty(), "a glob is at least the empty text");
        let last = all.len() - 1;
        let kept = |&(index, part): &(usize, &str)| index == 0 || index == last || !part.is_empty();
        Self { parts: all.into_iter().enumerate().filter(kept).map(|(_, part)| Box::from(part)).collect() }
    }

    /// Whether the whole of `text` matches.
    #[must_use]
    pub fn matches(&self, text: &str) -> bool {
        let text = text.as_bytes();
        let (first, last) = (self.prefix().as_bytes(), self.suffix().as_bytes());
        let [_, between @ .., _] = &*self.parts else {
            return text == first;
        };
        if text.len() < first.len() + last.len() || !text.starts_with(first) || !text.ends_with(last) {
            return false;
        }
        let mut rest = &text[first.len()..text.len() - last.len()];
        for part in between {
            let Some(at) = memmem::find(rest, part.as_bytes()) else {
                return false;
            };
            rest = &rest[at + part.len()..];
        }
        true
    }

    /// Whether some text matches both.
    ///
    /// Where both have a star, only the outer parts can be at odds: what stands between them can always be written one
    /// after the other.
    #[must_use]
    pub fn overlaps(&self, other: &Self) -> bool {
        if let Some(text) = other.literal() {
            return self.matches(text);
        }
        if let Some(text) = self.literal() {
            return other.matches(text);
        }
        let ((a, b), (y, z)) = ((self.prefix(), other.prefix()), (self.suffix(), other.suffix()));
        (a.starts_with(b) || b.starts_with(a)) && (y.ends_with(z) || z.ends_with(y))
    }

    /// The one text it matches, when it has no star.
    #[must_use]
    pub fn literal(&self) -> Option<&str> {
        match &*self.parts {
            [text] => Some(text),
            _ => None,
        }
    }

    /// What every match begins with.
    #[must_use]
    pub fn prefix(&self) -> &str {
        self.parts.first().expect("never without a part")
    }

    /// Whether everything matches that begins with the prefix.
    #[must_use]
    pub fn is_prefix(&self) -> bool {
        matches!(&*self.parts, [_, last] if last.is_empty())
    }

    fn suffix(&self) -> &str {
        self.parts.last().expect("never without a part")
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn check(glob: &str, text: &str, want: bool) {
        assert_eq!(Glob::new(glob).matches(text), want, "{glob:?} against {text:?}");
        assert_eq!(slow(glob.as_bytes(), text.as_bytes()), want, "the oracle: {glob:?} against {text:?}");
    }

    /// The definition, word for word; exponential.
    fn slow(glob: &[u8], text: &[u8]) -> bool {
        match (glob, text) {
            ([], []) => true,
            ([b'*', rest @ ..], _) => (0..=text.len()).any(|skip| slow(rest, &text[skip..])),
            ([a, glob @ ..], [b, text @ ..]) => a == b && slow(glob, text),
            _ => false,
        }
    }

    /// Whether two globs have a text in common, by walking both at once; exponential.
    fn meet(a: &[u8], b: &[u8]) -> bool {
        match (a, b) {
            ([], []) => true,
            ([b'*', rest @ ..], _) => meet(rest, b) || (!b.is_empty() && meet(a, &b[1..])),
            (_, [b'*', rest @ ..]) => meet(a, rest) || (!a.is_empty() && meet(&a[1..], b)),
            ([x, a @ ..], [y, b @ ..]) => x == y && meet(a, b),
            _ => false,
        }
    }

    #[test]
    fn stars_are_runs_and_nothing_else_is_special() {
        check("echo", "echo", true);
        check("echo", "echo ", false);
        check("echo", "Echo", false);
        check("*", "", true);
        check("*", "a/b\n", true);
        check("read_*", "read_", true);
        check("read_*", "read_a/b", true);
        check("read_*", "xread_a", false);
        check("*_x", "_x", true);
        check("ab*ba", "aba", false);
        check("ab*ba", "abba", true);
        check("a*b*c", "abc", true);
        check("a*b*c", "acb", false);
        check("a*bb*b", "abbb", true);
        check("a*bb*b", "abb", false);
        check("**", "", true);
        check("a**b", "ab", true);
        check("file:///?[a]", "file:///?[a]", true);
        check("file:///?[a]", "file:///xa", false);
        check("ü*", "über", true);
    }

    #[test]
    fn a_hostile_text_costs_no_more_than_its_length() {
        let glob = Glob::new(&"a*".repeat(500));
        let text = format!("{}b", "a".repeat(8 * 1024));
        assert!(glob.matches(&text));
        let glob = Glob::new(&format!("{}c", "*ab".repeat(300)));
        assert!(!glob.matches(&"ab".repeat(4 * 1024)));
    }

    proptest! {
        #[test]
        fn matches_is_the_definition(glob in "[ab*]{0,7}", text in "[ab]{0,8}") {
            prop_assert_eq!(Glob::new(&glob).matches(&text), slow(glob.as_bytes(), text.as_bytes()));
        }

        #[test]
        fn overlaps_is_the_definition(a in "[ab*]{0,6}", b in "[ab*]{0,6}") {
            prop_assert_eq!(Glob::new(&a).overlaps(&Glob::new(&b)), meet(a.as_bytes(), b.as_bytes()));
        }
    }
}
