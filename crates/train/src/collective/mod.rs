//! Several processes that train one model: the same parameters everywhere, each its share of a step's batch.
//!
//! What every process has to know of a step (gradients, losses, keep ratios, whether somebody asked it to stop) is
//! summed over all of them by a [`Collective`]; everything that follows from those sums is then computed by each process
//! alone and comes out equal. Only the first process writes.

mod alone;
mod error;
mod star;
#[cfg(test)]
mod tests;
mod wire;
mod world;

use std::fmt::Debug;

pub use alone::Alone;
pub use error::CollectiveError;
pub use star::{PATIENCE, Star};
pub use world::{Meeting, World};

/// Processes that take every step together.
///
/// All processes of a world call the same verbs in the same order, with arrays of the same lengths. After an error the
/// world has fallen apart: every further verb fails too, here and, within a bounded time, everywhere else.
pub trait Collective: Debug + Send {
    /// Which process this is, and how many there are.
    fn world(&self) -> World;

    /// Adds up an array over all processes in the order of their ranks: each ends with the same bits.
    ///
    /// # Errors
    /// A process that is gone or asks for something else, by its rank.
    fn sum(&mut self, values: &mut [f32]) -> Result<(), CollectiveError>;

    /// [`Collective::sum`] of a few exact numbers: losses, counts, keep ratios.
    ///
    /// # Errors
    /// As [`Collective::sum`].
    fn sum_exact(&mut self, values: &mut [f64]) -> Result<(), CollectiveError>;

    /// Gives every process what the first one holds; what the others hold is replaced, whatever its length.
    ///
    /// # Errors
    /// As [`Collective::sum`].
    fn share(&mut self, bytes: &mut Vec<u8>) -> Result<(), CollectiveError>;

    /// Whether everybody is still there, as far as can be told without waiting: for who waits for something else that a lost
    /// process would never bring.
    ///
    /// # Errors
    /// A process that is gone, by its rank.
    fn check(&mut self) -> Result<(), CollectiveError>;
}
