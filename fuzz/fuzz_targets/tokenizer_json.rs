#![no_main]

// The tokenizer library may panic, which ends a text and no process: the fuzzer's own hook would abort at once.
libfuzzer_sys::fuzz_target!(
    init: std::panic::set_hook(Box::new(|_| ())),
    |bytes: &[u8]| dropcap_model::fuzzing::tokenizer(bytes)
);
