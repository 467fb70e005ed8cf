//! What the devices of several processes exchange: gradients, added up while the way back still goes on, and what each
//! moved by itself.

use std::ops::Range;
use std::thread;
use std::time::{Duration, Instant};

use dropcap_kernels::KernelError;
use dropcap_kernels::cuda::{Communicator, CudaError, Device, Marks, WorldId};

use super::division::Division;
use super::gradients::Gradients;
use super::weights::Weights;
use crate::TrainError;
use crate::collective::{Collective, CollectiveError, World};

/// Gradients that are handed over at once: enough for the links to reach their speed, and few enough that little is left
/// when the way back ends.
const BUCKET: usize = 8 << 20;
/// How long devices may take to find each other once all processes are there.
const PATIENCE: Duration = Duration::from_secs(120);
/// Between two looks while devices find each other.
const LOOK: Duration = Duration::from_millis(10);
/// Between two looks at sums: far less than a step takes.
const GLANCE: Duration = Duration::from_micros(50);
/// What TCP may take to name the process whose links NCCL found broken.
const NAMING: Duration = Duration::from_secs(2);

/// The devices of a world that take steps together.
#[derive(Debug)]
pub(super) struct Sums {
    communicator: Communicator,
    world: World,
    division: Division,
    /// Whether every process has all values and moments, not just those that it moves.
    is_whole: bool,
}

/// The gradients of a step on their way to all processes, from the last layer's to the first's.
#[derive(Debug)]
pub(super) struct Handover<'a> {
    sums: &'a Sums,
    gradients: &'a Gradients,
    buckets: Buckets,
}

/// How gradients are cut into sums.
#[derive(Debug)]
struct Buckets {
    /// Everything that trains.
    all: Range<usize>,
    /// Where the model's weights end, whose gradients come in the order of layers.
    end: usize,
    /// Of those, everything from here on has been handed over.
    from: usize,
}

impl Sums {
    /// Lets the devices of all processes find each other, or says why they cannot: then none of them has tried. Of the places
    /// `trained` they divide up the `matrices` that only products read.
    ///
    /// # Errors
    /// A process that is lost meanwhile.
    pub(super) fn meet(
        device: &Device,
        trained: Range<usize>,
        matrices: Vec<Range<usize>>,
        others: &mut dyn Collective,
    ) -> Result<Result<Self, String>, TrainError> {
        let world = others.world();
        let possible = Communicator::is_possible();
        if let Err(reason) = agreed(possible, others)? {
            return Ok(Err(reason));
        }
        let made = if world.is_first() { Some(WorldId::new().map_err(KernelError::from)?) } else { None };
        let mut bytes = made.map_or_else(Vec::new, |id| id.0.to_vec());
        others.share(&mut bytes)?;
        let id = bytes.try_into().map(WorldId).map_err(|bytes: Vec<u8>| TrainError::Internal {
            what: format!("{} bytes of another process for the id of a world", bytes.len()),
        })?;
        let joined = join(device, id, others)?;
        let division = Division::new(device, trained, matrices, world)?;
        Ok(agreed(joined, others)?.map(|communicator| Self { communicator, world, division, is_whole: true }))
    }

    /// Begins the handover of gradients, in a step's last pass of this process; the model's weights end at `end`.
    pub(super) fn hand_over<'a>(
        &'a self,
        gradients: &'a Gradients,
        end: usize,
        part: usize,
        parts: usize,
    ) -> Option<Handover<'a>> {
        let is_last = part + 1 == self.world.share_of(parts).len();
        let buckets = Buckets::new(gradients.first()..gradients.end(), end);
        is_last.then_some(Handover { sums: self, gradients, buckets })
    }

    /// What of a place this process moves.
    pub(super) fn moves(&self, place: &Range<usize>) -> Result<Marks<'_>, TrainError> {
        self.division.of_moves(place)
    }

    /// Of which of a place's gradients this process counts the squares.
    pub(super) fn squares(&self, place: &Range<usize>) -> Result<Marks<'_>, TrainError> {
        self.division.of_squares(place)
    }

    /// Brings what this process has moved to the others and theirs here, as far as products read it, without waiting.
    pub(super) fn moved(&mut self, weights: &Weights) -> Result<(), TrainError> {
        self.is_whole = false;
        self.communicator.exchange(&self.division.moved(weights)?)?;
        Ok(self.communicator.rejoin().map_err(KernelError::from)?)
    }

    /// Waits until everything that was moved is everywhere, values and moments too.
    ///
    /// # Errors
    /// A process that is lost.
    pub(super) fn complete(
        &mut self,
        weights: &Weights,
        gradients: &Gradients,
        others: &mut dyn Collective,
    ) -> Result<(), TrainError> {
        if !self.is_whole {
            self.communicator.exchange(&self.division.whole(weights, gradients)?)?;
            self.communicator.rejoin().map_err(KernelError::from)?;
            self.is_whole = true;
        }
        self.wait(others)
    }

    /// Whether every process has all values and moments.
    pub(super) fn is_whole(&self) -> bool {
        self.is_whole
    }

    /// Waits until all sums are there, with an eye on the other processes: a lost one would never bring its share.
    ///
    /// # Errors
    /// A process that is lost; drop this then, before anything that waits for the device.
    pub(super) fn wait(&self, others: &mut dyn Collective) -> Result<(), TrainError> {
        loop {
            match self.communicator.is_done() {
                Ok(true) => return Ok(()),
                Ok(false) => {
                    others.check()?;
                    thread::sleep(GLANCE);
                }
                Err(error) => {
                    let noticed = Instant::now();
                    while noticed.elapsed() < NAMING {
                        others.check()?;
                        thread::sleep(LOOK);
                    }
                    return Err(KernelError::from(error).into());
                }
            }
        }
    }
}

