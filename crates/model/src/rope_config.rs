//! Rotary positions: what a config says of them, and the frequencies that follow.

use std::f64::consts::PI;

use crate::config_json::ConfigJson;
use crate::decoder_config::MAX_POSITIONS;
use crate::error::ModelError;

/// The rotation of queries and keys by their positions.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct RopeConfig {
    /// Base of the geometric series of wavelengths.
    pub theta: f64,
    /// How the frequencies are changed for texts longer than those of pretraining.
    pub scaling: RopeScaling,
}

/// The changes of frequencies that are supported; names and definitions of `transformers` 5.2
/// (`modeling_rope_utils.py`).
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum RopeScaling {
    /// Frequencies as they are.
    Default,
    /// All frequencies divided by a factor.
    Linear {
        /// The divisor.
        factor: f64,
    },
    /// Low frequencies divided, high ones kept, those between blended (Llama 3.1).
    Llama3 {
        /// The divisor.
        factor: f64,
        /// Wavelengths above `original_positions / low_frequency_factor` are divided.
        low_frequency_factor: f64,
        /// Wavelengths below `original_positions / high_frequency_factor` are kept.
        high_frequency_factor: f64,
        /// Positions of pretraining.
        original_positions: usize,
    },
    /// Blended by how often a pair of dimensions turns within the positions of pretraining (YaRN,
    /// Peng et al. 2023, arXiv 2309.00071).
    Yarn {
        /// The divisor.
        factor: f64,
        /// Turns from which on a frequency is kept.
        beta_fast: f64,
        /// Turns up to which a frequency is divided.
        beta_slow: f64,
        /// Positions of pretraining.
        original_positions: usize,
        /// Multiplies sine and cosine.
        attention_factor: f64,
        /// Whether the bounds of the blend are rounded to whole dimensions.
        truncate: bool,
    },
}

/// Bounds of every factor: within them no frequency overflows or vanishes in f32.
const SMALLEST: f64 = 1e-6;
const LARGEST: f64 = 1e6;
const SUPPORTED: &str = "the kinds supported are default, linear, llama3 and yarn";

impl RopeConfig {
    /// Reads `rope_parameters`, or the older `rope_theta` and `rope_scaling`.
    pub(crate) fn read(json: &ConfigJson, max_positions: usize) -> Result<Self, ModelError> {
        let theta = json.number_or("rope_theta", 1.0, 1e15, 10_000.0)?;
        no_partial_rotation(json)?;
        let section = match json.section("rope_scaling")? {
            Some(section) => Some(section),
            None => json.section("rope_parameters")?,
        };
        let Some(section) = section else { return Ok(Self { theta, scaling: RopeScaling::Default }) };
        no_partial_rotation(&section)?;
        let theta = section.number_or("rope_theta", 1.0, 1e15, theta)?;
        let kind = match section.text("rope_type")? {
            Some(kind) => Some(kind),
            None => section.text("type")?,
        };
        let scaling = match kind {
            None | Some("default") => RopeScaling::Default,
            Some("linear") => RopeScaling::Linear { factor: section.number("factor", SMALLEST, LARGEST)? },
            Some("llama3") => llama3(json, &section, max_positions)?,
            Some("yarn") => yarn(json, &section, max_positions)?,
            Some(_) => {
                let key = if section.get("rope_type").is_some() { "rope_type" } else { "type" };
                return Err(section.unsupported(key, SUPPORTED));
            }
        };
        Ok(Self { theta, scaling })
    }

    /// The frequencies of `head_dim / 2` pairs of dimensions, in radians per position, and what sine and cosine
    /// are multiplied by.
    ///
    /// Computed in f32 in the order of `transformers`, so that angles at large positions agree.
    pub fn frequencies(&self, head_dim: usize) -> (Vec<f32>, f32) {
        let theta = self.theta as f32;
        let wave = |pair: usize| theta.powf((2 * pair) as f32 / head_dim as f32);
        let pairs = 0..head_dim / 2;
        match self.scaling {
            RopeScaling::Default => (pairs.map(|pair| 1.0 / wave(pair)).collect(), 1.0),
            RopeScaling::Linear { factor } => {
                (pairs.map(|pair| 1.0 / wave(pair) / factor as f32).collect(), 1.0)
            }
            RopeScaling::Llama3 {
                factor,
                low_frequency_factor,
                high_frequency_factor,
                original_positions,
            } => {
                let (low, high, original) =
                    (low_frequency_factor, high_frequency_factor, original_positions as f64);
                let blend = |frequency: f32| {
                    let length = (2.0 * PI) as f32 / frequency;
                    if length < (original / high) as f32 {
                        return frequency;
                    }
                    if length > (original / low) as f32 {
                        return frequency / factor as f32;
                    }
                    let smooth = (original as f32 / length - low as f32) / (high - low) as f32;
                    (1.0 - smooth) * frequency / factor as f32 + smooth * frequency
                };
                (pairs.map(|pair| blend(1.0 / wave(pair))).collect(), 1.0)
            }
            RopeScaling::Yarn { factor, attention_factor, .. } => {
                let (first, last) = self.yarn_bounds(head_dim);
                let blend = |pair: usize| {
                    let ramp = ((pair as f32 - first as f32) / (last - first) as f32).clamp(0.0, 1.0);
                    // Written as one minus one minus the ramp, which rounds as the original does.
                    let keep = 1.0 - ramp;
                    1.0 / (factor as f32 * wave(pair)) * (1.0 - keep) + 1.0 / wave(pair) * keep
                };
                (pairs.map(blend).collect(), attention_factor as f32)
            }
        }
    }

