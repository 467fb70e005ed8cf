//! Batches as a function of seed and step.

mod learned;

use std::ops::Range;

use dropcap_kernels::cross_entropy::IGNORE;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};

use super::shard::TokenShard;
use crate::TrainError;
use learned::Beginnings;
pub use learned::Learned;

/// Sequences of tokens, and for each token the one that follows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Batch {
    /// u32 `[b, t]`.
    pub ids: Vec<u32>,
    /// u32 `[b, t]`: `targets[b, t]` follows `ids[b, t]` in the text, or is [`IGNORE`] where that is context alone.
    pub targets: Vec<u32>,
    /// Sequences, b.
    pub sequences: usize,
    /// Tokens of each, t.
    pub tokens: usize,
    /// Rows of each example among the b t, in their order: those from which its own tokens are predicted, so its first token
    /// is none's target. Only examples of which something is learned; none where all text is.
    pub examples: Vec<Range<usize>>,
    /// Which of the shards each example is of.
    pub origins: Vec<usize>,
}

/// Draws windows from the concatenation of shards.
#[derive(Debug)]
pub struct Batches {
    shards: Vec<TokenShard>,
    /// Where windows among examples begin; `None` where all text is learned.
    beginnings: Option<Beginnings>,
    total: u64,
    tokens: usize,
    sequences: usize,
    seed: u64,
}

impl Batches {
    /// Batches of `sequences` windows of `tokens` tokens each; `split` is only for messages.
    ///
    /// # Errors
    /// [`TrainError::TooFewTokens`] where the shards do not hold one window and the token after it;
    /// [`TrainError::NoAnswers`] where no window that begins with an example holds an answer.
    pub fn new(
        split: &'static str,
        shards: Vec<TokenShard>,
        sequences: usize,
        tokens: usize,
        seed: u64,
    ) -> Result<Self, TrainError> {
        let total = shards.iter().map(|shard| shard.len() as u64).sum();
        let needed = tokens as u64 + 1;
        if total < needed || tokens == 0 {
            return Err(TrainError::TooFewTokens { split, needed, got: total });
        }
        let beginnings = Beginnings::of(split, &shards, tokens, total)?;
        Ok(Self { shards, beginnings, total, tokens, sequences, seed })
    }

    /// What the windows are drawn from.
    pub(crate) fn shards(&self) -> &[TokenShard] {
        &self.shards
    }

    /// One window with an example, of all shards' in their order, and nothing else that is learned: its first tokens as far as
    /// they fit, and zeros behind them.
    pub(crate) fn example(&self, number: u64) -> Batch {
        let mut number = number as usize;
        let (mut found, mut origin) = (0..0, 0);
        for (index, (shard, place)) in places(&self.shards).enumerate() {
            let Some(answers) = shard.answers() else { continue };
            if let Some(&start) = answers.starts.get(number) {
                let end = answers.starts.get(number + 1).map_or(place.end, |&end| place.start + end);
                (found, origin) = (place.start + start..end, index);
                break;
            }
            number -= answers.starts.len();
        }
        let own = (found.end - found.start).min(self.tokens as u64 + 1) as usize;
        let (mut ids, mut learned) = (Vec::new(), Vec::new());
        self.read(found.start, &mut ids, &mut learned);
        let target = |row: usize| if row + 1 < own && learned[row + 1] { ids[row + 1] } else { IGNORE };
        let targets = (0..self.tokens).map(target).collect();
        ids.truncate(own);
        ids.resize(self.tokens, 0);
        let examples = vec![0..own.min(self.tokens)];
        Batch { ids, targets, sequences: 1, tokens: self.tokens, examples, origins: vec![origin] }
    }

    /// What is learned of examples; `None` where all of the text is.
    pub fn learned(&self) -> Option<&Learned> {
        self.beginnings.as_ref().map(Beginnings::learned)
    }

    /// Tokens in all shards together.
    pub fn total(&self) -> u64 {
        self.total
    }

