//! Products on the device: our own kernel where a few rows share one reading of the weights, cuBLASLt for more.

use std::collections::HashSet;
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::lt::{BlasLt, Operands, Shape};
use super::stream::{Kind, MAX_ROWS, Product, Streams};
use super::{DeviceBias, DeviceMatrix};
use crate::activation::{DeviceActivation, GeluKind, gelu_code};
use crate::cuda::{Device, DeviceBuffer, Specialisation, Stopwatch};
use crate::error::{check_at_least, check_length, checked_size};
use crate::norm::NormParameters;
use crate::{DType, KernelError};

const OP: &str = "product on the device";

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

/// A target as numbers.
#[derive(Debug, Clone, Copy)]
struct Place {
    out: u64,
    kind: Kind,
    activation: Option<GeluKind>,
}

/// What the rows are multiplied from.
#[derive(Debug, Clone, Copy)]
struct Input {
    pointer: u64,
    norm: (u64, u64),
    epsilon: f32,
}

/// Products of activations with weights.
///
/// Everything may be recorded in a graph, once the same product has run outside of one: the library loads its code when
/// it is first used.
#[derive(Debug)]
pub struct DeviceMatmul {
    streams: Streams,
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
            library: BlasLt::new(device)?,
            finish: DeviceActivation::new(device, specialisation)?,
            dtype: specialisation.weights,
            device: device.clone(),
            better_in_library: Mutex::default(),
        })
    }

    /// Whether [`DeviceMatmul::normed_product`] takes `rows` rows.
    #[must_use]
    pub fn streams(&self, w: &DeviceMatrix, rows: usize) -> bool {
        self.streams.fit(rows, w.inputs(), w.dtype() == DType::F32)
    }

    /// Whether a norm inside of the product is faster than one before it: every block computes it for itself, which
    /// pays where it is short (8B, 1 row: 4.64 ms for the products of a step with norms inside, 4.23 ms apart;
    /// GPT-2-medium: 0.39 against 0.51 ms, but at 4 rows 0.72 against 0.63 ms; H200).
    #[must_use]
    pub fn norms(&self, w: &DeviceMatrix, rows: usize) -> bool {
        self.streams(w, rows) && rows * w.inputs() <= 1024
    }

    /// Whether our kernel is the one to use for `rows` rows without looking, and [`Target::SiluMul`] with it. From two
    /// rows on the library is often faster, and [`DeviceMatmul::tune`] looks at each product.
    #[must_use]
    pub fn gates(&self, w: &DeviceMatrix, rows: usize) -> bool {
        rows == 1 && self.streams(w, rows)
    }

    /// Whether a kernel of ours takes `rows` rows at all.
    fn is_ours(&self, w: &DeviceMatrix, rows: usize) -> bool {
        self.streams(w, rows) || self.streams.fit_mma(rows, w.inputs(), w.dtype() == DType::F32)
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
        let place = self.place(w, bias, rows, target)?;
        check_at_least(OP, "x", checked_size(OP, &[rows, w.inputs(), self.dtype.bytes()])?, x.len())?;
        self.start(Input { pointer: x.pointer(), norm: (0, 0), epsilon: 0.0 }, w, bias, rows, place)
    }

    /// As [`DeviceMatmul::product`], of the norm of the residual stream, f32 `[rows, k]`, rounded to W: one launch, and
    /// the norm is nowhere else. Only where [`DeviceMatmul::streams`] says so.
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
        let place = self.place(w, bias, rows, target)?;
        let input = self.normed(residual, norm, epsilon, w, rows)?;
        if place.out == input.pointer {
            return Err(KernelError::Invalid {
                op: OP,
                expected: "a target beside the residual: some blocks still read it when others write"
                    .to_owned(),
                got: "the residual itself".to_owned(),
            });
        }
        self.stream(input, w, bias, rows, place)
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
        check_at_least(OP, "x", checked_size(OP, &[rows, w.inputs()])?, x.len())?;
        let place = self.place_f32(w, rows, out)?;
        self.start(Input { pointer: x.pointer(), norm: (0, 0), epsilon: 0.0 }, w, None, rows, place)
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
        check_at_least(OP, "x", checked_size(OP, &[rows, w.inputs()])?, x.len())?;
        let place = self.place_f32(w, rows, out)?;
        self.fastest(Input { pointer: x.pointer(), norm: (0, 0), epsilon: 0.0 }, w, None, rows, place)
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
        let place = self.place_f32(w, rows, out)?;
        let input = self.normed(residual, norm, epsilon, w, rows)?;
        self.stream(input, w, None, rows, place)
    }

    /// Times what could compute this product, our kernel and the library's candidates, and keeps the fastest for it;
    /// gives its seconds. What is measured runs on the operands as they are, several times over: the target is of no
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
        let place = self.place(w, bias, rows, target)?;
        check_at_least(OP, "x", checked_size(OP, &[rows, w.inputs(), self.dtype.bytes()])?, x.len())?;
        self.fastest(Input { pointer: x.pointer(), norm: (0, 0), epsilon: 0.0 }, w, bias, rows, place)
    }

    fn fastest(
        &self,
        input: Input,
        w: &DeviceMatrix,
        bias: Option<&DeviceBias>,
        rows: usize,
        place: Place,
    ) -> Result<f64, KernelError> {
        let watch = Stopwatch::new(&self.device)?;
        let mut time = |start: &dyn Fn() -> Result<(), KernelError>| -> Result<f32, KernelError> {
            const TIMES: usize = 7;
            start()?;
            let mut best = f32::INFINITY;
            for _ in 0..TIMES {
                // Weights come from memory, as they will: a cache that still held them would favour the wrong kernel.
                // Meanwhile the rest is queued, so that no launch is waited for.
                self.library.evict()?;
                watch.start()?;
                start()?;
                best = best.min(watch.stop()?);
            }
            Ok(best)
        };
        let own = match self.is_ours(w, rows) {
            true => Some(time(&|| self.stream(input, w, bias, rows, place))?),
            false => None,
        };
        if place.kind == Kind::SiluMul {
            return Ok(f64::from(own.unwrap_or(f32::NAN)));
        }
        let (shape, operands) = self.for_library(input, w, bias, rows, place);
        let library = self.library.tune(shape, operands, &mut time)?;
        let mut better = self.better_in_library();
        match (own, library) {
            (Some(own), Some(library)) if library < own => better.insert(shape),
            _ => better.remove(&shape),
        };
        let seconds = [own, library].into_iter().flatten().fold(f32::INFINITY, f32::min);
        Ok(f64::from(seconds))
    }

    fn start(
        &self,
        input: Input,
        w: &DeviceMatrix,
        bias: Option<&DeviceBias>,
        rows: usize,
        place: Place,
    ) -> Result<(), KernelError> {
        if rows == 0 {
            return Ok(());
        }
        let (shape, operands) = self.for_library(input, w, bias, rows, place);
        let streams = self.is_ours(w, rows) && !self.better_in_library().contains(&shape);
        if streams || place.kind == Kind::SiluMul {
            return self.stream(input, w, bias, rows, place);
        }
        let short = rows <= MAX_ROWS && !w.inputs().is_multiple_of(8);
        let done = if short { None } else { self.library.run(shape, operands)? };
        let Some(fused) = done else {
            return self.streams.launch_any(&self.streamed(input, w, bias, rows, place));
        };
        let bias = bias.filter(|_| !fused.bias).map_or(0, |bias| bias.wide.pointer());
        let activation = place.activation.filter(|_| !fused.gelu);
        if bias == 0 && activation.is_none() {
            return Ok(());
        }
        self.finish.finish(place.out, shape.out == DType::F32, bias, rows, w.outputs(), activation)
    }

    fn stream(
        &self,
        input: Input,
        w: &DeviceMatrix,
        bias: Option<&DeviceBias>,
        rows: usize,
        place: Place,
    ) -> Result<(), KernelError> {
        if rows == 0 {
            return Ok(());
        }
        let normed = input.norm.0 != 0;
        if !self.streams(w, rows) && (normed || !self.is_ours(w, rows)) {
            return Err(KernelError::Invalid {
                op: OP,
                expected: format!(
                    "rows of whole 16 bytes, {MAX_ROWS} at most that fit shared memory for a norm inside, more of 16 bits for a gate"
                ),
                got: format!("{rows} rows of {} inputs", w.inputs()),
            });
        }
        self.streams.launch(&self.streamed(input, w, bias, rows, place))
    }

    fn streamed(
        &self,
        input: Input,
        w: &DeviceMatrix,
        bias: Option<&DeviceBias>,
        rows: usize,
        place: Place,
    ) -> Product {
        Product {
            weights: w.data.pointer(),
            x: input.pointer,
            norm: input.norm,
            epsilon: input.epsilon,
            bias: bias.map_or(0, |bias| bias.wide.pointer()),
            out: place.out,
            rows,
            outputs: w.outputs(),
            inputs: w.inputs(),
            kind: place.kind,
            activation: gelu_code(place.activation),
            wide: w.dtype() == DType::F32,
        }
    }

    fn for_library(
        &self,
        input: Input,
        w: &DeviceMatrix,
        bias: Option<&DeviceBias>,
        rows: usize,
        place: Place,
    ) -> (Shape, Operands) {
        let out = match place.kind {
            Kind::Store | Kind::SiluMul => self.dtype,
            Kind::StoreF32 | Kind::Add => DType::F32,
        };
        let shape = Shape {
            rows,
            outputs: w.outputs(),
            inputs: w.inputs(),
            dtype: w.dtype(),
            out,
            add: place.kind == Kind::Add,
            bias: bias.is_some(),
            // The library's GELU is exact enough for 16 bits only.
            gelu: place.activation == Some(GeluKind::Tanh) && out != DType::F32,
        };
        let bias = bias.map_or(0, |bias| match out {
            DType::F32 => bias.wide.pointer(),
            DType::F16 | DType::Bf16 => bias.narrow.pointer(),
        });
        (shape, Operands { x: input.pointer, weights: w.data.pointer(), bias, out: place.out })
    }

    fn place(
        &self,
        w: &DeviceMatrix,
        bias: Option<&DeviceBias>,
        rows: usize,
        target: Target<'_>,
    ) -> Result<Place, KernelError> {
        if w.dtype() != self.dtype {
            return Err(KernelError::Invalid {
                op: OP,
                expected: format!("weights of {}", self.dtype),
                got: w.dtype().to_string(),
            });
        }
        if let Some(bias) = bias {
            check_length(OP, "bias", w.outputs(), bias.len())?;
        }
        let count = checked_size(OP, &[rows, w.outputs()])?;
        let half = |out: &DeviceBuffer<u8>, count: usize| {
            check_at_least(OP, "the target", checked_size(OP, &[count, self.dtype.bytes()])?, out.len())
        };
        let full = |out: &DeviceBuffer<f32>| check_at_least(OP, "the target", count, out.len());
        let place = |out, kind, activation| Place { out, kind, activation };
        match target {
            Target::Store(out) => half(out, count).map(|()| place(out.pointer(), Kind::Store, None)),
            Target::StoreF32(out) => full(out).map(|()| place(out.pointer(), Kind::StoreF32, None)),
            Target::Add(out) => full(out).map(|()| place(out.pointer(), Kind::Add, None)),
            Target::GeluTanh(out) => {
                half(out, count).map(|()| place(out.pointer(), Kind::Store, Some(GeluKind::Tanh)))
            }
            Target::Gelu(out) => {
                half(out, count).map(|()| place(out.pointer(), Kind::Store, Some(GeluKind::Erf)))
            }
            Target::SiluMul(out) => {
                check_length(OP, "the outputs of gate and up", w.outputs() / 2 * 2, w.outputs())?;
                half(out, count / 2).map(|()| place(out.pointer(), Kind::SiluMul, None))
            }
        }
    }

    fn place_f32(
        &self,
        w: &DeviceMatrix,
        rows: usize,
        out: &DeviceBuffer<f32>,
    ) -> Result<Place, KernelError> {
        if w.dtype() != DType::F32 {
            let expected = "weights of f32".to_owned();
            return Err(KernelError::Invalid { op: OP, expected, got: w.dtype().to_string() });
        }
        check_at_least(OP, "the target", checked_size(OP, &[rows, w.outputs()])?, out.len())?;
        Ok(Place { out: out.pointer(), kind: Kind::StoreF32, activation: None })
    }

    fn normed(
        &self,
        residual: &DeviceBuffer<f32>,
        norm: NormParameters<'_>,
        epsilon: f32,
        w: &DeviceMatrix,
        rows: usize,
    ) -> Result<Input, KernelError> {
        check_at_least(OP, "residual", checked_size(OP, &[rows, w.inputs()])?, residual.len())?;
        Ok(Input { pointer: residual.pointer(), norm: norm.pointers(OP, w.inputs())?, epsilon })
    }

    fn better_in_library(&self) -> MutexGuard<'_, HashSet<Shape>> {
        self.better_in_library.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
