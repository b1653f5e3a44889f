//! Mail across: what one shard must tell the others at once. A letter is in every box before its writer answers
//! anyone, and a shard empties its box before it opens a session, so none acts on what has been taken back.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};

use crate::base::ids::ShardId;

/// A letter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Letter {
    /// The session with these random bits was ended by its client.
    SessionEnded([u8; 16]),
}

/// One box per shard.
#[derive(Debug)]
pub struct Mail {
    boxes: Vec<Letterbox>,
}

#[derive(Debug, Default)]
struct Letterbox {
    flag: AtomicBool,
    letters: Mutex<Vec<Letter>>,
}

impl Mail {
    /// Boxes for so many shards.
    #[must_use]
    pub fn new(shards: usize) -> Self {
        Self { boxes: (0..shards).map(|_| Letterbox::default()).collect() }
    }

    /// How many boxes there are.
    #[must_use]
    pub fn shards(&self) -> usize {
        self.boxes.len()
    }

    /// Puts a letter into every box, the writer's own too.
    pub fn send(&self, letter: Letter) {
        for letterbox in &self.boxes {
            letterbox.letters.lock().unwrap_or_else(PoisonError::into_inner).push(letter);
            letterbox.flag.store(true, Ordering::Release);
        }
    }

    /// Empties a shard's box. Costs one load while it is empty, which is nearly always.
    pub fn take(&self, shard: ShardId, mut each: impl FnMut(Letter)) {
        let Some(letterbox) = self.boxes.get(shard.index()) else { return };
        if letterbox.flag.load(Ordering::Acquire) {
            let mut letters = letterbox.letters.lock().unwrap_or_else(PoisonError::into_inner);
            letterbox.flag.store(false, Ordering::Release);
            letters.drain(..).for_each(&mut each);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_box_gets_each_letter_once() {
        let mail = Mail::new(2);
        mail.send(Letter::SessionEnded([1; 16]));
        mail.send(Letter::SessionEnded([2; 16]));
        for shard in [ShardId(0), ShardId(1)] {
            let mut got = Vec::new();
            mail.take(shard, |letter| got.push(letter));
            mail.take(shard, |letter| got.push(letter));
            assert_eq!(got, [Letter::SessionEnded([1; 16]), Letter::SessionEnded([2; 16])]);
        }
    }
}
