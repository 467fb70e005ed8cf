//! `citrus`: chunk by chunk, what the newest chunk looks at stays.

use std::collections::HashSet;

use dropcap_policy::{PolicyError, Score};

use crate::method::Ranks;
use crate::ranked::{self, Layer, Recipe, Scorer};
use crate::{MAX_COUNT, Method, Parameter, ParameterKind, scorers};

pub(crate) const METHOD: Method = Method {
    name: "citrus",
    summary: "Reads a prompt chunk by chunk and keeps of what came before what each chunk attends to, the same for all heads.",
    details: "\
Whenever the prompt has a multiple of `chunk` tokens, and when it ends, the entries that were there before are ranked by the \
attention of the tokens that came since, over all heads and queries; of those `@` stay, and the new tokens beside them. So a \
prompt never holds more than the budget and two chunks, and what a chunk did not need is gone for the next: a prompt of any \
length is read in constant memory. What follows the prompt all stays.

This is the original's cache `standard`. Its `instruction_aware` caches run the instruction through the model after every \
chunk, before its place in the text has come; ours reads a text once. Put the instruction last: when the prompt ends it \
chooses what it needs. What was dropped is gone, in the original too.

Costs: two f32 for each entry, and a prompt goes through in steps of at most `chunk` tokens on a GPU; the probabilities of every query of the prompt, one more pass over what is kept.",
    source: "Bai et al. 2024, arXiv 2406.12018; ybai-nlp/CItruS",
    amount: Some("entries KEPT of each head beside the newest chunk: tokens, or a share of the text so far"),
    ranks: Ranks::Itself(|arguments, _| Ok(Recipe::new(Citrus { chunk: arguments.count("chunk")? }, 0, 0))),
    parameters: &[Parameter {
        name: "chunk",
        kind: ParameterKind::Count { least: 1, most: MAX_COUNT },
        default: "256",
        help: "tokens of the prompt between two choices",
    }],
    check: ranked::check,
    build: ranked::build,
};

/// An entry's statistics are the attention since the last choice, and 1 if it was there then.
const STATISTICS: usize = 2;

#[derive(Debug)]
struct Citrus {
    chunk: u32,
}

impl Citrus {
    /// Positions of the tokens that have come since the last choice.
    fn own(layer: &Layer<'_>) -> HashSet<u32> {
        let lane = |lane: usize| {
            let rows = layer.statistics(lane);
            let fresh =
                rows.chunks_exact(STATISTICS).zip(layer.positions(lane)).filter(|(row, _)| row[1] == 0.0);
            fresh.map(|(_, &position)| position).collect::<Vec<u32>>()
        };
        (0..layer.lanes()).flat_map(lane).collect()
    }
}

impl Scorer for Citrus {
    fn per_head(&self) -> bool {
        false
    }

    fn stride(&self) -> u32 {
        self.chunk
    }

    fn statistics(&self) -> usize {
        STATISTICS
    }

    fn observe(&self, layer: &Layer<'_>, statistics: &mut [Vec<f32>]) -> Result<(), PolicyError> {
        let entries = |head: usize| layer.positions(head).len();
        let mut sums: Vec<Vec<f32>> = (0..layer.heads()).map(|head| vec![0.0; entries(head)]).collect();
        layer.add_mass(0..layer.queries(), &mut sums)?;
        for (head, sums) in sums.iter().enumerate() {
            let rows = statistics[head.min(layer.lanes() - 1)].chunks_exact_mut(STATISTICS);
            rows.zip(sums).for_each(|(row, sum)| row[0] += sum);
        }
        Ok(())
    }

    fn beside(&self, layer: &Layer<'_>) -> usize {
        Self::own(layer).len()
    }

    fn settle(&self, statistics: &mut [f32]) {
        statistics.copy_from_slice(&[0.0, 1.0]);
    }

    fn data(&self) -> Option<Score> {
        Some(Score::Since)
    }

    fn score(&self, layer: &Layer<'_>) -> Result<Vec<Vec<f32>>, PolicyError> {
        let lane = |lane: usize| layer.statistics(lane).chunks_exact(STATISTICS).map(|row| row[0]).collect();
        let sums = layer.over_heads(&(0..layer.lanes()).map(lane).collect::<Vec<Vec<f32>>>());
        let (own, positions) = (Self::own(layer), layer.all_positions());
        Ok(vec![scorers::citrus(sums, |entry| own.contains(&positions[entry]))])
    }
}
