//! The values of parameters on a device: f32, and the copy that products read.

use std::ops::Range;

use dropcap_kernels::cuda::{DeviceBuffer, DeviceSlice};
use dropcap_kernels::matmul::TrainMatrix;
use dropcap_kernels::{DType, KernelError};

use super::gaps::Gaps;
use super::kernels::Kernels;
use super::matrix::Matrix;
use super::place::Places;

/// Numbers that are rounded at once on their way to a place without values.
const STAGE: usize = 1 << 24;

/// The library is much slower where it does not count columns of logits by eights, so the head is read with more rows than it has,
/// up to a multiple of this. What comes of them nobody looks at.
pub(super) const HEAD_ROWS: usize = 64;

/// Values in [`Places`].
#[derive(Debug)]
pub(super) struct Weights {
    values: DeviceBuffer<f32>,
    /// Places that are in the copy alone.
    gaps: Gaps,
    /// In the format of products; the values themselves where that is f32.
    working: Option<DeviceBuffer<u8>>,
    dtype: DType,
}

impl Weights {
    /// Zeros. The places `only_products` read and nobody changes are not kept in f32 beside their copy. Behind the copy there is room
    /// for [`HEAD_ROWS`] rows of `width` numbers.
    pub(super) fn new(
        kernels: &Kernels,
        places: &Places,
        only_products: Vec<Range<usize>>,
        width: usize,
    ) -> Result<Self, KernelError> {
        let (device, dtype) = (&kernels.device, kernels.dtype);
        let (gaps, working) = match dtype {
            DType::F32 => (Gaps::default(), None),
            _ => {
                let bytes = (places.len() + HEAD_ROWS * width) * dtype.bytes();
                let working = DeviceBuffer::zeroed(device, "the working copy of the parameters", bytes)?;
                (Gaps::of(only_products), Some(working))
            }
        };
        let values = DeviceBuffer::zeroed(device, "the parameters", places.len() - gaps.len())?;
        Ok(Self { values, gaps, working, dtype })
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
            if let Some(at) = self.gaps.stored(&place) {
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
        let missing = place.start - self.gaps.stored(&place).unwrap_or(place).start;
        download(places, stretch, &self.values, missing)
    }

    /// The values of a place.
    pub(super) fn of(&self, place: &Range<usize>) -> Result<DeviceSlice<'_, f32>, KernelError> {
        match self.gaps.stored(place) {
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

    /// All memory that is written when parameters move.
    pub(super) fn memory(&self) -> Vec<DeviceSlice<'_, u8>> {
        let values = DeviceSlice::from(&self.values).bytes();
        std::iter::once(values).chain(self.working.as_ref().map(DeviceSlice::from)).collect()
    }

    /// Columns of [`Weights::head`].
    pub(super) fn head_columns(&self, head: &Matrix) -> usize {
        match self.working {
            Some(_) if !head.outputs.is_multiple_of(8) => head.outputs.next_multiple_of(HEAD_ROWS),
            _ => head.outputs,
        }
    }

    /// The head, a table of rows, as products read it, `[inputs, columns]`: behind its own columns whatever lies behind the table.
    pub(super) fn head(&self, head: &Matrix) -> Result<TrainMatrix<'_>, KernelError> {
        let (columns, start) = (self.head_columns(head), head.weight.start);
        match &self.working {
            Some(working) if columns > head.outputs => {
                let bytes = start * self.dtype.bytes()..working.len();
                let rows = DeviceSlice::new(working, bytes)?;
                Ok(TrainMatrix::new(rows, self.dtype, columns, head.inputs, head.inputs)?.turned())
            }
            _ => self.matrix(head),
        }
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
