//! How finely a policy decides.

/// Whether all KV heads of a layer forget together or each on its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Granularity {
    /// One lane per layer, holding all g KV heads: an entry lives or dies for the whole layer.
    Layer,
    /// One lane per KV head: heads may keep different entries.
    KvHead,
}

impl Granularity {
    /// The coarsest granularity that can express both: [`Granularity::KvHead`] as soon as one of them needs it.
    #[must_use]
    pub fn finer(self, other: Self) -> Self {
        self.max(other)
    }
}
