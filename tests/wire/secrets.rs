//! Secrets stay secret: one is planted in every place that can have one, calls go well and go wrong in every way, and
//! none of it is in anything that the process writes. And a secret whose file changes is another one from then on.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD_NO_PAD;
use rustix::process::Signal;
use serde_json::json;
use tempfile::TempDir;

use crate::support::gateway::{Gateway, ISSUER, PATIENCE, Setup, Who, eventually, run};
use crate::support::http::{Response, Wire};
use crate::support::mcp::{Post, fresh, open_session, text_of};
use crate::support::program::Program;
use crate::support::upstream::{Acted, Plan, Seen, Upstream, said};

/// Texts that nobody but who they are for may read, by what they are.
struct Plants {
    folder: TempDir,
    all: Vec<(&'static str, String)>,
}

impl Plants {
    fn new() -> Self {
        Self { folder: tempfile::tempdir().expect("a temporary folder can be made"), all: Vec::new() }
    }

    /// One more. Letters that are escaped somewhere stand around what is looked for.
    fn plant(&mut self, what: &'static str) -> String {
        let core = format!("PLANTED-{what}-{}", fresh());
        self.all.push((what, core.clone()));
        core
    }

    /// The same, in a file that a configuration can name.
    fn file(&mut self, what: &'static str) -> String {
        let text = self.plant(what);
        let file = self.path(what);
        fs::write(&file, format!("{text}\n")).expect("the folder can be written");
        format!("${{file:{}}}", file.display())
    }

    fn path(&self, what: &str) -> PathBuf {
        self.folder.path().join(what)
    }

    fn of(&self, what: &str) -> &str {
        self.all.iter().find(|(name, _)| *name == what).map(|(_, text)| text.as_str()).expect("it was planted")
    }

    /// What was learned while the gateway ran.
    fn learn(&mut self, what: &'static str, text: &str) {
        assert!(text.len() >= 16, "{what} is long enough to be found");
        self.all.push((what, text.to_owned()));
    }

    /// Asserts that none is in these bytes, as it is or encoded, but those that may be.
    #[track_caller]
    fn absent(&self, place: &str, bytes: &[u8], but: &[&str]) {
        let text = String::from_utf8_lossy(bytes);
        for (what, plant) in self.all.iter().filter(|(what, _)| !but.contains(what)) {
            for (how, form) in forms(plant) {
                let Some(at) = text.find(&form) else { continue };
                let around = text.get(at.saturating_sub(200)..(at + 200).min(text.len()));
                panic!("{what} is in {place}, {how}: {}", around.unwrap_or_else(|| &text[at..]));
            }
        }
    }
}

/// A text as it may stand somewhere: itself, in base64 wherever it begins there, in hexadecimal digits, backwards quoted.
fn forms(plant: &str) -> Vec<(&'static str, String)> {
    let mut all = vec![("as it is", plant.to_owned())];
    for before in ["", "x", "xx"] {
        let encoded = STANDARD_NO_PAD.encode(format!("{before}{plant}"));
        // What its neighbours have a share in is left out.
        let inner = &encoded[(before.len() * 8).div_ceil(6)..encoded.len() - 2];
        all.push(("in base64", inner.to_owned()));
        all.push(("in base64url", inner.replace('+', "-").replace('/', "_")));
    }
    let hex =
        |upper: bool| plant.bytes().map(|b| if upper { format!("{b:02X}") } else { format!("{b:02x}") }).collect();
    all.extend([("in hexadecimal digits", hex(false)), ("in hexadecimal digits", hex(true))]);
    let escaped: String = plant.bytes().map(|b| format!("%{b:02X}")).collect();
    all.push(("escaped", escaped));
    all
}

/// What is looked for is found, however it is written and whatever stands around it.
#[test]
fn a_plant_is_found() {
    let mut plants = Plants::new();
    let plant = plants.plant("thing");
    let written = |text: String| {
        let found =
            std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| plants.absent("here", text.as_bytes(), &[])));
        found.is_err()
    };
    assert!(!written("PLANTED-other".to_owned()));
    for before in ["", "a", "ab", "gate:", "{\"x\": \""] {
        let whole = format!("{before}{plant}\"}}");
        assert!(written(whole.clone()) && written(STANDARD_NO_PAD.encode(&whole)), "{before}");
    }
    assert!(written(plant.bytes().map(|b| format!("%{b:02X}")).collect()));
    assert!(written(plant.bytes().map(|b| format!("{b:02x}")).collect()));
}

