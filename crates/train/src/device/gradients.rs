//! The gradients of what trains, and the optimiser's moments.

use std::ops::Range;
use std::slice::from_ref;

use dropcap_kernels::KernelError;
use dropcap_kernels::cuda::{DeviceBuffer, DeviceSlice, Stretches};
use dropcap_kernels::matmul::Sum;

use super::division::without;
use super::kernels::Kernels;
use super::place::Places;

/// Gradients and moments of the parameters that train, which are the last ones: those before them have none.
#[derive(Debug)]
pub(super) struct Gradients {
    /// The first element that trains.
    first: usize,
    /// Places inside that have a gradient which is not followed.
    still: Vec<Range<usize>>,
    /// What the products of a step's first pass do not store.
    added: Stretches,
    /// Whether the pass is a step's first.
    is_first: bool,
    pub(super) numbers: DeviceBuffer<f32>,
    pub(super) moments: [DeviceBuffer<f32>; 2],
    /// Where gradients go that nobody follows: of vectors that kernels insist on.
    waste: DeviceBuffer<f32>,
}

impl Gradients {
    /// Zeros for the elements from `first` on; no vector is longer than `widest`. Products alone have gradients at `matrices`,
    /// or come first there.
    pub(super) fn new(
        kernels: &Kernels,
        places: &Places,
        first: usize,
        still: Vec<Range<usize>>,
        matrices: Vec<Range<usize>>,
        widest: usize,
    ) -> Result<Self, KernelError> {
        let zeros = |what, len| DeviceBuffer::zeroed(&kernels.device, what, len);
        let len = places.len() - first.min(places.len());
        let stored = matrices.into_iter().filter(|place| place.start >= first && !is_still(&still, place));
        let mut stored: Vec<_> = stored.map(|place| place.start - first..place.end - first).collect();
        stored.sort_by_key(|place| place.start);
        Ok(Self {
            first,
            added: Stretches::new(&kernels.device, &without(from_ref(&(0..len)), &stored))?,
            is_first: true,
            still,
            numbers: zeros("the gradients", len)?,
            moments: [zeros("the first moments", len)?, zeros("the second moments", len)?],
            waste: zeros("gradients that nobody follows", widest)?,
        })
    }

    /// Begins a pass. A step's first one forgets the gradients of the step before: matrices, nearly all of them, are not set to
    /// zero and added to, but stored.
    pub(super) fn begin(&mut self, kernels: &Kernels, is_first: bool) -> Result<(), KernelError> {
        self.is_first = is_first;
        if is_first { kernels.optimizer.clear(&self.numbers, &self.added) } else { Ok(()) }
    }

    /// What becomes of the gradient of a matrix where this pass makes it first.
    pub(super) fn sum(&self) -> Sum<'static> {
        if self.is_first { Sum::Store } else { Sum::Add }
    }

    /// The first element that trains.
    pub(super) fn first(&self) -> usize {
        self.first
    }

    /// Behind the last element.
    pub(super) fn end(&self) -> usize {
        self.first + self.numbers.len()
    }

    /// The gradient of a place; none where it does not train.
    pub(super) fn of(&self, place: &Range<usize>) -> Result<Option<DeviceSlice<'_, f32>>, KernelError> {
        if place.start < self.first || is_still(&self.still, place) {
            return Ok(None);
        }
        Ok(Some(self.part(&self.numbers, place)?))
    }

    /// The gradient of a short place, or room for one that nobody reads.
    pub(super) fn vector(&self, place: &Range<usize>) -> Result<DeviceSlice<'_, f32>, KernelError> {
        match self.of(place)? {
            Some(gradient) => Ok(gradient),
            None => DeviceSlice::new(&self.waste, 0..place.len()),
        }
    }

    /// Gradients and both moments of a place that trains; of what of it trains, where only its end does.
    pub(super) fn all(&self, place: &Range<usize>) -> Result<[DeviceSlice<'_, f32>; 3], KernelError> {
        let [first, second] = &self.moments;
        Ok([self.part(&self.numbers, place)?, self.part(first, place)?, self.part(second, place)?])
    }

    /// What of a place trains.
    pub(super) fn trained(&self, place: Range<usize>) -> Range<usize> {
        let end = place.end.max(self.first);
        place.start.max(self.first)..end
    }

    fn part<'a>(
        &self,
        numbers: &'a DeviceBuffer<f32>,
        place: &Range<usize>,
    ) -> Result<DeviceSlice<'a, f32>, KernelError> {
        DeviceSlice::new(numbers, place.start - self.first..place.end - self.first)
    }
}

/// Whether a place lies where gradients are not followed.
fn is_still(still: &[Range<usize>], place: &Range<usize>) -> bool {
    still.iter().any(|still| still.start <= place.start && place.end <= still.end)
}
