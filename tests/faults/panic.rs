//! A process that ends in the middle: a panic must end it, because what has lost its invariants must not go on deciding;
//! a supervisor starts it again, and what was written down is still there.

use std::fs;
use std::os::unix::process::ExitStatusExt as _;

use rustix::process::Signal;
use serde_json::Value;

use crate::support::gateway::{PATIENCE, Setup};
use crate::support::mcp::{Post, open_session};
use crate::support::oracle;
use crate::support::upstream::{Acted, Plan};

/// [R4] The released binary has no way to go on after a panic: none of its profiles unwinds.
#[test]
fn the_release_aborts() {
    let manifest = fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml")).expect("it was built");
    let section = |name: &str| {
        let found = manifest.split("\n[").find_map(|part| part.strip_prefix(name)).unwrap_or_default();
        found.lines().map(str::trim).map(str::to_owned).collect::<Vec<_>>()
    };
    assert!(section("profile.release]").iter().any(|line| line == "panic = \"abort\""));
    assert!(section("profile.bench]").iter().any(|line| line == "inherits = \"release\""));
    assert!(!manifest.contains("panic = \"unwind\""));
    let main = include_str!("../../src/main.rs");
    assert!(main.contains("fn main()") && !main.contains("catch_unwind"), "a panic is the end");
}

/// [R4] What an abort leaves behind: the signal for its supervisor, the record up to it, and sessions that go on.
#[test]
fn an_abort_leaves_the_record_behind() {
    let upstream = Plan::tools(&["echo", "hang"]).script(|seen, out| {
        if seen.calls("hang") {
            out.gone(PATIENCE);
        }
        Acted::Default
    });
    let upstream = upstream.start();
    let mut gateway = Setup::new().server("up", &upstream.url()).open().shards(2).start();
    let session = open_session(&gateway, |post| post);
    let done: Vec<Post> = (0..20).map(|_| Post::legacy_call(&session, "echo")).collect();
    for post in &done {
        post.echoed(&gateway);
    }
    let hang = Post::call("hang");
    let mut wire = hang.begin(&gateway);
    gateway.records_until("the last call", |records| records.iter().any(|it| it["trace"] == hang.value));
    let written = gateway.records();
    // The signal that abort(3) raises, and with it a panic of the released binary.
    gateway.signal(Signal::ABORT);
    let status = gateway.ended(PATIENCE);
    assert_eq!((status.code(), status.signal()), (None, Some(Signal::ABORT.as_raw())), "no exit code hides it");
    assert!(wire.try_response().is_err(), "no answer that is none");

    let gateway = gateway.restart(|_| {});
    let records = gateway.records();
    assert_eq!(&records[..written.len()], &written[..], "not one record is lost or changed");
    for post in &done {
        assert_eq!(oracle::decision(&records, &post.value)["verdict"], "permit");
    }
    // How the last call ended, nobody knows; and the record does not say that it does.
    let key = |record: &Value| [record["run"].clone(), record["shard"].clone(), record["seq"].clone()];
    let number = key(oracle::decision(&records, &hang.value));
    assert!(oracle::of_kind(&records, "outcome").all(|it| key(it) != number), "{number:?}");
    Post::legacy_call(&session, "echo").echoed(&gateway);
}

/// [R4] The same in a build that unwinds: a shard that panics takes its siblings along.
#[test]
#[ignore = "bug: a shard's end is noticed when those before it have ended; and nothing makes one panic"]
fn a_panic_on_one_shard_ends_the_process() {
    let upstream = Plan::tools(&["echo"]).start();
    let setup = Setup::new().server("up", &upstream.url()).open().shards(2);
    // The last shard, a second after it began to serve.
    let mut gateway = setup.environment("PORTCULLIS_TEST_PANIC", "shard-1").start();
    let post = Post::call("echo");
    post.echoed(&gateway);
    let status = gateway.ended(PATIENCE);
    assert!(!status.success(), "{status}");
    let gateway = gateway.restart(|_| {});
    assert_eq!(oracle::outcome(&gateway.records(), &post.value)["status"], "ok");
}
