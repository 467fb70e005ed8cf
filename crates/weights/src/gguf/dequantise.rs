//! Blocks of ggml's formats to f32, each number by the operations of ggml's own definition, so that the bits agree.

use half::{bf16, f16};

use super::BlockType;

/// Numbers of a block that share scales in the K formats.
const SUPER: usize = 256;

impl BlockType {
    /// Appends every number of `bytes`, which are whole blocks; what is left over of a block gives nothing.
    pub fn dequantise(self, bytes: &[u8], out: &mut Vec<f32>) {
        out.reserve(bytes.len() / self.block_bytes() * self.block());
        match self {
            Self::F32 => each(bytes, out, |b, out| out.push(f32::from_le_bytes(*b))),
            Self::F16 => each(bytes, out, |b, out| out.push(f16::from_le_bytes(*b).to_f32())),
            Self::Bf16 => each(bytes, out, |b, out| out.push(bf16::from_le_bytes(*b).to_f32())),
            Self::Q4_0 => each::<18>(bytes, out, |block, out| {
                let (scale, nibbles) = (half(block, 0), &block[2..]);
                out.extend(halves(nibbles).map(|q| (f32::from(q) - 8.0) * scale));
            }),
            Self::Q4_1 => each::<20>(bytes, out, |block, out| {
                let (scale, least, nibbles) = (half(block, 0), half(block, 2), &block[4..]);
                out.extend(halves(nibbles).map(|q| f32::from(q) * scale + least));
            }),
            Self::Q5_0 => each::<22>(bytes, out, |block, out| {
                let (scale, fifth, nibbles) = (half(block, 0), word(block, 2), &block[6..]);
                out.extend(with_fifth(nibbles, fifth).map(|q| (f32::from(q) - 16.0) * scale));
            }),
            Self::Q5_1 => each::<24>(bytes, out, |block, out| {
                let (scale, least) = (half(block, 0), half(block, 2));
                let (fifth, nibbles) = (word(block, 4), &block[8..]);
                out.extend(with_fifth(nibbles, fifth).map(|q| f32::from(q) * scale + least));
            }),
            Self::Q8_0 => each::<34>(bytes, out, |block, out| {
                let scale = half(block, 0);
                out.extend(block[2..].iter().map(|&q| f32::from(q as i8) * scale));
            }),
            Self::Q4K => each::<144>(bytes, out, q4_k),
            Self::Q5K => each::<176>(bytes, out, q5_k),
            Self::Q6K => each::<210>(bytes, out, q6_k),
        }
    }
}

fn each<const N: usize>(bytes: &[u8], out: &mut Vec<f32>, block: impl Fn(&[u8; N], &mut Vec<f32>)) {
    bytes.as_chunks::<N>().0.iter().for_each(|bytes| block(bytes, out));
}

fn half(block: &[u8], at: usize) -> f32 {
    f16::from_le_bytes([block[at], block[at + 1]]).to_f32()
}

fn word(block: &[u8], at: usize) -> u32 {
    u32::from_le_bytes([block[at], block[at + 1], block[at + 2], block[at + 3]])
}

/// All low nibbles, then all high ones.
fn halves(bytes: &[u8]) -> impl Iterator<Item = u8> {
    bytes.iter().map(|byte| byte & 15).chain(bytes.iter().map(|byte| byte >> 4))
}

/// The same with a fifth bit each.
fn with_fifth(bytes: &[u8], fifth: u32) -> impl Iterator<Item = u8> {
    halves(bytes).enumerate().map(move |(at, low)| low | ((fifth >> at & 1) as u8) << 4)
}

/// Scale and least value, 6 bits each, of the `at`th 32 numbers of a block: the low bits of the first four lie in whole
/// bytes, whose two upper bits are those of the last four.
fn six_bits(packed: &[u8], at: usize) -> (f32, f32) {
    let (scale, least) = if at < 4 {
        (packed[at] & 63, packed[at + 4] & 63)
    } else {
        let low = packed[at + 4];
        (low & 15 | packed[at - 4] >> 6 << 4, low >> 4 | packed[at] >> 6 << 4)
    };
    (f32::from(scale), f32::from(least))
}

fn q4_k(block: &[u8; 144], out: &mut Vec<f32>) {
    let (scale, least, packed, nibbles) = (half(block, 0), half(block, 2), &block[4..16], &block[16..]);
    for (pair, bytes) in nibbles.chunks_exact(32).enumerate() {
        for (part, shift) in [(2 * pair, 0), (2 * pair + 1, 4)] {
            let (by, minus) = six_bits(packed, part);
            let (by, minus) = (scale * by, least * minus);
            out.extend(bytes.iter().map(|byte| by * f32::from(byte >> shift & 15) - minus));
        }
    }
}

fn q5_k(block: &[u8; 176], out: &mut Vec<f32>) {
    let (scale, least, packed) = (half(block, 0), half(block, 2), &block[4..16]);
    let (fifth, nibbles) = (&block[16..48], &block[48..]);
    for (pair, bytes) in nibbles.chunks_exact(32).enumerate() {
        for (part, shift) in [(2 * pair, 0), (2 * pair + 1, 4)] {
            let (by, minus) = six_bits(packed, part);
            let (by, minus) = (scale * by, least * minus);
            let numbers =
                bytes.iter().zip(fifth).map(|(low, high)| low >> shift & 15 | (high >> part & 1) << 4);
            out.extend(numbers.map(|q| by * f32::from(q) - minus));
        }
    }
}

fn q6_k(block: &[u8; 210], out: &mut Vec<f32>) {
    let (low, high, scales) = (&block[..128], &block[128..192], &block[192..208]);
    let scale = half(block, 208);
    for at in 0..SUPER {
        // Each half of the block has four quarters: two in low nibbles, two in high ones, 2 bits each in `high`.
        let (half, quarter, lane) = (at / 128, at / 32 % 4, at % 32);
        let nibble = low[64 * half + 32 * (quarter % 2) + lane] >> (4 * (quarter / 2)) & 15;
        let q = nibble | (high[32 * half + lane] >> (2 * quarter) & 3) << 4;
        let by = scale * f32::from(scales[at / 16] as i8);
        out.push(by * (f32::from(q) - 32.0));
    }
}
