//! `decide` against `explain`, on policies with everything that a rule can have.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use smallvec::SmallVec;

use super::cond::{ClaimTypes, Condition, Number, Purpose};
use super::counter::Taken;
use super::decide::{Leave, Question, Scene, Verdict, concerns, decide, judge_at, listed};
use super::explain::{Explanation, Inquiry, Want, explain};
use super::limit::{By, Limit, Party, Rate, RateOf, What};
use super::needs::{CountKey, Need, NeedOf, Past, Source};
use super::pattern::Pattern;
use super::remarks::Why;
use super::rule::{AskWhom, Effect, Mode, Rule};
use super::tests::{PROMPTS, SERVERS, TASKS, TOOLS, World, entry, rated_world};
use crate::base::ids::{RuleId, ServerId, TaskId};
use crate::base::limits::RULES_NAMED_MAX;
use crate::base::span::Span;
use crate::identity::active::ActiveTask;
use crate::identity::caller::{Caller, Owner};
use crate::jsonrpc::Shape;
use crate::mcp::call::{Call, Meta, Object, Text};
use crate::mcp::catalog::ListKind;
use crate::mcp::input::Ask;
use crate::mcp::revision::Revision;

/// Triples of policy, caller and call in a common run; `PORTCULLIS_POLICY_TRIPLES` asks for more.
const TRIPLES: usize = 100_000;
/// Questions asked of one policy, one after the other: what is let go is what has happened before.
const ROUNDS: usize = 40;

/// Numbers that look drawn by lot (splitmix64).
struct Lot(u64);

impl Lot {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut word = self.0;
        word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        word ^ (word >> 31)
    }

    fn below(&mut self, count: usize) -> usize {
        usize::try_from(self.next() % count as u64).unwrap()
    }

    /// Once in so many times.
    fn rarely(&mut self, times: usize) -> bool {
        self.below(times) == 0
    }

    fn one<T: Copy>(&mut self, of: &[T]) -> T {
        of[self.below(of.len())]
    }

    fn some<T>(&mut self, most: usize, mut make: impl FnMut(&mut Self) -> T) -> Vec<T> {
        (0..self.below(most + 1)).map(|_| make(self)).collect()
    }
}

const WHENS: [&str; 26] = [
    "args.amount < 500",
    "args.amount >= 100 && args.to == \"a\"",
    "args.path.under(\"/srv\")",
    "now < 1000",
    "now >= 1000",
    "claims.level > 3",
    "claims.dept == \"eng\" && args.amount == 1",
    "has(args.to)",
    "!has(args.to)",
    "tool == \"refund\"",
    "server != \"pay\"",
    "task == \"research\"",
    "claims.groups.exists(g, g == \"ops\")",
    "args.tags.all(t, t != \"x\")",
    "true",
    "false",
    "args.to in [\"a\", \"b\"]",
    "agent == \"bot\"",
    "args.to == null",
    "claims.missing == 1",
    "claims.missing == 1 && args.amount < 5",
    "claims.level > 3 || args.amount < 5",
    "time(now, \"UTC\").hour < 12",
    "args.amount * 2 + 1 <= claims.level",
    "args.lines[0].price != args.amount",
    "!(args.to == \"a\")",
];
const WHOS: [&str; 7] = [
    "claims.level > 3",
    "\"ops\" in claims.groups",
    "agent == \"bot\"",
    "claims.missing == 1",
    "subject == \"ann\"",
    "has(claims.level)",
    "claims.level > 3 || claims.missing == 1",
];
const SUMS: [&str; 5] = ["args.amount", "args.amount * 2", "500", "args.amount - 200", "claims.level"];
const VALUES: [&str; 4] = ["args.to", "args.amount", "args.lines[0]", "args.path"];
const CLAIMS: [&str; 3] = ["claims.dept", "claims.level", "claims.missing"];
const PATTERNS: [&str; 22] = [
    "*/*",
    "*!*",
    "docs/*",
    "docs/search",
    "pay/refund",
    "pay/*",
    "*/re*",
    "*/delete_*",
    "docs!prompt:*",
    "*!prompt:review",
    "docs!resource:*",
    "*!resource:file:///pub/*",
    "*!resource:file:///secret/*",
    "pay!resource:FILE:*",
    "*a*!resource:file:*b",
    "docs!sampling",
    "*!elicitation",
    "late/*",
    "late!*",
    "*a*/*e*",
    "nobody/*",
    "docs!*",
];
const SCOPES: [&str; 3] = ["read", "write", "pay"];
const METHODS: [&str; 3] = ["tools/call", "prompts/get", "resources/read"];
const ENDPOINTS: [&str; 2] = ["/mcp", "/pay"];
const URIS: [&str; 6] = ["file:///pub/a", "file:///pub/../secret/b", "FILE:///pub/x", "file:///secret/b", "x:y", "x y"];

