//! Weights in blocks, laid out once, at load, for every product that follows.

use half::f16;

use super::format::Block;
use super::{BLOCK, BlockFormat, OP};
use crate::chunks::Pieces;
use crate::error::{check_length, checked_size};
use crate::matmul::fill::hash;
use crate::matmul::{PANEL, Part};
use crate::{Buffer, DType, Elements, ElementsMut, KernelError, Shelf, Team};

/// A weight `[outputs, inputs]` of one [`BlockFormat`], in panels of 32 outputs: `[outputs / 32, rounded up][inputs / 32]` blocks
/// of 32 outputs, the last panel padded with zeros. A block of a panel is 32 f16 scales, 32 f16 least values where the format has
/// them, and the numbers in fours: inputs 4i to 4i+3 of each output side by side, two such fours in one byte's halves for 4 bits.
#[derive(Debug, Clone)]
pub struct QuantisedMatrix {
    /// Bytes; halves only because such a buffer exists.
    data: Buffer,
    format: BlockFormat,
    outputs: usize,
    inputs: usize,
}

/// Bytes of 32 halves.
const HALVES: usize = 2 * PANEL;

impl BlockFormat {
    /// Bytes before the numbers of a panel's block.
    pub(super) fn head(self) -> usize {
        if self == Self::Q4_1 { 2 * HALVES } else { HALVES }
    }

    /// Bytes of a panel's block: those of 32 blocks of the file.
    pub(super) fn panel_bytes(self) -> usize {
        PANEL * self.block_bytes()
    }
}

impl QuantisedMatrix {
    /// All zeros, to be filled part by part.
    ///
    /// Errors: no outputs, inputs that are not whole blocks of 32, or more memory than there is.
    pub fn zeroed(outputs: usize, inputs: usize, format: BlockFormat) -> Result<Self, KernelError> {
        if outputs == 0 || inputs == 0 || !inputs.is_multiple_of(BLOCK) {
            return Err(KernelError::Invalid {
                op: OP,
                expected: format!("at least one output, and inputs that are a multiple of {BLOCK}"),
                got: format!("[{outputs}, {inputs}]"),
            });
        }
        let panels = outputs.div_ceil(PANEL);
        let bytes = checked_size(OP, &[panels, inputs / BLOCK, format.panel_bytes()])?;
        Ok(Self { data: Buffer::try_zeroed(DType::F16, bytes / 2)?, format, outputs, inputs })
    }

    /// As [`PackedMatrix::keep_on`](crate::PackedMatrix::keep_on).
    pub fn keep_on(&mut self, shelf: &mut Shelf) {
        shelf.keep(&mut self.data);
    }

    /// Blocks of random numbers of up to about `scale`, the same for the same seed and shape: a stand-in for a checkpoint where only
    /// speed matters.
    ///
    /// Errors: as [`QuantisedMatrix::zeroed`].
    pub fn random(
        outputs: usize,
        inputs: usize,
        format: BlockFormat,
        scale: f32,
        seed: u64,
    ) -> Result<Self, KernelError> {
        let mut matrix = Self::zeroed(outputs, inputs, format)?;
        let per_row = (inputs / BLOCK) as u64;
        let block = |output: usize, block: usize| {
            let first = (output as u64 * per_row + block as u64) * BLOCK as u64;
            let number = |at: usize| {
                let at = first.wrapping_add(at as u64);
                (hash(at ^ seed.wrapping_mul(0xd129_0de2_6b53_4f35)) * 2.0 - 1.0) * scale
            };
            Block::of(format, &std::array::from_fn(number))
        };
        matrix.scatter(&Team::new(1)?, 0, outputs, &block);
        Ok(matrix)
    }

    /// Fills outputs `first_output..first_output + outputs` with blocks of the matrix's own format, `[outputs][inputs / 32]` as a file
    /// holds them, on all threads.
    ///
    /// Errors: outputs that the matrix does not have, or another number of bytes; nothing was written then.
    pub fn fill_blocks(
        &mut self,
        team: &Team,
        first_output: usize,
        outputs: usize,
        blocks: &[u8],
    ) -> Result<(), KernelError> {
        self.check(first_output, outputs)?;
        let (format, width) = (self.format, self.format.block_bytes());
        let per_row = self.inputs / BLOCK;
        check_length(OP, "the bytes of a part", checked_size(OP, &[outputs, per_row, width])?, blocks.len())?;
        self.scatter(team, first_output, outputs, &|output, block| {
            Block::read(format, &blocks[(output * per_row + block) * width..])
        });
        Ok(())
    }

    /// Fills outputs `first_output..first_output + part.outputs` with finite numbers, quantised, on all threads.
    ///
    /// Errors: as [`QuantisedMatrix::fill_blocks`].
    pub fn fill(&mut self, team: &Team, first_output: usize, part: &Part<'_>) -> Result<(), KernelError> {
        self.check(first_output, part.outputs)?;
        let expected = checked_size(OP, &[part.outputs, self.inputs, part.source.dtype.bytes()])?;
        check_length(OP, "the bytes of a part", expected, part.source.bytes.len())?;
        let (format, inputs) = (self.format, self.inputs);
        self.scatter(team, first_output, part.outputs, &|output, block| {
            Block::of_part(format, part, inputs, output, block)
        });
        Ok(())
    }

