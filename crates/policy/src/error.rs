//! What can go wrong while a policy decides.

use dropcap_cache::CacheError;
use dropcap_kernels::KernelError;

/// A decision that could not be made; the step that asked for it cannot go on.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PolicyError {
    /// An operation refused its operands.
    #[error("the policy's computation failed: {0}")]
    Kernel(#[from] KernelError),
    /// The cache refused an edit.
    #[error("the cache refused the policy's edit: {0}")]
    Cache(#[from] CacheError),
    /// What the policy was shown does not fit what it was built for.
    #[error(
        "{what} in layer {layer}: expected {expected}, got {got}; the policy was built for another model"
    )]
    Mismatch {
        /// The quantity that differs.
        what: &'static str,
        /// The layer at which it was noticed.
        layer: usize,
        /// What the policy was built for.
        expected: usize,
        /// What it was shown.
        got: usize,
    },
}
