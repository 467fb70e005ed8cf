//! The device against its twin, the processor, for every family.

mod factors;

use std::ops::{Deref, Range};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use dropcap_kernels::cross_entropy::IGNORE;
use dropcap_kernels::cuda::{CudaError, Device};
use dropcap_kernels::{AdamW, AlphaSigmoid, DType, Team};
use dropcap_model::{DecoderConfig, WeightPlan};
use dropcap_policy::Floors;

use super::{Cuda, OtherModel, Plan, Teacher};
use crate::backend::{Backend, DenseTeacher, Followed, Following, Gathered, Pass, Processor, Room};
use crate::collective::Alone;
use crate::network::{GateForm, Group, Layout, Network, Noise, Pruning, Pull, initialize};
use crate::tiny::{self, Tiny};

const VOCABULARY: usize = 83;
/// More than a tile of attention, and no whole number of them.
const TOKENS: usize = 75;
const SEQUENCES: usize = 4;
const PARTS: usize = 2;

/// The first device, for one test at a time: they look at what is free.
pub(crate) struct OneDevice {
    device: Device,
    _turn: MutexGuard<'static, ()>,
}

impl Deref for OneDevice {
    type Target = Device;

    fn deref(&self) -> &Device {
        &self.device
    }
}

/// The first device, or none where there is none; says so loudly, because the test then proves nothing.
pub(crate) fn device(test: &str) -> Option<OneDevice> {
    static TURN: Mutex<()> = Mutex::new(());
    let turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    match Device::open(0, Some(cache())) {
        Ok(device) => Some(OneDevice { device, _turn: turn }),
        Err(CudaError::Library { .. } | CudaError::NoDevice { .. } | CudaError::Driver { .. }) => {
            eprintln!("SKIPPED {test}: there is no CUDA device on this machine");
            None
        }
        Err(error) => panic!("{error}"),
    }
}

fn cache() -> PathBuf {
    std::env::temp_dir().join("dropcap-test-kernels")
}

fn families() -> Vec<(&'static str, DecoderConfig)> {
    tiny::families(Tiny {
        hidden: 48,
        hidden_of_qwen2: 48,
        head_dim: 16,
        intermediate: 56,
        vocabulary: VOCABULARY,
        positions: 96,
        window: 30,
    })
}

/// A model at work on both.
struct Twins {
    device: Cuda,
    processor: Processor,
    ids: Vec<u32>,
    targets: Vec<u32>,
}

impl Twins {
    /// Taught by other weights of the same network.
    fn new(device: &Device, config: &DecoderConfig, form: GateForm, recompute: bool) -> Self {
        Self::taught_by(device, config, None, form, recompute)
    }

