//! The gates' maps on the device: f32's precision in products of 16 bits.

use dropcap_kernels::cuda::{DeviceBuffer, DeviceSlice};
use dropcap_kernels::matmul::{Sum, TrainMatrix};
use dropcap_kernels::{DType, KernelError};

use super::gradients::Gradients;
use super::kernels::{Kernels, f32_rows};
use super::network::{GatePlaces, Network};
use super::weights::Weights;
use crate::network::GateForm;

/// One layer's maps as products read them, their inputs' scales multiplied in: `[2 G r, c]`, that of queries first, or that of
/// keys alone where every query gate is 1. What the format of products holds, and what its rounding left over.
#[derive(Debug)]
pub(super) struct GateMaps {
    high: DeviceBuffer<u8>,
    rest: Option<DeviceBuffer<u8>>,
    rows: usize,
    /// Where a row of gates begins to be theirs.
    first: usize,
    /// `[c]`, or nothing.
    scale: Option<DeviceBuffer<f32>>,
}

/// The rows that gates read: what the format of products holds, and what its rounding left over, bf16.
#[derive(Debug, Clone, Copy)]
pub(super) struct GateInput<'a> {
    pub(super) rows: usize,
    pub(super) high: &'a DeviceBuffer<u8>,
    pub(super) rest: Option<&'a DeviceBuffer<u8>>,
}

/// Gradients of one layer's gates on their way down.
#[derive(Debug, Clone, Copy)]
pub(super) struct GateBack<'a> {
    /// f32 `[t, 2 G r]`, of queries and of keys.
    pub(super) d: &'a DeviceBuffer<f32>,
    /// Room for the same in the format of products.
    pub(super) narrow: &'a DeviceBuffer<u8>,
    /// Room for the gradient of the maps, f32 `[2 G r, c]`.
    pub(super) unscaled: &'a DeviceBuffer<f32>,
    /// The gradient of the rows, added to.
    pub(super) d_input: &'a DeviceBuffer<u8>,
}

impl GateMaps {
    pub(super) fn new(kernels: &Kernels, network: &Network) -> Result<Self, KernelError> {
        let row = network.gates.map_or(0, GateForm::row);
        let votes = network.gates.is_some_and(|form| form.kind.votes());
        let (rows, first) = if votes { (2 * row, 0) } else { (row, row) };
        let count = rows * network.config.hidden;
        let rest = match kernels.dtype {
            DType::F32 => None,
            _ => Some(DeviceBuffer::uninitialized(&kernels.device, "the maps of gates", 2 * count)?),
        };
        Ok(Self { high: kernels.room("the maps of gates", count)?, rest, rows, first, scale: None })
    }

    pub(super) fn rescale(&mut self, kernels: &Kernels, scale: &[f32]) -> Result<(), KernelError> {
        self.scale = Some(DeviceBuffer::copy_of(&kernels.device, "the scales of gates", scale)?);
        Ok(())
    }

    /// Takes the present values.
    pub(super) fn refill(
        &self,
        kernels: &Kernels,
        weights: &Weights,
        places: &GatePlaces,
    ) -> Result<(), KernelError> {
        let scale = self.scale.as_ref().map(DeviceSlice::from);
        let rest = self.rest.as_ref().map(DeviceSlice::from);
        kernels.optimizer.split(weights.of(&places.maps)?, scale, (&self.high).into(), rest)
    }

    /// Gates, f32 `[t, 2 G r]`, of queries and of keys; constant query gates stay as they are.
    pub(super) fn apply(
        &self,
        kernels: &Kernels,
        input: GateInput<'_>,
        gates: &DeviceBuffer<f32>,
    ) -> Result<(), KernelError> {
        let columns = self.first + self.rows;
        let out = DeviceSlice::new(gates, self.first..input.rows * columns)?.bytes();
        let out = TrainMatrix::new(out, DType::F32, input.rows, self.rows, columns)?;
        let width = self.width(kernels);
        let high = kernels.rows(&self.high, self.rows, width)?.turned();
        let x = kernels.rows(input.high, input.rows, width)?;
        kernels.products.multiply(x, high, Sum::Store, None, out)?;
        if let (Some(map_rest), Some(rest)) = (&self.rest, input.rest) {
            let rest = TrainMatrix::new(rest.into(), DType::Bf16, input.rows, width, width)?;
            kernels.products.multiply(rest, high, Sum::Add, None, out)?;
            let low = TrainMatrix::new(map_rest.into(), DType::Bf16, self.rows, width, width)?.turned();
            kernels.products.multiply(x, low, Sum::Add, None, out)?;
        }
        Ok(())
    }

    /// Adds the gradients of the maps, and of the rows that they read.
    pub(super) fn backward(
        &self,
        kernels: &Kernels,
        gradients: &Gradients,
        places: &GatePlaces,
        input: GateInput<'_>,
        back: GateBack<'_>,
    ) -> Result<(), KernelError> {
        let (rows, width, columns) = (input.rows, self.width(kernels), self.first + self.rows);
        let bytes = kernels.dtype.bytes();
        let narrow = DeviceSlice::new(back.narrow, 0..rows * columns * bytes)?;
        kernels.optimizer.narrow(DeviceSlice::new(back.d, 0..rows * columns)?, narrow)?;
        let dy = DeviceSlice::new(back.narrow, self.first * bytes..rows * columns * bytes)?;
        let dy = TrainMatrix::new(dy, kernels.dtype, rows, self.rows, columns)?;
        let x = kernels.rows(input.high, rows, width)?;
        if let Some(gradient) = gradients.of(&places.maps)? {
            match &self.scale {
                None => {
                    let gradient = TrainMatrix::f32(gradient, self.rows, width)?;
                    kernels.products.multiply(dy.turned(), x, Sum::Add, None, gradient)?;
                }
                Some(scale) => {
                    let unscaled = f32_rows(back.unscaled, self.rows, width)?;
                    kernels.products.multiply(dy.turned(), x, Sum::Store, None, unscaled)?;
                    kernels.optimizer.add_scaled(back.unscaled.into(), scale.into(), gradient)?;
                }
            }
        }
        let d_input = kernels.rows(back.d_input, rows, width)?;
        let high = kernels.rows(&self.high, self.rows, width)?;
        kernels.products.multiply(dy, high, Sum::Add, None, d_input)
    }

    /// Inputs c of the maps.
    fn width(&self, kernels: &Kernels) -> usize {
        self.high.len() / (self.rows * kernels.dtype.bytes()).max(1)
    }
}
