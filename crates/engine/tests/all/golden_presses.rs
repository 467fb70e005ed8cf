//! Methods that rank entries against NVIDIA/kvpress: what stays when a prompt ends, the logits of the next token, and
//! sixteen greedy tokens.

use crate::support::presses::{LOGITS, METHODS, MODELS, TURNED, stays_as_there};
use crate::support::{Model, argmax, distance, floats, golden, ids, json};
use dropcap_cache::{KvCache, LayerIdx};
use dropcap_kernels::DType;
use dropcap_model::{Logits, Scratch, Segment};
use dropcap_policy::{EvictionPolicy, Stage};
use dropcap_weights::TensorFile;

/// Tokens of a prompt that are asked for at a time; a method may take more together.
const CHUNK: usize = 33;

/// A cache that a text goes into under one policy.
struct Run<'a> {
    model: &'a Model,
    policy: &'a dyn EvictionPolicy,
    cache: KvCache,
    scratch: Scratch,
    logits: Vec<f32>,
}

impl Run<'_> {
    fn feed(&mut self, ids: &[u32], stage: Stage) {
        let mut segments =
            [Segment { cache: &mut self.cache, ids, stage, budget: None, logits: Logits::Last }];
        let (decoder, team) = (&self.model.decoder, &self.model.team);
        let died = &mut |_, _, _, _| {};
        decoder.forward(team, self.policy, &mut segments, &mut self.scratch, died, &mut self.logits).unwrap();
    }

    /// Positions that are left in each layer and KV head.
    fn kept(&self) -> Vec<Vec<Vec<u32>>> {
        let heads = self.model.decoder.config().kv_heads;
        let layer = |layer| {
            let lanes = self.cache.lanes(LayerIdx(layer));
            let head = |head: usize| {
                let mut kept = lanes[head.min(lanes.len() - 1)].positions().to_vec();
                kept.sort_unstable();
                kept
            };
            (0..heads).map(head).collect()
        };
        (0..self.cache.layers()).map(layer).collect()
    }
}

#[test]
fn what_stays_and_what_follows_is_what_kvpress_says() {
    let mut cases = 0;
    for name_of_model in MODELS {
        let folder = format!("llama_kvpress/{name_of_model}");
        let model = Model::open(&folder);
        let vectors = TensorFile::open(&golden(&folder).join("vectors.safetensors")).unwrap();
        let presses = TensorFile::open(&golden(&folder).join("presses.safetensors")).unwrap();
        let (context, question) = (ids(&vectors, "press.context"), ids(&vectors, "press.question"));
        let expected = json(&format!("{folder}/presses.json"));
        for (press, spec) in METHODS.into_iter().chain(TURNED) {
            for (removed, keep) in [("r0.25", "0.75"), ("r0.5", "0.5"), ("r0.8", "0.2")] {
                let name = format!("{press}.{removed}");
                if name == "lagkv_cross.r0.8" {
                    // Its cut lies among equals, and theirs is arbitrary.
                    continue;
                }
                let case = &expected[&name];
                let policy = model.method(&format!("{spec}{keep}"));
                let pool = model.decoder.page_pool(policy.as_ref(), DType::F32, None).unwrap();
                let lanes = model.decoder.lanes_per_layer(policy.as_ref());
                let cache = KvCache::new(&pool, model.decoder.config().layers, lanes);
                let (scratch, logits) = (Scratch::default(), Vec::new());
                let mut run = Run { model: &model, policy: policy.as_ref(), cache, scratch, logits };
                let mut fed = 0;
                while fed < context.len() {
                    let wanted = CHUNK.min(context.len() - fed);
                    let count = match policy.needs().cut(context.len(), fed, wanted) {
                        0 => context.len() - fed,
                        count => count,
                    };
                    let part = &context[fed..fed + count];
                    fed += count;
                    run.feed(part, if fed == context.len() { Stage::PromptEnd } else { Stage::Prompt });
                }
                cases += 1;
                if !stays_as_there(name_of_model, &name, case, &run.kept()) {
                    continue;
                }
                let mut next = question.clone();
                for (step, token) in case["ids"].as_array().unwrap().iter().enumerate() {
                    run.feed(&next, Stage::Behind);
                    if step == 0 {
                        let off = distance(&run.logits, &floats(&presses, &name));
                        assert!(off <= LOGITS, "{folder} {name}: logits off by {off}");
                    }
                    let token = u32::try_from(token.as_u64().unwrap()).unwrap();
                    assert_eq!(argmax(&run.logits), token, "{folder} {name} step {step}");
                    next = vec![token];
                }
            }
        }
    }
    assert_eq!(cases, MODELS.len() * ((METHODS.len() + TURNED.len()) * 3 - 1));
}
