use std::collections::BTreeMap;

use dropcap_policy::conformance::{Scene, check, lifetimes};
use dropcap_policy::{Both, PromptBudget, Protected};

use super::*;
use crate::LayerGates;
use crate::streaming_llm::{StreamingLlm, When};

const NEVER: u32 = u32::MAX;
const SCENE: Scene =
    Scene { layers: 3, kv_heads: 2, hidden: 24, sequences: 3, prompt: 150, decoded: 60, seed: 5 };
/// A raw score closer to 0 than this may fall on either side in f32.
const UNDECIDABLE: f64 = 1e-5;

fn gates(bias: f32) -> Gates {
    let random = Gates::random(SCENE.layers, SCENE.hidden, 16, 11).unwrap();
    let layers: Vec<LayerGates> =
        random.layers().iter().map(|layer| LayerGates { bias: vec![bias], ..layer.clone() }).collect();
    Gates::new(SCENE.hidden, 16, layers).unwrap()
}

/// The rule of the paper in hard mode, one (query, key) pair at a time, in f64: per layer and position the first
/// query that refuses. `None` if a score is too close to call.
fn refusals(gates: &Gates, sequence: usize, layer: usize, tokens: usize) -> Vec<Option<u32>> {
    let (width, hidden) = (gates.width(), gates.hidden());
    let maps = &gates.layers()[layer];
    let project = |matrix: &[f32], position: usize| -> Vec<f64> {
        let state = SCENE.hidden_state(sequence, layer, position);
        let dot = |row: &[f32]| row.iter().zip(&state).map(|(&a, &b)| f64::from(a) * f64::from(b)).sum();
        matrix.chunks_exact(hidden).map(dot).collect()
    };
    let queries: Vec<Vec<f64>> = (0..tokens).map(|position| project(&maps.query, position)).collect();
    let keys: Vec<Vec<f64>> = (0..tokens).map(|position| project(&maps.key, position)).collect();
    (0..tokens)
        .map(|j| {
            for (n, query) in queries.iter().enumerate().skip(j + 1) {
                let dot: f64 = query.iter().zip(&keys[j]).map(|(a, b)| a * b).sum();
                let raw = dot / (width as f64).sqrt() + f64::from(maps.bias[0]);
                if raw.abs() < UNDECIDABLE {
                    return None;
                }
                if raw <= 0.0 {
                    return Some(n as u32);
                }
            }
            Some(NEVER)
        })
        .collect()
}

fn tokens_of(lives: &BTreeMap<(usize, usize, usize, u32), (u32, u32)>, sequence: usize) -> usize {
    lives.keys().filter(|key| key.0 == sequence && key.1 == 0).count()
}

#[test]
fn lifetimes_are_those_of_the_naive_rule() {
    let gates = gates(0.6);
    let lives = lifetimes(&dcp(&gates, false).unwrap(), &SCENE).unwrap();
    let (mut compared, mut died) = (0, 0);
    for sequence in 0..SCENE.sequences {
        for layer in 0..SCENE.layers {
            let expected = refusals(&gates, sequence, layer, tokens_of(&lives, sequence));
            for (position, refused_by) in expected.iter().enumerate() {
                let Some(refused_by) = *refused_by else { continue };
                let life = lives[&(sequence, layer, 0, position as u32)];
                assert_eq!(life, (refused_by, refused_by), "layer {layer}, position {position}");
                compared += 1;
                died += usize::from(refused_by != NEVER);
            }
        }
    }
    // A scene in which nothing or everything dies would prove little.
    assert!(died > compared / 4 && died < compared, "{died} of {compared} died");
}

#[test]
fn in_depth_an_entry_dies_with_the_first_layer_that_refuses_it() {
    let gates = gates(0.6);
    let lives = lifetimes(&dcp(&gates, true).unwrap(), &SCENE).unwrap();
    let tokens = SCENE.prompt + SCENE.decoded;
    let mut so_far = vec![Some(NEVER); tokens];
    for layer in 0..SCENE.layers {
        for (position, own) in refusals(&gates, 0, layer, tokens).into_iter().enumerate() {
            so_far[position] = so_far[position].zip(own).map(|(below, own)| below.min(own));
            let Some(expected) = so_far[position] else { continue };
            assert_eq!(lives[&(0, layer, 0, position as u32)], (expected, expected), "layer {layer}");
        }
    }
}

