//! Tokens, and new ones before the old ones expire.

use std::process::Command;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, ensure};
use serde::Deserialize;

use super::options::Source;
use super::wire::{self, Endpoint};

const PATIENCE: Duration = Duration::from_secs(30);
/// After a failure, and the least time between two refusals that each ask for a new token.
const AGAIN: Duration = Duration::from_secs(1);
/// A new one is fetched when so much of a token's time is over.
const REFRESH_AT: f64 = 0.8;
/// Refreshes whose moments are kept for the report.
const MOMENTS_MAX: usize = 2_000;
const TOKEN_BYTES_MAX: usize = 16 << 10;

/// One token for each identity.
pub(super) struct Tokens {
    shared: Arc<Shared>,
}

struct Shared {
    from: From,
    state: Mutex<State>,
    wake: Condvar,
}

/// Where tokens come from, with what it takes to ask.
struct From {
    source: Source,
    /// Of client credentials.
    issuer: Option<Endpoint>,
    /// What the token is for.
    resource: String,
}

#[derive(Default)]
struct State {
    held: Vec<Held>,
    refreshed: Refreshed,
}

struct Held {
    token: Arc<str>,
    since: Instant,
    /// When the next one is fetched.
    due: Option<Instant>,
}

/// What became of refreshing.
#[derive(Clone, Debug, Default)]
pub(super) struct Refreshed {
    pub(super) count: u64,
    pub(super) failures: u64,
    /// The last failure.
    pub(super) why: Option<String>,
    pub(super) moments: Vec<Instant>,
}

impl Tokens {
    /// The first token of each identity, fetched; a thread refreshes them from now on.
    pub(super) fn start(source: Source, identities: u32, url: &str) -> anyhow::Result<Self> {
        let issuer = match &source {
            Source::Client { url, .. } => Some(Endpoint::parse(url)?.trust(None).context("the token endpoint")?),
            _ => None,
        };
        // A secret in plain text is for this machine only.
        if let (Some(issuer), Source::Client { url, .. }) = (&issuer, &source) {
            ensure!(url.starts_with("https://") || issuer.is_local(), "the token endpoint is not https");
        }
        let from = From { source, issuer, resource: url.to_owned() };
        let mut held = Vec::new();
        if !matches!(from.source, Source::None) {
            for identity in 0..identities {
                held.push(from.fetch(identity as usize).with_context(|| format!("token {identity}"))?);
            }
        }
        let refreshes = held.iter().any(|held| held.due.is_some());
        let state = Mutex::new(State { held, refreshed: Refreshed::default() });
        let shared = Arc::new(Shared { from, state, wake: Condvar::new() });
        if refreshes || matches!(shared.from.source, Source::Command(_) | Source::Client { .. }) {
            let shared = Arc::clone(&shared);
            let thread = std::thread::Builder::new().name("tokens".to_owned());
            // It ends with the process: a command that hangs holds nobody up.
            thread.spawn(move || shared.keep_fresh()).context("a thread")?;
        }
        Ok(Self { shared })
    }

    /// The token of an identity now.
    pub(super) fn get(&self, identity: usize) -> Option<Arc<str>> {
        self.shared.state().held.get(identity).map(|held| Arc::clone(&held.token))
    }

    /// It was refused: a new one is fetched at once, unless this one is new.
    pub(super) fn refused(&self, identity: usize) {
        let mut state = self.shared.state();
        if let Some(held) = state.held.get_mut(identity)
            && held.since.elapsed() >= AGAIN
        {
            held.due = Some(Instant::now());
            self.shared.wake.notify_one();
        }
    }

