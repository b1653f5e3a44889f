//! Conditions against what tools say of their arguments (JSON Schema 2020-12, as `inputSchema` of MCP has it): a path
//! that none of a rule's tools has is unknown whatever a call brings, and is reported.
//!
//! A schema is read with good will: where it leaves open what there may be (no `properties`, a pattern for names, a
//! reference that leads nowhere), everything may be there.

use std::collections::BTreeSet;
use std::sync::Arc;

use foldhash::{HashMap, HashMapExt};
use serde_json::Value;

use super::cond::ast::{Compare, Expr, Kind, Literal, Path, Root, Step, is_name};
use super::cond::{Condition, Dead, nearest};
use super::limit::{Limit, Party, What};
use super::rule::{PolicySet, Rule};
use super::table::{Members, Names, Place};
use crate::base::ids::{RuleId, ServerId};
use crate::base::limits::{ARGUMENTS_COMPARED_MAX, MISFITS_MAX, NAME_BYTES_MAX, SCHEMA_STEPS_MAX};
use crate::mcp::catalog::{Catalog, Item, ListKind};
use crate::mcp::revision::Era;

/// An argument that a condition asks for in vain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Misfit {
    /// Whose condition.
    pub rule: RuleId,
    /// Which of its conditions.
    pub place: Place,
    /// Where in it, in characters counted from 1.
    pub column: usize,
    /// The path, as written: `args.amount`.
    pub path: Box<str>,
    /// What is wrong with it.
    pub fault: Unfit,
    /// Which argument was probably meant, as a question; empty where none is near.
    pub hint: Box<str>,
}

/// Why an argument is asked for in vain.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unfit {
    /// None of the rule's tools has it.
    #[error("none of this rule's tools has this argument")]
    Absent,
    /// All tools that have it say that it is something else.
    #[error("the tools of this rule say that this is no {0}")]
    Type(&'static str),
}

impl Place {
    /// The condition there; `None` where there is none.
    #[must_use]
    pub fn condition(self, rule: &Rule) -> Option<&Condition> {
        let entry = |at: u16| rule.limits.get(usize::from(at));
        match self {
            Self::When => rule.when.as_deref(),
            Self::Counted(at) => match &entry(at)?.what {
                What::Sum { of: value, .. } | What::Once { value, .. } | What::After { same: Some(value), .. } => {
                    Some(value)
                }
                What::Calls { .. } | What::Concurrent { .. } | What::After { same: None, .. } => None,
            },
            Self::By(at, part) => match entry(at)?.by.0.get(usize::from(part))? {
                Party::Arg(value) => Some(value),
                _ => None,
            },
        }
    }
}

impl std::fmt::Display for Place {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::When => f.write_str("when"),
            Self::Counted(at) => write!(f, "limits[{at}]"),
            Self::By(at, part) => write!(f, "limits[{at}].by[{part}]"),
        }
    }
}

/// What all rules ask for in vain: the paths that are unknown, and what is to be told.
pub(super) type Checked = (HashMap<(RuleId, Place), Dead>, Vec<Misfit>);

/// Checks every condition of a policy. What tools of servers lack that nobody has looked at yet, nobody can tell: of rules
/// about such servers nothing is told. `members`: which numbers each rule is about, by its place in `sets`.
pub(super) fn check(
    set: &PolicySet,
    names: &Names,
    (servers, catalog): (&[Arc<str>], &Catalog),
    sets: &[Members],
    members: &[u32],
) -> Checked {
    let mut check = Check { names, catalog, schemas: HashMap::new(), known: HashMap::new() };
    let (mut dead, mut misfits) = (HashMap::new(), Vec::new());
    for (number, rule) in set.rules().iter().enumerate() {
        let id = RuleId::from_index(number);
        each_condition(rule, &mut |place, condition| {
            if !condition.reads_args() {
                return;
            }
            let own = &sets[members[number] as usize];
            let (lost, found) = check.condition(members[number], own, condition);
            if lost != 0 {
                dead.insert((id, place), lost);
            }
            if found.is_empty() || misfits.len() == MISFITS_MAX || !is_known(rule, servers, catalog) {
                return;
            }
            for (column, steps, fault) in found.into_iter().take(MISFITS_MAX - misfits.len()) {
                let path = Path { root: Root::Args, steps };
                let hint = if fault == Unfit::Absent { check.hint(own, &path.steps) } else { Box::default() };
                let path = format!("args{}", path.steps_text()).into();
                misfits.push(Misfit { rule: id, place, column, path, fault, hint });
            }
        });
    }
    (dead, misfits)
}

