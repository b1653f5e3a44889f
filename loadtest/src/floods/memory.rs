//! What connections cost in memory.

use std::io::Write as _;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};

use crate::exchange;
use crate::rig::gateway::Gateway;
use crate::rig::held::{SETTLED, begun, forget_peak, is_open, mib, open, patient, peak, per, resident, session};
use crate::traffic::Era;
use crate::wire::{self, Trust};

use super::report::Report;
use super::{Bench, Part, WARMUP, ask, wait_for};

/// How long floods are kept up.
const HELD: Duration = Duration::from_secs(3);
/// How long memory has to come back.
const BACK_MAX: Duration = Duration::from_secs(20);
const HALF_HEAD_BYTES: usize = 1_024;
const BODY_ANNOUNCED_BYTES: usize = 1 << 20;
const BODY_SENT_BYTES: usize = 1_024;
const IDLE_KIB_MAX: f64 = 6.0;
const IDLE_TLS_KIB_MAX: f64 = 20.0;
/// Both halves of a stream, a connection each.
const STREAM_KIB_MAX: f64 = 12.0;
/// Of its memory before, per cent.
const BACK_PERCENT_MAX: f64 = 110.0;

/// Memory of kept connections, after a request each where `asked`.
pub(super) fn idle(bench: &Bench<'_>, part: Part, asked: bool, report: &mut Report) -> anyhow::Result<()> {
    let count = bench.options.idle;
    let gateway = bench.plain_gateway(&patient(count))?;
    bench.good(&gateway, Duration::ZERO, WARMUP)?;
    bench.pause(SETTLED)?;
    let shape = bench.shape(&gateway, 0, Era::Modern);
    let template = shape.call(None)?;
    let before = resident(&gateway)?;
    let mut sockets = Vec::new();
    for number in 0..count {
        let mut socket = open(&shape, number)?;
        if asked {
            ask(&mut |request| exchange::exchange(&mut socket, request), &template)?;
        }
        sockets.push(socket);
    }
    bench.pause(SETTLED)?;
    let after = resident(&gateway)?;
    let open = sockets.iter().filter(|socket| is_open(socket)).count();
    each(part, "per connection", (before, after), (count, open), IDLE_KIB_MAX, report)
}

/// The same, encrypted.
pub(super) fn idle_tls(bench: &Bench<'_>, part: Part, asked: bool, report: &mut Report) -> anyhow::Result<()> {
    let count = bench.options.idle;
    let trust = Trust::new()?;
    let mut gateway = bench.gateway(&patient(count), Some((&trust.certificate, &trust.key)))?;
    let shape = bench.shape(&gateway, 0, Era::Modern);
    let template = shape.call(None)?;
    let connect = |number: u32| trust.connect(open(&shape, number)?);
    let call = |number: u32| {
        let mut stream = connect(number)?;
        ask(&mut |request| wire::exchange(&mut stream, request), &template)?;
        anyhow::Ok(stream)
    };
    wait_for(&mut gateway, &mut || call(0).map(drop))?;
    let warm: anyhow::Result<Vec<_>> = (0..64).map(call).collect();
    drop(warm?);
    bench.pause(SETTLED)?;
    let before = resident(&gateway)?;
    let mut streams = Vec::new();
    let begun = Instant::now();
    for number in 0..count {
        streams.push(if asked { call(number)? } else { connect(number)? });
    }
    report.add(part, "opened one after the other", f64::from(count) / begun.elapsed().as_secs_f64(), "/s", None);
    bench.pause(SETTLED)?;
    let after = resident(&gateway)?;
    // Tickets may be unread, so bytes are no sign; an end is.
    let open = streams.iter().filter(|stream| is_open(&stream.sock)).count();
    each(part, "per connection", (before, after), (count, open), IDLE_TLS_KIB_MAX, report)
}

/// Memory of streams that nothing travels on.
pub(super) fn streams(bench: &Bench<'_>, part: Part, era: Era, report: &mut Report) -> anyhow::Result<()> {
    let count = bench.options.streams;
    let gateway = bench.plain_gateway(&patient(count))?;
    bench.good(&gateway, Duration::ZERO, WARMUP)?;
    bench.pause(SETTLED)?;
    let shape = bench.shape(&gateway, 0, era);
    let before = resident(&gateway)?;
    let mut sockets = Vec::new();
    for number in 0..count {
        let mut socket = open(&shape, number)?;
        let request = match era {
            Era::Modern => shape.listen(),
            Era::Legacy => shape.session_stream(&session(&shape, &mut socket)?),
        };
        socket.write_all(&request).context("sending")?;
        begun(&mut socket, era)?;
        sockets.push(socket);
    }
    bench.pause(SETTLED)?;
    let after = resident(&gateway)?;
    let open = sockets.iter().filter(|socket| is_open(socket)).count();
    each(part, "per stream, both sides", (before, after), (count, open), STREAM_KIB_MAX, report)
}

