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
        let mut states = vec![SlotState::default(); slots.len()];
        for (slot, state) in slots.iter().zip(&mut states) {
            let mut done = 0;
            while done < tokens {
                let count = room.min(tokens - done);
                let first = first_position + done as u32;
                self.reserve(state, count)?;
                *state = self.fill_chunk(slot.index(), first, count)?;
                done += count;
            }
        }
        self.peak_pages = self.peak_pages.max(self.capacity() - self.free_pages);
        Ok(states)
    }

    /// Refuses a chunk that the pool cannot hold before anything is freed.
    fn reserve(&self, state: &SlotState, count: usize) -> Result<(), ModelError> {
        let lanes = self.config().layers * self.groups();
        let wanted = state.wanted + lanes * count.saturating_sub(1).div_ceil(dropcap_kernels::PAGE_ENTRIES);
        if wanted > self.free_pages {
            let bytes = self.page_bytes();
            let error = dropcap_cache::CacheError::PoolExhausted {
                limit: self.capacity() * bytes,
                held: (self.capacity() - self.free_pages) * bytes,
                wanted: wanted * bytes,
            };
            return Err(error.into());
        }
        Ok(())
    }

    fn fill_chunk(&mut self, slot: u32, first_position: u32, count: usize) -> Result<SlotState, ModelError> {
        let queries = count as u32;
        let row = |i: u32| Row { slot, token: 0, position: first_position + i, back: queries - i };
        let rows: Vec<Row> = (0..queries).map(row).collect();
        self.inputs.rows.write(0, &rows)?;
        self.inputs.spans.write(0, &[DeviceSpan { slot, first_row: 0, queries, first_position }])?;
        let size = StepSize { rows: count, spans: 1 };
        self.kernels.lifetimes.grow(self.lanes.tables(), &self.inputs, size)?;
        for layer in 0..self.config().layers {
            self.enter(layer, size)?;
        }
        self.reclaim(size)?;
        let status = self.status.read()?;
        self.free_pages = status[0] as usize;
        Ok(super::step::state(&status, 0))
    }
}