impl Handover<'_> {
    /// Everything of the model's weights from `start` on has its gradient.
    pub(super) fn ready(&mut self, start: usize) -> Result<(), KernelError> {
        self.buckets.ready(start).map_or(Ok(()), |bucket| self.sum(&bucket))
    }

    /// Everything else has, too; what is asked of the device from now on reads sums.
    pub(super) fn finish(self) -> Result<(), KernelError> {
        self.buckets.rest().iter().try_for_each(|bucket| self.sum(bucket))?;
        Ok(self.sums.communicator.rejoin()?)
    }

    fn sum(&self, bucket: &Range<usize>) -> Result<(), KernelError> {
        let all = self.sums.division.sums(bucket, self.gradients)?;
        self.sums.communicator.exchange(&all)
    }
}

impl Buckets {
    fn new(all: Range<usize>, end: usize) -> Self {
        let end = end.clamp(all.start, all.end);
        Self { all, end, from: end }
    }

    /// What is worth a sum once everything from `start` on is there.
    fn ready(&mut self, start: usize) -> Option<Range<usize>> {
        let start = start.max(self.all.start);
        let is_full = start + BUCKET <= self.from;
        is_full.then(|| start..std::mem::replace(&mut self.from, start))
    }

    /// What is left.
    fn rest(&self) -> [Range<usize>; 2] {
        [self.all.start..self.from, self.end..self.all.end]
    }
}

/// What this process has, if every process has its own; otherwise why one has not.
fn agreed<T>(
    own: Result<T, CudaError>,
    others: &mut dyn Collective,
) -> Result<Result<T, String>, CollectiveError> {
    let mut count = [f64::from(u8::from(own.is_ok()))];
    others.sum_exact(&mut count)?;
    Ok(match own {
        Err(error) => Err(error.to_string()),
        Ok(_) if (count[0] as usize) < others.world().size => Err("another process cannot".to_owned()),
        Ok(own) => Ok(own),
    })
}

/// Joins the others' devices. The library waits for them by itself, so it does that apart.
fn join(
    device: &Device,
    id: WorldId,
    others: &mut dyn Collective,
) -> Result<Result<Communicator, CudaError>, CollectiveError> {
    let (device, World { rank, size }) = (device.clone(), others.world());
    let joining = thread::spawn(move || Communicator::join(&device, &id, rank, size));
    let begun = Instant::now();
    let failed = |text: String| CudaError::Nccl { op: "joining the other processes", text };
    while !joining.is_finished() {
        others.check()?;
        if begun.elapsed() > PATIENCE {
            return Ok(Err(failed(format!("no answer within {} s", PATIENCE.as_secs()))));
        }
        thread::sleep(LOOK);
    }
    Ok(joining.join().unwrap_or_else(|_| Err(failed("it ended".to_owned()))))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn every_gradient_is_added_up_once_and_not_before_it_is_there(
            layers in prop::collection::vec(0_usize..6 << 20, 0..12), table in 0_usize..9 << 20,
            gates in 0_usize..1000, held in any::<bool>(),
        ) {
            let starts: Vec<usize> = layers.iter().scan(table, |end, layer| {
                let start = *end;
                *end += layer;
                Some(start)
            }).collect();
            let end = table + layers.iter().sum::<usize>();
            let all = if held { end } else { 0 }..end + gates;
            let mut buckets = Buckets::new(all.clone(), end);
            let mut sums = Vec::new();
            for &start in starts.iter().rev() {
                if let Some(bucket) = buckets.ready(start) {
                    prop_assert!(bucket.start >= start && bucket.len() >= BUCKET);
                    sums.push(bucket);
                }
            }
            sums.extend(buckets.rest());
            sums.retain(|bucket| !bucket.is_empty());
            sums.sort_by_key(|bucket| bucket.start);
            let mut next = all.start;
            for bucket in sums {
                prop_assert_eq!(bucket.start, next);
                next = bucket.end;
            }
            prop_assert_eq!(next, all.end);
        }
    }
}
