//! A moment in the work of a device.

use cudarc::driver::result::event;
use cudarc::driver::sys::{CUevent, CUevent_flags, CUresult, cuEventQuery};

use super::error::driver;
use super::{CudaError, Device};

/// What was asked of a device up to some moment, for whoever needs that and not what was asked afterwards.
#[derive(Debug)]
pub struct Moment {
    device: Device,
    event: CUevent,
}

// SAFETY: a handle that one thread at a time uses: this is no `Sync`, and each call binds the context.
unsafe impl Send for Moment {}

impl Moment {
    /// One that has passed.
    ///
    /// # Errors
    /// A driver that refuses.
    pub fn new(device: &Device) -> Result<Self, CudaError> {
        device.bind()?;
        let made = event::create(CUevent_flags::CU_EVENT_DISABLE_TIMING);
        Ok(Self { device: device.clone(), event: made.map_err(driver("making an event"))? })
    }

    /// From now on this is when everything asked so far has happened.
    ///
    /// # Errors
    /// A failed device.
    pub fn note(&mut self) -> Result<(), CudaError> {
        let queue = self.device.queue()?;
        // SAFETY: event and stream are alive.
        unsafe { event::record(self.event, queue.stream()) }.map_err(driver("noting a moment"))
    }

    /// Whether it has passed.
    ///
    /// # Errors
    /// A kernel that failed.
    pub fn has_passed(&self) -> Result<bool, CudaError> {
        self.device.bind()?;
        // SAFETY: the event is alive.
        match unsafe { cuEventQuery(self.event) } {
            CUresult::CUDA_SUCCESS => Ok(true),
            CUresult::CUDA_ERROR_NOT_READY => Ok(false),
            failed => failed.result().map(|()| true).map_err(driver("looking after a moment")),
        }
    }

    /// Waits until it has passed.
    ///
    /// # Errors
    /// A kernel that failed.
    pub fn wait(&self) -> Result<(), CudaError> {
        self.device.bind()?;
        // SAFETY: the event is alive.
        unsafe { event::synchronize(self.event) }.map_err(driver("waiting for a moment"))
    }
}

impl Drop for Moment {
    fn drop(&mut self) {
        if self.device.bind().is_ok() {
            // SAFETY: made in `new`, destroyed only here.
            let _ = unsafe { event::destroy(self.event) };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cuda::{DeviceBuffer, testing};

    #[test]
    fn what_was_asked_before_a_moment_is_there_once_it_has_passed() {
        let Some(device) = testing::device("moments of a device") else { return };
        let mut moment = Moment::new(&device).unwrap();
        assert!(moment.has_passed().unwrap(), "nothing was noted");
        let buffer = DeviceBuffer::<u8>::zeroed(&device, "a test", 1 << 20).unwrap();
        let mut fetched = crate::cuda::PinnedBuffer::zeroed(&device, 1 << 20).unwrap();
        buffer.fill_bytes(7).unwrap();
        buffer.read_pinned(&mut fetched).unwrap();
        moment.note().unwrap();
        buffer.fill_bytes(9).unwrap();
        moment.wait().unwrap();
        assert!(moment.has_passed().unwrap());
        assert!(fetched.first(1 << 20).iter().all(|&byte| byte == 7));
    }
}
