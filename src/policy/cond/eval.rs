//! Runs a [`Program`]. It ends: operations go forward only, but for loops over the elements of a list, and every step
//! is paid for.

use std::cmp::Ordering;

use smallvec::SmallVec;

use super::ast::{Arithmetic, Compare, Logic, Quantifier, Step, TextTest, TimePart, UrlPart};
use super::find::{Cursor, DEAD, Found, Fuel};
use super::number::Number;
use super::program::{Choice, Choices, Constant, From, Op, Program};
use super::text::Split;
use super::{Dead, Facts, Num, Purpose, Text, Truth, Truths, Value, path, web};
use crate::base::net;
use crate::base::span::Span;

/// What it comes to.
pub(super) fn truth(program: &Program, facts: &Facts<'_>, dead: Dead) -> Truth {
    match Machine::run(program, facts, dead, false).truths().0 {
        TRUE => Truth::True,
        FALSE => Truth::False,
        _ => Truth::Unknown,
    }
}

/// What it could come to.
pub(super) fn could(program: &Program, facts: &Facts<'_>) -> Truths {
    Machine::run(program, facts, 0, true).truths()
}

/// The number that it comes to.
pub(super) fn number(program: &Program, facts: &Facts<'_>, dead: Dead) -> Option<Number> {
    match Machine::run(program, facts, dead, false) {
        Val::Known(Value::Number(number)) => number.exact(),
        _ => None,
    }
}

/// Feeds what it comes to.
pub(super) fn value(program: &Program, facts: &Facts<'_>, dead: Dead, out: &mut dyn FnMut(&[u8])) -> bool {
    Machine::run(program, facts, dead, false).with_value(|value| value.feed(out)).is_some()
}

/// Where the first operand stands that makes it unknown.
pub(super) fn unknown(program: &Program, facts: &Facts<'_>, dead: Dead, purpose: Purpose) -> Option<Span> {
    let came = Machine::run(program, facts, dead, false);
    let whole = program.places.last().map(|places| places[0]);
    match (purpose, came) {
        (_, Val::Unknown(place)) => Some(place.0),
        (Purpose::Who | Purpose::When, Val::Known(Value::Bool(_)) | Val::Is(_)) => None,
        (Purpose::Sum, Val::Known(Value::Number(Num::Exact(_)))) => None,
        (Purpose::Value | Purpose::Claim, _) => None,
        _ => whole,
    }
}

