//! Looks at servers' lists in callers' names, where servers know their callers: what one of them is shown, for as long
//! as the server says that it holds. A server that does not answer holds up its own callers alone: so many looks at once
//! for one server, and none for a while where nobody's came to anything, twice as long each time.

use std::collections::{HashMap, VecDeque};
use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::base::limits::{
    ERRAND_TAKE_MS, KEEPER_STACK_BYTES, VIEW_FAILED_MS, VIEW_FAILED_MS_MAX, VIEW_KEPT_MS, VIEW_PUBLISHED_MS_MAX,
    VIEW_THREADS, VIEW_WAIT_MS_MAX, VIEWS_AT_ONCE_MAX, VIEWS_WAITING_MAX,
};
use crate::base::time::Moment;
use crate::gateway::control::{Control, Life};
use crate::gateway::mail::Letter;
use crate::gateway::view::{Age, REFUSED, View, ViewErrand};
use crate::identity::caller::Owner;
use crate::ledger::errands::{ErrandKey, Outcome};
use crate::upstream::state::ServerState;
use crate::uring::wait::clock;

use super::PlaneFault;
use super::keeper::{self, News, Unseen};
use super::looks::Looked;

/// Starts to look.
///
/// # Errors
/// `PlaneFault::System` when there is no thread for it.
pub(super) fn start(control: &Arc<Control>, news: &Sender<News>) -> Result<(), PlaneFault> {
    let looks = Arc::new(Looks { control: control.clone(), news: news.clone(), desk: Mutex::default() });
    let fault = |error| PlaneFault::System { what: "a thread", error };
    std::thread::Builder::new().name("plane-views".into()).spawn(move || looks.run()).map_err(fault).map(drop)
}

struct Looks {
    control: Arc<Control>,
    news: Sender<News>,
    desk: Mutex<Desk>,
}

/// Who is looked for, and where.
#[derive(Default)]
struct Desk {
    /// By where the server's state is.
    lanes: HashMap<usize, Lane>,
    waiting: usize,
    threads: usize,
}

#[derive(Default)]
struct Lane {
    under_way: usize,
    waiting: VecDeque<Task>,
    /// Held, so that no other one is at its place.
    state: Option<Arc<ServerState>>,
    /// For whom it did not answer, and when, since it did answer anybody: one may be alone with that.
    failed_for: Option<(Owner, Moment)>,
    /// It did not answer another either.
    trouble: Option<Trouble>,
}

#[derive(Clone, Copy)]
struct Trouble {
    retry_ms: u64,
    until: Moment,
}

struct Task {
    key: ErrandKey,
    errand: ViewErrand,
}

impl Looks {
    fn run(self: &Arc<Self>) {
        while self.control.life() == Life::Run {
            if let Some((key, errand)) = self.control.views.take(Duration::from_millis(ERRAND_TAKE_MS)) {
                self.receive(Task { key, errand });
            }
            self.hand_out();
        }
    }

    fn receive(&self, task: Task) {
        let now = clock().mono;
        let key = task.key;
        let refused = self.desk().put(task, now);
        if let Some((word, until)) = refused {
            self.settle(&key, word, until);
        }
    }

    /// A thread for each look that may have one.
    fn hand_out(self: &Arc<Self>) {
        loop {
            let now = clock().mono;
            let Some(task) = self.desk().next(now) else { return };
            let (looks, key, place) = (self.clone(), task.key, task.place());
            let thread = std::thread::Builder::new().name("plane-view".into()).stack_size(KEEPER_STACK_BYTES);
            if thread.spawn(move || looks.work(&task)).is_err() {
                let now = clock().mono;
                self.desk().leave(place, now);
                return self.settle(&key, BUSY, now.plus_ms(VIEW_FAILED_MS));
            }
        }
    }

    fn work(self: &Arc<Self>, task: &Task) {
        let now = clock().mono;
        if now.since(task.errand.asked) > Duration::from_millis(VIEW_WAIT_MS_MAX) {
            // Nobody waits for it any more.
            self.settle(&task.key, BUSY, now);
        } else {
            self.look(task);
        }
        self.desk().leave(task.place(), clock().mono);
        self.hand_out();
    }