/// Whether it is known what all servers offer that a rule is about.
fn is_known(rule: &Rule, servers: &[Arc<str>], catalog: &Catalog) -> bool {
    let unknown = |(at, _): &(usize, &Arc<str>)| !catalog.known(ServerId::from_index(*at));
    let mut unknown = servers.iter().enumerate().filter(unknown);
    !unknown.any(|(_, name)| rule.patterns.iter().any(|pattern| pattern.has_server(name)))
}

fn each_condition(rule: &Rule, see: &mut dyn FnMut(Place, &Condition)) {
    if let Some(when) = &rule.when {
        see(Place::When, when);
    }
    for (at, Limit { what, by }) in (0..).zip(&rule.limits) {
        match what {
            What::Sum { of: value, .. } | What::Once { value, .. } | What::After { same: Some(value), .. } => {
                see(Place::Counted(at), value);
            }
            What::Calls { .. } | What::Concurrent { .. } | What::After { same: None, .. } => {}
        }
        for (part, party) in (0..).zip(&by.0) {
            if let Party::Arg(value) = party {
                see(Place::By(at, part), value);
            }
        }
    }
}

/// What a number's arguments are said to be.
enum Said {
    /// Of a tool, by its schema.
    Schema(Value),
    /// Of a prompt: these texts.
    Names(Vec<Box<str>>),
    /// Nothing is said.
    Open,
    /// It has none.
    None,
}

/// Whether a path is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum There {
    No,
    /// Of a type that is not this one.
    Otherwise,
    Yes,
}

type Told = (usize, Vec<Step>, Unfit);

struct Check<'a> {
    names: &'a Names,
    catalog: &'a Catalog,
    schemas: HashMap<usize, Said>,
    /// By the set of numbers, path and type: paths are looked up once, however many rules ask for them.
    known: HashMap<(u32, Vec<Step>, Option<&'static str>), There>,
}

impl Check<'_> {
    /// The paths of a condition that none of these has.
    fn condition(&mut self, set: u32, members: &Members, condition: &Condition) -> (Dead, Vec<Told>) {
        let (mut dead, mut told): (Dead, _) = (0, Vec::new());
        let mut wanted: Vec<(&Expr, Option<&'static str>)> = Vec::new();
        condition.ast().walk(&mut |expr| wants(expr, &mut wanted));
        for (expr, kind) in wanted {
            let Some(path) = expr.path().filter(|path| path.root == Root::Args) else { continue };
            let text = path.steps_text();
            let Some(place) = condition.arg_paths().iter().position(|path| **path == *text) else { continue };
            let key = (set, path.steps.clone(), kind);
            let there = match self.known.get(&key) {
                Some(there) => *there,
                None => {
                    let there = self.any(members, &path.steps, kind);
                    self.known.insert(key, there);
                    there
                }
            };
            let fault = match (there, kind) {
                (There::Yes, _) | (There::Otherwise, None) => continue,
                (There::No, _) => {
                    // Where it is wanted as two things, it is missing once.
                    if dead >> place & 1 == 1 {
                        continue;
                    }
                    dead |= 1 << place;
                    Unfit::Absent
                }
                (There::Otherwise, Some(kind)) => Unfit::Type(kind),
            };
            let before = condition.text().get(..expr.span.start as usize).unwrap_or_default();
            let column = before.chars().count() + 1;
            told.push((column, path.steps.clone(), fault));
        }
        (dead, told)
    }

    /// Whether any of these has the path; yes, where none of them has arguments at all.
    fn any(&mut self, members: &Members, steps: &[Step], kind: Option<&'static str>) -> There {
        let (mut found, mut any) = (There::No, false);
        members.each(|number| {
            if found == There::Yes {
                return;
            }
            let said = self.schemas.entry(number).or_insert_with(|| said(self.names, self.catalog, number));
            let there = match said {
                Said::None => return,
                Said::Open => There::Yes,
                Said::Names(names) => match steps {
                    [Step::Name(name)] if names.contains(name) => match kind {
                        None | Some("string") => There::Yes,
                        Some(_) => There::Otherwise,
                    },
                    _ => There::No,
                },
                Said::Schema(schema) => Look { root: schema, left: SCHEMA_STEPS_MAX }.path(schema, steps, kind),
            };
            any = true;
            if there != There::No {
                found = there;
            }
        });
        if any { found } else { There::Yes }
    }
}

