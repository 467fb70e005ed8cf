//! What ranks entries on the device: which kernels, and when.

use super::Score;
use super::columns::{Columns, Counted};
use super::compactor::{self, Compactor};
use super::expected::{self, Expected, Turns};
use super::mass::Mass;
use super::ordered::Ordered;
use super::select::Select;
use super::told::Told;
use crate::attention::ToldScores;
use crate::cuda::{
    Argument, Device, DeviceBuffer, DeviceLanes, DeviceSpan, DeviceStep, Function, Grid, LaneTables, Module,
    Source, Specialisation, StepSize, kernel_struct,
};
use crate::error::check_at_least;
use crate::lifetimes::Floors;
use crate::{KernelError, PAGE_ENTRIES};

pub(crate) const KEYS: Source = Source {
    file: "ranking/keys.cu",
    text: concat!(include_str!("lane.cuh"), include_str!("noise.cuh"), include_str!("keys.cu")),
    constants: |_, _| vec![("THREADS", LANE_THREADS)],
    arguments: &[Pruned::LAYOUT, KeyArgs::LAYOUT],
};

pub(super) const OP: &str = "ranking";
/// Threads of a block that has a lane.
pub(super) const LANE_THREADS: usize = 512;

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
    mass: Option<Mass>,
    columns: Option<Columns>,
    expected: Option<Expected>,
    compactor: Option<Compactor>,
    told: Option<Told>,
    keys: Option<Function>,
    ordered: Option<Ordered>,
    select: Select,
}

kernel_struct! {
    pub(super) struct Pruned as Pruned {
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

impl DeviceRanking {
    /// The kernels of a ranking, and their scratch memory.
    ///
    /// # Errors
    /// Lanes without its statistics, or of several KV heads each where heads have scores of their own; a sketch of too many
    /// columns; a kernel that does not compile, no memory.
    pub fn new(
        device: &Device,
        specialisation: &Specialisation,
        settings: RankingSettings,
        size: RankingSize,
    ) -> Result<Self, KernelError> {
        let Specialisation { statistics, groups, kv_heads, .. } = *specialisation;
        let score = settings.score;
        if statistics != score.statistics() || (groups != kv_heads && !score.attends()) {
            return Err(KernelError::Invalid {
                op: OP,
                expected: format!(
                    "{} statistics of each entry, and a lane for each KV head",
                    score.statistics()
                ),
                got: format!("{statistics} statistics, {groups} lanes of {kv_heads} KV heads"),
            });
        }
        let mass = score.attends().then(|| Mass::new(device, specialisation, score, size)).transpose()?;
        let columns = if score.hears() { Columns::new(device, specialisation)? } else { None };
        let expected = matches!(score, Score::Expected { .. })
            .then(|| Expected::new(device, specialisation, size.positions))
            .transpose()?;
        let compactor = match score {
            Score::Compact { first, last, chunk, columns, blending, seed } => {
                let rule = compactor::Rule { first, last, chunk, columns, blending, seed };
                Some(Compactor::new(device, specialisation, size.positions, rule)?)
            }
            _ => None,
        };
        let keys = match score {
            Score::KeyNorm => Some("key_norms"),
            Score::KeyDifference => Some("key_differences"),
            Score::Noise { .. } => Some("key_noise"),
            _ => None,
        };
        let keys = keys
            .map(|name| Ok::<_, KernelError>(Module::load(device, &KEYS, specialisation)?.function(name, 0)?))
            .transpose()?;
        Ok(Self {
            settings,
            specialisation: *specialisation,
            size,
            mass,
            columns,
            expected,
            compactor,
            told: Told::new(device, specialisation, score, size)?,
            keys,
            ordered: Ordered::new(device, specialisation, score, size.positions)?,
            select: Select::new(device, specialisation, settings, size)?,
        })
    }

    /// Adds what the queries of one span gave the entries of its sequence's lanes of `layer` to their scores, before anything
    /// is lowered. Nothing where scores do not come from queries. Launches.
    ///
    /// `qkv` is `[rows, (h + 2g) d]` with rotated queries first, in the weights' format; `scale` is the factor of every dot
    /// product. `sums` are what [`DeviceAttention::prefill`](crate::attention::DeviceAttention::prefill) told of these rows, if it
    /// did: then one pass over the keys is enough. `turns` says how positions turned queries and keys, if they did; it
    /// is read where queries to come are expected, and where keys are sketched.
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
        if self.mass.is_none() && self.expected.is_none() && self.compactor.is_none() {
            return Ok(());
        }
        self.check(lanes, layer)?;
        let Specialisation { query_heads, kv_heads, head_dim, weights, .. } = self.specialisation;
        check_at_least(OP, "slots", span.slot as usize + 1, lanes.slots())?;
        let end = span.first_row as usize + span.queries as usize;
        let row = (query_heads + 2 * kv_heads) * head_dim * weights.bytes();
        check_at_least(OP, "queries", end.saturating_mul(row), qkv.len())?;
        if let (Some(kernels), Score::Expected { sinks, covariance, value_norm, epsilon, .. }) =
            (&self.expected, self.settings.score)
        {
            let rule = expected::Rule { sinks, covariance, value_norm, epsilon };
            return kernels.score(lanes, span, (layer, scale), qkv, rule, turns);
        }
        if let Some(kernels) = &self.compactor {
            return kernels.score(lanes, span, layer, qkv, turns);
        }
        let queries = span.queries.min(self.settings.score.horizon());
        let Some(mass) = self.mass.as_ref().filter(|_| queries > 0) else { return Ok(()) };
        let (factor, keep) = match self.settings.score {
            Score::Attention { factor, .. } => {
                (factor, factor.powi(i32::try_from(span.queries).unwrap_or(i32::MAX)))
            }
            score if score.gathers() => (1.0, 1.0),
            _ => (1.0, 0.0),
        };
        let skipped = span.queries - queries;
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
        match (&self.columns, sums) {
            (Some(columns), Some(sums)) => columns.add(lanes, counted, qkv, sums),
            _ => mass.add(lanes, counted, qkv),
        }
    }

    /// The same of a decode step, from what its attention `told` of this layer. Launches; nothing of them depends on lengths.
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
        let Some(kernels) = &self.told else { return Ok(()) };
        self.check(lanes, layer)?;
        kernels.add(lanes, step, size, layer, told)
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
        if let Some(keys) = &self.keys {
            let seed = if let Score::Noise { seed } = self.settings.score { seed } else { 0 };
            let grid = Grid::new(layers * groups, LANE_THREADS as u32).by(size.spans);
            // SAFETY: the argument is the kernel's, and its buffers are as large as just checked.
            unsafe { keys.launch(grid, &KeyArgs { pruned, seed }) }?;
        }
        if let Some(ordered) = &self.ordered {
            ordered.score(pruned, (layers * groups, size.spans), tokens)?;
        }
        self.select.choose(pruned, (layers, groups, size.spans))
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
