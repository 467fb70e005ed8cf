use proptest::prelude::*;
use safetensors::SafeTensors;
use serde_json::Value;

use super::*;

const GOLDEN: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/golden/dealrec/");

fn places(value: &Value) -> Vec<usize> {
    value.as_array().unwrap().iter().map(|place| place.as_u64().unwrap() as usize).collect()
}

/// In the order of numbers of 0..1.
fn ordered(draw: f64) -> u64 {
    assert!(draw >= 0.0);
    draw.to_bits()
}

#[test]
fn coresets_are_the_originals() {
    let bytes = std::fs::read(format!("{GOLDEN}vectors.safetensors")).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let index: Value =
        serde_json::from_slice(&std::fs::read(format!("{GOLDEN}index.json")).unwrap()).unwrap();
    for (name, case) in index["cases"].as_object().unwrap() {
        let narrow = |of: &str| -> Vec<f64> {
            let tensor = file.tensor(&format!("{name}.{of}")).unwrap();
            tensor.data().as_chunks().0.iter().map(|&bytes| f64::from(f32::from_le_bytes(bytes))).collect()
        };
        let draws = file.tensor(&format!("{name}.u")).unwrap();
        let draws: Vec<u64> =
            draws.data().as_chunks().0.iter().map(|&bytes| ordered(f64::from_le_bytes(bytes))).collect();
        let scores = overall(&narrow("influence"), &narrow("effort"), case["lam"].as_f64().unwrap());
        for (got, want) in scores.iter().zip(narrow("overall")) {
            assert!((got - want).abs() < 2e-5, "{name}: {got} {want}");
        }
        let strata = case["strata"].as_u64().unwrap() as usize;
        let rule = Coverage { strata, hardest: case["hard_prune"].as_f64().unwrap() };
        let budget = case["budget"].as_u64().unwrap() as usize;
        // The original's edges are f32; where that moves an example into another range the rule's own are given.
        let expected = case.get("float64_coreset").unwrap_or(&case["coreset"]);
        // As sets: strata of one size come in either order.
        let sorted = |mut places: Vec<usize>| {
            places.sort_unstable();
            places
        };
        let chosen = coverage(&rule, &scores, &draws, budget);
        assert_eq!(sorted(chosen), sorted(places(expected)), "{name}");
    }
}

proptest! {
    #[test]
    fn a_coreset_is_within_its_budget_holds_nothing_twice_and_nothing_of_the_hardest(
        scores in prop::collection::vec(0.0_f64..1.0, 0..60), strata in 1_usize..12, hardest in 0.0_f64..0.5,
        budget in 0_usize..80, seed in any::<u64>(),
    ) {
        let draws: Vec<u64> = (0..scores.len() as u64).map(|at| (at + 1).wrapping_mul(seed | 1)).collect();
        let chosen = coverage(&Coverage { strata, hardest }, &scores, &draws, budget);
        let mut once = chosen.clone();
        once.sort_unstable();
        once.dedup();
        let left = scores.len() - (hardest * scores.len() as f64).floor() as usize;
        prop_assert_eq!(once.len(), chosen.len());
        prop_assert!(chosen.len() <= budget.min(left));
        let mut order: Vec<usize> = (0..scores.len()).collect();
        order.sort_by(|&a, &b| scores[b].total_cmp(&scores[a]));
        prop_assert!(order[..scores.len() - left].iter().all(|hard| !chosen.contains(hard)));
        // With room for all, all are taken.
        let all = coverage(&Coverage { strata, hardest }, &scores, &draws, scores.len() * strata);
        prop_assert_eq!(all.len(), left);
    }
}
