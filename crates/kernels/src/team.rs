//! A persistent team of threads for steps of ~60 small operations.
//!
//! Spawning or even waking a thread costs more than a small operation, so idle workers spin for a while before
//! they sleep. A run is open to whoever comes: a worker that is asleep or was descheduled simply does not take
//! part, and the caller never waits for one that has not joined.

use std::any::Any;
use std::cell::UnsafeCell;
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::KernelError;

/// How long an idle worker watches for the next run before it sleeps: longer than the gaps between the
/// operations of a step, far shorter than a scheduler's time slice.
const SPIN: Duration = Duration::from_micros(50);

/// More threads than any machine that this runs on has; a larger number is a mistake in a flag.
const MAX_THREADS: usize = 1024;

/// Low bits of the gate: how many workers joined the run.
const JOINED: u64 = 0x7fff;
/// Set while a run takes joiners.
const OPEN: u64 = 0x8000;
/// The gate's bits from here up number the run.
const EPOCH: u32 = 16;

/// A fixed number of threads, the caller's among them, that share the tasks of one run at a time.
pub struct Team {
    shared: Arc<Shared>,
    workers: Vec<JoinHandle<()>>,
}

impl Team {
    /// Starts `threads - 1` workers; the thread that calls [`Team::run`] is the last member.
    ///
    /// Errors: no threads, more than 1024, or the system refuses to start one.
    pub fn new(threads: usize) -> Result<Self, KernelError> {
        if threads == 0 || threads > MAX_THREADS {
            return Err(KernelError::Invalid {
                op: "team",
                expected: format!("1 to {MAX_THREADS} threads"),
                got: threads.to_string(),
            });
        }
        let mut team = Self { shared: Arc::new(Shared::new()), workers: Vec::with_capacity(threads - 1) };
        for index in 1..threads {
            let shared = Arc::clone(&team.shared);
            let worker = std::thread::Builder::new()
                .name(format!("team-{index}"))
                .spawn(move || shared.work())
                .map_err(|error| KernelError::Threads {
                    op: "team",
                    expected: threads,
                    got: index,
                    reason: error.to_string(),
                })?;
            team.workers.push(worker);
        }
        Ok(team)
    }

    /// Number of threads, the caller's included.
    pub fn threads(&self) -> usize {
        self.workers.len() + 1
    }

    /// Calls `body(task)` once for every task in `0..tasks`, in no promised order, and returns when all are done.
    ///
    /// Tasks are handed out one by one, so uneven ones balance. While another run of this team is under way (from
    /// inside a body, or from another thread) the tasks run on the calling thread alone. A panic in a body stops
    /// the handing out of tasks and comes out of this call once every member has left.
    pub fn run(&self, tasks: usize, body: &(dyn Fn(usize) + Sync)) {
        let shared = &*self.shared;
        if tasks <= 1 || self.workers.is_empty() || shared.busy.0.swap(true, Ordering::Acquire) {
            (0..tasks).for_each(body);
            return;
        }
        // SAFETY: this thread set `busy`, so the last run has ended and no worker is inside; `body` outlives
        // this call, which closes the gate and waits for every joiner before it returns.
        unsafe { shared.open(tasks, body) };
        shared.take_tasks(tasks, body);
        shared.close();
        let panic = if shared.panicked.load(Ordering::Relaxed) { locked(&shared.panic).take() } else { None };
        shared.panicked.store(false, Ordering::Relaxed);
        shared.busy.0.store(false, Ordering::Release);
        if let Some(payload) = panic {
            resume_unwind(payload);
        }
    }
}

impl Drop for Team {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::SeqCst);
        drop(locked(&self.shared.bed));
        self.shared.bell.notify_all();
        for worker in self.workers.drain(..) {
            // A worker catches what bodies throw, so there is nothing to hear from it.
            let _ = worker.join();
        }
    }
}

impl fmt::Debug for Team {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("Team").field("threads", &self.threads()).finish()
    }
}

/// A run's body with its lifetime erased; valid while the gate is open or a joiner has not left.
#[derive(Clone, Copy)]
struct Job {
    tasks: usize,
    body: *const (dyn Fn(usize) + Sync),
}

/// Keeps words that different threads write out of each other's cache lines (128: lines are fetched in pairs).
#[repr(align(128))]
struct Padded<T>(T);

