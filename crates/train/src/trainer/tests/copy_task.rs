use dropcap_kernels::Team;
use dropcap_kernels::cross_entropy::IGNORE;

use super::{BIRTH, Workshop};
use crate::data::Batch;
use crate::trainer::Trainer;
use crate::trainer::start::student;

const TOKENS: usize = 48;
const SYMBOLS: u64 = 16;
const FILLER: u32 = 40;
/// The first of the tokens that announce a symbol.
const KEYS: u32 = 50;
/// Announced symbols of each text.
const PAIRS: usize = 4;
/// Where the text ends and is asked about.
const ASKED: usize = TOKENS - 2 * PAIRS;

/// Texts of filler with a few symbols in it, each behind its key; at the end each key comes again, and what is asked for
/// is a copy of its symbol.
fn batch(seed: u64, sequences: usize) -> Batch {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut below = |limit: u64| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) % limit
    };
    let (mut ids, mut targets) = (Vec::new(), Vec::new());
    for _ in 0..sequences {
        let mut line = vec![FILLER; ASKED];
        let mut tail = Vec::new();
        let mut goals = vec![IGNORE; TOKENS];
        for pair in 0..PAIRS {
            // One pair to each stretch of the text, anywhere in it.
            let stretch = ASKED / PAIRS;
            let place = pair * stretch + below(stretch as u64 - 1) as usize;
            let (key, symbol) = (KEYS + pair as u32, below(SYMBOLS) as u32);
            (line[place], line[place + 1]) = (key, symbol);
            goals[ASKED + 2 * pair] = symbol;
            tail.extend([key, symbol]);
        }
        line.extend(tail);
        ids.extend(line);
        targets.extend(goals);
    }
    Batch { ids, targets, sequences, tokens: TOKENS, examples: Vec::new(), origins: Vec::new() }
}

/// Share of the symbols that the hard policy gets right, and the share of entries that it keeps.
fn accuracy(trainer: &mut Trainer) -> (f64, f64) {
    let batch = batch(u64::MAX, 64);
    let forgetting = trainer.forgetting(None).unwrap();
    let (team, values) = (Team::new(2).unwrap(), super::values(trainer));
    let mut network = student(&trainer.config, &trainer.source, trainer.gates, &trainer.scales).unwrap();
    network.refill(&team, &values).unwrap();
    let mut activations = network.activations(64, TOKENS, true);
    let pruning = forgetting.pruning();
    network.forward(&team, &values, &pruning, &batch.ids, &mut activations).unwrap();
    let mut logits = Vec::new();
    network.logits(&team, &values, &activations, &mut logits).unwrap();
    let rows = logits.chunks_exact(logits.len() / batch.ids.len()).zip(&batch.targets);
    let (mut right, mut all) = (0, 0);
    for (row, &target) in rows.filter(|(_, target)| **target != IGNORE) {
        let best = (0..row.len()).max_by(|&a, &b| row[a].total_cmp(&row[b])).unwrap();
        right += usize::from(best as u32 == target);
        all += 1;
    }
    let layers = trainer.source.config().layers;
    let keep: f64 =
        (0..layers).map(|layer| crate::recipe::keep_ratio(activations.expires_at(layer), TOKENS)).sum();
    (f64::from(right as u32) / f64::from(all), keep / layers as f64)
}

#[test]
fn gates_learn_to_drop_the_filler_of_a_copy_task() {
    learns_to_drop_the_filler(&["gates.width=16"]);
}

#[test]
fn so_do_gates_at_birth_which_see_that_a_token_is_filler() {
    learns_to_drop_the_filler(&BIRTH);
}

fn learns_to_drop_the_filler(rule: &[&str]) {
    let workshop = Workshop::new();
    let changes = [
        "steps=500",
        "batch.sequences=32",
        "batch.micro_sequences=32",
        "init.hidden=64",
        "gates.sinks=0",
        "gates.recent=2",
        "sparsity.target_keep=0.22",
        "sparsity.budgets=uniform",
        "sparsity.ramp={from: 0.5, until: 0.7}",
        "optimizer.learning_rate=3e-3",
        "optimizer.gate_learning_rate=1e-3",
    ];
    let config = workshop.config("copy", &[&changes[..], rule].concat());
    let mut trainer = workshop.trainer(&config);
    for step in 0..config.steps {
        let outcome = trainer.step_on(&batch(step, 32)).unwrap();
        assert!(!outcome.skipped);
    }
    let (accuracy, keep) = accuracy(&mut trainer);
    assert!(accuracy > 0.99 && keep < 0.3, "accuracy {accuracy}, keep {keep}");
}
