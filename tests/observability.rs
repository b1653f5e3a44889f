//! What is in tuning/observability against a gateway under traffic, and against Prometheus' own tool.

use std::collections::BTreeSet;
use std::fs;
use std::io::Write as _;
use std::process::Command;
use std::time::Duration;

use serde_json::{Value, json};

use crate::support::gateway::{Gateway, Setup};
use crate::support::http::Wire;
use crate::support::mcp::{Post, open_session};
use crate::support::peers::finish;
use crate::support::upstream::{Acted, Plan, Upstream};

const FOLDER: &str = "tuning/observability";
/// Labels that a scrape does not have by itself: Prometheus adds them, or makes them of buckets.
const PROMETHEUS: &[&str] = &["instance", "job", "le", "up", "alertname", "alertstate"];
/// Words of PromQL that stand where names do.
const WORDS: &[&str] = &[
    "sum",
    "rate",
    "increase",
    "by",
    "and",
    "on",
    "or",
    "vector",
    "min",
    "max",
    "count",
    "topk",
    "changes",
    "histogram_quantile",
];

fn read(name: &str) -> String {
    fs::read_to_string(format!("{FOLDER}/{name}")).unwrap_or_else(|fault| panic!("{name}: {fault}"))
}

/// Prometheus' tool; `None`, said aloud, where it is not.
fn promtool(arguments: &[&str]) -> Option<String> {
    let mut command = Command::new("promtool");
    if !command.arg("--version").output().is_ok_and(|run| run.status.success()) {
        assert!(std::env::var_os("CI").is_none_or(|set| set.is_empty() || set == "false"), "promtool is missing");
        let _ = writeln!(std::io::stderr(), "SKIPPED: promtool cannot be had here (Debian: prometheus)");
        return None;
    }
    let run = finish(Command::new("promtool").args(arguments).current_dir(FOLDER), Duration::from_secs(60));
    let (out, err) = (run.stdout, run.stderr);
    assert!(run.status.is_some_and(|status| status.success()), "promtool {arguments:?}: {out}{err}");
    Some(out)
}

#[test]
fn promtool_takes_the_rules() {
    let Some(said) = promtool(&["check", "rules", "alerts.yml"]) else { return };
    let rules = alerts().len();
    assert!(said.contains(&format!("{rules} rules found")), "{said}");
    promtool(&["test", "rules", "alerts_test.yml"]);
    // Each rule has been seen quiet, and firing.
    let tests = read("alerts_test.yml");
    for alert in alerts() {
        assert!(tests.contains(&format!("{{ alertname: {alert}, ")), "{alert} is not seen quiet");
        assert!(tests.contains(&format!("alertname=\"{alert}\"")), "{alert} is not seen firing");
        assert!(read("README.md").contains(&format!("`{alert}`")), "{alert} is not in the README");
    }
}

fn alerts() -> Vec<String> {
    let text = read("alerts.yml");
    text.lines().filter_map(|line| Some(line.trim().strip_prefix("- alert: ")?.to_owned())).collect()
}

