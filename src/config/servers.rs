//! The servers: where each is, or how it is started, and how it is treated.

use std::path::PathBuf;
use std::sync::Arc;

use crate::base::limits::{
    COMMAND_ARGS_MAX, COMMAND_ENV_MAX, HEALTH_FAILURES_DEFAULT, HEALTH_INTERVAL_MS_DEFAULT, HEALTH_INTERVAL_MS_MIN,
    HEALTH_OPEN_MS_DEFAULT, NAME_BYTES_MAX, SERVER_INSTANCES_MAX, SERVERS_MAX,
};
use crate::config::credentials::{self, Shown};
use crate::config::expand;
use crate::config::fault::Faults;
use crate::config::files::Files;
use crate::config::front;
use crate::config::raw::{Entry, Node};
use crate::config::settings::{
    CommandSettings, HealthSettings, InstanceSettings, Limits, Pin, Reach, Scheme, ServerSettings, Sharing,
};
use crate::config::shape::{join, quote, quoted};
use crate::config::tls::{self, Written};
use crate::mcp::transport::Transport;

/// The servers, in the order of the file; those at fault are left out.
pub(crate) fn servers(root: &Node, limits: &Limits, files: Files<'_>, faults: &mut Faults) -> Vec<ServerSettings> {
    let Some(node) = root.get("servers") else {
        return Vec::new();
    };
    if node.entries().is_empty() || node.entries().len() > SERVERS_MAX {
        let message = format!("expected 1 to {SERVERS_MAX} servers");
        faults.error(&node.at, "servers", message, "write servers: { docs: { url: http://127.0.0.1:9001/mcp } }");
    }
    node.entries().iter().filter_map(|entry| server(entry, limits, files, faults)).collect()
}

/// The names of all servers in the file, those at fault too: so nothing that speaks of one is called unknown.
pub(crate) fn server_names(root: &Node) -> Vec<&str> {
    let servers = root.get("servers").map(Node::entries).unwrap_or_default();
    servers.iter().map(|entry| entry.key.as_str()).collect()
}

fn server(entry: &Entry, limits: &Limits, files: Files<'_>, faults: &mut Faults) -> Option<ServerSettings> {
    let path = join("servers", &entry.key);
    server_name(entry, &path, faults);
    let node = &entry.node;
    one_place(entry, &path, faults);
    let reach = if node.has("command") {
        foreign_keys(node, &path, &OF_URLS, "a command has no use for it", faults);
        if let Some(written) = node.get("credentials").filter(|written| written.text() != Some("strip")) {
            let message = "a command has pipes, and nothing to show a credential in";
            let hint = "write what it needs into `env`: env: { API_KEY: \"${file:./secrets/key}\" }";
            faults.error(&written.at, &join(&path, "credentials"), message, hint);
        }
        command(node, &path, files, faults).map(Reach::Command)
    } else {
        let hint = "it is for a server that is started with `command`";
        foreign_keys(node, &path, &OF_COMMANDS, hint, faults);
        instances(node, &path, files, faults).map(Reach::Http)
    };
    let reach = reach?;
    let shown = match &reach {
        Reach::Http(instances) => credentials::shown(node, &path, instances, files, faults)?,
        Reach::Command(_) => Shown::default(),
    };
    let several = matches!(&reach, Reach::Http(instances) if instances.len() > 1);
    Some(ServerSettings {
        name: Arc::from(entry.key.as_str()),
        timeout_ms: node.get("timeout").and_then(Node::amount).unwrap_or(limits.call_ms_max),
        transport: node.get("transport").and_then(Node::text).and_then(|word| {
            [Transport::Http, Transport::Sse].into_iter().find(|transport| transport.as_str() == word)
        }),
        pin: if node.get("pin").and_then(Node::text) == Some("quarantine") { Pin::Quarantine } else { Pin::Warn },
        concurrency: node.get("concurrency").and_then(small),
        health: health(node, &path, several, faults),
        credentials: shown.credentials,
        identity_headers: shown.identity_headers,
        catalogue: shown.catalogue,
        reach,
    })
}

fn server_name(entry: &Entry, path: &str, faults: &mut Faults) {
    let name = &entry.key;
    let letters = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    if !name.starts_with(|c: char| c.is_ascii_lowercase()) || !name.chars().all(letters) {
        let message = format!("{} is not a server's name", quote(name));
        faults.error(&entry.key_at, path, message, "a-z first, then a-z, 0-9 and -");
    } else if name.len() > NAME_BYTES_MAX {
        faults.error(&entry.key_at, path, format!("a name has at most {NAME_BYTES_MAX} characters"), "");
    }
}

/// A server is at one place: at a URL, at several, or a command.
fn one_place(entry: &Entry, path: &str, faults: &mut Faults) {
    let node = &entry.node;
    let mut written = PLACES.iter().filter(|key| node.has(key));
    let Some(first) = written.next() else {
        if node.is_whole() {
            let hint = "write url: http://127.0.0.1:9001/mcp, or command: [PROGRAM, ARGUMENT]";
            faults.error(&entry.key_at, path, "has no `url`", hint);
        }
        return;
    };
    for key in written {
        if let Some(other) = node.entries().iter().find(|entry| entry.key == *key) {
            let message = format!("`{first}` and `{key}` exclude each other");
            faults.error(&other.key_at, &join(path, key), message, "keep one of them");
        }
    }
}

