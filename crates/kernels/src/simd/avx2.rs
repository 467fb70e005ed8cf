//! 8 lanes: AVX2 with FMA and F16C.

use std::arch::x86_64::*;

use half::{bf16, f16};

use super::{Fours, Kernel, MESH_SHIFT, Simd};

/// Proof that the machine has AVX2, FMA and F16C.
#[derive(Clone, Copy)]
pub(crate) struct Avx2(());

/// Runs a kernel with AVX2.
///
/// # Safety
/// The machine must have the features named in the attribute.
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) unsafe fn enter<K: Kernel>(kernel: K) -> K::Output {
    kernel.run(Avx2(()))
}

impl Simd for Avx2 {
    type V = __m256;
    type Bytes = __m256i;
    const LANES: usize = 8;
    const TILE_ROWS: usize = 6;

    #[inline(always)]
    fn splat(self, value: f32) -> __m256 {
        // SAFETY: the token proves the features; so below.
        unsafe { _mm256_set1_ps(value) }
    }
    #[inline(always)]
    fn add(self, a: __m256, b: __m256) -> __m256 {
        // SAFETY: the token.
        unsafe { _mm256_add_ps(a, b) }
    }
    #[inline(always)]
    fn sub(self, a: __m256, b: __m256) -> __m256 {
        // SAFETY: the token.
        unsafe { _mm256_sub_ps(a, b) }
    }
    #[inline(always)]
    fn mul(self, a: __m256, b: __m256) -> __m256 {
        // SAFETY: the token.
        unsafe { _mm256_mul_ps(a, b) }
    }
    #[inline(always)]
    fn div(self, a: __m256, b: __m256) -> __m256 {
        // SAFETY: the token.
        unsafe { _mm256_div_ps(a, b) }
    }
    #[inline(always)]
    fn sqrt(self, a: __m256) -> __m256 {
        // SAFETY: the token.
        unsafe { _mm256_sqrt_ps(a) }
    }
    #[inline(always)]
    fn mul_add(self, a: __m256, b: __m256, c: __m256) -> __m256 {
        // SAFETY: the token.
        unsafe { _mm256_fmadd_ps(a, b, c) }
    }
    #[inline(always)]
    fn min(self, a: __m256, b: __m256) -> __m256 {
        // SAFETY: the token.
        unsafe { _mm256_min_ps(a, b) }
    }
    #[inline(always)]
    fn max(self, a: __m256, b: __m256) -> __m256 {
        // SAFETY: the token.
        unsafe { _mm256_max_ps(a, b) }
    }
    #[inline(always)]
    fn round(self, a: __m256) -> __m256 {
        // SAFETY: the token.
        unsafe { _mm256_round_ps::<{ _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC }>(a) }
    }
    #[inline(always)]
    fn scale(self, a: __m256, n: __m256) -> __m256 {
        // In two steps, because one exponent field holds only -126..=127.
        // SAFETY: the token.
        unsafe {
            let n = _mm256_cvtps_epi32(n);
            let first = _mm256_srai_epi32::<1>(n);
            let second = _mm256_sub_epi32(n, first);
            let bias = _mm256_set1_epi32(127);
            let first = _mm256_slli_epi32::<23>(_mm256_add_epi32(first, bias));
            let second = _mm256_slli_epi32::<23>(_mm256_add_epi32(second, bias));
            _mm256_mul_ps(_mm256_mul_ps(a, _mm256_castsi256_ps(first)), _mm256_castsi256_ps(second))
        }
    }
    #[inline(always)]
    fn select_less(self, a: __m256, b: __m256, yes: __m256, no: __m256) -> __m256 {
        // SAFETY: the token.
        unsafe { _mm256_blendv_ps(no, yes, _mm256_cmp_ps::<_CMP_LT_OQ>(a, b)) }
    }
    #[inline(always)]
    fn sum(self, a: __m256) -> f32 {
        // SAFETY: the token.
        unsafe {
            let four = _mm_add_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps::<1>(a));
            let two = _mm_add_ps(four, _mm_movehl_ps(four, four));
            _mm_cvtss_f32(_mm_add_ss(two, _mm_shuffle_ps::<1>(two, two)))
        }
    }
    #[inline(always)]
    fn largest(self, a: __m256) -> f32 {
        // SAFETY: the token.
        unsafe {
            let four = _mm_max_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps::<1>(a));
            let two = _mm_max_ps(four, _mm_movehl_ps(four, four));
            _mm_cvtss_f32(_mm_max_ss(two, _mm_shuffle_ps::<1>(two, two)))
        }
    }
    #[inline(always)]
    fn split(self, a: __m256) -> (__m256, __m256) {
        // SAFETY: the token.
        unsafe {
            // The bits of sqrt(1/2); what is above them in the exponent field is the exponent.
            let bits = _mm256_castps_si256(a);
            let exponent = _mm256_srai_epi32::<23>(_mm256_sub_epi32(bits, _mm256_set1_epi32(0x3f35_04f3)));
            let mantissa = _mm256_sub_epi32(bits, _mm256_slli_epi32::<23>(exponent));
            (_mm256_castsi256_ps(mantissa), _mm256_cvtepi32_ps(exponent))
        }
    }
    #[inline(always)]
    fn mesh(self, a: __m256, origin: u32, cells: &[[f32; 4]]) -> (__m256, [__m256; 4]) {
        let last = cells.len() - 1;
        // SAFETY: the token, and every index is at most the last cell's (unsigned, so a lane before the first too).
        unsafe {
            let cell = _mm256_srli_epi32::<{ MESH_SHIFT as i32 }>(_mm256_castps_si256(a));
            let start = _mm256_castsi256_ps(_mm256_slli_epi32::<{ MESH_SHIFT as i32 }>(cell));
            let index = _mm256_sub_epi32(cell, _mm256_set1_epi32(origin as i32));
            let index = _mm256_min_epu32(index, _mm256_set1_epi32(last as i32));
            // One load brings a cell's four numbers; then they are transposed.
            let mut rows = [0u32; 8];
            _mm256_storeu_si256(rows.as_mut_ptr().cast(), index);
            let from = cells.as_ptr().cast::<f32>();
            macro_rules! row {
                ($lane:expr) => {
                    _mm_loadu_ps(from.add(4 * rows[$lane] as usize))
                };
            }
            macro_rules! every_fourth {
                ($first:expr) => {
                    _mm256_set_m128(row!($first + 4), row!($first))
                };
            }
            let (a0, a1) = (every_fourth!(0), every_fourth!(1));
            let (a2, a3) = (every_fourth!(2), every_fourth!(3));
            let (low, low_next) = (_mm256_unpacklo_ps(a0, a1), _mm256_unpacklo_ps(a2, a3));
            let (high, high_next) = (_mm256_unpackhi_ps(a0, a1), _mm256_unpackhi_ps(a2, a3));
            let column = [
                _mm256_shuffle_ps::<0x44>(low, low_next),
                _mm256_shuffle_ps::<0xee>(low, low_next),
                _mm256_shuffle_ps::<0x44>(high, high_next),
                _mm256_shuffle_ps::<0xee>(high, high_next),
            ];
            (_mm256_sub_ps(a, start), column)
        }
    }
    #[inline(always)]
    fn bounds(self, all: &[u32; 32]) -> (u32, u32) {
        // SAFETY: the token, and the four quarters are inside the array.
        unsafe {
            let part = |i: usize| _mm256_loadu_si256(all[8 * i..8 * i + 8].as_ptr().cast());
            let (a, b, c, d) = (part(0), part(1), part(2), part(3));
            let low = _mm256_min_epu32(_mm256_min_epu32(a, b), _mm256_min_epu32(c, d));
            let high = _mm256_max_epu32(_mm256_max_epu32(a, b), _mm256_max_epu32(c, d));
            let (mut lows, mut highs) = ([0u32; 8], [0u32; 8]);
            _mm256_storeu_si256(lows.as_mut_ptr().cast(), low);
            _mm256_storeu_si256(highs.as_mut_ptr().cast(), high);
            (lows.into_iter().fold(u32::MAX, u32::min), highs.into_iter().fold(0, u32::max))
        }
    }
    #[inline(always)]
    unsafe fn load(self, from: *const f32) -> __m256 {
        // SAFETY: the caller's promise and the token.
        unsafe { _mm256_loadu_ps(from) }
    }
    #[inline(always)]
    unsafe fn load_f16(self, from: *const f16) -> __m256 {
        // SAFETY: the caller's promise and the token.
        unsafe { _mm256_cvtph_ps(_mm_loadu_si128(from.cast())) }
    }
    #[inline(always)]
    unsafe fn load_bf16(self, from: *const bf16) -> __m256 {
        // SAFETY: the caller's promise and the token. A bf16 is the upper half of its f32.
        unsafe {
            let halves = _mm256_cvtepu16_epi32(_mm_loadu_si128(from.cast()));
            _mm256_castsi256_ps(_mm256_slli_epi32::<16>(halves))
        }
    }
    #[inline(always)]
    unsafe fn load_u8(self, from: *const u8) -> __m256 {
        // SAFETY: the caller's promise and the token.
        unsafe { _mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(_mm_loadl_epi64(from.cast()))) }
    }
    #[inline(always)]
    unsafe fn load_nibbles(self, from: *const u8, shift: u32) -> __m256 {
        // SAFETY: the caller's promise and the token.
        unsafe {
            let bytes = _mm256_cvtepu8_epi32(_mm_loadl_epi64(from.cast()));
            let halves = _mm256_srl_epi32(bytes, _mm_cvtsi32_si128(shift as i32));
            _mm256_cvtepi32_ps(_mm256_and_si256(halves, _mm256_set1_epi32(15)))
        }
    }
    #[inline(always)]
    unsafe fn load_bytes(self, from: *const u8) -> __m256i {
        // SAFETY: the caller's promise and the token.
        unsafe { _mm256_loadu_si256(from.cast()) }
    }
    #[inline(always)]
    fn no_bytes(self) -> __m256i {
        // SAFETY: the token.
        unsafe { _mm256_setzero_si256() }
    }
    #[inline(always)]
    fn nibbles(self, a: __m256i) -> (__m256i, __m256i) {
        // SAFETY: the token.
        unsafe {
            let low = _mm256_set1_epi8(15);
            (_mm256_and_si256(a, low), _mm256_and_si256(_mm256_srli_epi16::<4>(a), low))
        }
    }
    #[inline(always)]
    fn splat_bytes(self, four: [i8; 4]) -> __m256i {
        let [a, b, c, d] = four;
        // SAFETY: the token.
        unsafe { _mm256_set1_epi32(i32::from_le_bytes([a as u8, b as u8, c as u8, d as u8])) }
    }
    #[inline(always)]
    fn dot_nibbles<X: Fours<Self>>(self, a: &[__m256i; 8], x: &X) -> __m256 {
        // SAFETY: the token. Sixteen products of at most 15 * 127 stay within 16 bits.
        unsafe {
            let mut pairs = _mm256_setzero_si256();
            for (i, &a) in a.iter().enumerate() {
                let x = x.four(self, i);
                pairs = _mm256_add_epi16(pairs, _mm256_maddubs_epi16(a, x));
            }
            _mm256_cvtepi32_ps(_mm256_madd_epi16(pairs, _mm256_set1_epi16(1)))
        }
    }
    #[inline(always)]
    fn dot_bytes<X: Fours<Self>>(self, a: &[__m256i; 8], x: &X) -> __m256 {
        // SAFETY: the token. Magnitudes times what has both signs: a pair is at most 2 * 128 * 127.
        unsafe {
            let (mut sums, ones) = (_mm256_setzero_si256(), _mm256_set1_epi16(1));
            for (i, &a) in a.iter().enumerate() {
                let x = x.four(self, i);
                let pairs = _mm256_maddubs_epi16(_mm256_abs_epi8(a), _mm256_sign_epi8(x, a));
                sums = _mm256_add_epi32(sums, _mm256_madd_epi16(pairs, ones));
            }
            _mm256_cvtepi32_ps(sums)
        }
    }
    #[inline(always)]
    unsafe fn store(self, to: *mut f32, a: __m256) {
        // SAFETY: the caller's promise and the token.
        unsafe { _mm256_storeu_ps(to, a) }
    }
    #[inline(always)]
    fn prefetch<T>(self, address: *const T) {
        // SAFETY: a prefetch cannot fault.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(address.cast()) }
    }
}
