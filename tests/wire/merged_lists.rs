//! The lists of several servers as one: whole, in order, filtered for each caller, paged; and what is said of several
//! servers together. Nothing of it costs a server anything.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::support::gateway::{Gateway, Setup, Who, eventually};
use crate::support::http::Wire;
use crate::support::mcp::{LEGACY, MODERN, Post, names, open_session, text_of, tools};
use crate::support::oracle;
use crate::support::schema::Schema;
use crate::support::upstream::{Acted, Plan, Reserved, Seen, Upstream, definition, introduced, result};

/// Longer than anything here takes, and shorter than a list waits for a server that announced a change.
const SOON: Duration = Duration::from_millis(1_500);

fn behind(setup: Setup, servers: &[(&str, &Upstream)]) -> Setup {
    servers.iter().fold(setup, |setup, (name, upstream)| setup.server(name, &upstream.url()))
}

/// Starts it, and waits until it knows all its servers.
#[track_caller]
fn start(setup: Setup) -> Gateway {
    start_without(setup, &[])
}

/// The same, but for these.
#[track_caller]
fn start_without(setup: Setup, absent: &[&str]) -> Gateway {
    let gateway = setup.start();
    eventually("all servers are known", || {
        let status = status(&gateway);
        let mut servers = status["servers"].as_array().expect("a list of servers").iter();
        servers.all(|server| server["known"] == true || absent.iter().any(|name| server["name"] == *name))
    });
    gateway
}

fn pair(plans: [Plan; 2]) -> (Gateway, Upstream, Upstream) {
    let [docs, mail] = plans.map(Plan::start);
    let gateway = start(behind(Setup::new(), &[("docs", &docs), ("mail", &mail)]).open());
    (gateway, docs, mail)
}

/// A server whose lists have `pages` pages of three entries each, named after it.
fn paged(name: &'static str, pages: u32) -> Plan {
    Plan::tools(&[]).script(move |seen, out| {
        let page = seen.message["params"]["cursor"].as_str().map_or(0, |cursor| cursor.parse::<u32>().unwrap_or(99));
        let entries = |write: &dyn Fn(String) -> Value| -> Value {
            (0..3).map(|n| write(format!("{name}-{}", page * 3 + n))).collect()
        };
        let mut list = match seen.method() {
            "tools/list" => json!({ "tools": entries(&|name| definition(&name)) }),
            "prompts/list" => json!({ "prompts": entries(&|name| json!({ "name": name })) }),
            "resources/list" => {
                json!({ "resources": entries(&|uri| json!({ "uri": format!("{name}:{uri}"), "name": "n" })) })
            }
            _ => return Acted::Default,
        };
        if page + 1 < pages {
            list["nextCursor"] = json!((page + 1).to_string());
        }
        if seen.is_modern() {
            (list["ttlMs"], list["cacheScope"]) = (json!(60_000), json!("public"));
        }
        out.json(200, "", &result(seen, list));
        Acted::Done
    })
}

fn status(gateway: &Gateway) -> Value {
    let ask = format!("GET /status HTTP/1.1\r\nhost: {}\r\n\r\n", gateway.admin);
    Wire::to(gateway.admin).ask(ask.as_bytes()).json()
}

fn listed(upstream: &Upstream) -> usize {
    upstream.seen().iter().filter(|seen| seen.method().ends_with("/list")).count()
}

/// What a list says of the servers behind it.
fn lacking(answer: &Value) -> Value {
    answer["result"]["_meta"]["portcullis/servers"].clone()
}

const LISTS: [(&str, &str, &str, &str); 3] = [
    ("tools/list", "tools", "name", "ListToolsResult"),
    ("prompts/list", "prompts", "name", "ListPromptsResult"),
    ("resources/list", "resources", "uri", "ListResourcesResult"),
];

