//! What the devices of several processes exchange: gradients, added up while the way back still goes on, and what each
//! moved by itself.

use std::ops::Range;
use std::slice::from_ref;
use std::thread;
use std::time::{Duration, Instant};

use dropcap_kernels::KernelError;
use dropcap_kernels::cuda::{
    BufferName, Communicator, CudaError, Device, DeviceSlice, Exchange, Moment, WorldId,
};

use super::division::{Divisible, Division, Share, without};
use super::gradients::Gradients;
use super::kernels::Kernels;
use super::lookup::Lookup;
use super::network::Network;
use super::weights::Weights;
use crate::TrainError;
use crate::collective::{Collective, CollectiveError, World};

/// Gradients that are handed over at once: enough for the links to reach their speed, and few enough that little is left
/// when the way back ends.
const BUCKET: usize = 8 << 20;
/// Gradients beside a bucket's matrices that are worth an exchange of their own; fewer wait for a later one.
const APART: usize = 1 << 20;
/// How long devices may take to find each other once all processes are there.
const PATIENCE: Duration = Duration::from_secs(120);
/// Between two looks while devices find each other.
const LOOK: Duration = Duration::from_millis(10);
/// Between two looks at the other processes while sums are awaited.
const GLANCE: Duration = Duration::from_millis(1);
/// Parts of an update, each sent while the next is made.
const PARTS: usize = 4;
/// The mark before the last exchange of gradients, behind those of parts.
const BEFORE_LAST: usize = PARTS;
/// What TCP may take to name the process whose links NCCL found broken.
const NAMING: Duration = Duration::from_secs(2);

/// The devices of a world that take steps together.
#[derive(Debug)]
pub(super) struct Sums {
    communicator: Communicator,
    world: World,
    division: Division,
    /// Where the table trains whose rows tokens are looked up in, and its rows are what is exchanged.
    lookup: Option<Lookup>,
    /// What trains, in parts that are moved and sent one after the other.
    parts: Vec<Range<usize>>,
    /// In which of them lies what each step of a forward pass reads: the look-up, and each layer.
    read: Vec<usize>,
    /// Whether every process has all values and moments, not just those that it moves.
    is_whole: bool,
}

/// The gradients of a step on their way to all processes, from the last layer's to the first's.
#[derive(Debug)]
pub(super) struct Handover<'a> {
    sums: &'a Sums,
    gradients: &'a Gradients,
    buckets: Buckets,
    /// Places that a later exchange takes along.
    late: Vec<Range<usize>>,
    /// Places that went ahead of their bucket, or go another way.
    ahead: Vec<Range<usize>>,
    /// Passes of the step in all processes.
    passes: usize,
}

/// How gradients are cut into sums.
#[derive(Debug)]
struct Buckets {
    /// Everything that trains.
    all: Range<usize>,
    /// Where the weights of layers begin, and the model's weights end: in between gradients come layer by layer.
    layers: usize,
    end: usize,
    /// Of those, everything from here on has been handed over.
    from: usize,
}

impl Sums {
    /// Lets the devices of all processes find each other, or says why they cannot: then none of them has tried. Of what
    /// trains, whose places are read in this `order`, they divide up the `matrices`; of the table among them they exchange
    /// rows where there is a `lookup`.
    ///
    /// # Errors
    /// A process that is lost meanwhile.
    pub(super) fn meet(
        device: &Device,
        order: Vec<Range<usize>>,
        matrices: Vec<Divisible>,
        lookup: impl FnOnce(World) -> Result<Option<Lookup>, KernelError>,
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
        let first = order.iter().map(|place| place.start).min().unwrap_or_default();
        let end = order.iter().map(|place| place.end).max().unwrap_or_default();
        let division = Division::new(&(first..end), matrices, world);
        let joined = agreed(joined, others)?;
        let (parts, read) = parts(&order);
        let lookup = lookup(world)?;
        Ok(joined.map(|communicator| Self {
            communicator,
            world,
            division,
            lookup,
            parts,
            read,
            is_whole: true,
        }))
    }