struct Shared {
    /// Epoch, open bit and number of joiners in one word, so that joining and closing exclude each other.
    gate: Padded<AtomicU64>,
    /// The next task to hand out.
    next: Padded<AtomicUsize>,
    /// Joiners that have left the run.
    left: Padded<AtomicU64>,
    /// Whether a run is under way.
    busy: Padded<AtomicBool>,
    job: UnsafeCell<Option<Job>>,
    panicked: AtomicBool,
    panic: Mutex<Option<Box<dyn Any + Send>>>,
    sleepers: AtomicUsize,
    stop: AtomicBool,
    bed: Mutex<()>,
    bell: Condvar,
}

// SAFETY: every field but `job` is Sync by itself. `job` is written only by the thread that holds `busy` while no
// worker is inside, published by the gate's release store, and read only by joiners after an acquire of the gate.
unsafe impl Sync for Shared {}
// SAFETY: as above; the raw pointer in `job` is only followed inside a run.
unsafe impl Send for Shared {}

impl Shared {
    fn new() -> Self {
        Self {
            gate: Padded(AtomicU64::new(0)),
            next: Padded(AtomicUsize::new(0)),
            left: Padded(AtomicU64::new(0)),
            busy: Padded(AtomicBool::new(false)),
            job: UnsafeCell::new(None),
            panicked: AtomicBool::new(false),
            panic: Mutex::new(None),
            sleepers: AtomicUsize::new(0),
            stop: AtomicBool::new(false),
            bed: Mutex::new(()),
            bell: Condvar::new(),
        }
    }

    /// Publishes a run and wakes sleepers.
    ///
    /// # Safety
    /// The caller holds `busy`, no worker is inside a run, and `body` lives until [`Shared::close`] returned.
    unsafe fn open(&self, tasks: usize, body: &(dyn Fn(usize) + Sync)) {
        // SAFETY: only the lifetime changes, and the caller keeps the body alive for as long as it is used.
        let body = unsafe {
            std::mem::transmute::<*const (dyn Fn(usize) + Sync + '_), *const (dyn Fn(usize) + Sync + 'static)>(
                std::ptr::from_ref(body),
            )
        };
        // SAFETY: nobody reads `job` while the gate is shut and all joiners have left.
        unsafe { *self.job.get() = Some(Job { tasks, body }) };
        self.next.0.store(0, Ordering::Relaxed);
        self.left.0.store(0, Ordering::Relaxed);
        let epoch = (self.gate.0.load(Ordering::Relaxed) >> EPOCH).wrapping_add(1);
        // SeqCst here and on `sleepers`: either this thread sees a sleeper or the sleeper sees the open gate.
        self.gate.0.store(epoch << EPOCH | OPEN, Ordering::SeqCst);
        if self.sleepers.load(Ordering::SeqCst) > 0 {
            drop(locked(&self.bed));
            self.bell.notify_all();
        }
    }

    /// Shuts the gate and waits until every joiner has left.
    fn close(&self) {
        let joined = self.gate.0.fetch_and(!OPEN, Ordering::AcqRel) & JOINED;
        let mut spins = 0u32;
        while self.left.0.load(Ordering::Acquire) != joined {
            spins = spins.saturating_add(1);
            // A joiner that takes this long may be off its core: let it have this one.
            if spins > 20_000 { std::thread::yield_now() } else { std::hint::spin_loop() }
        }
    }

    fn take_tasks(&self, tasks: usize, body: &(dyn Fn(usize) + Sync)) {
        let outcome = catch_unwind(AssertUnwindSafe(|| {
            loop {
                let task = self.next.0.fetch_add(1, Ordering::Relaxed);
                if task >= tasks {
                    break;
                }
                body(task);
            }
        }));
        if let Err(payload) = outcome {
            self.next.0.store(tasks, Ordering::Relaxed);
            locked(&self.panic).get_or_insert(payload);
            self.panicked.store(true, Ordering::Relaxed);
        }
    }

    /// A worker's life: wait for an open gate it has not been through, join, take tasks, leave.
    fn work(&self) {
        let mut seen = 0u64;
        while let Some(gate) = self.wait_for_run(seen) {
            seen = gate >> EPOCH;
            if !self.join(seen) {
                continue;
            }
            // SAFETY: joined, so the acquire in `join` saw the job's write, and it stays until this thread left.
            if let Some(job) = unsafe { *self.job.get() } {
                // SAFETY: the body lives until `close` has seen this thread leave.
                self.take_tasks(job.tasks, unsafe { &*job.body });
            }
            self.left.0.fetch_add(1, Ordering::Release);
        }
    }

