//! Training on a CUDA device: the decoder of [`network`](crate::network) with every number of a step on the card.
//!
//! Parameters, moments and gradients are f32; products read a copy of the parameters in their own format. A step, with the decision whether and how far parameters move,
//! is sent without waiting; what it came to is fetched once, while they move.

mod attention;
mod backward;
mod division;
mod factors;
mod forward;
mod gaps;
mod gates;
mod gradients;
mod head;
mod judge;
mod kernels;
mod look;
mod lookup;
mod matrix;
mod need;
mod network;
mod other;
mod part;
mod place;
mod room;
mod sample;
mod sums;
#[cfg(test)]
pub(crate) mod tests;
mod verbs;
mod weights;
mod windows;

use std::ops::Range;

use dropcap_kernels::cuda::{Device, DeviceBuffer, PinnedBuffer};
use dropcap_kernels::gated_attention::{DeviceCurve, GateScratch, GateTrail};
use dropcap_kernels::training::KeepTable;
use dropcap_kernels::{DType, KernelError};
use dropcap_model::{DecoderConfig, WeightPlan};

pub use need::Need;
pub use other::OtherModel;

use crate::TrainError;
use crate::backend::Room as Size;
use crate::network::{FactorForm, GateForm, Layout, Pruning, gated_shape};
use forward::Run;
use gates::GateMaps;
use gradients::Gradients;
use judge::{Judge, Shares};
use kernels::Kernels;
use look::Look;
use network::Network;
use other::Other;
use part::Part;
use place::Places;
use room::{Purpose, Room};
use sample::Sample;
use sums::Sums;
use weights::Weights;
use windows::Windows;

/// What is trained on a device, and how.
#[derive(Debug)]
pub struct Plan<'a> {
    /// What the network computes.
    pub config: &'a DecoderConfig,
    /// Its tensors.
    pub plan: &'a WeightPlan,
    /// The form of its gates, if it has any.
    pub gates: Option<GateForm>,
    /// The form of factors beside weights that are held, if there are any.
    pub factors: Option<&'a FactorForm>,
    /// What each layer's gates multiply their input's channels by; empty for nothing.
    pub scales: &'a [Vec<f32>],
    /// The format of products' operands: f32 or bf16.
    pub dtype: DType,
    /// How inference will store keys, values and key gates.
    pub cache: DType,
    /// How much is computed at once.
    pub room: Size,
    /// Where its parameters lie; what of them trains.
    pub layout: Layout,
    /// The values of those that do not train.
    pub held: &'a [f32],
    /// What trains and does not follow its gradient.
    pub still: Vec<Range<usize>>,
    /// Who is imitated.
    pub teacher: Teacher<'a>,
}

