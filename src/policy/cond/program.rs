//! From an [`Expr`] to a flat program: operations over a small stack, with what they name looked up beforehand.

use super::ast::{Arithmetic, Compare, Expr, Kind, Literal, Logic, Path, Quantifier, Root, Step, TextTest};
use super::ast::{TimePart, UrlPart};
use super::fault::{Fault, fault};
use super::find::Tree;
use super::number::Number;
use super::regex::Pattern;
use super::zone::Zone;
use crate::base::limits::COND_PATHS_MAX;
use crate::base::net::Network;
use crate::base::span::Span;
use crate::jsonrpc::text::write_string;

/// A condition that can be run.
#[derive(Debug)]
pub(super) struct Program {
    pub(super) ops: Vec<Op>,
    /// For each operation where it stands in the text, and where its operands do: the ones that it names.
    pub(super) places: Vec<[Span; 3]>,
    pub(super) args: Tree,
    pub(super) claims: Tree,
    pub(super) constants: Vec<Constant>,
    pub(super) lists: Vec<Choice>,
    /// Paths into variables.
    pub(super) steps: Vec<Box<[Step]>>,
    pub(super) texts: Vec<Box<str>>,
    pub(super) patterns: Vec<Pattern>,
    pub(super) networks: Vec<Network>,
    pub(super) zones: Vec<Zone>,
    /// The paths into the arguments, as written behind `args`.
    pub(super) arg_paths: Vec<Box<str>>,
    pub(super) reads_args: bool,
    pub(super) reads_now: bool,
    pub(super) reads_tool: bool,
}

/// One operation. It takes its operands where they name it, and leaves what it comes to on the stack.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Op {
    Load(From),
    Has(From),
    /// Whether it is null; whether that is turned around.
    IsNull(From, bool),
    Equal(From, From, bool),
    Order(Compare, From, From),
    /// In a list as written.
    Choice(From, u16),
    In(From, From),
    /// Whether a list holds a null.
    NullIn(From),
    Arithmetic(Arithmetic, From, From),
    Negate(From),
    Not,
    Size(From),
    Text(TextTest, From, From),
    Matches(From, u16),
    Split(From, u16),
    Piece(From, u16, u64),
    Url(UrlPart, From),
    IpIn(From, u16),
    Time(TimePart, u16),
    /// Goes to `to` where the truth on the stack decides; it stays there.
    Short(Logic, u16),
    /// Makes one truth of the two on the stack.
    Join(Logic),
    /// Begins to go through a list; where there is nothing in it, goes to `end` with what that comes to.
    Each(Quantifier, From, u16),
    /// Takes in what the body came to for one element; goes back to `body` for the next.
    Again(u16),
}

/// Where an operand comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum From {
    Stack,
    Args(u16),
    Claims(u16),
    Constant(u16),
    /// A variable alone.
    Variable(u8),
    /// Something within it.
    Within(u8, u16),
    Subject,
    Agent,
    Issuer,
    Task,
    Tool,
    Server,
    Now,
}

/// A value as written.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Constant {
    Null,
    Bool(bool),
    Number(Number),
    Text(Box<str>),
    /// As JSON.
    List(Box<[u8]>),
}

/// What stands behind `in`, as written.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Choice {
    pub(super) null: bool,
    pub(super) of: Choices,
}

#[derive(Debug, PartialEq, Eq)]
pub(super) enum Choices {
    /// Nothing but nulls, at most.
    Nothing,
    Bools(Vec<bool>),
    Numbers(Vec<Number>),
    Texts(Vec<Box<str>>),
    /// Lists, as JSON.
    Lists(Vec<Box<[u8]>>),
}

