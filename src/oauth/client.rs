//! Who the gateway is at an authorization server.

use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ring::rand::SecureRandom;
use zeroize::Zeroize as _;

use super::assertion::{self, AssertionFault};
use super::form::{self, Form};
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
    /// Any that an issuer may be allowed.
    pub algorithm: Algorithm,
    /// `kid`, where its issuer wants one.
    pub id: Option<String>,
    /// `aud` of what is signed, where its issuer does not want its endpoint's URL there (RFC 7523, 3).
    pub audience: Option<String>,
}

/// Why a file is no key to sign with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ClientKeyFault {
    /// There is no PEM block of a private key.
    #[error("there is no private key in it: PEM that begins with '-----BEGIN PRIVATE KEY-----'")]
    Missing,
    /// More than one.
    #[error("there is more than one private key in it")]
    Several,
    /// PKCS #1 or SEC 1.
    #[error("it is not PKCS #8: convert it with 'openssl pkcs8 -topk8 -nocrypt -in OLD -out NEW'")]
    Form,
    /// A passphrase would be needed.
    #[error("it is encrypted: take the passphrase off with 'openssl pkcs8 -in OLD -out NEW'")]
    Encrypted,
    /// Its text is broken, or it is a key for something else than the algorithm, or one too short.
    #[error("it is no key for {}", .0.as_str())]
    Key(Algorithm),
}

/// What a proof is made with.
pub struct Occasion<'a> {
    /// The endpoint that is asked.
    pub endpoint: &'a str,
    /// Seconds since 1970.
    pub now_unix_s: u64,
    /// The system's.
    pub random: &'a dyn SecureRandom,
}

impl ClientAuth {
    /// Says who the gateway is, and proves it: in the form, and in the value of `authorization` where there is one.
    ///
    /// # Errors
    /// Its key cannot sign.
    pub fn prove(&self, form: &mut Form, occasion: &Occasion<'_>) -> Result<Option<Secret>, AssertionFault> {
        match &self.proof {
            Proof::Basic(secret) => return Ok(Some(self.basic(secret))),
            Proof::Post(secret) => {
                form.add("client_id", self.id.as_bytes());
                form.add("client_secret", secret.reveal());
            }
            Proof::PrivateKey(key) => {
                let assertion = assertion::signed(key, &self.id, occasion)?;
                // Keycloak and Entra ID look for it; others may do without (RFC 7521, 4.2).
                form.add("client_id", self.id.as_bytes());
                form.add("client_assertion_type", ASSERTION_TYPE.as_bytes());
                form.add("client_assertion", assertion.reveal());
            }
            Proof::None => form.add("client_id", self.id.as_bytes()),
        }
        Ok(None)
    }

    /// Each encoded as in a form before they are joined (RFC 6749, 2.3.1): a colon in an id does not end it.
    fn basic(&self, secret: &Secret) -> Secret {
        let (id, secret) = (form::encoded(self.id.as_bytes()), form::encoded(secret.reveal()));
        let mut joined = Vec::with_capacity(id.reveal().len() + 1 + secret.reveal().len());
        joined.extend_from_slice(id.reveal());
        joined.push(b':');
        joined.extend_from_slice(secret.reveal());
        let mut value = String::with_capacity(6 + joined.len().div_ceil(3) * 4);
        value.push_str("Basic ");
        STANDARD.encode_string(&joined, &mut value);
        joined.zeroize();
        let field = Secret::from(value.as_str());
        value.zeroize();
        field
    }
}

impl SigningKey {
    /// The one private key of a PEM file (RFC 7468, 10).
    ///
    /// # Errors
    /// `ClientKeyFault`; the file's text is in none of them.
    pub fn from_pem(
        pem: &str,
        algorithm: Algorithm,
        id: Option<String>,
        audience: Option<String>,
    ) -> Result<Self, ClientKeyFault> {
        let mut blocks = pem.match_indices(BEGIN);
        let Some((place, _)) = blocks.next() else {
            let has = |label: &str| pem.contains(label);
            return Err(match () {
                () if has("BEGIN ENCRYPTED PRIVATE KEY") => ClientKeyFault::Encrypted,
                () if has("BEGIN RSA PRIVATE KEY") || has("BEGIN EC PRIVATE KEY") => ClientKeyFault::Form,
                () => ClientKeyFault::Missing,
            });
        };
        if blocks.next().is_some() {
            return Err(ClientKeyFault::Several);
        }
        let broken = ClientKeyFault::Key(algorithm);
        let body = &pem[place + BEGIN.len()..];
        let body = &body[..body.find(END).ok_or(broken)?];
        let mut text: Vec<u8> = Vec::with_capacity(body.len());
        text.extend(body.bytes().filter(|byte| !byte.is_ascii_whitespace()));
        let mut der = vec![0; text.len()];
        let read = STANDARD.decode_slice(&text, &mut der);
        text.zeroize();
        let key = read.map(|len| Secret::new(&der[..len]));
        der.zeroize();
        let key = Self { der: key.map_err(|_| broken)?, algorithm, id, audience };
        assertion::can_sign(&key).then_some(key).ok_or(broken)
    }
}

const BEGIN: &str = "-----BEGIN PRIVATE KEY-----";
const END: &str = "-----END PRIVATE KEY-----";
/// RFC 7523, 2.2.
const ASSERTION_TYPE: &str = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer";
