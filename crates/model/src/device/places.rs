//! Keys turned by their place in the cache, for policies that ask for it.

use dropcap_kernels::cuda::{Device, DeviceBuffer, Specialisation};
use dropcap_kernels::rope::{DeviceAnchor, DeviceRenumber, Turning};
use dropcap_policy::{Needs, Stage};

use super::DeviceSegment;
use super::decoder::DeviceDecoder;
use crate::{DecoderConfig, ModelError};

/// What turns keys once more, where somebody asks for it.
#[derive(Debug)]
pub(super) struct Places {
    renumbered: Option<Renumbered>,
    anchor: Option<DeviceAnchor>,
}

/// Sequences of which what stayed of a prompt was turned to the first positions.
#[derive(Debug)]
struct Renumbered {
    kernel: DeviceRenumber,
    /// How many positions before its own each sequence's next token is turned, `[slots]`: here, and as kernels read it.
    shifts: Vec<u32>,
    on_device: DeviceBuffer<u32>,
}

impl Places {
    pub(super) fn new(
        device: &Device,
        specialisation: &Specialisation,
        config: &DecoderConfig,
        slots: usize,
        needs: Needs,
    ) -> Result<Self, ModelError> {
        let renumbered = || {
            Ok::<_, ModelError>(Renumbered {
                kernel: DeviceRenumber::new(device, specialisation, config.max_positions)?,
                shifts: vec![0; slots],
                on_device: DeviceBuffer::zeroed(device, "where texts go on", slots)?,
            })
        };
        let anchor = |anchored: dropcap_policy::Anchored| {
            // The largest number of sinks is all tokens.
            let sinks = anchored.sinks.min(u32::try_from(config.max_positions).unwrap_or(u32::MAX));
            let sizes = (config.layers, slots);
            DeviceAnchor::new(device, specialisation, sizes, (sinks, anchored.first_behind(None)))
        };
        Ok(Self {
            renumbered: needs.renumbers.then(renumbered).transpose()?,
            anchor: needs.anchored.map(anchor).transpose()?,
        })
    }
}

impl DeviceDecoder {
    /// How positions turn queries and keys, if they do.
    pub(super) fn turning(&self) -> Option<Turning<'_>> {
        let ((table, pairs), (_, scaling)) = self.rope.as_ref().zip(self.weights.rope.as_ref())?;
        Some(Turning { table, pairs: *pairs, scaling: *scaling })
    }

    /// How many positions before its own a token is turned, of every slot.
    pub(super) fn shifts(&self) -> Option<&DeviceBuffer<u32>> {
        self.places.renumbered.as_ref().map(|renumbered| &renumbered.on_device)
    }

    /// Refuses another prompt behind one that was renumbered.
    pub(super) fn check_place(&self, segment: &DeviceSegment<'_>) -> Result<(), ModelError> {
        let slot = self.number(segment.slot)?;
        let shift = self.places.renumbered.as_ref().map_or(0, |renumbered| renumbered.shifts[slot]);
        if shift > 0 && segment.stage != Stage::Behind { Err(ModelError::RenumberedBefore) } else { Ok(()) }
    }

    /// Turns sinks to where the queries of a step look for them, before the lanes grow.
    pub(super) fn anchor_sinks(&self, spans: usize) -> Result<(), ModelError> {
        if let Some((anchor, turning)) = self.places.anchor.as_ref().zip(self.turning()) {
            anchor.anchor(&self.lanes, &self.inputs, spans, turning)?;
        }
        Ok(())
    }

    /// Turns what stays behind prompts that end, once all is decided and before anything is freed.
    pub(super) fn renumber(&self, ending: &[DeviceSegment<'_>]) -> Result<(), ModelError> {
        let Some((renumbered, turning)) = self.places.renumbered.as_ref().zip(self.turning()) else {
            return Ok(());
        };
        for segment in ending {
            // Fits: the step's positions have been checked.
            let next = segment.first_position + segment.ids.len() as u32;
            renumbered.kernel.renumber(&self.lanes, segment.slot.index() as usize, next, turning)?;
        }
        Ok(())
    }

    /// Lets what comes behind prompts that ended follow on what stayed, once the others are freed.
    pub(super) fn follow_on(&mut self, ending: &[DeviceSegment<'_>]) -> Result<(), ModelError> {
        if self.places.renumbered.is_none() || ending.is_empty() {
            return Ok(());
        }
        let (lengths, per_slot) = (self.lanes.lengths()?, self.lanes_per_slot());
        let Some(renumbered) = &mut self.places.renumbered else { return Ok(()) };
        for segment in ending {
            let slot = segment.slot.index() as usize;
            let lanes = &lengths[slot * per_slot..][..per_slot];
            let first = lanes.first().copied().unwrap_or(0);
            if let Some(&other) = lanes.iter().find(|&&other| other != first) {
                return Err(ModelError::UnevenLanes { first: first as usize, other: other as usize });
            }
            renumbered.shifts[slot] = segment.first_position + segment.ids.len() as u32 - first;
        }
        Ok(renumbered.on_device.write(0, &renumbered.shifts)?)
    }

    /// A text begins anew in a slot.
    pub(super) fn forget_place(&mut self, slot: usize) -> Result<(), ModelError> {
        if let Some(Renumbered { shifts, on_device, .. }) = &mut self.places.renumbered {
            shifts[slot] = 0;
            on_device.write(slot, &[0])?;
        }
        Ok(())
    }

    /// Gives a slot what is kept of another's places beside its entries. What was renumbered is never shared.
    pub(super) fn copy_place(&self, from: usize, to: usize) -> Result<(), ModelError> {
        self.places.anchor.as_ref().map_or(Ok(()), |anchor| Ok(anchor.copy_slot(from, to)?))
    }
}
