//! Many idle sessions: memory, and a restart with them.

use std::net::TcpStream;
use std::sync::atomic::AtomicBool;
use std::time::Instant;

use anyhow::{Context as _, bail};
use rustix::process::Signal;
use serde_json::json;

use crate::cli::Sessions;
use crate::exchange;
use crate::net;
use crate::rig::bench::{Bench, PATIENCE, right};
use crate::rig::figures::Figures;
use crate::rig::gateway::{Gateway, Setup};
use crate::rig::held::{SETTLED, mib, open, resident};
use crate::traffic::{Era, Shape};

use super::measured;

/// What all sessions may take, MiB.
const TOTAL_MIB_MAX: f64 = 64.0;
/// From the start of the process until it listens, milliseconds.
const LISTENS_MS_MAX: f64 = 1_000.0;
/// Sessions before the measurement, which fill what is filled once.
const WARMUP: u32 = 500;
/// Sessions that are asked something after a restart.
const ASKED: usize = 50;

/// `loadtest sessions`.
pub(crate) fn command(options: &Sessions, stop: &AtomicBool) -> anyhow::Result<bool> {
    let settings = json!({ "count": options.count, "restarts": options.restarts, "rules": options.stand.rules });
    measured(&options.stand, stop, ("sessions", settings), |bench, figures| measure(bench, options, figures))
}

fn measure(bench: &Bench<'_>, options: &Sessions, figures: &mut Figures) -> anyhow::Result<()> {
    let most = (options.count + WARMUP).to_string();
    let sessions = vec![("max", most.clone()), ("per_subject", most)];
    let limits = Vec::new();
    let setup = bench.setup(&limits, &sessions);
    let mut gateway = bench.gateway(&setup)?;
    for _ in 0..options.restarts {
        let begun;
        (gateway, begun) = bench.again(&setup, gateway, Signal::TERM)?;
        listens(bench, &mut gateway)?;
        figures.add("restart without sessions: listens after", ms(begun), "ms", None);
        let shape = bench.shape(&gateway, Era::Modern);
        bench.until(&mut gateway, &mut || {
            let (mut socket, template, _) = exchange::open(&shape, PATIENCE)?;
            right(&mut socket, &template)
        })?;
        figures.add("restart without sessions: first call after", ms(begun), "ms", None);
    }
    let shape = bench.shape(&gateway, Era::Legacy);
    let mut ids = open_sessions(bench, &shape, WARMUP)?;
    bench.pause(SETTLED)?;
    let before = resident(&gateway)?;
    let begun = Instant::now();
    ids.extend(open_sessions(bench, &shape, options.count)?);
    figures.add("sessions opened", f64::from(options.count) / begun.elapsed().as_secs_f64(), "/s", None);
    bench.pause(SETTLED)?;
    let after = resident(&gateway)?;
    let more = after.saturating_sub(before);
    figures.add("resident bytes for each", more as f64 / f64::from(options.count), "B", None);
    figures.add("resident for all of them", mib(more), "MiB", Some(TOTAL_MIB_MAX));
    figures.add("resident, whole process", mib(after), "MiB", None);
    figures.add("journal", mib(gateway.state_bytes(JOURNAL)), "MiB", None);
    ask_some(&shape, &ids)?;
    for _ in 0..options.restarts {
        for signal in [Signal::TERM, Signal::KILL] {
            gateway = restarted(bench, &setup, gateway, signal, &ids, figures)?;
        }
    }
    Ok(())
}

/// Starts it again, and asks in sessions of before.
fn restarted(
    bench: &Bench<'_>,
    setup: &Setup<'_>,
    gateway: Gateway,
    signal: Signal,
    ids: &[String],
    figures: &mut Figures,
) -> anyhow::Result<Gateway> {
    let name = if signal == Signal::KILL { "kill -9" } else { "restart" };
    let ending = Instant::now();
    let (mut gateway, begun) = bench.again(setup, gateway, signal)?;
    figures.add(&format!("{name}: had ended after"), (begun - ending).as_secs_f64() * 1e3, "ms", None);
    listens(bench, &mut gateway)?;
    figures.add(&format!("{name}: listens after"), ms(begun), "ms", Some(LISTENS_MS_MAX));
    let shape = bench.shape(&gateway, Era::Legacy);
    let id = &ids[ids.len() / 2];
    bench.until(&mut gateway, &mut || ask(&shape, &mut net::connect(shape.target.address, PATIENCE)?, id))?;
    figures.add(&format!("{name}: first call of an old session after"), ms(begun), "ms", None);
    ask_some(&shape, ids)?;
    bench.pause(SETTLED)?;
    figures.add(&format!("{name}: resident, whole process"), mib(resident(&gateway)?), "MiB", None);
    Ok(gateway)
}

/// Until a request is answered, whatever the answer: a connection alone may still be the predecessor's, whose listener
/// the kernel takes down some time after its end.
fn listens(bench: &Bench<'_>, gateway: &mut Gateway) -> anyhow::Result<()> {
    let target = bench.shape(gateway, Era::Modern).target;
    let request = format!("GET {} HTTP/1.1\r\nHost: {}\r\n\r\n", target.path, target.host);
    bench.until(gateway, &mut || {
        let mut socket = net::connect(target.address, PATIENCE)?;
        exchange::exchange(&mut socket, request.as_bytes()).map(drop)
    })
}

/// Opens so many, on a few connections at a time.
fn open_sessions(bench: &Bench<'_>, shape: &Shape, count: u32) -> anyhow::Result<Vec<String>> {
    let mut socket = open(shape, 0)?;
    let mut ids = Vec::new();
    for number in 0..count {
        if number % 1_000 == 999 {
            bench.pause(std::time::Duration::ZERO)?;
            // An idle bound somewhere must not end it.
            socket = open(shape, number)?;
        }
        let answer = exchange::exchange(&mut socket, &shape.initialize()).context("initialize")?;
        let Some(id) = answer.session().map(str::to_owned) else {
            bail!("initialize: status {}: {}", answer.status(), String::from_utf8_lossy(answer.body()));
        };
        let told = exchange::exchange(&mut socket, &shape.initialized(Some(&id))).context("initialized")?;
        anyhow::ensure!(told.status() == 202, "initialized: status {}", told.status());
        ids.push(id);
    }
    Ok(ids)
}

/// Sessions from everywhere among them answer.
fn ask_some(shape: &Shape, ids: &[String]) -> anyhow::Result<()> {
    let mut socket = net::connect(shape.target.address, PATIENCE)?;
    ids.iter().step_by((ids.len() / ASKED).max(1)).try_for_each(|id| ask(shape, &mut socket, id))
}

fn ask(shape: &Shape, socket: &mut TcpStream, id: &str) -> anyhow::Result<()> {
    right(socket, &shape.call(Some(id))?)
}

fn ms(since: Instant) -> f64 {
    since.elapsed().as_secs_f64() * 1e3
}

/// The file in the gateway's state folder.
const JOURNAL: &str = "sessions.journal";
