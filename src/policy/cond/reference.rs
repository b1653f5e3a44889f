//! The slow twin: walks a condition as written and says what it comes to. It shares no program, no value and no arithmetic
//! with what decides; the two are tested against each other.

use std::net::IpAddr;

use url::Url;

use super::ast::{Arithmetic, Compare, Expr, Kind, Literal, Logic, Path, Quantifier, Root, Step, TextTest};
use super::ast::{TimePart, UrlPart};
use super::plain::{Decimal, Plain};
use super::regex::Pattern;
use super::{Condition, Dead, Facts, Number, Truth, Truths};
use crate::base::limits::URL_AUTHORITY_BYTES_MAX;

/// What it comes to: [`Condition::truth`].
#[must_use]
pub fn truth(condition: &Condition, facts: &Facts<'_>, dead: Dead) -> Truth {
    let set = Walk::new(condition, facts, dead, false).truths(condition.ast());
    // Nothing is open, so it is one.
    [Truth::True, Truth::False].into_iter().find(|truth| set == only(*truth)).unwrap_or(Truth::Unknown)
}

/// What it could come to with any arguments, at any time: [`Condition::could`].
#[must_use]
pub fn could(condition: &Condition, facts: &Facts<'_>) -> Truths {
    Walk::new(condition, facts, 0, true).truths(condition.ast())
}

/// The number that it comes to: [`Condition::number`].
#[must_use]
pub fn number(condition: &Condition, facts: &Facts<'_>, dead: Dead) -> Option<Number> {
    match Walk::new(condition, facts, dead, false).find(condition.ast()) {
        Found::Sure(Plain::Number(number)) => Number::parse(&number.text()?),
        _ => None,
    }
}

/// The canonical bytes of the value that it comes to: what [`Condition::value`] feeds.
#[must_use]
pub fn value(condition: &Condition, facts: &Facts<'_>, dead: Dead) -> Option<Vec<u8>> {
    let Found::Sure(value) = Walk::new(condition, facts, dead, false).find(condition.ast()) else { return None };
    let mut bytes = Vec::new();
    value.spell(&mut bytes);
    Some(bytes)
}

/// What an expression comes to.
#[derive(Clone, Debug)]
enum Found {
    /// This.
    Sure(Plain),
    /// Nothing: missing, or unknown.
    Unknown,
    /// Any value, or unknown.
    Open,
}

/// The way through one condition.
struct Walk<'a> {
    facts: &'a Facts<'a>,
    /// Whether the question is that of lists.
    open: bool,
    /// Paths of arguments that lead nowhere, as written.
    dead: Vec<&'a str>,
    args: Option<Plain>,
    claims: Option<Plain>,
    /// Of each `all` and `exists` around, the outer one first.
    variables: Vec<Found>,
}

impl<'a> Walk<'a> {
    fn new(condition: &'a Condition, facts: &'a Facts<'a>, dead: Dead, open: bool) -> Self {
        let dead_at = |at: usize| u32::try_from(at).is_ok_and(|at| dead.checked_shr(at).unwrap_or(0) & 1 == 1);
        let named = if dead == 0 { &[] } else { condition.arg_paths() };
        let dead = named.iter().enumerate().filter(|(at, _)| dead_at(*at)).map(|(_, path)| &**path).collect();
        let args = facts.args.and_then(Plain::read);
        Self { facts, open, dead, args, claims: Plain::read(&facts.caller.claims), variables: Vec::new() }
    }

