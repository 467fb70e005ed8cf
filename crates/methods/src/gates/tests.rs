use std::fs;
use std::path::{Path, PathBuf};

use dropcap_kernels::DType;
use proptest::prelude::*;
use safetensors::tensor::TensorView;
use safetensors::{Dtype, serialize};

use super::*;
use crate::fuzzing;
use crate::registry::tests::fingerprint;

/// A file that holds these F32 tensors, all numbers 0.5 unless said otherwise.
fn file(folder: &Path, tensors: &[(&str, &[usize])], metadata: &[(&str, &str)]) -> PathBuf {
    let path = folder.join("gates.safetensors");
    let data: Vec<(String, Vec<usize>, Vec<u8>)> = tensors
        .iter()
        .map(|(name, shape)| {
            let numbers = vec![0.5_f32; shape.iter().product()];
            (name.to_string(), shape.to_vec(), bytemuck::cast_slice(&numbers).to_vec())
        })
        .collect();
    let views = data
        .iter()
        .map(|(name, shape, bytes)| (name, TensorView::new(Dtype::F32, shape.clone(), bytes).unwrap()));
    let metadata = metadata.iter().map(|(key, value)| (key.to_string(), value.to_string())).collect();
    fs::write(&path, serialize(views, Some(metadata)).unwrap()).unwrap();
    path
}

const QUERY: &str = "transformer.h.0.attn.q_int.weight";
const KEY: &str = "transformer.h.0.attn.k_int.weight";
const BIAS: &str = "transformer.h.0.attn.int_bias";

fn message(result: Result<Gates, MethodError>) -> String {
    result.unwrap_err().to_string()
}

#[test]
fn what_is_saved_is_loaded_bit_for_bit() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("gates.safetensors");
    let gates = Gates::random(3, 8, 5, 9).unwrap();
    gates.save(&path, &fingerprint(3, 8)).unwrap();
    assert_eq!(Gates::load(&path, 3, 1, 8, Some(&fingerprint(3, 8))).unwrap(), gates);
    // Saving again replaces the file and leaves nothing beside it.
    let before = fs::read(&path).unwrap();
    gates.save(&path, &fingerprint(3, 8)).unwrap();
    assert_eq!(fs::read(&path).unwrap(), before, "the same gates are the same bytes");
    safetensors::SafeTensors::deserialize(&before).unwrap();
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
}

#[test]
fn gates_per_head_their_floors_and_their_cache_are_saved_and_loaded() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("gates.safetensors");
    let layer = LayerGates { query: vec![0.25; 2 * 3 * 8], key: vec![0.5; 2 * 3 * 8], bias: vec![1.0, -1.0] };
    let floors = Floors { sinks: 4, recent: 16 };
    let gates = Gates::new(8, 3, vec![layer.clone(), layer]).unwrap().under(floors);
    let settled = SettledFor { kv_dtype: Some(DType::Bf16), tokens: Some(700) };
    let gates = gates.settled_for(settled);
    gates.save(&path, &fingerprint(2, 8)).unwrap();
    let loaded = Gates::load(&path, 2, 2, 8, None).unwrap();
    assert_eq!((loaded.heads(), loaded.width(), loaded.floors()), (2, 3, floors));
    assert_eq!((loaded.settled(), loaded.votes().unwrap().settled()), (settled, settled));
    assert_eq!(loaded, gates);
    let message = message(Gates::load(&path, 2, 4, 8, None));
    assert!(message.contains("layers.0.gate.bias: expected 1 or 4 gate heads, found 2"), "{message}");
}

/// Gates that decide at birth, in a file.
fn birth(heads: usize) -> Gates {
    let random = Gates::random(2, 8, heads, 3).unwrap();
    let layers = random.layers().iter().map(|layer| LayerGates {
        query: Vec::new(),
        bias: (0..heads).map(|head| 0.5 - head as f32).collect(),
        ..layer.clone()
    });
    Gates::at_birth(8, layers.collect()).unwrap().under(Floors { sinks: 4, recent: 16 })
}

