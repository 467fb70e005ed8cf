//! The mass of a prompt's queries in one pass, where attention has told the sums of their rows.

use super::cuda::OP;
use crate::KernelError;
use crate::attention::{row_bytes, uses_tensor_cores};
use crate::cuda::{
    Argument, Device, DeviceBuffer, DeviceLanes, Function, Grid, LaneTables, Module, Source, Specialisation,
    kernel_struct,
};
use crate::error::check_at_least;

pub(crate) const SOURCE: Source = Source {
    file: "ranking/columns.cu",
    text: concat!(
        include_str!("../attention/tiles.cuh"),
        include_str!("../attention/codes.cuh"),
        include_str!("columns.cu")
    ),
    constants: |_, specialisation| vec![("WARPS", WARPS), ("MT", ColumnPlan::new(specialisation).tiles)],
    arguments: &[ColumnArguments::LAYOUT],
};

const WARPS: usize = 4;
/// Rows of a tile of queries, of which there are two in shared memory.
const ROWS: usize = 64;

/// How `columns.cu` cuts its work.
struct ColumnPlan {
    /// Tiles of 16 entries of a warp: as many as its registers hold.
    tiles: usize,
}

impl ColumnPlan {
    fn new(specialisation: &Specialisation) -> Self {
        Self { tiles: if specialisation.head_dim <= 128 { 2 } else { 1 } }
    }
}

/// `columns.cu`, for formats and widths that it serves.
#[derive(Debug)]
pub(super) struct Columns {
    function: Function,
    entries: usize,
    query_heads: usize,
    groups: usize,
}

/// Queries of one span, as they count: all that are told, the last with its full share.
#[derive(Debug, Clone, Copy)]
pub(super) struct Counted {
    pub(super) slot: u32,
    pub(super) layer: usize,
    pub(super) first_row: u32,
    pub(super) queries: u32,
    pub(super) first_position: u32,
    /// Factor of every dot product.
    pub(super) scale: f32,
    /// What a query's share is multiplied by for each query after it.
    pub(super) factor: f32,
    /// What the sums of before are multiplied by.
    pub(super) keep: f32,
}

kernel_struct! {
    struct ColumnArguments as ColumnArgs {
        lanes: LaneTables,
        qkv: u64,
        sums: u64,
        slot: u32,
        layer: u32,
        first_row: u32,
        queries: u32,
        first_position: u32,
        scale: f32,
        fading: f32,
        keep: f32,
    }
}

impl Columns {
    /// None where tensor cores have no such format or width.
    pub(super) fn new(device: &Device, specialisation: &Specialisation) -> Result<Option<Self>, KernelError> {
        if !uses_tensor_cores(specialisation) {
            return Ok(None);
        }
        let shared = 2 * ROWS * row_bytes(specialisation.head_dim);
        let function =
            Module::load(device, &SOURCE, specialisation)?.function("mass_columns", shared as u32)?;
        let entries = WARPS * 16 * ColumnPlan::new(specialisation).tiles;
        let Specialisation { query_heads, groups, .. } = *specialisation;
        Ok(Some(Self { function, entries, query_heads, groups }))
    }

    /// Adds what the queries gave to the scores of their sequence's entries. A launch. The caller has checked slot, layer and
    /// queries.
    ///
    /// # Errors
    /// Too few sums.
    pub(super) fn add(
        &self,
        lanes: &DeviceLanes,
        counted: Counted,
        qkv: &DeviceBuffer<u8>,
        sums: &DeviceBuffer<f32>,
    ) -> Result<(), KernelError> {
        let Counted { slot, layer, first_row, queries, first_position, scale, factor, keep } = counted;
        let rows = (first_row + queries) as usize;
        check_at_least(OP, "told sums", rows.saturating_mul(self.query_heads), sums.len())?;
        let argument = ColumnArguments {
            lanes: lanes.tables(),
            qkv: qkv.pointer(),
            sums: sums.pointer(),
            slot,
            layer: layer as u32,
            first_row,
            queries,
            first_position,
            scale,
            // A factor of 0 leaves one query, whose share is whole.
            fading: if factor > 0.0 { factor.log2() } else { 0.0 },
            keep,
        };
        // A lane has no more entries than its sequence has tokens.
        let tokens = (first_position + queries) as usize;
        let grid = Grid::new(tokens.div_ceil(self.entries), 32 * WARPS as u32).by(self.groups);
        // SAFETY: the argument is the kernel's, its slot and layer exist, and its buffers are as large as checked.
        Ok(unsafe { self.function.launch(grid, &argument) }?)
    }
}
