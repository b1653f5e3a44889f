//! The room as a whole: the words of the configuration as rows, and `decide` against `explain`.

use std::collections::BTreeSet;
use std::sync::Arc;

use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::TestRunner;
use smallvec::SmallVec;

use super::compile::{Lacks, Warning};
use super::decide::{Leave, Scene};
use super::decide::{Question, Verdict, Why, asks, concerns, decide, decide_listen, judge, listed, readable};
use super::explain::{Cause, Explanation, Inquiry, Standing};
use super::limit::Rate;
use super::needs::NoPast;
use super::pattern::Pattern;
use super::rule::{Effect, PolicySet, Rule};
use super::table::Table;
use crate::base::ids::{ItemId, RuleId, ServerId, TaskId};
use crate::base::limits::RULES_NAMED_MAX;
use crate::base::span::Span;
use crate::identity::active::{ActiveTask, TaskNames};
use crate::identity::caller::Caller;
use crate::jsonrpc::Shape;
use crate::mcp::call::{Call, Listen, Meta, Object, Text};
use crate::mcp::catalog::{Catalog, EraCatalog, Item, ListKind, Listing, ServerCatalog};
use crate::mcp::input::Ask;
use crate::mcp::revision::Revision;

/// Servers: two that are known, and one that nobody has reached yet.
pub(super) const SERVERS: [&str; 3] = ["docs", "pay", "late"];
pub(super) const TOOLS: [&str; 3] = ["search", "delete_page", "refund"];
pub(super) const PROMPTS: [&str; 2] = ["review", "search"];
const RESOURCES: [&str; 3] = ["file:///pub/a", "FILE:///pub/../secret/b", "not a uri"];
const TEMPLATES: [&str; 3] = ["file:///pub/{name}", "file:///{path}", "{broken"];
pub(super) const TASKS: [&str; 3] = ["research", "refund", "audit"];

pub(super) struct World {
    pub(super) servers: Vec<Arc<str>>,
    pub(super) catalog: Catalog,
    pub(super) set: Arc<PolicySet>,
    pub(super) table: Table,
    pub(super) warnings: Vec<Warning>,
}

/// One tool says what arguments it has; of the others nobody knows.
fn item(name: &str) -> Item {
    let schema = r#"{"inputSchema":{"type":"object","properties":{"amount":{},"to":{},"lines":{}}}}"#;
    let raw = if name == "refund" { schema } else { "" };
    Item { raw: raw.as_bytes().into(), ..Item::named(name) }
}

pub(super) fn offers(tools: &[&str]) -> ServerCatalog {
    let list =
        |names: &[&str]| Some(Listing { items: names.iter().map(|name| item(name)).collect(), ..Listing::default() });
    let era = EraCatalog {
        events: false,
        protocol: Revision::NEWEST,
        capabilities: serde_json::json!({}),
        server_info: None,
        instructions: None,
        lists: [list(tools), list(&PROMPTS), list(&RESOURCES), list(&TEMPLATES)],
    };
    ServerCatalog { modern: Some(era), ..ServerCatalog::default() }
}

fn world(rules: Vec<Rule>) -> World {
    rated_world(rules, Vec::new())
}

pub(super) fn rated_world(rules: Vec<Rule>, rates: Vec<Rate>) -> World {
    let servers: Vec<Arc<str>> = SERVERS.iter().map(|&name| Arc::from(name)).collect();
    let catalog = Catalog::build(vec![Some(offers(&TOOLS)), Some(offers(&TOOLS[1..])), None]);
    let set = Arc::new(PolicySet::with_rates(TaskNames::new(TASKS), rules, rates));
    let (table, warnings) = Table::compile(&set, &servers, &catalog);
    World { servers, catalog, set, table, warnings }
}