/// Keys that say nothing about such a server are mistakes, not decoration.
fn foreign_keys(node: &Node, path: &str, keys: &[&str], why: &str, faults: &mut Faults) {
    for entry in node.entries().iter().filter(|entry| keys.contains(&entry.key.as_str())) {
        faults.error(
            &entry.key_at,
            &join(path, &entry.key),
            format!("does not go with this server: {why}"),
            "leave it out",
        );
    }
}

fn instances(node: &Node, path: &str, files: Files<'_>, faults: &mut Faults) -> Option<Vec<InstanceSettings>> {
    let mut urls: Vec<(&Node, String)> = node.get("url").map(|url| (url, join(path, "url"))).into_iter().collect();
    if let Some(list) = node.get("urls").filter(|_| !node.has("url")) {
        let here = join(path, "urls");
        if list.items().is_empty() || list.items().len() > SERVER_INSTANCES_MAX {
            faults.error(
                &list.at,
                &here,
                format!("expected 1 to {SERVER_INSTANCES_MAX} instances"),
                "name an instance",
            );
        }
        let items = list.items().iter().enumerate().take(SERVER_INSTANCES_MAX);
        urls.extend(items.map(|(index, item)| (item, format!("{here}[{index}]"))));
    }
    let tls_path = join(path, "tls");
    let written = node.get("tls").map(|tls| tls::server(tls, &tls_path, files, faults)).unwrap_or_default();
    let mut out: Vec<InstanceSettings> = Vec::new();
    let mut plain = false;
    for (url, here) in urls {
        let Some(instance) = instance(url, &here, &written, faults) else { continue };
        plain |= instance.scheme == Scheme::Http;
        if out.contains(&instance) {
            faults.error(&url.at, &here, "stands twice", "keep one of them");
            continue;
        }
        out.push(instance);
    }
    if let (true, Some(tls)) = (plain, node.get("tls")) {
        let message = if out.len() > 1 { "one of the URLs is an http one" } else { "the URL is an http one" };
        faults.error(&tls.at, &tls_path, message, "write https://… as its URL, or leave `tls` out");
    }
    (!out.is_empty()).then_some(out)
}

fn instance(node: &Node, path: &str, tls: &Written, faults: &mut Faults) -> Option<InstanceSettings> {
    let parsed = front::parse(node.text()?).and_then(|url| {
        let scheme = [Scheme::Http, Scheme::Https].into_iter().find(|scheme| scheme.as_str() == url.scheme())?;
        Some((scheme, url))
    });
    let Some((scheme, url)) = parsed else {
        let message = format!("{} is not an http or https URL", quoted(node));
        faults.error(&node.at, path, message, "write http://127.0.0.1:9001/mcp");
        return None;
    };
    if !url.username().is_empty() || url.password().is_some() || url.fragment().is_some() {
        faults.veil(node.at.line..=node.at.line);
        faults.error(&node.at, path, "a server's URL has no user, no password and no #fragment", "");
        return None;
    }
    let target = url.query().map_or_else(|| url.path().to_owned(), |query| format!("{}?{query}", url.path()));
    let port = url.port_or_known_default().filter(|port| *port != 0);
    let Some((host, port)) = url.host_str().zip(port) else {
        faults.error(&node.at, path, "port 0 is no server's", "");
        return None;
    };
    if scheme == Scheme::Https && tls::name(host).is_none() {
        faults.error(&node.at, path, "no certificate can have this host's name", "");
        return None;
    }
    let tls = (scheme == Scheme::Https).then(|| tls.of(host));
    Some(InstanceSettings { scheme, host: host.to_owned(), port, path: target, tls })
}

fn command(node: &Node, path: &str, files: Files<'_>, faults: &mut Faults) -> Option<CommandSettings> {
    let (env, inherit) = environment(node, path, faults);
    let cwd = node.get("cwd").and_then(|cwd| files.path(cwd, &join(path, "cwd"), faults));
    let user = user(node, path, faults);
    let list = node.get("command")?;
    let here = join(path, "command");
    let (program, args) = match list.items() {
        [] => {
            faults.error(&list.at, &here, "is empty", "name the program: [npx, -y, PACKAGE]");
            return None;
        }
        [program, args @ ..] => (program, args),
    };
    if args.len() > COMMAND_ARGS_MAX {
        faults.error(&list.at, &here, format!("over {COMMAND_ARGS_MAX} arguments"), "");
    }
    for (index, item) in list.items().iter().enumerate() {
        nul(item, &format!("{here}[{index}]"), faults);
    }
    let program = program.text().map(|text| (program, text))?;
    if program.1.is_empty() {
        faults.error(&program.0.at, &format!("{here}[0]"), "is no program", "name the program: [npx, -y, PACKAGE]");
        return None;
    }
    Some(CommandSettings {
        program: self::program(program.1, files),
        args: args.iter().filter_map(Node::text).map(str::to_owned).collect(),
        cwd,
        env,
        inherit,
        user,
        sharing: match node.get("sharing").and_then(Node::text) {
            Some("shared") => Sharing::Shared,
            _ => Sharing::Session,
        },
    })
}