    // ---- truths -----------------------------------------------------------------------------------------------
    /// What it could come to, where a truth is wanted.
    fn truths(&mut self, expr: &Expr) -> Truths {
        match &expr.kind {
            Kind::Not(operand) => pairwise(self.truths(operand), only(Truth::True), |truth, _| not(truth)),
            Kind::Logic(logic, all) => {
                let first = only(if *logic == Logic::And { Truth::True } else { Truth::False });
                all.iter().fold(first, |set, one| pairwise(set, self.truths(one), joined(*logic)))
            }
            Kind::Each(quantifier, list, _, body) => self.each(*quantifier, list, body),
            Kind::Has(path) => self.has(path),
            Kind::Compare(compare, left, right) => self.compare(*compare, left, right),
            Kind::In(one, list) => self.within(one, list),
            Kind::Text(test, left, right) => self.strict([left, right], |values| match values {
                [Plain::Text(left), Plain::Text(right)] => match test {
                    TextTest::StartsWith => Some(left.starts_with(&**right)),
                    TextTest::EndsWith => Some(left.ends_with(&**right)),
                    TextTest::Contains => Some(left.contains(&**right)),
                    TextTest::Under => is_under(left, right),
                },
                _ => None,
            }),
            Kind::Matches(of, pattern) => self.strict([of], |values| match values {
                [Plain::Text(text)] => Some(Pattern::parse(pattern).ok()?.is_in(text)),
                _ => None,
            }),
            Kind::IpIn(of, network) => self.strict([of], |values| match values {
                [Plain::Text(text)] => is_in_network(text, network),
                _ => None,
            }),
            _ => match self.find(expr) {
                Found::Sure(Plain::Bool(true)) => only(Truth::True),
                Found::Sure(Plain::Bool(false)) => only(Truth::False),
                Found::Sure(_) | Found::Unknown => only(Truth::Unknown),
                Found::Open => ALL,
            },
        }
    }

    /// A question about values, all of which must be there.
    fn strict<const N: usize>(&mut self, of: [&Expr; N], ask: impl Fn([&Plain; N]) -> Option<bool>) -> Truths {
        let found = of.map(|one| self.find(one));
        match sure(&found) {
            Ok(values) => only(match ask(values) {
                Some(true) => Truth::True,
                Some(false) => Truth::False,
                None => Truth::Unknown,
            }),
            Err(Found::Open) => ALL,
            Err(_) => only(Truth::Unknown),
        }
    }

    fn compare(&mut self, compare: Compare, left: &Expr, right: &Expr) -> Truths {
        let written_null = is_null(&left.kind) || is_null(&right.kind);
        self.strict([left, right], |[left, right]| {
            let order = match (left, right) {
                (Plain::Number(left), Plain::Number(right)) => Some(left.order(right)),
                _ => None,
            };
            match compare {
                Compare::Equal => is_same(left, right, written_null),
                Compare::NotEqual => is_same(left, right, written_null).map(|same| !same),
                Compare::Less => order.map(std::cmp::Ordering::is_lt),
                Compare::LessOrEqual => order.map(std::cmp::Ordering::is_le),
                Compare::Greater => order.map(std::cmp::Ordering::is_gt),
                Compare::GreaterOrEqual => order.map(std::cmp::Ordering::is_ge),
            }
        })
    }

    fn within(&mut self, one: &Expr, list: &Expr) -> Truths {
        let null = is_null(&one.kind);
        let written: Option<&[Literal]> = match &list.kind {
            Kind::Literal(Literal::List(all)) => Some(all),
            _ => None,
        };
        self.strict([one, list], |[one, list]| {
            let Plain::List(all) = list else { return None };
            let is_null_at = |at: usize| written.is_some_and(|all| all.get(at) == Some(&Literal::Null));
            let same = |(at, element)| is_same(one, element, null || is_null_at(at));
            let answers: Vec<Option<bool>> = all.iter().enumerate().map(same).collect();
            if answers.contains(&Some(true)) {
                return Some(true);
            }
            answers.iter().all(Option::is_some).then_some(false)
        })
    }

    fn each(&mut self, quantifier: Quantifier, list: &Expr, body: &Expr) -> Truths {
        let (logic, none) = match quantifier {
            Quantifier::All => (Logic::And, Truth::True),
            Quantifier::Exists => (Logic::Or, Truth::False),
        };
        match self.find(list) {
            Found::Sure(Plain::List(all)) => all.into_iter().fold(only(none), |set, element| {
                self.variables.push(Found::Sure(element));
                let of_element = self.truths(body);
                self.variables.pop();
                pairwise(set, of_element, joined(logic))
            }),
            Found::Sure(_) | Found::Unknown => only(Truth::Unknown),
            Found::Open => {
                self.variables.push(Found::Open);
                let of_element = self.truths(body);
                self.variables.pop();
                // No element, one, or many: two more change nothing.
                let one = pairwise(only(none), of_element, joined(logic));
                let two = pairwise(one, of_element, joined(logic));
                Truths(only(none).0 | one.0 | two.0 | only(Truth::Unknown).0)
            }
        }
    }

