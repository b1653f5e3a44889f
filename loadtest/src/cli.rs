//! The command line.

use std::net::IpAddr;
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

use crate::agents::Fleet;
use crate::compare::scene::{Rival, Scene};
use crate::floods::Part;
use crate::traffic::Era;

/// Load for MCP gateways: every answer is checked against its request, and CPU time is counted beside latency.
#[derive(Debug, Parser)]
#[command(name = "loadtest", version, disable_help_subcommand = true)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) verb: Verb,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Verb {
    /// Send `tools/call` to an MCP endpoint and print what came of it as JSON.
    Run(Run),
    /// Be a canned MCP server with an `echo` tool, for gateways to forward to.
    Upstream(Upstream),
    /// Run nginx, HAProxy, a bare hop and Portcullis on the same traffic, in turn, and compare CPU time per call.
    Compare(Compare),
    /// Start Portcullis, do to it what an attacker or a thoughtless client does, and say what that costs.
    Floods(Floods),
    /// Open many sessions, and say what they cost in memory and how long a restart with them takes.
    Sessions(Sessions),
    /// Open many event streams of sessions, and say what they cost in memory: both halves, and the client's alone.
    Streams(Streams),
    /// CPU time of a call in a session against that of a modern one, in turn.
    Legacy(Legacy),
    /// Many servers behind one endpoint: CPU time of a call there against the same call at its server's own, in turn, and
    /// of a filtered list of all tools.
    Merged(Merged),
    /// Give a gateway with many rules new configurations while it serves: how long that takes, and what calls notice.
    Reload(Reload),
    /// What rules cost a call: one, 100, 10,000, a condition, limits.
    Rules(Rules),
    /// Whether a call costs more where there are 10 and 100 times the rules, tools, servers and sessions, or many idle
    /// streams.
    Grows(Grows),
    /// What telemetry and credentials cost a call: metrics and 1 % traces, a fixed bearer, told claims, exchanged tokens.
    Extras(Extras),
    /// Be a fleet of agents for a while: sessions, pauses, event streams, tokens that expire. On a schedule that waits for no
    /// answer; with a report as HTML, and an exit code that says whether the objectives held.
    Fleet(Box<Fleet>),
    /// CPU time of a call through two builds of the gateway with one configuration, in turn.
    Builds(Builds),
}

/// What the calls look like.
#[derive(Clone, Debug, Args)]
pub(crate) struct Calls {
    /// How to speak: `modern` is 2026-07-28, `legacy` has sessions, one for each connection.
    #[arg(long, value_enum, default_value_t = Era::Modern)]
    pub(crate) era: Era,
    /// The answer is an event stream of K events: K - 1 of progress and the result; 0 is plain JSON.
    #[arg(long, value_name = "K", default_value_t = 0, value_parser = clap::value_parser!(u32).range(..=10_000))]
    pub(crate) events: u32,
    /// How long a request's body is, bytes.
    #[arg(long, value_name = "BYTES", default_value_t = 350)]
    pub(crate) body_bytes: usize,
    /// The most faults before a run is given up.
    #[arg(long, value_name = "N", default_value_t = 100)]
    pub(crate) faults_max: u64,
    /// A call not answered for so long is a fault, milliseconds.
    #[arg(long, value_name = "MS", default_value_t = 10_000, value_parser = clap::value_parser!(u64).range(1..=600_000))]
    pub(crate) timeout_ms: u64,
}

