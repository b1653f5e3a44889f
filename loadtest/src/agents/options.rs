//! What a fleet is told to be: by flags, by a file of the same names, or by neither.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use clap::Args;
use serde::Deserialize;
use serde_json::{Value, json};

use super::objective::Objective;
use super::request::{Expect, Operation};

/// The most agents; each has one connection, and one more with a stream.
const AGENTS_MAX: u32 = 30_000;
const IDENTITIES_MAX: u32 = 10_000;
const FILE_BYTES_MAX: u64 = 1 << 20;

/// The command line of `loadtest fleet`. What is not given comes from the file, and what is not there has the value
/// that the text names.
#[derive(Clone, Debug, Default, Args)]
pub(crate) struct Fleet {
    /// The endpoint: `http://` or `https://HOST:PORT/PATH`.
    #[arg(long, value_name = "URL", conflicts_with = "demo")]
    pub(super) url: Option<String>,
    /// Start a gateway and a canned server on this machine, and load them.
    #[arg(long)]
    pub(super) demo: bool,
    /// A YAML file with these settings; flags go before it.
    #[arg(long, value_name = "FILE")]
    pub(super) config: Option<PathBuf>,
    /// How many agents work at the same time (50).
    #[arg(long, value_name = "N")]
    pub(super) agents: Option<u32>,
    /// What all agents ask for together, requests a second, on a schedule that waits for no answer (as many as agents).
    #[arg(long, value_name = "REQUESTS")]
    pub(super) rate: Option<f64>,
    /// Instead: how long an agent thinks between two requests, on average, seconds.
    #[arg(long, value_name = "SECONDS", conflicts_with = "rate")]
    pub(super) think: Option<f64>,
    /// Each pause as long as the others. Left out: as they fall, most of them short and some long (exponential).
    #[arg(long)]
    pub(super) steady: bool,
    /// How long to measure, seconds (30).
    #[arg(long, value_name = "SECONDS")]
    pub(super) seconds: Option<f64>,
    /// How long to work before that, seconds (3).
    #[arg(long, value_name = "SECONDS")]
    pub(super) warmup: Option<f64>,
    /// Over how long the agents begin, one after the other, seconds (the warm-up).
    #[arg(long, value_name = "SECONDS")]
    pub(super) ramp: Option<f64>,
    /// How many of the agents speak 2025-11-25, in sessions; the others speak 2026-07-28 (30%).
    #[arg(long, value_name = "PERCENT")]
    pub(super) legacy: Option<String>,
    /// How many of the agents hold an event stream open beside their requests (20%).
    #[arg(long, value_name = "PERCENT")]
    pub(super) streams: Option<String>,
    /// Requests of one session (2025-11-25) or one piece of work (2026-07-28); then the agent connects anew (20).
    #[arg(long, value_name = "N")]
    pub(super) calls: Option<u32>,
    /// What is asked for, by weight (tools/call=90,tools/list=10).
    #[arg(long, value_name = "METHOD=WEIGHT,…", value_delimiter = ',')]
    pub(super) mix: Vec<String>,
    /// The tool of `tools/call` (echo).
    #[arg(long, value_name = "NAME")]
    pub(super) tool: Option<String>,
    /// Its arguments; ${value} is another text in each call ({"message":"${value}"}).
    #[arg(long, value_name = "JSON")]
    pub(super) arguments: Option<String>,
    /// What a right answer of it contains; empty for anything (${value}).
    #[arg(long, value_name = "TEXT")]
    pub(super) contains: Option<String>,
    /// A token for all agents.
    #[arg(long, value_name = "TOKEN", env = "LOADTEST_TOKEN", hide_env_values = true)]
    pub(super) token: Option<String>,
    /// A command (for `sh -c`) that prints a token; run again before the token expires. LOADTEST_IDENTITY is the number
    /// of the identity, from 0.
    #[arg(long, value_name = "COMMAND")]
    pub(super) token_command: Option<String>,
    /// Where client credentials are exchanged for tokens (grant `client_credentials`).
    #[arg(long, value_name = "URL")]
    pub(super) token_url: Option<String>,
    /// The client's id there.
    #[arg(long, value_name = "ID")]
    pub(super) client_id: Option<String>,
    /// A file with the client's secret; or LOADTEST_CLIENT_SECRET.
    #[arg(long, value_name = "FILE")]
    pub(super) client_secret_file: Option<PathBuf>,
    /// The scopes that are asked for, with blanks between them.
    #[arg(long, value_name = "SCOPES")]
    pub(super) scope: Option<String>,
    /// How many tokens there are, each refreshed on its own; agents share them evenly (1).
    #[arg(long, value_name = "N")]
    pub(super) identities: Option<u32>,
    /// Certificates to trust instead of the system's, PEM.
    #[arg(long, value_name = "FILE")]
    pub(super) ca: Option<PathBuf>,
    /// A request not answered for so long is an error, milliseconds (10000).
    #[arg(long, value_name = "MS")]
    pub(super) timeout_ms: Option<u64>,
    /// What must hold, or the exit code is 1: p50=…, p99.9=50ms, max=1s, errors=0.1%, rate=400; of one method as
    /// tools/list:p99=80ms (errors=0).
    #[arg(long, value_name = "METRIC=VALUE,…", value_delimiter = ',')]
    pub(super) objective: Vec<String>,
    /// Where the report goes (target/fleet.html).
    #[arg(long, value_name = "FILE")]
    pub(super) report: Option<PathBuf>,
    /// Where all figures go as JSON (target/fleet.json).
    #[arg(long, value_name = "FILE")]
    pub(super) out: Option<PathBuf>,
    /// Say nothing on the way.
    #[arg(long, short)]
    pub(super) quiet: bool,
    /// With the same one agents draw the same pauses and requests.
    #[arg(long, value_name = "N")]
    pub(super) seed: Option<u64>,
    /// Stay on this core.
    #[arg(long, value_name = "CORE")]
    pub(super) core: Option<usize>,
    /// With --demo: the gateway's program; left out: `portcullis` beside this program, or target/release/portcullis.
    #[arg(long, value_name = "FILE")]
    pub(super) portcullis: Option<PathBuf>,
    /// With --demo: how long a token holds, seconds.
    #[arg(long, value_name = "SECONDS", default_value_t = 30, value_parser = clap::value_parser!(u32).range(2..=86_400))]
    pub(super) token_seconds: u32,
}