/// Each server's pages come whole, in the endpoint's order, in both eras; and nobody asks a server for them.
#[test]
fn all_pages_of_all_servers_are_one_list() {
    let (one, two, three) = (paged("one", 4).start(), paged("two", 1).start(), paged("three", 2).start());
    let servers = [("one", &one), ("two", &two), ("three", &three)];
    // Another order than that of their names.
    let gateway = start(
        behind(Setup::new(), &servers)
            .set("/endpoints", json!({ "/mcp": { "servers": ["three", "one", "two"] } }))
            .open(),
    );
    let before = servers.map(|(_, upstream)| listed(upstream));
    let session = open_session(&gateway, |post| post);
    let want = |write: &dyn Fn(&str, u32) -> String| -> Vec<String> {
        [("three", 6), ("one", 12), ("two", 3)]
            .iter()
            .flat_map(|(server, count)| (0..*count).map(|n| write(server, n)))
            .collect()
    };
    let named = want(&|server, n| format!("{server}__{server}-{n}"));
    let uris = want(&|server, n| format!("{server}:{server}-{n}"));
    for _ in 0..10 {
        for (method, list, by, shape) in LISTS {
            let want = if by == "uri" { &uris } else { &named };
            let (modern, legacy) = (Post::modern(method, json!({})), Post::legacy(&session, method, json!({})));
            for (post, revision) in [(modern, MODERN), (legacy, LEGACY)] {
                let answer = post.to(&gateway);
                assert_eq!(names(&answer, list, by), *want, "{method} of {revision}");
                let answer = answer.json();
                assert_eq!((&lacking(&answer), answer["result"].get("nextCursor")), (&Value::Null, None));
                if let Some(schema) = Schema::of(revision) {
                    schema.check(shape, &answer["result"]);
                }
                if revision == MODERN {
                    assert_eq!(answer["result"]["ttlMs"], 60_000);
                    assert_eq!(answer["result"]["cacheScope"], "private");
                }
            }
        }
    }
    assert_eq!(servers.map(|(_, upstream)| listed(upstream)), before, "no list reaches a server");
    oracle::check(&gateway, &servers);
}

/// A list holds as long as its shortest part does.
#[test]
fn a_list_holds_as_long_as_its_shortest_part() {
    let short = |ttl_ms: Option<u64>| {
        Plan::tools(&["t"]).script(move |seen, out| {
            if seen.method() != "tools/list" || !seen.is_modern() {
                return Acted::Default;
            }
            let mut list = json!({ "tools": [definition("t")], "cacheScope": "public" });
            ttl_ms.into_iter().for_each(|ttl_ms| list["ttlMs"] = json!(ttl_ms));
            out.json(200, "", &result(seen, list));
            Acted::Done
        })
    };
    let (gateway, _docs, _mail) = pair([short(Some(90_000)), short(Some(45_000))]);
    let ttl = |gateway: &Gateway| Post::modern("tools/list", json!({})).to(gateway).json()["result"]["ttlMs"].clone();
    assert_eq!(ttl(&gateway), 45_000);
    let (gateway, _docs, _mail) = pair([short(Some(90_000)), short(None)]);
    assert_eq!(ttl(&gateway), 0);
}

/// Each caller sees what its rules show, under its task; and nothing of another's.
#[test]
fn a_list_is_the_callers_own() {
    let (docs, mail) = (Plan::tools(&["read", "write"]).start(), Plan::tools(&["read", "send"]).start());
    let gateway = start(
        behind(Setup::new(), &[("docs", &docs), ("mail", &mail)])
            .tokens("deny")
            .task("research")
            .task("outreach")
            .rule(json!({ "id": "reading", "permit": ["*/read"], "tasks": ["research", "outreach"] }))
            .rule(json!({ "id": "sending", "permit": ["mail/*", "mail!*"], "tasks": ["outreach"] })),
    );
    let all = ["docs__read", "mail__read", "mail__send"];
    for (tasks, task, want) in [
        (&["research"][..], None, &all[..2]),
        (&["outreach"], None, &all),
        (&["research", "outreach"], Some("research"), &all[..2]),
        (&["research", "outreach"], Some("outreach"), &all),
        (&["research", "outreach"], None, &[]),
        (&[], None, &[]),
    ] {
        let token = gateway.token(&Who { tasks, ..Who::default() });
        let with = |post: Post| match task {
            Some(task) => post.token(&token).field("portcullis-task", task),
            None => post.token(&token),
        };
        assert_eq!(tools(&gateway, with), want, "{tasks:?} {task:?}");
        let session = open_session(&gateway, with);
        let legacy = with(Post::legacy(&session, "tools/list", json!({}))).to(&gateway);
        assert_eq!(names(&legacy, "tools", "name"), want, "{tasks:?} {task:?}");
        let resources = with(Post::modern("resources/list", json!({}))).to(&gateway);
        let shown = if want == all { vec!["mcp+mail:note://open", "mcp+mail:note://shut"] } else { vec![] };
        assert_eq!(names(&resources, "resources", "uri"), shown, "the first server has these too");
        // What a session can do is said once: with any task that the caller has.
        let introduced = with(Post::initialize(LEGACY)).to(&gateway).json();
        let can = &introduced["result"]["capabilities"];
        assert_eq!(can.get("tools").is_some(), !tasks.is_empty(), "{can}");
        assert_eq!(can.get("resources").is_some(), !tasks.is_empty(), "{can}");
    }
    oracle::check(&gateway, &[("docs", &docs), ("mail", &mail)]);
}

