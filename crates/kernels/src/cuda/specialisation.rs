//! What the kernels of one model and one cache are compiled for.

use crate::{CodeBits, DType, KvFormat, RowFormat};

/// Sizes and formats that are constants in the kernels.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Specialisation {
    /// Format of weights and of activations beside the residual stream.
    pub weights: DType,
    /// Format of side channels, and of keys and values that are numbers.
    pub cache: DType,
    /// Bits of values that are codes, as keys of 8 bits are then; none where the cache holds numbers.
    pub codes: Option<CodeBits>,
    /// Query heads h.
    pub query_heads: usize,
    /// KV heads g.
    pub kv_heads: usize,
    /// Lanes of each layer: 1 or g.
    pub groups: usize,
    /// Head width d.
    pub head_dim: usize,
    /// Width of the residual stream c.
    pub hidden: usize,
    /// Gate width r, or 0 without gates.
    pub side_width: usize,
    /// f32 sums beside each entry: 1 where entries are ranked, or 0.
    pub statistics: usize,
}

impl Specialisation {
    /// For kernels that read none of these constants: one compilation serves every model.
    pub const NEUTRAL: Self = Self {
        weights: DType::F32,
        cache: DType::F32,
        codes: None,
        query_heads: 1,
        kv_heads: 1,
        groups: 1,
        head_dim: 8,
        hidden: 8,
        side_width: 0,
        statistics: 0,
    };

    /// What stands for a format of the cache: its side channels' format, and the bits of its values.
    #[must_use]
    pub fn of_cache(format: KvFormat) -> (DType, Option<CodeBits>) {
        match format.values() {
            RowFormat::Numbers(dtype) => (dtype, None),
            RowFormat::Codes(bits) => (format.elements(), Some(bits)),
        }
    }

    /// The format that [`Specialisation::of_cache`] took apart.
    #[must_use]
    pub fn format(&self) -> KvFormat {
        match self.codes {
            None => self.cache.into(),
            Some(CodeBits::Eight) => KvFormat::Q8,
            Some(CodeBits::Four) => KvFormat::Q4,
        }
    }

    /// Bytes of a page: the keys and values of 32 entries for the heads of a lane, their key gates, what the cache
    /// knows of each entry, and its statistics. The layout is that of `prelude.cuh`.
    #[must_use]
    pub fn page_bytes(&self) -> usize {
        let rows = self.key_value_bytes() + self.side_width * self.cache.bytes();
        (crate::PAGE_ENTRIES * rows).next_multiple_of(128) + (3 + self.statistics) * 4 * crate::PAGE_ENTRIES
    }

    /// Live bytes of one entry of a lane.
    #[must_use]
    pub fn entry_bytes(&self) -> usize {
        self.page_bytes() / crate::PAGE_ENTRIES
    }

    /// Bytes of one head's row of keys and of values in a page, and words of steps beside each.
    pub(crate) fn rows(&self) -> [(usize, usize); 2] {
        let of = |bits: CodeBits| (self.head_dim * bits.bits() / 8, self.head_dim.div_ceil(bits.group()));
        match self.codes {
            None => [(self.head_dim * self.cache.bytes(), 0); 2],
            Some(bits) => [of(CodeBits::Eight), of(bits)],
        }
    }

    /// Bytes of the keys and values of one entry.
    #[must_use]
    pub fn key_value_bytes(&self) -> usize {
        let head: usize = self.rows().into_iter().map(|(bytes, steps)| bytes + 4 * steps).sum();
        self.kv_heads / self.groups * head
    }

    /// The definitions that the kernels read.
    pub(crate) fn defines(&self) -> Vec<String> {
        let code = |dtype| match dtype {
            DType::F32 => 0,
            DType::F16 => 1,
            DType::Bf16 => 2,
        };
        [
            ("WEIGHT_TYPE", code(self.weights)),
            ("CACHE_TYPE", code(self.cache)),
            ("CODE_BITS", self.codes.map_or(0, CodeBits::bits)),
            ("QUERY_HEADS", self.query_heads),
            ("KV_HEADS", self.kv_heads),
            ("GROUPS", self.groups),
            ("HEAD_DIM", self.head_dim),
            ("HIDDEN", self.hidden),
            ("SIDE_WIDTH", self.side_width),
            ("STATISTICS", self.statistics),
        ]
        .map(|(name, value)| format!("--define-macro={name}={value}"))
        .into()
    }
}