/// The file. Secrets have no place in it.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct File {
    url: Option<String>,
    agents: Option<u32>,
    rate: Option<f64>,
    think: Option<f64>,
    steady: bool,
    seconds: Option<f64>,
    warmup: Option<f64>,
    ramp: Option<f64>,
    legacy: Option<String>,
    streams: Option<String>,
    calls: Option<u32>,
    mix: Vec<Part>,
    token_command: Option<String>,
    token_url: Option<String>,
    client_id: Option<String>,
    client_secret_file: Option<PathBuf>,
    scope: Option<String>,
    identities: Option<u32>,
    ca: Option<PathBuf>,
    timeout_ms: Option<u64>,
    objectives: Vec<String>,
    report: Option<PathBuf>,
    out: Option<PathBuf>,
    seed: Option<u64>,
}

/// One part of the file's mix.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Part {
    method: Option<String>,
    /// Short for `method: tools/call` and the tool's name in `params`.
    tool: Option<String>,
    arguments: Option<Value>,
    params: Option<Value>,
    weight: u32,
    contains: Option<String>,
    #[serde(default)]
    expect: Expect,
}

/// Everything settled.
#[derive(Debug)]
pub(super) struct Plan {
    /// `None`: the demo's own.
    pub(super) url: Option<String>,
    pub(super) agents: u32,
    /// On average, of one agent.
    pub(super) think: Duration,
    pub(super) steady: bool,
    pub(super) window: Duration,
    pub(super) warmup: Duration,
    pub(super) ramp: Duration,
    /// Shares of all agents, 0 to 1.
    pub(super) legacy: f64,
    pub(super) streams: f64,
    pub(super) calls: u32,
    pub(super) mix: Vec<Operation>,
    pub(super) tokens: Source,
    pub(super) identities: u32,
    pub(super) ca: Option<PathBuf>,
    pub(super) timeout: Duration,
    pub(super) objectives: Vec<Objective>,
    pub(super) report: PathBuf,
    pub(super) out: PathBuf,
    pub(super) seed: u64,
}

