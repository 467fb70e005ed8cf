//! Attention of a ragged batch over paged lanes.
//!
//! Cost model: a step with few queries is bound by reading K and V once, so all query heads of a KV head and all
//! queries of a block share each page while it is in the cache. A prefill is bound by multiply-adds, so rows
//! (queries times the heads of a group) run in register tiles over 32 entries. Pages that no row of a tile sees are
//! skipped.
//!
//! Bits: a row's result is a function of its query, and of key, value and slot of the entries that it sees. The
//! lane is cut into splits of `SPLIT_PAGES` pages and these into blocks of `BLOCK_PAGES`, by slot
//! alone; inside a block every entry that the row does not see weighs exactly 0; splits are merged in order. Neither
//! the other rows of a call, nor entries that come later, nor the threads change a bit.

mod check;
pub(crate) mod cuda;
#[cfg(test)]
mod cuda_tests;
mod device_plan;
mod mass;
mod mix;
mod plan;
#[cfg(test)]
mod reference;
mod soften;
mod state;
mod sweep;
mod tiles;

pub use cuda::{DeviceAttention, ToldScores};
pub(crate) use device_plan::{row_bytes, uses_tensor_cores};
pub use mass::{attention_mass, attention_mass_with};

use std::sync::OnceLock;

use crate::panel::with_rows;
use crate::simd::Isa;
use crate::{KernelError, LaneView, Team};
use plan::{Plan, Task, Unit};
use state::State;

/// Heads and scale of one layer's attention.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct AttentionShape {
    /// Query heads h, a multiple of the KV heads; query head i reads KV head `i / (h / g)`.
    pub query_heads: usize,
    /// KV heads g.
    pub kv_heads: usize,
    /// Elements of one head, d.
    pub head_dim: usize,
    /// Factor of every dot product, usually `1 / sqrt(d)`.
    pub scale: f32,
}

/// One sequence's queries in a ragged batch, and the lanes that they read.
#[derive(Debug, Clone)]
pub struct AttentionRows<'a> {
    /// Row of the first query in `query` and `out`.
    pub first_row: usize,
    /// Number of queries, at positions `first_position..`.
    pub queries: usize,
    /// Position of the first query.
    pub first_position: u32,
    /// One lane of g heads, or g lanes of one head.
    pub lanes: Vec<LaneView<'a>>,
}

/// `out[t, h * d]` = softmax over the visible entries of `scale * query . key`, times their values, per head.
///
/// Row i of `query` starts at `i * query_stride` and is `h * d` wide; `out` is dense and has a row for every row of
/// the batch; rows that no item names stay as they are. A query at position q sees an entry iff
/// `position <= q < expires_at`. A query that sees none gets zeros; what an entry that it does not see holds is
/// without any effect, as long as it is finite.
///
/// A row's bits depend on nothing but its query and the entries that it sees, each at its slot: see the module.
///
/// Errors: heads that do not divide, lanes of another shape, slices too short for the rows, items whose rows
/// overlap, positions beyond `u32::MAX - 1`.
pub fn attention(
    team: &Team,
    shape: &AttentionShape,
    rows: &[AttentionRows<'_>],
    query: &[f32],
    query_stride: usize,
    out: &mut [f32],
) -> Result<(), KernelError> {
    attention_with(Isa::best(), team, shape, rows, query, query_stride, out)
}

/// [`attention`] with the given instruction set, or the portable one where the machine lacks it.
///
/// Errors: as [`attention`].
pub fn attention_with(
    isa: Isa,
    team: &Team,
    shape: &AttentionShape,
    rows: &[AttentionRows<'_>],
    query: &[f32],
    query_stride: usize,
    out: &mut [f32],
) -> Result<(), KernelError> {
    check::check(shape, rows, query, query_stride, out)?;
    let plan = Plan::new(shape, rows, team.threads());
    let out = Output::new(out);
    let call = Call { isa, shape, rows, query, query_stride };
    let parts: Vec<OnceLock<State>> = (0..plan.parts).map(|_| OnceLock::new()).collect();
    team.run(plan.tasks.len(), &|task| match plan.tasks[task] {
        Task::Whole(unit) => {
            let tiles = call.tiles(&unit);
            let mut total = call.attend(&unit, &tiles, 0);
            for split in 1..unit.splits {
                total.fold(&call.attend(&unit, &tiles, split));
            }
            // SAFETY: units do not share rows and heads, and every unit is finished once.
            unsafe { call.finish(&unit, &total, &out) };
        }
        Task::Part { unit, split, part } => {
            let state = call.attend(&unit, &call.tiles(&unit), split);
            let fresh = parts[part].set(state);
            debug_assert!(fresh.is_ok(), "a part has one task");
        }
    });
    for merge in &plan.merges {
        let mut states = parts[merge.parts.clone()].iter().filter_map(OnceLock::get);
        if let Some(first) = states.next() {
            let mut total = first.clone();
            states.for_each(|state| total.fold(state));
            // SAFETY: as above; the team is at rest.
            unsafe { call.finish(&merge.unit, &total, &out) };
        }
    }
    Ok(())
}

/// The arguments of a call that every task reads.
struct Call<'a> {
    isa: Isa,
    shape: &'a AttentionShape,
    rows: &'a [AttentionRows<'a>],
    query: &'a [f32],
    query_stride: usize,
}

