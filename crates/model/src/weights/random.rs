//! Random weights, for measuring a shape without its checkpoint.

use super::{BiasOf, MatrixOf, Source, Storage, VectorOf};
use crate::{MatrixPlan, ModelError, VectorPart};

/// Largest magnitude: small enough for activations to stay finite through any number of layers.
const SCALE: f32 = 0.02;

pub(super) struct Random<'a, S> {
    pub(super) storage: &'a S,
    /// Every matrix has the next one.
    pub(super) seed: u64,
}

impl<S: Storage> Source for Random<'_, S> {
    type Storage = S;

    fn matrix(
        &mut self,
        plan: &MatrixPlan,
        outputs: usize,
        table: bool,
    ) -> Result<MatrixOf<Self>, ModelError> {
        self.seed = self.seed.wrapping_add(1);
        let held = self.storage.held(plan.inputs, table, &[]);
        self.storage.random(outputs, plan.inputs, held, SCALE, self.seed)
    }

    fn bias(&mut self, parts: &[VectorPart]) -> Result<BiasOf<Self>, ModelError> {
        self.storage.bias(vec![0.0; parts.iter().map(|part| part.length).sum()])
    }

    fn vector(&mut self, part: &VectorPart, untrained: f32) -> Result<VectorOf<Self>, ModelError> {
        self.storage.vector(vec![untrained; part.length])
    }

    fn storage(&self) -> &S {
        self.storage
    }
}
