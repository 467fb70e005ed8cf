//! Launches of the kernels that rank.

use super::Score;
use super::columns::{Columns, Counted};
use super::expected::{Expected, Rule, Turns};
use crate::attention::ToldScores;
use crate::cuda::{
    Argument, Device, DeviceBuffer, DeviceLanes, DeviceSpan, DeviceStep, Function, Grid, LaneTables, Module,
    Source, Specialisation, StepSize, kernel_struct,
};
use crate::error::check_at_least;
use crate::lifetimes::Floors;
use crate::{KernelError, PAGE_ENTRIES};

pub(crate) const MASS: Source = Source {
    file: "ranking/mass.cu",
    text: concat!(include_str!("../gated_attention/cuda/fragments.cuh"), include_str!("mass.cu")),
    constants: |_, _| vec![("THREADS", MASS_THREADS), ("SIDE", SIDE)],
    arguments: &[MassArgs::LAYOUT],
};
pub(crate) const TOLD: Source = Source {
    file: "ranking/told.cu",
    text: include_str!("told.cu"),
    constants: |_, _| vec![("THREADS", TOLD_THREADS)],
    arguments: &[ToldArgs::LAYOUT],
};
pub(crate) const KEYS: Source = Source {
    file: "ranking/keys.cu",
    text: concat!(include_str!("lane.cuh"), include_str!("keys.cu")),
    constants: |_, _| vec![("THREADS", LANE_THREADS)],
    arguments: &[Pruned::LAYOUT, KeyArgs::LAYOUT],
};
pub(crate) const SELECT: Source = Source {
    file: "ranking/select.cu",
    text: concat!(include_str!("lane.cuh"), include_str!("select.cu")),
    constants: |_, _| vec![("THREADS", LANE_THREADS)],
    arguments: &[Pruned::LAYOUT, SelectArgs::LAYOUT],
};
pub(crate) const POOL: Source = Source {
    file: "ranking/pool.cu",
    text: concat!(include_str!("lane.cuh"), include_str!("order.cuh"), include_str!("pool.cu")),
    constants: |_, _| vec![("THREADS", LANE_THREADS)],
    arguments: &[Pruned::LAYOUT, PoolArgs::LAYOUT],
};
pub(crate) const LAG: Source = Source {
    file: "ranking/lag.cu",
    text: concat!(include_str!("lane.cuh"), include_str!("order.cuh"), include_str!("lag.cu")),
    constants: |_, _| vec![("THREADS", LANE_THREADS)],
    arguments: &[Pruned::LAYOUT, LagArgs::LAYOUT],
};

pub(super) const OP: &str = "ranking";
/// Rows, and entries, of a tile of `mass.cu`.
const SIDE: usize = 64;
const MASS_THREADS: usize = 128;
const TOLD_THREADS: usize = 256;
const LANE_THREADS: usize = 512;
/// Parts that the entries of a lane are cut into at most, where few rows would not fill the device.
const MOST_SPLITS: usize = 16;
/// Numbers in which lanes are put in order, so that several are at once; at least [`COLUMNS`] for each position.
const ROOM: usize = 8 << 20;
/// Numbers of each position that `pool.cu` works with, and `lag.cu`.
const COLUMNS: [usize; 2] = [2, 3];

/// How entries are ranked.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct RankingSettings {
    /// What an entry is worth.
    pub score: Score,
    /// What stays whatever it is worth, and counts.
    pub counted: Floors,
    /// What may not be taken away.
    pub floors: Floors,
    /// The share of its budget that each lane of a layer has for itself, where the rest goes to the best of all; otherwise all
    /// lanes have the same.
    pub share: Option<f64>,
}

/// Steps that entries are ranked in.
#[derive(Debug, Clone, Copy)]
pub struct RankingSize {
    /// Most rows of a step.
    pub rows: usize,
    /// Most sequences of a step.
    pub spans: usize,
    /// Layers of the model.
    pub layers: usize,
    /// Most tokens of a sequence.
    pub positions: usize,
}