impl Check<'_> {
    /// What was probably meant by a path that none of these has: the first step that leads nowhere is compared with the
    /// names that there are.
    fn hint(&mut self, members: &Members, steps: &[Step]) -> Box<str> {
        for length in 1..=steps.len() {
            if self.any(members, &steps[..length], None) != There::No {
                continue;
            }
            let (before, Step::Name(written)) = (&steps[..length - 1], &steps[length - 1]) else { break };
            let mut names = BTreeSet::new();
            members.each(|number| match self.schemas.get(&number) {
                Some(Said::Schema(schema)) => {
                    Look { root: schema, left: SCHEMA_STEPS_MAX }.names(schema, before, &mut names);
                }
                Some(Said::Names(all)) if before.is_empty() => all.iter().for_each(|name| put(&mut names, name)),
                _ => {}
            });
            return nearest(written, names).into();
        }
        Box::default()
    }
}

/// Adds a name that can be shown as it is, where there is room: servers chose it.
fn put<'n>(names: &mut BTreeSet<&'n str>, name: &'n str) {
    if names.len() < ARGUMENTS_COMPARED_MAX && name.len() <= NAME_BYTES_MAX && is_name(name) {
        names.insert(name);
    }
}

/// The arguments of an expression, and what they are wanted as, where that is one thing.
fn wants<'e>(expr: &'e Expr, out: &mut Vec<(&'e Expr, Option<&'static str>)>) {
    let mut typed = |one: &'e Expr, kind| {
        if let Kind::Path(_) = one.kind {
            out.push((one, Some(kind)));
        }
    };
    match &expr.kind {
        Kind::Compare(Compare::Equal | Compare::NotEqual, one, other) => {
            for (one, other) in [(one, other), (other, one)] {
                let kind = match &other.kind {
                    Kind::Literal(Literal::Number(_)) => "number",
                    Kind::Literal(Literal::Text(_)) => "string",
                    Kind::Literal(Literal::Bool(_)) => "boolean",
                    _ => continue,
                };
                typed(one, kind);
            }
        }
        Kind::Compare(_, one, other) | Kind::Arithmetic(_, one, other) => {
            typed(one, "number");
            typed(other, "number");
        }
        Kind::Negate(one) => typed(one, "number"),
        Kind::Text(_, one, other) => {
            typed(one, "string");
            typed(other, "string");
        }
        Kind::Matches(one, _) | Kind::Split(one, _) | Kind::Piece(one, ..) | Kind::Url(_, one) | Kind::IpIn(one, _) => {
            typed(one, "string");
        }
        Kind::Each(_, one, ..) => typed(one, "array"),
        Kind::Path(_) | Kind::Has(_) => out.push((expr, None)),
        _ => {}
    }
}

