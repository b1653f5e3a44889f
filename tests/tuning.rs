//! What is in tuning/ against the program and the machine that it is for.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::time::Duration;

use portcullis::base::limits::{CONNECTIONS_MAX, DRAIN_MS_MAX, START_WAIT_MS_MAX, UPSTREAM_IDLE_MAX, WATCHDOG_MS_MIN};

use crate::support::gateway::{BINARY, Setup};
use crate::support::mcp::Post;
use crate::support::oracle;
use crate::support::peers::finish;
use crate::support::upstream::Plan;

/// `systemd-analyze security` gives tenths; the unit has less.
const EXPOSURE_TENTHS_MAX: &str = "20";

fn read(path: &str) -> String {
    fs::read_to_string(path).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// The assignments of the unit, in their order.
fn unit() -> Vec<(String, String)> {
    let text = read("tuning/portcullis.service");
    let lines = text.lines().filter(|line| !line.starts_with(['#', '[', ' ']));
    lines.filter_map(|line| line.split_once('=')).map(|(key, value)| (key.to_owned(), value.to_owned())).collect()
}

#[track_caller]
fn seconds(unit: &[(String, String)], key: &str) -> u64 {
    let value = unit.iter().find(|(name, _)| name == key).unwrap_or_else(|| panic!("no {key}"));
    value.1.parse().unwrap_or_else(|_| panic!("{key} is no number of seconds"))
}

/// Every line of the unit and every kernel setting has its row in the README, and the README speaks of no others.
#[test]
fn every_knob_is_explained() {
    let readme = read("tuning/README.md");
    let explained: BTreeSet<&str> = readme
        .lines()
        .filter(|line| line.starts_with('|'))
        .flat_map(|line| line.split('|').nth(1).unwrap_or_default().split('`'))
        .filter_map(|word| word.strip_suffix('='))
        .collect();
    let unit = unit();
    let used: BTreeSet<&str> = unit.iter().map(|(key, _)| &**key).collect();
    assert_eq!(explained, used, "the table of tuning/README.md and the unit");
    for name in sysctls() {
        assert!(readme.contains(&format!("| `{name}` |")), "{name} has no row in tuning/README.md");
    }
}

fn sysctls() -> Vec<String> {
    let text = read("tuning/sysctl.conf");
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    lines.filter_map(|line| line.split_once('=')).map(|(name, _)| name.trim().to_owned()).collect()
}

/// The names exist on this kernel; those that older ones lack are said aloud.
#[test]
fn kernel_settings_are_there() {
    assert!(sysctls().len() > 3);
    for name in sysctls() {
        let path = Path::new("/proc/sys").join(name.replace('.', "/"));
        if name == "kernel.io_uring_disabled" && !path.exists() {
            eprintln!("SKIPPED: this kernel has no {name}");
            continue;
        }
        if !path.exists() && fs::read_dir("/proc/sys/net/ipv4").is_err() {
            eprintln!("SKIPPED: no kernel settings can be seen here");
            return;
        }
        assert!(path.exists(), "{name} is no setting of this kernel");
    }
}

/// Times and numbers of the unit leave room for those of the program.
#[test]
fn the_unit_fits_the_program() {
    let unit = unit();
    let has = |key: &str, value: &str| unit.iter().any(|(name, set)| name == key && set == value);
    assert!(has("Type", "notify"));
    assert!(seconds(&unit, "TimeoutStopSec") * 1000 > DRAIN_MS_MAX, "a drain would be cut");
    assert!(seconds(&unit, "TimeoutStartSec") * 1000 > 2 * START_WAIT_MS_MAX, "a slow start would be cut");
    assert!(seconds(&unit, "WatchdogSec") * 1000 >= WATCHDOG_MS_MIN, "a busy machine would miss it");
    let files = usize::try_from(seconds(&unit, "LimitNOFILE")).expect("it is a number of files");
    assert!(files > 8 * (2 * CONNECTIONS_MAX + UPSTREAM_IDLE_MAX), "eight shards full of calls would not fit");
    assert!(has("LimitCORE", "0"), "a core holds tokens");
    assert!(has("CapabilityBoundingSet", "") && has("NoNewPrivileges", "yes") && has("DynamicUser", "yes"));
    // io_uring is in @aio and that in @system-service; pinning is in @resources, which is taken out.
    let filter: Vec<&str> =
        unit.iter().filter(|(name, _)| name == "SystemCallFilter").map(|(_, value)| &**value).collect();
    assert_eq!(filter[0], "@system-service");
    assert_eq!(filter.last(), Some(&"sched_setaffinity"), "pinning is put back last");
    assert!(!filter.iter().any(|line| line.starts_with('~') && line.contains("@aio")), "{filter:?}");
}

/// systemd reads every line, and finds it locked down.
#[test]
fn systemd_reads_the_unit() {
    let folder = tempfile::tempdir().expect("a temporary folder can be made");
    let file = folder.path().join("portcullis.service");
    let text = read("tuning/portcullis.service").replace("/usr/local/bin/portcullis", BINARY);
    fs::write(&file, text).expect("the temporary folder can be written");
    let analyze = |arguments: &[&str]| {
        let mut command = std::process::Command::new("systemd-analyze");
        finish(command.arg("--no-pager").args(arguments).arg(&file), Duration::from_secs(60))
    };
    if std::process::Command::new("systemd-analyze").arg("--version").output().is_err() {
        eprintln!("SKIPPED: no systemd-analyze");
        return;
    }
    let verified = analyze(&["verify", "--man=no"]);
    assert!(verified.status.is_some_and(|status| status.success()), "{}", verified.stderr);
    let ours: Vec<&str> = verified.stderr.lines().filter(|line| line.contains("portcullis.service")).collect();
    assert!(ours.is_empty(), "{ours:?}");
    let judged = analyze(&["security", "--offline=true", "--threshold", EXPOSURE_TENTHS_MAX]);
    assert!(judged.status.is_some_and(|status| status.success()), "{}{}", judged.stdout, judged.stderr);
}

/// As under the unit: the key set is a credential, named by its variable, and the state folder is systemd's.
#[test]
fn credentials_and_state_come_by_variables() {
    let folder = tempfile::tempdir().expect("a temporary folder can be made");
    let (credentials, state) = (folder.path().join("credentials"), folder.path().join("state"));
    fs::create_dir(&credentials).expect("the temporary folder can be written");
    let upstream = Plan::tools(&["echo"]).start();
    let setup = Setup::new().server("up", &upstream.url()).open();
    setup.key_set_to(&credentials.join("jwks.json"));
    let gateway = setup
        .environment("CREDENTIALS_DIRECTORY", &credentials)
        .environment("STATE_DIRECTORY", &state)
        .set("/state", serde_json::json!("${STATE_DIRECTORY}"))
        .set(
            "/auth",
            serde_json::json!({ "issuers": [{
                "issuer": crate::support::gateway::ISSUER, "jwks": { "file": "${CREDENTIALS_DIRECTORY}/jwks.json" },
            }]}),
        )
        .start();
    Post::call("echo").token(&gateway.token(&crate::support::gateway::Who::default())).echoed(&gateway);
    assert_eq!(Post::call("echo").to(&gateway).status(), 401);
    assert!(state.join("session.key").exists());
    oracle::check(&gateway, &[("up", &upstream)]);
}
