//! `a2sf`: heavy hitters whose past fades.

use super::attention::{Rows, heads};

/// What a step's m queries give, each query weighing `factor` times its successor and the newest 1: `[n]`, summed over the
/// group. `queries` `[group, m, d]`, `keys` `[n, d]`; query i sees the first `seen(i)` entries.
///
/// Jo, Shin 2024, arXiv 2407.20485, equation 5: A_k = sum over i of factor^(k - i) P[i, :]; `A2SFPolicy`. 2 group m n d
/// operations, m at most [`a2sf_horizon`]: older queries may be left out. For one query this is its mass, and the mass of
/// attention itself will do.
#[must_use]
pub fn a2sf_mass(
    queries: &[f32],
    keys: &[f32],
    (width, group): (usize, usize),
    scale: f32,
    factor: f32,
    seen: impl Fn(usize) -> usize,
) -> Vec<f32> {
    let width = width.max(1);
    let mut sums = vec![0.0_f32; keys.len() / width];
    for queries in heads(queries, group) {
        let count = queries.len() / width;
        Rows { queries, keys, width, scale }.visit(
            &seen,
            |_, _| (),
            |row, probabilities| {
                let weight = factor.powi(i32::try_from(count - 1 - row).unwrap_or(i32::MAX));
                sums.iter_mut()
                    .zip(probabilities)
                    .for_each(|(sum, probability)| *sum += weight * probability);
            },
        );
    }
    sums
}

/// The sums of earlier steps as they weigh after `queries` more: `factor^queries` times themselves. Adding this step's
/// [`a2sf_mass`] gives the same as all queries at once.
pub fn a2sf_forget(sums: &mut [f32], factor: f32, queries: usize) {
    let weight = factor.powi(i32::try_from(queries).unwrap_or(i32::MAX));
    sums.iter_mut().for_each(|sum| *sum *= weight);
}

/// How many of the newest queries count: what older ones weigh together is below the rounding of an f32. 0.95 has 370;
/// a factor of 1 (which is H2O) forgets nothing, and all count.
#[must_use]
pub fn a2sf_horizon(factor: f32) -> usize {
    let factor = f64::from(factor.abs());
    // The tail of the geometric series, factor^m / (1 - factor), against a whole probability.
    let queries = ((1.0 - factor) * f64::from(f32::EPSILON)).ln() / factor.ln();
    if factor < 1.0 { (queries.ceil() as usize).max(1) } else { usize::MAX }
}
