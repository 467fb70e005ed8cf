//! Rows of many entries at once.

use dropcap_kernels::{Buffer, KernelError, PAGE_ENTRIES, PageLayout};

use super::Lane;
use crate::error::CacheError;
use crate::page::write_page;

/// Appends rows of some slots of a page for one head.
type ReadRows = fn(&PageLayout, &Buffer, &[usize], usize, &mut Vec<f32>) -> Result<(), KernelError>;

impl Lane {
    /// Keys of some entries for one head, widened, f32 `[entries, d]` in the order given; several times faster than
    /// [`Lane::read_key`] for each where neighbours are asked for together.
    ///
    /// Errors: [`CacheError::Bounds`] without such an entry, [`CacheError::Kernel`] without such a head.
    pub fn read_keys(&self, entries: &[usize], head: usize) -> Result<Vec<f32>, CacheError> {
        self.read_rows(entries, head, PageLayout::read_keys)
    }

    /// Values of some entries for one head, likewise.
    ///
    /// Errors: as [`Lane::read_keys`].
    pub fn read_values(&self, entries: &[usize], head: usize) -> Result<Vec<f32>, CacheError> {
        self.read_rows(entries, head, PageLayout::read_values)
    }

    /// Puts other keys in the place of those of some entries for one head: f32 `[entries, d]`, rounded to the pages' format.
    ///
    /// Errors: as [`Lane::read_keys`], and [`CacheError::PoolExhausted`] where a page is shared with a fork and cannot be
    /// copied; keys before the one that failed are written.
    pub fn write_keys(&mut self, entries: &[usize], head: usize, keys: &[f32]) -> Result<(), CacheError> {
        let layout = self.pool.layout();
        let width = layout.head_dim();
        crate::error::check_rows("write keys", entries.len(), width, width, keys.len())?;
        for (&entry, key) in entries.iter().zip(keys.chunks_exact(width.max(1))) {
            let limit = self.positions.len();
            let page = self.pages.get_mut(entry / PAGE_ENTRIES).filter(|_| entry < limit);
            let bounds = CacheError::Bounds { op: "write keys", what: "an entry", limit, got: entry };
            let page = page.ok_or(bounds)?;
            write_page(page, &self.pool, |page| layout.write_key(page, entry % PAGE_ENTRIES, head, key))??;
        }
        Ok(())
    }

    fn read_rows(&self, entries: &[usize], head: usize, read: ReadRows) -> Result<Vec<f32>, CacheError> {
        let layout = self.pool.layout();
        let mut rows = Vec::with_capacity(entries.len() * layout.head_dim());
        let mut slots = Vec::with_capacity(PAGE_ENTRIES);
        for of_page in entries.chunk_by(|a, b| a / PAGE_ENTRIES == b / PAGE_ENTRIES) {
            slots.clear();
            for &entry in of_page {
                self.page_of(entry)?;
                slots.push(entry % PAGE_ENTRIES);
            }
            read(layout, self.page_of(of_page[0])?.buffer(), &slots, head, &mut rows)?;
        }
        Ok(rows)
    }
}
