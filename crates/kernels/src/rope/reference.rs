//! The oracle: each pair turned in f64 by the f32 angle.

use super::RopeTable;

/// One head, in place.
pub(super) fn rope(head: &[f32], position: u32, table: &RopeTable) -> Vec<f64> {
    let mut out: Vec<f64> = head.iter().map(|&x| f64::from(x)).collect();
    let half = table.inv_freq.len();
    for (i, &frequency) in table.inv_freq.iter().enumerate() {
        let (sin, cos) = f64::from(position as f32 * frequency).sin_cos();
        let (a, b) = (f64::from(head[i]), f64::from(head[i + half]));
        out[i] = (a * cos - b * sin) * f64::from(table.attention_scaling);
        out[i + half] = (b * cos + a * sin) * f64::from(table.attention_scaling);
    }
    out
}
