//! Products on the device: our own kernel where a few rows share one reading of the weights, cuBLASLt for more.

use std::collections::HashSet;
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::blocks::BlockProducts;
use super::checked::Checked;
use super::lt::{BlasLt, Shape};
use super::stream::{MAX_ROWS, Streams};
use super::{DeviceBias, DeviceMatrix, InBlocks, MatrixFormat};
use crate::activation::DeviceActivation;
use crate::cuda::{Device, DeviceBuffer, Specialisation, Stopwatch};
use crate::norm::NormParameters;
use crate::{DType, KernelError};

pub(super) const OP: &str = "product on the device";

/// Where a product goes, and what becomes of it on the way.
#[derive(Debug, Clone, Copy)]
pub enum Target<'a> {
    /// Rounded to W `[rows, n]`.
    Store(&'a DeviceBuffer<u8>),
    /// f32 `[rows, n]`.
    StoreF32(&'a DeviceBuffer<f32>),
    /// Added to f32 `[rows, n]`: the residual connection.
    Add(&'a DeviceBuffer<f32>),
    /// The GELU with tanh, W `[rows, n]`.
    GeluTanh(&'a DeviceBuffer<u8>),
    /// The GELU with erf, W `[rows, n]`.
    Gelu(&'a DeviceBuffer<u8>),
    /// `silu(first half) * second half`, W `[rows, n / 2]`; only where [`DeviceMatmul::gates`] says so.
    SiluMul(&'a DeviceBuffer<u8>),
}

/// Products of activations with weights.
///
/// Everything may be recorded in a graph, once the same product has run outside of one: the library loads its code when
/// it is first used.
#[derive(Debug)]
pub struct DeviceMatmul {
    streams: Streams,
    blocks: Option<BlockProducts>,
    library: BlasLt,
    finish: DeviceActivation,
    dtype: DType,
    device: Device,
    /// Products of few rows for which the library was measured to be faster.
    better_in_library: Mutex<HashSet<Shape>>,
}

impl DeviceMatmul {
    /// Loads the library and compiles the kernels, or takes them from the cache.
    ///
    /// # Errors
    /// No cuBLASLt, no memory for its workspace, or as [`Module::load`](crate::cuda::Module::load).
    pub fn new(device: &Device, specialisation: &Specialisation) -> Result<Self, KernelError> {
        Ok(Self {
            streams: Streams::new(device, specialisation)?,
            blocks: None,
            library: BlasLt::new(device)?,
            finish: DeviceActivation::new(device, specialisation)?,
            dtype: specialisation.weights,
            device: device.clone(),
            better_in_library: Mutex::default(),
        })
    }

    /// The same for weights in blocks too, of up to `most` elements each; W is bf16. Takes memory for weights as numbers, 64 MiB at
    /// most: products of many rows multiply them so, some outputs at a time.
    ///
    /// # Errors
    /// As [`DeviceMatmul::new`], another W, or no such memory.
    pub fn with_blocks(self, most: usize) -> Result<Self, KernelError> {
        if self.dtype != DType::Bf16 {
            let (expected, got) =
                ("activations of bf16 beside weights in blocks".to_owned(), self.dtype.to_string());
            return Err(KernelError::Invalid { op: OP, expected, got });
        }
        let blocks = Some(BlockProducts::new(&self.device, most)?);
        Ok(Self { blocks, ..self })
    }

    /// Whether [`DeviceMatmul::normed_product`] takes `rows` rows.
    #[must_use]
    pub fn streams(&self, w: &DeviceMatrix, rows: usize) -> bool {
        w.in_blocks().is_none() && self.streams.fit(rows, w.inputs(), is_wide(w))
    }

    /// Whether `norm` inside of the product is faster than before it. Every block computes it for itself, which of numbers pays where
    /// it is short (8B, 1 row: 4.64 ms for the products of a step with norms inside, 4.23 ms apart; GPT-2-medium: 0.39
    /// against 0.51 ms, but at 4 rows 0.72 against 0.63 ms; H200). With blocks it pays for one row wherever that has a kernel of its own.
    #[must_use]
    pub fn norms(&self, w: &DeviceMatrix, rows: usize) -> bool {
        match &self.blocks {
            Some(blocks) if w.in_blocks().is_some() => blocks.norms(w, rows),
            _ => self.streams(w, rows) && rows * w.inputs() <= 1024,
        }
    }

    /// Whether our kernel is the one to use for `rows` rows without looking, and [`Target::SiluMul`] with it. From two
    /// rows on the library is often faster, and [`DeviceMatmul::tune`] looks at each product; weights in blocks are ours for
    /// up to 64.
    #[must_use]
    pub fn gates(&self, w: &DeviceMatrix, rows: usize) -> bool {
        (rows == 1 && self.streams(w, rows)) || (w.in_blocks().is_some() && BlockProducts::gates(w, rows))
    }

    /// Whether a kernel of ours takes `rows` rows at all.
    fn is_ours(&self, w: &DeviceMatrix, rows: usize) -> bool {
        self.streams(w, rows) || self.streams.fit_mma(rows, w.inputs(), is_wide(w))
    }

    /// Writes `x W^T + bias` for the first `rows` rows of `x`, W `[rows, k]`, to the target.
    ///
    /// # Errors
    /// Lengths or formats that do not agree, a gated target where there is none, or a failed device.
    pub fn product(
        &self,
        x: &DeviceBuffer<u8>,
        w: &DeviceMatrix,
        bias: Option<&DeviceBias>,
        rows: usize,
        target: Target<'_>,
    ) -> Result<(), KernelError> {
        self.start(&Checked::product(self.dtype, x, w, bias, rows, target)?)
    }

    /// As [`DeviceMatmul::product`], of the norm of the residual stream, f32 `[rows, k]`, rounded to W: one launch, and
    /// the norm is nowhere else. Only where [`DeviceMatmul::streams`] or, of a weight in blocks, [`DeviceMatmul::norms`] says so.
    ///
    /// # Errors
    /// As [`DeviceMatmul::product`], or more rows than share one reading of the weights.
    #[expect(clippy::too_many_arguments, reason = "the operation's own arguments")]
    pub fn normed_product(
        &self,
        residual: &DeviceBuffer<f32>,
        norm: NormParameters<'_>,
        epsilon: f32,
        w: &DeviceMatrix,
        bias: Option<&DeviceBias>,
        rows: usize,
        target: Target<'_>,
    ) -> Result<(), KernelError> {
        self.start_normed(&Checked::normed(self.dtype, residual, norm, epsilon, w, bias, rows, target)?)
    }

    /// As [`DeviceMatmul::product`] in f32 throughout, whatever W is: `x` f32 `[rows, k]`, `w` f32 `[n, k]`, `out` f32
    /// `[rows, n]`.
    ///
    /// # Errors
    /// Lengths or formats that do not agree, or a failed device.
    pub fn product_f32(
        &self,
        x: &DeviceBuffer<f32>,
        w: &DeviceMatrix,
        rows: usize,
        out: &DeviceBuffer<f32>,
    ) -> Result<(), KernelError> {
        self.start(&Checked::product_f32(x, w, rows, out)?)
    }

    /// [`DeviceMatmul::product_f32`] with about twice the digits of W, by three products of W: `x` `[rows, k]` and `w` `[n, k]` are each what W
    /// holds of a number, and what its rounding left. What both left is not multiplied.
    ///
    /// # Errors
    /// As [`DeviceMatmul::product`].
    pub fn product_in_parts(
        &self,
        x: [&DeviceBuffer<u8>; 2],
        w: [&DeviceMatrix; 2],
        rows: usize,
        out: &DeviceBuffer<f32>,
    ) -> Result<(), KernelError> {
        self.product(x[0], w[0], None, rows, Target::StoreF32(out))?;
        self.product(x[1], w[0], None, rows, Target::Add(out))?;
        self.product(x[0], w[1], None, rows, Target::Add(out))
    }

    /// [`DeviceMatmul::product_f32`] of the norm of the residual stream, as [`DeviceMatmul::normed_product`].
    ///
    /// # Errors
    /// As both.
    pub fn normed_product_f32(
        &self,
        residual: &DeviceBuffer<f32>,
        norm: NormParameters<'_>,
        epsilon: f32,
        w: &DeviceMatrix,
        rows: usize,
        out: &DeviceBuffer<f32>,
    ) -> Result<(), KernelError> {
        let target = Target::StoreF32(out);
        self.start_normed(&Checked::normed(DType::F32, residual, norm, epsilon, w, None, rows, target)?)
    }

    /// Times what could compute this product, our kernel and the library's candidates, and keeps the fastest for it;
    /// gives its seconds, those of a small kernel before it included. What is measured runs on the operands as they are, several times over: the target is of no
    /// use afterwards. Waits, so not inside a recording.
    ///
    /// # Errors
    /// As [`DeviceMatmul::product`].
    pub fn tune(
        &self,
        x: &DeviceBuffer<u8>,
        w: &DeviceMatrix,
        bias: Option<&DeviceBias>,
        rows: usize,
        target: Target<'_>,
    ) -> Result<f64, KernelError> {
        self.fastest(&Checked::product(self.dtype, x, w, bias, rows, target)?)
    }

    /// As [`DeviceMatmul::tune`] for [`DeviceMatmul::product_f32`].
    ///
    /// # Errors
    /// As [`DeviceMatmul::product_f32`].
    pub fn tune_f32(
        &self,
        x: &DeviceBuffer<f32>,
        w: &DeviceMatrix,
        rows: usize,
        out: &DeviceBuffer<f32>,
    ) -> Result<f64, KernelError> {
        self.fastest(&Checked::product_f32(x, w, rows, out)?)
    }

    fn fastest(&self, product: &Checked<'_>) -> Result<f64, KernelError> {
        let watch = Stopwatch::new(&self.device)?;
        // In a step a kernel comes right before, and what may start before that has ended gains by it: of GPT-2-medium's products of 8
        // rows some 2 us each, by which the library's would seem the better ones (H200).
        let (shape, operands) = product.for_library();
        let wide = shape.out == DType::F32;
        let (first, width) =
            (product.rows.min(1), if product.is_gated() { shape.outputs / 2 } else { shape.outputs });
        // SAFETY: the target of a checked product has so many rows, and is of no use afterwards.
        let before = || unsafe { self.finish.finish(operands.out, wide, 0, first, width, None) };
        let mut time = |start: &dyn Fn() -> Result<(), KernelError>| -> Result<f32, KernelError> {
            const TIMES: usize = 7;
            start()?;
            let mut best = f32::INFINITY;
            for _ in 0..TIMES {
                // Weights come from memory, as they will: a cache that still held them would favour the wrong kernel.
                // Meanwhile the rest is queued, so that no launch is waited for.
                self.library.evict()?;
                watch.start()?;
                before()?;
                start()?;
                best = best.min(watch.stop()?);
            }
            Ok(best)
        };
        if product.w.in_blocks().is_some() {
            return Ok(f64::from(time(&|| self.start(product))?));
        }
        let own = match self.is_ours(product.w, product.rows) {
            true => Some(time(&|| self.stream(product))?),
            false => None,
        };
        if product.is_gated() {
            return Ok(f64::from(own.unwrap_or(f32::NAN)));
        }
        // SAFETY: the operands are those of the checked product.
        let library = unsafe { self.library.tune(shape, operands, &mut time) }?;
        let mut better = self.better_in_library();
        match (own, library) {
            (Some(own), Some(library)) if library < own => better.insert(shape),
            _ => better.remove(&shape),
        };
        let seconds = [own, library].into_iter().flatten().fold(f32::INFINITY, f32::min);
        Ok(f64::from(seconds))
    }

    fn start(&self, product: &Checked<'_>) -> Result<(), KernelError> {
        let Checked { w, rows, .. } = *product;
        if rows == 0 {
            return Ok(());
        }
        if let Some(weight) = w.in_blocks() {
            return self.start_blocks(product, weight);
        }
        let (shape, operands) = product.for_library();
        let streams = self.is_ours(w, rows) && !self.better_in_library().contains(&shape);
        if streams || product.is_gated() {
            return self.stream(product);
        }
        let short = rows <= MAX_ROWS && !w.inputs().is_multiple_of(8);
        // SAFETY: the operands are those of the checked product.
        let done = if short { None } else { unsafe { self.library.run(shape, operands) }? };
        let Some(fused) = done else {
            // SAFETY: as above.
            return unsafe { self.streams.launch_any(&product.streamed()) };
        };
        let bias = product.bias.filter(|_| !fused.bias).map_or(0, |bias| bias.wide.pointer());
        let activation = product.activation().filter(|_| !fused.gelu);
        if bias == 0 && activation.is_none() {
            return Ok(());
        }
        let wide = shape.out == DType::F32;
        // SAFETY: as above: the target has `rows` rows of the weight's outputs, and so has the bias one.
        unsafe { self.finish.finish(operands.out, wide, bias, rows, w.outputs(), activation) }
    }

    fn start_normed(&self, product: &Checked<'_>) -> Result<(), KernelError> {
        match product.w.in_blocks() {
            Some(weight) if product.rows > 0 => self.start_blocks(product, weight),
            _ => self.stream(product),
        }
    }

    fn start_blocks(&self, product: &Checked<'_>, weight: InBlocks) -> Result<(), KernelError> {
        let Some(blocks) = &self.blocks else {
            let (expected, got) = ("weights of numbers".to_owned(), product.w.format().to_string());
            return Err(KernelError::Invalid { op: OP, expected, got });
        };
        blocks.run(product, weight, &self.library, &self.finish)
    }

    fn stream(&self, product: &Checked<'_>) -> Result<(), KernelError> {
        let Checked { w, rows, .. } = *product;
        if rows == 0 {
            return Ok(());
        }
        if !self.streams(w, rows) && (product.is_normed() || !self.is_ours(w, rows)) {
            return Err(KernelError::Invalid {
                op: OP,
                expected: format!(
                    "rows of whole 16 bytes, {MAX_ROWS} at most that fit shared memory for a norm inside, more of 16 bits for a gate"
                ),
                got: format!("{rows} rows of {} inputs", w.inputs()),
            });
        }
        // SAFETY: of a checked product.
        unsafe { self.streams.launch(&product.streamed()) }
    }

    fn better_in_library(&self) -> MutexGuard<'_, HashSet<Shape>> {
        self.better_in_library.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn is_wide(w: &DeviceMatrix) -> bool {
    w.format() == MatrixFormat::Numbers(DType::F32)
}
