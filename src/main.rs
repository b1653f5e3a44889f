//! Read the command line, do what it says, leave with a named exit code.

mod advise;
mod cli;
mod people;
mod shown;
mod steer;

use std::io::{IsTerminal as _, Read as _, Write as _};
use std::net::TcpStream;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use clap::Parser as _;
use portcullis::base::glob::Glob;
use portcullis::base::limits::{ADMIN_ANSWER_MS_MAX, CONFIG_BYTES_MAX, INCLUDED_FOLDER_ENTRIES_MAX};
use portcullis::config::{self, Fault, Loaded, Source, Stands, Weight};
use portcullis::demo::DemoFault;
use portcullis::identity::mint::{Grant, MintKey};
use portcullis::mcp::catalog::ListKind;
use portcullis::mcp::pin::Key;
use portcullis::plane::pins::{show, store};
use portcullis::plane::reload::ConfigFile;
use portcullis::plane::start::{Gateway, Options};
use portcullis::plane::{PlaneFault, audit, banner, notify, signals};
use portcullis::uring::ring::Choice;
use portcullis::uring::wait::clock;
use ring::rand::SystemRandom;

use cli::{AuditVerb, Cli, ConfigVerb, PinsChoice, PinsVerb, Verb};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let cli = Cli::parse();
    tracing_subscriber::fmt()
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty()))
        .with_target(false)
        // Told on stderr, which a failed write to stderr would make a panic: whoever closes it must not end the gateway.
        .log_internal_errors(false)
        .init();
    let result = match cli.verb {
        Verb::Run(run) => self::run(&run),
        Verb::Check(check) => self::check(&check),
        Verb::Config(config) => match config.verb {
            ConfigVerb::Show { config, effective, json } => show(&config, effective, json),
        },
        Verb::Demo(demo) => self::demo(demo),
        Verb::Token(token) => self::token(&token),
        Verb::Healthcheck(check) => return healthcheck(&check),
        Verb::Reload(steer) => steer::reload(&steer),
        Verb::Drain(steer) => steer::drain(&steer),
        Verb::Status(steer) => steer::status(&steer),
        Verb::Audit(audit) => match audit.verb {
            AuditVerb::Export { dir } => export(&dir),
        },
        Verb::Pins(pins) => self::pins(&pins.verb),
        Verb::Approvals(approvals) => people::approvals(&approvals.verb),
        Verb::Revoke(revoke) => people::revoke(&revoke),
        Verb::Policy(policy) => advise::policy(&policy.verb),
        Verb::Version => {
            println!("portcullis {}", env!("CARGO_PKG_VERSION"));
            Ok(cli::EXIT_OK)
        }
    };
    match result {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            eprintln!("error: {error:#}");
            let start = error.downcast_ref::<PlaneFault>().is_some();
            ExitCode::from(if start { cli::EXIT_START } else { cli::EXIT_FAILURE })
        }
    }
}

fn run(run: &cli::Run) -> anyhow::Result<u8> {
    let Some(Loaded { settings, .. }) = load(&run.config, false)? else { return Ok(cli::EXIT_CONFIG) };
    let driver = match run.driver {
        cli::Driver::Auto => Choice::Auto,
        cli::Driver::IoUring => Choice::IoUring,
        cli::Driver::Epoll => Choice::Epoll,
    };
    let signals = signals::catch()?;
    let config = ConfigFile { path: run.config.clone(), source: Arc::new(System) };
    let gateway = Gateway::start(settings, Options { driver, config: Some(config), ..Options::default() })?;
    eprint!("{}", banner::text(&gateway));
    notify::ready(&gateway)?;
    signals.steer(gateway.handle())?;
    gateway.wait()?;
    Ok(cli::EXIT_OK)
}

fn check(check: &cli::Check) -> anyhow::Result<u8> {
    let Some(path) = check.config.as_deref().filter(|_| !check.schema) else {
        print!("{}", config::schema_json());
        return Ok(cli::EXIT_OK);
    };
    let Some(loaded) = load(path, check.strict)? else { return Ok(cli::EXIT_CONFIG) };
    let found = advise::beside_pins(&loaded.settings, &loaded.stands)?;
    let name = path.display().to_string();
    let errors = told(&found, &name, &loaded.stands);
    if errors > 0 {
        eprintln!("{name}: {errors} {} to mend", if errors == 1 { "fault" } else { "faults" });
    } else if check.strict && !found.is_empty() {
        eprintln!("{name}: {} by --strict", strictly(found.len()));
    }
    Ok(if errors > 0 || check.strict && !found.is_empty() { cli::EXIT_CONFIG } else { cli::EXIT_OK })
}

