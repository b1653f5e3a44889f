//! Many servers behind one endpoint: CPU time of a call by its prefixed name, against the same call at its server's own
//! endpoint, in turn; and of a list of all tools, a quarter of which the rules hide.

use std::fmt::Write as _;
use std::io::Write as _;
use std::net::TcpStream;
use std::sync::atomic::AtomicBool;

use anyhow::Context as _;
use serde_json::{Value, json};

use crate::cli::Merged;
use crate::measure::{Cpu, micros};
use crate::rig::bench::{self, Bench, PATIENCE, SERVING};
use crate::rig::figures::Figures;
use crate::rig::gateway::{self, Gateway, ISSUER};
use crate::traffic::{Era, Shape, Target};
use crate::{exchange, net};

use super::closed;

/// CPU time of a call at the merged endpoint, by that of the same call at the server's own.
const RATIO_MAX: f64 = 1.10;
pub(crate) const PATH: &str = "/mcp";
/// Connections that lists are asked for on, each of them after the others.
const READERS: usize = 16;

/// `loadtest merged`.
pub(crate) fn command(options: &Merged, stop: &AtomicBool) -> anyhow::Result<bool> {
    let turns = &options.turns;
    let settings = json!({
        "servers": options.servers,
        "tools": options.tools,
        "lists": options.lists,
        "connections": turns.connections,
        "repetitions": turns.repetitions,
        "seconds": turns.seconds,
    });
    let canned = [format!("--servers={}", options.servers), format!("--tools={}", options.tools - 1)];
    bench::measured(&options.stand, stop, &canned, ("merged", settings), |bench, figures| {
        let (gateway, shapes) = fleet(bench, options)?;
        for connections in &turns.connections {
            calls(bench, &gateway, options, (&shapes, *connections), figures)?;
        }
        (0..turns.repetitions).try_for_each(|_| lists(bench, &gateway, options, &shapes[1], figures))
    })
}

/// The gateway in front of all servers, and an echo of the last one at its own endpoint, and at the merged one.
fn fleet(bench: &Bench<'_>, options: &Merged) -> anyhow::Result<(Gateway, [Shape; 2])> {
    let (limits, sessions) = (Vec::new(), Vec::new());
    let setup = bench.setup(&limits, &sessions);
    let name = name(usize::from(options.servers) - 1);
    let own = format!("/s/{name}/mcp");
    let config = |base: &str, port| config(base, port, &bench.server_ports, options.tools);
    let mut gateway = gateway::start_as(&setup, bench.folder, &[&own, PATH], &config)?;
    let shape = |gateway: &Gateway, token: usize, path: &str, tool: String| Shape {
        target: Target::local(gateway.port, path),
        tool,
        token: gateway.tokens.get(token).cloned(),
        body_bytes: options.turns.body_bytes,
        ..bench.shape(gateway, Era::Modern)
    };
    let shapes = [shape(&gateway, 0, &own, "echo".to_owned()), shape(&gateway, 1, PATH, format!("{name}__echo"))];
    for shape in &shapes {
        bench.answers(&mut gateway, shape)?;
    }
    // All servers are known when all their tools are shown.
    let shown = shown(bench.server_ports.len(), options.tools);
    bench.until(&mut gateway, &mut || {
        let mut socket = net::connect(shapes[1].target.address, PATIENCE)?;
        let answer = exchange::exchange(&mut socket, &shapes[1].list())?;
        let list: Value = serde_json::from_slice(answer.body()).context("a list")?;
        let tools = list["result"]["tools"].as_array().map_or(0, Vec::len);
        anyhow::ensure!(tools == shown, "{tools} tools, not {shown}: {list:.300}");
        Ok(())
    })?;
    Ok((gateway, shapes))
}

fn calls(
    bench: &Bench<'_>,
    gateway: &Gateway,
    options: &Merged,
    (shapes, connections): (&[Shape; 2], u32),
    figures: &mut Figures,
) -> anyhow::Result<()> {
    let names = ["alone", "merged"];
    let mut order = [1, 0];
    for _ in 0..options.turns.repetitions {
        // Whoever was first is last next time.
        order.reverse();
        let mut cost = [0.0; 2];
        for which in order {
            let plan = closed(shapes[which].clone(), &options.turns, connections);
            let (micros, outcome) = bench.send(gateway, &plan)?;
            cost[which] = micros;
            let what = |what| format!("{connections} connections, {}: {what}", names[which]);
            figures.add(&what("shard threads"), micros, "µs/call", None);
            figures.add(&what("p50"), outcome.latency.quantile_us(0.5), "µs", None);
        }
        figures.add(&format!("{connections} connections: merged / alone"), cost[1] / cost[0], "", Some(RATIO_MAX));
    }
    Ok(())
}

