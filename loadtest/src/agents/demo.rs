//! A gateway and a canned server of our own, for `--demo`: tokens, tasks, a policy and the record, as one would have them.

use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};

use crate::net;
use crate::rig::gateway;
use crate::rig::process::{Folder, Process};
use crate::rig::{self, Cores};

use super::options::{Fleet, Plan, Source};
use super::request::{self, Answer, Mark, Speaker};
use super::wire::{self, Endpoint};

const START_MAX: Duration = Duration::from_secs(30);
const ISSUER: &str = "https://issuer.demo.example";

/// Under way until it is dropped.
pub(super) struct Demo {
    // Dropped in this order: the gateway before what is behind it.
    gateway: Process,
    _server: Process,
    folder: Option<Folder>,
    pub(super) url: String,
    pub(super) tokens: Source,
}

impl Demo {
    /// Starts both, and waits until they serve.
    pub(super) fn start(options: &Fleet, plan: &Plan) -> anyhow::Result<Self> {
        let program = gateway::program(options.portcullis.as_deref())?;
        let folder = Folder::new(false)?;
        // Where there is but one core, all share it.
        let several = std::thread::available_parallelism().is_ok_and(|cores| cores.get() > 1);
        let cores = Cores { proxy: 0, load: usize::from(several) };
        let canned = ["--streams".to_owned(), "--tools=20".to_owned()];
        let (server, ports) = rig::canned_ports(&canned, cores, &folder)?;
        let port = net::free_port()?;
        let url = format!("http://127.0.0.1:{port}/s/canned/mcp");
        let key = folder.path().join("issuer");
        let mint = format!(
            "{} token --key {} --issuer {ISSUER} --audience {url} --subject user-$LOADTEST_IDENTITY --agent loadtest --task load --expires {}",
            quoted(&program),
            quoted(&key),
            options.token_seconds,
        );
        // The first one makes the key, and the key set that the gateway reads.
        let first = Command::new("sh")
            .args(["-c", &mint])
            .env("LOADTEST_IDENTITY", "0")
            .output()
            .context("portcullis token")?;
        ensure!(first.status.success(), "portcullis token: {}", String::from_utf8_lossy(&first.stderr).trim());
        let file = folder.path().join("portcullis.yaml");
        fs::write(&file, config(port, ports[0], plan.agents)).with_context(|| file.display().to_string())?;
        let mut command = Command::new(&program);
        command.arg("run").arg("--config").arg(&file).env("NO_COLOR", "1");
        let gateway = Process::start("portcullis", command, cores.proxy, cores.load, &folder)?;
        let tokens = Source::Command(mint);
        let mut demo = Self { gateway, _server: server, folder: Some(folder), url, tokens };
        let token = String::from_utf8(first.stdout).context("portcullis token")?;
        demo.wait(token.trim())?;
        Ok(demo)
    }

    pub(super) fn pid(&self) -> u32 {
        self.gateway.family()[0]
    }

    fn wait(&mut self, token: &str) -> anyhow::Result<()> {
        let endpoint = Endpoint::parse(&self.url)?;
        let (mut request, mark) = (Vec::new(), Mark { id: 1, value: 1 });
        let era = crate::traffic::Era::Modern;
        request::open(Speaker { endpoint: &endpoint, era, token: Some(token), session: None }, mark, &mut request);
        let until = Instant::now() + START_MAX;
        loop {
            let answered = wire::exchange(&endpoint, &request, Duration::from_secs(5)).and_then(|reader| {
                let answer = Answer { status: reader.status(), kind: reader.kind(), body: reader.body() };
                request::opened(mark, answer).map_err(anyhow::Error::msg)
            });
            let Err(error) = answered else { return Ok(()) };
            let alive = self.gateway.is_alive() && Instant::now() < until;
            ensure!(alive, "the gateway does not serve: {error:#}{}", self.gateway.tail(0));
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

impl Drop for Demo {
    fn drop(&mut self) {
        // It writes until it has ended.
        let _ = self.gateway.end(rustix::process::Signal::TERM);
        if let Some(folder) = self.folder.take() {
            folder.done();
        }
    }
}

/// Bounds have room for all agents, from one address.
fn config(port: u16, server: u16, agents: u32) -> String {
    let (connections, sessions) = (2 * agents + 64, 4 * agents + 64);
    format!(
        "listen: 127.0.0.1:{port}
public_url: http://127.0.0.1:{port}
admin: off
state: ./state
auth:
  issuers:
    - issuer: {ISSUER}
      jwks: {{ file: ./issuer.jwks.json }}
servers:
  canned:
    url: http://127.0.0.1:{server}/mcp
policy:
  tasks:
    load: What the agents work on.
  rules:
    - id: agents-may-echo
      permit: [canned/echo]
      tasks: [load]
    - id: never-delete
      forbid: [\"*/delete_*\"]
limits:
  connections_per_address: {connections}
  calls_per_subject: {connections}
  streams_per_subject: {connections}
sessions:
  max: {sessions}
  per_subject: {sessions}
audit:
  dir: ./audit
"
    )
}

fn quoted(path: &std::path::Path) -> String {
    let path: PathBuf =
        if path.is_relative() { std::env::current_dir().unwrap_or_default().join(path) } else { path.to_owned() };
    format!("'{}'", path.display().to_string().replace('\'', r"'\''"))
}
