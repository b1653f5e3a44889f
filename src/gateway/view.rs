//! What a server shows one caller of its lists, where it knows its callers: of all that it offers to anybody, a caller
//! sees and calls what it was shown itself.

use std::collections::HashSet;
use std::rc::Rc;
use std::sync::Arc;

use smallvec::SmallVec;

use crate::base::ids::ServerId;
use crate::base::limits::{CATALOG_MS_MIN, VIEW_AGAIN_MS_MIN, VIEW_WAIT_MS_MAX};
use crate::base::time::Moment;
use crate::identity::caller::Owner;
use crate::ledger::errands::{Fit, Look};
use crate::mcp::call::{Call, Object};
use crate::mcp::catalog::{ListKind, ServerCatalog};
use crate::mcp::revision::Era;
use crate::upstream::shown::Shown;
use crate::upstream::state::ServerState;

use super::credential;
use super::errand::brought;
use super::flight::Flight;
use super::refusal::Refusal;
use super::route;
use super::shard::{Held, Shard};
use super::shown::{self, Lack};

/// What a server has shown a caller: names.
#[derive(Debug)]
pub struct View {
    /// By era, then by `ListKind::index`.
    names: [[HashSet<Box<str>>; 4]; 2],
    age: Age,
}

/// How old what was seen is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Age {
    /// When the look began.
    pub looked: Moment,
    /// How many changes the server had announced before.
    pub announced: u64,
    /// Until then it holds, by the server's word.
    pub until: Moment,
}

/// A look at a server's lists in a caller's name.
#[derive(Debug)]
pub struct ViewErrand {
    /// The server for which it was made. What is due is shown to no other, whatever that one's name.
    pub state: Arc<ServerState>,
    /// What is due there for the caller.
    pub shown: Shown,
    /// Whose it is.
    pub owner: Owner,
    /// When it was asked for.
    pub asked: Moment,
    /// Not to begin before then.
    pub due: Moment,
}

impl View {
    /// Of what a server has shown.
    #[must_use]
    pub fn of(catalog: &ServerCatalog, age: Age) -> Self {
        let names = |era: Era, kind: ListKind| {
            let list = catalog.era(era).and_then(|offer| offer.list(kind));
            list.into_iter().flat_map(|list| &list.items).map(|item| item.name.clone()).collect()
        };
        let names = [Era::Modern, Era::Legacy].map(|era| ListKind::ALL.map(|kind| names(era, kind)));
        Self { names, age }
    }

    fn has(&self, era: Era, kind: ListKind, name: &str) -> bool {
        self.names[usize::from(era == Era::Legacy)][kind.index()].contains(name)
    }
}

impl Age {
    /// Of what use it is: what one calls is the server's to judge, and goes by what was seen last where that has it; any
    /// other question waits for what holds. `announced`: changes, until now.
    fn fit(&self, now: Moment, announced: u64, is_called: bool) -> Fit {
        if now < self.until && self.announced >= announced {
            Fit::Good
        } else if !is_called {
            Fit::Bad
        } else if now >= self.looked.plus_ms(VIEW_AGAIN_MS_MIN) {
            Fit::Aging
        } else {
            Fit::Good
        }
    }
}

impl Flight {
    /// Whether a server may show its caller less than others.
    pub(super) fn is_viewed(&self, server: ServerId) -> bool {
        !self.caller.anonymous && self.snapshot.settings.servers[server.index()].credentials.is_personal()
    }

    /// Whether its caller was shown something of this name; of a server that shows everybody the same, always.
    pub(super) fn sees(&self, server: ServerId, kind: ListKind, name: &str) -> bool {
        !self.is_viewed(server) || self.view(server).is_some_and(|view| view.has(self.era, kind, name))
    }

    /// The same of what is called.
    pub(super) fn sees_called(&self, object: &Object, name: &str) -> bool {
        match object {
            Object::Tool(_) => self.sees(self.server, ListKind::Tools, name),
            Object::Prompt(_) | Object::CompletePrompt(_) => self.sees(self.server, ListKind::Prompts, name),
            _ => true,
        }
    }

    /// What its caller was shown by a server; `None` where that is not known.
    pub(super) fn view(&self, server: ServerId) -> Option<&View> {
        self.views.iter().find(|(seen, _)| *seen == server).map(|(_, view)| &**view)
    }

    /// Why that of its own server is not known.
    pub(super) fn unseen(&self) -> Option<Refusal> {
        let missing = self.is_viewed(self.server) && self.view(self.server).is_none();
        let lack = self.unseen.as_deref().filter(|(server, _)| *server == self.server).map(|(_, lack)| lack);
        missing.then(|| self.worded(lack.unwrap_or(&Lack::Unseen)))
    }
}

/// Finds out what a message's caller is shown by the servers that the message may be about. Gives the snapshot of other
/// settings, where such have come meanwhile.
pub(super) async fn look(shard: &Shard, flight: &mut Flight, call: &Call, body: &[u8]) -> Option<Rc<Held>> {
    let (servers, called) = concerned(flight, call, body);
    if servers.is_empty() {
        return None;
    }
    flight.views.clear();
    let called = called.as_ref().map(|(kind, name)| (*kind, &**name));
    let until = shard.timers.last().mono.plus_ms(VIEW_WAIT_MS_MAX);
    let mut waited = false;
    for server in servers {
        let found = match known(shard, flight, server, called) {
            Some(view) => Ok(view),
            None => {
                waited = true;
                Box::pin(fetched(shard, flight, server, called, until)).await
            }
        };
        match found {
            Ok(view) => flight.views.push((server, view)),
            Err(lack) => flight.unseen = Some(Box::new((server, lack))),
        }
    }
    let snapshot = shard.snapshot();
    if snapshot.settings_epoch != flight.snapshot.settings_epoch {
        return Some(snapshot);
    }
    if waited {
        // What was found out is in the newest one.
        flight.snapshot = snapshot;
    }
    None
}

