//! What a step's gradients are found to be, decided on the device so that nobody waits for the host before parameters move.

use std::collections::HashMap;
use std::ops::Range;
use std::slice::from_ref;

use dropcap_kernels::cuda::{Device, DeviceBuffer, DeviceSlice, Exchange, Moment, PinnedBuffer, Stretches};
use dropcap_kernels::optimizer::TrainOptimizer;
use dropcap_kernels::reduce::DeviceSums;
use dropcap_kernels::{KernelError, RowLoss};

use super::division::{Share, without};
use super::gradients::Gradients;
use super::kernels::Kernels;
use super::sums::Sums;
use crate::TrainError;

/// The most ranges whose squares are summed at a time.
const MOST_RANGES: usize = 16;
/// Whether a loss is not finite, and two sums of squares for each range.
const NUMBERS: usize = 1 + 2 * MOST_RANGES;

/// Sums of squares, and what they decide.
#[derive(Debug)]
pub(super) struct Judge {
    scratch: DeviceBuffer<f64>,
    numbers: DeviceBuffer<f64>,
    verdict: DeviceBuffer<f32>,
    fetched: PinnedBuffer<f64>,
    fetched_verdict: PinnedBuffer<f32>,
    /// When everything that the host reads of a step has been fetched.
    fetched_at: Moment,
    ranges: usize,
}

/// What of a place this process has a share in, as kernels take it: made once, and asked for at every step.
#[derive(Debug, Default)]
pub(super) struct Shares {
    known: HashMap<(Range<usize>, Share), Stretches>,
    /// What the last exchange of a step brings.
    late: Vec<Range<usize>>,
}

impl Judge {
    pub(super) fn new(device: &Device) -> Result<Self, KernelError> {
        let zeros = |what, len| DeviceBuffer::zeroed(device, what, len);
        Ok(Self {
            scratch: zeros("sums of squares", DeviceSums::SQUARES_SCRATCH)?,
            numbers: zeros("sums of squares", NUMBERS)?,
            verdict: DeviceBuffer::zeroed(device, "what a step decides", TrainOptimizer::VERDICT)?,
            fetched: PinnedBuffer::zeroed(device, NUMBERS)?,
            fetched_verdict: PinnedBuffer::zeroed(device, TrainOptimizer::VERDICT)?,
            fetched_at: Moment::new(device)?,
            ranges: 0,
        })
    }

    /// Begins a step.
    pub(super) fn begin(&self) -> Result<(), KernelError> {
        Ok(self.numbers.fill_bytes(0)?)
    }

    /// Looks at the losses of a pass of `rows` rows.
    pub(super) fn look(
        &self,
        kernels: &Kernels,
        losses: &DeviceBuffer<f32>,
        rows: usize,
    ) -> Result<(), KernelError> {
        kernels.sums.not_finite(losses.into(), rows, RowLoss::NUMBERS, (&self.numbers).into())
    }

    /// Replaces whether a loss was not finite by what all processes have found; waits.
    pub(super) fn share(
        &self,
        sum: impl FnOnce(&mut [f64]) -> Result<(), TrainError>,
    ) -> Result<(), TrainError> {
        let mut found = self.numbers.read_range(0, 1).map_err(KernelError::from)?;
        sum(&mut found)?;
        Ok(self.numbers.write(0, &found).map_err(KernelError::from)?)
    }

    /// Sums the squares of a share of the gradients at these `places`.
    pub(super) fn squares(
        &mut self,
        kernels: &Kernels,
        gradients: &Gradients,
        places: &[Range<usize>],
        (shares, share): (&mut Shares, Share),
        sums: Option<&Sums>,
    ) -> Result<(), TrainError> {
        if places.len() > MOST_RANGES {
            return Err(TrainError::Internal { what: format!("squares of {} ranges", places.len()) });
        }
        self.ranges = places.len();
        let first = if share == Share::CountedLate { 1 + MOST_RANGES } else { 1 };
        for (index, place) in places.iter().enumerate() {
            let stretches = shares.of(&kernels.device, sums, place, share)?;
            let [numbers, ..] = gradients.all(place)?;
            let total = DeviceSlice::new(&self.numbers, first + index..first + index + 1)?;
            kernels.sums.squares(numbers, stretches, &self.scratch, total)?;
        }
        Ok(())
    }

    /// Adds up over all processes what was found.
    pub(super) fn add_up(&self, sums: &Sums) -> Result<(), KernelError> {
        sums.add_up(&[Exchange::SumExact((&self.numbers).into())])
    }

    /// Decides by them.
    pub(super) fn decide(&self, kernels: &Kernels, clipped: &[bool], clip: f64) -> Result<(), KernelError> {
        let squares = DeviceSlice::new(&self.numbers, 1..NUMBERS)?;
        kernels.optimizer.judge((&self.numbers).into(), squares, clipped, clip, self.verdict())
    }

    /// What was decided, for kernels.
    pub(super) fn verdict(&self) -> DeviceSlice<'_, f32> {
        (&self.verdict).into()
    }

    /// Asks for all of it, without waiting.
    pub(super) fn fetch(&mut self) -> Result<(), KernelError> {
        self.numbers.read_pinned(&mut self.fetched)?;
        Ok(self.verdict.read_pinned(&mut self.fetched_verdict)?)
    }

    /// What was asked for so far is what the host will wait for.
    pub(super) fn note(&mut self) -> Result<(), KernelError> {
        Ok(self.fetched_at.note()?)
    }

    /// When that is there.
    pub(super) fn fetched_at(&self) -> &Moment {
        &self.fetched_at
    }

    /// The sums of squares of all ranges, and whether anything moves, once they were waited for.
    pub(super) fn found_and_decided(&self) -> (Vec<f64>, bool) {
        let squares = |index| self.fetched.get(index) + self.fetched.get(MOST_RANGES + index);
        ((1..=self.ranges).map(squares).collect(), self.fetched_verdict.get(1) != 0.0)
    }
}

impl Shares {
    /// This process's share of a place.
    pub(super) fn of(
        &mut self,
        device: &Device,
        sums: Option<&Sums>,
        place: &Range<usize>,
        share: Share,
    ) -> Result<&Stretches, KernelError> {
        use std::collections::hash_map::Entry;
        match self.known.entry((place.clone(), share)) {
            Entry::Occupied(known) => Ok(known.into_mut()),
            Entry::Vacant(unknown) => {
                let whole = || std::iter::once(0..place.len()).collect();
                let own: Vec<_> = sums.map_or_else(whole, |sums| sums.own(place, share));
                let late = self.late.iter();
                let late = late.map(|late| late.start.max(place.start)..late.end.min(place.end));
                let late = late.filter(|late| !late.is_empty());
                let late: Vec<_> =
                    late.map(|late| late.start - place.start..late.end - place.start).collect();
                let own = match share {
                    Share::Moved => own,
                    Share::Counted => without(&own, &late),
                    Share::CountedLate => without(&own, &without(from_ref(&(0..place.len())), &late)),
                };
                Ok(unknown.insert(Stretches::new(device, &own)?))
            }
        }
    }

    /// Takes note of what comes late; forgets what was known if that is something else than before.
    pub(super) fn comes_late(&mut self, late: Vec<Range<usize>>) {
        if self.late != late {
            *self = Self { late, ..Self::default() };
        }
    }

    /// Forgets all, because there are other processes now.
    pub(super) fn forget(&mut self) {
        *self = Self::default();
    }
}
