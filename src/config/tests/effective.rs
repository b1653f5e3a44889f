//! What is shown of a configuration is another that means the same, but for its secrets.

use super::*;
use crate::config::front::Front;

/// What the settings are, to the last field; secrets look all alike.
fn meaning(text: &str) -> String {
    let mut settings = read(text).unwrap_or_else(|faults| panic!("{faults:#?}\n{text}")).settings;
    // Names that follow from the listeners are written out in what is shown.
    settings.front = Front::default();
    settings.hosts = Vec::new();
    format!("{settings:#?}")
}

#[track_caller]
fn check(text: &str) {
    for whole in [false, true] {
        let shown = effective(text, Path::new("/etc/gate"), &House, whole).expect("it is sound");
        let (yaml, json) = (shown.to_yaml(), shown.to_json());
        assert_eq!(meaning(&yaml), meaning(text), "{yaml}");
        assert_eq!(meaning(&json), meaning(text), "{json}");
        for secret in ["hunter2", "t0ken", "aHVudGVyMg", "Z2F0ZTpodW50ZXIy"] {
            assert!(!yaml.contains(secret) && !json.contains(secret), "{yaml}");
        }
    }
}

#[test]
fn what_is_shown_means_the_same() {
    check(include_str!("../../../examples/quickstart.yaml"));
    check(include_str!("../../../examples/two-servers.yaml"));
    check(&include_str!("../testdata/fleet.yaml").replace("  durability: process", "  #"));
    check(WHOLE);
}

#[test]
fn whatever_holds_is_shown() {
    let text = "auth: { anonymous: allow }\nservers: { a: { url: 'http://127.0.0.1:1/mcp?key=hunter2' }, \
                b: { command: [x, '--key=${SECRET}'], env: { K: hunter2 } } }\npolicy: { rules: [] }\n";
    let shown = |whole| effective(text, Path::new("/etc/gate"), &House, whole).expect("it is sound").to_yaml();
    let (written, whole) = (shown(false), shown(true));
    assert!(!written.contains("hunter2") && !written.contains("limits"), "{written}");
    assert!(written.contains("http://127.0.0.1:1/mcp?(secret)"), "{written}");
    insta::assert_snapshot!(whole);
}

const WHOLE: &str = r#"
listen: [{ address: "127.0.0.1:8443", tls: { cert: tls/cert.pem, key: tls/key.pem } }, 127.0.0.1:8080]
shards: "${COUNT}"
admin: off
auth:
  scopes: [mcp:tools]
  issuers:
    - issuer: https://a.example
      audience: [x, y]
      jwks: off
      introspection: { client_id: gate, client_key: { file: tls/pkcs8.pem, key_id: k, audience: https://a.example } }
      private: [10.0.0.0/8]
      ca: tls/ca.pem
      typ: [none]
      claims: { level: number, groups: [text] }
    - { issuer: https://b.example, jwks: { url: https://b.example/keys, refresh: 90s } }
    - { issuer: c, jwks: { file: jwks.json } }
servers:
  a:
    url: https://a.example/mcp
    credentials: { exchange: { token_url: https://a.example/token, client_id: gate, client_secret: "${SECRET}", audience: [a, b] } }
    catalogue: { header: { name: X-Key, value: "${SECRET}" } }
    identity_headers: { X-User: claims.sub, X-Agent: agent }
    concurrency: 5
    pin: quarantine
  b: { urls: [http://127.0.0.1:1/, http://127.0.0.1:2/], credentials: { basic: { username: gate, password: "${SECRET}" } }, timeout: 1s }
  c: { command: [./x, -y], inherit: [PATH], cwd: /tmp, sharing: shared }
  d: { url: https://d.example/mcp, credentials: forward, transport: sse, health: { interval: 1s } }
endpoints:
  /mcp: { servers: [a, b, c], audience: api://x, sse: true }
  /d: { servers: [d], instructions: false, names: prefix }
policy:
  tasks: { refund: "Yes: refund" }
  rules:
    - { id: one, permit: ["*/*"], tasks: [refund], when: 'args.a == "x"', limits: [{ sum: 0.1, max: 5.50, per: 1h, by: [subject, args.b] }] }
    - { id: two, forbid: ["a!resource:*"], mode: shadow, reason: "no: never" }
  rates: [{ on: a/*, calls: 5, per: 1s, burst: 9 }]
audit: { arguments: { "a/*": [b] }, subject: keyed }
limits: { body: 64KiB, calls: 7 }
sessions: { idle: 1h }
telemetry:
  otlp: { url: https://o.example, headers: { key: "${SECRET}" }, interval: 30s }
  traces: 0.25
  baggage: [tenant]
  resource: { deployment.environment.name: "on" }
"#;
