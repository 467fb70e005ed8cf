//! Body of the fuzz target: it takes any bytes and must not panic.

use crate::config::Config;

/// Takes bytes as a `run.yaml`.
///
/// Panics if what was believed is read as something else when it has been written.
pub fn run_yaml(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let Ok(config) = Config::parse("fuzz", text, &[]) else { return };
    let written = config.to_yaml().ok();
    let again = written.as_deref().and_then(|yaml| Config::parse("fuzz", yaml, &[]).ok());
    assert_eq!(again.as_ref(), Some(&config), "{written:?}");
}
