//! Which tokens of a shard are learned.

use std::ops::Range;

/// Where the examples of a source begin, and which of its tokens are answers: what a model learns to say, while the rest is
/// context alone.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Answers {
    /// The first token of each example, in their order.
    pub starts: Vec<u64>,
    /// Stretches of tokens that are learned, in their order, apart, none empty.
    pub spans: Vec<Range<u64>>,
    /// Messages of the assistant that are context alone, because the template does not tell where they stand.
    pub unplaced: u64,
}

impl Answers {
    /// What is wrong with answers among `tokens` tokens.
    pub(super) fn problem(&self, tokens: u64) -> Option<String> {
        let starts_rise = self.starts.is_sorted_by(|a, b| a < b);
        let spans_rise = self.spans.is_sorted_by(|a, b| a.end <= b.start);
        let inside = self.starts.last().is_none_or(|&start| start < tokens)
            && self.spans.iter().all(|span| span.start < span.end && span.end <= tokens);
        (!starts_rise || !spans_rise || !inside)
            .then(|| format!("its answers do not lie in order among its {tokens} tokens"))
    }

    /// Tokens that are learned.
    #[must_use]
    pub fn tokens(&self) -> u64 {
        self.spans.iter().map(|span| span.end - span.start).sum()
    }

    /// Tokens of a stretch that are learned.
    #[must_use]
    pub fn within(&self, tokens: &Range<u64>) -> u64 {
        let first = self.spans.partition_point(|span| span.end <= tokens.start);
        let touching = self.spans[first..].iter().take_while(|span| span.start < tokens.end);
        touching.map(|span| span.end.min(tokens.end) - span.start.max(tokens.start)).sum()
    }

    /// Appends for each token from `first` on, `count` of them, whether it is learned.
    pub(super) fn mark(&self, first: u64, count: usize, out: &mut Vec<bool>) {
        let mut spans = self.spans[self.spans.partition_point(|span| span.end <= first)..].iter().peekable();
        for token in first..first + count as u64 {
            while spans.peek().is_some_and(|span| span.end <= token) {
                spans.next();
            }
            out.push(spans.peek().is_some_and(|span| span.contains(&token)));
        }
    }

    /// The tokens of the examples that are marked, among `tokens`, and the answers of a shard of those alone.
    pub(super) fn only(&self, kept: &[bool], tokens: u64) -> (Vec<Range<u64>>, Self) {
        let ends = self.starts.iter().skip(1).copied().chain([tokens]);
        let (mut places, mut only, mut at) = (Vec::new(), Self::default(), 0);
        for ((&start, end), _) in self.starts.iter().zip(ends).zip(kept).filter(|(_, kept)| **kept) {
            only.starts.push(at);
            let spans = self.spans.iter().skip(self.spans.partition_point(|span| span.end <= start));
            let spans = spans.take_while(|span| span.start < end);
            only.spans.extend(spans.map(|span| at + span.start - start..at + span.end - start));
            places.push(start..end);
            at += end - start;
        }
        (places, only)
    }

    /// All numbers as a shard's file holds them.
    pub(super) fn numbers(&self) -> impl Iterator<Item = u64> {
        let spans = self.spans.iter().flat_map(|span| [span.start, span.end]);
        self.starts.iter().copied().chain(spans)
    }

    /// From what [`Answers::numbers`] gives, of `examples` examples.
    pub(super) fn of_numbers(numbers: &[u64], examples: usize, unplaced: u64) -> Self {
        let (starts, spans) = numbers.split_at(examples.min(numbers.len()));
        let spans = spans.as_chunks().0.iter().map(|&[start, end]| start..end).collect();
        Self { starts: starts.to_vec(), spans, unplaced }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn marks_and_counts_are_those_of_a_list_of_every_token(
            lengths in prop::collection::vec((0_u64..4, 1_u64..5), 0..8), first in 0_u64..40, count in 0_usize..40,
        ) {
            let (mut spans, mut every, mut at) = (Vec::new(), vec![false; 100], 0);
            for (gap, length) in lengths {
                let span = at + gap..at + gap + length;
                every[span.start as usize..span.end as usize].fill(true);
                at = span.end;
                spans.push(span);
            }
            let answers = Answers { starts: Vec::new(), spans, unplaced: 0 };
            prop_assert_eq!(answers.problem(100), None);
            let mut marks = Vec::new();
            answers.mark(first, count, &mut marks);
            let expected = &every[first as usize..first as usize + count];
            prop_assert_eq!(&marks[..], expected);
            let wanted = expected.iter().filter(|&&learned| learned).count() as u64;
            prop_assert_eq!(answers.within(&(first..first + count as u64)), wanted);
            prop_assert_eq!(answers.tokens(), every.iter().filter(|&&learned| learned).count() as u64);
            let numbers: Vec<u64> = answers.numbers().collect();
            prop_assert_eq!(Answers::of_numbers(&numbers, 0, 0), answers);
        }
    }

    #[test]
    fn what_is_left_of_some_examples_is_theirs_alone() {
        let answers = Answers { starts: vec![0, 4, 9], spans: vec![1..3, 6..7, 8..9, 10..12], unplaced: 2 };
        let (places, only) = answers.only(&[false, true, true], 12);
        assert_eq!(places, [4..9, 9..12]);
        assert_eq!(only, Answers { starts: vec![0, 5], spans: vec![2..3, 4..5, 6..8], unplaced: 0 });
        assert_eq!(answers.only(&[true; 3], 12).1.spans, answers.spans);
    }

    #[test]
    fn answers_out_of_order_or_outside_are_seen() {
        let good = Answers { starts: vec![0, 5], spans: vec![1..3, 3..4, 6..8], unplaced: 0 };
        assert_eq!(good.problem(8), None);
        for bad in [
            Answers { starts: vec![5, 5], ..good.clone() },
            Answers { starts: vec![0, 8], ..good.clone() },
            Answers { spans: vec![1..3, 2..4], ..good.clone() },
            Answers { spans: vec![2..2], ..good.clone() },
            Answers { spans: vec![6..9], ..good },
        ] {
            assert!(bad.problem(8).is_some(), "{bad:?}");
        }
    }
}