/// A rule as `effect patterns [@ tasks] [: reason]`, words parted by blanks.
fn rule(index: usize, text: &str) -> Rule {
    let (text, reason) = text.split_once(" : ").map_or((text, None), |(text, reason)| (text, Some(reason)));
    let (text, tasks) = text.split_once(" @ ").unwrap_or((text, ""));
    let (effect, patterns) = text.split_once(' ').unwrap();
    let task = |name| TaskId::from_index(TASKS.iter().position(|task| *task == name).unwrap());
    Rule {
        id: Arc::from(format!("r{index}")),
        effect: if effect == "permit" { Effect::Permit } else { Effect::Forbid },
        patterns: patterns.split(' ').map(|text| Pattern::parse(text).unwrap()).collect(),
        tasks: tasks.split_whitespace().map(task).collect(),
        reason: reason.map(Arc::from),
        ..Rule::default()
    }
}

fn rules(texts: &[&str]) -> Vec<Rule> {
    texts.iter().enumerate().map(|(index, text)| rule(index, text)).collect()
}

#[test]
fn what_the_rules_say_of_a_server() {
    use ListKind::{Prompts, Resources, Templates, Tools};
    let world = world(rules(&[
        "permit docs/search late/*",
        "permit late!prompt:a* pay/x @ research",
        "permit pay!*",
        "forbid pay!prompt:*",
        "forbid docs/* @ audit",
        "forbid late/* : no",
        "forbid late/b*",
    ]));
    let check = |task: ActiveTask, server: u16, kind, want: bool| {
        let got = concerns(&world.table, &caller(&[0, 2]), task, ServerId(server), kind);
        assert_eq!(got, want, "{task:?} {server} {kind:?}");
    };
    let (none, research, audit) = (ActiveTask::None, ActiveTask::One(TaskId(0)), ActiveTask::One(TaskId(2)));
    // Nothing is known of the third server, and a reason or a part hides nothing.
    for (server, kind, want) in [
        (0, Some(Tools), true),
        (0, Some(Prompts), false),
        (0, None, true),
        (1, Some(Tools), false),
        (1, Some(Prompts), false),
        (1, Some(Resources), true),
        (1, Some(Templates), true),
        (2, Some(Tools), true),
        (2, Some(Prompts), false),
        (2, Some(Resources), false),
        (3, None, false),
    ] {
        check(none, server, kind, want);
    }
    check(research, 2, Some(Prompts), true);
    check(research, 1, Some(Tools), true);
    check(audit, 0, Some(Tools), false);
    check(audit, 0, None, false);
    check(ActiveTask::Several, 0, None, false);
    check(ActiveTask::Several, 2, Some(Prompts), false);
}

fn caller(held: &[u16]) -> Caller {
    Caller { tasks: held.iter().map(|&task| TaskId(task)).collect(), ..Caller::anonymous() }
}

/// Both engines, and that they agree.
fn ask(world: &World, caller: &Caller, task: ActiveTask, server: u16, question: Question<'_>) -> (Verdict, Cause) {
    let server = ServerId(server);
    let fast = judge(&world.table, caller, task, server, question);
    let slow = explain(world, caller, task, server, question);
    let named: SmallVec<_> = slow.rules.iter().copied().take(RULES_NAMED_MAX).collect();
    let what = || format!("{question:?} of {server:?}, {task:?}, {:?}, {:?}", caller.tasks, world.set.rules());
    assert_eq!((&fast.outcome, &fast.rules), (&slow.outcome, &named), "{}", what());
    if let Question::List(kind, name) = question {
        let entry = entry(&world.catalog, server, kind, name);
        assert_eq!(listed(&world.table, caller, task, server, kind, &entry), fast.outcome.is_ok(), "{}", what());
        let concerns = |kind| concerns(&world.table, caller, task, server, kind);
        assert!(fast.outcome.is_err() || concerns(Some(kind)) && concerns(None), "{}", what());
    }
    (fast, slow.cause)
}

fn explain(world: &World, caller: &Caller, task: ActiveTask, server: ServerId, question: Question<'_>) -> Explanation {
    let World { servers, catalog, set, table, .. } = world;
    let (arguments, scene, earlier) = (None, None, &[][..]);
    super::explain::explain(&Inquiry {
        set,
        servers,
        catalog,
        dead: table.dead_paths(),
        caller,
        task,
        server,
        question,
        arguments,
        scene,
        earlier,
    })
}

