//! LongCodeZip against numbers of the published code.

use std::ops::Range;

use crate::support::{Bytes, golden};
use dropcap_compress::longcodezip::{Plan, Settings, knapsack, plan, spikes};
use dropcap_compress::{Language, chunks};
use serde_json::Value;

/// Log-probabilities are handed on in f32.
const TOLERANCE: f64 = 1e-5;

fn index() -> Value {
    serde_json::from_slice(&std::fs::read(golden("longcodezip/index.json")).unwrap()).unwrap()
}

/// The source of a language, and the chunks that the original cuts it into.
fn source(index: &Value, language: &str) -> (String, Vec<Range<usize>>) {
    let mut text = String::new();
    let mut ranges = Vec::new();
    for chunk in index["chunks"][language].as_array().unwrap() {
        let start = text.len();
        text.push_str(chunk.as_str().unwrap());
        ranges.push(start..text.len());
    }
    (text, ranges)
}

fn number(value: &Value) -> f64 {
    value.as_f64().unwrap_or_else(|| match value.as_str().unwrap() {
        "inf" => f64::INFINITY,
        other => panic!("{other}"),
    })
}

fn numbers(value: &Value) -> Vec<usize> {
    value.as_array().unwrap().iter().map(|index| index.as_u64().unwrap() as usize).collect()
}

fn plan_of(index: &Value, case: &Value) -> (String, Vec<Range<usize>>, Plan) {
    let language = case["language"].as_str().unwrap();
    let (text, ranges) = source(index, language);
    let given = |name: &str| case["args"].get(name).and_then(Value::as_f64);
    let rate = given("rate").unwrap_or(0.5);
    let settings = Settings {
        target: given("target_token").map_or((text.len() as f64 * rate) as usize, |target| target as usize),
        slack: if case["args"].get("context_budget").is_some() { 0 } else { 100 },
        fine: given("fine_ratio").unwrap_or(rate),
        beta: given("importance_beta").unwrap_or(0.5),
        least: given("min_lines_for_fine_grained").map_or(5, |least| least as usize),
        language: language.parse().unwrap(),
    };
    let plan = plan(&mut Bytes::open(), &text, &ranges, case["query"].as_str().unwrap(), &settings).unwrap();
    (text, ranges, plan)
}

/// Runs whose second stage is not by conditional perplexity and a knapsack, which is the only one here.
fn has_other_blocks(case: &Value) -> bool {
    ["rank_only", "use_knapsack", "fine_grained_importance_method"]
        .iter()
        .any(|key| case["args"].get(key).is_some())
}

#[test]
fn functions_rank_and_are_chosen_as_in_the_original() {
    let index = index();
    for (name, case) in index["cases"].as_object().unwrap() {
        let (_, _, plan) = plan_of(&index, case);
        let expected = case["ranking"].as_array().unwrap();
        let largest = expected.iter().map(|ranked| ranked[1].as_f64().unwrap().abs()).fold(0.0, f64::max);
        assert_eq!(plan.ranking.len(), expected.len(), "{name}");
        for ((chunk, score), ranked) in plan.ranking.iter().zip(expected) {
            assert_eq!(*chunk as u64, ranked[0].as_u64().unwrap(), "{name}");
            assert!(
                (score - ranked[1].as_f64().unwrap()).abs() < TOLERANCE * largest,
                "{name}: {score} {ranked}"
            );
        }
        let selected: Vec<usize> = plan.functions.iter().map(|function| function.chunk).collect();
        assert_eq!(selected, numbers(&case["selected"]), "{name}");
    }
}

#[test]
fn rates_and_blocks_of_functions_are_the_originals() {
    let index = index();
    let mut cut = 0;
    for (name, case) in index["cases"].as_object().unwrap() {
        if has_other_blocks(case) {
            continue;
        }
        for function in plan_of(&index, case).2.functions {
            let expected = &case["functions"][function.chunk.to_string()];
            let rate = expected["individual_fine_ratio"].as_f64().unwrap();
            assert!((function.rate - rate).abs() < TOLERANCE, "{name}: {} {rate}", function.rate);
            let indices = |flags: &[bool]| (0..flags.len()).filter(|&index| flags[index]).collect::<Vec<_>>();
            match function.blocks {
                None => assert!(expected.get("selected_blocks").is_none(), "{name}"),
                Some(blocks) => {
                    assert_eq!(indices(&blocks.preserved), numbers(&expected["preserved_blocks"]), "{name}");
                    assert_eq!(indices(&blocks.kept), numbers(&expected["selected_blocks"]), "{name}");
                    cut += 1;
                }
            }
        }
    }
    assert!(cut > 5, "{cut} functions were cut");
}

