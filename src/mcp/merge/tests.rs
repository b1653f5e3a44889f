//! Names and URIs there and back, over made-up endpoints, and what is written for them.

use std::collections::BTreeSet;

use proptest::prelude::*;
use serde_json::{Value, json};

use super::rewrite::{mentions_uri, rewrite_result};
use super::write::{
    Lack, Lacking, Part, Position, Together, end_list_result, start_list_result, write_discover_result,
    write_initialize_result,
};
use super::*;
use crate::base::limits::{INSTRUCTIONS_BYTES_MAX, INSTRUCTIONS_SERVER_BYTES_MAX, LIST_PAGE_ITEMS};
use crate::mcp::catalog::{Listing, ServerCatalog, read_page};
use crate::mcp::method::Verb;
use crate::mcp::revision::Revision;

const SERVERS: [&str; 4] = ["docs", "a", "pay-2", "a-b"];

/// What a server lists: tools, prompts, resources, templates; each a name or a whole definition.
#[derive(Clone, Debug, Default)]
struct Offer {
    lists: [Vec<Value>; 4],
    capabilities: Value,
    instructions: Option<String>,
}

impl Offer {
    fn new(lists: [&[&str]; 4]) -> Self {
        let values = lists.map(|names| names.iter().map(|name| Value::from(*name)).collect());
        Self { lists: values, capabilities: json!({"tools": {}, "prompts": {}, "resources": {}}), instructions: None }
    }

    fn era(&self) -> EraCatalog {
        let list = |kind: ListKind| {
            let definition = |value: &Value| match (value, kind) {
                (Value::String(name), ListKind::Tools) => json!({"name": name, "inputSchema": {"type": "object"}}),
                (Value::String(name), ListKind::Prompts) => json!({"name": name}),
                (Value::String(name), ListKind::Resources) => json!({"uri": name, "name": "n"}),
                (Value::String(name), ListKind::Templates) => json!({"name": "n", "uriTemplate": name}),
                (value, _) => value.clone(),
            };
            let entries: Vec<Value> = self.lists[kind.index()].iter().map(definition).collect();
            let mut listing = Listing::default();
            listing.add(read_page(kind, json!({kind.member(): entries}).to_string().as_bytes()).unwrap());
            Some(listing)
        };
        EraCatalog {
            protocol: Revision::NEWEST,
            capabilities: self.capabilities.clone(),
            server_info: None,
            instructions: self.instructions.as_deref().map(Into::into),
            events: false,
            lists: ListKind::ALL.map(list),
        }
    }
}

/// These servers at one endpoint, all of the modern era; `None`: not known yet.
fn merged(offers: &[Option<Offer>], prefixed: bool) -> (Merged, Vec<MergeWarning>, Catalog) {
    let known =
        |offer: &Option<Offer>| Some(ServerCatalog { modern: Some(offer.as_ref()?.era()), ..ServerCatalog::default() });
    // Numbers that are not their places: an endpoint's order is its own.
    let catalog = Catalog::build(offers.iter().rev().map(known).collect());
    let number = |at: usize| ServerId::from_index(offers.len() - 1 - at);
    let members: Vec<_> = (0..offers.len()).map(|at| Member { server: number(at), name: SERVERS[at] }).collect();
    let (merged, warnings) = Merged::build(&members, prefixed, &catalog);
    (merged, warnings, catalog)
}

fn server(merged: &Merged, name: &str) -> ServerId {
    merged.servers()[SERVERS.iter().position(|server| *server == name).unwrap()]
}

fn resolve<'n>(merged: &Merged, kind: ListKind, exposed: &'n str) -> Option<(&'static str, &'n str)> {
    let (found, name) = merged.resolve(Era::Modern, kind, exposed)?;
    let at = merged.servers().iter().position(|server| *server == found).unwrap();
    Some((SERVERS[at], name))
}

fn route(merged: &Merged, uri: &str) -> Option<(&'static str, String)> {
    let (found, own) = merged.route(Era::Modern, uri, &mut |_, _| true)?;
    let at = merged.servers().iter().position(|server| *server == found).unwrap();
    Some((SERVERS[at], own.into_owned()))
}

fn lists(merged: &Merged, catalog: &Catalog, kind: ListKind) -> Vec<Value> {
    let mut out = b"[".to_vec();
    assert_eq!(merged.write_items(&mut out, catalog, Era::Modern, kind, Position::default(), &mut |_, _| true), None);
    out.push(b']');
    serde_json::from_slice(&out).unwrap_or_else(|fault| panic!("{fault}: {}", String::from_utf8_lossy(&out)))
}

fn named(merged: &Merged, catalog: &Catalog, kind: ListKind) -> Vec<String> {
    let by = match kind {
        ListKind::Tools | ListKind::Prompts => "name",
        ListKind::Resources => "uri",
        ListKind::Templates => "uriTemplate",
    };
    lists(merged, catalog, kind).iter().map(|entry| entry[by].as_str().unwrap().to_owned()).collect()
}

