//! Whether the last step was large enough to see, told a step later so that nobody waits for it.

use std::ops::Range;

use dropcap_kernels::KernelError;
use dropcap_kernels::cuda::{DeviceBuffer, PinnedBuffer};

use super::kernels::Kernels;
use super::weights::Weights;
use crate::backend::moved::{SAMPLE, apart, has_moved};

/// Looks at some thousand parameters once a step.
#[derive(Debug)]
pub(super) struct Sample {
    numbers: DeviceBuffer<f32>,
    fetched: PinnedBuffer<f32>,
    /// What was seen a step before; nothing at first.
    before: Vec<f32>,
    place: Range<usize>,
    /// Whether there was an update since.
    is_due: bool,
    moved: bool,
}

impl Sample {
    pub(super) fn new(kernels: &Kernels) -> Result<Self, KernelError> {
        Ok(Self {
            numbers: DeviceBuffer::zeroed(&kernels.device, "a sample of the parameters", SAMPLE)?,
            fetched: PinnedBuffer::zeroed(&kernels.device, SAMPLE)?,
            before: Vec::new(),
            place: 0..0,
            is_due: false,
            moved: true,
        })
    }

    /// Forgets what was seen: the parameters were loaded.
    pub(super) fn forget(&mut self) {
        self.before.clear();
        self.moved = true;
    }

    /// Notes that parameters are moved now, those of `place` among them, and says whether the last move was seen.
    pub(super) fn update(&mut self, place: Range<usize>) -> bool {
        if self.place != place {
            self.forget();
            self.place = place;
        }
        self.is_due = true;
        self.moved
    }

    /// Asks for a sample, without waiting for it.
    pub(super) fn fetch(&mut self, kernels: &Kernels, weights: &Weights) -> Result<(), KernelError> {
        if self.is_due {
            kernels.counts.sample(weights.of(&self.place)?, apart(self.place.len()), &self.numbers)?;
            self.numbers.read_pinned(&mut self.fetched)?;
        }
        Ok(())
    }

    /// Takes in the sample that was waited for.
    pub(super) fn take(&mut self) {
        if std::mem::take(&mut self.is_due) {
            let after = self.fetched.first(self.fetched.len());
            if !self.before.is_empty() {
                self.moved = has_moved(&self.before, &after);
            }
            self.before = after;
        }
    }
}
