//! Which queries of a step attend at the same time.

use crate::{Cadence, Span, Stage};

/// Spans that attend at the same time, each with the number of its sequence in the step, in their order.
pub type Turn = (Vec<usize>, Vec<Span>);

/// All spans at once; under a policy that acts after every query those behind a prompt are taken apart into their queries.
#[must_use]
pub fn turns(spans: &[Span], cadence: Cadence) -> Vec<Turn> {
    let apart = |span: &Span| cadence == Cadence::EveryQuery && span.stage == Stage::Behind;
    let turn = |query: usize| {
        let part = |(number, span): (usize, &Span)| {
            if !apart(span) {
                return (query == 0).then(|| (number, span.clone()));
            }
            // Fits: the step's positions have been checked.
            let first_position = span.first_position + query as u32;
            let one = Span { first_row: span.first_row + query, queries: 1, first_position, ..*span };
            (query < span.queries).then_some((number, one))
        };
        spans.iter().enumerate().filter_map(part).unzip()
    };
    let longest = spans.iter().filter(|span| apart(span)).map(|span| span.queries).max().unwrap_or(1);
    (0..longest).map(turn).collect()
}

#[cfg(test)]
#[allow(clippy::panic, reason = "a test that cannot go on should fail")]
mod tests {
    use super::*;

    #[test]
    fn only_what_lies_behind_a_prompt_attends_query_by_query() {
        let span = |first_row, queries, stage| Span {
            first_row,
            queries,
            first_position: 10,
            stage,
            budget: Some(7),
        };
        let spans = [span(0, 3, Stage::Prompt), span(3, 2, Stage::Behind), span(5, 1, Stage::Behind)];
        let whole = turns(&spans, Cadence::Prompt);
        assert_eq!(whole, [(vec![0, 1, 2], spans.to_vec())]);
        let [(first, spans_of_first), (second, spans_of_second)] = &turns(&spans, Cadence::EveryQuery)[..]
        else {
            panic!("two turns")
        };
        assert_eq!((first.as_slice(), second.as_slice()), (&[0, 1, 2][..], &[1][..]));
        assert_eq!(spans_of_first[0], spans[0]);
        assert_eq!(spans_of_first[1], span(3, 1, Stage::Behind));
        assert_eq!((spans_of_second[0].first_row, spans_of_second[0].first_position), (4, 11));
    }
}