#[derive(Debug, Args)]
pub(crate) struct Run {
    /// Where: `http://ADDRESS:PORT/PATH`.
    pub(crate) url: String,
    #[command(flatten)]
    pub(crate) calls: Calls,
    /// How many connections, one call in flight on each.
    #[arg(long, short, value_name = "N", default_value_t = 16, value_parser = clap::value_parser!(u32).range(1..=65_535))]
    pub(crate) connections: u32,
    /// Open loop: calls a second, sent on schedule whether or not earlier ones were answered; latency counts from the
    /// scheduled instant. Left out: closed loop, each connection sends its next call on the answer to its last.
    #[arg(long, value_name = "CALLS", value_parser = clap::value_parser!(u32).range(1..=10_000_000))]
    pub(crate) rate: Option<u32>,
    /// How long to measure, seconds.
    #[arg(long, value_name = "SECONDS", default_value_t = 10.0, value_parser = seconds)]
    pub(crate) seconds: f64,
    /// How long to send before measuring, seconds.
    #[arg(long, value_name = "SECONDS", default_value_t = 1.0, value_parser = seconds)]
    pub(crate) warmup: f64,
    /// The most calls to send, warm-up included.
    #[arg(long, value_name = "N", default_value_t = u64::MAX, hide_default_value = true)]
    pub(crate) count: u64,
    /// The tool to call; it must answer with the text of its argument `message`.
    #[arg(long, value_name = "NAME", default_value = "echo")]
    pub(crate) tool: String,
    /// Sent as `Authorization: Bearer`.
    #[arg(long, value_name = "TOKEN", env = "LOADTEST_TOKEN", hide_env_values = true)]
    pub(crate) token: Option<String>,
    /// Count the CPU time of this process, and say how much of it a call cost; may be given more than once.
    #[arg(long, value_name = "PID")]
    pub(crate) pid: Vec<u32>,
    /// Stay on this core.
    #[arg(long, value_name = "CORE")]
    pub(crate) core: Option<usize>,
}

#[derive(Clone, Debug, Args)]
pub(crate) struct Upstream {
    /// Where to listen; the path is any.
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1")]
    pub(crate) address: IpAddr,
    /// The port; 0 is a free one. `listening PORT` is printed either way.
    #[arg(long, value_name = "PORT", default_value_t = 0)]
    pub(crate) port: u16,
    /// Be so many servers, all alike: each has a port, from `--port` upwards or each a free one, printed in one line.
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=1_000))]
    pub(crate) servers: u16,
    /// Tools beside `echo`.
    #[arg(long, value_name = "N", default_value_t = 20, value_parser = clap::value_parser!(u32).range(..=100_000))]
    pub(crate) tools: u32,
    /// How long an answer to a call is, bytes.
    #[arg(long, value_name = "BYTES", default_value_t = 600)]
    pub(crate) answer_bytes: usize,
    /// Answer calls with an event stream of K events, each written on its own; 0 is plain JSON.
    #[arg(long, value_name = "K", default_value_t = 0, value_parser = clap::value_parser!(u32).range(..=10_000))]
    pub(crate) events: u32,
    /// Write a line for each call that arrives: era, id, message.
    #[arg(long, value_name = "FILE")]
    pub(crate) ledger: Option<PathBuf>,
    /// Answer each Nth call with another value than was asked for, to see whether that is noticed.
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub(crate) lie_every: u64,
    /// Offer streams without an end: sessions' own (GET), and `subscriptions/listen`.
    #[arg(long)]
    pub(crate) streams: bool,
    /// Stay on this core.
    #[arg(long, value_name = "CORE")]
    pub(crate) core: Option<usize>,
    /// End when standard input does, so as not to outlive whoever started this.
    #[arg(long)]
    pub(crate) until_stdin_ends: bool,
}

