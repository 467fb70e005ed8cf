//! The kernel for a few rows: how its work is cut for a device, and its launch.

use crate::KernelError;
use crate::activation::CODES;
use crate::cuda::{Argument, Device, Function, Grid, Module, Source, Specialisation, kernel_struct};

pub(crate) const SOURCE: Source = Source {
    file: "matmul/gemv.cu",
    text: concat!(
        include_str!("../activation/gelu.cuh"),
        include_str!("ends.cuh"),
        include_str!("ring.cuh"),
        include_str!("gemv.cu"),
        include_str!("gemv_mma.cu")
    ),
    constants: |_, _| {
        let own = [
            ("STREAM_THREADS", THREADS as usize),
            ("NR", TOGETHER),
            ("MMA_ROWS", MMA_ROWS),
            ("STATIC_BYTES", STATIC),
        ];
        own.into_iter().chain(Kind::CODES).chain(CODES).collect()
    },
    arguments: &[Arguments::LAYOUT],
};

/// The most rows that the kernel takes whose sums are plain, and the norm of which it can take.
pub(super) const MAX_ROWS: usize = 4;
/// The most rows that share one reading of 16-bit weights, in tensor cores.
const MMA_ROWS: usize = 16;
const THREADS: u32 = 256;
const WARPS: usize = 8;
/// Outputs that a warp multiplies at once.
const TOGETHER: usize = 4;
/// Bytes that a step of the ring takes, and the steps of a ring.
const STEP: usize = THREADS as usize * TOGETHER * 16;
const DEPTH: std::ops::RangeInclusive<usize> = 2..=6;
/// Shared memory that a block has beside its ring and rows, and what the system keeps of each block.
const STATIC: usize = 2560;
pub(super) const KEPT: usize = 1024;
/// Of the kernel in tensor cores: its shared memory beside the ring, outputs of a unit, and bytes of each that one step
/// of a block covers.
const MMA_STATIC: usize = WARPS * MMA_ROWS * MMA_UNIT * 4;
const MMA_UNIT: usize = 32;
const MMA_STEP: usize = WARPS * 4 * 16;
/// Blocks of a cluster that share outputs there.
const MOST_PARTS: usize = 4;

/// What happens to the sums, as the kernel numbers it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u32)]
pub(super) enum Kind {
    Store = 0,
    StoreF32 = 1,
    Add = 2,
    SiluMul = 3,
}

impl Kind {
    /// As constants of a kernel file.
    pub(super) const CODES: [(&'static str, usize); 4] = [
        ("STORE", Self::Store as usize),
        ("STORE_F32", Self::StoreF32 as usize),
        ("ADD", Self::Add as usize),
        ("SILU_MUL", Self::SiluMul as usize),
    ];
}

/// One product, addresses of buffers on the device that hold what the sizes say.
#[derive(Debug, Clone, Copy)]
pub(super) struct Product {
    pub weights: u64,
    pub x: u64,
    /// Weight and bias of the norm of `x`, which then is the residual; both 0 for none.
    pub norm: (u64, u64),
    pub epsilon: f32,
    /// f32, or 0.
    pub bias: u64,
    pub out: u64,
    pub rows: usize,
    pub outputs: usize,
    pub inputs: usize,
    pub kind: Kind,
    pub activation: u32,
    /// Whether weights and x are f32 whatever W is.
    pub wide: bool,
}

kernel_struct! {
    struct Arguments as Stream {
        weights: u64,
        x: u64,
        norm_weight: u64,
        norm_bias: u64,
        bias: u64,
        out: u64,
        outputs: u32,
        inputs: u32,
        out_width: u32,
        split: u32,
        depth: u32,
        kind: u32,
        activation: u32,
        rows: u32,
        wide: u32,
        epsilon: f32,
    }
}

/// The streaming kernels of a device.
#[derive(Debug)]
pub(super) struct Streams {
    /// By rows.
    narrow: [Function; MAX_ROWS],
    /// By rows, f32.
    wide: [Function; MAX_ROWS],
    /// Of 5 to 8 rows, and of more.
    mma: [Function; 2],
    any: Function,
    element: usize,
    multiprocessors: usize,
    /// Whether blocks may read each other's shared memory.
    clusters: bool,
    /// The most shared memory of a block.
    shared: usize,
}

impl Streams {
    pub(super) fn new(device: &Device, specialisation: &Specialisation) -> Result<Self, KernelError> {
        let module = Module::load(device, &SOURCE, specialisation)?;
        let facts = device.facts();
        let shared = facts.shared_memory as usize;
        let load = |name: &str| module.function(name, (shared - STATIC) as u32);
        Ok(Self {
            narrow: [load("stream_1")?, load("stream_2")?, load("stream_3")?, load("stream_4")?],
            wide: [
                load("stream_f32_1")?,
                load("stream_f32_2")?,
                load("stream_f32_3")?,
                load("stream_f32_4")?,
            ],
            mma: [
                module.function("stream_8", (shared - MMA_STATIC) as u32)?,
                module.function("stream_16", (shared - MMA_STATIC) as u32)?,
            ],
            any: module.function("stream_any", 0)?,
            element: specialisation.weights.bytes(),
            multiprocessors: facts.multiprocessors as usize,
            clusters: facts.capability.0 >= 9,
            shared,
        })
    }

