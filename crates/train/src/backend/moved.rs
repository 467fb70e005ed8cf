//! Whether a step was large enough to see.

/// Parameters that are looked at for whether a step moves them.
pub(crate) const SAMPLE: usize = 4096;
/// Share of the parameters' size that a step must have to move them: a tenth of what f32 can tell apart. Those that are
/// zero are moved by anything.
const LEAST_MOVE: f64 = 6e-9;

/// How far apart those that are looked at stand among `count`.
pub(crate) fn apart(count: usize) -> usize {
    count.div_ceil(SAMPLE).max(1)
}

/// Whether a sample differs from the one before as far as f32 could tell.
pub(crate) fn has_moved(before: &[f32], after: &[f32]) -> bool {
    let size: f64 = before.iter().map(|&value| f64::from(value.abs())).sum();
    let moved: f64 = before.iter().zip(after).map(|(&a, &b)| (f64::from(a) - f64::from(b)).abs()).sum();
    moved > LEAST_MOVE * size
}