/// Everything that the dashboard and the rules ask for, with where it stands.
fn expressions() -> Vec<(String, String)> {
    let mut all = Vec::new();
    let dashboard: Value = serde_json::from_str(&read("grafana.json")).expect("the dashboard is JSON");
    for panel in dashboard["panels"].as_array().expect("it has panels") {
        let title = panel["title"].as_str().expect("a panel has a title");
        for target in panel["targets"].as_array().into_iter().flatten() {
            let legend = target["legendFormat"].as_str().unwrap_or_default();
            let labels: Vec<&str> = legend.split("{{").skip(1).filter_map(|it| it.split("}}").next()).collect();
            let expression = target["expr"].as_str().expect("a target asks for something");
            for label in labels {
                assert!(label == "instance" || expression.contains(label), "{title}: {label} is not what it is by");
            }
            all.push((title.to_owned(), expression.to_owned()));
        }
    }
    for variable in dashboard["templating"]["list"].as_array().expect("it has variables") {
        let query = variable["definition"].as_str().unwrap_or_default();
        all.extend(query.strip_prefix("label_values").map(|it| (query.to_owned(), it.replace(", ", " by ("))));
    }
    let rules = read("alerts.yml");
    let mut alert = String::new();
    let mut lines = rules.lines().peekable();
    while let Some(line) = lines.next() {
        if let Some(name) = line.trim().strip_prefix("- alert: ") {
            alert = name.to_owned();
        }
        let Some(mut expression) = line.trim().strip_prefix("expr: ").map(str::to_owned) else { continue };
        if expression == "|" {
            expression.clear();
            while let Some(more) = lines.next_if(|line| line.starts_with("          ")) {
                expression += more.trim();
                expression.push(' ');
            }
        }
        all.push((alert.clone(), expression));
    }
    all
}

/// The names in an expression: of metrics and labels, without what is in quotes, numbers, and durations.
fn names(expression: &str) -> BTreeSet<String> {
    let unquoted: String = expression.split('"').step_by(2).collect::<Vec<_>>().join(" ");
    let mut out = BTreeSet::new();
    for word in unquoted.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_' || c == '$')) {
        let is_name = word.starts_with(|c: char| c.is_ascii_alphabetic());
        if is_name && !WORDS.contains(&word) {
            out.insert(word.to_owned());
        }
    }
    out
}

/// A server with a bound, a rule in shadow, one that cannot be evaluated, a token that cannot be had, an issuer that does
/// not answer: as much of what can be shown as one gateway can have.
fn busy() -> (Gateway, Upstream) {
    let upstream = Plan::tools(&["echo", "cuts"])
        .script(|seen, out| {
            if !seen.calls("cuts") {
                return Acted::Default;
            }
            out.close();
            Acted::Done
        })
        .start();
    let dead = "http://127.0.0.1:1";
    let issuer = json!({ "issuer": dead, "audience": "x", "jwks": { "url": format!("{dead}/jwks") }, "private": ["127.0.0.0/8"] });
    let grant = json!({
        "token_url": format!("{dead}/token"), "client_id": "a", "client_secret": "${SECRET}", "private": ["127.0.0.0/8"],
    });
    let gateway = Setup::new()
        .server("up", &upstream.url())
        .set("/servers/up/concurrency", json!(100))
        .server("paid", &upstream.url())
        .set("/servers/paid/credentials", json!({ "client_credentials": grant }))
        .set("/auth/issuers", json!([issuer]))
        .environment("SECRET", "sesame")
        .rule(json!({ "id": "most", "permit": ["*/*"] }))
        .rule(json!({ "id": "some", "forbid": ["up/echo"], "when": "args.missing == 1", "mode": "shadow" }))
        .rule(json!({ "id": "shade", "forbid": ["up/echo"], "mode": "shadow" }))
        .start();
    let session = open_session(&gateway, |post| post.at("/s/up/mcp"));
    Post::legacy_call(&session, "echo").at("/s/up/mcp").to(&gateway);
    for tool in ["echo", "cuts", "nobodys"] {
        Post::call(tool).at("/s/up/mcp").to(&gateway);
        Post::call(tool).at("/s/paid/mcp").to(&gateway);
    }
    Post::modern("tools/none", json!({})).at("/s/up/mcp").to(&gateway);
    (gateway, upstream)
}