/// What is said of the arguments of a number.
fn said(names: &Names, catalog: &Catalog, number: usize) -> Said {
    let Some((server, kind, name)) = names.entry(number) else { return Said::None };
    let item = |era| find(catalog, server, kind, era, name);
    // Where a server is known in both eras, the newer one says it.
    let Some(item) = item(Era::Modern).or_else(|| item(Era::Legacy)) else { return Said::Open };
    let Ok(Value::Object(mut definition)) = serde_json::from_slice(&item.raw) else { return Said::Open };
    if kind == ListKind::Tools {
        return definition.remove("inputSchema").map_or(Said::Open, Said::Schema);
    }
    // A prompt that says nothing of its arguments may take any: it has no schema that would rule one out.
    let Some(names) = definition.get("arguments").and_then(Value::as_array) else { return Said::Open };
    Said::Names(names.iter().filter_map(|argument| argument.get("name")?.as_str()).map(Into::into).collect())
}

fn find<'a>(catalog: &'a Catalog, server: ServerId, kind: ListKind, era: Era, name: &str) -> Option<&'a Item> {
    match kind {
        ListKind::Tools => catalog.tool_item(server, era, name),
        _ => catalog.prompt_item(server, era, name),
    }
}

/// A way through one schema, of so many steps at most: references may go in circles.
struct Look<'a> {
    root: &'a Value,
    left: usize,
}

impl<'a> Look<'a> {
    /// Whether a schema has a path, and there may be such a value.
    fn path(&mut self, schema: &'a Value, steps: &[Step], kind: Option<&'static str>) -> There {
        let mut all = Vec::new();
        if !self.parts(schema, &mut all) {
            return There::Yes;
        }
        let Some((step, rest)) = steps.split_first() else {
            let types: Vec<&Value> = all.iter().filter_map(|part| part.get("type")).collect();
            let may_be = |kind: &str| types.is_empty() || types.iter().any(|types| allows(types, kind));
            return if kind.is_none_or(may_be) { There::Yes } else { There::Otherwise };
        };
        let container = if let Step::Name(_) = step { "object" } else { "array" };
        if all.iter().filter_map(|part| part.get("type")).any(|types| !allows(types, container)) {
            return There::No;
        }
        let (mut named, mut best) = (false, There::No);
        for part in all {
            let next = match step {
                Step::Name(name) => {
                    let more = part.get("additionalProperties").is_some_and(|more| *more != Value::Bool(false));
                    if more || part.get("patternProperties").is_some() {
                        return There::Yes;
                    }
                    let Some(properties) = part.get("properties") else { continue };
                    named = true;
                    properties.get(&**name)
                }
                Step::Index(at) => {
                    let first = part.get("prefixItems").and_then(Value::as_array);
                    let at = usize::try_from(*at).unwrap_or(usize::MAX);
                    let next = first.and_then(|first| first.get(at)).or_else(|| part.get("items"));
                    named |= next.is_some();
                    next
                }
            };
            match next.map_or(There::No, |next| self.path(next, rest, kind)) {
                There::Yes => return There::Yes,
                There::Otherwise => best = There::Otherwise,
                There::No => {}
            }
        }
        if named { best } else { There::Yes }
    }

    /// The names that are said to be where a path leads.
    fn names(&mut self, schema: &'a Value, steps: &[Step], out: &mut BTreeSet<&'a str>) {
        let mut all = Vec::new();
        if !self.parts(schema, &mut all) {
            return;
        }
        for part in all {
            let properties = part.get("properties").and_then(Value::as_object);
            let (next, rest) = match steps.split_first() {
                None => {
                    properties.into_iter().flat_map(|all| all.keys()).for_each(|name| put(out, name));
                    continue;
                }
                Some((Step::Name(name), rest)) => (properties.and_then(|all| all.get(&**name)), rest),
                Some((Step::Index(_), rest)) => (part.get("items"), rest),
            };
            next.into_iter().for_each(|next| self.names(next, rest, out));
        }
    }

