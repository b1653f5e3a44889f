//! What servers have asked of clients: requests that were given on under an id of the gateway's own, until the client
//! answers; and what the gateway has asked of a client's user itself. Any shard may have given one on, and any may get
//! its answer.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

use hashbrown::HashMap;

use crate::base::limits::{ASKS_MAX, LEDGER_STRIPES, SERVER_ASKS_MAX, SESSION_ASKS_MAX};
use crate::base::time::Moment;
use crate::mcp::input;
use crate::policy::approval::ApprovalId;

/// Requests of servers without an answer, by session and minted id.
#[derive(Debug)]
pub struct Asks {
    stripes: Box<[Mutex<Part>]>,
    len: AtomicUsize,
}

/// Those of some sessions, by the session's random bits, in the order they were put.
#[derive(Debug, Default)]
struct Part {
    sessions: HashMap<[u8; 16], Vec<(u64, Ask)>, foldhash::fast::RandomState>,
    len: usize,
}

/// What came of a question of the gateway's own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Put {
    /// It is to be sent.
    New,
    /// The session was asked before, and has not answered.
    Known,
    /// Too many wait for an answer: it must not be sent.
    Full,
}

/// One request of a server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ask {
    /// Hash of the server's name.
    pub server: u64,
    /// In which of its sessions it asked: an answer means nothing to another.
    pub epoch: u32,
    /// The server's own id, as it wrote it.
    pub id: Box<[u8]>,
    /// The progress token it gave its client, as it wrote it, where that was given on as the minted id.
    pub token: Option<Box<[u8]>>,
    /// What it asks for; `None` for what needs no leave (`ping`).
    pub kind: Option<input::Ask>,
    /// Of a question of the gateway's own: what its answer decides. Then no server has asked, and none gets the answer.
    pub approval: Option<ApprovalId>,
    /// An answer after this is late.
    pub until: Moment,
}

impl Default for Asks {
    fn default() -> Self {
        Self::new()
    }
}

impl Asks {
    /// None.
    #[must_use]
    pub fn new() -> Self {
        Self { stripes: (0..LEDGER_STRIPES).map(|_| Mutex::default()).collect(), len: AtomicUsize::new(0) }
    }

    /// How many wait for an answer.
    #[must_use]
    pub fn len(&self) -> usize {
        self.len.load(Ordering::Relaxed)
    }

    /// Whether none does.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Remembers one that is about to be given on under a minted id. False when this session, this server, or all
    /// together, have too many: then it must be refused. One server has at most half of the room, so that the others'
    /// questions are heard whatever it does.
    #[must_use]
    pub fn put(&self, nonce: [u8; 16], minted: u64, ask: Ask) -> bool {
        if self.len() >= ASKS_MAX {
            return false;
        }
        self.with(&nonce, |part| part.put(nonce, minted, ask))
    }

    /// Remembers a question of the gateway's own, about an approval, that is about to be sent under a minted id; once,
    /// as long as the session has not answered. Its bounds are those of one server.
    #[must_use]
    pub fn put_own(&self, nonce: [u8; 16], minted: u64, approval: ApprovalId, now: Moment, until: Moment) -> Put {
        let room = self.len() < ASKS_MAX;
        let kind = Some(input::Ask::Elicitation);
        let ask = Ask { server: 0, epoch: 0, id: Box::default(), token: None, kind, approval: Some(approval), until };
        self.with(&nonce, |part| {
            let same = |(_, known): &(u64, Ask)| known.approval == Some(approval) && known.until >= now;
            if part.sessions.get(&nonce).is_some_and(|asks| asks.iter().any(same)) {
                Put::Known
            } else if room && part.put(nonce, minted, ask) {
                Put::New
            } else {
                Put::Full
            }
        })
    }

    /// The client has answered a question of the gateway's own: what the answer decides, once.
    #[must_use]
    pub fn take_own(&self, nonce: [u8; 16], minted: u64, now: Moment) -> Option<ApprovalId> {
        let (_, ask) = self.pull(nonce, |id, ask| id == minted && ask.approval.is_some())?;
        ask.approval.filter(|_| ask.until >= now)
    }

    /// The client has answered: what it answers, once.
    #[must_use]
    pub fn take(&self, nonce: [u8; 16], minted: u64, now: Moment) -> Option<Ask> {
        let ask = self.pull(nonce, |id, ask| id == minted && ask.approval.is_none());
        ask.map(|(_, ask)| ask).filter(|ask| ask.until >= now)
    }

