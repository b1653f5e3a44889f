//! Approvals: what a person was asked, what was decided, and that a yes is good for one call. The book is a value; who
//! shares it is `ledger::approvals`, who writes it down is the plane.
//!
//! A yes holds for one repetition by the same subject, task, definition and arguments. It is used up by the [`Granted`]
//! that it gives, and comes back only where nothing was written to the server.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Weak};

use ring::digest;
use serde::{Deserialize, Serialize};

use super::rule::AskWhom;
use crate::base::limits::{
    APPROVAL_BYTES_MAX, APPROVALS_BYTES_MAX, APPROVALS_MAX, APPROVALS_OF_SUBJECT_BYTES_MAX, APPROVALS_OF_SUBJECT_MAX,
};
use crate::base::time::{Moment, Now};
use crate::identity::active::{ActiveTask, TaskNames};
use crate::identity::caller::Owner;

/// What a decision is good for: SHA-256 over who asks, the task, and the call.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ApprovalKey([u8; 32]);

/// What makes two calls the same for whoever decides.
pub struct Asked<'a> {
    /// The subject, whichever agent acts for it.
    pub principal: Owner,
    /// What it works on.
    pub task: ActiveTask,
    /// The names of the same policy.
    pub tasks: &'a TaskNames,
    /// The server's configured name.
    pub server: &'a str,
    /// The method, as MCP names it.
    pub method: &'a str,
    /// The tool or prompt by its upstream name, or the URI.
    pub name: &'a str,
    /// SHA-256 of the definition, where there is one.
    pub definition: Option<&'a [u8; 32]>,
    /// Who is to be asked: what the agent's own user allowed no other person has.
    pub whom: AskWhom,
}

/// `ap-` and sixteen letters: random, so that nobody can name what another was asked.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ApprovalId([u8; 10]);

/// How a rule wants to have it asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Terms {
    /// How long an answer is waited for, and how long it is good for, milliseconds.
    pub expires_ms: u64,
    /// Who is asked.
    pub whom: AskWhom,
}

/// What whoever decides is shown.
#[derive(Clone, Copy, Debug, Default)]
pub struct About<'a> {
    /// Of the caller's token; empty for the anonymous caller.
    pub issuer: &'a str,
    /// The caller.
    pub subject: &'a str,
    /// The agent acting for it.
    pub agent: Option<&'a str>,
    /// What it works on, where that is one task.
    pub task: Option<&'a str>,
    /// The server's configured name.
    pub server: &'a str,
    /// The method.
    pub method: &'a str,
    /// The tool or prompt by its upstream name, or the URI.
    pub name: &'a str,
    /// SHA-256 of the definition, where there is one.
    pub definition: Option<&'a [u8; 32]>,
    /// The id of the rule that has it asked.
    pub rule: &'a str,
    /// That rule's sentence.
    pub reason: Option<&'a str>,
    /// The arguments as they came: one JSON object; empty where there are none.
    pub arguments: &'a [u8],
}

/// The same, kept.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Request {
    /// See [`About`], as for all of these.
    pub issuer: Box<str>,
    /// The caller.
    pub subject: Box<str>,
    /// The agent acting for it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub agent: Option<Box<str>>,
    /// What it works on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub task: Option<Box<str>>,
    /// The server.
    pub server: Box<str>,
    /// The method.
    pub method: Box<str>,
    /// What of the server.
    pub name: Box<str>,
    /// Hexadecimal digits.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub definition: Option<Box<str>>,
    /// The rule.
    pub rule: Box<str>,
    /// Its sentence.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<Box<str>>,
    /// JSON text; empty for none.
    pub arguments: Box<str>,
}

/// What somebody decided.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Decision {
    /// Allowed.
    pub yes: bool,
    /// Whose word it is.
    pub by: Box<str>,
    /// What was said to it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub note: Option<Box<str>>,
    /// When, milliseconds since 1970.
    pub at_unix_ms: u64,
}

