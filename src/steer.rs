//! Verbs that tell a running gateway something, over its admin listener: reload, drain, status.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, bail};
use portcullis::base::limits::{ADMIN_ANSWER_MS_MAX, ADMIN_ORDER_MS_MAX};
use portcullis::plane::orders::TOKEN_FILE;
use serde_json::Value;

use crate::advise;
use crate::cli::{self, Explain, Format, Steer};

/// Asks for the settings to be read again.
pub(crate) fn reload(steer: &Steer) -> anyhow::Result<u8> {
    let Some(gateway) = Gateway::of(steer)? else { return Ok(cli::EXIT_CONFIG) };
    let Some((status, body)) = gateway.order("/reload")? else { return Ok(cli::EXIT_UNHEALTHY) };
    if status == 200 {
        print!("{body}");
        return Ok(cli::EXIT_OK);
    }
    let said: Value = serde_json::from_str(&body).unwrap_or_default();
    for fault in said["faults"].as_array().into_iter().flatten().filter_map(Value::as_str) {
        eprintln!("{fault}");
    }
    if status == 422 {
        eprintln!("nothing has changed: the gateway goes on with what it had");
        return Ok(cli::EXIT_CONFIG);
    }
    bail!("the gateway at {} answered {status}: {}", gateway.admin, said["error"].as_str().unwrap_or(&body))
}

/// Asks it to take nothing new and to end.
pub(crate) fn drain(steer: &Steer) -> anyhow::Result<u8> {
    let Some(gateway) = Gateway::of(steer)? else { return Ok(cli::EXIT_CONFIG) };
    match gateway.order("/drain")? {
        Some((202, _)) => Ok(cli::EXIT_OK),
        Some((status, body)) => bail!("the gateway at {} answered {status}: {}", gateway.admin, body.trim()),
        None => Ok(cli::EXIT_UNHEALTHY),
    }
}

/// Prints what it says of itself.
pub(crate) fn status(steer: &Steer) -> anyhow::Result<u8> {
    let Some(gateway) = Gateway::of(steer)? else { return Ok(cli::EXIT_CONFIG) };
    match ask(gateway.admin, "GET", "/status", "", "", ADMIN_ANSWER_MS_MAX) {
        Ok((200, body)) => {
            crate::print_all(&body)?;
            Ok(cli::EXIT_OK)
        }
        Ok((status, body)) => bail!("the gateway at {} answered {status}: {}", gateway.admin, body.trim()),
        Err(error) => {
            eprintln!("no gateway answers at {}: {error}", gateway.admin);
            Ok(cli::EXIT_UNHEALTHY)
        }
    }
}

/// Asks it what comes of a call, with its catalogue and counts as they are.
pub(crate) fn explain(explain: &Explain) -> anyhow::Result<u8> {
    let steer = Steer { config: explain.config.clone(), admin: explain.admin };
    let Some(gateway) = Gateway::of(&steer)? else { return Ok(cli::EXIT_CONFIG) };
    let raw = |path: &Option<PathBuf>| path.as_deref().map(advise::read).transpose();
    let json = |text: &str| Value::from(text).to_string();
    let mut members = vec![format!("\"server\":{}", json(&explain.server))];
    let named = [("tool", &explain.tool), ("prompt", &explain.prompt), ("resource", &explain.resource)];
    let named = named.into_iter().chain([("task", &explain.task)]);
    members.extend(named.filter_map(|(key, text)| Some(format!("\"{key}\":{}", json(text.as_deref()?)))));
    for (key, text) in [("claims", raw(&explain.claims)?), ("args", raw(&explain.args)?)] {
        members.extend(text.map(|text| format!("\"{key}\":{text}")));
    }
    let body = format!("{{{}}}", members.join(","));
    let Some((status, answer)) = gateway.tell("POST", "/explain", &body)? else { return Ok(cli::EXIT_UNHEALTHY) };
    let said: Value = serde_json::from_str(&answer).unwrap_or_default();
    if status != 200 {
        bail!("the gateway at {} answered {status}: {}", gateway.admin, said["error"].as_str().unwrap_or(&answer));
    }
    match explain.format {
        Format::Text => crate::print_all(said["text"].as_str().unwrap_or_default())?,
        Format::Json => crate::print_all(&answer)?,
    }
    Ok(cli::EXIT_OK)
}

