//! How much is under way on this shard, for whom, and what is given up first when it is too much. An operator's bound
//! is for the whole process; a shard holds its callers to a fair share of it.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::hash::BuildHasher as _;
use std::net::{IpAddr, Ipv6Addr};
use std::rc::Rc;

use foldhash::quality::RandomState;

use crate::base::limits::{
    HANDSHAKES_MAX, HANDSHAKES_PER_ADDRESS_MAX, LINGERING_MAX, SHARES_KEPT_MAX, VERIFY_BURST_MS, VERIFY_PERCENT_MAX,
};
use crate::base::time::Moment;
use crate::config::Limits;
use crate::identity::caller::Owner;
use crate::jsonrpc::text;
use crate::upstream::exchange::Abort;

use super::refusal::Kind;

/// Work, by what it is worth when there is too much of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Class {
    /// A token that must be verified first.
    Stranger,
    /// What stays for long: streams, new sessions, large bodies.
    Lasting,
    /// Whatever is asked beside calls: lists, prompts, resources.
    Asking,
    /// A tool call of a caller who is known.
    Call,
}

/// From how many eighths of what the shard can carry on a class is refused: what costs most and is missed least goes
/// first. What is under way already, notifications and the ends of sessions are never refused.
const SHED: &[(Class, usize)] = &[(Class::Stranger, 4), (Class::Lasting, 6), (Class::Asking, 7), (Class::Call, 8)];

impl Class {
    /// Whether work of this class is still taken, with so much in use of what there is.
    #[must_use]
    pub(super) fn fits(self, used: usize, of: usize) -> bool {
        let eighths = used.saturating_mul(8) / of.max(1);
        SHED.iter().any(|(row, from)| *row == self && eighths < *from)
    }
}

/// What is under way.
pub(super) struct Load {
    shards: usize,
    hasher: RandomState,
    addresses: RefCell<HashMap<IpAddr, Guest, RandomState>>,
    subjects: RefCell<HashMap<Owner, Share, RandomState>>,
    /// Requests in flight of handshake-era sessions, by session and id, hashed.
    ids: RefCell<HashMap<u64, UnderWay, RandomState>>,
    /// How many there were.
    numbers: Cell<u64>,
    calls: Cell<usize>,
    streams: Cell<usize>,
    handshakes: Cell<usize>,
    lingering: Cell<usize>,
    allowance: Cell<Allowance>,
    /// With so many subjects those with nothing under way are forgotten.
    sweep_at: Cell<usize>,
}

/// What comes from one network.
#[derive(Clone, Copy, Debug, Default)]
struct Guest {
    connections: u32,
    handshakes: u32,
}

/// What one subject has under way.
#[derive(Clone, Copy, Debug, Default)]
struct Share {
    calls: u32,
    streams: u32,
}

/// A request in flight.
struct UnderWay {
    /// No other has it, unlike its key.
    number: u64,
    /// Ends its exchange with the server.
    abort: Rc<Abort>,
    cancel: Stage,
    /// Of one of several servers: which, and which of its sessions, by its digest and epoch.
    at: Option<(u64, u32)>,
}

/// How far its cancellation has come.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Stage {
    NotAsked,
    /// Its server was told, and has some time.
    Asked,
    Done,
}

/// What a cancellation found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Found {
    /// No such request is under way here.
    Nothing,
    /// One that is being cancelled already.
    Again,
    /// This one.
    Flight(FlightKey),
}

/// One request in flight, and no later one with its id.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct FlightKey {
    key: u64,
    number: u64,
}

/// Time that may be spent on verifying tokens.
#[derive(Clone, Copy, Debug)]
struct Allowance {
    /// Nanoseconds; below zero when the last verification took more than there was.
    left: i64,
    at: Moment,
}

impl Load {
    /// Nothing yet.
    pub(super) fn new(shards: usize, now: Moment) -> Self {
        Self {
            shards: shards.max(1),
            hasher: RandomState::default(),
            addresses: RefCell::default(),
            subjects: RefCell::default(),
            ids: RefCell::default(),
            numbers: Cell::new(0),
            calls: Cell::new(0),
            streams: Cell::new(0),
            handshakes: Cell::new(0),
            lingering: Cell::new(0),
            allowance: Cell::new(Allowance { left: BURST, at: now }),
            sweep_at: Cell::new(SHARES_KEPT_MAX),
        }
    }

