//! Gradients of every family against differences of the loss.

use dropcap_kernels::cross_entropy::IGNORE;
use dropcap_kernels::{AlphaSigmoid, DType, Team};
use dropcap_model::{DecoderConfig, WeightPlan};
use dropcap_policy::Floors;

use super::super::{GateForm, Gradients, Group, Network, Noise, Pruning, Pull, initialize};
use crate::tiny::{self, Tiny};

const VOCABULARY: usize = 19;
pub(super) const TOKENS: usize = 13;
pub(super) const SEQUENCES: usize = 2;

pub(super) fn families() -> Vec<(&'static str, DecoderConfig)> {
    tiny::families(Tiny {
        hidden: 12,
        hidden_of_qwen2: 16,
        head_dim: 4,
        intermediate: 20,
        vocabulary: VOCABULARY,
        positions: 32,
        window: 5,
    })
}

pub(super) struct Scene {
    pub(super) team: Team,
    pub(super) network: Network,
    pub(super) values: Vec<f32>,
    pub(super) ids: Vec<u32>,
    pub(super) targets: Vec<u32>,
}

impl Scene {
    pub(super) fn new(config: &DecoderConfig, heads: usize) -> Self {
        Self::of(config, GateForm::votes(heads, 3))
    }

    pub(super) fn of(config: &DecoderConfig, form: GateForm) -> Self {
        let plan = WeightPlan::of(config, &|_| false);
        let scales = vec![(0..config.hidden).map(|i| 0.5 + 0.1 * i as f32).collect(); config.layers];
        let network = Network::new(config, &plan, Some(form), &scales).unwrap();
        let mut values = initialize(config, &plan, network.layout(), 3).unwrap();
        // Larger than a fresh model's, so that every nonlinearity bends.
        let mut state = 1_u64;
        for slot in network.layout().slots() {
            for value in &mut values[slot.range.clone()] {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                *value += 0.4 * ((state >> 40) as f32 / (1_u64 << 23) as f32 - 1.0);
            }
        }
        let ids = (0..SEQUENCES * TOKENS).map(|i| (i * 7 % VOCABULARY) as u32).collect();
        let mut targets: Vec<u32> = (0..SEQUENCES * TOKENS).map(|i| (i * 5 % VOCABULARY) as u32).collect();
        targets[4] = IGNORE;
        Self { team: Team::new(2).unwrap(), network, values, ids, targets }
    }

    /// The loss, in f64 from f32 sums, and the gradient if asked for.
    pub(super) fn loss(
        &mut self,
        values: &[f32],
        pruning: &Pruning<'_>,
        gradients: Option<&mut [f32]>,
    ) -> f64 {
        let Self { team, network, ids, targets, .. } = self;
        network.refill(team, values).unwrap();
        let mut activations = network.activations(SEQUENCES, TOKENS, false);
        network.forward(team, values, pruning, ids, &mut activations).unwrap();
        let scale = 1.0 / (SEQUENCES * TOKENS - 1) as f32;
        match gradients {
            None => network.loss(team, values, targets, None, &mut activations, None).unwrap().mean(),
            Some(all) => {
                let loss = network
                    .loss(team, values, targets, None, &mut activations, Some(Gradients { scale, into: all }))
                    .unwrap();
                network.backward(team, values, pruning, Pull::None, &mut activations, all).unwrap();
                loss.mean()
            }
        }
    }

    /// Compares the gradient along random directions of each tensor with central differences.
    pub(super) fn check(&mut self, what: &str, pruning: &Pruning<'_>, skip: &dyn Fn(&str) -> bool) {
        let values = self.values.clone();
        let mut gradients = vec![0.0; values.len()];
        self.loss(&values, pruning, Some(&mut gradients));
        let slots = self.network.layout().slots().to_vec();
        for slot in slots.iter().filter(|slot| !skip(&slot.name)) {
            let gradient = &gradients[slot.range.clone()];
            let norm = gradient.iter().map(|&g| f64::from(g) * f64::from(g)).sum::<f64>().sqrt();
            if norm < 1e-4 {
                // Too flat for differences in f32; a key bias has no gradient at all.
                continue;
            }
            // Along the gradient itself the slope is its norm.
            let step = 2e-3 / norm.max(0.05);
            let mut moved = |sign: f64| {
                let mut moved = values.clone();
                for (value, &g) in moved[slot.range.clone()].iter_mut().zip(gradient) {
                    *value += (sign * step * f64::from(g) / norm) as f32;
                }
                self.loss(&moved, pruning, None)
            };
            let slope = (moved(1.0) - moved(-1.0)) / (2.0 * step);
            let error = (slope - norm).abs();
            assert!(error < 0.02 * norm + 3e-4, "{what} {}: slope {slope}, norm {norm}", slot.name);
        }
    }
}

