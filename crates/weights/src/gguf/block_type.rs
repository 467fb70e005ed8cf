//! The number formats of a GGUF file's tensors.

use std::fmt;

/// How a tensor's numbers lie in a GGUF file: one by one, or in blocks with a scale of their own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum BlockType {
    /// IEEE single precision.
    F32,
    /// IEEE half precision.
    F16,
    /// The upper half of a single-precision float.
    Bf16,
    /// 32 numbers of 4 bits around 8, and their scale.
    Q4_0,
    /// 32 numbers of 4 bits, their scale and their least value.
    Q4_1,
    /// 32 numbers of 5 bits around 16, and their scale.
    Q5_0,
    /// 32 numbers of 5 bits, their scale and their least value.
    Q5_1,
    /// 32 signed bytes and their scale.
    Q8_0,
    /// 256 numbers of 4 bits, with 6-bit scales and least values for each 32.
    Q4K,
    /// 256 numbers of 5 bits, with 6-bit scales and least values for each 32.
    Q5K,
    /// 256 numbers of 6 bits around 32, with 8-bit scales for each 16.
    Q6K,
}

/// Every format with its number and name in ggml, the numbers in a block, and the bytes of a block.
const TABLE: [(BlockType, u32, &str, usize, usize); 11] = [
    (BlockType::F32, 0, "F32", 1, 4),
    (BlockType::F16, 1, "F16", 1, 2),
    (BlockType::Bf16, 30, "BF16", 1, 2),
    (BlockType::Q4_0, 2, "Q4_0", 32, 18),
    (BlockType::Q4_1, 3, "Q4_1", 32, 20),
    (BlockType::Q5_0, 6, "Q5_0", 32, 22),
    (BlockType::Q5_1, 7, "Q5_1", 32, 24),
    (BlockType::Q8_0, 8, "Q8_0", 32, 34),
    (BlockType::Q4K, 12, "Q4_K", 256, 144),
    (BlockType::Q5K, 13, "Q5_K", 256, 176),
    (BlockType::Q6K, 14, "Q6_K", 256, 210),
];

/// Names of formats that are not read, so that a refusal can say which it met.
const OTHERS: [(u32, &str); 16] = [
    (9, "Q8_1"),
    (10, "Q2_K"),
    (11, "Q3_K"),
    (15, "Q8_K"),
    (16, "IQ2_XXS"),
    (17, "IQ2_XS"),
    (18, "IQ3_XXS"),
    (19, "IQ1_S"),
    (20, "IQ4_NL"),
    (21, "IQ3_S"),
    (22, "IQ2_S"),
    (23, "IQ4_XS"),
    (29, "IQ1_M"),
    (34, "TQ1_0"),
    (35, "TQ2_0"),
    (39, "MXFP4"),
];

impl BlockType {
    /// The format that ggml numbers so, if it is one that is read.
    pub(crate) fn from_number(number: u32) -> Option<Self> {
        TABLE.iter().find(|row| row.1 == number).map(|row| row.0)
    }

    /// A number that is not read, with its name where that is known.
    pub(crate) fn describe(number: u32) -> String {
        let named = OTHERS.iter().find(|row| row.0 == number);
        named.map_or_else(|| number.to_string(), |(_, name)| format!("{number} ({name})"))
    }

    /// Its name in ggml.
    pub fn name(self) -> &'static str {
        TABLE[self as usize].2
    }

    /// Numbers in a block; rows are whole blocks.
    pub fn block(self) -> usize {
        TABLE[self as usize].3
    }

    /// Bytes of a block.
    pub fn block_bytes(self) -> usize {
        TABLE[self as usize].4
    }

    /// The names of all formats that are read, for messages.
    pub(crate) fn list() -> String {
        TABLE.map(|row| row.2).join(", ")
    }
}

impl fmt::Display for BlockType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_stands_in_the_order_of_the_enum() {
        for (at, row) in TABLE.iter().enumerate() {
            assert_eq!(row.0 as usize, at);
            assert_eq!(BlockType::from_number(row.1), Some(row.0));
        }
        assert_eq!(BlockType::from_number(10), None);
        assert_eq!(BlockType::describe(10), "10 (Q2_K)");
        assert_eq!(BlockType::describe(4), "4");
    }
}
