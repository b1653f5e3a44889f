//! identity: who calls, and what the caller works on.
//! Colour: pure. Owns: token verification, key sets as values, callers, the active task.
//! Not here: fetching key sets, clocks, HTTP headers, policy.
//! Start at `token::verify`.
//! Spec: RFC 7515, 7517, 7518, 7519, 8037, 8725, 9068; MCP authorization.

pub mod active;
pub mod cache;
pub mod caller;
pub mod claims;
#[cfg(any(test, fuzzing))]
pub mod fuzz;
pub mod keyring;
pub mod keys;
pub mod liveness;
pub mod mint;
pub mod provider;
pub mod revoked;
pub mod token;
