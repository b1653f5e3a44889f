//! What a decision costs, and that it does not grow with the number of rules. Wanted: at most 200 ns at 10,000 rules
//! and 4,096 tools.

use std::hint::black_box;
use std::sync::Arc;

use criterion::{Criterion, criterion_group, criterion_main};
use portcullis::base::ids::{ServerId, TaskId};
use portcullis::base::span::Span;
use portcullis::identity::active::{ActiveTask, TaskNames};
use portcullis::identity::caller::Caller;
use portcullis::jsonrpc::Shape;
use portcullis::mcp::call::{Call, Meta, Object, Text};
use portcullis::mcp::catalog::{Catalog, EraCatalog, Item, ListKind, Listing, ServerCatalog};
use portcullis::mcp::revision::Revision;
use portcullis::policy::decide::{Scene, decide, listed, readable};
use portcullis::policy::needs::NoPast;
use portcullis::policy::pattern::Pattern;
use portcullis::policy::rule::{Effect, PolicySet, Rule};
use portcullis::policy::table::Table;

const SERVERS: usize = 16;
const TOOLS: usize = 4_096;
const TASKS: usize = 64;

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
        Rule {
            id: Arc::from(format!("rule-{number}")),
            effect,
            patterns: vec![Pattern::parse(&pattern).expect("written above")],
            tasks: if number.is_multiple_of(3) { vec![TaskId::from_index(number / 3 % TASKS)] } else { Vec::new() },
            reason: (number.is_multiple_of(5)).then(|| Arc::from("Ask a person.")),
            ..Rule::default()
        }
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
