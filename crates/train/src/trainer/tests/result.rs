use dropcap_cache::{Death, KvCache, NEVER, PagePool};
use dropcap_kernels::{DType, Team};
use dropcap_methods::ModelFacts;
use dropcap_model::{Checkpoint, Decoder, Logits, Scratch, Segment};

use super::{Workshop, begin};
use crate::metrics::Quiet;
use crate::signals::Stop;
use crate::trainer::Finish;

/// Inference and training compute the same sums in different orders.
const TOLERANCE: f64 = 1e-4;

/// The inference engine's decoder on the result of a run must lose and keep what the trainer measured.
fn inference_agrees(changes: &[&str]) {
    let workshop = Workshop::new();
    let config = workshop.config("run", changes);
    let Finish::Done { model, evaluation } = begin(&config, "test", &mut Quiet, &Stop::new()).unwrap() else {
        panic!("nobody asked it to stop");
    };
    let checkpoint = Checkpoint::open(&model).unwrap();
    let facts = ModelFacts {
        layers: 2,
        hidden: 32,
        kv_heads: 2,
        head_dim: 16,
        family: "gpt2".into(),
        fingerprint: checkpoint.fingerprint().unwrap(),
        directory: Some(model),
    };
    let policy = dropcap_methods::build(&"dcp".parse().unwrap(), &facts).unwrap();
    let team = Team::new(2).unwrap();
    let decoder = Decoder::load(&team, &checkpoint, DType::F32).unwrap();
    let pool: PagePool = decoder.page_pool(policy.as_ref(), DType::F32, None).unwrap();
    let lanes = decoder.lanes_per_layer(policy.as_ref());

    let trainer = workshop.trainer(&config);
    let windows = trainer.valid[0].evaluation_windows(config.evaluate.windows);
    let tokens = windows.tokens;
    let (mut loss, mut keep) = (0.0, vec![0.0; 2]);
    for (ids, targets) in windows.ids.chunks(tokens).zip(windows.targets.chunks(tokens)) {
        let mut cache = KvCache::new(&pool, 2, lanes);
        let mut expires_at = vec![vec![NEVER; lanes * tokens]; 2];
        let (mut logits, mut scratch) = (Vec::new(), Scratch::default());
        let mut died = |_, layer: usize, lane: usize, death: Death| {
            expires_at[layer][lane * tokens + death.position as usize] = death.expires_at;
        };
        let mut segments = [Segment { cache: &mut cache, ids, prompt_ends: true, logits: Logits::All }];
        decoder.forward(&team, policy.as_ref(), &mut segments, &mut scratch, &mut died, &mut logits).unwrap();
        for (row, &target) in logits.chunks_exact(logits.len() / tokens).zip(targets) {
            let most = row.iter().copied().fold(f32::MIN, f32::max);
            let sum: f64 = row.iter().map(|&x| f64::from(x - most).exp()).sum();
            loss += sum.ln() - f64::from(row[target as usize] - most);
        }
        for (keep, expires_at) in keep.iter_mut().zip(&expires_at) {
            *keep += crate::recipe::keep_ratio(expires_at, tokens) / windows.sequences as f64;
        }
    }
    let file = &evaluation.files[0];
    let difference = loss / (windows.sequences * tokens) as f64 - file.pruned.mean();
    assert!(difference.abs() < TOLERANCE, "{changes:?}: {difference}");
    for (got, expected) in keep.iter().zip(&file.keep) {
        assert!((got - expected).abs() < 1e-9, "{changes:?}: {keep:?} {:?}", file.keep);
        // Something must have been forgotten for this to say anything.
        assert!(*got < 0.95, "{changes:?}: {keep:?}");
    }
}

#[test]
fn the_result_runs_as_it_is_and_forgets_what_was_measured() {
    inference_agrees(&["sparsity.ramp={from: 0.0, until: 0.1}", "steps=30"]);
}

#[test]
fn so_does_one_with_a_gate_for_the_layer_in_half_precision() {
    let changes = [
        "gates.per=layer",
        "dtype=bf16",
        "sparsity.ramp={from: 0.0, until: 0.1}",
        "steps=30",
        "optimizer.clip=0",
    ];
    inference_agrees(&changes);
}
