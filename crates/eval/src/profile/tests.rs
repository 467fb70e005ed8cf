//! Others' numbers, and a model that was made by hand to have one retrieval head.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on should fail")]

use std::path::{Path, PathBuf};
use std::sync::Arc;

use dropcap_kernels::{DType, Team};
use dropcap_model::{Checkpoint, Decoder, Tokenizer};
use dropcap_policy::KeepAll;
use dropcap_weights::{NewTensor, NewTensorFile};
use serde_json::{Value, json};

use super::looks::Watch;
use super::masking::ranking;
use super::needles::{Reader, Written};
use super::retrieval::copied;
use super::{Masking, duo_scores, mask_heads};
use crate::recall::find_needle;
use crate::subject::{Compute, Method, Subject};
use crate::{EvalError, Progress, Recall, RecallKind, RecallTask};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

fn json_of(path: &str) -> Value {
    serde_json::from_slice(&std::fs::read(root().join(path)).unwrap()).unwrap()
}

fn of<T: serde::de::DeserializeOwned>(value: &Value) -> T {
    serde_json::from_value(value.clone()).unwrap()
}

struct Quiet;
impl Progress for Quiet {
    fn begin(&mut self, _: &str, _: &str, _: usize, _: usize) {}
    fn advance(&mut self) {}
}

#[test]
fn needles_are_found_and_heads_scored_as_by_the_original() {
    // nightdessert/Retrieval_Head@3ac171a6: see tests/golden/retrieval_head.
    let golden = json_of("tests/golden/retrieval_head/vectors.json");
    let trials = golden["trials"].as_array().unwrap();
    assert_eq!(trials.len(), 8);
    let mut sums = vec![vec![0.0; 4]; 3];
    for trial in trials {
        let (prompt, needle): (Vec<u32>, Vec<u32>) = (of(&trial["prompt"]), of(&trial["needle"]));
        let found = find_needle(&prompt, &needle).unwrap();
        assert_eq!([found.start, found.end], of::<[usize; 2]>(&trial["found_span"]));
        let written = Written { tokens: of(&trial["generated"]), looks: of(&trial["argmax"]) };
        let scores = copied(&prompt, &found, &written);
        let expected: Vec<Vec<f64>> = of(&trial["score"]);
        for (ours, theirs) in scores.iter().flatten().zip(expected.iter().flatten()) {
            assert!((ours - theirs).abs() < 1e-12, "{scores:?} {expected:?}");
        }
        for (sum, score) in sums.iter_mut().flatten().zip(scores.iter().flatten()) {
            *sum += score / trials.len() as f64;
        }
    }
    let ranked: Vec<String> = ranking(&sums).iter().map(|(layer, head)| format!("{layer}-{head}")).collect();
    assert_eq!(ranked, of::<Vec<String>>(&golden["ranking"]));
}

/// Tokens of the model that was made by hand, and the width of a head.
const TOKENS: usize = 64;
const WIDTH: usize = 128;
/// Its residual stream: the token, the one before it, what is predicted, and a one.
const HIDDEN: usize = 200;
const ONE: usize = 192;

/// A weight `[outputs, inputs]` of zeros, but for what is set.
struct Matrix {
    inputs: usize,
    values: Vec<f32>,
}

impl Matrix {
    fn new(outputs: usize, inputs: usize) -> Self {
        Self { inputs, values: vec![0.0; outputs * inputs] }
    }

    fn set(&mut self, output: usize, input: usize, value: f64) {
        self.values[output * self.inputs + input] = value as f32;
    }
}