impl Program {
    /// Compiles what `check` has found to fit.
    pub(super) fn new(expr: &Expr, text: &str) -> Result<Self, Fault> {
        let (args, arg_paths) = paths(expr, Root::Args)?;
        let (claims, _) = paths(expr, Root::Claims)?;
        let (mut reads_now, mut reads_tool) = (false, false);
        expr.walk(&mut |one| match &one.kind {
            Kind::Time(..) => reads_now = true,
            Kind::Path(path) | Kind::Has(path) => {
                reads_now |= path.root == Root::Now;
                reads_tool |= path.root == Root::Tool;
            }
            _ => {}
        });
        let program = Self {
            ops: Vec::new(),
            places: Vec::new(),
            reads_args: !arg_paths.is_empty(),
            args,
            claims,
            constants: Vec::new(),
            lists: Vec::new(),
            steps: Vec::new(),
            texts: Vec::new(),
            patterns: Vec::new(),
            networks: Vec::new(),
            zones: Vec::new(),
            arg_paths,
            reads_now,
            reads_tool,
        };
        let mut compiler = Compiler { text, program };
        compiler.whole(expr)?;
        let mut program = compiler.program;
        program.ops.shrink_to_fit();
        program.places.shrink_to_fit();
        Ok(program)
    }
}

/// The tree of all paths that start here, and their texts.
fn paths(expr: &Expr, root: Root) -> Result<(Tree, Vec<Box<str>>), Fault> {
    let mut all: Vec<&[Step]> = Vec::new();
    let mut beyond = None;
    expr.walk(&mut |one| {
        let Some(path) = one.path().filter(|path| path.root == root) else { return };
        if !all.contains(&&path.steps[..]) {
            all.push(&path.steps);
            if all.len() > COND_PATHS_MAX && beyond.is_none() {
                beyond = Some(one.span.start as usize);
            }
        }
    });
    if let Some(at) = beyond {
        return Err(fault(at, format!("more than {COND_PATHS_MAX} different paths"), "write several rules"));
    }
    let texts = all.iter().map(|steps| Path { root, steps: steps.to_vec() }.steps_text().into()).collect();
    Ok((Tree::new(&all), texts))
}

struct Compiler<'t> {
    text: &'t str,
    program: Program,
}

