//! demo: the built-in servers and the throw-away issuer of `portcullis demo`.
//! Colour: plane. Owns: two small MCP servers, a signing key, an embedded configuration.
//! Not here: anything that a real deployment uses.
//! Start at `run`.
//! Spec: MCP 2025-11-25 and 2026-07-28, as far as two small servers need it.

/// Runs the demo until it is told to stop.
///
/// # Errors
/// When the gateway cannot start.
pub fn run(_listen: std::net::SocketAddr, _dir: Option<std::path::PathBuf>) -> Result<(), crate::plane::PlaneFault> {
    Ok(())
}
