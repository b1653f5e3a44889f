//! What a person wants to know at start, on one screen.

use std::fmt::Write as _;

use super::start::Gateway;

/// The screen.
#[must_use]
pub fn text(gateway: &Gateway) -> String {
    let settings = &gateway.settings;
    let mut out = String::new();
    // Writing to a String cannot fail.
    let mut line = |name: &str, value: &str| _ = writeln!(out, "  {name:<15} {value}");
    line("portcullis", env!("CARGO_PKG_VERSION"));
    for address in &settings.listen {
        line("listening on", &format!("http://{address}"));
    }
    for endpoint in &settings.endpoints {
        line("endpoint", &endpoint.resource);
    }
    line("driver", &gateway.driver.describe());
    line("shards", &gateway.shards.to_string());
    for server in gateway.health.servers() {
        let state = match (&server.trouble, server.known) {
            (Some(trouble), _) => format!("not reachable: {trouble}"),
            (None, true) => format!("reachable, MCP {}, {}", server.eras.join(" and "), count(server.tools, "tool")),
            (None, false) => "not reached yet; tried again in the background".to_owned(),
        };
        line("server", &format!("{} ({state})", server.name));
    }
    line("authentication", &authentication(gateway));
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

fn authentication(gateway: &Gateway) -> String {
    let issuers: Vec<&str> = gateway.settings.issuers.iter().map(|issuer| &*issuer.issuer).collect();
    match (issuers.is_empty(), gateway.settings.anonymous) {
        (true, _) => "none: everybody who reaches a listener is 'anonymous'".to_owned(),
        (false, true) => format!("tokens of {}; without one: 'anonymous'", issuers.join(", ")),
        (false, false) => format!("tokens of {}", issuers.join(", ")),
    }
}