/// The entry of this name with its id, if the catalogue has it.
pub(super) fn entry(catalog: &Catalog, server: ServerId, kind: ListKind, name: &str) -> Item {
    let id = match kind {
        ListKind::Tools => catalog.tool(server, name),
        ListKind::Prompts => catalog.prompt(server, name),
        ListKind::Resources | ListKind::Templates => None,
    };
    Item { id: id.unwrap_or(Item::UNNUMBERED), ..item(name) }
}

/// `want`: the cause, and the rules named.
fn check(texts: &[&str], held: &[u16], server: u16, question: Question<'_>, want: (Cause, &[u32])) {
    let task = match held {
        [] => ActiveTask::None,
        [one] => ActiveTask::One(TaskId(*one)),
        _ => ActiveTask::Several,
    };
    let (verdict, cause) = ask(&world(rules(texts)), &caller(held), task, server, question);
    let named: Vec<u32> = verdict.rules.iter().map(|rule| rule.0).collect();
    assert_eq!((cause, &*named), want, "{texts:?}, held {held:?}, {question:?}");
}

use Cause::{Forbidden, ForbiddenWithReason, NotAUri, Permitted, Silence, Unknown};
use ListKind::{Prompts, Resources, Templates, Tools};
use Question::{CallTool, CompletePrompt, CompleteTemplate, GetPrompt, List, Read};

#[test]
fn forbid_beats_permit_beats_silence() {
    let search = CallTool("search");
    check(&[], &[], 0, search, (Silence, &[]));
    check(&["permit docs/search"], &[], 0, search, (Permitted, &[0]));
    check(&["permit docs/search", "permit */*"], &[], 0, search, (Permitted, &[0, 1]));
    check(&["permit docs/search", "forbid docs/s*"], &[], 0, search, (Forbidden, &[1]));
    check(&["forbid docs/s*", "permit docs/search"], &[], 0, search, (Forbidden, &[0]));
    check(&["permit pay/*"], &[], 0, search, (Silence, &[]));
    check(&["permit *!*"], &[], 0, search, (Silence, &[]));
    check(&["permit */*"], &[], 1, search, (Unknown, &[]));
    check(&["permit */*"], &[], 2, search, (Unknown, &[]));
    check(&["permit */*"], &[], 9, search, (Unknown, &[]));
    check(&["permit */*"], &[], 0, CallTool("Search"), (Unknown, &[]));
    check(&["permit docs/x docs/search docs/s*"], &[], 0, search, (Permitted, &[0]));
}

#[test]
fn a_reason_hides_nothing_and_opens_nothing() {
    let spoken = &["permit docs/*", "forbid docs/delete_* : Ask a person.", "forbid docs/* @ audit : Not now."];
    let delete = "delete_page";
    check(spoken, &[], 0, CallTool(delete), (ForbiddenWithReason, &[1]));
    check(spoken, &[2], 0, CallTool(delete), (ForbiddenWithReason, &[1, 2]));
    check(spoken, &[], 0, List(Tools, delete), (Permitted, &[0]));
    check(&spoken[1..], &[], 0, CallTool(delete), (Silence, &[]));
    check(&[spoken[0], spoken[1], "forbid */delete_*"], &[], 0, CallTool(delete), (Forbidden, &[2]));
    check(&[spoken[0], spoken[1], "forbid */delete_*"], &[], 0, List(Tools, delete), (Forbidden, &[2]));
    let world = world(rules(spoken));
    let (verdict, _) = ask(&world, &caller(&[]), ActiveTask::None, 0, CallTool(delete));
    let reason = Arc::from("Ask a person.");
    assert_eq!(verdict.outcome, Err(Why::Forbidden { rule: RuleId(1), reason: Some(reason) }));
}

