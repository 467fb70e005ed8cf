//! The values of parameters on a device: f32, and the copy that products read.

use std::ops::Range;

use dropcap_kernels::cuda::{DeviceBuffer, DeviceSlice};
use dropcap_kernels::matmul::TrainMatrix;
use dropcap_kernels::{DType, KernelError};

use super::kernels::Kernels;
use super::matrix::Matrix;
use super::place::{ALIGNMENT, Places};

/// Numbers that are rounded at once on their way to a place without values.
const STAGE: usize = 1 << 24;

/// Values in [`Places`].
#[derive(Debug)]
pub(super) struct Weights {
    values: DeviceBuffer<f32>,
    /// Places, in order, that only products read and nobody changes: they are in the copy alone. With each, how many numbers
    /// up to its end have no value.
    gaps: Vec<(Range<usize>, usize)>,
    /// In the format of products; the values themselves where that is f32.
    working: Option<DeviceBuffer<u8>>,
    dtype: DType,
}

impl Weights {
    /// Zeros; what `only_products` read is not kept in f32 beside its copy. Such a place begins at a tensor's.
    pub(super) fn new(
        kernels: &Kernels,
        places: &Places,
        mut only_products: Vec<Range<usize>>,
    ) -> Result<Self, KernelError> {
        let (mut gaps, mut missing) = (Vec::new(), 0);
        let working = match kernels.dtype {
            DType::F32 => None,
            dtype => {
                only_products.sort_by_key(|place| place.start);
                for place in only_products {
                    // What follows begins at an address of whole vectors without it, too.
                    let gap = place.start..place.end.next_multiple_of(ALIGNMENT);
                    missing += gap.len();
                    gaps.push((gap, missing));
                }
                let bytes = places.len() * dtype.bytes();
                Some(DeviceBuffer::zeroed(&kernels.device, "the working copy of the parameters", bytes)?)
            }
        };
        let values = DeviceBuffer::zeroed(&kernels.device, "the parameters", places.len() - missing)?;
        Ok(Self { values, gaps, working, dtype: kernels.dtype })
    }

    /// Takes the values of the layout from `first` on.
    pub(super) fn load(
        &self,
        kernels: &Kernels,
        places: &Places,
        first: usize,
        values: &[f32],
    ) -> Result<(), KernelError> {
        let mut stage = None;
        for (range, place) in places.tensors() {
            if range.start < first || range.end > first + values.len() {
                continue;
            }
            let (numbers, place) =
                (&values[range.start - first..range.end - first], *place..place + range.len());
            if let Some(at) = self.stored(&place) {
                self.values.write(at.start, numbers)?;
                if self.working.is_some() {
                    kernels.optimizer.split(self.of(&place)?, None, self.narrow(&place)?, None)?;
                }
                continue;
            }
            let stage = match &stage {
                Some(stage) => stage,
                None => &*stage.insert(kernels.wide("values on their way", STAGE)?),
            };
            for (index, piece) in numbers.chunks(STAGE).enumerate() {
                let start = place.start + index * STAGE;
                stage.write(0, piece)?;
                let piece = start..start + piece.len();
                let from = DeviceSlice::new(stage, 0..piece.len())?;
                kernels.optimizer.split(from, None, self.narrow(&piece)?, None)?;
            }
        }
        Ok(())
    }

    /// The values of a stretch of the layout that has them.
    pub(super) fn read(&self, places: &Places, stretch: Range<usize>) -> Result<Vec<f32>, KernelError> {
        let place = places.of(&stretch);
        let missing = place.start - self.stored(&place).unwrap_or(place).start;
        download(places, stretch, &self.values, missing)
    }

    /// Where the values of a place are; nowhere in a gap.
    fn stored(&self, place: &Range<usize>) -> Option<Range<usize>> {
        let before = self.gaps.partition_point(|(gap, _)| gap.end <= place.start);
        let missing = before.checked_sub(1).map_or(0, |last| self.gaps[last].1);
        let is_free = self.gaps.get(before).is_none_or(|(gap, _)| place.end <= gap.start);
        is_free.then(|| place.start - missing..place.end - missing)
    }

    /// The values of a place.
    pub(super) fn of(&self, place: &Range<usize>) -> Result<DeviceSlice<'_, f32>, KernelError> {
        match self.stored(place) {
            Some(stored) => DeviceSlice::new(&self.values, stored),
            None => Err(KernelError::Invalid {
                op: "the values of parameters",
                expected: "a place that has values".to_owned(),
                got: format!("{place:?}, which products alone read"),
            }),
        }
    }

    /// The copy of a place that products read.
    pub(super) fn narrow(&self, place: &Range<usize>) -> Result<DeviceSlice<'_, u8>, KernelError> {
        match &self.working {
            None => Ok(self.of(place)?.bytes()),
            Some(working) => {
                let width = self.dtype.bytes();
                DeviceSlice::new(working, place.start * width..place.end * width)
            }
        }
    }

    /// As [`Weights::narrow`], where it is not the values themselves.
    pub(super) fn working(&self, place: &Range<usize>) -> Result<Option<DeviceSlice<'_, u8>>, KernelError> {
        self.working.as_ref().map(|_| self.narrow(place)).transpose()
    }

    /// A matrix `[inputs, outputs]`, however it is stored.
    pub(super) fn matrix(&self, matrix: &Matrix) -> Result<TrainMatrix<'_>, KernelError> {
        matrix.view(self.narrow(&matrix.weight)?, self.dtype)
    }
}

/// Copies the layout's numbers from `first` on to their places, which begin at the place `origin` of the buffer; waits.
pub(super) fn upload(
    places: &Places,
    first: usize,
    numbers: &[f32],
    to: &DeviceBuffer<f32>,
    origin: usize,
) -> Result<(), KernelError> {
    let all = first..first + numbers.len();
    for (range, place) in places.tensors() {
        if all.start <= range.start && range.end <= all.end {
            to.write(place - origin, &numbers[range.start - first..range.end - first])?;
        }
    }
    Ok(())
}

/// The opposite of [`upload`]: the numbers of a stretch of the layout.
pub(super) fn download(
    places: &Places,
    stretch: Range<usize>,
    from: &DeviceBuffer<f32>,
    origin: usize,
) -> Result<Vec<f32>, KernelError> {
    let mut numbers = vec![0.0; stretch.len()];
    for (range, place) in places.tensors() {
        if stretch.start <= range.start && range.end <= stretch.end {
            let own = range.start - stretch.start..range.end - stretch.start;
            numbers[own].copy_from_slice(&from.read_range(place - origin, range.len())?);
        }
    }
    Ok(numbers)
}
