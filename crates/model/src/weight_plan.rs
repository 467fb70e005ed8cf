//! Which stored tensor goes into which slot of a decoder.

use dropcap_kernels::Orientation;

use crate::decoder_config::DecoderConfig;

/// Every tensor of a decoder by name, with the shape that it must have.
///
/// The shapes follow from the config alone, so that a checkpoint is compared with a plan before any weight is read.
#[derive(Debug, Clone, PartialEq)]
pub struct WeightPlan {
    /// Token embedding `[v, c]`.
    pub embedding: MatrixPlan,
    /// Learned positions `[max_positions, c]`.
    pub positions: Option<MatrixPlan>,
    /// One per layer.
    pub layers: Vec<LayerPlan>,
    /// The norm before the head.
    pub final_norm: NormPlan,
    /// The head `[v, c]`; `None` when it is the embedding.
    pub head: Option<MatrixPlan>,
    /// What the names of the trunk begin with.
    pub(crate) prefix: &'static str,
    /// A copy of the embedding that may be stored although it is tied.
    pub(crate) tied_copy: Option<&'static str>,
    /// Ends of the names of tensors that may be stored and are not weights.
    pub(crate) buffers: &'static [&'static str],
}

/// The tensors of one layer.
#[derive(Debug, Clone, PartialEq)]
pub struct LayerPlan {
    /// The norm before attention.
    pub attention_norm: NormPlan,
    /// `[q | k | v]`, `[(h + 2g) d, c]`.
    pub qkv: MatrixPlan,
    /// RMS norm of each head's queries `[d]`.
    pub query_norm: Option<VectorPart>,
    /// RMS norm of each head's keys `[d]`.
    pub key_norm: Option<VectorPart>,
    /// Attention's output `[c, h d]`.
    pub output: MatrixPlan,
    /// The norm before the MLP.
    pub mlp_norm: NormPlan,
    /// The MLP's first matrix, or `[gate | up]`.
    pub up: MatrixPlan,
    /// The MLP's last matrix.
    pub down: MatrixPlan,
}

/// A matrix made of one or more stored tensors stacked along their outputs.
#[derive(Debug, Clone, PartialEq)]
pub struct MatrixPlan {
    /// Inputs of every part.
    pub inputs: usize,
    /// The stored tensors, in the order in which they are stacked.
    pub parts: Vec<MatrixPart>,
    /// The stored biases, one after the other as long as the outputs; empty without a bias.
    pub bias: Vec<VectorPart>,
}

/// One stored tensor of a matrix.
#[derive(Debug, Clone, PartialEq)]
pub struct MatrixPart {
    /// Name of the tensor.
    pub tensor: String,
    /// Outputs that it gives.
    pub outputs: usize,
    /// Which of its two dimensions is the outputs.
    pub orientation: Orientation,
}

/// One stored vector.
#[derive(Debug, Clone, PartialEq)]
pub struct VectorPart {
    /// Name of the tensor.
    pub tensor: String,
    /// Its length.
    pub length: usize,
}

/// A norm over the residual stream.
#[derive(Debug, Clone, PartialEq)]
pub struct NormPlan {
    /// Scale `[c]`.
    pub weight: VectorPart,
    /// Shift `[c]`, for LayerNorm.
    pub bias: Option<VectorPart>,
}

/// A tensor that a plan asks for.
#[derive(Debug, Clone, PartialEq)]
pub struct PlannedTensor<'a> {
    /// Name of the tensor.
    pub name: &'a str,
    /// The shape that it must have.
    pub shape: Vec<usize>,
}

impl VectorPart {
    pub(crate) fn new(tensor: String, length: usize) -> Self {
        Self { tensor, length }
    }
}

impl MatrixPlan {
    /// Linear layers `NAME.weight`, and `NAME.bias` if they have one, stacked along their outputs.
    pub(crate) fn linear(names: impl Iterator<Item = (String, usize)>, inputs: usize, bias: bool) -> Self {
        let mut plan = Self { inputs, parts: Vec::new(), bias: Vec::new() };
        for (name, outputs) in names {
            if bias {
                plan.bias.push(VectorPart::new(format!("{name}.bias"), outputs));
            }
            let tensor = format!("{name}.weight");
            plan.parts.push(MatrixPart { tensor, outputs, orientation: Orientation::OutputsByInputs });
        }
        plan
    }

