//! Patterns of texts, in RE2's syntax as CEL has it. Looking takes time that grows with the text, and not faster.

use regex::RegexBuilder;

use crate::base::limits::{REGEX_CACHE_BYTES_MAX, REGEX_DEPTH_MAX, REGEX_PROGRAM_BYTES_MAX};

/// A pattern, compiled.
#[derive(Clone, Debug)]
pub struct Pattern(regex::Regex);

impl Pattern {
    /// Compiles one.
    ///
    /// # Errors
    /// What is wrong with it, in a line.
    pub fn parse(pattern: &str) -> Result<Self, String> {
        build(pattern)?;
        // What has been read once has no class within a class that would change by this.
        Ok(Self(build(&ascii_classes(pattern))?))
    }

    /// Whether it is found anywhere in the text.
    #[must_use]
    pub fn is_in(&self, text: &str) -> bool {
        self.0.is_match(text)
    }
}

fn build(pattern: &str) -> Result<regex::Regex, String> {
    RegexBuilder::new(pattern)
        .size_limit(REGEX_PROGRAM_BYTES_MAX)
        .dfa_size_limit(REGEX_CACHE_BYTES_MAX)
        .nest_limit(REGEX_DEPTH_MAX)
        .build()
        .map_err(|fault| match fault {
            regex::Error::CompiledTooBig(_) => "is too large when compiled".to_owned(),
            // The last line says it; those before draw where.
            fault => {
                let text = fault.to_string();
                let last = text.lines().last().unwrap_or_default();
                last.strip_prefix("error: ").unwrap_or(last).to_owned()
            }
        })
}

/// In RE2, `\d`, `\s`, `\w`, `\b` and `\B` know ASCII alone.
fn ascii_classes(pattern: &str) -> String {
    let mut plain = String::with_capacity(pattern.len());
    let mut letters = pattern.chars();
    while let Some(letter) = letters.next() {
        if letter != '\\' {
            plain.push(letter);
            continue;
        }
        let class = match letters.next() {
            Some('d') => "[0-9]",
            Some('D') => "[^0-9]",
            Some('s') => r"[\t\n\x0c\r ]",
            Some('S') => r"[^\t\n\x0c\r ]",
            Some('w') => "[0-9A-Za-z_]",
            Some('W') => "[^0-9A-Za-z_]",
            Some('b') => r"(?-u:\b)",
            Some('B') => r"(?-u:\B)",
            other => {
                plain.push('\\');
                plain.extend(other);
                continue;
            }
        };
        plain.push_str(class);
    }
    plain
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(pattern: &str, text: &str, want: bool) {
        let compiled = Pattern::parse(pattern).unwrap_or_else(|fault| panic!("{pattern}: {fault}"));
        assert_eq!(compiled.is_in(text), want, "{pattern} {text}");
    }

    #[test]
    fn patterns_are_found_anywhere() {
        check("b+", "abbc", true);
        check("^b+$", "abbc", false);
        check("^a.c$", "aéc", true);
        check("^a.c$", "a\nc", false);
        check("c$", "abc\n", false);
        check("", "", true);
        check("(?i)É", "é", true);
        check(r"^\p{Greek}+$", "αβ", true);
    }

    #[test]
    fn classes_are_of_ascii() {
        check(r"^\d+$", "0189", true);
        check(r"^\d+$", "٣", false);
        check(r"^[\d-]+$", "1-2", true);
        check(r"^[^\d]$", "٣", true);
        check(r"^\D$", "٣", true);
        check(r"^\w$", "é", false);
        check(r"^[\W_]$", "é", true);
        check(r"^\s$", "\u{a0}", false);
        check(r"^\S$", "\u{a0}", true);
        check(r"^\\d$", r"\d", true);
        check(r"^\\\d$", r"\7", true);
        check(r"\bb", "éb", true);
        check(r"\bb", "ab", false);
        check(r"\Bb", "éb", false);
        check(r"\Bb", "ab", true);
        check(r"^\.$", ".", true);
    }

    #[test]
    fn what_cannot_be_linear_or_small_is_refused() {
        for pattern in ["(", "a**b(", r"(a)\1", "(?=a)", "(?<!a)b", r"[\b]", "a{1000}{1000}", r"(\pL{500}){500}", "\\"]
        {
            let fault = Pattern::parse(pattern).expect_err(pattern);
            assert!(!fault.is_empty() && !fault.contains('\n'), "{fault:?}");
        }
        assert!(Pattern::parse(&"(".repeat(100_000)).is_err());
        let deep = format!("{}a{}", "(".repeat(1000), ")".repeat(1000));
        assert!(Pattern::parse(&deep).is_err());
    }
}
