#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| skreap_fuzz::records::holds(data));