/// A server that says with what it was called, or something worse.
fn server() -> Upstream {
    Plan::tools(&["echo", "fails", "refuses", "dies", "slow"])
        .script(|seen, out| {
            // What a careless server says of who asked.
            let told = format!("{:?} {}", seen.fields, String::from_utf8_lossy(&seen.body));
            match seen.name() {
                "fails" => out.json(
                    200,
                    "",
                    &json!({ "jsonrpc": "2.0", "id": seen.id(), "error": { "code": 1, "message": "no" } }),
                ),
                "refuses" => {
                    out.json(401, "www-authenticate: Bearer error=\"invalid_token\"\r\n", &json!({ "told": told }))
                }
                "dies" => out.reset(),
                "slow" => _ = out.gone(PATIENCE),
                _ => return Acted::Default,
            }
            Acted::Done
        })
        .start()
}

/// Token endpoint and introspection endpoint; in a bad mood, they say aloud what they were given.
struct Authority {
    upstream: Upstream,
    bad: Arc<AtomicBool>,
}

impl Authority {
    fn start(own: &str, traded: &str, opaque: &str) -> Self {
        let bad = Arc::new(AtomicBool::new(false));
        let (mood, number) = (bad.clone(), AtomicUsize::new(0));
        let (own, traded, opaque) = (own.to_owned(), traded.to_owned(), opaque.to_owned());
        let script = move |seen: &Seen, out: &mut crate::support::upstream::Out<'_>| {
            let body = String::from_utf8_lossy(&seen.body).into_owned();
            if mood.load(Ordering::SeqCst) {
                let told = format!("{body} {}", seen.field("authorization"));
                out.json(400, "", &json!({ "error": "invalid_grant", "error_description": told, "error_uri": told }));
            } else if seen.target == "/introspect" {
                let active = body.contains(&opaque);
                let claims = json!({ "active": true, "sub": "ada", "client_id": "agent-1", "iss": ISSUER, "exp": 4_000_000_000_u64,
                                     "scope": "a", "aud": "everything" });
                out.json(200, "", &if active { claims } else { json!({ "active": false }) });
            } else {
                let token = if body.contains("subject_token=") { &traded } else { &own };
                number.fetch_add(1, Ordering::SeqCst);
                let issued = "urn:ietf:params:oauth:token-type:access_token";
                out.json(
                    200,
                    "",
                    &json!({ "access_token": token, "token_type": "Bearer", "expires_in": 3600,
                                           "issued_token_type": issued }),
                );
            }
            Acted::Done
        };
        Self { upstream: Plan::tools(&[]).script(script).start(), bad }
    }

    fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.upstream.address())
    }
}

/// Something that takes whatever is pushed to it.
fn collector() -> Upstream {
    Plan::tools(&[])
        .script(|_, out| {
            out.empty(200);
            Acted::Done
        })
        .start()
}

fn files_below(folder: &Path, out: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        match entry.file_type() {
            Ok(kind) if kind.is_dir() => files_below(&entry.path(), out),
            Ok(_) => out.push(entry.path()),
            Err(_) => {}
        }
    }
}

fn admin(gateway: &Gateway, path: &str) -> Vec<u8> {
    let ask = format!("GET {path} HTTP/1.1\r\nhost: {}\r\n\r\n", gateway.admin);
    Wire::to(gateway.admin).ask(ask.as_bytes()).body
}

/// Everything that a client reads of an answer.
fn whole(answer: &Response) -> Vec<u8> {
    let fields: String = answer.head.fields.iter().map(|(name, value)| format!("{name}: {value}\n")).collect();
    [fields.as_bytes(), &answer.body].concat()
}