/// A server that was never there costs its own part, and whoever it concerns is told; when nobody is there, the answer
/// is an error and no empty list.
#[test]
fn a_dead_server_costs_its_own_part() {
    let (docs, dead, gone) = (Plan::tools(&["read"]).start(), Reserved::new(), Reserved::new());
    let setup = Setup::new()
        .tokens("deny")
        .task("research")
        .task("outreach")
        .server("docs", &docs.url())
        .server("dead", &dead.url())
        .server("gone", &gone.url())
        .set("/endpoints", json!({ "/mcp": { "servers": ["dead", "docs"] }, "/dead": { "servers": ["dead", "gone"] } }))
        .rule(json!({ "id": "docs", "permit": ["docs/*", "docs!*"] }))
        .rule(json!({ "id": "dead", "permit": ["dead/*", "gone/*"], "tasks": ["outreach"] }))
        .rule(json!({ "id": "hidden", "forbid": ["gone/*", "gone!*"] }));
    let gateway = start_without(setup, &["dead", "gone"]);
    let audience = [gateway.url("/mcp"), gateway.url("/dead")];
    let audience: Vec<&str> = audience.iter().map(String::as_str).collect();
    let token = |tasks: &[&str]| gateway.token_for(&Who { tasks, ..Who::default() }, &audience);
    let (concerned, other) = (token(&["outreach"]), token(&["research"]));
    let missing = json!([{ "server": "dead", "state": "missing" }]);
    for (token, lacks) in [(&concerned, &missing), (&other, &Value::Null)] {
        let session = open_session(&gateway, |post| post.token(token));
        let modern = Post::modern("tools/list", json!({})).token(token).to(&gateway);
        let legacy = Post::legacy(&session, "tools/list", json!({})).token(token).to(&gateway);
        for answer in [modern, legacy] {
            assert_eq!((answer.status(), names(&answer, "tools", "name")), (200, vec!["docs__read".to_owned()]));
            assert_eq!(lacking(&answer.json()), *lacks, "{}", answer.text());
        }
        let ttl = Post::modern("tools/list", json!({})).token(token).to(&gateway).json()["result"]["ttlMs"].clone();
        assert_eq!(ttl, if lacks.is_null() { 60_000 } else { 0 });
        Post::call("docs__read").token(token).echoed(&gateway);
        let alone = Post::modern("tools/list", json!({})).token(token).at("/dead").to(&gateway);
        if lacks.is_null() {
            // There is nothing here for this caller, whether the servers are there or not.
            assert_eq!(alone.json()["result"]["tools"], json!([]), "{}", alone.text());
        } else {
            assert_eq!((alone.status(), &alone.json()["error"]["code"]), (503, &json!(-32_603)), "{}", alone.text());
            assert_eq!(
                alone.json()["error"]["message"],
                "Not reached yet: dead; try again.",
                "and nothing of the other"
            );
        }
    }
    // When it comes, its part is there.
    let back = dead.start(Plan::tools(&["alive"]));
    let all = ["dead__alive", "docs__read"];
    eventually("its part is there", || tools(&gateway, |post| post.token(&concerned)) == all);
    let answer = Post::modern("tools/list", json!({})).token(&concerned).to(&gateway).json();
    assert_eq!((&lacking(&answer), &answer["result"]["ttlMs"]), (&Value::Null, &json!(60_000)));
    oracle::check(&gateway, &[("docs", &docs), ("dead", &back)]);
}

