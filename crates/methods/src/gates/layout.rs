//! How a gate file names its tensors.

/// The `format` entry in the metadata of our own layout.
pub(super) const FORMAT: &str = "dropcap-gates";
/// The version of our own layout that is read and written.
pub(super) const VERSION: u32 = 1;
/// The `rule` entry in the metadata of gates that decide at birth; those that vote have none.
pub(super) const BIRTH: &str = "birth";
/// One tensor name of the published layout, for messages.
pub(crate) const PUBLISHED_EXAMPLE: &str = "transformer.h.0.attn.q_int.weight";

/// When it is decided how long an entry lives, and so which maps gates have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GateKind {
    /// By the votes of later tokens: query gates, key gates and biases.
    Votes,
    /// When the entry is made, by its own token: key gates of width 1 and biases, and no query gates.
    Birth,
}

impl GateKind {
    /// Whether there are query gates, and key gates that are kept with their entries.
    #[must_use]
    pub fn votes(self) -> bool {
        self == Self::Votes
    }
}

/// A way to name the tensors of a gate file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GateLayout {
    /// `layers.{i}.gate.{query.weight, key.weight, bias}` with metadata that names format, version and model; without
    /// `query.weight`, and said so in the metadata, for gates that decide at birth.
    Dropcap,
    /// `transformer.h.{i}.attn.{q_int.weight, k_int.weight, int_bias}`, as the public code of the paper saves a
    /// whole model; tensors that are not gates are left alone.
    Published,
}

impl GateLayout {
    /// Names of one layer's query gate `[r, c]`, key gate `[r, c]` and bias `[1]`.
    #[must_use]
    pub fn names(self, layer: usize) -> [String; 3] {
        match self {
            Self::Dropcap => {
                ["query.weight", "key.weight", "bias"].map(|part| format!("layers.{layer}.gate.{part}"))
            }
            Self::Published => ["q_int.weight", "k_int.weight", "int_bias"]
                .map(|part| format!("transformer.h.{layer}.attn.{part}")),
        }
    }

    /// Whether a tensor that no layer of the model asks for must be explained: in our own layout every one, in
    /// the published one only what is named like a gate.
    pub(super) fn claims(self, name: &str) -> bool {
        match self {
            Self::Dropcap => true,
            Self::Published => is_published_gate(name),
        }
    }
}

/// Whether a name is that of a gate in the published layout, whatever the layer.
pub(super) fn is_published_gate(name: &str) -> bool {
    name.starts_with("transformer.h.")
        && ["q_int.weight", "k_int.weight", "int_bias"]
            .iter()
            .any(|part| name.ends_with(&format!(".attn.{part}")))
}
