//! Which of many numbers a kernel looks at.

use std::ops::Range;

use super::{Device, DeviceBuffer};
use crate::KernelError;
use crate::error::check_at_least;

/// Stretches of an array on the device, each short enough for one block of a kernel; what lies between them is neither read
/// nor written.
#[derive(Debug)]
pub struct Stretches {
    /// Where each begins and ends.
    bounds: DeviceBuffer<[u64; 2]>,
    /// Behind the last number of all.
    end: usize,
    /// Whether all begin at multiples of four numbers.
    are_aligned: bool,
}

impl Stretches {
    /// The most numbers of one: four for each of 256 threads, four times.
    pub(crate) const LONGEST: usize = 4096;

    /// These `ranges`, which do not overlap, in any order.
    ///
    /// # Errors
    /// A failed device.
    pub fn new(device: &Device, ranges: &[Range<usize>]) -> Result<Self, KernelError> {
        let bounds = cut(ranges);
        Ok(Self {
            end: ranges.iter().map(|range| range.end).max().unwrap_or_default(),
            are_aligned: bounds.iter().all(|[start, _]| start.is_multiple_of(4)),
            bounds: DeviceBuffer::copy_of(device, "which numbers are looked at", &bounds)?,
        })
    }

    /// Address and number for a kernel that looks at them among `count` numbers.
    pub(crate) fn for_kernel(&self, op: &'static str, count: usize) -> Result<(u64, usize), KernelError> {
        check_at_least(op, "the numbers", self.end, count)?;
        Ok((self.bounds.pointer(), self.bounds.len()))
    }

    /// [`Stretches::for_kernel`] for one that takes four numbers at a time.
    pub(crate) fn for_fours(&self, op: &'static str, count: usize) -> Result<(u64, usize), KernelError> {
        if self.are_aligned {
            return self.for_kernel(op, count);
        }
        Err(KernelError::Invalid {
            op,
            expected: "stretches that begin at multiples of four numbers".to_owned(),
            got: "one that does not".to_owned(),
        })
    }
}

/// The same numbers in pieces of [`Stretches::LONGEST`] and what is left of each range.
fn cut(ranges: &[Range<usize>]) -> Vec<[u64; 2]> {
    let pieces = ranges.iter().flat_map(|range| {
        let end = range.end;
        let starts = range.clone().step_by(Stretches::LONGEST);
        starts.map(move |start| [start, end.min(start + Stretches::LONGEST)])
    });
    pieces.map(|piece| piece.map(|bound| bound as u64)).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn pieces_are_the_ranges_and_none_is_too_long(
            lengths in prop::collection::vec((0_usize..3, 0_usize..20_000), 0..9),
        ) {
            let mut end = 0;
            let ranges: Vec<_> = lengths.into_iter().map(|(gap, length)| {
                let start = end + gap;
                end = start + length;
                start..end
            }).collect();
            let pieces = cut(&ranges);
            prop_assert!(pieces.iter().all(|[start, end]| start < end && end - start <= Stretches::LONGEST as u64));
            let in_pieces: Vec<u64> = pieces.iter().flat_map(|&[start, end]| start..end).collect();
            let in_ranges: Vec<u64> = ranges.into_iter().flatten().map(|at| at as u64).collect();
            prop_assert_eq!(in_pieces, in_ranges);
        }
    }
}
