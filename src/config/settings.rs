//! What a configuration means, once it has been found to be without fault.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use crate::base::ids::ServerId;
use crate::base::limits;
use crate::config::argument::ArgPath;
use crate::config::auth::{Credentials, IdentityHeader, IdentityValue, IssuerSource, Shows, TelemetrySettings};
use crate::config::front::Front;
use crate::identity::token::Issuer;
use crate::mcp::transport::Transport;
use crate::policy::pattern::Pattern;
use crate::policy::rule::PolicySet;
use crate::session::ledger::Bounds;
pub use crate::tls::config::ClientCert;

/// The whole gateway, as its operator wants it. Made by [`super::load`] only, so every name in it refers to something
/// that is there: an endpoint's servers exist, a rule's tasks stand in `policy.tasks`.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Where clients connect; at least one, no two alike.
    pub listen: Vec<ListenSettings>,
    /// What clients call the gateway: scheme and authority, no final `/` (`https://tools.example.com`).
    pub public_url: String,
    /// How many shards to start.
    pub shards: Shards,
    /// How long a shard looks for more before it sleeps, microseconds; 0 for not at all.
    pub spin_us: u64,
    /// The admin listener; `None` where the file says `off`.
    pub admin: Option<SocketAddr>,
    /// Where what must outlive a restart is kept.
    pub state: PathBuf,
    /// Where the record is written.
    pub audit_dir: PathBuf,
    /// `Host` values that are answered, in lower case, each as a client would write it (`127.0.0.1:8080`).
    pub hosts: Vec<String>,
    /// `Origin` values that are answered, in lower case, as a browser serialises them (RFC 6454, 6.2).
    pub origins: Vec<String>,
    /// A request without a token is the subject `anonymous`, instead of refused.
    pub anonymous: bool,
    /// Whose tokens are believed; no two with one `issuer`.
    pub issuers: Vec<Issuer>,
    /// Where their keys come from, in the same order.
    pub sources: Vec<IssuerSource>,
    /// Scopes that a client is told to ask for first (`scope` of the 401 challenge).
    pub scopes: Vec<String>,
    /// Clients of 2025-03-26 find the issuer's metadata at the gateway's own origin.
    pub legacy_metadata: bool,
    /// What is exported, and where to.
    pub telemetry: TelemetrySettings,
    /// The servers, in the order of the file: a [`ServerId`] is an index into it.
    pub servers: Vec<ServerSettings>,
    /// The endpoints, `/s/NAME/mcp` of each server among them: an `EndpointId` is an index into it.
    pub endpoints: Vec<EndpointSettings>,
    /// Tasks and rules.
    pub policy: Arc<PolicySet>,
    /// What the record says of arguments and subjects.
    pub audit: AuditSettings,
    /// Bounds that the operator may move.
    pub limits: Limits,
    /// How many sessions there may be, and for how long.
    pub sessions: Bounds,
    /// What the file says about the gateway's names, for [`Settings::bound`].
    pub(crate) front: Front,
}

impl Settings {
    /// Whether there are tokens that only their issuer can judge.
    #[must_use]
    pub fn introspects(&self) -> bool {
        self.sources.iter().any(|source| source.introspection.is_some())
    }

    /// Whether a server is shown callers' own tokens, or what they are exchanged for.
    #[must_use]
    pub fn keeps_tokens(&self) -> bool {
        self.servers.iter().any(|server| server.credentials.is_personal())
    }

    /// Tells the settings where the listeners really are, one address for each in their order, where the file left
    /// the port to the system (port 0): the names that follow from the listeners follow from these.
    pub fn bound(&mut self, addresses: &[SocketAddr]) {
        for (listener, address) in self.listen.iter_mut().zip(addresses) {
            listener.address = *address;
        }
        let names = self.front.names(&self.listen);
        self.public_url = names.public_url;
        self.hosts = names.hosts;
        self.origins = names.origins;
        self.name_resources();
    }

    pub(crate) fn name_resources(&mut self) {
        for endpoint in &mut self.endpoints {
            endpoint.resource = format!("{}{}", self.public_url, endpoint.path);
        }
    }
}

/// What the record says of arguments and subjects.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AuditSettings {
    /// Arguments that are written down, by what is called; of others, a keyed digest is.
    pub arguments: Vec<(Pattern, Vec<ArgPath>)>,
    /// Subjects and agents are written as keyed hashes.
    pub keyed_subjects: bool,
}

/// One listener for clients.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListenSettings {
    /// Its address and port; port 0 until the system has chosen one.
    pub address: SocketAddr,
    /// What it needs to speak TLS; `None` for plain HTTP.
    pub tls: Option<ListenTls>,
}

impl ListenSettings {
    /// The scheme of its URLs.
    #[must_use]
    pub fn scheme(&self) -> Scheme {
        if self.tls.is_some() { Scheme::Https } else { Scheme::Http }
    }
}

/// A listener's side of TLS.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListenTls {
    /// At least one; the first is shown to clients that ask for no name, or for one that no certificate has.
    pub certificates: Vec<CertPaths>,
    /// The authorities that client certificates must come from; there exactly when `client` is not `None`.
    pub client_ca: Option<PathBuf>,
    /// Whether clients show certificates.
    pub client: ClientCert,
}

