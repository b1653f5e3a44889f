//! What several servers behind one endpoint cost: a filtered list of 1,000 tools (20 servers with 50 each), and finding
//! out whom a name or a URI is for. Wanted: a list in less than 200 µs, a name in less than 100 ns.

use std::hint::black_box;
use std::sync::Arc;

use criterion::{Criterion, criterion_group, criterion_main};
use portcullis::base::ids::ServerId;
use portcullis::identity::active::{ActiveTask, TaskNames};
use portcullis::identity::caller::Caller;
use portcullis::mcp::catalog::{Catalog, EraCatalog, ListKind, Listing, ServerCatalog, read_page};
use portcullis::mcp::merge::rewrite::{mentions_uri, rewrite_result};
use portcullis::mcp::merge::write::{Position, end_list_result, start_list_result};
use portcullis::mcp::merge::{Member, Merged};
use portcullis::mcp::method::Verb;
use portcullis::mcp::revision::{Era, Revision};
use portcullis::policy::decide::listed;
use portcullis::policy::pattern::Pattern;
use portcullis::policy::rule::{Effect, PolicySet, Rule};
use portcullis::policy::table::Table;
use serde_json::{Value, json};

const SERVERS: usize = 20;
const TOOLS: usize = 50;

fn tool(server: usize, number: usize) -> Value {
    json!({
        "name": format!("{}_object_{server}_{number}", ["read", "list", "update", "delete"][number % 4]),
        "description": "Does something with an object of a project, as its name says. Needs the project's id.",
        "inputSchema": {
            "type": "object", "required": ["project", "object"],
            "properties": {
                "project": { "type": "string", "description": "The project's id." },
                "object": { "type": "string", "description": "The object's id." },
                "limit": { "type": "integer", "minimum": 1, "maximum": 1000 },
            },
        },
        "annotations": { "readOnlyHint": number.is_multiple_of(4) },
    })
}

fn listing(kind: ListKind, entries: impl Iterator<Item = Value>) -> Option<Listing> {
    let page = json!({ kind.member(): entries.collect::<Vec<Value>>() }).to_string();
    let mut listing = Listing::default();
    listing.add(read_page(kind, page.as_bytes()).expect("written above"));
    Some(listing)
}

fn catalog() -> Catalog {
    let server = |server: usize| {
        let uris = (0..TOOLS).map(|n| json!({ "uri": format!("file:///s{server}/{n}.txt"), "name": "n" }));
        let template = json!({ "uriTemplate": format!("note{server}://{{name}}"), "name": "n" });
        let era = EraCatalog {
            events: false,
            protocol: Revision::NEWEST,
            capabilities: json!({ "tools": {}, "resources": {} }),
            server_info: None,
            instructions: None,
            lists: [
                listing(ListKind::Tools, (0..TOOLS).map(|number| tool(server, number))),
                None,
                listing(ListKind::Resources, uris),
                listing(ListKind::Templates, std::iter::once(template)),
            ],
        };
        Some(ServerCatalog { modern: Some(era), ..ServerCatalog::default() })
    };
    Catalog::build((0..SERVERS).map(server).collect())
}

fn merge(c: &mut Criterion) {
    let names: Vec<Arc<str>> = (0..SERVERS).map(|server| Arc::from(format!("server-{server}"))).collect();
    let catalog = catalog();
    let rule = |id: &str, effect, pattern: &str| Rule {
        id: id.into(),
        effect,
        patterns: vec![Pattern::parse(pattern).expect("written here")],
        tasks: Vec::new(),
        reason: None,
        ..Rule::default()
    };
    let rules = vec![rule("all", Effect::Permit, "*/*"), rule("not", Effect::Forbid, "*/delete_*")];
    let set = Arc::new(PolicySet::new(TaskNames::default(), rules));
    let (table, _) = Table::compile(&set, &names, &catalog);
    let caller = Caller::anonymous();
    let members: Vec<Member<'_>> =
        names.iter().enumerate().map(|(index, name)| Member { server: ServerId::from_index(index), name }).collect();
    for (style, prefixed) in [("prefix", true), ("bare", false)] {
        let (merged, _) = Merged::build(&members, prefixed, &catalog);
        let mut out = Vec::new();
        c.bench_function(&format!("tools/list of 1,000 tools, 750 shown, {style}"), |b| {
            b.iter(|| {
                out.clear();
                start_list_result(&mut out, Era::Modern, ListKind::Tools);
                let next = merged.write_items(
                    &mut out,
                    &catalog,
                    Era::Modern,
                    ListKind::Tools,
                    Position::default(),
                    &mut |server, item| listed(&table, &caller, ActiveTask::None, server, ListKind::Tools, item),
                );
                end_list_result(&mut out, Era::Modern, 60_000, None, &[]);
                black_box((out.len(), next))
            });
        });
        c.bench_function(&format!("build, {style}"), |b| b.iter(|| Merged::build(&members, prefixed, &catalog)));
    }
    let (merged, _) = Merged::build(&members, true, &catalog);
    let resolve = |name: &str| merged.resolve(Era::Modern, ListKind::Tools, name).is_some();
    c.bench_function("resolve a prefixed name", |b| b.iter(|| resolve(black_box("server-17__read_object_17_20"))));
    let route = |uri: &str| merged.route(Era::Modern, uri, &mut |_, _| true).is_some();
    for (what, uri) in [
        ("listed", "file:///s17/20.txt"),
        ("of a template", "note17://anything"),
        ("with a prefix", "mcp+server-17:file:///else"),
        ("of a scheme", "file:///else"),
    ] {
        c.bench_function(&format!("route a URI, {what}"), |b| b.iter(|| route(black_box(uri))));
    }
    let text = json!({ "type": "text", "text": "x".repeat(1_000) });
    let link = json!({ "type": "resource_link", "uri": "file:///else", "name": "n" });
    let plain = json!({ "jsonrpc": "2.0", "id": 1, "result": { "content": [text] } }).to_string();
    let linked = json!({ "jsonrpc": "2.0", "id": 1, "result": { "content": [text, link] } }).to_string();
    c.bench_function("a result of 1 KB without a URI", |b| b.iter(|| mentions_uri(black_box(plain.as_bytes()))));
    c.bench_function("a result of 1 KB with a URI", |b| {
        b.iter(|| {
            rewrite_result(Verb::ToolsCall, black_box(linked.as_bytes()), &mut |uri| {
                Some(merged.expose_uri(Era::Modern, ServerId(17), uri).into_owned())
            })
        });
    });
}

criterion_group!(benches, merge);
criterion_main!(benches);
