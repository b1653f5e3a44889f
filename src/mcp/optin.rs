//! What a modern request lets its server send: it opts in to each kind by itself, on every request anew (MCP 2026-07-28
//! basic, "Request metadata"; server/utilities/logging).

use crate::jsonrpc::text;
use crate::mcp::walk;

/// The tasks extension, in the capabilities of either side.
pub const TASKS_EXTENSION: &str = "io.modelcontextprotocol/tasks";

/// What a request declares that its client can do, as far as a server's answer goes by it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Declared(u8);

impl Declared {
    /// Nothing.
    pub const NONE: Self = Self(0);
    /// `roots`.
    pub const ROOTS: Self = Self(1);
    /// `sampling`.
    pub const SAMPLING: Self = Self(2);
    /// `sampling.tools`.
    pub const SAMPLING_TOOLS: Self = Self(4);
    /// `elicitation.form`, which an `elicitation` without modes means too.
    pub const FORM: Self = Self(8);
    /// `elicitation.url`.
    pub const URL: Self = Self(16);
    /// `extensions["io.modelcontextprotocol/tasks"]`.
    pub const TASKS: Self = Self(32);
    /// Everything a server can ask of a client.
    pub const ASKS: Self = Self(Self::ROOTS.0 | Self::SAMPLING.0 | Self::SAMPLING_TOOLS.0 | Self::FORM.0 | Self::URL.0);

    /// Reads `_meta["io.modelcontextprotocol/clientCapabilities"]`: JSON text of a message that passed the scanner. A
    /// capability is declared by an object; anything else there declares nothing.
    #[must_use]
    pub fn read(capabilities: &[u8]) -> Self {
        let mut declared = Self::NONE;
        if capabilities == b"{}" {
            return declared;
        }
        let object = |value: crate::base::span::Span| value.of(capabilities).first() == Some(&b'{');
        for (name, value) in walk::members(capabilities, walk::whole(capabilities)).filter(|(_, value)| object(*value))
        {
            let has = |member: &str| walk::member(capabilities, value, member).is_some_and(object);
            declared = declared.and(match name.of(capabilities) {
                name if text::same_text(name, b"roots") => Self::ROOTS,
                name if text::same_text(name, b"sampling") => Self::SAMPLING.and_if(has("tools"), Self::SAMPLING_TOOLS),
                name if text::same_text(name, b"elicitation") => {
                    let url = has("url");
                    Self::NONE.and_if(url, Self::URL).and_if(!url || has("form"), Self::FORM)
                }
                name if text::same_text(name, b"extensions") => Self::NONE.and_if(has(TASKS_EXTENSION), Self::TASKS),
                _ => Self::NONE,
            });
        }
        declared
    }

    /// Both.
    #[must_use]
    pub const fn and(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// Whether all of `needed` is declared.
    #[must_use]
    pub const fn has(self, needed: Self) -> bool {
        self.0 & needed.0 == needed.0
    }

    const fn and_if(self, so: bool, other: Self) -> Self {
        if so { self.and(other) } else { self }
    }
}

/// The severity of a log message (RFC 5424, 6.2.1), least first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[expect(missing_docs, reason = "each is its wire name")]
pub enum LogLevel {
    Debug,
    Info,
    Notice,
    Warning,
    Error,
    Critical,
    Alert,
    Emergency,
}

impl LogLevel {
    /// The level of this name (the bytes inside its quotes); `None` for any other text.
    #[must_use]
    pub fn parse(name: &[u8]) -> Option<Self> {
        LEVELS.iter().find(|(_, known)| text::same_text(name, known.as_bytes())).map(|(level, _)| *level)
    }

    /// The level with this number, as `as u8` gives it.
    #[must_use]
    pub fn of(number: u8) -> Option<Self> {
        LEVELS.get(usize::from(number)).map(|(level, _)| *level)
    }

    /// As the wire writes it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        LEVELS[self as usize].1
    }
}

const LEVELS: [(LogLevel, &str); 8] = [
    (LogLevel::Debug, "debug"),
    (LogLevel::Info, "info"),
    (LogLevel::Notice, "notice"),
    (LogLevel::Warning, "warning"),
    (LogLevel::Error, "error"),
    (LogLevel::Critical, "critical"),
    (LogLevel::Alert, "alert"),
    (LogLevel::Emergency, "emergency"),
];

#[cfg(test)]
mod tests {
    use super::*;

    fn check(capabilities: &str, want: &[Declared]) {
        let want = want.iter().fold(Declared::NONE, |all, one| all.and(*one));
        assert_eq!(Declared::read(capabilities.as_bytes()), want, "{capabilities}");
    }

    #[test]
    fn capabilities_are_declared_by_objects() {
        use Declared as D;
        check("{}", &[]);
        check("[]", &[]);
        check("", &[]);
        check(r#"{"roots":{"listChanged":true},"sampling":{}}"#, &[D::ROOTS, D::SAMPLING]);
        check(r#"{"sampling":{"context":{},"tools":{}}}"#, &[D::SAMPLING, D::SAMPLING_TOOLS]);
        check(r#"{"elicitation":{}}"#, &[D::FORM]);
        check(r#"{"elicitation":{"form":{}}}"#, &[D::FORM]);
        check(r#"{"elicitation":{"url":{}}}"#, &[D::URL]);
        check(r#"{"elicitation":{"url":{},"form":{}}}"#, &[D::URL, D::FORM]);
        check(r#"{"extensions":{"a/b":{},"io.modelcontextprotocol/tasks":{}}}"#, &[D::TASKS]);
        check(r#"{"extensions":{"io.modelcontextprotocol\/tasks":{}}}"#, &[D::TASKS]);
        check(r#"{"s\u0061mpling":{}}"#, &[D::SAMPLING]);
        // Not objects, not ours, or not where they belong.
        check(
            r#"{"roots":null,"sampling":true,"elicitation":"form","extensions":["io.modelcontextprotocol/tasks"]}"#,
            &[],
        );
        check(r#"{"extensions":{"io.modelcontextprotocol/tasks":null}}"#, &[]);
        check(r#"{"tasks":{},"experimental":{"sampling":{}},"Roots":{}}"#, &[]);
    }

    #[test]
    fn what_is_needed_is_declared_or_not() {
        let both = Declared::ROOTS.and(Declared::FORM);
        assert!(both.has(Declared::NONE) && both.has(Declared::ROOTS) && both.has(both));
        assert!(!both.has(Declared::SAMPLING) && !both.has(Declared::ASKS) && !Declared::ASKS.has(Declared::TASKS));
    }

    #[test]
    fn levels_rise() {
        assert!(LEVELS.is_sorted());
        for (level, name) in LEVELS {
            assert_eq!(LogLevel::parse(name.as_bytes()), Some(level));
            assert_eq!((LogLevel::of(level as u8), level.as_str()), (Some(level), name));
        }
        assert_eq!(LogLevel::parse(br"d\u0065bug"), Some(LogLevel::Debug));
        for name in ["", "Debug", "warn", "debug "] {
            assert_eq!(LogLevel::parse(name.as_bytes()), None, "{name}");
        }
    }
}
