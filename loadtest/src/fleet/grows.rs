//! What a call costs where there is more of everything: rules, tools, servers, sessions, idle streams; CPU time of the
//! serving threads against a gateway that has little, in turn. Nothing of it should be seen.

use std::fmt::Write as _;
use std::net::TcpStream;
use std::sync::atomic::AtomicBool;

use serde_json::json;

use crate::cli::Grows;
use crate::lasting::streams::{all_open, bounds, sessions_of, streams_of};
use crate::rig::bench::{self, Bench, Bounds};
use crate::rig::figures::Figures;
use crate::rig::gateway::{self, Gateway, Setup};
use crate::rig::held::SETTLED;
use crate::rig::process::Process;
use crate::traffic::{Era, Shape};

use super::closed;

/// A call where there is more, by one where there is little.
const RATIO_MAX: f64 = 1.05;
/// The same beside idle streams.
const STREAMS_RATIO_MAX: f64 = 1.10;

/// One gateway: what it has.
struct Point {
    name: &'static str,
    rules: u32,
    /// Of its server, beside `echo`.
    tools: u32,
    servers: u16,
    sessions: u32,
    streams: u32,
    max: f64,
}

const LITTLE: Point =
    Point { name: "little", rules: 100, tools: 20, servers: 1, sessions: 0, streams: 0, max: RATIO_MAX };

const MORE: [Point; 9] = [
    Point { name: "1,000 rules", rules: 1_000, ..LITTLE },
    Point { name: "10,000 rules", rules: 10_000, ..LITTLE },
    Point { name: "200 tools", tools: 200, ..LITTLE },
    Point { name: "2,000 tools", tools: 2_000, ..LITTLE },
    Point { name: "10 servers", servers: 10, ..LITTLE },
    Point { name: "100 servers", servers: 100, ..LITTLE },
    Point { name: "1,000 sessions", sessions: 1_000, ..LITTLE },
    Point { name: "10,000 sessions", sessions: 10_000, ..LITTLE },
    Point { name: "9,000 idle streams", streams: 9_000, max: STREAMS_RATIO_MAX, ..LITTLE },
];

/// A gateway of such a point, and what it holds.
struct Running {
    gateway: Gateway,
    streams: Vec<TcpStream>,
    /// Ends with it.
    _servers: Process,
}

/// `loadtest grows`.
pub(crate) fn command(options: &Grows, stop: &AtomicBool) -> anyhow::Result<bool> {
    let turns = &options.turns;
    let settings = json!({
        "connections": turns.connections,
        "repetitions": turns.repetitions,
        "seconds": turns.seconds,
    });
    bench::measured(&options.stand, stop, &[], ("grows", settings), |bench, figures| {
        let little = start(bench, &LITTLE)?;
        for point in &MORE {
            // One at a time: what others hold must not be what is measured.
            let more = start(bench, point)?;
            for connections in &turns.connections {
                measure(bench, [&little, &more], point, (options, *connections), figures)?;
            }
            all_open(&more.streams)?;
        }
        Ok(())
    })
}

fn start(bench: &Bench<'_>, point: &Point) -> anyhow::Result<Running> {
    let canned = [format!("--tools={}", point.tools), format!("--servers={}", point.servers), "--streams".to_owned()];
    let (servers, ports) = crate::rig::canned_ports(&canned, bench::cores(bench.stand), bench.folder)?;
    let (limits, sessions) = if point.sessions + point.streams > 0 {
        bounds(point.sessions + point.streams)
    } else {
        (Bounds::new(), Bounds::new())
    };
    let setup = Setup { rules: point.rules, ..bench.setup(&limits, &sessions) };
    let mut others = String::from("servers:\n");
    for (number, port) in ports.iter().enumerate().skip(1) {
        // Writing to a String cannot fail.
        let _ = writeln!(others, "  other-{number:03}:\n    url: http://127.0.0.1:{port}/mcp");
    }
    let config = |base: &str, port| gateway::config(&setup, base, port, ports[0]).replacen("servers:\n", &others, 1);
    let mut gateway = gateway::start_as(&setup, bench.folder, &[gateway::PATH], &config)?;
    let modern = bench.shape(&gateway, Era::Modern);
    bench.answers(&mut gateway, &modern)?;
    let shape = bench.shape(&gateway, Era::Legacy);
    let ids = sessions_of(bench, &shape, point.sessions + point.streams)?;
    let streams = if point.streams > 0 { streams_of(bench, &shape, &ids, 0)? } else { Vec::new() };
    // Its servers have been looked at, and what only opening takes has been let go of.
    bench.pause(SETTLED)?;
    Ok(Running { gateway, streams, _servers: servers })
}

fn measure(
    bench: &Bench<'_>,
    both: [&Running; 2],
    point: &Point,
    (options, connections): (&Grows, u32),
    figures: &mut Figures,
) -> anyhow::Result<()> {
    let turns = &options.turns;
    let mut order = [1, 0];
    for _ in 0..turns.repetitions {
        // Whoever was first is last next time.
        order.reverse();
        let mut cost = [0.0; 2];
        for which in order {
            let gateway = &both[which].gateway;
            let shape = Shape { body_bytes: turns.body_bytes, ..bench.shape(gateway, Era::Modern) };
            cost[which] = bench.send(gateway, &closed(shape, turns, connections))?.0;
        }
        let name = point.name;
        figures.add(&format!("{connections} connections, {name}: shard threads"), cost[1], "µs/call", None);
        let ratio = cost[1] / cost[0];
        figures.add(&format!("{connections} connections: {name} / {}", LITTLE.name), ratio, "", Some(point.max));
    }
    Ok(())
}
