//! All the tensors of one model directory, whether in one file or in shards.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use dropcap_files::confine;

use crate::error::{WeightsError, quoted};
use crate::finite::NonFinite;
use crate::index::ShardIndex;
use crate::layout::TensorInfo;
use crate::pickle::is_pickle;
use crate::tensor_file::TensorFile;

/// The weights of a model in one file.
pub const SINGLE_FILE: &str = "model.safetensors";
/// The index of a model's weights in several files.
pub const INDEX_FILE: &str = "model.safetensors.index.json";

/// The tensors of one model, each known to lie in exactly one file of its directory.
#[derive(Debug)]
pub struct ShardedTensors {
    root: PathBuf,
    files: Vec<TensorFile>,
    file_of: BTreeMap<String, usize>,
}

impl ShardedTensors {
    /// Opens `model.safetensors`, or else the shards that `model.safetensors.index.json` names.
    ///
    /// Tensors that a shard holds and the index leaves out are listed too, as `transformers` would load them.
    ///
    /// # Errors
    /// Any [`WeightsError`]: no weights, only pickled ones, a missing shard, a name that leads out of the
    /// directory, a tensor in two shards or not in the shard that should hold it, or a fault of one file.
    pub fn open(dir: &Path) -> Result<Self, WeightsError> {
        if confine(dir, SINGLE_FILE)?.exists() {
            return Self::gather(dir, vec![TensorFile::open(&dir.join(SINGLE_FILE))?]);
        }
        let index = confine(dir, INDEX_FILE)?;
        if !index.exists() {
            return Err(no_weights(dir));
        }
        Self::open_shards(dir, &index)
    }

    /// Takes one file as a whole model.
    ///
    /// # Errors
    /// As [`TensorFile::open`].
    pub fn single(path: &Path) -> Result<Self, WeightsError> {
        Self::gather(path, vec![TensorFile::open(path)?])
    }

    fn open_shards(dir: &Path, path: &Path) -> Result<Self, WeightsError> {
        let index = ShardIndex::open(path)?;
        let mut files = BTreeMap::new();
        for shard in index.shards() {
            let file = confine(dir, shard)?;
            if !file.exists() {
                return Err(WeightsError::MissingShard { index: path.to_path_buf(), shard: quoted(shard) });
            }
            files.insert(shard, TensorFile::open(&file)?);
        }
        for (tensor, shard) in index.tensors() {
            if files.get(shard).is_none_or(|file| file.info(tensor).is_none()) {
                let (index, tensor, shard) = (path.to_path_buf(), quoted(tensor), quoted(shard));
                return Err(WeightsError::NotInShard { index, tensor, shard });
            }
        }
        Self::gather(dir, files.into_values().collect())
    }

    fn gather(root: &Path, files: Vec<TensorFile>) -> Result<Self, WeightsError> {
        let mut file_of = BTreeMap::new();
        for (at, file) in files.iter().enumerate() {
            for name in file.names() {
                if let Some(before) = file_of.insert(name.to_owned(), at) {
                    let shown = |file: &TensorFile| quoted(&file.path().to_string_lossy());
                    return Err(WeightsError::TensorInTwoShards {
                        dir: root.to_path_buf(),
                        tensor: quoted(name),
                        first: shown(&files[before]),
                        second: shown(file),
                    });
                }
            }
        }
        Ok(Self { root: root.to_path_buf(), files, file_of })
    }

    /// The directory, or the one file, that was opened.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// The open files, sorted by name.
    pub fn files(&self) -> &[TensorFile] {
        &self.files
    }

    /// Names of all tensors, sorted.
    pub fn names(&self) -> impl ExactSizeIterator<Item = &str> {
        self.file_of.keys().map(String::as_str)
    }

    /// What its file says about one tensor.
    pub fn info(&self, name: &str) -> Option<&TensorInfo> {
        self.files.get(*self.file_of.get(name)?)?.info(name)
    }

    /// The file that holds a tensor.
    ///
    /// # Errors
    /// No such tensor.
    pub fn file_of(&self, name: &str) -> Result<&TensorFile, WeightsError> {
        self.file_of
            .get(name)
            .and_then(|&at| self.files.get(at))
            .ok_or_else(|| WeightsError::NoSuchTensor { path: self.root.clone(), tensor: quoted(name) })
    }

    /// As [`TensorFile::read_bytes`].
    ///
    /// # Errors
    /// As [`TensorFile::read_bytes`].
    pub fn read_bytes(&self, name: &str, out: &mut Vec<u8>) -> Result<(), WeightsError> {
        self.file_of(name)?.read_bytes(name, out)
    }

    /// As [`TensorFile::read_range`].
    ///
    /// # Errors
    /// As [`TensorFile::read_range`].
    pub fn read_range(&self, name: &str, first: u64, out: &mut [u8]) -> Result<(), WeightsError> {
        self.file_of(name)?.read_range(name, first, out)
    }

    /// As [`TensorFile::read_f32`].
    ///
    /// # Errors
    /// As [`TensorFile::read_f32`].
    pub fn read_f32(&self, name: &str) -> Result<Vec<f32>, WeightsError> {
        self.file_of(name)?.read_f32(name)
    }

    /// As [`TensorFile::first_non_finite`].
    ///
    /// # Errors
    /// As [`TensorFile::read_f32`].
    pub fn first_non_finite(&self, name: &str) -> Result<Option<NonFinite>, WeightsError> {
        self.file_of(name)?.first_non_finite(name)
    }
}

/// Tells a directory of pickles from one without weights.
fn no_weights(dir: &Path) -> WeightsError {
    let entries = match std::fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(e) => return WeightsError::io("read", dir, e),
    };
    let mut pickles: Vec<String> = entries
        .flatten()
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .filter(|name| is_pickle(name))
        .collect();
    pickles.sort();
    match pickles.into_iter().next() {
        Some(found) => WeightsError::OnlyPickle { dir: dir.to_path_buf(), found: quoted(&found) },
        None => WeightsError::NoWeights { dir: dir.to_path_buf() },
    }
}
