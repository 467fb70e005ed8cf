//! Vector arithmetic written once for every instruction set.
//!
//! A fast path is a `Kernel`: a struct of its arguments with one generic `run<S: Simd>`, made of `#[inline(always)]`
//! code over the token `S`. `Isa::run` calls it inside a function that enables the instruction set's features,
//! where everything inlines (a closure that goes to a team's threads does not inherit them: let each task call
//! `Isa::run` itself; and no vector arithmetic in closures at all, because a closure with two call sites is not
//! inlined, and then every intrinsic in it is a function call, a hundred times slower). Holding a token proves that the machine has the instructions, so arithmetic is safe;
//! only loads and stores through pointers are not.

#[cfg(target_arch = "x86_64")]
pub(crate) mod avx2;
#[cfg(target_arch = "x86_64")]
pub(crate) mod avx512;
pub(crate) mod exp;
pub(crate) mod log;
pub(crate) mod portable;

use half::slice::HalfFloatSliceExt;
use half::{bf16, f16};

use crate::DType;

/// The instruction sets that fast paths exist for, best first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Isa {
    /// [`Isa::Avx512`] with VNNI, which differs from it in products of bytes alone.
    Avx512Vnni,
    /// AVX-512 F, BW, DQ and VL: 16 lanes.
    Avx512,
    /// AVX2 with FMA and F16C: 8 lanes.
    Avx2,
    /// Whatever the compiler makes of arrays of 8.
    Portable,
}

impl Isa {
    /// The best one of this machine; the standard library caches the question, so asking per call is cheap.
    pub fn best() -> Self {
        #[cfg(target_arch = "x86_64")]
        {
            if is_x86_feature_detected!("avx512f")
                && is_x86_feature_detected!("avx512bw")
                && is_x86_feature_detected!("avx512dq")
                && is_x86_feature_detected!("avx512vl")
                && Self::has_avx2()
            {
                return Isa::Avx512;
            }
            if Self::has_avx2() {
                return Isa::Avx2;
            }
        }
        Isa::Portable
    }

    /// Every one that this machine can run, best first: what the tests go through.
    pub fn available() -> &'static [Self] {
        match Self::best() {
            Isa::Avx512 | Isa::Avx512Vnni => &[Isa::Avx512, Isa::Avx2, Isa::Portable],
            Isa::Avx2 => &[Isa::Avx2, Isa::Portable],
            Isa::Portable => &[Isa::Portable],
        }
    }

    /// The best one of this machine for products of bytes.
    pub(crate) fn best_for_bytes() -> Self {
        if Self::has_vnni() { Isa::Avx512Vnni } else { Self::best() }
    }

    /// Every one that differs in products of bytes, best first.
    #[cfg(test)]
    pub(crate) fn available_for_bytes() -> Vec<Self> {
        let vnni = Self::has_vnni().then_some(Isa::Avx512Vnni);
        vnni.into_iter().chain(Self::available().iter().copied()).collect()
    }

    /// As [`Isa::run`], for a kernel that multiplies bytes: no other is worth being compiled once more.
    pub(crate) fn run_bytes<K: Kernel>(self, kernel: K) -> K::Output {
        #[cfg(target_arch = "x86_64")]
        if self == Isa::Avx512Vnni && Self::has_vnni() {
            // SAFETY: the features were found.
            return unsafe { avx512::enter_vnni(kernel) };
        }
        self.run(kernel)
    }

    /// Runs the kernel with this instruction set, or with the portable one where the machine lacks it.
    pub(crate) fn run<K: Kernel>(self, kernel: K) -> K::Output {
        let isa = if self == Isa::Avx512Vnni { Isa::Avx512 } else { self };
        if !Self::available().contains(&isa) {
            return kernel.run(portable::Portable);
        }
        match isa {
            // SAFETY: `available` found the features.
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512 => unsafe { avx512::enter(kernel) },
            // SAFETY: `available` found the features.
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2 => unsafe { avx2::enter(kernel) },
            _ => kernel.run(portable::Portable),
        }
    }

    /// Rows of the largest register tile, see [`Simd::TILE_ROWS`].
    pub(crate) fn tile_rows(self) -> usize {
        match self {
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512 | Isa::Avx512Vnni => avx512::Avx512::<false>::TILE_ROWS,
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2 => avx2::Avx2::TILE_ROWS,
            _ => portable::Portable::TILE_ROWS,
        }
    }

    fn has_vnni() -> bool {
        #[cfg(target_arch = "x86_64")]
        if is_x86_feature_detected!("avx512vnni") {
            return Self::best() == Isa::Avx512;
        }
        false
    }

    #[cfg(target_arch = "x86_64")]
    fn has_avx2() -> bool {
        is_x86_feature_detected!("avx2")
            && is_x86_feature_detected!("fma")
            && is_x86_feature_detected!("f16c")
    }
}

