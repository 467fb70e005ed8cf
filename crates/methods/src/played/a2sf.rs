use dropcap_policy::Stage;

use super::{Played, Tensors};
use crate::golden::{Golden, assert_scores, count, places};

/// Of the largest score of a row, as the README of the vectors says.
const TOLERANCE: f32 = 1e-5;

/// The number behind a mark in a case's name: 0.95 behind `f` in `a2sf.f0.95.b32`.
fn number(name: &str, mark: &str) -> f32 {
    let rest = name.split_once(mark).unwrap().1;
    let end = rest.find(".b").unwrap_or(rest.len());
    rest[..end].parse().unwrap()
}

#[test]
fn a2sf_and_its_other_policies_score_and_keep_as_the_original() {
    let golden = Golden::open("a2sf");
    let (queries, keys) = (golden.floats("q"), golden.floats("k"));
    let (n, kv_heads) = (72, 4);
    for (name, case) in golden.cases("") {
        let (total, recent) = (count(&case["total_budget"]), count(&case["recent_budget"]));
        let (spec, scale) = match name.split('.').next().unwrap() {
            "a2sf" => (format!("a2sf(factor={}, recent={recent})@{total}", number(name, ".f")), 1.0),
            "sigmoid" => {
                // exp(a (i - (n - b - 1))) is a factor of exp(-a) per query, times exp(a b).
                let (a, b) = (number(name, ".a"), name.rsplit_once(".b").unwrap().1.parse::<f32>().unwrap());
                (format!("a2sf(factor={}, recent={recent})@{total}", (-a).exp()), (a * b).exp())
            }
            _ => (format!("snapkv(window={recent}, kernel=1)@{total}"), 1.0),
        };
        for cuts in [&[72][..], &[31, 1, 38, 2]] {
            let mut played =
                Played::new(&spec, Tensors { queries: &queries, keys: &keys, kv_heads, width: 16 });
            if spec.starts_with("snapkv") && cuts.len() > 1 {
                // Its window comes together.
                continue;
            }
            for (part, &count) in cuts.iter().enumerate() {
                played.feed(count, if part + 1 == cuts.len() { Stage::PromptEnd } else { Stage::Prompt });
            }
            let (scores, kept) =
                (golden.floats(&format!("{name}.scores")), golden.integers(&format!("{name}.kept")));
            for head in 0..kv_heads {
                let (held, sums) = played.held(head);
                assert_eq!(held, places(&kept[head * total..][..total]), "{name}, head {head}");
                let scaled: Vec<f32> = sums.iter().map(|sum| sum * scale).collect();
                let theirs: Vec<f32> = held.iter().map(|position| scores[head * n + position]).collect();
                assert_scores(&scaled, &theirs[..scaled.len()], TOLERANCE, &format!("{name}, head {head}"));
            }
        }
    }
}