/// Ranks entries of lanes that have a statistic, and ends those that are beyond a budget.
#[derive(Debug)]
pub struct DeviceRanking {
    settings: RankingSettings,
    specialisation: Specialisation,
    size: RankingSize,
    multiprocessors: usize,
    mass: Option<Mass>,
    columns: Option<Columns>,
    expected: Option<Expected>,
    told: Function,
    keys: Option<Function>,
    ordered: Option<Ordered>,
    select: Select,
}

/// The passes of `mass.cu`, and each row's largest score and sum.
#[derive(Debug)]
struct Mass {
    rows: Function,
    entries: Function,
    stats: DeviceBuffer<[f32; 2]>,
}

/// A kernel that looks at entries in the order of their positions.
#[derive(Debug)]
struct Ordered {
    function: Function,
    room: DeviceBuffer<u32>,
}

#[derive(Debug)]
struct Select {
    alike: Function,
    safe: Function,
    shared: Function,
    leasts: DeviceBuffer<u64>,
}

kernel_struct! {
    struct MassArgs as MassArgs {
        lanes: LaneTables,
        qkv: u64,
        rows: u64,
        slot: u32,
        layer: u32,
        first_row: u32,
        queries: u32,
        first_position: u32,
        splits: u32,
        scale: f32,
        factor: f32,
        keep: f32,
    }
}

kernel_struct! {
    struct ToldArgs as ToldArgs {
        lanes: LaneTables,
        spans: u64,
        first_pages: u64,
        scores: u64,
        stats: u64,
        layer: u32,
        units: u32,
        factor: f32,
    }
}

kernel_struct! {
    struct Pruned as Pruned {
        lanes: LaneTables,
        spans: u64,
        kept: u64,
    }
}

kernel_struct! {
    struct KeyArgs as KeyArgs {
        pruned: Pruned,
        seed: u64,
    }
}

kernel_struct! {
    struct PoolArgs as PoolArgs {
        pruned: Pruned,
        room: u64,
        stride: u32,
        lanes: u32,
        spans: u32,
        window: u32,
        reach: u32,
        largest: u32,
    }
}

kernel_struct! {
    struct LagArgs as LagArgs {
        pruned: Pruned,
        room: u64,
        stride: u32,
        lanes: u32,
        spans: u32,
        sinks: u32,
        lag: u32,
        across: u32,
    }
}

kernel_struct! {
    struct SelectArgs as SelectArgs {
        pruned: Pruned,
        safe: u64,
        share: f64,
        counted: Floors,
        floors: Floors,
        by_queries: u32,
    }
}

