//! base: words the whole house uses.
//! Colour: pure. Owns: ids, spans, bounds, moments, bitsets, slabs, globs, the timer wheel.
//! Not here: anything that knows HTTP, JSON or MCP.
//! Start at `limits`.
//! Spec: none; `limits` cites the clauses its numbers come from.

pub mod bits;
#[cfg(any(test, fuzzing))]
pub mod fuzz;
pub mod glob;
pub mod ids;
pub mod limits;
pub mod net;
pub mod secret;
pub mod slab;
pub mod span;
pub mod time;
pub mod wheel;
