//! The verbs that do something: exit codes, what a program can read from them.

use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use rustix::process::Signal;
use serde_json::json;

use crate::support::gateway::{Gateway, PATIENCE, Setup, run};
use crate::support::mcp::Post;
use crate::support::peers::Run;
use crate::support::upstream::Plan;

fn code(run: &Run) -> Option<i32> {
    run.status.and_then(|status| status.code())
}

#[test]
fn version_is_the_crates() {
    let want = format!("portcullis {}\n", env!("CARGO_PKG_VERSION"));
    for word in ["version", "--version"] {
        let run = run(Path::new("."), &[word]);
        assert_eq!((code(&run), run.stdout.as_str(), run.stderr.as_str()), (Some(0), want.as_str(), ""));
    }
}

#[test]
fn a_wrong_command_line_is_two() {
    for words in [&["fly"][..], &["run"], &["token", "--key", "x"], &["audit"], &[], &["run", "--driver", "kqueue"]] {
        let run = run(Path::new("."), words);
        assert_eq!(code(&run), Some(2), "{words:?}: {}", run.stderr);
    }
}

/// [O6] A sealing key of less than 32 bytes ends the start; it is named by its file, never shown, and not replaced.
#[test]
fn a_short_sealing_key_does_not_start() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let config = "listen: 127.0.0.1:0\nadmin: off\nstate: state\nauth: { anonymous: allow }\n\
                  servers: { a: { url: \"http://127.0.0.1:1/\" } }\npolicy: { rules: [{ id: o, permit: [\"*/*\"] }] }\n";
    fs::write(folder.path().join("c.yaml"), config).expect("it can be written");
    fs::create_dir(folder.path().join("state")).expect("it can be made");
    let short = "5ec2e7".repeat(31 * 2 / 6 + 1)[..62].to_owned();
    for key in ["", "0", &short, &format!("{short}zz"), &format!("{short}000000")] {
        let file = folder.path().join("state/session.key");
        fs::write(&file, key).expect("it can be written");
        fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).expect("it is ours");
        let run = run(folder.path(), &["run", "--config", "c.yaml"]);
        assert_eq!(code(&run), Some(4), "{key}: {}", run.stderr);
        assert!(run.stderr.contains("state/session.key must hold 64 hexadecimal digits"), "{}", run.stderr);
        assert!(!run.stderr.contains("5ec2e75ec2e7") && !run.stdout.contains("5ec2e7"), "{}", run.stderr);
        assert_eq!(fs::read_to_string(&file).expect("it is there"), *key);
    }
}

#[test]
fn a_configuration_with_faults_does_not_start() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    fs::write(folder.path().join("c.yaml"), "nonsense: true\n").expect("it can be written");
    let run = run(folder.path(), &["run", "--config", "c.yaml"]);
    assert_eq!(code(&run), Some(3), "{}", run.stderr);
    assert!(run.stderr.contains("nonsense"), "{}", run.stderr);
}

#[test]
fn an_address_that_is_taken_is_four() {
    let taken = TcpListener::bind("127.0.0.1:0").expect("a port is free");
    let address = taken.local_addr().expect("it has an address");
    let folder = tempfile::tempdir().expect("a temporary folder");
    let config = json!({
        "listen": address.to_string(), "admin": "off", "auth": { "anonymous": "allow" },
        "servers": { "a": { "url": "http://127.0.0.1:1/mcp" } }, "audit": { "dir": "./audit" }, "state": "./state",
    });
    fs::write(folder.path().join("c.yaml"), config.to_string()).expect("it can be written");
    let run = run(folder.path(), &["run", "--config", "c.yaml"]);
    assert_eq!(code(&run), Some(4), "{}", run.stderr);
    assert!(run.stderr.contains(&address.to_string()), "{}", run.stderr);
}

/// Two gateways would write over each other's sessions, and one that cannot read them must not begin without.
#[test]
fn a_state_folder_that_is_no_use_is_four() {
    let gateway = Setup::new().server("a", "http://127.0.0.1:1/mcp").start();
    let folder = tempfile::tempdir().expect("a temporary folder");
    let config = |state: &Path| {
        let config = json!({
            "listen": "127.0.0.1:0", "admin": "off", "auth": { "anonymous": "allow" },
            "servers": { "a": { "url": "http://127.0.0.1:1/mcp" } }, "audit": { "dir": "./audit" }, "state": state,
        });
        fs::write(folder.path().join("c.yaml"), config.to_string()).expect("it can be written");
        run(folder.path(), &["run", "--config", "c.yaml"])
    };
    let second = config(&gateway.audit().with_file_name("state"));
    assert_eq!(code(&second), Some(4), "{}", second.stderr);
    assert!(second.stderr.contains("is in use by another gateway"), "{}", second.stderr);
    let state = folder.path().join("state");
    fs::create_dir(&state).expect("it can be made");
    fs::write(state.join("sessions.journal"), b"pc-sess\xff").expect("it can be written");
    let newer = config(&state);
    assert_eq!(code(&newer), Some(4), "{}", newer.stderr);
    assert!(newer.stderr.contains("sessions.journal cannot be used: its version is 255"), "{}", newer.stderr);
}