    /// How many calls and streams there are.
    pub(super) fn under_way(&self) -> (usize, usize) {
        (self.calls.get(), self.streams.get())
    }

    /// One more connection from there, if that is within its share.
    #[must_use]
    pub(super) fn arrive(&self, peer: IpAddr, limits: &Limits) -> bool {
        let mut addresses = self.addresses.borrow_mut();
        let guest = addresses.entry(network(peer)).or_default();
        let fits = (guest.connections as usize) < self.share(limits.connections_per_address_max);
        guest.connections += u32::from(fits);
        fits
    }

    /// And one less.
    pub(super) fn leave(&self, peer: IpAddr) {
        let mut addresses = self.addresses.borrow_mut();
        if let Some(guest) = addresses.get_mut(&network(peer)) {
            guest.connections -= 1;
            if guest.connections == 0 {
                addresses.remove(&network(peer));
            }
        }
    }

    /// One more call of this subject.
    ///
    /// # Errors
    /// `SubjectBusy`, `Overloaded`.
    pub(super) fn call(&self, subject: Owner, limits: &Limits) -> Result<(), Kind> {
        if self.calls.get() >= self.share(limits.calls_max) {
            return Err(Kind::Overloaded);
        }
        let mut subjects = self.subjects.borrow_mut();
        let share = subjects.entry(subject).or_default();
        if share.calls as usize >= self.share(limits.calls_per_subject_max) {
            return Err(Kind::SubjectBusy);
        }
        share.calls += 1;
        self.calls.set(self.calls.get() + 1);
        Ok(())
    }

    /// And one less.
    pub(super) fn called(&self, subject: Owner) {
        self.calls.set(self.calls.get() - 1);
        self.gone(subject, |share| share.calls = share.calls.saturating_sub(1));
    }

    /// One more stream of this subject.
    ///
    /// # Errors
    /// `StreamsBusy`, `Overloaded`.
    pub(super) fn stream(&self, subject: Owner, limits: &Limits) -> Result<(), Kind> {
        if self.streams.get() >= self.share(limits.streams_max) {
            return Err(Kind::Overloaded);
        }
        let mut subjects = self.subjects.borrow_mut();
        let share = subjects.entry(subject).or_default();
        if share.streams as usize >= self.share(limits.streams_per_subject_max) {
            return Err(Kind::StreamsBusy);
        }
        share.streams += 1;
        self.streams.set(self.streams.get() + 1);
        Ok(())
    }

    /// And one less.
    pub(super) fn streamed(&self, subject: Owner) {
        self.streams.set(self.streams.get() - 1);
        self.gone(subject, |share| share.streams = share.streams.saturating_sub(1));
    }

    /// A subject with nothing under way is forgotten, but not at once: the next call is likely to be its own.
    fn gone(&self, subject: Owner, less: impl FnOnce(&mut Share)) {
        let mut subjects = self.subjects.borrow_mut();
        if let Some(share) = subjects.get_mut(&subject) {
            less(share);
        }
        if subjects.len() > self.sweep_at.get() {
            subjects.retain(|_, share| share.calls + share.streams > 0);
            // Those that are left may all be at work: the next sweep waits until there are twice as many.
            self.sweep_at.set(SHARES_KEPT_MAX.max(2 * subjects.len()));
        }
    }

    /// A request of a session gets under way, and whoever cancels it fires `abort`; what to give back when it has
    /// ended. `None` when one with its id is under way already: the server could not tell the two answers apart
    /// (JSON-RPC 2.0, 4; MCP basic, Requests).
    pub(super) fn id(&self, session: &[u8; 16], id: &[u8], abort: &Rc<Abort>) -> Option<u64> {
        let key = self.key(session, id);
        let mut ids = self.ids.borrow_mut();
        let Entry::Vacant(place) = ids.entry(key) else { return None };
        let number = self.numbers.get();
        self.numbers.set(number + 1);
        place.insert(UnderWay { number, abort: abort.clone(), cancel: Stage::NotAsked, at: None });
        Some(key)
    }

    /// A request goes to this server of several, in this session of that.
    pub(super) fn goes_to(&self, key: u64, server: u64, epoch: u32) {
        if let Some(under_way) = self.ids.borrow_mut().get_mut(&key) {
            under_way.at = Some((server, epoch));
        }
    }

