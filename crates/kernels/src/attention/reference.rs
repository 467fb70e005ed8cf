//! Attention as it is defined, in f64: the oracle of the tests.

use super::{AttentionRows, AttentionShape, check};
use crate::{KernelError, LaneView, PAGE_ENTRIES};

/// [`super::attention`] one row and one head at a time, with f64 arithmetic and a softmax over the whole row.
///
/// Errors: as there.
pub fn attention(
    shape: &AttentionShape,
    rows: &[AttentionRows<'_>],
    query: &[f32],
    query_stride: usize,
    out: &mut [f32],
) -> Result<(), KernelError> {
    check::check(shape, rows, query, query_stride, out)?;
    let (d, group) = (shape.head_dim, shape.query_heads / shape.kv_heads);
    for item in rows {
        for i in 0..item.queries {
            for head in 0..shape.query_heads {
                let (lane, kv_head) = match item.lanes.as_slice() {
                    [lane] => (lane, head / group),
                    lanes => (&lanes[head / group], 0),
                };
                let row = item.first_row + i;
                let query = &query[row * query_stride + head * d..][..d];
                let position = item.first_position + i as u32;
                let mixed = attend(lane, kv_head, position, query, f64::from(shape.scale))?;
                let start = (row * shape.query_heads + head) * d;
                out[start..start + d].iter_mut().zip(mixed).for_each(|(out, x)| *out = x as f32);
            }
        }
    }
    Ok(())
}

/// One head of one query.
fn attend(
    lane: &LaneView<'_>,
    head: usize,
    position: u32,
    query: &[f32],
    scale: f64,
) -> Result<Vec<f64>, KernelError> {
    let mut scored = Vec::new();
    for e in 0..lane.len() {
        if lane.positions[e] <= position && position < lane.expires_at[e] {
            let key = lane.layout.read_key(lane.pages[e / PAGE_ENTRIES], e % PAGE_ENTRIES, head)?;
            let dot: f64 = query.iter().zip(key).map(|(&a, b)| f64::from(a) * f64::from(b)).sum();
            scored.push((e, dot * scale));
        }
    }
    let maximum = scored.iter().fold(f64::NEG_INFINITY, |maximum, &(_, score)| maximum.max(score));
    let sum: f64 = scored.iter().map(|&(_, score)| (score - maximum).exp()).sum();
    let mut mixed = vec![0.0; query.len()];
    for (e, score) in scored {
        let weight = (score - maximum).exp() / sum;
        let value = lane.layout.read_value(lane.pages[e / PAGE_ENTRIES], e % PAGE_ENTRIES, head)?;
        mixed.iter_mut().zip(value).for_each(|(mixed, x)| *mixed += weight * f64::from(x));
    }
    Ok(mixed)
}
