//! What a call must satisfy before any kernel runs.

use super::{AttentionRows, AttentionShape};
use crate::KernelError;
use crate::error::checked_size;

const OP: &str = "attention";

/// Refuses every call that would read or write out of bounds or the same output row twice.
pub(super) fn check(
    shape: &AttentionShape,
    rows: &[AttentionRows<'_>],
    query: &[f32],
    query_stride: usize,
    out: &[f32],
) -> Result<(), KernelError> {
    check_shape(shape)?;
    let width = checked_size(OP, &[shape.query_heads, shape.head_dim])?;
    if !out.len().is_multiple_of(width) {
        return Err(invalid(format!("output rows of {width} elements"), format!("{} elements", out.len())));
    }
    let batch = out.len() / width;
    if batch > 0 {
        if query_stride < width {
            return Err(invalid(format!("a query stride of at least {width}"), query_stride.to_string()));
        }
        let expected = checked_size(OP, &[batch - 1, query_stride])?.saturating_add(width);
        if query.len() < expected {
            return Err(KernelError::Length { op: OP, what: "query", expected, got: query.len() });
        }
    }
    rows.iter().try_for_each(|item| check_item(shape, item, batch))?;
    check_disjoint(rows)
}

/// Refuses heads that do not divide, and a scale that is no number.
pub(super) fn check_shape(shape: &AttentionShape) -> Result<(), KernelError> {
    let AttentionShape { query_heads, kv_heads, head_dim, scale } = *shape;
    if kv_heads == 0 || head_dim == 0 || query_heads == 0 || !query_heads.is_multiple_of(kv_heads) {
        return Err(invalid(
            "query heads that are a multiple of the KV heads, and at least 1 dimension".to_owned(),
            format!("{query_heads} query heads, {kv_heads} KV heads, {head_dim} dimensions"),
        ));
    }
    if !scale.is_finite() {
        return Err(invalid("a finite scale".to_owned(), scale.to_string()));
    }
    checked_size(OP, &[query_heads, head_dim]).map(drop)
}

/// Refuses rows beyond the `batch` that there are, positions beyond the last, and lanes of another shape.
pub(super) fn check_item(
    shape: &AttentionShape,
    item: &AttentionRows<'_>,
    batch: usize,
) -> Result<(), KernelError> {
    if item.first_row > batch || item.queries > batch - item.first_row {
        return Err(invalid(
            format!("rows inside the {batch} of the output"),
            format!("{} from row {}", item.queries, item.first_row),
        ));
    }
    // Position u32::MAX is kept out so that an entry that never expires is seen by every query.
    let positions = (u32::MAX - item.first_position) as usize;
    if item.queries > positions {
        return Err(invalid(
            format!("positions below {}", u32::MAX),
            format!("{} queries from position {}", item.queries, item.first_position),
        ));
    }
    let heads = if item.lanes.len() == 1 { shape.kv_heads } else { 1 };
    if item.lanes.len() != 1 && item.lanes.len() != shape.kv_heads {
        return Err(invalid(
            format!("1 lane or one for each of {} KV heads", shape.kv_heads),
            format!("{} lanes", item.lanes.len()),
        ));
    }
    for lane in &item.lanes {
        if lane.layout.heads() != heads || lane.layout.head_dim() != shape.head_dim {
            return Err(invalid(
                format!("lanes of {heads} heads of {} dimensions", shape.head_dim),
                format!("{} heads of {} dimensions", lane.layout.heads(), lane.layout.head_dim()),
            ));
        }
        lane.check(OP)?;
    }
    Ok(())
}

/// Two items that share a row would be written by two threads.
fn check_disjoint(rows: &[AttentionRows<'_>]) -> Result<(), KernelError> {
    let mut ranges: Vec<(usize, usize)> =
        rows.iter().filter(|item| item.queries > 0).map(|item| (item.first_row, item.queries)).collect();
    ranges.sort_unstable();
    match ranges.windows(2).find(|pair| pair[0].0 + pair[0].1 > pair[1].0) {
        None => Ok(()),
        Some(pair) => Err(invalid(
            "items with rows of their own".to_owned(),
            format!("rows from {} and from {} overlap", pair[0].0, pair[1].0),
        )),
    }
}

fn invalid(expected: String, got: String) -> KernelError {
    KernelError::Invalid { op: OP, expected, got }
}