#[test]
fn a_server_alone_is_shown_as_it_is() {
    let (one, warnings, catalog) =
        merged(&[Some(Offer::new([&["docs__x"], &["p"], &["mcp+docs:x"], &["{+u}"]]))], false);
    let docs = server(&one, "docs");
    assert_eq!((one.alone(), one.servers(), warnings.len()), (Some(docs), &[docs][..], 0));
    for name in ["docs__x", "unknown", "__", ""] {
        assert_eq!(resolve(&one, ListKind::Tools, name), Some(("docs", name)));
        assert_eq!(one.expose_name(docs, name), name);
    }
    for uri in ["mcp+docs:x", "ui://mcp+docs+x", "", "file:///x"] {
        assert_eq!(route(&one, uri), Some(("docs", uri.to_owned())));
        assert_eq!(one.expose_uri(Era::Modern, docs, uri), uri);
        assert_eq!(one.expose_template(Era::Modern, docs, uri), uri);
    }
    assert_eq!(named(&one, &catalog, ListKind::Tools), ["docs__x"]);
    let (prefixed, ..) = merged(&[Some(Offer::default())], true);
    assert_eq!(prefixed.alone(), None);
}

#[test]
fn prefixed_names_lead_to_their_server() {
    let offer = || Some(Offer::new([&["search", "_x", "a__b", "pay-2__x"], &["search"], &[], &[]]));
    let (both, warnings, catalog) = merged(&[offer(), offer(), None], true);
    assert_eq!(warnings, []);
    for (exposed, want) in [
        ("docs__search", Some(("docs", "search"))),
        ("a__search", Some(("a", "search"))),
        ("docs___x", Some(("docs", "_x"))),
        ("docs__a__b", Some(("docs", "a__b"))),
        ("docs__pay-2__x", Some(("docs", "pay-2__x"))),
        ("docs__none", Some(("docs", "none"))),
        ("pay-2__x", Some(("pay-2", "x"))),
        ("a-b__x", None),
        ("search", None),
        ("DOCS__search", None),
        ("docs__", None),
        ("__search", None),
        ("docs_search", None),
        ("", None),
    ] {
        assert_eq!(resolve(&both, ListKind::Tools, exposed), want, "{exposed}");
        assert_eq!(resolve(&both, ListKind::Prompts, exposed), want, "{exposed}");
    }
    assert_eq!(both.resolve(Era::Legacy, ListKind::Tools, "docs__search"), None, "it speaks the other era alone");
    assert!(both.resolve(Era::Legacy, ListKind::Tools, "pay-2__x").is_some(), "it may turn out to speak it");
    assert_eq!(
        named(&both, &catalog, ListKind::Tools),
        ["docs__search", "docs___x", "docs__a__b", "docs__pay-2__x", "a__search", "a___x", "a__a__b", "a__pay-2__x"]
    );
    assert_eq!(named(&both, &catalog, ListKind::Prompts), ["docs__search", "a__search"]);
}

#[test]
fn a_bare_name_is_the_first_servers() {
    let one = Offer::new([&["search", "only"], &["search"], &["x:1"], &[]]);
    let two = Offer::new([&["search", "other", "docs__only"], &["greet"], &["x:1", "x:2"], &[]]);
    let (both, warnings, catalog) = merged(&[Some(one), Some(two)], false);
    let (docs, a) = (server(&both, "docs"), server(&both, "a"));
    assert_eq!(
        warnings,
        [MergeWarning::Collision(Collision { kind: ListKind::Tools, name: "search".into(), kept: docs, withheld: a })]
    );
    for (name, want) in [
        ("search", Some("docs")),
        ("only", Some("docs")),
        ("other", Some("a")),
        ("docs__only", Some("a")),
        ("docs__search", None),
        ("none", None),
    ] {
        assert_eq!(resolve(&both, ListKind::Tools, name), want.map(|server| (server, name)), "{name}");
    }
    assert_eq!(resolve(&both, ListKind::Prompts, "only"), None);
    assert_eq!(named(&both, &catalog, ListKind::Tools), ["search", "only", "other", "docs__only"]);
    assert_eq!(named(&both, &catalog, ListKind::Resources), ["x:1", "mcp+a:x:1", "x:2"]);
    let search = |server| catalog.tool_item(server, Era::Modern, "search").unwrap();
    assert!(both.withheld(Era::Modern, ListKind::Tools, a, search(a)));
    assert!(!both.withheld(Era::Modern, ListKind::Tools, docs, search(docs)));
}

#[test]
fn long_names_are_told() {
    let name = "x".repeat(TOOL_NAME_CHARACTERS_WARN - "docs__".len());
    let longer = format!("{name}x");
    let offer = Offer::new([&[&name, &longer], &[&longer], &[], &[]]);
    let (both, warnings, _) = merged(&[Some(offer.clone()), None], true);
    let exposed = format!("docs__{longer}").into();
    assert_eq!(warnings, [MergeWarning::LongName { server: server(&both, "docs"), exposed }]);
    assert_eq!(merged(&[Some(offer), None], false).1, []);
}