impl Compiler<'_> {
    /// Where the first text behind this byte begins.
    fn literal_behind(&self, byte: u32) -> usize {
        let from = byte as usize;
        self.text[from..].find(['"', '\'']).map_or(from, |quote| from + quote)
    }

    fn put(&mut self, op: Op, places: [Span; 3]) -> usize {
        self.program.ops.push(op);
        self.program.places.push(places);
        self.program.ops.len() - 1
    }

    /// Where the next operation will stand.
    fn here(&self) -> Result<u16, Fault> {
        number(self.program.ops.len())
    }

    /// Leaves what `expr` comes to on the stack.
    fn whole(&mut self, expr: &Expr) -> Result<(), Fault> {
        match self.named(expr)? {
            Some(from) => {
                self.put(Op::Load(from), [expr.span; 3]);
                Ok(())
            }
            None => self.computed(expr),
        }
    }

    /// Where this operand will come from: it is computed, unless it can be named.
    fn operand(&mut self, expr: &Expr) -> Result<From, Fault> {
        if let Some(from) = self.named(expr)? {
            return Ok(from);
        }
        self.computed(expr)?;
        Ok(From::Stack)
    }

    /// Where an operand comes from that needs no computing.
    fn named(&mut self, expr: &Expr) -> Result<Option<From>, Fault> {
        Ok(Some(match &expr.kind {
            Kind::Literal(literal) => {
                let constant = constant(literal);
                From::Constant(place(&mut self.program.constants, constant)?)
            }
            Kind::Path(path) => self.path(path)?,
            _ => return Ok(None),
        }))
    }

    fn path(&mut self, path: &Path) -> Result<From, Fault> {
        Ok(match path.root {
            Root::Args => From::Args(self.program.args.node(&path.steps)),
            Root::Claims => From::Claims(self.program.claims.node(&path.steps)),
            Root::Variable(variable) if path.steps.is_empty() => From::Variable(variable),
            Root::Variable(variable) => {
                From::Within(variable, place(&mut self.program.steps, path.steps.clone().into())?)
            }
            Root::Subject => From::Subject,
            Root::Agent => From::Agent,
            Root::Issuer => From::Issuer,
            Root::Task => From::Task,
            Root::Tool => From::Tool,
            Root::Server => From::Server,
            Root::Now => From::Now,
        })
    }

    /// Leaves what this comes to on the stack; it is no operand that can be named.
    fn computed(&mut self, expr: &Expr) -> Result<(), Fault> {
        let one = |left: &Expr| [expr.span, left.span, left.span];
        match &expr.kind {
            Kind::Literal(_) | Kind::Path(_) => {}
            Kind::Has(path) => {
                let from = self.path(path)?;
                self.put(Op::Has(from), [expr.span; 3]);
            }
            Kind::Not(of) => {
                self.whole(of)?;
                self.put(Op::Not, one(of));
            }
            Kind::Logic(logic, all) => self.logic(*logic, all, expr)?,
            Kind::Compare(compare, left, right) => self.compare(*compare, left, right, expr)?,
            Kind::In(left, list) => self.within(left, list, expr)?,
            Kind::Arithmetic(arithmetic, left, right) => {
                self.two(left, right, expr, |left, right| Op::Arithmetic(*arithmetic, left, right))?;
            }
            Kind::Text(test, left, right) => self.two(left, right, expr, |left, right| Op::Text(*test, left, right))?,
            Kind::Negate(of) => self.one(of, expr, Op::Negate)?,
            Kind::Size(of) => self.one(of, expr, Op::Size)?,
            Kind::Url(part, of) => self.one(of, expr, |from| Op::Url(*part, from))?,
            Kind::Matches(of, pattern) => {
                let at = self.literal_behind(of.span.end);
                let pattern = Pattern::parse(pattern).map_err(|problem| fault(at, problem, ""))?;
                self.program.patterns.push(pattern);
                let pattern = number(self.program.patterns.len() - 1)?;
                self.one(of, expr, |from| Op::Matches(from, pattern))?;
            }
            Kind::Split(of, separator) => {
                let separator = place(&mut self.program.texts, separator.clone())?;
                self.one(of, expr, |from| Op::Split(from, separator))?;
            }
            Kind::Piece(of, separator, at) => {
                let separator = place(&mut self.program.texts, separator.clone())?;
                self.one(of, expr, |from| Op::Piece(from, separator, *at))?;
            }
            Kind::IpIn(of, network) => {
                let no_network = || {
                    let hint = "write 10.0.0.0/8, 2001:db8::/32 or an address; no bit behind the prefix is set";
                    fault(self.literal_behind(of.span.end), format!("`{network}` is no network"), hint)
                };
                let network = Network::parse(network).ok_or_else(no_network)?;
                self.program.networks.push(network);
                let network = number(self.program.networks.len() - 1)?;
                self.one(of, expr, |from| Op::IpIn(from, network))?;
            }
            Kind::Time(part, zone) => {
                let no_zone = || {
                    let hint = "write one of the IANA database, as Europe/Berlin";
                    fault(self.literal_behind(expr.span.start), format!("`{zone}` is no time zone"), hint)
                };
                self.program.zones.push(Zone::parse(zone).ok_or_else(no_zone)?);
                let zone = number(self.program.zones.len() - 1)?;
                self.put(Op::Time(*part, zone), [expr.span; 3]);
            }
            Kind::Each(quantifier, list, _, body) => {
                let from = self.operand(list)?;
                let each = self.put(Op::Each(*quantifier, from, 0), one(list));
                let first = self.here()?;
                self.whole(body)?;
                self.put(Op::Again(first), [expr.span, body.span, body.span]);
                self.program.ops[each] = Op::Each(*quantifier, from, self.here()?);
            }
        }
        Ok(())
    }

    fn one(&mut self, of: &Expr, expr: &Expr, op: impl FnOnce(From) -> Op) -> Result<(), Fault> {
        let from = self.operand(of)?;
        self.put(op(from), [expr.span, of.span, of.span]);
        Ok(())
    }

    fn two(&mut self, left: &Expr, right: &Expr, expr: &Expr, op: impl FnOnce(From, From) -> Op) -> Result<(), Fault> {
        let from = (self.operand(left)?, self.operand(right)?);
        self.put(op(from.0, from.1), [expr.span, left.span, right.span]);
        Ok(())
    }

    fn logic(&mut self, logic: Logic, all: &[Expr], expr: &Expr) -> Result<(), Fault> {
        let mut shorts = Vec::new();
        for (at, one) in all.iter().enumerate() {
            if at > 0 {
                shorts.push(self.put(Op::Short(logic, 0), [expr.span; 3]));
            }
            self.whole(one)?;
            if at > 0 {
                self.put(Op::Join(logic), [expr.span, all[at - 1].span, one.span]);
            }
        }
        let end = self.here()?;
        for short in shorts {
            self.program.ops[short] = Op::Short(logic, end);
        }
        Ok(())
    }

    fn compare(&mut self, compare: Compare, left: &Expr, right: &Expr, expr: &Expr) -> Result<(), Fault> {
        let turned = match compare {
            Compare::Equal => false,
            Compare::NotEqual => true,
            _ => return self.two(left, right, expr, |left, right| Op::Order(compare, left, right)),
        };
        let is_null = |side: &Expr| side.kind == Kind::Literal(Literal::Null);
        if is_null(right) || is_null(left) {
            let other = if is_null(right) { left } else { right };
            return self.one(other, expr, |from| Op::IsNull(from, turned));
        }
        self.two(left, right, expr, |left, right| Op::Equal(left, right, turned))
    }

    fn within(&mut self, left: &Expr, list: &Expr, expr: &Expr) -> Result<(), Fault> {
        if left.kind == Kind::Literal(Literal::Null) {
            return self.one(list, expr, Op::NullIn);
        }
        let Kind::Literal(Literal::List(all)) = &list.kind else {
            return self.two(left, list, expr, Op::In);
        };
        self.program.lists.push(choice(all));
        let list = number(self.program.lists.len() - 1)?;
        self.one(left, expr, |from| Op::Choice(from, list))
    }
}

