//! Layers that share a budget by what they change: nobody sees all of them before a prompt has ended.

use crate::support::Model;
use crate::support::naive::{Naive, dot};
use crate::support::running::all;
use dropcap_cache::{KvCache, LayerIdx};
use dropcap_engine::{Engine, EngineOptions, Request};
use dropcap_kernels::DType;
use dropcap_model::{Logits, Scratch, Segment};
use dropcap_policy::Stage;

const FOLDER: &str = "llama_kvpress/llama";
/// Sums of f32 products through four layers, against f64.
const COSINE: f64 = 1e-5;
const PROMPT: usize = 90;

fn prompt() -> Vec<u32> {
    (0..PROMPT as u32).map(|i| (i * 7 + i / 5 + 3) % 97).collect()
}

/// Feeds the prompt in chunks.
fn read(model: &Model, method: &str, chunk: usize) -> KvCache {
    let policy = model.method(method);
    let pool = model.decoder.page_pool(policy.as_ref(), DType::F32, None).unwrap();
    let lanes = model.decoder.lanes_per_layer(policy.as_ref());
    let mut cache = KvCache::new(&pool, model.decoder.config().layers, lanes);
    let (mut scratch, mut logits, text) = (Scratch::default(), Vec::new(), prompt());
    for (number, ids) in text.chunks(chunk).enumerate() {
        let ends = (number + 1) * chunk >= text.len();
        let stage = if ends { Stage::PromptEnd } else { Stage::Prompt };
        let mut segments = [Segment { cache: &mut cache, ids, stage, budget: None, logits: Logits::Last }];
        let died = &mut |_, _, _, _| {};
        model
            .decoder
            .forward(&model.team, policy.as_ref(), &mut segments, &mut scratch, died, &mut logits)
            .unwrap();
    }
    cache
}

fn lengths(cache: &KvCache) -> Vec<Vec<usize>> {
    let lanes = |layer| cache.lanes(LayerIdx(layer)).iter().map(dropcap_cache::Lane::len).collect();
    (0..cache.layers()).map(lanes).collect()
}

/// The budgets of layers, every way to put them in three groups tried.
fn budgets(cosines: &[f64], mean: f64, least: f64) -> Vec<usize> {
    let layers = cosines.len();
    let spread = |groups: usize| {
        let of = |layer: usize| groups / 3_usize.pow(layer as u32) % 3;
        let mut within = 0.0;
        let mut centres = [f64::NAN; 3];
        for (group, centre) in centres.iter_mut().enumerate() {
            let members: Vec<f64> = (0..layers).filter(|&l| of(l) == group).map(|l| cosines[l]).collect();
            *centre = members.iter().sum::<f64>() / members.len() as f64;
            within += members.iter().map(|number| (number - *centre).powi(2)).sum::<f64>();
        }
        // Every group has members, and they are named in order.
        (centres[0] < centres[1] && centres[1] < centres[2]).then_some((within, groups))
    };
    let best =
        (0..3_usize.pow(layers as u32)).filter_map(spread).min_by(|a, b| a.0.total_cmp(&b.0)).unwrap().1;
    let similar: Vec<bool> = (0..layers).map(|layer| best / 3_usize.pow(layer as u32) % 3 == 2).collect();
    let count = similar.iter().filter(|similar| **similar).count() as f64;
    let others = (layers as f64 - count * least) / (layers as f64 - count);
    similar.iter().map(|&similar| (if similar { least } else { others } * mean + 1e-9) as usize).collect()
}

/// Of each layer the mean over tokens of the cosine between the residual stream before its attention block and behind it, `[L]`,
/// where everything sees what came before it.
fn similarities(naive: &Naive, layers: usize, ids: &[u32]) -> Vec<f64> {
    let (mut means, dense) = (Vec::new(), vec![vec![u32::MAX; ids.len()]; layers]);
    naive.run(ids, &dense, 1, &mut |before, after| {
        let cosine = |(a, b): (&Vec<f64>, &Vec<f64>)| dot(a, b) / (dot(a, a) * dot(b, b)).sqrt();
        means.push(before.iter().zip(after).map(cosine).sum::<f64>() / before.len() as f64);
    });
    means
}

#[test]
fn layers_keep_by_how_little_they_change_however_a_prompt_is_cut() {
    let model = Model::open(FOLDER);
    let naive = Naive::open(FOLDER, model.decoder.config());
    let expected = similarities(&naive, model.decoder.config().layers, &prompt());
    for (method, lanes) in [("squeeze(h2o, least=0.25)@0.2", 2), ("squeeze(tova, least=0.25)@18", 1)] {
        let whole = read(&model, method, PROMPT);
        let cosines = whole.similarities();
        for (found, expected) in cosines.iter().zip(&expected) {
            assert!((found - expected).abs() <= COSINE, "{cosines:?}, not {expected:?}");
        }
        let wanted = budgets(&expected, 18.0, 0.25);
        assert!(wanted.contains(&4), "{wanted:?}");
        assert_eq!(lengths(&whole), wanted.iter().map(|&kept| vec![kept; lanes]).collect::<Vec<_>>());
        for chunk in [1, 7, 32, 50] {
            let cut = read(&model, method, chunk);
            assert_eq!(cut.similarities(), cosines, "chunks of {chunk}");
            for layer in (0..cut.layers()).map(LayerIdx) {
                for (cut, whole) in cut.lanes(layer).iter().zip(whole.lanes(layer)) {
                    let sorted = |lane: &dropcap_cache::Lane| {
                        let mut positions = lane.positions().to_vec();
                        positions.sort_unstable();
                        positions
                    };
                    assert_eq!(sorted(cut), sorted(whole), "{method}, chunks of {chunk}");
                }
            }
        }
    }
}

#[test]
fn what_layers_and_heads_spare_goes_back_to_the_pool() {
    let model = Model::open(FOLDER);
    let engine = |method: &str| {
        Engine::new(model.decoder.clone(), model.method(method), model.team.clone(), EngineOptions::default())
            .unwrap()
    };
    let text = [Request { prompt: prompt(), max_tokens: 5, ..Request::default() }];
    let dense = all(&mut engine("none"), &text);
    let wanted = budgets(&read(&model, "squeeze(ada(h2o))@0.2", 90).similarities(), 18.0, 0.35);
    let mut squeezing = engine("squeeze(ada(h2o))@0.2");
    let squeezed = all(&mut squeezing, &text);
    // Two heads share a layer's, and each has the four tokens that were fed behind the prompt.
    let entries = wanted.iter().map(|kept| 2 * (kept + 4)).sum::<usize>();
    assert_eq!(squeezed[0].report.live_entries, entries as u64);
    assert!(squeezed[0].report.held_bytes < dense[0].report.held_bytes);
    assert_eq!(squeezing.usage().unwrap().held_bytes, 0);
    // A budget of everything is dense, to the bit.
    assert_eq!(all(&mut engine("squeeze(h2o, least=1)@1.0"), &text)[0].token_ids, dense[0].token_ids);
}