#[test]
fn apps_call_tools_by_their_own_names() {
    let tool = |name: &str, meta: Value| json!({"name": name, "inputSchema": {"type": "object"}, "_meta": meta});
    let mut one = Offer::new([&["plain"], &[], &["ui://w"], &[]]);
    one.lists[0].extend([
        tool("shown", json!({"ui": {"resourceUri": "ui://w"}})),
        tool("flat", json!({"ui/resourceUri": "ui://w"})),
        tool("model", json!({"ui": {"resourceUri": "ui://w", "visibility": ["model"]}})),
        tool("both", json!({"ui": {"visibility": ["model", "app"]}})),
        tool("twice", json!({"ui": {"resourceUri": "ui://w"}})),
        tool("odd", json!({"ui": "ui://w"})),
    ]);
    let mut two = Offer::new([&["twice", "other"], &["shown"], &[], &[]]);
    two.lists[0].push(tool("theirs", json!({"ui": {"resourceUri": "ui://w"}, "ui/resourceUri": "ui://w"})));
    let (apps, _, catalog) = merged(&[Some(one), Some(two)], true);
    for (name, want) in [
        ("shown", Some("docs")),
        ("flat", Some("docs")),
        ("both", Some("docs")),
        ("theirs", Some("a")),
        ("model", None),
        ("plain", None),
        ("odd", None),
        ("twice", None),
        ("other", None),
    ] {
        assert_eq!(resolve(&apps, ListKind::Tools, name), want.map(|server| (server, name)), "{name}");
        assert_eq!(resolve(&apps, ListKind::Prompts, name), None);
    }
    let tools = lists(&apps, &catalog, ListKind::Tools);
    let theirs = tools.iter().find(|tool| tool["name"] == "a__theirs").unwrap();
    assert_eq!(
        theirs["_meta"],
        json!({"ui": {"resourceUri": "ui://mcp+a+w"}, "ui/resourceUri": "ui://mcp+a+w"}),
        "the other server has a user interface of this URI"
    );
    assert_eq!(tools[1]["_meta"], json!({"ui": {"resourceUri": "ui://w"}}));
}

#[test]
fn uris_pass_unchanged_where_they_lead_back() {
    let docs = Offer::new([&[], &[], &["file:///r", "x:1", "https://h/d", "ui://w"], &["file:///{+path}", "t://{a}"]]);
    let a = Offer::new([&[], &[], &["x:1", "mcp+docs:x", "http://h/a"], &["file:///a/{b}", "t://{a}", "{+any}"]]);
    let (both, _, catalog) = merged(&[Some(docs), Some(a)], true);
    let exposed = |name: &str, uri: &str| both.expose_uri(Era::Modern, server(&both, name), uri).into_owned();
    for (name, uri, want) in [
        ("docs", "x:1", "x:1"),
        ("a", "x:1", "mcp+a:x:1"),
        ("docs", "file:///any/thing", "file:///any/thing"),
        ("a", "file:///any/thing", "mcp+a:file:///any/thing"),
        ("a", "file:///a/1", "file:///a/1"),
        ("docs", "file:///a/1", "mcp+docs:file:///a/1"),
        ("a", "mcp+docs:x", "mcp+a:mcp+docs:x"),
        ("a", "mcp+nobody:x", "mcp+nobody:x"),
        ("docs", "ui://w", "ui://w"),
        ("a", "ui://w", "ui://mcp+a+w"),
        ("a", "ui://mcp+docs+w", "ui://mcp+a+mcp+docs+w"),
        ("a", "https://h/d", "mcp+a:https://h/d"),
        ("docs", "", "mcp+docs:"),
    ] {
        assert_eq!(exposed(name, uri), want, "{name} {uri}");
        assert_eq!(route(&both, want), Some((name, uri.to_owned())), "{want}");
    }
    assert_eq!(
        named(&both, &catalog, ListKind::Templates),
        ["mcp+docs:file:///{+path}", "t://{a}", "file:///a/{b}", "mcp+a:t://{a}", "mcp+a:{+any}"]
    );
    assert_eq!(route(&both, "mcp+docs:"), Some(("docs", String::new())));
    assert_eq!(route(&both, "mcp+a:ui://w"), Some(("a", "ui://w".to_owned())), "the plain prefix goes everywhere");
}

#[test]
fn what_nobody_lists_goes_by_its_scheme() {
    let docs = Offer::new([&[], &[], &["x:1"], &[]]);
    let a = Offer::new([&[], &[], &["Y:1"], &["z:{a}"]]);
    let mut none = Offer::new([&["t"], &[], &[], &[]]);
    none.capabilities = json!({"tools": {}});
    let (three, ..) = merged(&[Some(none), Some(docs), Some(a)], true);
    for (uri, want) in [("x:2", "a"), ("y:2", "pay-2"), ("z:2/3", "pay-2"), ("q:1", "a"), ("no uri", "a")] {
        assert_eq!(route(&three, uri).unwrap().0, want, "{uri}");
        assert_eq!(three.expose_uri(Era::Modern, server(&three, want), uri), uri);
    }
    let from = |name, uri: &'static str| three.expose_uri(Era::Modern, server(&three, name), uri);
    assert_eq!(from("pay-2", "x:2"), "mcp+pay-2:x:2");
    assert_eq!(from("docs", "x:2"), "mcp+docs:x:2", "it has no resources, but may link to one");
    assert_eq!(from("pay-2", "https://h/"), "https://h/", "clients fetch these themselves");
    // A server of which nothing is known may list anything.
    let (open, ..) = merged(&[Some(Offer::new([&[], &[], &["x:1"], &[]])), None], true);
    let docs = server(&open, "docs");
    assert_eq!(open.expose_uri(Era::Modern, docs, "x:1"), "x:1");
    assert_eq!(open.expose_uri(Era::Modern, docs, "x:2"), "mcp+docs:x:2");
    assert_eq!((route(&open, "x:2").unwrap().0, route(&open, "y:1").unwrap().0), ("docs", "a"));
    let known = |uri| open.route(Era::Modern, uri, &mut |server, _| server == docs).unwrap().0;
    assert_eq!(known("y:1"), docs, "who has nothing to do with the other server does not notice it");
}

