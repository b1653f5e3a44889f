//! What is started here is ended here, by its id, whatever happens in between.

use std::fs::{self, DirBuilder, File, TryLockError};
use std::io::{BufRead as _, BufReader};
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use rustix::process::{Pid, Signal, kill_process};

use crate::net;

const END_MAX: Duration = Duration::from_secs(5);
const TAIL_LINES: usize = 10;

/// A program under way.
pub(crate) struct Process {
    name: &'static str,
    child: Child,
    heard: Option<BufReader<ChildStdout>>,
    log: PathBuf,
}

/// Where configurations and logs go.
pub(crate) struct Folder {
    path: PathBuf,
    keep: bool,
}

/// Two comparisons at once would measure each other. Held until it is dropped, however this process ends.
pub(crate) fn alone() -> anyhow::Result<File> {
    let path = std::env::temp_dir().join("loadtest-compare.lock");
    let file = File::options().append(true).create(true).open(&path);
    let file = file.with_context(|| format!("cannot open {}", path.display()))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => bail!("another comparison is under way on this machine"),
        Err(TryLockError::Error(error)) => Err(error).with_context(|| format!("cannot lock {}", path.display())),
    }
}

impl Process {
    /// Starts it on `core`; this thread goes back to `home`. Its output goes to a log of its name.
    pub(crate) fn start(
        name: &'static str,
        command: Command,
        core: usize,
        home: usize,
        folder: &Folder,
    ) -> anyhow::Result<Self> {
        Self::launch(name, command, (core, home), folder, false)
    }

    /// The same, but what it prints is for [`Process::line`].
    pub(crate) fn start_heard(
        name: &'static str,
        command: Command,
        core: usize,
        home: usize,
        folder: &Folder,
    ) -> anyhow::Result<Self> {
        Self::launch(name, command, (core, home), folder, true)
    }

    fn launch(
        name: &'static str,
        mut command: Command,
        (core, home): (usize, usize),
        folder: &Folder,
        heard: bool,
    ) -> anyhow::Result<Self> {
        let log = folder.path.join(format!("{}.log", name.replace([' ', ','], "-")));
        let file = File::create(&log).with_context(|| format!("cannot write {}", log.display()))?;
        // A pipe that ends with this process: whoever watches it does not outlive us.
        command.stdin(Stdio::piped()).stderr(file.try_clone().context("a log")?);
        command.stdout(if heard { Stdio::piped() } else { Stdio::from(file) });
        // A child starts where its parent runs: set before, so that it sees one core from its first instruction.
        net::stay_on(core)?;
        let child = command.spawn().with_context(|| format!("{name} cannot be started"));
        net::stay_on(home)?;
        let mut child = child?;
        let heard = child.stdout.take().map(BufReader::new);
        Ok(Self { name, child, heard, log })
    }

    /// Whether it has not ended yet.
    pub(crate) fn is_alive(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    /// The next line it prints.
    pub(crate) fn line(&mut self) -> anyhow::Result<String> {
        let mut line = String::new();
        if let Some(heard) = &mut self.heard {
            heard.read_line(&mut line).with_context(|| format!("listening to {}", self.name))?;
        }
        anyhow::ensure!(!line.is_empty(), "{} has ended{}", self.name, self.tail(0));
        Ok(line)
    }

    /// It and its children.
    pub(crate) fn family(&self) -> Vec<u32> {
        let pid = self.child.id();
        let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
        let children = children.split_ascii_whitespace().filter_map(|pid| pid.parse().ok());
        std::iter::once(pid).chain(children).collect()
    }

    /// How long its log is, bytes.
    pub(crate) fn log_bytes(&self) -> usize {
        fs::metadata(&self.log).map_or(0, |log| usize::try_from(log.len()).unwrap_or(usize::MAX))
    }

    /// The end of what it logged behind its first `skip` bytes, to be shown behind an error.
    pub(crate) fn tail(&self, skip: usize) -> String {
        let text = fs::read(&self.log).unwrap_or_default();
        let text = String::from_utf8_lossy(text.get(skip..).unwrap_or_default());
        let lines: Vec<&str> = text.lines().collect();
        let tail = &lines[lines.len().saturating_sub(TAIL_LINES)..];
        if tail.is_empty() { String::new() } else { format!("\n  {} said: {}", self.name, tail.join("\n    ")) }
    }

    /// Ends it with this signal, and waits until it has ended.
    pub(crate) fn end(&mut self, signal: Signal) -> anyhow::Result<()> {
        Self::signal(self.child.id(), signal);
        let until = Instant::now() + END_MAX;
        while self.is_alive() {
            anyhow::ensure!(Instant::now() < until, "{} does not end{}", self.name, self.tail(0));
            std::thread::sleep(Duration::from_millis(1));
        }
        Ok(())
    }

    fn signal(pid: u32, signal: Signal) {
        if let Some(pid) = i32::try_from(pid).ok().and_then(Pid::from_raw) {
            let _ = kill_process(pid, signal);
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let family = self.family();
        if self.is_alive() {
            Self::signal(self.child.id(), Signal::TERM);
        }
        let until = Instant::now() + END_MAX;
        while self.is_alive() && Instant::now() < until {
            std::thread::sleep(Duration::from_millis(10));
        }
        if self.is_alive() {
            // Its children would be left without anybody to end them.
            for pid in family.into_iter().rev() {
                Self::signal(pid, Signal::KILL);
            }
            let _ = self.child.wait();
        }
    }
}

impl Folder {
    /// A new one in the system's temporary folder, for us alone.
    pub(crate) fn new(keep: bool) -> anyhow::Result<Self> {
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
        let name = format!("loadtest-{}-{}", std::process::id(), now.as_nanos());
        let path = std::env::temp_dir().join(name);
        DirBuilder::new().mode(0o700).create(&path).with_context(|| format!("cannot make {}", path.display()))?;
        Ok(Self { path, keep })
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Removes it, unless it was to be kept.
    pub(crate) fn done(self) {
        if self.keep {
            return self.keep();
        }
        if let Err(error) = fs::remove_dir_all(&self.path) {
            eprintln!("cannot remove {}: {error}", self.path.display());
        }
    }

    /// Leaves it where it is, and says where, if there is anything in it.
    pub(crate) fn keep(self) {
        if fs::remove_dir(&self.path).is_ok() {
            return;
        }
        eprintln!("configurations and logs: {}", self.path.display());
    }
}
