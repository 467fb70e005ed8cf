//! Objects of JSON whose keys are heads, alone or among the keys of our own format.

use std::collections::BTreeMap;
use std::fmt;

use dropcap_weights::Fingerprint;
use serde::de::{DeserializeSeed, Deserializer, Error, IgnoredAny, MapAccess, Visitor};

use super::{FORMAT, PROFILE_VERSION};

/// Heads, each a layer and its place there, and their mean scores.
pub(super) type Heads = BTreeMap<(usize, usize), f64>;

/// What an object of JSON says.
#[derive(Debug, Default)]
pub(super) struct Object {
    pub(super) heads: Heads,
    pub(super) model: Option<Fingerprint>,
}

/// Keys of our format that only people read.
const WORDS: [&str; 3] = ["kind", "name", "made"];

impl<'de> serde::Deserialize<'de> for Object {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Level::File.deserialize(deserializer)
    }
}

/// Which object of a file is read.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Level {
    /// The whole: heads, or our format.
    File,
    /// What our format has under `heads`: nothing else.
    Heads,
}

impl<'de> DeserializeSeed<'de> for Level {
    type Value = Object;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Object, D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for Level {
    type Value = Object;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("an object of \"layer-head\" and the scores of its trials")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Object, A::Error> {
        let (mut object, mut ours, mut version, mut inner) = (Object::default(), false, None, None);
        while let Some(key) = map.next_key::<String>()? {
            match key.as_str() {
                head if self == Self::Heads => add(&mut object.heads, head, &mut map)?,
                "format" => {
                    let format: String = map.next_value()?;
                    if format != FORMAT {
                        let what = format!("the format is {}; expected \"{FORMAT}\"", shown(&format));
                        return Err(A::Error::custom(what));
                    }
                    ours = true;
                }
                "version" => version = Some(map.next_value::<u64>()?),
                "model" => {
                    let text: String = map.next_value()?;
                    object.model = Some(text.parse().map_err(A::Error::custom)?);
                }
                "heads" => inner = Some(map.next_value_seed(Self::Heads)?.heads),
                word if WORDS.contains(&word) => {
                    map.next_value::<IgnoredAny>()?;
                }
                head => add(&mut object.heads, head, &mut map)?,
            }
        }
        if ours {
            if version != Some(u64::from(PROFILE_VERSION)) {
                let found = version.map_or_else(|| "none".to_owned(), |version| version.to_string());
                return Err(A::Error::custom(format!(
                    "its version is {found}; this program reads heads of version {PROFILE_VERSION}: use the dropcap that wrote it, or a newer one"
                )));
            }
            if !object.heads.is_empty() {
                return Err(A::Error::custom("heads stand outside of the key \"heads\""));
            }
            object.heads = inner.unwrap_or_default();
        } else if inner.is_some() || version.is_some() || object.model.is_some() {
            let what = format!(
                "no key \"format\" with \"{FORMAT}\", though other keys of that format; expected it, or nothing but heads"
            );
            return Err(A::Error::custom(what));
        }
        if object.heads.is_empty() && self == Self::File {
            return Err(A::Error::custom("no heads"));
        }
        Ok(object)
    }
}

/// Reads the trials of a head.
fn add<'de, A: MapAccess<'de>>(heads: &mut Heads, key: &str, map: &mut A) -> Result<(), A::Error> {
    let place = key.split_once('-').and_then(|(layer, head)| Some((layer.parse().ok()?, head.parse().ok()?)));
    let Some(place) = place else {
        return Err(A::Error::custom(format!(
            "{} is no head; expected \"layer-head\", such as \"16-19\"",
            shown(key)
        )));
    };
    let trials: Vec<f64> = map.next_value()?;
    if trials.is_empty() {
        return Err(A::Error::custom(format!("head {key} has no trials; expected at least one score")));
    }
    if heads.insert(place, trials.iter().sum::<f64>() / trials.len() as f64).is_some() {
        return Err(A::Error::custom(format!("head {key} is there twice")));
    }
    Ok(())
}

/// A field as it may stand in a message: short, and without control characters.
pub(super) fn shown(field: &str) -> String {
    let begin: String = field.chars().take(40).flat_map(char::escape_debug).collect();
    format!("`{begin}`{}", if field.chars().count() > 40 { "..." } else { "" })
}
