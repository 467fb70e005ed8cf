//! Gated attention in training, on the device: dense, under the hard rule and under the soft one.
//!
//! What gates decide reaches attention as a number per key, the first query that no longer sees it, and under the soft rule
//! also as the logarithms of a strip of queries. Attention's gradients leave behind what each pair is worth; the gradients
//! of gates are sums of that along the queries. Arrays of pairs exist for a strip of queries at a time.
//!
//! Bits are the same in every run: each sum has one owner, and one order.

mod attend;
mod blame;
mod curve;
mod gates;
mod scratch;
#[cfg(test)]
mod tests;
mod trail;

use super::GatedShape;
use super::check::{invalid, length};
use crate::KernelError;
use crate::cuda::{Argument, Device, DeviceBuffer, DeviceSlice, Source, Specialisation};
use attend::Attention;
use gates::{Call, Gates};
use scratch::Strip;

pub use curve::DeviceCurve;
pub use scratch::GateScratch;
pub use trail::GateTrail;

/// The kernel files, each with the parts that it shares with others in front.
macro_rules! source {
    ($file:literal, [$($part:literal),*], [$($argument:ty),*]) => {
        Source {
            file: concat!("gated_attention/cuda/", $file),
            text: concat!(
                include_str!("../../cuda/vectors.cuh"),
                include_str!("../../cuda/wgmma.cuh"),
                include_str!("fragments.cuh"),
                $(include_str!($part),)*
                include_str!($file)
            ),
            constants: |_, _| {
                vec![("SIDE", SIDE), ("THREADS", THREADS as usize), ("MOST_TILES", MOST_TILES)]
            },
            arguments: &[$(<$argument>::LAYOUT),*],
        }
    };
}
pub(crate) const ATTEND: Source = source!(
    "attend.cu",
    ["warpgroup.cuh", "shape.cuh"],
    [attend::Shape, attend::Attend, attend::Deltas, attend::BackQueries]
);
pub(crate) const BACK_KEYS: Source =
    source!("back_keys.cu", ["warpgroup.cuh", "shape.cuh", "pairs.cuh"], [attend::Shape, attend::BackKeys]);
pub(crate) const VOTES: Source = source!(
    "votes.cu",
    ["warpgroup.cuh", "gates.cuh", "curve.cuh"],
    [gates::Voter, gates::HardVotes, gates::SoftVotes, gates::SurvivalTotals]
);
pub(crate) const BLAME: Source = source!(
    "blame.cu",
    ["warpgroup.cuh", "pairs.cuh", "gates.cuh", "curve.cuh"],
    [gates::Voter, blame::Gather, blame::Blame, blame::BlameQueries, blame::BlameTotals]
);

const OP: &str = "attention in training";
/// Queries, and keys, of a tile.
const SIDE: usize = 64;
const THREADS: u32 = 128;
const MOST_TILES: usize = 1024;

/// The forward pass's operands of one layer.
#[derive(Debug, Clone, Copy)]
pub struct Attended<'a> {
    /// W `[b * T, (h + 2g) d]`.
    pub qkv: &'a DeviceBuffer<u8>,
    /// The first query that no longer sees each key for the own votes' sake, u32 `[b, G, T]`, as of
    /// [`Saved::expires_at`](super::Saved::expires_at): written with voters; read without, where none is dense attention.
    pub expires_at: Option<&'a DeviceBuffer<u32>>,
    /// Attention's output, W `[b * T, h d]`.
    pub out: &'a DeviceBuffer<u8>,
    /// The logarithm of each query's sum of exponentials, f32 `[b, h, T]`.
    pub lse: &'a DeviceBuffer<f32>,
    /// Under the hard rule, what spares the backward pass the votes: written by the forward pass, read by the backward one.
    pub trail: Option<&'a GateTrail>,
}

/// What the backward pass takes and gives beside them.
#[derive(Debug, Clone, Copy)]
pub struct AttendedBack<'a> {
    /// W `[b * T, h d]`.
    pub dout: &'a DeviceBuffer<u8>,
    /// `out . dout` of each query and head, f32 `[b, h, T]`, written.
    pub delta: &'a DeviceBuffer<f32>,
    /// The gradients of queries, keys and values, laid out as `qkv`, written.
    pub dqkv: &'a DeviceBuffer<u8>,
}

