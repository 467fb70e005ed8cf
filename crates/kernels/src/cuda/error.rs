//! What can go wrong between this program and a GPU.

use cudarc::driver::DriverError;
use cudarc::driver::sys::CUresult;

/// Why the CUDA backend cannot be used, or why a call into it failed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CudaError {
    /// A shared library is not on this machine.
    #[error("cannot load {library}: {advice}")]
    Library {
        /// The library, as one would search for it.
        library: &'static str,
        /// What to install or set.
        advice: &'static str,
    },
    /// No GPU of that number.
    #[error(
        "there is no CUDA device {wanted}: the driver sees {count}; name one below that, or --device cpu"
    )]
    NoDevice {
        /// Number asked for.
        wanted: usize,
        /// Devices that the driver sees.
        count: usize,
    },
    /// A GPU that is too old.
    #[error(
        "CUDA device {device} ({name}) has compute capability {major}.{minor}: 8.0 (Ampere) or newer is needed"
    )]
    TooOld {
        /// Number of the device.
        device: usize,
        /// Its own name.
        name: String,
        /// Compute capability, major.
        major: i32,
        /// Compute capability, minor.
        minor: i32,
    },
    /// The device has no memory for an allocation.
    #[error(
        "out of device memory: {wanted} bytes for {what}, {free} of {total} bytes are free: use a narrower dtype, a smaller batch or a smaller --kv-limit"
    )]
    OutOfMemory {
        /// What was to be allocated.
        what: &'static str,
        /// Bytes asked for.
        wanted: usize,
        /// Bytes free at that time.
        free: usize,
        /// Bytes of the device.
        total: usize,
    },
    /// A recording of a graph is under way.
    #[error("another graph is being recorded on this device: ask it for nothing until the recording ends")]
    Recording,
    /// The driver refused a call.
    #[error("CUDA: {op} failed: {name} ({text})")]
    Driver {
        /// What was attempted.
        op: &'static str,
        /// The driver's name of the error.
        name: String,
        /// The driver's words.
        text: String,
    },
    /// A kernel file did not compile, which is a fault of this program.
    #[error("the kernel file {file} does not compile for {target}:\n{log}")]
    Compile {
        /// The file.
        file: &'static str,
        /// The architecture.
        target: String,
        /// The compiler's words.
        log: String,
    },
    /// cuBLASLt refused a product.
    #[error("cuBLASLt: {op} of {shape} failed: {status}")]
    Blas {
        /// What was attempted.
        op: &'static str,
        /// Sizes and formats.
        shape: String,
        /// The library's status.
        status: String,
    },
    /// NCCL could not add up over several processes.
    #[error("NCCL: {op} failed: {text}; NCCL_DEBUG=WARN in the environment says more")]
    Nccl {
        /// What was attempted.
        op: &'static str,
        /// The library's words.
        text: String,
    },
    /// A model or cache that the kernels were not made for.
    #[error("the CUDA backend does not support {what}: {advice}")]
    Unsupported {
        /// The feature.
        what: String,
        /// What to do instead.
        advice: &'static str,
    },
}

/// Names the attempted operation in a driver's error.
pub(crate) fn driver(op: &'static str) -> impl Fn(DriverError) -> CudaError {
    move |error| {
        let word = |text: Result<&std::ffi::CStr, DriverError>| {
            text.map_or_else(|_| "unknown".to_owned(), |text| text.to_string_lossy().into_owned())
        };
        CudaError::Driver { op, name: word(error.error_name()), text: word(error.error_string()) }
    }
}

pub(crate) fn is_out_of_memory(error: DriverError) -> bool {
    error.0 == CUresult::CUDA_ERROR_OUT_OF_MEMORY
}
