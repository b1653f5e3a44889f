//! plane: everything that is not a request.
//! Colour: plane. Owns: start and stop, the catalogue's upkeep, names to addresses, the log of the record, the admin
//! listener, certificates, secrets and sessions in the state folder.
//! Not here: anything between a byte of a client and its answer.
//! Start at `start::Gateway::start`.
//! Spec: README "Running it"; MCP 2026-07-28 basic/versioning (era probe), server/utilities/caching.

pub mod admin;
mod approvals;
pub mod audit;
pub mod banner;
pub mod broker;
mod certs;
mod client;
mod counts;
mod endpoints;
mod fetch;
mod introspect;
mod journal;
mod issuers;
mod keeper;
mod keybook;
pub mod log;
mod metrics;
mod misfits;
pub mod notify;
pub mod orders;
mod otlp;
pub mod pins;
mod people;
mod places;
mod probe;
mod programs;
mod publish;
pub mod reload;
pub mod revoke;
mod shown;
pub mod signals;
pub mod start;
pub mod state;
mod states;
mod surveys;
mod talk;
mod looks;
mod views;
mod wire;

/// What keeps the plane from doing its work.
#[derive(Debug, thiserror::Error)]
pub enum PlaneFault {
    /// A folder or file of ours cannot be used.
    #[error("{what} {path}: {error}")]
    File {
        /// What it is for.
        what: &'static str,
        /// Where it is.
        path: String,
        /// What the system says.
        error: std::io::Error,
    },
    /// The sealing key is not one that we made.
    #[error(
        "the key file {0} must hold 64 hexadecimal digits (32 bytes); remove it to have a new one made, which ends all sessions"
    )]
    Key(String),
    /// Others than its owner may read the sealing key.
    #[error("the key file {0} can be read by others: whoever has it can make session ids; chmod 600 {0}")]
    KeyOpen(String),
    /// Two gateways would write over each other's sessions.
    #[error("the state folder {0} is in use by another gateway; give each its own ('state' in the configuration)")]
    StateTaken(String),
    /// The journal of sessions is not one that this build can read.
    #[error("the journal of sessions {path} cannot be used: {fault}; remove it to start without those sessions")]
    Journal {
        /// Where it is.
        path: String,
        /// What is wrong with it.
        fault: crate::session::journal::JournalFault,
    },
    /// The revocations are not what a gateway wrote.
    #[error(
        "the revocations in {path} cannot be read: {why}; mend that file, or undo them all by removing it. Until then \
         nothing is served: who is revoked must not be let in"
    )]
    Revocations {
        /// Where they are.
        path: String,
        /// What is wrong with it.
        why: String,
    },
    /// The approvals are not what a gateway wrote.
    #[error(
        "the approvals in {path} cannot be read: {why}; remove that file to start without them: what was approved is \
         asked again then"
    )]
    Approvals {
        /// Where they are.
        path: String,
        /// What is wrong with it.
        why: String,
    },
    /// The journal of counts is not one that this build can read.
    #[error(
        "the journal of counts {path} cannot be used: {fault}; remove it, and counts.ring, to begin all counts anew"
    )]
    Counts {
        /// Where it is.
        path: String,
        /// What is wrong with it.
        fault: crate::policy::counter::journal::JournalFault,
    },
    /// The file through which counts go into their journal is not one that this build can read.
    #[error("the ring of counts {path} cannot be used: {fault}; remove it to start without what was counted last")]
    CountsRing {
        /// Where it is.
        path: String,
        /// What is wrong with it.
        fault: crate::ledger::counts::SpoolFault,
    },
    /// An address cannot be listened on.
    #[error(
        "cannot listen on {address}: {error}; is another process using it? ('listen' and 'admin' in the configuration set the addresses)"
    )]
    Listen {
        /// The address.
        address: std::net::SocketAddr,
        /// What the system says.
        error: std::io::Error,
    },
    /// A file of certificates or a key is not what it should be.
    #[error("{path}: {fault}")]
    Certificate {
        /// Which file, or what of the system.
        path: String,
        /// What is wrong with it.
        fault: crate::tls::fault::TlsFault,
    },
    /// No runtime for the shards.
    #[error("{0}")]
    Ring(#[from] crate::uring::ring::RingFault),
    /// A thread, a pipe, an event descriptor.
    #[error("the system refuses {what}: {error}")]
    System {
        /// What was asked for.
        what: &'static str,
        /// What the system says.
        error: std::io::Error,
    },
}
