//! The gates of one layer in training.

use std::ops::Range;

use dropcap_kernels::{Epilogue, Orientation, Team};
use dropcap_methods::{GateKind, GateLayout};

use super::matrix::Matrix;
use super::parameters::{Group, Layout};
use crate::TrainError;

/// The form of the gates of all layers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GateForm {
    /// When they decide.
    pub kind: GateKind,
    /// Gate heads G of each layer: 1, or one per KV head.
    pub heads: usize,
    /// Width r of each gate head; 1 for gates that decide at birth.
    pub width: usize,
}

/// Two maps and the biases of one layer (arXiv 2305.15805, section 3), whose inputs may be scaled per channel.
///
/// Gates that decide at birth have no query map: every query gate is 1, so that all later tokens vote alike, the first of
/// them decides, and everything that holds of votes holds of them.
#[derive(Debug)]
pub(super) struct GateSlots {
    pub(super) query: Option<Matrix>,
    pub(super) key: Matrix,
    pub(super) bias: Range<usize>,
}

impl GateForm {
    /// Gates by which later tokens vote.
    #[must_use]
    pub fn votes(heads: usize, width: usize) -> Self {
        Self { kind: GateKind::Votes, heads, width }
    }

    /// Gates that decide at birth.
    #[must_use]
    pub fn at_birth(heads: usize) -> Self {
        Self { kind: GateKind::Birth, heads, width: 1 }
    }

    /// Numbers of a token's query gates, and of its key gates: G r.
    pub(crate) fn row(self) -> usize {
        self.heads * self.width
    }

    /// Appends the gates of one layer to a layout, under the names of our gate files.
    pub(super) fn add(self, layout: &mut Layout, layer: usize, hidden: usize) {
        let rows = self.row();
        let [query, key, bias] = GateLayout::Dropcap.names(layer);
        if self.kind.votes() {
            layout.add(query, vec![rows, hidden], Group::Gates);
        }
        layout.add(key, vec![rows, hidden], Group::Gates);
        layout.add(bias, vec![self.heads], Group::Gates);
    }

    /// The gates of one layer of a layout. `scale` `[c]` multiplies each channel of their input.
    pub(super) fn slots(
        self,
        layout: &Layout,
        layer: usize,
        hidden: usize,
        scale: Option<&[f32]>,
    ) -> Result<GateSlots, TrainError> {
        let rows = self.row();
        let [query, key, bias] = GateLayout::Dropcap.names(layer);
        let map = |name: &str| -> Result<Matrix, TrainError> {
            let mut map = Matrix::new(layout.range(name)?, None, rows, hidden, Orientation::OutputsByInputs)?;
            if let Some(scale) = scale {
                map.rescale(scale.to_vec());
            }
            Ok(map)
        };
        let query = self.kind.votes().then(|| map(&query)).transpose()?;
        Ok(GateSlots { query, key: map(&key)?, bias: layout.range(&bias)? })
    }
}

impl GateSlots {
    pub(super) fn rescale(&mut self, scale: &[f32]) {
        if let Some(query) = &mut self.query {
            query.rescale(scale.to_vec());
        }
        self.key.rescale(scale.to_vec());
    }

    pub(super) fn refill(
        &mut self,
        team: &Team,
        values: &[f32],
        trained: &Range<usize>,
    ) -> Result<(), TrainError> {
        if let Some(query) = &mut self.query {
            query.refill(team, values, trained)?;
        }
        self.key.refill(team, values, trained)
    }

    /// Query and key gates `[t, G r]` of all rows; constant query gates stay as they are.
    pub(super) fn apply(
        &self,
        team: &Team,
        values: &[f32],
        hidden: &[f32],
        query: &mut [f32],
        key: &mut [f32],
    ) -> Result<(), TrainError> {
        if let Some(map) = &self.query {
            map.apply(team, values, hidden, Epilogue::Store, query)?;
        }
        self.key.apply(team, values, hidden, Epilogue::Store, key)
    }
}
