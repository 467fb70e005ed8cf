//! Directories of config and weights: what fits, and every way in which they do not.

use std::collections::BTreeMap;
use std::path::Path;

use dropcap_kernels::DType;
use dropcap_model::{Checkpoint, DecoderConfig, ModelError, WeightPlan};
use safetensors::Dtype;
use safetensors::tensor::TensorView;
use tempfile::TempDir;

const MODELS: [&str; 7] = ["gpt2m", "llama", "llama31_rope", "mistral", "mistral_sw24", "qwen2", "qwen3"];

/// Tensors by name: shape and elements, stored as f32.
type Tensors = BTreeMap<String, (Vec<usize>, Vec<f32>)>;

fn config_text(model: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(model).join("config.json");
    std::fs::read_to_string(path).unwrap()
}

/// Every tensor that a model needs, filled with numbers that differ between tensors.
fn tensors(model: &str) -> Tensors {
    let config = DecoderConfig::parse(Path::new("config.json"), config_text(model).as_bytes()).unwrap();
    let plan = WeightPlan::of(&config, &|_| false);
    let filled = plan.tensors().enumerate().map(|(number, tensor)| {
        let elements = tensor.shape.iter().product();
        let values = (0..elements).map(|i| number as f32 + i as f32 / 1e6).collect();
        (tensor.name.to_owned(), (tensor.shape, values))
    });
    filled.collect()
}

fn write(path: &Path, tensors: &Tensors) {
    let bytes: Vec<Vec<u8>> =
        tensors.values().map(|(_, values)| values.iter().flat_map(|x| x.to_le_bytes()).collect()).collect();
    let views = tensors.iter().zip(&bytes).map(|((name, (shape, _)), bytes)| {
        (name, TensorView::new(Dtype::F32, shape.clone(), bytes).unwrap())
    });
    safetensors::serialize_to_file(views, None, path).unwrap();
}

fn directory(model: &str, tensors: &Tensors) -> TempDir {
    let directory = TempDir::new().unwrap();
    std::fs::write(directory.path().join("config.json"), config_text(model)).unwrap();
    write(&directory.path().join("model.safetensors"), tensors);
    directory
}

fn problems(directory: &TempDir) -> Vec<String> {
    match Checkpoint::open(directory.path()) {
        Ok(_) => Vec::new(),
        Err(ModelError::Mismatches { problems, .. }) => problems,
        Err(other) => panic!("{other}"),
    }
}

#[test]
fn every_family_opens_with_the_tensors_of_its_plan() {
    for model in MODELS {
        let directory = directory(model, &tensors(model));
        let checkpoint = Checkpoint::open(directory.path()).unwrap();
        let plan = checkpoint.plan();
        assert_eq!(plan.layers.len(), checkpoint.config().layers);
        assert_eq!(plan.head.is_none(), checkpoint.config().tied_embeddings);
        assert_eq!(
            plan.tensors().count(),
            dropcap_weights::ShardedTensors::open(directory.path()).unwrap().names().len(),
            "{model}"
        );
        assert_eq!(checkpoint.stored_dtype(), DType::F32);
        checkpoint.check_finite().unwrap();
        let layer = &plan.layers[0];
        let mut bytes = Vec::new();
        for part in &layer.qkv.parts {
            let shape = &checkpoint.shape(&part.tensor).unwrap();
            assert_eq!(checkpoint.read_rows(&part.tensor, 1..shape[0], &mut bytes).unwrap(), DType::F32);
            assert_eq!(bytes.len(), 4 * (shape[0] - 1) * shape[1]);
            assert!(checkpoint.read_rows(&part.tensor, 1..shape[0] + 1, &mut bytes).is_err());
        }
        let config = checkpoint.config();
        assert_eq!(layer.qkv.outputs(), config.query_width() + 2 * config.key_width());
        let bias = checkpoint.read_vectors(&layer.qkv.bias).unwrap();
        assert_eq!(bias.len(), if config.attention_bias { layer.qkv.outputs() } else { 0 });
        let fingerprint = checkpoint.fingerprint().unwrap();
        assert_eq!((fingerprint.family.as_str(), fingerprint.layers), (config.family.name(), config.layers));
    }
}

