//! Requests that others collected (Http11Probe), when they are at hand: what demands a refusal is refused, what is well
//! formed is not, and no server ever sees more than the record has.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use serde_json::Value;

use crate::support::gateway::{Gateway, Setup, Who};
use crate::support::http::{Response, Wire};
use crate::support::oracle;
use crate::support::upstream::{Plan, Upstream};

const CASES: &str = "../shared/corpora/http1/http11probe_cases.json";
/// How many of them demand 400; fewer were read wrongly.
const DEMANDING: usize = 62;
const ALL: usize = 204;

/// One request, or several on one connection.
struct Case {
    id: String,
    /// 400 and nothing else.
    demands: bool,
    /// What its author wants, in words.
    wants: String,
    payloads: Vec<Vec<u8>>,
}

/// What came back before the connection ended, or was seen to go on.
struct Outcome {
    answers: Vec<Response>,
}

impl Outcome {
    fn first(&self) -> Option<u16> {
        self.answers.first().map(Response::status)
    }

    /// Refused for its form, and not because of its path, its token or its message.
    fn malformed(&self) -> bool {
        self.answers.first().is_some_and(|answer| match answer.status() {
            400 => answer.json()["error"]["code"] == -32_600,
            status => [414, 417, 431, 501, 505].contains(&status),
        })
    }

    /// Whether the connection ended with the answer, or without one.
    fn closed(&self) -> bool {
        self.answers.last().is_none_or(|answer| answer.field("connection") == "close")
    }

    /// Whether this is what `wants` says: a status, one of a kind, or an end.
    fn pleases(&self, wants: &str, payloads: usize) -> bool {
        let unwanted = wants.strip_prefix("not ").or(wants.strip_prefix("non-")).or(wants.strip_prefix('!'));
        if let (Some(unwanted), Some(first)) = (unwanted, self.first()) {
            return !status_named(unwanted, first);
        }
        // One answer for each request, and none for what stood in a body.
        let told_apart = self.answers.len() <= payloads;
        if ["preferred", "pass-through", "eject/drop"].iter().any(|word| wants.contains(word)) {
            return told_apart;
        }
        let ended = (wants.contains("close") || wants.contains("timeout")) && self.closed();
        // The corpus speaks to a server that answers any request; here a method or a path may be served to nobody.
        let served = ["2xx", "200", "204", "IMF"].iter().any(|word| wants.contains(word)) && !self.malformed();
        told_apart && (ended || served || self.first().is_some_and(|first| status_named(wants, first)))
    }
}

fn status_named(words: &str, status: u16) -> bool {
    words.contains(&status.to_string()) || (status < 200 && words.contains("1xx"))
}

/// [H1] [H2] [H3] [H4] [H5] [H6] [H7] [H8] [H10] All cases, as they are and at a path that reads their bodies.
#[test]
fn http11_probe() {
    let Some(cases) = cases() else {
        eprintln!("skipped: {CASES} is not there");
        return;
    };
    assert_eq!((cases.len(), cases.iter().filter(|case| case.demands).count()), (ALL, DEMANDING));
    let upstream = Plan::tools(&["echo"]).start();
    let gateway = Setup::new().server("up", &upstream.url()).open().tokens("allow").start();
    let token = gateway.token(&Who::default());
    let mut faults = Vec::new();
    for case in &cases {
        let as_they_are: Vec<Vec<u8>> = case.payloads.iter().map(|bytes| filled(bytes, &gateway, None)).collect();
        let at_home: Vec<Vec<u8>> = case.payloads.iter().map(|bytes| filled(bytes, &gateway, Some(&token))).collect();
        let there = play(&gateway, &as_they_are);
        let here = play(&gateway, &at_home);
        let good = if case.demands {
            // Where the path leads nowhere its body is not looked at, and the connection ends instead.
            let ended = there.first() == Some(404) && there.answers[0].field("connection") == "close";
            here.malformed() && here.first() == Some(400) && (there.malformed() || ended) && there.answers.len() == 1
        } else {
            here.pleases(&case.wants, case.payloads.len()) && there.answers.len() <= case.payloads.len()
        };
        if !good || (here.malformed() && here.answers.len() != 1) {
            faults.push(format!(
                "{}: wants {:?}, got {:?} and {:?}",
                case.id,
                case.wants,
                statuses(&there),
                statuses(&here)
            ));
        }
    }
    assert!(faults.is_empty(), "{} of {}:\n{}", faults.len(), cases.len(), faults.join("\n"));
    nothing_unrecorded(&gateway, &upstream);
}

