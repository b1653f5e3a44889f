//! Where a gateway is measured: it has one core; canned servers and load share the other.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use rustix::process::Signal;
use serde_json::Value;

use crate::answer::Checker;
use crate::cli::Stand;
use crate::generator::{self, Mark, Outcome, Plan};
use crate::measure::{Cpu, micros};
use crate::traffic::{Calls, Era, Shape, Target, Template};
use crate::{exchange, net};

use super::figures::Figures;
use super::gateway::{self, Gateway, Setup};
use super::process::{self, Folder, Process};
use super::{Cores, environment};

const START_MAX: Duration = Duration::from_secs(30);
/// Nobody waits longer for an answer.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);
/// What the names of threads that carry calls start with.
pub(crate) const SERVING: &str = "shard-";
const SUBJECTS: [&str; 1] = ["good"];

/// What a verb may use.
pub(crate) struct Bench<'a> {
    pub(crate) stand: &'a Stand,
    pub(crate) program: PathBuf,
    pub(crate) folder: &'a Folder,
    pub(crate) stop: &'a AtomicBool,
    _server: Process,
    /// Of the canned servers, at least one.
    pub(crate) server_ports: Vec<u16>,
}

/// Measures with a bench of its own, in front of the canned server with these options; prints and writes what came of it.
pub(crate) fn measured(
    stand: &Stand,
    stop: &AtomicBool,
    canned: &[String],
    (verb, settings): (&str, Value),
    measure: impl FnOnce(&Bench<'_>, &mut Figures) -> anyhow::Result<()>,
) -> anyhow::Result<bool> {
    let _alone = process::alone()?;
    let folder = Folder::new(stand.keep)?;
    let figures = on_a_bench((stand, stop, &folder), canned, settings, measure);
    if figures.is_ok() {
        folder.done();
    } else {
        // Whoever looks for the cause will want the logs.
        folder.keep();
    }
    let figures = figures?;
    println!("{figures}");
    let out = stand.out.clone().unwrap_or_else(|| Path::new("target").join(format!("{verb}.json")));
    super::write_figures(&out, &format!("{:#}\n", figures.json()))?;
    Ok(true)
}

fn on_a_bench(
    (stand, stop, folder): (&Stand, &AtomicBool, &Folder),
    canned: &[String],
    settings: Value,
    measure: impl FnOnce(&Bench<'_>, &mut Figures) -> anyhow::Result<()>,
) -> anyhow::Result<Figures> {
    let cores = cores(stand);
    net::stay_on(cores.load)?;
    let program = gateway::program(stand.portcullis.as_deref())?;
    let versions = environment::Versions::ask(None, Some(&program));
    let mut figures = Figures::new(environment::read(cores, &versions), settings);
    let (server, server_ports) = super::canned_ports(canned, cores, folder)?;
    let bench = Bench { stand, program, folder, stop, _server: server, server_ports };
    measure(&bench, &mut figures)?;
    figures.finish();
    Ok(figures)
}

/// Who runs where.
pub(crate) fn cores(stand: &Stand) -> Cores {
    Cores { proxy: stand.proxy_core, load: stand.load_core }
}

/// Bounds, as the gateway's configuration writes them.
pub(crate) type Bounds = Vec<(&'static str, String)>;

impl Bench<'_> {
    /// A gateway with this bench's rules and one caller.
    pub(crate) fn setup<'b>(&'b self, limits: &'b Bounds, sessions: &'b Bounds) -> Setup<'b> {
        let (stand, program) = (self.stand, self.program.as_path());
        let cores = cores(stand);
        Setup { program, cores, rules: stand.rules, subjects: &SUBJECTS, limits, sessions, tls: None, admin: None }
    }

    /// A gateway that answers.
    pub(crate) fn gateway(&self, setup: &Setup<'_>) -> anyhow::Result<Gateway> {
        let mut gateway = gateway::start(setup, self.folder, self.server_ports[0])?;
        let shape = self.shape(&gateway, Era::Modern);
        self.answers(&mut gateway, &shape)?;
        Ok(gateway)
    }

    /// Waits until such calls are answered.
    pub(crate) fn answers(&self, gateway: &mut Gateway, shape: &Shape) -> anyhow::Result<()> {
        self.until(gateway, &mut || {
            let (mut socket, template, _) = exchange::open(shape, PATIENCE)?;
            right(&mut socket, &template)
        })
    }

    /// The same gateway, started again; and the moment at which that began.
    pub(crate) fn again(
        &self,
        setup: &Setup<'_>,
        gateway: Gateway,
        signal: Signal,
    ) -> anyhow::Result<(Gateway, Instant)> {
        let mut gateway = gateway;
        gateway.process.end(signal)?;
        let begun = Instant::now();
        Ok((gateway::restart(setup, self.folder, gateway)?, begun))
    }

    /// Tries until it goes well.
    pub(crate) fn until(
        &self,
        gateway: &mut Gateway,
        act: &mut dyn FnMut() -> anyhow::Result<()>,
    ) -> anyhow::Result<()> {
        let until = Instant::now() + START_MAX;
        while let Err(error) = act() {
            if !gateway.process.is_alive() || Instant::now() > until {
                bail!("the gateway gives no right answer: {error:#}{}", gateway.process.tail(0));
            }
            self.pause(Duration::from_millis(1))?;
        }
        Ok(())
    }

    /// What comes of a plan, all of it answered rightly; and microseconds of the serving threads for each call.
    pub(crate) fn send(&self, gateway: &Gateway, plan: &Plan) -> anyhow::Result<(f64, Outcome)> {
        let (used, outcome) = self.send_counted(gateway, plan)?;
        Ok((micros(used.serving) / outcome.in_window as f64, outcome))
    }

    /// The same, with all that the gateway used in the time measured.
    pub(crate) fn send_counted(&self, gateway: &Gateway, plan: &Plan) -> anyhow::Result<(Cpu, Outcome)> {
        let pids = gateway.process.family();
        let mut cpu = (Ok(Cpu::default()), Ok(Cpu::default()));
        let outcome = generator::send(plan, self.stop, &mut |mark| match mark {
            Mark::Start => cpu.0 = Cpu::read(&pids, SERVING),
            Mark::End => cpu.1 = Cpu::read(&pids, SERVING),
        })?;
        anyhow::ensure!(outcome.faults.total == 0, "{} faults: {}", outcome.faults.total, outcome.faults.describe());
        anyhow::ensure!(!outcome.cut, "stopped");
        anyhow::ensure!(outcome.in_window > 0, "no call was answered in the time measured");
        Ok((cpu.1?.since(&cpu.0?), outcome))
    }

    /// An echo of the one canned server.
    pub(crate) fn shape(&self, gateway: &Gateway, era: Era) -> Shape {
        Shape {
            target: Target::local(gateway.port, gateway::PATH),
            era,
            tool: "echo".to_owned(),
            tenth: None,
            token: gateway.tokens.first().cloned(),
            body_bytes: 350,
            events: 0,
        }
    }

    /// Waits; an error where the user wants to stop.
    pub(crate) fn pause(&self, time: Duration) -> anyhow::Result<()> {
        let until = Instant::now() + time;
        while Instant::now() < until {
            if self.stop.load(Ordering::Relaxed) {
                bail!("stopped");
            }
            std::thread::sleep((until - Instant::now()).min(Duration::from_millis(50)));
        }
        Ok(())
    }
}

/// A call and its right answer.
pub(crate) fn right(socket: &mut std::net::TcpStream, template: &Template) -> anyhow::Result<()> {
    let call = Calls::new().next().context("calls do not end")?;
    let mut request = Vec::new();
    template.write(call, &mut request);
    let answer = exchange::exchange(socket, &request)?;
    let checked = Checker::new(0).check(call, answer.status(), answer.kind(), answer.body());
    checked.map_err(|wrong| anyhow::anyhow!("{wrong}: {}", String::from_utf8_lossy(answer.body())))
}