    /// So far.
    pub(super) fn refreshed(&self) -> Refreshed {
        self.shared.state().refreshed.clone()
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn keep_fresh(&self) -> ! {
        loop {
            let identity = self.next();
            let fetched = self.from.fetch(identity);
            let mut state = self.state();
            let now = Instant::now();
            match fetched {
                Ok(held) => {
                    state.held[identity] = held;
                    state.refreshed.count += 1;
                    if state.refreshed.moments.len() < MOMENTS_MAX {
                        state.refreshed.moments.push(now);
                    }
                }
                Err(error) => {
                    state.refreshed.failures += 1;
                    state.refreshed.why = Some(format!("{error:#}"));
                    state.held[identity].due = Some(now + AGAIN);
                }
            }
        }
    }

    /// Waits until a token is to be refreshed.
    fn next(&self) -> usize {
        let mut state = self.state();
        loop {
            let dues = state.held.iter().enumerate().filter_map(|(identity, held)| Some((held.due?, identity)));
            let patience = match dues.min() {
                None => Duration::from_secs(3_600),
                Some((due, identity)) => match due.checked_duration_since(Instant::now()) {
                    None | Some(Duration::ZERO) => return identity,
                    Some(patience) => patience,
                },
            };
            state = self.wake.wait_timeout(state, patience).unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}

impl From {
    fn fetch(&self, identity: usize) -> anyhow::Result<Held> {
        let (token, lifetime) = match (&self.source, &self.issuer) {
            (Source::Fixed(token), _) => return held(token, None, false),
            (Source::Command(command), _) => (said(command, identity)?, None),
            (Source::Client { id, secret, scope, .. }, Some(issuer)) => {
                granted(issuer, (id, secret), scope.as_deref(), &self.resource)?
            }
            _ => anyhow::bail!("no token is to be had"),
        };
        held(&token, lifetime, true)
    }
}

fn held(token: &str, lifetime: Option<Duration>, again: bool) -> anyhow::Result<Held> {
    let plain =
        !token.is_empty() && token.len() <= TOKEN_BYTES_MAX && token.bytes().all(|byte| byte.is_ascii_graphic());
    ensure!(plain, "what came is no token");
    let now = Instant::now();
    let lifetime = lifetime.or_else(|| left(token)).filter(|_| again);
    let due = lifetime.and_then(|lifetime| now.checked_add(lifetime.mul_f64(REFRESH_AT)));
    Ok(Held { token: Arc::from(token), since: now, due })
}

/// What a command prints.
fn said(command: &str, identity: usize) -> anyhow::Result<String> {
    let output = Command::new("sh").args(["-c", command]).env("LOADTEST_IDENTITY", identity.to_string()).output();
    let output = output.context("the token command")?;
    let why = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "the token command: {}: {}", output.status, why.trim());
    Ok(String::from_utf8(output.stdout).context("the token command")?.trim().to_owned())
}

#[derive(Deserialize)]
struct Granted {
    access_token: String,
    #[serde(default)]
    expires_in: Option<f64>,
}

/// Client credentials for a token (RFC 6749, 4.4; RFC 8707).
fn granted(
    issuer: &Endpoint,
    (id, secret): (&str, &str),
    scope: Option<&str>,
    resource: &str,
) -> anyhow::Result<(String, Option<Duration>)> {
    let mut form = format!("grant_type=client_credentials&resource={}", escaped(resource));
    if let Some(scope) = scope {
        form.push_str(&format!("&scope={}", escaped(scope)));
    }
    let basic = base64(format!("{}:{}", escaped(id), escaped(secret)).as_bytes());
    let request = format!(
        "POST {} HTTP/1.1\r\nHost: {}\r\nAccept: application/json\r\nAuthorization: Basic {basic}\r\nConnection: close\r\nContent-Type: application/x-www-form-urlencoded\r\nContent-Length: {}\r\n\r\n{form}",
        issuer.path,
        issuer.host,
        form.len(),
    );
    let answer = wire::exchange(issuer, request.as_bytes(), PATIENCE).context("the token endpoint")?;
    ensure!(answer.status() == 200, "the token endpoint answers {}", answer.status());
    let granted: Granted = serde_json::from_slice(answer.body()).context("what the token endpoint answers")?;
    let lifetime = granted.expires_in.and_then(|seconds| Duration::try_from_secs_f64(seconds).ok());
    Ok((granted.access_token, lifetime))
}

/// How long a JWT still holds, by its own word. It is not verified: that is for whom it is shown to.
fn left(token: &str) -> Option<Duration> {
    #[derive(Deserialize)]
    struct Claims {
        exp: f64,
    }
    let claims: Claims = serde_json::from_slice(&unbase64(token.split('.').nth(1)?)?).ok()?;
    let now = SystemTime::now().duration_since(UNIX_EPOCH).ok()?;
    Some(Duration::try_from_secs_f64(claims.exp).ok()?.saturating_sub(now))
}

const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

fn base64(bytes: &[u8]) -> String {
    let mut out = String::new();
    for piece in bytes.chunks(3) {
        let word = piece.iter().fold(0u32, |word, byte| word << 8 | u32::from(*byte)) << (8 * (3 - piece.len()));
        for digit in 0..4 {
            let at = usize::try_from(word >> (18 - 6 * digit) & 63).unwrap_or(0);
            out.push(if digit > piece.len() { '=' } else { char::from(ALPHABET[at]) });
        }
    }
    out
}

/// With the alphabet of URLs, without padding.
fn unbase64(text: &str) -> Option<Vec<u8>> {
    let mut out = Vec::new();
    let (mut word, mut bits) = (0u32, 0);
    for byte in text.bytes() {
        let byte = match byte {
            b'-' => b'+',
            b'_' => b'/',
            byte => byte,
        };
        word = word << 6 | u32::try_from(ALPHABET.iter().position(|digit| *digit == byte)?).ok()?;
        bits += 6;
        if bits >= 8 {
            bits -= 8;
            out.push(u8::try_from(word >> bits & 0xff).ok()?);
        }
    }
    Some(out)
}

/// As forms and URLs have it.
fn escaped(text: &str) -> String {
    let mut out = String::new();
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            out.push(char::from(byte));
        } else {
            out.push_str(&format!("%{byte:02X}"));
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn jwt(lifetime: i64) -> String {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_secs();
        let exp = i64::try_from(now).expect("it fits") + lifetime;
        let claims = base64(format!(r#"{{"exp":{exp}}}"#).as_bytes()).replace('+', "-").replace('/', "_");
        format!("e30.{}.sig", claims.trim_end_matches('='))
    }

    #[test]
    fn sixty_four() {
        for (plain, text) in [("", ""), ("f", "Zg=="), ("fo", "Zm8="), ("foo", "Zm9v"), ("foob", "Zm9vYg==")] {
            assert_eq!(base64(plain.as_bytes()), text);
            assert_eq!(unbase64(text.trim_end_matches('=')).expect(text), plain.as_bytes());
        }
        assert_eq!(unbase64("_-8"), Some(vec![0xff, 0xef]));
        assert_eq!(unbase64("a b"), None);
        assert_eq!(escaped("a b&ä"), "a%20b%26%C3%A4");
    }

    #[test]
    fn tokens_say_how_long_they_hold() {
        let left = left(&jwt(100)).expect("a JWT").as_secs();
        assert!((98..=100).contains(&left), "{left}");
        assert_eq!(super::left(&jwt(-100)), Some(Duration::ZERO));
        assert_eq!(super::left("opaque"), None);
        assert!(held(&jwt(100), None, true).expect("a token").due.is_some());
        assert!(held(&jwt(100), None, false).expect("a token").due.is_none(), "there is no other");
        assert!(held("a b", None, true).is_err() && held("", None, true).is_err());
    }

    fn tokens(command: &str, identities: u32) -> anyhow::Result<Tokens> {
        Tokens::start(Source::Command(command.to_owned()), identities, "http://127.0.0.1:1/mcp")
    }

    #[test]
    fn a_token_that_expires_is_fetched_again() {
        // It holds for a second, so that a new one is there before that is over.
        let tokens = tokens(&format!("echo {}", jwt(1)), 2).expect("tokens");
        let until = Instant::now() + Duration::from_secs(20);
        while tokens.refreshed().count < 2 {
            assert!(Instant::now() < until, "nothing is refreshed");
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    #[test]
    fn each_identity_has_its_own_and_a_failure_is_told() {
        let tokens = tokens("echo token-$LOADTEST_IDENTITY", 3).expect("tokens");
        let names: Vec<_> = (0..4).map(|identity| tokens.get(identity)).collect();
        assert_eq!(names, [Some("token-0".into()), Some("token-1".into()), Some("token-2".into()), None]);
        let error = super::tests::tokens("echo no >&2; false", 1).err().expect("no token");
        assert!(format!("{error:#}").contains("no"), "{error:#}");
    }

    #[test]
    fn client_credentials() {
        let sink = crate::rig::sink::Sink::start().expect("a port");
        let url = format!("http://127.0.0.1:{}/token", sink.port);
        let source = Source::Client { url, id: "i".to_owned(), secret: "s".to_owned(), scope: None };
        let tokens = Tokens::start(source, 2, "http://127.0.0.1:1/mcp").expect("tokens");
        assert!(tokens.get(1).is_some() && tokens.get(0) != tokens.get(1));
        let far = Source::Client {
            url: "http://192.0.2.1/token".to_owned(),
            id: "i".to_owned(),
            secret: "s".to_owned(),
            scope: None,
        };
        assert!(Tokens::start(far, 1, "x").is_err(), "a secret in plain text");
    }
}
