//! What can be wrong with a GGUF file.

use super::BlockType;
use super::header::{MAX_DIMENSIONS, MAX_KEY_BYTES, MAX_NAME_BYTES};
use crate::header::{MAX_HEADER_BYTES, MAX_TENSORS};

/// Why a file is not the GGUF file that it claims to be; [`crate::WeightsError::Gguf`] names the file.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum GgufFault {
    /// The first four bytes are others.
    #[error("it does not begin with `GGUF`")]
    Magic,
    /// A version that this reader does not know.
    #[error("it has version {got}, and the versions read are 2 and 3: convert the model again")]
    Version {
        /// The version found.
        got: u32,
    },
    /// Written on a machine with the other order of bytes.
    #[error("it is big-endian, and only little-endian files are read: convert the model again")]
    BigEndian,
    /// The file ends within its header.
    #[error("it ends within {what}: it is cut short, download it again")]
    Cut {
        /// What was being read.
        what: String,
    },
    /// A length or a count that the rest of the file cannot hold.
    #[error(
        "{what} claims {got} bytes or more, and {left} bytes follow: it is cut short or damaged, download it again"
    )]
    Claim {
        /// What claims it.
        what: String,
        /// Bytes claimed at the least.
        got: u64,
        /// Bytes that follow.
        left: u64,
    },
    /// A header longer than any model has.
    #[error("its header is longer than the limit of {MAX_HEADER_BYTES} bytes")]
    HeaderTooLong,
    /// More metadata entries than any model has.
    #[error("it lists {got} metadata entries, and the limit is {MAX_TENSORS}")]
    TooManyEntries {
        /// The number listed.
        got: u64,
    },
    /// More tensors than any model has.
    #[error("it lists {got} tensors, and the limit is {MAX_TENSORS}")]
    TooManyTensors {
        /// The number listed.
        got: u64,
    },
    /// A key longer than the format allows, or empty.
    #[error("it has a key of {got} bytes, and the format allows 1 to {MAX_KEY_BYTES}")]
    KeyLength {
        /// The length found.
        got: u64,
    },
    /// A tensor name longer than the format allows, or empty.
    #[error("it has a tensor name of {got} bytes, and the format allows 1 to {MAX_NAME_BYTES}")]
    NameLength {
        /// The length found.
        got: u64,
    },
    /// Text that is no UTF-8.
    #[error("{what} is not UTF-8")]
    NotUtf8 {
        /// Which text.
        what: String,
    },
    /// A kind of value that the format does not define, or a list of lists, which nothing uses.
    #[error("the metadata entry {key} has values of the unknown kind {got}")]
    ValueKind {
        /// The key, quoted.
        key: String,
        /// The kind found.
        got: u32,
    },
    /// A truth value that is neither 0 nor 1.
    #[error("the metadata entry {key} holds the truth value {got}, which is neither 0 nor 1")]
    Truth {
        /// The key, quoted.
        key: String,
        /// The byte found.
        got: u8,
    },
    /// One key, two entries.
    #[error("it has the metadata entry {key} twice")]
    DuplicateKey {
        /// The key, quoted.
        key: String,
    },
    /// A metadata entry that is of another kind than its key asks for, or out of its bounds.
    #[error("the metadata entry {key} is {got}, and {expected} is expected")]
    Value {
        /// The key, quoted.
        key: String,
        /// What would be right.
        expected: String,
        /// What was found.
        got: String,
    },
    /// One name, two tensors.
    #[error("it lists the tensor {tensor} twice")]
    DuplicateTensor {
        /// The tensor's name, quoted.
        tensor: String,
    },
    /// More dimensions than the format allows, or none.
    #[error("the tensor {tensor} has {got} dimensions, and the format allows 1 to {MAX_DIMENSIONS}")]
    Dimensions {
        /// The tensor's name, quoted.
        tensor: String,
        /// The number found.
        got: u32,
    },
    /// A format of tensors that is not read.
    #[error(
        "the tensor {tensor} is stored as ggml type {got}, and the types read are {}: quantise the model to one of them",
        BlockType::list()
    )]
    TensorType {
        /// The tensor's name, quoted.
        tensor: String,
        /// The number of the type, and its name where it is known.
        got: String,
    },
    /// Dimensions whose bytes cannot be counted.
    #[error("the tensor {tensor} has shape {shape:?}, which has a dimension of 0 or more than 2^63 bytes")]
    Shape {
        /// The tensor's name, quoted.
        tensor: String,
        /// The shape found, rows first.
        shape: Vec<u64>,
    },
    /// Rows that are not whole blocks.
    #[error("the tensor {tensor} has rows of {got} numbers, which are no whole blocks of {block} of {dtype}")]
    PartBlock {
        /// The tensor's name, quoted.
        tensor: String,
        /// Numbers of a row.
        got: u64,
        /// Numbers of a block.
        block: usize,
        /// The format.
        dtype: BlockType,
    },
    /// A tensor that does not begin where the one before it ended.
    #[error(
        "the tensor {tensor} begins at byte {got}, and the tensor before it ends, aligned, at {expected}: tensors must neither overlap nor leave holes"
    )]
    NotContiguous {
        /// The tensor's name, quoted.
        tensor: String,
        /// End of the tensor before it.
        expected: u64,
        /// Where it begins.
        got: u64,
    },
    /// The tensors' bytes and the file's length differ.
    #[error("its tensors take {expected} bytes, but {got} bytes follow the header: {}", if got < expected { "it is cut short, download it again" } else { "trailing bytes are refused" })]
    BodyLength {
        /// Bytes that the tensors take.
        expected: u64,
        /// Bytes that follow the header.
        got: u64,
    },
    /// One file of a model that was split.
    #[error(
        "it is one of the {got} files of a split model: join them first, with `llama-gguf-split --merge FIRST OUTPUT`"
    )]
    Split {
        /// Number of files.
        got: u64,
    },
}