#[derive(Clone, Debug, Args)]
pub(crate) struct Compare {
    /// Only these parts of the comparison; left out: all.
    #[arg(long, value_enum, value_name = "SCENE,…", value_delimiter = ',')]
    pub(crate) only: Vec<Scene>,
    /// Whom to measure beside Portcullis, where there are several; left out: all.
    #[arg(long, value_enum, value_name = "WHO,…", value_delimiter = ',')]
    pub(crate) beside: Vec<Rival>,
    /// Closed loop: connections of each point of `calls`.
    #[arg(long, short, value_name = "N,…", value_delimiter = ',', default_values_t = [1, 16, 64, 256], value_parser = clap::value_parser!(u32).range(1..=4_096))]
    pub(crate) connections: Vec<u32>,
    /// Open loop: calls a second of each point of `calls`, over 64 connections; 0 for none.
    #[arg(long, value_name = "CALLS,…", value_delimiter = ',', default_values_t = [20_000], value_parser = clap::value_parser!(u32).range(..=1_000_000))]
    pub(crate) rates: Vec<u32>,
    /// How often each point is measured; the contestants take turns within a repetition.
    #[arg(long, value_name = "N", default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..=1_000))]
    pub(crate) repetitions: u32,
    /// How long one measurement takes, seconds.
    #[arg(long, value_name = "SECONDS", default_value_t = 1.0, value_parser = seconds)]
    pub(crate) seconds: f64,
    /// How long to send before each measurement, seconds.
    #[arg(long, value_name = "SECONDS", default_value_t = 0.3, value_parser = seconds)]
    pub(crate) warmup: f64,
    /// The gateway's program; left out: `portcullis` beside this program, or target/release/portcullis.
    #[arg(long, value_name = "FILE")]
    pub(crate) portcullis: Option<PathBuf>,
    /// The bare hop's program; left out: `bare-hop` beside this program, or target/release/bare-hop.
    #[arg(long, value_name = "FILE")]
    pub(crate) hop: Option<PathBuf>,
    /// How many rules the gateway's policy has, one in ten of them with a condition.
    #[arg(long, value_name = "N", default_value_t = 100, value_parser = clap::value_parser!(u32).range(5..=10_000))]
    pub(crate) rules: u32,
    /// The nginx program; installed with apt-get if it is missing.
    #[arg(long, value_name = "FILE", default_value = "nginx")]
    pub(crate) nginx: PathBuf,
    /// The HAProxy program; installed with apt-get if it is missing.
    #[arg(long, value_name = "FILE", default_value = "haproxy")]
    pub(crate) haproxy: PathBuf,
    /// Never install anything.
    #[arg(long)]
    pub(crate) no_install: bool,
    /// The core of whoever is measured.
    #[arg(long, value_name = "CORE", default_value_t = 0)]
    pub(crate) proxy_core: usize,
    /// The core of load and canned server.
    #[arg(long, value_name = "CORE", default_value_t = 1)]
    pub(crate) load_core: usize,
    /// Where to write all figures as JSON; beside it, with the ending `svg`, goes a picture.
    #[arg(long, value_name = "FILE", default_value = "target/compare.json")]
    pub(crate) out: PathBuf,
    /// End with exit code 1 where a goal is not held, too.
    #[arg(long)]
    pub(crate) strict: bool,
    /// Keep the configurations and logs of what was started, and say where.
    #[arg(long)]
    pub(crate) keep: bool,
    /// Have the canned server lie about each Nth call, to see that no ratio is printed then.
    #[arg(long, value_name = "N", default_value_t = 0, hide = true)]
    pub(crate) lie_every: u64,
}

#[derive(Clone, Debug, Args)]
pub(crate) struct Floods {
    /// Only these parts, in the order given; left out: all.
    #[arg(long, value_enum, value_name = "PART,…", value_delimiter = ',')]
    pub(crate) only: Vec<Part>,
    /// How many idle connections, and how many slow or half ones.
    #[arg(long, value_name = "N", default_value_t = 5_000, value_parser = clap::value_parser!(u32).range(1..=50_000))]
    pub(crate) idle: u32,
    /// How many idle streams, and how many large bodies that do not come.
    #[arg(long, value_name = "N", default_value_t = 2_000, value_parser = clap::value_parser!(u32).range(1..=20_000))]
    pub(crate) streams: u32,
    /// Connections of the greedy neighbour.
    #[arg(long, value_name = "N", default_value_t = 1_000, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub(crate) neighbour: u32,
    /// Connections of the good calls, and of floods of requests.
    #[arg(long, value_name = "N", default_value_t = 16, value_parser = clap::value_parser!(u32).range(1..=4_096))]
    pub(crate) connections: u32,
    /// Good calls a second, on schedule; latency counts from the scheduled instant. 0: each on the answer to the last
    /// one of its connection, which leaves floods little of the core that both share.
    #[arg(long, value_name = "CALLS", default_value_t = 2_000, value_parser = clap::value_parser!(u32).range(..=1_000_000))]
    pub(crate) rate: u32,
    /// How long good calls are measured, seconds.
    #[arg(long, value_name = "SECONDS", default_value_t = 3.0, value_parser = seconds)]
    pub(crate) seconds: f64,
    /// How often each part runs.
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=1_000))]
    pub(crate) repetitions: u32,
    /// How many rules the gateway's policy has.
    #[arg(long, value_name = "N", default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub(crate) rules: u32,
    /// The gateway's program; left out: `portcullis` beside this program, or target/release/portcullis.
    #[arg(long, value_name = "FILE")]
    pub(crate) portcullis: Option<PathBuf>,
    /// The core of the gateway.
    #[arg(long, value_name = "CORE", default_value_t = 0)]
    pub(crate) proxy_core: usize,
    /// The core of load and canned server.
    #[arg(long, value_name = "CORE", default_value_t = 1)]
    pub(crate) load_core: usize,
    /// Where to write all figures as JSON.
    #[arg(long, value_name = "FILE", default_value = "target/floods.json")]
    pub(crate) out: PathBuf,
    /// Keep the configurations and logs of what was started, and say where.
    #[arg(long)]
    pub(crate) keep: bool,
}

