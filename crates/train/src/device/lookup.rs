//! The gradient of the table that tokens are looked up in, among several processes.
//!
//! It is complete last of all, and of the table's rows a pass has looked up some: the processes exchange those, and each adds
//! all of them to its piece of the table. What products made of the table's gradient (it may be the head, too) was summed
//! long before.

use std::ops::Range;

use dropcap_kernels::KernelError;
use dropcap_kernels::cuda::{Device, DeviceBuffer, DeviceSlice, Exchange};
use dropcap_kernels::embedding::{SumsOfTokens, TokenRows};

use super::gradients::Gradients;
use super::kernels::Kernels;
use crate::collective::World;

/// The rows of all processes' last passes.
#[derive(Debug)]
pub(super) struct Lookup {
    world: World,
    table: Range<usize>,
    /// Whether products have a share in the table's gradient.
    is_head: bool,
    /// The rows of each process, one after the other: whose they are, and their sums.
    tokens: DeviceBuffer<u32>,
    sums: DeviceBuffer<f32>,
    /// Rows of a process, and numbers of a row.
    rows: usize,
    width: usize,
}

impl Lookup {
    /// Room for passes of `rows` rows in each process; none where the rows of all are as many as the table's.
    pub(super) fn new(
        device: &Device,
        world: World,
        (table, is_head): (Range<usize>, bool),
        rows: usize,
        width: usize,
    ) -> Result<Option<Self>, KernelError> {
        let all = world.size * rows;
        if all * width >= table.len() {
            return Ok(None);
        }
        let tokens = DeviceBuffer::zeroed(device, "tokens of all processes", all)?;
        let sums = DeviceBuffer::zeroed(device, "gradients of all processes' tokens", all * width)?;
        Ok(Some(Self { world, table, is_head, tokens, sums, rows, width }))
    }

    /// Where the table lies.
    pub(super) fn table(&self) -> &Range<usize> {
        &self.table
    }

    /// Whether there is more in the table's gradient, in a step of so many `passes`, than the rows of each process's last one.
    pub(super) fn has_more(&self, passes: usize) -> bool {
        self.is_head || passes > self.world.size
    }

    /// Adds up this process's rows, token by token, and the gradient of `positions`.
    pub(super) fn sum(
        &self,
        kernels: &Kernels,
        batch: &TokenRows,
        tokens: usize,
        d_input: &DeviceBuffer<f32>,
        positions: Option<DeviceSlice<'_, f32>>,
    ) -> Result<(), KernelError> {
        kernels.embedding.sum_tokens(batch, tokens, d_input, positions, self.of(self.world.rank)?)
    }

    /// Brings them to everybody.
    pub(super) fn exchange(&self) -> [Exchange<'_>; 2] {
        [
            Exchange::Gather(DeviceSlice::from(&self.tokens).bytes()),
            Exchange::Gather(DeviceSlice::from(&self.sums).bytes()),
        ]
    }

    /// Adds the rows of all processes, in the order of their ranks, to the numbers `own` of the table's gradient.
    pub(super) fn add(
        &self,
        kernels: &Kernels,
        gradients: &Gradients,
        own: &[Range<usize>],
    ) -> Result<(), KernelError> {
        let [gradient, ..] = gradients.all(&self.table)?;
        for own in own {
            for rank in 0..self.world.size {
                kernels.embedding.add_tokens(self.of(rank)?, gradient, own.clone())?;
            }
        }
        Ok(())
    }

    fn of(&self, rank: usize) -> Result<SumsOfTokens<'_>, KernelError> {
        let rows = rank * self.rows..(rank + 1) * self.rows;
        let numbers = rows.start * self.width..rows.end * self.width;
        Ok(SumsOfTokens {
            tokens: DeviceSlice::new(&self.tokens, rows)?,
            sums: DeviceSlice::new(&self.sums, numbers)?,
        })
    }
}
