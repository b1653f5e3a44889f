//! The immutable whole that a shard decides by: settings, catalogue, compiled policy, addresses. Swapped whole, never
//! changed; each request uses one from its decision on.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;

use crate::base::ids::{EndpointId, ServerId};
use crate::base::limits::SCOPES_SUPPORTED_MAX;
use crate::base::time::Moment;
use crate::identity::caller::Caller;
use crate::identity::keyring::{Keyring, Standing};
use crate::identity::revoked::Revocations;
use crate::identity::token::Audience;
use crate::mcp::catalog::Catalog;
use crate::mcp::merge::{Member, MergeWarning, Merged};
use crate::mcp::transport::Transport;
use crate::oauth::resource::{self, Challenges, Forwarding};
use crate::policy::compile::Warning;
use crate::policy::needs::CountSecret;
use crate::policy::rule::{Mode, Rule};
use crate::policy::table::Table;
use crate::record::meter::Meters;
use crate::session::owner::{endpoint_hash, name_hash};
use crate::tls::config::Materials;
use crate::upstream::exchange::opening;
use crate::upstream::state::ServerState;

use super::audited::Audited;
use super::succession::Succession;
use super::{EndpointSettings, InstanceSettings, Names, ServerSettings, ServerTls, Settings, Shows};

/// What a path of the data listener leads to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Route {
    /// An MCP endpoint.
    Mcp(EndpointId),
    /// Its protected resource metadata (RFC 9728, section 3).
    Metadata(EndpointId),
    /// What clients of 2025-03-26 take for their authorization server.
    Issuer(IssuerPage),
}

/// What clients of 2025-03-26 ask for at the origin of their server (MCP 2025-03-26 basic/authorization).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IssuerPage {
    /// Its metadata (RFC 8414).
    Metadata,
    /// Its authorization endpoint.
    Authorize,
    /// Its token endpoint.
    Token,
    /// Its registration endpoint (RFC 7591).
    Register,
}

/// What follows from the settings alone, made once: bytes that answers are put together from.
#[derive(Debug)]
pub struct Prepared {
    routes: HashMap<Box<[u8]>, Route>,
    servers_by_digest: HashMap<u64, ServerId>,
    endpoints_by_digest: HashMap<u64, EndpointId>,
    /// By `EndpointId`.
    pub endpoints: Vec<PreparedEndpoint>,
    /// By `ServerId`.
    pub servers: Vec<PreparedServer>,
    /// First six bytes of the policy's hash.
    pub policy: [u8; 6],
    /// Callers' tokens are kept as long as the callers are known: a server is shown them, or what they are exchanged for.
    pub keeps_tokens: bool,
    /// What some server is shown depends on who calls.
    pub minds_callers: bool,
    /// What a token's audience must name, by `EndpointId`.
    pub resources: Vec<Audience>,
}

/// Bytes of one endpoint.
#[derive(Debug)]
pub struct PreparedEndpoint {
    /// What there is to say about tokens.
    pub challenges: Challenges,
    /// [`Challenges::missing`].
    pub challenge: String,
    /// [`Challenges::invalid`].
    pub challenge_invalid: String,
    /// The metadata document, JSON.
    pub metadata: Vec<u8>,
    /// Survives restarts and reloads, so a session id sealed for this path opens for no other.
    pub digest: u64,
    /// Where it serves HTTP+SSE (MCP 2024-11-05): the digest of that part of it, for whose sessions no other has use.
    pub sse: Option<u64>,
    /// The first server behind it.
    pub server: ServerId,
}

/// Bytes of one server.
#[derive(Debug)]
pub struct PreparedServer {
    /// The `Host` field of each instance; none for a command.
    pub hosts: Vec<String>,
    /// How the head of a usual message to each instance begins.
    pub openings: Vec<Vec<u8>>,
    /// Its name's [`name_hash`]: what outlives a restart calls it by this.
    pub digest: u64,
    /// Whom what it is shown depends on.
    pub shows: Shows,
    /// The digests of its instances, in their order (see [`crate::upstream::state::InstanceState`]).
    pub instances: Vec<u64>,
}

