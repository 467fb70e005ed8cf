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

/// A text and how it goes in.
#[derive(Debug, Clone, Copy)]
pub struct Text<'a> {
    /// Its tokens.
    pub ids: &'a [u32],
    /// How many of them methods take for the prompt, at least one: what they do where a prompt ends they do there.
    pub prompt: usize,
    /// Most tokens of a step.
    pub chunk: usize,
}

/// Takes some rows of logits, f32 `[rows, v]`, in the order of the text.
pub type LogitSink<'a> = &'a mut dyn FnMut(&[f32]) -> std::io::Result<()>;

/// [`evaluate_rows`] of a prompt, with all rows in memory.
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
    let text = Text { ids, prompt: ids.len(), chunk };
    collect(|rows| evaluate_rows(decoder, team, policy, pool, text, rows))
}

/// [`evaluate_rows_on_device`] of a prompt, with all rows in memory.
///
/// # Errors
/// As [`evaluate_rows_on_device`].
pub fn evaluate_on_device(
    decoder: &mut DeviceDecoder,
    ids: &[u32],
    chunk: usize,
) -> Result<Evaluation, EngineError> {
    let text = Text { ids, prompt: ids.len(), chunk };
    collect(|rows| evaluate_rows_on_device(decoder, text, rows))
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

/// Feeds `text` to `decoder` in chunks, which do not cross the prompt's end, and hands every row of logits on, a few at a
/// time: all of a long text would be larger than the model.
///
/// The result does not depend on the chunks, except for the rounding of sums over a pruned cache.
///
/// # Errors
/// An empty text, a prompt that is empty or longer than the text, a chunk of zero or one that does not hold what the method
/// must see together, a token outside the vocabulary, a text longer than the model's positions, an exhausted pool; a logit that is not finite, a number that the cache's
/// format cannot hold; a refusal of `rows`.
pub fn evaluate_rows(
    decoder: &Decoder,
    team: &Team,
    policy: &dyn EvictionPolicy,
    pool: &PagePool,
    text: Text<'_>,
    rows: LogitSink<'_>,
) -> Result<Evaluation, EngineError> {
    read(Reading::on_host(decoder, team, policy, pool, text.ids.len()), text, rows)
}

/// [`evaluate_rows`] on a device, whose decoder must tell of deaths ([`dropcap_model::device::DeviceOptions::deaths`]) and
/// have a free slot; chunks are cut to what it was made for.
///
/// # Errors
/// As [`evaluate_rows`]; no free slot; a failed device.
pub fn evaluate_rows_on_device(
    decoder: &mut DeviceDecoder,
    text: Text<'_>,
    rows: LogitSink<'_>,
) -> Result<Evaluation, EngineError> {
    let chunk = text.chunk.min(decoder.options().chunk);
    read(Reading::on_device(decoder, text.ids.len())?, Text { chunk, ..text }, rows)
}

fn read(
    mut reading: Reading<'_>,
    Text { ids, prompt, chunk }: Text<'_>,
    rows: LogitSink<'_>,
) -> Result<Evaluation, EngineError> {
    if ids.is_empty() {
        return Err(EngineError::EmptyPrompt);
    }
    for (name, given) in [("chunk", chunk), ("prompt", prompt)] {
        if given == 0 {
            return Err(EngineError::Option { name, given, minimum: 1 });
        }
    }
    if prompt > ids.len() {
        return Err(EngineError::PromptTooLong { given: prompt, limit: ids.len() });
    }
    let (needs, mut fed) = (reading.needs(), 0);
    let needed = needs.together(prompt);
    if needed > chunk {
        return Err(EngineError::Together { needed, chunk });
    }
    while fed < ids.len() {
        let end = if fed < prompt { prompt } else { ids.len() };
        let part = &ids[fed..fed + needs.cut(prompt, fed, chunk.min(end - fed))];
        fed += part.len();
        reading.feed(part, fed == prompt, 0)?;
        for row in (0..part.len()).step_by(ROWS) {
            rows(reading.logits(row..part.len().min(row + ROWS))?).map_err(EngineError::Rows)?;
        }
    }
    reading.finish()
}
