//! Q-Tuning (arXiv 2509.23873, appendix D): examples by their place in the plane of perplexity and entropy.
//!
//! An example is worth learning where the model is sure and wrong (high perplexity, low entropy) or unsure and right (low
//! perplexity, high entropy). What is unsure and wrong is taken for noise, what is sure and right is known already, and
//! both are dropped. Of those that it is sure and wrong about, the tokens that surprise it most are left out of the loss:
//! figure 2 and the text say so, where one line of the algorithm keeps just those.

/// How much of a batch is learned.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct QTuning {
    /// Share of the examples that is kept, in (0, 1].
    pub sample: f64,
    /// Share of the tokens that is kept of examples that the model is sure and wrong about, in (0, 1].
    pub token: f64,
    /// Weight of a token's neighbours in its score, in 0..=1.
    pub lambda: f64,
}

/// What becomes of an example.
#[derive(Debug, Clone, PartialEq)]
pub enum Fate {
    /// All of its answer is learned.
    Whole(Reason),
    /// Some tokens of its answer are learned: those marked.
    Tokens(Vec<bool>),
    /// It is not learned from.
    Dropped(Reason),
}

/// Where an example stands in the plane.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reason {
    /// Perplexity and entropy are high: taken for noise.
    Noise,
    /// Perplexity is low, entropy high: right, and not sure of it.
    Unsure,
    /// Perplexity and entropy are low: known already.
    Known,
    /// Between the quadrants.
    Between,
}

/// The decision over one batch.
#[derive(Debug, Clone, PartialEq)]
pub struct Chosen {
    /// One for each example.
    pub fates: Vec<Fate>,
    /// The thresholds and sets that it rests on.
    pub partition: Partition,
}

/// Quadrants of a batch.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Partition {
    /// From which perplexity it is high, up to which it is low; up to which entropy is low, from which high.
    pub thresholds: [f64; 4],
    /// Examples that the model is sure and wrong about, in their order.
    pub wrong: Vec<usize>,
    /// Those that it is unsure and right about.
    pub unsure: Vec<usize>,
    /// Others that are kept to fill the share, those first that stand furthest from the diagonal.
    pub supplement: Vec<usize>,
}

/// Steps of the search for thresholds.
const ITERATIONS: usize = 10;
/// Quantiles from either end that the search begins between.
const LARGEST: f64 = 0.49;

impl QTuning {
    /// What becomes of examples, each the losses and entropies of its answer's tokens, in nats.
    ///
    /// At least one example and one token of each kept one are learned, however small the shares are.
    #[must_use]
    pub fn choose(&self, examples: &[(&[f64], &[f64])]) -> Chosen {
        let mean = |numbers: &[f64]| numbers.iter().sum::<f64>() / numbers.len().max(1) as f64;
        let perplexity: Vec<f64> = examples.iter().map(|(nll, _)| mean(nll).exp()).collect();
        let entropy: Vec<f64> = examples.iter().map(|(_, entropy)| mean(entropy)).collect();
        let partition = partition(&perplexity, &entropy, self.sample);
        let [high, low, sure, unsure] = partition.thresholds;
        let fate = |index: usize| {
            let reason = match (perplexity[index], entropy[index]) {
                (p, e) if p >= high && e >= unsure => Reason::Noise,
                (p, e) if p <= low && e >= unsure => Reason::Unsure,
                (p, e) if p <= low && e <= sure => Reason::Known,
                _ => Reason::Between,
            };
            if partition.wrong.contains(&index) {
                Fate::Tokens(self.tokens(examples[index].0))
            } else if partition.unsure.contains(&index) {
                Fate::Whole(Reason::Unsure)
            } else if partition.supplement.contains(&index) {
                Fate::Whole(reason)
            } else {
                Fate::Dropped(reason)
            }
        };
        Chosen { fates: (0..examples.len()).map(fate).collect(), partition }
    }

    /// Which tokens of an answer are kept: those whose perplexity, and that of their neighbours, is lowest. At the ends a
    /// token is its own neighbour.
    fn tokens(&self, nll: &[f64]) -> Vec<bool> {
        let scores = self.token_scores(nll);
        let kept = ((self.token * nll.len() as f64).floor() as usize).max(1);
        let mut order: Vec<usize> = (0..nll.len()).collect();
        order.sort_by(|&a, &b| scores[a].total_cmp(&scores[b]));
        let mut marks = vec![false; nll.len()];
        order.into_iter().take(kept).for_each(|index| marks[index] = true);
        marks
    }