/// A fast path: its arguments, and what to do with them on any instruction set.
pub(crate) trait Kernel {
    /// What comes out.
    type Output;

    /// Does it; must be `#[inline(always)]`, and so must what it calls, for the instructions to be used.
    fn run<S: Simd>(self, simd: S) -> Self::Output;
}

/// A token of an instruction set, with its f32 vectors. `min` and `max` return `b` when either lane is NaN.
pub(crate) trait Simd: Copy + Send + Sync {
    /// A vector of `LANES` f32.
    type V: Copy;
    /// A vector of `4 * LANES` bytes: four of each lane.
    type Bytes: Copy;
    /// Lanes of a vector: 16 or 8.
    const LANES: usize;
    /// Rows of the largest register tile of two vectors a row: as many as leave registers for the operands.
    const TILE_ROWS: usize;
    /// What is added to each signed byte of a product, because a machine's instruction takes none.
    const SIGN: f32 = 0.0;

    /// `value` in every lane.
    fn splat(self, value: f32) -> Self::V;
    /// `a + b`.
    fn add(self, a: Self::V, b: Self::V) -> Self::V;
    /// `a - b`.
    fn sub(self, a: Self::V, b: Self::V) -> Self::V;
    /// `a * b`.
    fn mul(self, a: Self::V, b: Self::V) -> Self::V;
    /// `a / b`.
    fn div(self, a: Self::V, b: Self::V) -> Self::V;
    /// The square root, correctly rounded.
    fn sqrt(self, a: Self::V) -> Self::V;
    /// `a * b + c`, rounded once where the machine can.
    fn mul_add(self, a: Self::V, b: Self::V, c: Self::V) -> Self::V;
    /// The smaller lane.
    fn min(self, a: Self::V, b: Self::V) -> Self::V;
    /// The larger lane.
    fn max(self, a: Self::V, b: Self::V) -> Self::V;
    /// The nearest integer, ties to even.
    fn round(self, a: Self::V) -> Self::V;
    /// `a * 2^n` for integral lanes of `n` in -252..=254, gradual underflow and overflow included.
    fn scale(self, a: Self::V, n: Self::V) -> Self::V;
    /// `if a < b { yes } else { no }`, lane by lane.
    fn select_less(self, a: Self::V, b: Self::V, yes: Self::V, no: Self::V) -> Self::V;
    /// The sum of the lanes, in one fixed order.
    fn sum(self, a: Self::V) -> f32;
    /// The largest lane.
    fn largest(self, a: Self::V) -> f32;

    /// The mantissa, in `[sqrt(1/2), sqrt(2))`, and the exponent of positive normal lanes: `a = mantissa * 2^exponent`.
    fn split(self, a: Self::V) -> (Self::V, Self::V);

    /// Where the positive lanes of `a` lie in a mesh whose cells are the floats that share all but their lowest
    /// [`MESH_SHIFT`] bits, the first cell starting at the bits `origin << MESH_SHIFT`: the distances from the starts
    /// of the cells, and what `cells` holds of them. A lane outside the mesh (or NaN) gets an outermost cell.
    fn mesh(self, a: Self::V, origin: u32, cells: &[[f32; 4]]) -> (Self::V, [Self::V; 4]);