    /// Where it has gone; `None` while it is here.
    pub(super) fn is_at(&self, flight: FlightKey) -> Option<(u64, u32)> {
        self.ids.borrow().get(&flight.key).filter(|under_way| under_way.number == flight.number)?.at
    }

    /// Begins to cancel the request with this id, if it is under way here.
    pub(super) fn cancel(&self, session: &[u8; 16], id: &[u8]) -> Found {
        let key = self.key(session, id);
        match self.ids.borrow_mut().get_mut(&key) {
            None => Found::Nothing,
            Some(under_way) if under_way.cancel != Stage::NotAsked => Found::Again,
            Some(under_way) => {
                under_way.cancel = Stage::Asked;
                Found::Flight(FlightKey { key, number: under_way.number })
            }
        }
    }

    /// Ends a request whose server has had its time; `false` when it has ended by itself.
    pub(super) fn cancel_now(&self, flight: FlightKey) -> bool {
        let abort = match self.ids.borrow_mut().get_mut(&flight.key) {
            Some(under_way) if under_way.number == flight.number => {
                under_way.cancel = Stage::Done;
                under_way.abort.clone()
            }
            _ => return false,
        };
        abort.fire();
        true
    }

    /// Whether it was ended so.
    pub(super) fn is_cancelled(&self, key: u64) -> bool {
        self.ids.borrow().get(&key).is_some_and(|under_way| under_way.cancel == Stage::Done)
    }

    /// An id is what it says, however it is written: `"a"` is `"\u0061"`, and `"1"` is not `1`.
    fn key(&self, session: &[u8; 16], id: &[u8]) -> u64 {
        let mut scratch = Vec::new();
        let is_text = id.first() == Some(&b'"');
        let text = if is_text { text::unescape(text::inside(id), &mut scratch).ok() } else { None };
        self.hasher.hash_one((session, is_text, text.map_or(id, str::as_bytes)))
    }

    /// And has ended.
    pub(super) fn id_ended(&self, key: u64) {
        self.ids.borrow_mut().remove(&key);
    }

    /// Whether work of this class is still taken, with `lent` of `budget` bytes of buffers in use.
    #[must_use]
    pub(super) fn admits(&self, class: Class, lent: usize, budget: usize, limits: &Limits) -> bool {
        class.fits(lent, budget) && class.fits(self.calls.get(), self.share(limits.calls_max))
    }

    /// Whether a token may be verified now: verifications take a small part of the shard's time, so that a flood of
    /// tokens that nobody knows costs those who are known next to nothing.
    #[must_use]
    pub(super) fn may_verify(&self, now: Moment) -> bool {
        let Allowance { left, at } = self.allowance.get();
        let more = nanos(at, now) / 100 * VERIFY_PERCENT_MAX;
        let left = left.saturating_add(more).min(BURST);
        self.allowance.set(Allowance { left, at: now });
        left > 0
    }

    /// A verification took from `since` to `now`.
    pub(super) fn verified(&self, since: Moment, now: Moment) {
        let allowance = self.allowance.get();
        self.allowance.set(Allowance { left: allowance.left.saturating_sub(nanos(since, now)), ..allowance });
    }

    /// One more TLS handshake, if there is room: in all, and for the network that the connection, counted already,
    /// comes from. Who only begins them must not keep everybody else from theirs.
    #[must_use]
    pub(super) fn handshake(&self, peer: IpAddr) -> bool {
        let mut addresses = self.addresses.borrow_mut();
        let Some(guest) = addresses.get_mut(&network(peer)) else { return false };
        let fits = guest.handshakes < HANDSHAKES_PER_ADDRESS_MAX && counted(&self.handshakes, HANDSHAKES_MAX);
        guest.handshakes += u32::from(fits);
        fits
    }

    /// And one less.
    pub(super) fn handshaken(&self, peer: IpAddr) {
        self.handshakes.set(self.handshakes.get() - 1);
        if let Some(guest) = self.addresses.borrow_mut().get_mut(&network(peer)) {
            guest.handshakes -= 1;
        }
    }

    /// One more connection that is told to go, if there is room for such courtesy.
    #[must_use]
    pub(super) fn linger(&self) -> bool {
        counted(&self.lingering, LINGERING_MAX)
    }

