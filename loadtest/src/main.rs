//! Load for MCP gateways. `run` sends calls and checks every answer, `upstream` is a canned MCP server to stand behind
//! the gateway, `compare` measures Portcullis and nginx side by side on the same traffic, `floods` what many clients,
//! slow ones and hostile ones cost, `sessions`, `streams` and `legacy` what the handshake era does, `merged` and `reload`
//! what many servers and many rules do, `extras` what telemetry and credentials cost a call, `builds` one build of the gateway against another.
//! `fleet` is for any gateway: agents as they work, and a report.

mod agents;
mod answer;
mod cli;
mod compare;
mod exchange;
mod fleet;
mod floods;
mod generator;
mod lasting;
mod measure;
mod net;
mod reply;
mod rig;
mod traffic;
mod upstream;
mod wire;

use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use anyhow::Context as _;
use clap::Parser as _;

use cli::{Cli, Verb};

fn main() -> ExitCode {
    match run(Cli::parse()) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Whether all went well; what did not was said already.
fn run(cli: Cli) -> anyhow::Result<bool> {
    let stop = Arc::new(AtomicBool::new(false));
    for signal in [signal_hook::consts::SIGINT, signal_hook::consts::SIGTERM] {
        // The second one ends the process at once.
        signal_hook::flag::register_conditional_default(signal, Arc::clone(&stop)).context("signals")?;
        signal_hook::flag::register(signal, Arc::clone(&stop)).context("signals")?;
    }
    net::raise_file_limit();
    match cli.verb {
        Verb::Run(run) => generator::command(&run, &stop),
        Verb::Upstream(upstream) => upstream::command(&upstream, &stop),
        Verb::Compare(compare) => compare::command(&compare, &stop),
        Verb::Floods(floods) => floods::command(&floods, &stop),
        Verb::Sessions(sessions) => lasting::sessions::command(&sessions, &stop),
        Verb::Streams(streams) => lasting::streams::command(&streams, &stop),
        Verb::Legacy(legacy) => lasting::legacy::command(&legacy, &stop),
        Verb::Merged(merged) => fleet::merged::command(&merged, &stop),
        Verb::Reload(reload) => fleet::reload::command(&reload, &stop),
        Verb::Rules(rules) => fleet::rules::command(&rules, &stop),
        Verb::Grows(grows) => fleet::grows::command(&grows, &stop),
        Verb::Extras(extras) => fleet::extras::command(&extras, &stop),
        Verb::Fleet(fleet) => agents::command(&fleet, &stop),
        Verb::Builds(builds) => fleet::builds::command(&builds, &stop),
    }
}
