//! Rows of pruned logits beside the dense ones.

use dropcap_kernels::{Judged, Team, row_losses};

use crate::EvalError;
use crate::record::Window;

/// What judges rows of a text under several methods, `[rows, v]` at a time.
pub(super) struct Comparison<'a> {
    team: &'a Team,
    vocabulary: usize,
    /// What the dense run made of the rows.
    dense: Vec<Judged>,
    pruned: Vec<Judged>,
}

impl<'a> Comparison<'a> {
    pub(super) fn new(team: &'a Team, vocabulary: usize) -> Self {
        Self { team, vocabulary, dense: Vec::new(), pruned: Vec::new() }
    }

    /// Takes rows of the dense run; the next calls of [`Comparison::pruned`] are about the same.
    pub(super) fn dense(
        &mut self,
        logits: &[f32],
        targets: &[u32],
        into: &mut Window,
    ) -> Result<(), EvalError> {
        judge(self.team, logits, self.vocabulary, targets, None, &mut self.dense)?;
        into.nats.extend(self.dense.iter().map(|row| row.loss.cross_entropy));
        into.same_top += targets.len();
        Ok(())
    }

    /// The same rows of a pruned run, beside the logits of the dense one.
    pub(super) fn pruned(
        &mut self,
        logits: &[f32],
        dense: &[f32],
        targets: &[u32],
        into: &mut Window,
    ) -> Result<(), EvalError> {
        judge(self.team, logits, self.vocabulary, targets, Some(dense), &mut self.pruned)?;
        into.nats.extend(self.pruned.iter().map(|row| row.loss.cross_entropy));
        into.divergence.extend(self.pruned.iter().map(|row| row.loss.divergence));
        let rows = self.pruned.iter().zip(&self.dense);
        into.same_top += rows.filter(|(pruned, dense)| pruned.likeliest == dense.likeliest).count();
        Ok(())
    }
}

/// The project's one cross-entropy, which training uses too.
fn judge(
    team: &Team,
    logits: &[f32],
    vocabulary: usize,
    targets: &[u32],
    teacher: Option<&[f32]>,
    judged: &mut Vec<Judged>,
) -> Result<(), EvalError> {
    judged.clear();
    judged.resize(targets.len(), Judged::default());
    Ok(row_losses(team, logits, vocabulary, targets, teacher, judged)?)
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
            comparison.pruned(&pruned, &dense, &targets, &mut second).unwrap();
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
    fn equal_rows_diverge_by_nothing_at_all() {
        let team = Team::new(2).unwrap();
        let logits: Vec<f32> = (0..3 * V).map(|i| (i as f32 * 0.37).sin() * 9.0).collect();
        let (mut comparison, mut window) = (Comparison::new(&team, V), Window::default());
        comparison.dense(&logits, &[1, 2, 3], &mut Window::default()).unwrap();
        comparison.pruned(&logits, &logits, &[1, 2, 3], &mut window).unwrap();
        assert_eq!((window.divergence, window.same_top), (vec![0.0; 3], 3));
    }
}