/// What votes do: [`Rule`](super::Rule) on the device.
#[derive(Debug, Clone, Copy)]
pub enum DeviceRule<'a> {
    /// A vote is a factor of what later queries see.
    Soft {
        /// `vote = curve(raw)`.
        curve: &'a DeviceCurve,
        /// The own voter's sums of I without and with the last query, f64 `[2]`, written by the forward pass: both cases of
        /// [`Saved::sum_of_gates`](super::Saved::sum_of_gates).
        survival: DeviceSlice<'a, f64>,
    },
    /// The first refusal ends a key's life.
    Hard {
        /// Added to every score of a key, f32 `[b, G, T]`.
        noise: Option<&'a DeviceBuffer<f32>>,
        /// Subtracted from every score.
        shift: f32,
    },
}

impl DeviceRule<'_> {
    /// For attention without voters.
    pub const DENSE: Self = Self::Hard { noise: None, shift: 0.0 };
}

/// The gates of one layer: [`Voter`](super::Voter) on the device.
#[derive(Debug, Clone, Copy)]
pub struct DeviceVoter<'a> {
    /// f32 `[b * T]` rows of `G r`.
    pub query_gates: DeviceSlice<'a, f32>,
    /// The same.
    pub key_gates: DeviceSlice<'a, f32>,
    /// Numbers from a row of either to the next: more than `G r` where query and key gates of a token lie beside each other.
    /// Vectors are loaded where r is a multiple of 4: then this and the slices' starts are, too.
    pub stride: usize,
    /// f32 `[G]`.
    pub bias: DeviceSlice<'a, f32>,
}

/// Where the gradients of a [`DeviceVoter`] go.
#[derive(Debug, Clone, Copy)]
pub struct DeviceVoterGradient<'a> {
    /// f32, rows as those of the voter.
    pub query_gates: DeviceSlice<'a, f32>,
    /// The same.
    pub key_gates: DeviceSlice<'a, f32>,
    /// Whether those two are written; else they are added to, as where a layer above has the same voter.
    pub fresh: bool,
    /// f32 `[G]`, added to.
    pub bias: DeviceSlice<'a, f32>,
}

/// What pulls at the gates beside the loss: [`Pressure`](super::Pressure) on the device.
#[derive(Debug, Clone, Copy)]
pub enum DevicePressure<'a> {
    /// Of soft votes.
    Soft {
        /// Factor of every pair's I.
        per_pair: f32,
        /// Whether the pairs of the last query are in the sum.
        last_query: bool,
    },
    /// Of hard votes.
    Hard {
        /// Added to the worth of every entry, f32 `[G]`.
        lambda: DeviceSlice<'a, f32>,
        /// The controller's sums, f64 `[G, 2]`, written: worth and weight, as of [`Margin`](super::Margin).
        margin: &'a DeviceBuffer<f64>,
    },
}

impl DevicePressure<'_> {
    /// For attention without voters, and for soft votes that nothing pulls at.
    pub const NONE: Self = Self::Soft { per_pair: 0.0, last_query: false };
}

/// Attention of every sequence over what its gates leave, and all gradients.
#[derive(Debug, Clone)]
pub struct TrainAttention {
    attention: Attention,
    gates: Option<Gates>,
}

impl TrainAttention {
    /// Compiles the kernels, or takes them from the cache; those of gates if the specialisation has a width of gates.
    ///
    /// # Errors
    /// As [`Module::load`](crate::cuda::Module::load); heads that are too wide for the device's shared memory.
    pub fn new(device: &Device, specialisation: &Specialisation) -> Result<Self, KernelError> {
        let gated = specialisation.side_width > 0;
        Ok(Self {
            attention: Attention::new(device, specialisation)?,
            gates: gated.then(|| Gates::new(device, specialisation)).transpose()?,
        })
    }

