#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| dropcap_weights::fuzzing::gguf(bytes));