#[test]
fn tensor_names_are_those_of_transformers() {
    let names = |model: &str| tensors(model).into_keys().collect::<Vec<_>>().join(" ");
    let gpt2 = names("gpt2m");
    for name in ["transformer.wte.weight", "transformer.wpe.weight", "transformer.h.5.attn.c_attn.bias"] {
        assert!(gpt2.contains(name), "{name}");
    }
    let qwen3 = names("qwen3");
    for name in
        ["model.layers.2.self_attn.q_norm.weight", "model.layers.0.mlp.gate_proj.weight", "model.norm.weight"]
    {
        assert!(qwen3.contains(name), "{name}");
    }
    assert!(names("qwen2").contains("self_attn.v_proj.bias") && !names("qwen2").contains("o_proj.bias"));
    assert!(names("llama").contains("lm_head.weight") && !names("qwen3").contains("lm_head.weight"));
}

#[test]
fn all_mismatches_are_reported_at_once() {
    let mut changed = tensors("llama");
    changed.remove("model.norm.weight");
    changed.remove("model.layers.3.mlp.up_proj.weight");
    changed.insert("model.layers.4.input_layernorm.weight".into(), (vec![64], vec![0.0; 64]));
    changed.insert("model.embed_tokens.weight".into(), (vec![127, 64], vec![0.0; 127 * 64]));
    let directory = directory("llama", &changed);
    let problems = problems(&directory);
    assert_eq!(problems.len(), 4, "{problems:#?}");
    let text = Checkpoint::open(directory.path()).unwrap_err().to_string();
    for line in [
        "model.norm.weight: missing, expected shape [64]",
        "model.layers.3.mlp.up_proj.weight: missing, expected shape [128, 64]",
        "model.layers.4.input_layernorm.weight: unexpected",
        "model.embed_tokens.weight: expected shape [128, 64], found [127, 64]",
    ] {
        assert!(text.contains(line), "{line}\n{text}");
    }
}

#[test]
fn a_model_of_another_size_does_not_flood_the_message() {
    let directory = directory("gpt2m", &tensors("llama"));
    let text = Checkpoint::open(directory.path()).unwrap_err().to_string();
    assert!(text.lines().count() < 50 && text.contains("more"), "{text}");
}

#[test]
fn a_dtype_that_cannot_be_computed_with_is_a_mismatch() {
    let directory = directory("llama", &tensors("llama"));
    let path = directory.path().join("model.safetensors");
    let bytes = std::fs::read(&path).unwrap();
    let text = String::from_utf8_lossy(&bytes[8..]).into_owned();
    let header = &text[..text.find("}}").unwrap() + 2];
    // U32 is as wide as F32, so only the dtype changes.
    let at = header.find("\"model.norm.weight\"").unwrap();
    let at = 8 + at + header[at..].find("\"F32\"").unwrap();
    let mut bytes = bytes;
    bytes[at..at + 5].copy_from_slice(b"\"U32\"");
    std::fs::write(&path, bytes).unwrap();
    assert_eq!(problems(&directory), ["model.norm.weight: expected F32, F16 or BF16, found U32"]);
}

#[test]
fn known_buffers_are_passed_over() {
    let mut llama = tensors("llama");
    llama.insert("model.layers.0.self_attn.rotary_emb.inv_freq".into(), (vec![8], vec![0.0; 8]));
    assert!(problems(&directory("llama", &llama)).is_empty());
    let mut gpt2 = tensors("gpt2m");
    let plain = Checkpoint::open(directory("gpt2m", &gpt2).path()).unwrap().fingerprint().unwrap();
    gpt2.insert("transformer.h.0.attn.bias".into(), (vec![1, 1, 256, 256], vec![0.0; 256 * 256]));
    gpt2.insert("transformer.h.0.attn.masked_bias".into(), (vec![], vec![-1e4]));
    let buffered = directory("gpt2m", &gpt2);
    assert_eq!(Checkpoint::open(buffered.path()).unwrap().fingerprint().unwrap(), plain);
}

