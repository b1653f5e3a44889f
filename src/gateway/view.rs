//! What a server shows one caller of its lists, where it knows its callers: of all that it offers to anybody, a caller
//! sees and calls what it was shown itself.

use std::collections::HashMap;
use std::rc::Rc;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use ring::digest;
use smallvec::SmallVec;

use crate::base::ids::ServerId;
use crate::base::limits::{CATALOG_MS_MIN, VIEW_AGAIN_MS_MIN, VIEW_WAIT_MS_MAX, VIEWS_BYTES_MAX};
use crate::base::time::Moment;
use crate::identity::caller::Owner;
use crate::ledger::errands::{Fit, Look};
use crate::mcp::call::{Call, Object};
use crate::mcp::catalog::{EraCatalog, Item, ListKind, ServerCatalog};
use crate::mcp::pin::Pin;
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

/// What a server has shown a caller.
#[derive(Debug)]
pub struct View {
    set: Arc<Set>,
    age: Age,
    /// The server, as it was then.
    state: Weak<ServerState>,
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

/// What a server shows one caller or several: the pins of all definitions. A name of which somebody else was shown
/// another definition is another.
#[derive(Debug, PartialEq, Eq)]
pub struct Set {
    /// By era, then by `ListKind::index`; in order.
    pins: [[Box<[Pin]>; 4]; 2],
    digest: SetDigest,
}

/// SHA-256 of all that a server shows a caller.
pub type SetDigest = [u8; 32];

/// All sets that there are, each once.
#[derive(Debug, Default)]
pub struct Sets(Mutex<HashMap<SetDigest, Weak<Set>>>);

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
    /// What `state` has shown.
    #[must_use]
    pub fn new(set: Arc<Set>, age: Age, state: &Arc<ServerState>) -> Self {
        Self { set, age, state: Arc::downgrade(state) }
    }

    /// Whether it is of this server as it is set up now.
    #[must_use]
    pub fn is_of(&self, state: &Arc<ServerState>) -> bool {
        std::ptr::eq(self.state.as_ptr(), Arc::as_ptr(state))
    }

    fn has(&self, era: Era, kind: ListKind, item: &Item) -> bool {
        item.pin.is_some_and(|pin| self.set.has(era, kind, &pin))
    }
}

impl Set {
    /// Of a catalogue that is marked.
    #[must_use]
    pub fn of(catalog: &ServerCatalog) -> Self {
        let pins = |era: Era, kind: ListKind| {
            let list = catalog.era(era).and_then(|offer| offer.list(kind));
            let mut pins: Vec<Pin> =
                list.into_iter().flat_map(|list| &list.items).filter_map(|item| item.pin).collect();
            pins.sort_unstable();
            pins.dedup();
            pins.into_boxed_slice()
        };
        let pins = ERAS.map(|era| ListKind::ALL.map(|kind| pins(era, kind)));
        let mut hash = digest::Context::new(&digest::SHA256);
        for (era, lists) in ERAS.into_iter().zip(&pins) {
            frame(&mut hash, catalog.era(era));
            for pins in lists {
                hash.update(&(pins.len() as u64).to_be_bytes());
                pins.iter().for_each(|pin| hash.update(pin.bytes()));
            }
        }
        let mut digest = [0; 32];
        digest.copy_from_slice(hash.finish().as_ref());
        Self { pins, digest }
    }

    /// Two are the same where these are.
    #[must_use]
    pub fn digest(&self) -> SetDigest {
        self.digest
    }

    /// Whether a definition of this pin is in it.
    #[must_use]
    pub fn has(&self, era: Era, kind: ListKind, pin: &Pin) -> bool {
        self.pins[place(era)][kind.index()].binary_search(pin).is_ok()
    }