impl DeviceRanking {
    /// The kernels of a ranking, and their scratch memory.
    ///
    /// # Errors
    /// Lanes without a statistic, or of several KV heads each where heads have scores of their own; a kernel that does not
    /// compile, no memory.
    pub fn new(
        device: &Device,
        specialisation: &Specialisation,
        settings: RankingSettings,
        size: RankingSize,
    ) -> Result<Self, KernelError> {
        let Specialisation { statistics, groups, kv_heads, query_heads, head_dim, cache, .. } =
            *specialisation;
        let attends = matches!(settings.score, Score::Attention { .. } | Score::Window { .. });
        if statistics != 1 || (groups != kv_heads && !attends) {
            return Err(KernelError::Invalid {
                op: OP,
                expected: "one statistic of each entry, and a lane for each KV head".to_owned(),
                got: format!("{statistics} statistics, {groups} lanes of {kv_heads} KV heads"),
            });
        }
        let what = "the scratch memory of rankings";
        let load = |source| Module::load(device, source, specialisation);
        let mass = attends
            .then(|| {
                let module = load(&MASS)?;
                let width = head_dim.next_multiple_of(16) + 16 / cache.bytes();
                let shared = (2 * SIDE * width * cache.bytes()) as u32;
                let rows = size.rows.min(settings.score.horizon() as usize) * query_heads;
                Ok::<_, KernelError>(Mass {
                    rows: module.function("mass_rows", shared)?,
                    entries: module.function("mass_entries", shared)?,
                    // Where rows are few, entries are cut into parts.
                    stats: DeviceBuffer::uninitialized(
                        device,
                        what,
                        rows.max(MOST_SPLITS * rows.min(SIDE * query_heads)),
                    )?,
                })
            })
            .transpose()?;
        let columns = if attends { Columns::new(device, specialisation)? } else { None };
        let expected = matches!(settings.score, Score::Expected { .. })
            .then(|| Expected::new(device, specialisation, size.positions))
            .transpose()?;
        let keys = match settings.score {
            Score::KeyNorm => Some("key_norms"),
            Score::KeyDifference => Some("key_differences"),
            Score::Noise { .. } => Some("key_noise"),
            _ => None,
        };
        let keys = keys.map(|name| Ok::<_, KernelError>(load(&KEYS)?.function(name, 0)?)).transpose()?;
        let ordered = match settings.score {
            Score::Window { .. } => Some((&POOL, "pool", COLUMNS[0])),
            Score::Lag { .. } => Some((&LAG, "lag", COLUMNS[1])),
            _ => None,
        };
        let ordered = ordered
            .map(|(source, name, columns)| {
                let room = DeviceBuffer::uninitialized(device, what, ROOM.max(columns * size.positions))?;
                Ok::<_, KernelError>(Ordered { function: load(source)?.function(name, 0)?, room })
            })
            .transpose()?;
        let module = load(&SELECT)?;
        let leasts = if settings.share.is_some() { size.spans * size.layers * groups } else { 0 };
        let select = Select {
            alike: module.function("keep_alike", 0)?,
            safe: module.function("keep_safe", 0)?,
            shared: module.function("keep_shared", 0)?,
            leasts: DeviceBuffer::uninitialized(device, what, leasts)?,
        };
        Ok(Self {
            settings,
            specialisation: *specialisation,
            size,
            multiprocessors: device.facts().multiprocessors as usize,
            mass,
            columns,
            expected,
            told: load(&TOLD)?.function("told", 0)?,
            keys,
            ordered,
            select,
        })
    }

    /// Adds what the queries of one span gave the entries of its sequence's lanes of `layer` to their scores, before anything
    /// is lowered. Nothing where scores do not come from attention. Launches.
    ///
    /// `qkv` is `[rows, (h + 2g) d]` with rotated queries first, in the weights' format; `scale` is the factor of every dot
    /// product. `sums` are what [`DeviceAttention::prefill_and_tell`](crate::attention::DeviceAttention::prefill_and_tell) told of
    /// these rows, if it did: then one pass over the keys is enough. `turns` says how positions turned the queries, if they did; it
    /// is read where queries to come are expected.
    ///
    /// # Errors
    /// A slot or a layer that does not exist; more rows than it was made for, or than `qkv` and `sums` have.
    pub fn observe(
        &self,
        lanes: &DeviceLanes,
        span: &DeviceSpan,
        (layer, scale): (usize, f32),
        qkv: &DeviceBuffer<u8>,
        sums: Option<&DeviceBuffer<f32>>,
        turns: Option<Turns<'_>>,
    ) -> Result<(), KernelError> {
        if self.mass.is_none() && self.expected.is_none() {
            return Ok(());
        }
        self.check(lanes, layer)?;
        let Specialisation { query_heads, kv_heads, groups, head_dim, weights, .. } = self.specialisation;
        check_at_least(OP, "slots", span.slot as usize + 1, lanes.slots())?;
        let end = span.first_row as usize + span.queries as usize;
        let row = (query_heads + 2 * kv_heads) * head_dim * weights.bytes();
        check_at_least(OP, "queries", end.saturating_mul(row), qkv.len())?;
        if let (Some(kernels), Score::Expected { sinks, covariance, value_norm, epsilon, .. }) =
            (&self.expected, self.settings.score)
        {
            let rule = Rule { sinks, covariance, value_norm, epsilon };
            return kernels.score(lanes, span, (layer, scale), qkv, rule, turns);
        }
        let queries = span.queries.min(self.settings.score.horizon());
        let Some(mass) = self.mass.as_ref().filter(|_| queries > 0) else { return Ok(()) };
        let rows = queries as usize * query_heads;
        check_at_least(OP, "rows", rows, mass.stats.len())?;
        let (factor, keep) = match self.settings.score {
            Score::Attention { factor, .. } => {
                (factor, factor.powi(i32::try_from(span.queries).unwrap_or(i32::MAX)))
            }
            _ => (1.0, 0.0),
        };
        let skipped = span.queries - queries;
        if let (Some(columns), Some(sums)) = (&self.columns, sums) {
            let counted = Counted {
                slot: span.slot,
                layer,
                first_row: span.first_row + skipped,
                queries,
                first_position: span.first_position + skipped,
                scale,
                factor,
                keep,
            };
            return columns.add(lanes, counted, qkv, sums);
        }
        let tiles = (rows / kv_heads).div_ceil(SIDE);
        // Enough blocks to fill the device a few times.
        let wanted = (4 * self.multiprocessors).div_ceil(tiles * kv_heads);
        let splits = wanted.min(mass.stats.len() / rows).clamp(1, MOST_SPLITS);
        let argument = MassArgs {
            lanes: lanes.tables(),
            qkv: qkv.pointer(),
            rows: mass.stats.pointer(),
            slot: span.slot,
            layer: layer as u32,
            first_row: span.first_row + skipped,
            queries,
            first_position: span.first_position + skipped,
            splits: splits as u32,
            scale,
            factor,
            keep,
        };
        let mut grid = Grid::new(tiles, MASS_THREADS as u32).by(kv_heads);
        grid.blocks[2] = splits as u32;
        // SAFETY: the argument is the kernel's, its slot and layer exist, and its buffers are as large as just checked.
        unsafe { mass.rows.launch(grid, &argument) }?;
        // A lane has no more entries than its sequence has tokens.
        let tokens = span.first_position as usize + span.queries as usize;
        let grid = Grid::new(tokens.div_ceil(SIDE), MASS_THREADS as u32).by(groups);
        // SAFETY: as above.
        Ok(unsafe { mass.entries.launch(grid, &argument) }?)
    }

