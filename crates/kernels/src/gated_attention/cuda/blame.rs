//! The gradients of gates, behind attention's.

use super::gates::{Call, Gates, Voter, tiles};
use super::scratch::Strip;
use super::{Attended, DevicePressure, DeviceRule, DeviceVoterGradient, OP, THREADS};
use crate::KernelError;
use crate::cuda::{DeviceBuffer, Grid, kernel_struct};
use crate::error::{check_at_least, check_length};
use crate::gated_attention::check::invalid;

kernel_struct! {
    pub(super) struct Gather as Gather {
        worth: u64,
        tiles: u32,
        first_tile: u32,
        strip: u32,
        padding: u32,
    }
}

kernel_struct! {
    pub(super) struct Blame as Blame {
        voter: Voter,
        worth: u64,
        pairs: u64,
        ends: u64,
        carried: u64,
        d_key_gates: u64,
        partials: u64,
        busy: u64,
        fresh: u32,
        alone: u32,
        fades_at: u64,
        trail: u64,
        lambda: u64,
        curve: u64,
        logs: u64,
        per_pair: f32,
        queries: u32,
    }
}

kernel_struct! {
    pub(super) struct BlameQueries as BlameQueries {
        voter: Voter,
        pairs: u64,
        busy: u64,
        d_query_gates: u64,
        fresh: u32,
        padding: u32,
    }
}

kernel_struct! {
    pub(super) struct BlameTotals as BlameTotals {
        partials: u64,
        margin: u64,
        d_bias: u64,
        sequences: u32,
        tiles: u32,
    }
}

