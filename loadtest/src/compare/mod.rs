//! nginx and Portcullis on the same traffic, in turn: whoever is measured on one core, load and canned server on
//! another. Only ratios inside one repetition are worth anything on a machine that is shared.

mod nginx;
mod report;

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};

use crate::answer::Checker;
use crate::cli::Compare;
use crate::generator::{self, Mark, Outcome, Pace, Plan};
use crate::measure::{Cpu, Schedule};
use crate::rig::process::{self, Folder, Process};
use crate::rig::{self, Cores, environment, gateway};
use crate::traffic::{Calls, Shape, Target};
use crate::{exchange, net};

use report::{Load, Report, Sample};

const START_MAX: Duration = Duration::from_secs(20);
const OPEN_CONNECTIONS: u32 = 64;

/// Who is measured.
struct Contestant {
    name: &'static str,
    /// `None`: the canned server itself.
    process: Option<Process>,
    shape: Shape,
    pids: Vec<u32>,
    /// What the names of the threads that serve calls start with.
    serving: &'static str,
}

/// `loadtest compare`.
pub(crate) fn command(options: &Compare, stop: &AtomicBool) -> anyhow::Result<bool> {
    let _alone = process::alone()?;
    let folder = Folder::new(options.keep)?;
    let result = compare(options, stop, &folder);
    match &result {
        Ok(true) => folder.done(),
        // Whoever looks for the cause will want the logs.
        _ => folder.keep(),
    }
    result
}

fn compare(options: &Compare, stop: &AtomicBool, folder: &Folder) -> anyhow::Result<bool> {
    net::stay_on(options.load_core)?;
    let nginx = nginx::program(options)?;
    let portcullis = if options.only_nginx { None } else { Some(gateway::program(options.portcullis.as_deref())?) };
    let versions = environment::Versions::ask(Some(&nginx), portcullis.as_deref());
    let mut report = Report::new(environment::read(cores(options), &versions), options);
    let (_server, port) = canned(options, folder)?;
    let mut contestants = contestants(options, folder, port, &nginx, portcullis)?;
    for contestant in &mut contestants {
        wait_for(contestant, options)?;
    }
    let loads: Vec<Load> = options.connections.iter().map(|connections| Load::Closed(*connections)).collect();
    let open = options.rates.iter().map(|rate| Load::Open { rate: *rate, connections: OPEN_CONNECTIONS });
    let loads: Vec<Load> = loads.into_iter().chain(open).collect();
    for load in &loads {
        for repetition in 0..options.repetitions {
            // Whoever was first is last next time.
            contestants.rotate_left(usize::from(repetition > 0));
            for contestant in &contestants {
                let logged = contestant.process.as_ref().map_or(0, Process::log_bytes);
                let sample = measure(contestant, *load, options, port, stop).unwrap_or_else(|error| {
                    let tail = contestant.process.as_ref().map(|process| process.tail(logged));
                    Sample::failed(format!("{error:#}{}", tail.unwrap_or_default()))
                });
                if stop.load(Ordering::Relaxed) {
                    bail!("stopped");
                }
                let place = format!("{}, {load}, repetition {}", contestant.name, repetition + 1);
                eprintln!("{place}: {sample}");
                report.add(*load, contestant.name, sample);
            }
        }
    }
    report.finish();
    println!("{report}");
    rig::write_figures(&options.out, &format!("{:#}\n", report.json()))?;
    Ok(report.is_sound())
}

fn cores(options: &Compare) -> Cores {
    Cores { proxy: options.proxy_core, load: options.load_core }
}

/// The canned server, and its port.
fn canned(options: &Compare, folder: &Folder) -> anyhow::Result<(Process, u16)> {
    let arguments = [
        format!("--events={}", options.calls.events),
        format!("--answer-bytes={}", options.answer_bytes),
        format!("--lie-every={}", options.lie_every),
    ];
    rig::canned(&arguments, cores(options), folder)
}

