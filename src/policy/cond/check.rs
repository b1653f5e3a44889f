//! What cannot fit is found when a condition is loaded: types of what is written and declared, patterns, networks, zones.

use super::ast::{Compare, Expr, Kind, Literal, Path, Root, Step, TextTest};
use super::fault::{Fault, fault};
use super::parse::too_deep;
use super::path::under;
use super::{ClaimType, ClaimTypes, Number, Purpose};
use crate::base::limits::COND_DEPTH_MAX;

/// Whether this can come to what it is for.
pub(super) fn check(expr: &Expr, text: &str, purpose: Purpose, claims: &ClaimTypes) -> Result<(), Fault> {
    let mut checker = Checker { text, claims, variables: Vec::new(), depth: 0 };
    match purpose {
        Purpose::Who | Purpose::When => checker.truth(expr),
        Purpose::Sum => checker.number(expr),
        Purpose::Claim => match &expr.kind {
            Kind::Path(Path { root: Root::Claims, steps }) if !steps.is_empty() => checker.ty(expr).map(drop),
            _ => Err(fault(start(expr), "a path of a claim must stand here", "write claims.name")),
        },
        Purpose::Value => match checker.ty(expr)? {
            Type::Pieces => Err(fault(start(expr), "what `split` makes is not a value by itself", PIECES)),
            _ => Ok(()),
        },
    }
}

/// What can be told of a value before there is one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Type {
    Any,
    Null,
    Bool,
    Number,
    Text,
    /// Of anything; and of one kind.
    List,
    Bools,
    Numbers,
    Texts,
    /// What `split` makes.
    Pieces,
    Object,
}

impl Type {
    fn name(self) -> &'static str {
        match self {
            Self::Any => "anything",
            Self::Null => "null",
            Self::Bool => "true or false",
            Self::Number => "a number",
            Self::Text => "a text",
            Self::List => "a list",
            Self::Bools => "a list of true and false",
            Self::Numbers => "a list of numbers",
            Self::Texts | Self::Pieces => "a list of texts",
            Self::Object => "an object",
        }
    }

    /// The type of its elements, where it is a list or may be one.
    fn element(self) -> Option<Self> {
        match self {
            Self::Any | Self::List => Some(Self::Any),
            Self::Bools => Some(Self::Bool),
            Self::Numbers => Some(Self::Number),
            Self::Texts | Self::Pieces => Some(Self::Text),
            Self::Null | Self::Bool | Self::Number | Self::Text | Self::Object => None,
        }
    }

    /// Whether a value of this type can be the same as one of the other, or is told from it by a written null.
    fn fits(self, other: Self) -> bool {
        let loose = |one: Self, other: Self| one == Self::List && other.element().is_some();
        self == other
            || matches!(self, Self::Any | Self::Null)
            || matches!(other, Self::Any | Self::Null)
            || loose(self, other)
            || loose(other, self)
    }
}

fn start(expr: &Expr) -> usize {
    expr.span.start as usize
}

struct Checker<'c> {
    text: &'c str,
    claims: &'c ClaimTypes,
    variables: Vec<Type>,
    depth: usize,
}