    fn check(&self, first_output: usize, outputs: usize) -> Result<(), KernelError> {
        if first_output.checked_add(outputs).is_some_and(|end| end <= self.outputs) {
            return Ok(());
        }
        Err(KernelError::Invalid {
            op: OP,
            expected: format!("a part that ends at or before output {}", self.outputs),
            got: format!("{outputs} outputs from output {first_output}"),
        })
    }

    /// Puts every block of some outputs into its place; `block(output, block)` counts outputs from the first of them.
    fn scatter(
        &mut self,
        team: &Team,
        first: usize,
        outputs: usize,
        block: &(dyn Fn(usize, usize) -> Block + Sync),
    ) {
        if outputs == 0 {
            return;
        }
        let (format, per_row) = (self.format, self.inputs / BLOCK);
        let size = format.panel_bytes();
        let (end, first_panel) = (first + outputs, first / PANEL);
        let pieces = Pieces::new(bytes_mut(&mut self.data));
        team.run(end.div_ceil(PANEL) - first_panel, &|task| {
            let panel = first_panel + task;
            for at in 0..per_row {
                // SAFETY: a task writes only its own panel, one block at a time.
                let to = unsafe { pieces.range((panel * per_row + at) * size, size) };
                for output in first.max(panel * PANEL)..end.min((panel + 1) * PANEL) {
                    place(format, to, output % PANEL, &block(output - first, at));
                }
            }
        });
    }

    /// Number of outputs (n).
    pub fn outputs(&self) -> usize {
        self.outputs
    }

    /// Number of inputs (k).
    pub fn inputs(&self) -> usize {
        self.inputs
    }

    /// The format of the blocks.
    pub fn format(&self) -> BlockFormat {
        self.format
    }

    /// Bytes that the weights take, the last panel's padding included.
    pub fn bytes(&self) -> usize {
        self.data.bytes()
    }

    /// Copies the weights of one output: an embedding row. Writes zeros past the inputs, nothing past `out`, and zeros for an
    /// output that does not exist.
    pub fn row(&self, output: usize, out: &mut [f32]) {
        out.fill(0.0);
        if output >= self.outputs {
            return;
        }
        let per_row = self.inputs / BLOCK;
        let blocks = self.panels().chunks_exact(self.format.panel_bytes()).skip(output / PANEL * per_row);
        for (out, panel) in out.chunks_mut(BLOCK).zip(blocks.take(per_row)) {
            let block = taken(self.format, panel, output % PANEL);
            for (out, &number) in out.iter_mut().zip(&block.numbers) {
                *out = block.value(self.format, number);
            }
        }
    }

    /// All panels.
    pub(super) fn panels(&self) -> &[u8] {
        match self.data.elements() {
            Elements::F16(all) => bytemuck::cast_slice(all),
            _ => &[],
        }
    }
}

fn bytes_mut(data: &mut Buffer) -> &mut [u8] {
    match data.elements_mut() {
        ElementsMut::F16(all) => bytemuck::cast_slice_mut(all),
        _ => &mut [],
    }
}

/// Where the numbers of inputs 4i to 4i+3 of an output begin, and by how much they are shifted.
fn four(format: BlockFormat, lane: usize, i: usize) -> (usize, u32) {
    let group = 4 * PANEL;
    match format {
        BlockFormat::Q8_0 => (format.head() + i * group + 4 * lane, 0),
        BlockFormat::Q4_0 | BlockFormat::Q4_1 => {
            (format.head() + i / 2 * group + 4 * lane, 4 * (i as u32 % 2))
        }
    }
}

fn place(format: BlockFormat, panel: &mut [u8], lane: usize, block: &Block) {
    panel[2 * lane..2 * lane + 2].copy_from_slice(&block.scale.to_le_bytes());
    if format == BlockFormat::Q4_1 {
        panel[HALVES + 2 * lane..HALVES + 2 * lane + 2].copy_from_slice(&block.least.to_le_bytes());
    }
    for (i, numbers) in block.numbers.as_chunks::<4>().0.iter().enumerate() {
        let (at, shift) = four(format, lane, i);
        let kept = if format == BlockFormat::Q8_0 { 0 } else { 0xf0u8 >> shift };
        for (to, number) in panel[at..at + 4].iter_mut().zip(numbers) {
            *to = *to & kept | number << shift;
        }
    }
}

fn taken(format: BlockFormat, panel: &[u8], lane: usize) -> Block {
    let half = |at: usize| f16::from_le_bytes([panel[at], panel[at + 1]]);
    let mut block = Block { scale: half(2 * lane), ..Block::ZERO };
    if format == BlockFormat::Q4_1 {
        block.least = half(HALVES + 2 * lane);
    }
    for (i, numbers) in block.numbers.as_chunks_mut::<4>().0.iter_mut().enumerate() {
        let (at, shift) = four(format, lane, i);
        for (number, from) in numbers.iter_mut().zip(&panel[at..at + 4]) {
            *number = if format == BlockFormat::Q8_0 { *from } else { from >> shift & 15 };
        }
    }
    block
}
