//! Memory that one layer after the other uses, and the strips of queries that bound it.

use super::{OP, SIDE};
use crate::KernelError;
use crate::cuda::{Device, DeviceBuffer, Specialisation};
use crate::error::{check_at_least, checked_size};
use crate::gated_attention::GatedShape;

/// Blocks that the votes of a strip are cut into where there are few keys: enough for any card, and the same for all.
const VOTE_BLOCKS: usize = 256;

/// Neighbouring tiles of queries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Strip {
    pub(super) first: usize,
    /// Tiles that arrays have room for; the last strip may have fewer.
    pub(super) tiles: usize,
}

impl Strip {
    /// All queries.
    pub(super) fn whole(shape: &GatedShape) -> Self {
        Self { first: 0, tiles: shape.tokens.div_ceil(SIDE) }
    }

    /// The tiles that it has.
    pub(super) fn range(self, shape: &GatedShape) -> std::ops::Range<usize> {
        self.first..(self.first + self.tiles).min(shape.tokens.div_ceil(SIDE))
    }
}

/// Memory that the layers of a model share, one after the other, for one shape.
///
/// Pairs of a strip of queries take at most [`GateScratch::STRIP_BYTES`] an array, and never those of all queries unless they fit; beside them
/// the smallest scores of keys take a 64th of the tokens' square per gate head (hard), and sums of keys some numbers a token.
#[derive(Debug)]
pub struct GateScratch {
    shape: GatedShape,
    /// Tiles of a strip, and of a segment of it.
    strip: usize,
    segment: usize,
    pub(super) voters: usize,
    /// W `[b, g, tiles, tiles of the strip, 64 * 64]`.
    pub(super) worth: DeviceBuffer<u8>,
    /// The gradients of pairs' scores, where worths are needed longer: as large, with several voters.
    pub(super) pairs: DeviceBuffer<u8>,
    /// f32 `[b * T, 2 g d]`; empty where one strip is all.
    pub(super) carried_keys: DeviceBuffer<f32>,
    /// f32 `[voters, b, G, T]`.
    pub(super) carried: DeviceBuffer<f32>,
    /// f64 `[voters, b, G, tiles, 3]`.
    pub(super) partials: DeviceBuffer<f64>,
    /// u32 `[b, G, tiles, tiles of the strip]`: whether pairs have gradients.
    pub(super) busy: DeviceBuffer<u32>,
    /// f32 `[b, G, tiles, T]`, hard: each key's smallest score before a tile of queries.
    pub(super) trail: DeviceBuffer<f32>,
    /// u32 `[b, G, T]`: hard, where keys fade; soft, where they end.
    pub(super) ends: DeviceBuffer<u32>,
    /// f32, or f16 beside 16-bit weights, `[b, G, T, queries of the strip]`, soft: what queries see, of all voters together,
    /// and of the own one where there are more.
    pub(super) logs: DeviceBuffer<u8>,
    pub(super) own_logs: DeviceBuffer<u8>,
    /// f16 `[b, G, tiles, tiles of the strip, 64 * 64]`, soft beside 16-bit weights: `logs` of all voters as attention's threads
    /// hold them.
    pub(super) turned_logs: DeviceBuffer<u8>,
    /// f32 `[strips + 1, voters, b, G, T]`, soft: sums of logarithms at the start of a strip.
    pub(super) sums: DeviceBuffer<f32>,
    /// f32 `[segments, b, G, T]`, soft.
    pub(super) segment_sums: DeviceBuffer<f32>,
    /// f64 `[b, G, tiles, segments, 2]`, soft.
    pub(super) survival: DeviceBuffer<f64>,
}

impl GateScratch {
    /// The most bytes of an array whose size is that of a strip's pairs; a strip has at least 64 queries. Every strip reads and
    /// writes what keys carry on, and soft votes of all strips but the last are made once more.
    pub const STRIP_BYTES: usize = 1 << 30;

    /// Room for layers of `shape`, or of fewer or shorter sequences; `soft_voters` is 0 for the hard rule, else the most voters
    /// that a layer has.
    ///
    /// # Errors
    /// No memory.
    pub fn new(
        device: &Device,
        specialisation: &Specialisation,
        shape: &GatedShape,
        soft_voters: usize,
    ) -> Result<Self, KernelError> {
        Self::with_strips_of(device, specialisation, shape, soft_voters, Self::STRIP_BYTES)
    }

