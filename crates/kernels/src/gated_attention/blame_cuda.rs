//! Votes under the hard rule, and the gradients of the gates that cast them, on the device.

use super::train_cuda::{SIDE, THREADS, check_shape, tile_bytes, window};
use super::{Attended, GatedShape};
use crate::cuda::{Device, DeviceBuffer, DeviceSlice, Function, Grid, Module, Source, Specialisation};
use crate::error::{check_at_least, check_length, checked_size};
use crate::{DType, KernelError};

pub(crate) const BLAME_SOURCE: Source = Source {
    file: "gated_attention/blame.cu",
    text: concat!(include_str!("fragments.cuh"), include_str!("blame.cu")),
};

const OP: &str = "gates in training";

/// The gates of one layer on the device.
#[derive(Debug, Clone, Copy)]
pub struct DeviceVoter<'a> {
    /// f32 `[b * T, G r]`.
    pub query_gates: &'a DeviceBuffer<f32>,
    /// f32 `[b * T, G r]`.
    pub key_gates: &'a DeviceBuffer<f32>,
    /// f32 `[G]`.
    pub bias: DeviceSlice<'a, f32>,
    /// Added to every score of a key, f32 `[b, G, T]`.
    pub noise: Option<&'a DeviceBuffer<f32>>,
    /// Subtracted from every score.
    pub shift: f32,
}

/// Where the gradients of a [`DeviceVoter`] go.
#[derive(Debug, Clone, Copy)]
pub struct DeviceVoterGradient<'a> {
    /// f32 `[b * T, G r]`, written.
    pub query_gates: &'a DeviceBuffer<f32>,
    /// f32 `[b * T, G r]`, written.
    pub key_gates: &'a DeviceBuffer<f32>,
    /// f32 `[G]`, added to.
    pub bias: DeviceSlice<'a, f32>,
    /// The controller's sums, f64 `[G, 2]`, written: worth and weight, as of [`Margin`](super::Margin).
    pub margin: &'a DeviceBuffer<f64>,
}

/// Memory that one layer after the other uses.
#[derive(Debug)]
pub struct VoteScratch {
    /// f32 `[b, G, tiles, T]`: each key's smallest score before a tile of queries.
    trail: DeviceBuffer<f32>,
    /// f64 `[b, G, tiles, 3]`.
    partials: DeviceBuffer<f64>,
    /// A ticket, and per tile of queries whose turn it is.
    turns: DeviceBuffer<u32>,
}

impl VoteScratch {
    /// Room for layers of `shape`: a 64th of its tokens' square per gate head, the only memory here that grows so.
    ///
    /// # Errors
    /// No memory.
    pub fn new(device: &Device, shape: &GatedShape) -> Result<Self, KernelError> {
        let tiles = shape.tokens.div_ceil(SIDE);
        let heads = checked_size(OP, &[shape.sequences, shape.gate_heads, tiles])?;
        let trail = checked_size(OP, &[heads, shape.tokens])?;
        Ok(Self {
            trail: DeviceBuffer::uninitialized(device, "the trail of votes", trail)?,
            partials: DeviceBuffer::uninitialized(device, "sums of the gates' gradients", 3 * heads)?,
            turns: DeviceBuffer::zeroed(device, "turns of the gates' gradients", 1 + heads)?,
        })
    }
}

/// Hard votes and their gradients.
#[derive(Debug, Clone)]
pub struct TrainVotes {
    votes: Function,
    blame: Function,
    totals: Function,
    specialisation: Specialisation,
}

#[repr(C)]
#[derive(Clone, Copy)]
struct Voter {
    query_gates: u64,
    key_gates: u64,
    bias: u64,
    noise: u64,
    shift: f32,
    tokens: u32,
    sinks: u32,
    recent: u32,
    window: u32,
    padding: u32,
}

#[repr(C)]
#[derive(Clone, Copy)]
struct Votes {
    voter: Voter,
    expires_at: u64,
    trail: u64,
}

