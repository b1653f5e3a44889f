//! What a person wants to know at start, on one screen.

use std::fmt::Write as _;

use crate::config::Settings;
use crate::mcp::transport::Transport;

use super::start::Gateway;

/// The screen.
#[must_use]
pub fn text(gateway: &Gateway) -> String {
    let settings = &gateway.settings;
    let mut out = String::new();
    // Writing to a String cannot fail.
    let mut line = |name: &str, value: &str| _ = writeln!(out, "  {name:<15} {value}");
    line("portcullis", env!("CARGO_PKG_VERSION"));
    for listener in &settings.listen {
        line("listening on", &format!("{}://{}", listener.scheme().as_str(), listener.address));
    }
    for endpoint in &settings.endpoints {
        line("endpoint", &endpoint.resource);
    }
    line("driver", &gateway.driver.describe());
    line("shards", &gateway.shards.to_string());
    for server in gateway.health.servers() {
        let state = match (&server.trouble, server.known) {
            (Some(trouble), _) => format!("not reachable: {trouble}"),
            (None, true) => {
                let over = if server.transport == Some(Transport::Sse) { " over HTTP+SSE (deprecated)" } else { "" };
                format!("reachable, MCP {}{over}, {}", server.eras.join(" and "), count(server.tools, "tool"))
            }
            (None, false) => "not reached yet; tried again in the background".to_owned(),
        };
        line("server", &format!("{} ({state})", server.name));
    }
    line("authentication", &authentication(settings));
    let policy = &settings.policy;
    line(
        "policy",
        &format!(
            "{} ({}, {})",
            policy.hex12(),
            count(policy.rules().len(), "rule"),
            count(policy.tasks().len(), "task")
        ),
    );
    line("audit folder", &settings.audit_dir.display().to_string());
    line("admin", &gateway.admin.map_or("off".to_owned(), |address| format!("http://{address}")));
    out
}

fn count(number: usize, what: &str) -> String {
    format!("{number} {what}{}", if number == 1 { "" } else { "s" })
}

fn authentication(settings: &Settings) -> String {
    let issuers: Vec<&str> = settings.issuers.iter().map(|issuer| &*issuer.issuer).collect();
    let outside = settings.listen.iter().map(|listener| listener.address).find(|address| !address.ip().is_loopback());
    match (issuers.is_empty(), settings.anonymous) {
        (true, _) => match outside {
            None => "none: everybody who reaches a listener is 'anonymous'".to_owned(),
            Some(address) => {
                format!("NONE, and {address} is not on loopback: everybody who reaches it is 'anonymous'")
            }
        },
        (false, true) => format!("tokens of {}; without one: 'anonymous'", issuers.join(", ")),
        (false, false) => format!("tokens of {}", issuers.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::path::Path;

    use super::*;
    use crate::config::{self, Source};

    struct Nothing;

    impl Source for Nothing {
        fn var(&self, _: &str) -> Option<String> {
            None
        }

        fn file(&self, _: &Path) -> io::Result<String> {
            Err(io::ErrorKind::NotFound.into())
        }
    }

    /// [O4] That everybody may call, on an address that is not on loopback, is said at start.
    #[test]
    fn nobody_is_asked_for_a_token() {
        let check = |listen: &str, want: &str| {
            let text = format!(
                "listen: {listen}\npublic_url: https://x\nauth: {{ anonymous: allow, anonymous_public: true }}\n\
                 servers: {{ a: {{ url: http://127.0.0.1:1/ }} }}\n"
            );
            let loaded = config::load(&text, Path::new("/"), &Nothing).unwrap_or_else(|faults| panic!("{faults:?}"));
            assert_eq!(authentication(&loaded.settings), want);
        };
        check("127.0.0.1:1", "none: everybody who reaches a listener is 'anonymous'");
        check(
            "[127.0.0.1:1, 0.0.0.0:2]",
            "NONE, and 0.0.0.0:2 is not on loopback: everybody who reaches it is 'anonymous'",
        );
    }
}
