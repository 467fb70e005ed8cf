//! How much probability each entry got: the sums of attention's columns.
//!
//! Attention itself never has a row of probabilities: its softmax is online. Here a tile of rows is computed over the
//! whole lane at once, so one pass over the keys is enough, and memory is rows of a tile times entries.

use std::sync::{Mutex, PoisonError};

use super::soften::{Sight, hide};
use super::tiles::{Tile, Tiles};
use super::{AttentionRows, AttentionShape, check};
use crate::error::{check_length, checked_size};
use crate::panel::{PageElement, PanelProducts};
use crate::simd::exp::exp;
use crate::simd::{Isa, Kernel, Simd};
use crate::{DType, KernelError, LaneView, PAGE_ENTRIES, Team};

const OP: &str = "attention mass";

/// Adds to `mass` of each KV head what its entries got from the queries of `rows`, in the order of the queries.
///
/// `query` is as in [`super::attention`]. `mass` holds one slice per KV head, f32 `[k, e]` in the order of the lane's
/// entries: k is the number of query heads per KV head, each with a row of its own, or 1, and then all are added up.
/// A query gives its visible entries, those with `position <= q < expires_at`, probabilities that add up to 1, and the
/// others nothing.
///
/// The bits of `mass` depend neither on the threads nor, while nothing was freed, on how queries are cut into calls.
///
/// Errors: as [`super::attention`]; slices of other lengths.
pub fn attention_mass(
    team: &Team,
    shape: &AttentionShape,
    rows: &AttentionRows<'_>,
    query: &[f32],
    query_stride: usize,
    mass: &mut [&mut [f32]],
) -> Result<(), KernelError> {
    attention_mass_with(Isa::best(), team, shape, rows, query, query_stride, mass)
}

/// [`attention_mass`] with the given instruction set, or the portable one where the machine lacks it.
///
/// Errors: as [`attention_mass`].
pub fn attention_mass_with(
    isa: Isa,
    team: &Team,
    shape: &AttentionShape,
    rows: &AttentionRows<'_>,
    query: &[f32],
    query_stride: usize,
    mass: &mut [&mut [f32]],
) -> Result<(), KernelError> {
    check::check_shape(shape)?;
    check::check_item(shape, rows, rows.first_row.saturating_add(rows.queries))?;
    check_length(OP, "mass", shape.kv_heads, mass.len())?;
    let (width, group) = (shape.query_heads * shape.head_dim, shape.query_heads / shape.kv_heads);
    if rows.queries > 0 {
        let last = rows.first_row + rows.queries - 1;
        let expected = checked_size(OP, &[last, query_stride])?.saturating_add(width);
        if query_stride < width || query.len() < expected {
            return Err(KernelError::Length { op: OP, what: "query", expected, got: query.len() });
        }
    }
    let mut tasks = Vec::with_capacity(mass.len());
    for (head, mass) in mass.iter_mut().enumerate() {
        let (lane, lane_head) = match rows.lanes.as_slice() {
            [lane] => (lane, head),
            lanes => (&lanes[head], 0),
        };
        let entries = lane.len();
        if mass.len() != entries {
            check_length(OP, "mass of a KV head", group * entries, mass.len())?;
        }
        if entries > 0 && rows.queries > 0 {
            let query = &query[rows.first_row * query_stride + head * group * shape.head_dim..];
            let tiles = Tiles::pack(isa, group, shape, rows.queries, query, query_stride);
            let first_position = rows.first_position;
            tasks.push((Gather { isa, lane, lane_head, first_position, tiles }, Mutex::new(&mut **mass)));
        }
    }
    team.run(tasks.len(), &|task| {
        let (gather, mass) = &tasks[task];
        // Each head has one task: the lock only hands its slice over to that task's thread.
        gather.run(&mut mass.lock().unwrap_or_else(PoisonError::into_inner));
    });
    Ok(())
}

/// One KV head's queries against its entries.
struct Gather<'a> {
    isa: Isa,
    lane: &'a LaneView<'a>,
    lane_head: usize,
    first_position: u32,
    tiles: Tiles,
}

