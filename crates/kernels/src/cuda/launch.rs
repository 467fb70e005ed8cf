//! Starting kernels, and recording a sequence of them as a graph.

use std::ffi::c_void;

use cudarc::driver::result;
use cudarc::driver::sys::{
    self, CUgraph, CUgraphExec, CUgraphInstantiate_flags, CUlaunchAttribute, CUlaunchAttributeID,
    CUlaunchConfig, CUstreamCaptureMode,
};

use super::error::driver;
use super::{CudaError, Device, Function};

/// How many threads run a kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Grid {
    /// Blocks in x, y and z.
    pub blocks: [u32; 3],
    /// Threads of each block.
    pub threads: u32,
    /// Whether the kernel may start before the one before it has ended: it must call `wait_for_previous` before it
    /// touches anything that another kernel writes.
    pub early: bool,
}

impl Grid {
    /// `blocks` blocks in x of `threads` threads, after the kernel before.
    #[must_use]
    pub fn new(blocks: usize, threads: u32) -> Self {
        Self { blocks: [u32::try_from(blocks).unwrap_or(u32::MAX), 1, 1], threads, early: false }
    }

    /// The same blocks, `y` times.
    #[must_use]
    pub fn by(self, y: usize) -> Self {
        Self { blocks: [self.blocks[0], u32::try_from(y).unwrap_or(u32::MAX), 1], ..self }
    }

    /// The same, allowed to start early.
    #[must_use]
    pub fn early(self) -> Self {
        Self { early: true, ..self }
    }
}

impl Function {
    /// Starts the kernel with one argument, a `#[repr(C)]` structure that it takes by value.
    ///
    /// # Errors
    /// A grid that the device refuses. A grid without blocks is done at once.
    ///
    /// # Safety
    /// `argument` has the layout that the kernel expects; the memory that it points to is alive until the kernel has
    /// run, as large as the kernel takes it to be, and used by nothing else that runs at the same time.
    pub unsafe fn launch<A: Copy>(&self, grid: Grid, argument: &A) -> Result<(), CudaError> {
        if grid.blocks.contains(&0) {
            return Ok(());
        }
        self.device().bind()?;
        // SAFETY: plain numbers and unions of them, for which zero is a value.
        let mut attribute: CUlaunchAttribute = unsafe { std::mem::zeroed() };
        attribute.id = CUlaunchAttributeID::CU_LAUNCH_ATTRIBUTE_PROGRAMMATIC_STREAM_SERIALIZATION;
        attribute.value.programmaticStreamSerializationAllowed = 1;
        let early = grid.early && self.device().facts().capability.0 >= 9;
        let config = CUlaunchConfig {
            gridDimX: grid.blocks[0],
            gridDimY: grid.blocks[1],
            gridDimZ: grid.blocks[2],
            blockDimX: grid.threads,
            blockDimY: 1,
            blockDimZ: 1,
            sharedMemBytes: self.shared(),
            hStream: self.device().stream(),
            attrs: &raw mut attribute,
            numAttrs: u32::from(early),
        };
        let mut parameters = [std::ptr::from_ref(argument).cast_mut().cast::<c_void>()];
        // SAFETY: the caller's promise; the driver copies the argument before it returns.
        unsafe {
            sys::cuLaunchKernelEx(
                &raw const config,
                self.handle(),
                parameters.as_mut_ptr(),
                std::ptr::null_mut(),
            )
        }
        .result()
        .map_err(driver("launching a kernel"))
    }
}

/// A recorded sequence of kernels and copies, with all their arguments.
#[derive(Debug)]
pub struct Graph {
    device: Device,
    graph: CUgraph,
    executable: CUgraphExec,
}

// SAFETY: handles that one thread at a time uses, since launching takes &mut self.
unsafe impl Send for Graph {}

impl Graph {
    /// Records what `work` asks of the device, without doing it. `work` must not wait or allocate.
    ///
    /// # Errors
    /// What `work` returns, or a driver that refuses the recording.
    pub fn record<E: From<CudaError>>(
        device: &Device,
        work: impl FnOnce() -> Result<(), E>,
    ) -> Result<Self, E> {
        device.bind()?;
        let mode = CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL;
        // SAFETY: the stream lives as long as the device.
        unsafe { result::stream::begin_capture(device.stream(), mode) }
            .map_err(driver("recording a graph"))?;
        let worked = work();
        // SAFETY: above.
        let graph =
            unsafe { result::stream::end_capture(device.stream()) }.map_err(driver("recording a graph"));
        worked?;
        let graph = graph?;
        // SAFETY: the graph was just recorded.
        match unsafe { result::graph::instantiate(graph, CUgraphInstantiate_flags(0)) } {
            Ok(executable) => Ok(Self { device: device.clone(), graph, executable }),
            Err(error) => {
                // SAFETY: destroyed once, here or when the graph drops.
                let _ = unsafe { result::graph::destroy(graph) };
                Err(driver("making a graph")(error).into())
            }
        }
    }

    /// Does what was recorded, once more, without waiting for it.
    ///
    /// # Errors
    /// A failed device.
    pub fn launch(&mut self) -> Result<(), CudaError> {
        self.device.bind()?;
        // SAFETY: both live; the buffers of the recording are its maker's care, as at any launch.
        unsafe { result::graph::launch(self.executable, self.device.stream()) }
            .map_err(driver("launching a graph"))
    }
}

impl Drop for Graph {
    fn drop(&mut self) {
        if self.device.bind().is_ok() {
            // SAFETY: made in `record`, destroyed only here.
            unsafe {
                let _ = result::graph::exec_destroy(self.executable);
                let _ = result::graph::destroy(self.graph);
            }
        }
    }
}
