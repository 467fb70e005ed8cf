#![no_main]

use std::sync::LazyLock;

use tempfile::TempDir;

static SCRATCH: LazyLock<Option<TempDir>> = LazyLock::new(|| tempfile::tempdir().ok());

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    if let Some(scratch) = SCRATCH.as_ref() {
        dropcap_methods::fuzzing::gate_file(bytes, &scratch.path().join("gates.safetensors"));
    }
});
