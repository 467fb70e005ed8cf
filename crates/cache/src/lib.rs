//! L2: pages, lanes, lifetimes and side channels of the key-value cache.
//!
//! One idea carries everything: a decision is a lifetime. Every entry (one token's key and value in one lane)
//! has `expires_at`, the first query position that no longer sees it, and is visible to query q iff
//! `position <= q < expires_at`. Policies lower lifetimes ([`Lane::lower`]); the cache frees what has expired
//! ([`Lane::reclaim`]), so that a [`PagePool`] gets whole pages back and another sequence can have them.
//!
//! Attention does not care about the order of entries, because positions are baked into keys. So a lane keeps
//! its live entries dense: freeing one moves the last live entry into its place. There are no holes, no masks
//! over dead entries, and n entries always occupy exactly `ceil(n / 32)` pages.

mod cache;
mod death;
mod error;
mod lane;
mod layer;
mod page;
mod pool;
mod range;
mod report;

pub use cache::{KeyValueRows, KvCache};
pub use death::{Death, NEVER};
pub use error::CacheError;
pub use lane::Lane;
pub use layer::LayerIdx;
pub use page::Page;
pub use pool::{PagePool, PoolUsage};
pub use report::KvReport;
