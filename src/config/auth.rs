//! What a configuration says about issuers beyond their tokens' claims, and about what servers are shown.

use std::path::PathBuf;
use std::sync::Arc;

use ring::digest;

use crate::base::net::Network;
use crate::base::secret::Secret;
use crate::identity::claims::ClaimPath;
use crate::identity::keys::KeySet;
use crate::oauth::client::{ClientAuth, Proof};
pub use crate::telemetry::context::TraceContext;

/// Where the keys of an issuer come from, and how it is asked for anything. By the index of `Settings::issuers`.
#[derive(Clone, Debug, PartialEq)]
pub struct IssuerSource {
    /// Its keys.
    pub keys: KeysFrom,
    /// What may be fetched from, for all of its documents.
    pub guard: GuardSettings,
    /// Between two looks at its keys, milliseconds.
    pub refresh_ms: u64,
    /// Keys that could not be looked at again are believed for so long, milliseconds.
    pub stale_ms: u64,
    /// How its opaque tokens are judged; `None` where it has none.
    pub introspection: Option<IntrospectionSettings>,
}

/// Where keys come from.
#[derive(Clone, Debug, PartialEq)]
pub enum KeysFrom {
    /// A file, as read with the configuration.
    File(Arc<KeySet>),
    /// This URL.
    Url(Arc<str>),
    /// Wherever the issuer's own metadata says (RFC 8414; OpenID Connect Discovery).
    Discovery,
    /// It has none: its tokens are all opaque.
    None,
}

/// What the gateway itself may fetch, for one issuer or server.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct GuardSettings {
    /// Networks that it may be in although they are not public.
    pub private: Vec<Network>,
    /// The authorities that its certificate must come from, a PEM file; `None` for those of the system.
    pub ca: Option<PathBuf>,
}

/// How opaque tokens of an issuer are judged (RFC 7662).
#[derive(Clone, Debug, PartialEq)]
pub struct IntrospectionSettings {
    /// Where; `None` for wherever the issuer's metadata says.
    pub url: Option<Arc<str>>,
    /// As whom.
    pub client: ClientAuth,
    /// An answer is believed for so long, milliseconds, and never beyond the token's own end.
    pub cache_ms: u64,
}

/// What a server is shown, beside the call.
#[derive(Clone, Debug, Default, PartialEq)]
pub enum Credentials {
    /// Nothing.
    #[default]
    Strip,
    /// The caller's own token, as it came.
    Forward,
    /// The same for everybody.
    Fixed(FixedField),
    /// A token that the gateway has for itself (RFC 6749, 4.4).
    ClientCredentials(Arc<Grant>),
    /// A token for this caller, in exchange for its own (RFC 8693).
    Exchange(Arc<Grant>),
}

impl Credentials {
    /// Whether what the server is shown differs from caller to caller.
    #[must_use]
    pub fn is_personal(&self) -> bool {
        matches!(self, Self::Forward | Self::Exchange(_))
    }
}

/// Whom what a server is shown depends on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shows {
    /// It is shown nothing.
    Nothing,
    /// Nobody: it is the same for all.
    Alike,
    /// The caller, and its active task where the server is told of that.
    Callers {
        /// See [`IdentityValue::Task`].
        tasks: bool,
    },
}

/// A field with a secret value.
#[derive(Clone, Debug, PartialEq)]
pub struct FixedField {
    /// Its name, in lower case.
    pub name: Arc<str>,
    /// Its whole value (`Bearer …`, `Basic …`), checked: what a field may hold (RFC 9110, 5.5).
    pub value: Arc<Secret>,
}

/// How a token for a server is had.
#[derive(Clone, Debug, PartialEq)]
pub struct Grant {
    /// The token endpoint.
    pub token_url: Arc<str>,
    /// As whom.
    pub client: ClientAuth,
    /// What is asked for (RFC 6749, 3.3); `None` to leave it to the issuer.
    pub scope: Option<String>,
    /// `audience` (RFC 8693, 2.1).
    pub audience: Vec<String>,
    /// `resource` (RFC 8707, 2).
    pub resource: Vec<String>,
    /// The token endpoint may be there.
    pub guard: GuardSettings,
}

/// What tells a grant from every other, whatever it is for: the SHA-256 over all that a token had by it depends on, the
/// client's secret too. Not to be shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct GrantMark(pub [u8; 32]);