fn constant(literal: &Literal) -> Constant {
    match literal {
        Literal::Null => Constant::Null,
        Literal::Bool(value) => Constant::Bool(*value),
        Literal::Number(text) => Constant::Number(Number::parse(text).unwrap_or(Number::ZERO)),
        Literal::Text(text) => Constant::Text(text.clone()),
        Literal::List(_) => {
            let mut raw = Vec::new();
            json(literal, &mut raw);
            Constant::List(raw.into())
        }
    }
}

fn json(literal: &Literal, out: &mut Vec<u8>) {
    match literal {
        Literal::Null => out.extend_from_slice(b"null"),
        Literal::Bool(value) => out.extend_from_slice(if *value { b"true" } else { b"false" }),
        Literal::Number(text) => out.extend_from_slice(text.as_bytes()),
        Literal::Text(text) => write_string(out, text),
        Literal::List(all) => {
            out.push(b'[');
            for (at, one) in all.iter().enumerate() {
                if at > 0 {
                    out.push(b',');
                }
                json(one, out);
            }
            out.push(b']');
        }
    }
}

fn choice(all: &[Literal]) -> Choice {
    let mut of = Choices::Nothing;
    let mut null = false;
    for one in all {
        // All but nulls are of one type: `check` has seen to that.
        match (&mut of, constant(one)) {
            (_, Constant::Null) => null = true,
            (Choices::Bools(all), Constant::Bool(one)) => all.push(one),
            (Choices::Numbers(all), Constant::Number(one)) => all.push(one),
            (Choices::Texts(all), Constant::Text(one)) => all.push(one),
            (Choices::Lists(all), Constant::List(one)) => all.push(one),
            (of, Constant::Bool(one)) => *of = Choices::Bools(vec![one]),
            (of, Constant::Number(one)) => *of = Choices::Numbers(vec![one]),
            (of, Constant::Text(one)) => *of = Choices::Texts(vec![one]),
            (of, Constant::List(one)) => *of = Choices::Lists(vec![one]),
        }
    }
    Choice { null, of }
}

/// The place of `one` in `all`, where it is put if it is not there.
fn place<T: PartialEq>(all: &mut Vec<T>, one: T) -> Result<u16, Fault> {
    let at = all.iter().position(|other| *other == one).unwrap_or(all.len());
    if at == all.len() {
        all.push(one);
    }
    number(at)
}

/// No text of `COND_BYTES_MAX` makes more.
fn number(count: usize) -> Result<u16, Fault> {
    u16::try_from(count).map_err(|_| fault(0, "too long", "write several rules"))
}
