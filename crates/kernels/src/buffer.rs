//! Aligned storage of one dtype: the memory of packed weights and of cache pages.

use std::alloc::{Layout, alloc_zeroed, dealloc, handle_alloc_error};
use std::fmt;
use std::ptr::NonNull;
use std::sync::Arc;

use half::{bf16, f16};

use crate::{DType, KernelError};

/// Bytes that every buffer is aligned to: one cache line, one AVX-512 register.
pub const ALIGNMENT: usize = 64;

/// Bytes from which a buffer asks for huge pages: weights, never cache pages.
const HUGE_FROM: usize = 4 << 20;
/// Bytes that a shelf asks the system for at once.
const SHELF: usize = 32 << 20;

/// A fixed number of elements of one dtype, aligned to 64 bytes and zero at first.
pub struct Buffer {
    /// First element; aligned to `ALIGNMENT`.
    start: NonNull<u8>,
    /// What keeps the elements where they are, for this buffer alone or for those of a shelf; nothing where there are none.
    _memory: Option<Arc<Allocation>>,
    dtype: DType,
    len: usize,
}

/// Memory from the system, given back when it is dropped.
struct Allocation {
    base: NonNull<u8>,
    layout: Layout,
}

/// Memory in huge pages for the buffers of many small weights, one after the other: alone, each would be too small to have one.
///
/// What lies there is given back when the shelf and all buffers of its stretch are gone, so it is for what lives equally long.
#[derive(Default)]
pub struct Shelf {
    stretch: Option<Arc<Allocation>>,
    /// Bytes of it that are taken.
    taken: usize,
}

