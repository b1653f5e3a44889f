//! From a text to [`Settings`], or to everything that is wrong with it.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::base::limits::{AUDIT_ARGUMENTS_MAX, CONNECTIONS_MAX, SHARDS_MAX};
use crate::config::argument::ArgPath;
use crate::config::expand::Source;
use crate::config::fault::{Fault, Faults};
use crate::config::files::Files;
use crate::config::front::{self, Front};
use crate::config::parts::{self, Types};
use crate::config::raw::{self, Entry, Node, Place};
use crate::config::servers::server_names;
use crate::config::settings::{AuditSettings, Limits, ListenSettings, Settings, Shards};
use crate::config::shape::{self, join, quoted};
use crate::config::stands::Stands;
use crate::config::{issuers, routes, rules, schema, servers, telemetry};
use crate::policy::cond::ClaimTypes;
use crate::policy::pattern::{About, Pattern};
use crate::session::ledger::Bounds;

/// A configuration that can be used.
#[derive(Clone, Debug)]
pub struct Loaded {
    /// What it means.
    pub settings: Settings,
    /// What the operator should hear all the same; for `--strict` these are errors.
    pub warnings: Vec<Fault>,
    /// Where its rules stand.
    pub stands: Stands,
}

/// Reads a whole configuration. `folder` is where the file lies, and where its relative paths start; `source` looks up
/// the variables and files that the text names, and nothing else.
///
/// # Errors
/// Every fault of the file (warnings among them) in its order, when at least one is an error. Only a fault of YAML
/// itself stands alone: what follows it cannot be told.
pub fn load(text: &str, folder: &Path, source: &dyn Source) -> Result<Loaded, Vec<Fault>> {
    let Read { mut root, settings, warnings, stands } = read(text, folder, source)?;
    root.wipe();
    Ok(Loaded { settings, warnings, stands })
}

/// A configuration that can be used, and what it was read from: to be wiped.
pub(crate) struct Read {
    pub(crate) root: Node,
    pub(crate) settings: Settings,
    pub(crate) warnings: Vec<Fault>,
    pub(crate) stands: Stands,
}

/// As [`load`].
pub(crate) fn read(text: &str, folder: &Path, source: &dyn Source) -> Result<Read, Vec<Fault>> {
    let unread = |fault: Fault| vec![fault.veiled_beside(text, &schema::secret_names())];
    let mut root = raw::parse(text).map_err(unread)?;
    let mut faults = Faults::default();
    if !shape::fit(&mut root, schema::ROOT, text, (folder, source), &mut faults) {
        return Err(faults.all());
    }
    let mut check = Check { root: &root, text, files: Files { folder, source }, faults };
    let (settings, mut stands) = check.settings();
    stands.veil(check.faults.veiled());
    let faults = check.faults;
    let warnings = faults.finish().inspect_err(|_| root.wipe())?;
    Ok(Read { root, settings, warnings, stands })
}

struct Check<'a> {
    root: &'a Node,
    text: &'a str,
    files: Files<'a>,
    faults: Faults,
}

