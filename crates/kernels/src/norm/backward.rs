//! The gradients of the norms.
//!
//! With n the normed row before the weight, 1/scale its divisor and g = dy * weight, `dx = scale * (g - mean(g) -
//! n * mean(g n))`; the RMS norm has no mean(g). The statistics are computed again from x, which costs less than
//! keeping them. The sums over rows are cut by the number of rows alone, so nothing depends on the threads.

#[cfg(test)]
mod tests;

use super::cpu::{read, sum, write};
use super::{check_rows, check_weight};
use crate::chunks::{Pieces, sum_over_rows};
use crate::error::check_length;
use crate::simd::{Isa, Kernel, Simd};
use crate::{KernelError, Team};

/// Adds to `dx`, `[t, c]`, `dweight` and `dbias`, `[c]`, the gradients of [`layer_norm`](super::layer_norm)'s operands,
/// given `dy`, `[t, c]`, that of its result.
///
/// Errors: no weight, or lengths that do not agree.
#[allow(clippy::too_many_arguments)] // the operation's own arguments
pub fn layer_norm_backward(
    team: &Team,
    x: &[f32],
    weight: &[f32],
    epsilon: f32,
    dy: &[f32],
    dx: &mut [f32],
    dweight: &mut [f32],
    dbias: &mut [f32],
) -> Result<(), KernelError> {
    const OP: &str = "layer_norm_backward";
    check_operands(OP, x, weight, dy, dx, dweight)?;
    check_length(OP, "dbias", weight.len(), dbias.len())?;
    let isa = Isa::best();
    let width = weight.len();
    let dx = Pieces::new(dx);
    sum_over_rows(team, x.len() / width, [dweight, dbias], &|rows, [dweight, dbias]| {
        let range = rows.start * width..rows.end * width;
        // SAFETY: each range of rows is one task's.
        let dx = unsafe { dx.range(range.start, range.len()) };
        let (x, dy) = (&x[range.clone()], &dy[range]);
        isa.run(Backward::<'_, true> { x, weight, epsilon, dy: Some(dy), dx, dweight, dbias });
    });
    Ok(())
}

/// Adds to `dx`, `[t, c]`, and `dweight`, `[c]`, the gradients of [`rms_norm`](super::rms_norm)'s operands, given `dy`,
/// `[t, c]`, that of its result.
///
/// Errors: no weight, or lengths that do not agree.
pub fn rms_norm_backward(
    team: &Team,
    x: &[f32],
    weight: &[f32],
    epsilon: f32,
    dy: &[f32],
    dx: &mut [f32],
    dweight: &mut [f32],
) -> Result<(), KernelError> {
    check_operands("rms_norm_backward", x, weight, dy, dx, dweight)?;
    let isa = Isa::best();
    let width = weight.len();
    let dx = Pieces::new(dx);
    sum_over_rows(team, x.len() / width, [dweight], &|rows, [dweight]| {
        let range = rows.start * width..rows.end * width;
        // SAFETY: each range of rows is one task's.
        let dx = unsafe { dx.range(range.start, range.len()) };
        let (x, dy) = (&x[range.clone()], &dy[range]);
        isa.run(Backward::<'_, false> { x, weight, epsilon, dy: Some(dy), dx, dweight, dbias: &mut [] });
    });
    Ok(())
}

/// The gradient of [`rms_norm_heads`](super::rms_norm_heads): `d`, `[t, stride]`, holds that of the result and becomes
/// that of the operand, in place in the `heads` vectors from `offset` of each row; `x`, `[t, stride]`, is the operand,
/// before the norm. Adds the weight's to `dweight`, `[d]`.
///
/// Errors: no weight, rows that are not whole or do not agree, or heads that reach past a row's end.
#[allow(clippy::too_many_arguments)] // the operation's own arguments
pub fn rms_norm_heads_backward(
    team: &Team,
    x: &[f32],
    stride: usize,
    offset: usize,
    heads: usize,
    weight: &[f32],
    epsilon: f32,
    d: &mut [f32],
    dweight: &mut [f32],
) -> Result<(), KernelError> {
    const OP: &str = "rms_norm_heads_backward";
    check_weight(OP, weight)?;
    crate::rope::check_heads(OP, x, stride, offset, heads, weight.len())?;
    check_length(OP, "d", x.len(), d.len())?;
    check_length(OP, "dweight", weight.len(), dweight.len())?;
    let isa = Isa::best();
    let width = heads * weight.len();
    let d = Pieces::new(d);
    let rows = x.len().checked_div(stride).unwrap_or(0);
    sum_over_rows(team, rows, [dweight], &|rows, [dweight]| {
        for row in rows {
            let at = row * stride + offset;
            // SAFETY: each row is one task's.
            let dx = unsafe { d.range(at, width) };
            let (x, dweight) = (&x[at..at + width], &mut *dweight);
            isa.run(Backward::<'_, false> { x, weight, epsilon, dy: None, dx, dweight, dbias: &mut [] });
        }
    });
    Ok(())
}

fn check_operands(
    op: &'static str,
    x: &[f32],
    weight: &[f32],
    dy: &[f32],
    dx: &[f32],
    dweight: &[f32],
) -> Result<(), KernelError> {
    check_rows(op, x, weight, dx)?;
    check_length(op, "dy", x.len(), dy.len())?;
    check_length(op, "dweight", weight.len(), dweight.len())
}

/// Rows of the layer norm when CENTRED, else of the RMS norm.
struct Backward<'a, const CENTRED: bool> {
    x: &'a [f32],
    weight: &'a [f32],
    epsilon: f32,
    /// Added to `dx` when given, else `dx` holds it and is overwritten.
    dy: Option<&'a [f32]>,
    dx: &'a mut [f32],
    dweight: &'a mut [f32],
    dbias: &'a mut [f32],
}

impl<const CENTRED: bool> Kernel for Backward<'_, CENTRED> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let width = self.weight.len();
        for (row, (x, dx)) in self.x.chunks_exact(width).zip(self.dx.chunks_exact_mut(width)).enumerate() {
            let mean = if CENTRED { sum::<S, false>(simd, x, 0.0) / width as f32 } else { 0.0 };
            let variance = sum::<S, true>(simd, x, mean) / width as f32;
            let scale = simd.splat(1.0 / (variance + self.epsilon).sqrt());
            let mean = simd.splat(mean);
            let dy = self.dy.map(|dy| &dy[row * width..(row + 1) * width]);
            let (mut sum, mut product) = (simd.splat(0.0), simd.splat(0.0));
            for at in (0..width).step_by(S::LANES) {
                let dy = read(simd, dy.map_or(&dx[at..], |dy| &dy[at..]));
                let g = simd.mul(dy, read(simd, &self.weight[at..]));
                let n = simd.mul(simd.sub(read(simd, &x[at..]), mean), scale);
                sum = simd.add(sum, g);
                product = simd.mul_add(g, n, product);
            }
            let sum = simd.splat(if CENTRED { simd.sum(sum) / width as f32 } else { 0.0 });
            let product = simd.splat(simd.sum(product) / width as f32);
            for at in (0..width).step_by(S::LANES) {
                let before = read(simd, &dx[at..]);
                let (dy, before) = match dy {
                    Some(dy) => (read(simd, &dy[at..]), before),
                    None => (before, simd.splat(0.0)),
                };
                let g = simd.mul(dy, read(simd, &self.weight[at..]));
                let n = simd.mul(simd.sub(read(simd, &x[at..]), mean), scale);
                let centred = simd.sub(simd.sub(g, sum), simd.mul(n, product));
                write(simd, &mut dx[at..], simd.mul_add(centred, scale, before));
                let dweight = &mut self.dweight[at..];
                write(simd, dweight, simd.mul_add(dy, n, read(simd, dweight)));
                if CENTRED {
                    let dbias = &mut self.dbias[at..];
                    write(simd, dbias, simd.add(dy, read(simd, dbias)));
                }
            }
        }
    }
}
