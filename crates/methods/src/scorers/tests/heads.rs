//! Scorers that look at one head by itself: NACL.

use super::*;
use crate::budgets::kept;
use crate::golden::{Golden, assert_scores, count, places};
use crate::scorers::*;

const D: usize = 16;
const SCALE: f32 = 0.25;

#[test]
fn nacl_scores_its_proxies_and_keeps_sinks_best_drawn_and_recent() {
    let golden = Golden::open("nacl");
    for (name, case) in golden.cases("case") {
        let setting = |name: &str| count(&case[name]);
        let (n, sinks, recent, proxies) =
            (setting("n"), setting("sink_tokens"), setting("recent"), setting("proxy_tokens"));
        let (top, drawn) = (setting("top"), setting("random"));
        let tensor = |what: &str| golden.floats(&format!("{name}.{what}"));
        let list = |what: &str| golden.integers(&format!("{name}.{what}"));
        let (queries, keys, theirs) = (tensor("q_proxy"), tensor("k"), tensor("proxy_score"));
        for head in 0..setting("heads") {
            let queries = &queries[head * proxies * D..][..proxies * D];
            let ours = nacl(queries, &keys[head * n * D..][..n * D], D, 1, SCALE);
            assert_scores(&ours, &theirs[head * n..][..n], TOLERANCE, name);
            let best: Vec<usize> =
                kept(&ours[sinks..n - recent], top).iter().map(|place| place + sinks).collect();
            assert_eq!(best, places(&list("top")[head * top..][..top]), "{name}, head {head}");
            // With numpy's draw in place of ours the whole set is the original's.
            let chosen =
                if drawn == 0 { vec![] } else { places(&list("random_drawn")[head * drawn..][..drawn]) };
            let mut all: Vec<usize> = (0..sinks).chain(best).chain(chosen).chain(n - recent..n).collect();
            all.sort_unstable();
            let total = setting("total");
            assert_eq!(all, places(&list("kept")[head * total..][..total]), "{name}, head {head}");
        }
    }
}

#[test]
fn nacl_draws_from_the_middle_in_proportion_to_the_softmax_of_scores() {
    let scores = [9.0, 0.2, 1.5, 0.1, 1.0, 0.5, 9.0];
    let (middle, top, seeds) = (1..6, 1, 4000_u64);
    let mut drawn = [0_u32; 7];
    for seed in 0..seeds {
        let place = |entry: usize| Place { entry: entry as u32, ..Place::default() };
        let ranks = nacl_draw(&scores, middle.clone(), top, &Noise { seed }, place);
        assert_eq!(kept(&ranks, 3), [0, 2, 6], "the ends and the best of the middle come before chance");
        let all = kept(&ranks, 4);
        all.iter().filter(|place| ![0, 2, 6].contains(*place)).for_each(|&place| drawn[place] += 1);
    }
    let total: f32 = [1, 3, 4, 5].iter().map(|&place: &usize| scores[place].exp()).sum();
    for place in [1, 3, 4, 5] {
        let (expected, got) = (scores[place].exp() / total, drawn[place] as f32 / seeds as f32);
        // Four standard deviations of so many draws.
        assert!(
            (expected - got).abs() < 4.0 * (0.25 / seeds as f32).sqrt(),
            "{place}: {got}, not {expected}"
        );
    }
}
