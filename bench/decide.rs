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
use portcullis::policy::decide::{decide, listed, readable};
use portcullis::policy::pattern::Pattern;
use portcullis::policy::rule::{Effect, PolicySet, Rule};
use portcullis::policy::table::Table;

const SERVERS: usize = 16;
const TOOLS: usize = 4_096;
const TASKS: usize = 64;

fn server_names() -> Vec<Arc<str>> {
    (0..SERVERS)
        .map(|server| Arc::from(format!("server-{server}")))
        .collect()
}

fn tool(number: usize) -> String {
    format!(
        "{}_object_{number}",
        ["read", "list", "update", "delete"][number % 4]
    )
}

fn catalog() -> Catalog {
    let item = |name: String| Item {
        name: name.into(),
        raw: Box::default(),
        params: Box::default(),
        id: Item::UNNUMBERED,
    };
    let server = |server| {
        let items = (server..TOOLS)
            .step_by(SERVERS)
            .map(|number| item(tool(number)))
            .collect();
        let tools = Listing {
            items,
            ttl_ms: None,
            public: false,
        };
        let era = EraCatalog {
            protocol: Revision::NEWEST,
            capabilities: serde_json::json!({}),
            server_info: None,
            lists: [Some(tools), None, None, None],
        };
        Some(ServerCatalog {
            modern: Some(era),
            legacy: None,
        })
    };
    Catalog::build((0..SERVERS).map(server).collect())
}

/// Wide and narrow rules, with and without tasks, of tools and resources.
fn policy(rules: usize) -> Arc<PolicySet> {
    let rule = |number: usize| {
        let server = number % SERVERS;
        let (effect, pattern) = match number % 8 {
            0 => (Effect::Permit, format!("server-{server}/read_*")),
            1 => (
                Effect::Permit,
                format!("server-{server}/{}", tool(number % TOOLS)),
            ),
            2 => (Effect::Permit, "*/list_*".to_owned()),
            3 => (Effect::Forbid, format!("*/delete_*{}", number % 100)),
            4 => (
                Effect::Permit,
                format!("server-{server}!resource:file:///data/{number}/*"),
            ),
            5 => (
                Effect::Permit,
                format!("server-{server}/*_{}", number % 1_000),
            ),
            6 => (
                Effect::Forbid,
                format!("server-{server}!resource:file:///data/*/secret/{number}"),
            ),
            _ => (Effect::Permit, format!("server-{server}/update_*")),
        };
        Rule {
            id: Arc::from(format!("rule-{number}")),
            effect,
            patterns: vec![Pattern::parse(&pattern).expect("written above")],
            tasks: if number % 3 == 0 {
                vec![TaskId::from_index(number / 3 % TASKS)]
            } else {
                Vec::new()
            },
            reason: (number % 5 == 0).then(|| Arc::from("Ask a person.")),
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
        subject: Object::Tool(Text {
            span: Span::new(0, 10),
            unescaped: None,
        }),
        meta: Meta::default(),
        arguments: None,
    }
}

fn caller(tasks: u16) -> Caller {
    Caller {
        tasks: (0..tasks).map(TaskId).collect(),
        ..Caller::anonymous()
    }
}

fn bench(c: &mut Criterion) {
    let (catalog, servers) = (catalog(), server_names());
    for rules in [100, 10_000] {
        let set = policy(rules);
        let (table, _) = Table::compile(&set, &servers, &catalog);
        let name = |what: &str| format!("{what}, {rules} rules, {TOOLS} tools");
        for (what, held, task) in [
            ("no task", 0, ActiveTask::None),
            ("one task", 1, ActiveTask::One(TaskId(0))),
            ("several tasks", 4, ActiveTask::Several),
        ] {
            let caller = caller(held);
            let names: Vec<(ServerId, String)> = (0..TOOLS)
                .map(|number| (ServerId::from_index(number % SERVERS), tool(number)))
                .collect();
            let let_go = |(server, tool): &&(ServerId, String)| {
                decide(&table, &caller, task, *server, call(), tool).is_ok()
            };
            let (yes, no): (Vec<_>, Vec<_>) = names.iter().partition(let_go);
            for (outcome, names) in [("permit", yes), ("deny", no)] {
                let mut next = names.iter().cycle();
                c.bench_function(&name(&format!("{outcome}, {what}")), |b| {
                    b.iter(|| {
                        let (server, tool) = next.next().expect("there are some of each");
                        black_box(decide(
                            &table,
                            &caller,
                            task,
                            *server,
                            black_box(call()),
                            tool,
                        ))
                        .is_ok()
                    });
                });
            }
        }
        let caller = caller(1);
        let task = ActiveTask::One(TaskId(0));
        let lists: Vec<(ServerId, &Item)> = (0..SERVERS)
            .map(ServerId::from_index)
            .flat_map(|id| {
                let era = catalog
                    .server(id)
                    .and_then(|server| server.modern.as_ref())
                    .expect("built above");
                era.list(ListKind::Tools)
                    .into_iter()
                    .flat_map(move |list| list.items.iter().map(move |item| (id, item)))
            })
            .take(1_000)
            .collect();
        c.bench_function(&name("1,000 tools listed"), |b| {
            let is_shown = |(server, item): &&(ServerId, &Item)| {
                listed(&table, &caller, task, *server, ListKind::Tools, item)
            };
            b.iter(|| black_box(&lists).iter().filter(is_shown).count());
        });
        for (what, uri) in [
            ("resource read", "file:///data/4/report.txt"),
            ("resource in another form", "file:///data/./4/%72eport.txt"),
        ] {
            c.bench_function(&name(what), |b| {
                b.iter(|| {
                    readable(
                        &table,
                        &caller,
                        ActiveTask::None,
                        ServerId(4),
                        black_box(uri),
                    )
                });
            });
        }
        c.bench_function(&name("compile"), |b| {
            b.iter(|| Table::compile(&set, &servers, &catalog))
        });
    }
}

criterion_group!(benches, bench);
criterion_main!(benches);