/// Where tokens come from.
#[derive(Clone, Debug)]
pub(super) enum Source {
    None,
    Fixed(String),
    Command(String),
    Client { url: String, id: String, secret: String, scope: Option<String> },
}

impl Fleet {
    /// Reads the file, if there is one, and settles everything.
    pub(super) fn settle(&self) -> anyhow::Result<Plan> {
        let file = self.config.as_deref().map_or_else(|| Ok(File::default()), read)?;
        let url = self.url.clone().or_else(|| file.url.clone()).filter(|_| !self.demo);
        ensure!(url.is_some() || self.demo, "where? --url URL, `url` in the file, or --demo");
        let agents = self.agents.or(file.agents).unwrap_or(50);
        ensure!((1..=AGENTS_MAX).contains(&agents), "agents: 1 to {AGENTS_MAX}");
        let identities = self.identities.or(file.identities).unwrap_or(1);
        ensure!((1..=IDENTITIES_MAX).contains(&identities), "identities: 1 to {IDENTITIES_MAX}");
        let window = span("seconds", self.seconds.or(file.seconds).unwrap_or(30.0))?;
        ensure!(!window.is_zero(), "seconds: more than 0");
        let warmup = span("warmup", self.warmup.or(file.warmup).unwrap_or(3.0))?;
        let calls = self.calls.or(file.calls).unwrap_or(20);
        ensure!(calls > 0, "calls: at least 1");
        let timeout = self.timeout_ms.or(file.timeout_ms).unwrap_or(10_000);
        ensure!((1..=600_000).contains(&timeout), "timeout_ms: 1 to 600000");
        let words = if self.objective.is_empty() { &file.objectives } else { &self.objective };
        let place = |flag: &Option<PathBuf>, file: &Option<PathBuf>, default: &str| {
            flag.clone().or_else(|| file.clone()).unwrap_or_else(|| PathBuf::from(default))
        };
        Ok(Plan {
            url,
            agents,
            think: self.pause(&file, agents)?,
            steady: self.steady || file.steady,
            window,
            warmup,
            ramp: self.ramp.or(file.ramp).map_or(Ok(warmup), |seconds| span("ramp", seconds))?,
            legacy: share("legacy", self.legacy.as_ref().or(file.legacy.as_ref()), 0.3)?,
            streams: share("streams", self.streams.as_ref().or(file.streams.as_ref()), 0.2)?,
            calls,
            mix: self.operations(&file)?,
            tokens: self.source(&file)?,
            identities,
            ca: self.ca.clone().or_else(|| file.ca.clone()),
            timeout: Duration::from_millis(timeout),
            objectives: Objective::all(words)?,
            report: place(&self.report, &file.report, "target/fleet.html"),
            out: place(&self.out, &file.out, "target/fleet.json"),
            seed: self.seed.or(file.seed).unwrap_or(1),
        })
    }

    fn pause(&self, file: &File, agents: u32) -> anyhow::Result<Duration> {
        ensure!(file.rate.is_none() || file.think.is_none(), "the file has both `rate` and `think`");
        // A flag goes before the file, whichever of the two it is.
        let (rate, think) = match (self.rate, self.think) {
            (None, None) => (file.rate, file.think),
            given => given,
        };
        let pause = match (rate, think) {
            (Some(rate), _) => {
                ensure!(rate > 0.0 && rate <= 1e7, "rate: more than 0, at most 10000000");
                Duration::from_secs_f64(f64::from(agents) / rate)
            }
            (None, think) => span("think", think.unwrap_or(1.0))?,
        };
        ensure!(pause >= Duration::from_micros(10), "think: at least 0.00001");
        Ok(pause)
    }

