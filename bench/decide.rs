//! What a decision costs, and that it does not grow with the number of rules. Wanted: at 10,000 rules, 4,096 tools and
//! 1,000 classes of callers at most 200 ns without a condition and 1 us with one; a class in 1 ms; compiled in 1 s, to
//! 64 MiB.

use std::hint::black_box;
use std::sync::Arc;
use std::time::Instant;

use criterion::{Criterion, criterion_group, criterion_main};
use portcullis::base::ids::{ServerId, TaskId};
use portcullis::base::span::Span;
use portcullis::identity::active::{ActiveTask, TaskNames};
use portcullis::identity::caller::Caller;
use portcullis::jsonrpc::Shape;
use portcullis::mcp::call::{Call, Meta, Object, Text};
use portcullis::mcp::catalog::{Catalog, EraCatalog, Item, ListKind, Listing, ServerCatalog};
use portcullis::mcp::revision::Revision;
use portcullis::policy::cond::{ClaimTypes, Condition, Purpose};
use portcullis::policy::decide::{Scene, decide, listed, readable};
use portcullis::policy::needs::NoPast;
use portcullis::policy::pattern::Pattern;
use portcullis::policy::rule::{Effect, PolicySet, Rule};
use portcullis::policy::table::Table;

const SERVERS: usize = 16;
const TOOLS: usize = 4_096;
const TASKS: usize = 64;
const HEADS: usize = 1_000;

fn server_names() -> Vec<Arc<str>> {
    (0..SERVERS).map(|server| Arc::from(format!("server-{server}"))).collect()
}

fn tool(number: usize) -> String {
    format!("{}_object_{number}", ["read", "list", "update", "delete"][number % 4])
}

fn catalog() -> Catalog {
    let item = |name: String| Item::named(&name);
    let server = |server| {
        let items = (server..TOOLS).step_by(SERVERS).map(|number| item(tool(number))).collect();
        let tools = Listing { items, ..Listing::default() };
        let era = EraCatalog {
            events: false,
            protocol: Revision::NEWEST,
            capabilities: serde_json::json!({}),
            server_info: None,
            instructions: None,
            lists: [Some(tools), None, None, None],
        };
        Some(ServerCatalog { modern: Some(era), ..ServerCatalog::default() })
    };
    Catalog::build((0..SERVERS).map(server).collect())
}

/// Wide and narrow rules, with and without tasks, of tools and resources.
fn policy(rules: usize) -> Arc<PolicySet> {
    policy_of(rules, |_, _| ())
}

/// The same, with something changed in each rule.
fn policy_of(rules: usize, change: impl Fn(usize, &mut Rule)) -> Arc<PolicySet> {
    let rule = |number: usize| {
        let server = number % SERVERS;
        let (effect, pattern) = match number % 8 {
            0 => (Effect::Permit, format!("server-{server}/read_*")),
            1 => (Effect::Permit, format!("server-{server}/{}", tool(number % TOOLS))),
            2 => (Effect::Permit, "*/list_*".to_owned()),
            3 => (Effect::Forbid, format!("*/delete_*{}", number % 100)),
            4 => (Effect::Permit, format!("server-{server}!resource:file:///data/{number}/*")),
            5 => (Effect::Permit, format!("server-{server}/*_{}", number % 1_000)),
            6 => (Effect::Forbid, format!("server-{server}!resource:file:///data/*/secret/{number}")),
            _ => (Effect::Permit, format!("server-{server}/update_*")),
        };
        let mut rule = Rule {
            id: Arc::from(format!("rule-{number}")),
            effect,
            patterns: vec![Pattern::parse(&pattern).expect("written above")],
            tasks: if number.is_multiple_of(3) { vec![TaskId::from_index(number / 3 % TASKS)] } else { Vec::new() },
            reason: (number.is_multiple_of(5)).then(|| Arc::from("Ask a person.")),
            ..Rule::default()
        };
        change(number, &mut rule);
        rule
    };
    let tasks = TaskNames::new((0..TASKS).map(|task| format!("task-{task}")));
    Arc::new(PolicySet::new(tasks, (0..rules).map(rule).collect()))
}