#[repr(C)]
#[derive(Clone, Copy)]
struct Blame {
    voter: Voter,
    qkv: u64,
    dout: u64,
    lse: u64,
    delta: u64,
    expires_at: u64,
    trail: u64,
    lambda: u64,
    d_query_gates: u64,
    d_key_gates: u64,
    partials: u64,
    turns: u64,
    scale: f32,
    padding: u32,
}

#[repr(C)]
#[derive(Clone, Copy)]
struct Totals {
    partials: u64,
    margin: u64,
    d_bias: u64,
    sequences: u32,
    tiles: u32,
}

impl TrainVotes {
    /// Compiles the kernels, or takes them from the cache; the specialisation has gates.
    ///
    /// # Errors
    /// As [`Module::load`]; heads that are too wide for the device's shared memory.
    pub fn new(device: &Device, specialisation: &Specialisation) -> Result<Self, KernelError> {
        check_at_least(OP, "the width of gates", 1, specialisation.side_width)?;
        let module = Module::load(device, &BLAME_SOURCE, specialisation)?;
        let element = specialisation.weights.bytes();
        let parts = if specialisation.weights == DType::F32 { 1 } else { 2 };
        let gates = parts * SIDE * (specialisation.side_width.next_multiple_of(16) * element + 16);
        let cells = 2 * SIDE * (SIDE + 1) * 4;
        let blame = 4 * tile_bytes(specialisation) as usize + 2 * gates + cells;
        Ok(Self {
            votes: module.function("hard_votes", 2 * gates as u32)?,
            blame: module.function("hard_blame", blame as u32)?,
            totals: module.function("blame_totals", 0)?,
            specialisation: *specialisation,
        })
    }

    /// Writes the first query that no longer sees each key to `expires_at`, u32 `[b, G, T]`, as
    /// [`Saved::expires_at`](super::Saved::expires_at) has it, and the trail to `scratch`.
    ///
    /// # Errors
    /// A shape that is not the kernels', lengths that do not agree, or a failed device.
    pub fn forward(
        &self,
        shape: &GatedShape,
        voter: DeviceVoter<'_>,
        expires_at: &DeviceBuffer<u32>,
        scratch: &VoteScratch,
    ) -> Result<(), KernelError> {
        let (voter, heads) = self.check(shape, voter, scratch)?;
        check_at_least(OP, "expires_at", heads * shape.tokens, expires_at.len())?;
        let arguments = Votes { voter, expires_at: expires_at.pointer(), trail: scratch.trail.pointer() };
        let blocks = heads * shape.tokens.div_ceil(SIDE);
        // SAFETY: the layout of `Votes`; lengths as just checked.
        unsafe { self.votes.launch(Grid::new(blocks, THREADS), &arguments) }?;
        Ok(())
    }