#[test]
fn gates_at_birth_are_saved_and_loaded_and_never_taken_for_votes() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("gates.safetensors");
    for heads in [1, 2] {
        let gates = birth(heads).settled_for(SettledFor { kv_dtype: Some(DType::F16), tokens: None });
        gates.save(&path, &fingerprint(2, 8)).unwrap();
        let loaded = Gates::load(&path, 2, 2, 8, Some(&fingerprint(2, 8))).unwrap();
        assert_eq!(loaded, gates);
        assert_eq!((loaded.kind(), loaded.width(), loaded.heads()), (GateKind::Birth, 1, heads));
        assert!(message(Gates::load(&path, 3, 2, 8, None)).contains("layers.2.gate.key.weight"));
        let message = message(Gates::load(&path, 2, 2, 9, None));
        assert!(message.contains(&format!("layers.0.gate.key.weight: expected [{heads}, 9]")), "{message}");
        assert!(!message.contains("query"), "{message}");
    }
    let [_, key, bias] = GateLayout::Dropcap.names(0);
    let tensors: [(&str, &[usize]); 2] = [(&key, &[1, 4]), (&bias, &[1])];
    let with = |rule: Option<&str>, more: &[(&str, &[usize])]| {
        let metadata = [("format", "dropcap-gates"), ("version", "1"), ("rule", rule.unwrap_or_default())];
        let metadata = &metadata[..if rule.is_some() { 3 } else { 2 }];
        Gates::load(&file(folder.path(), &[&tensors[..], more].concat(), metadata), 1, 1, 4, None)
    };
    assert_eq!(with(Some("birth"), &[]).unwrap().kind(), GateKind::Birth);
    let message = message(with(None, &[]));
    assert!(
        message.contains("layers.0.gate.query.weight: expected [0, 4], found no such tensor"),
        "{message}"
    );
    let message = self::message(with(Some("death"), &[]));
    assert!(message.contains("metadata `rule`: expected birth, or no such entry"), "{message}");
    let query = GateLayout::Dropcap.names(0)[0].clone();
    let message = self::message(with(Some("birth"), &[(&query, &[1, 4])]));
    assert!(
        message.contains("not a gate of a model of 1 layers whose entries are judged at birth"),
        "{message}"
    );
    let layer = LayerGates { query: vec![0.0; 4], key: vec![0.0; 4], bias: vec![0.0] };
    let message = self::message(Gates::at_birth(4, vec![layer]));
    assert!(message.contains("the query gate of layer 0 must hold 0 numbers, got 4"), "{message}");
}

#[test]
fn floors_that_are_no_counts_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let names = GateLayout::Dropcap.names(0);
    let shapes: [&[usize]; 3] = [&[2, 4], &[2, 4], &[1]];
    let tensors: Vec<(&str, &[usize])> = names.iter().map(String::as_str).zip(shapes).collect();
    for bad in ["-1", "4294967295", "many"] {
        let metadata = [("format", "dropcap-gates"), ("version", "1"), ("recent", bad)];
        let path = file(folder.path(), &tensors, &metadata);
        let message = message(Gates::load(&path, 1, 1, 4, None));
        assert!(message.contains("metadata `recent`") && message.contains(bad), "{message}");
    }
}

#[test]
fn a_cache_that_is_no_format_is_refused_and_none_is_no_claim() {
    let folder = tempfile::tempdir().unwrap();
    let names = GateLayout::Dropcap.names(0);
    let shapes: [&[usize]; 3] = [&[2, 4], &[2, 4], &[1]];
    let tensors: Vec<(&str, &[usize])> = names.iter().map(String::as_str).zip(shapes).collect();
    let with = |metadata: &[(&str, &str)]| {
        let path = file(
            folder.path(),
            &tensors,
            &[&[("format", "dropcap-gates"), ("version", "1")], metadata].concat(),
        );
        Gates::load(&path, 1, 1, 4, None)
    };
    assert_eq!(with(&[]).unwrap().settled(), SettledFor::default());
    assert_eq!(with(&[("kv_dtype", "f16")]).unwrap().settled().kv_dtype, Some(DType::F16));
    for (key, found, expected) in
        [("kv_dtype", "int8", "f32, bf16 or f16"), ("tokens", "0", "a count of at least 1")]
    {
        let message = message(with(&[(key, found)]));
        let words = format!("metadata `{key}`: expected {expected}, found \"{found}\"");
        assert!(message.contains(&words), "{message}");
    }
}

