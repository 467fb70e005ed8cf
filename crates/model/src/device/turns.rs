//! Which tokens of a step attend at the same time.

use dropcap_policy::Stage;

use super::{DeviceSegment, Wanted};

/// Segments, or parts of them, that attend at the same time.
#[derive(Debug)]
pub(super) struct Turn<'a> {
    pub(super) parts: Vec<DeviceSegment<'a>>,
    /// Which segment of the step each is a part of.
    pub(super) numbers: Vec<usize>,
    /// The first token that each is about: 0 unless it is one token alone.
    pub(super) query: usize,
}

/// All segments at once; where queries behind a prompt act one by one (`apart`), one after the other, as
/// [`dropcap_policy::turns`] has it.
pub(super) fn turns<'a>(segments: &[DeviceSegment<'a>], apart: bool) -> Vec<Turn<'a>> {
    let apart = |segment: &DeviceSegment<'_>| apart && segment.stage == Stage::Behind;
    let turn = |query: usize| {
        let part = |(number, segment): (usize, &DeviceSegment<'a>)| {
            let part =
                if apart(segment) { one(segment, query)? } else { (query == 0).then_some(*segment)? };
            Some((part, number))
        };
        let (parts, numbers) = segments.iter().enumerate().filter_map(|(i, s)| part((i, s))).unzip();
        Turn { parts, numbers, query }
    };
    let longest = segments.iter().filter(|segment| apart(segment)).map(|segment| segment.ids.len()).max();
    (0..longest.unwrap_or(1)).map(turn).collect()
}

/// One token of a segment, if it has so many.
fn one<'a>(segment: &DeviceSegment<'a>, query: usize) -> Option<DeviceSegment<'a>> {
    let last = query + 1 == segment.ids.len();
    let random = segment.wanted.random().filter(|_| last);
    let wanted = match (segment.wanted.logits_from(), random) {
        (Some(from), _) if query >= from => Wanted::Logits { from: 0, random },
        (_, Some(random)) => Wanted::Token { random },
        (_, None) => Wanted::Nothing,
    };
    Some(DeviceSegment {
        ids: segment.ids.get(query..=query)?,
        // Fits: the step's positions have been checked.
        first_position: segment.first_position + query as u32,
        wanted,
        ..*segment
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::slots::Slots;

    #[test]
    fn tokens_behind_a_prompt_attend_one_by_one_and_want_what_they_wanted_together() {
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
        assert_eq!(turns(&segments, false).len(), 1);
        let turns = turns(&segments, true);
        let numbers: Vec<&[usize]> = turns.iter().map(|turn| &*turn.numbers).collect();
        assert_eq!(numbers, [&[0, 1][..], &[1], &[1]]);
        assert_eq!(turns[0].parts[0].ids.len(), 3);
        let parts: Vec<_> = turns.iter().filter_map(|turn| turn.parts.last()).collect();
        let told: Vec<_> = parts.iter().map(|part| (part.ids[0], part.first_position, part.wanted)).collect();
        let logits = |random| Wanted::Logits { from: 0, random };
        assert_eq!(told, [(7, 40, Wanted::Nothing), (8, 41, logits(None)), (9, 42, logits(Some(0.5)))]);
    }
}
