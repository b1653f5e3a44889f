//! The Rust SDK as a client and as a server, for the integration tests.
//!
//!   rmcp-peer client '{"url": "http://…/mcp", …}'   what ts_client.mjs does, with the same outcomes
//!   rmcp-peer server [PORT]                          prints `listening PORT`, serves http://127.0.0.1:PORT/mcp

// Of the legacy era, and on purpose.
#![allow(deprecated)]

mod client;
mod server;

/// What a step, or a tool, may fail with.
type Fault = Box<dyn std::error::Error + Send + Sync>;

/// The resource that is watched.
const WATCHED: &str = "note://watched";

#[tokio::main]
async fn main() -> Result<(), Fault> {
    let mut words = std::env::args().skip(1);
    match (words.next().as_deref(), words.next()) {
        (Some("client"), Some(spec)) => client::run(&serde_json::from_str(&spec)?).await,
        (Some("server"), port) => server::run(port.map_or(Ok(0), |port| port.parse())?).await,
        _ => Err("client SPEC, or server [PORT]".into()),
    }
}
