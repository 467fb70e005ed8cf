//! The number formats that a safetensors file may hold.

use std::fmt;

/// How a tensor's elements lie in the file, little-endian, whole bytes each.
///
/// The sub-byte and complex formats of the safetensors format are left out: nothing here could use them, and a
/// file that has them is refused by name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum StoredType {
    /// One byte, 0 or 1.
    Bool,
    /// Unsigned 8-bit integer.
    U8,
    /// Signed 8-bit integer.
    I8,
    /// 8-bit float with 4 exponent bits.
    F8E4M3,
    /// 8-bit float with 5 exponent bits.
    F8E5M2,
    /// Unsigned 16-bit integer.
    U16,
    /// Signed 16-bit integer.
    I16,
    /// IEEE half precision.
    F16,
    /// The upper half of a single-precision float.
    Bf16,
    /// Unsigned 32-bit integer.
    U32,
    /// Signed 32-bit integer.
    I32,
    /// IEEE single precision.
    F32,
    /// Unsigned 64-bit integer.
    U64,
    /// Signed 64-bit integer.
    I64,
    /// IEEE double precision.
    F64,
}

/// Every format with its name in a header and its width in bytes.
const TABLE: [(StoredType, &str, usize); 15] = [
    (StoredType::Bool, "BOOL", 1),
    (StoredType::U8, "U8", 1),
    (StoredType::I8, "I8", 1),
    (StoredType::F8E4M3, "F8_E4M3", 1),
    (StoredType::F8E5M2, "F8_E5M2", 1),
    (StoredType::U16, "U16", 2),
    (StoredType::I16, "I16", 2),
    (StoredType::F16, "F16", 2),
    (StoredType::Bf16, "BF16", 2),
    (StoredType::U32, "U32", 4),
    (StoredType::I32, "I32", 4),
    (StoredType::F32, "F32", 4),
    (StoredType::U64, "U64", 8),
    (StoredType::I64, "I64", 8),
    (StoredType::F64, "F64", 8),
];

impl StoredType {
    /// The format that a header calls `name`, if it is one that is read.
    pub fn from_name(name: &str) -> Option<Self> {
        TABLE.iter().find(|row| row.1 == name).map(|row| row.0)
    }

    /// The name that a header gives to this format.
    pub fn name(self) -> &'static str {
        TABLE[self as usize].1
    }

    /// Bytes of one element.
    pub fn bytes(self) -> usize {
        TABLE[self as usize].2
    }

    /// The names of all formats that are read, for messages.
    pub(crate) fn list() -> String {
        TABLE.map(|row| row.1).join(", ")
    }
}

impl fmt::Display for StoredType {
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
            assert_eq!(StoredType::from_name(row.1), Some(row.0));
        }
        assert_eq!(StoredType::from_name("F4"), None);
    }
}
