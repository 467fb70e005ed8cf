//! A teacher of another shape than its student's: a network of its own, which is only looked through.

use dropcap_kernels::DType;
use dropcap_kernels::cuda::Device;
use dropcap_model::{DecoderConfig, WeightPlan};

use super::forward::Run;
use super::kernels::Kernels;
use super::network::Network;
use super::place::Places;
use super::room::{Purpose, Room, Teaching};
use super::weights::Weights;
use super::windows::Windows;
use super::{Plan, Teacher};
use crate::TrainError;
use crate::backend::Room as Size;
use crate::network::{Layout, Pruning, gated_shape};

/// A model that teaches another one, which has the same tokens.
#[derive(Debug, Clone, Copy)]
pub struct OtherModel<'a> {
    /// What it computes.
    pub config: &'a DecoderConfig,
    /// Its tensors.
    pub plan: &'a WeightPlan,
    /// Their values, in the plan's order.
    pub values: &'a [f32],
}

/// Such a model on its student's device.
#[derive(Debug)]
pub(super) struct Other {
    kernels: Kernels,
    network: Network,
    weights: Weights,
    room: Room,
    windows: Windows,
}

impl Other {
    /// `model` for passes as large as those of `student`.
    pub(super) fn new(
        device: &Device,
        student: &Plan<'_>,
        model: OtherModel<'_>,
    ) -> Result<Self, TrainError> {
        let OtherModel { config, plan, values } = model;
        let plan = Plan {
            config,
            plan,
            gates: None,
            factors: None,
            scales: &[],
            dtype: student.dtype,
            // Nothing is ever read from a cache of it.
            cache: DType::F32,
            room: Size { recompute: true, ..student.room },
            layout: Layout::new(config, plan, None),
            held: values,
            still: Vec::new(),
            teacher: Teacher::None,
        };
        let places = Places::new(&plan.layout, plan.plan);
        let kernels = Kernels::new(device, config, None, plan.dtype, plan.cache)?;
        let network = Network::new(&kernels, &plan, None, &places)?;
        let weights =
            Weights::new(&kernels, &places, network.held_for_products(places.len()), network.config.hidden)?;
        weights.load(&kernels, &places, 0, values)?;
        let size = [plan.room.sequences, plan.room.tokens];
        let shape = gated_shape(config, None, 0, size, &Pruning::Dense);
        let room = Room::new(&kernels, &network, &shape, Purpose::Look)?;
        Ok(Self { kernels, network, weights, room, windows: Windows::default() })
    }

    /// Where its predictions go.
    pub(super) fn teaching(&self) -> Result<Teaching, TrainError> {
        Ok(Teaching::new(&self.kernels, &self.network, self.room.sequences * self.room.tokens)?)
    }

    /// It at work on `sequences`.
    pub(super) fn run(&self, sequences: usize) -> Run<'_> {
        Run {
            kernels: &self.kernels,
            network: &self.network,
            weights: &self.weights,
            room: &self.room,
            sequences,
            pruning: &Pruning::Dense,
            windows: &self.windows,
            maps: &[],
            cache: DType::F32,
            soft: None,
            sums: None,
        }
    }
}
