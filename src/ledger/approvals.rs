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
    /// Writes it: `None` where that cannot be, and then it must not happen. One write to a file, for what a person was
    /// asked: it takes microseconds, and happens as often as people decide. Else the generation it was written in.
    fn keep(&self, change: &Change) -> Option<u64>;

    /// Counts up when the whole begins to be written anew, and when it is. What was written in one and done in another
    /// has to be written once more: the whole may have been taken in between.
    fn generation(&self) -> u64;
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
        if change.is_none_or(|change| self.keep(&change).is_some()) {
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
        let Some((change, generation)) = change.and_then(|change| self.keep(&change).map(|it| (change, it))) else {
            return;
        };
        self.book().give_back(granted);
        self.keep_again(&change, generation);
    }

    /// Somebody has decided: `via` says as whom.
    ///
    /// # Errors
    /// `Undecided`; nothing has changed then.
    pub fn decide(&self, id: ApprovalId, decision: Decision, via: AskWhom, now: Now) -> Result<Shown, Undecided> {
        let change = self.book().deciding(id, &decision, via, now)?;
        let generation = self.keep(&change).ok_or(Undecided::Unkept)?;
        let decided = self.book().decide(id, decision, via, now)?;
        self.keep_again(&change, generation);
        Ok(decided)
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

    fn keep(&self, change: &Change) -> Option<u64> {
        self.keeper.get().map_or(Some(0), |keeper| keeper.keep(change))
    }

    /// What was written and then done, once more where the whole may have been written without it.
    fn keep_again(&self, change: &Change, generation: u64) {
        let keeper = self.keeper.get().filter(|keeper| keeper.generation() != generation);
        keeper.map(|keeper| keeper.keep(change));
    }

    fn book(&self) -> MutexGuard<'_, Book> {
        self.book.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};

    use super::*;
    use crate::base::time::Moment;
    use crate::identity::active::{ActiveTask, TaskNames};
    use crate::policy::approval::{Asked, State};

    /// Keeps all there is, while it can.
    #[derive(Default)]
    struct Paper {
        lines: Mutex<Vec<Change>>,
        full: AtomicBool,
        generation: AtomicU64,
    }

    impl Keep for Arc<Paper> {
        fn keep(&self, change: &Change) -> Option<u64> {
            if self.full.load(Ordering::SeqCst) {
                return None;
            }
            self.lines.lock().unwrap().push(change.clone());
            Some(self.generation.load(Ordering::SeqCst))
        }

        fn generation(&self) -> u64 {
            self.generation.load(Ordering::SeqCst)
        }
    }

    fn kept() -> (Approvals, Arc<Paper>) {
        let (approvals, paper) = (Approvals::new(), Arc::new(Paper::default()));
        approvals.set_keeper(Box::new(paper.clone()));
        (approvals, paper)
    }

    fn now() -> Now {
        Now { mono: Moment(1), unix_ms: 1 }
    }

    fn ask(approvals: &Approvals) -> Stand {
        let tasks = TaskNames::default();
        let asked = Asked {
            principal: Owner([1; 16]),
            task: ActiveTask::None,
            tasks: &tasks,
            server: "s",
            method: "tools/call",
            name: "t",
            definition: None,
            whom: AskWhom::Person,
        };
        let key = ApprovalKey::of(&asked, |_| {});
        let terms = Terms { expires_ms: 1_000, whom: AskWhom::Person };
        approvals.ask(&key, asked.principal, terms, &About::default(), now())
    }

    fn decide(approvals: &Approvals, id: ApprovalId) -> Result<Shown, Undecided> {
        let decision = Decision { yes: true, by: "anna".into(), note: None, at_unix_ms: 1 };
        approvals.decide(id, decision, AskWhom::Person, now())
    }

    #[test]
    fn a_yes_is_for_one_of_many_hands() {
        for _ in 0..50 {
            let (approvals, paper) = kept();
            let Stand::Pending { id, new: true, .. } = ask(&approvals) else { panic!("nobody was asked before") };
            decide(&approvals, id).unwrap();
            let granted = AtomicUsize::new(0);
            std::thread::scope(|scope| {
                for _ in 0..2 {
                    scope.spawn(|| {
                        if let Stand::Granted(_) = ask(&approvals) {
                            granted.fetch_add(1, Ordering::SeqCst);
                        }
                    });
                }
            });
            assert_eq!(granted.load(Ordering::SeqCst), 1);
            // And after a crash it is none.
            let again = Approvals::new();
            paper.lines.lock().unwrap().iter().for_each(|change| again.replay(change.clone(), now()));
            assert_eq!(again.show(id, now()).unwrap().state, State::Used);
            assert!(!matches!(ask(&again), Stand::Granted(_)));
        }
    }

    #[test]
    fn what_cannot_be_written_does_not_happen() {
        let (approvals, paper) = kept();
        paper.full.store(true, Ordering::SeqCst);
        assert!(matches!(ask(&approvals), Stand::Unkept));
        assert_eq!(approvals.waiting(), 0);
        paper.full.store(false, Ordering::SeqCst);
        let Stand::Pending { id, new: true, .. } = ask(&approvals) else { panic!("there is room again") };
        paper.full.store(true, Ordering::SeqCst);
        assert_eq!(decide(&approvals, id).unwrap_err(), Undecided::Unkept);
        assert_eq!(approvals.show(id, now()).unwrap().state, State::Waiting);
        paper.full.store(false, Ordering::SeqCst);
        decide(&approvals, id).unwrap();
        paper.full.store(true, Ordering::SeqCst);
        assert!(matches!(ask(&approvals), Stand::Unkept), "a call whose yes could be used twice does not go");
        paper.full.store(false, Ordering::SeqCst);
        let Stand::Granted(granted) = ask(&approvals) else { panic!("it is still good") };
        paper.full.store(true, Ordering::SeqCst);
        approvals.give_back(&granted);
        assert_eq!(approvals.show(id, now()).unwrap().state, State::Used, "that cannot be written either");
    }

    /// A keeper that begins anew, with a picture of the whole, between the writing of a change and the change.
    struct Anew {
        approvals: Mutex<Option<Arc<Approvals>>>,
        lines: Arc<Mutex<Vec<Change>>>,
        generation: AtomicU64,
    }

    impl Keep for Anew {
        fn keep(&self, change: &Change) -> Option<u64> {
            let before = self.generation();
            self.lines.lock().unwrap().push(change.clone());
            if let Some(approvals) = self.approvals.lock().unwrap().take() {
                *self.lines.lock().unwrap() = approvals.picture();
                self.generation.fetch_add(2, Ordering::SeqCst);
            }
            Some(before)
        }

        fn generation(&self) -> u64 {
            self.generation.load(Ordering::SeqCst)
        }
    }

    #[test]
    fn a_decision_is_in_the_file_that_is_begun_meanwhile() {
        let approvals = Arc::new(Approvals::new());
        let Stand::Pending { id, .. } = ask(&approvals) else { panic!("nobody was asked before") };
        let lines = Arc::new(Mutex::default());
        let keeper = Anew {
            approvals: Mutex::new(Some(approvals.clone())),
            lines: lines.clone(),
            generation: AtomicU64::new(0),
        };
        approvals.set_keeper(Box::new(keeper));
        decide(&approvals, id).unwrap();
        let again = Approvals::new();
        lines.lock().unwrap().iter().for_each(|change| again.replay(change.clone(), now()));
        assert_eq!(again.show(id, now()).unwrap().state, State::Approved);
    }
}