/// Where a call stands that a rule has asked about.
#[derive(Debug)]
pub enum Stand {
    /// Nobody has decided yet.
    Pending {
        /// What it is decided by.
        id: ApprovalId,
        /// Until when an answer is waited for, milliseconds since 1970.
        until_unix_ms: u64,
        /// Nobody was asked this before.
        new: bool,
    },
    /// It may go, once.
    Granted(Granted),
    /// It may not, until then.
    Denied {
        /// Which denial.
        id: ApprovalId,
        /// Until when, milliseconds since 1970.
        until_unix_ms: u64,
        /// Whose word it is.
        by: Box<str>,
        /// What was said to it, for the record.
        note: Option<Box<str>>,
    },
    /// Too much of this subject's, or of all together, waits for people.
    Full,
    /// Its arguments are more than a person is shown.
    TooLarge,
    /// It cannot be written down.
    Unkept,
}

/// A yes that has been used: for one call. Only a [`Book`] makes one.
///
/// ```compile_fail,E0451
/// use portcullis::policy::approval::{ApprovalId, Granted};
/// fn forge(id: ApprovalId) -> Granted {
///     Granted { id, by: "me".into(), turn: 1, _call: Default::default() }
/// }
/// ```
///
/// ```compile_fail,E0599
/// fn twice(granted: &portcullis::policy::approval::Granted) -> portcullis::policy::approval::Granted {
///     granted.clone()
/// }
/// ```
#[derive(Debug)]
pub struct Granted {
    id: ApprovalId,
    by: Box<str>,
    /// Which use of it: only that one can be taken back.
    turn: u32,
    /// As long as this is somewhere, its call is under way.
    _call: Arc<()>,
}

impl Granted {
    /// By which approval.
    #[must_use]
    pub fn id(&self) -> ApprovalId {
        self.id
    }

    /// Whose word it is.
    #[must_use]
    pub fn by(&self) -> &str {
        &self.by
    }
}

/// How one stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// For somebody's answer.
    Waiting,
    /// Allowed, and not used yet.
    Approved,
    /// Refused.
    Denied,
    /// Allowed, and used.
    Used,
}

/// One of the book, for people.
#[derive(Clone, Debug)]
pub struct Shown {
    /// Which.
    pub id: ApprovalId,
    /// How it stands.
    pub state: State,
    /// What was asked.
    pub request: Arc<Request>,
    /// Who is asked.
    pub whom: AskWhom,
    /// When it was asked first, milliseconds since 1970.
    pub asked_unix_ms: u64,
    /// Until when it is waited for, or good for, milliseconds since 1970.
    pub until_unix_ms: u64,
    /// What was decided.
    pub decision: Option<Decision>,
}

/// Why nothing is decided.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Undecided {
    /// There is none of this id, or none any more.
    #[error("no approval of this id waits: it has expired, or never was")]
    Unknown,
    /// Somebody was faster.
    #[error("it is decided already: {} by {}", if .0.yes { "approved" } else { "denied" }, .0.by)]
    Decided(Decision),
    /// The call has gone.
    #[error("it was approved by {}, and used", .0.by)]
    Used(Decision),
    /// Its rule asks the agent's own user, and nobody else.
    #[error("its rule asks the agent's own user (ask: elicit); others can deny it, not approve it")]
    NotYours,
    /// It cannot be written down.
    #[error("the decision cannot be written to the state folder")]
    Unkept,
}

/// A change of the book, to be written down: read again in order, they make the same book. One that is read twice
/// changes nothing the second time.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "what", rename_all = "snake_case", deny_unknown_fields)]
pub enum Change {
    /// Somebody is to be asked.
    Asked {
        /// Which.
        id: ApprovalId,
        /// What it is good for.
        key: ApprovalKey,
        /// Whose it is.
        #[serde(with = "hex16")]
        principal: [u8; 16],
        /// The agent's own user is asked.
        elicit: bool,
        /// Milliseconds.
        expires_ms: u64,
        /// When, milliseconds since 1970.
        at_unix_ms: u64,
        /// What was asked.
        #[serde(with = "shared")]
        request: Arc<Request>,
    },
    /// Somebody has decided.
    Decided {
        /// Which.
        id: ApprovalId,
        /// What.
        decision: Decision,
    },
    /// A call has gone.
    Used {
        /// By which.
        id: ApprovalId,
        /// Counts its uses.
        turn: u32,
    },
    /// That call was never written to its server.
    Back {
        /// Which.
        id: ApprovalId,
        /// Of which use.
        turn: u32,
    },
}