    /// The same of a decode step, from what its attention `told` of this layer. A launch; nothing of it depends on lengths.
    ///
    /// # Errors
    /// A layer that does not exist, buffers that are too short.
    pub fn observe_decoded(
        &self,
        lanes: &DeviceLanes,
        step: &DeviceStep,
        size: StepSize,
        layer: usize,
        told: &ToldScores,
    ) -> Result<(), KernelError> {
        let Score::Attention { factor, .. } = self.settings.score else { return Ok(()) };
        self.check(lanes, layer)?;
        let Specialisation { groups, query_heads, .. } = self.specialisation;
        let stride = step.max_spans * groups + 1;
        let units = size.spans * groups;
        check_at_least(OP, "spans", size.spans, step.max_spans.min(step.spans.len()))?;
        check_at_least(OP, "first_pages", (layer + 1) * stride, step.first_pages.len())?;
        check_at_least(OP, "told rows", size.spans * query_heads, told.stats.len())?;
        let argument = ToldArgs {
            lanes: lanes.tables(),
            spans: step.spans.pointer(),
            first_pages: step.first_pages.pointer() + (layer * stride * size_of::<u32>()) as u64,
            scores: told.scores.pointer(),
            stats: told.stats.pointer(),
            layer: layer as u32,
            units: units as u32,
            factor,
        };
        let parts = (4 * self.multiprocessors).div_ceil(units.max(1));
        let grid = Grid::new(parts, TOLD_THREADS as u32).by(units).early();
        // SAFETY: the argument is the kernel's, and its buffers are as large as just checked; `told` is what the caller says.
        Ok(unsafe { self.told.launch(grid, &argument) }?)
    }

