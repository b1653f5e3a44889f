//! Real clients through the gateway to real servers: connect, list what policy shows, call, be refused, see progress,
//! cancel, be asked.

use serde_json::{Value, json};

use crate::support::gateway::{Gateway, PATIENCE, Setup, Who, eventually_within};
use crate::support::oracle;
use crate::support::peers::{
    CONFORMANCE_SERVER, EVERYTHING_PROGRAM, EVERYTHING_SERVER, PY_CLIENT, PY_SERVER, PY_SSE_SERVER, Peers, Sdk,
    TS_CLIENT, everything_steps, node_peers, python_peers,
};
use crate::support::tls::{Authority, Manner, Shelf, Terminator};

/// A client at work: its peers, its script, and the eras it speaks.
struct Client {
    peers: Peers,
    script: &'static str,
    eras: &'static [&'static str],
}

fn typescript() -> Option<Client> {
    Some(Client { peers: node_peers()?, script: TS_CLIENT, eras: &["legacy", "modern", "auto"] })
}

fn python(sdk: Sdk) -> Option<Client> {
    let eras: &[&str] = if sdk == Sdk::V2 { &["legacy", "modern", "auto"] } else { &["legacy"] };
    Some(Client { peers: python_peers(sdk)?, script: PY_CLIENT, eras })
}

/// A gateway in front of `url` that hides `hidden`, for callers with a token whose task is the active one.
fn gateway(url: &str, hidden: &str) -> Gateway {
    governed(Setup::new().server("peer", url), hidden)
}

fn governed(setup: Setup, hidden: &str) -> Gateway {
    setup
        .tokens("deny")
        .task("work")
        .rule(json!({ "id": "work", "tasks": ["work"], "permit": ["*/*", "*!*"] }))
        .rule(json!({ "id": "hide", "forbid": [format!("peer/{hidden}")] }))
        .shards(2)
        .start()
}

fn drive(client: &Client, gateway: &Gateway, era: &str, steps: &Value) -> Value {
    let who = Who { subject: "real", agent: Some("client"), tasks: &["work"], expires_s: 600 };
    let url = gateway.url("/s/peer/mcp");
    let token = gateway.token_for(&who, &[&url]);
    client.peers.drive(client.script, &json!({ "url": url, "era": era, "token": token, "steps": steps }))
}

#[track_caller]
fn ok(report: &Value, step: &str) {
    assert_eq!(report[step]["ok"], true, "{step}: {:#}", report[step]);
}

/// What each client must report, whatever the server.
#[track_caller]
fn well_served(report: &Value, hidden: &str, sum: &str) {
    assert_eq!(report["connect"]["ok"], true, "{report:#}");
    for step in ["list", "resources", "prompts", "call", "progress", "elicit", "close"] {
        ok(report, step);
    }
    let tools = report["list"]["tools"].as_array().expect("a list");
    assert!(tools.len() > 3 && !tools.contains(&json!(hidden)), "{tools:?}");
    assert!(report["call"]["text"].as_str().is_some_and(|text| text.contains(sum)), "{:#}", report["call"]);
    for step in ["hidden", "unknown"] {
        let (refusal, code) = (&report[step], &report[step]["code"]);
        assert_eq!((&refusal["ok"], code), (&json!(false), &json!(-32_602)), "{step}: {refusal:#}");
    }
    assert!(
        report["progress"]["notifications"].as_array().is_some_and(|notes| notes.len() >= 3),
        "{:#}",
        report["progress"]
    );
    assert_eq!(report["cancel"]["cancelled"], true, "{:#}", report["cancel"]);
    assert!(report["elicit"]["asked"].as_array().is_some_and(|asked| !asked.is_empty()), "{:#}", report["elicit"]);
}

/// Drives a client in each of its eras against one of our own servers, which know the same tools.
fn against_ours(client: Option<Client>, server: Option<Peers>, script: &str) {
    let (Some(client), Some(server)) = (client, server) else { return };
    let server = server.serve(script);
    let gateway = gateway(&server.url(), "secret");
    all_eras(&client, &gateway);
}

