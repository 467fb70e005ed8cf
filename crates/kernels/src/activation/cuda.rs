//! The activations on the device.

use super::GeluKind;
use crate::KernelError;
use crate::cuda::{
    Argument, Device, DeviceBuffer, Function, Grid, Module, Source, Specialisation, kernel_struct,
};
use crate::error::{check_at_least, checked_size};

pub(crate) const SOURCE: Source = Source {
    file: "activation/activation.cu",
    text: concat!(
        include_str!("../cuda/vectors.cuh"),
        include_str!("gelu.cuh"),
        include_str!("activation.cu")
    ),
    constants: |_, _| [("ACTIVATION_THREADS", THREADS)].into_iter().chain(CODES).collect(),
    arguments: &[GeluArguments::LAYOUT, SiluArguments::LAYOUT, FinishArguments::LAYOUT],
};

const THREADS: usize = 256;
/// The numbers of activations, as `gelu.cuh` names them.
pub(crate) const CODES: [(&str, usize); 3] = [("NO_ACTIVATION", 0), ("GELU_TANH", 1), ("GELU_ERF", 2)];

/// Activations of rows of type W.
#[derive(Debug, Clone)]
pub struct DeviceActivation {
    gelu: Function,
    silu_mul: Function,
    finish: Function,
    element: usize,
}

kernel_struct! {
    struct GeluArguments as Gelu {
        x: u64,
        count: u64,
        kind: u32,
    }
}

kernel_struct! {
    struct SiluArguments as SiluMul {
        gate_up: u64,
        out: u64,
        rows: u64,
        width: u32,
    }
}

kernel_struct! {
    struct FinishArguments as Finish {
        x: u64,
        wide: u64,
        bias: u64,
        count: u64,
        width: u32,
        kind: u32,
    }
}

/// The kernel's number of a GELU.
pub(crate) fn code(kind: Option<GeluKind>) -> u32 {
    let index = match kind {
        None => 0,
        Some(GeluKind::Tanh) => 1,
        Some(GeluKind::Erf) => 2,
    };
    CODES[index].1 as u32
}

impl DeviceActivation {
    /// Compiles the kernels, or takes them from the cache.
    ///
    /// # Errors
    /// As [`Module::load`].
    pub fn new(device: &Device, specialisation: &Specialisation) -> Result<Self, KernelError> {
        let module = Module::load(device, &SOURCE, specialisation)?;
        Ok(Self {
            gelu: module.function("gelu", 0)?,
            silu_mul: module.function("silu_mul", 0)?,
            finish: module.function("finish", 0)?,
            element: specialisation.weights.bytes(),
        })
    }

    /// Replaces the first `count` numbers of `x`, W, by their GELU.
    ///
    /// # Errors
    /// A buffer that is too short, or a failed device.
    pub fn gelu(&self, kind: GeluKind, count: usize, x: &DeviceBuffer<u8>) -> Result<(), KernelError> {
        const OP: &str = "gelu on the device";
        check_at_least(OP, "x", checked_size(OP, &[count, self.element])?, x.len())?;
        let arguments = GeluArguments { x: x.pointer(), count: count as u64, kind: code(Some(kind)) };
        let blocks = count.div_ceil(16 / self.element).div_ceil(THREADS);
        // SAFETY: the layout of `Gelu`; lengths as just checked.
        unsafe { self.gelu.launch(Grid::new(blocks, THREADS as u32).early(), &arguments) }?;
        Ok(())
    }

    /// Writes `silu(gate) * up` to `out`, W `[rows, m]`, from `gate_up`, W `[rows, 2m]` with the gate first; m is
    /// `width`.
    ///
    /// # Errors
    /// Buffers that are too short, or a failed device.
    pub fn silu_mul(
        &self,
        rows: usize,
        width: usize,
        gate_up: &DeviceBuffer<u8>,
        out: &DeviceBuffer<u8>,
    ) -> Result<(), KernelError> {
        const OP: &str = "silu_mul on the device";
        let bytes = checked_size(OP, &[rows, width, self.element])?;
        check_at_least(OP, "gate_up", bytes.saturating_mul(2), gate_up.len())?;
        check_at_least(OP, "out", bytes, out.len())?;
        let arguments = SiluArguments {
            gate_up: gate_up.pointer(),
            out: out.pointer(),
            rows: rows as u64,
            width: width as u32,
        };
        let blocks = (rows * width.div_ceil(16 / self.element)).div_ceil(THREADS);
        // SAFETY: the layout of `SiluMul`; lengths as just checked.
        unsafe { self.silu_mul.launch(Grid::new(blocks, THREADS as u32).early(), &arguments) }?;
        Ok(())
    }

    /// `x = gelu(x + bias)` in place on `[rows, width]` numbers at `x`, of type W or f32 (`wide`); `bias` is f32
    /// `[width]` or 0.
    ///
    /// # Safety
    /// The addresses are those of buffers with so many numbers.
    pub(crate) unsafe fn finish(
        &self,
        x: u64,
        wide: bool,
        bias: u64,
        rows: usize,
        width: usize,
        kind: Option<GeluKind>,
    ) -> Result<(), KernelError> {
        let count = rows * width;
        let arguments = FinishArguments {
            x: if wide { 0 } else { x },
            wide: if wide { x } else { 0 },
            bias,
            count: count as u64,
            width: width as u32,
            kind: code(kind),
        };
        let blocks = count.div_ceil(THREADS);
        // SAFETY: the layout of `Finish`; the caller's promise.
        unsafe { self.finish.launch(Grid::new(blocks, THREADS as u32).early(), &arguments) }?;
        Ok(())
    }
}
