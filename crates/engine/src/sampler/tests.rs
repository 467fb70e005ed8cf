use proptest::prelude::*;

use super::candidates::Likelihood;
use super::*;

fn sampler(sampling: Sampling) -> Sampler {
    Sampler::new(sampling).unwrap()
}

fn next(sampler: &mut Sampler, logits: &[f32], text: &[u32]) -> Result<u32, EngineError> {
    let random = sampler.uniform();
    sampler.sample(logits, text, random)
}

fn histogram(sampling: Sampling, logits: &[f32], draws: usize) -> Vec<f32> {
    let mut sampler = sampler(sampling);
    let mut counts = vec![0.0; logits.len()];
    for _ in 0..draws {
        counts[next(&mut sampler, logits, &[]).unwrap() as usize] += 1.0 / draws as f32;
    }
    counts
}

#[test]
fn greedy_takes_the_first_of_equal_largest() {
    assert_eq!(next(&mut sampler(Sampling::default()), &[0.0, 3.0, 3.0, 1.0], &[]).unwrap(), 1);
}

#[test]
fn frequencies_follow_the_softmax() {
    let logits = [1.0f32, 0.0, -1.0, 0.5];
    let shares = histogram(Sampling { temperature: 0.7, ..Sampling::default() }, &logits, 40_000);
    let weights: Vec<f32> = logits.iter().map(|x| (x / 0.7).exp()).collect();
    let sum: f32 = weights.iter().sum();
    for (share, weight) in shares.iter().zip(&weights) {
        assert!((share - weight / sum).abs() < 0.01, "{shares:?}");
    }
}

#[test]
fn each_filter_leaves_exactly_its_tokens() {
    let logits = [0.0f32, 2.0, 1.0, 1.5, -9.0]; // softmax about .07 .52 .19 .31 with e^-9 left over
    let hot = Sampling { temperature: 1.0, ..Sampling::default() };
    let survivors =
        |sampling| histogram(sampling, &logits, 4000).iter().map(|&share| share > 0.0).collect::<Vec<_>>();
    assert_eq!(survivors(Sampling { top_k: 2, ..hot.clone() }), [false, true, false, true, false]);
    assert_eq!(survivors(Sampling { top_p: 0.5, ..hot.clone() }), [false, true, false, true, false]);
    assert_eq!(survivors(Sampling { top_p: 0.1, ..hot.clone() }), [false, true, false, false, false]);
    assert_eq!(survivors(Sampling { min_p: 0.3, ..hot.clone() }), [false, true, true, true, false]);
    assert_eq!(survivors(Sampling { min_p: 1.0, ..hot }), [false, true, false, false, false]);
}

#[test]
fn penalties_of_generated_tokens_count_them_and_pass_over_the_prompt() {
    let after = |sampling, prompt| sampler(sampling).after(prompt);
    let text = [0, 1, 1, 2];
    let logits = [3.0, 3.3, 3.2, 2.4];
    let chosen = |frequency_penalty, presence_penalty, prompt| {
        let sampling = Sampling { frequency_penalty, presence_penalty, ..Sampling::default() };
        next(&mut after(sampling, prompt), &logits, &text).unwrap()
    };
    assert_eq!(chosen(0.0, 0.0, 0), 1);
    // 2.5, 2.3, 2.7, 2.4 without a prompt; the first token is of the prompt; the first two are.
    assert_eq!([chosen(0.5, 0.0, 0), chosen(0.5, 0.0, 1), chosen(0.05, 0.0, 2)], [2, 0, 1]);
    assert_eq!([chosen(0.0, 0.25, 0), chosen(0.0, 1.0, 0), chosen(0.0, 1.0, 1)], [1, 3, 0]);
    assert_eq!(chosen(-1.0, 0.0, 3), 2);
}

#[test]
fn a_bias_moves_its_token_alone_whatever_its_size() {
    let chosen = |logit_bias: &[(u32, f32)]| {
        let sampling = Sampling { logit_bias: logit_bias.to_vec(), ..Sampling::default() };
        next(&mut sampler(sampling), &[0.0, 3.0, 1.0], &[]).unwrap()
    };
    assert_eq!(chosen(&[(0, 3.5)]), 0);
    assert_eq!(chosen(&[(1, -1e6), (9, 1e6)]), 2);
    let wild = Sampling { logit_bias: vec![(0, f32::INFINITY)], ..Sampling::default() };
    assert!(wild.check().is_err());
}