impl Call<'_> {
    fn group(&self) -> usize {
        self.shape.query_heads / self.shape.kv_heads
    }

    /// First column of the unit's query heads in a row of the query and of the output.
    fn column(&self, unit: &Unit) -> usize {
        unit.head * self.group() * self.shape.head_dim
    }

    fn tiles(&self, unit: &Unit) -> tiles::Tiles {
        let item = &self.rows[unit.item];
        tiles::Tiles::pack(
            self.isa,
            self.group(),
            self.shape,
            unit.queries,
            &self.query[(item.first_row + unit.first_query) * self.query_stride + self.column(unit)..],
            self.query_stride,
        )
    }

    /// What the unit's rows gather from one split of their lane.
    fn attend(&self, unit: &Unit, tiles: &tiles::Tiles, split: usize) -> State {
        let item = &self.rows[unit.item];
        let (lane, head) = match item.lanes.as_slice() {
            [lane] => (lane, unit.head),
            lanes => (&lanes[unit.head], 0),
        };
        let sweep = sweep::Sweep {
            isa: self.isa,
            lane,
            head,
            // Fits: check() bounded the item's last position.
            first_position: item.first_position + unit.first_query as u32,
            tiles,
        };
        with_rows!(lane.layout.format(), F => sweep.split::<F>(split))
    }

    /// Writes the unit's rows.
    ///
    /// # Safety
    /// No other thread writes the same rows and heads of `out` at the same time.
    unsafe fn finish(&self, unit: &Unit, total: &State, out: &Output<'_>) {
        let width = self.shape.query_heads * self.shape.head_dim;
        let d = self.shape.head_dim;
        let first_row = self.rows[unit.item].first_row + unit.first_query;
        for query in 0..unit.queries {
            for member in 0..self.group() {
                let start = (first_row + query) * width + self.column(unit) + member * d;
                // SAFETY: the caller's promise; the range belongs to this unit's row and head.
                total.write(query * self.group() + member, unsafe { out.range(start, d) });
            }
        }
    }
}

/// The output, which tasks write in disjoint pieces.
struct Output<'a> {
    start: *mut f32,
    len: usize,
    borrow: std::marker::PhantomData<&'a mut [f32]>,
}

// SAFETY: pieces are handed out by an unsafe function whose callers promise that they are disjoint.
unsafe impl Sync for Output<'_> {}

impl<'a> Output<'a> {
    fn new(out: &'a mut [f32]) -> Self {
        Self { start: out.as_mut_ptr(), len: out.len(), borrow: std::marker::PhantomData }
    }

    /// # Safety
    /// No two pieces that overlap may be alive at the same time.
    #[allow(clippy::mut_from_ref)]
    unsafe fn range(&self, start: usize, len: usize) -> &mut [f32] {
        assert!(start <= self.len && len <= self.len - start);
        // SAFETY: in bounds of the slice that is borrowed for 'a; disjoint by the caller's promise.
        unsafe { std::slice::from_raw_parts_mut(self.start.add(start), len) }
    }
}

#[cfg(test)]
mod tests;
