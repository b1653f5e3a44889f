//! Conditions, and what they are about, drawn from bytes: for tests that compare two ways to decide. Names and values come
//! from small pools, so that what is asked for is often there, and often something else than it should be.

use std::fmt::Write as _;
use std::sync::Arc;

use smallvec::SmallVec;

use super::{ClaimTypes, Condition, Facts, Purpose};
use crate::identity::caller::{Caller, Endpoints, Heads, Owner};

/// Bytes to draw from. What is drawn when none is left is always the simplest, so fewer bytes make less.
#[derive(Clone, Debug)]
pub struct Draw<'a> {
    bytes: &'a [u8],
}

impl<'a> Draw<'a> {
    /// From these.
    #[must_use]
    pub fn new(bytes: &'a [u8]) -> Self {
        Self { bytes }
    }

    /// A number below `count`, which is at most 256.
    pub fn below(&mut self, count: usize) -> usize {
        let Some((first, rest)) = self.bytes.split_first() else { return 0 };
        self.bytes = rest;
        usize::from(*first) % count.max(1)
    }

    /// One of these; there is one at least.
    pub fn one<T: Copy>(&mut self, of: &[T]) -> T {
        of[self.below(of.len())]
    }

    /// True once in `times`.
    pub fn rarely(&mut self, times: usize) -> bool {
        self.below(times) + 1 == times && times > 1
    }
}

/// What a condition is about, owned.
#[derive(Clone, Debug)]
pub struct World {
    /// Who calls.
    pub caller: Caller,
    /// The arguments, as JSON.
    pub args: Option<String>,
    /// The task.
    pub task: Option<String>,
    /// The tool.
    pub tool: String,
    /// The server.
    pub server: String,
    /// Seconds since 1970.
    pub now_s: u64,
}

impl World {
    /// Draws one.
    pub fn draw(draw: &mut Draw<'_>) -> Self {
        let args = (!draw.rarely(8)).then(|| object(draw, ARGUMENTS, 2));
        let claims = object(draw, CLAIMS, 2);
        let agent = (!draw.rarely(4)).then(|| Arc::from(draw.one(TEXTS)));
        let (issuer, subject) = ("https://id.example.com", draw.one(&["ada", "a", "/data"]));
        let caller = Caller {
            issuer: Arc::from(issuer),
            subject: Arc::from(subject),
            owner: Owner::of(issuer, subject, agent.as_deref()),
            principal: Owner::of(issuer, subject, None),
            agent,
            tasks: SmallVec::new(),
            endpoints: Endpoints::all(),
            expires: u64::MAX,
            anonymous: false,
            claims: Arc::from(claims.as_bytes()),
            scopes: Arc::from([]),
            token: [0; 16],
            bearer: None,
            jti: None,
            key: None,
            liveness: None,
            heads: Heads::default(),
        };
        let task = (!draw.rarely(4)).then(|| draw.one(&["a", "refunds"]).to_owned());
        let tool = draw.one(&["a", "refund", ""]).to_owned();
        let now_s = draw.one(&[0, 1_711_846_799, 1_711_846_800, 1_729_990_800, 1_700_000_000, i64::MAX as u64]);
        Self { caller, args, task, tool, server: "a".to_owned(), now_s }
    }

    /// As a condition sees it.
    #[must_use]
    pub fn facts(&self) -> Facts<'_> {
        let args = self.args.as_deref().map(str::as_bytes);
        let task = self.task.as_deref();
        Facts { caller: &self.caller, args, task, tool: &self.tool, server: &self.server, now_s: self.now_s }
    }
}

/// Draws a condition that can be compiled.
pub fn condition(draw: &mut Draw<'_>, purpose: Purpose) -> Condition {
    let text = text(draw, purpose);
    let parse = |text: &str| Condition::parse(text, purpose, &ClaimTypes::default()).ok();
    let plain = match purpose {
        Purpose::Who | Purpose::When => "claims.a == 1",
        Purpose::Sum => "1",
        Purpose::Value | Purpose::Claim => "claims.a",
    };
    parse(&text).or_else(|| parse(plain)).expect("the plain one is a condition")
}

