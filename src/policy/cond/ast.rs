//! A condition as it was written, parsed and checked: what the program is compiled from, what the slow twin walks, and
//! what explains itself to people.
//!
//! What it comes to, beside what each node says:
//! - An operand is *missing* when its path leads nowhere (no such member, no such element, a step into what is neither),
//!   when the caller has no agent, when no one task is active, when the call has no arguments, or is about no tool or
//!   prompt.
//! - Every operator but `&&`, `||`, `all` and `exists` is *strict*: with a missing or unknown operand, or one of another
//!   type than it takes, it is unknown.
//! - `==` and `!=` between two types are unknown, but where one side is a [`Literal::Null`]: then they tell whether the
//!   other is null too. Within lists and objects, values of two types are merely different.
//! - `x in list` needs both, and is `list.exists(e, x == e)`, where each `e` of a literal list is as written: true where
//!   one is the same, else unknown where one is of another type (and neither it nor `x` is a written null), else false.
//! - `all` and `exists` are `&&` and `||` over the elements, in any order; over no elements true and false.
//! - `has` is false where a step is missing; a null that is there is there. Of a path that is *dead* (none of the rule's
//!   tools has it) a value is unknown, and `has` too where the call brings one.
//!
//! The question of lists is asked of *sets* of truths ([`super::Truths`]). What reads `args` or `now` is *open*: any
//! value, or unknown. A strict operator with an operand that is surely unknown ({Unknown}) is {Unknown}; else with one
//! that is open, or a set of several, all three; else what it is. An open operand where a truth is wanted is all three.
//! `has` of `args`, or of an open variable, is {True, False}. `!`, `&&`, `||` take each combination. `all` and `exists`
//! over a known list combine the sets of their elements; over an open list their variable is open, and the result is
//! what any number of elements (none, too) gives, and Unknown.

use crate::base::span::Span;

/// One expression and where it stands in the text, in bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Expr {
    /// What it is.
    pub kind: Kind,
    /// Where it stands; parentheses around it are not part of it.
    pub span: Span,
}

/// What an expression is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A value as written.
    Literal(Literal),
    /// A variable, or something within it.
    Path(Path),
    /// `has(path)`; the path has at least one step.
    Has(Path),
    /// `!x`: of a truth.
    Not(Box<Expr>),
    /// `-x`: of a number; a literal's sign is part of the literal.
    Negate(Box<Expr>),
    /// `x && y && …`, `x || y || …`: of truths, at least two.
    Logic(Logic, Vec<Expr>),
    /// `==` and `!=` of two values, the others of two numbers.
    Compare(Compare, Box<Expr>, Box<Expr>),
    /// `x in list`; the list is a literal, a path, or made by `split`.
    In(Box<Expr>, Box<Expr>),
    /// `+ - *` of two numbers; unknown beyond 38 digits.
    Arithmetic(Arithmetic, Box<Expr>, Box<Expr>),
    /// `size(x)`, `x.size()`: characters (code points) of a text, elements of a list, members of an object.
    Size(Box<Expr>),
    /// A question about two texts.
    Text(TextTest, Box<Expr>, Box<Expr>),
    /// `x.matches("pattern")`: whether the pattern is found anywhere in a text.
    Matches(Box<Expr>, Box<str>),
    /// `x.split("separator")`, the separator not empty, x no part of a URL: the list of the texts between, at least one.
    Split(Box<Expr>, Box<str>),
    /// `x.split("separator")[0]`: one of them; missing where there are not so many.
    Piece(Box<Expr>, Box<str>, u64),
    /// `list.all(name, truth)`, `list.exists(name, truth)`. The list is a literal, a path, or made by `split`. Within the
    /// truth the name is `Root::Variable(n)`, n being how many `Each` the whole stands in.
    Each(Quantifier, Box<Expr>, Box<str>, Box<Expr>),
    /// `url(x).part` of a text.
    Url(UrlPart, Box<Expr>),
    /// `ip(x).in("10.0.0.0/8")` of a text; the network is as written, and has been found to be one.
    IpIn(Box<Expr>, Box<str>),
    /// `time(now, "Zone").part`; the zone has been found to be one.
    Time(TimePart, Box<str>),
}

/// A value as written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Literal {
    /// `null`.
    Null,
    /// `true` or `false`.
    Bool(bool),
    /// A number, written as JSON writes it, of at most 38 digits.
    Number(Box<str>),
    /// A text, without its quotes and escapes.
    Text(Box<str>),
    /// A list of such; but for nulls, all of one type.
    List(Vec<Literal>),
}

/// A variable, or something within it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Path {
    /// The variable.
    pub root: Root,
    /// The steps from there.
    pub steps: Vec<Step>,
}

/// Where a path starts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Root {
    /// The arguments: an object, missing where the call has none.
    Args,
    /// The token's claims: an object.
    Claims,
    /// The subject: a text.
    Subject,
    /// The agent: a text.
    Agent,
    /// The issuer: a text.
    Issuer,
    /// The active task: a text.
    Task,
    /// The tool or prompt: a text, missing for what is neither.
    Tool,
    /// The server: a text.
    Server,
    /// Seconds since 1970: a number.
    Now,
    /// The variable of the `Each` that stands within so many others.
    Variable(u8),
}

/// One step of a path.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Step {
    /// To the member of this name.
    Name(Box<str>),
    /// To this element of a list, counted from 0.
    Index(u64),
}

