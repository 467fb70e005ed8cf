//! Directories of adapters: what fits a model, and every way in which they do not.

use std::path::{Path, PathBuf};

use dropcap_kernels::{DType, Team};
use dropcap_model::{Adapter, Checkpoint, Decoder, ModelError, WeightFormat};
use safetensors::Dtype;
use safetensors::tensor::TensorView;
use serde_json::{Value, json};
use tempfile::TempDir;

fn golden(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/golden").join(path)
}

fn base() -> Checkpoint {
    Checkpoint::open(&golden("llama_kvpress/llama")).unwrap()
}

const MODULE: &str = "base_model.model.model.layers.0.self_attn.q_proj";

/// A directory with an adapter of rank 2 for one module, with changes to its configuration and names of its tensors.
fn adapter(changes: &Value, tensors: &[(String, Vec<usize>)], base: Option<String>) -> TempDir {
    let directory = TempDir::new().unwrap();
    let mut config = json!({"peft_type": "LORA", "task_type": "CAUSAL_LM", "r": 2, "lora_alpha": 4});
    for (key, value) in changes.as_object().unwrap() {
        config[key] = value.clone();
    }
    std::fs::write(directory.path().join("adapter_config.json"), config.to_string()).unwrap();
    let bytes: Vec<Vec<u8>> =
        tensors.iter().map(|(_, shape)| vec![0; 4 * shape.iter().product::<usize>()]).collect();
    let views = tensors.iter().zip(&bytes).map(|((name, shape), bytes)| {
        (name.clone(), TensorView::new(Dtype::F32, shape.clone(), bytes).unwrap())
    });
    let metadata = base.map(|base| [("dropcap.base".to_owned(), base)].into());
    let path = directory.path().join("adapter_model.safetensors");
    safetensors::serialize_to_file(views, metadata, &path).unwrap();
    directory
}

/// The factors of one module of the golden Llama with the right shapes.
fn factors() -> Vec<(String, Vec<usize>)> {
    let (hidden, queries) = (base().config().hidden, base().config().query_width());
    vec![
        (format!("{MODULE}.lora_A.weight"), vec![2, hidden]),
        (format!("{MODULE}.lora_B.weight"), vec![queries, 2]),
    ]
}

fn problems(directory: &TempDir) -> Vec<String> {
    match base().with_adapter(Adapter::open(directory.path()).unwrap()) {
        Ok(_) => Vec::new(),
        Err(ModelError::AdapterMismatch { problems, .. }) => problems,
        Err(other) => panic!("{other}"),
    }
}

#[test]
fn an_adapter_whose_factors_fit_is_taken() {
    assert_eq!(problems(&adapter(&json!({}), &factors(), None)), Vec::<String>::new());
}

#[test]
fn what_an_adapter_changes_is_held_as_the_file_is_but_not_in_its_blocks_of_4_bits() {
    let team = Team::new(1).unwrap();
    let halves = TempDir::new().unwrap();
    base().write(&team, halves.path(), Some(DType::F16)).unwrap();
    for (model, held) in [(halves.path(), "f16"), (&golden("gguf/llama.gguf"), "Q4_1+Q8_0")] {
        let adapter = Adapter::open(adapter(&json!({}), &factors(), None).path()).unwrap();
        let checkpoint = Checkpoint::open(model).unwrap().with_adapter(adapter).unwrap();
        let decoder = Decoder::load(&team, &checkpoint, WeightFormat::Auto).unwrap();
        assert_eq!(decoder.formats(), held, "{}", model.display());
    }
}

#[test]
fn every_tensor_without_a_place_is_named() {
    let [a, b] = factors().try_into().unwrap();
    let named = |tensors: &[(String, Vec<usize>)], words: &str| {
        let problems = problems(&adapter(&json!({}), tensors, None));
        assert_eq!(problems.len(), 1, "{problems:?}");
        assert!(problems[0].contains(words), "{problems:?}");
    };
    named(std::slice::from_ref(&a), "lora_B.weight is missing");
    named(std::slice::from_ref(&b), "has no");
    named(&[], "no factors");
    named(&[a.clone(), (b.0.clone(), vec![b.1[0], 3])], "expected shape");
    named(&[a.clone(), b.clone(), ("base_model.model.lm_head.weight".into(), vec![1])], "not a factor");
    let other = |half: &str| format!("base_model.model.model.layers.99.mlp.up_proj.lora_{half}.weight");
    let elsewhere = [a.clone(), b.clone(), (other("A"), a.1.clone()), (other("B"), b.1.clone())];
    named(&elsewhere, "layers.99.mlp.up_proj");
}

#[test]
fn adapters_that_are_more_than_a_sum_of_matrices_are_refused_by_name() {
    for (key, value) in [
        ("peft_type", json!("IA3")),
        ("task_type", json!("SEQ_CLS")),
        ("use_dora", json!(true)),
        ("lora_bias", json!(true)),
        ("bias", json!("all")),
        ("modules_to_save", json!(["lm_head"])),
        ("trainable_token_indices", json!([1, 2])),
        ("layer_replication", json!([[0, 2]])),
        ("init_lora_weights", json!("pissa_niter_4")),
        ("rank_pattern", json!({".*q_proj": 2})),
        ("rank_pattern", json!({"q_proj": 2, "self_attn.q_proj": 3})),
        ("rank_pattern", json!({"q_proj": 0})),
        ("alpha_pattern", json!({"q_proj": "four"})),
        ("r", json!(0)),
        ("r", json!(1u64 << 40)),
        ("lora_alpha", json!("eight")),
    ] {
        let error = Adapter::open(adapter(&json!({key: value}), &factors(), None).path()).unwrap_err();
        let text = error.to_string();
        assert!(text.contains(key) && text.contains("adapter_config.json"), "{key}: {text}");
    }
}

#[test]
fn a_rank_or_a_scale_of_its_own_is_found_by_the_end_of_a_modules_name() {
    let ranks = adapter(&json!({"r": 8, "rank_pattern": {"q_proj": 2, "k_proj": 3}}), &factors(), None);
    assert_eq!(problems(&ranks), Vec::<String>::new());
    let part_of_a_word = adapter(&json!({"r": 8, "rank_pattern": {"proj": 2}}), &factors(), None);
    assert_eq!(problems(&part_of_a_word).len(), 1);
}

#[test]
fn an_adapter_of_other_weights_is_refused_with_what_differs() {
    let own = base().fingerprint().unwrap();
    let fits = adapter(&json!({}), &factors(), Some(own.to_string()));
    base().with_adapter(Adapter::open(fits.path()).unwrap()).unwrap();
    for (mark, words) in
        [(format!("{}", own).replace("/l", "/l1"), "layers"), ("nonsense".to_owned(), "not a fingerprint")]
    {
        let directory = adapter(&json!({}), &factors(), Some(mark));
        let error = base().with_adapter(Adapter::open(directory.path()).unwrap()).unwrap_err().to_string();
        assert!(error.contains("another model") && error.contains(words), "{error}");
    }
}

#[test]
fn a_second_adapter_is_refused() {
    let directory = adapter(&json!({}), &factors(), None);
    let open = || Adapter::open(directory.path()).unwrap();
    let error = base().with_adapter(open()).unwrap().with_adapter(open()).unwrap_err();
    assert!(matches!(error, ModelError::SecondAdapter { .. }), "{error}");
}

#[test]
fn a_directory_that_is_no_adapter_says_which_file_is_missing() {
    let error = Adapter::open(&golden("llama_kvpress/llama")).unwrap_err().to_string();
    assert!(error.contains("adapter_config.json"), "{error}");
}