    /// Lets pieces of gradients and what is gathered in these buffers be written from device to device, where every device reaches
    /// all others.
    ///
    /// # Errors
    /// A process that is lost.
    pub(super) fn share(
        &mut self,
        device: &Device,
        buffers: &[DeviceSlice<'_, u8>],
        others: &mut dyn Collective,
    ) -> Result<(), TrainError> {
        let own = self.communicator.room();
        let mut shares = match names(own, self.world, others)? {
            None => false,
            Some(names) => agreed(self.communicator.share_room(&names), others)?.is_ok(),
        };
        for &buffer in buffers {
            shares = shares
                && match names(BufferName::of(device, buffer), self.world, others)? {
                    None => false,
                    Some(names) => agreed(self.communicator.share(buffer, &names), others)?.is_ok(),
                };
        }
        if !shares {
            self.communicator.share_nothing();
        }
        Ok(())
    }

    /// Begins the handover of gradients, in a step's last pass of this process; `layers` are the model's weights from the first layer
    /// on.
    pub(super) fn hand_over<'a>(
        &'a self,
        gradients: &'a Gradients,
        layers: Range<usize>,
        part: usize,
        parts: usize,
    ) -> Option<Handover<'a>> {
        let is_last = part + 1 == self.world.share_of(parts).len();
        let buckets = Buckets::new(gradients.first()..gradients.end(), &layers);
        let (late, ahead) = (Vec::new(), Vec::new());
        is_last.then_some(Handover { sums: self, gradients, buckets, late, ahead, passes: parts })
    }

    /// This process's share of a place, in stretches that count from its beginning.
    pub(super) fn own(&self, place: &Range<usize>, share: Share) -> Vec<Range<usize>> {
        self.division.own(place, share)
    }

    /// What is asked of the device from now on reads the sums of all gradients but those that the last exchange brings.
    pub(super) fn all_but_last(&self) -> Result<(), KernelError> {
        Ok(self.communicator.rejoin_at(BEFORE_LAST)?)
    }

    /// What is asked of the device from now on reads the sums of all gradients, rows of tokens added to their table.
    pub(super) fn all(&self, kernels: &Kernels, gradients: &Gradients) -> Result<(), KernelError> {
        self.communicator.rejoin()?;
        match &self.lookup {
            None => Ok(()),
            Some(lookup) => {
                let own = self.division.own(lookup.table(), Share::Moved);
                lookup.add(kernels, gradients, &own)
            }
        }
    }

    /// Adds up a few numbers over all processes; what is asked of the device from now on reads the sums.
    pub(super) fn add_up(&self, all: &[Exchange<'_>]) -> Result<(), KernelError> {
        self.communicator.exchange(all)?;
        Ok(self.communicator.rejoin()?)
    }

    /// What trains, in the parts that are to be moved and sent one after the other.
    pub(super) fn parts(&self) -> &[Range<usize>] {
        &self.parts
    }

    /// Begins to bring what this process has moved of a part to the others and theirs here, as far as passes read it.
    pub(super) fn moved(&mut self, part: usize, weights: &Weights) -> Result<(), TrainError> {
        let moved = self.division.moved(&self.parts[part], weights)?;
        self.is_whole &= moved.is_empty();
        self.communicator.exchange(&moved)?;
        Ok(self.communicator.mark(part).map_err(KernelError::from)?)
    }

    /// What is asked of the device from now on happens after everything came that a forward pass reads up to this step of it:
    /// 0 is the look-up, and then come the layers.
    pub(super) fn arrived(&self, step: usize) -> Result<(), KernelError> {
        Ok(self.communicator.rejoin_at(self.read[step])?)
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
        wait_until(others, || self.communicator.is_done())
    }

    /// Whether every process has all values and moments.
    pub(super) fn is_whole(&self) -> bool {
        self.is_whole
    }

    /// Waits for a moment of the device, with an eye on the other processes: a lost one would never bring its share.
    ///
    /// # Errors
    /// A process that is lost; drop this then, before anything that waits for the device.
    pub(super) fn wait_for(&self, moment: &Moment, others: &mut dyn Collective) -> Result<(), TrainError> {
        wait_until(others, || {
            self.communicator.check()?;
            moment.has_passed()
        })
    }
}

