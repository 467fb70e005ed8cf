//! Scorers whose answer is one for all heads of a layer: CItruS.

use serde_json::Value;

use super::*;
use crate::budgets::kept;
use crate::golden::{Golden, count, counts};
use crate::scorers::*;

/// The stand-in model of the CItruS vectors: every token has fixed queries and keys.
struct Stand {
    queries: Vec<f32>,
    keys: Vec<f32>,
}

impl Stand {
    const D: usize = 8;
    const VOCABULARY: usize = 96;
    const GROUP: usize = 2;

    /// Scores of the tokens `old` in a layer, by the attention of `own`, which follow them.
    fn scores(&self, layer: usize, old: &[usize], own: &[usize]) -> Vec<f32> {
        let token = |numbers: &[f32], token: usize, head: usize, heads: usize| {
            numbers[((layer * Self::VOCABULARY + token) * heads + head) * Self::D..][..Self::D].to_vec()
        };
        let all: Vec<usize> = old.iter().chain(own).copied().collect();
        let masses: Vec<Vec<f32>> = (0..2)
            .map(|kv| {
                let keys: Vec<f32> = all.iter().flat_map(|&id| token(&self.keys, id, kv, 2)).collect();
                let heads = kv * Self::GROUP..(kv + 1) * Self::GROUP;
                let queries: Vec<f32> = heads
                    .flat_map(|head| own.iter().flat_map(move |&id| token(&self.queries, id, head, 4)))
                    .collect();
                mass(&queries, &keys, Self::D, Self::GROUP, |row| old.len() + row + 1)
            })
            .collect();
        citrus(&masses.iter().map(Vec::as_slice).collect::<Vec<_>>(), Self::GROUP, own.len(), old.len())
    }

    /// The best k of `old` as `own` sees them; own tokens follow if they stay.
    fn selected(&self, layer: usize, old: &[usize], own: &[usize], k: usize) -> Vec<usize> {
        let scores = self.scores(layer, old, own);
        assert!(
            scores[old.len()..].iter().all(|score| *score == f32::INFINITY),
            "the chunk's own entries stay"
        );
        kept(&scores[..old.len()], k).iter().map(|&place| old[place]).collect()
    }
}

#[test]
fn citrus_selects_chunk_by_chunk_and_by_its_instruction_as_the_original() {
    let golden = Golden::open("citrus");
    let stand = Stand { queries: golden.floats("table.q"), keys: golden.floats("table.k") };
    for (name, case) in golden.cases("") {
        let (context, instruction) = (counts(&case["context"]), counts(&case["instruction"]));
        let (chunk, k) = (count(&case["chunk_size"]), count(&case["k"]));
        let kind = case["cache_type"].as_str().unwrap();
        for layer in 0..2 {
            let theirs = |list: &Value| counts(&list[layer]);
            // What encodes the text, and, for `double`, what the instruction reads.
            let mut encoding: Vec<usize> = context[..chunk].to_vec();
            let mut reading = encoding.clone();
            for part in context[chunk..].chunks(chunk) {
                let next = |old: &[usize], own: &[usize]| {
                    [stand.selected(layer, old, own, k), part.to_vec()].concat()
                };
                (encoding, reading) = match kind {
                    "standard" => (next(&encoding, part), next(&reading, part)),
                    "instruction_aware_single" => {
                        (next(&encoding, &instruction), next(&reading, &instruction))
                    }
                    _ => (next(&encoding, part), next(&reading, &instruction)),
                };
            }
            // Twice, as the original runs the instruction.
            let once = stand.selected(layer, &reading, &instruction, k);
            let twice = [stand.selected(layer, &once, &instruction, k), instruction.clone()].concat();
            assert_eq!(twice, theirs(&case["final"]), "{name}, layer {layer}");
        }
    }
}