/// The same, encrypted on both sides: the client believes an authority of its own, and so does the gateway.
fn encrypted(client: Option<Client>) {
    let (Some(mut client), Some(server)) = (client, node_peers()) else { return };
    let server = server.serve(CONFORMANCE_SERVER);
    let (mine, theirs, shelf) = (Authority::new("gateways"), Authority::new("servers"), Shelf::new());
    client.peers = client.peers.trusting(shelf.put("mine.pem", &mine.pem()));
    let front = Terminator::start(server.address(), Manner::Polite(theirs.issue(&["127.0.0.1"]).server(None)));
    let tls = json!({ "ca": shelf.put("theirs.pem", &theirs.pem()) });
    let listen = json!([{ "address": "127.0.0.1:0", "tls": shelf.pair("c", &mine.issue(&["127.0.0.1"])) }]);
    let setup = Setup::new().set("/servers/peer", json!({ "url": front.url(), "tls": tls })).set("/listen", listen);
    let gateway = governed(setup, "secret");
    assert!(gateway.url("/").starts_with("https://"));
    all_eras(&client, &gateway);
    assert!(front.shakes().iter().all(|shake| shake.done), "{:?}", front.shakes());
}

fn all_eras(client: &Client, gateway: &Gateway) {
    for era in client.eras {
        let report = drive(client, gateway, era, &json!({}));
        well_served(&report, "secret", "5");
        assert_eq!(report["fail"]["isError"], true, "{:#}", report["fail"]);
        assert_eq!(report["cancel"]["noticed"], true, "{:#}", report["cancel"]);
        assert!(report["elicit"]["text"].as_str().is_some_and(|text| text.contains("blue")), "{:#}", report["elicit"]);
        let protocol = report["connect"]["protocol"].as_str().unwrap_or_default();
        assert_eq!(protocol == "2026-07-28", *era != "legacy", "{era}: {protocol}");
        assert_eq!(report["connect"]["session"], *era == "legacy", "{era}");
    }
    let records = oracle::check(gateway, &[]);
    let refused: Vec<&Value> =
        records.iter().filter(|it| it["verdict"] == "refuse" && it["tool"] == "secret").collect();
    assert_eq!(refused.len(), client.eras.len(), "each attempt is on record");
    assert!(refused.iter().all(|it| it["task"] == "work" && it["rules"] == json!(["hide"])), "{refused:?}");
}

/// Drives a client against a server that speaks HTTP+SSE of 2024-11-05 only, and knows the same tools.
fn against_sse(client: Option<Client>) {
    let (Some(client), Some(server)) = (client, python_peers(Sdk::V1)) else { return };
    let server = server.serve(PY_SSE_SERVER);
    let gateway = gateway(&format!("http://{}/sse", server.address()), "secret");
    for era in client.eras.iter().filter(|era| **era != "modern") {
        let report = drive(&client, &gateway, era, &json!({}));
        well_served(&report, "secret", "5");
        assert_eq!(report["fail"]["isError"], true, "{:#}", report["fail"]);
        assert_eq!(report["cancel"]["noticed"], true, "{:#}", report["cancel"]);
        assert!(report["elicit"]["text"].as_str().is_some_and(|text| text.contains("blue")), "{:#}", report["elicit"]);
        assert_eq!(report["connect"]["session"], true, "{era}");
    }
    oracle::check(&gateway, &[]);
}

/// Drives a client of the deprecated HTTP+SSE transport, which has that with the gateway and nobody else.
fn of_old(client: Option<Client>) {
    let (Some(client), Some(server)) = (client, node_peers()) else { return };
    let server = server.serve(CONFORMANCE_SERVER);
    let endpoints = json!({ "/sse": { "servers": ["peer"], "sse": true } });
    let gateway = governed(Setup::new().server("peer", &server.url()).set("/endpoints", endpoints), "secret");
    let who = Who { subject: "real", agent: Some("client"), tasks: &["work"], expires_s: 600 };
    let url = gateway.url("/sse");
    let token = gateway.token_for(&who, &[&url]);
    // Of what comes in one piece with the answer the TypeScript client drops the notification, whoever sends it: it
    // gives notifications on a step later than answers.
    let progress = json!({ "name": "slow", "arguments": { "steps": 5, "step_ms": 20, "label": "progress" } });
    let steps = json!({ "progress": progress });
    let spec = json!({ "url": url, "era": "legacy", "transport": "sse", "token": token, "steps": steps });
    let report = client.peers.drive(client.script, &spec);
    well_served(&report, "secret", "5");
    assert_eq!(report["fail"]["isError"], true, "{:#}", report["fail"]);
    assert_eq!(report["cancel"]["noticed"], true, "{:#}", report["cancel"]);
    assert!(report["elicit"]["text"].as_str().is_some_and(|text| text.contains("blue")), "{:#}", report["elicit"]);
    oracle::check(&gateway, &[]);
}