    /// GPT-2's `Conv1D`: `[inputs, outputs]`, always with a bias.
    pub(crate) fn conv1d(name: &str, outputs: usize, inputs: usize) -> Self {
        let tensor = format!("{name}.weight");
        let part = MatrixPart { tensor, outputs, orientation: Orientation::InputsByOutputs };
        let bias = vec![VectorPart::new(format!("{name}.bias"), outputs)];
        Self { inputs, parts: vec![part], bias }
    }

    /// One tensor `[rows, width]` without a bias: an embedding or a head.
    pub(crate) fn table(tensor: String, rows: usize, width: usize) -> Self {
        let part = MatrixPart { tensor, outputs: rows, orientation: Orientation::OutputsByInputs };
        Self { inputs: width, parts: vec![part], bias: Vec::new() }
    }

    /// Outputs of all parts together.
    pub fn outputs(&self) -> usize {
        self.parts.iter().map(|part| part.outputs).sum()
    }

    fn tensors(&self) -> impl Iterator<Item = PlannedTensor<'_>> {
        let matrices = self.parts.iter().map(|part| PlannedTensor {
            name: &part.tensor,
            shape: match part.orientation {
                Orientation::OutputsByInputs => vec![part.outputs, self.inputs],
                Orientation::InputsByOutputs => vec![self.inputs, part.outputs],
            },
        });
        matrices.chain(self.bias.iter().map(VectorPart::tensor))
    }
}

impl VectorPart {
    fn tensor(&self) -> PlannedTensor<'_> {
        PlannedTensor { name: &self.tensor, shape: vec![self.length] }
    }
}

impl NormPlan {
    fn tensors(&self) -> impl Iterator<Item = PlannedTensor<'_>> {
        std::iter::once(&self.weight).chain(&self.bias).map(VectorPart::tensor)
    }
}

impl LayerPlan {
    fn tensors(&self) -> impl Iterator<Item = PlannedTensor<'_>> {
        let norms = self.attention_norm.tensors().chain(self.mlp_norm.tensors());
        let matrices =
            [&self.qkv, &self.output, &self.up, &self.down].into_iter().flat_map(MatrixPlan::tensors);
        let heads = self.query_norm.iter().chain(&self.key_norm).map(VectorPart::tensor);
        norms.chain(matrices).chain(heads)
    }
}

impl WeightPlan {
    /// The plan of a config; `has` tells whether a tensor is stored, which settles how names begin.
    pub fn of(config: &DecoderConfig, has: &dyn Fn(&str) -> bool) -> Self {
        config.family.plan(config, has)
    }

    /// Every tensor that the decoder needs, each once, in the order of the decoder.
    pub fn tensors(&self) -> impl Iterator<Item = PlannedTensor<'_>> {
        let tables = [Some(&self.embedding), self.positions.as_ref(), self.head.as_ref()];
        let tables = tables.into_iter().flatten().flat_map(MatrixPlan::tensors);
        tables.chain(self.layers.iter().flat_map(LayerPlan::tensors)).chain(self.final_norm.tensors())
    }

    /// Every matrix, and whether it has an output per token or position.
    pub(crate) fn matrices(&self) -> impl Iterator<Item = (&MatrixPlan, bool)> {
        let tables = [Some(&self.embedding), self.positions.as_ref(), self.head.as_ref()];
        tables
            .into_iter()
            .flatten()
            .map(|table| (table, true))
            .chain(self.products().map(|plan| (plan, false)))
    }

    /// The linear layers between the residual stream and itself, in the order of the decoder: what adapters change.
    pub fn products(&self) -> impl Iterator<Item = &MatrixPlan> {
        self.layers.iter().flat_map(|layer| [&layer.qkv, &layer.output, &layer.up, &layer.down])
    }

    /// Whether a stored tensor that no slot asks for may be passed over: masks and frequencies that old versions
    /// of `transformers` saved beside the weights.
    pub fn is_buffer(&self, name: &str) -> bool {
        self.buffers.iter().any(|end| name.ends_with(end))
    }

    /// A name without what the trunk's names begin with.
    pub(crate) fn label<'a>(&self, name: &'a str) -> &'a str {
        name.strip_prefix(self.prefix).unwrap_or(name)
    }
}
