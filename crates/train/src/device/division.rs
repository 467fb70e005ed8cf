//! How a step's update is divided among the devices of a world.
//!
//! Each matrix is cut into equal pieces, one for each process, which alone sums the piece's gradients, moves it and gives
//! what is read of it back to the others: stage 1 of ZeRO (Rajbhandari et al., 2020, arXiv 1910.02054). Half of what a sum
//! sends is a copy of sums that all processes would only move alike; here that half is the copy for products, of 16 bits
//! (of the embedding's table its values too, which are looked up). Everything else (vectors, gates) is summed and moved by all.

use std::ops::Range;

use dropcap_kernels::KernelError;
use dropcap_kernels::cuda::{Device, DeviceBuffer, DeviceSlice, Exchange, Marks};

use super::gradients::Gradients;
use super::weights::Weights;
use crate::TrainError;
use crate::collective::World;

/// This process moves the stretch.
const MOVED: u8 = 1;
/// This process's squares of the stretch's gradients count.
const COUNTED: u8 = 2;

/// A matrix, and who reads it in a pass.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Divisible {
    pub(super) place: Range<usize>,
    /// Products read its copy.
    pub(super) by_products: bool,
    /// Its values are looked up.
    pub(super) by_lookup: bool,
}

/// What of the gradients is whose.
#[derive(Debug)]
pub(super) struct Division {
    /// What is cut into equal pieces, in order.
    matrices: Vec<Divisible>,
    /// The first place that trains, where the marks begin.
    first: usize,
    marks: DeviceBuffer<u8>,
}

impl Division {
    /// Of the places `trained`, in which matrices lie.
    pub(super) fn new(
        device: &Device,
        trained: Range<usize>,
        matrices: Vec<Divisible>,
        world: World,
    ) -> Result<Self, KernelError> {
        let matrices = divisible(matrices, &trained, world.size);
        let marks = marks(&trained, &matrices, world);
        let marks = DeviceBuffer::copy_of(device, "whose gradients are whose", &marks)?;
        Ok(Self { matrices, first: trained.start, marks })
    }

    /// The matrices of a bucket, in none of which it begins or ends, and what lies beside them.
    pub(super) fn parts(&self, bucket: &Range<usize>) -> (Vec<Range<usize>>, Vec<Range<usize>>) {
        let matrices: Vec<_> = self.inside(bucket).map(|matrix| matrix.place.clone()).collect();
        let starts = std::iter::once(bucket.start).chain(matrices.iter().map(|matrix| matrix.end));
        let ends = matrices.iter().map(|matrix| matrix.start).chain(std::iter::once(bucket.end));
        let beside =
            starts.zip(ends).map(|(start, end)| start..end).filter(|part| !part.is_empty()).collect();
        (matrices, beside)
    }

    fn inside(&self, places: &Range<usize>) -> impl Iterator<Item = &Divisible> {
        self.matrices.iter().filter(|matrix| places.contains(&matrix.place.start))
    }

    /// Brings what passes read of the moved matrices among `places` to everybody.
    pub(super) fn moved<'a>(
        &self,
        places: &Range<usize>,
        weights: &'a Weights,
    ) -> Result<Vec<Exchange<'a>>, KernelError> {
        let mut all = Vec::new();
        for Divisible { place, by_products, by_lookup } in self.inside(places) {
            let copy = weights.working(place)?;
            // Without a copy, products read the values.
            if *by_lookup || copy.is_none() {
                all.push(Exchange::Gather(weights.of(place)?.bytes()));
            }
            all.extend(copy.filter(|_| *by_products).map(Exchange::Gather));
        }
        Ok(all)
    }

    /// Brings everything else of them to everybody, too: values and moments.
    pub(super) fn whole<'a>(
        &self,
        weights: &'a Weights,
        gradients: &'a Gradients,
    ) -> Result<Vec<Exchange<'a>>, KernelError> {
        let mut all = Vec::new();
        for Divisible { place, .. } in &self.matrices {
            let [_, first, second] = gradients.all(place)?;
            all.extend([weights.of(place)?, first, second].map(|numbers| Exchange::Gather(numbers.bytes())));
        }
        Ok(all)
    }

    /// What of a place this process moves.
    pub(super) fn of_moves(&self, place: &Range<usize>) -> Result<Marks<'_>, TrainError> {
        self.of(place, MOVED)
    }

    /// Of which of a place's gradients this process counts the squares.
    pub(super) fn of_squares(&self, place: &Range<usize>) -> Result<Marks<'_>, TrainError> {
        self.of(place, COUNTED)
    }

    fn of(&self, place: &Range<usize>, bits: u8) -> Result<Marks<'_>, TrainError> {
        let start = place.start.max(self.first) - self.first;
        if !start.is_multiple_of(Marks::STRETCH) {
            let what = format!("gradients from {start} on begin inside a stretch of {}", Marks::STRETCH);
            return Err(TrainError::Internal { what });
        }
        let stretches = start / Marks::STRETCH..(start + place.len()).div_ceil(Marks::STRETCH);
        let bytes = DeviceSlice::new(&self.marks, stretches)?;
        Ok(Marks { bytes, bits })
    }
}

