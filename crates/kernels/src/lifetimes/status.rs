//! What a step leaves behind: the words that a reclaim writes, and what they mean.

/// The words of a reclaim: the pool's first, then those of each span.
#[derive(Debug, Clone, Copy)]
pub struct StepStatus<'a>(&'a [u32]);

/// What a step leaves of the sequence of a span; zeros for padding.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct SpanStatus {
    /// Lanes whose length is a multiple of 32: pages that one more token takes.
    pub wanted: usize,
    /// Pages that its lanes hold.
    pub pages: usize,
    /// Their live entries.
    pub live: usize,
    /// The first number, since its slot was cleared, that the pages could not hold.
    pub overflow: Option<CacheOverflow>,
}

/// A number that became infinite, or NaN, when it was rounded to the format of the cache: whatever attends to its entry,
/// or decides by it, is wrong from then on.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct CacheOverflow {
    /// `key`, `value` or `side channel`.
    pub what: &'static str,
    /// Position of its token.
    pub position: u32,
    /// Its layer.
    pub layer: usize,
    /// What it was, rounded away from zero to eight bits.
    pub number: f32,
}

impl<'a> StepStatus<'a> {
    const POOL_WORDS: usize = 2;
    pub(super) const SPAN_WORDS: usize = 5;

    /// Words of a step of so many spans.
    #[must_use]
    pub const fn words(spans: usize) -> usize {
        Self::POOL_WORDS + Self::SPAN_WORDS * spans
    }

    /// Reads the words of a step.
    ///
    /// # Panics
    /// Fewer words than the pool has.
    #[must_use]
    pub fn new(words: &'a [u32]) -> Self {
        assert!(words.len() >= Self::POOL_WORDS, "a status without its first words");
        Self(words)
    }

    /// Pages that no lane holds.
    #[must_use]
    pub fn free_pages(&self) -> usize {
        self.0[0] as usize
    }

    /// Lanes that could not grow in this step.
    #[must_use]
    pub fn refused(&self) -> usize {
        self.0[1] as usize
    }

    /// What is left of a span's sequence.
    ///
    /// # Panics
    /// No such span.
    #[must_use]
    pub fn span(&self, span: usize) -> SpanStatus {
        let words = &self.0[Self::words(span)..Self::words(span + 1)];
        let [wanted, pages, live] = [0, 1, 2].map(|i| words[i] as usize);
        SpanStatus { wanted, pages, live, overflow: CacheOverflow::read(words[3], words[4]) }
    }
}

impl CacheOverflow {
    pub(crate) const KEY: usize = 0;
    pub(crate) const VALUE: usize = 1;
    pub(crate) const SIDE_CHANNEL: usize = 2;
    const WHAT: [&'static str; 3] = ["key", "value", "side channel"];
    /// Layers from here on are told as this one.
    pub(crate) const MOST_LAYER: usize = (1 << 14) - 1;

    /// One number of 64 bits, the least of which comes first: position, 14 bits of layer, 2 of what it is, and the upper
    /// half of the number as f32. All bits set are none.
    fn read(low: u32, position: u32) -> Option<Self> {
        let what = Self::WHAT.get((low >> 16 & 3) as usize)?;
        Some(Self { what, position, layer: (low >> 18) as usize, number: f32::from_bits(low << 16) })
    }
}
