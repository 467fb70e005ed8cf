//! The values of parameters on a device: f32, and the copy that products read.

use std::ops::Range;

use dropcap_kernels::cuda::{DeviceBuffer, DeviceSlice};
use dropcap_kernels::matmul::TrainMatrix;
use dropcap_kernels::{DType, KernelError};

use super::kernels::Kernels;
use super::matrix::Matrix;
use super::place::Places;

/// Values in [`Places`].
#[derive(Debug)]
pub(super) struct Weights {
    pub(super) values: DeviceBuffer<f32>,
    /// In the format of products; the values themselves where that is f32.
    working: Option<DeviceBuffer<u8>>,
    dtype: DType,
}

impl Weights {
    /// Zeros.
    pub(super) fn new(kernels: &Kernels, places: &Places) -> Result<Self, KernelError> {
        let working = match kernels.dtype {
            DType::F32 => None,
            dtype => {
                let bytes = places.len() * dtype.bytes();
                Some(DeviceBuffer::zeroed(&kernels.device, "the working copy of the parameters", bytes)?)
            }
        };
        let values = DeviceBuffer::zeroed(&kernels.device, "the parameters", places.len())?;
        Ok(Self { values, working, dtype: kernels.dtype })
    }

    /// Takes the values of the layout from `first` on.
    pub(super) fn load(
        &self,
        kernels: &Kernels,
        places: &Places,
        first: usize,
        values: &[f32],
    ) -> Result<(), KernelError> {
        upload(places, first, values, &self.values, 0)?;
        if let Some(working) = &self.working {
            kernels.optimizer.narrow((&self.values).into(), working.into())?;
        }
        Ok(())
    }

    /// The values of a place.
    pub(super) fn of(&self, place: &Range<usize>) -> Result<DeviceSlice<'_, f32>, KernelError> {
        DeviceSlice::new(&self.values, place.clone())
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
