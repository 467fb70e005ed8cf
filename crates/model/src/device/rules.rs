//! A policy's rules, brought to the device.

use dropcap_kernels::DType;
use dropcap_kernels::cuda::{Device, DeviceBuffer};
use dropcap_kernels::matmul::DeviceMatrix;
use dropcap_kernels::rope::{Birth, Births};
use dropcap_policy::{Action, EvictionPolicy, Floors, GateLayer, HeadSet, PromptCut, Rule};
use half::bf16;

use super::ranker;
use crate::weights::rope_table;
use crate::{DecoderConfig, ModelError};

/// What the kernels need to know of a policy.
#[derive(Debug)]
pub(super) struct DeviceRules {
    /// Lifetimes at birth, per layer.
    pub(super) births: Vec<Births>,
    pub(super) gates: Option<DeviceGates>,
    /// Deaths that spread to the layer above within a step, and the floors that they respect.
    pub(super) inherits: Option<Floors>,
    pub(super) cuts: Vec<DeviceCut>,
}

/// What ends where a prompt does, in lanes that a bit of each layer's four words names, `[layers][4]`, or in all.
#[derive(Debug)]
pub(super) struct DeviceCut {
    pub(super) cut: Cut,
    pub(super) floors: Floors,
    pub(super) heads: Option<DeviceBuffer<u32>>,
}

/// The kinds of cuts.
#[derive(Debug, Clone, Copy)]
pub(super) enum Cut {
    /// [`Action::PromptCut`]
    Prompt(PromptCut),
    /// What [`Action::WindowBehind`] does to the prompt.
    WindowBehind { sinks: u32, recent: u32 },
}

/// The gates of all layers on the device.
#[derive(Debug)]
pub(super) struct DeviceGates {
    pub(super) heads: usize,
    /// How they vote; nothing where they score entries at birth, and a rule for new entries ends those that they refuse.
    pub(super) voting: Option<Voting>,
    pub(super) layers: Vec<DeviceGateLayer>,
}

/// What votes come to.
#[derive(Debug, Clone, Copy)]
pub(super) struct Voting {
    pub(super) decides: bool,
    pub(super) floors: Floors,
}

#[derive(Debug)]
pub(super) struct DeviceGateLayer {
    /// f32 `[2 G r, c]`, or `[G, c]` at birth
    pub(super) weights: DeviceMatrix,
    /// The same as what W holds of each number, and what its rounding left: for many rows, where W is bf16.
    pub(super) parts: Option<[DeviceMatrix; 2]>,
    /// `[G]`
    pub(super) bias: DeviceBuffer<f32>,
}

/// Width of the side channel that the rules need; 0 without gates.
pub(super) fn side_width(policy: &dyn EvictionPolicy) -> usize {
    policy.side_channels().iter().map(|channel| channel.width).sum()
}

/// A policy's rules as the kernels take them, before anything is on the device.
#[derive(Default)]
struct Accepted<'a> {
    births: Vec<Births>,
    gates: Option<AcceptedGates<'a>>,
    inherits: Option<Floors>,
    cuts: Vec<(Cut, Floors, Option<&'a HeadSet>)>,
}

/// The gates of a policy's only rule that has some.
struct AcceptedGates<'a> {
    heads: usize,
    voting: Option<Voting>,
    layers: &'a [GateLayer],
}

/// Whether a device can carry out `policy` for a model of this configuration; nothing is built.
///
/// # Errors
/// What about the policy exists for the processor alone.
pub fn check_method(config: &DecoderConfig, policy: &dyn EvictionPolicy) -> Result<(), ModelError> {
    Accepted::new(config, policy).map(drop)
}

impl DeviceRules {
    pub(super) fn new(
        device: &Device,
        config: &DecoderConfig,
        dtype: DType,
        policy: &dyn EvictionPolicy,
    ) -> Result<Self, ModelError> {
        let Accepted { births, gates, inherits, cuts } = Accepted::new(config, policy)?;
        let gates = gates.map(|gates| DeviceGates::new(device, config, dtype, gates)).transpose()?;
        let cut = |(cut, floors, heads): (Cut, Floors, Option<&HeadSet>)| {
            let words = |heads: &HeadSet| {
                let words: Vec<u32> = (0..config.layers).flat_map(|layer| bits(heads.of(layer))).collect();
                DeviceBuffer::copy_of(device, "the heads that a rule acts on", &words)
            };
            Ok::<_, ModelError>(DeviceCut { cut, floors, heads: heads.map(words).transpose()? })
        };
        let cuts = cuts.into_iter().map(cut).collect::<Result<_, _>>()?;
        Ok(Self { births, gates, inherits, cuts })
    }
}

