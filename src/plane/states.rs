//! What outlives a snapshot, from one configuration to the next: a server whose settings are the same keeps its state,
//! and so does an instance whose own are.

use std::collections::HashMap;
use std::sync::Arc;

use crate::config::Settings;
use crate::config::snapshot::{Prepared, Snapshot};
use crate::upstream::dial::Dial;
use crate::upstream::state::{InstanceState, ServerState};

/// The states of all servers, by `ServerId`: those of `before` where nothing has changed.
///
/// # Errors
/// When the process may open no more files.
pub(super) fn states(
    settings: &Settings,
    prepared: &Prepared,
    before: Option<&Snapshot>,
) -> std::io::Result<Vec<Arc<ServerState>>> {
    let known: HashMap<u64, &Arc<InstanceState>> = before
        .iter()
        .flat_map(|before| &before.states)
        .flat_map(|state| &state.instances)
        .map(|instance| (instance.digest, instance))
        .collect();
    let mut states = Vec::with_capacity(prepared.servers.len());
    for (settings, server) in settings.servers.iter().zip(&prepared.servers) {
        let same = before.and_then(|before| {
            let id = before.server_by_digest(server.digest)?;
            (before.settings.servers[id.index()] == *settings).then(|| before.states[id.index()].clone())
        });
        states.push(match same {
            Some(state) => state,
            None => {
                let instance = |digest: &u64| match known.get(digest) {
                    Some(known) => (*known).clone(),
                    None => Arc::new(InstanceState::new(*digest)),
                };
                let instances: Vec<Arc<InstanceState>> = server.instances.iter().map(instance).collect();
                let state = ServerState::new(server.digest, instances)?;
                if let Some(way) = before.and_then(|before| way(before, &state)) {
                    state.is_at(way);
                }
                Arc::new(state)
            }
        });
    }
    Ok(states)
}

/// The way to a program that is begun as before: its children go on, whatever else is new.
fn way(before: &Snapshot, state: &ServerState) -> Option<Arc<dyn Dial>> {
    let old = &before.states[before.server_by_digest(state.digest)?.index()];
    let same = old.instances.iter().map(digest).eq(state.instances.iter().map(digest));
    old.way().filter(|_| same).cloned()
}

fn digest(instance: &Arc<InstanceState>) -> u64 {
    instance.digest
}
