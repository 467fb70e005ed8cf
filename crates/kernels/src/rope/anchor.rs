//! Sinks that keep their place before a window, on the device.

use super::renumber::Turning;
use crate::KernelError;
use crate::cuda::{
    Argument, Device, DeviceBuffer, DeviceLanes, DeviceSlice, DeviceStep, Function, Grid, LaneTables, Module,
    Source, Specialisation, kernel_struct,
};
use crate::error::{check_at_least, checked_size};

pub(crate) const SOURCE: Source = Source {
    file: "rope/anchor.cu",
    text: include_str!("anchor.cu"),
    constants: |_, _| vec![("THREADS", THREADS)],
    arguments: &[AnchorArgs::LAYOUT],
};

const OP: &str = "anchoring of sinks";
const THREADS: usize = 128;

/// Turns the keys of the first tokens on with every query, from copies of what they were born as.
#[derive(Debug)]
pub struct DeviceAnchor {
    function: Function,
    kept: DeviceBuffer<u8>,
    sinks: u32,
    first_behind: u32,
    slots: usize,
    specialisation: Specialisation,
}

kernel_struct! {
    struct AnchorArgs as AnchorArgs {
        lanes: LaneTables,
        spans: u64,
        angles: u64,
        kept: u64,
        sinks: u32,
        first_behind: u32,
        pairs: u32,
        positions: u32,
        unscale: f32,
    }
}

impl DeviceAnchor {
    /// For the first `sinks` positions of `slots` sequences, of which the query at `first_behind` is the first that does not see
    /// all of its text.
    ///
    /// # Errors
    /// A window before the sinks have come; a kernel that does not compile, no memory.
    pub fn new(
        device: &Device,
        specialisation: &Specialisation,
        (layers, slots): (usize, usize),
        (sinks, first_behind): (u32, u32),
    ) -> Result<Self, KernelError> {
        if first_behind <= sinks {
            let expected = format!("a window that begins behind the {sinks} sinks");
            return Err(KernelError::Invalid {
                op: OP,
                expected,
                got: format!("{first_behind} tokens before it"),
            });
        }
        let function = Module::load(device, &SOURCE, specialisation)?.function("anchor", 0)?;
        let Specialisation { kv_heads, head_dim, cache, .. } = *specialisation;
        let bytes = checked_size(OP, &[slots, layers, kv_heads, sinks as usize, head_dim, cache.bytes()])?;
        let kept = DeviceBuffer::zeroed(device, "the keys of sinks", bytes)?;
        Ok(Self { function, kept, sinks, first_behind, slots, specialisation: *specialisation })
    }

    /// Turns the sinks of `spans` spans of a step to where its queries look for them, before the lanes grow by it. A span has queries
    /// before the first that lacks something, or a single one. A launch; nothing of it depends on lengths.
    ///
    /// # Errors
    /// Lanes of other sizes, a table without positions, a step that is larger than its buffers.
    pub fn anchor(
        &self,
        lanes: &DeviceLanes,
        step: &DeviceStep,
        spans: usize,
        turning: Turning<'_>,
    ) -> Result<(), KernelError> {
        lanes.check(OP, &self.specialisation)?;
        check_at_least(OP, "kept sinks", lanes.slots(), self.slots)?;
        check_at_least(OP, "spans", spans, step.spans.len())?;
        turning.check(OP, 1, self.specialisation.head_dim)?;
        let argument = AnchorArgs {
            lanes: lanes.tables(),
            spans: step.spans.pointer(),
            angles: turning.table.pointer(),
            kept: self.kept.pointer(),
            sinks: self.sinks,
            first_behind: self.first_behind,
            pairs: turning.pairs as u32,
            positions: (turning.table.len() / turning.pairs.max(1)) as u32,
            unscale: 1.0 / turning.scaling,
        };
        let grid = Grid::new(lanes.layers() * self.specialisation.groups, THREADS as u32).by(spans);
        // SAFETY: the argument is the kernel's; each slot of the lanes has its part of what is kept, and positions are clamped.
        Ok(unsafe { self.function.launch(grid, &argument) }?)
    }

    /// Gives a slot what is kept of another's sinks.
    ///
    /// # Errors
    /// A slot that does not exist, a failed device.
    pub fn copy_slot(&self, from: usize, to: usize) -> Result<(), KernelError> {
        check_at_least(OP, "slots", from.max(to) + 1, self.slots)?;
        let bytes = self.kept.len() / self.slots;
        let source = DeviceSlice::new(&self.kept, from * bytes..(from + 1) * bytes)?;
        Ok(self.kept.copy_from(to * bytes, source)?)
    }
}
