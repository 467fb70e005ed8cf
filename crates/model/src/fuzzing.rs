//! Bodies of the fuzz targets: each takes any bytes and must not panic.

use std::path::Path;

use crate::adapter::AdapterConfig;
use crate::decoder_config::{DecoderConfig, Position};
use crate::generation_config::GenerationConfig;
use crate::rope_config::RopeConfig;
use crate::tokenizer::Tokenizer;
use crate::weight_plan::WeightPlan;

/// Takes bytes as a `config.json`.
///
/// Panics if a config is believed whose dimensions do not fit each other or whose frequencies are not positive
/// numbers.
pub fn config(bytes: &[u8]) {
    let Ok(config) = DecoderConfig::parse(Path::new("config.json"), bytes) else { return };
    assert_eq!(config.heads % config.kv_heads, 0);
    assert_eq!(config.sliding_window.len(), config.layers);
    assert!(config.norm.epsilon > 0.0 && config.norm.epsilon.is_finite());
    assert!(config.attention_scale(config.layers - 1).is_finite());
    if let Position::Rope(rope) = config.position {
        check_frequencies(&rope, config.head_dim);
    }
    let plan = WeightPlan::of(&config, &|_| false);
    for tensor in plan.tensors() {
        assert!(tensor.shape.iter().try_fold(1usize, |product, &dim| product.checked_mul(dim)).is_some());
    }
}

/// Takes bytes as a `generation_config.json` beside a model of 50 tokens.
///
/// Panics if a token is named that the model does not have.
pub fn generation_config(bytes: &[u8]) {
    const CONFIG: &[u8] =
        br#"{"model_type": "gpt2", "n_layer": 1, "n_head": 1, "n_embd": 2, "n_positions": 8,
        "vocab_size": 50, "bos_token_id": 3, "eos_token_id": 4}"#;
    let Ok(config) = DecoderConfig::parse(Path::new("config.json"), CONFIG) else { return };
    if let Ok(found) = GenerationConfig::parse(Path::new("generation_config.json"), bytes, &config) {
        let ids = found.eos_token_ids.iter().chain(&found.bos_token_id);
        ids.for_each(|&id| assert!((id as usize) < config.vocabulary));
    }
}

/// Takes bytes as an `adapter_config.json`.
///
/// Panics if factors are believed to have no width, or a scale that is no number.
pub fn adapter_config(bytes: &[u8]) {
    if let Ok(config) = AdapterConfig::parse(Path::new("adapter_config.json"), bytes) {
        for module in ["", "q_proj", "model.layers.0.self_attn.q_proj"] {
            assert!(config.rank(module) > 0);
            assert!(!config.scale(module).is_nan());
        }
    }
}

/// Takes bytes as a `tokenizer.json`, and tokenizes a few texts with what it makes.
///
/// Panics if a text of a user becomes a control token, or tokens that no vocabulary of the stated size has.
pub fn tokenizer(bytes: &[u8]) {
    const TEXTS: [&str; 4] = ["", "ab  a <s>zz\n", "\u{1}\u{2581}\u{e9}\u{1f600}\u{301}", "<|endoftext|>"];
    let Ok(tokenizer) = Tokenizer::parse(Path::new("tokenizer.json"), bytes) else { return };
    for text in TEXTS {
        let prompt = tokenizer.encode_prompt(text).unwrap_or_default();
        let user = tokenizer.encode(text).unwrap_or_default();
        for ids in [prompt, user] {
            let _ = tokenizer.decode(&ids);
            let largest = ids.into_iter().max().unwrap_or(0);
            if tokenizer.check_vocabulary(tokenizer.vocabulary_size()).is_ok() {
                let known = tokenizer.check_ids(&[largest], tokenizer.vocabulary_size()).is_ok();
                assert!(known || tokenizer.vocabulary_size() == 0, "{largest}");
            }
        }
    }
}

fn check_frequencies(rope: &RopeConfig, head_dim: usize) {
    let (frequencies, scaling) = rope.frequencies(head_dim);
    assert_eq!(frequencies.len(), head_dim / 2);
    assert!(scaling.is_finite());
    assert!(frequencies.iter().all(|frequency| frequency.is_finite()), "{rope:?} {frequencies:?}");
}