#[test]
fn what_is_hidden_leads_where_it_would_if_it_did_not_exist() {
    let offers = |uris: &[&str]| {
        let docs = Offer::new([&[], &[], uris, &[]]);
        merged(&[Some(docs), Some(Offer::new([&[], &[], &["y:1"], &["x:{a}"]]))], true).0
    };
    let (with, without) = (offers(&["x:1", "x:2"]), offers(&["x:2"]));
    let a = server(&with, "a");
    let only_a = |merged: &Merged, uri: &str| {
        merged.route(Era::Modern, uri, &mut |server, _| server == a).map(|(server, uri)| (server, uri.into_owned()))
    };
    assert_eq!(only_a(&with, "x:1"), only_a(&without, "x:1"));
    let nobody = |merged: &Merged, uri: &str| Some(merged.route(Era::Modern, uri, &mut |_, _| false)?.0);
    assert_eq!(nobody(&with, "x:1"), Some(server(&with, "docs")), "it is written down whose it would have been");
    assert_eq!(nobody(&merged(&[None, None], true).0, "x:1"), None);
}

#[test]
fn templates_go_out_and_come_back() {
    let docs = Offer::new([&[], &[], &["f:a/b"], &["f:{x}", "{broken", "ui://{w}"]]);
    let a = Offer::new([&[], &[], &[], &["f:{x}", "g:{y}", "{broken"]]);
    let (both, _, catalog) = merged(&[Some(docs), Some(a)], true);
    let written = named(&both, &catalog, ListKind::Templates);
    assert_eq!(written, ["f:{x}", "mcp+docs:{broken", "ui://mcp+docs+{w}", "mcp+a:f:{x}", "g:{y}", "mcp+a:{broken"]);
    for (exposed, (want, own)) in written.iter().zip([
        ("docs", "f:{x}"),
        ("docs", "{broken"),
        ("docs", "ui://{w}"),
        ("a", "f:{x}"),
        ("a", "g:{y}"),
        ("a", "{broken"),
    ]) {
        let (found, back) = both.route_template(Era::Modern, exposed, &mut |_, _| true).unwrap();
        assert_eq!((found, &*back), (server(&both, want), own), "{exposed}");
    }
    // A completion may also refer to a resource.
    let (found, _) = both.route_template(Era::Modern, "g:1", &mut |_, _| true).unwrap();
    assert_eq!(found, server(&both, "a"));
}

/// The same servers, of which each one's hidden entries stay its own.
fn hidden(mut offers: Vec<ServerCatalog>, at: usize, name: &str) -> Vec<Option<ServerCatalog>> {
    for list in offers[at].modern.iter_mut().flat_map(|era| era.lists.iter_mut().flatten()) {
        list.hide(|known| known == name);
    }
    offers.into_iter().map(Some).collect()
}

fn apps_tool(name: &str) -> Value {
    json!({"name": name, "inputSchema": {"type": "object"}, "_meta": {"ui": {"resourceUri": "ui://w"}}})
}

#[test]
fn what_is_hidden_stays_taken() {
    let mut offer = Offer::new([&[], &["ask"], &["notes://1"], &["notes://{x}"]]);
    offer.lists[0] = vec![apps_tool("pay")];
    let known = || ServerCatalog { modern: Some(offer.era()), ..ServerCatalog::default() };
    let members = [Member { server: ServerId(0), name: "docs" }, Member { server: ServerId(1), name: "a" }];
    for (kind, name) in [(ListKind::Tools, "pay"), (ListKind::Prompts, "ask")] {
        let catalog = Catalog::build(hidden(vec![known(), known()], 0, name));
        let (bare, warnings) = Merged::build(&members, false, &catalog);
        assert_eq!(resolve(&bare, kind, name), Some(("docs", name)), "and there is none: nobody's");
        assert_eq!(named(&bare, &catalog, kind), [""; 0]);
        let is_told = |warning: &MergeWarning| matches!(warning, MergeWarning::Collision(it) if &*it.name == name);
        assert!(warnings.iter().any(is_told));
        let (prefixed, _) = Merged::build(&members, true, &catalog);
        assert_eq!(resolve(&prefixed, kind, name), None, "an app's name is not the other's for that");
    }
    for prefixed in [false, true] {
        let catalog = Catalog::build(hidden(vec![known(), known()], 0, "notes://1"));
        let (both, _) = Merged::build(&members, prefixed, &catalog);
        assert_eq!(route(&both, "notes://1"), Some(("docs", "notes://1".to_owned())));
        assert_eq!(named(&both, &catalog, ListKind::Resources), ["mcp+a:notes://1"]);
        let catalog = Catalog::build(hidden(vec![known(), known()], 0, "notes://{x}"));
        let (both, _) = Merged::build(&members, prefixed, &catalog);
        assert_eq!(route(&both, "notes://2"), Some(("docs", "notes://2".to_owned())));
    }
}

