//! Caches as a long text would leave them, without computing the text: for measuring at depth.

use dropcap_kernels::cuda::{DeviceSpan, Row, StepSize};
use dropcap_kernels::matmul::DeviceRandom;

use super::decoder::DeviceDecoder;
use super::{Slot, SlotState};
use crate::ModelError;

impl DeviceDecoder {
    /// Appends `tokens` tokens of random keys and values at `first_position` to every layer of each sequence; the
    /// policy decides as ever, over random hidden states, and what it drops is freed. Gives the state of each slot.
    /// Only time and memory of later steps mean anything.
    ///
    /// # Errors
    /// A text longer than the model's positions, a pool that is too small, or a failed device.
    pub fn fill(
        &mut self,
        slots: &[&Slot],
        first_position: u32,
        tokens: usize,
    ) -> Result<Vec<SlotState>, ModelError> {
        let end = first_position as usize + tokens;
        let limit = self.config().max_positions;
        if end > limit {
            return Err(ModelError::TooManyPositions { wanted: end, limit });
        }
        self.clear_left()?;
        let room = self.inputs.rows.len();
        let random = DeviceRandom::new(&self.weights.device, self.lanes.specialisation())?;
        let (qkv, dtype) = (&self.scratch.qkv, self.weights.dtype);
        random.fill(qkv, dtype, qkv.len() / dtype.bytes(), 1.0, 1)?;
        if let Some(gates) = &self.scratch.gates {
            random.fill_f32(gates, 1.0, 2)?;
        }
        for slot in slots {
            let number = self.number(slot)?;
            for done in (0..tokens).step_by(room.max(1)) {
                let count = room.min(tokens - done);
                self.check_pages(&[(number, count)])?;
                self.fill_chunk(slot.index(), first_position + done as u32, count)?;
            }
        }
        self.peak_pages = self.peak_pages.max(self.capacity() - self.free_pages);
        slots.iter().map(|slot| self.state(slot)).collect()
    }

    fn fill_chunk(&mut self, slot: u32, first_position: u32, count: usize) -> Result<(), ModelError> {
        let queries = count as u32;
        let row = |i: u32| Row { slot, token: 0, position: first_position + i, back: queries - i };
        let rows: Vec<Row> = (0..queries).map(row).collect();
        self.inputs.rows.write(0, &rows)?;
        self.inputs.spans.write(0, &[DeviceSpan { slot, first_row: 0, queries, first_position }])?;
        let size = StepSize { rows: count, spans: 1 };
        self.kernels.lifetimes.grow(&self.lanes, &self.inputs, size)?;
        // The kernels of a layer look at lengths and tables before they wait for the one before them. In a step the
        // embedding's ordinary launch stands between; here is none.
        self.weights.device.synchronize()?;
        for layer in 0..self.config().layers {
            self.enter(layer, size)?;
        }
        self.reclaim(size)?;
        let status = self.status.read()?;
        self.note(&[slot as usize], &status)
    }
}
