//! How a device holds blocks: as the lanes of a warp multiply them.
//!
//! A tile is two neighbouring blocks of 16 outputs. Lane 4g + t of the warp that multiplies it has inputs 8t to 8t+7 of both blocks
//! of outputs g and g + 8, as the operands of tensor cores ask (`mma.m16n8k16`, inputs in an order of our own): 16 bytes of
//! numbers of 4 bits, or twice 16 of 8 bits, a block each. Tiles follow each other along the inputs, then panels of 16 outputs;
//! what is past the end is zeros. Scales and least values lie apart from the numbers, in the same order of tiles.

use super::format::Block;
use super::{BLOCK, BlockFormat};
use crate::Team;
use crate::chunks::Pieces;
use crate::matmul::Part;

/// Outputs of a tile.
pub(crate) const OUTPUTS: usize = 16;
/// Blocks of a tile.
const BLOCKS: usize = 2;
/// Inputs of a lane's word, or of its two.
const EIGHT: usize = 8;
/// Bytes that a warp reads at once.
const VECTORS: usize = 32 * 16;

/// The tiles of a weight `[outputs, inputs]`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Tiles {
    pub(crate) format: BlockFormat,
    outputs: usize,
    inputs: usize,
}

/// The numbers and the heads of some neighbouring panels.
#[derive(Debug)]
pub(crate) struct Panels {
    pub(crate) codes: Vec<u8>,
    pub(crate) heads: Vec<u8>,
}

impl BlockFormat {
    /// As kernels number the formats.
    pub(crate) fn code(self) -> u32 {
        match self {
            Self::Q8_0 => 0,
            Self::Q4_0 => 1,
            Self::Q4_1 => 2,
        }
    }