/// Shows a configuration. What is wrong with it is told as `check` tells it.
fn show(path: &Path, effective: bool, json: bool) -> anyhow::Result<u8> {
    if load(path, false)?.is_none() {
        return Ok(cli::EXIT_CONFIG);
    }
    let text = std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let Ok(shown) = config::effective(&text, folder, &System, effective) else {
        anyhow::bail!("{} has just changed", path.display());
    };
    print_all(&if json { shown.to_json() } else { shown.to_yaml() })?;
    Ok(cli::EXIT_OK)
}

fn demo(demo: cli::Demo) -> anyhow::Result<u8> {
    match portcullis::demo::run(demo.listen, demo.dir) {
        Ok(()) => Ok(cli::EXIT_OK),
        Err(DemoFault::Plane(fault)) => Err(fault.into()),
        Err(fault @ (DemoFault::Taken(_) | DemoFault::NotLoopback(_))) => {
            eprintln!("error: {fault}");
            Ok(cli::EXIT_START)
        }
        Err(fault) => Err(fault.into()),
    }
}

/// Reads a configuration and shows everything that is wrong with it; `None` when it cannot be used.
fn load(path: &Path, strict: bool) -> anyhow::Result<Option<Loaded>> {
    let text = std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let name = path.display().to_string();
    match config::load(&text, folder, &System) {
        Ok(loaded) => {
            for warning in &loaded.warnings {
                eprint!("{}", warning.render(&name, &text));
            }
            let warnings = loaded.warnings.len();
            if strict && warnings > 0 {
                eprintln!("{name}: {} by --strict", strictly(warnings));
                return Ok(None);
            }
            Ok(Some(loaded))
        }
        Err(faults) => {
            for fault in &faults {
                eprint!("{}", fault.render(&name, &text));
            }
            let errors = faults.iter().filter(|fault| fault.weight == Weight::Error).count();
            eprintln!("{name}: {errors} {} to mend", if errors == 1 { "fault" } else { "faults" });
            Ok(None)
        }
    }
}

fn strictly(warnings: usize) -> String {
    format!("{warnings} {}", if warnings == 1 { "warning, a fault" } else { "warnings, faults" })
}

/// Shows what is wrong with a policy beside a catalogue; how much of that is an error. `name`: of its file.
fn told(found: &[Fault], name: &str, stands: &Stands) -> usize {
    found.iter().for_each(|fault| eprint!("{}", fault.render(name, stands.text())));
    found.iter().filter(|fault| fault.weight == Weight::Error).count()
}

/// What reading to the end looks ahead, at most.
const READ_AHEAD_BYTES: usize = 64;

/// Variables and files of the machine.
struct System;

impl Source for System {
    fn var(&self, name: &str) -> Option<String> {
        std::env::var(name).ok()
    }

    fn file(&self, path: &Path) -> std::io::Result<String> {
        let file = std::fs::File::open(path)?;
        if !file.metadata()?.is_file() {
            return Err(std::io::Error::new(std::io::ErrorKind::InvalidInput, "it is not a file"));
        }
        // Large enough from the start on: a text that grows leaves copies behind, and it may be a secret.
        let length = usize::try_from(file.metadata()?.len()).unwrap_or(usize::MAX).min(CONFIG_BYTES_MAX);
        let mut text = String::with_capacity(length + READ_AHEAD_BYTES);
        // One byte more than any of them may have, so that whoever asked can tell.
        file.take(CONFIG_BYTES_MAX as u64 + 1).read_to_string(&mut text)?;
        Ok(text)
    }

    fn list(&self, folder: &Path, names: &Glob) -> std::io::Result<Vec<String>> {
        let mut found = Vec::new();
        for (number, entry) in std::fs::read_dir(folder)?.enumerate() {
            if number == INCLUDED_FOLDER_ENTRIES_MAX {
                return Err(std::io::ErrorKind::FileTooLarge.into());
            }
            // No file of a configuration has a name that is not text.
            found.extend(entry?.file_name().into_string().ok().filter(|name| names.matches(name)));
        }
        found.sort();
        Ok(found)
    }
}

fn token(token: &cli::Token) -> anyhow::Result<u8> {
    let random = SystemRandom::new();
    let key = match std::fs::read(&token.key) {
        Ok(pkcs8) => MintKey::from_pkcs8(&pkcs8, &random)
            .with_context(|| format!("{} is no development key of this program", token.key.display()))?,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => new_key(&token.key, &random)?,
        Err(error) => return Err(error).with_context(|| format!("cannot read {}", token.key.display())),
    };
    let audience: Vec<&str> = token.audience.iter().map(String::as_str).collect();
    let tasks: Vec<&str> = token.task.iter().map(String::as_str).collect();
    let now = clock().unix_s();
    let minted = key.mint(
        &Grant {
            issuer: &token.issuer,
            audience: &audience,
            subject: &token.subject,
            agent: token.agent.as_deref(),
            tasks: &tasks,
            issued_at: now,
            expires: now + token.expires,
        },
        &random,
    )?;
    println!("{minted}");
    Ok(cli::EXIT_OK)
}

