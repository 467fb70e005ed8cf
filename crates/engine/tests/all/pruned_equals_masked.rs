//! A pruned run equals a dense run under the mask built from its lifetimes, for every family and chunking.

use std::collections::BTreeMap;
use std::sync::Mutex;

use crate::support::naive::{Naive, Rows};
use crate::support::{MODELS, Model, distance};
use dropcap_cache::NEVER;
use dropcap_engine::{Reading, evaluate};
use dropcap_kernels::KvFormat;
use dropcap_methods::{Gates, LayerGates, dcp};
use dropcap_policy::{EvictionPolicy, Floors, KeepAll, LaneEditor, Observation, PolicyError};

/// Float32 with online softmax against float64 with a full matrix.
const LOGITS: f32 = 1e-4;
const CHUNKS: [usize; 4] = [1, 31, 32, 33];

/// Models that see their whole past: a sliding window frees entries, so chunks change the order of its sums.
pub fn without_window() -> impl Iterator<Item = &'static str> {
    MODELS.into_iter().filter(|&folder| folder != "llama_kvpress/mistral_sw24")
}

/// Gives every entry an arbitrary lifetime at birth: short, long or endless, differing by layer and lane.
#[derive(Debug)]
struct Arbitrary {
    per_head: bool,
}

fn lifetime(layer: usize, group: usize, position: u32) -> u32 {
    let mix = |value: u32, factor: u32| (value + 1).wrapping_mul(factor);
    let mut word =
        mix(layer as u32, 0x9e37_79b9) ^ mix(group as u32, 0x85eb_ca6b) ^ mix(position, 0xc2b2_ae35);
    word ^= word >> 15;
    word = word.wrapping_mul(0x2c1b_3c6d);
    word ^= word >> 12;
    match word % 4 {
        0 => 1,
        1 => 1 + word / 4 % 8,
        2 => 1 + word / 4 % 60,
        _ => NEVER,
    }
}

impl EvictionPolicy for Arbitrary {
    fn per_head(&self) -> bool {
        self.per_head
    }

    fn decide(&self, seen: &Observation<'_>, lanes: &mut [LaneEditor<'_>]) -> Result<(), PolicyError> {
        for lanes in lanes {
            for group in 0..lanes.groups() {
                for entry in lanes.new_entries(group) {
                    let position = lanes.lane(group).positions()[entry];
                    let expiry = position.saturating_add(lifetime(seen.layer, group, position));
                    lanes.lower(group, entry, expiry, expiry);
                }
            }
        }
        Ok(())
    }
}

/// Policies that decide when an entry is made, and whether each KV head has its own: arbitrary ones, and gates under floors.
fn policies(model: &Model) -> Vec<(Box<dyn EvictionPolicy>, bool)> {
    let config = model.checkpoint.config();
    let gates = |heads: usize, recent: u32| {
        let random = Gates::random(config.layers, config.hidden, heads, 5).unwrap();
        let layers = random.layers().iter().map(|layer| LayerGates {
            query: Vec::new(),
            key: layer.key.clone(),
            bias: vec![0.1; heads],
        });
        let gates = Gates::at_birth(config.hidden, layers.collect()).unwrap();
        Box::new(dcp(&gates.under(Floors { sinks: 2, recent }), false).unwrap())
    };
    vec![
        (Box::new(Arbitrary { per_head: false }), false),
        (Box::new(Arbitrary { per_head: true }), true),
        (gates(1, 11), false),
        (gates(config.kv_heads, 0), true),
    ]
}

#[test]
fn a_pruned_run_equals_a_dense_run_under_the_mask_of_its_lifetimes() {
    let text: Vec<u32> = (0..97).map(|i| i * 29 % 97).collect();
    for folder in MODELS {
        let model = Model::open(folder);
        let naive = Naive::open(folder, model.checkpoint.config());
        for (policy, per_head) in policies(&model) {
            let policy = policy.as_ref();
            let whole = model.evaluate(policy, &text, text.len());
            assert!(whole.report.keep_ratio() < 0.8, "something was forgotten");
            let expected = naive.logits(&text, &whole.expires_at, whole.lanes);
            let off = distance(&whole.logits, &expected);
            assert!(off <= LOGITS, "{folder}, per head {per_head}, whole: logits off by {off}");
            for chunk in CHUNKS {
                let found = model.evaluate(policy, &text, chunk);
                assert_eq!(
                    found.expires_at, whole.expires_at,
                    "{folder}, per head {per_head}, chunks of {chunk}"
                );
                let off = distance(&found.logits, &expected);
                assert!(
                    off <= LOGITS,
                    "{folder}, per head {per_head}, chunks of {chunk}: logits off by {off}"
                );
            }
        }
    }
}