fn condition(text: &str, purpose: Purpose) -> Arc<Condition> {
    thread_local! {
        static KNOWN: RefCell<BTreeMap<(String, String), Arc<Condition>>> = const { RefCell::new(BTreeMap::new()) };
    }
    let key = (text.to_owned(), format!("{purpose:?}"));
    let parse = || Arc::new(Condition::parse(text, purpose, &ClaimTypes::default()).expect(text));
    KNOWN.with_borrow_mut(|known| Arc::clone(known.entry(key).or_insert_with(parse)))
}

fn patterns(lot: &mut Lot) -> Vec<Pattern> {
    let mut patterns = lot.some(2, |lot| Pattern::parse(lot.one(&PATTERNS)).unwrap());
    patterns.push(Pattern::parse(lot.one(&PATTERNS[..12])).unwrap());
    patterns
}

fn by(lot: &mut Lot, is_rate: bool) -> By {
    let mut party = |lot: &mut Lot| match lot.below(if is_rate { 14 } else { 8 }) {
        0 => Party::Agent,
        1 => Party::Task,
        2 => Party::Session,
        3 => Party::Server,
        4 => Party::Tool,
        5 => Party::Arg(condition(lot.one(&VALUES), Purpose::Value)),
        6 => Party::All,
        8 => Party::Address,
        9 => Party::Endpoint,
        10 => Party::Method,
        11 => Party::Claim(condition(lot.one(&CLAIMS), Purpose::Claim)),
        _ => Party::Subject,
    };
    let mut all: SmallVec<[Party; 2]> = SmallVec::from_vec(lot.some(2, &mut party));
    if all.is_empty() {
        all.push(Party::Subject);
    }
    By(all)
}

fn after(lot: &mut Lot) -> What {
    let same = lot.rarely(2).then(|| condition(lot.one(&VALUES), Purpose::Value));
    What::After { patterns: patterns(lot), within_ms: lot.rarely(2).then_some(60_000), same }
}

fn limit(lot: &mut Lot) -> Limit {
    let per_ms = lot.rarely(2).then_some(1_000);
    let what = match lot.below(5) {
        0 => What::Calls { max: 3, per_ms },
        1 => {
            let of = condition(lot.one(&SUMS), Purpose::Sum);
            What::Sum { of, max: Number::parse("1000").unwrap(), per_ms }
        }
        2 => What::Concurrent { max: 2 },
        3 => What::Once { value: condition(lot.one(&VALUES), Purpose::Value), per_ms },
        _ => after(lot),
    };
    Limit { what, by: by(lot, false) }
}

fn rule(lot: &mut Lot, number: usize) -> Rule {
    let effect = lot.one(&[Effect::Permit, Effect::Permit, Effect::Permit, Effect::Forbid, Effect::Approve]);
    let is_bound = lot.rarely(3);
    let limits = match effect {
        _ if !is_bound => Vec::new(),
        Effect::Permit => lot.some(2, limit),
        Effect::Forbid | Effect::Approve => lot.some(1, |lot| Limit { what: after(lot), by: by(lot, false) }),
    };
    let when = lot.rarely(2).then(|| condition(lot.one(&WHENS), Purpose::When));
    let has_scopes = effect == Effect::Permit && lot.rarely(6);
    Rule {
        id: Arc::from(format!("r{number}")),
        effect,
        patterns: patterns(lot),
        tasks: if lot.rarely(4) { lot.some(2, |lot| TaskId::from_index(lot.below(TASKS.len()))) } else { Vec::new() },
        reason: lot.rarely(2).then(|| Arc::from(format!("No, says {number}."))),
        who: lot.rarely(4).then(|| condition(lot.one(&WHOS), Purpose::Who)),
        when,
        scopes: if has_scopes { lot.some(2, |lot| lot.one(&SCOPES).into()) } else { Vec::new() },
        limits,
        mode: if lot.rarely(7) { Mode::Shadow } else { Mode::Enforce },
        expires_ms: 1_000,
        ask: if lot.rarely(2) { AskWhom::Elicit } else { AskWhom::Person },
    }
}