/// All approvals. A table of what was asked, by id, and the one of each key that counts.
#[derive(Debug, Default)]
pub struct Book {
    entries: HashMap<ApprovalId, Entry>,
    by_key: HashMap<ApprovalKey, ApprovalId>,
    subjects: HashMap<Owner, Share>,
    bytes: usize,
    waiting: usize,
}

/// What some approvals take.
#[derive(Clone, Copy, Debug, Default)]
struct Share {
    count: usize,
    bytes: usize,
}

#[derive(Debug)]
struct Entry {
    key: ApprovalKey,
    principal: Owner,
    request: Arc<Request>,
    terms: Terms,
    asked_unix_ms: u64,
    until: Moment,
    until_unix_ms: u64,
    decision: Option<Decision>,
    /// How often it was used.
    turn: u32,
    /// The last use was taken back.
    back: bool,
    /// The call of its last use, while that is under way.
    call: Weak<()>,
}

impl Entry {
    /// Whether it was used, and for a call that is over.
    fn is_done(&self) -> bool {
        self.state() == State::Used && self.call.strong_count() == 0
    }

    fn state(&self) -> State {
        match &self.decision {
            None => State::Waiting,
            Some(Decision { yes: false, .. }) => State::Denied,
            Some(_) if self.turn == 0 || self.back => State::Approved,
            Some(_) => State::Used,
        }
    }

    fn can_be_decided(&self, decision: &Decision, via: AskWhom) -> Result<(), Undecided> {
        match (self.state(), &self.decision) {
            (State::Waiting, _) if decision.yes && self.terms.whom != via => Err(Undecided::NotYours),
            (State::Waiting, _) => Ok(()),
            // What was allowed and is not used can still be stopped.
            (State::Approved, _) if !decision.yes => Ok(()),
            (State::Used, Some(before)) => Err(Undecided::Used(before.clone())),
            (_, before) => Err(before.clone().map_or(Undecided::Unknown, Undecided::Decided)),
        }
    }

    fn shown(&self, id: ApprovalId) -> Shown {
        Shown {
            id,
            state: self.state(),
            request: self.request.clone(),
            whom: self.terms.whom,
            asked_unix_ms: self.asked_unix_ms,
            until_unix_ms: self.until_unix_ms,
            decision: self.decision.clone(),
        }
    }
}

impl Book {
    /// Where this call stands: asks anew, under `id`, where nobody has been asked, and uses up a yes. What is to be
    /// written down with it comes beside it: before anybody relies on the answer.
    pub fn ask(
        &mut self,
        id: ApprovalId,
        key: &ApprovalKey,
        principal: Owner,
        terms: Terms,
        about: &About<'_>,
        now: Now,
    ) -> (Stand, Option<Change>) {
        if let Some(known) = self.by_key.get(key).copied()
            && let Some(entry) = self.living(known, now)
        {
            let until_unix_ms = entry.until_unix_ms;
            match (entry.state(), entry.decision.clone()) {
                (State::Waiting, _) => return (Stand::Pending { id: known, until_unix_ms, new: false }, None),
                (State::Denied, Some(Decision { by, note, .. })) => {
                    return (Stand::Denied { id: known, until_unix_ms, by, note }, None);
                }
                (State::Approved, Some(Decision { by, .. })) => {
                    (entry.turn, entry.back) = (entry.turn.saturating_add(1), false);
                    let (turn, call) = (entry.turn, Arc::new(()));
                    entry.call = Arc::downgrade(&call);
                    let used = Change::Used { id: known, turn };
                    return (Stand::Granted(Granted { id: known, by, turn, _call: call }), Some(used));
                }
                // Used up: whoever repeats it is asked about again.
                _ => {}
            }
        }
        let Some(request) = Request::of(about) else { return (Stand::TooLarge, None) };
        if !self.has_room(principal, request.bytes(), now) {
            return (Stand::Full, None);
        }
        let request = Arc::new(request);
        let asked = Change::Asked {
            id,
            key: *key,
            principal: principal.0,
            elicit: terms.whom == AskWhom::Elicit,
            expires_ms: terms.expires_ms,
            at_unix_ms: now.unix_ms,
            request: request.clone(),
        };
        let until_unix_ms = now.unix_ms.saturating_add(terms.expires_ms);
        let until = now.mono.plus_ms(terms.expires_ms);
        let asked_unix_ms = now.unix_ms;
        let (key, decision, turn, back, call) = (*key, None, 0, false, Weak::new());
        self.insert(
            id,
            Entry { key, principal, request, terms, asked_unix_ms, until, until_unix_ms, decision, turn, back, call },
        );
        (Stand::Pending { id, until_unix_ms, new: true }, Some(asked))
    }

