//! What the admin listener does when it is told to: drain, reload. Whoever can read the state folder may tell it; the
//! token there is made anew at each start.

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use ring::rand::{SecureRandom as _, SystemRandom};
use serde_json::{Value, json};

use crate::gateway::control::{Control, Life};

use super::reload::Reloader;
use super::{PlaneFault, notify, state};

/// Name of the token's file in the state folder.
pub const TOKEN_FILE: &str = "admin.token";

/// What the admin listener may do.
pub struct Orders {
    token: Token,
    reloader: Arc<Reloader>,
    /// An order is being carried out.
    busy: AtomicBool,
}

/// Something to be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Order {
    Drain,
    Reload,
}

impl Order {
    /// What a path asks for.
    pub(super) fn of(path: &[u8]) -> Option<Self> {
        match path {
            b"/drain" => Some(Self::Drain),
            b"/reload" => Some(Self::Reload),
            _ => None,
        }
    }
}

impl Orders {
    /// Those of a gateway with this state folder, where its token is written to.
    ///
    /// # Errors
    /// `PlaneFault::File` where it cannot be.
    pub fn new(state: &Path, reloader: Arc<Reloader>) -> Result<Self, PlaneFault> {
        Ok(Self { token: Token::make(state)?, reloader, busy: AtomicBool::new(false) })
    }

    /// Whether an `Authorization` field's value is the token.
    pub(super) fn allows(&self, authorization: Option<&[u8]>) -> bool {
        self.token.is_in(authorization)
    }

    /// Carries an order out: the HTTP status and what came of it. One at a time.
    pub(super) fn carry_out(&self, order: Order, control: &Control) -> (u16, String) {
        if self.busy.swap(true, Ordering::Acquire) {
            return (409, text(&json!({ "error": "another order is being carried out" })));
        }
        let done = match order {
            Order::Drain => {
                if control.life() == Life::Run {
                    tracing::info!("draining: told to over the admin listener");
                    control.set_life(Life::Drain);
                    notify::stopping();
                }
                (202, text(&json!({ "draining": true })))
            }
            Order::Reload => self.reload(),
        };
        self.busy.store(false, Ordering::Release);
        done
    }
}

impl Orders {
    fn reload(&self) -> (u16, String) {
        let mut done = (500, String::new());
        notify::reloading(|| {
            done = match self.reloader.reload() {
                Ok(report) if report.behind == 0 => (200, text(&report.to_json())),
                Ok(report) => (504, text(&report.to_json())),
                Err(fault) => (422, text(&fault.to_json())),
            };
        });
        done
    }
}

fn text(value: &Value) -> String {
    format!("{value:#}\n")
}

/// What whoever gives an order has to know.
struct Token(Box<str>);

impl Token {
    /// Another one, and its file in the state folder. Under another name first: whoever reads it reads all of it.
    fn make(state: &Path) -> Result<Self, PlaneFault> {
        state::folder("the state folder", state)?;
        let path = state.join(TOKEN_FILE);
        let fault = |error| PlaneFault::File { what: "the admin token", path: path.display().to_string(), error };
        let mut secret = [0; 32];
        let random = SystemRandom::new().fill(&mut secret);
        random.map_err(|_| fault(std::io::Error::other("no randomness")))?;
        let token: String = secret.iter().map(|byte| format!("{byte:02x}")).collect();
        let fresh = path.with_extension(format!("token.{}", std::process::id()));
        match fs::remove_file(&fresh) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(fault(error)),
            _ => {}
        }
        let file = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&fresh);
        file.and_then(|mut file| file.write_all(format!("{token}\n").as_bytes())).map_err(fault)?;
        fs::rename(&fresh, &path).map_err(fault)?;
        Ok(Self(token.into()))
    }

    /// Whether an `Authorization` field's value is it.
    fn is_in(&self, authorization: Option<&[u8]>) -> bool {
        let given = authorization.and_then(|value| {
            let (scheme, token) = value.split_at_checked(BEARER.len())?;
            scheme.eq_ignore_ascii_case(BEARER).then(|| token.trim_ascii())
        });
        given.is_some_and(|given| is_same(given, self.0.as_bytes()))
    }
}

/// In a time that does not depend on where they differ.
fn is_same(given: &[u8], token: &[u8]) -> bool {
    given.len() == token.len() && given.iter().zip(token).fold(0, |differ, (a, b)| differ | (a ^ b)) == 0
}

const BEARER: &[u8] = b"bearer ";

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn only_the_token_is_the_token() {
        let folder = tempfile::tempdir().unwrap();
        let state = folder.path().join("state");
        let made = Token::make(&state).unwrap();
        let path = state.join(TOKEN_FILE);
        let token = fs::read_to_string(&path).unwrap();
        let token = token.trim();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(token.len(), 64);
        let allows = |value: &str| made.is_in(Some(value.as_bytes()));
        assert!(allows(&format!("Bearer {token}")) && allows(&format!("bearer {token}")));
        for wrong in ["", "Bearer ", "Bearer", token, &format!("Basic {token}"), &format!("Bearer {}", &token[1..])] {
            assert!(!allows(wrong), "{wrong}");
        }
        assert!(!allows(&format!("Bearer {}x", &token[..63])));
        assert!(!made.is_in(None));
        // Another start, another token.
        let next = Token::make(&state).unwrap();
        assert!(!next.is_in(Some(format!("Bearer {token}").as_bytes())));
    }
}
