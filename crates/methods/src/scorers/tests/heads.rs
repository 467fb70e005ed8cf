//! Scorers that look at one head by itself: SnapKV and A2SF's policies, NACL.

use super::*;
use crate::budgets::kept;
use crate::golden::{Golden, assert_scores, count, places};
use crate::scorers::*;

const D: usize = 16;
const SCALE: f32 = 0.25;

#[test]
fn a2sf_and_its_other_policies_score_and_keep_as_the_original() {
    let golden = Golden::open("a2sf");
    let (queries, keys) = (golden.floats("q"), golden.floats("k"));
    let (n, group) = (72, 2);
    for (name, case) in golden.cases("") {
        let scores = golden.floats(&format!("{name}.scores"));
        for (head, (keys, theirs)) in keys.chunks_exact(n * D).zip(scores.chunks_exact(n)).enumerate() {
            let queries = &queries[head * group * n * D..][..group * n * D];
            let number = |mark: &str| {
                name.split('.').skip(1).collect::<Vec<_>>().join(".").split(mark).nth(1).map(|rest| {
                    let end = rest.find(".b").or(rest.find(".r")).unwrap_or(rest.len());
                    rest[..end].parse::<f32>().unwrap()
                })
            };
            let ours = match name.split('.').next().unwrap() {
                "a2sf" => a2sf_mass(queries, keys, (D, group), SCALE, number("f").unwrap(), |row| row + 1),
                "sigmoid" => {
                    // exp(a (i - (n - b - 1))) is a factor of exp(-a) per query, times exp(a b).
                    let (a, b) = (number("a").unwrap(), number("b").unwrap());
                    let faded = a2sf_mass(queries, keys, (D, group), SCALE, (-a).exp(), |row| row + 1);
                    faded.iter().map(|score| score * (a * b).exp()).collect()
                }
                _ => {
                    let window = number("w").unwrap() as usize;
                    let last = rows(queries, group, D, n - window..n);
                    let mass = mass(&last, keys, D, group, |row| n - window + row + 1);
                    Reduction::Sum.reduce(&mass, group)
                }
            };
            assert_scores(&ours, theirs, TOLERANCE, &format!("{name}, head {head}"));
            let (total, recent) = (count(&case["total_budget"]), count(&case["recent_budget"]));
            if n > total {
                let all = golden.integers(&format!("{name}.kept"));
                let mut ours = kept(&ours[..n - recent], total - recent);
                ours.extend(n - recent..n);
                assert_eq!(ours, places(&all[head * total..][..total]), "{name}, head {head}");
            }
        }
    }
}

#[test]
fn a2sf_does_not_depend_on_the_cut_into_steps_nor_on_queries_beyond_the_horizon() {
    let golden = Golden::open("a2sf");
    let (queries, keys) = (golden.floats("q"), golden.floats("k"));
    let (n, group, factor) = (72, 2, 0.5);
    let (queries, keys) = (&queries[..group * n * D], &keys[..n * D]);
    let whole = a2sf_mass(queries, keys, (D, group), SCALE, factor, |row| row + 1);
    let mut sums = vec![0.0; n];
    for (from, to) in [(0, 31), (31, 32), (32, 70), (70, 72)] {
        a2sf_forget(&mut sums, factor, to - from);
        let step = a2sf_mass(
            &rows(queries, group, D, from..to),
            &keys[..to * D],
            (D, group),
            SCALE,
            factor,
            |row| from + row + 1,
        );
        sums.iter_mut().zip(step).for_each(|(sum, step)| *sum += step);
    }
    assert_scores(&sums, &whole, TOLERANCE, "in steps");
    let horizon = a2sf_horizon(factor);
    assert!((24..30).contains(&horizon), "{horizon}");
    let from = n - horizon;
    let near =
        a2sf_mass(&rows(queries, group, D, from..n), keys, (D, group), SCALE, factor, |row| from + row + 1);
    assert_scores(&near, &whole, TOLERANCE, "within the horizon");
    assert_eq!((a2sf_horizon(1.0), a2sf_horizon(0.0)), (usize::MAX, 1));
}

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
