//! The rotation, a head at a time, rows shared out over the threads.

use super::RopeAngles;
use crate::Team;
use crate::chunks::for_each_piece;
use crate::simd::{Isa, Kernel, Simd};

/// `rotate`, or with `BACK` `rotate_back`, of checked operands with at least one head and one pair.
#[allow(clippy::too_many_arguments)] // the operation's own arguments
pub(super) fn rotate<const BACK: bool>(
    team: &Team,
    isa: Isa,
    rows: &mut [f32],
    stride: usize,
    offset: usize,
    heads: usize,
    head_dim: usize,
    angles: &RopeAngles,
) {
    let pairs = angles.pairs;
    for_each_piece(team, rows, stride, &|first, rows| {
        for (i, row) in rows.chunks_exact_mut(stride).enumerate() {
            let range = (first + i) * pairs..(first + i + 1) * pairs;
            let (cos, sin) = (&angles.cos[range.clone()], &angles.sin[range]);
            let heads = &mut row[offset..offset + heads * head_dim];
            isa.run(Rotate::<'_, BACK> { heads, head_dim, cos, sin });
        }
    });
}

struct Rotate<'a, const BACK: bool> {
    heads: &'a mut [f32],
    head_dim: usize,
    cos: &'a [f32],
    sin: &'a [f32],
}

impl<const BACK: bool> Kernel for Rotate<'_, BACK> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let pairs = self.cos.len();
        let whole = pairs / S::LANES * S::LANES;
        for head in self.heads.chunks_exact_mut(self.head_dim) {
            let (low, high) = head[..2 * pairs].split_at_mut(pairs);
            for at in (0..whole).step_by(S::LANES) {
                let (cos, sin) = (simd.read(&self.cos[at..]), simd.read(&self.sin[at..]));
                let (a, b) = turn::<S, BACK>(simd, simd.read(&low[at..]), simd.read(&high[at..]), cos, sin);
                simd.write(&mut low[at..], a);
                simd.write(&mut high[at..], b);
            }
            if whole < pairs {
                let cos = simd.read_partial(&self.cos[whole..], 0.0);
                let sin = simd.read_partial(&self.sin[whole..], 0.0);
                let (low, high) = (&mut low[whole..], &mut high[whole..]);
                let (a, b) = turn::<S, BACK>(
                    simd,
                    simd.read_partial(low, 0.0),
                    simd.read_partial(high, 0.0),
                    cos,
                    sin,
                );
                simd.write_partial(low, a);
                simd.write_partial(high, b);
            }
        }
    }
}

/// A pair turned by an angle, or by its negative.
#[inline(always)]
fn turn<S: Simd, const BACK: bool>(simd: S, a: S::V, b: S::V, cos: S::V, sin: S::V) -> (S::V, S::V) {
    if BACK {
        (simd.add(simd.mul(a, cos), simd.mul(b, sin)), simd.sub(simd.mul(b, cos), simd.mul(a, sin)))
    } else {
        (simd.sub(simd.mul(a, cos), simd.mul(b, sin)), simd.add(simd.mul(b, cos), simd.mul(a, sin)))
    }
}
