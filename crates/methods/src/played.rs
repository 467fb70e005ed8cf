//! Methods as they run, shown other people's queries, keys and values: for golden tests.

mod a2sf;
mod budgets;
mod citrus;
mod h2o;
mod keyformer;
mod kvpress;
mod nacl;
mod tova;

use std::sync::Arc;

use dropcap_cache::{KvCache, LayerIdx, PagePool};
use dropcap_kernels::{AttentionShape, DType, PageLayout, Team};
use dropcap_policy::{Attended, EvictionPolicy, LaneEditor, Observation, Span, Stage, turns};

use crate::{ModelFacts, build};

/// Other people's tensors of one layer, as attention takes them.
#[derive(Clone, Copy)]
pub(super) struct Tensors<'a> {
    /// f32 `[h, n, d]`.
    pub(super) queries: &'a [f32],
    /// f32 `[g, n, d]`.
    pub(super) keys: &'a [f32],
    /// KV heads g.
    pub(super) kv_heads: usize,
    /// Width d of a head.
    pub(super) width: usize,
}

/// One sequence in one layer of a model under one method; values are the keys, which no method here tells apart.
pub(super) struct Played<'a> {
    policy: Arc<dyn EvictionPolicy>,
    team: Team,
    cache: KvCache,
    tensors: Tensors<'a>,
    /// Index of the layer and number of layers.
    layer: (usize, usize),
}

impl<'a> Played<'a> {
    /// The method that `spec` names, in a model of one layer.
    pub(super) fn new(spec: &str, tensors: Tensors<'a>) -> Self {
        Self::in_layer(spec, tensors, (0, 1))
    }

    /// The same in layer `layer.0` of `layer.1`.
    pub(super) fn in_layer(spec: &str, tensors: Tensors<'a>, layer: (usize, usize)) -> Self {
        let facts = ModelFacts {
            layers: layer.1,
            hidden: 1,
            kv_heads: tensors.kv_heads,
            head_dim: tensors.width,
            family: "llama".into(),
            fingerprint: None,
            directory: None,
        };
        let policy = build(&spec.parse().unwrap(), &facts).unwrap();
        let lanes = if policy.per_head() { tensors.kv_heads } else { 1 };
        let layout = PageLayout::new(tensors.kv_heads / lanes, tensors.width, vec![], DType::F32).unwrap();
        let pool = PagePool::with_statistics(layout, None, policy.needs().statistics);
        let cache = KvCache::new(&pool, layer.1, lanes);
        Self { policy, team: Team::new(1).unwrap(), cache, tensors, layer }
    }

    /// Feeds the next `count` tokens.
    pub(super) fn feed(&mut self, count: usize, stage: Stage) {
        let Tensors { queries, keys, kv_heads, width } = self.tensors;
        let (index, first) = (LayerIdx(self.layer.0), self.cache.next_position());
        let tokens = keys.len() / kv_heads / width;
        let rows = |numbers: &[f32]| -> Vec<f32> {
            let heads = numbers.chunks_exact(tokens * width);
            let row =
                |token: usize| heads.clone().flat_map(move |head| head[token * width..][..width].to_vec());
            (first as usize..first as usize + count).flat_map(row).collect()
        };
        let (queries, keys) = (rows(queries), rows(keys));
        let span = Span { first_row: 0, queries: count, first_position: first, stage, budget: None };
        let lanes = self.cache.lanes_mut(index);
        let part = kv_heads / lanes.len() * width;
        for (group, lane) in lanes.iter_mut().enumerate() {
            let keys = &keys[group * part..];
            lane.append(first, count, keys, keys, kv_heads * width, None).unwrap();
        }
        let (spans, team) = ([span], &self.team);
        let died_below = &[vec![]];
        let seen =
            Observation { team, layer: index.0, hidden: &[], spans: &spans, died_below, first_channel: 0 };
        self.policy.decide(&seen, &mut [LaneEditor::new(lanes, &spans[0])]).unwrap();
        let query_heads = queries.len() / count / width;
        let shape =
            AttentionShape { query_heads, kv_heads, head_dim: width, scale: 1.0 / (width as f32).sqrt() };
        let needs = self.policy.needs();
        for (_, spans) in turns(&spans, needs) {
            if !needs.heeds(&spans[0]) {
                continue;
            }
            let seen = Attended {
                team,
                layer: index.0,
                layers: self.layer.1,
                hidden: &[],
                queries: &queries,
                query_stride: query_heads * width,
                shape,
                rope: None,
                similarities: &[],
                spans: &spans,
                first_statistic: 0,
            };
            self.policy.after(&seen, &mut [LaneEditor::after(lanes, &spans[0])]).unwrap();
        }
        for lane in lanes {
            lane.reclaim(spans[0].next_position(), &mut |_| ()).unwrap();
        }
        self.cache.advance(count);
    }

    /// Tokens fed so far.
    pub(super) fn tokens(&self) -> usize {
        self.cache.next_position() as usize
    }

    /// What a KV head still holds: positions, ascending, and the first statistic of each, if there is one.
    pub(super) fn held(&self, head: usize) -> (Vec<usize>, Vec<f32>) {
        let lanes = self.cache.lanes(LayerIdx(self.layer.0));
        let lane = &lanes[head.min(lanes.len() - 1)];
        let statistics = self.policy.needs().statistics;
        let mut entries: Vec<(u32, usize)> = lane.positions().iter().copied().zip(0..).collect();
        entries.sort_unstable();
        let sum = |&(_, entry): &(u32, usize)| lane.statistics()[entry * statistics];
        let sums = if statistics > 0 { entries.iter().map(sum).collect() } else { vec![] };
        (entries.into_iter().map(|(position, _)| position as usize).collect(), sums)
    }
}