    fn operations(&self, file: &File) -> anyhow::Result<Vec<Operation>> {
        let told = self.tool.is_some() || self.arguments.is_some() || self.contains.is_some() || !self.mix.is_empty();
        if !told && !file.mix.is_empty() {
            return file.mix.iter().map(Part::operation).collect();
        }
        let default = ["tools/call=90".to_owned(), "tools/list=10".to_owned()];
        let mix: &[String] = if self.mix.is_empty() { &default } else { &self.mix };
        mix.iter().map(|part| self.operation(part)).collect()
    }

    fn operation(&self, part: &str) -> anyhow::Result<Operation> {
        let (method, weight) = part.split_once('=').with_context(|| format!("mix: {part}: METHOD=WEIGHT"))?;
        let weight = weight.parse().with_context(|| format!("mix: {part}: the weight is a whole number"))?;
        if method != "tools/call" {
            return Operation::new(method, json!({}), weight, Expect::Result, None);
        }
        let tool = self.tool.as_deref().unwrap_or("echo");
        let text = self.arguments.as_deref().unwrap_or(r#"{"message":"${value}"}"#);
        let arguments: Value = serde_json::from_str(text).context("arguments")?;
        ensure!(arguments.is_object(), "arguments: a JSON object");
        // What other tools answer is not known.
        let known = self.arguments.is_none() && self.tool.is_none();
        let contains = self.contains.as_deref().or(known.then_some("${value}")).filter(|text| !text.is_empty());
        let params = json!({ "name": tool, "arguments": arguments });
        Operation::new(method, params, weight, Expect::Result, contains)
    }

    fn source(&self, file: &File) -> anyhow::Result<Source> {
        // A flag goes before the file, whichever of them it is.
        let flag = self.token.is_some() || self.token_command.is_some() || self.token_url.is_some();
        let token_url = self.token_url.as_ref().or(file.token_url.as_ref().filter(|_| !flag));
        let command = self.token_command.as_ref().or(file.token_command.as_ref().filter(|_| !flag));
        match (&self.token, command, token_url) {
            (Some(token), None, None) => Ok(Source::Fixed(token.clone())),
            (None, Some(command), None) => Ok(Source::Command(command.clone())),
            (None, None, Some(url)) => {
                let id = self.client_id.as_ref().or(file.client_id.as_ref()).context("token_url without client_id")?;
                let secret = match self.client_secret_file.as_ref().or(file.client_secret_file.as_ref()) {
                    Some(file) => text(file)?.trim().to_owned(),
                    None => std::env::var("LOADTEST_CLIENT_SECRET")
                        .context("the client has no secret: client_secret_file, or LOADTEST_CLIENT_SECRET")?,
                };
                let scope = self.scope.clone().or_else(|| file.scope.clone());
                Ok(Source::Client { url: url.clone(), id: id.clone(), secret, scope })
            }
            (None, None, None) => Ok(Source::None),
            _ => bail!("tokens from more than one place: a token, a command or client credentials"),
        }
    }
}

impl Part {
    fn operation(&self) -> anyhow::Result<Operation> {
        let method = match (&self.method, &self.tool) {
            (None, Some(_)) => "tools/call",
            (Some(method), None) => method,
            _ => bail!("mix: each part has either `method` or `tool`"),
        };
        ensure!(self.arguments.is_none() || self.tool.is_some(), "mix: {method}: `arguments` are for a `tool`");
        let params = match &self.tool {
            Some(tool) => json!({ "name": tool, "arguments": self.arguments.clone().unwrap_or_else(|| json!({})) }),
            None => self.params.clone().unwrap_or_else(|| json!({})),
        };
        let contains = self.contains.as_deref().filter(|text| !text.is_empty());
        Operation::new(method, params, self.weight, self.expect, contains)
    }
}

fn read(path: &Path) -> anyhow::Result<File> {
    let place = || path.display().to_string();
    serde_saphyr::from_str(&text(path)?).with_context(place)
}

fn text(path: &Path) -> anyhow::Result<String> {
    let place = || path.display().to_string();
    let length = std::fs::metadata(path).with_context(place)?.len();
    ensure!(length <= FILE_BYTES_MAX, "{}: more than a megabyte", place());
    std::fs::read_to_string(path).with_context(place)
}

fn span(name: &str, seconds: f64) -> anyhow::Result<Duration> {
    ensure!((0.0..=86_400.0).contains(&seconds), "{name}: 0 to 86400 seconds");
    Ok(Duration::from_secs_f64(seconds))
}

/// `30%` or `30`, as a share of one.
fn share(name: &str, text: Option<&String>, default: f64) -> anyhow::Result<f64> {
    let Some(text) = text else { return Ok(default) };
    let percent: Option<f64> = text.trim_end_matches('%').trim().parse().ok();
    let percent = percent.filter(|percent| (0.0..=100.0).contains(percent));
    Ok(percent.with_context(|| format!("{name}: {text} is no percentage"))? / 100.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn given(yaml: &str) -> anyhow::Result<Plan> {
        use std::hash::{BuildHasher as _, RandomState};
        let name = format!("loadtest-options-{:x}", RandomState::new().hash_one(yaml));
        let path = std::env::temp_dir().join(name);
        std::fs::write(&path, yaml).expect("the temporary folder can be written");
        let plan = Fleet { config: Some(path.clone()), rate: Some(10.0), ..Fleet::default() }.settle();
        std::fs::remove_file(path).expect("it is there");
        plan
    }

    #[test]
    fn flags_go_before_the_file_and_the_file_before_what_is_usual() {
        let plan = given("url: http://x/\nagents: 5\nthink: 9\nlegacy: 50%\nobjectives: [p99=5ms]\n").expect("a plan");
        assert_eq!(plan.think, Duration::from_millis(500), "the flag's rate, not the file's pause");
        assert_eq!((plan.agents, plan.calls, plan.objectives.len()), (5, 20, 1));
        assert!((plan.legacy - 0.5).abs() < 1e-9 && (plan.streams - 0.2).abs() < 1e-9);
        assert_eq!(plan.mix.len(), 2);
    }

    #[test]
    fn the_example_is_one() {
        let file = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("fleet.yaml");
        let plan = Fleet { config: Some(file), ..Fleet::default() }.settle().expect("a plan");
        assert_eq!((plan.agents, plan.think, plan.mix.len()), (200, Duration::from_millis(500), 4));
        assert_eq!((plan.objectives.len(), plan.identities), (4, 4));
    }

    #[test]
    fn a_mix_in_the_file() {
        let yaml = "url: http://x/
mix:
  - { tool: echo, arguments: { message: \"${value}\" }, contains: \"${value}\", weight: 3 }
  - { tool: drop, expect: error, weight: 1 }
  - { method: prompts/get, params: { name: p }, weight: 1 }
";
        let plan = given(yaml).expect("a plan");
        let labels: Vec<&str> = plan.mix.iter().map(|operation| &*operation.label).collect();
        assert_eq!(labels, ["tools/call echo", "tools/call drop", "prompts/get p"]);
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        for (yaml, why) in [
            ("agents: 5\n", "where?"),
            ("url: http://x/\nagents: 0\n", "agents"),
            ("url: http://x/\nspeed: 9\n", "speed"),
            ("url: http://x/\nrate: 1\nthink: 1\n", "both"),
            ("url: http://x/\nstreams: 300%\n", "percentage"),
            ("url: http://x/\nmix: [{ weight: 1 }]\n", "either"),
            ("url: http://x/\nmix: [{ tool: a, weight: 0 }]\n", "weight"),
            ("url: http://x/\nobjectives: [p99]\n", "p99"),
            ("url: http://x/\ntoken_command: a\ntoken_url: http://y/\n", "more than one"),
        ] {
            let error = format!("{:#}", given(yaml).expect_err(yaml));
            assert!(error.contains(why), "{yaml}: {error}");
        }
    }
}
