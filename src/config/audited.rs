//! Which arguments are written down of a call: found once for each tool and prompt of a catalogue, not for each call.

use std::collections::HashMap;
use std::sync::Arc;

use crate::base::ids::{ItemId, ServerId};
use crate::mcp::catalog::{Catalog, ListKind};
use crate::policy::pattern::{About, Pattern};

use super::argument::ArgPath;
use super::settings::Settings;

/// By `ItemId`: the arguments to write down, in the operator's order; `None` where their digest is. Empty where no
/// arguments are written down at all.
#[derive(Debug, Default)]
pub struct Audited(Vec<Option<Arc<[ArgPath]>>>);

impl Audited {
    /// What the settings list of everything in the catalogue.
    #[must_use]
    pub fn new(settings: &Settings, catalog: &Catalog) -> Self {
        let listed = &settings.audit.arguments;
        if listed.is_empty() {
            return Self::default();
        }
        // By the patterns that fit: many tools have the same list.
        let mut lists: HashMap<Vec<usize>, Arc<[ArgPath]>> = HashMap::new();
        let of = |(_, server, kind, name): (ItemId, ServerId, ListKind, &str)| {
            let server = settings.servers.get(server.index()).map_or("", |server| &server.name);
            let fitting = fitting(listed, server, kind, name);
            let list = |fitting: &Vec<usize>| paths(fitting.iter().filter_map(|index| listed.get(*index))).into();
            let is_any = !fitting.is_empty();
            is_any.then(|| lists.entry(fitting).or_insert_with_key(list).clone())
        };
        Self(catalog.numbered().map(of).collect())
    }

    /// The arguments to write down of a call of this tool or prompt; `None` where their digest is.
    #[must_use]
    pub fn of(&self, item: ItemId) -> Option<&[ArgPath]> {
        self.0.get(item.index())?.as_deref()
    }
}

/// The same of what may be in no catalogue: a refused call's.
#[must_use]
pub fn listed(settings: &Settings, server: &str, kind: ListKind, name: &str) -> Option<Vec<ArgPath>> {
    let listed = &settings.audit.arguments;
    let fitting = fitting(listed, server, kind, name);
    (!fitting.is_empty()).then(|| paths(fitting.iter().filter_map(|index| listed.get(*index))))
}

/// The places of the patterns that fit.
fn fitting(listed: &[(Pattern, Vec<ArgPath>)], server: &str, kind: ListKind, name: &str) -> Vec<usize> {
    let is_about = |about: &About| match (about, kind) {
        (About::Tool(glob), ListKind::Tools) | (About::Prompt(glob), ListKind::Prompts) => glob.matches(name),
        (About::NotTool, ListKind::Prompts) => true,
        _ => false,
    };
    let patterns = listed.iter().enumerate();
    let fits = |(index, (pattern, _)): (usize, &(Pattern, _))| {
        (pattern.has_server(server) && is_about(pattern.about())).then_some(index)
    };
    patterns.filter_map(fits).collect()
}

/// Each of their paths once.
fn paths<'a>(listed: impl Iterator<Item = &'a (Pattern, Vec<ArgPath>)>) -> Vec<ArgPath> {
    let mut all: Vec<ArgPath> = Vec::new();
    for path in listed.flat_map(|(_, paths)| paths) {
        if !all.iter().any(|known| known.text == path.text) {
            all.push(path.clone());
        }
    }
    all
}