/// Where it is, and what it believes.
pub(crate) struct Gateway {
    pub(crate) admin: SocketAddr,
    pub(crate) state: std::path::PathBuf,
}

impl Gateway {
    /// As the configuration says; `None` where that has faults, which are shown then.
    pub(crate) fn of(steer: &Steer) -> anyhow::Result<Option<Self>> {
        let Some(loaded) = crate::load(&steer.config, false)? else { return Ok(None) };
        let admin = steer.admin.or(loaded.settings.admin);
        let Some(admin) = admin else {
            bail!("'admin: off' in {}: such a gateway listens to signals only", steer.config.display())
        };
        if admin.port() == 0 {
            bail!("'admin' in {} leaves its port to the system; name it: --admin ADDRESS", steer.config.display());
        }
        Ok(Some(Self { admin, state: loaded.settings.state }))
    }

    /// The same, where a gateway that has no admin listener, or does not run, is none to despair of.
    pub(crate) fn anywhere(steer: &Steer) -> anyhow::Result<Option<Self>> {
        let Some(loaded) = crate::load(&steer.config, false)? else { return Ok(None) };
        let admin = steer.admin.or(loaded.settings.admin).unwrap_or(NOWHERE);
        Ok(Some(Self { admin, state: loaded.settings.state }))
    }

    /// As [`Gateway::tell`]; nobody's answer is the caller's to speak of. A token of a gateway before is nobody's.
    pub(crate) fn try_tell(&self, method: &str, path: &str, body: &str) -> anyhow::Result<Option<(u16, String)>> {
        if self.admin.port() == 0 || !self.state.join(TOKEN_FILE).exists() {
            return Ok(None);
        }
        let field = format!("authorization: Bearer {}\r\n", token(&self.state)?.trim());
        // Whatever else is wrong with it: it may have been done, and must not be taken for not done.
        match ask(self.admin, method, path, &field, body, ADMIN_ORDER_MS_MAX) {
            Err(error) if error.kind() == std::io::ErrorKind::ConnectionRefused => Ok(None),
            answer => answer.map(Some).with_context(|| format!("the gateway at {}", self.admin)),
        }
    }

    /// Status and body; `None` where nobody answers, which is said then.
    fn order(&self, path: &str) -> anyhow::Result<Option<(u16, String)>> {
        self.tell("POST", path, "")
    }

    /// The same of any request that takes the token, with a body.
    pub(crate) fn tell(&self, method: &str, path: &str, body: &str) -> anyhow::Result<Option<(u16, String)>> {
        let token = token(&self.state)?;
        let field = format!("authorization: Bearer {}\r\n", token.trim());
        match ask(self.admin, method, path, &field, body, ADMIN_ORDER_MS_MAX) {
            Ok(answer) => Ok(Some(answer)),
            Err(error) => {
                eprintln!("no gateway answers at {}: {error}", self.admin);
                Ok(None)
            }
        }
    }
}

fn token(state: &Path) -> anyhow::Result<String> {
    let path = state.join(TOKEN_FILE);
    let why = "the gateway makes it at its start, readable for its own user";
    std::fs::read_to_string(&path).with_context(|| format!("cannot read {} ({why})", path.display()))
}

/// One request, and its answer to the end.
fn ask(
    admin: SocketAddr,
    method: &str,
    path: &str,
    field: &str,
    body: &str,
    ms: u64,
) -> std::io::Result<(u16, String)> {
    let mut socket = TcpStream::connect_timeout(&admin, Duration::from_millis(ADMIN_ANSWER_MS_MAX))?;
    socket.set_read_timeout(Some(Duration::from_millis(ms)))?;
    let length = body.len();
    let head = format!(
        "{method} {path} HTTP/1.1\r\nhost: {admin}\r\n{field}connection: close\r\ncontent-length: {length}\r\n\r\n"
    );
    socket.write_all(head.as_bytes())?;
    socket.write_all(body.as_bytes())?;
    let mut answer = String::new();
    socket.take(ANSWER_BYTES_MAX).read_to_string(&mut answer)?;
    let cut = || std::io::Error::new(std::io::ErrorKind::UnexpectedEof, "its answer is cut short");
    let (head, body) = answer.split_once("\r\n\r\n").ok_or_else(cut)?;
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).ok_or_else(cut)?;
    Ok((status, body.to_owned()))
}

/// No address: no gateway listens there.
const NOWHERE: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 0);
const ANSWER_BYTES_MAX: u64 = 64 * 1024 * 1024;
