//! A model directory whose config and weights are known to fit each other.

mod stored;
mod write;

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::path::{Path, PathBuf};

use dropcap_kernels::{BlockFormat, DType};
use dropcap_weights::{ContentDigest, Fingerprint};

use crate::adapter::{Adapter, LowRank};
use crate::decoder_config::DecoderConfig;
use crate::error::ModelError;
use crate::weight_plan::{VectorPart, WeightPlan};
use crate::weights::{StoredAs, stored_type};

use stored::StoredTensors;
pub use write::{TOKENIZER_FILES, name_dtype};

/// A Hugging Face checkpoint, or a GGUF file in the place of one, opened and compared, with no weight read yet.
///
/// Every tensor of its plan is stored, in the planned shape, as F32, F16 or BF16 or in blocks of a GGUF file, and nothing
/// else is stored but known buffers.
#[derive(Debug)]
pub struct Checkpoint {
    directory: PathBuf,
    config: DecoderConfig,
    tensors: StoredTensors,
    plan: WeightPlan,
    adapter: Option<Adapter>,
    /// What the adapter adds, by tensor.
    added: BTreeMap<String, LowRank<'static>>,
}

impl Checkpoint {
    /// Opens a directory that holds `config.json` and safetensors weights, in one file or in shards; or a GGUF file, which
    /// stands for the directory that it was made from.
    ///
    /// # Errors
    /// A config or weight file that is refused on its own; [`ModelError::Mismatches`] with every tensor that is
    /// missing, unexpected, or of the wrong shape or dtype.
    pub fn open(directory: &Path) -> Result<Self, ModelError> {
        let config = DecoderConfig::open(directory)?;
        let tensors = StoredTensors::open(directory)?;
        let plan = WeightPlan::of(&config, &|name| tensors.info(name).is_some());
        let (directory_path, added) = (directory.to_path_buf(), BTreeMap::new());
        let checkpoint = Self { directory: directory_path, config, tensors, plan, adapter: None, added };
        let problems = checkpoint.mismatches()?;
        if problems.is_empty() {
            Ok(checkpoint)
        } else {
            Err(ModelError::Mismatches { path: directory.to_path_buf(), problems })
        }
    }

    /// The same model with an adapter: whatever is read from now on has it merged in, in f32.
    ///
    /// # Errors
    /// An adapter that names another base than this, by its fingerprint, unless it is [`Adapter::for_any_base`];
    /// [`ModelError::AdapterMismatch`] with everything in it that has no place in this model; a second adapter; a file
    /// that became shorter or unreadable.
    pub fn with_adapter(mut self, adapter: Adapter) -> Result<Self, ModelError> {
        if let Some(first) = &self.adapter {
            let (first, second) = (first.directory().to_path_buf(), adapter.directory().to_path_buf());
            return Err(ModelError::SecondAdapter { first, second });
        }
        if !adapter.fits_any_base() {
            let problems = adapter.differences(&self)?;
            if !problems.is_empty() {
                let (path, base) = (adapter.directory().to_path_buf(), self.directory);
                return Err(ModelError::AdapterOfAnotherBase { path, base, problems });
            }
        }
        self.added = adapter.read(&self.plan)?;
        self.adapter = Some(adapter);
        Ok(self)
    }

    /// The adapter that is merged in.
    pub fn adapter(&self) -> Option<&Adapter> {
        self.adapter.as_ref()
    }

    /// The directory that was opened.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// What its `config.json` says.
    pub fn config(&self) -> &DecoderConfig {
        &self.config
    }

    /// The shape of a stored tensor.
    pub fn shape(&self, tensor: &str) -> Option<Vec<usize>> {
        self.tensors.info(tensor).map(|info| info.shape)
    }

    /// Reads one stored tensor as f32, row-major, without an adapter.
    ///
    /// # Errors
    /// No such tensor; a format that is no number; a file that became shorter or unreadable.
    pub fn read_f32(&self, tensor: &str) -> Result<Vec<f32>, ModelError> {
        self.tensors.read_f32(tensor)
    }

    /// Which tensor goes into which slot.
    pub fn plan(&self) -> &WeightPlan {
        &self.plan
    }

    /// The dtype that most bytes of the weights have when they have been read; blocks of a GGUF file become f32.
    pub fn stored_dtype(&self) -> DType {
        let bytes = |dtype: DType| -> usize {
            let infos = self.plan.tensors().filter_map(|tensor| self.tensors.info(tensor.name));
            let numbers = infos
                .filter(|info| info.stored.map(StoredAs::dtype) == Some(dtype))
                .map(|info| info.shape.iter().product::<usize>());
            numbers.sum::<usize>() * dtype.bytes()
        };
        DType::ALL.into_iter().max_by_key(|&dtype| bytes(dtype)).unwrap_or(DType::F32)
    }

    /// Reads some rows of one planned matrix part as stored, replacing the content of `bytes`, and says their dtype; rows
    /// that an adapter changes become f32.
    ///
    /// # Errors
    /// A tensor that is not of the plan, or rows that it does not have; a file that became shorter or unreadable.
    pub fn read_rows(
        &self,
        tensor: &str,
        rows: Range<usize>,
        bytes: &mut Vec<u8>,
    ) -> Result<DType, ModelError> {
        let dtype = self.tensors.read_rows(tensor, rows.clone(), bytes)?;
        let Some(added) = self.added.get(tensor) else { return Ok(dtype) };
        let mut values = stored_type(dtype).widen(bytes).unwrap_or_default();
        added.add_to_rows(rows, &mut values);
        bytes.clear();
        bytes.extend(values.iter().flat_map(|value| value.to_le_bytes()));
        Ok(DType::F32)
    }

