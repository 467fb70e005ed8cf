//! Everything that can be wrong with a weight file.

use std::path::{Path, PathBuf};

use dropcap_files::FileError;

use crate::{GgufFault, StoredType};

/// Why a weight file, or a directory of them, was refused.
///
/// Every message names the file; where one tensor is at fault, the tensor; where a limit is passed, the limit and
/// the value found.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum WeightsError {
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
    /// A directory, a pipe or a device stands where a file was expected.
    #[error("{} is not a regular file", path.display())]
    NotAFile {
        /// The path given.
        path: PathBuf,
    },
    /// Fewer bytes than the smallest safetensors file.
    #[error("{} is {got} bytes long, and the smallest safetensors file is 10 bytes long: it is cut short, download it again", path.display())]
    FileTooShort {
        /// The file.
        path: PathBuf,
        /// Its length in bytes.
        got: u64,
    },
    /// The header's claimed length passes the limit.
    #[error("{} claims a header of {got} bytes, and the limit is {limit}: it is not a safetensors file", path.display())]
    HeaderTooLong {
        /// The file.
        path: PathBuf,
        /// The limit in bytes.
        limit: u64,
        /// The claim in bytes.
        got: u64,
    },
    /// The header's claimed length passes the file's length.
    #[error("{} claims a header of {got} bytes, and only {limit} bytes follow: it is cut short, download it again", path.display())]
    HeaderBeyondFile {
        /// The file.
        path: PathBuf,
        /// Bytes that follow the length field.
        limit: u64,
        /// The claim in bytes.
        got: u64,
    },
    /// The header does not begin with `{`.
    #[error("the header of {} begins with {got}, and the format demands `{{`", path.display())]
    HeaderStart {
        /// The file.
        path: PathBuf,
        /// The first byte, as text.
        got: String,
    },
    /// The header is not the JSON that the format demands.
    #[error("the header of {} is not a safetensors header: {reason}", path.display())]
    HeaderJson {
        /// The file.
        path: PathBuf,
        /// The parser's reason, with line and column.
        reason: String,
    },
    /// More tensors than any model has.
    #[error("{} lists {got} tensors, and the limit is {limit}", path.display())]
    TooManyTensors {
        /// The file.
        path: PathBuf,
        /// The limit.
        limit: usize,
        /// The number listed.
        got: usize,
    },
    /// One name, two entries.
    #[error("{} lists the tensor {tensor} twice", path.display())]
    DuplicateTensor {
        /// The file.
        path: PathBuf,
        /// The tensor's name, quoted.
        tensor: String,
    },
    /// A dtype that this reader does not know.
    #[error("the tensor {tensor} in {} has dtype {got}, and the dtypes read are {}", path.display(), StoredType::list())]
    UnknownDtype {
        /// The file.
        path: PathBuf,
        /// The tensor's name, quoted.
        tensor: String,
        /// The dtype found, quoted.
        got: String,
    },
    /// More dimensions than any tensor has.
    #[error("the tensor {tensor} in {} has {got} dimensions, and the limit is {limit}", path.display())]
    RankTooHigh {
        /// The file.
        path: PathBuf,
        /// The tensor's name, quoted.
        tensor: String,
        /// The limit.
        limit: usize,
        /// The number of dimensions found.
        got: usize,
    },
    /// A shape whose dimensions cannot be multiplied, zero-sized ones left out.
    #[error("the tensor {tensor} in {} has shape {got:?}, which is more than 2^63 bytes (dimensions of 0 left out)", path.display())]
    ShapeTooLarge {
        /// The file.
        path: PathBuf,
        /// The tensor's name, quoted.
        tensor: String,
        /// The shape found.
        got: Vec<u64>,
    },
    /// Shape times dtype is not the byte range.
    #[error("the tensor {tensor} in {} has shape {shape:?} of {dtype}, which is {expected} bytes, but its byte range holds {got}", path.display())]
    SizeMismatch {
        /// The file.
        path: PathBuf,
        /// The tensor's name, quoted.
        tensor: String,
        /// The shape found.
        shape: Vec<u64>,
        /// The dtype found.
        dtype: StoredType,
        /// Bytes by shape and dtype.
        expected: u64,
        /// Bytes by offsets.
        got: u64,
    },
    /// A byte range that ends before it begins.
    #[error("the tensor {tensor} in {} has the reversed byte range {start}..{end}", path.display())]
    ReversedRange {
        /// The file.
        path: PathBuf,
        /// The tensor's name, quoted.
        tensor: String,
        /// First byte.
        start: u64,
        /// One past the last byte.
        end: u64,
    },
    /// A byte range that does not begin where the one before it ended.
    #[error("the tensor {tensor} in {} begins at byte {got}, and the tensor before it ends at {expected}: byte ranges must neither overlap nor leave holes", path.display())]
    NotContiguous {
        /// The file.
        path: PathBuf,
        /// The tensor's name, quoted.
        tensor: String,
        /// End of the tensor before it.
        expected: u64,
        /// Where it begins.
        got: u64,
    },
    /// The tensors' bytes and the file's length differ.
    #[error("the tensors of {} take {expected} bytes, but {got} bytes follow the header: {}", path.display(), if got < expected { "it is cut short, download it again" } else { "trailing bytes are refused" })]
    BodyLength {
        /// The file.
        path: PathBuf,
        /// Bytes that the tensors take.
        expected: u64,
        /// Bytes that follow the header.
        got: u64,
    },
    /// A tensor was asked for that is not there.
    #[error("{} has no tensor {tensor}", path.display())]
    NoSuchTensor {
        /// The file or directory.
        path: PathBuf,
        /// The tensor's name, quoted.
        tensor: String,
    },
    /// A stretch of a tensor was asked for that passes its end.
    #[error("bytes {start}..{end} of the tensor {tensor} in {} were asked for, and it has {limit}", path.display())]
    RangeOutside {
        /// The file.
        path: PathBuf,
        /// The tensor's name, quoted.
        tensor: String,
        /// First byte asked for.
        start: u64,
        /// One past the last byte asked for.
        end: u64,
        /// Bytes of the tensor.
        limit: u64,
    },
    /// A GGUF file that is refused.
    #[error("{} is refused as a GGUF file: {fault}", path.display())]
    Gguf {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        fault: GgufFault,
    },
    /// A dtype that has no sensible meaning as f32.
    #[error("the tensor {tensor} in {} is stored as {got}, which is not read as numbers: convert it to F32, F16 or BF16", path.display())]
    NotNumbers {
        /// The file.
        path: PathBuf,
        /// The tensor's name, quoted.
        tensor: String,
        /// The dtype found.
        got: StoredType,
    },
    /// The directory holds no weights at all.
    #[error("{} holds neither model.safetensors nor model.safetensors.index.json", dir.display())]
    NoWeights {
        /// The directory.
        dir: PathBuf,
    },
    /// The directory holds only pickles, which run code when they are loaded.
    #[error("{} holds {found} but no safetensors file, and pickled weights are never loaded because they can run code; convert them once, where you trust them, with:\n  python -c \"from transformers import AutoModelForCausalLM as M; M.from_pretrained('{}').save_pretrained('{}-safe', safe_serialization=True)\"", dir.display(), dir.display(), dir.display())]
    OnlyPickle {
        /// The directory.
        dir: PathBuf,
        /// One of the pickled files.
        found: String,
    },
    /// The index is not the JSON that the format demands.
    #[error("{} is not an index of shards: {reason}", path.display())]
    Index {
        /// The index file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// The index names more files than any model has.
    #[error("{} names {got} shards, and the limit is {limit}", path.display())]
    TooManyShards {
        /// The index file.
        path: PathBuf,
        /// The limit.
        limit: usize,
        /// The number of files named.
        got: usize,
    },
    /// The index names a file that is not there.
    #[error("{} names the shard {shard}, which is missing: download the model again", index.display())]
    MissingShard {
        /// The index file.
        index: PathBuf,
        /// The shard's name, quoted.
        shard: String,
    },
    /// The index names a file that is no safetensors file inside the model's directory.
    #[error("{} names the shard {shard}, which is no safetensors file inside the model's directory; do not trust this model", index.display())]
    UnsafeShard {
        /// The index file.
        index: PathBuf,
        /// The shard's name, quoted.
        shard: String,
    },
    /// A file that leads out of the model's directory.
    #[error(transparent)]
    File(#[from] FileError),
    /// A tensor that is to be written whose bytes are not those of its shape.
    #[error("the tensor {tensor} of shape {shape:?} in {dtype} takes {expected} bytes, and {got} were given")]
    NewTensorSize {
        /// The tensor's name, quoted.
        tensor: String,
        /// Its shape.
        shape: Vec<usize>,
        /// Its dtype.
        dtype: StoredType,
        /// Bytes by shape and dtype.
        expected: u64,
        /// Bytes given.
        got: u64,
    },
    /// Two tensors that are to be written have one name, or one has a name that the format reserves.
    #[error("the name {tensor} is reserved, or given to two tensors of one file")]
    NewTensorName {
        /// The tensor's name, quoted.
        tensor: String,
    },
    /// One tensor, two shards.
    #[error("the tensor {tensor} is in both {first} and {second} of {}: the shards are of different models or revisions", dir.display())]
    TensorInTwoShards {
        /// The directory.
        dir: PathBuf,
        /// The tensor's name, quoted.
        tensor: String,
        /// One shard.
        first: String,
        /// The other shard.
        second: String,
    },
    /// The index promises a tensor that its shard does not hold.
    #[error("{} says that the tensor {tensor} is in {shard}, which does not hold it: the shards are of different models or revisions", index.display())]
    NotInShard {
        /// The index file.
        index: PathBuf,
        /// The tensor's name, quoted.
        tensor: String,
        /// The shard that should hold it.
        shard: String,
    },
}

impl WeightsError {
    /// Wraps a refusal of the operating system.
    pub(crate) fn io(op: &'static str, path: &Path, source: std::io::Error) -> Self {
        Self::Io { op, path: path.to_path_buf(), source }
    }
}

/// A name from a file as it may stand in a message: quoted, escaped, and cut when it is long.
pub(crate) fn quoted(name: &str) -> String {
    const LONGEST: usize = 120;
    match name.char_indices().nth(LONGEST) {
        Some((cut, _)) => format!("{:?}... ({} bytes)", &name[..cut], name.len()),
        None => format!("{name:?}"),
    }
}
