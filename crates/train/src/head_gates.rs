//! Which heads need their whole past, learned with frozen weights (DuoAttention, Xiao et al. 2024, arXiv 2410.10819, section 2.2).
//!
//! Every KV head has one number, its gate: the share of its full attention in a mixture with what it sees through a window.
//! Gates are pulled down by a penalty and held up by what the last hidden states lose at tokens that say something from far
//! back. On the processor.

use dropcap_kernels::{AdamW, Team, adamw};
use dropcap_model::Checkpoint;
use dropcap_policy::Floors;

use crate::TrainError;
use crate::network::{Network, Pruning, Pull};

/// A text and where it counts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GateSample {
    /// Its tokens.
    pub ids: Vec<u32>,
    /// The rows whose last hidden states are compared, as many as tokens.
    pub counts: Vec<bool>,
}

/// How gates are learned.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct GateLearning {
    /// Steps, one text each; the texts come in turn.
    pub steps: usize,
    /// AdamW's rate at its height: it rises over the first fifth of the steps and falls over the last, never below a tenth.
    pub learning_rate: f32,
    /// Weight of the mean gate in the loss.
    pub penalty: f64,
    /// What a head without its gate sees.
    pub window: Floors,
}

/// A step that was taken.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct GateStep {
    /// Its number, from 1.
    pub step: usize,
    /// Mean squared difference of the last hidden states, before the step.
    pub distance: f64,
    /// Mean of all gates, before the step.
    pub mean: f64,
}

/// The original's optimiser.
const BETAS: (f32, f32) = (0.9, 0.999);
const EPSILON: f32 = 1e-8;

/// Learns the gates of a model, `[L][g]`, each from 0 (a window will do) to 1, where all begin. As in the original, what a head saw in
/// full comes from a dense pass over the same text, and has no gradient.
///
/// The same samples and numbers give the same gates, whatever the threads.
///
/// # Errors
/// No samples, or one without a row that counts or with another number of rows than tokens; a text that does not fit the
/// model; a file that became unreadable.
pub fn learn_head_gates(
    team: &Team,
    checkpoint: &Checkpoint,
    samples: &[GateSample],
    learning: GateLearning,
    tell: &mut dyn FnMut(GateStep),
) -> Result<Vec<Vec<f64>>, TrainError> {
    let config = checkpoint.config();
    let Some(tokens) = samples.iter().map(|sample| sample.ids.len()).max() else {
        return Err(TrainError::Internal { what: "no text to learn gates from".into() });
    };
    let mut network = Network::new(config, checkpoint.plan(), None, &[])?.with_held_weights();
    let values = network.layout().read(checkpoint)?;
    network.refill(team, &values)?;
    // One layer at a time: what is held does not grow with the model's depth, but for the residual stream.
    let (mut teacher, mut student) =
        (network.activations(1, tokens, true), network.activations(1, tokens, true));
    let floors = vec![learning.window; config.layers];
    let mut gates = vec![1.0_f32; config.layers * config.kv_heads];
    let (mut first, mut second) = (vec![0.0; gates.len()], vec![0.0; gates.len()]);
    for (step, sample) in (1..=learning.steps).zip(samples.iter().cycle()) {
        let (ids, counts) = padded(sample, tokens);
        let full = network.attended(team, &values, &ids, &mut teacher)?;
        let pruning = Pruning::Mixed { floors: &floors, shares: &gates, full: &full };
        network.forward(team, &values, &pruning, &ids, &mut student)?;
        let distance = network.distance(teacher.hidden(), &counts, &mut student)?;
        network.backward(team, &values, &pruning, Pull::None, &mut student, &mut [])?;
        let mean = gates.iter().map(|&gate| f64::from(gate)).sum::<f64>() / gates.len() as f64;
        tell(GateStep { step, distance, mean });
        let penalty = |gate: f32| if gate > 0.0 { learning.penalty / gates.len() as f64 } else { 0.0 };
        let gradients: Vec<f32> = student
            .share_gradients()
            .iter()
            .zip(&gates)
            .map(|(d, &gate)| (d + penalty(gate)) as f32)
            .collect();
        let update = AdamW {
            learning_rate: learning.learning_rate * rate(step - 1, learning.steps),
            beta1: BETAS.0,
            beta2: BETAS.1,
            epsilon: EPSILON,
            weight_decay: 0.0,
            step: step as u64,
            gradient_scale: 1.0,
        };
        adamw(team, &update, &mut gates, &gradients, &mut first, &mut second)?;
        gates.iter_mut().for_each(|gate| *gate = gate.clamp(0.0, 1.0));
    }
    Ok(gates
        .chunks_exact(config.kv_heads)
        .map(|gates| gates.iter().map(|&gate| gate.into()).collect())
        .collect())
}

