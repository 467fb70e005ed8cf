//! One row with weights in blocks: how its work is cut for a device, and its launch.

use super::blocks::slot;
use super::quantised::TILE_OUTPUTS;
use super::stream::{KEPT, Kind, Product};
use super::{BlockFormat, InBlocks};
use crate::KernelError;
use crate::cuda::{Function, Grid, Module, kernel_struct};

/// Warps of a block of threads.
pub(super) const WARPS: usize = 8;
/// Steps of a ring: what is on its way at once, some 70 to 80 KB.
pub(super) const DEPTH: usize = 4;
/// Rounds between two meetings of a block's warps, where as many share a unit.
pub(super) const BATCH: usize = 2;
/// Shared memory of the kernel that is not asked for at its launch.
const STATIC: usize = 64;

kernel_struct! {
    pub(super) struct RowArguments as OneRow {
        codes: u64,
        heads: u64,
        x: u64,
        norm_weight: u64,
        bias: u64,
        out: u64,
        outputs: u32,
        inputs: u32,
        out_width: u32,
        split: u32,
        kind: u32,
        activation: u32,
        epsilon: f32,
    }
}

/// The kernels of one row of a device.
#[derive(Debug)]
pub(super) struct RowProducts {
    /// By format.
    functions: [Function; 3],
    multiprocessors: usize,
    /// The most shared memory of a block.
    shared: usize,
}

/// How a product is cut: among blocks of threads, then among warps.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Cut {
    blocks: usize,
    /// Warps that share a unit.
    split: usize,
    /// Shared memory: the ring, x and what offsets add, the sums of warps.
    bytes: usize,
}

impl Cut {
    fn new(multiprocessors: usize, format: BlockFormat, width: usize, inputs: usize, gated: bool) -> Self {
        let panels = width.div_ceil(TILE_OUTPUTS);
        let blocks = panels.min(multiprocessors);
        let units = panels.div_ceil(blocks.max(1)).div_ceil(if gated { 1 } else { 2 });
        let tiles = if format == BlockFormat::Q8_0 { 2 } else { 4 };
        let chunks = inputs.div_ceil(64).div_ceil(tiles);
        let steps = |split: usize| units.div_ceil(WARPS / split) * chunks.div_ceil(split);
        // Of what takes equally long all warps together: neighbouring chunks are best read at once.
        let split = [4, 2, 1]
            .into_iter()
            .fold(WARPS, |best, split| if steps(split) * 64 < steps(best) * 63 { split } else { best });
        let (rounds, batch) = (units.div_ceil(WARPS / split), BATCH.min(split));
        let buffers = if rounds > batch { 2 } else { 1 };
        let sums = buffers * batch.min(rounds) * WARPS * 32 * 4;
        let blocks_of_x = (chunks * 2 * tiles).next_multiple_of(8);
        let bytes = DEPTH * WARPS * slot(format) + blocks_of_x * (64 + 4) + sums;
        Self { blocks, split, bytes }
    }
}

impl RowProducts {
    pub(super) fn new(module: &Module, multiprocessors: usize, shared: usize) -> Result<Self, KernelError> {
        let load = |format| module.function(&format!("blocks_{format}_row"), (shared - STATIC) as u32);
        Ok(Self { functions: [load("q8_0")?, load("q4_0")?, load("q4_1")?], multiprocessors, shared })
    }

    /// Whether that many rows are one, of inputs that fit shared memory beside a ring and the sums of `outputs`.
    pub(super) fn fits(&self, weight: InBlocks, rows: usize, outputs: usize, inputs: usize) -> bool {
        // Gated or not: as many outputs on their own have no fewer sums.
        rows == 1
            && Cut::new(self.multiprocessors, weight.format, outputs, inputs, false).bytes + STATIC
                <= self.shared
    }

    /// Starts a product of one row that fits, with an RMS norm or none.
    ///
    /// # Safety
    /// What the product names is there, its weights those blocks.
    pub(super) unsafe fn launch(&self, product: &Product, weight: InBlocks) -> Result<(), KernelError> {
        let Product { outputs, inputs, kind, .. } = *product;
        let gated = kind == Kind::SiluMul;
        let width = if gated { outputs / 2 } else { outputs };
        let cut = Cut::new(self.multiprocessors, weight.format, width, inputs, gated);
        let arguments = RowArguments {
            codes: weight.codes,
            heads: weight.heads,
            x: product.x,
            norm_weight: product.norm.0,
            bias: product.bias,
            out: product.out,
            outputs: outputs as u32,
            inputs: inputs as u32,
            out_width: width as u32,
            split: cut.split as u32,
            kind: kind as u32,
            activation: product.activation,
            epsilon: product.epsilon,
        };
        // As the other streams: no three share a multiprocessor.
        let least = if cut.blocks == self.multiprocessors { (self.shared + KEPT) / 3 } else { 0 };
        let function = self.functions[weight.format.code() as usize].with_shared(cut.bytes.max(least) as u32);
        // SAFETY: the layout of `Row`; the caller's promise.
        unsafe { function.launch(Grid::new(cut.blocks, 32 * WARPS as u32).early(), &arguments) }?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::{Cut, KEPT, STATIC, WARPS};
    use crate::matmul::BlockFormat;

    #[test]
    fn one_row_of_known_models_leaves_room_for_the_next_kernel() {
        // Of an H100.
        let (multiprocessors, shared) = (132, 232_448);
        for format in BlockFormat::ALL {
            for (width, inputs, gated) in [
                (6144, 4096, false),
                (4096, 4096, false),
                (14336, 4096, true),
                (4096, 14336, false),
                (128_256, 4096, false),
            ] {
                let cut = Cut::new(multiprocessors, format, width, inputs, gated);
                assert_eq!((cut.blocks, cut.split), (multiprocessors, WARPS), "{format} {width} x {inputs}");
                assert!(
                    cut.bytes + STATIC + KEPT <= (shared + KEPT) / 2,
                    "{format} {width} x {inputs}: {cut:?}"
                );
            }
            // Short rows: warps have units of their own, and all have some.
            let short = Cut::new(multiprocessors, format, 50_257, 576, false);
            assert!(short.split < WARPS, "{format}: {short:?}");
            assert_eq!(Cut::new(multiprocessors, format, 16, 32, false).blocks, 1);
        }
    }
}
