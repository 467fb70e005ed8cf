#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| dropcap_train::fuzzing::run_yaml(bytes));
