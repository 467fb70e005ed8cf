//! The loss against f64, and the f64 gradient against differences.

use proptest::prelude::*;

use super::*;
use crate::testing::Random;

fn softmax(x: &[f64]) -> Vec<f64> {
    let top = x.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let weights: Vec<f64> = x.iter().map(|x| (x - top).exp()).collect();
    let sum: f64 = weights.iter().sum();
    weights.iter().map(|w| w / sum).collect()
}

/// Entropy of a row's prediction.
fn entropy(x: &[f64]) -> f64 {
    -softmax(x).iter().map(|p| if *p > 0.0 { p * p.ln() } else { 0.0 }).sum::<f64>()
}

/// Cross-entropy and divergence of a row.
fn losses(x: &[f64], target: usize, teacher: &[f64]) -> (f64, f64) {
    let (p, q) = (softmax(x), softmax(teacher));
    let divergence = q.iter().zip(&p).map(|(q, p)| if *q > 0.0 { q * (q / p).ln() } else { 0.0 }).sum();
    (-p[target].ln(), divergence)
}

fn gradient(x: &[f64], target: usize, teacher: &[f64], distill: f64) -> Vec<f64> {
    let rows = softmax(x).into_iter().zip(softmax(teacher)).enumerate();
    rows.map(|(i, (p, q))| p - (1.0 - distill) * f64::from(u8::from(i == target)) - distill * q).collect()
}

fn wide(x: &[f32]) -> Vec<f64> {
    x.iter().map(|&x| f64::from(x)).collect()
}

