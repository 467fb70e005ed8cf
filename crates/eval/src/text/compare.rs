//! Rows of pruned logits beside the dense ones.

use dropcap_kernels::{RowLoss, Team, cross_entropy};

use crate::EvalError;
use crate::record::Window;

/// Logits that are looked at side by side.
const LANES: usize = 16;

/// The dense rows that pruned ones are compared with, and room to do it: `[rows, v]` twice, whatever the text.
pub(super) struct Comparison<'a> {
    team: &'a Team,
    vocabulary: usize,
    dense: Vec<f32>,
    /// The likeliest token of each dense row.
    top: Vec<usize>,
    /// The loss is computed in place.
    work: Vec<f32>,
    losses: Vec<RowLoss>,
}

impl<'a> Comparison<'a> {
    pub(super) fn new(team: &'a Team, vocabulary: usize) -> Self {
        let (dense, top, work, losses) = Default::default();
        Self { team, vocabulary, dense, top, work, losses }
    }

    /// Takes rows of the dense run, for the next calls of [`Comparison::pruned`] too.
    pub(super) fn dense(
        &mut self,
        logits: &[f32],
        targets: &[u32],
        into: &mut Window,
    ) -> Result<(), EvalError> {
        self.dense.clear();
        self.dense.extend_from_slice(logits);
        self.top = logits.chunks_exact(self.vocabulary).map(likeliest).collect();
        self.lose(logits, targets, false)?;
        into.nats.extend(self.losses.iter().map(|loss| loss.cross_entropy));
        into.same_top += targets.len();
        Ok(())
    }

    /// The same rows of a pruned run.
    pub(super) fn pruned(
        &mut self,
        logits: &[f32],
        targets: &[u32],
        into: &mut Window,
    ) -> Result<(), EvalError> {
        let rows = logits.chunks_exact(self.vocabulary);
        into.same_top += rows.zip(&self.top).filter(|(row, top)| likeliest(row) == **top).count();
        self.lose(logits, targets, true)?;
        into.nats.extend(self.losses.iter().map(|loss| loss.cross_entropy));
        into.divergence.extend(self.losses.iter().map(|loss| loss.divergence));
        Ok(())
    }

    /// The project's one cross-entropy, which training uses too.
    fn lose(&mut self, logits: &[f32], targets: &[u32], compared: bool) -> Result<(), EvalError> {
        self.work.clear();
        self.work.extend_from_slice(logits);
        self.losses.clear();
        self.losses.resize(targets.len(), RowLoss::default());
        let teacher = compared.then_some(&self.dense[..]);
        let (work, losses) = (&mut self.work, &mut self.losses);
        Ok(cross_entropy(self.team, work, self.vocabulary, targets, teacher, 0.0, 1.0, losses)?)
    }
}

/// The largest of a row; the first of equals.
fn likeliest(row: &[f32]) -> usize {
    // Lane by lane, which compilers turn into vectors: one comparison after the other is slower than the model.
    let mut most = [f32::NEG_INFINITY; LANES];
    let (whole, rest) = row.as_chunks::<LANES>();
    for chunk in whole.iter().map(<[f32; LANES]>::as_slice).chain(std::iter::once(rest)) {
        for (most, &logit) in most.iter_mut().zip(chunk) {
            *most = if logit > *most { logit } else { *most };
        }
    }
    let most = most.into_iter().fold(f32::NEG_INFINITY, f32::max);
    row.iter().position(|&logit| logit == most).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const V: usize = 37;
    /// Sums of f32 exponentials against f64.
    const TOLERANCE: f64 = 2e-5;

    fn softmax(row: &[f32]) -> Vec<f64> {
        let sum: f64 = row.iter().map(|&x| f64::from(x).exp()).sum();
        row.iter().map(|&x| f64::from(x).exp() / sum).collect()
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(32))]
        #[test]
        fn surprise_and_divergence_are_those_of_the_definition(
            dense in prop::collection::vec(-8.0_f32..8.0, 2 * V), pruned in prop::collection::vec(-8.0_f32..8.0, 2 * V),
            targets in prop::collection::vec(0..V as u32, 2),
        ) {
            let team = Team::new(1).unwrap();
            let mut comparison = Comparison::new(&team, V);
            let (mut first, mut second) = (Window::default(), Window::default());
            comparison.dense(&dense, &targets, &mut first).unwrap();
            comparison.pruned(&pruned, &targets, &mut second).unwrap();
            for row in 0..2 {
                let (p, q) = (softmax(&dense[row * V..][..V]), softmax(&pruned[row * V..][..V]));
                let target = targets[row] as usize;
                let kl: f64 = p.iter().zip(&q).map(|(p, q)| p * (p / q).ln()).sum();
                prop_assert!((f64::from(first.nats[row]) + p[target].ln()).abs() < TOLERANCE);
                prop_assert!((f64::from(second.nats[row]) + q[target].ln()).abs() < TOLERANCE);
                prop_assert!((f64::from(second.divergence[row]) - kl).abs() < TOLERANCE);
            }
        }
    }

    #[test]
    fn the_likeliest_token_is_the_first_of_the_largest() {
        for length in [1, 5, 16, 50] {
            for at in 0..length {
                let mut row: Vec<f32> = (0..length).map(|i| -((i * 7 % 5) as f32)).collect();
                (row[at], row[length - 1]) = (3.0, 3.0);
                assert_eq!(likeliest(&row), at);
            }
        }
    }

    #[test]
    fn equal_rows_diverge_by_nothing_at_all() {
        let team = Team::new(2).unwrap();
        let logits: Vec<f32> = (0..3 * V).map(|i| (i as f32 * 0.37).sin() * 9.0).collect();
        let (mut comparison, mut window) = (Comparison::new(&team, V), Window::default());
        comparison.dense(&logits, &[1, 2, 3], &mut Window::default()).unwrap();
        comparison.pruned(&logits, &[1, 2, 3], &mut window).unwrap();
        assert_eq!((window.divergence, window.same_top), (vec![0.0; 3], 3));
    }
}
