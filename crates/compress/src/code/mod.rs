//! Where a text may be cut: before and behind its functions and types, or between paragraphs.
//!
//! The rules look at comments, strings, braces, indentation and the words before a block, and never fail: where they are
//! wrong, a border falls elsewhere, and no text is lost. LongCodeZip cuts by a regular expression for each language, which
//! takes `if (x) {` of C++ for a function and does not see `pub(crate) fn`.

mod braces;
mod indents;
mod masked;

use std::ops::Range;

use crate::{Fences, Language};

/// The chunks of a text, which are all of it, in order: functions with their comments and attributes, types, the heads of
/// what holds functions, and what lies between; paragraphs of prose. No chunk begins or ends within a fenced block.
#[must_use]
pub fn chunks(text: &str, language: Language) -> Vec<Range<usize>> {
    let mut borders = match language {
        Language::Text => paragraphs(text),
        Language::Python => indents::borders(text, &masked::masked(text, language)),
        _ => braces::borders(text, &masked::masked(text, language), language),
    };
    let fences = Fences::of(text);
    borders.retain(|&at| at > 0 && at < text.len() && !fences.hold(at));
    borders.sort_unstable();
    borders.dedup();
    let ends = borders.iter().copied().chain([text.len()]);
    let mut chunks: Vec<Range<usize>> = Vec::new();
    let mut start = 0;
    for end in ends {
        // A closing brace or blank lines are no chunk.
        let says_something = text[start..end].chars().any(char::is_alphanumeric);
        match chunks.last_mut() {
            Some(last) if !says_something => last.end = end,
            None if !says_something && end < text.len() => continue,
            _ => chunks.push(start..end),
        }
        start = end;
    }
    chunks.retain(|chunk| !chunk.is_empty());
    chunks
}

/// The first bytes of paragraphs.
fn paragraphs(text: &str) -> Vec<usize> {
    let mut borders = Vec::new();
    let (mut at, mut blank) = (0, true);
    for line in text.split_inclusive('\n') {
        let is_blank = line.trim().is_empty();
        if blank && !is_blank {
            borders.push(at);
        }
        blank = is_blank;
        at += line.len();
    }
    borders
}

/// The byte behind the line that `at` is in.
fn line_end(text: &[u8], at: usize) -> usize {
    text[at..].iter().position(|&byte| byte == b'\n').map_or(text.len(), |length| at + length + 1)
}

/// The first byte of the line that `at` is in.
fn line_start(text: &[u8], at: usize) -> usize {
    text[..at].iter().rposition(|&byte| byte == b'\n').map_or(0, |end| end + 1)
}

#[cfg(test)]
mod tests;
