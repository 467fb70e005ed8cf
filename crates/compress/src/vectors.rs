//! Vectors of texts: of a model's hidden states, or given.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use dropcap_policy::{EvictionPolicy, LaneEditor, Observation, Peak, PolicyError, TextSize};

use crate::judge::ids;
use crate::{CompressError, Embed, Judge, ModelJudge, Reading};

/// A policy that keeps everything and sums what the last layer reads.
///
/// It is code, so the engine that it listens in runs on the processor.
#[derive(Debug, Default)]
pub struct Listener(Mutex<Heard>);

#[derive(Debug, Default)]
struct Heard {
    /// The last layer that has been seen.
    layer: usize,
    /// Sums over tokens `[c]`.
    sum: Vec<f64>,
}

impl Listener {
    /// The sum since it was last asked, of all tokens of all texts.
    fn take(&self) -> Vec<f64> {
        std::mem::take(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner).sum)
    }
}

impl EvictionPolicy for Listener {
    fn peak(&self, TextSize { tokens, .. }: TextSize) -> Peak {
        Peak::exactly(tokens)
    }

    fn decide(&self, seen: &Observation<'_>, _lanes: &mut [LaneEditor<'_>]) -> Result<(), PolicyError> {
        let mut heard = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if seen.layer > heard.layer {
            heard.layer = seen.layer;
            heard.sum.clear();
        }
        if seen.layer == heard.layer {
            let rows: usize = seen.spans.iter().map(|span| span.queries).sum();
            let width = seen.hidden.len() / rows.max(1);
            heard.sum.resize(width, 0.0);
            for row in seen.hidden.chunks(width.max(1)) {
                heard.sum.iter_mut().zip(row).for_each(|(sum, &value)| *sum += f64::from(value));
            }
        }
        Ok(())
    }
}

/// Texts as the mean of what the last layer of a model reads, after its norm, at their tokens and a line break behind them:
/// the sum, which points the same way.
pub struct HiddenStates<'a> {
    judge: ModelJudge<'a>,
    listener: Arc<Listener>,
}

impl<'a> HiddenStates<'a> {
    /// Over a judge whose engine has `listener` for its policy and shares no beginnings of texts.
    #[must_use]
    pub fn new(judge: ModelJudge<'a>, listener: Arc<Listener>) -> Self {
        Self { judge, listener }
    }
}

impl Embed for HiddenStates<'_> {
    fn embed(&mut self, texts: &[&str]) -> Result<Vec<Vec<f64>>, CompressError> {
        let mut vectors = Vec::with_capacity(texts.len());
        for text in texts {
            let mut ids = ids(&self.judge, &format!("{text}\n"))?;
            ids.truncate(self.judge.positions());
            // One text at a time: the policy does not know whose a token is.
            self.judge.log_probs(vec![Reading { from: ids.len().saturating_sub(1).max(1), ids }])?;
            vectors.push(self.listener.take());
        }
        Ok(vectors)
    }
}

/// Vectors that were made elsewhere, by their texts.
#[derive(Debug, Clone, Default)]
pub struct GivenVectors(HashMap<String, Vec<f64>>);

impl GivenVectors {
    /// Vectors of texts; white space around a text does not matter.
    pub fn new(vectors: impl IntoIterator<Item = (String, Vec<f64>)>) -> Self {
        Self(vectors.into_iter().map(|(text, vector)| (text.trim().to_owned(), vector)).collect())
    }
}

impl Embed for GivenVectors {
    fn embed(&mut self, texts: &[&str]) -> Result<Vec<Vec<f64>>, CompressError> {
        let vector = |text: &&str| {
            let found = self.0.get(text.trim()).cloned();
            found.ok_or_else(|| CompressError::NoVector { text: text.trim().chars().take(80).collect() })
        };
        texts.iter().map(vector).collect()
    }
}