    /// The batch of a step: windows that begin anywhere, each place equally likely.
    ///
    /// It depends on the shards, the seed and the step, and on nothing that was drawn before. A window may run from one
    /// document or shard into the next. One that would begin within an example begins where the example does, or the last
    /// one before it that is of use: with an answer in reach.
    pub fn batch(&self, step: u64) -> Batch {
        let mut random = ChaCha8Rng::seed_from_u64(self.seed);
        random.set_stream(step);
        let places = u128::from(self.total - self.tokens as u64);
        // The upper half of a product: off from uniform by less than 2^-30 for any number of tokens that fits a disk.
        let starts = (0..self.sequences).map(|_| ((u128::from(random.next_u64()) * places) >> 64) as u64);
        self.gather(starts.map(|place| self.beginnings.as_ref().map_or(place, |these| these.before(place))))
    }

    /// At most `count` windows, evenly spaced over the shards, none of which shares a target with another; among examples
    /// they begin with one.
    ///
    /// Fewer only where the shards do not hold so many; at least one.
    pub fn evaluation_windows(&self, count: usize) -> Batch {
        if let Some(beginnings) = &self.beginnings {
            let apart = beginnings.apart(self.tokens as u64);
            let count = count.clamp(1, apart.len().max(1));
            return self.gather((0..count).filter_map(|at| apart.get(at * apart.len() / count).copied()));
        }
        let (room, tokens) = (self.total - 1, self.tokens as u64);
        let count = (count as u64).clamp(1, room / tokens);
        let last = u128::from(room - tokens);
        let gaps = u128::from((count - 1).max(1));
        self.gather((0..count).map(|at| (u128::from(at) * last / gaps) as u64))
    }

    fn gather(&self, starts: impl Iterator<Item = u64>) -> Batch {
        let (mut ids, mut targets) = (Vec::new(), Vec::new());
        let (mut window, mut learned) = (Vec::new(), Vec::new());
        let (mut examples, mut origins) = (Vec::new(), Vec::new());
        let mut sequences = 0;
        for start in starts {
            window.clear();
            learned.clear();
            self.read(start, &mut window, &mut learned);
            ids.extend_from_slice(&window[..self.tokens]);
            let marked = window.iter().zip(&learned).skip(1);
            targets.extend(marked.map(|(&id, &learned)| if learned { id } else { IGNORE }));
            let first = sequences * self.tokens;
            for (origin, example, goes_on) in self.examples(start) {
                let rows = first + example.start..first + example.end;
                // The last row of one that ends here predicts what is another's first token.
                let own = rows.start..rows.end - usize::from(!goes_on);
                if targets[own].iter().any(|&target| target != IGNORE) {
                    examples.push(rows);
                    origins.push(origin);
                }
            }
            sequences += 1;
        }
        Batch { ids, targets, sequences, tokens: self.tokens, examples, origins }
    }

    /// Where examples lie in the window that begins at `start`, cut where it ends, each with its shard and whether it goes on
    /// behind the window.
    fn examples(&self, start: u64) -> Vec<(usize, Range<usize>, bool)> {
        let end = start + self.tokens as u64;
        let mut found = Vec::new();
        for (origin, (shard, place)) in places(&self.shards).enumerate() {
            let Some(answers) = shard.answers().filter(|_| place.start < end && place.end > start) else {
                continue;
            };
            let from = answers.starts.partition_point(|&own| place.start + own < start);
            let begins = answers.starts[from..].iter().map(|&own| place.start + own);
            let begins: Vec<u64> = begins.take_while(|&own| own < end).collect();
            let behind = answers.starts.get(from + begins.len()).map_or(place.end, |&own| place.start + own);
            let ends = begins.iter().skip(1).copied().chain([behind]);
            found.extend(begins.iter().copied().zip(ends).map(|(begin, behind)| {
                let rows = (begin - start) as usize..(behind.min(end) - start) as usize;
                (origin, rows, behind > end)
            }));
        }
        found
    }

    /// Appends the window that begins at `start`, and the token after it, with whether each is learned.
    fn read(&self, mut start: u64, out: &mut Vec<u32>, learned: &mut Vec<bool>) {
        let mut wanted = self.tokens + 1;
        for shard in &self.shards {
            let length = shard.len() as u64;
            if start < length && wanted > 0 {
                let before = out.len();
                shard.read(start as usize, wanted, out);
                let read = out.len() - before;
                match shard.answers() {
                    None => learned.resize(out.len(), true),
                    Some(answers) => answers.mark(start, read, learned),
                }
                wanted -= read;
            }
            start = start.saturating_sub(length);
        }
    }
}

