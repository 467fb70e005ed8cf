//! The head and the loss, in slices of rows.

use dropcap_kernels::cross_entropy::IGNORE;
use dropcap_kernels::{Epilogue, RowLoss, Team, cross_entropy};

use super::Network;
use super::activations::Activations;
use crate::TrainError;

/// Rows whose logits exist at a time: `[256, v]` instead of the batch's `[t, v]`.
const SLICE: usize = 256;

/// Sums over the rows with a target.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Loss {
    /// Cross-entropy of the text, in nats.
    pub cross_entropy: f64,
    /// KL(teacher || student), in nats; 0 without a teacher.
    pub divergence: f64,
    /// Rows with a target.
    pub targets: usize,
}

impl Loss {
    /// Numbers that a loss consists of.
    pub const NUMBERS: usize = 3;

    /// The sums as numbers that can be added to those of another part.
    #[must_use]
    pub fn numbers(&self) -> [f64; Self::NUMBERS] {
        [self.cross_entropy, self.divergence, self.targets as f64]
    }

    /// The loss of [`Loss::numbers`]; whole numbers below 2^53 are exact.
    #[must_use]
    pub fn of_numbers([cross_entropy, divergence, targets]: [f64; Self::NUMBERS]) -> Self {
        Self { cross_entropy, divergence, targets: targets as usize }
    }

    /// The sums over the rows that have a target.
    #[must_use]
    pub fn of_rows(rows: &[RowLoss], targets: &[u32]) -> Self {
        let mut sum = Self::default();
        for (row, _) in rows.iter().zip(targets).filter(|&(_, &target)| target != IGNORE) {
            sum.cross_entropy += f64::from(row.cross_entropy);
            sum.divergence += f64::from(row.divergence);
            sum.targets += 1;
        }
        sum
    }

    /// Adds another part's sums.
    pub fn add(&mut self, other: Self) {
        self.cross_entropy += other.cross_entropy;
        self.divergence += other.divergence;
        self.targets += other.targets;
    }

    /// Cross-entropy per target, in nats.
    #[must_use]
    pub fn mean(&self) -> f64 {
        dropcap_scores::mean_nats(self.cross_entropy, self.targets as u64)
    }

    /// Perplexity per target.
    #[must_use]
    pub fn perplexity(&self) -> f64 {
        dropcap_scores::perplexity(self.cross_entropy, self.targets as u64)
    }

    /// Divergence per target, in nats.
    #[must_use]
    pub fn mean_divergence(&self) -> f64 {
        dropcap_scores::mean_nats(self.divergence, self.targets as u64)
    }
}

/// A model whose predictions are imitated.
#[derive(Debug, Clone, Copy)]
pub struct Teacher<'a> {
    /// Its network, packed.
    pub network: &'a Network,
    /// Its parameters.
    pub values: &'a [f32],
    /// Its forward pass over the same tokens.
    pub activations: &'a Activations,
}

/// How much a teacher counts.
#[derive(Debug, Clone, Copy)]
pub struct Distillation<'a> {
    /// Whom to imitate.
    pub teacher: Teacher<'a>,
    /// Share s of the divergence: the loss is (1 - s) cross-entropy + s KL(teacher || student).
    pub share: f32,
}

/// Where gradients are added, and what the loss is multiplied by for them.
#[derive(Debug)]
pub struct Gradients<'a> {
    /// Such as 1 / number of targets.
    pub scale: f32,
    /// Of the parameters that are trained.
    pub into: &'a mut [f32],
}

impl Network {
    /// The loss of `targets` `[b, T]` ([`IGNORE`] for none) after a forward pass.
    ///
    /// With `gradients`, also adds the head's gradient of the scaled loss, and leaves that of its input in
    /// `activations`, where [`Network::backward`] picks it up. Logits live a slice of rows at a time.
    ///
    /// # Errors
    /// Targets outside the vocabulary, or another number of them than there are rows.
    pub fn loss(
        &self,
        team: &Team,
        values: &[f32],
        targets: &[u32],
        distillation: Option<Distillation<'_>>,
        activations: &mut Activations,
        gradients: Option<Gradients<'_>>,
    ) -> Result<Loss, TrainError> {
        let rows = self.row_losses(team, values, targets, distillation, activations, gradients)?;
        Ok(Loss::of_rows(&rows, targets))
    }

    /// As [`Network::loss`], of each row by itself.
    ///
    /// # Errors
    /// As [`Network::loss`].
    pub fn row_losses(
        &self,
        team: &Team,
        values: &[f32],
        targets: &[u32],
        distillation: Option<Distillation<'_>>,
        activations: &mut Activations,
        mut gradients: Option<Gradients<'_>>,
    ) -> Result<Vec<RowLoss>, TrainError> {
        let (width, vocabulary) = (self.config.hidden, self.head.outputs());
        let rows = SLICE.min(activations.rows());
        let mut logits = vec![0.0; rows * vocabulary];
        let mut taught = vec![0.0; if distillation.is_some() { rows * vocabulary } else { 0 }];
        let mut all = vec![RowLoss::default(); targets.len()];
        let scale = gradients.as_ref().map_or(1.0, |gradients| gradients.scale);
        let Activations { normed, scratch, .. } = activations;
        let inputs = normed.chunks(rows * width).zip(scratch.d_input.chunks_mut(rows * width));
        let slices = targets.chunks(rows.max(1)).zip(all.chunks_mut(rows.max(1)));
        for (index, ((x, dx), (targets, losses))) in inputs.zip(slices).enumerate() {
            let logits = &mut logits[..targets.len() * vocabulary];
            self.head.apply(team, values, x, Epilogue::Store, logits)?;
            let mut share = 0.0;
            let mut teacher_logits = None;
            if let Some(Distillation { teacher, share: s }) = distillation {
                let taught = &mut taught[..targets.len() * vocabulary];
                let width = teacher.network.config.hidden;
                let x = &teacher.activations.normed[index * rows * width..][..targets.len() * width];
                teacher.network.head.apply(team, teacher.values, x, Epilogue::Store, taught)?;
                share = s;
                teacher_logits = Some(&*taught);
            }
            cross_entropy(team, logits, vocabulary, targets, teacher_logits, share, scale, losses)?;
            if let Some(gradients) = &mut gradients {
                let into = &mut self.layout.gradients(gradients.into);
                self.head.weight_gradient(team, x, logits, into)?;
                self.head.input_gradient(team, logits, Epilogue::Store, dx)?;
            }
        }
        Ok(all)
    }

    /// All logits of a forward pass, f32 `[t, v]`: for tests and probes, since they are as large as everything else
    /// together.
    ///
    /// # Errors
    /// Activations of another network.
    pub fn logits(
        &self,
        team: &Team,
        values: &[f32],
        activations: &Activations,
        logits: &mut Vec<f32>,
    ) -> Result<(), TrainError> {
        logits.resize(activations.rows() * self.head.outputs(), 0.0);
        self.head.apply(team, values, &activations.normed, Epilogue::Store, logits)
    }
}
