//! Waiting for a server while a client may leave. Nothing in flight is ever dropped: the wait for the client's socket
//! is stored in the connection and becomes the wait for its next request.

use std::cell::{Cell, RefCell};
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use crate::base::limits::WATCH_AFTER_MS;
use crate::base::time::Moment;
use crate::uring::socket::Peek;
use crate::uring::wait::SleepUntil;

use super::conn::Conn;
use super::flight::NEVER;
use super::shard::{Shard, Slot};

/// What ended a wait.
#[derive(Debug)]
pub(super) enum Woke<T> {
    /// What was waited for.
    Done(T),
    /// The client has closed its side.
    Gone,
    /// The moment has come.
    Time,
    /// The shard is draining.
    Draining,
}

/// What else than its work and its client ends a wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Heed {
    /// Nothing.
    Nothing,
    /// That callers are to be looked at again.
    Turns,
    /// That, and that the shard drains.
    All,
}

/// Waits for `work`, at most until `until`, and where `heed` says so until callers are to be looked at again. Notices
/// that the client is gone from the first look of [`Waits`] on, once; and that the shard drains, where that is heeded.
pub(super) fn next<'a, F: Future>(
    shard: &'a Shard,
    conn: &'a mut Conn,
    work: Pin<&'a mut F>,
    until: Moment,
    watch_client: bool,
    heed: Heed,
) -> Next<'a, F> {
    // Once we have closed our ears, an end is no news of the client.
    let watch_client = watch_client && !conn.slot.socket.is_deaf();
    Next {
        work,
        beside: Beside { shard, conn, until, watch_client, heed, stage: Stage::Begins, turns: 0, alarm: None },
    }
}

/// See [`next`].
#[must_use = "futures do nothing unless awaited"]
pub(super) struct Next<'a, F> {
    work: Pin<&'a mut F>,
    beside: Beside<'a>,
}

impl<F: Future> Future for Next<'_, F> {
    type Output = Woke<F::Output>;

    #[inline]
    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.get_mut();
        if let Poll::Ready(done) = this.work.as_mut().poll(cx) {
            this.beside.conn.slot.begun.set(Begun::Not);
            return Poll::Ready(Woke::Done(done));
        }
        match this.beside.poll(cx) {
            Poll::Pending => Poll::Pending,
            Poll::Ready(Other::Gone) => Poll::Ready(Woke::Gone),
            Poll::Ready(Other::Time) => Poll::Ready(Woke::Time),
            Poll::Ready(Other::Draining) => Poll::Ready(Woke::Draining),
        }
    }
}

/// What ends a wait beside its work.
enum Other {
    Gone,
    Time,
    Draining,
}

/// How far a wait has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// Its work was looked at once.
    Begins,
    /// It is one of the many that are over before anybody looks at them.
    Young,
    /// It has an alarm, and its client is looked at.
    Old,
}

/// All that is waited for beside the work.
struct Beside<'a> {
    shard: &'a Shard,
    conn: &'a mut Conn,
    until: Moment,
    watch_client: bool,
    heed: Heed,
    stage: Stage,
    /// How often callers had been to be looked at when it began.
    turns: u64,
    alarm: Option<SleepUntil>,
}

