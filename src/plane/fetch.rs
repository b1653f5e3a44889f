//! What the gateway itself fetches: issuers' documents and keys, tokens, answers about tokens. One request at a time per
//! host (a few for tokens), all of it within one deadline, no redirects, no proxies of the environment. A name is looked
//! up once, each of its addresses is judged (`oauth::guard`), and only those are connected to.

use std::collections::HashMap;
use std::fmt::Debug;
use std::fs;
use std::io;
use std::net::{IpAddr, SocketAddr, ToSocketAddrs as _};
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use ring::digest;
use rustls::crypto::ring::default_provider;
use ureq::config::Config;
use ureq::http::{HeaderValue, Response, Uri};
use ureq::tls::{Certificate, RootCerts, TlsConfig, TlsProvider};
use ureq::unversioned::resolver::{ResolvedSocketAddrs, Resolver};
use ureq::unversioned::transport::{Connector as _, NextTimeout, RustlsConnector, TcpConnector};
use ureq::{Agent, Body, Timeout};

use crate::base::limits::{
    FETCH_ADDRESSES_MAX, FETCH_BYTES_MAX, FETCH_DOCUMENTS_PER_HOST, FETCH_HEAD_BYTES_MAX, FETCH_LOOKUPS_MAX,
    FETCH_MS_MAX, FETCH_TOKENS_PER_HOST, PEM_BYTES_MAX,
};
use crate::base::net::Network;
use crate::base::secret::Secret;
use crate::config::GuardSettings;
use crate::oauth::guard::{self, Place, Target, UrlFault};
use crate::tls::config::{authorities, check_certificates};
use crate::tls::fault::TlsFault;

/// Fetches, for all threads of the plane.
#[derive(Debug)]
pub(super) struct Fetcher {
    agents: Mutex<HashMap<GuardSettings, Known>>,
    turns: Turns,
    names: Arc<dyn Names>,
}

/// An answer, read to its end. Not a redirect: those are a [`FetchFault`].
#[derive(Debug)]
pub(super) struct Fetched {
    /// The status.
    pub(super) status: u16,
    /// `content-type`, as it came, without its parameters and in lower case; empty where there is none.
    pub(super) content_type: String,
    /// What it holds.
    pub(super) body: Secret,
    /// For how long it is fresh, seconds (`max-age`, RFC 9111, 5.2.2.1; 0 for `no-store` and `no-cache`).
    pub(super) max_age_s: Option<u64>,
}

/// Why nothing was fetched, in our words alone: nothing of what the other side said is in it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum FetchFault {
    /// The URL is not one that may be fetched.
    #[error(transparent)]
    Url(#[from] UrlFault),
    /// The name has no address, or cannot be looked up.
    #[error("its host's name does not resolve")]
    NoAddress,
    /// The name has this address.
    #[error("its host's name leads to {0}, which is not public, and 'private' does not name its network")]
    Address(IpAddr),
    /// No connection.
    #[error("it cannot be reached")]
    Unreachable,
    /// No encrypted connection: usually its certificate is not of an authority that is trusted here.
    #[error("its certificate or its TLS is not acceptable")]
    Tls,
    /// Not all was there in time.
    #[error("it did not answer within 5 s")]
    Timeout,
    /// Others wait for the same host, for too long.
    #[error("its host is busy with other requests of this gateway")]
    Busy,
    /// It sends us elsewhere.
    #[error("it answers with a redirect, which is not followed")]
    Redirect,
    /// Head or body.
    #[error("its answer is over 256 KiB")]
    TooLarge,
    /// No HTTP, or none that ends where it should.
    #[error("its answer is not acceptable HTTP")]
    BadAnswer,
    /// What we have to say cannot be said.
    #[error("the request cannot be written")]
    BadRequest,
    /// The file of `ca` cannot be used.
    #[error("the authorities in {path} cannot be used: {why}")]
    Authorities {
        /// Which one.
        path: String,
        /// What the system says, or what is wrong with the text.
        why: String,
    },
}

