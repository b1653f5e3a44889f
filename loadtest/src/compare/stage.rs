//! Everybody of one scene, under way: a canned server, and those who stand in front of it.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};

use crate::answer::Checker;
use crate::cli::Compare;
use crate::exchange;
use crate::fleet::merged;
use crate::net;
use crate::rig::environment::Versions;
use crate::rig::gateway::{self, Gateway, Setup};
use crate::rig::process::{Folder, Process};
use crate::rig::{self, Cores, TOOLS, held};
use crate::traffic::{Calls, Era, Shape, Target};
use crate::wire::{Trust, Wire};

use super::scene::{
    ANSWER_BYTES, BODY_BYTES, EVENTS, GROWN_FROM, LARGE_ANSWER_BYTES, MERGED_SERVERS, MERGED_TOOLS, Rival, Scene,
    Times, What, Who,
};
use super::{PATIENCE, haproxy, install, nginx};

const START_MAX: Duration = Duration::from_secs(30);
const GROWN_SERVERS: u16 = 100;
const SUBJECTS: [&str; 1] = ["loadtest"];

/// The programs that take part, as far as anybody needs them.
pub(super) struct Programs {
    portcullis: PathBuf,
    hop: Option<PathBuf>,
    nginx: Option<PathBuf>,
    haproxy: Option<PathBuf>,
}

/// A scene's canned server, and who is measured in front of it.
pub(super) struct Stage {
    pub(super) scene: Scene,
    /// Of the canned server.
    pub(super) port: u16,
    pub(super) members: Vec<Member>,
    processes: Vec<Process>,
    _server: Process,
}

/// Who is measured.
pub(super) struct Member {
    pub(super) who: Who,
    pub(super) shape: Shape,
    pub(super) pids: Vec<u32>,
    /// What the names of the threads that carry calls start with.
    pub(super) serving: &'static str,
    /// Which of the stage's processes; `None`: the canned server itself.
    process: Option<usize>,
    /// Where a gateway of ours shows its metrics.
    pub(super) admin: Option<u16>,
}

impl Programs {
    /// Finds, or gets, what these scenes need.
    pub(super) fn find(options: &Compare, scenes: &[Scene]) -> anyhow::Result<Self> {
        let whos: Vec<Who> = scenes.iter().flat_map(|scene| scene.who(options)).collect();
        let needs = |rivals: &[Rival]| rivals.iter().any(|rival| whos.contains(&Who::Rival(*rival)));
        let allowed = !options.no_install;
        let get =
            |needed: bool, asked: &Path, name| needed.then(|| install::program(asked, name, name, allowed)).transpose();
        Ok(Self {
            portcullis: install::own(options.portcullis.as_deref(), "portcullis")?,
            hop: needs(&[Rival::Hop]).then(|| install::own(options.hop.as_deref(), "bare-hop")).transpose()?,
            nginx: get(needs(&[Rival::Nginx, Rival::NginxLog]), &options.nginx, "nginx")?,
            haproxy: get(needs(&[Rival::Haproxy]), &options.haproxy, "haproxy")?,
        })
    }

    pub(super) fn versions(&self) -> Versions {
        Versions::ask(self.nginx.as_deref(), Some(&self.portcullis)).and_haproxy(self.haproxy.as_deref())
    }
}

impl Stage {
    /// Starts everybody, and waits until they answer.
    pub(super) fn open(scene: Scene, options: &Compare, programs: &Programs, folder: &Folder) -> anyhow::Result<Self> {
        let cores = cores(options);
        let canned = canned(scene, options.lie_every);
        let (server, ports) = rig::canned_ports(&canned, cores, folder)?;
        let mut stage = Self { scene, port: ports[0], members: Vec::new(), processes: Vec::new(), _server: server };
        let trust = if scene == Scene::Tls { Some(Trust::new()?) } else { None };
        let crew = Crew { scene, options, programs, folder, cores, trust: trust.as_ref(), ports: &ports };
        let who = scene.who(options);
        // Rivals get the very same requests, so they need the token of a gateway.
        crew.start_own(&mut stage, &who)?;
        let token = stage.members.first().and_then(|member| member.shape.token.clone());
        for rival in &who {
            if let Who::Rival(rival) = rival {
                crew.start_rival(&mut stage, *rival, token.clone())?;
            }
        }
        let place = |who| scene.cast().iter().position(|other| *other == who);
        stage.members.sort_by_key(|member| place(member.who));
        for at in 0..stage.members.len() {
            stage.wait_for(at)?;
        }
        if matches!(scene, Scene::Merged | Scene::Growth) {
            // All servers are asked what they have; that is no call's cost.
            std::thread::sleep(held::SETTLED);
        }
        Ok(stage)
    }

