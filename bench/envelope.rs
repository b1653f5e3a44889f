//! One envelope: a whole request read to spans, an answer scanned for its id and outcome, and the same answer in
//! pieces of one buffer. Bodies are objects of short strings and numbers; then bodies of one kind each, a call as
//! clients send it, and one that is nothing but depth.

use std::hint::black_box;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use portcullis::jsonrpc::{AnswerScan, Reader};

const SIZES: [(&str, usize); 4] = [("350 B", 350), ("2 KB", 2_000), ("32 KB", 32_000), ("1 MB", 1_000_000)];

fn requests(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("request");
    for (name, size) in SIZES {
        let body = request(size);
        group.throughput(Throughput::Bytes(body.len() as u64));
        let mut reader = Reader::new(1);
        group.bench_with_input(BenchmarkId::from_parameter(name), &body, |bench, body| {
            bench.iter(|| reader.read(black_box(body)).expect("a sound request").param(body, "name"));
        });
    }
    group.finish();
}

fn answers(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("answer");
    for (name, size) in SIZES {
        let body = answer(size);
        group.throughput(Throughput::Bytes(body.len() as u64));
        let mut scan = AnswerScan::new(1);
        group.bench_with_input(BenchmarkId::new("whole", name), &body, |bench, body| {
            bench.iter(|| scan.read(black_box(body)).expect("a sound answer"));
        });
        group.bench_with_input(BenchmarkId::new("in 16 KiB pieces", name), &body, |bench, body| {
            bench.iter(|| {
                scan.reset();
                for piece in black_box(body).chunks(16 * 1024) {
                    scan.feed(piece).expect("a sound answer");
                }
                scan.finish().expect("a sound answer")
            });
        });
    }
    group.finish();
}

fn request(size: usize) -> Vec<u8> {
    let head = concat!(
        r#"{"jsonrpc":"2.0","id":"c1d5f7e0-17","method":"tools/call","params":{"name":"lookup_order","#,
        r#""_meta":{"io.modelcontextprotocol/protocolVersion":"2026-07-28","progressToken":17},"arguments":{"rows":["#
    );
    format!("{head}{}]}}}}}}", rows(size - head.len())).into_bytes()
}

fn answer(size: usize) -> Vec<u8> {
    let head = r#"{"jsonrpc":"2.0","result":{"resultType":"complete","isError":false,"structuredContent":{"rows":["#;
    format!("{head}{}]}}}},\"id\":\"c1d5f7e0-17\"}}", rows(size - head.len())).into_bytes()
}

/// At most 9,900 members whatever the size: in larger bodies the texts grow.
fn rows(bytes: usize) -> String {
    let text = "the quick brown fox jumps over the lazy dog ".repeat(1 + bytes / 100_000);
    let mut out = String::new();
    for row in 0.. {
        let comma = if out.is_empty() { "" } else { "," };
        let next = format!(r#"{comma}{{"id":{row},"name":"item-{row}","note":"{text}","price":{}.25}}"#, row * 7);
        if !out.is_empty() && out.len() + next.len() > bytes {
            break;
        }
        out.push_str(&next);
    }
    out
}

/// A call of 350 bytes, as a client of 2026-07-28 sends it.
fn call(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("call");
    let body = CALL.as_bytes();
    assert_eq!(body.len(), 350, "the call has the length it is named by");
    let mut reader = Reader::new(1);
    group.throughput(Throughput::Bytes(body.len() as u64));
    group.bench_function("350 bytes", |bench| {
        bench.iter(|| reader.read(black_box(body)).expect("a sound request").param(body, "name"));
    });
    group.finish();
}

/// Bodies of one kind: nanoseconds a byte follow from the throughput.
fn kinds(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("kind");
    for (name, one) in KINDS {
        for (size, bytes) in [("4 KiB", 4 << 10), ("64 KiB", 64 << 10), ("1 MiB", 1 << 20)] {
            let mut list = String::new();
            for number in 0.. {
                let next = one(number);
                if list.len() + next.len() + 400 > bytes {
                    break;
                }
                list = if list.is_empty() { next } else { list + "," + &next };
            }
            let (head, tail) = CALL.split_at(CALL.len() - 2);
            let body = format!("{},\"list\":[{list}]}}{tail}", &head[..head.len() - 1]).into_bytes();
            let mut reader = Reader::new(1);
            group.throughput(Throughput::Bytes(body.len() as u64));
            group.bench_with_input(BenchmarkId::new(name, size), &body, |bench, body| {
                bench.iter(|| reader.read(black_box(body)).expect("a sound request").param(body, "name"));
            });
        }
    }
    group.finish();
}

/// 100,000 opening brackets, refused at the first that is too deep.
fn depth(criterion: &mut Criterion) {
    let body = format!("{}{}", &CALL[..CALL.len() - 3], ",\"deep\":") + &"[".repeat(100_000);
    let mut reader = Reader::new(1);
    criterion.bench_function("100,000 brackets", |bench| {
        bench.iter(|| reader.read(black_box(body.as_bytes())).expect_err("too deep"));
    });
}

const CALL: &str = concat!(
    r#"{"jsonrpc":"2.0","id":"c1d5f7e0-17","method":"tools/call","params":{"_meta":{"#,
    r#""io.modelcontextprotocol/protocolVersion":"2026-07-28","progressToken":17},"name":"lookup_order","#,
    r#""arguments":{"order":"2026-11-000317","customer":"c-88213","lines":true,"limit":25,"#,
    r#""note":"the customer asks whether the second parcel left the warehouse yet, please check!"}}}"#
);
type Kind = (&'static str, fn(usize) -> String);
const KINDS: [Kind; 5] = [
    ("text", |number| {
        format!("\"{number}: {}\"", "the quick brown fox jumps\\nover the \\\"lazy\\\" dog, so to speak. ".repeat(20))
    }),
    ("wide text", |number| format!("\"{number}: {}\"", "素早い茶色の狐がのろまな犬を飛び越える。".repeat(20))),
    ("nested", |number| format!(r#"["a-{}",[{number},true,["xyz",null,{}.25]],"{number}"]"#, number % 7, number % 100)),
    ("numbers", |number| {
        format!("{},-{}.{:04},{}e-3", number * 7919 % 1000, number % 31, number * 13 % 9973, number % 977)
    }),
    ("short strings", |number| format!("\"{}\"", &"abcdefghijkl"[..1 + number * 7919 % 12])),
];

criterion_group!(benches, call, requests, answers, kinds, depth);
criterion_main!(benches);
