//! What telemetry and credentials cost a call: CPU time of the serving threads with all of it off, and with metrics, 1 %
//! traces and what servers are shown, in turn; and what the gateway's other threads use for it.

use std::sync::atomic::AtomicBool;
use std::time::Duration;

use serde_json::json;

use crate::cli::Extras;
use crate::exchange;
use crate::generator::Plan;
use crate::measure::micros;
use crate::rig::TOOLS;
use crate::rig::bench::{self, Bench, PATIENCE};
use crate::rig::figures::Figures;
use crate::rig::gateway::{self, Gateway, Setup};
use crate::rig::sink::Sink;
use crate::traffic::{Era, Shape};

use super::closed;

/// A call with anything of it on, by one with all of it off.
const RATIO_MAX: f64 = 1.05;
/// Of a million traces, so many are recorded.
const TRACES_PPM: u64 = 10_000;
/// Before a figure is believed, so long for spans to come: the gateway sends them by time.
const SPANS_COME: Duration = Duration::from_secs(4);
/// A recorded call has a span of its own, and one of the server's call.
const SPANS_EACH: u64 = 2;
/// Threads that telemetry alone has.
const TELEMETRY: [&str; 2] = ["plane-spans", "plane-otlp"];

/// One gateway: its name, whether it has telemetry, and what its server is shown.
struct Point {
    name: &'static str,
    telemetry: bool,
    shown: Shown,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Shown {
    Nothing,
    Bearer,
    Claims,
    Exchanged,
}

const POINTS: [Point; 5] = [
    Point { name: "all off", telemetry: false, shown: Shown::Nothing },
    Point { name: "telemetry", telemetry: true, shown: Shown::Nothing },
    Point { name: "telemetry, a fixed bearer", telemetry: true, shown: Shown::Bearer },
    Point { name: "telemetry, told claims", telemetry: true, shown: Shown::Claims },
    Point { name: "telemetry, exchanged tokens", telemetry: true, shown: Shown::Exchanged },
];

/// A gateway under way, and whom it talks to.
struct Measured {
    gateway: Gateway,
    sink: Sink,
    /// Calls that it has answered.
    calls: u64,
}

/// `loadtest extras`.
pub(crate) fn command(options: &Extras, stop: &AtomicBool) -> anyhow::Result<bool> {
    let turns = &options.turns;
    let settings = json!({
        "callers": options.callers,
        "each_connection_keeps_to_one": options.stay,
        "connections": turns.connections,
        "repetitions": turns.repetitions,
        "seconds": turns.seconds,
        "rules": options.stand.rules,
    });
    let canned = [format!("--tools={TOOLS}")];
    bench::measured(&options.stand, stop, &canned, ("extras", settings), |bench, figures| {
        let start = |point| start(bench, options, point);
        let mut gateways = POINTS.iter().map(start).collect::<anyhow::Result<Vec<_>>>()?;
        for connections in &turns.connections {
            measure(bench, &mut gateways, options, *connections, figures)?;
        }
        bench.pause(SPANS_COME)?;
        POINTS.iter().zip(&gateways).try_for_each(|(point, measured)| came(point, measured, figures))
    })
}

fn start(bench: &Bench<'_>, options: &Extras, point: &Point) -> anyhow::Result<Measured> {
    let (limits, sessions) = (Vec::new(), Vec::new());
    let callers: Vec<String> = (0..options.callers).map(|number| format!("caller-{number:03}")).collect();
    let callers: Vec<&str> = callers.iter().map(String::as_str).collect();
    let setup = Setup { subjects: &callers, ..bench.setup(&limits, &sessions) };
    let (server, sink) = (bench.server_ports[0], Sink::start()?);
    let line = format!("    url: http://127.0.0.1:{server}/mcp\n");
    let config = |base: &str, port| {
        let shown = format!("{line}{}", point.shown.config(sink.port));
        let mut text = gateway::config(&setup, base, port, server).replacen(&line, &shown, 1);
        if point.telemetry {
            text.push_str(&telemetry(sink.port));
        }
        text
    };
    let mut gateway = gateway::start_as(&setup, bench.folder, &[gateway::PATH], &config)?;
    // One call of each caller: its token is verified, and exchanged where it is.
    for token in gateway.tokens.clone() {
        let shape = Shape { token: Some(token), ..bench.shape(&gateway, Era::Modern) };
        bench.answers(&mut gateway, &shape)?;
    }
    let calls = u64::from(options.callers);
    Ok(Measured { gateway, sink, calls })
}

impl Shown {
    /// Lines of the server.
    fn config(self, port: u16) -> String {
        match self {
            Self::Nothing => String::new(),
            Self::Bearer => {
                let token = "0123456789abcdef".repeat(40);
                format!("    credentials: {{ bearer: \"{token}\" }}\n")
            }
            Self::Claims => "    identity_headers: { X-User: subject, X-Agent: agent, X-Task: task }\n".to_owned(),
            Self::Exchanged => format!(
                "    credentials:
      exchange:
        token_url: http://127.0.0.1:{port}/token
        client_id: loadtest
        client_secret: loadtest
        audience: canned
        private: [127.0.0.0/8]
"
            ),
        }
    }
}

/// Metrics every second, so that each window has its push.
fn telemetry(port: u16) -> String {
    let traces = TRACES_PPM as f64 / 1e6;
    format!("telemetry:\n  otlp: {{ url: \"http://127.0.0.1:{port}\", interval: 1s }}\n  traces: {traces}\n")
}

fn measure(
    bench: &Bench<'_>,
    gateways: &mut [Measured],
    options: &Extras,
    connections: u32,
    figures: &mut Figures,
) -> anyhow::Result<()> {
    let turns = &options.turns;
    let mut order: Vec<usize> = (0..gateways.len()).collect();
    for _ in 0..turns.repetitions {
        // Whoever was first is last next time.
        order.reverse();
        let mut cost = [[0.0; 2]; POINTS.len()];
        for &which in &order {
            let what = |what: &str| format!("{connections} connections, {}: {what}", POINTS[which].name);
            let measured = &mut gateways[which];
            let plan = plan(bench, measured, options, connections);
            let (before, tokens) = (exchange::reached(bench.server_ports[0])?, measured.sink.tokens());
            let (used, outcome) = bench.send_counted(&measured.gateway, &plan)?;
            let after = exchange::reached(bench.server_ports[0])?;
            let arrived = after.calls - before.calls;
            anyhow::ensure!(arrived == outcome.answered, "{} calls, {arrived} arrived", outcome.answered);
            let shown = if POINTS[which].shown == Shown::Nothing { 0 } else { arrived };
            let seen = after.shown - before.shown;
            anyhow::ensure!(seen == shown, "{}: {seen} of {arrived} calls said who calls", POINTS[which].name);
            let fetched = measured.sink.tokens() - tokens;
            anyhow::ensure!(fetched == 0, "{fetched} tokens were fetched in the time measured");
            measured.calls += arrived;
            let each = |nanos: u64| micros(nanos) / outcome.in_window as f64;
            cost[which] = [each(used.serving), each(used.whole)];
            figures.add(&what("shard threads"), cost[which][0], "µs/call", None);
            figures.add(&what("other threads"), cost[which][1] - cost[which][0], "µs/call", None);
            if POINTS[which].telemetry {
                let own = TELEMETRY.iter().filter_map(|name| used.threads.get(*name)).sum();
                figures.add(&what("of them telemetry's"), each(own), "µs/call", None);
                figures.add(
                    &what("telemetry's, of a core"),
                    100.0 * own as f64 / outcome.window.as_nanos() as f64,
                    "%",
                    None,
                );
            }
            figures.add(&what("p50"), outcome.latency.quantile_us(0.5), "µs", None);
            // One of them asked how many there were.
            figures.add(
                &what("new connections to the server"),
                (after.connections - before.connections - 1) as f64,
                "",
                None,
            );
        }
        for (point, [serving, whole]) in POINTS.iter().zip(cost).skip(1) {
            let what = format!("{connections} connections: {} / {}", point.name, POINTS[0].name);
            figures.add(&what, serving / cost[0][0], "", Some(RATIO_MAX));
            figures.add(&format!("{what}, whole process"), whole / cost[0][1], "", None);
        }
    }
    Ok(())
}

fn plan(bench: &Bench<'_>, measured: &Measured, options: &Extras, connections: u32) -> Plan {
    let shape = Shape { body_bytes: options.turns.body_bytes, ..bench.shape(&measured.gateway, Era::Modern) };
    let mut plan = closed(shape, &options.turns, connections);
    plan.tokens = measured.gateway.tokens.clone();
    plan.stay = options.stay;
    plan.timeout = PATIENCE;
    plan
}

/// Everything came that was to come: else there was nothing to measure.
fn came(point: &Point, measured: &Measured, figures: &mut Figures) -> anyhow::Result<()> {
    let Measured { sink, calls, .. } = measured;
    anyhow::ensure!(sink.odd() == 0, "{}: {} requests that nobody expected", point.name, sink.odd());
    let (spans, metrics, tokens) = (sink.spans(), sink.metrics(), sink.tokens());
    let expected = calls * TRACES_PPM * SPANS_EACH / 1_000_000;
    let right = if point.telemetry { spans > expected / 2 && spans < expected * 2 } else { spans == 0 };
    anyhow::ensure!(right, "{}: {spans} spans came of {calls} calls", point.name);
    anyhow::ensure!(point.telemetry == (metrics > 0), "{}: metrics came {metrics} times", point.name);
    let exchanged = point.shown == Shown::Exchanged;
    anyhow::ensure!(exchanged == (tokens > 0), "{}: {tokens} tokens were fetched", point.name);
    if point.telemetry {
        figures.add(
            &format!("{}: spans that came, of calls", point.name),
            100.0 * spans as f64 / *calls as f64,
            "%",
            None,
        );
        figures.add(&format!("{}: pushes of metrics", point.name), metrics as f64, "", None);
    }
    if exchanged {
        figures.add(&format!("{}: tokens fetched", point.name), tokens as f64, "", None);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_on() {
        assert!(telemetry(7).ends_with("\n  traces: 0.01\n"), "{}", telemetry(7));
        assert!(Shown::Exchanged.config(7).contains("token_url: http://127.0.0.1:7/token\n"));
        assert!(Shown::Nothing.config(7).is_empty());
        assert!(
            !POINTS[0].telemetry && POINTS[0].shown == Shown::Nothing,
            "the first one is what others are divided by"
        );
    }
}
