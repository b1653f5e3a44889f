//! What a configuration comes to, for people: what is written, with its variables, files and included rules in place, and
//! what follows where nothing is written. Secrets are not in it.

use std::path::Path;

use serde::ser::{Serialize, SerializeMap as _, SerializeSeq as _, Serializer};

use crate::config::check::Read;
use crate::config::expand::Source;
use crate::config::fault::{Fault, Faults};
use crate::config::raw::{Node, Value};
use crate::config::schema::{self, Key, Kind};
use crate::config::settings::{HealthSettings, Limits, Names, ServerSettings, Settings, Shards};
use crate::config::shape;
use crate::config::{check, parts};

/// A configuration as it is shown. It serialises as a file that could be loaded again, but for its secrets.
#[derive(Clone, Debug, PartialEq)]
pub enum Shown {
    /// `true`, `false`.
    Flag(bool),
    /// A whole number.
    Number(u64),
    /// A text, also one that stands for an amount.
    Text(String),
    /// A list.
    List(Vec<Shown>),
    /// Keys, in their order.
    Block(Vec<(String, Shown)>),
}

/// Reads a configuration as [`super::load`] does, and tells what is written in it; with `whole`, all that follows too.
///
/// # Errors
/// As for [`super::load`].
pub fn effective(text: &str, folder: &Path, source: &dyn Source, whole: bool) -> Result<Shown, Vec<Fault>> {
    let Read { mut root, settings, warnings, .. } = check::read(text, folder, source)?;
    drop(warnings);
    let mut out = block(&root, schema::ROOT, false);
    policy(&mut out, &root, (text, folder, source));
    root.wipe();
    if whole {
        out.complete(&settings);
        out.sort(&Kind::Block(schema::ROOT));
    }
    Ok(out)
}

impl Shown {
    /// As YAML. It ends with a newline.
    #[must_use]
    pub fn to_yaml(&self) -> String {
        serde_saphyr::to_string(self).unwrap_or_default()
    }

    /// As JSON, over several lines. It ends with a newline.
    #[must_use]
    pub fn to_json(&self) -> String {
        let mut text = serde_json::to_string_pretty(self).unwrap_or_default();
        text.push('\n');
        text
    }

    /// Puts keys into the order of the table of keys.
    fn sort(&mut self, kind: &Kind) {
        match (kind, self) {
            (Kind::Either(kinds), this) => kinds.iter().for_each(|kind| this.sort(kind)),
            (Kind::List(of), Self::List(items)) => items.iter_mut().for_each(|item| item.sort(of)),
            (Kind::Named(_, of), Self::Block(entries)) => entries.iter_mut().for_each(|(_, value)| value.sort(of)),
            (Kind::Block(keys), Self::Block(entries)) => {
                let place = |name: &String| keys.iter().position(|key| key.name == name);
                entries.sort_by_key(|(name, _)| place(name));
                for (name, value) in entries {
                    if let Some(key) = keys.iter().find(|key| key.name == name) {
                        value.sort(&key.kind);
                    }
                }
            }
            _ => {}
        }
    }

    fn entries(&mut self) -> &mut Vec<(String, Shown)> {
        if !matches!(self, Self::Block(_)) {
            *self = Self::Block(Vec::new());
        }
        match self {
            Self::Block(entries) => entries,
            _ => unreachable!("it was made one"),
        }
    }

    /// The value of a key; an empty block where it has none.
    fn at(&mut self, key: &str) -> &mut Shown {
        let entries = self.entries();
        let place = entries.iter().position(|(name, _)| name == key).unwrap_or_else(|| {
            entries.push((key.to_owned(), Self::Block(Vec::new())));
            entries.len() - 1
        });
        &mut entries[place].1
    }

    fn get(&mut self, key: &str) -> Option<&mut Shown> {
        match self {
            Self::Block(entries) => entries.iter_mut().find(|(name, _)| name == key).map(|(_, value)| value),
            _ => None,
        }
    }

