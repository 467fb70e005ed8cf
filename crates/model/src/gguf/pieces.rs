//! Merges of a SentencePiece vocabulary, which has scores instead.

use std::collections::HashMap;

/// Most characters of a piece that is taken apart; published ones have 16, or runs of a few dozen spaces.
const LONGEST: usize = 512;

/// The pairs of pieces that merge into another, the best first, as `transformers` finds them: a piece of a higher score goes
/// before one of a lower, and of one piece's pairs that of the earlier pieces.
///
/// `pieces` are texts with their ids and scores.
pub(super) fn merges(pieces: &[(&str, usize, f64)]) -> Vec<(String, String)> {
    let ids: HashMap<&str, usize> = pieces.iter().map(|&(text, id, _)| (text, id)).collect();
    let mut all = Vec::new();
    for &(piece, _, score) in pieces.iter().filter(|piece| piece.0.len() <= LONGEST) {
        let cuts = piece.char_indices().skip(1).map(|(at, _)| piece.split_at(at));
        let known = |(left, right)| Some((ids.get(left)?, ids.get(right)?, left, right));
        all.extend(
            cuts.filter_map(known).map(|(first, second, left, right)| (score, first, second, left, right)),
        );
    }
    all.sort_by(|a, b| b.0.total_cmp(&a.0).then((a.1, a.2).cmp(&(b.1, b.2))));
    all.into_iter().map(|(_, _, _, left, right)| (left.to_owned(), right.to_owned())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_best_score_merges_first() {
        let pieces = [("a", 3, -9.0), ("b", 4, -9.0), ("ab", 5, -2.0), ("ba", 6, -1.0), ("aba", 7, -3.0)];
        let merges = merges(&pieces);
        let merges: Vec<_> = merges.iter().map(|(left, right)| (left.as_str(), right.as_str())).collect();
        assert_eq!(merges, [("b", "a"), ("a", "b"), ("a", "ba"), ("ab", "a")]);
    }
}
