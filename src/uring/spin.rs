//! Looking for what comes instead of sleeping, for a while after something came: the opt-in for installs where
//! latency is worth more than CPU.

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::task::{Poll, Waker};

use crate::uring::ring::spawn;
use crate::uring::wait::Timers;

/// Has this shard go on looking for completions for `micros` microseconds after each one; 0 lets it sleep at once, as
/// it does when this is never called. May be called again at any time, with another value; to be called on the
/// shard's own thread, within `Driver::run`.
pub fn set(micros: u64, timers: &Timers) {
    SPIN.with(|spin| {
        spin.nanos.set(micros.saturating_mul(1_000));
        if micros > 0 && !spin.begun.replace(true) {
            // Two tasks that wake each other: one that wakes itself goes in front of all others (monoio 0.2.4), who
            // would never have their turn.
            spawn(look(timers.clone()));
            spawn(pass_on());
        }
    });
}

/// An operation has ended, so there is work here, and more of it soon.
#[inline]
pub(super) fn landed() {
    SPIN.with(|spin| {
        if spin.begun.get() {
            spin.arrived.set(true);
            wake(&spin.looker);
        }
    });
}

/// What the two tasks of a thread have in common.
struct Spin {
    nanos: Cell<u64>,
    begun: Cell<bool>,
    /// Something has come since the last look.
    arrived: Cell<bool>,
    /// Who looks, while it sleeps.
    looker: RefCell<Option<Waker>>,
    /// Who passes the turn back to it, while it waits for that.
    passer: RefCell<Option<Waker>>,
}

thread_local! {
    static SPIN: Spin = const {
        Spin {
            nanos: Cell::new(0),
            begun: Cell::new(false),
            arrived: Cell::new(false),
            looker: RefCell::new(None),
            passer: RefCell::new(None),
        }
    };
}

/// Stays awake while something came not long ago. As long as a task is ready, the runtime asks the kernel without
/// waiting in it.
async fn look(timers: Timers) {
    let mut since = timers.now().mono;
    poll_fn(|cx| {
        SPIN.with(|spin| {
            // On a shard that never sleeps this look at the clock is what turns the wheel.
            let now = timers.now().mono;
            if spin.arrived.take() {
                since = now;
            }
            let awake = u128::from(spin.nanos.get()) > now.since(since).as_nanos();
            remember(&spin.looker, cx.waker());
            if awake {
                wake(&spin.passer);
            }
            Poll::<()>::Pending
        })
    })
    .await;
}

/// Gives the turn back, behind everybody else who is ready.
async fn pass_on() {
    poll_fn(|cx| {
        SPIN.with(|spin| {
            remember(&spin.passer, cx.waker());
            wake(&spin.looker);
            Poll::<()>::Pending
        })
    })
    .await;
}

fn remember(place: &RefCell<Option<Waker>>, waker: &Waker) {
    *place.borrow_mut() = Some(waker.clone());
}

fn wake(place: &RefCell<Option<Waker>>) {
    // Taken out first: whoever is woken may come back here.
    let waker = place.borrow_mut().take();
    if let Some(waker) = waker {
        waker.wake();
    }
}

#[cfg(test)]
mod tests {
    use std::rc::Rc;
    use std::time::Duration;

    use crate::uring::buffer::Pool;
    use crate::uring::ring::{Choice, Driver, sleep, spawn};
    use crate::uring::socket::Socket;

    use super::*;

    /// A byte goes to and fro while this shard looks; everybody has a turn, and in the end it sleeps.
    #[test]
    fn others_have_their_turn() {
        for choice in [Choice::Auto, Choice::Epoll] {
            let driver = Driver::probe(choice).unwrap();
            // A thread runs once.
            let asleep = std::thread::spawn(move || driver.run(to_and_fro()).unwrap());
            assert!(asleep.join().unwrap(), "nothing came for longer than it looks, and it still does");
        }
    }

    async fn to_and_fro() -> bool {
        let (timers, pool) = (Timers::new(), Pool::new(1 << 20));
        spawn(timers.clone().run());
        set(20_000, &timers);
        let (one, other) = Socket::pair().unwrap();
        let echo = pool.clone();
        spawn(async move {
            while let (Ok(1..), buffer) = other.recv(echo.get(16).unwrap()).await {
                let _ = other.send(buffer).await;
            }
        });
        let turns = Rc::new(Cell::new(0_u32));
        let (counted, clock) = (turns.clone(), timers.clone());
        spawn(async move {
            for _ in 0..5 {
                clock.sleep_until(clock.now().mono.plus_ms(1)).await;
                counted.set(counted.get() + 1);
            }
        });
        for round in 0.. {
            let mut buffer = pool.get(16).unwrap();
            assert!(buffer.extend_from_slice(b"x"));
            one.send(buffer).await.0.unwrap();
            let (read, _) = one.recv(pool.get(16).unwrap()).await;
            assert_eq!(read.unwrap(), 1);
            if round >= 1_000 && turns.get() == 5 {
                break;
            }
        }
        sleep(Duration::from_millis(100)).await;
        let asleep = SPIN.with(|spin| spin.looker.borrow().is_some() && spin.passer.borrow().is_some());
        one.shutdown();
        timers.stop();
        asleep
    }
}