/// One gate per KV head: each head has its own rows and bias.
fn gates_per_head() -> Gates {
    let heads: Vec<Gates> = (0..SCENE.kv_heads)
        .map(|head| Gates::random(SCENE.layers, SCENE.hidden, 16, 20 + head as u64).unwrap())
        .collect();
    let layers = (0..SCENE.layers).map(|layer| LayerGates {
        query: heads.iter().flat_map(|head| head.layers()[layer].query.clone()).collect(),
        key: heads.iter().flat_map(|head| head.layers()[layer].key.clone()).collect(),
        bias: (0..SCENE.kv_heads).map(|head| 0.5 + 0.3 * head as f32).collect(),
    });
    Gates::new(SCENE.hidden, 16, layers.collect()).unwrap()
}

#[test]
fn with_a_gate_per_head_each_head_follows_its_own_rule() {
    let gates = gates_per_head();
    let lives = lifetimes(&dcp(&gates, false).unwrap(), &SCENE).unwrap();
    let rows = 16 * SCENE.hidden;
    let mut differ = 0;
    for head in 0..SCENE.kv_heads {
        let alone = gates.layers().iter().map(|layer| LayerGates {
            query: layer.query[head * rows..][..rows].to_vec(),
            key: layer.key[head * rows..][..rows].to_vec(),
            bias: vec![layer.bias[head]],
        });
        let alone = Gates::new(SCENE.hidden, 16, alone.collect()).unwrap();
        for layer in 0..SCENE.layers {
            for (position, refused_by) in refusals(&alone, 0, layer, SCENE.prompt).into_iter().enumerate() {
                let Some(refused_by) = refused_by.filter(|&query| query != NEVER) else { continue };
                assert_eq!(
                    lives[&(0, layer, head, position as u32)].0,
                    refused_by,
                    "layer {layer}, head {head}"
                );
                differ += usize::from(lives[&(0, layer, 1 - head, position as u32)].0 != refused_by);
            }
        }
    }
    assert!(differ > 50, "the heads hardly differ: {differ}");
}

#[test]
fn a_gate_per_head_conforms_alone_and_beside_others() {
    let policy = dcp(&gates_per_head(), true).unwrap();
    check(&policy, &SCENE).unwrap();
    check(&Both::new(&policy, dcp(&gates(0.4), false).unwrap()), &SCENE).unwrap();
    let fewer = Scene { kv_heads: 3, ..SCENE };
    let message = check(&policy, &fewer).unwrap_err().to_string();
    assert!(message.contains("gate heads in layer 0: expected 2, got 3"), "{message}");
}

#[test]
fn it_conforms_whatever_the_bias() {
    for bias in [-1e30, 0.0, 0.6, 1e30] {
        for in_depth in [false, true] {
            let policy = dcp(&gates(bias), in_depth).unwrap();
            check(&policy, &SCENE).unwrap_or_else(|violation| panic!("bias {bias}: {violation}"));
        }
    }
}

#[test]
fn it_conforms_beside_a_window() {
    let window = &StreamingLlm { sinks: 4, when: When::Rolling { recent: 40 } }.rules();
    let policy = dcp(&gates(0.6), true).unwrap();
    check(&Both::new(window, &policy), &SCENE).unwrap();
    check(&Both::new(&policy, window), &SCENE).unwrap();
    let cut = StreamingLlm { sinks: 4, when: When::PrefillEnd(PromptBudget::Share(0.3)) }.rules();
    check(&Both::new(&policy, cut), &SCENE).unwrap();
    check(&Both::new(&policy, dcp(&gates(0.4), false).unwrap()), &SCENE).unwrap();
}

#[test]
fn gates_that_refuse_everything_leave_each_token_itself_and_the_floors() {
    let policy = dcp(&gates(-1e30), false).unwrap();
    for ((_, _, _, position), life) in lifetimes(&policy, &SCENE).unwrap() {
        assert!(life.0 == position + 1 || life.0 == NEVER, "{position}: {life:?}");
    }
    let protected = Protected::new(policy, 3, 9);
    for ((sequence, _, _, position), life) in lifetimes(&protected, &SCENE).unwrap() {
        let refused = position >= 3 && (sequence > 0 || position < (SCENE.prompt + SCENE.decoded - 1) as u32);
        if refused && life.0 != NEVER {
            assert_eq!(life, (position + 9, position + 1));
        } else if sequence == 0 {
            assert_eq!(life, (NEVER, NEVER), "{position}");
        }
    }
}

