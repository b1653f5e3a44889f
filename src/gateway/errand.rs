//! What a call may have to wait for because only the plane can fetch it: the plane is asked once for all shards, and the
//! call looks again each time it has brought something.

use std::cell::{Cell, RefCell};
use std::future::{Future as _, poll_fn};
use std::pin::pin;
use std::sync::Arc;
use std::task::{Poll, Waker};

use crate::base::limits::CALLERS_WAITING_MAX;
use crate::base::secret::Secret;
use crate::base::time::Moment;
use crate::config::Grant;
use crate::identity::caller::Caller;
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
    /// The caller's own token, where that is what is given for it (RFC 8693, 2.1).
    pub subject: Option<Secret>,
    /// Who it is for, where it is for one caller: what is revoked drops it.
    pub caller: Option<Arc<Caller>>,
}

/// A token for a server.
#[derive(Debug)]
pub struct Issued {
    /// The value of `authorization`: `Bearer …`.
    pub value: Secret,
    /// When it ends, seconds since 1970; `None` where its issuer did not say.
    pub expires_unix_s: Option<u64>,
    /// See [`TokenErrand::caller`].
    pub caller: Option<Arc<Caller>>,
    /// See [`TokenErrand::server`].
    pub server: u64,
}

/// An opaque token that its issuer is to judge.
#[derive(Debug)]
pub struct Inquiry {
    /// The issuer, by its index in the settings of this epoch.
    pub issuer: usize,
    /// See `issuer`.
    pub auth_epoch: u64,
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
    /// How often the plane has rung.
    turn: Cell<u64>,
    wakers: RefCell<Vec<Waker>>,
    /// Callers among them that it is not known yet who they are.
    callers: Cell<usize>,
}

/// A place among those that wait until it is known who they are.
#[derive(Debug)]
pub(super) struct Seat<'a>(&'a Waiting);

impl Drop for Seat<'_> {
    fn drop(&mut self) {
        self.0.callers.set(self.0.callers.get() - 1);
    }
}

impl Waiting {
    /// A place for a caller that is not known yet; `None` where as many wait as may.
    pub(super) fn seat(&self) -> Option<Seat<'_>> {
        let callers = self.callers.get();
        (callers < CALLERS_WAITING_MAX).then(|| {
            self.callers.set(callers + 1);
            Seat(self)
        })
    }

    /// The plane has brought something.
    pub(super) fn ring(&self) {
        self.turn.set(self.turn.get() + 1);
        // Taken out first: who is woken may wait again at once.
        let wakers = self.wakers.take();
        wakers.into_iter().for_each(Waker::wake);
    }
}

/// Looks until it is there, could not be had, or it is `until`: then [`Look::Wait`].
pub(super) async fn brought<A>(shard: &Shard, until: Moment, mut look: impl FnMut() -> Look<A>) -> Look<A> {
    let mut alarm = pin!(shard.timers.sleep_until(until));
    poll_fn(|cx| {
        let found = look();
        if !matches!(found, Look::Wait) || alarm.as_mut().poll(cx).is_ready() {
            return Poll::Ready(found);
        }
        shard.waiting.wakers.borrow_mut().push(cx.waker().clone());
        Poll::Pending
    })
    .await
}
