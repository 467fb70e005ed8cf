//! Adapters as a user takes them: over a model, merged into a checkpoint, with gates beside them.

use std::path::Path;

use crate::support::{both, failure, golden, output, text};
use dropcap_kernels::{DType, Team};
use dropcap_methods::Gates;
use dropcap_model::{Adapter, Checkpoint};
use dropcap_weights::{NewTensor, NewTensorFile, ShardedTensors, TensorFile};
use serde_json::Value;
use tempfile::TempDir;

const BASE: &str = "llama_kvpress/llama";
const PLAIN: &str = "lora/llama";
/// As for PEFT's vectors in the engine's tests.
const LOGITS: f32 = 2e-4;

/// A copy of the golden adapter that names the base of which `fingerprint` is.
fn naming(fingerprint: &str) -> TempDir {
    let folder = TempDir::new().unwrap();
    let copied = golden(PLAIN);
    std::fs::copy(copied.join("adapter_config.json"), folder.path().join("adapter_config.json")).unwrap();
    let tensors = ShardedTensors::single(&copied.join("adapter_model.safetensors")).unwrap();
    let values: Vec<_> = tensors.names().map(|name| (name, tensors.read_f32(name).unwrap())).collect();
    let tensors: Vec<_> = values
        .iter()
        .map(|(name, values)| NewTensor::f32(*name, &tensors.info(name).unwrap().shape, values))
        .collect();
    let file = NewTensorFile::new(&tensors, &[("dropcap.base", fingerprint)]).unwrap();
    let mut bytes = Vec::new();
    file.write(&mut bytes).unwrap();
    std::fs::write(folder.path().join("adapter_model.safetensors"), bytes).unwrap();
    folder
}

fn base() -> Checkpoint {
    Checkpoint::open(&golden(BASE)).unwrap()
}

/// An adapter of the golden model with gates that were trained over it.
fn with_gates() -> TempDir {
    let folder = naming(&base().fingerprint().unwrap().to_string());
    let merged = base().with_adapter(Adapter::open(folder.path()).unwrap()).unwrap();
    let config = merged.config();
    let gates = Gates::random(config.layers, config.hidden, 4, 7).unwrap();
    gates.save(&folder.path().join("pruning.safetensors"), &merged.fingerprint().unwrap()).unwrap();
    folder
}

/// The logits and lifetimes of the golden text, as `forward` writes them.
fn forward(model: &Path, flags: &[&str]) -> (Vec<f32>, Vec<u8>) {
    let folder = TempDir::new().unwrap();
    let vectors = TensorFile::open(&golden(PLAIN).join("vectors.safetensors")).unwrap();
    let mut bytes = Vec::new();
    vectors.read_bytes("ids", &mut bytes).unwrap();
    let ids: Vec<String> =
        bytes.as_chunks().0.iter().map(|&bytes| u32::from_le_bytes(bytes).to_string()).collect();
    let (ids, path) = (ids.join(","), folder.path().join("out.safetensors"));
    let common = ["forward", "--model", text(model), "--ids", &ids, "-o", text(&path)];
    output(&[&common[..], flags].concat());
    let found = TensorFile::open(&path).unwrap();
    let mut lifetimes = Vec::new();
    for layer in 0..base().config().layers {
        let mut bytes = Vec::new();
        found.read_bytes(&format!("layers.{layer}.expires_at"), &mut bytes).unwrap();
        lifetimes.extend(bytes);
    }
    (found.read_f32("logits").unwrap(), lifetimes)
}

#[test]
fn an_adapter_of_peft_gives_pefts_logits_and_a_merged_checkpoint_the_same_bits() {
    let (model, adapter) = (golden(BASE), golden(PLAIN));
    let vectors = TensorFile::open(&adapter.join("vectors.safetensors")).unwrap();
    let expected = vectors.read_f32("logits").unwrap();
    let (found, _) = forward(&model, &["--adapter", text(&adapter)]);
    let far = found.iter().zip(&expected).filter(|(found, expected)| (*found - *expected).abs() > LOGITS);
    assert_eq!(far.count(), 0);

    let folder = TempDir::new().unwrap();
    for (dtype, name) in [(DType::F32, "float32"), (DType::Bf16, "bfloat16")] {
        let base = folder.path().join(format!("base-{dtype}"));
        std::fs::create_dir(&base).unwrap();
        self::base().write(&Team::new(1).unwrap(), &base, Some(dtype)).unwrap();
        let merged = folder.path().join(dtype.name());
        let arguments = ["merge", "-m", text(&base), "--adapter", text(&adapter), "-o", text(&merged)];
        assert_eq!(output(&arguments).trim(), text(&merged));
        let held = ["--dtype", dtype.name()];
        let (laid_over, _) = forward(&base, &[&["--adapter", text(&adapter)], &held[..]].concat());
        assert!(forward(&merged, &held).0 == laid_over, "{dtype}");
        let config = std::fs::read(merged.join("config.json")).unwrap();
        assert_eq!(serde_json::from_slice::<Value>(&config).unwrap()["torch_dtype"], name);
        let again = failure(&arguments);
        assert!(again.contains("exists") && again.contains("--output"), "{again}");
    }
    let narrower = folder.path().join("narrower");
    output(&[
        "merge",
        "-m",
        text(&model),
        "--adapter",
        text(&adapter),
        "-o",
        text(&narrower),
        "--dtype",
        "f16",
    ]);
    assert_eq!(Checkpoint::open(&narrower).unwrap().stored_dtype(), DType::F16);
}

