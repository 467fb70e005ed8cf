//! `snapkv`: what the end of a prompt looks at.

use super::{Pooling, Reduction};

/// SnapKV's settings; see [`SnapKv::score`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SnapKv {
    /// Newest tokens, whose queries vote and which stay.
    pub window: usize,
    /// Neighbours that a score is pooled over, itself included; odd.
    pub kernel: usize,
    /// How it is pooled.
    pub pooling: Pooling,
    /// How the heads of a group vote together.
    pub reduction: Reduction,
}

impl SnapKv {
    /// Scores `[n]` from the mass `[group, n]` that the last `window` queries gave (causal, over all that they saw): its mean
    /// over those queries, over the group, pooled along the positions; the window itself is infinite.
    ///
    /// Li et al. 2024, arXiv 2404.14469, section 4, equations 4 to 7; kvpress `SnapKVPress` (mean, average), KVCache-Factory's
    /// `PyramidKVCluster` and `AdaKVCluster` (sum or mean over queries, which order alike; max pooling; any reduction). kvpress
    /// pools before it averages the group, which is the same. (group + kernel) n operations beside the mass.
    #[must_use]
    pub fn score(&self, mass: &[f32], group: usize) -> Vec<f32> {
        let mut scores = self.reduction.reduce(mass, group);
        let n = scores.len();
        scores.truncate(n.saturating_sub(self.window));
        let queries = self.window.max(1) as f32;
        scores.iter_mut().for_each(|score| *score /= queries);
        let mut scores = self.pooling.pool(&scores, self.kernel);
        scores.resize(n, f32::INFINITY);
        scores
    }
}