/// The names of what a gateway shows: those of samples (or of families that have none yet), and those of labels.
fn shown(gateway: &Gateway) -> (BTreeSet<String>, BTreeSet<String>) {
    let ask = format!("GET /metrics HTTP/1.1\r\nhost: {}\r\n\r\n", gateway.admin);
    let page = Wire::to(gateway.admin).ask(ask.as_bytes()).text();
    let (mut metrics, mut labels) = (BTreeSet::new(), BTreeSet::new());
    for line in page.lines() {
        if let Some(family) = line.strip_prefix("# TYPE ") {
            let (name, kind) = family.split_once(' ').expect("a name and a kind");
            let ends: &[&str] = if kind == "histogram" { &["_bucket", "_sum", "_count"] } else { &[""] };
            metrics.extend(ends.iter().map(|end| format!("{name}{end}")));
        } else if !line.starts_with('#') {
            let labelled = line.split('{').nth(1).unwrap_or_default();
            labels.extend(labelled.split("=\"").filter_map(|it| it.rsplit([',', '"', '{']).next().map(str::to_owned)));
        }
    }
    (metrics, labels)
}

#[test]
fn whatever_is_asked_for_is_there() {
    let (gateway, _upstream) = busy();
    let expressions = expressions();
    assert!(expressions.len() > 80, "{}", expressions.len());
    let missing = || {
        let (metrics, labels) = shown(&gateway);
        let mut missing = Vec::new();
        for (place, expression) in &expressions {
            let names = names(expression);
            let is_there =
                |name: &String| metrics.contains(name) || labels.contains(name) || PROMETHEUS.contains(&name.as_str());
            missing.extend(names.iter().filter(|name| !is_there(name)).map(|name| format!("{place}: {name}")));
            if !names.iter().any(|name| metrics.contains(name) || name == "up") {
                missing.push(format!("{place}: {expression} asks for nothing"));
            }
        }
        missing
    };
    let mut last = Vec::new();
    // The token for `paid` is tried for in the background, and a shard tells of its own time now and then.
    let deadline = std::time::Instant::now() + crate::support::gateway::PATIENCE;
    while std::time::Instant::now() < deadline {
        last = missing();
        if last.is_empty() {
            break;
        }
        std::thread::sleep(Duration::from_millis(100));
    }
    assert!(last.is_empty(), "{last:#?}");
}

/// What Prometheus itself makes of the page.
#[test]
fn promtool_takes_the_page() {
    let (gateway, _upstream) = busy();
    let ask = format!("GET /metrics HTTP/1.1\r\nhost: {}\r\n\r\n", gateway.admin);
    let page = Wire::to(gateway.admin).ask(ask.as_bytes()).text();
    let file = tempfile::NamedTempFile::new().expect("a temporary file can be made");
    fs::write(file.path(), &page).expect("it can be written");
    let input = fs::File::open(file.path()).expect("it can be read");
    if promtool(&["--version"]).is_none() {
        return;
    }
    let run = Command::new("promtool").args(["check", "metrics"]).stdin(input).output().expect("promtool runs");
    let said = String::from_utf8_lossy(&run.stderr).into_owned() + &String::from_utf8_lossy(&run.stdout);
    assert!(run.status.success(), "{said}");
}

/// Every panel has a place of its own, a sentence, and a number of its own.
#[test]
fn the_dashboard_is_whole() {
    let dashboard: Value = serde_json::from_str(&read("grafana.json")).expect("the dashboard is JSON");
    let panels = dashboard["panels"].as_array().expect("it has panels");
    let (mut numbers, mut places) = (BTreeSet::new(), BTreeSet::new());
    for panel in panels {
        let (place, title) = (&panel["gridPos"], &panel["title"]);
        let of = |key: &str| place[key].as_u64().expect("a number");
        assert!(numbers.insert(panel["id"].as_u64()), "{title}");
        assert!(of("x") + of("w") <= 24, "{title}");
        for (x, y) in (of("x")..of("x") + of("w")).flat_map(|x| (of("y")..of("y") + of("h")).map(move |y| (x, y))) {
            assert!(places.insert((x, y)), "{title} covers another");
        }
        if panel["type"] != "row" {
            assert!(panel["description"].as_str().is_some_and(|text| text.ends_with('.')), "{title} says nothing");
        }
    }
    assert!(panels.len() > 40);
}
