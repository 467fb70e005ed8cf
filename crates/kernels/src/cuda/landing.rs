//! Where other processes write pieces of sums to, and how those are added to this one's.

use std::cell::Cell;

use cudarc::driver::sys::CUstream;

use super::{
    Argument, CudaError, Device, DeviceBuffer, Function, Grid, Module, Source, Specialisation, kernel_struct,
};

/// The kernel file.
pub(super) const SOURCE: Source = Source {
    file: "cuda/landing.cu",
    text: include_str!("landing.cu"),
    constants: |_, _| vec![("LANDING_THREADS", THREADS as usize)],
    arguments: &[Landed::LAYOUT],
};

const THREADS: u32 = 256;
/// Numbers that arrive in one round from all other processes together.
const ROOM: usize = 8 << 20;
/// While one round is added, the next one arrives.
const ROUNDS: usize = 2;
/// Where what arrives begins, in numbers.
const ALIGNMENT: usize = 4;

kernel_struct! {
    struct Landed as Landed {
        from: u64,
        to: u64,
        count: u64,
        stride: u64,
        parts: u32,
    }
}

/// Room for what the others bring to a sum, as large in every process.
#[derive(Debug)]
pub(super) struct Landing {
    pub(super) room: DeviceBuffer<f32>,
    add: Function,
    /// Numbers of each other process in a round.
    each: usize,
    others: usize,
    multiprocessors: usize,
    round: Cell<usize>,
}

/// A part of the pieces of a sum that goes in one round.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Part {
    /// Which sum, and where in each of its pieces.
    pub(super) sum: usize,
    pub(super) first: usize,
    pub(super) count: usize,
    /// Where among what a process brings in this round.
    pub(super) at: usize,
}

impl Landing {
    /// Room in a world of `size` processes; none where there is one.
    pub(super) fn new(device: &Device, size: usize) -> Result<Self, CudaError> {
        let others = size.saturating_sub(1);
        let each = ROOM / others.max(1) / ALIGNMENT * ALIGNMENT;
        let room =
            DeviceBuffer::zeroed(device, "what other processes bring to sums", ROUNDS * others * each)?;
        let add = Module::load(device, &SOURCE, &Specialisation::NEUTRAL)?.function("add_landed", 0)?;
        let multiprocessors = device.facts().multiprocessors as usize;
        Ok(Self { room, add, each, others, multiprocessors, round: Cell::new(0) })
    }

    /// The rounds in which the pieces of sums go, of which each has so many numbers.
    pub(super) fn rounds(&self, pieces: &[usize]) -> Vec<Vec<Part>> {
        rounds(pieces, self.each)
    }

    /// Bytes from the beginning of a process's room to where this round's numbers of the `index`-th of its others lie.
    pub(super) fn place(&self, index: usize, part: &Part) -> u64 {
        let numbers = (self.round.get() * self.others + index) * self.each + part.at;
        (numbers * size_of::<f32>()) as u64
    }

    /// Adds what came in this round to this process's own numbers, on a stream that has waited for it.
    ///
    /// # Safety
    /// `to` are the part's numbers; the stream is alive.
    pub(super) unsafe fn add(&self, part: &Part, to: u64, stream: CUstream) -> Result<(), CudaError> {
        let argument = Landed {
            from: self.room.pointer() + self.place(0, part),
            to,
            count: part.count as u64,
            stride: self.each as u64,
            parts: self.others as u32,
        };
        let blocks = part.count.div_ceil(4 * THREADS as usize).min(2 * self.multiprocessors);
        // SAFETY: the caller's promise; the room has that part of every other process.
        unsafe { self.add.launch_on(stream, Grid::new(blocks, THREADS), &argument) }
    }

    /// What comes now goes elsewhere: what was before has come to all, who add it before they bring what follows.
    pub(super) fn next_round(&self) {
        self.round.set((self.round.get() + 1) % ROUNDS);
    }
}

/// Cuts pieces of so many numbers each into rounds of at most `room`.
fn rounds(pieces: &[usize], room: usize) -> Vec<Vec<Part>> {
    let (mut all, mut round, mut at) = (Vec::new(), Vec::new(), 0);
    for (sum, &length) in pieces.iter().enumerate() {
        let mut first = 0;
        while first < length {
            if at == room {
                all.push(std::mem::take(&mut round));
                at = 0;
            }
            let count = (length - first).min(room - at);
            round.push(Part { sum, first, count, at });
            first += count;
            at = (at + count).next_multiple_of(ALIGNMENT);
        }
    }
    if !round.is_empty() {
        all.push(round);
    }
    all
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::cuda::testing;

    proptest! {
        #[test]
        fn every_number_of_a_piece_goes_once_and_rounds_fit(
            pieces in prop::collection::vec(0_usize..500, 0..9), room in 1_usize..40,
        ) {
            let room = room * ALIGNMENT;
            let mut next = vec![0; pieces.len()];
            for round in rounds(&pieces, room) {
                prop_assert!(!round.is_empty());
                let mut end = 0;
                for Part { sum, first, count, at } in round {
                    prop_assert!(count > 0 && at >= end && at % ALIGNMENT == 0 && at + count <= room);
                    prop_assert_eq!(first, next[sum]);
                    next[sum] += count;
                    end = at + count;
                }
            }
            prop_assert_eq!(next, pieces);
        }
    }

    #[test]
    fn cuda_what_has_landed_is_added_in_turn() {
        let Some(device) = testing::device("what has landed is added in turn") else { return };
        let landing = Landing::new(&device, 4).unwrap();
        for (turn, count) in [1, 77, 300_001].into_iter().enumerate() {
            let part = Part { sum: 0, first: 0, count, at: 8 };
            let own: Vec<f32> = (0..count).map(|i| i as f32).collect();
            let to = DeviceBuffer::copy_of(&device, "a test", &own).unwrap();
            for other in 0..3 {
                let brought: Vec<f32> = (0..count).map(|i| (i * other + turn) as f32 * 0.5).collect();
                let first = landing.place(other, &part) as usize / size_of::<f32>();
                landing.room.write(first, &brought).unwrap();
            }
            let address = to.pointer();
            let stream = device.queue().unwrap().stream();
            // SAFETY: these are the part's numbers, and the stream is the device's.
            unsafe { landing.add(&part, address, stream) }.unwrap();
            let want: Vec<f32> = (0..count).map(|i| i as f32 + 1.5 * (i + turn) as f32).collect();
            assert_eq!(to.read().unwrap(), want, "{count} numbers");
            landing.next_round();
        }
    }
}
