//! What an operator should know of the endpoints: names that two servers have, and names that common model providers do
//! not take. Told once in the log, and shown under `/status` as long as it is so.

use serde_json::{Value, json};

use crate::base::ids::{EndpointId, ServerId};
use crate::base::limits::TOOL_NAME_CHARACTERS_WARN;
use crate::config::Names;
use crate::config::snapshot::Snapshot;
use crate::mcp::catalog::ListKind;
use crate::mcp::merge::MergeWarning;

/// What the log has been told.
#[derive(Debug, Default)]
pub(super) struct Told(Vec<String>);

impl Told {
    /// Tells the log what is new with this snapshot.
    pub(super) fn tell(&mut self, snapshot: &Snapshot) {
        let sentences: Vec<String> =
            snapshot.merge_warnings.iter().map(|(endpoint, warning)| sentence(snapshot, *endpoint, warning)).collect();
        for sentence in sentences.iter().filter(|sentence| !self.0.contains(sentence)) {
            tracing::warn!("{sentence}");
        }
        self.0 = sentences;
    }
}

/// The endpoints, for `/status`.
pub(super) fn status(snapshot: &Snapshot) -> Value {
    let endpoint = |(index, endpoint): (usize, &crate::config::EndpointSettings)| {
        let warnings = snapshot.merge_warnings.iter().filter(|(its, _)| its.index() == index);
        let (mut withheld, mut long) = (Vec::new(), Vec::new());
        for (_, warning) in warnings {
            match warning {
                MergeWarning::Collision(collision) => withheld.push(json!({
                    "kind": word(collision.kind),
                    "name": collision.name,
                    "server": name(snapshot, collision.withheld),
                    "kept": name(snapshot, collision.kept),
                })),
                MergeWarning::LongName { exposed, .. } => long.push(exposed),
            }
        }
        let names = match endpoint.names {
            Names::Bare => "bare",
            Names::Prefix => "prefix",
        };
        let servers: Vec<&str> = endpoint.servers.iter().map(|server| name(snapshot, *server)).collect();
        json!({
            "path": endpoint.path, "servers": servers, "names": names, "withheld": withheld, "long_names": long,
        })
    };
    snapshot.settings.endpoints.iter().enumerate().map(endpoint).collect()
}

fn sentence(snapshot: &Snapshot, endpoint: EndpointId, warning: &MergeWarning) -> String {
    let path = &snapshot.settings.endpoints[endpoint.index()].path;
    match warning {
        MergeWarning::Collision(collision) => {
            let (kept, withheld) = (name(snapshot, collision.kept), name(snapshot, collision.withheld));
            format!(
                "endpoint {path}: {} {} is at {kept} and at {withheld}; that of {withheld} is withheld here",
                word(collision.kind),
                collision.name.escape_debug()
            )
        }
        MergeWarning::LongName { exposed, .. } => format!(
            "endpoint {path}: the tool's name {} is longer than {TOOL_NAME_CHARACTERS_WARN} characters, which common \
             model providers do not take",
            exposed.escape_debug()
        ),
    }
}

fn name(snapshot: &Snapshot, server: ServerId) -> &str {
    snapshot.settings.servers.get(server.index()).map_or("", |server| &server.name)
}

fn word(kind: ListKind) -> &'static str {
    match kind {
        ListKind::Tools => "tool",
        ListKind::Prompts => "prompt",
        ListKind::Resources => "resource",
        ListKind::Templates => "template",
    }
}
