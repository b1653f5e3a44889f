//! What connections cost in memory. All figures are of the gateway's process (its resident set), not of the kernel,
//! whose sockets cost some KiB each besides.

use std::fs;
use std::io::{ErrorKind, Read as _, Write as _};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};

use crate::rig::gateway::Gateway;
use crate::traffic::{Era, Shape};
use crate::{exchange, net};

use super::report::Report;
use super::secure::{self, Trust};
use super::{Bench, PATIENCE, Part, WARMUP, ask, wait_for};

/// After so long a connection without a request has let go of what it does not need.
const SETTLED: Duration = Duration::from_secs(2);
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
        ask(&mut |request| secure::exchange(&mut stream, request), &template)?;
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

/// Bounds that let many connections of few addresses and one subject in, and leave them time.
fn patient(count: u32) -> Vec<(&'static str, String)> {
    let counts = ["connections_per_address", "calls_per_subject", "streams_per_subject"];
    let mut limits: Vec<_> = counts.into_iter().map(|name| (name, (count + 64).to_string())).collect();
    limits.extend(["idle", "head", "body_time"].map(|name| (name, "10m".to_owned())));
    limits
}

fn open(shape: &Shape, number: u32) -> anyhow::Result<TcpStream> {
    let source = u8::try_from(1 + number % 16).unwrap_or(1);
    net::connect_from(source, shape.target.address, PATIENCE).with_context(|| format!("connection {}", number + 1))
}

fn session(shape: &Shape, socket: &mut TcpStream) -> anyhow::Result<String> {
    let answer = exchange::exchange(socket, &shape.initialize()).context("initialize")?;
    let session = answer.session().map(str::to_owned).context("initialize gave no session")?;
    exchange::exchange(socket, &shape.initialized(Some(&session))).context("initialized")?;
    Ok(session)
}

/// The stream's head has come, and of a subscription its acknowledgement.
fn begun(socket: &mut TcpStream, era: Era) -> anyhow::Result<()> {
    let mut seen = Vec::new();
    let mut piece = [0; 2048];
    let has = |seen: &[u8], text: &str| memchr::memmem::find(seen, text.as_bytes()).is_some();
    while !has(&seen, "\r\n\r\n") || (era == Era::Modern && has(&seen, " 200 ") && !has(&seen, "acknowledged")) {
        match socket.read(&mut piece).context("waiting for a stream")? {
            0 => bail!("the connection ended before the stream began"),
            read => seen.extend_from_slice(&piece[..read]),
        }
    }
    anyhow::ensure!(has(&seen, "text/event-stream"), "no stream: {}", String::from_utf8_lossy(&seen));
    Ok(())
}

/// Whether the gateway has not ended it.
pub(super) fn is_open(socket: &TcpStream) -> bool {
    let mut byte = [0];
    if socket.set_nonblocking(true).is_err() {
        return false;
    }
    match socket.peek(&mut byte) {
        Ok(read) => read > 0,
        Err(error) => error.kind() == ErrorKind::WouldBlock,
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

/// KiB more for each of `count`.
fn per(before: u64, after: u64, count: u32) -> f64 {
    after.saturating_sub(before) as f64 / 1024.0 / f64::from(count.max(1))
}

fn mib(bytes: u64) -> f64 {
    bytes as f64 / f64::from(1 << 20)
}

/// Resident bytes, counted exactly.
fn resident(gateway: &Gateway) -> anyhow::Result<u64> {
    field(gateway, "smaps_rollup", "Rss:")
}

/// The most resident bytes since [`forget_peak`].
fn peak(gateway: &Gateway) -> anyhow::Result<u64> {
    field(gateway, "status", "VmHWM:")
}

fn forget_peak(gateway: &Gateway) -> anyhow::Result<()> {
    fs::write(format!("/proc/{}/clear_refs", pid(gateway)), "5").context("the peak cannot be forgotten")
}

fn pid(gateway: &Gateway) -> u32 {
    gateway.process.family()[0]
}

fn field(gateway: &Gateway, file: &str, name: &str) -> anyhow::Result<u64> {
    let path = format!("/proc/{}/{file}", pid(gateway));
    let text = fs::read_to_string(&path).with_context(|| format!("cannot read {path}"))?;
    kib(&text, name).with_context(|| format!("{path} has no {name}"))
}

/// The bytes of a line such as `Rss:     1234 kB`.
fn kib(text: &str, name: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(name))?;
    line.trim().strip_suffix(" kB")?.trim().parse::<u64>().ok()?.checked_mul(1024)
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    #[test]
    fn lines_of_proc() {
        let text = "Name:\tx\nVmHWM:\t    2048 kB\nVmRSS:\t 10 kB\nRss:   7 kB\nOdd: 7\n";
        assert_eq!(kib(text, "VmHWM:"), Some(2 << 20));
        assert_eq!(kib(text, "Rss:"), Some(7 << 10));
        assert_eq!(kib(text, "Odd:"), None);
        assert_eq!(kib(text, "Gone:"), None);
    }

    #[test]
    fn shares() {
        assert!((per(1 << 20, 3 << 20, 1024) - 2.0).abs() < 1e-9);
        assert!(per(2 << 20, 1 << 20, 10).abs() < 1e-9, "less is nothing, not much");
        assert!((mib(3 << 19) - 1.5).abs() < 1e-9);
    }

    #[test]
    fn an_end_is_seen() {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("an address");
        let client = net::connect_from(3, address, PATIENCE).expect("a connection");
        let (mut server, peer) = listener.accept().expect("a connection");
        assert_eq!(peer.ip().to_string(), "127.0.1.3");
        assert!(is_open(&client));
        server.write_all(b"x").expect("it is open");
        drop(server);
        client.set_nonblocking(false).expect("a socket");
        let mut bytes = Vec::new();
        (&client).read_to_end(&mut bytes).expect("an end");
        assert!(!is_open(&client));
    }
}
