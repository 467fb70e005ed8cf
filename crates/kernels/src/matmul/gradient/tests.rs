//! The gradients of weights and biases against f64 sums.

use proptest::prelude::*;

use super::*;
use crate::testing::Random;

/// The sum of `rows` products of numbers up to 1, accumulated in f32.
fn tolerance(rows: usize) -> f64 {
    4e-7 * (rows as f64).max(8.0)
}

fn reference(a: Columns<'_>, b: Columns<'_>, before: &[f32]) -> Vec<f64> {
    let mut out: Vec<f64> = before.iter().map(|&x| f64::from(x)).collect();
    for (a_row, b_row) in a.data.chunks(a.stride).zip(b.data.chunks(b.stride)) {
        let (a_row, b_row) = (&a_row[a.first..][..a.width], &b_row[b.first..][..b.width]);
        for (out, &x) in out.chunks_mut(b.width).zip(a_row) {
            out.iter_mut().zip(b_row).for_each(|(out, &y)| *out += f64::from(x) * f64::from(y));
        }
    }
    out
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn both_sums_agree_with_the_reference_on_any_number_of_threads(
        t in 1usize..70, m in 1usize..90, n in 1usize..90, rest in 0usize..40, first in 0usize..9, seed: u64,
    ) {
        let mut random = Random(seed);
        let (a_stride, b_stride) = (first + m + rest, n + rest);
        let (a, b, before) = (random.row(t * a_stride), random.row(t * b_stride), random.row(m * n));
        let a = Columns { data: &a, stride: a_stride, first, width: m };
        let b = Columns { data: &b, stride: b_stride, first: rest, width: n };
        let want = reference(a, b, &before);
        for &isa in Isa::available() {
            let mut results = [1, 2, 3].map(|threads| {
                let mut out = before.clone();
                transposed_product_with(isa, &Team::new(threads).unwrap(), a, b, &mut out).unwrap();
                out
            });
            prop_assert!(results[0] == results[1] && results[0] == results[2], "{:?}", isa);
            for (&got, &want) in results[0].iter().zip(&want) {
                prop_assert!((f64::from(got) - want).abs() < tolerance(t), "{isa:?}: {got}, want {want}");
            }
            results[0].clear();
        }
        let ones = vec![1.0; t];
        let want = reference(a, Columns::all(&ones, 1), &before[..m]);
        for threads in 1..4 {
            let mut out = before[..m].to_vec();
            column_sums(&Team::new(threads).unwrap(), a, &mut out).unwrap();
            for (&got, &want) in out.iter().zip(&want) {
                prop_assert!((f64::from(got) - want).abs() < tolerance(t), "{got}, want {want}");
            }
        }
    }
}

#[test]
fn blocks_of_rows_and_groups_of_panels_add_up() {
    let mut random = Random(5);
    for (t, m, n) in [(769, 40, 300), (1700, 33, 513), (2305, 15, 70)] {
        let (a, b, before) = (random.row(t * m), random.row(t * n), random.row(m * n));
        let (a, b) = (Columns::all(&a, m), Columns::all(&b, n));
        let want = reference(a, b, &before);
        let results = [1, 2, 3].map(|threads| {
            let mut out = before.clone();
            transposed_product(&Team::new(threads).unwrap(), a, b, &mut out).unwrap();
            out
        });
        assert!(results[0] == results[1] && results[0] == results[2], "{t} {m} {n}");
        for (&got, &want) in results[0].iter().zip(&want) {
            assert!((f64::from(got) - want).abs() < 0.1 * tolerance(t), "{t} {m} {n}: {got}, want {want}");
        }
    }
}

#[test]
fn wrong_shapes_are_typed_errors() {
    let team = Team::new(1).unwrap();
    let data = [1.0; 12];
    let columns = |stride: usize, first: usize, width: usize| Columns { data: &data, stride, first, width };
    let call = |a, b, out: usize| transposed_product(&team, a, b, &mut vec![0.0; out]);
    assert_eq!(call(columns(4, 1, 3), columns(4, 0, 4), 12), Ok(()));
    assert_eq!(call(columns(4, 4, 0), columns(4, 0, 4), 0), Ok(()));
    assert!(call(columns(4, 2, 3), columns(4, 0, 4), 12).is_err(), "past the row");
    assert!(call(columns(5, 0, 3), columns(4, 0, 4), 12).is_err(), "not whole rows");
    assert!(call(columns(4, 0, 3), columns(3, 0, 3), 9).is_err(), "other rows");
    assert!(call(columns(4, 0, 3), columns(4, 0, 4), 11).is_err(), "out");
    assert!(call(columns(4, usize::MAX, 3), columns(4, 0, 4), 12).is_err());
    assert!(column_sums(&team, columns(4, 0, 4), &mut [0.0; 3]).is_err());
    assert!(column_sums(&team, columns(0, 0, 0), &mut []).is_err());
}
