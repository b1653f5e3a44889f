//! What a call may have to wait for because only the plane can fetch it: the plane is asked once for all shards, and the
//! call looks again each time it has brought something.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::future::{Future as _, poll_fn};
use std::pin::pin;
use std::sync::Arc;
use std::task::{Poll, Waker};

use crate::base::limits::{ERRAND_WAITERS_MAX, ERRAND_WAITERS_OF_ONE_MAX, STRANGERS_WAITING_MAX};
use crate::base::secret::Secret;
use crate::base::slab::{Key, Slab};
use crate::base::time::Moment;
use crate::config::{Grant, GrantMark};
use crate::identity::caller::{Caller, Owner};
use crate::identity::liveness::Liveness;
use crate::ledger::errands::Look;

use super::shard::Shard;

/// A token that the plane is to fetch for a server.
#[derive(Debug)]
pub struct TokenErrand {
    /// How, and from where.
    pub grant: Arc<Grant>,
    /// The server it is for, by its digest.
    pub server: u64,
    /// For whom, where it is in exchange for a caller's own (RFC 8693); `None` for the gateway's (RFC 6749, 4.4).
    pub on_behalf: Option<OnBehalf>,
}

/// A caller, and the token that it came with.
#[derive(Debug)]
pub struct OnBehalf {
    /// As it stood behind `Bearer`.
    pub token: Secret,
    /// Whose it is.
    pub caller: Arc<Caller>,
}

/// A token for a server.
#[derive(Debug)]
pub struct Issued {
    /// The value of `authorization`: `Bearer …`.
    pub value: Secret,
    /// When it ends, seconds since 1970; `None` where its issuer did not say.
    pub expires_unix_s: Option<u64>,
    /// When it came.
    pub fetched: Moment,
    /// Until then whoever holds it need not look again. Afterwards a look may find a newer one, or has one fetched.
    pub fresh: Moment,
    /// From then on it is not to be shown any more.
    pub until: Moment,
    /// Who it is for, where it is for one caller: what is revoked drops it.
    pub caller: Option<Arc<Caller>>,
    /// See [`TokenErrand::server`].
    pub server: u64,
    /// The grant that it was had by: a reload that changes that drops it.
    pub grant: GrantMark,
}

/// An opaque token that its issuer is to judge.
#[derive(Debug)]
pub struct Inquiry {
    /// The issuer.
    pub issuer: Arc<str>,
    /// The token.
    pub token: Secret,
}

/// What an issuer said of a token.
#[derive(Debug)]
pub enum Judged {
    /// It is active: the claims (a JSON object, each member once), and whether it still is.
    Active {
        /// As the issuer wrote them.
        claims: Arc<[u8]>,
        /// Looked at by whoever was let in.
        liveness: Arc<Liveness>,
    },
    /// It is not.
    Inactive,
}

/// Those on a shard that wait for the plane.
#[derive(Debug, Default)]
pub(super) struct Waiting {
    wakers: RefCell<Slab<Option<Waker>>>,
    /// Those that wait for a look at an issuer's keys.
    for_keys: Cell<usize>,
    /// Of those that wait, the callers of whom it is not known yet who they are.
    strangers: Cell<usize>,
    /// Of the others, how many each owner has.
    owners: RefCell<HashMap<Owner, usize>>,
}

/// One of those strangers: they leave room for others.
#[derive(Debug)]
pub(super) struct Stranger<'a>(&'a Cell<usize>);

impl<'a> Stranger<'a> {
    fn among(count: &'a Cell<usize>) -> Option<Self> {
        let strangers = count.get();
        (strangers < STRANGERS_WAITING_MAX).then(|| {
            count.set(strangers + 1);
            Self(count)
        })
    }
}

impl Drop for Stranger<'_> {
    fn drop(&mut self) {
        self.0.set(self.0.get() - 1);
    }
}

impl Waiting {
    /// The plane has brought something.
    pub(super) fn ring(&self) {
        // Taken out first: who is woken may wait again at once.
        let mut due: Vec<Waker> = Vec::new();
        self.wakers.borrow_mut().values_mut().for_each(|waker| due.extend(waker.take()));
        due.into_iter().for_each(Waker::wake);
    }

