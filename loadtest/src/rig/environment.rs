//! Where and when figures came about.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::{SystemTime, UNIX_EPOCH};

use serde_json::{Value, json};

use super::Cores;

/// What the programs say of themselves.
pub(crate) struct Versions {
    nginx: Option<String>,
    haproxy: Option<String>,
    portcullis: Option<String>,
}

impl Versions {
    pub(crate) fn ask(nginx: Option<&Path>, portcullis: Option<&Path>) -> Self {
        Self {
            nginx: nginx.map(|program| said(Command::new(program).arg("-v"))),
            haproxy: None,
            portcullis: portcullis.map(|program| said(Command::new(program).arg("version"))),
        }
    }

    /// With what HAProxy says too.
    pub(crate) fn and_haproxy(mut self, haproxy: Option<&Path>) -> Self {
        let said = haproxy.map(|program| said(Command::new(program).arg("-v")));
        // Behind the version stands when it was made, and where.
        self.haproxy = said.map(|said| said.split(" 20").next().unwrap_or(&said).to_owned());
        self
    }
}

/// Everything one needs to know to read the figures.
pub(crate) fn read(cores: Cores, versions: &Versions) -> Value {
    let seconds = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    json!({
        "date": date(seconds),
        "commit": commit(),
        "kernel": line("/proc/sys/kernel/osrelease"),
        "cpu": cpu_model(),
        "cores": std::fs::read_to_string("/proc/cpuinfo").map_or(0, |text| text.matches("\nprocessor").count() + 1),
        "proxy_core": cores.proxy,
        "load_core": cores.load,
        "load_average_before": line("/proc/loadavg"),
        "nginx": versions.nginx,
        "haproxy": versions.haproxy,
        "portcullis": versions.portcullis,
        "loadtest": env!("CARGO_PKG_VERSION"),
    })
}

/// Of other work on the machine, too.
pub(crate) fn load_average() -> String {
    line("/proc/loadavg")
}

fn line(file: &str) -> String {
    fs::read_to_string(file).unwrap_or_default().trim().to_owned()
}

fn cpu_model() -> String {
    let text = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = text.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": "));
    model.map_or_else(|| std::env::consts::ARCH.to_owned(), |(_, model)| model.to_owned())
}

/// Of the sources we stand in, if we do; marked when they were changed since.
fn commit() -> Option<String> {
    let git = |arguments: &[&str]| {
        let output = Command::new("git").arg("--no-optional-locks").args(arguments).output().ok()?;
        output.status.success().then(|| String::from_utf8_lossy(&output.stdout).trim().to_owned())
    };
    let commit = git(&["rev-parse", "--short=12", "HEAD"])?;
    let changed = git(&["status", "--porcelain"]).is_none_or(|changes| !changes.is_empty());
    Some(if changed { format!("{commit}, with changes") } else { commit })
}

fn said(command: &mut Command) -> String {
    let Ok(output) = command.output() else { return "unknown".to_owned() };
    // nginx says its version on standard error.
    let text = [output.stdout, output.stderr].concat();
    let text = String::from_utf8_lossy(&text);
    text.lines().next().unwrap_or("unknown").trim_start_matches("nginx version: ").trim().to_owned()
}

/// Seconds since 1970 as UTC. (Days to a date: Howard Hinnant's `civil_from_days`.)
fn date(seconds: u64) -> String {
    let (days, rest) = (seconds / 86_400 + 719_468, seconds % 86_400);
    let (era, day) = (days / 146_097, days % 146_097);
    let year = (day - day / 1_460 + day / 36_524 - day / 146_096) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    let month = (5 * day + 2) / 153;
    let day = day - (153 * month + 2) / 5 + 1;
    let month = if month < 10 { month + 3 } else { month - 9 };
    let year = year + era * 400 + u64::from(month <= 2);
    format!("{year:04}-{month:02}-{day:02}T{:02}:{:02}:{:02}Z", rest / 3_600, rest / 60 % 60, rest % 60)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates() {
        assert_eq!(date(0), "1970-01-01T00:00:00Z");
        assert_eq!(date(951_782_400), "2000-02-29T00:00:00Z");
        assert_eq!(date(1_795_340_399), "2026-11-22T09:39:59Z");
        assert_eq!(date(4_102_444_799), "2099-12-31T23:59:59Z");
    }
}