    /// Whether that many rows of that many inputs fit the kernel that reads the weights once.
    pub(super) fn fit(&self, rows: usize, inputs: usize, wide: bool) -> bool {
        let element = if wide { 4 } else { self.element };
        (1..=MAX_ROWS).contains(&rows)
            && inputs.is_multiple_of(16 / element)
            && depth(STATIC + row_bytes(rows, inputs * element), self.shared).is_some()
    }

    /// Whether that many rows are for the kernel in tensor cores: without a norm.
    pub(super) fn fit_mma(&self, rows: usize, inputs: usize, wide: bool) -> bool {
        (2..=MMA_ROWS).contains(&rows)
            && !wide
            && self.element == 2
            && inputs.is_multiple_of(8)
            && depth(MMA_STATIC, self.shared).is_some()
    }

    /// Starts a product that fits one of the kernels.
    ///
    /// # Safety
    /// What the product names is there: see [`Product`].
    pub(super) unsafe fn launch(&self, product: &Product) -> Result<(), KernelError> {
        let Product { rows, outputs, inputs, kind, .. } = *product;
        let element = if product.wide { 4 } else { self.element };
        let gated = kind == Kind::SiluMul;
        let (width, span) = if gated { (outputs / 2, 2) } else { (outputs, 1) };
        // From two rows on multiply-adds hold the loads up, and tensor cores do not.
        let in_cores = product.norm == (0, 0) && self.fit_mma(rows, inputs, product.wide);
        let (function, Shares { blocks, split, steps }, statics, x) = if in_cores {
            let most = if self.clusters { MOST_PARTS } else { 1 };
            let chunks = (inputs * element).div_ceil(MMA_STEP);
            let shares = clusters(width, MMA_UNIT / span, chunks, self.multiprocessors, most);
            (&self.mma[usize::from(rows > 8)], shares, MMA_STATIC, 0)
        } else {
            let function = if product.wide { &self.wide[rows - 1] } else { &self.narrow[rows - 1] };
            let blocks = width.min(self.multiprocessors);
            let units = width.div_ceil(blocks.max(1)).div_ceil(TOGETHER / span);
            let (split, steps) = cut(units, (inputs * element).div_ceil(32 * 16));
            (function, Shares { blocks, split, steps }, STATIC, row_bytes(rows, inputs * element))
        };
        let most = depth(statics + x, self.shared).unwrap_or(*DEPTH.start());
        let depth = steps.clamp(*DEPTH.start(), most);
        // Where nearly every multiprocessor has a block, more than a third of its memory: then no three of them share one, and
        // each leaves room for one of the next kernel.
        let least = if blocks * 8 > self.multiprocessors * 7 { (self.shared + KEPT) / 3 } else { 0 };
        let bytes = (depth * STEP + x).max(least);
        let arguments = Arguments {
            weights: product.weights,
            x: product.x,
            norm_weight: product.norm.0,
            norm_bias: product.norm.1,
            bias: product.bias,
            out: product.out,
            outputs: outputs as u32,
            inputs: inputs as u32,
            out_width: width as u32,
            split: split as u32,
            depth: depth as u32,
            kind: kind as u32,
            activation: product.activation,
            rows: rows as u32,
            wide: u32::from(product.wide),
            epsilon: product.epsilon,
        };
        let function = function.with_shared(bytes as u32);
        let grid = Grid::new(blocks, THREADS).in_clusters(if in_cores { split } else { 1 }).early();
        // SAFETY: the layout of `Stream`; the caller's promise.
        unsafe { function.launch(grid, &arguments) }?;
        Ok(())
    }

