//! Launches of the kernels in `select.cu`: which entries stay, by the scores beside them.

use super::Score;
use super::cuda::{LANE_THREADS, Pruned, RankingSettings, RankingSize};
use crate::KernelError;
use crate::cuda::{
    Argument, Device, DeviceBuffer, Function, Grid, Module, Source, Specialisation, kernel_struct,
};
use crate::lifetimes::Floors;

pub(crate) const SOURCE: Source = Source {
    file: "ranking/select.cu",
    text: concat!(include_str!("lane.cuh"), include_str!("noise.cuh"), include_str!("select.cu")),
    constants: |_, _| vec![("THREADS", LANE_THREADS)],
    arguments: &[Pruned::LAYOUT, SelectArgs::LAYOUT],
};

/// The kernels, and what lies between two of them.
#[derive(Debug)]
pub(super) struct Select {
    settings: RankingSettings,
    /// Query heads that are in a score's sum.
    members: usize,
    draw: Option<Function>,
    keep: Keep,
    settle: Option<Function>,
}

#[derive(Debug)]
enum Keep {
    /// Each lane its own.
    Alike(Function),
    /// Each lane some, and all of a layer the rest.
    Shared { safe: Function, shared: Function, leasts: DeviceBuffer<u64> },
}

kernel_struct! {
    struct SelectArgs as SelectArgs {
        pruned: Pruned,
        safe: u64,
        share: f64,
        counted: Floors,
        floors: Floors,
        by_queries: u32,
        beside: u32,
        chance: f64,
        seed: u64,
        members: f64,
    }
}

impl Select {
    pub(super) fn new(
        device: &Device,
        specialisation: &Specialisation,
        settings: RankingSettings,
        size: RankingSize,
    ) -> Result<Self, KernelError> {
        let module = Module::load(device, &SOURCE, specialisation)?;
        let function = |name| module.function(name, 0);
        let keep = if settings.share.is_some() {
            let lanes = size.spans * size.layers * specialisation.groups;
            let leasts = DeviceBuffer::uninitialized(device, "the scratch memory of rankings", lanes)?;
            Keep::Shared { safe: function("keep_safe")?, shared: function("keep_shared")?, leasts }
        } else {
            Keep::Alike(function("keep_alike")?)
        };
        let when = |asked: bool, name| asked.then(|| function(name)).transpose();
        Ok(Self {
            settings,
            members: specialisation.query_heads / specialisation.groups.max(1),
            draw: when(matches!(settings.score, Score::Drawn { .. }), "draw")?,
            keep,
            settle: when(settings.score == Score::Since, "settle")?,
        })
    }

    /// Ends what does not stay, in lanes of `layers` layers and `spans` spans. The caller has checked what `pruned` names.
    pub(super) fn choose(
        &self,
        pruned: Pruned,
        (layers, groups, spans): (usize, usize, usize),
    ) -> Result<(), KernelError> {
        let RankingSettings { score, counted, floors, share } = self.settings;
        let (chance, seed) = match score {
            Score::Drawn { chance, seed, .. } => (chance, seed),
            _ => (0.0, 0),
        };
        let leasts = if let Keep::Shared { leasts, .. } = &self.keep { leasts.pointer() } else { 0 };
        let argument = SelectArgs {
            pruned,
            safe: leasts,
            share: share.unwrap_or(0.0),
            counted,
            floors,
            by_queries: u32::from(matches!(score, Score::Attention { per_query: true, .. })),
            beside: u32::from(score == Score::Since),
            chance,
            seed,
            members: self.members.max(1) as f64,
        };
        let lanes = Grid::new(layers * groups, LANE_THREADS as u32).by(spans);
        let heads = Grid::new(layers, LANE_THREADS as u32).by(spans);
        let keep = match &self.keep {
            Keep::Alike(alike) => [Some((alike, lanes)), None],
            Keep::Shared { safe, shared, .. } => [Some((safe, lanes)), Some((shared, heads))],
        };
        let draw = self.draw.as_ref().map(|draw| (draw, lanes));
        let settle = self.settle.as_ref().map(|settle| (settle, lanes));
        for (kernel, grid) in [draw].into_iter().chain(keep).chain([settle]).flatten() {
            // SAFETY: the argument is the kernel's, its buffers are what the caller has checked, and `leasts` has room for every
            // lane of the step.
            unsafe { kernel.launch(grid, &argument) }?;
        }
        Ok(())
    }
}
