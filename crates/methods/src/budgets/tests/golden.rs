use crate::budgets::*;
use crate::golden::Golden;

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