/// Draws the text of one; rarely, something in it does not fit.
pub fn text(draw: &mut Draw<'_>, purpose: Purpose) -> String {
    let mut writer = Writer { draw, variables: 0, caller_only: matches!(purpose, Purpose::Who | Purpose::Claim) };
    match purpose {
        Purpose::Who | Purpose::When => writer.truth(3),
        Purpose::Sum => writer.number(2),
        Purpose::Claim => format!("claims{}", writer.steps()),
        Purpose::Value => match writer.draw.below(5) {
            0 | 1 => writer.path(),
            2 => writer.number(2),
            3 => writer.text(1),
            _ => writer.truth(2),
        },
    }
}

struct Writer<'d, 'b> {
    draw: &'d mut Draw<'b>,
    variables: usize,
    caller_only: bool,
}

impl Writer<'_, '_> {
    // ---- truths -----------------------------------------------------------------------------------------------
    fn truth(&mut self, depth: usize) -> String {
        if depth == 0 {
            return match self.draw.below(4) {
                0 => self.equal(0),
                1 => self.has(),
                2 if self.variables > 0 => self.path(),
                2 => if self.caller_only { "claims.f" } else { "args.f" }.to_owned(),
                _ => self.draw.one(&["true", "false"]).to_owned(),
            };
        }
        match self.draw.below(18) {
            0 => self.equal(depth - 1),
            1 => self.has(),
            2 | 3 => self.order(depth - 1),
            4 | 5 => self.logic("&&", depth - 1),
            6 | 7 => self.logic("||", depth - 1),
            8 => format!("!({})", self.truth(depth - 1)),
            9 => self.within(depth - 1),
            10 | 11 => self.each(depth - 1),
            12 => {
                let test = self.draw.one(&["startsWith", "endsWith", "contains"]);
                format!("{}.{test}({})", self.text(depth - 1), self.text(depth - 1))
            }
            13 => {
                let root = self.draw.one(&["\"/data\"", "\"/\"", "\"/data/x/..\"", ""]);
                let root = if root.is_empty() { self.path() } else { root.to_owned() };
                format!("{}.under({root})", self.text(depth - 1))
            }
            14 => format!("{}.matches({})", self.text(depth - 1), quoted(self.draw.one(PATTERNS))),
            15 => format!("ip({}).in({})", self.text(depth - 1), quoted(self.draw.one(NETWORKS))),
            16 => format!("({}) == {}", self.truth(depth - 1), self.draw.one(&["true", "false", "args.a", "null"])),
            _ => self.truth(0),
        }
    }

    fn logic(&mut self, sign: &str, depth: usize) -> String {
        let count = 2 + usize::from(self.draw.rarely(3));
        (0..count).map(|_| format!("({})", self.truth(depth))).collect::<Vec<_>>().join(&format!(" {sign} "))
    }

    fn equal(&mut self, depth: usize) -> String {
        let sign = self.draw.one(&["==", "!="]);
        let (left, right) = match self.draw.below(7) {
            0 => (self.path(), self.literal()),
            1 => (self.path(), self.path()),
            2 => (self.number(depth), self.number(depth)),
            3 => (self.text(depth), self.text(depth)),
            4 => (self.path(), "null".to_owned()),
            5 => (self.path(), self.list()),
            _ => (self.literal(), self.path()),
        };
        format!("{left} {sign} {right}")
    }

    fn order(&mut self, depth: usize) -> String {
        let sign = self.draw.one(&["<", "<=", ">", ">="]);
        format!("{} {sign} {}", self.number(depth), self.number(depth))
    }

    fn has(&mut self) -> String {
        if self.variables > 0 && self.draw.rarely(3) {
            return format!("has({}{})", self.variable(), self.steps());
        }
        let root = if self.caller_only { "claims" } else { self.draw.one(&["args", "claims"]) };
        format!("has({root}{})", self.steps())
    }

