//! The head and the loss on the device, in slices of rows.

use dropcap_kernels::DType;
use dropcap_kernels::KernelError;
use dropcap_kernels::cross_entropy::{RowLoss, Shares};
use dropcap_kernels::cuda::{DeviceBuffer, DeviceSlice};
use dropcap_kernels::matmul::{Sum, TrainMatrix};

use super::forward::Run;
use super::gradients::Gradients;
use super::network::Network;
use super::room::SLICE;
use super::weights::Weights;

/// What a pass is to predict, and where its losses go.
#[derive(Debug, Clone, Copy)]
pub(super) struct Goal<'a> {
    /// u32 `[t]`.
    pub(super) targets: &'a DeviceBuffer<u32>,
    /// f32 `[t, 3]`, as [`RowLoss`] has them.
    pub(super) losses: &'a DeviceBuffer<f32>,
    pub(super) teacher: Option<Lesson<'a>>,
    pub(super) shares: Shares,
}

/// What a teacher made of the same tokens.
#[derive(Debug, Clone, Copy)]
pub(super) struct Lesson<'a> {
    pub(super) network: &'a Network,
    pub(super) weights: &'a Weights,
    /// After its final norm, W `[t, c]`.
    pub(super) output: &'a DeviceBuffer<u8>,
    /// Room for its logits, as large as that for ours.
    pub(super) logits: &'a DeviceBuffer<f32>,
}

impl Run<'_> {
    /// Writes each row's losses; with `gradients`, adds the head's and leaves that of its input in the room.
    pub(super) fn loss(&self, goal: Goal<'_>, gradients: Option<&Gradients>) -> Result<(), KernelError> {
        let Self { kernels, network, weights, room, .. } = self;
        let (vocabulary, stride) = (network.config.vocabulary, room.stride);
        let element = kernels.dtype.bytes();
        let head = &network.head;
        for first in (0..self.rows()).step_by(SLICE) {
            let rows = SLICE.min(self.rows() - first);
            let width = network.config.hidden;
            let x = self.slice(&room.normed, width, first, rows)?;
            let columns = weights.head_columns(head);
            let out = self.logits(&room.logits, rows, columns)?;
            kernels.products.multiply(x, weights.head(head)?, Sum::Store, None, out)?;
            let mut teacher_logits = None;
            if let Some(Lesson { network: teacher, weights, output, logits }) = goal.teacher {
                let x = self.slice(output, teacher.config.hidden, first, rows)?;
                let out = self.logits(logits, rows, weights.head_columns(&teacher.head))?;
                kernels.products.multiply(x, weights.head(&teacher.head)?, Sum::Store, None, out)?;
                teacher_logits = Some(logits);
            }
            kernels.loss.slice(
                vocabulary,
                stride,
                &room.logits,
                teacher_logits,
                DeviceSlice::new(goal.targets, first..first + rows)?,
                goal.shares,
                DeviceSlice::new(goal.losses, RowLoss::NUMBERS * first..RowLoss::NUMBERS * (first + rows))?,
            )?;
            if let Some(gradients) = gradients {
                // The gradient of each row begins where the row began, and is zero behind the vocabulary.
                let apart = stride * size_of::<f32>() / element;
                let gradient = |columns| {
                    let numbers = DeviceSlice::from(&room.logits).bytes();
                    TrainMatrix::new(numbers, kernels.dtype, rows, columns, apart)
                };
                let sum = if first == 0 { gradients.sum() } else { Sum::Add };
                head.weight_gradient(kernels, gradients, x, gradient(vocabulary)?, sum)?;
                let dx = self.slice(&room.back.d_input, width, first, rows)?;
                let whole = weights.head(head)?.turned();
                kernels.products.multiply(gradient(columns)?, whole, Sum::Store, None, dx)?;
            }
        }
        Ok(())
    }

    /// Some rows of `[t, width]` in the format of products.
    fn slice<'b>(
        &self,
        buffer: &'b DeviceBuffer<u8>,
        width: usize,
        first: usize,
        rows: usize,
    ) -> Result<TrainMatrix<'b>, KernelError> {
        let dtype = self.kernels.dtype;
        let bytes = first * width * dtype.bytes()..(first + rows) * width * dtype.bytes();
        TrainMatrix::new(DeviceSlice::new(buffer, bytes)?, dtype, rows, width, width)
    }

    fn logits<'b>(
        &self,
        buffer: &'b DeviceBuffer<f32>,
        rows: usize,
        columns: usize,
    ) -> Result<TrainMatrix<'b>, KernelError> {
        TrainMatrix::new(DeviceSlice::from(buffer).bytes(), DType::F32, rows, columns, self.room.stride)
    }
}

/// The losses of rows that were copied from the device.
pub(super) fn rows_of(losses: &[f32]) -> Vec<RowLoss> {
    let row = |&[cross_entropy, divergence, entropy]: &[f32; RowLoss::NUMBERS]| RowLoss {
        cross_entropy,
        divergence,
        entropy,
    };
    losses.as_chunks().0.iter().map(row).collect()
}
