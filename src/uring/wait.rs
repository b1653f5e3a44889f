//! Time on a shard: one wheel, one sleep loop, and deadlines that end a socket's I/O from outside.

use std::cell::{Cell, RefCell};
use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::sync::OnceLock;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant, SystemTime};

use crate::base::slab::Key;
use crate::base::time::{Moment, Now};
use crate::base::wheel::Wheel;
use crate::uring::socket::Socket;

/// Reads both clocks. For the plane; a shard asks its [`Timers`].
///
/// The wall clock is believed when it runs ahead, never when it falls back: a token that has expired stays expired,
/// whatever is done to the clock while the process runs.
#[must_use]
pub fn clock() -> Now {
    static START: OnceLock<(Instant, Duration)> = OnceLock::new();
    let wall = || SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let (start, wall_then) = START.get_or_init(|| (Instant::now(), wall()));
    let since_start = start.elapsed();
    let unix = wall().max(*wall_then + since_start);
    Now {
        mono: Moment(u64::try_from(since_start.as_nanos()).unwrap_or(u64::MAX)),
        unix_ms: u64::try_from(unix.as_millis()).unwrap_or(u64::MAX),
    }
}

/// The timers of one shard, in steps of `TICK_MS`: nothing fires early, and what is due fires within a step. Clones
/// are the same timers.
#[derive(Clone)]
pub struct Timers {
    inner: Rc<Inner>,
}

struct Inner {
    wheel: RefCell<Wheel<Entry>>,
    /// When the wheel next wants to be turned.
    due: Cell<Moment>,
    /// When the sleep loop will wake.
    alarm: Cell<Moment>,
    sleeper: RefCell<Option<Waker>>,
    last: Cell<Now>,
    stopped: Cell<bool>,
    /// What just came due, kept for its room.
    scratch: RefCell<Vec<Entry>>,
}

enum Entry {
    Shutdown(Socket),
    Wake(Waker),
}

impl Timers {
    /// Timers on which nothing waits yet. They turn while [`Timers::run`] does.
    #[must_use]
    pub fn new() -> Self {
        let now = clock();
        Self {
            inner: Rc::new(Inner {
                wheel: RefCell::new(Wheel::new(now.mono)),
                due: Cell::new(NEVER),
                alarm: Cell::new(NEVER),
                sleeper: RefCell::new(None),
                last: Cell::new(now),
                stopped: Cell::new(false),
                scratch: RefCell::new(Vec::new()),
            }),
        }
    }

    /// Reads both clocks (about 50 ns). What is due by now fires now: on a shard so busy that its sleep loop is late,
    /// every look at the clock turns the wheel.
    #[must_use]
    pub fn now(&self) -> Now {
        let now = clock();
        self.inner.last.set(now);
        if now.mono >= self.inner.due.get() {
            self.inner.expire(now.mono);
        }
        now
    }

    /// What [`Timers::now`] said last, for what can do with a time some steps old.
    #[must_use]
    pub fn last(&self) -> Now {
        self.inner.last.get()
    }

    /// Shuts `socket` down (both ways) at `at`, unless the guard is dropped before: whatever is in flight on it then
    /// ends by itself. `at` in the past is due at the next turn.
    pub fn deadline(&self, socket: &Socket, at: Moment) -> Deadline {
        let key = self.inner.insert(at, Entry::Shutdown(socket.clone()));
        Deadline { timers: self.clone(), key }
    }

    /// Waits until `at`. Dropping it early is fine.
    pub fn sleep_until(&self, at: Moment) -> SleepUntil {
        SleepUntil { timers: self.clone(), at, key: None }
    }

    /// The shard's one sleep loop; runs until [`Timers::stop`]. It wakes when something is due and not before: an idle
    /// shard sleeps. Spawn it once.
    pub async fn run(self) {
        let inner = &*self.inner;
        let mut alarm = pin!(monoio::time::sleep(ALARM_MAX));
        poll_fn(|cx| {
            while !inner.stopped.get() {
                inner.expire(clock().mono);
                let now = clock().mono;
                let wait = inner.due.get().since(now).min(ALARM_MAX);
                inner.alarm.set(Moment(now.0.saturating_add(nanos(wait))));
                inner.remember_sleeper(cx.waker());
                alarm.as_mut().reset(monoio::time::Instant::now() + wait);
                if alarm.as_mut().poll(cx).is_pending() {
                    return Poll::Pending;
                }
            }
            Poll::Ready(())
        })
        .await;
    }

