#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| portcullis::identity::fuzz::key_set(data));
