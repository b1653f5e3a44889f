//! Puts news of servers together into the next snapshot and publishes it, swapped whole. News that comes together
//! makes one snapshot.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

use crate::base::ids::ServerId;
use crate::base::limits::{PUBLISH_GATHER_MS, PUBLISH_MS_MIN};
use crate::config::Settings;
use crate::config::snapshot::{Parts, Prepared, Snapshot};
use crate::gateway::control::{Control, Life};
use crate::policy::compile::Warning;
use crate::tls::config::Materials;

use super::admin::Health;
use super::keeper::News;
use super::log::Notes;
use super::surveys::{Surveys, Weight};

/// Makes snapshots.
pub(super) struct Publisher {
    pub(super) settings: Arc<Settings>,
    pub(super) prepared: Arc<Prepared>,
    pub(super) control: Arc<Control>,
    pub(super) health: Arc<Health>,
    servers: Vec<Known>,
    surveys: Surveys,
    tls: Arc<Materials>,
    number: u64,
    warned: Vec<Warning>,
}

#[derive(Clone, Default)]
struct Known {
    addresses: Option<Arc<[SocketAddr]>>,
    announced: u64,
}

impl Publisher {
    pub(super) fn new(
        settings: Arc<Settings>,
        prepared: Arc<Prepared>,
        control: Arc<Control>,
        health: Arc<Health>,
        notes: Notes,
    ) -> Self {
        let servers = vec![Known::default(); settings.servers.len()];
        let tls = control.snapshot.load().tls.clone();
        let surveys = Surveys::new(&settings.state, notes);
        Self { settings, prepared, control, health, servers, surveys, tls, number: 1, warned: Vec::new() }
    }

    /// Publishes until the gateway stops.
    pub(super) fn run(mut self, news: &Receiver<News>) {
        let mut weight = Weight::None;
        let mut published: Option<Instant> = None;
        while self.control.life() == Life::Run {
            match news.recv_timeout(Duration::from_millis(PUBLISH_GATHER_MS * 10)) {
                Ok(first) => {
                    weight = weight.max(self.take(first));
                    let until = Instant::now() + Duration::from_millis(PUBLISH_GATHER_MS);
                    while let Ok(more) = news.recv_timeout(until.saturating_duration_since(Instant::now())) {
                        weight = weight.max(self.take(more));
                    }
                }
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return,
            }
            weight = weight.max(self.surveys.look(&self.settings.servers));
            let rested = published.is_none_or(|at| at.elapsed() >= Duration::from_millis(PUBLISH_MS_MIN));
            if weight == Weight::AtOnce || weight == Weight::Snapshot && rested {
                self.publish();
                published = Some(Instant::now());
                weight = Weight::None;
            }
            // What is known but not published is not told yet: shards wait for it.
            if weight == Weight::None {
                self.report();
            }
        }
    }

    /// How much this changes.
    fn take(&mut self, news: News) -> Weight {
        match news {
            News::Addresses(server, addresses) => {
                self.known(server).addresses = Some(addresses);
                Weight::AtOnce
            }
            News::Certificates(tls) => {
                self.tls = tls;
                Weight::AtOnce
            }
            News::Catalog(server, catalog, announced) => {
                self.known(server).announced = announced;
                self.surveys.found(&self.settings.servers[server.index()], *catalog)
            }
            News::Trouble(server, trouble) => self.surveys.failed(&self.settings.servers[server.index()], trouble),
        }
    }

    fn known(&mut self, server: ServerId) -> &mut Known {
        &mut self.servers[server.index()]
    }

    fn publish(&mut self) {
        self.number += 1;
        let catalog = self.surveys.catalog(&self.settings.servers);
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
            succession: before.succession.clone(),
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
            let name = &*self.settings.servers[index].name;
            let shown = self.surveys.shown(name);
            if shown.is_some() {
                snapshot.states[index].poke.set_fresh(known.announced);
            }
            self.health.set(server, shown, self.surveys.trouble(name));
            self.health.set_survey(server, self.surveys.health(name));
        }
    }
}