fn rate(lot: &mut Lot, number: usize) -> Rate {
    Rate {
        id: Arc::from(format!("rate{number}")),
        on: if lot.rarely(2) { patterns(lot) } else { Vec::new() },
        methods: lot.some(1, |lot| lot.one(&METHODS).into()),
        endpoints: if lot.rarely(3) { vec![lot.one(&ENDPOINTS).into()] } else { Vec::new() },
        what: if lot.rarely(3) { RateOf::Concurrent(5) } else { RateOf::Calls { calls: 10, per_ms: 1_000, burst: 20 } },
        by: by(lot, true),
    }
}

/// A policy. Some have one wide permit, so that what comes behind it is reached.
fn policy(lot: &mut Lot) -> World {
    let mut rules: Vec<Rule> = (0..1 + lot.below(9)).map(|number| rule(lot, number)).collect();
    if lot.rarely(3) {
        let patterns = vec![Pattern::parse("*/*").unwrap(), Pattern::parse("*!*").unwrap()];
        rules.push(Rule { id: Arc::from("open"), patterns, ..Rule::default() });
    }
    let mut rates = if lot.rarely(4) { lot.some(2, |lot| lot.below(90)) } else { Vec::new() };
    // Two of one id are a fault of the configuration.
    rates.dedup();
    let rates = rates.into_iter().map(|number| rate(lot, number)).collect();
    rated_world(rules, rates)
}

fn caller(lot: &mut Lot, world: &World) -> (Caller, ActiveTask) {
    let mut claims = Vec::new();
    if lot.rarely(2) {
        claims.push(format!("\"level\":{}", lot.one(&["1", "5", "\"5\"", "4.0"])));
    }
    if lot.rarely(2) {
        claims.push(format!("\"groups\":{}", lot.one(&["[\"ops\"]", "[]", "\"ops\"", "[\"dev\",\"ops\"]", "[1]"])));
    }
    if lot.rarely(2) {
        claims.push(format!("\"dept\":{}", lot.one(&["\"eng\"", "null", "\"hr\""])));
    }
    let subject = lot.one(&["ann", "bob"]);
    let agent = lot.one(&[None, Some("bot"), Some("cat")]);
    let mut held: SmallVec<[TaskId; 4]> = (0..TASKS.len()).filter(|_| lot.rarely(2)).map(TaskId::from_index).collect();
    held.dedup();
    let task = match &*held {
        [] => ActiveTask::None,
        [one] => ActiveTask::One(*one),
        _ if lot.rarely(2) => ActiveTask::One(held[0]),
        _ => ActiveTask::Several,
    };
    let mut scopes: Vec<Box<str>> = SCOPES.into_iter().filter(|_| lot.rarely(2)).map(Into::into).collect();
    scopes.sort_unstable();
    let mut caller = Caller {
        issuer: Arc::from("https://issuer"),
        subject: Arc::from(subject),
        agent: agent.map(Arc::from),
        owner: Owner::of("https://issuer", subject, agent),
        principal: Owner::of("https://issuer", subject, None),
        tasks: held,
        claims: Arc::from(format!("{{{}}}", claims.join(",")).into_bytes()),
        scopes: scopes.into(),
        ..Caller::anonymous()
    };
    caller.heads = world.set.heads_of(&caller);
    (caller, task)
}

fn arguments(lot: &mut Lot) -> Option<String> {
    let mut members = Vec::new();
    let mut may = |lot: &mut Lot, name: &str, values: &[&str]| {
        if !lot.rarely(3) {
            members.push(format!("\"{name}\":{}", lot.one(values)));
        }
    };
    may(lot, "amount", &["1", "100", "499.9", "5e2", "\"100\"", "null", "-3"]);
    may(lot, "to", &["\"a\"", "\"b\"", "\"\\u0061\"", "7", "null"]);
    may(lot, "path", &["\"/srv/a\"", "\"/srv/../etc\"", "\"srv\""]);
    may(lot, "tags", &["[]", "[\"x\"]", "[\"y\",1]"]);
    may(lot, "lines", &["[{\"price\":1}]", "[]", "[{\"price\":100,\"n\":2}]", "[{\"n\":2.0,\"price\":1e2}]"]);
    (!lot.rarely(12)).then(|| format!("{{{}}}", members.join(",")))
}

