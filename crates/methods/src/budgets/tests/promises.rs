use proptest::prelude::*;

use crate::budgets::*;

/// Scores with ties, and with what no scorer should give.
fn scores() -> impl Strategy<Value = Vec<f32>> {
    let number = prop_oneof![
        8 => (-4_i32..4).prop_map(|number| number as f32),
        1 => Just(f32::NAN),
        1 => Just(f32::INFINITY),
        1 => Just(f32::NEG_INFINITY),
    ];
    prop::collection::vec(number, 0..40)
}

/// The slow twin: a stable sort of everything.
fn sorted(scores: &[f32], count: usize) -> Vec<usize> {
    let mut order: Vec<usize> = (0..scores.len()).rev().collect();
    let worth = |place: &usize| {
        if scores[*place].is_nan() { f64::MIN } else { f64::from(scores[*place]).max(-1e300) }
    };
    order.sort_by(|a, b| worth(b).partial_cmp(&worth(a)).unwrap());
    order.truncate(count);
    order.sort_unstable();
    order
}

proptest! {
    #[test]
    fn the_best_are_kept_and_of_equals_the_later(scores in scores(), count in 0_usize..50) {
        let kept = kept(&scores, count);
        prop_assert_eq!(kept.len(), count.min(scores.len()));
        prop_assert_eq!(kept, sorted(&scores, count));
    }

    #[test]
    fn heads_together_keep_exactly_their_budget_and_each_its_share(
        heads in prop::collection::vec(scores(), 1..5), count in 0_usize..50, safeguard in 0.0_f64..=1.0
    ) {
        let lengths = ada_safeguarded(&heads, count, safeguard);
        let there: usize = heads.iter().map(Vec::len).sum();
        prop_assert_eq!(lengths.iter().sum::<usize>(), there.min(heads.len() * count));
        let safe = (count as f64 * safeguard) as usize;
        for (length, head) in lengths.iter().zip(&heads) {
            prop_assert!(safe.min(head.len()) <= *length && *length <= head.len());
        }
        let mut turned = heads.clone();
        turned.reverse();
        // Ties between heads go by the head's number, so the order matters to them alone.
        let distinct = heads.iter().flatten().map(|score| score.to_bits()).collect::<std::collections::HashSet<_>>().len();
        if distinct == there {
            let mut turned = ada_safeguarded(&turned, count, safeguard);
            turned.reverse();
            prop_assert_eq!(turned, lengths);
        }
    }

    #[test]
    fn interpolated_heads_never_keep_more_than_they_have(
        heads in prop::collection::vec(scores(), 1..5), base in 0_usize..50, floor in 0.0_f64..=1.0
    ) {
        let lengths = ada_interpolated(&heads, base, floor);
        lengths.iter().zip(&heads).for_each(|(length, head)| assert!(*length <= head.len()));
    }

    #[test]
    fn pyramids_fall_upwards_and_never_exceed_the_prompt(
        layers in 1_usize..40, n in 0_usize..5000, capacity in 0_usize..5000, window in 0_usize..64, beta in 1_usize..30, keep in 0.0_f64..=1.0
    ) {
        let tokens: Vec<usize> = (0..layers).map(|layer| pyramid_tokens(layer, layers, n, capacity, window, beta)).collect();
        let share: Vec<usize> = (0..layers).map(|layer| pyramid_share(layer, layers, n, keep, window, beta as f64)).collect();
        for lengths in [&tokens, &share] {
            prop_assert!(lengths.is_sorted_by(|below, above| below >= above), "{:?}", lengths);
            prop_assert!(lengths.iter().all(|length| *length <= n));
        }
        if capacity >= n {
            prop_assert!(tokens.iter().all(|length| *length == n), "a budget that holds everything keeps everything");
        }
        let mean = share.iter().sum::<usize>() as f64 / layers as f64;
        prop_assert!((mean - n as f64 * keep).abs() <= 0.5 + 1e-9, "{} on average, not {}", mean, n as f64 * keep);
    }

    #[test]
    fn as_many_heads_stream_as_the_sparsity_says(
        gates in prop::collection::vec(prop::collection::vec(prop_oneof![Just(1.0), -0.5_f64..1.5, Just(f64::NAN)], 3), 1..6), sparsity in 0.0_f64..=1.0
    ) {
        let streams = streaming_heads(&gates, sparsity);
        let count = streams.iter().flatten().filter(|streams| **streams).count();
        prop_assert_eq!(count, ((gates.len() * 3) as f64 * sparsity).round_ties_even() as usize);
    }
}

#[test]
fn a_table_without_scores_shares_evenly() {
    assert_eq!(head_capacities(&[vec![0.0, 0.0], vec![f64::NAN, 1.0]], 2, 28, 0.8), [[28, 28], [28, 28]]);
}

#[test]
fn layers_that_cannot_be_told_apart_keep_alike_and_the_mean_holds() {
    for cosines in [&[f64::NAN, 0.5][..], &[0.7; 5], &[f64::NAN; 4], &[0.3]] {
        assert_eq!(squeeze(cosines, 40.0, 0.2), vec![40; cosines.len()], "{cosines:?}");
    }
    assert_eq!(squeeze(&[], 40.0, 0.2), [0_usize; 0]);
    let squeezed = squeeze(&[0.1, 0.9, 0.5, 0.91], 40.0, 0.25);
    assert_eq!(squeezed, [70, 10, 70, 10]);
    assert_eq!(squeezed.iter().sum::<usize>(), 4 * 40);
}
