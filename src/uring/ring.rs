//! The runtime under a shard: io_uring where the kernel allows it, epoll where it does not.

use std::cell::Cell;
use std::fmt;
use std::future::{Future, poll_fn};
use std::io;
use std::task::Poll;
use std::time::Duration;

use io_uring::{Builder, IoUring, Probe, opcode};
use monoio::{IoUringDriver, LegacyDriver, RuntimeBuilder};

use crate::base::limits::{OPERATIONS_IN_A_ROW_MAX, RING_COMPLETIONS, RING_SUBMISSIONS};

/// What the operator wants of the kernel.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Choice {
    /// io_uring if it can be had, else epoll.
    #[default]
    Auto,
    /// io_uring or nothing.
    IoUring,
    /// epoll, whatever the kernel can do.
    Epoll,
}

/// What drives the sockets of every shard of this process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Driver {
    /// io_uring with the flags of [`Driver::describe`].
    IoUring,
    /// epoll.
    Epoll {
        /// Why not io_uring, for the one log line that says so.
        why: String,
    },
}

/// Why there is no runtime.
#[derive(Debug, thiserror::Error)]
pub enum RingFault {
    /// io_uring was demanded and cannot be had.
    #[error("io_uring was asked for, but {0}")]
    Lack(#[from] RingLack),
    /// The kernel refused the ring or epoll descriptor of a shard.
    #[error("no {driver} for this shard: {source}")]
    Build {
        /// What was to be built.
        driver: &'static str,
        /// What the kernel said.
        source: io::Error,
    },
}

/// What is missing for io_uring.
#[derive(Debug, thiserror::Error)]
pub enum RingLack {
    /// `io_uring_setup(2)` with our flags.
    #[error("{}: {source}", setup_hint(source))]
    Setup {
        /// What the kernel said.
        source: io::Error,
    },
    /// `io_uring_enter(2)`: some sandboxes allow the one call but not the other.
    #[error("a ring can be made but not used: {source}")]
    Enter {
        /// What the kernel said.
        source: io::Error,
    },
    /// The probe itself, or an operation that it does not list.
    #[error("this kernel's io_uring does not know {0}")]
    Operation(&'static str),
}

impl Driver {
    /// Finds out, by making and using a ring with the very flags of a shard, what can be had here.
    ///
    /// # Errors
    /// Only for [`Choice::IoUring`], when it cannot be had; the text says what is missing.
    pub fn probe(choice: Choice) -> Result<Self, RingFault> {
        if choice == Choice::Epoll {
            return Ok(Self::Epoll { why: "epoll was asked for".into() });
        }
        match try_ring() {
            Ok(()) => Ok(Self::IoUring),
            Err(lack) if choice == Choice::IoUring => Err(lack.into()),
            Err(lack) => Ok(Self::Epoll { why: lack.to_string() }),
        }
    }

    /// The driver in a few words, flags included: `io_uring (SINGLE_ISSUER | COOP_TASKRUN)`.
    #[must_use]
    pub fn describe(&self) -> String {
        self.to_string()
    }

    /// Makes a runtime on the calling thread and runs `future` on it to its end. Everything a shard does, its sockets
    /// above all, lives inside. Tasks still there at the end are not dropped, and the ring leaks (monoio 0.2.4): a
    /// thread runs once, and the process ends after it.
    ///
    /// # Errors
    /// When the kernel gives no ring or epoll descriptor: out of descriptors or of locked memory.
    pub fn run<F: Future>(&self, future: F) -> Result<F::Output, RingFault> {
        match self {
            Self::IoUring => {
                let builder = RuntimeBuilder::<IoUringDriver>::new().uring_builder(builder());
                let runtime = builder.with_entries(RING_SUBMISSIONS).enable_timer().build();
                let mut runtime = runtime.map_err(|source| RingFault::Build { driver: "io_uring", source })?;
                Ok(runtime.block_on(future))
            }
            Self::Epoll { .. } => {
                let runtime = RuntimeBuilder::<LegacyDriver>::new().enable_timer().build();
                let mut runtime = runtime.map_err(|source| RingFault::Build { driver: "epoll", source })?;
                Ok(runtime.block_on(future))
            }
        }
    }
}

impl fmt::Display for Driver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::IoUring => {
                f.write_str("io_uring (")?;
                for (index, (name, _)) in FLAGS.iter().enumerate() {
                    write!(f, "{}{name}", if index == 0 { "" } else { " | " })?;
                }
                f.write_str(")")
            }
            Self::Epoll { why } => write!(f, "epoll ({why})"),
        }
    }
}

/// Starts a task of its own on this shard. It runs to its end, whoever waits for it or not.
///
/// # Panics
/// Outside [`Driver::run`].
pub fn spawn(future: impl Future<Output = ()> + 'static) {
    drop(monoio::spawn(future));
}

/// Now and then lets everybody else on this shard go first; at the end of each operation, before it is told. Under epoll
/// what can be done at once is done at once, so that a task whose peer is always ready would never let go of the thread. With
/// io_uring each operation waits for the ring: there it is not to be called.
pub(super) async fn take_turns() {
    thread_local! {
        static IN_A_ROW: Cell<u32> = const { Cell::new(0) };
    }
    let count = IN_A_ROW.get() + 1;
    IN_A_ROW.set(count % OPERATIONS_IN_A_ROW_MAX);
    let mut yielded = count < OPERATIONS_IN_A_ROW_MAX;
    poll_fn(|cx| {
        if std::mem::replace(&mut yielded, true) {
            return Poll::Ready(());
        }
        // Woken by itself, a task of monoio's goes in front of all others; woken by another, behind them.
        let waker = cx.waker().clone();
        spawn(async move { waker.wake() });
        Poll::Pending
    })
    .await;
}