#[test]
fn tasks_open_only_what_is_active() {
    let texts = &["permit docs/* @ research", "permit pay/refund @ refund audit", "forbid docs/delete_* @ refund"];
    check(texts, &[], 0, CallTool("search"), (Silence, &[]));
    check(texts, &[0], 0, CallTool("search"), (Permitted, &[0]));
    check(texts, &[1], 0, CallTool("search"), (Silence, &[]));
    check(texts, &[0, 1], 0, CallTool("search"), (Silence, &[]));
    check(texts, &[2], 1, CallTool("refund"), (Permitted, &[1]));
    let open = &["permit */*", "forbid docs/search @ refund", "permit docs/search @ research"];
    check(open, &[0], 0, CallTool("search"), (Permitted, &[0, 2]));
    check(open, &[0, 2], 0, CallTool("search"), (Permitted, &[0]));
    check(open, &[0, 1], 0, CallTool("search"), (Forbidden, &[1]));
}

#[test]
fn a_permit_needs_both_forms_of_a_uri() {
    let public = &["permit docs!resource:file:///pub/*"];
    let check = |uri, want| check(public, &[], 0, Read(uri), want);
    check("file:///pub/a", (Permitted, &[0]));
    check("file:///pub/nobody/knows", (Permitted, &[0]));
    check("file:///pub/../secret/b", (Silence, &[]));
    check("file:///secret/../pub/b", (Silence, &[]));
    check("FILE:///pub/a", (Silence, &[]));
    check("file:///pub/%2e%2e%2fsecret", (NotAUri, &[]));
    check("file:///pub/a b", (NotAUri, &[]));
}

#[test]
fn a_forbid_needs_one_form_of_a_uri() {
    let guarded = &["permit *!*", "forbid *!resource:file:///secret/*"];
    let check_one = |question, want| check(guarded, &[], 0, question, want);
    check_one(Read("file:///secret/b"), (Forbidden, &[1]));
    check_one(Read("file:///pub/../secret/b"), (Forbidden, &[1]));
    check_one(Read("file:///secret/../pub/b"), (Forbidden, &[1]));
    check_one(Read("file:///%73ecret/b"), (Forbidden, &[1]));
    check_one(Read("file:///pub/b"), (Permitted, &[0]));
    check_one(List(Resources, "file:///secret/b"), (Forbidden, &[1]));
    check_one(List(Resources, "not a uri"), (NotAUri, &[]));
    let spoken = &["permit *!*", "forbid *!resource:file:///secret/* : No."];
    let secret = "file:///secret/b";
    check(spoken, &[], 0, Read(secret), (ForbiddenWithReason, &[1]));
    check(spoken, &[], 0, List(Resources, secret), (Permitted, &[0]));
}

#[test]
fn templates_by_what_they_expand_to() {
    let texts = &["permit docs!resource:file:///pub/*", "forbid docs!resource:file:///pub/x* : No."];
    let check_one = |question, want| check(texts, &[], 0, question, want);
    check_one(List(Templates, "file:///{path}"), (Permitted, &[0]));
    check_one(CompleteTemplate("file:///pub/x/{name}"), (Permitted, &[0]));
    check_one(CompleteTemplate("file:///secret/{name}"), (Silence, &[]));
    check_one(CompleteTemplate("file:///pub/{"), (NotAUri, &[]));
    let texts = &["permit *!*", "forbid *!resource:*{path}"];
    check(texts, &[], 0, List(Templates, "x:{path}"), (Forbidden, &[1]));
}

#[test]
fn completion_follows_the_list() {
    let prompts = &["permit docs!prompt:re*", "forbid *!prompt:review : No."];
    let check = |question, want| check(prompts, &[], 0, question, want);
    check(GetPrompt("review"), (ForbiddenWithReason, &[1]));
    check(CompletePrompt("review"), (Permitted, &[0]));
    check(List(Prompts, "review"), (Permitted, &[0]));
    check(CompletePrompt("search"), (Silence, &[]));
    check(CompletePrompt("nothing"), (Unknown, &[]));
}

