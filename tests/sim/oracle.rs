//! What must hold, whatever happens. The oracle hears from everybody, knows what nobody in the world does, and panics at
//! the first thing that must not be.

use std::collections::{BTreeMap, BTreeSet};

use portcullis::base::limits::LEASE_MS;
use portcullis::base::time::Moment;
use portcullis::identity::caller::Owner;

use super::event::Token;

/// A session's random bits.
pub(super) type Nonce = [u8; 16];

#[derive(Default)]
pub(super) struct Oracle {
    pub(super) calls: BTreeMap<Token, Called>,
    notes: BTreeMap<Token, Noted>,
    asks: BTreeMap<Token, Asked>,
    owners: BTreeMap<Nonce, Owner>,
    /// Sessions that have ended, with the journal's mark that makes it safe.
    over: BTreeMap<Nonce, u64>,
    /// The server's session that is in use for a session.
    using: BTreeMap<(Nonce, usize), Box<[u8]>>,
    epochs: BTreeMap<(u32, Nonce, usize, u32), Box<[u8]>>,
    /// Log levels that clients have set, and were told that they have.
    pub(super) levels: BTreeMap<Nonce, u8>,
    /// Who is opening a session at a server, and until when nobody else may.
    leads: BTreeMap<(Nonce, usize), (u32, Moment)>,
    /// Sessions of whose own stream something may be missing.
    unclean: BTreeSet<Nonce>,
}

/// All that is known of a call.
#[derive(Default)]
pub(super) struct Called {
    pub(super) nonce: Nonce,
    permits: u32,
    executed: u32,
    answers: u32,
    /// Its client has asked for its end.
    pub(super) cancel_asked: bool,
    /// What its stream tells, in order.
    pub(super) told: Vec<Token>,
    /// Some of its stream may be missing.
    pub(super) tainted: bool,
}

struct Noted {
    nonce: Nonce,
    /// It is on the session's own stream, at the gateway.
    home: bool,
    delivered: u32,
}

struct Asked {
    nonce: Nonce,
    server: usize,
    session: Box<[u8]>,
    raw: u64,
    shown: u32,
    answered: u32,
    taken: bool,
}

impl Oracle {
    pub(super) fn began(&mut self, nonce: Nonce, owner: Owner) {
        assert!(self.owners.insert(nonce, owner).is_none(), "two sessions are one");
    }

    pub(super) fn owner(&self, nonce: &Nonce) -> Option<Owner> {
        self.owners.get(nonce).copied()
    }

    pub(super) fn calls(&mut self, token: Token, nonce: Nonce) {
        self.calls.insert(token, Called { nonce, ..Called::default() });
    }

    /// The gateway has decided that this call may be made, by this owner.
    pub(super) fn permit(&mut self, token: Token, owner: Owner) {
        let call = self.calls.get_mut(&token).expect("clients say what they call");
        assert_eq!(self.owners.get(&call.nonce), Some(&owner), "a session has changed hands");
        call.permits += 1;
        assert_eq!(call.permits, 1, "two permits for one call");
    }

    /// A server has executed it, in a session of its own that was opened for `nonce`.
    pub(super) fn executed(&mut self, token: Token, nonce: Option<Nonce>) {
        let call = self.calls.get_mut(&token).expect("clients say what they call");
        assert_eq!(call.permits, 1, "executed without a permit");
        call.executed += 1;
        assert_eq!(call.executed, 1, "executed twice");
        assert!(nonce.is_none_or(|nonce| nonce == call.nonce), "executed in another's session");
    }

    /// A client got this as the answer to its call `asked`.
    pub(super) fn answered(&mut self, token: Token, asked: Token) {
        assert_eq!(token, asked, "an answer went to another call");
        let call = self.calls.get_mut(&token).expect("clients say what they call");
        assert_eq!(call.executed, 1, "an answer to what was not executed");
        call.answers += 1;
        assert_eq!(call.answers, 1, "two answers to one call");
    }

    /// A client heard that its call was cancelled.
    pub(super) fn cancelled(&self, token: Token) {
        assert!(self.calls[&token].cancel_asked, "a call was cancelled that nobody wanted to cancel");
    }

    /// What a client got of a call's stream, to its answer.
    pub(super) fn stream_ended(&self, token: Token, got: &[Token]) -> bool {
        let call = &self.calls[&token];
        if !call.tainted {
            assert_eq!(got, call.told, "a stream that was never torn is not whole");
        }
        !call.tainted
    }

    pub(super) fn taint(&mut self, token: Token) {
        if let Some(call) = self.calls.get_mut(&token) {
            call.tainted = true;
        }
    }

    /// A server tells this, in a session of its own that was opened for `nonce`.
    pub(super) fn notes(&mut self, token: Token, nonce: Nonce) {
        self.notes.insert(token, Noted { nonce, home: false, delivered: 0 });
    }

    /// And it is on the session's own stream.
    pub(super) fn home(&mut self, token: Token) {
        if let Some(note) = self.notes.get_mut(&token) {
            note.home = true;
        }
    }

    pub(super) fn noted(&mut self, token: Token, nonce: Nonce) {
        let note = self.notes.get_mut(&token).expect("servers say what they tell");
        assert_eq!(note.nonce, nonce, "a notification went to another session");
        note.delivered += 1;
        assert_eq!(note.delivered, 1, "a notification was delivered twice");
    }

