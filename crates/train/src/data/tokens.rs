//! Documents to tokens.

use std::path::Path;

use dropcap_model::{MAX_TEXT_BYTES, Tokenizer};

use super::answers::Answers;
use super::documents::{Document, Documents, Form};
use super::examples::{self, Example};
use super::language::Language;
use crate::TrainError;

/// A piece of a document is cut at the first good place after so many bytes.
const PIECE_BYTES: usize = 64 << 10;
/// A piece is cut at any line break after so many bytes.
const FORCED_BYTES: usize = 1 << 20;

/// Documents that are tokenized together, where each is small.
const TOGETHER: usize = 256;
/// Bytes of text after which no more documents join them.
const TOGETHER_BYTES: usize = 1 << 20;

/// The tokens of a source, and what of them is learned.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Tokenized {
    /// The tokens of each document between its borders.
    pub ids: Vec<u32>,
    /// What is learned; all of it where there is none.
    pub answers: Option<Answers>,
}

/// Tokenizes a file: the tokens of each document between its borders.
///
/// A token that both ends and begins texts stands once between two texts. Long documents are tokenized in pieces, cut between two lines of text, where
/// the common tokenizers never join; `threads` work on the pieces, and the result does not depend on their number.
/// `progress` gets the number of tokens so far.
///
/// Of prompts with completions and of conversations the answers are learned, with the token that ends them.
///
/// # Errors
/// What [`Documents`] refuses; text that the tokenizer fails on and a conversation that the template refuses, with the line
/// that the document begins at.
pub fn tokenize(
    path: &Path,
    language: &Language<'_>,
    threads: usize,
    progress: &mut dyn FnMut(u64),
) -> Result<Tokenized, TrainError> {
    let Language { tokenizer, borders, .. } = language;
    let mut out = Tokenized::default();
    let (mut waiting, mut bytes) = (Vec::new(), 0);
    for document in Documents::open(path)? {
        let document = document?;
        if document.said.form() == Form::Text {
            if out.ids.is_empty() || borders.begin != borders.end {
                out.ids.extend(&borders.begin);
            }
            tokenize_into(path, &document, tokenizer, threads, &mut out.ids, progress)?;
            out.ids.extend(&borders.end);
            continue;
        }
        bytes += document.said.text().len();
        waiting.push(document);
        if waiting.len() == TOGETHER || bytes >= TOGETHER_BYTES {
            encode_examples(path, &waiting, language, threads, &mut out)?;
            progress(out.ids.len() as u64);
            (waiting, bytes) = (Vec::new(), 0);
        }
    }
    if !waiting.is_empty() {
        encode_examples(path, &waiting, language, threads, &mut out)?;
    }
    Ok(out)
}

/// Appends examples, in their order.
fn encode_examples(
    path: &Path,
    documents: &[Document],
    language: &Language<'_>,
    threads: usize,
    out: &mut Tokenized,
) -> Result<(), TrainError> {
    let encoded = shared_out(documents, threads, &|document| examples::encode(language, document));
    let answers = out.answers.get_or_insert_default();
    for (document, example) in documents.iter().zip(encoded) {
        let refused = |reason| TrainError::DataLine { path: path.to_path_buf(), line: document.line, reason };
        let Example { ids, answers: spans, unplaced } = example.map_err(refused)?;
        let start = out.ids.len() as u64;
        answers.starts.push(start);
        answers.spans.extend(spans.iter().map(|span| start + span.start as u64..start + span.end as u64));
        answers.unplaced += unplaced as u64;
        out.ids.extend(ids);
    }
    Ok(())
}

/// The tokens of one document of `path`, without borders: those that any other program makes of it, because it is not cut
/// unless it is longer than [`MAX_TEXT_BYTES`]. Longer ones are cut as [`tokenize`] does, which a tokenizer that begins every
/// text with a space of its own shows by a token at each cut.
///
/// # Errors
/// Text that the tokenizer fails on, with the line that the document begins at.
pub fn tokenize_document(
    path: &Path,
    document: &Document,
    tokenizer: &Tokenizer,
    threads: usize,
) -> Result<Vec<u32>, TrainError> {
    let text = document.said.text();
    if text.len() <= MAX_TEXT_BYTES {
        return Ok(encode(path, document, &[&text], tokenizer, 1)?.concat());
    }
    let mut out = Vec::new();
    tokenize_into(path, document, tokenizer, threads, &mut out, &mut |_| {})?;
    Ok(out)
}