    fn token_scores(&self, nll: &[f64]) -> Vec<f64> {
        let perplexity: Vec<f64> = nll.iter().map(|nats| nats.exp()).collect();
        let own = |index: usize| {
            let before = perplexity[index.saturating_sub(1)];
            let behind = perplexity[(index + 1).min(perplexity.len() - 1)];
            (1.0 - self.lambda) * perplexity[index] + self.lambda * (before + behind)
        };
        (0..nll.len()).map(own).collect()
    }
}

/// The quadrants of examples, such that about `share` of them is kept.
///
/// Quantiles from both ends are halved towards the share ten times, and the last partition counts, whichever side of the share it
/// fell on; where it is too small, others fill it.
#[must_use]
pub fn partition(perplexity: &[f64], entropy: &[f64], share: f64) -> Partition {
    let count = perplexity.len();
    let (by_perplexity, by_entropy) = (sorted(perplexity), sorted(entropy));
    let mut found = Partition::default();
    let (mut lower, mut upper) = (0.0, LARGEST);
    for _ in 0..ITERATIONS {
        let middle = (lower + upper) / 2.0;
        let [high, low] = [1.0 - middle, middle].map(|share| quantile(&by_perplexity, share));
        let [sure, unsure] = [middle, 1.0 - middle].map(|share| quantile(&by_entropy, share));
        let those = |is: &dyn Fn(f64, f64) -> bool| -> Vec<usize> {
            (0..count).filter(|&index| is(perplexity[index], entropy[index])).collect()
        };
        found = Partition {
            thresholds: [high, low, sure, unsure],
            wrong: those(&|p, e| p >= high && e <= sure),
            unsure: those(&|p, e| p <= low && e >= unsure),
            supplement: Vec::new(),
        };
        let kept = (found.wrong.len() + found.unsure.len()) as f64 / count.max(1) as f64;
        if kept < share {
            lower = middle;
        } else {
            upper = middle;
        }
    }
    // One that stands in both, where half of the batch is equal, is pruned by tokens.
    let wrong = found.wrong.clone();
    found.unsure.retain(|index| !wrong.contains(index));
    let wanted = ((share * count as f64).floor() as usize).max(usize::from(count > 0));
    let taken = found.wrong.len() + found.unsure.len();
    if taken < wanted {
        let score = diagonal_distance(perplexity, entropy);
        let mut others: Vec<usize> = (0..count)
            .filter(|index| !found.wrong.contains(index) && !found.unsure.contains(index))
            .collect();
        others.sort_by(|&a, &b| score[b].total_cmp(&score[a]));
        others.truncate(wanted - taken);
        found.supplement = others;
    }
    found
}

/// How far each stands from where perplexity and entropy, each scaled to 0..=1, are equal.
fn diagonal_distance(perplexity: &[f64], entropy: &[f64]) -> Vec<f64> {
    let (p, e) = (min_max(perplexity), min_max(entropy));
    p.into_iter().zip(e).map(|(p, e)| (p - e).abs()).collect()
}

/// Numbers scaled to 0..=1; all 0 where they are equal.
pub(super) fn min_max(numbers: &[f64]) -> Vec<f64> {
    let least = numbers.iter().copied().fold(f64::INFINITY, f64::min);
    let most = numbers.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let width = most - least;
    numbers.iter().map(|number| if width > 0.0 { (number - least) / width } else { 0.0 }).collect()
}

fn sorted(numbers: &[f64]) -> Vec<f64> {
    let mut sorted = numbers.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted
}

/// The smallest of sorted numbers such that at least a share of them is no larger.
fn quantile(sorted: &[f64], share: f64) -> f64 {
    let reached = |place: &usize| (place + 1) as f64 / sorted.len() as f64 >= share;
    let place = (0..sorted.len()).find(reached).unwrap_or(sorted.len().saturating_sub(1));
    sorted.get(place).copied().unwrap_or_default()
}

#[cfg(test)]
mod tests;
