use dropcap_policy::Stage;
use serde_json::Value;

use super::{Played, Tensors};
use crate::golden::{Golden, count, counts, places};

const D: usize = 16;
const KV_HEADS: usize = 4;
const GROUP: usize = 2;

/// What stays of each KV head in one layer of `layers`.
fn held(golden: &Golden, name: &str, spec: &str, layer: (usize, usize)) -> Vec<Vec<usize>> {
    let prompt = name.split('.').next().unwrap();
    let keys = golden.floats(&format!("{prompt}.k"));
    let told = golden.floats(&format!("{prompt}.q_window"));
    let (n, window) = (keys.len() / KV_HEADS / D, told.len() / KV_HEADS / GROUP / D);
    // Only the window's queries are told.
    let mut queries = vec![0.0; KV_HEADS * GROUP * n * D];
    for (all, told) in queries.chunks_exact_mut(n * D).zip(told.chunks_exact(window * D)) {
        all[(n - window) * D..].copy_from_slice(told);
    }
    let tensors = Tensors { queries: &queries, keys: &keys, kv_heads: KV_HEADS, width: D };
    let mut played = Played::in_layer(spec, tensors, layer);
    played.feed(n, Stage::PromptEnd);
    (0..KV_HEADS).map(|head| played.held(head).0).collect()
}

/// SnapKV as a case sets it; a sum orders as a mean does.
fn snapkv(case: &Value) -> String {
    let pooling = if case["pooling"] == "maxpool" { "max" } else { "mean" };
    let group = if case["gqa_score_agg"] == "max" { "max" } else { "mean" };
    let (window, kernel) = (count(&case["window_size"]), count(&case["kernel_size"]));
    format!("snapkv(window={window}, kernel={kernel}, pooling={pooling}, group={group})")
}

#[test]
fn pyramids_keep_in_every_layer_what_the_original_keeps() {
    let golden = Golden::open("budgets");
    for (name, case) in golden.cases("").into_iter().filter(|(name, _)| name.contains("pyramid")) {
        let layers = count(&case["num_hidden_layers"]);
        let (beta, capacity) = (count(&case["beta"]), count(&case["max_capacity_prompt"]));
        let spec = format!("pyramid({}, beta={beta})@{capacity}", snapkv(case));
        for (layer, length) in counts(&case["rows_per_layer"]).into_iter().enumerate() {
            let positions = golden.integers(&format!("{name}.l{layer}.kept"));
            let theirs: Vec<Vec<usize>> = positions.chunks_exact(length).map(places).collect();
            assert_eq!(held(&golden, name, &spec, (layer, layers)), theirs, "{name}, layer {layer}");
        }
    }
}

#[test]
fn heads_share_a_layer_as_in_the_original_of_ada() {
    let golden = Golden::open("budgets");
    let cases = golden
        .cases("")
        .into_iter()
        .filter(|(name, case)| name.contains("adakv") && case["normalize"] == true);
    for (name, case) in cases {
        let (floor, capacity) = (&case["floor"], count(&case["max_capacity_prompt"]));
        let spec = format!("ada({}, floor={floor}, rule=original)@{capacity}", snapkv(case));
        let lengths: Vec<usize> = held(&golden, name, &spec, (0, 1)).iter().map(Vec::len).collect();
        assert_eq!(lengths, counts(&case["head_lens"]), "{name}");
    }
}

#[test]
fn head_tables_give_the_lengths_of_the_original() {
    let golden = Golden::open("budgets");
    let folder = tempfile::tempdir().unwrap();
    let told = |name: &str| golden.has(&format!("{}.k", name.split('.').next().unwrap()));
    let cases = golden.cases("").into_iter().filter(|(name, _)| name.contains("headkv") && told(name));
    for (name, case) in cases {
        let (prompt, layer) = name.split_once(".headkv.l").unwrap();
        let scores = golden.doubles(&format!("{prompt}.headkv.head_scores"));
        let heads = KV_HEADS * GROUP;
        let entries = scores.iter().enumerate();
        let profile: serde_json::Map<String, Value> = entries
            .map(|(at, score)| (format!("{}-{}", at / heads, at % heads), serde_json::json!([score])))
            .collect();
        let path = folder.path().join("profile.json");
        std::fs::write(&path, Value::Object(profile).to_string()).unwrap();
        let (base, window) = (count(&case["max_capacity_prompts"]), count(&case["window_size"]));
        let shared = 1.0 / case["head_beta"].as_f64().unwrap();
        let spec = format!(
            "headkv(snapkv(window={window}), profile=\"{}\", shared={shared})@{}",
            path.display(),
            base + window
        );
        let layer = (layer.parse().unwrap(), scores.len() / heads);
        let lengths: Vec<usize> = held(&golden, name, &spec, layer).iter().map(Vec::len).collect();
        assert_eq!(lengths, counts(&case["head_lens"]), "{name}");
    }
}