/// A certificate with its chain, and its private key: two PEM files (RFC 7468).
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct CertPaths {
    /// The certificate, then the chain up to its authority.
    pub cert: PathBuf,
    /// The private key of the first certificate, not encrypted.
    pub key: PathBuf,
}

/// How many shards to start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shards {
    /// One per core this process may run on.
    Auto,
    /// So many; at least one.
    Count(u16),
}

/// One MCP server.
#[derive(Clone, Debug, PartialEq)]
pub struct ServerSettings {
    /// Its name, `[a-z][a-z0-9-]*`.
    pub name: Arc<str>,
    /// Where it is, or how it is started.
    pub reach: Reach,
    /// From a call's first byte to its answer, milliseconds.
    pub timeout_ms: u64,
    /// How messages travel to it; `None` where that is to be found out.
    pub transport: Option<Transport>,
    /// What becomes of a definition that is new or has changed.
    pub pin: Pin,
    /// Exchanges with it at once, over all shards and instances; at least one. `None` for as many as there are calls.
    pub concurrency: Option<u32>,
    /// When an instance of it is left alone.
    pub health: HealthSettings,
    /// What it is shown.
    pub credentials: Credentials,
    /// What it is told of callers.
    pub identity_headers: Vec<IdentityHeader>,
    /// With a credential of each caller's own: what the gateway itself looks at its catalogue with; `None` for nothing.
    pub catalogue: Option<Credentials>,
}

impl ServerSettings {
    /// What of it depends on whom a message is for.
    #[must_use]
    pub fn shows(&self) -> Shows {
        let tasks = self.identity_headers.iter().any(|header| header.from == IdentityValue::Task);
        match &self.credentials {
            credentials if credentials.is_personal() => Shows::Callers { tasks },
            _ if !self.identity_headers.is_empty() => Shows::Callers { tasks },
            Credentials::Strip => Shows::Nothing,
            _ => Shows::Alike,
        }
    }

    /// Its instances, in the order of the file; none for a command.
    #[must_use]
    pub fn instances(&self) -> &[InstanceSettings] {
        match &self.reach {
            Reach::Http(instances) => instances,
            Reach::Command(_) => &[],
        }
    }

    /// How it is started, where it is a command.
    #[must_use]
    pub fn command(&self) -> Option<&CommandSettings> {
        match &self.reach {
            Reach::Http(_) => None,
            Reach::Command(command) => Some(command),
        }
    }
}

/// Where a server is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reach {
    /// At URLs: at least one, no two alike.
    Http(Vec<InstanceSettings>),
    /// It is a program that speaks over its pipes.
    Command(CommandSettings),
}

/// One of a server's interchangeable instances.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct InstanceSettings {
    /// How it is spoken to.
    pub scheme: Scheme,
    /// Host name or address as a URL writes it, in lower case (an IPv6 address in brackets).
    pub host: String,
    /// Port, filled in where the URL leaves it out.
    pub port: u16,
    /// Path, and query where there is one; starts with `/`.
    pub path: String,
    /// What it takes to speak TLS to it; `Some` exactly for [`Scheme::Https`].
    pub tls: Option<ServerTls>,
}

impl InstanceSettings {
    /// Host and port as a `Host` field has them: the scheme's own port is left out (RFC 9110, 7.2).
    #[must_use]
    pub fn authority(&self) -> String {
        if self.port == self.scheme.port() { self.host.clone() } else { format!("{}:{}", self.host, self.port) }
    }

    /// Its URL, for people: without the query, which may hold a secret.
    #[must_use]
    pub fn url(&self) -> String {
        let path = self.path.split('?').next().unwrap_or_default();
        format!("{}://{}{path}", self.scheme.as_str(), self.authority())
    }
}

/// A program that speaks MCP over its pipes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CommandSettings {
    /// The program: a path where it has a `/` (a relative one is resolved already), else a name to look up in `PATH`.
    /// Not empty, without NUL.
    pub program: String,
    /// Its arguments, without NUL. No shell sees them.
    pub args: Vec<String>,
    /// The folder it starts in; `None` for the gateway's own.
    pub cwd: Option<PathBuf>,
    /// Its environment, as written: names are not empty and have neither `=` nor NUL, values have no NUL. May be secret.
    pub env: Vec<(String, String)>,
    /// Names of variables that it gets as the gateway has them, where it has them; none of them stands in `env`.
    pub inherit: Vec<String>,
    /// The user, by name or number, that it runs as; `None` for the gateway's own.
    pub user: Option<String>,
    /// Whom one child serves.
    pub sharing: Sharing,
}

/// Whom one child of a command serves.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Sharing {
    /// One legacy session; in the modern era, which has none, one owner (subject, agent and task).
    #[default]
    Session,
    /// Everybody.
    Shared,
}

/// What becomes of a definition that is new or has changed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Pin {
    /// It is served, and reported.
    #[default]
    Warn,
    /// It is hidden until somebody approves it.
    Quarantine,
}