/// An operand, or what an operation comes to.
#[derive(Clone, Copy, Debug)]
enum Val<'a> {
    /// It cannot be told, because of what stands here.
    Unknown(Place),
    Known(Value<'a>),
    /// A truth, or several that it could be; never none, and never unknown alone.
    Is(Truths),
    /// What could be anything.
    Open,
    /// What a text is split into, not yet split.
    Pieces(Text<'a>, &'a str),
    /// Scheme or host of the URL that a text may be: it is looked at where it is used.
    Url(Text<'a>, UrlPart),
}

#[derive(Clone, Copy, Debug)]
struct Place(Span);

const TRUE: u8 = 1 << Truth::True as u8;
const FALSE: u8 = 1 << Truth::False as u8;
const UNKNOWN: u8 = 1 << Truth::Unknown as u8;
const ALL: u8 = TRUE | FALSE | UNKNOWN;

impl<'a> Val<'a> {
    fn is(truth: bool) -> Self {
        Self::Is(Truths(if truth { TRUE } else { FALSE }))
    }

    /// As a truth.
    fn truths(&self) -> Truths {
        match self {
            Self::Is(truths) => *truths,
            Self::Open => Truths(ALL),
            Self::Known(Value::Bool(truth)) => Truths(if *truth { TRUE } else { FALSE }),
            _ => Truths(UNKNOWN),
        }
    }

    /// For strict operators: what could be several is open.
    fn strict(self) -> Self {
        match self {
            Self::Is(Truths(TRUE)) => Self::Known(Value::Bool(true)),
            Self::Is(Truths(FALSE)) => Self::Known(Value::Bool(false)),
            Self::Is(_) => Self::Open,
            other => other,
        }
    }

    /// Hands a value over; nothing for what is none.
    fn with_value<R>(&self, then: impl FnOnce(Value<'_>) -> R) -> Option<R> {
        Some(match self {
            Self::Known(value) => then(*value),
            Self::Is(Truths(TRUE)) => then(Value::Bool(true)),
            Self::Is(Truths(FALSE)) => then(Value::Bool(false)),
            Self::Url(text, part) => {
                let url = text.with_str(web::url)?;
                let text = if *part == UrlPart::Scheme { Some(url.scheme()) } else { url.host() };
                then(Value::Text(Text::Plain(text?)))
            }
            Self::Unknown(_) | Self::Is(_) | Self::Open | Self::Pieces(..) => return None,
        })
    }
}

/// One list that is gone through.
#[derive(Debug)]
struct Frame<'a> {
    quantifier: Quantifier,
    items: Items<'a>,
    /// The element at hand.
    element: Val<'a>,
    so_far: Truths,
    /// Why it is unknown so far.
    why: Place,
}

#[derive(Debug)]
enum Items<'a> {
    List(Cursor<'a>),
    Pieces(Split<'a>),
    Open,
}

struct Machine<'a> {
    program: &'a Program,
    facts: &'a Facts<'a>,
    dead: Dead,
    /// Arguments and time are open.
    open: bool,
    fuel: Fuel,
    args: Option<Found<'a>>,
    claims: Option<Found<'a>>,
    stack: SmallVec<[Val<'a>; 6]>,
    frames: SmallVec<[Frame<'a>; 1]>,
}

impl<'a> Machine<'a> {
    fn run(program: &'a Program, facts: &'a Facts<'a>, dead: Dead, open: bool) -> Val<'a> {
        let mut machine = Machine {
            program,
            facts,
            dead,
            open,
            fuel: Fuel::full(),
            args: None,
            claims: None,
            stack: SmallVec::new(),
            frames: SmallVec::new(),
        };
        let mut at = 0;
        while let Some(op) = program.ops.get(at) {
            at = machine.step(*op, at);
            if machine.fuel.is_spent() {
                return Val::Unknown(Place(
                    program.places.get(at).or(program.places.last()).map_or(Span::default(), |all| all[0]),
                ));
            }
        }
        machine.stack.pop().unwrap_or(Val::Unknown(Place(Span::default())))
    }

    /// Does one operation, and tells which is next.
    fn step(&mut self, op: Op, at: usize) -> usize {
        if !self.fuel.take(1, 1) {
            return at;
        }
        let came = match op {
            Op::Load(from) => self.operand(from, at, 0),
            Op::Has(from) => self.has(from, at),
            Op::Not => match self.pop() {
                unknown @ Val::Unknown(_) => unknown,
                val => Self::truth_or(not(val.truths()), self.place(at, 1)),
            },
            Op::Short(logic, to) => {
                let decides = if logic == Logic::And { FALSE } else { TRUE };
                let decided = self.stack.last().is_some_and(|top| top.truths().0 == decides);
                return if decided { usize::from(to) } else { at + 1 };
            }
            Op::Join(logic) => self.join(logic, at),
            Op::Each(quantifier, from, end) => {
                return if self.each(quantifier, from, at) { at + 1 } else { usize::from(end) };
            }
            Op::Again(body) => return if self.again(at) { usize::from(body) } else { at + 1 },
            Op::Time(part, zone) => self.time(part, zone, at),
            Op::IsNull(from, _)
            | Op::Choice(from, _)
            | Op::NullIn(from)
            | Op::Negate(from)
            | Op::Size(from)
            | Op::Matches(from, _)
            | Op::Split(from, _)
            | Op::Piece(from, ..)
            | Op::Url(_, from)
            | Op::IpIn(from, _) => match self.operand(from, at, 1).strict() {
                unknown @ Val::Unknown(_) => unknown,
                Val::Open => Val::Open,
                val => self.one(op, val, at),
            },
            Op::Equal(left, right, _)
            | Op::Order(_, left, right)
            | Op::In(left, right)
            | Op::Arithmetic(_, left, right)
            | Op::Text(_, left, right) => {
                // The right one was computed last.
                let right = self.operand(right, at, 2).strict();
                let left = self.operand(left, at, 1).strict();
                match (left, right) {
                    (unknown @ Val::Unknown(_), _) | (_, unknown @ Val::Unknown(_)) => unknown,
                    (Val::Open, _) | (_, Val::Open) => Val::Open,
                    (left, right) => self.two(op, &left, &right, at),
                }
            }
        };
        self.stack.push(came);
        at + 1
    }

    /// Where operand `which` of the operation stands, counted from 1; 0 is the operation.
    fn place(&self, at: usize, which: usize) -> Place {
        Place(self.program.places[at][which])
    }

    fn unknown(&self, at: usize, which: usize) -> Val<'a> {
        Val::Unknown(self.place(at, which))
    }

    fn truth_or(truths: Truths, why: Place) -> Val<'a> {
        if truths.0 == UNKNOWN { Val::Unknown(why) } else { Val::Is(truths) }
    }

    fn pop(&mut self) -> Val<'a> {
        self.stack.pop().unwrap_or(Val::Open)
    }

    // ---- operands ---------------------------------------------------------------------------------------------
    #[inline]
    fn operand(&mut self, from: From, at: usize, which: usize) -> Val<'a> {
        let facts = self.facts;
        let text = |text: &'a str| Val::Known(Value::Text(Text::Plain(text)));
        match from {
            From::Stack => self.pop(),
            From::Args(_) | From::Now if self.open => Val::Open,
            From::Args(node) => {
                let raw = self.arg(node);
                self.read(raw, at, which)
            }
            From::Claims(node) => {
                let raw = self.claim(node);
                self.read(raw, at, which)
            }
            From::Constant(place) => Val::Known(match &self.program.constants[usize::from(place)] {
                Constant::Null => Value::Null,
                Constant::Bool(value) => Value::Bool(*value),
                Constant::Number(number) => Value::Number(Num::Exact(*number)),
                Constant::Text(text) => Value::Text(Text::Plain(text)),
                Constant::List(raw) => Value::List(raw),
            }),
            From::Variable(variable) => self.element(variable, at, which),
            From::Within(variable, steps) => {
                let steps = &self.program.steps[usize::from(steps)];
                match self.element(variable, at, which) {
                    Val::Known(value) => match self.within(value, steps) {
                        Some(value) => Val::Known(value),
                        None => self.unknown(at, which),
                    },
                    Val::Open => Val::Open,
                    _ => self.unknown(at, which),
                }
            }
            From::Subject => text(&facts.caller.subject),
            From::Issuer => text(&facts.caller.issuer),
            From::Tool if facts.tool.is_empty() => self.unknown(at, which),
            From::Tool => text(facts.tool),
            From::Server => text(facts.server),
            From::Agent => facts.caller.agent.as_deref().map_or_else(|| self.unknown(at, which), text),
            From::Task => facts.task.map_or_else(|| self.unknown(at, which), text),
            From::Now => {
                let seconds = i64::try_from(facts.now_s).unwrap_or(i64::MAX);
                Val::Known(Value::Number(Num::Exact(Number::whole(seconds))))
            }
        }
    }

    fn arg(&mut self, node: u16) -> &'a [u8] {
        let Some(raw) = self.facts.args else { return &[] };
        let (program, dead, fuel) = (self.program, self.dead, &mut self.fuel);
        self.args.get_or_insert_with(|| program.args.find(raw, dead, fuel))[usize::from(node)]
    }

    fn claim(&mut self, node: u16) -> &'a [u8] {
        let (program, facts, fuel) = (self.program, self.facts, &mut self.fuel);
        self.claims.get_or_insert_with(|| program.claims.find(&facts.caller.claims, 0, fuel))[usize::from(node)]
    }

    #[inline]
    fn read(&mut self, raw: &'a [u8], at: usize, which: usize) -> Val<'a> {
        let Some(first) = raw.first() else { return self.unknown(at, which) };
        let bytes_a_step = if matches!(first, b'[' | b'{' | b'"') { 128 } else { 4 };
        if !self.fuel.take(raw.len(), bytes_a_step) {
            return self.unknown(at, which);
        }
        // That it is UTF-8 takes longer to see where it is not ASCII.
        let is_long_text = *first == b'"' && raw.len() > 64;
        if is_long_text && !raw.is_ascii() && !self.fuel.take(raw.len(), 12) {
            return self.unknown(at, which);
        }
        Value::read(raw).map_or_else(|| self.unknown(at, which), Val::Known)
    }

    /// The element at hand of the list that is gone through.
    fn element(&self, variable: u8, at: usize, which: usize) -> Val<'a> {
        match self.frames.get(usize::from(variable)).map(|frame| &frame.element) {
            Some(Val::Unknown(_)) | None => self.unknown(at, which),
            Some(element) => *element,
        }
    }

    fn within(&mut self, mut value: Value<'a>, steps: &[Step]) -> Option<Value<'a>> {
        for step in steps {
            if let Value::List(raw) | Value::Object(raw) = value
                && !self.fuel.take(raw.len(), 4)
            {
                return None;
            }
            value = match step {
                Step::Name(name) => value.member(name)?,
                Step::Index(place) => value.index(*place)?,
            };
        }
        Some(value)
    }

    fn has(&mut self, from: From, at: usize) -> Val<'a> {
        match from {
            From::Args(_) if self.open => Val::Is(Truths(TRUE | FALSE)),
            From::Args(node) => match self.arg(node) {
                DEAD => self.unknown(at, 0),
                raw => Val::is(!raw.is_empty()),
            },
            From::Claims(node) => Val::is(!self.claim(node).is_empty()),
            From::Within(variable, steps) => match self.element(variable, at, 0) {
                Val::Open => Val::Is(Truths(TRUE | FALSE)),
                Val::Known(value) => {
                    let steps = &self.program.steps[usize::from(steps)];
                    Val::is(self.within(value, steps).is_some())
                }
                _ => Val::is(false),
            },
            _ => Val::is(false),
        }
    }

    // ---- logic ------------------------------------------------------------------------------------------------
    fn join(&mut self, logic: Logic, at: usize) -> Val<'a> {
        let (right, left) = (self.pop(), self.pop());
        let joined = combine(logic, left.truths(), right.truths());
        let why = match (&left, &right) {
            (Val::Unknown(why), _) => *why,
            (left, _) if left.truths().0 == UNKNOWN => self.place(at, 1),
            (_, Val::Unknown(why)) => *why,
            _ => self.place(at, 2),
        };
        Self::truth_or(joined, why)
    }

    /// Begins a list; false, with what that comes to on the stack, where there is nothing to go through.
    fn each(&mut self, quantifier: Quantifier, from: From, at: usize) -> bool {
        let items = match self.operand(from, at, 1).strict() {
            Val::Known(Value::List(raw)) => Items::List(Cursor::inside(raw)),
            Val::Pieces(text, separator) => Items::Pieces(text.split(separator)),
            Val::Open => Items::Open,
            unknown @ Val::Unknown(_) => {
                self.stack.push(unknown);
                return false;
            }
            _ => {
                let unknown = self.unknown(at, 1);
                self.stack.push(unknown);
                return false;
            }
        };
        let so_far = Truths(if quantifier == Quantifier::All { TRUE } else { FALSE });
        let why = self.place(at, 0);
        let mut frame = Frame { quantifier, items, element: Val::Open, so_far, why };
        if frame.next(&mut self.fuel, why) {
            self.frames.push(frame);
            return true;
        }
        self.stack.push(Val::Is(so_far));
        false
    }

    /// Takes in the truth on the stack for the element at hand; false, with the whole on the stack, where it was the last.
    fn again(&mut self, at: usize) -> bool {
        let body = self.pop();
        let why = match &body {
            Val::Unknown(why) => *why,
            _ => self.place(at, 1),
        };
        let place = self.place(at, 0);
        let Some(frame) = self.frames.last_mut() else { return false };
        let logic = if frame.quantifier == Quantifier::All { Logic::And } else { Logic::Or };
        let truths = body.truths();
        if matches!(frame.items, Items::Open) {
            // Any number of elements: what one more adds, until it adds nothing.
            for _ in 0..3 {
                frame.so_far.0 |= combine(logic, frame.so_far, truths).0;
            }
            frame.so_far.0 |= UNKNOWN;
        } else {
            if truths.0 == UNKNOWN && frame.so_far.0 != UNKNOWN {
                frame.why = why;
            }
            frame.so_far = combine(logic, frame.so_far, truths);
            let decided = frame.so_far.0 == if logic == Logic::And { FALSE } else { TRUE };
            if !decided && frame.next(&mut self.fuel, place) {
                return true;
            }
        }
        let whole = Self::truth_or(frame.so_far, frame.why);
        self.frames.pop();
        self.stack.push(whole);
        false
    }

    // ---- strict operators -------------------------------------------------------------------------------------
    /// An operation on one operand that is there.
    fn one(&mut self, op: Op, val: Val<'a>, at: usize) -> Val<'a> {
        let came = match (op, &val) {
            (Op::IsNull(_, turned), _) => val.with_value(|value| matches!(value, Value::Null) != turned).map(Val::is),
            (Op::Choice(_, list), _) => return self.choice(&val, list, at),
            (Op::NullIn(_), _) => self.null_in(&val).map(Val::is),
            (Op::Negate(_), Val::Known(Value::Number(number))) => {
                match number.exact().and_then(|it| Number::ZERO.minus(it)) {
                    Some(number) => Some(Val::Known(Value::Number(Num::Exact(number)))),
                    None => return self.unknown(at, 0),
                }
            }
            (Op::Size(_), _) => self.size(&val).map(whole),
            (Op::Split(_, separator), Val::Known(Value::Text(text))) => {
                Some(Val::Pieces(*text, &self.program.texts[usize::from(separator)]))
            }
            (Op::Piece(_, separator, place), Val::Known(Value::Text(text))) => {
                let text = *text;
                if !pay_split(text, &mut self.fuel) {
                    return self.unknown(at, 0);
                }
                let separator = &self.program.texts[usize::from(separator)];
                let piece = usize::try_from(place).ok().and_then(|place| text.split(separator).nth(place));
                match piece {
                    Some(piece) => Some(Val::Known(Value::Text(piece))),
                    None => return self.unknown(at, 0),
                }
            }
            (Op::Url(part @ (UrlPart::Scheme | UrlPart::Host), _), Val::Known(Value::Text(text))) => {
                let url = Val::Url(*text, part);
                // What is no URL is surely unknown, which beside what is open makes a difference.
                let known = pay(*text, 4, &mut self.fuel) && (!self.open || url.with_value(|_| ()).is_some());
                known.then_some(url)
            }
            (Op::Matches(..) | Op::IpIn(..) | Op::Url(..), _) => return self.of_text(op, &val, at),
            _ => None,
        };
        came.unwrap_or_else(|| self.unknown(at, 1))
    }

    /// An operation on one text.
    fn of_text(&mut self, op: Op, val: &Val<'a>, at: usize) -> Val<'a> {
        let program = self.program;
        let fuel = &mut self.fuel;
        let came = val.with_value(|value| {
            let Value::Text(text) = value else { return None };
            if !pay(text, 4, fuel) {
                return None;
            }
            text.with_str(|text| match op {
                Op::Matches(_, pattern) => Some(Val::is(program.patterns[usize::from(pattern)].is_in(text))),
                Op::IpIn(_, network) => {
                    Some(Val::is(program.networks[usize::from(network)].holds(net::address(text)?)))
                }
                Op::Url(..) => Some(whole(u64::from(web::url(text)?.port()?))),
                _ => None,
            })
        });
        came.flatten().unwrap_or_else(|| self.unknown(at, 1))
    }

    fn size(&mut self, val: &Val<'a>) -> Option<u64> {
        match val {
            Val::Known(Value::List(raw)) => Cursor::inside(raw).elements(&mut self.fuel),
            Val::Known(Value::Object(raw)) => Cursor::inside(raw).members(&mut self.fuel),
            Val::Known(Value::Text(text)) => pay(*text, 16, &mut self.fuel).then(|| text.size()),
            Val::Pieces(text, separator) => {
                pay_split(*text, &mut self.fuel).then(|| text.split(separator).count() as u64)
            }
            Val::Url(..) => val.with_value(|value| value.size()).flatten(),
            _ => None,
        }
    }

    /// An operation on two operands that are there.
    fn two(&mut self, op: Op, left: &Val<'a>, right: &Val<'a>, at: usize) -> Val<'a> {
        match op {
            Op::Order(compare, ..) => match (left, right) {
                (Val::Known(Value::Number(left)), Val::Known(Value::Number(right))) => {
                    Val::is(holds(compare, left.cmp(right)))
                }
                (Val::Known(Value::Number(_)), _) => self.unknown(at, 2),
                _ => self.unknown(at, 1),
            },
            Op::Equal(_, _, turned) => match self.same(left, right) {
                Some(same) => Val::is(same != turned),
                None => self.unknown(at, 0),
            },
            Op::Arithmetic(arithmetic, ..) => {
                let exact = |val: &Val<'a>| match val {
                    Val::Known(Value::Number(number)) => number.exact(),
                    _ => None,
                };
                let (Some(left), Some(right)) = (exact(left), exact(right)) else {
                    return self.unknown(at, if exact(left).is_none() { 1 } else { 2 });
                };
                if !self.fuel.take(0, 1) {
                    return self.unknown(at, 0);
                }
                let came = match arithmetic {
                    Arithmetic::Plus => left.plus(right),
                    Arithmetic::Minus => left.minus(right),
                    Arithmetic::Times => left.times(right),
                };
                came.map_or_else(|| self.unknown(at, 0), |number| Val::Known(Value::Number(Num::Exact(number))))
            }
            Op::In(..) => self.is_in(left, right, at),
            Op::Text(test, ..) => {
                let came = self.test(test, left, right);
                let is_text = |val: &Val<'a>| val.with_value(|value| matches!(value, Value::Text(_))) == Some(true);
                came.map_or_else(
                    || self.unknown(at, if is_text(left) { 2 - usize::from(is_text(right)) } else { 1 }),
                    Val::is,
                )
            }
            _ => self.unknown(at, 0),
        }
    }

    fn same(&mut self, left: &Val<'a>, right: &Val<'a>) -> Option<bool> {
        let fuel = &mut self.fuel;
        left.with_value(|left| right.with_value(|right| same(left, right, fuel))).flatten().flatten()
    }

    /// Whether one text has the other where it is asked for; nothing where they are no texts, or no paths.
    fn test(&mut self, test: TextTest, left: &Val<'a>, right: &Val<'a>) -> Option<bool> {
        let fuel = &mut self.fuel;
        let mut of_values = |left: Value<'_>, right: Value<'_>| {
            let (Value::Text(left), Value::Text(right)) = (left, right) else { return None };
            let bytes_a_step = if test == TextTest::Under { 1 } else { 16 };
            if !pay(left, bytes_a_step, fuel) || !pay(right, bytes_a_step, fuel) {
                return None;
            }
            match test {
                TextTest::StartsWith => Some(left.starts_with(right)),
                TextTest::EndsWith => Some(left.ends_with(right)),
                TextTest::Contains => Some(left.contains(right)),
                TextTest::Under => left.with_str(|left| right.with_str(|right| path::under(left, right))),
            }
        };
        left.with_value(|left| right.with_value(|right| of_values(left, right))).flatten().flatten()
    }

    // ---- lists ------------------------------------------------------------------------------------------------
    /// Whether it is one of a list as written.
    fn choice(&mut self, val: &Val<'a>, list: u16, at: usize) -> Val<'a> {
        let list = &self.program.lists[usize::from(list)];
        let fuel = &mut self.fuel;
        match val.with_value(|value| chosen(list, value, fuel)) {
            Some(Some(is)) => Val::is(is),
            Some(None) => self.unknown(at, 0),
            None => self.unknown(at, 1),
        }
    }

    /// Whether a list holds a null.
    fn null_in(&mut self, list: &Val<'a>) -> Option<bool> {
        let raw = match list {
            Val::Known(Value::List(raw)) => raw,
            Val::Pieces(..) => return Some(false),
            _ => return None,
        };
        let mut elements = Cursor::inside(raw);
        while let Some(element) = elements.element(&mut self.fuel) {
            if element == b"null" {
                return Some(true);
            }
        }
        Some(false)
    }

    fn is_in(&mut self, left: &Val<'a>, list: &Val<'a>, at: usize) -> Val<'a> {
        let fuel = &mut self.fuel;
        let found = left.with_value(|value| {
            let mut told = Some(false);
            let mut see = |same: Option<bool>| {
                told = if same == Some(true) { same } else { told.and(same) };
                same == Some(true)
            };
            match list {
                Val::Known(Value::List(raw)) => {
                    let mut elements = Cursor::inside(raw);
                    while let Some(raw) = elements.element(fuel) {
                        let element = Value::read(raw);
                        if !fuel.take(raw.len(), 64) || see(element.and_then(|element| same(value, element, fuel))) {
                            break;
                        }
                    }
                    Some(told)
                }
                Val::Pieces(text, separator) => {
                    for piece in text.split(separator) {
                        if !pay_split(piece, fuel) || see(same(value, Value::Text(piece), fuel)) {
                            break;
                        }
                    }
                    Some(told)
                }
                _ => None,
            }
        });
        match found {
            Some(Some(Some(is))) => Val::is(is),
            Some(Some(None)) => self.unknown(at, 0),
            Some(None) => self.unknown(at, 2),
            None => self.unknown(at, 1),
        }
    }

    fn time(&mut self, part: TimePart, zone: u16, at: usize) -> Val<'a> {
        if self.open {
            return Val::Open;
        }
        let zone = &self.program.zones[usize::from(zone)];
        let came = match part {
            TimePart::Hour => zone.hour(self.facts.now_s),
            TimePart::Weekday => zone.weekday(self.facts.now_s),
        };
        came.map_or_else(|| self.unknown(at, 0), |number| whole(u64::from(number)))
    }
}

