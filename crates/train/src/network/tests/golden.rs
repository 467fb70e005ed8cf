//! Training mode against the float64 oracle of tests/golden/gpt2_dcp.

use std::path::{Path, PathBuf};

use dropcap_kernels::AttentionShape;
use dropcap_kernels::cross_entropy::IGNORE;
use dropcap_kernels::cuda::Device;
use dropcap_kernels::gated_attention::{GatedShape, Rule, Saved, forward};
use dropcap_kernels::{AdamW, AlphaSigmoid, DType, Team, adamw, sum_of_squares};
use dropcap_model::Checkpoint;
use dropcap_policy::Floors;
use dropcap_weights::TensorFile;

use super::super::{Activations, GateForm, Gradients, Layout, Loss, Network, Pruning, Pull};
use crate::backend::{Backend, Followed, Following, Gathered, Pass, Room};
use crate::collective::Alone;
use crate::device::tests::device;
use crate::device::{Cuda, Plan};
use crate::schedule::AlphaSchedule;

/// Of the published sparsity term.
const GAMMA: f64 = 0.3;

fn golden(path: &str) -> PathBuf {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/golden")).join(path)
}

fn integers(file: &TensorFile, name: &str) -> Vec<i64> {
    let mut bytes = Vec::new();
    file.read_bytes(name, &mut bytes).unwrap();
    bytes.as_chunks().0.iter().map(|bytes| i64::from_le_bytes(*bytes)).collect()
}

fn doubles(file: &TensorFile, name: &str) -> Vec<f64> {
    let mut bytes = Vec::new();
    file.read_bytes(name, &mut bytes).unwrap();
    bytes.as_chunks().0.iter().map(|bytes| f64::from_le_bytes(*bytes)).collect()
}

fn token(id: i64) -> u32 {
    u32::try_from(id).unwrap_or(IGNORE)
}

/// The published name of one of our parameters.
fn published(name: &str) -> String {
    let Some(rest) = name.strip_prefix("layers.") else { return name.to_owned() };
    let (layer, part) = rest.split_once(".gate.").unwrap();
    let part = match part {
        "query.weight" => "q_int.weight",
        "key.weight" => "k_int.weight",
        _ => "int_bias",
    };
    format!("transformer.h.{layer}.attn.{part}")
}

/// The golden model with its gates.
fn model() -> (Network, Vec<f32>) {
    let checkpoint = Checkpoint::open(&golden("gpt2_dcp")).unwrap();
    let form = GateForm::votes(1, 16);
    let network = Network::new(checkpoint.config(), checkpoint.plan(), Some(form), &[]).unwrap();
    let mut values = network.layout().read(&checkpoint).unwrap();
    let gates = TensorFile::open(&golden("gpt2_dcp/pruning.safetensors")).unwrap();
    for slot in network.layout().slots().iter().filter(|slot| slot.name.contains(".gate.")) {
        values[slot.range.clone()].copy_from_slice(&gates.read_f32(&published(&slot.name)).unwrap());
    }
    (network, values)
}

struct Case {
    alpha: f64,
    in_depth: bool,
    rows: usize,
    ids: Vec<u32>,
    targets: Vec<u32>,
}

struct Step {
    loss: Loss,
    sparsity: f64,
    gradients: Vec<f32>,
    logits: Vec<f32>,
}

/// One forward and backward pass with the published loss.
fn step(network: &mut Network, values: &[f32], case: &Case, recompute: bool) -> Step {
    let Case { alpha, in_depth, rows, ids, targets } = case;
    let (rows, in_depth) = (*rows, *in_depth);
    let team = Team::new(2).unwrap();
    let layers = network.config().layers;
    let tokens = ids.len() / rows;
    let curve = AlphaSigmoid::new(*alpha).unwrap();
    let pruning = Pruning::Soft { curve: &curve, in_depth, floors: Floors::default() };
    network.refill(&team, values).unwrap();
    let mut activations = network.activations(rows, tokens, recompute);
    network.forward(&team, values, &pruning, ids, &mut activations).unwrap();
    let sparsity = network.mean_survival(&activations);
    let mut logits = Vec::new();
    network.logits(&team, values, &activations, &mut logits).unwrap();
    let wanted = targets.iter().filter(|&&target| target != IGNORE).count();
    let mut gradients = vec![0.0; network.layout().len()];
    let scale = 1.0 / wanted.max(1) as f32;
    let loss = network
        .loss(&team, values, targets, None, &mut activations, Some(Gradients { scale, into: &mut gradients }))
        .unwrap();
    let pairs = layers * rows * tokens.saturating_sub(1) * tokens;
    let weight = if pairs == 0 { 0.0 } else { (GAMMA / pairs as f64) as f32 };
    let pull = Pull::PerPair { weight, last_query: false };
    network.backward(&team, values, &pruning, pull, &mut activations, &mut gradients).unwrap();
    Step { loss, sparsity: GAMMA * sparsity, gradients, logits }
}

