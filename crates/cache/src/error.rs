//! What the cache can refuse.

use dropcap_kernels::{KernelError, KvFormat};
use thiserror::Error;

use crate::LayerIdx;

/// Why a call changed nothing.
#[derive(Debug, Clone, PartialEq, Error)]
pub enum CacheError {
    /// The pool's limit leaves no room for the pages that a call needs.
    #[error(
        "the page pool is full: limit {limit} bytes, {held} bytes held, {wanted} bytes wanted; wait until a \
         sequence ends, prune more, or raise the limit"
    )]
    PoolExhausted {
        /// Bytes that all pages together may take.
        limit: usize,
        /// Bytes of the pages in use.
        held: usize,
        /// Bytes that the call needs on top.
        wanted: usize,
    },
    /// Positions end before [`crate::NEVER`], which no query reaches.
    #[error("append: {count} positions from {first} reach beyond {}; end the sequence before", u32::MAX - 1)]
    Positions {
        /// The first position.
        first: u32,
        /// How many.
        count: usize,
    },
    /// Rows of activations do not reach as far as their stride and number say.
    #[error(
        "{op}: expected at least {expected} elements in rows of {width} a stride of {stride} apart, got {got}"
    )]
    Rows {
        /// The operation.
        op: &'static str,
        /// Elements of one row.
        width: usize,
        /// Elements from one row to the next, at least `width`.
        stride: usize,
        /// Elements that the rows span.
        expected: usize,
        /// Elements given.
        got: usize,
    },
    /// Something is numbered beyond what there is.
    #[error("{op}: expected {what} below {limit}, got {got}")]
    Bounds {
        /// The operation.
        op: &'static str,
        /// What is numbered.
        what: &'static str,
        /// How many there are.
        limit: usize,
        /// The number given.
        got: usize,
    },
    /// A number became infinite because the cache's format has no room for it.
    #[error(
        "the {what} of position {position} in layer {layer} holds {number}, which is beyond the range of a cache of \
         {dtype}: choose a wider dtype for the cache ({})",
        dtype.wider()
    )]
    Range {
        /// The layer.
        layer: LayerIdx,
        /// `key`, `value` or `side channel`.
        what: &'static str,
        /// Position of the token.
        position: u32,
        /// What the model computed.
        number: f32,
        /// The format of the cache.
        dtype: KvFormat,
    },
    /// A page operation refused, or there is no memory for a page.
    #[error(transparent)]
    Kernel(#[from] KernelError),
}

/// Refuses rows of `width` elements that overlap or reach beyond `len` elements.
pub(crate) fn check_rows(
    op: &'static str,
    count: usize,
    width: usize,
    stride: usize,
    len: usize,
) -> Result<(), CacheError> {
    if count == 0 {
        return Ok(());
    }
    let expected = (count - 1).saturating_mul(stride).saturating_add(width);
    if (count > 1 && stride < width) || len < expected {
        return Err(CacheError::Rows { op, width, stride, expected, got: len });
    }
    Ok(())
}
