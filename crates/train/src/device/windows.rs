//! Lifetimes that positions alone decide, on the device.

use dropcap_kernels::KernelError;
use dropcap_kernels::cuda::{Device, DeviceBuffer};
use dropcap_policy::Floors;

use crate::network::Pruning;

/// The lifetimes of the floors that were met, u32 `[b, 1, T]` each.
#[derive(Debug, Default)]
pub(super) struct Windows(Vec<(Floors, DeviceBuffer<u32>)>);

impl Windows {
    /// Makes room for what a pass of `sequences` of `tokens` will ask for; nothing where it was asked before.
    pub(super) fn prepare(
        &mut self,
        device: &Device,
        [sequences, tokens]: [usize; 2],
        pruning: &Pruning<'_>,
    ) -> Result<(), KernelError> {
        let Pruning::Windows { floors } = pruning else { return Ok(()) };
        for &floors in *floors {
            if sees_all(floors, tokens) || self.of(floors).is_some() {
                continue;
            }
            let sequence = (0..tokens as u32).map(|position| floors.of(position));
            let ends: Vec<u32> = (0..sequences).flat_map(|_| sequence.clone()).collect();
            self.0.push((floors, DeviceBuffer::copy_of(device, "lifetimes", &ends)?));
        }
        Ok(())
    }

    /// The lifetimes of floors; none where everything is seen.
    pub(super) fn of(&self, floors: Floors) -> Option<&DeviceBuffer<u32>> {
        self.0.iter().find(|(own, _)| *own == floors).map(|(_, ends)| ends)
    }
}

fn sees_all(floors: Floors, tokens: usize) -> bool {
    floors.recent as usize >= tokens
}
