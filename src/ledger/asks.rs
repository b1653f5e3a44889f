//! What servers have asked of clients: requests that were given on under an id of the gateway's own, until the client
//! answers. Any shard may have given one on, and any may get its answer.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

use hashbrown::HashMap;

use crate::base::limits::{ASKS_MAX, LEDGER_STRIPES, SESSION_ASKS_MAX};
use crate::base::time::Moment;
use crate::mcp::input;

/// Requests of servers without an answer, by session and minted id.
#[derive(Debug)]
pub struct Asks {
    stripes: Box<[Mutex<Sessions>]>,
    len: AtomicUsize,
}

/// One request of a server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ask {
    /// Hash of the server's name.
    pub server: u64,
    /// In which of its sessions it asked: an answer means nothing to another.
    pub epoch: u32,
    /// The server's own id, as it wrote it.
    pub id: Box<[u8]>,
    /// What it asks for; `None` for what needs no leave (`ping`).
    pub kind: Option<input::Ask>,
    /// An answer after this is late.
    pub until: Moment,
}

/// By the session's random bits; those are unguessable, so their own bits hash well.
type Sessions = HashMap<[u8; 16], Vec<(u64, Ask)>, foldhash::fast::RandomState>;

impl Default for Asks {
    fn default() -> Self {
        Self::new()
    }
}

impl Asks {
    /// None.
    #[must_use]
    pub fn new() -> Self {
        Self { stripes: (0..LEDGER_STRIPES).map(|_| Mutex::default()).collect(), len: AtomicUsize::new(0) }
    }

    /// How many wait for an answer.
    #[must_use]
    pub fn len(&self) -> usize {
        self.len.load(Ordering::Relaxed)
    }

    /// Whether none does.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Remembers one that is about to be given on under a minted id. False when this session, or all together, have too
    /// many: then it must be refused.
    #[must_use]
    pub fn put(&self, nonce: [u8; 16], minted: u64, ask: Ask) -> bool {
        if self.len() >= ASKS_MAX {
            return false;
        }
        self.with(&nonce, |sessions| {
            let asks = sessions.entry(nonce).or_default();
            let fits = asks.len() < SESSION_ASKS_MAX;
            if fits {
                asks.push((minted, ask));
            }
            fits
        })
    }

    /// The client has answered: what it answers, once.
    #[must_use]
    pub fn take(&self, nonce: [u8; 16], minted: u64, now: Moment) -> Option<Ask> {
        let ask = self.pull(nonce, |id, _| id == minted);
        ask.map(|(_, ask)| ask).filter(|ask| ask.until >= now)
    }

    /// The server no longer wants an answer to what it asked under this id of its own: the minted one.
    #[must_use]
    pub fn withdraw(&self, nonce: [u8; 16], server: u64, id: &[u8]) -> Option<u64> {
        self.pull(nonce, |_, ask| ask.server == server && *ask.id == *id).map(|(minted, _)| minted)
    }

    /// The session is over.
    pub fn forget(&self, nonce: [u8; 16]) {
        self.with(&nonce, |sessions| sessions.remove(&nonce));
    }

    /// Drops those whose time is over; each call looks at one stripe more, the first at the first.
    pub fn sweep(&self, now: Moment) {
        for stripe in &self.stripes {
            self.within(stripe, |sessions| {
                sessions.retain(|_, asks| {
                    asks.retain(|(_, ask)| ask.until >= now);
                    !asks.is_empty()
                });
            });
        }
    }

    fn pull(&self, nonce: [u8; 16], which: impl Fn(u64, &Ask) -> bool) -> Option<(u64, Ask)> {
        self.with(&nonce, |sessions| {
            let asks = sessions.get_mut(&nonce)?;
            // The newest first: a server that has used an id again means that one.
            let found = asks.iter().rposition(|(minted, ask)| which(*minted, ask)).map(|at| asks.remove(at));
            if asks.is_empty() {
                sessions.remove(&nonce);
            }
            found
        })
    }

    fn with<T>(&self, nonce: &[u8; 16], work: impl FnOnce(&mut Sessions) -> T) -> T {
        self.within(&self.stripes[usize::from(nonce[0]) % LEDGER_STRIPES], work)
    }

    fn within<T>(&self, stripe: &Mutex<Sessions>, work: impl FnOnce(&mut Sessions) -> T) -> T {
        let mut sessions = stripe.lock().unwrap_or_else(PoisonError::into_inner);
        let count = |sessions: &Sessions| sessions.values().map(Vec::len).sum::<usize>();
        let before = count(&sessions);
        let result = work(&mut sessions);
        self.len.fetch_add(count(&sessions).wrapping_sub(before), Ordering::Relaxed);
        result
    }
}
