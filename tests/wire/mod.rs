//! The gateway on the wire: what clients see, what servers see, and what the record says about both.

mod auth;
mod bounds;
mod corpus;
mod events;
mod fair;
mod framing;
mod envelope;
mod happy;
mod http;
mod life;
mod lists;
mod origin;
mod notify;
mod policy;
mod probe;
mod record;
mod reopen;
mod roads;
mod sessions;
mod shares;
mod streams;
mod tls;
mod tls_servers;
mod tokens;
