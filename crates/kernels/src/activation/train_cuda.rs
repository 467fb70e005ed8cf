//! The activations in training, on the device.

use super::{CODES, GeluKind, gelu_code};
use crate::KernelError;
use crate::cuda::{
    Argument, Device, DeviceBuffer, Function, Grid, Module, Source, Specialisation, kernel_struct,
};
use crate::error::{check_at_least, checked_size};

pub(crate) const TRAIN_SOURCE: Source = Source {
    file: "activation/train.cu",
    text: concat!(include_str!("../cuda/vectors.cuh"), include_str!("gelu.cuh"), include_str!("train.cu")),
    constants: |_, _| [("THREADS", THREADS as usize)].into_iter().chain(CODES).collect(),
    arguments: &[Gelu::LAYOUT, SiluMul::LAYOUT],
};

const OP: &str = "activation in training";
const THREADS: u32 = 256;
/// Numbers of a thread, as of the kernel file.
const EACH: usize = 8;

/// Activations that leave what went in, and their gradients.
#[derive(Debug, Clone)]
pub struct TrainActivation {
    gelu: Function,
    silu_mul: Function,
    silu_mul_8: Function,
    element: usize,
}

kernel_struct! {
    struct Gelu as Gelu {
        x: u64,
        dy: u64,
        out: u64,
        count: u64,
        kind: u32,
    }
}

kernel_struct! {
    struct SiluMul as SiluMul {
        gate_up: u64,
        dy: u64,
        out: u64,
        rows: u32,
        width: u32,
    }
}

impl TrainActivation {
    /// Compiles the kernels, or takes them from the cache.
    ///
    /// # Errors
    /// As [`Module::load`].
    pub fn new(device: &Device, specialisation: &Specialisation) -> Result<Self, KernelError> {
        let module = Module::load(device, &TRAIN_SOURCE, specialisation)?;
        Ok(Self {
            gelu: module.function("gelu_train", 0)?,
            silu_mul: module.function("silu_mul_train_1", 0)?,
            silu_mul_8: module.function("silu_mul_train_8", 0)?,
            element: specialisation.weights.bytes(),
        })
    }

    /// Writes `gelu(x)` of the first `count` numbers to `out`, or, with `dy`, `dy gelu'(x)`; all W `[count]`.
    ///
    /// # Errors
    /// Lengths that do not agree, or a failed device.
    pub fn gelu(
        &self,
        kind: GeluKind,
        count: usize,
        x: &DeviceBuffer<u8>,
        dy: Option<&DeviceBuffer<u8>>,
        out: &DeviceBuffer<u8>,
    ) -> Result<(), KernelError> {
        let bytes = checked_size(OP, &[count, self.element])?;
        for (what, buffer) in [("x", x), ("dy", dy.unwrap_or(x)), ("out", out)] {
            check_at_least(OP, what, bytes, buffer.len())?;
        }
        let arguments = Gelu {
            x: x.pointer(),
            dy: dy.map_or(0, DeviceBuffer::pointer),
            out: out.pointer(),
            count: count as u64,
            kind: gelu_code(Some(kind)),
        };
        let blocks = count.div_ceil(EACH * THREADS as usize);
        // SAFETY: the layout of `Gelu`; lengths as just checked.
        unsafe { self.gelu.launch(Grid::new(blocks, THREADS), &arguments) }?;
        Ok(())
    }

    /// Writes `silu(gate) up` to `out`, W `[rows, m]`, from `gate_up`, W `[rows, 2m]` with the gate first; or, with `dy`, W
    /// `[rows, m]`, the gradient of `gate_up` to `out`, W `[rows, 2m]`. m is `width`.
    ///
    /// # Errors
    /// Lengths that do not agree, or a failed device.
    pub fn silu_mul(
        &self,
        rows: usize,
        width: usize,
        gate_up: &DeviceBuffer<u8>,
        dy: Option<&DeviceBuffer<u8>>,
        out: &DeviceBuffer<u8>,
    ) -> Result<(), KernelError> {
        let bytes = checked_size(OP, &[rows, width, self.element])?;
        check_at_least(OP, "gate_up", 2 * bytes, gate_up.len())?;
        check_at_least(OP, "out", if dy.is_some() { 2 * bytes } else { bytes }, out.len())?;
        if let Some(dy) = dy {
            check_at_least(OP, "dy", bytes, dy.len())?;
        }
        let arguments = SiluMul {
            gate_up: gate_up.pointer(),
            dy: dy.map_or(0, DeviceBuffer::pointer),
            out: out.pointer(),
            rows: rows as u32,
            width: width as u32,
        };
        let (kernel, each) =
            if width.is_multiple_of(EACH) { (&self.silu_mul_8, EACH) } else { (&self.silu_mul, 1) };
        let blocks = (rows * (width / each)).div_ceil(THREADS as usize);
        // SAFETY: the layout of `SiluMul`; lengths as just checked.
        unsafe { kernel.launch(Grid::new(blocks, THREADS), &arguments) }?;
        Ok(())
    }
}
