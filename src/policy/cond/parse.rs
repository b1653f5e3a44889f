//! From words to an [`Expr`], with CEL's precedence: `.` and `[]`, then `!` and `-`, `*`, `+ -`, comparisons and `in`,
//! `&&`, `||`.

use super::Purpose;
use super::ast::{Arithmetic, Compare, Expr, Kind, Literal, Logic, Path, Quantifier, Root, Step, TextTest};
use super::ast::{TimePart, UrlPart};
use super::fault::{Fault, fault, nearest};
use super::lex::{self, Token, Word};
use crate::base::limits::{COND_BYTES_MAX, COND_DEPTH_MAX, COND_LIST_MAX, COND_LOOPS_MAX};
use crate::base::span::Span;

/// Reads a text.
pub(super) fn parse(text: &str, purpose: Purpose) -> Result<Expr, Fault> {
    if text.len() > COND_BYTES_MAX {
        return Err(fault(COND_BYTES_MAX, format!("longer than {COND_BYTES_MAX} bytes"), "write several rules"));
    }
    let token = lex::next(text, 0)?;
    if token.word == Word::End {
        return Err(fault(0, "nothing stands here", ""));
    }
    let mut parser = Parser { text, token, last: 0, depth: 0, purpose, variables: Vec::new() };
    let expr = parser.expr()?;
    if parser.token.word != Word::End {
        return Err(parser.unexpected());
    }
    Ok(expr)
}

struct Parser<'t> {
    text: &'t str,
    /// The word at hand.
    token: Token,
    /// Where the word before it ends.
    last: usize,
    depth: usize,
    purpose: Purpose,
    /// Names of `all` and `exists` around the word at hand, the outer one first.
    variables: Vec<&'t str>,
}

impl<'t> Parser<'t> {
    // ---- words ------------------------------------------------------------------------------------------------
    fn advance(&mut self) -> Result<Token, Fault> {
        let next = lex::next(self.text, self.token.end)?;
        self.last = self.token.end;
        Ok(std::mem::replace(&mut self.token, next))
    }

