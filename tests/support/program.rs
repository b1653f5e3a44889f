//! A server that is a program: this very test binary, started by the gateway as a child, speaks MCP over its pipes as
//! its tools are called to. What the test harness itself prints there are lines that are no messages.

use std::collections::HashMap;
use std::fs::{self, OpenOptions};
use std::io::{BufRead as _, Write as _};
use std::path::PathBuf;
use std::process::exit;
use std::sync::mpsc::{self, Sender};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use serde_json::{Value, json};
use tempfile::TempDir;

use super::mcp::{LEGACY, MODERN};

/// How such a server is configured, and what it has written down.
pub(crate) struct Program {
    folder: TempDir,
    settings: Value,
}

impl Program {
    /// One that speaks the legacy era; a child for each session.
    pub(crate) fn new() -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder can be made");
        let program = std::env::current_exe().expect("the tests are a program");
        let arguments = ["--exact", NAME, "--ignored", "--nocapture", "--test-threads=1"];
        let command: Vec<String> =
            [&*program.to_string_lossy()].into_iter().chain(arguments).map(str::to_owned).collect();
        let settings = json!({ "command": command, "env": { LOG: folder.path().join("log"), MODE: "" } });
        Self { folder, settings }
    }

    /// One child for everybody.
    pub(crate) fn shared(self) -> Self {
        self.set("sharing", json!("shared"))
    }

    /// Doing so: `modern` speaks that era too, `dies` ends when asked for its era, `silent` does not answer that, `ends`
    /// ends at once, `slow` takes longer to begin than it is given to say its era, `late` takes long the first time
    /// only, `strict` refuses a client that does not say who it is, `brittle` ends at that, `stays` does not end with
    /// its input, nor when told to.
    pub(crate) fn mode(mut self, mode: &str) -> Self {
        self.settings["env"][MODE] = json!(mode);
        self
    }

    /// Any key of its settings.
    pub(crate) fn set(mut self, key: &str, value: Value) -> Self {
        self.settings[key] = value;
        self
    }

    /// One more variable of its environment.
    pub(crate) fn variable(mut self, name: &str, value: &str) -> Self {
        self.settings["env"][name] = json!(value);
        self
    }

    /// Its settings, for the gateway.
    pub(crate) fn settings(&self) -> Value {
        self.settings.clone()
    }

    /// What calls have been executed, by the process that did, and their `value`.
    pub(crate) fn executed(&self) -> Vec<(u32, String)> {
        let text = fs::read_to_string(self.folder.path().join("log")).unwrap_or_default();
        let row = |line: &str| {
            let (pid, value) = line.split_once(' ').expect("a process and a value");
            (pid.parse().expect("a number"), value.to_owned())
        };
        text.lines().map(row).collect()
    }

    /// The processes that were begun, oldest first.
    pub(crate) fn begun(&self) -> Vec<u32> {
        self.executed().into_iter().filter(|(_, value)| value == BEGUN).map(|(pid, _)| pid).collect()
    }
}

/// Whether a process is there, and has not just ended.
pub(crate) fn is_alive(pid: u32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit(") ").next().is_some_and(|rest| !rest.is_empty() && !rest.starts_with('Z'))
}

const NAME: &str = "support::program::program";
const LOG: &str = "PROGRAM_LOG";
const MODE: &str = "PROGRAM_MODE";
const BEGUN: &str = "begun";

#[test]
#[ignore = "a child of other tests"]
fn program() {
    if let Ok(mode) = std::env::var(MODE) {
        serve(&mode);
    }
}

/// What answers take with them, and what the test asks for later.
struct State {
    /// Whoever waits for the answer to what was asked of the client, by its id.
    asked: Mutex<HashMap<String, Sender<Value>>>,
    cancelled: Mutex<Vec<Value>>,
    legacy: bool,
}

