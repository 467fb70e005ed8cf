//! A lane of the KV cache as the kernels read it.

use crate::error::check_length;
use crate::{Buffer, KernelError, PAGE_ENTRIES, PageLayout};

/// A lane as kernels see it: entry i of the e live entries is slot `i % 32` of `pages[i / 32]`, without holes.
#[derive(Debug, Clone)]
pub struct LaneView<'a> {
    /// The layout of every page.
    pub layout: &'a PageLayout,
    /// At least `ceil(e / 32)` pages.
    pub pages: Vec<&'a Buffer>,
    /// Position of each entry in its sequence `[e]`, in any order.
    pub positions: &'a [u32],
    /// First query position that no longer sees the entry `[e]`; `u32::MAX` is never.
    pub expires_at: &'a [u32],
}

impl LaneView<'_> {
    /// Number of live entries e.
    pub fn len(&self) -> usize {
        self.positions.len()
    }

    /// Whether there is no entry.
    pub fn is_empty(&self) -> bool {
        self.positions.is_empty()
    }

    /// Refuses a view whose pages or lifetimes do not cover its entries, or whose pages are of another layout.
    pub(crate) fn check(&self, op: &'static str) -> Result<(), KernelError> {
        check_length(op, "expires_at", self.positions.len(), self.expires_at.len())?;
        let wanted = self.len().div_ceil(PAGE_ENTRIES);
        if self.pages.len() < wanted {
            return Err(KernelError::Length { op, what: "pages", expected: wanted, got: self.pages.len() });
        }
        self.pages.iter().try_for_each(|page| self.layout.check_page(op, page))
    }
}