#[test]
fn every_family_s_gradient_is_the_slope_of_its_loss() {
    for (name, config) in families() {
        Scene::new(&config, 1).check(name, &Pruning::Dense, &|name| name.contains(".gate."));
    }
}

#[test]
fn soft_gates_have_the_slope_of_the_loss_in_every_family() {
    let curve = AlphaSigmoid::new(1.5).unwrap();
    let floors = Floors { sinks: 1, recent: 2 };
    for (name, config) in families() {
        for in_depth in [false, true] {
            let pruning = Pruning::Soft { curve: &curve, in_depth, floors };
            Scene::new(&config, config.kv_heads).check(name, &pruning, &|_| false);
        }
    }
}

#[test]
fn a_layer_that_is_computed_twice_gives_the_same_gradient() {
    let (_, config) = families().remove(4);
    let mut scene = Scene::new(&config, 2);
    let noise = Some(Noise { scale: 0.7, seed: 5 });
    let shifts = [0.1, -0.2];
    let pruning = Pruning::Hard { floors: Floors { sinks: 1, recent: 2 }, shifts: &shifts, noise };
    let values = scene.values.clone();
    scene.network.refill(&scene.team, &values).unwrap();
    let mut results = Vec::new();
    for recompute in [false, true] {
        let mut activations = scene.network.activations(SEQUENCES, TOKENS, recompute);
        let mut gradients = vec![0.0; values.len()];
        let Scene { team, network, ids, targets, .. } = &scene;
        network.forward(team, &values, &pruning, ids, &mut activations).unwrap();
        network
            .loss(
                team,
                &values,
                targets,
                None,
                &mut activations,
                Some(Gradients { scale: 0.1, into: &mut gradients }),
            )
            .unwrap();
        let pull = Pull::PerEntry(&[0.01, 0.02]);
        let met = network.backward(team, &values, &pruning, pull, &mut activations, &mut gradients).unwrap();
        assert!(met.iter().all(|met| met.weight > 0.0));
        results.push((gradients, met));
    }
    assert_eq!(results[0], results[1]);
}

#[test]
fn weights_that_are_held_cost_no_gradients_and_change_none_of_the_gates() {
    let (_, config) = families().remove(1);
    let pruning = Pruning::Hard { floors: Floors { sinks: 1, recent: 2 }, shifts: &[0.1, -0.2], noise: None };
    let [free, held] = [false, true].map(|held| {
        let mut scene = Scene::new(&config, 2);
        if held {
            scene.network = scene.network.with_held_weights();
        }
        let layout = scene.network.layout();
        let (gates, trained) = (layout.group(Group::Gates), layout.trained());
        let (values, mut gradients) = (scene.values.clone(), vec![0.0; trained.len()]);
        scene.loss(&values, &pruning, Some(&mut gradients));
        gradients[gates.start - trained.start..gates.end - trained.start].to_vec()
    });
    assert_eq!(free, held);
    assert!(held.iter().any(|&gradient| gradient != 0.0));
}

#[test]
fn what_a_cache_of_sixteen_bits_holds_is_rounded_and_the_queries_are_not() {
    for (name, config) in families() {
        let mut scene = Scene::new(&config, config.kv_heads);
        scene.network = scene.network.cached_as(DType::Bf16);
        let (team, values) = (&scene.team, scene.values.clone());
        scene.network.refill(team, &values).unwrap();
        let mut activations = scene.network.activations(SEQUENCES, TOKENS, false);
        let pruning = Pruning::Hard { floors: Floors { sinks: 1, recent: 2 }, shifts: &[], noise: None };
        scene.network.forward(team, &values, &pruning, &scene.ids, &mut activations).unwrap();
        let is_bf16 = |x: &f32| x.to_bits() & 0xffff == 0;
        for (layer, gates) in activations.layers.iter().zip(&activations.gates) {
            let width = config.query_width();
            for row in layer.qkv.chunks_exact(width + 2 * config.key_width()) {
                assert!(row[width..].iter().all(is_bf16), "{name}");
                assert!(!row[..width].iter().all(is_bf16), "{name}");
            }
            assert!(gates.key.iter().all(is_bf16) && !gates.query.iter().all(is_bf16), "{name}");
        }
    }
}