    /// The server that asked under a minted id, and still waits.
    #[must_use]
    pub fn server(&self, nonce: [u8; 16], minted: u64) -> Option<u64> {
        self.with(&nonce, |part| {
            let asks = part.sessions.get(&nonce)?;
            asks.iter().find(|(id, ask)| *id == minted && ask.approval.is_none()).map(|(_, ask)| ask.server)
        })
    }

    /// The client tells how far it is with what it was asked: what that was. It still waits for its answer.
    #[must_use]
    pub fn progressing(&self, nonce: [u8; 16], minted: u64, now: Moment) -> Option<Ask> {
        self.with(&nonce, |part| {
            let asks = part.sessions.get(&nonce)?;
            let ask = asks.iter().find(|(id, ask)| *id == minted && ask.until >= now)?;
            Some(ask.1.clone()).filter(|ask| ask.token.is_some())
        })
    }

    /// The server no longer wants an answer to what it asked, in this session of its own, under this id of its own: the
    /// minted one.
    #[must_use]
    pub fn withdraw(&self, nonce: [u8; 16], server: u64, epoch: u32, id: &[u8]) -> Option<u64> {
        let asked = |ask: &Ask| ask.approval.is_none() && ask.server == server && ask.epoch == epoch && *ask.id == *id;
        self.pull(nonce, |_, ask| asked(ask)).map(|(minted, _)| minted)
    }

    /// The session is over, and so is what it was asked.
    pub fn forget(&self, nonce: [u8; 16]) {
        self.with(&nonce, |part| part.len -= part.sessions.remove(&nonce).map_or(0, |asks| asks.len()));
    }

    /// Drops those whose time is over.
    pub fn sweep(&self, now: Moment) {
        for stripe in &self.stripes {
            self.within(stripe, |part| {
                part.sessions.retain(|_, asks| {
                    let before = asks.len();
                    asks.retain(|(_, ask)| ask.until >= now);
                    part.len -= before - asks.len();
                    !asks.is_empty()
                });
            });
        }
    }

    fn pull(&self, nonce: [u8; 16], which: impl Fn(u64, &Ask) -> bool) -> Option<(u64, Ask)> {
        self.with(&nonce, |part| {
            let asks = part.sessions.get_mut(&nonce)?;
            // The newest first: a server that has used an id again means that one.
            let at = asks.iter().rposition(|(minted, ask)| which(*minted, ask))?;
            let found = asks.remove(at);
            part.len -= 1;
            if asks.is_empty() {
                part.sessions.remove(&nonce);
            }
            Some(found)
        })
    }

    fn with<T>(&self, nonce: &[u8; 16], work: impl FnOnce(&mut Part) -> T) -> T {
        self.within(&self.stripes[usize::from(nonce[0]) % LEDGER_STRIPES], work)
    }

    fn within<T>(&self, stripe: &Mutex<Part>, work: impl FnOnce(&mut Part) -> T) -> T {
        let mut part = stripe.lock().unwrap_or_else(PoisonError::into_inner);
        let before = part.len;
        let result = work(&mut part);
        self.len.fetch_add(part.len.wrapping_sub(before), Ordering::Relaxed);
        result
    }
}

