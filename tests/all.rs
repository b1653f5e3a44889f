//! The integration tests, one binary: the house's own rules, the command line, and the gateway as its clients and
//! servers see it. Everything binds loopback port 0, so tests run side by side.

mod cli;
mod clients;
mod conformance;
mod demo;
mod faults;
mod floors;
mod fuzz;
mod wire;

mod support {
    pub(crate) mod conformance;
    pub(crate) mod gateway;
    pub(crate) mod http;
    pub(crate) mod mcp;
    pub(crate) mod oracle;
    pub(crate) mod peers;
    pub(crate) mod upstream;
}
