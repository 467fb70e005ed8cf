//! A part of a device buffer, as an operand.

use std::marker::PhantomData;
use std::ops::Range;

use bytemuck::Pod;

use super::{DeviceBuffer, Place};
use crate::KernelError;
use crate::error::check_at_least;

/// Some neighbouring elements of a [`DeviceBuffer`]: a tensor of the array that holds all parameters, say.
#[derive(Debug)]
pub struct DeviceSlice<'a, T> {
    place: Place<'a>,
    len: usize,
    element: PhantomData<T>,
}

impl<T> Clone for DeviceSlice<'_, T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T> Copy for DeviceSlice<'_, T> {}

impl<'a, T: Pod> From<&'a DeviceBuffer<T>> for DeviceSlice<'a, T> {
    fn from(buffer: &'a DeviceBuffer<T>) -> Self {
        Self { place: buffer.place(0), len: buffer.len(), element: PhantomData }
    }
}

impl<'a, T: Pod> DeviceSlice<'a, T> {
    /// Elements `range` of `buffer`.
    ///
    /// # Errors
    /// A range that is not inside the buffer.
    pub fn new(buffer: &'a DeviceBuffer<T>, range: Range<usize>) -> Result<Self, KernelError> {
        check_at_least("a slice of a device buffer", "the buffer", range.end.max(range.start), buffer.len())?;
        Ok(Self { place: buffer.place(range.start), len: range.len(), element: PhantomData })
    }

    /// The same memory as bytes.
    #[must_use]
    pub fn bytes(self) -> DeviceSlice<'a, u8> {
        DeviceSlice { place: self.place, len: self.len * size_of::<T>(), element: PhantomData }
    }

    /// The address of the first element, to be used at once: see [`DeviceBuffer::pointer`].
    #[must_use]
    pub fn pointer(&self) -> u64 {
        self.place.pointer()
    }

    /// Where the first element lies.
    pub(crate) fn place(&self) -> Place<'a> {
        self.place
    }

    /// Number of elements.
    #[must_use]
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }
}
