//! What a condition costs. Wanted: at most 1 µs for one that goes through no list, at most 100 µs for any.

use std::hint::black_box;
use std::sync::Arc;
use std::time::{Duration, Instant};

use criterion::{Criterion, criterion_group, criterion_main};
use portcullis::identity::caller::Caller;
use portcullis::policy::cond::{ClaimTypes, Condition, Facts, Purpose, Truth, canon};
use portcullis::record::keyed::Keys;

const ARGS: &str = r#"{"invoice_id":"in_1029","amount":499.99,"currency":"EUR","path":"/srv/data/2026/report.pdf",
    "url":"https://files.example.com/a?b=c","to":"billing@example.com","tenant":"acme","note":"a \u00e9 b"}"#;
const CLAIMS: &str = r#"{"iss":"https://id.example.com","sub":"ada","groups":["staff","finance","approvers"],
    "tenant":"acme","limits":{"refund":500}}"#;
/// Each with what it comes to.
const CONDITIONS: &[(&str, &str, Truth)] = &[
    ("number", "args.amount <= 500", Truth::True),
    ("amount and currency", r#"args.amount > 0 && args.amount <= 500 && args.currency in ["EUR", "USD"]"#, Truth::True),
    ("two claims", "args.tenant == claims.tenant && args.amount <= claims.limits.refund", Truth::True),
    ("list as written", r#"args.currency in ["USD", "GBP", "EUR"]"#, Truth::True),
    ("group", r#""approvers" in claims.groups"#, Truth::True),
    ("missing", "args.nothing == 1", Truth::Unknown),
    ("path", r#"args.path.under("/srv/data")"#, Truth::True),
    ("url", r#"url(args.url).host.endsWith(".example.com")"#, Truth::True),
    ("pattern", r#"args.to.matches("^[a-z]+@example\\.com$")"#, Truth::True),
    ("zone", r#"time(now, "Europe/Berlin").hour >= 9 && time(now, "Europe/Berlin").hour < 17"#, Truth::True),
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

/// What costs most of what may be sent: a condition, and arguments: what they begin with, what is in them again and
/// again (`#` is its number), what parts that, and what they end with (`@` is all that again).
const WORST: &[(&str, &str, [&str; 4])] = &[
    ("behind short texts", "args.b == 1", [r#"{"a":["#, r#""a""#, ",", r#"],"b":1}"#]),
    ("behind numbers", "args.b == 1", [r#"{"a":["#, "1", ",", r#"],"b":1}"#]),
    ("behind lists", "args.b == 1", [r#"{"a":["#, "[]", ",", r#"],"b":1}"#]),
    ("behind deep lists", "args.b == 1", [r#"{"a":["#, "[[[[[[[[]]]]]]]]", ",", r#"],"b":1}"#]),
    ("behind objects", "args.b == 1", [r#"{"a":["#, r#"{"":{}}"#, ",", r#"],"b":1}"#]),
    ("behind blanks", "args.b == 1", [r#"{"a":1,"#, " ", "", r#""b":1}"#]),
    ("behind blanks in a list", "args.b == 1", [r#"{"a":["#, "1     ", ",    ", r#"],"b":1}"#]),
    ("behind escapes", "args.b == 1", [r#"{"a":""#, r"\n", "", r#"","b":1}"#]),
    ("behind a text", "args.b == 1", [r#"{"a":""#, "a", "", r#"","b":1}"#]),
    ("behind members", "args.b == 1", ["{", r#""a#":1"#, ",", r#","b":1}"#]),
    ("behind escaped members", "args.bbbbbbbbbb == 1", ["{", r#""\u0061#":1"#, ",", r#","b":1}"#]),
    ("elements by place", "args.a[1000000] == 1 || args.a[1000001] == 1", [r#"{"a":["#, "1", ",", "]}"]),
    ("count of texts", "size(args.a) == 1", [r#"{"a":["#, r#""a""#, ",", "]}"]),
    ("count of members", "size(args.a) == 1", [r#"{"a":{"#, r#""a#":1"#, ",", "}}"]),
    ("all texts", r#"args.a.all(x, x == "a")"#, [r#"{"a":["#, r#""a""#, ",", "]}"]),
    ("all numbers", "args.a.all(x, x * 2 < 7)", [r#"{"a":["#, "3", ",", "]}"]),
    ("all members", "args.a.all(x, x.b == 1)", [r#"{"a":["#, r#"{"a":1,"b":1}"#, ",", "]}"]),
    ("all of all", "args.a.all(x, args.a.all(y, x == y))", [r#"{"a":["#, "1", ",", "]}"]),
    ("in a list", "args.b in args.a", [r#"{"b":2,"a":["#, "1", ",", "]}"]),
    ("in a list of texts", "args.b in args.a", [r#"{"b":"b","a":["#, r#""\u0061""#, ",", "]}"]),
    ("in a list of objects", "args.b in args.a", [r#"{"b":{"a":2},"a":["#, r#"{"a":1}"#, ",", "]}"]),
    ("no null", "null in args.a", [r#"{"a":["#, "1", ",", "]}"]),
    ("same lists", "args.a == args.b", [r#"{"a":["#, "1", ",", r#"],"b":[ @]}"#]),
    ("same lists of texts", "args.a == args.b", [r#"{"a":["#, r#""\u0061""#, ",", r#"],"b":[ @]}"#]),
    ("same deep lists", "args.a == args.b", [r#"{"a":["#, "[[[[[[[[]]]]]]]]", ",", r#"],"b":[ @]}"#]),
    ("same objects", "args.a == args.b", [r#"{"a":{"#, r#""a#":1"#, ",", r#"},"b":{ @}}"#]),
    ("same objects, escaped", "args.a == args.b", [r#"{"a":{"#, r#""\u0061#":1"#, ",", r#"},"b":{ @}}"#]),
    ("same objects within", "args.a == args.b", [r#"{"a":["#, r#"{"a#":1,"b":2}"#, ",", r#"],"b":[ @]}"#]),
    ("same texts", "args.a == args.a", [r#"{"a":""#, r"\u0061", "", r#""}"#]),
    ("accents", r#"args.a.startsWith("é")"#, [r#"{"a":""#, "é", "", r#""}"#]),
    ("accents counted", "size(args.a) == 1", [r#"{"a":""#, "é", "", r#""}"#]),
    ("escapes counted", "size(args.a) == 1", [r#"{"a":""#, r"\n", "", r#""}"#]),
    ("escapes searched", r#"args.a.contains("aab")"#, [r#"{"a":""#, r"\n", "", r#""}"#]),
    ("searched", r#"args.a.contains("aaaaaaaab")"#, [r#"{"a":""#, "a", "", r#""}"#]),
    ("split", r#"args.a.split(",").all(x, x == "a")"#, [r#"{"a":""#, "a", ",", r#""}"#]),
    ("split escapes", r#"size(args.a.split("aab")) == 1"#, [r#"{"a":""#, r"aa\n", "", r#""}"#]),
    ("path", r#"args.a.under("/a")"#, [r#"{"a":"/a"#, "/b/..", "", r#""}"#]),
    ("path escaped", r#"args.a.under("/a")"#, [r#"{"a":"/a"#, "/%62", "", r#""}"#]),
    ("host", r#"url(args.a).host == "a""#, [r#"{"a":"https://a"#, ".b", "", r#"/"}"#]),
    ("way of a url", r#"url(args.a).host == "a""#, [r#"{"a":"https://a/"#, "b/../", "", r#"/"}"#]),
    ("digits", "args.a < 5", [r#"{"a":1"#, "0", "", "}"]),
    ("long digits", "args.a < args.b", [r#"{"b":1e99999999999,"a":1"#, "0", "", "}"]),
    ("pattern", r#"args.a.matches("^[a-z]+@b$")"#, [r#"{"a":""#, "a", "", r#""}"#]),
    ("pattern repeated", r#"args.a.matches("(?i)[^x]{1,50}y")"#, [r#"{"a":""#, "abc#", "", r#""}"#]),
    ("pattern repeated, accents", r#"args.a.matches("(?i)[^x]{1,50}y")"#, [r#"{"a":""#, "éa#ü€", "", r#""}"#]),
    ("pattern of letters", r#"args.a.matches("(\\pL{1,2} ?){1,2}!")"#, [r#"{"a":""#, "éa# ü€", "", r#""}"#]),
    ("pattern that forks", r#"args.a.matches("[ab]*a[ab]{12}c")"#, [r#"{"a":""#, "aab#ba", "", r#""}"#]),
];

fn worst(caller: &Caller) {
    let mut over_all = Duration::ZERO;
    for (what, text, [begin, again, between, end]) in WORST {
        let condition = condition(text);
        let mut most = (Duration::ZERO, 0, Truth::Unknown);
        for size in (10..=20).map(|power| 1 << power) {
            // Not the same again and again, where there are numbers in it.
            let many: Vec<_> = (0..size / (again.len() + between.len()))
                .map(|at: usize| again.replace('#', &format!("{:x}", at.wrapping_mul(0x9e37_79b9) >> 7 & 0xf_ffff)))
                .collect();
            let many = many.join(between);
            let args = format!("{begin}{many}{}", end.replace('@', &many));
            let facts = facts(caller, &args);
            let one = || {
                let start = Instant::now();
                let truth = condition.truth(black_box(&facts), 0);
                (start.elapsed(), size, truth)
            };
            let least = (0..9).map(|_| one()).min_by_key(|(took, ..)| *took);
            most = least.into_iter().chain([most]).max_by_key(|(took, ..)| *took).unwrap_or(most);
        }
        println!("worst: {:>9.1?} us, {:>7} bytes, {:?}: {what}", most.0.as_nanos() as f64 / 1e3, most.1, most.2);
        over_all = over_all.max(most.0);
    }
    println!("worst of all: {over_all:?}");
}

fn bench(c: &mut Criterion) {
    let caller = caller();
    worst(&caller);
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
    let keys = Keys::derive(&[7; 32]);
    c.bench_function("digest under a key: usual arguments", |b| b.iter(|| keys.arguments(black_box(ARGS.as_bytes()))));
    c.bench_function("digest: usual arguments", |b| b.iter(|| canon::digest(black_box(ARGS.as_bytes()))));
    c.bench_function("compile", |b| b.iter(|| condition(black_box(CONDITIONS[1].1))));
}

criterion_group!(benches, bench);
criterion_main!(benches);
