//! What good calls cost, and how long they take, beside what others do at the same time.

use std::time::{Duration, Instant};

use crate::exchange;
use crate::measure::Cpu;
use crate::rig::gateway::Gateway;
use crate::traffic::{Calls, Era};

use super::report::Report;
use super::storm::{Storm, Tally};
use super::{Bench, Good, PATIENCE, Part};

/// Before good calls are measured beside a flood: the burst of verifications is over by then, and slow connections
/// have been ended and made anew.
const SETTLED: Duration = Duration::from_secs(2);
const P99_RATIO_MAX: f64 = 3.0;
pub(super) const VERIFY_PERCENT_MAX: f64 = 5.0;
/// Tokens verified one by one to see what one costs.
pub(super) const TRIED: u32 = 300;
/// The share of a subject where it is to be exceeded.
const SHARE: u32 = 16;
/// The share of an address where it is to be exceeded.
const ADDRESS_SHARE: u32 = 64;
const BODY_BYTES: usize = 1 << 20;

/// Beside connections that trickle.
pub(super) fn beside_slow(bench: &Bench<'_>, part: Part, report: &mut Report) -> anyhow::Result<()> {
    let gateway = bench.plain_gateway(&[])?;
    let shape = bench.shape(&gateway, 1, Era::Modern);
    let opening = if part == Part::SlowHeads { shape.half_head(0) } else { shape.announcement(BODY_BYTES) };
    let (address, count) = (shape.target.address, bench.options.idle);
    beside(bench, part, &gateway, &mut || Storm::slow(address, count, opening.clone(), b' '), report)?;
    Ok(())
}

/// Beside tokens that must be verified, and fail.
pub(super) fn beside_bad_tokens(bench: &Bench<'_>, part: Part, report: &mut Report) -> anyhow::Result<()> {
    let gateway = bench.plain_gateway(&[])?;
    let cost = verification(bench, &gateway)?;
    report.add(part, "one verification", cost / 1e3, "µs of CPU", None);
    let (address, connections) = (bench.shape(&gateway, 1, Era::Modern).target.address, bench.options.connections);
    let mut forged = Forged::new(bench, &gateway)?;
    // It must not begin with the tokens of the trial, which differ anyway.
    forged.calls = Calls::new();
    let mut forged = Some(forged);
    let mut start = || {
        let mut forged = forged.take().ok_or_else(|| anyhow::anyhow!("it starts once"))?;
        Storm::requests(address, connections, move |out| forged.write(out))
    };
    let (tally, _, time) = beside(bench, part, &gateway, &mut start, report)?;
    let seconds = time.as_secs_f64();
    let verified = tally.of(401) as f64 / seconds;
    report.add(part, "tokens verified", verified, "/s", None);
    report.add(part, "answered 503 unverified", tally.of(503) as f64 / seconds, "/s", None);
    report.add(part, "verification, of the shard's time", verified * cost / 1e7, "%", Some(VERIFY_PERCENT_MAX));
    Ok(())
}

/// Beside a subject that asks for more than its share.
pub(super) fn beside_greed(bench: &Bench<'_>, part: Part, report: &mut Report) -> anyhow::Result<()> {
    let gateway = bench.plain_gateway(&[("calls_per_subject", SHARE.max(bench.options.connections).to_string())])?;
    others(bench, part, &gateway, 16 * SHARE, report)
}

/// Beside an address that opens connection after connection.
pub(super) fn beside_address(bench: &Bench<'_>, part: Part, report: &mut Report) -> anyhow::Result<()> {
    let share = ADDRESS_SHARE.max(bench.options.connections + 8);
    let gateway = bench.plain_gateway(&[("connections_per_address", share.to_string())])?;
    let address = bench.shape(&gateway, 1, Era::Modern).target.address;
    let (tally, _, time) = beside(bench, part, &gateway, &mut || Storm::connections(address, share), report)?;
    let turned = tally.all() as f64 / time.as_secs_f64();
    report.add(part, "connections turned away", turned, "/s", None);
    report.add(part, "connections let in too many", tally.reopened as f64, "", Some(0.0));
    Ok(())
}

