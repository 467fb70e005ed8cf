//! Rotations by position.

/// The mean of the rotations at several positions, each cosines and sines `[d / 2]` of the half-split pairs (i, i + d / 2).
/// `None` if there are none.
#[must_use]
pub fn mean_rotation<'a>(
    rotations: impl IntoIterator<Item = (&'a [f32], &'a [f32])>,
) -> Option<(Vec<f32>, Vec<f32>)> {
    let (mut cosines, mut sines, mut count) = (Vec::<f64>::new(), Vec::<f64>::new(), 0_u32);
    for (cosine, sine) in rotations {
        cosines.resize(cosine.len(), 0.0);
        sines.resize(sine.len(), 0.0);
        cosines.iter_mut().zip(cosine).for_each(|(sum, &part)| *sum += f64::from(part));
        sines.iter_mut().zip(sine).for_each(|(sum, &part)| *sum += f64::from(part));
        count += 1;
    }
    let mean = |sums: Vec<f64>| sums.into_iter().map(|sum| (sum / f64::from(count)) as f32).collect();
    (count > 0).then(|| (mean(cosines), mean(sines)))
}

/// Turns one row in place: `row` `[d]`, `cosines` and `sines` `[d / 2]`.
pub(super) fn turned(row: &mut [f32], cosines: &[f32], sines: &[f32]) {
    let (first, second) = row.split_at_mut(cosines.len().min(row.len() / 2));
    for (((first, second), cosine), sine) in first.iter_mut().zip(second).zip(cosines).zip(sines) {
        (*first, *second) = (*first * cosine - *second * sine, *second * cosine + *first * sine);
    }
}
