//! What can be wrong with a call into this crate.

/// Why an operation refused its arguments; it then has written nothing.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum KernelError {
    /// An operand has the wrong number of elements.
    #[error("{op}: {what} must hold {expected} elements, got {got}; pass slices whose shapes agree")]
    Length {
        /// The operation.
        op: &'static str,
        /// The operand, as the contract names it.
        what: &'static str,
        /// Elements that the other operands imply.
        expected: usize,
        /// Elements given.
        got: usize,
    },
    /// An argument is outside what the operation is defined for.
    #[error("{op}: expected {expected}, got {got}")]
    Invalid {
        /// The operation.
        op: &'static str,
        /// What would have been accepted.
        expected: String,
        /// What was given.
        got: String,
    },
    /// A size does not fit the address space or the allocator refused it.
    #[error("{op}: cannot allocate {got}; expected {expected}, use a smaller shape or a narrower dtype")]
    TooLarge {
        /// The operation.
        op: &'static str,
        /// The limit that was met.
        expected: String,
        /// The size that was asked for.
        got: String,
    },
    /// The operating system would not start a thread.
    #[error("{op}: expected {expected} threads, got {got}; ask for fewer threads ({reason})")]
    Threads {
        /// The operation.
        op: &'static str,
        /// Threads asked for.
        expected: usize,
        /// Threads that could be started.
        got: usize,
        /// The system's own words.
        reason: String,
    },
    /// From the CUDA backend.
    #[error(transparent)]
    Cuda(#[from] crate::cuda::CudaError),
}

/// Refuses an operand whose length is not what the other operands imply.
pub(crate) fn check_length(
    op: &'static str,
    what: &'static str,
    expected: usize,
    got: usize,
) -> Result<(), KernelError> {
    if expected == got { Ok(()) } else { Err(KernelError::Length { op, what, expected, got }) }
}

/// Multiplies sizes, refusing a product that does not fit a `usize`.
pub(crate) fn checked_size(op: &'static str, factors: &[usize]) -> Result<usize, KernelError> {
    let mut product = 1usize;
    for &factor in factors {
        product = product.checked_mul(factor).ok_or_else(|| KernelError::TooLarge {
            op,
            expected: format!("a product up to {}", usize::MAX),
            got: format!("the product of {factors:?}"),
        })?;
    }
    Ok(product)
}

/// Refuses an address on a device that is no multiple of so many bytes.
pub(crate) fn check_aligned(
    op: &'static str,
    what: &str,
    pointer: u64,
    bytes: u64,
) -> Result<(), KernelError> {
    if pointer.is_multiple_of(bytes) {
        return Ok(());
    }
    Err(KernelError::Invalid {
        op,
        expected: format!("{what} at a multiple of {bytes} bytes"),
        got: format!("address {pointer}"),
    })
}

/// Refuses a buffer that is shorter than what will be used of its front.
pub(crate) fn check_at_least(
    op: &'static str,
    what: &'static str,
    expected: usize,
    got: usize,
) -> Result<(), KernelError> {
    if got >= expected { Ok(()) } else { Err(KernelError::Length { op, what, expected, got }) }
}
