//! Conditions: `who`, `when`, and the expressions of limits. Written in a part of CEL, compiled when the file is loaded to
//! a flat program that always ends, and never fails: what it cannot tell is unknown.
//! Start at `Condition::parse`.

pub mod ast;
pub mod canon;
mod check;
mod eval;
mod fault;
mod find;
mod lex;
pub mod number;
mod parse;
pub mod path;
mod plain;
mod program;
pub mod reference;
pub mod regex;
#[cfg(any(test, fuzzing))]
pub mod sample;
#[cfg(test)]
mod tests;
pub mod text;
pub mod value;
pub mod web;
pub mod zone;

use std::fmt;
use std::sync::Arc;

pub(in crate::policy) use fault::nearest;
pub use number::Number;
pub use value::{Num, Text, Value};

use crate::identity::caller::Caller;

/// What a condition may ask of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Purpose {
    /// `who`: `claims`, `subject`, `agent`, `issuer`. A truth.
    Who,
    /// `when`: these, and `args`, `task`, `tool`, `server`, `now`. A truth.
    When,
    /// `sum`: as `when`. A number.
    Sum,
    /// `once`, `same`, an `args.` path of `by`: as `when`. Any value.
    Value,
    /// A `claims.` path of a rate's `by`: as `who`. Any value.
    Claim,
}

/// What claims are declared to be (`auth.issuers[].claims`); undeclared ones are untyped.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ClaimTypes {
    /// By path (`groups`, `realm.roles`), sorted.
    pub declared: Vec<(Box<str>, ClaimType)>,
}

/// The type that a claim is declared to have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ClaimType {
    /// Text.
    Text,
    /// A number.
    Number,
    /// `true` or `false`.
    Bool,
    /// A list of texts.
    Texts,
    /// A list of numbers.
    Numbers,
    /// A list of anything.
    List,
    /// An object.
    Object,
}

/// Why a text is no condition.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{problem}")]
pub struct CondFault {
    /// The character at fault, counted from 1.
    pub column: usize,
    /// What is wrong there, as the rest of a sentence.
    pub problem: String,
    /// What to write instead, where that is known; else empty.
    pub hint: String,
}

/// A condition, compiled. Two are equal that were written alike for the same purpose.
#[derive(Clone)]
pub struct Condition {
    text: Arc<str>,
    purpose: Purpose,
    compiled: Arc<Compiled>,
}

struct Compiled {
    ast: ast::Expr,
    program: program::Program,
}

/// What a condition is about, which it borrows.
#[derive(Clone, Copy)]
pub struct Facts<'a> {
    /// Who calls: its claims, subject, agent, issuer.
    pub caller: &'a Caller,
    /// The arguments of a tool or prompt, a JSON object that the scanner has read; `None` for what has none.
    pub args: Option<&'a [u8]>,
    /// The active task; `None` for none, and for several.
    pub task: Option<&'a str>,
    /// The tool, or the prompt, by its upstream name; empty, and so missing, for what is neither.
    pub tool: &'a str,
    /// The server.
    pub server: &'a str,
    /// Seconds since 1970.
    pub now_s: u64,
}

/// What a condition comes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Truth {
    /// It holds.
    True,
    /// It does not.
    False,
    /// It cannot be told: an operand is missing, or of another type than it must be.
    Unknown,
}

/// What a condition could come to with other arguments, or at another time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Truths(pub u8);

impl Truths {
    /// Whether it could come to this.
    #[must_use]
    pub fn has(self, truth: Truth) -> bool {
        self.0 >> (truth as u8) & 1 == 1
    }
}

/// Paths of a condition that are unknown whatever the arguments hold, and to `has` where the arguments hold them: bit i is
/// `Condition::arg_paths()[i]`.
pub type Dead = u64;

impl Condition {
    /// Compiles a text.
    ///
    /// # Errors
    /// [`CondFault`], with the first character at fault.
    pub fn parse(text: &str, purpose: Purpose, claims: &ClaimTypes) -> Result<Self, CondFault> {
        let built = parse::parse(text, purpose).and_then(|ast| {
            check::check(&ast, text, purpose, claims)?;
            let program = program::Program::new(&ast, text)?;
            Ok(Compiled { ast, program })
        });
        let compiled = built.map_err(|fault| fault.in_text(text))?;
        Ok(Self { text: Arc::from(text), purpose, compiled: Arc::new(compiled) })
    }

    /// As the operator wrote it.
    #[must_use]
    pub fn text(&self) -> &str {
        &self.text
    }

    /// What it says, for those who walk it.
    #[must_use]
    pub fn ast(&self) -> &ast::Expr {
        &self.compiled.ast
    }

    /// What it was compiled for.
    #[must_use]
    pub fn purpose(&self) -> Purpose {
        self.purpose
    }

    /// Whether it looks at the arguments.
    #[must_use]
    pub fn reads_args(&self) -> bool {
        self.compiled.program.reads_args
    }

    /// Whether it looks at the time.
    #[must_use]
    pub fn reads_now(&self) -> bool {
        self.compiled.program.reads_now
    }

    /// Whether it looks at which tool or prompt it is.
    #[must_use]
    pub fn reads_tool(&self) -> bool {
        self.compiled.program.reads_tool
    }

    /// The paths of arguments that it names, as written after `args` (`.amount`, `.lines[0].price`); at most 64.
    #[must_use]
    pub fn arg_paths(&self) -> &[Box<str>] {
        &self.compiled.program.arg_paths
    }

    /// What it comes to. No allocation, whatever the arguments are, but for texts with escapes that are longer than 256
    /// bytes, and for objects that are compared.
    #[must_use]
    pub fn truth(&self, facts: &Facts<'_>, dead: Dead) -> Truth {
        eval::truth(&self.compiled.program, facts, dead)
    }

    /// What it could come to with any arguments, at any time: for lists.
    #[must_use]
    pub fn could(&self, facts: &Facts<'_>) -> Truths {
        eval::could(&self.compiled.program, facts)
    }

    /// The number that it comes to; `None` for unknown.
    #[must_use]
    pub fn number(&self, facts: &Facts<'_>, dead: Dead) -> Option<Number> {
        eval::number(&self.compiled.program, facts, dead)
    }

    /// Feeds the value that it comes to, in its canonical form, to `out`: equal values feed equal bytes, other ones other
    /// bytes. False, and nothing said, for unknown.
    pub fn value(&self, facts: &Facts<'_>, dead: Dead, out: &mut dyn FnMut(&[u8])) -> bool {
        eval::value(&self.compiled.program, facts, dead, out)
    }

    /// For people: the first operand, as written, that could not be told; `None` where nothing is unknown.
    #[must_use]
    pub fn unknown(&self, facts: &Facts<'_>, dead: Dead) -> Option<&str> {
        let place = eval::unknown(&self.compiled.program, facts, dead, self.purpose)?;
        self.text.get(place.start as usize..place.end as usize)
    }
}

impl fmt::Debug for Condition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.text.fmt(f)
    }
}

impl PartialEq for Condition {
    fn eq(&self, other: &Self) -> bool {
        self.purpose == other.purpose && self.text == other.text
    }
}

impl Eq for Condition {}

impl std::hash::Hash for Condition {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        self.purpose.hash(state);
        self.text.hash(state);
    }
}
