//! The weights of a decoder, wherever they lie: one walk over a plan fills the memory of the processor or of a device,
//! from a checkpoint or with random numbers.

mod format;
mod random;
mod range;
mod stored;

use std::fmt::Debug;

use dropcap_kernels::{DType, Part, RopeTable, Team};

pub(crate) use self::format::{Held, StoredAs, formats_by_bytes};
pub use self::format::{WeightFormat, stored_type};
use self::random::Random;
pub(crate) use self::range::first_outside;
use self::stored::Stored;
use crate::{
    Checkpoint, DecoderConfig, LayerPlan, MatrixPlan, ModelError, NormPlan, Position, VectorPart, WeightPlan,
};

/// A kind of memory for weights.
pub(crate) trait Storage {
    /// A weight `[outputs, inputs]`.
    type Matrix: Debug;
    /// What a product adds, `[outputs]`.
    type Bias: Debug;
    /// The scale or the shift of a norm, f32.
    type Vector: Debug;

    /// Numbers of a stored tensor that are read at a time where rows are outputs.
    const SLICE: usize;

    /// How a matrix of these parts is held; `table` says whether it has an output for each token or position.
    fn held(&self, inputs: usize, table: bool, parts: &[StoredAs]) -> Held;

    /// The narrowest format that a bias is held in.
    fn bias_dtype(&self) -> DType;

    /// Rows of a matrix that has an output for each of `tokens`, beyond which there may be zeros.
    fn table_rows(&self, tokens: usize) -> usize;

    /// A matrix of zeros.
    fn zeroed(&self, outputs: usize, inputs: usize, held: Held) -> Result<Self::Matrix, ModelError>;

    /// Fills outputs `first_output..first_output + part.outputs`, on the threads of the team.
    fn fill(
        &self,
        team: &Team,
        matrix: &mut Self::Matrix,
        first_output: usize,
        part: &Part<'_>,
    ) -> Result<(), ModelError>;

    /// The same with blocks of the format in which the matrix is held.
    fn fill_blocks(
        &self,
        team: &Team,
        matrix: &mut Self::Matrix,
        first_output: usize,
        outputs: usize,
        blocks: &[u8],
    ) -> Result<(), ModelError>;

    /// A matrix of evenly distributed numbers in `-scale..=scale`, the same for the same seed.
    fn random(
        &self,
        outputs: usize,
        inputs: usize,
        held: Held,
        scale: f32,
        seed: u64,
    ) -> Result<Self::Matrix, ModelError>;

    /// A bias of these numbers.
    fn bias(&self, numbers: Vec<f32>) -> Result<Self::Bias, ModelError>;

    /// A vector of these numbers.
    fn vector(&self, numbers: Vec<f32>) -> Result<Self::Vector, ModelError>;
}

/// All weights of a decoder.
#[derive(Debug)]
pub(crate) struct Weights<S: Storage> {
    /// Token embedding `[v, c]`; also the head when the config ties them.
    pub(crate) embedding: S::Matrix,
    /// Learned positions `[max_positions, c]`, for families that have them.
    pub(crate) positions: Option<S::Matrix>,
    pub(crate) layers: Vec<LayerWeights<S>>,
    pub(crate) final_norm: NormWeights<S>,
    /// Output head `[v, c]`, absent when tied to the embedding.
    pub(crate) head: Option<S::Matrix>,
}

/// The weights of one layer; `norm -> attention -> add -> norm -> MLP -> add`.
#[derive(Debug)]
pub(crate) struct LayerWeights<S: Storage> {
    pub(crate) attention_norm: NormWeights<S>,
    /// `[q | k | v]` stacked along outputs: `[(h + 2g) d, c]`.
    pub(crate) qkv: Linear<S>,
    /// Per-head RMS norms of queries and keys `[d]` (Qwen3).
    pub(crate) query_norm: Option<S::Vector>,
    pub(crate) key_norm: Option<S::Vector>,
    pub(crate) output: Linear<S>,
    pub(crate) mlp_norm: NormWeights<S>,
    /// `[m, c]`, or `[gate | up]` stacked `[2m, c]` for SwiGLU.
    pub(crate) up: Linear<S>,
    pub(crate) down: Linear<S>,
}

impl<S: Storage> LayerWeights<S> {
    /// All its products.
    pub(crate) fn linears(&self) -> [&Linear<S>; 4] {
        [&self.qkv, &self.output, &self.up, &self.down]
    }
}

/// `y = x W^T + bias`.
#[derive(Debug)]
pub(crate) struct Linear<S: Storage> {
    /// `[outputs, inputs]`.
    pub(crate) weight: S::Matrix,
    /// `[outputs]`, for families that have one.
    pub(crate) bias: Option<S::Bias>,
}

/// A norm over the hidden width `[c]`: a bias makes it a LayerNorm.
#[derive(Debug)]
pub(crate) struct NormWeights<S: Storage> {
    pub(crate) weight: S::Vector,
    pub(crate) bias: Option<S::Vector>,
}

