//! How far back a head looks, by its mean query and key alone.

use std::sync::{Mutex, PoisonError};

use dropcap_cache::KvCache;
use dropcap_kernels::{AttentionShape, RopeTable, Team, rotate, rotate_back};
use dropcap_model::{Decoder, Logits, Scratch, Segment};
use dropcap_policy::{
    Attended, Cadence, EvictionPolicy, LaneEditor, Needs, Observation, PolicyError, Span, Stage,
};

use crate::EvalError;
use crate::evaluate::Progress;
use crate::subject::Subject;

/// Positions over which the mean key is repeated, as in the original.
const POSITIONS: u32 = 500;
/// Tokens of a step; the observer is asked after each.
const STEP: usize = 256;

/// How little of each KV head's attention lies near, for each text, `[L][g][texts]`: NVIDIA/kvpress'
/// `duo_attention_on_the_fly`.
///
/// The mean query and the mean key of a text, before their rotation, stand at 500 positions; the score is the area under the
/// cumulated attention of the last of these queries, from 0 (all of it at its own place) to 1 (all at the beginning), the mean of
/// the query heads of a KV head. No weights are trained; texts are tokens, at least one.
///
/// # Errors
/// A model on a device, or one whose positions are learned; a text that does not fit the model or the memory.
pub fn duo_scores(
    subject: &Subject,
    texts: &[Vec<u32>],
    progress: &mut dyn Progress,
) -> Result<Vec<Vec<Vec<f64>>>, EvalError> {
    let decoder = subject.on_the_processor("a profile of KV heads")?;
    let config = decoder.config();
    let mut scores = vec![vec![Vec::with_capacity(texts.len()); config.kv_heads]; config.layers];
    progress.begin("mean queries and keys", "", texts.len(), 0);
    for text in texts {
        let of_text = of_text(subject, decoder, text)?;
        for (all, one) in scores.iter_mut().flatten().zip(of_text.into_iter().flatten()) {
            all.push(one);
        }
        progress.advance();
    }
    Ok(scores)
}

/// The scores in one text, `[L][g]`.
fn of_text(subject: &Subject, decoder: &Decoder, text: &[u32]) -> Result<Vec<Vec<f64>>, EvalError> {
    let means = Means::default();
    let pool = decoder.page_pool(&means, subject.kv_dtype, subject.kv_limit)?;
    let mut cache = KvCache::new(&pool, decoder.config().layers, decoder.lanes_per_layer(&means));
    let (mut scratch, steps) = (Scratch::default(), text.chunks(STEP));
    let last = steps.len().saturating_sub(1);
    for (index, ids) in steps.enumerate() {
        let stage = if index == last { Stage::PromptEnd } else { Stage::Prompt };
        let mut segments = [Segment { cache: &mut cache, ids, stage, budget: None, logits: Logits::None }];
        decoder.run(&subject.team, &means, &mut segments, &mut scratch, &mut |_, _, _, _| {})?;
    }
    let layers = means.layers.into_inner().unwrap_or_else(PoisonError::into_inner);
    layers.iter().map(|layer| layer.scores(&subject.team)).collect()
}

/// Keeps everything, and sums up queries and keys before their rotation. It is no method: it remembers one text.
#[derive(Debug, Default)]
struct Means {
    layers: Mutex<Vec<Sums>>,
}

/// Of one layer.
#[derive(Debug)]
struct Sums {
    shape: AttentionShape,
    rope: Option<RopeTable>,
    rows: usize,
    /// `[h d]`
    queries: Vec<f64>,
    /// `[g d]`
    keys: Vec<f64>,
}

impl EvictionPolicy for Means {
    fn needs(&self) -> Needs {
        Needs { after: Cadence::Prompt, stride: STEP as u32, ..Needs::default() }
    }

    fn decide(&self, _: &Observation<'_>, _: &mut [LaneEditor<'_>]) -> Result<(), PolicyError> {
        Ok(())
    }

    fn after(&self, seen: &Attended<'_>, lanes: &mut [LaneEditor<'_>]) -> Result<(), PolicyError> {
        let mut layers = self.layers.lock().unwrap_or_else(PoisonError::into_inner);
        while layers.len() <= seen.layer {
            layers.push(Sums {
                shape: seen.shape,
                rope: seen.rope.cloned(),
                rows: 0,
                queries: vec![0.0; seen.shape.query_heads * seen.shape.head_dim],
                keys: vec![0.0; seen.shape.kv_heads * seen.shape.head_dim],
            });
        }
        let sums = &mut layers[seen.layer];
        seen.spans.iter().zip(lanes).try_for_each(|(span, lanes)| sums.add(seen, span, lanes))
    }
}

