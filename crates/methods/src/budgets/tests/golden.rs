use crate::budgets::*;
use crate::golden::{Golden, assert_scores, count, counts, places};
use crate::scorers::{Pooling, Reduction, SnapKv};

const D: usize = 16;
const GROUP: usize = 2;

/// SnapKV's scores of the entries before the window, per KV head, summed over queries or averaged.
fn scores(golden: &Golden, name: &str, case: &serde_json::Value, mean: bool) -> Vec<Vec<f32>> {
    let prompt = name.split('.').next().unwrap();
    let (queries, keys) =
        (golden.floats(&format!("{prompt}.q_window")), golden.floats(&format!("{prompt}.k")));
    let window = count(&case["window_size"]);
    let n = keys.len() / 4 / D;
    let settings = SnapKv {
        window,
        kernel: count(&case["kernel_size"]),
        pooling: if case["pooling"] == "maxpool" { Pooling::Max } else { Pooling::Average },
        reduction: match case["gqa_score_agg"].as_str().unwrap() {
            "max" => Reduction::Max,
            "sum" => Reduction::Sum,
            _ => Reduction::Mean,
        },
    };
    let head = |head: usize| {
        let queries = &queries[head * GROUP * window * D..][..GROUP * window * D];
        let mass = crate::scorers::tests::mass(queries, &keys[head * n * D..][..n * D], D, GROUP, |row| {
            n - window + row + 1
        });
        let mut scores = settings.score(&mass, GROUP);
        scores.truncate(n - window);
        let factor = if mean { 1.0 } else { window as f32 };
        scores.iter_mut().for_each(|score| *score *= factor);
        scores
    };
    (0..4).map(head).collect()
}

#[test]
fn pyramids_keep_in_every_layer_what_the_original_keeps() {
    let golden = Golden::open("budgets");
    for (name, case) in golden.cases("").into_iter().filter(|(name, _)| name.contains("pyramid")) {
        let number = |name: &str| count(&case[name]);
        let (layers, window, capacity) =
            (number("num_hidden_layers"), number("window_size"), number("max_capacity_prompt"));
        let scores = scores(&golden, name, case, false);
        let n = scores[0].len() + window;
        for (layer, length) in counts(&case["rows_per_layer"]).into_iter().enumerate() {
            assert_eq!(
                pyramid_tokens(layer, layers, n, capacity, window, number("beta")),
                length,
                "{name}, layer {layer}"
            );
            let positions = golden.integers(&format!("{name}.l{layer}.kept"));
            for (scores, theirs) in scores.iter().zip(positions.chunks_exact(length)) {
                let mut ours = kept(scores, length - window);
                ours.extend(n - window..n);
                assert_eq!(ours, places(theirs), "{name}, layer {layer}");
            }
        }
    }
}

#[test]
fn heads_share_a_layer_as_in_the_original_of_ada() {
    let golden = Golden::open("budgets");
    for (name, case) in golden.cases("").into_iter().filter(|(name, _)| name.contains("adakv")) {
        let (window, capacity) = (count(&case["window_size"]), count(&case["max_capacity_prompt"]));
        let scores = scores(&golden, name, case, true);
        let theirs = golden.floats(&format!("{name}.scores"));
        for (ours, theirs) in scores.iter().zip(theirs.chunks_exact(scores[0].len())) {
            assert_scores(ours, theirs, 1e-5, name);
        }
        let base = capacity - window;
        let lengths = if base > scores[0].len() {
            // The original does not compress at all.
            vec![scores[0].len(); scores.len()]
        } else {
            ada_interpolated(
                &scores,
                base,
                case["floor"].as_f64().unwrap(),
                case["normalize"].as_bool().unwrap(),
            )
        };
        let lengths: Vec<usize> = lengths.iter().map(|length| length + window).collect();
        assert_eq!(lengths, counts(&case["head_lens"]), "{name}");
    }
}