fn serve(mode: &str) -> ! {
    let is = |word: &str| mode.split(' ').any(|other| other == word);
    note(BEGUN);
    // The test harness has begun a line.
    raw(b"\n");
    if is("ends") {
        eprintln!("it ends at once");
        exit(3);
    }
    if is("slow") {
        thread::sleep(Duration::from_secs(6));
    }
    if is("late") && is_first() {
        thread::sleep(Duration::from_secs(4));
    }
    if is("stays") {
        // Told to end, a shell would; this one has to be killed.
        let _ = signal_hook::flag::register(signal_hook::consts::SIGTERM, Arc::default());
    }
    let mut state: Option<Arc<State>> = None;
    for line in std::io::stdin().lock().lines() {
        let Ok(line) = line else { break };
        let message: Value = serde_json::from_str(&line).expect("the gateway sends messages, one a line");
        let method = message["method"].as_str().unwrap_or_default().to_owned();
        let legacy = method != "server/discover" && message["params"]["_meta"].get(super::mcp::VERSION_KEY).is_none();
        if method == "server/discover" && is("dies") {
            exit(4);
        }
        if (is("strict") || is("brittle")) && is_nameless(&method, &message) {
            if is("brittle") {
                exit(5);
            }
            say(&error(&message["id"], -32_602, "who is it?"));
            continue;
        }
        if method == "server/discover" && is("silent") {
            continue;
        }
        if !legacy && !is("modern") {
            say(&error(&message["id"], -32_601, "no such method"));
            continue;
        }
        let state = state
            .get_or_insert_with(|| Arc::new(State { asked: Mutex::default(), cancelled: Mutex::default(), legacy }));
        if state.legacy != legacy && message.get("method").is_some() && message.get("id").is_some() {
            say(&error(&message["id"], -32_600, "this connection has another era"));
            continue;
        }
        heard(state, &method, &message);
    }
    while is("stays") {
        thread::sleep(Duration::from_secs(1));
    }
    exit(0);
}

/// Whether this process is the first of its program.
fn is_first() -> bool {
    let log = std::env::var_os(LOG).and_then(|log| fs::read_to_string(log).ok()).unwrap_or_default();
    log.starts_with(&format!("{} ", std::process::id()))
}

/// Whether a client introduces itself without saying who it is.
fn is_nameless(method: &str, message: &Value) -> bool {
    match method {
        "initialize" => message["params"]["clientInfo"]["name"] == "",
        "server/discover" => message["params"]["_meta"][super::mcp::CAPABILITIES_KEY].get("nameless").is_some(),
        _ => false,
    }
}

fn heard(state: &Arc<State>, method: &str, message: &Value) {
    let id = &message["id"];
    match method {
        "" => {
            let asker = state.asked.lock().expect("nobody panics").remove(id.as_str().unwrap_or_default());
            asker.into_iter().for_each(|asker| drop(asker.send(message.clone())));
        }
        "initialize" => say(&result(id, welcome(message))),
        "server/discover" => say(&result(
            id,
            json!({
                "resultType": "complete", "supportedVersions": [MODERN], "capabilities": capabilities(),
                "serverInfo": { "name": "program", "version": "1" },
            }),
        )),
        "tools/list" => say(&result(id, tools(state.legacy))),
        "resources/subscribe" | "resources/unsubscribe" | "logging/setLevel" | "ping" => say(&result(id, json!({}))),
        "subscriptions/listen" => listen(state, id),
        "notifications/cancelled" => {
            state.cancelled.lock().expect("nobody panics").push(message["params"]["requestId"].clone());
        }
        "tools/call" => {
            let (state, message) = (state.clone(), message.clone());
            note(message["params"]["arguments"]["value"].as_str().unwrap_or_default());
            thread::spawn(move || call(&state, &message));
        }
        _ if id.is_null() => {}
        _ => say(&error(id, -32_601, "no such method")),
    }
}

fn welcome(message: &Value) -> Value {
    let capabilities = capabilities();
    json!({
        "protocolVersion": LEGACY, "capabilities": capabilities, "serverInfo": { "name": "program", "version": "1" },
        "instructions": message["params"]["capabilities"].to_string(),
    })
}

fn capabilities() -> Value {
    json!({ "tools": { "listChanged": true }, "resources": { "subscribe": true }, "logging": {} })
}

fn tools(legacy: bool) -> Value {
    let tool = |name: &&str| json!({ "name": name, "inputSchema": { "type": "object" } });
    let mut list = json!({ "tools": TOOLS.iter().map(tool).collect::<Vec<_>>() });
    if !legacy {
        list["resultType"] = json!("complete");
        list["ttlMs"] = json!(60_000);
        list["cacheScope"] = json!("public");
    }
    list
}

/// A stream that says two things and stays.
fn listen(state: &State, id: &Value) {
    let meta = json!({ "io.modelcontextprotocol/subscriptionId": id });
    let tell = |method: &str, mut params: Value| {
        params["_meta"] = meta.clone();
        say(&json!({ "jsonrpc": "2.0", "method": method, "params": params }));
    };
    if !state.legacy {
        tell("notifications/subscriptions/acknowledged", json!({ "notifications": { "toolsListChanged": true } }));
        tell("notifications/tools/list_changed", json!({}));
    }
}

const TOOLS: &[&str] = &[
    "echo",
    "pid",
    "die",
    "hang",
    "deaf",
    "slow",
    "env",
    "fds",
    "big",
    "odd",
    "long",
    "ask",
    "progress",
    "changed",
    "updated",
    "talk",
    "cancelled",
    "close",
];

