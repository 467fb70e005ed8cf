//! `squeeze`: layers that change little get little.

use std::cmp::Ordering;

/// Entries that each layer keeps when `mean` are kept on average, from the mean cosine between what enters and what leaves its
/// attention, `[L]`: the layers of the most similar of three classes keep `least` times the mean, the others what makes the
/// mean right.
///
/// Wang, Gan 2024, arXiv 2404.04793, algorithm 1 and section 3.2; SqueezeAttention's `LlamaModel_squeeze`. Rounded towards
/// zero as there; less than nothing, which the original lets happen where `least` is above 1, is nothing.
#[must_use]
pub fn squeeze(cosines: &[f64], mean: f64, least: f64) -> Vec<usize> {
    // A share of a length means the decimal number as it was written.
    const WRITTEN: f64 = 1.0 + 4.0 * f64::EPSILON;
    let classes = least_similar_classes(cosines);
    let (layers, similar) = (cosines.len(), classes.iter().filter(|&&class| class == 2).count());
    let others = (layers as f64 - similar as f64 * least) / (layers - similar) as f64;
    let share = |class: &u8| if *class == 2 { least } else { others };
    classes.iter().map(|class| (share(class).max(0.0) * mean * WRITTEN) as usize).collect()
}

/// The class of each number, 0 for the least, of the three that make the sum of squares within classes smallest: k-means in one
/// dimension, solved exactly (its classes are stretches of the sorted numbers), where the original starts ten times at
/// random. NaN is the least. Of fewer than three numbers none is of the third class, nor where all are the same.
#[must_use]
pub fn least_similar_classes(numbers: &[f64]) -> Vec<u8> {
    let n = numbers.len();
    let by_worth = |a: f64, b: f64| a.partial_cmp(&b).unwrap_or_else(|| b.is_nan().cmp(&a.is_nan()));
    let mut order: Vec<usize> = (0..n).collect();
    order.sort_by(|&a, &b| by_worth(numbers[a], numbers[b]));
    let mut classes = vec![0; n];
    let same = |a: usize, b: usize| by_worth(numbers[a], numbers[b]) == Ordering::Equal;
    if n < 3 || same(order[0], order[n - 1]) {
        return classes;
    }
    let (mut sums, mut squares) = (vec![0.0_f64], vec![0.0_f64]);
    for &place in &order {
        // A NaN lies where its order says, and pulls no centre.
        let number = if numbers[place].is_finite() { numbers[place] } else { 0.0 };
        sums.push(sums[sums.len() - 1] + number);
        squares.push(squares[squares.len() - 1] + number * number);
    }
    let spread = |from: usize, to: usize| {
        let sum = sums[to] - sums[from];
        squares[to] - squares[from] - sum * sum / (to - from) as f64
    };
    let mut best = (f64::INFINITY, 1, 2);
    for first in 1..n {
        for second in first + 1..n {
            let within = spread(0, first) + spread(first, second) + spread(second, n);
            if within < best.0 {
                best = (within, first, second);
            }
        }
    }
    for (rank, &place) in order.iter().enumerate() {
        classes[place] = u8::from(rank >= best.1) + u8::from(rank >= best.2);
    }
    classes
}
