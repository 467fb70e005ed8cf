//! Which model a file of learned parameters was made for.

use std::fmt;
use std::str::FromStr;

/// A model's identity: its architecture, its dimensions and a digest of its stored weights.
///
/// As text: `llama/l2/c128/h8/g4/d16/v2048/0123456789abcdef0123456789abcdef`, in the alphabet of the shapes
/// (layers l, hidden c, query heads h, KV heads g, head_dim d, vocabulary v), then the digest in hexadecimal.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Fingerprint {
    /// The family's name, such as `llama`.
    pub family: String,
    /// Number of layers.
    pub layers: usize,
    /// Width of the residual stream, c.
    pub hidden: usize,
    /// Number of query heads, h.
    pub heads: usize,
    /// Number of KV heads, g.
    pub kv_heads: usize,
    /// Width of one head, d.
    pub head_dim: usize,
    /// Number of tokens in the vocabulary, v.
    pub vocabulary: usize,
    /// Digest of the stored weights, see [`crate::ContentDigest`].
    pub content: u128,
}

/// The text is not a fingerprint.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{got} is not a fingerprint, which looks like llama/l2/c128/h8/g4/d16/v2048/ and 32 hexadecimal digits"
)]
pub struct FingerprintError {
    /// The text given, quoted.
    pub got: String,
}

impl Fingerprint {
    /// Says in words where two fingerprints differ, one line each; empty when they are equal.
    pub fn differences(&self, found: &Self) -> Vec<String> {
        let mut lines = Vec::new();
        let mut compare = |what: &str, ours: String, theirs: String| {
            if ours != theirs {
                lines.push(format!("{what}: expected {ours}, found {theirs}"));
            }
        };
        compare("family", self.family.clone(), found.family.clone());
        for (what, ours, theirs) in [
            ("layers", self.layers, found.layers),
            ("hidden width", self.hidden, found.hidden),
            ("query heads", self.heads, found.heads),
            ("KV heads", self.kv_heads, found.kv_heads),
            ("head width", self.head_dim, found.head_dim),
            ("vocabulary", self.vocabulary, found.vocabulary),
        ] {
            compare(what, ours.to_string(), theirs.to_string());
        }
        compare("digest of the weights", format!("{:032x}", self.content), format!("{:032x}", found.content));
        lines
    }
}

impl fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { family, layers, hidden, heads, kv_heads, head_dim, vocabulary, content } = self;
        write!(
            f,
            "{family}/l{layers}/c{hidden}/h{heads}/g{kv_heads}/d{head_dim}/v{vocabulary}/{content:032x}"
        )
    }
}

impl FromStr for Fingerprint {
    type Err = FingerprintError;

    fn from_str(text: &str) -> Result<Self, FingerprintError> {
        parse(text).ok_or_else(|| FingerprintError { got: crate::error::quoted(text) })
    }
}

fn parse(text: &str) -> Option<Fingerprint> {
    let mut parts = text.split('/');
    let family = parts.next().filter(|name| !name.is_empty())?.to_owned();
    let mut number = |letter: char| parts.next()?.strip_prefix(letter)?.parse::<usize>().ok();
    let (layers, hidden, heads) = (number('l')?, number('c')?, number('h')?);
    let (kv_heads, head_dim, vocabulary) = (number('g')?, number('d')?, number('v')?);
    let digits = parts.next().filter(|digits| digits.len() == 32)?;
    let content = u128::from_str_radix(digits, 16).ok()?;
    let all = Fingerprint { family, layers, hidden, heads, kv_heads, head_dim, vocabulary, content };
    parts.next().is_none().then_some(all)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fingerprint_survives_its_text() {
        let mark = Fingerprint {
            family: "llama".into(),
            layers: 2,
            hidden: 128,
            heads: 8,
            kv_heads: 4,
            head_dim: 16,
            vocabulary: 2048,
            content: 0x1234,
        };
        assert_eq!(mark.to_string().parse::<Fingerprint>().as_ref(), Ok(&mark));
        let other = Fingerprint { layers: 3, content: 1, ..mark.clone() };
        assert_eq!(mark.differences(&other).len(), 2);
        assert!(mark.differences(&mark).is_empty());
        for wrong in ["", "llama", "llama/l2/c128/h8/g4/d16/v2048/xyz", &format!("{mark}/")] {
            assert!(wrong.parse::<Fingerprint>().is_err(), "{wrong}");
        }
    }
}