/// Two layers of two heads. Head 0-0 attends to the token before, and writes down which it is; head 1-0 looks for an earlier place
/// behind the present token and predicts what stands there (Olsson et al. 2022, arXiv 2209.11895). The others do nothing.
fn handmade(team: &Team) -> Decoder {
    let folder = tempfile::tempdir().unwrap();
    let config = json!({
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_act": "silu",
        "hidden_size": HIDDEN, "intermediate_size": 8, "num_hidden_layers": 2, "num_attention_heads": 2,
        "num_key_value_heads": 2, "head_dim": WIDTH, "vocab_size": TOKENS, "max_position_embeddings": 256,
        "rms_norm_eps": 1e-6, "rope_theta": 1e15, "tie_word_embeddings": false, "attention_bias": false,
    });
    std::fs::write(folder.path().join("config.json"), config.to_string()).unwrap();
    // Frequencies fall by a quarter of a decade a pair: the first few tell positions apart, the later ones none.
    let frequency = |pair: usize| 10_f64.powf(-15.0 * pair as f64 / 64.0);
    let mut tensors: Vec<(String, Vec<usize>, Vec<f32>)> = Vec::new();
    let mut add = |name: String, matrix: Matrix| {
        let outputs = matrix.values.len() / matrix.inputs;
        tensors.push((name, vec![outputs, matrix.inputs], matrix.values));
    };
    let mut embedding = Matrix::new(TOKENS, HIDDEN);
    let mut head = Matrix::new(TOKENS, HIDDEN);
    for token in 0..TOKENS {
        embedding.set(token, token, 1.0);
        embedding.set(token, ONE, 1.0);
        head.set(token, 128 + token, 5.0);
    }
    add("model.embed_tokens.weight".into(), embedding);
    add("lm_head.weight".into(), head);
    for layer in 0..2 {
        let [mut query, mut key, mut value] = [(); 3].map(|()| Matrix::new(2 * WIDTH, HIDDEN));
        let mut output = Matrix::new(HIDDEN, 2 * WIDTH);
        if layer == 0 {
            for pair in 0..8 {
                // A query is turned back by one position, so that it meets the key of the position before.
                query.set(pair, ONE, 13.0 * frequency(pair).cos());
                query.set(pair + WIDTH / 2, ONE, -13.0 * frequency(pair).sin());
                key.set(pair, ONE, 13.0);
            }
        }
        for token in 0..TOKENS {
            value.set(token, token, 0.1);
            output.set(64 * (layer + 1) + token, token, 1.0);
            if layer == 1 {
                let place = 28 + token % 32 + WIDTH / 2 * (token / 32);
                query.set(place, token, 3.0);
                key.set(place, 64 + token, 3.0);
            }
        }
        let at = |name: &str| format!("model.layers.{layer}.{name}.weight");
        add(at("self_attn.q_proj"), query);
        add(at("self_attn.k_proj"), key);
        add(at("self_attn.v_proj"), value);
        add(at("self_attn.o_proj"), output);
        add(at("mlp.gate_proj"), Matrix::new(8, HIDDEN));
        add(at("mlp.up_proj"), Matrix::new(8, HIDDEN));
        add(at("mlp.down_proj"), Matrix::new(HIDDEN, 8));
    }
    let norms = ["layers.0.input_layernorm", "layers.0.post_attention_layernorm"];
    let norms =
        norms.into_iter().chain(["layers.1.input_layernorm", "layers.1.post_attention_layernorm", "norm"]);
    for norm in norms {
        tensors.push((format!("model.{norm}.weight"), vec![HIDDEN], vec![1.0; HIDDEN]));
    }
    let tensors: Vec<NewTensor<'_>> =
        tensors.iter().map(|(name, shape, values)| NewTensor::f32(name.clone(), shape, values)).collect();
    let mut file = std::fs::File::create(folder.path().join("model.safetensors")).unwrap();
    NewTensorFile::new(&tensors, &[]).unwrap().write(&mut file).unwrap();
    Decoder::load(team, &Checkpoint::open(folder.path()).unwrap(), DType::F32).unwrap()
}

/// A text in which 1, 2, 3, 4, 5 stand once among others, and 1 again at its end; of so many tokens.
fn prompt(tokens: usize, needle: usize) -> Vec<u32> {
    let hay = |place: usize| 20 + (place * place * 7 + place) as u32 % 40;
    let mut text: Vec<u32> = (0..tokens).map(hay).collect();
    text[needle..needle + 5].copy_from_slice(&[1, 2, 3, 4, 5]);
    text[tokens - 1] = 1;
    text
}

fn write(decoder: &Decoder, prompts: &[&[u32]], chunk: usize) -> Vec<Written> {
    let (team, watch) = (Team::new(2).unwrap(), Watch::default());
    let pool = decoder.page_pool(&watch, DType::F32, None).unwrap();
    let reader = Reader { decoder, team: &team, pool: &pool, watch: &watch, chunk, most: 50 };
    reader.write(prompts, &|tokens| tokens.len() == 4).unwrap()
}

#[test]
fn a_head_that_copies_is_found_and_without_it_nothing_is_copied() {
    let decoder = handmade(&Team::new(2).unwrap());
    let prompts = [prompt(60, 30), prompt(97, 2), prompt(41, 33)];
    let texts: Vec<&[u32]> = prompts.iter().map(Vec::as_slice).collect();
    let alone: Vec<Written> = texts.iter().flat_map(|text| write(&decoder, &[text], 500)).collect();
    for (text, written) in prompts.iter().zip(&alone) {
        assert_eq!(written.tokens, [2, 3, 4, 5]);
        let needle = find_needle(text, &[1, 2, 3, 4, 5]).unwrap();
        for (layer, heads) in copied(text, &needle, written).iter().enumerate() {
            for (head, score) in heads.iter().enumerate() {
                let expected = if (layer, head) == (1, 0) { 0.8 } else { 0.0 };
                assert!((score - expected).abs() < 1e-12, "{layer}-{head}: {score}");
            }
        }
        // The head beside it looks at the token before, whatever that is.
        let before: Vec<u32> = written.looks.iter().map(|layers| layers[0][0]).collect();
        let first = text.len() as u32 - 2;
        assert_eq!(before, [first, first + 1, first + 2, first + 3]);
    }
    assert_eq!(write(&decoder, &texts, 16), alone, "a batch, and prompts in chunks");
    for others in [&[(0, 1), (1, 1)][..], &[]] {
        assert_eq!(write(&decoder.without_heads(others).unwrap(), &texts, 64), alone);
    }
    let masked = decoder.without_heads(&[(1, 0)]).unwrap();
    assert!(write(&masked, &texts, 64).iter().all(|written| !written.tokens.starts_with(&[2, 3])));
    assert_eq!(write(&decoder, &texts, 64), alone, "the model itself is as it was");
    let error = decoder.without_heads(&[(1, 2)]).unwrap_err().to_string();
    assert!(error.contains("1-2") && error.contains("2 layers of 2 query heads"), "{error}");
}

