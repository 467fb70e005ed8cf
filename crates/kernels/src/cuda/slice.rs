//! A part of a device buffer, as an operand.

use std::marker::PhantomData;
use std::ops::Range;

use bytemuck::Pod;

use super::DeviceBuffer;
use crate::KernelError;
use crate::error::check_at_least;

/// Some neighbouring elements of a [`DeviceBuffer`]: a tensor of the array that holds all parameters, say.
#[derive(Debug)]
pub struct DeviceSlice<'a, T> {
    pointer: u64,
    len: usize,
    buffer: PhantomData<&'a DeviceBuffer<T>>,
}

impl<T> Clone for DeviceSlice<'_, T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T> Copy for DeviceSlice<'_, T> {}

impl<'a, T: Pod> From<&'a DeviceBuffer<T>> for DeviceSlice<'a, T> {
    fn from(buffer: &'a DeviceBuffer<T>) -> Self {
        Self { pointer: buffer.pointer(), len: buffer.len(), buffer: PhantomData }
    }
}

impl<'a, T: Pod> DeviceSlice<'a, T> {
    /// Elements `range` of `buffer`.
    ///
    /// # Errors
    /// A range that is not inside the buffer.
    pub fn new(buffer: &'a DeviceBuffer<T>, range: Range<usize>) -> Result<Self, KernelError> {
        check_at_least("a slice of a device buffer", "the buffer", range.end.max(range.start), buffer.len())?;
        let pointer = buffer.pointer() + (range.start * size_of::<T>()) as u64;
        Ok(Self { pointer, len: range.len(), buffer: PhantomData })
    }

    /// The same memory as bytes.
    #[must_use]
    pub fn bytes(self) -> DeviceSlice<'a, u8> {
        DeviceSlice { pointer: self.pointer, len: self.len * size_of::<T>(), buffer: PhantomData }
    }

    /// The address of the first element.
    #[must_use]
    pub fn pointer(&self) -> u64 {
        self.pointer
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