/// Waits until it is done; names the process that is lost meanwhile.
fn wait_until(
    others: &mut dyn Collective,
    is_done: impl Fn() -> Result<bool, CudaError>,
) -> Result<(), TrainError> {
    let mut looked = Instant::now();
    loop {
        match is_done() {
            Ok(true) => return Ok(()),
            // What comes next begins when the end is noticed, and who sleeps notices it late.
            Ok(false) => thread::yield_now(),
            Err(error) => {
                let noticed = Instant::now();
                while noticed.elapsed() < NAMING {
                    others.check()?;
                    thread::sleep(LOOK);
                }
                return Err(KernelError::from(error).into());
            }
        }
        if looked.elapsed() > GLANCE {
            others.check()?;
            looked = Instant::now();
        }
    }
}

impl<'a> Handover<'a> {
    /// The head has its gradient, before anything else: it goes ahead. So does what the table has already, where the rest of it
    /// will be rows of tokens.
    pub(super) fn head(&mut self, network: &Network) -> Result<(), KernelError> {
        let lookup = self.sums.lookup.as_ref();
        let table = lookup.filter(|lookup| lookup.has_more(self.passes)).map(Lookup::table);
        let trains = |place: &Range<usize>| Ok::<_, KernelError>(self.gradients.of(place)?.is_some());
        // A head that is the table, too, waits for it where it goes with the rest.
        let head = Some(&network.head.weight).filter(|&head| *head != network.embedding);
        let mut now: Vec<Range<usize>> = Vec::new();
        for place in head.into_iter().chain(table) {
            if trains(place)? {
                now.push(place.clone());
            }
        }
        self.ahead.extend(now.iter().chain(lookup.map(Lookup::table)).cloned());
        let (matrices, beside): (Vec<_>, Vec<_>) =
            now.iter().map(|place| self.sums.division.parts(place)).unzip();
        self.exchange(self.sums(&matrices.concat(), &beside.concat())?)
    }

    /// Everything of the model's weights from `start` on has its gradient.
    pub(super) fn ready(&mut self, start: usize) -> Result<(), KernelError> {
        let Some(bucket) = self.buckets.ready(start) else { return Ok(()) };
        let (matrices, beside) = self.parts(bucket);
        let (mut now, late): (Vec<_>, Vec<_>) = beside.into_iter().partition(|part| part.len() >= APART);
        self.late.extend(late);
        if self.buckets.is_nearly_done() {
            // Many small sums take a while: the last exchange, which nothing hides, is to have few.
            now.append(&mut self.late);
        }
        self.exchange(self.sums(&matrices, &now)?)
    }

    /// How the gradients of tokens are handed over, if by rows: before [`Handover::finish`], which takes them along.
    pub(super) fn lookup(&self) -> Option<&'a Lookup> {
        self.sums.lookup.as_ref()
    }

    /// Everything else has its gradient, too: begins the last exchange, and says what it brings. [`Sums::all_but_last`] and
    /// [`Sums::all`] wait for it on the device.
    pub(super) fn finish(self) -> Result<Vec<Range<usize>>, KernelError> {
        let rest = self.buckets.rest().map(|bucket| self.parts(bucket));
        let (matrices, beside): (Vec<_>, Vec<_>) = rest.into_iter().unzip();
        let (matrices, beside) = (matrices.concat(), [beside.concat(), self.late.clone()].concat());
        let mut all = self.sums(&matrices, &beside)?;
        all.extend(self.lookup().into_iter().flat_map(Lookup::exchange));
        self.sums.communicator.mark(BEFORE_LAST)?;
        self.exchange(all)?;
        let table = self.lookup().map(|lookup| lookup.table().clone());
        let mut last: Vec<_> = matrices.into_iter().chain(beside).chain(table).collect();
        last.sort_by_key(|place| place.start);
        Ok(last)
    }

    /// The matrices of a bucket, and what lies beside them, without what went ahead.
    fn parts(&self, bucket: Range<usize>) -> (Vec<Range<usize>>, Vec<Range<usize>>) {
        let mut ahead = self.ahead.clone();
        ahead.sort_by_key(|place| place.start);
        let (matrices, beside): (Vec<_>, Vec<_>) =
            without(from_ref(&bucket), &ahead).iter().map(|part| self.sums.division.parts(part)).unzip();
        (matrices.concat(), beside.concat())
    }

    /// The sums of the pieces of matrices, and of other places as a whole.
    fn sums(
        &self,
        matrices: &[Range<usize>],
        others: &[Range<usize>],
    ) -> Result<Vec<Exchange<'a>>, KernelError> {
        let numbers = |place: &Range<usize>| -> Result<_, KernelError> { Ok(self.gradients.all(place)?[0]) };
        let pieces = matrices.iter().map(|matrix| Ok(Exchange::SumPiece(numbers(matrix)?)));
        let whole = others.iter().map(|place| Ok(Exchange::Sum(numbers(place)?)));
        pieces.chain(whole).collect()
    }

    fn exchange(&self, all: Vec<Exchange<'_>>) -> Result<(), KernelError> {
        self.sums.communicator.exchange(&all)
    }
}

