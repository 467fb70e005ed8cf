//! GGUF files: the numbers of blocks, and every way in which a file can lie.

#![cfg(test)]

use std::path::{Path, PathBuf};

use dropcap_mutation::run;
use dropcap_weights::{
    BlockType, GgufFault, GgufFile, GgufValue, TensorFile, WeightsError, fuzzing, is_gguf,
};
use proptest::prelude::*;
use tempfile::TempDir;

/// A file that is put together by hand.
#[derive(Clone, Default)]
struct Written {
    version: u32,
    entries: Vec<Vec<u8>>,
    tensors: Vec<Vec<u8>>,
    body: Vec<u8>,
}

const U32: u32 = 4;
const TEXT: u32 = 8;
const LIST: u32 = 9;

fn text(text: &str) -> Vec<u8> {
    [&(text.len() as u64).to_le_bytes(), text.as_bytes()].concat()
}

fn entry(key: &str, kind: u32, value: &[u8]) -> Vec<u8> {
    [&*text(key), &kind.to_le_bytes(), value].concat()
}

fn tensor(name: &str, dims: &[u64], kind: u32, offset: u64) -> Vec<u8> {
    let dims: Vec<u8> = dims.iter().flat_map(|dim| dim.to_le_bytes()).collect();
    let count = (dims.len() / 8) as u32;
    [&*text(name), &count.to_le_bytes(), &dims, &kind.to_le_bytes(), &offset.to_le_bytes()].concat()
}

impl Written {
    /// Two tensors: `a` `[2, 32]` of Q8_0 with a scale of 1, `b` `[3]` of F32.
    fn sound() -> Self {
        let mut body = Vec::new();
        for row in 0..2u8 {
            body.extend(half::f16::ONE.to_le_bytes());
            body.extend((0..32).map(|at| at + row));
        }
        body.resize(96, 0);
        body.extend([1.5f32, -2.0, 0.25].iter().flat_map(|x| x.to_le_bytes()));
        Self {
            version: 3,
            entries: vec![
                entry("general.architecture", TEXT, &text("llama")),
                entry("n", U32, &7u32.to_le_bytes()),
            ],
            tensors: vec![tensor("a", &[32, 2], 8, 0), tensor("b", &[3], 0, 96)],
            body,
        }
    }

    fn bytes(&self) -> Vec<u8> {
        let counts = [self.tensors.len() as u64, self.entries.len() as u64];
        let mut bytes = [&b"GGUF"[..], &self.version.to_le_bytes()].concat();
        bytes.extend(counts.iter().flat_map(|count| count.to_le_bytes()));
        self.entries.iter().chain(&self.tensors).for_each(|part| bytes.extend(part));
        bytes.resize(bytes.len().next_multiple_of(32), 0);
        bytes.extend(&self.body);
        bytes
    }
}

fn saved(dir: &TempDir, bytes: &[u8]) -> PathBuf {
    let path = dir.path().join("model.gguf");
    std::fs::write(&path, bytes).unwrap();
    path
}

fn refusal(bytes: &[u8]) -> GgufFault {
    let dir = TempDir::new().unwrap();
    let path = saved(&dir, bytes);
    let error = GgufFile::open(&path).unwrap_err();
    assert!(error.to_string().contains(&path.display().to_string()), "the file is not named: {error}");
    match error {
        WeightsError::Gguf { fault, .. } => fault,
        other => panic!("{other}"),
    }
}

fn refused(change: impl FnOnce(&mut Written)) -> GgufFault {
    let mut file = Written::sound();
    change(&mut file);
    refusal(&file.bytes())
}