#[test]
fn what_a_server_had_waits_for_it() {
    let mut offer = Offer::new([&[], &["ask"], &["notes://1"], &["other://{x}"]]);
    offer.lists[0] = vec![apps_tool("pay")];
    let known = || Some(ServerCatalog { modern: Some(offer.era()), ..ServerCatalog::default() });
    let members = [Member { server: ServerId(0), name: "docs" }, Member { server: ServerId(1), name: "a" }];
    let (both, gone) = (Catalog::build(vec![known(), known()]), Catalog::build(vec![None, known()]));
    for prefixed in [false, true] {
        let (before, _) = Merged::build(&members, prefixed, &both);
        let (mut now, _) = Merged::follow(Some(&before), &members, prefixed, &gone);
        // However many snapshots it takes.
        for _ in 0..2 {
            now = Merged::follow(Some(&now), &members, prefixed, &gone).0;
        }
        for (kind, name) in [(ListKind::Tools, "pay"), (ListKind::Prompts, "ask")] {
            let want = (!prefixed).then_some(("docs", name));
            assert_eq!(resolve(&now, kind, name), want);
            assert_eq!(named(&now, &gone, kind).len(), usize::from(prefixed));
        }
        for uri in ["notes://1", "other://9"] {
            assert_eq!(route(&now, uri), Some(("docs", uri.to_owned())));
        }
        assert_eq!(named(&now, &gone, ListKind::Resources), ["mcp+a:notes://1"]);
        let (back, _) = Merged::follow(Some(&now), &members, prefixed, &both);
        assert_eq!(back.generation(Era::Modern, ListKind::Tools), before.generation(Era::Modern, ListKind::Tools));
        // It is known, and has none of it any more.
        let without = Some(ServerCatalog { modern: Some(Offer::default().era()), ..ServerCatalog::default() });
        let without = Catalog::build(vec![without, known()]);
        let (freed, _) = Merged::follow(Some(&now), &members, prefixed, &without);
        assert_eq!(resolve(&freed, ListKind::Tools, "pay"), Some(("a", "pay")));
        assert_eq!(route(&freed, "notes://1"), Some(("a", "notes://1".to_owned())));
        // By its name, whichever its place.
        let turned = [members[1], members[0]];
        let (turned, _) = Merged::follow(Some(&before), &turned, prefixed, &gone);
        let found = turned.resolve(Era::Modern, ListKind::Tools, "pay").map(|(server, _)| server);
        assert_eq!(found, (!prefixed).then_some(ServerId(1)), "the first one's, which was known");
    }
}

#[test]
fn definitions_keep_all_other_bytes() {
    let raw = r#"{"tools":[ { "x":1.50, "name" : "a\u0062", "inputSchema":{"type":"object"} ,"_meta":{"ui":{"resourceUri":"ui:\/\/w"}}}]}"#;
    let mut listing = Listing::default();
    listing.add(read_page(ListKind::Tools, raw.as_bytes()).unwrap());
    let uris = r#"{"resources":[{"uri":"ui:\/\/w","name":"\u0041"},{"name":"B","uri":"\u0066:1"}]}"#;
    let mut resources = Listing::default();
    resources.add(read_page(ListKind::Resources, uris.as_bytes()).unwrap());
    let mut era = Offer::new([&[], &[], &[], &[]]).era();
    era.lists[0] = Some(listing);
    era.lists[2] = Some(resources.clone());
    let mut first = Offer::new([&[], &[], &[], &[]]).era();
    first.lists[2] = Some(resources);
    let server = |era| Some(ServerCatalog { modern: Some(era), ..ServerCatalog::default() });
    let catalog = Catalog::build(vec![server(first), server(era)]);
    let members = [Member { server: ServerId(0), name: "docs" }, Member { server: ServerId(1), name: "a" }];
    let (both, _) = Merged::build(&members, true, &catalog);
    let written = |kind| {
        let mut out = Vec::new();
        both.write_items(&mut out, &catalog, Era::Modern, kind, Position { member: 1, row: 0 }, &mut |_, _| true);
        String::from_utf8(out).unwrap()
    };
    assert_eq!(
        written(ListKind::Tools),
        r#"{ "x":1.50, "name" : "a__a\u0062", "inputSchema":{"type":"object"} ,"_meta":{"ui":{"resourceUri":"ui://mcp+a+w"}}}"#
    );
    assert_eq!(
        written(ListKind::Resources),
        r#"{"uri":"ui://mcp+a+w","name":"\u0041"},{"name":"B","uri":"mcp+a:\u0066:1"}"#
    );
    let mut one = Vec::new();
    let item = catalog.tool_item(ServerId(1), Era::Modern, "ab").unwrap();
    both.write_item(&mut one, Era::Modern, ServerId(1), ListKind::Tools, item);
    assert_eq!(String::from_utf8(one).unwrap(), written(ListKind::Tools));
}

