//! L2: strict reading of safetensors files, one or the shards of one model directory, and of GGUF files; and the one way to
//! write safetensors.
//!
//! What a file claims is checked against what the file holds before anything is allocated: the header's length,
//! the number of tensors, every rank, shape, dtype and byte range. Tensors are read with positional reads, never
//! mapped: a file that is truncated while it is open gives an error instead of a SIGBUS.
//!
//! The checks are those of the `safetensors` crate plus what it lets through: duplicate names, a header that does
//! not begin with `{`, shapes such as `[0, 2^64-1]`, and hundreds of thousands of empty tensors.

mod convert;
mod digest;
mod error;
mod fingerprint;
mod finite;
pub mod fuzzing;
mod gguf;
mod header;
mod index;
mod layout;
mod pickle;
mod shards;
mod stored_type;
mod tensor_file;
mod write;

pub use digest::ContentDigest;
pub use error::WeightsError;
pub use fingerprint::{Fingerprint, FingerprintError};
pub use finite::NonFinite;
pub use gguf::{BlockType, GgufFault, GgufFile, GgufNumbers, GgufTensor, GgufValue, is_gguf};
pub use header::{MAX_HEADER_BYTES, MAX_RANK, MAX_TENSORS};
pub use index::{MAX_SHARDS, ShardIndex};
pub use layout::TensorInfo;
pub use pickle::is_pickle;
pub use shards::{INDEX_FILE, SINGLE_FILE, ShardedTensors};
pub use stored_type::StoredType;
pub use tensor_file::TensorFile;
pub use write::{NewTensor, NewTensorFile, tensor_header};
