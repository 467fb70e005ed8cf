//! Writing a gate file: whole, or not at all.

use std::path::Path;

use dropcap_files::{Existing, publish};
use dropcap_weights::Fingerprint;
use serde_json::{Map, json};

use super::layout::{FORMAT, VERSION};
use super::{GateLayout, Gates};
use crate::MethodError;

impl Gates {
    /// Writes the gates in our own layout, in f32, marked as belonging to `model`.
    ///
    /// The file appears under its name complete and on disk, or not at all; an old one is replaced.
    ///
    /// # Errors
    /// The operating system's, with the path.
    pub fn save(&self, path: &Path, model: &Fingerprint) -> Result<(), MethodError> {
        let metadata = [
            ("fingerprint", model.to_string()),
            ("format", FORMAT.to_owned()),
            ("recent", self.floors.recent.to_string()),
            ("sinks", self.floors.sinks.to_string()),
            ("version", VERSION.to_string()),
        ];
        let bytes = file_of(self.tensors(), metadata);
        Ok(publish(path, Existing::Replace, |file| file.write_all(&bytes))?)
    }

    /// Name, shape and numbers of every tensor.
    fn tensors(&self) -> impl Iterator<Item = (String, Vec<usize>, &[f32])> {
        let matrix = [self.heads * self.width, self.hidden];
        self.layers.iter().enumerate().flat_map(move |(index, layer)| {
            let [query, key, bias] = GateLayout::Dropcap.names(index);
            [
                (query, matrix.to_vec(), &*layer.query),
                (key, matrix.to_vec(), &*layer.key),
                (bias, vec![self.heads], &*layer.bias),
            ]
        })
    }
}

/// A safetensors file of f32 tensors in the order given. The format's own library takes metadata from a hash map, so that
/// the same gates would give other bytes each time.
fn file_of<'a>(
    tensors: impl Iterator<Item = (String, Vec<usize>, &'a [f32])>,
    metadata: impl IntoIterator<Item = (&'static str, String)>,
) -> Vec<u8> {
    let metadata: Map<_, _> = metadata.into_iter().map(|(key, text)| (key.to_owned(), json!(text))).collect();
    let mut header = Map::from_iter([("__metadata__".to_owned(), json!(metadata))]);
    let mut body = Vec::new();
    for (name, shape, numbers) in tensors {
        let start = body.len();
        numbers.iter().for_each(|number| body.extend(number.to_le_bytes()));
        header.insert(name, json!({"dtype": "F32", "shape": shape, "data_offsets": [start, body.len()]}));
    }
    let mut header = json!(header).to_string().into_bytes();
    // Spaces keep the numbers aligned.
    header.resize(header.len().next_multiple_of(8), b' ');
    [&(header.len() as u64).to_le_bytes()[..], &header, &body].concat()
}
