//! Identity providers as their documentation describes them (tests/idps: discovery documents, key sets, tokens), read
//! with the settings that README.md gives for each.

use std::fs;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::SystemTime;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use portcullis::base::ids::EndpointId;
use portcullis::config::snapshot::Prepared;
use portcullis::config::{self, Settings, Source};
use portcullis::identity::caller::Caller;
use portcullis::identity::claims::ClaimPath;
use portcullis::identity::keyring::Keyring;
use portcullis::identity::keys::{Algorithm, KeySet};
use portcullis::identity::token::{self, TokenFault};
use portcullis::oauth::metadata::{self, Metadata, MetadataFault};
use ring::rand::SystemRandom;
use ring::signature::{RSA_PKCS1_SHA256, RsaKeyPair, RsaPublicKeyComponents};
use rustls::pki_types::PrivatePkcs8KeyDer;
use rustls::pki_types::pem::PemObject as _;
use serde_json::{Value, json};

/// One provider: what is documented of it, and how README.md says that it is used.
struct Provider {
    name: &'static str,
    of: Value,
    settings: Settings,
    key: RsaKeyPair,
}

/// A configuration that names no variable and no file.
struct Nothing;

impl Source for Nothing {
    fn var(&self, _: &str) -> Option<String> {
        None
    }

    fn file(&self, _: &Path) -> io::Result<String> {
        Err(io::ErrorKind::NotFound.into())
    }
}

fn read(path: &str) -> String {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join(path);
    fs::read_to_string(&file).unwrap_or_else(|fault| panic!("{}: {fault}", file.display()))
}

/// The YAML blocks of the README's section about identity providers.
fn snippets() -> Vec<String> {
    let readme = read("README.md");
    let section = readme.split("\n## Your identity provider\n").nth(1).expect("the section is there");
    let section = section.split("\n## ").next().expect("it has a text");
    let blocks = section.split("```yaml\n").skip(1);
    blocks.map(|block| block.split("```").next().expect("a block ends").to_owned()).collect()
}

/// A snippet as a whole configuration, without one word of warning.
fn loaded(snippet: &str) -> Settings {
    let rest = "servers: { docs: { url: \"http://127.0.0.1:1/mcp\" } }\n\
                policy: { rules: [{ id: open, permit: [\"*/*\"] }] }\n";
    let loaded = config::load(&format!("{snippet}{rest}"), Path::new("/"), &Nothing);
    let loaded = loaded.unwrap_or_else(|faults| panic!("{snippet}\n{faults:#?}"));
    assert!(loaded.warnings.is_empty(), "{snippet}\n{:#?}", loaded.warnings);
    loaded.settings
}

impl Provider {
    fn new(name: &'static str) -> Self {
        let of: Value = serde_json::from_str(&read(&format!("tests/idps/{name}.json"))).expect("it is JSON");
        let issuer = of["issuer"].as_str().expect("an issuer");
        let mut fitting = snippets().into_iter().map(|it| loaded(&it)).filter(|it| *it.issuers[0].issuer == *issuer);
        let settings = fitting.next().unwrap_or_else(|| panic!("README.md has no snippet for {issuer}"));
        assert!(fitting.next().is_none(), "two snippets for {issuer}");
        let pem = read("tests/idps/signing-key.pem");
        let der = PrivatePkcs8KeyDer::from_pem_slice(pem.as_bytes()).expect("it is PEM");
        let key = RsaKeyPair::from_pkcs8(der.secret_pkcs8_der()).expect("it is a key");
        Self { name, of, settings, key }
    }

    fn issuer(&self) -> &str {
        self.of["issuer"].as_str().expect("an issuer")
    }

    /// Its key set, with our key in the place of the one that signs there.
    fn keys(&self) -> KeySet {
        let public: RsaPublicKeyComponents<Vec<u8>> = self.key.public().into();
        let mut set = self.of["keys"].clone();
        for key in set["keys"].as_array_mut().expect("keys are a list") {
            if key["n"] == "SIGNING KEY" {
                key["n"] = json!(URL_SAFE_NO_PAD.encode(&public.n));
            }
        }
        KeySet::parse(set.to_string().as_bytes(), &self.settings.issuers[0].algorithms).expect("a key set")
    }

