//! What the GPUs of several processes exchange.

use std::cell::RefCell;
use std::ffi::c_int;

use cudarc::driver::result::{event, stream};
use cudarc::driver::sys::{CUevent, CUevent_flags, CUevent_wait_flags, CUresult, CUstream};

use super::error::driver;
use super::landing::{Landing, Part};
use super::nccl::{F32, F64, Handle, Nccl, RawId};
use super::peers::PeerBuffer;
use super::{BufferName, CudaError, Device, DeviceBuffer, DeviceSlice};
use crate::KernelError;

/// What all processes of a world must know to find each other: made by one, and brought to the others by other means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WorldId(pub [u8; Self::BYTES]);

/// One process's GPU among those of a world; exchanges go on beside the device's own work, over NCCL. Where all devices reach each
/// other ([`Communicator::share`]), copy engines bring pieces, because kernels of the library take
/// multiprocessors from what the device does meanwhile.
///
/// All processes ask for the same exchanges in the same order. Sums end with the same bits everywhere; with the same processes on the
/// same hosts and the same NCCL, a repeated sum has the same bits as the one before. In which order three and more
/// numbers are added is NCCL's choice. The library does not notice that a process is lost: whoever waits looks at
/// [`Communicator::is_done`] and at the other processes, and drops the communicator, which ends what is still under way.
#[derive(Debug)]
pub struct Communicator {
    library: &'static Nccl,
    handle: Handle,
    rank: usize,
    size: usize,
    device: Device,
    stream: CUstream,
    /// What the device has written by an exchange's beginning, and what it waits for.
    written: CUevent,
    exchanged: CUevent,
    /// What [`Communicator::rejoin_at`] waits for.
    marks: RefCell<Vec<CUevent>>,
    /// Buffers that every process can write to.
    shared: Vec<Shared>,
    /// Room for pieces of sums, one of those buffers.
    landing: Option<Landing>,
    /// What is summed to know that all have come so far.
    bell: DeviceBuffer<f32>,
}

/// A buffer of this process and its likes in the others.
#[derive(Debug)]
struct Shared {
    start: u64,
    bytes: usize,
    peers: Vec<PeerBuffer>,
}

