//! Everything that can be wrong with a model, its text or its input.

use std::path::{Path, PathBuf};

use dropcap_kernels::{DType, KvFormat};
use dropcap_weights::WeightsError;

use crate::families::Family;

/// Why a model could not be loaded or run.
///
/// Every message names the file or the argument at fault, the limit, the value found, and where there is
/// something to do, what to do.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ModelError {
    /// The weights were refused.
    #[error(transparent)]
    Weights(#[from] WeightsError),
    /// A file could not be written.
    #[error(transparent)]
    File(#[from] dropcap_files::FileError),
    /// An operation refused its operands.
    #[error("the model's computation failed: {0}")]
    Kernel(#[from] dropcap_kernels::KernelError),
    /// A head to silence that is not there.
    #[error(
        "there is no head {layer}-{head}: the model has {layers} layers of {heads} query heads, counted from 0"
    )]
    NoSuchHead {
        /// The layer given.
        layer: usize,
        /// The head given.
        head: usize,
        /// The model's layers.
        layers: usize,
        /// Query heads of each.
        heads: usize,
    },
    /// A pruning method that the CUDA backend cannot decide.
    #[error("the method {what}, which a CUDA device cannot do: use another method, or --device cpu")]
    DeviceMethod {
        /// What it does.
        what: String,
    },
    /// A method that the CUDA backend cannot decide over codes.
    #[error(
        "the method turns keys to other positions, which a CUDA device cannot do over a cache of {format}: use --kv-dtype f32, bf16 or f16, or --device cpu"
    )]
    DeviceCache {
        /// The format that was asked for.
        format: KvFormat,
    },
    /// A method that turns keys to other positions, and a model for which that means nothing.
    #[error(
        "the method turns keys by their place in the cache, and the model {problem}: leave key_rerotation or positions=cache out"
    )]
    Renumbering {
        /// Why not.
        problem: &'static str,
    },
    /// A second prompt in a cache whose keys were turned to consecutive positions.
    #[error(
        "a prompt cannot end in a cache whose keys were turned to consecutive positions already: begin again with all of the text as one prompt"
    )]
    RenumberedBefore,
    /// Lanes that cannot share one next position.
    #[error(
        "the method keeps {first} entries in one lane and {other} in another, so they have no next position in common: turn keys behind a method that keeps as many everywhere"
    )]
    UnevenLanes {
        /// Entries of the first lane.
        first: usize,
        /// Entries of the other.
        other: usize,
    },
    /// More deaths in one step than a device tells of.
    #[error("{count} entries died in one step, of which the device can tell {limit}: use smaller chunks")]
    TooManyDeaths {
        /// Deaths.
        count: usize,
        /// Most that are told.
        limit: usize,
    },
    /// A step larger than the device's buffers.
    #[error(
        "a step of {rows} tokens of {spans} sequences does not fit: the device was prepared for {limit} tokens of {batch} sequences; use smaller chunks"
    )]
    StepTooLarge {
        /// Tokens of the step.
        rows: usize,
        /// Most tokens.
        limit: usize,
        /// Sequences of the step.
        spans: usize,
        /// Most sequences.
        batch: usize,
    },
    /// A step that the pages of a device do not suffice for; nothing has been done.
    #[error(
        "the step takes {wanted} pages of the device's cache, and {free} of {capacity} are free: feed fewer tokens, close a sequence, or raise --kv-limit"
    )]
    DevicePages {
        /// Pages that the step takes.
        wanted: usize,
        /// Pages that are free.
        free: usize,
        /// Pages of the pool.
        capacity: usize,
    },
    /// Lanes that could not grow on a device, although the host had counted their pages.
    #[error(
        "{lanes} lanes of the step's sequences found no room on the device, and these sequences are damaged: close them, and begin again with fewer"
    )]
    LanesRefused {
        /// How many lanes.
        lanes: usize,
    },
    /// A slot that a step on a device cannot use.
    #[error("slot {index} {problem}: a step takes each of its decoder's own slots once")]
    Slot {
        /// Number of the slot.
        index: u32,
        /// What is wrong with it.
        problem: &'static str,
    },
    /// The cache refused an edit.
    #[error(transparent)]
    Cache(#[from] dropcap_cache::CacheError),
    /// The pruning policy failed.
    #[error(transparent)]
    Policy(#[from] dropcap_policy::PolicyError),
    /// The operating system refused an operation.
    #[error("cannot {op} {}: {source}", path.display())]
    Io {
        /// What was tried, as a verb.
        op: &'static str,
        /// The file.
        path: PathBuf,
        /// The operating system's reason.
        source: std::io::Error,
    },
    /// A directory without a `config.json`.
    #[error("{} is missing: give a directory as `save_pretrained` writes it, a GGUF file, or a hub id", path.display())]
    NoConfig {
        /// Where it was looked for.
        path: PathBuf,
    },
    /// A configuration file is longer than any configuration is.
    #[error("{} is longer than the limit of {limit} bytes", path.display())]
    FileTooLong {
        /// The file.
        path: PathBuf,
        /// The limit in bytes.
        limit: u64,
    },
    /// A configuration file is not a JSON object.
    #[error("{} is not a JSON object: {reason}", path.display())]
    Json {
        /// The file.
        path: PathBuf,
        /// The parser's reason, with line and column.
        reason: String,
    },
    /// A configuration value is missing, of the wrong kind, or out of bounds.
    #[error("{key} in {} is {got}, and it must be {expected}", path.display())]
    ConfigValue {
        /// The file.
        path: PathBuf,
        /// The key, with the key it stands under.
        key: String,
        /// What would be accepted.
        expected: String,
        /// The value found.
        got: String,
    },
    /// The model is of a family that is not supported.
    #[error("{} describes {got}, and the models supported are {}", path.display(), Family::list())]
    UnsupportedArchitecture {
        /// The file.
        path: PathBuf,
        /// The architecture found.
        got: String,
    },
    /// The model needs something that is not supported.
    #[error("{} asks for {feature}, which is not supported: {supported}", path.display())]
    UnsupportedFeature {
        /// The file.
        path: PathBuf,
        /// The key and the value found.
        feature: String,
        /// What is supported in its place.
        supported: String,
    },
    /// The tensors are not those that the configuration describes.
    #[error("the weights in {} do not fit its config.json, in {} places:{}", path.display(), problems.len(), lines(problems))]
    Mismatches {
        /// The model's directory.
        path: PathBuf,
        /// One line each.
        problems: Vec<String>,
    },
    /// An adapter's tensors have no place in the model.
    #[error("the adapter in {} does not fit the model, in {} places:{}", path.display(), problems.len(), lines(problems))]
    AdapterMismatch {
        /// The adapter's directory.
        path: PathBuf,
        /// One line each.
        problems: Vec<String>,
    },
    /// An adapter of other weights.
    #[error("the adapter in {} was trained on another model than {}:{}", path.display(), base.display(), lines(problems))]
    AdapterOfAnotherBase {
        /// The adapter's directory.
        path: PathBuf,
        /// The model's directory.
        base: PathBuf,
        /// In what they differ, one line each.
        problems: Vec<String>,
    },
    /// Two adapters for one model.
    #[error("{} is merged in already; {} would be a second adapter: merge the first into a checkpoint of its own", first.display(), second.display())]
    SecondAdapter {
        /// The directory of the adapter that is there.
        first: PathBuf,
        /// That of the one refused.
        second: PathBuf,
    },
    /// Weights that are NaN or infinite.
    #[error("{} tensors of {} hold NaN or infinity:{}", problems.len(), path.display(), lines(problems))]
    NonFinite {
        /// The model's directory.
        path: PathBuf,
        /// One line per tensor.
        problems: Vec<String>,
    },
    /// A weight that a narrower format would hold as infinity.
    #[error("{tensor} of {} holds {value} at element {element}, which is beyond the range of {dtype}: choose a wider dtype ({})", path.display(), dtype.wider())]
    WeightRange {
        /// The model's directory.
        path: PathBuf,
        /// The tensor.
        tensor: String,
        /// Row-major index of the weight.
        element: usize,
        /// Its value.
        value: f32,
        /// The format that was asked for.
        dtype: DType,
    },
    /// The model has no `tokenizer.json`.
    #[error("{} is missing: save it there with AutoTokenizer.from_pretrained(...).save_pretrained(...) (tokenizer.model and vocab.json are not read), or give token ids instead of text", path.display())]
    NoTokenizer {
        /// Where it was looked for.
        path: PathBuf,
    },
    /// `tokenizer.json` is not a tokenizer.
    #[error("{} is not a tokenizer: {reason}", path.display())]
    Tokenizer {
        /// The file.
        path: PathBuf,
        /// The tokenizer library's reason.
        reason: String,
    },
    /// The tokenizer has tokens that the model lacks.
    #[error("{} has token {token} with id {id}, and the model's vocabulary has {vocabulary} tokens: it belongs to another model", path.display())]
    TokenizerVocabulary {
        /// The tokenizer's file.
        path: PathBuf,
        /// The token with the largest id, quoted.
        token: String,
        /// Its id.
        id: u32,
        /// Size of the model's vocabulary, v.
        vocabulary: usize,
    },
    /// More text than is tokenized at once.
    #[error("the text is {got} bytes long, and the limit is {limit}: split it")]
    TextTooLong {
        /// The limit in bytes.
        limit: usize,
        /// Length of the text in bytes.
        got: usize,
    },
    /// A text holds a token that was added to the tokenizer and not to the model.
    #[error("the text holds token {token} with id {id}, which {} adds, and the model's vocabulary has {vocabulary} tokens: remove it from the text", path.display())]
    TokenWithoutRow {
        /// The tokenizer's file.
        path: PathBuf,
        /// The token, quoted.
        token: String,
        /// Its id.
        id: u32,
        /// Size of the model's vocabulary, v.
        vocabulary: usize,
    },
    /// The tokenizer failed on a text.
    #[error("the text cannot be tokenized: {reason}")]
    Encode {
        /// The tokenizer library's reason.
        reason: String,
    },
    /// The tokenizer failed on token ids.
    #[error("the tokens cannot be turned into text: {reason}")]
    Decode {
        /// The tokenizer library's reason.
        reason: String,
    },
    /// Text became a control token although it must stay text.
    #[error(
        "the text holds {token}, which this tokenizer turns into a control token: remove it from the text"
    )]
    ControlToken {
        /// The control token, quoted.
        token: String,
    },
    /// A step without tokens.
    #[error("a step needs at least one token, and none was given")]
    EmptyInput,
    /// A position past the last one that the model knows.
    #[error("{wanted} positions are needed, and the model has {limit}: shorten the prompt or the completion")]
    TooManyPositions {
        /// Positions needed.
        wanted: usize,
        /// Positions of the model.
        limit: usize,
    },
    /// A token id that the embedding has no row for.
    #[error("token id {id} is outside the vocabulary of {vocabulary} tokens")]
    TokenOutsideVocabulary {
        /// The id given.
        id: u32,
        /// Size of the vocabulary, v.
        vocabulary: usize,
    },
}

impl From<dropcap_kernels::cuda::CudaError> for ModelError {
    fn from(error: dropcap_kernels::cuda::CudaError) -> Self {
        ModelError::Kernel(error.into())
    }
}

impl ModelError {
    /// Wraps a refusal of the operating system.
    pub(crate) fn io(op: &'static str, path: &Path, source: std::io::Error) -> Self {
        Self::Io { op, path: path.to_path_buf(), source }
    }
}

/// One line per problem, so many that a wrong model is recognised and a terminal is not flooded.
fn lines(problems: &[String]) -> String {
    const MOST: usize = 40;
    let mut text: String = problems.iter().take(MOST).map(|problem| format!("\n  {problem}")).collect();
    if let Some(more @ 1..) = problems.len().checked_sub(MOST) {
        text.push_str(&format!("\n  and {more} more"));
    }
    text
}
