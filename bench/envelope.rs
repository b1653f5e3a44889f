//! One envelope: a whole request read to spans, an answer scanned for its id and outcome, and the same answer in
//! pieces of one buffer. Bodies are objects of short strings and numbers.

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

criterion_group!(benches, requests, answers);
criterion_main!(benches);
