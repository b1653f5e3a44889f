//! Issuers, what servers are shown, telemetry: what they mean, what is wrong with them, and that no secret is told.

use super::*;
use crate::identity::claims::ClaimPath;
use crate::identity::keys::Algorithm;
use crate::oauth::client::Proof;

fn sound(text: &str) -> Loaded {
    read(text).unwrap_or_else(|faults| panic!("{faults:#?}"))
}

/// A whole file around these keys of `auth` and this server.
fn around(auth: &str, server: &str) -> String {
    format!(
        "auth: {{ {auth} }}\nservers: {{ a: {{ {server} }} }}\npolicy: {{ rules: [{{ id: a, permit: ['*/*'] }}] }}\n"
    )
}

fn server(keys: &str) -> String {
    around("anonymous: allow", &format!("url: 'https://a.example/mcp', {keys}"))
}

fn issuer(keys: &str) -> String {
    around(&format!("issuers: [{{ {keys} }}]"), "url: 'http://127.0.0.1:1/mcp'")
}

/// What is said of the one line that counts; its place left out.
#[track_caller]
fn told(text: &str, want: &[&str]) {
    let faults = read(text).map_or_else(|faults| faults, |loaded| loaded.warnings);
    let got: Vec<String> = faults.iter().map(|fault| format!("{}: {}", fault.path, fault.message)).collect();
    assert_eq!(got, want, "{text}");
    for fault in &faults {
        let shown = format!("{fault} {}", fault.render("f", text));
        assert!(!shown.contains("hunter2"), "a secret is told: {shown}");
    }
}

#[test]
fn where_keys_come_from() {
    let check = |keys: &str, want: KeysFrom, (refresh_ms, stale_ms): (u64, u64)| {
        let loaded = sound(&issuer(&format!("issuer: https://idp.example/a, {keys}")));
        assert_eq!(loaded.warnings, []);
        let source = &loaded.settings.sources[0];
        assert_eq!((&source.keys, source.refresh_ms, source.stale_ms), (&want, refresh_ms, stale_ms), "{keys}");
    };
    let usual = (300_000, 3_600_000);
    check("", KeysFrom::Discovery, usual);
    check("jwks: {}", KeysFrom::Discovery, usual);
    check("jwks: { refresh: 1m, stale: 2m }", KeysFrom::Discovery, (60_000, 120_000));
    check("jwks: { stale: 1m }", KeysFrom::Discovery, (60_000, 60_000));
    check("jwks: { refresh: 2h }", KeysFrom::Discovery, (7_200_000, 7_200_000));
    check("jwks: { url: https://keys.example/jwks }", KeysFrom::Url("https://keys.example/jwks".into()), usual);
    let introspection = "introspection: { client_id: gate, client_secret: '${SECRET}' }";
    check(&format!("jwks: off, {introspection}"), KeysFrom::None, usual);
    check(introspection, KeysFrom::Discovery, usual);
    let file = sound(&issuer("issuer: any name, jwks: { file: jwks.json }"));
    assert!(matches!(file.settings.sources[0].keys, KeysFrom::File(_)));
    let near = sound(&issuer("issuer: 'http://127.0.0.1:7', private: [127.0.0.0/8], ca: tls/ca.pem, typ: [JWT, none]"));
    let guard = &near.settings.sources[0].guard;
    assert!(guard.private[0].holds("127.0.0.1".parse().expect("an address")) && guard.ca == Some(path("tls/ca.pem")));
    assert_eq!(near.settings.issuers[0].typ, ["JWT", "none"]);
}

