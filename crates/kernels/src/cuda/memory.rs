//! Memory of the device.

use std::marker::PhantomData;
use std::sync::Arc;

use bytemuck::Pod;
use cudarc::driver::result;
use cudarc::driver::sys::CUdeviceptr;

use super::error::{driver, is_out_of_memory};
use super::{CudaError, Device, DeviceSlice};

/// `len` elements in the memory of a device; freed when dropped, after the work that was asked before, and after the
/// graphs that use it.
#[derive(Debug)]
pub struct DeviceBuffer<T> {
    memory: Arc<Allocation>,
    len: usize,
    element: PhantomData<T>,
}

/// A place in the memory of a device, whatever lies there.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Place<'a> {
    memory: &'a Arc<Allocation>,
    offset: u64,
}

impl Place<'_> {
    /// As [`DeviceBuffer::pointer`].
    pub(crate) fn pointer(self) -> u64 {
        self.memory.device.keep(self.memory);
        self.memory.pointer + self.offset
    }

    /// So many bytes behind this one.
    pub(crate) fn behind(self, bytes: u64) -> Self {
        Self { offset: self.offset + bytes, ..self }
    }
}

/// Memory that is freed once.
#[derive(Debug)]
struct Allocation {
    device: Device,
    /// 0 for none.
    pointer: CUdeviceptr,
}

impl<T: Pod> DeviceBuffer<T> {
    /// Memory with arbitrary contents; `what` is for the message when there is none.
    ///
    /// # Errors
    /// [`CudaError::OutOfMemory`].
    pub fn uninitialized(device: &Device, what: &'static str, len: usize) -> Result<Self, CudaError> {
        let wanted = len.saturating_mul(size_of::<T>());
        let memory = Arc::new(Allocation::new(device, what, wanted)?);
        Ok(Self { memory, len, element: PhantomData })
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
        let (pointer, queue) = (self.pointer(), self.device().queue()?);
        // SAFETY: the range is this allocation, and every bit pattern is valid for a Pod.
        unsafe { result::memset_d8_async(pointer, byte, self.bytes(), queue.stream()) }
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
        assert!(self.has(first, elements.len()), "a write past the end of a device buffer");
        if elements.is_empty() {
            return Ok(());
        }
        let target = self.memory.pointer + (first * size_of::<T>()) as u64;
        self.device().copy_and_wait("copying to the device", |stream| {
            // SAFETY: the range is inside the allocation, as just checked; the source outlives the wait.
            unsafe { result::memcpy_htod_async(target, elements, stream) }
        })
    }

    /// Copies the elements of another place of this device to `first..`, without waiting.
    ///
    /// # Errors
    /// A failed device.
    ///
    /// # Panics
    /// Elements past the end.
    pub fn copy_from(&self, first: usize, from: DeviceSlice<'_, T>) -> Result<(), CudaError> {
        assert!(self.has(first, from.len()), "a copy past the end of a device buffer");
        if from.is_empty() {
            return Ok(());
        }
        let (target, source) = (self.place(first).pointer(), from.pointer());
        let queue = self.device().queue()?;
        // SAFETY: both ranges are inside their allocations, as just checked and as the slice was made.
        unsafe { result::memcpy_dtod_async(target, source, from.len() * size_of::<T>(), queue.stream()) }
            .map_err(driver("copying on the device"))
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
        let mut elements = vec![T::zeroed(); count];
        self.read_into(first, &mut elements)?;
        Ok(elements)
    }

    /// The same into memory that is there.
    ///
    /// # Errors
    /// A failed device.
    ///
    /// # Panics
    /// Elements past the end.
    pub fn read_into(&self, first: usize, elements: &mut [T]) -> Result<(), CudaError> {
        assert!(self.has(first, elements.len()), "a read past the end of a device buffer");
        if elements.is_empty() {
            return Ok(());
        }
        let source = self.memory.pointer + (first * size_of::<T>()) as u64;
        self.device().copy_and_wait("copying from the device", |stream| {
            // SAFETY: the range is inside the allocation; the target outlives the wait.
            unsafe { result::memcpy_dtoh_async(elements, source, stream) }
        })
    }

    fn has(&self, first: usize, count: usize) -> bool {
        first.checked_add(count).is_some_and(|end| end <= self.len)
    }

    /// Address on the device, to be used at once. A graph that is being recorded keeps the memory from now on.
    #[must_use]
    pub fn pointer(&self) -> u64 {
        self.place(0).pointer()
    }

    /// Where element `first` lies.
    pub(crate) fn place(&self, first: usize) -> Place<'_> {
        Place { memory: &self.memory, offset: (first * size_of::<T>()) as u64 }
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
        &self.memory.device
    }
}

impl Allocation {
    fn new(device: &Device, what: &'static str, bytes: usize) -> Result<Self, CudaError> {
        device.bind()?;
        if bytes == 0 {
            return Ok(Self { device: device.clone(), pointer: 0 });
        }
        // SAFETY: the pointer is freed once, in `drop`.
        match unsafe { result::malloc_sync(bytes) } {
            Ok(pointer) => Ok(Self { device: device.clone(), pointer }),
            Err(error) if is_out_of_memory(error) => {
                let (free, total) = device.memory()?;
                Err(CudaError::OutOfMemory { what, wanted: bytes, free, total })
            }
            Err(error) => Err(driver("allocating")(error)),
        }
    }
}

impl Drop for Allocation {
    fn drop(&mut self) {
        if self.pointer != 0 && self.device.bind().is_ok() {
            // SAFETY: allocated in `new` and freed only here; the driver waits for what runs.
            let _ = unsafe { result::free_sync(self.pointer) };
        }
    }
}
