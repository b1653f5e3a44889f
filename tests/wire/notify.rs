//! What a supervisor hears (sd_notify(3)), by a socket of the test's own.

use std::io::ErrorKind;
use std::os::unix::net::UnixDatagram;
use std::time::{Duration, Instant};

use rustix::process::Signal;

use crate::support::gateway::{PATIENCE, Setup, eventually};
use crate::support::mcp::Post;
use crate::support::oracle;
use crate::support::upstream::{Acted, Plan};

/// The supervisor's end, and the folder it is in.
struct Supervisor {
    socket: UnixDatagram,
    folder: tempfile::TempDir,
}

impl Supervisor {
    fn new() -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder can be made");
        let socket = UnixDatagram::bind(folder.path().join("notify")).expect("it is a short path");
        socket.set_read_timeout(Some(Duration::from_millis(50))).expect("a socket has this option");
        Self { socket, folder }
    }

    fn over(&self, setup: Setup) -> Setup {
        setup.environment("NOTIFY_SOCKET", self.folder.path().join("notify").display().to_string())
    }

    /// The next message, if one comes within the socket's patience.
    fn hears(&self) -> Option<String> {
        let mut bytes = [0; 4096];
        match self.socket.recv(&mut bytes) {
            Ok(n) => Some(String::from_utf8_lossy(&bytes[..n]).into_owned()),
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => None,
            Err(error) => panic!("{error}"),
        }
    }

    /// Messages up to the one that has `line`.
    #[track_caller]
    fn hears_of(&self, line: &str) -> Vec<String> {
        let until = Instant::now() + PATIENCE;
        let mut heard = Vec::new();
        while Instant::now() < until {
            heard.extend(self.hears());
            if heard.last().is_some_and(|message| message.lines().any(|it| it == line)) {
                return heard;
            }
        }
        panic!("the supervisor never heard {line}: {heard:?}");
    }
}

/// [L1] A reload is told from its begin to its end, whether it went well or not, as `Type=notify-reload` wants it: with
/// the time, and ready again when the new configuration is in force.
#[test]
fn a_supervisor_hears_of_reloads() {
    let upstream = Plan::tools(&["echo"]).start();
    let supervisor = Supervisor::new();
    let gateway = supervisor.over(Setup::new().server("up", &upstream.url()).open()).start();
    supervisor.hears_of("READY=1");
    for (text, ok) in [(None, true), (Some("nonsense: ["), false)] {
        text.into_iter().for_each(|text| gateway.write_config(text));
        let reload = gateway.reload();
        assert_eq!(reload["ok"], ok, "{reload:#}");
        let begun = supervisor.hears_of("RELOADING=1");
        assert!(begun[0].lines().any(|line| line.starts_with("MONOTONIC_USEC=")), "{begun:?}");
        assert_eq!(supervisor.hears_of("READY=1"), ["READY=1\n"]);
        Post::call("echo").echoed(&gateway);
    }
}

/// [L1] Ready once it serves, stopping as soon as a drain begins, and not a word in between where there is no watchdog.
#[test]
fn a_supervisor_hears_of_start_and_end() {
    let upstream = Plan::tools(&["echo", "hold"])
        .script(|seen, out| {
            if seen.calls("hold") {
                out.pass("go");
            }
            Acted::Default
        })
        .start();
    let supervisor = Supervisor::new();
    let mut gateway = supervisor.over(Setup::new().server("up", &upstream.url()).open()).start();
    let heard = supervisor.hears_of("READY=1");
    assert_eq!(heard.len(), 1, "{heard:?}");
    assert!(heard[0].lines().any(|line| line.starts_with("STATUS=serving")), "{heard:?}");
    assert!(heard[0].contains("1 of 1"), "{heard:?}");
    Post::call("echo").echoed(&gateway);
    assert_eq!(supervisor.hears(), None, "a watchdog that nobody asked for");
    let held = Post::call("hold");
    let mut wire = held.begin(&gateway);
    upstream.wait("the held call", |seen| seen.calls("hold"));
    gateway.signal(Signal::TERM);
    let heard = supervisor.hears_of("STOPPING=1");
    assert!(heard.last().is_some_and(|message| message.contains("STATUS=draining")), "{heard:?}");
    assert!(gateway.running(), "it is told while calls are under way");
    upstream.open("go");
    held.is_echoed(&wire.response());
    assert!(gateway.ended(PATIENCE).success());
    oracle::check(&gateway, &[("up", &upstream)]);
}

/// The watchdog hears of it again and again while the gateway lives, through a drain too, and no more once it is held.
#[test]
fn a_watchdog_is_fed_while_every_shard_lives() {
    let upstream = Plan::tools(&["hold"])
        .script(|seen, out| {
            if seen.calls("hold") {
                out.pass("go");
            }
            Acted::Default
        })
        .start();
    let supervisor = Supervisor::new();
    let setup = Setup::new().server("up", &upstream.url()).open().shards(2).environment("WATCHDOG_USEC", "300000");
    let mut gateway = supervisor.over(setup).start();
    supervisor.hears_of("READY=1");
    for _ in 0..3 {
        assert_eq!(supervisor.hears_of("WATCHDOG=1"), ["WATCHDOG=1\n"]);
    }
    // A process that does not run feeds nobody.
    gateway.signal(Signal::STOP);
    eventually("what was said before is read", || supervisor.hears().is_none());
    let begun = Instant::now();
    while begun.elapsed() < Duration::from_millis(600) {
        assert_eq!(supervisor.hears(), None, "a stopped gateway speaks");
    }
    gateway.signal(Signal::CONT);
    supervisor.hears_of("WATCHDOG=1");
    let held = Post::call("hold");
    let mut wire = held.begin(&gateway);
    upstream.wait("the held call", |seen| seen.calls("hold"));
    gateway.signal(Signal::TERM);
    supervisor.hears_of("STOPPING=1");
    for _ in 0..2 {
        supervisor.hears_of("WATCHDOG=1");
    }
    upstream.open("go");
    held.is_echoed(&wire.response());
    assert!(gateway.ended(PATIENCE).success());
    oracle::check(&gateway, &[("up", &upstream)]);
}

/// A watchdog for another process, a socket that is not there, and nonsense are no reason not to serve.
#[test]
fn a_supervisor_that_is_not_there() {
    let upstream = Plan::tools(&["echo"]).start();
    let supervisor = Supervisor::new();
    let setup = || Setup::new().server("up", &upstream.url()).open();
    for (setup, pings) in [
        (setup().environment("NOTIFY_SOCKET", "/nowhere/at/all"), false),
        (supervisor.over(setup()).environment("WATCHDOG_USEC", "300000").environment("WATCHDOG_PID", "1"), false),
        (supervisor.over(setup()).environment("WATCHDOG_USEC", "soon"), false),
        (supervisor.over(setup()).environment("WATCHDOG_USEC", "300000"), true),
    ] {
        let gateway = setup.start();
        Post::call("echo").echoed(&gateway);
        let begun = Instant::now();
        let mut pinged = false;
        while begun.elapsed() < Duration::from_millis(500) || pings && !pinged && begun.elapsed() < PATIENCE {
            pinged |= supervisor.hears().is_some_and(|message| message.contains("WATCHDOG"));
        }
        assert_eq!(pinged, pings);
        drop(gateway);
        while supervisor.hears().is_some() {}
    }
}
