//! What is learned of a step's batch.

use std::time::Instant;

use dropcap_kernels::cross_entropy::IGNORE;

use super::Trainer;
use crate::TrainError;
use crate::config::Select;
use crate::data::Batch;
use crate::select::{Account, Fate, Kept, QTuning, pack};

impl Trainer {
    /// The part of a batch that is learned, in as few windows as it needs, and an account of each file's examples; all of it and
    /// none where nothing is chosen batch by batch.
    ///
    /// The model that is looked at is the present one under the policy of inference. Each process looks at its share of the
    /// batch and all decide alike, so the choice is a function of the parameters, the seed and the step.
    ///
    /// # Errors
    /// Tokens outside the model; a failed device; a process that is lost.
    pub(super) fn chosen(&mut self, batch: Batch) -> Result<(Batch, Option<Vec<Account>>), TrainError> {
        let Some(Select::QTuning { sample, token, lambda }) = self.config.data.select else {
            return Ok((batch, None));
        };
        let begun = Instant::now();
        let (nll, entropy) = self.survey(&batch)?;
        let learned = |rows: &std::ops::Range<usize>| -> Vec<usize> {
            // The last row predicts another's first token.
            (rows.start..rows.end - 1).filter(|&row| batch.targets[row] != IGNORE).collect()
        };
        let rows: Vec<Vec<usize>> = batch.examples.iter().map(learned).collect();
        let of = |numbers: &[f64], rows: &[usize]| rows.iter().map(|&row| numbers[row]).collect::<Vec<f64>>();
        let measured: Vec<_> = rows.iter().map(|rows| (of(&nll, rows), of(&entropy, rows))).collect();
        let borrowed: Vec<(&[f64], &[f64])> = measured.iter().map(|(a, b)| (&a[..], &b[..])).collect();
        let fates = QTuning { sample, token, lambda }.choose(&borrowed).fates;
        let mut accounts = vec![Account::default(); self.batches.shards().len()];
        let mut kept = Vec::new();
        let places = batch.examples.iter().zip(&batch.origins);
        for ((fate, rows), (example, &origin)) in fates.iter().zip(&rows).zip(places) {
            accounts[origin].count(fate, rows.len() as u64);
            let mut targets = batch.targets[example.clone()].to_vec();
            if let Some(last) = targets.last_mut() {
                *last = IGNORE;
            }
            match fate {
                Fate::Dropped(_) => continue,
                Fate::Whole(_) => {}
                Fate::Tokens(marks) => {
                    let left_out = rows.iter().zip(marks).filter(|(_, kept)| !**kept);
                    left_out.for_each(|(row, _)| targets[row - example.start] = IGNORE);
                }
            }
            kept.push(Kept { rows: example.clone(), targets, origin });
        }
        let micro = self.config.batch.micro_sequences;
        // Every process takes part in a step.
        let least = self.others.world().size * micro;
        let packed = pack(&batch, &kept, micro, least);
        self.choosing += begun.elapsed();
        Ok((packed, Some(accounts)))
    }

    /// Loss and entropy of each row of a batch.
    fn survey(&mut self, batch: &Batch) -> Result<(Vec<f64>, Vec<f64>), TrainError> {
        let forgetting = self.forgetting(None)?;
        let micro = self.config.batch.micro_sequences * batch.tokens;
        let count = batch.ids.len();
        let share = self.others.world().share_of(count.div_ceil(micro).max(1));
        let mut numbers = vec![0.0; 2 * count];
        let parts = batch.ids.chunks(micro).zip(batch.targets.chunks(micro)).enumerate();
        for (number, (ids, targets)) in parts.skip(share.start).take(share.len()) {
            let rows = self.backend.survey(ids, targets, &forgetting.pruning())?;
            for (row, losses) in (number * micro..).zip(&rows) {
                numbers[row] = f64::from(losses.cross_entropy);
                numbers[count + row] = f64::from(losses.entropy);
            }
        }
        self.others.sum_exact(&mut numbers)?;
        let entropy = numbers.split_off(count);
        Ok((numbers, entropy))
    }
}
