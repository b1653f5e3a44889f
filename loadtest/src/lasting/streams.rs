//! Many idle event streams: memory of both halves, and of the client's alone.

use std::io::Write as _;
use std::net::TcpStream;
use std::sync::atomic::AtomicBool;

use anyhow::Context as _;
use serde_json::json;

use crate::cli::Streams;
use crate::rig::bench::{Bench, Bounds};
use crate::rig::figures::Figures;
use crate::rig::held::{SETTLED, begun, is_open, mib, open, patient, per, resident, session};
use crate::traffic::{Era, Shape};

use super::measured;

/// Connections that read one session's stream, where the client's half is measured.
const READERS: u32 = 4;
/// The client's half, KiB.
const CLIENT_KIB_MAX: f64 = 6.0;
/// Streams before the measurement, which fill what is filled once.
const WARMUP: u32 = 200;

/// `loadtest streams`.
pub(crate) fn command(options: &Streams, stop: &AtomicBool) -> anyhow::Result<bool> {
    let settings = json!({ "count": options.count, "rules": options.stand.rules });
    measured(&options.stand, stop, ("streams", settings), |bench, figures| {
        both_halves(bench, options.count, figures)?;
        client_half(bench, options.count, figures)
    })
}

/// A stream for each of so many sessions: a connection to the client, and one to the server.
fn both_halves(bench: &Bench<'_>, count: u32, figures: &mut Figures) -> anyhow::Result<()> {
    let (limits, sessions) = bounds(count);
    let gateway = bench.gateway(&bench.setup(&limits, &sessions))?;
    let shape = bench.shape(&gateway, Era::Legacy);
    drop(opened(bench, &shape, WARMUP)?);
    bench.pause(SETTLED)?;
    let empty = resident(&gateway)?;
    // What a session costs without a stream is not the stream's.
    let ids = sessions_of(bench, &shape, count)?;
    bench.pause(SETTLED)?;
    let before = resident(&gateway)?;
    let sockets = streams_of(bench, &shape, &ids, 0)?;
    bench.pause(SETTLED)?;
    let after = resident(&gateway)?;
    all_open(&sockets)?;
    figures.add("a session without a stream", per(empty, before, count), "KiB", None);
    figures.add("a stream, both halves", per(before, after, count), "KiB", None);
    figures.add("streams", f64::from(count), "", None);
    figures.add("whole process", mib(after), "MiB", None);
    Ok(())
}

/// More connections that read the same sessions' streams: what they add is their own.
fn client_half(bench: &Bench<'_>, count: u32, figures: &mut Figures) -> anyhow::Result<()> {
    let (limits, sessions) = bounds(count);
    let gateway = bench.gateway(&bench.setup(&limits, &sessions))?;
    let shape = bench.shape(&gateway, Era::Legacy);
    drop(opened(bench, &shape, WARMUP)?);
    let ids = sessions_of(bench, &shape, count / READERS)?;
    let mut sockets = streams_of(bench, &shape, &ids, 0)?;
    bench.pause(SETTLED)?;
    let before = resident(&gateway)?;
    for reader in 1..READERS {
        sockets.extend(streams_of(bench, &shape, &ids, reader)?);
    }
    bench.pause(SETTLED)?;
    let after = resident(&gateway)?;
    all_open(&sockets)?;
    let more = (READERS - 1) * (count / READERS);
    figures.add("a stream, the client's half", per(before, after, more), "KiB", Some(CLIENT_KIB_MAX));
    figures.add("client's halves", f64::from(more), "", None);
    Ok(())
}

pub(crate) fn bounds(count: u32) -> (Bounds, Bounds) {
    let most = (count + 2 * WARMUP).to_string();
    (patient(count + WARMUP), vec![("max", most.clone()), ("per_subject", most)])
}

fn opened(bench: &Bench<'_>, shape: &Shape, count: u32) -> anyhow::Result<Vec<TcpStream>> {
    let ids = sessions_of(bench, shape, count)?;
    streams_of(bench, shape, &ids, 0)
}

pub(crate) fn sessions_of(bench: &Bench<'_>, shape: &Shape, count: u32) -> anyhow::Result<Vec<String>> {
    let mut socket = open(shape, 0)?;
    let mut ids = Vec::new();
    for _ in 0..count {
        bench.pause(std::time::Duration::ZERO)?;
        ids.push(session(shape, &mut socket)?);
    }
    Ok(ids)
}

pub(crate) fn streams_of(
    bench: &Bench<'_>,
    shape: &Shape,
    ids: &[String],
    turn: u32,
) -> anyhow::Result<Vec<TcpStream>> {
    let mut sockets = Vec::new();
    for (number, id) in (turn..).zip(ids) {
        bench.pause(std::time::Duration::ZERO)?;
        let mut socket = open(shape, number)?;
        socket.write_all(&shape.session_stream(id)).context("sending")?;
        begun(&mut socket, Era::Legacy)?;
        sockets.push(socket);
    }
    Ok(sockets)
}

pub(crate) fn all_open(sockets: &[TcpStream]) -> anyhow::Result<()> {
    let open = sockets.iter().filter(|socket| is_open(socket)).count();
    anyhow::ensure!(open == sockets.len(), "of {} streams only {open} stayed open", sockets.len());
    Ok(())
}
