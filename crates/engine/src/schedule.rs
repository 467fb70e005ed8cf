//! Which sequences take part in a step, and with how many tokens.
//!
//! Running sequences come first, oldest first, so that a text once begun keeps flowing; prompts share what
//! is left of the step's token budget. A step is only planned if its pages are there beforehand: a sequence
//! that does not fit waits, and the forward pass never runs out of memory half-way. A prompt has the pages
//! that it was promised when it joined; where there are no others it goes in smaller chunks, because a policy may
//! free enough between them.

/// How one sequence stands before a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Standing {
    /// Whether a text is going in; otherwise the sequence decodes, a token a step.
    pub(crate) prefilling: bool,
    /// Most tokens that one step may feed.
    pub(crate) feedable: usize,
    /// Free pages that are kept for the rest of its text, and that nobody else may take.
    pub(crate) reserved: usize,
}

/// What one sequence contributes to a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Share {
    /// Index into the sequences that were planned over.
    pub(crate) index: usize,
    /// Tokens to feed, at least one.
    pub(crate) tokens: usize,
}

/// Plans one step over sequences (oldest first) with at most `chunk` prompt tokens, within `free_pages`;
/// `pages(i, t)` says what t tokens of the i-th take at most, `cut(i, t)` how many of t tokens a step may take of it, none
/// where fewer than t must not come apart.
pub(crate) fn plan(
    standings: &[Standing],
    chunk: usize,
    free_pages: usize,
    pages: impl Fn(usize, usize) -> usize,
    cut: impl Fn(usize, usize) -> usize,
) -> Vec<Share> {
    let mut shares = Vec::with_capacity(standings.len());
    let reserved: usize = standings.iter().map(|standing| standing.reserved).sum();
    let (mut free, mut spare) = (free_pages, free_pages.saturating_sub(reserved));
    let mut budget = chunk;
    // Two passes keep decoding sequences ahead of prompts without reordering the batch.
    for prefilling in [false, true] {
        for (index, standing) in standings.iter().enumerate() {
            if standing.prefilling != prefilling {
                continue;
            }
            let own = standing.reserved;
            let room = (spare + own).min(free);
            let mut tokens = if prefilling { standing.feedable.min(budget) } else { 1 };
            // What there would be without a shortage of pages says whether the sequence waits for pages or for a step.
            let whole = cut(index, tokens);
            if whole == 0 {
                continue;
            }
            while tokens > 1 && pages(index, cut(index, tokens)) > room {
                tokens /= 2;
            }
            let tokens = match cut(index, tokens) {
                0 => whole,
                tokens => tokens,
            };
            let taken = pages(index, tokens);
            if taken > room {
                // What is spare is saved up for the oldest that waits: the younger must not take it page by page.
                spare = 0;
                continue;
            }
            free -= taken;
            spare -= taken.saturating_sub(own);
            if prefilling {
                budget -= tokens;
            }
            shares.push(Share { index, tokens });
        }
    }
    shares.sort_unstable_by_key(|share| share.index);
    shares
}

#[cfg(test)]
mod tests {
    use super::*;

    const DECODES: Standing = Standing { prefilling: false, feedable: 1, reserved: 0 };

    fn prompt(feedable: usize, reserved: usize) -> Standing {
        Standing { prefilling: true, feedable, reserved }
    }

    /// Any cut will do.
    fn any(_index: usize, tokens: usize) -> usize {
        tokens
    }

    fn share(index: usize, tokens: usize) -> Share {
        Share { index, tokens }
    }

    #[test]
    fn those_that_decode_never_take_what_a_prompt_was_promised() {
        let standings = [DECODES, prompt(40, 3), DECODES];
        // Each token of a decoding sequence takes a page, 16 tokens of the prompt take one.
        let pages = |index: usize, tokens: usize| if index == 1 { tokens.div_ceil(16) } else { 1 };
        assert_eq!(plan(&standings, 64, 5, pages, any), [share(0, 1), share(1, 40), share(2, 1)]);
        assert_eq!(plan(&standings, 64, 4, pages, any), [share(0, 1), share(1, 40)]);
        assert_eq!(plan(&standings, 64, 3, pages, any), [share(1, 40)]);
    }

    #[test]
    fn the_younger_do_not_overtake_one_that_waits_for_pages() {
        let pages = |index: usize, _tokens: usize| [3, 1, 0][index];
        assert_eq!(plan(&[DECODES; 3], 64, 2, pages, any), [share(2, 1)]);
        assert_eq!(plan(&[DECODES; 3], 64, 3, pages, any), [share(0, 1), share(2, 1)]);
    }

    #[test]
    fn a_prompt_goes_in_smaller_pieces_where_memory_is_short() {
        let pages = |_index: usize, tokens: usize| tokens.div_ceil(8);
        assert_eq!(plan(&[prompt(100, 20)], 64, 3, pages, any), [share(0, 16)]);
        assert_eq!(plan(&[prompt(100, 20)], 64, 0, pages, any), []);
    }

    #[test]
    fn what_must_come_together_waits_for_a_step_that_holds_it() {
        // The last 20 of 50 tokens; the first sequence takes part of the first step.
        let cut = |index: usize, tokens: usize| match index {
            0 => tokens,
            _ if tokens >= 50 => tokens,
            _ => tokens.min(30),
        };
        let free = |_index: usize, _tokens: usize| 0;
        assert_eq!(plan(&[prompt(24, 0), prompt(50, 0)], 64, 0, free, cut), [share(0, 24), share(1, 30)]);
        let rest = |index: usize, tokens: usize| if index == 0 || tokens >= 20 { tokens } else { 0 };
        assert_eq!(plan(&[prompt(50, 0), prompt(20, 0)], 64, 0, free, rest), [share(0, 50)]);
        let pages = |_index: usize, tokens: usize| tokens;
        let alone = |_index: usize, tokens: usize| if tokens >= 20 { tokens } else { 0 };
        assert_eq!(plan(&[prompt(20, 0)], 64, 19, pages, alone), [], "it waits for its pages");
        assert_eq!(plan(&[prompt(20, 0)], 64, 20, pages, alone), [share(0, 20)]);
    }

    #[test]
    fn prompts_share_one_budget_in_their_order() {
        let free = |_index: usize, _tokens: usize| 0;
        let standings = [prompt(40, 0), DECODES, prompt(40, 0), prompt(40, 0)];
        assert_eq!(plan(&standings, 64, 0, free, any), [share(0, 40), share(1, 1), share(2, 24)]);
    }
}
