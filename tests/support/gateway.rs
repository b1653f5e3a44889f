//! The real binary with a configuration put together from parts, its tokens, its record, its end.

use std::collections::VecDeque;
use std::ffi::OsString;
use std::fs;
use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex, mpsc};
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use portcullis::identity::mint::{Grant, MintKey};
use ring::rand::SystemRandom;
use ring::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair};
use rustix::process::{Pid, Resource, Rlimit, Signal, kill_process, prlimit};
use serde_json::{Value, json};
use tempfile::TempDir;

use super::http::Wire;
use super::peers::{Run, finish};

/// The binary under test.
pub(crate) const BINARY: &str = env!("CARGO_BIN_EXE_portcullis");
/// The issuer whose tokens [`Gateway::token`] mints.
pub(crate) const ISSUER: &str = "https://issuer.test";
/// Nothing that a test waits for takes longer, on a machine that is busy with other things.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// Names a driver (`epoll`, `io-uring`) to run every test's gateway with, whatever the test says.
const DRIVER_VARIABLE: &str = "PORTCULLIS_TEST_DRIVER";
const STDERR_LINES_KEPT: usize = 400;
const COMMAND_MS_MAX: u64 = 20_000;
const POLL: Duration = Duration::from_millis(5);

/// A configuration under construction: everybody may connect and nobody may do anything, unless told otherwise.
pub(crate) struct Setup {
    config: Value,
    folder: TempDir,
    key: MintKey,
    flags: Vec<String>,
    environment: Vec<(String, OsString)>,
    /// Shell lines that are obeyed before the binary takes the shell's place.
    prelude: Vec<String>,
    /// The driver is what the test is about.
    own_driver: bool,
}

/// A running gateway; ended when dropped.
pub(crate) struct Gateway {
    child: Child,
    /// Its first listener.
    pub(crate) address: SocketAddr,
    /// How that is spoken to: `http` or `https`.
    scheme: &'static str,
    /// Its admin listener.
    pub(crate) admin: SocketAddr,
    /// What it said at start.
    pub(crate) banner: String,
    folder: TempDir,
    key: MintKey,
    stderr: Arc<Mutex<VecDeque<String>>>,
}

/// Whom a token is for.
#[derive(Clone, Debug)]
pub(crate) struct Who<'a> {
    pub(crate) subject: &'a str,
    pub(crate) agent: Option<&'a str>,
    pub(crate) tasks: &'a [&'a str],
    /// Seconds from now; negative for one that ended.
    pub(crate) expires_s: i64,
}

impl Default for Who<'_> {
    fn default() -> Self {
        Self { subject: "ada", agent: Some("agent-1"), tasks: &[], expires_s: 600 }
    }
}

