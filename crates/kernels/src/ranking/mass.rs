//! Launches of the kernels in `mass.cu`: what a prompt's queries give entries, in two passes.

use super::Score;
use super::columns::Counted;
use super::cuda::{OP, RankingSize};
use crate::KernelError;
use crate::cuda::{
    Argument, Device, DeviceBuffer, DeviceLanes, Function, Grid, LaneTables, Module, Source, Specialisation,
    kernel_struct,
};
use crate::error::check_at_least;

pub(crate) const SOURCE: Source = Source {
    file: "ranking/mass.cu",
    text: concat!(
        include_str!("../gated_attention/cuda/fragments.cuh"),
        include_str!("scores.cuh"),
        include_str!("noise.cuh"),
        include_str!("mass.cu")
    ),
    constants: |_, _| vec![("THREADS", THREADS), ("SIDE", SIDE)],
    arguments: &[MassArgs::LAYOUT],
};

/// Rows, and entries, of a tile.
const SIDE: usize = 64;
const THREADS: usize = 128;
/// Parts that the entries of a lane are cut into at most, where few rows would not fill the device.
const MOST_SPLITS: usize = 16;

/// Both passes, and each row's largest score and sum between them.
#[derive(Debug)]
pub(super) struct Mass {
    rows: Function,
    entries: Function,
    stats: DeviceBuffer<[f32; 2]>,
    score: Score,
    specialisation: Specialisation,
    multiprocessors: usize,
}

kernel_struct! {
    struct MassArgs as MassArgs {
        lanes: LaneTables,
        qkv: u64,
        rows: u64,
        slot: u32,
        layer: u32,
        first_row: u32,
        queries: u32,
        first_position: u32,
        splits: u32,
        scale: f32,
        factor: f32,
        keep: f32,
        temperature: f32,
        seed: u64,
        noisy: u32,
        everything: u32,
        apart: u32,
    }
}

impl Mass {
    pub(super) fn new(
        device: &Device,
        specialisation: &Specialisation,
        score: Score,
        size: RankingSize,
    ) -> Result<Self, KernelError> {
        let Specialisation { query_heads, head_dim, cache, .. } = *specialisation;
        let module = Module::load(device, &SOURCE, specialisation)?;
        let width = head_dim.next_multiple_of(16) + 16 / cache.bytes();
        let shared = (2 * SIDE * width * cache.bytes()) as u32;
        let [rows, entries] = match score {
            Score::Softened { .. } => ["soft_mass_rows", "soft_mass_entries"],
            _ => ["mass_rows", "mass_entries"],
        };
        let numbers = size.rows.min(score.horizon() as usize) * query_heads;
        Ok(Self {
            rows: module.function(rows, shared)?,
            entries: module.function(entries, shared)?,
            // Where rows are few, entries are cut into parts.
            stats: DeviceBuffer::uninitialized(
                device,
                "the scratch memory of rankings",
                numbers.max(MOST_SPLITS * numbers.min(SIDE * query_heads)),
            )?,
            score,
            specialisation: *specialisation,
            multiprocessors: device.facts().multiprocessors as usize,
        })
    }

    /// Adds what the queries gave to the scores of their sequence's entries. The caller has checked slot, layer and queries.
    ///
    /// # Errors
    /// More rows than it was made for.
    pub(super) fn add(
        &self,
        lanes: &DeviceLanes,
        counted: Counted,
        qkv: &DeviceBuffer<u8>,
    ) -> Result<(), KernelError> {
        let Specialisation { query_heads, kv_heads, groups, .. } = self.specialisation;
        let Counted { slot, layer, first_row, queries, first_position, scale, factor, keep } = counted;
        let rows = queries as usize * query_heads;
        check_at_least(OP, "rows", rows, self.stats.len())?;
        let tiles = (rows / kv_heads).div_ceil(SIDE);
        // Enough blocks to fill the device a few times.
        let wanted = (4 * self.multiprocessors).div_ceil(tiles * kv_heads);
        let splits = wanted.min(self.stats.len() / rows).clamp(1, MOST_SPLITS);
        let (temperature, seed) = match self.score {
            Score::Softened { temperature, seed } => (temperature, seed),
            _ => (1.0, None),
        };
        let argument = MassArgs {
            lanes: lanes.tables(),
            qkv: qkv.pointer(),
            rows: self.stats.pointer(),
            slot,
            layer: layer as u32,
            first_row,
            queries,
            first_position,
            splits: splits as u32,
            scale,
            factor,
            keep,
            temperature,
            seed: seed.unwrap_or(0),
            noisy: u32::from(seed.is_some()),
            everything: u32::from(matches!(self.score, Score::Drawn { .. })),
            apart: u32::from(matches!(self.score, Score::Window { apart: true, .. })),
        };
        let mut grid = Grid::new(tiles, THREADS as u32).by(kv_heads);
        grid.blocks[2] = splits as u32;
        // SAFETY: the argument is the kernel's, its slot and layer exist, and its buffers are as large as just checked.
        unsafe { self.rows.launch(grid, &argument) }?;
        // A lane has no more entries than its sequence has tokens.
        let tokens = first_position as usize + queries as usize;
        let grid = Grid::new(tokens.div_ceil(SIDE), THREADS as u32).by(groups);
        // SAFETY: as above.
        Ok(unsafe { self.entries.launch(grid, &argument) }?)
    }
}
