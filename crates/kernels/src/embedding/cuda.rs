//! The look-up on the device.

use crate::KernelError;
use crate::cuda::{
    Argument, Device, DeviceBuffer, DeviceStep, Function, Grid, Module, Source, Specialisation, StepSize,
    kernel_struct,
};
use crate::error::{check_at_least, check_length, checked_size};

pub(crate) const SOURCE: Source = Source {
    file: "embedding/embed.cu",
    text: include_str!("embed.cu"),
    constants: |_, _| vec![("EMBED_THREADS", THREADS)],
    arguments: &[Arguments::LAYOUT],
};

const THREADS: usize = 256;
const OP: &str = "embed on the device";

/// Looks up tokens, and learned positions where the family has them.
#[derive(Debug, Clone)]
pub struct DeviceEmbedding {
    embed: Function,
    hidden: usize,
    element: usize,
}

kernel_struct! {
    struct Arguments as Embed {
        rows: u64,
        table: u64,
        positions: u64,
        residual: u64,
        vocabulary: u32,
        max_positions: u32,
    }
}

impl DeviceEmbedding {
    /// Compiles the kernel, or takes it from the cache.
    ///
    /// # Errors
    /// As [`Module::load`].
    pub fn new(device: &Device, specialisation: &Specialisation) -> Result<Self, KernelError> {
        let module = Module::load(device, &SOURCE, specialisation)?;
        Ok(Self {
            embed: module.function("embed", 0)?,
            hidden: specialisation.hidden,
            element: specialisation.weights.bytes(),
        })
    }

    /// Writes `table[token] (+ positions[position])` to the rows of `residual`, f32 `[rows, c]`; `table` is W `[v, c]`,
    /// `positions` W `[max_positions, c]`. A token or position outside its table leaves its row as it is.
    ///
    /// # Errors
    /// Lengths that do not agree, or a failed device.
    pub fn embed(
        &self,
        step: &DeviceStep,
        size: StepSize,
        table: &DeviceBuffer<u8>,
        positions: Option<&DeviceBuffer<u8>>,
        residual: &DeviceBuffer<f32>,
    ) -> Result<(), KernelError> {
        let row = self.hidden * self.element;
        check_at_least(OP, "the rows of the step", size.rows, step.rows.len())?;
        check_at_least(OP, "residual", checked_size(OP, &[size.rows, self.hidden])?, residual.len())?;
        let rows_of = |table: &DeviceBuffer<u8>| table.len() / row;
        for table in [Some(table), positions].into_iter().flatten() {
            check_length(OP, "a table, in whole rows,", rows_of(table) * row, table.len())?;
        }
        let arguments = Arguments {
            rows: step.rows.pointer(),
            table: table.pointer(),
            positions: positions.map_or(0, DeviceBuffer::pointer),
            residual: residual.pointer(),
            vocabulary: rows_of(table) as u32,
            max_positions: positions.map_or(0, rows_of) as u32,
        };
        // Not early: once this has begun, the lanes have grown (`DeviceLifetimes::grow`), so every kernel of the step may
        // look at lengths, page tables and old entries before it waits.
        let grid = Grid::new(size.rows, THREADS as u32);
        // SAFETY: the layout of `Embed`; lengths as just checked; the kernel checks tokens and positions.
        unsafe { self.embed.launch(grid, &arguments) }?;
        Ok(())
    }
}
