//! 8 lanes as plain arrays, for machines and interpreters without the x86 extensions.

use half::{bf16, f16};

use super::{Fours, MESH_SHIFT, Simd};

/// No proof needed.
#[derive(Clone, Copy)]
pub(crate) struct Portable;

/// Lanes of an array vector.
const LANES: usize = 8;

#[inline(always)]
fn map(a: [f32; LANES], f: impl Fn(f32) -> f32) -> [f32; LANES] {
    std::array::from_fn(|i| f(a[i]))
}

#[inline(always)]
fn zip(a: [f32; LANES], b: [f32; LANES], f: impl Fn(f32, f32) -> f32) -> [f32; LANES] {
    std::array::from_fn(|i| f(a[i], b[i]))
}

#[inline(always)]
fn dot(a: &[[[u8; 4]; LANES]; 8], x: &impl Fours<Portable>, number: impl Fn(u8) -> i32) -> [f32; LANES] {
    let mut sums = [0i32; LANES];
    for (i, a) in a.iter().enumerate() {
        for ((sum, a), x) in sums.iter_mut().zip(a).zip(&x.four(Portable, i)) {
            for (&a, &x) in a.iter().zip(x) {
                *sum += number(a) * i32::from(x as i8);
            }
        }
    }
    sums.map(|sum| sum as f32)
}

impl Simd for Portable {
    type V = [f32; LANES];
    type Bytes = [[u8; 4]; LANES];
    const LANES: usize = LANES;
    const TILE_ROWS: usize = 4;

