//! Mail across: what one shard must tell others at once, and connections that move from one to another. A letter is in
//! every box before its writer answers anyone, and a shard reads its letters before it opens a session, so none acts on
//! what has been taken back. A bell wakes whoever has mail.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::base::ids::ShardId;
use crate::base::limits::{LETTERS_MAX, PARCELS_BYTES_MAX, PARCELS_MAX};
use crate::tls::stream::Parts;
use crate::uring::bell::{self, Bell, Ear};

/// A letter.
#[derive(Clone, Debug)]
pub enum Letter {
    /// The session with these random bits was ended by its client.
    SessionEnded([u8; 16]),
    /// A client takes a request of its session back.
    Cancelled(Arc<Cancel>),
    /// A server has a new session for the one with these random bits, opened by another shard than its home.
    SessionOpened([u8; 16]),
    /// The session with these random bits goes on at another instance of the server with this digest, in its session of
    /// this epoch: the one before may still be known there.
    SessionMoved([u8; 16], u64, u32),
    /// The plane has brought something that somebody on some shard may wait for.
    Brought,
    /// The box was full, and letters were left out: what is remembered of sessions may be out of date.
    Missed,
}

/// A request that its client takes back, looked for on all shards.
#[derive(Debug)]
pub struct Cancel {
    /// Its session's random bits.
    pub nonce: [u8; 16],
    /// Its id as JSON text.
    pub id: Box<[u8]>,
    /// What to tell its server, where only the shard that has it knows which one that is: the whole message.
    pub word: Option<Box<[u8]>>,
    /// Shards that have not looked yet.
    left: AtomicUsize,
    found: AtomicBool,
}

/// A connection on its way to another shard.
pub struct Parcel {
    /// The connection.
    pub parts: Parts,
    /// What it has received, from the head of the request on for which it moves.
    pub received: Vec<u8>,
}

/// One box per shard.
#[derive(Debug)]
pub struct Mail {
    boxes: Vec<Letterbox>,
}

#[derive(Debug)]
struct Letterbox {
    /// There are letters.
    flag: AtomicBool,
    inside: Mutex<Inside>,
    bell: Bell,
    /// Until its shard listens.
    ear: Mutex<Option<Ear>>,
}

#[derive(Debug, Default)]
struct Inside {
    letters: Vec<Letter>,
    /// There is a [`Letter::Brought`]: one stands for all, and takes no other's place.
    brought: bool,
    parcels: Vec<Parcel>,
    /// Received bytes of all parcels.
    parcel_bytes: usize,
    /// Its shard takes no parcels any more.
    closed: bool,
}

impl Mail {
    /// Boxes for so many shards.
    ///
    /// # Errors
    /// The process may open no more files.
    pub fn new(shards: usize) -> std::io::Result<Self> {
        Ok(Self { boxes: (0..shards).map(|_| Letterbox::new()).collect::<std::io::Result<_>>()? })
    }

    /// How many boxes there are.
    #[must_use]
    pub fn shards(&self) -> usize {
        self.boxes.len()
    }

    /// What a shard hears its bell with; once.
    #[must_use]
    pub fn ear(&self, shard: ShardId) -> Option<Ear> {
        self.boxes.get(shard.index())?.ear.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    /// Puts a letter into every box, the writer's own too. A full box gets [`Letter::Missed`] instead; a cancellation is
    /// just left out, and of a box that is half full already: many of them must not crowd out what has to be known. Of
    /// [`Letter::Brought`] there is one in a box at a time.
    pub fn send(&self, letter: &Letter) {
        self.boxes.iter().for_each(|letterbox| letterbox.put(letter));
    }

    /// Puts it into one shard's box alone.
    pub fn send_to(&self, shard: ShardId, letter: &Letter) {
        self.boxes.get(shard.index()).into_iter().for_each(|letterbox| letterbox.put(letter));
    }

    /// Takes a shard's letters. Costs one load while there are none, which is nearly always.
    pub fn take(&self, shard: ShardId, mut each: impl FnMut(Letter)) {
        let Some(letterbox) = self.boxes.get(shard.index()) else { return };
        if letterbox.flag.load(Ordering::Acquire) {
            let mut inside = letterbox.inside();
            letterbox.flag.store(false, Ordering::Release);
            inside.letters.drain(..).for_each(&mut each);
            if std::mem::take(&mut inside.brought) {
                each(Letter::Brought);
            }
        }
    }

    /// Sends a connection to a shard.
    ///
    /// # Errors
    /// The parcel comes back when the shard has as many on their way to it as it may, has ended, or is none.
    #[expect(clippy::result_large_err, reason = "what comes back is what was given")]
    pub fn hand(&self, to: ShardId, parcel: Parcel) -> Result<(), Parcel> {
        let Some(letterbox) = self.boxes.get(to.index()) else { return Err(parcel) };
        {
            let mut inside = letterbox.inside();
            let bytes = inside.parcel_bytes + parcel.received.len();
            // One always fits, however large.
            let fits = inside.parcels.len() < PARCELS_MAX && (bytes <= PARCELS_BYTES_MAX || inside.parcels.is_empty());
            if inside.closed || !fits {
                return Err(parcel);
            }
            inside.parcel_bytes = bytes;
            inside.parcels.push(parcel);
        }
        letterbox.bell.ring();
        Ok(())
    }

    /// The connections that have come for a shard.
    #[must_use]
    pub fn parcels(&self, shard: ShardId) -> Vec<Parcel> {
        self.boxes.get(shard.index()).map_or_else(Vec::new, |letterbox| letterbox.inside().take_parcels())
    }

    /// The same, and from now on nobody can send it more.
    #[must_use]
    pub fn last_parcels(&self, shard: ShardId) -> Vec<Parcel> {
        let Some(letterbox) = self.boxes.get(shard.index()) else { return Vec::new() };
        let mut inside = letterbox.inside();
        inside.closed = true;
        inside.take_parcels()
    }
}

impl Letterbox {
    fn new() -> std::io::Result<Self> {
        let (bell, ear) = bell::pair()?;
        Ok(Self { flag: AtomicBool::new(false), inside: Mutex::default(), bell, ear: Mutex::new(Some(ear)) })
    }

