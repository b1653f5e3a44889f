//! demo: the built-in servers and the throw-away issuer of `portcullis demo`.
//! Colour: plane. Owns: two small MCP servers, a signing key, an embedded configuration, a view of the record.
//! Not here: anything that a real deployment uses; the gateway itself is started as `run` starts it.
//! Start at `run`; the servers at `handler::Server::answer`.
//! Spec: MCP 2025-11-25 and 2026-07-28, as far as two small servers need it.

mod docs;
mod folder;
mod handler;
mod payments;
mod screen;
mod serve;
mod stream;

use std::io::{ErrorKind, IsTerminal as _, Write as _};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::time::Duration;

use ring::rand::SystemRandom;
use signal_hook::consts::SIGHUP;
use signal_hook::iterator::Signals;
use thiserror::Error;

use crate::base::limits::{DEMO_LINES_MAX, DEMO_TOKEN_S, IDLE_MS_MAX};
use crate::config::{self, Settings, Source};
use crate::identity::mint::{Grant, MintFault, MintKey};
use crate::plane::start::{Gateway, Handle, Options};
use crate::plane::{PlaneFault, banner, signals};
use crate::uring::wait::clock;

use folder::Folder;
use handler::{Content, Server};
use payments::Payments;
use screen::Setup;
use stream::{Event, Lines};

/// The configuration, but for the addresses.
const CONFIG: &str = include_str!("demo.yaml");

/// Its name in the demo's folder.
const CONFIG_FILE: &str = "portcullis.yaml";

/// No such host exists (RFC 2606): nobody fetches anything from this issuer, or could be it.
const ISSUER: &str = "https://issuer.portcullis.invalid";

