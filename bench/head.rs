//! What it costs to read the two heads of a call: the client's request and the upstream's answer.

use std::hint::black_box;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use portcullis::http::head::{Method, Progress, RequestHead, ResponseHead};

/// 256 bytes, as an MCP client of 2026-07-28 sends them.
const REQUEST: &[u8] = b"POST /mcp HTTP/1.1\r\n\
    Host: 127.0.0.1:8080\r\n\
    Accept: application/json, text/event-stream\r\n\
    Content-Type: application/json\r\n\
    MCP-Protocol-Version: 2026-07-28\r\n\
    Mcp-Method: tools/call\r\n\
    Mcp-Name: echo\r\n\
    User-Agent: bench/1.0 (linux; aarch64)\r\n\
    Content-Length: 350\r\n\
    \r\n";

const RESPONSE: &[u8] = b"HTTP/1.1 200 OK\r\n\
    Content-Type: application/json\r\n\
    Mcp-Session-Id: 0f8fad5bd9cb469fa16570867728950e\r\n\
    Content-Length: 600\r\n\
    Date: Sat, 22 Nov 2026 08:24:00 GMT\r\n\
    Connection: keep-alive\r\n\
    \r\n";

const _: () = assert!(REQUEST.len() == 256);

fn heads(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("head");

    group.throughput(Throughput::Bytes(REQUEST.len() as u64));
    let mut head = RequestHead::new();
    group.bench_function("request, 256 bytes", |bencher| {
        bencher.iter(|| assert_eq!(black_box(&mut head).parse(black_box(REQUEST)), Ok(Progress::Complete)));
    });

    // As on every connection at first; later what its requests begin with is known.
    group.bench_function("request, the first of its connection", |bencher| {
        bencher.iter(|| assert_eq!(RequestHead::new().parse(black_box(REQUEST)), Ok(Progress::Complete)));
    });

    group.throughput(Throughput::Bytes(RESPONSE.len() as u64));
    let mut head = ResponseHead::new();
    group.bench_function("response", |bencher| {
        bencher
            .iter(|| assert_eq!(black_box(&mut head).parse(black_box(RESPONSE), Method::Post), Ok(Progress::Complete)));
    });
    group.finish();
}

criterion_group!(benches, heads);
criterion_main!(benches);
