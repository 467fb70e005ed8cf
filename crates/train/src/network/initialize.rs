//! Weights for a model that starts from nothing.

use dropcap_model::{DecoderConfig, NormPlan, WeightPlan};
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use rand_distr::{Distribution, Normal};

use super::parameters::Layout;
use crate::TrainError;

/// Standard deviation of a fresh matrix (Radford et al. 2019, GPT-2).
const DEVIATION: f32 = 0.02;

/// Fresh weights: norms 1, biases 0, matrices normal with deviation 0.02; those that write into the residual stream
/// are smaller by the root of their number, 2 a layer, so that its variance does not grow with depth (GPT-2).
///
/// The same seed gives the same weights. Gates stay zero.
///
/// # Errors
/// None for a plan of the layout.
pub fn initialize(
    config: &DecoderConfig,
    plan: &WeightPlan,
    layout: &Layout,
    seed: u64,
) -> Result<Vec<f32>, TrainError> {
    let mut values = vec![0.0; layout.len()];
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    let mut fill = |name: &str, deviation: f32| -> Result<(), TrainError> {
        let normal = Normal::new(0.0, deviation)
            .map_err(|error| TrainError::Internal { what: format!("initialising {name}: {error}") })?;
        values[layout.range(name)?].fill_with(|| normal.sample(&mut random));
        Ok(())
    };
    let residual = DEVIATION / (2.0 * config.layers as f32).sqrt();
    let tables = [Some(&plan.embedding), plan.positions.as_ref(), plan.head.as_ref()];
    for part in tables.into_iter().flatten().flat_map(|matrix| &matrix.parts) {
        fill(&part.tensor, DEVIATION)?;
    }
    for layer in &plan.layers {
        let matrices = [
            (&layer.qkv, DEVIATION),
            (&layer.output, residual),
            (&layer.up, DEVIATION),
            (&layer.down, residual),
        ];
        for (matrix, deviation) in matrices {
            for part in &matrix.parts {
                fill(&part.tensor, deviation)?;
            }
        }
    }
    let mut norm = |norm: &NormPlan| -> Result<(), TrainError> {
        values[layout.range(&norm.weight.tensor)?].fill(1.0);
        Ok(())
    };
    for layer in &plan.layers {
        norm(&layer.attention_norm)?;
        norm(&layer.mlp_norm)?;
    }
    norm(&plan.final_norm)?;
    for head in plan.layers.iter().flat_map(|layer| layer.query_norm.iter().chain(&layer.key_norm)) {
        values[layout.range(&head.tensor)?].fill(1.0);
    }
    Ok(values)
}