/// `&&` or `||`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Logic {
    /// False where one is, else unknown where one is, else true.
    And,
    /// True where one is, else unknown where one is, else false.
    Or,
}

/// How two values are compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Compare {
    /// `==`
    Equal,
    /// `!=`
    NotEqual,
    /// `<`
    Less,
    /// `<=`
    LessOrEqual,
    /// `>`
    Greater,
    /// `>=`
    GreaterOrEqual,
}

/// What is done with two numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Arithmetic {
    /// `+`
    Plus,
    /// `-`
    Minus,
    /// `*`
    Times,
}

/// A question about two texts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum TextTest {
    /// `x.startsWith(y)`
    StartsWith,
    /// `x.endsWith(y)`
    EndsWith,
    /// `x.contains(y)`
    Contains,
    /// `x.under(y)`: whether x is the path y, or one below it.
    Under,
}

/// `all` or `exists`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Quantifier {
    /// Every element.
    All,
    /// At least one.
    Exists,
}

/// A part of a URL.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum UrlPart {
    /// A text in lower case.
    Scheme,
    /// A text in lower case, as punycode; missing where the URL has none.
    Host,
    /// A number; missing where the URL has none and its scheme none by default.
    Port,
}

/// A part of a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum TimePart {
    /// 0 to 23.
    Hour,
    /// 1 (Monday) to 7.
    Weekday,
}

impl Expr {
    /// The expressions within, in the order of the text: its operands.
    pub fn parts(&self) -> impl Iterator<Item = &Expr> {
        let (two, many): ([Option<&Expr>; 2], &[Expr]) = match &self.kind {
            Kind::Literal(_) | Kind::Path(_) | Kind::Has(_) | Kind::Time(..) => ([None; 2], &[]),
            Kind::Logic(_, all) => ([None; 2], all),
            Kind::Not(one) | Kind::Negate(one) | Kind::Size(one) | Kind::Matches(one, _) => ([Some(one), None], &[]),
            Kind::Split(one, _) | Kind::Piece(one, ..) | Kind::Url(_, one) | Kind::IpIn(one, _) => {
                ([Some(one), None], &[])
            }
            Kind::Compare(_, one, two) | Kind::In(one, two) | Kind::Arithmetic(_, one, two) => {
                ([Some(one), Some(two)], &[])
            }
            Kind::Text(_, one, two) | Kind::Each(_, one, _, two) => ([Some(one), Some(two)], &[]),
        };
        two.into_iter().flatten().chain(many)
    }

    /// Hands this expression and every one within it to `see`, in the order of the text.
    pub fn walk<'e>(&'e self, see: &mut dyn FnMut(&'e Expr)) {
        see(self);
        for part in self.parts() {
            part.walk(see);
        }
    }

    /// One text for all that are written alike but for blanks, parentheses and quotes; another for every other one.
    #[must_use]
    pub fn spelled(&self) -> String {
        let own = match &self.kind {
            Kind::Literal(literal) => format!("{literal:?}"),
            Kind::Path(path) => format!("{:?}{}", path.root, path.steps_text()),
            Kind::Has(path) => format!("has {:?}{}", path.root, path.steps_text()),
            Kind::Not(_) => "not".to_owned(),
            Kind::Negate(_) => "negate".to_owned(),
            Kind::Logic(logic, _) => format!("{logic:?}"),
            Kind::Compare(compare, ..) => format!("{compare:?}"),
            Kind::In(..) => "in".to_owned(),
            Kind::Arithmetic(what, ..) => format!("{what:?}"),
            Kind::Size(_) => "size".to_owned(),
            Kind::Text(test, ..) => format!("{test:?}"),
            Kind::Matches(_, pattern) => format!("matches {pattern:?}"),
            Kind::Split(_, separator) => format!("split {separator:?}"),
            Kind::Piece(_, separator, at) => format!("piece {separator:?} {at}"),
            Kind::Each(quantifier, ..) => format!("{quantifier:?}"),
            Kind::Url(part, _) => format!("url {part:?}"),
            Kind::IpIn(_, network) => format!("ip {network:?}"),
            Kind::Time(part, zone) => format!("time {part:?} {zone:?}"),
        };
        let parts: Vec<String> = self.parts().map(Self::spelled).collect();
        format!("{own}({})", parts.join(","))
    }

    /// The path that it is, or asks for with `has`.
    #[must_use]
    pub fn path(&self) -> Option<&Path> {
        match &self.kind {
            Kind::Path(path) | Kind::Has(path) => Some(path),
            _ => None,
        }
    }
}

impl Path {
    /// Its steps as one writes them: `.lines[0]["unit price"]`.
    #[must_use]
    pub fn steps_text(&self) -> String {
        use std::fmt::Write as _;
        let mut text = String::new();
        for step in &self.steps {
            let _ = match step {
                Step::Name(name) if is_name(name) => write!(text, ".{name}"),
                Step::Name(name) => write!(text, "[{name:?}]"),
                Step::Index(at) => write!(text, "[{at}]"),
            };
        }
        text
    }
}

/// Whether a member of this name can be written behind a dot.
#[must_use]
pub fn is_name(text: &str) -> bool {
    !text.starts_with(|first: char| first.is_ascii_digit())
        && !text.is_empty()
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
}
