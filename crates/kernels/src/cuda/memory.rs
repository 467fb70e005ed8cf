//! Memory of the device, and host memory that it can reach.

use std::marker::PhantomData;
use std::ops::{Deref, DerefMut};

use bytemuck::Pod;
use cudarc::driver::result;
use cudarc::driver::sys::CUdeviceptr;

use super::error::{driver, is_out_of_memory};
use super::{CudaError, Device};

/// `len` elements in the memory of a device; freed when dropped, after the work that was asked before.
#[derive(Debug)]
pub struct DeviceBuffer<T> {
    device: Device,
    pointer: CUdeviceptr,
    len: usize,
    element: PhantomData<T>,
}

impl<T: Pod> DeviceBuffer<T> {
    /// Memory with arbitrary contents; `what` is for the message when there is none.
    ///
    /// # Errors
    /// [`CudaError::OutOfMemory`].
    pub fn uninitialized(device: &Device, what: &'static str, len: usize) -> Result<Self, CudaError> {
        device.bind()?;
        let wanted = len.saturating_mul(size_of::<T>());
        let mut buffer = Self { device: device.clone(), pointer: 0, len, element: PhantomData };
        if wanted == 0 {
            return Ok(buffer);
        }
        // SAFETY: the pointer is freed once, in `drop`.
        match unsafe { result::malloc_sync(wanted) } {
            Ok(pointer) => {
                buffer.pointer = pointer;
                Ok(buffer)
            }
            Err(error) if is_out_of_memory(error) => {
                let (free, total) = device.memory()?;
                Err(CudaError::OutOfMemory { what, wanted, free, total })
            }
            Err(error) => Err(driver("allocating")(error)),
        }
    }

    /// Memory of zero bytes.
    ///
    /// # Errors
    /// As [`DeviceBuffer::uninitialized`].
    pub fn zeroed(device: &Device, what: &'static str, len: usize) -> Result<Self, CudaError> {
        let buffer = Self::uninitialized(device, what, len)?;
        buffer.fill_bytes(0)?;
        Ok(buffer)
    }

    /// A copy of `elements`; waits until it is made.
    ///
    /// # Errors
    /// As [`DeviceBuffer::uninitialized`].
    pub fn copy_of(device: &Device, what: &'static str, elements: &[T]) -> Result<Self, CudaError> {
        let buffer = Self::uninitialized(device, what, elements.len())?;
        buffer.write(0, elements)?;
        Ok(buffer)
    }

    /// Sets every byte.
    ///
    /// # Errors
    /// A failed device.
    pub fn fill_bytes(&self, byte: u8) -> Result<(), CudaError> {
        if self.bytes() == 0 {
            return Ok(());
        }
        self.device.bind()?;
        // SAFETY: the range is this allocation, and every bit pattern is valid for a Pod.
        unsafe { result::memset_d8_async(self.pointer, byte, self.bytes(), self.device.stream()) }
            .map_err(driver("clearing memory"))
    }

    /// Copies `elements` to `first..`; waits until it is done, so that the source may go.
    ///
    /// # Errors
    /// A failed device.
    ///
    /// # Panics
    /// Elements past the end.
    pub fn write(&self, first: usize, elements: &[T]) -> Result<(), CudaError> {
        assert!(first + elements.len() <= self.len, "a write past the end of a device buffer");
        if elements.is_empty() {
            return Ok(());
        }
        self.device.bind()?;
        let target = self.pointer + (first * size_of::<T>()) as u64;
        // SAFETY: the range is inside the allocation, as just checked; the source outlives the wait below.
        unsafe { result::memcpy_htod_async(target, elements, self.device.stream()) }
            .map_err(driver("copying to the device"))?;
        self.device.synchronize()
    }

    /// The elements, once everything asked before has happened; waits.
    ///
    /// # Errors
    /// A failed device.
    pub fn read(&self) -> Result<Vec<T>, CudaError> {
        self.read_range(0, self.len)
    }

