//! A product on the device whose operands fit each other, in the words of what may compute it.

use super::cuda::{OP, Target};
use super::lt::{Operands, Shape};
use super::stream::{Kind, Product};
use super::{DeviceBias, DeviceMatrix, MatrixFormat};
use crate::activation::{GeluKind, gelu_code};
use crate::cuda::DeviceBuffer;
use crate::error::{check_at_least, check_length, checked_size};
use crate::norm::NormParameters;
use crate::{DType, KernelError};

/// Operands of which each is as large as the others ask for. Addresses are those of buffers that it borrows.
#[derive(Debug, Clone, Copy)]
pub(super) struct Checked<'a> {
    pub(super) w: &'a DeviceMatrix,
    pub(super) bias: Option<&'a DeviceBias>,
    pub(super) rows: usize,
    input: Input,
    place: Place,
    /// Of what is stored.
    dtype: DType,
}

/// What the weights are multiplied with.
#[derive(Debug, Clone, Copy)]
struct Input {
    pointer: u64,
    /// Weight and bias of the norm that comes before; both 0 for none.
    norm: (u64, u64),
    epsilon: f32,
}

/// A target as numbers.
#[derive(Debug, Clone, Copy)]
struct Place {
    out: u64,
    kind: Kind,
    activation: Option<GeluKind>,
}

impl<'a> Checked<'a> {
    /// See [`DeviceMatmul::product`](super::DeviceMatmul::product); W is `dtype`.
    pub(super) fn product(
        dtype: DType,
        x: &'a DeviceBuffer<u8>,
        w: &'a DeviceMatrix,
        bias: Option<&'a DeviceBias>,
        rows: usize,
        target: Target<'a>,
    ) -> Result<Self, KernelError> {
        check_at_least(OP, "x", checked_size(OP, &[rows, w.inputs(), dtype.bytes()])?, x.len())?;
        let input = Input { pointer: x.pointer(), norm: (0, 0), epsilon: 0.0 };
        Self::new(dtype, input, w, bias, rows, target)
    }

    /// See [`DeviceMatmul::product_f32`](super::DeviceMatmul::product_f32).
    pub(super) fn product_f32(
        x: &'a DeviceBuffer<f32>,
        w: &'a DeviceMatrix,
        rows: usize,
        out: &'a DeviceBuffer<f32>,
    ) -> Result<Self, KernelError> {
        check_at_least(OP, "x", checked_size(OP, &[rows, w.inputs()])?, x.len())?;
        let input = Input { pointer: x.pointer(), norm: (0, 0), epsilon: 0.0 };
        Self::new(DType::F32, input, w, None, rows, Target::StoreF32(out))
    }

    /// See [`DeviceMatmul::normed_product`](super::DeviceMatmul::normed_product); W is `dtype`.
    #[expect(clippy::too_many_arguments, reason = "the operation's own arguments")]
    pub(super) fn normed(
        dtype: DType,
        residual: &'a DeviceBuffer<f32>,
        norm: NormParameters<'a>,
        epsilon: f32,
        w: &'a DeviceMatrix,
        bias: Option<&'a DeviceBias>,
        rows: usize,
        target: Target<'a>,
    ) -> Result<Self, KernelError> {
        check_at_least(OP, "residual", checked_size(OP, &[rows, w.inputs()])?, residual.len())?;
        let input = Input { pointer: residual.pointer(), norm: norm.pointers(OP, w.inputs())?, epsilon };
        let product = Self::new(dtype, input, w, bias, rows, target)?;
        if product.place.out == input.pointer {
            let expected =
                "a target beside the residual: some blocks still read it when others write".to_owned();
            return Err(KernelError::Invalid { op: OP, expected, got: "the residual itself".to_owned() });
        }
        Ok(product)
    }