    fn look(&self, task: &Task) {
        let (errand, looked) = (&task.errand, clock().mono);
        let snapshot = self.control.snapshot.load_full();
        let server = snapshot.server_by_digest(errand.state.digest);
        let ours = |state: &Arc<_>| Arc::ptr_eq(state, &errand.state) && !errand.state.is_over();
        let server = server.filter(|server| snapshot.states.get(server.index()).is_some_and(ours));
        // What is due at one server is not shown to another that has its name now.
        let Some(server) = server else { return self.settle(&task.key, GONE, looked.plus_ms(VIEW_FAILED_MS)) };
        let settings = &snapshot.settings.servers[server.index()];
        let announced = errand.state.poke.announced();
        match keeper::survey_as(settings, &errand.state, &self.control, &self.news, errand.shown.clone()) {
            Ok((mut catalog, patience)) => {
                self.desk().answered(task.place());
                let now = clock().mono;
                let ms = u64::try_from(patience.as_millis()).unwrap_or(u64::MAX);
                catalog.mark(true);
                let Some(set) = self.control.sets.keep(&catalog) else {
                    return self.settle(&task.key, FULL, now.plus_ms(VIEW_FAILED_MS));
                };
                let age = Age { looked, announced, until: now.plus_ms(ms) };
                let view = Arc::new(View::new(set.clone(), age, &errand.state));
                let held = Looked { who: task.key, set, announced, until: age.until };
                let (tell, told) = channel();
                // Decided by the next snapshot: who asked is told when that is out.
                if self.news.send(News::View(errand.state.clone(), Box::new(catalog), held, tell)).is_ok() {
                    let _ = told.recv_timeout(Duration::from_millis(VIEW_PUBLISHED_MS_MAX));
                }
                if errand.state.is_over() {
                    // Its settings are others now, and what is asked for is another look.
                    self.control.views.forget(&task.key);
                    self.control.mail.send(&Letter::Brought);
                    return;
                }
                let (until, stale) = (now.plus_ms(ms.saturating_add(VIEW_KEPT_MS)), now.plus_ms(ms - ms / 5));
                self.control.views.done(&task.key, Outcome::Brought(view), until, stale);
                self.control.mail.send(&Letter::Brought);
            }
            Err(why) => self.missed(task, why),
        }
    }

    fn missed(&self, task: &Task, why: Unseen) {
        let now = clock().mono;
        let soon = now.plus_ms(VIEW_FAILED_MS);
        match why {
            Unseen::Gone => self.settle(&task.key, GONE, soon),
            Unseen::Refused => {
                self.desk().answered(task.place());
                self.settle(&task.key, REFUSED, soon);
            }
            Unseen::Failed => {
                let (until, left) = self.desk().failed(task, now);
                for key in left.iter().chain([&task.key]) {
                    self.settle(key, UNREACHABLE, until);
                }
            }
        }
    }

    fn settle(&self, key: &ErrandKey, word: &'static str, until: Moment) {
        self.control.views.done(key, Outcome::Failed(word), until, until);
        self.control.mail.send(&Letter::Brought);
    }

    fn desk(&self) -> MutexGuard<'_, Desk> {
        self.desk.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Task {
    /// The lane it is in.
    fn place(&self) -> usize {
        Arc::as_ptr(&self.errand.state).addr()
    }
}

impl Desk {
    /// In line; or why not, and until when.
    fn put(&mut self, task: Task, now: Moment) -> Option<(&'static str, Moment)> {
        let lane = self.lanes.entry(task.place()).or_default();
        if let Some(trouble) = lane.trouble.filter(|trouble| now < trouble.until) {
            return Some((UNREACHABLE, trouble.until));
        }
        if self.waiting >= VIEWS_WAITING_MAX {
            return Some((BUSY, now.plus_ms(VIEW_FAILED_MS)));
        }
        lane.state.get_or_insert_with(|| task.errand.state.clone());
        lane.waiting.push_back(task);
        self.waiting += 1;
        None
    }

    /// The next one that is due, of the lane that has least under way.
    fn next(&mut self, now: Moment) -> Option<Task> {
        if self.threads >= VIEW_THREADS {
            return None;
        }
        let due = |lane: &Lane| lane.waiting.iter().position(|task| task.errand.due <= now);
        let may = self.lanes.values_mut().filter(|lane| lane.under_way < lane.at_once());
        let may = may.filter_map(|lane| due(lane).map(|place| (lane, place)));
        let (lane, place) = may.min_by_key(|(lane, _)| lane.under_way)?;
        let task = lane.waiting.remove(place)?;
        lane.under_way += 1;
        self.waiting -= 1;
        self.threads += 1;
        Some(task)
    }

    /// One is worked on no more.
    fn leave(&mut self, place: usize, now: Moment) {
        self.threads -= 1;
        if let Some(lane) = self.lanes.get_mut(&place) {
            lane.under_way -= 1;
        }
        // A lane is a server that callers have asked for lately; of one that is gone nothing is left.
        let recent = |then: Moment| now.since(then) < Duration::from_millis(2 * VIEW_FAILED_MS_MAX);
        self.lanes.retain(|_, lane| {
            lane.failed_for = lane.failed_for.filter(|(_, when)| recent(*when));
            let failing = lane.failed_for.is_some() || lane.trouble.is_some_and(|trouble| recent(trouble.until));
            lane.under_way > 0 || !lane.waiting.is_empty() || failing
        });
    }

    /// The server lets somebody look, or says that it does not.
    fn answered(&mut self, place: usize) {
        if let Some(lane) = self.lanes.get_mut(&place) {
            (lane.trouble, lane.failed_for) = (None, None);
        }
    }

