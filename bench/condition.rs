//! What a condition costs. Wanted: at most 1 µs for one that goes through no list, at most 100 µs for any.

use std::hint::black_box;
use std::sync::Arc;

use criterion::{Criterion, criterion_group, criterion_main};
use portcullis::identity::caller::Caller;
use portcullis::policy::cond::{ClaimTypes, Condition, Facts, Purpose, Truth, canon};

const ARGS: &str = r#"{"invoice_id":"in_1029","amount":499.99,"currency":"EUR","path":"/srv/data/2026/report.pdf",
    "url":"https://files.example.com/a?b=c","to":"billing@example.com","tenant":"acme","note":"a \u00e9 b"}"#;
const CLAIMS: &str = r#"{"iss":"https://id.example.com","sub":"ada","groups":["staff","finance","approvers"],
    "tenant":"acme","limits":{"refund":500}}"#;
/// Each with what it comes to.
const CONDITIONS: &[(&str, &str, Truth)] = &[
    ("number", "args.amount <= 500", Truth::True),
    ("two claims", "args.tenant == claims.tenant && args.amount <= claims.limits.refund", Truth::True),
    ("list as written", r#"args.currency in ["USD", "GBP", "EUR"]"#, Truth::True),
    ("group", r#""approvers" in claims.groups"#, Truth::True),
    ("missing", "args.nothing == 1", Truth::Unknown),
    ("path", r#"args.path.under("/srv/data")"#, Truth::True),
    ("url", r#"url(args.url).host.endsWith(".example.com")"#, Truth::True),
    ("pattern", r#"args.to.matches("^[a-z]+@example\\.com$")"#, Truth::True),
    ("zone", r#"time(now, "Europe/Berlin").hour >= 9 && time(now, "Europe/Berlin").hour < 17"#, Truth::False),
    ("escaped text", r#"args.note.contains("é")"#, Truth::True),
];

fn caller() -> Caller {
    Caller { claims: Arc::from(CLAIMS.as_bytes()), ..Caller::anonymous() }
}

fn facts<'a>(caller: &'a Caller, args: &'a str) -> Facts<'a> {
    let args = Some(args.as_bytes());
    Facts { caller, args, task: Some("refunds"), tool: "refund", server: "billing", now_s: 1_800_000_000 }
}

fn condition(text: &str) -> Condition {
    Condition::parse(text, Purpose::When, &ClaimTypes::default()).expect("it is one")
}

/// An object whose first member is 1 MiB of `filling`, in a list of so many lists.
fn large(filling: &str, depth: usize) -> String {
    let count = (1 << 20) / (filling.len() + 1);
    let list = vec![filling; count].join(",");
    format!("{{\"filling\":{}{list}{},\"amount\":1}}", "[".repeat(depth), "]".repeat(depth))
}

fn bench(c: &mut Criterion) {
    let caller = caller();
    for (what, text, want) in CONDITIONS {
        let (condition, facts) = (condition(text), facts(&caller, ARGS));
        assert_eq!(condition.truth(&facts, 0), *want, "{text}");
        c.bench_function(&format!("condition: {what}"), |b| b.iter(|| condition.truth(black_box(&facts), 0)));
    }
    let lines = vec![r#"{"sku":"a-1","quantity":3,"price":19.99}"#; 20].join(",");
    let args = format!("{{\"lines\":[{lines}]}}");
    let all = condition("args.lines.all(line, line.quantity * line.price < 60)");
    assert_eq!(all.truth(&facts(&caller, &args), 0), Truth::True);
    c.bench_function("condition: 20 lines", |b| b.iter(|| all.truth(black_box(&facts(&caller, &args)), 0)));

    for (what, filling, depth) in [
        ("one text", "\"aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa\"", 1),
        ("short texts", "\"a\"", 1),
        ("deep", "[]", 60),
    ] {
        let args = large(filling, depth);
        let (behind, same) = (condition("args.amount == 1"), condition("args.filling == args.filling"));
        c.bench_function(&format!("condition: behind 1 MiB, {what}"), |b| {
            b.iter(|| behind.truth(black_box(&facts(&caller, &args)), 0));
        });
        c.bench_function(&format!("condition: 1 MiB compared, {what}"), |b| {
            b.iter(|| same.truth(black_box(&facts(&caller, &args)), 0));
        });
        c.bench_function(&format!("digest: 1 MiB, {what}"), |b| b.iter(|| canon::digest(black_box(args.as_bytes()))));
    }
    c.bench_function("digest: usual arguments", |b| b.iter(|| canon::digest(black_box(ARGS.as_bytes()))));
    c.bench_function("compile", |b| b.iter(|| condition(black_box(CONDITIONS[1].1))));
}

criterion_group!(benches, bench);
criterion_main!(benches);
