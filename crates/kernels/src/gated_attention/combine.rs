//! What the backward pass makes of a tile's scores and of the gradient of its weights.

use super::gate::PerKey;
use super::pack::Tile;
use super::plan::{Keys, LOWEST_SCORE, SIDE};
use crate::simd::Simd;
use crate::simd::exp::exp;

/// Above this a dead pair's weight relative to the living ones makes no difference any more.
const LARGEST_EXPONENT: f32 = 20.0;
/// How much of a query's weight a living pair may have before its removal is no longer divided by what is left.
const LARGEST_WEIGHT: f32 = 0.9;

/// Rows of one head: `[32]` each.
#[derive(Clone, Copy)]
pub(super) struct RowSums<'a> {
    pub(super) first: usize,
    pub(super) lse: &'a [f32],
    /// `dout . out`.
    pub(super) delta: &'a [f32],
}

/// Scores become weights p, and gradients of weights the gradients of scores, `p (t - delta)`. With `bias`, the gates'
/// logarithms are added to the scores and the gradients to `worth`.
#[inline(always)]
pub(super) fn living<S: Simd>(
    simd: S,
    rows: RowSums<'_>,
    keys: &Keys,
    bias: Option<&Tile>,
    scores: &mut Tile,
    gradients: &mut Tile,
    worth: &mut Tile,
) {
    let zero = simd.splat(0.0);
    for q in 0..SIDE {
        let query = simd.splat((rows.first + q) as f32);
        let lse = simd.splat(rows.lse[q]);
        let delta = simd.splat(rows.delta[q]);
        for at in (0..SIDE).step_by(S::LANES) {
            let cell = q * SIDE + at;
            let mut score = simd.sub(simd.read(&scores.0[cell..]), lse);
            if let Some(bias) = bias {
                score = simd.add(score, simd.read(&bias.0[cell..]));
            }
            let weight = exp(simd, score);
            let weight = simd.select_less(query, simd.read(&keys.window_end[at..]), weight, zero);
            let weight = simd.select_less(query, simd.read(&keys.position[at..]), zero, weight);
            let gradient = simd.mul(weight, simd.sub(simd.read(&gradients.0[cell..]), delta));
            simd.write(&mut scores.0[cell..], weight);
            simd.write(&mut gradients.0[cell..], gradient);
            if bias.is_some() {
                let to = &mut worth.0[cell..];
                simd.write(to, simd.add(simd.read(to), gradient));
            }
        }
    }
}

/// As [`living`], for the hard rule: `worth` gains the exact change of `dout . out` if the entry were there rather than
/// not, for the living and the dead. `end` is where each key's sight ends.
#[inline(always)]
pub(super) fn mortal<S: Simd>(
    simd: S,
    rows: RowSums<'_>,
    keys: &Keys,
    end: &PerKey,
    scores: &mut Tile,
    gradients: &mut Tile,
    worth: &mut Tile,
) {
    let (zero, one) = (simd.splat(0.0), simd.splat(1.0));
    for q in 0..SIDE {
        let query = simd.splat((rows.first + q) as f32);
        let lse = simd.splat(rows.lse[q]);
        let delta = simd.splat(rows.delta[q]);
        for at in (0..SIDE).step_by(S::LANES) {
            let cell = q * SIDE + at;
            let end = simd.read(&end.0[at..]);
            let score = simd.sub(simd.read(&scores.0[cell..]), lse);
            let weight = exp(simd, simd.min(simd.splat(LARGEST_EXPONENT), score));
            let change = simd.sub(simd.read(&gradients.0[cell..]), delta);
            let product = simd.mul(weight, change);
            let others = simd.sub(one, simd.min(simd.splat(LARGEST_WEIGHT), weight));
            let whole = simd.select_less(query, end, others, simd.add(one, weight));
            let to = &mut worth.0[cell..];
            simd.write(to, simd.add(simd.read(to), simd.div(product, whole)));
            let position = simd.read(&keys.position[at..]);
            let weight = simd.select_less(query, end, weight, zero);
            let product = simd.select_less(query, end, product, zero);
            simd.write(&mut scores.0[cell..], simd.select_less(query, position, zero, weight));
            simd.write(&mut gradients.0[cell..], simd.select_less(query, position, zero, product));
        }
    }
}

/// One tile of the hard rule's walk back.
pub(super) struct Blame<'a> {
    pub(super) first: usize,
    pub(super) keys: &'a Keys,
    pub(super) lambda: f32,
    /// Scores `[32][32]`.
    pub(super) scores: &'a [f32],
    /// The smallest scores before each row, and after the last, `[33][32]`.
    pub(super) minima: &'a [f32],
    pub(super) worth: &'a Tile,
    /// Carried from tile to tile.
    pub(super) carried: &'a mut PerKey,
    /// Written: the gradient of the raw scores.
    pub(super) out: &'a mut Tile,
}

/// What [`Blame`] found.
pub(super) struct Found {
    pub(super) any: bool,
    pub(super) worth: f64,
    pub(super) weight: f64,
}

