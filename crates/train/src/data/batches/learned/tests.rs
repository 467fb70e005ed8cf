use std::collections::BTreeSet;

use dropcap_kernels::cross_entropy::IGNORE;
use proptest::prelude::*;

use super::*;
use crate::data::shard::ShardFacts;
use crate::data::{Answers, Batches};
use crate::digest::Digest;

/// A shard of examples, each so many tokens of question and so many of answer, whose tokens count up from `first`.
fn examples(first: u32, lengths: &[(usize, usize)]) -> TokenShard {
    let (mut answers, mut at) = (Answers::default(), 0_u64);
    for &(question, answer) in lengths {
        answers.starts.push(at);
        answers.spans.push(at + question as u64..at + (question + answer) as u64);
        at += (question + answer) as u64;
    }
    shard(first, at as u32, Some(answers))
}

fn shard(first: u32, count: u32, answers: Option<Answers>) -> TokenShard {
    let digest = Digest::of(b"");
    let facts = ShardFacts { vocabulary: 1 << 20, tokenizer: digest, source: digest };
    TokenShard::new("x".as_ref(), facts, (first..first + count).collect(), answers).unwrap()
}

/// Whether each token of some lengths is an answer.
fn learned(lengths: &[(usize, usize)]) -> Vec<bool> {
    let one = |&(question, answer): &(usize, usize)| [vec![false; question], vec![true; answer]].concat();
    lengths.iter().flat_map(one).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn windows_begin_with_examples_and_their_targets_are_answers(
        lengths in prop::collection::vec((1_usize..9, 1_usize..9), 1..20), tokens in 1_usize..24,
        step in any::<u64>(), windows in 1_usize..9,
    ) {
        let every = learned(&lengths);
        let batches = Batches::new("training", vec![examples(0, &lengths)], 3, tokens, 5);
        let all_starts: Vec<usize> = lengths.iter().scan(0, |at, (question, answer)| {
            let start = *at;
            *at += question + answer;
            Some(start)
        }).collect();
        let is_of_use =
            |&start: &usize| start + tokens < every.len() && every[start + 1..=start + tokens].contains(&true);
        let of_use: Vec<usize> = all_starts.iter().copied().filter(is_of_use).collect();
        let Ok(batches) = batches else {
            prop_assert!(of_use.is_empty());
            return Ok(());
        };
        let drawn = batches.batch(step);
        let even = batches.evaluation_windows(windows);
        let mut met = BTreeSet::new();
        for (batch, is_apart) in [(&drawn, false), (&even, true)] {
            for (ids, targets) in batch.ids.chunks(tokens).zip(batch.targets.chunks(tokens)) {
                let start = ids[0] as usize;
                prop_assert!(of_use.contains(&start), "{} {:?}", start, of_use);
                prop_assert!(targets.iter().any(|&target| target != IGNORE));
                for (at, &target) in (start + 1..).zip(targets) {
                    prop_assert_eq!(target, if every[at] { at as u32 } else { IGNORE });
                    prop_assert!(!is_apart || met.insert(at));
                }
            }
        }
        prop_assert!((1..=windows).contains(&even.sequences));
        // Every learned target is of one example, and rows of an example are its own.
        for batch in [&drawn, &even] {
            let mut of_examples = BTreeSet::new();
            for rows in &batch.examples {
                prop_assert_eq!(rows.start / tokens, (rows.end - 1) / tokens);
                prop_assert!(all_starts.contains(&(batch.ids[rows.start] as usize)));
                prop_assert!(rows.clone().skip(1).all(|row| !all_starts.contains(&(batch.ids[row] as usize))));
                prop_assert!(rows.clone().all(|row| of_examples.insert(row)));
            }
            let learned = (0..batch.ids.len()).filter(|&row| batch.targets[row] != IGNORE);
            prop_assert!(learned.into_iter().all(|row| of_examples.contains(&row)));
        }
        for (number, &(question, answer)) in lengths.iter().enumerate() {
            let batch = batches.example(number as u64);
            prop_assert_eq!(batch.ids[0] as usize, all_starts[number]);
            let targets: Vec<u32> = batch.targets.iter().copied().filter(|&target| target != IGNORE).collect();
            let first = (all_starts[number] + question) as u32;
            let seen = (question + answer).min(tokens + 1).saturating_sub(question) as u32;
            prop_assert_eq!(targets, (first..first + seen).collect::<Vec<_>>());
        }
    }
}

#[test]
fn every_example_in_reach_is_drawn() {
    let batches = Batches::new("training", vec![examples(0, &[(3, 2); 8])], 50, 7, 3).unwrap();
    let mut drawn = BTreeSet::new();
    for step in 0..20 {
        drawn.extend(batches.batch(step).ids.chunks(7).map(|ids| ids[0]));
    }
    // No window fits behind the beginning of the last example.
    assert_eq!(drawn.into_iter().collect::<Vec<_>>(), [0, 5, 10, 15, 20, 25, 30]);
}

#[test]
fn texts_among_examples_are_learned_as_a_whole() {
    let shards = vec![shard(0, 40, None), examples(40, &[(2, 2); 10]), shard(80, 40, None)];
    let batches = Batches::new("training", shards, 40, 10, 3).unwrap();
    let mut begun = [false; 3];
    for step in 0..20 {
        let batch = batches.batch(step);
        for (ids, targets) in batch.ids.chunks(10).zip(batch.targets.chunks(10)) {
            begun[ids[0] as usize / 40] = true;
            assert!(!(40..80).contains(&ids[0]) || ids[0].is_multiple_of(4));
            for (&id, &target) in ids.iter().zip(targets) {
                let is_context = (40..80).contains(&(id + 1)) && (id + 1) % 4 < 2;
                assert_eq!(target, if is_context { IGNORE } else { id + 1 });
            }
        }
    }
    assert_eq!(begun, [true; 3]);
}

#[test]
fn what_a_window_cannot_show_is_counted_and_said() {
    let mut lengths = vec![(2, 2); 6];
    lengths.extend([(30, 2), (2, 30), (2, 2), (2, 2), (2, 2)]);
    let batches = Batches::new("training", vec![examples(0, &lengths)], 1, 10, 3).unwrap();
    let learned = *batches.learned().unwrap();
    let expected = Learned { examples: 11, tokens: 100, answers: 50, cut: 2, unseen: 1, unplaced: 0 };
    assert_eq!(learned, expected);
    let sentence = learned.sentence(10);
    for words in ["11 examples of 100 tokens", "the 50 of answers (50.0 %)", "2 are longer", "1 of them all"]
    {
        assert!(sentence.contains(words), "{sentence}");
    }
    let error = Batches::new("training", vec![examples(0, &[(30, 1); 4])], 1, 10, 3).unwrap_err();
    assert!(matches!(error, TrainError::NoAnswers { examples: 4, window: 10, .. }), "{error}");
    assert!(error.to_string().contains("batch.tokens"), "{error}");
}