#[test]
fn the_reference_agrees_with_differences() {
    let mut random = Random(11);
    for distill in [0.0, 0.3, 1.0] {
        let (x, teacher) = (wide(&random.row(9)), wide(&random.row(9)));
        let value = |x: &[f64]| {
            let (ce, kl) = losses(x, 4, &teacher);
            (1.0 - distill) * ce + distill * kl
        };
        for (i, want) in gradient(&x, 4, &teacher, distill).into_iter().enumerate() {
            let (mut up, mut down) = (x.clone(), x.clone());
            up[i] += 1e-5;
            down[i] -= 1e-5;
            assert!(((value(&up) - value(&down)) / 2e-5 - want).abs() < 1e-8);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn losses_and_gradients_agree_with_the_reference_on_any_number_of_threads(
        rows in 0usize..12, v in 1usize..3000, seed: u64, size in 0.1f32..40.0, distill in 0f32..=1.0,
        taught: bool, scale in 0.1f32..3.0, shift in -1e3f32..1e3,
    ) {
        let mut random = Random(seed);
        let row = |random: &mut Random| random.row(rows * v).iter().map(|x| x * size + shift).collect::<Vec<f32>>();
        let (logits, teacher) = (row(&mut random), row(&mut random));
        let given = taught.then_some(&teacher[..]);
        let distill = if taught { distill } else { 0.0 };
        let targets: Vec<u32> =
            (0..rows).map(|_| if random.below(4) == 0 { IGNORE } else { random.below(v) as u32 }).collect();
        let results = [1, 2, 3].map(|threads| {
            let (mut x, mut loss) = (logits.clone(), vec![RowLoss::default(); rows]);
            let team = Team::new(threads).unwrap();
            cross_entropy(&team, &mut x, v, &targets, given, distill, scale, &mut loss).unwrap();
            (x, loss)
        });
        prop_assert!(results[0] == results[1] && results[0] == results[2]);
        let (x, loss) = &results[0];
        for threads in [1, 3] {
            let mut judged = vec![Judged::default(); rows];
            row_losses(&Team::new(threads).unwrap(), &logits, v, &targets, given, &mut judged).unwrap();
            for (row, (judged, loss)) in judged.iter().zip(loss).enumerate() {
                prop_assert_eq!(judged.loss, *loss, "the same without a gradient");
                let own = &logits[row * v..][..v];
                let largest = own.iter().copied().fold(f32::NEG_INFINITY, f32::max);
                prop_assert_eq!(Some(judged.likeliest as usize), own.iter().position(|&x| x == largest));
            }
        }
        for row in 0..rows {
            let range = row * v..(row + 1) * v;
            if targets[row] == IGNORE {
                prop_assert!(x[range].iter().all(|&x| x == 0.0) && loss[row] == RowLoss::default());
                continue;
            }
            let (own, taught_row, target) = (wide(&logits[range.clone()]), wide(&teacher[range.clone()]), targets[row]);
            let (ce, kl) = losses(&own, target as usize, &taught_row);
            let kl = if taught { kl } else { 0.0 };
            prop_assert!((f64::from(loss[row].cross_entropy) - ce).abs() < 2e-6 * (1.0 + ce), "{:?} {ce}", loss[row]);
            prop_assert!((f64::from(loss[row].divergence) - kl).abs() < 2e-5 * (1.0 + kl), "{:?} {kl}", loss[row]);
            let unsure = entropy(&own);
            prop_assert!((f64::from(loss[row].entropy) - unsure).abs() < 2e-5 * (1.0 + unsure), "{:?} {unsure}", loss[row]);
            for (&got, want) in x[range].iter().zip(gradient(&own, target as usize, &taught_row, f64::from(distill))) {
                prop_assert!((f64::from(got) - want * f64::from(scale)).abs() < 1e-6, "{got} {want}");
            }
        }
    }
}

#[test]
fn the_likeliest_token_is_the_first_of_the_largest() {
    let team = Team::new(1).unwrap();
    for length in [1, 5, 16, 33, 50] {
        for at in 0..length {
            let mut row: Vec<f32> = (0..length).map(|i| -((i * 7 % 5) as f32)).collect();
            (row[at], row[length - 1]) = (3.0, 3.0);
            let mut judged = [Judged::default()];
            row_losses(&team, &row, length, &[IGNORE], None, &mut judged).unwrap();
            assert_eq!(judged[0], Judged { loss: RowLoss::default(), likeliest: at as u32 });
        }
    }
}

#[test]
fn forbidden_tokens_are_no_trouble() {
    let team = Team::new(1).unwrap();
    let mut x = [1.0, f32::NEG_INFINITY, 2.0, f32::NEG_INFINITY];
    let teacher = [0.5, f32::NEG_INFINITY, 1.0, f32::NEG_INFINITY];
    let mut loss = [RowLoss::default()];
    cross_entropy(&team, &mut x, 4, &[2], Some(&teacher), 0.5, 1.0, &mut loss).unwrap();
    assert!(x.iter().all(|x| x.is_finite()) && x[1] == 0.0 && x[3] == 0.0, "{x:?}");
    assert!(
        (loss[0].entropy - 0.582_203_2).abs() < 1e-6,
        "of two tokens, the likelier of e in 1 + e: {loss:?}"
    );
    assert!((loss[0].cross_entropy - 0.313_261_7).abs() < 1e-6 && loss[0].divergence.is_finite(), "{loss:?}");
}

#[test]
fn a_student_like_its_teacher_does_not_diverge() {
    let team = Team::new(1).unwrap();
    let x = Random(1).row(1000);
    let mut loss = [RowLoss::default()];
    let mut gradient = x.clone();
    cross_entropy(&team, &mut gradient, 1000, &[2], Some(&x), 1.0, 1.0, &mut loss).unwrap();
    assert!((0.0..1e-6).contains(&loss[0].divergence));
    assert!(gradient.iter().all(|g| g.abs() < 1e-9));
}

#[test]
fn wrong_arguments_are_typed_errors() {
    let team = Team::new(1).unwrap();
    let teacher = [0.0; 6];
    let call = |x: usize, v: usize, targets: &[u32], teacher: Option<&[f32]>, distill: f32, losses: usize| {
        let (mut x, mut losses) = (vec![0.0; x], vec![RowLoss::default(); losses]);
        cross_entropy(&team, &mut x, v, targets, teacher, distill, 1.0, &mut losses)
    };
    assert_eq!(call(6, 3, &[0, 2], Some(&teacher), 0.5, 2), Ok(()));
    assert_eq!(call(0, 3, &[], None, 0.0, 0), Ok(()));
    assert!(call(5, 3, &[0, 2], None, 0.0, 2).is_err());
    assert!(call(6, 3, &[0, 2], Some(&teacher[1..]), 0.0, 2).is_err());
    assert!(call(6, 3, &[0, 2], None, 0.0, 1).is_err());
    assert!(call(6, 3, &[0, 3], None, 0.0, 2).is_err(), "no such token");
    assert!(call(6, 3, &[0, 2], None, 0.5, 2).is_err(), "no teacher");
    assert!(call(6, 3, &[0, 2], Some(&teacher), 1.5, 2).is_err());
    assert!(call(6, 3, &[0, 2], Some(&teacher), f32::NAN, 2).is_err());
    assert!(call(0, usize::MAX, &[0, 2], None, 0.0, 2).is_err());
    let judge = |x: usize, targets: &[u32], teacher: Option<&[f32]>, rows: usize| {
        row_losses(&team, &vec![0.0; x], 3, targets, teacher, &mut vec![Judged::default(); rows])
    };
    assert_eq!(judge(6, &[0, 2], Some(&teacher), 2), Ok(()));
    assert!(judge(5, &[0, 2], None, 2).is_err());
    assert!(judge(6, &[0, 2], Some(&teacher[1..]), 2).is_err());
    assert!(judge(6, &[0, 3], None, 2).is_err(), "no such token");
    assert!(judge(6, &[0, 2], None, 1).is_err());
}
