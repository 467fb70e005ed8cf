//! `squeeze`: layers that change little get little.

/// Entries that each layer keeps of `base`, from the mean cosine between what enters and what leaves its attention, `[L]`: the
/// layers of the most similar of three classes keep the share `least`, the others what makes the mean share `mean`.
///
/// Wang, Gan 2024, arXiv 2404.04793, algorithm 1 and section 3.2; SqueezeAttention's `LlamaModel_squeeze`. `int` towards zero as
/// there; shares outside [0, 1], which the original lets happen, are cut off.
#[must_use]
pub fn squeeze(cosines: &[f32], mean: f64, least: f64, base: usize) -> Vec<usize> {
    let classes = least_similar_classes(cosines);
    let (layers, similar) = (cosines.len(), classes.iter().filter(|&&class| class == 2).count());
    let others = (layers as f64 * mean - similar as f64 * least) / (layers - similar) as f64;
    let share = |class: &u8| if *class == 2 { least } else { others };
    classes.iter().map(|class| (share(class).clamp(0.0, 1.0) * base as f64) as usize).collect()
}

/// The class of each number, 0 for the least, of the three that make the sum of squares within classes smallest: k-means in one
/// dimension, solved exactly (its classes are stretches of the sorted numbers), where the original starts ten times at
/// random. NaN is the least. Fewer than three numbers have a class each, from 0 on.
#[must_use]
pub fn least_similar_classes(numbers: &[f32]) -> Vec<u8> {
    let n = numbers.len();
    let mut order: Vec<usize> = (0..n).collect();
    order.sort_by(|&a, &b| super::by_worth(numbers[a], numbers[b]));
    let (mut sums, mut squares) = (vec![0.0_f64], vec![0.0_f64]);
    for &place in &order {
        // A NaN lies where its order says, and pulls no centre.
        let number = if numbers[place].is_finite() { f64::from(numbers[place]) } else { 0.0 };
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
    let mut classes = vec![0; n];
    for (rank, &place) in order.iter().enumerate() {
        classes[place] = u8::from(rank >= best.1) + u8::from(rank >= best.2);
    }
    classes
}

/// The cosine between what enters and what leaves, both `[t, c]`, averaged over the tokens; 6 t c operations.
///
/// The `cosine` that [`squeeze`] goes by: the residual stream before a layer's attention and after it was added.
#[must_use]
pub fn mean_cosine(before: &[f32], after: &[f32], hidden: usize) -> f32 {
    // torch's `cosine_similarity`.
    const LEAST: f64 = 1e-8;
    let product =
        |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(&a, &b)| f64::from(a) * f64::from(b)).sum::<f64>();
    let rows = before.chunks_exact(hidden.max(1)).zip(after.chunks_exact(hidden.max(1)));
    let lengths = |a: &[f32], b: &[f32]| product(a, a).sqrt().max(LEAST) * product(b, b).sqrt().max(LEAST);
    let sum: f64 = rows.map(|(before, after)| product(before, after) / lengths(before, after)).sum();
    (sum / (before.len() / hidden.max(1)).max(1) as f64) as f32
}