impl Checker<'_> {
    fn truth(&mut self, expr: &Expr) -> Result<(), Fault> {
        match self.ty(expr)? {
            Type::Any | Type::Bool => Ok(()),
            other => {
                let problem = format!("`{}` is {}, where true or false is needed", self.shown(expr), other.name());
                Err(fault(start(expr), problem, "compare it with something"))
            }
        }
    }

    fn number(&mut self, expr: &Expr) -> Result<(), Fault> {
        match self.ty(expr)? {
            Type::Any | Type::Number => Ok(()),
            other => Err(self.wanted(expr, other, "a number")),
        }
    }

    /// A text, for what `needs` it.
    fn texts(&mut self, expr: &Expr) -> Result<(), Fault> {
        match self.ty(expr)? {
            Type::Any | Type::Text => Ok(()),
            other => Err(self.wanted(expr, other, "a text")),
        }
    }

    fn wanted(&self, expr: &Expr, got: Type, wanted: &str) -> Fault {
        let hint = match (wanted, got) {
            ("a number", Type::Text) => "order and + - * are for numbers; text has startsWith, matches, …",
            ("a text", Type::List | Type::Texts | Type::Pieces) => "write x in list, or list.exists(x, …)",
            _ => "",
        };
        fault(start(expr), format!("`{}` is {}, where {wanted} is needed", self.shown(expr), got.name()), hint)
    }

    fn shown(&self, expr: &Expr) -> &str {
        &self.text[start(expr)..expr.span.end as usize]
    }

    /// The type of an expression whose parts are found to fit.
    fn ty(&mut self, expr: &Expr) -> Result<Type, Fault> {
        self.depth += 1;
        if self.depth > COND_DEPTH_MAX {
            return Err(too_deep(start(expr)));
        }
        let ty = self.ty_of(expr)?;
        self.depth -= 1;
        Ok(ty)
    }

    fn ty_of(&mut self, expr: &Expr) -> Result<Type, Fault> {
        match &expr.kind {
            Kind::Literal(literal) => self.literal(literal, expr),
            Kind::Path(path) => self.path(path, expr),
            Kind::Has(path) => self.path(path, expr).map(|_| Type::Bool),
            Kind::Not(operand) => self.truth(operand).map(|()| Type::Bool),
            Kind::Negate(operand) => self.number(operand).map(|()| Type::Number),
            Kind::Logic(_, all) => all.iter().try_for_each(|one| self.truth(one)).map(|()| Type::Bool),
            Kind::Compare(Compare::Equal | Compare::NotEqual, left, right) => self.equal(left, right),
            Kind::Compare(_, left, right) => {
                self.number(left)?;
                self.number(right)?;
                Ok(Type::Bool)
            }
            Kind::In(one, list) => self.within(one, list),
            Kind::Arithmetic(_, left, right) => {
                self.number(left)?;
                self.number(right)?;
                Ok(Type::Number)
            }
            Kind::Size(of) => match self.ty(of)? {
                got @ (Type::Null | Type::Bool | Type::Number) => Err(self.wanted(of, got, "a text, list or object")),
                _ => Ok(Type::Number),
            },
            Kind::Text(test, left, right) => self.test(*test, left, right),
            Kind::Matches(of, _) | Kind::IpIn(of, _) => self.texts(of).map(|()| Type::Bool),
            Kind::Time(..) => Ok(Type::Number),
            Kind::Split(of, _) | Kind::Piece(of, ..) | Kind::Url(_, of) if matches!(of.kind, Kind::Url(..)) => {
                let hint = "write url(x).host.endsWith(\".example.com\")";
                Err(fault(start(of), "parts of a URL are not taken apart further", hint))
            }
            Kind::Split(of, _) => self.texts(of).map(|()| Type::Pieces),
            Kind::Piece(of, ..) => self.texts(of).map(|()| Type::Text),
            Kind::Each(_, list, _, body) => self.each(list, body),
            Kind::Url(part, of) => {
                self.texts(of)?;
                Ok(if *part == super::ast::UrlPart::Port { Type::Number } else { Type::Text })
            }
        }
    }

    // ---- operands ---------------------------------------------------------------------------------------------
    fn literal(&self, literal: &Literal, expr: &Expr) -> Result<Type, Fault> {
        Ok(match literal {
            Literal::Null => Type::Null,
            Literal::Bool(_) => Type::Bool,
            Literal::Text(_) => Type::Text,
            Literal::Number(text) if Number::parse(text).is_some() => Type::Number,
            Literal::Number(_) => return Err(fault(start(expr), "a number of more than 38 digits", "")),
            Literal::List(all) => {
                let mut of = Type::Null;
                for one in all {
                    let ty = match self.literal(one, expr)? {
                        list if list.element().is_some() => Type::List,
                        other => other,
                    };
                    match (of, ty) {
                        (_, Type::Null) => {}
                        (Type::Null, first) => of = first,
                        (of, other) if of.fits(other) => {}
                        (of, other) => {
                            let problem = format!("{} and {} in one list", of.name(), other.name());
                            return Err(fault(start(expr), problem, "write x in […] || x in […]"));
                        }
                    }
                }
                match of {
                    Type::Bool => Type::Bools,
                    Type::Number => Type::Numbers,
                    Type::Text => Type::Texts,
                    _ => Type::List,
                }
            }
        })
    }

    fn path(&self, path: &Path, expr: &Expr) -> Result<Type, Fault> {
        let (mut ty, mut steps) = match path.root {
            Root::Args => (Type::Object, &path.steps[..]),
            Root::Claims => self.claim(&path.steps),
            Root::Now => (Type::Number, &path.steps[..]),
            Root::Variable(place) => {
                (self.variables.get(usize::from(place)).copied().unwrap_or(Type::Any), &path.steps[..])
            }
            Root::Subject | Root::Agent | Root::Issuer | Root::Task | Root::Tool | Root::Server => {
                (Type::Text, &path.steps[..])
            }
        };
        while let Some((step, rest)) = steps.split_first() {
            let taken = Path { root: path.root, steps: path.steps[..path.steps.len() - steps.len()].to_vec() };
            ty = match (ty, step) {
                (Type::Any | Type::Object, Step::Name(_)) => Type::Any,
                (ty, Step::Index(_)) if ty.element().is_some() => ty.element().unwrap_or(Type::Any),
                (ty, step) => return Err(self.no_step(&taken, ty, step, expr)),
            };
            steps = rest;
        }
        Ok(ty)
    }

    /// The type of the longest part of these steps that is declared, and the steps behind it.
    fn claim<'s>(&self, steps: &'s [Step]) -> (Type, &'s [Step]) {
        let mut name = String::new();
        let mut found = (Type::Object, steps);
        for (place, step) in steps.iter().enumerate() {
            let Step::Name(step) = step else { break };
            if place > 0 {
                name.push('.');
            }
            name.push_str(step);
            if let Some((_, ty)) = self.claims.declared.iter().find(|(path, _)| **path == *name) {
                found = (Type::from(*ty), &steps[place + 1..]);
            }
        }
        found
    }

    fn no_step(&self, taken: &Path, ty: Type, step: &Step, expr: &Expr) -> Fault {
        let root = match taken.root {
            Root::Args => "args",
            Root::Claims => "claims",
            Root::Now => "now",
            _ => self.shown(expr).split(['.', '[', ')']).next().unwrap_or_default().trim_start_matches("has("),
        };
        let what = match step {
            Step::Name(_) => "members",
            Step::Index(_) => "elements",
        };
        let hint = match (ty.element(), ty) {
            (Some(_), _) => "write [0], or list.exists(x, …)",
            (None, Type::Object) => "write .name or [\"name\"]",
            _ => "",
        };
        let problem = format!("`{root}{}` is {}, which has no {what}", taken.steps_text(), ty.name());
        fault(start(expr), problem, hint)
    }

    // ---- operators --------------------------------------------------------------------------------------------
    fn equal(&mut self, left: &Expr, right: &Expr) -> Result<Type, Fault> {
        let types = (self.ty(left)?, self.ty(right)?);
        for (side, ty) in [(left, types.0), (right, types.1)] {
            if ty == Type::Pieces {
                return Err(fault(start(side), "what `split` makes is not compared", PIECES));
            }
        }
        if types.0.fits(types.1) {
            return Ok(Type::Bool);
        }
        let problem = format!(
            "`{}` is {}, `{}` is {}: they are never compared",
            self.shown(left),
            types.0.name(),
            self.shown(right),
            types.1.name()
        );
        let hint = match types {
            (Type::Bool, _) if matches!(left.kind, Kind::Not(_)) => "`!` binds closer: write !(a == b), or a != b",
            (one, other) if one.element().is_some() || other.element().is_some() => "write x in list",
            _ => "",
        };
        Err(fault(start(left), problem, hint))
    }

    fn within(&mut self, one: &Expr, list: &Expr) -> Result<Type, Fault> {
        let (ty, list_ty) = (self.ty(one)?, self.ty(list)?);
        if ty == Type::Pieces {
            return Err(fault(start(one), "what `split` makes is not compared", PIECES));
        }
        let Some(element) = list_ty.element() else {
            let hint = match list_ty {
                Type::Text => "write text.contains(part)",
                Type::Object => "write has(args.name)",
                _ => "",
            };
            let problem = format!("`{}` is {}, where a list is needed", self.shown(list), list_ty.name());
            return Err(fault(start(list), problem, hint));
        };
        if ty.fits(element) {
            return Ok(Type::Bool);
        }
        let problem = format!("`{}` is {}, `{}` is {}", self.shown(one), ty.name(), self.shown(list), list_ty.name());
        let hint = if ty.element().is_some() { "write list.exists(x, x in other)" } else { "" };
        Err(fault(start(one), problem, hint))
    }

    fn test(&mut self, test: TextTest, left: &Expr, right: &Expr) -> Result<Type, Fault> {
        match (test, self.ty(left)?) {
            (TextTest::Contains, ty) if ty.element().is_some() && ty != Type::Any => {
                let hint = format!("write {} in {}", self.shown(right), self.shown(left));
                let problem = format!("`{}` is {}, where a text is needed", self.shown(left), ty.name());
                return Err(fault(start(left), problem, hint));
            }
            (_, Type::Any | Type::Text) => {}
            (_, other) => return Err(self.wanted(left, other, "a text")),
        }
        self.texts(right)?;
        match (test, &right.kind) {
            (TextTest::Under, Kind::Literal(Literal::Text(root))) if under(root, root).is_none() => {
                Err(fault(start(right), "no absolute path without escapes", "write .under(\"/srv/files\")"))
            }
            _ => Ok(Type::Bool),
        }
    }

    fn each(&mut self, list: &Expr, body: &Expr) -> Result<Type, Fault> {
        let ty = self.ty(list)?;
        let Some(element) = ty.element() else {
            let problem = format!("`{}` is {}, where a list is needed", self.shown(list), ty.name());
            return Err(fault(start(list), problem, ""));
        };
        self.variables.push(element);
        self.truth(body)?;
        self.variables.pop();
        Ok(Type::Bool)
    }
}

impl From<ClaimType> for Type {
    fn from(ty: ClaimType) -> Self {
        match ty {
            ClaimType::Text => Self::Text,
            ClaimType::Number => Self::Number,
            ClaimType::Bool => Self::Bool,
            ClaimType::Texts => Self::Texts,
            ClaimType::Numbers => Self::Numbers,
            ClaimType::List => Self::List,
            ClaimType::Object => Self::Object,
        }
    }
}

const PIECES: &str = "write x in text.split(…), or take one: text.split(…)[0]";
