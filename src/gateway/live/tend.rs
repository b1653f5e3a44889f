//! What looks after a stream that many servers feed, and what tells a stream's reader that lists have changed.

use std::cell::Cell;
use std::rc::Rc;

use ::ring::rand::SecureRandom as _;

use crate::gateway::mail::Letter;
use crate::gateway::sessions::Live;
use crate::gateway::shard::{Held, Shard};
use crate::mcp::subscription::joint::Announced;
use crate::session::herald::Herald;

use super::visible::View;
use super::{Feed, Feeds, Part, changed};

/// What a stream's reader knows of the lists that it sees.
#[derive(Default)]
pub(super) struct Told {
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
                feed.look_around(&shard.snapshot());
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
        let Some(basis) = feed.view(self, snapshot, |view| view.basis()) else { return };
        if feed.told.basis.replace(basis) == basis {
            return;
        }
        let mut herald = feed.told.herald.get();
        if herald.is_new() {
            // Whatever it sees first it knows.
            self.looked(snapshot, feed);
            return;
        }
        let mut random = [0; 8];
        // Without randomness everybody is told at once, nothing more.
        let _ = shard.random.fill(&mut random);
        herald.heard(u64::from_ne_bytes(random), shard.timers.now().mono);
        feed.told.herald.set(herald);
        if !feed.told.looking.replace(true) {
            self.spawn(feed, |shard, feed| async move {
                tell(&shard, &feed).await;
                feed.told.looking.set(false);
            });
        }
    }

    /// Which lists are others than the reader knows.
    fn looked(&self, snapshot: &Held, feed: &Feed) -> [bool; 3] {
        let mut herald = feed.told.herald.get();
        let changed = feed.view(self, snapshot, |view| view.marks()).map(|marks| herald.looked(marks));
        feed.told.herald.set(herald);
        changed.unwrap_or_default()
    }
}

impl Feed {
    /// What its reader sees; `None` where nobody is known under these settings who reads.
    fn view<T>(&self, feeds: &Feeds, snapshot: &Held, look: impl FnOnce(&View<'_>) -> T) -> Option<T> {
        let who = self.who.borrow().clone();
        let endpoint = snapshot.endpoint_by_digest(self.endpoint)?;
        let era = self.session.speaks().era();
        let known = self.asked.is_none() && who.epoch == snapshot.auth_epoch;
        known.then(|| look(&View { hashed: &feeds.hashed, snapshot, endpoint, era, who: &who }))
    }
}

/// Tells of lists that have changed, once their time has come and there is room.
async fn tell(shard: &Rc<Shard>, feed: &Rc<Feed>) {
    while let Some(due) = feed.told.herald.get().due() {
        let now = shard.timers.now().mono;
        if !feed.is_wanted(shard) {
            return;
        }
        if now < due {
            // A stream that ends is waited for no longer.
            changed(shard, feed, due).await;
            continue;
        }
        if !shard.feeds.room(feed) {
            feed.pause();
            changed(shard, feed, feed.until(shard)).await;
            continue;
        }
        let snapshot = shard.snapshot();
        for (list, has_changed) in Announced::ALL.into_iter().zip(shard.feeds.looked(&snapshot, feed)) {
            let message = || feed.listening.as_ref().map_or_else(|| Some(list.message()), |it| it.changed(list));
            if let Some(message) = has_changed.then(message).flatten() {
                feed.push(&message);
            }
        }
        if feed.told.herald.get().due().is_some() {
            // Its reader has to be known again first: whoever comes is looked at.
            let mut herald = feed.told.herald.get();
            herald.forget();
            feed.told.herald.set(herald);
            feed.told.basis.set(0);
        }
        shard.feeds.settle(feed);
        feed.changed();
    }
}
