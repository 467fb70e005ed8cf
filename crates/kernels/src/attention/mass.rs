//! How much probability each entry got: the sums of attention's columns.
//!
//! Attention itself never has a row of probabilities: its softmax is online. Here the entries of a KV head lie in blocks, and
//! each block of a few tiles of rows is a task: first its exponentials with its own largest score, then, when every row's largest
//! score and sum are known, its share of the sums. So one pass over the keys is enough, many threads share even one head, and memory
//! is bounded whatever the number of rows.

use std::sync::{Mutex, PoisonError};

use super::soften::{Sight, hide};
use super::sweep::{BLOCK, BLOCK_PAGES};
use super::tiles::{Tile, Tiles};
use super::{AttentionRows, AttentionShape, check};
use crate::error::{check_length, checked_size};
use crate::panel::{PageRows, PanelProducts, with_rows};
use crate::simd::exp::exp;
use crate::simd::{Isa, Kernel, Simd};
use crate::{KernelError, LaneView, PAGE_ENTRIES, Team};

const OP: &str = "attention mass";

/// Exponentials that are held at a time (4 MiB), unless a tile of each head has more.
const ROOM: usize = 1 << 20;

/// Adds to `mass` of each KV head what its entries got from the queries of `rows`, in the order of the queries.
///
/// `rows` are sequences, and `query` is as in [`super::attention`]. `mass` holds one slice per sequence and KV head, f32 `[k, e]` in
/// the order of the lane's entries: k is the number of query heads per KV head, each with a row of its own, or 1, and then
/// all are added up. A query gives its visible entries, those with `position <= q < expires_at`, probabilities that add up to 1, and
/// the others nothing.
///
/// The bits of `mass` depend neither on the threads, nor on which sequences share a call, nor, while nothing was freed, on how queries
/// are cut into calls.
///
/// Errors: as [`super::attention`]; slices of other lengths.
pub fn attention_mass(
    team: &Team,
    shape: &AttentionShape,
    rows: &[AttentionRows<'_>],
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
    rows: &[AttentionRows<'_>],
    query: &[f32],
    query_stride: usize,
    mass: &mut [&mut [f32]],
) -> Result<(), KernelError> {
    check::check_shape(shape)?;
    check_length(OP, "mass", checked_size(OP, &[rows.len(), shape.kv_heads])?, mass.len())?;
    let (width, group) = (shape.query_heads * shape.head_dim, shape.query_heads / shape.kv_heads);
    let mut units = Vec::with_capacity(mass.len());
    for (rows, mass) in rows.iter().zip(mass.chunks_exact_mut(shape.kv_heads)) {
        check::check_item(shape, rows, rows.first_row.saturating_add(rows.queries))?;
        if rows.queries > 0 {
            let last = rows.first_row + rows.queries - 1;
            let expected = checked_size(OP, &[last, query_stride])?.saturating_add(width);
            if query_stride < width || query.len() < expected {
                return Err(KernelError::Length { op: OP, what: "query", expected, got: query.len() });
            }
        }
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
                let unit = Unit { isa, lane, lane_head, first_position: rows.first_position, tiles };
                units.push((unit, &mut **mass));
            }
        }
    }
    gather(team, &mut units);
    Ok(())
}

