//! Every way in which one safetensors file can lie.

#![cfg(test)]

use std::io::Write;
use std::path::{Path, PathBuf};

use dropcap_weights::{MAX_HEADER_BYTES, MAX_RANK, MAX_TENSORS, StoredType, TensorFile, WeightsError};
use tempfile::TempDir;

/// A file of a header and a body, with the true length of the header.
fn written(dir: &TempDir, header: &str, body: &[u8]) -> PathBuf {
    raw(dir, &[&(header.len() as u64).to_le_bytes(), header.as_bytes(), body].concat())
}

fn raw(dir: &TempDir, bytes: &[u8]) -> PathBuf {
    let path = dir.path().join("x.safetensors");
    std::fs::write(&path, bytes).unwrap();
    path
}

fn refusal(path: &Path) -> WeightsError {
    let error = TensorFile::open(path).unwrap_err();
    let text = error.to_string();
    assert!(text.contains(&path.display().to_string()), "the file is not named: {text}");
    error
}

fn refused(header: &str, body: &[u8]) -> WeightsError {
    let dir = TempDir::new().unwrap();
    refusal(&written(&dir, header, body))
}

#[test]
fn a_file_written_by_the_safetensors_crate_reads_back() {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("m.safetensors");
    let floats: Vec<u8> = [1.5f32, -2.0, 0.25, 3.0].iter().flat_map(|x| x.to_le_bytes()).collect();
    let halves: Vec<u8> = [1.5f32, -2.0].iter().flat_map(|&x| half::f16::from_f32(x).to_le_bytes()).collect();
    let view =
        |dtype, shape: &[usize], data| safetensors::tensor::TensorView::new(dtype, shape.to_vec(), data);
    let tensors = [
        ("b", view(safetensors::Dtype::F32, &[2, 2], &floats).unwrap()),
        ("a", view(safetensors::Dtype::F16, &[2], &halves).unwrap()),
        ("empty", view(safetensors::Dtype::F32, &[0, 7], &[]).unwrap()),
        ("scalar", view(safetensors::Dtype::U8, &[], &[9]).unwrap()),
    ];
    let notes = std::collections::HashMap::from([("format".to_string(), "pt".to_string())]);
    safetensors::serialize_to_file(tensors, Some(notes), &path).unwrap();

    let file = TensorFile::open(&path).unwrap();
    assert_eq!(file.names().collect::<Vec<_>>(), ["a", "b", "empty", "scalar"]);
    assert_eq!(file.metadata()["format"], "pt");
    let info = file.info("b").unwrap();
    assert_eq!((info.dtype, info.shape.as_slice(), info.elements()), (StoredType::F32, &[2, 2][..], 4));
    assert_eq!(file.read_f32("b").unwrap(), [1.5, -2.0, 0.25, 3.0]);
    assert_eq!(file.read_f32("a").unwrap(), [1.5, -2.0]);
    assert_eq!(file.read_f32("scalar").unwrap(), [9.0]);
    assert!(file.read_f32("empty").unwrap().is_empty());
    let mut bytes = vec![0xff; 100];
    file.read_bytes("b", &mut bytes).unwrap();
    assert_eq!(bytes, floats);
    let mut part = [0; 4];
    file.read_range("b", 4, &mut part).unwrap();
    assert_eq!(part, floats[4..8]);
    assert!(matches!(file.read_range("b", 13, &mut part), Err(WeightsError::RangeOutside { limit: 16, .. })));
    assert!(matches!(file.read_range("b", u64::MAX, &mut part), Err(WeightsError::RangeOutside { .. })));
    assert!(matches!(file.read_f32("c"), Err(WeightsError::NoSuchTensor { .. })));
}

