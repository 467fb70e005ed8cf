//! `--device`: on what a model runs.

use std::path::PathBuf;

use anyhow::Result;
use dropcap_kernels::cuda::{CudaError, Device, DeviceChoice, Library};

use crate::default_model::cache;
use crate::progress::warn;

/// The GPU to run on, or none for the processor.
///
/// # Errors
/// A GPU that was asked for by name and cannot be used. `auto` never fails.
pub fn chosen(choice: DeviceChoice) -> Result<Option<Device>> {
    match choice {
        DeviceChoice::Cpu => Ok(None),
        DeviceChoice::Cuda(number) => Ok(Some(open(number)?)),
        DeviceChoice::Auto => Ok(first_usable()),
    }
}

/// The first GPU, or none; one that is there and cannot be used is worth a word.
fn first_usable() -> Option<Device> {
    match Device::count() {
        Ok(count) if count > 0 => {}
        _ => return None,
    }
    match open(0) {
        Ok(device) => Some(device),
        Err(error) => {
            warn(&format!("the GPU cannot be used, so the processor is ({error}); see `dropcap doctor`"));
            None
        }
    }
}

/// A GPU with everything that a run needs.
pub fn open(number: usize) -> Result<Device, CudaError> {
    Library::Driver.load()?;
    Library::CublasLt.load()?;
    Device::open(number, kernel_cache())
}

/// Where compiled kernels are kept.
pub fn kernel_cache() -> Option<PathBuf> {
    cache().map(|cache| cache.join("dropcap").join("kernels"))
}