impl FetchFault {
    /// In a word, for callers and metrics: without names, addresses and paths.
    pub(super) fn word(&self) -> &'static str {
        match self {
            Self::Url(_) => "url_refused",
            Self::NoAddress => "name_unknown",
            Self::Address(_) => "address_refused",
            Self::Unreachable => "unreachable",
            Self::Tls => "tls",
            Self::Timeout => "timeout",
            Self::Busy => "busy",
            Self::Redirect => "redirect",
            Self::TooLarge => "too_large",
            Self::BadAnswer => "bad_answer",
            Self::BadRequest => "bad_request",
            Self::Authorities { .. } => "authorities",
        }
    }
}

impl Fetcher {
    pub(super) fn new() -> Self {
        Self { agents: Mutex::default(), turns: Turns::default(), names: Arc::new(System::default()) }
    }

    /// Fetches a document (RFC 8414, RFC 7517): one at a time per host.
    pub(super) fn get(&self, url: &str, guard: &GuardSettings, accept: &str) -> Result<Fetched, FetchFault> {
        let until = Instant::now() + Duration::from_millis(FETCH_MS_MAX);
        let place = guard::place(url, &guard.private)?;
        let _turn = self.turns.take(&place, FETCH_DOCUMENTS_PER_HOST, until)?;
        let request = self.agent(guard)?.get(&place.url).header("accept", accept);
        let request = request.config().timeout_global(Some(left(until)?)).build();
        read(request.call().map_err(of_error)?)
    }

    /// Posts a form (`application/x-www-form-urlencoded`), already encoded, to a token or introspection endpoint: a few
    /// at a time per host.
    pub(super) fn post_form(
        &self,
        url: &str,
        guard: &GuardSettings,
        headers: &[(&str, &Secret)],
        body: &Secret,
    ) -> Result<Fetched, FetchFault> {
        let until = Instant::now() + Duration::from_millis(FETCH_MS_MAX);
        let place = guard::place(url, &guard.private)?;
        let _turn = self.turns.take(&place, FETCH_TOKENS_PER_HOST, until)?;
        let mut request = self.agent(guard)?.post(&place.url);
        request = request.header("accept", "application/json");
        request = request.header("content-type", "application/x-www-form-urlencoded");
        for (name, value) in headers {
            request = request.header(*name, sensitive(value)?);
        }
        let request = request.config().timeout_global(Some(left(until)?)).build();
        read(request.send(body.reveal()).map_err(of_error)?)
    }

    /// One per guard: what it trusts and where it may go are its own. It is made anew when its `ca` file has changed.
    fn agent(&self, guard: &GuardSettings) -> Result<Agent, FetchFault> {
        let text = guard.ca.as_deref().map(read_ca).transpose()?;
        let digest = text.as_deref().map(|text| {
            let mut known = [0; 32];
            known.copy_from_slice(digest::digest(&digest::SHA256, text).as_ref());
            known
        });
        let mut agents = locked(&self.agents);
        if let Some(known) = agents.get(guard).filter(|known| known.digest == digest) {
            return Ok(known.agent.clone());
        }
        let trusted = trusted(guard.ca.as_deref(), text.as_deref())?;
        let resolver = Guarded { private: guard.private.clone().into(), names: self.names.clone() };
        let agent = agent(trusted, Duration::from_millis(FETCH_MS_MAX), resolver);
        // Guards of settings that are gone: their agents hold no more than what they trusted.
        if agents.len() >= AGENTS_MAX {
            agents.clear();
        }
        agents.insert(guard.clone(), Known { agent: agent.clone(), digest });
        Ok(agent)
    }
}

/// A way to a telemetry collector that the operator has named: no guard, any address; still no redirects and no proxies,
/// and each request within `timeout`. Without `ca` the system's authorities are trusted.
pub(super) fn collector(ca: Option<&Path>, timeout: Duration) -> Result<Agent, FetchFault> {
    let text = ca.map(read_ca).transpose()?;
    let trusted = trusted(ca, text.as_deref())?;
    Ok(agent(trusted, timeout, Anywhere(System::default())))
}

