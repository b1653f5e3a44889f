//! System calls of the threads that carry calls, counted by the kernel's own trace point. Counting costs time, so it is done
//! in runs of its own.

use std::fs;
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use rustix::process::{Pid, Signal, kill_process};

use crate::rig::process::Folder;

const END_MAX: Duration = Duration::from_secs(5);
const EVENT: &str = "raw_syscalls:sys_enter";

/// Counts, once it is told to.
pub(super) struct Counter {
    perf: Child,
    orders: ChildStdin,
    done: BufReader<ChildStdout>,
    told: PathBuf,
}

/// Whether `perf` counts here: it needs its own package, trace points, and the right to see them.
pub(super) fn works(perf: &Path) -> bool {
    let mut command = Command::new(perf);
    command.args(["stat", "-e", EVENT, "--", "true"]).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    command.status().is_ok_and(|status| status.success())
}

impl Counter {
    /// Of these processes, each thread for itself.
    pub(super) fn new(perf: &Path, pids: &[u32], folder: &Folder) -> anyhow::Result<Self> {
        let told = folder.path().join("perf.csv");
        let pids: Vec<String> = pids.iter().map(u32::to_string).collect();
        let mut command = Command::new(perf);
        command.args(["stat", "-x", ";", "--per-thread", "-e", EVENT, "-D", "-1", "--control", "fd:0,1"]);
        command.arg("-p").arg(pids.join(",")).arg("-o").arg(&told);
        let mut perf =
            command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().context("perf")?;
        let (orders, done) = (perf.stdin.take().context("perf")?, perf.stdout.take().context("perf")?);
        Ok(Self { perf, orders, done: BufReader::new(done), told })
    }

    /// From now on.
    pub(super) fn begin(&mut self) -> anyhow::Result<()> {
        self.order("enable")
    }

    /// Until now.
    pub(super) fn end(&mut self) -> anyhow::Result<()> {
        self.order("disable")
    }

    /// How many there were, of threads whose names start with `serving`.
    pub(super) fn count(mut self, serving: &str) -> anyhow::Result<u64> {
        // It has no order for that: this is how its users end it.
        let pid = i32::try_from(self.perf.id()).ok().and_then(Pid::from_raw);
        pid.map(|pid| kill_process(pid, Signal::INT)).transpose().context("perf")?;
        let until = Instant::now() + END_MAX;
        while self.perf.try_wait().context("perf")?.is_none() {
            ensure!(Instant::now() < until, "perf does not end");
            std::thread::sleep(Duration::from_millis(1));
        }
        let text = fs::read_to_string(&self.told).context("what perf has counted")?;
        sum(&text, serving).with_context(|| format!("perf said {text:?}"))
    }

    fn order(&mut self, order: &str) -> anyhow::Result<()> {
        writeln!(self.orders, "{order}").and_then(|()| self.orders.flush()).context("perf has ended")?;
        let mut line = String::new();
        self.done.read_line(&mut line).context("perf has ended")?;
        // Its line ends with a NUL in some versions.
        ensure!(line.trim_start_matches('\0').starts_with("ack"), "perf said {line:?}");
        Ok(())
    }
}

impl Drop for Counter {
    fn drop(&mut self) {
        let _ = self.perf.kill();
        let _ = self.perf.wait();
    }
}

/// Lines such as `shard-0-1234;567;;raw_syscalls:sys_enter;…`.
fn sum(text: &str, serving: &str) -> Option<u64> {
    let counts = text.lines().filter_map(|line| {
        let mut parts = line.split(';');
        let (thread, count) = (parts.next()?.trim(), parts.next()?);
        (line.contains(EVENT) && thread.starts_with(serving)).then(|| count.trim().parse::<u64>().ok())?
    });
    counts.fold(None, |sum, count| Some(sum.unwrap_or(0) + count))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn threads_that_serve_are_counted() {
        let text = "# started on Mon\n\nshard-0-12;100;;raw_syscalls:sys_enter;5;100.00;;\nplane-audit-13;7;;raw_syscalls:sys_enter;5;100.00;;\nshard-1-14;5;;raw_syscalls:sys_enter;5;100.00;;\n";
        assert_eq!(sum(text, "shard-"), Some(105));
        assert_eq!(sum(text, ""), Some(112));
        assert_eq!(sum(text, "other"), None);
        assert_eq!(sum("shard-0-12;<not counted>;;raw_syscalls:sys_enter;;\n", "shard-"), None);
    }
}
