//! One micro-batch of a step on the device, and what comes back of it.

use dropcap_kernels::cuda::{DeviceBuffer, PinnedBuffer};
use dropcap_kernels::embedding::TokenRows;
use dropcap_kernels::training::KeptSums;
use dropcap_kernels::{KernelError, RowLoss};

use super::head::rows_of;
use super::kernels::Kernels;
use crate::network::{Loss, Pressure};

/// Memory of one micro-batch that outlives its pass: what was sent, and what is fetched once the step has been computed.
#[derive(Debug)]
pub(super) struct Part {
    pub(super) batch: TokenRows,
    pub(super) targets: DeviceBuffer<u32>,
    pub(super) losses: DeviceBuffer<f32>,
    pub(super) kept: KeptSums,
    /// f64 `[G, 2]` of each layer.
    pub(super) margins: Vec<DeviceBuffer<f64>>,
    /// Sums of I without and with the last query under soft votes, f64 `[layers, 2]`.
    pub(super) survival: DeviceBuffer<f64>,
    sent: PinnedBuffer<u32>,
    fetched_losses: PinnedBuffer<f32>,
    fetched_kept: PinnedBuffer<f64>,
    fetched_margins: Vec<PinnedBuffer<f64>>,
    fetched_survival: PinnedBuffer<f64>,
    /// Lanes that each layer's lifetimes have in all sequences; 0 where it keeps everything.
    pub(super) lanes: Vec<usize>,
}

impl Part {
    /// Room for `rows` tokens, what `places` layers keep, and the margins of `layers` of `heads` gates each.
    pub(super) fn new(
        kernels: &Kernels,
        rows: usize,
        places: usize,
        [layers, heads]: [usize; 2],
    ) -> Result<Self, KernelError> {
        let device = &kernels.device;
        let kept = KeptSums::new(device, places)?;
        let margin = || DeviceBuffer::zeroed(device, "what gates met", 2 * heads);
        Ok(Self {
            batch: TokenRows::new(device, rows)?,
            targets: DeviceBuffer::zeroed(device, "targets", rows)?,
            losses: DeviceBuffer::zeroed(device, "losses", RowLoss::NUMBERS * rows)?,
            margins: (0..layers).map(|_| margin()).collect::<Result<_, _>>()?,
            survival: DeviceBuffer::zeroed(device, "sums of votes", 2 * places)?,
            fetched_survival: PinnedBuffer::zeroed(device, 2 * places)?,
            sent: PinnedBuffer::zeroed(device, rows)?,
            fetched_losses: PinnedBuffer::zeroed(device, RowLoss::NUMBERS * rows)?,
            fetched_kept: PinnedBuffer::zeroed(device, kept.partials().len())?,
            fetched_margins: (0..layers)
                .map(|_| PinnedBuffer::zeroed(device, 2 * heads))
                .collect::<Result<_, _>>()?,
            lanes: vec![0; places],
            kept,
        })
    }

    /// Sends tokens and targets without waiting; what was sent before has been waited for.
    pub(super) fn send(
        &mut self,
        ids: &[u32],
        targets: &[u32],
        vocabulary: usize,
    ) -> Result<(), KernelError> {
        self.batch.set(ids, vocabulary)?;
        self.sent.write(targets);
        Ok(self.targets.write_pinned(&self.sent)?)
    }

    /// Asks for what the pass came to, without waiting for it.
    pub(super) fn fetch(&mut self) -> Result<(), KernelError> {
        self.losses.read_pinned(&mut self.fetched_losses)?;
        self.kept.partials().read_pinned(&mut self.fetched_kept)?;
        self.survival.read_pinned(&mut self.fetched_survival)?;
        for (margin, fetched) in self.margins.iter().zip(&mut self.fetched_margins) {
            margin.read_pinned(fetched)?;
        }
        Ok(())
    }

    /// The loss, once what was fetched has been waited for.
    pub(super) fn loss(&self) -> Loss {
        Loss::of_rows(&self.row_losses(), &self.sent.first(self.batch.rows()))
    }

    /// The losses of each row, once what was fetched has been waited for.
    pub(super) fn row_losses(&self) -> Vec<RowLoss> {
        rows_of(&self.fetched_losses.first(RowLoss::NUMBERS * self.batch.rows()))
    }

    /// The keep ratio counted at a place, of lanes of `tokens`.
    pub(super) fn keep(&self, place: usize, tokens: usize) -> f64 {
        match self.lanes.get(place) {
            None | Some(0) => 1.0,
            Some(&lanes) => {
                let partials = self.fetched_kept.first(self.fetched_kept.len());
                KeptSums::ratio(&partials, place, lanes, tokens)
            }
        }
    }

    /// The sum of I of each layer under soft votes, without the last query.
    pub(super) fn survival(&self) -> impl Iterator<Item = f64> {
        (0..self.fetched_survival.len()).step_by(2).map(|index| self.fetched_survival.get(index))
    }

    /// What the gates of a layer met.
    pub(super) fn met(&self, layer: usize) -> Pressure {
        let mut met = Pressure::default();
        let margins =
            self.fetched_margins.get(layer).map_or_else(Vec::new, |margin| margin.first(margin.len()));
        for gate in margins.chunks_exact(2) {
            met.pull += gate[0];
            met.weight += gate[1];
        }
        met
    }
}
