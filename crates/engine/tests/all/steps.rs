//! What a step of the decoder refuses, which numbers it never passes on, and what it tells policies of deaths below.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::support::{Model, golden};
use dropcap_cache::KvCache;
use dropcap_engine::{EngineError, Text, evaluate, evaluate_rows};
use dropcap_kernels::{DType, KvFormat, Team};
use dropcap_model::{Checkpoint, Decoder, Logits, ModelError, Scratch, Segment};
use dropcap_policy::{EvictionPolicy, KeepAll, LaneEditor, Observation, PolicyError, Rule, Stage};
use safetensors::SafeTensors;
use safetensors::tensor::TensorView;

/// Keys, values and queries of the first layer; the values are its last third of columns.
const FIRST_QKV: &str = "transformer.h.0.attn.c_attn.weight";

/// A golden GPT-2 in which some elements of its tensors are other numbers.
fn with_weights(changes: &[(&str, usize, f32)]) -> tempfile::TempDir {
    let copy = tempfile::tempdir().unwrap();
    std::fs::copy(golden("gpt2_dcp/config.json"), copy.path().join("config.json")).unwrap();
    let bytes = std::fs::read(golden("gpt2_dcp/model.safetensors")).unwrap();
    let stored = SafeTensors::deserialize(&bytes).unwrap();
    let mut tensors: BTreeMap<String, (Vec<usize>, Vec<u8>)> = stored
        .iter()
        .map(|(name, view)| (name.to_owned(), (view.shape().to_vec(), view.data().to_vec())))
        .collect();
    for &(tensor, element, number) in changes {
        let data = &mut tensors.get_mut(tensor).unwrap().1;
        data[4 * element..][..4].copy_from_slice(&number.to_le_bytes());
    }
    let views = tensors.iter().map(|(name, (shape, data))| {
        (name, TensorView::new(safetensors::Dtype::F32, shape.clone(), data).unwrap())
    });
    safetensors::serialize_to_file(views, None, &copy.path().join("model.safetensors")).unwrap();
    copy
}

fn load(tensor: &str, element: usize, number: f32, dtype: DType) -> Result<Decoder, ModelError> {
    load_with(&[(tensor, element, number)], dtype)
}

fn load_with(changes: &[(&str, usize, f32)], dtype: DType) -> Result<Decoder, ModelError> {
    let copy = with_weights(changes);
    Decoder::load(&Team::new(2).unwrap(), &Checkpoint::open(copy.path()).unwrap(), dtype)
}

fn evaluated(decoder: &Decoder, kv_dtype: impl Into<KvFormat>) -> Result<Vec<f32>, EngineError> {
    let pool = decoder.page_pool(&KeepAll, kv_dtype, None).unwrap();
    let ids: Vec<u32> = (1..40).collect();
    Ok(evaluate(decoder, &Team::new(2).unwrap(), &KeepAll, &pool, &ids, 7)?.logits)
}

#[test]
fn an_empty_step_is_refused() {
    let model = Model::open("gpt2_dcp");
    let (mut scratch, mut logits) = (Scratch::default(), vec![1.0]);
    let mut step = |segments: &mut [Segment<'_>]| {
        let mut died = |_, _, _, _| {};
        model.decoder.forward(&model.team, &KeepAll, segments, &mut scratch, &mut died, &mut logits)
    };
    assert!(matches!(step(&mut []), Err(ModelError::EmptyInput)));
    let pool = model.decoder.page_pool(&KeepAll, DType::F32, None).unwrap();
    let mut cache = KvCache::new(&pool, 3, 1);
    let (stage, logits) = (Stage::PromptEnd, Logits::All);
    let segment = Segment { cache: &mut cache, ids: &[], stage, budget: None, logits };
    assert!(matches!(step(&mut [segment]), Err(ModelError::EmptyInput)));
}

#[test]
fn rows_that_a_step_did_not_have_are_refused() {
    let model = Model::open("gpt2_dcp");
    let (mut scratch, mut logits) = (Scratch::default(), Vec::new());
    assert!(model.decoder.project(&model.team, &mut scratch, 0..1, &mut logits).is_err());
    assert!(model.decoder.project(&model.team, &mut scratch, 3..3, &mut logits).is_ok());
    assert!(logits.is_empty());
}

#[test]
fn rows_handed_on_in_slices_are_those_of_the_whole() {
    let model = Model::open("gpt2_dcp");
    // More rows than a slice holds.
    let ids: Vec<u32> = (0..97).collect();
    let whole = model.evaluate(&KeepAll, &ids, 97);
    let pool = model.decoder.page_pool(&KeepAll, DType::F32, None).unwrap();
    let text = Text { ids: &ids, prompt: 97, chunk: 97 };
    let (mut rows, mut most) = (Vec::new(), 0);
    let mut take = |some: &[f32]| {
        most = most.max(some.len() / 97);
        rows.extend_from_slice(some);
        Ok(())
    };
    let found = evaluate_rows(&model.decoder, &model.team, &KeepAll, &pool, text, &mut take).unwrap();
    assert!(rows == whole.logits && most < 97);
    assert!(found.logits.is_empty() && found.expires_at == whole.expires_at);

    let mut full = |_: &[f32]| Err(std::io::Error::other("the disk is full"));
    let refused = evaluate_rows(&model.decoder, &model.team, &KeepAll, &pool, text, &mut full);
    assert!(refused.unwrap_err().to_string().contains("the disk is full"));
}

