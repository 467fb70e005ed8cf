//! A whole text at once: every logit, and when each of its tokens was forgotten.

use dropcap_cache::{KvReport, PagePool};
use dropcap_kernels::Team;
use dropcap_model::Decoder;
use dropcap_model::device::DeviceDecoder;
use dropcap_policy::EvictionPolicy;

use crate::{EngineError, Reading};

/// Rows of logits that are computed and handed on at a time: enough for its matrix kernel, 40 MB of the largest
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
/// An empty text, a zero chunk, one that does not hold what the method must see together, a token outside the vocabulary,
/// a text longer than the model's positions, an exhausted pool; a logit that is not finite, a number that the cache's
/// format cannot hold; a refusal of `rows`.
pub fn evaluate_rows(
    decoder: &Decoder,
    team: &Team,
    policy: &dyn EvictionPolicy,
    pool: &PagePool,
    ids: &[u32],
    chunk: usize,
    rows: LogitSink<'_>,
) -> Result<Evaluation, EngineError> {
    read(Reading::on_host(decoder, team, policy, pool, ids.len()), ids, chunk, rows)
}

/// [`evaluate_rows`] on a device, whose decoder must tell of deaths ([`dropcap_model::device::DeviceOptions::deaths`]) and
/// have a free slot; chunks are cut to what it was made for.
///
/// # Errors
/// As [`evaluate_rows`]; no free slot; a failed device.
pub fn evaluate_rows_on_device(
    decoder: &mut DeviceDecoder,
    ids: &[u32],
    chunk: usize,
    rows: LogitSink<'_>,
) -> Result<Evaluation, EngineError> {
    let chunk = chunk.min(decoder.options().chunk);
    read(Reading::on_device(decoder, ids.len())?, ids, chunk, rows)
}

fn read(
    mut reading: Reading<'_>,
    ids: &[u32],
    chunk: usize,
    rows: LogitSink<'_>,
) -> Result<Evaluation, EngineError> {
    if ids.is_empty() {
        return Err(EngineError::EmptyPrompt);
    }
    if chunk == 0 {
        return Err(EngineError::Option { name: "chunk", given: 0, minimum: 1 });
    }
    let (needs, mut fed) = (reading.needs(), 0);
    let needed = needs.together(ids.len());
    if needed > chunk {
        return Err(EngineError::Together { needed, chunk });
    }
    while fed < ids.len() {
        let wanted = chunk.min(ids.len() - fed);
        let part = &ids[fed..fed + needs.cut(ids.len(), fed, wanted)];
        fed += part.len();
        reading.feed(part, fed == ids.len())?;
        for row in (0..part.len()).step_by(ROWS) {
            rows(reading.logits(row..part.len().min(row + ROWS))?).map_err(EngineError::Rows)?;
        }
    }
    reading.finish()
}
