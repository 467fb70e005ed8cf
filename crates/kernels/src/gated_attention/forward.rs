//! The forward pass.

use super::attend::{Attend, Followed, Packed};
use super::gate::{Gates, PerKey};
use super::pack::Source;
use super::plan::{HUGE, Plan, SIDE};
use super::votes::{Follow, Own, expiries};
use super::{GatedShape, Rule, Saved, Voter, check};
use crate::chunks::Pieces;
use crate::simd::Isa;
use crate::{KernelError, Team};

/// Causal attention of every sequence, with what `voters` say under `rule`; results for the backward pass in `saved`.
///
/// No voter is dense attention; one is the layer's own gates; several, under the soft rule, are the gates of lower
/// layers and, last, its own: what any of them drops is dropped. Rows of `qkv` `[b * T, stride]` are
/// `[q | k | v] = [h * d | g * d | g * d]`; the query heads of KV head i use gate head i, or the only one. `out` is
/// `[b * T, h * d]`.
///
/// Errors: heads that do not divide, lengths that disagree, several voters under the hard rule.
#[allow(clippy::too_many_arguments)]
pub fn forward(
    team: &Team,
    shape: &GatedShape,
    rule: Rule<'_>,
    voters: &[Voter<'_>],
    qkv: &[f32],
    stride: usize,
    out: &mut [f32],
    saved: &mut Saved,
) -> Result<(), KernelError> {
    forward_with(Isa::best(), team, shape, rule, voters, qkv, stride, out, saved)
}

/// [`forward`] with the given instruction set, or the portable one where the machine lacks it.
///
/// Errors: as [`forward`].
#[allow(clippy::too_many_arguments)]
pub fn forward_with(
    isa: Isa,
    team: &Team,
    shape: &GatedShape,
    rule: Rule<'_>,
    voters: &[Voter<'_>],
    qkv: &[f32],
    stride: usize,
    out: &mut [f32],
    saved: &mut Saved,
) -> Result<(), KernelError> {
    check::inputs(shape, rule, voters, qkv, stride)?;
    let plan = Plan::new(shape, voters.len(), stride);
    check::length("out", shape.sequences * shape.tokens * plan.out_width(), out.len())?;
    saved.prepare(&plan);
    if !out.is_empty() {
        let units = shape.sequences * plan.groups;
        let soft = !voters.is_empty() && matches!(rule, Rule::Soft { .. });
        // Bits are the same either way; keys that no query sees any more would not be followed here.
        if soft && shape.sliding_window.is_none() && units >= 2 * team.threads() {
            attend_following(isa, team, &plan, rule, voters, qkv, out, saved);
        } else {
            if !voters.is_empty() {
                follow(isa, team, &plan, rule, voters, saved);
            }
            attend(isa, team, &plan, rule, voters, qkv, out, saved);
        }
    }
    saved.of = Some((*shape, voters.len()));
    Ok(())
}

/// Trails, expiries and sums of gates.
fn follow(isa: Isa, team: &Team, plan: &Plan, rule: Rule<'_>, voters: &[Voter<'_>], saved: &mut Saved) {
    let trail = Pieces::new(&mut saved.trail);
    let expires_at = Pieces::new(&mut saved.expires_at);
    let sums = Pieces::new(&mut saved.gates);
    team.run(plan.shape.sequences * plan.voters * plan.groups * plan.panels, &|task| {
        // Early panels, which have most queries, first.
        let (panel, task) = (task % plan.panels, task / plan.panels);
        let (group, task) = (task % plan.groups, task / plan.groups);
        let (number, sequence) = (task % plan.voters, task / plan.voters);
        let head = sequence * plan.groups + group;
        let own = (number + 1 == plan.voters).then(|| {
            let first = panel * SIDE;
            let count = (plan.tokens() - first).min(SIDE);
            // SAFETY: one task has this panel of the own voter.
            let expires_at = unsafe { expires_at.range(head * plan.tokens() + first, count) };
            // SAFETY: as above.
            let gates = unsafe { sums.range(head * plan.panels + panel, 1) };
            (expires_at, gates)
        });
        let own =
            own.and_then(|(expires_at, gates)| gates.first_mut().map(|gates| Own { expires_at, gates }));
        isa.run(Follow {
            isa,
            plan,
            rule,
            gates: Gates::of(plan, &voters[number], sequence, group),
            noise: noise(plan, rule, head),
            panel,
            trail: (&trail, ((sequence * plan.voters + number) * plan.groups + group) * plan.trail()),
            own,
        });
    });
}

/// The noise of one gate head of one sequence, `[T]`.
pub(super) fn noise<'a>(plan: &Plan, rule: Rule<'a>, head: usize) -> Option<&'a [f32]> {
    match rule {
        Rule::Hard { noise } => noise.map(|all| &all[head * plan.tokens()..][..plan.tokens()]),
        Rule::Soft { .. } => None,
    }
}