impl<'a> Frame<'a> {
    /// Goes to the next element; false where there is none.
    fn next(&mut self, fuel: &mut Fuel, place: Place) -> bool {
        self.element = match &mut self.items {
            Items::List(elements) => match elements.element(fuel) {
                Some(raw) if fuel.take(raw.len(), 64) => Value::read(raw).map_or(Val::Unknown(place), Val::Known),
                _ => return false,
            },
            Items::Pieces(pieces) => match pieces.next() {
                Some(piece) if pay_split(piece, fuel) => Val::Known(Value::Text(piece)),
                _ => return false,
            },
            Items::Open => Val::Open,
        };
        true
    }
}

// ---- values ---------------------------------------------------------------------------------------------------
fn whole<'a>(number: u64) -> Val<'a> {
    Val::Known(Value::Number(Num::Exact(Number::whole(i64::try_from(number).unwrap_or(i64::MAX)))))
}

fn bytes(text: Text<'_>) -> &str {
    match text {
        Text::Plain(text) | Text::Escaped(text) => text,
    }
}

/// For looking at a text. What has escapes is put together anew, run by run.
fn pay(text: Text<'_>, bytes_a_step: usize, fuel: &mut Fuel) -> bool {
    let written = bytes(text);
    fuel.take(written.len(), bytes_a_step)
        && match text {
            Text::Plain(_) => true,
            Text::Escaped(_) => {
                let escapes = memchr::memchr_iter(b'\\', written.as_bytes()).count();
                fuel.take(escapes * ESCAPE_STEPS, 1)
            }
        }
}

