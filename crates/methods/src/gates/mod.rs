//! The parameters of the learned method: two linear maps and a bias per layer.

mod layout;
mod load;
mod random;
mod save;

pub use layout::GateLayout;
pub(crate) use layout::PUBLISHED_EXAMPLE;

use crate::MethodError;

/// The widest gate that is read, r. Published gates have r = 64; the bound keeps a file's claim from being
/// believed.
pub const MAX_GATE_WIDTH: usize = 4096;

/// The gates of all layers, in f32.
#[derive(Debug, Clone, PartialEq)]
pub struct Gates {
    hidden: usize,
    width: usize,
    layers: Vec<LayerGates>,
}

/// The gates of one layer (arXiv 2305.15805, section 3): `raw[n, j] = (W_q h_n) . (W_k h_j) / sqrt(r) + bias`.
#[derive(Debug, Clone, PartialEq)]
pub struct LayerGates {
    /// W_q, row-major f32 `[r, c]`.
    pub query: Vec<f32>,
    /// W_k, row-major f32 `[r, c]`.
    pub key: Vec<f32>,
    /// What is added to every score.
    pub bias: f32,
}

impl Gates {
    /// Gates of width r over hidden states of width c, one [`LayerGates`] per layer.
    ///
    /// # Errors
    /// A matrix that is not `[r, c]`, or a width outside `1 ..= MAX_GATE_WIDTH`.
    pub fn new(hidden: usize, width: usize, layers: Vec<LayerGates>) -> Result<Self, MethodError> {
        if !(1..=MAX_GATE_WIDTH).contains(&width) {
            return Err(MethodError::OutOfRange {
                key: "width".into(),
                given: width.to_string(),
                allowed: format!("a gate width from 1 to {MAX_GATE_WIDTH}"),
            });
        }
        let expected = hidden.saturating_mul(width);
        for (index, layer) in layers.iter().enumerate() {
            for (name, matrix) in [("query", &layer.query), ("key", &layer.key)] {
                if matrix.len() != expected {
                    let what = format!("the {name} gate of layer {index}");
                    return Err(MethodError::GateParts { what, expected, got: matrix.len() });
                }
            }
        }
        Ok(Self { hidden, width, layers })
    }

    /// Width c of the hidden states that the gates read.
    #[must_use]
    pub fn hidden(&self) -> usize {
        self.hidden
    }

    /// Gate width r.
    #[must_use]
    pub fn width(&self) -> usize {
        self.width
    }

    /// One element per layer, from the embedding on.
    #[must_use]
    pub fn layers(&self) -> &[LayerGates] {
        &self.layers
    }
}

#[cfg(test)]
mod tests;