fn call(state: &State, message: &Value) {
    let (id, params) = (&message["id"], &message["params"]);
    let arguments = &params["arguments"];
    let number = |name: &str| arguments[name].as_u64().unwrap_or_default();
    let text = match params["name"].as_str().unwrap_or_default() {
        "echo" => arguments["value"].as_str().unwrap_or_default().to_owned(),
        "pid" => std::process::id().to_string(),
        "die" => exit(9),
        "hang" => return,
        "deaf" => {
            // The pipe fills while nobody reads it: the reading thread waits for this lock, too.
            let _held = std::io::stdout().lock();
            loop {
                thread::sleep(Duration::from_secs(1));
            }
        }
        "close" => {
            // It goes on, but says nothing any more.
            rustix::stdio::dup2_stdout(fs::File::open("/dev/null").expect("there is one")).expect("it can be replaced");
            return;
        }
        "slow" => {
            thread::sleep(Duration::from_millis(number("ms")));
            "done".into()
        }
        "env" => std::env::vars().map(|(name, value)| format!("{name}={value}")).collect::<Vec<_>>().join("\n"),
        "fds" => open_files(),
        "big" => "x".repeat(usize::try_from(number("bytes")).expect("it fits")),
        "odd" => {
            raw(b"this is no message\n{\"neither\": 1\n[1,2]\n\n\xff\xfe\n{}\n");
            "said".into()
        }
        "long" => {
            raw(&[&vec![b'y'; usize::try_from(number("bytes")).expect("it fits")][..], b"\n"].concat());
            "said".into()
        }
        "ask" => ask(state, arguments["value"].as_str().unwrap_or_default()),
        "progress" => {
            let token = &params["_meta"]["progressToken"];
            let params = json!({ "progressToken": token, "progress": 1, "message": arguments["value"] });
            say(&json!({ "jsonrpc": "2.0", "method": "notifications/progress", "params": params }));
            "told".into()
        }
        "changed" => tell("notifications/tools/list_changed", &json!({})),
        "updated" => tell("notifications/resources/updated", &json!({ "uri": arguments["uri"] })),
        "talk" => {
            eprintln!("{}", arguments["value"].as_str().unwrap_or_default());
            tell("notifications/message", &json!({ "level": "error", "data": arguments["value"] }))
        }
        "cancelled" => json!(*state.cancelled.lock().expect("nobody panics")).to_string(),
        _ => return say(&error(id, -32_602, "no such tool")),
    };
    let mut body = json!({ "content": [{ "type": "text", "text": text }] });
    if !state.legacy {
        body["resultType"] = json!("complete");
    }
    say(&result(id, body));
}

fn tell(method: &str, params: &Value) -> String {
    say(&json!({ "jsonrpc": "2.0", "method": method, "params": params }));
    "told".into()
}

/// Asks the client something, and says what it answers.
fn ask(state: &State, value: &str) -> String {
    let (tell, told) = mpsc::channel();
    state.asked.lock().expect("nobody panics").insert(value.to_owned(), tell);
    let params = json!({ "message": value, "requestedSchema": { "type": "object", "properties": {} } });
    say(&json!({ "jsonrpc": "2.0", "id": value, "method": "elicitation/create", "params": params }));
    let answer = told.recv().unwrap_or_default();
    json!([answer["result"]["action"], answer["error"]["code"]]).to_string()
}

fn open_files() -> String {
    let listed: Vec<PathBuf> =
        fs::read_dir("/proc/self/fd").expect("it is there").flatten().map(|entry| entry.path()).collect();
    let shown = |path: &PathBuf| {
        let target = fs::read_link(path).ok()?;
        Some(format!("{} {}", path.file_name()?.to_string_lossy(), target.display()))
    };
    listed.iter().filter_map(shown).collect::<Vec<_>>().join("\n")
}

fn result(id: &Value, result: Value) -> Value {
    json!({ "jsonrpc": "2.0", "id": id, "result": result })
}

fn error(id: &Value, code: i64, message: &str) -> Value {
    json!({ "jsonrpc": "2.0", "id": id, "error": { "code": code, "message": message } })
}

fn say(message: &Value) {
    raw(format!("{message}\n").as_bytes());
}

fn raw(bytes: &[u8]) {
    let mut out = std::io::stdout().lock();
    // Nobody reads any more: its end is near.
    let _ = out.write_all(bytes).and_then(|()| out.flush());
}

/// In one write, so that the lines of several processes stay whole.
fn note(value: &str) {
    let Some(path) = std::env::var_os(LOG) else { return };
    let line = format!("{} {value}\n", std::process::id());
    let file = OpenOptions::new().create(true).append(true).open(path);
    file.and_then(|mut file| file.write_all(line.as_bytes())).expect("the log can be written");
}
