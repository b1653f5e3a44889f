//! An identity provider in its own process: `tests/peers/idp.mjs`, which says what it can be told.

use serde_json::{Value, json};

use super::http::{Response, Wire};
use super::peers::{Peers, Server, node_peers};
use super::tls::{Authority, Shelf};

/// The script.
const IDP: &str = "idp.mjs";

/// A running provider; ended when dropped.
#[derive(Debug)]
pub(crate) struct Idp {
    server: Server,
    issuer: String,
}

impl Idp {
    /// With what the script is told; `None`, said aloud, where there is no Node.
    pub(crate) fn start(told: &Value) -> Option<Self> {
        Some(Self::of(&node_peers()?, told))
    }

    /// One with TLS, or with a client document, whose certificates are of this authority: `told` gets `cimd` and, where
    /// `encrypted`, `tls`.
    pub(crate) fn start_trusted(told: &Value, shelf: &Shelf, authority: &Authority, encrypted: bool) -> Option<Self> {
        let trusted = shelf.put("authority.pem", &authority.pem());
        let pair = shelf.pair("idp", &authority.issue(&["localhost"]));
        let mut told = told.clone();
        told["cimd"] = pair.clone();
        if encrypted {
            told["tls"] = pair;
        }
        Some(Self::of(&node_peers()?.trusting(trusted), &told))
    }

    fn of(peers: &Peers, told: &Value) -> Self {
        let server = peers.serve_with(IDP, &[("IDP", &told.to_string())]);
        let mut it = Self { server, issuer: String::new() };
        it.issuer = it.state()["issuer"].as_str().expect("an issuer has a name").to_owned();
        it
    }

    /// What it calls itself.
    pub(crate) fn issuer(&self) -> &str {
        &self.issuer
    }

    /// One of `auth.issuers`: its keys are discovered, on loopback.
    pub(crate) fn settings(&self) -> Value {
        json!({ "issuer": self.issuer, "private": ["127.0.0.0/8"] })
    }

    /// `issuer`, `keys` (the first signs), `cimd`, `client` and `gateway` with their ids and secrets.
    pub(crate) fn state(&self) -> Value {
        self.asked("GET", "state", None).json()
    }

    /// A signed token; see the script.
    pub(crate) fn token(&self, of: &Value) -> String {
        self.told("token", of)["token"].as_str().expect("a token is text").to_owned()
    }

    /// An opaque token; see the script.
    pub(crate) fn opaque(&self, of: &Value) -> String {
        self.told("opaque", of)["token"].as_str().expect("a token is text").to_owned()
    }

    /// An opaque token is one no more.
    pub(crate) fn revoke(&self, token: &str) {
        self.told("revoke", &json!({ "token": token }));
    }

    /// Other keys; see the script. The ids of all that there are then.
    pub(crate) fn rotate(&self, how: &Value) -> Vec<String> {
        let keys = self.told("rotate", how);
        let ids = keys["keys"].as_array().into_iter().flatten();
        ids.filter_map(|id| id.as_str().map(str::to_owned)).collect()
    }

    /// What the next requests of a path meet; see the script.
    pub(crate) fn fault(&self, fault: &Value) {
        self.told("fault", fault);
    }

    /// Every request of a path (the issuer's own path included) so far.
    pub(crate) fn seen(&self, path: &str) -> Vec<Value> {
        let seen = self.asked("GET", "seen", None).json();
        let all = seen.as_array().into_iter().flatten();
        all.filter(|it| it["path"].as_str().is_some_and(|it| it.split('?').next() == Some(path))).cloned().collect()
    }

    #[track_caller]
    fn told(&self, what: &str, body: &Value) -> Value {
        let answer = self.asked("POST", what, Some(body));
        assert_eq!(answer.status(), 200, "{what}: {}", answer.text());
        answer.json()
    }

    fn asked(&self, method: &str, what: &str, body: Option<&Value>) -> Response {
        let (address, body) = (self.server.address(), body.map(Value::to_string).unwrap_or_default());
        let head =
            format!("{method} /test/{what} HTTP/1.1\r\nhost: {address}\r\ncontent-length: {}\r\n\r\n", body.len());
        Wire::to(address).ask(format!("{head}{body}").as_bytes())
    }
}

/// The value of a parameter of a request that [`Idp::seen`] told of; empty where it had none.
pub(crate) fn parameter<'a>(seen: &'a Value, name: &str) -> &'a str {
    let form = seen["form"].as_array().into_iter().flatten();
    form.filter_map(Value::as_array).find(|pair| pair[0] == name).and_then(|pair| pair[1].as_str()).unwrap_or_default()
}

/// The double is what tests of the gateway believe it to be.
#[test]
fn the_provider_is_one() {
    let (shelf, authority) = (Shelf::new(), Authority::new("idps"));
    let told = json!({ "path": "/realms/a", "resource": "http://gateway/mcp", "redirect": "http://127.0.0.1:1/cb" });
    let Some(idp) = Idp::start_trusted(&told, &shelf, &authority, false) else { return };
    assert!(idp.issuer().starts_with("http://127.0.0.1:") && idp.issuer().ends_with("/realms/a"));
    let parts = idp.token(&json!({ "sub": "bob" }));
    assert_eq!(parts.split('.').count(), 3);
    let opaque = idp.opaque(&json!({ "client_id": "service" }));
    assert!(!opaque.contains('.'));
    let introspected = || {
        let address = idp.server.address();
        // gateway:gateway-secret
        let client =
            "authorization: Basic Z2F0ZXdheTpnYXRld2F5LXNlY3JldA==\r\ncontent-type: application/x-www-form-urlencoded";
        let (head, body) = ("POST /realms/a/token/introspection HTTP/1.1", format!("token={opaque}"));
        let request = format!("{head}\r\nhost: {address}\r\n{client}\r\ncontent-length: {}\r\n\r\n{body}", body.len());
        Wire::to(address).ask(request.as_bytes()).json()["active"].clone()
    };
    assert_eq!(introspected(), true);
    idp.revoke(&opaque);
    assert_eq!(introspected(), false);
    assert_eq!(parameter(&idp.seen("/realms/a/token/introspection")[0], "token"), opaque);
    let one = idp.rotate(&json!({ "publish": true }));
    assert_eq!(one.len(), 2);
    assert_eq!(idp.rotate(&json!({ "sign": one[1] })), [one[1].clone(), one[0].clone()]);
    assert_eq!(idp.rotate(&json!({})).len(), 1);
    idp.fault(&json!({ "path": "/realms/a/jwks", "status": 503, "body": { "out": "of order" } }));
    let address = idp.server.address();
    let jwks = || Wire::to(address).ask(format!("GET /realms/a/jwks HTTP/1.1\r\nhost: {address}\r\n\r\n").as_bytes());
    assert_eq!((jwks().status(), jwks().status()), (503, 200));
    assert_eq!(idp.seen("/realms/a/jwks").len(), 2);
    assert!(idp.state()["cimd"].as_str().is_some_and(|url| url.ends_with("/client.json")));
}