/// Case, propagation and alpha of a name like `B2.prop0.alpha1.5.logits`.
fn parse(name: &str, end: &str) -> Option<(String, bool, f64)> {
    let rest = name.strip_suffix(end)?;
    let (case, rest) = rest.split_once(".prop")?;
    let (prop, alpha) = rest.split_once(".alpha")?;
    Some((case.to_owned(), prop == "1", alpha.parse().ok()?))
}

#[test]
fn training_logits_and_losses_are_those_of_the_oracle() {
    let (mut network, values) = model();
    let file = TensorFile::open(&golden("gpt2_dcp/train.safetensors")).unwrap();
    let names: Vec<String> = file.names().map(str::to_owned).collect();
    let mut compared = 0;
    for name in &names {
        let Some((case, in_depth, alpha)) = parse(name, ".logits") else { continue };
        let rows = file.info(&format!("{case}.ids")).unwrap().shape[0];
        let ids: Vec<u32> = integers(&file, &format!("{case}.ids")).into_iter().map(token).collect();
        let targets: Vec<u32> = integers(&file, &format!("{case}.targets")).into_iter().map(token).collect();
        let mask = format!("{case}.mask");
        let real: Vec<bool> = match file.info(&mask) {
            Some(_) => integers(&file, &mask).into_iter().map(|real| real == 1).collect(),
            None => vec![true; ids.len()],
        };
        let count = ids.len();
        let got = step(&mut network, &values, &Case { alpha, in_depth, rows, ids, targets }, false);
        let tolerance = if alpha <= 2.0 { 2e-5 } else { 5e-4 };
        let expected = file.read_f32(name).unwrap();
        let vocabulary = expected.len() / count;
        let rows = got.logits.chunks_exact(vocabulary).zip(expected.chunks_exact(vocabulary)).zip(real);
        for ((got, expected), _) in rows.filter(|(_, real)| *real) {
            for (got, expected) in got.iter().zip(expected) {
                assert!((got - expected).abs() < tolerance, "{name}: {got} {expected}");
            }
        }
        if file.info(&mask).is_some() {
            // Hidden states at padding, which the sparsity term counts, are not defined by what is left out of it.
            continue;
        }
        let losses = doubles(&file, &name.replace(".logits", ".losses"));
        let tolerance = if alpha <= 2.0 { 1e-5 } else { 1e-4 };
        for (got, expected) in [(got.loss.mean(), losses[0]), (got.sparsity, losses[1])] {
            if expected.is_finite() {
                assert!(
                    (got - expected).abs() <= tolerance * expected.abs().max(1e-3),
                    "{name}: {got} {expected}"
                );
            }
        }
        compared += 1;
    }
    assert!(compared >= 14, "{compared}");
}

/// I[k, j] of one layer, `[b, T, T]`, as attention applies it: with scores of zero and one-hot values, what a query gets
/// of a key is I[k, j] over the row's sum, and of itself 1 over that sum.
fn survival(
    team: &Team,
    curve: &AlphaSigmoid,
    activations: &Activations,
    layer: usize,
    rows: usize,
) -> Vec<f32> {
    let tokens = activations.rows() / rows;
    let shape = GatedShape {
        sequences: rows,
        tokens,
        attention: AttentionShape { query_heads: 1, kv_heads: 1, head_dim: tokens, scale: 1.0 },
        gate_heads: 1,
        gate_width: 16,
        sliding_window: None,
        sinks: 0,
        recent: 1,
    };
    let mut qkv = vec![0.0; rows * tokens * 3 * tokens];
    for (row, values) in qkv.chunks_exact_mut(3 * tokens).enumerate() {
        values[2 * tokens + row % tokens] = 1.0;
    }
    let mut out = vec![0.0; rows * tokens * tokens];
    let voters = [activations.gates[layer].voter()];
    let rule = Rule::Soft { curve };
    forward(team, &shape, rule, &voters, &qkv, 3 * tokens, &mut out, &mut Saved::new()).unwrap();
    for (row, shares) in out.chunks_exact_mut(tokens).enumerate() {
        let own = shares[row % tokens];
        shares.iter_mut().for_each(|share| *share /= own);
    }
    out
}

