//! Holds the hard gates of each layer at a falling target, without a penalty to tune.
//!
//! A penalty on survival moves all gates of a layer together, and one weight for all layers empties the cheap layers
//! and leaves the dear ones whole (measured; LOG.md). So the common part of every layer's gates is taken out of
//! training altogether: a feedback loop subtracts a shift from the layer's bias until its hard keep ratio is at the
//! layer's target, and a centring term removes the gates' common gradient. What is left to learn is only *which*
//! entries to keep. The centring term is also the worth of one more entry at the threshold, by which the layers
//! trade their shares with each other.

use crate::config::Ramp;
use crate::network::Pressure;

/// Share of the error, in nats of keep, that one step corrects at first. How far scores lie apart differs by orders of magnitude
/// between layers and changes as gates learn: where it is far, a fixed gain never reaches the target, and where it is near,
/// the layer swings between all and nothing. So a layer's gain grows while its error keeps its sign and shrinks when it
/// changes (as the steps of Rprop do, Riedmiller and Braun 1993); where it does so by chance, half the time, the gain stays.
const GAIN: f64 = 0.4;
const LEAST_GAIN: f64 = 0.005;
const MOST_GAIN: f64 = 20.0;
const SHRINK: f64 = 0.9;
const GROW: f64 = 1.1;
/// Largest shift: what lies beyond says that the layer cannot reach its target, and would only wind up.
const LARGEST_SHIFT: f64 = 1000.0;
/// Memory of the centring term.
const MEMORY: f64 = 0.98;
/// Nats by which a layer's share may leave where it began. Wider ranges let a layer that matters starve before its
/// gates have learned anything, and it does not come back.
const TRADE: f64 = 0.8;
/// Nats a step at which shares are traded.
const TRADE_RATE: f64 = 0.01;
/// No layer is asked to keep more than this, nor more or less than these multiples of the mean. A layer that is asked to keep
/// nearly everything does not learn what to keep, and what it then fails to keep the others lack (LOG.md).
const MOST: f64 = 0.98;
const MOST_OF_MEAN: f64 = 3.25;
const LEAST: f64 = 0.25;

/// How far shares may differ from each other before the bounds decide alone.
const LARGEST_SCALE: f64 = 1e6;

/// The state of the loop; part of a run's checkpoint.
#[derive(Debug, Clone, PartialEq)]
pub struct Controller {
    /// Mean keep ratio to reach, and when.
    target: f64,
    ramp: Ramp,
    /// Mean keep ratio of the finished model.
    settled: f64,
    /// Subtracted from each layer's biases.
    shifts: Vec<f64>,
    /// What each layer corrects of its error, and the error last seen.
    gains: Vec<f64>,
    errors: Vec<f64>,
    /// Averages of the gates' pull and of its weight, per layer.
    pull: Vec<f64>,
    weight: Vec<f64>,
    /// Logarithms of the layers' shares, now and at the beginning.
    shares: Vec<f64>,
    first_shares: Vec<f64>,
    /// Whether shares may be traded.
    trades: bool,
}

impl Controller {
    /// A loop that leads the layers' mean keep ratio along `ramp` to `target`. `budgets`, one positive number per layer, are how
    /// much each keeps relative to the others; only where `trades` may that change.
    #[must_use]
    pub fn new(target: f64, ramp: Ramp, budgets: &[f64], trades: bool) -> Self {
        let shares: Vec<f64> = budgets.iter().map(|budget| budget.max(1e-3).ln()).collect();
        let zeros = vec![0.0; budgets.len()];
        Self {
            target,
            ramp,
            settled: target,
            shifts: zeros.clone(),
            gains: vec![GAIN; budgets.len()],
            errors: zeros.clone(),
            pull: zeros.clone(),
            weight: zeros,
            first_shares: shares.clone(),
            shares,
            trades,
        }
    }

    /// The same loop for a model whose biases are set for another mean keep ratio in the end.
    #[must_use]
    pub fn settled_at(self, keep: f64) -> Self {
        Self { settled: keep, ..self }
    }

    /// What to subtract from each layer's biases.
    #[must_use]
    pub fn shifts(&self) -> Vec<f32> {
        self.shifts.iter().map(|&shift| shift as f32).collect()
    }

    /// The centring term of each layer: minus the gates' common pull, so that their gradients sum to zero.
    #[must_use]
    pub fn centring(&self) -> Vec<f32> {
        let centre = |(pull, weight): (&f64, &f64)| if *weight > 0.0 { (-pull / weight) as f32 } else { 0.0 };
        self.pull.iter().zip(&self.weight).map(centre).collect()
    }

    /// The mean keep ratio asked for at this share of the run.
    #[must_use]
    pub fn target_at(&self, progress: f64) -> f64 {
        self.ramp.target_at(self.target, progress)
    }

