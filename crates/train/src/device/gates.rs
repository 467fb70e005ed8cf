//! The gates' maps on the device: f32's precision in products of 16 bits.

use dropcap_kernels::cuda::{DeviceBuffer, DeviceSlice};
use dropcap_kernels::matmul::{Sum, TrainMatrix};
use dropcap_kernels::{DType, KernelError};

use super::gradients::Gradients;
use super::kernels::{Kernels, f32_rows};
use super::network::{GatePlaces, Network};
use super::weights::Weights;
use crate::network::GateForm;

/// One layer's maps as products read them, their inputs' scales multiplied in.
#[derive(Debug)]
pub(super) struct GateMaps {
    /// None where every query gate is 1.
    query: Option<Map>,
    key: Map,
    /// `[c]`, or nothing.
    scale: Option<DeviceBuffer<f32>>,
}

/// `[G r, c]`: what the format of products holds, and what its rounding left over.
#[derive(Debug)]
struct Map {
    high: DeviceBuffer<u8>,
    rest: Option<DeviceBuffer<u8>>,
    rows: usize,
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
    /// f32 `[t, G r]` of queries and of keys.
    pub(super) d: [&'a DeviceBuffer<f32>; 2],
    /// Room for the same in the format of products.
    pub(super) narrow: &'a DeviceBuffer<u8>,
    /// Room for the gradient of a map, f32 `[G r, c]`.
    pub(super) unscaled: &'a DeviceBuffer<f32>,
    /// The gradient of the rows, added to.
    pub(super) d_input: &'a DeviceBuffer<u8>,
}

impl GateMaps {
    pub(super) fn new(kernels: &Kernels, network: &Network) -> Result<Self, KernelError> {
        let rows = network.gates.map_or(0, GateForm::row);
        let count = rows * network.config.hidden;
        let map = || -> Result<Map, KernelError> {
            let rest = match kernels.dtype {
                DType::F32 => None,
                _ => Some(DeviceBuffer::uninitialized(&kernels.device, "the maps of gates", 2 * count)?),
            };
            Ok(Map { high: kernels.room("the maps of gates", count)?, rest, rows })
        };
        let votes = network.gates.is_some_and(|form| form.kind.votes());
        Ok(Self { query: votes.then(map).transpose()?, key: map()?, scale: None })
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
        let query = self.query.as_ref().zip(places.query.as_ref());
        for (map, place) in query.into_iter().chain([(&self.key, &places.key)]) {
            let scale = self.scale.as_ref().map(DeviceSlice::from);
            let rest = map.rest.as_ref().map(DeviceSlice::from);
            kernels.optimizer.split(weights.of(place)?, scale, (&map.high).into(), rest)?;
        }
        Ok(())
    }

    /// Query and key gates, f32 `[t, G r]` each; constant query gates stay as they are.
    pub(super) fn apply(
        &self,
        kernels: &Kernels,
        input: GateInput<'_>,
        query: &DeviceBuffer<f32>,
        key: &DeviceBuffer<f32>,
    ) -> Result<(), KernelError> {
        let query = self.query.as_ref().map(|map| (map, query));
        for (map, out) in query.into_iter().chain([(&self.key, key)]) {
            let out = f32_rows(out, input.rows, map.rows)?;
            let width = width(map, kernels);
            let high = kernels.rows(&map.high, map.rows, width)?.turned();
            let x = kernels.rows(input.high, input.rows, width)?;
            kernels.products.multiply(x, high, Sum::Store, None, out)?;
            if let (Some(map_rest), Some(rest)) = (&map.rest, input.rest) {
                let rest = TrainMatrix::new(rest.into(), DType::Bf16, input.rows, width, width)?;
                kernels.products.multiply(rest, high, Sum::Add, None, out)?;
                let low = TrainMatrix::new(map_rest.into(), DType::Bf16, map.rows, width, width)?.turned();
                kernels.products.multiply(x, low, Sum::Add, None, out)?;
            }
        }
        Ok(())
    }

    /// Adds the gradients of both maps, and of the rows that they read.
    pub(super) fn backward(
        &self,
        kernels: &Kernels,
        gradients: &Gradients,
        places: &GatePlaces,
        input: GateInput<'_>,
        back: GateBack<'_>,
    ) -> Result<(), KernelError> {
        let rows = input.rows;
        let [d_query, d_key] = back.d;
        let query = self.query.as_ref().zip(places.query.as_ref()).map(|(map, place)| (map, place, d_query));
        for (map, place, d) in query.into_iter().chain([(&self.key, &places.key, d_key)]) {
            let width = width(map, kernels);
            let count = rows * map.rows;
            let bytes = count * kernels.dtype.bytes();
            let narrow = DeviceSlice::new(back.narrow, 0..bytes)?;
            kernels.optimizer.narrow(DeviceSlice::new(d, 0..count)?, narrow)?;
            let dy = kernels.rows(back.narrow, rows, map.rows)?;
            let x = kernels.rows(input.high, rows, width)?;
            if let Some(gradient) = gradients.of(place)? {
                match &self.scale {
                    None => {
                        let gradient = TrainMatrix::f32(gradient, map.rows, width)?;
                        kernels.products.multiply(dy.turned(), x, Sum::Add, None, gradient)?;
                    }
                    Some(scale) => {
                        let unscaled = f32_rows(back.unscaled, map.rows, width)?;
                        kernels.products.multiply(dy.turned(), x, Sum::Store, None, unscaled)?;
                        kernels.optimizer.add_scaled(back.unscaled.into(), scale.into(), gradient)?;
                    }
                }
            }
            let d_input = kernels.rows(back.d_input, rows, width)?;
            let high = kernels.rows(&map.high, map.rows, width)?;
            kernels.products.multiply(dy, high, Sum::Add, None, d_input)?;
        }
        Ok(())
    }
}

/// Inputs c of a map.
fn width(map: &Map, kernels: &Kernels) -> usize {
    map.high.len() / (map.rows * kernels.dtype.bytes()).max(1)
}
