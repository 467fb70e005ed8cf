//! Time as the device measures it.

use cudarc::driver::result::event;
use cudarc::driver::sys::{CUevent, CUevent_flags};

use super::error::driver;
use super::{CudaError, Device};

/// Measures how long the work between two moments takes.
#[derive(Debug)]
pub struct Stopwatch {
    device: Device,
    events: [CUevent; 2],
}

impl Stopwatch {
    /// One that has not been started.
    ///
    /// # Errors
    /// A driver that refuses.
    pub fn new(device: &Device) -> Result<Self, CudaError> {
        device.bind()?;
        let make = || event::create(CUevent_flags::CU_EVENT_DEFAULT).map_err(driver("making an event"));
        Ok(Self { device: device.clone(), events: [make()?, make()?] })
    }

    /// Starts once everything asked so far has happened.
    ///
    /// # Errors
    /// A failed device.
    pub fn start(&self) -> Result<(), CudaError> {
        self.note(self.events[0])
    }

    /// Seconds from the start until everything asked so far had happened; waits for it.
    ///
    /// # Errors
    /// A failed device.
    pub fn stop(&self) -> Result<f32, CudaError> {
        self.note(self.events[1])?;
        // SAFETY: both events are alive and were recorded on the device's stream.
        let milliseconds = unsafe {
            event::synchronize(self.events[1]).and_then(|()| event::elapsed(self.events[0], self.events[1]))
        }
        .map_err(driver("measuring time"))?;
        Ok(milliseconds / 1000.0)
    }

    fn note(&self, event: CUevent) -> Result<(), CudaError> {
        let queue = self.device.queue()?;
        // SAFETY: event and stream are alive.
        unsafe { event::record(event, queue.stream()) }.map_err(driver("measuring time"))
    }
}

impl Drop for Stopwatch {
    fn drop(&mut self) {
        if self.device.bind().is_ok() {
            for event in self.events {
                // SAFETY: made in `new`, destroyed only here.
                let _ = unsafe { event::destroy(event) };
            }
        }
    }
}
