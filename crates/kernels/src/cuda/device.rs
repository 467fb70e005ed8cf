//! One GPU, its context and its stream.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use cudarc::driver::sys::{CUcontext, CUdevice, CUdevice_attribute as Attribute, CUstream};
use cudarc::driver::{DriverError, result};

use super::error::driver;
use super::graph::{Kept, Recording};
use super::kernel_cache::KernelCache;
use super::{CudaError, Library};

/// A GPU with one stream of work; a clone is the same device.
///
/// Everything that is asked of a device happens in the order in which it was asked. Nothing waits, unless its
/// documentation says so.
#[derive(Debug, Clone)]
pub struct Device(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    ordinal: usize,
    device: CUdevice,
    context: CUcontext,
    stream: CUstream,
    facts: DeviceFacts,
    cache: Option<KernelCache>,
    recording: Mutex<Option<Recording>>,
}

/// What a device says of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeviceFacts {
    /// Its name.
    pub name: String,
    /// Compute capability, major and minor.
    pub capability: (i32, i32),
    /// Multiprocessors.
    pub multiprocessors: u32,
    /// Most bytes of shared memory that one block may ask for.
    pub shared_memory: u32,
    /// Bytes of the second-level cache.
    pub l2_bytes: usize,
    /// Bytes of memory.
    pub memory: usize,
}

// SAFETY: the context and the stream may be used from any thread once the context is bound to it, which `bind` does
// before every call; the driver locks what it shares.
unsafe impl Send for Inner {}
// SAFETY: as above.
unsafe impl Sync for Inner {}

impl Device {
    /// How many devices the driver sees.
    ///
    /// # Errors
    /// No driver, or one that cannot start.
    pub fn count() -> Result<usize, CudaError> {
        Library::Driver.load()?;
        result::init().map_err(driver("starting the driver"))?;
        let count = result::device::get_count().map_err(driver("counting devices"))?;
        Ok(usize::try_from(count).unwrap_or(0))
    }

    /// Opens device `ordinal`. Compiled kernels are kept in `cache` (a folder; made when needed) if there is one.
    ///
    /// # Errors
    /// No driver, no such device, or one older than Ampere.
    pub fn open(ordinal: usize, cache: Option<PathBuf>) -> Result<Self, CudaError> {
        let count = Self::count()?;
        if ordinal >= count {
            return Err(CudaError::NoDevice { wanted: ordinal, count });
        }
        let device = result::device::get(ordinal as i32).map_err(driver("opening the device"))?;
        let facts = facts(device)?;
        if facts.capability.0 < 8 {
            let (major, minor) = facts.capability;
            return Err(CudaError::TooOld { device: ordinal, name: facts.name, major, minor });
        }
        // SAFETY: the device came from the driver; the context is released when the last clone drops.
        let context =
            unsafe { result::primary_ctx::retain(device) }.map_err(driver("retaining the context"))?;
        // SAFETY: the context is retained.
        unsafe { result::ctx::set_current(context) }.map_err(driver("binding the context"))?;
        let stream = result::stream::create(result::stream::StreamKind::NonBlocking)
            .map_err(driver("making a stream"))?;
        let (cache, recording) = (cache.map(KernelCache::new), Mutex::default());
        Ok(Self(Arc::new(Inner { ordinal, device, context, stream, facts, cache, recording })))
    }

    /// What the device says of itself.
    #[must_use]
    pub fn facts(&self) -> &DeviceFacts {
        &self.0.facts
    }

    /// Its number.
    #[must_use]
    pub fn ordinal(&self) -> usize {
        self.0.ordinal
    }

    /// Bytes free and bytes in all, now.
    ///
    /// # Errors
    /// A driver that does not answer.
    pub fn memory(&self) -> Result<(usize, usize), CudaError> {
        self.bind()?;
        result::mem_get_info().map_err(driver("asking for free memory"))
    }

    /// Waits until everything asked so far has happened.
    ///
    /// # Errors
    /// A kernel that failed; the device is of no use then.
    pub fn synchronize(&self) -> Result<(), CudaError> {
        self.bind()?;
        // SAFETY: the stream lives as long as self.
        unsafe { result::stream::synchronize(self.0.stream) }.map_err(driver("waiting for the device"))
    }

    /// Makes the context current in this thread; everything else here calls it first.
    pub(crate) fn bind(&self) -> Result<(), CudaError> {
        // SAFETY: the context is retained for as long as self lives.
        unsafe { result::ctx::set_current(self.0.context) }.map_err(driver("binding the context"))
    }

    /// The stream, to ask something of it; nobody else asks meanwhile.
    ///
    /// # Errors
    /// Another thread records a graph: this would become part of it.
    pub(crate) fn queue(&self) -> Result<Queue<'_>, CudaError> {
        self.bind()?;
        let recording = self.recording();
        match &*recording {
            Some(own) if !own.is_of_this_thread() => Err(CudaError::Recording),
            _ => Ok(Queue { stream: self.0.stream, _recording: recording }),
        }
    }

    /// Starts a copy and waits until it is made.
    pub(super) fn copy_and_wait(
        &self,
        op: &'static str,
        copy: impl FnOnce(CUstream) -> Result<(), DriverError>,
    ) -> Result<(), CudaError> {
        copy(self.queue()?.stream).map_err(driver(op))?;
        self.synchronize()
    }

    /// The graph that is being recorded, if one is, keeps this.
    pub(crate) fn keep<T: Send + Sync + 'static>(&self, used: &Arc<T>) {
        if let Some(recording) = self.recording().as_mut() {
            recording.keep(Arc::clone(used) as Kept);
        }
    }

    pub(super) fn stream(&self) -> CUstream {
        self.0.stream
    }

    pub(super) fn recording(&self) -> MutexGuard<'_, Option<Recording>> {
        self.0.recording.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn cache(&self) -> Option<&KernelCache> {
        self.0.cache.as_ref()
    }
}

/// The right to ask something of a device's stream.
pub(crate) struct Queue<'a> {
    stream: CUstream,
    _recording: MutexGuard<'a, Option<Recording>>,
}

impl Queue<'_> {
    pub(crate) fn stream(&self) -> CUstream {
        self.stream
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        // SAFETY: made in `open`, and nothing else holds them now. A failure leaves nothing to do.
        unsafe {
            let _ = result::ctx::set_current(self.context);
            let _ = result::stream::destroy(self.stream);
            let _ = result::primary_ctx::release(self.device);
        }
    }
}

fn facts(device: CUdevice) -> Result<DeviceFacts, CudaError> {
    let attribute = |which| {
        // SAFETY: the device came from the driver.
        unsafe { result::device::get_attribute(device, which) }.map_err(driver("asking for an attribute"))
    };
    let positive = |which| attribute(which).map(|value| u32::try_from(value).unwrap_or(0));
    Ok(DeviceFacts {
        name: result::device::get_name(device).map_err(driver("asking for the name"))?,
        capability: (
            attribute(Attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR)?,
            attribute(Attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR)?,
        ),
        multiprocessors: positive(Attribute::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT)?,
        shared_memory: positive(Attribute::CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN)?,
        l2_bytes: positive(Attribute::CU_DEVICE_ATTRIBUTE_L2_CACHE_SIZE)? as usize,
        // SAFETY: the device came from the driver.
        memory: unsafe { result::device::total_mem(device) }.map_err(driver("asking for the memory"))?,
    })
}
