//! The kernels of gates: votes before attention. What follows attention is in `blame.rs`.

use super::scratch::{GateScratch, Strip};
use super::trail::GateTrail;
use super::{BLAME, DeviceRule, DeviceVoter, OP, SIDE, THREADS, VOTES, window};
use crate::cuda::{Device, DeviceBuffer, Function, Grid, Module, Specialisation, kernel_struct};
use crate::error::{check_aligned, check_at_least, check_length, checked_size};
use crate::gated_attention::GatedShape;
use crate::gated_attention::check::invalid;
use crate::{DType, KernelError};

#[derive(Debug, Clone)]
pub(super) struct Gates {
    hard_votes: Function,
    soft_sums: Function,
    soft_votes: Function,
    survival: Function,
    pub(super) gather: Function,
    pub(super) hard_blame: Function,
    pub(super) soft_blame: Function,
    pub(super) blame_queries: Function,
    pub(super) totals: Function,
    pub(super) specialisation: Specialisation,
}

kernel_struct! {
    pub(super) struct Voter as Voter {
        query_gates: u64,
        key_gates: u64,
        bias: u64,
        noise: u64,
        shift: f32,
        tokens: u32,
        sinks: u32,
        recent: u32,
        window: u32,
        first_tile: u32,
        tiles: u32,
        stride: u32,
    }
}

kernel_struct! {
    pub(super) struct HardVotes as HardVotes {
        voter: Voter,
        expires_at: u64,
        fades_at: u64,
        trail: u64,
    }
}

kernel_struct! {
    pub(super) struct SoftVotes as SoftVotes {
        voter: Voter,
        curve: u64,
        sums: u64,
        strip_sums: u64,
        segment_sums: u64,
        logs: u64,
        own: u64,
        turned: u64,
        ends: u64,
        expires_at: u64,
        survival: u64,
        strip: u32,
        add: u32,
        segment_tiles: u32,
        segments: u32,
    }
}

kernel_struct! {
    pub(super) struct SurvivalTotals as SurvivalTotals {
        of: u64,
        to: u64,
        count: u32,
        add: u32,
    }
}

/// What the votes of one layer are about.
#[derive(Debug, Clone, Copy)]
pub(super) struct Call<'a> {
    pub(super) shape: &'a GatedShape,
    pub(super) rule: DeviceRule<'a>,
    pub(super) voters: &'a [DeviceVoter<'a>],
    pub(super) scratch: &'a GateScratch,
    pub(super) trail: Option<&'a GateTrail>,
}

impl Call<'_> {
    /// Where the smallest scores of hard votes are, and where keys fade.
    pub(super) fn trail(&self) -> [u64; 2] {
        match self.trail {
            Some(kept) => [kept.smallest.pointer(), kept.fades_at.pointer()],
            None => [self.scratch.trail.pointer(), self.scratch.ends.pointer()],
        }
    }
}

impl Gates {
    pub(super) fn new(device: &Device, specialisation: &Specialisation) -> Result<Self, KernelError> {
        let votes = Module::load(device, &VOTES, specialisation)?;
        let blame = Module::load(device, &BLAME, specialisation)?;
        let element = specialisation.weights.bytes();
        let parts = if specialisation.weights == DType::F32 { 1 } else { 2 };
        let tile = parts * SIDE * (specialisation.side_width.next_multiple_of(16) * element + 16);
        let gradients = SIDE * (SIDE * element + 16);
        // A tile of logarithms of 16 bits.
        let logs = if parts == 2 { gradients } else { 0 };
        Ok(Self {
            hard_votes: votes.function("hard_votes", 3 * tile as u32)?,
            soft_sums: votes.function("soft_sums", 3 * tile as u32)?,
            soft_votes: votes.function("soft_votes", (3 * tile + logs) as u32)?,
            survival: votes.function("survival_totals", 0)?,
            gather: blame.function("gather_worth", 0)?,
            hard_blame: blame.function("hard_blame", (3 * tile + gradients) as u32)?,
            soft_blame: blame.function("soft_blame", (3 * tile + gradients) as u32)?,
            blame_queries: blame.function("blame_queries", (2 * tile / parts + 2 * gradients) as u32)?,
            totals: blame.function("blame_totals", 0)?,
            specialisation: *specialisation,
        })
    }

    /// Refuses operands of other lengths than the shape's.
    pub(super) fn check(
        &self,
        call: &Call<'_>,
        expires_at: Option<&DeviceBuffer<u32>>,
    ) -> Result<(), KernelError> {
        let Call { shape, rule, voters, scratch, .. } = *call;
        let Specialisation { groups, side_width, .. } = self.specialisation;
        check_length(OP, "gate heads", groups, shape.gate_heads)?;
        check_length(OP, "the width of gates", side_width, shape.gate_width)?;
        let rows = checked_size(OP, &[shape.sequences, groups, shape.tokens])?;
        for voter in voters {
            let gates = self.gates(shape, voter.stride)?;
            for (what, slice) in [("query gates", voter.query_gates), ("key gates", voter.key_gates)] {
                check_at_least(OP, what, gates, slice.len())?;
                if side_width.is_multiple_of(4) {
                    check_aligned(OP, what, slice.pointer() | (4 * voter.stride as u64), 16)?;
                }
            }
            check_length(OP, "bias", groups, voter.bias.len())?;
        }
        let Some(expires_at) = expires_at else {
            return Err(invalid("a place for the lifetimes of keys".to_owned(), "none".to_owned()));
        };
        check_at_least(OP, "expires_at", rows, expires_at.len())?;
        match rule {
            DeviceRule::Hard { noise, .. } => {
                check_length(OP, "voters under the hard rule", 1, voters.len())?;
                if let Some(noise) = noise {
                    check_at_least(OP, "noise", rows, noise.len())?;
                }
                call.trail.map_or(Ok(()), |kept| kept.check(shape))?;
                scratch.check(shape, 0)
            }
            DeviceRule::Soft { survival, .. } => {
                check_length(OP, "survival", 2, survival.len())?;
                scratch.check(shape, voters.len())
            }
        }
    }

