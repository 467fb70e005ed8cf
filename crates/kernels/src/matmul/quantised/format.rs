//! The formats of blocks that products read.

use std::fmt;

use half::f16;

use super::BLOCK;

/// How 32 weights of one output are held: ggml's blocks, the scale first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum BlockFormat {
    /// An f16 scale and 32 signed bytes: 34 bytes.
    Q8_0,
    /// An f16 scale and 32 numbers of 4 bits around 8: 18 bytes.
    Q4_0,
    /// An f16 scale, an f16 least value, and 32 numbers of 4 bits: 20 bytes.
    Q4_1,
}

impl BlockFormat {
    /// Every format.
    pub const ALL: [Self; 3] = [Self::Q8_0, Self::Q4_0, Self::Q4_1];

    /// Bytes of a block.
    pub fn block_bytes(self) -> usize {
        match self {
            Self::Q8_0 => 34,
            Self::Q4_0 => 18,
            Self::Q4_1 => 20,
        }
    }

    /// Its name in ggml.
    pub fn name(self) -> &'static str {
        match self {
            Self::Q8_0 => "Q8_0",
            Self::Q4_0 => "Q4_0",
            Self::Q4_1 => "Q4_1",
        }
    }
}

impl fmt::Display for BlockFormat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// One block taken apart.
#[derive(Debug, Clone, Copy)]
pub(super) struct Block {
    pub(super) scale: f16,
    /// Zero where the format has none.
    pub(super) least: f16,
    /// As they are stored: signed bytes, or 0 to 15.
    pub(super) numbers: [u8; BLOCK],
}

impl Block {
    pub(super) const ZERO: Self = Self { scale: f16::ZERO, least: f16::ZERO, numbers: [0; BLOCK] };

    /// The block of some bytes of a file, of which there are enough.
    pub(super) fn read(format: BlockFormat, bytes: &[u8]) -> Self {
        let half = |at: usize| f16::from_le_bytes([bytes[at], bytes[at + 1]]);
        let mut block = Self { scale: half(0), ..Self::ZERO };
        match format {
            BlockFormat::Q8_0 => block.numbers.copy_from_slice(&bytes[2..2 + BLOCK]),
            BlockFormat::Q4_0 => block.nibbles(&bytes[2..]),
            BlockFormat::Q4_1 => {
                block.least = half(2);
                block.nibbles(&bytes[4..]);
            }
        }
        block
    }

    /// Low halves of 16 bytes, then high halves.
    fn nibbles(&mut self, bytes: &[u8]) {
        let (low, high) = self.numbers.split_at_mut(BLOCK / 2);
        for ((low, high), byte) in low.iter_mut().zip(high).zip(bytes) {
            (*low, *high) = (byte & 15, byte >> 4);
        }
    }

    /// What a stored number stands for.
    pub(super) fn value(&self, format: BlockFormat, number: u8) -> f32 {
        let scale = self.scale.to_f32();
        match format {
            BlockFormat::Q8_0 => f32::from(number as i8) * scale,
            BlockFormat::Q4_0 => (f32::from(number) - 8.0) * scale,
            BlockFormat::Q4_1 => f32::from(number) * scale + self.least.to_f32(),
        }
    }
}
