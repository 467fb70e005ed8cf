//! The forward pass over one block of queries of one group of heads.

use std::ops::Range;

use super::gate::{Gates, PerKey, raw, soft_rows};
use super::pack::{Lines, Source, Tile};
use super::plan::{DEAD, Keys, Plan, SIDE};
use super::product::{Into, Left, product};
use super::votes::{refusals, sum_of_gates};
use super::{Rule, Voter};
use crate::chunks::Pieces;
use crate::simd::exp::exp;
use crate::simd::{Isa, Kernel, Simd};

/// Panels whose keys share one step of the softmax: the sums are rescaled once for all of them.
const STEP: usize = 4;
const STEP_KEYS: usize = STEP * SIDE;
/// Above every masked score and below every real one.
const LOWEST: f32 = -1e29;

/// Keys and values of some groups of one sequence.
pub(super) struct Packed {
    pub(super) groups: Range<usize>,
    /// `[kv][panels][d][32]`
    pub(super) keys: Lines,
    /// `[kv][padded][wide]`
    pub(super) values: Lines,
    /// `[voters][groups][panels][r][32]`, under the soft rule.
    pub(super) gates: Lines,
}

impl Packed {
    /// Room for `groups`, and the gates of `voters`.
    pub(super) fn new(plan: &Plan, voters: usize, groups: Range<usize>) -> Self {
        let kv = groups.len() * plan.kv_heads;
        Self {
            keys: Lines::zeroed(kv * plan.panels * plan.width * SIDE),
            values: Lines::zeroed(kv * plan.padded() * plan.wide),
            gates: Lines::zeroed(voters * groups.len() * plan.panels * plan.gate * SIDE),
            groups,
        }
    }
}

/// What one soft group's votes have come to after the blocks so far: where one task goes through all blocks of a group
/// it follows the votes itself, which spares a pass.
pub(super) struct Followed {
    /// `[voters][panels]`
    pub(super) running: Vec<PerKey>,
    /// Of the own voter, `[panels]`.
    pub(super) refused: Vec<PerKey>,
    /// As [`Saved`](super::Saved) has them, `[panels]`.
    pub(super) gates: Vec<[f64; 2]>,
}

/// One block of queries.
pub(super) struct Attend<'a> {
    pub(super) isa: Isa,
    pub(super) plan: &'a Plan,
    pub(super) rule: Rule<'a>,
    pub(super) voters: &'a [Voter<'a>],
    pub(super) packed: &'a Packed,
    pub(super) sequence: usize,
    pub(super) group: usize,
    pub(super) block: usize,
    pub(super) qkv: &'a [f32],
    /// All trails; not read when the votes are followed here.
    pub(super) trail: &'a [f32],
    pub(super) followed: Option<&'a mut Followed>,
    /// `[T]` of this gate head; empty without one.
    pub(super) expires_at: &'a [u32],
    pub(super) out: &'a Pieces<'a, f32>,
    pub(super) lse: &'a Pieces<'a, f32>,
}

/// Sums of one head's queries.
struct Totals {
    top: Lines,
    sum: Lines,
    mixed: Lines,
}