    /// Adds this worker to run `epoch`; false when that run has been closed.
    fn join(&self, epoch: u64) -> bool {
        let joinable = |gate: u64| (gate >> EPOCH == epoch && gate & OPEN != 0).then_some(gate + 1);
        self.gate.0.fetch_update(Ordering::Acquire, Ordering::Relaxed, joinable).is_ok()
    }

    /// The gate of a run after `seen`, or nothing once the team is dropped.
    fn wait_for_run(&self, seen: u64) -> Option<u64> {
        let news = || {
            let gate = self.gate.0.load(Ordering::SeqCst);
            (gate >> EPOCH != seen && gate & OPEN != 0).then_some(gate)
        };
        let started = Instant::now();
        loop {
            for _ in 0..64 {
                if let Some(gate) = news() {
                    return Some(gate);
                }
                std::hint::spin_loop();
            }
            if self.stop.load(Ordering::SeqCst) {
                return None;
            }
            if started.elapsed() > SPIN {
                break;
            }
        }
        let mut bed = locked(&self.bed);
        self.sleepers.fetch_add(1, Ordering::SeqCst);
        let gate = loop {
            if let Some(gate) = news() {
                break Some(gate);
            }
            if self.stop.load(Ordering::SeqCst) {
                break None;
            }
            bed = self.bell.wait(bed).unwrap_or_else(PoisonError::into_inner);
        };
        self.sleepers.fetch_sub(1, Ordering::SeqCst);
        gate
    }
}

/// The locks here guard no invariant that a panic could break.
fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counts(team: &Team, tasks: usize) -> Vec<usize> {
        let counters: Vec<AtomicUsize> = (0..tasks).map(|_| AtomicUsize::new(0)).collect();
        team.run(tasks, &|task| {
            counters[task].fetch_add(1, Ordering::Relaxed);
        });
        counters.into_iter().map(AtomicUsize::into_inner).collect()
    }

    #[test]
    fn every_task_runs_exactly_once() {
        for threads in [1, 2, 3, 8] {
            let team = Team::new(threads).unwrap();
            assert_eq!(team.threads(), threads);
            for round in 0..if cfg!(miri) { 5 } else { 2000 } {
                let tasks = round % 37;
                assert_eq!(counts(&team, tasks), vec![1; tasks]);
            }
        }
    }

    #[test]
    fn a_sleeping_team_wakes() {
        let team = Team::new(3).unwrap();
        for _ in 0..5 {
            std::thread::sleep(4 * SPIN);
            assert_eq!(counts(&team, 10), vec![1; 10]);
        }
    }

    #[test]
    fn a_panic_in_a_body_reaches_the_caller_and_the_team_lives_on() {
        let team = Team::new(2).unwrap();
        for bad in [0, 7, 19] {
            let outcome = catch_unwind(AssertUnwindSafe(|| {
                team.run(20, &|task| assert!(task != bad, "task {task} is bad"));
            }));
            let payload = outcome.unwrap_err();
            assert_eq!(payload.downcast_ref::<String>().unwrap(), &format!("task {bad} is bad"));
            assert_eq!(counts(&team, 5), vec![1; 5]);
        }
    }

    #[test]
    fn a_run_inside_a_body_does_not_deadlock() {
        let team = Team::new(2).unwrap();
        let total = AtomicUsize::new(0);
        team.run(8, &|_| {
            team.run(8, &|_| {
                total.fetch_add(1, Ordering::Relaxed);
            });
        });
        assert_eq!(total.into_inner(), 64);
    }

    #[test]
    fn two_threads_may_share_a_team() {
        let team = Team::new(2).unwrap();
        std::thread::scope(|scope| {
            for _ in 0..3 {
                scope.spawn(|| (0..200).for_each(|_| assert_eq!(counts(&team, 9), vec![1; 9])));
            }
        });
    }

    #[test]
    fn an_empty_team_is_refused() {
        assert!(matches!(Team::new(0), Err(KernelError::Invalid { .. })));
        assert!(matches!(Team::new(1 << 20), Err(KernelError::Invalid { .. })));
    }
}
