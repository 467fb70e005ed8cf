//! The JSON header as it stands in the file: read under caps, not yet believed.

use std::collections::BTreeMap;
use std::fmt;

use serde::Deserialize;
use serde::de::{self, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};

/// Longest header that is read, in bytes: the limit of the `safetensors` crate.
pub const MAX_HEADER_BYTES: u64 = 100_000_000;
/// Most tensors in one file. The largest published mixtures of experts have about 60 000 in all their shards.
pub const MAX_TENSORS: usize = 100_000;
/// The entry of a header that is no tensor.
pub(crate) const METADATA: &str = "__metadata__";
/// Most dimensions of one tensor.
pub const MAX_RANK: usize = 16;

/// A header as written: nothing in it has been compared with anything.
#[derive(Debug, Default)]
pub(crate) struct RawHeader {
    /// The free-form `__metadata__`.
    pub(crate) metadata: BTreeMap<String, String>,
    /// Tensors in the order of the file, at most [`MAX_TENSORS`] of them.
    pub(crate) tensors: Vec<(String, RawTensor)>,
    /// Tensors listed, those past the cap included.
    pub(crate) listed: usize,
}

/// One tensor's entry as written.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct RawTensor {
    pub(crate) dtype: String,
    pub(crate) shape: RawShape,
    pub(crate) data_offsets: (u64, u64),
}

/// A shape as written, at most [`MAX_RANK`] dimensions of it.
#[derive(Debug)]
pub(crate) struct RawShape {
    pub(crate) dims: Vec<u64>,
    /// Dimensions listed, those past the cap included.
    pub(crate) rank: usize,
}

impl<'de> Deserialize<'de> for RawHeader {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Entries;
        impl<'de> Visitor<'de> for Entries {
            type Value = RawHeader;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object of tensors")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<RawHeader, A::Error> {
                let mut header = RawHeader::default();
                let mut metadata: Option<UniqueStrings> = None;
                while let Some(name) = map.next_key::<String>()? {
                    if name == METADATA {
                        if metadata.replace(map.next_value()?).is_some() {
                            return Err(de::Error::duplicate_field(METADATA));
                        }
                        continue;
                    }
                    if header.listed < MAX_TENSORS {
                        header.tensors.push((name, map.next_value()?));
                    } else {
                        map.next_value::<IgnoredAny>()?;
                    }
                    header.listed += 1;
                }
                header.metadata = metadata.unwrap_or_default().0;
                Ok(header)
            }
        }
        deserializer.deserialize_map(Entries)
    }
}

impl<'de> Deserialize<'de> for RawShape {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Dims;
        impl<'de> Visitor<'de> for Dims {
            type Value = RawShape;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a list of dimensions")
            }
            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<RawShape, A::Error> {
                let mut shape = RawShape { dims: Vec::new(), rank: 0 };
                while let Some(dim) = seq.next_element::<u64>()? {
                    if shape.rank < MAX_RANK {
                        shape.dims.push(dim);
                    }
                    shape.rank += 1;
                }
                Ok(shape)
            }
        }
        deserializer.deserialize_seq(Dims)
    }
}

/// A map from text to text in which no key stands twice.
#[derive(Debug, Default)]
pub(crate) struct UniqueStrings(pub(crate) BTreeMap<String, String>);

impl<'de> Deserialize<'de> for UniqueStrings {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Pairs;
        impl<'de> Visitor<'de> for Pairs {
            type Value = UniqueStrings;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object from text to text")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<UniqueStrings, A::Error> {
                let mut pairs = BTreeMap::new();
                while let Some((key, value)) = map.next_entry::<String, String>()? {
                    if pairs.contains_key(&key) {
                        return Err(de::Error::custom(format_args!(
                            "the key {} stands twice",
                            crate::error::quoted(&key)
                        )));
                    }
                    pairs.insert(key, value);
                }
                Ok(UniqueStrings(pairs))
            }
        }
        deserializer.deserialize_map(Pairs)
    }
}
