//! What a supervisor is told (the protocol of sd_notify(3)): that the gateway serves, that it lives, that it ends.
//! Without `NOTIFY_SOCKET` in the environment nobody is told anything.

use std::time::Duration;

use sd_notify::NotifyState::{self, Ready, Reloading, Status, Stopping, Watchdog};

use crate::base::limits::{HOUSEKEEPING_MS, WATCHDOG_MS_MIN};
use crate::gateway::control::{Beats, Life};
use crate::uring::ring::Driver;

use super::PlaneFault;
use super::start::Gateway;

/// The gateway serves. From now on the supervisor's watchdog, where it has one, hears of it as long as every shard
/// lives.
///
/// # Errors
/// `PlaneFault::System` when there is no thread for the watchdog.
pub fn ready(gateway: &Gateway) -> Result<(), PlaneFault> {
    let servers = gateway.health.servers();
    let known = servers.iter().filter(|server| server.known).count();
    let driver = if gateway.driver == Driver::IoUring { "io_uring" } else { "epoll" };
    let (shards, all) = (gateway.shards, servers.len());
    let status = format!("serving on {driver}, shards: {shards}; servers reached at start: {known} of {all}");
    if let Err(error) = sd_notify::notify(&[Ready, Status(&status)]) {
        tracing::warn!("NOTIFY_SOCKET is set, but the supervisor cannot be told that the gateway serves: {error}");
    }
    let Some(patience) = sd_notify::watchdog_enabled() else { return Ok(()) };
    if patience < Duration::from_millis(WATCHDOG_MS_MIN) {
        tracing::warn!("WATCHDOG_USEC is under {WATCHDOG_MS_MIN} ms: a busy machine may miss it");
    }
    let control = gateway.handle().control();
    std::thread::Builder::new()
        .name("plane-watchdog".into())
        .spawn(move || feed(&control.beats, patience / 2, || control.life(), || tell(&[Watchdog])))
        .map_err(|error| PlaneFault::System { what: "a thread", error })?;
    Ok(())
}

/// Does `reload`, between the words by which a supervisor knows that one is under way and that it is done
/// (sd_notify(3), `Type=notify-reload`).
pub(super) fn reloading<T>(reload: impl FnOnce() -> T) -> T {
    match NotifyState::monotonic_usec_now() {
        Ok(now) => tell(&[Reloading, now]),
        Err(_) => tell(&[Reloading]),
    }
    let done = reload();
    tell(&[Ready]);
    done
}

/// The gateway ends: what is under way may finish.
pub fn stopping() {
    tell(&[Stopping, Status("draining: no new connections; calls under way may finish")]);
}

/// The first word got through or its failure was said; later ones are not worth a line each.
fn tell(states: &[NotifyState<'_>]) {
    let _ = sd_notify::notify(states);
}

/// Calls `ping` each `period`, but only once every shard has moved since the last time: a shard that hangs ends it.
/// A drain has its own deadline, and shards that are done with it do not move: from then on it goes by time alone.
fn feed(beats: &Beats, period: Duration, life: impl Fn() -> Life, ping: impl Fn()) {
    let mut before = vec![0; beats.iter().count()];
    while life() != Life::Stop {
        std::thread::sleep(period);
        while !all_moved(&before, beats) && life() == Life::Run {
            std::thread::sleep(Duration::from_millis(HOUSEKEEPING_MS));
        }
        before.clear();
        before.extend(beats.iter());
        ping();
    }
}

/// Whether each shard's count is another than it was.
fn all_moved(before: &[u64], beats: &Beats) -> bool {
    beats.iter().zip(before).all(|(now, before)| now != *before)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU8, Ordering};
    use std::sync::mpsc;

    use super::*;
    use crate::base::ids::ShardId;

    /// [R4] One shard that stands still is enough, whatever the others do.
    #[test]
    fn all_moved_means_each() {
        let beats = Beats::new(3);
        let moved = |before: &[u64]| all_moved(before, &beats);
        assert!(!moved(&[0, 0, 0]), "none has begun");
        beats.beat(ShardId(0));
        beats.beat(ShardId(1));
        assert!(!moved(&[0, 0, 0]), "shard 2 has not begun");
        beats.beat(ShardId(2));
        assert!(moved(&[0, 0, 0]));
        assert!(!moved(&[1, 1, 1]), "nothing since");
        for _ in 0..5 {
            beats.beat(ShardId(0));
            beats.beat(ShardId(2));
        }
        assert!(!moved(&[1, 1, 1]), "shard 1 hangs");
        beats.beat(ShardId(1));
        assert!(moved(&[1, 1, 1]));
        beats.beat(ShardId(7));
        assert_eq!(beats.iter().collect::<Vec<_>>(), [6, 2, 6], "a shard that is not there beats for nobody");
    }

    /// [R4] Pings go on while every shard beats, end when one hangs, and go by time in a drain.
    #[test]
    fn a_shard_that_hangs_ends_the_pings() {
        let beats = Arc::new(Beats::new(2));
        let life = Arc::new(AtomicU8::new(0));
        let (pinged, pings) = mpsc::channel();
        let (fed, lives) = (beats.clone(), life.clone());
        let thread = std::thread::spawn(move || {
            let life = || [Life::Run, Life::Drain, Life::Stop][usize::from(lives.load(Ordering::Acquire))];
            feed(&fed, Duration::from_millis(1), life, || _ = pinged.send(()));
        });
        let patience = Duration::from_secs(20);
        let quiet = Duration::from_millis(4 * HOUSEKEEPING_MS);
        assert!(pings.recv_timeout(quiet).is_err(), "no shard has begun");
        for _ in 0..3 {
            beats.beat(ShardId(0));
            beats.beat(ShardId(1));
            pings.recv_timeout(patience).expect("every shard beats");
        }
        for _ in 0..3 {
            beats.beat(ShardId(0));
            assert!(pings.recv_timeout(quiet).is_err(), "shard 1 hangs");
        }
        beats.beat(ShardId(1));
        pings.recv_timeout(patience).expect("it came back");
        life.store(1, Ordering::Release);
        for _ in 0..3 {
            pings.recv_timeout(patience).expect("a drain goes by time");
        }
        life.store(2, Ordering::Release);
        thread.join().expect("it ends with the gateway");
    }
}
