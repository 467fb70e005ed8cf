//! The activations, a row at a time, rows shared out over the threads.

use super::GeluKind;
use super::gelu::{gelu_erf, gelu_erf_slope, gelu_tanh, gelu_tanh_slope};
use crate::Team;
use crate::chunks::for_each_piece;
use crate::simd::exp::sigmoid;
use crate::simd::{Isa, Kernel, Simd};

/// `silu_mul` of checked operands.
pub(super) fn silu_mul(team: &Team, isa: Isa, gate_up: &[f32], width: usize, out: &mut [f32]) {
    for_each_piece(team, out, width, &|first, out| {
        let gate_up = &gate_up[2 * first * width..];
        isa.run(SiluMul { gate_up, width, out });
    });
}

struct SiluMul<'a> {
    gate_up: &'a [f32],
    width: usize,
    out: &'a mut [f32],
}

impl Kernel for SiluMul<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        for (row, out) in self.gate_up.chunks(2 * self.width).zip(self.out.chunks_mut(self.width)) {
            let (gate, up) = row.split_at(self.width);
            let whole = self.width / S::LANES * S::LANES;
            for at in (0..whole).step_by(S::LANES) {
                let y = gated(simd, simd.read(&gate[at..]), simd.read(&up[at..]));
                simd.write(&mut out[at..], y);
            }
            if whole < self.width {
                let (gate, up) = (&gate[whole..], &up[whole..]);
                let y = gated(simd, simd.read_partial(gate, 0.0), simd.read_partial(up, 0.0));
                simd.write_partial(&mut out[whole..], y);
            }
        }
    }
}

#[inline(always)]
fn gated<S: Simd>(simd: S, gate: S::V, up: S::V) -> S::V {
    simd.mul(simd.mul(gate, sigmoid(simd, gate)), up)
}

/// `gelu`, or with `dy` `gelu_backward`, of checked operands.
pub(super) fn gelu(team: &Team, isa: Isa, kind: GeluKind, x: &[f32], dy: Option<&[f32]>, out: &mut [f32]) {
    for_each_piece(team, out, 1, &|first, out| {
        let x = &x[first..first + out.len()];
        let dy = dy.map(|dy| &dy[first..first + out.len()]);
        isa.run(Gelu { kind, x, dy, out });
    });
}

struct Gelu<'a> {
    kind: GeluKind,
    x: &'a [f32],
    /// The gradient that the slope is multiplied by; without it the function itself is wanted.
    dy: Option<&'a [f32]>,
    out: &'a mut [f32],
}

impl Kernel for Gelu<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        for at in (0..self.out.len()).step_by(S::LANES) {
            let x = read(simd, &self.x[at..]);
            let y = match (self.dy, self.kind) {
                (None, GeluKind::Tanh) => gelu_tanh(simd, x),
                (None, GeluKind::Erf) => gelu_erf(simd, x),
                (Some(dy), GeluKind::Tanh) => simd.mul(read(simd, &dy[at..]), gelu_tanh_slope(simd, x)),
                (Some(dy), GeluKind::Erf) => simd.mul(read(simd, &dy[at..]), gelu_erf_slope(simd, x)),
            };
            write(simd, &mut self.out[at..], y);
        }
    }
}

/// `silu_mul_backward` of checked operands.
pub(super) fn silu_mul_backward(
    team: &Team,
    isa: Isa,
    gate_up: &[f32],
    width: usize,
    dy: &[f32],
    d_gate_up: &mut [f32],
) {
    for_each_piece(team, d_gate_up, 2 * width, &|first, out| {
        let gate_up = &gate_up[2 * first * width..][..out.len()];
        let dy = &dy[first * width..][..out.len() / 2];
        isa.run(SiluMulBackward { gate_up, width, dy, out });
    });
}

struct SiluMulBackward<'a> {
    gate_up: &'a [f32],
    width: usize,
    dy: &'a [f32],
    out: &'a mut [f32],
}

impl Kernel for SiluMulBackward<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let one = simd.splat(1.0);
        let rows = self.gate_up.chunks(2 * self.width).zip(self.dy.chunks(self.width));
        for ((row, dy), out) in rows.zip(self.out.chunks_mut(2 * self.width)) {
            let (gate, up) = row.split_at(self.width);
            let (d_gate, d_up) = out.split_at_mut(self.width);
            for at in (0..self.width).step_by(S::LANES) {
                let (gate, up) = (read(simd, &gate[at..]), read(simd, &up[at..]));
                let dy = read(simd, &dy[at..]);
                let share = sigmoid(simd, gate);
                let slope = simd.mul(share, simd.mul_add(gate, simd.sub(one, share), one));
                write(simd, &mut d_gate[at..], simd.mul(simd.mul(dy, up), slope));
                write(simd, &mut d_up[at..], simd.mul(simd.mul(gate, share), dy));
            }
        }
    }
}

#[inline(always)]
fn read<S: Simd>(simd: S, from: &[f32]) -> S::V {
    if from.len() >= S::LANES { simd.read(from) } else { simd.read_partial(from, 0.0) }
}

#[inline(always)]
fn write<S: Simd>(simd: S, to: &mut [f32], y: S::V) {
    if to.len() >= S::LANES {
        simd.write(to, y);
    } else {
        simd.write_partial(to, y);
    }
}
