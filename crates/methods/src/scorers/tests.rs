//! Scorers against other people's numbers (`tests/golden`), and what every one of them promises.

mod heads;
pub(crate) mod kvpress;
mod promises;
mod step_by_step;

/// Of the largest score of a row: what the READMEs of the golden folders call honest for f32.
const TOLERANCE: f32 = 1e-5;

/// `[group, n]`, in f64: probabilities of queries `[group, w, d]`, summed over the queries; query i sees `seen(i)` entries.
pub(crate) fn mass(
    queries: &[f32],
    keys: &[f32],
    width: usize,
    group: usize,
    seen: impl Fn(usize) -> usize,
) -> Vec<f32> {
    let (n, rows) = (keys.len() / width, queries.len() / width / group);
    let scale = 1.0 / (width as f64).sqrt();
    let mut sums = vec![0.0_f64; group * n];
    for (row, query) in queries.chunks_exact(width).enumerate() {
        let seen = seen(row % rows).min(n);
        let product =
            |key: &[f32]| query.iter().zip(key).map(|(&q, &k)| f64::from(q) * f64::from(k)).sum::<f64>();
        let logits: Vec<f64> =
            keys.chunks_exact(width).take(seen).map(|key| (scale * product(key)).exp()).collect();
        let total: f64 = logits.iter().sum();
        let sums = &mut sums[row / rows * n..];
        sums.iter_mut().zip(&logits).for_each(|(sum, logit)| *sum += logit / total);
    }
    sums.into_iter().map(|sum| sum as f32).collect()
}

/// Rows `rows` of each head of `[heads, n, d]`.
fn rows(numbers: &[f32], heads: usize, width: usize, rows: std::ops::Range<usize>) -> Vec<f32> {
    let head = numbers.len() / heads;
    // Of no entries there are no rows.
    numbers
        .chunks_exact(head.max(1))
        .flat_map(|head| head[rows.start * width..rows.end * width].to_vec())
        .collect()
}

/// Rows of one head at these places.
fn gathered(numbers: &[f32], width: usize, places: &[usize]) -> Vec<f32> {
    places.iter().flat_map(|&place| numbers[place * width..(place + 1) * width].to_vec()).collect()
}