/// The value of a field that is not shown in anybody's `Debug`.
pub(super) fn sensitive(value: &Secret) -> Result<HeaderValue, FetchFault> {
    let mut value = HeaderValue::from_bytes(value.reveal()).map_err(|_| FetchFault::BadRequest)?;
    value.set_sensitive(true);
    Ok(value)
}

#[derive(Debug)]
struct Known {
    agent: Agent,
    /// Of the text of its `ca`.
    digest: Option<[u8; 32]>,
}

fn agent(trusted: RootCerts, timeout: Duration, resolver: impl Resolver) -> Agent {
    let tls = TlsConfig::builder()
        .provider(TlsProvider::Rustls)
        .unversioned_rustls_crypto_provider(Arc::new(default_provider()))
        .root_certs(trusted)
        .build();
    let config: Config = Agent::config_builder()
        .tls_config(tls)
        .proxy(None)
        .http_status_as_error(false)
        .max_redirects(0)
        .max_redirects_will_error(false)
        .timeout_global(Some(timeout))
        .max_response_header_size(FETCH_HEAD_BYTES_MAX)
        // Each request looks its host up, and has a connection of its own: none is closed by the other side while it is
        // on its way. A handshake that is resumed costs little.
        .max_idle_connections(0)
        .user_agent(concat!("portcullis/", env!("CARGO_PKG_VERSION")))
        .build();
    Agent::with_parts(config, ().chain(TcpConnector::default()).chain(RustlsConnector::default()), resolver)
}

/// The authorities in a file, or those of the system.
fn trusted(path: Option<&Path>, text: Option<&[u8]>) -> Result<RootCerts, FetchFault> {
    let (Some(path), Some(text)) = (path, text) else { return Ok(system().clone()) };
    let refused =
        |fault: TlsFault| FetchFault::Authorities { path: path.display().to_string(), why: fault.to_string() };
    check_certificates(text).map_err(refused)?;
    let given = authorities(text).map_err(refused)?;
    Ok(given.iter().map(|one| Certificate::from_der(one.as_ref()).to_owned()).collect::<Vec<_>>().into())
}

/// Read once: they are hundreds.
fn system() -> &'static RootCerts {
    static SYSTEM: OnceLock<RootCerts> = OnceLock::new();
    SYSTEM.get_or_init(|| {
        let found = rustls_native_certs::load_native_certs().certs;
        found.iter().map(|one| Certificate::from_der(one.as_ref()).to_owned()).collect::<Vec<_>>().into()
    })
}

fn read_ca(path: &Path) -> Result<Vec<u8>, FetchFault> {
    let fault = |error: io::Error| FetchFault::Authorities { path: path.display().to_string(), why: error.to_string() };
    let size = fs::metadata(path).map_err(fault)?.len();
    if size > PEM_BYTES_MAX as u64 {
        return Err(fault(io::ErrorKind::FileTooLarge.into()));
    }
    fs::read(path).map_err(fault)
}

/// Reads an answer to its end.
fn read(mut answer: Response<Body>) -> Result<Fetched, FetchFault> {
    let status = answer.status().as_u16();
    if (300..400).contains(&status) {
        return Err(FetchFault::Redirect);
    }
    let field = |name: &str| answer.headers().get(name).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let encoding = field("content-encoding").trim();
    if !encoding.is_empty() && !encoding.eq_ignore_ascii_case("identity") {
        return Err(FetchFault::BadAnswer);
    }
    let content_type = field("content-type").split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    let max_age_s = max_age(field("cache-control"));
    let body = answer.body_mut().with_config().limit(FETCH_BYTES_MAX as u64).read_to_vec().map_err(of_error)?;
    Ok(Fetched { status, content_type, body: Secret::new(body), max_age_s })
}