/// One state of the gateway.
#[derive(Debug)]
pub struct Snapshot {
    /// What the operator wrote.
    pub settings: Arc<Settings>,
    /// What follows from that.
    pub prepared: Arc<Prepared>,
    /// What the servers offer.
    pub catalog: Arc<Catalog>,
    /// What that looks like at each endpoint, by `EndpointId`.
    pub merged: Arc<[Merged]>,
    /// What of that an operator should know; names too long and names withheld.
    pub merge_warnings: Vec<(EndpointId, MergeWarning)>,
    /// The policy, compiled against the catalogue.
    pub table: Arc<Table>,
    /// Who is let do nothing more, whatever the rules say.
    pub revocations: Arc<Revocations>,
    /// The issuers' keys, by their index in the settings.
    pub keys: Arc<Keyring>,
    /// Counts up when a key that tokens were verified with is one no more: they are verified again.
    pub keys_epoch: u64,
    /// The issuers' own metadata as it came, by their index in the settings; none where it is not known, also beyond the
    /// end.
    pub documents: Arc<[Option<Arc<[u8]>>]>,
    /// Where clients of 2025-03-26 are sent; none while that is not known, and where it is not wanted.
    pub forwarding: Option<Arc<Forwarding>>,
    /// What the keys of its counts are made with.
    pub count_secret: CountSecret,
    /// What outlives the snapshot, by `ServerId`.
    pub states: Vec<Arc<ServerState>>,
    /// Resolved addresses, by `ServerId`, then by instance; empty where the name does not resolve.
    pub addresses: Vec<Vec<Arc<[SocketAddr]>>>,
    /// Certificates, keys and authorities, of the same settings.
    pub tls: Arc<Materials>,
    /// What is counted, by the ids of this snapshot.
    pub meters: Arc<Meters>,
    /// Which arguments are written down.
    pub audited: Arc<Audited>,
    /// Counts up when verified tokens must be verified again, and callers' sets mean something else: with every change
    /// of the issuers, the tasks' names, the `who` of rules, the endpoints, or of whether a token is needed.
    pub auth_epoch: u64,
    /// Counts up with every change of the settings: ids mean something else, and rules may.
    pub settings_epoch: u64,
    /// What callers of the `auth_epoch` before are in this one.
    pub succession: Arc<Succession>,
    /// Counts up with every snapshot.
    pub number: u64,
}

/// What was fetched of the issuers of one configuration, as of one moment.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct FetchedKeys {
    /// See [`Snapshot`], as for all of these.
    pub keys: Arc<Keyring>,
    /// Of these keys.
    pub keys_epoch: u64,
    /// Of the same issuers.
    pub documents: Arc<[Option<Arc<[u8]>>]>,
}

/// What a snapshot is made of, beside what follows from that.
#[derive(Debug)]
pub struct Parts {
    /// See [`Snapshot`], as for all of these.
    pub settings: Arc<Settings>,
    /// Of the same settings.
    pub prepared: Arc<Prepared>,
    /// By the `ServerId`s of the same settings.
    pub catalog: Catalog,
    /// By the same.
    pub states: Vec<Arc<ServerState>>,
    /// By the same, then by instance.
    pub addresses: Vec<Vec<Arc<[SocketAddr]>>>,
    /// Of the same settings.
    pub tls: Arc<Materials>,
    /// Who is let do nothing more.
    pub revocations: Arc<Revocations>,
    /// The issuers' keys, by their index in the same settings.
    pub keys: Arc<Keyring>,
    /// See [`Snapshot::documents`].
    pub documents: Arc<[Option<Arc<[u8]>>]>,
    /// Their number.
    pub keys_epoch: u64,
    /// The state folder's: always the same.
    pub count_secret: CountSecret,
    /// The snapshot before; `None` for the first.
    pub before: Option<Arc<Snapshot>>,
    /// Those of the snapshot before.
    pub meters: Arc<Meters>,
    /// Of the same settings.
    pub auth_epoch: u64,
    /// The number of the settings.
    pub settings_epoch: u64,
    /// To `auth_epoch`.
    pub succession: Arc<Succession>,
    /// The snapshot's own.
    pub number: u64,
}