impl Setup {
    /// No server, no rule, anonymous callers, one shard.
    pub(crate) fn new() -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder can be made");
        let key = MintKey::generate(&SystemRandom::new()).expect("a key can be made");
        let config = json!({
            "listen": "127.0.0.1:0",
            "admin": "127.0.0.1:0",
            "shards": 1,
            "state": folder.path().join("state"),
            "auth": { "anonymous": "allow" },
            "servers": {},
            "policy": { "tasks": {}, "rules": [] },
            "audit": { "dir": folder.path().join("audit") },
        });
        Self { config, folder, key, flags: Vec::new(), environment: Vec::new(), prelude: Vec::new(), own_driver: false }
    }

    /// Any key, by JSON pointer; the blocks on the way must be there or are made.
    pub(crate) fn set(mut self, pointer: &str, value: Value) -> Self {
        let mut at = &mut self.config;
        for step in pointer.split('/').skip(1) {
            at = match step.parse::<usize>() {
                Ok(index) if at.is_array() => &mut at[index],
                _ => &mut at[step.replace("~1", "/")],
            };
        }
        *at = value;
        self
    }

    /// A server behind it.
    pub(crate) fn server(self, name: &str, url: &str) -> Self {
        self.set(&format!("/servers/{name}"), json!({ "url": url }))
    }

    /// Everything is permitted.
    pub(crate) fn open(self) -> Self {
        self.rule(json!({ "id": "open", "permit": ["*/*", "*!*"] }))
    }

    /// One more rule.
    pub(crate) fn rule(mut self, rule: Value) -> Self {
        self.config["policy"]["rules"].as_array_mut().expect("rules are a list").push(rule);
        self
    }

    /// One more task that rules and tokens may name.
    pub(crate) fn task(self, name: &str) -> Self {
        self.set(&format!("/policy/tasks/{name}"), json!("A task."))
    }

    /// Callers need tokens of [`ISSUER`]; those without one stay `anonymous` or are refused.
    pub(crate) fn tokens(self, anonymous: &str) -> Self {
        let keys = self.folder.path().join("jwks.json");
        fs::write(&keys, self.key.key_set()).expect("the temporary folder can be written");
        self.set(
            "/auth",
            json!({
                "anonymous": anonymous,
                "issuers": [{ "issuer": ISSUER, "jwks": { "file": keys }, "algorithms": ["ES256"] }],
            }),
        )
    }

    /// Writes the key set of [`ISSUER`] there.
    pub(crate) fn key_set_to(&self, file: &Path) {
        fs::write(file, self.key.key_set()).expect("the folder can be written");
    }

    /// So many shards.
    pub(crate) fn shards(self, count: u16) -> Self {
        self.set("/shards", json!(count))
    }

    /// One more flag of `portcullis run`.
    pub(crate) fn flag(mut self, flag: &str) -> Self {
        self.flags.push(flag.to_owned());
        self
    }

    /// With this driver, even where all others are to have another one.
    pub(crate) fn driver(mut self, driver: &str) -> Self {
        self.own_driver = true;
        self.flag(&format!("--driver={driver}"))
    }

    /// A file that may not grow is an error to it, and not its end.
    pub(crate) fn past_file_limits(self) -> Self {
        // Ignored signals are inherited.
        self.prelude("trap '' XFSZ")
    }

    /// It may have so many descriptors, and cannot raise that.
    pub(crate) fn descriptors(self, count: u32) -> Self {
        self.prelude(&format!("ulimit -n {count}"))
    }

    /// One more variable of its environment, which is empty otherwise.
    pub(crate) fn environment(mut self, name: &str, value: impl Into<OsString>) -> Self {
        self.environment.push((name.to_owned(), value.into()));
        self
    }

    fn prelude(mut self, line: &str) -> Self {
        self.prelude.push(line.to_owned());
        self
    }

    /// Starts it, and waits until it listens.
    pub(crate) fn start(mut self) -> Gateway {
        if let Some(driver) = std::env::var(DRIVER_VARIABLE).ok().filter(|_| !self.own_driver) {
            self.flags.retain(|flag| !flag.starts_with("--driver"));
            self.flags.push(format!("--driver={driver}"));
        }
        let command = self.command();
        let Self { config, folder, key, flags, .. } = self;
        Gateway::launch(command, &config, folder, key, &flags)
    }

    /// Starts it where it cannot run, and waits for its end.
    pub(crate) fn fail(self) -> Run {
        let file = configure(&self.folder, &self.config);
        let mut command = self.command();
        finish(command.args(["run", "--config"]).arg(file).args(&self.flags), Duration::from_millis(COMMAND_MS_MAX))
    }

    fn command(&self) -> Command {
        let mut command = if self.prelude.is_empty() { command() } else { command_after(&self.prelude) };
        command.envs(self.environment.iter().map(|(name, value)| (name, value)));
        command
    }
}