/// Beside another caller with many connections, all within its rights.
pub(super) fn beside_neighbour(bench: &Bench<'_>, part: Part, report: &mut Report) -> anyhow::Result<()> {
    let gateway = bench.plain_gateway(&[])?;
    others(bench, part, &gateway, bench.options.neighbour, report)
}

/// Beside good calls of the other subject.
fn others(
    bench: &Bench<'_>,
    part: Part,
    gateway: &Gateway,
    connections: u32,
    report: &mut Report,
) -> anyhow::Result<()> {
    let shape = bench.shape(gateway, 1, Era::Modern);
    let address = shape.target.address;
    let mut start = || {
        let template = shape.call(None)?;
        let mut calls = Calls::new();
        Storm::requests(address, connections, move |out| {
            if let Some(call) = calls.next() {
                template.write(call, out);
            }
        })
    };
    let (tally, _, time) = beside(bench, part, gateway, &mut start, report)?;
    let rate = |count: u64| count as f64 / time.as_secs_f64();
    report.add(part, "the other's calls answered", rate(tally.of(200)), "/s", None);
    report.add(part, "the other's calls refused (429, 503)", rate(tally.of(429) + tally.of(503)), "/s", None);
    Ok(())
}

/// Good calls without and with a flood; what the flood was answered while they were measured, and how long that was.
pub(super) fn beside(
    bench: &Bench<'_>,
    part: Part,
    gateway: &Gateway,
    start: &mut dyn FnMut() -> anyhow::Result<Storm>,
    report: &mut Report,
) -> anyhow::Result<(Tally, Good, Duration)> {
    let alone = bench.good(gateway, Duration::from_millis(500), bench.window())?;
    said(part, "alone", &alone, report);
    let storm = start()?;
    bench.pause(SETTLED)?;
    storm.tally();
    let pids = gateway.process.family();
    let (began, before) = (Instant::now(), Cpu::read(&pids, "shard-")?);
    bench.pause(Duration::from_secs(1))?;
    let busy = Cpu::read(&pids, "shard-")?.since(&before).serving as f64 / began.elapsed().as_nanos() as f64;
    report.add(part, "shard thread, flood alone", 100.0 * busy, "% of a core", None);
    storm.tally();
    let began = Instant::now();
    let good = bench.good(gateway, Duration::from_millis(500), bench.window())?;
    let (tally, time) = (storm.tally(), began.elapsed());
    said(part, "beside", &good, report);
    let ratio =
        |quantile: f64| good.outcome.latency.quantile_us(quantile) / alone.outcome.latency.quantile_us(quantile);
    report.add(part, "p50, beside / alone", ratio(0.5), "", None);
    let goal = matches!(part, Part::Neighbour).then_some(P99_RATIO_MAX);
    report.add(part, "p99, beside / alone", ratio(0.99), "", goal);
    for (status, count) in &tally.answers {
        report.add(part, &format!("flood answered {status}"), *count as f64, "", None);
    }
    report.add(part, "flood's connections made anew", tally.reopened as f64, "", None);
    storm.end()?;
    Ok((tally, good, time))
}

fn said(part: Part, when: &str, good: &Good, report: &mut Report) {
    let Good { outcome, cpu } = good;
    if outcome.faults.total > 0 {
        report
            .fault(part, format!("good calls {when}: {} faults: {}", outcome.faults.total, outcome.faults.describe()));
    }
    let window = outcome.window.as_nanos() as f64;
    report.add(part, &format!("{when}: good calls"), outcome.calls_per_second(), "/s", None);
    report.add(part, &format!("{when}: p50"), outcome.latency.quantile_us(0.5), "µs", None);
    report.add(part, &format!("{when}: p99"), outcome.latency.quantile_us(0.99), "µs", None);
    report.add(part, &format!("{when}: shard thread"), 100.0 * cpu.serving as f64 / window, "% of a core", None);
    let each = cpu.serving as f64 / 1e3 / outcome.in_window.max(1) as f64;
    report.add(part, &format!("{when}: shard thread, by good call"), each, "µs", None);
}

