//! Numbers as codes between the smallest and the largest of their group, after KIVI (Liu et al. 2024).
//!
//! A group of KIVI's keys is one channel of 32 tokens, because some channels are large in every token. Here a group is some
//! dimensions of one token, for keys as for values: entries of a lane come, die and move alone. A group of 32 of them would
//! have to be coded anew, with an error on top, whenever one of them goes, and a text would not have the same bits whichever way it is cut
//! into chunks. Keys of 8 bits make up for it: on a real model they and values of 4 bits diverge less than KIVI's 4 and 4 (LOG.md).

use half::f16;

use super::CodeBits;

/// Codes of a line: 32 entries of a key panel's row, or 32 dimensions of a value.
pub(crate) const LINE: usize = 32;

/// What the codes of a group count.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Steps {
    /// From one code to the next; 0 where all numbers are the same.
    pub(crate) step: f32,
    /// What code 0 stands for.
    pub(crate) least: f32,
}

impl Steps {
    /// The original's: code 0 is the smallest number, the largest code the largest.
    #[cfg(test)]
    pub(crate) fn of(numbers: &[f32], bits: CodeBits) -> Self {
        let (least, most) = bounds(numbers);
        Self { step: (most - least) / f32::from(bits.largest()), least }
    }

    /// The same with numbers that a page stores: both f16, rounded so that codes reach at least from the smallest number
    /// to the largest.
    pub(crate) fn stored(numbers: &[f32], bits: CodeBits) -> Self {
        let (least, most) = bounds(numbers);
        let least = below(least);
        Self { step: above((most - least) / f32::from(bits.largest())), least }
    }

    /// The code that is nearest to a number, ties to even; 0 for all of a constant group, where the original divides 0 by 0.
    #[inline]
    pub(crate) fn code(self, number: f32, bits: CodeBits) -> u8 {
        // What is outside goes to the nearest end, and NaN to 0.
        let code = ((number - self.least) / self.step).max(0.0).min(f32::from(bits.largest()));
        // From here on floats are 1 apart, so the sum rounds and its lowest byte is the code; a call of the C library would
        // do the same for one number at a time.
        const ONES: f32 = 12_582_912.0;
        (code + ONES).to_bits() as u8
    }

    /// What a code stands for. Code times step is exact (8 and 11 bits), so this rounds once, fused or not.
    pub(crate) fn number(self, code: u8) -> f32 {
        f32::from(code) * self.step + self.least
    }
}

/// The smallest and the largest number.
fn bounds(numbers: &[f32]) -> (f32, f32) {
    // Comparisons and not `min` and `max`, whose rules for NaN are several instructions; eight at a time, so that they are
    // vector comparisons.
    let smaller = |a: f32, b: f32| if b < a { b } else { a };
    let larger = |a: f32, b: f32| if b > a { b } else { a };
    let (eights, rest) = numbers.as_chunks::<8>();
    let (mut least, mut most) = ([f32::INFINITY; 8], [f32::NEG_INFINITY; 8]);
    for eight in eights {
        for ((least, most), &number) in least.iter_mut().zip(&mut most).zip(eight) {
            (*least, *most) = (smaller(*least, number), larger(*most, number));
        }
    }
    let least = least.iter().chain(rest).copied().fold(f32::INFINITY, smaller);
    (least, most.iter().chain(rest).copied().fold(f32::NEG_INFINITY, larger))
}

/// The largest f16 that is not above a number, widened.
fn below(number: f32) -> f32 {
    let near = f16::from_f32(number);
    if near.to_f32() > number { next(near, false).to_f32() } else { near.to_f32() }
}

/// The smallest f16 that is not below a number, widened.
fn above(number: f32) -> f32 {
    let near = f16::from_f32(number);
    if near.to_f32() < number { next(near, true).to_f32() } else { near.to_f32() }
}

/// The f16 next to a number that is not the last in that direction.
fn next(number: f16, up: bool) -> f16 {
    let bits = number.to_bits();
    match (bits & 0x7fff, (bits >> 15 == 0) == up) {
        (0, _) => f16::from_bits(if up { 0x0001 } else { 0x8001 }),
        (_, true) => f16::from_bits(bits + 1),
        (_, false) => f16::from_bits(bits - 1),
    }
}

/// Bytes of a line. Code i of eight bits is byte i. Of four bits it is the low half of byte i, or from code 16
/// on the high half of byte i - 16, so that as many neighbours as a vector has lanes come from as many neighbouring bytes.
pub(crate) const fn line_bytes(bits: CodeBits) -> usize {
    LINE * bits.bits() / 8
}

/// Code `place` of a line.
pub(crate) fn get(line: &[u8], place: usize, bits: CodeBits) -> u8 {
    match bits {
        CodeBits::Eight => line[place],
        CodeBits::Four => line[place % 16] >> (place / 16 * 4) & 15,
    }
}

/// Sets code `place` of a line.
pub(crate) fn set(line: &mut [u8], place: usize, code: u8, bits: CodeBits) {
    match bits {
        CodeBits::Eight => line[place] = code,
        CodeBits::Four => {
            let (byte, shift) = (&mut line[place % 16], place / 16 * 4);
            *byte = *byte & !(15 << shift) | code << shift;
        }
    }
}

#[cfg(test)]
mod tests;