#[test]
fn head_tables_give_the_capacities_of_the_original() {
    let golden = Golden::open("budgets");
    for (name, case) in golden.cases("").into_iter().filter(|(name, _)| name.contains("headkv")) {
        let (prompt, layer) = name.split_once(".headkv.l").unwrap();
        let layer: usize = layer.parse().unwrap();
        let table: Vec<Vec<f64>> = golden
            .doubles(&format!("{prompt}.headkv.head_scores"))
            .chunks_exact(8)
            .map(<[f64]>::to_vec)
            .collect();
        let (base, beta) = (count(&case["max_capacity_prompts"]), case["head_beta"].as_f64().unwrap());
        assert_eq!(head_capacities(&table, 8, base, beta)[layer], counts(&case["capacity_row"]), "{name}");
        let window = count(&case["window_size"]);
        let n: usize = prompt[1..].parse().unwrap();
        let rows = head_capacities(&table, 4, base, beta)[layer]
            .iter()
            .map(|rows| rows.min(&(n - window)) + window)
            .collect::<Vec<_>>();
        assert_eq!(rows, counts(&case["head_lens"]), "{name}");
    }
}

#[test]
fn layers_are_classed_and_squeezed_as_in_the_original() {
    let golden = Golden::open("squeeze");
    for (name, case) in golden.cases("case") {
        let cosines: Vec<f32> =
            case["cosine"].as_array().unwrap().iter().map(|cosine| cosine.as_f64().unwrap() as f32).collect();
        let classes: Vec<usize> = least_similar_classes(&cosines).into_iter().map(usize::from).collect();
        assert_eq!(classes, counts(&case["cluster"]), "{name}");
        let (mean, least) = (case["ini_size"].as_f64().unwrap(), case["percent_class3"].as_f64().unwrap());
        // Where the original's share is negative, ours is nothing.
        let theirs =
            case["windows"].as_array().unwrap().iter().map(|window| window.as_i64().unwrap().max(0) as usize);
        assert_eq!(
            squeeze(&cosines, mean, least, count(&case["base"])),
            theirs.collect::<Vec<_>>(),
            "{name}"
        );
        let folder = name.split('.').next().unwrap();
        if golden.has(&format!("{folder}.before")) {
            let (before, after) =
                (golden.floats(&format!("{folder}.before")), golden.floats(&format!("{folder}.after")));
            let layer = before.len() / cosines.len();
            let ours: Vec<f32> = before
                .chunks_exact(layer)
                .zip(after.chunks_exact(layer))
                .map(|(before, after)| mean_cosine(before, after, D))
                .collect();
            assert_scores(&ours, &cosines, 1e-5, name);
        }
    }
}

#[test]
fn the_published_gates_of_duo_attention_stream_where_the_original_streams() {
    let golden = Golden::open("duo");
    let table = std::fs::read_to_string(crate::golden::path("duo/full_attention_heads.tsv")).unwrap();
    let gates: Vec<Vec<f64>> =
        table.lines().map(|line| line.split('\t').map(|gate| gate.parse().unwrap()).collect()).collect();
    for (sparsity, expected) in golden.json["sparsities"].as_object().unwrap() {
        let full = golden.integers(&format!("gates.mask.s{sparsity}"));
        let streams = streaming_heads(&gates, sparsity.parse().unwrap());
        let flat: Vec<f64> = gates.iter().flatten().copied().collect();
        let threshold = expected["threshold"].as_f64().unwrap();
        let ours: Vec<bool> = streams.into_iter().flatten().collect();
        for (place, streams) in ours.iter().enumerate() {
            // The original adds noise of 1e-6 or so; where gates lie closer than that to the threshold, it decides.
            if (flat[place].clamp(0.0, 1.0) - threshold).abs() > 1e-5 {
                assert_eq!(*streams, full[place] == 0, "{sparsity}, head {place}");
            }
        }
        let (ours, theirs) =
            (ours.iter().filter(|streams| **streams).count(), full.iter().filter(|full| **full == 0).count());
        assert!(ours.abs_diff(theirs) <= 1, "{sparsity}: {ours} stream here, {theirs} there");
    }
}
