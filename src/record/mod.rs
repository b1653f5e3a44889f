//! record: what was decided, in place before the call leaves.
//! Colour: shard (`Writer`), read by the plane (`Reader`). Owns: one byte ring per shard, and the frames in it.
//! Not here: files, rotation, clocks: the plane drains the rings and writes the log.
//! Start at `Writer::decided`.
//! Spec: the README's "The record".

pub mod detail;
pub mod frame;
pub mod json;
pub mod keyed;
pub mod meter;
pub mod own;

use std::cell::{Cell, RefCell};

use rtrb::{Consumer, Producer, RingBuffer};

use crate::base::ids::ShardId;
use crate::base::limits::{RECORD_BYTES_MAX, RECORD_RING_BYTES, RECORD_RING_KEPT_FREE_BYTES};
use crate::mcp::call::Call;
use crate::mcp::method::Subject;
use crate::policy::decide::Permit;
use frame::{Decision, Outcome};

/// Why a decision could not be recorded. There is no call without a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RecordFault {
    /// The plane or the disk is behind; the ring has no room that is not kept for outcomes.
    #[error("the record is behind: no room for another decision")]
    Full,
}

/// The number of a decision on its shard; its outcome carries the same one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Seq(pub u64);

/// A permit whose record is in place. Upstreams take nothing else, so an unrecorded call does not compile.
#[derive(Debug)]
pub struct Recorded {
    permit: Permit,
    seq: Option<Seq>,
}

impl Recorded {
    /// The permit.
    #[must_use]
    pub fn permit(&self) -> &Permit {
        &self.permit
    }

    /// The number its outcome must carry; `None` where the method needs no rule and so leaves no decision.
    #[must_use]
    pub fn seq(&self) -> Option<Seq> {
        self.seq
    }

    /// The call again, once it has ended.
    #[must_use]
    pub fn into_call(self) -> Box<Call> {
        self.permit.into_call()
    }

    /// For methods that need no rule (handshakes, pings, notifications): counted, not recorded.
    ///
    /// # Errors
    /// The permit, when its method is one that must be recorded.
    pub fn unjudged(permit: Permit) -> Result<Self, Permit> {
        let judged = permit.call().method.is_some_and(|method| method.subject != Subject::None);
        if judged { Err(permit) } else { Ok(Self { permit, seq: None }) }
    }
}

/// One shard's end of its ring: single writer, never waits.
#[derive(Debug)]
pub struct Writer {
    shard: ShardId,
    next: Cell<u64>,
    lost: Cell<u64>,
    ring: RefCell<Producer<u8>>,
    scratch: RefCell<Vec<u8>>,
}

/// The plane's end of a shard's ring.
#[derive(Debug)]
pub struct Reader {
    ring: Consumer<u8>,
    bytes: Vec<u8>,
}

/// A ring of `RECORD_RING_BYTES` for one shard.
#[must_use]
pub fn ring(shard: ShardId) -> (Writer, Reader) {
    let (producer, consumer) = RingBuffer::new(RECORD_RING_BYTES);
    let writer = Writer {
        shard,
        next: Cell::new(0),
        lost: Cell::new(0),
        ring: RefCell::new(producer),
        scratch: RefCell::new(Vec::with_capacity(RECORD_BYTES_MAX)),
    };
    (writer, Reader { ring: consumer, bytes: Vec::new() })
}

impl Writer {
    /// Puts the decision to let `permit` go in place and hands out the only thing an upstream accepts.
    ///
    /// # Errors
    /// `RecordFault::Full` when the ring has only the part left that is kept for outcomes: the call must be refused.
    pub fn decided(&self, permit: Permit, decision: &Decision<'_>) -> Result<Recorded, RecordFault> {
        let seq = self.refused(decision)?;
        Ok(Recorded { permit, seq: Some(seq) })
    }

    /// Puts a decision in place that lets nothing go: a refusal. Its frame is its outcome too.
    ///
    /// # Errors
    /// `RecordFault::Full`, as for `decided`; the refusal still stands.
    pub fn refused(&self, decision: &Decision<'_>) -> Result<Seq, RecordFault> {
        let seq = Seq(self.next.get());
        self.push(RECORD_RING_KEPT_FREE_BYTES, |out| frame::write_decision(out, self.shard, seq, decision))?;
        self.next.set(seq.0 + 1);
        Ok(seq)
    }

    /// Notes a refusal of a caller that is not known, while there is plenty of room: such requests cost their sender
    /// nothing, so they must not push out the record of those that count.
    pub fn noted(&self, decision: &Decision<'_>) {
        let seq = Seq(self.next.get());
        let kept = self.push(RECORD_RING_BYTES / 2, |out| frame::write_decision(out, self.shard, seq, decision));
        match kept {
            Ok(()) => self.next.set(seq.0 + 1),
            Err(RecordFault::Full) => self.lose(),
        }
    }

    /// How many records found no room, of those that nothing waits for: the others are no records then, but refusals.
    #[must_use]
    pub fn lost(&self) -> u64 {
        self.lost.get()
    }

    fn lose(&self) {
        self.lost.set(self.lost.get() + 1);
    }

    /// What became of a recorded call. The ring keeps room for one outcome of every call that can be under way, so a
    /// full ring here is a broken invariant; it is counted by the reader as a decision without outcome.
    pub fn ended(&self, seq: Seq, outcome: &Outcome) {
        let placed = self.push(0, |out| frame::write_outcome(out, self.shard, seq, outcome));
        debug_assert!(placed.is_ok(), "outcomes have room of their own");
        if placed.is_err() {
            self.lose();
        }
    }

    fn push(&self, keep_free: usize, write: impl FnOnce(&mut Vec<u8>)) -> Result<(), RecordFault> {
        let mut scratch = self.scratch.borrow_mut();
        scratch.clear();
        write(&mut scratch);
        let mut ring = self.ring.borrow_mut();
        if ring.slots() < scratch.len() + keep_free {
            return Err(RecordFault::Full);
        }
        ring.push_entire_slice(&scratch).map_err(|_| RecordFault::Full)
    }
}

impl Reader {
    /// Hands every whole frame now in the ring to `each`, oldest first, and frees their room. Returns how many.
    pub fn drain(&mut self, mut each: impl FnMut(frame::Frame<'_>)) -> usize {
        let mut frames = 0;
        let mut length = [0; frame::LENGTH_BYTES];
        // Frames are pushed whole, so a visible length means a visible frame.
        while self.ring.pop_entire_slice(&mut length).is_ok() {
            self.bytes.resize(frame::rest_of(length), 0);
            if self.ring.pop_entire_slice(&mut self.bytes).is_err() {
                break;
            }
            if let Some(frame) = frame::read(&self.bytes) {
                each(frame);
                frames += 1;
            }
        }
        frames
    }

    /// What waits to be read, bytes.
    #[must_use]
    pub fn backlog(&self) -> usize {
        self.ring.slots()
    }

    /// Whether every frame written so far was read.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.ring.slots() == 0
    }
}
