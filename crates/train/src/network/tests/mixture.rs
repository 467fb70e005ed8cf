//! Mixtures of a window and a dense pass, as the original trains them.

use std::path::Path;

use dropcap_kernels::gated_attention::{GatedShape, Rule, Saved, Voter, forward};
use dropcap_kernels::{AttentionShape, RopeTable, Team, rope};
use dropcap_policy::Floors;
use dropcap_weights::TensorFile;

use super::super::mixture::Mixture;
use super::super::{Activations, Network, Pruning, Pull};
use super::families::{Scene, families};

/// Of a tensor's largest number, as the golden values' README allows.
const TOLERANCE: f32 = 1e-5;
const TOKENS: usize = 52;
const HIDDEN: usize = 48;
const HEADS: usize = 8;
const KV_HEADS: usize = 4;
const WIDTH: usize = 8;

/// `x W^T` in f64, `[rows, outputs]`.
fn product(x: &[f32], weight: &[f32], inputs: usize) -> Vec<f32> {
    let row = |x: &[f32], w: &[f32]| {
        x.iter().zip(w).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum::<f64>() as f32
    };
    x.chunks_exact(inputs).flat_map(|x| weight.chunks_exact(inputs).map(move |w| row(x, w))).collect()
}

#[test]
fn heads_mix_as_in_the_original() {
    // mit-han-lab/duo-attention@fe93c314: see tests/golden/README.md.
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/golden/duo/mix.safetensors");
    let file = TensorFile::open(&path).unwrap();
    let read = |name: &str| file.read_f32(name).unwrap();
    let team = Team::new(2).unwrap();
    let (query, key, value, output) = (read("w.q"), read("w.k"), read("w.v"), read("w.o"));
    let table = RopeTable {
        inv_freq: (0..WIDTH / 2).map(|pair| 10_000_f32.powf(-2.0 * pair as f32 / WIDTH as f32)).collect(),
        attention_scaling: 1.0,
    };
    let attend = |x: &[f32], floors: Option<Floors>| {
        let stride = (HEADS + 2 * KV_HEADS) * WIDTH;
        let [q, k, v] = [&query, &key, &value].map(|weight| product(x, weight, HIDDEN));
        let mut qkv = Vec::new();
        for row in 0..TOKENS {
            for (part, heads) in [(&q, HEADS), (&k, KV_HEADS), (&v, KV_HEADS)] {
                qkv.extend_from_slice(&part[row * heads * WIDTH..][..heads * WIDTH]);
            }
        }
        let positions: Vec<u32> = (0..TOKENS as u32).collect();
        rope(&team, &mut qkv, stride, 0, HEADS + KV_HEADS, WIDTH, &positions, &table).unwrap();
        let Floors { sinks, recent } = floors.unwrap_or_default();
        let shape = GatedShape {
            sequences: 1,
            tokens: TOKENS,
            attention: AttentionShape {
                query_heads: HEADS,
                kv_heads: KV_HEADS,
                head_dim: WIDTH,
                scale: (WIDTH as f32).sqrt().recip(),
            },
            gate_heads: 1,
            gate_width: 1,
            sliding_window: None,
            sinks,
            recent: recent.max(1),
        };
        let zeros = vec![0.0; TOKENS];
        let voters = [Voter { query_gates: &zeros, key_gates: &zeros, bias: &[-1e30] }];
        let voters = if floors.is_some() { &voters[..] } else { &[] };
        let (mut out, mut saved) = (vec![0.0; TOKENS * HEADS * WIDTH], Saved::new());
        forward(&team, &shape, Rule::Hard { noise: None }, voters, &qkv, stride, &mut out, &mut saved)
            .unwrap();
        out
    };
    let full = attend(&read("x"), None);
    for (case, (sinks, recent)) in [(4, 8), (2, 16), (0, 6), (1, 1)].into_iter().enumerate() {
        let shares = read(&format!("mix{case}.gates"));
        let mut mixed = attend(&read("x_streaming"), Some(Floors { sinks, recent }));
        let mixture = Mixture { shares: &shares, full: &full, width: HEADS / KV_HEADS * WIDTH, first: 0 };
        mixture.blend(&mut mixed, &mut Vec::new()).unwrap();
        let expected = read(&format!("mix{case}.out_mixed"));
        let largest = expected.iter().fold(0.0_f32, |largest, x| largest.max(x.abs()));
        for (ours, theirs) in product(&mixed, &output, HEADS * WIDTH).iter().zip(&expected) {
            assert!((ours - theirs).abs() <= TOLERANCE * largest, "mix{case}: {ours} {theirs}");
        }
    }
}