    /// Ends, in each layer of each span's sequence, what is beyond `kept` `[spans][layers][lanes]` entries of each lane, on
    /// average where lanes share; `u32::MAX` leaves a lane alone. What ends does so at the first query behind the span, whose last
    /// one decides so. Launches; nothing of them depends on lengths.
    ///
    /// `tokens` is at least the number of tokens of every sequence.
    ///
    /// # Errors
    /// A step that is larger than its buffers; more tokens than it was made for.
    pub fn prune(
        &self,
        lanes: &DeviceLanes,
        step: &DeviceStep,
        size: StepSize,
        kept: &DeviceBuffer<u32>,
        tokens: usize,
    ) -> Result<(), KernelError> {
        self.check(lanes, 0)?;
        let (layers, groups) = (lanes.layers(), self.specialisation.groups);
        check_at_least(OP, "budgets", size.spans * layers * groups, kept.len())?;
        check_at_least(OP, "spans", size.spans, step.spans.len().min(self.size.spans))?;
        check_at_least(OP, "tokens", tokens, self.size.positions)?;
        let pruned = Pruned { lanes: lanes.tables(), spans: step.spans.pointer(), kept: kept.pointer() };
        let grid = Grid::new(layers * groups, LANE_THREADS as u32).by(size.spans);
        if let Some(keys) = &self.keys {
            let seed = if let Score::Noise { seed } = self.settings.score { seed } else { 0 };
            // SAFETY: the argument is the kernel's, and its buffers are as large as just checked.
            unsafe { keys.launch(grid, &KeyArgs { pruned, seed }) }?;
        }
        if let Some(Ordered { function, room }) = &self.ordered {
            let (stride, tasks) = (tokens.max(1), layers * groups * size.spans);
            let (room_at, room_len) = (room.pointer(), room.len());
            let blocks = |columns: usize| (room_len / (columns * stride)).min(tasks);
            let grid = |columns| Grid::new(blocks(columns), LANE_THREADS as u32);
            let (stride, lanes, spans) = (stride as u32, (layers * groups) as u32, size.spans as u32);
            match self.settings.score {
                Score::Window { window, kernel, largest } => {
                    let (reach, largest) = (kernel / 2, u32::from(largest));
                    let argument =
                        PoolArgs { pruned, room: room_at, stride, lanes, spans, window, reach, largest };
                    // SAFETY: as above; each block has its own part of the room, and there is room for one at least.
                    unsafe { function.launch(grid(COLUMNS[0]), &argument) }?;
                }
                Score::Lag { sinks, lag, across } => {
                    let (lag, across) = (lag.max(1), u32::from(across));
                    let argument =
                        LagArgs { pruned, room: room_at, stride, lanes, spans, sinks, lag, across };
                    // SAFETY: as above.
                    unsafe { function.launch(grid(COLUMNS[1]), &argument) }?;
                }
                _ => {}
            }
        }
        let select = &self.select;
        let argument = SelectArgs {
            pruned,
            safe: select.leasts.pointer(),
            share: self.settings.share.unwrap_or(0.0),
            counted: self.settings.counted,
            floors: self.settings.floors,
            by_queries: u32::from(matches!(self.settings.score, Score::Attention { per_query: true, .. })),
        };
        if self.settings.share.is_none() {
            // SAFETY: as above.
            return Ok(unsafe { select.alike.launch(grid, &argument) }?);
        }
        // SAFETY: as above; `leasts` has room for every lane of the step.
        unsafe { select.safe.launch(grid, &argument) }?;
        let grid = Grid::new(layers, LANE_THREADS as u32).by(size.spans);
        // SAFETY: as above.
        Ok(unsafe { select.shared.launch(grid, &argument) }?)
    }

    /// Entries of a layer that scores are told of in a decode step of `spans` sequences, in pages, over a pool of so many.
    #[must_use]
    pub fn told_pages(&self, pool: usize) -> usize {
        let most = self.size.positions.div_ceil(PAGE_ENTRIES);
        self.size.spans.saturating_mul(self.specialisation.groups).saturating_mul(most).min(pool)
    }

    fn check(&self, lanes: &DeviceLanes, layer: usize) -> Result<(), KernelError> {
        lanes.check(OP, &self.specialisation)?;
        check_at_least(OP, "layers", lanes.layers(), self.size.layers)?;
        check_at_least(OP, "layers", layer + 1, lanes.layers())
    }
}