    #[inline(always)]
    fn splat(self, value: f32) -> Self::V {
        [value; LANES]
    }
    #[inline(always)]
    fn add(self, a: Self::V, b: Self::V) -> Self::V {
        zip(a, b, |a, b| a + b)
    }
    #[inline(always)]
    fn sub(self, a: Self::V, b: Self::V) -> Self::V {
        zip(a, b, |a, b| a - b)
    }
    #[inline(always)]
    fn mul(self, a: Self::V, b: Self::V) -> Self::V {
        zip(a, b, |a, b| a * b)
    }
    #[inline(always)]
    fn div(self, a: Self::V, b: Self::V) -> Self::V {
        zip(a, b, |a, b| a / b)
    }
    #[inline(always)]
    fn sqrt(self, a: Self::V) -> Self::V {
        map(a, f32::sqrt)
    }
    #[inline(always)]
    fn mul_add(self, a: Self::V, b: Self::V, c: Self::V) -> Self::V {
        // Without the instruction `mul_add` is a library call per lane.
        if cfg!(any(target_arch = "aarch64", target_feature = "fma")) {
            std::array::from_fn(|i| a[i].mul_add(b[i], c[i]))
        } else {
            std::array::from_fn(|i| a[i] * b[i] + c[i])
        }
    }
    #[inline(always)]
    fn min(self, a: Self::V, b: Self::V) -> Self::V {
        zip(a, b, |a, b| if a < b { a } else { b })
    }
    #[inline(always)]
    fn max(self, a: Self::V, b: Self::V) -> Self::V {
        zip(a, b, |a, b| if a > b { a } else { b })
    }
    #[inline(always)]
    fn round(self, a: Self::V) -> Self::V {
        // Adding and taking away 1.5 * 2^23 rounds what is smaller than 2^22, which is all that `exp` asks for.
        const SHIFT: f32 = 12_582_912.0;
        map(a, |a| if a.abs() < 4_194_304.0 { (a + SHIFT) - SHIFT } else { a.round_ties_even() })
    }
    #[inline(always)]
    fn scale(self, a: Self::V, n: Self::V) -> Self::V {
        let power = |n: i32| f32::from_bits(((n + 127) as u32) << 23);
        zip(a, n, |a, n| {
            // A NaN casts to 0 here; the bounds keep any other lane from overflowing the exponent field.
            let n = (n as i32).clamp(-252, 254);
            a * power(n >> 1) * power(n - (n >> 1))
        })
    }
    #[inline(always)]
    fn select_less(self, a: Self::V, b: Self::V, yes: Self::V, no: Self::V) -> Self::V {
        std::array::from_fn(|i| if a[i] < b[i] { yes[i] } else { no[i] })
    }
    #[inline(always)]
    fn sum(self, a: Self::V) -> f32 {
        let four: [f32; 4] = std::array::from_fn(|i| a[i] + a[i + 4]);
        (four[0] + four[2]) + (four[1] + four[3])
    }
    #[inline(always)]
    fn largest(self, a: Self::V) -> f32 {
        a.into_iter().fold(f32::NEG_INFINITY, f32::max)
    }
    #[inline(always)]
    fn split(self, a: Self::V) -> (Self::V, Self::V) {
        // The bits of sqrt(1/2); what is above them in the exponent field is the exponent.
        const HALF: u32 = 0x3f35_04f3;
        let exponent = a.map(|a| (a.to_bits().wrapping_sub(HALF) as i32) >> 23);
        let mantissa =
            std::array::from_fn(|i| f32::from_bits(a[i].to_bits().wrapping_sub((exponent[i] as u32) << 23)));
        (mantissa, exponent.map(|e| e as f32))
    }
    #[inline(always)]
    fn mesh(self, a: Self::V, origin: u32, cells: &[[f32; 4]]) -> (Self::V, [Self::V; 4]) {
        let last = cells.len() - 1;
        let start = map(a, |a| f32::from_bits(a.to_bits() >> MESH_SHIFT << MESH_SHIFT));
        let cell: [[f32; 4]; LANES] = std::array::from_fn(|i| {
            cells[((a[i].to_bits() >> MESH_SHIFT).wrapping_sub(origin) as usize).min(last)]
        });
        (zip(a, start, |a, start| a - start), std::array::from_fn(|c| cell.map(|cell| cell[c])))
    }
    #[inline(always)]
    fn bounds(self, all: &[u32; 32]) -> (u32, u32) {
        (all.iter().copied().fold(u32::MAX, u32::min), all.iter().copied().fold(0, u32::max))
    }
    #[inline(always)]
    unsafe fn load(self, from: *const f32) -> Self::V {
        // SAFETY: the caller's promise; an array of f32 needs no more alignment than `read_unaligned` asks for.
        unsafe { from.cast::<Self::V>().read_unaligned() }
    }
    #[inline(always)]
    unsafe fn load_f16(self, from: *const f16) -> Self::V {
        // SAFETY: the caller's promise.
        unsafe { from.cast::<[f16; LANES]>().read_unaligned() }.map(f16::to_f32)
    }
    #[inline(always)]
    unsafe fn load_bf16(self, from: *const bf16) -> Self::V {
        // SAFETY: the caller's promise.
        unsafe { from.cast::<[bf16; LANES]>().read_unaligned() }
            .map(|x| f32::from_bits(u32::from(x.to_bits()) << 16))
    }
    #[inline(always)]
    unsafe fn load_u8(self, from: *const u8) -> Self::V {
        // SAFETY: the caller's promise; bytes have no alignment.
        unsafe { from.cast::<[u8; LANES]>().read() }.map(f32::from)
    }
    #[inline(always)]
    unsafe fn load_nibbles(self, from: *const u8, shift: u32) -> Self::V {
        // SAFETY: the caller's promise; bytes have no alignment.
        unsafe { from.cast::<[u8; LANES]>().read() }.map(|byte| f32::from(byte >> shift & 15))
    }
    #[inline(always)]
    unsafe fn load_bytes(self, from: *const u8) -> Self::Bytes {
        // SAFETY: the caller's promise; bytes have no alignment.
        unsafe { from.cast::<Self::Bytes>().read_unaligned() }
    }
    #[inline(always)]
    fn no_bytes(self) -> Self::Bytes {
        [[0; 4]; LANES]
    }
    #[inline(always)]
    fn nibbles(self, a: Self::Bytes) -> (Self::Bytes, Self::Bytes) {
        (a.map(|lane| lane.map(|byte| byte & 15)), a.map(|lane| lane.map(|byte| byte >> 4)))
    }
    #[inline(always)]
    fn splat_bytes(self, four: [i8; 4]) -> Self::Bytes {
        let [a, b, c, d] = four;
        [[a as u8, b as u8, c as u8, d as u8]; LANES]
    }
    #[inline(always)]
    fn dot_nibbles<X: Fours<Self>>(self, a: &[Self::Bytes; 8], x: &X) -> Self::V {
        dot(a, x, i32::from)
    }
    #[inline(always)]
    fn dot_bytes<X: Fours<Self>>(self, a: &[Self::Bytes; 8], x: &X) -> Self::V {
        dot(a, x, |byte| i32::from(byte as i8))
    }
    #[inline(always)]
    unsafe fn store(self, to: *mut f32, a: Self::V) {
        // SAFETY: the caller's promise.
        unsafe { to.cast::<Self::V>().write_unaligned(a) }
    }
    #[inline(always)]
    fn prefetch<T>(self, _address: *const T) {}
}