#[test]
fn survival_is_that_of_the_oracle() {
    let (mut network, values) = model();
    let file = TensorFile::open(&golden("gpt2_dcp/train.safetensors")).unwrap();
    let names: Vec<String> = file.names().map(str::to_owned).collect();
    let team = Team::new(2).unwrap();
    network.refill(&team, &values).unwrap();
    let mut compared = 0;
    for name in names {
        let Some((case, in_depth, alpha)) = parse(&name, ".I") else { continue };
        if case == "padded" {
            continue;
        }
        let rows = file.info(&format!("{case}.ids")).unwrap().shape[0];
        let ids: Vec<u32> = integers(&file, &format!("{case}.ids")).into_iter().map(token).collect();
        let tokens = ids.len() / rows;
        let curve = AlphaSigmoid::new(alpha).unwrap();
        let pruning = Pruning::Soft { curve: &curve, in_depth, floors: Floors::default() };
        let mut activations = network.activations(rows, tokens, false);
        network.forward(&team, &values, &pruning, &ids, &mut activations).unwrap();
        let expected = file.read_f32(&name).unwrap();
        let tolerance = if alpha <= 2.0 { 2e-5 } else { 5e-4 };
        for (layer, expected) in expected.chunks_exact(rows * tokens * tokens).enumerate() {
            let got = survival(&team, &curve, &activations, layer, rows);
            for (index, (got, expected)) in got.iter().zip(expected).enumerate() {
                let (query, key) = (index / tokens % tokens, index % tokens);
                // The oracle stores 1 above the diagonal, where no query looks.
                let expected = if key > query { 0.0 } else { *expected };
                assert!(
                    (got - expected).abs() < tolerance,
                    "{name} layer {layer} [{query}, {key}]: {got} {expected}"
                );
            }
        }
        compared += 1;
    }
    assert!(compared >= 14, "{compared}");
}

#[test]
fn every_gradient_is_that_of_the_oracle() {
    let (mut network, values) = model();
    let file = TensorFile::open(&golden("gpt2_dcp/grads.safetensors")).unwrap();
    let inputs = TensorFile::open(&golden("gpt2_dcp/train.safetensors")).unwrap();
    let cases: std::collections::BTreeSet<String> = file
        .names()
        .filter_map(|name| name.strip_suffix("transformer.wte.weight"))
        .map(str::to_owned)
        .collect();
    assert!(cases.len() >= 5);
    for case in cases {
        let (name, in_depth, alpha) = parse(&case, ".").unwrap();
        let rows = inputs.info(&format!("{name}.ids")).unwrap().shape[0];
        let ids: Vec<u32> = integers(&inputs, &format!("{name}.ids")).into_iter().map(token).collect();
        let targets: Vec<u32> =
            integers(&inputs, &format!("{name}.targets")).into_iter().map(token).collect();
        let pass = Case { alpha, in_depth, rows, ids, targets };
        for recompute in [false, true] {
            let got = step(&mut network, &values, &pass, recompute);
            let (mut error, mut norm) = (0.0, 0.0);
            for slot in network.layout().slots() {
                let expected = file.read_f32(&format!("{case}{}", published(&slot.name))).unwrap();
                let got = &got.gradients[slot.range.clone()];
                let square = |x: f32| f64::from(x) * f64::from(x);
                error += got.iter().zip(&expected).map(|(a, b)| square(a - b)).sum::<f64>();
                norm += expected.iter().map(|&x| square(x)).sum::<f64>();
            }
            let relative = (error / norm).sqrt();
            let tolerance = if alpha <= 2.0 { 1e-5 } else { 5e-3 };
            assert!(relative < tolerance, "{case} recompute {recompute}: {relative:e}");
        }
    }
}

/// The parameters after four steps, and the gradients' norms on the way.
fn four_steps(clip: Option<f64>) -> (Network, Vec<Vec<f32>>, Vec<f64>) {
    let (mut network, mut values) = model();
    let file = TensorFile::open(&golden("adamw_step/params.safetensors")).unwrap();
    let batches = integers(&file, "batches");
    let targets = integers(&file, "targets");
    let schedule: AlphaSchedule = "cosine_1.5_4_8".parse().unwrap();
    let team = Team::new(2).unwrap();
    let (mut first, mut second) = (vec![0.0; values.len()], vec![0.0; values.len()]);
    let (mut after, mut norms) = (Vec::new(), Vec::new());
    for index in 0..4 {
        let part = index * 48..(index + 1) * 48;
        let ids: Vec<u32> = batches[part.clone()].iter().copied().map(token).collect();
        let targets: Vec<u32> = targets[part].iter().copied().map(token).collect();
        let alpha = schedule.at(index as u64);
        let got = step(&mut network, &values, &Case { alpha, in_depth: false, rows: 2, ids, targets }, false);
        let norm = sum_of_squares(&team, &got.gradients).sqrt();
        norms.push(norm);
        let gradient_scale = clip.map_or(1.0, |limit| (limit / (norm + 1e-6)).min(1.0)) as f32;
        let rule = AdamW {
            learning_rate: (0.001 * (index as f64 / 4.0).min(1.0)) as f32,
            beta1: 0.9,
            beta2: 0.999,
            epsilon: 1e-8,
            weight_decay: 0.0,
            step: index as u64 + 1,
            gradient_scale,
        };
        adamw(&team, &rule, &mut values, &got.gradients, &mut first, &mut second).unwrap();
        after.push(values.clone());
    }
    (network, after, norms)
}

