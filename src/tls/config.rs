//! From the text of certificates and keys to what a handshake is made with.

use std::collections::HashMap;
use std::sync::Arc;

use rustls::client::{Resumption, WebPkiServerVerifier};
use rustls::crypto::CryptoProvider;
use rustls::crypto::ring::{Ticketer, default_provider, sign::any_supported_type};
use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::server::{
    ClientHello, NoServerSessionStorage, ParsedCertificate, ResolvesServerCert, WebPkiClientVerifier,
};
use rustls::sign::{CertifiedKey, SigningKey, SingleCertAndKey};
use rustls::{ClientConfig, RootCertStore, ServerConfig, SupportedProtocolVersion, version};

use crate::base::ids::ServerId;
use crate::base::limits::CERTIFICATES_MAX;
use crate::tls::der;
use crate::tls::fault::TlsFault;
use crate::tls::tickets::PerShard;

/// A certificate with its chain, and its private key, each as PEM text (RFC 7468).
#[derive(Clone, Copy)]
pub struct Pem<'a> {
    /// The certificate, then what signed it, then what signed that; the root may be left out.
    pub cert: &'a [u8],
    /// PKCS#8, PKCS#1 or SEC1, not encrypted.
    pub key: &'a [u8],
}

/// What a listener asks of its clients.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClientCert {
    /// No certificate.
    None,
    /// A certificate, if the client has one. One that does not hold ends the handshake.
    Request,
    /// A certificate.
    Require,
}

/// Whom a client trusts to issue servers' certificates.
#[derive(Clone, Copy)]
pub enum Roots<'a> {
    /// Those of the system, in DER, one each. What cannot be read among them is left out.
    System(&'a [CertificateDer<'static>]),
    /// Those in this PEM text, and nobody else.
    Given(&'a [u8]),
}

/// What a handshake with one server needs.
#[derive(Clone, Debug)]
pub struct ClientSide {
    /// How to shake hands.
    pub config: Arc<ClientConfig>,
    /// The name that its certificate must be for, and that it is asked for by.
    pub name: ServerName<'static>,
}

/// All that listeners and servers need, in one piece: made together, swapped together.
#[derive(Debug, Default)]
pub struct Materials {
    /// By listener, in the order of the settings; `None` where it is plain.
    pub listeners: Vec<Option<Arc<ServerConfig>>>,
    /// By `ServerId`, then by instance; `None` where that is plain.
    pub servers: Vec<Vec<Option<ClientSide>>>,
}

impl Materials {
    /// What it takes to speak TLS to an instance of a server; `None` where that is plain, or not there.
    #[must_use]
    pub fn side(&self, server: ServerId, instance: usize) -> Option<&ClientSide> {
        self.servers.get(server.index())?.get(instance)?.as_ref()
    }
}

