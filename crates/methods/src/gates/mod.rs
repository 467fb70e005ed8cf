//! The parameters of the learned method: two linear maps and a bias per layer, or per KV head of each layer; one map where
//! entries are judged at birth.

mod layout;
mod load;
mod pack;
mod random;
mod save;

pub(crate) use layout::PUBLISHED_EXAMPLE;
pub use layout::{GateKind, GateLayout};

use dropcap_policy::{Floors, SettledFor};

use crate::MethodError;

/// What `dcp` looks for in a model's folder.
pub const GATES_FILE: &str = "pruning.safetensors";

/// The widest gate that is read, r. Published gates have r = 64; the bound keeps a file's claim from being
/// believed.
pub const MAX_GATE_WIDTH: usize = 4096;

/// The gates of all layers, in f32.
#[derive(Debug, Clone, PartialEq)]
pub struct Gates {
    kind: GateKind,
    hidden: usize,
    width: usize,
    heads: usize,
    layers: Vec<LayerGates>,
    floors: Floors,
    settled: SettledFor,
}

/// The gates of one layer (arXiv 2305.15805, section 3): `raw[n, j] = (W_q h_n) . (W_k h_j) / sqrt(r) + bias`, once
/// for the whole layer (G = 1) as in the paper, or for each KV head with its own r rows and its own bias (G = g). Gates
/// that decide at birth have `raw[j] = W_k h_j + bias`, which is the same with r = 1 and 1 for every `W_q h_n`.
#[derive(Debug, Clone, PartialEq)]
pub struct LayerGates {
    /// W_q, row-major f32 `[G r, c]`; empty for gates that decide at birth.
    pub query: Vec<f32>,
    /// W_k, row-major f32 `[G r, c]`.
    pub key: Vec<f32>,
    /// What is added to every score, `[G]`.
    pub bias: Vec<f32>,
}

impl Gates {
    /// Gates of width r over hidden states of width c, one [`LayerGates`] per layer. How many biases the first layer
    /// has says how many gate heads G there are.
    ///
    /// # Errors
    /// A matrix that is not `[G r, c]`, biases that are not `[G]`, or a width outside `1 ..= MAX_GATE_WIDTH`.
    pub fn new(hidden: usize, width: usize, layers: Vec<LayerGates>) -> Result<Self, MethodError> {
        Self::checked(GateKind::Votes, hidden, width, layers)
    }

    /// Gates that decide at birth, over hidden states of width c, one [`LayerGates`] without queries per layer. How many
    /// biases the first layer has says how many gate heads G there are.
    ///
    /// # Errors
    /// A key map that is not `[G, c]`, biases that are not `[G]`, or a query map.
    pub fn at_birth(hidden: usize, layers: Vec<LayerGates>) -> Result<Self, MethodError> {
        Self::checked(GateKind::Birth, hidden, 1, layers)
    }

    fn checked(
        kind: GateKind,
        hidden: usize,
        width: usize,
        layers: Vec<LayerGates>,
    ) -> Result<Self, MethodError> {
        if !(1..=MAX_GATE_WIDTH).contains(&width) {
            return Err(MethodError::OutOfRange {
                key: "width".into(),
                given: width.to_string(),
                allowed: format!("a gate width from 1 to {MAX_GATE_WIDTH}"),
            });
        }
        let heads = layers.first().map_or(1, |layer| layer.bias.len().max(1));
        let matrix = hidden.saturating_mul(width).saturating_mul(heads);
        let queries = if kind.votes() { matrix } else { 0 };
        for (index, layer) in layers.iter().enumerate() {
            let parts = [("query gate", &layer.query, queries), ("key gate", &layer.key, matrix)];
            for (name, numbers, expected) in parts.into_iter().chain([("bias", &layer.bias, heads)]) {
                if numbers.len() != expected {
                    let what = format!("the {name} of layer {index}");
                    return Err(MethodError::GateParts { what, expected, got: numbers.len() });
                }
            }
        }
        Ok(Self {
            kind,
            hidden,
            width,
            heads,
            layers,
            floors: Floors::default(),
            settled: SettledFor::default(),
        })
    }

    /// The same gates, trained under these floors and so meant to be used under them.
    #[must_use]
    pub fn under(self, floors: Floors) -> Self {
        Self { floors, ..self }
    }

    /// The same gates, with biases that were settled for this.
    #[must_use]
    pub fn settled_for(self, settled: SettledFor) -> Self {
        Self { settled, ..self }
    }

    /// When they decide.
    #[must_use]
    pub fn kind(&self) -> GateKind {
        self.kind
    }

    /// Width c of the hidden states that the gates read.
    #[must_use]
    pub fn hidden(&self) -> usize {
        self.hidden
    }

    /// Gate width r of each gate head; 1 where they decide at birth.
    #[must_use]
    pub fn width(&self) -> usize {
        self.width
    }

    /// Gate heads G of each layer: 1, or as many as the model has KV heads.
    #[must_use]
    pub fn heads(&self) -> usize {
        self.heads
    }

    /// The floors that the gates were trained under.
    #[must_use]
    pub fn floors(&self) -> Floors {
        self.floors
    }

    /// What the biases were settled for, as far as the file says.
    #[must_use]
    pub fn settled(&self) -> SettledFor {
        self.settled
    }

    /// One element per layer, from the embedding on.
    #[must_use]
    pub fn layers(&self) -> &[LayerGates] {
        &self.layers
    }
}

#[cfg(test)]
mod tests;
