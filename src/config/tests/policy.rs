//! What a file says of rules, limits, approvals and rates.

use std::collections::BTreeMap;

use super::*;
use crate::base::glob::Glob;
use crate::base::ids::ItemId;
use crate::config::audited::{Audited, listed};
use crate::mcp::catalog::{Catalog, EraCatalog, Item, Listing, ServerCatalog};
use crate::mcp::revision::Revision;
use crate::policy::cond::{ClaimType, Number};
use crate::policy::limit::{By, Limit, Party, RateOf, What};
use crate::policy::rule::{AskWhom, Effect, Mode, PolicySet, Rule};

/// The files of a folder, by path.
struct Folder(BTreeMap<PathBuf, &'static str>);

impl Folder {
    fn of(files: &[(&str, &'static str)]) -> Self {
        Self(files.iter().map(|(name, text)| (path(name), *text)).collect())
    }
}

impl Source for Folder {
    fn var(&self, name: &str) -> Option<String> {
        House.var(name)
    }

    fn file(&self, path: &Path) -> io::Result<String> {
        self.0.get(path).map(|text| (*text).to_owned()).ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    fn list(&self, folder: &Path, names: &Glob) -> io::Result<Vec<String>> {
        let below = self.0.keys().filter_map(|file| file.strip_prefix(folder).ok());
        let first = below.filter_map(|below| below.iter().next()?.to_str()).filter(|name| names.matches(name));
        let mut found: Vec<String> = first.map(str::to_owned).collect();
        found.dedup();
        if found.is_empty() { Err(io::ErrorKind::NotFound.into()) } else { Ok(found) }
    }
}

const HEAD: &str = "auth: { anonymous: allow }\nservers: { pay: { url: http://127.0.0.1:1/ } }\n";

/// A whole file with this policy; lines are counted from the policy's first.
fn rules(policy: &str) -> Result<PolicySet, Vec<Fault>> {
    read(&format!("{HEAD}{policy}")).map(|loaded| {
        assert_eq!(loaded.warnings, []);
        (*loaded.settings.policy).clone()
    })
}

#[track_caller]
fn sound(policy: &str) -> PolicySet {
    rules(policy).unwrap_or_else(|faults| panic!("{faults:#?}"))
}

/// What is said about one rule's keys, without paths and places.
#[track_caller]
fn check_rule(keys: &str, want: &[&str]) {
    let text = format!("{HEAD}policy: {{ tasks: {{ t: T. }}, rules: [{{ id: r, {keys} }}] }}\n");
    let faults = read(&text).map_or_else(|faults| faults, |loaded| loaded.warnings);
    let got: Vec<String> = faults
        .iter()
        .map(|fault| {
            let hint = fault.hint.as_ref().map(|hint| format!(" ({hint})")).unwrap_or_default();
            let path = fault.path.strip_prefix("policy.rules[0]").expect("a fault of the rule");
            format!("{path}: {}{hint}", fault.message)
        })
        .collect();
    assert_eq!(got, want, "{keys}\n{}", got.join("\n"));
}

/// All that is said about a file and those that it includes.
#[track_caller]
fn check_files(files: &[(&str, &'static str)], want: &[&str]) {
    let folder = Folder::of(files);
    let text = folder.file(&path("main.yaml")).expect("the file itself");
    let faults = load(&text, Path::new("/etc/gate"), &folder).map_or_else(|faults| faults, |loaded| loaded.warnings);
    for fault in &faults {
        let shown = fault.render("main.yaml", &text);
        let name = fault.file.as_ref().map_or("main.yaml", |file| &file.name);
        assert!(shown.contains(&format!("--> {name}:{}:{}", fault.line, fault.column)), "{shown}");
    }
    let got: Vec<String> = faults.iter().map(|fault| fault.told("main.yaml").replace("/etc/gate/", "")).collect();
    assert_eq!(got, want, "{}", got.join("\n"));
}

#[test]
fn a_rule_means_what_it_says() {
    let policy = sound(
        r#"policy:
  tasks: { a: A., b: B. }
  rules:
    - id: one
      tasks: [b, a, b]
      permit: [pay/x, "pay!prompt:*"]
      who: '"x" in claims.groups'
      when: args.amount <= 5
      scopes: [pay:write, pay:read, pay:write]
      reason: Small ones only.
    - { id: two, approve: [pay/x], when: args.amount > 5, expires: 2h, ask: elicit, mode: enforce }
    - { id: three, forbid: [pay/y], mode: shadow, who: '"x" in claims.groups' }
    - { id: four, approve: [pay/z], ask: person }
"#,
    );
    let [one, two, three, four] = policy.rules() else { panic!("four rules") };
    assert_eq!((one.effect, one.patterns.len(), one.tasks.len()), (Effect::Permit, 2, 2));
    let scopes: Vec<&str> = one.scopes.iter().map(|scope| &**scope).collect();
    assert_eq!(scopes, ["pay:write", "pay:read"]);
    assert_eq!(one.when.as_ref().map(|when| when.text()), Some("args.amount <= 5"));
    assert_eq!(
        (two.effect, two.expires_ms, two.ask, two.mode),
        (Effect::Approve, 7_200_000, AskWhom::Elicit, Mode::Enforce)
    );
    assert_eq!(
        (three.effect, three.mode, three.expires_ms),
        (Effect::Forbid, Mode::Shadow, Rule::default().expires_ms)
    );
    assert_eq!((four.expires_ms, four.ask), (900_000, AskWhom::Person));
    let (first, third) = (one.who.as_ref().expect("a head"), three.who.as_ref().expect("a head"));
    assert!(Arc::ptr_eq(first, third), "written alike, kept once");
    assert_eq!(policy.heads().len(), 1);
}

#[test]
fn limits_mean_what_they_say() {
    let policy = sound(
        r#"policy:
  tasks: {}
  rules:
    - id: one
      permit: [pay/*]
      limits:
        - { calls: 20, per: 1h }
        - { sum: args.amount * 2, max: 5000.50, per: 24h, by: [subject, args.account] }
        - { sum: 0.1, max: "99999999999999999999.999999999999999999", by: task }
        - { sum: 500, max: 1e3 }
        - { concurrent: 2, by: [server, tool] }
        - { once: args.invoice_id }
        - { once: args.invoice_id, per: 366d, by: [subject, agent, session] }
        - { after: pay/get, within: 10m, same: args.invoice_id }
        - { after: [pay/get, "pay!prompt:x"], by: all }
    - { id: two, forbid: [pay/*], limits: [{ after: pay/secret }] }
"#,
    );
    let [one, two] = policy.rules() else { panic!("two rules") };
    let by = |limit: &Limit| limit.by.0.to_vec();
    let [calls, product, long, plain, concurrent, once, often, after, either] = &*one.limits else {
        panic!("{:?}", one.limits)
    };
    assert_eq!((&calls.what, by(calls)), (&What::Calls { max: 20, per_ms: Some(3_600_000) }, vec![Party::Subject]));
    let sum = |limit: &Limit| match &limit.what {
        What::Sum { of, max, per_ms } => (of.text().to_owned(), *max, *per_ms),
        what => panic!("{what:?}"),
    };
    let number = |text: &str| Number::parse(text).expect("a number");
    assert_eq!(sum(product), ("args.amount * 2".to_owned(), number("5000.5"), Some(86_400_000)));
    assert!(matches!(&by(product)[..], [Party::Subject, Party::Arg(path)] if path.text() == "args.account"));
    assert_eq!(sum(long), ("0.1".to_owned(), number("99999999999999999999.999999999999999999"), None));
    assert_eq!(by(long), [Party::Task]);
    assert_eq!(sum(plain), ("500".to_owned(), number("1000"), None));
    assert_eq!((&concurrent.what, by(concurrent)), (&What::Concurrent { max: 2 }, vec![Party::Server, Party::Tool]));
    assert!(matches!(&once.what, What::Once { value, per_ms: None } if value.text() == "args.invoice_id"));
    assert_eq!(by(once), [Party::All], "once is once for everybody");
    assert!(matches!(&often.what, What::Once { per_ms: Some(31_622_400_000), .. }));
    assert_eq!(by(often), [Party::Subject, Party::Agent, Party::Session]);
    let What::After { patterns, within_ms, same } = &after.what else { panic!("{after:?}") };
    assert_eq!((patterns[0].text(), *within_ms), ("pay/get", Some(600_000)));
    assert_eq!(same.as_ref().map(|same| same.text()), Some("args.invoice_id"));
    let What::After { patterns, within_ms: None, same: None } = &either.what else { panic!("{either:?}") };
    assert_eq!((patterns.len(), by(either)), (2, vec![Party::All]));
    assert!(matches!(&two.limits[..], [Limit { what: What::After { .. }, by: By(by) }] if by[..] == [Party::Subject]));
}

#[test]
fn faults_of_rules() {
    let both = "one rule cannot `permit` and `approve` (make two rules of it)";
    check_rule("permit: [pay/*], approve: [pay/*]", &[&format!(": {both}")]);
    check_rule("tasks: [t]", &[": has neither `permit` nor `forbid` nor `approve` (write permit: [docs/search])"]);
    let scopes = ".scopes: only a `permit` asks for scopes (write it on the permit beside this rule)";
    check_rule("forbid: [pay/*], scopes: [x]", &[scopes]);
    let leave = "only an `approve` asks somebody (leave it out)";
    check_rule(
        "permit: [pay/*], expires: 1h, ask: person",
        &[&format!(".expires: {leave}"), &format!(".ask: {leave}")],
    );
    check_rule("approve: [pay/*], expires: 10ms", &[".expires: must be from 1s to 720h"]);
    check_rule("permit: [pay/*], scopes: []", &[".scopes: expected 1 to 16 scopes (leave it out for none)"]);
    let plain = "(1 to 128 visible ASCII characters, no blank, no \" and no \\)";
    check_rule("permit: [pay/*], scopes: [a b]", &[&format!(".scopes[0]: `a b` is not a scope {plain}")]);
    check_rule(
        "permit: [pay/*], mode: shadw",
        &[".mode: `shadw` is not `enforce` or `shadow` (did you mean `shadow`?)"],
    );
    check_rule("permit: [pay/*], whan: 'true'", &[".whan: is not a key (did you mean `when`?)"]);
    let write = "(write 'args.amount <= 500 && \"support\" in claims.groups')";
    check_rule("permit: [pay/*], when: true", &[&format!(".when: expected a condition, found true or false {write}")]);
    check_rule(
        "permit: [pay/*], who: args.x == 1",
        &[".who: `args` is not known in `who`, which is about the caller (write it in `when`)"],
    );
}

#[test]
fn faults_of_limits() {
    let check = |limit: &str, want: &[&str]| check_rule(&format!("permit: [pay/*], limits: [{limit}]"), want);
    check("", &[".limits: expected 1 to 16 limits (leave it out for none)"]);
    check(&"{ calls: 1 }, ".repeat(17), &[".limits: expected 1 to 16 limits (leave it out for none)"]);
    let nothing =
        "counts nothing: it needs `calls`, `sum`, `concurrent`, `once` or `after` (write { calls: 20, per: 1h })";
    check("{ per: 1h }", &[&format!(".limits[0]: {nothing}")]);
    check("{ calls: 1, once: args.x }", &[".limits[0]: one entry cannot have `calls` and `once` (make two of it)"]);
    check("{ calls: 0 }", &[".limits[0].calls: must be from 1 to 1000000000"]);
    check("{ calls: 5, max: 5 }", &[".limits[0].max: belongs to `sum`, not to `calls`"]);
    check("{ sum: args.x }", &[".limits[0]: `sum` needs its `max` (write max: 5000)"]);
    check("{ sum: args.x, max: -1 }", &[".limits[0].max: is not a number from 0 (write it like 500 or 99.95)"]);
    check("{ sum: args.x, max: lots }", &[".limits[0].max: expected a number from 0, found a text"]);
    check(
        "{ sum: args.x, max: 123456789012345678901234567890123456789 }",
        &[".limits[0].max: has more than 38 digits"],
    );
    check("{ concurrent: 1, per: 1h }", &[".limits[0].per: belongs to `calls`, `sum` or `once`, not to `concurrent`"]);
    let within = "(how long ago it may be is its `within`)";
    check(
        "{ after: pay/x, per: 1h }",
        &[&format!(".limits[0].per: belongs to `calls`, `sum` or `once`, not to `after` {within}")],
    );
    check("{ calls: 1, per: 5 }", &[".limits[0].per: expected a duration, found a number (with its unit: 5ms or 5s)"]);
    check("{ calls: 1, per: 367d }", &[".limits[0].per: must be from 1ms to 8784h"]);
    check("{ calls: 1, by: sbject }", &[".limits[0].by: no count is kept by `sbject` (did you mean `subject`?)"]);
    check("{ calls: 1, by: address }", &[".limits[0].by: no count is kept by `address` (only `policy.rates` has it)"]);
    check(
        "{ calls: 1, by: claims.x }",
        &[".limits[0].by: no count is kept by `claims.x` (only `policy.rates` has it)"],
    );
    check("{ calls: 1, by: [tool, tool] }", &[".limits[0].by[1]: `tool` stands twice (keep one of them)"]);
    check("{ calls: 1, by: [] }", &[".limits[0].by: expected 1 to 4 owners (leave it out for the default)"]);
    check("{ calls: 1, by: args.x + 1 }", &[".limits[0].by: is not a path like args.NAME or args[\"NAME\"]"]);
    check(
        "{ calls: 1, by: args }",
        &[
            ".limits[0].by: no count is kept by `args` (one of subject, agent, task, session, server, tool, all, or an args. path)",
        ],
    );
    check("{ once: 'args.x +' }", &[".limits[0].once: an operand is missing"]);
    let never = "counts each tool alone, and no tool of this rule is one of its `after` (leave it out, or count by somebody else)";
    check("{ after: pay/x, by: [subject, tool] }", &[]);
    check("{ after: \"*/*\", by: server }", &[]);
    check("{ after: \"pay!prompt:x\", by: tool }", &[&format!(".limits[0].by: {never}")]);
    let never = never.replace("tool", "server");
    check(
        "{ after: [dosc/x], by: [server, tool] }",
        &[&format!(".limits[0].by: {never}"), ".limits[0].after[0]: `dosc/x` fits no server"],
    );
    check(
        "{ after: \"pay!sampling\" }",
        &[
            ".limits[0].after: what a server asks of the client is not remembered, so nothing comes after it (name tools, prompts or resources)",
        ],
    );
    check("{ after: [] }", &[".limits[0].after: is empty, so the rule would never apply (\"*/*\" is every tool)"]);
    check_rule(
        "forbid: [pay/*], limits: [{ calls: 1 }]",
        &[
            ".limits[0].calls: only a permit has `calls`; here stands `after` alone (write it on the permit beside this rule)",
        ],
    );
}

/// A fault in a condition points to its character, however the text is spelt.
#[test]
fn faults_point_into_conditions() {
    let misspelt = "there is no `.startWith()` (did you mean `startsWith`?)";
    let check = |when: &str, place: &str| {
        let text = format!("{HEAD}policy:\n  rules:\n  - id: a\n    permit: [pay/*]\n    when: {when}\n");
        check(&text, &[&format!("{place}: policy.rules[0].when: {misspelt}")]);
    };
    check("args.b.startWith('y')", "7:18");
    check("args.a == 'é' && args.b.startWith('y')", "7:35");
    check(r#""args.a == \"x\" && args.b.startWith(\"y\")""#, "7:38");
    check("'args.a == ''x'' && args.b.startWith(''y'')'", "7:38");
    check("args.a == 'x' &&\n      args.b.startWith('y')", "8:14");
    check("|\n      args.a == 'x' &&\n        args.b.startWith('y')", "9:16");
    check(">-\n      args.a == 'x'\n\n      && args.b.startWith('y')", "10:17");
    let json = r#"{"auth": {"anonymous": "allow"}, "servers": {"pay": {"url": "http://127.0.0.1:1/"}},
 "policy": {"rules": [{"id": "a", "permit": ["pay/*"], "when": "args.b.startWith(\"y\")"}]}}"#;
    super::check(json, &[&format!("2:72: policy.rules[0].when: {misspelt}")]);
}

#[test]
fn a_condition_from_elsewhere_is_not_quoted() {
    let text = format!("{HEAD}policy: {{ rules: [{{ id: a, permit: [pay/*], when: '${{SECRET}} ==' }}] }}\n");
    check(&text, &["3:51: policy.rules[0].when: at fault, at character 1 of its value"]);
}

#[test]
fn claims_have_types() {
    let policy = |claims: &str, rest: &str, who: &str| {
        format!(
            "auth:\n  issuers:\n  - {{ issuer: https://a, jwks: {{ file: jwks.json }}, claims: {{ {claims} }} }}\n{rest}\
             servers: {{ pay: {{ url: http://127.0.0.1:1/ }} }}\n\
             policy: {{ rules: [{{ id: a, permit: [pay/*], who: {who} }}] }}\n"
        )
    };
    let never = "`claims.level` is a number, `\"x\"` is a text: they are never compared";
    check(&policy("level: number", "", "claims.level == \"x\""), &[&format!("5:50: policy.rules[0].who: {never}")]);
    check(&policy("level: text, groups: [text], a.b: object", "", "claims.level == \"x\""), &[]);
    check(
        &policy("level: numbr, groups: [text, text], roles: [bool], '': list", "", "'true'"),
        &[
            "3:70: auth.issuers[0].claims.level: `numbr` is not `text`, `number`, `bool`, `list`, `object` or a list (did you mean `number`?)",
            "3:85: auth.issuers[0].claims.groups: a list's type is one word (write [text], or list for a mixed one)",
            "3:107: auth.issuers[0].claims.roles[0]: `bool` is not `text` or `number`",
            "3:114: auth.issuers[0].claims.: `` is not a claim (write groups or realm.roles)",
        ],
    );
    let other = "  - { issuer: https://b, jwks: { file: jwks.json }, claims: { level: text } }\n";
    check(
        &policy("level: number", other, "claims.level == \"x\""),
        &["4:63: auth.issuers[1].claims.level: another issuer declares it differently, so it is not checked"],
    );
}

#[test]
fn rates() {
    let policy = sound(
        r#"policy:
  rules: [{ id: open, permit: ["*/*"] }]
  rates:
    - { id: front, calls: 100, per: 1s, burst: 200, by: [address, endpoint, method, claims.tenant] }
    - { on: pay/*, method: tools/call, endpoint: [/mcp, /s/pay/mcp], concurrent: 8, by: server }
    - { on: ["*/*", "*!*"], calls: 5, per: 500ms, by: args.account }
"#,
    );
    let [front, pay, all] = policy.rates() else { panic!("three rates") };
    assert_eq!((&*front.id, &*pay.id, &*all.id), ("front", "rates[1]", "rates[2]"));
    assert_eq!(front.what, RateOf::Calls { calls: 100, per_ms: 1000, burst: 200 });
    assert_eq!((front.on.len(), front.methods.len(), front.endpoints.len(), front.by.0.len()), (0, 0, 0, 4));
    assert!(matches!(&front.by.0[3], Party::Claim(path) if path.text() == "claims.tenant"));
    assert_eq!((pay.what, &*pay.methods[0], &*pay.endpoints[1]), (RateOf::Concurrent(8), "tools/call", "/s/pay/mcp"));
    assert_eq!((all.what, all.on.len()), (RateOf::Calls { calls: 5, per_ms: 500, burst: 5 }, 2));
    check(
        &format!(
            "{HEAD}policy:\n  rules: [{{ id: open, permit: [\"*/*\"] }}]\n  rates:\n\
             \x20   - {{ id: a, calls: 5 }}\n\
             \x20   - {{ id: a, concurrent: 1, per: 1s, by: clams.x }}\n\
             \x20   - {{ on: [], method: tools/cal, endpoint: [/mpc], calls: 1, per: 1s }}\n\
             \x20   - {{ on: dosc/x, method: sampling/createMessage, concurrent: 1, when: x }}\n\
             \x20   - {{ by: all }}\n"
        ),
        &[
            "6:7: policy.rates[0]: `calls` needs its `per` (write per: 1s)",
            "7:13: policy.rates[1].id: `a` is the id of another rate",
            "7:31: policy.rates[1].per: belongs to `calls`, not to `concurrent`",
            "7:44: policy.rates[1].by: no count is kept by `clams.x` (one of subject, agent, task, session, server, tool, all, address, endpoint, method, or an args. or claims. path)",
            "8:13: policy.rates[2].on: is empty, so the rule would never apply (\"*/*\" is every tool)",
            "8:25: policy.rates[2].method: no method is called `tools/cal` (did you mean `tools/call`?)",
            "8:47: policy.rates[2].endpoint[0]: no endpoint is called `/mpc` (did you mean `/mcp`?)",
            "9:13: policy.rates[3].on: `dosc/x` fits no server",
            "9:29: policy.rates[3].method: no method is called `sampling/createMessage`",
            "9:68: policy.rates[3].when: is not a key (there is `policy.rules[].when`)",
            "10:7: policy.rates[4]: counts nothing: it needs `calls` or `concurrent` (write { calls: 20, per: 1h })",
        ],
    );
}

#[test]
fn no_two_rates_are_called_the_same() {
    let rates = "[{ id: 'rates[1]', concurrent: 1 }, { concurrent: 2 }, { concurrent: 3 }]";
    let open = "{ id: open, permit: [\"*/*\"] }";
    let text = format!("{HEAD}policy:\n  rules: [{open}]\n  rates: {rates}\n");
    check(&text, &["5:46: policy.rates[1].id: `rates[1]` is the id of another rate"]);
}

#[test]
fn the_record_of_arguments_and_subjects() {
    let audit = |audit: &str| {
        let text = format!("{HEAD}policy: {{ rules: [{{ id: a, permit: [pay/*] }}] }}\naudit: {{ {audit} }}\n");
        read(&text).map(|loaded| loaded.settings.audit)
    };
    assert_eq!(audit("subject: plain").expect("sound"), AuditSettings::default());
    let got = audit("subject: keyed, arguments: { pay/refund: [amount, 'lines[0].price'], 'pay!prompt:*': [] }");
    let AuditSettings { arguments, keyed_subjects } = got.unwrap_or_else(|faults| panic!("{faults:?}"));
    assert!(keyed_subjects);
    let [(refund, fields), (_, none)] = &arguments[..] else { panic!("{arguments:?}") };
    assert_eq!((refund.text(), fields.len(), none.len()), ("pay/refund", 2, 0));
    let steps = [ArgStep::Member("lines".into()), ArgStep::Element(0), ArgStep::Member("price".into())];
    assert_eq!((&*fields[1].text, &fields[1].steps[..]), ("lines[0].price", &steps[..]));
    check(
        &format!(
            "{HEAD}policy: {{ rules: [{{ id: a, permit: [pay/*] }}] }}\n\
             audit: {{ subject: keyd, arguments: {{ pay: [x], 'pay!resource:*': [x], pya/x: [a..b, 'a b'] }} }}\n"
        ),
        &[
            "4:19: audit.subject: `keyd` is not `plain` or `keyed` (did you mean `keyed`?)",
            "4:41: audit.arguments.pay: a pattern is server/tool or server!kind; here is neither / nor !",
            "4:48: audit.arguments.pay!resource:*: only tools and prompts have arguments (write server/tool or server!prompt:NAME)",
            "4:71: audit.arguments.pya/x: `pya/x` fits no server (did you mean `pay`?)",
            "4:80: audit.arguments.pya/x[0]: `a..b` is not an argument (write amount or lines[0].price)",
            "4:87: audit.arguments.pya/x[1]: `a b` is not an argument (write amount or lines[0].price)",
        ],
    );
}

/// What was found for the whole catalogue is what is found for one call.
#[test]
fn the_record_of_arguments_by_tool() {
    let text = format!(
        "{HEAD}policy: {{ rules: [{{ id: a, permit: [pay/*] }}] }}\n\
         audit: {{ arguments: {{ pay/refund: [b, a], 'pay/re*': [a, c], 'pay!prompt:*': [], 'pay/x': [d] }} }}\n"
    );
    let settings = read(&text).unwrap_or_else(|faults| panic!("{faults:?}")).settings;
    let listing = |names: &[&str]| {
        Some(Listing { items: names.iter().map(|name| Item::named(name)).collect(), ..Listing::default() })
    };
    let offers = EraCatalog {
        protocol: Revision::NEWEST,
        capabilities: serde_json::json!({}),
        server_info: None,
        instructions: None,
        events: false,
        lists: [listing(&["refund", "reverse", "other"]), listing(&["ask"]), None, None],
    };
    let catalog = Catalog::build(vec![Some(ServerCatalog { modern: Some(offers), ..ServerCatalog::default() })]);
    let audited = Audited::new(&settings, &catalog);
    let mut got = BTreeMap::new();
    for (id, _, kind, name) in catalog.numbered() {
        let texts = |paths: &[ArgPath]| paths.iter().map(|path| path.text.to_string()).collect::<Vec<_>>();
        let paths = audited.of(id).map(texts);
        assert_eq!(paths, listed(&settings, "pay", kind, name).as_deref().map(texts));
        got.insert(name.to_owned(), paths.map(|paths| paths.join(" ")));
    }
    let want = [("ask", Some("")), ("other", None), ("refund", Some("b a c")), ("reverse", Some("a c"))];
    assert_eq!(got, want.map(|(name, paths)| (name.to_owned(), paths.map(str::to_owned))).into());
    assert!(audited.of(ItemId(99)).is_none());
}

const MAIN: &str = r#"auth: { anonymous: allow }
servers: { pay: { url: http://127.0.0.1:1/ } }
policy:
  tasks: { t: T. }
  include: [team/*.yaml, /etc/gate/one.yaml, ./one.yaml]
  rules: [{ id: a, permit: [pay/*], tasks: [u] }]
"#;

#[test]
fn more_files() {
    let files = [
        ("main.yaml", MAIN),
        ("team/b.yaml", "rules: [{ id: c, forbid: [pay/x], tasks: [t] }]\n"),
        ("team/a.yaml", "tasks: { u: U. }\nrules: [{ id: b, permit: [pay/x], tasks: [u] }]\n"),
        ("team/.hidden.yaml", "nonsense: [\n"),
        ("team/readme.md", "nonsense: [\n"),
        ("one.yaml", "tasks: { v: V. }\n"),
    ];
    check_files(&files, &[]);
    let loaded = load(MAIN, Path::new("/etc/gate"), &Folder::of(&files)).expect("it is sound");
    let policy = &loaded.settings.policy;
    let ids: Vec<&str> = policy.rules().iter().map(|rule| &*rule.id).collect();
    let tasks: Vec<&str> = policy.tasks().iter().map(|(_, name)| &**name).collect();
    assert_eq!((&ids[..], &tasks[..]), (&["a", "b", "c"][..], &["t", "u", "v"][..]));
}

#[test]
fn faults_of_more_files() {
    check_files(
        &[
            ("main.yaml", MAIN),
            (
                "team/a.yaml",
                "tasks: { u: U., t: T. }\nrules:\n- { id: a, permit: [pay/x], when: args.x === 1 }\n- { id: b }\n",
            ),
            ("team/b.yaml", "rules: [\n"),
            ("team/c.yaml", "- x\n"),
            ("team/d.yaml", "rule: []\nlisten: 127.0.0.1:1\nrules: [{ id: b, permit: [pya/x], tasks: [w] }]\n"),
        ],
        &[
            "main.yaml:5:26: policy.include[1]: `one.yaml` finds no file (relative paths start at the folder of the configuration)",
            "main.yaml:5:46: policy.include[2]: `./one.yaml` finds no file (relative paths start at the folder of the configuration)",
            "team/a.yaml:1:17: tasks.t: stands twice; first on line 4 (keep one of them)",
            "team/a.yaml:3:9: rules[0].id: `a` is the id of another rule, on line 6",
            "team/a.yaml:3:42: rules[0].when: `===` is not understood (write ==)",
            "team/a.yaml:4:3: rules[1]: has neither `permit` nor `forbid` nor `approve` (write permit: [docs/search])",
            "team/b.yaml:1:8: unclosed bracket '['",
            "team/c.yaml:1:1: expected keys, found a list (write `tasks: …`)",
            "team/d.yaml:1:1: rule: is not a key (did you mean `rules`?)",
            "team/d.yaml:2:1: listen: is not a key (a file of rules has `tasks` or `rules`)",
            "team/d.yaml:3:15: rules[0].id: `b` is the id of another rule, on line 4 of team/a.yaml",
            "team/d.yaml:3:27: rules[0].permit[0]: `pya/x` fits no server (did you mean `pay`?)",
            "team/d.yaml:3:43: rules[0].tasks[0]: no task is called `w` (every task stands in `policy.tasks`)",
        ],
    );
}

#[test]
fn the_example_of_a_policy() {
    let text = include_str!("../../../examples/policy.yaml");
    let team = include_str!("../../../examples/teams/records.yaml");
    let folder = Folder::of(&[("teams/records.yaml", team), ("jwks.json", JWKS)]);
    let loaded = load(text, Path::new("/etc/gate"), &folder).unwrap_or_else(|faults| panic!("{faults:#?}"));
    assert_eq!(loaded.warnings, []);
    let policy = &loaded.settings.policy;
    assert_eq!((policy.rules().len(), policy.tasks().len(), policy.rates().len()), (9, 2, 2));
    assert!(text.starts_with("# yaml-language-server: $schema=../portcullis.schema.json\n"));
}

#[test]
fn a_policy_alone() {
    let text = "tools: { pay: [x] }\ncases: 5\ntasks: { t: T. }\nclaims: { level: number }\n\
                rules: [{ id: a, permit: [pay/x], who: claims.level > 1, tasks: [t] }]\nrates: [{ calls: 1, per: 1s }]\n";
    let alone = |text: &str| policy_of(text, Path::new("/etc/gate"), &House, &["tools", "cases"]);
    let file = alone(text).unwrap_or_else(|faults| panic!("{faults:?}"));
    assert_eq!((file.policy.rules().len(), file.policy.tasks().len(), file.policy.rates().len()), (1, 1, 1));
    assert_eq!(file.claims.declared, [(Box::from("level"), ClaimType::Number)]);
    assert_eq!(file.warnings, []);
    let faults = alone(&text.replace("tasks: [t]", "tasks: [s]").replace("cases", "csaes")).expect_err("two faults");
    let told: Vec<String> = faults.iter().map(Fault::to_string).collect();
    assert_eq!(
        told,
        [
            "2:1: csaes: is not a key (a file of rules has `tasks`, `rules`, `include`, `rates` or `claims`)",
            "5:66: rules[0].tasks[0]: no task is called `s` (every task stands in `policy.tasks`)"
        ]
    );
}
