//! What lasts longer than a call: sessions and their streams, and what they cost beside calls that stand alone. One
//! gateway on one core; canned server and load share the other.

pub(crate) mod legacy;
pub(crate) mod sessions;
pub(crate) mod streams;

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use rustix::process::Signal;
use serde_json::Value;

use crate::answer::Checker;
use crate::cli::Stand;
use crate::rig::figures::Figures;
use crate::rig::gateway::{self, Gateway, Setup};
use crate::rig::process::{self, Folder, Process};
use crate::rig::{self, Cores, environment};
use crate::traffic::{Calls, Era, Shape, Target};
use crate::{exchange, net};

const START_MAX: Duration = Duration::from_secs(30);
const PATIENCE: Duration = Duration::from_secs(20);
const SUBJECTS: [&str; 1] = ["good"];

/// What a verb may use.
struct Bench<'a> {
    stand: &'a Stand,
    program: PathBuf,
    folder: &'a Folder,
    stop: &'a AtomicBool,
    _server: Process,
    server_port: u16,
}

/// Measures with a bench of its own; prints and writes what came of it.
fn measured(
    stand: &Stand,
    stop: &AtomicBool,
    (verb, settings): (&str, Value),
    measure: impl FnOnce(&Bench<'_>, &mut Figures) -> anyhow::Result<()>,
) -> anyhow::Result<bool> {
    let _alone = process::alone()?;
    let folder = Folder::new(stand.keep)?;
    let figures = on_a_bench(stand, stop, &folder, settings, measure);
    if figures.is_ok() {
        folder.done();
    } else {
        // Whoever looks for the cause will want the logs.
        folder.keep();
    }
    let figures = figures?;
    println!("{figures}");
    let out = stand.out.clone().unwrap_or_else(|| Path::new("target").join(format!("{verb}.json")));
    rig::write_figures(&out, &format!("{:#}\n", figures.json()))?;
    Ok(true)
}

fn on_a_bench(
    stand: &Stand,
    stop: &AtomicBool,
    folder: &Folder,
    settings: Value,
    measure: impl FnOnce(&Bench<'_>, &mut Figures) -> anyhow::Result<()>,
) -> anyhow::Result<Figures> {
    let cores = cores(stand);
    net::stay_on(cores.load)?;
    let program = gateway::program(stand.portcullis.as_deref())?;
    let versions = environment::Versions::ask(None, Some(&program));
    let mut figures = Figures::new(environment::read(cores, &versions), settings);
    let (server, server_port) = rig::canned(&["--streams".to_owned()], cores, folder)?;
    let bench = Bench { stand, program, folder, stop, _server: server, server_port };
    measure(&bench, &mut figures)?;
    figures.finish();
    Ok(figures)
}

fn cores(stand: &Stand) -> Cores {
    Cores { proxy: stand.proxy_core, load: stand.load_core }
}

/// Bounds, as the gateway's configuration writes them.
type Bounds = Vec<(&'static str, String)>;

impl Bench<'_> {
    fn setup<'b>(&'b self, limits: &'b Bounds, sessions: &'b Bounds) -> Setup<'b> {
        let (stand, program) = (self.stand, self.program.as_path());
        let cores = cores(stand);
        Setup { program, cores, rules: stand.rules, subjects: &SUBJECTS, limits, sessions, tls: None }
    }

    /// A gateway that answers.
    fn gateway(&self, setup: &Setup<'_>) -> anyhow::Result<Gateway> {
        let mut gateway = gateway::start(setup, self.folder, self.server_port)?;
        let shape = self.shape(&gateway, Era::Modern);
        self.until(&mut gateway, &mut || {
            let (mut socket, template, _) = exchange::open(&shape, PATIENCE)?;
            right(&mut socket, &template)
        })?;
        Ok(gateway)
    }

    /// The same gateway, started again; and the moment at which that began.
    fn again(&self, setup: &Setup<'_>, gateway: Gateway, signal: Signal) -> anyhow::Result<(Gateway, Instant)> {
        let mut gateway = gateway;
        gateway.process.end(signal)?;
        let begun = Instant::now();
        Ok((gateway::restart(setup, self.folder, gateway)?, begun))
    }

    /// Tries until it goes well.
    fn until(&self, gateway: &mut Gateway, act: &mut dyn FnMut() -> anyhow::Result<()>) -> anyhow::Result<()> {
        let until = Instant::now() + START_MAX;
        while let Err(error) = act() {
            if !gateway.process.is_alive() || Instant::now() > until {
                bail!("the gateway gives no right answer: {error:#}{}", gateway.process.tail(0));
            }
            self.pause(Duration::from_millis(1))?;
        }
        Ok(())
    }

    fn shape(&self, gateway: &Gateway, era: Era) -> Shape {
        Shape {
            target: Target::local(gateway.port, gateway::PATH),
            era,
            tool: "echo".to_owned(),
            token: gateway.tokens.first().cloned(),
            body_bytes: 350,
            events: 0,
        }
    }

    fn pause(&self, time: Duration) -> anyhow::Result<()> {
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
fn right(socket: &mut std::net::TcpStream, template: &crate::traffic::Template) -> anyhow::Result<()> {
    let call = Calls::new().next().context("calls do not end")?;
    let mut request = Vec::new();
    template.write(call, &mut request);
    let answer = exchange::exchange(socket, &request)?;
    let checked = Checker::new(0).check(call, answer.status(), answer.kind(), answer.body());
    checked.map_err(|wrong| anyhow::anyhow!("{wrong}: {}", String::from_utf8_lossy(answer.body())))
}
