//! The inputs of one step as they lie on the device: which rows, of which sequences.

use super::{CudaError, Device, DeviceBuffer, DeviceSpan, Row};

/// Room for the inputs of a step; a step uses the front of each buffer.
#[derive(Debug)]
pub struct DeviceStep {
    /// New tokens `[rows]`.
    pub rows: DeviceBuffer<Row>,
    /// Sequences `[spans]`.
    pub spans: DeviceBuffer<DeviceSpan>,
    /// Per layer, where each lane's pages begin if all lanes of the step lie one after the other, and where the last
    /// ends: u32 `[layers][max_spans * groups + 1]`. Lane i of a layer is `(span i / groups, group i % groups)`.
    pub first_pages: DeviceBuffer<u32>,
    /// Most spans of a step.
    pub max_spans: usize,
}

/// How much of a [`DeviceStep`] one step uses, padding included.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StepSize {
    /// Rows.
    pub rows: usize,
    /// Spans.
    pub spans: usize,
}

impl DeviceStep {
    /// Room for steps of `max_rows` tokens of `max_spans` sequences.
    ///
    /// # Errors
    /// No such memory on the device.
    pub fn new(
        device: &Device,
        layers: usize,
        groups: usize,
        max_rows: usize,
        max_spans: usize,
    ) -> Result<Self, CudaError> {
        let what = "the inputs of a step";
        Ok(Self {
            rows: DeviceBuffer::zeroed(device, what, max_rows)?,
            spans: DeviceBuffer::zeroed(device, what, max_spans)?,
            first_pages: DeviceBuffer::zeroed(device, what, layers * (max_spans * groups + 1))?,
            max_spans,
        })
    }
}
