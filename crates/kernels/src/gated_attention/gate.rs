//! The votes of a tile, one row after the other.

use super::Voter;
use super::pack::Source;
use super::plan::{CELLS, DEAD, HUGE, Keys, Plan, SIDE};
use super::product::{Into, Left, product};
use crate::alpha_sigmoid::{AlphaSigmoid, solve_vector};
use crate::simd::{Isa, Simd};

/// A value of each key of a panel.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
pub(super) struct PerKey(pub(super) [f32; SIDE]);

/// The gates of one voter for one gate head of one sequence.
#[derive(Clone, Copy)]
pub(super) struct Gates<'a> {
    pub(super) query: Source<'a>,
    pub(super) key: Source<'a>,
    pub(super) bias: f32,
    /// `1 / sqrt(r)`.
    pub(super) factor: f32,
}

impl<'a> Gates<'a> {
    pub(super) fn of(plan: &Plan, voter: &Voter<'a>, sequence: usize, group: usize) -> Self {
        let stride = plan.groups * plan.gate;
        let first = sequence * plan.tokens() * stride + group * plan.gate;
        let source = |all: &'a [f32]| Source {
            from: &all[first.min(all.len())..],
            stride,
            count: plan.tokens(),
            width: plan.gate,
        };
        Self {
            query: source(voter.query_gates),
            key: source(voter.key_gates),
            bias: voter.bias[group],
            factor: 1.0 / (plan.gate as f32).sqrt(),
        }
    }

    /// The rows of one panel of tokens.
    pub(super) fn panel_of(source: Source<'a>, panel: usize) -> Source<'a> {
        let first = (panel * SIDE).min(source.count);
        Source {
            from: &source.from[(first * source.stride).min(source.from.len())..],
            count: (source.count - first).min(SIDE),
            ..source
        }
    }

    /// The query gates of a tile, in place where all 32 are there.
    pub(super) fn tile<'s>(&self, tile: usize, spare: &'s mut [f32]) -> Left<'s>
    where
        'a: 's,
    {
        let rows = Self::panel_of(self.query, tile);
        if rows.count == SIDE {
            return Left { data: rows.from, row: rows.stride, step: 1 };
        }
        spare.fill(0.0);
        rows.rows(1.0, rows.width, spare);
        Left { data: spare, row: rows.width, step: 1 }
    }
}

/// `tile = queries . keys`, the raw scores less the bias; `keys` is a panel `[r][32]` with the factor in it.
pub(super) fn raw(isa: Isa, queries: Left<'_>, keys: &[f32], width: usize, tile: &mut [f32]) {
    product(isa, queries, (keys, SIDE), width, SIDE, Into::Store, (tile, SIDE));
}

/// Raw scores become votes' logarithms, summed: `tile[q]` is then the running value after row q, and `slopes[q]` is
/// `d log vote / d raw`. Pairs that do not vote leave the running value as it is and have no slope.
#[inline(always)]
#[allow(clippy::too_many_arguments)]
pub(super) fn soft_rows<S: Simd>(
    simd: S,
    curve: &AlphaSigmoid,
    bias: f32,
    first: usize,
    keys: &Keys,
    running: &mut PerKey,
    tile: &mut [f32],
    slopes: Option<&mut [f32]>,
) {
    let tile = &mut tile[..CELLS];
    let bias = simd.splat(bias);
    // From here on a vote is exactly 1.
    let bound = simd.splat((1.0 / (curve.alpha() - 1.0).max(1e-6)) as f32);
    match slopes {
        None => {
            for at in (0..SIDE).step_by(S::LANES) {
                let position = simd.read(&keys.position[at..]);
                let mut sum = simd.read(&running.0[at..]);
                for q in 0..SIDE {
                    let cell = &mut tile[q * SIDE + at..];
                    let score = simd.add(simd.read(cell), bias);
                    let query = simd.splat((first + q) as f32);
                    if settled(simd, bound, score, position, query, sum) {
                        simd.write(cell, sum);
                        continue;
                    }
                    let votes = solve_vector(simd, curve, score);
                    let step = simd.select_less(position, query, votes.log_p, simd.splat(0.0));
                    sum = simd.max(simd.splat(DEAD), simd.add(sum, step));
                    simd.write(cell, sum);
                }
                simd.write(&mut running.0[at..], sum);
            }
        }
        Some(slopes) => {
            let slopes = &mut slopes[..CELLS];
            for at in (0..SIDE).step_by(S::LANES) {
                let position = simd.read(&keys.position[at..]);
                let mut sum = simd.read(&running.0[at..]);
                for q in 0..SIDE {
                    let cell = &mut tile[q * SIDE + at..];
                    let score = simd.add(simd.read(cell), bias);
                    let (query, zero) = (simd.splat((first + q) as f32), simd.splat(0.0));
                    if settled(simd, bound, score, position, query, sum) {
                        simd.write(cell, sum);
                        simd.write(&mut slopes[q * SIDE + at..], zero);
                        continue;
                    }
                    let votes = solve_vector(simd, curve, score);
                    let step = simd.select_less(position, query, votes.log_p, zero);
                    sum = simd.max(simd.splat(DEAD), simd.add(sum, step));
                    simd.write(cell, sum);
                    let slope = simd.select_less(position, query, votes.slope_over_p, zero);
                    simd.write(&mut slopes[q * SIDE + at..], slope);
                }
                simd.write(&mut running.0[at..], sum);
            }
        }
    }
}

/// Whether no lane's vote changes anything: it is exactly 1, or the key is dead already, or the pair does not vote. On a
/// curve that has become steep this spares most of the work.
#[inline(always)]
fn settled<S: Simd>(simd: S, bound: S::V, score: S::V, position: S::V, query: S::V, sum: S::V) -> bool {
    let (zero, one) = (simd.splat(0.0), simd.splat(1.0));
    // NaN is open.
    let open = simd.select_less(bound, score, zero, one);
    let open = simd.select_less(sum, simd.splat(0.5 * DEAD), zero, open);
    simd.largest(simd.select_less(position, query, open, zero)) <= 0.0
}

/// Raw scores become scores (huge for pairs that do not vote) and `minima[q]` the smallest up to row q.
#[inline(always)]
pub(super) fn hard_rows<S: Simd>(
    simd: S,
    offset: &PerKey,
    first: usize,
    keys: &Keys,
    running: &mut PerKey,
    tile: &mut [f32],
    minima: &mut [f32],
) {
    let (tile, minima) = (&mut tile[..CELLS], &mut minima[..CELLS]);
    for at in (0..SIDE).step_by(S::LANES) {
        let position = simd.read(&keys.position[at..]);
        let offset = simd.read(&offset.0[at..]);
        let mut smallest = simd.read(&running.0[at..]);
        for q in 0..SIDE {
            let cell = &mut tile[q * SIDE + at..];
            let score = simd.add(simd.read(cell), offset);
            let query = simd.splat((first + q) as f32);
            let score = simd.select_less(position, query, score, simd.splat(HUGE));
            simd.write(cell, score);
            smallest = simd.min(score, smallest);
            simd.write(&mut minima[q * SIDE + at..], smallest);
        }
        simd.write(&mut running.0[at..], smallest);
    }
}

/// What the hard rule adds to a panel's raw products: the bias, and the noise of each key.
pub(super) fn offset(bias: f32, noise: Option<&[f32]>, panel: usize) -> PerKey {
    let noise = noise.map_or(&[][..], |noise| &noise[(panel * SIDE).min(noise.len())..]);
    PerKey(std::array::from_fn(|i| bias + noise.get(i).copied().unwrap_or(0.0)))
}
