//! The integration tests, one binary: the house's own rules, the command line, and the gateway as its clients and
//! servers see it. Everything binds loopback port 0, so tests run side by side.

mod chaos;
mod cli;
mod clients;
mod conformance;
mod demo;
mod faults;
mod floors;
mod observability;
mod idps;
mod oauth;
mod pairs;
mod security;
mod together;
mod sim;
mod tuning;
mod fuzz;
mod wire;

mod support {
    pub(crate) mod chaos;
    pub(crate) mod chaos_client;
    pub(crate) mod chaos_mix;
    pub(crate) mod chaos_mix_client;
    pub(crate) mod chaos_mix_server;
    pub(crate) mod chaos_server;
    pub(crate) mod chaos_wire;
    pub(crate) mod clock;
    pub(crate) mod collector;
    pub(crate) mod conformance;
    pub(crate) mod counting;
    pub(crate) mod gateway;
    pub(crate) mod http;
    pub(crate) mod idp;
    pub(crate) mod island;
    pub(crate) mod issuer;
    pub(crate) mod level;
    pub(crate) mod mcp;
    pub(crate) mod oracle;
    pub(crate) mod peers;
    pub(crate) mod program;
    pub(crate) mod receiver;
    pub(crate) mod relay;
    pub(crate) mod schema;
    pub(crate) mod sse_server;
    pub(crate) mod tls;
    pub(crate) mod upstream;
}
