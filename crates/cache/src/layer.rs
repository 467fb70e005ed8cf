//! The number of a layer.

use std::fmt;

/// A layer of the model, counted from 0 at the embeddings' side.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LayerIdx(pub usize);

impl fmt::Display for LayerIdx {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(out)
    }
}
