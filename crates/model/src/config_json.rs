//! A JSON object of a model directory, read value by value under bounds.

use std::fmt::Display;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value};

use crate::companion::read_companion;
use crate::error::ModelError;

/// Longest configuration file that is read, in bytes; published ones are a few KiB.
const MAX_BYTES: u64 = 4 << 20;

/// An object whose values are asked for by key; every refusal names the file, the key and the value.
#[derive(Debug)]
pub(crate) struct ConfigJson {
    path: PathBuf,
    /// The key that this object stands under, with a dot, or nothing.
    under: String,
    object: Map<String, Value>,
}

impl ConfigJson {
    /// Reads a file; `None` if there is none.
    pub(crate) fn open(path: &Path) -> Result<Option<Self>, ModelError> {
        read_companion(path, MAX_BYTES)?.map(|bytes| Self::parse(path, &bytes)).transpose()
    }

    /// Reads bytes; `path` is only for messages.
    pub(crate) fn parse(path: &Path, bytes: &[u8]) -> Result<Self, ModelError> {
        if bytes.len() as u64 > MAX_BYTES {
            return Err(ModelError::FileTooLong { path: path.to_path_buf(), limit: MAX_BYTES });
        }
        let object = serde_json::from_slice(bytes)
            .map_err(|e| ModelError::Json { path: path.to_path_buf(), reason: e.to_string() })?;
        Ok(Self { path: path.to_path_buf(), under: String::new(), object })
    }

    /// The file, for messages.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// A value that is there and not `null`, which means the same as absent unless a family says otherwise.
    pub(crate) fn get(&self, key: &str) -> Option<&Value> {
        self.object.get(key).filter(|value| !value.is_null())
    }

    /// Whether a key is there at all, `null` included.
    pub(crate) fn states(&self, key: &str) -> bool {
        self.object.contains_key(key)
    }

    /// An object within this one.
    pub(crate) fn section(&self, key: &str) -> Result<Option<Self>, ModelError> {
        match self.get(key) {
            None => Ok(None),
            Some(Value::Object(object)) => Ok(Some(Self {
                path: self.path.clone(),
                under: format!("{}{key}.", self.under),
                object: object.clone(),
            })),
            Some(_) => Err(self.refuse(key, "an object")),
        }
    }

    /// A whole number from 1 to `limit` that must be there.
    pub(crate) fn count(&self, key: &str, limit: usize) -> Result<usize, ModelError> {
        let expected = || format!("a whole number from 1 to {limit}");
        let count = self.get(key).and_then(Value::as_u64).and_then(|n| usize::try_from(n).ok());
        count.filter(|n| (1..=limit).contains(n)).ok_or_else(|| self.refuse(key, expected()))
    }

    /// The same, or `absent` if the key is absent or `null`.
    pub(crate) fn count_or(&self, key: &str, limit: usize, absent: usize) -> Result<usize, ModelError> {
        if self.get(key).is_none() { Ok(absent) } else { self.count(key, limit) }
    }

    /// A finite number greater than `above` and at most `limit`, or `absent`.
    pub(crate) fn number_or(
        &self,
        key: &str,
        above: f64,
        limit: f64,
        absent: f64,
    ) -> Result<f64, ModelError> {
        let Some(value) = self.get(key) else { return Ok(absent) };
        let number = value.as_f64().filter(|x| x.is_finite() && *x > above && *x <= limit);
        number.ok_or_else(|| self.refuse(key, format!("a number above {above} and at most {limit}")))
    }

    /// The same, which must be there.
    pub(crate) fn number(&self, key: &str, above: f64, limit: f64) -> Result<f64, ModelError> {
        if self.get(key).is_none() {
            return Err(self.refuse(key, format!("a number above {above} and at most {limit}")));
        }
        self.number_or(key, above, limit, above)
    }

    /// `true` or `false`, or `absent`.
    pub(crate) fn flag_or(&self, key: &str, absent: bool) -> Result<bool, ModelError> {
        match self.get(key) {
            None => Ok(absent),
            Some(Value::Bool(flag)) => Ok(*flag),
            Some(_) => Err(self.refuse(key, "true or false")),
        }
    }

    /// Text, if there is any.
    pub(crate) fn text(&self, key: &str) -> Result<Option<&str>, ModelError> {
        match self.get(key) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text)),
            Some(_) => Err(self.refuse(key, "text")),
        }
    }

    /// A list of texts, if there is any.
    pub(crate) fn texts(&self, key: &str) -> Result<Option<Vec<&str>>, ModelError> {
        let Some(value) = self.get(key) else { return Ok(None) };
        let texts = value.as_array().and_then(|list| list.iter().map(Value::as_str).collect());
        texts.map(Some).ok_or_else(|| self.refuse(key, "a list of texts"))
    }

    /// One token id or a list of them; nothing if the key is absent or `null`.
    pub(crate) fn token_ids(&self, key: &str) -> Result<Option<Vec<u32>>, ModelError> {
        /// More than any model has; the list is searched for every token.
        const MOST: usize = 256;
        let id = |value: &Value| value.as_u64().and_then(|id| u32::try_from(id).ok());
        let ids = match self.get(key) {
            None => return Ok(None),
            Some(Value::Array(list)) if list.len() <= MOST => list.iter().map(id).collect(),
            Some(value) => id(value).map(|id| vec![id]),
        };
        ids.map(Some).ok_or_else(|| self.refuse(key, format!("a token id or a list of at most {MOST}")))
    }

    /// The error that a key's value is not what was expected.
    pub(crate) fn refuse(&self, key: &str, expected: impl Display) -> ModelError {
        let got = match self.object.get(key) {
            None => "missing".to_owned(),
            Some(value) => shortened(&value.to_string()),
        };
        let (path, key) = (self.path.clone(), format!("{}{key}", self.under));
        ModelError::ConfigValue { path, key, expected: expected.to_string(), got }
    }

    /// The error that a key's value needs something that is not supported.
    pub(crate) fn unsupported(&self, key: &str, supported: impl Display) -> ModelError {
        let value = self.object.get(key).map(|value| shortened(&value.to_string())).unwrap_or_default();
        ModelError::UnsupportedFeature {
            path: self.path.clone(),
            feature: format!("{}{key} = {value}", self.under),
            supported: supported.to_string(),
        }
    }
}

/// A value as it may stand in a message.
fn shortened(text: &str) -> String {
    match text.char_indices().nth(80) {
        Some((cut, _)) => format!("{}...", &text[..cut]),
        None => text.to_owned(),
    }
}
