//! Tickets of servers, to resume with: each shard keeps its own, so that no handshake waits for another shard's.

use std::cell::RefCell;
use std::collections::{HashMap, VecDeque};
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};

use rustls::NamedGroup;
use rustls::client::{ClientSessionStore, Tls12ClientSessionValue, Tls13ClientSessionValue};
use rustls::pki_types::ServerName;

use crate::base::limits::{TLS_TICKET_SERVERS_MAX, TLS_TICKETS_KEPT};

/// The tickets of one configuration. Another configuration never sees them, so that nothing is resumed that was
/// checked against other roots, or with another identity.
pub(super) struct PerShard {
    number: u64,
}

thread_local! {
    /// Of all configurations of this thread; the plane's thread has tickets of its own.
    static KEPT: RefCell<Kept> = RefCell::default();
}

#[derive(Default)]
struct Kept {
    servers: HashMap<(u64, ServerName<'static>), Server>,
    /// In the order they came in; the first is forgotten first.
    order: VecDeque<(u64, ServerName<'static>)>,
}

#[derive(Default)]
struct Server {
    group: Option<NamedGroup>,
    tls12: Option<Tls12ClientSessionValue>,
    tls13: VecDeque<Tls13ClientSessionValue>,
}

impl PerShard {
    pub(super) fn new() -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        Self { number: NEXT.fetch_add(1, Ordering::Relaxed) }
    }

    fn with<R>(&self, name: &ServerName<'_>, act: impl FnOnce(&mut Server) -> R) -> R {
        KEPT.with_borrow_mut(|kept| {
            let key = (self.number, name.to_owned());
            if !kept.servers.contains_key(&key) {
                if kept.order.len() >= TLS_TICKET_SERVERS_MAX
                    && let Some(oldest) = kept.order.pop_front()
                {
                    kept.servers.remove(&oldest);
                }
                kept.order.push_back(key.clone());
            }
            act(kept.servers.entry(key).or_default())
        })
    }
}

impl ClientSessionStore for PerShard {
    fn set_kx_hint(&self, name: ServerName<'static>, group: NamedGroup) {
        self.with(&name, |server| server.group = Some(group));
    }

    fn kx_hint(&self, name: &ServerName<'_>) -> Option<NamedGroup> {
        self.with(name, |server| server.group)
    }

    fn set_tls12_session(&self, name: ServerName<'static>, value: Tls12ClientSessionValue) {
        self.with(&name, |server| server.tls12 = Some(value));
    }

    fn tls12_session(&self, name: &ServerName<'_>) -> Option<Tls12ClientSessionValue> {
        self.with(name, |server| server.tls12.clone())
    }

    fn remove_tls12_session(&self, name: &ServerName<'static>) {
        self.with(name, |server| server.tls12 = None);
    }

    fn insert_tls13_ticket(&self, name: ServerName<'static>, value: Tls13ClientSessionValue) {
        self.with(&name, |server| {
            if server.tls13.len() >= TLS_TICKETS_KEPT {
                server.tls13.pop_front();
            }
            server.tls13.push_back(value);
        });
    }

    fn take_tls13_ticket(&self, name: &ServerName<'static>) -> Option<Tls13ClientSessionValue> {
        self.with(name, |server| server.tls13.pop_back())
    }
}

impl fmt::Debug for PerShard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PerShard({})", self.number)
    }
}