/// For splitting it: one with escapes is gone through letter by letter.
fn pay_split(text: Text<'_>, fuel: &mut Fuel) -> bool {
    let bytes_a_step = if let Text::Plain(_) = text { 4 } else { 1 };
    fuel.take(bytes(text).len(), bytes_a_step)
}

/// What `fuel` does not suffice for is unknown, as all is then.
fn same(left: Value<'_>, right: Value<'_>, fuel: &mut Fuel) -> Option<bool> {
    let paid = match (left, right) {
        (Value::Text(Text::Plain(left)), Value::Text(Text::Plain(right))) => {
            left.len() != right.len() || fuel.take(left.len(), 128)
        }
        (Value::Text(left), Value::Text(right)) => fuel.take(bytes(left).len().min(bytes(right).len()), 2),
        (Value::List(left) | Value::Object(left), Value::List(right) | Value::Object(right)) => {
            // What is written alike is told at a glance, all else value by value.
            let looked = fuel.take(left.len().min(right.len()), 128);
            looked && (left == right || fuel.take((left.len() + right.len()) * 3, 2))
        }
        (Value::Number(Num::Exact(_)), Value::Number(Num::Exact(_))) => fuel.take(1, 1),
        (Value::Number(Num::Long(left)), Value::Number(_)) => fuel.take(left.len(), 2),
        (Value::Number(_), Value::Number(Num::Long(right))) => fuel.take(right.len(), 2),
        _ => true,
    };
    if paid { left.same(right) } else { None }
}

