use dropcap_policy::Stage;

use super::{Played, Tensors};
use crate::golden::{Golden, assert_scores, count};

/// Of the largest score of a row, as the README of the vectors says.
const TOLERANCE: f32 = 1e-5;

#[test]
fn keyformer_chooses_at_the_end_of_a_prompt_as_the_original_but_for_the_column_it_forgets() {
    let golden = Golden::open("keyformer");
    let (queries, keys) = (golden.floats("q"), golden.floats("k"));
    let (prompt, tokens, heads) = (30, 44, 4);
    for (name, case) in golden.cases("").into_iter().filter(|(_, case)| case["noise"] == false) {
        let (recent, key_tokens) = (count(&case["recent_tokens"]), count(&case["key_tokens"]));
        let (scores, masks) =
            (golden.floats(&format!("{name}.scores")), golden.integers(&format!("{name}.mask_next")));
        let tensors = Tensors { queries: &queries, keys: &keys, kv_heads: heads, width: 16 };
        let spec = format!("keyformer(noise=false, recent={recent})@{}", recent + key_tokens);
        for cuts in [&[30][..], &[7, 1, 22]] {
            let mut played = Played::new(&spec, tensors);
            for (part, &count) in cuts.iter().enumerate() {
                played.feed(count, if part + 1 == cuts.len() { Stage::PromptEnd } else { Stage::Prompt });
            }
            for head in 0..heads {
                let (held, sums) = played.held(head);
                let visible = |place: &usize| masks[head * (tokens + 1) + place] == 1;
                let mut theirs: Vec<usize> = (0..prompt).filter(visible).collect();
                theirs.push(prompt - recent);
                theirs.sort_unstable();
                assert_eq!(held, theirs, "{name}, head {head}");
                // It multiplies by its mask, so what that hides has nothing.
                let pairs = held.iter().zip(&sums).filter(|(place, _)| visible(place));
                let (ours, theirs): (Vec<f32>, Vec<f32>) =
                    pairs.map(|(place, sum)| (*sum, scores[head * tokens + place])).unzip();
                assert_scores(&ours, &theirs, TOLERANCE, &format!("{name}, head {head}"));
            }
        }
    }
}