/// Where the numbers of a plan come from.
trait Source {
    type Storage: Storage;

    /// The matrix of a plan, with `outputs` or more rows: those beyond the plan's are zeros, or random as the others.
    /// `table` says whether it has an output for each token or position.
    fn matrix(
        &mut self,
        plan: &MatrixPlan,
        outputs: usize,
        table: bool,
    ) -> Result<MatrixOf<Self>, ModelError>;

    /// The biases of a fused product, one after the other.
    fn bias(&mut self, parts: &[VectorPart]) -> Result<BiasOf<Self>, ModelError>;

    /// A vector, which holds `untrained` everywhere in a model that has learned nothing.
    fn vector(&mut self, part: &VectorPart, untrained: f32) -> Result<VectorOf<Self>, ModelError>;

    /// Where they go.
    fn storage(&self) -> &Self::Storage;
}

type MatrixOf<F> = <<F as Source>::Storage as Storage>::Matrix;
type BiasOf<F> = <<F as Source>::Storage as Storage>::Bias;
type VectorOf<F> = <<F as Source>::Storage as Storage>::Vector;

impl<S: Storage> Weights<S> {
    /// Reads all weights of a checkpoint, a few rows of a tensor in memory at a time.
    ///
    /// # Errors
    /// A number that is not finite or passes the range of the format that it is held in; a file that became shorter
    /// or unreadable since the checkpoint was opened; too little memory.
    pub(crate) fn load(storage: &S, team: &Team, checkpoint: &Checkpoint) -> Result<Self, ModelError> {
        Self::walk(checkpoint.plan(), &mut Stored::new(storage, team, checkpoint))
    }

    /// Random weights of `config`'s shape, the same for the same seed and in every storage; small enough for
    /// activations to stay finite through any number of layers.
    ///
    /// # Errors
    /// Too little memory.
    pub(crate) fn random(storage: &S, config: &DecoderConfig, seed: u64) -> Result<Self, ModelError> {
        Self::walk(&WeightPlan::of(config, &|_| true), &mut Random { storage, seed })
    }

    fn walk(plan: &WeightPlan, source: &mut impl Source<Storage = S>) -> Result<Self, ModelError> {
        Ok(Self {
            embedding: table(&plan.embedding, source)?,
            positions: plan
                .positions
                .as_ref()
                .map(|plan| source.matrix(plan, plan.outputs(), true))
                .transpose()?,
            layers: plan.layers.iter().map(|plan| layer(plan, source)).collect::<Result<_, _>>()?,
            final_norm: norm(&plan.final_norm, source)?,
            head: plan.head.as_ref().map(|plan| table(plan, source)).transpose()?,
        })
    }
}

fn layer<F: Source>(plan: &LayerPlan, source: &mut F) -> Result<LayerWeights<F::Storage>, ModelError> {
    let mut head_norm =
        |part: &Option<VectorPart>| part.as_ref().map(|part| source.vector(part, 1.0)).transpose();
    let (query_norm, key_norm) = (head_norm(&plan.query_norm)?, head_norm(&plan.key_norm)?);
    Ok(LayerWeights {
        attention_norm: norm(&plan.attention_norm, source)?,
        qkv: linear(&plan.qkv, source)?,
        query_norm,
        key_norm,
        output: linear(&plan.output, source)?,
        mlp_norm: norm(&plan.mlp_norm, source)?,
        up: linear(&plan.up, source)?,
        down: linear(&plan.down, source)?,
    })
}

fn linear<F: Source>(plan: &MatrixPlan, source: &mut F) -> Result<Linear<F::Storage>, ModelError> {
    let bias = (!plan.bias.is_empty()).then(|| source.bias(&plan.bias)).transpose()?;
    Ok(Linear { weight: matrix(plan, source)?, bias })
}

fn norm<F: Source>(plan: &NormPlan, source: &mut F) -> Result<NormWeights<F::Storage>, ModelError> {
    let weight = source.vector(&plan.weight, 1.0)?;
    let bias = plan.bias.as_ref().map(|part| source.vector(part, 0.0)).transpose()?;
    Ok(NormWeights { weight, bias })
}

fn matrix<F: Source>(plan: &MatrixPlan, source: &mut F) -> Result<MatrixOf<F>, ModelError> {
    source.matrix(plan, plan.outputs(), false)
}

/// A matrix with an output for every token.
fn table<F: Source>(plan: &MatrixPlan, source: &mut F) -> Result<MatrixOf<F>, ModelError> {
    let rows = source.storage().table_rows(plan.outputs());
    source.matrix(plan, rows, true)
}

/// The frequencies of a family that rotates.
pub(crate) fn rope_table(config: &DecoderConfig) -> Option<RopeTable> {
    match config.position {
        Position::Learned => None,
        Position::Rope(rope) => {
            let (inv_freq, attention_scaling) = rope.frequencies(config.head_dim);
            Some(RopeTable { inv_freq, attention_scaling })
        }
    }
}