impl<'a> Accepted<'a> {
    fn new(config: &DecoderConfig, policy: &'a dyn EvictionPolicy) -> Result<Self, ModelError> {
        let unsupported = |what: &str| ModelError::DeviceMethod { what: what.to_owned() };
        let needs = policy.needs();
        if (needs.renumbers || needs.anchored.is_some()) && rope_table(config).is_none() {
            return Err(unsupported("turns keys of a model without rotary embeddings"));
        }
        let rules = policy.rules().ok_or_else(|| unsupported("decides in code"))?;
        let ranks = ranker::accepted(policy, config)?.is_some();
        let mut accepted = Self::default();
        let mut births = Vec::new();
        for Rule { action, floors, heads } in rules {
            match action {
                Action::Window { sinks, recent } => births.push((window(*sinks, *recent, *floors), heads)),
                Action::Vote { .. } | Action::Inherit if heads.is_some() => {
                    return Err(unsupported("votes or spreads deaths in some heads only"));
                }
                Action::Share { keep } => {
                    let share = Birth { kind: Birth::SHARE, keep: *keep, ..window(0, 0, *floors) };
                    births.push((share, heads));
                }
                Action::WindowBehind { sinks, recent } => {
                    let (sinks, recent) = (*sinks, *recent);
                    let birth = Birth { kind: Birth::WINDOW_BEHIND, ..window(sinks, recent, *floors) };
                    births.push((birth, heads));
                    let cut = Cut::WindowBehind { sinks, recent };
                    accepted.cuts.push((cut, *floors, heads.as_ref()));
                }
                Action::PromptCut(cut) => {
                    accepted.cuts.push((Cut::Prompt(*cut), *floors, heads.as_ref()));
                }
                Action::Inherit if policy.per_head() => {
                    return Err(unsupported("spreads deaths between layers and forgets per head"));
                }
                Action::Inherit if config.sliding_window.iter().any(Option::is_some) => {
                    return Err(unsupported(
                        "spreads deaths between the layers of a model with sliding windows",
                    ));
                }
                Action::Inherit if ranks => {
                    return Err(unsupported("spreads deaths between layers beside one that ranks entries"));
                }
                Action::Inherit => accepted.inherits = Some(*floors),
                Action::Vote { .. } | Action::BirthGate { .. } if accepted.gates.is_some() => {
                    return Err(unsupported("has two sets of gates"));
                }
                Action::Vote { gates, decides } => {
                    let voting = Some(Voting { decides: *decides, floors: *floors });
                    let (heads, layers) = (gates.heads(), gates.layers());
                    accepted.gates = Some(AcceptedGates { heads, voting, layers });
                }
                Action::BirthGate { gates } => {
                    births.push((Birth { kind: Birth::GATE, ..window(0, 0, *floors) }, heads));
                    let (heads, layers) = (gates.heads(), gates.layers());
                    accepted.gates = Some(AcceptedGates { heads, voting: None, layers });
                }
            }
        }
        if rules.iter().any(|rule| rule.heads.is_some()) && config.kv_heads > 32 * Birth::ALL.len() {
            return Err(unsupported("forgets in some of more than 128 heads"));
        }
        accepted.births = (0..config.layers)
            .map(|layer| {
                // The model's own window is a lifetime at birth like any other.
                let window = config.sliding_window.get(layer).copied().flatten();
                let own = window.map(|window| self::window(0, window, Floors::default()));
                let of_layer = births.iter().map(|(birth, heads)| match heads {
                    Some(heads) => Birth { lanes: bits(heads.of(layer)), ..*birth },
                    None => *birth,
                });
                let all: Vec<Birth> = own.into_iter().chain(of_layer).collect();
                if all.len() > Births::default().rules.len() {
                    return Err(unsupported("has more than three rules for new entries"));
                }
                let mut births = Births { count: all.len() as u32, ..Births::default() };
                births.rules[..all.len()].copy_from_slice(&all);
                Ok(births)
            })
            .collect::<Result<_, _>>()?;
        Ok(accepted)
    }
}

