//! Rope against its f64 twin.

use proptest::prelude::*;

use super::*;

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn rope_agrees_with_the_reference_and_leaves_the_rest_of_a_row(
        t in 0usize..30, heads in 0usize..5, pairs in 0usize..70, still in 0usize..9,
        offset in 0usize..9, rest in 0usize..9, first in 0u32..100_000, scaling in 0.5f32..1.5,
    ) {
        let team = Team::new(2).unwrap();
        let d = 2 * pairs + still;
        let stride = offset + heads * d + rest;
        let table = RopeTable {
            inv_freq: (0..pairs).map(|i| 10_000f32.powf(-(i as f32) / pairs as f32)).collect(),
            attention_scaling: scaling,
        };
        let positions: Vec<u32> = (0..t as u32).map(|i| first + 3 * i).collect();
        let before: Vec<f32> = (0..t * stride).map(|i| ((i * 7919 + first as usize) % 2003) as f32 / 1000.0 - 1.0).collect();
        let mut after = before.clone();
        rope(&team, &mut after, stride, offset, heads, d, &positions, &table).unwrap();
        for (row, &position) in positions.iter().enumerate() {
            let (before, after) = (&before[row * stride..][..stride], &after[row * stride..][..stride]);
            let end = offset + heads * d;
            prop_assert_eq!(&before[..offset], &after[..offset]);
            prop_assert_eq!(&before[end..], &after[end..]);
            for head in 0..heads {
                let range = offset + head * d..offset + (head + 1) * d;
                let want = reference::rope(&before[range.clone()], position, &table);
                for (&got, &want) in after[range].iter().zip(&want) {
                    prop_assert!((f64::from(got) - want).abs() < 1e-6, "{} {}", got, want);
                }
            }
        }
        let angles = table.angles(&positions);
        for &isa in Isa::available() {
            let mut again = before.clone();
            if pairs > 0 && heads > 0 {
                cpu::rotate::<false>(&team, isa, &mut again, stride, offset, heads, d, &angles);
            }
            prop_assert!(again.iter().zip(&after).all(|(a, b)| (a - b).abs() < 1e-6), "{:?}", isa);
        }
    }
}

#[test]
fn position_zero_changes_nothing() {
    let team = Team::new(1).unwrap();
    let table = RopeTable { inv_freq: vec![1.0, 0.1], attention_scaling: 1.0 };
    let mut row = [1.0, 2.0, 3.0, 4.0];
    rope(&team, &mut row, 4, 0, 1, 4, &[0], &table).unwrap();
    assert_eq!(row, [1.0, 2.0, 3.0, 4.0]);
}

#[test]
fn wrong_shapes_are_typed_errors() {
    let team = Team::new(1).unwrap();
    let table = RopeTable { inv_freq: vec![1.0; 2], attention_scaling: 1.0 };
    let call = |len: usize, stride, offset, heads, d, positions: usize| {
        rope(&team, &mut vec![0.0; len], stride, offset, heads, d, &vec![0; positions], &table)
    };
    assert_eq!(call(20, 10, 2, 2, 4, 2), Ok(()));
    assert_eq!(call(0, 10, 2, 2, 4, 0), Ok(()));
    assert!(call(20, 10, 3, 2, 4, 2).is_err(), "past a row's end");
    assert!(call(20, 10, 2, 2, 4, 3).is_err(), "a position too many");
    assert!(call(21, 10, 2, 2, 4, 2).is_err(), "a broken row");
    assert!(call(20, 10, 2, 2, 3, 2).is_err(), "a table wider than a head");
    assert!(call(20, 0, 0, 0, 4, 2).is_err(), "no stride");
    assert!(call(20, 10, usize::MAX, 2, 4, 2).is_err(), "overflow");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    #[test]
    fn turning_back_is_the_transpose(
        rows in 1usize..20, heads in 1usize..4, pairs in 1usize..40, rest in 0usize..5, offset in 0usize..5,
        scaling in 0.5f32..2.0, seed: u64,
    ) {
        let team = Team::new(2).unwrap();
        let mut random = crate::testing::Random(seed);
        let table = RopeTable { inv_freq: random.row(pairs), attention_scaling: scaling };
        let positions: Vec<u32> = (0..rows).map(|_| random.below(1000) as u32).collect();
        let angles = table.angles(&positions);
        let head_dim = 2 * pairs + rest;
        let stride = offset + heads * head_dim;
        let (x, dy) = (random.row(rows * stride), random.row(rows * stride));
        let (mut y, mut dx) = (x.clone(), dy.clone());
        rotate(&team, &mut y, stride, offset, heads, head_dim, &angles).unwrap();
        rotate_back(&team, &mut dx, stride, offset, heads, head_dim, &angles).unwrap();
        let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(&a, &b)| f64::from(a) * f64::from(b)).sum::<f64>();
        prop_assert!((dot(&y, &dy) - dot(&x, &dx)).abs() < 1e-6 * (rows * stride) as f64);
        // Forth and back is the scaling squared.
        rotate_back(&team, &mut y, stride, offset, heads, head_dim, &angles).unwrap();
        for (row, (before, after)) in x.chunks(stride).zip(y.chunks(stride)).enumerate() {
            for (i, (&before, &after)) in before.iter().zip(after).enumerate() {
                let turned = i >= offset && (i - offset) % head_dim < 2 * pairs;
                let want = if turned { before * scaling * scaling } else { before };
                prop_assert!((after - want).abs() < 2e-6, "row {}, element {}", row, i);
            }
        }
    }
}
