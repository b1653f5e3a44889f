//! Runs the official conformance suite, and says where two runs of it differ.
//!
//! The suite leaves one folder per scenario with a `checks.json`; a check's id may occur more than
//! once in a scenario, so checks are known by id and name, and their outcomes kept in order.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::fs;
use std::path::Path;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use serde_json::Value;

use super::peers::{Peers, finish, home};

/// The requirement sets the gateway answers for.
pub(crate) const REQUIREMENTS: [&str; 2] = ["2025-11-25", "2026-07-28"];

const SUITE: &str = "node_modules/@modelcontextprotocol/conformance";
const SUITE_MS_MAX: u64 = 300_000;
/// `-2026-11-22T08-40-04-939Z`, behind a scenario's name.
const STAMP_LEN: usize = 25;
const MESSAGE_CHARS_SHOWN: usize = 300;
/// What the suite notes down about the wire, beside its checks: not a result.
const TRANSCRIPT: [&str; 4] = ["outgoing-request", "incoming-response", "incoming-sse-event", "stream-closed"];

/// The outcomes of one scenario, by check.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Scenario(BTreeMap<(String, String), Vec<Outcome>>);

/// What one check came to.
#[derive(Clone, Debug)]
pub(crate) struct Outcome {
    status: String,
    message: String,
}

impl Scenario {
    /// It ran, and no check of it failed.
    pub(crate) fn passed(&self) -> bool {
        !self.0.is_empty() && self.faults().next().is_none()
    }

    /// Its checks that failed or warned.
    pub(crate) fn faults(&self) -> impl Iterator<Item = String> {
        self.0.iter().flat_map(|((id, _), outcomes)| {
            outcomes
                .iter()
                .filter(|it| matches!(it.status.as_str(), "FAILURE" | "WARNING"))
                .map(move |it| format!("{id}: {it}"))
        })
    }
}

/// Runs the suite against `url`; every scenario that a revision names, also those that do not count.
/// Runs may go on at the same time, each against a server of its own: some scenarios change the
/// server's lists, which others watch.
pub(crate) fn run_suite(node: &Peers, url: &str, requirements: &str) -> BTreeMap<String, Scenario> {
    run(node, url, &["--requirements", requirements])
}

/// Runs one scenario of it.
pub(crate) fn run_scenario(node: &Peers, url: &str, requirements: &str, name: &str) -> Scenario {
    let mut ran = run(node, url, &["--scenario", name, "--spec-version", requirements, "--force"]);
    ran.remove(name).unwrap_or_else(|| panic!("{name} did not run: {:?}", ran.keys()))
}

fn run(node: &Peers, url: &str, what: &[&str]) -> BTreeMap<String, Scenario> {
    static RUNS: AtomicU32 = AtomicU32::new(0);
    let run = RUNS.fetch_add(1, Ordering::Relaxed);
    let results = home().join(format!("results-{}-{run}", std::process::id()));
    let mut command = node.command(Path::new(SUITE).join("dist/index.js"));
    command.args(["server", "--url", url]).args(what).arg("--output-dir").arg(&results);
    let run = finish(&mut command, Duration::from_millis(SUITE_MS_MAX));
    assert!(run.status.is_some(), "the conformance suite did not end:\n{}", run.stdout);
    let scenarios =
        read(&results).unwrap_or_else(|fault| panic!("no results of the suite: {fault}\n{}{}", run.stdout, run.stderr));
    let _ = fs::remove_dir_all(&results);
    scenarios
}

/// The scenarios that decide whether a server conforms to that revision.
pub(crate) fn required(node: &Peers, requirements: &str) -> BTreeSet<String> {
    let list = node.folder().join(SUITE).join(format!("requirements/{requirements}.yaml"));
    let text = fs::read_to_string(&list).unwrap_or_else(|fault| panic!("{}: {fault}", list.display()));
    let names: BTreeSet<String> = text
        .lines()
        .skip_while(|line| *line != "server:")
        .skip(1)
        .map_while(|line| line.strip_prefix("  - "))
        .map(str::to_owned)
        .collect();
    assert!(!names.is_empty(), "{} names no server scenarios", list.display());
    names
}

/// The scenarios that did not come to the same in two runs.
pub(crate) fn differing(direct: &BTreeMap<String, Scenario>, through: &BTreeMap<String, Scenario>) -> Vec<String> {
    let names = direct.keys().chain(through.keys()).collect::<BTreeSet<_>>();
    names.into_iter().filter(|name| direct.get(*name) != through.get(*name)).cloned().collect()
}

/// Where two runs differ, a line for each: empty when they came to the same.
pub(crate) fn differences(direct: &BTreeMap<String, Scenario>, through: &BTreeMap<String, Scenario>) -> Vec<String> {
    let mut lines = Vec::new();
    for name in direct.keys().chain(through.keys()).collect::<BTreeSet<_>>() {
        let (Some(here), Some(there)) = (direct.get(name), through.get(name)) else {
            lines.push(format!(
                "{name}: ran only {}",
                if direct.contains_key(name) { "directly" } else { "through the gateway" }
            ));
            continue;
        };
        for check in here.0.keys().chain(there.0.keys()).collect::<BTreeSet<_>>() {
            let (was, is) = (shown(here.0.get(check)), shown(there.0.get(check)));
            if here.0.get(check) != there.0.get(check) {
                lines.push(format!("{name} / {} ({}):\n    directly: {was}\n    through:  {is}", check.0, check.1));
            }
        }
    }
    lines
}

impl PartialEq for Outcome {
    /// Messages carry times, ports and ids; the status is the result.
    fn eq(&self, other: &Self) -> bool {
        self.status == other.status
    }
}

impl Eq for Outcome {}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.message.as_str() {
            "" => f.write_str(&self.status),
            message => write!(f, "{} ({})", self.status, message.chars().take(MESSAGE_CHARS_SHOWN).collect::<String>()),
        }
    }
}

fn shown(outcomes: Option<&Vec<Outcome>>) -> String {
    outcomes.map_or("absent".into(), |all| all.iter().map(Outcome::to_string).collect::<Vec<_>>().join(", "))
}

fn read(results: &Path) -> Result<BTreeMap<String, Scenario>, String> {
    let mut scenarios = BTreeMap::new();
    for folder in fs::read_dir(results).map_err(|fault| fault.to_string())?.filter_map(Result::ok) {
        let label = folder.file_name().into_string().map_err(|_| "a folder's name is no text")?;
        let name = label
            .strip_prefix("server-")
            .and_then(|it| it.get(..it.len().checked_sub(STAMP_LEN)?))
            .ok_or_else(|| format!("{label} names no scenario"))?;
        // A scenario that threw leaves its folder empty: it is there, and has not passed.
        let checks = fs::read(folder.path().join("checks.json")).unwrap_or_else(|_| b"[]".to_vec());
        let checks: Vec<Value> = serde_json::from_slice(&checks).map_err(|fault| format!("{label}: {fault}"))?;
        scenarios.insert(name.to_owned(), scenario(&checks));
    }
    if scenarios.is_empty() { Err("it ran no scenario".into()) } else { Ok(scenarios) }
}

fn scenario(checks: &[Value]) -> Scenario {
    let mut outcomes: BTreeMap<_, Vec<Outcome>> = BTreeMap::new();
    for check in checks {
        let text = |key: &str| check[key].as_str().unwrap_or_default().to_owned();
        if !TRANSCRIPT.contains(&text("id").as_str()) {
            let outcome = Outcome { status: text("status"), message: text("errorMessage") };
            outcomes.entry((text("id"), text("name"))).or_default().push(outcome);
        }
    }
    Scenario(outcomes)
}
