//! The table of angles on the device, and the kernel that turns queries and keys and appends to the cache.

use crate::KernelError;
use crate::cuda::{
    Argument, Device, DeviceBuffer, DeviceLanes, DeviceStep, Function, Grid, LaneTables, Module, Source,
    Specialisation, StepSize, kernel_struct,
};
use crate::error::{check_at_least, check_length, checked_size};
use crate::lifetimes::CacheOverflow;

pub(crate) const SOURCE: Source = Source {
    file: "rope/append.cu",
    text: concat!(include_str!("../cuda/vectors.cuh"), include_str!("append.cu")),
    constants: |_, of| {
        vec![
            ("TABLE_THREADS", TABLE_THREADS),
            ("APPEND_THREADS", APPEND_THREADS),
            ("VECTOR", vector(of.head_dim)),
            ("HEAD_THREADS", head_threads(of.head_dim)),
            ("MOST_RULES", MOST_RULES),
            ("SHARE", Birth::SHARE as usize),
            ("GATE", Birth::GATE as usize),
            ("WINDOW_BEHIND", Birth::WINDOW_BEHIND as usize),
            ("INFINITE_FROM", of.cache.infinite_from() as usize),
            ("ROWS_INFINITE_FROM", of.format().infinite_from() as usize),
            ("OVERFLOW_LAYERS", CacheOverflow::MOST_LAYER),
            ("OVERFLOW_KEY", CacheOverflow::KEY),
            ("OVERFLOW_VALUE", CacheOverflow::VALUE),
            ("OVERFLOW_SIDE", CacheOverflow::SIDE_CHANNEL),
        ]
    },
    arguments: &[AnglesArguments::LAYOUT, Birth::LAYOUT, Births::LAYOUT, Arguments::LAYOUT],
};

const OP: &str = "append on the device";
/// Threads of a block that fills the table.
const TABLE_THREADS: usize = 256;
/// Threads of a block of the append kernel.
const APPEND_THREADS: usize = 128;
/// Neighbouring numbers of a head that a thread of that kernel takes at once.
fn vector(head_dim: usize) -> usize {
    [8, 4].into_iter().find(|&vector| head_dim.is_multiple_of(vector)).unwrap_or(2)
}

/// Threads of that kernel for a head.
fn head_threads(head_dim: usize) -> usize {
    (head_dim / vector(head_dim)).next_power_of_two().min(32)
}

/// Rules for new entries.
const MOST_RULES: usize = 4;

/// The angles of a model.
#[derive(Debug)]
pub struct DeviceRope;

kernel_struct! {
    struct AnglesArguments as Angles {
        inv_freq: u64,
        table: u64,
        count: u64,
        pairs: u32,
        scaling: f32,
    }
}

impl DeviceRope {
    /// Cos and sin of every position below `max_positions`, `[max_positions, pairs]`: what
    /// [`RopeTable::angles`](crate::RopeTable::angles) gives. Waits for the device.
    ///
    /// # Errors
    /// As [`Module::load`], no such memory, or a failed device.
    pub fn table(
        device: &Device,
        specialisation: &Specialisation,
        inv_freq: &[f32],
        attention_scaling: f32,
        max_positions: usize,
    ) -> Result<DeviceBuffer<[f32; 2]>, KernelError> {
        const OP: &str = "rope table on the device";
        let count = checked_size(OP, &[max_positions, inv_freq.len()])?;
        let table = DeviceBuffer::uninitialized(device, "the angles of the rope", count)?;
        let frequencies = DeviceBuffer::copy_of(device, "the frequencies of the rope", inv_freq)?;
        let fill = Module::load(device, &SOURCE, specialisation)?.function("rope_table", 0)?;
        let arguments = AnglesArguments {
            inv_freq: frequencies.pointer(),
            table: table.pointer(),
            count: count as u64,
            pairs: inv_freq.len() as u32,
            scaling: attention_scaling,
        };
        // SAFETY: the layout of `Angles`; the buffers were just made for it, and live until the wait.
        unsafe { fill.launch(Grid::new(count.div_ceil(TABLE_THREADS), TABLE_THREADS as u32), &arguments) }?;
        device.synchronize()?;
        Ok(table)
    }
}