    /// Hard votes of all queries: lifetimes, and the trail and where keys fade.
    pub(super) fn hard_votes(
        &self,
        call: &Call<'_>,
        expires_at: &DeviceBuffer<u32>,
    ) -> Result<(), KernelError> {
        let [trail, fades_at] = call.trail();
        let arguments = HardVotes {
            voter: self.voter(call, 0, Strip::whole(call.shape)),
            expires_at: expires_at.pointer(),
            fades_at,
            trail,
        };
        let grid = Grid::new(self.lanes(call.shape) * tiles(call.shape), THREADS);
        // SAFETY: the layout of `HardVotes`; lengths as `check` saw them.
        unsafe { self.hard_votes.launch(grid, &arguments) }?;
        Ok(())
    }

    /// Before the strips of a pass: no key has an end yet.
    pub(super) fn begin_soft(
        &self,
        call: &Call<'_>,
        expires_at: Option<&DeviceBuffer<u32>>,
    ) -> Result<(), KernelError> {
        call.scratch.ends.fill_bytes(0xff)?;
        Ok(expires_at.map_or(Ok(()), |expires_at| expires_at.fill_bytes(0xff))?)
    }

    /// Soft votes of a strip, whose keys' sums at its start the strip before left in the scratch memory. With `outcome`,
    /// lifetimes are followed and survival is summed, strip by strip.
    pub(super) fn soft_votes(
        &self,
        call: &Call<'_>,
        strip: Strip,
        outcome: Option<&DeviceBuffer<u32>>,
    ) -> Result<(), KernelError> {
        let Call { shape, rule, voters, scratch, .. } = *call;
        let DeviceRule::Soft { curve, survival } = rule else { return Ok(()) };
        let (lanes, rows) = (self.lanes(shape), self.lanes(shape) * shape.tokens);
        let (segments, segment_tiles) = scratch.segments(strip);
        let keys = Grid::new(lanes * strip.range(shape).end, THREADS);
        let number_of_strip = strip.first / strip.tiles;
        for number in 0..voters.len() {
            let own = number + 1 == voters.len();
            let outcome = outcome.filter(|_| own);
            let arguments = SoftVotes {
                voter: self.voter(call, number, strip),
                curve: curve.pointer(),
                sums: scratch.sums.pointer() + (4 * number * rows) as u64,
                strip_sums: (scratch.voters * rows) as u64,
                segment_sums: scratch.segment_sums.pointer(),
                logs: scratch.logs.pointer(),
                own: if own && voters.len() > 1 { scratch.own_logs.pointer() } else { 0 },
                // Once all voters are in.
                turned: if own && !scratch.turned_logs.is_empty() {
                    scratch.turned_logs.pointer()
                } else {
                    0
                },
                ends: scratch.ends.pointer(),
                expires_at: outcome.map_or(0, DeviceBuffer::pointer),
                survival: outcome.map_or(0, |_| scratch.survival.pointer()),
                strip: number_of_strip as u32,
                add: u32::from(number > 0),
                segment_tiles: segment_tiles as u32,
                segments: segments as u32,
            };
            if segments > 1 {
                // SAFETY: the layout of `SoftVotes`; lengths as `check` saw them.
                unsafe { self.soft_sums.launch(keys.by(segments - 1), &arguments) }?;
            }
            // SAFETY: as above.
            unsafe { self.soft_votes.launch(keys.by(segments), &arguments) }?;
            if outcome.is_some() {
                let arguments = SurvivalTotals {
                    of: scratch.survival.pointer(),
                    to: survival.pointer(),
                    count: (lanes * strip.range(shape).end * segments) as u32,
                    add: u32::from(number_of_strip > 0),
                };
                // SAFETY: the layout of `SurvivalTotals`; lengths as `check` saw them.
                unsafe { self.survival.launch(Grid::new(2, THREADS), &arguments) }?;
            }
        }
        Ok(())
    }

    /// Numbers from the first gate of an array to the last.
    pub(super) fn gates(&self, shape: &GatedShape, stride: usize) -> Result<usize, KernelError> {
        let row = self.specialisation.groups * self.specialisation.side_width;
        check_at_least(OP, "the stride of gates", row, stride)?;
        let before = (shape.sequences * shape.tokens).saturating_sub(1);
        Ok(checked_size(OP, &[before, stride])? + row)
    }

    pub(super) fn lanes(&self, shape: &GatedShape) -> usize {
        shape.sequences * self.specialisation.groups
    }

    pub(super) fn voter(&self, call: &Call<'_>, number: usize, strip: Strip) -> Voter {
        let (shape, voter) = (call.shape, &call.voters[number]);
        let (noise, shift) = match call.rule {
            DeviceRule::Hard { noise, shift } => (noise.map_or(0, DeviceBuffer::pointer), shift),
            DeviceRule::Soft { .. } => (0, 0.0),
        };
        Voter {
            query_gates: voter.query_gates.pointer(),
            key_gates: voter.key_gates.pointer(),
            bias: voter.bias.pointer(),
            noise,
            shift,
            tokens: shape.tokens as u32,
            sinks: shape.sinks,
            recent: shape.recent,
            window: window(shape),
            first_tile: strip.first as u32,
            tiles: strip.tiles as u32,
            stride: voter.stride as u32,
        }
    }
}

pub(super) fn tiles(shape: &GatedShape) -> usize {
    shape.tokens.div_ceil(SIDE)
}