    /// A token of this form: its header, and its claims with times of now.
    fn sign(&self, form: &Value) -> String {
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).expect("the clock is set").as_secs();
        let mut claims = form["claims"].clone();
        for value in claims.as_object_mut().expect("claims are an object").values_mut().filter(|it| **it == "NOW") {
            *value = json!(now - 5);
        }
        (claims["iat"], claims["exp"]) = (json!(now - 5), json!(now + 300));
        let part = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
        let signed = format!("{}.{}", part(&form["header"]), part(&claims));
        let mut signature = vec![0; self.key.public().modulus_len()];
        let made = self.key.sign(&RSA_PKCS1_SHA256, &SystemRandom::new(), signed.as_bytes(), &mut signature);
        made.expect("RSA signs");
        format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature))
    }

    fn verify(&self, settings: &Settings, form: &Value) -> Result<Caller, TokenFault> {
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).expect("the clock is set").as_secs();
        let keyring = Keyring::of_files([Some(&Arc::new(self.keys()))].into_iter());
        let prepared = Prepared::new(settings);
        let tasks = settings.policy.tasks();
        token::verify(self.sign(form).as_bytes(), &settings.issuers, &keyring, &prepared.resources, tasks, now)
    }

    fn check(&self) {
        let discovery = self.of["discovery"].to_string();
        let document = Metadata::parse(discovery.as_bytes(), self.issuer()).expect("its document is believed");
        assert_eq!(document.keys.as_deref(), self.of["discovery"]["jwks_uri"].as_str(), "{}", self.name);
        assert_eq!(document.token.as_deref(), self.of["discovery"]["token_endpoint"].as_str());
        assert_eq!(document.introspection.as_deref(), self.of["discovery"]["introspection_endpoint"].as_str());
        assert_eq!(document.registration.as_deref(), self.of["discovery"]["registration_endpoint"].as_str());
        for other in [format!("{}/", self.issuer()), self.issuer().trim_end_matches('/').to_uppercase()] {
            let refused = Metadata::parse(discovery.as_bytes(), &other);
            assert_eq!(refused.map(drop), Err(MetadataFault::OtherIssuer), "{other}");
        }
        assert_eq!(json!(self.keys().left_out()), self.of["keys_left_out"], "{}", self.name);
        self.tokens(&self.settings, "tokens");
        for form in self.of["refused"].as_array().expect("a list") {
            let fault =
                self.verify(&self.settings, form).map(drop).expect_err(form["what"].as_str().unwrap_or_default());
            assert_eq!(fault.to_string(), form["why"].as_str().unwrap_or_default(), "{}: {}", self.name, form["what"]);
        }
    }

    /// The tokens in this list are good at `/mcp`, and say who calls.
    fn tokens(&self, settings: &Settings, list: &str) {
        let forms = self.of[list].as_array().expect("a list");
        assert!(!forms.is_empty());
        for form in forms {
            let what = format!("{}: {}", self.name, form["what"]);
            let caller = self.verify(settings, form).unwrap_or_else(|fault| panic!("{what}: {fault}"));
            assert_eq!((&*caller.issuer, json!(&*caller.subject)), (self.issuer(), form["subject"].clone()), "{what}");
            assert_eq!(json!(caller.agent.as_deref()), form["agent"], "{what}");
            let scopes: Vec<&str> = caller.scopes.iter().map(|scope| &**scope).collect();
            assert_eq!(json!(scopes), form["scopes"], "{what}");
            assert!(settings.endpoints[0].path == "/mcp" && caller.endpoints.contains(EndpointId(0)), "{what}");
        }
    }
}

#[test]
fn every_snippet_of_the_readme_loads_and_is_tested() {
    let issuers: Vec<String> = snippets().iter().map(|it| loaded(it).issuers[0].issuer.to_string()).collect();
    let tested =
        ["keycloak", "entra-v2", "entra-v1", "auth0", "okta"].map(|name| Provider::new(name).issuer().to_owned());
    assert_eq!(issuers, tested);
}

#[test]
fn keycloak() {
    let keycloak = Provider::new("keycloak");
    keycloak.check();
    assert!(metadata::places(keycloak.issuer()).contains(&keycloak.of["document"].as_str().expect("a URL").to_owned()));
}

#[test]
fn entra_id() {
    let two = Provider::new("entra-v2");
    two.check();
    assert!(metadata::places(two.issuer()).contains(&two.of["document"].as_str().expect("a URL").to_owned()));
    // It has PKCE, and does not say so; its keys name no algorithm.
    let document = Metadata::parse(two.of["discovery"].to_string().as_bytes(), two.issuer()).expect("a document");
    assert_eq!(document.code_challenges, None);
    // Where its keys are is written, so nobody looks for its document at another host.
    Provider::new("entra-v1").check();
}

#[test]
fn auth0() {
    let auth0 = Provider::new("auth0");
    auth0.check();
    assert!(metadata::places(auth0.issuer()).contains(&auth0.of["document"].as_str().expect("a URL").to_owned()));
    // As README.md says of the other profile.
    let mut settings = auth0.settings.clone();
    settings.issuers[0].agent = ClaimPath::parse("claims.client_id").expect("a path");
    auth0.tokens(&settings, "tokens_by_client_id");
}

#[test]
fn okta() {
    let okta = Provider::new("okta");
    okta.check();
    assert!(metadata::places(okta.issuer()).contains(&okta.of["document"].as_str().expect("a URL").to_owned()));
    // The endpoint's URL is nobody's name there: without the issuer's audience written down no token is good.
    let mut settings = okta.settings.clone();
    settings.issuers[0].audience = None;
    let form = &okta.of["tokens"][0];
    assert_eq!(okta.verify(&settings, form).map(drop), Err(TokenFault::Audience));
    // Nor without the word for no type.
    let mut settings = okta.settings.clone();
    settings.issuers[0].typ = token::TYP_DEFAULT.map(str::to_owned).to_vec();
    assert_eq!(okta.verify(&settings, form).map(drop), Err(TokenFault::Type));
    // A key that signs by RS256 signs by nothing else here.
    let settings = okta.settings.clone();
    assert_eq!(settings.issuers[0].algorithms, [Algorithm::Rs256]);
    let mut form = form.clone();
    form["header"]["alg"] = json!("PS256");
    assert_eq!(okta.verify(&settings, &form).map(drop), Err(TokenFault::AlgorithmForbidden));
}