#[test]
fn pages_join_to_the_whole() {
    let names: Vec<String> = (0..LIST_PAGE_ITEMS).map(|number| format!("t{number}")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let offer = || Some(Offer::new([&names, &[], &[], &[]]));
    let (three, _, catalog) = merged(&[offer(), offer(), offer()], true);
    let page = |from, odd: bool| {
        let mut shown = |_: ServerId, item: &Item| !odd || item.name.ends_with('1');
        let mut out = b"[".to_vec();
        let next = three.write_items(&mut out, &catalog, Era::Modern, ListKind::Tools, from, &mut shown);
        out.push(b']');
        let entries: Vec<Value> = serde_json::from_slice(&out).unwrap();
        (entries, next)
    };
    let (mut all, mut from, mut pages) = (Vec::new(), Some(Position::default()), 0);
    while let Some(position) = from {
        let (entries, next) = page(position, false);
        assert!(!entries.is_empty() && entries.len() <= LIST_PAGE_ITEMS);
        all.extend(entries.iter().map(|entry| entry["name"].as_str().unwrap().to_owned()));
        (from, pages) = (next, pages + 1);
    }
    let distinct: BTreeSet<&String> = all.iter().collect();
    assert_eq!((all.len(), distinct.len(), pages), (3 * LIST_PAGE_ITEMS, 3 * LIST_PAGE_ITEMS, 3));
    assert_eq!((&*all[0], &*all[LIST_PAGE_ITEMS]), ("docs__t0", "a__t0"));
    let (odd, next) = page(Position::default(), true);
    assert_eq!((odd.len(), next), (300, None), "what is not shown fills no page");
    assert_eq!(page(Position { member: 9, row: 0 }, false), (Vec::new(), None));
    assert_eq!(page(Position { member: 2, row: u32::MAX }, false), (Vec::new(), None));
}

#[test]
fn generations_follow_what_is_listed() {
    let of = |offers: &[Option<Offer>], prefixed| merged(offers, prefixed).0.generation(Era::Modern, ListKind::Tools);
    let offer = |tools: &[&str]| Some(Offer::new([tools, &[], &[], &[]]));
    let one = of(&[offer(&["a", "b"]), None], true);
    assert_eq!(one, of(&[offer(&["a", "b"]), None], true));
    let others = [
        of(&[offer(&["b", "a"]), None], true),
        of(&[offer(&["a"]), None], true),
        of(&[offer(&["a", "b"]), offer(&["c"])], true),
        of(&[offer(&["a", "b"]), None], false),
        of(&[offer(&["a", "b"])], true),
    ];
    assert!(!others.contains(&one));
    let resources = Some(Offer::new([&["a", "b"], &[], &["x:1"], &[]]));
    assert_eq!(one, of(&[resources, None], true), "another list");
}

#[test]
fn results_of_lists() {
    let written = |era, next, lacking: &[Lacking<'_>]| {
        let mut out = Vec::new();
        start_list_result(&mut out, era, ListKind::Tools);
        end_list_result(&mut out, era, 5, next, lacking);
        serde_json::from_slice::<Value>(&out).unwrap()
    };
    let info = json!({"name": "portcullis", "version": env!("CARGO_PKG_VERSION")});
    let lacking = [Lacking { server: "a", state: Lack::Missing }, Lacking { server: "b", state: Lack::Stale }];
    let told = json!([{"server": "a", "state": "missing"}, {"server": "b", "state": "stale"}]);
    assert_eq!(written(Era::Legacy, None, &[]), json!({"tools": []}));
    assert_eq!(
        written(Era::Legacy, Some("c"), &lacking),
        json!({"tools": [], "nextCursor": "c", "_meta": {"portcullis/servers": told}})
    );
    assert_eq!(
        written(Era::Modern, None, &lacking),
        json!({"resultType": "complete", "tools": [], "ttlMs": 5, "cacheScope": "private",
            "_meta": {"io.modelcontextprotocol/serverInfo": info, "portcullis/servers": told}})
    );
}

#[test]
fn who_several_servers_are_together() {
    let mut docs = Offer::new([&[], &[], &[], &[]]);
    docs.instructions = Some("Look first.".to_owned());
    docs.capabilities = json!({"tools": {}, "experimental": {"x": {}}, "tasks": {}, "extensions": {
        "io.modelcontextprotocol/ui": {"mimeTypes": ["text/html"], "deep": false}, "com.example/own": {"a": 1}}});
    let mut pay = Offer::new([&[], &[], &[], &[]]);
    pay.instructions = Some("  ".to_owned());
    pay.capabilities = json!({"tools": {"listChanged": false}, "resources": {"subscribe": true}, "logging": {},
        "extensions": {"io.modelcontextprotocol/ui": {"mimeTypes": ["text/html", "text/x"], "deep": true},
            "io.modelcontextprotocol/tasks": {}}});
    let (docs, pay) = (docs.era(), pay.era());
    let parts = [Part { name: "docs", offer: &docs }, Part { name: "pay", offer: &pay }];
    let mut together = Together { parts: &parts, more: false, instructions: true };
    let initialize = |together: &Together<'_>| {
        let mut out = Vec::new();
        write_initialize_result(&mut out, Revision::R2025_06_18, together, &[]);
        serde_json::from_slice::<Value>(&out).unwrap()
    };
    let ui = json!({"mimeTypes": ["text/html", "text/x"], "deep": true});
    assert_eq!(
        initialize(&together),
        json!({"protocolVersion": "2025-06-18", "instructions": "## docs\n\nLook first.",
            "serverInfo": {"name": "portcullis", "version": env!("CARGO_PKG_VERSION")},
            "capabilities": {"tools": {"listChanged": true}, "resources": {"listChanged": true, "subscribe": true},
                "logging": {}, "extensions": {"io.modelcontextprotocol/ui": ui, "com.example/own": {"a": 1}}}})
    );
    let mut out = Vec::new();
    write_discover_result(&mut out, &together, 7, &[Lacking { server: "x", state: Lack::Missing }]);
    let discovered: Value = serde_json::from_slice(&out).unwrap();
    assert_eq!(discovered["supportedVersions"], json!(["2026-07-28"]));
    assert_eq!(discovered["capabilities"]["extensions"]["io.modelcontextprotocol/tasks"], json!({}));
    assert_eq!(
        (&discovered["ttlMs"], &discovered["cacheScope"], &discovered["resultType"]),
        (&json!(7), &json!("private"), &json!("complete"))
    );
    assert_eq!(discovered["_meta"]["portcullis/servers"][0]["server"], "x");
    (together.more, together.instructions) = (true, false);
    let open = initialize(&together);
    assert_eq!((open.get("instructions"), &open["capabilities"]["prompts"]), (None, &json!({"listChanged": true})));
    assert_eq!(open["capabilities"].get("completions"), None);
}

