//! What a protected resource says to clients that have no token yet, or too little of one: its metadata document
//! (RFC 9728), its challenges (RFC 6750, 3), and where old clients find its issuer (MCP 2025-03-26
//! basic/authorization).

use serde_json::{Value, json};

use crate::base::limits::CHALLENGE_TEXT_BYTES_MAX;

/// Where metadata documents are, in front of the resource's own path.
pub const WELL_KNOWN: &str = "/.well-known/oauth-protected-resource";

/// The path of the document about the resource at `path`: the slash of a path that is nothing else goes (RFC 9728, 3.1).
#[must_use]
pub fn metadata_path(path: &str) -> String {
    format!("{WELL_KNOWN}{}", path.trim_end_matches('/'))
}

/// A metadata document, JSON. `scopes` are left out where there are none: what a client then asks for is its issuer's
/// affair.
#[must_use]
pub fn document(resource: &str, issuers: &[&str], scopes: &[&str]) -> Vec<u8> {
    let mut document = json!({
        "resource": resource,
        "authorization_servers": issuers,
        "bearer_methods_supported": ["header"],
        "resource_name": "Portcullis",
    });
    if !scopes.is_empty() {
        document["scopes_supported"] = json!(scopes);
    }
    document.to_string().into_bytes()
}

/// What a client is answered whose token is missing, not good, or not enough: values of `WWW-Authenticate`.
#[derive(Clone, Debug)]
pub struct Challenges {
    /// `Bearer resource_metadata="…"`.
    start: String,
    /// What every token is to have, in the operator's order.
    scopes: Vec<String>,
}

impl Challenges {
    /// For the resource whose document is at this URL, and whose tokens are all to have these scopes.
    #[must_use]
    pub fn new(document: &str, scopes: &[&str]) -> Self {
        let start = format!("Bearer resource_metadata={}", quoted(document));
        Self { start, scopes: scopes.iter().map(|&scope| scope.to_owned()).collect() }
    }

    /// There is no token.
    #[must_use]
    pub fn missing(&self) -> String {
        format!("{}{}", self.start, scope(&self.scopes))
    }

    /// The one that came is not good.
    #[must_use]
    pub fn invalid(&self) -> String {
        format!("{}{}, error=\"invalid_token\"", self.start, scope(&self.scopes))
    }

    /// The token lacks some of these scopes, which are all that the call needs. What every token is to have is named
    /// too: a client that asks for exactly this would else come back with less than it had.
    #[must_use]
    pub fn insufficient(&self, needed: &[Box<str>]) -> String {
        let mut all = self.scopes.clone();
        for scope in needed {
            if !all.iter().any(|known| **known == **scope) {
                all.push(scope.to_string());
            }
        }
        format!("{}, error=\"insufficient_scope\"{}", self.start, scope(&all))
    }
}

/// A challenge with a sentence for whoever reads it; one that names no error stays as it is (RFC 6750, 3.1).
#[must_use]
pub fn described(challenge: &str, why: &str) -> String {
    if !challenge.contains("error=") {
        return challenge.to_owned();
    }
    format!("{challenge}, error_description={}", quoted(why))
}

fn scope(scopes: &[String]) -> String {
    if scopes.is_empty() { String::new() } else { format!(", scope={}", quoted(&scopes.join(" "))) }
}

/// A quoted string (RFC 9110, 5.6.4). RFC 6750, 3 has no `"`, no `\` and nothing but ASCII in any of these values, so
/// there is never anything to escape: what does not belong there is a `'`.
fn quoted(text: &str) -> String {
    let plain = |c: char| if matches!(c, ' ' | '!' | '#'..='[' | ']'..='~') { c } else { '\'' };
    let kept = text.chars().take(CHALLENGE_TEXT_BYTES_MAX).map(plain);
    [Some('"')].into_iter().flatten().chain(kept).chain(['"']).collect()
}

/// Where clients of 2025-03-26 are sent, who take the gateway's own origin for their authorization server.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Forwarding {
    /// The issuer's metadata, as it came.
    pub document: Vec<u8>,
    /// Its authorization endpoint, for `/authorize`.
    pub authorize: Option<String>,
    /// Its token endpoint, for `/token`.
    pub token: Option<String>,
    /// Its registration endpoint, for `/register`.
    pub register: Option<String>,
}