#[test]
fn gates_beside_an_adapter_are_used_with_it_and_go_into_the_merged_checkpoint() {
    let (model, adapter, folder) = (golden(BASE), with_gates(), TempDir::new().unwrap());
    let adapter = ["--adapter", text(adapter.path())];
    let (logits, lifetimes) = forward(&model, &adapter);
    assert!(lifetimes.as_chunks().0.iter().any(|&bytes| u32::from_le_bytes(bytes) != u32::MAX));
    let named = forward(&model, &[&adapter[..], &["--method", "dcp"]].concat());
    assert!((&logits, &lifetimes) == (&named.0, &named.1));
    let dense = forward(&model, &[&adapter[..], &["--method", "none"]].concat());
    assert!(logits != dense.0);

    let merged = folder.path().join("merged");
    output(&[&["merge", "-m", text(&model), "-o", text(&merged)], &adapter[..]].concat());
    let found = forward(&merged, &["--method", "dcp"]);
    assert!((logits, lifetimes) == found);

    let prompts = folder.path().join("prompts.jsonl");
    std::fs::write(&prompts, "{\"ids\":[3,1,4,1,5,9,2,6,5,3,5,8,9,7,9]}").unwrap();
    let run = ["--prompt-file", text(&prompts), "--json", "-n", "12", "--ignore-eos"];
    let object = |arguments: &[&str]| -> Value {
        serde_json::from_str(output(&[arguments, &run[..]].concat()).trim()).unwrap()
    };
    let laid_over = object(&[&["generate", "-m", text(&model)], &adapter[..]].concat());
    let merged = object(&["generate", "-m", text(&merged), "--method", "dcp"]);
    assert!(laid_over["kv"]["keep_ratio"].as_f64().unwrap() < 1.0);
    for key in ["token_ids", "kv"] {
        assert_eq!(laid_over[key], merged[key]);
    }
    let table = output(
        &[&["bench", "-m", text(&model), "-p", "8", "-n", "0", "-r", "1", "--method", "dcp"], &adapter[..]]
            .concat(),
    );
    assert!(table.contains("dcp") && table.contains(adapter[1]), "{table}");
}

#[test]
fn gates_alone_are_an_adapter_too() {
    let (model, folder) = (golden(BASE), TempDir::new().unwrap());
    let (config, fingerprint) = (base().config().clone(), base().fingerprint().unwrap());
    let gates = Gates::random(config.layers, config.hidden, 4, 7).unwrap();
    let only_gates = folder.path().join("gates");
    std::fs::create_dir(&only_gates).unwrap();
    gates.save(&only_gates.join("pruning.safetensors"), &fingerprint).unwrap();
    let found = forward(&model, &["--adapter", text(&only_gates)]);
    let merged = folder.path().join("merged");
    output(&["merge", "-m", text(&model), "--adapter", text(&only_gates), "--out", text(&merged)]);
    assert!(forward(&merged, &["--method", "dcp"]) == found);
    assert_eq!(Checkpoint::open(&merged).unwrap().fingerprint().unwrap(), fingerprint);
}

#[test]
fn an_adapter_of_another_base_is_refused_unless_a_flag_takes_it_with_a_warning() {
    let other = base().fingerprint().unwrap().to_string().replace("/v", "/v1");
    let (adapter, model) = (naming(&other), golden(BASE));
    let refused =
        ["forward", "-m", text(&model), "--adapter", text(adapter.path()), "--ids", "1,2", "-o", "/dev/null"];
    let message = failure(&refused);
    for words in ["another model", "vocabulary: expected", "--other-base"] {
        assert!(message.contains(words), "{message}");
    }
    let (_, said) = both(&[&refused[..], &["--other-base"]].concat());
    assert!(said.contains("warning") && said.contains("nothing was measured"), "{said}");
}

#[test]
fn a_flag_that_makes_no_sense_alone_says_what_it_needs() {
    let (model, adapter) = (golden(BASE), golden(PLAIN));
    let alone = failure(&["generate", "--adapter", text(&adapter), "-p", "x"]);
    assert!(alone.contains("--model"), "{alone}");
    let nothing = failure(&["merge", "-m", text(&model), "-o", "/tmp/never"]);
    assert!(nothing.contains("--adapter"), "{nothing}");
    let missing = failure(&["merge", "-m", text(&model), "--adapter", text(&model), "-o", "/tmp/never"]);
    assert!(missing.contains("adapter_config.json"), "{missing}");
}