    /// What has to be written down before the use of a yes can be taken back; `None` where it cannot be.
    #[must_use]
    pub fn returning(&self, granted: &Granted) -> Option<Change> {
        let Granted { id, turn, .. } = *granted;
        self.entries.get(&id).filter(|entry| entry.turn == turn && !entry.back).map(|_| Change::Back { id, turn })
    }

    /// Nothing was written to the server: the yes is good for another call. A question that was put meanwhile is
    /// withdrawn.
    pub fn give_back(&mut self, granted: &Granted) {
        self.take_back(granted.id, granted.turn);
    }

    fn take_back(&mut self, id: ApprovalId, turn: u32) {
        let Some(entry) = self.entries.get_mut(&id).filter(|entry| entry.turn == turn && !entry.back) else { return };
        entry.back = true;
        let key = entry.key;
        match self.by_key.get(&key).copied().filter(|newer| *newer != id) {
            Some(newer) if self.entries.get(&newer).is_some_and(|entry| entry.state() == State::Waiting) => {
                self.remove(newer);
                self.by_key.insert(key, id);
            }
            // Decided anew meanwhile: the later word counts.
            Some(_) => {}
            None => _ = self.by_key.insert(key, id),
        }
    }

    /// What has to be written down before somebody's decision holds.
    ///
    /// # Errors
    /// `Undecided`, where it cannot be decided.
    pub fn deciding(
        &mut self,
        id: ApprovalId,
        decision: &Decision,
        via: AskWhom,
        now: Now,
    ) -> Result<Change, Undecided> {
        let entry = self.living(id, now).ok_or(Undecided::Unknown)?;
        entry.can_be_decided(decision, via)?;
        Ok(Change::Decided { id, decision: decision.clone() })
    }

    /// The decision holds from now on, for as long as an answer was waited for.
    ///
    /// # Errors
    /// `Undecided`: it has gone meanwhile, was used, or somebody was faster.
    pub fn decide(&mut self, id: ApprovalId, decision: Decision, via: AskWhom, now: Now) -> Result<Shown, Undecided> {
        let waited = self.waiting;
        let entry = self.living(id, now).ok_or(Undecided::Unknown)?;
        entry.can_be_decided(&decision, via)?;
        let waits = entry.decision.is_none();
        entry.decision = Some(decision);
        entry.until = now.mono.plus_ms(entry.terms.expires_ms);
        entry.until_unix_ms = now.unix_ms.saturating_add(entry.terms.expires_ms);
        let shown = entry.shown(id);
        self.waiting = waited - usize::from(waits);
        Ok(shown)
    }

    /// Takes a question back that could not be written down.
    pub fn withdraw(&mut self, id: ApprovalId) {
        self.remove(id);
    }

    /// All there are, in no order.
    #[must_use]
    pub fn list(&self, now: Now) -> Vec<Shown> {
        let living = self.entries.iter().filter(|(_, entry)| entry.until > now.mono);
        living.map(|(id, entry)| entry.shown(*id)).collect()
    }

    /// The one of this id.
    #[must_use]
    pub fn show(&self, id: ApprovalId, now: Now) -> Option<Shown> {
        self.entries.get(&id).filter(|entry| entry.until > now.mono).map(|entry| entry.shown(id))
    }

    /// How many wait for somebody; up to the last sweep.
    #[must_use]
    pub fn waiting(&self) -> usize {
        self.waiting
    }

    /// Drops what has expired.
    pub fn sweep(&mut self, now: Now) {
        let over = self.entries.iter().filter(|(_, entry)| entry.until <= now.mono);
        let over: Vec<ApprovalId> = over.map(|(id, _)| *id).collect();
        over.into_iter().for_each(|id| self.remove(id));
    }

