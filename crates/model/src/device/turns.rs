//! Which tokens of a step attend at the same time.

use std::ops::Range;

use dropcap_policy::Stage;

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

/// All segments at once; where entries go behind a prompt whenever the text has a multiple of `every` tokens, parts that end
/// there one after the other, as [`dropcap_policy::turns`] has it. 0 is never.
pub(super) fn turns<'a>(segments: &[DeviceSegment<'a>], every: u32) -> Vec<Turn<'a>> {
    let parts: Vec<Vec<Range<usize>>> = segments.iter().map(|segment| parts(segment, every)).collect();
    let turn = |turn: usize| {
        let mut all = Turn { parts: Vec::new(), numbers: Vec::new(), firsts: Vec::new() };
        for (number, (segment, parts)) in segments.iter().zip(&parts).enumerate() {
            if let Some(tokens) = parts.get(turn) {
                all.parts.push(part(segment, tokens.clone()));
                all.numbers.push(number);
                all.firsts.push(tokens.start);
            }
        }
        all
    };
    (0..parts.iter().map(Vec::len).max().unwrap_or(1)).map(turn).collect()
}

/// The tokens of a segment in parts.
fn parts(segment: &DeviceSegment<'_>, every: u32) -> Vec<Range<usize>> {
    let count = segment.ids.len();
    if every == 0 || segment.stage != Stage::Behind {
        return std::iter::once(0..count).collect();
    }
    let (mut parts, mut first) = (Vec::new(), 0);
    while first < count {
        // Fits: the step's positions have been checked.
        let position = segment.first_position + first as u32;
        let end = count.min(first + (every - position % every) as usize);
        parts.push(first..end);
        first = end;
    }
    parts
}

/// Some tokens of a segment, which want what they wanted together with the others.
fn part<'a>(segment: &DeviceSegment<'a>, tokens: Range<usize>) -> DeviceSegment<'a> {
    let random = segment.wanted.random().filter(|_| tokens.end == segment.ids.len());
    let wanted = match (segment.wanted.logits_from(), random) {
        (Some(from), _) if tokens.end > from => {
            Wanted::Logits { from: from.saturating_sub(tokens.start), random }
        }
        (_, Some(random)) => Wanted::Token { random },
        (_, None) => Wanted::Nothing,
    };
    // Fits: the step's positions have been checked.
    let first_position = segment.first_position + tokens.start as u32;
    DeviceSegment { ids: segment.ids.get(tokens).unwrap_or_default(), first_position, wanted, ..*segment }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::slots::Slots;

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
        assert_eq!(turns(&segments, 0).len(), 1);
        let one_by_one = turns(&segments, 1);
        let numbers: Vec<&[usize]> = one_by_one.iter().map(|turn| &*turn.numbers).collect();
        assert_eq!(numbers, [&[0, 1][..], &[1], &[1]]);
        assert_eq!(one_by_one[0].parts[0].ids.len(), 3);
        let parts: Vec<_> = one_by_one.iter().filter_map(|turn| turn.parts.last()).collect();
        let told: Vec<_> = parts.iter().map(|part| (part.ids[0], part.first_position, part.wanted)).collect();
        let logits = |random| Wanted::Logits { from: 0, random };
        assert_eq!(told, [(7, 40, Wanted::Nothing), (8, 41, logits(None)), (9, 42, logits(Some(0.5)))]);
        let pairs = turns(&segments, 2);
        let told: Vec<_> =
            pairs.iter().filter_map(|turn| turn.parts.last().zip(turn.firsts.last())).collect();
        let told: Vec<_> =
            told.iter().map(|(part, first)| (part.ids, part.first_position, part.wanted, **first)).collect();
        let first = Wanted::Logits { from: 1, random: None };
        assert_eq!(told, [(&[7, 8][..], 40, first, 0), (&[9][..], 42, logits(Some(0.5)), 2)]);
        assert_eq!(turns(&segments, 3)[0].parts[1].ids, [7, 8], "a part ends where the text has a multiple");
    }
}