fn max_age(control: &str) -> Option<u64> {
    let mut found = None;
    for part in control.split(',') {
        let (name, value) = part.split_once('=').unwrap_or((part, ""));
        let name = name.trim();
        if name.eq_ignore_ascii_case("no-store") || name.eq_ignore_ascii_case("no-cache") {
            return Some(0);
        }
        if name.eq_ignore_ascii_case("max-age") {
            found = value.trim().trim_matches('"').parse().ok();
        }
    }
    found
}

fn left(until: Instant) -> Result<Duration, FetchFault> {
    let left = until.saturating_duration_since(Instant::now());
    if left.is_zero() { Err(FetchFault::Timeout) } else { Ok(left) }
}

fn of_error(error: ureq::Error) -> FetchFault {
    match error {
        ureq::Error::Other(other) => match other.downcast::<FetchFault>() {
            Ok(fault) => *fault,
            Err(_) => FetchFault::BadAnswer,
        },
        ureq::Error::Timeout(Timeout::Await100) => FetchFault::BadAnswer,
        ureq::Error::Timeout(_) => FetchFault::Timeout,
        ureq::Error::HostNotFound => FetchFault::NoAddress,
        ureq::Error::Tls(_) | ureq::Error::Rustls(_) | ureq::Error::Pem(_) => FetchFault::Tls,
        ureq::Error::BodyExceedsLimit(_) | ureq::Error::LargeResponseHeader(..) => FetchFault::TooLarge,
        ureq::Error::TooManyRedirects | ureq::Error::RedirectFailed => FetchFault::Redirect,
        ureq::Error::ConnectionFailed => FetchFault::Unreachable,
        ureq::Error::Http(_) | ureq::Error::BadUri(_) => FetchFault::BadRequest,
        ureq::Error::Io(error) => of_io(&error),
        _ => FetchFault::BadAnswer,
    }
}

fn of_io(error: &io::Error) -> FetchFault {
    if error.get_ref().is_some_and(|inner| inner.is::<rustls::Error>()) {
        return FetchFault::Tls;
    }
    match error.kind() {
        io::ErrorKind::TimedOut | io::ErrorKind::WouldBlock => FetchFault::Timeout,
        io::ErrorKind::UnexpectedEof | io::ErrorKind::InvalidData => FetchFault::BadAnswer,
        _ => FetchFault::Unreachable,
    }
}

/// Looks names up.
trait Names: Debug + Send + Sync {
    /// The addresses of a name, with this port.
    fn look_up(&self, name: &str, port: u16, patience: Duration) -> Result<Vec<SocketAddr>, FetchFault>;
}

/// Looks a name up once, and gives out its addresses if every one of them may be asked.
#[derive(Debug)]
struct Guarded {
    private: Arc<[Network]>,
    names: Arc<dyn Names>,
}

impl Guarded {
    fn addresses(&self, url: &str, patience: Duration) -> Result<Vec<SocketAddr>, FetchFault> {
        let place = guard::place(url, &self.private)?;
        let with_port = |address| SocketAddr::new(address, place.port);
        let found: Vec<SocketAddr> = match place.host {
            Target::Address(address) => vec![with_port(address)],
            Target::Local(local) => local.into_iter().map(with_port).collect(),
            Target::Name(name) => self.names.look_up(&name, place.port, patience)?,
        };
        // One bad address among good ones is an attempt, or a mistake that would show later.
        match found.iter().find(|found| !guard::allowed(found.ip(), &self.private)) {
            Some(bad) => Err(FetchFault::Address(bad.ip())),
            None => Ok(found),
        }
    }
}

impl Resolver for Guarded {
    fn resolve(&self, uri: &Uri, _: &Config, timeout: NextTimeout) -> Result<ResolvedSocketAddrs, ureq::Error> {
        let found = self.addresses(&uri.to_string(), *timeout.after);
        given(self, &found.map_err(|fault| ureq::Error::Other(Box::new(fault)))?)
    }
}

/// Looks a name up, and gives out what there is.
#[derive(Debug)]
struct Anywhere(System);