#[test]
fn a_penalty_applies_once_per_token_and_pushes_both_signs_down() {
    let sampling = Sampling { repetition_penalty: 2.0, ..Sampling::default() };
    assert_eq!(next(&mut sampler(sampling.clone()), &[4.0, 3.0, 2.5], &[0, 0]).unwrap(), 1);
    assert_eq!(next(&mut sampler(sampling.clone()), &[4.0, 1.5, 1.0], &[0, 0]).unwrap(), 0);
    assert_eq!(next(&mut sampler(sampling), &[-1.0, -1.5], &[0]).unwrap(), 1);
}

#[test]
fn equal_seeds_give_equal_draws() {
    let hot = Sampling { temperature: 1.3, seed: 7, ..Sampling::default() };
    let draws = |seed| {
        let mut sampler = sampler(Sampling { seed, ..hot.clone() });
        (0..50).map(|_| next(&mut sampler, &[0.1, 0.2, 0.3, 0.4], &[]).unwrap()).collect::<Vec<_>>()
    };
    assert_eq!(draws(7), draws(7));
    assert_ne!(draws(7), draws(8));
}

#[test]
fn nan_logits_are_an_error_and_not_a_token() {
    for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
        let error = next(&mut sampler(Sampling::default()), &[0.0, bad], &[3]).unwrap_err();
        assert!(error.to_string().contains("token 1"), "{error}");
    }
}

#[test]
fn parameters_outside_their_range_are_named() {
    let bad = [
        (Sampling { temperature: -1.0, ..Sampling::default() }, "temperature"),
        (Sampling { temperature: f32::NAN, ..Sampling::default() }, "temperature"),
        (Sampling { top_p: 0.0, ..Sampling::default() }, "top_p"),
        (Sampling { top_p: 1.1, ..Sampling::default() }, "top_p"),
        (Sampling { min_p: -0.1, ..Sampling::default() }, "min_p"),
        (Sampling { repetition_penalty: 0.0, ..Sampling::default() }, "repetition_penalty"),
        (Sampling { repetition_penalty: 1e-38, ..Sampling::default() }, "repetition_penalty"),
        (Sampling { repetition_penalty: 1e7, ..Sampling::default() }, "repetition_penalty"),
        (Sampling { repetition_penalty: f32::NAN, ..Sampling::default() }, "repetition_penalty"),
        (Sampling { temperature: f32::INFINITY, ..Sampling::default() }, "temperature"),
        (Sampling { top_p: f32::NAN, ..Sampling::default() }, "top_p"),
        (Sampling { min_p: f32::NAN, ..Sampling::default() }, "min_p"),
    ];
    for (sampling, name) in bad {
        assert!(Sampler::new(sampling).unwrap_err().to_string().starts_with(name));
    }
}

/// What [`Sampler::sample`] must choose, the straightforward way: all tokens are sorted, and each filter walks down the
/// list. Sums are of integers as there, since those of floats depend on their order.
fn twin(sampling: &Sampling, logits: &[f32], text: &[u32], random: f32) -> u32 {
    let mut tokens: Vec<(f32, usize)> = logits.iter().copied().zip(0..).collect();
    for &token in text {
        let (logit, penalty) = (logits[token as usize], sampling.repetition_penalty);
        let moved = if logit > 0.0 { logit / penalty } else { logit * penalty };
        tokens[token as usize].0 = moved.clamp(f32::MIN, f32::MAX);
    }
    let largest = tokens.iter().fold(tokens[0], |best, &next| if next.0 > best.0 { next } else { best });
    if sampling.temperature == 0.0 {
        return largest.1 as u32;
    }
    let likelihood = Likelihood { largest: largest.0, temperature: sampling.temperature };
    let (share, weight) = (|logit| likelihood.share(logit), |logit| likelihood.weight(logit));
    tokens.sort_by(|a, b| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1)));
    if sampling.top_k > 0 {
        tokens.truncate(sampling.top_k);
    }
    let sum = |tokens: &[(f32, usize)]| tokens.iter().map(|&(logit, _)| weight(logit)).sum::<u64>();
    if sampling.top_p < 1.0 {
        let wanted = (f64::from(sampling.top_p) * sum(&tokens) as f64).ceil() as u64;
        let kept = (1..=tokens.len()).find(|&kept| sum(&tokens[..kept]) >= wanted.max(1));
        tokens.truncate(kept.unwrap());
    }
    tokens.retain(|&(logit, _)| share(logit) >= sampling.min_p);
    tokens.sort_by_key(|&(_, token)| token);
    let target = (f64::from(random) * sum(&tokens) as f64) as u64;
    let mut reached = 0;
    let drawn = tokens.iter().find(|&&(logit, _)| {
        reached += weight(logit);
        reached > target
    });
    // Rounding can put the target at the very end, which is the last token's that weighs anything.
    drawn.or_else(|| tokens.iter().rev().find(|&&(logit, _)| weight(logit) > 0)).unwrap().1 as u32
}