    fn within(&mut self, depth: usize) -> String {
        match self.draw.below(5) {
            0 => format!("{} in {}", self.path(), self.list()),
            1 => format!("{} in {}", self.path(), self.path()),
            2 => format!(
                "{} in {}.split({})",
                self.text(depth),
                self.whole_text(depth),
                quoted(self.draw.one(SEPARATORS))
            ),
            3 => format!("null in {}", self.path()),
            _ => format!("{} in {}", self.literal(), self.path()),
        }
    }

    fn each(&mut self, depth: usize) -> String {
        if self.variables == 2 {
            return self.truth(0);
        }
        let list = match self.draw.below(4) {
            0 | 1 => self.path(),
            2 => self.list(),
            _ => format!("{}.split({})", self.whole_text(depth), quoted(self.draw.one(SEPARATORS))),
        };
        let quantifier = self.draw.one(&["all", "exists"]);
        self.variables += 1;
        let (name, body) = (NAMES_OF_VARIABLES[self.variables - 1], self.truth(depth));
        self.variables -= 1;
        format!("{list}.{quantifier}({name}, {body})")
    }

    // ---- values -----------------------------------------------------------------------------------------------
    fn number(&mut self, depth: usize) -> String {
        match self.draw.below(if depth == 0 { 4 } else { 10 }) {
            0 | 1 => self.path(),
            2 => self.draw.one(NUMBERS).to_owned(),
            3 => if self.caller_only { "2" } else { "now" }.to_owned(),
            4 | 5 => {
                let sign = self.draw.one(&["+", "-", "*"]);
                if self.draw.rarely(4) {
                    return format!("{} {sign} {}", self.draw.one(NUMBERS), self.draw.one(NUMBERS));
                }
                format!("({} {sign} {})", self.number(depth - 1), self.number(depth - 1))
            }
            6 => format!("-{}", self.path()),
            7 => match self.draw.below(4) {
                0 => format!("size({})", self.path()),
                1 => format!("{}.size()", self.text(depth - 1)),
                2 => format!("size({})", self.list()),
                _ => format!("size({}.split({}))", self.whole_text(depth - 1), quoted(self.draw.one(SEPARATORS))),
            },
            8 => format!("url({}).port", self.whole_text(depth - 1)),
            _ if self.caller_only => "1".to_owned(),
            _ => {
                let zone = self.draw.one(&["UTC", "Europe/Berlin", "America/New_York"]);
                format!("time(now, \"{zone}\").{}", self.draw.one(&["hour", "weekday"]))
            }
        }
    }

    fn text(&mut self, depth: usize) -> String {
        let roots: &[&str] = if self.caller_only { &["subject", "agent", "issuer"] } else { ROOTS };
        match self.draw.below(if depth == 0 { 4 } else { 6 }) {
            0 | 1 => self.path(),
            2 => quoted(self.draw.one(TEXTS)),
            3 => self.draw.one(roots).to_owned(),
            4 => format!("url({}).{}", self.whole_text(depth - 1), self.draw.one(&["host", "scheme"])),
            _ => {
                let separator = quoted(self.draw.one(SEPARATORS));
                format!("{}.split({separator})[{}]", self.whole_text(depth - 1), self.draw.below(3))
            }
        }
    }

    /// A text that is no part of a URL: those are not taken apart further.
    fn whole_text(&mut self, depth: usize) -> String {
        let text = self.text(depth);
        if text.starts_with("url(") { self.path() } else { text }
    }

    /// An argument, a claim, or a variable.
    fn path(&mut self) -> String {
        if self.variables > 0 && self.draw.below(2) == 0 {
            let name = self.variable();
            return if self.draw.rarely(3) { format!("{name}{}", self.steps()) } else { name };
        }
        let root = if self.caller_only { "claims" } else { self.draw.one(&["args", "args", "claims"]) };
        format!("{root}{}", self.steps())
    }

    fn variable(&mut self) -> String {
        NAMES_OF_VARIABLES[self.draw.below(self.variables)].to_owned()
    }

    fn steps(&mut self) -> String {
        let mut steps = String::new();
        for at in 0..1 + usize::from(self.draw.rarely(4)) {
            let _ = match self.draw.below(8) {
                0..=5 => write!(steps, ".{}", self.draw.one(&MEMBERS[..PLAIN_MEMBERS])),
                6 => write!(steps, "[{}]", quoted(self.draw.one(MEMBERS))),
                // Arguments and claims are objects.
                _ if at == 0 => write!(steps, ".l[{}]", self.draw.below(3)),
                _ => write!(steps, "[{}]", self.draw.below(3)),
            };
        }
        steps
    }

