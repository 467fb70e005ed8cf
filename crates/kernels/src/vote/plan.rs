//! How the kernels of the votes cut their work for a width of gates.

use crate::cuda::Specialisation;
use crate::{DType, PAGE_ENTRIES};

/// Queries that one step of the tensor cores takes.
pub(super) const TILE: usize = 16;
/// Threads of a block with many queries.
pub(super) const MANY_THREADS: usize = 256;
/// Tiles of gates on their way to a block with many queries.
const STAGES: usize = 3;
/// Pages on their way to a warp with few queries.
const FEW_STAGES: usize = 2;
/// Shared memory of a block with few queries at least: one fits on a multiprocessor beside a block of the next kernel,
/// two do not.
const FEW_LEAST_BYTES: usize = 80 << 10;

/// The constants of `vote.cu`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct VotePlan {
    /// Bytes of a tile of split gates.
    pub(super) tile_bytes: usize,
    /// Warps of a block with few queries, and the bytes that each has for half a tile and its pages.
    pub(super) few_warps: usize,
    few_bytes: usize,
    /// Columns of 8 entries that a warp with many queries holds, pages of its block, and tiles that its block takes at
    /// a time.
    columns: usize,
    block_pages: usize,
    turns: usize,
    /// Warps of a block of f32 keys, each with a panel of them.
    pub(super) plain_warps: usize,
    plain_bytes: usize,
}

impl VotePlan {
    pub(super) fn new(specialisation: &Specialisation) -> Self {
        let width = specialisation.side_width;
        let (parts, factors) = if specialisation.cache == DType::F16 { (2, 4 * TILE) } else { (3, 0) };
        let tile_bytes = parts * width.div_ceil(32).max(1) * 1024 + factors;
        let (few_warps, columns, block_pages, turns, plain_warps) = match width {
            0..=64 => (8, 8, 8, 2, 4),
            65..=128 => (4, 4, 8, 1, 2),
            _ => (2, 2, 4, 1, 1),
        };
        let few_bytes = tile_bytes.div_ceil(128) * 64 + FEW_STAGES * (PAGE_ENTRIES * width * 2 + 256);
        let plain_bytes = width * (PAGE_ENTRIES + 1) * 4;
        Self { tile_bytes, few_warps, few_bytes, columns, block_pages, turns, plain_warps, plain_bytes }
    }

    /// As the kernel file names them.
    pub(super) fn constants(&self) -> Vec<(&'static str, usize)> {
        vec![
            ("TILE", TILE),
            ("TILE_BYTES", self.tile_bytes),
            ("FEW_WARPS", self.few_warps),
            ("FEW_BYTES", self.few_bytes),
            ("FEW_STAGES", FEW_STAGES),
            ("MANY_THREADS", MANY_THREADS),
            ("MANY_COLUMNS", self.columns),
            ("BLOCK_PAGES", self.block_pages),
            ("TURNS", self.turns),
            ("STAGES", STAGES),
            ("PLAIN_WARPS", self.plain_warps),
        ]
    }

    /// Entries of a block with many queries.
    pub(super) fn block_entries(&self) -> usize {
        self.block_pages * PAGE_ENTRIES
    }

    /// Dynamic shared memory of the kernel for few queries, of that for many, and of that for f32 keys.
    pub(super) fn shared(&self) -> [u32; 3] {
        let few = (self.few_warps * self.few_bytes).max(FEW_LEAST_BYTES);
        [few, STAGES * self.turns * self.tile_bytes, self.plain_warps * self.plain_bytes]
            .map(|bytes| bytes as u32)
    }
}