/// What a listener answers with. The certificate is chosen by the name that the client asks for: one that names it
/// exactly before one with a wildcard, the one listed first before another of the kind, and the first of all for no
/// name or an unknown one.
///
/// # Errors
/// What is wrong with a certificate, a key, or the authorities in `client_ca`.
pub fn server_config(
    pairs: &[Pem<'_>],
    client_ca: Option<&[u8]>,
    client: ClientCert,
) -> Result<Arc<ServerConfig>, TlsFault> {
    if pairs.len() > CERTIFICATES_MAX {
        return Err(TlsFault::TooManyPairs);
    }
    let resolver = Arc::new(ByName::new(pairs)?);
    let provider = provider();
    let builder = ServerConfig::builder_with_provider(provider.clone());
    let builder = builder.with_protocol_versions(VERSIONS).map_err(TlsFault::Config)?;
    let builder = match (client, client_ca) {
        (ClientCert::None, _) => builder.with_no_client_auth(),
        (_, None) => return Err(TlsFault::NoClientAuthority),
        (_, Some(client_ca)) => {
            let roots = Arc::new(given(client_ca)?);
            let verifier = WebPkiClientVerifier::builder_with_provider(roots, provider);
            let verifier = if client == ClientCert::Request { verifier.allow_unauthenticated() } else { verifier };
            let verifier = verifier.build().map_err(|_| TlsFault::NoClientAuthority)?;
            builder.with_client_cert_verifier(verifier)
        }
    };
    let mut config = builder.with_cert_resolver(resolver);
    config.alpn_protocols = vec![HTTP_1_1.to_vec()];
    // Nothing is stored for clients: all there is to a resumption is in their ticket. Its keys are of this
    // configuration alone, so no resumption outlives what the handshake was checked against.
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.ticketer = Ticketer::new().map_err(TlsFault::Config)?;
    config.send_tls13_tickets = 1;
    config.max_early_data_size = 0;
    Ok(Arc::new(config))
}

/// How to shake hands with a server, showing `identity` if it asks for one.
///
/// # Errors
/// What is wrong with the roots, or with the certificate and key of `identity`.
pub fn client_config(roots: Roots<'_>, identity: Option<Pem<'_>>) -> Result<Arc<ClientConfig>, TlsFault> {
    let roots = match roots {
        Roots::Given(text) => given(text)?,
        Roots::System(roots) => {
            let mut store = RootCertStore::empty();
            store.add_parsable_certificates(roots.iter().cloned());
            if store.is_empty() {
                return Err(TlsFault::NoRoots);
            }
            store
        }
    };
    let provider = provider();
    let verifier = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider.clone());
    let verifier = verifier.build().map_err(|_| TlsFault::NoRoots)?;
    let builder = ClientConfig::builder_with_provider(provider);
    let builder = builder.with_protocol_versions(VERSIONS).map_err(TlsFault::Config)?;
    let builder = builder.with_webpki_verifier(verifier);
    let mut config = match identity {
        None => builder.with_no_client_auth(),
        Some(pem) => builder.with_client_cert_resolver(Arc::new(SingleCertAndKey::from(certified(pem)?))),
    };
    config.alpn_protocols = vec![HTTP_1_1.to_vec()];
    config.resumption = Resumption::store(Arc::new(PerShard::new()));
    config.enable_early_data = false;
    Ok(Arc::new(config))
}

/// The name of a server, for [`ClientSide`].
///
/// # Errors
/// It is neither a host name nor an address (an IPv6 address may stand in brackets).
pub fn server_name(name: &str) -> Result<ServerName<'static>, TlsFault> {
    let bare = name.strip_prefix('[').and_then(|name| name.strip_suffix(']')).unwrap_or(name);
    ServerName::try_from(bare.to_owned()).map_err(|_| TlsFault::BadName)
}

/// The certificates of the authorities in a PEM text, in DER.
///
/// # Errors
/// There is none, or it is no PEM.
pub fn authorities(text: &[u8]) -> Result<Vec<CertificateDer<'static>>, TlsFault> {
    certificates(text)
}

/// Whether there are certificates in a PEM text, and each can be read.
///
/// # Errors
/// What is wrong with the first that cannot.
pub fn check_certificates(text: &[u8]) -> Result<(), TlsFault> {
    for certificate in &certificates(text)? {
        ParsedCertificate::try_from(certificate).map_err(TlsFault::BadCertificate)?;
    }
    Ok(())
}

/// Whether there is a key in a PEM text that can be used.
///
/// # Errors
/// What is wrong with it.
pub fn check_key(text: &[u8]) -> Result<(), TlsFault> {
    key(text).map(|_| ())
}

/// Whether a key fits its certificate.
///
/// # Errors
/// What is wrong with either, or `KeyMismatch`.
pub fn check_pair(pem: Pem<'_>) -> Result<(), TlsFault> {
    certified(pem).map(|_| ())
}

