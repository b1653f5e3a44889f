//! Portcullis beside nginx, HAProxy and a bare hop on the same traffic, in turn: whoever is measured on one core, load and
//! canned server on another. Only ratios inside one repetition are worth anything on a machine that is shared.

mod haproxy;
mod install;
mod nginx;
mod plot;
mod report;
mod sample;
pub(crate) mod scene;
mod stage;
mod syscalls;

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context as _, bail};
use clap::ValueEnum as _;

use crate::cli::Compare;
use crate::generator::{self, Mark, Outcome, Pace, Plan};
use crate::measure::{Cpu, Schedule};
use crate::rig::process::{self, Folder};
use crate::rig::{self, environment};
use crate::traffic::Target;
use crate::{exchange, net};

use report::Report;
use sample::Sample;
use scene::{Load, Scene};
use stage::{Member, Programs, Stage};

/// Nobody waits longer for an answer.
const PATIENCE: Duration = Duration::from_secs(10);
const FAULTS_MAX: u64 = 100;
/// System calls are counted for so long.
const COUNTED: Duration = Duration::from_millis(500);

/// `loadtest compare`.
pub(crate) fn command(options: &Compare, stop: &AtomicBool) -> anyhow::Result<bool> {
    let _alone = process::alone()?;
    let folder = Folder::new(options.keep)?;
    let result = compare(options, stop, &folder);
    match &result {
        Ok(report) if report.is_sound() => folder.done(),
        // Whoever looks for the cause will want the logs.
        _ => folder.keep(),
    }
    let report = result?;
    Ok(report.is_sound() && (report.is_held() || !options.strict))
}

fn compare(options: &Compare, stop: &AtomicBool, folder: &Folder) -> anyhow::Result<Report> {
    net::stay_on(options.load_core)?;
    let wanted = |scene: &Scene| options.only.is_empty() || options.only.contains(scene);
    let scenes: Vec<Scene> = Scene::value_variants().iter().copied().filter(wanted).collect();
    let programs = Programs::find(options, &scenes)?;
    let mut report = Report::new(environment::read(stage::cores(options), &programs.versions()), options);
    let perf = perf(options);
    let run = Run { options, stop, folder, perf };
    for scene in scenes {
        eprintln!("{}", scene.title());
        let mut stage = Stage::open(scene, options, &programs, folder)?;
        run.play(&mut stage, &mut report)?;
    }
    report.finish();
    println!("{report}");
    rig::write_figures(&options.out, &format!("{:#}\n", report.json()))?;
    let picture = options.out.with_extension("svg");
    std::fs::write(&picture, report.svg()).with_context(|| format!("cannot write {}", picture.display()))?;
    println!("As a picture: {}", picture.display());
    Ok(report)
}

/// The program that counts system calls, where that is possible.
fn perf(options: &Compare) -> Option<PathBuf> {
    match install::program(Path::new("perf"), "perf", "linux-perf", !options.no_install) {
        Ok(perf) if syscalls::works(&perf) => Some(perf),
        Ok(_) => {
            eprintln!("system calls are not counted: perf may not, or this kernel has no trace points");
            None
        }
        Err(error) => {
            eprintln!("system calls are not counted: {error:#}");
            None
        }
    }
}

/// What every measurement needs.
struct Run<'a> {
    options: &'a Compare,
    stop: &'a AtomicBool,
    folder: &'a Folder,
    perf: Option<PathBuf>,
}