/// All tools, again and again; each answer is the same as the first one.
fn lists(
    bench: &Bench<'_>,
    gateway: &Gateway,
    options: &Merged,
    shape: &Shape,
    figures: &mut Figures,
) -> anyhow::Result<()> {
    let request = shape.list();
    let connect = |_| net::connect(shape.target.address, PATIENCE).context("connecting");
    let mut sockets: Vec<TcpStream> = (0..READERS).map(connect).collect::<anyhow::Result<_>>()?;
    let mut round = |first: Option<&[u8]>| -> anyhow::Result<Vec<u8>> {
        for socket in &mut sockets {
            socket.write_all(&request).context("sending")?;
        }
        let mut last = Vec::new();
        for socket in &mut sockets {
            let answer = exchange::receive(socket)?;
            let same = answer.status() == 200 && first.is_none_or(|first| first == answer.body());
            anyhow::ensure!(same, "another list: status {}", answer.status());
            last = answer.body().to_vec();
        }
        Ok(last)
    };
    let first = round(None)?;
    let rounds = options.lists.div_ceil(u32::try_from(READERS)?);
    let pids = gateway.process.family();
    let before = Cpu::read(&pids, SERVING)?;
    for _ in 0..rounds {
        bench.pause(std::time::Duration::ZERO)?;
        round(Some(&first))?;
    }
    let used = Cpu::read(&pids, SERVING)?.since(&before).serving;
    let each = micros(used) / f64::from(rounds) / READERS as f64;
    let all = bench.server_ports.len() * options.tools as usize;
    let what = format!("tools/list, {} of {all} tools", shown(bench.server_ports.len(), options.tools));
    figures.add(&format!("{what}: shard threads"), each, "µs/list", None);
    figures.add(&format!("{what}: its body"), first.len() as f64, "bytes", None);
    Ok(())
}

pub(crate) fn name(server: usize) -> String {
    format!("server-{server:02}")
}

/// How many tools of a server are hidden: half a tool more than a quarter, half a tool less, in turn.
fn hidden(server: usize, tools: u32) -> u32 {
    (tools + u32::from(server % 2 == 1) * 2) / 4
}

/// How many tools of so many servers are shown.
pub(crate) fn shown(servers: usize, tools: u32) -> usize {
    (0..servers).map(|server| (tools - hidden(server, tools)) as usize).sum()
}

/// Each server at an endpoint of its own, and all at the merged one; a rule that permits each of them, and one for each
/// tool that is hidden. Paths in it start at its folder.
pub(crate) fn config(base: &str, port: u16, servers: &[u16], tools: u32) -> String {
    let mut out = format!(
        "listen: 127.0.0.1:{port}
public_url: {base}
shards: 1
admin: off
state: ./state
auth:
  issuers:
    - issuer: {ISSUER}
      jwks: {{ file: ./issuer.jwks.json }}
servers:
"
    );
    let names: Vec<String> = (0..servers.len()).map(name).collect();
    for (name, port) in names.iter().zip(servers) {
        // Writing to a String cannot fail.
        let _ = writeln!(out, "  {name}: {{ url: \"http://127.0.0.1:{port}/mcp\" }}");
    }
    let _ = writeln!(out, "endpoints:\n  {PATH}: {{ servers: [{}], names: prefix }}", names.join(", "));
    out.push_str("policy:\n  tasks:\n    load: What the load generator works on.\n  rules:\n");
    for (server, name) in names.iter().enumerate() {
        let _ = writeln!(out, "    - id: {name}\n      permit: [{name}/*]\n      tasks: [load]");
        for tool in 0..hidden(server, tools) {
            let _ = writeln!(out, "    - id: {name}-{tool:04}\n      forbid: [{name}/tool-{tool:04}]");
        }
    }
    out.push_str("audit:\n  dir: ./audit\n");
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn three_quarters_are_shown() {
        assert_eq!(shown(20, 50), 750);
        assert_eq!((hidden(0, 50), hidden(1, 50)), (12, 13));
        // `echo` is never among the hidden.
        assert!((1..=100).all(|tools| hidden(0, tools) < tools && hidden(1, tools) < tools));
    }

    #[test]
    fn a_server_each_and_a_rule_for_what_is_hidden() {
        let text = config("http://x", 1, &[7, 8, 9], 50);
        assert!(text.contains("  server-02: { url: \"http://127.0.0.1:9/mcp\" }\n"), "{text}");
        assert!(text.contains("  /mcp: { servers: [server-00, server-01, server-02], names: prefix }\n"), "{text}");
        assert_eq!(text.matches("permit: ").count(), 3);
        assert_eq!(text.matches("forbid: ").count(), 12 + 13 + 12);
    }
}