/// A server that went away keeps its part, marked as old, until it is back.
#[test]
fn a_server_that_went_away_keeps_its_part() {
    let (docs, mail) = (Plan::tools(&["read"]).start(), Plan::tools(&["send"]).script(hasty_lists).start());
    let gateway = start(behind(Setup::new(), &[("docs", &docs), ("mail", &mail)]).open());
    let both = ["docs__read", "mail__send"];
    assert_eq!(tools(&gateway, |post| post), both);
    let address = mail.address();
    drop(mail);
    let list = || Post::modern("tools/list", json!({})).to(&gateway).json();
    let stale = json!([{ "server": "mail", "state": "stale" }]);
    eventually("the list says so", || lacking(&list()) == stale);
    assert_eq!(tools(&gateway, |post| post), both);
    assert_eq!(list()["result"]["ttlMs"], 0);
    let session = open_session(&gateway, |post| post);
    assert_eq!(lacking(&Post::legacy(&session, "tools/list", json!({})).to(&gateway).json()), stale);
    Post::call("docs__read").echoed(&gateway);
    let back = Reserved::at(address).start(Plan::tools(&["send"]));
    eventually("it is whole again", || lacking(&list()).is_null());
    oracle::check(&gateway, &[("docs", &docs), ("mail", &back)]);
}

/// A server whose lists hold for a moment only: it is asked often, and missed soon.
fn hasty_lists(seen: &Seen, out: &mut crate::support::upstream::Out<'_>) -> Acted {
    if seen.method() != "tools/list" {
        return Acted::Default;
    }
    let list = json!({ "tools": out.tools(), "ttlMs": 0, "cacheScope": "public" });
    out.json(200, "", &result(seen, list));
    Acted::Done
}

/// A server that does not answer the gateway's own questions keeps nobody waiting for another's tools.
#[test]
fn a_slow_server_is_not_waited_for() {
    let slow = Plan::tools(&["send"]).script(|seen, out| {
        // It answers once, and then never.
        if seen.method().ends_with("/list") && out.passes("slow") {
            out.note("asked again");
            out.pass("end");
        }
        Acted::Default
    });
    let (docs, mail) = (Plan::tools(&["read"]).start(), slow.start());
    let gateway = start(behind(Setup::new(), &[("docs", &docs), ("mail", &mail)]).open());
    assert_eq!(tools(&gateway, |post| post), ["docs__read", "mail__send"]);
    eventually("the gateway listens", || mail.open_streams() > 0);
    mail.open("slow");
    mail.change_tools(&["send", "more"]);
    mail.noted("asked again");
    // The busiest machine has a quiet moment among these.
    let quick = (0..5).any(|_| {
        let began = Instant::now();
        Post::call("docs__read").echoed(&gateway);
        began.elapsed() < SOON
    });
    assert!(quick, "a call of another server waits for the slow one's list");
    assert_eq!(tools(&gateway, |post| post), ["docs__read", "mail__send"], "a list waits, but not for ever");
    mail.open("end");
    eventually("the new tool is there", || tools(&gateway, |post| post).contains(&"mail__more".to_owned()));
    oracle::check(&gateway, &[("docs", &docs), ("mail", &mail)]);
}

/// A change is seen by whoever asks after it was announced.
#[test]
fn a_change_is_seen_at_once() {
    let (gateway, docs, mail) = pair([Plan::tools(&["read"]), Plan::tools(&["send"])]);
    eventually("the gateway listens", || mail.open_streams() > 0 && docs.open_streams() > 0);
    mail.change_tools(&["send", "draft"]);
    eventually("the new tool is there", || tools(&gateway, |post| post) == ["docs__read", "mail__send", "mail__draft"]);
    Post::call("mail__draft").echoed(&gateway);
    oracle::check(&gateway, &[("docs", &docs), ("mail", &mail)]);
}

/// So many tools.
fn many(prefix: &str, count: usize) -> Plan {
    let names: Vec<String> = (0..count).map(|n| format!("{prefix}{n}")).collect();
    Plan::tools(&names.iter().map(String::as_str).collect::<Vec<_>>())
}

