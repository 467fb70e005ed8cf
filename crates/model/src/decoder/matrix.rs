//! A weight in the processor's memory: numbers, or blocks.

use dropcap_kernels::{
    Epilogue, KernelError, PackedMatrix, Part, QuantisedMatrix, Shelf, Team, matmul, quantised_matmul,
};

use crate::weights::Held;

/// A weight `[outputs, inputs]`.
#[derive(Debug)]
pub(crate) enum HostMatrix {
    Plain(PackedMatrix),
    Blocks(QuantisedMatrix),
}

impl HostMatrix {
    pub(super) fn zeroed(outputs: usize, inputs: usize, held: Held) -> Result<Self, KernelError> {
        Ok(match held {
            Held::Plain(dtype) => Self::Plain(PackedMatrix::zeroed(outputs, inputs, dtype)?),
            Held::Blocks(format) => Self::Blocks(QuantisedMatrix::zeroed(outputs, inputs, format)?),
        })
    }

    pub(super) fn random(
        outputs: usize,
        inputs: usize,
        held: Held,
        scale: f32,
        seed: u64,
    ) -> Result<Self, KernelError> {
        Ok(match held {
            Held::Plain(dtype) => Self::Plain(PackedMatrix::random(outputs, inputs, dtype, scale, seed)?),
            Held::Blocks(format) => {
                Self::Blocks(QuantisedMatrix::random(outputs, inputs, format, scale, seed)?)
            }
        })
    }

    /// The same matrix on a shelf.
    pub(super) fn kept_on(mut self, shelf: &mut Shelf) -> Self {
        match &mut self {
            Self::Plain(matrix) => matrix.keep_on(shelf),
            Self::Blocks(matrix) => matrix.keep_on(shelf),
        }
        self
    }

    /// Only a matrix that is held in blocks is asked to.
    pub(super) fn fill_blocks(
        &mut self,
        team: &Team,
        first_output: usize,
        outputs: usize,
        blocks: &[u8],
    ) -> Result<(), KernelError> {
        match self {
            Self::Blocks(matrix) => matrix.fill_blocks(team, first_output, outputs, blocks),
            Self::Plain(matrix) => Err(KernelError::Invalid {
                op: "packed matrix",
                expected: format!("numbers of {}", matrix.dtype()),
                got: "blocks".to_owned(),
            }),
        }
    }

    pub(super) fn fill(
        &mut self,
        team: &Team,
        first_output: usize,
        part: &Part<'_>,
    ) -> Result<(), KernelError> {
        match self {
            Self::Plain(matrix) => matrix.fill(team, first_output, part),
            Self::Blocks(matrix) => matrix.fill(team, first_output, part),
        }
    }

    /// `epilogue(x W^T + bias)`; see [`matmul`].
    pub(super) fn apply(
        &self,
        team: &Team,
        x: &[f32],
        bias: Option<&[f32]>,
        epilogue: Epilogue,
        out: &mut [f32],
    ) -> Result<(), KernelError> {
        match self {
            Self::Plain(matrix) => matmul(team, x, matrix, bias, epilogue, out),
            Self::Blocks(matrix) => quantised_matmul(team, x, matrix, bias, epilogue, out),
        }
    }

    /// The weights of one output; see [`PackedMatrix::row`].
    pub(super) fn row(&self, output: usize, out: &mut [f32]) {
        match self {
            Self::Plain(matrix) => matrix.row(output, out),
            Self::Blocks(matrix) => matrix.row(output, out),
        }
    }

    pub(super) fn bytes(&self) -> usize {
        match self {
            Self::Plain(matrix) => matrix.bytes(),
            Self::Blocks(matrix) => matrix.bytes(),
        }
    }

    /// The name of its format.
    pub(super) fn format(&self) -> String {
        match self {
            Self::Plain(matrix) => matrix.dtype().to_string(),
            Self::Blocks(matrix) => matrix.format().to_string(),
        }
    }
}
