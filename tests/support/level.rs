//! How much of the machine a process holds: taken before a fault, and again after it.

use std::fs;
use std::thread;
use std::time::{Duration, Instant};

use super::gateway::{Gateway, PATIENCE};

/// What a process holds at a moment.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Level {
    /// Open descriptors.
    pub(crate) files: usize,
    /// Threads.
    pub(crate) threads: usize,
    /// Resident memory, bytes.
    pub(crate) memory: usize,
}

/// Buffers and heads that are kept to be used again, and what the allocator has not given back yet.
const MEMORY_KEPT_BYTES: usize = 24 << 20;
/// Longer than a catalogue takes to come.
const SETTLED: Duration = Duration::from_millis(700);
/// USER_HZ, which every architecture of ours has.
const TICKS_PER_SECOND: f64 = 100.0;
const POLL: Duration = Duration::from_millis(20);

impl Level {
    /// Of this moment.
    pub(crate) fn of(gateway: &Gateway) -> Self {
        Self { files: gateway.open_files(), threads: threads(gateway), memory: gateway.resident_bytes() }
    }

    /// Once its descriptors and threads have not changed for a while: it has met its servers, and nobody calls.
    pub(crate) fn settled(gateway: &Gateway) -> Self {
        let until = Instant::now() + PATIENCE;
        let (mut level, mut since) = (Self::of(gateway), Instant::now());
        while since.elapsed() < SETTLED {
            assert!(Instant::now() < until, "never at rest: {level:?}");
            thread::sleep(POLL);
            let now = Self::of(gateway);
            if (now.files, now.threads) != (level.files, level.threads) {
                since = Instant::now();
            }
            level = now;
        }
        level
    }

    /// Waits until the process is back to this level: descriptors and threads exactly, memory but for what it keeps.
    #[track_caller]
    pub(crate) fn comes_back(&self, gateway: &Gateway) {
        let until = Instant::now() + PATIENCE;
        loop {
            let now = Self::of(gateway);
            let memory = self.memory + MEMORY_KEPT_BYTES;
            if now.files <= self.files && now.threads == self.threads && now.memory <= memory {
                return;
            }
            assert!(Instant::now() < until, "left behind: {now:?} after {self:?}, descriptors {:#?}", files(gateway));
            thread::sleep(POLL);
        }
    }
}

/// What it computes in `length`, of one core: 1.0 is all of it.
pub(crate) fn busy(gateway: &Gateway, length: Duration) -> f64 {
    let (begun, before) = (Instant::now(), ticks(gateway));
    thread::sleep(length);
    let used = (ticks(gateway) - before) as f64 / TICKS_PER_SECOND;
    used / begun.elapsed().as_secs_f64()
}

fn threads(gateway: &Gateway) -> usize {
    fs::read_dir(format!("/proc/{}/task", gateway.pid())).map_or(0, Iterator::count)
}

/// Time in user mode and in the kernel, in ticks of the clock (proc_pid_stat(5), fields 14 and 15).
fn ticks(gateway: &Gateway) -> u64 {
    let stat = fs::read_to_string(format!("/proc/{}/stat", gateway.pid())).expect("it is running");
    let behind_name = &stat[stat.rfind(')').expect("the name is in brackets") + 2..];
    let fields = behind_name.split(' ').skip(11).take(2);
    fields.map(|field| field.parse::<u64>().expect("a number")).sum()
}

fn files(gateway: &Gateway) -> Vec<String> {
    let folder = format!("/proc/{}/fd", gateway.pid());
    let links = fs::read_dir(folder).into_iter().flatten().filter_map(Result::ok);
    links.filter_map(|it| fs::read_link(it.path()).ok()).map(|it| it.display().to_string()).collect()
}