    /// Ends [`Timers::run`]; timers still set do not fire any more, but for those a look at the clock finds due.
    pub fn stop(&self) {
        self.inner.stopped.set(true);
        self.inner.wake_sleeper();
    }
}

impl Default for Timers {
    fn default() -> Self {
        Self::new()
    }
}

impl Inner {
    fn insert(&self, at: Moment, entry: Entry) -> Key {
        let (key, next) = {
            let mut wheel = self.wheel.borrow_mut();
            (wheel.insert(at, entry), wheel.next())
        };
        self.set_due(next);
        key
    }

    /// Only a wish to be turned earlier than the loop will wake costs it a wake.
    fn set_due(&self, next: Option<Moment>) {
        let due = next.unwrap_or(NEVER);
        self.due.set(due);
        if due < self.alarm.get() {
            self.wake_sleeper();
        }
    }

    fn expire(&self, now: Moment) {
        // The wheel is let go before anything fires: dropping a socket or waking a task may come back here.
        let mut due = self.scratch.take();
        let next = {
            let mut wheel = self.wheel.borrow_mut();
            wheel.expire(now, |entry| due.push(entry));
            wheel.next()
        };
        self.due.set(next.unwrap_or(NEVER));
        for entry in due.drain(..) {
            match entry {
                Entry::Shutdown(socket) => socket.shutdown(),
                Entry::Wake(waker) => waker.wake(),
            }
        }
        self.scratch.replace(due);
    }

    fn remember_sleeper(&self, waker: &Waker) {
        let known = self.sleeper.borrow().as_ref().is_some_and(|known| known.will_wake(waker));
        if !known {
            self.sleeper.replace(Some(waker.clone()));
        }
    }

    fn wake_sleeper(&self) {
        // It is woken once; until it has run, it will look at everything anyway.
        self.alarm.set(Moment(0));
        if let Some(waker) = self.sleeper.take() {
            waker.wake();
        }
    }
}

/// A deadline that is set. Dropping it takes it back.
#[must_use = "a dropped deadline is taken back at once"]
pub struct Deadline {
    timers: Timers,
    key: Key,
}

impl Deadline {
    /// Whether the moment came, and the socket was shut down.
    #[must_use]
    pub fn fired(&self) -> bool {
        !self.timers.inner.wheel.borrow().contains(self.key)
    }

    /// Moves the deadline to `at`; `Moment(u64::MAX)` is never. Moving it later is nearly free. Says whether that was
    /// still possible; a deadline that fired stays fired.
    pub fn reset(&self, at: Moment) -> bool {
        let inner = &self.timers.inner;
        let (known, next) = {
            let mut wheel = inner.wheel.borrow_mut();
            (wheel.reset(self.key, at), wheel.next())
        };
        inner.set_due(next);
        known
    }

    /// Takes the deadline back, and says whether it had fired.
    pub fn disarm(self) -> bool {
        self.fired()
    }
}

impl Drop for Deadline {
    fn drop(&mut self) {
        // Taken out of the wheel first, let go after: the last handle of a socket closes it.
        let entry = self.timers.inner.wheel.borrow_mut().remove(self.key);
        drop(entry);
    }
}

/// See [`Timers::sleep_until`].
#[must_use = "futures do nothing unless awaited"]
pub struct SleepUntil {
    timers: Timers,
    at: Moment,
    key: Option<Key>,
}

impl Future for SleepUntil {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let inner = self.timers.inner.clone();
        let Some(key) = self.key else {
            if clock().mono >= self.at {
                return Poll::Ready(());
            }
            self.key = Some(inner.insert(self.at, Entry::Wake(cx.waker().clone())));
            return Poll::Pending;
        };
        // Another waker is let go after the wheel: it may be the last thing that holds a task.
        let replaced = match inner.wheel.borrow_mut().get_mut(key) {
            Some(Entry::Wake(waker)) if waker.will_wake(cx.waker()) => None,
            Some(entry) => Some(std::mem::replace(entry, Entry::Wake(cx.waker().clone()))),
            None => return Poll::Ready(()),
        };
        drop(replaced);
        Poll::Pending
    }
}

impl Drop for SleepUntil {
    fn drop(&mut self) {
        if let Some(key) = self.key {
            let entry = self.timers.inner.wheel.borrow_mut().remove(key);
            drop(entry);
        }
    }
}

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

const NEVER: Moment = Moment(u64::MAX);

/// The longest the loop sleeps when nothing is due: far below the end of monoio's own wheel.
const ALARM_MAX: Duration = Duration::from_secs(3600);