/// Whether this value is one of a list as written; nothing where it cannot be told.
fn chosen(list: &Choice, value: Value<'_>, fuel: &mut Fuel) -> Option<bool> {
    if list.null && matches!(value, Value::Null) {
        return Some(true);
    }
    match (&list.of, value) {
        (Choices::Nothing, _) => Some(false),
        (Choices::Bools(all), Value::Bool(value)) => Some(all.contains(&value)),
        (Choices::Numbers(all), Value::Number(value)) => {
            fuel.take(all.len(), 4).then(|| value.exact().is_some_and(|value| all.contains(&value)))
        }
        (Choices::Texts(all), Value::Text(Text::Plain(value))) => {
            fuel.take(all.len(), 4).then(|| all.iter().any(|one| **one == *value))
        }
        (Choices::Texts(all), Value::Text(value)) => {
            let each = bytes(value).len().min(all.iter().map(|one| one.len()).max().unwrap_or(0));
            fuel.take(all.len() * (1 + each), 2).then(|| all.iter().any(|one| Text::Plain(one) == value))
        }
        (Choices::Lists(all), Value::List(_)) => {
            for one in all {
                if same(value, Value::List(one), fuel)? {
                    return Some(true);
                }
            }
            Some(false)
        }
        _ => None,
    }
}