    /// Taught by another model, if there is one.
    fn taught_by(
        device: &Device,
        config: &DecoderConfig,
        other: Option<&DecoderConfig>,
        form: GateForm,
        recompute: bool,
    ) -> Self {
        let plan = WeightPlan::of(config, &|_| false);
        let gates = Some(form);
        let scales = vec![(0..config.hidden).map(|i| 0.5 + 0.02 * i as f32).collect(); config.layers];
        let room = Room { sequences: SEQUENCES / PARTS, tokens: TOKENS, recompute };
        let layout = Layout::new(config, &plan, gates);
        let of_teacher = other.unwrap_or(config);
        let its_plan = WeightPlan::of(of_teacher, &|_| false);
        let teacher =
            initialize(of_teacher, &its_plan, &Layout::new(of_teacher, &its_plan, None), 9).unwrap();
        let mut values = initialize(config, &plan, &layout, 3).unwrap();
        let mut state = 1_u64;
        let mut uniform = || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 40) as f32 / (1_u64 << 23) as f32 - 1.0
        };
        // Larger than a fresh model's, so that every nonlinearity bends.
        for slot in layout.slots() {
            let size = if slot.group == Group::Gates { 0.6 } else { 0.1 };
            values[slot.range.clone()].iter_mut().for_each(|value| *value += size * uniform());
        }
        let team = Team::new(2).unwrap();
        let network = Network::new(config, &plan, gates, &scales).unwrap();
        let dense = Network::new(of_teacher, &its_plan, None, &[]).unwrap().forward_only();
        let taught = DenseTeacher::apart(&team, dense, teacher.clone(), room).unwrap();
        let mut processor = Processor::new(team, network, Some(taught), room, Vec::new(), Vec::new());
        let device_plan = Plan {
            config,
            plan: &plan,
            gates,
            factors: None,
            scales: &scales,
            dtype: DType::F32,
            cache: DType::F32,
            room,
            layout: layout.clone(),
            held: &[],
            still: Vec::new(),
            teacher: match other {
                None => Teacher::Apart(&teacher),
                Some(config) => Teacher::Other(OtherModel { config, plan: &its_plan, values: &teacher }),
            },
        };
        let mut on_device = Cuda::new(device, &device_plan).unwrap();
        processor.load(&values, None).unwrap();
        on_device.load(&values, None).unwrap();
        let count = SEQUENCES * TOKENS;
        let ids = (0..count).map(|_| ((uniform() + 1.0) * 41.0) as u32).collect();
        let mut targets: Vec<u32> = (0..count).map(|i| (i * 5 % VOCABULARY) as u32).collect();
        targets[4] = IGNORE;
        Self { device: on_device, processor, ids, targets }
    }

    /// The passes of one step on both, with the squares of every tensor's gradient.
    fn pass(&mut self, pruning: &Pruning<'_>, distill: f32) -> [Gathered; 2] {
        let rows = SEQUENCES / PARTS * TOKENS;
        let costs = [0.02, -0.01];
        let is_soft = matches!(pruning, Pruning::Soft { .. });
        let batches = self.ids.chunks(rows).zip(self.targets.chunks(rows));
        for (part, (ids, targets)) in batches.enumerate() {
            let scale = 1.0 / (SEQUENCES * TOKENS - 1) as f32;
            let pull = if is_soft {
                Pull::PerPair { weight: 1e-5, last_query: false }
            } else {
                Pull::PerEntry(&costs)
            };
            let pass = Pass { ids, targets, pruning, pull, scale, distill, part, parts: PARTS };
            self.device.pass(&pass).unwrap();
            self.processor.pass(&pass).unwrap();
        }
        let all = self.processor.layout().trained();
        [&mut self.device as &mut dyn Backend, &mut self.processor]
            .map(|backend| backend.gather(std::slice::from_ref(&all), &mut Alone).unwrap())
    }

    fn update(&mut self, rule: AdamW) {
        let range = self.processor.layout().trained();
        follow(&mut self.device, range.clone(), rule);
        follow(&mut self.processor, range, rule);
    }

    /// The gradients of both: what the first moment is where it forgets at once.
    fn gradients(&mut self) -> [Vec<f32>; 2] {
        self.update(rule(1, 0.0, 0.0));
        [&mut self.device as &mut dyn Backend, &mut self.processor]
            .map(|backend| backend.export().unwrap().moments[0].to_vec())
    }
}

/// Moves what is trained in a range.
fn follow(backend: &mut dyn Backend, range: Range<usize>, rule: AdamW) -> Gathered {
    let ranges = [Followed { range, is_clipped: false, rule: Some(rule) }];
    backend.follow(&Following { ranges: &ranges, clip: 0.0 }, &mut Alone).unwrap()
}

fn rule(step: u64, learning_rate: f32, beta1: f32) -> AdamW {
    AdamW { learning_rate, beta1, beta2: 0.99, epsilon: 1e-8, weight_decay: 0.0, step, gradient_scale: 1.0 }
}

fn close(what: &str, got: f64, expected: f64, tolerance: f64) {
    assert!((got - expected).abs() <= tolerance * expected.abs().max(1e-3), "{what}: {got} {expected}");
}

/// Sums of some thousand f32 in other orders.
const TOLERANCE: f64 = 2e-4;

