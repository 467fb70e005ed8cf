//! TAPruning against searches of the published code.

use std::ops::Range;

use crate::support::{Bytes, golden};
use dropcap_compress::{CompressError, Example, answers, tapruning};
use serde_json::Value;

/// The stub's tokenizer: braces, one with a space before it, line breaks, and words with the space before them.
fn cut(text: &str) -> Vec<Range<usize>> {
    let mut tokens = Vec::new();
    let mut at = 0;
    while at < text.len() {
        let rest = &text[at..];
        let space = usize::from(rest.starts_with(' '));
        let word = rest[space..].find([' ', '{', '}', '\n']).unwrap_or(rest.len() - space);
        let length = match rest.as_bytes()[space] {
            b'{' => space + 1,
            b'}' | b'\n' => 1,
            _ => space + word,
        };
        tokens.push(at..at + length);
        at += length;
    }
    tokens
}

#[test]
fn every_prompt_that_is_scored_is_the_originals() {
    let file: Value =
        serde_json::from_slice(&std::fs::read(golden("tapruning/vectors.json")).unwrap()).unwrap();
    for case in file["cases"].as_array().unwrap() {
        let text = |value: &Value| value.as_str().unwrap().to_owned();
        let mut evaluated = Vec::new();
        let mut score = |prompt: &str| {
            let tokens: Vec<&str> = cut(prompt).into_iter().map(|token| &prompt[token]).collect();
            let has = |token: &Value| tokens.contains(&token.as_str().unwrap());
            let mut sum = case["base"].as_f64().unwrap();
            for (token, weight) in case["weights"].as_object().unwrap() {
                if tokens.contains(&token.as_str()) {
                    sum += weight.as_f64().unwrap();
                }
            }
            for pair in case["pairs"].as_array().unwrap() {
                if has(&pair[0]) && has(&pair[1]) {
                    sum += pair[2].as_f64().unwrap();
                }
            }
            evaluated.push(prompt.to_owned());
            Ok(sum)
        };
        let threshold = case["threshold"].as_f64().unwrap();
        let search =
            tapruning(&text(&case["prompt"]), threshold, &mut |prompt| Ok(cut(prompt)), &mut score).unwrap();
        let prompts = |key: &str| -> Vec<String> {
            case[key].as_array().unwrap().iter().map(|step| text(&step["prompt"])).collect()
        };
        assert_eq!(evaluated, prompts("evaluated"));
        assert_eq!(
            search.accepted.iter().map(|(prompt, _)| prompt.clone()).collect::<Vec<_>>(),
            prompts("accepted")
        );
        assert_eq!(search.prompt, text(&case["final"]));
        assert_eq!(search.evaluations as u64, case["evaluations"].as_u64().unwrap());
    }
}

#[test]
fn a_score_that_nothing_can_be_compared_with_is_refused() {
    let found = tapruning("a b", 1.0, &mut |prompt| Ok(cut(prompt)), &mut |_| Ok(0.0));
    assert!(matches!(found, Err(CompressError::Score { given: 0.0 })));
}

#[test]
fn probabilities_of_labels_are_those_of_their_tokens() {
    let mut judge = Bytes::open();
    let labels = ["good".to_owned(), "bad".to_owned()];
    let example = |text: &str, label: &str| Example {
        fields: [("text".to_owned(), text.to_owned())].into(),
        label: label.to_owned(),
    };
    let prompts = ["{text}:".to_owned(), "a {text} is".to_owned()];
    let asked =
        |judge: &mut Bytes, label| answers(judge, &prompts, &[example("fine", label)], &labels).unwrap();
    let (goods, bads) = (asked(&mut judge, "good"), asked(&mut judge, "bad"));
    let (good, bad) = (goods[0], bads[0]);
    // Each prompt by itself is what it is among others.
    assert_eq!(goods.len(), 2);
    let alone = answers(&mut judge, &prompts[1..], &[example("fine", "good")], &labels).unwrap();
    assert_eq!(alone, goods[1..]);
    assert_ne!(goods[0], goods[1]);
    assert!((good.probability + bad.probability - 1.0).abs() < 1e-9);
    assert_eq!(good.accuracy + bad.accuracy, 1.0);
    assert_eq!(good.accuracy == 1.0, good.probability > 0.5);
    let unknown = answers(
        &mut judge,
        &[String::new()],
        &[example("fine", "good")],
        &[String::new(), "good".to_owned()],
    );
    assert!(unknown.is_ok(), "a label of a space alone has a token");
}