/// Why there is no demo.
#[derive(Debug, Error)]
pub enum DemoFault {
    /// The address belongs to somebody else.
    #[error("{0} is taken by another program; take a free port with 'portcullis demo --listen {ip}:0', or name another", ip = .0.ip())]
    Taken(SocketAddr),
    /// Whoever can reach the demo can move its money: its key and tokens lie in a folder, and are shown.
    #[error(
        "the demo listens on this machine only, not on {0}; give --listen an address of loopback, 127.0.0.1:8080 say"
    )]
    NotLoopback(SocketAddr),
    /// The gateway cannot start.
    #[error(transparent)]
    Plane(#[from] PlaneFault),
    /// The embedded configuration is at fault, with this address or folder.
    #[error("the demo's configuration cannot be used:\n{0}")]
    Config(String),
    /// No token was made.
    #[error("no token could be made: {0}")]
    Mint(#[from] MintFault),
}

/// Runs the demo until SIGINT or SIGTERM, and cleans up after it.
///
/// # Errors
/// When the gateway cannot start.
pub fn run(listen: SocketAddr, dir: Option<PathBuf>) -> Result<(), DemoFault> {
    if !listen.ip().is_loopback() {
        return Err(DemoFault::NotLoopback(listen));
    }
    // Before the folder is there: nothing is left behind by an early Ctrl-C.
    let signals = signals::catch()?;
    let random = SystemRandom::new();
    let folder = Folder::open(dir, &random)?;
    let result = serve(listen, &folder, &random, signals);
    folder.remove();
    result
}

fn serve(
    listen: SocketAddr,
    folder: &Folder,
    random: &SystemRandom,
    signals: signals::Caught,
) -> Result<(), DemoFault> {
    let key = folder.key(random)?;
    let docs = serve::start(Server::new(Content::Docs))?;
    let payments = serve::start(Server::new(Content::Payments(Payments::new())))?;
    let settings = settings(listen, docs, payments, folder)?;
    let (events, shown) = sync_channel(DEMO_LINES_MAX);
    let lost = Arc::new(AtomicU64::new(0));
    let options = Options { watcher: Some(watcher(events, lost.clone())), ..Options::default() };
    let gateway = Gateway::start(settings, options).map_err(|fault| match fault {
        PlaneFault::Listen { address, error } if error.kind() == ErrorKind::AddrInUse => DemoFault::Taken(address),
        fault => fault.into(),
    })?;
    signals.steer(gateway.handle())?;
    end_with_terminal(gateway.handle())?;
    let text = introduce(&gateway, &key, folder, random)?;
    let handle = gateway.handle();
    let (showing, shown_all) = sync_channel::<()>(0);
    thread("demo-terminal", move || {
        show(&text, &shown, &lost, &handle);
        drop(showing);
    })?;
    let result = gateway.wait();
    // The log has ended, and with it the watcher: the last lines are on their way, unless the terminal stands still.
    let _ = shown_all.recv_timeout(Duration::from_millis(LAST_LINES_MS));
    Ok(result?)
}

/// The last lines get so long.
const LAST_LINES_MS: u64 = 1_000;

/// A demo is for whoever looks at it: it ends when its terminal is closed.
fn end_with_terminal(handle: Handle) -> Result<(), PlaneFault> {
    let mut hangups = Signals::new([SIGHUP]).map_err(|error| PlaneFault::System { what: "signal handlers", error })?;
    thread("demo-hangup", move || {
        if hangups.forever().next().is_some() {
            handle.drain();
        }
    })
}

fn thread(name: &str, work: impl FnOnce() + Send + 'static) -> Result<(), PlaneFault> {
    let started = std::thread::Builder::new().name(name.to_owned()).spawn(work);
    started.map(drop).map_err(|error| PlaneFault::System { what: "a thread", error })
}

/// The embedded configuration, written down for the user and read as a user's file is.
fn settings(
    listen: SocketAddr,
    docs: SocketAddr,
    payments: SocketAddr,
    folder: &Folder,
) -> Result<Settings, DemoFault> {
    let text = config_text(listen, docs, payments);
    folder.write(CONFIG_FILE, text.as_bytes())?;
    let loaded = config::load(&text, &folder.path, &Files).map_err(|faults| {
        let shown: Vec<String> = faults.iter().map(|fault| fault.render(CONFIG_FILE, &text)).collect();
        DemoFault::Config(shown.join("\n"))
    })?;
    Ok(loaded.settings)
}

fn config_text(listen: SocketAddr, docs: SocketAddr, payments: SocketAddr) -> String {
    let parts = [
        ("@LISTEN@", listen.to_string()),
        ("@ISSUER@", ISSUER.to_owned()),
        ("@DOCS@", docs.to_string()),
        ("@PAYMENTS@", payments.to_string()),
    ];
    parts.iter().fold(CONFIG.to_owned(), |text, (mark, value)| text.replace(mark, value))
}

/// The configuration names files of its folder, and no variables.
struct Files;

impl Source for Files {
    fn var(&self, _: &str) -> Option<String> {
        None
    }

    fn file(&self, path: &Path) -> std::io::Result<String> {
        std::fs::read_to_string(path)
    }
}

/// Mints the tokens, leaves them in the folder, and says how to use them.
fn introduce(gateway: &Gateway, key: &MintKey, folder: &Folder, random: &SystemRandom) -> Result<String, DemoFault> {
    let resources: Vec<&str> = gateway.settings.endpoints.iter().map(|endpoint| &*endpoint.resource).collect();
    let endpoint = |server: &str| {
        let found = resources.iter().find(|url| url.ends_with(&format!("/s/{server}/mcp")));
        *found.expect("every server has its own path")
    };
    let now = clock().unix_s();
    let mint = |subject: &str, agent: &str, task: &str| {
        let grant = Grant {
            issuer: ISSUER,
            audience: &resources,
            subject,
            agent: Some(agent),
            tasks: &[task],
            issued_at: now,
            expires: now + DEMO_TOKEN_S,
        };
        key.mint(&grant, random)
    };
    let setup = Setup {
        folder: &folder.path,
        temporary: folder.temporary,
        docs: endpoint("docs"),
        payments: endpoint("payments"),
        research: &mint("alice", "research-bot", "research")?,
        refund: &mint("bob", "support-bot", "support-refund")?,
    };
    folder.write("tokens.sh", screen::exports(&setup).as_bytes())?;
    folder.write(".mcp.json", format!("{:#}\n", screen::mcp_json(&setup)).as_bytes())?;
    Ok(format!("{}{}\n", banner::text(gateway), screen::text(&setup)))
}

/// Hands each record to the terminal's thread, or leaves it out: a terminal that stands still must not hold up the
/// record, and with it every call.
fn watcher(events: SyncSender<Event>, lost: Arc<AtomicU64>) -> crate::plane::log::Watcher {
    Box::new(move |frame| {
        if events.try_send(Event::of(frame)).is_err() {
            lost.fetch_add(1, Ordering::Relaxed);
        }
    })
}

/// Writes `text`, then the lines, until there are no more, or nobody to read them: then the demo ends.
fn show(text: &str, events: &Receiver<Event>, lost: &AtomicU64, handle: &Handle) {
    let mut terminal = std::io::stdout();
    let colour = terminal.is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
    let mut lines = Lines::new(colour);
    let mut out = format!("{text}{}\n", stream::HEADING);
    let now_ms = || clock().mono.0 / 1_000_000;
    loop {
        if terminal.write_all(out.as_bytes()).and_then(|()| terminal.flush()).is_err() {
            return handle.drain();
        }
        out.clear();
        let patience = lines.due().map_or(IDLE_MS_MAX, |due| due.saturating_sub(now_ms()));
        match events.recv_timeout(Duration::from_millis(patience)) {
            Ok(event) => lines.heard(event, now_ms(), &mut out),
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => {
                lines.tick(u64::MAX, &mut out);
                let _ = terminal.write_all(out.as_bytes());
                return;
            }
        }
        lines.tick(now_ms(), &mut out);
        match lost.swap(0, Ordering::Relaxed) {
            0 => {}
            n => out.push_str(&format!("… {n} more, not shown here; the record has them\n")),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv6Addr;

    use super::*;

    #[test]
    fn the_configuration_has_no_fault_and_no_warning() {
        let folder = Folder { path: tempfile::tempdir().unwrap().keep(), temporary: true };
        folder.key(&SystemRandom::new()).unwrap();
        let address = |port: u16| SocketAddr::from(([127, 0, 0, 1], port));
        for listen in [address(0), address(8080), SocketAddr::from((Ipv6Addr::LOCALHOST, 8080))] {
            let text = config_text(listen, address(9001), address(9002));
            assert!(!text.contains('@'), "{text}");
            let loaded = config::load(&text, &folder.path, &Files).unwrap_or_else(|faults| panic!("{faults:?}"));
            assert!(loaded.warnings.is_empty(), "{:?}", loaded.warnings);
            assert_eq!(loaded.settings.policy.tasks().len(), 2);
        }
        folder.remove();
    }

    #[test]
    fn other_machines_are_kept_out() {
        let everywhere = SocketAddr::from(([0, 0, 0, 0], 8080));
        assert!(matches!(run(everywhere, None), Err(DemoFault::NotLoopback(_))));
    }
}
