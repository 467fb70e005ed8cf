//! Writing a gate file: whole, or not at all.

use std::path::Path;

use dropcap_files::{Existing, publish};
use dropcap_weights::{Fingerprint, NewTensor, NewTensorFile};

use super::layout::{BIRTH, FORMAT, VERSION};
use super::{GateLayout, Gates};
use crate::MethodError;

impl Gates {
    /// Writes the gates in our own layout, in f32, marked as belonging to `model`; the same gates give the same bytes.
    ///
    /// # Errors
    /// As [`dropcap_files::publish`]; a file of that name stays as it was.
    pub fn save(&self, path: &Path, model: &Fingerprint) -> Result<(), MethodError> {
        let matrix = [self.heads * self.width, self.hidden];
        let mut tensors = Vec::with_capacity(3 * self.layers.len());
        for (index, layer) in self.layers.iter().enumerate() {
            let [query, key, bias] = GateLayout::Dropcap.names(index);
            if self.kind.votes() {
                tensors.push(NewTensor::f32(query, &matrix, &layer.query));
            }
            tensors.push(NewTensor::f32(key, &matrix, &layer.key));
            tensors.push(NewTensor::f32(bias, &[self.heads], &layer.bias));
        }
        let [version, sinks, recent] =
            [VERSION, self.floors.sinks, self.floors.recent].map(|number| number.to_string());
        let fingerprint = model.to_string();
        let mut metadata = vec![
            ("format", FORMAT),
            ("version", &version),
            ("fingerprint", &fingerprint),
            ("sinks", &sinks),
            ("recent", &recent),
        ];
        if !self.kind.votes() {
            metadata.push(("rule", BIRTH));
        }
        metadata.extend(self.settled.kv_dtype.map(|dtype| ("kv_dtype", dtype.name())));
        let tokens = self.settled.tokens.map(|tokens| tokens.to_string());
        metadata.extend(tokens.iter().map(|tokens| ("tokens", &**tokens)));
        let file = NewTensorFile::new(&tensors, &metadata).map_err(MethodError::Layout)?;
        Ok(publish(path, Existing::Replace, |out| file.write(out))?)
    }
}