#[test]
fn streaming_llm_equals_its_mask_in_any_chunks() {
    let text: Vec<u32> = (0..97).map(|i| i * 31 % 97).collect();
    for folder in MODELS {
        let model = Model::open(folder);
        let naive = Naive::open(folder, model.checkpoint.config());
        let policy = model.method("streaming_llm(sinks=3, recent=17)");
        let expected = naive.logits(&text, &model.evaluate(policy.as_ref(), &text, 97).expires_at, 1);
        for chunk in [1, 31, 32, 33, 97] {
            let found = model.evaluate(policy.as_ref(), &text, chunk);
            let off = distance(&found.logits, &expected);
            assert!(off <= LOGITS, "{folder} chunks of {chunk}: logits off by {off}");
            let layers = model.checkpoint.config().layers as u64;
            assert!(found.report.live_entries <= 20 * layers, "{folder}: {:?}", found.report);
        }
    }
}

/// Key and value by layer, position and KV head.
type Held = BTreeMap<(usize, u32, usize), [Vec<f32>; 2]>;

/// [`Arbitrary`], and what the cache holds of the tokens that it was shown.
#[derive(Debug)]
struct Recording {
    arbitrary: Arbitrary,
    held: Mutex<Held>,
}

impl Recording {
    fn new(per_head: bool) -> Self {
        Self { arbitrary: Arbitrary { per_head }, held: Mutex::default() }
    }

    /// Of each layer keys and values `[t, g * d]`.
    fn rows(&self, layers: usize) -> Vec<[Rows; 2]> {
        let mut rows = vec![[Rows::new(), Rows::new()]; layers];
        for (&(layer, _, head), both) in &*self.held.lock().unwrap() {
            for (rows, more) in rows[layer].iter_mut().zip(both) {
                if head == 0 {
                    rows.push(Vec::new());
                }
                rows.last_mut().unwrap().extend(more.iter().copied().map(f64::from));
            }
        }
        rows
    }
}

impl EvictionPolicy for Recording {
    fn per_head(&self) -> bool {
        self.arbitrary.per_head
    }

    fn decide(&self, seen: &Observation<'_>, lanes: &mut [LaneEditor<'_>]) -> Result<(), PolicyError> {
        let mut held = self.held.lock().unwrap();
        for lanes in &*lanes {
            for group in 0..lanes.groups() {
                let lane = lanes.lane(group);
                for (entry, head) in lanes
                    .new_entries(group)
                    .flat_map(|entry| (0..lane.view().layout.heads()).map(move |head| (entry, head)))
                {
                    let both = [lane.read_key(entry, head)?, lane.read_value(entry, head)?];
                    held.insert((seen.layer, lane.positions()[entry], group + head), both);
                }
            }
        }
        self.arbitrary.decide(seen, lanes)
    }
}

#[test]
fn a_pruned_run_over_codes_equals_a_dense_run_of_what_they_stand_for() {
    let text: Vec<u32> = (0..97).map(|i| i * 29 % 97).collect();
    for folder in MODELS {
        let model = Model::open(folder);
        let mut naive = Naive::open(folder, model.checkpoint.config());
        let layers = model.checkpoint.config().layers;
        for (per_head, format) in
            [(false, KvFormat::Q8), (true, KvFormat::Q8), (false, KvFormat::Q4), (true, KvFormat::Q4)]
        {
            let exact = model.evaluate(&Arbitrary { per_head }, &text, 97);
            for chunk in [1, 33, 97] {
                let policy = Recording::new(per_head);
                let pool = model.decoder.page_pool(&policy, format, None).unwrap();
                let found = evaluate(&model.decoder, &model.team, &policy, &pool, &text, chunk).unwrap();
                assert_eq!(found.expires_at, exact.expires_at);
                naive.held = policy.rows(layers);
                let expected = naive.logits(&text, &found.expires_at, found.lanes);
                let off = distance(&found.logits, &expected);
                assert!(off <= LOGITS, "{folder} {format}, per head {per_head}, chunks of {chunk}: {off}");
                // Codes are no copies: the test would pass where a cache of codes held numbers.
                assert!(distance(&found.logits, &exact.logits) > 2.0 * LOGITS, "{folder} {format}");
                assert!(found.report.live_bytes < exact.report.live_bytes);
            }
        }
    }
}