    /// All there is, as the changes that make it.
    #[must_use]
    pub fn picture(&self) -> Vec<Change> {
        let mut all = Vec::with_capacity(2 * self.entries.len());
        let mut ids: Vec<(&ApprovalId, &Entry)> = self.entries.iter().collect();
        // Of one key the one that counts comes last.
        ids.sort_by_key(|(id, entry)| (self.by_key.get(&entry.key) == Some(*id), entry.asked_unix_ms));
        for (id, entry) in ids {
            let id = *id;
            all.push(Change::Asked {
                id,
                key: entry.key,
                principal: entry.principal.0,
                elicit: entry.terms.whom == AskWhom::Elicit,
                expires_ms: entry.terms.expires_ms,
                at_unix_ms: entry.asked_unix_ms,
                request: entry.request.clone(),
            });
            all.extend(entry.decision.clone().map(|decision| Change::Decided { id, decision }));
            let turn = entry.turn;
            all.extend((turn > 0).then_some(Change::Used { id, turn }));
            all.extend((turn > 0 && entry.back).then_some(Change::Back { id, turn }));
        }
        all
    }

    /// Makes a change again that was written down, as of `now`: what has expired meanwhile is left out by the next
    /// sweep.
    pub fn replay(&mut self, change: Change, now: Now) {
        // Never longer than it would have been: the clock may have been set back.
        let until = |end: u64, expires_ms: u64| now.mono.plus_ms(end.saturating_sub(now.unix_ms).min(expires_ms));
        match change {
            Change::Asked { id, key, principal, elicit, expires_ms, at_unix_ms, request } => {
                if self.entries.contains_key(&id) {
                    return;
                }
                let whom = if elicit { AskWhom::Elicit } else { AskWhom::Person };
                let until_unix_ms = at_unix_ms.saturating_add(expires_ms);
                let entry = Entry {
                    key,
                    principal: Owner(principal),
                    request,
                    terms: Terms { expires_ms, whom },
                    asked_unix_ms: at_unix_ms,
                    until: until(until_unix_ms, expires_ms),
                    until_unix_ms,
                    decision: None,
                    turn: 0,
                    back: false,
                    call: Weak::new(),
                };
                self.insert(id, entry);
            }
            Change::Decided { id, decision } => {
                let Some(entry) = self.entries.get_mut(&id) else { return };
                // A yes never undoes a no.
                if entry.decision.as_ref().is_some_and(|before| !before.yes && decision.yes) {
                    return;
                }
                self.waiting -= usize::from(entry.decision.is_none());
                entry.until_unix_ms = decision.at_unix_ms.saturating_add(entry.terms.expires_ms);
                entry.until = until(entry.until_unix_ms, entry.terms.expires_ms);
                entry.decision = Some(decision);
            }
            Change::Used { id, turn } => {
                let entry = self.entries.get_mut(&id).filter(|entry| turn > entry.turn);
                entry.into_iter().for_each(|entry| (entry.turn, entry.back) = (turn, false));
            }
            Change::Back { id, turn } => self.take_back(id, turn),
        }
    }

    fn living(&mut self, id: ApprovalId, now: Now) -> Option<&mut Entry> {
        if self.entries.get(&id).is_some_and(|entry| entry.until <= now.mono) {
            self.remove(id);
        }
        self.entries.get_mut(&id)
    }

    /// Whether one more of this subject's fits. What is used up, and whose call is over, goes for it: of this subject
    /// where that has too much, of all where all together have; and nothing does where that is not enough.
    fn has_room(&mut self, principal: Owner, bytes: usize, now: Now) -> bool {
        if self.excess(principal, bytes).is_none() {
            return true;
        }
        self.sweep(now);
        while let Some(excess) = self.excess(principal, bytes) {
            if !self.make_room(excess) {
                return false;
            }
        }
        true
    }

    /// What is too much if this subject gets so many bytes more: of its own, else of all.
    fn excess(&self, principal: Owner, bytes: usize) -> Option<(Option<Owner>, Share)> {
        let over = |have: Share, count_max: usize, bytes_max: usize| {
            let over = Share {
                count: (have.count + 1).saturating_sub(count_max),
                bytes: (have.bytes + bytes).saturating_sub(bytes_max),
            };
            (over.count > 0 || over.bytes > 0).then_some(over)
        };
        let mine = self.subjects.get(&principal).copied().unwrap_or_default();
        let all = Share { count: self.entries.len(), bytes: self.bytes };
        let mine = over(mine, APPROVALS_OF_SUBJECT_MAX, APPROVALS_OF_SUBJECT_BYTES_MAX);
        let all = || over(all, APPROVALS_MAX, APPROVALS_BYTES_MAX).map(|over| (None, over));
        mine.map(|over| (Some(principal), over)).or_else(all)
    }

