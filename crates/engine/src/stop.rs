//! Stop strings over a stream of text pieces.

use std::ops::Range;

/// Ends a text at the first of its stop strings and never lets a part of one out.
#[derive(Debug, Default)]
pub struct StopMatcher {
    stops: Vec<String>,
    /// Text not yet let out: it may be the start of a stop string.
    held: String,
    /// Parts of it that take part in matching and are never let out.
    hidden: Vec<Range<usize>>,
}

impl StopMatcher {
    /// A matcher for `stops`; empty strings match nothing.
    #[must_use]
    pub fn new(stops: Vec<String>) -> Self {
        let stops = stops.into_iter().filter(|stop| !stop.is_empty()).collect();
        StopMatcher { stops, ..StopMatcher::default() }
    }

    /// Takes the next piece; returns the text that may be shown now, and whether a stop string was met
    /// (the text then ends before it, and nothing more may be pushed).
    pub fn push(&mut self, piece: &str) -> (String, bool) {
        self.held.push_str(piece);
        let starts = self.stops.iter().filter_map(|stop| {
            let mut starts = self.held.match_indices(stop.as_str()).map(|(start, _)| start);
            starts.find(|&start| !self.cuts_hidden(start) && !self.cuts_hidden(start + stop.len()))
        });
        if let Some(start) = starts.min() {
            let shown = self.let_out(start);
            self.held.clear();
            self.hidden.clear();
            return (shown, true);
        }
        let keep = self.stops.iter().map(|stop| longest_overlap(&self.held, stop)).max().unwrap_or(0);
        (self.let_out(self.held.len() - keep), false)
    }

    /// Takes the name of a special token, which stop strings may hold and which is never shown: a stop string
    /// matches it whole or not at all. Returns as [`StopMatcher::push`].
    pub fn push_hidden(&mut self, token: &str) -> (String, bool) {
        self.hidden.push(self.held.len()..self.held.len() + token.len());
        self.push(token)
    }

    /// What was held back, when the text ends without a stop string.
    pub fn finish(&mut self) -> String {
        self.let_out(self.held.len())
    }

    fn cuts_hidden(&self, place: usize) -> bool {
        self.hidden.iter().any(|hidden| hidden.start < place && place < hidden.end)
    }

    /// Takes the first `end` bytes away and gives what of them is not hidden.
    fn let_out(&mut self, end: usize) -> String {
        let (mut shown, mut from) = (String::new(), 0);
        for hidden in &self.hidden {
            shown.push_str(&self.held[from.min(end)..hidden.start.min(end)]);
            from = hidden.end;
        }
        shown.push_str(&self.held[from.min(end)..end]);
        self.held.drain(..end);
        for hidden in &mut self.hidden {
            *hidden = hidden.start.saturating_sub(end)..hidden.end.saturating_sub(end);
        }
        self.hidden.retain(|hidden| !hidden.is_empty());
        shown
    }
}

/// Bytes of the longest end of `text` that is a proper start of `stop`.
fn longest_overlap(text: &str, stop: &str) -> usize {
    let ends = stop.char_indices().map(|(index, _)| index).rev();
    ends.into_iter().find(|&end| text.ends_with(&stop[..end])).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_stop_string_split_over_pieces_is_found_and_not_shown() {
        let mut matcher = StopMatcher::new(vec!["<end>".into()]);
        assert_eq!(matcher.push("hello <e"), ("hello ".into(), false));
        assert_eq!(matcher.push("n"), (String::new(), false));
        assert_eq!(matcher.push("d> more"), (String::new(), true));
    }

    #[test]
    fn a_false_start_is_shown_after_all() {
        let mut matcher = StopMatcher::new(vec!["\n\n".into()]);
        assert_eq!(matcher.push("a\n"), ("a".into(), false));
        assert_eq!(matcher.push("b"), ("\nb".into(), false));
        assert_eq!(matcher.push("\n"), (String::new(), false));
        assert_eq!(matcher.finish(), "\n");
    }

    #[test]
    fn special_tokens_match_whole_and_are_never_shown() {
        let stops = |stop: &str| StopMatcher::new(vec![stop.into()]);
        assert_eq!(stops("<|end|>").push_hidden("<|end|>"), (String::new(), true));
        let mut matcher = stops("\n<|end|>!");
        assert_eq!(matcher.push("a\n"), ("a".into(), false));
        assert_eq!(matcher.push_hidden("<|end|>"), (String::new(), false));
        assert_eq!(matcher.push("?"), ("\n?".into(), false));
        assert_eq!(matcher.push("b\n"), ("b".into(), false));
        matcher.push_hidden("<|end|>");
        assert_eq!(matcher.push("!c"), (String::new(), true));
        // Nobody sees a part of it, so nobody can mean it.
        let mut matcher = stops("end");
        assert_eq!(matcher.push_hidden("<|end|>"), (String::new(), false));
        assert_eq!(matcher.push("b end"), ("b ".into(), true));
    }

    proptest! {
        #[test]
        fn any_split_gives_the_text_before_the_first_stop(
            text in "[ab]{0,24}", stops in proptest::collection::vec("[ab]{1,4}", 0..3), cuts in proptest::collection::vec(0usize..25, 0..6)
        ) {
            let expected = stops.iter().filter_map(|stop| text.find(stop.as_str())).min();
            let mut cuts: Vec<usize> = cuts.into_iter().map(|cut| cut.min(text.len())).collect();
            cuts.extend([0, text.len()]);
            cuts.sort_unstable();
            let mut matcher = StopMatcher::new(stops.clone());
            let (mut shown, mut stopped) = (String::new(), false);
            for pair in cuts.windows(2) {
                let (piece, stop) = matcher.push(&text[pair[0]..pair[1]]);
                shown.push_str(&piece);
                if stop { stopped = true; break; }
            }
            if !stopped { shown.push_str(&matcher.finish()); }
            prop_assert_eq!(stopped, expected.is_some());
            // A longer stop that begins earlier may still be growing when a shorter one completes inside a
            // piece; the earliest start in the text seen so far decides, so the shown text is never longer.
            prop_assert!(text.starts_with(&shown));
            if expected.is_none() { prop_assert_eq!(shown, text); } else { prop_assert!(shown.len() >= expected.unwrap()); }
        }
    }
}
