//! The sums on the device.

use crate::KernelError;
use crate::cuda::{
    Argument, Device, DeviceBuffer, DeviceSlice, Function, Grid, Module, Source, Specialisation, Stretches,
    kernel_struct,
};
use crate::error::{check_aligned, check_at_least, checked_size};

pub(crate) const SOURCE: Source = Source {
    file: "reduce/sums.cu",
    text: concat!(include_str!("../cuda/vectors.cuh"), include_str!("sums.cu")),
    constants: |_, _| {
        vec![
            ("SUM_THREADS", THREADS as usize),
            ("SUM_ROWS", ROWS),
            ("ADD_THREADS", ADD_THREADS as usize),
            ("SUM_COLUMNS", COLUMNS),
            ("SQUARE_BLOCKS", SQUARE_BLOCKS),
            ("STRETCH", Stretches::LONGEST),
        ]
    },
    arguments: &[ColumnSums::LAYOUT, AddPartials::LAYOUT, Squares::LAYOUT, NotFinite::LAYOUT],
};

const OP: &str = "sums on the device";
/// Rows of a block, and columns where a thread has eight.
const ROWS: usize = 256;
const COLUMNS: usize = 256;
const THREADS: u32 = 256;
/// Of a block that adds partial sums: 32 warps for 32 columns.
const ADD_THREADS: u32 = 1024;
/// Blocks that sum squares.
const SQUARE_BLOCKS: usize = 1024;

/// Blocks among which the rows of a norm's backward pass are dealt out: enough for any device, and the same for all.
pub const PARTS: usize = 768;

/// Sums whose bits depend on shapes alone.
#[derive(Debug, Clone)]
pub struct DeviceSums {
    columns: Function,
    columns_8: Function,
    add: Function,
    squares: Function,
    total: Function,
    not_finite: Function,
    element: usize,
}

kernel_struct! {
    struct ColumnSums as ColumnSums {
        x: u64,
        partials: u64,
        rows: u32,
        columns: u32,
    }
}

kernel_struct! {
    struct AddPartials as AddPartials {
        partials: u64,
        to: u64,
        parts: u32,
        stride: u32,
        columns: u32,
    }
}

kernel_struct! {
    struct Squares as Squares {
        x: u64,
        partials: u64,
        total: u64,
        stretches: u64,
        count: u64,
    }
}

kernel_struct! {
    struct NotFinite as NotFinite {
        x: u64,
        found: u64,
        count: u32,
        apart: u32,
    }
}

impl DeviceSums {
    /// Compiles the kernels, or takes them from the cache.
    ///
    /// # Errors
    /// As [`Module::load`].
    pub fn new(device: &Device, specialisation: &Specialisation) -> Result<Self, KernelError> {
        let module = Module::load(device, &SOURCE, specialisation)?;
        Ok(Self {
            columns: module.function("column_sums_1", 0)?,
            columns_8: module.function("column_sums_8", 0)?,
            add: module.function("add_partials", 0)?,
            squares: module.function("squares", 0)?,
            total: module.function("squares_total", 0)?,
            not_finite: module.function("not_finite", 0)?,
            element: specialisation.weights.bytes(),
        })
    }

    /// Numbers that [`DeviceSums::add_columns`] needs for `rows` of `columns`.
    #[must_use]
    pub fn scratch(rows: usize, columns: usize) -> usize {
        rows.div_ceil(ROWS) * columns
    }

    /// Adds the column sums of `x`, W `[rows, columns]`, to `to`, f32 `[columns]`.
    ///
    /// # Errors
    /// Lengths that do not agree, `scratch` below [`DeviceSums::scratch`], or a failed device.
    pub fn add_columns(
        &self,
        rows: usize,
        x: DeviceSlice<'_, u8>,
        scratch: &DeviceBuffer<f32>,
        to: DeviceSlice<'_, f32>,
    ) -> Result<(), KernelError> {
        let columns = to.len();
        check_at_least(OP, "x", checked_size(OP, &[rows, columns, self.element])?, x.len())?;
        check_at_least(OP, "scratch", Self::scratch(rows, columns), scratch.len())?;
        if rows == 0 || columns == 0 {
            return Ok(());
        }
        let parts = rows.div_ceil(ROWS);
        let arguments = ColumnSums {
            x: x.pointer(),
            partials: scratch.pointer(),
            rows: rows as u32,
            columns: columns as u32,
        };
        let wide = columns.is_multiple_of(8) && x.pointer().is_multiple_of(16);
        let (kernel, width) = if wide { (&self.columns_8, COLUMNS) } else { (&self.columns, 32) };
        // SAFETY: the layout of `ColumnSums`; lengths as just checked.
        unsafe { kernel.launch(Grid::new(columns.div_ceil(width), THREADS).by(parts), &arguments) }?;
        self.add_partials(scratch.into(), parts, columns, to)
    }