/// Rows with ties, clusters, gaps, one survivor, both zeros, numbers at the ends of the range; some longer than many
/// segments.
fn rows() -> impl Strategy<Value = Vec<f32>> {
    let value = prop_oneof![
        8 => -12.0f32..12.0,
        4 => (-3i32..4).prop_map(|x| x as f32),
        1 => 29.0f32..31.0,
        1 => prop::sample::select(vec![0.0, -0.0, f32::MIN, f32::MAX, 1e-45, -1e30]),
    ];
    let flat = (-3.0f32..3.0, 1e-7f32..1e-2).prop_flat_map(|(middle, spread)| {
        prop::collection::vec((-1.0f32..1.0).prop_map(move |x| middle + spread * x), 1..700)
    });
    prop_oneof![
        prop::collection::vec(value, 1..700),
        flat,
        (1usize..700, -5.0f32..5.0).prop_map(|(length, logit)| vec![logit; length]),
    ]
}

fn samplings() -> impl Strategy<Value = Sampling> {
    let temperature = prop_oneof![Just(0.0), 0.1f32..3.0, Just(1e-45), Just(f32::MAX), 1e-6f32..1e-2];
    let top_k = prop_oneof![Just(0), Just(1), 2usize..12, 12usize..800, Just(usize::MAX)];
    let top_p = prop_oneof![Just(1.0), 0.01f32..1.0, Just(1e-45), Just(1.0 - f32::EPSILON / 2.0)];
    let min_p = prop_oneof![2 => Just(0.0), 1 => 0.001f32..1.0, 1 => Just(1.0), 1 => Just(1e-45)];
    let penalty = prop_oneof![2 => Just(1.0), 1 => 0.5f32..2.0, 1 => Just(1e-6), 1 => Just(1e6)];
    (temperature, top_k, top_p, min_p, penalty).prop_map(
        |(temperature, top_k, top_p, min_p, repetition_penalty)| Sampling {
            temperature,
            top_k,
            top_p,
            min_p,
            repetition_penalty,
            ..Sampling::default()
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]
    #[test]
    fn selecting_chooses_what_sorting_would(
        sampling in samplings(),
        rows in prop::collection::vec((rows(), prop::collection::vec(any::<u32>(), 0..9), 0.0f32..1.0), 1..3),
    ) {
        // One scratch after the other: nothing of a row may be left for the next.
        let mut scratch = Scratch::default();
        let sampler = sampler(sampling);
        for (logits, text, random) in rows {
            let text: Vec<u32> = text.iter().map(|token| token % logits.len() as u32).collect();
            for random in [random, 0.0, 1.0 - f32::EPSILON / 2.0] {
                let expected = twin(&sampler.sampling, &logits, &text, random);
                prop_assert_eq!(sampler.sample_in(&mut scratch, &logits, &text, random).unwrap(), expected);
            }
        }
    }
}

#[test]
fn a_batch_on_threads_gives_what_each_sequence_gets_alone() {
    let team = Team::new(3).unwrap();
    let samplers: Vec<Sampler> = (0..40)
        .map(|i| {
            let temperature = [0.0, 0.5, 1.5][i % 3];
            let (top_k, top_p) = ([0, 5][i % 2], [1.0, 0.7][i / 2 % 2]);
            let repetition_penalty = [1.0, 1.3][i / 4 % 2];
            sampler(Sampling { temperature, top_k, top_p, repetition_penalty, ..Sampling::default() })
        })
        .collect();
    let rows: Vec<Vec<f32>> = (0..40)
        .map(|i| (0..500).map(|j| ((i * 977 + j * 131) % 1009) as f32 / 100.0).collect::<Vec<f32>>())
        .map(|mut row| {
            // One broken row fails alone.
            if row[0] == 0.0 {
                row[7] = f32::NAN;
            }
            row
        })
        .collect();
    let draws: Vec<Draw<'_>> = samplers
        .iter()
        .zip(&rows)
        .zip(0..)
        .map(|((sampler, logits), i)| Draw { sampler, logits, text: &[3, 9, 200], random: i as f32 / 40.0 })
        .collect();
    let found = sample_all(&team, &draws);
    assert_eq!(found.len(), 40);
    for (found, Draw { sampler, logits, text, random }) in found.into_iter().zip(draws) {
        match (found, sampler.sample(logits, text, random)) {
            (Ok(found), Ok(alone)) => assert_eq!(found, alone),
            (found, alone) => assert_eq!(found.unwrap_err().to_string(), alone.unwrap_err().to_string()),
        }
    }
}

#[test]
fn parameters_at_the_ends_of_their_ranges_choose_the_likeliest_or_all() {
    let logits = [-2.0, 5.0, 7.0, 7.0, -9.0];
    let chosen = |sampling: Sampling, random| sampler(sampling).sample(&logits, &[2], random).unwrap();
    let hot = Sampling { temperature: 1.0, ..Sampling::default() };
    for random in [0.0, 0.3, 0.999_999_9] {
        let cold = Sampling { temperature: 1e-45, ..hot.clone() };
        assert_eq!(chosen(cold.clone(), random), if random < 0.5 { 2 } else { 3 });
        assert_eq!(chosen(Sampling { top_p: 1e-45, ..hot.clone() }, random), 2);
        assert_eq!(chosen(Sampling { top_k: 1, ..hot.clone() }, random), 2);
        assert_eq!(chosen(Sampling { min_p: 1.0, temperature: 0.1, ..hot.clone() }, random) / 2, 1);
        assert_eq!(chosen(Sampling { repetition_penalty: 1e6, ..cold.clone() }, random), 3);
        assert_eq!(chosen(Sampling { repetition_penalty: 1e-6, ..hot.clone() }, random), 2);
        let boiling = Sampling { temperature: f32::MAX, top_k: usize::MAX, ..hot.clone() };
        assert_eq!(chosen(boiling, random), (random * 5.0) as u32);
    }
    // Penalties at which a logit would pass the range of f32.
    let huge = [f32::MAX, 1.0, f32::MIN];
    for penalty in [1e-6, 1e6] {
        let sampler = sampler(Sampling { repetition_penalty: penalty, ..hot.clone() });
        assert_eq!(sampler.sample(&huge, &[0, 1, 2], 0.5).unwrap(), 0);
    }
}

#[test]
fn shares_are_those_of_the_exponential_function() {
    for step in 0..40_000 {
        let logit = -0.001 * step as f32;
        let likelihood = Likelihood { largest: 0.0, temperature: 1.0 };
        let exact = f64::from(logit).exp();
        assert!((f64::from(likelihood.share(logit)) - exact).abs() <= 2e-7 * exact, "{logit}");
        let weight = likelihood.weight(logit) as f64;
        assert!((weight - exact * 2f64.powi(40)).abs() <= 1.0 + 2e-7 * exact * 2f64.powi(40), "{logit}");
    }
    let likelihood = Likelihood { largest: 3.0, temperature: 1e-45 };
    assert_eq!([likelihood.share(3.0), likelihood.share(2.0)].map(|share| share > 1e-30), [true, false]);
    assert_eq!((likelihood.share(3.0), likelihood.weight(2.0)), (1.0, 0));
}