fn tokenize_into(
    path: &Path,
    document: &Document,
    tokenizer: &Tokenizer,
    threads: usize,
    out: &mut Vec<u32>,
    progress: &mut dyn FnMut(u64),
) -> Result<(), TrainError> {
    for group in pieces(&document.said.text()).chunks(threads.max(1) * 4) {
        for tokens in encode(path, document, group, tokenizer, threads)? {
            out.extend(tokens);
        }
        progress(out.len() as u64);
    }
    Ok(())
}

/// The tokens of each piece.
fn encode(
    path: &Path,
    document: &Document,
    pieces: &[&str],
    tokenizer: &Tokenizer,
    threads: usize,
) -> Result<Vec<Vec<u32>>, TrainError> {
    let one = |piece: &&str| {
        // What the tokenizer puts around a piece is control tokens, and text never becomes one.
        let encoded = tokenizer.encode(piece);
        encoded.map(|mut ids| {
            ids.retain(|&id| !tokenizer.is_control(id));
            ids
        })
    };
    let results = shared_out(pieces, threads, &one);
    let refused = |error: dropcap_model::ModelError| TrainError::DataLine {
        path: path.to_path_buf(),
        line: document.line,
        reason: format!("the document that begins here cannot be tokenized: {error}"),
    };
    results.into_iter().map(|result| result.map_err(refused)).collect()
}

/// What `one` makes of each item, on several threads.
fn shared_out<I: Sync, T: Send>(items: &[I], threads: usize, one: &(dyn Fn(&I) -> T + Sync)) -> Vec<T> {
    let share = items.len().div_ceil(threads.max(1)).max(1);
    if items.len() < 2 || threads < 2 {
        return items.iter().map(one).collect();
    }
    std::thread::scope(|scope| {
        let parts: Vec<_> = items
            .chunks(share)
            .map(|part| scope.spawn(move || part.iter().map(one).collect::<Vec<_>>()))
            .collect();
        let joined = parts.into_iter().map(|part| part.join());
        joined.flat_map(|part| part.unwrap_or_else(|panic| std::panic::resume_unwind(panic))).collect()
    })
}

/// Cuts a text where a line of text follows directly on a line of text: there the break is a token of its own for
/// every pattern that splits at white space.
pub(crate) fn pieces(text: &str) -> Vec<&str> {
    let (mut pieces, mut begin) = (Vec::new(), 0);
    for (at, _) in text.match_indices('\n') {
        let (next, length) = (at + 1, at + 1 - begin);
        if length < PIECE_BYTES || next == text.len() {
            continue;
        }
        let before = text[..at].chars().next_back().is_some_and(|c| !c.is_whitespace());
        let after = text[next..].chars().next().is_some_and(|c| !c.is_whitespace());
        if (before && after) || length >= FORCED_BYTES {
            pieces.push(&text[begin..next]);
            begin = next;
        }
    }
    pieces.push(&text[begin..]);
    pieces
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_are_the_whole_text_cut_between_lines_of_text() {
        let line = "word ".repeat(200);
        let paragraph = format!("{}\n\n", [line.trim_end(); 9].join("\n"));
        let text = paragraph.repeat(40);
        let found = pieces(&text);
        assert!(found.len() > 4);
        assert_eq!(found.concat(), text);
        for piece in &found[..found.len() - 1] {
            assert!(piece.len() >= PIECE_BYTES && piece.ends_with("d\n"));
        }
        // Blank lines all over: no good place, so a forced one.
        let blank = "x\n\n".repeat(1 << 20);
        let found = pieces(&blank);
        assert!(found.len() == 3 && found.concat() == blank);
        assert_eq!(pieces("short\ntext"), ["short\ntext"]);
    }
}