/// Which matrices train and fall into pieces of whole stretches.
fn divisible(mut matrices: Vec<Divisible>, trained: &Range<usize>, size: usize) -> Vec<Divisible> {
    matrices.retain(|Divisible { place, .. }| {
        let whole = |number: usize| number.is_multiple_of(Marks::STRETCH);
        trained.start <= place.start
            && place.end <= trained.end
            && whole(place.start - trained.start)
            && place.len().is_multiple_of(size * Marks::STRETCH)
    });
    matrices.sort_by_key(|matrix| matrix.place.start);
    matrices
}

/// What this process does with each stretch.
fn marks(trained: &Range<usize>, matrices: &[Divisible], world: World) -> Vec<u8> {
    let everybody = if world.is_first() { MOVED | COUNTED } else { MOVED };
    let mut marks = vec![everybody; trained.len().div_ceil(Marks::STRETCH)];
    for Divisible { place: matrix, .. } in matrices {
        let stretches = |place: Range<usize>| {
            (place.start - trained.start) / Marks::STRETCH..(place.end - trained.start) / Marks::STRETCH
        };
        let piece = matrix.len() / world.size;
        let own = matrix.start + world.rank * piece;
        marks[stretches(matrix.clone())].fill(0);
        marks[stretches(own..own + piece)].fill(MOVED | COUNTED);
    }
    marks
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn every_gradient_counts_once_and_is_moved_by_its_owner_or_by_all(
            size in 1_usize..5,
            tensors in prop::collection::vec((1_usize..900, any::<bool>()), 1..20),
            held in 0_usize..3,
        ) {
            let (mut end, mut matrices) = (0_usize, Vec::new());
            let mut starts = Vec::new();
            for (length, is_matrix) in tensors {
                let start = end.next_multiple_of(Marks::STRETCH);
                let length = if length % 3 == 0 { length } else { length * 64 };
                end = start + length;
                starts.push(start);
                if is_matrix {
                    matrices.push(Divisible { place: start..end, by_products: true, by_lookup: false });
                }
            }
            let trained = starts[held.min(starts.len() - 1)]..end;
            let cut = divisible(matrices.clone(), &trained, size);
            prop_assert!(cut.iter().all(|matrix| matrices.contains(matrix) && matrix.place.start >= trained.start));
            let all: Vec<Vec<u8>> =
                (0..size).map(|rank| marks(&trained, &cut, World { rank, size })).collect();
            for stretch in 0..trained.len().div_ceil(Marks::STRETCH) {
                let at = trained.start + stretch * Marks::STRETCH;
                let of = |bit: u8| all.iter().filter(|marks| marks[stretch] & bit != 0).count();
                let is_cut = cut.iter().any(|matrix| matrix.place.contains(&at));
                prop_assert_eq!(of(COUNTED), 1);
                prop_assert_eq!(of(MOVED), if is_cut { 1 } else { size });
                if let Some(Divisible { place, .. }) = cut.iter().find(|matrix| matrix.place.contains(&at)) {
                    // Where the library puts the sums of a piece.
                    let owner = (at - place.start) / (place.len() / size);
                    prop_assert!(all[owner][stretch] & MOVED != 0);
                }
            }
        }
    }
}
