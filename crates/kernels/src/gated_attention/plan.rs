//! Sizes that all passes share, and how work is cut: functions of the shape alone.

use super::GatedShape;

/// Side of a tile: queries by keys.
pub(super) const SIDE: usize = 32;
/// Elements of a tile.
pub(super) const CELLS: usize = SIDE * SIDE;
/// Blocks that a sequence is cut into once it is long enough.
const BLOCKS: usize = 32;
/// Units of the backward pass: enough for a few threads; each needs its own sums for the queries.
const UNITS: usize = 16;
/// Stands for an infinite score, lifetime or position.
pub(super) const HUGE: f32 = 1e30;
/// Stands for the logarithm of 0: sums of it stay finite.
pub(super) const DEAD: f32 = -1e30;
/// Below this smallest score `phi` is under 4e-4 and taken as 0, so that long-dead entries cost nothing.
pub(super) const LOWEST_SCORE: f32 = -8.0;

/// The shape with everything derived from it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Plan {
    pub(super) shape: GatedShape,
    pub(super) voters: usize,
    /// Row stride of the fused rows.
    pub(super) stride: usize,
    /// Head groups: the gate heads, or the KV heads without gates.
    pub(super) groups: usize,
    /// Query heads of a group.
    pub(super) heads: usize,
    /// KV heads of a group.
    pub(super) kv_heads: usize,
    /// Head width, and that in whole lines.
    pub(super) width: usize,
    pub(super) wide: usize,
    /// Gate width, and that in whole lines.
    pub(super) gate: usize,
    pub(super) gate_wide: usize,
    /// Queries of a block, a multiple of 32.
    pub(super) block: usize,
    /// Panels of 32 keys in a sequence.
    pub(super) panels: usize,
    /// Units that share a group of a sequence in the backward pass.
    pub(super) parts: usize,
}

impl Plan {
    /// Of a checked shape.
    pub(super) fn new(shape: &GatedShape, voters: usize, stride: usize) -> Self {
        let heads = &shape.attention;
        let groups = if voters == 0 { heads.kv_heads } else { shape.gate_heads };
        let panels = shape.tokens.div_ceil(SIDE);
        let units = (shape.sequences * groups).max(1);
        Self {
            shape: *shape,
            voters,
            stride,
            groups,
            heads: heads.query_heads / groups,
            kv_heads: heads.kv_heads / groups,
            width: heads.head_dim,
            wide: heads.head_dim.next_multiple_of(16),
            gate: shape.gate_width,
            gate_wide: shape.gate_width.next_multiple_of(16),
            block: SIDE * panels.div_ceil(BLOCKS).max(1),
            panels,
            parts: UNITS.div_ceil(units).clamp(1, panels.max(1)),
        }
    }

    /// T.
    pub(super) fn tokens(&self) -> usize {
        self.shape.tokens
    }

    /// T in whole panels.
    pub(super) fn padded(&self) -> usize {
        self.panels * SIDE
    }

    /// Blocks of queries.
    pub(super) fn blocks(&self) -> usize {
        self.padded().div_ceil(self.block)
    }

    /// The tiles of a block that a key panel's queries are in.
    pub(super) fn tiles(&self, block: usize, panel: usize) -> std::ops::Range<usize> {
        let tiles = self.block / SIDE;
        (block * tiles).max(panel)..((block + 1) * tiles).min(self.panels)
    }

    /// Elements of one voter's trail for one gate head of one sequence.
    ///
    /// The trail of block i holds the keys before the block.
    pub(super) fn trail(&self) -> usize {
        self.trail_start(self.blocks())
    }

    /// Where block i's piece of a trail starts; it holds `i * block` keys.
    pub(super) fn trail_start(&self, block: usize) -> usize {
        self.block * block * block.saturating_sub(1) / 2
    }

    /// Column of the first element of query head `head` of a group in the fused rows.
    pub(super) fn query_column(&self, group: usize, head: usize) -> usize {
        (group * self.heads + head) * self.width
    }

    /// Column of the first element of a KV head of a group in the fused rows; its value is `value_offset` further.
    pub(super) fn key_column(&self, group: usize, head: usize) -> usize {
        (self.shape.attention.query_heads + group * self.kv_heads + head) * self.width
    }

    /// Columns from a key to its value.
    pub(super) fn value_offset(&self) -> usize {
        self.shape.attention.kv_heads * self.width
    }

    /// The KV head, of its group, that a query head of the group reads.
    pub(super) fn kv_of(&self, head: usize) -> usize {
        head * self.kv_heads / self.heads
    }

    /// Width of a row of the output.
    pub(super) fn out_width(&self) -> usize {
        self.shape.attention.query_heads * self.width
    }
}

/// What is known of a panel's keys beforehand, as vectors of positions.
#[derive(Clone)]
#[repr(C, align(64))]
pub(super) struct Keys {
    /// Position j.
    pub(super) position: [f32; SIDE],
    /// The first query that votes decide about.
    pub(super) decided_from: [f32; SIDE],
    /// The first query that the sliding window or the sequence's end keeps away.
    pub(super) window_end: [f32; SIDE],
}

impl Keys {
    /// Of panel `panel`.
    pub(super) fn new(shape: &GatedShape, panel: usize) -> Self {
        let position = std::array::from_fn(|i| (panel * SIDE + i) as f32);
        let recent = shape.recent.max(1) as f32;
        let decided_from = position.map(|j| if j < shape.sinks as f32 { HUGE } else { j + recent });
        let window = shape.sliding_window.map_or(HUGE, |window| window as f32);
        let window_end = position.map(|j| (j + window).min(shape.tokens as f32));
        Self { position, decided_from, window_end }
    }
}