impl Kernel for Attend<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(mut self, simd: S) {
        let mut followed = self.followed.take();
        let plan = self.plan;
        let (wide, block) = (plan.wide, plan.block);
        let tiles = plan.tiles(self.block, 0);
        let first = tiles.start * SIDE;
        let rows = (tiles.len() * SIDE).min(plan.tokens() - first);
        let start = self.sequence * plan.tokens() + first;
        let mut queries = Lines::zeroed(plan.heads * block * wide);
        for head in 0..plan.heads {
            let from = &self.qkv[start * plan.stride + plan.query_column(self.group, head)..];
            let source = Source { from, stride: plan.stride, count: rows, width: plan.width };
            source.rows(plan.shape.attention.scale, wide, &mut queries[head * block * wide..]);
        }
        let mut totals = Totals {
            top: Lines::zeroed(plan.heads * block),
            sum: Lines::zeroed(plan.heads * block),
            mixed: Lines::zeroed(plan.heads * block * wide),
        };
        totals.top.fill(LOWEST);
        let soft = match self.rule {
            Rule::Soft { curve } if plan.voters > 0 => Some(curve),
            _ => None,
        };
        let mut bias = Lines::zeroed(if soft.is_some() { block * STEP_KEYS } else { 0 });
        let mut spare = Lines::zeroed(plan.gate * SIDE);
        let mut scores = Lines::zeroed(SIDE * STEP_KEYS);
        let (panels, keys) = self.visible(tiles.clone());
        for (panels, keys) in panels.chunks(STEP).zip(keys.chunks(STEP)) {
            if let Some(curve) = soft {
                for (i, (&panel, keys)) in panels.iter().zip(keys).enumerate() {
                    let bias = &mut bias[i * SIDE..];
                    self.log_gates(simd, curve, panel, keys, followed.as_deref_mut(), &mut spare, bias);
                }
            }
            for head in 0..plan.heads {
                let kv = (self.group - self.packed.groups.start) * plan.kv_heads + plan.kv_of(head);
                for tile in tiles.clone() {
                    let count = panels.partition_point(|&panel| panel <= tile);
                    if count == 0 {
                        continue;
                    }
                    let row = head * block + tile * SIDE - first;
                    let queries = Left { data: &queries[row * wide..], row: wide, step: 1 };
                    for (i, &panel) in panels[..count].iter().enumerate() {
                        let keys = &self.packed.keys[(kv * plan.panels + panel) * plan.width * SIDE..];
                        let to = (&mut scores[i * SIDE..], STEP_KEYS);
                        product(self.isa, queries, (keys, SIDE), plan.width, SIDE, Into::Store, to);
                    }
                    let bias = soft.map(|_| &bias[(tile * SIDE - first) * STEP_KEYS..]);
                    let (top, sum) = (&mut totals.top[row..], &mut totals.sum[row..]);
                    let mixed = &mut totals.mixed[row * wide..][..SIDE * wide];
                    match bias {
                        Some(bias) => soften::<S, true>(
                            simd,
                            tile,
                            &keys[..count],
                            bias,
                            &mut scores,
                            top,
                            sum,
                            mixed,
                            wide,
                        ),
                        None => soften::<S, false>(
                            simd,
                            tile,
                            &keys[..count],
                            &[],
                            &mut scores,
                            top,
                            sum,
                            mixed,
                            wide,
                        ),
                    }
                    for (i, &panel) in panels[..count].iter().enumerate() {
                        let weights = Left { data: &scores[i * SIDE..], row: STEP_KEYS, step: 1 };
                        let values = &self.packed.values[(kv * plan.padded() + panel * SIDE) * wide..];
                        product(self.isa, weights, (values, wide), SIDE, wide, Into::Add, (mixed, wide));
                    }
                }
            }
        }
        self.finish(&totals, first, rows);
    }
}