impl Gateway {
    fn launch(mut command: Command, config: &Value, folder: TempDir, key: MintKey, flags: &[String]) -> Self {
        let file = configure(&folder, config);
        let mut child = command
            .args(["run", "--config"])
            .arg(&file)
            .args(flags)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the binary was built with the tests");
        let stderr = Arc::new(Mutex::new(VecDeque::new()));
        let lines = follow(&mut child, stderr.clone());
        let mut banner = String::new();
        let (mut address, mut admin) = (None, None);
        let until = Instant::now() + PATIENCE;
        while admin.is_none() {
            let Ok(line) = lines.recv_timeout(until.saturating_duration_since(Instant::now())) else {
                let _ = child.kill();
                panic!("the gateway did not start:\n{}", shown(&stderr));
            };
            let at = |name: &str, scheme: &'static str| -> Option<(SocketAddr, &'static str)> {
                let url = line.trim_start().strip_prefix(name)?.trim();
                Some((url.strip_prefix(scheme)?.strip_prefix("://")?.parse().ok()?, scheme))
            };
            address = address.or(at("listening on", "http")).or(at("listening on", "https"));
            admin = at("admin", "http").map(|(address, _)| address);
            banner.push_str(&line);
            banner.push('\n');
        }
        let (address, scheme) = address.expect("the banner names the listener before the admin listener");
        let admin = admin.expect("the loop ended with it");
        Self { child, address, scheme, admin, banner, folder, key, stderr }
    }

    /// Ends it, however it is, and starts it again on the same folder: same keys, same record, other port.
    pub(crate) fn restart(mut self, change: impl FnOnce(&mut Value)) -> Self {
        let _ = self.child.kill();
        let _ = self.child.wait();
        let file = self.folder.path().join("portcullis.yaml");
        let text = fs::read_to_string(file).expect("the configuration is there");
        let mut config: Value = serde_json::from_str(&text).expect("it is the JSON that was written");
        change(&mut config);
        let folder = std::mem::replace(&mut self.folder, tempfile::tempdir().expect("a temporary folder"));
        let key = MintKey::from_pkcs8(self.key.pkcs8(), &SystemRandom::new()).expect("the key is one of ours");
        Self::launch(command(), &config, folder, key, &[])
    }

    /// The URL of a path.
    pub(crate) fn url(&self, path: &str) -> String {
        format!("{}://{}{path}", self.scheme, self.address)
    }

    /// A token for `/mcp`.
    pub(crate) fn token(&self, who: &Who<'_>) -> String {
        self.token_for(who, &[&self.url("/mcp")])
    }

    /// A token for these resources.
    pub(crate) fn token_for(&self, who: &Who<'_>, audience: &[&str]) -> String {
        self.token_since(who, audience, who.expires_s.min(0) - 60)
    }

    /// The same, issued so many seconds from now.
    pub(crate) fn token_since(&self, who: &Who<'_>, audience: &[&str], issued_s: i64) -> String {
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).expect("the clock is set").as_secs();
        let at = |seconds| now.checked_add_signed(seconds).expect("a moment that exists");
        let grant = Grant {
            issuer: ISSUER,
            audience,
            subject: who.subject,
            agent: who.agent,
            tasks: who.tasks,
            issued_at: at(issued_s),
            expires: at(who.expires_s),
        };
        self.key.mint(&grant, &SystemRandom::new()).expect("the random source works")
    }

    /// A token of exactly these texts, signed with the key that it trusts.
    pub(crate) fn sign(&self, header: &str, claims: &str) -> String {
        let random = SystemRandom::new();
        let pair = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, self.key.pkcs8(), &random);
        let signed = format!("{}.{}", URL_SAFE_NO_PAD.encode(header), URL_SAFE_NO_PAD.encode(claims));
        let pair = pair.expect("the key is one of ours");
        let signature = pair.sign(&random, signed.as_bytes()).expect("the random source works");
        format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature))
    }

    /// The id of that key.
    pub(crate) fn key_id(&self) -> &str {
        self.key.id()
    }

    /// Its public half, as a key set.
    pub(crate) fn key_set(&self) -> String {
        self.key.key_set()
    }

    /// Its configuration file.
    pub(crate) fn config(&self) -> PathBuf {
        self.folder.path().join("portcullis.yaml")
    }

    /// Changes its configuration file, in one step.
    pub(crate) fn configure(&self, change: impl FnOnce(&mut Value)) {
        let text = fs::read_to_string(self.config()).expect("the configuration is there");
        let mut config: Value = serde_json::from_str(&text).expect("it is the JSON that was written");
        change(&mut config);
        self.write_config(&format!("{config:#}"));
    }

    /// Puts this text into its configuration file, in one step.
    pub(crate) fn write_config(&self, text: &str) {
        let new = self.folder.path().join("portcullis.yaml.new");
        fs::write(&new, text).expect("the temporary folder can be written");
        fs::rename(&new, self.config()).expect("a file can be renamed");
    }

    /// What its admin listener says of it.
    #[track_caller]
    pub(crate) fn status(&self) -> Value {
        let ask = format!("GET /status HTTP/1.1\r\nhost: {}\r\n\r\n", self.admin);
        Wire::to(self.admin).ask(ask.as_bytes()).json()
    }

    /// How many calls are under way, by `/status`.
    pub(crate) fn calls_under_way(&self) -> u64 {
        let shards = self.status()["shards"].as_array().cloned().unwrap_or_default();
        shards.iter().map(|shard| shard["calls"].as_u64().unwrap_or_default()).sum()
    }

    /// Has it read its configuration again, and waits until it has; how that went.
    #[track_caller]
    pub(crate) fn reload(&self) -> Value {
        let tried = |status: &Value| status["reload"]["tried"].as_u64().unwrap_or(0);
        let before = tried(&self.status());
        self.signal(Signal::HUP);
        let until = Instant::now() + PATIENCE;
        loop {
            let status = self.status();
            if tried(&status) > before {
                return status["reload"].clone();
            }
            assert!(Instant::now() < until, "it was never read again: {status:#}");
            thread::sleep(POLL);
        }
    }

    /// The folder of its record.
    pub(crate) fn audit(&self) -> PathBuf {
        self.folder.path().join("audit")
    }

    /// The record of this moment, oldest first.
    pub(crate) fn records(&self) -> Vec<Value> {
        export(&self.audit())
    }

    /// The record once it says what `enough` wants to read in it.
    #[track_caller]
    pub(crate) fn records_until(&self, what: &str, enough: impl Fn(&[Value]) -> bool) -> Vec<Value> {
        let until = Instant::now() + PATIENCE;
        loop {
            let records = self.records();
            if enough(&records) {
                return records;
            }
            assert!(Instant::now() < until, "the record never had {what}:\n{records:#?}\n{}", shown(&self.stderr));
            thread::sleep(POLL);
        }
    }

    /// How often one of its latest lines for operators had these words.
    pub(crate) fn said(&self, words: &str) -> usize {
        let lines = self.stderr.lock().unwrap_or_else(|held| held.into_inner());
        lines.iter().filter(|line| line.contains(words)).count()
    }

    /// Its latest lines for operators.
    pub(crate) fn log(&self) -> String {
        let lines = self.stderr.lock().unwrap_or_else(|held| held.into_inner());
        lines.iter().flat_map(|line| [line.as_str(), "\n"]).collect()
    }

    /// What it has counted under this name, of what happened or of what it dropped.
    #[track_caller]
    pub(crate) fn counted(&self, name: &str) -> u64 {
        let status = self.status();
        let count = ["happened", "dropped"].iter().find_map(|section| status[section][name].as_u64());
        count.unwrap_or_else(|| panic!("nothing is counted as {name}: {status:#}"))
    }

    /// Its process id.
    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Sends it a signal.
    pub(crate) fn signal(&self, signal: Signal) {
        let id = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw).expect("a child has an id");
        kill_process(id, signal).expect("the gateway is running");
    }

    /// Waits for its end.
    #[track_caller]
    pub(crate) fn ended(&mut self, within: Duration) -> ExitStatus {
        let until = Instant::now() + within;
        loop {
            if let Some(status) = self.child.try_wait().expect("a child can be waited for") {
                return status;
            }
            assert!(Instant::now() < until, "the gateway did not end in {within:?}:\n{}", shown(&self.stderr));
            thread::sleep(POLL);
        }
    }

    /// Whether it is still running.
    pub(crate) fn running(&mut self) -> bool {
        self.child.try_wait().expect("a child can be waited for").is_none()
    }

    /// Sets one of its resource limits; `None` takes it away.
    pub(crate) fn limit(&self, resource: Resource, current: Option<u64>) {
        let id = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw);
        let old = prlimit(id, resource, Rlimit { current, maximum: None }).expect("the limit can be set");
        assert_eq!(old.maximum, None, "the hard limit stays as it was");
    }

    /// Memory it uses, bytes.
    pub(crate) fn resident_bytes(&self) -> usize {
        let status = fs::read_to_string(format!("/proc/{}/status", self.child.id())).expect("it is running");
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("the kernel tells");
        line.trim().trim_end_matches(" kB").parse::<usize>().expect("a number") * 1024
    }

    /// Descriptors it has open.
    pub(crate) fn open_files(&self) -> usize {
        fs::read_dir(format!("/proc/{}/fd", self.child.id())).map_or(0, Iterator::count)
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if thread::panicking() {
            eprintln!("{}", shown(&self.stderr));
        }
    }
}

