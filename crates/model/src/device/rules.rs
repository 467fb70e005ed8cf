//! A policy's rules, brought to the device.

use dropcap_kernels::DType;
use dropcap_kernels::cuda::{Device, DeviceBuffer};
use dropcap_kernels::matmul::DeviceMatrix;
use dropcap_kernels::rope::{Birth, Births};
use dropcap_policy::{Action, EvictionPolicy, Floors, Granularity, PromptCut, VoteRule};

use crate::{DecoderConfig, ModelError};

/// What the kernels need to know of a policy.
#[derive(Debug)]
pub(super) struct DeviceRules {
    /// Lifetimes at birth, per layer.
    pub(super) births: Vec<Births>,
    pub(super) gates: Option<DeviceGates>,
    /// Deaths that spread to the layer above within a step, and the floors that they respect.
    pub(super) inherits: Option<Floors>,
    pub(super) cuts: Vec<(PromptCut, Floors)>,
}

/// The gates of all layers on the device.
#[derive(Debug)]
pub(super) struct DeviceGates {
    pub(super) heads: usize,
    pub(super) decides: bool,
    pub(super) floors: Floors,
    pub(super) layers: Vec<DeviceGateLayer>,
}

#[derive(Debug)]
pub(super) struct DeviceGateLayer {
    /// f32 `[2 G r, c]`
    pub(super) both: DeviceMatrix,
    /// `[G]`
    pub(super) bias: DeviceBuffer<f32>,
}

/// Width of the side channel that the rules need; 0 without gates.
pub(super) fn side_width(policy: &dyn EvictionPolicy) -> usize {
    policy.side_channels().iter().map(|channel| channel.width).sum()
}

impl DeviceRules {
    pub(super) fn new(
        device: &Device,
        config: &DecoderConfig,
        policy: &dyn EvictionPolicy,
    ) -> Result<Self, ModelError> {
        let unsupported = |what: &str| ModelError::DeviceMethod { what: what.to_owned() };
        let rules = policy.rules().ok_or_else(|| unsupported("decides in code that runs on the CPU only"))?;
        let mut births = Vec::new();
        let mut votes: Option<(VoteRule, Floors)> = None;
        let mut cuts = Vec::new();
        let mut inherits = None;
        for rule in rules {
            let floors = rule.floors;
            match rule.action {
                Action::Window { sinks, recent } => births.push(window(sinks, recent, floors)),
                Action::Share { keep } => births.push(Birth { kind: 1, keep, ..window(0, 0, floors) }),
                Action::PromptCut(cut) => cuts.push((cut, floors)),
                Action::Inherit if policy.granularity() == Granularity::KvHead => {
                    return Err(unsupported("spreads deaths between layers and forgets per head"));
                }
                Action::Inherit if config.sliding_window.iter().any(Option::is_some) => {
                    return Err(unsupported(
                        "spreads deaths between the layers of a model with sliding windows",
                    ));
                }
                Action::Inherit => inherits = Some(floors),
                Action::Vote(vote) if votes.is_none() => votes = Some((vote, floors)),
                Action::Vote(_) => return Err(unsupported("has two sets of gates")),
            }
        }
        let births = (0..config.layers)
            .map(|layer| {
                // The model's own window is a lifetime at birth like any other.
                let window = config.sliding_window.get(layer).copied().flatten();
                let own = window.map(|window| self::window(0, window, Floors::default()));
                let all: Vec<Birth> = own.into_iter().chain(births.iter().copied()).collect();
                if all.len() > Births::default().rules.len() {
                    return Err(unsupported("has more than three rules for new entries"));
                }
                let mut births = Births { count: all.len() as u32, ..Births::default() };
                births.rules[..all.len()].copy_from_slice(&all);
                Ok(births)
            })
            .collect::<Result<_, _>>()?;
        let gates =
            votes.map(|(vote, floors)| DeviceGates::new(device, config, &vote, floors)).transpose()?;
        Ok(Self { births, gates, inherits, cuts })
    }
}

impl DeviceGates {
    fn new(
        device: &Device,
        config: &DecoderConfig,
        vote: &VoteRule,
        floors: Floors,
    ) -> Result<Self, ModelError> {
        let outputs = 2 * vote.heads * vote.width;
        let layers = vote
            .layers
            .iter()
            .map(|layer| {
                let both = DeviceMatrix::uninitialized(device, outputs, config.hidden, DType::F32)?;
                both.upload_rows(0, &bytes_of(&layer.both))?;
                let bias = DeviceBuffer::copy_of(device, "gate biases", &layer.bias)?;
                Ok(DeviceGateLayer { both, bias })
            })
            .collect::<Result<_, ModelError>>()?;
        Ok(Self { heads: vote.heads, decides: vote.decides, floors, layers })
    }
}

/// An end at `position + recent`.
fn window(sinks: u32, recent: u32, floors: Floors) -> Birth {
    let Floors { sinks: floor_sinks, recent: floor_recent } = floors;
    Birth { kind: 0, sinks, recent, floor_sinks, floor_recent, keep: 0.0 }
}

/// The bytes of numbers as the device stores them.
fn bytes_of(numbers: &[f32]) -> Vec<u8> {
    numbers.iter().flat_map(|number| number.to_ne_bytes()).collect()
}
