//! A whole text at once: every logit, and when each of its tokens was forgotten.

use dropcap_cache::{KvCache, KvReport, LayerIdx, PagePool};
use dropcap_kernels::Team;
use dropcap_model::{Decoder, Logits, Scratch, Segment};
use dropcap_policy::EvictionPolicy;

use crate::EngineError;

/// What a model made of a text.
#[derive(Debug)]
pub struct Evaluation {
    /// f32 `[t, v]`.
    pub logits: Vec<f32>,
    /// Per layer, u32 `[lanes, t]` in text order: the first query that no longer sees the token, or
    /// [`dropcap_cache::NEVER`].
    pub expires_at: Vec<Vec<u32>>,
    /// Lanes per layer: 1, or the KV heads.
    pub lanes: usize,
    /// The cache at the end.
    pub report: KvReport,
}

/// Feeds `ids` to `decoder` in chunks of `chunk` tokens (the last may be shorter) and collects every row.
///
/// The result does not depend on `chunk`, except for the rounding of sums over a pruned cache.
///
/// # Errors
/// An empty text, a zero chunk, a token outside the vocabulary, a text longer than the model's positions,
/// or an exhausted pool.
pub fn evaluate(
    decoder: &Decoder,
    team: &Team,
    policy: &dyn EvictionPolicy,
    pool: &PagePool,
    ids: &[u32],
    chunk: usize,
) -> Result<Evaluation, EngineError> {
    if ids.is_empty() {
        return Err(EngineError::EmptyPrompt);
    }
    if chunk == 0 {
        return Err(EngineError::Option { name: "chunk", given: 0, minimum: 1 });
    }
    let (layers, lanes) = (decoder.config().layers, decoder.lanes_per_layer(policy));
    let mut cache = KvCache::new(pool, layers, lanes);
    let mut expires_at = vec![vec![dropcap_cache::NEVER; lanes * ids.len()]; layers];
    let (mut logits, mut step, mut scratch) = (Vec::new(), Vec::new(), Scratch::default());
    for part in ids.chunks(chunk) {
        let prompt_ends = cache.next_position() as usize + part.len() == ids.len();
        let mut segments = [Segment { cache: &mut cache, ids: part, prompt_ends, logits: Logits::All }];
        let mut died = |_, layer: usize, lane: usize, death: dropcap_cache::Death| {
            expires_at[layer][lane * ids.len() + death.position as usize] = death.expires_at;
        };
        decoder.forward(team, policy, &mut segments, &mut scratch, &mut died, &mut step)?;
        logits.extend_from_slice(&step);
    }
    for (layer, lifetimes) in expires_at.iter_mut().enumerate() {
        for (index, lane) in cache.lanes(LayerIdx(layer)).iter().enumerate() {
            for (&position, &expiry) in lane.positions().iter().zip(lane.expires_at()) {
                lifetimes[index * ids.len() + position as usize] = expiry;
            }
        }
    }
    Ok(Evaluation { logits, expires_at, lanes, report: cache.report() })
}