/// What a measurement of one gateway stands on.
#[derive(Clone, Debug, Args)]
pub(crate) struct Stand {
    /// The gateway's program; left out: `portcullis` beside this program, or target/release/portcullis.
    #[arg(long, value_name = "FILE")]
    pub(crate) portcullis: Option<PathBuf>,
    /// How many rules the gateway's policy has.
    #[arg(long, value_name = "N", default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub(crate) rules: u32,
    /// The core of the gateway.
    #[arg(long, value_name = "CORE", default_value_t = 0)]
    pub(crate) proxy_core: usize,
    /// The core of load and canned server.
    #[arg(long, value_name = "CORE", default_value_t = 1)]
    pub(crate) load_core: usize,
    /// Where to write all figures as JSON; left out: target/VERB.json.
    #[arg(long, value_name = "FILE")]
    pub(crate) out: Option<PathBuf>,
    /// Keep the configurations and logs of what was started, and say where.
    #[arg(long)]
    pub(crate) keep: bool,
}

#[derive(Clone, Debug, Args)]
pub(crate) struct Sessions {
    /// How many.
    #[arg(long, value_name = "N", default_value_t = 100_000, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub(crate) count: u32,
    /// How often the gateway is started again, each time by a signal and by a kill.
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=100))]
    pub(crate) restarts: u32,
    #[command(flatten)]
    pub(crate) stand: Stand,
}

#[derive(Clone, Debug, Args)]
pub(crate) struct Streams {
    /// How many, each of a session of its own.
    #[arg(long, value_name = "N", default_value_t = 9_000, value_parser = clap::value_parser!(u32).range(4..=20_000))]
    pub(crate) count: u32,
    #[command(flatten)]
    pub(crate) stand: Stand,
}

#[derive(Clone, Debug, Args)]
pub(crate) struct Legacy {
    /// Connections of each point, one call in flight on each; in sessions, one session each.
    #[arg(long, short, value_name = "N,…", value_delimiter = ',', default_values_t = [1, 16, 64], value_parser = clap::value_parser!(u32).range(1..=4_096))]
    pub(crate) connections: Vec<u32>,
    /// How often each point is measured; the eras take turns within a repetition.
    #[arg(long, value_name = "N", default_value_t = 9, value_parser = clap::value_parser!(u32).range(1..=1_000))]
    pub(crate) repetitions: u32,
    /// How long one measurement takes, seconds.
    #[arg(long, value_name = "SECONDS", default_value_t = 1.0, value_parser = seconds)]
    pub(crate) seconds: f64,
    /// How long to send before each measurement, seconds.
    #[arg(long, value_name = "SECONDS", default_value_t = 0.3, value_parser = seconds)]
    pub(crate) warmup: f64,
    /// How long a request's body is, bytes.
    #[arg(long, value_name = "BYTES", default_value_t = 350)]
    pub(crate) body_bytes: usize,
    #[command(flatten)]
    pub(crate) stand: Stand,
}