/// A buffer's elements, read in their own dtype.
#[derive(Debug, Clone, Copy)]
pub enum Elements<'a> {
    /// Elements of an f32 buffer.
    F32(&'a [f32]),
    /// Elements of an f16 buffer.
    F16(&'a [f16]),
    /// Elements of a bf16 buffer.
    Bf16(&'a [bf16]),
}

/// A buffer's elements, written in their own dtype.
#[derive(Debug)]
pub enum ElementsMut<'a> {
    /// Elements of an f32 buffer.
    F32(&'a mut [f32]),
    /// Elements of an f16 buffer.
    F16(&'a mut [f16]),
    /// Elements of a bf16 buffer.
    Bf16(&'a mut [bf16]),
}

// SAFETY: a Buffer alone has its elements and hands out borrows only through &self and &mut self.
unsafe impl Send for Buffer {}
// SAFETY: through &Buffer memory can only be read.
unsafe impl Sync for Buffer {}
// SAFETY: an Allocation never looks at its memory; any thread may give it back.
unsafe impl Send for Allocation {}
// SAFETY: as above.
unsafe impl Sync for Allocation {}

impl Buffer {
    /// Zeroed storage; runs out of memory the way `Vec` does, by ending the process.
    pub fn zeroed(dtype: DType, len: usize) -> Self {
        Self::try_zeroed(dtype, len).unwrap_or_else(|_| handle_alloc_error(Layout::new::<Self>()))
    }

    /// Zeroed storage, or [`KernelError::TooLarge`] when there is no such memory.
    ///
    /// A large buffer costs nothing until it is written: pages come from the system on first touch, so that
    /// several threads can fill one together.
    pub fn try_zeroed(dtype: DType, len: usize) -> Result<Self, KernelError> {
        let too_large = || KernelError::TooLarge {
            op: "buffer",
            expected: "a size that the system can give".to_owned(),
            got: format!("{len} elements of {dtype}"),
        };
        let dangling = NonNull::<CacheLine>::dangling().cast::<u8>();
        if len == 0 {
            return Ok(Self { start: dangling, _memory: None, dtype, len });
        }
        // Alignment 16 and a shift by hand, not alignment 64: the system allocator serves only small alignments
        // from untouched zero pages (calloc) and would clear the memory in this one thread otherwise.
        let bytes = len
            .checked_mul(dtype.bytes())
            .and_then(|bytes| bytes.checked_add(ALIGNMENT - 16))
            .ok_or_else(too_large)?;
        let allocation = Allocation::zeroed(bytes).ok_or_else(too_large)?;
        // SAFETY: the base is 16-aligned, so the shift is at most 48 bytes, which `bytes` has beyond the elements.
        let start = unsafe { allocation.base.add(allocation.base.align_offset(ALIGNMENT)) };
        Ok(Self { start, _memory: Some(Arc::new(allocation)), dtype, len })
    }

    /// The format of the elements.
    pub fn dtype(&self) -> DType {
        self.dtype
    }

    /// Number of elements.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there are no elements.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Bytes of all elements.
    pub fn bytes(&self) -> usize {
        self.len * self.dtype.bytes()
    }

    /// All elements.
    pub fn elements(&self) -> Elements<'_> {
        // SAFETY (all three): `start` is aligned for every dtype and holds `len` initialised elements of
        // `dtype` (zeroed at first, every bit pattern is valid); the borrow of self keeps them unwritten.
        match self.dtype {
            // SAFETY: above.
            DType::F32 => Elements::F32(unsafe { slice(self.start, self.len) }),
            // SAFETY: above.
            DType::F16 => Elements::F16(unsafe { slice(self.start, self.len) }),
            // SAFETY: above.
            DType::Bf16 => Elements::Bf16(unsafe { slice(self.start, self.len) }),
        }
    }

    /// All elements, to be written.
    pub fn elements_mut(&mut self) -> ElementsMut<'_> {
        // SAFETY (all three): as in `elements`; the borrow of self is exclusive.
        match self.dtype {
            // SAFETY: above.
            DType::F32 => ElementsMut::F32(unsafe { slice_mut(self.start, self.len) }),
            // SAFETY: above.
            DType::F16 => ElementsMut::F16(unsafe { slice_mut(self.start, self.len) }),
            // SAFETY: above.
            DType::Bf16 => ElementsMut::Bf16(unsafe { slice_mut(self.start, self.len) }),
        }
    }

    /// Element `index`, widened. Panics out of bounds, as indexing a slice does.
    pub fn get(&self, index: usize) -> f32 {
        match self.elements() {
            Elements::F32(all) => all[index],
            Elements::F16(all) => all[index].to_f32(),
            Elements::Bf16(all) => all[index].to_f32(),
        }
    }

    /// Sets element `index`, rounded to nearest even. Panics out of bounds, as indexing a slice does.
    pub fn set(&mut self, index: usize, value: f32) {
        match self.elements_mut() {
            ElementsMut::F32(all) => all[index] = value,
            ElementsMut::F16(all) => all[index] = f16::from_f32(value),
            ElementsMut::Bf16(all) => all[index] = bf16::from_f32(value),
        }
    }

    /// Moves `len` elements from `source` to `target`, which may overlap. Panics out of bounds.
    pub fn copy_within(&mut self, source: usize, target: usize, len: usize) {
        let range = source..source + len;
        match self.elements_mut() {
            ElementsMut::F32(all) => all.copy_within(range, target),
            ElementsMut::F16(all) => all.copy_within(range, target),
            ElementsMut::Bf16(all) => all.copy_within(range, target),
        }
    }

    /// Copies `len` elements of `other` from `source` to `target` here, rounding when the dtypes differ. Panics
    /// out of bounds.
    pub fn copy_from(&mut self, other: &Buffer, source: usize, target: usize, len: usize) {
        match (self.elements_mut(), other.elements()) {
            (ElementsMut::F32(to), Elements::F32(from)) => {
                to[target..target + len].copy_from_slice(&from[source..source + len]);
            }
            (ElementsMut::F16(to), Elements::F16(from)) => {
                to[target..target + len].copy_from_slice(&from[source..source + len]);
            }
            (ElementsMut::Bf16(to), Elements::Bf16(from)) => {
                to[target..target + len].copy_from_slice(&from[source..source + len]);
            }
            _ => (0..len).for_each(|i| self.set(target + i, other.get(source + i))),
        }
    }
}

impl Clone for Buffer {
    fn clone(&self) -> Self {
        let mut copy = Self::zeroed(self.dtype, self.len);
        copy.copy_from(self, 0, 0, self.len);
        copy
    }
}

impl Allocation {
    /// Zeroed memory at a multiple of 16, or nothing where there is none; in huge pages from `HUGE_FROM` bytes on.
    fn zeroed(bytes: usize) -> Option<Self> {
        let layout = Layout::from_size_align(bytes, 16).ok().filter(|layout| layout.size() > 0)?;
        // SAFETY: the layout is not empty.
        let base = NonNull::new(unsafe { alloc_zeroed(layout) })?;
        if bytes >= HUGE_FROM {
            ask_for_huge_pages(base, bytes);
        }
        Some(Self { base, layout })
    }
}

impl Drop for Allocation {
    fn drop(&mut self) {
        // SAFETY: `base` came from alloc_zeroed with this layout and is freed only here.
        unsafe { dealloc(self.base.as_ptr(), self.layout) }
    }
}

impl Shelf {
    /// Moves the elements of a buffer here. One that is large enough to have huge pages of its own stays where it is, and so does
    /// one for which there is no memory.
    pub fn keep(&mut self, buffer: &mut Buffer) {
        let bytes = buffer.bytes().next_multiple_of(ALIGNMENT);
        if bytes == 0 || bytes >= HUGE_FROM {
            return;
        }
        if self.stretch.is_none() || self.taken + bytes > SHELF {
            let Some(stretch) = Allocation::zeroed(SHELF + ALIGNMENT) else { return };
            self.taken = stretch.base.align_offset(ALIGNMENT);
            self.stretch = Some(Arc::new(stretch));
        }
        let Some(stretch) = &self.stretch else { return };
        // SAFETY: `taken + bytes` is at most SHELF, or less than 64 + HUGE_FROM in a new stretch.
        let start = unsafe { stretch.base.add(self.taken) };
        // SAFETY: both are `bytes()` long and in different allocations; nobody else has this part of the stretch.
        unsafe { start.copy_from_nonoverlapping(buffer.start, buffer.bytes()) };
        self.taken += bytes;
        (buffer.start, buffer._memory) = (start, Some(Arc::clone(stretch)));
    }
}

impl fmt::Debug for Shelf {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("Shelf").field("taken", &self.taken).finish()
    }
}

impl fmt::Debug for Buffer {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("Buffer").field("dtype", &self.dtype).field("len", &self.len).finish()
    }
}