    /// Something of this session's own stream may be missing from now on.
    pub(super) fn unclean(&mut self, nonce: Nonce) {
        self.unclean.insert(nonce);
    }

    pub(super) fn all_unclean(&mut self) {
        self.unclean.extend(self.owners.keys());
    }

    /// Everything that a session's own stream was to carry has arrived; whether that could be said of it.
    pub(super) fn home_is_whole(&self, nonce: Nonce) -> bool {
        if self.unclean.contains(&nonce) {
            return false;
        }
        let mut some = false;
        for (token, note) in self.notes.iter().filter(|(_, note)| note.home && note.nonce == nonce) {
            assert_eq!(note.delivered, 1, "notification {token} never arrived on a stream that nothing befell");
            some = true;
        }
        some
    }

    pub(super) fn asks(&mut self, token: Token, nonce: Nonce, server: usize, session: &[u8], raw: u64) {
        let asked = Asked { nonce, server, session: session.into(), raw, shown: 0, answered: 0, taken: false };
        self.asks.insert(token, asked);
    }

    /// A client is asked.
    pub(super) fn shown(&mut self, token: Token, nonce: Nonce) {
        let ask = self.asks.get_mut(&token).expect("servers say what they ask");
        assert_eq!(ask.nonce, nonce, "another client was asked");
        ask.shown += 1;
        assert_eq!(ask.shown, 1, "a client was asked twice");
    }

    /// A server gets an answer.
    pub(super) fn ask_answered(&mut self, token: Token, server: usize, session: &[u8], raw: &[u8]) {
        let ask = self.asks.get_mut(&token).expect("servers say what they ask");
        let meant = (ask.server, &*ask.session, ask.raw.to_string());
        assert_eq!((server, session, String::from_utf8_lossy(raw).into_owned()), meant, "not what was asked");
        assert_eq!(ask.shown, 1, "an answer of somebody who was not asked");
        ask.answered += 1;
        assert_eq!(ask.answered, 1, "a server got two answers");
    }

    /// A session has ended: it is safe when the journal's `mark` is kept.
    pub(super) fn ended(&mut self, nonce: Nonce, mark: u64) {
        self.over.entry(nonce).or_insert(mark);
    }

    pub(super) fn is_over(&self, nonce: &Nonce) -> bool {
        self.over.contains_key(nonce)
    }

    /// The client hears that its session has ended.
    pub(super) fn end_answered(&self, nonce: &Nonce, kept: u64) {
        let mark = self.over.get(nonce).expect("what is answered has happened");
        assert!(*mark <= kept, "an end was answered before it was safe");
    }

    /// Somebody is told to open a session at a server.
    pub(super) fn leads(&mut self, nonce: Nonce, server: usize, epoch: u32, now: Moment) {
        let before = self.leads.insert((nonce, server), (epoch, now.plus_ms(LEASE_MS)));
        assert!(before.is_none_or(|(_, until)| until <= now), "two open a session at a server at a time");
    }

    /// And is done with it.
    pub(super) fn led(&mut self, nonce: Nonce, server: usize, epoch: u32) {
        if self.leads.get(&(nonce, server)).is_some_and(|(leads, _)| *leads == epoch) {
            self.leads.remove(&(nonce, server));
        }
    }

    /// A session's message leaves for a server.
    pub(super) fn sends(&mut self, life: u32, nonce: Nonce, server: usize, epoch: u32, id: &[u8], doomed: bool) {
        assert!(!doomed, "an ended session serves");
        let known = self.epochs.entry((life, nonce, server, epoch)).or_insert_with(|| id.into());
        assert_eq!(**known, *id, "two sessions of a server are one epoch");
    }

    /// A server serves in a session; `lives` says whether another one is still there.
    pub(super) fn serves(&mut self, nonce: Nonce, server: usize, id: &[u8], lives: impl Fn(&[u8]) -> bool) {
        let current = self.using.entry((nonce, server)).or_insert_with(|| id.into());
        assert!(**current == *id || !lives(current), "two sessions of a server are in use for one");
        *current = id.into();
    }

    /// The gateway was killed: what was not kept may be undone.
    pub(super) fn killed(&mut self, kept: u64) {
        self.over.retain(|_, mark| *mark <= kept);
        self.over.values_mut().for_each(|mark| *mark = 0);
        self.using.clear();
        self.leads.clear();
        self.levels.clear();
        self.all_unclean();
        self.calls.values_mut().for_each(|call| call.tainted = true);
    }

    /// Its answer was found to be one.
    pub(super) fn taken(&mut self, token: Token) {
        let ask = self.asks.get_mut(&token).expect("an answer to what nobody asked, or to another's question");
        assert!(!ask.taken, "an answer was taken twice");
        ask.taken = true;
    }

    pub(super) fn was_answered(&self, token: Token) -> bool {
        self.asks.get(&token).is_some_and(|ask| ask.taken)
    }

    /// Whether a server's session was ever used for this one.
    pub(super) fn was_used(&self, nonce: Nonce, server: usize) -> bool {
        self.using.contains_key(&(nonce, server))
    }
}