/// One step's losses, keep ratios, margins and gradients must be the twin's.
fn agree(what: &str, twins: &mut Twins, pruning: &Pruning<'_>, distill: f32) {
    let [device, processor] = twins.pass(pruning, distill);
    close(what, device.loss.mean(), processor.loss.mean(), 1e-5);
    close(what, device.loss.mean_divergence(), processor.loss.mean_divergence(), 1e-4);
    assert_eq!(device.loss.targets, processor.loss.targets);
    for (got, expected) in device.keep.iter().zip(&processor.keep) {
        close(&format!("{what} keep"), *got, *expected, 1e-9);
    }
    if matches!(pruning, Pruning::Soft { .. }) {
        close(&format!("{what} survival"), device.survival, processor.survival, 1e-5);
    }
    // Of a window's lifetimes nobody asks what was met there.
    let hard = matches!(pruning, Pruning::Hard { .. });
    for (got, expected) in device.met.iter().zip(&processor.met).filter(|_| hard) {
        close(&format!("{what} weight"), got.weight, expected.weight, TOLERANCE);
        let size = expected.weight.max(1.0);
        assert!((got.pull - expected.pull).abs() < TOLERANCE * size, "{what}: {got:?} {expected:?}");
    }
    close(&format!("{what} squares"), device.squares[0], processor.squares[0], TOLERANCE);
    let [device, processor] = twins.gradients();
    let whole = processor.iter().map(|&x| f64::from(x).powi(2)).sum::<f64>().sqrt();
    for slot in twins.processor.layout().trained_slots() {
        let pairs = device[slot.range.clone()].iter().zip(&processor[slot.range.clone()]);
        let error = pairs.map(|(&a, &b)| (f64::from(a) - f64::from(b)).powi(2)).sum::<f64>().sqrt();
        let norm = processor[slot.range.clone()].iter().map(|&x| f64::from(x).powi(2)).sum::<f64>().sqrt();
        assert!(error < TOLERANCE * norm + 1e-6 * whole, "{what} {}: {error:e} of {norm:e}", slot.name);
    }
}

#[test]
fn a_teacher_of_another_shape_teaches_as_on_the_processor() {
    let Some(device) = device("a teacher of another shape") else { return };
    let teacher = r#"{"model_type":"llama","architectures":["LlamaForCausalLM"],"num_hidden_layers":3,"hidden_size":80,
        "num_attention_heads":5,"num_key_value_heads":1,"head_dim":16,"intermediate_size":72,"vocab_size":83,
        "max_position_embeddings":80,"rms_norm_eps":1e-5,"rope_theta":1000.0,"tie_word_embeddings":true,
        "hidden_act":"silu"}"#;
    let teacher = DecoderConfig::parse(Path::new("config.json"), teacher.as_bytes()).unwrap();
    let floors = Floors { sinks: 2, recent: 5 };
    for (name, config) in families() {
        for recompute in [false, true] {
            let form = GateForm::votes(1, 5);
            let mut twins = Twins::taught_by(&device, &config, Some(&teacher), form, recompute);
            let pruning = Pruning::Hard { floors, shifts: &[0.1, -0.2], noise: None };
            agree(&format!("{name} taught by another"), &mut twins, &pruning, 0.7);
        }
    }
}

#[test]
fn every_gradient_of_every_family_is_the_processors() {
    let Some(device) = device("gradients of every family") else { return };
    let floors = Floors { sinks: 2, recent: 5 };
    let windows = [Floors { sinks: 1, recent: 9 }, Floors { sinks: 0, recent: u32::MAX }];
    for (name, config) in families() {
        for (heads, recompute) in [(1, false), (config.kv_heads, true)] {
            let mut twins = Twins::new(&device, &config, GateForm::votes(heads, 5), recompute);
            let noise = Some(Noise { scale: 0.3, seed: 5 });
            let shifts = [0.1, -0.2];
            let curve = AlphaSigmoid::new(1.5).unwrap();
            for (pruning, distill) in [
                (Pruning::Hard { floors, shifts: &shifts, noise: None }, 0.0),
                (Pruning::Hard { floors, shifts: &shifts, noise }, 0.5),
                (Pruning::Windows { floors: &windows }, 1.0),
                (Pruning::Soft { curve: &curve, in_depth: false, floors }, 0.5),
                (Pruning::Dense, 0.0),
            ] {
                agree(&format!("{name}, {heads} gates, {pruning:?}"), &mut twins, &pruning, distill);
            }
        }
    }
}

#[test]
fn gates_at_birth_have_the_processors_lifetimes_and_gradients() {
    let Some(device) = device("gradients of gates at birth") else { return };
    let floors = Floors { sinks: 2, recent: 5 };
    let shifts = [0.1, -0.2];
    for (name, config) in families() {
        for (heads, recompute) in [(1, false), (config.kv_heads, true)] {
            let mut twins = Twins::new(&device, &config, GateForm::at_birth(heads), recompute);
            for (noise, distill) in [(None, 0.0), (Some(Noise { scale: 0.3, seed: 5 }), 0.5)] {
                let pruning = Pruning::Hard { floors, shifts: &shifts, noise };
                agree(&format!("{name}, {heads} gates at birth, {noise:?}"), &mut twins, &pruning, distill);
            }
        }
    }
}