/// Whose dense predictions are imitated.
#[derive(Debug, Clone, Copy)]
pub enum Teacher<'a> {
    /// Nobody's.
    None,
    /// The model's own, whose weights are held.
    Student,
    /// Those of the same network with these weights, in the plan's order.
    Apart(&'a [f32]),
    /// Those of another model.
    Other(OtherModel<'a>),
}

/// A network whose parameters lie on a CUDA device.
#[derive(Debug)]
pub struct Cuda {
    /// First, so that it goes first: what waits for a lost process ends with it, and memory is freed when nothing waits.
    sums: Option<Sums>,
    layout: Layout,
    places: Places,
    cache: DType,
    kernels: Kernels,
    network: Network,
    weights: Weights,
    teacher: Taught,
    gradients: Gradients,
    room: Room,
    maps: Vec<GateMaps>,
    /// Whether the maps and what products read of factors are those of the present values.
    packed: bool,
    windows: Windows,
    table: KeepTable,
    parts: Vec<Part>,
    /// Passes of the step so far.
    passes: usize,
    /// Passes of the step in all processes.
    all_passes: usize,
    lambda: DeviceBuffer<f32>,
    sent_lambda: PinnedBuffer<f32>,
    /// Of soft votes at this step.
    curve: DeviceCurve,
    judge: Judge,
    shares: Shares,
    /// Whether gradients were handed over that nobody has waited for on the device.
    is_handed_over: bool,
    sample: Sample,
    look: Option<Look>,
    /// For looking at the rows of a micro-batch.
    survey: Option<Part>,
}

/// The weights of whoever is imitated.
#[derive(Debug)]
enum Taught {
    Nobody,
    /// The student's own weights, in the network beneath its factors.
    Student(Box<Network>),
    Apart(Weights),
    Other(Box<Other>),
}

impl Cuda {
    /// A network with all values zero.
    ///
    /// # Errors
    /// A format of 16 bits that is not bf16, kernels that do not compile for this model, too little memory.
    pub fn new(device: &Device, plan: &Plan<'_>) -> Result<Self, TrainError> {
        let &Plan { config, gates, dtype, cache, room: size, .. } = plan;
        if dtype == DType::F16 {
            let what = "f16 has too few exponents for gradients: train in bf16 or f32".to_owned();
            return Err(TrainError::Internal { what });
        }
        let layout = plan.layout.clone();
        let places = Places::new(&layout, plan.plan);
        let kernels = Kernels::new(device, config, gates, dtype, cache)?;
        let network = Network::new(&kernels, plan, plan.factors, &places)?;
        let teacher = match plan.teacher {
            Teacher::None => Taught::Nobody,
            Teacher::Student => Taught::Student(Box::new(Network::new(&kernels, plan, None, &places)?)),
            Teacher::Apart(values) => {
                let places = Places::new(&Layout::new(config, plan.plan, None), plan.plan);
                let weights = Weights::new(
                    &kernels,
                    &places,
                    network.held_for_products(places.len()),
                    network.config.hidden,
                )?;
                weights.load(&kernels, &places, 0, values)?;
                Taught::Apart(weights)
            }
            Teacher::Other(model) => Taught::Other(Box::new(Other::new(device, plan, model)?)),
        };
        // A model that is only looked through trains nothing: what would, begins behind all of it.
        let trained = layout.trained();
        let first = if trained.is_empty() { places.len() } else { places.of(&trained).start };
        let weights =
            Weights::new(&kernels, &places, network.held_for_products(first), network.config.hidden)?;
        weights.load(&kernels, &places, 0, plan.held)?;
        let still = plan.still.iter().map(|range| places.of(range)).collect();
        // The widest shape of attention, whichever way a pass forgets.
        let floors = dropcap_policy::Floors::default();
        let pruning = Pruning::Hard { floors, shifts: &[], noise: None };
        let shape = gated_shape(config, gates, 0, [size.sequences, size.tokens], &pruning);
        let heads = gates.map_or(0, |form| form.heads);
        let taught = matches!(teacher, Taught::Student(_) | Taught::Apart(_));
        let purpose = Purpose::Train { recompute: size.recompute, taught };
        let mut room = Room::new(&kernels, &network, &shape, purpose)?;
        if let Taught::Other(other) = &teacher {
            room.taught = Some(other.teaching()?);
        }
        let mut cuda = Self {
            sums: None,
            weights,
            gradients: {
                let matrices = network.made_by_products();
                Gradients::new(&kernels, &places, first, still, matrices, network.widest_vector())?
            },
            room,
            maps: match gates {
                None => Vec::new(),
                Some(_) => {
                    (0..config.layers).map(|_| GateMaps::new(&kernels, &network)).collect::<Result<_, _>>()?
                }
            },
            packed: false,
            windows: Windows::default(),
            table: KeepTable::new(device, size.tokens)?,
            parts: Vec::new(),
            passes: 0,
            all_passes: 1,
            lambda: DeviceBuffer::zeroed(device, "what entries cost", config.layers * heads)
                .map_err(KernelError::from)?,
            sent_lambda: PinnedBuffer::zeroed(device, config.layers * heads).map_err(KernelError::from)?,
            curve: DeviceCurve::new(device)?,
            judge: Judge::new(device)?,
            shares: Shares::default(),
            is_handed_over: false,
            sample: Sample::new(&kernels)?,
            look: None,
            survey: None,
            layout,
            places,
            cache,
            kernels,
            network,
            teacher,
        };
        cuda.set_scales(plan.scales)?;
        Ok(cuda)
    }

    fn set_scales(&mut self, scales: &[Vec<f32>]) -> Result<(), TrainError> {
        let hidden = self.network.config.hidden;
        let fits = scales.is_empty() || scales.len() == self.maps.len();
        if !fits || scales.iter().any(|scale| scale.len() != hidden) {
            let what = format!("scales of {} layers for gates of {}", scales.len(), self.maps.len());
            return Err(TrainError::Internal { what });
        }
        self.packed = false;
        for (maps, scale) in self.maps.iter_mut().zip(scales) {
            maps.rescale(&self.kernels, scale)?;
        }
        Ok(())
    }

    /// Makes what products read of gates and factors from the present values, where it is of others.
    fn pack(&mut self) -> Result<(), TrainError> {
        if self.packed {
            return Ok(());
        }
        for (maps, layer) in self.maps.iter().zip(&self.network.layers) {
            if let Some(places) = &layer.gates {
                maps.refill(&self.kernels, &self.weights, places)?;
            }
        }
        self.network.factors().try_for_each(|factors| factors.refill(&self.kernels, &self.weights))?;
        self.packed = true;
        Ok(())
    }

    /// The model at work on `sequences`.
    fn run<'a>(&'a self, sequences: usize, pruning: &'a Pruning<'a>) -> Run<'a> {
        Run {
            kernels: &self.kernels,
            network: &self.network,
            weights: &self.weights,
            room: &self.room,
            sequences,
            pruning,
            windows: &self.windows,
            maps: &self.maps,
            cache: self.cache,
            soft: None,
            sums: self.sums.as_ref(),
        }
    }

    /// Checks a batch of whole sequences and gives their number; prepares what its pruning needs.
    fn admit(&mut self, ids: &[u32], targets: &[u32], pruning: &Pruning<'_>) -> Result<usize, TrainError> {
        let (config, tokens) = (&self.network.config, self.room.tokens);
        let sequences = ids.len() / tokens.max(1);
        let fits = sequences * tokens == ids.len() && (1..=self.room.sequences).contains(&sequences);
        if !fits || targets.len() != ids.len() {
            let most = self.room.sequences;
            let what = format!(
                "{} tokens and {} targets for 1 to {most} sequences of {tokens}",
                ids.len(),
                targets.len()
            );
            return Err(TrainError::Internal { what });
        }
        if let Pruning::Mixed { .. } = pruning {
            let what = "windows mixed with a dense pass on a device".to_owned();
            return Err(TrainError::Internal { what });
        }
        if let Pruning::Soft { in_depth, .. } = pruning {
            if *in_depth {
                let what = "soft gates whose deaths propagate in depth on a device".to_owned();
                return Err(TrainError::Internal { what });
            }
            if self.room.soft.is_none() {
                let shape =
                    gated_shape(config, self.network.gates, 0, [self.room.sequences, tokens], pruning);
                let Kernels { device, specialisation, .. } = &self.kernels;
                self.room.soft = Some(GateScratch::new(device, specialisation, &shape, 1)?);
            }
        }
        crate::network::check_tokens(config, tokens, ids)?;
        dropcap_kernels::cross_entropy::TrainCrossEntropy::check_targets(targets, config.vocabulary)?;
        self.windows.prepare(&self.kernels.device, [self.room.sequences, tokens], pruning)?;
        self.pack()?;
        Ok(sequences)
    }

    /// Room for what hard votes spare the way back.
    fn keep_votes(&mut self, pruning: &Pruning<'_>) -> Result<(), TrainError> {
        let gates = self.network.gates;
        if gates.is_none() || !matches!(pruning, Pruning::Hard { .. }) {
            return Ok(());
        }
        let sizes = [self.room.sequences, self.room.tokens];
        for (index, slot) in self.room.layers.iter_mut().enumerate().filter(|(_, slot)| slot.trail.is_none())
        {
            let shape = gated_shape(&self.network.config, gates, index, sizes, pruning);
            slot.trail = GateTrail::new(&self.kernels.device, &shape)?;
        }
        Ok(())
    }

    /// Room for one micro-batch of `rows` tokens.
    fn part(&self, rows: usize, places: usize) -> Result<Part, KernelError> {
        let heads = self.network.gates.map_or(0, |form| form.heads);
        let layers = if heads > 0 { self.network.layers.len() } else { 0 };
        Part::new(&self.kernels, rows, places, [layers, heads])
    }
}
