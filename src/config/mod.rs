//! config: from the operator's text to settings that are known to make sense.
//! Colour: pure. Owns: the table of keys, faults with their places, `Settings`, `Snapshot`.
//! Not here: files, variables, clocks (a `Source` hands in the first two), sockets, the running gateway.
//! Start at `load`; every key there is, served or not yet, is a row of `schema::ROOT`.
//! Spec: YAML 1.2; RFC 3986; RFC 6454 for origins; JSON Schema draft-07 for editors.

mod check;
mod expand;
mod fault;
mod front;
#[cfg(any(test, fuzzing))]
pub mod fuzz;
mod raw;
mod routes;
mod rules;
mod schema;
mod settings;
mod shape;
pub mod snapshot;
#[cfg(test)]
mod tests;

pub use check::{Loaded, load};
pub use expand::Source;
pub use fault::{Fault, Weight};
pub use schema::schema_json;
pub use settings::{EndpointSettings, Limits, Scheme, ServerSettings, Settings, Shards};
