//! What idle clients, slow ones and hostile ones cost the gateway. Each part starts a gateway of its own, on one core;
//! canned server, good calls and floods share the other, so latencies are those of a crowded client too.

mod calls;
mod keys;
mod memory;
mod report;
mod storm;

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use clap::ValueEnum;

use crate::answer::Checker;
use crate::cli::Floods;
use crate::generator::{self, Mark, Outcome, Pace, Plan};
use crate::measure::{Cpu, Schedule};
use crate::rig::gateway::{self, Gateway, Setup};
use crate::rig::process::{self, Folder, Process};
use crate::rig::{self, Cores, environment};
use crate::traffic::{Calls, Era, Shape, Target};
use crate::{exchange, net};

use report::Report;

const START_MAX: Duration = Duration::from_secs(20);
const PATIENCE: Duration = Duration::from_secs(20);
/// Before memory is read, good calls have filled what is filled once.
const WARMUP: Duration = Duration::from_millis(400);
const FAULTS_MAX: u64 = 100;
const BODY_BYTES: usize = 350;
/// Callers, by their place in [`Bench::shape`].
const SUBJECTS: [&str; 2] = ["good", "other"];

/// One question.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Part {
    /// Memory of kept connections that carried one request.
    Idle,
    /// Memory of connections that never sent anything.
    Fresh,
    /// As `idle`, encrypted.
    IdleTls,
    /// As `fresh`, encrypted: the handshake was made.
    FreshTls,
    /// Memory of GET streams of handshake-era sessions.
    SessionStreams,
    /// Memory of `subscriptions/listen` streams.
    Subscriptions,
    /// Good calls beside heads that come a byte a second.
    SlowHeads,
    /// Good calls beside bodies that come a byte a second.
    SlowBodies,
    /// Good calls beside a flood of tokens with wrong signatures.
    BadTokens,
    /// Good calls beside tokens that name keys which their issuer does not have, 10,000 a second.
    KeyIds,
    /// Good calls beside a subject that asks for more than its share.
    Share,
    /// Good calls beside an address that opens more connections than it may.
    Address,
    /// Good calls beside another caller with many connections.
    Neighbour,
    /// Memory under heads that stay half.
    HalfHeads,
    /// Memory under large bodies that are announced and do not come.
    Bodies,
}

/// What a part may use.
struct Bench<'a> {
    options: &'a Floods,
    program: PathBuf,
    folder: &'a Folder,
    stop: &'a AtomicBool,
    _server: Process,
    server_port: u16,
}

/// What came of good calls.
struct Good {
    outcome: Outcome,
    cpu: Cpu,
}

/// `loadtest floods`.
pub(crate) fn command(options: &Floods, stop: &AtomicBool) -> anyhow::Result<bool> {
    let _alone = process::alone()?;
    let folder = Folder::new(options.keep)?;
    let result = floods(options, stop, &folder);
    match &result {
        Ok(true) => folder.done(),
        // Whoever looks for the cause will want the logs.
        _ => folder.keep(),
    }
    result
}

fn floods(options: &Floods, stop: &AtomicBool, folder: &Folder) -> anyhow::Result<bool> {
    let cores = Cores { proxy: options.proxy_core, load: options.load_core };
    net::stay_on(cores.load)?;
    let program = gateway::program(options.portcullis.as_deref())?;
    let versions = environment::Versions::ask(None, Some(&program));
    let mut report = Report::new(environment::read(cores, &versions), options);
    let (server, server_port) = rig::canned(&["--streams".to_owned()], cores, folder)?;
    let bench = Bench { options, program, folder, stop, _server: server, server_port };
    let parts = if options.only.is_empty() { Part::value_variants() } else { &options.only };
    for _ in 0..options.repetitions {
        for part in parts {
            eprintln!("{}", part.name());
            if let Err(error) = bench.run(*part, &mut report) {
                report.fault(*part, format!("{error:#}"));
            }
            if stop.load(Ordering::Relaxed) {
                bail!("stopped");
            }
        }
    }
    report.finish();
    println!("{report}");
    rig::write_figures(&options.out, &format!("{:#}\n", report.json()))?;
    Ok(report.is_sound())
}

impl Part {
    fn name(self) -> String {
        self.to_possible_value().map_or_else(String::new, |value| value.get_name().to_owned())
    }
}

