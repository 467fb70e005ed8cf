//! Which kinds of tokens live longest.

use std::collections::HashMap;

use dropcap_trace::SequenceTimeline;
use serde::Serialize;

use crate::lives::Lives;

/// Positions that count as the beginning: as many as methods usually protect.
const FIRST: usize = 4;

/// The tokens of one kind.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct Kind {
    /// What sorts tokens: `text`, `place` or `frequency`.
    pub(crate) by: &'static str,
    pub(crate) name: &'static str,
    /// Tokens of this kind.
    pub(crate) tokens: usize,
    /// Mean of their lives.
    pub(crate) lived: f64,
    /// Share of their entries that is live at the end.
    pub(crate) kept: f64,
}

/// Kinds by text (where the trace has any), place and frequency; in each the longest-lived first.
pub(crate) fn kinds(sequence: &SequenceTimeline, lives: &Lives<'_>) -> Vec<Kind> {
    let mut counts: HashMap<u32, usize> = HashMap::new();
    sequence.ids.iter().for_each(|id| *counts.entry(*id).or_default() += 1);
    let place = |position: usize| match position {
        0..FIRST => "first four",
        _ if position < sequence.prompt_tokens => "rest of the prompt",
        _ => "generated",
    };
    let frequency = |position: usize| match counts[&sequence.ids[position]] {
        1 => "once in the text",
        2..10 => "2 to 9 times",
        _ => "10 times and more",
    };
    let mut kinds = Vec::new();
    if sequence.texts.iter().any(Option::is_some) {
        kinds = sorted("text", lives, |position| of_text(sequence.texts[position].as_deref()));
    }
    kinds.extend(sorted("place", lives, place));
    kinds.extend(sorted("frequency", lives, frequency));
    kinds
}

/// What a token's text is.
fn of_text(text: Option<&str>) -> &'static str {
    let Some(text) = text.filter(|text| !text.is_empty()) else { return "no text of its own" };
    let word = text.trim_start();
    let Some(first) = word.chars().next() else {
        return if text.contains(['\n', '\r']) { "line break" } else { "space" };
    };
    match () {
        () if !word.contains(char::is_alphanumeric) => "punctuation",
        () if first.is_numeric() => "number",
        () if first.is_uppercase() => "capital letter first",
        () if word.len() < text.len() => "word, or its beginning",
        () => "inside or end of a word",
    }
}

fn sorted(by: &'static str, lives: &Lives<'_>, name: impl Fn(usize) -> &'static str) -> Vec<Kind> {
    let lanes = lives.lanes() as f64;
    let mut kinds: Vec<Kind> = Vec::new();
    for (position, life) in lives.of_tokens().into_iter().enumerate() {
        let name = name(position);
        let index = kinds.iter().position(|kind| kind.name == name).unwrap_or_else(|| {
            kinds.push(Kind { by, name, tokens: 0, lived: 0.0, kept: 0.0 });
            kinds.len() - 1
        });
        let kind = &mut kinds[index];
        kind.tokens += 1;
        kind.lived += life.lived;
        kind.kept += life.kept as f64 / lanes;
    }
    for kind in &mut kinds {
        kind.lived /= kind.tokens as f64;
        kind.kept /= kind.tokens as f64;
    }
    kinds.sort_by(|a, b| b.lived.total_cmp(&a.lived));
    kinds
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::tests::timeline;

    #[test]
    fn texts_are_sorted_by_what_a_reader_sees() {
        let cases = [
            (" the", "word, or its beginning"),
            ("ing", "inside or end of a word"),
            (" Paris", "capital letter first"),
            ("\u{c9}mile", "capital letter first"),
            (" 1984", "number"),
            (",", "punctuation"),
            (" </", "punctuation"),
            ("\n\n", "line break"),
            ("  ", "space"),
            ("", "no text of its own"),
        ];
        for (text, kind) in cases {
            assert_eq!(of_text(Some(text)), kind, "{text:?}");
        }
        assert_eq!(of_text(None), "no text of its own");
    }

    #[test]
    fn every_token_is_of_one_kind_in_each_way_to_sort_them() {
        let timeline = timeline();
        let sequence = &timeline.sequences[&3];
        let kinds = kinds(sequence, &Lives::new(&timeline.header, sequence));
        for by in ["text", "place", "frequency"] {
            let tokens: usize = kinds.iter().filter(|kind| kind.by == by).map(|kind| kind.tokens).sum();
            assert_eq!(tokens, 4, "{by}");
        }
        let twice = kinds.iter().find(|kind| kind.name == "2 to 9 times").unwrap();
        assert_eq!((twice.tokens, twice.kept), (2, 0.75));
    }
}
