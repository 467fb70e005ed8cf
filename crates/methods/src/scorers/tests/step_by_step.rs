//! Scorers that sum up over steps, in the form that really drops: Keyformer.

use super::*;
use crate::budgets::kept;
use crate::golden::{Golden, assert_scores, count};
use crate::scorers::*;

const D: usize = 16;

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
                let temperature = (number("tau_init") + step as f64 * number("tau_delta")) as f32;
                let (step_queries, seen_keys) = (rows(queries, 1, D, new.clone()), gathered(keys, D, &live));
                let sees = |row: usize, entry: usize| step > 0 || entry <= row;
                keyformer_accumulate(
                    &mut sums,
                    &step_queries,
                    &seen_keys,
                    (D, 1),
                    (0.25, temperature),
                    sees,
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
