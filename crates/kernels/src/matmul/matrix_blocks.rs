//! Weights in blocks on the device: laid out by the host's threads, or made there.

use super::matrix::{OP, check_shape};
use super::quantised::{BLOCK, Panels, TILE_OUTPUTS, Tiles};
use super::{BlockFormat, DeviceMatrix, DeviceRandom, MatrixFormat, Part};
use crate::cuda::{Device, DeviceBuffer};
use crate::error::{check_length, checked_size};
use crate::{KernelError, Team};

/// Where a weight in blocks lies on its device; to be used at once, as [`DeviceBuffer::pointer`].
#[derive(Debug, Clone, Copy)]
pub(crate) struct InBlocks {
    pub(crate) format: BlockFormat,
    /// Its numbers, then its scales and least values: see [`Tiles`].
    pub(crate) codes: u64,
    pub(crate) heads: u64,
}

impl DeviceMatrix {
    /// A weight of zeros in blocks, to be filled.
    ///
    /// # Errors
    /// No outputs, inputs that are not whole blocks of 32, or no such memory on the device.
    pub fn zeroed_blocks(
        device: &Device,
        outputs: usize,
        inputs: usize,
        format: BlockFormat,
    ) -> Result<Self, KernelError> {
        check_shape(outputs, inputs)?;
        let bytes = Tiles::new(format, outputs, inputs).bytes();
        let (Some(bytes), true) = (bytes, inputs.is_multiple_of(BLOCK)) else {
            return Err(KernelError::Invalid {
                op: OP,
                expected: format!("inputs that are a multiple of {BLOCK}, and a size that memory can have"),
                got: format!("[{outputs}, {inputs}]"),
            });
        };
        let data = DeviceBuffer::zeroed(device, "weights", bytes)?;
        Ok(Self { data, outputs, inputs, format: MatrixFormat::Blocks(format) })
    }

    /// Blocks of random numbers of up to about `scale`: those of [`QuantisedMatrix::random`](crate::QuantisedMatrix::random) with
    /// the same arguments, bit for bit. Waits for the device.
    ///
    /// # Errors
    /// As [`DeviceMatrix::zeroed_blocks`], or a failed device.
    pub fn random_blocks(
        random: &DeviceRandom,
        device: &Device,
        outputs: usize,
        inputs: usize,
        format: BlockFormat,
        scale: f32,
        seed: u64,
    ) -> Result<Self, KernelError> {
        let matrix = Self::zeroed_blocks(device, outputs, inputs, format)?;
        let blocks = matrix.blocks(Tiles::new(format, outputs, inputs));
        // SAFETY: the matrix was just made for so many.
        unsafe { random.fill_blocks(blocks, (outputs, inputs), scale, seed) }?;
        device.synchronize()?;
        Ok(matrix)
    }

    /// Fills outputs `first_output..first_output + outputs` with blocks of the matrix's own format, `[outputs][inputs / 32]` as a
    /// file holds them, laid out on the threads of the team; waits.
    ///
    /// # Errors
    /// A matrix of numbers, outputs that it does not have, another number of bytes, or a failed device.
    pub fn fill_blocks(
        &self,
        team: &Team,
        first_output: usize,
        outputs: usize,
        blocks: &[u8],
    ) -> Result<(), KernelError> {
        let tiles = self.tiles()?;
        let row = checked_size(OP, &[self.inputs / BLOCK, tiles.format.block_bytes()])?;
        check_length(OP, "the bytes of a part", checked_size(OP, &[outputs, row])?, blocks.len())?;
        self.replace(first_output, outputs, |tiles, panels| {
            tiles.lay(team, panels, first_output, outputs, blocks);
        })
    }

    /// The same from numbers, of a part of the right length.
    pub(super) fn quantise(
        &self,
        team: &Team,
        first_output: usize,
        part: &Part<'_>,
    ) -> Result<(), KernelError> {
        self.replace(first_output, part.outputs, |tiles, panels| {
            tiles.quantise(team, panels, first_output, part);
        })
    }

    /// Lets `lay` put outputs into their panels and takes these to the device.
    fn replace(
        &self,
        first: usize,
        outputs: usize,
        lay: impl FnOnce(Tiles, &mut Panels),
    ) -> Result<(), KernelError> {
        let tiles = self.tiles()?;
        let end = self.end_of(first, outputs)?;
        if outputs == 0 {
            return Ok(());
        }
        let (low, high) = (first / TILE_OUTPUTS, end.div_ceil(TILE_OUTPUTS));
        let (codes, heads, heads_at) = (tiles.panel_codes(), tiles.panel_heads(), tiles.heads_at());
        let mut panels = tiles.zeroed(high - low);
        // A panel that has other outputs as well keeps them.
        let shared = [(first, low), (end, high - 1)].into_iter().filter(|(edge, _)| edge % TILE_OUTPUTS != 0);
        for (_, panel) in shared {
            let at = panel - low;
            panels.codes[at * codes..][..codes].copy_from_slice(&self.data.read_range(panel * codes, codes)?);
            let there = self.data.read_range(heads_at + panel * heads, heads)?;
            panels.heads[at * heads..][..heads].copy_from_slice(&there);
        }
        lay(tiles, &mut panels);
        self.data.write(low * codes, &panels.codes)?;
        self.data.write(heads_at + low * heads, &panels.heads)?;
        Ok(())
    }

    fn tiles(&self) -> Result<Tiles, KernelError> {
        match self.format {
            MatrixFormat::Blocks(format) => Ok(Tiles::new(format, self.outputs, self.inputs)),
            MatrixFormat::Numbers(_) => Err(self.other_than("a matrix of blocks")),
        }
    }

    fn blocks(&self, tiles: Tiles) -> InBlocks {
        let codes = self.data.pointer();
        InBlocks { format: tiles.format, codes, heads: codes + tiles.heads_at() as u64 }
    }

    /// Where its blocks are; none for a matrix of numbers.
    pub(crate) fn in_blocks(&self) -> Option<InBlocks> {
        self.tiles().ok().map(|tiles| self.blocks(tiles))
    }
}