    /// What holds where nothing is written.
    fn fill(&mut self, key: &str, value: impl Into<Shown>) {
        if self.get(key).is_none() {
            self.entries().push((key.to_owned(), value.into()));
        }
    }

    fn put(&mut self, key: &str, value: impl Into<Shown>) {
        *self.at(key) = value.into();
    }

    fn complete(&mut self, settings: &Settings) {
        self.fill("listen", settings.listen.first().map(|it| it.address.to_string()).unwrap_or_default());
        self.put("public_url", settings.public_url.clone());
        match settings.shards {
            Shards::Auto => self.fill("shards", "auto"),
            Shards::Count(count) => self.fill("shards", u64::from(count)),
        }
        self.fill("spin_us", settings.spin_us);
        self.fill("admin", settings.admin.map_or_else(|| "off".to_owned(), |address| address.to_string()));
        self.put("state", settings.state.display().to_string());
        self.put("hosts", texts(&settings.hosts));
        self.put("origins", texts(&settings.origins));
        self.auth(settings);
        for (server, (_, shown)) in settings.servers.iter().zip(self.at("servers").entries()) {
            shown.server(server);
        }
        self.endpoints(settings);
        let audit = self.at("audit");
        audit.put("dir", settings.audit_dir.display().to_string());
        audit.fill("subject", if settings.audit.keyed_subjects { "keyed" } else { "plain" });
        self.at("limits").limits(&settings.limits);
        let sessions = self.at("sessions");
        sessions.fill("idle", ms(settings.sessions.idle_s * 1000));
        sessions.fill("lifetime", ms(settings.sessions.lifetime_s * 1000));
        sessions.fill("max", settings.sessions.sessions_max);
        sessions.fill("per_subject", settings.sessions.per_owner_max);
        self.telemetry(settings);
    }

    fn auth(&mut self, settings: &Settings) {
        let auth = self.at("auth");
        auth.fill("anonymous", if settings.anonymous { "allow" } else { "deny" });
        auth.fill("anonymous_public", false);
        auth.fill("legacy_metadata", false);
        let Some(Self::List(shown)) = auth.get("issuers") else { return };
        for ((issuer, source), shown) in settings.issuers.iter().zip(&settings.sources).zip(shown) {
            let names: Vec<String> = issuer.algorithms.iter().map(|it| it.as_str().to_owned()).collect();
            shown.fill("algorithms", texts(&names));
            shown.fill("subject", "claims.sub");
            shown.fill("agent", "claims.client_id");
            shown.fill("tasks", "claims.tasks");
            shown.fill("typ", texts(&issuer.typ));
            let keys = shown.at("jwks");
            if matches!(keys, Self::Block(_)) && keys.get("file").is_none() {
                keys.fill("refresh", ms(source.refresh_ms));
                keys.fill("stale", ms(source.stale_ms));
            }
            if let (Some(shown), Some(asked)) = (shown.get("introspection"), &source.introspection) {
                shown.client();
                shown.fill("cache", ms(asked.cache_ms));
            }
        }
    }

    /// A block that says who the gateway is at an authorization server.
    fn client(&mut self) {
        if self.get("client_secret").is_some() {
            self.fill("auth", "basic");
        }
        if let Some(key) = self.get("client_key") {
            key.fill("algorithm", "ES256");
        }
    }

    fn server(&mut self, server: &ServerSettings) {
        self.fill("timeout", ms(server.timeout_ms));
        if server.command().is_some() {
            self.fill("sharing", "session");
        } else {
            self.fill("transport", "auto");
            let HealthSettings { interval_ms, failures, open_ms } = server.health;
            let health = self.at("health");
            health.fill("interval", ms(interval_ms));
            health.fill("failures", u64::from(failures));
            health.fill("open", ms(open_ms));
        }
        self.fill("credentials", "strip");
        self.fill("pin", "warn");
        for block in ["credentials", "catalogue"] {
            for grant in ["client_credentials", "exchange"] {
                if let Some(grant) = self.get(block).and_then(|block| block.get(grant)) {
                    grant.client();
                }
            }
        }
    }

