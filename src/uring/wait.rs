//! Time on a shard: one wheel, one sleep loop, and deadlines that end a socket's I/O from outside.

use std::cell::{Cell, OnceCell, RefCell};
use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::rc::{Rc, Weak};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use crate::base::slab::Key;
use crate::base::time::{Moment, Now};
use crate::base::wheel::Wheel;
use crate::uring::socket::{self, Socket};
use crate::uring::ticks::{self, Ticks};

/// Reads both clocks. For the plane; a shard asks its [`Timers`].
///
/// The wall clock is believed when it runs ahead, never when it falls back: a token that has expired stays expired,
/// whatever is done to the clock while the process runs.
#[must_use]
pub fn clock() -> Now {
    ticks::kernel()
}

/// The timers of one shard, in steps of `TICK_MS`: nothing fires early, and what is due fires within a step. Clones
/// are the same timers.
#[derive(Clone)]
pub struct Timers {
    inner: Rc<Inner>,
}

struct Inner {
    wheel: RefCell<Wheel<Entry>>,
    ticks: Ticks,
    /// When the wheel next wants to be turned.
    due: Cell<Moment>,
    /// When the sleep loop will wake.
    alarm: Cell<Moment>,
    sleeper: RefCell<Option<Waker>>,
    stopped: Cell<bool>,
    /// What just came due, kept for its room.
    scratch: RefCell<Vec<Entry>>,
}

enum Entry {
    /// Something may be due on a socket; see [`Due`].
    Look(Weak<socket::Inner>),
    /// Beside what is due there already.
    Act(Socket, Act),
    Wake(Waker),
}

/// What a socket's time ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Act {
    /// Everything on it.
    Shutdown,
    /// The receive that can be given up.
    GiveUp,
}

/// What is due on one socket. Its place in the wheel outlives what is due: where the next thing is due later, as it nearly
/// always is, nothing is put into the wheel or taken out for it.
#[derive(Default)]
pub(super) struct Due {
    state: Cell<State>,
    at: Cell<Moment>,
    /// Where in the wheel, until when.
    place: Cell<Option<(Key, Moment)>>,
    timers: OnceCell<Timers>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum State {
    #[default]
    Nothing,
    Armed(Act),
    Fired,
}

impl Timers {
    /// Timers on which nothing waits yet. They turn while [`Timers::run`] does.
    #[must_use]
    pub fn new() -> Self {
        let ticks = Ticks::new();
        Self {
            inner: Rc::new(Inner {
                wheel: RefCell::new(Wheel::new(ticks.told().mono)),
                ticks,
                due: Cell::new(NEVER),
                alarm: Cell::new(NEVER),
                sleeper: RefCell::new(None),
                stopped: Cell::new(false),
                scratch: RefCell::new(Vec::new()),
            }),
        }
    }

    /// Both clocks, to a few microseconds (about 10 ns). What is due by now fires now: on a shard so busy that its sleep
    /// loop is late, every look at the clock turns the wheel.
    #[must_use]
    #[inline]
    pub fn now(&self) -> Now {
        let now = self.inner.ticks.now();
        if now.mono >= self.inner.due.get() { self.inner.turn() } else { now }
    }

    /// What [`Timers::now`] said last, for what can do with a time some steps old.
    #[must_use]
    #[inline]
    pub fn last(&self) -> Now {
        self.inner.ticks.told()
    }

    /// Shuts `socket` down (both ways) at `at`, unless the guard is dropped before: whatever is in flight on it then
    /// ends by itself. `at` in the past is due at the next turn. The first of several on one socket costs next to
    /// nothing.
    #[inline]
    pub fn deadline(&self, socket: &Socket, at: Moment) -> Deadline {
        self.at(socket, at, Act::Shutdown)
    }

    /// Ends a receive on `socket` that can be given up at `at`, unless the guard is dropped before.
    #[inline]
    pub(super) fn give_up(&self, socket: &Socket, at: Moment) -> Deadline {
        self.at(socket, at, Act::GiveUp)
    }

