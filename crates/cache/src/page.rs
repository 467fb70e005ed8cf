//! One page of entries, on loan from the pool.

use std::mem;
use std::sync::Arc;

use dropcap_kernels::Buffer;

use crate::CacheError;
use crate::pool::{PagePool, Shared};

/// A page of 32 entries that goes back to its pool when dropped.
#[derive(Debug)]
pub struct Page {
    buffer: Buffer,
    pool: Arc<Shared>,
}

impl Page {
    pub(crate) fn new(buffer: Buffer, pool: Arc<Shared>) -> Self {
        Self { buffer, pool }
    }

    /// The page's elements, in the order of the pool's layout.
    pub fn buffer(&self) -> &Buffer {
        &self.buffer
    }
}

impl Drop for Page {
    fn drop(&mut self) {
        // An empty buffer owns no memory.
        let nothing = Buffer::zeroed(self.buffer.dtype(), 0);
        self.pool.give_back(mem::replace(&mut self.buffer, nothing));
    }
}

/// Calls `write` on a page that nobody else sees: on the page itself, or on a copy that takes its place where a
/// fork shares it. Without room for the copy nothing changes.
pub(crate) fn write_page<T>(
    page: &mut Arc<Page>,
    pool: &PagePool,
    write: impl FnOnce(&mut Buffer) -> T,
) -> Result<T, CacheError> {
    if let Some(own) = Arc::get_mut(page) {
        return Ok(write(&mut own.buffer));
    }
    let mut copy = pool.take()?;
    copy_page(page, &mut copy);
    let written = write(&mut copy.buffer);
    *page = Arc::new(copy);
    Ok(written)
}

/// Makes `to` equal to `from`.
pub(crate) fn copy_page(from: &Page, to: &mut Page) {
    to.buffer.copy_from(&from.buffer, 0, 0, from.buffer.len());
}

/// Whether a fork sees the page too, so that writing it takes a copy. A fork that goes away meanwhile makes this
/// a false alarm; nothing makes it miss one, because only an owner can share a page.
pub(crate) fn is_shared(page: &Arc<Page>) -> bool {
    Arc::strong_count(page) > 1
}
