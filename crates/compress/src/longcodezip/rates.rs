//! How much of each chosen function stays.

use super::Settings;

/// The share of each of the `selected` functions that stays; the better ones keep more of themselves.
pub(super) fn rates(
    texts: &[&str],
    selected: &[usize],
    ranking: &[(usize, f64)],
    settings: &Settings,
) -> Vec<f64> {
    let lines: Vec<usize> = selected.iter().map(|&chunk| texts[chunk].split('\n').count()).collect();
    let is_large = |index: &usize| lines[*index] >= settings.least;
    let large: Vec<usize> = (0..selected.len()).filter(is_large).collect();
    let total: usize = lines.iter().sum();
    let of_large: usize = large.iter().map(|&index| lines[index]).sum();
    let wanted = ((total as f64 * settings.fine) as usize).saturating_sub(total - of_large);
    let mut rates = vec![1.0; selected.len()];
    if wanted == 0 || wanted >= of_large {
        return rates;
    }
    let share = wanted as f64 / of_large as f64;
    let score =
        |chunk: usize| ranking.iter().find(|(ranked, _)| *ranked == chunk).map_or(0.0, |(_, score)| *score);
    let scores: Vec<f64> = large.iter().map(|&index| score(selected[index])).collect();
    let finite = || scores.iter().copied().filter(|score| score.is_finite());
    let (low, high) = (finite().fold(f64::INFINITY, f64::min), finite().fold(f64::NEG_INFINITY, f64::max));
    if low >= high {
        large.iter().for_each(|&index| rates[index] = share);
        return rates;
    }
    let place = |score: &f64| if score.is_finite() { (score - low) / (high - low) } else { 0.0 };
    let biased = |score: &f64| (share * (1.0 + settings.beta * (place(score) - 0.5) * 2.0)).clamp(0.0, 1.0);
    let biased: Vec<f64> = scores.iter().map(biased).collect();
    let sum: f64 = biased.iter().zip(&large).map(|(rate, &index)| rate * lines[index] as f64).sum();
    let off = sum > 0.0 && (sum - wanted as f64).abs() > 1.0;
    let scale = if off { wanted as f64 / sum } else { 1.0 };
    for (&index, rate) in large.iter().zip(biased) {
        rates[index] = (rate * scale).clamp(0.0, 1.0);
    }
    rates
}