/// One sequence after the other, so that packed keys and values are only those of one.
#[allow(clippy::too_many_arguments)]
fn attend(
    isa: Isa,
    team: &Team,
    plan: &Plan,
    rule: Rule<'_>,
    voters: &[Voter<'_>],
    qkv: &[f32],
    out: &mut [f32],
    saved: &mut Saved,
) {
    let packed_voters = if matches!(rule, Rule::Soft { .. }) { voters } else { &[] };
    let mut packed = Packed::new(plan, packed_voters.len(), 0..plan.groups);
    let (out, lse) = (Pieces::new(out), Pieces::new(&mut saved.lse));
    for sequence in 0..plan.shape.sequences {
        let room = Room::of(&mut packed);
        team.run(plan.panels, &|panel| room.pack(plan, sequence, packed_voters, qkv, panel));
        team.run(plan.groups * plan.blocks(), &|task| {
            let group = task % plan.groups;
            let head = sequence * plan.groups + group;
            let expires_at = if voters.is_empty() {
                &[]
            } else {
                &saved.expires_at[head * plan.tokens()..][..plan.tokens()]
            };
            isa.run(Attend {
                isa,
                plan,
                rule,
                voters,
                packed: &packed,
                sequence,
                group,
                // Late blocks, which see most keys, first.
                block: plan.blocks() - 1 - task / plan.groups,
                qkv,
                trail: &saved.trail,
                followed: None,
                expires_at,
                out: &out,
                lse: &lse,
            });
        });
    }
}

/// One task for each group of a sequence, from its first block to its last, following the votes on the way.
#[allow(clippy::too_many_arguments)]
fn attend_following(
    isa: Isa,
    team: &Team,
    plan: &Plan,
    rule: Rule<'_>,
    voters: &[Voter<'_>],
    qkv: &[f32],
    out: &mut [f32],
    saved: &mut Saved,
) {
    let (out, lse) = (Pieces::new(out), Pieces::new(&mut saved.lse));
    let trail = Pieces::new(&mut saved.trail);
    let expires_at = Pieces::new(&mut saved.expires_at);
    let sums = Pieces::new(&mut saved.gates);
    team.run(plan.shape.sequences * plan.groups, &|unit| {
        let (group, sequence) = (unit % plan.groups, unit / plan.groups);
        let mut packed = Packed::new(plan, voters.len(), group..group + 1);
        let room = Room::of(&mut packed);
        (0..plan.panels).for_each(|panel| room.pack(plan, sequence, voters, qkv, panel));
        let mut followed = Followed {
            running: vec![PerKey([0.0; SIDE]); plan.voters * plan.panels],
            refused: vec![PerKey([HUGE; SIDE]); plan.panels],
            gates: vec![[0.0; 2]; plan.panels],
        };
        for block in 0..plan.blocks() {
            for (voter, running) in followed.running.chunks_exact(plan.panels).enumerate() {
                let at = ((sequence * plan.voters + voter) * plan.groups + group) * plan.trail();
                let len = block * plan.block;
                // SAFETY: one task has this group of this sequence.
                let to = unsafe { trail.range(at + plan.trail_start(block), len) };
                to.chunks_exact_mut(SIDE).zip(running).for_each(|(to, from)| to.copy_from_slice(&from.0));
            }
            isa.run(Attend {
                isa,
                plan,
                rule,
                voters,
                packed: &packed,
                sequence,
                group,
                block,
                qkv,
                trail: &[],
                followed: Some(&mut followed),
                expires_at: &[],
                out: &out,
                lse: &lse,
            });
        }
        // SAFETY: as above.
        unsafe { sums.range(unit * plan.panels, plan.panels) }.copy_from_slice(&followed.gates);
        // SAFETY: as above.
        let expires_at = unsafe { expires_at.range(unit * plan.tokens(), plan.tokens()) };
        for (panel, to) in expires_at.chunks_mut(SIDE).enumerate() {
            expiries(plan, panel, &followed.refused[panel], to);
        }
    });
}

/// Where panels are packed to.
struct Room<'a> {
    groups: std::ops::Range<usize>,
    keys: Pieces<'a, f32>,
    values: Pieces<'a, f32>,
    gates: Pieces<'a, f32>,
}

impl<'a> Room<'a> {
    fn of(packed: &'a mut Packed) -> Self {
        Self {
            groups: packed.groups.clone(),
            keys: Pieces::new(&mut packed.keys),
            values: Pieces::new(&mut packed.values),
            gates: Pieces::new(&mut packed.gates),
        }
    }

    /// Packs one panel; no two threads may pack the same one.
    fn pack(&self, plan: &Plan, sequence: usize, voters: &[Voter<'_>], qkv: &[f32], panel: usize) {
        let first = panel * SIDE;
        let size = plan.width * SIDE;
        let row = (sequence * plan.tokens() + first) * plan.stride;
        let count = (plan.tokens() - first).min(SIDE);
        for kv in 0..self.groups.len() * plan.kv_heads {
            let column = plan.key_column(self.groups.start, kv);
            let source = Source { from: &qkv[row + column..], stride: plan.stride, count, width: plan.width };
            // SAFETY: one task has this panel.
            source.panel(1.0, unsafe { self.keys.range((kv * plan.panels + panel) * size, size) });
            let source = Source { from: &qkv[row + column + plan.value_offset()..], ..source };
            let at = (kv * plan.padded() + first) * plan.wide;
            // SAFETY: as above.
            source.rows(1.0, plan.wide, unsafe { self.values.range(at, SIDE * plan.wide) });
        }
        for (number, voter) in voters.iter().enumerate() {
            for (i, group) in self.groups.clone().enumerate() {
                let of = Gates::of(plan, voter, sequence, group);
                let at = ((number * self.groups.len() + i) * plan.panels + panel) * plan.gate * SIDE;
                // SAFETY: as above.
                let to = unsafe { self.gates.range(at, plan.gate * SIDE) };
                Gates::panel_of(of.key, panel).panel(of.factor, to);
            }
        }
    }
}