impl Forwarding {
    /// By the metadata document of an issuer (RFC 8414), which was found to be one already. What is no http or https URL
    /// without a fragment leads nowhere.
    #[must_use]
    pub fn new(document: &[u8]) -> Self {
        let read: Value = serde_json::from_slice(document).unwrap_or_default();
        let endpoint = |name: &str| {
            let url = read[name].as_str()?;
            let fits = ["https://", "http://"].iter().any(|scheme| url.starts_with(scheme));
            (fits && url.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'#')).then(|| url.to_owned())
        };
        Self {
            document: document.to_vec(),
            authorize: endpoint("authorization_endpoint"),
            token: endpoint("token_endpoint"),
            register: endpoint("registration_endpoint"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn documents_stand_where_clients_look() {
        for (path, want) in [("/mcp", "/mcp"), ("/s/docs/mcp", "/s/docs/mcp"), ("/", ""), ("/a/b", "/a/b")] {
            assert_eq!(metadata_path(path), format!("{WELL_KNOWN}{want}"), "{path}");
        }
        let document: Value = serde_json::from_slice(&document("https://h/mcp", &["https://i"], &["a", "b"])).unwrap();
        let want = json!({ "resource": "https://h/mcp", "authorization_servers": ["https://i"], "scopes_supported": ["a", "b"],
            "bearer_methods_supported": ["header"], "resource_name": "Portcullis" });
        assert_eq!(document, want);
        let none: Value = serde_json::from_slice(&super::document("https://h/mcp", &["https://i"], &[])).unwrap();
        assert_eq!(none.get("scopes_supported"), None);
    }

    #[test]
    fn challenges() {
        let plain = Challenges::new("https://h/.well-known/oauth-protected-resource/mcp", &[]);
        let start = "Bearer resource_metadata=\"https://h/.well-known/oauth-protected-resource/mcp\"";
        assert_eq!(plain.missing(), start);
        assert_eq!(plain.invalid(), format!("{start}, error=\"invalid_token\""));
        let needed: [Box<str>; 2] = ["pay".into(), "read".into()];
        assert_eq!(plain.insufficient(&needed), format!("{start}, error=\"insufficient_scope\", scope=\"pay read\""));
        let scoped = Challenges::new("https://h/.well-known/oauth-protected-resource/mcp", &["tools", "read"]);
        assert_eq!(scoped.missing(), format!("{start}, scope=\"tools read\""));
        let want = format!("{start}, error=\"insufficient_scope\", scope=\"tools read pay\"");
        assert_eq!(scoped.insufficient(&needed), want);
    }

    #[test]
    fn a_description_cannot_end_its_quotes() {
        assert_eq!(described("Bearer a=\"b\"", "why"), "Bearer a=\"b\"");
        let said = described("Bearer error=\"x\"", "a \"b\" \\ \r\nc é");
        assert_eq!(said, "Bearer error=\"x\", error_description=\"a 'b' ' ''c '\"");
        let long = described("Bearer error=\"x\"", &"x".repeat(10_000));
        assert!(long.len() < CHALLENGE_TEXT_BYTES_MAX + 64, "{}", long.len());
    }

    #[test]
    fn old_clients_are_sent_to_urls_only() {
        let read = |json: Value| Forwarding::new(json.to_string().as_bytes());
        let whole = read(json!({ "authorization_endpoint": "https://i/auth", "token_endpoint": "https://i/token",
            "registration_endpoint": "https://i/reg" }));
        let named = [&whole.authorize, &whole.token, &whole.register].map(|url| url.as_deref().unwrap_or_default());
        assert_eq!(named, ["https://i/auth", "https://i/token", "https://i/reg"]);
        for bad in
            ["javascript:alert(1)", "https://i/a b", "https://i/\r\nset-cookie: a", "https://i/é", "//i/auth", ""]
        {
            assert_eq!(read(json!({ "authorization_endpoint": bad })).authorize, None, "{bad}");
        }
        assert_eq!(read(json!({ "authorization_endpoint": 1, "token_endpoint": null })).token, None);
        assert_eq!(Forwarding::new(b"nonsense").authorize, None);
    }
}