impl Resolver for Anywhere {
    fn resolve(&self, uri: &Uri, _: &Config, timeout: NextTimeout) -> Result<ResolvedSocketAddrs, ureq::Error> {
        let host = uri.host().ok_or(ureq::Error::HostNotFound)?;
        let secure = uri.scheme_str() == Some("https");
        let port = uri.port_u16().unwrap_or(if secure { 443 } else { 80 });
        let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
        let found = match bare.parse::<IpAddr>() {
            Ok(address) => Ok(vec![SocketAddr::new(address, port)]),
            Err(_) => self.0.look_up(host, port, *timeout.after),
        };
        given(self, &found.map_err(|fault| ureq::Error::Other(Box::new(fault)))?)
    }
}

fn given(resolver: &impl Resolver, found: &[SocketAddr]) -> Result<ResolvedSocketAddrs, ureq::Error> {
    let mut addresses = resolver.empty();
    for address in found.iter().take(FETCH_ADDRESSES_MAX) {
        addresses.push(*address);
    }
    if found.is_empty() { Err(ureq::Error::HostNotFound) } else { Ok(addresses) }
}

/// The system's look-up, which cannot be told to stop: each has a thread, of which there are only so many.
#[derive(Debug, Default)]
struct System {
    under_way: Arc<AtomicUsize>,
}

impl Names for System {
    fn look_up(&self, name: &str, port: u16, patience: Duration) -> Result<Vec<SocketAddr>, FetchFault> {
        if self.under_way.fetch_add(1, Ordering::AcqRel) >= FETCH_LOOKUPS_MAX {
            self.under_way.fetch_sub(1, Ordering::AcqRel);
            return Err(FetchFault::Busy);
        }
        let (tell, told) = mpsc::sync_channel(1);
        let (under_way, name) = (self.under_way.clone(), name.to_owned());
        let begun = std::thread::Builder::new().name("plane-lookup".into()).spawn(move || {
            let found = (name.as_str(), port).to_socket_addrs().map(Iterator::collect::<Vec<_>>);
            under_way.fetch_sub(1, Ordering::AcqRel);
            // Whoever asked may have given up.
            let _ = tell.send(found);
        });
        if begun.is_err() {
            self.under_way.fetch_sub(1, Ordering::AcqRel);
            return Err(FetchFault::Busy);
        }
        match told.recv_timeout(patience) {
            Ok(found) => found.map_err(|_| FetchFault::NoAddress),
            Err(RecvTimeoutError::Timeout) => Err(FetchFault::Timeout),
            Err(RecvTimeoutError::Disconnected) => Err(FetchFault::NoAddress),
        }
    }
}

/// How many requests are under way, by host, port and how many there may be.
#[derive(Debug, Default)]
struct Turns {
    under_way: Mutex<HashMap<Whose, usize>>,
    freed: Condvar,
}

type Whose = (Target, u16, usize);

impl Turns {
    fn take(&self, place: &Place, max: usize, until: Instant) -> Result<Turn<'_>, FetchFault> {
        let whose = (place.host.clone(), place.port, max);
        let mut under_way = locked(&self.under_way);
        loop {
            let count = under_way.entry(whose.clone()).or_default();
            if *count < max {
                *count += 1;
                return Ok(Turn { turns: self, whose });
            }
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(FetchFault::Busy);
            }
            under_way = self.freed.wait_timeout(under_way, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}

/// One request under way.
struct Turn<'a> {
    turns: &'a Turns,
    whose: Whose,
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        let mut under_way = locked(&self.turns.under_way);
        if let Some(count) = under_way.get_mut(&self.whose) {
            *count -= 1;
            if *count == 0 {
                under_way.remove(&self.whose);
            }
        }
        drop(under_way);
        self.turns.freed.notify_all();
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Guards whose agents are kept.
const AGENTS_MAX: usize = 256;

#[cfg(test)]
#[path = "fetch_tests.rs"]
mod tests;