    /// The smallest and the largest of 32 integers; compilers make 64 scalar comparisons of the plain loop.
    fn bounds(self, all: &[u32; 32]) -> (u32, u32);

    /// Reads `LANES` f32.
    ///
    /// # Safety
    /// `from` must be readable for `LANES` elements; no alignment is needed.
    unsafe fn load(self, from: *const f32) -> Self::V;
    /// Reads `LANES` f16, widened.
    ///
    /// # Safety
    /// As [`Simd::load`].
    unsafe fn load_f16(self, from: *const f16) -> Self::V;
    /// Reads `LANES` bf16, widened.
    ///
    /// # Safety
    /// As [`Simd::load`].
    unsafe fn load_bf16(self, from: *const bf16) -> Self::V;
    /// Reads `LANES` bytes as numbers, 0 to 255.
    ///
    /// # Safety
    /// As [`Simd::load`].
    unsafe fn load_u8(self, from: *const u8) -> Self::V;
    /// Reads `LANES` bytes, of each the low half (`shift` 0) or the high one (4) as a number, 0 to 15.
    ///
    /// # Safety
    /// As [`Simd::load`].
    unsafe fn load_nibbles(self, from: *const u8, shift: u32) -> Self::V;
    /// Reads four bytes of each lane.
    ///
    /// # Safety
    /// `from` must be readable for `4 * LANES` bytes; no alignment is needed.
    unsafe fn load_bytes(self, from: *const u8) -> Self::Bytes;
    /// Zeros.
    fn no_bytes(self) -> Self::Bytes;
    /// The low halves of all bytes, and the high ones.
    fn nibbles(self, a: Self::Bytes) -> (Self::Bytes, Self::Bytes);
    /// The same four bytes in every lane.
    fn splat_bytes(self, four: [i8; 4]) -> Self::Bytes;
    /// In each lane the products of its bytes, 0 to 15, with those of `x`, -127 to 127, summed; exact.
    fn dot_nibbles<X: Fours<Self>>(self, a: &[Self::Bytes; 8], x: &X) -> Self::V;
    /// The same for signed bytes, and [`Simd::SIGN`] times the sum of `x` on top.
    fn dot_bytes<X: Fours<Self>>(self, a: &[Self::Bytes; 8], x: &X) -> Self::V;

    /// Writes `LANES` f32.
    ///
    /// # Safety
    /// `to` must be writable for `LANES` elements; no alignment is needed.
    unsafe fn store(self, to: *mut f32, a: Self::V);
    /// Hints that the cache line at `address` will be read soon; any address will do.
    fn prefetch<T>(self, address: *const T);

    /// The first `LANES` elements of `from`; panics when there are fewer.
    #[inline(always)]
    fn read(self, from: &[f32]) -> Self::V {
        let from = &from[..Self::LANES];
        // SAFETY: the slice holds LANES elements.
        unsafe { self.load(from.as_ptr()) }
    }

    /// Up to `LANES` elements of `from`, `fill` in the other lanes.
    #[inline(always)]
    fn read_partial(self, from: &[f32], fill: f32) -> Self::V {
        let mut lanes = [fill; MAX_LANES];
        let count = from.len().min(Self::LANES);
        lanes[..count].copy_from_slice(&from[..count]);
        self.read(&lanes)
    }

    /// Writes the lanes to the first `LANES` elements of `to`; panics when there are fewer.
    #[inline(always)]
    fn write(self, to: &mut [f32], a: Self::V) {
        let to = &mut to[..Self::LANES];
        // SAFETY: the slice holds LANES elements.
        unsafe { self.store(to.as_mut_ptr(), a) }
    }

    /// Writes the first lanes to `to`, as many as it holds and there are.
    #[inline(always)]
    fn write_partial(self, to: &mut [f32], a: Self::V) {
        let mut lanes = [0.0; MAX_LANES];
        self.write(&mut lanes, a);
        let count = to.len().min(Self::LANES);
        to[..count].copy_from_slice(&lanes[..count]);
    }
}