#[test]
fn blocks_have_the_numbers_that_the_gguf_package_gives_them() {
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/golden/gguf/blocks.safetensors");
    let golden = TensorFile::open(&golden).unwrap();
    let kinds = [
        BlockType::F16,
        BlockType::Bf16,
        BlockType::Q4_0,
        BlockType::Q4_1,
        BlockType::Q5_0,
        BlockType::Q5_1,
        BlockType::Q8_0,
        BlockType::Q4K,
        BlockType::Q5K,
        BlockType::Q6K,
    ];
    for kind in kinds {
        let (mut blocks, mut numbers) = (Vec::new(), Vec::new());
        golden.read_bytes(&format!("{kind}.blocks"), &mut blocks).unwrap();
        kind.dequantise(&blocks, &mut numbers);
        let expected = golden.read_f32(&format!("{kind}.numbers")).unwrap();
        let bits = |numbers: &[f32]| numbers.iter().map(|x| x.to_bits()).collect::<Vec<_>>();
        assert_eq!(bits(&numbers), bits(&expected), "{kind}");
    }
}

#[test]
fn a_sound_file_reads_back_in_both_versions() {
    for version in [2, 3] {
        let dir = TempDir::new().unwrap();
        let path = saved(&dir, &Written { version, ..Written::sound() }.bytes());
        assert!(is_gguf(&path) && !is_gguf(dir.path()));
        let file = GgufFile::open(&path).unwrap();
        assert_eq!(file.names().collect::<Vec<_>>(), ["a", "b"]);
        assert_eq!(file.metadata()["n"], GgufValue::Unsigned(7));
        let a = file.info("a").unwrap();
        assert_eq!(
            (a.dtype, a.shape.as_slice(), a.rows(), a.row_bytes()),
            (BlockType::Q8_0, &[2, 32][..], 2, 34)
        );
        let (mut row, mut numbers) = ([0; 34], Vec::new());
        file.read_range("a", 34, &mut row).unwrap();
        a.dtype.dequantise(&row, &mut numbers);
        assert_eq!(numbers[..3], [1.0, 2.0, 3.0]);
        assert!(matches!(
            file.read_range("a", 35, &mut row),
            Err(WeightsError::RangeOutside { limit: 68, .. })
        ));
        assert!(matches!(file.read_range("c", 0, &mut row), Err(WeightsError::NoSuchTensor { .. })));
        assert_eq!(file.first_non_finite("b").unwrap(), None);
    }
}

#[test]
fn what_is_no_file_of_this_kind_is_said() {
    assert_eq!(refusal(b"GGML\x03\0\0\0"), GgufFault::Magic);
    assert_eq!(refused(|file| file.version = 1), GgufFault::Version { got: 1 });
    assert_eq!(refused(|file| file.version = 3u32.swap_bytes()), GgufFault::BigEndian);
    assert_eq!(refusal(b"GGU"), GgufFault::Cut { what: "its first bytes".into() });
    let bytes = Written::sound().bytes();
    for length in [20, 24, 30, 60, 90] {
        assert!(
            matches!(refusal(&bytes[..length]), GgufFault::Cut { .. } | GgufFault::Claim { .. }),
            "{length}"
        );
    }
    assert!(matches!(refusal(&bytes[..bytes.len() - 1]), GgufFault::BodyLength { .. }));
    assert!(matches!(refused(|file| file.body.extend([0; 64])), GgufFault::BodyLength { .. }));
}

/// ggml-org/ggml#709: counts and lengths near 2^64 were multiplied before they were compared, and allocated less than was
/// written.
#[test]
fn counts_that_wrap_when_multiplied_are_refused_before_anything_is_allocated() {
    let mut bytes = Written::sound().bytes();
    bytes[8..16].copy_from_slice(&(1u64 << 61).to_le_bytes());
    assert!(matches!(refusal(&bytes), GgufFault::TooManyTensors { .. }));
    let mut bytes = Written::sound().bytes();
    bytes[16..24].copy_from_slice(&u64::MAX.to_le_bytes());
    assert!(matches!(refusal(&bytes), GgufFault::TooManyEntries { .. }));
    for count in [u64::MAX, u64::MAX / 4 + 1, u64::MAX / 8 + 1, 1 << 40] {
        for kind in [U32, TEXT] {
            let list = [&kind.to_le_bytes()[..], &count.to_le_bytes()].concat();
            let fault = refused(|file| file.entries.push(entry("list", LIST, &list)));
            assert!(matches!(fault, GgufFault::Claim { .. }), "{count}: {fault}");
        }
        let fault = refused(|file| file.entries.push(entry("text", TEXT, &count.to_le_bytes())));
        assert!(matches!(fault, GgufFault::Claim { .. }), "{count}: {fault}");
    }
}

