#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| skreap_fuzz::selector::holds(data));
