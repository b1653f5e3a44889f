//! policy: task-based access control.
//! Colour: pure. Owns: rules, their patterns, the compiled table, the only maker of a `Permit`.
//! Not here: YAML, tokens, clocks, counters, what a refusal looks like on the wire.
//! Start at `decide::decide`; `explain::explain` says the same by walking the rules as written.
//! Spec: RFC 3986 5.2.4 and 6.2.2 (normal form of a URI), RFC 6570 (templates).

pub mod approval;
mod classes;
pub mod compile;
pub mod cond;
pub mod counter;
pub mod decide;
pub mod explain;
#[cfg(any(test, fuzzing))]
pub mod fuzz;
mod keys;
pub mod limit;
pub mod needs;
pub mod pattern;
pub mod remarks;
pub mod rule;
pub mod schema;
pub mod table;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod twin_tests;
pub mod uri;
mod weigh;

pub use crate::base::glob;