fn contestants(
    options: &Compare,
    folder: &Folder,
    port: u16,
    nginx: &std::path::Path,
    portcullis: Option<PathBuf>,
) -> anyhow::Result<Vec<Contestant>> {
    let mut gateway = match portcullis {
        Some(program) => {
            let subjects: &[&str] = if options.anonymous { &[] } else { &["loadtest"] };
            let (program, rules) = (program.as_path(), options.rules);
            let setup = gateway::Setup {
                program,
                cores: cores(options),
                rules,
                subjects,
                limits: &[],
                sessions: &[],
                tls: None,
                admin: None,
            };
            Some(gateway::start(&setup, folder, port)?)
        }
        None => None,
    };
    // The same requests for everybody, so those who do not look at the token carry it too.
    let token = gateway.as_ref().and_then(|gateway| gateway.tokens.first().cloned());
    let shape = |target: Target| Shape {
        target,
        era: options.calls.era,
        tool: "echo".to_owned(),
        token: token.clone(),
        body_bytes: options.calls.body_bytes,
        events: options.calls.events,
    };
    let mut out = Vec::new();
    for (name, log) in [("nginx", false), ("nginx, with log", true)] {
        if log && !options.with_log {
            continue;
        }
        let (process, own) = nginx::start(nginx, options, folder, port, log)?;
        let shape = shape(Target::local(own, gateway::PATH));
        out.push(Contestant { name, process: Some(process), shape, pids: Vec::new(), serving: "" });
    }
    if let Some(gateway) = gateway.take() {
        let shape = shape(Target::local(gateway.port, gateway::PATH));
        let process = Some(gateway.process);
        out.push(Contestant { name: "portcullis", process, shape, pids: Vec::new(), serving: "shard-" });
    }
    if options.direct {
        let shape = shape(Target::local(port, gateway::PATH));
        out.push(Contestant { name: "nothing between", process: None, shape, pids: Vec::new(), serving: "" });
    }
    Ok(out)
}

/// Until it gives a right answer.
fn wait_for(contestant: &mut Contestant, options: &Compare) -> anyhow::Result<()> {
    let until = Instant::now() + START_MAX;
    let patience = Duration::from_millis(options.calls.timeout_ms);
    let mut checker = Checker::new(options.calls.events);
    let mut calls = Calls::new();
    let mut ask = || -> anyhow::Result<()> {
        let (mut socket, template, session) = exchange::open(&contestant.shape, patience)?;
        let call = calls.next().context("calls do not end")?;
        let mut request = Vec::new();
        template.write(call, &mut request);
        let answer = exchange::exchange(&mut socket, &request)?;
        let body = answer.body();
        if let Err(wrong) = checker.check(call, answer.status(), answer.kind(), body) {
            bail!("{wrong}: {}", String::from_utf8_lossy(&body[..body.len().min(300)]));
        }
        if let Some(session) = session {
            exchange::exchange(&mut socket, &contestant.shape.delete(&session))?;
        }
        Ok(())
    };
    loop {
        let Err(error) = ask() else { break };
        let gone = contestant.process.as_mut().is_some_and(|process| !process.is_alive());
        if gone || Instant::now() > until {
            let what = if gone { "has ended" } else { "gives no right answer" };
            let tail = contestant.process.as_ref().map_or_else(String::new, |process| process.tail(0));
            bail!("{} {what}: {error:#}{tail}", contestant.name);
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    contestant.pids = contestant.process.as_ref().map_or_else(Vec::new, Process::family);
    Ok(())
}

fn measure(
    contestant: &Contestant,
    load: Load,
    options: &Compare,
    port: u16,
    stop: &AtomicBool,
) -> anyhow::Result<Sample> {
    let (connections, pace) = match load {
        Load::Closed(connections) => (connections, Pace::Closed),
        Load::Open { rate, connections } => (connections, Pace::Open(Schedule::new(rate))),
    };
    let plan = Plan {
        shape: contestant.shape.clone(),
        tokens: Vec::new(),
        stay: false,
        connections,
        pace,
        warmup: Duration::from_secs_f64(options.warmup),
        window: Duration::from_secs_f64(options.seconds),
        count: u64::MAX,
        timeout: Duration::from_millis(options.calls.timeout_ms),
        faults_max: options.calls.faults_max,
    };
    let before = exchange::tally(port)?;
    let mut cpu = (Ok(Cpu::default()), Ok(Cpu::default()));
    let read = || Cpu::read(&contestant.pids, contestant.serving);
    let outcome = generator::send(&plan, stop, &mut |mark| match mark {
        Mark::Start => cpu.0 = read(),
        Mark::End => cpu.1 = read(),
    })?;
    let arrived = exchange::tally(port)? - before;
    check(&outcome, arrived)?;
    Ok(Sample::new(&outcome, &cpu.1?.since(&cpu.0?)))
}

/// Everything sent was answered rightly, and reached the server once.
fn check(outcome: &Outcome, arrived: u64) -> anyhow::Result<()> {
    if outcome.faults.total > 0 || outcome.cut {
        let early = if outcome.cut { ", given up early" } else { "" };
        bail!("{} faults{early}: {}", outcome.faults.total, outcome.faults.describe());
    }
    if outcome.sent != outcome.answered || outcome.sent != arrived {
        bail!("{} calls sent, {} answered, but {arrived} reached the server", outcome.sent, outcome.answered);
    }
    if outcome.in_window == 0 {
        bail!("no call was answered in the time measured");
    }
    Ok(())
}