#[test]
fn faults_of_issuers() {
    let check = |keys: &str, want: &[&str]| told(&issuer(&format!("issuer: https://idp.example, {keys}")), want);
    check("jwks: offf", &["auth.issuers[0].jwks: `offf` is not `off` or keys"]);
    check(
        "jwks: off",
        &["auth.issuers[0].jwks: without keys its tokens can only be asked about, and there is no `introspection`"],
    );
    check(
        "jwks: { file: jwks.json, url: https://x/, stale: 1h }",
        &["auth.issuers[0].jwks.url: does not go with `file`", "auth.issuers[0].jwks.stale: does not go with `file`"],
    );
    check(
        "jwks: { refresh: 2m, stale: 1m }",
        &[
            "auth.issuers[0].jwks.stale: is shorter than `refresh`: keys would be too old before they are looked at again",
        ],
    );
    check("jwks: { refresh: 1ms }", &["auth.issuers[0].jwks.refresh: must be from 1s to 24h"]);
    check(
        "jwks: { url: http://idp.example/jwks }",
        &[
            "auth.issuers[0].jwks.url: is an http URL: what it is asked and what it answers could be read and changed on the way",
        ],
    );
    check("jwks: { url: '${SECRET}' }", &["auth.issuers[0].jwks.url: the value is not an https URL"]);
    check(
        "private: [10.0.0.1/8, 300.0.0.0, ::1]",
        &[
            "auth.issuers[0].private[0]: `10.0.0.1/8` is not a network",
            "auth.issuers[0].private[1]: `300.0.0.0` is not a network",
        ],
    );
    check("ca: tls/key.pem", &["auth.issuers[0].ca: `tls/key.pem`: it has a key, and no certificate"]);
    check("introspection: {}", &["auth.issuers[0].introspection: `client_id` is missing"]);
    check(
        "introspection: { client_id: gate, auth: post }",
        &[
            "auth.issuers[0].introspection: has neither `client_secret` nor `client_key`: an issuer does not tell just anybody about tokens",
            "auth.issuers[0].introspection.auth: says how `client_secret` is shown, and there is none",
        ],
    );
    check(
        "introspection: { client_id: g, client_secret: '${SECRET}', cache: 1h }",
        &["auth.issuers[0].introspection.cache: must be from 0ms to 5m"],
    );
    told(
        &issuer(
            "issuer: 'urn:x', introspection: { client_id: g, client_secret: '${SECRET}' }, jwks: { file: jwks.json }",
        ),
        &[
            "auth.issuers[0].issuer: is no URL that metadata could be behind (https, no query; http on loopback alone, where `private` names it)",
        ],
    );
    let asked = "introspection: { client_id: g, client_secret: '${SECRET}' }";
    let two = format!(
        "issuers: [{{ issuer: https://a, {asked} }}, {{ issuer: https://b, {asked} }}], legacy_metadata: true, scopes: [a, 'b c', a]"
    );
    told(
        &around(&two, "url: 'http://127.0.0.1:1/mcp'"),
        &[
            "auth.issuers[1].introspection: auth.issuers[0] has it: whose an opaque token is, it does not say",
            "auth.legacy_metadata: such clients know of one issuer only, and here is not one",
            "auth.scopes[1]: `b c` is not a scope",
            "auth.scopes[2]: stands twice",
        ],
    );
}

