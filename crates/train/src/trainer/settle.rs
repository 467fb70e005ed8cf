//! The last touch on hard gates: biases at which the finished model keeps what was asked for.
//!
//! The controller steers by one batch at a time. Where many scores of a layer are nearly equal, its keep ratio jumps at
//! that score from one step to the next, and which side the last step left it on is chance. After training nothing moves
//! any more, so the shifts are searched for on several texts at once, always ending on the side that keeps no more than
//! the target.

use dropcap_kernels::Team;
use dropcap_policy::Floors;

use super::{Pressure, Trainer};
use crate::TrainError;
use crate::network::{Network, Pruning};
use crate::recipe::keep_ratio;

/// A step that batches never reach, and that the probe does not look at.
const TEXTS_STEP: u64 = u64::MAX - 1;
/// Texts that the keep ratio is measured on.
const TEXTS: usize = 16;
/// How far from where training left it a shift is looked for, at first, and how often that is doubled.
const REACH: f64 = 0.5;
const DOUBLINGS: usize = 4;
/// Halvings of the interval.
const HALVINGS: usize = 8;

/// Between which shifts the target of one layer lies.
#[derive(Debug, Clone, Copy)]
struct Bracket {
    /// Keeps more than the target.
    low: f64,
    /// Keeps no more.
    high: f64,
}

impl Trainer {
    /// Moves the shifts of controlled gates so that no layer keeps more than its target on texts of the training data.
    ///
    /// A layer that cannot reach its target stays where it is. The same state gives the same shifts.
    ///
    /// # Errors
    /// Tokens outside the model.
    pub(super) fn settle(&mut self, values: &[f32]) -> Result<(), TrainError> {
        let Pressure::Controlled(controller) = &self.pressure else { return Ok(()) };
        let targets = controller.targets(1.0);
        let trained: Vec<f64> = controller.shifts().into_iter().map(f64::from).collect();
        self.network.refill(&self.team, values)?;
        let mut texts = self.batches.batch(TEXTS_STEP).ids;
        texts.truncate(TEXTS * self.activations.tokens());
        let meter = Meter {
            team: &self.team,
            network: &self.network,
            values,
            floors: self.floors(),
            texts: &texts,
            tokens: self.activations.tokens(),
        };
        let settled = search(&trained, &targets, &|shifts| meter.keep(shifts))?;
        if let Pressure::Controlled(controller) = &mut self.pressure {
            controller.set_shifts(&settled);
        }
        Ok(())
    }
}

/// The keep ratio of each layer under these shifts.
type Measure<'a> = dyn Fn(&[f64]) -> Result<Vec<f64>, TrainError> + 'a;

/// Shifts at which `keep` is at most the targets, as near to them as the search comes; all layers at once.
fn search(trained: &[f64], targets: &[f64], keep: &Measure<'_>) -> Result<Vec<f64>, TrainError> {
    let enough = |keep: &[f64]| -> Vec<bool> {
        keep.iter().zip(targets).map(|(keep, target)| keep <= target).collect()
    };
    let mut brackets: Vec<Bracket> =
        trained.iter().map(|&shift| Bracket { low: shift - REACH, high: shift + REACH }).collect();
    let mut found = vec![false; trained.len()];
    for doubling in 0..=DOUBLINGS {
        let high: Vec<f64> = brackets.iter().map(|bracket| bracket.high).collect();
        found = enough(&keep(&high)?);
        if found.iter().all(|&found| found) {
            break;
        }
        for (bracket, _) in brackets.iter_mut().zip(&found).filter(|(_, found)| !**found) {
            bracket.high += REACH * f64::from(1_u32 << (doubling + 1));
        }
    }
    for _ in 0..HALVINGS {
        let middle: Vec<f64> = brackets.iter().map(|bracket| (bracket.low + bracket.high) / 2.0).collect();
        let enough = enough(&keep(&middle)?);
        for ((bracket, middle), enough) in brackets.iter_mut().zip(middle).zip(enough) {
            *(if enough { &mut bracket.high } else { &mut bracket.low }) = middle;
        }
    }
    let settled = brackets.iter().zip(trained).zip(found);
    Ok(settled.map(|((bracket, &trained), found)| if found { bracket.high } else { trained }).collect())
}

/// Measures keep ratios on fixed texts.
struct Meter<'a> {
    team: &'a Team,
    network: &'a Network,
    values: &'a [f32],
    floors: Floors,
    texts: &'a [u32],
    tokens: usize,
}

impl Meter<'_> {
    fn keep(&self, shifts: &[f64]) -> Result<Vec<f64>, TrainError> {
        let shifts: Vec<f32> = shifts.iter().map(|&shift| shift as f32).collect();
        let pruning = Pruning::Hard { floors: self.floors, shifts: &shifts, noise: None };
        let mut activations = self.network.activations(1, self.tokens, true);
        let mut keep = vec![0.0; shifts.len()];
        let texts = self.texts.len() / self.tokens.max(1);
        for text in self.texts.chunks_exact(self.tokens.max(1)) {
            self.network.forward(self.team, self.values, &pruning, text, &mut activations)?;
            for (layer, sum) in keep.iter_mut().enumerate() {
                *sum += keep_ratio(activations.expires_at(layer), self.tokens) / texts as f64;
            }
        }
        Ok(keep)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_search_ends_just_below_each_target() {
        // One layer whose ratio falls smoothly, one that jumps over its target, one whose end is far away.
        let keep = |shifts: &[f64]| {
            let smooth = 1.0 / (1.0 + (shifts[0] - 1.0).exp());
            let jump = if shifts[1] < 1.234 { 0.7 } else { 0.2 };
            let far = 1.0 / (1.0 + (shifts[2] - 6.0).exp());
            Ok(vec![smooth, jump, far])
        };
        let targets = [0.3, 0.4, 0.3];
        let settled = search(&[1.6, 1.0, 2.0], &targets, &keep).unwrap();
        let kept = keep(&settled).unwrap();
        for (kept, target) in kept.iter().zip(targets) {
            assert!(*kept <= target, "{kept:?}");
        }
        assert!(kept[0] > 0.29 && kept[2] > 0.27, "{kept:?}");
        assert!((settled[1] - 1.234).abs() < 0.01, "{settled:?}");
    }

    #[test]
    fn a_layer_that_cannot_reach_its_target_stays() {
        let settled = search(&[3.0], &[0.2], &|_| Ok(vec![1.0])).unwrap();
        assert_eq!(settled, [3.0]);
    }
}