    /// Adds the sums of `parts` rows of `partials`, of `stride` numbers each, to `to`, f32 `[columns]`.
    ///
    /// # Errors
    /// Lengths that do not agree, or a failed device.
    pub fn add_partials(
        &self,
        partials: DeviceSlice<'_, f32>,
        parts: usize,
        stride: usize,
        to: DeviceSlice<'_, f32>,
    ) -> Result<(), KernelError> {
        let columns = to.len();
        check_at_least(OP, "stride", columns, stride)?;
        let needed = checked_size(OP, &[parts.saturating_sub(1), stride])? + columns;
        check_at_least(OP, "partials", if parts == 0 { 0 } else { needed }, partials.len())?;
        let arguments = AddPartials {
            partials: partials.pointer(),
            to: to.pointer(),
            parts: parts as u32,
            stride: stride as u32,
            columns: columns as u32,
        };
        // SAFETY: the layout of `AddPartials`; lengths as just checked.
        unsafe { self.add.launch(Grid::new(columns.div_ceil(32), ADD_THREADS), &arguments) }?;
        Ok(())
    }

    /// Numbers that [`DeviceSums::squares`] needs beside its result.
    pub const SQUARES_SCRATCH: usize = SQUARE_BLOCKS;

    /// Writes the sum of the squares of `x` in these stretches, in f64, to the front of `total`. NaN and infinity come through.
    ///
    /// # Errors
    /// No room for the result or the partial sums, stretches that end behind `x` or do not begin at multiples of four numbers,
    /// `x` at no multiple of 16 bytes, or a failed device.
    pub fn squares(
        &self,
        x: DeviceSlice<'_, f32>,
        stretches: &Stretches,
        scratch: &DeviceBuffer<f64>,
        total: DeviceSlice<'_, f64>,
    ) -> Result<(), KernelError> {
        check_at_least(OP, "total", 1, total.len())?;
        check_at_least(OP, "scratch", SQUARE_BLOCKS, scratch.len())?;
        check_aligned(OP, "x", x.pointer(), 16)?;
        let (stretches, count) = stretches.for_fours(OP, x.len())?;
        let arguments = Squares {
            x: x.pointer(),
            partials: scratch.pointer(),
            total: total.pointer(),
            stretches,
            count: count as u64,
        };
        // SAFETY: the layout of `Squares`; lengths and alignments as just checked.
        unsafe { self.squares.launch(Grid::new(SQUARE_BLOCKS, THREADS), &arguments) }?;
        // SAFETY: as above.
        unsafe { self.total.launch(Grid::new(1, THREADS), &arguments) }?;
        Ok(())
    }

    /// Writes 1 to the front of `found` if any of the first `count` numbers of `x` that stand `apart` is not finite; leaves it as it
    /// is otherwise.
    ///
    /// # Errors
    /// Fewer numbers than that, no room for the result, or a failed device.
    pub fn not_finite(
        &self,
        x: DeviceSlice<'_, f32>,
        count: usize,
        apart: usize,
        found: DeviceSlice<'_, f64>,
    ) -> Result<(), KernelError> {
        check_at_least(OP, "found", 1, found.len())?;
        check_at_least(OP, "x", checked_size(OP, &[count, apart])?, x.len())?;
        let arguments =
            NotFinite { x: x.pointer(), found: found.pointer(), count: count as u32, apart: apart as u32 };
        // SAFETY: the layout of `NotFinite`; lengths as just checked.
        unsafe { self.not_finite.launch(Grid::new(count.div_ceil(THREADS as usize), THREADS), &arguments) }?;
        Ok(())
    }
}
