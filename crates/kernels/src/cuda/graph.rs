//! Recording a sequence of kernels and copies, to do it again and again.

use std::any::Any;
use std::sync::Arc;
use std::thread::{self, ThreadId};

use cudarc::driver::result;
use cudarc::driver::sys::{CUgraph, CUgraphExec, CUgraphInstantiate_flags, CUstreamCaptureMode};

use super::error::driver;
use super::{CudaError, Device};

/// A recorded sequence of kernels and copies, with all their arguments.
///
/// It keeps the memory and the kernels that it uses: what the recording's maker drops lives until the graph does.
#[derive(Debug)]
pub struct Graph {
    device: Device,
    executable: CUgraphExec,
    /// Read by the device alone.
    _kept: Vec<Kept>,
}

// SAFETY: a handle that one thread at a time uses, since launching takes &mut self.
unsafe impl Send for Graph {}

/// Something that must outlive its use by the device.
pub(super) type Kept = Arc<dyn Any + Send + Sync>;

/// What a recording has used so far.
#[derive(Debug)]
pub(super) struct Recording {
    thread: ThreadId,
    kept: Vec<Kept>,
}

impl Recording {
    pub(super) fn is_of_this_thread(&self) -> bool {
        self.thread == thread::current().id()
    }

    pub(super) fn keep(&mut self, kept: Kept) {
        if !self.kept.iter().any(|known| Arc::ptr_eq(known, &kept)) {
            self.kept.push(kept);
        }
    }
}

impl Graph {
    /// Records what `work` asks of the device, without doing it. `work` must not wait or allocate; meanwhile other
    /// threads can ask nothing of the device.
    ///
    /// # Errors
    /// What `work` returns, or a driver that refuses the recording. Nothing is left of it then.
    pub fn record<E: From<CudaError>>(
        device: &Device,
        work: impl FnOnce() -> Result<(), E>,
    ) -> Result<Self, E> {
        let capture = Capture::begin(device)?;
        work()?;
        Ok(capture.end()?)
    }

    /// Does what was recorded, once more, without waiting for it.
    ///
    /// # Errors
    /// A failed device, or one that another thread records.
    pub fn launch(&mut self) -> Result<(), CudaError> {
        let queue = self.device.queue()?;
        // SAFETY: both live, and so does all that was recorded, which `kept` holds.
        unsafe { result::graph::launch(self.executable, queue.stream()) }.map_err(driver("launching a graph"))
    }
}

impl Drop for Graph {
    fn drop(&mut self) {
        // It may still run, and what it uses goes with it.
        if self.device.synchronize().is_ok() {
            // SAFETY: made in `end`, destroyed only here.
            let _ = unsafe { result::graph::exec_destroy(self.executable) };
        }
    }
}

/// A recording that is under way; ended and forgotten when dropped.
struct Capture<'a> {
    device: &'a Device,
}

impl<'a> Capture<'a> {
    fn begin(device: &'a Device) -> Result<Self, CudaError> {
        device.bind()?;
        let mut recording = device.recording();
        if recording.is_some() {
            return Err(CudaError::Recording);
        }
        let mode = CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL;
        // SAFETY: the stream lives as long as the device.
        unsafe { result::stream::begin_capture(device.stream(), mode) }
            .map_err(driver("recording a graph"))?;
        *recording = Some(Recording { thread: thread::current().id(), kept: Vec::new() });
        Ok(Self { device })
    }

    fn end(self) -> Result<Graph, CudaError> {
        let (device, (template, kept)) = (self.device.clone(), self.stop());
        std::mem::forget(self);
        let template = template?;
        // SAFETY: the graph was just recorded.
        let executable = unsafe { result::graph::instantiate(template.0, CUgraphInstantiate_flags(0)) }
            .map_err(driver("making a graph"))?;
        Ok(Graph { device, executable, _kept: kept })
    }

    fn stop(&self) -> (Result<Template, CudaError>, Vec<Kept>) {
        let mut recording = self.device.recording();
        // SAFETY: begun in `begin`, and ended only here, once.
        let template = unsafe { result::stream::end_capture(self.device.stream()) }
            .map(Template)
            .map_err(driver("recording a graph"));
        (template, recording.take().map_or(Vec::new(), |recording| recording.kept))
    }
}

impl Drop for Capture<'_> {
    fn drop(&mut self) {
        drop(self.stop());
    }
}

/// What a recording gives, from which graphs are made.
struct Template(CUgraph);

impl Drop for Template {
    fn drop(&mut self) {
        // One that was spoilt is null.
        if !self.0.is_null() {
            // SAFETY: from `end_capture`, destroyed only here.
            let _ = unsafe { result::graph::destroy(self.0) };
        }
    }
}

#[cfg(test)]
mod tests;
