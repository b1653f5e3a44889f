//! `portcullis policy`: tables of real policies, and what its verbs print.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use crate::support::gateway::{Setup, run};
use crate::support::mcp::{Post, text_of};
use crate::support::peers::Run;
use crate::support::upstream::Plan;

fn code(run: &Run) -> Option<i32> {
    run.status.and_then(|status| status.code())
}

fn tables() -> Vec<PathBuf> {
    let folder = fs::read_dir("tests/policies").expect("the tests run in the crate's folder");
    let mut all: Vec<PathBuf> = folder.filter_map(Result::ok).map(|entry| entry.path()).collect();
    all.sort();
    all
}

/// A folder of these files.
fn folder(files: &[(&str, &str)]) -> tempfile::TempDir {
    let folder = tempfile::tempdir().expect("a temporary folder");
    for (name, text) in files {
        fs::write(folder.path().join(name), text).expect("it can be written");
    }
    folder
}

/// What is printed, without the folder that it is in.
fn told(run: &Run, folder: &Path) -> String {
    let text = format!("{}{}", run.stdout, run.stderr);
    text.replace(&format!("{}/", folder.display()), "")
}

#[test]
fn real_policies_do_what_they_must() {
    let tables = tables();
    assert!(tables.len() >= 15, "the tables were not found: {tables:?}");
    let mut arguments = vec!["policy", "test"];
    arguments.extend(tables.iter().map(|path| path.to_str().expect("plain names")));
    let run = run(Path::new("."), &arguments);
    assert_eq!(code(&run), Some(0), "{}{}", run.stdout, run.stderr);
    assert!(run.stderr.contains(" 0 failed"), "{}", run.stderr);
}

/// A table that expects the contrary of everything fails with every single case: none of them passes by itself.
#[test]
fn every_case_can_fail() {
    let turned = |text: &str| text.replace("expect: permit", "expect: X").replace("expect: refuse", "expect: permit");
    for path in tables() {
        let text = fs::read_to_string(&path).expect("it can be read");
        let text = turned(&text).replace("expect: X", "expect: refuse").replace("expect: pending", "expect: permit");
        let folder = folder(&[("table.yaml", &text)]);
        let run = run(folder.path(), &["policy", "test", "table.yaml"]);
        assert_eq!(code(&run), Some(1), "{}: {}{}", path.display(), run.stdout, run.stderr);
        let failed = run.stdout.lines().filter(|line| line.starts_with("failed: ")).count();
        let told = format!("{failed} cases in 1 table: {failed} failed\n");
        assert_eq!(run.stderr.lines().last().map(|line| format!("{line}\n")), Some(told), "{}", path.display());
    }
}

const REFUNDS: &str = "\
rules:
  - id: small-refunds
    permit: [payments/refund]
    when: args.amount > 0 && args.amount <= 500
    limits: [{ calls: 2, per: 1h }, { sum: args.amount, max: 600, per: 24h }]
    reason: Refunds are up to 500.
";

