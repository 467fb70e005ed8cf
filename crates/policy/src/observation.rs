//! What a policy may look at when it decides.

use dropcap_cache::Death;
use dropcap_kernels::{AttentionShape, RopeTable, Team};

/// Where in its text a step's tokens lie. No step crosses the end of a prompt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// In a prompt that goes on.
    Prompt,
    /// The last tokens of a prompt (of this turn, in a conversation).
    PromptEnd,
    /// Behind the prompt: generated, or read as if it were.
    Behind,
}

/// One sequence's rows in a ragged step.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Span {
    /// Row of this sequence's first new token in [`Observation::hidden`].
    pub first_row: usize,
    /// New tokens of this sequence in this step, at least one; each is a query and a new entry.
    pub queries: usize,
    /// Position of the first new token in its sequence; the others follow one by one.
    pub first_position: u32,
    /// Where in the text they lie.
    pub stage: Stage,
    /// Most entries of each lane that the text wants kept where the method acts, the same in all its steps; it binds beside
    /// the method's own budget, under its floors, and methods without a budget pass over it
    /// ([`crate::EvictionPolicy::budgets`]).
    pub budget: Option<u32>,
}

impl Span {
    /// Whether this step holds the last token of the prompt.
    #[must_use]
    pub fn prompt_ends(&self) -> bool {
        self.stage == Stage::PromptEnd
    }

    /// The position after this step's last token: the first query that later steps will bring.
    #[must_use]
    pub fn next_position(&self) -> u32 {
        let queries = u32::try_from(self.queries).unwrap_or(u32::MAX);
        self.first_position.saturating_add(queries)
    }
}

/// One layer of one step, seen by a policy before the layer's attention runs.
///
/// The new tokens' keys and values are already in the lanes, so a lifetime set now already holds for the
/// attention of this step.
#[derive(Debug, Clone, Copy)]
pub struct Observation<'a> {
    /// The threads to compute with.
    pub team: &'a Team,
    /// Index of the layer, counted from the embedding.
    pub layer: usize,
    /// Input of the attention block (after the norm) for all spans, f32 `[t, c]`.
    pub hidden: &'a [f32],
    /// The sequences of this step, in the order of the lanes.
    pub spans: &'a [Span],
    /// Per span, what was freed in the layer below during this step, from every lane of that layer; empty for
    /// layer 0.
    pub died_below: &'a [Vec<Death>],
    /// Index, in the pages, of this policy's first side channel; the rest follow in the declared order.
    pub first_channel: usize,
}

/// One layer of one step, seen by a policy after the layer's attention.
///
/// What it decides now holds from the query after each span's last one on.
#[derive(Debug, Clone, Copy)]
pub struct Attended<'a> {
    /// The threads to compute with.
    pub team: &'a Team,
    /// Index of the layer, counted from the embedding.
    pub layer: usize,
    /// Number of layers.
    pub layers: usize,
    /// Input of the attention block (after the norm) for all rows of the step, f32 `[t, c]`.
    pub hidden: &'a [f32],
    /// Queries of all rows, as attention took them: row i starts at `i * query_stride` and is `h * d` wide.
    pub queries: &'a [f32],
    /// Elements from one row of queries to the next.
    pub query_stride: usize,
    /// Heads and scale of the layer's attention.
    pub shape: AttentionShape,
    /// What turned queries and keys by their positions; none where positions are learned.
    pub rope: Option<&'a RopeTable>,
    /// Per span [`Ended::similarities`], known once the prompt has ended; empty where [`crate::Needs::layers`] is not asked for.
    pub similarities: &'a [Vec<f64>],
    /// The sequences, in the order of the lanes. Their lanes may hold entries of later tokens too: whatever lies at or
    /// behind [`Span::next_position`] has not come yet.
    pub spans: &'a [Span],
    /// Index of this policy's first statistic in the row of an entry; the rest follow.
    pub first_statistic: usize,
}

/// One sequence whose prompt has ended in all layers.
#[derive(Debug, Clone, Copy)]
pub struct Ended<'a> {
    /// The last tokens of the prompt, as all layers have seen them.
    pub span: &'a Span,
    /// Of each layer the mean over the prompt's tokens of the [`crate::cosine`] between the residual stream before the layer's
    /// attention block and behind it, `[L]`.
    pub similarities: &'a [f64],
    /// Index of this policy's first statistic in the row of an entry; the rest follow.
    pub first_statistic: usize,
}