    /// But for those that every server has of its own, which no file can say.
    fn endpoints(&mut self, settings: &Settings) {
        for endpoint in settings.endpoints.iter().filter(|endpoint| !endpoint.path.starts_with("/s/")) {
            let names: Vec<String> = endpoint
                .servers
                .iter()
                .filter_map(|server| settings.servers.get(server.index()))
                .map(|server| server.name.to_string())
                .collect();
            let shown = self.at("endpoints").at(&endpoint.path);
            shown.fill("servers", texts(&names));
            shown.fill("names", if endpoint.names == Names::Bare { "bare" } else { "prefix" });
            shown.fill("instructions", true);
            shown.fill("sse", false);
        }
    }

    fn limits(&mut self, limits: &Limits) {
        self.fill("body", spelt(&Kind::Size(0, 0), limits.body_bytes_max as u64));
        for (key, time_ms) in [
            ("call", limits.call_ms_max),
            ("connect", limits.connect_ms_max),
            ("idle", limits.idle_ms_max),
            ("drain", limits.drain_ms_max),
            ("handshake", limits.handshake_ms_max),
            ("head", limits.head_ms_max),
            ("body_time", limits.body_time_ms_max),
            ("write_stall", limits.write_stall_ms_max),
            ("keepalive", limits.keepalive_ms),
            ("resume", limits.resume_ms),
        ] {
            self.fill(key, ms(time_ms));
        }
        for (key, count) in [
            ("connections", limits.connections_max),
            ("connections_per_address", limits.connections_per_address_max),
            ("calls", limits.calls_max),
            ("calls_per_subject", limits.calls_per_subject_max),
            ("streams", limits.streams_max),
            ("streams_per_subject", limits.streams_per_subject_max),
            ("batch", limits.batch_messages_max),
        ] {
            self.fill(key, count);
        }
    }

    fn telemetry(&mut self, settings: &Settings) {
        let telemetry = self.at("telemetry");
        if let (Some(otlp), Some(shown)) = (&settings.telemetry.otlp, telemetry.get("otlp")) {
            shown.put("url", otlp.url.to_string());
            shown.fill("interval", ms(otlp.interval_ms));
            shown.fill("timeout", ms(otlp.timeout_ms));
            shown.fill("metrics", true);
            telemetry.fill("traces", 0_u64);
            telemetry.fill("notification_traces", 0_u64);
        }
        telemetry.fill("trace_context", "continue");
        telemetry.fill("denial_is_error", true);
        telemetry.fill("session_buckets", "advised");
    }
}

/// A value as it is written.
fn shown(node: &Node, kind: &Kind, foreign_is_secret: bool) -> Option<Shown> {
    let kind = match kind {
        Kind::Either(kinds) => kinds.iter().find(|kind| could_be(kind, node))?,
        kind => kind,
    };
    Some(match (kind, &node.value) {
        (Kind::Secret, Value::Text(text)) if text.is_empty() => Shown::Text(String::new()),
        (Kind::Secret, _) => SECRET.into(),
        (_, Value::Text(_)) if node.foreign && foreign_is_secret => SECRET.into(),
        (Kind::Form(_), Value::Text(text)) => Shown::Text(without_query(text)),
        (_, Value::Text(text)) => Shown::Text(text.clone()),
        (_, Value::Flag(flag)) => Shown::Flag(*flag),
        (_, Value::Amount(amount)) => amount_of(kind, *amount),
        (_, Value::Number(number)) => Shown::Number((*number)?),
        (Kind::List(of), Value::List(items)) => {
            Shown::List(items.iter().filter_map(|item| shown(item, of, foreign_is_secret)).collect())
        }
        (Kind::Block(keys), Value::Block(_)) => block(node, keys, foreign_is_secret),
        (Kind::Named(what, of), Value::Block(_)) => {
            // What a command finds in its environment is as secret as what stands in a field.
            let of = if *what == "variable" { &Kind::Secret } else { of };
            let entries = node.entries().iter();
            let entries = entries.filter_map(|entry| Some((entry.key.clone(), shown(&entry.node, of, false)?)));
            Shown::Block(entries.collect())
        }
        _ => return None,
    })
}

