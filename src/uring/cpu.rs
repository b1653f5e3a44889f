//! Cores, thread names and the descriptor limit.

use std::ffi::CString;
use std::io;

use rustix::process::{Resource, Rlimit};
use rustix::thread::CpuSet;

/// The cores this process may use (affinity mask, so `taskset` and cpusets count), lowest first.
///
/// # Errors
/// What `sched_getaffinity(2)` says; more than 1,024 cores is such an error.
pub fn allowed_cpus() -> io::Result<Vec<usize>> {
    let set = rustix::thread::sched_getaffinity(None)?;
    Ok((0..CpuSet::MAX_CPU).filter(|cpu| set.is_set(*cpu)).collect())
}

/// Keeps the calling thread on `cpu`.
///
/// # Errors
/// `InvalidInput` for a core that is not there or not allowed.
pub fn pin(cpu: usize) -> io::Result<()> {
    if cpu >= CpuSet::MAX_CPU {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    let mut set = CpuSet::new();
    set.set(cpu);
    Ok(rustix::thread::sched_setaffinity(None, &set)?)
}

/// Names the calling thread as `top -H` shows it; the kernel keeps the first 15 bytes. Names are for the reader, so
/// one that cannot be set is left out silently.
pub fn name_thread(name: &str) {
    let bytes: Vec<u8> = name.bytes().filter(|byte| *byte != 0).take(15).collect();
    if let Ok(name) = CString::new(bytes) {
        let _ = rustix::thread::set_name(&name);
    }
}

/// The limit on open descriptors: what is allowed now, and what it could be raised to. `u64::MAX` is "no limit".
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FileLimit {
    /// In force.
    pub soft: u64,
    /// The most this process may ask for.
    pub hard: u64,
}

/// Raises the soft limit on open descriptors to the hard one, and says what is in force afterwards. A refusal is not
/// an error: the answer then shows the old limit.
#[must_use]
pub fn raise_file_limit() -> FileLimit {
    let limit = rustix::process::getrlimit(Resource::Nofile);
    let wanted = Rlimit { current: limit.maximum, maximum: limit.maximum };
    let _ = rustix::process::setrlimit(Resource::Nofile, wanted);
    let limit = rustix::process::getrlimit(Resource::Nofile);
    FileLimit { soft: limit.current.unwrap_or(u64::MAX), hard: limit.maximum.unwrap_or(u64::MAX) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pinned_thread_has_one_core_and_a_name() {
        let cpus = allowed_cpus().unwrap();
        assert!(!cpus.is_empty());
        std::thread::spawn(move || {
            let last = *cpus.last().unwrap();
            pin(last).unwrap();
            assert_eq!(allowed_cpus().unwrap(), [last]);
            name_thread("shard-with-a-long-name\0");
            assert_eq!(rustix::thread::name().unwrap().to_bytes(), b"shard-with-a-lo");
            assert!(pin(CpuSet::MAX_CPU).is_err() && pin(CpuSet::MAX_CPU - 1).is_err());
        })
        .join()
        .unwrap();
    }

    #[test]
    fn the_file_limit_is_raised_to_the_hard_one() {
        let limit = raise_file_limit();
        assert_eq!(limit.soft, limit.hard);
    }
}