impl Bench<'_> {
    fn run(&self, part: Part, report: &mut Report) -> anyhow::Result<()> {
        match part {
            Part::Idle => memory::idle(self, part, true, report),
            Part::Fresh => memory::idle(self, part, false, report),
            Part::IdleTls => memory::idle_tls(self, part, true, report),
            Part::FreshTls => memory::idle_tls(self, part, false, report),
            Part::SessionStreams => memory::streams(self, part, Era::Legacy, report),
            Part::Subscriptions => memory::streams(self, part, Era::Modern, report),
            Part::SlowHeads => calls::beside_slow(self, part, report),
            Part::SlowBodies => calls::beside_slow(self, part, report),
            Part::BadTokens => calls::beside_bad_tokens(self, part, report),
            Part::KeyIds => keys::beside_key_ids(self, part, report),
            Part::Share => calls::beside_greed(self, part, report),
            Part::Address => calls::beside_address(self, part, report),
            Part::Neighbour => calls::beside_neighbour(self, part, report),
            Part::HalfHeads => memory::half_heads(self, part, report),
            Part::Bodies => memory::bodies(self, part, report),
        }
    }

    /// A gateway of its own, with these bounds.
    fn gateway(&self, limits: &[(&str, String)], tls: Option<(&str, &str)>) -> anyhow::Result<Gateway> {
        gateway::start(&self.setup(limits, tls), self.folder, self.server_port)
    }

    fn setup<'b>(&'b self, limits: &'b [(&str, String)], tls: Option<(&'b str, &'b str)>) -> Setup<'b> {
        let options = self.options;
        Setup {
            program: &self.program,
            cores: Cores { proxy: options.proxy_core, load: options.load_core },
            rules: options.rules,
            subjects: &SUBJECTS,
            limits,
            sessions: &[],
            tls,
            admin: None,
        }
    }

    /// The same, and it answers.
    fn plain_gateway(&self, limits: &[(&str, String)]) -> anyhow::Result<Gateway> {
        self.answering(self.gateway(limits, None)?)
    }

    /// Waits until it answers.
    fn answering(&self, mut gateway: Gateway) -> anyhow::Result<Gateway> {
        let shape = self.shape(&gateway, 0, Era::Modern);
        wait_for(&mut gateway, &mut || {
            let (mut socket, template, _) = exchange::open(&shape, PATIENCE)?;
            ask(&mut |request| exchange::exchange(&mut socket, request), &template)
        })?;
        Ok(gateway)
    }

    /// Calls of one of [`SUBJECTS`].
    fn shape(&self, gateway: &Gateway, subject: usize, era: Era) -> Shape {
        Shape {
            target: Target::local(gateway.port, gateway::PATH),
            era,
            tool: "echo".to_owned(),
            tenth: None,
            token: gateway.tokens.get(subject).cloned(),
            body_bytes: BODY_BYTES,
            events: 0,
        }
    }

    /// Good calls as the options say, all of them checked.
    fn good(&self, gateway: &Gateway, warmup: Duration, window: Duration) -> anyhow::Result<Good> {
        let rate = self.options.rate;
        let plan = Plan {
            shape: self.shape(gateway, 0, Era::Modern),
            tokens: Vec::new(),
            stay: false,
            connections: self.options.connections,
            pace: if rate > 0 { Pace::Open(Schedule::new(rate)) } else { Pace::Closed },
            warmup,
            window,
            count: u64::MAX,
            timeout: PATIENCE,
            faults_max: FAULTS_MAX,
        };
        let pids = gateway.process.family();
        let mut cpu = (Ok(Cpu::default()), Ok(Cpu::default()));
        let outcome = generator::send(&plan, self.stop, &mut |mark| match mark {
            Mark::Start => cpu.0 = Cpu::read(&pids, "shard-"),
            Mark::End => cpu.1 = Cpu::read(&pids, "shard-"),
        })?;
        Ok(Good { outcome, cpu: cpu.1?.since(&cpu.0?) })
    }

    fn window(&self) -> Duration {
        Duration::from_secs_f64(self.options.seconds)
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
fn ask(
    exchange: &mut dyn FnMut(&[u8]) -> anyhow::Result<crate::reply::Reader>,
    template: &crate::traffic::Template,
) -> anyhow::Result<()> {
    let call = Calls::new().next().context("calls do not end")?;
    let mut request = Vec::new();
    template.write(call, &mut request);
    let answer = exchange(&request)?;
    let checked = Checker::new(0).check(call, answer.status(), answer.kind(), answer.body());
    checked.map_err(|wrong| anyhow::anyhow!("{wrong}: {}", String::from_utf8_lossy(answer.body())))
}

fn wait_for(gateway: &mut Gateway, ask: &mut dyn FnMut() -> anyhow::Result<()>) -> anyhow::Result<()> {
    let until = Instant::now() + START_MAX;
    while let Err(error) = ask() {
        if !gateway.process.is_alive() || Instant::now() > until {
            bail!("the gateway gives no right answer: {error:#}{}", gateway.process.tail(0));
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    Ok(())
}