/// Requests with a cursor that is ada's, of the modern list of tools at `/mcp`; each is another list or another cursor.
fn strange(text: &str, ada: &str, bob: &str, legacy: Post) -> Vec<(&'static str, Post)> {
    let modern = |params: Value| Post::modern("tools/list", params).token(ada);
    let mut changed = text.as_bytes().to_vec();
    changed[50] = if changed[50] == b'A' { b'B' } else { b'A' };
    let changed = String::from_utf8(changed).expect("it was ASCII");
    vec![
        ("another's", Post::modern("tools/list", json!({ "cursor": text })).token(bob)),
        ("another list's", Post::modern("prompts/list", json!({ "cursor": text })).token(ada)),
        ("another endpoint's", modern(json!({ "cursor": text })).at("/two")),
        ("a server's own path", modern(json!({ "cursor": text })).at("/s/docs/mcp")),
        ("the other era's", legacy),
        ("made up", modern(json!({ "cursor": "2" }))),
        ("empty", modern(json!({ "cursor": "" }))),
        ("no text", modern(json!({ "cursor": 2 }))),
        ("null", modern(json!({ "cursor": null }))),
        ("changed", modern(json!({ "cursor": changed }))),
        ("longer", modern(json!({ "cursor": format!("{text}A") }))),
    ]
}

/// Long lists come in pages, which join to the whole; a cursor is good for its owner, its list and its time.
#[test]
fn long_lists_come_in_pages() {
    let (docs, mail) = (many("d", 900).start(), many("m", 900).start());
    let gateway = start(
        behind(Setup::new(), &[("docs", &docs), ("mail", &mail)])
            .set(
                "/endpoints",
                json!({ "/mcp": { "servers": ["docs", "mail"] }, "/two": { "servers": ["docs", "mail"] } }),
            )
            .tokens("deny")
            .open(),
    );
    let audience = [gateway.url("/mcp"), gateway.url("/two"), gateway.url("/s/docs/mcp")];
    let audience: Vec<&str> = audience.iter().map(String::as_str).collect();
    let [ada, bob] = ["ada", "bob"].map(|subject| gateway.token_for(&Who { subject, ..Who::default() }, &audience));
    let page = |cursor: &Value| {
        let params = if cursor.is_null() { json!({}) } else { json!({ "cursor": cursor }) };
        Post::modern("tools/list", params).token(&ada)
    };
    let first = page(&Value::Null).to(&gateway);
    let cursor = first.json()["result"]["nextCursor"].clone();
    let text = cursor.as_str().unwrap_or_else(|| panic!("{:.2000}", first.text())).to_owned();
    let second = page(&cursor).to(&gateway);
    assert_eq!(second.json()["result"].get("nextCursor"), None, "{}", second.text());
    for answer in [&first, &second] {
        let answer = answer.json();
        if let Some(schema) = Schema::of(MODERN) {
            schema.check("ListToolsResult", &answer["result"]);
        }
    }
    let (one, two) = (names(&first, "tools", "name"), names(&second, "tools", "name"));
    let all: Vec<&String> = one.iter().chain(&two).collect();
    assert_eq!((one.len(), all.len(), all.iter().collect::<BTreeSet<_>>().len()), (1_000, 1_800, 1_800));
    assert_eq!((&*one[0], &*one[900], &**all[1_799]), ("docs__d0", "mail__m0", "mail__m899"));

    let session = open_session(&gateway, |post| post.token(&ada));
    let legacy = |cursor: &str| Post::legacy(&session, "tools/list", json!({ "cursor": cursor })).token(&ada);
    let whole = Post::legacy(&session, "tools/list", json!({})).token(&ada).to(&gateway).json();
    let theirs = whole["result"]["nextCursor"].as_str().unwrap_or_else(|| panic!("{whole:.2000}")).to_owned();
    assert_eq!(names(&legacy(&theirs).to(&gateway), "tools", "name").len(), 800);
    // Written otherwise it is the same cursor.
    let body = String::from_utf8(page(&cursor).body_bytes()).expect("a body is text");
    let escaped = format!("\\u{:04x}{}", text.as_bytes()[0], &text[1..]);
    let spelled = page(&cursor).body(body.replace(&text, &escaped)).to(&gateway);
    assert_eq!(names(&spelled, "tools", "name"), two);

    for (what, post) in strange(&text, &ada, &bob, legacy(&text)) {
        let answer = post.to(&gateway);
        assert_eq!(
            (answer.status(), &answer.json()["error"]["code"]),
            (200, &json!(-32_602)),
            "{what}: {}",
            answer.text()
        );
    }
    eventually("the gateway listens", || mail.open_streams() > 0);
    mail.change_tools(&["other"]);
    eventually("the list has changed", || {
        page(&cursor).to(&gateway).json()["error"]["code"] == -32_602
            && tools(&gateway, |post| post.token(&ada)).len() == 901
    });
    oracle::check(&gateway, &[("docs", &docs), ("mail", &mail)]);
}

