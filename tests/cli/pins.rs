//! `portcullis pins`: what it prints, and how it refuses.

use std::fs;
use std::path::Path;

use serde_json::{Value, json};

use crate::support::gateway::{Gateway, Setup, eventually, run};
use crate::support::peers::Run;
use crate::support::upstream::{Plan, Upstream, definition};

fn code(run: &Run) -> Option<i32> {
    run.status.and_then(|status| status.code())
}

fn pins(gateway: &Gateway, words: &[&str]) -> Run {
    let config = gateway.config().display().to_string();
    let mut arguments = vec!["pins"];
    arguments.extend(words);
    arguments.extend(["--config", &config]);
    run(Path::new("."), &arguments)
}

/// Two servers with a tool of one name, where everything waits.
fn pair() -> (Gateway, [Upstream; 2]) {
    let mut fake = definition("fake");
    fake["description"] = json!("Fine.\u{1b}[2K\u{202e}\nup tool:fake (known)");
    let upstreams = [Plan::tools(&["same", "own"]).tool(fake).start(), Plan::tools(&["same"]).start()];
    let gateway = Setup::new()
        .server("up", &upstreams[0].url())
        .server("upper", &upstreams[1].url())
        .set("/servers/up/pin", json!("quarantine"))
        .set("/servers/upper/pin", json!("quarantine"))
        .open()
        .start();
    eventually("both are seen", || pins(&gateway, &["ls"]).stdout.matches("tool:same").count() == 2);
    (gateway, upstreams)
}

/// Without what differs from run to run: moments, hashes.
fn steady(text: &str) -> String {
    let mut out: Vec<String> = Vec::new();
    for line in text.lines() {
        let words = line.split(' ').map(|word| {
            let hash = (word.len() == 12 || word.len() == 64) && word.bytes().all(|byte| byte.is_ascii_hexdigit());
            let moment = word.len() == 20 && word.ends_with('Z') && word.starts_with("20");
            match (hash, moment) {
                (true, _) => "HASH",
                (_, true) => "MOMENT",
                _ => word,
            }
        });
        out.push(words.collect::<Vec<_>>().join(" "));
    }
    out.join("\n")
}

#[test]
fn what_is_printed() {
    let (gateway, _upstreams) = pair();
    let ls = pins(&gateway, &["ls", "--server", "up"]);
    assert_eq!((code(&ls), ls.stderr.as_str()), (Some(0), ""));
    insta::assert_snapshot!("pins_ls_new", steady(&ls.stdout));
    let diff = pins(&gateway, &["diff", "--server", "up", "--tool", "fake", "--tool", "own"]);
    assert_eq!(code(&diff), Some(0));
    insta::assert_snapshot!("pins_diff_new", steady(&format!("{}{}", diff.stdout, diff.stderr)));
    let approved = pins(&gateway, &["approve", "--tool", "own", "--prompt", "greet", "--server", "up"]);
    assert_eq!((code(&approved), approved.stdout.as_str()), (Some(0), ""));
    insta::assert_snapshot!("pins_approve", steady(&approved.stderr));
    let json = pins(&gateway, &["ls", "--json", "--tool", "own", "--tool", "fake", "--server", "up"]).stdout;
    let lines: Vec<Value> = json.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    let shown = |line: &Value| format!("{} {} {} {}", line["server"], line["what"], line["state"], line["flags"]);
    let want = [
        r#""up" "tool:fake" "new, hidden" "bidirectional and control characters""#,
        r#""up" "tool:own" "approved" """#,
    ];
    assert_eq!(lines.iter().map(shown).collect::<Vec<_>>(), want);
    assert!(lines.iter().all(|line| line["sha256"].as_str().is_some_and(|hash| hash.len() == 64)));
    let waiting = pins(&gateway, &["ls", "--waiting"]).stdout;
    assert!(!waiting.contains("tool:own") && waiting.contains("tool:fake"), "{waiting}");
    // Nothing a server wrote reaches the terminal as it is.
    for text in [&ls.stdout, &diff.stdout, &json] {
        assert!(text.chars().all(|letter| letter == '\n' || !letter.is_control() && letter != '\u{202e}'), "{text:?}");
    }
}

#[test]
fn what_is_refused() {
    let (gateway, _upstreams) = pair();
    let refused = |words: &[&str], exit: i32, why: &str| {
        let before = pins(&gateway, &["ls"]).stdout;
        let run = pins(&gateway, words);
        assert_eq!(code(&run), Some(exit), "{words:?}: {}", run.stderr);
        assert!(run.stderr.contains(why), "{words:?}: {}", run.stderr);
        assert_eq!(pins(&gateway, &["ls"]).stdout, before, "{words:?}: nothing was approved");
    };
    refused(&["approve"], 2, "--all");
    refused(&["approve", "--all", "--tool", "own"], 2, "cannot be used with");
    refused(&["approve", "--tool", "none"], 1, "tool:none does not wait for approval");
    refused(&["approve", "--tool", "own", "--tool", "none"], 1, "tool:none does not wait for approval");
    refused(&["approve", "--prompt", "own"], 1, "prompt:own does not wait for approval");
    refused(&["approve", "--tool", "same"], 1, "tool:same waits at several servers (up, upper)");
    refused(&["approve", "--all", "--server", "other"], 1, "the configuration has no server other");
    refused(&["approve", "--tool", "own", "--hash", "12"], 1, "--hash takes 64 hexadecimal digits");
    refused(&["approve", "--tool", "own", "--hash", &"0".repeat(64)], 1, "it has changed meanwhile");
    refused(&["approve", "--all", "--hash", &"0".repeat(64)], 1, "it has changed meanwhile");
    // One hash for all that waits: of one server, and of all.
    for words in [&["--server", "upper"][..], &[]] {
        let diff = pins(&gateway, &[&["diff"], words].concat());
        let hash = diff.stderr.rsplit(' ').next().unwrap_or_default().trim().to_owned();
        let approved = pins(&gateway, &[&["approve", "--all", "--hash", &hash], words].concat());
        assert_eq!(code(&approved), Some(0), "{}", approved.stderr);
    }
    let nothing = pins(&gateway, &["approve", "--all"]);
    assert_eq!((code(&nothing), nothing.stderr.trim()), (Some(0), "nothing waits for approval"));
    refused(&["approve", "--tool", "own"], 1, "tool:own does not wait for approval");
    assert_eq!(pins(&gateway, &["diff"]).stdout, "");
}

#[test]
fn a_server_that_was_never_seen() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let config = "auth: { anonymous: allow }\nservers: { a: { url: \"http://127.0.0.1:1/\" } }\n\
                  policy: { rules: [{ id: o, permit: [\"*/*\"] }] }\n";
    fs::write(folder.path().join("c.yaml"), config).expect("it can be written");
    let ls = run(folder.path(), &["pins", "ls", "--config", "c.yaml"]);
    assert_eq!((code(&ls), ls.stdout.as_str()), (Some(0), "a (pin: warn): never seen by a gateway\n"), "{}", ls.stderr);
    assert!(!folder.path().join("portcullis-state").exists(), "looking makes nothing");
    let faults = run(folder.path(), &["pins", "ls", "--config", "none.yaml"]);
    assert_eq!(code(&faults), Some(1), "{}", faults.stderr);
}