impl DeviceGates {
    fn new(
        device: &Device,
        config: &DecoderConfig,
        dtype: DType,
        gates: AcceptedGates<'_>,
    ) -> Result<Self, ModelError> {
        let layer = |gates: &GateLayer| {
            let rows = gates.rows();
            let matrix = |dtype: DType, bytes: &[u8]| {
                let outputs = rows.len() / config.hidden;
                let matrix = DeviceMatrix::uninitialized(device, outputs, config.hidden, dtype)?;
                matrix.upload_rows(0, bytes)?;
                Ok::<_, ModelError>(matrix)
            };
            let parts = match dtype {
                DType::Bf16 => {
                    let [high, rest] = parts_of(&rows);
                    Some([matrix(dtype, &high)?, matrix(dtype, &rest)?])
                }
                DType::F16 | DType::F32 => None,
            };
            let weights = matrix(DType::F32, &bytes_of(&rows))?;
            let bias = DeviceBuffer::copy_of(device, "gate biases", gates.bias())?;
            Ok(DeviceGateLayer { weights, parts, bias })
        };
        let AcceptedGates { heads, voting, layers } = gates;
        let layers = layers.iter().map(layer).collect::<Result<_, ModelError>>()?;
        Ok(Self { heads, voting, layers })
    }

    /// Numbers that the gates make of a token.
    pub(super) fn outputs(&self) -> usize {
        self.layers.first().map_or(0, |layer| layer.weights.outputs())
    }
}

/// A bit for each head that is named; none for those beyond what there is room for.
fn bits(heads: &[bool]) -> [u32; 4] {
    let mut bits = [0; 4];
    for (word, heads) in bits.iter_mut().zip(heads.chunks(32)) {
        *word = heads.iter().zip(0..).fold(0, |word, (&named, bit)| word | u32::from(named) << bit);
    }
    bits
}

/// An end at `position + recent`.
fn window(sinks: u32, recent: u32, floors: Floors) -> Birth {
    let Floors { sinks: floor_sinks, recent: floor_recent } = floors;
    Birth { kind: Birth::WINDOW, sinks, recent, floor_sinks, floor_recent, lanes: Birth::ALL, keep: 0.0 }
}

/// What bf16 holds of each number, and what its rounding left, as the device stores them. f16 could do neither where gates are very small
/// or large: bf16 has the range of f32.
fn parts_of(numbers: &[f32]) -> [Vec<u8>; 2] {
    let high = |number: f32| bf16::from_f32(number);
    let rest = |number: f32| bf16::from_f32(number - high(number).to_f32());
    [
        numbers.iter().flat_map(|&number| high(number).to_ne_bytes()).collect(),
        numbers.iter().flat_map(|&number| rest(number).to_ne_bytes()).collect(),
    ]
}

/// The bytes of numbers as the device stores them.
fn bytes_of(numbers: &[f32]) -> Vec<u8> {
    numbers.iter().flat_map(|number| number.to_ne_bytes()).collect()
}

#[cfg(test)]
mod tests {
    use half::bf16;

    use super::parts_of;

    #[test]
    fn two_parts_have_twice_the_digits_of_one_however_small_a_gate_is() {
        let numbers = [1.2345678, -3.3e-6, 7.7e9, 0.0, -1.0e-30];
        let [high, rest] = parts_of(&numbers).map(|part| {
            part.as_chunks::<2>()
                .0
                .iter()
                .map(|&bytes| bf16::from_ne_bytes(bytes).to_f32())
                .collect::<Vec<_>>()
        });
        for ((number, high), rest) in numbers.into_iter().zip(high).zip(rest) {
            assert!((number - high).abs() <= number.abs() / 256.0, "{number}: {high}");
            assert!((number - high - rest).abs() <= number.abs() / 65536.0, "{number}: {high} and {rest}");
        }
    }
}