impl Buckets {
    fn new(all: Range<usize>, layers: &Range<usize>) -> Self {
        let end = layers.end.clamp(all.start, all.end);
        Self { layers: layers.start.clamp(all.start, end), end, from: end, all }
    }

    /// What is worth a sum once everything from `start` on is there.
    fn ready(&mut self, start: usize) -> Option<Range<usize>> {
        let start = start.max(self.all.start);
        let is_full = start + BUCKET <= self.from;
        is_full.then(|| start..std::mem::replace(&mut self.from, start))
    }

    /// Whether no other bucket will be full.
    fn is_nearly_done(&self) -> bool {
        self.from < self.layers + BUCKET
    }

    /// What is left.
    fn rest(&self) -> [Range<usize>; 2] {
        [self.all.start..self.from, self.end..self.all.end]
    }
}

/// Cuts what is read in this order into [`PARTS`] of about one size, and says in which each step's places lie.
fn parts(order: &[Range<usize>]) -> (Vec<Range<usize>>, Vec<usize>) {
    let size = order.iter().map(Range::len).sum::<usize>().div_ceil(PARTS);
    let (mut parts, mut read) = (Vec::<Range<usize>>::new(), Vec::new());
    for places in order {
        match parts.last_mut() {
            Some(part) if part.len() < size => part.end = places.end,
            _ => parts.push(places.clone()),
        }
        read.push(parts.len() - 1);
    }
    (parts, read)
}

/// What all processes call their buffers, in the order of ranks, if every one has a name for its own.
fn names(
    own: Result<BufferName, CudaError>,
    world: World,
    others: &mut dyn Collective,
) -> Result<Option<Vec<BufferName>>, CollectiveError> {
    let Ok(BufferName(own)) = agreed(own, others)? else { return Ok(None) };
    // A sum in which everybody else has zeros.
    let mut all = vec![0.0; world.size * BufferName::BYTES];
    let place = &mut all[world.rank * BufferName::BYTES..][..BufferName::BYTES];
    place.iter_mut().zip(own).for_each(|(number, byte)| *number = f64::from(byte));
    others.sum_exact(&mut all)?;
    let (names, _) = all.as_chunks::<{ BufferName::BYTES }>();
    Ok(Some(names.iter().map(|name| BufferName(name.map(|byte| byte as u8))).collect()))
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
        fn what_a_step_reads_lies_in_its_part_or_an_earlier_one(lengths in prop::collection::vec(0_usize..90, 1..40)) {
            let order: Vec<_> = lengths.iter().scan(7, |end, length| {
                let start = *end;
                *end += length;
                Some(start..*end)
            }).collect();
            let (parts, read) = parts(&order);
            prop_assert!(parts.len() <= PARTS && read.len() == order.len() && read.is_sorted());
            prop_assert_eq!((parts[0].start, parts[parts.len() - 1].end), (7, order[order.len() - 1].end));
            prop_assert!(parts.windows(2).all(|pair| pair[0].end == pair[1].start));
            for (places, part) in order.iter().zip(read) {
                prop_assert!(parts[part].start <= places.start && places.end <= parts[part].end);
            }
        }

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
            let mut buckets = Buckets::new(all.clone(), &(table..end));
            let mut sums = Vec::new();
            for &start in starts.iter().rev() {
                let was_nearly_done = buckets.is_nearly_done();
                if let Some(bucket) = buckets.ready(start) {
                    prop_assert!(!was_nearly_done, "another full one");
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