fn call() -> Call {
    Call {
        era: Revision::NEWEST.era(),
        revision: Revision::NEWEST,
        shape: Shape::Request,
        id: None,
        method: None,
        subject: Object::Tool(Text { span: Span::new(0, 10), unescaped: None }),
        meta: Meta::default(),
        arguments: None,
        returned: None,
    }
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

fn caller(tasks: u16) -> Caller {
    Caller { tasks: (0..tasks).map(TaskId).collect(), ..Caller::anonymous() }
}

/// Calls of every tool in turn, parted into those that go and those that do not.
fn calls(c: &mut Criterion, table: &Table, size: &str) {
    for (what, held, task) in [
        ("no task", 0, ActiveTask::None),
        ("one task", 1, ActiveTask::One(TaskId(0))),
        ("several tasks", 4, ActiveTask::Several),
    ] {
        let caller = caller(held);
        let judged = |(server, tool): &(ServerId, String)| {
            decide(table, &caller, task, *server, black_box(call()), tool, &SCENE).is_ok()
        };
        let place = |number| (ServerId::from_index(number % SERVERS), tool(number));
        let (yes, no): (Vec<_>, Vec<_>) = (0..TOOLS).map(place).partition(judged);
        for (outcome, targets) in [("permit", yes), ("deny", no)] {
            let mut next = targets.iter().cycle();
            c.bench_function(&format!("{outcome}, {what}, {size}"), |b| {
                b.iter(|| judged(black_box(next.next().expect("there are some of each"))));
            });
        }
    }
}

fn lists(c: &mut Criterion, table: &Table, catalog: &Catalog, size: &str) {
    let (caller, task) = (caller(1), ActiveTask::One(TaskId(0)));
    let mut entries: Vec<(ServerId, &Item)> = Vec::new();
    for id in (0..SERVERS).map(ServerId::from_index) {
        let era = catalog.server(id).and_then(|server| server.modern.as_ref()).expect("built above");
        let tools = era.list(ListKind::Tools).expect("built above");
        entries.extend(tools.items.iter().map(|item| (id, item)));
    }
    entries.truncate(1_000);
    c.bench_function(&format!("1,000 tools listed, {size}"), |b| {
        let is_shown =
            |(server, item): &&(ServerId, &Item)| listed(table, &caller, task, *server, ListKind::Tools, item);
        b.iter(|| black_box(&entries).iter().filter(is_shown).count());
    });
}

fn resources(c: &mut Criterion, table: &Table, size: &str) {
    let caller = caller(0);
    for (what, uri) in
        [("resource", "file:///data/4/report.txt"), ("resource in another form", "file:///data/./4/%72eport.txt")]
    {
        c.bench_function(&format!("{what}, {size}"), |b| {
            b.iter(|| readable(table, &caller, ActiveTask::None, ServerId(4), black_box(uri)));
        });
    }
}

fn condition(text: &str, purpose: Purpose) -> Arc<Condition> {
    Arc::new(Condition::parse(text, purpose, &ClaimTypes::default()).expect("written here"))
}

/// Some 350 bytes, and what is asked for in their midst.
const ARGUMENTS: &str = r#"{"invoice_id":"in_1029384756","account":"acme","to":{"name":"Ann Example","country":"DE",
    "address":"1 Long Street, 10115 Berlin"},"amount":120.50,"reason":"The customer sent the goods back on Monday.",
    "currency":"EUR","tenant":"acme","note":"for the books of this year, as said on the phone; nothing more to do",
    "reference":"case 4711, second letter"}"#;
const CONDITION: &str = r#"args.amount > 0 && args.amount <= 500 && args.currency in ["EUR", "USD"]"#;

/// Every third rule is for one of 1,000 kinds of callers, and one tool has conditions.
fn classes(c: &mut Criterion, servers: &[Arc<str>], catalog: &Catalog) {
    let set = policy_of(10_000, |number, rule| {
        if number % 3 == 1 {
            rule.who = Some(condition(&format!("claims.team == \"team-{}\"", number / 3 % HEADS), Purpose::Who));
        }
        if number == 0 {
            rule.when = Some(condition(CONDITION, Purpose::When));
            rule.patterns = vec![Pattern::parse("server-6/update_object_6").expect("written here")];
            rule.tasks = Vec::new();
        }
    });
    let start = Instant::now();
    let (table, _) = Table::compile(&set, servers, catalog);
    println!("compiled in {:?}, {} bytes, {} heads", start.elapsed(), table.bytes(), set.heads().len());
    let callers: Vec<Caller> = (0..HEADS)
        .map(|team| {
            let claims = format!("{{\"team\":\"team-{team}\"}}").into_bytes();
            let caller = Caller { claims: Arc::from(claims), ..Caller::anonymous() };
            let heads = set.heads_of(&caller);
            Caller { heads, ..caller }
        })
        .collect();
    let scene = Scene { body: ARGUMENTS.as_bytes(), ..SCENE };
    let judged = |caller: &Caller, (server, tool): &(ServerId, String)| {
        let call = Call { arguments: Some(Span::new(0, ARGUMENTS.len())), ..call() };
        decide(&table, caller, ActiveTask::None, *server, black_box(call), tool, &scene).is_ok()
    };
    let places: Vec<_> = (0..TOOLS).map(|number| (ServerId::from_index(number % SERVERS), tool(number))).collect();
    let (start, mut slowest) = (Instant::now(), 0);
    for caller in &callers {
        let start = Instant::now();
        black_box(judged(caller, &places[0]));
        slowest = slowest.max(start.elapsed().as_micros());
    }
    println!("a class at first sight: {:?} on average, {slowest} us at most", start.elapsed() / 1_000);
    println!("{:?} classes and their bytes", table.classes_kept());
    let mut next =
        (0..callers.len()).map(|at| (&callers[at * 7 % callers.len()], &places[at * 5 % places.len()])).cycle();
    c.bench_function("any of 1,000 classes, 10,000 rules", |b| {
        b.iter(|| {
            let (caller, place) = next.next().expect("a cycle");
            judged(black_box(caller), place)
        });
    });
    let place = (ServerId(6), "update_object_6".to_owned());
    assert!(judged(&callers[0], &place));
    let mut next = callers.iter().cycle();
    c.bench_function("a condition, any of 1,000 classes, 10,000 rules", |b| {
        b.iter(|| judged(black_box(next.next().expect("a cycle")), &place));
    });
}

fn bench(c: &mut Criterion) {
    let (catalog, servers) = (catalog(), server_names());
    for rules in [100, 10_000] {
        let set = policy(rules);
        let (table, _) = Table::compile(&set, &servers, &catalog);
        let size = format!("{rules} rules, {TOOLS} tools");
        calls(c, &table, &size);
        lists(c, &table, &catalog, &size);
        resources(c, &table, &size);
    }
    classes(c, &servers, &catalog);
    let set = policy(10_000);
    let mut group = c.benchmark_group("plane");
    group.sample_size(10);
    group.bench_function("compile 10,000 rules", |b| {
        b.iter(|| Table::compile(&set, &servers, &catalog));
    });
    group.finish();
}

criterion_group!(benches, bench);
criterion_main!(benches);