impl Prepared {
    /// Everything that follows from these settings.
    #[must_use]
    pub fn new(settings: &Settings) -> Self {
        let mut routes = HashMap::new();
        let mut endpoints: Vec<PreparedEndpoint> = Vec::new();
        for (index, endpoint) in settings.endpoints.iter().enumerate() {
            let id = EndpointId::from_index(index);
            let metadata_path = resource::metadata_path(&endpoint.path);
            let challenges =
                Challenges::new(&format!("{}{metadata_path}", settings.public_url), &base_scopes(settings));
            routes.insert(Box::from(endpoint.path.as_bytes()), Route::Mcp(id));
            routes.insert(Box::from(metadata_path.as_bytes()), Route::Metadata(id));
            endpoints.push(PreparedEndpoint {
                challenge_invalid: challenges.invalid(),
                challenge: challenges.missing(),
                challenges,
                metadata: metadata(settings, endpoint),
                digest: endpoint_hash(&endpoint.path),
                // No path has a query, so none has this digest.
                sse: endpoint.sse.then(|| endpoint_hash(&format!("{}?session", endpoint.path))),
                server: endpoint.servers[0],
            });
        }
        if let Some(first) = settings.endpoints.iter().position(|endpoint| !endpoint.path.starts_with("/s/")) {
            // The root form is asked for by clients that know the host only (RFC 9728, section 3.1).
            // Where an endpoint is at `/` it is that one's own.
            let root = Box::from(resource::WELL_KNOWN.as_bytes());
            routes.entry(root).or_insert(Route::Metadata(EndpointId::from_index(first)));
        }
        if settings.legacy_metadata {
            for (path, page) in ISSUER_PAGES {
                // An endpoint may be there.
                routes.entry(Box::from(path.as_bytes())).or_insert(Route::Issuer(page));
            }
        }
        let servers = settings.servers.iter();
        let servers: Vec<PreparedServer> = servers
            .map(|server| PreparedServer {
                hosts: server.instances().iter().map(InstanceSettings::authority).collect(),
                openings: server.instances().iter().map(|it| opening(&it.authority(), &it.path)).collect(),
                digest: name_hash(&server.name),
                shows: server.shows(),
                instances: instance_digests(server),
            })
            .collect();
        let by_digest = servers.iter().enumerate().map(|(index, server)| (server.digest, ServerId::from_index(index)));
        let servers_by_digest = by_digest.collect();
        let by_digest = endpoints.iter().enumerate().flat_map(|(index, endpoint)| {
            let digests = [Some(endpoint.digest), endpoint.sse];
            digests.into_iter().flatten().map(move |digest| (digest, EndpointId::from_index(index)))
        });
        let endpoints_by_digest = by_digest.collect();
        let mut policy = [0; 6];
        policy.copy_from_slice(&settings.policy.hash()[..6]);
        let resources = settings.endpoints.iter().map(audience).collect();
        Self {
            routes,
            servers_by_digest,
            endpoints_by_digest,
            endpoints,
            keeps_tokens: settings.keeps_tokens(),
            minds_callers: servers.iter().any(|server| matches!(server.shows, Shows::Callers { .. })),
            servers,
            policy,
            resources,
        }
    }

    /// Where a path leads; `None` for nowhere. Paths are compared byte for byte.
    #[must_use]
    pub fn route(&self, path: &[u8]) -> Option<Route> {
        self.routes.get(path).copied()
    }

    /// The server with this [`PreparedServer::digest`].
    #[must_use]
    pub fn server_by_digest(&self, digest: u64) -> Option<ServerId> {
        self.servers_by_digest.get(&digest).copied()
    }

    /// The endpoint with this [`PreparedEndpoint::digest`], or with this [`PreparedEndpoint::sse`].
    #[must_use]
    pub fn endpoint_by_digest(&self, digest: u64) -> Option<EndpointId> {
        self.endpoints_by_digest.get(&digest).copied()
    }
}

impl Snapshot {
    /// A snapshot of these parts; the policy is compiled here.
    #[must_use]
    pub fn new(parts: Parts) -> (Self, Vec<Warning>) {
        let Parts { settings, prepared, catalog, states, addresses, tls, meters, .. } = parts;
        let Parts { auth_epoch, settings_epoch, succession, number, before, revocations, count_secret, .. } = parts;
        let Parts { keys, documents, keys_epoch, .. } = parts;
        let names: Vec<Arc<str>> = settings.servers.iter().map(|server| server.name.clone()).collect();
        let (table, warnings) = Table::keyed(&settings.policy, &names, &catalog, &count_secret);
        let meters = Arc::new(meters.next(&names, settings.policy.rules().iter().map(|rule| &rule.id), &catalog));
        let forwarding = forwarding(&settings, &documents, before.as_deref());
        let (merged, merge_warnings) = merge(&settings, &prepared, &catalog, before.as_deref());
        let snapshot = Self {
            audited: Arc::new(Audited::new(&settings, &catalog)),
            settings,
            prepared,
            catalog: Arc::new(catalog),
            merged: merged.into(),
            merge_warnings,
            table: Arc::new(table),
            revocations,
            keys,
            documents,
            forwarding,
            keys_epoch,
            count_secret,
            states,
            addresses,
            tls,
            meters,
            auth_epoch,
            settings_epoch,
            succession,
            number,
        };
        (snapshot, warnings)
    }

