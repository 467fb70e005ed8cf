//! The backward pass.

use super::pack::Lines;
use super::plan::{Plan, SIDE};
use super::unit::{Call, Results, Unit};
use super::{GatedShape, Margin, Pressure, Rule, Saved, Voter, VoterGradient, check};
use crate::chunks::Pieces;
use crate::simd::Isa;
use crate::{KernelError, Team};

/// The gradients of [`forward`](super::forward), from its arguments and results and from `dout` `[b * T, h * d]`.
///
/// The first `(h + 2 g) * d` columns of `dqkv`, laid out as `qkv`, are written; the gradients of the gates are added to
/// `gradients`, one per voter; `margin` is written. Under the soft rule they are those of the loss and the pressure;
/// under the hard rule those of the loss with, for the gates, `d alive / d m = sigmoid(m) sigmoid(-m)`, m being the
/// smallest score so far, of which only the query that has it gets a gradient.
///
/// Errors: as the forward pass, results of another shape, a pressure of another rule.
#[allow(clippy::too_many_arguments)]
pub fn backward(
    team: &Team,
    shape: &GatedShape,
    rule: Rule<'_>,
    voters: &[Voter<'_>],
    qkv: &[f32],
    stride: usize,
    out: &[f32],
    dout: &[f32],
    saved: &Saved,
    pressure: Pressure<'_>,
    dqkv: &mut [f32],
    gradients: &mut [VoterGradient<'_>],
    margin: &mut Margin,
) -> Result<(), KernelError> {
    backward_with(
        Isa::best(),
        team,
        shape,
        rule,
        voters,
        qkv,
        stride,
        out,
        dout,
        saved,
        pressure,
        dqkv,
        gradients,
        margin,
    )
}

/// [`backward`] with the given instruction set, or the portable one where the machine lacks it.
///
/// Errors: as [`backward`].
#[allow(clippy::too_many_arguments)]
pub fn backward_with(
    isa: Isa,
    team: &Team,
    shape: &GatedShape,
    rule: Rule<'_>,
    voters: &[Voter<'_>],
    qkv: &[f32],
    stride: usize,
    out: &[f32],
    dout: &[f32],
    saved: &Saved,
    pressure: Pressure<'_>,
    dqkv: &mut [f32],
    gradients: &mut [VoterGradient<'_>],
    margin: &mut Margin,
) -> Result<(), KernelError> {
    check::inputs(shape, rule, voters, qkv, stride)?;
    check::pressure(shape, rule, voters.len(), pressure)?;
    let plan = Plan::new(shape, voters.len(), stride);
    let rows = shape.sequences * shape.tokens;
    check::length("out", rows * plan.out_width(), out.len())?;
    check::length("dout", out.len(), dout.len())?;
    check::length("dqkv", qkv.len(), dqkv.len())?;
    if saved.of != Some((*shape, voters.len())) {
        return Err(check::invalid(
            "results of a forward pass of the same shape and voters".to_owned(),
            format!("{:?}", saved.of),
        ));
    }
    check::length("gradients", voters.len(), gradients.len())?;
    for (voter, gradient) in voters.iter().zip(gradients.iter()) {
        check::length("gradients of query gates", voter.query_gates.len(), gradient.query_gates.len())?;
        check::length("gradients of key gates", voter.key_gates.len(), gradient.key_gates.len())?;
        check::length("gradients of biases", voter.bias.len(), gradient.bias.len())?;
    }
    let groups = if voters.is_empty() { 0 } else { plan.groups };
    margin.worth.clear();
    margin.worth.resize(groups, 0.0);
    margin.weight.clear();
    margin.weight.resize(groups, 0.0);
    if rows > 0 {
        let call = Call { isa, plan: &plan, rule, voters, pressure, qkv, out, dout, saved };
        run(isa, team, &call, dqkv, gradients, margin);
    }
    Ok(())
}

fn run(
    isa: Isa,
    team: &Team,
    call: &Call<'_>,
    dqkv: &mut [f32],
    gradients: &mut [VoterGradient<'_>],
    margin: &mut Margin,
) {
    let plan = call.plan;
    let units = plan.shape.sequences * plan.groups * plan.parts;
    let (query_rows, gate_rows) = (plan.heads * plan.padded(), plan.voters * plan.padded());
    let mut queries = Lines::zeroed(units * query_rows * plan.wide);
    let mut query_gates = Lines::zeroed(units * gate_rows * plan.gate_wide);
    let mut scalars = vec![0.0; units * (plan.voters + 2)];
    let (mut key_gates, mut gate_queries) = (Vec::new(), Vec::new());
    let mut biases: Vec<&mut [f64]> = Vec::new();
    for gradient in gradients {
        key_gates.push(Pieces::new(&mut *gradient.key_gates));
        gate_queries.push(Pieces::new(&mut *gradient.query_gates));
        biases.push(&mut *gradient.bias);
    }
    let dqkv = Pieces::new(dqkv);
    let results = Results {
        dqkv: &dqkv,
        key_gates,
        queries: Pieces::new(&mut queries),
        query_gates: Pieces::new(&mut query_gates),
        scalars: Pieces::new(&mut scalars),
    };
    team.run(units, &|unit| isa.run(Unit { call, results: &results, unit }));
    let groups = plan.shape.sequences * plan.groups;
    team.run(groups * plan.panels, &|task| {
        let (panel, task) = (task % plan.panels, task / plan.panels);
        let (group, sequence) = (task % plan.groups, task / plan.groups);
        let first = panel * SIDE;
        for i in 0..(plan.tokens() - first).min(SIDE) {
            let token = sequence * plan.tokens() + first + i;
            for head in 0..plan.heads {
                let row = head * plan.padded() + first + i;
                let at = token * plan.stride + plan.query_column(group, head);
                // SAFETY: one task has this query of this head, and the units are done.
                let to = unsafe { dqkv.range(at, plan.width) };
                to.fill(0.0);
                let scale = plan.shape.attention.scale;
                add_parts(plan, task, &queries, (query_rows, row, plan.wide), scale, to);
            }
            for (voter, gates) in gate_queries.iter().enumerate() {
                let row = voter * plan.padded() + first + i;
                // SAFETY: as above.
                let to = unsafe { gates.range((token * plan.groups + group) * plan.gate, plan.gate) };
                add_parts(plan, task, &query_gates, (gate_rows, row, plan.gate_wide), 1.0, to);
            }
        }
    });
    for (unit, scalars) in scalars.chunks_exact(plan.voters + 2).enumerate() {
        let group = unit / plan.parts % plan.groups;
        if plan.voters > 0 {
            margin.worth[group] += scalars[0];
            margin.weight[group] += scalars[1];
        }
        for (bias, scalar) in biases.iter_mut().zip(&scalars[2..]) {
            bias[group] += scalar;
        }
    }
}

/// `to += factor * sum over the parts of a group's row`, in the order of the parts.
fn add_parts(
    plan: &Plan,
    group: usize,
    from: &[f32],
    (rows, row, wide): (usize, usize, usize),
    factor: f32,
    to: &mut [f32],
) {
    for part in 0..plan.parts {
        let from = &from[((group * plan.parts + part) * rows + row) * wide..];
        to.iter_mut().zip(from).for_each(|(to, from)| *to += factor * from);
    }
}
