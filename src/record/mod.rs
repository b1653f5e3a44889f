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
pub mod put;

use std::cell::{Cell, RefCell};

use rtrb::{Consumer, Producer, RingBuffer};

use crate::base::ids::ShardId;
use crate::base::limits::{RECORD_BYTES_MAX, RECORD_RING_BYTES, RECORD_RING_KEPT_FREE_BYTES};
use crate::mcp::call::Call;
use crate::mcp::method::Subject;
use crate::policy::decide::Permit;
use frame::{Alike, Decision, LENGTH_BYTES, Outcome, Own};
use put::Put;

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
    scratch: RefCell<Box<[u8]>>,
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
        scratch: RefCell::new(vec![0; RECORD_BYTES_MAX].into_boxed_slice()),
    };
    (writer, Reader { ring: consumer, bytes: Vec::new() })
}

impl Writer {
    /// Puts the decision to let `permit` go in place and hands out the only thing an upstream accepts. It has everything
    /// but `own` in common with the one that `alike` was kept of.
    ///
    /// # Errors
    /// `RecordFault::Full` when the ring has only the part left that is kept for outcomes: the call must be refused.
    pub fn decided(&self, permit: Permit, own: &Own<'_>, alike: &Alike) -> Result<Recorded, RecordFault> {
        let seq = Seq(self.next.get());
        self.push(RECORD_RING_KEPT_FREE_BYTES, |put| frame::write_alike(put, self.shard, seq, own, alike))?;
        self.next.set(seq.0 + 1);
        Ok(Recorded { permit, seq: Some(seq) })
    }

    /// Keeps what this decision has in common with others, in the place of what `alike` was.
    pub fn keep(&self, alike: &mut Alike, decision: &Decision<'_>) {
        alike.keep(&mut self.scratch.borrow_mut(), decision);
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

    #[inline]
    fn push(&self, keep_free: usize, write: impl FnOnce(&mut Put<'_>)) -> Result<(), RecordFault> {
        let mut scratch = self.scratch.borrow_mut();
        let Some((length, rest)) = scratch.split_first_chunk_mut::<LENGTH_BYTES>() else {
            return Err(RecordFault::Full);
        };
        let mut put = Put::new(rest);
        write(&mut put);
        let len = LENGTH_BYTES + put.len();
        // RECORD_BYTES_MAX is far below 4 GiB.
        *length = u32::try_from(len).unwrap_or(u32::MAX).to_le_bytes();
        let mut ring = self.ring.borrow_mut();
        if ring.slots() < len + keep_free {
            return Err(RecordFault::Full);
        }
        ring.push_entire_slice(&scratch[..len]).map_err(|_| RecordFault::Full)
    }
}

impl Reader {
    /// Hands whole frames that are in the ring to `each`, oldest first, and frees their room: up to `bytes_max` bytes of
    /// them, but one at least. Returns how many.
    pub fn drain(&mut self, bytes_max: usize, mut each: impl FnMut(&frame::Written<'_>)) -> usize {
        // Frames are pushed whole: what can be seen ends with one.
        let Ok(chunk) = self.ring.read_chunk(self.ring.slots()) else { return 0 };
        let (first, second) = chunk.as_slices();
        let (mut frames, mut used) = (0, 0);
        while used < bytes_max.max(1) {
            let Some(len) = length(first, second, used) else { break };
            let bytes = match (first.get(used..used + len), used.checked_sub(first.len())) {
                (Some(bytes), _) => bytes,
                (None, Some(at)) => second.get(at..at + len).unwrap_or_default(),
                // Its end stands at the ring's beginning.
                (None, None) => {
                    let head = &first[used..];
                    self.bytes.clear();
                    self.bytes.extend_from_slice(head);
                    self.bytes.extend_from_slice(second.get(..len - head.len()).unwrap_or_default());
                    &self.bytes
                }
            };
            if let Some(written) = bytes.get(LENGTH_BYTES..).and_then(frame::read) {
                each(&written);
                frames += 1;
            }
            used += len;
        }
        let all = chunk.len();
        chunk.commit(used.min(all));
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

/// The length of the frame at `at` of what two slices hold one behind the other, of itself at least; `None` at the end.
fn length(first: &[u8], second: &[u8], at: usize) -> Option<usize> {
    let length = match first.get(at..).and_then(<[u8]>::first_chunk) {
        Some(length) => *length,
        None => {
            let mut length = [0; LENGTH_BYTES];
            for (place, byte) in length.iter_mut().zip(at..) {
                *place = *first.get(byte).or_else(|| second.get(byte - first.len()))?;
            }
            length
        }
    };
    Some((u32::from_le_bytes(length) as usize).max(LENGTH_BYTES))
}

#[cfg(test)]
mod tests {
    use super::*;
    use frame::{Frame, Status};

    fn outcome(total_us: u64) -> Outcome {
        Outcome {
            unix_ms: 0,
            status: Status::Ok,
            http: 200,
            is_error: false,
            code: 0,
            total_us,
            upstream_us: 0,
            request_bytes: 0,
            answer_bytes: 0,
        }
    }

    /// More than the ring holds, in frames of many lengths, so that they end at every place of it.
    #[test]
    fn what_is_written_is_read_where_the_ring_begins_anew() {
        let (writer, mut reader) = ring(ShardId(2));
        let text = "x".repeat(2_000);
        let mut got = Vec::new();
        let rounds = 3 * RECORD_RING_BYTES / 100_000;
        for round in 0..rounds {
            for n in 0..100 {
                let subject = &text[..(round * 131 + n * 17) % text.len()];
                let seq = writer.refused(&Decision { subject, ..Decision::default() }).unwrap();
                writer.ended(seq, &outcome(seq.0));
            }
            while !reader.is_empty() {
                let mut heard = 0;
                let frames = reader.drain(10_000, |written| {
                    heard += 1;
                    match written.frame() {
                        Some(Frame::Decision { seq, decision, .. }) => got.push((seq.0, decision.subject.len())),
                        Some(Frame::Outcome { seq, outcome, .. }) => assert_eq!(outcome.total_us, seq.0),
                        None => panic!("not a frame of ours"),
                    }
                });
                assert!(frames == heard && frames > 0);
            }
        }
        let want = (0..rounds).flat_map(|round| (0..100).map(move |n| (round * 131 + n * 17) % 2_000));
        let want: Vec<(u64, usize)> = (0..).zip(want).collect();
        assert_eq!(got.len(), want.len());
        assert!(got == want);
        assert_eq!(reader.drain(usize::MAX, |_| panic!("it is empty")), 0);
    }

    #[test]
    fn a_piece_is_as_long_as_it_may_be_and_a_frame_at_least() {
        let (writer, mut reader) = ring(ShardId(0));
        (0..10).for_each(|seq| writer.ended(Seq(seq), &outcome(0)));
        let one = reader.backlog() / 10;
        let mut drain = |bytes_max| reader.drain(bytes_max, |_| {});
        assert_eq!((drain(0), drain(2 * one), drain(2 * one + 1), drain(usize::MAX)), (1, 2, 3, 4));
    }
}