    /// How long the log of a member is.
    pub(super) fn logged(&self, member: &Member) -> usize {
        member.process.and_then(|at| self.processes.get(at)).map_or(0, Process::log_bytes)
    }

    /// What a member said behind the first `skip` bytes of its log.
    pub(super) fn tail(&self, member: &Member, skip: usize) -> String {
        member.process.and_then(|at| self.processes.get(at)).map_or_else(String::new, |process| process.tail(skip))
    }

    /// Until it gives a right answer.
    fn wait_for(&mut self, at: usize) -> anyhow::Result<()> {
        let until = Instant::now() + START_MAX;
        loop {
            let member = &self.members[at];
            let Err(error) = right(&member.shape) else { break };
            let name = member.who.name();
            let process = member.process.and_then(|at| self.processes.get_mut(at));
            let gone = process.is_some_and(|process| !process.is_alive());
            if gone || Instant::now() > until {
                let what = if gone { "has ended" } else { "gives no right answer" };
                bail!("{name} {what}: {error:#}{}", self.tail(&self.members[at], 0));
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        let process = self.members[at].process.and_then(|at| self.processes.get(at));
        self.members[at].pids = process.map_or_else(Vec::new, Process::family);
        Ok(())
    }

    fn keep(&mut self, process: Process) -> Option<usize> {
        self.processes.push(process);
        Some(self.processes.len() - 1)
    }
}

/// What all who are started have in common.
struct Crew<'a> {
    scene: Scene,
    options: &'a Compare,
    programs: &'a Programs,
    folder: &'a Folder,
    cores: Cores,
    trust: Option<&'a Trust>,
    ports: &'a [u16],
}

impl Crew<'_> {
    fn start_own(&self, stage: &mut Stage, who: &[Who]) -> anyhow::Result<()> {
        match self.scene {
            Scene::Merged => {
                let (gateway, admin) = self.merged()?;
                let name = merged::name(usize::from(MERGED_SERVERS) - 1);
                let shapes = [
                    (Who::Alone, format!("/s/{name}/mcp"), "echo".to_owned()),
                    (Who::Merged, merged::PATH.to_owned(), format!("{name}__echo")),
                ];
                let process = stage.keep(gateway.process);
                for ((who, path, tool), token) in shapes.into_iter().zip(gateway.tokens) {
                    let shape = self.shape(gateway.port, &path, tool, Some(token));
                    stage.members.push(Member::own(who, Shape { tenth: None, ..shape }, process, admin));
                }
            }
            Scene::Legacy => {
                let (gateway, admin) = self.gateway(1)?;
                let shape = self.shape(gateway.port, gateway::PATH, "echo".to_owned(), gateway.tokens.first().cloned());
                let process = stage.keep(gateway.process);
                for (who, era) in [(Who::Modern, Era::Modern), (Who::Legacy, Era::Legacy)] {
                    stage.members.push(Member::own(who, Shape { era, ..shape.clone() }, process, admin));
                }
            }
            Scene::Growth => {
                for who in who {
                    if let Who::Grown(what, times) = who {
                        self.start_grown(stage, *what, *times)?;
                    }
                }
            }
            _ => {
                for who in who.iter().copied().filter(|who| who.is_own()) {
                    let (gateway, admin) = self.gateway(if who == Who::TwoShards { 2 } else { 1 })?;
                    let token = gateway.tokens.first().cloned();
                    let shape = self.shape(gateway.port, gateway::PATH, "echo".to_owned(), token);
                    let process = stage.keep(gateway.process);
                    stage.members.push(Member::own(who, shape, process, admin));
                }
            }
        }
        Ok(())
    }