    fn has(&mut self, path: &Path) -> Truths {
        match self.lead(path) {
            // What no tool says it has, and is there all the same.
            Found::Sure(_) if self.is_dead(path) => only(Truth::Unknown),
            Found::Sure(_) => only(Truth::True),
            Found::Unknown => only(Truth::False),
            Found::Open => Truths(only(Truth::True).0 | only(Truth::False).0),
        }
    }

    // ---- values -----------------------------------------------------------------------------------------------
    fn find(&mut self, expr: &Expr) -> Found {
        match &expr.kind {
            Kind::Literal(literal) => written(literal).map_or(Found::Unknown, Found::Sure),
            Kind::Path(path) => self.follow(path),
            Kind::Negate(of) => self.made([of], |values| match values {
                [Plain::Number(number)] => number.negated().map(Plain::Number),
                _ => None,
            }),
            Kind::Arithmetic(what, left, right) => self.made([left, right], |values| match values {
                [Plain::Number(left), Plain::Number(right)] => Some(Plain::Number(match what {
                    Arithmetic::Plus => left.plus(right)?,
                    Arithmetic::Minus => left.plus(&right.negated()?)?,
                    Arithmetic::Times => left.times(right)?,
                })),
                _ => None,
            }),
            Kind::Size(of) => self.made([of], |values| {
                let size = match values {
                    [Plain::Text(text)] => text.chars().count(),
                    [Plain::List(all)] => all.len(),
                    [Plain::Object(all)] => all.len(),
                    _ => return None,
                };
                Some(Plain::Number(Decimal::of(size as u64)))
            }),
            Kind::Split(of, separator) => self.made([of], |values| match values {
                [Plain::Text(text)] => Some(Plain::List(pieces(text, separator))),
                _ => None,
            }),
            Kind::Piece(of, separator, at) => self.made([of], |values| match values {
                [Plain::Text(text)] => pieces(text, separator).into_iter().nth(usize::try_from(*at).ok()?),
                _ => None,
            }),
            Kind::Url(part, of) => self.made([of], |values| match values {
                [Plain::Text(text)] => part_of_url(*part, text),
                _ => None,
            }),
            Kind::Time(..) if self.open => Found::Open,
            Kind::Time(part, zone) => part_of_time(*part, zone, self.facts.now_s)
                .map_or(Found::Unknown, |number| Found::Sure(Plain::Number(Decimal::of(number)))),
            Kind::Not(_)
            | Kind::Logic(..)
            | Kind::Each(..)
            | Kind::Has(_)
            | Kind::Compare(..)
            | Kind::In(..)
            | Kind::Text(..)
            | Kind::Matches(..)
            | Kind::IpIn(..) => match self.truths(expr) {
                set if set == only(Truth::True) => Found::Sure(Plain::Bool(true)),
                set if set == only(Truth::False) => Found::Sure(Plain::Bool(false)),
                set if set == only(Truth::Unknown) => Found::Unknown,
                _ => Found::Open,
            },
        }
    }

    /// A value made of others, all of which must be there.
    fn made<const N: usize>(&mut self, of: [&Expr; N], make: impl Fn([&Plain; N]) -> Option<Plain>) -> Found {
        let found = of.map(|one| self.find(one));
        match sure(&found) {
            Ok(values) => make(values).map_or(Found::Unknown, Found::Sure),
            Err(other) => other,
        }
    }

    fn is_dead(&self, path: &Path) -> bool {
        path.root == Root::Args && self.dead.contains(&&*path.steps_text())
    }

    fn follow(&self, path: &Path) -> Found {
        match self.lead(path) {
            Found::Sure(_) if self.is_dead(path) => Found::Unknown,
            found => found,
        }
    }