/// CVE-2025-53630, CVE-2026-27940, ggml-org/llama.cpp#14595 and #18674: dimensions whose product wraps, alone, times the
/// bytes of a block, or in the sum over all tensors.
#[test]
fn shapes_whose_bytes_wrap_are_refused() {
    let shapes: [&[u64]; 6] = [
        &[1152, (1 << 42) + 1],
        &[u64::MAX, 2],
        &[1 << 32, 1 << 32],
        &[1 << 62, 4],
        &[32, 1 << 58],
        &[1 << 16, 1 << 16, 1 << 16, 1 << 16],
    ];
    for dims in shapes {
        for kind in [0, 8] {
            let fault = refused(|file| file.tensors[0] = tensor("a", dims, kind, 0));
            let known = matches!(
                fault,
                GgufFault::Shape { .. } | GgufFault::BodyLength { .. } | GgufFault::PartBlock { .. }
            );
            assert!(known, "{dims:?}: {fault}");
        }
    }
    // Each of these has fewer than 2^63 bytes, both together more than 2^64.
    let half = 1u64 << 60;
    let fault =
        refused(|file| file.tensors = vec![tensor("a", &[half], 0, 0), tensor("b", &[half], 0, half * 4)]);
    assert!(matches!(fault, GgufFault::BodyLength { .. }), "{fault}");
}

/// ggml-org/llama.cpp#24263: a dimension of 0 divided by zero, and an empty key passed an assertion.
#[test]
fn dimensions_of_zero_and_empty_names_are_refused() {
    assert!(matches!(refused(|file| file.tensors[1] = tensor("b", &[0], 0, 96)), GgufFault::Shape { .. }));
    assert!(matches!(
        refused(|file| file.tensors[1] = tensor("b", &[], 0, 96)),
        GgufFault::Dimensions { got: 0, .. }
    ));
    let none = entry("", U32, &[0; 4]);
    assert_eq!(refused(|file| file.entries.push(none)), GgufFault::KeyLength { got: 0 });
    assert_eq!(refused(|file| file.tensors[1] = tensor("", &[3], 0, 96)), GgufFault::NameLength { got: 0 });
}

/// antirez/gguf-tools#25 and the third finding of ggml-org/ggml#709: more dimensions than the array for them.
#[test]
fn five_dimensions_and_unknown_formats_are_refused() {
    let fault = refused(|file| file.tensors[1] = tensor("b", &[3, 1, 1, 1, 1], 0, 96));
    assert!(matches!(fault, GgufFault::Dimensions { got: 5, .. }));
    let fault = refused(|file| file.tensors[1] = tensor("b", &[3], 10, 96));
    assert!(fault.to_string().contains("10 (Q2_K)") && fault.to_string().contains("Q4_K"), "{fault}");
    let fault = refused(|file| file.tensors[1] = tensor("b", &[3], u32::MAX, 96));
    assert!(matches!(fault, GgufFault::TensorType { .. }));
    assert!(matches!(
        refused(|file| file.tensors[0] = tensor("a", &[34, 2], 8, 0)),
        GgufFault::PartBlock { got: 34, .. }
    ));
    assert!(matches!(
        refused(|file| file.entries.push(entry("k", 13, &[]))),
        GgufFault::ValueKind { got: 13, .. }
    ));
    let nested = [&LIST.to_le_bytes()[..], &1u64.to_le_bytes()].concat();
    let fault = refused(|file| file.entries.push(entry("k", LIST, &nested)));
    assert!(matches!(fault, GgufFault::ValueKind { got: LIST, .. }));
    assert!(matches!(
        refused(|file| file.entries.push(entry("k", 7, &[2]))),
        GgufFault::Truth { got: 2, .. }
    ));
}