    /// How a matrix is stored, to be held so. What an adapter changes goes into numbers of the same dtype, but not back into
    /// the same blocks.
    pub(crate) fn stored_as(&self, tensor: &str) -> StoredAs {
        match self.tensors.stored_as(tensor) {
            StoredAs::Blocks(_) if self.added.contains_key(tensor) => StoredAs::OtherBlocks,
            stored => stored,
        }
    }

    /// The format of the blocks that a matrix is stored in, where it is, and products read them, and no adapter changes it.
    pub(crate) fn blocks(&self, tensor: &str) -> Option<BlockFormat> {
        match self.stored_as(tensor) {
            StoredAs::Blocks(format) => Some(format),
            StoredAs::Numbers(_) | StoredAs::OtherBlocks => None,
        }
    }

    /// Reads outputs of a matrix that has [`Checkpoint::blocks`], as they are.
    ///
    /// # Errors
    /// No such tensor; a file that became shorter or unreadable.
    pub(crate) fn read_blocks(
        &self,
        tensor: &str,
        outputs: Range<usize>,
        bytes: &mut Vec<u8>,
    ) -> Result<(), ModelError> {
        self.tensors.read_blocks(tensor, outputs, bytes)
    }

    /// Reads vectors one after the other as f32: a norm, or the biases of a fused projection.
    ///
    /// # Errors
    /// A tensor that is not of the plan; a file that became shorter or unreadable.
    pub fn read_vectors<'a>(
        &self,
        parts: impl IntoIterator<Item = &'a VectorPart>,
    ) -> Result<Vec<f32>, ModelError> {
        let mut all = Vec::new();
        for part in parts {
            all.extend(self.tensors.read_f32(&part.tensor)?);
        }
        Ok(all)
    }

    /// The model's identity: family, dimensions, and a digest over samples of the stored weights.
    ///
    /// It does not depend on how the weights are split into files, nor on buffers stored beside them; it does
    /// depend on the dtype that they are stored in, and on an adapter that is merged in.
    ///
    /// # Errors
    /// A file that became shorter or unreadable.
    pub fn fingerprint(&self) -> Result<Fingerprint, ModelError> {
        let mut digest = ContentDigest::new();
        for tensor in self.plan.tensors() {
            self.tensors.digest(&mut digest, self.plan.label(tensor.name), tensor.name)?;
        }
        if let Some(adapter) = &self.adapter {
            adapter.digest(&mut digest)?;
        }
        let config = &self.config;
        Ok(Fingerprint {
            family: config.family.name().to_owned(),
            layers: config.layers,
            hidden: config.hidden,
            heads: config.heads,
            kv_heads: config.kv_heads,
            head_dim: config.head_dim,
            vocabulary: config.vocabulary,
            content: digest.finish(),
        })
    }

    /// Reads every weight once and refuses NaN and infinity.
    ///
    /// # Errors
    /// [`ModelError::NonFinite`] with each tensor at fault and the first place in it; a file that became shorter
    /// or unreadable.
    pub fn check_finite(&self) -> Result<(), ModelError> {
        let mut problems = Vec::new();
        for tensor in self.plan.tensors() {
            if let Some(found) = self.tensors.first_non_finite(tensor.name)? {
                problems.push(found.to_string());
            }
        }
        if problems.is_empty() {
            Ok(())
        } else {
            Err(ModelError::NonFinite { path: self.directory.clone(), problems })
        }
    }

    /// The refusal of a number that a format cannot hold.
    pub(crate) fn outside(&self, tensor: &str, element: usize, value: f32, dtype: DType) -> ModelError {
        let (path, tensor) = (self.directory.clone(), tensor.to_owned());
        if value.is_finite() {
            return ModelError::WeightRange { path, tensor, element, value, dtype };
        }
        ModelError::NonFinite { path, problems: vec![format!("{tensor} holds {value} at element {element}")] }
    }

    /// Everything in which the stored tensors differ from the plan, one line each.
    fn mismatches(&self) -> Result<Vec<String>, ModelError> {
        let mut problems = Vec::new();
        let mut planned = BTreeSet::new();
        for tensor in self.plan.tensors() {
            planned.insert(tensor.name);
            let (name, shape) = (tensor.name, &tensor.shape);
            match self.tensors.info(name) {
                None => problems.push(format!("{name}: missing, expected shape {shape:?}")),
                Some(info) => {
                    if info.shape != *shape {
                        problems.push(format!("{name}: expected shape {shape:?}, found {:?}", info.shape));
                    }
                    if info.stored.is_none() {
                        problems.push(format!("{name}: expected {COMPUTABLE}, found {}", info.format));
                    }
                }
            }
        }
        for name in self.tensors.names() {
            if planned.contains(name) || self.plan.is_buffer(name) {
                continue;
            }
            if self.plan.tied_copy == Some(name) {
                if !self.copies_embedding(name)? {
                    problems.push(format!(
                        "{name}: differs from the embedding, but config.json ties them: set tie_word_embeddings to false"
                    ));
                }
                continue;
            }
            problems.push(format!("{name:.200}: unexpected, no part of this model"));
        }
        Ok(problems)
    }

    /// Whether a tensor holds what the embedding holds, by samples of their bytes.
    fn copies_embedding(&self, name: &str) -> Result<bool, ModelError> {
        let digest = |name: &str| {
            let mut digest = ContentDigest::new();
            self.tensors.digest(&mut digest, "", name).map(|()| digest.finish())
        };
        let embedding = self.plan.embedding.parts.first().map(|part| part.tensor.as_str());
        match embedding.filter(|name| self.tensors.info(name).is_some()) {
            Some(embedding) => Ok(digest(embedding)? == digest(name)?),
            // Its absence is reported by itself.
            None => Ok(true),
        }
    }
}

const COMPUTABLE: &str = "F32, F16 or BF16";
