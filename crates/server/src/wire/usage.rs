//! What a request cost.

use dropcap_cache::KvReport;
use serde::Serialize;
use utoipa::ToSchema;

/// Tokens and memory of one request, all its choices together.
#[derive(Debug, Clone, Default, PartialEq, Serialize, ToSchema)]
pub struct Usage {
    /// Tokens of all prompts, each counted once.
    pub prompt_tokens: usize,
    /// Tokens of all choices.
    pub completion_tokens: usize,
    /// Both.
    pub total_tokens: usize,
    /// More about the prompts.
    pub prompt_tokens_details: PromptDetails,
    /// What the cache held of it at the end.
    pub kv: KvUsage,
}

/// More about the prompts.
#[derive(Debug, Clone, Default, PartialEq, Serialize, ToSchema)]
pub struct PromptDetails {
    /// Tokens that did not go through the model, because another request had the same beginning.
    pub cached_tokens: usize,
}

/// What the cache held at the end, and what it would have held if nothing were forgotten.
#[derive(Debug, Clone, Default, PartialEq, Serialize, ToSchema)]
pub struct KvUsage {
    /// The pruning method.
    pub method: String,
    /// Entries (tokens times lanes) without forgetting.
    pub logical_entries: u64,
    /// Entries that were left.
    pub kept_entries: u64,
    /// Bytes of the pages that held them.
    pub bytes: u64,
    /// Bytes of all logical entries.
    pub dense_bytes: u64,
    /// Entries of each lane that were to stay where the method acted, at most: `kv_budget`, or what the method keeps by
    /// itself; of the longest text where there are several. Left out where the method has no budget.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub budget: Option<u32>,
}

impl Usage {
    /// The cost of some choices over `prompt_tokens` tokens of prompts.
    pub fn new(
        prompt_tokens: usize,
        completion_tokens: usize,
        cached_tokens: usize,
        method: &str,
        report: KvReport,
        budget: Option<u32>,
    ) -> Self {
        Self {
            prompt_tokens,
            completion_tokens,
            total_tokens: prompt_tokens + completion_tokens,
            prompt_tokens_details: PromptDetails { cached_tokens },
            kv: KvUsage {
                method: method.to_owned(),
                logical_entries: report.logical_entries,
                kept_entries: report.live_entries,
                bytes: report.held_bytes,
                dense_bytes: report.dense_bytes,
                budget,
            },
        }
    }
}
