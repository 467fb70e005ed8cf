//! One row with weights in blocks: how its work is cut for a device, and its launch.

use super::blocks::slot;
use super::quantised::TILE_OUTPUTS;
use super::stream::{KEPT, Kind, Product};
use super::{BlockFormat, InBlocks};
use crate::KernelError;
use crate::cuda::{Device, Function, Grid, Module, kernel_struct};

/// Warps of a block that multiply; one more copies.
pub(super) const WARPS: usize = 8;
/// Panels between two meetings of a block's warps.
pub(super) const PANELS: usize = 8;
/// Steps of a ring.
pub(super) const MOST_STEPS: usize = 8;
const LEAST_STEPS: usize = 2;
/// Shared memory of the kernel that is not asked for at its launch: signals and sums over threads.
const STATIC: usize = 256;

kernel_struct! {
    pub(super) struct RowArguments as OneRow {
        codes: u64,
        heads: u64,
        x: u64,
        norm_weight: u64,
        norm_bias: u64,
        bias: u64,
        out: u64,
        outputs: u32,
        inputs: u32,
        out_width: u32,
        depth: u32,
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
    /// The most shared memory of a block; 0 on devices without copies that signal.
    shared: usize,
}

/// How a product is cut: among blocks of threads, and how far copies run ahead.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Cut {
    blocks: usize,
    /// Steps of the ring.
    depth: usize,
    /// Shared memory: the ring, x and what offsets add, the sums of warps.
    bytes: usize,
}

impl Cut {
    /// Of `width` outputs or gates, in half of a multiprocessor, so that a block of the next kernel finds room beside, or else in the
    /// `shared` bytes that a block can have; none where they do not fit.
    fn new(
        multiprocessors: usize,
        shared: usize,
        format: BlockFormat,
        (width, inputs): (usize, usize),
        gated: bool,
    ) -> Option<Self> {
        let panels = width.div_ceil(TILE_OUTPUTS);
        let blocks = panels.min(multiprocessors);
        let own = panels.div_ceil(blocks.max(1)) * if gated { 2 } else { 1 };
        let sums = if own > PANELS { 2 * PANELS } else { own } * WARPS * TILE_OUTPUTS * 4;
        let x = inputs.checked_mul(2)?.checked_next_multiple_of(512)?;
        // What offsets add is a number for each 32 inputs.
        let (taken, step) = ((x + x / 16).checked_add(sums)?, WARPS * slot(format));
        let fits = |room: usize| {
            let depth = (room.checked_sub(taken + STATIC)? / step).min(MOST_STEPS);
            (depth >= LEAST_STEPS).then_some(depth)
        };
        let depth = fits(((shared + KEPT) / 2).checked_sub(KEPT)?).or_else(|| fits(shared))?;
        Some(Self { blocks, depth, bytes: taken + depth * step })
    }
}

impl RowProducts {
    pub(super) fn new(device: &Device, module: &Module) -> Result<Self, KernelError> {
        let facts = device.facts();
        let most = facts.shared_memory as usize;
        let load = |format| module.function(&format!("blocks_{format}_row"), (most - STATIC) as u32);
        Ok(Self {
            functions: [load("q8_0")?, load("q4_0")?, load("q4_1")?],
            multiprocessors: facts.multiprocessors as usize,
            shared: if facts.capability.0 >= 9 { most } else { 0 },
        })
    }

    fn cut(&self, weight: InBlocks, outputs: usize, inputs: usize, gated: bool) -> Option<Cut> {
        let width = if gated { outputs / 2 } else { outputs };
        Cut::new(self.multiprocessors, self.shared, weight.format, (width, inputs), gated)
    }

    /// Whether that many rows are one, of inputs that fit shared memory beside a ring and the sums of `outputs`.
    pub(super) fn fits(&self, weight: InBlocks, rows: usize, outputs: usize, inputs: usize) -> bool {
        let cut = |gated| self.cut(weight, outputs, inputs, gated);
        rows == 1 && cut(false).is_some() && cut(true).is_some()
    }

    /// Starts a product of one row that fits, with a norm or none.
    ///
    /// # Safety
    /// What the product names is there, its weights those blocks.
    pub(super) unsafe fn launch(&self, product: &Product, weight: InBlocks) -> Result<(), KernelError> {
        let Product { outputs, inputs, kind, .. } = *product;
        let gated = kind == Kind::SiluMul;
        let Some(cut) = self.cut(weight, outputs, inputs, gated) else {
            return Err(KernelError::Invalid {
                op: super::cuda::OP,
                expected: format!("a row that fits {} bytes of shared memory beside a ring", self.shared),
                got: format!("one of {inputs} inputs"),
            });
        };
        let arguments = RowArguments {
            codes: weight.codes,
            heads: weight.heads,
            x: product.x,
            norm_weight: product.norm.0,
            norm_bias: product.norm.1,
            bias: product.bias,
            out: product.out,
            outputs: outputs as u32,
            inputs: inputs as u32,
            out_width: (if gated { outputs / 2 } else { outputs }) as u32,
            depth: cut.depth as u32,
            kind: kind as u32,
            activation: product.activation,
            epsilon: product.epsilon,
        };
        // As the other streams: no three share a multiprocessor.
        let least = if cut.blocks == self.multiprocessors { (self.shared + KEPT) / 3 } else { 0 };
        let function = self.functions[weight.format.code() as usize].with_shared(cut.bytes.max(least) as u32);
        let grid = Grid::new(cut.blocks, 32 * (WARPS as u32 + 1));
        // SAFETY: the layout of `OneRow`; the caller's promise.
        unsafe { function.launch(grid.early(), &arguments) }?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::{Cut, KEPT, STATIC};
    use crate::matmul::BlockFormat;

    #[test]
    fn one_row_of_known_models_leaves_room_for_the_next_kernel() {
        // Of an H100.
        let (multiprocessors, shared) = (132, 232_448);
        let cut = |format, shape, gated| Cut::new(multiprocessors, shared, format, shape, gated).unwrap();
        for format in BlockFormat::ALL {
            for (width, inputs, gated) in [
                (6144, 4096, false),
                (4096, 4096, false),
                (14336, 4096, true),
                (4096, 14336, false),
                (128_256, 4096, false),
            ] {
                let cut = cut(format, (width, inputs), gated);
                assert_eq!(cut.blocks, multiprocessors, "{format} {width} x {inputs}");
                assert!(cut.depth >= 4, "{format} {width} x {inputs}: {cut:?}");
                assert!(
                    cut.bytes + STATIC + KEPT <= (shared + KEPT) / 2,
                    "{format} {width} x {inputs}: {cut:?}"
                );
            }
            assert_eq!(cut(format, (16, 32), false).blocks, 1);
            // These have a multiprocessor for themselves, or none.
            let long = cut(format, (4096, 49_152), false);
            assert!(long.bytes > shared / 2 && long.bytes + STATIC <= shared, "{format}: {long:?}");
            assert_eq!(Cut::new(multiprocessors, shared, format, (4096, 131_072), false), None);
            assert_eq!(Cut::new(multiprocessors, 0, format, (64, 64), false), None);
        }
    }
}
