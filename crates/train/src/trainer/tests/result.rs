use std::path::Path;

use dropcap_cache::{Death, KvCache, NEVER, PagePool};
use dropcap_kernels::{DType, Team};
use dropcap_methods::ModelFacts;
use dropcap_model::{Checkpoint, Decoder, Logits, Scratch, Segment};
use dropcap_policy::Stage;

use super::{BIRTH, Workshop, begin};
use crate::metrics::Quiet;
use crate::recipe::keep_ratio;
use crate::signals::Stop;
use crate::trainer::{Evaluation, Finish};

/// Inference and training compute the same sums in different orders.
pub(super) const TOLERANCE: f64 = 1e-4;
/// Those differences move a number over the border between two of 16 bits now and then, and such a step is 2^15 times
/// as large.
const ROUNDED_TOLERANCE: f64 = 2e-3;

/// What inference does with some texts, with the method `dcp` and a cache of a format.
pub(super) struct Inferred {
    /// Keep ratio of each layer.
    pub(super) keep: Vec<f64>,
    /// Cross-entropy per target, in nats.
    pub(super) loss: f64,
}

/// Runs the engine's decoder with the directory of a result on texts of `ids` and their targets.
pub(super) fn infer(model: &Path, kv_dtype: DType, texts: &[(&[u32], &[u32])]) -> Inferred {
    infer_with(&Checkpoint::open(model).unwrap(), model, kv_dtype, texts)
}

/// [`infer`] of a checkpoint with gates from another folder.
pub(super) fn infer_with(
    checkpoint: &Checkpoint,
    gates: &Path,
    kv_dtype: DType,
    texts: &[(&[u32], &[u32])],
) -> Inferred {
    let config = checkpoint.config();
    let layers = config.layers;
    let facts = ModelFacts {
        layers,
        hidden: config.hidden,
        kv_heads: config.kv_heads,
        head_dim: config.head_dim,
        family: config.family.to_string(),
        fingerprint: Some(checkpoint.fingerprint().unwrap()),
        directory: Some(gates.to_path_buf()),
    };
    let policy = dropcap_methods::build(&"dcp".parse().unwrap(), &facts).unwrap();
    let settled_for = policy.rules().unwrap().first().and_then(|rule| rule.action.settled_for().kv_dtype);
    assert_eq!(settled_for, Some(kv_dtype), "the file names the cache that it was settled for");
    let team = Team::new(2).unwrap();
    let decoder = Decoder::load(&team, checkpoint, DType::F32).unwrap();
    let pool: PagePool = decoder.page_pool(policy.as_ref(), kv_dtype, None).unwrap();
    let lanes = decoder.lanes_per_layer(policy.as_ref());
    let mut inferred = Inferred { keep: vec![0.0; layers], loss: 0.0 };
    let mut count = 0;
    for (ids, targets) in texts {
        let tokens = ids.len();
        let mut cache = KvCache::new(&pool, layers, lanes);
        let mut expires_at = vec![vec![NEVER; lanes * tokens]; layers];
        let (mut logits, mut scratch) = (Vec::new(), Scratch::default());
        let mut died = |_, layer: usize, lane: usize, death: Death| {
            expires_at[layer][lane * tokens + death.position as usize] = death.expires_at;
        };
        let (stage, all) = (Stage::PromptEnd, Logits::All);
        let mut segments = [Segment { cache: &mut cache, ids, stage, budget: None, logits: all }];
        decoder.forward(&team, policy.as_ref(), &mut segments, &mut scratch, &mut died, &mut logits).unwrap();
        for (row, &target) in logits.chunks_exact(logits.len() / tokens).zip(*targets) {
            let most = row.iter().copied().fold(f32::MIN, f32::max);
            let sum: f64 = row.iter().map(|&x| f64::from(x - most).exp()).sum();
            inferred.loss += sum.ln() - f64::from(row[target as usize] - most);
            count += 1;
        }
        for (keep, expires_at) in inferred.keep.iter_mut().zip(&expires_at) {
            *keep += keep_ratio(expires_at, tokens) / texts.len() as f64;
        }
    }
    inferred.loss /= f64::from(count.max(1));
    inferred
}