    /// Puts the shifts where they should stay.
    pub fn set_shifts(&mut self, shifts: &[f32]) {
        self.shifts.iter_mut().zip(shifts).for_each(|(to, &shift)| *to = f64::from(shift));
    }

    /// All that changes, to be saved.
    #[must_use]
    pub fn numbers(&self) -> Vec<f64> {
        let Self { shifts, gains, errors, pull, weight, shares, first_shares, .. } = self;
        [shifts, pull, weight, shares, first_shares, gains, errors].map(Vec::as_slice).concat()
    }

    /// Takes back what [`Controller::numbers`] gave; false if it is not for as many layers.
    pub fn restore(&mut self, numbers: &[f64]) -> bool {
        if numbers.len() != self.numbers().len() {
            return false;
        }
        let Self { shifts, gains, errors, pull, weight, shares, first_shares, .. } = self;
        let parts = [shifts, pull, weight, shares, first_shares, gains, errors];
        let mut rest = numbers.iter().copied();
        parts
            .into_iter()
            .for_each(|part| part.iter_mut().zip(&mut rest).for_each(|(to, number)| *to = number));
        true
    }

    /// What each layer should keep at this share of the run: the shares scaled so that their mean is the target,
    /// within bounds.
    #[must_use]
    pub fn targets(&self, progress: f64) -> Vec<f64> {
        self.shared_out(self.target_at(progress))
    }

    /// What each layer should keep in the finished model.
    #[must_use]
    pub fn settled_targets(&self) -> Vec<f64> {
        self.shared_out(self.settled)
    }

    fn shared_out(&self, mean: f64) -> Vec<f64> {
        let goal = mean.min(MOST);
        let bounded = |scale: f64| -> Vec<f64> {
            let most = (MOST_OF_MEAN * mean).min(MOST);
            let layer = |share: &f64| (mean * scale * share.exp()).max(LEAST * mean).min(most);
            self.shares.iter().map(layer).collect()
        };
        // The bounds take from the others' shares, so the scale is searched for: the mean grows with it.
        let (mut low, mut high) = (LARGEST_SCALE.recip().ln(), LARGEST_SCALE.ln());
        for _ in 0..50 {
            let middle = (low + high) / 2.0;
            let targets = bounded(middle.exp());
            let reached = targets.iter().sum::<f64>() / targets.len().max(1) as f64;
            *(if reached < goal { &mut low } else { &mut high }) = middle;
        }
        bounded(high.exp())
    }

    /// Takes in one step: the hard keep ratio of each layer and what its gates met.
    pub fn observe(&mut self, progress: f64, keep: &[f64], met: &[Pressure]) {
        let targets = self.targets(progress);
        for (layer, (keep, target)) in keep.iter().zip(targets).enumerate() {
            let (shift, gain, last) =
                (&mut self.shifts[layer], &mut self.gains[layer], &mut self.errors[layer]);
            let error = (keep.max(1e-6) / target).ln().clamp(-1.0, 1.0);
            let factor = if error * *last < 0.0 { SHRINK } else { GROW };
            *gain = (*gain * factor).clamp(LEAST_GAIN, MOST_GAIN);
            *shift = (*shift + *gain * error).clamp(-LARGEST_SHIFT, LARGEST_SHIFT);
            *last = error;
        }
        for ((pull, weight), met) in self.pull.iter_mut().zip(&mut self.weight).zip(met) {
            *pull = MEMORY * *pull + (1.0 - MEMORY) * met.pull;
            *weight = MEMORY * *weight + (1.0 - MEMORY) * met.weight;
        }
        if self.trades && progress >= self.ramp.from {
            self.trade(TRADE_RATE * ((0.9 - progress) / 0.6).clamp(0.0, 1.0));
        }
    }

