//! What a rule is about: `server/tool`, `server!resource:GLOB`, `server!prompt:GLOB`, `server!sampling`,
//! `server!elicitation`, `server!roots`, and `server!*` for all that is not a tool. The server's place is a glob too.

use thiserror::Error;

use super::glob::Glob;
use crate::base::limits::PATTERN_BYTES_MAX;
use crate::mcp::input::Ask;

/// One pattern of a rule.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Pattern {
    text: Box<str>,
    server: Glob,
    about: About,
}

/// What of a server is meant. Tools and prompts go by their upstream names.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum About {
    /// Tools of these names.
    Tool(Glob),
    /// Prompts of these names.
    Prompt(Glob),
    /// Resources of these URIs.
    Resource(Glob),
    /// What the server asks of the client.
    Ask(Ask),
    /// All that is not a tool.
    NotTool,
}

/// Why a text is no pattern.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("{problem}")]
pub struct PatternFault {
    /// The character at fault, counted from 1; one past the last where something is missing.
    pub column: usize,
    /// What is wrong there.
    pub problem: Problem,
}

/// What is wrong with a pattern.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum Problem {
    /// No `/` and no `!`.
    #[error("a pattern is server/tool or server!kind; here is neither / nor !")]
    NoSeparator,
    /// Nothing in front of `/` or `!`.
    #[error("the server is missing; * is any server")]
    NoServer,
    /// No id of a server has this character.
    #[error("a server is written with a-z, 0-9, - and *")]
    ServerCharacter,
    /// Nothing behind `/`, `resource:` or `prompt:`.
    #[error("nothing can match here; * is anything")]
    NoName,
    /// Another word behind `!`.
    #[error("after ! comes resource:GLOB, prompt:GLOB, sampling, elicitation, roots or *")]
    UnknownKind,
    /// A control character.
    #[error("a control character, which no name has")]
    Control,
    /// Longer than [`PATTERN_BYTES_MAX`].
    #[error("longer than {PATTERN_BYTES_MAX} bytes")]
    TooLong,
}

impl Pattern {
    /// Reads a pattern.
    ///
    /// # Errors
    /// [`PatternFault`], with the first character at fault.
    pub fn parse(text: &str) -> Result<Self, PatternFault> {
        let fault = |byte: usize, problem| Err(PatternFault { column: text[..byte].chars().count() + 1, problem });
        if text.len() > PATTERN_BYTES_MAX {
            return fault(text.floor_char_boundary(PATTERN_BYTES_MAX), Problem::TooLong);
        }
        if let Some(at) = text.find(char::is_control) {
            return fault(at, Problem::Control);
        }
        let Some(at) = text.find(['/', '!']) else {
            return fault(text.len(), Problem::NoSeparator);
        };
        let (server, rest) = (&text[..at], &text[at + 1..]);
        if server.is_empty() {
            return fault(0, Problem::NoServer);
        }
        if let Some(wrong) = server.find(|c| !matches!(c, 'a'..='z' | '0'..='9' | '-' | '*')) {
            return fault(wrong, Problem::ServerCharacter);
        }
        let about = if text.as_bytes()[at] == b'/' { named(rest, "", About::Tool) } else { kind(rest) };
        match about {
            Ok(about) => Ok(Self { text: Box::from(text), server: Glob::new(server), about }),
            Err((offset, problem)) => fault(at + 1 + offset, problem),
        }
    }

    /// As the operator wrote it.
    #[must_use]
    pub fn text(&self) -> &str {
        &self.text
    }

    /// Whether this server is meant.
    #[must_use]
    pub fn has_server(&self, name: &str) -> bool {
        self.server.matches(name)
    }

    /// The glob in the server's place.
    #[must_use]
    pub fn server(&self) -> &Glob {
        &self.server
    }

    /// What of the server is meant.
    #[must_use]
    pub fn about(&self) -> &About {
        &self.about
    }
}