    /// Starts a product of any number of rows and inputs, without a norm and without a gate: slow, and always there.
    ///
    /// # Safety
    /// As [`Streams::launch`].
    pub(super) unsafe fn launch_any(&self, product: &Product) -> Result<(), KernelError> {
        let arguments = Arguments {
            weights: product.weights,
            x: product.x,
            norm_weight: 0,
            norm_bias: 0,
            bias: product.bias,
            out: product.out,
            outputs: product.outputs as u32,
            inputs: product.inputs as u32,
            out_width: product.outputs as u32,
            split: 1,
            depth: 0,
            kind: product.kind as u32,
            activation: product.activation,
            rows: product.rows as u32,
            wide: u32::from(product.wide),
            epsilon: 0.0,
        };
        let grid = Grid::new(product.outputs.div_ceil(WARPS), THREADS).early();
        // SAFETY: the layout of `Stream`; the caller's promise.
        unsafe { self.any.launch(grid, &arguments) }?;
        Ok(())
    }
}

/// How a product is shared out.
struct Shares {
    blocks: usize,
    /// Warps that share a unit; in tensor cores blocks that share outputs.
    split: usize,
    /// The most steps of a warp.
    steps: usize,
}

/// Shares in tensor cores of `width` outputs, `span` to a unit, with inputs of so many steps: by blocks of a cluster, `most` of
/// them, where that leaves a block a third less to do, for they wait for each other twice a unit. Not so where outputs fill the units of
/// all multiprocessors.
fn clusters(width: usize, span: usize, chunks: usize, multiprocessors: usize, most: usize) -> Shares {
    let shares = |split: usize| {
        let stretches = width.min(multiprocessors / split).max(1);
        let units = width.div_ceil(stretches).div_ceil(span).max(1);
        // Some multiprocessors have no place in a cluster, so not as many clusters run at once as there would be.
        let at_once = if split == 1 { stretches } else { multiprocessors * 15 / 16 / split };
        let stretches = stretches.min(at_once).max(width.div_ceil(units * span));
        Shares { blocks: stretches * split, split, steps: units * chunks.div_ceil(split) }
    };
    let mut best = shares(1);
    for split in [2, 4].into_iter().filter(|&split| split <= most.min(multiprocessors)) {
        let next = shares(split);
        if next.steps * 3 <= best.steps * 2 {
            best = next;
        }
    }
    best
}

/// Shared memory of rows of so many bytes each: in whole chunks of a warp.
fn row_bytes(rows: usize, bytes: usize) -> usize {
    rows * bytes.next_multiple_of(32 * 16)
}

/// How many steps of a ring fit beside `taken` bytes: in half of a multiprocessor, so that a block of the next kernel
/// finds room beside this one, or else in what a block can have. `shared` is that most.
fn depth(taken: usize, shared: usize) -> Option<usize> {
    let fits = |room: usize| {
        let depth = (room.saturating_sub(taken) / STEP).min(*DEPTH.end());
        DEPTH.contains(&depth).then_some(depth)
    };
    fits((shared + KEPT) / 2 - KEPT).or_else(|| fits(shared))
}

/// How many warps share a unit, and the most steps that this leaves for a warp of a block of `units` units of `chunks`
/// chunks. Of what takes equally long: few warps to a unit, because their sums must meet, but not one, because
/// neighbouring chunks are best read at once.
fn cut(units: usize, chunks: usize) -> (usize, usize) {
    let steps = |split: usize| units.div_ceil(WARPS / split) * chunks.div_ceil(split);
    let mut best = (4, steps(4));
    for split in [2, 8, 1] {
        if steps(split) * 64 < best.1 * 63 {
            best = (split, steps(split));
        }
    }
    best
}

#[cfg(test)]
mod tests {
    use super::{DEPTH, MMA_STATIC, STATIC, STEP, clusters, cut, depth, row_bytes};