impl Beside<'_> {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Other> {
        let slot = &self.conn.slot;
        if self.heed != Heed::Nothing {
            if self.heed == Heed::All && self.shard.draining() {
                return Poll::Ready(Other::Draining);
            }
            let turns = self.shard.feeds.turns();
            if self.stage != Stage::Begins && turns != self.turns {
                return Poll::Ready(Other::Time);
            }
            self.turns = turns;
        }
        slot.remember(cx.waker());
        if self.stage == Stage::Begins {
            // A time some steps old makes the first look early, no more.
            let soon = self.until != NEVER && self.until <= self.shard.timers.last().mono.plus_ms(WATCH_AFTER_MS);
            if soon || self.conn.watch.is_some() {
                self.age(false);
            } else {
                self.stage = Stage::Young;
                self.shard.waits.begin(slot);
            }
        } else if self.stage == Stage::Young && slot.begun.get() == Begun::Seen {
            self.age(true);
        }
        if self.stage == Stage::Young { Poll::Pending } else { self.look(cx) }
    }

    /// It takes its time: from here on it has an alarm of its own, and its client is looked at.
    #[cold]
    fn age(&mut self, look_at_client: bool) {
        self.stage = Stage::Old;
        self.alarm = (self.until != NEVER).then(|| self.shard.timers.sleep_until(self.until));
        let conn = &mut *self.conn;
        if look_at_client && self.watch_client && conn.watch.is_none() && !conn.gone && !conn.early {
            conn.watch = Some(Box::pin(conn.stream.readable()));
        }
    }

    fn look(&mut self, cx: &mut Context<'_>) -> Poll<Other> {
        if self.watch_client && !self.conn.gone && gone(self.conn, cx) {
            return Poll::Ready(Other::Gone);
        }
        match &mut self.alarm {
            Some(alarm) => Pin::new(alarm).poll(cx).map(|()| Other::Time),
            None => Poll::Pending,
        }
    }
}

/// What is known of a connection's wait by those who look at all of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Begun {
    /// It does not wait, or it was seen and looks after itself.
    Not,
    /// It began after so many looks.
    After(u64),
    /// It was there for at least as long as there is between two looks.
    Seen,
}

/// The waits of a shard that have begun a moment ago. Most are over before the next look at them, and have cost no alarm.
#[derive(Default)]
pub(super) struct Waits {
    /// Each connection once.
    young: RefCell<Vec<Rc<Slot>>>,
    looks: Cell<u64>,
    /// Whoever looks, while there is nothing to look at.
    idle: RefCell<Option<Waker>>,
}

impl Waits {
    /// A connection's task, which its slot knows how to wake, begins to wait.
    #[inline]
    fn begin(&self, slot: &Rc<Slot>) {
        slot.begun.set(Begun::After(self.looks.get()));
        if !slot.listed.replace(true) {
            self.list(slot);
        }
    }

    #[cold]
    fn list(&self, slot: &Rc<Slot>) {
        self.young.borrow_mut().push(slot.clone());
        if let Some(waker) = self.idle.take() {
            waker.wake();
        }
    }

    /// Looks at what waits, every `limits::WATCH_AFTER_MS` for as long as there is something; never ends.
    pub(super) async fn keep(&self, shard: &Shard) {
        loop {
            std::future::poll_fn(|cx| {
                if self.young.borrow().is_empty() {
                    self.idle.replace(Some(cx.waker().clone()));
                    return Poll::Pending;
                }
                Poll::Ready(())
            })
            .await;
            shard.timers.sleep_until(shard.timers.now().mono.plus_ms(WATCH_AFTER_MS)).await;
            self.look();
        }
    }

    /// Wakes those that were there at the look before this one, and forgets those that do not wait.
    fn look(&self) {
        let looks = self.looks.get() + 1;
        self.looks.set(looks);
        self.young.borrow_mut().retain(|slot| {
            let stays = match slot.begun.get() {
                Begun::After(before) => before + 1 >= looks,
                Begun::Not | Begun::Seen => false,
            };
            if !stays {
                slot.listed.set(false);
                if slot.begun.get() != Begun::Not {
                    slot.begun.set(Begun::Seen);
                    // Waking runs nothing of its task here.
                    slot.waker.borrow().iter().for_each(Waker::wake_by_ref);
                }
            }
            stays
        });
    }
}

/// Looks at the stored wait. Bytes are the next request, early: they end the watching, not the client.
fn gone(conn: &mut Conn, cx: &mut Context<'_>) -> bool {
    while let Some(watch) = conn.watch.as_mut() {
        if watch.as_mut().poll(cx).is_pending() {
            return false;
        }
        conn.watch = match conn.stream.peek_state() {
            // TLS had something to say to itself (RFC 8446, 4.6): nothing has changed.
            Peek::Quiet if conn.stream.is_tls() => Some(Box::pin(conn.stream.readable())),
            state => {
                conn.gone = state == Peek::Closed;
                conn.early = !conn.gone;
                None
            }
        };
    }
    conn.gone
}