#[test]
fn a_look_between_two_steps_sees_what_the_processor_sees_and_changes_nothing() {
    let Some(device) = device("looks between steps") else { return };
    let (name, config) = families().remove(4);
    let mut twins = Twins::new(&device, &config, GateForm::votes(2, 5), false);
    let floors = Floors { sinks: 2, recent: 5 };
    let hard = Pruning::Hard { floors, shifts: &[0.3, 0.3], noise: None };
    let windows = [Floors { sinks: 1, recent: 9 }; 2];
    let before = twins.device.export().unwrap().values.to_vec();
    let [first, _] = twins.pass(&hard, 0.0);
    let (ids, targets) = (twins.ids[..TOKENS].to_vec(), twins.targets[..TOKENS].to_vec());
    let texts: Vec<Vec<u32>> = twins.ids.chunks(TOKENS).map(<[u32]>::to_vec).collect();
    for pruning in [hard, Pruning::Windows { floors: &windows }, Pruning::Dense] {
        let [got, expected] = [&mut twins.device as &mut dyn Backend, &mut twins.processor].map(|backend| {
            let mut inputs = Vec::new();
            backend.gate_inputs(&ids, &mut |_, input| inputs.extend_from_slice(input)).unwrap();
            let measured = backend.evaluate(&ids, &targets, &pruning).unwrap();
            let diverged = backend.diverge(&ids, &targets, &pruning).unwrap();
            backend.enter(&texts).unwrap();
            let tried = backend.climb(0, &pruning, false).unwrap();
            let kept =
                [tried, backend.climb(0, &pruning, true).unwrap(), backend.climb(1, &pruning, true).unwrap()];
            assert!(backend.climb(2, &pruning, true).is_err(), "there is no third layer");
            (inputs, measured, diverged, kept)
        });
        close(name, got.1.loss.mean(), expected.1.loss.mean(), 1e-5);
        close(name, got.2.loss.mean_divergence(), expected.2.loss.mean_divergence(), 1e-3);
        for (got, expected) in got.1.keep.iter().chain(&got.3).zip(expected.1.keep.iter().chain(&expected.3))
        {
            close(name, *got, *expected, 1e-9);
        }
        assert_eq!(got.0.len(), expected.0.len());
        assert!(got.0.iter().zip(&expected.0).all(|(a, b)| (a - b).abs() < 1e-4));
    }
    assert_eq!(twins.device.export().unwrap().values.to_vec(), before);
    let [again, _] = twins.pass(&hard, 0.0);
    assert_eq!(again, first, "the same step has the same bits");
}

#[test]
fn what_is_handed_over_in_a_world_of_one_comes_back_as_it_was() {
    let Some(device) = device("gradients that are handed over") else { return };
    for (name, mut config) in families() {
        // More tokens than rows, so that rows of the table are exchanged and not the table.
        config.vocabulary = 400;
        let mut alone = Twins::new(&device, &config, GateForm::votes(2, 5), false);
        let mut connected = Twins::new(&device, &config, GateForm::votes(2, 5), false);
        if let Some(why) = connected.device.connect(&mut Alone).unwrap() {
            eprintln!("SKIPPED gradients that are handed over: {why}");
            return;
        }
        let floors = Floors { sinks: 2, recent: 5 };
        let pruning = Pruning::Hard { floors, shifts: &[0.1, -0.2], noise: None };
        for number in 1..4 {
            let [[one, _], [other, _]] = [&mut alone, &mut connected].map(|twins| {
                let gathered = twins.pass(&pruning, 0.5);
                twins.update(rule(number, 1e-3, 0.9));
                gathered
            });
            // Squares are summed in two parts.
            close(&format!("{name}, step {number}"), one.squares[0], other.squares[0], 1e-12);
            let but_squares = |gathered| Gathered { squares: Vec::new(), ..gathered };
            assert_eq!(but_squares(one), but_squares(other), "{name}, step {number}");
        }
        connected.device.complete(&mut Alone).unwrap();
        let [one, other] = [&mut alone, &mut connected].map(|twins| twins.device.export().unwrap());
        assert!(one == other, "{name}: the same bits");
    }
}