    /// As written.
    fn word(&self) -> &'t str {
        &self.text[self.token.start..self.token.end]
    }

    fn is_sign(&self, sign: &str) -> bool {
        matches!(self.token.word, Word::Sign(at_hand) if at_hand == sign)
    }

    fn is_name(&self, name: &str) -> bool {
        self.token.word == Word::Name && self.word() == name
    }

    fn take(&mut self, sign: &str) -> Result<bool, Fault> {
        let is = self.is_sign(sign);
        if is {
            self.advance()?;
        }
        Ok(is)
    }

    fn expect(&mut self, sign: &str) -> Result<(), Fault> {
        if self.take(sign)? { Ok(()) } else { Err(self.missing(sign)) }
    }

    /// Something else than this sign.
    fn missing(&self, sign: &str) -> Fault {
        match self.token.word {
            Word::End => fault(self.token.start, format!("`{sign}` is missing"), ""),
            _ if self.token.word == Word::Name => self.unexpected(),
            _ => fault(self.token.start, format!("`{}` instead of `{sign}`", self.word()), ""),
        }
    }

    /// A word where an operator, or the end, must be.
    fn unexpected(&self) -> Fault {
        let (at, word) = (self.token.start, self.word());
        if self.token.word == Word::Name
            && let Some((_, hint)) = OPERATORS_ELSEWHERE.iter().find(|(name, _)| word.eq_ignore_ascii_case(name))
        {
            return fault(at, format!("`{word}` is no operator"), *hint);
        }
        match self.token.word {
            Word::End => fault(at, "the end comes too early", ""),
            Word::Sign(sign @ (")" | "]")) => fault(at, format!("`{sign}` closes nothing"), ""),
            Word::Sign("(") => fault(at, "`(` after what is no function", ""),
            Word::Name | Word::Number | Word::Text(_) => {
                fault(at, format!("an operator is missing in front of `{word}`"), "")
            }
            Word::Sign(sign) => fault(at, format!("`{sign}` has no meaning here"), ""),
        }
    }

    fn node(&self, kind: Kind, start: usize) -> Expr {
        Expr { kind, span: Span::new(start, self.last) }
    }

    fn deeper(&mut self) -> Result<(), Fault> {
        self.depth += 1;
        if self.depth <= COND_DEPTH_MAX { Ok(()) } else { Err(too_deep(self.token.start)) }
    }

    // ---- operators --------------------------------------------------------------------------------------------
    fn expr(&mut self) -> Result<Expr, Fault> {
        self.deeper()?;
        let expr = self.logic(Logic::Or)?;
        self.depth -= 1;
        Ok(expr)
    }

    fn logic(&mut self, logic: Logic) -> Result<Expr, Fault> {
        let sign = if logic == Logic::Or { "||" } else { "&&" };
        let operand = |parser: &mut Self| match logic {
            Logic::Or => parser.logic(Logic::And),
            Logic::And => parser.relation(),
        };
        let start = self.token.start;
        let first = operand(self)?;
        if !self.is_sign(sign) {
            return Ok(first);
        }
        let mut all = vec![first];
        while self.take(sign)? {
            all.push(operand(self)?);
        }
        Ok(self.node(Kind::Logic(logic, all), start))
    }

    fn relation(&mut self) -> Result<Expr, Fault> {
        let start = self.token.start;
        let left = self.addition()?;
        let Some(relation) = self.relation_sign() else {
            return Ok(left);
        };
        self.advance()?;
        let right = Box::new(self.addition()?);
        if self.relation_sign().is_some() {
            return Err(fault(self.token.start, "comparisons do not chain", "write a < b && b < c"));
        }
        let kind = match relation {
            Some(compare) => Kind::Compare(compare, Box::new(left), right),
            None if matches!(left.kind, Kind::Not(_)) => {
                return Err(fault(start, "`!` binds closer than `in`", "write !(x in list)"));
            }
            None => Kind::In(Box::new(left), right),
        };
        Ok(self.node(kind, start))
    }

    /// The comparison at hand; `Some(None)` for `in`.
    fn relation_sign(&self) -> Option<Option<Compare>> {
        if self.is_name("in") {
            return Some(None);
        }
        Some(Some(match self.token.word {
            Word::Sign("==") => Compare::Equal,
            Word::Sign("!=") => Compare::NotEqual,
            Word::Sign("<") => Compare::Less,
            Word::Sign("<=") => Compare::LessOrEqual,
            Word::Sign(">") => Compare::Greater,
            Word::Sign(">=") => Compare::GreaterOrEqual,
            _ => return None,
        }))
    }

    fn addition(&mut self) -> Result<Expr, Fault> {
        let (start, depth) = (self.token.start, self.depth);
        let mut left = self.multiplication()?;
        loop {
            let arithmetic = match self.token.word {
                Word::Sign("+") => Arithmetic::Plus,
                Word::Sign("-") => Arithmetic::Minus,
                _ => break,
            };
            self.advance()?;
            self.deeper()?;
            let right = self.multiplication()?;
            left = self.node(Kind::Arithmetic(arithmetic, Box::new(left), Box::new(right)), start);
        }
        self.depth = depth;
        Ok(left)
    }

    fn multiplication(&mut self) -> Result<Expr, Fault> {
        let (start, depth) = (self.token.start, self.depth);
        let mut left = self.unary()?;
        while self.take("*")? {
            self.deeper()?;
            let right = self.unary()?;
            left = self.node(Kind::Arithmetic(Arithmetic::Times, Box::new(left), Box::new(right)), start);
        }
        self.depth = depth;
        Ok(left)
    }

    fn unary(&mut self) -> Result<Expr, Fault> {
        let start = self.token.start;
        let negates = self.is_sign("-");
        if !negates && !self.is_sign("!") {
            return self.member();
        }
        self.advance()?;
        if negates && self.token.word == Word::Number {
            let number = self.advance()?;
            let text = format!("-{}", &self.text[number.start..number.end]);
            return Ok(self.node(Kind::Literal(Literal::Number(text.into())), start));
        }
        self.deeper()?;
        let operand = Box::new(self.unary()?);
        self.depth -= 1;
        Ok(self.node(if negates { Kind::Negate(operand) } else { Kind::Not(operand) }, start))
    }

    // ---- members and methods ----------------------------------------------------------------------------------
    fn member(&mut self) -> Result<Expr, Fault> {
        let (start, depth) = (self.token.start, self.depth);
        let mut of = self.primary()?;
        loop {
            if self.take(".")? {
                if self.token.word != Word::Name {
                    return Err(fault(self.token.start, "a name is missing behind the point", ""));
                }
                let at = self.token.start;
                let name = self.word();
                self.advance()?;
                if self.is_sign("(") {
                    self.deeper()?;
                    of = self.method(of, name, at, start)?;
                } else {
                    of = self.step(of, Step::Name(name.into()), at, start)?;
                }
            } else if self.is_sign("[") {
                let at = self.token.start;
                self.advance()?;
                let step = self.index()?;
                self.expect("]")?;
                of = self.step(of, step, at, start)?;
            } else {
                self.depth = depth;
                return Ok(of);
            }
        }
    }

    /// What stands in `[]`.
    fn index(&mut self) -> Result<Step, Fault> {
        let token = self.advance()?;
        let written = &self.text[token.start..token.end];
        match token.word {
            Word::Text(name) => Ok(Step::Name(name)),
            Word::Number => match written.parse() {
                Ok(at) => Ok(Step::Index(at)),
                Err(_) => Err(fault(token.start, format!("`{written}` counts no elements"), "write [0] for the first")),
            },
            Word::End => Err(fault(token.start, "`]` is missing", "")),
            Word::Name | Word::Sign(_) => {
                Err(fault(token.start, "a path holds names and numbers as written only", "write [0] or [\"name\"]"))
            }
        }
    }

    /// `of` with one more step, which stands at byte `at`.
    fn step(&mut self, of: Expr, step: Step, at: usize, start: usize) -> Result<Expr, Fault> {
        let kind = match (of.kind, step) {
            (Kind::Path(mut path), step) => {
                path.steps.push(step);
                if path.steps.len() > COND_DEPTH_MAX {
                    return Err(too_deep(at));
                }
                Kind::Path(path)
            }
            (Kind::Split(text, separator), Step::Index(at)) => Kind::Piece(text, separator, at),
            (_, Step::Index(_)) => return Err(fault(at, "what stands in front is no list", "")),
            (_, Step::Name(name)) => {
                return Err(fault(at, format!("what stands in front has no `{name}`"), ""));
            }
        };
        Ok(self.node(kind, start))
    }

    /// The method `name`, which stands at byte `at`, of `of`; its `(` is at hand.
    fn method(&mut self, of: Expr, name: &'t str, at: usize, start: usize) -> Result<Expr, Fault> {
        if !METHODS.contains(&name) {
            return Err(self.unknown_method(name, at));
        }
        self.expect("(")?;
        let of = Box::new(of);
        let kind = match name {
            "size" => Kind::Size(of),
            "startsWith" => Kind::Text(TextTest::StartsWith, of, Box::new(self.argument(name)?)),
            "endsWith" => Kind::Text(TextTest::EndsWith, of, Box::new(self.argument(name)?)),
            "contains" => Kind::Text(TextTest::Contains, of, Box::new(self.argument(name)?)),
            "under" => Kind::Text(TextTest::Under, of, Box::new(self.argument(name)?)),
            "matches" => Kind::Matches(of, self.text_argument("the pattern", "matches(\"^[a-z]+$\")")?),
            "split" => {
                let (at, separator) = (self.token.start, self.text_argument("the separator", "split(\" \")")?);
                if separator.is_empty() {
                    return Err(fault(at, "the separator is empty", "write split(\" \")"));
                }
                Kind::Split(of, separator)
            }
            _ => self.each(of, name)?,
        };
        self.close(name)?;
        Ok(self.node(kind, start))
    }

    fn unknown_method(&self, name: &str, at: usize) -> Fault {
        let problem = format!("there is no `.{name}()`");
        if let Some((_, hint)) = METHODS_ELSEWHERE.iter().find(|(elsewhere, _)| *elsewhere == name) {
            return fault(at, problem, *hint);
        }
        if FUNCTIONS.contains(&name) {
            return fault(at, format!("`{name}` is no method"), format!("write {name}(…)"));
        }
        fault(at, problem, nearest(name, METHODS.iter().copied()))
    }

    /// The inside of `all(` or `exists(`.
    fn each(&mut self, of: Box<Expr>, name: &str) -> Result<Kind, Fault> {
        let at = self.token.start;
        if self.token.word != Word::Name || KEYWORDS.contains(&self.word()) {
            return Err(fault(at, "the name of an element is missing", format!("write {name}(x, x == 1)")));
        }
        let variable = self.word();
        if VARIABLES.iter().any(|(known, ..)| *known == variable) || self.variables.contains(&variable) {
            return Err(fault(at, format!("`{variable}` has a meaning already"), "choose another name"));
        }
        if self.variables.len() >= COND_LOOPS_MAX {
            return Err(fault(at, format!("more than {COND_LOOPS_MAX} of `all` and `exists` within each other"), ""));
        }
        self.advance()?;
        self.expect(",")?;
        self.variables.push(variable);
        let body = Box::new(self.expr()?);
        self.variables.pop();
        let quantifier = if name == "all" { Quantifier::All } else { Quantifier::Exists };
        Ok(Kind::Each(quantifier, of, variable.into(), body))
    }

    fn argument(&mut self, name: &str) -> Result<Expr, Fault> {
        if self.is_sign(")") {
            return Err(fault(self.token.start, format!("`{name}` takes something"), ""));
        }
        self.expr()
    }

    /// An argument that must be written out.
    fn text_argument(&mut self, what: &str, hint: &str) -> Result<Box<str>, Fault> {
        let at = self.token.start;
        if !matches!(self.token.word, Word::Text(_)) {
            return Err(fault(at, format!("{what} is a text, written out"), format!("write {hint}")));
        }
        match self.advance()?.word {
            Word::Text(text) => Ok(text),
            _ => Err(fault(at, format!("{what} is a text, written out"), "")),
        }
    }

    /// The `)` of a call.
    fn close(&mut self, name: &str) -> Result<(), Fault> {
        if self.is_sign(",") {
            return Err(fault(self.token.start, format!("`{name}` takes no more than this"), ""));
        }
        self.expect(")")
    }

    // ---- operands ---------------------------------------------------------------------------------------------
    fn primary(&mut self) -> Result<Expr, Fault> {
        let start = self.token.start;
        match self.token.word {
            Word::Number | Word::Text(_) | Word::Sign("[") => {
                let literal = self.literal()?;
                Ok(self.node(Kind::Literal(literal), start))
            }
            Word::Sign("(") => {
                self.advance()?;
                let inside = self.expr()?;
                self.expect(")")?;
                Ok(inside)
            }
            Word::Name => self.named(),
            Word::End => Err(fault(start, "an operand is missing", "")),
            Word::Sign("==") => Err(fault(start, "an operand is missing in front of `==`", "")),
            Word::Sign(sign) => Err(fault(start, format!("an operand must stand here, not `{sign}`"), "")),
        }
    }

    fn literal(&mut self) -> Result<Literal, Fault> {
        let token = self.advance()?;
        let written = &self.text[token.start..token.end];
        match token.word {
            Word::Number => Ok(Literal::Number(written.into())),
            Word::Text(text) => Ok(Literal::Text(text)),
            Word::Name if written == "null" => Ok(Literal::Null),
            Word::Name if matches!(written, "true" | "false") => Ok(Literal::Bool(written == "true")),
            Word::Sign("-") if self.token.word == Word::Number => {
                let number = self.advance()?;
                Ok(Literal::Number(format!("-{}", &self.text[number.start..number.end]).into()))
            }
            Word::Sign("[") => self.list(),
            Word::End => Err(fault(token.start, "`]` is missing", "")),
            Word::Name | Word::Sign(_) => {
                let problem = "lists hold numbers, texts, true, false and null, written out";
                Err(fault(token.start, problem, "for anything else write x == a || x == b"))
            }
        }
    }

    /// The inside of `[`, which has been read.
    fn list(&mut self) -> Result<Literal, Fault> {
        self.deeper()?;
        let mut all = Vec::new();
        while !self.take("]")? {
            if all.len() >= COND_LIST_MAX {
                return Err(fault(self.token.start, format!("more than {COND_LIST_MAX} elements"), ""));
            }
            all.push(self.literal()?);
            if !self.take(",")? && !self.is_sign("]") {
                return Err(match self.token.word {
                    Word::End => fault(self.token.start, "`]` is missing", ""),
                    _ => fault(self.token.start, "`,` or `]` must stand here", ""),
                });
            }
        }
        self.depth -= 1;
        Ok(Literal::List(all))
    }

    /// A name where an operand must be.
    fn named(&mut self) -> Result<Expr, Fault> {
        let start = self.token.start;
        let name = self.word();
        if matches!(name, "true" | "false" | "null") {
            let literal = self.literal()?;
            return Ok(self.node(Kind::Literal(literal), start));
        }
        if let Some((_, hint)) = OPERANDS_ELSEWHERE.iter().find(|(elsewhere, _)| *elsewhere == name) {
            return Err(fault(start, format!("`{name}` is not understood"), *hint));
        }
        self.advance()?;
        if self.is_sign("(") {
            return self.function(name, start);
        }
        let root = self.root(name, start)?;
        Ok(self.node(Kind::Path(Path { root, steps: Vec::new() }), start))
    }

    fn root(&self, name: &str, at: usize) -> Result<Root, Fault> {
        if let Some(place) = self.variables.iter().position(|variable| *variable == name) {
            return Ok(Root::Variable(u8::try_from(place).unwrap_or(u8::MAX)));
        }
        let caller_only = matches!(self.purpose, Purpose::Who | Purpose::Claim);
        match VARIABLES.iter().find(|(known, ..)| *known == name) {
            Some((_, root, of_caller)) if *of_caller || !caller_only => Ok(*root),
            Some(_) if self.purpose == Purpose::Who => Err(fault(
                at,
                format!("`{name}` is not known in `who`, which is about the caller"),
                "write it in `when`",
            )),
            Some(_) => Err(fault(at, format!("`{name}` is not known here"), "write claims.…")),
            None if FUNCTIONS.contains(&name) => {
                Err(fault(at, format!("`{name}` is a function"), format!("write {name}(…)")))
            }
            None => {
                let known = VARIABLES.iter().filter(|(.., of_caller)| *of_caller || !caller_only);
                let names = known.map(|(name, ..)| *name).chain(self.variables.iter().copied());
                let mut hint = nearest(name, names);
                if hint.is_empty() {
                    hint = if caller_only {
                        "write claims.…"
                    } else {
                        "write args.…, claims.…, or quotes around a text"
                    }
                    .into();
                }
                Err(fault(at, format!("there is no `{name}`"), hint))
            }
        }
    }

    /// The function `name`; its `(` is at hand.
    fn function(&mut self, name: &str, start: usize) -> Result<Expr, Fault> {
        if !FUNCTIONS.contains(&name) {
            let problem = format!("there is no function `{name}`");
            if let Some((_, hint)) = FUNCTIONS_ELSEWHERE.iter().find(|(elsewhere, _)| *elsewhere == name) {
                return Err(fault(start, problem, *hint));
            }
            if METHODS.contains(&name) {
                return Err(fault(start, format!("`{name}` is a method"), format!("write x.{name}(…)")));
            }
            return Err(fault(start, problem, nearest(name, FUNCTIONS.iter().copied())));
        }
        self.expect("(")?;
        let at = self.token.start;
        let operand = Box::new(self.argument(name)?);
        if name == "time" {
            return self.time(&operand, at, start);
        }
        self.close(name)?;
        let kind = match name {
            "size" => Kind::Size(operand),
            "has" => match operand.kind {
                Kind::Path(path) if !path.steps.is_empty() => Kind::Has(path),
                _ => return Err(fault(at, "`has` asks for a member or element", "write has(args.name)")),
            },
            "ip" => {
                let hint = "write ip(x).in(\"10.0.0.0/8\")";
                self.expect(".").map_err(|_| fault(self.last, "`ip(x)` alone is no value", hint))?;
                if !self.is_name("in") {
                    return Err(fault(self.token.start, "addresses have `.in()` only", hint));
                }
                self.advance()?;
                self.expect("(")?;
                let network = self.text_argument("the network", "in(\"10.0.0.0/8\")")?;
                self.close("in")?;
                Kind::IpIn(operand, network)
            }
            _ => Kind::Url(self.part(name, URL_PARTS)?, operand),
        };
        Ok(self.node(kind, start))
    }

    /// The rest of `time(`, after its first operand.
    fn time(&mut self, operand: &Expr, at: usize, start: usize) -> Result<Expr, Fault> {
        if !matches!(&operand.kind, Kind::Path(path) if path.root == Root::Now && path.steps.is_empty()) {
            return Err(fault(at, "`time` is about `now`", "write time(now, \"Europe/Berlin\").hour"));
        }
        if self.is_sign(")") {
            return Err(fault(self.token.start, "the zone is missing", "write time(now, \"Europe/Berlin\").hour"));
        }
        self.expect(",")?;
        let zone = self.text_argument("the zone", "time(now, \"Europe/Berlin\").hour")?;
        self.close("time")?;
        let part = self.part("time", TIME_PARTS)?;
        Ok(self.node(Kind::Time(part, zone), start))
    }

    /// The part, one of these, of what the function `of` has made.
    fn part<T: Copy>(&mut self, of: &str, parts: &[(&'static str, T)]) -> Result<T, Fault> {
        let all = parts.iter().map(|(name, _)| format!(".{name}")).collect::<Vec<_>>().join(", ");
        if !self.take(".")? {
            return Err(fault(
                self.last,
                format!("`{of}(…)` alone is no value"),
                format!("write one of {all} behind it"),
            ));
        }
        let name = self.word();
        let Some((_, part)) = parts.iter().find(|(known, _)| *known == name && self.token.word == Word::Name) else {
            let hint = match nearest(name, parts.iter().map(|(name, _)| *name)) {
                hint if hint.is_empty() => format!("write one of {all}"),
                hint => hint,
            };
            return Err(fault(self.token.start, format!("`{of}(…)` has no `{name}`"), hint));
        };
        self.advance()?;
        if self.is_sign("(") {
            return Err(fault(self.token.start, format!("`.{name}` is no method"), "leave the () out"));
        }
        Ok(*part)
    }
}

/// More operators within each other than anybody reads.
pub(super) fn too_deep(at: usize) -> Fault {
    fault(at, format!("more than {COND_DEPTH_MAX} operators within each other"), "write several rules")
}

/// Their names, and whether conditions on callers may use them.
const VARIABLES: &[(&str, Root, bool)] = &[
    ("args", Root::Args, false),
    ("claims", Root::Claims, true),
    ("subject", Root::Subject, true),
    ("agent", Root::Agent, true),
    ("issuer", Root::Issuer, true),
    ("task", Root::Task, false),
    ("tool", Root::Tool, false),
    ("server", Root::Server, false),
    ("now", Root::Now, false),
];
const KEYWORDS: &[&str] = &["in", "true", "false", "null"];
const FUNCTIONS: &[&str] = &["size", "has", "url", "ip", "time"];
const METHODS: &[&str] = &["size", "startsWith", "endsWith", "contains", "matches", "split", "all", "exists", "under"];
const URL_PARTS: &[(&str, UrlPart)] = &[("scheme", UrlPart::Scheme), ("host", UrlPart::Host), ("port", UrlPart::Port)];
const TIME_PARTS: &[(&str, TimePart)] = &[("hour", TimePart::Hour), ("weekday", TimePart::Weekday)];

// What CEL has and we have not, and what other languages write: what to write instead.
const OPERATORS_ELSEWHERE: &[(&str, &str)] = &[
    ("and", "write &&"),
    ("or", "write ||"),
    ("not", "write !(x in list)"),
    ("is", "write =="),
    ("eq", "write =="),
    ("ne", "write !="),
    ("like", "write .matches(\"…\")"),
    ("between", "write x >= a && x <= b"),
    ("contains", "write x.contains(\"…\")"),
    ("matches", "write x.matches(\"…\")"),
];
const OPERANDS_ELSEWHERE: &[(&str, &str)] = &[
    ("not", "write !"),
    ("True", "write true"),
    ("False", "write false"),
    ("None", "write null"),
    ("nil", "write null"),
    ("undefined", "write null, or has(…)"),
    ("in", "an operand must stand in front of it"),
];
const EXACT_TEXT: &str = "text is compared as it is: name each spelling, or write .matches(\"(?i)^…$\")";
const NO_COERCION: &str = "nothing is coerced: compare the value as it is";
const ONE_TIME: &str = "write time(now, \"Europe/Berlin\").hour or .weekday";
const NO_LISTS: &str = "lists have size, all, exists and in";
const METHODS_ELSEWHERE: &[(&str, &str)] = &[
    ("lower", EXACT_TEXT),
    ("upper", EXACT_TEXT),
    ("lowerAscii", EXACT_TEXT),
    ("upperAscii", EXACT_TEXT),
    ("toLowerCase", EXACT_TEXT),
    ("toUpperCase", EXACT_TEXT),
    ("trim", EXACT_TEXT),
    ("replace", EXACT_TEXT),
    ("substring", "write .startsWith(\"…\") or .matches(\"…\")"),
    ("indexOf", "write .contains(\"…\")"),
    ("charAt", "write .startsWith(\"…\") or .matches(\"…\")"),
    ("match", "did you mean `matches`?"),
    ("test", "did you mean `matches`?"),
    ("includes", "write .contains(\"…\") for a text, x in list for a list"),
    ("length", "write size(x)"),
    ("len", "write size(x)"),
    ("any", "did you mean `exists`?"),
    ("some", "did you mean `exists`?"),
    ("every", "did you mean `all`?"),
    ("exists_one", NO_LISTS),
    ("existsOne", NO_LISTS),
    ("filter", NO_LISTS),
    ("map", NO_LISTS),
    ("join", NO_LISTS),
    ("sort", NO_LISTS),
    ("has", "write has(args.name)"),
    ("in", "write x in list; addresses: ip(x).in(\"10.0.0.0/8\")"),
    ("getHours", ONE_TIME),
    ("getMinutes", ONE_TIME),
    ("getDayOfWeek", ONE_TIME),
    ("getDate", ONE_TIME),
    ("getDayOfMonth", ONE_TIME),
    ("getMonth", ONE_TIME),
    ("getFullYear", ONE_TIME),
];
const FUNCTIONS_ELSEWHERE: &[(&str, &str)] = &[
    ("int", NO_COERCION),
    ("uint", NO_COERCION),
    ("double", NO_COERCION),
    ("string", NO_COERCION),
    ("bool", NO_COERCION),
    ("bytes", NO_COERCION),
    ("dyn", NO_COERCION),
    ("type", "an operand of another type makes its condition unknown"),
    ("timestamp", "write now, in seconds since 1970, or time(now, \"Europe/Berlin\").hour"),
    ("duration", "write seconds as a number"),
    ("len", "write size(x)"),
    ("length", "write size(x)"),
    ("not", "write !"),
    ("lower", EXACT_TEXT),
    ("upper", EXACT_TEXT),
    ("exists", "write list.exists(x, …), or has(args.name)"),
    ("defined", "write has(args.name)"),
    ("cidr", "write ip(x).in(\"10.0.0.0/8\")"),
    ("now", "leave the () out"),
];