/// What a whole setting is made of: a server for each kind of credential.
struct House {
    plants: Plants,
    servers: Vec<(&'static str, Upstream)>,
    authority: Authority,
    collector: Upstream,
    gateway: Gateway,
}

impl House {
    fn start() -> Self {
        let mut plants = Plants::new();
        let (own, traded, opaque) =
            (plants.plant("own-token"), plants.plant("traded-token"), plants.plant("opaque-token"));
        let authority = Authority::start(&own, &traded, &opaque);
        let collector = collector();
        let names = ["plain", "bearer", "header", "basic", "own", "traded", "forward", "query"];
        let servers: Vec<(&str, Upstream)> = names.into_iter().map(|name| (name, server())).collect();
        let grant = |secret: &str, how: &str| {
            json!({ "token_url": authority.url("/token"), "client_id": "gate", "client_secret": secret, "auth": how,
                    "private": ["127.0.0.0/8"] })
        };
        let (basic, post) = (plants.file("client-basic"), plants.plant("client-post"));
        let kinds = [
            json!("strip"),
            json!({ "bearer": plants.file("bearer") }),
            json!({ "header": { "name": "X-Api-Key", "value": plants.file("header") } }),
            json!({ "basic": { "username": "gate", "password": plants.file("password") } }),
            json!({ "client_credentials": grant(&basic, "basic") }),
            json!({ "exchange": grant("${POST_SECRET}", "post") }),
            json!("forward"),
            json!("strip"),
        ];
        let program = Program::new().variable("API_KEY", &plants.file("child"));
        let mut setup = Setup::new().open().tokens("deny").environment("POST_SECRET", &post);
        for ((name, upstream), kind) in servers.iter().zip(kinds) {
            let url = match *name {
                "query" => format!("{}?key={}", upstream.url(), plants.plant("query")),
                _ => upstream.url(),
            };
            setup = setup.set(&format!("/servers/{name}"), json!({ "url": url, "credentials": kind, "timeout": "2s" }));
        }
        let introspection = json!({ "url": authority.url("/introspect"), "client_id": "gate",
                                    "client_secret": plants.file("introspection") });
        let gateway = setup
            .set("/servers/program", program.settings())
            .set("/servers/bearer/identity_headers", json!({ "X-User": "subject" }))
            .set("/servers/traded/catalogue", json!({ "bearer": plants.file("catalogue") }))
            .set("/auth/issuers/0/introspection", introspection)
            .set("/auth/issuers/0/private", json!(["127.0.0.0/8"]))
            .set("/auth/issuers/0/audience", json!("everything"))
            .set(
                "/telemetry",
                json!({
                    "otlp": { "url": format!("http://{}", collector.address()), "interval": "100ms",
                              "headers": { "x-collector-key": plants.file("collector") } },
                    "traces": 1,
                }),
            )
            .start();
        // Its program outlives the settings that name it.
        std::mem::forget(program);
        Self { plants, servers, authority, collector, gateway }
    }

    fn upstream(&self, name: &str) -> &Upstream {
        self.servers.iter().find(|(other, _)| *other == name).map(|(_, upstream)| upstream).expect("a server")
    }

    /// What a client reads, whatever it sent, has no secret but what it sent itself to be echoed.
    #[track_caller]
    fn ask(&self, what: &str, post: &Post) -> Response {
        let answer = post.to(&self.gateway);
        self.plants.absent(&format!("what a client reads of {what}"), &whole(&answer), &["session", "argument"]);
        answer
    }

