//! One process is a world too.

use super::{Collective, CollectiveError, World};

/// A process that trains alone; every sum is what it holds.
#[derive(Debug, Clone, Copy, Default)]
pub struct Alone;

impl Collective for Alone {
    fn world(&self) -> World {
        World::ALONE
    }

    fn sum(&mut self, _values: &mut [f32]) -> Result<(), CollectiveError> {
        Ok(())
    }

    fn sum_exact(&mut self, _values: &mut [f64]) -> Result<(), CollectiveError> {
        Ok(())
    }

    fn share(&mut self, _bytes: &mut Vec<u8>) -> Result<(), CollectiveError> {
        Ok(())
    }

    fn check(&mut self) -> Result<(), CollectiveError> {
        Ok(())
    }
}
