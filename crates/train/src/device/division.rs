//! How a step's update is divided among the devices of a world.
//!
//! Each matrix is cut into equal pieces, one for each process, which alone sums the piece's gradients, moves it and gives
//! what is read of it back to the others: stage 1 of ZeRO (Rajbhandari et al., 2020, arXiv 1910.02054). Half of what a sum
//! sends is a copy of sums that all processes would only move alike; here that half is the copy for products, of 16 bits
//! (of the embedding's table its values too, which are looked up). Everything else (vectors, gates) is summed and moved by all.

use std::ops::Range;

use dropcap_kernels::KernelError;
use dropcap_kernels::cuda::Exchange;

use super::gradients::Gradients;
use super::weights::Weights;
use crate::collective::World;

/// Pieces begin at multiples of so many numbers: at whole vectors in every format.
const ALIGNMENT: usize = super::place::ALIGNMENT;

/// What a process does with gradients.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Share {
    /// It moves parameters by them.
    Moved,
    /// Their squares count here, of all but what the last exchange of a step brings.
    Counted,
    /// And of that.
    CountedLate,
}

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
    world: World,
}

impl Division {
    /// Of the places `trained`, in which matrices lie.
    pub(super) fn new(trained: &Range<usize>, matrices: Vec<Divisible>, world: World) -> Self {
        Self { matrices: divisible(matrices, trained, world.size), world }
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

    /// This process's share of a place, in stretches that count from its beginning.
    pub(super) fn own(&self, place: &Range<usize>, share: Share) -> Vec<Range<usize>> {
        let World { rank, size } = self.world;
        let is_beside_own = share == Share::Moved || self.world.is_first();
        let (mut own, mut from) = (Vec::<Range<usize>>::new(), place.start);
        let mut add = |stretch: Range<usize>| {
            let stretch = stretch.start.max(place.start)..stretch.end.min(place.end);
            match own.last_mut() {
                _ if stretch.is_empty() => {}
                Some(last) if last.end == stretch.start - place.start => last.end = stretch.end - place.start,
                _ => own.push(stretch.start - place.start..stretch.end - place.start),
            }
        };
        for Divisible { place: matrix, .. } in &self.matrices {
            if is_beside_own {
                add(from..matrix.start);
            }
            let piece = matrix.len() / size;
            add(matrix.start + rank * piece..matrix.start + (rank + 1) * piece);
            from = from.max(matrix.end);
        }
        if is_beside_own {
            add(from..place.end);
        }
        own
    }
}

/// What of these ranges lies in no hole; both are in order and apart.
pub(super) fn without(ranges: &[Range<usize>], holes: &[Range<usize>]) -> Vec<Range<usize>> {
    let mut left = Vec::new();
    for range in ranges {
        let mut from = range.start;
        for hole in holes.iter().filter(|hole| hole.end > range.start && hole.start < range.end) {
            left.push(from..hole.start.max(from));
            from = hole.end;
        }
        left.push(from..range.end.max(from));
    }
    left.retain(|part| !part.is_empty());
    left
}

/// Which matrices train and fall into pieces of whole vectors.
fn divisible(mut matrices: Vec<Divisible>, trained: &Range<usize>, size: usize) -> Vec<Divisible> {
    matrices.retain(|Divisible { place, .. }| {
        trained.start <= place.start
            && place.end <= trained.end
            && (place.start - trained.start).is_multiple_of(ALIGNMENT)
            && place.len().is_multiple_of(size * ALIGNMENT)
    });
    matrices.sort_by_key(|matrix| matrix.place.start);
    matrices
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_lies_in_no_hole_is_left() {
        let whole = std::slice::from_ref(&(0..10));
        assert_eq!(without(whole, &[0..2, 3..7, 7..10]), [2..3]);
        assert_eq!(without(whole, &[]), [0..10]);
        assert_eq!(without(&[0..5, 6..10], &[4..7, 9..12]), [0..4, 7..9]);
        assert_eq!(without(&[2..4, 8..9], &[0..1, 4..8]), [2..4, 8..9]);
        assert!(without(&[], whole).is_empty() && without(whole, whole).is_empty());
    }

    proptest! {
        #[test]
        fn every_gradient_counts_once_and_is_moved_by_its_owner_or_by_all(
            size in 1_usize..5,
            tensors in prop::collection::vec((1_usize..900, any::<bool>()), 1..20),
            held in 0_usize..3, parts in 1_usize..4,
        ) {
            let (mut end, mut matrices) = (0_usize, Vec::new());
            let mut starts = Vec::new();
            for (length, is_matrix) in tensors {
                let start = end.next_multiple_of(ALIGNMENT);
                let length = if length % 3 == 0 { length } else { length * 64 };
                end = start + length;
                starts.push(start);
                if is_matrix {
                    matrices.push(Divisible { place: start..end, by_products: true, by_lookup: false });
                }
            }
            let trained = starts[held.min(starts.len() - 1)]..end;
            let all: Vec<_> = (0..size).map(|rank| Division::new(&trained, matrices.clone(), World { rank, size })).collect();
            let cut = &all[0].matrices;
            prop_assert!(cut.iter().all(|matrix| matrices.contains(matrix) && matrix.place.start >= trained.start));
            // Places are asked for in parts that cut no tensor.
            let borders: Vec<usize> = (0..=parts).map(|part| match part * starts.len() / parts {
                _ if part == parts => end,
                at => starts[at].max(trained.start),
            }).collect();
            let mut times = [vec![0; end], vec![0; end]];
            for (rank, division) in all.iter().enumerate() {
                for place in borders.windows(2).map(|pair| pair[0]..pair[1]) {
                    for (share, times) in [Share::Moved, Share::Counted].into_iter().zip(&mut times) {
                        let own = division.own(&place, share);
                        prop_assert!(own.windows(2).all(|pair| pair[0].end < pair[1].start), "apart and in order");
                        prop_assert!(own.iter().all(|stretch| (place.start + stretch.start).is_multiple_of(ALIGNMENT)
                            || stretch.start == 0));
                        for at in own.into_iter().flatten() {
                            times[place.start + at] += 1;
                            if let Some(matrix) = cut.iter().find(|matrix| matrix.place.contains(&(place.start + at))) {
                                // Where the library puts the sums of a piece.
                                let at = place.start + at - matrix.place.start;
                                prop_assert_eq!(at / (matrix.place.len() / size), rank);
                            }
                        }
                    }
                }
            }
            let [moved, counted] = &times;
            for (at, (&moved, &counted)) in moved.iter().zip(counted).enumerate().skip(borders[0]) {
                let is_cut = cut.iter().any(|matrix| matrix.place.contains(&at));
                prop_assert_eq!(moved, if is_cut { 1 } else { size });
                prop_assert_eq!(counted, 1);
            }
        }
    }
}
