//! Writing a gate file: whole, or not at all.

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};

use dropcap_weights::Fingerprint;
use safetensors::Dtype;
use safetensors::tensor::TensorView;

use super::layout::{FORMAT, VERSION};
use super::{GateLayout, Gates};
use crate::MethodError;

impl Gates {
    /// Writes the gates in our own layout, in f32, marked as belonging to `model`.
    ///
    /// The file appears under its name complete and on disk, or not at all: it is written beside its place, synced
    /// and renamed.
    ///
    /// # Errors
    /// The operating system's, with the path.
    pub fn save(&self, path: &Path, model: &Fingerprint) -> Result<(), MethodError> {
        let failed = |reason: String| MethodError::Write { path: path.into(), reason };
        let bytes = self.serialized(model).map_err(failed)?;
        let partial = partial_path(path).ok_or_else(|| failed("the path names no file".into()))?;
        publish(&bytes, &partial, path).map_err(|error| {
            // Best effort: the error worth reporting is the first one.
            let _ = fs::remove_file(&partial);
            failed(error.to_string())
        })
    }

    fn serialized(&self, model: &Fingerprint) -> Result<Vec<u8>, String> {
        let matrix = [self.heads * self.width, self.hidden];
        let mut tensors = Vec::with_capacity(3 * self.layers.len());
        for (index, layer) in self.layers.iter().enumerate() {
            let [query, key, bias] = GateLayout::Dropcap.names(index);
            let parts: [(String, &[usize], &[f32]); 3] = [
                (query, &matrix, &layer.query),
                (key, &matrix, &layer.key),
                (bias, &[self.heads], &layer.bias),
            ];
            for (name, shape, numbers) in parts {
                let view = TensorView::new(Dtype::F32, shape.to_vec(), bytemuck::cast_slice(numbers));
                tensors.push((name, view.map_err(|error| error.to_string())?));
            }
        }
        let metadata = serde_json::json!({
            "format": FORMAT,
            "version": VERSION.to_string(),
            "fingerprint": model.to_string(),
            "sinks": self.floors.sinks.to_string(),
            "recent": self.floors.recent.to_string(),
        });
        let plain = safetensors::serialize(tensors, None).map_err(|error| error.to_string())?;
        with_metadata(&plain, &metadata).ok_or_else(|| "the serializer wrote no header".to_owned())
    }
}

/// The file with metadata in its header, in the order of their names: the library's own writer takes them from a hash
/// map, so that the same gates would give other bytes each time.
fn with_metadata(plain: &[u8], metadata: &serde_json::Value) -> Option<Vec<u8>> {
    let (length, rest) = plain.split_first_chunk()?;
    let (header, body) = rest.split_at_checked(usize::try_from(u64::from_le_bytes(*length)).ok()?)?;
    let tensors = std::str::from_utf8(header).ok()?.trim_end().strip_prefix('{')?;
    let mut header = format!("{{\"__metadata__\":{metadata},{tensors}").into_bytes();
    // Spaces keep the numbers aligned.
    header.resize(header.len().next_multiple_of(8), b' ');
    Some([&(header.len() as u64).to_le_bytes()[..], &header, body].concat())
}

/// A name beside `path`, on the same file system, that no reader looks for.
fn partial_path(path: &Path) -> Option<PathBuf> {
    let name = path.file_name()?.to_string_lossy();
    Some(path.with_file_name(format!(".{name}.{}.partial", std::process::id())))
}

fn publish(bytes: &[u8], partial: &Path, path: &Path) -> std::io::Result<()> {
    let mut file = File::create(partial)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    fs::rename(partial, path)?;
    // The name itself is durable only once its folder is.
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    File::open(folder)?.sync_all()
}