/// Memory while many heads are half here.
pub(super) fn half_heads(bench: &Bench<'_>, part: Part, report: &mut Report) -> anyhow::Result<()> {
    let count = bench.options.idle;
    let gateway = bench.plain_gateway(&patient(count))?;
    let bytes = bench.shape(&gateway, 1, Era::Modern).half_head(HALF_HEAD_BYTES);
    flood(bench, part, &gateway, (count, &bytes), report)
}

/// Memory while many large bodies are announced, of which little comes.
pub(super) fn bodies(bench: &Bench<'_>, part: Part, report: &mut Report) -> anyhow::Result<()> {
    let count = bench.options.streams;
    let gateway = bench.plain_gateway(&patient(count))?;
    let mut bytes = bench.shape(&gateway, 1, Era::Modern).announcement(BODY_ANNOUNCED_BYTES);
    bytes.resize(bytes.len() + BODY_SENT_BYTES, b' ');
    flood(bench, part, &gateway, (count, &bytes), report)
}

/// `count` connections that send `bytes` and then nothing: twice, because what is kept for use again shows only then.
fn flood(
    bench: &Bench<'_>,
    part: Part,
    gateway: &Gateway,
    (count, bytes): (u32, &[u8]),
    report: &mut Report,
) -> anyhow::Result<()> {
    bench.good(gateway, Duration::ZERO, WARMUP)?;
    bench.pause(SETTLED)?;
    let shape = bench.shape(gateway, 1, Era::Modern);
    let before = resident(gateway)?;
    report.add(part, "before", mib(before), "MiB", None);
    forget_peak(gateway)?;
    let mut left = Vec::new();
    for round in ["first", "second"] {
        let mut sockets = Vec::new();
        for number in 0..count {
            let mut socket = open(&shape, number)?;
            socket.write_all(bytes).context("sending")?;
            sockets.push(socket);
        }
        bench.pause(HELD)?;
        let held = resident(gateway)?;
        let open = sockets.iter().filter(|socket| is_open(socket)).count();
        report.add(part, &format!("{round}: connections let in"), open as f64, "", None);
        report.add(part, &format!("{round}: while they last"), mib(held), "MiB", None);
        report.add(part, &format!("{round}: each"), per(before, held, count), "KiB", None);
        drop(sockets);
        left.push(back(bench, gateway, before)?);
        report.add(part, &format!("{round}: afterwards"), mib(left[left.len() - 1]), "MiB", None);
    }
    report.add(part, "at most", mib(peak(gateway)?), "MiB", None);
    let percent = |now: u64, then: u64| 100.0 * now as f64 / then as f64;
    report.add(part, "afterwards, of before", percent(left[0], before), "%", Some(BACK_PERCENT_MAX));
    report.add(part, "second time, of first", percent(left[1], left[0]), "%", Some(BACK_PERCENT_MAX));
    // And it still serves.
    let good = bench.good(gateway, Duration::ZERO, WARMUP)?;
    if good.outcome.faults.total > 0 {
        bail!("good calls after the flood: {}", good.outcome.faults.describe());
    }
    Ok(())
}

/// Waits until memory is back, and says what it is then.
fn back(bench: &Bench<'_>, gateway: &Gateway, before: u64) -> anyhow::Result<u64> {
    let until = Instant::now() + BACK_MAX;
    loop {
        bench.pause(Duration::from_millis(500))?;
        let now = resident(gateway)?;
        if now as f64 <= before as f64 * BACK_PERCENT_MAX / 100.0 || Instant::now() > until {
            return Ok(now);
        }
    }
}

fn each(
    part: Part,
    what: &str,
    (before, after): (u64, u64),
    (count, open): (u32, usize),
    most: f64,
    report: &mut Report,
) -> anyhow::Result<()> {
    anyhow::ensure!(open == count as usize, "of {count} connections only {open} stayed open");
    report.add(part, what, per(before, after, count), "KiB", Some(most));
    report.add(part, "whole process", mib(after), "MiB", None);
    Ok(())
}