/// The distance under some shares, with its gradient's place filled.
fn distance(scene: &Scene, network: &Network, ids: &[u32], shares: &[f32], student: &mut Activations) -> f64 {
    let Scene { team, values, .. } = scene;
    let mut teacher = network.activations(2, 13, false);
    let full = network.attended(team, values, ids, &mut teacher).unwrap();
    let floors = vec![Floors { sinks: 1, recent: 3 }; network.config().layers];
    let pruning = Pruning::Mixed { floors: &floors, shares, full: &full };
    network.forward(team, values, &pruning, ids, student).unwrap();
    let counts: Vec<bool> = (0..26).map(|row| row % 5 > 1).collect();
    let distance = network.distance(teacher.hidden(), &counts, student).unwrap();
    network.backward(team, values, &pruning, Pull::None, student, &mut []).unwrap();
    distance
}

#[test]
fn shares_have_the_slope_of_the_distance_in_every_family() {
    for (name, config) in families() {
        let mut scene = Scene::new(&config, 1);
        let plan = dropcap_model::WeightPlan::of(&config, &|_| false);
        let mut network = Network::new(&config, &plan, None, &[]).unwrap().with_held_weights();
        // The scene's gates stand behind its weights.
        scene.values.truncate(network.layout().len());
        network.refill(&scene.team, &scene.values).unwrap();
        let ids: Vec<u32> = (0..26).map(|i| (i * 7 % 19) as u32).collect();
        let count = config.layers * config.kv_heads;
        let shares: Vec<f32> = (0..count).map(|i| 0.2 + 0.6 * i as f32 / count as f32).collect();
        let mut student = network.activations(2, 13, false);
        let at =
            |shares: &[f32], student: &mut Activations| distance(&scene, &network, &ids, shares, student);
        at(&shares, &mut student);
        let gradient = student.share_gradients().to_vec();
        assert!(gradient.iter().any(|d| d.abs() > 1e-4), "{name}: {gradient:?}");
        let mut again = network.activations(2, 13, true);
        at(&shares, &mut again);
        assert_eq!(again.share_gradients(), gradient, "{name}: with layers computed again");
        for (index, &gradient) in gradient.iter().enumerate() {
            let mut moved = |step: f32| {
                let mut shares = shares.clone();
                shares[index] += step;
                at(&shares, &mut student)
            };
            let step = 0.02;
            let slope = (moved(step) - moved(-step)) / f64::from(2.0 * step);
            let error = (slope - gradient).abs();
            assert!(error < 0.02 * gradient.abs() + 2e-4, "{name} {index}: {slope} {gradient}");
        }
        // All of the dense pass is the dense pass, and none of it is the window.
        let whole = at(&vec![1.0; count], &mut student);
        assert_eq!(whole, 0.0, "{name}");
        let floors = vec![Floors { sinks: 1, recent: 3 }; config.layers];
        at(&vec![-1.0; count], &mut student);
        let mut windows = network.activations(2, 13, false);
        let pruning = Pruning::Windows { floors: &floors };
        network.forward(&scene.team, &scene.values, &pruning, &ids, &mut windows).unwrap();
        assert_eq!(student.hidden(), windows.hidden(), "{name}");
        assert!(student.share_gradients().iter().all(|&d| d == 0.0), "{name}: shares below 0 stay there");
    }
}