    /// The same, but for who is revoked: nothing is compiled, so that nobody waits for it.
    #[must_use]
    pub fn revoking(&self, revocations: Arc<Revocations>, number: u64) -> Self {
        Self { revocations, number, ..self.same() }
    }

    /// The same, but for the issuers' keys and metadata: nothing is compiled here either.
    #[must_use]
    pub fn keyed(&self, fetched: FetchedKeys, number: u64) -> Self {
        let FetchedKeys { keys, keys_epoch, documents } = fetched;
        let forwarding = forwarding(&self.settings, &documents, Some(self));
        Self { keys, keys_epoch, documents, forwarding, number, ..self.same() }
    }

    fn same(&self) -> Self {
        Self {
            settings: self.settings.clone(),
            prepared: self.prepared.clone(),
            catalog: self.catalog.clone(),
            merged: self.merged.clone(),
            merge_warnings: self.merge_warnings.clone(),
            table: self.table.clone(),
            revocations: self.revocations.clone(),
            keys: self.keys.clone(),
            keys_epoch: self.keys_epoch,
            documents: self.documents.clone(),
            forwarding: self.forwarding.clone(),
            count_secret: self.count_secret.clone(),
            states: self.states.clone(),
            addresses: self.addresses.clone(),
            tls: self.tls.clone(),
            meters: self.meters.clone(),
            audited: self.audited.clone(),
            auth_epoch: self.auth_epoch,
            settings_epoch: self.settings_epoch,
            succession: self.succession.clone(),
            number: self.number,
        }
    }

    /// Whether the key that a caller's token was verified with, and what its issuer said of it, still hold.
    #[must_use]
    pub fn stands(&self, caller: &Caller, now: Moment) -> bool {
        let held = |key| {
            let issuer = self.settings.issuers.iter().position(|issuer| issuer.issuer == caller.issuer);
            issuer.is_some_and(|issuer| self.keys.holds(issuer, key))
        };
        caller.key.is_none_or(held) && caller.liveness.as_ref().is_none_or(|token| token.is_alive(now))
    }

    /// Whether the key that a caller's token was verified with is withdrawn: its issuer is known to have others now, or is
    /// an issuer no more. Keys that are merely too old to be believed are not.
    #[must_use]
    pub fn has_withdrawn_key_of(&self, caller: &Caller) -> bool {
        let Some(key) = caller.key else { return false };
        let issuer = self.settings.issuers.iter().position(|issuer| issuer.issuer == caller.issuer);
        issuer.is_none_or(|issuer| matches!(self.keys.of(issuer), Standing::Good(good) if !good.set.holds(key)))
    }

    /// Makes the meters those of so many shards: before any of them has begun.
    pub fn meter(&mut self, shards: usize) {
        let names: Vec<Arc<str>> = self.settings.servers.iter().map(|server| server.name.clone()).collect();
        let rules = self.settings.policy.rules().iter().map(|rule| &rule.id);
        self.meters = Arc::new(Meters::new(shards).next(&names, rules, &self.catalog));
    }

    /// The server with this [`PreparedServer::digest`]: what outlives a snapshot knows it by that.
    #[must_use]
    pub fn server_by_digest(&self, digest: u64) -> Option<ServerId> {
        self.prepared.server_by_digest(digest)
    }

    /// The endpoint with this [`PreparedEndpoint::digest`], or with this [`PreparedEndpoint::sse`].
    #[must_use]
    pub fn endpoint_by_digest(&self, digest: u64) -> Option<EndpointId> {
        self.prepared.endpoint_by_digest(digest)
    }
}

/// What the catalogue looks like at each endpoint, and what is worth a warning there.
fn merge(
    settings: &Settings,
    prepared: &Prepared,
    catalog: &Catalog,
    before: Option<&Snapshot>,
) -> (Vec<Merged>, Vec<(EndpointId, MergeWarning)>) {
    let (mut all, mut told) = (Vec::new(), Vec::new());
    for (index, endpoint) in settings.endpoints.iter().enumerate() {
        let named = |server: &ServerId| Some((*server, &*settings.servers.get(server.index())?.name));
        let servers = endpoint.servers.iter().filter_map(named);
        let members: Vec<Member<'_>> = servers.map(|(server, name)| Member { server, name }).collect();
        let digest = prepared.endpoints[index].digest;
        let before = before.and_then(|before| before.merged.get(before.endpoint_by_digest(digest)?.index()));
        let (merged, warnings) = Merged::follow(before, &members, endpoint.names == Names::Prefix, catalog);
        all.push(merged);
        told.extend(warnings.into_iter().map(|warning| (EndpointId::from_index(index), warning)));
    }
    (all, told)
}

