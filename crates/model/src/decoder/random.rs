//! A decoder of random weights, for measuring a shape without its checkpoint.

use dropcap_kernels::{DType, KernelError, PackedMatrix};

use super::load::rope_table;
use super::{Decoder, DecoderLayer, Linear, NormWeights};
use crate::{DecoderConfig, ModelError, NormKind, Position};

impl Decoder {
    /// Random weights of `config`'s shape, the same for the same seed.
    ///
    /// They are small enough for activations to stay finite through any number of layers.
    ///
    /// # Errors
    /// Sizes that overflow memory.
    pub fn random(config: &DecoderConfig, dtype: DType, seed: u64) -> Result<Self, ModelError> {
        let mut source = Source { dtype, seed };
        let (hidden, vocabulary) = (config.hidden, config.vocabulary);
        let layer = |source: &mut Source| -> Result<DecoderLayer, KernelError> {
            let head_norm = || config.qk_norm.then(|| vec![1.0; config.head_dim]);
            Ok(DecoderLayer {
                attention_norm: norm(config),
                qkv: source.linear(
                    config.query_width() + 2 * config.key_width(),
                    hidden,
                    config.attention_bias,
                )?,
                query_norm: head_norm(),
                key_norm: head_norm(),
                output: source.linear(hidden, config.query_width(), config.output_bias)?,
                mlp_norm: norm(config),
                up: source.linear(config.up_width(), hidden, config.mlp_bias)?,
                down: source.linear(hidden, config.intermediate, config.mlp_bias)?,
            })
        };
        Ok(Decoder {
            embedding: source.matrix(vocabulary, hidden)?,
            positions: match config.position {
                Position::Learned => Some(source.matrix(config.max_positions, hidden)?),
                Position::Rope(_) => None,
            },
            rope: rope_table(config),
            layers: (0..config.layers).map(|_| layer(&mut source)).collect::<Result<_, _>>()?,
            final_norm: norm(config),
            head: if config.tied_embeddings { None } else { Some(source.matrix(vocabulary, hidden)?) },
            config: config.clone(),
        })
    }
}

fn norm(config: &DecoderConfig) -> NormWeights {
    let (weight, epsilon) = (vec![1.0; config.hidden], config.norm.epsilon);
    match config.norm.kind {
        NormKind::LayerNorm => NormWeights::Layer { weight, bias: vec![0.0; config.hidden], epsilon },
        NormKind::RmsNorm => NormWeights::Rms { weight, epsilon },
    }
}

struct Source {
    dtype: DType,
    seed: u64,
}

impl Source {
    fn matrix(&mut self, outputs: usize, inputs: usize) -> Result<PackedMatrix, KernelError> {
        self.seed = self.seed.wrapping_add(1);
        PackedMatrix::random(outputs, inputs, self.dtype, 0.02, self.seed)
    }

    fn linear(&mut self, outputs: usize, inputs: usize, bias: bool) -> Result<Linear, KernelError> {
        Ok(Linear { weight: self.matrix(outputs, inputs)?, bias: bias.then(|| vec![0.0; outputs]) })
    }
}
