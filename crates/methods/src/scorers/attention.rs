//! Softmax rows over the entries of one head, for scorers that weigh or disturb them.

/// The product of two rows, in 16 sums, so that the compiler may use vectors.
pub(super) fn dot(a: &[f32], b: &[f32]) -> f32 {
    const LANES: usize = 16;
    let mut sums = [0.0_f32; LANES];
    let (a, b) = (a.chunks_exact(LANES), b.chunks_exact(LANES));
    let rest: f32 = a.remainder().iter().zip(b.remainder()).map(|(a, b)| a * b).sum();
    for (a, b) in a.zip(b) {
        for lane in 0..LANES {
            sums[lane] += a[lane] * b[lane];
        }
    }
    sums.iter().sum::<f32>() + rest
}

/// The length of a row.
pub(super) fn norm(row: &[f32]) -> f32 {
    dot(row, row).sqrt()
}

/// Logits become probabilities. What has no finite largest logit becomes NaN, as everywhere.
pub(super) fn softmax(logits: &mut [f32]) {
    let largest = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    logits.iter_mut().for_each(|logit| *logit = (*logit - largest).exp());
    let sum: f32 = logits.iter().sum();
    logits.iter_mut().for_each(|probability| *probability /= sum);
}

/// One head's rows of attention.
pub(super) struct Rows<'a> {
    /// `[rows, d]`.
    pub queries: &'a [f32],
    /// `[n, d]`.
    pub keys: &'a [f32],
    /// Head width d.
    pub width: usize,
    /// What logits are multiplied by.
    pub scale: f32,
}

impl Rows<'_> {
    /// Gives `take` the probabilities of every row over all entries, after `tilt` had its logits.
    pub fn visit(&self, tilt: impl Fn(usize, &mut [f32]), mut take: impl FnMut(&[f32])) {
        let width = self.width.max(1);
        let mut probabilities = Vec::new();
        for (row, query) in self.queries.chunks_exact(width).enumerate() {
            probabilities.clear();
            probabilities.extend(self.keys.chunks_exact(width).map(|key| self.scale * dot(query, key)));
            tilt(row, &mut probabilities);
            softmax(&mut probabilities);
            take(&probabilities);
        }
    }
}

/// The queries of each head of a group: `[group, w, d]` in parts of `[w, d]`.
pub(super) fn heads(queries: &[f32], group: usize) -> impl Iterator<Item = &[f32]> {
    queries.chunks_exact((queries.len() / group.max(1)).max(1)).take(group)
}
