//! What every method promises of any text.

use crate::support::Bytes;
use dropcap_compress::{CompressError, Compressed, Fences, Language, Tokens, longcodezip, perplexity};
use dropcap_methods::Amount;
use proptest::prelude::*;

/// Every method on a text.
fn all(text: &str, language: Language, budget: Amount, positions: usize) -> Vec<Compressed> {
    let mut judge = Bytes::of(positions);
    vec![
        longcodezip(&mut judge, text, "what is b?", language, budget).unwrap(),
        perplexity(&mut judge, text, "", budget).unwrap(),
        perplexity(&mut judge, text, "what is b?", budget).unwrap(),
    ]
}

fn check(text: &str, language: Language, budget: Amount, positions: usize) -> Result<(), TestCaseError> {
    let judge = Bytes::open();
    let tokens = judge.tokens(text).unwrap().len();
    let limit = match budget {
        Amount::Tokens(count) => count as usize,
        Amount::Share(share) => (share * tokens as f64) as usize,
    };
    let fences = Fences::of(text);
    for kept in all(text, language, budget, positions) {
        let mut end = 0;
        for span in &kept.spans {
            prop_assert!(span.start >= end && span.start < span.end, "{:?}", kept.spans);
            prop_assert!(text.is_char_boundary(span.start) && text.is_char_boundary(span.end));
            prop_assert!(!fences.hold(span.start) && !fences.hold(span.end));
            prop_assert!(span.score.is_finite());
            end = span.end;
        }
        prop_assert!(end <= text.len());
        let left = judge.tokens(&kept.text(text)).unwrap().len();
        prop_assert!(left == kept.tokens_after && left <= limit.min(tokens), "{} of {}", left, limit);
        prop_assert_eq!(kept.tokens_before, tokens);
        if tokens <= limit {
            prop_assert_eq!(kept.text(text), text);
        }
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]
    #[test]
    fn what_stays_is_a_subsequence_within_the_budget(
        pieces in prop::collection::vec(
            prop::sample::select(vec![
                "fn a(b: u8) {\n    b\n}\n", "def c():\n    return 1\n", "\n", "\r\n", "\n\n", " ", "é", "漢字", "```\nx = 1\n\ny\n```\n", "word ",
                "// d\n", "}", "\0", "a long line of words that goes on and on ",
            ]),
            0..40,
        ),
        budget in prop_oneof![
            (1_u32..200).prop_map(Amount::Tokens), (0.01..1.0_f64).prop_map(Amount::Share), Just(Amount::Share(1.0)),
        ],
        positions in 40_usize..300,
        language in prop::sample::select(vec![Language::Rust, Language::Python, Language::Text]),
    ) {
        check(&pieces.concat(), language, budget, positions)?;
    }
}

#[test]
fn empty_one_line_huge_line_and_mixed_breaks_pass() {
    let huge = "word ".repeat(2000);
    for text in ["", "\n", " ", "one line", "a\rb\r\nc\n\rd", &huge] {
        for language in [Language::Rust, Language::Text] {
            check(text, language, Amount::Share(0.3), 200).unwrap();
            check(text, language, Amount::Tokens(7), 200).unwrap();
        }
    }
    let kept = all(&huge, Language::Text, Amount::Share(0.3), 200);
    assert!(kept.iter().all(|kept| kept.tokens_after * 4 > kept.tokens_before), "the budget is used");
}

#[test]
fn an_instruction_that_is_missing_or_leaves_no_room_is_refused() {
    let mut judge = Bytes::of(64);
    let (text, budget) = ("a b c d", Amount::Tokens(2));
    let missing = longcodezip(&mut judge, text, " ", Language::Text, budget);
    assert!(matches!(missing, Err(CompressError::NoInstruction { method: "longcodezip" })));
    let long = "x".repeat(33);
    let refused = |result: Result<Compressed, CompressError>| {
        matches!(result, Err(CompressError::LongInstruction { limit: 64, .. }))
    };
    assert!(refused(longcodezip(&mut judge, text, &long, Language::Text, budget)));
    assert!(refused(perplexity(&mut judge, text, &long, budget)));
}
