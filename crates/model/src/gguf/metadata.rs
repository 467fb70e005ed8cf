//! The metadata of a GGUF file, asked key by key; every refusal names the file, the key and the value.

use dropcap_weights::{GgufFault, GgufFile, GgufValue, WeightsError};

use crate::error::ModelError;

/// The metadata of one file, and the architecture that most of its keys begin with.
pub(crate) struct Metadata<'a> {
    file: &'a GgufFile,
    architecture: &'a str,
}

impl<'a> Metadata<'a> {
    /// The metadata of a file that names its architecture.
    pub(crate) fn of(file: &'a GgufFile) -> Result<Self, ModelError> {
        let mut metadata = Self { file, architecture: "" };
        metadata.architecture = metadata
            .text("general.architecture")?
            .ok_or_else(|| metadata.refuse("general.architecture", "the name of an architecture"))?;
        Ok(metadata)
    }

    /// The name of the architecture.
    pub(crate) fn architecture(&self) -> &'a str {
        self.architecture
    }

    /// The key of this architecture.
    pub(crate) fn key(&self, name: &str) -> String {
        format!("{}.{name}", self.architecture)
    }

    /// Any value.
    pub(crate) fn get(&self, key: &str) -> Option<&'a GgufValue> {
        self.file.metadata().get(key)
    }

    /// Text, if there is any.
    pub(crate) fn text(&self, key: &str) -> Result<Option<&'a str>, ModelError> {
        match self.get(key) {
            None => Ok(None),
            Some(GgufValue::Text(text)) => Ok(Some(text)),
            Some(_) => Err(self.refuse(key, "text")),
        }
    }

    /// True or false, if it is said.
    pub(crate) fn flag(&self, key: &str) -> Result<Option<bool>, ModelError> {
        match self.get(key) {
            None => Ok(None),
            Some(GgufValue::Bool(flag)) => Ok(Some(*flag)),
            Some(_) => Err(self.refuse(key, "true or false")),
        }
    }

    /// A whole number, if there is one; a list of one number per layer counts as that number where all are equal.
    pub(crate) fn count(&self, key: &str) -> Result<Option<u64>, ModelError> {
        const EXPECTED: &str = "a whole number, or a list of equal ones";
        let Some(value) = self.get(key) else { return Ok(None) };
        let number = match value {
            GgufValue::Numbers(numbers) => {
                let mut numbers = numbers.iter().map(|number| number.unsigned());
                let first = numbers.next().flatten();
                first.filter(|_| numbers.all(|number| number == first))
            }
            value => value.unsigned(),
        };
        number.map(Some).ok_or_else(|| self.refuse(key, EXPECTED))
    }

    /// A whole number that must be there.
    pub(crate) fn required(&self, key: &str) -> Result<u64, ModelError> {
        self.count(key)?.ok_or_else(|| self.refuse(key, "a whole number"))
    }

    /// A number, if there is one.
    pub(crate) fn number(&self, key: &str) -> Result<Option<f64>, ModelError> {
        let Some(value) = self.get(key) else { return Ok(None) };
        value
            .number()
            .filter(|number| number.is_finite())
            .map(Some)
            .ok_or_else(|| self.refuse(key, "a number"))
    }

    /// A list of texts that must be there.
    pub(crate) fn texts(&self, key: &str) -> Result<&'a [String], ModelError> {
        match self.get(key) {
            Some(GgufValue::Texts(texts)) => Ok(texts),
            _ => Err(self.refuse(key, "a list of texts")),
        }
    }

    /// A list of so many numbers; none if the key is absent.
    pub(crate) fn numbers(&self, key: &str, length: usize) -> Result<Option<Vec<f64>>, ModelError> {
        let numbers = match self.get(key) {
            None => return Ok(None),
            Some(GgufValue::Numbers(numbers)) if numbers.len() == length => {
                numbers.iter().map(|number| number.number()).collect()
            }
            Some(_) => None,
        };
        numbers.map(Some).ok_or_else(|| self.refuse(key, format!("a list of {length} numbers")))
    }

    /// The error that a key's value is not what was expected.
    pub(crate) fn refuse(&self, key: &str, expected: impl Into<String>) -> ModelError {
        let got = self.get(key).map_or_else(|| "missing".to_owned(), GgufValue::describe);
        let fault = GgufFault::Value { key: key.to_owned(), expected: expected.into(), got };
        WeightsError::Gguf { path: self.file.path().to_path_buf(), fault }.into()
    }
}