#[test]
fn a_failed_save_leaves_the_old_file() {
    let folder = tempfile::tempdir().unwrap();
    let gates = Gates::random(1, 2, 2, 0).unwrap();
    // A folder stands where the file should go: the rename fails after everything was written.
    let path = folder.path().join("taken");
    fs::create_dir(&path).unwrap();
    fs::write(path.join("inside"), b"old").unwrap();
    let error = gates.save(&path, &fingerprint(1, 2)).unwrap_err().to_string();
    assert!(error.contains("cannot write the gates") && error.contains("taken"), "{error}");
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    assert!(gates.save(Path::new("/"), &fingerprint(1, 2)).is_err());
}

#[test]
fn the_published_layout_is_read_with_or_without_the_model_around_it() {
    let folder = tempfile::tempdir().unwrap();
    let tensors: [(&str, &[usize]); 4] =
        [(QUERY, &[2, 4]), (KEY, &[2, 4]), (BIAS, &[1]), ("wte.weight", &[9, 4])];
    for count in [3, 4] {
        let path = file(folder.path(), &tensors[..count], &[("format", "pt")]);
        // It names no model, so any fingerprint of these shapes will do.
        let gates = Gates::load(&path, 1, 1, 4, Some(&fingerprint(1, 4))).unwrap();
        assert_eq!((gates.width(), gates.layers()[0].bias.as_slice()), (2, &[0.5][..]));
    }
}

#[test]
fn the_gates_of_the_public_code_are_read() {
    // Made by the paper's own code; see tests/golden/gpt2_dcp.
    let golden = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/golden/gpt2_dcp/pruning.safetensors");
    let gates = Gates::load(Path::new(golden), 3, 1, 48, None).unwrap();
    assert_eq!((gates.layers().len(), gates.hidden(), gates.width()), (3, 48, 16));
    assert!(Gates::load(Path::new(golden), 4, 1, 48, None).is_err());
    assert!(Gates::load(Path::new(golden), 2, 1, 48, None).is_err());
}

#[test]
fn all_mismatches_are_listed_at_once() {
    let folder = tempfile::tempdir().unwrap();
    let more = "transformer.h.2.attn.int_bias";
    let path = file(folder.path(), &[(QUERY, &[2, 5]), (KEY, &[3, 4]), (BIAS, &[1]), (more, &[1])], &[]);
    let message = message(Gates::load(&path, 2, 1, 4, None));
    for line in [
        "q_int.weight: expected [2, 4], found [2, 5]",
        "k_int.weight: expected [2, 4], found [3, 4]",
        "transformer.h.1.attn.q_int.weight: expected [2, 4], found no such tensor",
        "transformer.h.1.attn.int_bias: expected [1], found no such tensor",
        "\"transformer.h.2.attn.int_bias\": not a gate of a model of 2 layers",
    ] {
        assert!(message.contains(line), "{line}: {message}");
    }
}

#[test]
fn endless_mismatches_are_counted_instead() {
    let folder = tempfile::tempdir().unwrap();
    let path = file(folder.path(), &[(QUERY, &[2, 5])], &[]);
    let message = message(Gates::load(&path, 1000, 1, 4, None));
    assert!(message.contains("and 2976 more") && message.len() < 4000, "{message}");
}

#[test]
fn our_layout_allows_no_other_tensor() {
    let folder = tempfile::tempdir().unwrap();
    let names = GateLayout::Dropcap.names(0);
    let shapes: [&[usize]; 3] = [&[2, 4], &[2, 4], &[1]];
    let mut tensors: Vec<(&str, &[usize])> = names.iter().map(String::as_str).zip(shapes).collect();
    tensors.push(("stowaway", &[1]));
    let ours = |version| [("format", "dropcap-gates"), ("version", version)];
    let path = file(folder.path(), &tensors, &ours("1"));
    assert!(message(Gates::load(&path, 1, 1, 4, None)).contains("\"stowaway\""));
    let path = file(folder.path(), &tensors[..3], &ours("1"));
    assert!(Gates::load(&path, 1, 1, 4, None).is_ok());
    assert!(message(Gates::load(&path, 1, 1, 4, Some(&fingerprint(1, 4)))).contains("found none"));
}