    /// And one less.
    pub(super) fn lingered(&self) {
        self.lingering.set(self.lingering.get() - 1);
    }

    /// This shard's share of what the operator allows the process: at least one.
    fn share(&self, limit: usize) -> usize {
        limit.div_ceil(self.shards)
    }
}

/// Whose an address is: an IPv4 address inside an IPv6 one is that, and of any other IPv6 address the first 64 bits,
/// which is what one host is given at least (RFC 6177).
fn network(peer: IpAddr) -> IpAddr {
    match peer.to_canonical() {
        IpAddr::V6(peer) => IpAddr::V6(Ipv6Addr::from_bits(peer.to_bits() >> 64 << 64)),
        peer => peer,
    }
}

fn counted(count: &Cell<usize>, max: usize) -> bool {
    let fits = count.get() < max;
    count.set(count.get() + usize::from(fits));
    fits
}

fn nanos(from: Moment, to: Moment) -> i64 {
    i64::try_from(to.since(from).as_nanos()).unwrap_or(i64::MAX)
}

#[expect(clippy::cast_possible_wrap, reason = "a few hundred milliseconds")]
const BURST: i64 = VERIFY_BURST_MS as i64 * 1_000_000;

#[cfg(test)]
mod tests {
    use super::*;

    fn limits() -> Limits {
        Limits {
            connections_per_address_max: 4,
            calls_max: 16,
            calls_per_subject_max: 6,
            streams_max: 8,
            streams_per_subject_max: 3,
            ..Limits::default()
        }
    }

    fn owner(name: &str) -> Owner {
        Owner::of("i", name, None)
    }

    fn load() -> Load {
        Load::new(2, Moment(0))
    }

    /// [S6] Fair shares of bounds that are for the process: half of them on one shard of two.
    #[test]
    fn shares_are_held_and_given_back() {
        let (load, limits) = (load(), limits());
        let (alice, bob) = (owner("alice"), owner("bob"));
        for _ in 0..3 {
            assert_eq!(load.call(alice, &limits), Ok(()));
        }
        assert_eq!(load.call(alice, &limits), Err(Kind::SubjectBusy));
        assert_eq!(load.call(bob, &limits), Ok(()), "somebody else's share is untouched");
        load.called(alice);
        assert_eq!(load.call(alice, &limits), Ok(()));
        assert_eq!(load.stream(alice, &limits), Ok(()));
        assert_eq!(load.stream(alice, &limits), Ok(()));
        assert_eq!(load.stream(alice, &limits), Err(Kind::StreamsBusy));
        load.streamed(alice);
        assert_eq!(load.stream(alice, &limits), Ok(()));
        for name in ["c", "d", "e", "f"] {
            assert_eq!(load.call(owner(name), &limits), Ok(()));
        }
        assert_eq!(load.call(owner("g"), &limits), Err(Kind::Overloaded), "eight is the shard's half of sixteen");
    }

    #[test]
    fn subjects_with_nothing_under_way_are_forgotten() {
        let load = load();
        let limits = Limits { calls_max: usize::MAX, ..limits() };
        for number in 0..2 * SHARES_KEPT_MAX {
            let subject = owner(&number.to_string());
            load.call(subject, &limits).unwrap();
            load.called(subject);
        }
        assert!(load.subjects.borrow().len() <= SHARES_KEPT_MAX + 1);
    }

    /// [S6] Connections of one address, and of one IPv6 network, which is all one host's.
    #[test]
    fn addresses_have_shares() {
        let (load, limits) = (load(), limits());
        let check = |address: &str, fits: bool| assert_eq!(load.arrive(address.parse().unwrap(), &limits), fits);
        check("10.0.0.1", true);
        check("::ffff:10.0.0.1", true);
        check("10.0.0.1", false);
        check("10.0.0.2", true);
        check("2001:db8::1", true);
        check("2001:db8::ffff:2", true);
        check("2001:db8::3", false);
        check("2001:db8:0:1::1", true);
        load.leave("2001:db8::9".parse().unwrap());
        check("2001:db8::3", true);
        load.leave("10.0.0.2".parse().unwrap());
        assert_eq!(load.addresses.borrow().len(), 3, "nobody there, nothing kept");
    }