/// A name is looked up in `PATH`; a path starts where every other path of the file does.
fn program(written: &str, files: Files<'_>) -> String {
    if !written.contains('/') {
        return written.to_owned();
    }
    let path: PathBuf = expand::resolve(written, files.folder);
    // What was text stays text: folder and program are UTF-8 both, or the folder has no name to write.
    path.into_os_string().into_string().unwrap_or_else(|_| written.to_owned())
}

fn environment(node: &Node, path: &str, faults: &mut Faults) -> (Vec<(String, String)>, Vec<String>) {
    let mut env = Vec::new();
    let variables = node.get("env");
    for entry in variables.map(Node::entries).unwrap_or_default() {
        let here = join(&join(path, "env"), &entry.key);
        if !is_variable(&entry.key) {
            let message = format!("{} is not a variable's name", quote(&entry.key));
            faults.error(&entry.key_at, &here, message, "A-Z, a-z, 0-9 and _, no digit first");
        }
        nul(&entry.node, &here, faults);
        env.extend(entry.node.text().map(|value| (entry.key.clone(), value.to_owned())));
    }
    let mut inherit: Vec<String> = Vec::new();
    let list = node.get("inherit");
    for (index, item) in list.map(Node::items).unwrap_or_default().iter().enumerate() {
        let here = format!("{}[{index}]", join(path, "inherit"));
        let Some(name) = item.text() else { continue };
        if !is_variable(name) {
            let message = format!("{} is not a variable's name", quoted(item));
            faults.error(&item.at, &here, message, "A-Z, a-z, 0-9 and _, no digit first");
        } else if inherit.iter().any(|other| other == name) {
            faults.error(&item.at, &here, "stands twice", "keep one of them");
        } else if variables.is_some_and(|variables| variables.has(name)) {
            faults.error(&item.at, &here, format!("{} stands in `env` too", quoted(item)), "keep one of them");
        } else {
            inherit.push(name.to_owned());
        }
    }
    if let Some(at) = variables.or(list).filter(|_| env.len() + inherit.len() > COMMAND_ENV_MAX) {
        faults.error(&at.at, &join(path, "env"), format!("over {COMMAND_ENV_MAX} variables"), "");
    }
    (env, inherit)
}

/// A portable name (POSIX.1-2024 XBD 8.1), small letters too.
fn is_variable(name: &str) -> bool {
    let letters = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
    !name.is_empty()
        && name.len() <= NAME_BYTES_MAX
        && name.bytes().all(letters)
        && !name.starts_with(|c: char| c.is_ascii_digit())
}

fn user(node: &Node, path: &str, faults: &mut Faults) -> Option<String> {
    let node = node.get("user")?;
    let text = node.text()?;
    let letters = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-' | b'.');
    if text.is_empty() || text.starts_with('-') || text.len() > NAME_BYTES_MAX || !text.bytes().all(letters) {
        let message = format!("{} is not a user", quoted(node));
        faults.error(&node.at, &join(path, "user"), message, "write its name, or its number in quotes");
        return None;
    }
    Some(text.to_owned())
}

/// No argument and no variable can have one.
fn nul(node: &Node, path: &str, faults: &mut Faults) {
    if node.text().is_some_and(|text| text.contains('\0')) {
        faults.error(&node.at, path, "has a NUL character", "");
    }
}

/// One instance has nothing that it could give way to, so nobody asks after it unless told to.
fn health(node: &Node, path: &str, several: bool, faults: &mut Faults) -> HealthSettings {
    let health = node.get("health");
    let amount = |key: &str| health.and_then(|health| health.get(key));
    let interval = amount("interval");
    let interval_ms = interval.and_then(Node::amount);
    if let Some(interval) = interval.filter(|_| interval_ms.is_some_and(|ms| ms > 0 && ms < HEALTH_INTERVAL_MS_MIN)) {
        let message = format!("must be at least {HEALTH_INTERVAL_MS_MIN}ms");
        faults.error(&interval.at, &join(path, "health.interval"), message, "write 0s for no probes");
    }
    HealthSettings {
        interval_ms: interval_ms.unwrap_or(if several { HEALTH_INTERVAL_MS_DEFAULT } else { 0 }),
        failures: amount("failures").and_then(small).unwrap_or(HEALTH_FAILURES_DEFAULT),
        open_ms: amount("open").and_then(Node::amount).unwrap_or(HEALTH_OPEN_MS_DEFAULT),
    }
}

/// A count that its row of the table keeps small.
fn small(node: &Node) -> Option<u32> {
    node.amount().and_then(|amount| u32::try_from(amount).ok())
}

const PLACES: [&str; 3] = ["url", "urls", "command"];
const OF_COMMANDS: [&str; 5] = ["cwd", "env", "inherit", "user", "sharing"];
const OF_URLS: [&str; 5] = ["tls", "transport", "health", "identity_headers", "catalogue"];
