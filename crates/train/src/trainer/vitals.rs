//! Notices a model that has stopped to learn.

use super::Outcome;
use crate::config::{Config, Trained};

/// Steps in a row without any gradient after which that is said: no healthy step is without.
const WITHOUT_GRADIENT: u64 = 3;
/// The fewest steps in a row that say anything about the loss, or about steps too small to see.
const FEWEST: u64 = 20;
/// A loss of this share of chance's counts as no better than chance.
const CHANCE: f64 = 0.999;

/// Counts the steps in a row that show each sign; a sign is told once, and again after it had gone.
#[derive(Debug)]
pub(super) struct Vitals {
    /// The loss of a model that gives every token the same probability, ln v.
    chance: f64,
    /// What is trained, as keys of the configuration and their values.
    rates: String,
    gates_alone: bool,
    imitates_alone: bool,
    warmup: u64,
    patience: u64,
    blind: u64,
    numb: u64,
    still: u64,
    gates_numb: u64,
}

impl Vitals {
    /// For a model of so many tokens.
    pub(super) fn new(config: &Config, vocabulary: usize) -> Self {
        let gates_alone = config.train == Trained::Gates;
        let optimizer = &config.optimizer;
        Self {
            chance: (vocabulary.max(2) as f64).ln(),
            rates: if gates_alone {
                format!("optimizer.gate_learning_rate, {:e}", optimizer.gate_learning_rate)
            } else {
                format!("optimizer.learning_rate, {:e}", optimizer.learning_rate)
            },
            gates_alone,
            imitates_alone: config.distill >= 1.0,
            warmup: optimizer.warmup,
            patience: config.watchdog.patience.min((config.steps / 10).max(FEWEST)),
            blind: 0,
            numb: 0,
            still: 0,
            gates_numb: 0,
        }
    }

    /// Takes in a step, counted from 0, and gives the warnings that are due.
    pub(super) fn look(&mut self, step: u64, outcome: &Outcome) -> Vec<String> {
        if outcome.skipped || outcome.loss.targets == 0 {
            return Vec::new();
        }
        let loss = outcome.loss.mean();
        let (weights, gates) = outcome.norms;
        // A student that is its teacher has nothing to learn as long as nothing is forgotten.
        let numb = weights.max(gates) == 0.0 && !self.imitates_alone;
        let blind = !self.gates_alone && step >= self.warmup && loss >= CHANCE * self.chance;
        let gates_numb = !numb && outcome.has_gates && gates == 0.0 && !self.imitates_alone;
        let (rates, chance, patience) = (&self.rates, self.chance, self.patience);
        let cases = [
            (
                &mut self.numb,
                numb,
                WITHOUT_GRADIENT,
                format!(
                    "all gradients are exactly zero: nothing is learned any more (loss {loss:.3}, chance is {chance:.3}); lower {rates}"
                ),
            ),
            (
                &mut self.blind,
                blind,
                patience,
                format!(
                    "the loss is {loss:.3}, no better than chance ({chance:.3}, the logarithm of the vocabulary): lower or raise {rates}"
                ),
            ),
            (
                &mut self.still,
                !outcome.moved,
                patience,
                format!(
                    "no parameter moves: the steps are smaller than f32 can tell apart from none; raise {rates}"
                ),
            ),
            (
                &mut self.gates_numb,
                gates_numb,
                patience.max(FEWEST),
                format!(
                    "the gates' gradients are exactly zero: all of their scores are far from the threshold; lower optimizer.gate_learning_rate, or set gates.bias nearer to 0 (loss {loss:.3})"
                ),
            ),
        ];
        let mut warnings = Vec::new();
        for (count, holds, due, what) in cases {
            *count = if holds { *count + 1 } else { 0 };
            if *count == due {
                warnings.push(format!("step {step}, for {due} steps now: {what}"));
            }
        }
        warnings
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::network::Loss;

    const SHORT: &str = "model: m\ndata: {train: [a.txt]}\noutput: out\nsteps: 1000\n";

    fn vitals(changes: &[&str]) -> Vitals {
        let changes: Vec<String> = changes.iter().map(|&change| change.to_owned()).collect();
        Vitals::new(&Config::parse("test", SHORT, &changes).unwrap(), 1000)
    }

    fn outcome(loss: f64, norms: (f64, f64), moved: bool) -> Outcome {
        Outcome {
            chosen: None,
            loss: Loss { cross_entropy: loss * 10.0, divergence: 0.0, targets: 10 },
            keep: vec![1.0],
            gradient_norm: norms.0,
            norms,
            has_gates: true,
            moved,
            learning_rate: 1.0,
            survival: 0.0,
            skipped: false,
        }
    }

    /// What is said over `steps` equal steps after the warm-up.
    fn said(vitals: &mut Vitals, steps: u64, outcome: &Outcome) -> Vec<String> {
        (100..100 + steps).flat_map(|step| vitals.look(step, outcome)).collect()
    }

    #[test]
    fn each_way_to_stop_learning_is_named_once_with_what_to_do() {
        let chance = 1000_f64.ln();
        let cases = [
            (outcome(2.0, (0.0, 0.0), true), 3, "exactly zero", "optimizer.learning_rate, 1e6"),
            (outcome(chance, (1.0, 1.0), true), 100, "no better than chance", "optimizer.learning_rate, 1e6"),
            (outcome(chance + 3.0, (1.0, 1.0), true), 100, "no better than chance", "vocabulary"),
            (outcome(2.0, (1.0, 1.0), false), 100, "no parameter moves", "raise"),
            (outcome(2.0, (1.0, 0.0), true), 100, "the gates' gradients", "gates.bias"),
        ];
        for (outcome, due, what, advice) in cases {
            let mut vitals = vitals(&["optimizer.learning_rate=1e6"]);
            assert!(said(&mut vitals, due - 1, &outcome).is_empty(), "{what}");
            let found = said(&mut vitals, 500, &outcome);
            assert!(found.len() == 1 && found[0].contains(what) && found[0].contains(advice), "{found:?}");
            said(&mut vitals, 1, &super::tests::outcome(2.0, (1.0, 1.0), true));
            assert_eq!(said(&mut vitals, due, &outcome).len(), 1, "again after it had gone");
        }
    }

    #[test]
    fn a_healthy_run_hears_nothing() {
        let chance = 1000_f64.ln();
        let mut healthy = vitals(&[]);
        assert!(said(&mut healthy, 500, &outcome(0.98 * chance, (1.0, 1e-9), true)).is_empty());
        // A warm-up begins at chance.
        let mut warming = vitals(&["optimizer.warmup=900"]);
        assert!(said(&mut warming, 500, &outcome(chance, (1.0, 1.0), true)).is_empty());
        // Only gates are trained: the model's own loss is not theirs to mend.
        let mut gates = vitals(&["train=gates"]);
        assert!(said(&mut gates, 500, &outcome(chance, (0.0, 1.0), true)).is_empty());
        assert!(said(&mut gates, 5, &outcome(2.0, (0.0, 0.0), true))[0].contains("gate_learning_rate"));
    }
}
