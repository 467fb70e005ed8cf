//! The gates of one layer in training.

use std::ops::Range;

use dropcap_kernels::{Epilogue, Orientation, Team};
use dropcap_methods::GateLayout;

use super::matrix::Matrix;
use super::parameters::{Group, Layout};
use crate::TrainError;

/// The form of the gates of all layers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GateForm {
    /// Gate heads G of each layer: 1, or one per KV head.
    pub heads: usize,
    /// Width r of each gate head.
    pub width: usize,
}

/// Two maps and the biases of one layer (arXiv 2305.15805, section 3), whose inputs may be scaled per channel.
#[derive(Debug)]
pub(super) struct GateSlots {
    pub(super) query: Matrix,
    pub(super) key: Matrix,
    pub(super) bias: Range<usize>,
}

impl GateForm {
    /// Appends the gates of one layer to a layout, under the names of our gate files.
    pub(super) fn add(self, layout: &mut Layout, layer: usize, hidden: usize) {
        let rows = self.heads * self.width;
        let [query, key, bias] = GateLayout::Dropcap.names(layer);
        layout.add(query, vec![rows, hidden], Group::Gates);
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
        let rows = self.heads * self.width;
        let [query, key, bias] = GateLayout::Dropcap.names(layer);
        let map = |name: &str| -> Result<Matrix, TrainError> {
            let mut map = Matrix::new(layout.range(name)?, None, rows, hidden, Orientation::OutputsByInputs)?;
            if let Some(scale) = scale {
                map.rescale(scale.to_vec());
            }
            Ok(map)
        };
        Ok(GateSlots { query: map(&query)?, key: map(&key)?, bias: layout.range(&bias)? })
    }
}

impl GateSlots {
    pub(super) fn rescale(&mut self, scale: &[f32]) {
        self.query.rescale(scale.to_vec());
        self.key.rescale(scale.to_vec());
    }

    pub(super) fn refill(
        &mut self,
        team: &Team,
        values: &[f32],
        trained: &Range<usize>,
    ) -> Result<(), TrainError> {
        self.query.refill(team, values, trained)?;
        self.key.refill(team, values, trained)
    }

    /// Query and key gates `[t, G r]` of all rows.
    pub(super) fn apply(
        &self,
        team: &Team,
        values: &[f32],
        hidden: &[f32],
        query: &mut [f32],
        key: &mut [f32],
    ) -> Result<(), TrainError> {
        self.query.apply(team, values, hidden, Epilogue::Store, query)?;
        self.key.apply(team, values, hidden, Epilogue::Store, key)
    }
}
