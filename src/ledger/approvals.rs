//! Approvals as all shards share them: one book behind a lock. What changes in it is written down before anybody relies
//! on it, by whoever the plane has put here, and never while the lock is held.

use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};

use ring::rand::{SecureRandom as _, SystemRandom};

use crate::base::time::Now;
use crate::identity::caller::Owner;
use crate::policy::approval::{
    About, ApprovalId, ApprovalKey, Book, Change, Decision, Granted, Shown, Stand, Terms, Undecided,
};
use crate::policy::rule::AskWhom;

/// Writes changes down, so that they outlive the process.
pub trait Keep: Send + Sync {
    /// Whether it is written: what is not must not happen. One write to a file, for what a person was asked: it takes
    /// microseconds, and happens as often as people decide.
    fn keep(&self, change: &Change) -> bool;
}

/// All approvals.
#[derive(Default)]
pub struct Approvals {
    book: Mutex<Book>,
    keeper: OnceLock<Box<dyn Keep>>,
    random: OnceLock<SystemRandom>,
}

impl std::fmt::Debug for Approvals {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Approvals").field("book", &self.book).finish_non_exhaustive()
    }
}

impl Approvals {
    /// None, in memory alone until there is a keeper.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// From now on changes are written down here; once, at start.
    pub fn set_keeper(&self, keeper: Box<dyn Keep>) {
        // A second one would not know what the first has written.
        let _ = self.keeper.set(keeper);
    }

    /// Where a call stands that a rule has asked about; asks where nobody was asked yet, and uses up a yes.
    #[must_use]
    pub fn ask(&self, key: &ApprovalKey, principal: Owner, terms: Terms, about: &About<'_>, now: Now) -> Stand {
        let mut random = [0; 10];
        if self.random.get_or_init(SystemRandom::new).fill(&mut random).is_err() {
            return Stand::Unkept;
        }
        let (stand, change) = self.book().ask(ApprovalId::new(random), key, principal, terms, about, now);
        if change.is_none_or(|change| self.keep(&change)) {
            return stand;
        }
        match stand {
            Stand::Pending { id, .. } => self.book().withdraw(id),
            // Nobody has relied on it yet.
            Stand::Granted(granted) => self.book().give_back(&granted),
            _ => {}
        }
        Stand::Unkept
    }

    /// Nothing of the call was written to its server: the yes is good for another.
    pub fn give_back(&self, granted: &Granted) {
        let change = self.book().returning(granted);
        // Where that cannot be written down, it stays used.
        if change.is_some_and(|change| self.keep(&change)) {
            self.book().give_back(granted);
        }
    }

    /// Somebody has decided: `via` says as whom.
    ///
    /// # Errors
    /// `Undecided`; nothing has changed then.
    pub fn decide(&self, id: ApprovalId, decision: Decision, via: AskWhom, now: Now) -> Result<Shown, Undecided> {
        let change = self.book().deciding(id, &decision, via, now)?;
        if !self.keep(&change) {
            return Err(Undecided::Unkept);
        }
        self.book().decide(id, decision, via, now)
    }

    /// All there are, those asked first first.
    #[must_use]
    pub fn list(&self, now: Now) -> Vec<Shown> {
        let mut all = self.book().list(now);
        all.sort_by_key(|shown| (shown.asked_unix_ms, shown.id));
        all
    }

    /// The one of this id.
    #[must_use]
    pub fn show(&self, id: ApprovalId, now: Now) -> Option<Shown> {
        self.book().show(id, now)
    }

    /// How many wait for somebody.
    #[must_use]
    pub fn waiting(&self) -> usize {
        self.book().waiting()
    }

    /// Drops what has expired.
    pub fn sweep(&self, now: Now) {
        self.book().sweep(now);
    }

    /// All there is, as the changes that make it. What is kept while this is written down must be written behind it.
    #[must_use]
    pub fn picture(&self) -> Vec<Change> {
        self.book().picture()
    }

    /// Makes a change again that was written down.
    pub fn replay(&self, change: Change, now: Now) {
        self.book().replay(change, now);
    }

    fn keep(&self, change: &Change) -> bool {
        self.keeper.get().is_none_or(|keeper| keeper.keep(change))
    }

    fn book(&self) -> MutexGuard<'_, Book> {
        self.book.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