/// The servers that show this caller what they may not show others, and that this message may be about; and what it
/// calls, where that is known.
fn concerned(flight: &Flight, call: &Call, body: &[u8]) -> (SmallVec<[ServerId; 1]>, Option<(ListKind, Box<str>)>) {
    let none = (SmallVec::new(), None);
    if !flight.snapshot.prepared.keeps_tokens {
        return none;
    }
    let listing = call.method.is_some_and(|method| method.list.is_some());
    let kind = match &call.subject {
        Object::Tool(_) => Some(ListKind::Tools),
        Object::Prompt(_) | Object::CompletePrompt(_) => Some(ListKind::Prompts),
        _ => None,
    };
    let kind = kind.filter(|_| !listing);
    if !listing && kind.is_none() {
        return none;
    }
    let one = if flight.is_merged() {
        kind.and_then(|_| route::named(flight, call, body))
    } else {
        let name = call.subject.text().map(|name| name.of(body).into());
        Some((flight.server, name.unwrap_or_default()))
    };
    let (servers, name): (SmallVec<[ServerId; 1]>, Option<Box<str>>) = match one {
        Some((server, name)) => (SmallVec::from_slice(&[server]), Some(name)),
        // It may be at any of them.
        None => (flight.merged().servers().iter().copied().collect(), None),
    };
    (servers.into_iter().filter(|server| flight.is_viewed(*server)).collect(), kind.zip(name))
}

/// What is called: a list's item, by its server's name for it.
type Called<'a> = Option<(ListKind, &'a str)>;

fn known(shard: &Shard, flight: &Flight, server: ServerId, called: Called<'_>) -> Option<Arc<View>> {
    let view = shown::view_of(shard, &flight.snapshot, server, flight.whom())?;
    (fit(shard, flight, server, &view, called) == Fit::Good).then_some(view)
}

fn fit(shard: &Shard, flight: &Flight, server: ServerId, view: &View, called: Called<'_>) -> Fit {
    let announced = flight.snapshot.states[server.index()].poke.announced();
    let is_called = called.is_some_and(|(kind, name)| view.has(flight.era, kind, name));
    view.age.fit(shard.timers.last().mono, announced, is_called)
}

/// The plane looks, in the caller's name.
async fn fetched(
    shard: &Shard,
    flight: &Flight,
    server: ServerId,
    called: Called<'_>,
    until: Moment,
) -> Result<Arc<View>, Lack> {
    let (snapshot, whom) = (&flight.snapshot, flight.whom());
    let shown = shown::due(shard, snapshot, server, whom, until).await?;
    let Some(own) = &shown else { return Err(Lack::Unseen) };
    let (settings, state) = (&snapshot.settings.servers[server.index()], &snapshot.states[server.index()]);
    let task = whom.task(snapshot);
    let key = credential::view_key(state, settings, &flight.caller, task);
    let look = || {
        let now = shard.timers.last().mono;
        let errand = |held: Option<&Arc<View>>| {
            // However often its server announces changes, it is not looked at all the time.
            let due = held.map_or(now, |view| view.age.looked.plus_ms(CATALOG_MS_MIN).max(now));
            ViewErrand { state: state.clone(), shown: Shown::clone(own), owner: flight.caller.owner, asked: now, due }
        };
        shard.control.views.look_for(&key, now, |view| fit(shard, flight, server, view, called), errand)
    };
    match brought(shard, Some(&flight.caller.owner), until, look).await {
        Look::Have(view) => {
            shown::keep_view(shard, snapshot, server, whom, &view);
            Ok(view)
        }
        Look::Failed(word, _) => {
            // Of a server that is down, what it is shown is as good as before.
            if word == REFUSED {
                shown::refused_by(shard, snapshot, server, whom, shown.as_ref());
            }
            Err(Lack::Unseen)
        }
        Look::Wait | Look::Full => Err(Lack::Unseen),
    }
}

/// Said of a look, where the server does not let the caller in.
pub const REFUSED: &str = "refused";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_call_goes_on_by_what_was_seen_last() {
        let at = |ms: u64| Moment(0).plus_ms(ms);
        let age = Age { looked: at(0), announced: 3, until: at(60_000) };
        for is_called in [true, false] {
            assert_eq!(age.fit(at(59_999), 3, is_called), Fit::Good);
        }
        assert_eq!(age.fit(at(60_000), 3, false), Fit::Bad, "it has ended");
        assert_eq!(age.fit(at(60_000), 3, true), Fit::Aging, "but not for a call");
        assert_eq!(age.fit(at(10), 4, false), Fit::Bad, "a change was announced");
        assert_eq!(age.fit(at(10), 4, true), Fit::Good, "and calls do not look at each");
        assert_eq!(age.fit(at(VIEW_AGAIN_MS_MIN), 4, true), Fit::Aging);
    }
}
