use dropcap_policy::Stage;

use super::{Played, Tensors};
use crate::golden::{Golden, assert_scores, count, places};

const D: usize = 16;
/// Of the largest score of a row, as the README of the vectors says.
const TOLERANCE: f32 = 1e-5;

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
        let spec = format!("h2o(recent={recent}, when=every_query)@{}", heavy + recent);
        let tensors = Tensors { queries: &queries, keys: &keys, kv_heads: 4, width: D };
        let mut played = Played::new(&spec, tensors);
        for step in 0..=tokens - prompt {
            let (count, stage) = if step == 0 { (prompt, Stage::PromptEnd) } else { (1, Stage::Behind) };
            played.feed(count, stage);
            for head in 0..4 {
                let at = (step * 4 + head) * width;
                let (held, sums) = played.held(head);
                let what = format!("{name}, step {step}, head {head}");
                assert_eq!(held, places(&positions[at..at + width]), "{what}");
                assert_scores(&sums, &scores[at..at + held.len()], TOLERANCE, &what);
            }
        }
    }
}

#[test]
fn h2o_at_the_end_of_a_prompt_sums_groups_as_the_original() {
    let golden = Golden::open("h2o");
    let (queries, keys) = (golden.floats("oneshot.q"), golden.floats("oneshot.k"));
    let n = 60;
    for (name, case) in golden.cases("oneshot") {
        // Sums and means order alike; ours is the sum. Nothing here takes the largest.
        if case["gqa_score_agg"] == "max" {
            continue;
        }
        let group = if case["gqa_score_agg"] == "mean" { 2.0 } else { 1.0 };
        let (window, capacity) = (count(&case["window_size"]), count(&case["max_capacity_prompt"]));
        let (scores, positions) =
            (golden.floats(&format!("{name}.scores64")), golden.integers(&format!("{name}.kept")));
        let tensors = Tensors { queries: &queries, keys: &keys, kv_heads: 4, width: D };
        let mut played = Played::new(&format!("h2o(recent={window})@{capacity}"), tensors);
        played.feed(n, Stage::PromptEnd);
        for head in 0..4 {
            let (held, sums) = played.held(head);
            assert_eq!(held, places(&positions[head * capacity..][..capacity]), "{name}, head {head}");
            let judged = held.iter().zip(&sums).filter(|(position, _)| **position < n - window);
            let (ours, theirs): (Vec<f32>, Vec<f32>) =
                judged.map(|(position, sum)| (sum / group, scores[head * (n - window) + position])).unzip();
            assert_scores(&ours, &theirs, TOLERANCE, name);
        }
    }
}
