//! The gradients of what trains, and the optimiser's moments.

use std::ops::Range;

use dropcap_kernels::KernelError;
use dropcap_kernels::cuda::{DeviceBuffer, DeviceSlice};

use super::kernels::Kernels;
use super::place::Places;

/// Gradients and moments of the parameters that train, which are the last ones: those before them have none.
#[derive(Debug)]
pub(super) struct Gradients {
    /// The first element that trains.
    first: usize,
    /// Places inside that have a gradient which is not followed.
    still: Vec<Range<usize>>,
    pub(super) numbers: DeviceBuffer<f32>,
    pub(super) moments: [DeviceBuffer<f32>; 2],
    /// Where gradients go that nobody follows: of vectors that kernels insist on.
    waste: DeviceBuffer<f32>,
}

impl Gradients {
    /// Zeros for the elements from `first` on; no vector is longer than `widest`.
    pub(super) fn new(
        kernels: &Kernels,
        places: &Places,
        first: usize,
        still: Vec<Range<usize>>,
        widest: usize,
    ) -> Result<Self, KernelError> {
        let zeros = |what, len| DeviceBuffer::zeroed(&kernels.device, what, len);
        let len = places.len() - first.min(places.len());
        Ok(Self {
            first,
            still,
            numbers: zeros("the gradients", len)?,
            moments: [zeros("the first moments", len)?, zeros("the second moments", len)?],
            waste: zeros("gradients that nobody follows", widest)?,
        })
    }

    pub(super) fn clear(&self) -> Result<(), KernelError> {
        Ok(self.numbers.fill_bytes(0)?)
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
        let is_still = self.still.iter().any(|still| still.start <= place.start && place.end <= still.end);
        if place.start < self.first || is_still {
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