/// What all processes do with numbers that lie in each of them.
#[derive(Debug, Clone, Copy)]
pub enum Exchange<'a> {
    /// Adds them up; every process has the sums.
    Sum(DeviceSlice<'a, f32>),
    /// The same with a few exact numbers.
    SumExact(DeviceSlice<'a, f64>),
    /// Adds them up; of as many equal pieces as there are processes, each has the sums of the one with its rank, and
    /// anything in the others.
    SumPiece(DeviceSlice<'a, f32>),
    /// Of as many equal pieces as there are processes, brings the one of each rank from there to everybody.
    Gather(DeviceSlice<'a, u8>),
}

/// An exchange, where its numbers lie, and how many are in a piece, or in all.
type Located<'a> = (Exchange<'a>, u64, usize);

// SAFETY: handles that one thread at a time uses: the communicator is no `Sync`, and each call binds its context.
unsafe impl Send for Communicator {}

impl WorldId {
    /// Length of an id.
    pub const BYTES: usize = 128;

    /// An id of a world that is yet to meet; the process that makes it must take part.
    ///
    /// # Errors
    /// No NCCL on this machine.
    pub fn new() -> Result<Self, CudaError> {
        Ok(Self(Nccl::load()?.unique_id()?.0))
    }
}

impl Communicator {
    /// Whether NCCL is there.
    ///
    /// # Errors
    /// [`CudaError::Library`], with what to install.
    pub fn is_possible() -> Result<(), CudaError> {
        Nccl::load().map(|_| ())
    }

    /// Process `rank` of `size` on `device`; waits until all have come.
    ///
    /// # Errors
    /// No NCCL, or one that cannot reach the others.
    pub fn join(device: &Device, id: &WorldId, rank: usize, size: usize) -> Result<Self, CudaError> {
        let library = Nccl::load()?;
        device.bind()?;
        let number = |number: usize| c_int::try_from(number).unwrap_or(c_int::MAX);
        // SAFETY: the context was just bound.
        let handle = unsafe { library.join(RawId(id.0), number(rank), number(size)) }?;
        let made = || {
            let flags = CUevent_flags::CU_EVENT_DISABLE_TIMING;
            let stream = stream::create(stream::StreamKind::NonBlocking)?;
            Ok((stream, event::create(flags)?, event::create(flags)?))
        };
        let bell = DeviceBuffer::zeroed(device, "what processes meet at", 1);
        let made = bell.and_then(|bell| {
            made().map_err(driver("making a stream for exchanges")).map(|made| (bell, made))
        });
        match made {
            Ok((bell, (stream, written, exchanged))) => {
                let device = device.clone();
                let (marks, shared, landing) = (RefCell::default(), Vec::new(), None);
                Ok(Self {
                    library,
                    handle,
                    rank,
                    size,
                    device,
                    stream,
                    written,
                    exchanged,
                    marks,
                    shared,
                    landing,
                    bell,
                })
            }
            Err(error) => {
                // SAFETY: just made, and used by nobody.
                unsafe { library.end(handle, true) };
                Err(error)
            }
        }
    }

    /// What this process calls its room for pieces of sums, so that others write to it.
    ///
    /// # Errors
    /// No memory, or none that can be shared.
    pub fn room(&mut self) -> Result<BufferName, CudaError> {
        let landing = Landing::new(&self.device, self.size)?;
        let name = BufferName::of(&self.device, DeviceSlice::from(&landing.room).bytes())?;
        self.landing = Some(landing);
        Ok(name)
    }

    /// From now on pieces of sums go through the rooms with these `names`, in the order of ranks. All processes do so, or none.
    ///
    /// # Errors
    /// As [`Communicator::share`].
    pub fn share_room(&mut self, names: &[BufferName]) -> Result<(), CudaError> {
        let Some(landing) = &self.landing else { return Ok(()) };
        let (start, bytes) = (landing.room.pointer(), landing.room.bytes());
        self.share_at(start, bytes, names)
    }

    /// From now on what is gathered in this buffer is written to the others' by copy engines, not by kernels of the library; `names` are
    /// what each process calls its own, in the order of ranks. All processes do so, or none; the buffers stay as long as this.
    ///
    /// # Errors
    /// A process on another host, or a GPU that this one does not reach by itself.
    pub fn share(&mut self, buffer: DeviceSlice<'_, u8>, names: &[BufferName]) -> Result<(), CudaError> {
        self.share_at(buffer.pointer(), buffer.len(), names)
    }

    fn share_at(&mut self, start: u64, bytes: usize, names: &[BufferName]) -> Result<(), CudaError> {
        let others = names.iter().enumerate().filter(|&(rank, _)| rank != self.rank);
        let peers = others.map(|(_, name)| PeerBuffer::open(&self.device, name)).collect::<Result<_, _>>()?;
        self.shared.push(Shared { start, bytes, peers });
        Ok(())
    }

    /// Takes [`Communicator::share`] back, and [`Communicator::room`].
    pub fn share_nothing(&mut self) {
        self.shared.clear();
        self.landing = None;
    }

    /// Begins exchanges, sent together, once everything asked of the device so far has happened. The device goes on
    /// meanwhile, and leaves their numbers alone until [`Communicator::rejoin`].
    ///
    /// # Errors
    /// Numbers that do not fall into as many pieces as there are processes, a failed device, or processes that cannot be
    /// reached.
    pub fn exchange(&self, all: &[Exchange<'_>]) -> Result<(), KernelError> {
        if all.is_empty() {
            return Ok(());
        }
        // Addresses before the queue: whoever asks for one locks it.
        let all: Vec<_> = all.iter().map(|exchange| self.located(exchange)).collect::<Result<_, _>>()?;
        let bell = self.bell.pointer();
        let landing =
            self.landing.as_ref().and_then(|landing| Some((landing, self.around(landing.room.pointer())?)));
        {
            let queue = self.device.queue()?;
            // SAFETY: both streams and the event are alive.
            unsafe {
                event::record(self.written, queue.stream()).and_then(|()| wait(self.stream, self.written))
            }
            .map_err(driver("ordering an exchange"))?;
        }
        let (rest, is_bell_needed) = self.by_copies(&all, bell, landing)?;
        if rest.is_empty() && !is_bell_needed {
            return Ok(());
        }
        let Self { library, handle, rank, stream, .. } = *self;
        let one = |&(exchange, address, count): &Located<'_>| {
            // SAFETY: slices lie inside their allocations, which are freed after what the device still does, and fall into
            // pieces of `count`; handle and stream are alive.
            unsafe {
                match exchange {
                    Exchange::Sum(_) | Exchange::SumExact(_) if count == 0 => Ok(()),
                    Exchange::Sum(_) => library.sum(F32, address, count, handle, stream),
                    Exchange::SumExact(_) => library.sum(F64, address, count, handle, stream),
                    Exchange::SumPiece(_) => library.sum_piece(address, count, rank, handle, stream),
                    Exchange::Gather(_) => library.gather(address, count, rank, handle, stream),
                }
            }
        };
        Ok(library.together(|| {
            if is_bell_needed {
                // SAFETY: one number; handle and stream are alive.
                unsafe { library.sum(F32, bell, 1, handle, stream) }?;
            }
            rest.iter().try_for_each(one)
        })?)
    }

    /// Begins what copy engines can do. Returns what is left to the library, and whether the others are still to be told of copies.
    fn by_copies<'a>(
        &self,
        all: &[Located<'a>],
        bell: u64,
        landing: Option<(&Landing, &Shared)>,
    ) -> Result<(Vec<Located<'a>>, bool), CudaError> {
        let (mut rest, mut sums) = (Vec::new(), Vec::new());
        let mut is_bell_needed = false;
        for &(exchange, address, count) in all {
            match exchange {
                Exchange::Gather(bytes) if let Some(shared) = self.around(address) => {
                    debug_assert!(address + bytes.len() as u64 <= shared.start + shared.bytes as u64);
                    let own = address + (self.rank * count) as u64;
                    self.copy(shared, |_| (own, own - shared.start, count))?;
                    is_bell_needed = true;
                }
                Exchange::SumPiece(_) if landing.is_some() => sums.push((address, count)),
                _ => rest.push((exchange, address, count)),
            }
        }
        if let Some((landing, shared)) = landing {
            let lengths: Vec<usize> = sums.iter().map(|&(_, count)| count).collect();
            for round in landing.rounds(&lengths) {
                self.bring(landing, shared, &sums, &round)?;
                // SAFETY: one number; handle and stream are alive.
                unsafe { self.library.sum(F32, bell, 1, self.handle, self.stream) }?;
                for part in &round {
                    // SAFETY: the part's numbers of this process; the stream is alive, and its context was bound above.
                    unsafe { landing.add(part, piece(&sums, part, self.rank), self.stream) }?;
                }
                landing.next_round();
                is_bell_needed = false;
            }
        }
        Ok((rest, is_bell_needed))
    }

    /// The shared buffer in which an address lies.
    fn around(&self, address: u64) -> Option<&Shared> {
        self.shared
            .iter()
            .find(|shared| (shared.start..shared.start + shared.bytes as u64).contains(&address))
    }

    /// Brings this process's numbers of the others' pieces to their rooms.
    fn bring(
        &self,
        landing: &Landing,
        shared: &Shared,
        sums: &[(u64, usize)],
        round: &[Part],
    ) -> Result<(), CudaError> {
        for part in round {
            self.copy(shared, |to| {
                // This process's place among the others of that one.
                let index = if self.rank < to { self.rank } else { self.rank - 1 };
                (piece(sums, part, to), landing.place(index, part), part.count * size_of::<f32>())
            })?;
        }
        Ok(())
    }

    /// Copies to each other process's buffer: from where, to which place there, and how many bytes, by its rank.
    fn copy(&self, shared: &Shared, what: impl Fn(usize) -> (u64, u64, usize)) -> Result<(), CudaError> {
        let ranks = (0..self.size).filter(|&rank| rank != self.rank);
        let peers: Vec<_> = ranks.zip(&shared.peers).collect();
        // Each begins with another one, so that nobody is written to by all at once.
        let (before, behind) = peers.split_at(self.rank);
        for &(rank, peer) in behind.iter().chain(before) {
            let (from, place, bytes) = what(rank);
            // SAFETY: inside this process's buffer and the other's, which is as large; the stream is alive.
            unsafe { cudarc::driver::sys::cuMemcpyAsync(peer.start + place, from, bytes, self.stream) }
                .result()
                .map_err(driver("copying to another process"))?;
        }
        Ok(())
    }

    /// An exchange with the address of its numbers, and how many of them lie in a piece, or in all.
    fn located<'a>(&self, exchange: &Exchange<'a>) -> Result<Located<'a>, KernelError> {
        let (address, len, pieces) = match exchange {
            Exchange::Sum(values) => (values.pointer(), values.len(), 1),
            Exchange::SumExact(values) => (values.pointer(), values.len(), 1),
            Exchange::SumPiece(values) => (values.pointer(), values.len(), self.size),
            Exchange::Gather(bytes) => (bytes.pointer(), bytes.len(), self.size),
        };
        if len.is_multiple_of(pieces) {
            return Ok((*exchange, address, len / pieces));
        }
        Err(KernelError::Invalid {
            op: "an exchange between devices",
            expected: format!("{pieces} equal pieces"),
            got: format!("{len} numbers"),
        })
    }

    /// What is asked of the device from now on happens after all exchanges so far.
    ///
    /// # Errors
    /// A failed device.
    pub fn rejoin(&self) -> Result<(), CudaError> {
        let queue = self.device.queue()?;
        // SAFETY: both streams and the event are alive.
        unsafe {
            event::record(self.exchanged, self.stream).and_then(|()| wait(queue.stream(), self.exchanged))
        }
        .map_err(driver("ordering an exchange"))
    }

    /// Marks what was begun so far with a number, in place of what had it before.
    ///
    /// # Errors
    /// A failed device.
    pub fn mark(&self, number: usize) -> Result<(), CudaError> {
        self.device.bind()?;
        let mut marks = self.marks.borrow_mut();
        while marks.len() <= number {
            let made = event::create(CUevent_flags::CU_EVENT_DISABLE_TIMING);
            marks.push(made.map_err(driver("making a mark for exchanges"))?);
        }
        // SAFETY: the stream and the event are alive.
        unsafe { event::record(marks[number], self.stream) }.map_err(driver("marking an exchange"))
    }

    /// What is asked of the device from now on happens after the exchanges up to a mark; nothing changes without it.
    ///
    /// # Errors
    /// A failed device.
    pub fn rejoin_at(&self, number: usize) -> Result<(), CudaError> {
        let Some(&mark) = self.marks.borrow().get(number) else { return Ok(()) };
        let queue = self.device.queue()?;
        // SAFETY: the stream and the event are alive.
        unsafe { wait(queue.stream(), mark) }.map_err(driver("ordering an exchange"))
    }

    /// Whether the others can still be reached, as far as NCCL noticed.
    ///
    /// # Errors
    /// A process or a link that is gone.
    pub fn check(&self) -> Result<(), CudaError> {
        // SAFETY: the handle is alive.
        unsafe { self.library.check(self.handle) }
    }

    /// Whether all exchanges so far are done.
    ///
    /// # Errors
    /// A failed device; as [`Communicator::check`].
    pub fn is_done(&self) -> Result<bool, CudaError> {
        self.check()?;
        self.device.bind()?;
        // SAFETY: the stream is alive.
        match unsafe { cudarc::driver::sys::cuStreamQuery(self.stream) } {
            CUresult::CUDA_SUCCESS => Ok(true),
            CUresult::CUDA_ERROR_NOT_READY => Ok(false),
            failed => failed.result().map(|()| true).map_err(driver("looking after an exchange")),
        }
    }
}

