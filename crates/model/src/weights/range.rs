//! The search for numbers that a format cannot hold.

use std::sync::atomic::{AtomicU32, Ordering};

use dropcap_kernels::{BlockFormat, DType, Team, TensorBytes};
use half::{bf16, f16};

/// Bytes that one task looks at.
const PIECE: usize = 1 << 18;

/// The first of the numbers that is NaN or infinite, or becomes infinite when it is rounded to `target`, and its index.
///
/// It compares magnitudes as integers, without converting anything, on all threads: one more reading of a slice that
/// was just read from the file and is about to be packed.
pub(crate) fn first_outside(team: &Team, source: TensorBytes<'_>, target: DType) -> Option<(usize, f32)> {
    let limit = limit(source.dtype, target);
    let outside = AtomicU32::new(0);
    team.run(source.bytes.len().div_ceil(PIECE), &|task| {
        let piece = source.bytes.chunks(PIECE).nth(task).unwrap_or_default();
        outside.fetch_max(largest_magnitude(source.dtype, piece), Ordering::Relaxed);
    });
    if outside.into_inner() < limit {
        return None;
    }
    let width = source.dtype.bytes();
    let at = source.bytes.chunks(width).position(|bytes| largest_magnitude(source.dtype, bytes) >= limit)?;
    let bytes = &source.bytes[at * width..];
    let value = match (source.dtype, bytes) {
        (DType::F32, &[a, b, c, d, ..]) => f32::from_le_bytes([a, b, c, d]),
        (DType::F16, &[a, b, ..]) => f16::from_le_bytes([a, b]).to_f32(),
        (DType::Bf16, &[a, b, ..]) => bf16::from_le_bytes([a, b]).to_f32(),
        _ => return None,
    };
    Some((at, value))
}

/// The first of the numbers that is not finite or becomes infinite when it is rounded to `target`.
pub(super) fn first_of(numbers: &[f32], target: DType) -> Option<(usize, f32)> {
    let limit = limit(DType::F32, target);
    let at = numbers.iter().position(|number| number.to_bits() & MAGNITUDE >= limit)?;
    Some((at, numbers[at]))
}

/// The first of some blocks whose scale or least value is no number, and what it is.
pub(super) fn first_bad_scale(format: BlockFormat, blocks: &[u8]) -> Option<(usize, f32)> {
    let halves = if format == BlockFormat::Q4_1 { 2 } else { 1 };
    let bad = |block: &[u8]| {
        let all = block.as_chunks::<2>().0.iter().take(halves);
        all.map(|&half| f16::from_le_bytes(half).to_f32()).find(|half| !half.is_finite())
    };
    blocks.chunks(format.block_bytes()).enumerate().find_map(|(at, block)| Some((at, bad(block)?)))
}

/// The bits of an f32 beside its sign.
const MAGNITUDE: u32 = 0x7fff_ffff;

/// The least magnitude, as bits of `source`, that `target` holds only as infinity or NaN.
fn limit(source: DType, target: DType) -> u32 {
    let limit = target.infinite_from();
    match source {
        DType::F32 => limit,
        // The upper half of an f32: the first that is not below.
        DType::Bf16 => limit.div_ceil(1 << 16),
        // Every format holds its finite numbers.
        DType::F16 => u32::from(f16::INFINITY.to_bits()),
    }
}

/// The largest number without its sign, as bits; the order of magnitudes is that of their bits.
fn largest_magnitude(dtype: DType, bytes: &[u8]) -> u32 {
    match dtype {
        DType::F32 => {
            let bits = bytes.as_chunks().0.iter().map(|&bytes| u32::from_le_bytes(bytes) & MAGNITUDE);
            bits.fold(0, u32::max)
        }
        DType::F16 | DType::Bf16 => {
            let bits = bytes.as_chunks().0.iter().map(|&bytes| u16::from_le_bytes(bytes) & 0x7fff);
            u32::from(bits.fold(0, u16::max))
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn narrowed(value: f32, target: DType) -> f32 {
        match target {
            DType::F32 => value,
            DType::F16 => f16::from_f32(value).to_f32(),
            DType::Bf16 => bf16::from_f32(value).to_f32(),
        }
    }

    /// A number of `dtype` as a file holds it, and its value.
    fn stored(dtype: DType, bits: u32) -> (Vec<u8>, f32) {
        match dtype {
            DType::F32 => (bits.to_le_bytes().to_vec(), f32::from_bits(bits)),
            DType::F16 => ((bits as u16).to_le_bytes().to_vec(), f16::from_bits(bits as u16).to_f32()),
            DType::Bf16 => ((bits as u16).to_le_bytes().to_vec(), bf16::from_bits(bits as u16).to_f32()),
        }
    }

    fn search(dtype: DType, bits: &[u32], target: DType) -> Option<(usize, f32)> {
        let bytes: Vec<u8> = bits.iter().flat_map(|&bits| stored(dtype, bits).0).collect();
        first_outside(&Team::new(2).unwrap(), TensorBytes { dtype, bytes: &bytes }, target)
    }

    proptest! {
        #[test]
        fn a_number_is_outside_iff_rounding_makes_it_infinite(bits: u32, near in 0u32..64) {
            // Random bits, and those around every limit.
            let limits = [0x7f7f_8000, 65520f32.to_bits(), 65504f32.to_bits(), f32::INFINITY.to_bits()];
            let halves = [0x7c00, 0x7bff, 0x7f80, 0x4780];
            let near = limits.into_iter().chain(halves).map(|limit| (limit + near).wrapping_sub(32));
            for bits in near.chain([bits]).flat_map(|bits| [bits, bits | 1 << 31, bits | 1 << 15]) {
                for source in DType::ALL {
                    for target in DType::ALL {
                        let value = stored(source, bits).1;
                        let outside = !narrowed(value, target).is_finite();
                        let found = search(source, &[0, bits], target);
                        prop_assert_eq!(found.is_some(), outside, "{} from {} to {}", value, source, target);
                        if let Some((at, found)) = found {
                            prop_assert_eq!((at, found.to_bits()), (1, value.to_bits()));
                        }
                        prop_assert_eq!(first_of(&[value], target).is_some(), outside);
                    }
                }
            }
        }
    }

    #[test]
    fn the_first_of_many_is_found() {
        let mut bits = vec![1.0f32.to_bits(); 300_000];
        assert_eq!(search(DType::F32, &bits, DType::F16), None);
        for at in [299_999, 131_072, 65_535] {
            bits[at] = (-1e6f32).to_bits();
            assert_eq!(search(DType::F32, &bits, DType::F16), Some((at, -1e6)));
            assert_eq!(search(DType::F32, &bits, DType::Bf16), None);
        }
    }
}