impl Check<'_> {
    fn settings(&mut self) -> (Settings, Stands) {
        let root = self.root;
        let listen = front::listeners(root, self.files, &mut self.faults);
        let admin = front::admin(root, &listen, &mut self.faults);
        let front = Front::read(root, &listen, &mut self.faults);
        let anonymous = self.anonymous(&listen);
        let (issuers, sources) = issuers::issuers(root, self.files, &mut self.faults).into_iter().unzip();
        let scopes = issuers::scopes(root, &mut self.faults);
        let legacy_metadata = issuers::legacy_metadata(root, &mut self.faults);
        let telemetry = telemetry::telemetry(root, self.files, &mut self.faults);
        let limits = self.limits();
        let servers = servers::servers(root, &limits, self.files, &mut self.faults);
        let endpoints = routes::endpoints(root, &mut self.faults);
        let claims = self.claim_types();
        let (policy, stands) = parts::policy(root, self.text, self.files, (&endpoints, &claims), &mut self.faults);
        let state = self.state();
        let audit_dir = self.path(root.get("audit").and_then(|audit| audit.get("dir")), "audit.dir");
        let audit_dir = audit_dir.unwrap_or_else(|| state.join("audit"));
        let names = front.names(&listen);
        let mut settings = Settings {
            listen,
            public_url: names.public_url,
            shards: self.shards(),
            spin_us: self.root.get("spin_us").and_then(Node::amount).unwrap_or(0),
            admin,
            state,
            audit_dir,
            hosts: names.hosts,
            origins: names.origins,
            anonymous,
            issuers,
            sources,
            scopes,
            legacy_metadata,
            telemetry,
            servers,
            endpoints,
            policy: Arc::new(policy),
            audit: self.audit(),
            limits,
            sessions: self.sessions(),
            front,
        };
        settings.name_resources();
        (settings, stands)
    }

    /// Whether requests without a token are let in. Nobody being let in is a fault, and so is everybody.
    fn anonymous(&mut self, listen: &[ListenSettings]) -> bool {
        let auth = self.root.get("auth");
        let written = auth.and_then(|auth| auth.get("anonymous"));
        let anonymous = written.is_some_and(|node| node.text() == Some("allow"));
        let public = auth.and_then(|auth| auth.get("anonymous_public")).is_some_and(Node::is_true);
        let mut outside = listen.iter().map(|listener| listener.address).filter(|address| !address.ip().is_loopback());
        if let (Some(node), true, Some(listener), false) = (written, anonymous, outside.next(), public) {
            let message = format!("the listener {listener} is not on loopback: anybody who reaches it could call");
            let hint = "name an issuer, listen on 127.0.0.1, or say that it is meant: anonymous_public: true";
            self.faults.error(&node.at, "auth.anonymous", message, hint);
        }
        let issuers = auth.is_some_and(|auth| match auth.get("issuers") {
            Some(issuers) => !issuers.items().is_empty(),
            None => auth.has("issuers"),
        });
        let unclear = auth.is_some_and(|auth| auth.is_partial() || (written.is_none() && auth.has("anonymous")));
        let unclear = unclear || (auth.is_none() && (self.root.has("auth") || self.root.is_partial()));
        if !anonymous && !issuers && !unclear {
            let start = Place { line: 1, column: 1, spelt: 0..0 };
            let at = auth.map_or(&start, |auth| &auth.at);
            let hint = "name an issuer, or for trying things out on loopback: auth: { anonymous: allow }";
            self.faults.error(at, "auth", "neither `issuers` nor `anonymous: allow`: nobody could call", hint);
        }
        anonymous
    }

    /// What claims are declared to be, by whichever issuer.
    fn claim_types(&mut self) -> ClaimTypes {
        let issuers = self.root.get("auth").and_then(|auth| auth.get("issuers")).map(Node::items).unwrap_or_default();
        let mut types = Types::default();
        for (index, issuer) in issuers.iter().enumerate() {
            types.read(issuer, &format!("auth.issuers[{index}]"), &mut self.faults);
        }
        types.finish()
    }

    fn audit(&mut self) -> AuditSettings {
        let Some(audit) = self.root.get("audit") else {
            return AuditSettings::default();
        };
        let keyed_subjects = audit.get("subject").and_then(Node::text) == Some("keyed");
        let mut arguments = Vec::new();
        if let Some(node) = audit.get("arguments") {
            if node.entries().len() > AUDIT_ARGUMENTS_MAX {
                let message = format!("over {AUDIT_ARGUMENTS_MAX} patterns");
                self.faults.error(&node.at, "audit.arguments", message, "");
            }
            let entries = node.entries().iter().take(AUDIT_ARGUMENTS_MAX);
            arguments.extend(entries.filter_map(|entry| self.audited(entry)));
        }
        AuditSettings { arguments, keyed_subjects }
    }

    fn audited(&mut self, entry: &Entry) -> Option<(Pattern, Vec<ArgPath>)> {
        let path = join("audit.arguments", &entry.key);
        let key = Node::text_at(&entry.key, &entry.key_at);
        let servers = server_names(self.root);
        let pattern = rules::pattern(&key, &path, (self.text, &servers), &mut self.faults);
        if pattern.as_ref().is_some_and(|it| !matches!(it.about(), About::Tool(_) | About::Prompt(_))) {
            let hint = "write server/tool or server!prompt:NAME";
            self.faults.error(&entry.key_at, &path, "only tools and prompts have arguments", hint);
        }
        let items = entry.node.items();
        if items.len() > AUDIT_ARGUMENTS_MAX {
            self.faults.error(&entry.node.at, &path, format!("over {AUDIT_ARGUMENTS_MAX} arguments"), "");
        }
        let mut out = Vec::new();
        for (index, item) in items.iter().enumerate().take(AUDIT_ARGUMENTS_MAX) {
            let Some(text) = item.text() else { continue };
            match ArgPath::parse(text) {
                Ok(path) => out.push(path),
                Err(offset) => {
                    let at = item.at.inside(self.text, text, offset);
                    let message = format!("{} is not an argument", quoted(item));
                    self.faults.error(&at, &format!("{path}[{index}]"), message, "write amount or lines[0].price");
                }
            }
        }
        Some((pattern?, out))
    }

    fn limits(&self) -> Limits {
        let amount = |key: &str| self.root.get("limits").and_then(|limits| limits.get(key)).and_then(Node::amount);
        let size = |key: &str| amount(key).and_then(|amount| usize::try_from(amount).ok());
        let default = Limits::default();
        Limits {
            body_bytes_max: size("body").unwrap_or(default.body_bytes_max),
            drain_ms_max: amount("drain").unwrap_or(default.drain_ms_max),
            connections_max: size("connections").unwrap_or(default.connections_max).min(CONNECTIONS_MAX),
            call_ms_max: amount("call").unwrap_or(default.call_ms_max),
            connect_ms_max: amount("connect").unwrap_or(default.connect_ms_max),
            idle_ms_max: amount("idle").unwrap_or(default.idle_ms_max),
            connections_per_address_max: size("connections_per_address").unwrap_or(default.connections_per_address_max),
            calls_per_subject_max: size("calls_per_subject").unwrap_or(default.calls_per_subject_max),
            streams_per_subject_max: size("streams_per_subject").unwrap_or(default.streams_per_subject_max),
            calls_max: size("calls").unwrap_or(default.calls_max),
            streams_max: size("streams").unwrap_or(default.streams_max),
            head_ms_max: amount("head").unwrap_or(default.head_ms_max),
            handshake_ms_max: amount("handshake").unwrap_or(default.handshake_ms_max),
            write_stall_ms_max: amount("write_stall").unwrap_or(default.write_stall_ms_max),
            body_time_ms_max: amount("body_time").unwrap_or(default.body_time_ms_max),
            keepalive_ms: amount("keepalive").unwrap_or(default.keepalive_ms),
            resume_ms: amount("resume").unwrap_or(default.resume_ms),
            batch_messages_max: size("batch").unwrap_or(default.batch_messages_max),
        }
    }

    fn sessions(&self) -> Bounds {
        let sessions = self.root.get("sessions");
        let amount = |key: &str| sessions.and_then(|sessions| sessions.get(key)).and_then(Node::amount);
        let count = |key: &str| amount(key).and_then(|amount| usize::try_from(amount).ok());
        let default = Bounds::default();
        Bounds {
            sessions_max: count("max").unwrap_or(default.sessions_max),
            per_owner_max: count("per_subject").unwrap_or(default.per_owner_max),
            idle_s: amount("idle").map_or(default.idle_s, |ms| ms.div_ceil(1000)),
            lifetime_s: amount("lifetime").map_or(default.lifetime_s, |ms| ms.div_ceil(1000)),
        }
    }

    fn shards(&self) -> Shards {
        let count = self.root.get("shards").and_then(Node::amount);
        count.map_or(Shards::Auto, |count| Shards::Count(u16::try_from(count).unwrap_or(SHARDS_MAX)))
    }

    /// As written; else where systemd says (`STATE_DIRECTORY` may name several, the first is ours); else beside the
    /// file.
    fn state(&mut self) -> PathBuf {
        let written = self.path(self.root.get("state"), "state");
        let given = self.files.source.var("STATE_DIRECTORY");
        let given = given.as_deref().and_then(|dirs| dirs.split(':').next()).filter(|dir| !dir.is_empty());
        written.or_else(|| given.map(PathBuf::from)).unwrap_or_else(|| self.files.folder.join("portcullis-state"))
    }

    fn path(&mut self, node: Option<&Node>, path: &str) -> Option<PathBuf> {
        self.files.path(node?, path, &mut self.faults)
    }
}