/// Where a part of a sum's piece of that rank lies in this process; sums have an address and the length of their pieces.
fn piece(sums: &[(u64, usize)], part: &Part, rank: usize) -> u64 {
    let (address, length) = sums[part.sum];
    address + ((rank * length + part.first) * size_of::<f32>()) as u64
}

/// # Safety
/// Stream and event are alive.
unsafe fn wait(stream: CUstream, event: CUevent) -> Result<(), cudarc::driver::DriverError> {
    // SAFETY: as the caller promises.
    unsafe { stream::wait_event(stream, event, CUevent_wait_flags::CU_EVENT_WAIT_DEFAULT) }
}

impl Drop for Communicator {
    fn drop(&mut self) {
        // An exchange that waits for a lost process would never end by itself, and whoever frees memory waits for it.
        let abort = !matches!(self.is_done(), Ok(true));
        // SAFETY: all made in `join`, and destroyed only here. A failure leaves nothing to do.
        unsafe {
            self.library.end(self.handle, abort);
            if self.device.bind().is_ok() {
                let _ = event::destroy(self.written);
                let _ = event::destroy(self.exchanged);
                for &mark in &*self.marks.borrow() {
                    let _ = event::destroy(mark);
                }
                let _ = stream::destroy(self.stream);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cuda::{DeviceBuffer, testing};

    #[test]
    fn a_world_of_one_exchanges_with_itself_beside_other_work() {
        let Some(device) = testing::device("exchanges over NCCL") else { return };
        if let Err(missing) = Communicator::is_possible() {
            eprintln!("SKIPPED exchanges over NCCL: {missing}");
            return;
        }
        let numbers: Vec<f32> = (0..100_000).map(|i| i as f32 * 0.25).collect();
        let buffer = DeviceBuffer::copy_of(&device, "numbers", &numbers).unwrap();
        let one = Communicator::join(&device, &WorldId::new().unwrap(), 0, 1).unwrap();
        let part = |range| DeviceSlice::new(&buffer, range).unwrap();
        let exact = DeviceBuffer::copy_of(&device, "exact numbers", &[0.1, 1e300]).unwrap();
        let all = [
            Exchange::Sum(part(3..70_000)),
            Exchange::Sum(part(5..5)),
            Exchange::SumPiece(part(70_000..80_001)),
            Exchange::Gather(part(90_000..95_000).bytes()),
            Exchange::SumExact((&exact).into()),
        ];
        one.exchange(&all).unwrap();
        one.mark(2).unwrap();
        one.rejoin_at(2).unwrap();
        one.rejoin_at(3).unwrap();
        one.rejoin().unwrap();
        assert_eq!(buffer.read().unwrap(), numbers);
        assert_eq!(exact.read().unwrap(), [0.1, 1e300]);
        assert!(one.is_done().unwrap());
    }
}