    /// All that is in it.
    pub fn all(&self) -> impl Iterator<Item = (Era, ListKind, Pin)> + '_ {
        let lists = ERAS.into_iter().flat_map(|era| ListKind::ALL.map(|kind| (era, kind)));
        lists.flat_map(|(era, kind)| self.pins[place(era)][kind.index()].iter().map(move |pin| (era, kind, *pin)))
    }

    fn bytes(&self) -> usize {
        size_of::<Self>() + self.pins.iter().flatten().map(|pins| size_of_val(&**pins)).sum::<usize>()
    }
}

impl Sets {
    /// What a catalogue that is marked shows: one set for all who are shown the same. `None` where there is no room.
    pub fn keep(&self, catalog: &ServerCatalog) -> Option<Arc<Set>> {
        self.keep_within(catalog, VIEWS_BYTES_MAX)
    }

    fn keep_within(&self, catalog: &ServerCatalog, bytes_max: usize) -> Option<Arc<Set>> {
        let set = Set::of(catalog);
        let mut sets = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = sets.get(&set.digest).and_then(Weak::upgrade) {
            return Some(known);
        }
        let mut bytes = set.bytes();
        sets.retain(|_, held| held.upgrade().map(|held| bytes = bytes.saturating_add(held.bytes())).is_some());
        if bytes > bytes_max {
            return None;
        }
        let set = Arc::new(set);
        sets.insert(set.digest, Arc::downgrade(&set));
        Some(set)
    }
}

/// What a server says of itself in one era.
fn frame(hash: &mut digest::Context, offer: Option<&EraCatalog>) {
    let Some(offer) = offer else { return hash.update(&[0]) };
    hash.update(&[1, u8::from(offer.events)]);
    let lists = offer.lists.each_ref().map(|list| u8::from(list.is_some()));
    hash.update(&lists);
    let capabilities = offer.capabilities.to_string();
    let (info, said) = (offer.server_info.as_deref(), offer.instructions.as_deref().map(str::as_bytes));
    for part in [Some(offer.protocol.as_str().as_bytes()), Some(capabilities.as_bytes()), info, said] {
        hash.update(&part.map_or(u64::MAX, |part| part.len() as u64).to_be_bytes());
        hash.update(part.unwrap_or_default());
    }
}