    /// The gradients of the gates, from what [`TrainVotes::forward`] left in `scratch` for the same arguments and what
    /// [`TrainAttention::backward`](super::TrainAttention::backward) wrote to `delta`. `lambda`, f32 `[G]`, is added to the
    /// worth of every entry.
    ///
    /// # Errors
    /// A shape that is not the kernels', lengths that do not agree, or a failed device.
    #[expect(clippy::too_many_arguments, reason = "the operation's own arguments")]
    pub fn backward(
        &self,
        shape: &GatedShape,
        voter: DeviceVoter<'_>,
        layer: Attended<'_>,
        dout: &DeviceBuffer<u8>,
        delta: &DeviceBuffer<f32>,
        lambda: DeviceSlice<'_, f32>,
        scratch: &VoteScratch,
        gradient: DeviceVoterGradient<'_>,
    ) -> Result<(), KernelError> {
        let (voter, heads) = self.check(shape, voter, scratch)?;
        let Specialisation { query_heads, kv_heads, head_dim, groups, weights, .. } = self.specialisation;
        let rows = checked_size(OP, &[shape.sequences, shape.tokens])?;
        let bytes = |width: usize| checked_size(OP, &[rows, width, head_dim, weights.bytes()]);
        check_at_least(OP, "qkv", bytes(query_heads + 2 * kv_heads)?, layer.qkv.len())?;
        check_at_least(OP, "dout", bytes(query_heads)?, dout.len())?;
        check_at_least(OP, "lse", rows * query_heads, layer.lse.len())?;
        check_at_least(OP, "delta", rows * query_heads, delta.len())?;
        check_at_least(OP, "lambda", groups, lambda.len())?;
        let gates = rows * groups * self.specialisation.side_width;
        check_at_least(OP, "gradients of query gates", gates, gradient.query_gates.len())?;
        check_at_least(OP, "gradients of key gates", gates, gradient.key_gates.len())?;
        check_length(OP, "gradients of biases", groups, gradient.bias.len())?;
        check_at_least(OP, "the margin", 2 * groups, gradient.margin.len())?;
        let Some(expires_at) = layer.expires_at else {
            return Err(super::check::invalid(
                "the lifetimes of a forward pass".to_owned(),
                "none".to_owned(),
            ));
        };
        check_at_least(OP, "expires_at", heads * shape.tokens, expires_at.len())?;
        scratch.turns.fill_bytes(0)?;
        let arguments = Blame {
            voter,
            qkv: layer.qkv.pointer(),
            dout: dout.pointer(),
            lse: layer.lse.pointer(),
            delta: delta.pointer(),
            expires_at: expires_at.pointer(),
            trail: scratch.trail.pointer(),
            lambda: lambda.pointer(),
            d_query_gates: gradient.query_gates.pointer(),
            d_key_gates: gradient.key_gates.pointer(),
            partials: scratch.partials.pointer(),
            turns: scratch.turns.pointer(),
            scale: shape.attention.scale,
            padding: 0,
        };
        let tiles = shape.tokens.div_ceil(SIDE);
        // SAFETY: the layout of `Blame`; lengths as just checked.
        unsafe { self.blame.launch(Grid::new(heads * tiles, THREADS), &arguments) }?;
        let arguments = Totals {
            partials: scratch.partials.pointer(),
            margin: gradient.margin.pointer(),
            d_bias: gradient.bias.pointer(),
            sequences: shape.sequences as u32,
            tiles: tiles as u32,
        };
        // SAFETY: the layout of `Totals`; lengths as just checked.
        unsafe { self.totals.launch(Grid::new(groups, THREADS), &arguments) }?;
        Ok(())
    }

    /// The voter as kernels take it, and the gate heads of all sequences.
    fn check(
        &self,
        shape: &GatedShape,
        voter: DeviceVoter<'_>,
        scratch: &VoteScratch,
    ) -> Result<(Voter, usize), KernelError> {
        let Specialisation { groups, side_width, .. } = self.specialisation;
        check_shape(&self.specialisation, shape)?;
        check_length(OP, "gate heads", groups, shape.gate_heads)?;
        check_length(OP, "the width of gates", side_width, shape.gate_width)?;
        let heads = checked_size(OP, &[shape.sequences, groups])?;
        let gates = checked_size(OP, &[heads, shape.tokens, side_width])?;
        check_at_least(OP, "query gates", gates, voter.query_gates.len())?;
        check_at_least(OP, "key gates", gates, voter.key_gates.len())?;
        check_length(OP, "bias", groups, voter.bias.len())?;
        if let Some(noise) = voter.noise {
            check_at_least(OP, "noise", heads * shape.tokens, noise.len())?;
        }
        let tiles = shape.tokens.div_ceil(SIDE);
        check_at_least(
            OP,
            "the trail",
            checked_size(OP, &[heads, tiles, shape.tokens])?,
            scratch.trail.len(),
        )?;
        check_at_least(OP, "the turns", 1 + heads * tiles, scratch.turns.len())?;
        check_at_least(OP, "partial sums", 3 * heads * tiles, scratch.partials.len())?;
        let voter = Voter {
            query_gates: voter.query_gates.pointer(),
            key_gates: voter.key_gates.pointer(),
            bias: voter.bias.pointer(),
            noise: voter.noise.map_or(0, DeviceBuffer::pointer),
            shift: voter.shift,
            tokens: shape.tokens as u32,
            sinks: shape.sinks,
            recent: shape.recent,
            window: window(shape),
            padding: 0,
        };
        Ok((voter, heads))
    }
}
