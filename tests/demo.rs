//! `portcullis demo`, as a newcomer meets it: what it prints is pasted, and must do what it says.

use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use crate::support::gateway::{BINARY, PATIENCE};

/// A demo on a free port, and the lines it prints; ended when dropped.
struct Demo {
    child: Child,
    lines: Receiver<String>,
}

impl Demo {
    /// `temporary` is where it makes its own folder.
    fn start(temporary: &Path, arguments: &[&str]) -> Self {
        let mut child = Command::new(BINARY)
            .args(["demo", "--listen", "127.0.0.1:0"])
            .args(arguments)
            .env("TMPDIR", temporary)
            .env("NO_COLOR", "1")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("the binary starts");
        let stdout = BufReader::new(child.stdout.take().expect("piped"));
        let (send, lines) = channel();
        std::thread::spawn(move || stdout.lines().map_while(Result::ok).try_for_each(|line| send.send(line)));
        Self { child, lines }
    }

    /// Its lines up to and with the first that `last` accepts.
    fn until(&self, last: impl Fn(&str) -> bool) -> Vec<String> {
        let mut lines = Vec::new();
        while lines.last().is_none_or(|line: &String| !last(line)) {
            lines.push(self.lines.recv_timeout(PATIENCE).unwrap_or_else(|_| panic!("no more lines: {lines:#?}")));
        }
        lines
    }

    fn end(mut self) -> Option<i32> {
        let pid = Pid::from_child(&self.child);
        kill_process(pid, Signal::INT).expect("it runs");
        self.child.wait().expect("it ends").code()
    }
}

impl Drop for Demo {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn introduction(demo: &Demo) -> Vec<String> {
    demo.until(|line| line.starts_with("UTC"))
}

/// The commands that start with `curl`, each up to its `; echo`, after the exports.
fn pasted(lines: &[String]) -> String {
    let mut script = String::new();
    let mut inside = false;
    for line in lines {
        inside |= line.trim_start().starts_with("curl ");
        if inside || line.starts_with("export ") {
            script.push_str(line);
            script.push('\n');
        }
        inside &= !line.ends_with("; echo");
    }
    script
}

#[test]
fn what_it_prints_does_what_it_says() {
    if Command::new("curl").arg("--version").stdout(Stdio::null()).status().is_err() {
        assert!(std::env::var_os("CI").is_none(), "curl cannot be had, and CI needs it");
        eprintln!("SKIPPED: there is no curl to paste into");
        return;
    }
    let temporary = tempfile::tempdir().unwrap();
    let demo = Demo::start(temporary.path(), &[]);
    let printed = introduction(&demo);
    for word in ["driver", "shards", "reachable, MCP 2026-07-28 and 2025-11-25", "policy", "audit folder"] {
        assert!(printed.iter().any(|line| line.contains(word)), "{word} is missing: {printed:#?}");
    }
    let output = Command::new("bash").args(["-c", &pasted(&printed)]).output().expect("bash runs");
    let answers: Vec<Value> = String::from_utf8_lossy(&output.stdout)
        .lines()
        .map(|line| serde_json::from_str(line).unwrap_or_else(|_| panic!("not JSON: {line}")))
        .collect();
    let [found, listed, hidden, refunded, forbidden] = answers.as_slice() else { panic!("{answers:#?}") };
    assert!(found["result"]["content"][0]["text"].is_string(), "{found}");
    let names: Vec<_> = listed["result"]["tools"].as_array().unwrap().iter().map(|tool| &tool["name"]).collect();
    assert_eq!(names, ["list_invoices", "get_invoice"]);
    assert_eq!(hidden["error"]["code"], -32602, "{hidden}");
    assert_ne!(refunded["result"]["isError"], true, "{refunded}");
    assert!(refunded["result"]["content"][0]["text"].is_string(), "{refunded}");
    assert_eq!(forbidden["result"]["isError"], true, "{forbidden}");
    assert!(forbidden["result"]["_meta"]["portcullis/refusal"]["reason"].is_string(), "{forbidden}");

    // Four decisions of the five: a list is none.
    let shown = demo.until(|line| line.contains("payments/delete_invoice"));
    let verdict = |what: &str| shown.iter().find(|line| line.contains(what)).map(|line| line.contains(" permit "));
    assert_eq!(verdict("docs/search"), Some(true), "{shown:#?}");
    assert_eq!(shown.iter().filter(|line| line.contains("payments/refund")).count(), 2, "{shown:#?}");
    assert_eq!(verdict("payments/delete_invoice"), Some(false), "{shown:#?}");

    assert_eq!(demo.end(), Some(0));
    assert_eq!(std::fs::read_dir(temporary.path()).unwrap().count(), 0, "it leaves nothing behind");
}

#[test]
fn a_folder_of_the_users_is_kept_with_its_key() {
    let temporary = tempfile::tempdir().unwrap();
    let folder = temporary.path().join("demo");
    let arguments = ["--dir", folder.to_str().unwrap()];
    let demo = Demo::start(temporary.path(), &arguments);
    introduction(&demo);
    let key = std::fs::read(folder.join("issuer.key")).unwrap();
    assert_eq!(demo.end(), Some(0));
    let demo = Demo::start(temporary.path(), &arguments);
    introduction(&demo);
    assert_eq!(demo.end(), Some(0));
    assert_eq!(std::fs::read(folder.join("issuer.key")).unwrap(), key);
    let checked =
        Command::new(BINARY).args(["check", "--strict", "--config"]).arg(folder.join("portcullis.yaml")).status();
    assert!(checked.unwrap().success());
}