#[test]
fn what_a_server_asks() {
    let texts = &["permit docs!sampling", "permit late!*", "forbid late!roots", "forbid *!elicitation : No."];
    let check_one = |server, ask, want| check(texts, &[], server, Question::Ask(ask), want);
    check_one(0, Ask::Sampling, (Permitted, &[0]));
    check_one(0, Ask::Roots, (Silence, &[]));
    check_one(2, Ask::Sampling, (Permitted, &[1]));
    check_one(2, Ask::Roots, (Forbidden, &[2]));
    check_one(2, Ask::Elicitation, (ForbiddenWithReason, &[3]));
    check_one(3, Ask::Sampling, (Unknown, &[]));
    check(&["permit */*"], &[], 0, Question::Ask(Ask::Roots), (Silence, &[]));
}

#[test]
fn many_rules_name_the_first() {
    let texts: Vec<String> =
        (0..20).map(|n| format!("permit docs/* docs!*{}", if n % 2 == 1 { " @ audit" } else { "" })).collect();
    let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
    check(&texts, &[2], 0, CallTool("search"), (Permitted, &[0, 1, 2, 3, 4, 5, 6, 7]));
    check(&texts, &[], 0, CallTool("search"), (Permitted, &[0, 2, 4, 6, 8, 10, 12, 14]));
    check(&texts, &[], 0, Read("x:y"), (Permitted, &[0, 2, 4, 6, 8, 10, 12, 14]));
}

#[test]
fn warnings_name_the_rule_that_is_too_much() {
    use super::limit::{By, Limit, Party, What};
    use crate::base::limits::NEEDS_MAX;
    let after = |text: &str| {
        let patterns = vec![Pattern::parse(text).unwrap()];
        let what = What::After { patterns, within_ms: None, same: None };
        vec![Limit { what, by: By(SmallVec::from_iter([Party::Subject])) }]
    };
    let policy = |count: usize| {
        let waits = |n: usize| Rule { limits: after("docs/*"), ..rule(n + 1, "forbid pay/*") };
        world(std::iter::once(rule(0, "permit */*")).chain((0..count).map(waits)).collect())
    };
    assert_eq!(policy(NEEDS_MAX).warnings, []);
    let world = policy(NEEDS_MAX + 1);
    let rule = RuleId::from_index(NEEDS_MAX + 1);
    assert_eq!(world.warnings, [Warning { rule, pattern: 0, lacks: Lacks::Room }]);
    let (server, question) = (ServerId(0), Question::CallTool("search"));
    let verdict = super::decide::judge_at(&world.table, &caller(&[]), ActiveTask::None, server, question, None, &SCENE);
    assert_eq!(verdict.outcome, Err(Why::CountsFull { retry_ms: None }), "this is what it warns of");
}

#[test]
fn warnings_name_patterns_that_do_nothing() {
    let check = |text: &str, want: &[(usize, Lacks)]| {
        let warnings = world(rules(&[text])).warnings;
        let got: Vec<_> = warnings.iter().map(|warning| (warning.pattern, warning.lacks)).collect();
        assert_eq!(got, want, "{text}");
    };
    check("permit docs/search docs/* */refund *!* docs!roots pay!prompt:*", &[]);
    check("permit docs/x nobody/x nobody!sampling", &[(0, Lacks::Match), (1, Lacks::Server), (2, Lacks::Server)]);
    check("permit late/x */x pay/search docs!prompt:x", &[(2, Lacks::Match), (3, Lacks::Match)]);
    check("permit docs!resource:file:///pub/a docs!resource:file:///pub/x docs!resource:file:///secret/*", &[]);
    check("permit docs!resource:http:*", &[(0, Lacks::Match)]);
    check("forbid docs!resource:FILE:* pay/del*", &[]);
}

#[test]
fn explain_tells_what_is_missing() {
    let world = world(rules(&["permit pay/*", "permit docs/x docs/s* @ audit", "permit docs/x */*"]));
    let told = explain(&world, &caller(&[]), ActiveTask::None, ServerId(0), CallTool("search"));
    let standing: Vec<Standing> = told.steps.iter().map(|step| step.standing).collect();
    assert_eq!(standing, [Standing::OtherTarget, Standing::OtherTask, Standing::Applies(1)]);
}

