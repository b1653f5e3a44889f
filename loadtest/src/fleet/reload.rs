//! New configurations for a gateway that serves: how long each takes to be in force, what calls notice of it, and whether
//! memory comes back.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use serde_json::{Value, json};

use crate::cli::Reload;
use crate::generator::{Outcome, Pace, Plan};
use crate::measure::Schedule;
use crate::rig::TOOLS;
use crate::rig::bench::{self, Bench, PATIENCE};
use crate::rig::figures::Figures;
use crate::rig::gateway::{self, Gateway, Setup};
use crate::rig::held::{SETTLED, mib, resident};
use crate::traffic::{Era, Target};
use crate::{exchange, net};

use super::FAULTS_MAX;

/// Between two reloads.
const PAUSE: Duration = Duration::from_millis(200);
/// Before the measurement: what is filled once is full then.
const WARMUP: u32 = 4;

/// `loadtest reload`.
pub(crate) fn command(options: &Reload, stop: &AtomicBool) -> anyhow::Result<bool> {
    let settings = json!({
        "rules": options.stand.rules,
        "reloads": options.reloads,
        "rate": options.rate,
        "connections": options.connections,
    });
    let canned = [format!("--tools={TOOLS}")];
    bench::measured(&options.stand, stop, &canned, ("reload", settings), |bench, figures| {
        let (limits, sessions) = (Vec::new(), Vec::new());
        let admin = net::free_port()?;
        let setup = Setup { admin: Some(admin), ..bench.setup(&limits, &sessions) };
        let gateway = bench.gateway(&setup)?;
        let desk = Desk::new(bench, &setup, &gateway, admin)?;
        measure(bench, options, &gateway, &desk, figures)
    })
}

fn measure(
    bench: &Bench<'_>,
    options: &Reload,
    gateway: &Gateway,
    desk: &Desk<'_>,
    figures: &mut Figures,
) -> anyhow::Result<()> {
    let mut longest = Duration::ZERO;
    for number in 0..WARMUP {
        longest = longest.max(desk.reload(number)?);
    }
    bench.pause(SETTLED)?;
    let before = resident(gateway)?;
    for number in 0..options.reloads {
        bench.pause(PAUSE)?;
        figures.add("a reload, no calls", ms(desk.reload(number)?), "ms", None);
    }
    bench.pause(SETTLED)?;
    let after = resident(gateway)?;
    figures.add("memory before", mib(before), "MiB", None);
    figures.add(&format!("memory after {} reloads", options.reloads), mib(after), "MiB", None);
    let window = (longest + PAUSE) * options.reloads + Duration::from_secs(1);
    let quiet = send(bench, options, gateway, window)?;
    told(figures, "calls, no reload", &quiet);
    let over = AtomicBool::new(false);
    let (busy, reloads) = std::thread::scope(|scope| {
        let reloads = scope.spawn(|| -> anyhow::Result<Vec<Duration>> {
            let mut took = Vec::new();
            for number in 0..options.reloads {
                std::thread::sleep(PAUSE);
                if over.load(Ordering::Relaxed) {
                    break;
                }
                took.push(desk.reload(number)?);
            }
            Ok(took)
        });
        let busy = send(bench, options, gateway, window);
        over.store(true, Ordering::Relaxed);
        (busy, reloads.join())
    });
    let reloads = reloads.map_err(|_| anyhow::anyhow!("the thread that reloads has failed"))??;
    for took in reloads {
        figures.add("a reload beside calls", ms(took), "ms", None);
    }
    told(figures, "calls beside reloads", &busy?);
    Ok(())
}

/// Calls on schedule, none of which may go wrong.
fn send(bench: &Bench<'_>, options: &Reload, gateway: &Gateway, window: Duration) -> anyhow::Result<Outcome> {
    let plan = Plan {
        shape: bench.shape(gateway, Era::Modern),
        tokens: Vec::new(),
        stay: false,
        connections: options.connections,
        pace: Pace::Open(Schedule::new(options.rate)),
        warmup: PAUSE / 2,
        window,
        count: u64::MAX,
        timeout: PATIENCE,
        faults_max: FAULTS_MAX,
    };
    let (_, outcome) = bench.send(gateway, &plan)?;
    anyhow::ensure!(outcome.answered == outcome.sent, "{} calls, {} answers", outcome.sent, outcome.answered);
    Ok(outcome)
}

fn told(figures: &mut Figures, what: &str, outcome: &Outcome) {
    figures.add(&format!("{what}: answered, none wrong"), outcome.answered as f64, "", None);
    for (name, quantile) in [("p50", 0.5), ("p99", 0.99), ("p99.9", 0.999), ("most", 1.0)] {
        figures.add(&format!("{what}: {name}"), outcome.latency.quantile_us(quantile) / 1e3, "ms", None);
    }
}

/// Where a gateway takes orders.
struct Desk<'a> {
    gateway: &'a Gateway,
    target: Target,
    token: String,
    /// The configuration it was started with, and one with a rule less.
    configs: [String; 2],
    rules: u32,
}

impl<'a> Desk<'a> {
    fn new(bench: &Bench<'_>, setup: &Setup<'_>, gateway: &'a Gateway, admin: u16) -> anyhow::Result<Self> {
        let base = format!("http://127.0.0.1:{}", gateway.port);
        let config = |rules| {
            let setup = Setup { rules, ..*setup };
            gateway::config(&setup, &base, gateway.port, bench.server_ports[0])
        };
        Ok(Self {
            gateway,
            target: Target::local(admin, "/reload"),
            token: gateway.admin_token()?,
            configs: [config(setup.rules), config(setup.rules - 1)],
            rules: setup.rules,
        })
    }

    /// Another configuration than the last time; how long until the gateway says that it is in force.
    fn reload(&self, number: u32) -> anyhow::Result<Duration> {
        let less = number.is_multiple_of(2);
        self.gateway.write(&self.configs[usize::from(less)])?;
        let Target { path, host, .. } = &self.target;
        let token = &self.token;
        let request = format!(
            "POST {path} HTTP/1.1\r\nHost: {host}\r\nAuthorization: Bearer {token}\r\nContent-Length: 0\r\n\r\n"
        );
        let begun = Instant::now();
        let mut socket = net::connect(self.target.address, PATIENCE).context("the admin listener")?;
        let answer = exchange::exchange(&mut socket, request.as_bytes())?;
        let took = begun.elapsed();
        let report: Value = serde_json::from_slice(answer.body()).context("the answer to a reload")?;
        let right = report["ok"] == true && report["rules"] == self.rules - u32::from(less);
        anyhow::ensure!(answer.status() == 200 && right, "reload: status {}: {report}", answer.status());
        Ok(took)
    }
}

fn ms(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}
