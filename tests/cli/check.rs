//! `portcullis check`: quiet on success, everything that is wrong at once, with its place.

use std::fs;

use crate::support::gateway::run;
use crate::support::peers::Run;

/// Checks a configuration; relative paths in it lead to the folder where it stands.
fn checked(config: &str, flags: &[&str]) -> (Option<i32>, Run) {
    let folder = tempfile::tempdir().expect("a temporary folder");
    fs::write(folder.path().join("portcullis.yaml"), config).expect("it can be written");
    let mut arguments = vec!["check", "--config", "portcullis.yaml"];
    arguments.extend(flags);
    let run = run(folder.path(), &arguments);
    (run.status.and_then(|status| status.code()), run)
}

const GOOD: &str = "\
auth: { anonymous: allow }
servers:
  docs: { url: http://127.0.0.1:9001/mcp }
policy:
  tasks: { research: Read things. }
  rules:
    - { id: read, tasks: [research], permit: [docs/*] }
";

const TLS: &str = "\
listen: [{ address: \"127.0.0.1:8443\", tls: { cert: cert.pem, key: key.pem } }]
auth: { anonymous: allow }
servers:
  docs: { url: https://docs.example/mcp, tls: { ca: cert.pem, cert: cert.pem, key: ./key.pem } }
policy:
  rules:
    - { id: read, permit: [docs/*] }
";

#[test]
fn a_good_configuration_is_met_with_silence() {
    let (code, run) = checked(GOOD, &[]);
    assert_eq!((code, run.stdout.as_str(), run.stderr.as_str()), (Some(0), "", ""));
    let (code, run) = checked(GOOD, &["--strict"]);
    assert_eq!((code, run.stderr.as_str()), (Some(0), ""));
}

#[test]
fn json_is_as_good() {
    let config = r#"{"auth":{"anonymous":"allow"},"servers":{"a":{"url":"http://127.0.0.1:1/mcp"}},
        "policy":{"rules":[{"id":"open","permit":["*/*"]}]}}"#;
    let (code, run) = checked(config, &[]);
    assert_eq!((code, run.stderr.as_str()), (Some(0), ""));
}

#[test]
fn all_faults_at_once_each_with_its_place() {
    let config = "\
listen: 127.0.0.1
shardz: 2
auth: { anonymous: maybe }
servers:
  Docs: { url: http://127.0.0.1:9001/mcp }
  files: { url: ftp://127.0.0.1/mcp, timeout: 5 }
policy:
  rules:
    - { id: one, permit: [docs/*], tasks: [nothing] }
    - { id: one, forbid: [\"nowhere/*\"] }
";
    let (code, run) = checked(config, &[]);
    assert_eq!((code, run.stdout.as_str()), (Some(3), ""));
    insta::assert_snapshot!("faults", run.stderr);
}

#[test]
fn a_key_that_is_not_built_yet_is_refused_in_words() {
    let config = "\
auth: { anonymous: allow }
servers:
  pay: { urls: [\"http://127.0.0.1:1/mcp\", \"http://127.0.0.1:2/mcp\"], credentials: { bearer: x } }
policy:
  rules:
    - { id: small, permit: [pay/*], when: args.amount < 5 }
audit: { durability: disk }
telemetry: { otlp: http://127.0.0.1:4318 }
";
    let (code, run) = checked(config, &[]);
    assert_eq!(code, Some(3));
    insta::assert_snapshot!("not_built_yet", run.stderr);
}

/// Faults of a policy, in the words that its author reads: conditions to the character, limits, and files that are included.
#[test]
fn faults_of_a_policy() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let write = |name: &str, text: &str| fs::write(folder.path().join(name), text).expect("it can be written");
    fs::create_dir(folder.path().join("teams")).expect("it can be made");
    write("portcullis.yaml", FAULTY_POLICY);
    write("teams/b.yaml", "rules:\n  - id: small\n    forbid: [pay/*]\n    when: args.amount.starsWith(\"x\")\n");
    write("teams/a.yaml", "tasks: [refund]\n");
    let run = run(folder.path(), &["check", "--config", "portcullis.yaml"]);
    assert_eq!(run.status.and_then(|status| status.code()), Some(3));
    insta::assert_snapshot!("policy", run.stderr);
}

const FAULTY_POLICY: &str = "\
auth: { anonymous: allow }
servers:
  pay: { url: http://127.0.0.1:1/mcp }
policy:
  include: [teams/*.yaml, team.yaml]
  rules:
    - id: small
      permit: [pay/refund]
      who: claims.groups.contains(\"x\") && args.x == 1
      when: |
        args.amount <= 500 &&
        args.currency in [\"EUR\", 5]
      limits:
        - { calls: 20, per: 1h, within: 5m }
        - { sum: args.amount, per: 24h }
        - { once: args.invoice_id, by: sbject }
    - id: large
      aprove: [pay/refund]
      when: 'args.amount > \"500\"'
  rates:
    - { on: [pay/*], call: 5, per: 1s }
";

/// What is only worth a warning is a fault where it is asked for.
#[test]
fn strict_takes_warnings_for_faults() {
    let config = GOOD.replace("docs/*", "dosc/*");
    let (code, told) = checked(&config, &[]);
    assert_eq!(code, Some(0), "{}", told.stderr);
    let (code, strict) = checked(&config, &["--strict"]);
    assert_eq!(code, Some(3), "{}", strict.stderr);
    assert!(
        told.stderr.starts_with("warning: policy.rules[0].permit[0]: `dosc/*` fits no server\n"),
        "{}",
        told.stderr
    );
    assert_eq!(strict.stderr, format!("{}portcullis.yaml: 1 warning, a fault by --strict\n", told.stderr));
}

/// The files that show how it is done are without fault, read from where they lie.
#[test]
fn the_examples_are_sound() {
    let jwks = r#"{"keys": [{"kty": "EC", "crv": "P-256", "kid": "1", "x": "f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU", "y": "x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0"}]}"#;
    let folder = tempfile::tempdir().expect("a temporary folder");
    let examples = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("examples");
    fs::create_dir(folder.path().join("teams")).expect("it can be made");
    fs::write(folder.path().join("jwks.json"), jwks).expect("it can be written");
    fs::create_dir(folder.path().join("secrets")).expect("it can be made");
    for name in ["idp-client", "payments-token", "search-key", "crm-catalogue", "otlp-authorization"] {
        fs::write(folder.path().join("secrets").join(name), "made-for-this-test\n").expect("it can be written");
    }
    let key = rcgen::KeyPair::generate().expect("a key can be made").serialize_pem();
    fs::write(folder.path().join("secrets/client-key.pem"), key).expect("it can be written");
    for name in ["quickstart.yaml", "two-servers.yaml", "policy.yaml", "fleet.yaml", "teams/records.yaml"] {
        fs::copy(examples.join(name), folder.path().join(name)).expect("it can be copied");
    }
    for name in ["quickstart.yaml", "two-servers.yaml", "policy.yaml", "fleet.yaml"] {
        let run = run(folder.path(), &["check", "--strict", "--config", name]);
        assert_eq!((run.status.and_then(|status| status.code()), run.stderr.as_str()), (Some(0), ""), "{name}");
    }
    fs::remove_file(folder.path().join("teams/records.yaml")).expect("it was there");
    let run = run(folder.path(), &["check", "--config", "policy.yaml"]);
    assert!(run.stderr.contains("`teams/*.yaml` finds no file"), "{}", run.stderr);
}

#[test]
fn a_configuration_that_lets_nobody_in_is_a_fault() {
    let (code, run) = checked("servers: { a: { url: \"http://127.0.0.1:1/mcp\" } }\n", &[]);
    assert_eq!(code, Some(3), "{}", run.stderr);
    insta::assert_snapshot!("nobody", run.stderr);
}

/// [O4] Everybody, on a public address, is let in only where the file says twice that it is meant.
#[test]
fn anonymous_on_a_public_address_needs_a_second_word() {
    let config = "\
listen: 0.0.0.0:8080
public_url: https://tools.example.com
auth: { anonymous: allow }
servers: { a: { url: \"http://127.0.0.1:1/mcp\" } }
";
    assert_eq!(checked(config, &[]).0, Some(3));
    let allowed = config.replace("allow }", "allow, anonymous_public: true }");
    assert_eq!(checked(&allowed, &[]).0, Some(0));
}

/// [O6] A secret that is asked for and not there is a fault, not a default.
#[test]
fn certificates_and_keys_are_read() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let write = |name: &str, text: &str| fs::write(folder.path().join(name), text).expect("it can be written");
    let check = || run(folder.path(), &["check", "--strict", "--config", "portcullis.yaml"]);
    write("portcullis.yaml", TLS);
    let without = check();
    assert_eq!(without.status.and_then(|status| status.code()), Some(3), "{}", without.stderr);
    insta::assert_snapshot!("no_certificate", without.stderr);
    let made = rcgen::generate_simple_self_signed(vec!["tools.example.com".to_owned()]).expect("it can be made");
    write("cert.pem", &made.cert.pem());
    write("key.pem", &made.cert.pem());
    let swapped = check();
    assert_eq!(swapped.status.and_then(|status| status.code()), Some(3), "{}", swapped.stderr);
    assert!(swapped.stderr.contains("it has a certificate, and no key"), "{}", swapped.stderr);
    write("key.pem", &made.signing_key.serialize_pem());
    let whole = check();
    assert_eq!((whole.status.and_then(|status| status.code()), whole.stderr.as_str()), (Some(0), ""));
}

#[test]
fn tokens_in_clear_text_are_a_warning() {
    let jwks = r#"{"keys": [{"kty": "OKP", "crv": "Ed25519", "kid": "1", "x": "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}]}"#;
    let folder = tempfile::tempdir().expect("a temporary folder");
    let write = |name: &str, text: &str| fs::write(folder.path().join(name), text).expect("it can be written");
    write("jwks.json", jwks);
    let issuer = "auth: { issuers: [{ issuer: https://idp.example, jwks: { file: jwks.json } }] }";
    let config = GOOD.replace("auth: { anonymous: allow }", issuer);
    write("c.yaml", &format!("listen: 192.0.2.1:8080\npublic_url: https://tools.example.com\n{config}"));
    let code = |run: &Run| run.status.and_then(|status| status.code());
    let told = run(folder.path(), &["check", "--config", "c.yaml"]);
    assert_eq!(code(&told), Some(0), "{}", told.stderr);
    assert!(told.stderr.contains("tokens travel in clear text there"), "{}", told.stderr);
    assert_eq!(code(&run(folder.path(), &["check", "--strict", "--config", "c.yaml"])), Some(3));
}

#[test]
fn syntax_errors_have_a_place() {
    let (code, run) = checked("servers: [\n", &[]);
    assert_eq!(code, Some(3));
    assert!(run.stderr.contains("portcullis.yaml:"), "{}", run.stderr);
}

#[test]
fn a_file_that_is_not_there_is_another_matter() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let run = run(folder.path(), &["check", "--config", "nowhere.yaml"]);
    assert_eq!(run.status.and_then(|status| status.code()), Some(1), "{}", run.stderr);
    assert!(run.stderr.contains("nowhere.yaml"), "{}", run.stderr);
}

#[test]
fn secrets_from_elsewhere_are_never_quoted() {
    let config = "auth: { anonymous: \"${WORD:-hunter2}\" }\nservers: { a: { url: \"http://127.0.0.1:1/mcp\" } }\n";
    let (code, run) = checked(config, &[]);
    assert_eq!(code, Some(3));
    assert!(!run.stderr.contains("is not `hunter2`") && run.stderr.contains("auth.anonymous"), "{}", run.stderr);
}

#[test]
fn the_committed_schema_is_the_one_printed() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let run = run(folder.path(), &["check", "--schema"]);
    assert_eq!(run.status.and_then(|status| status.code()), Some(0), "{}", run.stderr);
    let committed = include_str!("../../portcullis.schema.json");
    assert!(run.stdout == committed, "portcullis.schema.json is not what `portcullis check --schema` prints");
}