/// 32 bytes, each of their fours wanted in all lanes.
pub(crate) trait Fours<S: Simd> {
    /// One of the eight.
    fn four(&self, simd: S, index: usize) -> S::Bytes;
}

/// Bytes in memory, read where they are wanted: for operands that leave no registers.
impl<S: Simd> Fours<S> for [[i8; 4]; 8] {
    #[inline(always)]
    fn four(&self, simd: S, index: usize) -> S::Bytes {
        simd.splat_bytes(self[index])
    }
}

/// Bytes in registers, for several operands.
pub(crate) struct Held<S: Simd>([S::Bytes; 8]);

impl<S: Simd> Held<S> {
    /// Reads them.
    #[inline(always)]
    pub(crate) fn new(simd: S, bytes: &[[i8; 4]; 8]) -> Self {
        let mut held = [simd.no_bytes(); 8];
        for (held, &four) in held.iter_mut().zip(bytes) {
            *held = simd.splat_bytes(four);
        }
        Self(held)
    }
}

impl<S: Simd> Fours<S> for Held<S> {
    #[inline(always)]
    fn four(&self, _simd: S, index: usize) -> S::Bytes {
        self.0[index]
    }
}

/// Mantissa bits inside one cell of [`Simd::mesh`]: 64 cells from a power of two to the next.
pub(crate) const MESH_SHIFT: u32 = 17;

/// Lanes of the widest instruction set.
pub(crate) const MAX_LANES: usize = 16;

/// A storage format that vectors are read from.
pub(crate) trait Element: bytemuck::Pod + Send + Sync {
    /// Its name at run time.
    const DTYPE: DType;

    /// Reads `LANES` elements, widened.
    ///
    /// # Safety
    /// As [`Simd::load`].
    unsafe fn load<S: Simd>(simd: S, from: *const Self) -> S::V;
    /// Widens.
    fn to_f32(self) -> f32;
    /// Rounds as many to nearest even as both slices hold.
    fn narrow(from: &[f32], to: &mut [Self]);
}

impl Element for f32 {
    const DTYPE: DType = DType::F32;

    #[inline(always)]
    fn to_f32(self) -> f32 {
        self
    }

    #[inline(always)]
    unsafe fn load<S: Simd>(simd: S, from: *const Self) -> S::V {
        // SAFETY: the caller's promise.
        unsafe { simd.load(from) }
    }
    #[inline]
    fn narrow(from: &[f32], to: &mut [Self]) {
        to.iter_mut().zip(from).for_each(|(to, from)| *to = *from);
    }
}

impl Element for f16 {
    const DTYPE: DType = DType::F16;

    #[inline(always)]
    fn to_f32(self) -> f32 {
        self.to_f32()
    }

    #[inline(always)]
    unsafe fn load<S: Simd>(simd: S, from: *const Self) -> S::V {
        // SAFETY: the caller's promise.
        unsafe { simd.load_f16(from) }
    }
    #[inline]
    fn narrow(from: &[f32], to: &mut [Self]) {
        let count = from.len().min(to.len());
        to[..count].convert_from_f32_slice(&from[..count]);
    }
}

impl Element for bf16 {
    const DTYPE: DType = DType::Bf16;

    #[inline(always)]
    fn to_f32(self) -> f32 {
        self.to_f32()
    }

    #[inline(always)]
    unsafe fn load<S: Simd>(simd: S, from: *const Self) -> S::V {
        // SAFETY: the caller's promise.
        unsafe { simd.load_bf16(from) }
    }
    #[inline]
    fn narrow(from: &[f32], to: &mut [Self]) {
        // Not the crate's loop: without a branch for NaN this one vectorises.
        for (to, from) in to.iter_mut().zip(from) {
            let bits = from.to_bits();
            let rounded = (bits.wrapping_add(0x7fff + (bits >> 16 & 1)) >> 16) as u16;
            *to = bf16::from_bits(if from.is_nan() { (bits >> 16) as u16 | 0x40 } else { rounded });
        }
    }
}

#[cfg(test)]
mod tests;
