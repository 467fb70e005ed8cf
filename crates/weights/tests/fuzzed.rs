//! The fuzz bodies on seeded inputs.

use dropcap_mutation::{changed, random_bytes};
use dropcap_weights::fuzzing;

const VALID: &str = r#"{"__metadata__":{"format":"pt"},"a":{"dtype":"F32","shape":[2,2],"data_offsets":[0,16]},"b":{"dtype":"BF16","shape":[0,3],"data_offsets":[16,16]},"c":{"dtype":"I64","shape":[],"data_offsets":[16,24]}}"#;
const INDEX: &str =
    r#"{"metadata":{"total_size":24},"weight_map":{"a":"m-1.safetensors","b":"m-2.safetensors"}}"#;
/// What numbers, names and brackets of a header are replaced by.
const PIECES: [&str; 12] =
    ["0", "1", "18446744073709551615", "-1", "4294967296", "[", "]", "{", "}", "\"a\"", ",", "null"];

/// A file of this header before a body of so many bytes.
fn file(header: &[u8], body: usize) -> Vec<u8> {
    [&(header.len() as u64).to_le_bytes()[..], header, &vec![0; body]].concat()
}

#[test]
fn random_bytes_never_panic_the_readers() {
    random_bytes(2000, |bytes| {
        fuzzing::file(bytes);
        fuzzing::file(&file(bytes, 0));
        fuzzing::index(bytes);
    });
}

#[test]
fn changed_headers_are_refused_or_cover_their_body() {
    for body in [0, 16, 24] {
        fuzzing::file(&file(VALID.as_bytes(), body));
        changed(2000, &[VALID], &PIECES, |header| fuzzing::file(&file(header, body)));
    }
}

#[test]
fn changed_indexes_never_panic() {
    changed(3000, &[INDEX], &PIECES, fuzzing::index);
}
