//! What a dense model tells about itself before it is pruned: how each layer's channels are scaled, and how much each
//! layer loses by forgetting.

use dropcap_kernels::cross_entropy::IGNORE;
use dropcap_model::DecoderConfig;
use dropcap_policy::Floors;

use super::Sensitivity;
use crate::TrainError;
use crate::backend::{Backend, Measured};
use crate::network::Pruning;

/// First tokens that stay visible while a layer is cut short.
const SINKS: u32 = 4;
/// Windows that a layer is cut to, in 64ths of the text.
const WIDTHS: [usize; 5] = [1, 3, 7, 15, 31];
/// Share of the mean channel that keeps a silent channel's scale finite.
const SILENCE: f32 = 1e-3;

/// A model under examination, with the texts to examine it on; its gates are not looked at.
#[derive(Debug)]
pub struct Probe<'a> {
    /// What holds the model.
    pub backend: &'a mut dyn Backend,
    /// Its shape.
    pub config: &'a DecoderConfig,
    /// Token ids `[T]` of each text, of the run's length.
    pub texts: &'a [Vec<u32>],
}

impl Probe<'_> {
    /// For each layer, by what to multiply the channels `[c]` of the gates' input so that all are about 1 in size:
    /// the inverse of their root mean square over the texts.
    ///
    /// Layers exist whose channels differ by a factor of 500; gates that read those unscaled learn nothing.
    ///
    /// # Errors
    /// Texts that are empty or longer than the model's positions.
    pub fn input_scales(&mut self) -> Result<Vec<Vec<f32>>, TrainError> {
        let hidden = self.config.hidden;
        let mut squares = vec![vec![0.0_f64; hidden]; self.config.layers];
        let mut rows = 0_usize;
        for text in self.texts {
            rows += text.len();
            self.backend.gate_inputs(text, &mut |layer, input| {
                let Some(squares) = squares.get_mut(layer) else { return };
                for row in input.chunks_exact(hidden) {
                    squares.iter_mut().zip(row).for_each(|(sum, &x)| *sum += f64::from(x) * f64::from(x));
                }
            })?;
        }
        Ok(squares
            .into_iter()
            .map(|squares| {
                let sizes: Vec<f32> =
                    squares.iter().map(|sum| (sum / rows.max(1) as f64).sqrt() as f32).collect();
                let silence = SILENCE * sizes.iter().sum::<f32>() / sizes.len().max(1) as f32;
                sizes.into_iter().map(|size| 1.0 / (size + silence).max(f32::MIN_POSITIVE)).collect()
            })
            .collect())
    }

    /// How far the predictions of the texts' later halves move, as KL(dense || cut) in nats, when one layer alone
    /// sees a window of several widths.
    ///
    /// # Errors
    /// Texts that are empty or longer than the model's positions.
    pub fn sensitivities(&mut self) -> Result<Vec<Sensitivity>, TrainError> {
        let layers = self.config.layers;
        let mut sensitivities = vec![vec![(0.0, 0.0); WIDTHS.len()]; layers];
        for text in self.texts {
            for (layer, sensitivity) in sensitivities.iter_mut().enumerate() {
                for (point, width) in sensitivity.iter_mut().zip(WIDTHS) {
                    let recent = (text.len() * width / 64).max(1) as u32;
                    let (keep, moved) = self.cut(text, layer, recent)?;
                    point.0 += keep / self.texts.len() as f64;
                    point.1 += moved / self.texts.len() as f64;
                }
            }
        }
        Ok(sensitivities)
    }

    /// Keep ratio and divergence with one layer cut to its sinks and `recent` tokens.
    fn cut(&mut self, text: &[u32], layer: usize, recent: u32) -> Result<(f64, f64), TrainError> {
        let mut floors = vec![Floors { sinks: 0, recent: u32::MAX }; self.config.layers];
        floors[layer] = Floors { sinks: SINKS, recent };
        let pruning = Pruning::Windows { floors: &floors };
        let half = text.len() / 2;
        let targets: Vec<u32> =
            (0..text.len()).map(|row| if row < half { IGNORE } else { text[row] }).collect();
        let Measured { loss, keep } = self.backend.diverge(text, &targets, &pruning)?;
        Ok((keep.get(layer).copied().unwrap_or(1.0), loss.mean_divergence()))
    }
}
