//! Bodies of the fuzz targets: each takes any bytes and must not panic.

use std::path::Path;

use crate::decoder_config::{DecoderConfig, Position};
use crate::generation_config::GenerationConfig;
use crate::rope_config::RopeConfig;
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
    let _ = GenerationConfig::parse(Path::new("generation_config.json"), bytes, &config);
}

fn check_frequencies(rope: &RopeConfig, head_dim: usize) {
    let (frequencies, scaling) = rope.frequencies(head_dim);
    assert_eq!(frequencies.len(), head_dim / 2);
    assert!(scaling.is_finite());
    assert!(frequencies.iter().all(|frequency| frequency.is_finite()), "{rope:?} {frequencies:?}");
}