/// Brings the sums of all units up to date.
fn gather(team: &Team, units: &mut [(Unit<'_>, &mut [f32])]) {
    let blocks = |unit: &Unit<'_>| unit.lane.len().div_ceil(BLOCK);
    let tasks: Vec<(usize, usize)> = units
        .iter()
        .enumerate()
        .flat_map(|(number, (unit, _))| (0..blocks(unit)).map(move |block| (number, block)))
        .collect();
    let parts: Vec<Mutex<Part<'_>>> = tasks
        .iter()
        .map(|&(number, block)| {
            let (unit, mass) = &units[number];
            Mutex::new(Part::new(unit.isa, unit.lane, block, mass))
        })
        .collect();
    // Each part has one task: the lock only hands it over to that task's thread.
    let part = |task: usize| parts[task].lock().unwrap_or_else(PoisonError::into_inner);
    let padded = |(unit, _): &(Unit<'_>, &mut [f32])| {
        unit.tiles.tiles.iter().map(|tile| tile.padded).max().unwrap_or(0) * blocks(unit) * BLOCK
    };
    let together = (ROOM / units.iter().map(padded).sum::<usize>().max(1)).max(1);
    let tiles = |number: usize, round: usize| {
        let tiles = &units[number].0.tiles.tiles;
        let first = (round * together).min(tiles.len());
        &tiles[first..tiles.len().min(first + together)]
    };
    let rounds = units.iter().map(|(unit, _)| unit.tiles.tiles.len().div_ceil(together)).max().unwrap_or(0);
    for round in 0..rounds {
        team.run(tasks.len(), &|task| {
            let number = tasks[task].0;
            units[number].0.soften(tiles(number, round), &mut part(task));
        });
        let mut first = 0;
        for (number, (unit, _)) in units.iter().enumerate() {
            let of_unit = first..first + blocks(unit);
            first = of_unit.end;
            let mut parts: Vec<_> = of_unit.map(part).collect();
            let rows = tiles(number, round).iter().map(|tile| tile.rows).sum();
            (0..rows).for_each(|row| weigh(&mut parts, row));
        }
        team.run(tasks.len(), &|task| {
            let number = tasks[task].0;
            units[number].0.add(tiles(number, round), &mut part(task));
        });
    }
    let sums: Vec<Vec<f32>> = (0..parts.len()).map(|task| std::mem::take(&mut part(task).sums)).collect();
    drop(parts);
    for (&(number, block), sums) in tasks.iter().zip(&sums) {
        let (unit, mass) = &mut units[number];
        let entries = unit.lane.len();
        for (mass, sums) in mass.chunks_exact_mut(entries).zip(sums.chunks_exact(BLOCK)) {
            let mass = &mut mass[block * BLOCK..entries.min((block + 1) * BLOCK)];
            mass.copy_from_slice(&sums[..mass.len()]);
        }
    }
}

/// Makes of each block's largest score and sum of a row what its exponentials are to be multiplied by.
fn weigh(parts: &mut [std::sync::MutexGuard<'_, Part<'_>>], row: usize) {
    let top = parts.iter().map(|part| part.rows[row].0).fold(f32::NEG_INFINITY, f32::max);
    let mut total = 0.0;
    for part in parts.iter_mut() {
        let (largest, sum) = part.rows[row];
        // A row that saw nothing of a block adds exactly 0, wherever the block is.
        let fall = if sum == 0.0 { 0.0 } else { (largest - top).exp() };
        part.rows[row].0 = fall;
        total += sum * fall;
    }
    if total != 0.0 {
        parts.iter_mut().for_each(|part| part.rows[row].0 /= total);
    }
}

/// One KV head's queries against its entries.
struct Unit<'a> {
    isa: Isa,
    lane: &'a LaneView<'a>,
    lane_head: usize,
    first_position: u32,
    tiles: Tiles,
}

/// One block of a unit's entries.
struct Part<'a> {
    /// First page.
    first_page: usize,
    sights: Vec<Sight<'a>>,
    /// `[k][BLOCK]`
    sums: Vec<f32>,
    /// Of the tiles of a round, `[padded][BLOCK]` each: what is smaller than a row's largest score in the block, exponentiated.
    weights: Vec<f32>,
    /// Of the rows of a round: largest score, then what weights are multiplied by; and the sum of the weights.
    rows: Vec<(f32, f32)>,
}

impl<'a> Part<'a> {
    fn new(isa: Isa, lane: &'a LaneView<'a>, block: usize, mass: &[f32]) -> Self {
        let first = block * BLOCK;
        let end = lane.len().min(first + BLOCK);
        let sight = |page: usize| {
            let page = page..end.min(page + PAGE_ENTRIES);
            Sight::new(isa, &lane.positions[page.clone()], &lane.expires_at[page])
        };
        let mut sums = vec![0.0; mass.len() / lane.len() * BLOCK];
        for (sums, mass) in sums.chunks_exact_mut(BLOCK).zip(mass.chunks_exact(lane.len())) {
            sums[..end - first].copy_from_slice(&mass[first..end]);
        }
        let sights = (first..end).step_by(PAGE_ENTRIES).map(sight).collect();
        Self { first_page: block * BLOCK_PAGES, sights, sums, weights: Vec::new(), rows: Vec::new() }
    }
}