    /// Moves shares from layers where an entry is worth less than the average to those where it is worth more.
    fn trade(&mut self, rate: f64) {
        let worth: Vec<f64> = self.centring().into_iter().map(f64::from).collect();
        let mean = worth.iter().sum::<f64>() / worth.len().max(1) as f64;
        let spread = worth.iter().map(|worth| (worth - mean).abs()).sum::<f64>() / worth.len().max(1) as f64;
        if spread > 0.0 {
            for ((share, first), worth) in self.shares.iter_mut().zip(&self.first_shares).zip(worth) {
                let step = rate * ((worth - mean) / spread).clamp(-1.0, 1.0);
                *share = (*share + step).clamp(first - TRADE, first + TRADE);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mean(all: &[f64]) -> f64 {
        all.iter().sum::<f64>() / all.len() as f64
    }

    #[test]
    fn the_target_falls_geometrically_from_everything_to_the_goal() {
        let controller = Controller::new(0.2, Ramp::default(), &[1.0; 4], true);
        assert_eq!(controller.target_at(0.0), 1.0);
        assert!((controller.target_at(0.05 + 0.275) - 0.2_f64.sqrt()).abs() < 1e-12);
        assert!((controller.target_at(0.6) - 0.2).abs() < 1e-12);
        assert_eq!(controller.target_at(0.6), controller.target_at(1.0));
    }

    #[test]
    fn unequal_budgets_still_meet_the_mean() {
        for goal in [0.1, 0.2, 0.5, 0.9] {
            let controller = Controller::new(goal, Ramp::default(), &[3.0, 0.2, 1.0, 0.01], true);
            let targets = controller.targets(1.0);
            assert_eq!(controller.settled_targets(), targets);
            let settled = controller.clone().settled_at(goal * 1.05);
            assert!(
                (mean(&settled.settled_targets()) - goal * 1.05).abs() < 1e-6
                    && settled.targets(1.0) == targets
            );
            assert!((mean(&targets) - goal).abs() < 1e-6, "{goal}: {targets:?}");
            assert!(targets[0] >= targets[2] && targets[2] >= targets[1], "{targets:?}");
            let bounds = LEAST * goal..=(MOST_OF_MEAN * goal).min(MOST);
            assert!(targets.iter().all(|target| bounds.contains(target)), "{targets:?}");
        }
    }

    #[test]
    fn the_loop_settles_where_the_layer_keeps_its_target() {
        // A layer whose scores are logistic around 2 keeps sigmoid(2 - shift) of its entries.
        let mut controller = Controller::new(0.2, Ramp::default(), &[1.0, 1.0], false);
        for step in 0..1000 {
            let keep: Vec<f64> = controller
                .shifts()
                .iter()
                .map(|&shift| 1.0 / (1.0 + (f64::from(shift) - 2.0).exp()))
                .collect();
            controller.observe(f64::from(step) / 1000.0, &keep, &[Pressure::default(); 2]);
        }
        let keep = 1.0 / (1.0 + (f64::from(controller.shifts()[0]) - 2.0).exp());
        assert!((keep - 0.2).abs() < 1e-3, "{keep}");
    }

    #[test]
    fn however_far_scores_lie_apart_the_layer_settles() {
        // From where a shift of 1 is nothing to where a twentieth is all, and texts that differ.
        for spread in [300.0, 100.0, 1.0, 0.1, 0.02] {
            let mut controller = Controller::new(0.2, Ramp::default(), &[1.0], false);
            let mut swings = Vec::new();
            for step in 0..1000_u32 {
                let text = 0.3 * spread * (f64::from(step).powi(2) * 0.37).sin();
                let keep = 1.0 / (1.0 + ((f64::from(controller.shifts()[0]) + text - 2.0) / spread).exp());
                controller.observe(f64::from(step) / 1000.0, &[keep], &[Pressure::default()]);
                swings.push(keep);
            }
            let late = &swings[700..];
            assert!((mean(late) - 0.2).abs() < 0.02, "{spread}: {}", mean(late));
            let off = late.iter().filter(|keep| !(0.12..0.3).contains(*keep)).count();
            assert!(off < late.len() / 10, "{spread}: {off} of {} far off", late.len());
        }
    }

    #[test]
    fn a_layer_whose_entries_are_worth_more_gains_share_within_its_range() {
        let mut controller = Controller::new(0.2, Ramp::default(), &[1.0, 1.0], true);
        let met = [Pressure { pull: -2.0, weight: 1.0 }, Pressure { pull: -1.0, weight: 1.0 }];
        for _ in 0..500 {
            controller.observe(0.2, &[0.5, 0.5], &met);
        }
        let shares = &controller.shares;
        assert!((shares[0] - TRADE).abs() < 1e-9 && (shares[1] + TRADE).abs() < 1e-9, "{shares:?}");
        assert!((controller.centring()[0] - 2.0).abs() < 1e-4);
    }

    #[test]
    fn what_is_saved_is_taken_back() {
        let mut controller = Controller::new(0.2, Ramp::default(), &[1.0, 2.0], true);
        let met = [Pressure { pull: -2.0, weight: 1.0 }, Pressure { pull: -1.0, weight: 0.3 }];
        (0..50).for_each(|step| controller.observe(f64::from(step) / 100.0, &[0.5, 0.3], &met));
        let mut other = Controller::new(0.2, Ramp::default(), &[1.0, 1.0], true);
        assert!(other.restore(&controller.numbers()));
        assert_eq!(other, controller);
        assert!(!other.restore(&[0.0; 9]));
    }

    #[test]
    fn a_layer_that_cannot_reach_its_target_does_not_wind_up() {
        let mut controller = Controller::new(0.2, Ramp::default(), &[1.0], false);
        (0..10_000).for_each(|_| controller.observe(1.0, &[1.0], &[Pressure::default()]));
        assert_eq!(controller.shifts(), [LARGEST_SHIFT as f32]);
    }
}
