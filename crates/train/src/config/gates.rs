//! The gates and the window that they are compared with.

use serde::{Deserialize, Serialize};

use super::choices::{GateGroup, GateRule, Scale};
use crate::network::GateForm;
use crate::schedule::AlphaSchedule;

/// The width of gates that vote, unless one is given.
const WIDTH: usize = 16;

/// A fixed window.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Window {
    /// First tokens that are never forgotten.
    pub sinks: u32,
    /// Latest tokens that are seen, the query itself included.
    pub recent: u32,
}

/// The gates.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Gates {
    /// Width of a gate, r; none where tokens decide about their own entries.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub width: Option<usize>,
    /// Which KV heads share a gate.
    pub per: GateGroup,
    /// First tokens that are never forgotten.
    pub sinks: u32,
    /// Latest tokens that are never forgotten.
    pub recent: u32,
    /// Who decides, and how gates act while they are trained.
    pub rule: GateRule,
    /// The bias that gates start with.
    pub bias: f64,
    /// The sharpness of soft gates by step.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub alpha: Option<AlphaSchedule>,
    /// Random thresholds of hard gates.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub noise: Option<Noise>,
    /// How the gates' input is scaled.
    pub scale: Scale,
}

impl Gates {
    /// The form of a layer's gates in a model of so many KV heads.
    #[must_use]
    pub fn form(&self, kv_heads: usize) -> GateForm {
        let heads = if self.per == GateGroup::KvHead { kv_heads } else { 1 };
        match self.rule {
            GateRule::Soft | GateRule::Hard => GateForm::votes(heads, self.width()),
            GateRule::Birth => GateForm::at_birth(heads),
        }
    }

    /// The width of gates that vote.
    pub(super) fn width(&self) -> usize {
        self.width.unwrap_or(WIDTH)
    }
}

/// Logistic noise on the thresholds of hard gates, which falls linearly to nothing.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Noise {
    /// Its scale at the start.
    pub start: f64,
    /// The share of the steps after which there is none.
    pub until: f64,
}

impl Noise {
    /// The scale at a step of so many.
    pub fn at(&self, step: u64, steps: u64) -> f64 {
        let share = step as f64 / steps.max(1) as f64;
        self.start * (1.0 - share / self.until).max(0.0)
    }
}

impl Default for Window {
    fn default() -> Self {
        Self { sinks: 4, recent: 150 }
    }
}

impl Default for Gates {
    fn default() -> Self {
        Self {
            width: None,
            per: GateGroup::KvHead,
            sinks: 4,
            recent: 16,
            rule: GateRule::Hard,
            bias: 2.0,
            alpha: None,
            noise: None,
            scale: Scale::Rms,
        }
    }
}

impl Default for Noise {
    fn default() -> Self {
        Self { start: 1.0, until: 0.85 }
    }
}
