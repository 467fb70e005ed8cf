//! Which of many numbers a kernel looks at.

use super::DeviceSlice;
use crate::KernelError;
use crate::error::check_at_least;

/// Stretches of [`Marks::STRETCH`] numbers that a kernel looks at; the others are neither read nor written.
#[derive(Debug, Clone, Copy)]
pub struct Marks<'a> {
    /// A byte for each stretch.
    pub bytes: DeviceSlice<'a, u8>,
    /// The bits of which one says that its stretch is looked at.
    pub bits: u8,
}

impl Marks<'_> {
    /// Numbers of a stretch.
    pub const STRETCH: usize = 64;

    /// Address and bits for a kernel that looks at `count` numbers; without marks it looks at all.
    pub(crate) fn for_kernel(
        marks: Option<Self>,
        op: &'static str,
        count: usize,
    ) -> Result<(u64, u32), KernelError> {
        let Some(Self { bytes, bits }) = marks else { return Ok((0, 0)) };
        check_at_least(op, "the marks", count.div_ceil(Self::STRETCH), bytes.len())?;
        Ok((bytes.pointer(), u32::from(bits)))
    }
}
