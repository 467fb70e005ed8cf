//! The norms on the device.

use crate::KernelError;
use crate::cuda::{
    Argument, Device, DeviceBuffer, Function, Grid, Module, Source, Specialisation, kernel_struct,
};
use crate::error::{check_at_least, check_length, checked_size};

pub(crate) const SOURCE: Source = Source {
    file: "norm/norm.cu",
    text: concat!(include_str!("../cuda/vectors.cuh"), include_str!("norm.cu")),
    constants: |_, specialisation| vec![("NORM_THREADS", threads(specialisation.hidden))],
    arguments: &[Arguments::LAYOUT],
};

const OP: &str = "norm on the device";
/// The widest rows that fit the registers of a block.
const MAX_WIDTH: usize = 16384;

/// Refuses rows that no block can hold.
pub(super) fn check_width(op: &'static str, width: usize) -> Result<(), KernelError> {
    if (1..=MAX_WIDTH).contains(&width) {
        return Ok(());
    }
    let expected = format!("rows of 1 to {MAX_WIDTH} elements");
    Err(KernelError::Invalid { op, expected, got: width.to_string() })
}

/// Threads of a block: each has about two vectors of 4 numbers of the row.
pub(super) fn threads(width: usize) -> usize {
    (width.div_ceil(256) * 32).clamp(64, 1024)
}

/// What a norm multiplies by, and adds.
#[derive(Debug, Clone, Copy)]
pub enum NormParameters<'a> {
    /// A layer norm.
    Layer {
        /// f32 `[c]`.
        weight: &'a DeviceBuffer<f32>,
        /// f32 `[c]`.
        bias: &'a DeviceBuffer<f32>,
    },
    /// An RMS norm.
    Rms {
        /// f32 `[c]`.
        weight: &'a DeviceBuffer<f32>,
    },
}

impl NormParameters<'_> {
    /// Addresses of weight and bias, the latter 0 for none.
    ///
    /// # Errors
    /// Parameters of another width.
    pub(crate) fn pointers(&self, op: &'static str, width: usize) -> Result<(u64, u64), KernelError> {
        match self {
            Self::Layer { weight, bias } => {
                check_length(op, "weight", width, weight.len())?;
                check_length(op, "bias", width, bias.len())?;
                Ok((weight.pointer(), bias.pointer()))
            }
            Self::Rms { weight } => {
                check_length(op, "weight", width, weight.len())?;
                Ok((weight.pointer(), 0))
            }
        }
    }
}

/// What a norm leaves beside its rows, which are rounded to W.
#[derive(Debug, Clone, Copy)]
pub enum Unrounded<'a> {
    /// Nothing.
    None,
    /// The rows, f32 `[rows, c]`.
    Rows(&'a DeviceBuffer<f32>),
    /// What the rounding left, W `[rows, c]`: both together have about twice the digits of W.
    Rest(&'a DeviceBuffer<u8>),
}

/// Norms of rows of the residual stream.
#[derive(Debug, Clone)]
pub struct DeviceNorm {
    norm: Function,
    width: usize,
    element: usize,
}

kernel_struct! {
    struct Arguments as Norm {
        residual: u64,
        weight: u64,
        bias: u64,
        sources: u64,
        normed: u64,
        normed_f32: u64,
        rest: u64,
        epsilon: f32,
        source_rows: u32,
    }
}

impl DeviceNorm {
    /// Compiles the kernel, or takes it from the cache.
    ///
    /// # Errors
    /// As [`Module::load`], or rows of more than 16384 elements.
    pub fn new(device: &Device, specialisation: &Specialisation) -> Result<Self, KernelError> {
        let width = specialisation.hidden;
        check_width(OP, width)?;
        let module = Module::load(device, &SOURCE, specialisation)?;
        let element = specialisation.weights.bytes();
        Ok(Self { norm: module.function("norm_rows", 0)?, width, element })
    }

    /// Writes the norm of each row of `residual`, f32 `[rows, c]`, to `normed`, W `[rows, c]`, and what is asked for beside it.
    ///
    /// # Errors
    /// Lengths that do not agree, or a failed device.
    pub fn apply(
        &self,
        rows: usize,
        parameters: NormParameters<'_>,
        epsilon: f32,
        residual: &DeviceBuffer<f32>,
        normed: &DeviceBuffer<u8>,
        unrounded: Unrounded<'_>,
    ) -> Result<(), KernelError> {
        check_at_least(OP, "residual", checked_size(OP, &[rows, self.width])?, residual.len())?;
        self.launch(rows, parameters, epsilon, residual, normed, unrounded, None)
    }

    /// As [`DeviceNorm::apply`], of row `source_rows[i]` of `residual` to row i of the results, for i below `count`. A
    /// source that is no row of the residual leaves its row as it is.
    ///
    /// # Errors
    /// Lengths that do not agree, or a failed device.
    #[expect(clippy::too_many_arguments, reason = "the operation's own arguments")]
    pub fn apply_gathered(
        &self,
        parameters: NormParameters<'_>,
        epsilon: f32,
        residual: &DeviceBuffer<f32>,
        source_rows: &DeviceBuffer<u32>,
        count: usize,
        normed: &DeviceBuffer<u8>,
        unrounded: Unrounded<'_>,
    ) -> Result<(), KernelError> {
        check_at_least(OP, "source_rows", count, source_rows.len())?;
        self.launch(count, parameters, epsilon, residual, normed, unrounded, Some(source_rows))
    }

    #[expect(clippy::too_many_arguments, reason = "what both forms share")]
    fn launch(
        &self,
        rows: usize,
        parameters: NormParameters<'_>,
        epsilon: f32,
        residual: &DeviceBuffer<f32>,
        normed: &DeviceBuffer<u8>,
        unrounded: Unrounded<'_>,
        sources: Option<&DeviceBuffer<u32>>,
    ) -> Result<(), KernelError> {
        let count = checked_size(OP, &[rows, self.width])?;
        check_at_least(OP, "normed", checked_size(OP, &[count, self.element])?, normed.len())?;
        let (normed_f32, rest) = match unrounded {
            Unrounded::None => (0, 0),
            Unrounded::Rows(rows) => {
                check_at_least(OP, "unrounded rows", count, rows.len())?;
                (rows.pointer(), 0)
            }
            Unrounded::Rest(rest) => {
                check_at_least(
                    OP,
                    "what rounding left",
                    checked_size(OP, &[count, self.element])?,
                    rest.len(),
                )?;
                (0, rest.pointer())
            }
        };
        let (weight, bias) = parameters.pointers(OP, self.width)?;
        let arguments = Arguments {
            residual: residual.pointer(),
            weight,
            bias,
            sources: sources.map_or(0, DeviceBuffer::pointer),
            normed: normed.pointer(),
            normed_f32,
            rest,
            epsilon,
            source_rows: u32::try_from(residual.len() / self.width).unwrap_or(u32::MAX),
        };
        // SAFETY: the layout of `Norm`; lengths as just checked.
        unsafe { self.norm.launch(Grid::new(rows, threads(self.width) as u32).early(), &arguments) }?;
        Ok(())
    }
}
