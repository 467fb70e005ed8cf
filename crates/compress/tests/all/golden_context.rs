//! The context filter against selections of KG-RAG.

use crate::support::{Bytes, golden};
use dropcap_compress::{Closeness, CompressError, Embed, close, context};
use dropcap_methods::Amount;
use safetensors::SafeTensors;
use serde_json::Value;

#[test]
fn the_sentences_that_stay_are_kg_rags() {
    let index: Value = serde_json::from_slice(&std::fs::read(golden("kgrag/index.json")).unwrap()).unwrap();
    let file = std::fs::read(golden("kgrag/vectors.safetensors")).unwrap();
    let tensors = SafeTensors::deserialize(&file).unwrap();
    let vectors = |name: &str| -> Vec<Vec<f64>> {
        let tensor = tensors.tensor(name).unwrap();
        let values: Vec<f64> =
            tensor.data().as_chunks().0.iter().map(|bytes| f64::from_le_bytes(*bytes)).collect();
        values.chunks(*tensor.shape().last().unwrap()).map(<[f64]>::to_vec).collect()
    };
    for (name, case) in index["cases"].as_object().unwrap() {
        let question = vectors(&format!("{name}.question")).remove(0);
        let nodes = case["nodes"].as_array().unwrap();
        let passages: Vec<_> =
            nodes.iter().map(|node| vectors(&format!("{name}.{}", node.as_str().unwrap()))).collect();
        let number = |key: &str| case[key].as_f64().unwrap();
        let rule = Closeness {
            percentile: number("percentile"),
            floor: number("floor"),
            volume: number("context_volume") as usize,
        };
        for (found, expected) in
            close(&question, &passages, &rule).iter().zip(case["selected"].as_array().unwrap())
        {
            let found: Vec<u64> = found.iter().map(|(sentence, _)| *sentence as u64).collect();
            assert_eq!(serde_json::json!(found), *expected, "{name}");
        }
    }
}

/// Vectors of how often letters stand in a text.
struct Letters;

impl Embed for Letters {
    fn embed(&mut self, texts: &[&str]) -> Result<Vec<Vec<f64>>, CompressError> {
        let count = |text: &&str| {
            let letters = 'a'..='z';
            letters.map(|letter| text.to_lowercase().matches(letter).count() as f64).collect()
        };
        Ok(texts.iter().map(count).collect())
    }
}

#[test]
fn sentences_that_are_close_to_the_question_stay_and_fences_are_whole() {
    let text = "The clock stands still. Zz zz zzz. Xx xxx xx.\n\nWw w www. Who winds the clock? Qq.\n\n```\nclock. clock.\n```\n";
    let rule = Closeness { percentile: 50.0, ..Closeness::default() };
    let judge = Bytes::open();
    let kept = |budget| context(&judge, &mut Letters, text, "the clock", &rule, budget).unwrap().text(text);
    assert_eq!(kept(Amount::Tokens(100)), "The clock stands still. Who winds the clock? ");
    assert_eq!(kept(Amount::Tokens(30)), "Who winds the clock? ");
    assert_eq!(kept(Amount::Share(1.0)), text);
    let nothing = context(&judge, &mut Letters, text, "", &rule, Amount::Tokens(9));
    assert!(matches!(nothing, Err(CompressError::NoInstruction { .. })));
}