/// Calls that are measured in turn.
#[derive(Clone, Debug, Args)]
pub(crate) struct Turns {
    /// Connections of each point, one call in flight on each.
    #[arg(long, short, value_name = "N,…", value_delimiter = ',', default_values_t = [1, 16, 64], value_parser = clap::value_parser!(u32).range(1..=4_096))]
    pub(crate) connections: Vec<u32>,
    /// How often each point is measured; those compared take turns within a repetition.
    #[arg(long, value_name = "N", default_value_t = 9, value_parser = clap::value_parser!(u32).range(1..=1_000))]
    pub(crate) repetitions: u32,
    /// How long one measurement takes, seconds.
    #[arg(long, value_name = "SECONDS", default_value_t = 1.0, value_parser = seconds)]
    pub(crate) seconds: f64,
    /// How long to send before each measurement, seconds.
    #[arg(long, value_name = "SECONDS", default_value_t = 0.3, value_parser = seconds)]
    pub(crate) warmup: f64,
    /// How long a request's body is, bytes.
    #[arg(long, value_name = "BYTES", default_value_t = 350)]
    pub(crate) body_bytes: usize,
}

#[derive(Clone, Debug, Args)]
pub(crate) struct Merged {
    /// How many servers.
    #[arg(long, value_name = "N", default_value_t = 20, value_parser = clap::value_parser!(u16).range(1..=64))]
    pub(crate) servers: u16,
    /// Tools of each, `echo` among them.
    #[arg(long, value_name = "N", default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..=100))]
    pub(crate) tools: u32,
    /// How many lists are asked for in each repetition.
    #[arg(long, value_name = "N", default_value_t = 2_000, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub(crate) lists: u32,
    #[command(flatten)]
    pub(crate) turns: Turns,
    #[command(flatten)]
    pub(crate) stand: Stand,
}

#[derive(Clone, Debug, Args)]
#[command(mut_arg("rules", |rules| rules.default_value("10000")))]
pub(crate) struct Reload {
    /// How often the configuration is read again, once without calls and once beside them.
    #[arg(long, value_name = "N", default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..=1_000))]
    pub(crate) reloads: u32,
    /// Calls a second, on schedule; latency counts from the scheduled instant.
    #[arg(long, value_name = "CALLS", default_value_t = 2_000, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub(crate) rate: u32,
    /// Their connections.
    #[arg(long, short, value_name = "N", default_value_t = 16, value_parser = clap::value_parser!(u32).range(1..=4_096))]
    pub(crate) connections: u32,
    #[command(flatten)]
    pub(crate) stand: Stand,
}

#[derive(Clone, Debug, Args)]
pub(crate) struct Rules {
    #[command(flatten)]
    pub(crate) turns: Turns,
    #[command(flatten)]
    pub(crate) stand: Stand,
}

#[derive(Clone, Debug, Args)]
#[command(mut_arg("connections", |connections| connections.default_values(["64"])))]
pub(crate) struct Grows {
    #[command(flatten)]
    pub(crate) turns: Turns,
    #[command(flatten)]
    pub(crate) stand: Stand,
}

#[derive(Clone, Debug, Args)]
#[command(mut_arg("connections", |connections| connections.default_values(["16", "64"])))]
pub(crate) struct Extras {
    /// How many callers, each with a token of its own.
    #[arg(long, value_name = "N", default_value_t = 64, value_parser = clap::value_parser!(u16).range(1..=512))]
    pub(crate) callers: u16,
    /// Each connection keeps to one caller; left out: each call is the next one's.
    #[arg(long)]
    pub(crate) stay: bool,
    #[command(flatten)]
    pub(crate) turns: Turns,
    #[command(flatten)]
    pub(crate) stand: Stand,
}

#[derive(Clone, Debug, Args)]
pub(crate) struct Builds {
    /// The other program; its figures are what those of `--portcullis` are divided by.
    #[arg(long, value_name = "FILE")]
    pub(crate) before: PathBuf,
    /// How to speak.
    #[arg(long, value_enum, default_value_t = Era::Modern)]
    pub(crate) era: Era,
    #[command(flatten)]
    pub(crate) turns: Turns,
    #[command(flatten)]
    pub(crate) stand: Stand,
}

fn seconds(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(seconds) if (0.0..=86_400.0).contains(&seconds) => Ok(seconds),
        _ => Err("expected seconds, 0 to 86400".to_owned()),
    }
}