#[test]
fn a_weight_beyond_its_format_is_named_with_its_value() {
    let embedding = "transformer.wte.weight";
    for (tensor, number, dtype) in [
        (FIRST_QKV, 1e6, DType::F16),
        (FIRST_QKV, -1e6, DType::F16),
        (embedding, 65520.0, DType::F16),
        (embedding, f32::MAX, DType::Bf16),
    ] {
        let error = load(tensor, 51, number, dtype).unwrap_err();
        assert!(matches!(error, ModelError::WeightRange { element: 51, .. }), "{error}");
        let (message, wanted) = (error.to_string(), [tensor, &number.to_string(), dtype.name(), "f32"]);
        assert!(wanted.iter().all(|word| message.contains(word)), "{message}");
        assert!(load(tensor, 51, number, DType::F32).is_ok());
    }
    assert!(load(embedding, 51, 65504.0, DType::F16).is_ok());
    // Norms and biases stay in f32 on the processor.
    assert!(load("transformer.h.1.ln_1.weight", 3, 1e6, DType::F16).is_ok());
    assert!(load("transformer.h.1.attn.c_attn.bias", 3, 1e6, DType::F16).is_ok());
}

#[test]
fn weights_that_are_not_finite_are_refused_when_they_are_read() {
    let tensors =
        [FIRST_QKV, "transformer.wpe.weight", "transformer.ln_f.bias", "transformer.h.2.mlp.c_fc.bias"];
    for tensor in tensors {
        for number in [f32::NAN, f32::NEG_INFINITY] {
            for dtype in DType::ALL {
                let error = load(tensor, 40, number, dtype).unwrap_err();
                assert!(matches!(error, ModelError::NonFinite { .. }), "{error}");
                let message = error.to_string();
                assert!(message.contains(tensor) && message.contains("40"), "{message}");
            }
        }
    }
}

#[test]
fn keys_and_values_beyond_the_format_of_the_cache_are_named() {
    // Columns of the first layer's fused projection: 0..48 queries, 48..96 keys, 96..144 values.
    for (what, column) in [("key", 50), ("value", 100)] {
        let decoder = load(FIRST_QKV, 144 * 5 + column, 3e7, DType::F32).unwrap();
        let error = evaluated(&decoder, DType::F16).unwrap_err().to_string();
        assert!([what, "layer 0", "f16", "bf16 or f32"].iter().all(|word| error.contains(word)), "{error}");
        for format in [KvFormat::Q8, KvFormat::Q4] {
            let error = evaluated(&decoder, format).unwrap_err().to_string();
            let words = [what, "layer 0", format.name(), "bf16 or f32"];
            assert!(words.iter().all(|word| error.contains(word)), "{error}");
        }
        for kv_dtype in [DType::F32, DType::Bf16] {
            let logits = evaluated(&decoder, kv_dtype).unwrap();
            assert!(logits.iter().all(|logit| logit.is_finite()));
        }
    }
}

#[test]
fn logits_that_are_not_finite_are_an_error_of_the_evaluation() {
    // Too large for f32 itself in the head: that of token 90, which the text does not have.
    let changes = [("transformer.ln_f.weight", 7, 1e38), ("transformer.wte.weight", 90 * 48 + 7, 1e20)];
    let decoder = load_with(&changes, DType::F32).unwrap();
    let error = evaluated(&decoder, DType::F32).unwrap_err();
    assert!(matches!(error, EngineError::NonFiniteLogits { .. }), "{error}");
}

/// Ends each new entry at the next query, and counts what it hears of the layer below; says as data that it reads none
/// of it, or says nothing.
#[derive(Debug, Default)]
struct Forgetful {
    listens: bool,
    heard: AtomicUsize,
}

impl EvictionPolicy for Forgetful {
    fn per_head(&self) -> bool {
        true
    }

    fn rules(&self) -> Option<&[Rule]> {
        if self.listens { None } else { Some(&[]) }
    }

    fn decide(&self, seen: &Observation<'_>, lanes: &mut [LaneEditor<'_>]) -> Result<(), PolicyError> {
        self.heard.fetch_add(seen.died_below.iter().map(Vec::len).sum(), Ordering::Relaxed);
        for lanes in lanes {
            for group in 0..lanes.groups() {
                for entry in lanes.new_entries(group) {
                    let position = lanes.lane(group).positions()[entry];
                    lanes.lower(group, entry, position + 1, position);
                }
            }
        }
        Ok(())
    }
}

#[test]
fn deaths_below_are_told_only_to_policies_that_read_them() {
    let model = Model::open("gpt2_dcp");
    let ids: Vec<u32> = (0..20).collect();
    for (listens, heard) in [(true, 2 * 20), (false, 0)] {
        let policy = Forgetful { listens, ..Forgetful::default() };
        model.evaluate(&policy, &ids, 5);
        // Two of the three layers have one below, and every token is gone there from all heads when its step ends.
        assert_eq!(policy.heard.into_inner(), heard);
    }
}
