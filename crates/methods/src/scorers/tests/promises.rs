//! What every scorer promises, whatever the numbers.

use proptest::prelude::*;

use super::*;
use crate::scorers::*;

const D: usize = 4;
const GROUP: usize = 2;

/// Keys, values and queries (one per entry and head of the group) of a head of n entries.
#[derive(Debug, Clone)]
struct Head {
    keys: Vec<f32>,
    values: Vec<f32>,
    queries: Vec<f32>,
}

impl Head {
    fn n(&self) -> usize {
        self.keys.len() / D
    }

    fn mass(&self) -> Vec<f32> {
        mass(&self.queries, &self.keys, D, GROUP, |row| row + 1)
    }
}

fn head(number: impl Strategy<Value = f32> + Clone + 'static) -> impl Strategy<Value = Vec<Head>> {
    (0_usize..20).prop_flat_map(move |n| {
        let numbers = |count: usize| prop::collection::vec(number.clone(), count);
        let head = (numbers(n * D), numbers(n * D), numbers(GROUP * n * D));
        prop::collection::vec(head.prop_map(|(keys, values, queries)| Head { keys, values, queries }), 1..4)
    })
}

/// Every scorer, by name, on heads of one layer.
fn all(heads: &[Head]) -> Vec<(&'static str, Vec<Vec<f32>>)> {
    let n = heads[0].n();
    let each = |score: &dyn Fn(&Head) -> Vec<f32>| heads.iter().map(score).collect::<Vec<_>>();
    let masses: Vec<Vec<f32>> = heads.iter().map(Head::mass).collect();
    let snap = SnapKv { window: 3, kernel: 5, pooling: Pooling::Average, reduction: Reduction::Mean };
    let pooled = SnapKv { pooling: Pooling::Max, reduction: Reduction::Max, ..snap };
    let expected = ExpectedAttention { sinks: 2, covariance: true, value_norm: true, epsilon: 0.0 };
    let lag = LagKv { sinks: 2, lag: 3, across: false };
    let (first, last) = (2.min(n), 1.min(n.saturating_sub(2)));
    let ends = (first * D, (n - last) * D);
    let compactor = Compactor { first, last, blending: 0.5 };
    let sketch = gaussian_sketch(1, 0, 0, D, 3);
    let inner = |head: &Head| {
        let queries = rows(&head.queries, GROUP, D, first..n - last);
        non_causal_attention(
            &queries,
            &head.keys[ends.0..ends.1],
            &head.values[ends.0..ends.1],
            (D, GROUP),
            4,
        )
    };
    vec![
        ("knorm", each(&|head| knorm(&head.keys, D))),
        ("keydiff", each(&|head| keydiff(&head.keys, D))),
        ("snapkv", masses.iter().map(|mass| snap.score(mass, GROUP)).collect()),
        ("snapkv by its largest", masses.iter().map(|mass| pooled.score(mass, GROUP)).collect()),
        ("nacl", each(&|head| nacl(&head.queries, &head.keys, D, GROUP, 0.5))),
        (
            "keyformer",
            each(&|head| {
                let mut sums = vec![0.0; n];
                let noise = |_: usize, row: usize, entry: usize| (row + entry) as f32 / 9.0;
                keyformer_accumulate(
                    &mut sums,
                    &head.queries,
                    &head.keys,
                    (D, GROUP),
                    (0.5, 1.5),
                    |row, entry| entry <= row,
                    noise,
                );
                sums
            }),
        ),
        (
            "expected attention",
            each(&|head| {
                let queries = rows(&head.queries, GROUP, D, 2.min(n)..n);
                expected.score(
                    &queries,
                    &head.keys,
                    &head.values,
                    (D, GROUP),
                    0.5,
                    (&[0.9, 1.0], &[0.1, 0.0]),
                )
            }),
        ),
        ("lagkv", each(&|head| lag.score(&head.keys, &head.values, D))),
        (
            "compactor",
            compactor.score(each(&|head| leverage(&head.keys[ends.0..ends.1], D, &sketch)), each(&inner)),
        ),
    ]
}

proptest! {
    #[test]
    fn every_entry_has_a_score_and_heads_are_judged_whatever_their_order(heads in head(-3.0_f32..3.0)) {
        let mut turned = heads.clone();
        turned.rotate_left(1);
        for ((name, scores), (_, of_turned)) in all(&heads).into_iter().zip(all(&turned)) {
            prop_assert!(scores.iter().all(|head| head.len() == heads[0].n()), "{}: {:?}", name, scores);
            let mut turned = scores.clone();
            turned.rotate_left(1);
            for (a, b) in turned.iter().flatten().zip(of_turned.iter().flatten()) {
                // What is summed over heads is summed in their order.
                prop_assert!(a == b || (a - b).abs() <= 1e-4 * a.abs().max(1.0), "{}: {} and {}", name, a, b);
            }
        }
    }

    #[test]
    fn no_number_stops_a_scorer(heads in head(prop_oneof![
        -3.0_f32..3.0, Just(f32::NAN), Just(f32::INFINITY), Just(f32::NEG_INFINITY), Just(f32::MAX), Just(0.0)
    ])) {
        for (name, scores) in all(&heads) {
            prop_assert!(scores.iter().all(|head| head.len() == heads[0].n()), "{}", name);
        }
    }
}

#[test]
fn noise_is_a_function_of_its_place_and_has_the_moments_of_its_kind() {
    let noise = Noise { seed: 7 };
    let place = |entry| Place { layer: 1, head: 2, query: 3, entry };
    assert_eq!(noise.uniform(place(4)), noise.uniform(place(4)));
    let others = [
        Place { layer: 2, ..place(4) },
        Place { head: 1, ..place(4) },
        Place { query: 4, ..place(4) },
        place(5),
    ];
    others.iter().for_each(|&other| assert_ne!(noise.uniform(place(4)), noise.uniform(other)));
    assert_ne!(noise.uniform(place(4)), Noise { seed: 8 }.uniform(place(4)));
    let moments = |number: &dyn Fn(Place) -> f64| {
        let numbers: Vec<f64> = (0..20_000).map(|entry| number(place(entry))).collect();
        let mean = numbers.iter().sum::<f64>() / 2e4;
        (mean, numbers.iter().map(|number| (number - mean).powi(2)).sum::<f64>() / 2e4)
    };
    let near = |(mean, variance): (f64, f64), expected: (f64, f64)| {
        // Five standard deviations of the mean are below 0.05.
        let close = (mean - expected.0).abs() < 0.05 && (variance - expected.1).abs() < 0.1;
        assert!(close, "mean and variance are {mean} and {variance}, not {expected:?}");
    };
    near(moments(&|place| noise.uniform(place)), (0.5, 1.0 / 12.0));
    // Euler's constant and pi^2 / 6.
    near(moments(&|place| f64::from(noise.gumbel(place))), (0.5772, 1.6449));
    near(moments(&|place| f64::from(noise.normal(place))), (0.0, 1.0));
}

#[test]
fn random_scores_do_not_depend_on_which_neighbours_are_left() {
    let all = random(3, 1, 2, &[4, 5, 6, 900]);
    assert_eq!(random(3, 1, 2, &[5, 900]), [all[1], all[3]]);
}