/// With bare names the first server keeps a name; the other's is neither shown nor called, and the operator is told.
#[test]
fn a_bare_name_is_the_first_servers() {
    let (docs, mail) = (Plan::tools(&["read", "both"]).start(), Plan::tools(&["both", "send"]).start());
    let gateway = start(
        behind(Setup::new(), &[("docs", &docs), ("mail", &mail)])
            .set("/endpoints", json!({ "/mcp": { "servers": ["docs", "mail"], "names": "bare" } }))
            .open(),
    );
    assert_eq!(tools(&gateway, |post| post), ["read", "both", "send"]);
    let list = Post::modern("prompts/list", json!({})).to(&gateway);
    assert_eq!(names(&list, "prompts", "name"), ["greet", "plot"], "both have the same two");
    Post::call("both").echoed(&gateway);
    Post::call("send").echoed(&gateway);
    assert_eq!((docs.calls().len(), mail.calls().len()), (1, 1));
    assert_eq!(mail.calls()[0].name(), "send");
    for name in ["docs__both", "mail__both", "mail__send"] {
        assert_eq!(Post::call(name).to(&gateway).json()["error"]["code"], -32_602, "{name}");
    }
    assert_eq!((docs.calls().len(), mail.calls().len()), (1, 1));
    let told = "endpoint /mcp: tool both is at docs and at mail; that of mail is withheld here";
    assert_eq!(gateway.said(told), 1, "once");
    let status = status(&gateway);
    let endpoint = status["endpoints"].as_array().and_then(|all| all.iter().find(|one| one["path"] == "/mcp"));
    let endpoint = endpoint.unwrap_or_else(|| panic!("{status:#}"));
    assert_eq!((&endpoint["names"], &endpoint["servers"]), (&json!("bare"), &json!(["docs", "mail"])));
    assert_eq!(endpoint["withheld"][0], json!({ "kind": "tool", "name": "both", "server": "mail", "kept": "docs" }));
    assert_eq!(endpoint["withheld"].as_array().map(Vec::len), Some(3), "and two prompts");
    // Alone it is all there.
    let own = names(&Post::modern("tools/list", json!({})).at("/s/mail/mcp").to(&gateway), "tools", "name");
    assert_eq!(own, ["both", "send"]);
    oracle::check(&gateway, &[("docs", &docs), ("mail", &mail)]);
}

/// When the first server no longer has the name, it is the other's.
#[test]
fn a_name_that_is_free_again() {
    let docs = Plan::tools(&["both"]).start();
    let mail = Plan::tools(&["both"]).start();
    let gateway = start(
        behind(Setup::new(), &[("docs", &docs), ("mail", &mail)])
            .set("/endpoints", json!({ "/mcp": { "servers": ["docs", "mail"], "names": "bare" } }))
            .open(),
    );
    Post::call("both").echoed(&gateway);
    eventually("the gateway listens", || docs.open_streams() > 0);
    docs.change_tools(&["other"]);
    eventually("the list has changed", || tools(&gateway, |post| post) == ["other", "both"]);
    Post::call("both").echoed(&gateway);
    assert_eq!((docs.calls().len(), mail.calls().len()), (1, 1));
    oracle::check(&gateway, &[("docs", &docs), ("mail", &mail)]);
}