    fn put(&self, letter: &Letter) {
        {
            let mut inside = self.inside();
            match letter {
                Letter::Cancelled(cancel) if inside.letters.len() >= LETTERS_MAX / 2 => {
                    cancel.is_vain(false);
                }
                // Its bell has rung, and it has not looked yet.
                Letter::Brought if inside.brought => return,
                Letter::Brought => inside.brought = true,
                letter if inside.letters.len() < LETTERS_MAX => inside.letters.push(letter.clone()),
                _ => {
                    inside.letters.pop();
                    inside.letters.push(Letter::Missed);
                }
            }
            self.flag.store(true, Ordering::Release);
        }
        self.bell.ring();
    }

    fn inside(&self) -> MutexGuard<'_, Inside> {
        self.inside.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inside {
    fn take_parcels(&mut self) -> Vec<Parcel> {
        self.parcel_bytes = 0;
        std::mem::take(&mut self.parcels)
    }
}

impl Cancel {
    /// Of the request with this id in this session, to be looked for on so many shards.
    #[must_use]
    pub fn new(nonce: [u8; 16], id: &[u8], word: Option<&[u8]>, shards: usize) -> Self {
        Self {
            nonce,
            id: id.into(),
            word: word.map(Into::into),
            left: AtomicUsize::new(shards),
            found: AtomicBool::new(false),
        }
    }

    /// One more shard has looked for it. Whether now all have, and none has found it: it came too late, or was made up.
    pub fn is_vain(&self, found: bool) -> bool {
        if found {
            self.found.store(true, Ordering::Relaxed);
        }
        // The last one sees what all others have stored before.
        self.left.fetch_sub(1, Ordering::AcqRel) == 1 && !self.found.load(Ordering::Relaxed)
    }
}

impl std::fmt::Debug for Parcel {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Parcel({} bytes)", self.received.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn taken(mail: &Mail, shard: u16) -> Vec<Letter> {
        let mut got = Vec::new();
        mail.take(ShardId(shard), |letter| got.push(letter));
        got
    }

    #[test]
    fn every_box_gets_each_letter_once() {
        let mail = Mail::new(2).unwrap();
        mail.send(&Letter::SessionEnded([1; 16]));
        mail.send(&Letter::SessionEnded([2; 16]));
        for shard in [0, 1] {
            let got = taken(&mail, shard);
            assert!(
                matches!(got[..], [Letter::SessionEnded(one), Letter::SessionEnded(two)] if one[0] == 1 && two[0] == 2)
            );
            assert!(taken(&mail, shard).is_empty());
        }
    }

    #[test]
    fn a_full_box_says_so() {
        let mail = Mail::new(1).unwrap();
        let cancel = Arc::new(Cancel::new([1; 16], b"7", None, 1));
        for _ in 0..LETTERS_MAX {
            mail.send(&Letter::Cancelled(cancel.clone()));
        }
        for _ in 0..LETTERS_MAX / 2 + 2 {
            mail.send(&Letter::SessionEnded([1; 16]));
        }
        let got = taken(&mail, 0);
        let count = |what: fn(&Letter) -> bool| got.iter().filter(|letter| what(letter)).count();
        assert_eq!(got.len(), LETTERS_MAX);
        assert_eq!(count(|letter| matches!(letter, Letter::Cancelled(_))), LETTERS_MAX / 2);
        assert_eq!(count(|letter| matches!(letter, Letter::Missed)), 1);
        assert!(matches!(got.last(), Some(Letter::Missed)));
    }

    #[test]
    fn what_was_brought_is_told_once_and_crowds_out_nothing() {
        let mail = Mail::new(1).unwrap();
        for _ in 0..LETTERS_MAX {
            mail.send(&Letter::Brought);
            mail.send(&Letter::SessionEnded([1; 16]));
        }
        let got = taken(&mail, 0);
        let brought = got.iter().filter(|letter| matches!(letter, Letter::Brought)).count();
        assert_eq!((got.len(), brought), (LETTERS_MAX + 1, 1), "none is left out");
        mail.send(&Letter::Brought);
        assert!(matches!(taken(&mail, 0)[..], [Letter::Brought]), "and it is told again");
    }

    #[test]
    fn what_nobody_has_is_known_when_all_have_looked() {
        let check = |found: [bool; 3], want: [bool; 3]| {
            let cancel = Cancel::new([1; 16], b"7", None, 3);
            assert_eq!(found.map(|found| cancel.is_vain(found)), want, "{found:?}");
        };
        check([false; 3], [false, false, true]);
        check([true, false, false], [false; 3]);
        check([false, false, true], [false; 3]);
    }
}
