//! Text files as tasks.

use std::path::{Path, PathBuf};

use dropcap_train::data::{Documents, tokenize_document};

use super::windows::{Span, rolling};
use crate::EvalError;
use crate::subject::Subject;

/// A text file in windows.
#[derive(Debug)]
pub struct TextTask {
    /// As the tables name it.
    pub name: String,
    /// Tokens of each window that are read first, as a prompt.
    pub(crate) context: usize,
    /// Tokens of each document, the one that begins a text in front.
    documents: Vec<Vec<u32>>,
    /// Document and window, in the order of the file.
    windows: Vec<(usize, Span)>,
}

impl TextTask {
    /// Reads a file: plain text whose documents are separated by lines `<|endoftext|>`, or JSON lines with `text`; either
    /// may be packed with xz. With a `limit` so many windows are taken, evenly spread over the file.
    ///
    /// Methods that prune where a prompt ends do so after the first `context` tokens of each window, and only what is read
    /// after them counts; with 0 all of it counts, and the prompt ends with the window.
    ///
    /// # Errors
    /// A file that cannot be read, a window that the model does not have, a text with nothing to predict.
    pub fn open(
        name: String,
        path: &Path,
        subject: &Subject,
        window: usize,
        context: usize,
        limit: Option<usize>,
    ) -> Result<Self, EvalError> {
        let positions = subject.config.max_positions;
        if window > positions {
            let what = format!("a window of {}", path.display());
            return Err(EvalError::TooLong { what, wanted: window, limit: positions });
        }
        let (mut documents, mut windows) = (Vec::new(), Vec::new());
        for (number, document) in Documents::open(path)?.enumerate() {
            let tokens = tokenize_document(path, &document?, &subject.tokenizer, subject.team.threads())?;
            let ids: Vec<u32> = subject.start.into_iter().chain(tokens).collect();
            subject.tokenizer.check_ids(&ids, subject.config.vocabulary)?;
            let spans = rolling(ids.len(), window).into_iter().filter(|span| span.inputs.len() > context);
            windows.extend(spans.map(|span| (number, span)));
            documents.push(ids);
        }
        if windows.is_empty() {
            return Err(EvalError::NoTokens { path: PathBuf::from(path) });
        }
        Ok(Self { name, context, documents, windows: spread(windows, limit) })
    }

    /// How many windows there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.windows.len()
    }

    /// Whether there is none, which is never so.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.windows.is_empty()
    }

    /// The tokens of all windows, each without its last target.
    #[must_use]
    pub fn windows(&self) -> Vec<Vec<u32>> {
        (0..self.len())
            .map(|number| {
                let ids = self.window(number).1;
                ids[..ids.len() - 1].to_vec()
            })
            .collect()
    }

    /// One window: the number of its document, its tokens with the last target, and from where on predictions count.
    pub(crate) fn window(&self, number: usize) -> (usize, &[u32], usize) {
        let (document, span) = &self.windows[number];
        (
            *document,
            &self.documents[*document][span.inputs.start..=span.inputs.end],
            span.first.max(self.context),
        )
    }
}

/// As many as `limit` allows, evenly spread.
fn spread<T>(all: Vec<T>, limit: Option<usize>) -> Vec<T> {
    let (count, taken) = (all.len(), limit.unwrap_or(usize::MAX).min(all.len()).max(1));
    let chosen = |index: usize| index * taken / count != (index + 1) * taken / count;
    all.into_iter().enumerate().filter(|&(index, _)| chosen(index)).map(|(_, item)| item).collect()
}

#[cfg(test)]
mod tests {
    use super::spread;

    #[test]
    fn a_limit_takes_evenly_from_the_whole() {
        let all: Vec<usize> = (0..10).collect();
        assert_eq!(spread(all.clone(), None), all);
        assert_eq!(spread(all.clone(), Some(20)), all);
        for limit in 1..10 {
            let taken = spread(all.clone(), Some(limit));
            assert_eq!(taken.len(), limit);
            let widest = taken.windows(2).map(|pair| pair[1] - pair[0]).max().unwrap_or(0);
            assert!(widest <= 10_usize.div_ceil(limit), "{taken:?}");
        }
    }
}
