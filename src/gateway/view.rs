//! What a server shows one caller of its lists, where it knows its callers: of all that it offers to anybody, a caller
//! sees and calls what it was shown itself.

use std::collections::HashSet;
use std::rc::Rc;
use std::sync::Arc;

use smallvec::SmallVec;

use crate::base::ids::ServerId;
use crate::base::limits::VIEW_WAIT_MS_MAX;
use crate::base::time::Moment;
use crate::ledger::errands::Look;
use crate::mcp::call::{Call, Object};
use crate::mcp::catalog::{ListKind, ServerCatalog};
use crate::mcp::revision::Era;
use crate::upstream::shown::Shown;

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
    /// How many changes the server had announced before.
    announced: u64,
}

/// A look at a server's lists in a caller's name.
#[derive(Debug)]
pub struct ViewErrand {
    /// The server, by its digest.
    pub server: u64,
    /// What is due there for the caller.
    pub shown: Shown,
    /// How many changes the server has announced.
    pub announced: u64,
}

impl View {
    /// Of what a server has shown, as of so many announcements.
    #[must_use]
    pub fn of(catalog: &ServerCatalog, announced: u64) -> Self {
        let names = |era: Era, kind: ListKind| {
            let list = catalog.era(era).and_then(|offer| offer.list(kind));
            list.into_iter().flat_map(|list| &list.items).map(|item| item.name.clone()).collect()
        };
        let names = [Era::Modern, Era::Legacy].map(|era| ListKind::ALL.map(|kind| names(era, kind)));
        Self { names, announced }
    }

    fn has(&self, era: Era, kind: ListKind, name: &str) -> bool {
        self.names[usize::from(era == Era::Legacy)][kind.index()].contains(name)
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
    let servers = concerned(flight, call, body);
    if servers.is_empty() {
        return None;
    }
    flight.views.clear();
    let until = shard.timers.last().mono.plus_ms(VIEW_WAIT_MS_MAX);
    let mut waited = false;
    for server in servers {
        let found = match known(shard, flight, server) {
            Some(view) => Ok(view),
            None => {
                waited = true;
                let since = shard.timers.now().mono;
                let found = Box::pin(fetched(shard, flight, server, until)).await;
                flight.figures.waits(shard, since);
                found
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

/// The servers that show this caller what they may not show others, and that this message may be about.
fn concerned(flight: &Flight, call: &Call, body: &[u8]) -> SmallVec<[ServerId; 1]> {
    if !flight.snapshot.prepared.keeps_tokens {
        return SmallVec::new();
    }
    let about = |object: &Object| matches!(object, Object::Tool(_) | Object::Prompt(_) | Object::CompletePrompt(_));
    let listing = call.method.is_some_and(|method| method.list.is_some());
    if !listing && !about(&call.subject) {
        return SmallVec::new();
    }
    let one = if flight.is_merged() {
        route::server_of(flight, call, body).filter(|_| !listing)
    } else {
        Some(flight.server)
    };
    let servers: SmallVec<[ServerId; 1]> = match one {
        Some(server) => SmallVec::from_slice(&[server]),
        // It may be at any of them.
        None => flight.merged().servers().iter().copied().collect(),
    };
    servers.into_iter().filter(|server| flight.is_viewed(*server)).collect()
}

fn known(shard: &Shard, flight: &Flight, server: ServerId) -> Option<Arc<View>> {
    let view = shown::view_of(shard, &flight.snapshot, server, flight.whom())?;
    is_fresh(flight, server, &view).then_some(view)
}

fn is_fresh(flight: &Flight, server: ServerId, view: &View) -> bool {
    view.announced >= flight.snapshot.states[server.index()].poke.announced()
}

/// The plane looks, in the caller's name.
async fn fetched(shard: &Shard, flight: &Flight, server: ServerId, until: Moment) -> Result<Arc<View>, Lack> {
    let (snapshot, whom) = (&flight.snapshot, flight.whom());
    let shown = shown::due(shard, snapshot, server, whom, until).await?;
    let Some(own) = &shown else { return Err(Lack::Unseen) };
    let digest = snapshot.prepared.servers[server.index()].digest;
    let key = credential::view_key(digest, &flight.caller);
    let views = &shard.control.views;
    let errand = || {
        let announced = snapshot.states[server.index()].poke.announced();
        ViewErrand { server: digest, shown: Shown::clone(own), announced }
    };
    let look = || match views.look(&key, shard.timers.last().mono, errand) {
        Look::Have(view) if !is_fresh(flight, server, &view) => {
            views.forget_if(&key, |held| Arc::ptr_eq(held, &view));
            views.look(&key, shard.timers.last().mono, errand)
        }
        other => other,
    };
    match brought(shard, until, look).await {
        Look::Have(view) => {
            shown::keep_view(shard, snapshot, server, whom, &view);
            Ok(view)
        }
        Look::Failed(_, _) => {
            shown::refused_by(shard, snapshot, server, whom, shown.as_ref());
            Err(Lack::Unseen)
        }
        Look::Wait | Look::Full => Err(Lack::Unseen),
    }
}