    /// A gateway with so much of it.
    fn start_grown(&self, stage: &mut Stage, what: What, times: Times) -> anyhow::Result<()> {
        let who = Who::Grown(what, times);
        let admin = net::free_port()?;
        let count = times.of(GROWN_FROM);
        let most = (2 * count + 1_000).to_string();
        let sessions = [("max", most.clone()), ("per_subject", most)];
        let rules = if what == What::Rules { count } else { self.options.rules };
        let sessions: &[(&str, String)] = if what == What::Sessions { &sessions } else { &[] };
        let setup = Setup { rules, sessions, ..self.setup(admin) };
        let (path, gateway) = if what == What::Servers {
            let servers = times.of(1) as usize;
            let path = format!("/s/{}/mcp", merged::name(servers - 1));
            let config =
                |base: &str, port| apart(&merged::config(base, port, &self.ports[..servers], MERGED_TOOLS), admin);
            let gateway = gateway::start_as(&setup, self.folder, &[&path], &config)?;
            (path, gateway)
        } else {
            let config = |base: &str, port| gateway::config(&setup, base, port, self.ports[0]);
            (gateway::PATH.to_owned(), gateway::start_as(&setup, self.folder, &[gateway::PATH], &config)?)
        };
        let shape = self.shape(gateway.port, &path, "echo".to_owned(), gateway.tokens.first().cloned());
        let shape = if what == What::Servers { Shape { tenth: None, ..shape } } else { shape };
        let era = if what == What::Sessions { Era::Legacy } else { Era::Modern };
        let process = stage.keep(gateway.process);
        stage.members.push(Member::own(who, Shape { era, ..shape }, process, admin));
        if what == What::Sessions {
            stage.wait_for(stage.members.len() - 1)?;
            let Some(member) = stage.members.last() else { return Ok(()) };
            let mut socket = net::connect(member.shape.target.address, PATIENCE)?;
            for _ in 0..count {
                held::session(&member.shape, &mut socket)?;
            }
        }
        Ok(())
    }

    fn start_rival(&self, stage: &mut Stage, rival: Rival, token: Option<String>) -> anyhow::Result<()> {
        let missing = || format!("{} is not there", Who::Rival(rival).name());
        let programs = self.programs;
        let started = match rival {
            Rival::Nginx | Rival::NginxLog => {
                let program = programs.nginx.as_deref().with_context(missing)?;
                let tls = self.trust.map(|trust| (trust.certificate.as_str(), trust.key.as_str()));
                let (log, events) = (rival == Rival::NginxLog, self.scene == Scene::Events);
                let kind = nginx::Kind { log, events, tls };
                Some(nginx::start(program, self.cores, self.folder, stage.port, kind)?)
            }
            Rival::Haproxy => {
                let program = programs.haproxy.as_deref().with_context(missing)?;
                Some(haproxy::start(program, self.cores, self.folder, stage.port)?)
            }
            Rival::Hop => {
                let program = programs.hop.as_deref().with_context(missing)?;
                let mut command = Command::new(program);
                command.arg(stage.port.to_string());
                let mut process =
                    Process::start_heard("bare hop", command, self.cores.proxy, self.cores.load, self.folder)?;
                let line = process.line()?;
                let port = line.trim().strip_prefix("listening ").and_then(|port| port.parse().ok());
                Some((process, port.with_context(|| format!("the bare hop said {line:?}"))?))
            }
            Rival::Nothing => None,
        };
        let (process, port) = match started {
            Some((process, port)) => (stage.keep(process), port),
            None => (None, stage.port),
        };
        let shape = self.shape(port, gateway::PATH, "echo".to_owned(), token);
        let who = Who::Rival(rival);
        stage.members.push(Member { who, shape, pids: Vec::new(), serving: "", process, admin: None });
        Ok(())
    }

    /// The gateway with everything on, and the port of its admin listener.
    fn gateway(&self, shards: u16) -> anyhow::Result<(Gateway, u16)> {
        let admin = net::free_port()?;
        let setup = self.setup(admin);
        let config = |base: &str, port| with_shards(&gateway::config(&setup, base, port, self.ports[0]), shards);
        Ok((gateway::start_as(&setup, self.folder, &[gateway::PATH], &config)?, admin))
    }

    /// The gateway in front of many servers.
    fn merged(&self) -> anyhow::Result<(Gateway, u16)> {
        let admin = net::free_port()?;
        let setup = self.setup(admin);
        let own = format!("/s/{}/mcp", merged::name(usize::from(MERGED_SERVERS) - 1));
        let config = |base: &str, port| {
            let config = merged::config(base, port, self.ports, MERGED_TOOLS);
            config.replacen("admin: off", &format!("admin: 127.0.0.1:{admin}"), 1)
        };
        Ok((gateway::start_as(&setup, self.folder, &[&own, merged::PATH], &config)?, admin))
    }

