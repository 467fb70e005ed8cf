//! A text in windows that the model can hold.

use std::ops::Range;

/// One window: what goes in, and from where on its predictions count.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Span {
    /// The tokens that go in; the target of each is the token after it.
    pub inputs: Range<usize>,
    /// The first input, counted within the window, whose prediction counts.
    pub first: usize,
}

/// Cuts a text of `tokens` tokens into windows of up to `length` inputs, so that every token but the first is predicted
/// exactly once: one window after the other, each beginning with the last token of the one before, and the last one moved
/// back until it is full. With the token that begins a text in front these are the rolling windows of
/// lm-evaluation-harness (`get_rolling_token_windows` with a context of 1).
#[must_use]
pub fn rolling(tokens: usize, length: usize) -> Vec<Span> {
    let (total, length) = (tokens.saturating_sub(1), length.max(1));
    let window = |done: usize| {
        let end = total.min(done + length);
        let start = end.saturating_sub(length);
        Span { inputs: start..end, first: done - start }
    };
    (0..total).step_by(length).map(window).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `lm_eval.utils.get_rolling_token_windows(range(n), -1, length, 1)` as lm-evaluation-harness states it: the inputs
    /// and how many of the last of them count.
    fn slow(n: i64, length: i64) -> Vec<(Vec<i64>, Vec<i64>)> {
        let text = |range: Range<i64>| range.collect::<Vec<_>>();
        let mut windows = Vec::new();
        let first = length.min(n);
        windows.push(([vec![-1], text(0..first - 1)].concat(), text(0..first)));
        let mut predicted = first;
        while predicted < n {
            let count = (n - predicted).min(length);
            let end = predicted + count;
            windows.push((text(end - length - 1..end - 1), text(end - count..end)));
            predicted += count;
        }
        windows
    }

    #[test]
    fn windows_are_the_harness_s() {
        for (n, length) in [(1, 4), (3, 4), (4, 4), (5, 4), (8, 4), (11, 4), (7, 1), (100, 33)] {
            // Token i of the text is number i + 1 behind the one that begins it.
            let fast: Vec<_> = rolling(n as usize + 1, length as usize)
                .into_iter()
                .map(|span| {
                    let inputs: Vec<i64> = span.inputs.clone().map(|i| i as i64 - 1).collect();
                    let targets = (span.inputs.start + span.first..span.inputs.end).map(|i| i as i64);
                    (inputs, targets.collect::<Vec<_>>())
                })
                .collect();
            assert_eq!(fast, slow(n, length), "{n} tokens in windows of {length}");
        }
    }

    #[test]
    fn a_text_of_one_token_predicts_nothing() {
        assert!(rolling(1, 8).is_empty() && rolling(0, 8).is_empty());
    }
}
