use dropcap_policy::cosine;

use crate::budgets::*;
use crate::golden::{Golden, assert_scores, count, counts};

/// Width of the residual stream of `squeeze`.
const HIDDEN: usize = 16;

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

#[test]
fn layers_are_classed_and_squeezed_as_in_the_original() {
    let golden = Golden::open("squeeze");
    for (name, case) in golden.cases("case") {
        let cosines: Vec<f64> =
            case["cosine"].as_array().unwrap().iter().map(|cosine| cosine.as_f64().unwrap()).collect();
        let classes: Vec<usize> = least_similar_classes(&cosines).into_iter().map(usize::from).collect();
        assert_eq!(classes, counts(&case["cluster"]), "{name}");
        let (mean, least) = (case["ini_size"].as_f64().unwrap(), case["percent_class3"].as_f64().unwrap());
        let base = count(&case["base"]);
        // Where the original's share is negative, ours is nothing.
        let theirs: Vec<usize> = case["windows"]
            .as_array()
            .unwrap()
            .iter()
            .map(|window| (window.as_i64().unwrap().max(0) as usize).min(base))
            .collect();
        let ours = squeeze(&cosines, mean * base as f64, least / mean);
        assert_eq!(ours.into_iter().map(|kept| kept.min(base)).collect::<Vec<_>>(), theirs, "{name}");
        let folder = name.split('.').next().unwrap();
        if golden.has(&format!("{folder}.before")) {
            let (before, after) =
                (golden.floats(&format!("{folder}.before")), golden.floats(&format!("{folder}.after")));
            let layer = before.len() / cosines.len();
            let mean = |(before, after): (&[f32], &[f32])| {
                let rows = before.chunks_exact(HIDDEN).zip(after.chunks_exact(HIDDEN));
                let sum: f64 = rows.map(|(before, after)| cosine(before, after)).sum();
                (sum / (layer / HIDDEN) as f64) as f32
            };
            let ours: Vec<f32> =
                before.chunks_exact(layer).zip(after.chunks_exact(layer)).map(mean).collect();
            let theirs: Vec<f32> = cosines.iter().map(|&cosine| cosine as f32).collect();
            assert_scores(&ours, &theirs, 1e-5, name);
        }
    }
}
