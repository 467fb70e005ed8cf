//! Host memory that the device copies from and to without a detour.

use std::marker::PhantomData;
use std::sync::Arc;

use bytemuck::Pod;
use cudarc::driver::{result, sys};

use super::error::driver;
use super::{CudaError, Device, DeviceBuffer};

/// `len` elements of the host that copies read and write while the host goes on.
///
/// Elements are taken out and put in by value, and nobody ever borrows them: what a copy that is under way reads or
/// writes may be old or new, and is a number either way. After a wait for the device it is the one that was meant.
#[derive(Debug)]
pub struct PinnedBuffer<T> {
    memory: Arc<Pages>,
    len: usize,
    element: PhantomData<T>,
}

/// Page-locked memory that is freed once.
#[derive(Debug)]
struct Pages {
    device: Device,
    start: *mut u8,
}

// SAFETY: an address; only `PinnedBuffer` reads through it, and writes with &mut self.
unsafe impl Send for Pages {}
// SAFETY: as above.
unsafe impl Sync for Pages {}

impl<T: Pod> PinnedBuffer<T> {
    /// Zeroed memory.
    ///
    /// # Errors
    /// No such memory.
    pub fn zeroed(device: &Device, len: usize) -> Result<Self, CudaError> {
        device.bind()?;
        let bytes = len.saturating_mul(size_of::<T>()).max(1);
        // SAFETY: freed once, in `drop`.
        let start = unsafe { result::malloc_host(bytes, 0) }.map_err(driver("allocating pinned memory"))?;
        let memory = Arc::new(Pages { device: device.clone(), start: start.cast() });
        // SAFETY: `bytes` bytes have just been allocated.
        unsafe { std::ptr::write_bytes(memory.start, 0, bytes) };
        Ok(Self { memory, len, element: PhantomData })
    }

    /// Number of elements.
    #[must_use]
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// An element.
    ///
    /// # Panics
    /// No such element.
    #[must_use]
    pub fn get(&self, index: usize) -> T {
        assert!(index < self.len, "a read past the end of a pinned buffer");
        // SAFETY: inside the allocation, which is aligned to pages; any bytes are a Pod; volatile, because the device
        // writes as well.
        unsafe { self.memory.start.cast::<T>().add(index).read_volatile() }
    }

    /// The first `count` elements.
    ///
    /// # Panics
    /// Fewer elements than that.
    #[must_use]
    pub fn first(&self, count: usize) -> Vec<T> {
        (0..count).map(|index| self.get(index)).collect()
    }

    /// Sets an element.
    ///
    /// # Panics
    /// No such element.
    pub fn set(&mut self, index: usize, element: T) {
        assert!(index < self.len, "a write past the end of a pinned buffer");
        // SAFETY: as in `get`, and no other thread of the host has the buffer now.
        unsafe { self.memory.start.cast::<T>().add(index).write_volatile(element) }
    }

    /// Sets the first elements.
    ///
    /// # Panics
    /// More elements than there are places.
    pub fn write(&mut self, elements: &[T]) {
        elements.iter().enumerate().for_each(|(index, &element)| self.set(index, element));
    }
}

impl Drop for Pages {
    fn drop(&mut self) {
        // A copy that is under way needs it to its end.
        if self.device.synchronize().is_ok() {
            // SAFETY: allocated in `zeroed` and freed only here.
            let _ = unsafe { result::free_host(self.start.cast()) };
        }
    }
}

impl<T: Pod> DeviceBuffer<T> {
    /// Copies all of a pinned buffer to the front, without waiting. A recorded copy reads what the source holds
    /// whenever the graph runs.
    ///
    /// # Errors
    /// A failed device.
    ///
    /// # Panics
    /// A source that is longer than this.
    pub fn write_pinned(&self, source: &PinnedBuffer<T>) -> Result<(), CudaError> {
        assert!(source.len <= self.len(), "a write past the end of a device buffer");
        self.device().keep(&source.memory);
        let (target, bytes, queue) = (self.pointer(), source.len * size_of::<T>(), self.device().queue()?);
        // SAFETY: inside both allocations; the source's goes after a wait, and not before the graph that is recorded.
        unsafe { sys::cuMemcpyHtoDAsync_v2(target, source.memory.start.cast(), bytes, queue.stream()) }
            .result()
            .map_err(driver("copying to the device"))
    }

    /// Copies the front to all of a pinned buffer, without waiting: it holds the elements once the device has been
    /// waited for.
    ///
    /// # Errors
    /// A failed device.
    ///
    /// # Panics
    /// A target that is longer than this.
    pub fn read_pinned(&self, target: &mut PinnedBuffer<T>) -> Result<(), CudaError> {
        assert!(target.len <= self.len(), "a read past the end of a device buffer");
        self.device().keep(&target.memory);
        let (source, bytes, queue) = (self.pointer(), target.len * size_of::<T>(), self.device().queue()?);
        // SAFETY: as in `write_pinned`.
        unsafe { sys::cuMemcpyDtoHAsync_v2(target.memory.start.cast(), source, bytes, queue.stream()) }
            .result()
            .map_err(driver("copying from the device"))
    }
}
