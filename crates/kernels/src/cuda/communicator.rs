//! Sums over the GPUs of several processes.

use std::ffi::c_int;

use cudarc::driver::result::{event, stream};
use cudarc::driver::sys::{CUevent, CUevent_flags, CUevent_wait_flags, CUresult, CUstream};

use super::error::driver;
use super::nccl::{Handle, Nccl, RawId};
use super::{CudaError, Device, DeviceSlice};

/// What all processes of a world must know to find each other: made by one, and brought to the others by other means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WorldId(pub [u8; Self::BYTES]);

/// One process's GPU among those of a world; its sums go on beside the device's own work, over NCCL.
///
/// All processes ask for the same sums in the same order. Every one ends with the same bits; with the same processes on the
/// same hosts and the same NCCL, a repeated sum has the same bits as the one before. In which order three and more
/// numbers are added is NCCL's choice. The library does not notice that a process is lost: whoever waits looks at
/// [`Communicator::is_done`] and at the other processes, and drops the communicator, which ends what is still under way.
#[derive(Debug)]
pub struct Communicator {
    library: &'static Nccl,
    handle: Handle,
    device: Device,
    stream: CUstream,
    /// What the device has written by a sum's beginning, and what it waits for.
    written: CUevent,
    summed: CUevent,
}

// SAFETY: handles that one thread at a time uses: the communicator is no `Sync`, and each call binds its context.
unsafe impl Send for Communicator {}

impl WorldId {
    /// Length of an id.
    pub const BYTES: usize = 128;

    /// An id of a world that is yet to meet; the process that makes it must take part.
    ///
    /// # Errors
    /// No NCCL on this machine.
    pub fn new() -> Result<Self, CudaError> {
        Ok(Self(Nccl::load()?.unique_id()?.0))
    }
}

impl Communicator {
    /// Whether NCCL is there.
    ///
    /// # Errors
    /// [`CudaError::Library`], with what to install.
    pub fn is_possible() -> Result<(), CudaError> {
        Nccl::load().map(|_| ())
    }

    /// Process `rank` of `size` on `device`; waits until all have come.
    ///
    /// # Errors
    /// No NCCL, or one that cannot reach the others.
    pub fn join(device: &Device, id: &WorldId, rank: usize, size: usize) -> Result<Self, CudaError> {
        let library = Nccl::load()?;
        device.bind()?;
        let number = |number: usize| c_int::try_from(number).unwrap_or(c_int::MAX);
        // SAFETY: the context was just bound.
        let handle = unsafe { library.join(RawId(id.0), number(rank), number(size)) }?;
        let made = || {
            let flags = CUevent_flags::CU_EVENT_DISABLE_TIMING;
            let stream = stream::create(stream::StreamKind::NonBlocking)?;
            Ok((stream, event::create(flags)?, event::create(flags)?))
        };
        match made().map_err(driver("making a stream for sums")) {
            Ok((stream, written, summed)) => {
                Ok(Self { library, handle, device: device.clone(), stream, written, summed })
            }
            Err(error) => {
                // SAFETY: just made, and used by nobody.
                unsafe { library.end(handle, true) };
                Err(error)
            }
        }
    }

    /// Begins to add up `values` over all processes, once everything asked of the device so far has happened. The device
    /// goes on meanwhile, and leaves the values alone until [`Communicator::rejoin`].
    ///
    /// # Errors
    /// A failed device, or processes that cannot be reached.
    pub fn sum(&self, values: DeviceSlice<'_, f32>) -> Result<(), CudaError> {
        if values.is_empty() {
            return Ok(());
        }
        let (pointer, queue) = (values.pointer(), self.device.queue()?);
        // SAFETY: both streams and the event are alive.
        unsafe { event::record(self.written, queue.stream()).and_then(|()| wait(self.stream, self.written)) }
            .map_err(driver("ordering a sum"))?;
        // SAFETY: the slice lies inside its allocation, which is freed after what the device still does; handle and
        // stream are alive.
        unsafe { self.library.sum(pointer, values.len(), self.handle, self.stream) }
    }

    /// What is asked of the device from now on happens after all sums so far.
    ///
    /// # Errors
    /// A failed device.
    pub fn rejoin(&self) -> Result<(), CudaError> {
        let queue = self.device.queue()?;
        // SAFETY: both streams and the event are alive.
        unsafe { event::record(self.summed, self.stream).and_then(|()| wait(queue.stream(), self.summed)) }
            .map_err(driver("ordering a sum"))
    }

    /// Whether all sums so far are there.
    ///
    /// # Errors
    /// A failed device; a process or a link that NCCL noticed to be gone.
    pub fn is_done(&self) -> Result<bool, CudaError> {
        // SAFETY: the handle is alive.
        unsafe { self.library.check(self.handle) }?;
        self.device.bind()?;
        // SAFETY: the stream is alive.
        match unsafe { cudarc::driver::sys::cuStreamQuery(self.stream) } {
            CUresult::CUDA_SUCCESS => Ok(true),
            CUresult::CUDA_ERROR_NOT_READY => Ok(false),
            failed => failed.result().map(|()| true).map_err(driver("looking after sums")),
        }
    }
}

/// # Safety
/// Stream and event are alive.
unsafe fn wait(stream: CUstream, event: CUevent) -> Result<(), cudarc::driver::DriverError> {
    // SAFETY: as the caller promises.
    unsafe { stream::wait_event(stream, event, CUevent_wait_flags::CU_EVENT_WAIT_DEFAULT) }
}

impl Drop for Communicator {
    fn drop(&mut self) {
        // A sum that waits for a lost process would never end by itself, and whoever frees memory waits for it.
        let abort = !matches!(self.is_done(), Ok(true));
        // SAFETY: all made in `join`, and destroyed only here. A failure leaves nothing to do.
        unsafe {
            self.library.end(self.handle, abort);
            if self.device.bind().is_ok() {
                let _ = event::destroy(self.written);
                let _ = event::destroy(self.summed);
                let _ = stream::destroy(self.stream);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cuda::{DeviceBuffer, testing};

    #[test]
    fn a_world_of_one_sums_to_what_it_holds_beside_other_work() {
        let Some(device) = testing::device("sums over NCCL") else { return };
        if let Err(missing) = Communicator::is_possible() {
            eprintln!("SKIPPED sums over NCCL: {missing}");
            return;
        }
        let numbers: Vec<f32> = (0..100_000).map(|i| i as f32 * 0.25).collect();
        let buffer = DeviceBuffer::copy_of(&device, "numbers", &numbers).unwrap();
        let one = Communicator::join(&device, &WorldId::new().unwrap(), 0, 1).unwrap();
        one.sum(DeviceSlice::new(&buffer, 3..70_000).unwrap()).unwrap();
        one.rejoin().unwrap();
        assert_eq!(buffer.read().unwrap(), numbers);
        assert!(one.is_done().unwrap());
    }
}
