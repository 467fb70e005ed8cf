//! What a call must satisfy before any kernel runs.

use super::{GatedShape, Pressure, Rule, Voter};
use crate::KernelError;
use crate::error::{check_length, checked_size};

const OP: &str = "gated_attention";

/// Positions are compared as f32, which is exact below this.
const LONGEST: usize = 1 << 24;

/// Refuses shapes that no slices could have, and operands of other lengths.
pub(super) fn inputs(
    shape: &GatedShape,
    rule: Rule<'_>,
    voters: &[Voter<'_>],
    qkv: &[f32],
    stride: usize,
) -> Result<(), KernelError> {
    let heads = &shape.attention;
    if heads.kv_heads == 0
        || heads.head_dim == 0
        || heads.query_heads == 0
        || !heads.query_heads.is_multiple_of(heads.kv_heads)
    {
        return Err(invalid(
            "query heads that are a multiple of the KV heads, and at least 1 dimension".to_owned(),
            format!(
                "{} query heads, {} KV heads, {} dimensions",
                heads.query_heads, heads.kv_heads, heads.head_dim
            ),
        ));
    }
    if !heads.scale.is_finite() {
        return Err(invalid("a finite scale".to_owned(), heads.scale.to_string()));
    }
    if shape.tokens >= LONGEST {
        return Err(invalid(format!("fewer than {LONGEST} tokens"), shape.tokens.to_string()));
    }
    if shape.sliding_window == Some(0) {
        return Err(invalid("a sliding window of at least 1".to_owned(), "0".to_owned()));
    }
    let rows = checked_size(OP, &[shape.sequences, shape.tokens])?;
    let columns = checked_size(OP, &[heads.query_heads.saturating_add(2 * heads.kv_heads), heads.head_dim])?;
    if stride < columns {
        return Err(invalid(format!("a stride of at least {columns}"), stride.to_string()));
    }
    check_length(OP, "qkv", checked_size(OP, &[rows, stride])?, qkv.len())?;
    if voters.is_empty() {
        return Ok(());
    }
    let (gate_heads, width) = (shape.gate_heads, shape.gate_width);
    if width == 0 || (gate_heads != 1 && gate_heads != heads.kv_heads) {
        return Err(invalid(
            format!("1 gate head or {}, of a width of at least 1", heads.kv_heads),
            format!("{gate_heads} of width {width}"),
        ));
    }
    if shape.recent == 0 {
        return Err(invalid("at least 1 recent token, the query's own".to_owned(), "0".to_owned()));
    }
    let gates = checked_size(OP, &[rows, gate_heads, width])?;
    for voter in voters {
        check_length(OP, "query_gates", gates, voter.query_gates.len())?;
        check_length(OP, "key_gates", gates, voter.key_gates.len())?;
        check_length(OP, "bias", gate_heads, voter.bias.len())?;
    }
    if let Rule::Hard { noise } = rule {
        if voters.len() > 1 {
            return Err(invalid("one voter under the hard rule".to_owned(), voters.len().to_string()));
        }
        if let Some(noise) = noise {
            check_length(OP, "noise", checked_size(OP, &[rows, gate_heads])?, noise.len())?;
        }
    }
    Ok(())
}

/// Refuses a pressure of the other rule.
pub(super) fn pressure(
    shape: &GatedShape,
    rule: Rule<'_>,
    voters: usize,
    pressure: Pressure<'_>,
) -> Result<(), KernelError> {
    match (rule, pressure) {
        _ if voters == 0 => Ok(()),
        (Rule::Soft { .. }, Pressure::Soft { .. }) => Ok(()),
        (Rule::Hard { .. }, Pressure::Hard { lambda }) => {
            check_length(OP, "lambda", shape.gate_heads, lambda.len())
        }
        (Rule::Soft { .. }, _) => Err(invalid("a soft pressure".to_owned(), "a hard one".to_owned())),
        (Rule::Hard { .. }, _) => Err(invalid("a hard pressure".to_owned(), "a soft one".to_owned())),
    }
}

pub(super) fn length(what: &'static str, expected: usize, got: usize) -> Result<(), KernelError> {
    check_length(OP, what, expected, got)
}

pub(super) fn invalid(expected: String, got: String) -> KernelError {
    KernelError::Invalid { op: OP, expected, got }
}
