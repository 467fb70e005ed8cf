//! Why a sequence does not fit, in numbers that add up for their reader.

use std::fmt;

use dropcap_kernels::PAGE_ENTRIES;

/// A sequence that cannot go on although nobody else holds a page: what it holds, what it needs on top, and what
/// there is. A page belongs to one lane (a layer, or one KV head of a layer), so a text that has filled its last
/// pages needs one in each of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shortage {
    /// Tokens of the prompt, where it was refused before it ran; otherwise tokens that are in the cache.
    pub tokens: usize,
    /// Pages that the sequence holds; 0 where it was refused before it ran.
    pub held_pages: usize,
    /// Pages that it needs on top of them, all lanes together.
    pub wanted_pages: usize,
    /// Lanes of a sequence, all layers together.
    pub lanes: usize,
    /// Bytes of one page.
    pub page_bytes: usize,
    /// The cap on all pages in bytes.
    pub limit_bytes: usize,
}

impl fmt::Display for Shortage {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { tokens, held_pages, wanted_pages, lanes, page_bytes, limit_bytes } = *self;
        out.write_str("out of memory for the KV cache: ")?;
        if held_pages == 0 {
            write!(out, "a prompt of {tokens} tokens needs {wanted_pages} pages")?;
        } else {
            write!(
                out,
                "after {tokens} tokens the sequence holds {held_pages} pages and needs {wanted_pages} more, {} pages",
                held_pages + wanted_pages
            )?;
        }
        let total = held_pages.saturating_add(wanted_pages).saturating_mul(page_bytes);
        write!(
            out,
            " of {page_bytes} bytes ({PAGE_ENTRIES} tokens of one of its {lanes} lanes each), {} together; the cap of {} \
             has room for {} pages: raise the cap, shorten the prompt, or prune more",
            Bytes(total),
            Bytes(limit_bytes),
            limit_bytes / page_bytes.max(1),
        )
    }
}

/// A size as a number and, where it is a round one, in the unit that people write it in.
pub(crate) struct Bytes(pub(crate) usize);

impl fmt::Display for Bytes {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{} bytes", self.0)?;
        let units = [("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)];
        match units.into_iter().find(|&(_, unit)| self.0 >= unit && self.0.is_multiple_of(unit)) {
            Some((name, unit)) => write!(out, " ({} {name})", self.0 / unit),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shortage_names_every_number_of_its_sum() {
        let shortage = Shortage {
            tokens: 512,
            held_pages: 64,
            wanted_pages: 8,
            lanes: 8,
            page_bytes: 2048,
            limit_bytes: 150 << 10,
        };
        let text = shortage.to_string();
        for words in
            ["512 tokens", "holds 64 pages", "needs 8 more", "72 pages of 2048", "147456 bytes (144 KiB)"]
        {
            assert!(text.contains(words), "{text}");
        }
        assert!(text.contains("the cap of 153600 bytes (150 KiB) has room for 75 pages"), "{text}");
    }
}