    /// Where it leads, whatever tools say.
    fn lead(&self, path: &Path) -> Found {
        let text = |text: &str| Some(Plain::Text(text.to_owned()));
        let root = match path.root {
            Root::Args | Root::Now if self.open => return Found::Open,
            Root::Variable(at) => match self.variables.get(usize::from(at)) {
                Some(Found::Open) => return Found::Open,
                Some(Found::Sure(value)) => Some(value.clone()),
                Some(Found::Unknown) | None => None,
            },
            Root::Args => self.args.clone(),
            Root::Claims => self.claims.clone(),
            Root::Subject => text(&self.facts.caller.subject),
            Root::Agent => self.facts.caller.agent.as_deref().and_then(text),
            Root::Issuer => text(&self.facts.caller.issuer),
            Root::Task => self.facts.task.and_then(text),
            Root::Tool => Some(self.facts.tool).filter(|tool| !tool.is_empty()).and_then(text),
            Root::Server => text(self.facts.server),
            Root::Now => Some(Plain::Number(Decimal::of(self.facts.now_s))),
        };
        let end = path.steps.iter().try_fold(root, |value, step| {
            Some(match (value?, step) {
                (Plain::Object(mut all), Step::Name(name)) => all.remove(&**name),
                (Plain::List(all), Step::Index(at)) => all.into_iter().nth(usize::try_from(*at).ok()?),
                _ => None,
            })
        });
        end.flatten().map_or(Found::Unknown, Found::Sure)
    }
}

const ALL: Truths = Truths(0b111);

fn only(truth: Truth) -> Truths {
    Truths(1 << truth as u8)
}

/// Each of the one with each of the other.
fn pairwise(one: Truths, other: Truths, with: impl Fn(Truth, Truth) -> Truth) -> Truths {
    let each = |set: Truths| [Truth::True, Truth::False, Truth::Unknown].into_iter().filter(move |it| set.has(*it));
    Truths(
        each(one)
            .flat_map(|one| each(other).map(move |other| (one, other)))
            .fold(0, |set, (one, other)| set | only(with(one, other)).0),
    )
}

fn not(truth: Truth) -> Truth {
    match truth {
        Truth::True => Truth::False,
        Truth::False => Truth::True,
        Truth::Unknown => Truth::Unknown,
    }
}

fn joined(logic: Logic) -> impl Fn(Truth, Truth) -> Truth {
    let strong = if logic == Logic::And { Truth::False } else { Truth::True };
    move |one, other| match (one, other) {
        _ if one == strong || other == strong => strong,
        _ if one == Truth::Unknown || other == Truth::Unknown => Truth::Unknown,
        _ => one,
    }
}

/// The values if all are there; else what is said of it.
fn sure<const N: usize>(found: &[Found; N]) -> Result<[&Plain; N], Found> {
    if found.iter().any(|one| matches!(one, Found::Unknown)) {
        return Err(Found::Unknown);
    }
    let values: Vec<&Plain> =
        found.iter().filter_map(|one| if let Found::Sure(it) = one { Some(it) } else { None }).collect();
    values.try_into().map_err(|_| Found::Open)
}

/// Whether the two are the same, if that can be told.
fn is_same(one: &Plain, other: &Plain, written_null: bool) -> Option<bool> {
    (written_null || one.is_like(other)).then(|| one == other)
}

fn is_null(kind: &Kind) -> bool {
    matches!(kind, Kind::Literal(Literal::Null))
}

fn written(literal: &Literal) -> Option<Plain> {
    Some(match literal {
        Literal::Null => Plain::Null,
        Literal::Bool(value) => Plain::Bool(*value),
        Literal::Number(text) => Plain::Number(Decimal::read(text)?),
        Literal::Text(text) => Plain::Text(text.to_string()),
        Literal::List(all) => Plain::List(all.iter().map(written).collect::<Option<_>>()?),
    })
}

fn pieces(text: &str, separator: &str) -> Vec<Plain> {
    text.split(separator).map(|piece| Plain::Text(piece.to_owned())).collect()
}

// ---- functions ------------------------------------------------------------------------------------------------
fn is_under(path: &str, root: &str) -> Option<bool> {
    Some(resolved(path)?.starts_with(&resolved(root)?))
}

