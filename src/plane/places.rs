//! Where a server is, as its keeper sees it: names become addresses here, and one instance is surveyed for all. Another
//! one takes its place when it is ejected, or cannot be surveyed.

use std::net::{SocketAddr, ToSocketAddrs as _};
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::base::limits::RESOLVE_MS;
use crate::config::{Scheme, ServerSettings};
use crate::tls::config::ClientSide;
use crate::upstream::breaker::{Failure, State, View};
use crate::upstream::state::ServerState;

use super::client::Target;

/// A server's instances.
pub(super) struct Places {
    name: Arc<str>,
    places: Vec<Place>,
    /// The one that is surveyed.
    at: usize,
    resolved: Option<Instant>,
}

struct Place {
    scheme: Scheme,
    host: String,
    port: u16,
    authority: String,
    path: String,
    url: String,
    addresses: Arc<[SocketAddr]>,
    /// It was said that it is ejected.
    told: bool,
}

impl Places {
    /// Those of a server, none of them resolved yet.
    pub(super) fn new(server: &ServerSettings) -> Self {
        let places = server.instances().iter().map(|instance| Place {
            scheme: instance.scheme,
            host: instance.host.clone(),
            port: instance.port,
            authority: instance.authority(),
            path: instance.path.clone(),
            url: instance.url(),
            addresses: Arc::default(),
            told: false,
        });
        Self { name: server.name.clone(), places: places.collect(), at: 0, resolved: None }
    }

    /// How many there are.
    pub(super) fn count(&self) -> usize {
        self.places.len()
    }

    /// Which one is surveyed.
    pub(super) fn at(&self) -> usize {
        self.at
    }

    /// What it takes to reach that one.
    pub(super) fn target(&self, tls: Option<ClientSide>) -> Target {
        let place = self.places.get(self.at);
        Target {
            addresses: place.map(|place| place.addresses.to_vec()).unwrap_or_default(),
            host: place.map(|place| place.authority.clone()).unwrap_or_default(),
            path: place.map(|place| place.path.clone()).unwrap_or_default(),
            scheme: place.map_or(Scheme::Http, |place| place.scheme),
            tls,
            shown: None,
            way: None,
        }
    }

    /// Resolves all names, where that was not done lately. All addresses by instance, where any has changed; a name that
    /// does not resolve keeps those it had.
    pub(super) fn resolve(&mut self) -> Option<Vec<Arc<[SocketAddr]>>> {
        let due = self.resolved.is_none_or(|at| at.elapsed() >= Duration::from_millis(RESOLVE_MS));
        if !due {
            return None;
        }
        self.resolved = Some(Instant::now());
        let mut changed = false;
        for place in &mut self.places {
            let bare = place.host.trim_start_matches('[').trim_end_matches(']');
            let Ok(found) = (bare, place.port).to_socket_addrs() else { continue };
            let mut addresses: Vec<SocketAddr> = found.collect();
            addresses.sort();
            addresses.dedup();
            if !addresses.is_empty() && *addresses != *place.addresses {
                place.addresses = addresses.into();
                changed = true;
            }
        }
        changed.then(|| self.places.iter().map(|place| place.addresses.clone()).collect())
    }

    /// The names are to be resolved at the next opportunity.
    pub(super) fn forget_names(&mut self) {
        self.resolved = None;
    }

    /// Whether the one that is surveyed is ejected, and another is not.
    pub(super) fn is_stranded(&self, state: &ServerState) -> bool {
        let ejected = |place: usize| state.instances.get(place).is_none_or(|it| it.breaker.is_ejected());
        ejected(self.at) && (0..self.places.len()).any(|place| !ejected(place))
    }

    /// Goes on to the next one, that is not ejected where there is one such. Whether it is another.
    pub(super) fn advance(&mut self, state: &ServerState) -> bool {
        let well = |place: &usize| state.instances.get(*place).is_some_and(|it| !it.breaker.is_ejected());
        let count = self.places.len().max(1);
        let mut others = (1..count).map(|step| (self.at + step) % count);
        let next = others.clone().find(well).or_else(|| others.next());
        next.is_some_and(|next| std::mem::replace(&mut self.at, next) != next)
    }

    /// Tells the log which instances have been ejected, and which are asked again.
    pub(super) fn tell(&mut self, state: &ServerState) {
        for (place, instance) in self.places.iter_mut().zip(&state.instances) {
            let view = instance.breaker.view();
            match (view.state, place.told) {
                (State::Closed, true) => tracing::info!("server {}: {} is asked again", self.name, place.url),
                (State::Open | State::HalfOpen, false) => {
                    tracing::warn!("server {}: {} is ejected: {}", self.name, place.url, said(&view));
                }
                _ => continue,
            }
            place.told = view.state != State::Closed;
        }
    }
}

/// The last failure in words.
pub(super) fn said(view: &View) -> String {
    match view.last {
        Some(Failure::Fault(fault)) => fault.to_string(),
        Some(Failure::Status(status)) => format!("it answers with status {status}"),
        None => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use crate::base::time::Moment;
    use crate::config::{Source, load};
    use crate::upstream::UpstreamFault;
    use crate::upstream::breaker::{Pass, Terms, Verdict};
    use crate::upstream::state::InstanceState;

    use super::*;

    struct Nothing;

    impl Source for Nothing {
        fn var(&self, _: &str) -> Option<String> {
            None
        }

        fn file(&self, _: &Path) -> std::io::Result<String> {
            Err(std::io::ErrorKind::NotFound.into())
        }
    }

    #[test]
    fn the_next_one_is_one_that_is_well() {
        let text = "auth: { anonymous: allow }\nservers: { a: { urls: [ 'http://127.0.0.1:1/a', 'http://127.0.0.1:2/b', \
                    'http://127.0.0.1:3/c' ] } }\n";
        let settings = load(text, Path::new("."), &Nothing).unwrap().settings;
        let mut places = Places::new(&settings.servers[0]);
        let instances = (1..=3).map(|digest| Arc::new(InstanceState::new(digest))).collect();
        let state = ServerState::new(9, instances).unwrap();
        let eject = |place: usize| {
            let failed = Verdict::of(Err(UpstreamFault::Unreachable));
            let terms = Terms::new(1, 1_000);
            state.instances[place].breaker.leave(terms, Pass::default(), failed, Moment(0));
        };
        let addresses = places.resolve().expect("numbers resolve");
        assert_eq!(addresses.iter().map(|one| one[0].port()).collect::<Vec<_>>(), [1, 2, 3]);
        places.forget_names();
        assert!(places.resolve().is_none(), "nothing has changed");
        assert!(!places.is_stranded(&state));
        eject(0);
        eject(1);
        assert!(places.is_stranded(&state) && places.advance(&state));
        assert_eq!((places.at(), &*places.target(None).path), (2, "/c"));
        assert!(!places.is_stranded(&state));
        eject(2);
        assert!(!places.is_stranded(&state), "none is any better");
        assert!(places.advance(&state));
        assert_eq!(places.at(), 0);
    }
}
