//! Numbers that a cache of 16-bit formats or codes cannot hold.

/// The first number that became infinite when it was rounded to the format of the cache, or whose group of codes would have such steps: whatever attends to its
/// entry, or decides by it, is wrong from then on.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Overflow {
    /// `key`, `value` or `side channel`.
    pub(crate) what: &'static str,
    /// Position of its token.
    pub(crate) position: u32,
    /// What it was.
    pub(crate) number: f32,
}

/// The bits of an f32 beside its sign.
const MAGNITUDE: u32 = 0x7fff_ffff;

/// The first of `count` rows `[width]`, `stride` apart, with a number whose magnitude has bits of an f32 from `limit` on
/// ([`KvFormat::infinite_from`](dropcap_kernels::KvFormat::infinite_from)), and that number. The rows are there.
///
/// Magnitudes are compared as integers, which is vector code without branches: one operation for each number, where the
/// product that made it took as many as the model is wide. For f32 nothing is read.
pub(crate) fn first_outside(
    limit: u32,
    rows: &[f32],
    count: usize,
    width: usize,
    stride: usize,
) -> Option<(usize, f32)> {
    if limit == f32::INFINITY.to_bits() {
        return None;
    }
    (0..count).find_map(|row| {
        let numbers = rows.get(row * stride..)?.get(..width)?;
        let largest = numbers.iter().map(|number| number.to_bits() & MAGNITUDE).fold(0, u32::max);
        let outside = |number: &&f32| number.to_bits() & MAGNITUDE >= limit;
        (largest >= limit).then(|| numbers.iter().find(outside).map(|&number| (row, number)))?
    })
}
