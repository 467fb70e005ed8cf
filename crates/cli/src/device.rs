//! `--device`: on what a model runs.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use anyhow::Result;
use dropcap_kernels::cuda::{CudaError, Device, Library};

use crate::default_model::cache;
use crate::progress::warn;

/// What the user asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DeviceChoice {
    /// The first usable GPU, or the processor.
    Auto,
    /// The processor.
    Cpu,
    /// One GPU, by its number.
    Cuda(usize),
}

impl FromStr for DeviceChoice {
    type Err = String;

    fn from_str(word: &str) -> Result<Self, String> {
        match word {
            "auto" => Ok(Self::Auto),
            "cpu" => Ok(Self::Cpu),
            "cuda" => Ok(Self::Cuda(0)),
            _ => {
                let number = word.strip_prefix("cuda:").and_then(|number| number.parse().ok());
                number
                    .map(Self::Cuda)
                    .ok_or_else(|| format!("'{word}' is no device: write auto, cpu or cuda:N"))
            }
        }
    }
}

impl fmt::Display for DeviceChoice {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Auto => out.write_str("auto"),
            Self::Cpu => out.write_str("cpu"),
            Self::Cuda(number) => write!(out, "cuda:{number}"),
        }
    }
}

impl DeviceChoice {
    /// The GPU to run on, or none for the processor.
    ///
    /// # Errors
    /// A GPU that was asked for by name and cannot be used. `auto` never fails.
    pub fn open(self) -> Result<Option<Device>> {
        match self {
            Self::Cpu => Ok(None),
            Self::Cuda(number) => Ok(Some(open(number)?)),
            Self::Auto => Ok(first_usable()),
        }
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

#[cfg(test)]
mod tests {
    use super::DeviceChoice;

    #[test]
    fn devices_are_named_as_they_are_printed() {
        for (word, choice) in [
            ("auto", DeviceChoice::Auto),
            ("cpu", DeviceChoice::Cpu),
            ("cuda:0", DeviceChoice::Cuda(0)),
            ("cuda:7", DeviceChoice::Cuda(7)),
        ] {
            assert_eq!(word.parse(), Ok(choice));
            assert_eq!(choice.to_string(), word);
        }
        assert_eq!("cuda".parse(), Ok(DeviceChoice::Cuda(0)));
        for bad in ["gpu", "cuda:", "cuda:x", "cuda:-1", ""] {
            assert!(bad.parse::<DeviceChoice>().is_err(), "{bad}");
        }
    }
}