#[test]
fn instructions_have_a_bound() {
    let mut offer = Offer::new([&[], &[], &[], &[]]);
    offer.instructions = Some("é".repeat(INSTRUCTIONS_SERVER_BYTES_MAX));
    let era = offer.era();
    let parts = [Part { name: "docs", offer: &era }; 9];
    let mut out = Vec::new();
    let together = Together { parts: &parts, more: false, instructions: true };
    let lacking = [Lacking { server: "a", state: Lack::Stale }];
    write_initialize_result(&mut out, Revision::NEWEST_LEGACY, &together, &lacking);
    let result: Value = serde_json::from_slice(&out).unwrap();
    assert_eq!(result["_meta"], json!({"portcullis/servers": [{"server": "a", "state": "stale"}]}));
    let text = result["instructions"].as_str().unwrap();
    assert!(text.len() <= INSTRUCTIONS_BYTES_MAX && text.matches("## docs").count() == 3, "{}", text.len());
}

#[test]
fn only_uris_of_results_are_rewritten() {
    let check = |verb, message: Value, want: &[&str]| {
        let message = message.to_string();
        let mut seen = Vec::new();
        let changed = rewrite_result(verb, message.as_bytes(), &mut |uri| {
            seen.push(uri.to_owned());
            Some(format!("<{uri}>"))
        });
        assert_eq!(seen, want, "{message}");
        let changed = changed.map(|changed| String::from_utf8(changed).unwrap());
        let by_hand =
            want.iter().fold(message.clone(), |text, uri| text.replace(&format!("\"{uri}\""), &format!("\"<{uri}>\"")));
        assert_eq!(changed.unwrap_or_else(|| message.clone()), by_hand);
        assert!(want.is_empty() || mentions_uri(message.as_bytes()), "{message}");
    };
    let blocks = json!([{"type": "text", "text": "uri", "uri": "no:1"}, {"type": "resource_link", "uri": "a:1", "name": "n"},
        {"type": "resource", "resource": {"uri": "a:2", "text": "{\"uri\":\"no:2\"}"}, "uri": "no:3"}, {"type": "resource"}]);
    check(
        Verb::ToolsCall,
        json!({"id": 1, "result": {"content": blocks, "structuredContent": {"uri": "no:4"},
            "_meta": {"ui": {"resourceUri": "ui://1"}, "ui/resourceUri": "ui://2"}}}),
        &["ui://1", "ui://2", "a:1", "a:2"],
    );
    check(
        Verb::ResourcesRead,
        json!({"result": {"contents": [{"uri": "a:1", "text": "x"}, {"uri": "a:2"}, {"uri": 3}], "uri": "no:1"}}),
        &["a:1", "a:2"],
    );
    check(
        Verb::PromptsGet,
        json!({"result": {"messages": [{"role": "user", "content": blocks[1]}, {"role": "user", "content": blocks[0]},
            {"content": blocks[2]}]}}),
        &["a:1", "a:2"],
    );
    check(Verb::ResourcesRead, json!({"error": {"code": -32002, "data": {"uri": "a:1"}, "message": "m"}}), &["a:1"]);
    check(Verb::ResourceUpdated, json!({"method": "m", "params": {"uri": "a:1"}}), &["a:1"]);
    check(
        Verb::TasksGet,
        json!({"result": {"taskId": "t", "status": "completed", "result": {"content": blocks}}}),
        &["a:1", "a:2"],
    );
    check(Verb::Complete, json!({"result": {"completion": {"values": ["a:1"]}, "uri": "a:2"}}), &[]);
    check(Verb::Ping, json!({"result": {"uri": "a:1"}}), &[]);
    check(Verb::ToolsCall, json!([1]), &[]);
    let escaped = br#"{"result":{"contents":[{"\u0075ri":"a:\u0031"}]}}"#;
    assert!(mentions_uri(escaped));
    let changed = rewrite_result(Verb::ResourcesRead, escaped, &mut |uri| Some(format!("\"{uri}")));
    assert_eq!(changed.unwrap(), br#"{"result":{"contents":[{"\u0075ri":"\"a:1"}]}}"#);
    assert_eq!(rewrite_result(Verb::ResourcesRead, escaped, &mut |_| None), None);
}

/// Names and URIs that are likely to be mistaken for one another.
fn name() -> impl Strategy<Value = String> {
    "(docs|a|pay-2|a-b)?(_|__|___)?[ab_]{1,2}|docs__a__b|é|x{128}"
}

fn uri() -> impl Strategy<Value = String> {
    "(mcp\\+(a|docs|zz):|ui://|ui://mcp\\+(a|docs)\\+)?(f|F|g|http|mcp\\+a)?:?(//)?[ab/]{0,3}"
}

fn template() -> impl Strategy<Value = String> {
    "(mcp\\+a:|ui://)?(f|g|http)?:?[ab/]{0,2}(\\{[+/?]?[xy]\\})?[ab/]{0,1}(\\{y\\})?"
}

fn offers() -> impl Strategy<Value = Vec<Option<Offer>>> {
    let few = |strategy: BoxedStrategy<String>| proptest::collection::vec(strategy, 0..4);
    let offer = (few(name().boxed()), few(name().boxed()), few(uri().boxed()), few(template().boxed())).prop_map(
        |(tools, prompts, uris, templates)| {
            let texts = |list: &[String]| list.iter().map(|text| Value::from(text.as_str())).collect();
            let lists = [texts(&tools), texts(&prompts), texts(&uris), texts(&templates)];
            let mut offer = Offer { lists, ..Offer::new([&[], &[], &[], &[]]) };
            if offer.lists[2].is_empty() && offer.lists[3].is_empty() {
                offer.capabilities = json!({"tools": {}});
            }
            offer
        },
    );
    proptest::collection::vec(proptest::option::weighted(0.9, offer), 1..=4)
}

fn is_web(uri: &str) -> bool {
    ["http:", "https:"].iter().any(|scheme| uri.to_ascii_lowercase().starts_with(scheme))
}

proptest! {
    #[test]
    fn every_name_leads_back(offers in offers(), prefixed: bool, more in proptest::collection::vec(name(), 0..4)) {
        let (merged, warnings, catalog) = merged(&offers, prefixed);
        for kind in [ListKind::Tools, ListKind::Prompts] {
            let mut seen = BTreeSet::new();
            for (server, offer) in merged.servers().iter().zip(&offers) {
                let items = catalog.server(*server).and_then(|server| server.era(Era::Modern)?.list(kind));
                for item in items.into_iter().flat_map(|list| &list.items) {
                    let exposed = merged.expose_name(*server, &item.name);
                    if merged.withheld(Era::Modern, kind, *server, item) {
                        let told = |warning: &MergeWarning| matches!(warning, MergeWarning::Collision(collision)
                            if collision.kind == kind && collision.name == item.name && collision.withheld == *server);
                        prop_assert!(!prefixed && warnings.iter().any(told));
                        prop_assert_ne!(merged.resolve(Era::Modern, kind, &exposed).unwrap().0, *server);
                        continue;
                    }
                    prop_assert!(seen.insert(exposed.to_string()), "{} is somebody else's", exposed);
                    prop_assert_eq!(merged.resolve(Era::Modern, kind, &exposed), Some((*server, &*item.name)));
                }
                // Names that a server does not list.
                if prefixed && offer.is_some() {
                    for name in &more {
                        let exposed = merged.expose_name(*server, name);
                        prop_assert_eq!(merged.resolve(Era::Modern, kind, &exposed), Some((*server, &**name)));
                    }
                }
            }
            let written: BTreeSet<String> = named(&merged, &catalog, kind).into_iter().collect();
            prop_assert_eq!(written, seen);
            for name in &more {
                if let Some((server, own)) = merged.resolve(Era::Modern, kind, name) {
                    prop_assert!(merged.servers().contains(&server) && name.ends_with(own));
                }
            }
        }
    }

    #[test]
    fn every_uri_leads_back(offers in offers(), more in proptest::collection::vec(uri(), 0..4), deny in 0_u16..5) {
        let (merged, _, catalog) = merged(&offers, true);
        let mut seen = BTreeSet::new();
        for server in merged.servers() {
            let mut may = |other: ServerId, _: &str| other == *server || other.0 != deny;
            let known = catalog.server(*server).and_then(|server| server.era(Era::Modern));
            let items = |kind| known.and_then(|era| era.list(kind)).into_iter().flat_map(|list| &list.items);
            let listed = items(ListKind::Resources).map(|item| &*item.name);
            let written: Vec<&str> = listed.clone().chain(more.iter().map(String::as_str)).collect();
            for (at, uri) in written.into_iter().enumerate() {
                let exposed = merged.expose_uri(Era::Modern, *server, uri);
                // Links into the web are left alone, and need not be the server's at all.
                if is_web(uri) && at >= listed.clone().count() {
                    continue;
                }
                prop_assert_eq!(
                    merged.route(Era::Modern, &exposed, &mut may),
                    Some((*server, Cow::Borrowed(uri))), "{}", exposed);
                if at < listed.clone().count() {
                    prop_assert!(seen.insert(exposed.into_owned()), "{} is somebody else's", uri);
                }
            }
            for item in items(ListKind::Templates) {
                let exposed = merged.expose_template(Era::Modern, *server, &item.name);
                let back = merged.route_template(Era::Modern, &exposed, &mut may);
                prop_assert_eq!(back, Some((*server, Cow::Borrowed(&*item.name))), "{}", exposed);
                for value in ["", "a", "b/a", "mcp+a:f:b"] {
                    let expand = |text: &str| expanded(text, value);
                    let (Some(exposed), Some(own)) = (expand(&exposed), expand(&item.name)) else { continue };
                    let back = merged.route(Era::Modern, &exposed, &mut may);
                    prop_assert_eq!(back, Some((*server, Cow::Owned(own))), "{} of {}", exposed, item.name);
                }
            }
        }
        let written = named(&merged, &catalog, ListKind::Resources);
        let distinct: BTreeSet<String> = written.iter().cloned().collect();
        prop_assert_eq!(&distinct, &seen);
        prop_assert_eq!(written.len(), distinct.len());
    }
}

/// The template with `value` for every variable (RFC 6570); `None` where that is no expansion.
fn expanded(template: &str, value: &str) -> Option<String> {
    let mut out = String::new();
    let mut rest = template;
    while let Some(at) = rest.find('{') {
        out.push_str(&rest[..at]);
        let (expression, after) = rest[at + 1..].split_once('}')?;
        let escaped = || value.replace('/', "%2F").replace(':', "%3A").replace('+', "%2B");
        match expression.as_bytes().first()? {
            b'+' => out.push_str(value),
            b'/' => out.extend(["/", &escaped()]),
            b'?' => out.extend(["?", &expression[1..], "=", &escaped()]),
            _ => out.push_str(&escaped()),
        }
        rest = after;
    }
    out.push_str(rest);
    Some(out)
}