#[test]
fn what_servers_are_shown() {
    let check = |keys: &str, name: &str, value: &str| {
        let loaded = sound(&server(keys));
        assert_eq!(loaded.warnings, []);
        let Credentials::Fixed(field) = &loaded.settings.servers[0].credentials else { panic!("{keys}") };
        assert_eq!((&*field.name, field.value.reveal()), (name, value.as_bytes()), "{keys}");
    };
    check("credentials: { bearer: '${file:secrets/token}' }", "authorization", "Bearer t0ken-hunter2");
    check("credentials: { header: { name: X-Api-Key, value: 'Key ${SECRET}' } }", "x-api-key", "Key hunter2");
    check(
        "credentials: { basic: { username: gate, password: '${SECRET}' } }",
        "authorization",
        "Basic Z2F0ZTpodW50ZXIy",
    );

    let grant = "token_url: https://idp.example/token, client_id: gate";
    let loaded = sound(&server(&format!(
        "credentials: {{ exchange: {{ {grant}, client_secret: '${{SECRET}}', auth: post, audience: [a, b], resource: \
         https://a.example, scope: 'x y', private: [10.0.0.0/8] }} }}, catalogue: {{ bearer: '${{SECRET}}' }}, \
         identity_headers: {{ X-User: claims.sub, x_agent: agent, X-Iss: issuer, X-Task: task, X-Sub: subject }}"
    )));
    let server_settings = &loaded.settings.servers[0];
    let Credentials::Exchange(exchange) = &server_settings.credentials else { panic!("an exchange") };
    assert_eq!((&*exchange.token_url, &*exchange.client.id), ("https://idp.example/token", "gate"));
    assert!(matches!(&exchange.client.proof, Proof::Post(secret) if secret.reveal() == b"hunter2"));
    assert_eq!((exchange.audience.len(), &*exchange.resource[0]), (2, "https://a.example"));
    assert_eq!((exchange.scope.as_deref(), exchange.guard.private.len()), (Some("x y"), 1));
    assert!(matches!(server_settings.catalogue, Some(Credentials::Fixed(_))));
    let names: Vec<&str> = server_settings.identity_headers.iter().map(|header| &*header.name).collect();
    assert_eq!(names, ["x-user", "x_agent", "x-iss", "x-task", "x-sub"]);
    let claim = ClaimPath::parse("claims.sub").expect("a claim");
    assert_eq!(server_settings.identity_headers[0].from, IdentityValue::Claim(claim));
    assert_eq!(server_settings.identity_headers[1].from, IdentityValue::Agent);

    let key = "client_key: { file: tls/pkcs8.pem, key_id: k1 }";
    let loaded = sound(&server(&format!("credentials: {{ client_credentials: {{ {grant}, {key} }} }}")));
    let Credentials::ClientCredentials(own) = &loaded.settings.servers[0].credentials else { panic!("a grant") };
    let Proof::PrivateKey(key) = &own.client.proof else { panic!("a key") };
    assert_eq!((key.algorithm, key.id.as_deref()), (Algorithm::Es256, Some("k1")));
    assert!(!key.der.is_empty());
    let public = sound(&server(&format!("credentials: {{ exchange: {{ {grant} }} }}")));
    let Credentials::Exchange(public) = &public.settings.servers[0].credentials else { panic!("an exchange") };
    assert_eq!(public.client.proof, Proof::None);
}

#[test]
fn faults_of_what_servers_are_shown() {
    let check = |keys: &str, want: &[&str]| told(&server(keys), want);
    check(
        "credentials: forward",
        &[
            "servers.a.credentials: the server gets the callers' own tokens, and with one whatever its caller may do here: right \
         only for a server that shares the gateway's audience and is trusted as the gateway is",
        ],
    );
    check("credentials: {}", &["servers.a.credentials: has no credential"]);
    check(
        "credentials: { bearer: '${SECRET}', basic: { username: a, password: '${SECRET}' } }",
        &["servers.a.credentials.basic: `bearer` and `basic` exclude each other"],
    );
    let literal = "is a secret, and written for everybody to read who may read this file";
    check("credentials: { bearer: hunter2 }", &[&format!("servers.a.credentials.bearer: {literal}")]);
    check("credentials: { beerer: hunter2 }", &["servers.a.credentials.beerer: is not a key"]);
    check("credentials: hunter2", &["servers.a.credentials: the value is not `strip`, `forward` or keys"]);
    check("credentials: { bearer: [hunter2] }", &["servers.a.credentials.bearer: expected a text, found a list"]);
    check("credentials: { bearer: '' }", &["servers.a.credentials.bearer: is empty"]);
    let odd = "has characters that it cannot have (line breaks, controls, others than ASCII)";
    check("credentials: { bearer: '${file:secrets/two-lines}' }", &[&format!("servers.a.credentials.bearer: {odd}")]);
    check("credentials: { bearer: 'a ${SECRET}' }", &[&format!("servers.a.credentials.bearer: {odd}")]);
    check(
        "credentials: { header: { name: Mcp-X, value: '${SECRET}' } }",
        &["servers.a.credentials.header.name: `Mcp-X` is a field that means something else on the way to the server"],
    );
    check(
        "credentials: { header: { name: X, value: '${SECRET} ' } }",
        &["servers.a.credentials.header.value: begins or ends with a blank"],
    );
    check(
        "credentials: { basic: { username: 'a:b', password: '${file:secrets/two-lines}' } }",
        &[
            "servers.a.credentials.basic.username: has a colon or a control character, which no user has",
            "servers.a.credentials.basic.password: has a line break or another control character, or is too long",
        ],
    );
    check(
        "credentials: { client_credentials: { token_url: 'http://x/', client_id: g } }",
        &[
            "servers.a.credentials.client_credentials: has neither `client_secret` nor `client_key`: so nobody else can have this token",
            "servers.a.credentials.client_credentials.token_url: is an http URL: what it is asked and what it answers could be read and changed on the way",
        ],
    );
}