#[test]
fn clipped_gradients_and_those_that_are_not_finite_are_followed_as_on_the_processor() {
    let Some(device) = device("clipping") else { return };
    let (name, config) = families().remove(0);
    let layout = Twins::new(&device, &config, GateForm::votes(2, 5), false).processor.layout().clone();
    let (weights, gates) = (layout.group(Group::Weights), layout.group(Group::Gates));
    for (clip, are_clipped) in [(0.0, [true; 2]), (1e-2, [true; 2]), (1e-2, [true, false]), (1e9, [true; 2])]
    {
        let mut twins = Twins::new(&device, &config, GateForm::votes(2, 5), false);
        let step = |twins: &mut Twins, number| {
            let floors = Floors { sinks: 2, recent: 5 };
            twins.pass(&Pruning::Hard { floors, shifts: &[0.1, -0.2], noise: None }, 0.0);
            // First moments that forget at once are the gradients, clipped.
            let rule = Some(rule(number, 1e-3, 0.0));
            let [clips, clips_gates] = are_clipped;
            let ranges = [
                Followed { range: weights.clone(), is_clipped: clips, rule },
                Followed { range: gates.clone(), is_clipped: clips_gates, rule },
            ];
            [&mut twins.device as &mut dyn Backend, &mut twins.processor]
                .map(|backend| backend.follow(&Following { ranges: &ranges, clip }, &mut Alone).unwrap())
        };
        let moments = |twins: &mut Twins| {
            [&mut twins.device as &mut dyn Backend, &mut twins.processor]
                .map(|backend| backend.export().unwrap().moments[0].to_vec())
        };
        let [got, expected] = step(&mut twins, 1);
        assert!(!got.skipped && !expected.skipped && got.moved && expected.moved);
        for (got, expected) in got.squares.iter().zip(&expected.squares) {
            close(&format!("{name} squares"), *got, *expected, TOLERANCE);
        }
        let [got, expected] = moments(&mut twins);
        let norm = |x: &[f32]| x.iter().map(|&x| f64::from(x).powi(2)).sum::<f64>().sqrt();
        for range in [weights.clone(), gates.clone(), 0..layout.len()] {
            let [got, expected] = [&got, &expected].map(|all| norm(&all[range.clone()]));
            close(&format!("{name} clipped at {clip}"), got, expected, TOLERANCE);
        }
        let clipped = if are_clipped[1] { 0..layout.len() } else { weights.clone() };
        let free = clip == 0.0 || clip == 1e9;
        assert!(free || (norm(&got[clipped.clone()]) / clip - 1.0).abs() < 1e-3, "{name} clipped to {clip}");
        assert!(!free || norm(&got[clipped]) > 2e-2, "{name} is not clipped at {clip}");
        // A weight that is no number: neither moves, and both go on afterwards.
        let healthy = twins.device.export().unwrap().values.to_vec();
        let mut poisoned = healthy.clone();
        poisoned[weights.start + 7] = f32::NAN;
        twins.device.load(&poisoned, None).unwrap();
        twins.processor.load(&poisoned, None).unwrap();
        let before = moments(&mut twins);
        assert!(step(&mut twins, 2).iter().all(|gathered| gathered.skipped && gathered.moved));
        assert_eq!(moments(&mut twins), before, "{name}: moments stay");
        let bits = |values: &[f32]| values.iter().map(|value| value.to_bits()).collect::<Vec<_>>();
        assert_eq!(bits(&twins.device.export().unwrap().values), bits(&poisoned), "{name}: values stay");
        twins.device.load(&healthy, None).unwrap();
        twins.processor.load(&healthy, None).unwrap();
        assert!(step(&mut twins, 2).iter().all(|gathered| !gathered.skipped && gathered.moved));
        assert_ne!(moments(&mut twins), before);
    }
}

#[test]
fn a_steady_step_takes_no_memory() {
    let Some(device) = device("memory of a steady step") else { return };
    let (_, config) = families().remove(1);
    let mut twins = Twins::new(&device, &config, GateForm::votes(2, 5), false);
    let pruning =
        Pruning::Hard { floors: Floors::default(), shifts: &[], noise: Some(Noise { scale: 1.0, seed: 3 }) };
    let mut step = |number| {
        twins.pass(&pruning, 0.5);
        twins.update(rule(number, 1e-3, 0.9));
        device.memory().unwrap().0
    };
    step(1);
    let free = step(2);
    assert_eq!((3..6).map(step).collect::<Vec<_>>(), [free; 3]);
}

