//! Why a method was refused.

use std::path::PathBuf;

use dropcap_files::FileError;
use dropcap_kernels::KernelError;
use dropcap_weights::{NonFinite, WeightsError};

use crate::method::Ranks;
use crate::{Amount, METHODS};

/// Everything that can be wrong with a method's specification or its files.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum MethodError {
    /// The text does not follow the grammar of [`crate::MethodSpec`].
    #[error("cannot read the method at byte {at}: expected {expected}, got {got}")]
    Syntax {
        /// Byte offset in the text.
        at: usize,
        /// What the grammar allows there.
        expected: &'static str,
        /// What stands there.
        got: String,
    },
    /// One of the following, and where in the specification it is.
    #[error("at byte {at} of the method: {error}")]
    At {
        /// Byte offset in the text.
        at: usize,
        /// What is wrong there.
        error: Box<MethodError>,
    },
    /// The text is too long to be a specification.
    #[error("the method's specification has {got} bytes; at most {limit} are read")]
    TooLong {
        /// The limit in bytes.
        limit: usize,
        /// The length in bytes.
        got: usize,
    },
    /// Too many methods joined by `&`.
    #[error("more than {limit} methods are joined by `&`; at most {limit} can be combined")]
    TooManyTerms {
        /// The limit.
        limit: usize,
    },
    /// Too many parameters within one pair of parentheses.
    #[error("more than {limit} parameters are given to one method; no method has so many")]
    TooManyArguments {
        /// The limit.
        limit: usize,
    },
    /// There is no such method.
    #[error("there is no method `{}`{}; the methods are {}", shown(name), suggestion(*nearest), known.join(", "))]
    UnknownMethod {
        /// The name given.
        name: String,
        /// All methods.
        known: Vec<&'static str>,
        /// The one probably meant.
        nearest: Option<&'static str>,
    },
    /// The method has no such parameter.
    #[error("{method} has no parameter `{}`{}; {}", shown(key), suggestion(*nearest), listed(method, known))]
    UnknownParameter {
        /// The method.
        method: &'static str,
        /// The key given.
        key: String,
        /// All parameters of the method.
        known: Vec<&'static str>,
        /// The one probably meant.
        nearest: Option<&'static str>,
    },
    /// A parameter given twice.
    #[error("the parameter `{key}` is given twice; give it once")]
    Repeated {
        /// The key.
        key: String,
    },
    /// A value outside the range of its parameter.
    #[error("`{key}` is `{}`; allowed is {allowed}", shown(given))]
    OutOfRange {
        /// The parameter, or `@` for the amount.
        key: String,
        /// The value given.
        given: String,
        /// The range.
        allowed: String,
    },
    /// Values that are fine one by one and make no sense together.
    #[error("{method}: {what}; {advice}")]
    Contradiction {
        /// The method.
        method: &'static str,
        /// Which values contradict each other, and how.
        what: String,
        /// What to write instead.
        advice: String,
    },
    /// The name that other projects use for the share removed.
    #[error(
        "there is no `compression_ratio` (given: `{}`): it counts what is REMOVED, and here a share always counts what is KEPT; write {instead} after the method",
        shown(given)
    )]
    CompressionRatio {
        /// The value given.
        given: String,
        /// What to write instead.
        instead: String,
    },
    /// An amount for a method that has no use for one.
    #[error(
        "{method} takes no amount, got @{given}; leave it out, or combine: {method} & streaming_llm@2048"
    )]
    NoAmount {
        /// The method.
        method: &'static str,
        /// The amount given.
        given: Amount,
    },
    /// A method that ranks entries, and nothing that says how many stay.
    #[error(
        "{method} ranks entries and needs to be told how many stay: write @0.2 for the share kept, or @1024 for tokens, behind it"
    )]
    NoBudget {
        /// The method.
        method: &'static str,
    },
    /// A budget that shares out what no method ranks.
    #[error("{method} shares out a budget among what another method ranks: write {method}(snapkv)@0.2")]
    NoInner {
        /// The method.
        method: &'static str,
    },
    /// A budget within the parentheses of another.
    #[error(
        "{method} stands within {outer}, and the budget behind it (@{given}) would be a second one: write it once, behind {outer}(...)"
    )]
    InnerAmount {
        /// The method within.
        method: &'static str,
        /// The method around it.
        outer: &'static str,
        /// The amount given.
        given: Amount,
    },
    /// A method within parentheses that ranks nothing.
    #[error(
        "{method} does not rank entries, so no budget can be shared out among them; methods that rank are {}",
        ranking()
    )]
    DoesNotRank {
        /// The method.
        method: &'static str,
    },
    /// A method that shares a budget among heads, around one that has the same entries in all.
    #[error(
        "{method} shares a budget among heads, and the method within it keeps the same tokens in all of them; put it around one that ranks per head: {method}(snapkv)@0.2"
    )]
    NotPerHead {
        /// The method around.
        method: &'static str,
    },
    /// A method within the parentheses of one that takes none.
    #[error(
        "{method} takes no other method within its parentheses; join methods by `&`, or write {}",
        around()
    )]
    TakesNoInner {
        /// The method.
        method: &'static str,
    },
    /// A gate file that cannot be read.
    #[error("cannot read the gates: {0}")]
    Weights(#[from] WeightsError),
    /// A safetensors file that holds no gates.
    #[error(
        "{} holds no gates: expected the metadata format=dropcap-gates, or tensors named {}; found {found}",
        path.display(),
        crate::gates::PUBLISHED_EXAMPLE
    )]
    NoGates {
        /// The file.
        path: PathBuf,
        /// What the file holds.
        found: String,
    },
    /// A gate file of a version that this program does not know.
    #[error("{} is a gate file of version `{}`; this program reads version {expected}: use the dropcap that wrote it, or a newer one", path.display(), shown(found))]
    GateVersion {
        /// The file.
        path: PathBuf,
        /// The version that is read.
        expected: u32,
        /// The version found.
        found: String,
    },
    /// Gates whose tensors do not fit the model; all differences at once.
    #[error("the gates in {} do not fit the model:\n  {}", path.display(), differences.join("\n  "))]
    GateShape {
        /// The file.
        path: PathBuf,
        /// One line per difference, with expected and found.
        differences: Vec<String>,
    },
    /// Gates that were trained for another model; all differences at once.
    #[error(
        "the gates in {} were trained for another model:\n  {}\nuse this model's gates, or write fingerprint=ignore if the weights are known to be the same",
        path.display(),
        differences.join("\n  ")
    )]
    GateFingerprint {
        /// The file.
        path: PathBuf,
        /// One line per differing field, with expected and found.
        differences: Vec<String>,
    },
    /// A gate that is not a number.
    #[error("the gates in {} are broken: {found}; train or download them again", path.display())]
    GateNotFinite {
        /// The file.
        path: PathBuf,
        /// Tensor, index and value.
        found: NonFinite,
    },
    /// Gates in memory whose parts do not fit together.
    #[error("gates: {what} must hold {expected} numbers, got {got}")]
    GateParts {
        /// Which part.
        what: String,
        /// Numbers that the other parts imply.
        expected: usize,
        /// Numbers given.
        got: usize,
    },
    /// A head profile that cannot be read at all.
    #[error("cannot read the head profile {}: {error}", path.display())]
    ProfileUnreadable {
        /// The file.
        path: PathBuf,
        /// Why.
        error: std::io::Error,
    },
    /// A head profile that does not follow its format.
    #[error("the head profile {}, {place}: {what}", path.display())]
    Profile {
        /// The file.
        path: PathBuf,
        /// The line, or the head.
        place: String,
        /// What stands there, and what was expected.
        what: String,
    },
    /// A head profile of a model of another shape.
    #[error(
        "the head profile {} is of {} layers of {} heads, and the model has {} layers of {} KV heads; use a profile of this model",
        path.display(), got.0, got.1, expected.0, expected.1
    )]
    ProfileShape {
        /// The file.
        path: PathBuf,
        /// Its layers and heads.
        got: (usize, usize),
        /// The model's layers and KV heads.
        expected: (usize, usize),
    },
    /// A head profile that was measured on another model; all differences at once.
    #[error(
        "the head profile {} was measured on another model:\n  {}\nmake one of this model with `dropcap profile`, or take the key \"model\" out of the file if the weights are known to be the same",
        path.display(),
        differences.join("\n  ")
    )]
    ProfileFingerprint {
        /// The file.
        path: PathBuf,
        /// One line per differing field, with expected and found.
        differences: Vec<String>,
    },
    /// A head profile that could not be written; what stood there before is untouched.
    #[error("cannot write the head profile: {0}")]
    ProfileUnwritten(FileError),
    /// A gate file that could not be written; what stood there before is untouched.
    #[error("cannot write the gates: {0}")]
    Write(#[from] FileError),
    /// Gates whose numbers do not fill the shapes of a gate file.
    #[error("cannot lay out the gates: {0}")]
    Layout(WeightsError),
    /// The gates' matrices could not be packed.
    #[error("cannot prepare the gates: {0}")]
    Kernel(#[from] KernelError),
}

impl MethodError {
    /// The same error with its place in the specification.
    pub(crate) fn at(self, at: usize) -> Self {
        Self::At { at, error: Box::new(self) }
    }
}

/// A user's words as they may stand in a message: without control characters, and not endless.
fn shown(given: &str) -> String {
    const LONGEST: usize = 80;
    let mut text: String = given.chars().take(LONGEST).flat_map(char::escape_debug).collect();
    if given.chars().count() > LONGEST {
        text.push_str("...");
    }
    text
}

/// The methods that rank by themselves.
fn ranking() -> String {
    let ranks = METHODS.iter().filter(|method| matches!(method.ranks, Ranks::Itself(_)));
    ranks.map(|method| method.name).collect::<Vec<_>>().join(", ")
}

/// How methods stand within others.
fn around() -> String {
    let around = METHODS.iter().filter(|method| matches!(method.ranks, Ranks::Around(_)));
    around.map(|method| format!("{}(snapkv)@0.2", method.name)).collect::<Vec<_>>().join(" or ")
}

fn suggestion(nearest: Option<&str>) -> String {
    nearest.map_or_else(String::new, |name| format!(" (did you mean `{name}`?)"))
}

fn listed(method: &str, known: &[&str]) -> String {
    match known {
        [] => format!("{method} takes no parameters"),
        known => format!("known are {}", known.join(", ")),
    }
}