/// The binary, in a clean environment.
pub(crate) fn command() -> Command {
    let mut command = Command::new(BINARY);
    command.env_clear().env("NO_COLOR", "1").env("RUST_BACKTRACE", "1");
    command
}

/// The same from a shell that does something first.
fn command_after(prelude: &[String]) -> Command {
    let mut shell = Command::new("/bin/sh");
    shell.env_clear().env("NO_COLOR", "1").env("RUST_BACKTRACE", "1");
    shell.args(["-c", &format!("{}; exec \"$0\" \"$@\"", prelude.join("; ")), BINARY]);
    shell
}

fn configure(folder: &TempDir, config: &Value) -> PathBuf {
    let file = folder.path().join("portcullis.yaml");
    fs::write(&file, format!("{config:#}")).expect("the temporary folder can be written");
    file
}

/// Runs the binary to its end with these arguments, in `folder`.
pub(crate) fn run(folder: &Path, arguments: &[&str]) -> Run {
    finish(command().current_dir(folder).args(arguments), Duration::from_millis(COMMAND_MS_MAX))
}

/// The record in a folder, as `audit export` prints it.
pub(crate) fn export(folder: &Path) -> Vec<Value> {
    let run = finish(command().args(["audit", "export", "--dir"]).arg(folder), Duration::from_millis(COMMAND_MS_MAX));
    assert!(run.status.is_some_and(|status| status.success()), "audit export: {}", run.stderr);
    let line = |line| serde_json::from_str(line).unwrap_or_else(|fault| panic!("{fault}: {line}"));
    run.stdout.lines().map(line).collect()
}

