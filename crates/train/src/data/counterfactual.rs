//! Examples beside themselves, each lacking a stretch of its prompt.

use std::ops::Range;
use std::path::Path;

use super::answers::Answers;
use super::shard::TokenShard;
use crate::TrainError;

/// A shard that has behind each of its examples one more for every stretch of `cuts`: the same example without those tokens.
/// `cuts` has a list for each example, of places in the shard that lie in the example and outside of its answers. A shard of texts
/// stays as it is.
///
/// # Errors
/// Places outside of their example, which `path` then names.
pub(crate) fn with_counterfactuals(
    path: &Path,
    shard: &TokenShard,
    cuts: &[Vec<Range<u64>>],
) -> Result<TokenShard, TrainError> {
    let Some(answers) = shard.answers() else { return Ok(shard.clone()) };
    let mut ids = Vec::new();
    let mut more = Answers { unplaced: answers.unplaced, ..Answers::default() };
    let ends = answers.starts.iter().skip(1).copied().chain([shard.len() as u64]);
    for ((&start, end), cuts) in answers.starts.iter().zip(ends).zip(cuts) {
        let spans = answers.spans.iter().skip(answers.spans.partition_point(|span| span.end <= start));
        let spans: Vec<&Range<u64>> = spans.take_while(|span| span.start < end).collect();
        for cut in [start..start].iter().chain(cuts) {
            let inside = start <= cut.start && cut.start <= cut.end && cut.end <= end;
            if !inside || answers.within(cut) > 0 {
                let what = format!("{}: a cut of {cut:?} in the example of {start}..{end}", path.display());
                return Err(TrainError::Internal { what });
            }
            let first = ids.len() as u64;
            more.starts.push(first);
            shard.read(start as usize, (cut.start - start) as usize, &mut ids);
            shard.read(cut.end as usize, (end - cut.end) as usize, &mut ids);
            let gone = cut.end - cut.start;
            let moved = |at: u64| first + at - start - if at >= cut.end { gone } else { 0 };
            more.spans.extend(spans.iter().map(|span| moved(span.start)..moved(span.end)));
        }
    }
    TokenShard::new(path, *shard.facts(), ids, Some(more))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::ShardFacts;
    use crate::digest::Digest;

    #[test]
    fn copies_lack_their_stretch_and_keep_their_answer() {
        let digest = Digest::of(b"");
        let facts = ShardFacts { vocabulary: 100, tokenizer: digest, source: digest };
        let answers = Answers { starts: vec![0, 6], spans: vec![4..6, 8..9], unplaced: 3 };
        let shard = TokenShard::new("x".as_ref(), facts, (0..10).collect(), Some(answers.clone())).unwrap();
        let made = with_counterfactuals("x".as_ref(), &shard, &[vec![1..3, 0..1], Vec::new()]).unwrap();
        let mut ids = Vec::new();
        made.read(0, 100, &mut ids);
        assert_eq!(ids, [0, 1, 2, 3, 4, 5, 0, 3, 4, 5, 1, 2, 3, 4, 5, 6, 7, 8, 9]);
        let expected =
            Answers { starts: vec![0, 6, 10, 15], spans: vec![4..6, 8..10, 13..15, 17..18], unplaced: 3 };
        assert_eq!(made.answers(), Some(&expected));
        for wrong in [3..5, 6..7] {
            assert!(with_counterfactuals("x".as_ref(), &shard, &[vec![wrong], Vec::new()]).is_err());
        }
        let none = with_counterfactuals("x".as_ref(), &shard, &[Vec::new(), Vec::new()]).unwrap();
        assert_eq!(none, shard);
    }
}