fn compare(run: &str, clip: Option<f64>, steps: &[usize]) {
    let (network, after, norms) = four_steps(clip);
    let file = TensorFile::open(&golden("adamw_step/params.safetensors")).unwrap();
    for &step in steps {
        for slot in network.layout().slots() {
            let name = format!("{run}.step{step}.{}", published(&slot.name));
            let expected = file.read_f32(&name).unwrap();
            let got = &after[step][slot.range.clone()];
            // The middle third, the keys', has a zero gradient, of which only rounding noise is left.
            let noise = if name.ends_with("c_attn.bias") { 48..96 } else { 0..0 };
            for (index, (got, expected)) in got.iter().zip(&expected).enumerate() {
                let close = (got - expected).abs() < 1e-6;
                assert!(close || noise.contains(&index), "{name}[{index}]: {got} {expected}");
            }
        }
    }
    if clip.is_none() {
        for (got, expected) in norms.iter().zip([11.311436, 13.524431, 11.477661, 11.209493]) {
            assert!((got / expected - 1.0).abs() < 1e-4, "{got} {expected}");
        }
    }
}

#[test]
fn adamw_walks_the_same_way() {
    compare("noclip", None, &[1, 3]);
    compare("clip1", Some(1.0), &[3]);
}

/// The golden model on a device, in f32.
fn on_a_device(device: &Device, values: &[f32], rows: usize, tokens: usize) -> Cuda {
    let checkpoint = Checkpoint::open(&golden("gpt2_dcp")).unwrap();
    let gates = Some(GateForm::votes(1, 16));
    let plan = Plan {
        config: checkpoint.config(),
        plan: checkpoint.plan(),
        gates,
        factors: None,
        scales: &[],
        dtype: DType::F32,
        cache: DType::F32,
        room: Room { sequences: rows, tokens, recompute: false },
        layout: Layout::new(checkpoint.config(), checkpoint.plan(), gates),
        held: &[],
        still: Vec::new(),
        teacher: crate::device::Teacher::None,
    };
    let mut backend = Cuda::new(device, &plan).unwrap();
    backend.load(values, None).unwrap();
    backend
}

/// One pass with the published loss, its gradients still on the device.
fn device_pass(backend: &mut Cuda, layers: usize, case: &Case) -> Gathered {
    let Case { alpha, rows, ids, targets, .. } = case;
    let tokens = ids.len() / rows;
    let curve = AlphaSigmoid::new(*alpha).unwrap();
    let wanted = targets.iter().filter(|&&target| target != IGNORE).count();
    let pairs = layers * rows * tokens.saturating_sub(1) * tokens;
    let weight = if pairs == 0 { 0.0 } else { (GAMMA / pairs as f64) as f32 };
    let pass = Pass {
        ids,
        targets,
        pruning: &Pruning::Soft { curve: &curve, in_depth: false, floors: Floors::default() },
        pull: Pull::PerPair { weight, last_query: false },
        scale: 1.0 / wanted.max(1) as f32,
        distill: 0.0,
        part: 0,
        parts: 1,
    };
    backend.pass(&pass).unwrap();
    let all = 0..backend.layout().len();
    backend.gather(&[all], &mut Alone).unwrap()
}