#[test]
fn frozen_weights_have_no_gradients_and_stay() {
    let Some(device) = device("frozen weights") else { return };
    let (_, config) = families().remove(3);
    let plan = WeightPlan::of(&config, &|_| false);
    let gates = Some(GateForm::votes(2, 5));
    let layout = Layout::new(&config, &plan, gates).holding_weights();
    let room = Room { sequences: 1, tokens: TOKENS, recompute: false };
    let values = initialize(&config, &plan, &layout, 3).unwrap();
    let border = layout.trained().start;
    let frozen = Plan {
        config: &config,
        plan: &plan,
        gates,
        factors: None,
        scales: &[],
        dtype: DType::Bf16,
        cache: DType::Bf16,
        room,
        layout: layout.clone(),
        held: &values[..border],
        still: Vec::new(),
        teacher: Teacher::Student,
    };
    let mut backend = Cuda::new(&device, &frozen).unwrap();
    let gates: Vec<f32> = (0..layout.trained().len()).map(|i| 0.3 * ((i * 37 % 19) as f32 - 9.0)).collect();
    backend.load(&gates, None).unwrap();
    let ids: Vec<u32> = (0..TOKENS).map(|i| (i * 11 % VOCABULARY) as u32).collect();
    let pruning = Pruning::Hard { floors: Floors::default(), shifts: &[], noise: None };
    let pass = Pass {
        ids: &ids,
        targets: &ids,
        pruning: &pruning,
        pull: Pull::PerEntry(&[0.1, 0.1]),
        scale: 0.01,
        distill: 0.5,
        part: 0,
        parts: 1,
    };
    let before = backend.evaluate(&ids, &ids, &Pruning::Dense).unwrap();
    backend.pass(&pass).unwrap();
    let groups = [layout.group(Group::Weights), layout.group(Group::Gates)];
    let gathered = backend.gather(&groups, &mut Alone).unwrap();
    assert!(gathered.squares[0] == 0.0 && gathered.squares[1] > 0.0, "{gathered:?}");
    assert!(gathered.loss.divergence > 0.0, "the student is its own teacher: {gathered:?}");
    follow(&mut backend, layout.group(Group::Gates), rule(1, 1e-2, 0.9));
    assert_ne!(backend.export().unwrap().values.to_vec(), gates);
    assert_eq!(backend.evaluate(&ids, &ids, &Pruning::Dense).unwrap(), before, "the dense model stays");
}

#[test]
fn gradients_at_embeddings_are_the_twins_where_all_parameters_are_held() {
    let Some(device) = device("gradients at embeddings") else { return };
    for (name, config) in families() {
        let plan = WeightPlan::of(&config, &|_| false);
        let layout = Layout::new(&config, &plan, None).holding_weights();
        let values = initialize(&config, &plan, &layout, 3).unwrap();
        let room = Room { sequences: 1, tokens: TOKENS, recompute: false };
        let held = Plan {
            config: &config,
            plan: &plan,
            gates: None,
            factors: None,
            scales: &[],
            dtype: DType::F32,
            cache: DType::F32,
            room,
            layout,
            held: &values,
            still: Vec::new(),
            teacher: Teacher::None,
        };
        let mut on_device = Cuda::new(&device, &held).unwrap();
        let network = Network::new(&config, &plan, None, &[]).unwrap().with_held_weights();
        let team = Team::new(2).unwrap();
        let mut processor = Processor::new(team, network, None, room, Vec::new(), values.clone());
        let ids: Vec<u32> = (0..TOKENS).map(|i| (i * 11 % VOCABULARY) as u32).collect();
        let mut targets = ids.clone();
        targets.rotate_left(1);
        targets[..TOKENS / 2].fill(IGNORE);
        let pass = Pass {
            ids: &ids,
            targets: &targets,
            pruning: &Pruning::Dense,
            pull: Pull::None,
            scale: 1.0,
            distill: 0.0,
            part: 0,
            parts: 1,
        };
        let [got, expected] = [&mut on_device as &mut dyn Backend, &mut processor].map(|backend| {
            backend.pass(&pass).unwrap();
            let loss = backend.gather(&[], &mut Alone).unwrap().loss;
            (loss, backend.input_gradients().unwrap().into_owned())
        });
        close(name, got.0.mean(), expected.0.mean(), 1e-5);
        assert_eq!(got.1.len(), expected.1.len(), "{name}");
        let largest = expected.1.iter().fold(0.0_f32, |most, value| most.max(value.abs()));
        let off = got.1.iter().zip(&expected.1).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        assert!(off <= TOLERANCE as f32 * largest && largest > 0.0, "{name}: {off} of {largest}");
    }
}
