//! Spans on their way from the shards to the plane: a ring for each shard, written without waiting, read by time. What
//! finds no room is counted, and nothing ever waits for whoever exports.

use std::cell::RefCell;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use rtrb::{Consumer, Producer, RingBuffer};

use crate::base::ids::ShardId;
use crate::base::limits::SPANS_MAX;
use crate::telemetry::span::SpanEvent;

/// The rings of all shards.
#[derive(Debug)]
pub struct Spans {
    counts: Vec<Arc<Counts>>,
    ends: Mutex<Ends>,
}

#[derive(Debug)]
struct Ends {
    /// By `ShardId`; each is taken once.
    writers: Vec<Option<SpanWriter>>,
    readers: Vec<SpanReader>,
}

/// Of one shard.
#[derive(Debug, Default)]
#[repr(align(128))]
struct Counts {
    made: AtomicU64,
    dropped: AtomicU64,
}

/// A shard's end of its ring.
#[derive(Debug)]
pub struct SpanWriter {
    ring: RefCell<Producer<SpanEvent>>,
    counts: Arc<Counts>,
}

/// The plane's end of a shard's ring.
#[derive(Debug)]
pub struct SpanReader {
    ring: Consumer<SpanEvent>,
}

impl Spans {
    /// For so many shards. Their memory is not touched before the first span.
    #[must_use]
    pub fn new(shards: usize) -> Self {
        let counts: Vec<Arc<Counts>> = (0..shards).map(|_| Arc::default()).collect();
        let mut ends = Ends { writers: Vec::new(), readers: Vec::new() };
        for counts in &counts {
            let (ring, other) = RingBuffer::new(SPANS_MAX);
            ends.writers.push(Some(SpanWriter { ring: RefCell::new(ring), counts: counts.clone() }));
            ends.readers.push(SpanReader { ring: other });
        }
        Self { counts, ends: Mutex::new(ends) }
    }

    /// The end of this shard; `None` when it was taken.
    pub(super) fn take_writer(&self, shard: ShardId) -> Option<SpanWriter> {
        let mut ends = self.ends.lock().unwrap_or_else(PoisonError::into_inner);
        ends.writers.get_mut(shard.index())?.take()
    }

    /// The plane's ends, by `ShardId`, for the one who exports; none when they were taken.
    pub fn take_readers(&self) -> Vec<SpanReader> {
        std::mem::take(&mut self.ends.lock().unwrap_or_else(PoisonError::into_inner).readers)
    }

    /// How many spans there were, those that found no room included.
    #[must_use]
    pub fn made(&self) -> u64 {
        self.counts.iter().map(|counts| counts.made.load(Ordering::Relaxed)).sum()
    }

    /// How many found no room.
    #[must_use]
    pub fn dropped(&self) -> u64 {
        self.counts.iter().map(|counts| counts.dropped.load(Ordering::Relaxed)).sum()
    }
}

impl SpanWriter {
    /// One more. Where there is no room it is dropped, and counted.
    pub(super) fn push(&self, event: SpanEvent) {
        self.counts.made.fetch_add(1, Ordering::Relaxed);
        if self.ring.borrow_mut().push(event).is_err() {
            self.counts.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }
}

impl SpanReader {
    /// Appends those that wait, oldest first, at most `max`; says how many.
    pub fn drain(&mut self, max: usize, out: &mut Vec<SpanEvent>) -> usize {
        let before = out.len();
        while out.len() - before < max
            && let Ok(event) = self.ring.pop()
        {
            out.push(event);
        }
        out.len() - before
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::telemetry::context::Context;
    use crate::telemetry::span::{Network, Side};

    #[test]
    fn what_finds_no_room_is_counted() {
        let spans = Spans::new(2);
        let writer = spans.take_writer(ShardId(1)).unwrap();
        assert!(spans.take_writer(ShardId(1)).is_none() && spans.take_writer(ShardId(2)).is_none());
        let context = Context { trace: [1; 16], span: [2; 8], flags: 1 };
        for number in 0..SPANS_MAX as u64 + 3 {
            writer.push(SpanEvent::new(context, Side::Server, number, Network::Pipe));
        }
        assert_eq!((spans.made(), spans.dropped()), (SPANS_MAX as u64 + 3, 3));
        let mut readers = spans.take_readers();
        assert_eq!((readers.len(), spans.take_readers().len()), (2, 0));
        let mut out = Vec::new();
        assert_eq!(readers[0].drain(10, &mut out), 0);
        assert_eq!(readers[1].drain(10, &mut out), 10);
        assert_eq!(readers[1].drain(usize::MAX, &mut out), SPANS_MAX - 10);
        assert!(out.iter().map(|event| event.begun_ns).eq(0..SPANS_MAX as u64));
    }
}