/// Waits until `so` holds.
#[track_caller]
pub(crate) fn eventually(what: &str, so: impl FnMut() -> bool) {
    eventually_within(PATIENCE, what, so);
}

/// The same, for what takes longer than that.
#[track_caller]
pub(crate) fn eventually_within(patience: Duration, what: &str, mut so: impl FnMut() -> bool) {
    let until = Instant::now() + patience;
    while !so() {
        assert!(Instant::now() < until, "it never came to be that {what}");
        thread::sleep(POLL);
    }
}

fn follow(child: &mut Child, kept: Arc<Mutex<VecDeque<String>>>) -> mpsc::Receiver<String> {
    let stderr = child.stderr.take().expect("stderr is piped");
    let (tell, told) = mpsc::channel();
    thread::spawn(move || {
        for line in BufReader::new(stderr).lines().map_while(Result::ok) {
            let mut lines = kept.lock().unwrap_or_else(|held| held.into_inner());
            if lines.len() == STDERR_LINES_KEPT {
                lines.pop_front();
            }
            lines.push_back(line.clone());
            let _ = tell.send(line);
        }
    });
    told
}

fn shown(stderr: &Mutex<VecDeque<String>>) -> String {
    let lines = stderr.lock().unwrap_or_else(|held| held.into_inner());
    lines.iter().map(|line| format!("gateway: {line}\n")).collect()
}