#[test]
fn faults_of_grants_and_of_what_servers_are_told() {
    let check = |keys: &str, want: &[&str]| told(&server(keys), want);
    let grant = "token_url: 'https://x/', client_id: g, client_secret: '${SECRET}'";
    check(
        &format!(
            "credentials: {{ exchange: {{ {grant}, client_key: {{ file: tls/key.pem }}, scope: 'a  b', resource: x }} }}"
        ),
        &[
            "servers.a.credentials.exchange.client_key: `client_secret` and `client_key` exclude each other",
            "servers.a.credentials.exchange.scope: `a  b` is not a list of scopes",
            "servers.a.credentials.exchange.resource: is not a URL without a #fragment",
        ],
    );
    let keyed = "token_url: 'https://x/', client_id: g, client_key: { file: tls/key.pem }";
    check(
        &format!("credentials: {{ exchange: {{ {keyed} }} }}"),
        &["servers.a.credentials.exchange.client_key.file: `tls/key.pem`: it is no key for ES256"],
    );
    check(
        "credentials: { bearer: '${SECRET}' }, catalogue: { bearer: '${SECRET}' }",
        &[
            "servers.a.catalogue: is for servers with `forward` or `exchange`: others are asked with the same `credentials` as always",
        ],
    );
    check(
        "identity_headers: { X-User: claims, x_user: agent, X-USER: task, Authorization: subject, cookie: agent }",
        &[
            "servers.a.identity_headers.X-User: `claims` is not `subject`, `agent`, `issuer` or `task`, and not a claim",
            "servers.a.identity_headers.X-USER: `X-USER` stands twice: case, `-` and `_` make no difference",
            "servers.a.identity_headers.Authorization: `Authorization` is a field that means something else on the way to the server",
            "servers.a.identity_headers.cookie: `cookie` is a field that means something else on the way to the server",
        ],
    );
    check(
        "credentials: { header: { name: X-User, value: '${SECRET}' } }, identity_headers: { x_user: agent }",
        &["servers.a.identity_headers: `x-user` is the field of its `credentials`"],
    );
}

#[test]
fn faults_of_servers_that_are_shown_nothing() {
    let far = around("anonymous: allow", "url: 'http://a.example/mcp', credentials: { bearer: '${SECRET}' }");
    told(&far, &["servers.a.credentials: is sent in clear text to a.example"]);
    let command = around(
        "anonymous: allow",
        "command: [x], credentials: { bearer: '${SECRET}' }, catalogue: { bearer: '${SECRET}' }",
    );
    told(
        &command,
        &[
            "servers.a.credentials: a command has pipes, and nothing to show a credential in",
            "servers.a.catalogue: does not go with this server: a command has no use for it",
        ],
    );
    sound(&around("anonymous: allow", "command: [x], credentials: strip"));
}

#[test]
fn endpoints_have_audiences() {
    let text = around("issuers: [{ issuer: https://i.example }]", "url: 'http://127.0.0.1:1/mcp'");
    let loaded = sound(&format!(
        "{text}endpoints: {{ /mcp: {{ servers: [a], audience: [api://x, y] }}, /b: {{ servers: [a], audience: z }} }}\n"
    ));
    let audiences: Vec<usize> = loaded.settings.endpoints.iter().map(|endpoint| endpoint.audience.len()).collect();
    assert_eq!(audiences, [2, 1, 0]);
    told(
        &format!("{text}endpoints: {{ /mcp: {{ servers: [a], audience: [] }} }}\n"),
        &["endpoints./mcp.audience: must not be empty"],
    );
}