    /// `count` elements from `first` on, as [`DeviceBuffer::read`].
    ///
    /// # Errors
    /// A failed device.
    ///
    /// # Panics
    /// Elements past the end.
    pub fn read_range(&self, first: usize, count: usize) -> Result<Vec<T>, CudaError> {
        assert!(first + count <= self.len, "a read past the end of a device buffer");
        let mut elements = vec![T::zeroed(); count];
        if count > 0 {
            self.device.bind()?;
            let source = self.pointer + (first * size_of::<T>()) as u64;
            // SAFETY: the range is inside the allocation; the target outlives the wait below.
            unsafe { result::memcpy_dtoh_async(&mut elements, source, self.device.stream()) }
                .map_err(driver("copying from the device"))?;
            self.device.synchronize()?;
        }
        Ok(elements)
    }

    /// Copies all of a pinned buffer to the front, without waiting: the source must stay as it is until the device
    /// has been waited for. A captured copy reads what the source holds whenever the graph runs.
    ///
    /// # Errors
    /// A failed device.
    ///
    /// # Panics
    /// A source that is longer than this.
    pub fn write_pinned(&self, source: &PinnedBuffer<T>) -> Result<(), CudaError> {
        assert!(source.len() <= self.len, "a write past the end of a device buffer");
        self.device.bind()?;
        // SAFETY: inside both allocations; the caller keeps the source, as documented.
        unsafe { result::memcpy_htod_async(self.pointer, source, self.device.stream()) }
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
        assert!(target.len() <= self.len, "a read past the end of a device buffer");
        self.device.bind()?;
        let stream = self.device.stream();
        // SAFETY: inside both allocations; the caller keeps the target, as documented.
        unsafe { result::memcpy_dtoh_async(target, self.pointer, stream) }
            .map_err(driver("copying from the device"))
    }

    /// Address on the device.
    #[must_use]
    pub fn pointer(&self) -> u64 {
        self.pointer
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

    /// Bytes of all elements.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.len * size_of::<T>()
    }

    /// The device that it lies on.
    #[must_use]
    pub fn device(&self) -> &Device {
        &self.device
    }
}

impl<T> Drop for DeviceBuffer<T> {
    fn drop(&mut self) {
        if self.pointer != 0 && self.device.bind().is_ok() {
            // SAFETY: allocated in `uninitialized` and freed only here; the driver waits for running kernels.
            let _ = unsafe { result::free_sync(self.pointer) };
        }
    }
}

/// Host memory that the device copies from and to without a detour.
#[derive(Debug)]
pub struct PinnedBuffer<T> {
    device: Device,
    start: *mut T,
    len: usize,
}

// SAFETY: it owns its memory alone and lends it through &self and &mut self.
unsafe impl<T: Send> Send for PinnedBuffer<T> {}

impl<T: Pod> PinnedBuffer<T> {
    /// Zeroed memory.
    ///
    /// # Errors
    /// No such memory.
    pub fn zeroed(device: &Device, len: usize) -> Result<Self, CudaError> {
        device.bind()?;
        let bytes = (len * size_of::<T>()).max(1);
        // SAFETY: freed once, in `drop`.
        let start = unsafe { result::malloc_host(bytes, 0) }.map_err(driver("allocating pinned memory"))?;
        // SAFETY: `bytes` bytes have just been allocated.
        unsafe { std::ptr::write_bytes(start.cast::<u8>(), 0, bytes) };
        Ok(Self { device: device.clone(), start: start.cast(), len })
    }
}

impl<T> Deref for PinnedBuffer<T> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        // SAFETY: `len` initialised elements, page-aligned, owned by self.
        unsafe { std::slice::from_raw_parts(self.start, self.len) }
    }
}

impl<T> DerefMut for PinnedBuffer<T> {
    fn deref_mut(&mut self) -> &mut [T] {
        // SAFETY: as in `deref`, and the borrow is exclusive.
        unsafe { std::slice::from_raw_parts_mut(self.start, self.len) }
    }
}

impl<T> Drop for PinnedBuffer<T> {
    fn drop(&mut self) {
        if self.device.bind().is_ok() {
            // SAFETY: allocated in `zeroed` and freed only here.
            let _ = unsafe { result::free_host(self.start.cast()) };
        }
    }
}