    fn literal(&mut self) -> String {
        match self.draw.below(5) {
            0 => self.draw.one(NUMBERS).to_owned(),
            1 => quoted(self.draw.one(TEXTS)),
            2 => self.draw.one(&["true", "false"]).to_owned(),
            3 => "null".to_owned(),
            _ => self.list(),
        }
    }

    fn list(&mut self) -> String {
        let count = self.draw.below(4);
        let kind = self.draw.below(4);
        let mut elements: Vec<String> = (0..count)
            .map(|_| match kind {
                0 => self.draw.one(NUMBERS).to_owned(),
                1 => quoted(self.draw.one(TEXTS)),
                2 => self.draw.one(&["true", "false"]).to_owned(),
                _ => self.draw.one(&["[]", "[1]", "[2.0]", "[null]"]).to_owned(),
            })
            .collect();
        if self.draw.rarely(4) {
            elements.push("null".to_owned());
        }
        format!("[{}]", elements.join(", "))
    }
}

/// As CEL writes a text.
fn quoted(text: &str) -> String {
    let mut quoted = String::from("\"");
    for letter in text.chars() {
        let _ = match letter {
            '"' | '\\' => write!(quoted, "\\{letter}"),
            '\n' => write!(quoted, "\\n"),
            '\0' => write!(quoted, "\\u0000"),
            letter => write!(quoted, "{letter}"),
        };
    }
    quoted + "\""
}

// ---- JSON -----------------------------------------------------------------------------------------------------
/// An object with some of these members.
fn object(draw: &mut Draw<'_>, members: &[&str], depth: usize) -> String {
    let mut all = Vec::new();
    for name in members {
        if draw.below(8) < 6 {
            all.push(format!("{}: {}", escaped(draw, name), json(draw, name, depth)));
        }
    }
    format!("{{{}}}", all.join(draw.one(&[",", " , ", ",\n"])))
}

/// What a member of this name mostly is, and sometimes not.
fn json(draw: &mut Draw<'_>, name: &str, depth: usize) -> String {
    let kind = match name {
        "a" | "b" | "amount" if !draw.rarely(3) => 0,
        "t" | "u" | "agent" if !draw.rarely(4) => 1,
        "l" if !draw.rarely(4) => 4,
        "o" if !draw.rarely(4) => 5,
        "f" if !draw.rarely(4) => 2,
        _ => draw.below(if depth == 0 { 4 } else { 6 }),
    };
    match kind {
        0 => match draw.below(NUMBERS.len() + LONG_NUMBERS.len()) {
            at if at < NUMBERS.len() => NUMBERS[at].to_owned(),
            at => LONG_NUMBERS[at - NUMBERS.len()].to_owned(),
        },
        1 => {
            let text = draw.one(TEXTS);
            escaped(draw, text)
        }
        2 => draw.one(&["true", "false"]).to_owned(),
        3 => "null".to_owned(),
        4 => {
            // Mostly of one type.
            let name = draw.one(&["a", "t", "f", "", "o", "l"]);
            let count = if depth == 0 { 0 } else { draw.below(4) };
            let all: Vec<String> = (0..count).map(|_| json(draw, name, depth.saturating_sub(1))).collect();
            format!("[{}]", all.join(","))
        }
        _ => object(draw, &ARGUMENTS[..if depth == 0 { 0 } else { 5 }], depth.saturating_sub(1)),
    }
}

/// As JSON writes a text, with more escapes than there must be.
fn escaped(draw: &mut Draw<'_>, text: &str) -> String {
    let more = draw.rarely(4);
    let mut inside = String::new();
    for letter in text.chars() {
        let must = letter.is_control() || matches!(letter, '"' | '\\');
        if must || more && draw.below(2) == 0 {
            for unit in letter.encode_utf16(&mut [0; 2]) {
                let _ = write!(inside, "\\u{unit:04x}");
            }
        } else {
            inside.push(letter);
        }
    }
    format!("\"{inside}\"")
}

