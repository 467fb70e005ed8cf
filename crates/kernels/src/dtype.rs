//! The three number formats that weights and cache pages are stored in.

use std::fmt;
use std::str::FromStr;

use crate::KernelError;

/// A storage format; arithmetic is always f32.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum DType {
    /// IEEE 754 binary32.
    F32,
    /// IEEE 754 binary16.
    F16,
    /// The upper half of a binary32.
    Bf16,
}

impl DType {
    /// Every format, in the order of the docs.
    pub const ALL: [DType; 3] = [DType::F32, DType::F16, DType::Bf16];

    /// Bytes of one element.
    pub const fn bytes(self) -> usize {
        match self {
            DType::F32 => 4,
            DType::F16 | DType::Bf16 => 2,
        }
    }

    /// The name that `Display` prints and `FromStr` reads.
    pub const fn name(self) -> &'static str {
        match self {
            DType::F32 => "f32",
            DType::F16 => "f16",
            DType::Bf16 => "bf16",
        }
    }
}

impl fmt::Display for DType {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.pad(self.name())
    }
}

impl FromStr for DType {
    type Err = KernelError;

    fn from_str(text: &str) -> Result<Self, KernelError> {
        DType::ALL.into_iter().find(|dtype| dtype.name() == text).ok_or_else(|| KernelError::Invalid {
            op: "dtype",
            expected: "one of f32, f16, bf16".to_owned(),
            got: format!("{text:?}"),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_parses_back_to_its_dtype() {
        for dtype in DType::ALL {
            assert_eq!(dtype.to_string().parse::<DType>(), Ok(dtype));
        }
        assert!("float32".parse::<DType>().is_err());
    }
}
