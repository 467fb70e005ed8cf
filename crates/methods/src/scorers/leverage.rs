//! Leverage: how alone a key stands among the others.

use super::attention::dot;
use super::{Noise, Place};

/// Approximate leverage scores `[n]`: diag(X (X^T X + jitter)^-1 X^T) of X = (keys - their mean) sketch. `raw_keys` `[n, d]` BEFORE
/// rotation, `sketch` `[d, k]` (see [`gaussian_sketch`]). n d k + 2 n k^2 operations, n k numbers of memory.
///
/// Chari, Van Durme 2025, arXiv 2507.08143, section 3.1; kvpress `LeverageScorePress`, whose jitter of 0.01 and Cholesky
/// factorisation (in f64 here) these are. NaN where a key is not finite.
#[must_use]
pub fn leverage(raw_keys: &[f32], width: usize, sketch: &[f32]) -> Vec<f32> {
    const JITTER: f64 = 1e-2;
    let width = width.max(1);
    let (n, k) = (raw_keys.len() / width, sketch.len() / width);
    if n == 0 || k == 0 {
        return vec![0.0; n];
    }
    let mut means = vec![0.0_f64; width];
    for key in raw_keys.chunks_exact(width) {
        means.iter_mut().zip(key).for_each(|(mean, &number)| *mean += f64::from(number) / n as f64);
    }
    // Columns of the sketch as rows, so that each number of X is one product of rows.
    let columns: Vec<f32> =
        (0..k).flat_map(|column| (0..width).map(move |row| sketch[row * k + column])).collect();
    let mut sketched = Vec::with_capacity(n * k);
    for key in raw_keys.chunks_exact(width) {
        let centred: Vec<f32> =
            key.iter().zip(&means).map(|(&number, mean)| (f64::from(number) - mean) as f32).collect();
        sketched.extend(columns.chunks_exact(width).map(|column| f64::from(dot(&centred, column))));
    }
    let mut gram = vec![0.0_f64; k * k];
    for row in sketched.chunks_exact(k) {
        for (i, sums) in gram.chunks_exact_mut(k).enumerate() {
            sums[..=i].iter_mut().zip(row).for_each(|(sum, number)| *sum += row[i] * number);
        }
    }
    (0..k).for_each(|i| gram[i * k + i] += JITTER);
    factorise(&mut gram, k);
    // x^T (L L^T)^-1 x is the square of the length of L^-1 x.
    sketched
        .chunks_exact_mut(k)
        .map(|row| {
            solve(&gram, row);
            row.iter().map(|number| number * number).sum::<f64>() as f32
        })
        .collect()
}

/// The lower triangle L of a symmetric positive matrix `[k, k]` becomes that of its Cholesky factor.
fn factorise(matrix: &mut [f64], k: usize) {
    for i in 0..k {
        for j in 0..=i {
            let sum: f64 = (0..j).map(|m| matrix[i * k + m] * matrix[j * k + m]).sum();
            let rest = matrix[i * k + j] - sum;
            matrix[i * k + j] = if i == j { rest.sqrt() } else { rest / matrix[j * k + j] };
        }
    }
}

/// `row` becomes L^-1 row.
fn solve(factor: &[f64], row: &mut [f64]) {
    let k = row.len();
    for i in 0..k {
        let sum: f64 = factor[i * k..i * k + i].iter().zip(&*row).map(|(a, b)| a * b).sum();
        row[i] = (row[i] - sum) / factor[i * k + i];
    }
}

/// A sketch `[d, k]` of normal numbers with variance 1 / k for one head: a function of seed, layer and head.
#[must_use]
pub fn gaussian_sketch(seed: u64, layer: usize, head: usize, width: usize, k: usize) -> Vec<f32> {
    let (noise, spread) = (Noise { seed }, 1.0 / (k.max(1) as f32).sqrt());
    let number = |entry: usize| spread * noise.normal(Place { layer, head, query: 0, entry: entry as u32 });
    (0..width * k).map(number).collect()
}
