//! The norms, a row at a time, rows shared out over the threads.

use crate::Team;
use crate::chunks::for_each_piece;
use crate::simd::{Isa, Kernel, Simd};

/// Both norms of checked operands: with a bias it is the layer norm, without the RMS norm.
pub(super) fn norm(
    team: &Team,
    isa: Isa,
    x: &[f32],
    weight: &[f32],
    bias: Option<&[f32]>,
    epsilon: f32,
    out: &mut [f32],
) {
    let width = weight.len();
    for_each_piece(team, out, width, &|first, out| {
        let x = &x[first * width..];
        isa.run(Norm { x, weight, bias, epsilon, out });
    });
}

/// The RMS norm in place, of checked operands.
#[allow(clippy::too_many_arguments)] // the operation's own arguments
pub(super) fn rms_norm_heads(
    team: &Team,
    isa: Isa,
    rows: &mut [f32],
    stride: usize,
    offset: usize,
    heads: usize,
    weight: &[f32],
    epsilon: f32,
) {
    for_each_piece(team, rows, stride, &|_, rows| {
        for row in rows.chunks_exact_mut(stride.max(1)) {
            isa.run(Heads { row: &mut row[offset..offset + heads * weight.len()], weight, epsilon });
        }
    });
}

struct Norm<'a> {
    x: &'a [f32],
    weight: &'a [f32],
    bias: Option<&'a [f32]>,
    epsilon: f32,
    out: &'a mut [f32],
}

impl Kernel for Norm<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let width = self.weight.len();
        for (x, out) in self.x.chunks_exact(width).zip(self.out.chunks_exact_mut(width)) {
            match self.bias {
                Some(bias) => {
                    let mean = sum::<S, false>(simd, x, 0.0) / width as f32;
                    let variance = sum::<S, true>(simd, x, mean) / width as f32;
                    let scale = simd.splat(1.0 / (variance + self.epsilon).sqrt());
                    let mean = simd.splat(mean);
                    for at in (0..width).step_by(S::LANES) {
                        let x = simd.mul(simd.sub(read(simd, &x[at..]), mean), scale);
                        let y = simd.mul_add(x, read(simd, &self.weight[at..]), read(simd, &bias[at..]));
                        write(simd, &mut out[at..], y);
                    }
                }
                None => {
                    let scale = rms_scale(simd, x, self.epsilon);
                    for at in (0..width).step_by(S::LANES) {
                        let x = simd.mul(read(simd, &x[at..]), scale);
                        write(simd, &mut out[at..], simd.mul(x, read(simd, &self.weight[at..])));
                    }
                }
            }
        }
    }
}

struct Heads<'a> {
    row: &'a mut [f32],
    weight: &'a [f32],
    epsilon: f32,
}

impl Kernel for Heads<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        for head in self.row.chunks_exact_mut(self.weight.len()) {
            let scale = rms_scale(simd, head, self.epsilon);
            for at in (0..head.len()).step_by(S::LANES) {
                let x = simd.mul(read(simd, &head[at..]), scale);
                write(simd, &mut head[at..], simd.mul(x, read(simd, &self.weight[at..])));
            }
        }
    }
}

#[inline(always)]
fn rms_scale<S: Simd>(simd: S, x: &[f32], epsilon: f32) -> S::V {
    let squares = sum::<S, true>(simd, x, 0.0);
    simd.splat(1.0 / (squares / x.len() as f32 + epsilon).sqrt())
}

/// A vector from the start of a row's rest, however short.
#[inline(always)]
pub(super) fn read<S: Simd>(simd: S, from: &[f32]) -> S::V {
    if from.len() >= S::LANES { simd.read(from) } else { simd.read_partial(from, 0.0) }
}

#[inline(always)]
pub(super) fn write<S: Simd>(simd: S, to: &mut [f32], y: S::V) {
    if to.len() >= S::LANES {
        simd.write(to, y);
    } else {
        simd.write_partial(to, y);
    }
}

/// The sum of a row, or of the squares of its distances from `centre`, in four chains of vectors (so that the latency
/// of an addition does not limit it) that meet in a fixed order.
#[inline(always)]
pub(super) fn sum<S: Simd, const SQUARES: bool>(simd: S, x: &[f32], centre: f32) -> f32 {
    let mut sums = [simd.splat(0.0); 4];
    let mut blocks = x.chunks_exact(4 * S::LANES);
    for block in &mut blocks {
        for (sum, x) in sums.iter_mut().zip(block.chunks_exact(S::LANES)) {
            *sum = add::<S, SQUARES>(simd, *sum, simd.read(x), centre);
        }
    }
    for (sum, x) in sums.iter_mut().zip(blocks.remainder().chunks(S::LANES)) {
        // The centre is as far from itself as nothing.
        *sum = add::<S, SQUARES>(simd, *sum, simd.read_partial(x, centre), centre);
    }
    let [a, b, c, d] = sums;
    simd.sum(simd.add(simd.add(a, b), simd.add(c, d)))
}

#[inline(always)]
fn add<S: Simd, const SQUARES: bool>(simd: S, sum: S::V, x: S::V, centre: f32) -> S::V {
    if SQUARES {
        let x = simd.sub(x, simd.splat(centre));
        simd.mul_add(x, x, sum)
    } else {
        simd.add(sum, x)
    }
}
