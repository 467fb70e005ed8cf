//! `keyformer`: heavy hitters under noise.

use super::Reduction;
use super::attention::{Rows, heads};

/// Adds softmax((logits + noise) / temperature), summed over a step's queries `[group, w, d]` and averaged over the group, to
/// `sums` `[n]`; query i sees the entries that `sees(i, entry)` says. 2 group w n d operations and as much noise as there are
/// logits.
///
/// Adnan et al. 2024, arXiv 2403.09054, equations 7 to 10 and algorithm 1; `GPTJAttention._attn`. `noise(head, query, entry)` is
/// standard Gumbel, drawn anew for every logit ([`super::Noise::gumbel`]); attention itself has none.
pub fn keyformer_accumulate(
    sums: &mut [f32],
    queries: &[f32],
    keys: &[f32],
    (width, group): (usize, usize),
    (scale, temperature): (f32, f32),
    sees: impl Fn(usize, usize) -> bool,
    noise: impl Fn(usize, usize, usize) -> f32,
) {
    let n = sums.len();
    let mut masses = vec![0.0_f32; n * group];
    for (head, (queries, mass)) in heads(queries, group).zip(masses.chunks_exact_mut(n.max(1))).enumerate() {
        let tilt = |row: usize, logits: &mut [f32]| {
            for (entry, logit) in logits.iter_mut().enumerate() {
                let disturbed = |logit: f32| (logit + noise(head, row, entry)) / temperature;
                *logit = if sees(row, entry) { disturbed(*logit) } else { f32::NEG_INFINITY };
            }
        };
        Rows { queries, keys, width, scale }.visit(tilt, |probabilities| {
            mass.iter_mut().zip(probabilities).for_each(|(sum, probability)| *sum += probability);
        });
    }
    let mean = Reduction::Mean.reduce(&masses, group);
    sums.iter_mut().zip(mean).for_each(|(sum, probability)| *sum += probability);
}
