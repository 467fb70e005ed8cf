//! `tova`: what the newest query looks at, one answer for all heads.

use super::reduction::layer_mean;

/// The mean probability over all query heads of the layer: per KV head the mass `[group, n]` of the last query -> `[n]`,
/// for all KV heads alike. h n operations.
///
/// Oren, Hassid, Yarden, Adi, Schwartz 2024, arXiv 2401.06104, section 4; `TOVACache.reduce`. The original lets the newest
/// entry go when its own query looks elsewhere; kvpress `TOVAPress` protects it. That is a floor, and not decided here.
#[must_use]
pub fn tova(masses: &[&[f32]], group: usize) -> Vec<f32> {
    layer_mean(masses, group)
}
