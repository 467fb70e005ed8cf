//! Keys that take one of a few words.

use serde::{Deserialize, Serialize};

/// Families that a model can be made of from scratch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Family {
    /// GPT-2: learned positions, layer norm, GELU.
    Gpt2,
    /// Llama: rotated positions, RMS norm, SwiGLU.
    Llama,
}

/// Which weights are trained.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Trained {
    /// The model's and the gates'.
    All,
    /// Only the gates'.
    Gates,
    /// Thin factors beside the model's, which are held, and the gates'.
    Lora,
}

/// What is forgotten during training.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Method {
    /// Nothing.
    None,
    /// What leaves a fixed window: a baseline.
    Window,
    /// What the gates, which are trained, decide.
    Dcp,
}

/// The learning rate after the warm-up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Decay {
    /// It stays.
    Constant,
    /// It falls along half a cosine to the floor.
    Cosine,
}

/// Which KV heads share a gate.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum GateGroup {
    /// All of a layer.
    Layer,
    /// Each has its own.
    KvHead,
}

/// Who decides what is forgotten, and how gates act while they are trained.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum GateRule {
    /// The published form: products of alpha-sigmoids that sharpen.
    Soft,
    /// As in inference, with a gradient straight through the threshold.
    Hard,
    /// As hard, but each token decides about its own entry when that is made, and later ones have no say.
    Birth,
}

/// How the gates' input is scaled.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Scale {
    /// Not at all.
    None,
    /// Each channel by its root mean square, absorbed into the weights at the end.
    Rms,
}

/// How gamma's term is normalised.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SparsityForm {
    /// The public code's: the mean over the whole square of T - 1 by T.
    Published,
    /// The paper's: the mean over pairs of a query and an earlier entry.
    Paper,
}