fn statuses(outcome: &Outcome) -> Vec<u16> {
    outcome.answers.iter().map(Response::status).collect()
}

/// The server saw what the plane asks, and no call without its record.
fn nothing_unrecorded(gateway: &Gateway, upstream: &Upstream) {
    oracle::check(gateway, &[("up", upstream)]);
    let seen: BTreeSet<String> = upstream.seen().iter().map(|seen| seen.method().to_owned()).collect();
    let plane = [
        "server/discover",
        "initialize",
        "notifications/initialized",
        "tools/list",
        "prompts/list",
        "resources/list",
        "resources/templates/list",
        "subscriptions/listen",
        "",
    ];
    assert!(seen.iter().all(|method| plane.contains(&&**method)), "{seen:?}");
    let paths: BTreeSet<String> = upstream.seen().iter().map(|seen| seen.target.clone()).collect();
    assert_eq!(paths.into_iter().collect::<Vec<_>>(), ["/mcp"]);
}

/// Sends the payloads on one connection, each when the one before is answered, and reads to the end.
fn play(gateway: &Gateway, payloads: &[Vec<u8>]) -> Outcome {
    let mut wire = Wire::to(gateway.address);
    let mut answers = Vec::new();
    for (index, payload) in payloads.iter().enumerate() {
        wire.send(payload);
        if index + 1 == payloads.len() {
            wire.close_half();
        }
        // A HEAD's answer announces the body that a GET would get.
        let bodiless = payload.starts_with(b"HEAD ");
        match wire.try_response_to(bodiless) {
            Ok(answer) => answers.push(answer),
            Err(_) => break,
        }
    }
    while let Ok(answer) = wire.try_response() {
        answers.push(answer);
    }
    Outcome { answers }
}

/// A payload with its placeholders filled in; with a token, for the endpoint instead of the root, and a POST
/// as one of JSON.
fn filled(payload: &[u8], gateway: &Gateway, token: Option<&str>) -> Vec<u8> {
    let text: String = payload.iter().map(|byte| char::from(*byte)).collect();
    let mut text = text.replace("{{HOST}}", &gateway.address.to_string());
    while let Some(start) = text.find("{{REPEAT:") {
        let end = start + text[start..].find("}}").expect("a placeholder ends");
        let mut parts = text[start + 2..end].split(':').skip(1);
        let byte = parts.next().expect("a byte").to_owned();
        let count = parts.next().and_then(|count| count.parse().ok()).expect("a number");
        text.replace_range(start..end + 2, &byte.repeat(count));
    }
    if let Some(token) = token {
        for path in [" / ", " /echo ", " /cookie "] {
            text = text.replacen(&format!("{path}HTTP/1."), " /mcp HTTP/1.", 1);
        }
        let fields = format!("Authorization: Bearer {token}\r\nContent-Type: application/json\r\n");
        for version in ["1.0", "1.1"] {
            let line = format!("POST /mcp HTTP/{version}\r\n");
            text = text.replacen(&line, &format!("{line}{fields}"), 1);
        }
    }
    // Bytes 0 to 255, each one character.
    text.chars().map(|one| u8::try_from(u32::from(one)).expect("a byte")).collect()
}

fn cases() -> Option<Vec<Case>> {
    let text = fs::read(Path::new(env!("CARGO_MANIFEST_DIR")).join(CASES)).ok()?;
    let corpus: Value = serde_json::from_slice(&text).expect("the corpus is JSON");
    let case = |case: &Value| Case {
        id: case["id"].as_str().expect("an id").to_owned(),
        demands: case["expected_status"] == "Exact(400)",
        wants: [&case["expected_text"], &case["expected_status"]]
            .iter()
            .filter_map(|it| it.as_str())
            .collect::<Vec<_>>()
            .join(" ")
            .replace("Range2xx", "2xx"),
        payloads: case["payloads_latin1"]
            .as_array()
            .expect("payloads")
            .iter()
            .map(|payload| {
                payload
                    .as_str()
                    .expect("text")
                    .chars()
                    .map(|one| u8::try_from(u32::from(one)).expect("a byte"))
                    .collect()
            })
            .collect(),
    };
    Some(corpus["cases"].as_array().expect("cases").iter().map(case).collect())
}