/// ggml-org/llama.cpp#26318: an alignment of another type stopped the program, one of 0 divided by it.
#[test]
fn an_alignment_is_a_power_of_two() {
    let kinds: [(u32, &[u8]); 5] =
        [(U32, &[0; 4]), (U32, &[24, 0, 0, 0]), (TEXT, &[0; 8]), (10, &[255; 8]), (5, &[255; 4])];
    for (kind, value) in kinds {
        let fault = refused(|file| file.entries.push(entry("general.alignment", kind, value)));
        assert!(matches!(fault, GgufFault::Value { .. }), "{fault}");
    }
}

#[test]
fn tensors_that_overlap_or_leave_holes_and_names_given_twice_are_refused() {
    for offset in [0, 64, 97, 128, u64::MAX - 31] {
        let fault = refused(|file| file.tensors[1] = tensor("b", &[3], 0, offset));
        assert!(matches!(fault, GgufFault::NotContiguous { .. }), "{offset}: {fault}");
    }
    let fault = refused(|file| file.tensors[1] = tensor("a", &[3], 0, 96));
    assert_eq!(fault, GgufFault::DuplicateTensor { tensor: "\"a\"".into() });
    let fault = refused(|file| file.entries.push(entry("n", U32, &[0; 4])));
    assert_eq!(fault, GgufFault::DuplicateKey { key: "\"n\"".into() });
    let split = entry("split.count", 2, &2u16.to_le_bytes());
    assert_eq!(refused(|file| file.entries.push(split)), GgufFault::Split { got: 2 });
    let latin = [&5u64.to_le_bytes()[..], b"caf\xe9!"].concat();
    assert!(matches!(refused(|file| file.entries.push(entry("k", TEXT, &latin))), GgufFault::NotUtf8 { .. }));
    let long = "x".repeat(65);
    assert_eq!(
        refused(|file| file.tensors[1] = tensor(&long, &[3], 0, 96)),
        GgufFault::NameLength { got: 65 }
    );
}

#[test]
fn a_nan_among_the_scales_is_found_by_its_place() {
    let mut file = Written::sound();
    file.body[34..36].copy_from_slice(&half::f16::NAN.to_le_bytes());
    let dir = TempDir::new().unwrap();
    let found = GgufFile::open(&saved(&dir, &file.bytes())).unwrap().first_non_finite("a").unwrap().unwrap();
    assert_eq!((found.tensor.as_str(), found.index), ("a", 32));
}

#[test]
fn changed_files_never_panic_and_what_is_believed_lies_in_the_file() {
    let valid = Written::sound().bytes();
    fuzzing::gguf(&valid);
    let piece = prop_oneof![
        any::<u32>().prop_map(|n| n.to_le_bytes().to_vec()),
        prop::sample::select(vec![0u64, 1, 32, 1 << 31, 1 << 32, 1 << 62, u64::MAX - 31, u64::MAX])
            .prop_map(|n| n.to_le_bytes().to_vec()),
        prop::collection::vec(any::<u8>(), 0..4),
    ];
    // In place, as most of a header is lengths: what is inserted moves all that follows.
    let change = (any::<prop::sample::Index>(), piece, any::<bool>());
    run(4000, &prop::collection::vec(change, 1..4), |changes| {
        let mut bytes = valid.clone();
        for (at, piece, inserted) in changes {
            let at = at.index(bytes.len());
            let end = if inserted { at } else { (at + piece.len()).min(bytes.len()) };
            bytes.splice(at..end, piece);
        }
        fuzzing::gguf(&bytes);
    });
    dropcap_mutation::random_bytes(1000, fuzzing::gguf);
}
