//! A whole text at once: every logit, and when each of its tokens was forgotten.

use dropcap_cache::{KvCache, KvReport, LayerIdx, PagePool};
use dropcap_kernels::Team;
use dropcap_model::device::{DeviceDecoder, DeviceSegment, Wanted};
use dropcap_model::{Decoder, Logits, Scratch, Segment};
use dropcap_policy::EvictionPolicy;

use crate::memory::DeviceMemory;
use crate::sampler::check_finite;
use crate::{EngineError, Shortage};

/// Rows of logits that the host computes and hands on at a time: enough for its matrix kernel, 40 MB of the largest
/// vocabularies.
const ROWS: usize = 64;

/// What a model made of a text.
#[derive(Debug)]
pub struct Evaluation {
    /// f32 `[t, v]`; empty where the rows were handed on.
    pub logits: Vec<f32>,
    /// Per layer, u32 `[lanes, t]` in text order: the first query that no longer sees the token, or
    /// [`dropcap_cache::NEVER`].
    pub expires_at: Vec<Vec<u32>>,
    /// Lanes per layer: 1, or the KV heads.
    pub lanes: usize,
    /// The cache at the end.
    pub report: KvReport,
}

/// Takes some rows of logits, f32 `[rows, v]`, in the order of the text.
pub type LogitSink<'a> = &'a mut dyn FnMut(&[f32]) -> std::io::Result<()>;

/// [`evaluate_rows`] with all rows in memory.
///
/// # Errors
/// As [`evaluate_rows`].
pub fn evaluate(
    decoder: &Decoder,
    team: &Team,
    policy: &dyn EvictionPolicy,
    pool: &PagePool,
    ids: &[u32],
    chunk: usize,
) -> Result<Evaluation, EngineError> {
    collect(|rows| evaluate_rows(decoder, team, policy, pool, ids, chunk, rows))
}

/// [`evaluate_rows_on_device`] with all rows in memory.
///
/// # Errors
/// As [`evaluate_rows_on_device`].
pub fn evaluate_on_device(
    decoder: &mut DeviceDecoder,
    ids: &[u32],
    chunk: usize,
) -> Result<Evaluation, EngineError> {
    collect(|rows| evaluate_rows_on_device(decoder, ids, chunk, rows))
}