impl Snapshot {
    /// How messages travel to a server: as it was found to be, or as the operator says while that is not known.
    #[must_use]
    pub fn transport(&self, server: ServerId) -> Transport {
        let settings = self.settings.servers.get(server.index());
        let said = || match settings {
            Some(server) if server.command().is_some() => Some(Transport::Stdio),
            _ => settings.and_then(|server| server.transport),
        };
        self.catalog.server(server).map_or_else(|| said().unwrap_or_default(), |catalog| catalog.transport)
    }
}

/// What tells one place of a server from every other: its name, its URL, and how TLS is spoken there. Of a command: how
/// it is started.
fn instance_digests(server: &ServerSettings) -> Vec<u64> {
    let name = &server.name;
    if let Some(command) = server.command() {
        return vec![name_hash(&format!("{name} {command:?}"))];
    }
    let digest = |instance: &InstanceSettings| {
        let InstanceSettings { scheme, host, port, path, tls } = instance;
        let tls = tls.as_ref().map(|ServerTls { name, ca, identity }| format!("{name:?} {ca:?} {identity:?}"));
        name_hash(&format!("{name} {}://{host}:{port}{path} {}", scheme.as_str(), tls.unwrap_or_default()))
    };
    server.instances().iter().map(digest).collect()
}

/// What a token's audience must name at an endpoint. With and without the slash, a URL of no path is the same
/// (RFC 9110, 4.2.3).
fn audience(endpoint: &EndpointSettings) -> Audience {
    if !endpoint.audience.is_empty() {
        return Audience { names: endpoint.audience.clone(), apart: true };
    }
    let bare = endpoint.resource.strip_suffix('/').map(str::to_owned);
    Audience { names: [Some(endpoint.resource.clone()), bare].into_iter().flatten().collect(), apart: false }
}

/// The scopes that every token is to have. To stay signed in is between a client and its issuer (MCP 2026-07-28
/// basic/authorization).
fn base_scopes(settings: &Settings) -> Vec<&str> {
    settings.scopes.iter().map(String::as_str).filter(|scope| *scope != "offline_access").collect()
}

fn metadata(settings: &Settings, endpoint: &EndpointSettings) -> Vec<u8> {
    let issuers: Vec<&str> = settings.issuers.iter().map(|issuer| &*issuer.issuer).collect();
    let names: Vec<&str> = endpoint.servers.iter().map(|server| &*settings.servers[server.index()].name).collect();
    let reaches = |rule: &Rule| {
        let mut patterns = rule.patterns.iter();
        rule.mode == Mode::Enforce && patterns.any(|pattern| names.iter().any(|name| pattern.has_server(name)))
    };
    let mut scopes = base_scopes(settings);
    for scope in settings.policy.rules().iter().filter(|rule| reaches(rule)).flat_map(|rule| &rule.scopes) {
        if scopes.len() >= SCOPES_SUPPORTED_MAX {
            break;
        }
        if !scopes.contains(&&**scope) && **scope != *"offline_access" {
            scopes.push(scope);
        }
    }
    resource::document(&endpoint.resource, &issuers, &scopes)
}

/// Read anew only where the document is another one.
fn forwarding(
    settings: &Settings,
    documents: &Arc<[Option<Arc<[u8]>>]>,
    before: Option<&Snapshot>,
) -> Option<Arc<Forwarding>> {
    let document = documents.first()?.as_ref().filter(|_| settings.legacy_metadata)?;
    let known = before.and_then(|before| before.forwarding.clone());
    known.filter(|known| known.document == **document).or_else(|| Some(Arc::new(Forwarding::new(document))))
}

const ISSUER_PAGES: [(&str, IssuerPage); 4] = [
    ("/.well-known/oauth-authorization-server", IssuerPage::Metadata),
    ("/authorize", IssuerPage::Authorize),
    ("/token", IssuerPage::Token),
    ("/register", IssuerPage::Register),
];