#[test]
fn every_gradient_on_a_device_is_that_of_the_oracle() {
    let Some(device) = device("the oracle's gradients") else { return };
    let (network, values) = model();
    let file = TensorFile::open(&golden("gpt2_dcp/grads.safetensors")).unwrap();
    let inputs = TensorFile::open(&golden("gpt2_dcp/train.safetensors")).unwrap();
    let cases: Vec<String> = file
        .names()
        .filter_map(|name| name.strip_suffix("transformer.wte.weight"))
        .map(str::to_owned)
        .collect();
    let mut compared = 0;
    for case in cases {
        let (name, in_depth, alpha) = parse(&case, ".").unwrap();
        if in_depth {
            continue;
        }
        let rows = inputs.info(&format!("{name}.ids")).unwrap().shape[0];
        let ids: Vec<u32> = integers(&inputs, &format!("{name}.ids")).into_iter().map(token).collect();
        let targets: Vec<u32> =
            integers(&inputs, &format!("{name}.targets")).into_iter().map(token).collect();
        let mut backend = on_a_device(&device, &values, rows, ids.len() / rows);
        let pass = Case { alpha, in_depth, rows, ids, targets };
        let gathered = device_pass(&mut backend, network.config().layers, &pass);
        let losses = doubles(&inputs, &format!("{case}losses"));
        let tolerance = if alpha <= 2.0 { 2e-5 } else { 1e-4 };
        for (got, expected) in [(gathered.loss.mean(), losses[0]), (GAMMA * gathered.survival, losses[1])] {
            let close = (got - expected).abs() <= tolerance * expected.abs().max(1e-3);
            assert!(close || !expected.is_finite(), "{case}: {got} {expected}");
        }
        // A first moment that forgets at once is the gradient.
        let rule = AdamW {
            learning_rate: 0.0,
            beta1: 0.0,
            beta2: 0.9,
            epsilon: 1e-8,
            weight_decay: 0.0,
            step: 1,
            gradient_scale: 1.0,
        };
        let ranges = [Followed { range: 0..values.len(), is_clipped: false, rule: Some(rule) }];
        backend.follow(&Following { ranges: &ranges, clip: 0.0 }, &mut Alone).unwrap();
        let gradients = backend.export().unwrap().moments[0].to_vec();
        let (mut error, mut norm) = (0.0, 0.0);
        for slot in network.layout().slots() {
            let expected = file.read_f32(&format!("{case}{}", published(&slot.name))).unwrap();
            let square = |x: f32| f64::from(x) * f64::from(x);
            let pairs = gradients[slot.range.clone()].iter().zip(&expected);
            error += pairs.map(|(a, b)| square(a - b)).sum::<f64>();
            norm += expected.iter().map(|&x| square(x)).sum::<f64>();
        }
        let relative = (error / norm).sqrt();
        let tolerance = if alpha <= 2.0 { 2e-5 } else { 5e-3 };
        assert!(relative < tolerance, "{case}: {relative:e}");
        compared += 1;
    }
    assert!(compared >= 2, "{compared}");
}

#[test]
fn adamw_walks_the_same_way_on_a_device() {
    let Some(device) = device("the oracle's steps") else { return };
    let (network, values) = model();
    let file = TensorFile::open(&golden("adamw_step/params.safetensors")).unwrap();
    let (batches, targets) = (integers(&file, "batches"), integers(&file, "targets"));
    let schedule: AlphaSchedule = "cosine_1.5_4_8".parse().unwrap();
    let mut backend = on_a_device(&device, &values, 2, 24);
    for index in 0..4 {
        let part = index * 48..(index + 1) * 48;
        let ids: Vec<u32> = batches[part.clone()].iter().copied().map(token).collect();
        let targets: Vec<u32> = targets[part].iter().copied().map(token).collect();
        let case = Case { alpha: schedule.at(index as u64), in_depth: false, rows: 2, ids, targets };
        device_pass(&mut backend, network.config().layers, &case);
        let rule = AdamW {
            learning_rate: (0.001 * (index as f64 / 4.0).min(1.0)) as f32,
            beta1: 0.9,
            beta2: 0.999,
            epsilon: 1e-8,
            weight_decay: 0.0,
            step: index as u64 + 1,
            gradient_scale: 1.0,
        };
        let ranges = [Followed { range: 0..values.len(), is_clipped: false, rule: Some(rule) }];
        backend.follow(&Following { ranges: &ranges, clip: 0.0 }, &mut Alone).unwrap();
    }
    let after = backend.export().unwrap().values.to_vec();
    for slot in network.layout().slots() {
        let name = format!("noclip.step3.{}", published(&slot.name));
        let expected = file.read_f32(&name).unwrap();
        // The middle third, the keys', has a zero gradient, of which only rounding noise is left.
        let noise = if name.ends_with("c_attn.bias") { 48..96 } else { 0..0 };
        for (index, (got, expected)) in after[slot.range.clone()].iter().zip(&expected).enumerate() {
            let close = (got - expected).abs() < 2e-6;
            assert!(close || noise.contains(&index), "{name}[{index}]: {got} {expected}");
        }
    }
}
