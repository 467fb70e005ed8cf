//! Which tokens of a step attend at the same time.

use dropcap_policy::{Needs, Span};

use super::{DeviceSegment, Wanted};

/// Segments, or parts of them, that attend at the same time.
#[derive(Debug)]
pub(super) struct Turn<'a> {
    pub(super) parts: Vec<DeviceSegment<'a>>,
    /// Which segment of the step each is a part of.
    pub(super) numbers: Vec<usize>,
    /// The first token of its segment that each is about.
    pub(super) firsts: Vec<usize>,
}

/// All segments at once; where a policy acts in the midst of one, or its queries attend alone, parts of it one after the other, as
/// [`dropcap_policy::turns`] has it.
pub(super) fn turns<'a>(segments: &[DeviceSegment<'a>], needs: Needs) -> Vec<Turn<'a>> {
    let span = |segment: &DeviceSegment<'_>| Span {
        // Of a part, the first token of its segment.
        first_row: 0,
        queries: segment.ids.len(),
        first_position: segment.first_position,
        stage: segment.stage,
        budget: segment.budget,
    };
    let spans: Vec<Span> = segments.iter().map(span).collect();
    let turn = |(numbers, spans): (Vec<usize>, Vec<Span>)| Turn {
        parts: numbers.iter().zip(&spans).map(|(&number, span)| part(&segments[number], span)).collect(),
        firsts: spans.iter().map(|span| span.first_row).collect(),
        numbers,
    };
    dropcap_policy::turns(&spans, needs).into_iter().map(turn).collect()
}

/// Some tokens of a segment, which want what they wanted together with the others.
fn part<'a>(segment: &DeviceSegment<'a>, span: &Span) -> DeviceSegment<'a> {
    let tokens = span.first_row..span.first_row + span.queries;
    let random = segment.wanted.random().filter(|_| tokens.end == segment.ids.len());
    let wanted = match (segment.wanted.logits_from(), random) {
        (Some(from), _) if tokens.end > from => {
            Wanted::Logits { from: from.saturating_sub(tokens.start), random }
        }
        (_, Some(random)) => Wanted::Token { random },
        (_, None) => Wanted::Nothing,
    };
    let ids = segment.ids.get(tokens).unwrap_or_default();
    DeviceSegment { ids, first_position: span.first_position, stage: span.stage, wanted, ..*segment }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::slots::Slots;
    use dropcap_policy::{Anchored, Cadence, Stage};

    #[test]
    fn tokens_behind_a_prompt_attend_in_parts_and_want_what_they_wanted_together() {
        let slots = Slots::new(0..2);
        let (first, second) = (slots.take().unwrap(), slots.take().unwrap());
        let segment = |slot, stage, wanted| DeviceSegment {
            slot,
            ids: &[7, 8, 9],
            first_position: 40,
            stage,
            budget: None,
            wanted,
        };
        let wanted = Wanted::Logits { from: 1, random: Some(0.5) };
        let segments = [segment(&first, Stage::PromptEnd, wanted), segment(&second, Stage::Behind, wanted)];
        let every = |tokens| Needs { after: Cadence::Every(tokens), ..Needs::default() };
        assert_eq!(turns(&segments, Needs::default()).len(), 1);
        let one_by_one = turns(&segments, every(1));
        let numbers: Vec<&[usize]> = one_by_one.iter().map(|turn| &*turn.numbers).collect();
        assert_eq!(numbers, [&[0, 1][..], &[1], &[1]]);
        assert_eq!(one_by_one[0].parts[0].ids.len(), 3);
        let parts: Vec<_> = one_by_one.iter().filter_map(|turn| turn.parts.last()).collect();
        let told: Vec<_> = parts.iter().map(|part| (part.ids[0], part.first_position, part.wanted)).collect();
        let logits = |random| Wanted::Logits { from: 0, random };
        assert_eq!(told, [(7, 40, Wanted::Nothing), (8, 41, logits(None)), (9, 42, logits(Some(0.5)))]);
        let pairs = turns(&segments, every(2));
        let told: Vec<_> =
            pairs.iter().filter_map(|turn| turn.parts.last().zip(turn.firsts.last())).collect();
        let told: Vec<_> =
            told.iter().map(|(part, first)| (part.ids, part.first_position, part.wanted, **first)).collect();
        let first = Wanted::Logits { from: 1, random: None };
        assert_eq!(told, [(&[7, 8][..], 40, first, 0), (&[9][..], 42, logits(Some(0.5)), 2)]);
        assert_eq!(
            turns(&segments, every(3))[0].parts[1].ids,
            [7, 8],
            "a part ends where the text has a multiple"
        );
    }
    #[test]
    fn a_prompt_ends_with_its_last_part_alone() {
        let slots = Slots::new(0..1);
        let slot = slots.take().unwrap();
        let wanted = Wanted::Token { random: 0.5 };
        let segment = DeviceSegment {
            slot: &slot,
            ids: &[1, 2, 3, 4, 5],
            first_position: 6,
            stage: Stage::PromptEnd,
            budget: None,
            wanted,
        };
        let told = |needs| {
            let turns = turns(&[segment], needs);
            turns.iter().map(|turn| (turn.parts[0].ids.len(), turn.parts[0].stage)).collect::<Vec<_>>()
        };
        let chunks = Needs { after: Cadence::Prompt, stride: 4, ..Needs::default() };
        assert_eq!(told(chunks), [(2, Stage::Prompt), (3, Stage::PromptEnd)]);
        let anchored = Needs { anchored: Some(Anchored { sinks: 3, recent: 6 }), ..Needs::default() };
        let ends = [(3, Stage::Prompt), (1, Stage::Prompt), (1, Stage::PromptEnd)];
        assert_eq!(told(anchored), ends);
        let turns = turns(&[segment], anchored);
        let wanted: Vec<Wanted> = turns.iter().map(|turn| turn.parts[0].wanted).collect();
        assert_eq!(wanted, [Wanted::Nothing, Wanted::Nothing, Wanted::Token { random: 0.5 }]);
    }
}
