//! Conditions that ask for arguments which no tool has: refused where that is known, else told, and unknown.

use std::fs;
use std::path::Path;

use serde_json::{Value, json};

use crate::support::gateway::{Gateway, Setup, eventually, run};
use crate::support::mcp::{Post, tools};
use crate::support::oracle;
use crate::support::upstream::{Plan, Upstream, definition};

/// A tool of that name with exactly these arguments.
fn typed(name: &str, arguments: &[&str]) -> Value {
    let mut tool = definition(name);
    let properties: serde_json::Map<String, Value> =
        arguments.iter().map(|name| ((*name).to_owned(), json!({ "type": ["boolean", "string"] }))).collect();
    tool["inputSchema"] = json!({ "type": "object", "properties": properties });
    tool
}

fn rule(when: &str) -> Value {
    json!({ "id": "safely", "permit": ["up/work"], "when": when })
}

fn start(upstream: &Upstream, when: &str) -> Gateway {
    let gateway = Setup::new().server("up", &upstream.url()).rule(rule(when)).start();
    eventually("it has seen its server", || gateway.status()["servers"][0]["catalog"]["state"] == "fresh");
    gateway
}

fn safely(gateway: &Gateway) -> Value {
    Post::call("work").param("/arguments/safe", json!(true)).to(gateway).json()
}

#[track_caller]
fn is_refused_as_unknown(answer: &Value) {
    assert_eq!(answer["result"]["isError"], true, "{answer:#}");
    assert_eq!(answer["result"]["_meta"]["portcullis/refusal"]["kind"], "unknown", "{answer:#}");
}

/// [L3] Known at a reload: refused, with the place of the argument, its path and the name that was meant. What was in
/// force stays so.
#[test]
fn a_reload_is_refused() {
    let upstream = Plan::tools(&[]).tool(typed("work", &["safe"])).start();
    let gateway = start(&upstream, "args.safe == true");
    assert_eq!(gateway.status()["misfits"], json!([]));
    assert!(safely(&gateway)["result"]["isError"] == false);
    gateway.configure(|config| config["policy"]["rules"][0] = rule("args.safe == true && args.saef == true"));
    let text = fs::read_to_string(gateway.config()).unwrap();
    let (line, found) = text.lines().enumerate().find(|(_, line)| line.contains("args.saef")).unwrap();
    let place = format!(":{}:{}: policy.rules[0].when: ", line + 1, found.find("args.saef").unwrap() + 1);
    let reload = gateway.reload();
    let faults = reload["faults"].as_array().unwrap();
    assert_eq!((&reload["ok"], faults.len()), (&json!(false), 1), "{reload:#}");
    let fault = faults[0].as_str().unwrap();
    for words in [&*place, "rule safely: args.saef: none of", "(did you mean `safe`?)"] {
        assert!(fault.contains(words), "{words} in {fault}");
    }
    assert!(safely(&gateway)["result"]["isError"] == false);
    // So is one in an included file, with that file's name.
    gateway.configure(|config| {
        config["policy"]["rules"][0] = rule("args.safe == true");
        config["policy"]["include"] = json!(["more.yaml"]);
    });
    let more = gateway.config().parent().unwrap().join("more.yaml");
    let limits = "rules:\n  - id: once\n    permit: [up/work]\n    limits: [{ once: args.order, per: 1h }]\n";
    fs::write(&more, limits).unwrap();
    let fault = gateway.reload()["faults"][0].as_str().unwrap_or_default().to_owned();
    assert!(fault.contains("more.yaml:4:22: rules[0].limits[0].once: rule once: args.order: none of"), "{fault}");
    fs::write(&more, limits.replace("order", "safe")).unwrap();
    assert_eq!(gateway.reload()["ok"], true);
    assert!(safely(&gateway)["result"]["isError"] == false);
    oracle::check(&gateway, &[("up", &upstream)]);
}

/// [L3] Learned later: told once in the log, in the record and in figures, and unknown, whatever a call sends.
#[test]
fn what_is_learned_later_is_told_and_unknown() {
    let upstream = Plan::tools(&[]).tool(typed("work", &["sage"])).start();
    let gateway = start(&upstream, "args.safe == true");
    let told = json!([{
        "rule": "safely", "at": "when", "column": 1, "argument": "args.safe",
        "fault": "none of this rule's tools has this argument",
    }]);
    assert_eq!(gateway.status()["misfits"], told);
    let sentence = "rule safely: when, column 1: args.safe: none of this rule's tools has this argument (did you mean \
                    `sage`?); what asks for it is unknown";
    eventually("it is said", || gateway.said(sentence) == 1);
    gateway.records_until("it is written down", |records| {
        let mut lines = records.iter().filter(|record| record["kind"] == "policy" && record["event"] == "misfit");
        lines.any(|record| record["detail"] == told[0])
    });
    assert_eq!(tools(&gateway, |post| post), ["work"]);
    is_refused_as_unknown(&safely(&gateway));
    assert_eq!(upstream.calls().len(), 0);
    // The tool gets it.
    upstream.change_definitions(vec![typed("work", &["safe"])]);
    eventually("it fits", || gateway.status()["misfits"] == json!([]));
    eventually("calls are let go", || safely(&gateway)["result"]["isError"] == false);
    assert_eq!(gateway.said(sentence), 1);
    // And loses it: said once more.
    upstream.change_definitions(vec![typed("work", &["sage"])]);
    eventually("it does not fit", || gateway.status()["misfits"] == told);
    eventually("calls are refused", || safely(&gateway)["result"]["isError"] == true);
    eventually("it is said again", || gateway.said(sentence) == 2);
    oracle::check(&gateway, &[("up", &upstream)]);
}

/// `portcullis check` knows what the state folder remembers.
#[test]
fn check_looks_at_the_pins() {
    let upstream = Plan::tools(&[]).tool(typed("work", &["safe"])).start();
    let gateway = start(&upstream, "args.safe == true");
    let check = |flags: &[&str]| {
        let config = gateway.config().display().to_string();
        let run = run(Path::new("."), &[&["check", "--config", &config], flags].concat());
        (run.status.and_then(|status| status.code()), run.stderr)
    };
    eventually("the pins are there", || {
        let state = gateway.config().parent().unwrap().to_owned();
        ["state/pins/up.json", "portcullis-state/pins/up.json"].iter().any(|path| state.join(path).exists())
    });
    assert_eq!(check(&["--strict"]), (Some(0), String::new()));
    gateway.configure(|config| config["policy"]["rules"][0] = rule("args.saef == true"));
    let (code, text) = check(&[]);
    assert_eq!(code, Some(3), "{text}");
    assert!(text.starts_with("error: policy.rules[0].when: rule safely: args.saef: none of"), "{text}");
    assert!(text.contains(" = did you mean `safe`?\n") && text.ends_with(": 1 fault to mend\n"), "{text}");
    gateway.configure(|config| {
        config["policy"]["rules"][0] = json!({ "id": "safely", "permit": ["up/work", "up/play", "up!resource:*"] });
    });
    let (code, text) = check(&[]);
    assert_eq!(code, Some(0), "{text}");
    let warning = "warning: policy.rules[0].permit[1]: `up/play`: matches nothing that its servers offer\n";
    assert!(text.starts_with(warning) && text.matches("warning").count() == 1, "{text}");
    let (code, text) = check(&["--strict"]);
    assert_eq!(code, Some(3), "{text}");
    assert!(text.ends_with(": 1 warning, a fault by --strict\n"), "{text}");
}
