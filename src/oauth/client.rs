//! Who the gateway is at an authorization server.

use std::sync::Arc;

use crate::base::secret::Secret;
use crate::identity::keys::Algorithm;

/// A client id, and how it is proved (RFC 6749, 2.3; RFC 7523, 2.2).
#[derive(Clone, Debug, PartialEq)]
pub struct ClientAuth {
    /// `client_id`.
    pub id: String,
    /// The proof.
    pub proof: Proof,
}

/// How a client proves who it is.
#[derive(Clone, Debug, PartialEq)]
pub enum Proof {
    /// `client_secret_basic`.
    Basic(Arc<Secret>),
    /// `client_secret_post`.
    Post(Arc<Secret>),
    /// `private_key_jwt`.
    PrivateKey(Arc<SigningKey>),
    /// None: a public client, or one that its TLS certificate tells.
    None,
}

/// A private key that client assertions are signed with.
#[derive(Clone, Debug, PartialEq)]
pub struct SigningKey {
    /// PKCS #8, DER.
    pub der: Secret,
    /// ES256, ES384, RS256, PS256 or EdDSA.
    pub algorithm: Algorithm,
    /// `kid`, where its issuer wants one.
    pub id: Option<String>,
}