fn question(lot: &mut Lot) -> Question<'static> {
    let tool = lot.one(&[TOOLS[0], TOOLS[1], TOOLS[2], TOOLS[2], "nothing"]);
    let prompt = lot.one(&[PROMPTS[0], PROMPTS[1]]);
    let uri = lot.one(&URIS);
    match lot.below(16) {
        0..6 => Question::CallTool(tool),
        6 => Question::GetPrompt(prompt),
        7..9 => Question::Read(uri),
        9 => Question::CompletePrompt(prompt),
        10 => Question::CompleteTemplate(lot.one(&["file:///pub/{name}", "file:///{path}", "{broken"])),
        11 => Question::Ask(lot.one(&Ask::ALL)),
        12..14 => Question::List(ListKind::Tools, tool),
        14 => Question::List(ListKind::Prompts, prompt),
        _ => Question::List(lot.one(&[ListKind::Resources, ListKind::Templates]), uri),
    }
}

/// What was noted, whenever.
#[derive(Default)]
struct Noted(RefCell<HashSet<CountKey>>);

impl Past for Noted {
    fn happened(&self, key: CountKey, _within_ms: Option<u64>) -> bool {
        self.0.borrow().contains(&key)
    }
}

/// Everything of a question that an earlier one must keep.
struct Asked {
    caller: Caller,
    task: ActiveTask,
    server: ServerId,
    question: Question<'static>,
    arguments: Option<String>,
    unix_ms: u64,
    session: Option<[u8; 16]>,
    address: Option<IpAddr>,
    endpoint: &'static str,
    method: &'static str,
}

impl Asked {
    fn draw(lot: &mut Lot, world: &World) -> Self {
        let (caller, task) = caller(lot, world);
        let question = question(lot);
        let has_arguments = matches!(question, Question::CallTool(_) | Question::GetPrompt(_));
        let addresses = [
            None,
            Some(IpAddr::V4(Ipv4Addr::LOCALHOST)),
            Some(IpAddr::V6(Ipv4Addr::LOCALHOST.to_ipv6_mapped())),
            Some(IpAddr::V6(Ipv6Addr::LOCALHOST)),
        ];
        Self {
            caller,
            task,
            server: ServerId::from_index(lot.one(&[0, 0, 0, 1, 1, 2, SERVERS.len()])),
            question,
            arguments: if has_arguments { arguments(lot) } else { None },
            unix_ms: lot.one(&[500_000, 1_000_000, 50_000_000_000]),
            session: lot.one(&[None, Some([1; 16]), Some([2; 16])]),
            address: lot.one(&addresses),
            endpoint: lot.one(&ENDPOINTS),
            method: lot.one(&METHODS),
        }
    }

    fn scene<'a>(&'a self, past: &'a dyn Past) -> Scene<'a> {
        let Self { unix_ms, session, address, endpoint, method, .. } = *self;
        let body = self.arguments.as_deref().unwrap_or_default().as_bytes();
        Scene { body, unix_ms, session, address, endpoint, method, past }
    }
}

