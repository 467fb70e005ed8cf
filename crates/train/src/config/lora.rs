//! Thin factors beside weights that are held.

use serde::{Deserialize, Serialize};

/// Widest inner width.
pub(super) const MAX_RANK: usize = 4096;

/// LoRA factors (Hu et al. 2021, arXiv 2106.09685), for `train: lora`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Lora {
    /// Inner width r.
    pub rank: usize,
    /// The product of the factors is multiplied by alpha / r.
    pub alpha: f64,
    /// Ends of the names of the modules that have factors; empty for every linear layer between embedding and head.
    pub targets: Vec<String>,
}

impl Default for Lora {
    fn default() -> Self {
        Self { rank: 16, alpha: 32.0, targets: Vec::new() }
    }
}

impl Lora {
    /// Everything that is wrong on its own.
    pub(super) fn problems(&self) -> Vec<String> {
        let mut problems = Vec::new();
        if !(1..=MAX_RANK).contains(&self.rank) {
            problems.push(format!("lora.rank is {}; from 1 to {MAX_RANK} is allowed", self.rank));
        }
        if !(self.alpha > 0.0 && self.alpha.is_finite()) {
            problems.push(format!("lora.alpha is {}; a positive number is needed", self.alpha));
        }
        problems
    }
}
