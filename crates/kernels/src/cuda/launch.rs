//! Starting kernels.

use std::ffi::c_void;

use cudarc::driver::sys::{
    self, CUlaunchAttribute, CUlaunchAttributeID, CUlaunchAttributeValue_union__bindgen_ty_1 as ClusterDim,
    CUlaunchConfig, CUstream,
};

use super::error::driver;
use super::{Argument, CudaError, Function};

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
    /// Neighbouring blocks in x that run at the same time and read each other's shared memory, from compute capability 9.0
    /// on; they divide the blocks.
    pub cluster: u32,
}

impl Grid {
    /// `blocks` blocks in x of `threads` threads, after the kernel before.
    #[must_use]
    pub fn new(blocks: usize, threads: u32) -> Self {
        Self { blocks: [u32::try_from(blocks).unwrap_or(u32::MAX), 1, 1], threads, early: false, cluster: 1 }
    }

    /// The same blocks, `y` times.
    #[must_use]
    pub fn by(self, y: usize) -> Self {
        Self { blocks: [self.blocks[0], u32::try_from(y).unwrap_or(u32::MAX), 1], ..self }
    }

    /// The same in clusters of so many blocks.
    #[must_use]
    pub fn in_clusters(self, cluster: usize) -> Self {
        Self { cluster: u32::try_from(cluster).unwrap_or(u32::MAX), ..self }
    }

    /// The same, allowed to start early.
    #[must_use]
    pub fn early(self) -> Self {
        Self { early: true, ..self }
    }
}

impl Function {
    /// Starts the kernel with one argument, a structure that it takes by value.
    ///
    /// # Errors
    /// A grid that the device refuses. A grid without blocks is done at once.
    ///
    /// # Safety
    /// `argument` is what this kernel takes. The memory that it points to is that of buffers whose
    /// [`pointer`](super::DeviceBuffer::pointer) was asked for since the recording began, if this is recorded; it is
    /// as large as the kernel takes it to be, and used by nothing else that runs at the same time.
    pub unsafe fn launch<A: Argument>(&self, grid: Grid, argument: &A) -> Result<(), CudaError> {
        self.keep();
        let queue = self.device().queue()?;
        // SAFETY: as the caller promises; the stream is the device's.
        unsafe { self.launch_on(queue.stream(), grid, argument) }
    }

    /// The same on a stream that goes on beside the device's own work, and is never recorded.
    ///
    /// # Safety
    /// As [`Function::launch`]; the stream is alive, and the context of its device bound.
    pub(super) unsafe fn launch_on<A: Argument>(
        &self,
        stream: CUstream,
        grid: Grid,
        argument: &A,
    ) -> Result<(), CudaError> {
        debug_assert!(self.knows(A::LAYOUT), "{} is no argument of this file", A::LAYOUT.name);
        if grid.blocks.contains(&0) {
            return Ok(());
        }
        // SAFETY: plain numbers and unions of them, for which zero is a value.
        let mut attributes: [CUlaunchAttribute; 2] = unsafe { std::mem::zeroed() };
        let mut given = 0;
        if grid.early && self.device().facts().capability.0 >= 9 {
            attributes[given].id = CUlaunchAttributeID::CU_LAUNCH_ATTRIBUTE_PROGRAMMATIC_STREAM_SERIALIZATION;
            attributes[given].value.programmaticStreamSerializationAllowed = 1;
            given += 1;
        }
        if grid.cluster > 1 {
            attributes[given].id = CUlaunchAttributeID::CU_LAUNCH_ATTRIBUTE_CLUSTER_DIMENSION;
            attributes[given].value.clusterDim = ClusterDim { x: grid.cluster, y: 1, z: 1 };
            given += 1;
        }
        let config = CUlaunchConfig {
            gridDimX: grid.blocks[0],
            gridDimY: grid.blocks[1],
            gridDimZ: grid.blocks[2],
            blockDimX: grid.threads,
            blockDimY: 1,
            blockDimZ: 1,
            sharedMemBytes: self.shared(),
            hStream: stream,
            attrs: attributes.as_mut_ptr(),
            numAttrs: given as u32,
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
