//! How long a text is, as far as its memory goes.

/// A text that goes in, or is in already.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TextSize {
    /// Tokens of its prompt, at most all of them.
    pub prompt: usize,
    /// Its tokens.
    pub tokens: usize,
    /// The budget that it set itself ([`crate::Span::budget`]).
    pub budget: Option<u32>,
}

impl TextSize {
    /// A text under the method's own budget.
    #[must_use]
    pub fn new(prompt: usize, tokens: usize) -> Self {
        Self { prompt, tokens, budget: None }
    }
}