/// Asks Linux to back the whole 2 MB pieces of fresh memory by huge pages: streaming weights gains a fifth (the
/// hardware prefetcher stops at a page's end), filling them takes a third of the time (fewer faults). Refusal is fine.
#[cfg(all(target_os = "linux", not(miri)))]
fn ask_for_huge_pages(base: NonNull<u8>, bytes: usize) {
    const HUGE: usize = 2 << 20;
    let skip = base.align_offset(HUGE);
    let whole = bytes.saturating_sub(skip) / HUGE * HUGE;
    if whole > 0 {
        // SAFETY: the range lies inside the allocation that the caller has just made, and the advice does not change
        // what the memory holds.
        unsafe { libc::madvise(base.as_ptr().add(skip).cast(), whole, libc::MADV_HUGEPAGE) };
    }
}

#[cfg(not(all(target_os = "linux", not(miri))))]
fn ask_for_huge_pages(_base: NonNull<u8>, _bytes: usize) {}

/// Stands for the alignment of an empty buffer's pointer.
#[repr(align(64))]
struct CacheLine;

/// # Safety
/// `start` must be aligned for T and point at `len` initialised T that nobody writes during 'a.
unsafe fn slice<'a, T>(start: NonNull<u8>, len: usize) -> &'a [T] {
    // SAFETY: the caller's promise.
    unsafe { std::slice::from_raw_parts(start.cast::<T>().as_ptr(), len) }
}