fn holds(compare: Compare, order: Ordering) -> bool {
    match compare {
        Compare::Equal => order.is_eq(),
        Compare::NotEqual => order.is_ne(),
        Compare::Less => order.is_lt(),
        Compare::LessOrEqual => order.is_le(),
        Compare::Greater => order.is_gt(),
        Compare::GreaterOrEqual => order.is_ge(),
    }
}

// ---- truths ---------------------------------------------------------------------------------------------------
fn not(truths: Truths) -> Truths {
    Truths(truths.0 & UNKNOWN | (truths.0 & TRUE) << 1 | (truths.0 & FALSE) >> 1)
}

/// What `&&` or `||` make of each of these with each of those.
fn combine(logic: Logic, left: Truths, right: Truths) -> Truths {
    match logic {
        Logic::And => {
            let both = left.0 & right.0 & TRUE;
            let either = (left.0 | right.0) & FALSE;
            let open = |one: u8, other: u8| one & UNKNOWN != 0 && other & (TRUE | UNKNOWN) != 0;
            let unknown = if open(left.0, right.0) || open(right.0, left.0) { UNKNOWN } else { 0 };
            Truths(both | either | unknown)
        }
        Logic::Or => not(combine(Logic::And, not(left), not(right))),
    }
}

/// What one escape costs to undo, in steps.
const ESCAPE_STEPS: usize = 4;

const _: () = assert!(TRUE << 1 == FALSE, "what `not` turns around");
