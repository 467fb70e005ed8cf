//! Definitions in languages of braces: a block is one by the words before it.

use super::{line_end, line_start};
use crate::Language;

/// What a block is to those around it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Block {
    /// A function or a type, which is looked at no further.
    Definition,
    /// Something that holds definitions.
    Container,
    /// Anything else.
    Other,
}

/// Words that say what the block behind them is, the first of them.
const WORDS: [(&str, Block); 19] = [
    ("fn", Block::Definition),
    ("func", Block::Definition),
    ("function", Block::Definition),
    ("type", Block::Definition),
    ("struct", Block::Definition),
    ("enum", Block::Definition),
    ("union", Block::Definition),
    ("record", Block::Definition),
    ("macro_rules", Block::Definition),
    ("impl", Block::Container),
    ("trait", Block::Container),
    ("mod", Block::Container),
    ("class", Block::Container),
    ("interface", Block::Container),
    ("namespace", Block::Container),
    ("module", Block::Container),
    ("extern", Block::Container),
    ("object", Block::Container),
    ("unsafe", Block::Other),
];
/// Words before the parentheses of what is no function.
const CONTROL: [&str; 12] =
    ["if", "for", "while", "switch", "catch", "match", "return", "with", "synchronized", "do", "else", "new"];

/// Where definitions begin, with what is said above them, and where the lines behind them begin.
pub(super) fn borders(text: &str, code: &[u8], language: Language) -> Vec<usize> {
    let mut borders = Vec::new();
    let mut open: Vec<(Block, usize)> = Vec::new();
    // Depth of blocks that are no containers, of parentheses, and where the words before the next block begin.
    let (mut inside, mut round, mut head) = (0_usize, 0_usize, 0);
    for (at, &byte) in code.iter().enumerate() {
        match byte {
            b'(' | b'[' => round += 1,
            b')' | b']' => round = round.saturating_sub(1),
            b';' if round == 0 => head = at + 1,
            b'{' => {
                let block = match inside == 0 && round == 0 {
                    true => block(&code[head..at], language),
                    false => Block::Other,
                };
                if block != Block::Other {
                    borders.push(beginning(text.as_bytes(), code, head, at));
                }
                inside += usize::from(block != Block::Container);
                open.push((block, round));
                (head, round) = (at + 1, 0);
            }
            b'}' => {
                let (block, before) = open.pop().unwrap_or((Block::Container, 0));
                inside -= usize::from(block != Block::Container);
                (head, round) = (at + 1, before);
                if block != Block::Other {
                    borders.push(line_end(code, at));
                }
            }
            _ => {}
        }
    }
    borders
}

/// What the words before a brace make of it.
fn block(head: &[u8], language: Language) -> Block {
    let head = String::from_utf8_lossy(head);
    let words = || {
        head.split(|letter: char| !letter.is_alphanumeric() && letter != '_').filter(|word| !word.is_empty())
    };
    let known = |word: &str| WORDS.iter().find(|(known, _)| *known == word).map(|(_, block)| *block);
    // `extern "C" fn` and `unsafe impl` are what follows; alone they are blocks of their own.
    let said = words().filter(|word| !matches!(*word, "extern" | "unsafe")).find_map(known);
    let bare = || words().next_back().and_then(known).unwrap_or(Block::Other);
    match (said, language) {
        (Some(block), _) => block,
        (None, Language::Rust | Language::Go) => bare(),
        (None, Language::JavaScript) if head.contains("=>") => Block::Definition,
        (None, _) => {
            match head.split_once('(') {
                Some((before, _))
                    if !before.contains('=')
                        && !words().next().is_some_and(|word| CONTROL.contains(&word)) =>
                {
                    if before.trim().is_empty() { Block::Other } else { Block::Definition }
                }
                _ => bare(),
            }
        }
    }
}

/// The line that the words in `head..brace` begin at, with the lines above that touch it.
fn beginning(text: &[u8], code: &[u8], head: usize, brace: usize) -> usize {
    let first =
        code[head..brace].iter().position(|byte| !byte.is_ascii_whitespace()).map_or(brace, |at| head + at);
    let mut start = line_start(text, first);
    while start > head {
        let above = line_start(text, start - 1);
        if above < head || text[above..start].trim_ascii().is_empty() {
            break;
        }
        start = above;
    }
    start
}