#[test]
fn codes_have_the_same_bits_and_lifetimes_however_a_text_is_cut() {
    let text: Vec<u32> = (0..97).map(|i| i * 53 % 97).collect();
    for folder in without_window() {
        let model = Model::open(folder);
        for format in [KvFormat::Q8, KvFormat::Q4] {
            for spec in [
                "none",
                "knorm@20",
                "snapkv(window=9, kernel=3)@0.3",
                "h2o@19",
                "pyramid(snapkv(window=2), beta=4)@0.3",
            ] {
                let policy = model.method(spec);
                let pool = model.decoder.page_pool(policy.as_ref(), format, None).unwrap();
                let run = |chunk: usize| {
                    let chunk = chunk.max(policy.needs().together(text.len()));
                    evaluate(&model.decoder, &model.team, policy.as_ref(), &pool, &text, chunk).unwrap()
                };
                let whole = run(97);
                for chunk in [1, 31, 33] {
                    let cut = run(chunk);
                    assert!(cut.logits == whole.logits, "{folder} {format} {spec} chunks of {chunk}");
                    assert_eq!(
                        cut.expires_at, whole.expires_at,
                        "{folder} {format} {spec} chunks of {chunk}"
                    );
                }
            }
        }
    }
}

/// Methods that look at attention, keys and queries, when a prompt ends and after every query.
const RANKING: [&str; 12] = [
    "knorm(when=every_query)@20",
    "keydiff@0.3",
    "tova(when=every_query, recent=0)@17",
    "snapkv(window=9, kernel=3)@0.3",
    "h2o(when=every_query, recent=6)@19",
    "observed_attention(when=every_query)@0.25",
    "a2sf(factor=0.7, when=every_query)@21",
    "expected_attention(future=9)@0.3",
    "lagkv(lag=8)@0.4",
    "compactor(chunk=16, sketch=6)@0.3",
    "ada(h2o(when=every_query), floor=0.5)@19",
    "pyramid(snapkv(window=2), beta=4)@0.3",
];

#[test]
fn methods_that_rank_equal_their_masks_in_any_chunks() {
    let text: Vec<u32> = (0..97).map(|i| i * 37 % 97).collect();
    let prompt = 61;
    for folder in MODELS {
        let model = Model::open(folder);
        let naive = Naive::open(folder, model.checkpoint.config());
        for spec in RANKING {
            let policy = model.method(spec);
            let pool = model.decoder.page_pool(policy.as_ref(), dropcap_kernels::DType::F32, None).unwrap();
            let run = |chunk: usize| {
                let mut reading =
                    Reading::on_host(&model.decoder, &model.team, policy.as_ref(), &pool, text.len());
                let (mut logits, mut fed) = (Vec::new(), 0);
                while fed < text.len() {
                    let end = if fed < prompt { prompt } else { text.len() };
                    let count = match reading.needs().cut(prompt, fed, chunk.min(end - fed)) {
                        0 => prompt - fed,
                        count => count,
                    };
                    reading.feed(&text[fed..fed + count], fed + count == prompt, 0).unwrap();
                    logits.extend_from_slice(reading.logits(0..count).unwrap());
                    fed += count;
                }
                (logits, reading.finish().unwrap())
            };
            let (_, whole) = run(text.len());
            assert!(whole.report.keep_ratio() < 0.8, "{folder} {spec}: something was forgotten");
            let expected = naive.logits(&text, &whole.expires_at, whole.lanes);
            for chunk in [1, 8, 31, 97] {
                let (logits, found) = run(chunk);
                assert_eq!(found.expires_at, whole.expires_at, "{folder} {spec} chunks of {chunk}");
                let off = distance(&logits, &expected);
                assert!(off <= LOGITS, "{folder} {spec} chunks of {chunk}: logits off by {off}");
            }
        }
    }
}

/// Keeps everything, one lane per KV head.
#[derive(Debug)]
struct KeepAllHeads;

impl EvictionPolicy for KeepAllHeads {
    fn per_head(&self) -> bool {
        true
    }

    fn decide(&self, _: &Observation<'_>, _: &mut [LaneEditor<'_>]) -> Result<(), PolicyError> {
        Ok(())
    }
}

#[test]
fn keeping_everything_is_dense_to_the_bit() {
    let text: Vec<u32> = (0..97).map(|i| i * 53 % 97).collect();
    for folder in without_window() {
        let model = Model::open(folder);
        let dense = model.evaluate(&KeepAll, &text, 97).logits;
        let keepers: [Box<dyn EvictionPolicy>; 8] = [
            Box::new(model.method("knorm@97")),
            Box::new(model.method("tova(when=every_query)@1000")),
            Box::new(model.method("snapkv@1.0")),
            Box::new(model.method("h2o(when=every_query)@1.0")),
            Box::new(model.method("ada(pyramid(snapkv))@1.0")),
            Box::new(KeepAllHeads),
            Box::new(model.method("simulate(keep=1)")),
            Box::new(model.method("streaming_llm(sinks=4, recent=1000)")),
        ];
        for policy in &keepers {
            for chunk in [1, 33, 97] {
                let chunk = chunk.max(policy.needs().together(text.len()));
                assert!(model.evaluate(policy, &text, chunk).logits == dense, "{folder} {policy:?} {chunk}");
            }
        }
    }
}
