//! stub
use std::sync::Arc;
/// x
#[derive(Clone, Debug)]
pub struct ClientSide {}
/// x
#[derive(Default, Debug)]
pub struct Materials {
    /// x
    pub listeners: Vec<Option<Arc<rustls::ServerConfig>>>,
    /// x
    pub servers: Vec<Option<ClientSide>>,
}
