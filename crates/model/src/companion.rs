//! The files beside the weights of a model, whether they lie in a directory or follow from the metadata of a GGUF file.

use std::io::{ErrorKind, Read};
use std::path::Path;

use dropcap_weights::is_gguf;

use crate::error::ModelError;
use crate::gguf;

/// Reads a file of a model's directory, such as `DIR/config.json`; none where there is none.
///
/// A GGUF file stands for the directory that it was made from: `model.gguf/config.json`, `generation_config.json`,
/// `tokenizer.json` and `tokenizer_config.json` are made of its metadata.
///
/// # Errors
/// A file longer than `limit` bytes, or one that cannot be read; a GGUF file that is refused.
pub fn read_companion(path: &Path, limit: u64) -> Result<Option<Vec<u8>>, ModelError> {
    if let (Some(model), Some(name)) = (path.parent(), path.file_name())
        && is_gguf(model)
    {
        return gguf::companion(model, &name.to_string_lossy());
    }
    let file = match std::fs::File::open(path) {
        Ok(file) => file,
        Err(e) if e.kind() == ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(ModelError::io("open", path, e)),
    };
    let mut bytes = Vec::new();
    // One byte past the limit shows that there is more.
    file.take(limit + 1).read_to_end(&mut bytes).map_err(|e| ModelError::io("read", path, e))?;
    if bytes.len() as u64 > limit {
        return Err(ModelError::FileTooLong { path: path.to_path_buf(), limit });
    }
    Ok(Some(bytes))
}