/// Where each shard lies in the concatenation.
fn places(shards: &[TokenShard]) -> impl Iterator<Item = (&TokenShard, Range<u64>)> {
    shards.iter().scan(0, |first, shard| {
        let place = *first..*first + shard.len() as u64;
        *first = place.end;
        Some((shard, place))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::shard::ShardFacts;
    use crate::digest::Digest;
    use proptest::prelude::*;

    /// Shards whose concatenation counts up from 0.
    fn shards(lengths: &[usize]) -> Vec<TokenShard> {
        let digest = Digest::of(b"");
        let facts = ShardFacts { vocabulary: 1 << 20, tokenizer: digest, source: digest };
        let mut next = 0;
        let one = |&length: &usize| {
            let ids = (next..next + length as u32).collect();
            next += length as u32;
            TokenShard::new("x".as_ref(), facts, ids, None).unwrap()
        };
        lengths.iter().map(one).collect()
    }

    fn counts_up(batch: &Batch, total: u32) {
        assert_eq!(batch.ids.len(), batch.sequences * batch.tokens);
        for (ids, targets) in batch.ids.chunks(batch.tokens).zip(batch.targets.chunks(batch.tokens)) {
            let first = ids[0];
            assert!(ids.iter().zip(first..).all(|(&id, expected)| id == expected), "{ids:?}");
            assert!(targets.iter().zip(first + 1..).all(|(&id, expected)| id == expected), "{targets:?}");
            assert!(*targets.last().unwrap() < total);
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn windows_are_stretches_of_the_concatenation(
            lengths in prop::collection::vec(0_usize..40, 1..6), tokens in 1_usize..30, sequences in 1_usize..5,
            seed in any::<u64>(), step in any::<u64>(), windows in 1_usize..20,
        ) {
            let total: usize = lengths.iter().sum();
            let batches = Batches::new("training", shards(&lengths), sequences, tokens, seed);
            if total < tokens + 1 {
                let refused = matches!(
                    batches,
                    Err(TrainError::TooFewTokens { needed, got, .. })
                        if needed == tokens as u64 + 1 && got == total as u64
                );
                prop_assert!(refused);
                return Ok(());
            }
            let batches = batches.unwrap();
            let batch = batches.batch(step);
            prop_assert_eq!(batch.sequences, sequences);
            counts_up(&batch, total as u32);
            let windows_found = batches.evaluation_windows(windows);
            counts_up(&windows_found, total as u32);
            prop_assert_eq!(windows_found.sequences, windows.min((total - 1) / tokens));
            let distinct: std::collections::BTreeSet<u32> = windows_found.targets.iter().copied().collect();
            prop_assert_eq!(distinct.len(), windows_found.targets.len());
        }
    }

    #[test]
    fn a_batch_is_a_function_of_seed_and_step() {
        let make = |seed| Batches::new("training", shards(&[500, 700]), 4, 16, seed).unwrap();
        let (one, other) = (make(1), make(2));
        let late = one.batch(1000);
        assert_eq!(late, make(1).batch(1000), "whatever was drawn before");
        assert_ne!(late, one.batch(1001));
        assert_ne!(late, other.batch(1000));
        // Written down, so that a new version of a dependency cannot change what a run is trained on.
        assert_eq!(one.batch(0).ids.chunks(16).map(|ids| ids[0]).collect::<Vec<_>>(), [476, 95, 706, 259]);
    }

    #[test]
    fn every_place_is_drawn_and_about_equally_often() {
        let batches = Batches::new("training", shards(&[6, 7]), 100, 4, 3).unwrap();
        let mut drawn = [0; 9];
        for step in 0..90 {
            batches.batch(step).ids.chunks(4).for_each(|ids| drawn[ids[0] as usize] += 1);
        }
        assert!(drawn.iter().all(|&times| (850..1150).contains(&times)), "{drawn:?}");
    }
}
