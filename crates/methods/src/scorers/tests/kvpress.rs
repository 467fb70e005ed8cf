//! Scores and kept positions of kvpress' presses on a tiny Llama (`tests/golden/README.md`).

use super::*;
use crate::budgets::{ada_safeguarded, kept, pyramid_share};
use crate::golden::{Golden, assert_scores, counts};
use crate::scorers::*;

/// The README allows leverage, and what is made of it, 1e-4 of the score itself; scores there are of the order of 1.
const LEVERAGE: f32 = 1e-4;

/// One layer's tensors, per KV head.
pub(crate) struct Layer {
    d: usize,
    n: usize,
    group: usize,
    raw_queries: Vec<Vec<f32>>,
    pub(crate) queries: Vec<Vec<f32>>,
    raw_keys: Vec<Vec<f32>>,
    pub(crate) keys: Vec<Vec<f32>>,
    values: Vec<Vec<f32>>,
}

impl Layer {
    pub(crate) fn all(golden: &Golden) -> Vec<Self> {
        let [layers, kv_heads, n, d] = golden.shape("keys")[..] else { panic!("four dimensions") };
        let group = golden.shape("queries")[1] / kv_heads;
        let (cosines, sines) = (golden.floats("cos"), golden.floats("sin"));
        let split = |name: &str, layer: usize| {
            let numbers = golden.floats(name);
            let head = numbers.len() / layers / kv_heads;
            numbers[layer * kv_heads * head..][..kv_heads * head]
                .chunks_exact(head)
                .map(<[f32]>::to_vec)
                .collect::<Vec<_>>()
        };
        let rotated = |heads: &[Vec<f32>]| {
            let mut heads = heads.to_vec();
            for (at, row) in heads.iter_mut().flat_map(|head| head.chunks_exact_mut(d).enumerate()) {
                let (half, position) = (d / 2, at % n);
                let angle = position * half..(position + 1) * half;
                crate::scorers::rotation::turned(row, &cosines[angle.clone()], &sines[angle]);
            }
            heads
        };
        (0..layers)
            .map(|layer| {
                let (raw_queries, raw_keys) = (split("queries", layer), split("keys", layer));
                let (queries, keys) = (rotated(&raw_queries), rotated(&raw_keys));
                Self { d, n, group, raw_queries, queries, raw_keys, keys, values: split("values", layer) }
            })
            .collect()
    }

    pub(crate) fn heads(&self) -> usize {
        self.keys.len()
    }

    pub(crate) fn width(&self) -> usize {
        self.d
    }

    pub(crate) fn tokens(&self) -> usize {
        self.n
    }

    /// Per head, the mass of the last `w` queries.
    fn masses(&self, w: usize) -> Vec<Vec<f32>> {
        let first = self.n - w;
        let head = |head: usize| {
            let queries = rows(&self.queries[head], self.group, self.d, first..self.n);
            mass(&queries, &self.keys[head], self.d, self.group, |row| first + row + 1)
        };
        (0..self.heads()).map(head).collect()
    }

    fn each(&self, score: impl Fn(usize) -> Vec<f32>) -> Vec<Vec<f32>> {
        (0..self.heads()).map(score).collect()
    }
}

fn snapkv(layer: &Layer, window: usize) -> Vec<Vec<f32>> {
    let settings = SnapKv { window, kernel: 5, pooling: Pooling::Average, reduction: Reduction::Mean };
    layer.masses(window).iter().map(|mass| settings.score(mass, layer.group)).collect()
}

fn expected(layer: &Layer, golden: &Golden, settings: ExpectedAttention, future: usize) -> Vec<Vec<f32>> {
    let half = layer.d / 2;
    let (cosines, sines) = (golden.floats("cos"), golden.floats("sin"));
    let ahead = cosines.chunks_exact(half).zip(sines.chunks_exact(half)).skip(layer.n).take(future);
    let (cosines, sines) = mean_rotation(ahead).unwrap();
    layer.each(|head| {
        let queries = rows(&layer.raw_queries[head], layer.group, layer.d, settings.sinks..layer.n);
        let (keys, values) = (&layer.keys[head], &layer.values[head]);
        let scale = 1.0 / (layer.d as f32).sqrt();
        settings.score(&queries, keys, values, (layer.d, layer.group), scale, (&cosines, &sines))
    })
}

/// Leverage and attention of the entries between `first` and `last`.
fn parts(
    layer: &Layer,
    golden: &Golden,
    index: usize,
    ends: (usize, usize),
) -> (Vec<Vec<f32>>, Vec<Vec<f32>>) {
    let (d, inner) = (layer.d, ends.0..layer.n - ends.1);
    let phi = golden.floats("phi");
    let k = golden.shape("phi")[3];
    let leverages = layer.each(|head| {
        let sketch: Vec<f32> = phi[(index * layer.heads() + head) * d * k..][..d * k]
            .iter()
            .map(|number| number / (k as f32).sqrt())
            .collect();
        leverage(&layer.raw_keys[head][inner.start * d..inner.end * d], d, &sketch)
    });
    let attention = layer.each(|head| {
        let queries = rows(&layer.queries[head], layer.group, d, inner.clone());
        let part = |numbers: &[f32]| numbers[inner.start * d..inner.end * d].to_vec();
        non_causal_attention(
            &queries,
            &part(&layer.keys[head]),
            &part(&layer.values[head]),
            (d, layer.group),
            32,
        )
    });
    (leverages, attention)
}

