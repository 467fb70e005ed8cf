//! Deaths that spread to the layer above within a step.

use crate::KernelError;
use crate::cuda::{
    Argument, Device, DeviceBuffer, DeviceLanes, DeviceStep, Function, Grid, LaneTables, Module, Source,
    Specialisation, StepSize, kernel_struct,
};
use crate::error::checked_size;
use crate::lifetimes::Floors;

pub(crate) const SOURCE: Source = Source {
    file: "lifetimes/inherit.cu",
    text: include_str!("inherit.cu"),
    constants: |_, _| vec![("INHERIT_THREADS", THREADS)],
    arguments: &[Arguments::LAYOUT],
};

const THREADS: usize = 512;
const OP: &str = "inherit";

/// Ends entries that have ended in the layer below, and remembers for the layer above.
///
/// The contract is that of `dcp` with `propagate_in_depth` in the methods crate, its twin on the CPU, for one lane per
/// layer and a model without sliding windows.
#[derive(Debug)]
pub struct DeviceInherit {
    inherit: Function,
    /// `[2][slots][positions]`
    fates: DeviceBuffer<[u32; 2]>,
    slots: usize,
    positions: usize,
    specialisation: Specialisation,
}

kernel_struct! {
    struct Arguments as InheritArgs {
        lanes: LaneTables,
        spans: u64,
        fates: u64,
        layer: u32,
        positions: u32,
        floors: Floors,
    }
}

impl DeviceInherit {
    /// For lanes of `slots` sequences at positions below `positions`.
    ///
    /// # Errors
    /// More than one lane per layer; no memory; a kernel that does not compile.
    pub fn new(
        device: &Device,
        specialisation: &Specialisation,
        slots: usize,
        positions: usize,
    ) -> Result<Self, KernelError> {
        if specialisation.groups != 1 {
            let (expected, got) = ("one lane per layer".to_owned(), specialisation.groups.to_string());
            return Err(KernelError::Invalid { op: OP, expected, got });
        }
        let module = Module::load(device, &SOURCE, specialisation)?;
        let count = checked_size(OP, &[2, slots, positions])?;
        let fates = DeviceBuffer::uninitialized(device, "deaths that spread between layers", count)?;
        fates.fill_bytes(0xff)?;
        Ok(Self {
            inherit: module.function("inherit", 0)?,
            fates,
            slots,
            positions,
            specialisation: *specialisation,
        })
    }

    /// Follows the votes of `layer`; layers come in order. Floors are (sinks, recent). A launch.
    ///
    /// # Errors
    /// Lanes that it was not made for.
    pub fn inherit(
        &self,
        lanes: &DeviceLanes,
        step: &DeviceStep,
        size: StepSize,
        layer: usize,
        floors: (u32, u32),
    ) -> Result<(), KernelError> {
        lanes.check(OP, &self.specialisation)?;
        if lanes.slots() > self.slots || size.spans > step.spans.len() {
            let expected = format!("at most {} slots and {} spans", self.slots, step.spans.len());
            let got = format!("{} slots, {} spans", lanes.slots(), size.spans);
            return Err(KernelError::Invalid { op: OP, expected, got });
        }
        let arguments = Arguments {
            lanes: lanes.tables(),
            spans: step.spans.pointer(),
            fates: self.fates.pointer(),
            layer: layer as u32,
            positions: self.positions as u32,
            floors: Floors { sinks: floors.0, recent: floors.1 },
        };
        // SAFETY: the argument is the kernel's, with room for the fates of all slots; it passes over other positions.
        Ok(unsafe { self.inherit.launch(Grid::new(size.spans, THREADS as u32).early(), &arguments) }?)
    }
}