/// Whatever a tool is called: its name on the list leads to it, and nowhere else.
#[test]
fn odd_names_lead_to_their_tools() {
    let long = "x".repeat(128);
    let odd = ["_x", "__", "a__b", "mail__echo", "工具", "naïve name", "quo\"te\\", long.as_str(), "docs__docs__x"];
    let (gateway, docs, mail) = pair([Plan::tools(&odd), Plan::tools(&odd)]);
    let shown = tools(&gateway, |post| post);
    let want: Vec<String> =
        ["docs", "mail"].iter().flat_map(|server| odd.iter().map(move |name| format!("{server}__{name}"))).collect();
    assert_eq!(shown, want);
    let session = open_session(&gateway, |post| post);
    for (at, exposed) in shown.iter().enumerate() {
        let (upstream, name) = if at < odd.len() { (&docs, odd[at]) } else { (&mail, odd[at - odd.len()]) };
        let mut encoded = Vec::new();
        portcullis::mcp::headers::encode_value(exposed, &mut encoded);
        let header = String::from_utf8(encoded).expect("a field is ASCII");
        let modern = Post::call(exposed).without("mcp-name").field("mcp-name", &header);
        for post in [modern, Post::legacy_call(&session, exposed)] {
            post.echoed(&gateway);
            let seen = upstream.wait("the call", |seen| seen.value() == post.value);
            assert_eq!(seen.name(), name);
        }
    }
    assert_eq!(docs.calls().len() + mail.calls().len(), 4 * odd.len());
    let told = format!("docs__{long} is longer than 64 characters");
    assert_eq!(gateway.said(&told), 1, "the operator is told once");
    let status = status(&gateway);
    let endpoint = status["endpoints"].as_array().and_then(|all| all.iter().find(|one| one["path"] == "/mcp"));
    let endpoint = endpoint.unwrap_or_else(|| panic!("{status:#}"));
    assert_eq!(endpoint["long_names"], json!([format!("docs__{long}"), format!("mail__{long}")]));
    oracle::check(&gateway, &[("docs", &docs), ("mail", &mail)]);
}

/// What is hidden answers as what does not exist, byte for byte, however it is spelled, whether names have prefixes or
/// not; and nothing of it is on any list or in any other word of the gateway.
#[test]
fn hidden_is_unknown() {
    for style in ["prefix", "bare"] {
        let docs = Plan::tools(&["read", "secret"]).start();
        let mail = Plan::tools(&["send", "secret2"]).start();
        let gateway = start(
            behind(Setup::new(), &[("docs", &docs), ("mail", &mail)])
                .set("/endpoints", json!({ "/mcp": { "servers": ["docs", "mail"], "names": style } }))
                .rule(json!({ "id": "some", "permit": ["docs/read", "mail/send", "docs!resource:note://open"] })),
        );
        let session = open_session(&gateway, |post| post);
        let ask = |name: &str| {
            let legacy = Post::legacy_call(&session, name).to(&gateway);
            let modern = Post::call(name).to(&gateway);
            [modern, legacy].map(|answer| (answer.status(), answer.text().replace(name, "NAME")))
        };
        let unknown = ask("nothing-of-that-name");
        for name in
            ["secret", "docs__secret", "mail__secret", "mail__secret2", "secret2", "docs__secret2", "pay__secret"]
        {
            assert_eq!(ask(name), unknown, "{style}: {name}");
        }
        let read = |uri: &str| {
            let answer = Post::modern("resources/read", json!({ "uri": uri })).to(&gateway);
            (answer.status(), answer.text().replace(uri, "URI"))
        };
        let unknown = read("note://no-such");
        for uri in ["note://shut", "mcp+docs:note://shut", "mcp+mail:note://open", "mcp+pay:note://open", "other:x"] {
            assert_eq!(read(uri), unknown, "{style}: {uri}");
        }
        assert!(read("note://open").1.contains("words"));
        for method in ["tools/list", "prompts/list", "resources/list", "resources/templates/list"] {
            let text = Post::modern(method, json!({})).to(&gateway).text();
            for word in ["secret", "greet", "shut"] {
                assert!(!text.contains(word), "{style}: {method} tells of {word}: {text}");
            }
        }
        assert_eq!((docs.calls(), mail.calls()).0.len() + mail.calls().len(), 0);
        oracle::check(&gateway, &[("docs", &docs), ("mail", &mail)]);
    }
}

