//! What looks after a stream that many servers feed, and what tells a stream's reader that lists have changed.

use std::cell::Cell;
use std::rc::Rc;

use ::ring::rand::SecureRandom as _;

use crate::base::limits::STREAM_RETRY_MS;
use crate::base::time::Moment;
use crate::gateway::events::Eyes;
use crate::gateway::mail::Letter;
use crate::gateway::sessions::Live;
use crate::gateway::shard::{Held, Shard};
use crate::mcp::subscription::joint::Announced;
use crate::session::herald::Herald;

use super::visible::View;
use super::{Feed, Feeds, Part, changed};

/// What a stream's reader knows of the lists that it sees.
#[derive(Default)]
pub(in crate::gateway) struct Told {
    herald: Cell<Herald>,
    /// What the last look depended on.
    basis: Cell<u64>,
    /// A task is about to look again.
    looking: Cell<bool>,
}

/// Has each server heard in which the stream's session has a session: those that are there, and those that calls open
/// later.
pub(super) async fn tend(shard: &Rc<Shard>, feed: &Rc<Feed>) {
    while feed.is_wanted(shard) {
        if feed.behind.replace(false) {
            feed.session.catch_up(shard);
        }
        for (server, epoch) in feed.session.epochs() {
            let part = feed.part(server).unwrap_or_else(|| {
                let part = Part::new(server, 0, 0);
                feed.parts.borrow_mut().push(part.clone());
                feed.look_around(shard, &shard.snapshot());
                part
            });
            // What a server refused in this session of its own, it is not asked for again.
            if !part.read.get() && !part.gone.get() && part.upstream.get() != epoch {
                part.upstream.set(epoch);
                shard.feeds.feed(feed, &part, None);
            }
        }
        changed(shard, feed, feed.until(shard)).await;
    }
}

/// A part's place among those that have a connection to their server.
pub(super) struct Place<'a>(Option<&'a Cell<usize>>);

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.0.into_iter().for_each(|taken| taken.set(taken.get() - 1));
    }
}

/// Waits until there is a descriptor for one of several parts: of those that are for servers half are left to calls and
/// to streams of one server, however many streams of however many servers there are.
pub(super) async fn place<'a>(shard: &'a Shard, feed: &Feed, part: &Part) -> Place<'a> {
    if !feed.joint {
        return Place(None);
    }
    let taken = &shard.feeds.connected;
    while taken.get() >= shard.connections_max / 2 && feed.wants(shard, part) {
        let soon = shard.timers.now().mono.plus_ms(STREAM_RETRY_MS);
        changed(shard, feed, soon.min(feed.until(shard))).await;
    }
    taken.set(taken.get() + 1);
    Place(Some(taken))
}

impl Feeds {
    /// A server has a new session for this one, which this shard has opened: its stream is to be heard where the
    /// session's own is.
    pub(in crate::gateway) fn opened(&self, shard: &Shard, session: &Live) {
        let home = shard.home(session.home);
        if home == shard.id {
            self.session_opened(&session.nonce16);
        } else {
            shard.control.mail.send_to(home, &Letter::SessionOpened(session.nonce16));
        }
    }

    /// See there.
    pub(in crate::gateway) fn session_opened(&self, nonce: &[u8; 16]) {
        let home = self.homes.borrow().get(nonce).filter(|feed| feed.joint).cloned();
        if let Some(feed) = home {
            feed.behind.set(true);
            feed.changed();
        }
    }

    /// Letters were lost: any session may have been opened.
    pub(in crate::gateway) fn letters_missed(&self) {
        self.each(|feed| {
            if feed.joint {
                feed.behind.set(true);
                feed.changed();
            }
        });
    }

    /// Looks whether what a stream's reader sees may have changed: then somebody looks more closely, soon.
    pub(super) fn look_at_lists(&self, shard: &Shard, snapshot: &Held, feed: &Rc<Feed>) {
        let wanted = feed.view(self, snapshot, |view| feed.told.look(shard, view));
        if wanted == Some(true) && !feed.told.looking.replace(true) {
            self.spawn(feed, |shard, feed| async move {
                tell(&shard, &feed).await;
                feed.told.looking.set(false);
            });
        }
    }

    /// What the caller of a request sees, under the settings of this moment.
    pub(in crate::gateway) fn view_of<T>(&self, eyes: &Eyes<'_>, look: impl FnOnce(&View<'_>) -> T) -> T {
        look(&View {
            hashed: &self.hashed,
            snapshot: eyes.snapshot,
            endpoint: eyes.endpoint,
            era: eyes.revision.era(),
            caller: &eyes.caller,
            task: eyes.task,
        })
    }
}

impl Told {
    /// Whether what is seen may be something else than before: then it is to be looked at when [`Told::due`] has come.
    pub(in crate::gateway) fn look(&self, shard: &Shard, view: &View<'_>) -> bool {
        let basis = view.basis();
        if self.basis.replace(basis) == basis {
            return false;
        }
        let mut herald = self.herald.get();
        if herald.is_new() {
            // Whatever its reader sees first it knows.
            self.looked(view);
            return false;
        }
        let mut random = [0; 8];
        // Without randomness everybody is told at once, nothing more.
        let _ = shard.random.fill(&mut random);
        herald.heard(u64::from_ne_bytes(random), shard.timers.now().mono);
        self.herald.set(herald);
        true
    }

    /// When to look at it, if at all.
    pub(in crate::gateway) fn due(&self) -> Option<Moment> {
        self.herald.get().due()
    }

    /// Which lists are others than the reader knows.
    pub(in crate::gateway) fn looked(&self, view: &View<'_>) -> [bool; 3] {
        let mut herald = self.herald.get();
        let changed = herald.looked(view.marks());
        self.herald.set(herald);
        changed
    }

    /// Its reader is not known: whoever comes is looked at anew.
    fn forget(&self) {
        let mut herald = self.herald.get();
        herald.forget();
        self.herald.set(herald);
        self.basis.set(0);
    }
}

impl Feed {
    /// What its reader sees; `None` where nobody is known under these settings who reads.
    fn view<T>(&self, feeds: &Feeds, snapshot: &Held, look: impl FnOnce(&View<'_>) -> T) -> Option<T> {
        let who = self.who.borrow().clone();
        let endpoint = snapshot.endpoint_by_digest(self.endpoint)?;
        let era = self.session.speaks().era();
        let known = self.asked.is_none() && who.epoch == snapshot.auth_epoch;
        let (caller, task) = (&*who.caller, who.task);
        known.then(|| look(&View { hashed: &feeds.hashed, snapshot, endpoint, era, caller, task }))
    }
}

/// Tells of lists that have changed, once their time has come and there is room.
async fn tell(shard: &Rc<Shard>, feed: &Rc<Feed>) {
    while let Some(due) = feed.told.due().filter(|_| feed.is_wanted(shard)) {
        if shard.timers.now().mono < due {
            changed(shard, feed, due).await;
            continue;
        }
        if !shard.feeds.room(feed) {
            feed.pause();
            changed(shard, feed, feed.until(shard)).await;
            continue;
        }
        let looked = feed.view(&shard.feeds, &shard.snapshot(), |view| feed.told.looked(view));
        if looked.is_none() {
            feed.told.forget();
        }
        for (list, has_changed) in Announced::ALL.into_iter().zip(looked.unwrap_or_default()) {
            let message = || feed.listening.as_ref().map_or_else(|| Some(list.message()), |it| it.changed(list));
            if let Some(message) = has_changed.then(message).flatten() {
                feed.push(&message);
            }
        }
        shard.feeds.settle(feed);
        feed.changed();
    }
}
