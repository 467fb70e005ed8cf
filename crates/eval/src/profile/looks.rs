//! Where each head looks: the entry that gets most of a query's attention.

use std::cmp::Ordering;
use std::sync::{Mutex, PoisonError};

use dropcap_kernels::{AttentionRows, KernelError, attention_mass};
use dropcap_policy::{Attended, Cadence, EvictionPolicy, LaneEditor, Needs, Observation, PolicyError, Span};

/// Of each text of a step, and each query head: the position that its last query attended to most, `[h]`.
pub(super) type Looks = Vec<Vec<u32>>;

/// Keeps everything, and notes for each step where the last query of each of its texts looked; steps within a prompt are
/// passed over. It is no method: it remembers, until it is asked.
#[derive(Debug, Default)]
pub(super) struct Watch {
    /// `[L]` of the last step.
    layers: Mutex<Vec<Looks>>,
}

impl Watch {
    /// What the layers noted since the last call, `[L]`.
    pub(super) fn take(&self) -> Vec<Looks> {
        std::mem::take(&mut self.layers.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl EvictionPolicy for Watch {
    fn needs(&self) -> Needs {
        Needs { after: Cadence::EVERY_QUERY, ..Needs::default() }
    }

    fn decide(&self, _: &Observation<'_>, _: &mut [LaneEditor<'_>]) -> Result<(), PolicyError> {
        Ok(())
    }

    fn after(&self, seen: &Attended<'_>, lanes: &mut [LaneEditor<'_>]) -> Result<(), PolicyError> {
        let looks = seen.spans.iter().zip(lanes).map(|(span, lanes)| look(seen, span, lanes));
        let looks = looks.collect::<Result<Looks, KernelError>>()?;
        self.layers.lock().unwrap_or_else(PoisonError::into_inner).push(looks);
        Ok(())
    }
}

/// Of each query head, the position that the last query of a span attended to most; of equal ones the first.
fn look(seen: &Attended<'_>, span: &Span, editor: &LaneEditor<'_>) -> Result<Vec<u32>, KernelError> {
    let (shape, last) = (seen.shape, span.queries - 1);
    let group = shape.query_heads / shape.kv_heads;
    let lane = |head: usize| editor.lane(if editor.groups() == 1 { 0 } else { head });
    let mut mass: Vec<Vec<f32>> =
        (0..shape.kv_heads).map(|head| vec![0.0; group * lane(head).len()]).collect();
    let rows = AttentionRows {
        first_row: span.first_row + last,
        queries: 1,
        // Fits: the step's positions have been checked.
        first_position: span.first_position + last as u32,
        lanes: (0..editor.groups()).map(|group| editor.lane(group).view()).collect(),
    };
    let mut slices: Vec<&mut [f32]> = mass.iter_mut().map(Vec::as_mut_slice).collect();
    attention_mass(seen.team, &shape, &[rows], seen.queries, seen.query_stride, &mut slices)?;
    let mut looks = Vec::with_capacity(shape.query_heads);
    for (head, mass) in mass.iter().enumerate() {
        let positions = lane(head).positions();
        for mass in mass.chunks_exact(positions.len().max(1)) {
            let order = |a: &(&f32, &u32), b: &(&f32, &u32)| match a.0.total_cmp(b.0) {
                Ordering::Equal => b.1.cmp(a.1),
                other => other,
            };
            looks.push(mass.iter().zip(positions).max_by(order).map_or(0, |(_, &position)| position));
        }
    }
    Ok(looks)
}