    /// The schema with all that it is put together from; false where that cannot be told, and where anything goes.
    fn parts(&mut self, schema: &'a Value, out: &mut Vec<&'a Value>) -> bool {
        let Some(left) = self.left.checked_sub(1) else { return false };
        self.left = left;
        let Value::Object(members) = schema else { return false };
        if members.contains_key("$dynamicRef") || members.contains_key("$recursiveRef") || members.contains_key("not") {
            return false;
        }
        out.push(schema);
        if let Some(target) = members.get("$ref") {
            let target = target.as_str().and_then(|target| target.strip_prefix('#'));
            let Some(found) = target.and_then(|target| self.root.pointer(&unescaped(target))) else { return false };
            if !self.parts(found, out) {
                return false;
            }
        }
        let lists = ["allOf", "anyOf", "oneOf"].into_iter().filter_map(|word| members.get(word)?.as_array()).flatten();
        let single = ["then", "else"].into_iter().filter_map(|word| members.get(word));
        let dependent = members.get("dependentSchemas").and_then(Value::as_object);
        let parts: Vec<&Value> =
            lists.chain(single).chain(dependent.into_iter().flat_map(|all| all.values())).collect();
        parts.into_iter().all(|part| self.parts(part, out))
    }
}

/// Whether a `type` lets such a value be.
fn allows(types: &Value, kind: &str) -> bool {
    let is = |one: &Value| match one.as_str() {
        Some("integer") => kind == "number",
        Some(word) => word == kind,
        None => true,
    };
    types.as_array().map_or_else(|| is(types), |list| list.iter().any(is))
}

