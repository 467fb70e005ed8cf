//! Hugging Face checkpoints as one configurable decoder.
//!
//! The loading half: [`Checkpoint`] compares a directory's config with its weights and says which tensor goes
//! where; [`Tokenizer`], [`GenerationConfig`] and the chat template ([`chat`]) stand beside it. A family of models is a mapping of config keys
//! and a mapping of tensor names, nothing more.

mod adapter;
pub mod chat;
mod checkpoint;
mod companion;
mod config_json;
mod decoder;
mod decoder_config;
pub mod device;
mod error;
mod families;
pub mod fuzzing;
mod generation_config;
mod gguf;
pub mod hub;
mod rope_config;
mod special_ids;
mod stated_dtype;
mod tokenizer;
mod weight_plan;
mod weights;

pub use adapter::{Adapter, LowRank, NewAdapter, module, peft_factor};
pub use checkpoint::{Checkpoint, TOKENIZER_FILES, name_dtype};
pub use companion::read_companion;
pub use decoder::{DeathSink, Decoder, Logits, Scratch, Segment};
pub use decoder_config::{
    DecoderConfig, MAX_HEAD_DIM, MAX_HEADS, MAX_HIDDEN, MAX_INTERMEDIATE, MAX_LAYERS, MAX_POSITIONS,
    MAX_VOCABULARY, Mlp, Norm, NormKind, Position, ScoreScale,
};
pub use error::ModelError;
pub use families::Family;
pub use generation_config::GenerationConfig;
pub use rope_config::{RopeConfig, RopeScaling};
pub use tokenizer::{IncrementalText, MAX_TEXT_BYTES, Tokenizer};
pub use weight_plan::{LayerPlan, MatrixPart, MatrixPlan, NormPlan, PlannedTensor, VectorPart, WeightPlan};
pub use weights::{WeightFormat, stored_type};