    /// A caller of whom it is not known yet who it is may wait, as long as it holds this; `None` when as many do as may
    /// (`limits::STRANGERS_WAITING_MAX`).
    pub(super) fn stranger(&self) -> Option<Stranger<'_>> {
        Stranger::among(&self.strangers)
    }

    /// The same for one whose token names a key that is not known: these have room of their own.
    pub(super) fn stranger_for_key(&self) -> Option<Stranger<'_>> {
        Stranger::among(&self.for_keys)
    }

    /// A place to wait at, for a call of this owner where that is known; `None` when `limits::ERRAND_WAITERS_MAX` are
    /// taken, or `limits::ERRAND_WAITERS_OF_ONE_MAX` by this one: nobody takes them all.
    pub(super) fn seat(&self, owner: Option<&Owner>) -> Option<Seat<'_>> {
        let mut wakers = self.wakers.borrow_mut();
        if wakers.len() >= ERRAND_WAITERS_MAX {
            return None;
        }
        if let Some(owner) = owner {
            let mut owners = self.owners.borrow_mut();
            let taken = owners.get(owner).copied().unwrap_or(0);
            if taken >= ERRAND_WAITERS_OF_ONE_MAX {
                return None;
            }
            owners.insert(*owner, taken + 1);
        }
        Some(Seat { waiting: self, key: wakers.insert(None), owner: owner.copied() })
    }
}

/// One that waits: however often it is polled, one waker. Left when it is let go of.
pub(super) struct Seat<'a> {
    waiting: &'a Waiting,
    key: Key,
    /// Whose it is.
    owner: Option<Owner>,
}

impl Seat<'_> {
    /// The plane has brought nothing yet that it waits for: it is woken by this when it has.
    pub(super) fn wake_by(&self, waker: &Waker) {
        if let Some(place) = self.waiting.wakers.borrow_mut().get_mut(self.key)
            && !place.as_ref().is_some_and(|known| known.will_wake(waker))
        {
            *place = Some(waker.clone());
        }
    }
}

impl Drop for Seat<'_> {
    fn drop(&mut self) {
        let _ = self.waiting.wakers.borrow_mut().remove(self.key);
        let Some(owner) = self.owner else { return };
        let mut owners = self.waiting.owners.borrow_mut();
        if let Some(taken) = owners.get_mut(&owner) {
            *taken -= 1;
            if *taken == 0 {
                owners.remove(&owner);
            }
        }
    }
}

/// Looks until it is there, could not be had, or it is `until`: then [`Look::Wait`]. [`Look::Full`] also where too many
/// of this shard wait already, or too many of this owner (`None` where that is not known).
pub(super) async fn brought<A>(
    shard: &Shard,
    owner: Option<&Owner>,
    until: Moment,
    mut look: impl FnMut() -> Look<A>,
) -> Look<A> {
    let first = look();
    if !matches!(first, Look::Wait) {
        return first;
    }
    let Some(seat) = shard.waiting.seat(owner) else { return Look::Full };
    let mut alarm = pin!(shard.timers.sleep_until(until));
    poll_fn(|cx| {
        let found = look();
        if !matches!(found, Look::Wait) || alarm.as_mut().poll(cx).is_ready() {
            return Poll::Ready(found);
        }
        seat.wake_by(cx.waker());
        Poll::Pending
    })
    .await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_waker_each_and_a_bound() {
        let waiting = Waiting::default();
        let seats: Vec<Seat<'_>> = (0..ERRAND_WAITERS_MAX).filter_map(|_| waiting.seat(None)).collect();
        assert!(seats.len() == ERRAND_WAITERS_MAX && waiting.seat(None).is_none());
        for _ in 0..1_000 {
            seats[0].wake_by(Waker::noop());
        }
        assert_eq!(waiting.wakers.borrow().len(), ERRAND_WAITERS_MAX);
        waiting.ring();
        drop(seats);
        assert_eq!(waiting.wakers.borrow().len(), 0);
        assert!(waiting.seat(None).is_some());
    }

    #[test]
    fn one_owner_leaves_room_for_others() {
        let waiting = Waiting::default();
        let (one, other) = (Owner::of("i", "a", None), Owner::of("i", "b", None));
        let seats: Vec<Seat<'_>> = (0..ERRAND_WAITERS_MAX).filter_map(|_| waiting.seat(Some(&one))).collect();
        assert_eq!(seats.len(), ERRAND_WAITERS_OF_ONE_MAX);
        assert!(waiting.seat(Some(&other)).is_some() && waiting.seat(None).is_some());
        drop(seats);
        assert!(waiting.seat(Some(&one)).is_some());
        assert!(waiting.owners.borrow().is_empty());
    }

    #[test]
    fn strangers_leave_room_for_others() {
        let waiting = Waiting::default();
        let strangers: Vec<Stranger<'_>> = (0..STRANGERS_WAITING_MAX).filter_map(|_| waiting.stranger()).collect();
        assert!(strangers.len() == STRANGERS_WAITING_MAX && waiting.stranger().is_none());
        assert!(waiting.stranger_for_key().is_some(), "nor do they keep each other out");
        drop(strangers);
        assert!(waiting.stranger().is_some());
    }
}
