//! Keys turned to consecutive positions, on the device.

use crate::KernelError;
use crate::cuda::{
    Argument, Device, DeviceBuffer, DeviceLanes, Function, Grid, LaneTables, Module, Source, Specialisation,
    kernel_struct,
};
use crate::error::check_at_least;

pub(crate) const SOURCE: Source = Source {
    file: "rope/renumber.cu",
    text: concat!(
        include_str!("../ranking/lane.cuh"),
        include_str!("../ranking/order.cuh"),
        include_str!("renumber.cu")
    ),
    constants: |_, _| vec![("THREADS", THREADS)],
    arguments: &[RenumberArgs::LAYOUT],
};

const OP: &str = "renumbering";
const THREADS: usize = 256;
/// Numbers in which lanes are put in order, so that several are at once; at least one for each position.
const ROOM: usize = 4 << 20;

/// How positions turn keys.
#[derive(Debug, Clone, Copy)]
pub struct Turning<'a> {
    /// Cosines and sines of every position, `[positions, pairs]`.
    pub table: &'a DeviceBuffer<[f32; 2]>,
    /// Pairs of numbers of a head that are turned.
    pub pairs: usize,
    /// The factor of all cosines and sines.
    pub scaling: f32,
}

impl Turning<'_> {
    /// Refuses tables of fewer positions, or of more pairs than a head has.
    pub(crate) fn check(
        &self,
        op: &'static str,
        positions: usize,
        head_dim: usize,
    ) -> Result<(), KernelError> {
        check_at_least(op, "angles", positions * self.pairs, self.table.len())?;
        check_at_least(op, "numbers of a head", 2 * self.pairs, head_dim)
    }
}

/// Turns what stays of a prompt to the first positions of a text.
#[derive(Debug)]
pub struct DeviceRenumber {
    function: Function,
    room: DeviceBuffer<u32>,
    specialisation: Specialisation,
}

kernel_struct! {
    struct RenumberArgs as RenumberArgs {
        lanes: LaneTables,
        angles: u64,
        room: u64,
        slot: u32,
        next: u32,
        stride: u32,
        pairs: u32,
        unscale: f32,
    }
}

impl DeviceRenumber {
    /// For sequences of at most `positions` tokens.
    ///
    /// # Errors
    /// A kernel that does not compile, no memory.
    pub fn new(
        device: &Device,
        specialisation: &Specialisation,
        positions: usize,
    ) -> Result<Self, KernelError> {
        let function = Module::load(device, &SOURCE, specialisation)?.function("renumber", 0)?;
        let room = DeviceBuffer::uninitialized(device, "the order of what stays", ROOM.max(positions))?;
        Ok(Self { function, room, specialisation: *specialisation })
    }

    /// Turns the key of the i-th entry that the query at `next` sees, in each lane of a slot, from its position to i. Every token
    /// before `next` must be an entry still, seen or not, and none have been turned before. A launch.
    ///
    /// # Errors
    /// A slot that does not exist; more tokens than it was made for, or than there are angles of.
    pub fn renumber(
        &self,
        lanes: &DeviceLanes,
        slot: usize,
        next: u32,
        turning: Turning<'_>,
    ) -> Result<(), KernelError> {
        lanes.check(OP, &self.specialisation)?;
        check_at_least(OP, "slots", slot + 1, lanes.slots())?;
        check_at_least(OP, "tokens", next as usize, self.room.len())?;
        turning.check(OP, next as usize, self.specialisation.head_dim)?;
        let stride = (next as usize).max(1);
        let argument = RenumberArgs {
            lanes: lanes.tables(),
            angles: turning.table.pointer(),
            room: self.room.pointer(),
            slot: slot as u32,
            next,
            stride: stride as u32,
            pairs: turning.pairs as u32,
            unscale: 1.0 / turning.scaling,
        };
        let blocks = (self.room.len() / stride).min(lanes.layers() * self.specialisation.groups);
        // SAFETY: the argument is the kernel's; its slot exists, and each block has its own part of the room.
        Ok(unsafe { self.function.launch(Grid::new(blocks, THREADS as u32), &argument) }?)
    }
}