impl Attend<'_> {
    /// The panels that any of the block's queries sees; `window_end` of their keys is then the end of all sight.
    fn visible(&self, tiles: Range<usize>) -> (Vec<usize>, Vec<Keys>) {
        let plan = self.plan;
        let first = (tiles.start * SIDE) as f32;
        let (mut panels, mut all) = (Vec::with_capacity(tiles.end), Vec::with_capacity(tiles.end));
        let hard = matches!(self.rule, Rule::Hard { .. });
        for panel in 0..tiles.end {
            let mut keys = Keys::new(&plan.shape, panel);
            if hard && !self.expires_at.is_empty() {
                for (end, &expires) in keys.window_end.iter_mut().zip(&self.expires_at[panel * SIDE..]) {
                    *end = end.min(expires as f32);
                }
            }
            if keys.window_end.iter().any(|&end| end > first) {
                panels.push(panel);
                all.push(keys);
            }
        }
        (panels, all)
    }

    /// The logarithms of the gates of one panel, for all queries of the block, `[block][STEP_KEYS]`.
    #[inline(always)]
    #[allow(clippy::too_many_arguments)]
    fn log_gates<S: Simd>(
        &self,
        simd: S,
        curve: &crate::AlphaSigmoid,
        panel: usize,
        keys: &Keys,
        mut followed: Option<&mut Followed>,
        spare: &mut [f32],
        bias: &mut [f32],
    ) {
        let plan = self.plan;
        let first_tile = plan.tiles(self.block, 0).start;
        let mut sums = Tile::ZERO;
        for (number, voter) in self.voters.iter().enumerate() {
            let gates = Gates::of(plan, voter, self.sequence, self.group);
            let mut running = PerKey([0.0; SIDE]);
            if let Some(followed) = &followed {
                running = followed.running[number * plan.panels + panel];
            } else if panel < first_tile {
                let trail = (self.sequence * plan.voters + number) * plan.groups + self.group;
                let at = trail * plan.trail() + plan.trail_start(self.block) + panel * SIDE;
                running.0.copy_from_slice(&self.trail[at..][..SIDE]);
            }
            let groups = &self.packed.groups;
            let packed = (number * groups.len() + self.group - groups.start) * plan.panels + panel;
            let own = number + 1 == plan.voters;
            let packed = &self.packed.gates[packed * plan.gate * SIDE..];
            for tile in plan.tiles(self.block, panel) {
                let first = tile * SIDE;
                raw(self.isa, gates.tile(tile, spare), packed, plan.gate, &mut sums.0);
                let rows = (plan.tokens() - first).min(SIDE);
                if let (Some(followed), true) = (&mut followed, own) {
                    let refused = &mut followed.refused[panel];
                    refusals(simd, (first, rows), Some(gates.bias), &sums, keys, refused);
                }
                soft_rows(simd, curve, gates.bias, first, keys, &mut running, &mut sums.0, None);
                if let (Some(followed), true) = (&mut followed, own) {
                    let inner = (plan.tokens() - 1 - first).min(SIDE);
                    let gates = &mut followed.gates[panel];
                    gates[0] += sum_of_gates(simd, first, 0..inner, &sums, keys);
                    gates[1] += sum_of_gates(simd, first, inner..rows, &sums, keys);
                }
                let bias = &mut bias[(tile - first_tile) * SIDE * STEP_KEYS..];
                for at in (0..SIDE).step_by(S::LANES) {
                    let decided_from = simd.read(&keys.decided_from[at..]);
                    for q in 0..SIDE {
                        let to = &mut bias[q * STEP_KEYS + at..];
                        let sum = simd.read(&sums.0[q * SIDE + at..]);
                        let query = simd.splat((first + q) as f32);
                        let sum = simd.select_less(query, decided_from, simd.splat(0.0), sum);
                        let sum = if number == 0 { sum } else { simd.add(simd.read(to), sum) };
                        simd.write(to, sum);
                    }
                }
            }
            if let Some(followed) = &mut followed {
                followed.running[number * plan.panels + panel] = running;
            }
        }
    }

    fn finish(&self, totals: &Totals, first: usize, rows: usize) {
        let plan = self.plan;
        for head in 0..plan.heads {
            let all = self.group * plan.heads + head;
            let at = (self.sequence * plan.shape.attention.query_heads + all) * plan.tokens() + first;
            // SAFETY: no other task has these queries of this head.
            let lse = unsafe { self.lse.range(at, rows) };
            for (i, lse) in lse.iter_mut().enumerate() {
                let row = head * plan.block + i;
                let sum = totals.sum[row];
                *lse = totals.top[row] + sum.ln();
                let at = (self.sequence * plan.tokens() + first + i) * plan.out_width() + all * plan.width;
                // SAFETY: as above.
                let out = unsafe { self.out.range(at, plan.width) };
                let mixed = &totals.mixed[row * plan.wide..];
                out.iter_mut().zip(mixed).for_each(|(out, mixed)| *out = mixed / sum);
            }
        }
    }
}

/// Scores become weights relative to the largest so far, and what was summed before is rescaled to that.
#[inline(always)]
#[allow(clippy::too_many_arguments)]
fn soften<S: Simd, const BIASED: bool>(
    simd: S,
    tile: usize,
    keys: &[Keys],
    bias: &[f32],
    scores: &mut [f32],
    top: &mut [f32],
    sum: &mut [f32],
    mixed: &mut [f32],
    wide: usize,
) {
    for q in 0..SIDE {
        let query = simd.splat((tile * SIDE + q) as f32);
        let row = &mut scores[q * STEP_KEYS..(q + 1) * STEP_KEYS];
        let mut largest = simd.splat(top[q]);
        for (i, keys) in keys.iter().enumerate() {
            for at in (0..SIDE).step_by(S::LANES) {
                let cell = &mut row[i * SIDE + at..];
                let mut score = simd.read(cell);
                if BIASED {
                    score = simd.add(score, simd.read(&bias[q * STEP_KEYS + i * SIDE + at..]));
                }
                let end = simd.read(&keys.window_end[at..]);
                let position = simd.read(&keys.position[at..]);
                score = simd.select_less(query, end, score, simd.splat(DEAD));
                score = simd.select_less(query, position, simd.splat(DEAD), score);
                simd.write(cell, score);
                largest = simd.max(largest, score);
            }
        }
        let largest = simd.largest(largest);
        let shift = simd.splat(largest);
        let mut total = simd.splat(0.0);
        for cell in row[..keys.len() * SIDE].chunks_exact_mut(S::LANES) {
            let weight = exp(simd, simd.sub(simd.read(cell), shift));
            simd.write(cell, weight);
            total = simd.add(total, weight);
        }
        let total = simd.sum(total);
        if largest > top[q] {
            let correction = (top[q] - largest).exp();
            let factor = simd.splat(correction);
            for cell in mixed[q * wide..(q + 1) * wide].chunks_exact_mut(S::LANES) {
                simd.write(cell, simd.mul(simd.read(cell), factor));
            }
            sum[q] = sum[q] * correction + total;
            top[q] = largest;
        } else {
            sum[q] += total;
        }
    }
}
