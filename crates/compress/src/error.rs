//! Why a text was not made shorter.

use dropcap_engine::EngineError;
use dropcap_model::ModelError;

/// Everything that can go wrong while a text is made shorter.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CompressError {
    /// The model refused a text.
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// The tokenizer refused a text.
    #[error(transparent)]
    Model(#[from] ModelError),
    /// Whoever reads for the method has stopped.
    #[error("the text was not read to its end: {0}")]
    Stopped(&'static str),
    /// A method that judges by an instruction, without one.
    #[error("{method} keeps what helps with an instruction, and there is none: say what the text is for")]
    NoInstruction {
        /// The method.
        method: &'static str,
    },
    /// A text that is larger than whoever asks allows.
    #[error("the text has {given} tokens, and {limit} are the most: cut it into several texts")]
    LongText {
        /// Its tokens.
        given: usize,
        /// The most.
        limit: usize,
    },
    /// An instruction that leaves no room for any text in front of it.
    #[error(
        "the instruction takes {given} tokens, and this model reads texts of {limit}: half of them at most may be the instruction"
    )]
    LongInstruction {
        /// Its tokens.
        given: usize,
        /// Positions of the model.
        limit: usize,
    },
    /// A score that a search cannot compare others with.
    #[error("the prompt scores {given}, and a search needs a score above 0 to compare others with")]
    Score {
        /// The score.
        given: f64,
    },
    /// A label that is no text to the model.
    #[error("the label {label:?} has no token: give labels of letters")]
    Label {
        /// The label.
        label: String,
    },
    /// A text for which no vector is given.
    #[error("there is no vector for {text:?}: give one for the instruction and for every sentence")]
    NoVector {
        /// The text.
        text: String,
    },
    /// A language that is not known.
    #[error("'{given}' is no known language: one of {known}")]
    Language {
        /// As it was given.
        given: String,
        /// All that are known.
        known: String,
    },
}
