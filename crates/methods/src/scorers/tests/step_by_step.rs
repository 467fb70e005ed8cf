//! Scorers that sum up over steps, in the forms that really drop: H2O, Keyformer.

use super::*;
use crate::budgets::kept;
use crate::golden::{Golden, assert_scores, count, places};
use crate::scorers::*;

const D: usize = 16;

#[test]
fn h2o_drops_after_every_step_what_the_original_drops() {
    let golden = Golden::open("h2o");
    let (queries, keys) = (golden.floats("q"), golden.floats("k"));
    let (prompt, tokens) = (24, 40);
    for (name, case) in golden.cases("drop") {
        let (heavy, recent) = (count(&case["hh_size"]), count(&case["recent_size"]));
        let (scores, positions) =
            (golden.floats(&format!("{name}.scores")), golden.integers(&format!("{name}.kept")));
        let width = golden.shape(&format!("{name}.kept"))[2];
        for head in 0..4 {
            let (queries, keys) =
                (&queries[head * tokens * D..][..tokens * D], &keys[head * tokens * D..][..tokens * D]);
            let (mut live, mut sums) = (Vec::new(), Vec::new());
            for step in 0..=tokens - prompt {
                let new = if step == 0 { 0..prompt } else { prompt + step - 1..prompt + step };
                let before = live.len();
                live.extend(new.clone());
                sums.resize(live.len(), 0.0);
                let step_queries = rows(queries, 1, D, new);
                let mass = mass(&step_queries, &gathered(keys, D, &live), D, 1, |row| before + row + 1);
                h2o_accumulate(&mut sums, &mass, 1, Reduction::Mean);
                if live.len() > heavy + recent {
                    let mut stay = kept(&sums[..live.len() - recent], heavy);
                    stay.extend(live.len() - recent..live.len());
                    live = stay.iter().map(|&place| live[place]).collect();
                    sums = stay.iter().map(|&place| sums[place]).collect();
                }
                let at = (step * 4 + head) * width;
                assert_eq!(live, places(&positions[at..at + width]), "{name}, step {step}, head {head}");
                assert_scores(
                    &sums,
                    &scores[at..at + live.len()],
                    TOLERANCE,
                    &format!("{name}, step {step}, head {head}"),
                );
            }
        }
    }
}

#[test]
fn h2o_at_the_end_of_a_prompt_reduces_groups_as_the_original() {
    let golden = Golden::open("h2o");
    let (queries, keys) = (golden.floats("oneshot.q"), golden.floats("oneshot.k"));
    let (n, group) = (60, 2);
    for (name, case) in golden.cases("oneshot") {
        let (window, capacity) = (count(&case["window_size"]), count(&case["max_capacity_prompt"]));
        let reduction = match case["gqa_score_agg"].as_str().unwrap() {
            "max" => Reduction::Max,
            "sum" => Reduction::Sum,
            _ => Reduction::Mean,
        };
        let (scores, positions) =
            (golden.floats(&format!("{name}.scores64")), golden.integers(&format!("{name}.kept")));
        for head in 0..4 {
            let mass = mass(
                &queries[head * group * n * D..][..group * n * D],
                &keys[head * n * D..][..n * D],
                D,
                group,
                |row| row + 1,
            );
            let mut sums = vec![0.0; n];
            h2o_accumulate(&mut sums, &mass, group, reduction);
            let judged = &sums[..n - window];
            assert_scores(judged, &scores[head * judged.len()..][..judged.len()], TOLERANCE, name);
            let mut ours = kept(judged, capacity - window);
            ours.extend(n - window..n);
            assert_eq!(ours, places(&positions[head * capacity..][..capacity]), "{name}, head {head}");
        }
    }
}

#[test]
fn keyformer_sums_what_the_original_sums_over_what_it_still_sees() {
    let golden = Golden::open("keyformer");
    let (queries, keys) = (golden.floats("q"), golden.floats("k"));
    let (prompt, tokens, heads) = (30, 44, 4);
    let (first_noise, later_noise) = (golden.floats("noise.prefill"), golden.floats("noise.decode"));
    for (name, case) in golden.cases("") {
        let number = |name: &str| case[name].as_f64().unwrap();
        let (recent, key_tokens) = (count(&case["recent_tokens"]), count(&case["key_tokens"]));
        let (scores, masks) =
            (golden.floats(&format!("{name}.scores")), golden.integers(&format!("{name}.mask_next")));
        let noisy = case["noise"].as_bool().unwrap();
        for head in 0..heads {
            let (queries, keys) =
                (&queries[head * tokens * D..][..tokens * D], &keys[head * tokens * D..][..tokens * D]);
            let mut live: Vec<usize> = (0..prompt).collect();
            let mut sums = vec![0.0; prompt];
            for step in 0..=tokens - prompt {
                let n = prompt + step;
                let new = if step == 0 { 0..prompt } else { n - 1..n };
                let noise = |_, row: usize, entry: usize| match step {
                    _ if !noisy => 0.0,
                    0 => first_noise[(head * prompt + row) * prompt + entry],
                    _ => later_noise[((step - 1) * heads + head) * tokens + live[entry]],
                };
                let temperature =
                    keyformer_temperature(number("tau_init") as f32, number("tau_delta") as f32, step as u32);
                let (step_queries, seen_keys) = (rows(queries, 1, D, new.clone()), gathered(keys, D, &live));
                let seen = |row: usize| if step == 0 { row + 1 } else { live.len() };
                keyformer_accumulate(
                    &mut sums,
                    &step_queries,
                    &seen_keys,
                    (D, 1),
                    (0.25, temperature),
                    seen,
                    noise,
                );
                // The original's mask is never lifted, so what it hides may as well be gone.
                let at = step * heads + head;
                let visible = |place: usize| masks[at * (tokens + 1) + place] == 1;
                if step == 0 && recent > 0 && n > recent + key_tokens {
                    let mut ours = kept(&sums[..n - recent], key_tokens);
                    ours.extend(n + 1 - recent..n);
                    let theirs: Vec<usize> = (0..n).filter(|&place| visible(place)).collect();
                    assert_eq!(ours, theirs, "{name}, head {head}");
                }
                let stay: Vec<usize> = (0..live.len()).filter(|&entry| visible(live[entry])).collect();
                live = stay.iter().map(|&entry| live[entry]).collect();
                sums = stay.iter().map(|&entry| sums[entry]).collect();
                let theirs: Vec<f32> = live.iter().map(|&place| scores[at * tokens + place]).collect();
                assert_scores(&sums, &theirs, TOLERANCE, &format!("{name}, step {step}, head {head}"));
                if step < tokens - prompt {
                    assert!(visible(n), "the coming token sees itself");
                    live.push(n);
                    sums.push(0.0);
                }
            }
        }
    }
}
