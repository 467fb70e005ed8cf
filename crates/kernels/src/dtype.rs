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

    /// The least magnitude, as bits of an f32, that becomes infinite when it is rounded to this format: halfway between
    /// the largest finite number and what would come next, because ties round to even.
    pub const fn infinite_from(self) -> u32 {
        match self {
            DType::F32 => f32::INFINITY.to_bits(),
            DType::F16 => 65520f32.to_bits(),
            DType::Bf16 => 0x7f7f_8000,
        }
    }

    /// The formats with a larger range, or the largest, in the words of a message that advises one.
    pub const fn wider(self) -> &'static str {
        match self {
            DType::F16 => "bf16 or f32",
            DType::Bf16 | DType::F32 => "f32",
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
    fn numbers_below_the_limit_stay_finite_and_others_do_not() {
        let (f16, bf16) = (half::f16::from_f32, half::bf16::from_f32);
        let [of_f16, of_bf16] = [DType::F16, DType::Bf16].map(DType::infinite_from);
        let (below, at) = (|bits| f32::from_bits(bits - 1), f32::from_bits);
        assert!(f16(below(of_f16)).is_finite() && f16(at(of_f16)).is_infinite());
        assert!(bf16(below(of_bf16)).is_finite() && bf16(at(of_bf16)).is_infinite());
    }

    #[test]
    fn a_name_parses_back_to_its_dtype() {
        for dtype in DType::ALL {
            assert_eq!(dtype.to_string().parse::<DType>(), Ok(dtype));
        }
        assert!("float32".parse::<DType>().is_err());
    }
}
