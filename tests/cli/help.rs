//! `--help` of every verb is a promise: it changes in a diff, or not at all.

use std::path::Path;

use crate::support::gateway::run;

fn help(verb: &str) -> String {
    let mut arguments: Vec<&str> = verb.split_whitespace().collect();
    arguments.push("--help");
    let run = run(Path::new("."), &arguments);
    assert_eq!(run.status.and_then(|status| status.code()), Some(0), "{}", run.stderr);
    assert_eq!(run.stderr, "");
    run.stdout
}

macro_rules! snapshots {
    ($($name:ident: $verb:literal,)*) => {
        $(#[test]
        fn $name() {
            insta::assert_snapshot!(stringify!($name), help($verb));
        })*

        #[test]
        fn every_verb_has_a_snapshot() {
            let known = [$($verb),*];
            let mut verbs = subcommands(&help(""));
            verbs.extend(subcommands(&help("audit")).into_iter().map(|verb| format!("audit {verb}")));
            verbs.extend(subcommands(&help("pins")).into_iter().map(|verb| format!("pins {verb}")));
            verbs.extend(subcommands(&help("approvals")).into_iter().map(|verb| format!("approvals {verb}")));
            verbs.extend(subcommands(&help("config")).into_iter().map(|verb| format!("config {verb}")));
            verbs.extend(subcommands(&help("policy")).into_iter().map(|verb| format!("policy {verb}")));
            for verb in verbs {
                assert!(known.contains(&verb.as_str()), "{verb} has no snapshot of its help");
            }
        }
    };
}

snapshots! {
    top: "",
    run_verb: "run",
    check: "check",
    config: "config",
    config_show: "config show",
    demo: "demo",
    token: "token",
    healthcheck: "healthcheck",
    reload: "reload",
    drain: "drain",
    status: "status",
    audit: "audit",
    audit_export: "audit export",
    pins: "pins",
    pins_ls: "pins ls",
    pins_diff: "pins diff",
    pins_approve: "pins approve",
    policy: "policy",
    policy_explain: "policy explain",
    policy_test: "policy test",
    policy_diff: "policy diff",
    policy_replay: "policy replay",
    approvals: "approvals",
    approvals_ls: "approvals ls",
    approvals_show: "approvals show",
    approvals_approve: "approvals approve",
    approvals_deny: "approvals deny",
    revoke: "revoke",
    version: "version",
}

fn subcommands(help: &str) -> Vec<String> {
    let lines = help.lines().skip_while(|line| *line != "Commands:").skip(1);
    let verbs: Vec<String> = lines
        .take_while(|line| !line.is_empty())
        .filter(|line| line.starts_with("  ") && !line.starts_with("   "))
        .filter_map(|line| line.split_whitespace().next())
        .map(str::to_owned)
        .collect();
    assert!(!verbs.is_empty(), "no verbs found in:\n{help}");
    verbs
}

#[test]
fn help_has_no_colours() {
    assert!(!help("").contains('\u{1b}'));
}