const SCENE: Scene<'static> = Scene {
    body: b"",
    unix_ms: 0,
    session: None,
    address: None,
    endpoint: "/mcp",
    method: "tools/call",
    past: &NoPast,
};

fn call(subject: Object) -> Call {
    Call {
        era: Revision::NEWEST.era(),
        revision: Revision::NEWEST,
        shape: Shape::Request,
        id: None,
        method: None,
        subject,
        meta: Meta::default(),
        arguments: None,
        returned: None,
    }
}

fn text(text: &str) -> Text {
    Text { span: Span::default(), unescaped: Some(Box::from(text)) }
}

#[test]
fn a_permit_keeps_its_call_and_a_refusal_gives_it_back() {
    let world = world(rules(&["permit docs/search *!*", "forbid *!resource:file:///secret/*"]));
    let nobody = caller(&[]);
    let ask = |subject: Object, name: &str| {
        decide(&world.table, &nobody, ActiveTask::None, ServerId(0), call(subject), name, &SCENE)
    };
    for (subject, name, want) in [
        (Object::Tool(text("docs__search")), "search", true),
        (Object::Tool(text("refund")), "refund", false),
        (Object::Tool(text("nothing")), "nothing", false),
        (Object::Prompt(text("review")), "review", true),
        (Object::Resource(text("file:///secret/x")), "file:///secret/x", false),
        (Object::CompletePrompt(text("review")), "review", true),
        (Object::CompleteResource(text("file:///secret/{x}")), "file:///secret/{x}", false),
    ] {
        match ask(subject.clone(), name) {
            Ok(Leave::Go(permit)) => {
                assert!(want, "{subject:?}");
                assert_eq!(
                    (&permit.call().subject, permit.server(), permit.rules()),
                    (&subject, ServerId(0), &[RuleId(0)][..])
                );
            }
            Ok(Leave::Held(_)) => panic!("nothing is needed"),
            Err(denied) => {
                assert!(!want, "{subject:?}");
                assert_eq!((denied.call.subject, denied.why), (subject, Why::Hidden));
            }
        }
    }
    let Ok(Leave::Go(needless)) = ask(Object::None, "") else { panic!("no rule is needed") };
    assert!(needless.rules().is_empty());
}

#[test]
fn a_listen_stream_keeps_what_may_be_read() {
    let world = world(rules(&["permit docs!*", "forbid *!resource:file:///secret/* : No."]));
    let (table, nobody, none) = (&world.table, caller(&[]), ActiveTask::None);
    let stream = |uris: &[&str]| {
        let uris = uris.iter().map(|uri| text(uri)).collect();
        Object::Listen(Box::new(Listen { tools: true, uris, ..Listen::default() }))
    };
    let through = |server, subject| decide_listen(table, &nobody, none, ServerId(server), call(subject), &SCENE);
    let asked = || stream(&["file:///secret/a", "file:///pub/a", "nonsense", "x:y"]);
    let kept = |server| through(server, asked()).unwrap().call().subject.clone();
    assert_eq!(kept(0), stream(&["file:///pub/a", "x:y"]));
    assert_eq!(kept(1), stream(&[]));
    assert!(through(0, Object::Tool(text("search"))).is_err(), "no other call slips through");
    assert!(through(0, Object::None).is_err());
    let by_name = |subject| decide(table, &nobody, none, ServerId(0), call(subject), "x:y", &SCENE);
    assert!(by_name(asked()).is_err(), "its resources are not judged there");
    assert!(by_name(stream(&[])).is_ok());
}

struct AllPast;

impl super::needs::Past for AllPast {
    fn happened(&self, _key: super::needs::CountKey, _within_ms: Option<u64>) -> bool {
        true
    }
}