/// The everything server speaks the legacy era only; clients of both eras find that out.
fn against_everything(client: Option<Client>) {
    let (Some(client), Some(node)) = (client, node_peers()) else { return };
    let server = node.serve(EVERYTHING_SERVER);
    let gateway = gateway(&server.url(), "get-env");
    for era in client.eras.iter().filter(|era| **era != "modern") {
        let report = drive(&client, &gateway, era, &everything_steps());
        well_served(&report, "get-env", "5");
        assert_ne!(report["connect"]["protocol"], "2026-07-28");
    }
    oracle::check(&gateway, &[]);
}

/// The everything server as a program. One child per session; shared, it is asked for what needs no client of its own.
fn against_everything_program(client: Option<Client>) {
    let (Some(client), Some(node)) = (client, node_peers()) else { return };
    let setup = Setup::new().set("/servers/peer", node.program(&[EVERYTHING_PROGRAM, "stdio"]));
    let gateway = governed(setup, "get-env");
    known(&gateway);
    for era in client.eras.iter().filter(|era| **era != "modern") {
        let report = drive(&client, &gateway, era, &everything_steps());
        well_served(&report, "get-env", "5");
        assert_ne!(report["connect"]["protocol"], "2026-07-28");
    }
    oracle::check(&gateway, &[]);
}

/// One of our own servers as a program, which speaks both eras.
fn against_our_program(client: Option<Client>, server: Option<Peers>, script: &str) {
    let (Some(client), Some(server)) = (client, server) else { return };
    let setup = Setup::new().set("/servers/peer", server.program(&[script, "stdio"]));
    let gateway = governed(setup, "secret");
    known(&gateway);
    all_eras(&client, &gateway);
}

/// A program takes its time to begin, and until then its eras are not known.
fn known(gateway: &Gateway) {
    // Where it speaks both eras, it has to begin twice before they are.
    eventually_within(PATIENCE * 3, "the program is known", || gateway.status()["servers"][0]["known"] == true);
}

#[test]
fn typescript_to_an_everything_program() {
    against_everything_program(typescript());
}

#[test]
fn python_2_to_an_everything_program() {
    against_everything_program(python(Sdk::V2));
}

#[test]
fn python_1_to_an_everything_program() {
    against_everything_program(python(Sdk::V1));
}

#[test]
fn typescript_to_a_python_program() {
    against_our_program(typescript(), python_peers(Sdk::V2), PY_SERVER);
}

#[test]
fn python_2_to_a_typescript_program() {
    against_our_program(python(Sdk::V2), node_peers(), CONFORMANCE_SERVER);
}

#[test]
fn typescript_to_typescript() {
    against_ours(typescript(), node_peers(), CONFORMANCE_SERVER);
}

#[test]
fn typescript_to_python() {
    against_ours(typescript(), python_peers(Sdk::V2), PY_SERVER);
}

#[test]
fn typescript_to_everything() {
    against_everything(typescript());
}

#[test]
fn typescript_to_sse() {
    against_sse(typescript());
}

#[test]
fn python_1_to_sse() {
    against_sse(python(Sdk::V1));
}

#[test]
fn python_2_to_sse() {
    against_sse(python(Sdk::V2));
}

#[test]
fn python_2_to_typescript() {
    against_ours(python(Sdk::V2), node_peers(), CONFORMANCE_SERVER);
}

#[test]
fn python_2_to_python() {
    against_ours(python(Sdk::V2), python_peers(Sdk::V2), PY_SERVER);
}

#[test]
fn python_2_to_everything() {
    against_everything(python(Sdk::V2));
}

#[test]
fn python_1_to_typescript() {
    against_ours(python(Sdk::V1), node_peers(), CONFORMANCE_SERVER);
}

#[test]
fn python_1_to_python() {
    against_ours(python(Sdk::V1), python_peers(Sdk::V2), PY_SERVER);
}

#[test]
fn python_1_to_everything() {
    against_everything(python(Sdk::V1));
}

#[test]
fn typescript_of_old() {
    of_old(typescript());
}

#[test]
fn python_1_of_old() {
    of_old(python(Sdk::V1));
}

#[test]
fn python_2_of_old() {
    of_old(python(Sdk::V2));
}

#[test]
fn typescript_encrypted() {
    encrypted(typescript());
}

#[test]
fn python_2_encrypted() {
    encrypted(python(Sdk::V2));
}

#[test]
fn python_1_encrypted() {
    encrypted(python(Sdk::V1));
}
