//! Launches of kernels that look at the entries of a lane in the order of their positions.

use super::Score;
use super::cuda::{LANE_THREADS, Pruned};
use crate::KernelError;
use crate::cuda::{
    Argument, Device, DeviceBuffer, Function, Grid, Module, Source, Specialisation, kernel_struct,
};

pub(crate) const POOL: Source = Source {
    file: "ranking/pool.cu",
    text: concat!(include_str!("lane.cuh"), include_str!("order.cuh"), include_str!("pool.cu")),
    constants: |_, _| vec![("THREADS", LANE_THREADS)],
    arguments: &[Pruned::LAYOUT, PoolArgs::LAYOUT],
};
pub(crate) const LAG: Source = Source {
    file: "ranking/lag.cu",
    text: concat!(include_str!("lane.cuh"), include_str!("order.cuh"), include_str!("lag.cu")),
    constants: |_, _| vec![("THREADS", LANE_THREADS)],
    arguments: &[Pruned::LAYOUT, LagArgs::LAYOUT],
};

/// Numbers in which lanes are put in order, so that several are at once; at least [`Ordered::columns`] for each position.
const ROOM: usize = 8 << 20;

/// A kernel, and the room in which its blocks put lanes in order.
#[derive(Debug)]
pub(super) struct Ordered {
    score: Score,
    function: Function,
    room: DeviceBuffer<u32>,
    /// Numbers of each position that a block works with.
    columns: usize,
    /// Query heads that a sum beside an entry is over.
    members: u32,
}

kernel_struct! {
    struct PoolArgs as PoolArgs {
        pruned: Pruned,
        room: u64,
        stride: u32,
        lanes: u32,
        spans: u32,
        window: u32,
        reach: u32,
        largest: u32,
        members: u32,
    }
}

kernel_struct! {
    struct LagArgs as LagArgs {
        pruned: Pruned,
        room: u64,
        stride: u32,
        lanes: u32,
        spans: u32,
        sinks: u32,
        lag: u32,
        across: u32,
    }
}

impl Ordered {
    /// None where scores need no order.
    pub(super) fn new(
        device: &Device,
        specialisation: &Specialisation,
        score: Score,
        positions: usize,
    ) -> Result<Option<Self>, KernelError> {
        let (source, name, columns) = match score {
            Score::Window { .. } => (&POOL, "pool", 2),
            Score::Lag { .. } => (&LAG, "lag", 3),
            _ => return Ok(None),
        };
        let members = match score {
            Score::Window { apart: false, .. } => specialisation.query_heads / specialisation.kv_heads,
            _ => 1,
        };
        let what = "the scratch memory of rankings";
        let room = DeviceBuffer::uninitialized(device, what, ROOM.max(columns * positions))?;
        let function = Module::load(device, source, specialisation)?.function(name, 0)?;
        Ok(Some(Self { score, function, room, columns, members: members as u32 }))
    }

    /// Makes scores of what stands beside the entries of `lanes` lanes of each of `spans` spans, of at most `tokens` tokens. The
    /// caller has checked what `pruned` names.
    pub(super) fn score(
        &self,
        pruned: Pruned,
        (lanes, spans): (usize, usize),
        tokens: usize,
    ) -> Result<(), KernelError> {
        let stride = tokens.max(1);
        let blocks = (self.room.len() / (self.columns * stride)).min(lanes * spans);
        let (grid, room) = (Grid::new(blocks, LANE_THREADS as u32), self.room.pointer());
        let (stride, lanes, spans, members) = (stride as u32, lanes as u32, spans as u32, self.members);
        match self.score {
            Score::Window { window, kernel, largest, .. } => {
                let (reach, largest) = (kernel / 2, u32::from(largest));
                let argument =
                    PoolArgs { pruned, room, stride, lanes, spans, window, reach, largest, members };
                // SAFETY: the argument is the kernel's; each block has its own part of the room, and there is room for one at least.
                Ok(unsafe { self.function.launch(grid, &argument) }?)
            }
            Score::Lag { sinks, lag, across } => {
                let (lag, across) = (lag.max(1), u32::from(across));
                let argument = LagArgs { pruned, room, stride, lanes, spans, sinks, lag, across };
                // SAFETY: as above.
                Ok(unsafe { self.function.launch(grid, &argument) }?)
            }
            _ => Ok(()),
        }
    }
}
