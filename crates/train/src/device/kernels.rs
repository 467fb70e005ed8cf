//! The operations of a training step, compiled for one model.

use dropcap_kernels::activation::TrainActivation;
use dropcap_kernels::cross_entropy::TrainCrossEntropy;
use dropcap_kernels::cuda::{Device, DeviceBuffer, DeviceSlice, Specialisation};
use dropcap_kernels::embedding::TrainEmbedding;
use dropcap_kernels::gated_attention::TrainAttention;
use dropcap_kernels::matmul::{TrainMatrix, TrainProducts};
use dropcap_kernels::norm::TrainNorm;
use dropcap_kernels::optimizer::TrainOptimizer;
use dropcap_kernels::reduce::DeviceSums;
use dropcap_kernels::rope::TrainTurn;
use dropcap_kernels::training::TrainCounts;
use dropcap_kernels::{DType, KernelError};
use dropcap_model::DecoderConfig;

use crate::network::GateForm;

/// Every kernel that a step starts, and the library of products.
#[derive(Debug)]
pub(super) struct Kernels {
    pub(super) device: Device,
    pub(super) specialisation: Specialisation,
    /// The format of products' operands.
    pub(super) dtype: DType,
    pub(super) products: TrainProducts,
    pub(super) norm: TrainNorm,
    pub(super) turn: TrainTurn,
    pub(super) activation: TrainActivation,
    pub(super) embedding: TrainEmbedding,
    pub(super) attention: TrainAttention,
    pub(super) loss: TrainCrossEntropy,
    pub(super) optimizer: TrainOptimizer,
    pub(super) sums: DeviceSums,
    pub(super) counts: TrainCounts,
}

impl Kernels {
    pub(super) fn new(
        device: &Device,
        config: &DecoderConfig,
        gates: Option<GateForm>,
        dtype: DType,
        cache: DType,
    ) -> Result<Self, KernelError> {
        let specialisation = Specialisation {
            weights: dtype,
            cache,
            codes: None,
            query_heads: config.heads,
            kv_heads: config.kv_heads,
            groups: gates.map_or(1, |form| form.heads),
            head_dim: config.head_dim,
            hidden: config.hidden,
            side_width: gates.map_or(0, |form| form.width),
            statistics: 0,
        };
        Ok(Self {
            dtype,
            products: TrainProducts::new(device)?,
            norm: TrainNorm::new(device, &specialisation)?,
            turn: TrainTurn::new(device, &specialisation)?,
            activation: TrainActivation::new(device, &specialisation)?,
            embedding: TrainEmbedding::new(device, &specialisation)?,
            attention: TrainAttention::new(device, &specialisation)?,
            loss: TrainCrossEntropy::new(device, &specialisation)?,
            optimizer: TrainOptimizer::new(device, &specialisation)?,
            sums: DeviceSums::new(device, &specialisation)?,
            counts: TrainCounts::new(device, &specialisation)?,
            device: device.clone(),
            specialisation,
        })
    }

    /// `[rows, columns]` without gaps, in the format of products, at the front of a buffer.
    pub(super) fn rows<'a>(
        &self,
        buffer: &'a DeviceBuffer<u8>,
        rows: usize,
        columns: usize,
    ) -> Result<TrainMatrix<'a>, KernelError> {
        TrainMatrix::new(buffer.into(), self.dtype, rows, columns, columns)
    }

    /// Room for `count` numbers in the format of products.
    pub(super) fn room(&self, what: &'static str, count: usize) -> Result<DeviceBuffer<u8>, KernelError> {
        Ok(DeviceBuffer::uninitialized(&self.device, what, count * self.dtype.bytes())?)
    }

    /// Room for `count` numbers of f32.
    pub(super) fn wide(&self, what: &'static str, count: usize) -> Result<DeviceBuffer<f32>, KernelError> {
        Ok(DeviceBuffer::uninitialized(&self.device, what, count)?)
    }
}

/// f32 `[rows, columns]` without gaps at the front of a buffer.
pub(super) fn f32_rows(
    buffer: &DeviceBuffer<f32>,
    rows: usize,
    columns: usize,
) -> Result<TrainMatrix<'_>, KernelError> {
    TrainMatrix::f32(DeviceSlice::from(buffer), rows, columns)
}
