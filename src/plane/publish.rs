//! Puts news of servers together into the next snapshot and publishes it, swapped whole. News that comes together
//! makes one snapshot.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

use crate::base::ids::ServerId;
use crate::base::limits::PUBLISH_GATHER_MS;
use crate::config::Settings;
use crate::config::snapshot::{Parts, Prepared, Snapshot};
use crate::gateway::control::{Control, Life};
use crate::mcp::catalog::{Catalog, ServerCatalog};
use crate::policy::compile::Warning;
use crate::tls::config::Materials;

use super::admin::Health;
use super::keeper::News;

/// Makes snapshots.
pub(super) struct Publisher {
    pub(super) settings: Arc<Settings>,
    pub(super) prepared: Arc<Prepared>,
    pub(super) control: Arc<Control>,
    pub(super) health: Arc<Health>,
    servers: Vec<Known>,
    tls: Arc<Materials>,
    number: u64,
    warned: Vec<Warning>,
}

#[derive(Clone, Default)]
struct Known {
    addresses: Option<Arc<[SocketAddr]>>,
    catalog: Option<ServerCatalog>,
    announced: u64,
    trouble: Option<String>,
}

impl Publisher {
    pub(super) fn new(
        settings: Arc<Settings>,
        prepared: Arc<Prepared>,
        control: Arc<Control>,
        health: Arc<Health>,
    ) -> Self {
        let servers = vec![Known::default(); settings.servers.len()];
        let tls = control.snapshot.load().tls.clone();
        Self { settings, prepared, control, health, servers, tls, number: 1, warned: Vec::new() }
    }

    /// Publishes until the gateway stops.
    pub(super) fn run(mut self, news: &Receiver<News>) {
        while self.control.life() == Life::Run {
            match news.recv_timeout(Duration::from_millis(PUBLISH_GATHER_MS * 10)) {
                Ok(first) => {
                    let mut changed = self.take(first);
                    let until = Instant::now() + Duration::from_millis(PUBLISH_GATHER_MS);
                    while let Ok(more) = news.recv_timeout(until.saturating_duration_since(Instant::now())) {
                        changed |= self.take(more);
                    }
                    if changed {
                        self.publish();
                    }
                    self.report();
                }
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return,
            }
        }
    }

    /// Whether this calls for another snapshot.
    fn take(&mut self, news: News) -> bool {
        match news {
            News::Addresses(server, addresses) => {
                self.known(server).addresses = Some(addresses);
                true
            }
            News::Certificates(tls) => {
                self.tls = tls;
                true
            }
            News::Catalog(server, catalog, announced) => {
                let name = self.settings.servers[server.index()].name.clone();
                let known = self.known(server);
                known.announced = announced;
                if known.trouble.take().is_some() {
                    tracing::info!("server {name} answers again");
                }
                let changed = known.catalog.as_ref() != Some(&*catalog);
                known.catalog = Some(*catalog);
                changed
            }
            News::Trouble(server, trouble) => {
                let name = self.settings.servers[server.index()].name.clone();
                let known = self.known(server);
                if known.trouble.as_ref() != Some(&trouble) {
                    tracing::warn!("server {name}: {trouble}");
                }
                known.trouble = Some(trouble);
                false
            }
        }
    }

    fn known(&mut self, server: ServerId) -> &mut Known {
        &mut self.servers[server.index()]
    }

    fn publish(&mut self) {
        self.number += 1;
        let catalog = Catalog::build(self.servers.iter().map(|known| known.catalog.clone()).collect());
        let instances = self.prepared.servers.iter().map(|server| server.instances.len());
        let addresses = self.servers.iter().zip(instances).map(|(known, instances)| {
            let mut addresses = vec![Arc::default(); instances];
            if let Some(first) = addresses.first_mut() {
                *first = known.addresses.clone().unwrap_or_default();
            }
            addresses
        });
        let addresses = addresses.collect();
        let before = self.control.snapshot.load();
        let (snapshot, warnings) = Snapshot::new(Parts {
            settings: self.settings.clone(),
            prepared: self.prepared.clone(),
            catalog,
            states: before.states.clone(),
            addresses,
            tls: self.tls.clone(),
            meters: before.meters.clone(),
            auth_epoch: before.auth_epoch,
            settings_epoch: before.settings_epoch,
            number: self.number,
        });
        self.control.snapshot.store(Arc::new(snapshot));
        for warning in &warnings {
            if !self.warned.contains(warning) {
                let rule = self.settings.policy.rule(warning.rule);
                let pattern = rule.patterns[warning.pattern].text();
                tracing::warn!("rule {}: pattern {pattern}: {}", rule.id, warning.lacks);
            }
        }
        self.warned = warnings;
    }

    /// Tells shards and the admin listener what is known now.
    fn report(&self) {
        let snapshot = self.control.snapshot.load();
        for (index, known) in self.servers.iter().enumerate() {
            let server = ServerId::from_index(index);
            if known.catalog.is_some() {
                snapshot.states[index].poke.set_fresh(known.announced);
            }
            self.health.set(server, known.catalog.as_ref(), known.trouble.as_deref());
        }
    }
}