/// CPU time of one verification, nanoseconds: of a wrong signature, less that of one that is too short to be tried.
fn verification(bench: &Bench<'_>, gateway: &Gateway) -> anyhow::Result<f64> {
    let pids = gateway.process.family();
    let mut forged = Forged::new(bench, gateway)?;
    let mut socket = crate::net::connect(bench.shape(gateway, 0, Era::Modern).target.address, PATIENCE)?;
    let mut cost = |short: bool| {
        forged.short = short;
        let mut request = Vec::new();
        let before = Cpu::read(&pids, "shard-")?;
        for _ in 0..TRIED {
            request.clear();
            forged.write(&mut request);
            let answer = exchange::exchange(&mut socket, &request)?;
            anyhow::ensure!(answer.status() == 401, "a forged token was answered {}", answer.status());
        }
        anyhow::Ok(Cpu::read(&pids, "shard-")?.since(&before).serving as f64 / f64::from(TRIED))
    };
    let (short, whole) = (cost(true)?, cost(false)?);
    Ok((whole - short).max(0.0))
}

/// Calls with tokens that are right but for their signature, each with another one.
struct Forged {
    before: Vec<u8>,
    after: Vec<u8>,
    calls: Calls,
    /// A signature of half its length: refused without a try.
    short: bool,
}

impl Forged {
    fn new(bench: &Bench<'_>, gateway: &Gateway) -> anyhow::Result<Self> {
        let bytes = bench.shape(gateway, 0, Era::Modern).call(None)?.bytes;
        let token = gateway.tokens.first().map_or("", String::as_str);
        Self::cut(&bytes, token).ok_or_else(|| anyhow::anyhow!("a call carries no token to forge"))
    }

    /// What stands before and behind the signature of `token` in a request.
    fn cut(request: &[u8], token: &str) -> Option<Self> {
        let dot = token.rfind('.')?;
        let at = memchr::memmem::find(request, token.as_bytes())?;
        let (before, after) = (request[..=at + dot].to_vec(), request[at + token.len()..].to_vec());
        Some(Self { before, after, calls: Calls::new(), short: false })
    }

    fn write(&mut self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.before);
        let start = out.len();
        // 64 bytes of an ES256 signature (RFC 7518, 3.4) in base64url: 86 characters, the last of which has four
        // bits that must be zero.
        for call in self.calls.by_ref().take(5) {
            out.extend_from_slice(&call.value_digits());
        }
        out.extend_from_slice(b"aaaaaA");
        if self.short {
            out.truncate(start + 44);
        }
        out.extend_from_slice(&self.after);
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn forged_tokens_differ_in_nothing_but_their_signature() {
        let token = format!("aGVhZA.Ym9keQ.{}", "s".repeat(86));
        let request = format!("POST / HTTP/1.1\r\nAuthorization: Bearer {token}\r\nX: y\r\n\r\nbody");
        let mut forged = Forged::cut(request.as_bytes(), &token).expect("a token");
        let mut seen = HashSet::new();
        for _ in 0..1_000 {
            let mut out = Vec::new();
            forged.write(&mut out);
            assert_eq!(out.len(), request.len());
            let text = String::from_utf8(out).expect("ASCII");
            let (head, rest) = text.split_once("Bearer aGVhZA.Ym9keQ.").expect("the same beginning");
            assert_eq!(head, "POST / HTTP/1.1\r\nAuthorization: ");
            let (signature, rest) = rest.split_at(86);
            assert_eq!(rest, "\r\nX: y\r\n\r\nbody");
            assert!(signature.bytes().all(|byte| byte.is_ascii_alphanumeric()) && signature.ends_with('A'));
            assert!(seen.insert(signature.to_owned()), "each is another one");
        }
        forged.short = true;
        let mut out = Vec::new();
        forged.write(&mut out);
        assert_eq!(out.len(), request.len() - 42);
        assert!(Forged::cut(b"no token here", &token).is_none());
    }
}
