//! Some of a model's KV heads.

use std::sync::Arc;

/// A set of KV heads, layer by layer; copies share it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HeadSet(Arc<[Vec<bool>]>);

impl HeadSet {
    /// The heads that `layers`, `[L][g]`, says `true` of.
    #[must_use]
    pub fn new(layers: Vec<Vec<bool>>) -> Self {
        Self(layers.into())
    }

    /// Which heads of a layer belong to it, `[g]`; none of a layer that it does not know.
    #[must_use]
    pub fn of(&self, layer: usize) -> &[bool] {
        self.0.get(layer).map_or(&[], Vec::as_slice)
    }
}
