//! How weights are held in memory, as a person asks for it and as a matrix has it.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use dropcap_kernels::{BlockFormat, DType, KernelError};
use dropcap_weights::{BlockType, StoredType};

/// How the matrices of a model are held in memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum WeightFormat {
    /// As they are stored: numbers in their dtype, and blocks of a GGUF file as they are where products read them
    /// (Q8_0, Q4_0, Q4_1), else as Q8_0, which loses next to nothing of 4 to 6 bits.
    #[default]
    Auto,
    /// All in one dtype.
    Plain(DType),
    /// In blocks of 8 bits (Q8_0).
    Q8,
    /// In blocks of 4 bits (Q4_1); tables of an output per token and per position in blocks of 8 (Q8_0), as an error in a head
    /// is an error in every token.
    Q4,
}

/// How one matrix is held.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Held {
    Plain(DType),
    Blocks(BlockFormat),
}

/// How a matrix, or a part of one, is stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum StoredAs {
    /// Numbers of a dtype.
    Numbers(DType),
    /// Blocks that products read.
    Blocks(BlockFormat),
    /// Blocks that only become numbers.
    OtherBlocks,
}

impl StoredAs {
    /// What a format of safetensors files is; none for those that nothing here computes with.
    pub(crate) fn of_safetensors(format: StoredType) -> Option<Self> {
        DType::ALL.into_iter().find(|&dtype| stored_type(dtype) == format).map(Self::Numbers)
    }

    /// What a format of GGUF files is.
    pub(crate) fn of_gguf(format: BlockType) -> Self {
        match format {
            BlockType::F32 => Self::Numbers(DType::F32),
            BlockType::F16 => Self::Numbers(DType::F16),
            BlockType::Bf16 => Self::Numbers(DType::Bf16),
            BlockType::Q8_0 => Self::Blocks(BlockFormat::Q8_0),
            BlockType::Q4_0 => Self::Blocks(BlockFormat::Q4_0),
            BlockType::Q4_1 => Self::Blocks(BlockFormat::Q4_1),
            BlockType::Q5_0 | BlockType::Q5_1 | BlockType::Q4K | BlockType::Q5K | BlockType::Q6K => {
                Self::OtherBlocks
            }
        }
    }

    /// What its numbers are when they have been read.
    pub(crate) fn dtype(self) -> DType {
        match self {
            Self::Numbers(dtype) => dtype,
            Self::Blocks(_) | Self::OtherBlocks => DType::F32,
        }
    }
}

/// How safetensors files call a format of the kernels.
#[must_use]
pub fn stored_type(dtype: DType) -> StoredType {
    match dtype {
        DType::F32 => StoredType::F32,
        DType::F16 => StoredType::F16,
        DType::Bf16 => StoredType::Bf16,
    }
}

/// Inputs of a block.
const BLOCK: usize = 32;

impl WeightFormat {
    /// How a matrix of these parts is held; `table` says whether it has an output per token or position.
    ///
    /// Inputs that are no whole blocks stay numbers: f32 where a person asked for blocks.
    pub(crate) fn held(self, inputs: usize, table: bool, parts: &[StoredAs]) -> Held {
        let blocks = |format| {
            if inputs.is_multiple_of(BLOCK) { Held::Blocks(format) } else { Held::Plain(DType::F32) }
        };
        match self {
            Self::Plain(dtype) => Held::Plain(dtype),
            Self::Q8 => blocks(BlockFormat::Q8_0),
            Self::Q4 => blocks(if table { BlockFormat::Q8_0 } else { BlockFormat::Q4_1 }),
            Self::Auto => match parts {
                [StoredAs::Blocks(first), rest @ ..]
                    if rest.iter().all(|part| *part == StoredAs::Blocks(*first)) =>
                {
                    blocks(*first)
                }
                [StoredAs::Numbers(first), rest @ ..]
                    if rest.iter().all(|part| *part == StoredAs::Numbers(*first)) =>
                {
                    Held::Plain(*first)
                }
                [] => Held::Plain(DType::F32),
                // Numbers of several dtypes fit f32 all.
                parts if parts.iter().all(|part| matches!(part, StoredAs::Numbers(_))) => {
                    Held::Plain(DType::F32)
                }
                _ => blocks(BlockFormat::Q8_0),
            },
        }
    }

    /// The dtype of all matrices, where a person asked for one.
    pub(crate) fn dtype(self) -> Option<DType> {
        match self {
            Self::Plain(dtype) => Some(dtype),
            Self::Auto | Self::Q8 | Self::Q4 => None,
        }
    }
}

/// The names of matrices' formats, that of the most bytes first, with `+` between them.
pub(crate) fn formats_by_bytes(matrices: impl Iterator<Item = (String, usize)>) -> String {
    let mut bytes: BTreeMap<String, usize> = BTreeMap::new();
    for (format, size) in matrices {
        *bytes.entry(format).or_default() += size;
    }
    let mut formats: Vec<_> = bytes.into_iter().collect();
    formats.sort_by_key(|(_, bytes)| std::cmp::Reverse(*bytes));
    formats.into_iter().map(|(format, _)| format).collect::<Vec<_>>().join("+")
}

impl From<DType> for WeightFormat {
    fn from(dtype: DType) -> Self {
        Self::Plain(dtype)
    }
}

impl fmt::Display for WeightFormat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Auto => f.write_str("auto"),
            Self::Plain(dtype) => dtype.fmt(f),
            Self::Q8 => f.write_str("q8"),
            Self::Q4 => f.write_str("q4"),
        }
    }
}

impl FromStr for WeightFormat {
    type Err = KernelError;

    fn from_str(text: &str) -> Result<Self, KernelError> {
        match text {
            "auto" => Ok(Self::Auto),
            "q8" => Ok(Self::Q8),
            "q4" => Ok(Self::Q4),
            _ => text.parse().map(Self::Plain).map_err(|_| KernelError::Invalid {
                op: "weight format",
                expected: "one of auto, f32, bf16, f16, q8, q4".to_owned(),
                got: format!("{text:?}"),
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_come_back() {
        for format in
            [WeightFormat::Auto, WeightFormat::Plain(DType::Bf16), WeightFormat::Q8, WeightFormat::Q4]
        {
            assert_eq!(format.to_string().parse(), Ok(format));
        }
        assert!("q5".parse::<WeightFormat>().unwrap_err().to_string().contains("q8"));
    }

    #[test]
    fn what_is_stored_stays_where_products_read_it() {
        use BlockFormat::{Q4_1, Q8_0};
        use StoredAs::{Blocks, Numbers, OtherBlocks};
        let held = |inputs, parts: &[StoredAs]| WeightFormat::Auto.held(inputs, false, parts);
        assert_eq!(held(64, &[Blocks(Q4_1), Blocks(Q4_1)]), Held::Blocks(Q4_1));
        assert_eq!(held(64, &[Blocks(Q4_1), OtherBlocks]), Held::Blocks(Q8_0));
        assert_eq!(held(64, &[OtherBlocks]), Held::Blocks(Q8_0));
        assert_eq!(held(64, &[Numbers(DType::Bf16), Numbers(DType::Bf16)]), Held::Plain(DType::Bf16));
        assert_eq!(held(64, &[Numbers(DType::Bf16), Numbers(DType::F16)]), Held::Plain(DType::F32));
        assert_eq!(WeightFormat::Q4.held(64, true, &[]), Held::Blocks(Q8_0));
        assert_eq!(WeightFormat::Q8.held(48, false, &[]), Held::Plain(DType::F32));
    }
}