#[test]
fn a_listen_stream_waits_for_what_must_come_before() {
    use super::limit::{By, Limit, Party, What};
    let patterns = vec![Pattern::parse("pay/refund").unwrap()];
    let after = What::After { patterns, within_ms: None, same: None };
    let limits = vec![Limit { what: after, by: By(SmallVec::from_iter([Party::Subject])) }];
    let world = world(vec![Rule { limits, ..rule(0, "permit docs!*") }]);
    let kept = |scene: &Scene<'_>| {
        let listen = Listen { uris: vec![text("file:///pub/a")], ..Listen::default() };
        let call = call(Object::Listen(Box::new(listen)));
        let permit = decide_listen(&world.table, &caller(&[]), ActiveTask::None, ServerId(0), call, scene).unwrap();
        let Object::Listen(left) = &permit.call().subject else { panic!("{permit:?}") };
        left.uris.len()
    };
    assert_eq!(kept(&SCENE), 0);
    assert_eq!(kept(&Scene { past: &AllPast, ..SCENE }), 1);
}

#[test]
fn questions_without_a_call() {
    let world = world(rules(&["permit docs!*", "forbid *!resource:file:///secret/* : No."]));
    let (table, nobody, none) = (&world.table, caller(&[]), ActiveTask::None);
    let reads = |uri| readable(table, &nobody, none, ServerId(0), uri);
    assert!(reads("x:y") && !reads("file:///secret/a"));
    let roots = |server| asks(table, &nobody, none, ServerId(server), Ask::Roots);
    assert_eq!(&*roots(0).unwrap(), &[RuleId(0)]);
    assert_eq!(roots(1), Err(Why::Hidden));
}

#[test]
fn an_id_of_another_server_or_kind_shows_nothing() {
    let world = world(rules(&["permit docs/*"]));
    let search = entry(&world.catalog, ServerId(0), Tools, "search");
    let shown =
        |server, kind, item: &Item| listed(&world.table, &caller(&[]), ActiveTask::None, ServerId(server), kind, item);
    assert!(shown(0, Tools, &search));
    assert!(!shown(1, Tools, &search) && !shown(0, Prompts, &search));
    assert!(!shown(0, Tools, &Item { id: ItemId(9_999), ..search }));
}

// ---- decide against explain -----------------------------------------------------------------------------------

fn any_pattern() -> impl Strategy<Value = Pattern> {
    let server = prop_oneof![3 => Just("docs"), 2 => Just("pay"), 1 => Just("late"), 2 => Just("*"), 1 => Just("*a*"), 1 => Just("x")];
    let name =
        prop_oneof![Just("*"), Just("search"), Just("*e*"), Just("delete_*"), Just("re*"), Just("*w"), Just("x")];
    let uri = prop_oneof![
        Just("*"),
        Just("file:///pub/*"),
        Just("file:///secret/*"),
        Just("FILE:*"),
        Just("file:*a"),
        Just("*/b"),
        Just("file:///pub/a"),
        Just("x:*"),
        Just("*{path}"),
        Just("file:///*")
    ];
    let kind = prop_oneof![
        4 => name.clone().prop_map(|name| format!("/{name}")),
        2 => name.prop_map(|name| format!("!prompt:{name}")),
        3 => uri.prop_map(|uri| format!("!resource:{uri}")),
        2 => proptest::sample::select(vec!["!sampling", "!roots", "!elicitation", "!*"]).prop_map(str::to_owned),
    ];
    (server, kind).prop_map(|(server, kind)| Pattern::parse(&format!("{server}{kind}")).unwrap())
}

fn any_rule() -> impl Strategy<Value = Rule> {
    let patterns = proptest::collection::vec(any_pattern(), 1..4);
    let tasks = prop_oneof![2 => Just(vec![]), 1 => proptest::collection::vec((0..3_u16).prop_map(TaskId), 1..3)];
    (any::<bool>(), patterns, tasks, any::<bool>()).prop_map(|(permit, patterns, tasks, reason)| Rule {
        id: Arc::from("r"),
        effect: if permit { Effect::Permit } else { Effect::Forbid },
        patterns,
        tasks,
        reason: reason.then(|| Arc::from("No.")),
        ..Rule::default()
    })
}