    /// It did not answer: until when it is left alone, and those that waited for it where it answers nobody.
    fn failed(&mut self, task: &Task, now: Moment) -> (Moment, Vec<ErrandKey>) {
        let soon = now.plus_ms(VIEW_FAILED_MS);
        let Some(lane) = self.lanes.get_mut(&task.place()) else { return (soon, Vec::new()) };
        let owner = task.errand.owner;
        if lane.trouble.is_none() && lane.failed_for.is_none_or(|(failed_for, _)| failed_for == owner) {
            lane.failed_for = Some((owner, now));
            return (soon, Vec::new());
        }
        // Those that were under way together fail together: that is one failure.
        let trouble = lane.trouble.filter(|trouble| now < trouble.until).unwrap_or_else(|| {
            let retry_ms = lane.trouble.map_or(VIEW_FAILED_MS, |before| before.retry_ms.saturating_mul(2));
            let retry_ms = retry_ms.min(VIEW_FAILED_MS_MAX);
            Trouble { retry_ms, until: now.plus_ms(retry_ms) }
        });
        lane.trouble = Some(trouble);
        let left: Vec<ErrandKey> = lane.waiting.drain(..).map(|task| task.key).collect();
        self.waiting -= left.len();
        (trouble.until, left)
    }
}

impl Lane {
    /// One alone, to see, where nobody was answered.
    fn at_once(&self) -> usize {
        if self.trouble.is_some() { 1 } else { VIEWS_AT_ONCE_MAX }
    }
}

/// As many wait as may, or it has waited too long.
const BUSY: &str = "busy";
const FULL: &str = "full";
const GONE: &str = "gone";
const UNREACHABLE: &str = "unreachable";

#[cfg(test)]
mod tests {
    use super::*;
    use crate::upstream::shown::Shown;

    fn at(ms: u64) -> Moment {
        Moment(0).plus_ms(ms)
    }

    fn server() -> Arc<ServerState> {
        Arc::new(ServerState::new(1, Vec::new()).unwrap())
    }

    fn task(state: &Arc<ServerState>, number: u8, due: Moment) -> Task {
        let errand =
            ViewErrand { state: state.clone(), shown: Shown::default(), asked: at(0), due, owner: Owner([number; 16]) };
        Task { key: [number; 32], errand }
    }

    #[test]
    fn one_that_hangs_holds_up_itself() {
        let (hangs, lives, mut desk) = (server(), server(), Desk::default());
        for number in 0..100 {
            assert!(desk.put(task(&hangs, number, at(0)), at(0)).is_none());
        }
        let taken: Vec<Task> = std::iter::from_fn(|| desk.next(at(0))).collect();
        assert_eq!(taken.len(), VIEWS_AT_ONCE_MAX);
        assert!(desk.put(task(&lives, 200, at(0)), at(0)).is_none());
        assert_eq!(desk.next(at(0)).unwrap().key, [200; 32], "at once");
        // The first may be alone with its failure; the second takes the lane with it.
        assert_eq!(desk.failed(&taken[0], at(8_000)), (at(8_000 + VIEW_FAILED_MS), Vec::new()));
        let (until, left) = desk.failed(&taken[1], at(8_000));
        assert_eq!((until, left.len()), (at(8_000 + VIEW_FAILED_MS), 98));
        taken.iter().for_each(|task| desk.leave(task.place(), at(8_000)));
        assert_eq!(desk.put(task(&hangs, 1, at(0)), at(8_001)), Some((UNREACHABLE, until)));
        // Then one alone, and after twice as long.
        for number in 0..3 {
            assert!(desk.put(task(&hangs, number, at(0)), until).is_none());
        }
        let probe = desk.next(until).unwrap();
        assert!(desk.next(until).is_none());
        assert_eq!(desk.failed(&probe, until).0, until.plus_ms(2 * VIEW_FAILED_MS));
        desk.answered(probe.place());
        assert!(desk.put(task(&hangs, 1, at(0)), until).is_none());
    }

    #[test]
    fn one_caller_that_is_not_answered_is_alone() {
        let (state, mut desk) = (server(), Desk::default());
        for _ in 0..5 {
            assert!(desk.put(task(&state, 1, at(0)), at(0)).is_none());
            let mine = desk.next(at(0)).unwrap();
            assert_eq!(desk.failed(&mine, at(0)), (at(VIEW_FAILED_MS), Vec::new()));
            desk.leave(mine.place(), at(0));
        }
        assert!(desk.put(task(&state, 2, at(0)), at(0)).is_none());
        assert_eq!(desk.next(at(0)).unwrap().key, [2; 32]);
    }

    #[test]
    fn none_before_it_is_due() {
        let (state, mut desk) = (server(), Desk::default());
        assert!(desk.put(task(&state, 1, at(1_000)), at(0)).is_none());
        assert!(desk.put(task(&state, 2, at(0)), at(0)).is_none());
        assert_eq!(desk.next(at(999)).unwrap().key, [2; 32]);
        assert!(desk.next(at(999)).is_none());
        assert_eq!(desk.next(at(1_000)).unwrap().key, [1; 32]);
        assert_eq!(desk.waiting, 0);
    }
}