fn subject(directory: &Path, decoder: Decoder, team: Team) -> Subject {
    let config = decoder.config().clone();
    Subject {
        compute: Compute::Host(Arc::new(decoder)),
        team: Arc::new(team),
        start: None,
        stop_tokens: Vec::new(),
        config,
        tokenizer: Arc::new(Tokenizer::open(directory).unwrap()),
        template: None,
        kv_dtype: DType::F32.into(),
        kv_limit: None,
        chunk: 64,
        max_batch: 4,
        methods: vec![Method { name: "none".into(), policy: Arc::new(KeepAll) }],
    }
}

/// The carried model's tokenizer, with the weights of a tiny checkpoint.
fn golden_subject(model: &str) -> Subject {
    let team = Team::new(2).unwrap();
    let checkpoint = Checkpoint::open(&root().join("tests/golden/llama_kvpress").join(model)).unwrap();
    let decoder = Decoder::load(&team, &checkpoint, DType::F32).unwrap();
    subject(&root().join("models/default"), decoder, team)
}

#[test]
fn mean_queries_and_keys_give_the_scores_of_the_published_formula() {
    let golden = json_of("crates/eval/tests/golden/duo_scores.json");
    for model in ["llama", "qwen3"] {
        let texts: Vec<Vec<u32>> = of(&golden[model]["texts"]);
        let expected: Vec<Vec<Vec<f64>>> = of(&golden[model]["scores"]);
        let scores = duo_scores(&golden_subject(model), &texts, &mut Quiet).unwrap();
        assert_eq!(scores.len(), expected.len());
        for (ours, theirs) in scores.iter().flatten().flatten().zip(expected.iter().flatten().flatten()) {
            // f32 activations against f64; heads differ by 1e-3 and more.
            assert!((ours - theirs).abs() < 2e-6, "{model}: {ours} {theirs}");
        }
    }
    let error = duo_scores(&golden_subject("gpt2m"), &[vec![1, 2]], &mut Quiet).unwrap_err().to_string();
    assert!(error.contains("positions of this model are learned"), "{error}");
}

#[test]
fn masks_are_of_the_best_heads_and_of_as_many_others_and_the_same_for_a_seed() {
    let team = Team::new(2).unwrap();
    let directory = root().join("models/default");
    let checkpoint = Checkpoint::open(&directory).unwrap();
    let decoder = Decoder::load(&team, &checkpoint, DType::F32).unwrap();
    let subject = subject(&directory, decoder, team);
    let recall = Recall {
        kind: RecallKind::Needle,
        length: 60,
        depths: vec![0.5],
        facts: 1,
        prompts: 2,
        seed: 3,
        aware: true,
        haystack: None,
    };
    let task = RecallTask::generate("needle 60".into(), &recall, &subject).unwrap();
    let (layers, kv_heads) = (subject.config.layers, subject.config.kv_heads);
    let scores: Vec<Vec<f64>> = (0..layers)
        .map(|layer| (0..kv_heads).map(|head| (layer * 5 + head * 3) as f64 % 7.0).collect())
        .collect();
    let masking = Masking { top: 2, draws: 2, seed: 9 };
    let mask = |masking| mask_heads(&subject, &task, &scores, masking, &mut Quiet);
    let lines = mask(masking).unwrap();
    assert_eq!(lines.len(), 4);
    assert_eq!(lines[1].heads, ranking(&scores)[..2]);
    for others in &lines[2..] {
        assert_eq!(others.heads.len(), 2);
        assert!(others.heads.iter().all(|head| !lines[1].heads.contains(head)));
    }
    assert!(lines.iter().all(|line| line.asked == 2 && line.right <= 2));
    assert_eq!(mask(masking).unwrap(), lines);
    let all = layers * kv_heads;
    for top in [0, all / 2 + 1] {
        let error = mask(Masking { top, ..masking }).unwrap_err();
        assert!(
            matches!(error, EvalError::TooManyHeads { given, heads } if (given, heads) == (top, all)),
            "{error}"
        );
    }
    let error = mask_heads(&subject, &task, &scores[1..], masking, &mut Quiet).unwrap_err();
    assert!(matches!(error, EvalError::OtherHeads { .. }), "{error}");
}