impl Sums {
    /// Adds the queries and keys of a span.
    fn add(&mut self, seen: &Attended<'_>, span: &Span, editor: &LaneEditor<'_>) -> Result<(), PolicyError> {
        let (width, shape) = (self.queries.len(), self.shape);
        let positions: Vec<u32> = (span.first_position..span.next_position()).collect();
        let row = |row: usize| &seen.queries[row * seen.query_stride..][..width];
        let mut queries: Vec<f32> =
            (span.first_row..span.first_row + span.queries).flat_map(row).copied().collect();
        self.turn_back(seen.team, &mut queries, shape.query_heads, &positions)?;
        add(&mut self.queries, &queries);
        for head in 0..shape.kv_heads {
            let (lane, place) = if editor.groups() == 1 { (0, head) } else { (head, 0) };
            let lane = editor.lane(lane);
            let (mut keys, mut own) = (Vec::new(), Vec::new());
            for (entry, &position) in lane.positions().iter().enumerate() {
                if position >= span.first_position {
                    keys.extend(lane.read_key(entry, place)?);
                    own.push(position);
                }
            }
            self.turn_back(seen.team, &mut keys, 1, &own)?;
            add(&mut self.keys[head * shape.head_dim..][..shape.head_dim], &keys);
        }
        self.rows += span.queries;
        Ok(())
    }

    /// Undoes the rotation of rows of heads.
    fn turn_back(
        &self,
        team: &Team,
        rows: &mut [f32],
        heads: usize,
        positions: &[u32],
    ) -> Result<(), PolicyError> {
        let Some(table) = &self.rope else { return Ok(()) };
        let width = self.shape.head_dim;
        rotate_back(team, rows, heads * width, 0, heads, width, &table.angles(positions))?;
        // Turning scales by the table's factor both ways.
        let factor = table.attention_scaling * table.attention_scaling;
        if factor != 1.0 {
            let rotary = 2 * table.inv_freq.len();
            rows.chunks_exact_mut(width).flat_map(|head| &mut head[..rotary]).for_each(|x| *x /= factor);
        }
        Ok(())
    }

    /// The score of each KV head, `[g]`.
    fn scores(&self, team: &Team) -> Result<Vec<f64>, EvalError> {
        let table = self.rope.as_ref().ok_or(EvalError::NoRotation)?;
        let (width, group) = (self.shape.head_dim, self.shape.query_heads / self.shape.kv_heads);
        let mean = |sums: &[f64]| -> Vec<f32> {
            sums.iter().map(|sum| (sum / self.rows.max(1) as f64) as f32).collect()
        };
        let mut queries = mean(&self.queries);
        let last = table.angles(&[POSITIONS - 1]);
        rotate(team, &mut queries, self.queries.len(), 0, self.shape.query_heads, width, &last)?;
        let everywhere = table.angles(&(0..POSITIONS).collect::<Vec<_>>());
        let score = |head: usize| {
            let mut keys = mean(&self.keys[head * width..][..width]).repeat(POSITIONS as usize);
            rotate(team, &mut keys, width, 0, 1, width, &everywhere)?;
            let queries = queries[head * group * width..][..group * width].chunks_exact(width);
            let areas: f64 = queries.map(|query| area(query, &keys, self.shape.scale)).sum();
            Ok(areas / group as f64)
        };
        (0..self.shape.kv_heads).map(score).collect()
    }
}

/// The mean over all keys `[n, d]` of the attention to them and those before them.
fn area(query: &[f32], keys: &[f32], scale: f32) -> f64 {
    let product = |key: &[f32]| -> f64 {
        let products = query.iter().zip(key).map(|(q, k)| f64::from(*q) * f64::from(*k));
        products.sum::<f64>() * f64::from(scale)
    };
    let scores: Vec<f64> = keys.chunks_exact(query.len()).map(product).collect();
    let largest = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let (mut sum, mut area) = (0.0, 0.0);
    for score in &scores {
        sum += (score - largest).exp();
        area += sum;
    }
    area / (sum * scores.len() as f64)
}

/// Adds rows to their sum.
fn add(sums: &mut [f64], rows: &[f32]) {
    for row in rows.chunks_exact(sums.len()) {
        sums.iter_mut().zip(row).for_each(|(sum, x)| *sum += f64::from(*x));
    }
}