    fn call(&self, server: &str, tool: &str, token: &str) -> Response {
        let post = Post::call(tool).at(&format!("/s/{server}/mcp")).token(token);
        let post =
            post.param("/arguments/more", json!(self.plants.of("argument"))).field("cookie", self.plants.of("cookie"));
        self.ask(&format!("{server}/{tool}"), &post)
    }
}

/// [O6] [O9] What is secret is in nothing that the process writes: whether calls go well or wrong, with whatever credential.
#[test]
fn no_secret_is_ever_told() {
    let mut house = House::start();
    for what in ["argument", "cookie", "claim"] {
        house.plants.plant(what);
    }
    let subject = house.plants.of("claim").to_owned();
    let token =
        house.gateway.token_for(&Who { subject: "ada", agent: Some("agent-1"), ..Who::default() }, &["everything"]);
    let signature = token.rsplit('.').next().expect("a token has a signature").to_owned();
    house.plants.learn("token", &token);
    house.plants.learn("signature", &signature);
    let opaque = house.plants.of("opaque-token").to_owned();
    let names: Vec<&str> = house.servers.iter().map(|(name, _)| *name).collect();

    for name in &names {
        let answer = house.call(name, "echo", &token);
        assert_eq!(answer.status(), 200, "{name}: {}", answer.text());
        for tool in ["fails", "refuses", "dies", "unknown"] {
            let answer = house.call(name, tool, &token).json();
            assert!(answer.get("error").is_some() || answer["result"]["isError"] == true, "{name}/{tool}: {answer}");
        }
        let by_opaque = house.call(name, "echo", &opaque);
        assert_ne!(by_opaque.status(), 401, "{name}: {}", by_opaque.text());
        house.call(name, "echo", "not-a-token");
        house.call(name, "echo", &format!("{token}x"));
        house.call(name, "echo", &house.gateway.token_for(&Who { subject: &subject, ..Who::default() }, &["other"]));
    }
    house.call("plain", "slow", &token);
    house.ask("a query with a token", &Post::call("echo").at(&format!("/s/plain/mcp?access_token={opaque}")));
    house.ask("a broken body", &Post::call("echo").token(&token).body(format!("{{\"a\": \"{opaque}\"")));
    let session = open_session(&house.gateway, |post| post.at("/s/bearer/mcp").token(&token));
    house.plants.learn("session", &session);
    for (index, (_, upstream)) in house.servers.iter().enumerate() {
        for (nth, theirs) in upstream.sessions().into_iter().enumerate().filter(|(_, it)| it.len() >= 16) {
            let _ = (index, nth);
            house.plants.all.push(("session", theirs));
        }
    }
    let legacy = Post::legacy_call(&session, "echo").at("/s/bearer/mcp").token(&token);
    assert_eq!(house.ask("a session's call", &legacy).status(), 200);
    house.ask("another's session", &Post::legacy_call(&session, "echo").at("/s/header/mcp").token(&token));
    let child = open_session(&house.gateway, |post| post.at("/s/program/mcp").token(&token));
    house.plants.learn("session", &child);
    children(&house);

    house.authority.bad.store(true, Ordering::SeqCst);
    let broken = |house: &House| {
        house.gateway.configure(|config| {
            config["servers"]["own"]["credentials"]["client_credentials"]["scope"] = json!("other");
            config["servers"]["traded"]["credentials"]["exchange"]["scope"] = json!("other");
        })
    };
    broken(&house);
    assert_eq!(house.gateway.reload()["ok"], true, "{:#}", house.gateway.status());
    for name in ["own", "traded"] {
        let answer = house.call(name, "echo", &token).json();
        assert!(answer.get("error").is_some(), "no token was to be had: {answer}");
    }
    house.call("plain", "echo", &format!("{opaque}-unknown"));
    faulty(&house);
    told(&mut house);
}

/// What a program is started with is its own, and nobody else's.
fn children(house: &House) {
    let own = format!("/proc/{}", house.gateway.pid());
    let argv = fs::read(format!("{own}/cmdline")).expect("it runs");
    house.plants.absent("the arguments of the gateway", &argv, &[]);
    let below = fs::read_to_string(format!("{own}/task/{}/children", house.gateway.pid())).unwrap_or_default();
    let mut found = 0;
    let all = fs::read_dir("/proc").into_iter().flatten().flatten();
    for process in all.filter_map(|entry| entry.file_name().into_string().ok()?.parse::<u32>().ok()) {
        let stat = fs::read_to_string(format!("/proc/{process}/stat")).unwrap_or_default();
        let parent = stat.rsplit(") ").next().and_then(|rest| rest.split(' ').nth(1)).unwrap_or_default();
        if parent != house.gateway.pid().to_string() {
            continue;
        }
        found += 1;
        let environment = fs::read(format!("/proc/{process}/environ")).unwrap_or_default();
        house.plants.absent("the environment of a child", &environment, &["child"]);
        let argv = fs::read(format!("/proc/{process}/cmdline")).unwrap_or_default();
        house.plants.absent("the arguments of a child", &argv, &[]);
    }
    assert!(found > 0, "there is a child: {below}");
}

/// Files with faults, secrets among them, that are read while it runs.
fn faulty(house: &House) {
    for (key, value) in [("bearer", json!([house.plants.of("bearer")])), ("beerer", json!(house.plants.of("bearer")))] {
        house.gateway.configure(|config| config["servers"]["bearer"]["credentials"] = json!({ key: value }));
        assert_eq!(house.gateway.reload()["ok"], false);
        let folder = house.gateway.config();
        let checked = run(folder.parent().expect("a folder"), &["check", "--config", &folder.display().to_string()]);
        house.plants.absent("what check says", checked.stderr.as_bytes(), &[]);
    }
    house.gateway.configure(|config| {
        config["servers"]["bearer"]["credentials"] = json!({ "bearer": house.plants.of("bearer") })
    });
    assert_eq!(house.gateway.reload()["ok"], true);
}

/// Everything that the process has written, and what others were sent.
fn told(house: &mut House) {
    let gateway = &house.gateway;
    let pushed = |house: &House, path: &str| house.collector.seen().iter().any(|seen| seen.target == path);
    eventually("traces and metrics are pushed", || pushed(house, "/v1/traces") && pushed(house, "/v1/metrics"));
    thread::sleep(Duration::from_millis(1500));
    for seen in house.collector.seen() {
        house.plants.absent("what the collector is sent", &seen.body, &[]);
        assert_eq!(seen.field("x-collector-key"), house.plants.of("collector"), "and it is shown its key");
    }
    for path in ["/metrics", "/status", "/healthz", "/readyz"] {
        house.plants.absent(path, &admin(gateway, path), &[]);
    }
    // Its variable is the gateway's alone.
    gateway.configure(|config| {
        config["servers"]["traded"]["credentials"]["exchange"]["client_secret"] = json!("${POST_SECRET:-none}");
    });
    let file = gateway.config();
    let folder = file.parent().expect("a folder").to_owned();
    let text = file.display().to_string();
    for flags in [&["--effective"][..], &["--effective", "--json"], &[]] {
        let arguments = [&["config", "show", "--config", &text], flags].concat();
        let shown = run(&folder, &arguments);
        assert!(shown.stdout.contains("(secret)"), "{}", shown.stderr);
        house.plants.absent("config show", shown.stdout.as_bytes(), &[]);
        house.plants.absent("config show", shown.stderr.as_bytes(), &[]);
    }
    house.plants.absent("the export of the record", format!("{:?}", gateway.records()).as_bytes(), &[]);
    gateway.signal(Signal::TERM);
    house.gateway.ended(PATIENCE);
    let gateway = &house.gateway;
    house.plants.absent("its log", gateway.log().as_bytes(), &[]);
    house.plants.absent("its banner", gateway.banner.as_bytes(), &[]);
    for folder in [gateway.audit(), folder.join("state")] {
        let mut files = Vec::new();
        files_below(&folder, &mut files);
        assert!(!files.is_empty(), "{}", folder.display());
        for file in files {
            let bytes = fs::read(&file).unwrap_or_default();
            house.plants.absent(&file.display().to_string(), &bytes, &[]);
        }
    }
    received(house);
}

/// Each server is shown its own credential, and none of the others'.
fn received(house: &House) {
    let own = [
        ("plain", &[][..]),
        ("bearer", &["bearer"]),
        ("header", &["header"]),
        ("basic", &["password"]),
        ("own", &["own-token"]),
        ("traded", &["traded-token", "catalogue"]),
        ("forward", &["token", "signature", "opaque-token"]),
        ("query", &["query"]),
    ];
    for (name, may) in own {
        let may = [may, &["argument", "session"]].concat();
        let mut shown = Vec::new();
        for seen in house.upstream(name).seen() {
            let fields: String = seen.fields.iter().map(|(name, value)| format!("{name}: {value}\n")).collect();
            let told = [seen.target.as_bytes(), fields.as_bytes(), &seen.body].concat();
            house.plants.absent(&format!("what {name} is sent"), &told, &may);
            shown.extend(told);
        }
        let shown = String::from_utf8_lossy(&shown).into_owned();
        for what in
            may.iter().filter(|what| !["argument", "session", "password", "signature", "catalogue"].contains(what))
        {
            assert!(shown.contains(house.plants.of(what)), "{name} was shown {what}: the plant would be found");
        }
    }
}

/// [O10] A secret whose file changes is another one a moment later: no restart, and no call fails meanwhile.
#[test]
fn a_secret_changes_with_its_file() {
    let upstream = Plan::tools(&["whoami"])
        .script(|seen, out| {
            if !seen.calls("whoami") {
                return Acted::Default;
            }
            out.json(200, "", &said(seen, seen.field("authorization")));
            Acted::Done
        })
        .start();
    let mut plants = Plants::new();
    let named = plants.file("rotated");
    let settings = json!({ "url": upstream.url(), "credentials": { "bearer": named } });
    let gateway = Setup::new().set("/servers/up", settings).open().shards(2).start();
    let ask = || {
        let answer = Post::call("whoami").to(&gateway);
        assert_eq!(answer.status(), 200, "{}", answer.text());
        text_of(&answer.json()).to_owned()
    };
    assert_eq!(ask(), format!("Bearer {}", plants.of("rotated")));
    for round in 0..2 {
        let next = format!("rotated-{round}-{}", fresh());
        let file = plants.path("rotated");
        fs::write(file.with_extension("new"), &next).expect("the folder can be written");
        fs::rename(file.with_extension("new"), &file).expect("it can be renamed");
        let before: Vec<String> = vec![ask()];
        eventually("the next token is shown", || {
            let shown = ask();
            assert!(shown == format!("Bearer {next}") || before.contains(&shown), "one or the other: {shown}");
            shown == format!("Bearer {next}")
        });
        // On every shard, whatever the connection.
        for _ in 0..8 {
            assert_eq!(ask(), format!("Bearer {next}"));
        }
    }
    // A file that cannot be used leaves the one before.
    let last = ask();
    fs::write(plants.path("rotated"), "two\nlines\n").expect("the folder can be written");
    eventually("it is said", || gateway.said("has characters that it cannot have") > 0);
    assert_eq!(ask(), last);
}