/// A fragment as a JSON pointer: without the escapes of URIs.
fn unescaped(fragment: &str) -> String {
    let mut bytes = Vec::with_capacity(fragment.len());
    let mut rest = fragment.as_bytes();
    while let [first, tail @ ..] = rest {
        let digits = tail.get(..2).and_then(|digits| std::str::from_utf8(digits).ok());
        match digits.filter(|_| *first == b'%').and_then(|digits| u8::from_str_radix(digits, 16).ok()) {
            Some(byte) => {
                bytes.push(byte);
                rest = &tail[2..];
            }
            None => {
                bytes.push(*first);
                rest = tail;
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::identity::active::TaskNames;
    use crate::identity::caller::Caller;
    use crate::mcp::catalog::{EraCatalog, Listing, ServerCatalog};
    use crate::mcp::revision::Revision;
    use crate::policy::cond::{ClaimTypes, Facts, Purpose, Truth};
    use crate::policy::pattern::Pattern;
    use crate::policy::table::Table;

    const SCHEMA: &str = r##"{
        "type": "object",
        "properties": {
            "amount": { "type": "number" },
            "count": { "type": ["integer", "null"] },
            "to": { "$ref": "#/$defs/to%20whom" },
            "lines": { "type": "array", "items": { "type": "object", "properties": { "price": {} } } },
            "pair": { "prefixItems": [{ "type": "string" }], "items": { "type": "number" } },
            "open": { "type": "object" },
            "more": { "properties": { "a": {} }, "additionalProperties": { "type": "string" } },
            "either": { "anyOf": [{ "properties": { "a": {} } }, { "properties": { "b": { "type": "string" } } }] },
            "loop": { "$ref": "#/properties/loop" },
            "lost": { "$ref": "#/nowhere" },
            "any": true
        },
        "$defs": { "to whom": { "type": "object", "properties": { "name": { "type": "string" } } } }
    }"##;

    /// What is dead of a condition, where a tool has these arguments.
    fn dead(condition: &str, has: &[&str]) -> Vec<String> {
        use std::sync::Arc;

        use crate::identity::active::TaskNames;
        use crate::mcp::catalog::{EraCatalog, Listing, ServerCatalog};
        use crate::mcp::revision::Revision;
        use crate::policy::cond::{ClaimTypes, Purpose};
        use crate::policy::pattern::Pattern;
        use crate::policy::table::Table;

        let properties: serde_json::Map<_, _> =
            has.iter().map(|name| ((*name).to_owned(), Value::Bool(true))).collect();
        let definition = serde_json::json!({ "inputSchema": { "type": "object", "properties": properties } });
        let tool = Item { raw: definition.to_string().into_bytes().into(), ..Item::named("t") };
        let tools = Listing { items: vec![tool], ..Listing::default() };
        let era = EraCatalog {
            events: false,
            protocol: Revision::NEWEST,
            capabilities: Value::Null,
            server_info: None,
            instructions: None,
            lists: [Some(tools), None, None, None],
        };
        let server = ServerCatalog { modern: Some(era), ..ServerCatalog::default() };
        let when = Arc::new(Condition::parse(condition, Purpose::When, &ClaimTypes::default()).expect(condition));
        let patterns = vec![Pattern::parse("s/t").unwrap()];
        let rule = Rule { patterns, when: Some(Arc::clone(&when)), ..Rule::default() };
        let set = Arc::new(PolicySet::with_rates(TaskNames::new([""; 0]), vec![rule], Vec::new()));
        let (table, _) = Table::compile(&set, &[Arc::from("s")], &Catalog::build(vec![Some(server)]));
        let dead = table.dead(RuleId(0), Place::When);
        let is_dead = |at: &usize| dead >> at & 1 == 1;
        let paths = when.arg_paths();
        (0..64).filter(is_dead).map(|at| paths.get(at).map_or("?", |path| &path[1..]).to_owned()).collect()
    }

    #[test]
    fn the_path_that_no_tool_has_is_the_dead_one() {
        for condition in [
            "size(args.a) <= args.b || !has(args.a)",
            "args.a.split(\"/\")[0].startsWith(args.b)",
            "-args.a * args.b > 0",
            "size(args.a) + size(args.b) < args.c",
            "args.a == 1 && args.b == \"x\" || args.c.all(c, c == args.a)",
            "args.a in args.b && url(args.c).host == args.a",
        ] {
            let all: Vec<&str> =
                ["a", "b", "c"].into_iter().filter(|name| condition.contains(&format!("args.{name}"))).collect();
            let mut lost = dead(condition, &[]);
            lost.sort_unstable();
            assert_eq!(lost, all, "{condition}");
            for absent in &all {
                let has: Vec<&str> = all.iter().copied().filter(|name| name != absent).collect();
                assert_eq!(dead(condition, &has), [*absent], "{condition}");
            }
            assert!(dead(condition, &all).is_empty());
        }
    }

    #[test]
    fn what_a_schema_has() {
        let schema: Value = serde_json::from_str(SCHEMA).unwrap();
        let check = |path: &str, kind: Option<&'static str>, want: There| {
            let step = |word: &str| word.parse().map_or_else(|_| Step::Name(word.into()), Step::Index);
            let steps: Vec<Step> = path.split('.').map(step).collect();
            let got = Look { root: &schema, left: SCHEMA_STEPS_MAX }.path(&schema, &steps, kind);
            assert_eq!(got, want, "{path} as {kind:?}");
        };
        for (path, kind, want) in [
            ("amount", None, There::Yes),
            ("amount", Some("number"), There::Yes),
            ("amount", Some("string"), There::Otherwise),
            ("Amount", None, There::No),
            ("amount.x", None, There::No),
            ("amount.0", None, There::No),
            ("count", Some("number"), There::Yes),
            ("count", Some("boolean"), There::Otherwise),
            ("to.name", Some("string"), There::Yes),
            ("to.nam", None, There::No),
            ("to.name", Some("array"), There::Otherwise),
            ("lines.0.price", Some("number"), There::Yes),
            ("lines.0.cost", None, There::No),
            ("lines.price", None, There::No),
            ("pair.0", Some("number"), There::Otherwise),
            ("pair.1", Some("number"), There::Yes),
            ("open.what.ever.0", Some("number"), There::Yes),
            ("more.b", None, There::Yes),
            ("either.a", None, There::Yes),
            ("either.b", Some("string"), There::Yes),
            ("either.c", None, There::No),
            ("loop.x", None, There::Yes),
            ("lost.x", None, There::Yes),
            ("any.x", None, There::Yes),
        ] {
            check(path, kind, want);
        }
    }

    /// A policy of one permit, on a server that is known and one that may be.
    fn compiled(patterns: &[&str], when: &str, late: Option<&str>) -> Table {
        let tool = |schema: &str| {
            let raw = format!("{{\"name\":\"work\",\"inputSchema\":{schema}}}");
            Item { raw: raw.into_bytes().into(), ..Item::named("work") }
        };
        let offers = |schema: &str| {
            let list = Some(Listing { items: vec![tool(schema)], ..Listing::default() });
            let era = EraCatalog {
                events: false,
                protocol: Revision::NEWEST,
                capabilities: serde_json::json!({}),
                server_info: None,
                instructions: None,
                lists: [list, None, None, None],
            };
            ServerCatalog { modern: Some(era), ..ServerCatalog::default() }
        };
        let known = r#"{"properties":{"safe":{"type":"boolean"},"to":{"properties":{"name":{}}},"\u001b[31m":{}}}"#;
        let catalog = Catalog::build(vec![Some(offers(known)), late.map(offers)]);
        let rule = Rule {
            id: "r".into(),
            patterns: patterns.iter().map(|text| Pattern::parse(text).unwrap()).collect(),
            when: Some(Arc::new(Condition::parse(when, Purpose::When, &ClaimTypes::default()).unwrap())),
            ..Rule::default()
        };
        let set = Arc::new(PolicySet::new(TaskNames::default(), vec![rule]));
        Table::compile(&set, &["up".into(), "late".into()], &catalog).0
    }

    /// What is told, and what a call that sends all of it comes to.
    #[test]
    fn from_a_policy_to_a_misfit_and_a_dead_bit() {
        let call = |table: &Table, args: &str| {
            let caller = Caller::anonymous();
            let facts =
                Facts { caller: &caller, args: Some(args.as_bytes()), task: None, tool: "", server: "", now_s: 0 };
            let rule = RuleId::from_index(0);
            table.set().rule(rule).when.as_ref().unwrap().truth(&facts, table.dead(rule, Place::When))
        };
        let check = |patterns: &[&str], when: &str, late: Option<&str>, told: &[(usize, &str, Unfit, &str)], truth| {
            let table = compiled(patterns, when, late);
            let got: Vec<_> = table.misfits().iter().map(|it| (it.column, &*it.path, it.fault, &*it.hint)).collect();
            assert_eq!(got, told, "{when}");
            let args = r#"{"safe":true,"saef":true,"to":{"name":"a","nam":"a"},"other":1}"#;
            assert_eq!(call(&table, args), truth, "{when}");
        };
        let (up, both): (&[&str], &[&str]) = (&["up/work"], &["up/work", "late/*"]);
        let hint = "did you mean `safe`?";
        check(up, "args.safe == true", None, &[], Truth::True);
        check(up, "args.saef == true", None, &[(1, "args.saef", Unfit::Absent, hint)], Truth::Unknown);
        let nested = [(22, "args.to.nam", Unfit::Absent, "did you mean `name`?")];
        check(up, "args.safe == true && args.to.nam == \"a\"", None, &nested, Truth::Unknown);
        check(up, "args.safe == true || args.other == 1", None, &[(22, "args.other", Unfit::Absent, "")], Truth::True);
        check(up, "args.safe == 1", None, &[(1, "args.safe", Unfit::Type("number"), "")], Truth::Unknown);
        // Nobody knows yet what the other one has; what is known lacks it.
        check(both, "args.other == 1", None, &[], Truth::Unknown);
        check(both, "args.other == 1", Some(r#"{"properties":{"other":{}}}"#), &[], Truth::True);
        let none = [(1, "args.other", Unfit::Absent, "")];
        check(both, "args.other == 1", Some(r#"{"properties":{"mine":{}}}"#), &none, Truth::Unknown);
    }
}