#[test]
fn a_gate_file_of_another_version_is_refused_by_name() {
    let folder = tempfile::tempdir().unwrap();
    let names = GateLayout::Dropcap.names(0);
    let shapes: [&[usize]; 3] = [&[2, 4], &[2, 4], &[1]];
    let tensors: Vec<(&str, &[usize])> = names.iter().map(String::as_str).zip(shapes).collect();
    for version in ["2", "10", "0", "", "x"] {
        let path = file(folder.path(), &tensors, &[("format", "dropcap-gates"), ("version", version)]);
        let message = message(Gates::load(&path, 1, 1, 4, None));
        let expected =
            format!("gates.safetensors is a gate file of version `{version}`; this program reads version 1");
        assert!(message.contains(&expected), "{message}");
    }
}

#[test]
fn a_model_without_gates_is_no_gate_file() {
    let folder = tempfile::tempdir().unwrap();
    let path = file(folder.path(), &[("wte.weight", &[9, 4])], &[]);
    let message = message(Gates::load(&path, 1, 1, 4, None));
    assert!(message.contains("1 tensors, the first named \"wte.weight\""), "{message}");
}

#[test]
fn numbers_that_are_not_finite_are_named_with_their_index() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("gates.safetensors");
    for bad in [f32::NAN, f32::INFINITY] {
        let mut gates = Gates::random(2, 4, 3, 0).unwrap();
        gates.layers[1].key[7] = bad;
        gates.save(&path, &fingerprint(2, 4)).unwrap();
        let message = message(Gates::load(&path, 2, 1, 4, None));
        assert!(message.contains("layers.1.gate.key.weight") && message.contains("element 7"), "{message}");
    }
}

#[test]
fn a_width_beyond_the_limit_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = file(folder.path(), &[(QUERY, &[5000, 1]), (KEY, &[5000, 1]), (BIAS, &[1])], &[]);
    assert!(message(Gates::load(&path, 1, 1, 1, None)).contains("found 5000"));
    let path = file(folder.path(), &[(QUERY, &[0, 4]), (KEY, &[0, 4]), (BIAS, &[1])], &[]);
    assert!(message(Gates::load(&path, 1, 1, 4, None)).contains("from 1 to 4096, found 0"));
    assert!(Gates::random(1, 1, usize::MAX, 0).is_err());
    assert!(
        Gates::new(2, 2, vec![LayerGates { query: vec![0.0; 4], key: vec![0.0; 3], bias: vec![0.0] }])
            .is_err()
    );
}

#[test]
fn random_gates_are_the_same_for_the_same_seed() {
    assert_eq!(Gates::random(2, 8, 4, 1).unwrap(), Gates::random(2, 8, 4, 1).unwrap());
    assert_ne!(Gates::random(2, 8, 4, 1).unwrap(), Gates::random(2, 8, 4, 2).unwrap());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn a_damaged_gate_file_is_refused_or_still_finite(
        cut in 0_usize..2000, changes in proptest::collection::vec((0_usize..2000, any::<u8>()), 0..4),
        at_birth in any::<bool>(),
    ) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("gates");
        let gates = if at_birth { birth(2) } else { Gates::random(2, 8, 3, 0).unwrap() };
        gates.save(&path, &fingerprint(2, 8)).unwrap();
        let mut bytes = fs::read(&path).unwrap();
        for (at, byte) in changes {
            let at = at % bytes.len();
            bytes[at] = byte;
        }
        // Half of the cases keep their length.
        if cut % 2 == 1 {
            bytes.truncate(cut);
        }
        fuzzing::gate_file(&bytes, &path);
    }
}