fn block(node: &Node, keys: &[Key], foreign_is_secret: bool) -> Shown {
    let entry = |key: &Key| {
        let hidden = foreign_is_secret || key.name == "command";
        Some((key.name.to_owned(), shown(node.get(key.name)?, &key.kind, hidden)?))
    };
    Shown::Block(keys.iter().filter_map(entry).collect())
}

/// Which of several kinds a value is, that is of one of them.
fn could_be(kind: &Kind, node: &Node) -> bool {
    match (kind, &node.value) {
        (Kind::Word(words), Value::Text(text)) => words.iter().any(|word| word.text == text),
        (Kind::Text | Kind::Form(_) | Kind::Secret | Kind::Decimal, Value::Text(_))
        | (Kind::List(_), Value::List(_))
        | (Kind::Block(_) | Kind::Named(..), Value::Block(_))
        | (Kind::Count(..) | Kind::Duration(..) | Kind::Size(..), Value::Amount(_)) => true,
        _ => false,
    }
}

/// Rules and tasks of all files, in the one place where they belong.
fn policy(out: &mut Shown, root: &Node, (text, folder, source): (&str, &Path, &dyn Source)) {
    if out.get("policy").and_then(|policy| policy.get("include")).is_none() {
        return;
    }
    let policy = out.at("policy");
    policy.entries().retain(|(key, _)| key != "include");
    for part in parts::beside(root, text, (folder, source), &mut Faults::default()) {
        let mut more = block(&part, schema::INCLUDED, false);
        for (key, value) in std::mem::take(more.entries()) {
            match (policy.at(&key), value) {
                (Shown::List(all), Shown::List(some)) => all.extend(some),
                (Shown::Block(all), Shown::Block(some)) => all.extend(some),
                (place, value) => *place = value,
            }
        }
    }
}

/// A URL's query may hold a secret.
fn without_query(text: &str) -> String {
    match text.split_once('?') {
        Some((before, _)) if text.starts_with("http") => format!("{before}?{SECRET}"),
        _ => text.to_owned(),
    }
}

fn texts(all: &[String]) -> Shown {
    Shown::List(all.iter().map(|text| Shown::Text(text.clone())).collect())
}

fn ms(amount: u64) -> Shown {
    spelt(&Kind::Duration(0, 0), amount)
}

fn amount_of(kind: &Kind, amount: u64) -> Shown {
    match kind {
        Kind::Duration(..) | Kind::Size(..) => spelt(kind, amount),
        _ => Shown::Number(amount),
    }
}

fn spelt(kind: &Kind, amount: u64) -> Shown {
    Shown::Text(shape::spell(kind, amount))
}

impl From<&str> for Shown {
    fn from(text: &str) -> Self {
        Self::Text(text.to_owned())
    }
}

impl From<String> for Shown {
    fn from(text: String) -> Self {
        Self::Text(text)
    }
}

impl From<bool> for Shown {
    fn from(flag: bool) -> Self {
        Self::Flag(flag)
    }
}

impl From<u64> for Shown {
    fn from(number: u64) -> Self {
        Self::Number(number)
    }
}

impl From<usize> for Shown {
    fn from(number: usize) -> Self {
        Self::Number(number as u64)
    }
}

impl Serialize for Shown {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Flag(flag) => serializer.serialize_bool(*flag),
            Self::Number(number) => serializer.serialize_u64(*number),
            Self::Text(text) => serializer.serialize_str(text),
            Self::List(items) => {
                let mut list = serializer.serialize_seq(Some(items.len()))?;
                items.iter().try_for_each(|item| list.serialize_element(item))?;
                list.end()
            }
            Self::Block(entries) => {
                let mut map = serializer.serialize_map(Some(entries.len()))?;
                entries.iter().try_for_each(|(key, value)| map.serialize_entry(key, value))?;
                map.end()
            }
        }
    }
}

const SECRET: &str = "(secret)";