#[test]
fn another_model_is_refused_with_both_numbers() {
    let policy = dcp(&gates(0.0), false).unwrap();
    let wider = Scene { hidden: 32, ..SCENE };
    let message = check(&policy, &wider).unwrap_err().to_string();
    assert!(message.contains("hidden states"), "{message}");
    let deeper = Scene { layers: 4, ..SCENE };
    let message = check(&policy, &deeper).unwrap_err().to_string();
    assert!(message.contains("number of layers in layer 3: expected 3, got 4"), "{message}");
}

/// Gates that decide at birth, for the layer or per head, under floors.
fn birth_gates(heads: usize, bias: f32, floors: Floors) -> Gates {
    let random = Gates::random(SCENE.layers, SCENE.hidden, heads, 31).unwrap();
    let layers = random.layers().iter().map(|layer| LayerGates {
        query: Vec::new(),
        key: layer.key.clone(),
        bias: (0..heads).map(|head| bias + 0.4 * head as f32).collect(),
    });
    Gates::at_birth(SCENE.hidden, layers.collect()).unwrap().under(floors)
}

#[test]
fn gates_at_birth_decide_by_the_token_alone_and_floors_are_their_window() {
    for heads in [1, SCENE.kv_heads] {
        for floors in [Floors::default(), Floors { sinks: 3, recent: 9 }] {
            let gates = birth_gates(heads, -0.3, floors);
            let policy = dcp(&gates, false).unwrap();
            assert!(policy.side_channels().is_empty(), "nothing is kept with an entry");
            assert_eq!(policy.per_head(), heads > 1);
            let lives = lifetimes(&policy, &SCENE).unwrap();
            let (mut compared, mut died) = (0, 0);
            for (&(sequence, layer, lane, position), &life) in &lives {
                let maps = &gates.layers()[layer];
                let state = SCENE.hidden_state(sequence, layer, position as usize);
                let row = &maps.key[lane * SCENE.hidden..][..SCENE.hidden];
                let product: f64 = row.iter().zip(&state).map(|(&a, &b)| f64::from(a) * f64::from(b)).sum();
                let score = product + f64::from(maps.bias[lane]);
                let last = tokens_of(&lives, sequence) as u32;
                // The run ends before the last ones would be gone.
                if score.abs() < UNDECIDABLE || position + 1 >= last {
                    continue;
                }
                let expected = if score > 0.0 || position < floors.sinks {
                    (NEVER, NEVER)
                } else {
                    (position + floors.recent.max(1), position + 1)
                };
                assert_eq!(life, expected, "layer {layer}, lane {lane}, position {position}");
                compared += 1;
                died += usize::from(expected.0 != NEVER);
            }
            assert!(died > compared / 4 && died < compared * 9 / 10, "{died} of {compared} died");
        }
    }
}

#[test]
fn gates_at_birth_conform_alone_and_beside_others() {
    let floors = Floors { sinks: 2, recent: 7 };
    for bias in [-1e30, -0.3, 0.4, 1e30, f32::NAN] {
        for heads in [1, SCENE.kv_heads] {
            let policy = dcp(&birth_gates(heads, bias, floors), false).unwrap();
            check(&policy, &SCENE).unwrap_or_else(|violation| panic!("bias {bias}: {violation}"));
        }
    }
    let policy = dcp(&birth_gates(SCENE.kv_heads, -0.3, Floors::default()), true).unwrap();
    check(&policy, &SCENE).unwrap();
    check(&Both::new(&policy, dcp(&gates(0.4), false).unwrap()), &SCENE).unwrap();
    let window = StreamingLlm { sinks: 4, when: When::Rolling { recent: 40 } }.rules();
    check(&Both::new(window, &policy), &SCENE).unwrap();
}

#[test]
fn gates_at_birth_of_another_model_are_refused_with_both_numbers() {
    let policy = dcp(&birth_gates(SCENE.kv_heads, 0.0, Floors::default()), false).unwrap();
    for (scene, words) in [
        (Scene { hidden: 32, ..SCENE }, "hidden states"),
        (Scene { layers: 4, ..SCENE }, "number of layers in layer 3: expected 3, got 4"),
        (Scene { kv_heads: 3, ..SCENE }, "gate heads in layer 0: expected 2, got 3"),
    ] {
        let message = check(&policy, &scene).unwrap_err().to_string();
        assert!(message.contains(words), "{message}");
    }
}
