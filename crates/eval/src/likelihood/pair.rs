//! Where a context ends and its continuation begins, in tokens.

use super::Pair;
use crate::EvalError;
use crate::subject::Subject;

/// The tokens of a context and its continuation, and where the continuation begins.
///
/// As in lm-evaluation-harness: white space at the end of the context belongs to the continuation; the continuation's
/// tokens are those of both together beyond as many as the context has alone; an empty context is the token that begins a
/// text. None where the continuation has no token of its own: its text went into the context's last token.
pub(super) fn encode(
    subject: &Subject,
    pair: &Pair,
    place: &str,
) -> Result<Option<(Vec<u32>, usize)>, EvalError> {
    let tokenizer = &subject.tokenizer;
    let context = pair.context.trim_end();
    let mut ids =
        if context.is_empty() { subject.start.into_iter().collect() } else { tokenizer.encode(context)? };
    if ids.is_empty() {
        return Err(EvalError::NoStart { place: place.to_owned() });
    }
    let whole = tokenizer.encode(&format!("{}{}", pair.context, pair.continuation))?;
    // What stands in front of the continuation: the context's tokens, or what the tokenizer puts before every text.
    let before = match context.is_empty() {
        false => ids.len(),
        true => usize::from(subject.start.is_some() && whole.first().copied() == subject.start),
    };
    let from = ids.len();
    ids.extend(whole.into_iter().skip(before));
    if ids.len() == from {
        return Ok(None);
    }
    tokenizer.check_ids(&ids, subject.config.vocabulary)?;
    Ok(Some((ids, from)))
}
