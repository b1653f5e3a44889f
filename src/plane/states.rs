//! What outlives a snapshot, from one configuration to the next: a server whose settings are the same keeps its state,
//! and so does an instance whose own are.

use std::collections::HashMap;
use std::sync::Arc;

use crate::config::Settings;
use crate::config::snapshot::{Prepared, Snapshot};
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
    let known: HashMap<u64, &Arc<InstanceState>> =
        before.iter().flat_map(|before| &before.states).flat_map(|state| &state.instances).map(by_digest).collect();
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
                Arc::new(ServerState::new(server.digest, server.instances.iter().map(instance).collect())?)
            }
        });
    }
    Ok(states)
}

fn by_digest(instance: &Arc<InstanceState>) -> (u64, &Arc<InstanceState>) {
    (instance.digest, instance)
}