/// The segments of a path that says the same to everybody.
fn resolved(path: &str) -> Option<Vec<&str>> {
    let lower = path.to_ascii_lowercase();
    if !path.starts_with('/') || ["\\", "\0", "%2e", "%2f", "%5c"].iter().any(|part| lower.contains(part)) {
        return None;
    }
    let mut segments = Vec::new();
    for segment in path.split('/') {
        match segment {
            "" | "." => {}
            ".." => drop(segments.pop()),
            segment => segments.push(segment),
        }
    }
    Some(segments)
}

fn is_in_network(text: &str, network: &str) -> Option<bool> {
    let address = text.parse().ok()?;
    let (first, length) = match network.split_once('/') {
        Some((first, length)) => (first.parse().ok()?, Some(length.parse::<usize>().ok()?)),
        None => (network.parse().ok()?, None),
    };
    let (plain, mut bits) = (binary(first, false), binary(first, true));
    let length = length.unwrap_or(plain.len() - 2);
    let gone = plain.len() - bits.len();
    if length < gone {
        // It counts fewer bits than lead to IPv4.
        bits = plain;
        bits.truncate(2 + length);
    } else {
        bits.truncate(2 + length - gone);
    }
    Some(binary(address, true).starts_with(&bits))
}

/// The kind of an address and its bits; `inner`: an IPv4 address inside an IPv6 one is that.
fn binary(address: IpAddr, inner: bool) -> String {
    let bits: String = match address {
        IpAddr::V4(address) => address.octets().iter().map(|byte| format!("{byte:08b}")).collect(),
        IpAddr::V6(address) => address.octets().iter().map(|byte| format!("{byte:08b}")).collect(),
    };
    match bits.strip_prefix(&format!("{}{}", "0".repeat(80), "1".repeat(16))) {
        Some(rest) if inner && bits.len() == 128 => format!("4:{rest}"),
        _ => format!("{}:{bits}", if bits.len() == 32 { '4' } else { '6' }),
    }
}

fn part_of_url(part: UrlPart, text: &str) -> Option<Plain> {
    if text.contains(|letter: char| letter == '\\' || letter.is_whitespace() || letter.is_control()) {
        return None;
    }
    let (scheme, rest) = text.split_once(':')?;
    // What is no scheme at the front of a text makes it no URL by itself.
    let scheme = Url::parse(&format!("{scheme}:x")).ok()?.scheme().to_owned();
    let default = Url::parse(&format!("{scheme}://x")).ok()?.port_or_known_default();
    let authority = rest.strip_prefix("//").map(|rest| rest.split(['/', '?', '#']).next().unwrap_or_default());
    let (host, port) = match authority {
        None | Some("") if default.is_none() => (None, None),
        None | Some("") => return None,
        Some(authority) if authority.contains('@') || authority.len() > URL_AUTHORITY_BYTES_MAX => return None,
        Some(authority) => {
            // As one of a scheme with names for hosts, and as one of a scheme without a port of its own.
            let named = Url::parse(&format!("http://{authority}")).ok()?;
            let opaque = Url::parse(&format!("x://{authority}")).ok()?;
            (Some(host_of(&named)?), opaque.port().or(default))
        }
    };
    match part {
        UrlPart::Scheme => Some(Plain::Text(scheme)),
        UrlPart::Host => host.map(Plain::Text),
        UrlPart::Port => port.map(|port| Plain::Number(Decimal::of(port.into()))),
    }
}

fn host_of(url: &Url) -> Option<String> {
    let host = url.host_str()?;
    if let Some(address) = host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
        let address: std::net::Ipv6Addr = address.parse().ok()?;
        return Some(address.to_ipv4_mapped().map_or_else(|| address.to_string(), |inner| inner.to_string()));
    }
    let host = host.strip_suffix('.').unwrap_or(host);
    (!host.split('.').any(str::is_empty)).then(|| host.to_owned())
}

fn part_of_time(part: TimePart, zone: &str, now_s: u64) -> Option<u64> {
    let moment = jiff::Timestamp::from_second(i64::try_from(now_s).ok()?).ok()?.in_tz(zone).ok()?;
    let format = match part {
        TimePart::Hour => "%H",
        TimePart::Weekday => "%u",
    };
    moment.strftime(format).to_string().parse().ok()
}
