//! A model of random weights.

use serde::{Deserialize, Serialize};

use super::choices::Family;

/// The shape of a model that is trained from scratch.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Init {
    /// Its family.
    pub family: Family,
    /// Number of layers.
    pub layers: usize,
    /// Width of the residual stream, c.
    pub hidden: usize,
    /// Number of query heads, h.
    pub heads: usize,
    /// Number of KV heads, g; llama only, else all of h.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kv_heads: Option<usize>,
    /// Positions.
    pub context: usize,
    /// Number of tokens, v; `None` takes the tokenizer's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vocabulary: Option<usize>,
    /// Width of the MLP; `None` takes 4 c for gpt2, and 8/3 c rounded up to 32 for llama.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub intermediate: Option<usize>,
}

impl Init {
    /// Number of KV heads, g.
    pub fn kv_heads(&self) -> usize {
        self.kv_heads.unwrap_or(self.heads)
    }

    /// Width of the MLP between its matrices.
    pub fn intermediate(&self) -> usize {
        self.intermediate.unwrap_or(match self.family {
            Family::Gpt2 => 4 * self.hidden,
            Family::Llama => (8 * self.hidden / 3).next_multiple_of(32),
        })
    }
}
