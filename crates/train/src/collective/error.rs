//! Why processes did not find each other, or lost each other.

use std::io;
use std::time::Duration;

/// What can go wrong between processes.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CollectiveError {
    /// Variables of the environment that describe no world.
    #[error("{name} is `{given}`: {reason}")]
    Variable {
        /// The variable.
        name: &'static str,
        /// Its value.
        given: String,
        /// What it should be.
        reason: String,
    },
    /// A variable that others make necessary.
    #[error(
        "{present} is set and {missing} is not: set both, as torchrun and srun do, or neither to train with one process"
    )]
    Incomplete {
        /// A variable that is set.
        present: &'static str,
        /// The one that is missing.
        missing: &'static str,
    },
    /// The first process could not wait for the others.
    #[error("cannot wait for the other processes at {address}: {source}; is MASTER_PORT in use?")]
    Listen {
        /// The place where they meet.
        address: String,
        /// The operating system's reason.
        source: io::Error,
    },
    /// The first process was not found in time.
    #[error("no first process at {address} within {} s ({source}): does it run, and is MASTER_ADDR its host?", waited.as_secs())]
    NoFirst {
        /// The place where they meet.
        address: String,
        /// How long it was looked for.
        waited: Duration,
        /// What the last attempt came to.
        source: io::Error,
    },
    /// Not everybody came.
    #[error("after {} s only {came} of {size} processes are here; missing: {missing:?}", waited.as_secs())]
    Missing {
        /// Processes that are here, the first included.
        came: usize,
        /// Processes of the world.
        size: usize,
        /// Ranks that did not come.
        missing: Vec<usize>,
        /// How long was waited.
        waited: Duration,
    },
    /// Somebody came who does not belong here.
    #[error("a process came that does not belong to this run: {reason}")]
    Stranger {
        /// What does not fit.
        reason: String,
    },
    /// A process ended, or its connection broke.
    #[error(
        "process {rank} of {size} is lost ({reason}): the job ends here, its last saved state is whole, and it goes on from there with any number of processes"
    )]
    Lost {
        /// The process.
        rank: usize,
        /// Processes of the world.
        size: usize,
        /// What was noticed.
        reason: String,
    },
    /// Another process ended the job.
    #[error("the job was ended by process 0: {reason}")]
    Ended {
        /// Its words.
        reason: String,
    },
    /// Processes that do not take the same steps.
    #[error(
        "process {rank} asks for {asked} where process 0 asks for {expected}: do all processes run the same program and configuration?"
    )]
    Apart {
        /// The process.
        rank: usize,
        /// What it wants.
        asked: String,
        /// What the first one wants.
        expected: String,
    },
}
