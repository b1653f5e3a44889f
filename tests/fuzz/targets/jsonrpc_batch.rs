#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| portcullis::jsonrpc::fuzz::batch(data));
