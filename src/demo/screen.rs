//! What the demo tells its user to do: lines to paste.

use std::fmt::Write as _;
use std::path::Path;

use serde_json::{Value, json};

use crate::mcp::revision::Revision;

/// Everything the lines are made of.
pub(super) struct Setup<'a> {
    pub(super) folder: &'a Path,
    pub(super) temporary: bool,
    /// URL of each server's endpoint.
    pub(super) docs: &'a str,
    pub(super) payments: &'a str,
    /// A token for the task `research`.
    pub(super) research: &'a str,
    /// A token for the task `support-refund`.
    pub(super) refund: &'a str,
}

/// The lines.
pub(super) fn text(setup: &Setup<'_>) -> String {
    let Setup { docs, payments, .. } = setup;
    let newest = Revision::NEWEST.as_str();
    let mut out = String::new();
    // Writing to a String cannot fail.
    let _ = write!(
        out,
        "
Two agents, two tasks. Paste their tokens into a second terminal:

{}
Then ask:

  # research finds pages,
{}  # sees two of the four tools that payments has,
{}  # and gets nowhere with another (with all that MCP {newest} asks for; the others speak 2025-03-26)
{}  # support-refund can: money moves, up to what is left of the invoice
{}  # nobody deletes, and is told why
{}
Or connect a client:

  claude mcp add --transport http demo-docs {docs} --header \"Authorization: Bearer $RESEARCH\"
  npx @modelcontextprotocol/inspector --server-url {payments} --transport http \\
    --header \"Authorization: Bearer $REFUND\"
  .mcp.json (this one takes the tokens from the environment; the one in the folder below has them inside):
{}
Configuration, tokens, key, record: {}{}
Every decision appears here, and in the record. Ctrl-C ends the demo.
",
        exports(setup),
        legacy(docs, "RESEARCH", "tools/call", &call("search", &json!({ "query": "refund" }))),
        legacy(payments, "RESEARCH", "tools/list", "{}"),
        modern(payments, "RESEARCH", "refund", &json!({ "invoice_id": "INV-1001", "amount": 40, "currency": "EUR" })),
        legacy(
            payments,
            "REFUND",
            "tools/call",
            &call("refund", &json!({ "invoice_id": "INV-1001", "amount": 40, "currency": "EUR" })),
        ),
        legacy(payments, "REFUND", "tools/call", &call("delete_invoice", &json!({ "invoice_id": "INV-1001" }))),
        servers(docs, payments),
        setup.folder.display(),
        if setup.temporary { " (removed at the end)" } else { "" },
    );
    out
}

/// The two lines that a shell takes the tokens from.
pub(super) fn exports(setup: &Setup<'_>) -> String {
    format!("export RESEARCH={}\nexport REFUND={}\n", setup.research, setup.refund)
}

/// A `.mcp.json` with the tokens inside.
pub(super) fn mcp_json(setup: &Setup<'_>) -> Value {
    let entry = |url: &str, token: &str| json!({ "type": "http", "url": url, "headers": { "Authorization": format!("Bearer {token}") } });
    json!({ "mcpServers": {
        "demo-docs": entry(setup.docs, setup.research),
        "demo-payments": entry(setup.payments, setup.refund),
    } })
}

fn call(tool: &str, arguments: &Value) -> String {
    format!("{{\"name\":\"{tool}\",\"arguments\":{arguments}}}")
}

/// A request of the handshake era. These two servers need no session, so that one line is enough.
fn legacy(url: &str, token: &str, method: &str, params: &str) -> String {
    format!(
        "  curl {url} -H \"Authorization: Bearer ${token}\" -H 'Content-Type: application/json' \\\n    \
         -d '{{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"{method}\",\"params\":{params}}}'; echo\n"
    )
}

/// A tool's call in the newest revision.
fn modern(url: &str, token: &str, tool: &str, arguments: &Value) -> String {
    let newest = Revision::NEWEST.as_str();
    format!(
        "  curl {url} -H \"Authorization: Bearer ${token}\" -H 'Content-Type: application/json' \\\n    \
         -H 'Accept: application/json, text/event-stream' -H 'MCP-Protocol-Version: {newest}' \\\n    \
         -H 'Mcp-Method: tools/call' -H 'Mcp-Name: {tool}' \\\n    \
         -d '{{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"tools/call\",\"params\":{{\"name\":\"{tool}\",\"arguments\":{arguments},\n      \
         \"_meta\":{{\"io.modelcontextprotocol/protocolVersion\":\"{newest}\",\"io.modelcontextprotocol/clientCapabilities\":{{}}}}}}}}'; \
         echo\n"
    )
}

/// The same as [`mcp_json`], short, with variables that Claude Code fills in from its environment.
fn servers(docs: &str, payments: &str) -> String {
    let entry = |name: &str, url: &str, token: &str| {
        format!(
            "\"{name}\": {{\"type\": \"http\", \"url\": \"{url}\", \"headers\": {{\"Authorization\": \"Bearer ${{{token}}}\"}}}}"
        )
    };
    let entries = [entry("demo-docs", docs, "RESEARCH"), entry("demo-payments", payments, "REFUND")];
    format!("  {{\"mcpServers\": {{\n    {},\n    {}}}}}\n", entries[0], entries[1])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_to_be_pasted_is_well_formed() {
        let setup = Setup {
            folder: Path::new("/tmp/x"),
            temporary: true,
            docs: "http://127.0.0.1:8080/s/docs/mcp",
            payments: "http://127.0.0.1:8080/s/payments/mcp",
            research: "eyJ.a.b",
            refund: "eyJ.c.d",
        };
        let text = text(&setup);
        let bodies: Vec<&str> =
            text.split("-d '").skip(1).map(|rest| rest.split_once('\'').expect("a closing quote").0).collect();
        assert_eq!(bodies.len(), 5);
        for body in bodies {
            assert!(crate::jsonrpc::scan::read(body.as_bytes()).is_ok(), "{body}");
        }
        let block: Value = serde_json::from_str(&servers(setup.docs, setup.payments)).unwrap();
        assert_eq!(block["mcpServers"]["demo-docs"]["headers"]["Authorization"], "Bearer ${RESEARCH}");
        assert_eq!(mcp_json(&setup)["mcpServers"]["demo-payments"]["headers"]["Authorization"], "Bearer eyJ.c.d");
        let wide = text.lines().filter(|line| !line.starts_with("export")).map(str::len).max().unwrap();
        assert!(wide <= 160 && text.lines().count() <= 55, "{wide} columns, {} lines", text.lines().count());
    }
}
