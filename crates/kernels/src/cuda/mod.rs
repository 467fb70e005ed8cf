//! The CUDA backend's foundation: a device, its memory, kernels that are compiled when they are first needed.
//!
//! Nothing here is needed to build, and nothing is loaded until a device is asked for: the same program runs where
//! there is no driver. Kernels are the `.cu` files beside each operation; [`SOURCES`] and
//! [`TRAIN_SOURCES`] list them.

mod argument;
mod bandwidth;
mod choice;
mod communicator;
mod compile;
mod device;
mod error;
mod graph;
mod kernel_cache;
mod landing;
mod lanes;
mod launch;
mod libraries;
mod memory;
mod module;
mod moment;
mod nccl;
mod page_map;
mod peers;
mod pinned;
mod slice;
mod specialisation;
mod step;
mod stopwatch;
mod stretches;

pub use argument::{Argument, Field, Layout, kernel_struct};
pub use bandwidth::read_bandwidth;
pub use choice::DeviceChoice;
pub use communicator::{Communicator, Exchange, WorldId};
pub use compile::{Constants, NO_CONSTANTS, Source, compile, compiler_version};
pub use device::{Device, DeviceFacts};
pub use error::CudaError;
pub use graph::Graph;
pub use lanes::{DeviceLanes, DeviceSpan, LaneTables, Row};
pub use launch::Grid;
pub use libraries::Library;
pub use memory::DeviceBuffer;
pub(crate) use memory::Place;
pub use module::{Function, Module};
pub use moment::Moment;
pub use peers::BufferName;
pub use pinned::PinnedBuffer;
pub use slice::DeviceSlice;
pub use specialisation::Specialisation;
pub use step::{DeviceStep, StepSize};
pub use stopwatch::Stopwatch;
pub use stretches::Stretches;

/// The kernel files of inference.
pub const SOURCES: &[Source] = &[
    bandwidth::SOURCE,
    crate::activation::SOURCE,
    crate::attention::cuda::DECODE,
    crate::attention::cuda::PREFILL,
    crate::attention::cuda::PREFILL_GROUPS,
    crate::attention::cuda::ROWS,
    crate::embedding::SOURCE,
    crate::matmul::BLOCKS,
    crate::matmul::GEMV,
    crate::matmul::RANDOM,
    crate::norm::SOURCE,
    crate::rope::SOURCE,
    crate::rope::ANCHOR,
    crate::rope::RENUMBER,
    crate::similarity::SOURCE,
    crate::lifetimes::GROW_SOURCE,
    crate::lifetimes::RECLAIM_SOURCE,
    crate::lifetimes::INHERIT_SOURCE,
    crate::ranking::COLUMNS,
    crate::ranking::COMPACTOR,
    crate::ranking::EXPECTED,
    crate::ranking::KEYS,
    crate::ranking::LAG,
    crate::ranking::MASS,
    crate::ranking::POOL,
    crate::ranking::SELECT,
    crate::ranking::TOLD,
    crate::vote::VOTE_SOURCE,
    crate::sampling::SAMPLE_SOURCE,
];

/// The kernel files of training.
pub const TRAIN_SOURCES: &[Source] = &[
    crate::activation::TRAIN_SOURCE,
    crate::cross_entropy::TRAIN_SOURCE,
    crate::embedding::TRAIN_SOURCE,
    crate::gated_attention::cuda::ATTEND,
    crate::gated_attention::cuda::BACK_KEYS,
    crate::gated_attention::cuda::BLAME,
    crate::gated_attention::cuda::VOTES,
    landing::SOURCE,
    crate::norm::TRAIN_SOURCE,
    crate::optimizer::TRAIN_SOURCE,
    crate::reduce::SOURCE,
    crate::rope::TRAIN_SOURCE,
    crate::training::SOURCE,
];

#[cfg(test)]
pub(crate) mod rounding;
#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;
