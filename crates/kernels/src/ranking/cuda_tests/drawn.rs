//! Entries that are drawn, and those that stay beside a budget because nobody has judged them yet.

use super::select::{Case, better, choose, live};
use super::{LAYERS, gumbel, noise_at, score_of, set_score, set_statistic, settings, shape, statistic_of};
use crate::DType;
use crate::cuda::Specialisation;
use crate::cuda::testing::device;
use crate::cuda::testing::entries::Entry;
use crate::lifetimes::Floors;
use crate::ranking::{RankingSettings, Score};
use crate::testing::Random;

#[test]
fn cuda_part_of_what_is_chosen_is_drawn() {
    let Some(device) = device("cuda_part_of_what_is_chosen_is_drawn") else { return };
    let random = &mut Random(71);
    for (specialisation, chance) in [
        (shape(DType::F32, (4, 4), 4, 8), 0.3),
        (shape(DType::Bf16, (4, 2), 2, 64), 1.0),
        (shape(DType::F16, (2, 1), 1, 16), 0.0),
        (shape(DType::F32, (4, 2), 2, 8), 0.6),
    ] {
        let seed = 40 + random.below(9) as u64;
        let counted = Floors { sinks: random.pick(&[0, 4]), recent: random.pick(&[0, 9]) };
        let settings = RankingSettings { counted, ..settings(Score::Drawn { proxies: 3, chance, seed }) };
        let case = Case::random(random, specialisation, &[0, 1, 33, 300, 70, 1500, 31]);
        let mut expected = case.contents.clone();
        case.each_layer(&mut expected, |layer, next, kept, lanes| {
            for (head, lane) in lanes.iter_mut().enumerate() {
                let held = |position: u32| {
                    position < counted.sinks || position.saturating_add(counted.recent) >= next
                };
                let candidates = lane.iter().enumerate().filter(|(_, entry)| live(entry, next));
                let worth = |score: f32| if score > f32::MAX { f32::MAX } else { score };
                let (fixed, mut others): (Vec<_>, Vec<_>) = candidates
                    .map(|(place, entry)| (worth(score_of(entry)), entry.position, head, place))
                    .partition(|candidate| held(candidate.1));
                let chosen = (kept as usize).saturating_sub(fixed.len());
                let drawn = (chosen as f64 * chance) as usize;
                others.sort_by(better);
                for (rank, (_, position, _, place)) in others.into_iter().enumerate().filter(|_| drawn > 0) {
                    let noise = gumbel(noise_at(seed, (layer, head), 0, position));
                    // The mean of the query heads that are in the sum.
                    let members = (specialisation.query_heads / specialisation.groups) as f32;
                    let score = score_of(&lane[place]) / members;
                    let best = rank < chosen - drawn;
                    set_score(&mut lane[place], if best { f32::INFINITY } else { score + noise });
                }
                choose(std::slice::from_mut(lane), next, kept as usize, &settings);
            }
        });
        let found = case.prune(&device, random, settings);
        for (lane, (found, expected)) in found.iter().zip(&expected).enumerate() {
            let ends = |lane: &[Entry]| -> Vec<(u32, u32, u32)> {
                lane.iter().map(|entry| (entry.position, entry.expires_at, entry.killer)).collect()
            };
            assert_eq!(ends(found), ends(expected), "{specialisation:?} chance {chance} lane {lane}");
        }
    }
}

#[test]
fn cuda_what_has_come_since_the_last_choice_stays_beside_the_budget() {
    let Some(device) = device("cuda_what_has_come_since_the_last_choice_stays_beside_the_budget") else {
        return;
    };
    let random = &mut Random(72);
    for base in [shape(DType::F32, (4, 4), 1, 8), shape(DType::Bf16, (4, 2), 2, 64)] {
        let specialisation = Specialisation { statistics: 2, ..base };
        let mut case = Case::random(random, specialisation, &[0, 1, 33, 300, 70, 1500, 31]);
        for entry in case.contents.iter_mut().flatten() {
            let score = random.real();
            set_statistic(entry, 0, score);
            set_statistic(entry, 1, random.pick(&[0.0, 1.0, 1.0, 1.0]));
        }
        let settings = settings(Score::Since);
        let mut expected = case.contents.clone();
        let mut ended = 0;
        case.each_layer(&mut expected, |_, next, kept, lanes| {
            for (head, lane) in lanes.iter_mut().enumerate() {
                let there = lane.iter().enumerate().filter(|(_, entry)| live(entry, next));
                let judged = there.filter(|(_, entry)| statistic_of(entry, 1) == 1.0);
                let mut judged: Vec<_> = judged
                    .map(|(place, entry)| (statistic_of(entry, 0), entry.position, head, place))
                    .collect();
                judged.sort_by(better);
                for (.., place) in judged.into_iter().skip(kept as usize) {
                    ended += 1;
                    lane[place].lower(next, next - 1, (0, 0));
                }
                for entry in lane.iter_mut() {
                    set_statistic(entry, 0, 0.0);
                    set_statistic(entry, 1, 1.0);
                }
            }
        });
        assert!(ended > LAYERS, "something ends");
        let found = case.prune(&device, random, settings);
        assert!(found == expected, "{specialisation:?}: {:?}", case.kept);
    }
}
