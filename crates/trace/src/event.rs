//! Every line after the header: a sequence begins, has tokens, loses entries, ends.

use serde::{Deserialize, Serialize};

/// One line of a trace after its header.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Event {
    /// A sequence begins.
    Sequence(Sequence),
    /// Tokens that entered a sequence.
    Tokens(Tokens),
    /// Entries that died in one step, in one layer (and KV head).
    Deaths(Deaths),
    /// A sequence ended.
    End(End),
}

/// A sequence begins.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Sequence {
    /// The sequence, unique in its trace.
    pub id: u64,
    /// How many of its tokens are the prompt.
    pub prompt_tokens: usize,
}

/// Tokens that entered a sequence, in order and without a gap to the ones before.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Tokens {
    /// The sequence.
    pub id: u64,
    /// Position of the first of them: the number of tokens that the sequence had before.
    pub first_position: u32,
    /// Token ids `[t]`, each below the vocabulary's size.
    pub ids: Vec<u32>,
    /// The tokens' texts `[t]`, where the writer knows them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub texts: Option<Vec<String>>,
}

/// Entries of one lane that died in one step; arrays `[n]`, in ascending order of position.
///
/// Entry `i` of token `positions[i]` was seen by the queries from `positions[i]` up to, not including,
/// `expires_at[i]`, and `killers[i]` is the query that decided so.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Deaths {
    /// The sequence.
    pub id: u64,
    /// The layer.
    pub layer: usize,
    /// The KV head where every head has entries of its own, otherwise nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub head: Option<usize>,
    /// Positions of the dead tokens, strictly ascending, below the number of tokens so far.
    pub positions: Vec<u32>,
    /// For each, the first query position that no longer sees it; above the position, and at most the number of
    /// tokens so far.
    pub expires_at: Vec<u32>,
    /// For each, the query that killed it; `position <= killer <= expires_at`. A window names the first query
    /// that no longer sees the entry.
    pub killers: Vec<u32>,
    /// For each, the score of the vote that killed it, where one did and the writer knows it; finite.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scores: Option<Vec<Option<f32>>>,
}

impl Deaths {
    /// A batch from (position, expires_at, killer) in any order, as the cache's compaction reports them.
    pub fn collect(
        id: u64,
        layer: usize,
        head: Option<usize>,
        deaths: impl IntoIterator<Item = (u32, u32, u32)>,
    ) -> Self {
        let mut deaths: Vec<_> = deaths.into_iter().collect();
        deaths.sort_unstable();
        Self {
            id,
            layer,
            head,
            positions: deaths.iter().map(|death| death.0).collect(),
            expires_at: deaths.iter().map(|death| death.1).collect(),
            killers: deaths.iter().map(|death| death.2).collect(),
            scores: None,
        }
    }

    /// Each death as (position, expires_at, killer).
    pub fn iter(&self) -> impl Iterator<Item = (u32, u32, u32)> + '_ {
        let rest = self.expires_at.iter().zip(&self.killers);
        self.positions
            .iter()
            .zip(rest)
            .map(|(&position, (&expires_at, &killer))| (position, expires_at, killer))
    }
}

/// A sequence ended; nothing more is said about it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct End {
    /// The sequence.
    pub id: u64,
    /// Why, in the engine's word: `stop`, `length`, `cancelled`...
    pub finish_reason: String,
    /// Entries still live in each layer, summed over its KV heads where they have entries of their own
    /// `[layers]`.
    pub live: Vec<u64>,
}

impl Event {
    /// The sequence that the event is about.
    pub fn id(&self) -> u64 {
        match self {
            Self::Sequence(event) => event.id,
            Self::Tokens(event) => event.id,
            Self::Deaths(event) => event.id,
            Self::End(event) => event.id,
        }
    }
}