    /// Of an H100.
    const SHARED: usize = 232_448;

    #[test]
    fn every_warp_of_a_block_has_its_share() {
        // Units of a block and chunks of a row, of the products of known models on 132 multiprocessors.
        for (units, chunks) in
            [(12, 16), (8, 16), (55, 16), (8, 56), (243, 16), (6, 8), (4, 8), (32, 8), (4, 32)]
        {
            let (split, steps) = cut(units, chunks);
            assert!([1, 2, 4, 8].contains(&split));
            let shared = units as f64 * chunks as f64 / 8.0;
            assert!(steps as f64 <= 1.03 * shared, "{units} units of {chunks} chunks: {steps}");
        }
        assert_eq!(cut(1, 1), (4, 1));
    }

    #[test]
    fn clusters_are_for_outputs_that_fill_a_quarter_or_half_of_a_unit() {
        // Outputs and inputs of a 16-bit format: GPT-2-medium's output and down, its attention's input; the 1B shape's; 8B's.
        for (width, inputs, blocks, split, steps) in [
            (1024, 1024, 128, 4, 1),
            (1024, 4096, 128, 4, 4),
            (3072, 1024, 132, 1, 4),
            (2048, 8192, 128, 2, 16),
            (4096, 14336, 132, 1, 56),
            (1, 8, 1, 1, 1),
            (0, 8, 1, 1, 1),
        ] {
            let shares = clusters(width, 32, (inputs * 2usize).div_ceil(512), 132, 4);
            assert_eq!(
                (shares.blocks, shares.split, shares.steps),
                (blocks, split, steps),
                "{width} of {inputs}"
            );
            assert_eq!(clusters(width, 32, (inputs * 2usize).div_ceil(512), 132, 1).split, 1);
        }
    }

    #[test]
    fn rings_leave_room_for_the_next_kernel_where_they_can() {
        for (rows, inputs, want) in
            [(1, 4096, 6), (4, 4096, 4), (1, 14336, 5), (2, 14336, 3), (4, 8192, 2), (1, 8, 6)]
        {
            let x = row_bytes(rows, inputs * 2);
            assert_eq!(depth(STATIC + x, SHARED), Some(want), "{rows} rows of {inputs}");
            assert!(2 * (x + want * STEP + STATIC + 1024) <= SHARED + 1024);
        }
        // These have a multiprocessor for themselves.
        assert_eq!(depth(STATIC + row_bytes(4, 14336 * 2), SHARED), Some(6));
        assert_eq!(depth(MMA_STATIC, SHARED), Some(6));
        assert_eq!(depth(SHARED, SHARED), None);
        assert!(DEPTH.contains(&depth(STATIC + row_bytes(1, 4096 * 2), 101_376).unwrap()));
    }
}