kernel_struct! {
    /// A rule by which the end of an entry is known when it is born, with the floors of the policy that it stands for.
    #[derive(PartialEq)]
    pub struct Birth as Birth {
        /// [`Birth::WINDOW`]: the entry ends at `position + recent`; [`Birth::SHARE`]: it ends at once unless the share of positions
        /// `keep` gains a whole one with it; [`Birth::WINDOW_BEHIND`]: a window for what is born behind a prompt;
        /// [`Birth::GATE`]: it ends at once where its lane's gate refuses it.
        pub kind: u32,
        /// Of a window: positions below it do not end.
        pub sinks: u32,
        /// Of a window: its length.
        pub recent: u32,
        /// Positions below it never end by this rule.
        pub floor_sinks: u32,
        /// The least lifetime that this rule may give.
        pub floor_recent: u32,
        /// The lanes of the layer that it acts on, a bit for each from the lowest on.
        pub lanes: [u32; 4],
        /// Of a share: which part of all positions stays.
        pub keep: f64,
    }
}

kernel_struct! {
    /// The rules for new entries: the lowest end that any of them gives counts.
    #[derive(PartialEq)]
    pub struct Births as Births {
        /// How many of `rules` there are.
        pub count: u32,
        /// The rules.
        pub rules: [Birth; MOST_RULES],
    }
}

impl Birth {
    /// A window.
    pub const WINDOW: u32 = 0;
    /// A share of all positions.
    pub const SHARE: u32 = 1;
    /// A window for tokens behind prompts, [`Row::IN_PROMPT`](crate::cuda::Row::IN_PROMPT) being clear.
    pub const WINDOW_BEHIND: u32 = 2;
    /// What gates refuse that score entries at birth: [`StepGates::Birth`].
    pub const GATE: u32 = 3;
    /// [`Birth::lanes`] of a rule for all.
    pub const ALL: [u32; 4] = [u32::MAX; 4];
}

impl Default for Births {
    /// No rules: every entry lives for ever.
    fn default() -> Self {
        let rule = Birth {
            kind: Birth::WINDOW,
            sinks: 0,
            recent: 0,
            floor_sinks: 0,
            floor_recent: 0,
            lanes: Birth::ALL,
            keep: 0.0,
        };
        Self { count: 0, rules: [rule; MOST_RULES] }
    }
}

/// What gates have made of a step's tokens.
#[derive(Debug, Clone, Copy)]
pub enum StepGates<'a> {
    /// There are none.
    None,
    /// Query gates, then key gates: the key gates go to the side channel, those of the only head or of the lane's own.
    Votes {
        /// f32 `[rows, 2 heads r]`.
        numbers: &'a DeviceBuffer<f32>,
        /// Gate heads: 1, or one for each lane.
        heads: usize,
    },
    /// What rules of the kind [`Birth::GATE`] ask: an entry is refused unless its score and the bias are positive together.
    Birth {
        /// f32 `[rows, heads]`.
        numbers: &'a DeviceBuffer<f32>,
        /// `[heads]`.
        bias: &'a DeviceBuffer<f32>,
        /// Gate heads: 1, or one for each lane.
        heads: usize,
    },
}

/// Turns queries and keys, and writes a step's keys, values, key gates, positions and lifetimes into the lanes.
#[derive(Debug, Clone)]
pub struct DeviceAppend {
    append: Function,
    specialisation: Specialisation,
}

kernel_struct! {
    struct Arguments as Append {
        lanes: LaneTables,
        rows: u64,
        qkv: u64,
        query_norm: u64,
        key_norm: u64,
        angles: u64,
        gates: u64,
        bias: u64,
        shifts: u64,
        count: u32,
        layer: u32,
        pairs: u32,
        positions: u32,
        gate_heads: u32,
        epsilon: f32,
        births: Births,
    }
}

impl DeviceAppend {
    /// Compiles the kernel, or takes it from the cache.
    ///
    /// # Errors
    /// As [`Module::load`], or heads of an odd width.
    pub fn new(device: &Device, specialisation: &Specialisation) -> Result<Self, KernelError> {
        if !specialisation.head_dim.is_multiple_of(2) {
            return Err(KernelError::Invalid {
                op: OP,
                expected: "heads of an even width".to_owned(),
                got: specialisation.head_dim.to_string(),
            });
        }
        let module = Module::load(device, &SOURCE, specialisation)?;
        Ok(Self { append: module.function("append", 0)?, specialisation: *specialisation })
    }