/// `About`, or the byte at fault counted from the start of `rest`, and why.
fn kind(rest: &str) -> Result<About, (usize, Problem)> {
    if rest == "*" {
        return Ok(About::NotTool);
    }
    if let Some(ask) = Ask::ALL.into_iter().find(|&ask| ask_word(ask) == rest) {
        return Ok(About::Ask(ask));
    }
    for (word, about) in [("resource:", About::Resource as fn(Glob) -> About), ("prompt:", About::Prompt)] {
        if rest.starts_with(word) {
            return named(rest, word, about);
        }
    }
    Err((0, Problem::UnknownKind))
}

/// The word for what a server asks of the client.
fn ask_word(ask: Ask) -> &'static str {
    match ask {
        Ask::Sampling => "sampling",
        Ask::Elicitation => "elicitation",
        Ask::Roots => "roots",
    }
}

fn named(rest: &str, word: &str, about: fn(Glob) -> About) -> Result<About, (usize, Problem)> {
    let glob = &rest[word.len()..];
    if glob.is_empty() { Err((rest.len(), Problem::NoName)) } else { Ok(about(Glob::new(glob))) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, want: Result<About, (usize, Problem)>) {
        let got = Pattern::parse(text);
        if let Ok(pattern) = &got {
            assert_eq!(pattern.text(), text);
        }
        let got = got.map(|pattern| pattern.about).map_err(|fault| (fault.column, fault.problem));
        assert_eq!(got, want, "{text:?}");
    }

    #[test]
    fn the_kinds() {
        check("docs/search", Ok(About::Tool(Glob::new("search"))));
        check("*/*", Ok(About::Tool(Glob::new("*"))));
        check("docs/a/b!c", Ok(About::Tool(Glob::new("a/b!c"))));
        check("docs/resource:x", Ok(About::Tool(Glob::new("resource:x"))));
        check("docs!resource:*", Ok(About::Resource(Glob::new("*"))));
        check("docs!resource:file:///a*", Ok(About::Resource(Glob::new("file:///a*"))));
        check("docs!prompt:review-*", Ok(About::Prompt(Glob::new("review-*"))));
        check("docs!sampling", Ok(About::Ask(Ask::Sampling)));
        check("*!elicitation", Ok(About::Ask(Ask::Elicitation)));
        check("d*!roots", Ok(About::Ask(Ask::Roots)));
        check("*!*", Ok(About::NotTool));
        check("docs!*", Ok(About::NotTool));
    }

    #[test]
    fn the_faults_and_where() {
        check("", Err((1, Problem::NoSeparator)));
        check("*", Err((2, Problem::NoSeparator)));
        check("docs", Err((5, Problem::NoSeparator)));
        check("/x", Err((1, Problem::NoServer)));
        check("!*", Err((1, Problem::NoServer)));
        check("Docs/x", Err((1, Problem::ServerCharacter)));
        check("do_cs/x", Err((3, Problem::ServerCharacter)));
        check("dü/x", Err((2, Problem::ServerCharacter)));
        check("docs__x/", Err((5, Problem::ServerCharacter)));
        check("docs/", Err((6, Problem::NoName)));
        check("docs!resource:", Err((15, Problem::NoName)));
        check("docs!prompt:", Err((13, Problem::NoName)));
        check("docs!", Err((6, Problem::UnknownKind)));
        check("docs!tool:x", Err((6, Problem::UnknownKind)));
        check("docs!resource", Err((6, Problem::UnknownKind)));
        check("docs!Sampling", Err((6, Problem::UnknownKind)));
        check("docs!sampling*", Err((6, Problem::UnknownKind)));
        check("docs/a\nb", Err((7, Problem::Control)));
        check(&format!("s/{}", "x".repeat(PATTERN_BYTES_MAX)), Err((PATTERN_BYTES_MAX + 1, Problem::TooLong)));
    }

    #[test]
    fn servers_are_globs() {
        let pattern = Pattern::parse("pay*/refund").unwrap();
        assert!(pattern.has_server("payments") && pattern.has_server("pay") && !pattern.has_server("prepay"));
    }
}