const NAMES_OF_VARIABLES: [&str; 2] = ["x", "y"];
const ROOTS: &[&str] = &["subject", "agent", "issuer", "task", "tool", "server"];
const ARGUMENTS: &[&str] = &["a", "t", "l", "o", "f", "b", "u", "amount", "é😀", "a b"];
const CLAIMS: &[&str] = &["a", "t", "l", "o", "f", "agent"];
/// What paths name; the first ones can stand behind a dot.
const MEMBERS: &[&str] = &["a", "t", "l", "o", "f", "b", "u", "amount", "nothing", "é😀", "a b", "a\\b"];
const PLAIN_MEMBERS: usize = 9;
/// As JSON and conditions write them.
const NUMBERS: &[&str] = &[
    "0",
    "1",
    "2",
    "2.0",
    "0.2e1",
    "0.1",
    "0.2",
    "0.3",
    "3",
    "-1",
    "-0.5",
    "499.99",
    "4.9999e2",
    "1e3",
    "443",
    "8080",
    "1711846800",
    "9007199254740992",
    "9007199254740993",
    "1e400",
    "1e-400",
    "1e38",
    "99999999999999999999999999999999999999",
    "1e2147483647",
    "1e999999999",
];
/// As JSON alone may write them.
const LONG_NUMBERS: &[&str] = &[
    "999999999999999999999999999999999999999",
    "999999999999999999999999999999999999999.0",
    "1e2147483648",
    "10e2147483647",
    "-1e99999999999999999999999999999999999999999",
    "0.1000000000000000000000000000000000000001",
];
const TEXTS: &[&str] = &[
    "",
    "a",
    "b",
    "ab",
    "a b",
    "a,b,",
    "A",
    "2",
    "é",
    "é😀",
    "\"\\",
    "a\nb",
    "null",
    "refund",
    "/data",
    "/data/x",
    "/data/../etc/x",
    "/data//./x/",
    "/database",
    "data/x",
    "/data/%2e%2e/x",
    "/data\\x",
    "/data/\0",
    "10.0.0.1",
    "::ffff:10.0.0.1",
    "10.0.0.01",
    "2001:db8::1",
    "192.168.0.1",
    "example.com",
    "https://example.com/",
    "https://EXAMPLE.com.:8443/a",
    "http://u@example.com",
    "http://bücher.example",
    "http://xn--bcher-kva.example./",
    "http://[::ffff:10.0.0.1]:80/",
    "mailto:a",
    "http://a b",
    "ssh://example.com",
    "https://example.com\\@a",
    "http://127.1/",
];
const SEPARATORS: &[&str] = &[" ", ",", "a", "/", "😀"];
const PATTERNS: &[&str] = &["^a", "[0-9]+$", "(?i)^A B$", "", "^.$", r"^\d+\.\d"];
const NETWORKS: &[&str] = &["10.0.0.0/8", "10.0.0.1", "::/0", "0.0.0.0/0", "::ffff:10.0.0.0/104", "2001:db8::/32"];

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::collection::vec;
    use proptest::prelude::*;
    use proptest::strategy::ValueTree as _;
    use proptest::test_runner::{Config, TestRunner};

    use super::super::ast::{Expr, Kind, Literal, Root, Step, TimePart, UrlPart};
    use super::super::{Dead, Truth, Truths, reference};
    use super::*;

    const PURPOSES: [Purpose; 5] = [Purpose::When, Purpose::When, Purpose::Who, Purpose::Sum, Purpose::Value];

    /// Both ways to evaluate say the same of everything.
    fn agree(bytes: &[u8]) -> Result<(), TestCaseError> {
        let mut draw = Draw::new(bytes);
        let purpose = draw.one(&PURPOSES);
        let condition = condition(&mut draw, purpose);
        let dead: Dead = if draw.rarely(4) { draw.below(256) as u64 } else { 0 };
        let world = World::draw(&mut draw);
        let facts = world.facts();
        let what = || {
            format!(
                "{} of {:?}, claims {}",
                condition.text(),
                world.args,
                String::from_utf8_lossy(&world.caller.claims)
            )
        };
        let truth = condition.truth(&facts, dead);
        let could = condition.could(&facts);
        let is_truth = matches!(purpose, Purpose::Who | Purpose::When);
        let unknown = condition.unknown(&facts, dead);
        prop_assert!(!is_truth || unknown.is_some() == (truth == Truth::Unknown), "{}: {:?}", what(), unknown);
        prop_assert_eq!(truth, reference::truth(&condition, &facts, dead), "{}", what());
        prop_assert_eq!(could, reference::could(&condition, &facts), "{}", what());
        prop_assert!(could.has(truth) || dead != 0, "{}: {:?} is not among {:?}", what(), truth, could);
        prop_assert_eq!(condition.number(&facts, dead), reference::number(&condition, &facts, dead), "{}", what());
        let mut fed = Vec::new();
        let known = condition.value(&facts, dead, &mut |some| fed.extend_from_slice(some));
        prop_assert_eq!(known.then_some(fed), reference::value(&condition, &facts, dead), "{}", what());
        Ok(())
    }

    /// So many times as many cases as `PORTCULLIS_CONDITION_CASES` says, for a longer look.
    #[test]
    fn conditions_come_to_what_their_twin_says() {
        let times = std::env::var("PORTCULLIS_CONDITION_CASES").ok().and_then(|it| it.parse().ok()).unwrap_or(1_u32);
        let cases = times.saturating_mul(2_000);
        let config = Config { cases, failure_persistence: None, ..Config::default() };
        let found = TestRunner::new(config).run(&vec(any::<u8>(), 0..300), |bytes| agree(&bytes));
        if let Err(fault) = found {
            panic!("{fault}");
        }
    }

    /// What there is to see of a condition: one word for each.
    fn words(expr: &Expr, seen: &mut BTreeSet<String>) {
        expr.walk(&mut |expr| {
            seen.insert(name(&expr.kind));
            if let Some(path) = expr.path() {
                let root = if matches!(path.root, Root::Variable(_)) {
                    "Variable".to_owned()
                } else {
                    format!("{:?}", path.root)
                };
                seen.insert(format!("root {root}"));
                for step in &path.steps {
                    seen.insert(if matches!(step, Step::Name(_)) { "step name" } else { "step index" }.to_owned());
                }
            }
            if let Kind::Literal(literal) = &expr.kind {
                seen.insert(
                    match literal {
                        Literal::Null => "literal null",
                        Literal::Bool(_) => "literal bool",
                        Literal::Number(_) => "literal number",
                        Literal::Text(_) => "literal text",
                        Literal::List(_) => "literal list",
                    }
                    .to_owned(),
                );
            }
        });
    }

    fn name(kind: &Kind) -> String {
        match kind {
            Kind::Literal(_) => "literal".into(),
            Kind::Path(_) => "path".into(),
            Kind::Has(_) => "has".into(),
            Kind::Not(_) => "!".into(),
            Kind::Negate(_) => "negate".into(),
            Kind::Logic(logic, _) => format!("{logic:?}"),
            Kind::Compare(compare, ..) => format!("{compare:?}"),
            Kind::In(..) => "in".into(),
            Kind::Arithmetic(what, ..) => format!("{what:?}"),
            Kind::Size(_) => "size".into(),
            Kind::Text(test, ..) => format!("{test:?}"),
            Kind::Matches(..) => "matches".into(),
            Kind::Split(..) => "split".into(),
            Kind::Piece(..) => "piece".into(),
            Kind::Each(quantifier, ..) => format!("{quantifier:?}"),
            Kind::Url(part, _) => format!("url {part:?}"),
            Kind::IpIn(..) => "ip".into(),
            Kind::Time(part, _) => format!("time {part:?}"),
        }
    }

    /// What was drawn is worth comparing: every operator and literal, each truth of each operator, each kind of unknown.
    #[test]
    fn every_word_and_outcome_is_drawn() {
        let mut seen = BTreeSet::new();
        let mut runner = TestRunner::deterministic();
        let (mut misfits, cases) = (0, 6_000);
        for _ in 0..cases {
            let bytes = vec(any::<u8>(), 0..300).new_tree(&mut runner).unwrap().current();
            let mut draw = Draw::new(&bytes);
            let purpose = draw.one(&PURPOSES);
            let wanted = text(&mut draw.clone(), purpose);
            let condition = condition(&mut draw, purpose);
            misfits += usize::from(condition.text() != wanted);
            let world = World::draw(&mut draw);
            let facts = world.facts();
            words(condition.ast(), &mut seen);
            seen.insert(format!("purpose {purpose:?}"));
            if facts.args.is_none() {
                seen.insert("no args".into());
            }
            outcomes(&condition, &facts, &mut seen);
        }
        assert!(misfits * 10 < cases, "{misfits} of {cases} did not compile");
        let missing: Vec<String> = wanted().into_iter().filter(|word| !seen.contains(word)).collect();
        assert!(missing.is_empty(), "never drawn: {missing:?}");
    }

    fn outcomes(condition: &Condition, facts: &Facts<'_>, seen: &mut BTreeSet<String>) {
        let kind = &condition.ast().kind;
        if matches!(condition.purpose(), Purpose::Who | Purpose::When) {
            let truth = reference::truth(condition, facts, 0);
            seen.insert(format!("{} {truth:?}", name(kind)));
            seen.insert(format!("could {}", reference::could(condition, facts).0));
            return;
        }
        let known = reference::value(condition, facts, 0).is_some();
        seen.insert(format!("{} {}", name(kind), if known { "known" } else { "unknown" }));
        if let Kind::Arithmetic(_, left, right) = kind {
            let written = |side: &Expr| matches!(side.kind, Kind::Literal(Literal::Number(_)));
            if written(left) && written(right) && !known {
                seen.insert("beyond 38 digits".into());
            }
        }
        if let Kind::Path(path) = kind
            && path.root == Root::Args
            && known
        {
            let value = reference::value(condition, facts, 0).unwrap_or_default();
            seen.insert(format!("value {}", char::from(value[0])));
        }
    }

    fn wanted() -> Vec<String> {
        let mut all: Vec<String> = Vec::new();
        // Each of these comes to each truth.
        let truths = [
            "has",
            "!",
            "And",
            "Or",
            "Equal",
            "NotEqual",
            "Less",
            "LessOrEqual",
            "Greater",
            "GreaterOrEqual",
            "in",
            "StartsWith",
            "EndsWith",
            "Contains",
            "Under",
            "matches",
            "All",
            "Exists",
            "ip",
            "path",
        ];
        for name in truths {
            for truth in [Truth::True, Truth::False, Truth::Unknown] {
                if name != "has" || truth != Truth::Unknown {
                    all.push(format!("{name} {truth:?}"));
                }
            }
        }
        let values =
            ["path", "Plus", "Minus", "Times", "negate", "size", "piece", "url Host", "url Scheme", "url Port"];
        for name in values {
            all.push(format!("{name} known"));
            all.push(format!("{name} unknown"));
        }
        for part in [TimePart::Hour, TimePart::Weekday] {
            all.push(format!("time {part:?} known"));
        }
        for part in [UrlPart::Host, UrlPart::Scheme, UrlPart::Port] {
            all.push(format!("url {part:?}"));
        }
        for root in ["Args", "Claims", "Subject", "Agent", "Issuer", "Task", "Tool", "Server", "Now", "Variable"] {
            all.push(format!("root {root}"));
        }
        for set in 1..8 {
            // False alone, True alone, and so on: each set there can be.
            all.push(format!("could {}", Truths(set).0));
        }
        all.extend(OTHERS.iter().map(|word| (*word).to_owned()));
        all
    }

    const OTHERS: &[&str] = &[
        "split",
        "literal null",
        "literal bool",
        "literal number",
        "literal text",
        "literal list",
        "step name",
        "step index",
        "no args",
        "beyond 38 digits",
        "value n",
        "value t",
        "value f",
        "value #",
        "value \"",
        "value [",
        "value {",
    ];
}
