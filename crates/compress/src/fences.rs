//! Fenced blocks of Markdown, which stay whole or go whole.

use std::ops::Range;

/// Where the fenced blocks of a text are, their fences with them. A fence that is never closed fences nothing.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Fences(Vec<Range<usize>>);

impl Fences {
    /// Finds them: three or more backticks or tildes at the beginning of a line, indented by three spaces at most, up to a
    /// line of at least as many of the same.
    #[must_use]
    pub fn of(text: &str) -> Self {
        let mut blocks = Vec::new();
        let mut open: Option<(usize, char, usize)> = None;
        let mut at = 0;
        for line in text.split_inclusive('\n') {
            let end = at + line.len();
            if let Some((mark, width, rest)) = fence(line) {
                match open {
                    None => open = Some((at, mark, width)),
                    Some((begin, opened, least))
                        if mark == opened && width >= least && rest.trim().is_empty() =>
                    {
                        blocks.push(begin..end);
                        open = None;
                    }
                    Some(_) => {}
                }
            }
            at = end;
        }
        Self(blocks)
    }

    /// Whether a cut at this byte would go through a block.
    #[must_use]
    pub fn hold(&self, at: usize) -> bool {
        let next = self.0.partition_point(|block| block.end <= at);
        self.0.get(next).is_some_and(|block| block.start < at)
    }
}

/// The mark of a line that is a fence, how many there are, and what follows them.
fn fence(line: &str) -> Option<(char, usize, &str)> {
    let text = line.trim_start_matches(' ');
    let mark = text.chars().next().filter(|mark| matches!(mark, '`' | '~'))?;
    let rest = text.trim_start_matches(mark);
    let width = text.len() - rest.len();
    let opens = width >= 3 && line.len() - text.len() <= 3 && !(mark == '`' && rest.contains('`'));
    opens.then_some((mark, width, rest))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_block_reaches_from_fence_to_fence() {
        let text = "a\n```rust\nlet x = 1;\n~~~\n```\nb\n   ~~~~\n~~~\n~~~~~\n";
        let blocks: Vec<&str> = Fences::of(text).0.iter().map(|block| &text[block.clone()]).collect();
        assert_eq!(blocks, ["```rust\nlet x = 1;\n~~~\n```\n", "   ~~~~\n~~~\n~~~~~\n"]);
    }

    #[test]
    fn what_is_no_fence_or_never_closed_holds_nothing() {
        for text in ["```\nopen", "``\na\n``\n", "    ```\na\n    ```\n", "a ``` b\n```x```\n", ""] {
            assert_eq!(Fences::of(text), Fences::default(), "{text:?}");
        }
    }

    #[test]
    fn borders_of_a_block_may_be_cut_and_its_inside_not() {
        let fences = Fences::of("a\n```\nb\n```\nc");
        let held: Vec<usize> = (0..=13).filter(|&at| fences.hold(at)).collect();
        assert_eq!(held, (3..12).collect::<Vec<_>>());
    }
}