    fn setup(&self, admin: u16) -> Setup<'_> {
        Setup {
            program: &self.programs.portcullis,
            cores: self.cores,
            rules: self.options.rules,
            subjects: &SUBJECTS,
            limits: &[],
            sessions: &[],
            tls: self.trust.map(|trust| (trust.certificate.as_str(), trust.key.as_str())),
            admin: Some(admin),
        }
    }

    fn shape(&self, port: u16, path: &str, tool: String, token: Option<String>) -> Shape {
        let trusting = self.trust.map(Trust::client);
        // A body with a progress token has no room for the longer name.
        let tenth = (self.scene != Scene::Events).then(|| gateway::CONDITIONAL_TOOL.to_owned());
        Shape {
            target: Target { trusting, ..Target::local(port, path) },
            era: Era::Modern,
            tool,
            tenth,
            token,
            body_bytes: BODY_BYTES,
            events: if self.scene == Scene::Events { EVENTS } else { 0 },
        }
    }
}

impl Member {
    fn own(who: Who, shape: Shape, process: Option<usize>, admin: u16) -> Self {
        let serving = rig::bench::SERVING;
        Self { who, shape, pids: Vec::new(), serving, process, admin: Some(admin) }
    }
}

/// Who runs where.
pub(super) fn cores(options: &Compare) -> Cores {
    Cores { proxy: options.proxy_core, load: options.load_core }
}

/// The servers of the merged endpoint without it: each has an endpoint of its own.
fn apart(config: &str, admin: u16) -> String {
    let kept = config.lines().filter(|line| *line != "endpoints:" && !line.starts_with("  /mcp: "));
    let config: String = kept.flat_map(|line| [line, "\n"]).collect();
    config.replacen("admin: off", &format!("admin: 127.0.0.1:{admin}"), 1)
}

fn canned(scene: Scene, lie_every: u64) -> Vec<String> {
    let bytes = if scene == Scene::Large { LARGE_ANSWER_BYTES } else { ANSWER_BYTES };
    let (servers, tools) = match scene {
        Scene::Merged => (MERGED_SERVERS, MERGED_TOOLS - 1),
        Scene::Growth => (GROWN_SERVERS, MERGED_TOOLS - 1),
        _ => (1, TOOLS),
    };
    let mut options = vec![
        format!("--servers={servers}"),
        format!("--tools={tools}"),
        format!("--answer-bytes={bytes}"),
        format!("--lie-every={lie_every}"),
    ];
    if scene == Scene::Events {
        options.push(format!("--events={EVENTS}"));
    }
    options
}

fn with_shards(config: &str, shards: u16) -> String {
    config.replacen("shards: 1\n", &format!("shards: {shards}\n"), 1)
}

/// A call, each tool that is called, and its right answer.
fn right(shape: &Shape) -> anyhow::Result<()> {
    let mut socket = Wire::connect(&shape.target, PATIENCE)?;
    if let Some(version) = socket.version() {
        anyhow::ensure!(version == "TLSv1_3", "{version}");
    }
    let session = exchange::begin(shape, &mut socket)?;
    let templates = [Some(shape.call(session.as_deref())?), shape.tenth_call(session.as_deref())?];
    let mut checker = Checker::new(shape.events);
    let mut calls = Calls::new();
    for template in templates.iter().flatten() {
        let call = calls.next().context("calls do not end")?;
        let mut request = Vec::new();
        template.write(call, &mut request);
        let answer = exchange::exchange(&mut socket, &request)?;
        let body = answer.body();
        if let Err(wrong) = checker.check(call, answer.status(), answer.kind(), body) {
            bail!("{wrong}: {}", String::from_utf8_lossy(&body[..body.len().min(300)]));
        }
    }
    if let Some(session) = session {
        exchange::exchange(&mut socket, &shape.delete(&session))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shards_are_as_many_as_asked() {
        assert_eq!(with_shards("a\nshards: 1\nb", 2), "a\nshards: 2\nb");
    }

    #[test]
    fn each_scene_has_the_answers_it_is_about() {
        let has = |scene, option: &str| canned(scene, 0).iter().any(|have| have == option);
        assert!(has(Scene::Large, "--answer-bytes=65536") && has(Scene::Calls, "--answer-bytes=600"));
        assert!(has(Scene::Events, "--events=10") && !canned(Scene::Tls, 0).join(" ").contains("events"));
        let config = apart(&merged::config("http://x", 1, &[7, 8], 50), 9);
        assert!(config.contains("admin: 127.0.0.1:9\n") && !config.contains("endpoints") && !config.contains("  /mcp"));
        assert!(config.contains("  server-01: { url:") && config.contains("\npolicy:\n"), "{config}");
        assert!(has(Scene::Merged, "--servers=20") && has(Scene::Merged, "--tools=49"));
    }
}
