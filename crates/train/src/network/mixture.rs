//! What a window shows, mixed with what a dense pass saw, by a share per KV head.

use dropcap_kernels::Team;
use dropcap_model::DecoderConfig;

use super::Network;
use super::activations::Activations;
use super::pruning::Pruning;
use crate::TrainError;

/// One layer's mixture.
pub(super) struct Mixture<'a> {
    /// Shares of this layer, `[g]`, as they are trained.
    pub(super) shares: &'a [f32],
    /// Attention's output in the dense pass, `[t, h d]`.
    pub(super) full: &'a [f32],
    /// Numbers of a row that have a share in common: `h / g * d`.
    pub(super) width: usize,
    /// Place of the first share among those of all layers.
    pub(super) first: usize,
}

impl<'a> Mixture<'a> {
    /// That of a layer, where the pruning mixes.
    pub(super) fn of(
        pruning: &Pruning<'a>,
        layer: usize,
        config: &DecoderConfig,
    ) -> Result<Option<Self>, TrainError> {
        let &Pruning::Mixed { shares, full, .. } = pruning else { return Ok(None) };
        let (heads, first) = (config.kv_heads, layer * config.kv_heads);
        match (shares.get(first..first + heads), full.get(layer)) {
            (Some(shares), Some(full)) => {
                Ok(Some(Self { shares, full, width: config.query_width() / heads, first }))
            }
            _ => {
                let (shares, layers) = (shares.len(), full.len());
                let what = format!("{shares} shares and a dense pass of {layers} layers for layer {layer}");
                Err(TrainError::Internal { what })
            }
        }
    }

    /// Keeps what the window showed in `streaming` and leaves the mixture in `mixed`, both `[t, h d]`.
    pub(super) fn blend(&self, mixed: &mut [f32], streaming: &mut Vec<f32>) -> Result<(), TrainError> {
        if mixed.len() != self.full.len() {
            let what = format!("a dense pass of {} numbers for {}", self.full.len(), mixed.len());
            return Err(TrainError::Internal { what });
        }
        streaming.clear();
        streaming.extend_from_slice(mixed);
        let full = self.full.chunks_exact(self.width);
        for ((mixed, full), share) in
            mixed.chunks_exact_mut(self.width).zip(full).zip(self.shares.iter().cycle())
        {
            let share = share.clamp(0.0, 1.0);
            mixed
                .iter_mut()
                .zip(full)
                .for_each(|(mixed, full)| *mixed = (1.0 - share) * *mixed + share * full);
        }
        Ok(())
    }

    /// Turns the gradient of the mixture `[t, h d]` into that of what the window showed, and adds those of the shares to `d_shares`
    /// `[L g]`. Nothing comes back to the dense pass, and nothing to a share outside of 0 to 1.
    pub(super) fn back(&self, streaming: &[f32], d_mixed: &mut [f32], d_shares: &mut [f64]) {
        let heads = self.shares.len();
        let rows = streaming.chunks_exact(self.width).zip(self.full.chunks_exact(self.width));
        for (index, (d_mixed, (streaming, full))) in
            d_mixed.chunks_exact_mut(self.width).zip(rows).enumerate()
        {
            let share = self.shares[index % heads];
            if (0.0..=1.0).contains(&share) {
                let pairs = d_mixed.iter().zip(full.iter().zip(streaming));
                let sum: f64 = pairs.map(|(d, (full, near))| f64::from(*d) * f64::from(full - near)).sum();
                d_shares[self.first + index % heads] += sum;
            }
            let rest = 1.0 - share.clamp(0.0, 1.0);
            d_mixed.iter_mut().for_each(|d| *d *= rest);
        }
    }
}

impl Network {
    /// Attention's output in every layer of a dense pass over `ids` `[b, T]`, `[L][t, h d]`; the last hidden states, after the final
    /// norm, are in `activations` ([`Activations::hidden`]).
    ///
    /// # Errors
    /// As [`Network::forward`].
    pub fn attended(
        &self,
        team: &Team,
        values: &[f32],
        ids: &[u32],
        activations: &mut Activations,
    ) -> Result<Vec<Vec<f32>>, TrainError> {
        self.embed(values, ids, activations)?;
        let mut attended = Vec::with_capacity(self.layers.len());
        for layer in 0..self.layers.len() {
            self.layer_forward(team, values, &Pruning::Dense, layer, activations)?;
            attended.push(activations.layers[activations.slot(layer)].mixed.clone());
        }
        let Activations { residual, normed, .. } = activations;
        self.final_norm.apply(
            team,
            values,
            residual.last().map(Vec::as_slice).unwrap_or_default(),
            normed,
        )?;
        Ok(attended)
    }

    /// How far the last hidden states of a forward pass are from those of another over the same tokens: squared differences, their
    /// mean over channels and over the rows that count, `[t]`. Leaves its gradient in `activations` for [`Network::backward`].
    ///
    /// # Errors
    /// No row that counts; states of another shape.
    pub fn distance(
        &self,
        teacher: &[f32],
        counts: &[bool],
        activations: &mut Activations,
    ) -> Result<f64, TrainError> {
        let width = self.config.hidden;
        let rows = counts.iter().filter(|counts| **counts).count();
        let Activations { normed, scratch, .. } = activations;
        if rows == 0 || teacher.len() != normed.len() || counts.len() * width != normed.len() {
            let what = format!(
                "{rows} of {} rows of {} numbers against {}",
                counts.len(),
                normed.len(),
                teacher.len()
            );
            return Err(TrainError::Internal { what });
        }
        let scale = 1.0 / (rows * width) as f64;
        let mut sum = 0.0;
        scratch.d_input.fill(0.0);
        let all = normed.chunks_exact(width).zip(teacher.chunks_exact(width)).zip(counts);
        for (((own, taught), counts), into) in all.zip(scratch.d_input.chunks_exact_mut(width)) {
            if *counts {
                for ((own, taught), into) in own.iter().zip(taught).zip(into) {
                    let difference = f64::from(own - taught);
                    sum += difference * difference;
                    *into = (2.0 * scale * difference) as f32;
                }
            }
        }
        Ok(sum * scale)
    }
}
