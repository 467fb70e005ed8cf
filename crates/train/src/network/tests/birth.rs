//! Gates that decide at birth: votes whose query gates are all 1, and nothing else.

use dropcap_kernels::{AlphaSigmoid, DType};
use dropcap_model::DecoderConfig;
use dropcap_policy::Floors;

use super::super::{GateForm, Gradients, Noise, Pruning, Pull};
use super::families::{SEQUENCES, Scene, TOKENS, families};

const FLOORS: Floors = Floors { sinks: 1, recent: 3 };

/// A family whose norms have a bias, so that a channel can be 1 for every token.
fn gpt2() -> DecoderConfig {
    families().remove(0).1
}

/// Lets the first channel of the gates' input be 1 for every token of every layer.
fn hold_first_channel(scene: &mut Scene) {
    let layout = scene.network.layout();
    for slot in layout.slots().iter().filter(|slot| slot.name.contains("ln_1")) {
        scene.values[slot.range.start] = if slot.name.ends_with("bias") { 1.0 } else { 0.0 };
    }
}

/// A scene whose query maps give 1 for every token, and the same with gates that have no such maps.
fn twins(heads: usize) -> [Scene; 2] {
    let config = gpt2();
    let mut votes = Scene::of(&config, GateForm::votes(heads, 1));
    let mut birth = Scene::of(&config, GateForm::at_birth(heads));
    hold_first_channel(&mut votes);
    for slot in votes.network.layout().slots() {
        let values = &mut votes.values[slot.range.clone()];
        if slot.name.ends_with("query.weight") {
            for row in values.chunks_exact_mut(config.hidden) {
                row.fill(0.0);
                // The scale of the first channel is a half.
                row[0] = 2.0;
            }
        }
        // Scores on both sides of the threshold.
        if slot.name.ends_with("gate.bias") {
            values.iter_mut().enumerate().for_each(|(head, bias)| *bias = -0.1 - 0.2 * head as f32);
        }
    }
    for slot in birth.network.layout().slots().to_vec() {
        let of = votes.network.layout().range(&slot.name).unwrap();
        birth.values[slot.range].copy_from_slice(&votes.values[of]);
    }
    [votes, birth]
}

/// Lifetimes of all layers, the gradient, and what the gates met.
type Came = (Vec<Vec<u32>>, Vec<f32>, Vec<super::super::Pressure>);

fn went(scene: &mut Scene, pruning: &Pruning<'_>, recompute: bool) -> Came {
    let values = scene.values.clone();
    let Scene { team, network, ids, targets, .. } = scene;
    network.refill(team, &values).unwrap();
    let mut activations = network.activations(SEQUENCES, TOKENS, recompute);
    let mut gradients = vec![0.0; values.len()];
    network.forward(team, &values, pruning, ids, &mut activations).unwrap();
    let into = Gradients { scale: 0.1, into: &mut gradients };
    network.loss(team, &values, targets, None, &mut activations, Some(into)).unwrap();
    let pull = Pull::PerEntry(&[0.01, -0.02]);
    let met = network.backward(team, &values, pruning, pull, &mut activations, &mut gradients).unwrap();
    let layers = network.config().layers;
    ((0..layers).map(|layer| activations.expires_at(layer).to_vec()).collect(), gradients, met)
}

#[test]
fn they_are_votes_with_constant_queries_bit_for_bit() {
    for heads in [1, 2] {
        for noise in [None, Some(Noise { scale: 0.5, seed: 3 })] {
            let [mut votes, mut birth] = twins(heads);
            let pruning = Pruning::Hard { floors: FLOORS, shifts: &[0.05, -0.1], noise };
            let (expected, voted, met) = went(&mut votes, &pruning, false);
            let (got, judged, met_at_birth) = went(&mut birth, &pruning, true);
            assert_eq!(got, expected);
            assert_eq!(met_at_birth, met);
            let ends = got.iter().flatten().filter(|&&end| end < TOKENS as u32).count();
            assert!(ends > 4 && ends < got[0].len() * got.len() * 2 / 3, "{ends}");
            for slot in birth.network.layout().slots() {
                let of = votes.network.layout().range(&slot.name).unwrap();
                // What is learned of the constant channel itself is another thing.
                let held = usize::from(slot.name.contains("ln_1"));
                let (judged, voted) = (&judged[slot.range.clone()][held..], &voted[of][held..]);
                assert!(judged == voted, "{}: {judged:?} {voted:?}", slot.name);
            }
            let moved =
                |name: &str| judged[birth.network.layout().range(name).unwrap()].iter().any(|&g| g != 0.0);
            assert!(moved("layers.0.gate.key.weight") && moved("layers.1.gate.key.weight"));
        }
    }
}

