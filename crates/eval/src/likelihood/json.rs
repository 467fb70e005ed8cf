//! Tasks whose examples are JSON objects, one a line.

use std::path::Path;

use dropcap_train::data::Lines;
use serde::Deserialize;
use serde::de::DeserializeOwned;

use super::examples::{Example, Kind, Pair, choices};
use crate::EvalError;

#[derive(Deserialize)]
struct Text {
    text: String,
}

#[derive(Deserialize)]
struct Query {
    query: String,
    choices: Vec<String>,
    gold: usize,
}

#[derive(Deserialize)]
struct Contexts {
    context_options: Vec<String>,
    continuation: String,
    gold: usize,
}

#[derive(Deserialize)]
struct Choices {
    context: String,
    choices: Vec<String>,
    gold: usize,
    #[serde(default = "space")]
    delimiter: String,
}

fn space() -> String {
    " ".to_owned()
}

pub(super) fn read(kind: Kind, path: &Path, limit: usize) -> Result<Vec<Example>, EvalError> {
    let mut lines = Lines::open(path)?;
    let (mut examples, mut text) = (Vec::new(), String::new());
    while examples.len() < limit && lines.next(&mut text)? {
        if !text.trim().is_empty() {
            let line = lines.number();
            let refused = |reason: String| EvalError::example(path, line, reason);
            let (pairs, gold) = example(kind, &text).map_err(refused)?;
            examples.push(Example { line, pairs, gold });
        }
        text.clear();
    }
    Ok(examples)
}

/// The continuations of one object and which is right, or what is wrong with it.
fn example(kind: Kind, text: &str) -> Result<(Vec<Pair>, usize), String> {
    match kind {
        Kind::Lambada => {
            let Text { text } = parse(text)?;
            let Some((context, word)) = text.rsplit_once(' ').filter(|(_, word)| !word.is_empty()) else {
                return Err("`text` has no last word after a space".to_owned());
            };
            Ok((choices(context, " ", &[word.to_owned()]), 0))
        }
        // The harness' prompts: PIQA's queries end with a line break already.
        Kind::Piqa | Kind::ArcEasy => {
            let Query { query, choices: given, gold } = parse(text)?;
            check("choices", &given, gold)?;
            Ok((choices(&format!("{}\nAnswer:", query.trim_end_matches('\n')), " ", &given), gold))
        }
        Kind::Choices | Kind::HellaSwag => {
            let Choices { context, choices: given, gold, delimiter } = parse(text)?;
            check("choices", &given, gold)?;
            Ok((choices(&context, &delimiter, &given), gold))
        }
        Kind::Winogrande => {
            let Contexts { context_options, continuation, gold } = parse(text)?;
            check("context_options", &context_options, gold)?;
            if continuation.trim().is_empty() {
                return Err("`continuation` is empty: it is what is scored".to_owned());
            }
            let pair = |context: &String| Pair {
                context: context.clone(),
                continuation: format!(" {continuation}"),
                characters: continuation.chars().count(),
            };
            Ok((context_options.iter().map(pair).collect(), gold))
        }
    }
}

/// An object, or the key that is wrong and how.
fn parse<T: DeserializeOwned>(text: &str) -> Result<T, String> {
    let mut json = serde_json::Deserializer::from_str(text);
    serde_path_to_error::deserialize(&mut json).map_err(|error| {
        let key = error.path().to_string();
        match key.as_str() {
            "." => error.into_inner().to_string(),
            _ => format!("`{key}`: {}", error.into_inner()),
        }
    })
}

fn check(key: &str, given: &[String], gold: usize) -> Result<(), String> {
    if given.is_empty() {
        return Err(format!("`{key}` is empty: give at least two"));
    }
    if let Some(empty) = given.iter().position(|choice| choice.trim().is_empty()) {
        return Err(format!("`{key}[{empty}]` is empty: every one has text"));
    }
    if gold >= given.len() {
        return Err(format!("`gold` is {gold}, and `{key}` has numbers 0 to {}", given.len() - 1));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prompts_are_the_harness_s() {
        let (pairs, gold) = example(
            Kind::Piqa,
            r#"{"query": "Question: How?\n", "choices": ["So.", "Thus, ä."], "gold": 1}"#,
        )
        .unwrap();
        assert_eq!(gold, 1);
        assert_eq!(pairs[1].context, "Question: How?\nAnswer:");
        assert_eq!((pairs[1].continuation.as_str(), pairs[1].characters), (" Thus, ä.", 8));
        let (pairs, _) =
            example(Kind::ArcEasy, r#"{"query": "Question: Why?", "choices": ["a", "b"], "gold": 0}"#)
                .unwrap();
        assert_eq!(pairs[0].context, "Question: Why?\nAnswer:");
        let (pairs, _) = example(Kind::Lambada, r#"{"text": "one two three"}"#).unwrap();
        assert_eq!((pairs[0].context.as_str(), pairs[0].continuation.as_str()), ("one two", " three"));
        let (pairs, _) = example(
            Kind::Winogrande,
            r#"{"context_options": ["A so A", "A so B"], "continuation": "won.", "gold": 0}"#,
        )
        .unwrap();
        assert_eq!((pairs[1].context.as_str(), pairs[1].continuation.as_str()), ("A so B", " won."));
    }

    #[test]
    fn a_wrong_example_is_refused_with_its_key() {
        for (kind, text, words) in [
            (Kind::Choices, r#"{"context": "a", "choices": ["b", "c"]}"#, "missing field `gold`"),
            (Kind::Choices, r#"{"context": "a", "choices": [], "gold": 0}"#, "`choices` is empty"),
            (Kind::Choices, r#"{"context": "a", "choices": ["b", 3], "gold": 0}"#, "`choices[1]`"),
            (Kind::Choices, r#"{"context": "a", "choices": ["b", " "], "gold": 0}"#, "`choices[1]` is empty"),
            (Kind::Choices, r#"{"context": "a", "choices": ["b", "c"], "gold": 2}"#, "`gold` is 2"),
            (Kind::Choices, r#"{"context": "a", "choices": ["b", "c"], "gold": -1}"#, "`gold`"),
            (Kind::Lambada, r#"{"text": "alone"}"#, "`text` has no last word"),
            (
                Kind::Winogrande,
                r#"{"context_options": ["a"], "continuation": "", "gold": 0}"#,
                "`continuation`",
            ),
            (Kind::Piqa, "[1]", "expected"),
        ] {
            let error = example(kind, text).unwrap_err();
            assert!(error.contains(words), "{error}");
        }
    }

    #[test]
    fn a_space_joins_unless_the_example_says_otherwise() {
        let text = r#"{"context": "2+2=", "choices": ["4", "5"], "gold": 0, "delimiter": ""}"#;
        assert_eq!(example(Kind::Choices, text).unwrap().0[0].continuation, "4");
    }
}
