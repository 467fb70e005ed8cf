//! 16 lanes: AVX-512 F, BW, DQ and VL.

use std::arch::x86_64::*;

use half::{bf16, f16};

use super::{Fours, Kernel, MESH_SHIFT, Simd};

/// Proof that the machine has AVX-512 F, BW, DQ, VL, and AVX2 with FMA and F16C; and VNNI if so.
#[derive(Clone, Copy)]
pub(crate) struct Avx512<const VNNI: bool>(());

/// Runs a kernel with AVX-512.
///
/// # Safety
/// The machine must have the features named in the attribute.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c")]
pub(super) unsafe fn enter<K: Kernel>(kernel: K) -> K::Output {
    kernel.run(Avx512::<false>(()))
}

/// Runs a kernel with AVX-512 and its dot products of bytes.
///
/// # Safety
/// The machine must have the features named in the attribute.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c")]
pub(super) unsafe fn enter_vnni<K: Kernel>(kernel: K) -> K::Output {
    kernel.run(Avx512::<true>(()))
}

/// Sums of four products in each lane, in two chains, because one takes longer than there are other rows to wait for.
///
/// # Safety
/// The machine must have AVX-512 VNNI.
#[inline(always)]
unsafe fn dot<const VNNI: bool>(
    simd: Avx512<VNNI>,
    a: &[__m512i; 8],
    x: &impl Fours<Avx512<VNNI>>,
) -> __m512 {
    // SAFETY: the caller's promise. The left operand is unsigned, the right one signed, and sums of 32 bits do not overflow.
    unsafe {
        let mut sums = [_mm512_setzero_si512(); 2];
        for (i, &a) in a.iter().enumerate() {
            sums[i % 2] = _mm512_dpbusd_epi32(sums[i % 2], a, x.four(simd, i));
        }
        _mm512_cvtepi32_ps(_mm512_add_epi32(sums[0], sums[1]))
    }
}

impl<const VNNI: bool> Simd for Avx512<VNNI> {
    type V = __m512;
    type Bytes = __m512i;
    const LANES: usize = 16;
    const TILE_ROWS: usize = 14;
    // That instruction's left operand has no sign.
    const SIGN: f32 = if VNNI { 128.0 } else { 0.0 };