    fn at(&self, socket: &Socket, at: Moment, act: Act) -> Deadline {
        let due = socket.due();
        let own = due.timers.get_or_init(|| self.clone());
        if due.state.get() == State::Nothing && Rc::ptr_eq(&own.inner, &self.inner) {
            due.state.set(State::Armed(act));
            self.inner.move_to(socket.shared(), at);
            return Deadline { kind: Kind::Own(socket.clone()) };
        }
        let key = self.inner.insert(at, Entry::Act(socket.clone(), act));
        Deadline { kind: Kind::Beside(self.clone(), key) }
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
                inner.expire(inner.ticks.look().mono);
                let now = inner.ticks.look().mono;
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
    /// Something may be due. The processor's counter may be a little fast, and nothing fires early.
    #[cold]
    fn turn(&self) -> Now {
        let now = self.ticks.look();
        if now.mono >= self.due.get() {
            self.expire(now.mono);
        }
        now
    }

    /// What is armed on a socket is due at `at`.
    #[inline]
    fn move_to(&self, socket: &Rc<socket::Inner>, at: Moment) {
        let due = socket.due();
        due.at.set(at);
        // The wheel looks at it before that, and finds out.
        if due.place.get().is_none_or(|(_, until)| at < until) {
            self.place(socket, at);
        }
    }

    #[cold]
    fn place(&self, socket: &Rc<socket::Inner>, at: Moment) {
        let due = socket.due();
        let known = due.place.get().filter(|(key, _)| self.wheel.borrow_mut().reset(*key, at));
        let key = match known {
            Some((key, _)) => {
                let next = self.wheel.borrow().next();
                self.set_due(next);
                key
            }
            None => self.insert(at, Entry::Look(Rc::downgrade(socket))),
        };
        due.place.set(Some((key, at)));
    }

    /// The wheel has come to where a socket was put.
    fn look(&self, socket: &Rc<socket::Inner>, now: Moment) {
        let due = socket.due();
        due.place.set(None);
        if let State::Armed(act) = due.state.get() {
            let at = due.at.get();
            if at > now {
                return self.place(socket, at);
            }
            due.state.set(State::Fired);
            socket.act(act);
        }
    }

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
                Entry::Look(socket) => {
                    if let Some(socket) = socket.upgrade() {
                        self.look(&socket, now);
                    }
                }
                Entry::Act(socket, act) => socket.shared().act(act),
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
    kind: Kind,
}

enum Kind {
    /// What its socket has room for.
    Own(Socket),
    /// There was another one on its socket: an entry of its own.
    Beside(Timers, Key),
}

impl Deadline {
    /// Whether the moment came, and the socket was shut down.
    #[must_use]
    pub fn fired(&self) -> bool {
        match &self.kind {
            Kind::Own(socket) => socket.due().state.get() == State::Fired,
            Kind::Beside(timers, key) => !timers.inner.wheel.borrow().contains(*key),
        }
    }

    /// Moves the deadline to `at`; `Moment(u64::MAX)` is never. Moving it later is nearly free. Says whether that was
    /// still possible; a deadline that fired stays fired.
    pub fn reset(&self, at: Moment) -> bool {
        match &self.kind {
            Kind::Own(socket) => {
                let due = socket.due();
                let armed = due.state.get() != State::Fired;
                if let Some(timers) = due.timers.get().filter(|_| armed) {
                    timers.inner.move_to(socket.shared(), at);
                }
                armed
            }
            Kind::Beside(timers, key) => {
                let (known, next) = {
                    let mut wheel = timers.inner.wheel.borrow_mut();
                    (wheel.reset(*key, at), wheel.next())
                };
                timers.inner.set_due(next);
                known
            }
        }
    }

    /// Takes the deadline back, and says whether it had fired.
    pub fn disarm(self) -> bool {
        self.fired()
    }
}

impl Drop for Deadline {
    #[inline]
    fn drop(&mut self) {
        match &self.kind {
            Kind::Own(socket) => socket.due().state.set(State::Nothing),
            Kind::Beside(timers, key) => {
                // Taken out of the wheel first, let go after: the last handle of a socket closes it.
                let entry = timers.inner.wheel.borrow_mut().remove(*key);
                drop(entry);
            }
        }
    }
}

impl Drop for Due {
    fn drop(&mut self) {
        if let (Some((key, _)), Some(timers)) = (self.place.get(), self.timers.get()) {
            let entry = timers.inner.wheel.borrow_mut().remove(key);
            drop(entry);
        }
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
            if inner.ticks.now().mono >= self.at && inner.ticks.look().mono >= self.at {
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