    /// Removes what is done, oldest first, until so much is gone. False, and nothing is removed, where there is less.
    fn make_room(&mut self, (whose, excess): (Option<Owner>, Share)) -> bool {
        let is_meant = |entry: &Entry| whose.is_none_or(|whose| whose == entry.principal) && entry.is_done();
        let done = self.entries.iter().filter(|(_, entry)| is_meant(entry));
        let mut done: Vec<_> = done.map(|(id, entry)| (entry.asked_unix_ms, *id, entry.request.bytes())).collect();
        let bytes: usize = done.iter().map(|(.., bytes)| bytes).sum();
        if done.len() < excess.count || bytes < excess.bytes {
            return false;
        }
        done.sort_unstable();
        let mut gone = Share::default();
        for (_, id, bytes) in done {
            if gone.count >= excess.count && gone.bytes >= excess.bytes {
                break;
            }
            gone = Share { count: gone.count + 1, bytes: gone.bytes + bytes };
            self.remove(id);
        }
        true
    }

    fn insert(&mut self, id: ApprovalId, entry: Entry) {
        let bytes = entry.request.bytes();
        self.bytes += bytes;
        let mine = self.subjects.entry(entry.principal).or_default();
        *mine = Share { count: mine.count + 1, bytes: mine.bytes + bytes };
        self.waiting += usize::from(entry.decision.is_none());
        self.by_key.insert(entry.key, id);
        self.entries.insert(id, entry);
    }

    fn remove(&mut self, id: ApprovalId) {
        let Some(entry) = self.entries.remove(&id) else { return };
        self.bytes -= entry.request.bytes();
        self.waiting -= usize::from(entry.decision.is_none());
        if let Some(mine) = self.subjects.get_mut(&entry.principal) {
            *mine = Share { count: mine.count - 1, bytes: mine.bytes - entry.request.bytes() };
            if mine.count == 0 {
                self.subjects.remove(&entry.principal);
            }
        }
        if self.by_key.get(&entry.key) == Some(&id) {
            self.by_key.remove(&entry.key);
        }
    }
}

impl ApprovalKey {
    /// The key of a call. `arguments` feeds their canonical bytes: the same for the same values, however written.
    #[must_use]
    pub fn of(asked: &Asked<'_>, arguments: impl FnOnce(&mut dyn FnMut(&[u8]))) -> Self {
        let mut hash = digest::Context::new(&digest::SHA256);
        hash.update(b"portcullis approval 1");
        hash.update(&asked.principal.0);
        let (tag, task) = match asked.task {
            ActiveTask::None => (0, ""),
            ActiveTask::One(task) => (1, asked.tasks.name(task)),
            ActiveTask::Several => (2, ""),
        };
        hash.update(&[tag, u8::from(asked.whom == AskWhom::Elicit), u8::from(asked.definition.is_some())]);
        hash.update(asked.definition.map_or(&[][..], |pin| pin));
        for text in [task, asked.server, asked.method, asked.name] {
            hash.update(&(text.len() as u64).to_be_bytes());
            hash.update(text.as_bytes());
        }
        arguments(&mut |bytes| hash.update(bytes));
        let mut whole = [0; 32];
        whole.copy_from_slice(hash.finish().as_ref());
        Self(whole)
    }
}

impl ApprovalKey {
    /// The digest.
    #[must_use]
    pub fn bytes(&self) -> [u8; 32] {
        self.0
    }

    /// The key with this digest.
    #[must_use]
    pub fn from_bytes(digest: [u8; 32]) -> Self {
        Self(digest)
    }
}

impl ApprovalId {
    /// The bytes that it was made of.
    #[must_use]
    pub fn bytes(&self) -> [u8; 10] {
        self.0
    }

    /// Of random bytes.
    #[must_use]
    pub fn new(random: [u8; 10]) -> Self {
        Self(random)
    }

