//! A number format by its name.

use dropcap_kernels::DType;
use serde::de::Error;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

pub(super) fn serialize<S: Serializer>(dtype: &DType, serializer: S) -> Result<S::Ok, S::Error> {
    dtype.name().serialize(serializer)
}

pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<DType, D::Error> {
    String::deserialize(deserializer)?.parse().map_err(|error| D::Error::custom(format!("{error}")))
}

/// One that may be left out.
pub(super) mod optional {
    use super::{DType, Deserialize, Deserializer, Serialize, Serializer};

    #[derive(Serialize, Deserialize)]
    struct Named(#[serde(with = "super")] DType);

    pub(in crate::config) fn serialize<S: Serializer>(
        dtype: &Option<DType>,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        dtype.map(Named).serialize(serializer)
    }

    pub(in crate::config) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Option<DType>, D::Error> {
        Ok(Option::<Named>::deserialize(deserializer)?.map(|Named(dtype)| dtype))
    }
}