    /// As [`GateScratch::new`], with another bound of a strip's array.
    pub(super) fn with_strips_of(
        device: &Device,
        specialisation: &Specialisation,
        shape: &GatedShape,
        soft_voters: usize,
        bytes: usize,
    ) -> Result<Self, KernelError> {
        let Specialisation { kv_heads, head_dim, weights, .. } = *specialisation;
        let tiles = shape.tokens.div_ceil(SIDE).max(1);
        let soft = soft_voters > 0;
        let lanes = checked_size(OP, &[shape.sequences, shape.gate_heads])?;
        let rows = checked_size(OP, &[lanes, shape.tokens])?;
        // Of one tile of queries.
        let pairs = checked_size(OP, &[shape.sequences, kv_heads, tiles, SIDE * SIDE, weights.bytes()])?;
        let logs = if soft { checked_size(OP, &[rows, SIDE, weights.bytes()])? } else { 0 };
        let turned = if soft && weights.bytes() == 2 { [lanes, tiles, SIDE * SIDE, 2] } else { [0; 4] };
        let turned = checked_size(OP, &turned)?;
        let strip = (bytes / pairs.max(logs).max(turned).max(1)).clamp(1, tiles);
        let strips = tiles.div_ceil(strip);
        let carried_keys =
            if strips > 1 { [shape.sequences, shape.tokens, 2 * kv_heads, head_dim] } else { [0; 4] };
        let voters = soft_voters.max(1);
        let segment = strip.div_ceil((VOTE_BLOCKS / (lanes * tiles).max(1)).clamp(1, strip));
        let segments = strip.div_ceil(segment);
        let only_hard = |size: usize| if soft { 0 } else { size };
        let bytes_of = |what, len| DeviceBuffer::<u8>::uninitialized(device, what, len);
        let f32s = |what, len| DeviceBuffer::<f32>::uninitialized(device, what, len);
        Ok(Self {
            shape: *shape,
            strip,
            segment,
            voters: soft_voters,
            // Tiles that a sliding window has passed are added up too, though nobody reads the sum.
            worth: DeviceBuffer::zeroed(device, "the worth of pairs", checked_size(OP, &[pairs, strip])?)?,
            pairs: DeviceBuffer::uninitialized(
                device,
                "the gradients of pairs",
                if soft_voters > 1 { pairs * strip } else { 0 },
            )?,
            carried_keys: f32s("gradients of keys", checked_size(OP, &carried_keys)?)?,
            carried: f32s("sums of keys", checked_size(OP, &[voters, rows])?)?,
            partials: DeviceBuffer::uninitialized(
                device,
                "sums of the gates' gradients",
                checked_size(OP, &[3, voters, lanes, tiles])?,
            )?,
            busy: DeviceBuffer::uninitialized(
                device,
                "marks of pairs",
                checked_size(OP, &[lanes, tiles, strip])?,
            )?,
            trail: f32s("the trail of votes", only_hard(checked_size(OP, &[rows, tiles])?))?,
            ends: DeviceBuffer::uninitialized(device, "ends of keys", rows)?,
            logs: bytes_of("what queries see", checked_size(OP, &[logs, strip])?)?,
            own_logs: bytes_of("what queries see", if soft_voters > 1 { logs * strip } else { 0 })?,
            turned_logs: bytes_of("what queries see", checked_size(OP, &[turned, strip])?)?,
            sums: f32s(
                "sums of votes",
                if soft { checked_size(OP, &[strips + 1, voters, rows])? } else { 0 },
            )?,
            segment_sums: f32s("sums of votes", if soft { checked_size(OP, &[segments, rows])? } else { 0 })?,
            survival: DeviceBuffer::uninitialized(
                device,
                "sums of votes",
                if soft { checked_size(OP, &[2, lanes, tiles, segments])? } else { 0 },
            )?,
        })
    }

    /// Bytes of device memory that it holds.
    #[must_use]
    pub fn bytes(&self) -> usize {
        let bytes = [&self.worth, &self.pairs, &self.logs, &self.own_logs, &self.turned_logs];
        let f32s = [&self.carried_keys, &self.carried, &self.trail, &self.sums, &self.segment_sums];
        let f64s = [&self.partials, &self.survival];
        let u32s = [&self.busy, &self.ends];
        bytes.iter().map(|buffer| buffer.bytes()).sum::<usize>()
            + f32s.iter().map(|buffer| buffer.bytes()).sum::<usize>()
            + f64s.iter().map(|buffer| buffer.bytes()).sum::<usize>()
            + u32s.iter().map(|buffer| buffer.bytes()).sum::<usize>()
    }

    /// Into how many segments of how many tiles the votes of a strip are cut.
    pub(super) fn segments(&self, strip: Strip) -> (usize, usize) {
        (strip.tiles.div_ceil(self.segment), self.segment)
    }

    /// From the first to the last.
    pub(super) fn strips(
        &self,
        shape: &GatedShape,
    ) -> impl DoubleEndedIterator<Item = Strip> + ExactSizeIterator + use<> {
        let tiles = shape.tokens.div_ceil(SIDE);
        let strip = self.strip.min(tiles);
        (0..tiles.div_ceil(strip)).map(move |i| Strip { first: i * strip, tiles: strip })
    }

    /// Refuses a call that is larger, has other gate heads or is of the other rule.
    pub(super) fn check(&self, shape: &GatedShape, soft_voters: usize) -> Result<(), KernelError> {
        let of = |shape: &GatedShape, soft: bool| {
            format!(
                "{} sequences of {} tokens, {} gate heads, {} votes",
                shape.sequences,
                shape.tokens,
                shape.gate_heads,
                if soft { "soft" } else { "hard" }
            )
        };
        let (own, soft) = (&self.shape, soft_voters > 0);
        let fits = shape.sequences <= own.sequences && shape.tokens <= own.tokens;
        if !fits || shape.gate_heads != own.gate_heads || soft != (self.voters > 0) {
            let expected = format!("at most what the scratch memory is for, {}", of(own, self.voters > 0));
            return Err(crate::gated_attention::check::invalid(expected, of(shape, soft)));
        }
        check_at_least(OP, "voters of the scratch memory", soft_voters, self.voters)
    }
}