fn place(era: Era) -> usize {
    usize::from(era == Era::Legacy)
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

    /// Whether its caller was shown this very definition; of a server that shows everybody the same, always. Whoever comes
    /// without a token was shown what the gateway itself was.
    pub(super) fn sees(&self, server: ServerId, kind: ListKind, item: &Item) -> bool {
        if !self.snapshot.settings.servers[server.index()].credentials.is_personal() {
            return true;
        }
        if self.caller.anonymous {
            return !item.of_callers;
        }
        self.view(server).is_some_and(|view| view.has(self.era, kind, item))
    }

    /// The same of what is called.
    pub(super) fn sees_called(&self, object: &Object, name: &str) -> bool {
        if !self.snapshot.settings.servers[self.server.index()].credentials.is_personal() {
            return true;
        }
        let catalog = &self.snapshot.catalog;
        let (kind, item) = match object {
            Object::Tool(_) => (ListKind::Tools, catalog.tool_item(self.server, self.era, name)),
            Object::Prompt(_) | Object::CompletePrompt(_) => {
                (ListKind::Prompts, catalog.prompt_item(self.server, self.era, name))
            }
            _ => return true,
        };
        item.is_some_and(|item| self.sees(self.server, kind, item))
    }

    /// What its caller was shown by a server; `None` where that is not known.
    pub(super) fn view(&self, server: ServerId) -> Option<&View> {
        let view = self.views.iter().find(|(seen, _)| *seen == server).map(|(_, view)| &**view);
        view.filter(|view| self.snapshot.states.get(server.index()).is_some_and(|state| view.is_of(state)))
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
                let since = shard.timers.now().mono;
                let found = Box::pin(fetched(shard, flight, server, called, until)).await;
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

/// The servers that show this caller what they may not show others, and that this message may be about; and what it
/// calls, where that is known.
fn concerned(flight: &Flight, call: &Call, body: &[u8]) -> (SmallVec<[ServerId; 1]>, Option<Named>) {
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

/// As [`Called`], kept.
type Named = (ListKind, Box<str>);

/// What is called: a list's item, by its server's name for it.
type Called<'a> = Option<(ListKind, &'a str)>;

fn known(shard: &Shard, flight: &Flight, server: ServerId, called: Called<'_>) -> Option<Arc<View>> {
    let view = shown::view_of(shard, &flight.snapshot, server, flight.whom())?;
    (fit(shard, flight, server, &view, called) == Fit::Good).then_some(view)
}

fn fit(shard: &Shard, flight: &Flight, server: ServerId, view: &View, called: Called<'_>) -> Fit {
    let state = &flight.snapshot.states[server.index()];
    if !view.is_of(state) {
        return Fit::Bad;
    }
    let is_called = called.is_some_and(|(kind, name)| {
        let catalog = &flight.snapshot.catalog;
        let item = match kind {
            ListKind::Prompts => catalog.prompt_item(server, flight.era, name),
            _ => catalog.tool_item(server, flight.era, name),
        };
        item.is_some_and(|item| view.has(flight.era, kind, item))
    });
    view.age.fit(shard.timers.last().mono, state.poke.announced(), is_called)
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
const ERAS: [Era; 2] = [Era::Modern, Era::Legacy];

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mcp::catalog::Listing;
    use crate::mcp::revision::Revision;

    fn catalog(tools: &[&str], capabilities: &str) -> ServerCatalog {
        let item =
            |name: &&str| Item { raw: format!("{{\"name\":\"{name}\"}}").into_bytes().into(), ..Item::named(name) };
        let list = Listing { items: tools.iter().map(item).collect(), ..Listing::default() };
        let offer = EraCatalog {
            protocol: Revision::NEWEST,
            capabilities: serde_json::from_str(capabilities).expect("JSON"),
            server_info: None,
            instructions: None,
            events: false,
            lists: [Some(list), None, None, None],
        };
        let mut catalog = ServerCatalog { modern: Some(offer), ..ServerCatalog::default() };
        catalog.mark(true);
        catalog
    }

    #[test]
    fn a_view_has_definitions_not_names() {
        let set = Set::of(&catalog(&["a", "b"], "{}"));
        let mut others = catalog(&["a"], "{}");
        let item =
            |catalog: &ServerCatalog| catalog.modern.as_ref().and_then(|offer| offer.lists[0].as_ref()?.items[0].pin);
        let pin = item(&others).expect("it is marked");
        assert!(set.has(Era::Modern, ListKind::Tools, &pin));
        assert!(!set.has(Era::Legacy, ListKind::Tools, &pin) && !set.has(Era::Modern, ListKind::Prompts, &pin));
        if let Some(list) = others.modern.as_mut().and_then(|offer| offer.lists[0].as_mut()) {
            list.items[0].raw = br#"{"name":"a","description":"send it to me"}"#[..].into();
        }
        others.mark(true);
        assert!(!set.has(Era::Modern, ListKind::Tools, &item(&others).expect("it is marked")));
        assert_eq!(set.all().count(), 2);
    }

    #[test]
    fn equal_sets_are_one_and_all_together_are_bounded() {
        let sets = Sets::default();
        let first = sets.keep(&catalog(&["a", "b"], "{}")).expect("there is room");
        let same = sets.keep(&catalog(&["b", "a"], "{}")).expect("there is room");
        assert!(Arc::ptr_eq(&first, &same));
        let other = sets.keep(&catalog(&["a", "b"], r#"{"tools":{}}"#)).expect("there is room");
        assert_ne!(first.digest(), other.digest(), "what the server says of itself counts");
        let room = first.bytes() + other.bytes();
        assert!(sets.keep_within(&catalog(&["c"], "{}"), room).is_none());
        assert!(sets.keep_within(&catalog(&["a", "b"], "{}"), 0).is_some(), "it is there");
        drop((first, same));
        assert!(sets.keep_within(&catalog(&["c"], "{}"), room).is_some(), "what nobody has is gone");
    }

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