impl Grant {
    /// See [`GrantMark`].
    #[must_use]
    pub fn mark(&self) -> GrantMark {
        let mut hash = digest::Context::new(&digest::SHA256);
        let mut part = |tag: u8, bytes: &[u8]| {
            // Tag and length, so that no two different lists spell the same bytes.
            hash.update(&[tag]);
            hash.update(&(bytes.len() as u64).to_be_bytes());
            hash.update(bytes);
        };
        part(0, self.token_url.as_bytes());
        mark_client(&mut part, &self.client);
        self.scope.iter().for_each(|scope| part(9, scope.as_bytes()));
        self.audience.iter().for_each(|audience| part(10, audience.as_bytes()));
        self.resource.iter().for_each(|resource| part(11, resource.as_bytes()));
        mark_guard(&mut part, &self.guard);
        let mut mark = [0; 32];
        mark.copy_from_slice(hash.finish().as_ref());
        GrantMark(mark)
    }
}

impl IntrospectionSettings {
    /// Tells `part` of all that an issuer's word on a token depends on, the client's secret too, each with a tag of its
    /// own: for a digest, and not to be shown. Where any of it changes it is another question.
    pub fn mark(&self, guard: &GuardSettings, mut part: impl FnMut(u8, &[u8])) {
        self.url.iter().for_each(|url| part(0, url.as_bytes()));
        mark_client(&mut part, &self.client);
        mark_guard(&mut part, guard);
        part(14, &self.cache_ms.to_be_bytes());
    }
}

fn mark_client(part: &mut impl FnMut(u8, &[u8]), client: &ClientAuth) {
    part(1, client.id.as_bytes());
    match &client.proof {
        Proof::Basic(secret) => part(2, secret.reveal()),
        Proof::Post(secret) => part(3, secret.reveal()),
        Proof::PrivateKey(key) => {
            part(4, key.algorithm.as_str().as_bytes());
            part(5, key.der.reveal());
            key.id.iter().for_each(|id| part(6, id.as_bytes()));
            key.audience.iter().for_each(|audience| part(7, audience.as_bytes()));
        }
        Proof::None => part(8, b""),
    }
}

fn mark_guard(part: &mut impl FnMut(u8, &[u8]), guard: &GuardSettings) {
    guard.private.iter().for_each(|network| part(12, format!("{network:?}").as_bytes()));
    guard.ca.iter().for_each(|path| part(13, path.as_os_str().as_encoded_bytes()));
}

/// A claim that a server is told in a field.
#[derive(Clone, Debug, PartialEq)]
pub struct IdentityHeader {
    /// The field's name, in lower case, as it is written.
    pub name: Arc<str>,
    /// What of the caller it holds.
    pub from: IdentityValue,
}

/// What of a caller a field holds.
#[derive(Clone, Debug, PartialEq)]
pub enum IdentityValue {
    /// A claim: text, number, flag, or a list of these with commas between.
    Claim(ClaimPath),
    /// Its subject.
    Subject,
    /// Its agent.
    Agent,
    /// Its issuer.
    Issuer,
    /// The name of its active task.
    Task,
}

/// What is exported, and where to.
#[derive(Clone, Debug, PartialEq)]
pub struct TelemetrySettings {
    /// The collector; `None` for none.
    pub otlp: Option<OtlpSettings>,
    /// Of a million traces that begin here, so many are recorded.
    pub traces_ppm: u32,
    /// Of a million notifications, so many are; the trace that they belong to must be recorded too.
    pub notifications_ppm: u32,
    /// What a caller's own trace context is worth.
    pub context: TraceContext,
    /// Keys of `baggage` that go on to servers; others stay here.
    pub baggage: Vec<String>,
    /// A refusal is an error of its span.
    pub denial_is_error: bool,
    /// Attributes of the resource, beside the gateway's own.
    pub resource: Vec<(String, String)>,
    /// Upper bounds of the histograms of sessions, seconds; `None` for the ones that the conventions advise.
    pub session_buckets: Option<Vec<u64>>,
}

impl Default for TelemetrySettings {
    fn default() -> Self {
        Self {
            otlp: None,
            traces_ppm: 0,
            notifications_ppm: 0,
            context: TraceContext::Continue,
            baggage: Vec::new(),
            denial_is_error: true,
            resource: Vec::new(),
            session_buckets: None,
        }
    }
}

/// A collector that speaks OTLP over HTTP.
#[derive(Clone, Debug, PartialEq)]
pub struct OtlpSettings {
    /// Its base URL: `/v1/traces` and `/v1/metrics` are behind it. No final `/`.
    pub url: Arc<str>,
    /// Fields that it wants, for example its key.
    pub headers: Vec<(String, Arc<Secret>)>,
    /// The authorities that its certificate must come from, a PEM file; `None` for those of the system.
    pub ca: Option<PathBuf>,
    /// Between two pushes of metrics, milliseconds.
    pub interval_ms: u64,
    /// One push may take so long, milliseconds.
    pub timeout_ms: u64,
    /// Whether metrics are pushed.
    pub metrics: bool,
}