impl Run<'_> {
    /// All loads of a scene, as often as was asked for.
    fn play(&self, stage: &mut Stage, report: &mut Report) -> anyhow::Result<()> {
        for load in stage.scene.loads(self.options) {
            for repetition in 0..self.options.repetitions {
                // Whoever was first is last next time.
                stage.members.rotate_left(usize::from(repetition > 0));
                for member in &stage.members {
                    let sample = self.sample(stage, member, &mut |stage, member| self.measure(stage, member, load))?;
                    eprintln!("{}, {load}, repetition {}: {sample}", member.who.name(), repetition + 1);
                    report.add(stage.scene, load, member.who, sample);
                }
            }
            self.count(stage, load, report)?;
        }
        for member in &stage.members {
            if let Err(error) = has_counted(member) {
                report.note(format!("FAULT in {}, {}: {error:#}", stage.scene.title(), member.who.name()));
            }
        }
        Ok(())
    }

    /// What came of a measurement, a fault with what the program said of it.
    fn sample(
        &self,
        stage: &Stage,
        member: &Member,
        measure: &mut dyn FnMut(&Stage, &Member) -> anyhow::Result<Sample>,
    ) -> anyhow::Result<Sample> {
        let logged = stage.logged(member);
        let sample = measure(stage, member);
        if self.stop.load(Ordering::Relaxed) {
            bail!("stopped");
        }
        Ok(sample.unwrap_or_else(|error| Sample::failed(format!("{error:#}{}", stage.tail(member, logged)))))
    }

    fn measure(&self, stage: &Stage, member: &Member, load: Load) -> anyhow::Result<Sample> {
        let plan = self.plan(member, load, Duration::from_secs_f64(self.options.seconds));
        let mut cpu = (Ok(Cpu::default()), Ok(Cpu::default()));
        let read = || Cpu::read(&member.pids, member.serving);
        let outcome = self.send(stage, &plan, &mut |mark| match mark {
            Mark::Start => cpu.0 = read(),
            Mark::End => cpu.1 = read(),
        })?;
        Ok(Sample::new(&outcome, &cpu.1?.since(&cpu.0?)))
    }

    /// System calls of everybody, in a run of its own for each.
    fn count(&self, stage: &Stage, load: Load, report: &mut Report) -> anyhow::Result<()> {
        let Some(perf) = &self.perf else { return Ok(()) };
        for member in stage.members.iter().filter(|member| !member.pids.is_empty()) {
            let mut counted = None;
            let sample = self.sample(stage, member, &mut |stage, member| {
                let mut counter = syscalls::Counter::new(perf, &member.pids, self.folder)?;
                let plan = self.plan(member, load, COUNTED);
                let mut told = (Ok(()), Ok(()));
                let outcome = self.send(stage, &plan, &mut |mark| match mark {
                    Mark::Start => told.0 = counter.begin(),
                    Mark::End => told.1 = counter.end(),
                })?;
                told.0.and(told.1)?;
                counted = Some(counter.count(member.serving)? as f64 / outcome.in_window as f64);
                Ok(Sample::default())
            })?;
            match (counted, sample.fault()) {
                (Some(each), _) => report.add_system_calls(stage.scene, load, member.who, each),
                (None, fault) => report.note(format!(
                    "FAULT: system calls of {} at {load} were not counted: {}",
                    member.who.name(),
                    fault.unwrap_or("nobody knows why")
                )),
            }
        }
        Ok(())
    }

    fn plan(&self, member: &Member, load: Load, window: Duration) -> Plan {
        let (connections, pace) = match load {
            Load::Closed(connections) => (connections, Pace::Closed),
            Load::Open { rate, connections } => (connections, Pace::Open(Schedule::new(rate))),
        };
        Plan {
            shape: member.shape.clone(),
            tokens: Vec::new(),
            stay: false,
            connections,
            pace,
            warmup: Duration::from_secs_f64(self.options.warmup),
            window,
            count: u64::MAX,
            timeout: PATIENCE,
            faults_max: FAULTS_MAX,
        }
    }

    /// Runs the plan. Everything sent was answered rightly, and reached the server once.
    fn send(&self, stage: &Stage, plan: &Plan, at: &mut dyn FnMut(Mark)) -> anyhow::Result<Outcome> {
        let before = exchange::tally(stage.port)?;
        let outcome = generator::send(plan, self.stop, at)?;
        let arrived = exchange::tally(stage.port)? - before;
        check(&outcome, arrived)?;
        Ok(outcome)
    }
}

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

/// A gateway of ours has metrics on: they have counted calls.
fn has_counted(member: &Member) -> anyhow::Result<()> {
    let Some(admin) = member.admin else { return Ok(()) };
    let target = Target::local(admin, "/metrics");
    let mut socket = net::connect(target.address, PATIENCE)?;
    let request = format!("GET {} HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n\r\n", target.path, target.host);
    let answer = exchange::exchange(&mut socket, request.as_bytes())?;
    let text = String::from_utf8_lossy(answer.body());
    let counts = text.lines().filter(|line| line.starts_with("mcp_server_operation_duration_seconds_count{"));
    let counted: f64 = counts.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum();
    anyhow::ensure!(counted > 0.0, "metrics have counted no call");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_scene_compares_those_who_take_part() {
        for scene in Scene::value_variants() {
            for pair in scene.pairs() {
                assert!(scene.cast().contains(&pair.own) && scene.cast().contains(&pair.base), "{pair}");
                assert!(pair.own.is_own());
            }
        }
    }
}
