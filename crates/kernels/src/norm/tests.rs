//! The norms against their f64 twins.

use proptest::prelude::*;

use super::*;

fn numbers(count: usize, seed: u32, offset: f32) -> Vec<f32> {
    let mix =
        |i: usize| (i as u32 ^ seed).wrapping_mul(0x9e37_79b1).rotate_left(13).wrapping_mul(0x85eb_ca6b) >> 8;
    (0..count).map(|i| mix(i) as f32 / (1u32 << 23) as f32 - 1.0 + offset).collect()
}

fn close(got: &[f32], want: &[f64], tolerance: f64) -> bool {
    got.len() == want.len()
        && got
            .iter()
            .zip(want)
            .all(|(&got, &want)| (f64::from(got) - want).abs() <= tolerance * (1.0 + want.abs()))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn both_norms_agree_with_the_reference(
        rows in 0usize..60, width in 1usize..900, seed: u32, offset in -3f32..3.0,
    ) {
        let team = Team::new(2).unwrap();
        let x = numbers(rows * width, seed, offset);
        let (weight, bias) = (numbers(width, !seed, 0.5), numbers(width, seed ^ 5, 0.0));
        for &isa in Isa::available() {
            let mut layer = vec![0.0; x.len()];
            cpu::norm(&team, isa, &x, &weight, Some(&bias), 1e-5, &mut layer);
            let mut rms = vec![0.0; x.len()];
            cpu::norm(&team, isa, &x, &weight, None, 1e-6, &mut rms);
            for row in 0..rows {
                let range = row * width..(row + 1) * width;
                let x = &x[range.clone()];
                let want = reference::layer_norm(x, &weight, &bias, 1e-5);
                // Around a mean of 3 the differences of narrow rows keep fewer bits.
                prop_assert!(close(&layer[range.clone()], &want, 1e-4), "{isa:?}: {:?} {want:?}", &layer[range]);
                prop_assert!(close(&rms[range.clone()], &reference::rms_norm(x, &weight, 1e-6), 2e-6));
                let mut alone = vec![0.0; width];
                cpu::norm(&team, isa, x, &weight, Some(&bias), 1e-5, &mut alone);
                prop_assert_eq!(&alone[..], &layer[range.clone()]);
                cpu::norm(&team, isa, x, &weight, None, 1e-6, &mut alone);
                prop_assert_eq!(&alone[..], &rms[range]);
            }
        }
    }

    #[test]
    fn a_head_is_normed_like_a_row_and_its_neighbours_stay(
        rows in 0usize..20, heads in 0usize..5, d in 1usize..130, offset in 0usize..9, rest in 0usize..9, seed: u32,
    ) {
        let team = Team::new(2).unwrap();
        let stride = offset + heads * d + rest;
        let before = numbers(rows * stride, seed, 0.1);
        let weight = numbers(d, !seed, 1.0);
        let mut after = before.clone();
        rms_norm_heads(&team, &mut after, stride, offset, heads, &weight, 1e-6).unwrap();
        for (row, (before, after)) in before.chunks(stride.max(1)).zip(after.chunks(stride.max(1))).enumerate() {
            let end = offset + heads * d;
            prop_assert_eq!(&before[..offset], &after[..offset], "row {}", row);
            prop_assert_eq!(&before[end..], &after[end..], "row {}", row);
            let mut want = vec![0.0; heads * d];
            rms_norm(&team, &before[offset..end], &weight, 1e-6, &mut want).unwrap();
            prop_assert_eq!(&want[..], &after[offset..end], "row {}", row);
        }
    }
}

#[test]
fn wrong_shapes_are_typed_errors() {
    let team = Team::new(1).unwrap();
    let (x, w) = ([0.0; 12], [1.0; 4]);
    assert!(layer_norm(&team, &x, &w, &w, 1e-5, &mut [0.0; 12]).is_ok());
    assert!(layer_norm(&team, &x, &w, &w[..3], 1e-5, &mut [0.0; 12]).is_err());
    assert!(rms_norm(&team, &x, &w, 1e-5, &mut [0.0; 11]).is_err());
    assert!(rms_norm(&team, &x[..11], &w, 1e-5, &mut [0.0; 11]).is_err());
    assert!(rms_norm(&team, &x, &[], 1e-5, &mut [0.0; 12]).is_err());
    assert!(rms_norm_heads(&team, &mut [0.0; 12], 6, 2, 1, &w, 1e-5).is_ok());
    assert!(rms_norm_heads(&team, &mut [0.0; 12], 6, 3, 1, &w, 1e-5).is_err());
    assert!(rms_norm_heads(&team, &mut [0.0; 12], 5, 0, 1, &w, 1e-5).is_err());
    assert!(rms_norm_heads(&team, &mut [0.0; 12], 6, 0, usize::MAX, &w, 1e-5).is_err());
}
