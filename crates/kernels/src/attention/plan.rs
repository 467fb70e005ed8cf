//! How a call is cut into tasks. Nothing here changes a result: a unit gives the same bits whole or in parts.

use std::ops::Range;

use super::{AttentionRows, AttentionShape};
use crate::PAGE_ENTRIES;

/// Pages of a split (2048 entries). Splits are always computed apart and merged in order, whoever computes them.
pub(super) const SPLIT_PAGES: usize = 64;

/// Rows of a unit: K and V of a block come from the second-level cache for all but the first tile of a unit, while
/// the unit's own state still fits beside them.
const UNIT_ROWS: usize = 96;

/// Tasks per thread that the largest unit must leave room for, or else it is cut into its splits.
const TASKS_PER_THREAD: u128 = 4;

/// The queries `first_query..first_query + queries` of an item, all heads of one KV head.
#[derive(Debug, Clone, Copy)]
pub(super) struct Unit {
    pub(super) item: usize,
    pub(super) head: usize,
    pub(super) first_query: usize,
    pub(super) queries: usize,
    /// Splits of the lane, at least 1.
    pub(super) splits: usize,
}

/// What one call of a team's body does.
#[derive(Debug, Clone, Copy)]
pub(super) enum Task {
    /// A unit from beginning to end.
    Whole(Unit),
    /// One split of a unit.
    Part {
        unit: Unit,
        split: usize,
        /// Where the result waits for the merge.
        part: usize,
    },
}

/// A unit whose parts are merged when all tasks are done.
#[derive(Debug)]
pub(super) struct Merge {
    pub(super) unit: Unit,
    pub(super) parts: Range<usize>,
}

/// All tasks of a call.
#[derive(Debug)]
pub(super) struct Plan {
    pub(super) tasks: Vec<Task>,
    pub(super) merges: Vec<Merge>,
    /// Results that wait for merges.
    pub(super) parts: usize,
}

impl Plan {
    /// Cuts a checked call for a team of `threads`.
    pub(super) fn new(shape: &AttentionShape, rows: &[AttentionRows<'_>], threads: usize) -> Self {
        let group = shape.query_heads / shape.kv_heads;
        let units: Vec<(Unit, u128)> = units(shape.kv_heads, group, rows);
        let total: u128 = units.iter().map(|(_, work)| work).sum();
        let mut plan = Self { tasks: Vec::with_capacity(units.len()), merges: Vec::new(), parts: 0 };
        for (unit, work) in units {
            // At most `threads * TASKS_PER_THREAD` units can be this large, which bounds the waiting results.
            if unit.splits == 1 || work * TASKS_PER_THREAD * threads as u128 <= total {
                plan.tasks.push(Task::Whole(unit));
                continue;
            }
            let parts = plan.parts..plan.parts + unit.splits;
            plan.tasks.extend((0..unit.splits).map(|split| Task::Part {
                unit,
                split,
                part: parts.start + split,
            }));
            plan.parts = parts.end;
            plan.merges.push(Merge { unit, parts });
        }
        plan
    }
}

/// Every unit with its work in rows times entries.
fn units(kv_heads: usize, group: usize, rows: &[AttentionRows<'_>]) -> Vec<(Unit, u128)> {
    let block = (UNIT_ROWS / group).max(1);
    let mut units = Vec::new();
    for (item, rows) in rows.iter().enumerate() {
        for head in 0..kv_heads {
            // check() saw 1 lane or one per KV head.
            let entries = rows.lanes[head.min(rows.lanes.len() - 1)].len();
            let splits = entries.div_ceil(SPLIT_PAGES * PAGE_ENTRIES).max(1);
            for first_query in (0..rows.queries).step_by(block) {
                let queries = block.min(rows.queries - first_query);
                let work = queries as u128 * group as u128 * entries as u128;
                units.push((Unit { item, head, first_query, queries, splits }, work));
            }
        }
    }
    units
}