impl Blame<'_> {
    /// Gives what has been carried to the query whose score is the smallest.
    #[inline(always)]
    pub(super) fn walk<S: Simd>(self, simd: S) -> Found {
        let (zero, one) = (simd.splat(0.0), simd.splat(1.0));
        let (scores, minima) = (&self.scores[..SIDE * SIDE], &self.minima[..SIDE * (SIDE + 1)]);
        let lambda = simd.splat(self.lambda);
        let mut found = Found { any: false, worth: 0.0, weight: 0.0 };
        for at in (0..SIDE).step_by(S::LANES) {
            let decided_from = simd.read(&self.keys.decided_from[at..]);
            let window_end = simd.read(&self.keys.window_end[at..]);
            let mut carried = simd.read(&self.carried.0[at..]);
            let (mut worths, mut weights, mut hits) = (zero, zero, zero);
            let mut smallest = simd.read(&minima[SIDE * SIDE + at..]);
            for q in (0..SIDE).rev() {
                let query = simd.splat((self.first + q) as f32);
                let before = simd.read(&minima[q * SIDE + at..]);
                let score = simd.read(&scores[q * SIDE + at..]);
                let size = simd.max(smallest, simd.sub(zero, smallest));
                let tail = exp(simd, simd.sub(zero, size));
                let sum = simd.add(one, tail);
                let phi = simd.div(tail, simd.mul(sum, sum));
                let phi = simd.select_less(smallest, simd.splat(LOWEST_SCORE), zero, phi);
                let phi = simd.select_less(query, decided_from, zero, phi);
                let phi = simd.select_less(query, window_end, phi, zero);
                let worth = simd.mul(phi, simd.read(&self.worth.0[q * SIDE + at..]));
                worths = simd.add(worths, worth);
                weights = simd.add(weights, phi);
                carried = simd.add(carried, simd.mul_add(phi, lambda, worth));
                let blamed = simd.select_less(score, before, carried, zero);
                hits = simd.add(hits, simd.max(blamed, simd.sub(zero, blamed)));
                simd.write(&mut self.out.0[q * SIDE + at..], blamed);
                carried = simd.select_less(score, before, zero, carried);
                smallest = before;
            }
            simd.write(&mut self.carried.0[at..], carried);
            found.worth += f64::from(simd.sum(worths));
            found.weight += f64::from(simd.sum(weights));
            // NaN must go on to the weights, where the trainer sees it.
            found.any |= simd.sum(hits) != 0.0;
        }
        found
    }
}

/// `d loss / d log I` summed over this query and the later ones: of the attention, and of the pressure.
#[inline(always)]
pub(super) fn suffix_sums<S: Simd>(
    simd: S,
    first: usize,
    keys: &Keys,
    pressure: Option<(f32, usize, &[f32])>,
    worth: &mut Tile,
    pressed: &mut Tile,
    carried: &mut [PerKey; 2],
) {
    let zero = simd.splat(0.0);
    for at in (0..SIDE).step_by(S::LANES) {
        let decided_from = simd.read(&keys.decided_from[at..]);
        let window_end = simd.read(&keys.window_end[at..]);
        let mut sum = simd.read(&carried[0].0[at..]);
        for q in (0..SIDE).rev() {
            let query = simd.splat((first + q) as f32);
            let cell = &mut worth.0[q * SIDE + at..];
            let own = simd.select_less(query, decided_from, zero, simd.read(cell));
            sum = simd.add(sum, simd.select_less(query, window_end, own, zero));
            simd.write(cell, sum);
        }
        simd.write(&mut carried[0].0[at..], sum);
        let Some((per_pair, queries, logs)) = pressure else { continue };
        let mut sum = simd.read(&carried[1].0[at..]);
        for q in (0..SIDE).rev() {
            if first + q < queries {
                let query = simd.splat((first + q) as f32);
                let own = simd.mul(simd.splat(per_pair), exp(simd, simd.read(&logs[q * SIDE + at..])));
                let own = simd.select_less(query, decided_from, zero, own);
                sum = simd.add(sum, simd.select_less(query, window_end, own, zero));
            }
            simd.write(&mut pressed.0[q * SIDE + at..], sum);
        }
        simd.write(&mut carried[1].0[at..], sum);
    }
}

/// `out = (sums + more) * slopes`.
#[inline(always)]
pub(super) fn scaled<S: Simd>(simd: S, sums: &Tile, more: Option<&Tile>, slopes: &[f32], out: &mut Tile) {
    let slopes = &slopes[..SIDE * SIDE];
    for cell in (0..SIDE * SIDE).step_by(S::LANES) {
        let mut sum = simd.read(&sums.0[cell..]);
        if let Some(more) = more {
            sum = simd.add(sum, simd.read(&more.0[cell..]));
        }
        simd.write(&mut out.0[cell..], simd.mul(sum, simd.read(&slopes[cell..])));
    }
}

/// The sum of a tile.
#[inline(always)]
pub(super) fn sum_of<S: Simd>(simd: S, tile: &Tile) -> f64 {
    let mut sums = simd.splat(0.0);
    for cell in tile.0.chunks_exact(S::LANES) {
        sums = simd.add(sums, simd.read(cell));
    }
    f64::from(simd.sum(sums))
}
