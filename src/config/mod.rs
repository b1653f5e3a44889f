//! config: from the operator's text to settings that are known to make sense.
//! Colour: pure. Owns: the table of keys, faults with their places, `Settings`, `Snapshot`.
//! Not here: files, variables, clocks (a `Source` hands in the first two), sockets, the running gateway.
//! Start at `load`; every key there is, served or not yet, is a row of `schema::ROOT`.
//! Spec: YAML 1.2; RFC 3986; RFC 6454 for origins; RFC 7468 for PEM; JSON Schema draft-07 for editors.

mod argument;
pub mod audited;
mod auth;
pub mod cases;
mod check;
mod counts;
mod credentials;
mod effective;
mod expand;
mod fault;
mod fetched;
mod files;
mod front;
#[cfg(any(test, fuzzing))]
pub mod fuzz;
mod issuers;
mod parts;
mod raw;
mod routes;
mod rules;
mod scalar;
mod schema;
mod servers;
mod settings;
mod shape;
pub mod snapshot;
mod stands;
pub mod succession;
#[cfg(test)]
mod tests;
mod telemetry;
mod tls;

pub use argument::{ArgPath, ArgStep};
pub use auth::{
    Credentials, FixedField, Grant, GrantMark, GuardSettings, IdentityHeader, IdentityValue, IntrospectionSettings,
    IssuerSource, KeysFrom, OtlpSettings, Shows, TelemetrySettings, TraceContext,
};
pub use check::{Loaded, load};
pub use effective::{Shown, effective};
pub use expand::Source;
pub use fault::{Fault, Included, Weight};
pub use parts::{PolicyFile, policy_of};
pub use schema::schema_json;
pub use settings::{
    AuditSettings, CertPaths, ClientCert, CommandSettings, EndpointSettings, HealthSettings, InstanceSettings, Limits,
    ListenSettings, ListenTls, Names, Pin, Reach, Scheme, ServerSettings, ServerTls, Settings, Shards, Sharing,
};
pub use stands::Stands;