impl Gather<'_> {
    fn run(&self, mass: &mut [f32]) {
        match self.lane.layout.dtype() {
            DType::F32 => self.pages::<f32>(mass),
            DType::F16 => self.pages::<half::f16>(mass),
            DType::Bf16 => self.pages::<half::bf16>(mass),
        }
    }

    fn pages<E: PageElement>(&self, mass: &mut [f32]) {
        let (entries, layout) = (self.lane.len(), self.lane.layout);
        let pages: Vec<(usize, &[E], Sight<'_>)> = (0..entries.div_ceil(PAGE_ENTRIES))
            .filter_map(|page| {
                let range = page * PAGE_ENTRIES..entries.min((page + 1) * PAGE_ENTRIES);
                let (positions, expires_at) =
                    (&self.lane.positions[range.clone()], &self.lane.expires_at[range]);
                // Nothing only for pages of another dtype, which the check refused.
                let elements = E::of(self.lane.pages[page])?;
                let keys = &elements[layout.key_offset(self.lane_head)..][..PAGE_ENTRIES * layout.head_dim()];
                Some((page, keys, Sight::new(self.isa, positions, expires_at)))
            })
            .collect();
        let mut scores = Vec::new();
        for tile in &self.tiles.tiles {
            self.tile(tile, &pages, &mut scores, mass);
        }
    }

    fn tile<E: PageElement>(
        &self,
        tile: &Tile,
        pages: &[(usize, &[E], Sight<'_>)],
        scores: &mut Vec<f32>,
        mass: &mut [f32],
    ) {
        let group = self.tiles.group;
        // Fit: the check bounded the last position.
        let query_of = |row: usize| self.first_position + ((tile.first + row) / group) as u32;
        let (first, last) = (query_of(0), query_of(tile.rows - 1));
        let seen = || pages.iter().filter(|(_, _, sight)| sight.may_be_seen(first, last));
        let panels: Vec<&[E]> = seen().map(|&(_, keys, _)| keys).collect();
        let sights: Vec<Sight<'_>> = seen().map(|&(_, _, sight)| sight).collect();
        let places: Vec<usize> = seen().map(|&(page, ..)| page).collect();
        let stride = panels.len() * PAGE_ENTRIES;
        if stride == 0 {
            return;
        }
        scores.resize(tile.padded * stride, 0.0);
        self.isa.run(PanelProducts {
            rows: self.tiles.rows(tile),
            count: tile.padded,
            panels: &panels,
            ahead: &[],
            products: scores,
            stride,
        });
        let entries = self.lane.len();
        let rows = mass.len() / entries;
        for (row, scores) in scores.chunks_exact_mut(stride).take(tile.rows).enumerate() {
            let member = if rows == 1 { 0 } else { (tile.first + row) % group };
            let mass = &mut mass[member * entries..][..entries];
            self.isa.run(Spread { scores, sights: &sights, places: &places, query: query_of(row), mass });
        }
    }
}

/// Turns one row's scores into probabilities and adds them to its mass.
struct Spread<'a> {
    /// 32 for each sight.
    scores: &'a mut [f32],
    sights: &'a [Sight<'a>],
    /// The page of each sight.
    places: &'a [usize],
    query: u32,
    mass: &'a mut [f32],
}

impl Kernel for Spread<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let Spread { scores, sights, places, query, mass } = self;
        hide(scores, sights, query);
        let mut largest = simd.splat(f32::NEG_INFINITY);
        for chunk in scores.chunks_exact(S::LANES) {
            largest = simd.max(largest, simd.read(chunk));
        }
        let top = simd.largest(largest);
        if top == f32::NEG_INFINITY && !sights.iter().any(|sight| sight.is_seen(query)) {
            return;
        }
        // What a row does not see adds exactly 0, wherever it is: later entries change no bit.
        let (top, mut sum) = (simd.splat(top), simd.splat(0.0));
        for chunk in scores.chunks_exact_mut(S::LANES) {
            let weight = exp(simd, simd.sub(simd.read(chunk), top));
            simd.write(chunk, weight);
            sum = simd.add(sum, weight);
        }
        let inverse = 1.0 / simd.sum(sum);
        for (weights, &page) in scores.chunks_exact(PAGE_ENTRIES).zip(places) {
            let mass = &mut mass[page * PAGE_ENTRIES..];
            for (mass, &weight) in mass.iter_mut().zip(weights) {
                *mass += weight * inverse;
            }
        }
    }
}

#[cfg(test)]
mod tests;