/// Writes a plan down as the original does: stretches between blank lines, marks for what is left out, several in a row as
/// one, and every other blank line as a space where a function was cut.
fn rendered(text: &str, ranges: &[Range<usize>], plan: &Plan) -> String {
    const MARK: &str = "# ... ";
    let spaced = |text: &str| text.replace("\n\n", "\n \n");
    let mut parts = Vec::new();
    for (chunk, range) in ranges.iter().enumerate() {
        let whole = &text[range.clone()];
        let Some(function) = plan.functions.iter().find(|function| function.chunk == chunk) else {
            parts.push(MARK.to_owned());
            continue;
        };
        let Some(blocks) = &function.blocks else {
            parts.push(whole.to_owned());
            continue;
        };
        let lines = spaced(whole);
        let lines: Vec<&str> = lines.split('\n').collect();
        let line_of = |at: usize| whole[..at - range.start].matches('\n').count();
        let count = blocks.ranges.len();
        let texts: Vec<String> = (0..count)
            .map(|block| {
                let end = if block + 1 == count { lines.len() } else { line_of(blocks.ranges[block].end) };
                lines[line_of(blocks.ranges[block].start)..end].join("\n")
            })
            .collect();
        // The first block whose first line is indented sets the indent of the marks.
        let firsts = texts.iter().filter_map(|block| block.split('\n').find(|line| !line.trim().is_empty()));
        let indents = firsts.map(|line| &line[..line.len() - line.trim_start().len()]);
        let mark =
            format!("{}{MARK}", indents.into_iter().find(|indent| !indent.is_empty()).unwrap_or_default());
        let mut out: Vec<String> = Vec::new();
        let mut last = None;
        for block in (0..count).filter(|&block| blocks.kept[block]) {
            if last.is_some_and(|last| block > last + 1) {
                out.push(mark.clone());
            }
            out.push(texts[block].clone());
            last = Some(block);
        }
        if last.is_some_and(|last| last + 1 < count) {
            out.push(mark);
        }
        parts.push(out.join("\n\n"));
    }
    let mut lines = Vec::new();
    let mut after_mark = false;
    let joined = parts.join("\n\n");
    for line in joined.split('\n') {
        let is_mark = line.trim() == MARK.trim();
        if !(is_mark && after_mark) {
            lines.push(line);
        }
        after_mark = if line.trim().is_empty() { after_mark } else { is_mark };
    }
    lines.join("\n")
}

#[test]
fn the_text_is_the_originals_to_the_character() {
    let index = index();
    for (name, case) in index["cases"].as_object().unwrap() {
        if !has_other_blocks(case) {
            let (text, ranges, plan) = plan_of(&index, case);
            assert_eq!(rendered(&text, &ranges, &plan), case["compressed_code"].as_str().unwrap(), "{name}");
        }
    }
}

#[test]
fn surprising_lines_are_the_originals() {
    let index = index();
    for language in ["python", "rust"] {
        for expected in index["entropy_blocks"][language].as_array().unwrap() {
            let lines: Vec<&str> =
                expected["lines"].as_array().unwrap().iter().map(|line| line.as_str().unwrap()).collect();
            let found = spikes(&mut Bytes::open(), &[lines]).unwrap().remove(0);
            let wanted: Vec<f64> = expected["log2_ppl"].as_array().unwrap().iter().map(number).collect();
            assert_eq!(found.perplexities.len(), wanted.len());
            for (found, wanted) in found.perplexities.iter().zip(wanted) {
                assert!(*found == wanted || (found - wanted).abs() < TOLERANCE, "{found} {wanted}");
            }
            let std = &expected["methods"]["std"];
            assert!((found.threshold - number(&std["threshold"])).abs() < TOLERANCE);
            assert_eq!(found.lines, numbers(&std["spikes"]));
        }
    }
}

#[test]
fn knapsacks_are_filled_as_in_the_original() {
    for case in index()["knapsack"].as_array().unwrap() {
        let weights = numbers(&case["weights"]);
        let values = case["values"].as_array().unwrap().iter().map(number);
        let items: Vec<(usize, f64)> = weights.into_iter().zip(values).collect();
        assert_eq!(knapsack(&items, case["capacity"].as_u64().unwrap() as usize), numbers(&case["dp"]));
    }
}

#[test]
fn python_is_cut_where_the_original_cuts_it() {
    let (text, ranges) = source(&index(), "python");
    let trimmed = |ranges: &[Range<usize>]| {
        ranges.iter().map(|range| text[range.clone()].trim().to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(trimmed(&chunks(&text, Language::Python)), trimmed(&ranges));
}