    /// The id that is written so.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let letters = text.strip_prefix("ap-").filter(|letters| letters.len() == 16)?;
        let value = |letter: u8| LETTERS.iter().position(|known| *known == letter);
        let bits = letters.bytes().try_fold(0_u128, |bits, letter| Some(bits << 5 | value(letter)? as u128))?;
        let mut id = [0; 10];
        id.copy_from_slice(&bits.to_be_bytes()[6..]);
        Some(Self(id))
    }
}

/// RFC 4648, section 6, in lower case.
const LETTERS: &[u8; 32] = b"abcdefghijklmnopqrstuvwxyz234567";

impl fmt::Display for ApprovalId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut bits = [0; 16];
        bits[6..].copy_from_slice(&self.0);
        let bits = u128::from_be_bytes(bits);
        f.write_str("ap-")?;
        (0..16)
            .rev()
            .try_for_each(|place| fmt::Write::write_char(f, LETTERS[(bits >> (5 * place) & 31) as usize].into()))
    }
}

impl fmt::Debug for ApprovalId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl Serialize for ApprovalId {
    fn serialize<S: serde::Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for ApprovalId {
    fn deserialize<D: serde::Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<str>::deserialize(from)?;
        Self::parse(&text).ok_or_else(|| serde::de::Error::custom("no id of an approval"))
    }
}

impl Serialize for ApprovalKey {
    fn serialize<S: serde::Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(&hex(&self.0))
    }
}

impl<'de> Deserialize<'de> for ApprovalKey {
    fn deserialize<D: serde::Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<str>::deserialize(from)?;
        unhex(&text).map(Self).ok_or_else(|| serde::de::Error::custom("no key of an approval"))
    }
}

mod shared {
    use std::sync::Arc;

    use super::Request;
    use serde::{Deserialize as _, Deserializer, Serialize as _, Serializer};

    pub(super) fn serialize<S: Serializer>(request: &Arc<Request>, to: S) -> Result<S::Ok, S::Error> {
        Request::serialize(request, to)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Arc<Request>, D::Error> {
        Request::deserialize(from).map(Arc::new)
    }
}

mod hex16 {
    use super::{hex, unhex};
    use serde::{Deserialize as _, Deserializer, Serializer};

    pub(super) fn serialize<S: Serializer>(bytes: &[u8; 16], to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(&hex(bytes))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<[u8; 16], D::Error> {
        let text = std::borrow::Cow::<str>::deserialize(from)?;
        unhex(&text).ok_or_else(|| serde::de::Error::custom("no digest"))
    }
}

fn hex(bytes: &[u8]) -> String {
    let digit = |nibble: u8| char::from_digit(u32::from(nibble), 16).unwrap_or('0');
    bytes.iter().flat_map(|byte| [digit(byte >> 4), digit(byte & 15)]).collect()
}

fn unhex<const N: usize>(digits: &str) -> Option<[u8; N]> {
    let value = |digit: u8| char::from(digit).to_digit(16).and_then(|value| u8::try_from(value).ok());
    let mut bytes = [0; N];
    if digits.len() != 2 * N {
        return None;
    }
    for (byte, pair) in bytes.iter_mut().zip(digits.as_bytes().chunks_exact(2)) {
        *byte = value(pair[0])? << 4 | value(pair[1])?;
    }
    Some(bytes)
}

impl Request {
    /// `None` when it is more than a person is shown.
    fn of(about: &About<'_>) -> Option<Self> {
        let request = Self {
            issuer: about.issuer.into(),
            subject: about.subject.into(),
            agent: about.agent.map(Into::into),
            task: about.task.map(Into::into),
            server: about.server.into(),
            method: about.method.into(),
            name: about.name.into(),
            definition: about.definition.map(|pin| hex(pin).into()),
            rule: about.rule.into(),
            reason: about.reason.map(Into::into),
            arguments: str::from_utf8(about.arguments).ok()?.into(),
        };
        Some(request).filter(|request| request.bytes() <= APPROVAL_BYTES_MAX)
    }

    /// What it takes, bytes.
    fn bytes(&self) -> usize {
        let Self { issuer, subject, agent, task, server, method, name, definition, rule, reason, arguments } = self;
        let texts = [issuer, subject, server, method, name, rule, arguments].map(|text| text.len());
        let more = [agent, task, definition, reason].map(|text| text.as_ref().map_or(0, |text| text.len()));
        texts.into_iter().chain(more).sum()
    }
}

#[cfg(test)]
mod tests;