#[test]
fn a_failed_case_is_explained() {
    let cases = format!(
        "{REFUNDS}cases:
  - {{ server: payments, tool: refund, args: {{ amount: 501 }}, expect: permit }}
  - {{ server: payments, tool: refund, args: {{ amount: \"5\" }}, expect: permit, listed: false }}
  - name: three
    server: payments
    tool: refund
    calls:
      - {{ args: {{ amount: 400 }}, expect: permit }}
      - {{ args: {{ amount: 100 }}, repeat: 2, expect: permit }}
  - {{ server: payments, tool: refund, args: {{ amount: 1 }}, expect: pending, reason: No., rule: [small-refunds, big] }}
"
    );
    let folder = folder(&[("table.yaml", &cases)]);
    let run = run(folder.path(), &["policy", "test", "table.yaml"]);
    assert_eq!(code(&run), Some(1));
    insta::assert_snapshot!("policy_test_failed", told(&run, folder.path()));
}

#[test]
fn faults_of_a_table_have_their_places() {
    let table = "\
rules:
  - id: r
    permit: [payments/refund]
    when: args.amount <= 'x' &&
tools: { payments: [refund, { title: nameless }], docs: 3 }
cases:
  - { server: payments, tool: refund, expects: permit }
  - { server: payments, tool: refund, args: { amount: .5 }, expect: perhaps }
  - { tool: refund, args: [1], expect: permit }
  - { server: payments, expect: permit }
  - { server: payments, tool: refund, prompt: p, expect: permit }
  - { server: payments, tool: refund, now: yesterday, expect: permit }
  - { server: payments, tool: refund, calls: [{ wait: soon, expect: permit }, { args: {} }] }
";
    let folder = folder(&[("table.yaml", table)]);
    let run = run(folder.path(), &["policy", "test", "table.yaml"]);
    assert_eq!(code(&run), Some(3));
    insta::assert_snapshot!("policy_test_faults", told(&run, folder.path()));
}

fn config(rules: &str) -> String {
    format!(
        "auth: {{ anonymous: allow }}\nstate: ./state\nservers: {{ payments: {{ url: http://127.0.0.1:9/mcp }}, crm: {{ url: \
         http://127.0.0.1:9/mcp }} }}\npolicy:\n{}",
        rules.lines().map(|line| format!("  {line}\n")).collect::<String>()
    )
}

const RULES: &str = "\
tasks: { support: Support customers. }
rules:
  - id: refunds
    tasks: [support]
    who: '\"support\" in claims.groups'
    permit: [payments/refund]
    when: args.amount > 0 && args.amount <= 500
    scopes: [pay]
    limits: [{ calls: 20, per: 1h }, { sum: args.amount, max: 5000, per: 24h }]
    reason: Refunds are up to 500.
  - id: large
    approve: [payments/refund]
    when: args.amount > 500
  - id: own-tenant
    forbid: [crm/*]
    when: args.tenant != claims.tenant
  - id: crm
    permit: [crm/*]
";

#[test]
fn explanations() {
    let claims = r#"{"sub":"alice","groups":["support"],"tenant":"acme","scope":"pay"}"#;
    let folder = folder(&[
        ("c.yaml", &config(RULES)),
        ("claims.json", claims),
        ("other.json", r#"{"sub":"bob","groups":[]}"#),
        ("1.json", r#"{"amount":1}"#),
        ("600.json", r#"{"amount":600.000000000000000000001}"#),
        ("none.json", "{}"),
        ("twice.json", r#"{"amount":1,"amount":2}"#),
    ]);
    let explain = |words: &str| {
        let mut arguments = vec!["policy", "explain", "--config", "c.yaml"];
        arguments.extend(words.split_whitespace());
        let run = run(folder.path(), &arguments);
        format!(
            "$ {words}\n{}{}\n",
            told(&run, folder.path()),
            code(&run).map_or_else(String::new, |code| code.to_string())
        )
    };
    let refund = "--server payments --tool refund";
    let all = [
        explain(&format!("{refund} --claims claims.json --task support --args 1.json")),
        explain(&format!("{refund} --claims claims.json --task support --args none.json")),
        explain(&format!("{refund} --claims claims.json --task support --args 600.json")),
        explain(&format!("{refund} --claims other.json --task support --args 1.json")),
        explain(&format!("{refund} --claims claims.json --args 1.json")),
        explain("--server crm --tool search --claims claims.json"),
        explain("--server crm --tool search --claims other.json"),
        explain("--server crm --tool search --claims claims.json --task none"),
        explain(&format!("{refund} --args twice.json")),
        explain("--server nobody --tool x"),
    ];
    insta::assert_snapshot!("policy_explain", all.concat());
    let run = run(
        folder.path(),
        &["policy", "explain", "-c", "c.yaml", "--server", "crm", "--tool", "x", "--format", "json"],
    );
    let json: Value = serde_json::from_str(&run.stdout).expect("JSON");
    assert_eq!((&json["v"], &json["verdict"], &json["listed"]), (&json!(1), &json!("refuse"), &json!(false)));
    assert_eq!(json["standings"][0]["rule"], "own-tenant");
}

#[test]
fn another_policy_is_compared() {
    let new = RULES
        .replace("<= 500\n    scopes: [pay]", "<= 900\n    scopes: [pay, big]")
        .replace("calls: 20", "calls: 10")
        .replace("args.amount > 500", "args.amount > 900\n    ask: elicit")
        .replace("forbid: [crm/*]", "forbid: [crm/*, crm/search]")
        .replace("permit: [crm/*]", "permit: [crm/get_*]")
        + "  - { id: docs, permit: [crm/get_docs] }\n  - { id: more, permit: [payments/list] }\n";
    let folder = folder(&[
        ("old.yaml", &config(RULES)),
        ("new.yaml", &config(&new)),
        ("tools.yaml", "payments: [refund, list]\ncrm: [search, get_page, get_docs]\n"),
    ]);
    let same = run(folder.path(), &["policy", "diff", "old.yaml", "old.yaml"]);
    assert_eq!((code(&same), same.stdout.as_str()), (Some(0), "nothing is decided differently\n"));
    let known = run(folder.path(), &["policy", "diff", "old.yaml", "new.yaml", "--tools", "tools.yaml"]);
    assert_eq!(code(&known), Some(1), "{}", known.stderr);
    insta::assert_snapshot!("policy_diff", known.stdout);
    let spelt = run(folder.path(), &["policy", "diff", "old.yaml", "new.yaml"]);
    insta::assert_snapshot!("policy_diff_patterns", spelt.stdout);
    let json = run(folder.path(), &["policy", "diff", "old.yaml", "new.yaml", "--format", "json"]);
    let json: Value = serde_json::from_str(&json.stdout).expect("JSON");
    assert!(json["changes"].as_array().is_some_and(|changes| !changes.is_empty()), "{json}");
}

#[test]
fn the_record_is_decided_again() {
    let decision = |seq: u64, more: Value| {
        let mut line = json!({
            "v": 1, "run": 7, "kind": "decision", "time": "2026-01-05T12:00:00.000Z", "seq": seq, "shard": 0,
            "issuer": "i", "subject": "alice", "agent": null, "task": null, "method": "tools/call", "server": "payments",
            "tool": "refund", "verdict": "permit", "reason": "permit", "rules": ["old"],
        });
        more.as_object().expect("members").iter().for_each(|(key, value)| line[key] = value.clone());
        format!("{line}\n")
    };
    let record = [
        decision(0, json!({ "arguments": { "amount": 10 } })),
        decision(1, json!({ "arguments": { "amount": 501 } })),
        decision(2, json!({ "arguments": { "amount": 502 } })),
        decision(3, json!({})),
        decision(4, json!({ "arguments": { "amount": 502 }, "verdict": "pending", "reason": "approval" })),
        decision(5, json!({ "arguments": { "amount": 502 }, "approval": { "id": "ap-1", "by": "x" } })),
        decision(6, json!({ "server": "crm", "tool": "search" })),
        decision(7, json!({ "server": "crm", "tool": "get_page" })),
        decision(8, json!({ "server": "crm", "tool": "delete", "verdict": "refuse", "reason": "no_match" })),
        decision(9, json!({ "server": "crm", "tool": "get_x", "verdict": "refuse", "reason": "no_match" })),
        decision(10, json!({ "verdict": "refuse", "reason": "auth" })),
        decision(11, json!({ "server": "crm", "tool": "counted" })),
        decision(12, json!({ "server": "crm", "tool": "mine" })),
        decision(13, json!({ "server": "crm", "tool": "mine", "subject": "keyed:0123" })),
        "{\"kind\":\"outcome\",\"seq\":0}\n{\"kind\":\"decis".to_owned(),
    ];
    let rules = "\
rules:
  - { id: small, permit: [payments/refund], when: args.amount <= 500 }
  - { id: large, approve: [payments/refund], when: args.amount > 501 }
  - { id: crm, permit: [crm/get_*] }
  - { id: tenants, forbid: [crm/get_p*], when: args.tenant != claims.tenant }
  - { id: counted, permit: [crm/counted], limits: [{ calls: 1, per: 1h }] }
  - { id: mine, permit: [crm/mine], who: 'subject == \"alice\"' }
";
    let folder = folder(&[("new.yaml", &config(rules)), ("record.jsonl", &record.concat())]);
    let changed = run(folder.path(), &["policy", "replay", "record.jsonl", "--config", "new.yaml"]);
    assert_eq!(code(&changed), Some(1), "{}", changed.stderr);
    insta::assert_snapshot!("policy_replay", changed.stdout);
    let json = run(folder.path(), &["policy", "replay", "record.jsonl", "-c", "new.yaml", "--format", "json"]);
    let json: Value = serde_json::from_str(&json.stdout).expect("JSON");
    assert_eq!(json["decisions"], 13, "{json}");
    fs::create_dir(folder.path().join("audit")).expect("a folder");
    fs::write(folder.path().join("audit/audit-000000000000001-00000000.jsonl"), &record[0]).expect("it can be written");
    let same = run(folder.path(), &["policy", "replay", "audit", "--config", "new.yaml"]);
    assert_eq!(code(&same), Some(0), "{}{}", same.stdout, same.stderr);
    assert!(same.stdout.starts_with("1 decision: 1 as before, 0 otherwise"), "{}", same.stdout);
}

#[test]
fn a_table_may_have_the_rules_of_a_configuration() {
    let table = "cases: [{ server: payments, tool: refund, args: { amount: 501 }, expect: pending, rule: large }]\n";
    let folder = folder(&[("c.yaml", &config(RULES)), ("t.yaml", table)]);
    let with = run(folder.path(), &["policy", "test", "t.yaml", "--config", "c.yaml"]);
    assert_eq!((code(&with), with.stderr.as_str()), (Some(0), "1 cases in 1 table: 0 failed\n"));
    let without = run(folder.path(), &["policy", "test", "t.yaml"]);
    assert_eq!(code(&without), Some(1));
    assert!(without.stderr.contains("name a configuration with --config"), "{}", without.stderr);
}

/// Asked live, it counts with the gateway's counts, changes none, and says what the agent is told.
#[test]
fn a_running_gateway_explains_itself() {
    let upstream = Plan::tools(&["echo"]).start();
    let rule = json!({
        "id": "few", "permit": ["up/*"], "when": "args.n != 13", "limits": [{ "calls": 2, "per": "1h", "by": "all" }],
    });
    let gateway = Setup::new().server("up", &upstream.url()).rule(rule).start();
    let (config, admin) = (gateway.config().display().to_string(), gateway.admin.to_string());
    let folder = folder(&[("2.json", "{\"n\":2}"), ("13.json", "{\"n\":13}")]);
    let explain = |args: &str, format: &str| {
        let words = ["policy", "explain", "--live", "-c", &config, "--server", "up", "--tool", "echo", "--args", args];
        let mut words = words.to_vec();
        words.extend(["--format", format, "--admin", &admin]);
        let run = run(folder.path(), &words);
        assert_eq!(code(&run), Some(0), "{}", run.stderr);
        run.stdout
    };
    let json = |args: &str| serde_json::from_str::<Value>(&explain(args, "json")).expect("JSON");
    let call = |n: u64| Post::call("echo").param("/arguments/n", json!(n)).to(&gateway).json();
    for used in ["0", "1"] {
        for _ in 0..3 {
            let answer = json("2.json");
            let limit = &answer["limits"][0];
            assert_eq!(
                (&answer["verdict"], &limit["used"], &limit["max"]),
                (&json!("permit"), &json!(used), &json!("2"))
            );
        }
        assert_eq!(call(2)["result"]["isError"], json!(false));
    }
    let answer = json("2.json");
    assert_eq!(
        (&answer["verdict"], &answer["kind"], &answer["rules"]),
        (&json!("refuse"), &json!("limit"), &json!(["few"]))
    );
    assert!(explain("2.json", "text").contains("2 of 2 used, this call adds 1; does not hold"));
    let refused = call(2);
    let start = |text: &str| text.split("; the next").next().map(str::to_owned);
    assert_eq!(start(answer["says"].as_str().expect("it is told")), start(text_of(&refused)));
    assert_eq!(json("13.json")["says"], text_of(&call(13)));
    assert_eq!(json("13.json")["standings"][0]["operand"]["values"]["args.n"], "13");
}

#[test]
fn a_gateway_that_does_not_run_explains_nothing() {
    let folder = folder(&[("c.yaml", &config(RULES))]);
    fs::create_dir_all(folder.path().join("state")).expect("a folder");
    fs::write(folder.path().join("state/admin.token"), "x\n").expect("it can be written");
    let words =
        ["policy", "explain", "--live", "-c", "c.yaml", "--server", "crm", "--tool", "x", "--admin", "127.0.0.1:1"];
    let run = run(folder.path(), &words);
    assert_eq!(code(&run), Some(5), "{}", run.stderr);
    assert!(run.stderr.contains("no gateway answers at 127.0.0.1:1"), "{}", run.stderr);
}

/// A table that lists tools with their arguments: what no tool has is a fault of the table, at its place.
#[test]
fn arguments_that_no_tool_has() {
    let table = |when: &str| {
        format!(
            "rules:
  - id: small
    permit: [payments/refund]
    when: {when}
tools:
  payments:
    - {{ name: refund, inputSchema: {{ type: object, properties: {{ amount: {{ type: number }} }} }} }}
cases:
  - {{ server: payments, tool: refund, args: {{ amount: 5 }}, expect: permit }}
"
        )
    };
    let tested = |when: &str| {
        let folder = folder(&[("table.yaml", &table(when))]);
        let run = run(folder.path(), &["policy", "test", "table.yaml"]);
        (code(&run), told(&run, folder.path()))
    };
    assert_eq!(tested("args.amount < 10").0, Some(0));
    let (code, text) = tested("args.amount < 10 && args.amuont > 1");
    assert_eq!(code, Some(3), "{text}");
    assert!(text.starts_with("error: rules[0].when: rule small: args.amuont: none of this rule's tools has"), "{text}");
    assert!(text.contains("--> table.yaml:4:31\n") && text.contains("= did you mean `amount`?\n"), "{text}");
    // Of another type: told, and tried all the same.
    let (code, text) = tested("args.amount < 10 && !(args.amount == \"x\")");
    assert_eq!(code, Some(1), "{text}");
    assert!(text.contains("warning: rules[0].when: rule small: args.amount: the tools of this rule say"), "{text}");
}