    /// [R6] [T3] Handshakes that one network begins and does not end leave room for those of others.
    #[test]
    fn handshakes_have_shares() {
        let (load, limits) = (load(), Limits { connections_per_address_max: usize::MAX, ..limits() });
        let (one, other): (IpAddr, IpAddr) = ("10.0.0.1".parse().unwrap(), "10.0.0.2".parse().unwrap());
        let begun = (0..2 * HANDSHAKES_MAX).filter(|_| load.arrive(one, &limits) && load.handshake(one)).count();
        assert_eq!(begun, HANDSHAKES_PER_ADDRESS_MAX as usize);
        assert!(load.arrive(other, &limits) && load.handshake(other), "others have theirs");
        load.handshaken(one);
        assert!(load.handshake(one) && !load.handshake(one));
    }

    #[test]
    fn the_least_missed_goes_first() {
        let (load, limits) = (load(), limits());
        let admitted = |lent: usize| {
            SHED.iter().filter(|(class, _)| load.admits(*class, lent, 800, &limits)).map(|(class, _)| *class).collect()
        };
        let check = |lent: usize, want: &[Class]| {
            let got: Vec<Class> = admitted(lent);
            assert_eq!(got, want, "{lent} of 800");
        };
        check(0, &[Class::Stranger, Class::Lasting, Class::Asking, Class::Call]);
        check(399, &[Class::Stranger, Class::Lasting, Class::Asking, Class::Call]);
        check(400, &[Class::Lasting, Class::Asking, Class::Call]);
        check(600, &[Class::Asking, Class::Call]);
        check(700, &[Class::Call]);
        check(800, &[]);
        for name in ["a", "b", "c", "d"] {
            load.call(owner(name), &limits).unwrap();
        }
        check(0, &[Class::Lasting, Class::Asking, Class::Call]);
    }

    /// [K10] A twentieth of the time, and a burst at the start.
    #[test]
    fn verifications_have_a_budget() {
        let load = load();
        let ms = |ms: u64| Moment(ms * 1_000_000);
        let mut spent = 0;
        // A hundred seconds of nothing but tokens, each of which takes a millisecond.
        for at in 0..100_000 {
            if load.may_verify(ms(at)) {
                load.verified(ms(at), ms(at + 1));
                spent += 1;
            }
        }
        let allowed = VERIFY_BURST_MS + 100_000 / 100 * VERIFY_PERCENT_MAX.unsigned_abs();
        assert!((allowed - 2..=allowed + 2).contains(&spent), "{spent} of {allowed} ms");
        assert!(load.may_verify(ms(10_000_000)), "and it comes back");
    }

    /// [E5] One request of a session per id at a time; other sessions have their own.
    #[test]
    fn ids_in_flight() {
        let (load, abort) = (load(), Rc::default());
        let first = load.id(&[1; 16], b"7", &abort).unwrap();
        assert_eq!(load.id(&[1; 16], b"7", &abort), None);
        assert!(load.id(&[2; 16], b"7", &abort).is_some() && load.id(&[1; 16], b"\"7\"", &abort).is_some());
        assert_eq!(load.id(&[1; 16], b"\"\\u0037\"", &abort), None, "the same text, written otherwise");
        load.id_ended(first);
        assert!(load.id(&[1; 16], b"7", &abort).is_some());
    }

    /// A cancellation meets the request that had the id then, and not the next one with it.
    #[test]
    fn what_is_cancelled_is_what_was_meant() {
        let load = load();
        let (one, other): (Rc<Abort>, Rc<Abort>) = (Rc::default(), Rc::default());
        let first = load.id(&[1; 16], b"7", &one).unwrap();
        assert_eq!(load.cancel(&[2; 16], b"7"), Found::Nothing);
        let Found::Flight(flight) = load.cancel(&[1; 16], b"7") else { panic!("it is under way") };
        assert_eq!(load.cancel(&[1; 16], b"7"), Found::Again);
        assert!(!load.is_cancelled(first), "its server has time yet");
        load.id_ended(first);
        let second = load.id(&[1; 16], b"7", &other).unwrap();
        assert!(!load.cancel_now(flight) && !one.fired() && !other.fired());
        let Found::Flight(flight) = load.cancel(&[1; 16], b"7") else { panic!("so is the second") };
        assert!(load.cancel_now(flight) && other.fired() && load.is_cancelled(second));
    }
}