/// The sample with tokens behind it that nobody sees, because attention is causal.
fn padded(sample: &GateSample, tokens: usize) -> (Vec<u32>, Vec<bool>) {
    let (mut ids, mut counts) = (sample.ids.clone(), sample.counts.clone());
    let last = ids.last().copied().unwrap_or_default();
    ids.resize(tokens, last);
    counts.resize(tokens, false);
    (ids, counts)
}

/// The share of the learning rate in a step, counted from 0.
fn rate(step: usize, steps: usize) -> f32 {
    let fifth = (steps / 5).max(1) as f32;
    let (up, down) = ((step + 1) as f32 / fifth, (steps - step) as f32 / fifth);
    1.0_f32.min(up.max(0.1)).min(down.max(0.1))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    #[test]
    fn the_rate_rises_and_falls_as_in_the_original() {
        let rates: Vec<f32> = (0..10).map(|step| rate(step, 10)).collect();
        assert_eq!(rates, [0.5, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 0.5]);
        assert_eq!((rate(0, 100), rate(99, 100), rate(0, 1)), (0.1, 0.1, 1.0));
    }

    #[test]
    fn gates_fall_where_a_window_shows_the_same_and_only_there_for_a_large_penalty() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/golden/llama_kvpress/llama");
        let checkpoint = Checkpoint::open(&folder).unwrap();
        let sample = |length: usize, seed: usize| GateSample {
            ids: (0..length).map(|i| ((i * i * 7 + seed * 13 + i) % 128) as u32).collect(),
            counts: (0..length).map(|i| i + 4 >= length).collect(),
        };
        let samples = [sample(40, 1), sample(33, 2)];
        let mut steps = Vec::new();
        let mut learn = |window, penalty| {
            let learning = GateLearning { steps: 12, learning_rate: 0.05, penalty, window };
            steps.clear();
            let team = Team::new(2).unwrap();
            let gates =
                learn_head_gates(&team, &checkpoint, &samples, learning, &mut |step| steps.push(step))
                    .unwrap();
            (gates, steps.clone())
        };
        // A window that holds the whole text loses nothing, and every gate goes down at the same pace.
        let (gates, told) = learn(Floors { sinks: 0, recent: 64 }, 0.05);
        assert_eq!((gates.len(), gates[0].len(), told.len()), (4, 2, 12));
        assert!(told.iter().all(|step| step.distance < 1e-10), "{told:?}");
        assert!(
            gates.iter().flatten().all(|&gate| gate < 0.6 && (gate - gates[0][0]).abs() < 1e-3),
            "{gates:?}"
        );
        // A narrow one loses, and without a penalty the loss alone holds the gates up.
        let (held, told) = learn(Floors { sinks: 1, recent: 2 }, 0.0);
        assert!(
            told[0].distance < 1e-10 && told[0].mean == 1.0,
            "all gates open is the dense pass: {told:?}"
        );
        assert!(held.iter().flatten().all(|&gate| gate > 0.9), "{held:?}");
        let (again, _) = learn(Floors { sinks: 1, recent: 2 }, 0.0);
        assert_eq!(again, held);
    }
}