    /// What kernels read for that.
    pub(crate) const CODES: [(&'static str, usize); 3] = [("Q8_0", 0), ("Q4_0", 1), ("Q4_1", 2)];
}

impl Tiles {
    /// Of a weight whose inputs are whole blocks.
    pub(crate) fn new(format: BlockFormat, outputs: usize, inputs: usize) -> Self {
        Self { format, outputs, inputs }
    }

    /// Panels of 16 outputs.
    pub(crate) fn panels(self) -> usize {
        self.outputs.div_ceil(OUTPUTS)
    }

    /// Tiles of a panel.
    fn tiles(self) -> usize {
        (self.inputs / BLOCK).div_ceil(BLOCKS)
    }

    /// Bytes of a tile's numbers.
    fn tile_codes(self) -> usize {
        if self.format == BlockFormat::Q8_0 { 2 * VECTORS } else { VECTORS }
    }

    /// Bytes of a tile's scales and least values.
    fn tile_heads(self) -> usize {
        OUTPUTS * BLOCKS * self.head()
    }

    /// Bytes of one block's scale and least value.
    fn head(self) -> usize {
        if self.format == BlockFormat::Q4_1 { 4 } else { 2 }
    }

    /// Bytes of a panel's numbers.
    pub(crate) fn panel_codes(self) -> usize {
        self.tiles() * self.tile_codes()
    }

    /// Bytes of a panel's scales and least values.
    pub(crate) fn panel_heads(self) -> usize {
        self.tiles() * self.tile_heads()
    }

    /// Where the heads begin, behind all numbers; in bytes.
    pub(crate) fn heads_at(self) -> usize {
        self.panels() * self.panel_codes()
    }

    /// Bytes of all panels, or none where that is more than there can be.
    pub(crate) fn bytes(self) -> Option<usize> {
        let panel = self.tiles().checked_mul(self.tile_codes() + self.tile_heads())?;
        self.panels().checked_mul(panel)
    }

    /// Memory for `count` panels, all zeros.
    pub(crate) fn zeroed(self, count: usize) -> Panels {
        Panels { codes: vec![0; count * self.panel_codes()], heads: vec![0; count * self.panel_heads()] }
    }

    /// Puts outputs `first..first + outputs` into their panels, of which `panels` begins with that of `first`, from blocks as a file
    /// holds them, `[outputs][inputs / 32]`; on all threads.
    pub(crate) fn lay(self, team: &Team, panels: &mut Panels, first: usize, outputs: usize, blocks: &[u8]) {
        let (width, per_row) = (self.format.block_bytes(), self.inputs / BLOCK);
        self.scatter(team, panels, first, outputs, &|output, block| {
            Block::read(self.format, &blocks[(output * per_row + block) * width..])
        });
    }

    /// The same from finite numbers, quantised.
    pub(crate) fn quantise(self, team: &Team, panels: &mut Panels, first: usize, part: &Part<'_>) {
        self.scatter(team, panels, first, part.outputs, &|output, block| {
            Block::of_part(self.format, part, self.inputs, output, block)
        });
    }

    fn scatter(
        self,
        team: &Team,
        panels: &mut Panels,
        first: usize,
        outputs: usize,
        block: &(dyn Fn(usize, usize) -> Block + Sync),
    ) {
        let (codes, heads) = (self.panel_codes(), self.panel_heads());
        let (end, first_panel) = (first + outputs, first / OUTPUTS);
        let count = end.div_ceil(OUTPUTS).saturating_sub(first_panel);
        let (all_codes, all_heads) = (Pieces::new(&mut panels.codes), Pieces::new(&mut panels.heads));
        team.run(count, &|task| {
            let panel = first_panel + task;
            // SAFETY: each task has a panel of its own.
            let (codes, heads) =
                unsafe { (all_codes.range(task * codes, codes), all_heads.range(task * heads, heads)) };
            for output in first.max(panel * OUTPUTS)..end.min((panel + 1) * OUTPUTS) {
                for at in 0..self.inputs / BLOCK {
                    self.place(codes, heads, output % OUTPUTS, at, &block(output - first, at));
                }
            }
        });
    }

    /// Where the numbers of inputs 8 `eighth`.. of block `block` of a panel's output begin, in bytes of the panel.
    fn word(self, output: usize, block: usize, eighth: usize) -> usize {
        let (lane, upper) = (output % EIGHT * 4 + eighth, output / EIGHT);
        let tile = block / BLOCKS * self.tile_codes();
        match self.format {
            BlockFormat::Q8_0 => tile + block % BLOCKS * VECTORS + lane * 16 + upper * 8,
            BlockFormat::Q4_0 | BlockFormat::Q4_1 => tile + lane * 16 + (block % BLOCKS * 2 + upper) * 4,
        }
    }

    /// Puts a block into its panel: `output` counts from the panel's first.
    pub(super) fn place(self, codes: &mut [u8], heads: &mut [u8], output: usize, at: usize, block: &Block) {
        for (eighth, numbers) in block.numbers.as_chunks::<EIGHT>().0.iter().enumerate() {
            let to = &mut codes[self.word(output, at, eighth)..];
            if self.format == BlockFormat::Q8_0 {
                // Bytes 0 and 2 of a word become a pair of 16 bits, and bytes 1 and 3 another.
                for (to, four) in to.as_chunks_mut::<4>().0.iter_mut().zip(numbers.as_chunks::<4>().0) {
                    *to = [four[0], four[2], four[1], four[3]];
                }
            } else {
                // Each shift by 4 bits gives a pair: bits 0 to 3 and 16 to 19.
                let word = (numbers.iter().enumerate()).fold(0u32, |word, (i, &number)| {
                    word | u32::from(number) << (4 * (i / 2) + 16 * (i % 2))
                });
                to[..4].copy_from_slice(&word.to_le_bytes());
            }
        }
        let at = self.head_at(output, at);
        heads[at..at + 2].copy_from_slice(&block.scale.to_le_bytes());
        if self.format == BlockFormat::Q4_1 {
            heads[at + 2..at + 4].copy_from_slice(&block.least.to_le_bytes());
        }
    }

    /// And back.
    #[cfg(test)]
    pub(super) fn taken(self, codes: &[u8], heads: &[u8], output: usize, at: usize) -> Block {
        let mut block = Block::ZERO;
        for (eighth, numbers) in block.numbers.as_chunks_mut::<EIGHT>().0.iter_mut().enumerate() {
            let from = &codes[self.word(output, at, eighth)..];
            let word = |i: usize| {
                u32::from_le_bytes([from[4 * i], from[4 * i + 1], from[4 * i + 2], from[4 * i + 3]])
            };
            for (i, number) in numbers.iter_mut().enumerate() {
                *number = match self.format {
                    BlockFormat::Q8_0 => (word(i / 4) >> (8 * (i % 4 / 2) + 16 * (i % 2))) as u8,
                    BlockFormat::Q4_0 | BlockFormat::Q4_1 => {
                        (word(0) >> (4 * (i / 2) + 16 * (i % 2)) & 15) as u8
                    }
                };
            }
        }
        let at = self.head_at(output, at);
        let half = |at: usize| half::f16::from_le_bytes([heads[at], heads[at + 1]]);
        block.scale = half(at);
        if self.format == BlockFormat::Q4_1 {
            block.least = half(at + 2);
        }
        block
    }

    /// Where the scale of a block of a panel's output lies, in bytes of the panel: those of outputs g and g + 8 of both blocks of a
    /// tile side by side.
    fn head_at(self, output: usize, block: usize) -> usize {
        let (group, upper) = (output % EIGHT, output / EIGHT);
        block / BLOCKS * self.tile_heads() + (group * 4 + block % BLOCKS * 2 + upper) * self.head()
    }
}
