//! `keyformer`: heavy hitters under noise.

use super::Reduction;
use super::attention::{Rows, heads};

/// Adds softmax((logits + noise) / temperature), summed over a step's queries `[group, w, d]` and averaged over the group, to
/// `sums` `[n]`; query i sees the first `seen(i)` entries. 2 group w n d operations and as much noise as there are logits.
///
/// Adnan et al. 2024, arXiv 2403.09054, equations 7 to 10 and algorithm 1; `GPTJAttention._attn`. `noise(head, query, entry)` is
/// standard Gumbel, drawn anew for every logit ([`super::Noise::gumbel`]); attention itself has none.
///
/// The original keeps what it drops and hides it behind a mask that it never lifts, so nothing of that is lost by dropping.
/// Its mask also hides the entry that has just left the recent window before it can be chosen, so that after the prompt
/// nothing new becomes a key token: a slip of one column, which ours does not have.
pub fn keyformer_accumulate(
    sums: &mut [f32],
    queries: &[f32],
    keys: &[f32],
    (width, group): (usize, usize),
    (scale, temperature): (f32, f32),
    seen: impl Fn(usize) -> usize,
    noise: impl Fn(usize, usize, usize) -> f32,
) {
    let n = sums.len();
    let mut masses = vec![0.0_f32; n * group];
    for (head, (queries, mass)) in heads(queries, group).zip(masses.chunks_exact_mut(n.max(1))).enumerate() {
        let tilt = |row: usize, logits: &mut [f32]| {
            let disturbed =
                |(entry, logit): (usize, &mut f32)| *logit = (*logit + noise(head, row, entry)) / temperature;
            logits.iter_mut().enumerate().for_each(disturbed);
        };
        Rows { queries, keys, width, scale }.visit(&seen, tilt, |_, probabilities| {
            mass.iter_mut().zip(probabilities).for_each(|(sum, probability)| *sum += probability);
        });
    }
    let mean = Reduction::Mean.reduce(&masses, group);
    sums.iter_mut().zip(mean).for_each(|(sum, probability)| *sum += probability);
}

/// The temperature of generated token `step` (the prompt is step 0): `initial + step * delta`, as equation 10's even rise.
#[must_use]
pub fn keyformer_temperature(initial: f32, delta: f32, step: u32) -> f32 {
    initial + step as f32 * delta
}