/// Waits for `duration`, to the millisecond. For start-up, drain and tests; whatever is done per connection or call
/// waits on [`Timers`](crate::uring::wait::Timers) instead.
///
/// # Panics
/// Outside [`Driver::run`].
pub async fn sleep(duration: Duration) {
    monoio::time::sleep(duration).await;
}

/// A ring's flags; the only place they are named. monoio's own choice (none) costs 1.6 times the CPU at 16 busy
/// connections: completions then interrupt the busy thread. `DEFER_TASKRUN` is no faster, and under it no I/O
/// completes while any task stays ready.
const FLAGS: [(&str, Flag); 2] =
    [("SINGLE_ISSUER", Builder::setup_single_issuer), ("COOP_TASKRUN", Builder::setup_coop_taskrun)];

type Flag = fn(&mut Builder) -> &mut Builder;

/// What `Socket`, `Listener` and monoio's own closing need.
const OPERATIONS: [(&str, u8); 5] = [
    ("accept", opcode::Accept::CODE),
    ("receive", opcode::Recv::CODE),
    ("send", opcode::Send::CODE),
    ("poll", opcode::PollAdd::CODE),
    ("close", opcode::Close::CODE),
];

/// The only maker of a ring's configuration: what the probe tries is what a shard gets.
fn builder() -> Builder {
    let mut builder = IoUring::builder();
    builder.setup_cqsize(RING_COMPLETIONS);
    for (_, set) in FLAGS {
        set(&mut builder);
    }
    builder
}

fn try_ring() -> Result<(), RingLack> {
    let mut ring = builder().build(RING_SUBMISSIONS).map_err(|source| RingLack::Setup { source })?;
    let mut probe = Probe::new();
    ring.submitter().register_probe(&mut probe).map_err(|_| RingLack::Operation("the probe"))?;
    if let Some((name, _)) = OPERATIONS.iter().find(|(_, code)| !probe.is_supported(*code)) {
        return Err(RingLack::Operation(name));
    }
    // SAFETY: a no-op names no memory and no descriptor, so nothing has to outlive its submission.
    // JUSTIFICATION: a sandbox that denies only io_uring_enter(2) shows at start instead of at the first connection.
    let pushed = unsafe { ring.submission().push(&opcode::Nop::new().build()) };
    pushed.map_err(|_| RingLack::Operation("a submission"))?;
    ring.submit_and_wait(1).map_err(|source| RingLack::Enter { source })?;
    Ok(())
}

fn setup_hint(source: &io::Error) -> &'static str {
    match source.kind() {
        io::ErrorKind::PermissionDenied => {
            "this kernel denies io_uring (the sysctl kernel.io_uring_disabled, or a container's seccomp profile)"
        }
        io::ErrorKind::Unsupported => "this kernel has no io_uring",
        io::ErrorKind::InvalidInput => "this kernel's io_uring is too old (6.0 or newer is needed)",
        io::ErrorKind::OutOfMemory => "the limit on locked memory (ulimit -l) leaves no room for a ring",
        _ => "this kernel gives no ring",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_flags_are_the_two_that_were_measured() {
        let said = "io_uring (SINGLE_ISSUER | COOP_TASKRUN)";
        assert_eq!(Driver::IoUring.describe(), said);
    }

    /// The kernel is asked, by way of rules that only hold with each flag.
    #[test]
    fn the_flags_reach_the_kernel() {
        if let Err(fault) = Driver::probe(Choice::IoUring) {
            return eprintln!("not tested: {fault}");
        }
        let ring = builder().build(RING_SUBMISSIONS).unwrap();
        assert!(ring.params().is_setup_single_issuer());
        let elsewhere = std::thread::scope(|scope| {
            let submit = || {
                // SAFETY: a no-op names no memory; the other thread uses the ring while this one only waits for it.
                // JUSTIFICATION: the kernel enforces SINGLE_ISSUER only on a submission.
                let pushed = unsafe { ring.submission_shared().push(&opcode::Nop::new().build()) };
                pushed.unwrap();
                ring.submit()
            };
            scope.spawn(submit).join().unwrap()
        });
        assert_eq!(elsewhere.unwrap_err().kind(), io::ErrorKind::AlreadyExists, "SINGLE_ISSUER");

        let asks_for_coop = |mut builder: Builder| builder.setup_taskrun_flag().build(8);
        assert!(asks_for_coop(IoUring::builder()).is_err(), "TASKRUN_FLAG needs COOP_TASKRUN");
        assert!(asks_for_coop(builder()).is_ok(), "COOP_TASKRUN");
    }

    /// A shard's ring is made by our builder: its completion queue has the length that only we ask for.
    #[test]
    fn a_shard_runs_on_our_ring() {
        let Ok(driver) = Driver::probe(Choice::IoUring) else {
            return;
        };
        let length = format!("CqMask:\t{:#x}\n", RING_COMPLETIONS - 1);
        let found = driver.run(async {
            let infos = std::fs::read_dir("/proc/self/fdinfo").unwrap();
            infos
                .filter_map(|info| std::fs::read_to_string(info.unwrap().path()).ok())
                .any(|text| text.contains(&length))
        });
        assert!(found.unwrap());
    }

    #[test]
    fn epoll_says_why() {
        let driver = Driver::probe(Choice::Epoll).unwrap();
        assert_eq!(driver.describe(), "epoll (epoll was asked for)");
        let denied = RingLack::Setup { source: io::Error::from_raw_os_error(1) };
        assert!(denied.to_string().starts_with("this kernel denies io_uring"), "{denied}");
    }
}
