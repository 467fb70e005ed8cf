//! The optimiser against f64.

use proptest::prelude::*;

use super::*;
use crate::testing::Random;

/// One step in f64 of state that is rounded to f32 between steps only in the fast twin.
fn reference(step: &AdamW, state: &mut [f64; 3], g: f32) {
    let [p, m, v] = state;
    let wide = f64::from;
    let g = wide(g) * wide(step.gradient_scale);
    *m = wide(step.beta1) * *m + (1.0 - wide(step.beta1)) * g;
    *v = wide(step.beta2) * *v + (1.0 - wide(step.beta2)) * g * g;
    let first = *m / (1.0 - wide(step.beta1).powi(step.step as i32));
    let second = *v / (1.0 - wide(step.beta2).powi(step.step as i32));
    *p -= wide(step.learning_rate) * wide(step.weight_decay) * *p;
    *p -= wide(step.learning_rate) * first / (second.sqrt() + wide(step.epsilon));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn steps_agree_with_the_reference_on_any_number_of_threads(
        len in 0usize..40_000, seed: u64, learning_rate in 1e-5f32..1e-2, weight_decay in 0f32..0.3,
        beta1 in 0f32..0.95, beta2 in 0.9f32..0.9999, gradient_scale in 0.01f32..3.0,
    ) {
        let mut random = Random(seed);
        let start = random.row(len);
        let gradients: Vec<Vec<f32>> = (0..3).map(|_| random.row(len)).collect();
        let results = [1, 2, 3].map(|threads| {
            let team = Team::new(threads).unwrap();
            let (mut p, mut m, mut v) = (start.clone(), vec![0.0; len], vec![0.0; len]);
            for (i, g) in gradients.iter().enumerate() {
                let step = i as u64 + 1;
                let step = AdamW { learning_rate, beta1, beta2, epsilon: 1e-8, weight_decay, step, gradient_scale };
                adamw(&team, &step, &mut p, g, &mut m, &mut v).unwrap();
            }
            [p, m, v]
        });
        prop_assert!(results[0] == results[1] && results[0] == results[2]);
        for i in 0..len {
            let mut state = [f64::from(start[i]), 0.0, 0.0];
            for (s, g) in gradients.iter().enumerate() {
                let step = s as u64 + 1;
                let step = AdamW { learning_rate, beta1, beta2, epsilon: 1e-8, weight_decay, step, gradient_scale };
                reference(&step, &mut state, g[i]);
            }
            let [p, m, v] = &results[0];
            prop_assert!((f64::from(p[i]) - state[0]).abs() < 5e-7, "{} {:?}", p[i], state);
            prop_assert!((f64::from(m[i]) - state[1]).abs() < 2e-6, "{} {:?}", m[i], state);
            prop_assert!((f64::from(v[i]) - state[2]).abs() < 1e-6 * state[2].abs() + 1e-30, "{} {:?}", v[i], state);
        }
    }

    #[test]
    fn the_sum_of_squares_is_exact_to_f64(len in 0usize..70_000, seed: u64, scale in 1e-12f32..1e15) {
        let x: Vec<f32> = Random(seed).row(len).iter().map(|x| x * scale).collect();
        let want: f64 = x.iter().map(|&x| f64::from(x).powi(2)).sum();
        let got = [1, 2, 3].map(|threads| sum_of_squares(&Team::new(threads).unwrap(), &x));
        prop_assert!((got[0] - want).abs() <= 1e-12 * want);
        prop_assert_eq!(got[0], got[1]);
        prop_assert_eq!(got[0], got[2]);
    }
}

#[test]
fn the_sum_of_squares_shows_what_is_not_a_number() {
    let team = Team::new(2).unwrap();
    for at in [0, 17_000, 39_999] {
        let mut x = vec![1e30; 40_000];
        assert!(sum_of_squares(&team, &x).is_finite());
        x[at] = f32::INFINITY;
        assert_eq!(sum_of_squares(&team, &x), f64::INFINITY);
        x[at] = f32::NAN;
        assert!(sum_of_squares(&team, &x).is_nan());
    }
}

#[test]
fn a_learning_rate_of_zero_moves_only_the_moments() {
    let team = Team::new(1).unwrap();
    let step = AdamW {
        learning_rate: 0.0,
        beta1: 0.9,
        beta2: 0.999,
        epsilon: 1e-8,
        weight_decay: 0.1,
        step: 1,
        gradient_scale: 1.0,
    };
    let (mut p, mut m, mut v) = ([1.5, -2.0], [0.0; 2], [0.0; 2]);
    adamw(&team, &step, &mut p, &[1.0, 0.0], &mut m, &mut v).unwrap();
    assert_eq!((p, m[1], v[1]), ([1.5, -2.0], 0.0, 0.0));
    assert!(m[0] > 0.0 && v[0] > 0.0);
}

#[test]
fn wrong_arguments_are_typed_errors() {
    let team = Team::new(1).unwrap();
    let good = AdamW {
        learning_rate: 0.1,
        beta1: 0.9,
        beta2: 0.999,
        epsilon: 1e-8,
        weight_decay: 0.0,
        step: 1,
        gradient_scale: 1.0,
    };
    let call = |step: AdamW, lens: [usize; 4]| {
        let [mut p, g, mut m, mut v] = lens.map(|len| vec![0.0; len]);
        adamw(&team, &step, &mut p, &g, &mut m, &mut v)
    };
    assert_eq!(call(good, [3; 4]), Ok(()));
    for lens in [[3, 2, 3, 3], [3, 3, 2, 3], [3, 3, 3, 2]] {
        assert!(matches!(call(good, lens), Err(KernelError::Length { .. })));
    }
    for bad in [AdamW { step: 0, ..good }, AdamW { beta1: 1.0, ..good }, AdamW { beta2: f32::NAN, ..good }] {
        assert!(matches!(call(bad, [3; 4]), Err(KernelError::Invalid { .. })));
    }
}

#[test]
fn a_verdict_clips_as_torch_does_and_stands_still_for_what_is_not_finite() {
    let of = |squares: &[f64], clipped: &[bool], clip| Verdict::of(squares, clipped, clip);
    assert_eq!(
        of(&[9.0, 16.0, 1e9], &[true, true, false], 1.0),
        Verdict { scale: (1.0 / 5.000001_f64) as f32, moves: true }
    );
    assert_eq!(of(&[9.0], &[true], 4.0), Verdict { scale: 1.0, moves: true });
    assert_eq!(of(&[1e18], &[true], 0.0), Verdict { scale: 1.0, moves: true });
    assert_eq!(of(&[9.0, 9.0], &[false, false], 1.0), Verdict { scale: 1.0, moves: true });
    for bad in [f64::NAN, f64::INFINITY] {
        assert!(!of(&[1.0, bad], &[true, false], 1.0).moves);
    }
}
