//! A coreset by DEALRec's rule (arXiv 2401.17197): examples of every strength, drawn stratum by stratum.
//!
//! Examples of the highest scores are skipped as too hard. The range of the others' scores is cut into equal ranges, and
//! the smallest stratum gives first, so that what it lacks of its share falls to the larger ones.

use super::q_tuning::min_max;

/// How a coreset is drawn.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Coverage {
    /// Ranges of scores.
    pub strata: usize,
    /// Share of the examples, those of the highest scores, that is left out, in [0, 1).
    pub hardest: f64,
}

/// The score of each example: its influence, and `lambda` times the effort that it takes to learn, each scaled to 0..=1.
#[must_use]
pub fn overall(influence: &[f64], effort: &[f64], lambda: f64) -> Vec<f64> {
    let (influence, effort) = (min_max(influence), min_max(effort));
    influence.into_iter().zip(effort).map(|(influence, effort)| influence + lambda * effort).collect()
}

/// At most `budget` examples of `scores`, those of a stratum that are drawn first (the least `draws`); stratum by stratum, the
/// smallest first. Fewer only where the others are too hard, or a stratum's share of the budget is below one.
#[must_use]
pub fn coverage(rule: &Coverage, scores: &[f64], draws: &[u64], budget: usize) -> Vec<usize> {
    let mut order: Vec<usize> = (0..scores.len().min(draws.len())).collect();
    order.sort_by(|&a, &b| scores[b].total_cmp(&scores[a]));
    let hardest = ((rule.hardest * order.len() as f64).floor() as usize).min(order.len());
    let left = order.split_off(hardest);
    let strata = rule.strata.max(1);
    let mut members = vec![Vec::new(); strata];
    let (Some(&first), Some(&last)) = (left.first(), left.last()) else { return Vec::new() };
    let (most, least) = (scores[first], scores[last]);
    let interval = (most - least) / strata as f64;
    for &index in &left {
        let edge = |range: &usize| least + interval * (range + 1) as f64 >= scores[index];
        // Rounding may leave the highest score above the last edge.
        let range = (0..strata).find(edge).unwrap_or(strata - 1);
        members[range].push(index);
    }
    members.retain(|members| !members.is_empty());
    members.sort_by_key(Vec::len);
    let (mut chosen, mut budget, count) = (Vec::new(), budget, members.len());
    for (number, mut members) in members.into_iter().enumerate() {
        let taken = members.len().min(budget / (count - number));
        members.sort_by_key(|&index| (draws[index], index));
        chosen.extend(members.into_iter().take(taken));
        budget -= taken;
    }
    chosen
}

#[cfg(test)]
mod tests;