/// When the first certificate in a PEM text expires, seconds since 1970.
#[must_use]
pub fn expires(cert: &[u8]) -> Option<i64> {
    der::not_after(CertificateDer::pem_slice_iter(cert).next()?.ok()?.as_ref())
}

/// The certificates of a listener.
#[derive(Debug)]
struct ByName {
    pairs: Vec<Arc<CertifiedKey>>,
    exact: HashMap<String, usize>,
    /// By what follows the `*.`.
    wildcards: HashMap<String, usize>,
}

impl ByName {
    fn new(pems: &[Pem<'_>]) -> Result<Self, TlsFault> {
        let mut this = Self { pairs: Vec::new(), exact: HashMap::new(), wildcards: HashMap::new() };
        for (index, pem) in pems.iter().enumerate() {
            let pair = certified(*pem)?;
            let leaf = pair.end_entity_cert().map_err(TlsFault::BadCertificate)?;
            for name in der::dns_names(leaf) {
                match name.strip_prefix("*.") {
                    Some(parent) => this.wildcards.entry(parent.to_owned()).or_insert(index),
                    None => this.exact.entry(name).or_insert(index),
                };
            }
            this.pairs.push(Arc::new(pair));
        }
        if this.pairs.is_empty() { Err(TlsFault::NoPair) } else { Ok(this) }
    }

    fn choose(&self, name: Option<&str>) -> Option<&Arc<CertifiedKey>> {
        let known = name.and_then(|name| {
            let name = name.to_ascii_lowercase();
            let name = name.strip_suffix('.').unwrap_or(&name);
            // A wildcard stands for exactly one label (RFC 9525, 6.3).
            let parent = name.split_once('.').map(|(_, parent)| parent);
            let wildcard = parent.and_then(|parent| self.wildcards.get(parent));
            self.exact.get(name).or(wildcard).copied()
        });
        self.pairs.get(known.unwrap_or(0))
    }
}

impl ResolvesServerCert for ByName {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        self.choose(hello.server_name()).cloned()
    }
}

/// A chain and the key that fits its first certificate.
fn certified(pem: Pem<'_>) -> Result<CertifiedKey, TlsFault> {
    // rustls would find an unreadable one only when a handshake needs it.
    check_certificates(pem.cert)?;
    let pair = CertifiedKey::new(certificates(pem.cert)?, key(pem.key)?);
    match pair.keys_match() {
        // A key whose public half is unknown is believed; there is none in this provider.
        Ok(()) | Err(rustls::Error::InconsistentKeys(rustls::InconsistentKeys::Unknown)) => Ok(pair),
        Err(_) => Err(TlsFault::KeyMismatch),
    }
}

fn key(text: &[u8]) -> Result<Arc<dyn SigningKey>, TlsFault> {
    let key = PrivateKeyDer::from_pem_slice(text).map_err(|fault| match fault {
        pem::Error::NoItemsFound => TlsFault::NoKey,
        _ => TlsFault::NotPem,
    })?;
    any_supported_type(&key).map_err(TlsFault::BadKey)
}

fn certificates(text: &[u8]) -> Result<Vec<CertificateDer<'static>>, TlsFault> {
    let all = CertificateDer::pem_slice_iter(text).collect::<Result<Vec<_>, _>>().map_err(|_| TlsFault::NotPem)?;
    if all.is_empty() { Err(TlsFault::NoCertificate) } else { Ok(all) }
}

fn given(text: &[u8]) -> Result<RootCertStore, TlsFault> {
    let mut store = RootCertStore::empty();
    for certificate in certificates(text)? {
        store.add(certificate).map_err(TlsFault::BadCertificate)?;
    }
    Ok(store)
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(default_provider())
}

/// Older ones are refused (RFC 8996).
const VERSIONS: &[&SupportedProtocolVersion] = &[&version::TLS13, &version::TLS12];

/// The one protocol spoken here (RFC 7301, 6).
const HTTP_1_1: &[u8] = b"http/1.1";