/// A run, and what inference with a cache of `kv_dtype` does on the texts of its evaluation.
fn trained(workshop: &Workshop, changes: &[&str], kv_dtype: DType) -> (Evaluation, Inferred) {
    let config = workshop.config("run", changes);
    let Finish::Done { folder: model, evaluation } =
        begin(&config, "test", &mut Quiet, &Stop::new()).unwrap()
    else {
        panic!("nobody asked it to stop");
    };
    let windows = workshop.trainer(&config).valid[0].evaluation_windows(config.evaluate.windows);
    let tokens = windows.tokens;
    let texts: Vec<_> = windows.ids.chunks(tokens).zip(windows.targets.chunks(tokens)).collect();
    (evaluation, infer(&model, kv_dtype, &texts))
}

/// The inference engine's decoder on the result of a run must lose and keep what the trainer measured.
fn inference_agrees(changes: &[&str], kv_dtype: DType) {
    let (evaluation, inferred) = trained(&Workshop::new(), changes, kv_dtype);
    let file = &evaluation.files[0];
    let difference = inferred.loss - file.pruned.mean();
    let (near, same) = match kv_dtype {
        DType::F32 => (TOLERANCE, 1e-9),
        _ => (ROUNDED_TOLERANCE, ROUNDED_TOLERANCE),
    };
    assert!(difference.abs() < near, "{changes:?}: {difference}");
    for (got, expected) in inferred.keep.iter().zip(&file.keep) {
        assert!((got - expected).abs() < same, "{changes:?}: {:?} {:?}", inferred.keep, file.keep);
        // Something must have been forgotten for this to say anything.
        assert!(*got < 0.95, "{changes:?}: {:?}", inferred.keep);
    }
}

#[test]
fn the_result_runs_as_it_is_and_forgets_what_was_measured() {
    inference_agrees(&["sparsity.ramp={from: 0.0, until: 0.1}", "steps=30"], DType::F32);
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
    inference_agrees(&changes, DType::F32);
}

#[test]
fn so_does_one_whose_tokens_decide_about_their_own_entries() {
    let changes = [&BIRTH[..], &["sparsity.ramp={from: 0.0, until: 0.1}", "steps=30"]].concat();
    inference_agrees(&changes, DType::F32);
    inference_agrees(&[&changes[..], &["gates.per=layer", "kv_dtype=bf16"]].concat(), DType::Bf16);
}

#[test]
fn so_does_one_that_is_meant_for_a_cache_of_sixteen_bits() {
    let changes = ["sparsity.ramp={from: 0.0, until: 0.1}", "steps=30"];
    for kv_dtype in [DType::Bf16, DType::F16] {
        let format = format!("kv_dtype={kv_dtype}");
        inference_agrees(&[&changes[..], &[&format]].concat(), kv_dtype);
    }
}

#[test]
fn a_result_from_nothing_says_how_other_programs_read_its_tokenizer() {
    // `AutoTokenizer` and `AutoModelForCausalLM` of transformers 4.57.6 loaded these, with the same tokens and logits.
    let workshop = Workshop::new();
    for family in ["gpt2", "llama"] {
        let family = format!("init.family={family}");
        let changes = ["method=none", "gates=", "sparsity=", "steps=1", &family];
        let config = workshop.config(&family, &changes);
        begin(&config, "test", &mut Quiet, &Stop::new()).unwrap();
        let read = |name: &str| -> serde_json::Value {
            let path = config.output.join("model").join(name);
            serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
        };
        let expected = serde_json::json!({
            "tokenizer_class": "PreTrainedTokenizerFast",
            "clean_up_tokenization_spaces": false,
            "model_max_length": 64,
            "bos_token": "<|endoftext|>",
            "eos_token": "<|endoftext|>",
        });
        assert_eq!(read("tokenizer_config.json"), expected);
        let model = read("config.json");
        assert_eq!((&model["bos_token_id"], &model["eos_token_id"]), (&0.into(), &0.into()));
    }
}