impl Unit<'_> {
    /// Position of the query of a tile's row.
    fn query_of(&self, tile: &Tile, row: usize) -> u32 {
        // Fits: the check bounded the last position.
        self.first_position + ((tile.first + row) / self.tiles.group) as u32
    }

    fn soften(&self, tiles: &[Tile], part: &mut Part<'_>) {
        with_rows!(self.lane.layout.format(), F => self.soften_pages::<F>(tiles, part))
    }

    /// The exponentials of some tiles in a block.
    fn soften_pages<F: PageRows>(&self, tiles: &[Tile], part: &mut Part<'_>) {
        let Part { first_page, sights, weights, rows, .. } = part;
        let layout = self.lane.layout;
        // Nothing only for pages of another format, which the check refused.
        let keys = |page: usize| F::keys(layout, self.lane.pages[*first_page + page], self.lane_head);
        let panels: Vec<F::Keys<'_>> = (0..sights.len()).filter_map(keys).collect();
        weights.resize(tiles.iter().map(|tile| tile.padded).sum::<usize>() * BLOCK, 0.0);
        rows.clear();
        let mut products = weights.as_mut_slice();
        for tile in tiles {
            let (of_tile, others) = products.split_at_mut(tile.padded * BLOCK);
            products = others;
            let (first, last) = (self.query_of(tile, 0), self.query_of(tile, tile.rows - 1));
            if !sights.iter().any(|sight| sight.may_be_seen(first, last)) {
                rows.extend(std::iter::repeat_n((f32::NEG_INFINITY, 0.0), tile.rows));
                continue;
            }
            self.isa.run(PanelProducts {
                rows: self.tiles.rows(tile),
                count: tile.padded,
                panels: &panels,
                ahead: &[],
                products: of_tile,
                stride: BLOCK,
            });
            for (row, scores) in of_tile.chunks_exact_mut(BLOCK).take(tile.rows).enumerate() {
                let scores = &mut scores[..sights.len() * PAGE_ENTRIES];
                rows.push(self.isa.run(Exponentials { scores, sights, query: self.query_of(tile, row) }));
            }
        }
    }

    /// Adds the shares of some tiles in a block.
    fn add(&self, tiles: &[Tile], part: &mut Part<'_>) {
        let Part { sights, sums, weights, rows, .. } = part;
        let (apart, width) = (sums.len() > BLOCK, sights.len() * PAGE_ENTRIES);
        let (mut weights, mut rows) = (weights.chunks_exact(BLOCK), rows.iter());
        for tile in tiles {
            let of_tile = weights.by_ref().take(tile.padded).collect::<Vec<_>>();
            for (row, weights) in of_tile.into_iter().take(tile.rows).enumerate() {
                let Some(&(factor, sum)) = rows.next() else { return };
                // What a row does not see adds exactly 0, wherever it is: later entries change no bit.
                if sum == 0.0 {
                    continue;
                }
                let member = if apart { (tile.first + row) % self.tiles.group } else { 0 };
                let sums = &mut sums[member * BLOCK..][..width];
                self.isa.run(AddScaled { sums, weights: &weights[..width], factor });
            }
        }
    }
}

/// Turns one row's scores in a block into exponentials with its largest, and gives that and their sum.
struct Exponentials<'a> {
    /// 32 for each sight.
    scores: &'a mut [f32],
    sights: &'a [Sight<'a>],
    query: u32,
}

impl Kernel for Exponentials<'_> {
    type Output = (f32, f32);

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) -> (f32, f32) {
        let Exponentials { scores, sights, query } = self;
        hide(scores, sights, query);
        let mut largest = simd.splat(f32::NEG_INFINITY);
        for chunk in scores.chunks_exact(S::LANES) {
            largest = simd.max(largest, simd.read(chunk));
        }
        let top = simd.largest(largest);
        if top == f32::NEG_INFINITY && !sights.iter().any(|sight| sight.is_seen(query)) {
            return (top, 0.0);
        }
        let (at, mut sum) = (simd.splat(top), simd.splat(0.0));
        for chunk in scores.chunks_exact_mut(S::LANES) {
            let weight = exp(simd, simd.sub(simd.read(chunk), at));
            simd.write(chunk, weight);
            sum = simd.add(sum, weight);
        }
        (top, simd.sum(sum))
    }
}

/// `sums += factor * weights`, of as many numbers, a multiple of 32.
struct AddScaled<'a> {
    sums: &'a mut [f32],
    weights: &'a [f32],
    factor: f32,
}

impl Kernel for AddScaled<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let factor = simd.splat(self.factor);
        for (sums, weights) in self.sums.chunks_exact_mut(S::LANES).zip(self.weights.chunks_exact(S::LANES)) {
            // Not fused: what instruction sets give alike is one rounding at a time.
            simd.write(sums, simd.add(simd.read(sums), simd.mul(simd.read(weights), factor)));
        }
    }
}

#[cfg(test)]
mod tests;