#[test]
fn the_record_that_cannot_be_written_is_four() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    fs::write(folder.path().join("audit"), "a file, not a folder").expect("it can be written");
    let config = json!({
        "listen": "127.0.0.1:0", "admin": "off", "auth": { "anonymous": "allow" },
        "servers": { "a": { "url": "http://127.0.0.1:1/mcp" } }, "audit": { "dir": "./audit" }, "state": "./state",
    });
    fs::write(folder.path().join("c.yaml"), config.to_string()).expect("it can be written");
    let run = run(folder.path(), &["run", "--config", "c.yaml"]);
    assert_eq!(code(&run), Some(4), "{}", run.stderr);
}

/// `token` makes a key, and what it mints with it opens a gateway that believes its key set.
#[test]
fn a_minted_token_verifies() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let mint = |more: &[&str]| {
        let mut words = vec!["token", "--key", "dev.key", "--issuer", "https://dev.test"];
        words.extend(more);
        run(folder.path(), &words)
    };
    let first = mint(&["--audience", "https://nobody.test/mcp"]);
    assert_eq!(code(&first), Some(0), "{}", first.stderr);
    let mode = fs::metadata(folder.path().join("dev.key")).expect("the key was made").permissions().mode();
    assert_eq!(mode & 0o777, 0o600);

    let upstream = Plan::tools(&["echo"]).start();
    let keys = folder.path().join("dev.key.jwks.json");
    let issuer = json!({ "issuer": "https://dev.test", "jwks": { "file": keys } });
    let gateway = Setup::new()
        .server("up", &upstream.url())
        .task("research")
        .rule(json!({ "id": "r", "tasks": ["research"], "permit": ["up/echo"] }))
        .set("/auth", json!({ "issuers": [issuer] }))
        .start();
    let audience = gateway.url("/mcp");
    let second = mint(&["--audience", &audience, "--subject", "eve", "--agent", "bot", "--task", "research"]);
    assert_eq!((code(&second), second.stderr.as_str()), (Some(0), ""), "the key was there already");
    Post::call("echo").token(second.stdout.trim()).echoed(&gateway);
    let strange = Post::call("echo").token(first.stdout.trim()).to(&gateway);
    assert_eq!(strange.status(), 401, "a token for somebody else");
    let records = gateway.records_until("the call", |records| records.iter().any(|it| it["subject"] == "eve"));
    let call = records.iter().find(|it| it["subject"] == "eve").expect("it is there");
    assert_eq!((&call["agent"], &call["task"]), (&json!("bot"), &json!("research")));
}

#[test]
fn a_token_key_that_is_none_is_refused() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    fs::write(folder.path().join("dev.key"), "not a key").expect("it can be written");
    let words = ["token", "--key", "dev.key", "--issuer", "https://dev.test", "--audience", "https://a.test"];
    let run = run(folder.path(), &words);
    assert_eq!((code(&run), run.stdout.as_str()), (Some(1), ""), "{}", run.stderr);
}

fn healthcheck(gateway: &Gateway) -> Run {
    run(Path::new("."), &["healthcheck", "--admin", &gateway.admin.to_string()])
}

#[test]
fn healthcheck_tells_ready_from_not() {
    let upstream = Plan::tools(&["hold"])
        .script(|seen, out| {
            if seen.calls("hold") {
                out.pass("go");
            }
            crate::support::upstream::Acted::Default
        })
        .start();
    let mut gateway = Setup::new().server("up", &upstream.url()).open().start();
    let ready = healthcheck(&gateway);
    assert_eq!((code(&ready), ready.stdout.as_str(), ready.stderr.as_str()), (Some(0), "", ""));
    // While it drains it is not ready any more; a call under way holds it there.
    let post = Post::call("hold");
    let mut held = post.begin(&gateway);
    upstream.wait("the call", |seen| seen.calls("hold"));
    gateway.signal(Signal::TERM);
    crate::support::gateway::eventually("it is not ready", || code(&healthcheck(&gateway)) == Some(5));
    upstream.open("go");
    post.is_echoed(&held.response());
    assert_eq!(gateway.ended(PATIENCE).code(), Some(0));
    let gone = healthcheck(&gateway);
    assert_eq!(code(&gone), Some(5));
    assert!(gone.stderr.contains("no gateway answers"), "{}", gone.stderr);
}

#[test]
fn audit_export_prints_whole_lines_only() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let write = |name: &str, text: &str| fs::write(folder.path().join(name), text).expect("it can be written");
    write("audit-000000000000002-0000.jsonl", "{\"n\":2}\n{\"torn");
    write("audit-000000000000001-0000.jsonl", "{\"n\":1}\n");
    write("notes.txt", "none of it\n");
    let dir = folder.path().display().to_string();
    let run_ = run(Path::new("."), &["audit", "export", "--dir", &dir]);
    assert_eq!((code(&run_), run_.stdout.as_str()), (Some(0), "{\"n\":1}\n{\"n\":2}\n"));
    assert!(run_.stderr.contains("1 line"), "{}", run_.stderr);
    let nowhere = run(Path::new("."), &["audit", "export", "--dir", "/nonexistent/audit"]);
    assert_eq!(code(&nowhere), Some(1), "{}", nowhere.stderr);
}

/// Variables may stand for flags, as containers want it.
#[test]
fn the_environment_may_name_the_configuration() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    fs::write(folder.path().join("c.yaml"), "nonsense: true\n").expect("it can be written");
    let mut command = crate::support::gateway::command();
    command.arg("check").env("PORTCULLIS_CONFIG", folder.path().join("c.yaml"));
    let run = crate::support::peers::finish(&mut command, PATIENCE);
    assert_eq!(code(&run), Some(3), "{}", run.stderr);
}
