//! The first pass: each key's running value at the start of every block, and when it expires.

use super::Rule;
use super::gate::{Gates, PerKey, hard_rows, offset, raw, soft_rows};
use super::pack::{Lines, Tile};
use super::plan::{DEAD, HUGE, Keys, LOWEST_SCORE, Plan, SIDE};
use crate::chunks::Pieces;
use crate::simd::exp::exp;
use crate::simd::{Isa, Kernel, Simd};

/// One panel of keys under one voter.
pub(super) struct Follow<'a> {
    pub(super) isa: Isa,
    pub(super) plan: &'a Plan,
    pub(super) rule: Rule<'a>,
    pub(super) gates: Gates<'a>,
    /// `[T]` of this gate head.
    pub(super) noise: Option<&'a [f32]>,
    pub(super) panel: usize,
    /// The whole of it, and where this voter's trail starts.
    pub(super) trail: (&'a Pieces<'a, f32>, usize),
    /// What the own voter's keys are also asked for.
    pub(super) own: Option<Own<'a>>,
}

/// This panel's place in the results.
pub(super) struct Own<'a> {
    /// At most 32.
    pub(super) expires_at: &'a mut [u32],
    pub(super) gates: &'a mut [f64; 2],
}

impl Kernel for Follow<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let (plan, panel) = (self.plan, self.panel);
        let keys = Keys::new(&plan.shape, panel);
        let mut packed = Lines::zeroed(plan.gate * SIDE);
        let mut spare = Lines::zeroed(plan.gate * SIDE);
        Gates::panel_of(self.gates.key, panel).panel(self.gates.factor, &mut packed);
        let hard = matches!(self.rule, Rule::Hard { .. });
        let offset = offset(self.gates.bias, self.noise, panel);
        let latest = keys.decided_from.iter().copied().fold(0.0, f32::max);
        let mut running = PerKey([if hard { HUGE } else { 0.0 }; SIDE]);
        let mut refused = PerKey([HUGE; SIDE]);
        let mut gates = [0.0; 2];
        let (mut tile, mut minima) = (Tile::ZERO, Tile::ZERO);
        let mut over = false;
        let first_block = panel * SIDE / plan.block;
        for block in first_block..plan.blocks() {
            if block > first_block {
                let at = self.trail.1 + plan.trail_start(block) + panel * SIDE;
                // SAFETY: the piece of this voter, block and panel, which no other task has.
                unsafe { self.trail.0.range(at, SIDE) }.copy_from_slice(&running.0);
            }
            for at in plan.tiles(block, panel) {
                let first = at * SIDE;
                over = over || self.is_over(hard, &running, first as f32 >= latest);
                if over {
                    break;
                }
                let rows = (plan.tokens() - first).min(SIDE);
                raw(self.isa, self.gates.tile(at, &mut spare), &packed, plan.gate, &mut tile.0);
                match self.rule {
                    Rule::Hard { .. } => {
                        hard_rows(simd, &offset, first, &keys, &mut running, &mut tile.0, &mut minima.0);
                        if self.own.is_some() {
                            refusals(simd, (first, rows), None, &tile, &keys, &mut refused);
                        }
                    }
                    Rule::Soft { curve } => {
                        if self.own.is_some() {
                            refusals(simd, (first, rows), Some(self.gates.bias), &tile, &keys, &mut refused);
                        }
                        let bias = self.gates.bias;
                        soft_rows(simd, curve, bias, first, &keys, &mut running, &mut tile.0, None);
                        if self.own.is_some() {
                            let inner = (plan.tokens() - 1 - first).min(SIDE);
                            gates[0] += sum_of_gates(simd, first, 0..inner, &tile, &keys);
                            gates[1] += sum_of_gates(simd, first, inner..rows, &tile, &keys);
                        }
                    }
                }
            }
        }
        if let Some(own) = self.own {
            *own.gates = gates;
            expiries(plan, panel, &refused, own.expires_at);
        }
    }
}

impl Follow<'_> {
    /// Whether later votes change nothing that anyone looks at.
    #[inline(always)]
    fn is_over(&self, hard: bool, running: &PerKey, decided: bool) -> bool {
        if hard {
            running.0.iter().all(|&m| m < LOWEST_SCORE)
        } else {
            decided && running.0.iter().all(|&sum| sum <= 0.5 * DEAD)
        }
    }
}

/// When the keys of a panel expire, at most 32, from the first queries that refuse them.
pub(super) fn expiries(plan: &Plan, panel: usize, refused: &PerKey, to: &mut [u32]) {
    for (i, to) in to.iter_mut().enumerate() {
        let key = (panel * SIDE + i) as u32;
        let never = key < plan.shape.sinks || refused.0[i] >= HUGE;
        let query = refused.0[i] as u32;
        *to = if never { u32::MAX } else { query.max(key.saturating_add(plan.shape.recent)) };
    }
}

/// The first of `rows` whose score (raw and bias, where that is given) is not positive.
#[inline(always)]
pub(super) fn refusals<S: Simd>(
    simd: S,
    (first, rows): (usize, usize),
    bias: Option<f32>,
    tile: &Tile,
    keys: &Keys,
    refused: &mut PerKey,
) {
    let bias = simd.splat(bias.unwrap_or(0.0));
    let (zero, huge) = (simd.splat(0.0), simd.splat(HUGE));
    for at in (0..SIDE).step_by(S::LANES) {
        let position = simd.read(&keys.position[at..]);
        let mut earliest = simd.read(&refused.0[at..]);
        for q in 0..rows {
            let score = simd.add(simd.read(&tile.0[q * SIDE + at..]), bias);
            let query = simd.splat((first + q) as f32);
            let refuses = simd.select_less(zero, score, huge, query);
            let refuses = simd.select_less(position, query, refuses, huge);
            earliest = simd.min(earliest, refuses);
        }
        simd.write(&mut refused.0[at..], earliest);
    }
}

/// Of the pairs of some rows, from the running sums of logarithms.
#[inline(always)]
pub(super) fn sum_of_gates<S: Simd>(
    simd: S,
    first: usize,
    rows: std::ops::Range<usize>,
    tile: &Tile,
    keys: &Keys,
) -> f64 {
    let (zero, one) = (simd.splat(0.0), simd.splat(1.0));
    let mut total = 0.0;
    for at in (0..SIDE).step_by(S::LANES) {
        let position = simd.read(&keys.position[at..]);
        let decided_from = simd.read(&keys.decided_from[at..]);
        let window_end = simd.read(&keys.window_end[at..]);
        let mut sum = zero;
        for q in rows.clone() {
            let query = simd.splat((first + q) as f32);
            let gate = exp(simd, simd.read(&tile.0[q * SIDE + at..]));
            let gate = simd.select_less(query, decided_from, one, gate);
            let gate = simd.select_less(query, window_end, gate, zero);
            sum = simd.add(sum, simd.select_less(query, position, zero, gate));
        }
        total += f64::from(simd.sum(sum));
    }
    total
}
