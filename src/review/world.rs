//! A policy, the servers that it is about, and what these offer.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::config::cases::{Offer, Target};
use crate::config::snapshot::Snapshot;
use crate::identity::active::{ActiveTask, TaskFault, active_task};
use crate::identity::caller::Caller;
use crate::identity::token::{Issuer, TokenFault, supposed};
use crate::mcp::catalog::{Catalog, CatalogFault, DropWhy, EraCatalog, ListKind, Listing, ServerCatalog, read_page};
use crate::mcp::revision::Revision;
use crate::policy::compile::Warning;
use crate::policy::rule::PolicySet;
use crate::policy::table::Table;

/// What a call is decided by.
#[derive(Debug)]
pub struct World {
    /// The rules.
    pub policy: Arc<PolicySet>,
    /// The names of the servers, by `ServerId`.
    pub servers: Vec<Arc<str>>,
    /// What they offer.
    pub catalog: Arc<Catalog>,
    /// The policy, compiled against that.
    pub table: Arc<Table>,
    /// What its author should hear of that.
    pub warnings: Vec<Warning>,
}

/// Why nobody can make this call.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CallerFault {
    /// No token has such claims.
    #[error("no token has these claims: {0}")]
    Claims(TokenFault),
    /// The task cannot be the active one: answered before any rule is looked at.
    #[error("task `{task}` cannot be the active one: {why}")]
    Task {
        /// What was named.
        task: Box<str>,
        /// Why not.
        why: TaskFault,
    },
}

/// What of an offer cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OfferFault {
    /// The list is none.
    #[error("{server}: {why}")]
    List {
        /// Whose.
        server: String,
        /// Why not.
        why: CatalogFault,
    },
    /// A definition is left out.
    #[error("{server}/{name}: {why}")]
    Dropped {
        /// Whose.
        server: String,
        /// Its name.
        name: String,
        /// Why.
        why: DropWhy,
    },
}

impl World {
    /// These rules about these servers.
    #[must_use]
    pub fn new(policy: Arc<PolicySet>, servers: Vec<Arc<str>>, catalog: Catalog) -> Self {
        let (table, warnings) = Table::compile(&policy, &servers, &catalog);
        Self { policy, servers, catalog: Arc::new(catalog), table: Arc::new(table), warnings }
    }

    /// What a running gateway decides by.
    #[must_use]
    pub fn of(snapshot: &Snapshot) -> Self {
        Self {
            policy: snapshot.settings.policy.clone(),
            servers: snapshot.settings.servers.iter().map(|server| server.name.clone()).collect(),
            catalog: snapshot.catalog.clone(),
            table: snapshot.table.clone(),
            warnings: Vec::new(),
        }
    }

    /// Who calls with a token of these claims, a JSON object (`None`: without a token), and what the call works on.
    ///
    /// # Errors
    /// `CallerFault`.
    pub fn caller(
        &self,
        claims: Option<&str>,
        issuers: &[Issuer],
        task: Option<&str>,
    ) -> Result<(Caller, ActiveTask), CallerFault> {
        let tasks = self.policy.tasks();
        let mut caller = match (claims, task) {
            (None, None) => Caller::anonymous(),
            _ => supposed(claims.unwrap_or("{}").as_bytes(), issuers, tasks, task).map_err(CallerFault::Claims)?,
        };
        caller.heads = self.policy.heads_of(&caller);
        let fault = |why| CallerFault::Task { task: task.unwrap_or_default().into(), why };
        let active = active_task(&caller, None, task, tasks).map_err(fault)?;
        Ok((caller, active))
    }
}

/// A catalogue of these servers; of those that `offers` does not name, nothing is known.
///
/// # Errors
/// Everything that cannot be used.
pub fn catalog(servers: &[Arc<str>], offers: &[Offer]) -> Result<Catalog, Vec<OfferFault>> {
    let mut faults = Vec::new();
    let mut known = |name: &Arc<str>| {
        let offer = offers.iter().find(|offer| *offer.server == **name)?;
        let mut list = |kind: ListKind, definitions: &[Box<str>]| {
            let result = format!("{{\"{}\":[{}]}}", kind.member(), definitions.join(","));
            let mut listing = Listing::default();
            match read_page(kind, result.as_bytes()) {
                Ok(page) => {
                    let dropped = listing.add(page).into_iter();
                    let server = || offer.server.clone();
                    faults.extend(dropped.map(|(name, why)| OfferFault::Dropped { server: server(), name, why }));
                }
                Err(why) => faults.push(OfferFault::List { server: offer.server.clone(), why }),
            }
            Some(listing)
        };
        let era = EraCatalog {
            protocol: Revision::NEWEST,
            capabilities: serde_json::json!({ "tools": {}, "prompts": {} }),
            server_info: None,
            instructions: None,
            events: false,
            lists: [list(ListKind::Tools, &offer.tools), list(ListKind::Prompts, &offer.prompts), None, None],
        };
        Some(ServerCatalog { modern: Some(era), ..ServerCatalog::default() })
    };
    let catalogs = servers.iter().map(&mut known).collect();
    if faults.is_empty() { Ok(Catalog::build(catalogs)) } else { Err(faults) }
}

/// Where nothing is known of what servers offer: whatever is named is there.
#[must_use]
pub fn suppose<'a>(named: impl Iterator<Item = (&'a str, &'a Target)>) -> Vec<Offer> {
    let mut offers: BTreeMap<&str, Offer> = BTreeMap::new();
    for (server, target) in named {
        let offer = offers.entry(server).or_insert_with(|| Offer { server: server.to_owned(), ..Offer::default() });
        let (list, name, schema) = match target {
            Target::Tool(name) => (&mut offer.tools, name, ",\"inputSchema\":{\"type\":\"object\"}"),
            Target::Prompt(name) => (&mut offer.prompts, name, ""),
            Target::Resource(_) => continue,
        };
        let definition = format!("{{\"name\":{}{schema}}}", serde_json::Value::from(&**name)).into_boxed_str();
        if !list.contains(&definition) {
            list.push(definition);
        }
    }
    offers.into_values().collect()
}
