//! In what form a cache stores its entries.

use std::fmt;
use std::str::FromStr;

use crate::{DType, KernelError};

/// How wide a code is that stands for a number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum CodeBits {
    /// Sixteen levels, two codes to a byte.
    Four,
    /// 256 levels, a byte each.
    Eight,
}

impl CodeBits {
    /// The largest code; codes begin at 0.
    pub const fn largest(self) -> u8 {
        match self {
            CodeBits::Four => 15,
            CodeBits::Eight => 255,
        }
    }

    /// Bits of a code.
    pub const fn bits(self) -> usize {
        match self {
            CodeBits::Four => 4,
            CodeBits::Eight => 8,
        }
    }

    /// Dimensions of an entry that share a least number and a step: half a bit for each of 64, one for each of 32.
    pub const fn group(self) -> usize {
        match self {
            CodeBits::Four => 32,
            CodeBits::Eight => 64,
        }
    }
}

/// How one kind of rows of a page is stored: its keys, or its values.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum RowFormat {
    /// As numbers, each rounded on its own.
    Numbers(DType),
    /// As codes between the smallest and the largest number of each group of [`CodeBits::group`] dimensions of an entry.
    Codes(CodeBits),
}

/// How a cache stores keys, values and side channels; arithmetic is always f32.
///
/// Codes stand for numbers of a group: 64 or 32 neighbouring dimensions of one entry and head. A group is its least number and
/// a step, both f16, and a code for each number: `x' = code * step + least`. Least and step are rounded outwards, so
/// `|x' - x| <= step / 2`, and the step is the group's range over 255 or 15, but for what f16 takes. What an entry becomes is a
/// function of the entry alone: neither its neighbours in a page, nor the cuts of a text, nor being moved change it. Side channels are
/// f16 there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum KvFormat {
    /// Numbers of IEEE 754 binary32.
    F32,
    /// Numbers of IEEE 754 binary16.
    F16,
    /// Numbers of the upper half of a binary32.
    Bf16,
    /// Codes of 8 bits: 8.5 bits a number with the steps.
    Q8,
    /// Keys as `Q8`, values as codes of 4 bits: 6.75 bits a number with the steps. Keys of 4 bits, coded entry by entry,
    /// cost a real model eight times the divergence (LOG.md): scores are exponents.
    Q4,
}

impl KvFormat {
    /// Every format, in the order of the docs.
    pub const ALL: [KvFormat; 5] = [KvFormat::F32, KvFormat::F16, KvFormat::Bf16, KvFormat::Q8, KvFormat::Q4];

    /// How keys are stored.
    pub const fn keys(self) -> RowFormat {
        match self {
            KvFormat::F32 => RowFormat::Numbers(DType::F32),
            KvFormat::F16 => RowFormat::Numbers(DType::F16),
            KvFormat::Bf16 => RowFormat::Numbers(DType::Bf16),
            KvFormat::Q8 | KvFormat::Q4 => RowFormat::Codes(CodeBits::Eight),
        }
    }

    /// How values are stored.
    pub const fn values(self) -> RowFormat {
        match self {
            KvFormat::Q4 => RowFormat::Codes(CodeBits::Four),
            other => other.keys(),
        }
    }

    /// The format of side channels, and of the elements that a page is made of; codes lie in those as bytes.
    pub const fn elements(self) -> DType {
        match self {
            KvFormat::F32 => DType::F32,
            KvFormat::Bf16 => DType::Bf16,
            KvFormat::F16 | KvFormat::Q8 | KvFormat::Q4 => DType::F16,
        }
    }

    /// The format of its numbers, or none where it stores codes.
    pub const fn numbers(self) -> Option<DType> {
        match self.keys() {
            RowFormat::Numbers(dtype) => Some(dtype),
            RowFormat::Codes(_) => None,
        }
    }

    /// The least magnitude, as bits of an f32, that a key or value cannot have: numbers from there on become infinite, or the
    /// least number of their group would.
    pub const fn infinite_from(self) -> u32 {
        match self.keys() {
            RowFormat::Numbers(dtype) => dtype.infinite_from(),
            // Beyond the largest finite f16: a least number is rounded down, never to the nearest.
            RowFormat::Codes(_) => 65504f32.to_bits() + 1,
        }
    }

    /// The formats with a larger range, or the largest, in the words of a message that advises one.
    pub const fn wider(self) -> &'static str {
        self.elements().wider()
    }

    /// The name that `Display` prints and `FromStr` reads.
    pub const fn name(self) -> &'static str {
        match self {
            KvFormat::F32 => "f32",
            KvFormat::F16 => "f16",
            KvFormat::Bf16 => "bf16",
            KvFormat::Q8 => "q8",
            KvFormat::Q4 => "q4",
        }
    }
}

impl From<DType> for KvFormat {
    fn from(dtype: DType) -> Self {
        match dtype {
            DType::F32 => KvFormat::F32,
            DType::F16 => KvFormat::F16,
            DType::Bf16 => KvFormat::Bf16,
        }
    }
}

impl fmt::Display for KvFormat {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.pad(self.name())
    }
}

impl FromStr for KvFormat {
    type Err = KernelError;

    fn from_str(text: &str) -> Result<Self, KernelError> {
        KvFormat::ALL.into_iter().find(|format| format.name() == text).ok_or_else(|| KernelError::Invalid {
            op: "format of the cache",
            expected: "one of f32, f16, bf16, q8, q4".to_owned(),
            got: format!("{text:?}"),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_parses_back_to_its_format_and_numbers_keep_theirs() {
        for format in KvFormat::ALL {
            assert_eq!(format.to_string().parse::<KvFormat>(), Ok(format));
        }
        for dtype in DType::ALL {
            let format = KvFormat::from(dtype);
            assert_eq!(
                (format.name(), format.numbers(), format.elements()),
                (dtype.name(), Some(dtype), dtype)
            );
        }
        assert_eq!((KvFormat::Q8.numbers(), KvFormat::Q4.numbers()), (None, None));
        let message = "q5".parse::<KvFormat>().unwrap_err().to_string();
        assert!(message.contains("q8, q4") && message.contains("q5"), "{message}");
    }
}
