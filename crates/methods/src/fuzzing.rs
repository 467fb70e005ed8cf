//! Bodies of the fuzz targets: each takes any bytes and must not panic.

use std::path::Path;

use crate::{Gates, MethodSpec};

/// Takes bytes as a method specification.
///
/// Panics if what was read does not survive being written and read again.
pub fn spec(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    for parse in [MethodSpec::parse_grammar, str::parse] {
        match parse(text) {
            Ok(spec) => assert_eq!(parse(&spec.to_string()).ok(), Some(spec)),
            Err(error) => assert!(!error.to_string().contains('\u{1b}')),
        }
    }
}

/// Takes bytes as a gate file for a model of 2 layers over 8 hidden dimensions; `scratch` is a path that the body
/// may overwrite.
///
/// Panics if gates are believed that hold anything but finite numbers.
pub fn gate_file(bytes: &[u8], scratch: &Path) {
    if std::fs::write(scratch, bytes).is_err() {
        return;
    }
    if let Ok(gates) = Gates::load(scratch, 2, 2, 8, None) {
        for layer in gates.layers() {
            assert!(layer.query.iter().chain(&layer.key).chain(&layer.bias).all(|number| number.is_finite()));
        }
    }
}
