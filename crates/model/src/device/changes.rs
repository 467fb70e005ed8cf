//! How much every layer changes the residual stream, for policies that share a budget among layers by it.

use dropcap_kernels::cuda::{Device, Specialisation, StepSize};
use dropcap_kernels::similarity::DeviceSimilarity;
use dropcap_policy::Stage;

use super::DeviceSegment;
use super::decoder::DeviceDecoder;
use crate::{DecoderConfig, ModelError};

/// What is known of each sequence.
#[derive(Debug)]
pub(super) struct Changes {
    kernel: DeviceSimilarity,
    slots: Vec<OfSlot>,
}

/// Of one sequence.
#[derive(Debug, Clone, Default)]
struct OfSlot {
    /// Tokens of prompts that are in the sums.
    tokens: u32,
    /// [`dropcap_policy::Ended::similarities`], since a prompt has ended.
    similarities: Vec<f64>,
}

impl Changes {
    pub(super) fn new(
        device: &Device,
        specialisation: &Specialisation,
        config: &DecoderConfig,
        (rows, slots): (usize, usize),
    ) -> Result<Self, ModelError> {
        let kernel = DeviceSimilarity::new(device, specialisation, rows, (config.layers, slots))?;
        Ok(Self { kernel, slots: vec![OfSlot::default(); slots] })
    }
}

impl DeviceDecoder {
    /// Keeps the residual stream as a layer's attention finds it.
    pub(super) fn keep_before(&self, rows: usize) -> Result<(), ModelError> {
        let changes = self.changes.as_ref();
        changes.map_or(Ok(()), |changes| Ok(changes.kernel.keep(&self.scratch.residual, rows)?))
    }

    /// Notes how similar a layer's attention left the rows of prompts.
    pub(super) fn note_change(&self, layer: usize, size: StepSize) -> Result<(), ModelError> {
        let note = |changes: &Changes| changes.kernel.add(&self.inputs, size, layer, &self.scratch.residual);
        Ok(self.changes.as_ref().map_or(Ok(()), note)?)
    }

    /// Counts the tokens that all layers have noted, and fetches what they say where a prompt ends.
    pub(super) fn learn_changes(&mut self, segments: &[DeviceSegment<'_>]) -> Result<(), ModelError> {
        let Some(Changes { kernel, slots }) = &mut self.changes else { return Ok(()) };
        for segment in segments.iter().filter(|segment| segment.stage != Stage::Behind) {
            let number = segment.slot.index() as usize;
            let slot = &mut slots[number];
            slot.tokens += u32::try_from(segment.ids.len()).unwrap_or(u32::MAX);
            if segment.stage == Stage::PromptEnd {
                let tokens = f64::from(slot.tokens.max(1));
                slot.similarities = kernel.sums(number)?.into_iter().map(|sum| sum / tokens).collect();
            }
        }
        Ok(())
    }

    /// What is known of a sequence's layers; empty where nobody asks.
    pub(super) fn similarities(&self, segment: &DeviceSegment<'_>) -> &[f64] {
        let slot = segment.slot.index() as usize;
        self.changes.as_ref().map_or(&[], |changes| &changes.slots[slot].similarities)
    }

    /// A text begins anew in a slot.
    pub(super) fn forget_changes(&mut self, slot: usize) -> Result<(), ModelError> {
        let layers = self.config().layers;
        let Some(changes) = &mut self.changes else { return Ok(()) };
        changes.slots[slot] = OfSlot::default();
        Ok(changes.kernel.set(slot, &vec![0.0; layers])?)
    }

    /// Gives a slot what is known of another's text.
    pub(super) fn copy_changes(&mut self, from: usize, to: usize) -> Result<(), ModelError> {
        let Some(changes) = &mut self.changes else { return Ok(()) };
        changes.slots[to] = changes.slots[from].clone();
        Ok(changes.kernel.set(to, &changes.kernel.sums(from)?)?)
    }
}