/// When an instance is left alone, and how it is noticed that it is well again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HealthSettings {
    /// Between two probes, milliseconds; 0 for none: then calls alone tell.
    pub interval_ms: u64,
    /// So many failures in a row eject it; at least one.
    pub failures: u32,
    /// The first ejection lasts so long, milliseconds; each further one in a row twice as long as the one before.
    pub open_ms: u64,
}

/// The gateway's side of TLS to a server.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ServerTls {
    /// The name that its certificate must have, and that is asked for when it is no address: a host name in lower
    /// case, or an IP address (IPv6 without brackets).
    pub name: String,
    /// The authorities that its certificate must come from; `None` for those of the system.
    pub ca: Option<PathBuf>,
    /// The gateway's own certificate, if it has one for this server.
    pub identity: Option<CertPaths>,
}

/// How HTTP is spoken, to a server or on a listener.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Scheme {
    /// HTTP/1.1 over TCP.
    Http,
    /// HTTP/1.1 over TLS.
    Https,
}

impl Scheme {
    /// As a URL begins: `http` or `https`.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Http => "http",
            Self::Https => "https",
        }
    }

    /// The port of a URL that has none (RFC 9110, 4.2.1 and 4.2.2).
    #[must_use]
    pub const fn port(self) -> u16 {
        match self {
            Self::Http => 80,
            Self::Https => 443,
        }
    }
}

/// One path that clients connect to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EndpointSettings {
    /// Its path, as a request's target has it.
    pub path: String,
    /// Its own URL, `public_url` and path: what a token's `aud` names (RFC 8707).
    pub resource: String,
    /// What a token's `aud` may name instead; empty for `resource` alone.
    pub audience: Vec<String>,
    /// The servers behind it, in the order of the file: at least one, none twice.
    pub servers: Vec<ServerId>,
    /// How tools and prompts are called here.
    pub names: Names,
    /// Whether clients are told what its servers say of themselves (`instructions`).
    pub instructions: bool,
    /// Clients of the HTTP+SSE transport (MCP 2024-11-05) are served too.
    pub sse: bool,
}

/// How tools and prompts are called at an endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Names {
    /// As their servers call them.
    Bare,
    /// `server__tool`.
    Prefix,
}

/// Bounds that the operator may move; the defaults are those of `base::limits`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// A request body, bytes.
    pub body_bytes_max: usize,
    /// From SIGTERM until calls still running are cut, milliseconds.
    pub drain_ms_max: u64,
    /// Connections of one shard.
    pub connections_max: usize,
    /// A call, where its server has no `timeout` of its own, milliseconds.
    pub call_ms_max: u64,
    /// A connect to a server, milliseconds.
    pub connect_ms_max: u64,
    /// A kept connection without a request, milliseconds.
    pub idle_ms_max: u64,
    /// Connections from one address, over all shards.
    pub connections_per_address_max: usize,
    /// Calls in flight of one subject, over all shards.
    pub calls_per_subject_max: usize,
    /// Open streams of one subject, over all shards.
    pub streams_per_subject_max: usize,
    /// Calls in flight, over all shards.
    pub calls_max: usize,
    /// Open streams, over all shards.
    pub streams_max: usize,
    /// A whole request head, milliseconds.
    pub head_ms_max: u64,
    /// A client's TLS handshake, milliseconds.
    pub handshake_ms_max: u64,
    /// A write to a client that makes no progress, milliseconds.
    pub write_stall_ms_max: u64,
    /// A whole request body, milliseconds.
    pub body_time_ms_max: u64,
    /// The longest silence on an event stream, milliseconds.
    pub keepalive_ms: u64,
    /// A cut event stream of a session is kept so long, milliseconds.
    pub resume_ms: u64,
    /// Messages of one batch; none are taken when it is 0.
    pub batch_messages_max: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            body_bytes_max: limits::BODY_BYTES_MAX,
            drain_ms_max: limits::DRAIN_MS_MAX,
            connections_max: limits::CONNECTIONS_MAX,
            call_ms_max: limits::CALL_MS_MAX,
            connect_ms_max: limits::CONNECT_MS_MAX,
            idle_ms_max: limits::IDLE_MS_MAX,
            connections_per_address_max: limits::CONNECTIONS_PER_ADDRESS_MAX,
            calls_per_subject_max: limits::CALLS_PER_SUBJECT_MAX,
            streams_per_subject_max: limits::STREAMS_PER_SUBJECT_MAX,
            calls_max: limits::CALLS_MAX,
            streams_max: limits::STREAMS_MAX,
            head_ms_max: limits::HEAD_MS_MAX,
            handshake_ms_max: limits::HANDSHAKE_MS_MAX,
            write_stall_ms_max: limits::WRITE_STALL_MS_MAX,
            body_time_ms_max: limits::BODY_MS_MAX,
            keepalive_ms: limits::STREAM_KEEPALIVE_MS,
            resume_ms: limits::STREAM_RESUME_MS,
            batch_messages_max: limits::BATCH_MESSAGES_DEFAULT,
        }
    }
}
