//! This shard's idle connections: per instance of a server, last in first out, so that the warm ones are used and the others age.

use std::cell::{Cell, RefCell};

use foldhash::fast::RandomState;
use hashbrown::HashMap;

use crate::base::limits::{UPSTREAM_IDLE_KEYS_MAX, UPSTREAM_IDLE_MAX, UPSTREAM_IDLE_MS_MAX};
use crate::base::time::Moment;
use crate::tls::stream::Stream;
use crate::uring::buffer;
use crate::uring::socket::Peek;

/// Idle connections of all servers.
pub struct Pool {
    buffers: buffer::Pool,
    /// By the digest of the instance, and whose they are where that matters. Those that have none are forgotten.
    instances: RefCell<HashMap<u64, Vec<Idle>, RandomState>>,
    /// Counts up when what was connected before must not be used again.
    epoch: Cell<u64>,
}

struct Idle {
    stream: Stream,
    until: Moment,
}

impl Pool {
    /// No connections yet.
    pub(super) fn new(buffers: buffer::Pool) -> Self {
        Self { buffers, instances: RefCell::default(), epoch: Cell::new(0) }
    }

    /// An idle connection to the instance with this digest that was still open a moment ago.
    pub(super) fn take(&self, key: u64, now: Moment) -> Option<Stream> {
        let mut instances = self.instances.borrow_mut();
        let idle = instances.get_mut(&key)?;
        while !idle.is_empty() {
            // Of the last ones rather one that is received on already: of one that was put here a moment ago only the
            // kernel knows.
            let last = idle.len() - 1;
            let back = idle
                .iter()
                .rev()
                .take(WATCHED_LOOKS_MAX)
                .position(|idle| idle.stream.socket().is_watched())
                .unwrap_or(0);
            let Idle { stream, until } = idle.swap_remove(last - back);
            // Bytes that nobody asked for would become the answer to the next request, which may be somebody else's.
            if until > now && stream.peek_state() == Peek::Quiet {
                return Some(stream);
            }
            stream.shutdown();
        }
        None
    }

    /// The time since which connections are as good as new ones.
    pub(super) fn epoch(&self) -> u64 {
        self.epoch.get()
    }

    /// Authorities, certificates or addresses have changed: connections made before are not used again, those under way
    /// neither, once their answers have come.
    pub fn renew(&self) {
        self.epoch.set(self.epoch.get() + 1);
        self.clear();
    }

    /// Keeps a connection of this epoch whose last answer was read to its end, for `keep_ms` at most where the server
    /// said so.
    pub(super) fn put(&self, key: u64, stream: Stream, epoch: u64, now: Moment, keep_ms: Option<u64>) {
        if epoch != self.epoch.get() {
            return stream.shutdown();
        }
        let mut instances = self.instances.borrow_mut();
        if instances.len() >= UPSTREAM_IDLE_KEYS_MAX
            && !instances.contains_key(&key)
            && let Some(other) = instances.keys().next().copied()
        {
            // Any of them: which one is in use is not known, and its owner connects anew.
            instances.remove(&other).into_iter().flatten().for_each(|idle| idle.stream.shutdown());
        }
        let idle = instances.entry(key).or_default();
        let keep_ms = keep_ms.unwrap_or(UPSTREAM_IDLE_MS_MAX).min(UPSTREAM_IDLE_MS_MAX);
        if idle.len() >= UPSTREAM_IDLE_MAX || keep_ms == 0 {
            stream.shutdown();
            return;
        }
        stream.recv_ahead(&self.buffers);
        idle.push(Idle { stream, until: now.plus_ms(keep_ms) });
    }

    /// Closes what has been idle for too long; called by the shard's housekeeping.
    pub fn prune(&self, now: Moment) {
        self.instances.borrow_mut().retain(|_, idle| {
            idle.retain(|connection| {
                let keep = connection.until > now;
                if !keep {
                    connection.stream.shutdown();
                }
                keep
            });
            !idle.is_empty()
        });
    }

    /// Closes everything.
    pub fn clear(&self) {
        for idle in self.instances.borrow_mut().drain().flat_map(|(_, idle)| idle) {
            idle.stream.shutdown();
        }
    }
}

/// How many idle connections are looked at for one that is received on.
const WATCHED_LOOKS_MAX: usize = 16;