impl Gates {
    /// Refuses gradients and a pressure that do not fit the call.
    pub(super) fn check_back(
        &self,
        call: &Call<'_>,
        pressure: DevicePressure<'_>,
        gradients: &[DeviceVoterGradient<'_>],
    ) -> Result<(), KernelError> {
        let groups = self.specialisation.groups;
        check_length(OP, "gradients of voters", call.voters.len(), gradients.len())?;
        for (voter, gradient) in call.voters.iter().zip(gradients) {
            let gates = self.gates(call.shape, voter.stride)?;
            check_at_least(OP, "gradients of query gates", gates, gradient.query_gates.len())?;
            check_at_least(OP, "gradients of key gates", gates, gradient.key_gates.len())?;
            check_length(OP, "gradients of biases", groups, gradient.bias.len())?;
        }
        match (call.rule, pressure) {
            (DeviceRule::Soft { .. }, DevicePressure::Soft { .. }) => Ok(()),
            (DeviceRule::Hard { .. }, DevicePressure::Hard { lambda, margin }) => {
                check_length(OP, "lambda", groups, lambda.len())?;
                check_at_least(OP, "the margin", 2 * groups, margin.len())
            }
            _ => Err(invalid("a pressure of the votes' rule".to_owned(), "one of the other rule".to_owned())),
        }
    }

    /// The part of a strip in the gradients of gates, behind `back_keys` of the strip; strips come from the last to the
    /// first.
    pub(super) fn blame(
        &self,
        call: &Call<'_>,
        strip: Strip,
        layer: &Attended<'_>,
        pressure: DevicePressure<'_>,
        gradients: &[DeviceVoterGradient<'_>],
    ) -> Result<(), KernelError> {
        let Call { shape, rule, voters, scratch, .. } = *call;
        let [trail, fades_at] = call.trail();
        let lanes = self.lanes(shape);
        // Where one voter reads the worths last, its gradients take their place.
        let pairs = if voters.len() > 1 { &scratch.pairs } else { &scratch.worth };
        let ends = match rule {
            DeviceRule::Hard { .. } => layer.expires_at.map_or(0, DeviceBuffer::pointer),
            DeviceRule::Soft { .. } => scratch.ends.pointer(),
        };
        let kv_heads = self.specialisation.kv_heads / self.specialisation.groups;
        if kv_heads > 1 {
            let arguments = Gather {
                worth: scratch.worth.pointer(),
                tiles: tiles(shape) as u32,
                first_tile: strip.first as u32,
                strip: strip.tiles as u32,
                padding: 0,
            };
            let grid = Grid::new(strip.range(shape).end * strip.tiles, THREADS).by(lanes);
            // SAFETY: the layout of `Gather`; lengths as the checks saw them.
            unsafe { self.gather.launch(grid, &arguments) }?;
        }
        for (number, gradient) in gradients.iter().enumerate() {
            let own = number + 1 == voters.len();
            let mut arguments = Blame {
                voter: self.voter(call, number, strip),
                worth: scratch.worth.pointer(),
                pairs: pairs.pointer(),
                ends,
                carried: scratch.carried.pointer() + (4 * number * lanes * shape.tokens) as u64,
                d_key_gates: gradient.key_gates.pointer(),
                partials: self.partials(call, number),
                busy: scratch.busy.pointer(),
                fresh: u32::from(gradient.fresh),
                alone: u32::from(voters.len() == 1),
                fades_at,
                trail,
                lambda: 0,
                curve: 0,
                logs: 0,
                per_pair: 0.0,
                queries: 0,
            };
            let grid = Grid::new(lanes * strip.range(shape).end, THREADS);
            match (rule, pressure) {
                (DeviceRule::Soft { curve, .. }, DevicePressure::Soft { per_pair, last_query }) => {
                    arguments.curve = curve.pointer();
                    if own && per_pair != 0.0 {
                        let logs = if voters.len() > 1 { &scratch.own_logs } else { &scratch.logs };
                        arguments.logs = logs.pointer();
                        arguments.per_pair = per_pair;
                        arguments.queries = (shape.tokens - usize::from(!last_query)) as u32;
                    }
                    // SAFETY: the layout of `Blame`; lengths as the checks saw them.
                    unsafe { self.soft_blame.launch(grid, &arguments) }?;
                }
                (_, DevicePressure::Hard { lambda, .. }) => {
                    arguments.lambda = lambda.pointer();
                    // SAFETY: as above.
                    unsafe { self.hard_blame.launch(grid, &arguments) }?;
                }
                _ => {}
            }
            let arguments = BlameQueries {
                voter: arguments.voter,
                pairs: pairs.pointer(),
                busy: scratch.busy.pointer(),
                d_query_gates: gradient.query_gates.pointer(),
                fresh: u32::from(gradient.fresh),
                padding: 0,
            };
            let grid = Grid::new(lanes * strip.range(shape).len(), THREADS);
            // SAFETY: the layout of `BlameQueries`; lengths as the checks saw them.
            unsafe { self.blame_queries.launch(grid, &arguments) }?;
        }
        Ok(())
    }

    /// Adds up what the strips left: gradients of biases, and the margin under the hard rule.
    pub(super) fn totals(
        &self,
        call: &Call<'_>,
        pressure: DevicePressure<'_>,
        gradients: &[DeviceVoterGradient<'_>],
    ) -> Result<(), KernelError> {
        for (number, gradient) in gradients.iter().enumerate() {
            let arguments = BlameTotals {
                partials: self.partials(call, number),
                margin: match pressure {
                    DevicePressure::Hard { margin, .. } => margin.pointer(),
                    DevicePressure::Soft { .. } => 0,
                },
                d_bias: gradient.bias.pointer(),
                sequences: call.shape.sequences as u32,
                tiles: tiles(call.shape) as u32,
            };
            // SAFETY: the layout of `BlameTotals`; lengths as the checks saw them.
            unsafe { self.totals.launch(Grid::new(3 * self.specialisation.groups, THREADS), &arguments) }?;
        }
        Ok(())
    }

    fn partials(&self, call: &Call<'_>, number: usize) -> u64 {
        call.scratch.partials.pointer() + (8 * 3 * number * self.lanes(call.shape) * tiles(call.shape)) as u64
    }
}