#[test]
fn an_entry_ends_behind_its_window_iff_its_own_score_says_so() {
    for (name, config) in families() {
        let heads = config.kv_heads;
        let mut scene = Scene::of(&config, GateForm::at_birth(heads));
        let (shifts, values) = ([0.2, -0.3], scene.values.clone());
        let pruning = Pruning::Hard { floors: FLOORS, shifts: &shifts, noise: None };
        let Scene { team, network, ids, .. } = &mut scene;
        network.refill(team, &values).unwrap();
        let mut activations = network.activations(SEQUENCES, TOKENS, false);
        network.forward(team, &values, &pruning, ids, &mut activations).unwrap();
        let (mut kept, mut ended) = (0, 0);
        for (layer, shift) in shifts.into_iter().enumerate() {
            let of =
                |part: &str| &values[network.layout().range(&format!("layers.{layer}.gate.{part}")).unwrap()];
            let (map, bias) = (of("key.weight"), of("bias"));
            for (row, input) in activations.attention_input(layer).chunks_exact(config.hidden).enumerate() {
                let (sequence, token) = (row / TOKENS, row % TOKENS);
                for head in 0..heads {
                    let scaled =
                        input.iter().enumerate().map(|(i, &x)| f64::from(x) * (0.5 + 0.1 * i as f64));
                    let weights = &map[head * config.hidden..][..config.hidden];
                    let product: f64 = scaled.zip(weights).map(|(x, &w)| x * f64::from(w)).sum();
                    let score = product + f64::from(bias[head]) - f64::from(shift);
                    if score.abs() < 1e-5 {
                        continue;
                    }
                    // A sliding window of the model is none of the gates' business.
                    let end = activations.expires_at(layer)[(sequence * heads + head) * TOKENS + token];
                    let keeps = score > 0.0 || token < FLOORS.sinks as usize;
                    let due = token as u32 + FLOORS.recent;
                    let window =
                        config.sliding_window[layer].map_or(u32::MAX, |window| token as u32 + window);
                    if keeps {
                        assert!(
                            end >= window.min(TOKENS as u32),
                            "{name}, layer {layer}, token {token}: {end}"
                        );
                        kept += 1;
                    } else if due < TOKENS as u32 {
                        assert_eq!(end, due.min(window), "{name}, layer {layer}, token {token}");
                        ended += 1;
                    }
                }
            }
        }
        assert!(kept > 10 && ended > 10, "{name}: {kept} {ended}");
    }
}

#[test]
fn their_map_has_the_slope_of_the_loss_where_votes_are_soft() {
    // No configuration trains them so; but there the loss has a slope, and maps, scales and biases are the same.
    let curve = AlphaSigmoid::new(1.5).unwrap();
    for (name, config) in families() {
        let pruning = Pruning::Soft { curve: &curve, in_depth: false, floors: FLOORS };
        Scene::of(&config, GateForm::at_birth(config.kv_heads)).check(name, &pruning, &|_| false);
    }
}

#[test]
fn no_cache_rounds_what_is_decided_at_birth() {
    let (_, config) = families().remove(1);
    let mut scene = Scene::of(&config, GateForm::at_birth(2));
    scene.network = scene.network.cached_as(DType::Bf16);
    let values = scene.values.clone();
    scene.network.refill(&scene.team, &values).unwrap();
    let mut activations = scene.network.activations(SEQUENCES, TOKENS, false);
    let pruning = Pruning::Hard { floors: FLOORS, shifts: &[], noise: None };
    scene.network.forward(&scene.team, &values, &pruning, &scene.ids, &mut activations).unwrap();
    for gates in &activations.gates {
        assert!(!gates.key.iter().all(|x| x.to_bits() & 0xffff == 0));
        assert!(gates.query.iter().all(|&query| query == 1.0));
    }
}

#[test]
fn there_is_no_query_map_in_their_layout() {
    let scene = Scene::of(&gpt2(), GateForm::at_birth(2));
    let names: Vec<&str> = scene.network.layout().slots().iter().map(|slot| slot.name.as_str()).collect();
    assert!(names.contains(&"layers.1.gate.key.weight") && names.contains(&"layers.1.gate.bias"));
    assert!(!names.iter().any(|name| name.contains("query")), "{names:?}");
}