fn new_key(path: &Path, random: &SystemRandom) -> anyhow::Result<MintKey> {
    let key = MintKey::generate(random)?;
    let cannot = |path: &Path| format!("cannot write {}", path.display());
    let mut file = std::fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)
        .with_context(|| cannot(path))?;
    file.write_all(key.pkcs8()).with_context(|| cannot(path))?;
    let mut public = path.as_os_str().to_owned();
    public.push(".jwks.json");
    let public = PathBuf::from(public);
    std::fs::write(&public, key.key_set()).with_context(|| cannot(&public))?;
    eprintln!("made a development key; its key set for 'jwks: {{ file: … }}' is {}", public.display());
    Ok(key)
}

fn healthcheck(check: &cli::Healthcheck) -> ExitCode {
    match ready(check) {
        Ok(true) => ExitCode::from(cli::EXIT_OK),
        Ok(false) => {
            eprintln!("the gateway at {} is not ready", check.admin);
            ExitCode::from(cli::EXIT_UNHEALTHY)
        }
        Err(error) => {
            eprintln!("no gateway answers at {}: {error}", check.admin);
            ExitCode::from(cli::EXIT_UNHEALTHY)
        }
    }
}

fn ready(check: &cli::Healthcheck) -> std::io::Result<bool> {
    let patience = Duration::from_millis(ADMIN_ANSWER_MS_MAX);
    let mut socket = TcpStream::connect_timeout(&check.admin, patience)?;
    socket.set_read_timeout(Some(patience))?;
    socket
        .write_all(format!("GET /readyz HTTP/1.1\r\nhost: {}\r\nconnection: close\r\n\r\n", check.admin).as_bytes())?;
    let mut answer = String::new();
    socket.take(4096).read_to_string(&mut answer)?;
    Ok(answer.starts_with("HTTP/1.1 200 "))
}

fn export(dir: &Path) -> anyhow::Result<u8> {
    let mut out = std::io::BufWriter::new(std::io::stdout().lock());
    match audit::export(dir, &mut out) {
        Ok(0) => {}
        Ok(torn) => eprintln!("{torn} line(s) torn by a crash were left out"),
        // Whoever read has had enough: `… | head`.
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => {}
        Err(error) => return Err(error).with_context(|| format!("cannot read the record in {}", dir.display())),
    }
    Ok(cli::EXIT_OK)
}

fn pins(verb: &PinsVerb) -> anyhow::Result<u8> {
    let (PinsVerb::Ls { choice, .. } | PinsVerb::Diff { choice } | PinsVerb::Approve { choice, .. }) = verb;
    let Some(loaded) = load(&choice.config, false)? else { return Ok(cli::EXIT_CONFIG) };
    let (store, servers) = (store::Store::new(&loaded.settings.state), &loaded.settings.servers);
    let wanted = chosen(choice);
    match verb {
        PinsVerb::Ls { waiting, json, .. } => print_all(&show::ls(&store, servers, &wanted, *waiting, *json)?)?,
        PinsVerb::Diff { .. } => {
            let (text, hash) = show::diff(&store, servers, &wanted)?;
            print_all(&text)?;
            match hash {
                Some(hash) => eprintln!("to approve exactly this: 'portcullis pins approve' with --hash {hash}"),
                None => eprintln!("nothing waits for approval"),
            }
        }
        PinsVerb::Approve { hash, .. } => {
            let now = store::utc(clock().unix_ms);
            let approved = show::approve(&store, servers, &wanted, hash.as_deref(), user(), &now)?;
            for (server, key, pin) in &approved.all {
                eprintln!("approved: {server} {} {pin}", show::plain(&key.to_string()));
            }
            if approved.all.is_empty() {
                eprintln!("nothing waits for approval");
            }
        }
    }
    Ok(cli::EXIT_OK)
}

fn chosen(choice: &PinsChoice) -> show::Choice {
    let named = [
        (ListKind::Tools, &choice.tool),
        (ListKind::Prompts, &choice.prompt),
        (ListKind::Resources, &choice.resource),
        (ListKind::Templates, &choice.template),
    ];
    let keys = named.into_iter().flat_map(|(kind, names)| names.iter().map(move |name| Key::new(kind, name)));
    show::Choice { server: choice.server.clone(), keys: keys.collect() }
}

/// Whose word it is: of whoever became root to give it, the user before.
fn user() -> u32 {
    let uid = rustix::process::getuid();
    let before = std::env::var("SUDO_UID").ok().filter(|_| uid.is_root());
    before.and_then(|uid| uid.parse().ok()).unwrap_or(uid.as_raw())
}

/// A text for standard output, whose reader may have had enough.
fn print_all(text: &str) -> anyhow::Result<()> {
    match std::io::stdout().lock().write_all(text.as_bytes()) {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => Err(error.into()),
        _ => Ok(()),
    }
}