fn inquiry<'a>(world: &'a World, asked: &'a Asked, scene: &'a Scene<'a>, earlier: &'a [Inquiry<'a>]) -> Inquiry<'a> {
    let World { servers, catalog, set, table, .. } = world;
    let Asked { caller, task, server, question, arguments, .. } = asked;
    Inquiry {
        set,
        servers,
        catalog,
        dead: table.dead_paths(),
        caller,
        task: *task,
        server: *server,
        question: *question,
        arguments: arguments.as_deref().map(str::as_bytes),
        scene: Some(scene),
        earlier,
    }
}

/// Which count a key is, both ways.
#[derive(Default)]
struct Owners {
    of: BTreeMap<CountKey, (Source, Vec<Vec<u8>>)>,
    keys: BTreeMap<String, CountKey>,
}

impl Owners {
    /// Equal owners have equal keys, and others other ones.
    fn check(&mut self, key: CountKey, want: &Want) {
        let owner = (want.source, want.owner.clone());
        assert_eq!(self.of.entry(key).or_insert_with(|| owner.clone()), &owner, "two counts with one key");
        assert_eq!(*self.keys.entry(format!("{owner:?}")).or_insert(key), key, "two keys of one count");
    }
}

fn named(rules: &[RuleId]) -> &[RuleId] {
    &rules[..rules.len().min(RULES_NAMED_MAX)]
}

fn same_needs(needs: &[Need], wants: &[Want], past: &Noted, owners: &mut Owners) {
    let needed: Vec<_> = needs.iter().map(|need| (need.source, need.what)).collect();
    let wanted: Vec<_> = wants.iter().map(|want| (want.source, want.what)).collect();
    assert_eq!(needed, wanted);
    for (need, want) in needs.iter().zip(wants) {
        owners.check(need.key, want);
        if let NeedOf::After { within_ms } = need.what {
            assert_eq!(past.happened(need.key, within_ms), want.came, "{want:?}");
        }
    }
}

/// Both say the same.
fn same(fast: &Verdict, slow: &Explanation, past: &Noted, owners: &mut Owners) {
    assert_eq!((&fast.outcome, &*fast.rules), (&slow.outcome, named(&slow.rules)));
    assert_eq!(fast.asking, slow.asking);
    same_needs(&fast.needs, &slow.wants, past, owners);
    let unknown: Vec<_> = slow.unknown.iter().take(RULES_NAMED_MAX).copied().collect();
    if slow.outcome != Err(Why::Hidden) {
        assert_eq!(fast.remarks.unknown.to_vec(), unknown);
    }
    let shadow = fast.remarks.shadow.as_deref().filter(|shadow| !shadow.rules.is_empty());
    assert_eq!(shadow.is_some(), slow.shadow.is_some(), "{fast:?}, {slow:?}");
    if let (Some(fast), Some(slow)) = (shadow, &slow.shadow) {
        let (outcome, asks, rules, wants) = &**slow;
        assert_eq!((&fast.outcome, fast.asks, &*fast.rules), (outcome, *asks, named(rules)));
        let needs: Vec<Need> =
            fast.needs.iter().filter(|need| !matches!(need.what, NeedOf::Note { .. })).copied().collect();
        same_needs(&needs, wants, past, owners);
    }
}

/// What else must be true of an answer.
fn coherent(world: &World, asked: &Asked, fast: &Verdict, scene: &Scene<'_>) {
    let Asked { caller, task, server, question, arguments, .. } = asked;
    let table = &world.table;
    let is_listed =
        |kind, name| listed(table, caller, *task, *server, kind, &entry(&world.catalog, *server, kind, name));
    let seen = match *question {
        Question::CallTool(name) => Some((ListKind::Tools, name)),
        Question::GetPrompt(name) => Some((ListKind::Prompts, name)),
        Question::Read(uri) => Some((ListKind::Resources, uri)),
        Question::List(kind, name) => Some((kind, name)),
        _ => None,
    };
    if let Some((kind, name)) = seen {
        let shown = is_listed(kind, name);
        assert_eq!(fast.outcome == Err(Why::Hidden), !shown, "what is hidden is refused so, and nothing else");
        let known = |kind| concerns(table, caller, *task, *server, kind);
        assert!(!shown || known(Some(kind)) && known(None));
    }
    let text = |text: &str| Text { span: Span::default(), unescaped: Some(Box::from(text)) };
    let (subject, name) = match *question {
        Question::CallTool(name) => (Object::Tool(text(name)), name),
        Question::GetPrompt(name) => (Object::Prompt(text(name)), name),
        Question::Read(uri) => (Object::Resource(text(uri)), uri),
        _ => return,
    };
    let end = arguments.as_ref().map(String::len);
    let call = Call {
        era: Revision::NEWEST.era(),
        revision: Revision::NEWEST,
        shape: Shape::Request,
        id: None,
        method: None,
        subject,
        meta: Meta::default(),
        arguments: end.map(|end| Span::new(0, end)),
        returned: None,
    };
    match decide(table, caller, *task, *server, call, name, scene) {
        Ok(Leave::Go(permit)) => {
            assert!(fast.outcome.is_ok() && fast.needs.is_empty() && fast.asking.is_none());
            assert_eq!((permit.notes(), permit.rules()), (&*fast.notes, &*fast.rules));
        }
        Ok(Leave::Held(held)) => {
            assert!(fast.outcome.is_ok());
            assert_eq!((held.needs(), held.asking()), (&*fast.needs, fast.asking.as_ref()));
        }
        Err(denied) => assert_eq!((Err(denied.why), denied.rules), (fast.outcome.clone(), fast.rules.clone())),
    }
}

/// One policy, and questions one after the other.
fn run(lot: &mut Lot, mut seen: impl FnMut(&Asked, &Explanation, &Verdict)) {
    let world = policy(lot);
    let past = Noted::default();
    let asked: Vec<Asked> = (0..ROUNDS).map(|_| Asked::draw(lot, &world)).collect();
    let scenes: Vec<Scene<'_>> = asked.iter().map(|asked| asked.scene(&past)).collect();
    let (mut earlier, mut owners): (Vec<Inquiry<'_>>, _) = (Vec::new(), Owners::default());
    for (asked, scene) in asked.iter().zip(&scenes) {
        let Asked { caller, task, server, question, arguments, .. } = asked;
        let arguments = arguments.as_deref().map(str::as_bytes);
        let fast = judge_at(&world.table, caller, *task, *server, *question, arguments, scene);
        let slow = explain(&inquiry(&world, asked, scene, &earlier));
        same(&fast, &slow, &past, &mut owners);
        coherent(&world, asked, &fast, scene);
        seen(asked, &slow, &fast);
        if fast.outcome.is_ok() && !question.is_list() && !matches!(question, Question::Ask(_)) {
            let mut noted = past.0.borrow_mut();
            noted.extend(fast.notes.iter().map(|note| note.key));
            let shadow = fast.remarks.shadow.iter().flat_map(|shadow| &shadow.needs);
            let needs = fast.needs.iter().chain(shadow);
            noted.extend(needs.filter(|need| matches!(need.what, NeedOf::Note { .. })).map(|need| need.key));
            earlier.push(inquiry(&world, asked, scene, &[]));
        }
    }
}

/// Says which seed, when a test ends badly.
struct Told(u64);

impl Drop for Told {
    fn drop(&mut self) {
        if std::thread::panicking() {
            println!("PORTCULLIS_POLICY_SEED={}", self.0);
        }
    }
}

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

#[test]
fn decide_is_explain() {
    let triples = number("PORTCULLIS_POLICY_TRIPLES").map_or(TRIPLES, |triples| usize::try_from(triples).unwrap());
    let seed = number("PORTCULLIS_POLICY_SEED");
    let first = seed.unwrap_or_else(|| u64::from(std::process::id()) << 32);
    println!("seed {first}");
    let policies = if seed.is_some() { 1 } else { triples.div_ceil(ROUNDS) };
    for policy in 0..policies as u64 {
        let told = Told(first.wrapping_add(policy));
        run(&mut Lot(told.0), |_, _, _| ());
    }
}

/// What the test above is made of reaches every answer, cause, need and doubt.
#[test]
fn the_lot_reaches_everything() {
    let mut reached = BTreeSet::new();
    let word = |text: String| text.split([' ', '(', '{']).next().unwrap_or_default().to_owned();
    for seed in 0..700 {
        let told = Told(seed);
        run(&mut Lot(told.0), |asked, slow, fast| {
            reached.insert(format!("{:?} {:?}", word(format!("{:?}", asked.question)), slow.cause));
            reached.insert(format!("{:?}", slow.cause));
            reached.insert(fast.outcome.as_ref().err().map_or("yes", Why::word).to_owned());
            reached.extend(fast.needs.iter().map(|need| word(format!("{:?}", need.what))));
            reached.extend(slow.wants.iter().filter(|want| want.came).map(|_| "came".to_owned()));
            reached.extend(slow.unknown.iter().map(|(_, at)| word(format!("unknown {at:?}").replace(' ', "_"))));
            reached.extend(slow.steps.iter().map(|step| word(format!("{:?}", step.standing))));
            reached.extend(fast.asking.iter().map(|asking| format!("{:?}", asking.ask)));
            reached.extend(fast.notes.iter().map(|_| "noted".to_owned()));
            if let Some(shadow) = &fast.remarks.shadow {
                reached.insert(format!("shadow {}", shadow.word()));
                reached.extend(shadow.needs.iter().map(|need| format!("shadow {}", word(format!("{:?}", need.what)))));
            }
        });
    }
    let wanted = [
        "yes hidden forbid condition unknown scope limit_unknown rate_unknown approval_unknown",
        "Unknown NotAUri Forbidden ForbiddenWithReason Silence Condition Unknowable Scopes LimitUnknown RateUnknown",
        "ApprovalUnknown Asked Permitted Calls Sum Concurrent Once After Bucket Note came noted Person Elicit",
        "unknown_Who unknown_When unknown_Limit Applies OtherTarget OtherTask OtherCaller DoesNotHold",
    ];
    let shadows =
        "permit pending forbid unknown scope limit_unknown approval_unknown Calls Sum Concurrent Once After Note";
    let kinds = ["CallTool", "GetPrompt", "Read"].map(|kind| {
        ["Silence", "Forbidden", "ForbiddenWithReason", "Condition", "Unknowable", "Asked", "Permitted"]
            .map(|cause| format!("{kind:?} {cause}"))
    });
    let shadows = shadows.split(' ').map(|word| format!("shadow {word}"));
    let wanted = wanted.iter().flat_map(|line| line.split(' ')).map(str::to_owned);
    let missing: Vec<_> =
        wanted.chain(shadows).chain(kinds.into_iter().flatten()).filter(|word| !reached.contains(word)).collect();
    assert!(missing.is_empty(), "never reached: {missing:?}");
}

/// One caller, no token.
fn nobody() -> Caller {
    Caller::anonymous()
}

fn permit(id: &str, pattern: &str) -> Rule {
    Rule { id: Arc::from(id), patterns: vec![Pattern::parse(pattern).unwrap()], ..Rule::default() }
}

fn tool_call(arguments: &str) -> Call {
    Call {
        era: Revision::NEWEST.era(),
        revision: Revision::NEWEST,
        shape: Shape::Request,
        id: None,
        method: None,
        subject: Object::Tool(Text { span: Span::default(), unescaped: Some(Box::from("refund")) }),
        meta: Meta::default(),
        arguments: Some(Span::new(0, arguments.len())),
        returned: None,
    }
}

#[test]
fn what_is_held_goes_with_all_it_needs_and_not_before() {
    let limited =
        Limit { what: What::Calls { max: 3, per_ms: None }, by: By(SmallVec::from_vec(vec![Party::Subject])) };
    let asks = Rule { effect: Effect::Approve, ..permit("asks", "pay/refund") };
    let world = rated_world(vec![Rule { limits: vec![limited], ..permit("limited", "pay/*") }, asks], Vec::new());
    let past = Noted::default();
    let scene = Scene { body: b"{}", unix_ms: 0, session: None, address: None, endpoint: "", method: "", past: &past };
    let held =
        || match decide(&world.table, &nobody(), ActiveTask::None, ServerId(1), tool_call("{}"), "refund", &scene) {
            Ok(Leave::Held(held)) => held,
            other => panic!("{other:?}"),
        };
    assert_eq!((held().needs().len(), held().asking().map(|asking| asking.rule)), (1, Some(RuleId(1))));
    assert!(held().granted(Taken::none(), None).is_err(), "nothing was taken, and nobody asked");
    let first = held();
    let taken = Taken::of(first.needs());
    assert!(first.granted(taken, None).is_err(), "nobody was asked");
    let denied = held().into_denied(Why::CountsFull { retry_ms: Some(1) });
    assert_eq!((denied.why.word(), &*denied.rules), ("counts_full", &[RuleId(0), RuleId(1)][..]));
}

#[test]
fn rates_of_what_no_rule_is_about() {
    let bucket = RateOf::Calls { calls: 1, per_ms: 1_000, burst: 1 };
    let rate = |on: &[&str], methods: &[&str], party: Party| Rate {
        id: Arc::from("r"),
        on: on.iter().map(|text| Pattern::parse(text).unwrap()).collect(),
        methods: methods.iter().map(|&method| method.into()).collect(),
        endpoints: Vec::new(),
        what: bucket,
        by: By(SmallVec::from_vec(vec![party])),
    };
    let check = |rate: Rate, server: Option<u16>, want: Result<usize, &str>| {
        let world = rated_world(Vec::new(), vec![rate]);
        let past = Noted::default();
        let method = "tools/list";
        let scene =
            Scene { body: b"", unix_ms: 0, session: None, address: None, endpoint: "/mcp", method, past: &past };
        let needs = super::decide::rates(&world.table, &nobody(), ActiveTask::None, server.map(ServerId), &scene);
        assert_eq!(needs.map(|needs| needs.len()).map_err(|why| why.word()), want);
    };
    check(rate(&[], &[], Party::All), None, Ok(1));
    check(rate(&[], &["tools/list"], Party::All), Some(0), Ok(1));
    check(rate(&[], &["initialize"], Party::All), Some(0), Ok(0));
    check(rate(&["docs/*"], &[], Party::All), Some(0), Ok(0));
    check(rate(&["docs/*"], &["tools/list"], Party::All), Some(0), Ok(1));
    check(rate(&["docs/*"], &["tools/list"], Party::All), Some(1), Ok(0));
    check(rate(&["docs/*"], &["tools/list"], Party::All), None, Ok(0));
    check(rate(&[], &[], Party::Address), None, Err("rate_unknown"));
}

/// Of two subjects of one agent: what one does in a way that cannot be told closes the door to the other.
#[test]
fn what_an_agent_did_is_known_to_all_its_subjects() {
    let same = Some(condition("args.to", Purpose::Value));
    let what = What::After { patterns: vec![Pattern::parse("docs/search").unwrap()], within_ms: None, same };
    let limits = vec![Limit { what, by: By(SmallVec::from_iter([Party::Agent])) }];
    let leak = Rule { effect: Effect::Forbid, limits, ..permit("leak", "pay/refund") };
    let world = rated_world(vec![permit("open", "*/*"), leak], Vec::new());
    let past = Noted::default();
    let scene = Scene { body: b"", unix_ms: 0, session: None, address: None, endpoint: "", method: "", past: &past };
    let judge = |subject: &str, server, tool, arguments: &'static str| {
        let caller = Caller {
            issuer: Arc::from("https://issuer"),
            subject: Arc::from(subject),
            agent: Some(Arc::from("bot")),
            owner: Owner::of("https://issuer", subject, Some("bot")),
            principal: Owner::of("https://issuer", subject, None),
            ..Caller::anonymous()
        };
        let arguments = Some(arguments.as_bytes());
        judge_at(&world.table, &caller, ActiveTask::None, ServerId(server), Question::CallTool(tool), arguments, &scene)
    };
    let refund = || judge("bob", 1, "refund", r#"{"to":"a"}"#).outcome.map_err(|why| why.word());
    assert_eq!(refund(), Ok(()));
    let searched = judge("ann", 0, "search", "{}");
    past.0.borrow_mut().extend(searched.needs.iter().map(|need| need.key));
    assert_eq!(refund(), Err("unknown"));
}

/// A token with more scopes, and somebody to count for, help only where all else is there.
#[test]
fn scopes_come_after_what_cannot_be_told_and_rates_after_all() {
    let sum = What::Sum { of: condition("args.amount", Purpose::Sum), max: Number::parse("9").unwrap(), per_ms: None };
    let limit = Limit { what: sum, by: By(SmallVec::from_iter([Party::Subject])) };
    let bound = Rule { scopes: vec!["pay".into()], limits: vec![limit], ..permit("bound", "pay/refund") };
    let when = condition("args.amount < 5", Purpose::When);
    let asks = Rule { effect: Effect::Approve, when: Some(when.clone()), ..permit("asks", "pay/refund") };
    let small = Rule { when: Some(when), ..permit("small", "pay/refund") };
    let rate = Rate {
        id: Arc::from("r"),
        on: Vec::new(),
        methods: Vec::new(),
        endpoints: Vec::new(),
        what: RateOf::Concurrent(1),
        by: By(SmallVec::from_iter([Party::Agent])),
    };
    let check = |rules: &[&Rule], arguments: &'static str, want: &str| {
        let world = rated_world(rules.iter().copied().cloned().collect(), vec![rate.clone()]);
        let past = Noted::default();
        let scene =
            Scene { body: b"", unix_ms: 0, session: None, address: None, endpoint: "", method: "", past: &past };
        let (question, arguments) = (Question::CallTool("refund"), Some(arguments.as_bytes()));
        let server = ServerId(1);
        let verdict = judge_at(&world.table, &nobody(), ActiveTask::None, server, question, arguments, &scene);
        assert_eq!(verdict.outcome.map_err(|why| why.word()), Err(want), "{arguments:?}");
    };
    check(&[&bound], r#"{"amount":1}"#, "scope");
    check(&[&bound], "{}", "limit_unknown");
    check(&[&Rule { limits: Vec::new(), ..bound.clone() }, &asks], "{}", "approval_unknown");
    check(&[&small], r#"{"amount":1}"#, "rate_unknown");
    check(&[&small], r#"{"amount":7}"#, "condition");
    check(&[&small], "{}", "unknown");
}