fn score(press: &str, layer: &Layer, golden: &Golden, index: usize, removed: f64) -> Vec<Vec<f32>> {
    let d = layer.d;
    let attention = ExpectedAttention { sinks: 4, covariance: true, value_norm: true, epsilon: 0.0 };
    let lag = |across| {
        let settings = LagKv { sinks: 4, lag: 16, across };
        layer.each(|head| settings.score(&layer.keys[head], &layer.values[head], d))
    };
    match press {
        "knorm" => layer.each(|head| knorm(&layer.keys[head], d)),
        "keydiff" | "adakv_keydiff" => layer.each(|head| keydiff(&layer.keys[head], d)),
        "snapkv" | "adakv_snapkv" => snapkv(layer, 16),
        "pyramidkv" => snapkv(layer, 8),
        "expected_attention" => expected(layer, golden, attention, 64),
        "expected_attention_nocov" => expected(
            layer,
            golden,
            ExpectedAttention { covariance: false, value_norm: false, ..attention },
            64,
        ),
        "expected_attention_eps" => {
            expected(layer, golden, ExpectedAttention { sinks: 2, epsilon: 0.01, ..attention }, 48)
        }
        "lagkv" => lag(false),
        "lagkv_cross" => lag(true),
        "leverage" => compactor::z_scores(parts(layer, golden, index, (0, 0)).0),
        "non_causal_attn" => compactor::z_scores(parts(layer, golden, index, (0, 0)).1),
        "compactor" => {
            let (leverage, attention) = parts(layer, golden, index, (8, 4));
            Compactor { first: 8, last: 4, blending: removed as f32 }.score(leverage, attention)
        }
        other => panic!("{other}"),
    }
}

/// How many entries each head keeps.
fn lengths(
    press: &str,
    layer: &Layer,
    golden: &Golden,
    index: usize,
    scores: &[Vec<f32>],
    removed: f64,
) -> Vec<usize> {
    let uniform = (layer.n as f64 * (1.0 - removed)) as usize;
    let count = match press {
        "pyramidkv" => {
            let (layers, index) = (count_of_layers(golden), counts(&golden.json["layers"])[index]);
            pyramid_share(index, layers, layer.n, 1.0 - removed, 8, 10.0)
        }
        "adakv_snapkv" => return ada_safeguarded(scores, uniform, 0.2),
        "adakv_keydiff" => return ada_safeguarded(scores, uniform, 0.3),
        _ => uniform,
    };
    vec![count; layer.heads()]
}

fn count_of_layers(golden: &Golden) -> usize {
    crate::golden::count(&golden.json["of"])
}

#[test]
fn presses_score_and_keep_as_kvpress_does() {
    let golden = Golden::open("kvpress");
    let presses = golden.json["presses"].as_object().unwrap();
    assert_eq!(presses.len(), 16);
    for (index, layer) in Layer::all(&golden).iter().enumerate() {
        for (press, kept_by_ratio) in presses {
            if ["tova", "observed_attention"].contains(&press.as_str()) {
                // What they are worth is summed where they run, and held there (`played/kvpress.rs`).
                continue;
            }
            for (ratio, kept_by_layer) in kept_by_ratio.as_object().unwrap() {
                let removed: f64 = ratio[1..].parse().unwrap();
                let what = format!("{press} {ratio}, layer {index}");
                let ours = score(press, layer, &golden, index, removed);
                let stored =
                    format!("{press}.{}.scores", if press == "compactor" { ratio.as_str() } else { "r0.5" });
                let theirs = golden.floats(&stored);
                let theirs = &theirs[index * layer.heads() * layer.n..][..layer.heads() * layer.n];
                let tolerance = match press.as_str() {
                    "leverage" | "compactor" | "non_causal_attn" => LEVERAGE,
                    _ => TOLERANCE,
                };
                for (head, (ours, theirs)) in ours.iter().zip(theirs.chunks_exact(layer.n)).enumerate() {
                    assert_scores(ours, theirs, tolerance, &format!("{what}, head {head}"));
                }
                // LagKV's ranks repeat in every partition: the README compares the number kept, not the set.
                let lengths = lengths(press, layer, &golden, index, &ours, removed);
                for (head, (scores, length)) in ours.iter().zip(lengths).enumerate() {
                    let (ours, theirs) = (kept(scores, length), counts(&kept_by_layer[index][head]));
                    if press.starts_with("lagkv") {
                        assert_eq!(ours.len(), theirs.len(), "{what}, head {head}");
                    } else {
                        assert_eq!(ours, theirs, "{what}, head {head}");
                    }
                }
            }
        }
    }
}
