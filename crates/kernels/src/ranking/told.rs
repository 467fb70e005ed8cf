//! Launches of the kernels in `told.cu`: what decode steps' queries give entries, as their attention tells it.

use super::Score;
use super::cuda::{OP, RankingSize};
use crate::KernelError;
use crate::attention::ToldScores;
use crate::cuda::{
    Argument, Device, DeviceBuffer, DeviceLanes, DeviceStep, Function, Grid, LaneTables, Module, Source,
    Specialisation, StepSize, kernel_struct,
};
use crate::error::check_at_least;

pub(crate) const SOURCE: Source = Source {
    file: "ranking/told.cu",
    text: concat!(include_str!("noise.cuh"), include_str!("told.cu")),
    constants: |_, _| vec![("THREADS", THREADS)],
    arguments: &[ToldArgs::LAYOUT, SoftToldArgs::LAYOUT],
};

const THREADS: usize = 256;

/// The kernels: one where probabilities are attention's own, two where they are made of noisy and softer scores.
#[derive(Debug)]
pub(super) struct Told {
    kernels: Kernels,
    specialisation: Specialisation,
    multiprocessors: usize,
}

#[derive(Debug)]
enum Kernels {
    Own {
        factor: f32,
        told: Function,
    },
    Soft {
        temperature: f32,
        seed: Option<u64>,
        rows: Function,
        told: Function,
        parts: DeviceBuffer<[f32; 2]>,
    },
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
    struct SoftToldArgs as SoftToldArgs {
        told: ToldArgs,
        parts: u64,
        seed: u64,
        temperature: f32,
        noisy: u32,
    }
}

impl Told {
    /// None where scores are none of these.
    pub(super) fn new(
        device: &Device,
        specialisation: &Specialisation,
        score: Score,
        size: RankingSize,
    ) -> Result<Option<Self>, KernelError> {
        let multiprocessors = device.facts().multiprocessors as usize;
        let load = |name| Module::load(device, &SOURCE, specialisation)?.function(name, 0);
        let kernels = match score {
            Score::Attention { factor, .. } => Kernels::Own { factor, told: load("told")? },
            Score::Softened { temperature, seed } => {
                let units = size.spans * specialisation.groups;
                let rows = specialisation.query_heads / specialisation.groups;
                // Never more parts together than this, because few units are cut finer.
                let most = (4 * multiprocessors + units) * rows;
                Kernels::Soft {
                    temperature,
                    seed,
                    rows: load("soft_told_rows")?,
                    told: load("soft_told")?,
                    parts: DeviceBuffer::uninitialized(device, "the scratch memory of rankings", most)?,
                }
            }
            _ => return Ok(None),
        };
        Ok(Some(Self { kernels, specialisation: *specialisation, multiprocessors }))
    }

    /// Adds what the queries of a step gave in a layer to the sums of before. Nothing of it depends on lengths.
    ///
    /// # Errors
    /// Buffers that are too short.
    pub(super) fn add(
        &self,
        lanes: &DeviceLanes,
        step: &DeviceStep,
        size: StepSize,
        layer: usize,
        told: &ToldScores,
    ) -> Result<(), KernelError> {
        let Specialisation { groups, query_heads, .. } = self.specialisation;
        let stride = step.max_spans * groups + 1;
        let units = size.spans * groups;
        check_at_least(OP, "spans", size.spans, step.max_spans.min(step.spans.len()))?;
        check_at_least(OP, "first_pages", (layer + 1) * stride, step.first_pages.len())?;
        check_at_least(OP, "told rows", size.spans * query_heads, told.stats.len())?;
        let factor = if let Kernels::Own { factor, .. } = self.kernels { factor } else { 1.0 };
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
        let count = (4 * self.multiprocessors).div_ceil(units.max(1));
        let grid = Grid::new(count, THREADS as u32).by(units);
        match &self.kernels {
            // SAFETY: the argument is the kernel's, and its buffers are as large as just checked; `told` is what the caller says.
            Kernels::Own { told, .. } => Ok(unsafe { told.launch(grid.early(), &argument) }?),
            Kernels::Soft { temperature, seed, rows, told, parts } => {
                check_at_least(OP, "parts", count * units * (query_heads / groups), parts.len())?;
                let argument = SoftToldArgs {
                    told: argument,
                    parts: parts.pointer(),
                    seed: seed.unwrap_or(0),
                    temperature: *temperature,
                    noisy: u32::from(seed.is_some()),
                };
                // SAFETY: as above.
                unsafe { rows.launch(grid, &argument) }?;
                // SAFETY: as above.
                Ok(unsafe { told.launch(grid, &argument) }?)
            }
        }
    }
}