/// # Safety
/// As [`slice`], and nobody else may read or write during 'a.
unsafe fn slice_mut<'a, T>(start: NonNull<u8>, len: usize) -> &'a mut [T] {
    // SAFETY: the caller's promise.
    unsafe { std::slice::from_raw_parts_mut(start.cast::<T>().as_ptr(), len) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(buffer: &Buffer) -> usize {
        match buffer.elements() {
            Elements::F32(all) => all.as_ptr().addr(),
            Elements::F16(all) => all.as_ptr().addr(),
            Elements::Bf16(all) => all.as_ptr().addr(),
        }
    }

    #[test]
    fn a_buffer_is_zero_and_aligned() {
        for dtype in DType::ALL {
            for len in [0, 1, 31, 4097, 100_000] {
                let buffer = Buffer::zeroed(dtype, len);
                assert_eq!(address(&buffer) % ALIGNMENT, 0);
                assert_eq!((buffer.len(), buffer.bytes()), (len, len * dtype.bytes()));
                assert!((0..len).all(|i| buffer.get(i) == 0.0));
            }
        }
    }

    #[test]
    fn buffers_on_a_shelf_are_what_they_were_and_outlive_it() {
        let mut shelf = Shelf::default();
        let filled = |dtype, len: usize, first: usize| {
            let mut buffer = Buffer::zeroed(dtype, len);
            (0..len).for_each(|i| buffer.set(i, ((first + i) % 251) as f32));
            buffer
        };
        // 36 MB, so more than one stretch; odd sizes, an empty one, and one that stays where it is.
        let lens =
            [1, 0, 1_000_003, 31, 500_000, 1_000_000, 2_000_000, 900_000, 1_000_001, 999_999, 1_040_000, 77];
        let mut buffers: Vec<(Buffer, usize)> = Vec::new();
        for dtype in DType::ALL {
            for len in lens {
                let first = buffers.len();
                let mut buffer = filled(dtype, len, first);
                let before = address(&buffer);
                shelf.keep(&mut buffer);
                let stays = len == 0 || len * dtype.bytes() > HUGE_FROM - ALIGNMENT;
                assert_eq!(address(&buffer) == before, stays, "{len} of {dtype}");
                assert_eq!(address(&buffer) % ALIGNMENT, 0);
                buffers.push((buffer, first));
            }
        }
        drop(shelf);
        let is_right = |(buffer, first): &(Buffer, usize)| {
            (0..buffer.len()).all(|i| buffer.get(i) == ((first + i) % 251) as f32)
        };
        assert!(buffers.iter().all(is_right));
        // Writing to one changes no other, and a copy has memory of its own.
        let copy = buffers[2].0.clone();
        (0..buffers[2].0.len()).for_each(|i| buffers[2].0.set(i, 1000.0));
        assert!((0..copy.len()).all(|i| copy.get(i) == ((2 + i) % 251) as f32));
        let others = buffers.iter().enumerate().filter(|(i, _)| *i != 2).map(|(_, other)| other);
        assert!(others.into_iter().all(is_right));
    }

    #[test]
    fn an_impossible_size_is_an_error() {
        assert!(matches!(Buffer::try_zeroed(DType::F32, usize::MAX / 2), Err(KernelError::TooLarge { .. })));
        assert!(matches!(Buffer::try_zeroed(DType::F16, usize::MAX / 4), Err(KernelError::TooLarge { .. })));
    }

    #[test]
    fn copies_move_elements_and_round_between_dtypes() {
        for dtype in DType::ALL {
            let mut buffer = Buffer::zeroed(dtype, 10);
            (0..10).for_each(|i| buffer.set(i, i as f32));
            buffer.copy_within(2, 4, 5);
            let seen: Vec<f32> = (0..10).map(|i| buffer.get(i)).collect();
            assert_eq!(seen, [0.0, 1.0, 2.0, 3.0, 2.0, 3.0, 4.0, 5.0, 6.0, 9.0]);
            for other in DType::ALL {
                let mut target = Buffer::zeroed(other, 3);
                target.copy_from(&buffer, 6, 1, 2);
                assert_eq!([target.get(0), target.get(1), target.get(2)], [0.0, 4.0, 5.0]);
            }
            let copy = buffer.clone();
            assert!((0..10).all(|i| copy.get(i) == buffer.get(i)));
        }
        let mut half = Buffer::zeroed(DType::Bf16, 1);
        half.set(0, 1.0 + 1.0 / 256.0);
        assert_eq!(half.get(0), 1.0, "a tie rounds to even");
    }
}