fn collect(
    run: impl FnOnce(LogitSink<'_>) -> Result<Evaluation, EngineError>,
) -> Result<Evaluation, EngineError> {
    let mut logits = Vec::new();
    let evaluation = run(&mut |rows| {
        logits.extend_from_slice(rows);
        Ok(())
    })?;
    Ok(Evaluation { logits, ..evaluation })
}

/// Feeds `ids` to `decoder` in chunks of `chunk` tokens (the last may be shorter) and hands every row of logits on, a
/// few at a time: all of a long text would be larger than the model.
///
/// The result does not depend on `chunk`, except for the rounding of sums over a pruned cache.
///
/// # Errors
/// An empty text, a zero chunk, a token outside the vocabulary, a text longer than the model's positions, an exhausted
/// pool; a logit that is not finite, a number that the cache's format cannot hold; a refusal of `rows`.
pub fn evaluate_rows(
    decoder: &Decoder,
    team: &Team,
    policy: &dyn EvictionPolicy,
    pool: &PagePool,
    ids: &[u32],
    chunk: usize,
    rows: LogitSink<'_>,
) -> Result<Evaluation, EngineError> {
    check(ids, chunk)?;
    let (layers, lanes) = (decoder.config().layers, decoder.lanes_per_layer(policy));
    let mut cache = KvCache::new(pool, layers, lanes);
    let mut expires_at = vec![vec![dropcap_cache::NEVER; lanes * ids.len()]; layers];
    let (mut logits, mut scratch) = (Vec::new(), Scratch::default());
    for part in ids.chunks(chunk) {
        let first = cache.next_position() as usize;
        let prompt_ends = first + part.len() == ids.len();
        let mut segments = [Segment { cache: &mut cache, ids: part, prompt_ends, logits: Logits::None }];
        let mut died = |_, layer: usize, lane: usize, death: dropcap_cache::Death| {
            expires_at[layer][lane * ids.len() + death.position as usize] = death.expires_at;
        };
        decoder.forward(team, policy, &mut segments, &mut scratch, &mut died, &mut logits)?;
        cache.check_range()?;
        for row in (0..part.len()).step_by(ROWS) {
            let end = part.len().min(row + ROWS);
            decoder.project(team, &mut scratch, row..end, &mut logits)?;
            check_rows(&logits, decoder.config().vocabulary, first + row)?;
            rows(&logits).map_err(EngineError::Rows)?;
        }
    }
    for (layer, lifetimes) in expires_at.iter_mut().enumerate() {
        for (index, lane) in cache.lanes(LayerIdx(layer)).iter().enumerate() {
            for (&position, &expiry) in lane.positions().iter().zip(lane.expires_at()) {
                lifetimes[index * ids.len() + position as usize] = expiry;
            }
        }
    }
    Ok(Evaluation { logits: Vec::new(), expires_at, lanes, report: cache.report() })
}

/// [`evaluate_rows`] on a device, whose decoder must tell of deaths ([`dropcap_model::device::DeviceOptions::deaths`]) and
/// have a free slot; chunks are cut to what it was made for, and the rows of one are handed on together.
///
/// # Errors
/// As [`evaluate_rows`]; no free slot; a failed device.
pub fn evaluate_rows_on_device(
    decoder: &mut DeviceDecoder,
    ids: &[u32],
    chunk: usize,
    rows: LogitSink<'_>,
) -> Result<Evaluation, EngineError> {
    check(ids, chunk)?;
    let chunk = chunk.min(decoder.options().chunk);
    let (layers, lanes) = (decoder.config().layers, decoder.groups());
    let Some(slot) = decoder.open()? else {
        return Err(EngineError::Option { name: "free slots", given: 0, minimum: 1 });
    };
    let mut memory = DeviceMemory::new(slot, decoder);
    let mut expires_at = vec![vec![dropcap_cache::NEVER; lanes * ids.len()]; layers];
    while (memory.next_position as usize) < ids.len() {
        let first_position = memory.next_position;
        let rest = &ids[first_position as usize..];
        let free = decoder.free_pages()?;
        let mut count = chunk.min(rest.len());
        while count > 1 && memory.pages_wanted(count) > free {
            count /= 2;
        }
        let (part, pages) = (&rest[..count], memory.pages_wanted(count));
        let prompt_ends = count == rest.len();
        if pages > free {
            let page_bytes = decoder.page_bytes();
            return Err(EngineError::OutOfMemory(Shortage {
                tokens: (first_position as usize).max(1),
                held_pages: memory.state.pages,
                wanted_pages: pages,
                lanes: layers * lanes,
                page_bytes,
                limit_bytes: decoder.capacity() * page_bytes,
            }));
        }
        let segment = DeviceSegment {
            slot: &memory.slot,
            ids: part,
            first_position,
            prompt_ends,
            wanted: Wanted::Logits,
        };
        let outcome = decoder.step(&[segment])?;
        for death in &outcome.deaths {
            let index = death.group as usize * ids.len() + death.position as usize;
            expires_at[death.layer as usize][index] = death.expires_at;
        }
        check_rows(&outcome.logits, decoder.config().vocabulary, first_position as usize)?;
        rows(&outcome.logits).map_err(EngineError::Rows)?;
        memory.next_position += part.len() as u32;
        memory.state = outcome.states.first().copied().unwrap_or_default();
    }
    for (lane, (positions, lifetimes)) in decoder.lifetimes(&memory.slot)?.iter().enumerate() {
        for (&position, &expiry) in positions.iter().zip(lifetimes) {
            expires_at[lane / lanes][lane % lanes * ids.len() + position as usize] = expiry;
        }
    }
    Ok(Evaluation { logits: Vec::new(), expires_at, lanes, report: memory.report() })
}

/// Refuses rows of logits `[rows, v]`, of the tokens from position `first` on, that are not all finite.
fn check_rows(logits: &[f32], vocabulary: usize, first: usize) -> Result<(), EngineError> {
    logits.chunks(vocabulary).zip(first + 1..).try_for_each(|(row, next)| check_finite(row, next))
}

fn check(ids: &[u32], chunk: usize) -> Result<(), EngineError> {
    if ids.is_empty() {
        return Err(EngineError::EmptyPrompt);
    }
    if chunk == 0 {
        return Err(EngineError::Option { name: "chunk", given: 0, minimum: 1 });
    }
    Ok(())
}