impl Part {
    fn put(&mut self, nonce: [u8; 16], minted: u64, ask: Ask) -> bool {
        let of_server = self.sessions.values().flatten().filter(|(_, known)| known.server == ask.server).count();
        let of_session = self.sessions.get(&nonce).map_or(0, Vec::len);
        let fits = of_session < SESSION_ASKS_MAX && of_server < SERVER_ASKS_MAX;
        if fits {
            self.sessions.entry(nonce).or_default().push((minted, ask));
            self.len += 1;
        }
        fits
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ask(server: u64, id: &[u8]) -> Ask {
        let kind = Some(input::Ask::Elicitation);
        Ask { server, epoch: 1, id: id.into(), token: None, kind, approval: None, until: Moment(100) }
    }

    #[test]
    fn an_answer_finds_its_question_once() {
        let asks = Asks::new();
        assert!(asks.put([1; 16], 5, ask(1, br#""a""#)) && asks.put([1; 16], 6, ask(1, b"1")));
        assert_eq!(asks.take([2; 16], 5, Moment(1)), None, "another session's");
        assert_eq!(asks.take([1; 16], 5, Moment(1)), Some(ask(1, br#""a""#)));
        assert_eq!(asks.take([1; 16], 5, Moment(1)), None, "a second answer");
        assert_eq!(asks.take([1; 16], 6, Moment(101)), None, "late");
        assert!(asks.is_empty());
    }

    #[test]
    fn progress_finds_what_still_waits() {
        let asks = Asks::new();
        let tells = Ask { token: Some(br#""t""#.as_slice().into()), ..ask(1, b"1") };
        assert!(asks.put([1; 16], 5, tells.clone()) && asks.put([1; 16], 6, ask(1, b"2")));
        for _ in 0..2 {
            assert_eq!(asks.progressing([1; 16], 5, Moment(1)), Some(tells.clone()));
        }
        assert_eq!(asks.progressing([2; 16], 5, Moment(1)), None, "another session's");
        assert_eq!(asks.progressing([1; 16], 6, Moment(1)), None, "without a token");
        assert_eq!(asks.progressing([1; 16], 5, Moment(101)), None, "late");
        assert_eq!(asks.take([1; 16], 5, Moment(1)), Some(tells));
        assert_eq!(asks.progressing([1; 16], 5, Moment(1)), None, "answered");
    }

    #[test]
    fn a_question_of_our_own_is_asked_once_and_no_servers() {
        let (asks, approval) = (Asks::new(), ApprovalId::new([1; 10]));
        let put = |nonce: u8, minted, now| asks.put_own([nonce; 16], minted, approval, Moment(now), Moment(100));
        assert_eq!((put(1, 5, 1), put(1, 6, 1), put(2, 7, 1)), (Put::New, Put::Known, Put::New));
        assert_eq!((asks.take([1; 16], 5, Moment(1)), asks.server([1; 16], 5)), (None, None));
        assert_eq!(asks.withdraw([1; 16], 0, 0, b""), None);
        assert_eq!(asks.take_own([2; 16], 5, Moment(1)), None, "another session's");
        assert_eq!(asks.take_own([1; 16], 5, Moment(1)), Some(approval));
        assert_eq!(asks.take_own([1; 16], 5, Moment(1)), None, "a second answer");
        assert_eq!(put(1, 8, 1), Put::New, "it was answered, and may be asked again");
        assert_eq!(asks.take_own([1; 16], 8, Moment(101)), None, "late");
        assert!(asks.put([1; 16], 9, ask(1, b"1")));
        assert_eq!(asks.take_own([1; 16], 9, Moment(1)), None, "a server's");
    }

    #[test]
    fn a_server_withdraws_its_own_newest() {
        let asks = Asks::new();
        assert!(asks.put([1; 16], 5, ask(1, b"1")) && asks.put([1; 16], 6, ask(2, b"1")));
        assert!(asks.put([1; 16], 7, ask(1, b"1")));
        assert_eq!(asks.withdraw([1; 16], 1, 1, br#""1""#), None);
        assert_eq!(asks.withdraw([1; 16], 1, 2, b"1"), None, "in another of its sessions");
        let withdrawn: Vec<_> = (0..3).map(|_| asks.withdraw([1; 16], 1, 1, b"1")).collect();
        assert_eq!(withdrawn, [Some(7), Some(5), None]);
        assert_eq!(asks.len(), 1);
        asks.forget([1; 16]);
        assert!(asks.is_empty());
    }

    #[test]
    fn there_are_no_more_than_fit() {
        let asks = Asks::new();
        let put = (0..100).filter(|minted| asks.put([1; 16], *minted, ask(1, b"1"))).count();
        assert_eq!((put, asks.len()), (SESSION_ASKS_MAX, SESSION_ASKS_MAX));
        // Each server asks in each of as many sessions as there can be.
        let fill = |server: u64| {
            let nonce = |session: u16| {
                let mut nonce = [0; 16];
                nonce[..2].copy_from_slice(&session.to_be_bytes());
                nonce
            };
            (0..=u16::MAX).filter(|session| asks.put(nonce(*session), server, ask(server, b"1"))).count()
        };
        assert_eq!(fill(1) + put, ASKS_MAX / 2, "one leaves room for the others");
        assert_eq!((fill(2), fill(3), asks.len()), (ASKS_MAX / 2, 0, ASKS_MAX));
        asks.sweep(Moment(100));
        assert_eq!(asks.len(), ASKS_MAX);
        asks.sweep(Moment(101));
        assert!(asks.is_empty());
    }
}