#[test]
fn telemetry_settings() {
    let with = |keys: &str| format!("{}telemetry: {{ {keys} }}\n", server("credentials: strip"));
    let of = |keys: &str| {
        let loaded = sound(&with(keys));
        assert_eq!(loaded.warnings, [], "{keys}");
        loaded.settings.telemetry
    };
    assert_eq!(of(""), TelemetrySettings::default());
    let short = of("otlp: 'http://127.0.0.1:4318/', traces: 0.01, trace_context: link, denial_is_error: false");
    let otlp = short.otlp.expect("a collector");
    assert_eq!(
        (&*otlp.url, otlp.interval_ms, otlp.timeout_ms, otlp.metrics),
        ("http://127.0.0.1:4318", 15_000, 5_000, true)
    );
    assert_eq!((short.traces_ppm, short.context, short.denial_is_error), (10_000, TraceContext::Link, false));
    let long =
        of("otlp: { url: 'https://o.example/base', headers: { Api-Key: '${SECRET}' }, ca: tls/ca.pem, interval: 1s, \
                   timeout: 1s, metrics: false }, traces: 1, notification_traces: 1e-6, baggage: [tenant], \
                   resource: { deployment.environment.name: prod }, session_buckets: long, trace_context: drop");
    let otlp = long.otlp.expect("a collector");
    assert_eq!((&*otlp.url, &*otlp.headers[0].0, otlp.metrics), ("https://o.example/base", "api-key", false));
    assert_eq!(otlp.headers[0].1.reveal(), b"hunter2");
    assert_eq!((long.traces_ppm, long.notifications_ppm, long.baggage), (1_000_000, 1, vec!["tenant".to_owned()]));
    assert!(long.session_buckets.is_some_and(|bounds| bounds.is_sorted() && bounds.last() == Some(&604_800)));

    told(
        &with("otlp: 'http://u:hunter2@x/', traces: 1.5, baggage: ['a b'], resource: { service.name: x }"),
        &[
            "telemetry.otlp: has a user or a password",
            "telemetry.traces: must be from 0 to 1",
            "telemetry.baggage: has what cannot be a key of baggage",
            "telemetry.resource.service.name: is what the gateway says of itself",
        ],
    );
    told(
        &with("traces: 0.0000001"),
        &[
            "telemetry.traces: is less than one in a million",
            "telemetry.traces: nothing is recorded without a collector",
        ],
    );
    told(
        &with(
            "otlp: { url: 'http://o.example/v1/traces', ca: tls/ca.pem, headers: { Host: '${SECRET}', a: hunter2, A: '${SECRET}' } }",
        ),
        &[
            "telemetry.otlp.url: is the URL of one signal, not the one that all of them are behind",
            "telemetry.otlp.url: is an http URL: `headers` are sent in clear text",
            "telemetry.otlp.ca: the URL is an http one",
            "telemetry.otlp.headers.Host: `Host` is no field that can be added",
            "telemetry.otlp.headers.a: is a secret, and written for everybody to read who may read this file",
            "telemetry.otlp.headers.A: stands twice: case makes no difference",
        ],
    );
}

/// Nor where something else is wrong on its line, wherever that is found out, or the file cannot be read at all.
#[test]
fn a_line_with_a_secret_is_shown_to_nobody() {
    let line = "{auth: {anonymous: allow}, servers: {a: {url: 'https://a.example/', credentials: {bearer: hunter2}}}, policy: {rules: \
                [{id: a, permit: [b/*]}]}}\n";
    told(
        line,
        &[
            "servers.a.credentials.bearer: is a secret, and written for everybody to read who may read this file",
            "policy.rules[0].permit[0]: `b/*` fits no server",
        ],
    );
    let loaded = sound(&line.replace("b/*", "a/x*"));
    let set = &loaded.settings.policy;
    let warning = crate::policy::compile::Warning {
        rule: crate::base::ids::RuleId::from_index(0),
        pattern: 0,
        lacks: crate::policy::compile::Lacks::Match,
    };
    for fault in loaded.stands.faults(set, &[], &[warning]) {
        let shown = fault.render("f", loaded.stands.text());
        assert!(!shown.contains("hunter2") && shown.contains("a/x*"), "{shown}");
    }
    for broken in ["bearer: [hunter2", "servers: { a: { client_secret: \"hunter2 } }", "  password: hunter2\n x: }"] {
        for fault in read(broken).expect_err("it is no YAML") {
            let shown = format!("{} {fault}", fault.render("f", broken));
            assert!(!shown.contains("hunter2"), "{shown}");
        }
    }
}