#[test]
fn a_tied_head_may_be_stored_only_as_a_copy() {
    let mut tied = tensors("qwen3");
    let embedding = tied["model.embed_tokens.weight"].clone();
    tied.insert("lm_head.weight".into(), embedding.clone());
    assert!(problems(&directory("qwen3", &tied)).is_empty());
    let other = embedding.1.iter().map(|x| x + 1.0).collect();
    tied.insert("lm_head.weight".into(), (embedding.0, other));
    let problems = problems(&directory("qwen3", &tied));
    assert!(problems.len() == 1 && problems[0].contains("tie_word_embeddings"), "{problems:?}");
}

#[test]
fn of_tied_tensors_the_head_alone_will_do() {
    let mut tied = tensors("qwen3");
    let embedding = tied.remove("model.embed_tokens.weight").unwrap();
    assert!(!problems(&directory("qwen3", &tied)).is_empty(), "neither is there");
    tied.insert("lm_head.weight".into(), embedding);
    assert!(problems(&directory("qwen3", &tied)).is_empty());
}

#[test]
fn gpt2_loads_with_and_without_the_prefix_of_its_names() {
    let prefixed = tensors("gpt2m");
    let bare: Tensors = prefixed
        .iter()
        .map(|(name, tensor)| (name.replacen("transformer.", "", 1), tensor.clone()))
        .collect();
    let (prefixed, bare) = (directory("gpt2m", &prefixed), directory("gpt2m", &bare));
    let [prefixed, bare] = [&prefixed, &bare].map(|directory| Checkpoint::open(directory.path()).unwrap());
    assert_eq!(bare.plan().embedding.parts[0].tensor, "wte.weight");
    assert_eq!(prefixed.fingerprint().unwrap(), bare.fingerprint().unwrap());
}

#[test]
fn a_fingerprint_is_of_the_weights_and_not_of_the_files() {
    let whole = tensors("llama");
    let one = directory("llama", &whole);
    let many = TempDir::new().unwrap();
    std::fs::write(many.path().join("config.json"), config_text("llama")).unwrap();
    let mut shards = [Tensors::new(), Tensors::new()];
    let mut map = BTreeMap::new();
    for (number, (name, tensor)) in whole.iter().enumerate() {
        shards[number % 2].insert(name.clone(), tensor.clone());
        map.insert(name, format!("model-{}.safetensors", number % 2));
    }
    for (number, shard) in shards.iter().enumerate() {
        write(&many.path().join(format!("model-{number}.safetensors")), shard);
    }
    let index = serde_json::json!({"metadata": {}, "weight_map": map});
    std::fs::write(many.path().join("model.safetensors.index.json"), index.to_string()).unwrap();
    let of = |directory: &TempDir| Checkpoint::open(directory.path()).unwrap().fingerprint().unwrap();
    assert_eq!(of(&one), of(&many));
    let mut trained = whole;
    trained.get_mut("model.layers.2.mlp.down_proj.weight").unwrap().1.iter_mut().for_each(|x| *x *= 1.001);
    assert_eq!(of(&one).differences(&of(&directory("llama", &trained))).len(), 1);
}

#[test]
fn nan_and_infinity_are_found_and_named() {
    let mut broken = tensors("qwen2");
    broken.get_mut("model.norm.weight").unwrap().1[7] = f32::NAN;
    broken.get_mut("model.layers.1.self_attn.k_proj.bias").unwrap().1[0] = f32::INFINITY;
    let directory = directory("qwen2", &broken);
    let error = Checkpoint::open(directory.path()).unwrap().check_finite().unwrap_err();
    let text = error.to_string();
    assert!(matches!(error, ModelError::NonFinite { ref problems, .. } if problems.len() == 2), "{text}");
    assert!(text.contains("\"model.norm.weight\" holds NaN at element 7"), "{text}");
}

#[test]
fn a_config_of_huge_dimensions_is_refused_by_its_weights_and_not_by_memory() {
    let directory = directory("llama", &tensors("llama"));
    let mut config: serde_json::Value = serde_json::from_str(&config_text("llama")).unwrap();
    config["num_hidden_layers"] = 1024.into();
    config["vocab_size"] = (1 << 22).into();
    config["hidden_size"] = (1 << 17).into();
    config["intermediate_size"] = (1 << 20).into();
    std::fs::write(directory.path().join("config.json"), config.to_string()).unwrap();
    assert!(problems(&directory).len() > 5000);
}
