//! Which queries of a step attend at the same time.

use crate::{Needs, Span, Stage};

/// Spans that attend at the same time, each with the number of its sequence in the step, in their order.
pub type Turn = (Vec<usize>, Vec<Span>);

/// All spans at once, but for those of whose tokens the policy acts in the midst: they are taken apart there, and queries that find
/// sinks at places of their own ([`crate::Anchored`]) attend alone.
#[must_use]
pub fn turns(spans: &[Span], needs: Needs) -> Vec<Turn> {
    let parts: Vec<Vec<Span>> = spans.iter().map(|span| parts(span, needs)).collect();
    let turn = |turn: usize| {
        let part = |(number, parts): (usize, &Vec<Span>)| Some((number, parts.get(turn)?.clone()));
        parts.iter().enumerate().filter_map(part).unzip()
    };
    (0..parts.iter().map(Vec::len).max().unwrap_or(1)).map(turn).collect()
}

/// A span in its parts, or whole.
fn parts(span: &Span, needs: Needs) -> Vec<Span> {
    let every = needs.every(span.stage);
    if every == 0 && needs.anchored.is_none() {
        return vec![span.clone()];
    }
    let mut parts = Vec::new();
    let mut done = 0;
    while done < span.queries {
        // Fits: the step's positions have been checked.
        let first_position = span.first_position + done as u32;
        let mut queries = span.queries - done;
        if every > 0 {
            queries = queries.min((every - first_position % every) as usize);
        }
        if let Some(anchored) = needs.anchored {
            let before = anchored.first_behind(span.budget).saturating_sub(first_position);
            queries = queries.min(before.max(1) as usize);
        }
        let last = done + queries == span.queries;
        let stage = if last || span.stage == Stage::Behind { span.stage } else { Stage::Prompt };
        parts.push(Span {
            first_row: span.first_row + done,
            queries,
            first_position,
            stage,
            budget: span.budget,
        });
        done += queries;
    }
    parts
}

#[cfg(test)]
#[allow(clippy::panic, reason = "a test that cannot go on should fail")]
mod tests {
    use super::*;
    use crate::{Anchored, Cadence};

    fn needs(after: Cadence, stride: u32) -> Needs {
        Needs { after, stride, ..Needs::default() }
    }

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
        let whole = turns(&spans, needs(Cadence::Prompt, 0));
        assert_eq!(whole, [(vec![0, 1, 2], spans.to_vec())]);
        let [(first, spans_of_first), (second, spans_of_second)] =
            &turns(&spans, needs(Cadence::EVERY_QUERY, 0))[..]
        else {
            panic!("two turns")
        };
        assert_eq!((first.as_slice(), second.as_slice()), (&[0, 1, 2][..], &[1][..]));
        assert_eq!(spans_of_first[0], spans[0]);
        assert_eq!(spans_of_first[1], span(3, 1, Stage::Behind));
        assert_eq!((spans_of_second[0].first_row, spans_of_second[0].first_position), (4, 11));
    }

    #[test]
    fn a_span_is_taken_apart_where_the_text_has_a_multiple_of_the_tokens() {
        let span = |stage| [Span { first_row: 2, queries: 9, first_position: 6, stage, budget: None }];
        let cuts = |stage, needs| -> Vec<(usize, u32, usize, Stage)> {
            let turns = turns(&span(stage), needs);
            let part = |(_, spans): &Turn| {
                let span = &spans[0];
                (span.first_row, span.first_position, span.queries, span.stage)
            };
            turns.iter().map(part).collect()
        };
        let behind = cuts(Stage::Behind, needs(Cadence::Every(4), 3));
        assert_eq!(behind, [(2, 6, 2, Stage::Behind), (4, 8, 4, Stage::Behind), (8, 12, 3, Stage::Behind)]);
        let prompt = cuts(Stage::PromptEnd, needs(Cadence::Every(4), 10));
        assert_eq!(prompt, [(2, 6, 4, Stage::Prompt), (6, 10, 5, Stage::PromptEnd)]);
    }

    #[test]
    fn queries_behind_an_anchored_window_attend_alone() {
        let needs = Needs { anchored: Some(Anchored { sinks: 2, recent: 6 }), ..Needs::default() };
        let lengths = |first_position, budget| -> Vec<usize> {
            let span = Span { first_row: 0, queries: 5, first_position, stage: Stage::Prompt, budget };
            turns(&[span], needs).iter().map(|(_, spans)| spans[0].queries).collect()
        };
        assert_eq!(lengths(0, None), [5]);
        assert_eq!(lengths(6, None), [2, 1, 1, 1]);
        assert_eq!(lengths(2, Some(4)), [2, 1, 1, 1], "a text's own budget is another window");
        assert_eq!(
            needs.anchored.map(|anchored| [7, 8, 20].map(|query| anchored.ahead(query, None))),
            Some([0, 1, 13])
        );
    }
}