    #[inline(always)]
    fn splat(self, value: f32) -> __m512 {
        // SAFETY: the token proves the features; so below.
        unsafe { _mm512_set1_ps(value) }
    }
    #[inline(always)]
    fn add(self, a: __m512, b: __m512) -> __m512 {
        // SAFETY: the token.
        unsafe { _mm512_add_ps(a, b) }
    }
    #[inline(always)]
    fn sub(self, a: __m512, b: __m512) -> __m512 {
        // SAFETY: the token.
        unsafe { _mm512_sub_ps(a, b) }
    }
    #[inline(always)]
    fn mul(self, a: __m512, b: __m512) -> __m512 {
        // SAFETY: the token.
        unsafe { _mm512_mul_ps(a, b) }
    }
    #[inline(always)]
    fn div(self, a: __m512, b: __m512) -> __m512 {
        // SAFETY: the token.
        unsafe { _mm512_div_ps(a, b) }
    }
    #[inline(always)]
    fn sqrt(self, a: __m512) -> __m512 {
        // SAFETY: the token.
        unsafe { _mm512_sqrt_ps(a) }
    }
    #[inline(always)]
    fn mul_add(self, a: __m512, b: __m512, c: __m512) -> __m512 {
        // SAFETY: the token.
        unsafe { _mm512_fmadd_ps(a, b, c) }
    }
    #[inline(always)]
    fn min(self, a: __m512, b: __m512) -> __m512 {
        // SAFETY: the token.
        unsafe { _mm512_min_ps(a, b) }
    }
    #[inline(always)]
    fn max(self, a: __m512, b: __m512) -> __m512 {
        // SAFETY: the token.
        unsafe { _mm512_max_ps(a, b) }
    }
    #[inline(always)]
    fn round(self, a: __m512) -> __m512 {
        // SAFETY: the token.
        unsafe { _mm512_roundscale_ps::<{ _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC }>(a) }
    }
    #[inline(always)]
    fn scale(self, a: __m512, n: __m512) -> __m512 {
        // SAFETY: the token.
        unsafe { _mm512_scalef_ps(a, n) }
    }
    #[inline(always)]
    fn select_less(self, a: __m512, b: __m512, yes: __m512, no: __m512) -> __m512 {
        // SAFETY: the token.
        unsafe { _mm512_mask_blend_ps(_mm512_cmp_ps_mask::<_CMP_LT_OQ>(a, b), no, yes) }
    }
    #[inline(always)]
    fn sum(self, a: __m512) -> f32 {
        // SAFETY: the token.
        unsafe { _mm512_reduce_add_ps(a) }
    }
    #[inline(always)]
    fn largest(self, a: __m512) -> f32 {
        // SAFETY: the token.
        unsafe { _mm512_reduce_max_ps(a) }
    }
    #[inline(always)]
    fn split(self, a: __m512) -> (__m512, __m512) {
        // SAFETY: the token.
        unsafe {
            // The bits of sqrt(1/2); what is above them in the exponent field is the exponent.
            let bits = _mm512_castps_si512(a);
            let exponent = _mm512_srai_epi32::<23>(_mm512_sub_epi32(bits, _mm512_set1_epi32(0x3f35_04f3)));
            let mantissa = _mm512_sub_epi32(bits, _mm512_slli_epi32::<23>(exponent));
            (_mm512_castsi512_ps(mantissa), _mm512_cvtepi32_ps(exponent))
        }
    }
    #[inline(always)]
    fn mesh(self, a: __m512, origin: u32, cells: &[[f32; 4]]) -> (__m512, [__m512; 4]) {
        let last = cells.len() - 1;
        // SAFETY: the token, and every index is at most the last cell's (unsigned, so a lane before the first too).
        unsafe {
            let cell = _mm512_srli_epi32::<{ MESH_SHIFT }>(_mm512_castps_si512(a));
            let start = _mm512_castsi512_ps(_mm512_slli_epi32::<{ MESH_SHIFT }>(cell));
            let index = _mm512_sub_epi32(cell, _mm512_set1_epi32(origin as i32));
            let index = _mm512_min_epu32(index, _mm512_set1_epi32(last as i32));
            // One load brings a cell's four numbers; then they are transposed.
            let mut rows = [0u32; 16];
            _mm512_storeu_si512(rows.as_mut_ptr().cast(), index);
            let from = cells.as_ptr().cast::<f32>();
            macro_rules! row {
                ($lane:expr) => {
                    _mm_loadu_ps(from.add(4 * rows[$lane] as usize))
                };
            }
            macro_rules! every_fourth {
                ($first:expr) => {{
                    let quarters = _mm512_castps128_ps512(row!($first));
                    let quarters = _mm512_insertf32x4::<1>(quarters, row!($first + 4));
                    let quarters = _mm512_insertf32x4::<2>(quarters, row!($first + 8));
                    _mm512_insertf32x4::<3>(quarters, row!($first + 12))
                }};
            }
            let (a0, a1) = (every_fourth!(0), every_fourth!(1));
            let (a2, a3) = (every_fourth!(2), every_fourth!(3));
            let (low, low_next) = (_mm512_unpacklo_ps(a0, a1), _mm512_unpacklo_ps(a2, a3));
            let (high, high_next) = (_mm512_unpackhi_ps(a0, a1), _mm512_unpackhi_ps(a2, a3));
            let column = [
                _mm512_shuffle_ps::<0x44>(low, low_next),
                _mm512_shuffle_ps::<0xee>(low, low_next),
                _mm512_shuffle_ps::<0x44>(high, high_next),
                _mm512_shuffle_ps::<0xee>(high, high_next),
            ];
            (_mm512_sub_ps(a, start), column)
        }
    }
    #[inline(always)]
    fn bounds(self, all: &[u32; 32]) -> (u32, u32) {
        // SAFETY: the token, and both halves are inside the array.
        unsafe {
            let (a, b) =
                (_mm512_loadu_epi32(all.as_ptr().cast()), _mm512_loadu_epi32(all[16..].as_ptr().cast()));
            (_mm512_reduce_min_epu32(_mm512_min_epu32(a, b)), _mm512_reduce_max_epu32(_mm512_max_epu32(a, b)))
        }
    }
    #[inline(always)]
    unsafe fn load(self, from: *const f32) -> __m512 {
        // SAFETY: the caller's promise and the token.
        unsafe { _mm512_loadu_ps(from) }
    }
    #[inline(always)]
    unsafe fn load_f16(self, from: *const f16) -> __m512 {
        // SAFETY: the caller's promise and the token.
        unsafe { _mm512_cvtph_ps(_mm256_loadu_si256(from.cast())) }
    }
    #[inline(always)]
    unsafe fn load_bf16(self, from: *const bf16) -> __m512 {
        // SAFETY: the caller's promise and the token. A bf16 is the upper half of its f32.
        unsafe {
            let halves = _mm512_cvtepu16_epi32(_mm256_loadu_si256(from.cast()));
            _mm512_castsi512_ps(_mm512_slli_epi32::<16>(halves))
        }
    }
    #[inline(always)]
    unsafe fn load_u8(self, from: *const u8) -> __m512 {
        // SAFETY: the caller's promise and the token.
        unsafe { _mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(_mm_loadu_si128(from.cast()))) }
    }
    #[inline(always)]
    unsafe fn load_nibbles(self, from: *const u8, shift: u32) -> __m512 {
        // SAFETY: the caller's promise and the token.
        unsafe {
            let bytes = _mm512_cvtepu8_epi32(_mm_loadu_si128(from.cast()));
            let halves = _mm512_srl_epi32(bytes, _mm_cvtsi32_si128(shift as i32));
            _mm512_cvtepi32_ps(_mm512_and_si512(halves, _mm512_set1_epi32(15)))
        }
    }
    #[inline(always)]
    unsafe fn load_bytes(self, from: *const u8) -> __m512i {
        // SAFETY: the caller's promise and the token.
        unsafe { _mm512_loadu_si512(from.cast()) }
    }
    #[inline(always)]
    fn no_bytes(self) -> __m512i {
        // SAFETY: the token.
        unsafe { _mm512_setzero_si512() }
    }
    #[inline(always)]
    fn nibbles(self, a: __m512i) -> (__m512i, __m512i) {
        // SAFETY: the token.
        unsafe {
            let low = _mm512_set1_epi8(15);
            (_mm512_and_si512(a, low), _mm512_and_si512(_mm512_srli_epi16::<4>(a), low))
        }
    }
    #[inline(always)]
    fn splat_bytes(self, four: [i8; 4]) -> __m512i {
        let [a, b, c, d] = four;
        // SAFETY: the token.
        unsafe { _mm512_set1_epi32(i32::from_le_bytes([a as u8, b as u8, c as u8, d as u8])) }
    }
    #[inline(always)]
    fn dot_nibbles<X: Fours<Self>>(self, a: &[__m512i; 8], x: &X) -> __m512 {
        if VNNI {
            // SAFETY: the token.
            return unsafe { dot(self, a, x) };
        }
        // SAFETY: the token. Sixteen products of at most 15 * 127 stay within 16 bits.
        unsafe {
            let mut pairs = _mm512_setzero_si512();
            for (i, &a) in a.iter().enumerate() {
                let x = x.four(self, i);
                pairs = _mm512_add_epi16(pairs, _mm512_maddubs_epi16(a, x));
            }
            _mm512_cvtepi32_ps(_mm512_madd_epi16(pairs, _mm512_set1_epi16(1)))
        }
    }
    #[inline(always)]
    fn dot_bytes<X: Fours<Self>>(self, a: &[__m512i; 8], x: &X) -> __m512 {
        if VNNI {
            let mut shifted = *a;
            for a in &mut shifted {
                // SAFETY: the token.
                *a = unsafe { _mm512_xor_si512(*a, _mm512_set1_epi8(i8::MIN)) };
            }
            // SAFETY: the token.
            return unsafe { dot(self, &shifted, x) };
        }
        // SAFETY: the token. Magnitudes times what has both signs: a pair is at most 2 * 128 * 127.
        unsafe {
            let (mut sums, ones) = (_mm512_setzero_si512(), _mm512_set1_epi16(1));
            for (i, &a) in a.iter().enumerate() {
                let x = x.four(self, i);
                let x = _mm512_mask_sub_epi8(x, _mm512_movepi8_mask(a), _mm512_setzero_si512(), x);
                let pairs = _mm512_maddubs_epi16(_mm512_abs_epi8(a), x);
                sums = _mm512_add_epi32(sums, _mm512_madd_epi16(pairs, ones));
            }
            _mm512_cvtepi32_ps(sums)
        }
    }
    #[inline(always)]
    unsafe fn store(self, to: *mut f32, a: __m512) {
        // SAFETY: the caller's promise and the token.
        unsafe { _mm512_storeu_ps(to, a) }
    }
    #[inline(always)]
    fn prefetch<T>(self, address: *const T) {
        // SAFETY: a prefetch cannot fault.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(address.cast()) }
    }
}