#[test]
fn every_number_format_becomes_the_number_it_stands_for() {
    let dir = TempDir::new().unwrap();
    let cases: [(&str, Vec<u8>, f32); 12] = [
        ("BOOL", vec![1], 1.0),
        ("U8", vec![200], 200.0),
        ("I8", vec![0xff], -1.0),
        ("U16", 65535u16.to_le_bytes().into(), 65535.0),
        ("I16", (-300i16).to_le_bytes().into(), -300.0),
        ("F16", half::f16::from_f32(0.1).to_le_bytes().into(), half::f16::from_f32(0.1).to_f32()),
        ("BF16", half::bf16::from_f32(-7.0).to_le_bytes().into(), -7.0),
        ("U32", 16_777_217u32.to_le_bytes().into(), 16_777_216.0),
        ("I32", (-5i32).to_le_bytes().into(), -5.0),
        ("U64", (1u64 << 40).to_le_bytes().into(), 1_099_511_627_776.0),
        ("I64", (-9i64).to_le_bytes().into(), -9.0),
        ("F64", 0.1f64.to_le_bytes().into(), 0.1),
    ];
    for (name, bytes, expected) in cases {
        let n = bytes.len();
        let header = format!(r#"{{"x":{{"dtype":"{name}","shape":[1],"data_offsets":[0,{n}]}}}}"#);
        let file = TensorFile::open(&written(&dir, &header, &bytes)).unwrap();
        assert_eq!(file.read_f32("x").unwrap(), [expected], "{name}");
        assert_eq!(file.first_non_finite("x").unwrap(), None);
    }
    let header = r#"{"x":{"dtype":"F8_E4M3","shape":[1],"data_offsets":[0,1]}}"#;
    let file = TensorFile::open(&written(&dir, header, &[0])).unwrap();
    assert!(matches!(file.read_f32("x"), Err(WeightsError::NotNumbers { got: StoredType::F8E4M3, .. })));
}

#[test]
fn the_first_nan_or_infinity_is_named_with_its_place() {
    let dir = TempDir::new().unwrap();
    // Longer than one stretch, so that the place is counted across stretches.
    let n = 300_000;
    let mut numbers = vec![0.5f32; n];
    numbers[290_000] = f32::NEG_INFINITY;
    let body: Vec<u8> = numbers.iter().flat_map(|x| x.to_le_bytes()).collect();
    let header = format!(r#"{{"x":{{"dtype":"F32","shape":[{n}],"data_offsets":[0,{}]}}}}"#, 4 * n);
    let found =
        TensorFile::open(&written(&dir, &header, &body)).unwrap().first_non_finite("x").unwrap().unwrap();
    assert_eq!((found.index, found.value), (290_000, f32::NEG_INFINITY));
    assert!(found.to_string().contains("\"x\""));
}

#[test]
fn a_file_without_room_for_a_header_is_refused() {
    let dir = TempDir::new().unwrap();
    for length in 0..10 {
        assert!(matches!(refusal(&raw(&dir, &vec![0; length])), WeightsError::FileTooShort { .. }));
    }
}

#[test]
fn a_claimed_header_length_takes_no_memory() {
    let dir = TempDir::new().unwrap();
    let claiming = |claim: u64| raw(&dir, &[&claim.to_le_bytes()[..], b"{}"].concat());
    assert!(matches!(refusal(&claiming(u64::MAX)), WeightsError::HeaderTooLong { got: u64::MAX, .. }));
    assert!(matches!(refusal(&claiming(MAX_HEADER_BYTES + 1)), WeightsError::HeaderTooLong { .. }));
    let error = refusal(&claiming(MAX_HEADER_BYTES));
    assert!(matches!(error, WeightsError::HeaderBeyondFile { limit: 2, got: MAX_HEADER_BYTES, .. }));
}

#[test]
fn a_header_must_be_an_object_from_its_first_byte() {
    for header in ["", " {}", "\n{}", "\u{feff}{}", "[]", "null"] {
        let error = refused(&format!("{header}      "), &[]);
        assert!(matches!(error, WeightsError::HeaderStart { .. }), "{header:?}: {error}");
    }
    let dir = TempDir::new().unwrap();
    assert!(matches!(refusal(&raw(&dir, &[0; 10])), WeightsError::HeaderStart { .. }));
}

#[test]
fn a_header_that_is_not_the_formats_json_is_refused() {
    let deep = format!("{{\"a\":{}", "[".repeat(100_000));
    for header in [
        "{",
        "{}x",
        "{\"a\":1}",
        "{\"a\":{\"dtype\":\"F32\",\"shape\":[1]}}",
        "{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0]}}",
        "{\"a\":{\"dtype\":\"F32\",\"shape\":[-1],\"data_offsets\":[0,4]}}",
        "{\"a\":{\"dtype\":\"F32\",\"shape\":[1.0],\"data_offsets\":[0,4]}}",
        "{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,18446744073709551616]}}",
        "{\"a\":{\"dtype\":\"F32\",\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4]}}",
        "{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4],\"code\":\"x\"}}",
        "{\"__metadata__\":{\"a\":1}}",
        "{\"__metadata__\":{\"a\":\"x\",\"a\":\"y\"}}",
        "{\"__metadata__\":{},\"__metadata__\":{}}",
        &deep,
    ] {
        let error = refused(&format!("{header}    "), &[0; 4]);
        assert!(matches!(error, WeightsError::HeaderJson { .. }), "{error}");
    }
    let dir = TempDir::new().unwrap();
    let not_utf8 = [&9u64.to_le_bytes()[..], b"{\"a\xff\":1} "].concat();
    assert!(matches!(refusal(&raw(&dir, &not_utf8)), WeightsError::HeaderJson { .. }));
}

#[test]
fn a_tensor_listed_twice_is_refused() {
    let one = r#""a":{"dtype":"U8","shape":[4],"data_offsets":[0,4]}"#;
    let error = refused(&format!("{{{one},{one}}}"), &[0; 4]);
    assert!(matches!(error, WeightsError::DuplicateTensor { ref tensor, .. } if tensor == "\"a\""));
    // The same name in another spelling.
    let escaped = one.replace("\"a\"", "\"\\u0061\"");
    assert!(matches!(
        refused(&format!("{{{one},{escaped}}}"), &[0; 4]),
        WeightsError::DuplicateTensor { .. }
    ));
}

#[test]
fn an_unknown_dtype_is_named() {
    let error = refused(r#"{"a":{"dtype":"F4","shape":[8],"data_offsets":[0,4]}}"#, &[0; 4]);
    assert!(matches!(error, WeightsError::UnknownDtype { ref got, .. } if got == "\"F4\""));
    assert!(error.to_string().contains("BF16"), "{error}");
}

#[test]
fn shapes_that_cannot_be_multiplied_are_refused() {
    for shape in [
        "[0,18446744073709551615]",
        "[4294967296,4294967296]",
        "[18446744073709551615]",
        "[18446744073709551615,18446744073709551615,18446744073709551615]",
        "[0,4611686018427387904,4]",
    ] {
        let header = format!(r#"{{"a":{{"dtype":"F32","shape":{shape},"data_offsets":[0,0]}}}}"#);
        let error = refused(&header, &[]);
        assert!(matches!(error, WeightsError::ShapeTooLarge { .. }), "{shape}: {error}");
    }
}

#[test]
fn shape_times_dtype_must_be_the_byte_range() {
    for (shape, end) in [("[3]", 4), ("[1]", 8), ("[]", 0), ("[0]", 4), ("[2,0]", 4)] {
        let header = format!(r#"{{"a":{{"dtype":"F32","shape":{shape},"data_offsets":[0,{end}]}}}}"#);
        assert!(matches!(refused(&header, &vec![0; end]), WeightsError::SizeMismatch { .. }), "{shape}");
    }
}

#[test]
fn byte_ranges_cover_the_body_exactly_once() {
    let two = |a: [u64; 2], b: [u64; 2]| {
        let (n, m) = (a[1].saturating_sub(a[0]), b[1].saturating_sub(b[0]));
        format!(
            r#"{{"a":{{"dtype":"U8","shape":[{n}],"data_offsets":{a:?}}},"b":{{"dtype":"U8","shape":[{m}],"data_offsets":{b:?}}}}}"#
        )
    };
    let contiguous = |error| matches!(error, WeightsError::NotContiguous { .. });
    assert!(contiguous(refused(&two([0, 4], [5, 8]), &[0; 8])), "hole");
    assert!(contiguous(refused(&two([0, 4], [3, 8]), &[0; 8])), "overlap");
    assert!(contiguous(refused(&two([0, 8], [0, 8]), &[0; 8])), "the same bytes twice");
    assert!(contiguous(refused(&two([1, 4], [4, 8]), &[0; 8])), "hole at the start");
    let error = refused(&two([0, 4], [4, 8]), &[0; 9]);
    assert!(matches!(error, WeightsError::BodyLength { expected: 8, got: 9, .. }), "trailing bytes");
    let error = refused(&two([0, 4], [4, 8]), &[0; 7]);
    assert!(matches!(error, WeightsError::BodyLength { expected: 8, got: 7, .. }), "cut short");
    let reversed = two([0, 0], [0, 0]).replacen("[0, 0]", "[4, 0]", 1);
    assert!(matches!(refused(&reversed, &[0; 4]), WeightsError::ReversedRange { start: 4, end: 0, .. }));
    let huge = two([0, 4], [4, u64::MAX]);
    assert!(matches!(refused(&huge, &[0; 8]), WeightsError::ShapeTooLarge { .. }));
    let dir = TempDir::new().unwrap();
    assert!(
        TensorFile::open(&written(&dir, &two([4, 8], [0, 4]), &[0; 8])).is_ok(),
        "any order in the header"
    );
}

#[test]
fn ranks_and_tensor_counts_are_capped() {
    let ones = vec!["1"; MAX_RANK + 1].join(",");
    let header = format!(r#"{{"a":{{"dtype":"U8","shape":[{ones}],"data_offsets":[0,1]}}}}"#);
    let error = refused(&header, &[0]);
    assert!(matches!(error, WeightsError::RankTooHigh { limit: MAX_RANK, got, .. } if got == MAX_RANK + 1));

    let many: Vec<String> = (0..MAX_TENSORS + 2)
        .map(|i| format!(r#""{i}":{{"dtype":"U8","shape":[0],"data_offsets":[0,0]}}"#))
        .collect();
    let error = refused(&format!("{{{}}}", many.join(",")), &[]);
    assert!(matches!(error, WeightsError::TooManyTensors { got, .. } if got == MAX_TENSORS + 2));
}

#[test]
fn a_long_name_does_not_fill_the_message() {
    let name = "n".repeat(50_000);
    let error = refused(&format!(r#"{{"{name}":{{"dtype":"X","shape":[0],"data_offsets":[0,0]}}}}"#), &[]);
    assert!(error.to_string().len() < 1000);
}

#[test]
fn what_is_not_a_regular_file_is_refused_without_waiting() {
    let dir = TempDir::new().unwrap();
    assert!(matches!(refusal(dir.path()), WeightsError::NotAFile { .. }));
    assert!(matches!(refusal(Path::new("/dev/zero")), WeightsError::NotAFile { .. }));
    assert!(matches!(refusal(&dir.path().join("absent")), WeightsError::Io { op: "open", .. }));
}

#[test]
fn a_file_that_shrinks_while_open_gives_an_error() {
    let dir = TempDir::new().unwrap();
    let header = r#"{"a":{"dtype":"U8","shape":[100],"data_offsets":[0,100]}}"#;
    let path = written(&dir, header, &[7; 100]);
    let file = TensorFile::open(&path).unwrap();
    let length = std::fs::metadata(&path).unwrap().len();
    std::fs::OpenOptions::new().write(true).open(&path).unwrap().set_len(length - 1).unwrap();
    assert!(matches!(file.read_f32("a"), Err(WeightsError::Io { op: "read", .. })));
    // A file replaced by renaming, as downloads and writers do it, leaves the open one as it was.
    let path = written(&dir, header, &[7; 100]);
    let file = TensorFile::open(&path).unwrap();
    let mut other = tempfile::NamedTempFile::new_in(dir.path()).unwrap();
    other.write_all(b"other").unwrap();
    other.persist(&path).unwrap();
    assert_eq!(file.read_f32("a").unwrap(), [7.0; 100]);
}