    /// Writes the entries of the step's rows into the lanes of `layer`, which have grown already.
    ///
    /// `qkv` is W `[rows, (h + 2g) d]`; its queries are normalised by `query_norm`, f32 `[d]`, and turned by `rope` (a
    /// table and its pairs) in place, its keys on their way to the pages. A number
    /// that the cache's format holds only as infinity is told by the next reclaim: [`StepStatus`](crate::lifetimes::StepStatus).
    /// `shifts`, u32 `[slots]`, say how many positions before its own a sequence's token is turned, if given.
    ///
    /// # Errors
    /// Lengths that do not agree, more than four rules, or a failed device.
    #[expect(clippy::too_many_arguments, reason = "the operation's own arguments")]
    pub fn append(
        &self,
        lanes: &DeviceLanes,
        step: &DeviceStep,
        size: StepSize,
        layer: usize,
        qkv: &DeviceBuffer<u8>,
        query_norm: Option<&DeviceBuffer<f32>>,
        key_norm: Option<&DeviceBuffer<f32>>,
        epsilon: f32,
        rope: Option<(&DeviceBuffer<[f32; 2]>, usize)>,
        gates: StepGates<'_>,
        births: &Births,
        shifts: Option<&DeviceBuffer<u32>>,
    ) -> Result<(), KernelError> {
        let spec = &self.specialisation;
        lanes.check(OP, spec)?;
        let width = (spec.query_heads + 2 * spec.kv_heads) * spec.head_dim;
        check_at_least(OP, "the rows of the step", size.rows, step.rows.len())?;
        check_at_least(OP, "qkv", checked_size(OP, &[size.rows, width, spec.weights.bytes()])?, qkv.len())?;
        for weight in [query_norm, key_norm].into_iter().flatten() {
            check_length(OP, "a weight of the norm of heads", spec.head_dim, weight.len())?;
        }
        let invalid = |expected: String, got: String| KernelError::Invalid { op: OP, expected, got };
        if births.count as usize > births.rules.len() {
            return Err(invalid(format!("at most {MOST_RULES} rules"), births.count.to_string()));
        }
        if layer >= lanes.layers() {
            return Err(invalid(format!("a layer below {}", lanes.layers()), layer.to_string()));
        }
        let (gates, bias, gate_heads, row) = match gates {
            StepGates::None => (None, None, 1, 0),
            StepGates::Votes { numbers, heads } => (Some(numbers), None, heads, 2 * heads * spec.side_width),
            StepGates::Birth { numbers, bias, heads } => (Some(numbers), Some(bias), heads, heads),
        };
        if gate_heads != 1 && gate_heads != spec.groups {
            return Err(invalid(format!("gate heads: 1 or {}", spec.groups), gate_heads.to_string()));
        }
        if let Some(gates) = gates {
            check_at_least(OP, "gates", checked_size(OP, &[size.rows, row])?, gates.len())?;
        }
        if let Some(bias) = bias {
            check_length(OP, "the bias of gates", gate_heads, bias.len())?;
        }
        if let Some(shifts) = shifts {
            check_at_least(OP, "shifts", lanes.slots(), shifts.len())?;
        }
        let rope = rope.filter(|&(_, pairs)| pairs > 0);
        if let Some((table, pairs)) = rope
            && (2 * pairs > spec.head_dim || table.len() < pairs)
        {
            let expected = format!("angles of at most {} pairs and at least one position", spec.head_dim / 2);
            return Err(invalid(expected, format!("{} angles of {pairs} pairs", table.len())));
        }
        let pointer = |buffer: Option<&DeviceBuffer<f32>>| buffer.map_or(0, DeviceBuffer::pointer);
        let arguments = Arguments {
            lanes: lanes.tables(),
            rows: step.rows.pointer(),
            qkv: qkv.pointer(),
            query_norm: pointer(query_norm),
            key_norm: pointer(key_norm),
            angles: rope.map_or(0, |(table, _)| table.pointer()),
            gates: pointer(gates),
            bias: pointer(bias),
            shifts: shifts.map_or(0, DeviceBuffer::pointer),
            count: size.rows as u32,
            layer: layer as u32,
            pairs: rope.map_or(0, |(_, pairs)| pairs) as u32,
            positions: rope.map_or(0, |(table, pairs)| table.len() / pairs) as u32,
            gate_heads: gate_heads as u32,
            epsilon,
            births: *births,
        };
        let tasks = size.rows * (spec.query_heads + 2 * spec.kv_heads + spec.groups);
        let blocks = (tasks * head_threads(spec.head_dim)).div_ceil(APPEND_THREADS);
        let grid = Grid::new(blocks, APPEND_THREADS as u32).early();
        // SAFETY: the layout of `Append`; lengths, lanes and layer as just checked.
        unsafe { self.append.launch(grid, &arguments) }?;
        Ok(())
    }
}
