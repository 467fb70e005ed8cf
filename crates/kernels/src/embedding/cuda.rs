//! The look-up on the device.

use crate::cuda::{
    Argument, Device, DeviceBuffer, DeviceStep, Function, Grid, Module, Source, Specialisation, StepSize,
    kernel_struct,
};
use crate::error::{check_at_least, checked_size};
use crate::matmul::{BlockFormat, DeviceMatrix, MatrixFormat};
use crate::{DType, KernelError};

pub(crate) const SOURCE: Source = Source {
    file: "embedding/embed.cu",
    text: concat!(include_str!("../matmul/blocks.cuh"), include_str!("embed.cu")),
    constants: |_, _| {
        [("EMBED_THREADS", THREADS), ("NUMBERS", NUMBERS)].into_iter().chain(BlockFormat::CODES).collect()
    },
    arguments: &[Arguments::LAYOUT],
};

const THREADS: usize = 256;
/// In the place of a format of blocks.
const NUMBERS: usize = 3;
const OP: &str = "embed on the device";

/// Looks up tokens, and learned positions where the family has them.
#[derive(Debug, Clone)]
pub struct DeviceEmbedding {
    embed: Function,
    hidden: usize,
    dtype: DType,
}

kernel_struct! {
    struct Arguments as Embed {
        rows: u64,
        table: u64,
        positions: u64,
        table_heads: u64,
        position_heads: u64,
        residual: u64,
        vocabulary: u32,
        max_positions: u32,
        table_format: u32,
        position_format: u32,
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
            dtype: specialisation.weights,
        })
    }

    /// Writes `table[token] (+ positions[position])` to the rows of `residual`, f32 `[rows, c]`; `table` is `[v, c]`, `positions`
    /// `[max_positions, c]`, of W or blocks. A token or position outside its table leaves its row as it is.
    ///
    /// # Errors
    /// Lengths or formats that do not agree, or a failed device.
    pub fn embed(
        &self,
        step: &DeviceStep,
        size: StepSize,
        table: &DeviceMatrix,
        positions: Option<&DeviceMatrix>,
        residual: &DeviceBuffer<f32>,
    ) -> Result<(), KernelError> {
        check_at_least(OP, "the rows of the step", size.rows, step.rows.len())?;
        check_at_least(OP, "residual", checked_size(OP, &[size.rows, self.hidden])?, residual.len())?;
        let table = self.table(table)?;
        let positions = positions.map_or(Ok(Table::NONE), |positions| self.table(positions))?;
        let arguments = Arguments {
            rows: step.rows.pointer(),
            table: table.data,
            positions: positions.data,
            table_heads: table.heads,
            position_heads: positions.heads,
            residual: residual.pointer(),
            vocabulary: table.rows,
            max_positions: positions.rows,
            table_format: table.format,
            position_format: positions.format,
        };
        // Not early: once this has begun, the lanes have grown (`DeviceLifetimes::grow`), so every kernel of the step may
        // look at lengths, page tables and old entries before it waits.
        let grid = Grid::new(size.rows, THREADS as u32);
        // SAFETY: the layout of `Embed`; lengths as just checked; the kernel checks tokens and positions.
        unsafe { self.embed.launch(grid, &arguments) }?;
        Ok(())
    }

    /// A table of the right width and format.
    fn table(&self, matrix: &DeviceMatrix) -> Result<Table, KernelError> {
        let rows = matrix.outputs() as u32;
        let (expected, got) = (
            format!("tables of {} inputs, of {} or blocks", self.hidden, self.dtype),
            format!("[{rows}, {}] of {}", matrix.inputs(), matrix.format()),
        );
        match (matrix.in_blocks(), matrix.format()) {
            _ if matrix.inputs() != self.hidden => Err(KernelError::Invalid { op: OP, expected, got }),
            (Some(blocks), _) => {
                Ok(Table { data: blocks.codes, heads: blocks.heads, rows, format: blocks.format.code() })
            }
            (None, MatrixFormat::Numbers(dtype)) if dtype == self.dtype => {
                Ok(Table { data: matrix.data().pointer(), rows, ..Table::NONE })
            }
            _ => Err(KernelError::Invalid { op: OP, expected, got }),
        }
    }
}

/// Where a table lies and how it is held.
struct Table {
    data: u64,
    heads: u64,
    rows: u32,
    format: u32,
}

impl Table {
    const NONE: Self = Self { data: 0, heads: 0, rows: 0, format: NUMBERS as u32 };
}