    fn new(
        dtype: DType,
        input: Input,
        w: &'a DeviceMatrix,
        bias: Option<&'a DeviceBias>,
        rows: usize,
        target: Target<'a>,
    ) -> Result<Self, KernelError> {
        match w.format() {
            MatrixFormat::Numbers(own) if own == dtype => {}
            // x is bf16, whatever the blocks hold.
            MatrixFormat::Blocks(_) if dtype == DType::Bf16 => {}
            format => {
                let expected = format!("weights of {dtype}, or blocks with x of bf16");
                return Err(KernelError::Invalid { op: OP, expected, got: format!("{format} with {dtype}") });
            }
        }
        if let Some(bias) = bias {
            check_length(OP, "bias", w.outputs(), bias.len())?;
        }
        let place = Place::new(target, dtype, w, rows)?;
        Ok(Self { w, bias, rows, input, place, dtype })
    }

    /// Whether a norm comes before the product.
    pub(super) fn is_normed(&self) -> bool {
        self.input.norm.0 != 0
    }

    /// Whether the outputs are gates and ups.
    pub(super) fn is_gated(&self) -> bool {
        self.place.kind == Kind::SiluMul
    }

    /// What comes after the sums.
    pub(super) fn activation(&self) -> Option<GeluKind> {
        self.place.activation
    }

    /// For our kernels.
    pub(super) fn streamed(&self) -> Product {
        Product {
            weights: self.w.data().pointer(),
            x: self.input.pointer,
            norm: self.input.norm,
            epsilon: self.input.epsilon,
            bias: self.bias.map_or(0, |bias| bias.wide.pointer()),
            out: self.place.out,
            rows: self.rows,
            outputs: self.w.outputs(),
            inputs: self.w.inputs(),
            kind: self.place.kind,
            activation: gelu_code(self.place.activation),
            wide: self.dtype == DType::F32,
        }
    }

    /// For the library.
    pub(super) fn for_library(&self) -> (Shape, Operands) {
        let out = match self.place.kind {
            Kind::Store | Kind::SiluMul => self.dtype,
            Kind::StoreF32 | Kind::Add => DType::F32,
        };
        let shape = Shape {
            rows: self.rows,
            outputs: self.w.outputs(),
            pitch: self.w.outputs(),
            inputs: self.w.inputs(),
            dtype: self.dtype,
            out,
            add: self.place.kind == Kind::Add,
            bias: self.bias.is_some(),
            // The library's GELU is exact enough for 16 bits only.
            gelu: self.place.activation == Some(GeluKind::Tanh) && out != DType::F32,
        };
        let bias = self.bias.map_or(0, |bias| match out {
            DType::F32 => bias.wide.pointer(),
            DType::F16 | DType::Bf16 => bias.narrow.pointer(),
        });
        let (x, weights, out) = (self.input.pointer, self.w.data().pointer(), self.place.out);
        (shape, Operands { x, weights, bias, out })
    }
}

impl Place {
    fn new(target: Target<'_>, dtype: DType, w: &DeviceMatrix, rows: usize) -> Result<Self, KernelError> {
        let (outputs, element) = (w.outputs(), dtype.bytes());
        let narrow = |out: &DeviceBuffer<u8>, width, kind, activation| {
            check_at_least(OP, "the target", checked_size(OP, &[rows, width, element])?, out.len())?;
            Ok(Self { out: out.pointer(), kind, activation })
        };
        let wide = |out: &DeviceBuffer<f32>, kind| {
            check_at_least(OP, "the target", checked_size(OP, &[rows, outputs])?, out.len())?;
            Ok(Self { out: out.pointer(), kind, activation: None })
        };
        match target {
            Target::Store(out) => narrow(out, outputs, Kind::Store, None),
            Target::StoreF32(out) => wide(out, Kind::StoreF32),
            Target::Add(out) => wide(out, Kind::Add),
            Target::GeluTanh(out) => narrow(out, outputs, Kind::Store, Some(GeluKind::Tanh)),
            Target::Gelu(out) => narrow(out, outputs, Kind::Store, Some(GeluKind::Erf)),
            Target::SiluMul(out) => {
                check_length(OP, "the outputs of gate and up", outputs / 2 * 2, outputs)?;
                narrow(out, outputs / 2, Kind::SiluMul, None)
            }
        }
    }
}