/// What several servers are together, in both eras.
#[test]
fn who_several_servers_are() {
    let say = |words: &'static str, capabilities: Value| {
        Plan::tools(&["t"]).script(move |seen, out| {
            let mut answer = match seen.method() {
                "initialize" => introduced(seen),
                "server/discover" => result(
                    seen,
                    json!({ "supportedVersions": [MODERN], "ttlMs": 60_000, "cacheScope": "public",
                        "_meta": { "io.modelcontextprotocol/serverInfo": { "name": "recorder", "version": "1" } } }),
                ),
                _ => return Acted::Default,
            };
            answer["result"]["capabilities"] = capabilities.clone();
            answer["result"]["instructions"] = json!(words);
            out.json(200, "", &answer);
            Acted::Done
        })
    };
    let docs = say("Look first.", json!({ "tools": {}, "experimental": { "x": {} } })).start();
    let mail =
        say("Be kind.", json!({ "tools": { "listChanged": true }, "resources": { "subscribe": true }, "logging": {} }))
            .start();
    let hidden = say("Psst.", json!({ "tools": {}, "completions": {} })).start();
    let gateway = start(
        behind(Setup::new(), &[("docs", &docs), ("mail", &mail), ("hidden", &hidden)])
            .set(
                "/endpoints",
                json!({ "/mcp": { "servers": ["docs", "mail", "hidden"] },
            "/quiet": { "servers": ["docs", "mail"], "instructions": false } }),
            )
            .rule(json!({ "id": "some", "permit": ["docs/*", "mail/*", "mail!*"] })),
    );
    let can = json!({ "tools": { "listChanged": true }, "resources": { "listChanged": true, "subscribe": true }, "logging": {} });
    let own = json!({ "name": "portcullis", "version": env!("CARGO_PKG_VERSION") });
    let words = "## docs\n\nLook first.\n\n## mail\n\nBe kind.";
    let introduced = Post::initialize(LEGACY).to(&gateway).json()["result"].clone();
    assert_eq!(
        introduced,
        json!({ "protocolVersion": LEGACY, "capabilities": can, "serverInfo": own, "instructions": words })
    );
    let discovered = Post::modern("server/discover", json!({})).to(&gateway).json()["result"].clone();
    assert_eq!((&discovered["capabilities"], &discovered["instructions"]), (&can, &json!(words)));
    assert_eq!(discovered["supportedVersions"], json!([MODERN]));
    assert_eq!(discovered["_meta"]["io.modelcontextprotocol/serverInfo"], own);
    for (revision, shape, value) in [(LEGACY, "InitializeResult", &introduced), (MODERN, "DiscoverResult", &discovered)]
    {
        if let Some(schema) = Schema::of(revision) {
            schema.check(shape, value);
        }
    }
    let quiet = Post::initialize(LEGACY).at("/quiet").to(&gateway).json();
    assert_eq!(quiet["result"].get("instructions"), None);
    // What nobody has is no method here.
    let none = Post::modern("prompts/list", json!({})).to(&gateway);
    assert_eq!(none.json()["error"]["code"], -32_601, "{}", none.text());
}

/// A user interface that a server wrote knows its tools by their own names.
#[test]
fn an_app_calls_its_tools() {
    let mut shown = definition("show");
    shown["_meta"] = json!({ "ui": { "resourceUri": "ui://note" } });
    let ui = |seen: &Seen, out: &mut crate::support::upstream::Out<'_>| {
        let list = match seen.method() {
            "resources/list" => json!({ "resources": [{ "uri": "ui://note", "name": "n" }] }),
            "resources/templates/list" => json!({ "resourceTemplates": [] }),
            _ => return Acted::Default,
        };
        let mut answer = result(seen, list);
        if seen.is_modern() {
            (answer["result"]["ttlMs"], answer["result"]["cacheScope"]) = (json!(60_000), json!("public"));
        }
        out.json(200, "", &answer);
        Acted::Done
    };
    let docs = Plan::tools(&["plain"]).script(ui).start();
    let mail = Plan::tools(&["other"]).tool(shown).script(ui).start();
    let gateway = start(behind(Setup::new(), &[("docs", &docs), ("mail", &mail)]).open());
    let list = Post::modern("tools/list", json!({})).to(&gateway).json();
    let tools = list["result"]["tools"].as_array().expect("a list");
    let show = tools.iter().find(|tool| tool["name"] == "mail__show").expect("it is there");
    let uri = show["_meta"]["ui"]["resourceUri"].as_str().expect("a URI");
    assert_eq!(uri, "ui://mcp+mail+note", "the first server has one of this name too");
    Post::call("show").echoed(&gateway);
    assert_eq!((docs.calls().len(), mail.calls().len()), (0, 1));
    assert_eq!(Post::call("other").to(&gateway).json()["error"]["code"], -32_602, "it has no user interface");
    let read = Post::modern("resources/read", json!({ "uri": uri })).to(&gateway).json();
    assert_eq!(read["result"]["contents"][0]["uri"], uri, "{read}");
    let seen = mail.wait("the read", |seen| seen.method() == "resources/read");
    assert_eq!(seen.message["params"]["uri"], "ui://note");
    assert!(text_of(&read).is_empty());
    oracle::check(&gateway, &[("docs", &docs), ("mail", &mail)]);
}
