//! What the page's script is given.

use dropcap_trace::{Timeline, TraceError};
use serde::Serialize;

use crate::kinds::{Kind, kinds};
use crate::lives::Lives;
use crate::{InspectError, MAX_ENTRIES};

/// The whole report, as the script reads it.
#[derive(Serialize)]
pub(crate) struct Report<'a> {
    model: &'a str,
    method: &'a str,
    layers: usize,
    /// Lanes of each layer.
    groups: usize,
    /// What is wrong with the trace's end, if anything is.
    torn: Option<String>,
    sequences: Vec<Sequence<'a>>,
}

#[derive(Serialize)]
struct Sequence<'a> {
    id: String,
    prompt_tokens: usize,
    /// Why it ended; nothing where the trace stops before.
    ended: Option<&'a str>,
    ids: &'a [u32],
    texts: &'a [Option<String>],
    lives: String,
    scores: Option<String>,
    kinds: Vec<Kind>,
}

impl<'a> Report<'a> {
    /// # Errors
    /// No token; more entries than a page shows.
    pub(crate) fn new(timeline: &'a Timeline, torn: Option<&TraceError>) -> Result<Self, InspectError> {
        let header = &timeline.header;
        let tokens: u64 = timeline.sequences.values().map(|sequence| sequence.ids.len() as u64).sum();
        let lanes = (header.layers as u64).saturating_mul(header.groups() as u64);
        let entries = tokens.saturating_mul(lanes);
        if tokens == 0 {
            return Err(InspectError::Empty);
        }
        if entries > MAX_ENTRIES {
            return Err(InspectError::TooLarge { tokens, lanes, entries });
        }
        let ran = timeline.sequences.iter().filter(|(_, sequence)| !sequence.ids.is_empty());
        let sequences = ran.map(|(id, sequence)| {
            let lives = Lives::new(header, sequence);
            Sequence {
                id: id.to_string(),
                prompt_tokens: sequence.prompt_tokens,
                ended: sequence.end.as_ref().map(|end| end.finish_reason.as_str()),
                ids: &sequence.ids,
                texts: &sequence.texts,
                lives: lives.packed(),
                scores: lives.packed_scores(),
                kinds: kinds(sequence, &lives),
            }
        });
        Ok(Self {
            model: &header.model,
            method: &header.method,
            layers: header.layers,
            groups: header.groups(),
            torn: torn.map(ToString::to_string),
            sequences: sequences.collect(),
        })
    }

    /// Sequences on the page.
    pub(crate) fn sequences(&self) -> usize {
        self.sequences.len()
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// Two layers whose heads share their entries, four tokens; what a hostile text says is one of them.
    pub(crate) const TRACE: &str = r#"{"header":{"version":2,"model":"m <b>","method":"dcp","layers":2,"kv_heads":4,"granularity":"layer","vocabulary":50}}
{"sequence":{"id":3,"prompt_tokens":3}}
{"tokens":{"id":3,"first_position":0,"ids":[7,2,7],"texts":["The"," cat","</script><img onerror=alert(1)>"]}}
{"deaths":{"id":3,"layer":1,"positions":[0,1],"expires_at":[2,2],"killers":[2,1],"scores":[-0.5,null]}}
{"tokens":{"id":3,"first_position":3,"ids":[9],"texts":[""]}}
{"end":{"id":3,"finish_reason":"stop","live":[4,2]}}
"#;

    pub(crate) fn timeline() -> Timeline {
        Timeline::read(TRACE.as_bytes()).unwrap()
    }

    #[test]
    fn what_claims_more_than_a_page_shows_is_refused_with_its_sum() {
        let mut timeline = timeline();
        timeline.header.layers = u32::MAX as usize;
        let error = Report::new(&timeline, None).map(|_| ()).unwrap_err().to_string();
        assert!(error.contains("4 tokens in 4294967295 lanes") && error.contains("67108864"), "{error}");
        timeline.sequences.clear();
        assert!(matches!(Report::new(&timeline, None), Err(InspectError::Empty)));
    }
}