    /// Between which pairs of dimensions YaRN blends.
    fn yarn_bounds(&self, head_dim: usize) -> (f64, f64) {
        let RopeScaling::Yarn { beta_fast, beta_slow, original_positions, truncate, .. } = self.scaling
        else {
            return (0.0, 0.0);
        };
        let width = head_dim as f64;
        let turning = |turns: f64| {
            width * (original_positions as f64 / (turns * 2.0 * PI)).ln() / (2.0 * self.theta.ln())
        };
        let (mut first, mut last) = (turning(beta_fast), turning(beta_slow));
        if truncate {
            (first, last) = (first.floor(), last.ceil());
        }
        (first, last) = (first.max(0.0), last.min(width - 1.0));
        // Equal bounds would divide by zero.
        if first == last { (first, last + 0.001) } else { (first, last) }
    }
}

fn no_partial_rotation(json: &ConfigJson) -> Result<(), ModelError> {
    if json.number_or("partial_rotary_factor", 0.0, 1.0, 1.0)? == 1.0 {
        Ok(())
    } else {
        Err(json.unsupported("partial_rotary_factor", "whole heads are rotated"))
    }
}

/// Positions of pretraining: the config's own key goes before that of the section, as in `transformers`.
fn original_positions(json: &ConfigJson, section: &ConfigJson, absent: usize) -> Result<usize, ModelError> {
    const KEY: &str = "original_max_position_embeddings";
    let within = section.count_or(KEY, MAX_POSITIONS, absent)?;
    json.count_or(KEY, MAX_POSITIONS, within)
}

fn llama3(json: &ConfigJson, section: &ConfigJson, max_positions: usize) -> Result<RopeScaling, ModelError> {
    let low = section.number("low_freq_factor", SMALLEST, LARGEST)?;
    let high = section.number("high_freq_factor", SMALLEST, LARGEST)?;
    if high <= low {
        return Err(section.refuse("high_freq_factor", format!("above low_freq_factor, which is {low}")));
    }
    Ok(RopeScaling::Llama3 {
        factor: section.number("factor", SMALLEST, LARGEST)?,
        low_frequency_factor: low,
        high_frequency_factor: high,
        original_positions: original_positions(json, section, max_positions)?,
    })
}

fn yarn(json: &ConfigJson, section: &ConfigJson, max_positions: usize) -> Result<RopeScaling, ModelError> {
    let original_positions = original_positions(json, section, max_positions)?;
    let factor =
        section.number_or("factor", SMALLEST, LARGEST, max_positions as f64 / original_positions as f64)?;
    let beta_fast = section.number_or("beta_fast", SMALLEST, LARGEST, 32.0)?;
    let beta_slow = section.number_or("beta_slow", SMALLEST, LARGEST, 1.0)?;
    if beta_fast <= beta_slow {
        return Err(section.refuse("beta_fast", format!("above beta_slow, which is {beta_slow}")));
    }
    let attention = |scale: f64| if factor <= 1.0 { 1.0 } else { 0.1 * scale * factor.ln() + 1.0 };
    let mscale = section.number_or("mscale", SMALLEST, LARGEST, 0.0)?;
    let mscale_all = section.number_or("mscale_all_dim", SMALLEST, LARGEST, 0.0)?;
    let by_factor = if mscale != 0.0 && mscale_all != 0.0 {
        attention(mscale) / attention(mscale_all)
    } else {
        attention(1.0)
    };
    Ok(RopeScaling::Yarn {
        factor,
        beta_fast,
        beta_slow,
        original_positions,
        attention_factor: section.number_or("attention_factor", SMALLEST, LARGEST, by_factor)?,
        truncate: section.flag_or("truncate", true)?,
    })
}
