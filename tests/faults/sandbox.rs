//! Where the kernel denies io_uring: containers do it with a seccomp profile, in one of two ways.

use std::collections::BTreeMap;

use seccompiler::{BpfProgram, SeccompAction, SeccompFilter};

use super::DRIVERS;
use crate::support::gateway::{Gateway, Setup};
use crate::support::mcp::{Post, open_session};
use crate::support::oracle;
use crate::support::upstream::{Plan, Upstream};

/// The same number on every architecture of ours.
const IO_URING_SETUP: i64 = 425;
const EPERM: u32 = 1;
const ENOSYS: u32 = 38;

/// What a container's runtime says, and what an old kernel or a strict sandbox says; and what the start screen makes
/// of it.
const DENIALS: [(u32, &str); 2] = [
    (EPERM, "driver          epoll (this kernel denies io_uring"),
    (ENOSYS, "driver          epoll (this kernel has no io_uring"),
];

/// Does `work` on a thread whose children cannot make a ring.
fn denied<T: Send + 'static>(errno: u32, work: impl FnOnce() -> T + Send + 'static) -> T {
    let inside = move || {
        let arch = std::env::consts::ARCH.try_into().expect("an architecture that the filter knows");
        let rules = BTreeMap::from([(IO_URING_SETUP, Vec::new())]);
        let filter = SeccompFilter::new(rules, SeccompAction::Allow, SeccompAction::Errno(errno), arch);
        let program: BpfProgram = filter.and_then(TryInto::try_into).expect("one rule makes a filter");
        seccompiler::apply_filter(&program).expect("a thread may give up what it has");
        work()
    };
    std::thread::spawn(inside).join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

fn pair(errno: u32, driver: &'static str) -> (Gateway, Upstream) {
    let upstream = Plan::tools(&["echo"]).start();
    let url = upstream.url();
    let gateway = denied(errno, move || Setup::new().server("up", &url).open().shards(2).driver(driver).start());
    (gateway, upstream)
}

/// It says which driver it took and why, and serves.
#[test]
fn epoll_where_io_uring_is_denied() {
    for (errno, says) in DENIALS {
        let (gateway, upstream) = pair(errno, DRIVERS[0]);
        assert!(gateway.banner.contains(says), "{}", gateway.banner);
        let session = open_session(&gateway, |post| post);
        for _ in 0..10 {
            Post::call("echo").echoed(&gateway);
            Post::legacy_call(&session, "echo").echoed(&gateway);
        }
        oracle::check(&gateway, &[("up", &upstream)]);
    }
}

/// Who asks for io_uring gets it, or a start that fails and says why.
#[test]
fn no_start_where_io_uring_is_demanded_and_denied() {
    for (errno, why) in [(EPERM, "this kernel denies io_uring"), (ENOSYS, "this kernel has no io_uring")] {
        let setup = || Setup::new().server("up", "http://127.0.0.1:9/mcp").open().driver("io-uring");
        let run = denied(errno, move || setup().fail());
        let code = run.status.and_then(|status| status.code());
        assert_eq!(code, Some(4), "{}", run.stderr);
        assert!(run.stderr.contains("io_uring was asked for") && run.stderr.contains(why), "{}", run.stderr);
        assert!(!run.stderr.contains("listening on"), "{}", run.stderr);
    }
}

/// Where it is asked for, epoll is taken without a look at io_uring.
#[test]
fn epoll_where_it_is_asked_for() {
    let (gateway, upstream) = pair(EPERM, DRIVERS[1]);
    assert!(gateway.banner.contains("epoll (epoll was asked for)"), "{}", gateway.banner);
    Post::call("echo").echoed(&gateway);
    oracle::check(&gateway, &[("up", &upstream)]);
}