fn any_caller() -> impl Strategy<Value = (Caller, ActiveTask)> {
    (0..8_u16, 0..4_usize).prop_map(|(held, named)| {
        let held: Vec<u16> = (0..3).filter(|task| held >> task & 1 == 1).collect();
        let task = match (&*held, held.get(named)) {
            ([], _) => ActiveTask::None,
            ([one], _) | (_, Some(one)) => ActiveTask::One(TaskId(*one)),
            _ => ActiveTask::Several,
        };
        (caller(&held), task)
    })
}

/// Every kind of question, about what is there and what is not.
fn questions() -> Vec<Question<'static>> {
    let uris = ["file:///pub/a", "file:///pub/../secret/b", "FILE:///pub/x", "file:///secret/../pub/b", "x:y", "x y"];
    let mut questions: Vec<_> = Ask::ALL.into_iter().map(Question::Ask).collect();
    for tool in TOOLS.into_iter().chain(["nothing"]) {
        questions.extend([CallTool(tool), List(Tools, tool)]);
    }
    for prompt in PROMPTS.into_iter().chain(["nothing"]) {
        questions.extend([GetPrompt(prompt), CompletePrompt(prompt), List(Prompts, prompt)]);
    }
    for uri in uris.into_iter().chain(RESOURCES) {
        questions.extend([Read(uri), List(Resources, uri)]);
    }
    for template in TEMPLATES.into_iter().chain(["x:{path}", "x:y"]) {
        questions.extend([CompleteTemplate(template), List(Templates, template)]);
    }
    questions
}

type Case = (Vec<Rule>, Vec<(Caller, ActiveTask)>);

fn any_case() -> impl Strategy<Value = Case> {
    (proptest::collection::vec(any_rule(), 0..9), proptest::collection::vec(any_caller(), 3))
}

/// Asks everything, of the known servers, the unknown one, and one that does not exist.
fn ask_all((rules, callers): Case, mut seen: impl FnMut(ActiveTask, Question<'static>, Cause)) {
    let world = world(rules);
    for (caller, task) in &callers {
        for (server, question) in
            (0..4).flat_map(|server| questions().into_iter().map(move |question| (server, question)))
        {
            seen(*task, question, ask(&world, caller, *task, server, question).1);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn decide_is_explain(case in any_case()) {
        ask_all(case, |_, _, _| ());
    }
}

fn kind(question: Question<'_>) -> &'static str {
    match question {
        CallTool(_) => "call",
        GetPrompt(_) => "get",
        Read(_) => "read",
        CompletePrompt(_) => "complete prompt",
        CompleteTemplate(_) => "complete template",
        Question::Ask(_) => "ask",
        List(Tools, _) => "list tools",
        List(Prompts, _) => "list prompts",
        List(Resources, _) => "list resources",
        List(Templates, _) => "list templates",
    }
}

/// What the cases above are made of reaches every answer, to every question, in every state of the task.
#[test]
fn the_cases_reach_every_answer() {
    let mut runner = TestRunner::deterministic();
    let mut seen = BTreeSet::new();
    for _ in 0..96 {
        let case = any_case().new_tree(&mut runner).unwrap().current();
        ask_all(case, |task, question, cause| {
            let state = match task {
                ActiveTask::None => "none",
                ActiveTask::One(_) => "one",
                ActiveTask::Several => "several",
            };
            seen.insert((kind(question), state, format!("{cause:?}")));
        });
    }
    for question in questions().into_iter().map(kind).collect::<BTreeSet<_>>() {
        let mut causes = vec![Unknown, Forbidden, Silence, Permitted];
        if matches!(question, "call" | "get" | "read" | "ask") {
            causes.push(ForbiddenWithReason);
        }
        if matches!(question, "read" | "complete template" | "list resources" | "list templates") {
            causes.push(NotAUri);
        }
        for (cause, state) in causes.iter().flat_map(|cause| ["none", "one", "several"].map(|state| (cause, state))) {
            assert!(seen.contains(&(question, state, format!("{cause:?}"))), "{question}, {state}, {cause:?}");
        }
    }
}
