//! From scores to what stays.
//!
//! Entries come in any order, as lanes hold them, which depends on how a text was cut: of equals the one at the later position
//! stays, wherever it lies.

use dropcap_policy::Floors;

use crate::budgets::{ada_interpolated, ada_safeguarded, by_worth};

/// The entries that stay, as flags in the order of the scores: those that a floor holds first, then the best.
pub(super) fn best(scores: &[f32], positions: &[u32], next: u32, floors: Floors, count: usize) -> Vec<bool> {
    flags(&raised(scores, positions, next, floors), positions, count)
}

/// The same for several heads that share `count` times their number: each has its best `safeguard` of `count`, and the best
/// of the others of all heads are added.
pub(super) fn best_of_all(
    scores: &[Vec<f32>],
    positions: &[&[u32]],
    next: u32,
    floors: Floors,
    safeguard: f64,
    count: usize,
) -> Vec<Vec<bool>> {
    let heads = scores.iter().zip(positions);
    let raised: Vec<Vec<f32>> =
        heads.map(|(scores, positions)| raised(scores, positions, next, floors)).collect();
    // It prefers the later of equals by place.
    let heads = raised.iter().zip(positions);
    let ordered: Vec<Vec<f32>> = heads.map(|(scores, positions)| in_order(scores, positions)).collect();
    let counts = ada_safeguarded(&ordered, count, safeguard);
    let heads = raised.iter().zip(positions).zip(counts);
    heads.map(|((scores, positions), count)| flags(scores, positions, count)).collect()
}

/// The same as the original of AdaKV counts: what a floor holds stays beside what heads share, and each has the share `floor`
/// of its budget, and the rest by its part of the best.
pub(super) fn best_weighed(
    scores: &[Vec<f32>],
    positions: &[&[u32]],
    next: u32,
    floors: Floors,
    floor: f64,
    count: usize,
) -> Vec<Vec<bool>> {
    let fixed = |positions: &[u32]| positions.iter().filter(|&&at| protects(floors, at, next)).count();
    let held = positions.iter().map(|positions| fixed(positions)).max().unwrap_or(0).min(count);
    let judged = |(scores, positions): (&Vec<f32>, &&[u32])| {
        let pairs = scores.iter().zip(*positions).filter(|(_, position)| !protects(floors, **position, next));
        let (scores, positions): (Vec<f32>, Vec<u32>) = pairs.unzip();
        in_order(&scores, &positions)
    };
    let judged: Vec<Vec<f32>> = scores.iter().zip(positions).map(judged).collect();
    let base = count - held;
    let counts = if judged.iter().all(|head| base > head.len()) {
        judged.iter().map(Vec::len).collect()
    } else {
        ada_interpolated(&judged, base, floor)
    };
    let heads = scores.iter().zip(positions).zip(counts);
    let best = |((scores, positions), count): ((&Vec<f32>, &&[u32]), usize)| {
        flags(&raised(scores, positions, next, floors), positions, count + fixed(positions))
    };
    heads.map(best).collect()
}

/// Scores in the order of their positions.
fn in_order(scores: &[f32], positions: &[u32]) -> Vec<f32> {
    let mut pairs: Vec<(u32, f32)> = positions.iter().copied().zip(scores.iter().copied()).collect();
    pairs.sort_unstable_by_key(|&(position, _)| position);
    pairs.into_iter().map(|(_, score)| score).collect()
}

/// Whether floors hold an entry at the query `next`.
fn protects(floors: Floors, position: u32, next: u32) -> bool {
    position < floors.sinks || position.saturating_add(floors.recent) >= next
}

/// Scores in which what a floor holds at the query `next` is worth most of all, more than what a scorer wants to stay
/// whatever it is worth.
fn raised(scores: &[f32], positions: &[u32], next: u32, floors: Floors) -> Vec<f32> {
    let worth = |(&score, &position): (&f32, &u32)| {
        match score {
            _ if protects(floors, position, next) => f32::INFINITY,
            // Not min(): that would make a number of NaN.
            score if score > f32::MAX => f32::MAX,
            score => score,
        }
    };
    scores.iter().zip(positions).map(worth).collect()
}

/// The best `count` as flags.
fn flags(scores: &[f32], positions: &[u32], count: usize) -> Vec<bool> {
    if count + 1 == scores.len() {
        // After every query one goes: the worst, and of equals the earliest.
        let worse =
            |&a: &usize, &b: &usize| by_worth(scores[a], scores[b]).then(positions[a].cmp(&positions[b]));
        let mut stays = vec![true; scores.len()];
        (0..scores.len()).min_by(worse).into_iter().for_each(|entry| stays[entry] = false);
        return stays;
    }
    let mut entries: Vec<usize> = (0..scores.len()).collect();
    if count < entries.len() {
        let better =
            |&a: &usize, &b: &usize| by_worth(scores[b], scores[a]).then(positions[b].cmp(&positions[a]));
        entries.select_nth_unstable_by(count, better);
        entries.truncate(count);
    }
    let mut stays = vec![false; scores.len()];
    entries.into_iter().for_each(|entry| stays[entry] = true);
    stays
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_best_stay_under_floors_and_nan_is_worth_least() {
        let scores = [0.1, f32::NAN, 3.0, 2.0, f32::INFINITY, 0.0];
        let positions = [0, 1, 2, 3, 4, 5];
        let kept = |sinks, recent, kept| {
            let stays = best(&scores, &positions, 6, Floors { sinks, recent }, kept);
            stays.iter().enumerate().filter(|(_, stays)| **stays).map(|(entry, _)| entry).collect::<Vec<_>>()
        };
        assert_eq!(kept(0, 0, 3), [2, 3, 4]);
        assert_eq!(kept(1, 1, 3), [0, 4, 5]);
        assert_eq!(kept(0, 0, 5), [0, 2, 3, 4, 5]);
        assert_eq!(kept(2, 0, 2), [0, 1], "a floor holds what is not a number too");
        assert_eq!(kept(0, 0, 99).len(), 6);
    }

    #[test]
    fn of_equals_the_later_stays_wherever_it_lies() {
        assert_eq!(best(&[1.0; 4], &[3, 0, 2, 1], 4, Floors::default(), 2), [true, false, true, false]);
        let (scores, positions): (_, [&[u32]; 2]) = ([vec![1.0; 2], vec![1.0; 2]], [&[1, 0], &[2, 3]]);
        let stays = best_of_all(&scores, &positions, 4, Floors::default(), 0.5, 1);
        assert_eq!(stays, [[true, false], [false, true]]);
    }

    #[test]
    fn heads_share_what_is_beyond_their_safe_part() {
        let scores = [vec![9.0, 8.0, 7.0, 6.0], vec![1.0, 2.0, 3.0, 4.0]];
        let positions: [&[u32]; 2] = [&[0, 1, 2, 3]; 2];
        let kept = |floors, safeguard| best_of_all(&scores, &positions, 4, floors, safeguard, 2);
        let none = Floors::default();
        assert_eq!(kept(none, 0.0), [[true; 4], [false; 4]]);
        assert_eq!(kept(none, 0.5), [[true, true, true, false], [false, false, false, true]]);
        assert_eq!(kept(none, 1.0), [[true, true, false, false], [false, false, true, true]]);
        let sinks = Floors { sinks: 1, recent: 0 };
        assert_eq!(kept(sinks, 0.0), [[true, true, true, false], [true, false, false, false]]);
    }
}
