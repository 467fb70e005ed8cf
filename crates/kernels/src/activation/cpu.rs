//! The activations, a row at a time, rows shared out over the threads.

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