    /// Writes the layer's output; with voters also the lifetimes of keys and, under the soft rule, its survival.
    ///
    /// No voter is attention to what `expires_at` leaves, one is the layer's own gates; several, under the soft rule, are
    /// the gates of lower layers and, last, its own: what any of them drops is dropped.
    ///
    /// # Errors
    /// A shape that is not the kernels', lengths that do not agree, voters without scratch memory, or a failed device.
    pub fn forward(
        &self,
        shape: &GatedShape,
        rule: DeviceRule<'_>,
        voters: &[DeviceVoter<'_>],
        layer: Attended<'_>,
        scratch: Option<&GateScratch>,
    ) -> Result<(), KernelError> {
        self.attention.check(shape, &layer)?;
        let Some((gates, call)) = self.call(shape, rule, voters, &layer, scratch)? else {
            return self.attention.forward(shape, &layer, None, Strip::whole(shape));
        };
        let Some(expires_at) = layer.expires_at else { return Ok(()) };
        if matches!(rule, DeviceRule::Hard { .. }) {
            gates.hard_votes(&call, expires_at)?;
            return self.attention.forward(shape, &layer, None, Strip::whole(shape));
        }
        gates.begin_soft(&call, Some(expires_at))?;
        call.scratch.strips(shape).try_for_each(|strip| {
            gates.soft_votes(&call, strip, Some(expires_at))?;
            self.attention.forward(shape, &layer, Some(call.scratch), strip)
        })
    }

    /// The gradients, from the arguments and results of [`TrainAttention::forward`]; it computes the votes again, unless they
    /// were kept.
    ///
    /// # Errors
    /// As the forward pass, and a pressure of the other rule.
    #[expect(clippy::too_many_arguments, reason = "the operation's own arguments")]
    pub fn backward(
        &self,
        shape: &GatedShape,
        rule: DeviceRule<'_>,
        voters: &[DeviceVoter<'_>],
        layer: Attended<'_>,
        pressure: DevicePressure<'_>,
        back: AttendedBack<'_>,
        gradients: &[DeviceVoterGradient<'_>],
        scratch: Option<&GateScratch>,
    ) -> Result<(), KernelError> {
        let attention = &self.attention;
        attention.check(shape, &layer)?;
        attention.check_back(shape, &back)?;
        let whole = Strip::whole(shape);
        let Some((gates, call)) = self.call(shape, rule, voters, &layer, scratch)? else {
            attention.deltas(shape, &layer, &back)?;
            attention.back_keys(shape, &layer, &back, None, whole)?;
            return attention.back_queries(shape, &layer, &back, None, whole);
        };
        gates.check_back(&call, pressure, gradients)?;
        let Some(expires_at) = layer.expires_at else { return Ok(()) };
        let (kept, soft) = (Some(&call), matches!(rule, DeviceRule::Soft { .. }));
        attention.deltas(shape, &layer, &back)?;
        if soft {
            gates.begin_soft(&call, None)?;
            call.scratch.strips(shape).try_for_each(|strip| gates.soft_votes(&call, strip, None))?;
        } else {
            if layer.trail.is_none() {
                gates.hard_votes(&call, expires_at)?;
            }
            attention.back_queries(shape, &layer, &back, None, whole)?;
        }
        let last = call.scratch.strips(shape).len() - 1;
        for (number, strip) in call.scratch.strips(shape).enumerate().rev() {
            // The last strip's votes are still there.
            if soft && number < last {
                gates.soft_votes(&call, strip, None)?;
            }
            attention.back_keys(shape, &layer, &back, kept, strip)?;
            if soft {
                attention.back_queries(shape, &layer, &back, kept, strip)?;
            }
            gates.blame(&call, strip, &layer, pressure, gradients)?;
        }
        gates.totals(&call, pressure, gradients)
    }

    /// The gates' call, checked; none without voters.
    fn call<'a>(
        &'a self,
        shape: &'a GatedShape,
        rule: DeviceRule<'a>,
        voters: &'a [DeviceVoter<'a>],
        layer: &Attended<'a>,
        scratch: Option<&'a GateScratch>,
    ) -> Result<Option<(&'a Gates, Call<'a>)>, KernelError> {
        if voters.is_empty() {
            return Ok(None);
        }
        let (Some(gates), Some(scratch)) = (&self.gates, scratch) else {
            return Err(invalid(
                "kernels with a width of gates, and scratch memory".to_owned(),
                format!("width {}, scratch memory: {}", self.attention.side_width(), scratch.is_some()),
            ));
        };
        let call = Call { shape, rule, voters, scratch, trail: layer.trail };
        gates.check(&call, layer.expires_at)?;
        Ok(Some((gates, call)))
    }
}

/// The sliding window as kernels take it: `u32::MAX` where every key is inside.
fn window(shape: &GatedShape) -> u32 {
    match shape.sliding_window {
        Some(window) if (window as usize) < shape.tokens => window,
        _ => u32::MAX,
    }
}

fn check_shape(specialisation: &Specialisation, shape: &GatedShape) -> Result<(), KernelError> {
    let heads = &shape.attention;
    length("query heads", specialisation.query_heads, heads.query_heads)?;
    length("KV heads", specialisation.kv_heads, heads.kv_heads)?;
    length("the width of heads", specialisation.head_dim, heads.head_dim)?;
    if shape.gate_heads != 1 && shape.gate_heads != heads.kv_heads {
        return Err(invalid(format!("1 gate head or {}", heads.kv_heads), shape.gate_heads.to_string()));
    }
    let positive = heads.scale > 0.0 && shape.sliding_window != Some(0) && shape.recent > 0;
    if !positive || shape.sequences == 0 || shape.tokens == 0 || shape.tokens > SIDE * MOST_TILES {
        return Err(invalid(
            format!("1 to {} tokens, a positive scale, window and recent range", SIDE * MOST_TILES),
            format!("{shape:?}"),
        ));
    }
    Ok(())
}
